"""What timers cost, as one JSON object: 10,000 pending in a store, and the fire of one in a run.

    python tests/bench/timers.py [sqlite|memory]

check_ms: finding the due ones of 10,000 pending timers (median of 50). fire_ms: from the moment a timer is due until its step's
next attempt is entered, everything committed (median of 100, the best of five times: in the others the process may have waited
for the machine). late_ms: how late a wait of a second is at most.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import anyio
from treadle import Registry, TransientError, Workflow, arun, executor
from treadle._log_rows import LogRows
from treadle._memory import MemoryStore
from treadle.ports import (
    AttemptEnded,
    AttemptStarted,
    Claim,
    Commit,
    Entry,
    NewRun,
    Outcome,
    RetryAfter,
    RetryScheduled,
    RunCreated,
    StintOpened,
    Store,
    TimerFired,
    WaitEnded,
    WaitStarted,
)

PENDING = 10_000
RUNS = 100


def make_store(kind: str, folder: str) -> Store:
    if kind == "memory":
        return MemoryStore()
    from treadle_sqlite import SqliteStore

    return SqliteStore(path=Path(folder) / "runs.db")


async def fill(store: Store, now: float) -> None:
    """Runs that wait for their retries, each with its share of the timers; one in a hundred is due."""
    for number in range(RUNS):
        await one_run(store, number, now)


async def one_run(store: Store, number: int, now: float) -> None:
    run_id = f"r{number:04}"
    rows = LogRows()
    entries: list[Entry] = [RunCreated(now, run_id, {"name": "w", "steps": {}}, "hash", {})]
    rows.apply(entries[0])
    first = rows.take()
    assert first.run is not None
    made = await store.create(NewRun(Commit(run_id, 1, 1, entries, first), first.run, "", f"host:{number}", 3600.0))
    assert isinstance(made.claim, Claim)
    entries = [StintOpened(now, 1)]
    for index in range(PENDING // RUNS):
        due = now - 1 if index == 0 else now + 3600 + index
        failed = Outcome("failed", retry=RetryAfter(1.0))
        entries += [AttemptStarted(now, "s", index, 1), AttemptEnded(now, "s", index, 1, failed)]
        entries.append(RetryScheduled(now, "s", index, 1, 3, due, "may help"))
    for entry in entries:
        rows.apply(entry)
    await store.commit(Commit(run_id, 1, 2, entries, rows.take() if store.wants_rows else None))


async def check(store: Store, now: float) -> float:
    """Milliseconds to find what is due, and when the next one is."""
    took = []
    for _ in range(50):
        begun = time.perf_counter()
        due = await store.pending_timers(until=now, limit=PENDING)
        await store.pending_timers(limit=1)
        took.append(time.perf_counter() - begun)
        assert len(due) == RUNS
    return statistics.median(took) * 1000


async def fire(store: Store) -> tuple[float, float]:
    """Milliseconds from due to entered again, of a hundred items; and how late waits are at most."""
    entered: dict[int, float] = {}

    @executor("flaky")
    async def flaky(number: int) -> None:
        if number in entered:
            entered[number] = time.time()
            return
        entered[number] = 0.0
        raise TransientError("not yet")

    wf = Workflow("w", max_parallel=200)
    wf.step(
        "s", "flaky", foreach=list(range(100)), number="${{ item }}", retry={"max_attempts": 2, "delays": ["1s"], "jitter": 0}
    )
    for number in range(20):
        wf.wait(f"w{number}", "1s")
    result = await arun(wf, registry=Registry.of(flaky), store=store)
    due = {entry.index: entry.due for entry in result.entries if isinstance(entry, RetryScheduled)}
    ends = {entry.path: entry.due for entry in result.entries if isinstance(entry, WaitStarted)}
    late = [entry.at - (ends[entry.path] or 0.0) for entry in result.entries if isinstance(entry, WaitEnded)]
    assert sum(isinstance(entry, TimerFired) for entry in result.entries) == 120
    return statistics.median(entered[index] - due[index] for index in range(100)) * 1000, max(late) * 1000


def main() -> None:
    """Measure and print."""
    kind = sys.argv[1] if len(sys.argv) > 1 else "sqlite"
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(kind, folder)
        now = time.time()
        anyio.run(fill, store, now)
        check_ms = anyio.run(check, store, now)
        fires = [anyio.run(fire, store) for _ in range(5)]
        store.close()
    fire_ms, late_ms = min(fired for fired, _ in fires), max(late for _, late in fires)
    print(json.dumps({"check_ms": round(check_ms, 3), "fire_ms": round(fire_ms, 3), "late_ms": round(late_ms, 3)}))


if __name__ == "__main__":
    main()
