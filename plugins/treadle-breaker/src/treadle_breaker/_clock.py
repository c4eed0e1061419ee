"""Seconds that go on from one event loop to the next, whatever each loop counts from, and skip when its time skips."""

from __future__ import annotations

import time

import anyio
from anyio.lowlevel import RunVar

_MOST_RUNS = 1_000

_offset: RunVar[float] = RunVar("treadle_breaker_offset")
_latest = [0.0]


class RunClock:
    """Seconds since some moment of the past; never earlier in a later event loop. To be read inside of one.

    A run lives in one event loop, and looking up its offset by its id is faster than asking for the loop.
    """

    def __init__(self) -> None:
        self._offsets: dict[str, float] = {}

    def now(self, run_id: str) -> float:
        """The time, read by a call of this run."""
        offset = self._offsets.get(run_id)
        if offset is None:
            offset = self._find(run_id)
        at = _latest[0] = anyio.current_time() + offset
        return at

    def _find(self, run_id: str) -> float:
        offset = _offset.get(None)
        if offset is None:
            # trio counts from a number of its own in each run, and virtual time may have run ahead of the real one.
            offset = max(time.monotonic(), _latest[0]) - anyio.current_time()
            _offset.set(offset)
        if len(self._offsets) >= _MOST_RUNS:
            self._offsets.clear()
        self._offsets[run_id] = offset
        return offset
