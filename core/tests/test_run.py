"""Whole runs with core alone: what a workflow promises, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import resource
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TypedDict

import anyio
import pytest
from treadle import Executor, Registry, RunResult, TransientError, Workflow, arun, executor, run
from treadle._app import RunHandle
from treadle._codec import dump_line
from treadle._conductor import Conductor
from treadle._driver import Driver
from treadle._loader import loads_workflow
from treadle._models import AttemptEnded, RunStatus, SpanRecord, StepStatus
from treadle._runner import Runner
from treadle._scheduler import Scheduler
from treadle.errors import InputsInvalidError, RunFailedError, WorkflowInvalidError
from treadle.ports import SyncContext
from treadle.testing import Recorder, virtual_run

pytestmark = pytest.mark.anyio


@executor("echo")
async def echo(value: object) -> object:
    """Give back what is given."""
    return value


@executor("nap")
async def nap(seconds: float) -> float:
    """Sleep."""
    await anyio.sleep(seconds)
    return seconds


@executor("fail")
async def fail(message: str = "broken") -> None:
    """Raise."""
    raise ValueError(message)


@executor("flaky")
async def flaky(ctx: SyncContext, /) -> int:
    """Succeed at the third attempt."""
    if ctx.attempt < 3:
        raise TransientError("busy")
    return ctx.attempt


def registry() -> Registry:
    return Registry.of(echo, nap, fail, flaky)


# -- whole runs --------------------------------------------------------------------------------------------------------------


async def test_a_workflow_runs_from_its_text_to_its_outputs() -> None:
    """Inputs, references, a condition, a foreach, outputs (S3-10, S3-78)."""
    workflow = loads_workflow(
        """
name: whole
inputs:
  names: {type: array, default: [ada, grace]}
  loud: {type: boolean, required: true}
steps:
  greet:
    foreach: ${{ inputs.names }}
    as: name
    uses: echo
    with: {value: "hello ${{ name }}"}
  shout:
    when: inputs.loud
    uses: echo
    with: {value: "${{ steps.greet.output | join(', ') | upper }}"}
  quiet: {when: not inputs.loud, uses: echo, with: {value: hush}}
outputs:
  said: ${{ steps.shout.output }}
  quiet: ${{ steps.quiet.status }}
