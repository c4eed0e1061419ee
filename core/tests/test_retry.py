"""A run that has ended goes on: what did not complete runs again as a new generation, and nothing else does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import anyio
import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle import (
    Context,
    PermanentError,
    Registry,
    RunHandle,
    RunResult,
    StepUsage,
    Workflow,
    aresume,
    aretry,
    executor,
    retry,
    run,
)
from treadle._codec import dump_line, load_line
from treadle._conductor import Conductor
from treadle._generations import following
from treadle._memory import MemoryStore
from treadle._models import AttemptEnded, ErrorInfo, Outcome, idempotency_key
from treadle._plan import Plan, compile_plan
from treadle.errors import NothingToRetryError, RunGoesOnError, RunSuspendedError, StepNotFoundError
from treadle.ports import (
    AttemptStarted,
    CancelRequested,
    Entry,
    RetryRequested,
    RunCreated,
    RunEnded,
    StepEnded,
    StintOpened,
    WaitStarted,
)
from treadle.testing import Recorder, VirtualClock, virtual_run

bad: set[str] = set()
"""Names that fail now."""

called: list[str] = []
keys: list[str] = []


@executor("demo.do")
async def do(ctx: Context, /, name: str = "", seconds: float = 0.0) -> str:
    """Give back the name, or fail while it is bad."""
    item = ctx.step if ctx.index is None else f"{ctx.step}[{ctx.index}]"
    called.append(item if ctx.variant == "primary" else f"{item} {ctx.variant}")
    keys.append(ctx.idempotency_key)
    await anyio.sleep(seconds)
    if (name or ctx.step) in bad:
        raise PermanentError(f"{name or ctx.step} is bad")
    return name or ctx.step


REGISTRY = Registry.of(do)


@pytest.fixture(autouse=True)
def nothing_bad() -> None:
    """Every test begins so."""
    clean()


def clean() -> None:
    bad.clear()
    called.clear()
    keys.clear()


def flow(steps: Mapping[str, object], **more: object) -> Workflow:
    """A workflow whose steps all do."""

    def body(step: object) -> object:
        if not isinstance(step, dict) or step.keys() & {"uses", "parallel", "choose", "wait", "workflow"}:
            return step
        return {"uses": "demo.do", **step}

    return Workflow.from_dict({"name": "w", "steps": {name: body(step) for name, step in steps.items()}, **more})


def again(store: MemoryStore, result: RunResult, start: str = "", *, clock: VirtualClock | None = None) -> RunResult:
    """Retry in virtual time; forgets what was called before."""
    called.clear()
    keys.clear()
    clock = clock or VirtualClock(start=result.ended_at + 10)
    return clock.run(partial(aretry, result.run_id, start=start, store=store, registry=REGISTRY, clock=clock))


def replays(result: RunResult) -> None:
    """The log leads to its decisions, also from JSON lines and from the end of any turn on."""
    entries = [load_line(dump_line(entry)) for entry in result.entries]
    created = entries[0]
    assert isinstance(created, RunCreated)
    plan = compile_plan(Workflow.from_dict(created.workflow))
    Conductor(plan).replay(entries)
    steady = Conductor(plan)
    position = 0
    while position < len(entries):
        turn = steady.apply(entries[position])  # type: ignore[arg-type]  # a fact begins each turn
        assert turn.records == tuple(entries[position : position + len(turn.records)])
        position += len(turn.records)


CHAIN = flow(
    {"a": {}, "b": {"needs": ["a"]}, "c": {"needs": ["b"]}, "beside": {}},
    **{"finally": {"tidy": {"uses": "demo.do"}}, "outputs": {"c": "${{ steps.c.output }}"}},
)


def test_only_what_did_not_complete_runs_again() -> None:
    """The failed step, what hung on it, and ``finally``; the run ends as if nothing had been wrong, in the same trace."""
    store = MemoryStore()
    bad.add("b")
    first = virtual_run(CHAIN, registry=REGISTRY, store=store)
    assert first.status == "failed"
    before = list(keys)
    bad.clear()
    second = again(store, first)

    assert called == ["b", "c", "finally/tidy"]
    assert (second.run_id, second.trace_id) == (first.run_id, first.trace_id)
    assert (second.status, second.outputs) == ("completed", {"c": "c"})
    assert second.entries[: len(first.entries)] == first.entries
    request, opened = second.entries[len(first.entries) :][:2]
    assert isinstance(request, RetryRequested)
    assert (request.generation, request.start, opened.kind) == (2, "", "StintOpened")
    assert not set(keys) & set(before)
    assert keys == [idempotency_key(first.run_id, path, None, generation=2) for path in called]
    assert {step.status for step in second.steps.values()} == {"completed"}
    replays(second)


def test_what_follows_from_a_step_runs_again_though_it_completed() -> None:
    """``start`` says so, in a run that completed as well."""
    store = MemoryStore()
    first = virtual_run(CHAIN, registry=REGISTRY, store=store)
    second = again(store, first, "b")
    third = again(store, second, "c")

    assert second.status == third.status == "completed"
    assert called == ["c", "finally/tidy"]
    assert [entry.generation for entry in third.entries if isinstance(entry, RetryRequested)] == [2, 3]
    replays(third)


def test_items_that_completed_are_kept() -> None:
    """Of a ``foreach`` the failed items run, whatever came after them; the output has both, in order."""
    store = MemoryStore()
    steps = {"each": {"foreach": ["x", "y", "z", "v"], "with": {"name": "${{ item }}"}, "max_parallel": 2}}
    workflow = flow(steps, on_error="continue", outputs={"all": "${{ steps.each.output }}"})
    bad.update(("y", "v"))
    first = virtual_run(workflow, registry=REGISTRY, store=store)
    bad.clear()
    second = again(store, first)

    assert first.outputs == {"all": ["x", None, "z", None]}
    assert called == ["each[1]", "each[3]"]
    assert second.outputs == {"all": ["x", "y", "z", "v"]}
    assert second.status == "completed"
    replays(second)


def test_within_groups_only_what_failed_runs_again() -> None:
    """In parallel groups, branches, items of a ``foreach`` over a group and groups of groups."""
    store = MemoryStore()
    group = {"steps": {"p": {"uses": "demo.do"}, "q": {"uses": "demo.do", "with": {"name": "${{ item }}"}}}}
    inner = {"parallel": {"steps": {"deep": {"uses": "demo.do"}, "fine": {"uses": "demo.do"}}}}
    branches = {"one": {"when": "true", "uses": "demo.do"}, "two": {"when": "true", "uses": "demo.do"}}
    workflow = flow(
        {
            "items": {"foreach": ["x", "y"], "parallel": group},
            "nest": {"parallel": {"steps": {"side": {"uses": "demo.do"}, "inner": inner}}},
            "pick": {"choose": branches, "needs": ["nest"]},
            "end": {"needs": ["pick", "items"]},
        },
        on_error="continue",
        outputs={"items": "${{ steps.items.output }}", "nest": "${{ steps.nest.output }}"},
    )
    bad.update(("y", "nest/inner/deep"))
    first = virtual_run(workflow, registry=REGISTRY, store=store)
    assert first.status == "partial_failure"
    bad.clear()
    second = again(store, first)

    assert sorted(called) == ["end", "items[1]/q", "nest/inner/deep", "pick/one"]
    assert second.status == "completed"
    assert second.outputs["items"] == [{"p": "items[0]/p", "q": "x"}, {"p": "items[1]/p", "q": "y"}]
    assert second.outputs["nest"] == {"side": "nest/side", "inner": {"deep": "nest/inner/deep", "fine": "nest/inner/fine"}}
    assert second.steps["nest"].output == second.outputs["nest"], "the result tells the same"
    replays(second)


def test_a_step_of_a_group_that_completed_can_be_asked_for() -> None:
    """It, what follows from it in the group, and what follows from the group."""
    store = MemoryStore()
    group = {"steps": {"p": {"uses": "demo.do"}, "q": {"uses": "demo.do", "needs": ["p"]}, "r": {"uses": "demo.do"}}}
    workflow = flow({"g": {"parallel": group}, "after": {"needs": ["g"]}, "beside": {}})
    first = virtual_run(workflow, registry=REGISTRY, store=store)
    second = again(store, first, "g/q")

    assert called == ["g/q", "after"]
    assert second.steps["g"].output == {"p": "g/p", "q": "g/q", "r": "g/r"}
    replays(second)


def test_what_was_undone_runs_again() -> None:
    """A step that its compensation has undone is as if it had never run."""
    store = MemoryStore()
    undo = {"compensate": {"uses": "demo.do"}}
    workflow = flow({"book": undo, "pay": {"needs": ["book"], **undo}, "send": {"needs": ["pay"]}})
    bad.add("send")
    first = virtual_run(workflow, registry=REGISTRY, store=store)
    assert called == ["book", "pay", "send", "pay compensation", "book compensation"]
    bad.clear()
    second = again(store, first)

    assert called == ["book", "pay", "send"]
    assert second.status == "completed"
    replays(second)


def test_what_a_group_has_undone_runs_again_with_it() -> None:
    """Its failure was borne, so the run went on; now all of the group that was undone runs, and nothing else."""
    store = MemoryStore()
    undo = {"compensate": {"uses": "demo.do"}}
    group = {"on_error": "stop", "steps": {"book": {"uses": "demo.do", **undo}, "pay": {"uses": "demo.do", "needs": ["book"]}}}
    workflow = flow({"g": {"parallel": group, "on_error": "continue"}, "beside": undo})
    bad.add("g/pay")
    first = virtual_run(workflow, registry=REGISTRY, store=store)
    assert first.status == "partial_failure"
    assert sorted(called) == ["beside", "g/book", "g/book compensation", "g/pay"]
    bad.clear()
    second = again(store, first)

    assert called == ["g/book", "g/pay"]
    assert second.status == "completed"
    replays(second)


def test_a_rejected_approval_is_asked_for_again() -> None:
    """The answer that ended a wait badly is not used twice; a wait that went well is not waited for again."""
    store = MemoryStore()
    steps = {
        "nap": {"wait": "90m"},
        "ok": {"wait": {"signal": "ok", "schema": "approval"}, "needs": ["nap"]},
        "send": {"needs": ["ok"]},
    }
    workflow = flow(steps)
    say_no: Callable[[RunHandle], object] = lambda handle: handle.signal("ok", {"approved": False})  # noqa: E731 - typed
    first = virtual_run(workflow, registry=REGISTRY, store=store, on_start=say_no)
    assert (first.status, first.steps["ok"].status) == ("failed", "failed")
    clock = VirtualClock(start=first.ended_at + 10)
    say_yes: Callable[[RunHandle], object] = lambda handle: handle.signal("ok", {"approved": True})  # noqa: E731 - typed
    second = clock.run(
        partial(aretry, first.run_id, store=store, registry=REGISTRY, clock=clock, on_start=say_yes),
    )

    assert second.status == "completed"
    assert second.ended_at - first.ended_at < 60
    new = second.entries[len(first.entries) :]
    assert [entry.path for entry in new if isinstance(entry, WaitStarted)] == ["ok"]
    replays(second)


def test_deadlines_begin_anew() -> None:
    """A run that took too long has all its time again."""
    store = MemoryStore()
    workflow = flow({"a": {"with": {"seconds": 40}}, "b": {"needs": ["a"], "with": {"seconds": 40}}}, timeout="1m")
    first = virtual_run(workflow, registry=REGISTRY, store=store)
    second = again(store, first)

    assert first.status == "timed_out"
    assert called == ["b"]
    assert second.status == "completed"
    replays(second)


@executor("demo.pay")
async def pay(ctx: Context, /, amount: int = 0) -> int:
    """Spend so many microcents, and fail while it is bad."""
    ctx.spend(cost=amount, tokens=amount, requests=1)
    called.append(ctx.step)
    if ctx.step in bad:
        raise PermanentError("bad")
    return amount


PAYING = Registry.of(pay)


def pay_again(store: MemoryStore, result: RunResult, start: str = "") -> RunResult:
    called.clear()
    clock = VirtualClock(start=result.ended_at + 10)
    return clock.run(partial(aretry, result.run_id, start=start, store=store, registry=PAYING, clock=clock))


def paying(steps: Mapping[str, object], **more: object) -> Workflow:
    return Workflow.from_dict({"name": "w", "steps": steps, **more})


def step_that_pays(amount: int, **more: object) -> dict[str, object]:
    return {"uses": "demo.pay", "with": {"amount": amount}, **more}


def test_a_budget_counts_what_earlier_generations_used() -> None:
    """A failed attempt and a step that is done again have spent what they spent; exactly what is left may be used (C37)."""
    steps = {"a": step_that_pays(40), "b": step_that_pays(30, needs=["a"])}
    store = MemoryStore()
    bad.add("b")
    first = virtual_run(paying(steps, budget={"cost": "0.000001"}), registry=PAYING, store=store)
    bad.clear()
    second = pay_again(store, first)
    third = pay_again(store, second, "b")
    fourth = pay_again(store, third)

    assert [first.status, second.status, third.status] == ["failed", "completed", "failed"]
    assert second.usage.total_cost == 100
    assert called == [], "a budget stop is permanent: it is refused before anything is done"
    assert third.reason == fourth.reason == "the cost budget of the run is used up"
    assert fourth.usage.total_cost == 100
    rows = {row.path: row for row in anyio.run(store.steps, first.run_id)}
    assert (rows["a"].cost, rows["b"].cost, rows["b"].tokens) == (40, 60, 60)
    for result in (second, third, fourth):
        replays(result)


def test_budgets_of_groups_and_steps_count_over_generations() -> None:
    """Each has what it did not use, and what completed in them is not counted a second time."""
    group = {"steps": {"p": step_that_pays(40), "q": step_that_pays(20, needs=["p"])}}
    steps = {"g": {"parallel": group, "budget": {"cost": "0.000001"}}, "s": step_that_pays(10, budget={"tokens": 20})}
    workflow = paying(steps, budget={"cost": "0.000002"}, on_error="continue")
    store = MemoryStore()
    bad.update(("g/q", "s"))
    results = [virtual_run(workflow, registry=PAYING, store=store)]
    for _ in range(3):
        results.append(pay_again(store, results[-1]))

    last = [entry for entry in results[-1].entries if isinstance(entry, AttemptStarted)][-2:]
    assert {(entry.path, limit.resource): limit.most for entry in last for limit in entry.allowance} == {
        ("g/q", "cost"): 0,
        ("s", "cost"): 80,
        ("s", "tokens"): 0,
    }
    used = results[-1].usage.steps
    assert (used["g/p"].cost, used["g/q"].cost, used["s"].tokens) == (40, 60, 20)
    replays(results[-1])


def test_what_a_crash_may_have_spent_counts_in_the_next_generation() -> None:
    """It is set aside for ever; with ``after_crash: release`` it is not."""
    for after_crash, left in (("charge", 20), ("release", 70)):
        workflow = paying(
            {"a": step_that_pays(30, budget={"cost": "0.0000005", "after_crash": after_crash})}, budget={"cost": "0.000001"}
        )
        plan = compile_plan(workflow)
        conductor = Conductor(plan)
        created = RunCreated(1.0, "r", workflow.to_dict(), workflow.hash, {}, "a" * 32, "b" * 16, spenders=("a",))
        outcome = Outcome("failed", error=ErrorInfo("E", "bad"), usage=StepUsage(cost=30))
        facts = [
            *(created, StintOpened(1.0, 1, "o"), StintOpened(2.0, 2, "o", crashed=False)),
            *(AttemptEnded(3.0, "a", None, 1, outcome), RetryRequested(9.0, 2), StintOpened(9.0, 3, "o")),
        ]
        entries = [entry for fact in facts for entry in conductor.apply(fact).records]  # type: ignore[arg-type]  # all facts

        [limit] = [entry for entry in entries if isinstance(entry, AttemptStarted)][-1].allowance
        assert limit.most == (0 if after_crash == "charge" else 20), left


@st.composite
def spending_graphs(draw: st.DrawFn) -> tuple[Workflow, list[set[str]]]:
    """Steps, items and groups that spend, with budgets here and there, and which of them fail in which generation."""

    def step(name: str) -> dict[str, object]:
        names.append(name)
        body = step_that_pays(draw(st.integers(0, 30)), on_error="continue")
        if draw(st.booleans()):
            body["budget"] = {"cost": f"{draw(st.integers(0, 60)) / 1e8:.8f}", "on_exceeded": "fail"}
        if draw(st.integers(0, 2)) == 0:
            body["foreach"] = ["x", "y"]
        return body

    names: list[str] = []
    steps: dict[str, dict[str, object]] = {}
    for number in range(draw(st.integers(1, 3))):
        steps[f"s{number}"] = step(f"s{number}")
    steps["g"] = {"parallel": {"steps": {name: step(f"g/{name}") for name in ("p", "q")}}, "on_error": "continue"}
    if draw(st.booleans()):
        steps["g"]["budget"] = {"cost": f"{draw(st.integers(10, 80)) / 1e8:.8f}", "on_exceeded": "fail"}
    steps["last"] = step_that_pays(0, needs=[*steps], needs_rule="all_done")
    budget = {"cost": f"{draw(st.integers(0, 200)) / 1e8:.8f}", "on_exceeded": "fail"}
    workflow = paying(steps, budget=budget, on_error="continue", max_parallel=draw(st.integers(1, 3)))
    return workflow, [draw(st.sets(st.sampled_from(names), max_size=3)) for _ in range(draw(st.integers(1, 4)))]


@given(spending_graphs())
@settings(max_examples=60, deadline=None)
def test_no_budget_is_exceeded_by_all_generations_together(case: tuple[Workflow, list[set[str]]]) -> None:
    """What attempts of all generations used is at most each cap, of run, group and step; and nothing counts twice: what no
    generation has used can be used by the next.
    """
    workflow, failing = case
    clean()
    store = MemoryStore()
    bad.update(failing[0])
    result = virtual_run(workflow, registry=PAYING, store=store)
    for names in failing[1:]:
        bad.clear()
        bad.update(names)
        result = pay_again(store, result, "" if result.status != "completed" else "last")
    plan = compile_plan(workflow)

    used = result.usage
    for path, step in plan.steps.items():
        mine = sum(usage.cost for place, usage in used.steps.items() if place == path or place.startswith(f"{path}/"))
        assert step.node.budget is None or mine <= (step.node.budget.cost or 0), path
    cap = plan.graph.budget.cost if plan.graph.budget is not None else 0
    assert used.total_cost <= (cap or 0)
    assert [(use.path, use.total.cost) for use in result.budgets if not use.path] == [("", used.total_cost)]
    result = pay_again(store, result, "last")
    [limit] = [entry for entry in result.entries if isinstance(entry, AttemptStarted) and entry.path == "last"][-1].allowance
    assert limit.most == (cap or 0) - result.usage.total_cost
    replays(result)


def test_a_cancelled_run_goes_on_and_is_not_cancelled_again() -> None:
    """What was asked of the run before its end is over with it."""
    store = MemoryStore()
    stop: Callable[[RunHandle], object] = lambda handle: handle.cancel("enough")  # noqa: E731 - typed
    first = virtual_run(CHAIN, registry=REGISTRY, store=store, on_start=stop)
    second = again(store, first)

    assert first.status == "cancelled"
    assert second.status == "completed"
    assert Counter(called)["finally/tidy"] == 1
    assert sum(isinstance(entry, CancelRequested) for entry in second.entries) == 1


def test_what_went_on_without_a_failed_step_follows_it_again() -> None:
    """A step that ran on the null of a failed need is given its output now."""
    store = MemoryStore()
    steps = {"a": {"on_error": "continue"}, "b": {"with": {"name": "${{ steps.a.output or 'nothing' }}"}}}
    bad.add("a")
    first = virtual_run(flow(steps), registry=REGISTRY, store=store)
    bad.clear()
    second = again(store, first)

    assert (first.status, first.steps["b"].output) == ("partial_failure", "nothing")
    assert called == ["a", "b"]
    assert (second.status, second.steps["b"].output) == ("completed", "a")
    replays(second)


def test_a_generation_that_is_interrupted_is_resumed() -> None:
    """Its calls keep their generation; nothing of the one before runs again."""
    store = MemoryStore()
    bad.add("b")
    first = virtual_run(CHAIN, registry=REGISTRY, store=store)
    bad.clear()
    called.clear()
    with pytest.raises(RunSuspendedError):
        retry(first.run_id, store=store, registry=REGISTRY, on_start=lambda handle: handle.suspend())
    done = anyio.run(partial(aresume, first.run_id, store=store, registry=REGISTRY))

    assert done.status == "completed"
    assert called == ["b", "c", "finally/tidy"]
    assert keys[-3:] == [idempotency_key(first.run_id, path, None, generation=2) for path in called]
    replays(done)


def test_spans_and_rows_are_of_their_generation() -> None:
    """No span is given twice, each attempt's is the call's own, and rows tell how things stand now."""
    store = MemoryStore()
    bad.add("b")
    first = virtual_run(CHAIN, registry=REGISTRY, store=store)
    bad.clear()
    second = again(store, first)

    spans = second.spans
    assert len({span.span_id for span in spans}) == len(spans)
    ids = {span.span_id for span in spans}
    assert all(span.parent_id in ids or not span.parent_id for span in spans)
    assert {span.trace_id for span in spans} == {first.trace_id}
    row = anyio.run(store.run, first.run_id)
    assert row is not None
    assert (row.status, row.ended_at, row.stint) == ("completed", second.ended_at, 2)
    steps = {step.path: step for step in anyio.run(store.steps, first.run_id)}
    assert steps["b"].idempotency_key == idempotency_key(first.run_id, "b", None, generation=2)
    assert steps["a"].idempotency_key == idempotency_key(first.run_id, "a", None)
    assert {step.status for step in steps.values()} == {"completed"}


GOLDEN = Path(__file__).parent / "golden-again" / "retried.jsonl"


def golden_run() -> RunResult:
    """A run with every structure, retried twice: what failed, then a step that had completed."""
    store = MemoryStore()
    group = {"steps": {"p": {"uses": "demo.do"}, "q": {"uses": "demo.do", "with": {"name": "${{ item }}"}}}}
    workflow = flow(
        {
            "nap": {"wait": "10m"},
            "items": {"foreach": ["x", "y"], "needs": ["nap"], "parallel": group},
            "each": {"foreach": ["u", "v"], "with": {"name": "${{ item }}"}},
            "pick": {"choose": {"one": {"when": "true", "uses": "demo.do"}, "two": {"else": True, "uses": "demo.do"}}},
            "book": {"compensate": {"uses": "demo.do"}, "needs": ["pick"]},
            "end": {"needs": ["items", "each", "book"]},
        },
        **{"on_error": "continue", "finally": {"tidy": {"uses": "demo.do"}}, "outputs": {"items": "${{ steps.items.output }}"}},
    )
    bad.update(("y", "v"))
    first = virtual_run(workflow, registry=REGISTRY, store=store)
    bad.clear()
    return again(store, again(store, first), "pick")


def golden_lines(entries: Sequence[Entry]) -> str:
    """A log without what differs from run to run."""
    lines = []
    for entry in entries:
        if isinstance(entry, RunCreated):
            entry = attrs.evolve(entry, run_id="golden-again", trace_id="a" * 32, root_span_id="b" * 16)
        elif isinstance(entry, StintOpened):
            entry = attrs.evolve(entry, owner="golden", versions={})
        # A retry begins some milliseconds after its clock, as long as the machine takes.
        data = json.loads(dump_line(entry), parse_float=lambda text: float(text) // 10 * 10)
        drop_tracebacks(data)
        lines.append(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
    return "\n".join(lines) + "\n"


def drop_tracebacks(data: object) -> None:
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        drop_tracebacks(value)
    if isinstance(data, dict):
        data.pop("traceback", None)


def test_the_golden_log_of_a_retried_run_replays_unchanged() -> None:
    """Every later version must make the same of it, and write the same; it is never edited, only others are added."""
    kept = [load_line(line) for line in GOLDEN.read_text("utf-8").splitlines()]
    created, ended = kept[0], kept[-1]
    assert isinstance(created, RunCreated)
    assert isinstance(ended, RunEnded)
    conductor = Conductor(compile_plan(Workflow.from_dict(created.workflow)))

    conductor.replay(kept)

    assert conductor.status is ended.status
    assert sum(isinstance(entry, RetryRequested) for entry in kept) == 2
    assert golden_lines(golden_run().entries) == GOLDEN.read_text("utf-8")


def test_a_retry_that_cannot_be_is_refused() -> None:
    """Nothing to do, no such step, or a run that goes on; the log stays as it was."""
    store = MemoryStore()
    done = virtual_run(CHAIN, registry=REGISTRY, store=store)
    with pytest.raises(NothingToRetryError, match="Everything in run"):
        again(store, done)
    with pytest.raises(StepNotFoundError, match=r"Did you mean 'beside'\?"):
        again(store, done, "besides")
    with pytest.raises(RunSuspendedError) as suspended:
        run(CHAIN, registry=REGISTRY, store=store, on_start=lambda handle: handle.suspend())
    with pytest.raises(RunGoesOnError, match="treadle resume"):
        retry(suspended.value.run_id, store=store, registry=REGISTRY)
    assert list(store.entries(done.run_id)) == list(done.entries)


def test_sinks_are_told_of_the_new_generation_only() -> None:
    """What was told before is not told again."""
    store, recorder = MemoryStore(), Recorder()
    bad.add("b")
    first = virtual_run(CHAIN, registry=REGISTRY, store=store)
    bad.clear()
    retry(first.run_id, store=store, registry=REGISTRY, sinks=[recorder], reason="mended")

    kinds = [record.kind for record in recorder.records]
    assert kinds[:2] == ["RetryRequested", "StintOpened"]
    assert kinds.count("RunEnded") == 1
    assert recorder.records[0].seq == len(first.entries) + 1


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Workflow, set[str]]:
    """A graph of steps, some of them maps, and which of them fail."""
    count = draw(st.integers(2, 7))
    steps: dict[str, dict[str, object]] = {}
    for number in range(count):
        needs = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=2)) if number else []
        step: dict[str, object] = {"needs": [f"s{need}" for need in needs]}
        if draw(st.booleans()):
            step |= {"foreach": ["0", "1"], "with": {"name": f"s{number}-${{{{ item }}}}"}}
        if draw(st.integers(0, 3)) == 0:
            step["on_error"] = "continue"
        steps[f"s{number}"] = step
    names = [f"s{number}" for number in range(count)] + [f"s{number}-{item}" for number in range(count) for item in "01"]
    failing = draw(st.sets(st.sampled_from(names), max_size=4))
    on_error = draw(st.sampled_from(["stop", "continue"]))
    return flow(steps, on_error=on_error, max_parallel=draw(st.integers(1, 3))), failing


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_of_any_graph_only_what_did_not_complete_runs_again(case: tuple[Workflow, set[str]]) -> None:
    """Every call is made with success exactly once, but for those that follow from what had failed; the run completes."""
    workflow, failing = case
    clean()
    bad.update(failing)
    store = MemoryStore()
    first = virtual_run(workflow, registry=REGISTRY, store=store)
    if first.status == "completed":
        return
    good = {
        (entry.path, entry.index)
        for entry in first.entries
        if entry.kind == "AttemptEnded" and entry.outcome.status == "completed"  # type: ignore[union-attr]  # of that kind
    }
    lost = {
        entry.path for entry in first.entries if isinstance(entry, StepEnded) and entry.status not in ("completed", "skipped")
    }
    plan = compile_plan(workflow)
    free = set(plan.steps) - lost - {path for each in lost for path in following(plan, each)}
    bad.clear()
    second = again(store, first)

    assert second.status == "completed"
    started = [(entry.path, entry.index) for entry in second.entries[len(first.entries) :] if isinstance(entry, AttemptStarted)]
    assert not [place for place in started if place in good and place[0] in free | (lost - _after(plan, lost))]
    assert len(started) == len(set(started))
    assert isinstance(second.entries[-1], RunEnded)
    replays(second)


def _after(plan: Plan, lost: set[str]) -> set[str]:
    """The steps that follow from lost ones other than themselves."""
    return {path for each in lost for path in following(plan, each) if path != each}
