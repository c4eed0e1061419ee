"""Live progress: a sink that only queues, and a thread of its own that shows what was queued.

The run must never wait for a terminal or a full pipe, so ``record_event`` puts the record into a queue and returns.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol, TextIO

from treadle._cli._output import mark, paint, write
from treadle._cli._view import Change, RunView
from treadle._log_records import JsonLogFormatter
from treadle.hookspecs import hookimpl
from treadle.ports import Call, Record

_REFRESH_S = 0.1
_BATCH = 5_000

Progressed = tuple[str, float, float | None, str]
"""Step, done, total and message, as an executor said them."""


class Display(Protocol):
    """Where changes are shown."""

    def show(self, view: RunView, changes: Iterable[Change | str]) -> None:
        """Show what is new; a text is a line of somebody else's (a log record)."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Progress:
    """The sink of a run and the thread that shows it; a context manager.

    Args:
        display: Where to.
        is_kept: Whether other commands can reach the run.
    """

    def __init__(self, display: Display, *, is_kept: bool = False) -> None:
        self._display = display
        self._queue: queue.SimpleQueue[Record | list[Record] | Progressed | str | None] = queue.SimpleQueue()
        self._view = RunView(is_kept)
        self._is_watched = True
        self._thread = threading.Thread(target=self._work, name="treadle-progress", daemon=True)

    @hookimpl
    def record_event(self, record: Record) -> None:
        """Queue a record of the run's log."""
        if self._is_watched:
            self._queue.put(record)

    def progress(self, call: Call, done: float, total: float | None = None, message: str = "") -> None:
        """Queue what an executor says of its own progress."""
        if call.index is None:
            self._queue.put((call.path, done, total, message))

    def line(self, text: str) -> None:
        """Queue a line of text. Safe in a signal handler: ``SimpleQueue.put`` is reentrant."""
        self._queue.put(text)

    def catch_up(self, records: Sequence[Record]) -> None:
        """Know what earlier stints of the run recorded, without showing it."""
        self._queue.put(list(records))

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self, timeout_s: float = 2.0) -> None:
        """Show what is queued, then leave the terminal as it was; at most ``timeout_s`` for a reader that does not read."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        try:
            going_on = True
            while going_on:
                batch, going_on = self._batch()
                self._display.show(self._view, self._apply(batch))
        except (OSError, ValueError):  # the reader has gone, or the stream is closed: the run goes on without being watched
            self._is_watched = False
        finally:
            self._display.close()

    def _batch(self) -> tuple[list[Record | list[Record] | Progressed | str], bool]:
        """What was queued within a refresh interval, and whether more may come."""
        batch: list[Record | list[Record] | Progressed | str] = []
        until = time.monotonic() + _REFRESH_S
        while len(batch) < _BATCH:
            try:
                queued = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if queued is None:
                return batch, False
            batch.append(queued)
        return batch, True

    def _apply(self, batch: Iterable[Record | list[Record] | Progressed | str]) -> list[Change | str]:
        changes: list[Change | str] = []
        for queued in batch:
            if isinstance(queued, str):
                changes.append(queued)
            elif isinstance(queued, list):
                for record in queued:
                    self._view.apply(record)
            elif isinstance(queued, tuple):
                self._view.progressed(*queued)
            else:
                changes.extend(self._view.apply(queued))
        return changes


class PlainDisplay:
    """One line per change of state, never cut: for pipes, files and build logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, view: RunView, changes: Iterable[Change | str]) -> None:
        """Write the new lines at once."""
        lines = [change if isinstance(change, str) else self._line(change) for change in changes]
        if lines:
            write("\n".join(lines), self._stream)

    def _line(self, change: Change) -> str:
        return f"{stamp(change.at)} {paint(f'{mark(change.status, self._stream)} {change.text}', change.status, self._stream)}"

    def close(self) -> None:
        """Nothing to put back."""


class JsonDisplay:
    """One JSON object per change of state."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._formatter = JsonLogFormatter()

    def show(self, view: RunView, changes: Iterable[Change | str]) -> None:
        """Write the new lines at once."""
        lines = [change if isinstance(change, str) else self._line(view, change) for change in changes]
        if lines:
            write("\n".join(lines), self._stream)

    def _line(self, view: RunView, change: Change) -> str:
        """The change as a log record would be written, so that a reader needs one parser only."""
        calm = change.status in _CALM
        fields = {
            "name": "treadle.run",
            "created": change.at,
            "levelname": "INFO" if calm else "WARNING",
            "msg": change.text,
            "trace_id": view.trace_id or None,
            "run_id": view.run_id or None,
            "workflow": view.workflow or None,
            "step": change.step or None,
            "index": change.index,
            "event": change.event,
            "status": change.status,
        }
        return self._formatter.format(logging.makeLogRecord(fields))

    def close(self) -> None:
        """Nothing to put back."""


_CALM = ("running", "completed", "cached", "skipped")


def stamp(at: float) -> str:
    """A time of day for people, in their own zone."""
    return time.strftime("%H:%M:%S", time.localtime(at))