""",
        "yaml",
    )

    result = await arun(workflow, {"loud": True}, registry=registry())

    assert result.check() is result
    assert result.outputs == {"said": "HELLO ADA, HELLO GRACE", "quiet": "skipped"}
    assert result.steps["greet"].attempts == 2


def test_an_error_and_its_retries(anyio_backend: str) -> None:
    """Two waits, the third attempt succeeds; each attempt is in the log and has its span (S3-78)."""
    workflow = Workflow("retry")
    workflow.step("flaky", "flaky", retry={"max_attempts": 3, "base": "1m", "jitter": 0})

    result = virtual_run(workflow, registry=registry(), backend=anyio_backend)

    assert result.steps["flaky"].output == 3
    assert result.duration_s == 60 + 120
    ended = [record.entry for record in result.records if isinstance(record.entry, AttemptEnded)]
    assert [(entry.attempt, entry.outcome.status) for entry in ended] == [(1, "failed"), (2, "failed"), (3, "completed")]
    attempts = [span for span in result.spans if span.name == "attempt flaky"]
    assert [span.status for span in attempts] == ["error", "error", "unset"]


def test_independent_steps_run_at_the_same_time(anyio_backend: str) -> None:
    """Three sleeps of a second take one second together, three one after another (S0-02, S3-11, S3-78)."""
    workflow = Workflow("parallel")
    for number in range(3):
        workflow.step(f"s{number}", "nap", seconds=1.0)

    parallel = virtual_run(workflow, registry=registry(), backend=anyio_backend)
    serial = virtual_run(workflow, registry=registry(), backend=anyio_backend, max_parallel=1)

    assert parallel.duration_s < 1.5
    assert (parallel.duration_s, serial.duration_s) == (1.0, 3.0)


async def test_parallel_steps_do_at_least_twice_the_work_on_the_wall_clock() -> None:
    """Ten steps of 20 ms: at most 60 % of the serial time, at least 2 times the throughput (S0-07, S0-50)."""
    workflow = Workflow("parallel")
    for number in range(10):
        workflow.step(f"s{number}", "nap", seconds=0.02)

    async def timed(most: int) -> float:
        begun = time.perf_counter()
        (await arun(workflow, registry=registry(), max_parallel=most)).check()
        return time.perf_counter() - begun

    serial, parallel = await timed(1), min([await timed(10) for _ in range(5)])  # another process may be in the way

    assert parallel <= 0.6 * serial
    assert serial / parallel >= 2


async def test_a_failing_step_harms_no_sibling() -> None:
    """Its dependents are told whose fault it is; the others complete (S3-75, S3-78)."""
    workflow = Workflow("isolated", on_error="continue")
    bad = workflow.step("bad", "fail")
    workflow.step("after", "echo", value=bad.output)
    for number in range(5):
        workflow.step(f"good{number}", "nap", seconds=0.01)

    result = await arun(workflow, registry=registry())

    assert result.status is RunStatus.PARTIAL_FAILURE
    assert (result.culprit, result.steps["after"].reason) == ("bad", "'bad' did not complete")
    assert all(result.steps[f"good{number}"].status is StepStatus.COMPLETED for number in range(5))
    with pytest.raises(RunFailedError, match=r"ended partial_failure; step 'bad' failed: ValueError: broken"):
        result.check()


async def test_at_most_ten_calls_run_at_once_by_default() -> None:
    """Of 50 ready steps exactly 10 (S3-12)."""
    now, peak = 0, 0

    @executor("count")
    async def count() -> None:
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await anyio.sleep(0.002)
        now -= 1

    workflow = Workflow("wide")
    for number in range(50):
        workflow.step(f"s{number}", "count")

    (await arun(workflow, registry=Registry.of(count))).check()

    assert peak == 10


async def test_a_hundred_runs_in_one_loop_share_nothing() -> None:
    """Each has its own inputs, outputs, ids, records and spans, however they interleave (S3-07)."""
    workflow = Workflow("echo")
    value = workflow.input("value", type="integer", required=True)
    waits = workflow.step("waits", "echo_later", value=value)
    workflow.step("each", "echo_later", foreach=[1, 2], value=waits.output[0])
    workflow.output("value", waits.output)
    results: dict[int, RunResult] = {}

    @executor("echo_later")
    async def echo_later(ctx: SyncContext, /, value: int) -> list[object]:
        await anyio.sleep(0.001 * (value % 5))
        return [value, ctx.run_id]

    together = Registry.of(echo_later)

    async def start(number: int) -> None:
        recorder = Recorder()
        result = results[number] = await arun(workflow, {"value": number}, registry=together, sinks=[recorder])
        assert recorder.records == result.records
        assert {record.run_id for record in recorder.records} == {result.run_id}

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(start, number)

    assert {number: result.outputs["value"] for number, result in results.items()} == {
        number: [number, results[number].run_id] for number in range(100)
    }
    assert len({result.run_id for result in results.values()}) == 100
    assert len({result.trace_id for result in results.values()}) == 100


# -- values ------------------------------------------------------------------------------------------------------------------


async def test_what_an_executor_does_to_its_input_does_not_reach_the_recorded_output() -> None:
    """Outputs are immutable once stored: each call is given a copy (S3-05)."""

    @executor("spoil")
    async def spoil(value: object) -> object:
        assert isinstance(value, dict)
        value["list"].append("spoilt")
        value["more"] = True
        return value

    workflow = Workflow("immutable")
    made = workflow.step("made", "echo", value={"list": [1]})
    first = workflow.step("first", "spoil", value=made.output)
    workflow.step("second", "spoil", value=made.output, needs=[first])

    result = await arun(workflow, registry=Registry.of(echo, spoil))

    assert result.steps["made"].output == {"list": [1]}
    assert result.steps["first"].output == result.steps["second"].output == {"list": [1, "spoilt"], "more": True}


async def test_what_an_executor_keeps_of_its_output_does_not_reach_the_record() -> None:
    """It may go on changing its own object; what was stored is a copy (S3-05)."""
    kept: list[dict[str, list[int]]] = []

    @executor("keep")
    async def keep() -> dict[str, list[int]]:
        kept.append({"list": [1]})
        return kept[0]

    @executor("change")
    async def change(value: object) -> object:
        kept[0]["list"].append(2)
        return value

    workflow = Workflow("immutable")
    workflow.step("change", "change", value=workflow.step("keep", "keep").output)

    result = await arun(workflow, registry=Registry.of(keep, change))

    assert result.steps["keep"].output == result.steps["change"].output == {"list": [1]}


class Counted(TypedDict):
    """What a counter answers."""

    total: int


@pytest.mark.parametrize("form", ["function", "class"])
async def test_an_output_that_breaks_its_contract_is_never_accepted(form: str) -> None:
    """An executor that answers {} fails its step, and its dependents never see it (S0-03)."""

    @executor("count")
    async def function() -> Counted:
        return {}  # type: ignore[typeddict-item]  # the mistake

    @executor("count")
    class Class(Executor):
        async def execute(self) -> dict[str, int]:
            return {}

        def validate_output(self, output: object) -> list[str]:
            return [] if output else ["it is empty"]

    workflow = Workflow("contract")
    workflow.step("use", "echo", value=workflow.step("count", "count").output)

    result = await arun(workflow, registry=Registry.of(function if form == "function" else Class, echo))

    step = result.steps["count"]
    assert (step.status, step.output) == (StepStatus.FAILED, None)
    assert step.error is not None
    assert step.error.type == "OutputInvalidError"
    assert step.error.issues
    assert result.steps["use"].attempts == 0


async def test_a_secret_reaches_its_executor_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither records, nor spans, nor the result hold its value."""
    monkeypatch.setenv("TEST_TOKEN", "CANARY-9f3")
    seen: list[str] = []

    @executor("login")
    async def login(header: str) -> int:
        seen.append(header)
        raise RuntimeError(f"refused: {header}")

    workflow = Workflow("secret", on_error="continue", secrets=["TEST_TOKEN"])
    workflow.step("login", "login", header="Bearer ${{ secrets.TEST_TOKEN }}")
    recorder = Recorder()

    result = await arun(workflow, registry=Registry.of(login), sinks=[recorder])

    assert seen == ["Bearer CANARY-9f3"]
    told = repr([result.to_dict(), recorder.spans]) + "".join(map(dump_line, result.entries))
    assert "refused: Bearer ***" in told
    assert "CANARY" not in told


