"""The clock that runs use unless a test brings its own."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import anyio
import anyio.lowlevel

from treadle.ports import Clock

_latest_s = [0.0]
"""The furthest that any run's seconds have come in this process."""

LONGEST_SLEEP_S = 10.0
"""How long is slept without a look at the clock (C26): a machine that was suspended has its timers fired so soon after."""

_elapsed_s = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
"""Seconds since the machine was started, those in which it was suspended too, where the system can tell."""


class RealClock:
    """Wall time that never jumps: read once, then carried forward by the clock that counts since the machine was started.

    So a wall clock that is set, or put back at the end of summer time, moves no timer of a process that runs. While the machine
    is suspended time goes on, where the system can tell (Linux).

    Args:
        longest_sleep_s: How long is slept without a look at the time.
    """

    def __init__(self, longest_sleep_s: float = LONGEST_SLEEP_S) -> None:
        self._longest_sleep_s = longest_sleep_s
        self._offset = time.time() - _elapsed_s()

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self._offset + _elapsed_s()

    async def sleep_until(self, at: float) -> None:
        """Return at ``at`` or soon after."""
        while (rest := at - self.now()) > 0:  # noqa: ASYNC110 - it is time itself that is waited for
            await anyio.sleep(min(rest, self._longest_sleep_s))
        await anyio.lowlevel.checkpoint()

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
