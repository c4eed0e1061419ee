"""One call that others wait for, whichever event loop of the process they are in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import anyio
from treadle.ports import Json, loop_poster


class Flight:
    """A call whose output others want as well.

    Attributes:
        has_output: Whether it ended with an output that may be given to others.
        output: That output.
        at: When it was made, in seconds since the epoch.
    """

    def __init__(self) -> None:
        self.has_output = False
        self.output: Json = None
        self.at = 0.0
        self._is_over = False
        self._waiting: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    async def landed(self) -> None:
        """Return when it is over."""
        event, post = anyio.Event(), loop_poster()
        with self._lock:
            if self._is_over:
                return
            self._waiting.append(partial(post, event.set))
        await event.wait()

    def land(self, output: Json = None, *, at: float | None = None) -> None:
        """Say that it is over; from any thread, the first time counts.

        Args:
            output: What it gave.
            at: When that was made; None when it may not be given to others.
        """
        with self._lock:
            if self._is_over:
                return
            self._is_over, self.has_output, self.output, self.at = True, at is not None, output, at or 0.0
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            with suppress(RuntimeError):  # its event loop has ended
                wake()
