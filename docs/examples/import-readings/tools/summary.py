"""Look at what was loaded."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TypedDict


class Summary(TypedDict):
    """The extremes, in degrees Celsius, and how many readings there are."""

    readings: int
    coldest: float
    warmest: float


def summary(database: str) -> Summary:
    """Sum up the readings of a database."""
    with closing(sqlite3.connect(database)) as connection:
        count, coldest, warmest = connection.execute("SELECT count(*), min(celsius), max(celsius) FROM readings").fetchone()
    return {"readings": count, "coldest": coldest, "warmest": warmest}
