"""Executors that raise, exit, hang, cancel themselves or answer what is no data: their step fails, everything else goes on.

Every test runs on asyncio, on uvloop and on trio, with a sibling that must complete, and nothing may be left behind.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from leaping import Leaping
from treadle import Context, Registry, SyncContext, TransientError, Workflow, arun, executor, hookimpl
from treadle import _driver as driver_module
from treadle import _runner as runner_module
from treadle._app import RunHandle
from treadle._models import AttemptEnded, Call, Outcome, StepStatus, Work
from treadle._results import RunResult


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def warm_loops() -> None:
    """What an event loop opens once for the whole process is open before anything is counted."""
    for loop in ("asyncio", "uvloop", "trio"):
        in_loop(partial(anyio.to_thread.run_sync, int), loop)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread, no task and no file descriptor outlives a test. Idle worker threads end with their event loop."""
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 30.0
    while extra := {thread for thread in set(threading.enumerate()) - threads if "trio" not in thread.name.lower()}:
        assert time.monotonic() < deadline, f"left behind: {extra}"
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def in_loop(function: Callable[[], object], loop: str) -> object:
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    return anyio.run(function, backend="trio" if loop == "trio" else "asyncio", backend_options=options)


@executor("sibling")
async def sibling() -> str:
    """Do ordinary work for a while."""
    await anyio.sleep(0.02)
    return "unharmed"


def run_beside_a_sibling(guilty: object, loop: str, clock: Leaping | None = None, **step: object) -> RunResult:
    """Run an executor called ``guilty`` beside two ordinary steps, and see that those complete."""
    workflow = Workflow("survival", on_error="continue")
    workflow.step("guilty", "guilty", **step)  # type: ignore[arg-type]  # the test names them
    first = workflow.step("sibling", "sibling")
    workflow.step("after", "sibling", needs=[first])
    registry = Registry.of(guilty, sibling)

    async def main() -> RunResult:
        with anyio.fail_after(60):
            result = await arun(workflow, registry=registry, clock=clock)
        if loop != "trio":
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    result = in_loop(main, loop)
    assert isinstance(result, RunResult)
    assert result.steps["sibling"].status is StepStatus.COMPLETED
    assert result.steps["after"].output == "unharmed"
    return result


def raising(error: Callable[[], BaseException], *, is_sync: bool) -> object:
    async def async_form() -> None:
        await anyio.lowlevel.checkpoint()
        raise error()

    def sync_form() -> None:
        raise error()

    return executor("guilty")(sync_form if is_sync else async_form)


def answering(make: Callable[[], object], *, is_sync: bool) -> object:
    async def async_form() -> object:
        return make()

    def sync_form() -> object:
        return make()

    return executor("guilty")(sync_form if is_sync else async_form)


# -- exceptions --------------------------------------------------------------------------------------------------------------


class Mute(Exception):
    """Its message cannot be read."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Shapeless(Exception):
    """It cannot be represented."""

    def __repr__(self) -> str:
        raise ValueError("no shape")


class Numeric(Exception):
    """Its message is no text."""

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]  # the mistake


class Deadly(Exception):
    """Reading its message tries to end the process."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Closed(Exception):
    """Its attributes cannot be read."""

    @property
    def retryable(self) -> bool:
        raise ValueError("closed")

    @property
    def status_code(self) -> int:
        raise ValueError("closed")


