"""What keeping runs costs, beside raw commits on the same disk. Called by ``run.py`` with a figure's name."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import apsw
from steps import REGISTRY, chain, noop, parallel, timed
from treadle import Plan, Registry, aresume, arun, executor, make_plan
from treadle.ports import Checkpoint, Claim, Commit, NewRun, Rows, RunCreated, RunRow, RunStatus, TimerRow
from treadle_sqlite import SqliteStore

ROUNDS = 7
CHAIN = 100


def raw_commit_us(folder: Path, count: int = 60) -> float:
    """Microseconds of one commit of one row that is synchronised, by the same library: what no durable step can beat."""
    connection = apsw.Connection(str(folder / "raw.db"))
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0"):
        list(connection.execute(f"PRAGMA {pragma}"))
    connection.execute("CREATE TABLE IF NOT EXISTS raw (n INTEGER PRIMARY KEY, body BLOB)")
    began = time.perf_counter()
    for _ in range(count):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO raw (body) VALUES (?)", (b"x" * 400,))
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return took / count * 1e6


async def durable_us(plan: Plan, folder: Path, name: str, max_parallel: int | None = None) -> float:
    """Microseconds per step of one run in a new store."""
    store = SqliteStore(path=folder / f"{name}.db")
    await store.run("none")  # the tables are there
    began = time.perf_counter()
    result = await arun(plan, registry=REGISTRY, store=store, max_parallel=max_parallel)
    took = time.perf_counter() - began
    store.close()
    assert len(result.check().steps) == len(plan.steps)
    return took / len(plan.steps) * 1e6


async def measure_chain(folder: Path) -> dict[str, float]:
    """A chain, in turns with raw commits: a disk that is slow for a while is slow for both."""
    plan = make_plan(chain(CHAIN), REGISTRY)
    await timed(plan)
    raws, steps, ratios = [raw_commit_us(folder)], [], []
    for number in range(ROUNDS):
        steps.append(await durable_us(plan, folder, f"chain{number}"))
        raws.append(raw_commit_us(folder))
        ratios.append(steps[-1] / statistics.mean(raws[-2:]))
    return {"ratio": statistics.median(ratios), "step_us": statistics.median(steps), "raw_us": statistics.median(raws)}


async def measure_dbos(folder: Path) -> dict[str, float]:
    """The same chain here and on DBOS with SQLite, in turns; ``TREADLE_BENCH_DBOS`` is the Python that has it."""
    plan = make_plan(chain(CHAIN), REGISTRY)
    steps, peers, ratios = [], [], []
    for number in range(3):
        steps.append(statistics.median([await durable_us(plan, folder, f"chain{number}-{n}") for n in range(5)]))
        beside = folder / f"dbos{number}"
        beside.mkdir()
        command = [os.environ["TREADLE_BENCH_DBOS"], str(Path(__file__).with_name("dbos_chain.py")), str(beside), str(CHAIN)]
        done = await anyio.run_process(command, cwd=beside)
        peers.append(float(json.loads(done.stdout.decode().strip().splitlines()[-1])["step_us"]))
        ratios.append(steps[-1] / peers[-1])
    return {"ratio": statistics.median(ratios), "step_us": statistics.median(steps), "dbos_us": statistics.median(peers)}


async def measure_parallel(folder: Path) -> dict[str, float]:
    """1,000 steps that need nothing of each other, in turns with raw commits."""
    plan = make_plan(parallel(1000), REGISTRY)
    await timed(plan, 1000)
    raws, steps = [raw_commit_us(folder)], []
    for number in range(ROUNDS):
        steps.append(await durable_us(plan, folder, f"parallel{number}", 1000))
        raws.append(raw_commit_us(folder))
    return {"step_us": statistics.median(steps), "raw_us": statistics.median(raws)}


async def measure_resume(folder: Path) -> dict[str, float]:
    """From ``aresume`` to the first step that it starts, of a run of 10,000 steps of which one is left."""
    reached = anyio.Event()

    @executor("bench.last")
    async def last() -> None:
        reached.set()
        await anyio.sleep_forever()

    workflow = parallel(9_999)
    workflow.step("last", "bench.last", needs=[f"s{n}" for n in range(9_999)])
    registry = Registry.of(noop, last)
    store = SqliteStore(path=folder / "resume.db")
    ids: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(
            partial(
                arun, workflow, registry=registry, store=store, on_start=lambda run: ids.append(run.run_id), max_parallel=500
            )
        )
        await reached.wait()
        group.cancel_scope.cancel()
    times = []
    for _ in range(3):
        reached = anyio.Event()
        began = time.perf_counter()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(aresume, ids[0], registry=registry, store=store))
            await reached.wait()
            times.append(time.perf_counter() - began)
            group.cancel_scope.cancel()
    store.close()
    return {"resume_s": min(times)}


async def measure_memory(folder: Path) -> dict[str, float]:
    """The most that a process holds that runs 10,000 durable steps."""
    imported = _peak_mb()
    await durable_us(make_plan(parallel(10_000), REGISTRY), folder, "memory")
    return {"import_mb": imported, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _new_run(run_id: str) -> NewRun:
    created = RunCreated(time.time(), run_id, {"name": "w"}, "hash", {})
    row = RunRow(run_id, "w", "hash", RunStatus.RUNNING, "python", "", time.time())
    return NewRun(Commit(run_id, 1, 1, [created], Rows(run=row)), row, "print", "host:1@x")


async def measure_store(folder: Path) -> dict[str, float]:
    """Single writes and questions, 95 of 100."""
    store = SqliteStore(path=folder / "store.db")
    await store.create(_new_run("r"))
    claim = Claim("r", "host:1@x", 1)
    data = {"text": "x" * 5_000}
    times: dict[str, list[float]] = {"save": [], "load": [], "beat": []}
    for seq in range(1, 200):
        began = time.perf_counter()
        await store.save(claim, Checkpoint("a", None, "primary", f"t{seq}", data, seq, time.time()))
        times["save"].append(time.perf_counter() - began)
        began = time.perf_counter()
        assert await store.load("r", "a") is not None
        times["load"].append(time.perf_counter() - began)
        began = time.process_time()
        await anyio.to_thread.run_sync(store.beat, claim)
        times["beat"].append(time.process_time() - began)
    due = [TimerRow("r", f"t{n}", f"s{n}", None, "custom", time.time() + n, "pending", time.time()) for n in range(10_000)]
    await store.commit(Commit("r", 1, 2, [RunCreated(time.time(), "r", {}, "hash", {})], Rows(timers=tuple(due))))
    began = time.perf_counter()
    waiting = [timer for timer in await store.timers("r") if timer.status == "pending"]
    check = time.perf_counter() - began
    assert len(waiting) == 10_000
    store.close()
    p95 = {name: sorted(all_)[int(len(all_) * 0.95)] * 1e3 for name, all_ in times.items()}
    return {**{f"{name}_ms": value for name, value in p95.items()}, "timers_ms": check * 1e3, "raw_us": raw_commit_us(folder)}


WRITER = """
import sys, time
import anyio
sys.path.insert(0, {here!r})
from durable import _new_run
from treadle.ports import Commit, Rows, SignalReceived
from treadle_sqlite import SqliteStore
async def main(run_id):
    store = SqliteStore(path={path!r})
    await store.create(_new_run(run_id))
    worst, seq, until = 0.0, 2, time.monotonic() + 4.0
    while time.monotonic() < until:
        began = time.monotonic()
        await store.commit(Commit(run_id, 1, seq, [SignalReceived(0.0, "x")], Rows()))
        worst, seq = max(worst, time.monotonic() - began), seq + 1
    store.close()
    print(seq, worst)
anyio.run(main, sys.argv[1])
"""


async def measure_writers(folder: Path) -> dict[str, float]:
    """Eight processes that write as fast as they can."""
    path = folder / "writers.db"
    store = SqliteStore(path=path)
    await store.create(_new_run("first"))
    store.close()
    code = WRITER.format(here=str(Path(__file__).parent), path=str(path))
    served: list[list[str]] = []

    async def write(number: int) -> None:
        done = await anyio.run_process([sys.executable, "-c", code, f"w{number}"])
        served.append(done.stdout.decode().split())

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(write, number)
    counts = [float(count) for count, _ in served]
    return {"worst_s": max(float(worst) for _, worst in served), "fairness": min(counts) / max(counts)}


def main(figure: str) -> None:
    """Measure and print."""
    measure: Callable[[Path], object] = globals()[f"measure_{figure}"]
    with tempfile.TemporaryDirectory(prefix="treadle-bench-", dir=os.environ.get("TREADLE_BENCH_DISK")) as folder:
        print(json.dumps(anyio.run(measure, Path(folder))))  # type: ignore[arg-type]  # an async function


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main(sys.argv[1])
