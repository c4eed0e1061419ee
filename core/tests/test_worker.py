"""Workers: runs that nobody drives are taken up, each by one, and let go of again when the worker is told to stop."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

import anyio
import pytest
from treadle import Registry, Workflow, arun, asend_signal, executor
from treadle._config import Config
from treadle._memory import MemoryStore
from treadle._models import RunStatus, StintOpened
from treadle._results import RunResult
from treadle._worker import Worker
from treadle.errors import RunSuspendedError, StoreUnavailableError
from treadle.ports import BeatRow, Claim, Commit, Context, Rows, RunPage, RunQuery

pytestmark = pytest.mark.anyio

QUICK = Config(run={"beat": 0.1})
"""A claim is lost in time when it should be, and by no pause of the machine."""


class SharedStore(MemoryStore):
    """Counts as durable. A process that crashes leaves its run as it is, with its lease."""

    is_durable = True

    def __init__(self) -> None:
        super().__init__()
        self.crashed: set[str] = set()
        self.is_away = False

    async def commit(self, commit: Commit) -> None:
        run = self._runs[commit.run_id]
        if run.owner in self.crashed:
            raise StoreUnavailableError("crashed")
        await super().commit(commit)

    def beat(self, claim: Claim, steps: Sequence[BeatRow] = ()) -> None:
        if claim.owner in self.crashed:
            raise StoreUnavailableError("crashed")
        super().beat(claim, steps)

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        if claim.owner not in self.crashed:
            await super().release(claim, rows)

    async def runs(self, query: RunQuery) -> RunPage:
        if self.is_away:
            raise StoreUnavailableError("away")
        return await super().runs(query)

    def crash(self, run_id: str) -> None:
        self.crashed.add(self._runs[run_id].owner)

    def end_leases(self) -> None:
        """Let the time be over for which those that crashed had claimed their runs."""
        for run in self._runs.values():
            if run.owner in self.crashed:
                run.lease_until = 0.0


ran = Counter[str]()


@executor("demo.work")
async def work(ctx: Context, /, seconds: float = 0.0) -> str:
    """Note that it ran, and sleep."""
    ran[f"{ctx.run_id} {ctx.step}"] += 1
    await anyio.sleep(seconds)
    return ctx.step


async def orphan(store: SharedStore, number: int, *, seconds: float = 0.0, lease_s: float | None = None) -> str:
    """A run whose process crashed while its second step ran; its lease is over, unless it is given."""

    @executor("demo.crash")
    async def crash(ctx: Context, /) -> str:
        if ctx.call.stint == 1:
            store.crash(ctx.run_id)
        return ctx.step

    workflow = Workflow(f"w{number}")
    workflow.step("a", "demo.work", seconds=seconds)
    workflow.step("b", "demo.crash", needs=["a"])
    workflow.step("c", "demo.work", needs=["b"], seconds=seconds)
    registry = Registry.of(work, crash, config=QUICK if lease_s is None else Config(run={"beat": 0.1, "lease": lease_s}))
    with pytest.raises(StoreUnavailableError):
        await arun(workflow, registry=registry, store=store)
    if lease_s is None:
        store.end_leases()
    return (await store.runs(RunQuery(limit=1))).runs[0].run_id


def full(store: SharedStore, **more: object) -> tuple[Worker, list[RunResult]]:
    """A worker that knows all executors, and what it brought to an end."""

    @executor("demo.crash")
    async def crash(ctx: Context, /) -> str:
        return ctx.step

    results: list[RunResult] = []
    registry = Registry.of(work, crash, config=QUICK)
    made = Worker(store, registry, poll_s=0.05, on_end=results.append, **more)  # type: ignore[arg-type]  # of the right types
    return made, results


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition of other tasks."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - many conditions, none of them an event
            await anyio.sleep(0.005)


async def test_runs_of_crashed_processes_are_taken_up_in_time() -> None:
    """Each orphaned run is started within lease, poll and grace, and brought to its end once (G9)."""
    store = SharedStore()
    ran.clear()
    runs = [await orphan(store, number, lease_s=1.0) for number in range(5)]
    crashed_at = time.monotonic()
    worker, results = full(store)

    async with anyio.create_task_group() as group:
        group.start_soon(worker.work)
        await until(lambda: len(results) == 5)
        took = time.monotonic() - crashed_at
        worker.suspend()

    assert {result.run_id for result in results} == set(runs)
    assert {result.status for result in results} == {RunStatus.COMPLETED}
    assert set(ran.values()) == {1}, "what was acknowledged does not run again"
    assert took < 1.0 + 2 * 0.05 + 10.0


async def test_workers_share_a_store_without_getting_in_each_others_way() -> None:
    """Of several workers one gets a run; no step runs twice, and no run is left over."""
    store = SharedStore()
    ran.clear()
    runs = [await orphan(store, number, seconds=0.005) for number in range(12)]
    workers = [full(store, concurrency=3) for _ in range(4)]

    async with anyio.create_task_group() as group:
        for worker, _ in workers:
            group.start_soon(worker.work)
        await until(lambda: sum(len(results) for _, results in workers) == 12)
        for worker, _ in workers:
            worker.suspend()

    ended = Counter(result.run_id for _, results in workers for result in results)
    assert ended == dict.fromkeys(runs, 1)
    assert set(ran.values()) == {1}
    for run_id in runs:
        stints = [record.entry for record in await store.read(run_id) if isinstance(record.entry, StintOpened)]
        assert [stint.stint for stint in stints] == [1, 2]


async def test_a_worker_drives_no_more_runs_at_once_than_it_may() -> None:
    """Concurrency is a cap; the rest wait for their turn."""
    store = SharedStore()
    for number in range(6):
        await orphan(store, number, seconds=0.02)
    worker, results = full(store, concurrency=2)
    most = 0

    async with anyio.create_task_group() as group:
        group.start_soon(worker.work)
        while len(results) < 6:
            most = max(most, len(worker._driven))
            await anyio.sleep(0.001)
        worker.suspend()

    assert most == 2


async def test_once_takes_up_what_there_is_and_ends() -> None:
    """For a scheduler that starts a worker now and then."""
    store = SharedStore()
    await orphan(store, 1)
    worker, results = full(store)

    with anyio.fail_after(60):
        await worker.work(once=True)

    assert len(results) == worker.taken == 1


async def test_a_worker_that_is_told_to_stop_lets_go_of_its_runs() -> None:
    """What runs may end, nothing more starts, and another worker takes over at once (S3-84)."""
    store = SharedStore()
    run_id = await orphan(store, 1, seconds=0.1)
    first, ended = full(store)
    second, results = full(store)

    async with anyio.create_task_group() as group:
        group.start_soon(first.work)
        await until(lambda: ran[f"{run_id} c"] or first._driven.get(run_id))
        first.suspend("by SIGTERM")
    row = await store.run(run_id)
    if not ended:
        assert row is not None
        assert (row.status, row.owner) == (RunStatus.SUSPENDED, "")
        with anyio.fail_after(60):
            await second.work(once=True)
        assert [result.status for result in results] == [RunStatus.COMPLETED]


async def test_what_cannot_be_driven_here_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A run of executors that this worker does not have is said once, and does not keep it from the others."""
    store = SharedStore()
    await orphan(store, 1)
    await orphan(store, 2)
    results: list[RunResult] = []
    worker = Worker(store, Registry.of(work, config=QUICK), poll_s=0.01, on_end=results.append)

    async with anyio.create_task_group() as group:
        group.start_soon(worker.work)
        await until(lambda: len([record for record in caplog.records if "is left alone" in record.getMessage()]) == 2)
        await anyio.sleep(0.1)
        worker.suspend()

    assert not results
    assert len([record for record in caplog.records if "is left alone" in record.getMessage()]) == 2


