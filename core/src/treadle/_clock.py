"""The clock that runs use unless a test brings its own."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import anyio

from treadle.ports import Clock

_latest_s = [0.0]
"""The furthest that any run's seconds have come in this process."""


class RealClock:
    """Wall time that never jumps: read once, then carried forward by the monotonic clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self._offset + time.monotonic()

    async def sleep_until(self, at: float) -> None:
        """Return at ``at`` or soon after."""
        await anyio.sleep(max(0.0, at - self.now()))

    def hold(self) -> AbstractContextManager[None]:
        """Nothing to hold: real time does not skip."""
        return nullcontext()


class SteadySeconds:
    """Seconds that only go forward: those of one run's clock, going on from where the runs before it came to.

    Neither a wall clock that is set back between two runs nor virtual time that ran ahead makes a later run's seconds smaller.

    Args:
        clock: The run's.
    """

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        self._offset = max(time.monotonic(), _latest_s[0]) - clock.now()

    def __call__(self) -> float:
        """Seconds since some moment of the past."""
        at = self._now() + self._offset
        if at > _latest_s[0]:
            _latest_s[0] = at
        return at
