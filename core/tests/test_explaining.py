"""Why a run went as it did: every kind of decision, by deciding it again from the facts, never by guessing."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import attrs
import pytest
from treadle import Context, PermanentError, Registry, RunHandle, TransientError, Workflow, executor
from treadle import _scheduler as scheduler_module
from treadle._cli import _explain
from treadle._codec import load_line
from treadle._conductor import Conductor
from treadle._decisions import DecisionKind as Kind
from treadle._explaining import Explained, explain
from treadle._plan import compile_plan
from treadle.errors import ReplayMismatchError
from treadle.ports import (
    DECISIONS,
    AttemptEnded,
    Entry,
    Evaluated,
    Fact,
    InterruptAnswered,
    Outcome,
    RunCreated,
    StintOpened,
)
from treadle.testing import virtual_run

GOLDEN = Path(__file__).parent / "golden"


@executor("ok")
async def ok(value: object = None, seconds: float = 0.0) -> object:
    """Give back the value, after a while."""
    await anyio.sleep(seconds)
    return value


@executor("bad")
async def bad(seconds: float = 0.0) -> None:
    """Fail for good."""
    await anyio.sleep(seconds)
    raise PermanentError("bad")


@executor("odd")
async def odd(value: int) -> int:
    """Fail for even numbers, after a second; that may help."""
    await anyio.sleep(1)
    if value % 2 == 0:
        raise TransientError("even")
    return value


@executor("flaky")
async def flaky(ctx: Context, /, until: int = 9) -> int:
    """Fail until an attempt."""
    if ctx.attempt < until:
        raise TransientError("flaky", retry_after_s=1)
    return ctx.attempt


@executor("dear")
async def dear(ctx: Context, /) -> None:
    """Use up more than most have."""
    ctx.spend(tokens=1000)


REGISTRY = Registry.of(ok, bad, odd, flaky, dear)


def log_of(steps: dict[str, object], on_start: Callable[[RunHandle], object] | None = None, **more: object) -> list[Entry]:
    """The log of a run."""
    workflow = Workflow.from_dict({"name": "w", "steps": steps, **more})
    start: Callable[[RunHandle], None] | None = (lambda handle: (on_start(handle), None)[1]) if on_start is not None else None
    return list(virtual_run(workflow, registry=REGISTRY, on_start=start).entries)


def led_by(steps: dict[str, object], *facts: Fact) -> list[Entry]:
    """The log that facts lead to which no run can be made to have."""
    workflow = Workflow.from_dict({"name": "w", "steps": steps})
    conductor = Conductor(compile_plan(workflow))
    first = RunCreated(0.0, "run", workflow.to_dict(), workflow.hash, {})
    return [entry for fact in (first, StintOpened(0.0, 1), *facts) for entry in conductor.apply(fact).records]


ONE: dict[str, object] = {"a": {"uses": "ok"}}


def cancel_later(handle: RunHandle) -> None:
    handle.cancel("enough")


def after(seconds: float, act: Callable[[RunHandle], object]) -> Callable[[RunHandle], object]:
    """Do something with the run, some seconds of its own time after its start."""
    import asyncio

    return lambda handle: asyncio.get_running_loop().call_later(seconds, act, handle)


def crash(number: int, *, most: int = 3) -> StintOpened:
    return StintOpened(float(number), number, crashed=True, max_crashes=most)


CASES: dict[tuple[Kind, ...], Callable[[], list[Entry]]] = {
    (Kind.RELEASED, Kind.COMPLETED, Kind.RUN_COMPLETED): lambda: log_of(ONE),
    (Kind.RELEASED_AGAIN,): lambda: led_by(ONE, StintOpened(1.0, 2)),
    (Kind.RETRIED, Kind.ATTEMPTS_USED_UP, Kind.STOPPING_ON_FAILURE, Kind.RUN_FAILED): lambda: log_of(
        {"a": {"uses": "flaky", "retry": {"max_attempts": 2}}}
    ),
    (Kind.FELL_BACK,): lambda: log_of({"a": {"uses": "bad", "fallback": {"uses": "ok"}}}),
    (Kind.INTERRUPT_ASKED, Kind.INTERRUPTED): lambda: led_by(
        {"a": {"uses": "ok", "on_interrupt": "ask"}}, StintOpened(1.0, 2), InterruptAnswered(2.0, "a", None, "fail")
    ),
    (Kind.POISONED,): lambda: led_by(ONE, crash(2, most=1)),
    (Kind.CANCELLED_BY_ITSELF,): lambda: led_by(ONE, AttemptEnded(1.0, "a", None, 1, Outcome("cancelled"))),
    (Kind.MAP_STARTED, Kind.ITEMS_COMPLETED): lambda: log_of({"a": {"uses": "ok", "foreach": [1, 2]}}),
    (Kind.NO_ITEMS,): lambda: log_of({"a": {"uses": "ok", "foreach": []}}),
    (Kind.GROUP_STARTED, Kind.STEPS_COMPLETED): lambda: log_of({"g": {"parallel": {"steps": ONE}}}),
    (Kind.WAIT_STARTED, Kind.WAIT_ELAPSED): lambda: log_of({"a": {"wait": "1h"}}),
    (Kind.WAIT_SIGNALLED,): lambda: log_of({"a": {"wait": {"signal": "go"}}}, lambda handle: handle.signal("go")),
    (Kind.REJECTED,): lambda: log_of(
        {"a": {"wait": {"signal": "go", "schema": "approval"}}}, lambda handle: handle.signal("go", {"approved": False})
    ),
    (Kind.WAIT_RAN_OUT, Kind.SIGNAL_MISSED): lambda: log_of({"a": {"wait": {"signal": "go", "timeout": "1h"}}}),
    (Kind.WAIT_DEFAULTED,): lambda: log_of(
        {"a": {"wait": {"signal": "go", "timeout": "1h", "on_timeout": "continue", "default": 1}}}
    ),
    (Kind.WAIT_SKIPPED,): lambda: log_of({"a": {"wait": {"signal": "go", "timeout": "1h", "on_timeout": "skip"}}}),
    (Kind.TAKEN_FROM_CACHE,): lambda: led_by(ONE, AttemptEnded(1.0, "a", None, 1, Outcome("completed", 1, cached=True))),
    (Kind.CONDITION_FALSE,): lambda: log_of({"a": {"uses": "ok", "when": "1 > 2"}}),
    (Kind.BRANCH_NOT_TAKEN,): lambda: log_of(
        {"a": {"choose": {"x": {"when": "true", "uses": "ok"}, "y": {"when": "true", "uses": "ok"}}}}
    ),
    (Kind.NO_BRANCH,): lambda: log_of({"a": {"choose": {"x": {"when": "1 > 2", "uses": "ok"}}}}),
    (Kind.NOT_EVALUATED,): lambda: log_of({"a": {"uses": "ok", "when": "steps.b.output.x.y"}, "b": {"uses": "ok"}}),
    (Kind.NOT_RETRIABLE, Kind.NEED_FAILED): lambda: log_of({"a": {"uses": "bad"}, "b": {"uses": "ok", "needs": ["a"]}}),
    (Kind.RETRIES_USED_UP,): lambda: log_of({"a": {"uses": "flaky"}}, max_retries=1),
    (Kind.BUDGET_REFUSED, Kind.STOPPING_ON_BUDGET): lambda: log_of({"a": {"uses": "dear"}}, budget={"tokens": 1}),
    (Kind.NOT_RETRIED_ANY_MORE,): lambda: log_of({"a": {"uses": "bad", "with": {"seconds": 0.5}}, "b": _even(1)}),
    (Kind.STOPPED,): lambda: log_of(
        {"a": {"uses": "bad"}, "b": {"uses": "ok", "needs": ["c"]}, "c": {"uses": "ok", "with": {"seconds": 1}}}
    ),
    (Kind.ITEMS_FAILED,): lambda: log_of({"a": _even(1, 2)}),
    (Kind.ITEMS_FAILED_IN_PART, Kind.RUN_FAILED_IN_PART): lambda: log_of({"a": {**_even(1, 2), "max_failures": 1}}),
    (Kind.STEPS_FAILED,): lambda: log_of({"g": {"parallel": {"steps": {"a": {"uses": "bad"}}}}}),
    (Kind.STEPS_FAILED_IN_PART,): lambda: log_of(
        {"g": {"parallel": {"on_error": "continue", "steps": {"a": {"uses": "bad"}, **{"b": {"uses": "ok"}}}}}}
    ),
    (Kind.GROUP_TIMED_OUT, Kind.STOPPING_ON_TIMEOUT): lambda: log_of(
        {"g": {"parallel": {"timeout": "1s", "steps": {"a": {"uses": "ok", "with": {"seconds": 9}}}}}}
    ),
    (Kind.STOPPING_ON_CANCEL, Kind.RUN_CANCELLED): lambda: log_of(ONE, cancel_later),
    (Kind.UNDONE, Kind.NOT_UNDONE): lambda: log_of(
        {
            "a": {"uses": "ok", "compensate": {"uses": "ok"}},
            "b": {"uses": "ok", "needs": ["a"], "compensate": {"uses": "bad"}},
            "c": {"uses": "bad", "needs": ["b"]},
        }
    ),
    (Kind.UNDOING_STOPPED,): lambda: log_of(
        {
            "a": {"uses": "ok", "compensate": {"uses": "ok"}},
            "b": {"uses": "ok", "needs": ["a"], "compensate": {"uses": "ok", "with": {"seconds": 60}}},
            "c": {"uses": "bad", "needs": ["b"]},
        },
        after(5, lambda handle: handle.cancel("now", force=True)),
    ),
    (Kind.RUN_TIMED_OUT,): lambda: log_of({"a": {"uses": "ok", "with": {"seconds": 9}}}, timeout="1s"),
}
KINDS = [(kind, case) for kinds, case in CASES.items() for kind in kinds]


def _even(*values: int) -> dict[str, object]:
    return {
        "uses": "odd",
        "foreach": [value * 2 if value == 1 else value - 1 for value in values],
        "with": {"value": "${{ item }}"},
    }


def plan_and(entries: Sequence[Entry]) -> list[Explained]:
    created = entries[0]
    assert isinstance(created, RunCreated)
    return explain(compile_plan(Workflow.from_dict(created.workflow)), entries)


def test_every_kind_of_decision_has_a_case() -> None:
    """None is missing, and none has gone."""
    assert sorted({kind for kind, _ in KINDS}) == sorted(Kind)


@pytest.mark.parametrize(("kind", "case"), KINDS, ids=[kind for kind, _ in KINDS])
def test_a_decision_is_explained(kind: Kind, case: Callable[[], list[Entry]]) -> None:
    """The facts of the log, applied again, give each recorded decision, and say what it rests on; people are told so, too."""
    entries = case()
    told = plan_and(entries)

    assert [each.entry for each in told] == entries
    assert [each.seq for each in told] == list(range(1, len(entries) + 1))
    assert [each.why is not None for each in told] == [isinstance(entry, DECISIONS) for entry in entries]
    found = [each for each in told if each.why is kind]
    assert found
    assert kind.description
    for each in found:
        sentence = _explain._sentence(each)
        assert each.entry.kind not in sentence, "it has words of its own"
        assert len(sentence) > 10


def test_what_a_condition_looked_up_is_told() -> None:
    """With the values of then, also within a group; an expression that gives something else today is a mismatch."""
    inner = {"b": {"uses": "ok", "when": "item > 1 and steps.a.output.n == 7"}}
    steps = {
        "a": {"uses": "ok", "with": {"value": {"n": 7}}},
        "g": {"foreach": [1, 2], "needs": ["a"], "parallel": {"steps": inner}},
    }
    entries = log_of(steps)
    told = {
        each.entry.path: each for each in plan_and(entries) if isinstance(each.entry, Evaluated) and each.entry.what == "when"
    }

    assert told["g[0]/b"].values == {"item": 1, "steps.a.output.n": 7}
    assert told["g[1]/b"].values == {"item": 2, "steps.a.output.n": 7}
    assert "item was 1" in _explain._sentence(told["g[0]/b"])
    place = entries.index(told["g[0]/b"].entry)
    wrong = [*entries[:place], attrs.evolve(told["g[0]/b"].entry, value=True), *entries[place + 1 :]]  # type: ignore[type-var]
    with pytest.raises(ReplayMismatchError):
        plan_and(wrong)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.jsonl")), ids=lambda file: file.stem)
def test_every_golden_log_is_explained(file: Path) -> None:
    """Also what an earlier version wrote: its rules give its decisions, each with what it rests on."""
    entries = [load_line(line) for line in file.read_text("utf-8").splitlines()]

    assert all(each.why is not None for each in plan_and(entries) if isinstance(each.entry, DECISIONS))


def test_every_place_that_decides_says_what_it_rests_on() -> None:
    """Of the scheduler's source: a decision is recorded with its kind, and every kind is used."""
    tree = ast.parse(inspect.getsource(scheduler_module))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    names = {kind.__name__ for kind in DECISIONS}
    bare = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            around: ast.AST = node
            while not isinstance(around, ast.stmt):
                around = parents[around]
            text = ast.unparse(around)
            block = ast.unparse(parents[around])
            if "_decide(" not in text and "entry =" not in text and "self._kinds.append(" not in block:
                bare.append(text)
            elif text.startswith("entry ="):
                assert "self._decide(" in block
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Kind"}

    assert not bare
    assert used == {kind.name for kind in Kind}
