"""What attempts use up is noted while they go on: a process that goes away takes the last moments of it along, not all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import pytest
from test_checkpoints import Runs, WatchedStore, kill_at, only_run
from treadle import Registry, StepUsage, Workflow, executor
from treadle._app import RunHandle
from treadle._conductor import Conductor
from treadle._keeper import USAGE_EVERY_S, USAGE_SELDOM_S
from treadle._log_rows import rows_of
from treadle._models import AttemptEnded, AttemptStarted, Entry, Outcome, RunCreated, StintOpened, TimerFired, UsageNoted
from treadle._plan import compile_plan
from treadle._results import RunResult, budgets_of, summarise
from treadle._span_projection import SpanProjection
from treadle.errors import RunSuspendedError
from treadle.hookspecs import hookimpl
from treadle.ports import Call, Context
from treadle.testing import VirtualClock, virtual_run

HOUR = 3600.0


def noted(entries: Sequence[Entry]) -> list[tuple[int, StepUsage]]:
    """What was noted, with the seconds since the run was created."""
    return [(round(entry.at - entries[0].at), entry.usage) for entry in entries if isinstance(entry, UsageNoted)]


def spending(*amounts: tuple[float, int], lasts: float = 0.0) -> object:
    """An executor that uses money up: after so many seconds each, of its first attempt in a process; then 1."""
    made: list[int] = []

    @executor("demo.pay")
    async def pay(ctx: Context, /) -> None:
        """Pay, and take its time."""
        made.append(1)
        if len(made) == 1:
            for wait_s, cost in amounts:
                await anyio.sleep(wait_s)
                ctx.spend(cost=cost, tokens=2 * cost)
            await anyio.sleep(lasts)
        else:
            ctx.spend(cost=1)

    return pay


def killed(at: float, work: object, *, budget: dict[str, object] | None = None) -> tuple[RunResult, WatchedStore]:
    """A run of one step whose process is killed after so many seconds, and that is resumed."""
    workflow = Workflow("w", budget=budget)
    workflow.step("a", "demo.pay")
    store, clock = WatchedStore(), VirtualClock()
    return kill_at([at], store, clock, Runs(workflow, work)), store


def test_what_a_killed_process_used_up_counts_as_far_as_it_was_noted() -> None:
    """In the result, in the step, in the rows, and in the spans: of the attempt that was lost, of its step and of the run."""
    result, _ = killed(22, spending((0, 10), (20, 5), lasts=HOUR))

    assert noted(result.entries) == [(5, StepUsage(10, 20)), (20, StepUsage(5, 10))]
    assert result.usage.total == result.steps["a"].usage == StepUsage(16, 30)
    (row,) = rows_of(result.entries).steps
    assert (row.cost, row.tokens) == (16, 30)
    projection = SpanProjection()
    spans = [span for entry in result.entries for span in projection.apply(entry)]
    costs = [(span.name, span.attributes.get("treadle.cost.microcents")) for span in spans]
    assert costs == [("attempt a", 15), ("attempt a", 1), ("a", 16), ("RUN w", 16)]


def test_the_last_seconds_may_be_lost() -> None:
    """What was not noted yet goes with the process: nothing is written for each single amount."""
    result, _ = killed(USAGE_EVERY_S - 1, spending((0, 10), lasts=HOUR))

    assert noted(result.entries) == []
    assert result.usage.total == StepUsage(1)


def test_a_run_that_stands_still_shows_what_it_used() -> None:
    """Before anybody resumes it: its row says so."""
    workflow = Workflow("w")
    workflow.step("a", "demo.pay")
    store, clock = WatchedStore(), VirtualClock()
    seen: list[tuple[int, int]] = []

    class Watched(Runs):
        async def again(self, run_id: str, **more: object) -> RunResult:
            (row,) = await store.steps(run_id)
            seen.append((row.cost, row.tokens))
            return await super().again(run_id, **more)

    kill_at([9], store, clock, Watched(workflow, spending((0, 10), lasts=HOUR)))

    assert seen == [(10, 20)]


def test_short_steps_write_nothing_more() -> None:
    """An attempt that is over within seconds has one record with all that it used."""
    workflow = Workflow("w")
    workflow.step("a", "demo.pay")
    result = virtual_run(workflow, executors=[spending((0, 3), (1, 4), (2, 5))], store=WatchedStore())

    assert noted(result.entries) == []
    (ended,) = [entry for entry in result.entries if isinstance(entry, AttemptEnded)]
    assert ended.outcome.usage == StepUsage(12, 24)


def test_memory_notes_nothing() -> None:
    """A run that goes with its process has nobody to note it for."""
    workflow = Workflow("w")
    workflow.step("a", "demo.pay")
    result = virtual_run(workflow, executors=[spending((0, 3), lasts=HOUR)])

    assert noted(result.entries) == []
    assert result.usage.total == StepUsage(3, 6)


def test_a_step_of_many_hours_notes_it_seldom() -> None:
    """Every few seconds at first, every two minutes in the end, only when there is something; the sum is what it used."""
    workflow = Workflow("w")
    workflow.step("a", "demo.pay")
    work = spending(*[(1.0, 1)] * 3600, lasts=20 * HOUR)
    result = virtual_run(workflow, executors=[work], store=WatchedStore())

    times = [at for at, _ in noted(result.entries)]
    assert result.usage.total == StepUsage(3600, 7200)
    assert times[:3] == [6, 11, 16]
    assert len(times) < 80
    assert max(times) <= HOUR + USAGE_SELDOM_S
    projection = SpanProjection()
    spans = [span for entry in result.entries for span in projection.apply(entry)]
    assert {span.attributes["treadle.cost.microcents"] for span in spans} == {3600}
    assert summarise(result.entries).usage == result.usage


def test_a_run_that_is_let_go_of_has_noted_all() -> None:
    """SIGTERM waits for what runs, then notes what it has used up before the process ends."""
    workflow = Workflow("w")
    workflow.step("a", "demo.pay")
    store, clock = WatchedStore(), VirtualClock()
    runs = Runs(workflow, spending((0, 10), lasts=HOUR))

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def let_go(handle: RunHandle) -> None:
                await anyio.sleep(1)
                handle.suspend("let go", drain_s=1)

            with pytest.raises(RunSuspendedError):
                await runs(on_start=lambda handle: group.start_soon(let_go, handle), clock=clock, store=store)

    clock.run(main)
    entries = store.entries(clock.run(partial(only_run, store)))
    assert noted(entries) == [(2, StepUsage(10, 20))]


def test_what_turned_out_to_be_less_is_taken_back() -> None:
    """A note may be less than nothing; the sum is right."""

    @executor("demo.pay")
    async def pay(ctx: Context, /) -> None:
        """Ask for more than it takes."""
        asked = ctx.spend(cost=100, requests=1)
        await anyio.sleep(7)
        asked.settle(cost=30)
        await anyio.sleep(7)

    workflow = Workflow("w")
    workflow.step("a", "demo.pay")
    result = virtual_run(workflow, executors=[pay], store=WatchedStore())

    assert [usage for _, usage in noted(result.entries)] == [StepUsage(100, 0, 1), StepUsage(-70)]
    assert result.usage.total == StepUsage(30, 0, 1)


def test_hooks_are_told_the_whole() -> None:
    """The record of an attempt's end has the rest of what it used; who watches it end is told all."""
    told: list[StepUsage | None] = []

    class Watching:
        """A policy."""

        @hookimpl
        def end_attempt(self, call: Call, outcome: Outcome) -> None:
            """Note what it used."""
            told.append(outcome.usage)

    workflow = Workflow("w")
    workflow.step("a", "demo.pay")
    work = spending((0, 10), (8, 5))
    result = virtual_run(workflow, registry=Registry.of(work, policies=[Watching()]), store=WatchedStore())

    (ended,) = [entry for entry in result.entries if isinstance(entry, AttemptEnded)]
    assert (told, ended.outcome.usage) == ([StepUsage(15, 30)], StepUsage(5, 10))


