"""Resuming: what was acknowledged is not done again, what may have been running is, and only one process drives a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import anyio.lowlevel
import attrs
import pytest
from treadle import Registry, Workflow, aresume, arun, executor, load_workflow
from treadle._app import RunHandle
from treadle._config import Config
from treadle._heart import Heart
from treadle._loop import loop_poster
from treadle._memory import MemoryStore
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    Outcome,
    RetryScheduled,
    RunCreated,
    RunStatus,
    StepStatus,
    StintOpened,
    TimerFired,
)
from treadle._owner import is_gone, shown, this_owner
from treadle._results import RunResult
from treadle.errors import (
    LeaseLostError,
    OwnedElsewhereError,
    ReplayMismatchError,
    ResumeChangedError,
    RunKeyConflictError,
    RunNotFoundError,
    RunSuspendedError,
    StoreUnavailableError,
    TransientError,
    TreadleError,
)
from treadle.ports import BeatRow, CancelRequest, Claim, Commit, Context, RunQuery
from treadle.testing import Recorder, VirtualClock

pytestmark = pytest.mark.anyio


class DurableStore(MemoryStore):
    """Memory that counts as durable: hearts beat, and the owner's end is noticed by whoever resumes."""

    is_durable = True


class DyingStore(DurableStore):
    """A store whose process dies at a commit: after it was made durable, or before.

    Args:
        at: The number of the commit, from 1.
        is_kept: Whether that one is durable; nobody hears of it either way.
    """

    def __init__(self, at: int = 0, *, is_kept: bool = False) -> None:
        super().__init__()
        self.at, self.is_kept, self.commits = at, is_kept, 0
        self.acknowledged: set[tuple[str, int | None]] = set()

    async def commit(self, commit: Commit) -> None:
        self.commits += 1
        if self.commits == self.at and self.is_kept:
            await super().commit(commit)
        if self.at and self.commits >= self.at:
            raise StoreUnavailableError("the process died")
        await super().commit(commit)
        self.acknowledged |= {
            (entry.path, entry.index)
            for entry in commit.entries
            if isinstance(entry, AttemptEnded) and entry.outcome.status == "completed"
        }


Effects = list[tuple[str, int | None, int, str]]


def make(effects: Effects) -> tuple[Workflow, Registry]:
    """A chain, a fan-out, a foreach, a retry, a condition and a clean-up, whose executors note that they ran."""

    @executor("note")
    async def note(ctx: Context, /, value: object = None, fails: int = 0) -> object:
        effects.append((ctx.step, ctx.index, ctx.attempt, ctx.idempotency_key))
        await anyio.lowlevel.checkpoint()
        if ctx.attempt <= fails:
            raise TransientError("not yet", retry_after_s=0.001)
        return value

    workflow = Workflow("all", max_parallel=3)
    first = workflow.step("first", "note", value=[1, 2, 3, 4])
    workflow.step("second", "note", value=first.output, needs=["first"])
    each = workflow.step("each", "note", foreach=first.output, value="${{ item }}", needs=["first"])
    workflow.step("retried", "note", value="late", fails=2, retry={"max_attempts": 3, "delays": [0.001]})
    workflow.step("never", "note", when="steps.first.output == 1")
    workflow.step("last", "note", value=each.output, needs=["second", "retried"])
    workflow.finally_step("clean", "note", value="done")
    workflow.output("all", each.output)
    return workflow, Registry.of(note)


async def run_until_it_dies(store: DyingStore, effects: Effects) -> RunResult | None:
    workflow, registry = make(effects)
    try:
        return await arun(workflow, registry=registry, store=store)
    except StoreUnavailableError:
        return None


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition of other tasks."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - many conditions, none of them an event
            await anyio.sleep(0.001)


async def only_run(store: MemoryStore) -> str:
    (row,) = (await store.runs(RunQuery())).runs
    return row.run_id


@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_run_that_died_at_any_commit_goes_on_where_it_was(is_kept: bool) -> None:
    """Nothing acknowledged is lost or done again, each step keeps its key, and the end is the same (G1, G2, G5)."""
    whole: Effects = []
    calm = DyingStore()
    expected = await run_until_it_dies(calm, whole)
    assert expected is not None

    for at in range(1, calm.commits + 1):
        effects: Effects = []
        store = DyingStore(at, is_kept=is_kept)
        await run_until_it_dies(store, effects)
        before = Counter((path, index) for path, index, _, _ in effects)
        acknowledged = set(store.acknowledged)
        store.at = 0
        run_id = await only_run(store)

        _, registry = make(effects)
        result = await aresume(run_id, store=store, registry=registry)

        after = Counter((path, index) for path, index, _, _ in effects)
        assert result.status is RunStatus.COMPLETED, at
        assert result.outputs == expected.outputs
        assert {path: step.output for path, step in result.steps.items()} == {
            path: step.output for path, step in expected.steps.items()
        }
        for place in acknowledged:
            assert after[place] == before[place], f"{place} ran again after commit {at}"
        keys: dict[tuple[str, int | None], set[str]] = {}
        for path, index, _, key in effects:
            keys.setdefault((path, index), set()).add(key)
        assert all(len(one) == 1 for one in keys.values())
        attempts = {(path, index): attempt for path, index, attempt, _ in effects}
        assert attempts["retried", None] == 3


