"""What executors log and print, on its way into the store: kept per attempt, so that it can be read later and elsewhere.

A run's lines are written by a thread of their own, in batches, so that neither a step nor a commit waits for them, and they
can be followed while a step blocks the event loop.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, TextIO

from treadle._log_records import current_call
from treadle._models import Call
from treadle._secrets import hide
from treadle._store_records import LogLine
from treadle.errors import TreadleError
from treadle.ports import Store

__all__ = ["HANDLER", "KEPT_FROM", "KeptPrints", "LineKeeper", "StepLog", "kept_level", "kept_lines", "log_line"]

KEPT_FROM = logging.INFO
"""The lowest level that is kept of what ``ctx.log`` takes, whatever is shown."""

MOST_LINES = 10_000
"""Most lines of one attempt that are kept."""

MOST_CHARACTERS = 4_000_000
"""Most characters of one attempt that are kept."""

LONGEST_LINE = 16_384
"""Characters of one line that are kept."""

_BATCH = 1_000
_BATCH_S = 0.2
_MOST_WAITING = 20_000
_COUNTED = 10_000

_log = logging.getLogger("treadle.lines")

_Attempt = tuple[str, int | None, str, int, int]


class LineKeeper:
    """Keeps the lines of one run; its thread starts with the first of them.

    Args:
        store: Where.
        run_id: The run.
        now: The run's time.
        secret_values: The values of a call's secrets, which are hidden.
        redact: Takes out of a line what else must not be kept.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        *,
        now: Callable[[], float],
        secret_values: Callable[[Call], Sequence[str]],
        redact: Callable[[str], str] = str,
    ) -> None:
        self._store, self._run_id, self._now, self._secret_values = store, run_id, now, secret_values
        self._redact = redact
        self._queue: queue.SimpleQueue[LogLine | None] = queue.SimpleQueue()
        self._counts: dict[_Attempt, tuple[int, int]] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_closed = self._is_complained = False
        self._dropped = 0

    def keep(self, record: logging.LogRecord, call: Call) -> None:
        """Keep a log record of a call; from any thread, at once."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        secrets = self._secret_values(call) if call.secrets else ()
        self._put(call, record.levelno, record.name, str(getattr(record, "stream", "")), self._redact(hide(text, secrets)))

    def _put(self, call: Call, level: int, logger: str, stream: str, text: str) -> None:
        text = _storable(text)
        attempt = (call.path, call.index, call.variant, call.attempt, call.stint)
        with self._lock:
            if self._is_closed:
                return
            lines, characters = self._counts.get(attempt, (0, 0))
            if lines > MOST_LINES:
                return
            if lines == MOST_LINES or characters > MOST_CHARACTERS:
                lines, level, stream, text = MOST_LINES, logging.WARNING, "", f"(more than {_most()}; the rest is not kept)"
            self._counts[attempt] = (lines + 1, characters + len(text))
            if len(self._counts) > _COUNTED:
                del self._counts[next(iter(self._counts))]
            if self._queue.qsize() > _MOST_WAITING:
                self._dropped += 1
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"treadle-lines {self._run_id}", daemon=True)
                self._thread.start()
            line = LogLine(
                self._now(), call.path, call.index, call.attempt, level, text, logger, stream, call.variant, call.stint,
                call.generation,
            )  # fmt: skip
            self._queue.put(line)

    def close(self, timeout_s: float = 5.0) -> None:
        """Keep what waits, and nothing more."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join(timeout_s)

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._batch()
            if not batch:
                continue
            try:
                self._store.keep_lines(self._run_id, batch)
            except TreadleError as error:
                self._complain(len(batch), error.problem)
        if self._dropped:
            self._complain(self._dropped, "they came faster than the store takes them")

    def _batch(self) -> tuple[list[LogLine], bool]:
        """What came within a moment, and whether more may come."""
        batch: list[LogLine] = []
        line = self._queue.get()
        until = time.monotonic() + _BATCH_S
        while line is not None:
            batch.append(line)
            if len(batch) >= _BATCH:
                return batch, True
            try:
                line = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return batch, True
        return batch, False

    def _complain(self, count: int, why: str) -> None:
        if not self._is_complained:
            self._is_complained = True
            _log.warning("run %s: %d lines that its steps logged could not be kept: %s", self._run_id, count, why)


def _most() -> str:
    return f"{MOST_LINES:,} lines or {MOST_CHARACTERS:,} characters"


def _storable(text: str) -> str:
    """A text that every store can keep: neither NUL nor half a surrogate pair, and not longer than a line may be."""
    if len(text) > LONGEST_LINE:
        text = f"{text[:LONGEST_LINE]}... ({len(text) - LONGEST_LINE:,} more characters)"
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\0", "\\x00")


# -- which records are a run's -------------------------------------------------------------------------------------------

_keepers: dict[str, LineKeeper] = {}