# -- what is refused before anything starts ----------------------------------------------------------------------------------


async def test_a_cycle_is_refused_and_named() -> None:
    """Before anything starts, whichever way its steps wait for each other (S3-14)."""
    workflow = loads_workflow(
        """
name: round
steps:
  a: {uses: echo, with: {value: "${{ steps.c.output }}"}}
  b: {uses: echo, needs: [a], with: {value: 1}}
  c: {uses: echo, with: {value: "${{ steps.b.output }}"}}
  free: {uses: echo, with: {value: 1}}
""",
        "yaml",
    )

    with pytest.raises(WorkflowInvalidError) as caught:
        await arun(workflow, registry=registry())

    (fault,) = caught.value.faults
    assert "a -> c -> b -> a" in fault.message


async def test_inputs_that_do_not_fit_are_refused_all_at_once() -> None:
    """Missing, unknown and of the wrong type."""
    workflow = Workflow("inputs", inputs={"n": {"type": "integer"}, "text": {"type": "string", "required": True}})
    workflow.step("a", "echo", value=1)

    with pytest.raises(InputsInvalidError) as caught:
        await arun(workflow, {"n": "three", "other": 1}, registry=registry())

    assert {fault.path for fault in caught.value.faults} == {"n", "other", "text"}


# -- the trace ---------------------------------------------------------------------------------------------------------------


async def test_the_spans_of_a_run_make_one_tree() -> None:
    """One trace id; every parent_id is a span of the run, but the root's; retries and items have their own (S0-04)."""
    workflow = Workflow("tree", on_error="continue")
    workflow.step("flaky", "flaky", retry={"max_attempts": 3, "base": 0.001, "jitter": 0})
    workflow.step("each", "echo", foreach=[1, 2], value="${{ item }}")
    workflow.step("bad", "fail")
    recorder = Recorder()

    result = await arun(workflow, registry=registry(), sinks=[recorder])

    spans: dict[str, SpanRecord] = {span.span_id: span for span in recorder.spans}
    assert len(spans) == len(recorder.spans) == 1 + 3 + (3 + 2 + 1)
    assert {span.trace_id for span in spans.values()} == {result.trace_id}
    roots = [span for span in spans.values() if span.parent_id not in spans]
    assert [span.name for span in roots] == ["RUN tree"]
    for span in spans.values():
        if span.parent_id in spans:
            parent = spans[span.parent_id]
            assert parent.started_at <= span.started_at <= span.ended_at <= parent.ended_at


