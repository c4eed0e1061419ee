"""Time that leaps ahead once something has happened: deadlines are met by facts, on however busy a machine."""

from __future__ import annotations

from collections.abc import Callable

from treadle._clock import RealClock

HOUR = 3600.0


class Leaping(RealClock):
    """Real time, and an hour more for each thing that has happened.

    A deadline of an hour is then met as soon as the first one has, and not before.

    Args:
        count: How many things have happened so far; whether the only one has.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        super().__init__(longest_sleep_s=0.01)
        self._count, self._most = count, 0

    def now(self) -> float:
        """Seconds since the epoch, with the hours that were leapt over."""
        self._most = max(self._most, self._count())
        return super().now() + HOUR * self._most
