"""Slots that calls and runs share, and the order in which calls start: ``concurrency`` and ``priority``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import pytest
from treadle import Registry, RunHandle, TransientError, Workflow, aresume, arun, executor
from treadle._memory import MemoryStore
from treadle._models import AttemptStarted, RunStatus, SlotTaken, StepStatus
from treadle._plan import compile_plan
from treadle._results import RunResult
from treadle._slots import Concurrency, concurrency_faults
from treadle.errors import RunSuspendedError, WorkflowInvalidError
from treadle.ports import RunQuery
from treadle.testing import VirtualClock, virtual_run


class DurableStore(MemoryStore):
    """Memory that counts as durable: what is let go of can be resumed."""

    is_durable = True


class Room:
    """Counts who is in it at once."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.order: list[object] = []

    @property
    def executors(self) -> tuple[object, ...]:
        @executor("stay")
        async def stay(seconds: float = 1.0, name: object = None, fails: int = 0) -> object:
            """Be in the room for a while."""
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.order.append(name)
            try:
                await anyio.sleep(seconds)
            finally:
                self.inside -= 1
            if self.order.count(name) <= fails:
                raise TransientError("once more")
            return name

        @executor("pass")
        async def pass_(name: object = None) -> None:
            """Take no room."""
            self.order.append(name)

        return stay, pass_


def started(result: RunResult) -> list[str]:
    return [entry.path for entry in result.entries if isinstance(entry, AttemptStarted)]


# -- what may be written


@pytest.mark.parametrize(
    ("data", "key", "problem"),
    [
        (3, "", "expected the name of a group, or a mapping"),
        ("", "", "expected the name of a group"),
        ({}, "", "concurrency needs a 'group'"),
        ({"group": 3}, "group", "1 to 200 printable characters"),
        ({"group": "gpu", "limit": 0}, "limit", "expected a whole number from 1, not 0"),
        ({"group": "gpu", "limit": True}, "limit", "expected a whole number from 1"),
        ({"group": "gpu", "max": 2}, "max", "'max' is not a key of concurrency"),
    ],
)
def test_what_is_no_concurrency_is_refused(data: object, key: str, problem: str) -> None:
    """Each with the key and what is wrong."""
    assert any(where == key and problem in message for where, message, _ in concurrency_faults(data))


def test_all_spellings_read_back() -> None:
    """A name alone is one slot; the builder writes what a file says."""
    wf = Workflow("w", concurrency={"group": "runs", "limit": 2}, priority=-1)
    wf.step("a", "stay", concurrency="gpu", priority=3)
    wf.step("b", "stay", concurrency={"group": "db-${{ inputs.n }}", "limit": 1})
    wf.input("n", default=1)

    data = wf.to_dict()

    assert Workflow.from_dict(data) == wf
    assert (data["concurrency"], data["priority"]) == ({"group": "runs", "limit": 2}, -1)
    assert data["steps"] == {
        "a": {"uses": "stay", "concurrency": "gpu", "priority": 3},
        "b": {"uses": "stay", "concurrency": "db-${{ inputs.n }}"},
    }
    assert Concurrency.read({"group": "gpu", "limit": 1}) == Concurrency.read("gpu")


def test_faults_stand_where_they_are() -> None:
    """Wrong kinds of steps, unknown references, wrong priorities: all at once, then those of the plan."""
    steps = {
        "a": {"wait": "5m", "concurrency": "gpu"},
        "b": {"parallel": {"steps": {"c": {"uses": "stay"}}}, "concurrency": "gpu"},
        "d": {"uses": "stay", "priority": "high"},
    }
    with pytest.raises(WorkflowInvalidError) as caught:
        Workflow.from_dict({"name": "w", "steps": steps})
    assert {fault.path for fault in caught.value.faults} == {"steps.a.concurrency", "steps.b.concurrency", "steps.d.priority"}

    steps = {"a": {"uses": "stay", "concurrency": "db-${{ inputs.no }}"}}
    with pytest.raises(WorkflowInvalidError, match="there is no input 'no'"):
        compile_plan(Workflow.from_dict({"name": "w", "steps": steps}))
    with pytest.raises(WorkflowInvalidError, match="there is no step 'a'"):
        compile_plan(Workflow.from_dict({"name": "w", "concurrency": "${{ steps.a.output }}", "steps": {"a": {"uses": "x"}}}))


