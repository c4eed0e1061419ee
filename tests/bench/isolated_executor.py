"""The executor that ``isolation.py`` measures."""

from __future__ import annotations

from treadle import executor


@executor("bench.nothing", isolation="process")
def nothing() -> int:
    """Do nothing."""
    return 1