@pytest.mark.parametrize(("after_crash", "left"), [("charge", 0), ("release", 70)])
def test_a_budget_keeps_what_was_noted(after_crash: str, left: int) -> None:
    """With ``release`` a crash gives back only what nobody knows to be used; with ``charge`` all that was set aside is gone."""
    workflow = Workflow("w", budget={"tokens": 100, "after_crash": after_crash})
    workflow.step("a", "demo.pay")
    conductor = Conductor(compile_plan(workflow))
    facts = [
        RunCreated(0.0, "run", workflow.to_dict(), workflow.hash, {}),
        StintOpened(0.0, 1),
        UsageNoted(5.0, "a", None, 1, StepUsage(tokens=20)),
        UsageNoted(9.0, "a", None, 1, StepUsage(tokens=10)),
        StintOpened(10.0, 2),
    ]
    entries = [entry for fact in facts for entry in conductor.apply(fact).records]

    given = [entry.allowance[0].most for entry in entries if isinstance(entry, AttemptStarted)]
    assert given == [100, left]
    (use,) = budgets_of(entries)
    assert (use.used, use.lost) == (StepUsage(tokens=30), StepUsage(tokens=70 - left))
    copied = Conductor.load(compile_plan(workflow), conductor.dump())
    assert copied.dump() == conductor.dump()
    replayed = Conductor(compile_plan(workflow))
    replayed.replay(entries)
    assert replayed.dump() == conductor.dump()


def test_what_is_noted_of_an_attempt_that_has_ended_changes_no_budget() -> None:
    """It came too late and is evidence only."""
    workflow = Workflow("w", budget={"tokens": 100})
    workflow.step("a", "demo.pay")
    workflow.step("b", "demo.pay", needs=["a"])
    conductor = Conductor(compile_plan(workflow))
    ended = AttemptEnded(1.0, "a", None, 1, Outcome("completed", usage=StepUsage(tokens=10)))
    facts = [RunCreated(0.0, "run", workflow.to_dict(), workflow.hash, {}), StintOpened(0.0, 1), ended]
    for fact in facts:
        conductor.apply(fact)
    before = Conductor.load(compile_plan(workflow), conductor.dump())
    before.apply(TimerFired(2.0, "nobody's"))

    turn = conductor.apply(UsageNoted(2.0, "a", None, 1, StepUsage(tokens=5)))

    assert turn.records == (UsageNoted(2.0, "a", None, 1, StepUsage(tokens=5)),)
    assert conductor.dump() == before.dump()