async def test_a_run_may_die_again_and_again() -> None:
    """Each stint that lives for a commit brings it on; the end is reached however often its process dies (G9)."""
    effects: Effects = []
    store = DyingStore(2)
    await run_until_it_dies(store, effects)
    run_id = await only_run(store)
    stints = 1
    while True:
        store.at = store.commits + 3
        stints += 1
        _, registry = make(effects)
        try:
            result = await aresume(run_id, store=store, registry=registry)
            break
        except StoreUnavailableError:
            assert stints < 50

    assert result.status is RunStatus.COMPLETED
    opened = [entry for entry in result.entries if isinstance(entry, StintOpened)]
    assert [entry.stint for entry in opened] == list(range(1, stints + 1))
    again = [entry for entry in result.entries if isinstance(entry, AttemptStarted) and entry.stint > 1]
    assert again
    assert len({span.trace_id for span in result.spans}) == 1
    assert len({span.span_id for span in result.spans}) == len(result.spans)


async def test_a_run_that_ended_answers_its_result_at_once() -> None:
    """Nothing runs, nothing is claimed; the recorded result is the answer."""
    effects: Effects = []
    workflow, registry = make(effects)
    store = DurableStore()
    result = await arun(workflow, registry=registry, store=store)
    ran = len(effects)

    again = await aresume(result.run_id, store=store, registry=Registry.of())

    assert again.to_dict() == result.to_dict()
    assert len(effects) == ran
    with pytest.raises(RunNotFoundError):
        await aresume("nobody", store=store, registry=registry)


@pytest.mark.parametrize("on_error", ["stop", "continue"])
async def test_what_must_not_run_twice_ends_as_interrupted(on_error: str) -> None:
    """A step of an executor with effects "unsafe" that may have been running does not run again (G4)."""
    ran: list[str] = []

    @executor("pay", effects="unsafe")
    async def pay() -> str:
        ran.append("pay")
        return "paid"

    @executor("look")
    async def look() -> str:
        ran.append("look")
        return "seen"

    workflow = Workflow("shop", on_error="continue")
    workflow.step("pay", "pay", on_error=on_error)  # type: ignore[arg-type]  # one of the two
    workflow.step("look", "look")
    workflow.step("after", "look", needs=["pay"])
    registry = Registry.of(pay, look)
    store = DyingStore(2)
    with pytest.raises(StoreUnavailableError):
        await arun(workflow, registry=registry, store=store)
    store.at = 0

    result = await aresume(await only_run(store), store=store, registry=registry)

    assert ran.count("pay") == 1
    assert result.steps["pay"].status is StepStatus.INTERRUPTED
    assert result.steps["pay"].error is not None
    assert result.steps["pay"].error.type == "StepInterruptedError"
    expected = StepStatus.COMPLETED if on_error == "continue" else StepStatus.UPSTREAM_FAILED
    assert result.steps["after"].status is expected
    row = await store.run(result.run_id)
    assert row is not None
    assert row.status is result.status


