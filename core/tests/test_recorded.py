"""A recorded run done again: its calls are answered from its log, those that are asked for anew are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import anyio
import attrs
import pytest
from treadle import (
    Context,
    Registry,
    RunHandle,
    RunResult,
    TransientError,
    Workflow,
    areplay,
    aresume,
    executor,
    replay,
)
from treadle._memory import MemoryStore
from treadle.errors import InputsInvalidError, ReplayMismatchError, RunSuspendedError, StepNotFoundError
from treadle.ports import AttemptEnded, RunCreated, SignalReceived, StepEnded
from treadle.testing import VirtualClock, virtual_run

calls = Counter[str]()


@executor("demo.add")
async def add(ctx: Context, /, number: int, to: int = 1, fail: int = 0) -> int:
    """Add, after some failures."""
    calls[ctx.step] += 1
    ctx.spend(tokens=1)
    if ctx.attempt <= fail:
        raise TransientError(f"attempt {ctx.attempt}", retry_after_s=3600)
    return number + to


@pytest.fixture(autouse=True)
def nothing_called() -> None:
    calls.clear()


STEPS = {
    "a": {"uses": "demo.add", "with": {"number": "${{ inputs.n }}"}},
    "b": {"uses": "demo.add", "with": {"number": "${{ steps.a.output }}", "fail": "${{ inputs.fail }}"}},
    "c": {"uses": "demo.add", "with": {"number": "${{ steps.b.output }}"}},
    "each": {"uses": "demo.add", "foreach": [1, 2], "with": {"number": "${{ item }}", "to": "${{ inputs.to }}"}},
}
WORKFLOW = Workflow.from_dict(
    {
        "name": "sum",
        "inputs": {"n": {"default": 1}, "to": {"default": 10}, "fail": {"default": 0}},
        "steps": STEPS,
        "finally": {"last": {"uses": "demo.add", "with": {"number": 0}}},
        "outputs": {"c": "${{ steps.c.output }}", "each": "${{ steps.each.output }}"},
    }
)
REGISTRY = Registry.of(add)
again = partial(replay, registry=REGISTRY)


def recorded(store: MemoryStore, **inputs: int) -> RunResult:
    """A run, and the memory of what it called wiped."""
    result = virtual_run(WORKFLOW, dict(inputs), registry=REGISTRY, store=store)
    calls.clear()
    return result


def shape(result: RunResult) -> list[object]:
    """A log without ids, times, costs and where outcomes are from."""
    plain = [attrs.evolve(entry, at=0.0) for entry in result.entries[2:]]  # type: ignore[type-var]  # attrs' own type
    for place, entry in enumerate(plain):
        if isinstance(entry, AttemptEnded):
            bare = attrs.evolve(entry.outcome, started_at=0.0, ended_at=0.0, taken_from="", retry=None, usage=None)
            plain[place] = attrs.evolve(entry, outcome=bare)
        elif hasattr(entry, "due"):
            plain[place] = attrs.evolve(entry, due=0.0)
    return plain


@pytest.mark.parametrize("fail", [0, 2, 3])
def test_nothing_is_called_again(fail: int) -> None:
    """The same log follows from the record, failures and all, without a call and without waiting an hour for a retry; and at
    no cost: the recorded run has paid.
    """
    store = MemoryStore()
    first = recorded(store, fail=fail)
    second = again(first.run_id, store=store)

    assert first.status == ("completed" if fail < 3 else "failed")
    assert not calls
    assert shape(second) == shape(first)
    assert (second.status, second.outputs) == (first.status, first.outputs)
    created = second.entries[0]
    assert isinstance(created, RunCreated)
    assert (created.replay_of, created.replay_from, created.trigger) == (first.run_id, "", "replay")
    assert {entry.outcome.taken_from for entry in second.entries if isinstance(entry, AttemptEnded)} == {first.run_id}
    assert first.usage.total_tokens > 0
    assert not second.usage.total
    assert second.run_id != first.run_id
    assert second.trace_id != first.trace_id


def test_what_follows_from_a_step_runs_anew() -> None:
    """With ``start``: that step, what needs it and ``finally``; what came before and beside it is as it was."""
    store = MemoryStore()
    first = recorded(store, fail=1)
    clock = VirtualClock()
    second = clock.run(partial(areplay, first.run_id, start="b", store=store, registry=REGISTRY, clock=clock))

    assert calls == {"b": 2, "c": 1, "finally/last": 1}
    assert second.outputs == first.outputs
    with pytest.raises(StepNotFoundError, match=r"has no step 'bb'.\nDid you mean 'b'\?"):
        again(first.run_id, start="bb", store=store)


def test_calls_with_other_inputs_are_made() -> None:
    """Another input of the run reaches some steps; those run, and whatever is given another output by them."""
    store = MemoryStore()
    first = recorded(store)
    to = again(first.run_id, {"to": 20}, store=store)
    assert calls == {"each": 2}
    assert to.outputs == {"c": 4, "each": [21, 22]}

    calls.clear()
    n = again(first.run_id, {"n": 5}, store=store)
    assert calls == {"a": 1, "b": 1, "c": 1}
    assert n.outputs == {"c": 8, "each": [11, 12]}
    with pytest.raises(InputsInvalidError, match="no such input"):
        again(first.run_id, {"m": 5}, store=store)


def test_a_replay_of_a_replay_is_one_of_the_first() -> None:
    """What a run was given it gives on."""
    store = MemoryStore()
    first = recorded(store)
    third = again(again(first.run_id, store=store).run_id, store=store)

    assert not calls
    assert third.outputs == first.outputs


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_waits_and_signals_are_those_of_the_record(backend: str) -> None:
    """Nobody waits again for what was over, and what the run was told it is told again."""
    workflow = Workflow.from_dict(
        {
            "name": "waits",
            "steps": {
                "nap": {"wait": "90m"},
                "word": {"wait": {"signal": "go"}, "needs": ["nap"]},
                "use": {"uses": "demo.add", "needs": ["word"], "with": {"number": 1}},
            },
        }
    )
    store = MemoryStore()

    tell: Callable[[RunHandle], object] = lambda handle: handle.signal("go", {"who": "me"})  # noqa: E731 - typed
    first = virtual_run(workflow, registry=REGISTRY, store=store, backend=backend, on_start=tell)
    second = again(first.run_id, store=store, backend=backend)

    assert first.duration_s >= 5400
    assert second.duration_s < 5
    assert [entry.payload for entry in second.entries if isinstance(entry, SignalReceived)] == [{"who": "me"}]
    assert second.steps["word"].output == first.steps["word"].output
    assert [step.status for step in second.steps.values()] == ["completed"] * 3


def test_a_replay_that_was_interrupted_goes_on_as_one() -> None:
    """The stint after a suspension is given recorded outcomes, too."""
    store = MemoryStore()
    first = recorded(store)
    with pytest.raises(RunSuspendedError) as suspended:
        again(first.run_id, store=store, on_start=lambda handle: handle.suspend())
    done = anyio.run(partial(aresume, suspended.value.run_id, store=store, registry=REGISTRY))

    assert done.outputs == first.outputs
    assert not calls


def test_a_log_that_does_not_lead_to_its_decisions_is_refused() -> None:
    """Before anything runs: what cannot have happened so is no ground to stand on."""
    store = MemoryStore()
    first = recorded(store)
    entries = store._runs[first.run_id].entries
    place = next(n for n, entry in enumerate(entries) if isinstance(entry, StepEnded))
    entries[place] = attrs.evolve(entries[place], attempts=7)  # type: ignore[type-var]  # attrs' own type

    with pytest.raises(ReplayMismatchError, match="attempts=7"):
        again(first.run_id, store=store)
    assert len(store._runs) == 1
