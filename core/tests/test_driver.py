"""The driver: what it appends when, what it does when the store fails, and that it never hangs in silence."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from treadle import Registry, Workflow, arun, executor, hookimpl
from treadle import _driver as driver_module
from treadle._app import RunHandle
from treadle._clock import RealClock
from treadle._conductor import Conductor
from treadle._memory import MemoryStore
from treadle._models import AttemptEnded, Command, Entry, Fact, Record, RunEnded, RunStatus, StepStatus, Turn
from treadle._results import RunResult
from treadle.errors import StoreUnavailableError, TreadleError
from treadle.ports import Commit, Creation, NewRun, RunQuery
from treadle.testing import Recorder, virtual_run

pytestmark = pytest.mark.anyio


@executor("one")
async def one() -> int:
    """Answer at once."""
    return 1


@executor("slow")
async def slow(seconds: float = 0.01) -> float:
    """Answer after a while."""
    await anyio.sleep(seconds)
    return seconds


def registry() -> Registry:
    return Registry.of(one, slow)


def chain(length: int) -> Workflow:
    workflow = Workflow("chain")
    before: list[str] = []
    for number in range(length):
        workflow.step(f"s{number}", "one", needs=before)
        before = [f"s{number}"]
    return workflow


class SlowStore(MemoryStore):
    """A store that takes its time, and notes what it was given together."""

    def __init__(self, seconds: float = 0.005) -> None:
        super().__init__()
        self.seconds = seconds
        self.batches: list[list[Entry]] = []

    async def create(self, new: NewRun) -> Creation:
        self.batches.append(list(new.first.entries))
        return await super().create(new)

    async def commit(self, commit: Commit) -> None:
        self.batches.append(list(commit.entries))
        await anyio.sleep(self.seconds)
        await super().commit(commit)


async def test_a_call_is_released_only_after_its_records_are_durable() -> None:
    """Returned is acknowledged: a store that refuses the first batch lets nothing start."""
    started: list[bool] = []

    @executor("effect")
    async def effect() -> None:
        started.append(True)

    class Refusing(MemoryStore):
        async def commit(self, commit: Commit) -> None:
            await anyio.sleep(0.01)
            raise StoreUnavailableError("the disk is full", "free some space")

    workflow = Workflow("refused")
    workflow.step("effect", "effect")

    with pytest.raises(StoreUnavailableError, match="the disk is full"):
        await arun(workflow, registry=Registry.of(effect), store=Refusing())
    assert not started


async def test_a_store_that_fails_later_ends_the_run_with_its_error() -> None:
    """What was appended before it is kept, and what runs is stopped."""
    stopped: list[bool] = []

    @executor("long")
    async def long() -> None:
        try:
            await anyio.sleep(30)
        finally:
            stopped.append(True)

    class Failing(MemoryStore):
        async def commit(self, commit: Commit) -> None:
            if any(isinstance(entry, AttemptEnded) for entry in commit.entries):
                raise StoreUnavailableError("the disk is full", "free some space")
            await super().commit(commit)

    workflow = Workflow("refused")
    workflow.step("long", "long")
    workflow.step("one", "one")
    store = Failing()

    with pytest.raises(StoreUnavailableError), anyio.fail_after(60):
        await arun(workflow, registry=Registry.of(long, one), store=store)
    assert stopped == [True]
    (row,) = (await store.runs(RunQuery())).runs
    kinds = [entry.kind for entry in store.entries(row.run_id)]
    assert kinds == ["RunCreated", "StintOpened", "AttemptStarted", "AttemptStarted"]


async def test_outcomes_that_arrive_during_a_commit_share_the_next() -> None:
    """A slow store gets its batches for free; the log is the same as ever."""
    workflow = Workflow("wide", max_parallel=50)
    for number in range(50):
        workflow.step(f"s{number}", "one")
    store = SlowStore(0.05)

    result = await arun(workflow, registry=registry(), store=store)

    assert result.status is RunStatus.COMPLETED
    assert len(store.batches) < 10
    assert [entry for batch in store.batches for entry in batch] == list(result.entries)


async def test_records_reach_their_readers_in_order_and_after_they_are_durable() -> None:
    """A sink never sees what the store has not acknowledged."""
    store = SlowStore(0.001)
    missing: list[Record] = []

    class Checking(Recorder):
        @hookimpl
        def record_event(self, record: Record) -> None:
            self.records.append(record)
            if len(store.entries(record.run_id)) < record.seq:
                missing.append(record)

    recorder = Checking()

    result = await arun(chain(5), registry=registry(), store=store, sinks=[recorder])

    assert not missing
    assert recorder.records == await store.read(result.run_id)


async def test_a_log_ends_with_the_runs_end_though_a_cancel_comes_in_the_same_turn() -> None:
    """What arrives with the last outcome is nobody's."""
    handles: list[RunHandle] = []

    @executor("last")
    async def last() -> None:
        await anyio.sleep(0.01)
        handles[0].cancel("too late")

    workflow = Workflow("race")
    workflow.step("last", "last")
    store = SlowStore(0.01)

    result = await arun(workflow, registry=Registry.of(last), store=store, on_start=handles.append)

    assert isinstance(result.entries[-1], RunEnded)
    assert result.steps["last"].status in (StepStatus.COMPLETED, StepStatus.CANCELLED)
    handles[0].cancel("much too late")  # a run that is over is left alone


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.015, 0.02])
async def test_a_cancel_at_any_moment_ends_the_run(delay: float) -> None:
    """Before, between and after the steps of a run with a slow store: one of two legal ends, and finally in both."""
    workflow = Workflow("race")
    workflow.step("a", "slow", seconds=0.005)
    workflow.step("b", "slow", seconds=0.005, needs=["a"])
    workflow.finally_step("clean", "one")
    handles: list[RunHandle] = []
    store = SlowStore(0.002)

    async def cancel() -> None:
        await anyio.sleep(delay)
        if handles:
            handles[0].cancel("enough")

    results: list[RunResult] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            results.append(await arun(workflow, registry=registry(), store=store, on_start=handles.append))

    (result,) = results
    assert result.status in (RunStatus.CANCELLED, RunStatus.COMPLETED)
    assert result.steps["finally/clean"].status is StepStatus.COMPLETED
    assert isinstance(result.entries[-1], RunEnded)