async def test_waits_go_on_over_a_restart_and_overdue_ones_end_at_once(anyio_backend: str) -> None:
    """A retry that was due while nobody drove the run is made at once; one that is not waits for its time (S1-42, S1-43)."""
    del anyio_backend
    waits = {"early": 100.0, "late": 5000.0}

    @executor("flaky")
    async def flaky(ctx: Context, /, wait: float) -> int:
        if ctx.attempt == 1:
            raise TransientError("later", retry_after_s=wait)
        return ctx.attempt

    workflow = Workflow("waits")
    for name, wait in waits.items():
        workflow.step(name, "flaky", wait=wait)
    store = DyingStore()
    clock = ManualClock()
    handles: list[RunHandle] = []
    async with anyio.create_task_group() as group:

        async def first() -> None:
            with pytest.raises(RunSuspendedError):
                await arun(workflow, registry=Registry.of(flaky), store=store, clock=clock, on_start=handles.append)

        group.start_soon(first)
        await until(lambda: handles and store.commits >= 3)
        handles[0].suspend("for the night")
    clock.at += 1000.0
    run_id = await only_run(store)
    pending = [timer for timer in await store.timers(run_id) if timer.status == "pending"]
    assert [timer.path for timer in pending] == ["early", "late"]

    recorder = Recorder()
    results: list[RunResult] = []
    async with anyio.create_task_group() as group:

        async def second() -> None:
            results.append(await aresume(run_id, store=store, registry=Registry.of(flaky), clock=clock, sinks=[recorder]))

        group.start_soon(second)
        await until(lambda: any(isinstance(record.entry, TimerFired) for record in recorder.records))
        fired = [record.entry for record in recorder.records if isinstance(record.entry, TimerFired)]
        assert [entry.timer_id for entry in fired] == ["retry:early::1"]
        clock.at += 5000.0
    (result,) = results
    assert result.status is RunStatus.COMPLETED
    late = [entry for entry in result.entries if isinstance(entry, TimerFired)]
    scheduled = [entry for entry in result.entries if isinstance(entry, RetryScheduled)]
    assert len(late) == len(scheduled) == 2, "each timer has its effect once"


class ManualClock(VirtualClock):
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 1_767_225_600.0

    def now(self) -> float:
        return self.at

    async def sleep_until(self, at: float) -> None:
        while self.at < at:  # noqa: ASYNC110 - it is time itself that is waited for
            await anyio.sleep(0.002)


async def test_a_run_that_is_let_go_of_ends_what_runs_and_starts_nothing() -> None:
    """A suspended run keeps the results of what was running, has no running row, and is free to be resumed at once (S3-84)."""
    started: list[str] = []
    go = anyio.Event()

    @executor("wait")
    async def wait(ctx: Context, /) -> str:
        started.append(ctx.step)
        await go.wait()
        return ctx.step

    workflow = Workflow("slow", max_parallel=2)
    for name in "abc":
        workflow.step(name, "wait")
    store = DurableStore()
    handles: list[RunHandle] = []
    registry = Registry.of(wait)
    async with anyio.create_task_group() as group:

        async def first() -> None:
            with pytest.raises(RunSuspendedError, match="treadle resume"):
                await arun(workflow, registry=registry, store=store, on_start=handles.append)

        group.start_soon(first)
        await until(lambda: len(started) == 2)
        handles[0].suspend("SIGTERM")
        await anyio.sleep(0.01)
        go.set()
    assert handles[0].is_durable
    assert started == ["a", "b"]
    row = await store.run(handles[0].run_id)
    assert row is not None
    assert (row.status, row.owner) == (RunStatus.SUSPENDED, "")

    result = await aresume(row.run_id, store=store, registry=registry)

    assert result.status is RunStatus.COMPLETED
    assert sorted(started) == ["a", "b", "c"]


async def test_what_does_not_end_in_time_is_left_for_the_next_stint() -> None:
    """When the time to drain is over, or suspending is asked for twice, what still runs is stopped and made again (G4)."""
    started: list[int] = []

    @executor("hang")
    async def hang(ctx: Context, /) -> str:
        started.append(ctx.call.stint)
        if ctx.call.stint < 3:
            await anyio.sleep(60)
        return "done"

    workflow = Workflow("hang")
    workflow.step("a", "hang")
    store = DurableStore()
    registry = Registry.of(hang)

    async def letting_go(call: object, *, times: int) -> None:
        handles: list[RunHandle] = []
        async with anyio.create_task_group() as group:

            async def drive() -> None:
                with pytest.raises(RunSuspendedError):
                    await call(on_start=handles.append)  # type: ignore[operator]  # arun or aresume with their arguments

            group.start_soon(drive)
            count = len(started)
            await until(lambda: len(started) > count)
            for _ in range(times):
                handles[0].suspend("now", drain_s=0.02 if times == 1 else 30.0)

    with anyio.fail_after(60):
        await letting_go(lambda **more: arun(workflow, registry=registry, store=store, **more), times=1)
        run_id = await only_run(store)
        await letting_go(lambda **more: aresume(run_id, registry=registry, store=store, **more), times=2)
        result = await aresume(run_id, store=store, registry=registry)
    assert started == [1, 2, 3]
    assert result.steps["a"].attempts == 1


# -- one owner