EXITED = "tried to end the process"
CASES: dict[str, tuple[Callable[[], BaseException], str, str]] = {
    "SystemExit": (partial(SystemExit, 3), "ExecutorExitedError", f"{EXITED} (SystemExit: 3)"),
    "KeyboardInterrupt": (KeyboardInterrupt, "ExecutorExitedError", f"{EXITED} (KeyboardInterrupt)"),
    "GeneratorExit": (GeneratorExit, "ExecutorExitedError", f"{EXITED} (GeneratorExit)"),
    "BaseExceptionGroup": (
        lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("a")]),
        "ExecutorExitedError",
        f"{EXITED} (BaseExceptionGroup: several",
    ),
    "ExceptionGroup": (lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]), "ExceptionGroup", "several"),
    "StopIteration": (partial(StopIteration, 1), "RuntimeError", "StopIteration"),
    "StopAsyncIteration": (partial(StopAsyncIteration, 1), "StopAsyncIteration", "1"),
    "Mute": (Mute, "Mute", "Mute (its message cannot be shown: __str__ raised ValueError)"),
    "Shapeless": (Shapeless, "Shapeless", "Shapeless"),
    "Numeric": (Numeric, "Numeric", "Numeric (its message cannot be shown: __str__ raised TypeError)"),
    "Deadly": (Deadly, "Deadly", "Deadly (its message cannot be shown: __str__ raised SystemExit)"),
    "Closed": (Closed, "Closed", "Closed"),
    "MemoryError": (MemoryError, "MemoryError", "MemoryError"),
    "lone surrogate": (partial(ValueError, "a\ud800b"), "ValueError", "a\\ud800b"),
    "long message": (partial(ValueError, "x" * 1_000_000), "ValueError", "in all)"),
}


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "thread"])
@pytest.mark.parametrize("case", list(CASES))
def test_an_exception_is_an_outcome(case: str, is_sync: bool, loop: str) -> None:
    """Whatever leaves an executor is its step's error, by name, with a message; the process and the siblings go on (S3-75)."""
    make, type_, message = CASES[case]

    result = run_beside_a_sibling(raising(make, is_sync=is_sync), loop)

    step = result.steps["guilty"]
    assert (step.status, step.attempts) == (StepStatus.FAILED, 1)
    assert step.error is not None
    assert step.error.type == type_
    assert message in step.error.message
    assert len(step.error.message) <= 4_096
    assert result.culprit == "guilty"
    if type_ == "ExecutorExitedError":
        assert step.error.remedy == "Return a value or raise an ordinary exception instead; the process goes on."
    json.dumps(result.to_dict())


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "thread"])
def test_a_cancelled_error_of_its_own_is_a_failure(is_sync: bool, loop: str) -> None:
    """Only the run cancels calls: an executor that raises asyncio's CancelledError has failed."""
    result = run_beside_a_sibling(raising(asyncio.CancelledError, is_sync=is_sync), loop)

    error = result.steps["guilty"].error
    assert error is not None
    assert error.type == ("ExecutorExitedError" if loop == "trio" else "CallCancelledError")
    assert "'guilty'" in error.message
    assert error.remedy


def cancels_its_task(how: str) -> object:
    @executor("guilty")
    async def guilty() -> str:
        task = asyncio.current_task()
        assert task is not None
        if how == "later":
            asyncio.get_running_loop().call_later(0.005, task.cancel)
        else:
            task.cancel()
        if how == "waits":
            await anyio.sleep(1)
        return "done"

    return guilty


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("how", "status"), [("waits", "failed"), ("returns", "completed"), ("later", "completed")])
def test_an_executor_that_cancels_its_task_cancels_nobody_else(how: str, status: str, loop: str) -> None:
    """While it waits that is its failure; when it returned its value counts, and what the cancel left behind is undone."""
    result = run_beside_a_sibling(cancels_its_task(how), loop)

    step = result.steps["guilty"]
    assert step.status.value == status
    if how == "waits":
        assert step.error is not None
        assert step.error.type == "CallCancelledError"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_many_executors_that_cancel_their_tasks_leave_enough_workers(loop: str) -> None:
    """More of them than there are workers."""
    workflow = Workflow("many", max_parallel=2)
    workflow.step("each", "guilty", foreach=list(range(10)))
    workflow.step("after", "sibling", needs=["each"])

    async def main() -> RunResult:
        with anyio.fail_after(60):
            return await arun(workflow, registry=Registry.of(cancels_its_task("returns"), sibling))

    result = in_loop(main, loop)

    assert isinstance(result, RunResult)
    assert {path: step.status.value for path, step in result.steps.items()} == {"each": "completed", "after": "completed"}


# -- outputs -----------------------------------------------------------------------------------------------------------------


def cycle() -> object:
    made: dict[str, object] = {}
    made["self"] = [made]
    return made


def deep(levels: int = 5_000) -> object:
    made: list[object] = []
    for _ in range(levels):
        made = [made]
    return made