# -- steps


def test_no_more_calls_than_slots() -> None:
    """Of all items and steps of a group, also when there would be room for more."""
    room = Room()
    wf = Workflow("w", max_parallel=50)
    wf.step("each", "stay", foreach=list(range(10)), name="${{ item }}", concurrency={"group": "gpu", "limit": 3})
    wf.step("other", "stay", name="other", concurrency={"group": "gpu", "limit": 3})

    result = virtual_run(wf, executors=room.executors)

    assert result.status is RunStatus.COMPLETED
    assert room.most == 3
    assert result.steps["each"].output == list(range(10))
    assert sorted(map(str, room.order)) == sorted([*map(str, range(10)), "other"])


def test_a_subflow_takes_no_slot_of_its_own_file() -> None:
    """It is part of a run, which may hold that very slot; planning warns of it, and what its steps ask for holds."""
    room = Room()
    stay = {"uses": "stay", "concurrency": {"group": "gpu", "limit": 1}}
    inner = {"name": "inner", "concurrency": "nightly", "steps": {"one": stay, "two": stay}}
    steps = {"a": {"workflow": "inner"}, "b": {"workflow": "inner"}}
    workflow = Workflow.from_dict({"name": "w", "concurrency": "nightly", "steps": steps, "workflows": {"inner": inner}})

    result = virtual_run(workflow, executors=room.executors)

    assert (result.status, room.most, result.duration_s) == (RunStatus.COMPLETED, 1, 4.0)
    warnings = compile_plan(workflow).warnings
    assert [fault.path for fault in warnings] == ["steps.a.workflow", "steps.b.workflow"]
    assert {str(fault.message) for fault in warnings} == {"its own 'concurrency' does not hold for a subflow"}


def test_who_waits_for_a_slot_holds_no_slot_of_max_parallel() -> None:
    """Other steps start although a step before them waits."""
    room = Room()
    wf = Workflow("w", max_parallel=2)
    for name in ("one", "two", "three"):
        wf.step(name, "stay", seconds=60, name=name, concurrency="gpu")
    wf.step("free", "stay", seconds=1, name="free")

    result = virtual_run(wf, executors=room.executors)

    assert result.steps["free"].ended_at - result.started_at == 1
    assert result.status is RunStatus.COMPLETED
    assert room.order[-1] == "three"


def test_the_group_may_be_an_expression() -> None:
    """Also of the item; one that is no name fails the item, with the reason."""
    room = Room()
    wf = Workflow("w", on_error="continue")
    sites = [{"region": "eu"}, {"region": "us"}, {"region": "eu"}, {"region": None}]
    wf.step("each", "stay", foreach=sites, concurrency="${{ item.region }}", on_error="continue", name="${{ item.region }}")

    result = virtual_run(wf, executors=room.executors)

    assert room.most == 2
    assert result.steps["each"].output == ["eu", "us", "eu", None]
    error = next(entry.error for entry in result.entries if entry.kind == "ItemEnded")  # type: ignore[union-attr]  # of its kind
    assert error is not None
    assert "None is not the name of a group" in error.message


def test_a_retry_stands_in_line_again() -> None:
    """While it waits for its delay it holds nothing."""
    room = Room()
    wf = Workflow("w")
    retry = {"max_attempts": 2, "delays": ["10s"], "jitter": 0}
    wf.step("fails", "stay", seconds=1, name="fails", fails=1, retry=retry, concurrency="gpu", priority=1)
    wf.step("other", "stay", seconds=1, name="other", concurrency="gpu")

    result = virtual_run(wf, executors=room.executors)

    assert room.order == ["fails", "other", "fails"]
    assert room.most == 1
    assert result.steps["fails"].attempts == 2