async def test_a_store_that_is_away_for_a_while_is_asked_again() -> None:
    """At the start it is an error; later the worker waits for it."""
    store = SharedStore()
    await orphan(store, 1)
    worker, results = full(store)
    store.is_away = True
    with pytest.raises(StoreUnavailableError):
        await worker.work()
    store.is_away = False

    async with anyio.create_task_group() as group:
        group.start_soon(worker.work)
        await until(lambda: results)
        store.is_away = True
        await anyio.sleep(0.1)
        store.is_away = False
        await orphan(store, 2)
        await until(lambda: len(results) == 2)
        worker.suspend()


async def test_a_run_that_asks_is_left_alone() -> None:
    """Somebody has to answer first: no stint is opened only to ask again."""
    store = SharedStore()

    @executor("demo.crash")
    async def crash(ctx: Context, /) -> str:
        store.crash(ctx.run_id)
        return ctx.step

    workflow = Workflow("w")
    workflow.step("pay", "demo.crash", on_interrupt="ask")
    with pytest.raises(StoreUnavailableError):
        await arun(workflow, registry=Registry.of(crash, config=QUICK), store=store)
    (row,) = (await store.runs(RunQuery())).runs
    store.end_leases()
    for _ in range(3):
        worker, results = full(store)
        with anyio.fail_after(60):
            await worker.work(once=True)
        assert not results

    stints = [record.entry for record in await store.read(row.run_id) if isinstance(record.entry, StintOpened)]
    assert len(stints) == 2, "the crash, and the stint that asked"


async def test_a_run_that_only_waits_takes_no_place() -> None:
    """Others are taken up although it waits for days, and it goes on as soon as it may."""
    store = SharedStore()
    registry = Registry.of(work)
    waiting = Workflow("waiting")
    ok = waiting.wait("ok", signal="ok")
    waiting.step("after", "demo.work", needs=ok)
    plain = Workflow("plain")
    plain.step("a", "demo.work")
    ids = []
    for workflow in (waiting, plain, plain):
        with pytest.raises(RunSuspendedError) as suspended:
            await arun(workflow, registry=registry, store=store, on_start=lambda handle: handle.suspend())
        ids.append(suspended.value.run_id)
    ended: list[RunResult] = []
    worker = Worker(store, registry, poll_s=0.05, concurrency=1, on_end=ended.append)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(worker.work)
            await until(lambda: len(ended) == 2)
            others = {result.workflow for result in ended}
            await asend_signal(ids[0], "ok", store=store)
            await until(lambda: len(ended) == 3)
            worker.suspend()

    assert others == {"plain"}
    assert ended[2].run_id == ids[0]
    assert ended[2].status is RunStatus.COMPLETED
