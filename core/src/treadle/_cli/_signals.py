"""What signals do to a run: Ctrl-C cancels it gracefully, twice at once; others suspend one that can be resumed."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Protocol

from treadle._cli._ending import CANCELLED

_PATIENCE_S = 2.0

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # SIGHUP does not exist on Windows


class Cancellable(Protocol):
    """A run that can be told to stop: a RunHandle."""

    @property
    def is_durable(self) -> bool:
        """Whether it can be resumed."""

    @property
    def only_waits(self) -> bool:
        """Whether nothing runs."""

    @property
    def run_id(self) -> str:
        """The run."""

    def suspend(self, reason: str = ...) -> None:
        """Let go of the run so that it can be resumed."""

    def cancel(self, reason: str = ..., *, force: bool = ...) -> None:
        """Ask for the end of the run."""


class Interrupts:
    """Takes the signals of the process while a run goes on; a context manager.

    Plain signal handlers rather than the event loop's: they also run while an executor blocks the loop. Nothing is raised
    from one: an exception anywhere in an event loop leaves it in a state that nobody knows. A signal that comes before the
    run is there waits for it; a second one ends the process.

    Args:
        say: Shows a line to the person; must be safe in a signal handler.
        give_up: Called just before the process ends because the run did not.
    """

    def __init__(self, say: Callable[[str], None], give_up: Callable[[], None]) -> None:
        self._say, self._give_up = say, give_up
        self._count = 0
        self._only_waits = False
        self._early: int | None = None
        self._handle: Cancellable | None = None
        self._post: Callable[[Callable[[], None]], object] | None = None
        self._forced: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._before: dict[int, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not allow it (a test's thread)
            self._before = {number: signal.signal(number, self._received) for number in _SIGNALS}
            # Made now: starting a thread in a signal handler could wait for a lock that the interrupted code holds.
            threading.Thread(target=self._watch, name="treadle-interrupts", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._forced.put(False)

    def attach(self, handle: Cancellable, post: Callable[[Callable[[], None]], object]) -> None:
        """The run has begun; what came before is done to it now.

        Args:
            handle: The run.
            post: Calls a function on the run's event loop soon; must be safe in a signal handler.
        """
        self._handle, self._post = handle, post
        early, self._early = self._early, None
        if early is not None:
            self._act(early, handle, post)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._handle is not None and self._post is not None:
            if self._count == 1:
                self._only_waits = self._handle.only_waits  # then to stop watching it must not end it
            self._act(number, self._handle, self._post)
        elif self._count == 1:
            self._early = number
            self._say(f"{signal.Signals(number).name}: the run is told once it is there. Once more stops at once.")
        else:
            self._end()

    def _act(self, number: int, handle: Cancellable, post: Callable[[Callable[[], None]], object]) -> None:
        name = signal.Signals(number).name
        if handle.is_durable and self._count <= 2 and (number != signal.SIGINT or self._only_waits):
            self._suspend(handle, post, name)
        elif self._count == 1:
            self._say(f"{name}: cancelling; steps that run are told to stop. Once more stops at once.")
            self._cancel(handle, post, name, force=False)
        elif self._count == 2:
            self._say(f"{name} again: stopping at once.")
            self._cancel(handle, post, name, force=True)
            self._forced.put(True)
        else:
            self._end()

    def _suspend(self, handle: Cancellable, post: Callable[[Callable[[], None]], object], name: str) -> None:
        if self._count == 1 and self._only_waits:
            self._say(f"{name}: the run only waits, so it is suspended. To end it instead: treadle cancel {handle.run_id}")
        elif self._count == 1:
            self._say(f"{name}: suspending; steps that run may end first. Once more stops them.")
        else:
            self._say(f"{name} again: stopping at once.")
            self._forced.put(True)
        with suppress(RuntimeError):  # the event loop has just ended, and the run with it
            post(lambda: handle.suspend(f"by {name}"))

    def _cancel(self, handle: Cancellable, post: Callable[[Callable[[], None]], object], name: str, *, force: bool) -> None:
        with suppress(RuntimeError):  # the event loop has just ended, and the run with it
            post(lambda: handle.cancel(f"cancelled by {name}", force=force))

    def _watch(self) -> None:
        """End the process when a run that was told to stop at once does not."""
        if not self._forced.get():
            return
        try:
            self._forced.get(timeout=_PATIENCE_S)
        except queue.Empty:
            self._end()

    def _end(self) -> None:
        try:
            self._give_up()
        finally:
            os._exit(CANCELLED)
