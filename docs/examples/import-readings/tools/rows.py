"""Read a file of readings."""

from __future__ import annotations

import csv
from pathlib import Path


def rows(file: str) -> list[dict[str, str]]:
    """Every row of a CSV file with a head, as text."""
    with Path(file).open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))