OUTPUTS: dict[str, tuple[Callable[[], object], str]] = {
    "NaN": (lambda: float("nan"), r"\$: nan is not JSON; return null"),
    "infinity": (lambda: {"a": [1, float("inf")]}, r"\$\.a\[1\]: inf is not JSON"),
    "cycle": (cycle, r"\$\.self\[0\]: contains itself \(a cycle\)"),
    "set": (lambda: {"a": {1}}, r"\$\.a: a set is not JSON; return a list"),
    "bytes": (lambda: [b"x"], r"\$\[0\]: bytes is not JSON; return text"),
    "lone surrogate": (lambda: "a\ud800", r"\$: text with a lone surrogate is not JSON"),
    "lone surrogate in a key": (lambda: {"\udfff": 1}, "text with a lone surrogate is not JSON"),
    "5,000 deep": (deep, r"\$\[0\].* deep"),
    "number as key": (lambda: {1: 2}, "key of type int is not JSON"),
    "object": (object, "an instance of object is not JSON"),
    "generator": (lambda: (item for item in [1]), "a generator is not JSON; return a list"),
    "coroutine function": (lambda: sibling, "is not JSON"),
}


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "thread"])
@pytest.mark.parametrize("case", list(OUTPUTS))
def test_an_output_that_is_no_data_fails_its_step(case: str, is_sync: bool, loop: str) -> None:
    """The error names step, executor, place within the output, and what to return instead."""
    make, message = OUTPUTS[case]

    result = run_beside_a_sibling(answering(make, is_sync=is_sync), loop)

    step = result.steps["guilty"]
    assert (step.status, step.attempts, step.output) == (StepStatus.FAILED, 1, None)
    assert step.error is not None
    assert step.error.type == "OutputInvalidError"
    assert "'guilty'" in step.error.message
    assert re.search(message, step.error.message)
    assert step.error.issues
    assert step.error.remedy == "Correct the executor's return value or its declared type."
    assert result.culprit == "guilty"
    json.dumps(result.to_dict(), ensure_ascii=False).encode()


LARGE = """
import json, resource, sys
import anyio
from treadle import Registry, Workflow, arun, executor

@executor("large")
def large(kind: str) -> object:
    if kind == "text":
        return "x" * 300_000_000
    if kind == "list":
        return [0] * 38_000_000
    return [{"a": f"{number:01000d}", "b": [1, 2, 3]} for number in range(230_000)]

@executor("small")
async def small() -> str:
    return "unharmed"

workflow = Workflow("large", on_error="continue")
workflow.step("large", "large", kind=sys.argv[1])
workflow.step("small", "small")
result = anyio.run(lambda: arun(workflow, registry=Registry.of(large, small)), backend=sys.argv[2])
error = result.steps["large"].error
print(json.dumps({
    "status": result.steps["large"].status.value,
    "sibling": result.steps["small"].output,
    "type": error.type, "message": error.message, "remedy": error.remedy,
    # ru_maxrss begins with what the parent had
    "peak_mb": int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024,
}))
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", ["text", "list", "records"])
def test_an_output_of_300_mb_is_refused_within_a_gigabyte(kind: str, backend: str) -> None:
    """It is measured while it is walked, and never copied; the process peaks below 1 GB."""
    child = subprocess.run(
        [sys.executable, "-c", LARGE, kind, backend], capture_output=True, text=True, timeout=120, check=True
    )
    told = json.loads(child.stdout)

    assert (told["status"], told["sibling"], told["type"]) == ("failed", "unharmed", "OutputInvalidError")
    assert "$" in told["message"]
    assert told["remedy"]
    assert told["peak_mb"] < 1000


# -- deadlines ---------------------------------------------------------------------------------------------------------------


def outcomes(result: RunResult, path: str) -> list[Outcome]:
    entries = (record.entry for record in result.records)
    return [entry.outcome for entry in entries if isinstance(entry, AttemptEnded) and entry.path == path]


def test_an_async_executor_is_stopped_at_its_deadline(loop: str) -> None:
    """Its cleanup runs; the error says which step, which deadline and what to do."""
    cleaned: list[bool] = []

    @executor("guilty")
    async def guilty() -> None:
        try:
            await anyio.sleep(30)
        finally:
            cleaned.append(True)

    result = run_beside_a_sibling(guilty, loop, timeout=0.03, retry={"max_attempts": 1})

    step = result.steps["guilty"]
    assert step.status is StepStatus.TIMED_OUT
    assert step.error is not None
    assert step.error.message == "Step 'guilty' exceeded its timeout of 0.03s."
    assert step.error.remedy == "Raise the step's 'timeout', or make the work shorter."
    assert cleaned == [True]
    assert not outcomes(result, "guilty")[0].detached


def test_a_thread_that_outlives_its_deadline_is_left_behind_and_counted(loop: str) -> None:
    """It cannot be stopped: the outcome says so, and it is not tried again while it may still have effects (T9, W6)."""
    begun, release = threading.Event(), threading.Event()

    @executor("guilty")
    def guilty() -> None:
        begun.set()
        release.wait(60)

    retry = {"max_attempts": 3, "base": 0.01, "jitter": 0}
    try:
        result = run_beside_a_sibling(guilty, loop, Leaping(begun.is_set), timeout="1h", retry=retry)
    finally:
        release.set()

    step = result.steps["guilty"]
    assert (step.status, step.attempts) == (StepStatus.TIMED_OUT, 1)
    assert outcomes(result, "guilty")[0].detached
    assert step.reason == "not retried: its thread still runs and may still have effects"


def test_a_thread_without_effects_is_tried_again_though_the_first_still_runs(loop: str) -> None:
    """``effects="none"`` says that it does no harm."""
    begun, release = threading.Event(), threading.Event()

    @executor("guilty", effects="none")
    def guilty(ctx: SyncContext, /) -> int:
        if ctx.attempt == 1:
            begun.set()
            release.wait(60)
        return ctx.attempt

    retry = {"max_attempts": 2, "base": 0.01, "jitter": 0}
    try:
        result = run_beside_a_sibling(guilty, loop, Leaping(begun.is_set), timeout="1h", retry=retry)
    finally:
        release.set()

    assert result.steps["guilty"].output == 2


def test_no_further_thread_is_started_when_too_many_are_left_behind(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that do not end are bounded (T11)."""
    monkeypatch.setattr(runner_module, "MAX_DETACHED_THREADS", 2)
    release = threading.Event()
    started: list[int] = []

    @executor("guilty")
    def guilty(number: int) -> None:
        started.append(number)
        release.wait(60)

    workflow = Workflow("threads", on_error="continue", max_parallel=1)
    workflow.step("each", "guilty", foreach=[1, 2, 3, 4], number="${{ item }}", timeout="1h", on_error="continue")
    workflow.step("after", "sibling", needs=["each"])

    async def main() -> RunResult:
        return await arun(workflow, registry=Registry.of(guilty, sibling), clock=Leaping(lambda: len(started)))

    try:
        result = in_loop(main, loop)
    finally:
        release.set()

    assert isinstance(result, RunResult)
    assert started == [1, 2]
    assert result.steps["after"].output == "unharmed"
    last = outcomes(result, "each")[-1].error
    assert last is not None
    assert last.message == "2 threads did not stop when told to; no further one is started."
    assert "isolation: process" in last.remedy


