"""Hold the branch coverage of each module of core against its floor: ``coverage_floors.py .coverage.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path, PurePosixPath

FLOOR = 80.0
"""Percent that every module has at least."""

FLOORS = {
    "_expressions": 90.0,
    "_conductor": 90.0,
    "_retries": 95.0,
    "_scheduler": 85.0,
    "_driver": 85.0,
}
"""Percent for the modules that hold a run together."""


def below(report: dict[str, dict[str, dict[str, dict[str, float]]]]) -> list[str]:
    """The modules of a coverage report that are under their floor, one line each."""
    found = []
    for file, entry in sorted(report["files"].items()):
        covered = entry["summary"]["percent_covered"]
        floor = FLOORS.get(PurePosixPath(file).stem, FLOOR)
        if covered < floor:
            found.append(f"{file}: {covered:.1f} % of lines and branches are covered, {floor:g} % is the floor")
    return found


def main(path: str) -> int:
    """Print what is below its floor; 1 when anything is."""
    found = below(json.loads(Path(path).read_text("utf-8")))
    print(*found or ["every module is above its floor"], sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