def test_a_run_that_stops_leaves_the_line() -> None:
    """What waits for a slot is cancelled at once, and what it holds goes to others."""

    @executor("fail")
    async def fail() -> None:
        """Fail after a while."""
        await anyio.sleep(1)
        raise ValueError("no")

    room = Room()
    store = MemoryStore()
    wf = Workflow("w")
    wf.step("long", "stay", seconds=5, name="long", concurrency="gpu")
    wf.step("waits", "stay", name="waits", concurrency="gpu")
    wf.step("each", "stay", foreach=[1, 2], name="each", concurrency="gpu")
    wf.step("fails", "fail")

    result = virtual_run(wf, executors=[*room.executors, fail], store=store)

    assert result.status is RunStatus.FAILED
    assert result.duration_s == 5
    assert room.order == ["long"]
    assert {path: step.status.value for path, step in result.steps.items()} == {
        "fails": "failed",
        "waits": "cancelled",
        "each": "cancelled",
        "long": "completed",
    }
    assert anyio.run(store.slots) == []


# -- runs


def of_runs(room: Room, names: Sequence[object], *, priorities: Sequence[int] = ()) -> tuple[list[RunResult], MemoryStore]:
    """Several runs of one store side by side, each with a slot of its own for the whole of it."""
    store, results = MemoryStore(), []
    clock = VirtualClock()

    async def one(number: int, name: object) -> None:
        wf = Workflow("w", concurrency={"group": "runs", "limit": 2}, priority=priorities[number] if priorities else None)
        wf.step("a", "stay", name=name)
        wf.step("b", "stay", name=name, needs="a")
        await anyio.sleep(0.01 * number)
        results.append(await arun(wf, registry=Registry.of(*room.executors), store=store, clock=clock))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number, name in enumerate(names):
                group.start_soon(one, number, name)

    clock.run(main)
    return results, store


def test_runs_share_slots() -> None:
    """No more of them go on at once than there are slots; none is lost, and all are given back."""
    room = Room()

    results, store = of_runs(room, range(6))

    assert {result.status for result in results} == {RunStatus.COMPLETED}
    assert room.most == 2
    assert len(room.order) == 12
    assert anyio.run(store.slots) == []


def test_runs_stand_in_line_by_priority() -> None:
    """The highest first, then who came first."""
    room = Room()

    of_runs(room, ["one", "two", "low", "high", "middle"], priorities=[0, 0, -5, 9, 0])

    assert list(dict.fromkeys(room.order)) == ["one", "two", "high", "middle", "low"]


def test_a_run_that_is_queued_says_so_and_can_be_cancelled() -> None:
    """It has begun nothing, so there is nothing to clean up."""
    room, clock, store = Room(), VirtualClock(), MemoryStore()
    registry = Registry.of(*room.executors)
    wf = Workflow("w", concurrency="only")
    wf.step("a", "stay", seconds=60, name="a")
    wf.finally_step("clean", "pass", name="clean")
    results: list[RunResult] = []

    async def second() -> None:
        handles: list[RunHandle] = []

        async def stop() -> None:
            await anyio.sleep(5)
            page = await store.runs(RunQuery())
            assert {row.status.value for row in page.runs} == {"running", "queued"}
            handles[0].cancel("not today")

        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            results.append(await arun(wf, registry=registry, store=store, clock=clock, on_start=handles.append))

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def first() -> None:
                results.append(await arun(wf, registry=registry, store=store, clock=clock))

            group.start_soon(first)
            await anyio.sleep(1)
            group.start_soon(second)

    clock.run(main)

    cancelled, completed = results
    assert (cancelled.status, cancelled.duration_s) == (RunStatus.CANCELLED, 5)
    assert {step.status for step in cancelled.steps.values()} == {StepStatus.CANCELLED}
    assert completed.status is RunStatus.COMPLETED
    assert room.order == ["a", "clean"]