async def test_a_call_that_waits_for_a_worker_is_cancelled_without_having_run() -> None:
    """Released, but nobody took it: its outcome says cancelled and its executor was never entered."""
    entered: list[str] = []
    handles: list[RunHandle] = []

    @executor("enter")
    async def enter(name: str) -> None:
        entered.append(name)
        if name == "first":
            handles[0].cancel("enough")
        await anyio.sleep(30)

    workflow = Workflow("waiting", max_parallel=2)
    workflow.step("each", "enter", foreach=["first", "second", "third"], with_={"name": "${{ item }}"})

    with anyio.fail_after(60):
        result = await arun(workflow, registry=Registry.of(enter), on_start=handles.append)

    assert result.status is RunStatus.CANCELLED
    assert "third" not in entered


async def test_a_run_that_stalls_says_so_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours (here: a conductor that forgets to start a step) is an error with the run's id."""
    original = Conductor.apply

    def forgetful(self: Conductor, fact: Fact) -> Turn:
        turn = original(self, fact)
        return Turn(turn.records, tuple(command for command in turn.commands if not is_start(command)))

    def is_start(command: Command) -> bool:
        return type(command).__name__ == "Start"

    monkeypatch.setattr(Conductor, "apply", forgetful)

    with anyio.fail_after(60), pytest.raises(TreadleError, match=r"Run \w+-\w+ stalled: nothing runs"):
        await arun(chain(1), registry=registry())


async def test_stamps_never_go_back() -> None:
    """Even under a clock that does."""

    class Backwards:
        def __init__(self) -> None:
            self.at = 1000.0

        def now(self) -> float:
            self.at -= 1.0
            return self.at

        async def sleep_until(self, at: float) -> None:
            await anyio.sleep_forever()

        def hold(self) -> object:
            raise AssertionError("no thread here")

    result = await arun(chain(3), registry=registry(), clock=Backwards())  # type: ignore[arg-type]  # broken on purpose

    times = [entry.at for entry in result.entries]
    assert times == sorted(times)


