"""Budgets of runs, groups and steps, from the workflow to the end of the run."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest
import spenders
from treadle import Context, Registry, RunResult, StepUsage, Workflow, aretry, arun, executor, make_plan, run
from treadle._conductor import Conductor
from treadle._memory import MemoryStore
from treadle._models import AttemptEnded, AttemptStarted, Outcome, RunCreated, StepStatus, StintOpened
from treadle._plan import compile_plan
from treadle.errors import WorkflowInvalidError
from treadle.testing import VirtualClock, virtual_run


@executor("spend.silent")
async def silent() -> str:
    """Cannot spend: it takes no context."""
    return "nothing"


REGISTRY = Registry.of(*spenders.ALL, silent)


def workflow(**options: Any) -> Workflow:
    return Workflow("w", **options)


def statuses(result: RunResult) -> dict[str, str]:
    return {path: step.status.value for path, step in result.steps.items()}


def allowances(result: RunResult) -> list[int]:
    started = [entry for entry in result.entries if isinstance(entry, AttemptStarted)]
    return [limit.most for entry in started for limit in entry.allowance if limit.resource != "wall_time"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("uses", ["spend.async", "spend.sync"])
def test_fifty_parallel_steps_never_exceed_the_cap(uses: str, backend: str) -> None:
    """A budget for 10 of 50 calls at once: exactly 10 are made, 40 are refused before, and not one is tried again (C37)."""
    wf = workflow(budget={"cost": "0.01"}, on_error="continue", max_parallel=50)
    for number in range(50):
        wf.step(
            f"s{number}", uses, cost=100_000, requests=1, budget={"cost": "0.001"}, retry={"max_attempts": 5, "base": "1ms"}
        )

    result = run(wf, registry=REGISTRY, backend=backend)

    assert result.usage.total == StepUsage(1_000_000, 0, 10)
    assert sum(step.status == "completed" for step in result.steps.values()) == 10
    assert max(step.attempts for step in result.steps.values()) == 1
    assert result.status == "failed"
    assert result.reason == "the cost budget of the run is used up"


def test_a_cost_budget_is_enforced_by_what_the_context_is_told() -> None:
    """Refused before the call that would exceed it, exactly what is there is allowed; the run stops early (S4-15)."""
    wf = workflow(budget={"cost": "0.003"})
    first = wf.step("a", "spend.async", cost=100_000, times=1, budget={"cost": "0.001"})
    second = wf.step("b", "spend.async", cost=100_000, times=2, needs=[first], budget={"cost": "0.002"})
    wf.step("c", "spend.async", cost=1, needs=[second])
    wf.step("d", "spend.silent", needs=["c"])

    result = run(wf, registry=REGISTRY)

    assert statuses(result) == {"a": "completed", "b": "completed", "c": "failed", "d": "upstream_failed"}
    assert result.usage.total_cost == 300_000
    assert (result.status, result.culprit, result.reason) == ("failed", "c", "the cost budget of the run is used up")
    assert result.error is not None
    assert (result.error.type, result.error.message) == (
        "BudgetExceededError",
        "Step 'c' asks for 0.00000001 USD, and 0.00 USD are left of its even share of the cost budget of the run.",
    )


def test_a_budget_is_divided_evenly_among_those_that_can_spend() -> None:
    """The first ones get the remainder; executors without a context get nothing; unused money comes back (S1-34, C37)."""
    together = workflow(budget={"tokens": 11})
    for name in ("a", "b", "c"):
        together.step(name, "spend.async", tokens=1)
    together.step("silent", "spend.silent")
    apart = workflow(budget={"tokens": 11})
    for name, needs in (("a", []), ("b", ["a"]), ("c", ["b"])):
        apart.step(name, "spend.async", tokens=1, needs=needs)

    assert allowances(run(together, registry=REGISTRY).check()) == [4, 4, 3]
    assert allowances(run(apart, registry=REGISTRY).check()) == [4, 5, 9]


def test_groups_and_items_share_what_they_got() -> None:
    """Of the run, the group; of the group, its steps; of a step, its items."""
    wf = workflow(budget={"tokens": 100})
    group = wf.parallel("g", budget={"tokens": 40})
    group.step("a", "spend.async", tokens=5)
    group.step("b", "spend.async", tokens=20)
    wf.step("each", "spend.async", foreach=[1, 2, 3], tokens=20)

    result = run(wf, registry=REGISTRY).check()

    assert allowances(result) == [20, 20, 20, 20, 20]
    assert result.usage.total_tokens == 85


def test_a_group_stops_alone() -> None:
    """Its budget is used up: nothing more of it starts, and the rest of the run goes on."""
    wf = workflow(on_error="continue")
    group = wf.parallel("g", budget={"tokens": 10}, max_parallel=1, on_error="continue")
    group.step("a", "spend.async", tokens=10, budget={"tokens": 10})
    group.step("b", "spend.async", tokens=1, needs=["a"])
    group.step("c", "spend.silent", needs=["a"])
    group.step("d", "spend.silent", needs=["c"])
    wf.step("other", "spend.async", tokens=500)

    result = run(wf, registry=REGISTRY)

    assert statuses(result)["g/b"] == "failed"
    assert statuses(result)["g/d"] == "cancelled"
    assert result.steps["g"].reason == "the tokens budget of the group g is used up"
    assert (statuses(result)["g"], statuses(result)["other"], result.status) == ("failed", "completed", "partial_failure")


def test_on_exceeded_fail_ends_only_the_step() -> None:
    """Its ``on_error`` decides what follows, as for any failure."""
    wf = workflow(budget={"tokens": 10, "on_exceeded": "fail"}, on_error="continue", max_parallel=1)
    wf.step("a", "spend.async", tokens=11)
    wf.step("b", "spend.async", tokens=10, needs_rule="all_done", needs=["a"])

    result = run(wf, registry=REGISTRY)

    assert (statuses(result), result.status) == ({"a": "failed", "b": "completed"}, "partial_failure")
    assert result.steps["a"].reason == "not retried: the tokens budget of the run does not hold so much"


def test_a_refusal_may_be_treated() -> None:
    """An executor that catches it goes on, and so does the run; a fallback may be cheaper."""
    wf = workflow(budget={"tokens": 10, "on_exceeded": "fail"})
    wf.step("caught", "spend.caught", cost=5, budget={"cost": "0"})
    cheaper = {"uses": "spend.async", "with": {"tokens": 10}}
    wf.step("b", "spend.async", tokens=11, budget={"tokens": 10}, fallback=cheaper)

    result = run(wf, registry=REGISTRY).check()

    assert result.steps["caught"].output == "BudgetExceededError"
    assert result.usage.total == StepUsage(tokens=10)


def test_after_and_warn_let_through_what_before_refuses(caplog: pytest.LogCaptureFixture) -> None:
    """``after`` ends the step whose spending crossed the limit; ``warn`` only says so."""

    def spending(mode: str) -> RunResult:
        wf = workflow(budget={"tokens": 10, "mode": mode})
        wf.step("a", "spend.async", tokens=6, times=3)
        return run(wf, registry=REGISTRY)

    before, after, warn = spending("before"), spending("after"), spending("warn")

    assert [(result.status, result.usage.total_tokens) for result in (before, after, warn)] == [
        ("failed", 6),
        ("failed", 12),
        ("completed", 18),
    ]
    assert after.reason == "the tokens budget of the run is used up"
    assert [record.getMessage() for record in caplog.records if record.name == "treadle.budgets"] == [
        "a has used more than the tokens budget of the run holds: 12 of 10"
    ]


def test_an_unknown_price_fails_under_a_limit() -> None:
    """Permanently, and nothing is counted; without a limit of cost the tokens count."""
    limited, free = workflow(budget={"cost": "1"}), workflow(budget={"tokens": 10})
    for wf in (limited, free):
        wf.step("a", "spend.unpriced", tokens=7, retry={"max_attempts": 3, "base": "1ms"})

    refused = run(limited, registry=REGISTRY)

    assert refused.error is not None
    assert (refused.error.type, refused.steps["a"].attempts, refused.usage.total) == ("UnknownPriceError", 1, StepUsage())
    assert run(free, registry=REGISTRY).check().usage.total_tokens == 7


def test_failures_and_timeouts_use_the_budget_up() -> None:
    """Each attempt is given what the ones before it have left; a retry that could not pay is not made twice."""
    wf = workflow(budget={"cost": "0.0000001"})
    wf.step("a", "spend.fail", cost=4, failures=9, retry={"max_attempts": 5, "base": "1ms"})

    result = run(wf, registry=REGISTRY)

    assert allowances(result) == [10, 6, 2]
    assert result.usage.total_cost == 8
    assert (result.steps["a"].attempts, result.steps["a"].error and result.steps["a"].error.type) == (3, "BudgetExceededError")


def test_a_process_of_its_own_keeps_to_the_budget() -> None:
    """What is set aside travels with the call, and what was used comes back."""
    wf = workflow(budget={"tokens": 10})
    wf.step("a", "spend.sync", tokens=4, times=3, isolation="process")

    result = run(wf, registry=REGISTRY)

    assert (result.status, result.usage.total_tokens) == ("failed", 8)
    assert result.error is not None
    assert result.error.type == "BudgetExceededError"
    assert "Step 'a' asks for 4 tokens, and 2 tokens are left of its even share" in result.error.message


def test_a_runs_time_is_a_budget_too() -> None:
    """What runs is ended when it is up, what waits is not started, no retry is made for later, and ``finally`` runs."""
    wf = workflow(budget={"wall_time": "1m"}, on_error="continue")
    wf.step("quick", "spend.wait", cost=1, seconds=1)
    wf.step("slow", "spend.wait", cost=2, seconds=3600)
    wf.wait("signal", signal="never")
    wf.step("after", "spend.silent", needs=["slow"])
    wf.finally_step("clean", "spend.wait", cost=4, seconds=3600)

    result = virtual_run(wf, registry=REGISTRY)

    assert statuses(result) == {
        "quick": "completed",
        "slow": "failed",
        "signal": "cancelled",
        "after": "cancelled",
        "finally/clean": "completed",
    }
    assert result.steps["slow"].ended_at - result.started_at == pytest.approx(60.0, abs=0.1)
    assert (result.status, result.reason) == ("failed", "the wall_time budget of the run is used up")
    assert result.error is not None
    assert result.error.message == "The wall_time budget of the run is used up."
    assert result.usage.total_cost == 7


def test_a_steps_time_counts_its_retries() -> None:
    """Not its needs; a retry that would come too late is refused at once, and the deadline of an attempt is the nearer one."""
    wf = workflow(on_error="continue")
    first = wf.step("first", "spend.wait", cost=0, seconds=100)
    late = wf.step("late", "spend.fail", cost=0, failures=9, needs=[first], budget={"wall_time": "10s"}, retry={"base": "30s"})
    wf.step(
        "slow", "spend.wait", cost=0, seconds=60, needs=[late], needs_rule="all_done", timeout="20s", budget={"wall_time": "5s"}
    )

    result = virtual_run(wf, registry=REGISTRY)

    assert result.steps["late"].reason == "not retried: the wall_time budget of the step late will be used up"
    assert result.steps["slow"].error is not None
    assert result.steps["slow"].error.message == "The wall_time budget of the step slow is used up."
    assert result.steps["slow"].duration_s == pytest.approx(5.0, abs=0.1)


def test_a_resumed_run_keeps_what_was_set_aside() -> None:
    """What a call might have spent before its process went away counts, so the cap holds; a log replays to the same state."""
    wf = workflow(budget={"tokens": 10}, max_parallel=2)
    for name in ("a", "b", "c"):
        wf.step(name, "spend.wait", cost=0, seconds=3600)
    plan = make_plan(wf, REGISTRY)
    store, clock = MemoryStore(), VirtualClock()

    def stop(handle: Any) -> None:
        group.start_soon(later, handle)

    async def later(handle: Any) -> None:
        await anyio.sleep(1)
        handle.suspend(drain_s=1)

    async def main() -> None:
        nonlocal group
        async with anyio.create_task_group() as group:
            await arun(plan, registry=REGISTRY, store=store, clock=clock, on_start=stop)

    group: Any = None
    with pytest.raises(BaseException, match=r"suspended|unhandled"):
        clock.run(main)
    entries = [record.entry for record in clock.run(partial(read, store))]
    before = [entry.allowance[0].most for entry in entries if isinstance(entry, AttemptStarted)]

    conductor = Conductor(compile_plan(wf))
    conductor.replay(entries)
    turn = conductor.apply(stint(entries))

    again = [entry.allowance[0].most for entry in turn.records if isinstance(entry, AttemptStarted)]
    assert (before, again) == ([4, 3], [2, 1])
    assert sum(before) + sum(again) <= 10
    copied = Conductor.load(compile_plan(wf), conductor.dump())
    assert copied.dump() == conductor.dump()
    assert copied.outstanding() == conductor.outstanding()


def test_after_a_crash_what_is_tried_alone_keeps_to_the_budget() -> None:
    """Calls that may have caused it run one after the other, each with a share of what is left."""
    wf = workflow(budget={"tokens": 30}, max_parallel=2)
    for name in ("a", "b", "c"):
        wf.step(name, "spend.async")
    conductor = Conductor(compile_plan(wf))
    facts = [
        RunCreated(0.0, "run", wf.to_dict(), wf.hash, {}),
        StintOpened(0.0, 1),
        StintOpened(1.0, 2, crashed=True, max_crashes=3),
    ]
    spent = Outcome("completed", usage=StepUsage(tokens=1))

    turns = [conductor.apply(fact) for fact in facts]
    turns += [conductor.apply(AttemptEnded(2.0, name, None, 1, spent, stint=2)) for name in ("a", "b", "c")]

    given = [
        (entry.path, entry.allowance[0].most) for turn in turns for entry in turn.records if isinstance(entry, AttemptStarted)
    ]
    assert given == [("a", 10), ("b", 10), ("a", 5), ("b", 5), ("c", 8)]
    assert conductor.status == "completed"


async def read(store: MemoryStore) -> Any:
    [row] = (await store.runs(_all())).runs
    return await store.read(row.run_id)


def _all() -> Any:
    from treadle.ports import RunQuery

    return RunQuery()


def stint(entries: Any) -> Any:
    from treadle._models import StintOpened

    return StintOpened(entries[-1].at, 2)


def test_a_run_that_goes_on_again_has_its_time_anew() -> None:
    """What completed counts as it did, in money too; a run that was stopped by its time or its money can be retried."""
    wf = workflow(budget={"wall_time": "1m", "tokens": 20})
    for name, needs in (("a", []), ("b", ["a"])):
        wf.step(name, "spend.wait", cost=5, seconds=40, needs=needs)
    store, clock = MemoryStore(), VirtualClock()

    first = clock.run(partial(arun, wf, registry=REGISTRY, store=store, clock=clock))
    again = clock.run(partial(aretry, first.run_id, registry=REGISTRY, store=store, clock=clock))

    assert (first.status, first.reason) == ("failed", "the wall_time budget of the run is used up")
    assert (again.status, again.steps["a"].attempts) == ("completed", 1)
    given = [entry.allowance[0].most for entry in again.entries if isinstance(entry, AttemptStarted)]
    assert given == [10, 20, 20]
    assert again.usage.total_cost == 15


def test_who_can_spend_is_recorded() -> None:
    """So that a log replays without the executors; only where there is something to divide."""
    limited, free = workflow(budget={"tokens": 10}), workflow()
    for wf in (limited, free):
        wf.step("a", "spend.async")
        wf.step("b", "spend.silent")

    created = [run(wf, registry=REGISTRY).entries[0] for wf in (limited, free)]

    assert [entry.spenders for entry in created if isinstance(entry, RunCreated)] == [("a",), None]


@pytest.mark.parametrize(
    ("step", "path", "message"),
    [
        ({"uses": "spend.async", "budget": {"cost": 1}}, "steps.a.budget.cost", "put it in quotes: '1'"),
        ({"uses": "spend.async", "budget": {"tokns": 1}}, "steps.a.budget.tokns", "did you mean 'tokens'?"),
        ({"wait": "5m", "budget": {"tokens": 1}}, "steps.a.budget", "budget"),
        (
            {"parallel": {"steps": {"b": {"uses": "spend.async", "budget": {}}}}},
            "steps.a.parallel.steps.b.budget",
            "limits nothing",
        ),
    ],
)
def test_faults_of_budgets_have_their_place(step: Any, path: str, message: str) -> None:
    """In the run, in steps and in groups."""
    with pytest.raises(WorkflowInvalidError) as raised:
        Workflow.from_dict({"name": "w", "steps": {"a": step}})

    assert [fault.path for fault in raised.value.faults] == [path]
    assert message in str(raised.value)


def test_budgets_read_back_the_same() -> None:
    """In files and builders, on runs, steps and groups."""
    wf = workflow(budget={"cost": "$2.50", "wall_time": "2h", "on_exceeded": "fail"})
    wf.step("a", "spend.async", budget={"tokens": 5})
    group = wf.parallel("g", budget={"requests": 3, "mode": "warn"})
    group.step("b", "spend.async")
    wf.finally_step("f", "spend.async", budget={"tokens": 1})

    data: Any = wf.to_dict()

    assert data["budget"] == {"cost": "2.50", "wall_time": "2h", "on_exceeded": "fail"}
    assert (data["steps"]["a"]["budget"], data["steps"]["g"]["budget"]) == ({"tokens": 5}, {"requests": 3, "mode": "warn"})
    assert Workflow.from_dict(data) == wf


def test_a_subflow_keeps_to_its_own_budget_and_to_its_steps() -> None:
    """The smaller of each."""
    inner = Workflow("inner", budget={"tokens": 5, "cost": "1"})
    inner.step("b", "spend.async", tokens=6)
    wf = workflow(on_error="continue")
    wf.subflow("sub", inner, budget={"tokens": 50, "requests": 1})

    result = run(wf, registry=REGISTRY)

    started = next(entry for entry in result.entries if isinstance(entry, AttemptStarted))
    assert {limit.resource: limit.most for limit in started.allowance} == {"tokens": 5, "cost": 100_000_000, "requests": 1}
    assert result.steps["sub/b"].status is StepStatus.FAILED
    assert result.steps["sub"].reason == "the tokens budget of the group sub is used up"


def test_what_undoes_is_paid_from_what_is_left() -> None:
    """A compensation has a share of its own, and is made although the time is up."""

    @executor("spend.undo")
    async def undo(ctx: Context, /) -> None:
        ctx.spend(tokens=2)

    wf = workflow(budget={"tokens": 12, "wall_time": "10s"})
    wf.step("a", "spend.async", tokens=4, compensate={"uses": "spend.undo"})
    wf.step("slow", "spend.wait", cost=0, seconds=60, needs=["a"])

    result = virtual_run(wf, registry=REGISTRY.knowing(undo))

    assert result.status == "failed"
    assert result.usage.total_tokens == 6