def test_a_resumed_run_stands_in_line_again() -> None:
    """What ran is made again only once it has its slot again; nobody else had to give one up."""
    room, clock, store = Room(), VirtualClock(), DurableStore()
    registry = Registry.of(*room.executors)
    wf = Workflow("w", concurrency={"group": "runs", "limit": 1})
    wf.step("a", "stay", seconds=60, name="a", concurrency="gpu")

    async def let_go() -> str:
        handles: list[RunHandle] = []

        async def later() -> None:
            await anyio.sleep(5)
            handles[0].suspend("enough", drain_s=0.001)

        async with anyio.create_task_group() as group:
            group.start_soon(later)
            with pytest.raises(RunSuspendedError):
                await arun(wf, registry=registry, store=store, clock=clock, on_start=handles.append)
        return handles[0].run_id

    async def main() -> RunResult:
        run_id = await let_go()
        other = Workflow("other", concurrency={"group": "runs", "limit": 1})
        other.step("b", "stay", seconds=60, name="b")
        async with anyio.create_task_group() as group:
            group.start_soon(partial(arun, other, registry=registry, store=store, clock=clock))
            await anyio.sleep(1)
            return await aresume(run_id, registry=registry, store=store, clock=clock)

    result = clock.run(main)

    assert result.status is RunStatus.COMPLETED
    assert room.order == ["a", "b", "a"]
    assert room.most == 1
    assert result.steps["a"].attempts == 1
    assert [entry.path for entry in result.entries if isinstance(entry, SlotTaken)] == ["", "a", "", "a"]


def test_a_run_with_a_slot_has_its_deadline_and_budget_from_its_begin_on() -> None:
    """Not from when it was queued."""
    room, clock, store = Room(), VirtualClock(), MemoryStore()
    registry = Registry.of(*room.executors)
    results: list[RunResult] = []

    async def one(name: str, delay: float) -> None:
        wf = Workflow("w", concurrency="only", run_timeout=100, budget={"wall_time": "100s"})
        wf.step("a", "stay", seconds=80, name=name)
        await anyio.sleep(delay)
        results.append(await arun(wf, registry=registry, store=store, clock=clock))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(one, "first", 0)
            group.start_soon(one, "second", 1)

    clock.run(main)

    assert [result.status for result in results] == [RunStatus.COMPLETED, RunStatus.COMPLETED]
    assert 158 < results[1].duration_s < 161


# -- priority


def test_ready_calls_start_by_priority() -> None:
    """Higher first, and among equals in the order of declaration."""
    room = Room()
    wf = Workflow("w", max_parallel=1)
    for name, priority in (("a", None), ("b", 5), ("c", -1), ("d", 5), ("e", 0)):
        wf.step(name, "pass", name=name, priority=priority)

    result = virtual_run(wf, executors=room.executors)

    assert started(result) == ["b", "d", "a", "e", "c"]


def test_priority_holds_for_what_becomes_ready_later_and_within_groups() -> None:
    """A step that became ready goes before those that have waited for long; a group's priority is that of its steps."""
    room = Room()
    wf = Workflow("w", max_parallel=1, priority=1)
    wf.step("first", "pass", name="first", priority=9)
    wf.step("urgent", "pass", name="urgent", needs="first", priority=8)
    wf.step("each", "pass", foreach=[1, 2, 3], name="each")
    group = wf.parallel("group", priority=4)
    group.step("x", "pass", name="x")
    group.step("y", "pass", name="y", priority=0)

    result = virtual_run(wf, executors=room.executors)

    assert started(result) == ["first", "urgent", "group/x", "each", "each", "each", "group/y"]