async def test_a_double_resume_has_one_winner() -> None:
    """Of several that resume a run at once one drives it, the others are told who does and since when (G8)."""
    effects: Effects = []
    store = DyingStore(3)
    await run_until_it_dies(store, effects)
    store.at = 0
    run_id = await only_run(store)
    results: list[RunResult] = []
    refused: list[OwnedElsewhereError] = []

    async def one() -> None:
        _, registry = make(effects)
        try:
            results.append(await aresume(run_id, store=store, registry=registry))
        except OwnedElsewhereError as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)

    assert len({id(result.entries) for result in results}) >= 1
    assert refused
    assert all(error.owner == shown(this_owner()) and error.since for error in refused)
    assert len(results) + len(refused) == 8


async def test_a_lost_lease_stops_the_run_loudly() -> None:
    """When another process takes the run over, this one stops: its calls are cancelled and nothing of it is recorded (G8)."""
    stopped: list[bool] = []
    running = anyio.Event()

    @executor("long")
    async def long() -> None:
        running.set()
        try:
            await anyio.sleep(60)
        finally:
            stopped.append(True)

    workflow = Workflow("long")
    workflow.step("a", "long")
    store = DurableStore()

    async def thief() -> None:
        await running.wait()
        await store.claim(await only_run(store), "thief:1@x", 60.0, lambda owner: True)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(thief)
            with pytest.raises(LeaseLostError, match="thief:1"):
                await arun_with_quick_heart(workflow, Registry.of(long), store)
    assert stopped == [True]
    row = await store.run(await only_run(store))
    assert row is not None
    assert row.owner == "thief:1"


async def arun_with_quick_heart(workflow: Workflow, registry: Registry, store: MemoryStore) -> RunResult:
    """A run whose heart beats often enough for a test."""
    registry.config = Config(run={"beat": 0.02})
    return await arun(workflow, registry=registry, store=store)


class SilentStore(DurableStore):
    """Takes no beats."""

    beats = 0

    def beat(self, claim: Claim, steps: Sequence[BeatRow] = ()) -> None:
        self.beats += 1
        raise StoreUnavailableError("the disk is away")


async def test_a_heart_that_is_not_heard_gives_up_with_the_lease() -> None:
    """A store that cannot be reached is tried again until the lease is over; then the run is let go of (G8)."""
    store, lost, done = SilentStore(), list[TreadleError](), anyio.Event()

    def on_lost(error: TreadleError) -> None:
        lost.append(error)
        done.set()

    claim = Claim("r", this_owner(), 1, lease_s=1.5)
    asked: list[CancelRequest] = []
    with Heart(store, claim, post=loop_poster(), on_lost=on_lost, on_cancel=asked.append, beat_s=0.02), anyio.fail_after(60):
        await done.wait()

    assert isinstance(lost[0], StoreUnavailableError)  # what is wrong, rather than what follows from it
    assert store.beats > 1
    assert not asked


async def test_a_cancel_through_the_store_reaches_the_run() -> None:
    """Whoever drives the run hears of it and cancels gracefully, clean-up included (G12)."""
    running = anyio.Event()
    cleaned: list[bool] = []

    @executor("long")
    async def long() -> None:
        running.set()
        await anyio.sleep(60)

    @executor("clean")
    async def clean() -> None:
        cleaned.append(True)

    workflow = Workflow("long")
    workflow.step("a", "long")
    workflow.finally_step("clean", "clean")
    store = DurableStore()

    async def other() -> None:
        await running.wait()
        await store.request_cancel(await only_run(store), CancelRequest("enough of it"))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            result = await arun(workflow, registry=Registry.of(long, clean), store=store)
    assert result.status is RunStatus.CANCELLED
    assert result.reason == "enough of it"
    assert cleaned == [True]


def test_an_owner_is_known_to_be_gone_only_when_it_is() -> None:
    """A process that lives is not, one that ended is; of another machine or container nothing is known."""
    mine = this_owner()
    who, _, identity = mine.partition("@")
    machine, started, nonce = identity.split("/")
    host = who.rpartition(":")[0]

    assert not is_gone(mine)
    assert is_gone(f"{who}@{machine}/1{started}/{nonce}"), "another process has its number now"
    assert is_gone(f"{host}:4194304@{machine}/{started}/{nonce}"), "no process has this number"
    assert not is_gone(f"{who}@elsewhere/1{started}/{nonce}")
    assert not is_gone("host:1")
    assert this_owner() != mine, "each stint has a name of its own"


# -- the same run, the same workflow