async def test_a_long_chain_of_quick_steps_lets_others_have_the_loop() -> None:
    """Timers and signals are not starved: somebody else gets a turn every few milliseconds.

    The clock moves only when it is looked at, so that a machine that is busy with something else does not count.
    """
    ticks = 0

    class Looked(RealClock):
        at = 1000.0

        def now(self) -> float:
            self.at += 0.0002  # a few looks a step
            return self.at

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.lowlevel.checkpoint()
            ticks += 1

    results: list[RunResult] = []
    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        results.append(await arun(chain(1000), registry=registry(), clock=Looked(), max_parallel=4))
        group.cancel_scope.cancel()

    assert results[0].status is RunStatus.COMPLETED
    assert ticks >= results[0].duration_s / 0.05


def grace_run(backend: str, *, force: bool) -> tuple[RunResult, float]:
    """Cancel a call that needs 30 s to stop, in virtual time; the result and when it was there."""
    handles: list[RunHandle] = []
    told: list[tuple[RunResult, float]] = []

    @executor("stubborn")
    async def stubborn() -> None:
        handles[0].cancel("enough", force=force)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(30)

    workflow = Workflow("grace")
    workflow.step("stubborn", "stubborn")

    def tell(result: RunResult) -> None:
        told.append((result, result.duration_s))

    virtual_run(workflow, executors=[stubborn], backend=backend, on_start=handles.append, on_stuck=tell)
    return told[0]


@pytest.mark.parametrize(("force", "grace_s"), [(False, driver_module.GRACE_S), (True, driver_module.FORCED_GRACE_S)])
def test_a_call_that_does_not_stop_is_given_up_after_the_grace(anyio_backend: str, force: bool, grace_s: float) -> None:
    """Ten seconds, or one when the cancel is forced; the run's result does not wait for it."""
    result, after_s = grace_run(anyio_backend, force=force)

    assert after_s == grace_s
    assert result.status is RunStatus.CANCELLED


def test_a_deadline_that_a_quick_call_never_meets_costs_nothing(anyio_backend: str) -> None:
    """The timer of a call that has ended stops nobody."""
    workflow = Workflow("deadlines")
    workflow.step("a", "slow", seconds=1, timeout=5)
    workflow.step("b", "slow", seconds=20, needs=["a"])

    result = virtual_run(workflow, executors=[slow], backend=anyio_backend)

    assert result.status is RunStatus.COMPLETED
    assert result.duration_s == 21.0


class CountedTime(RealClock):
    """Time that goes on by 20 us each time that it is asked for, however quick or slow the machine is."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 1_000_000.0

    def now(self) -> float:
        self.seconds += 20e-6
        return self.seconds


@pytest.mark.parametrize("chains", [1, 8])
async def test_a_long_chain_lets_the_event_loop_turn(chains: int) -> None:
    """Of 5,000 steps without a pause only few are made within one turn, so that timers and heartbeats are in time."""
    made = 0
    seen: list[int] = []

    @executor("quick")
    async def quick() -> None:
        nonlocal made
        made += 1

    @executor("watch")
    async def watch() -> None:
        while made < 5_000:
            seen.append(made)
            await anyio.lowlevel.checkpoint()

    workflow = Workflow("w", max_parallel=20)
    workflow.step("watch", "watch")
    for number in range(5_000):
        workflow.step(f"s{number}", "quick", needs=[f"s{number - chains}"] if number >= chains else [])

    result = await arun(workflow, registry=Registry.of(quick, watch), clock=CountedTime())

    in_one_turn = [after - before for before, after in zip(seen, [*seen[1:], made], strict=True)]
    assert result.status is RunStatus.COMPLETED
    # Each step asks for the time twice at least, and after 5 ms the loop has its turn. Trio's turns have no order, so that two
    # of them may be between two looks.
    assert max(in_one_turn) <= 2 * (0.005 / 20e-6 / 2 + 1)