# -- states ------------------------------------------------------------------------------------------------------------------


def test_the_states_of_runs_and_steps_are_these() -> None:
    """One vocabulary for everything (S3-61, S3-62)."""
    assert [status.value for status in RunStatus] == [
        "pending",
        "queued",
        "running",
        "suspended",
        "cancelling",
        "completed",
        "partial_failure",
        "failed",
        "cancelled",
        "timed_out",
    ]
    assert [status.value for status in StepStatus] == [
        "pending",
        "running",
        "retrying",
        "completed",
        "partial_failure",
        "cached",
        "skipped",
        "failed",
        "upstream_failed",
        "cancelled",
        "timed_out",
        "interrupted",
        "poisoned",
    ]


# -- a good neighbour --------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow_callbacks(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What asyncio's debug mode says of callbacks that held the loop."""
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        yield lambda: [record.getMessage() for record in caplog.records if "took" in record.getMessage()]


class OwnSeconds:
    """Seconds of one thread, without those in which the machine ran something else although the thread did not wait."""

    def __init__(self) -> None:
        self._at, self._before = time.monotonic(), self._look()

    def __call__(self) -> float:
        """Time on the wall when it has waited for anything since the last call, else its time on the processor."""
        wall, processor, waits = now = self._look()
        self._at += wall - self._before[0] if waits > self._before[2] else processor - self._before[1]
        self._before = now
        return self._at

    def _look(self) -> tuple[float, float, int]:
        return time.monotonic(), time.thread_time(), resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def test_nothing_holds_the_event_loop(slow_callbacks: Callable[[], list[str]]) -> None:
    """In asyncio's debug mode no callback takes over 50 ms, though ``def`` executors block their threads (S3-74)."""

    @executor("block")
    def block() -> str:
        time.sleep(0.06)
        return "x" * 100_000

    workflow = Workflow("blocking")
    for number in range(8):
        workflow.step(f"s{number}", "block")
    workflow.step("each", "echo", foreach=list(range(300)), value="${{ item }}")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.time = OwnSeconds()  # type: ignore[method-assign]  # by it callbacks are timed
        loop.slow_callback_duration = math.inf  # the first run starts threads, and waits for them to begin
        for _ in range(
            30
        ):  # on a busy machine a thread of a step may keep the interpreter; a blocking call is there every time
            before = len(slow_callbacks())
            result = await arun(workflow, registry=Registry.of(block, echo))
            assert result.status is RunStatus.COMPLETED
            slow[:] = slow_callbacks()[before:]
            if loop.slow_callback_duration == 0.05 and not slow:
                break
            loop.slow_callback_duration = 0.05

    slow: list[str] = []
    anyio.run(main, backend="asyncio", backend_options={"debug": True})

    assert slow == []


async def test_nothing_of_a_run_stays_when_its_result_is_gone() -> None:
    """Neither values nor machinery: plan, conductor, scheduler, driver and runner are freed (S3-76)."""
    machinery = (Conductor, Scheduler, Driver, Runner)
    gc.collect()
    # What tests before this one could not end, such as a call that ignores its cancellation, is none of its business.
    before = [thing for thing in gc.get_objects() if isinstance(thing, machinery)]
    handles: list[RunHandle] = []
    workflow = Workflow("freed")
    workflow.step("big", "echo", value=["x"] * 1000)
    workflow.step("bad", "fail", on_error="continue")

    result = await arun(workflow, registry=registry(), on_start=handles.append)
    gone = weakref.ref(result)
    del result, handles
    gc.collect()

    assert gone() is None
    left = [thing for thing in gc.get_objects() if isinstance(thing, machinery)]
    assert not [thing for thing in left if not any(thing is known for known in before)]


def test_run_takes_a_backend_and_returns_a_result(anyio_backend: str) -> None:
    """The blocking form is the same call."""
    workflow = Workflow("blocking")
    workflow.output("x", workflow.step("a", "echo", value=1).output)

    result = run(workflow, registry=registry(), backend=anyio_backend)

    assert result.outputs == {"x": 1}