def _keeper(call: Call | None) -> LineKeeper | None:
    return _keepers.get(call.run_id) if call is not None and _keepers else None


class _Handler(logging.Handler):
    """Hands records that were logged within a call to the keeper of its run."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record, once, though it may come by two loggers; never failing."""
        if getattr(self._seen, "record", None) is record:
            return
        self._seen.record = record
        call = current_call.get()
        keeper = _keeper(call)
        try:
            if keeper is not None and call is not None and record.levelno >= KEPT_FROM:
                keeper.keep(record, call)
        except Exception:  # logging's own rule: a record that cannot be kept is reported, never raised
            self.handleError(record)
        if _is_only(self, record.name) and logging.lastResort and record.levelno >= logging.lastResort.level:
            logging.lastResort.handle(record)  # what logging does for an application that has set nothing up


def _is_only(handler: logging.Handler, name: str) -> bool:
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(other is not handler for other in logger.handlers):
            return False
        logger = logger.parent if logger.propagate else None
    return True


HANDLER = _Handler()
"""Keeps what is logged within calls of runs that keep lines. On the logger ``treadle`` while a run goes on; the command adds
it to the root logger, too."""


@contextlib.contextmanager
def kept_lines(keeper: LineKeeper, run_id: str) -> Iterator[None]:
    """Keep the lines of a run during the block."""
    ours = logging.getLogger("treadle")
    _keepers[run_id] = keeper
    if HANDLER not in ours.handlers:
        ours.addHandler(HANDLER)
    try:
        yield
    finally:
        del _keepers[run_id]
        if not _keepers:
            ours.removeHandler(HANDLER)
        keeper.close()


# -- what executors are given --------------------------------------------------------------------------------------------


class StepLog(logging.LoggerAdapter[logging.Logger]):
    """``ctx.log``: logs as usual, and keeps what is logged from INFO on, also what nobody shows.

    Args:
        executor: The logger is named after it.
    """

    def __init__(self, executor: str) -> None:
        super().__init__(logging.getLogger(f"treadle.step.{executor}"), {})

    def isEnabledFor(self, level: int) -> bool:
        """Whether a record of this level is shown or kept."""
        return self.logger.isEnabledFor(level) or _is_kept(level)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a record; ``extra`` reaches it."""
        if self.logger.isEnabledFor(level):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # this function is nobody's
            self.logger.log(level, msg, *args, **kwargs)
        elif _is_kept(level):
            extra = kwargs.get("extra")
            HANDLER.handle(_record(self.logger.name, level, msg, args, kwargs.get("exc_info"), extra))

    def process(self, msg: object, kwargs: MutableMapping[str, object]) -> tuple[object, MutableMapping[str, object]]:
        """Change nothing."""
        return msg, kwargs


def _record(name: str, level: int, msg: object, args: tuple[object, ...], exc_info: object, extra: object) -> logging.LogRecord:
    if exc_info is True:
        import sys  # only for a record that nobody shows

        exc_info = sys.exc_info()
    elif isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    fields: Mapping[str, object] | None = extra if isinstance(extra, Mapping) else None
    return logging.getLogger(name).makeRecord(name, level, "", 0, msg, args, exc_info or None, None, fields)  # type: ignore[arg-type]  # logging's shapes


def _is_kept(level: int) -> bool:
    return level >= KEPT_FROM and _keeper(current_call.get()) is not None


def log_line(name: str, level: int, text: str, stream: str = "", *, path: str = "", number: int = 0) -> None:
    """Log a text that came from elsewhere: shown if the logger of that name shows it, kept if it is a call's."""
    logger = logging.getLogger(name)
    is_shown = logger.isEnabledFor(level)
    if is_shown or _is_kept(level):
        extra = {"stream": stream} if stream else None
        record = logger.makeRecord(name, level, path, number, "%s", (text,), None, None, extra)
        (logger if is_shown else HANDLER).handle(record)


def kept_level(name: str) -> int:
    """The lowest level of which records of a logger are shown or kept: what another process that performs a call sends."""
    shown = logging.getLogger(name).getEffectiveLevel()
    return min(shown, KEPT_FROM) if _keeper(current_call.get()) is not None else shown


class KeptPrints:
    """A text stream that passes everything on, and keeps the lines that calls print on it.

    Args:
        stream: Where what is printed goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begun: dict[_Attempt, str] = {}

    def write(self, text: str) -> int:
        """Print."""
        call = current_call.get()
        keeper = _keeper(call)
        if keeper is not None and call is not None:
            attempt = (call.path, call.index, call.variant, call.attempt, call.stint)
            *lines, rest = (self._begun.pop(attempt, "") + text).split("\n")
            for line in lines:
                keeper.keep(logging.makeLogRecord({"levelno": KEPT_FROM, "msg": line, "name": "", "stream": "stdout"}), call)
            if rest:  # of an attempt that ends so, it is not kept
                self._begun[attempt] = rest[:LONGEST_LINE]
        return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Print each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
