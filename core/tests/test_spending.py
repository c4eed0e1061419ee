"""``ctx.spend``: counted whatever becomes of the attempt, recorded with it, and shown."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import spenders
from leaping import Leaping
from treadle import Pipeline, Registry, RunResult, StepUsage, Workflow, run
from treadle._codec import dump_entry, load_entry
from treadle._log_rows import rows_of
from treadle._models import AttemptEnded
from treadle._results import summarise
from treadle.testing import Recorder

REGISTRY = Registry.of(*spenders.ALL)
ONCE = {"max_attempts": 1}


def one(
    uses: str,
    *,
    retry: Any = ONCE,
    backend: str = "asyncio",
    step: Any = None,
    clock: Leaping | None = None,
    sinks: Sequence[object] = (),
    **inputs: Any,
) -> RunResult:
    workflow = Workflow("w", on_error="continue")
    workflow.step("s", f"spend.{uses}", retry=retry, with_=inputs, **(step or {}))
    return run(workflow, registry=REGISTRY, backend=backend, clock=clock, sinks=sinks)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("uses", "step"), [("async", {}), ("sync", {}), ("sync", {"isolation": "process"}), ("async", {"isolation": "process"})]
)
def test_what_is_used_up_is_counted(uses: str, step: Any, backend: str) -> None:
    """On the event loop, in a thread, and in a process of its own (S4-13)."""
    result = one(uses, step=step, backend=backend, cost=100_000, tokens=7, requests=1, times=3).check()

    assert result.usage.total == result.steps["s"].usage == StepUsage(300_000, 21, 3)
    assert result.usage.steps == {"s": StepUsage(300_000, 21, 3)}


def test_what_turned_out_to_be_less_is_counted_so() -> None:
    """In a thread and in a process of its own."""
    assert one("settle", cost=100, actual=30).usage.total == StepUsage(30, 0, 1)
    assert one("settle", step={"isolation": "process"}, cost=100, actual=300).usage.total == StepUsage(300, 0, 1)


def test_failed_attempts_have_cost_too() -> None:
    """Each attempt counts once, those that failed included (S4-13)."""
    result = one("fail", retry={"max_attempts": 3, "base": "1ms"}, cost=10, failures=2).check()

    assert result.steps["s"].attempts == 3
    assert result.usage.total == StepUsage(30, 3, 0)
    assert one("fail", cost=10, failures=9).usage.total == StepUsage(10, 1, 0)


@pytest.mark.parametrize(
    ("uses", "step"),
    [("wait", {}), ("hang", {"isolation": "process"}), ("hang", {})],
)
def test_what_was_used_before_a_deadline_counts(uses: str, step: Any) -> None:
    """Also of a thread that does not stop, and of a process that is ended."""
    recorder = Recorder()
    clock = Leaping(lambda: len(recorder.progressed))
    result = one(uses, step={"timeout": "1h", **step}, clock=clock, sinks=[recorder], cost=50)

    assert result.steps["s"].status == "timed_out"
    assert result.usage.total == StepUsage(50)


def test_what_a_process_used_before_it_died_counts() -> None:
    """It had said so before it went on."""
    result = one("die", step={"isolation": "process"}, cost=50)

    assert result.steps["s"].error is not None
    assert result.steps["s"].error.type == "ExecutorDiedError"
    assert result.usage.total == StepUsage(50)


def test_nobody_spends_after_the_attempt(tmp_path: Path) -> None:
    """What is recorded is final: a thread that was left behind is refused."""
    note = tmp_path / "over" / "refused"
    result = one("late", cost=50, refused=str(note))

    note.parent.mkdir()
    deadline = time.monotonic() + 30
    while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert note.read_text() == "CallCancelledError"
    assert result.usage.total == StepUsage(50)


def test_items_add_up() -> None:
    """Those of a ``foreach``, in the step and in its rows."""
    workflow = Workflow("w")
    workflow.step("s", "spend.async", foreach=[1, 2, 3], cost="${{ item }}", tokens=10)

    result = run(workflow, registry=REGISTRY).check()

    rows = {(row.path, row.index): (row.cost, row.tokens) for row in rows_of(result.entries).steps}
    assert result.steps["s"].usage == StepUsage(6, 30, 0)
    assert rows == {("s", None): (6, 30), ("s", 0): (1, 10), ("s", 1): (2, 10), ("s", 2): (3, 10)}


def test_the_log_holds_it() -> None:
    """With the end of each attempt, as JSON and back; who reads the log again counts the same, once."""
    result = one("fail", retry={"max_attempts": 3, "base": "1ms"}, cost=10, failures=1)
    ended = [entry for entry in result.entries if isinstance(entry, AttemptEnded)]

    read = [load_entry(json.loads(json.dumps(dump_entry(entry)))) for entry in result.entries]

    assert [entry.outcome.usage for entry in ended] == [StepUsage(10, 1), StepUsage(10, 1)]
    assert read == list(result.entries)
    assert summarise(read).usage == result.usage
    assert "usage" not in dump_entry(one("caught", cost=0).entries[4])


def test_spans_carry_it() -> None:
    """Attempts, steps and the run: what the worker reports is cost and tokens, beside how long it took (S1-25)."""
    result = one("async", cost=100_000, tokens=7, requests=1, times=2)

    carried = {
        span.name: (span.attributes.get("treadle.cost.microcents"), span.attributes.get("treadle.tokens"), span.ended_at > 0)
        for span in result.spans
    }
    assert carried == dict.fromkeys(("RUN w", "s", "attempt s"), (200000, 14, True))


def test_nothing_is_said_of_what_used_nothing() -> None:
    """No span attribute, no key."""
    result = one("async")

    assert not [key for span in result.spans for key in span.attributes if "cost" in key or "tokens" in key]
    assert "usage" not in result.to_dict()
    assert "usage" not in result.to_dict()["steps"]["s"]  # type: ignore[operator,index]  # JSON


def test_results_say_it_in_dollars_too() -> None:
    """The object of ``treadle run --json``."""
    expected = {"cost_microcents": 100_000, "cost_usd": "0.001", "tokens": 7, "requests": 0}

    told: Any = one("async", cost=100_000, tokens=7).to_dict()

    assert told["usage"] == told["steps"]["s"]["usage"] == expected


def test_a_pipeline_says_what_it_used() -> None:
    """As one sum, and by step (S4-16)."""
    result = anyio.run(
        lambda: Pipeline([(spenders.spend_async, {"cost": 5}, "a"), (spenders.spend_sync, {"tokens": 9}, "b")]).execute({})
    )

    assert result.usage.total_cost == 5
    assert result.usage.steps == {"spend_async": StepUsage(cost=5), "spend_sync": StepUsage(tokens=9)}
