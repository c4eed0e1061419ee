"""Seconds that go on from one event loop to the next, whatever each loop counts from, and skip when its time skips."""

from __future__ import annotations

import time

import anyio
from anyio.lowlevel import RunVar

_offset: RunVar[float] = RunVar("treadle_breaker_offset")
_latest = [0.0]


def now() -> float:
    """Seconds since some moment of the past; never earlier in a later event loop. Call it inside of one."""
    loop_time = anyio.current_time()
    offset = _offset.get(None)
    if offset is None:
        # trio counts from a number of its own in each run, and virtual time may have run ahead of the real one.
        offset = max(time.monotonic(), _latest[0]) - loop_time
        _offset.set(offset)
    _latest[0] = loop_time + offset
    return _latest[0]