async def test_starting_under_a_key_starts_once() -> None:
    """The same key answers the same run, finished or not; other inputs are refused (G13)."""
    effects: Effects = []
    store = DyingStore(4)
    workflow, registry = make(effects)
    with pytest.raises(StoreUnavailableError):
        await arun(workflow, registry=registry, store=store, key="daily")
    store.at = 0

    first = await arun(workflow, registry=registry, store=store, key="daily")
    ran = len(effects)
    again = await arun(workflow, registry=registry, store=store, key="daily")
    other = await arun(workflow, registry=registry, store=store, key="hourly")

    assert first.run_id == again.run_id != other.run_id
    assert len(effects) == ran + len([entry for entry in other.entries if isinstance(entry, AttemptStarted)])
    different = Workflow("different")
    different.step("a", "note")
    with pytest.raises(RunKeyConflictError, match="daily"):
        await arun(different, registry=registry, store=store, key="daily")


YAML = "name: w\nsteps:\n  a: {uses: note, with: {value: 1}}\n  b: {uses: note, needs: [a]}\n"


async def test_a_changed_file_stops_a_resume(tmp_path: Path) -> None:
    """The difference is shown; accepted, the run goes on with the workflow that it began with (G14)."""
    file = tmp_path / "w.yaml"
    file.write_text(YAML)
    effects: Effects = []
    _, registry = make(effects)
    store = DyingStore(2)
    with pytest.raises(StoreUnavailableError):
        await arun(load_workflow(file), registry=registry, store=store)
    store.at = 0
    run_id = await only_run(store)
    row = await store.run(run_id)
    assert row is not None
    assert row.source == str(file)

    file.write_text(YAML.replace("value: 1", "value: 2"))
    with pytest.raises(ResumeChangedError, match="accept-changes") as caught:
        await aresume(run_id, store=store, registry=registry)
    assert any(line.startswith("-") and "1" in line for line in caught.value.changes)
    assert any(line.startswith("+") and "2" in line for line in caught.value.changes)
    file.write_text("steps: [")
    with pytest.raises(ResumeChangedError, match="no workflow any more"):
        await aresume(run_id, store=store, registry=registry)

    result = await aresume(run_id, store=store, registry=registry, accept_changes=True)

    assert result.steps["a"].output == 1


async def test_another_version_of_a_plugin_stops_a_resume() -> None:
    """The versions of the last stint and of now are shown side by side; treadle's own has rules instead (G14)."""
    effects: Effects = []
    store = DyingStore(3)
    await run_until_it_dies(store, effects)
    store.at = 0
    run_id = await only_run(store)
    log = store._runs[run_id].entries
    log[1] = attrs.evolve(log[1], versions={"treadle": "0.0.1", "treadle-old": "1.0", "python": "9"})
    _, registry = make(effects)

    with pytest.raises(ResumeChangedError) as caught:
        await aresume(run_id, store=store, registry=registry)

    assert "- treadle-old 1.0" in caught.value.changes
    assert "+ treadle-old (not used)" in caught.value.changes
    assert not any("treadle 0.0.1" in line for line in caught.value.changes)
    assert (await aresume(run_id, store=store, registry=registry, accept_changes=True)).status is RunStatus.COMPLETED


async def test_a_log_that_does_not_lead_to_its_decisions_is_not_gone_on_with() -> None:
    """A mismatch stops with both sides, and lets go of the run."""
    effects: Effects = []
    store = DyingStore(5)
    await run_until_it_dies(store, effects)
    store.at = 0
    run_id = await only_run(store)
    log = store._runs[run_id].entries
    position = next(n for n, entry in enumerate(log) if isinstance(entry, AttemptEnded))
    ended = log[position]
    assert isinstance(ended, AttemptEnded)
    log[position] = attrs.evolve(ended, outcome=Outcome("failed"))
    _, registry = make(effects)

    with pytest.raises(ReplayMismatchError):
        await aresume(run_id, store=store, registry=registry)

    row = await store.run(run_id)
    assert row is not None
    assert row.owner == ""


async def test_readers_of_a_later_stint_hear_only_of_it() -> None:
    """Sinks are told what happens from now on; the result holds the whole."""
    effects: Effects = []
    store = DyingStore(4)
    await run_until_it_dies(store, effects)
    store.at = 0
    run_id = await only_run(store)
    known = len(await store.read(run_id))
    recorder = Recorder()
    _, registry = make(effects)

    result = await aresume(run_id, store=store, registry=registry, sinks=[recorder])

    assert recorder.records[0].seq == known + 1
    assert isinstance(recorder.records[0].entry, StintOpened)
    assert isinstance(result.entries[0], RunCreated)
    assert len(result.entries) == known + len(recorder.records)
    sequence: Sequence[int] = [record.seq for record in recorder.records]
    assert list(sequence) == list(range(known + 1, len(result.entries) + 1))