def test_one_that_swallows_its_cancellation_is_given_up_after_the_grace(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on without it and its result is there; only then is the stubborn task waited for (T1, T2)."""
    monkeypatch.setattr(driver_module, "GRACE_S", 0.05)
    told: list[RunResult] = []
    may_end: list[bool] = []

    @executor("guilty")
    async def guilty() -> str:
        while not may_end:
            with suppress(BaseException):  # the mistake that this test is about
                await anyio.sleep(0.01)
        return "too late"

    def tell(result: RunResult) -> None:
        told.append(result)
        may_end.append(True)

    workflow = Workflow("stubborn", on_error="continue")
    workflow.step("guilty", "guilty", timeout=0.02, retry={"max_attempts": 1})
    workflow.step("sibling", "sibling")

    async def main() -> RunResult:
        with anyio.fail_after(60):
            return await arun(workflow, registry=Registry.of(guilty, sibling), on_stuck=tell)

    result = in_loop(main, loop)

    assert isinstance(result, RunResult)
    assert result.steps["guilty"].status is StepStatus.TIMED_OUT
    assert result.steps["guilty"].output is None
    assert outcomes(result, "guilty")[0].detached
    assert result.steps["sibling"].output == "unharmed"
    assert [early.status for early in told] == [result.status]


def test_a_value_that_comes_back_at_the_deadline_is_accepted(loop: str) -> None:
    """An executor that finishes its work although it was told to stop has completed (W5, T17)."""

    @executor("guilty")
    async def guilty() -> str:
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            return "done in time after all"
        return "never"

    result = run_beside_a_sibling(guilty, loop, timeout=0.03)

    assert result.steps["guilty"].status is StepStatus.COMPLETED
    assert result.steps["guilty"].output == "done in time after all"


def test_a_timeout_error_of_its_own_is_no_deadline(loop: str) -> None:
    """Who cancelled decides, not the type of the exception (T16)."""

    @executor("guilty")
    async def guilty() -> None:
        with anyio.fail_after(0.01):
            await anyio.sleep(5)

    result = run_beside_a_sibling(guilty, loop, timeout=20, retry={"max_attempts": 1})

    step = result.steps["guilty"]
    assert step.status is StepStatus.FAILED
    assert step.error is not None
    assert step.error.type == "TimeoutError"


def test_a_failing_cleanup_does_not_hide_the_deadline(loop: str) -> None:
    """What ended the call is its deadline, whatever its cleanup raises (T5)."""

    @executor("guilty")
    async def guilty() -> None:
        try:
            await anyio.sleep(5)
        finally:
            raise ValueError("and the cleanup is broken, too")

    result = run_beside_a_sibling(guilty, loop, timeout=0.02, retry={"max_attempts": 1})

    assert result.steps["guilty"].status is StepStatus.TIMED_OUT


# -- cancelling --------------------------------------------------------------------------------------------------------------


def cancelled_run(loop: str, *, force: bool, guilty: object, begun: threading.Event) -> RunResult:
    """A run that is cancelled as soon as its first step has begun."""
    workflow = Workflow("cancelled")
    workflow.step("guilty", "guilty")
    workflow.step("never", "sibling", needs=["guilty"])
    workflow.finally_step("clean", "sibling")
    handles: list[RunHandle] = []

    async def cancel_soon() -> None:
        while not begun.is_set():  # noqa: ASYNC110 - it may be set in a thread
            await anyio.sleep(0.005)
        handles[0].cancel("enough", force=force)
        handles[0].cancel("enough", force=force)

    async def main() -> RunResult:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_soon)
                return await arun(workflow, registry=Registry.of(guilty, sibling), on_start=handles.append)

    result = in_loop(main, loop)
    assert isinstance(result, RunResult)
    return result


@pytest.mark.parametrize("force", [False, True], ids=["graceful", "forced"])
def test_a_cancel_stops_what_runs_starts_nothing_and_cleans_up_unless_forced(force: bool, loop: str) -> None:
    """Asking twice changes nothing."""
    begun = threading.Event()

    @executor("guilty")
    async def guilty() -> None:
        begun.set()
        await anyio.sleep(60)

    result = cancelled_run(loop, force=force, guilty=guilty, begun=begun)

    assert (result.status.value, result.reason) == ("cancelled", "enough")
    assert {path: step.status.value for path, step in result.steps.items()} == {
        "guilty": "cancelled",
        "never": "cancelled",
        "finally/clean": "cancelled" if force else "completed",
    }
    error = result.steps["guilty"].error
    assert error is not None
    assert error.message == "Step 'guilty' was cancelled: enough."


def test_a_cancelled_thread_is_left_behind_and_the_run_ends(loop: str) -> None:
    """Nobody waits for what cannot be stopped."""
    begun, release = threading.Event(), threading.Event()

    @executor("guilty")
    def guilty() -> None:
        begun.set()
        release.wait(60)

    try:
        result = cancelled_run(loop, force=False, guilty=guilty, begun=begun)
    finally:
        release.set()

    assert result.steps["guilty"].status is StepStatus.CANCELLED
    assert outcomes(result, "guilty")[0].detached
    assert result.steps["finally/clean"].output == "unharmed"


def test_a_thread_that_never_began_is_not_left_behind(loop: str) -> None:
    """A call that is cancelled before its thread has begun does nothing, and nothing of it goes on."""
    entered: list[bool] = []
    handles: list[RunHandle] = []

    @executor("guilty")
    def guilty() -> None:
        entered.append(True)

    class TooSoon:
        @hookimpl(wrapper=True)
        def execute(self, call: Call) -> Iterator[None, Work, Work]:  # type: ignore[type-arg]  # a pluggy wrapper
            work = yield

            async def cancelled() -> object:
                handles[0].cancel("enough")
                while anyio.current_effective_deadline() != -math.inf:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.001)
                return await work()

            return cancelled

    workflow = Workflow("cancelled")
    workflow.step("guilty", "guilty")

    async def main() -> RunResult:
        with anyio.fail_after(60):
            registry = Registry.of(guilty, policies=[TooSoon()])
            return await arun(workflow, registry=registry, on_start=handles.append)

    result = in_loop(main, loop)

    assert isinstance(result, RunResult)
    assert result.steps["guilty"].status is StepStatus.CANCELLED
    assert not outcomes(result, "guilty")[0].detached
    assert not entered


def test_a_run_that_is_cancelled_from_outside_leaves_nothing_behind(loop: str) -> None:
    """Whoever awaits the run may cancel it like any other call; executors are cancelled with it."""
    begun: list[str] = []
    cleaned: list[str] = []

    @executor("guilty")
    async def guilty(name: str) -> None:
        begun.append(name)
        try:
            await anyio.sleep(60)
        finally:
            cleaned.append(name)

    workflow = Workflow("outside")
    for name in ("one", "two"):
        workflow.step(name, "guilty", with_={"name": name})

    async def cancel_soon(scope: anyio.CancelScope) -> None:
        while len(begun) < 2:  # noqa: ASYNC110 - two events
            await anyio.sleep(0.005)
        scope.cancel()

    async def main() -> bool:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(cancel_soon, scope)
                await arun(workflow, registry=Registry.of(guilty))
        if loop != "trio":
            assert asyncio.all_tasks() == {asyncio.current_task()}
        return scope.cancelled_caught

    assert in_loop(main, loop) is True
    assert sorted(cleaned) == ["one", "two"]


# -- one call apart from the next --------------------------------------------------------------------------------------------

LEAK: ContextVar[str] = ContextVar("LEAK", default="clean")


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "thread"])
def test_what_a_call_sets_in_its_context_the_next_does_not_see(is_sync: bool, loop: str) -> None:
    """Though one worker performs both."""

    async def async_form(value: str) -> str:
        before = LEAK.get()
        LEAK.set(value)
        await anyio.lowlevel.checkpoint()
        assert LEAK.get() == value
        return before

    def sync_form(value: str) -> str:
        before = LEAK.get()
        LEAK.set(value)
        return before

    workflow = Workflow("context", max_parallel=1)
    workflow.step("each", "sets", foreach=["a", "b", "c"], value="${{ item }}")

    async def main() -> RunResult:
        result = await arun(workflow, registry=Registry.of(executor("sets")(sync_form if is_sync else async_form)))
        assert LEAK.get() == "clean"
        return result

    result = in_loop(main, loop)

    assert isinstance(result, RunResult)
    assert result.steps["each"].output == ["clean", "clean", "clean"]


def test_a_call_sees_the_context_in_which_the_run_was_started(loop: str) -> None:
    """As any function that is awaited does; in threads as well (T15)."""

    @executor("reads")
    async def reads() -> str:
        return LEAK.get() + await anyio.to_thread.run_sync(LEAK.get)

    @executor("reads_too")
    def reads_too() -> str:
        return LEAK.get()

    workflow = Workflow("context")
    workflow.step("a", "reads")
    workflow.step("b", "reads_too")

    async def main() -> RunResult:
        token = LEAK.set("outer ")
        try:
            return await arun(workflow, registry=Registry.of(reads, reads_too))
        finally:
            LEAK.reset(token)

    result = in_loop(main, loop)

    assert isinstance(result, RunResult)
    assert (result.steps["a"].output, result.steps["b"].output) == ("outer outer ", "outer ")


def test_the_idempotency_key_is_the_same_for_every_attempt_and_for_nothing_else(loop: str) -> None:
    """Equal across attempts; different for each item, step and run (G5)."""
    keys: dict[tuple[str, str, int | None], list[str]] = {}

    @executor("effect")
    async def effect(ctx: Context, /) -> None:
        keys.setdefault((ctx.run_id, ctx.step, ctx.index), []).append(ctx.idempotency_key)
        if ctx.attempt < 3:
            raise TransientError("again")

    workflow = Workflow("keys")
    retry = {"max_attempts": 3, "base": 0.001, "jitter": 0}
    workflow.step("one", "effect", retry=retry)
    workflow.step("two", "effect", retry=retry)
    workflow.step("each", "effect", foreach=[1, 1], retry=retry)

    async def main() -> None:
        for _ in range(2):
            (await arun(workflow, registry=Registry.of(effect))).check()

    in_loop(main, loop)

    assert len(keys) == 8
    assert all(len(seen) == 3 and len(set(seen)) == 1 for seen in keys.values())
    assert len({seen[0] for seen in keys.values()}) == 8
    assert all(re.fullmatch(r"trd1-[a-z2-7]{32}", seen[0]) for seen in keys.values())
