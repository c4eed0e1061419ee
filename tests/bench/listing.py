"""Lists of 100,000 kept runs: each filter, the deepest page, and the whole command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import apsw
from treadle.ports import Commit, NewRun, RunCreated, RunPage, RunQuery, RunRow, RunStatus
from treadle_sqlite import SqliteStore

COUNT = 100_000
AT = 1_767_225_600.0
STATUSES = [status.value for status in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.RUNNING)]
RARE = 5_000
"""One run in so many is of the workflow that is asked for, and has failed."""


def fill(folder: Path) -> Path:
    """A store of many runs; the rows alone, which is all that lists read."""
    file = folder / "treadle" / "runs.db"
    store = SqliteStore(path=file)
    created = RunCreated(AT, "first", {"name": "often", "steps": {}}, "hash", {})
    row = RunRow("first", "often", "hash", RunStatus.COMPLETED, "cli", "", AT)
    anyio.run(store.create, NewRun(Commit("first", 1, 1, [created], None), row, "print", "host:1"))
    store.close()
    connection = apsw.Connection(str(file))
    names = [str(found[1]) for found in connection.execute("PRAGMA table_info(runs)")]
    place = {name: number for number, name in enumerate(names)}
    model = list(connection.execute("SELECT * FROM runs").fetchone())  # type: ignore[arg-type]  # there is one

    def rows() -> Iterator[list[object]]:
        for number in range(COUNT):
            values = list(model)
            values[place["run_id"]] = f"{int((AT + number) * 1000):012x}-{number:012x}"
            values[place["created_at"]] = AT + number
            values[place["status"]] = STATUSES[number % 10 % 4 if number % 10 < 4 else 0]
            values[place["workflow"]] = "often" if number % RARE else "rare"
            yield values

    marks = ", ".join("?" for _ in names)
    with connection:
        connection.executemany(f"INSERT INTO runs VALUES ({marks})", rows())
    connection.close()
    return file


def pages(file: Path) -> Iterator[tuple[str, float]]:
    """Milliseconds of a page, the best of some, by what is asked for."""
    deep = f"{AT + COUNT / 100!r} 0"
    queries = {
        "newest": RunQuery(limit=20),
        "status": RunQuery(statuses=(RunStatus.FAILED,), limit=20),
        "two_statuses": RunQuery(statuses=(RunStatus.FAILED, RunStatus.CANCELLED), limit=20),
        "workflow": RunQuery(workflow="rare", limit=20),
        "range": RunQuery(since=AT + 10, until=AT + 40_000, limit=20),
        "no_match": RunQuery(statuses=(RunStatus.FAILED,), workflow="rare", limit=20),
        "prefix": RunQuery(prefix=f"{int((AT + 500) * 1000):012x}", limit=20),
        "deep": RunQuery(cursor=deep, limit=20),
    }
    store = SqliteStore(path=file)

    async def measure() -> list[tuple[str, float]]:
        found = []
        for name, query in queries.items():
            times = []
            for _ in range(5):
                begun = time.perf_counter()
                page: RunPage = await store.runs(query)
                times.append(time.perf_counter() - begun)
            assert page.runs or name == "no_match"
            found.append((name, min(times) * 1000))
        return found

    yield from anyio.run(measure)
    store.close()


def command(folder: Path) -> float:
    """Milliseconds of ``treadle runs``, the best of some."""
    words = [sys.executable, "-m", "treadle._cli", "runs", "--json"]
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        done = subprocess.run(words, env={**os.environ, "XDG_STATE_HOME": str(folder)}, capture_output=True, check=True)
        times.append(time.perf_counter() - begun)
        assert len(json.loads(done.stdout)["runs"]) == 20
    return min(times) * 1000


def main() -> None:
    """Print one JSON object."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = fill(folder)
        print(json.dumps({**dict(pages(file)), "command": command(folder)}))


if __name__ == "__main__":
    main()
