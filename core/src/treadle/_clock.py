"""The clock that runs use unless a test brings its own."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import anyio


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
