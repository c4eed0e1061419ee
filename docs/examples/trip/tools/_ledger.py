"""The file of bookings: what a booking service would keep."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict


class Booking(TypedDict):
    """One booking."""

    number: str
    what: str
    who: str


@contextmanager
def opened(file: str) -> Iterator[dict[str, Booking]]:
    """The bookings by number, to be changed; written when the block is left without an error."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bookings: dict[str, Booking] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        yield bookings
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(bookings, indent=2) + "\n", "utf-8")
        os.replace(fresh, path)
