"""Virtual time: hours in milliseconds, the same on asyncio and trio."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import trio
from treadle import Registry, RunHandle, TransientError, aresume, executor, send_signal
from treadle._memory import MemoryStore
from treadle._models import RetryScheduled, RunStatus, StepStatus
from treadle._results import RunResult
from treadle._workflow import Workflow
from treadle.errors import RunSuspendedError
from treadle.ports import SyncContext
from treadle.testing import After, Recorder, SignalMissingError, VirtualClock, virtual_run

HOUR = 3600.0


@executor("nap")
async def nap(seconds: float) -> float:
    """Sleep, and say for how long."""
    await anyio.sleep(seconds)
    return seconds


@executor("busy")
def busy(seconds: float) -> str:
    """Work in a thread for real seconds."""
    time.sleep(seconds)
    return threading.current_thread().name


@executor("moody")
async def moody(ctx: SyncContext, /, seconds: float) -> int:
    """Fail for a while, then succeed."""
    await anyio.sleep(seconds)
    if ctx.attempt < 3:
        raise TransientError("not yet")
    return ctx.attempt


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def real_time() -> Iterator[None]:
    """A test in virtual time takes next to no real time."""
    begun, used = time.monotonic(), time.process_time()
    yield
    assert time.process_time() - used < 1.0
    assert time.monotonic() - begun < 60  # the machine may be busy with others


@pytest.mark.usefixtures("real_time")
def test_a_50_hour_workflow_runs_in_under_a_second(backend: str) -> None:
    """With retries, timeouts and a foreach; 50 hours pass on its clock and in its spans, not on the wall."""
    workflow = Workflow("long", on_error="continue")
    first = workflow.step("first", "nap", seconds=20 * HOUR)
    workflow.step("slow", "nap", seconds=2 * HOUR, timeout="1h", needs=[first], retry={"max_attempts": 1})
    retry = {"max_attempts": 3, "base": "1h", "max_delay": "4h", "jitter": 0}
    again = workflow.step("again", "moody", seconds=HOUR, needs=[first], retry=retry)
    workflow.step("each", "nap", foreach=[5 * HOUR] * 10, seconds="${{ item }}", max_parallel=2, needs=[again])
    recorder = Recorder()

    result = virtual_run(workflow, executors=[nap, moody], backend=backend, sinks=[recorder])

    # 20 h, then three attempts of an hour with waits of 1 h and 2 h, then ten times 5 h, two at a time.
    assert result.duration_s == (20 + 3 + 1 + 2 + 25) * HOUR
    assert {path: step.status.value for path, step in result.steps.items()} == {
        "first": "completed",
        "slow": "timed_out",
        "again": "completed",
        "each": "completed",
    }
    assert result.steps["slow"].duration_s == HOUR
    assert result.status is RunStatus.PARTIAL_FAILURE
    root = recorder.span("RUN long")
    assert root.ended_at - root.started_at == result.duration_s


@pytest.mark.usefixtures("real_time")
def test_a_day_of_sleep_costs_nothing_and_sleepers_wake_in_order(backend: str) -> None:
    """Ordinary ``anyio.sleep`` in executors, in any number of tasks."""
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await anyio.sleep(seconds)
        woken.append(seconds)

    async def main() -> float:
        begun = anyio.current_time()
        async with anyio.create_task_group() as group:
            for seconds in (86_400.0, 0.5, 3600.0, 10.0):
                group.start_soon(sleep, seconds)
        return anyio.current_time() - begun

    assert VirtualClock().run(main, backend=backend) == pytest.approx(86_400.0)
    assert woken == [0.5, 10.0, 3600.0, 86_400.0]


def test_time_does_not_jump_while_a_thread_works(backend: str) -> None:
    """A ``def`` executor with a deadline an hour away is not timed out: time runs at the pace of real time meanwhile."""
    workflow = Workflow("threads")
    workflow.step("busy", "busy", seconds=0.05, timeout="1h")
    workflow.step("nap", "nap", seconds=0.01)
    begun = time.monotonic()

    result = virtual_run(workflow, executors=[busy, nap], backend=backend)

    assert result.status is RunStatus.COMPLETED
    assert 0.05 <= result.duration_s < time.monotonic() - begun + 1.0


def test_a_thread_that_hangs_is_timed_out_at_the_pace_of_real_time(backend: str) -> None:
    """Deadlines hold in virtual time too."""
    released = threading.Event()

    @executor("hangs")
    def hangs() -> None:
        released.wait(60)

    workflow = Workflow("threads")
    workflow.step("hangs", "hangs", timeout=0.05, retry={"max_attempts": 1})
    begun = time.monotonic()

    result = virtual_run(workflow, executors=[hangs], backend=backend)
    released.set()

    assert result.steps["hangs"].status is StepStatus.TIMED_OUT
    assert 0.05 <= result.duration_s < time.monotonic() - begun + 1.0


def test_patience_lets_time_wait_for_what_it_cannot_see(backend: str) -> None:
    """With patience an executor's own thread is waited for; the deadline is hours away and stays there."""

    @executor("own")
    async def own() -> str:
        await anyio.to_thread.run_sync(time.sleep, 0.02)
        return "done"

    workflow = Workflow("own")
    workflow.step("own", "own", timeout="1h")

    result = virtual_run(workflow, executors=[own], backend=backend, clock=VirtualClock(patience_s=20))

    assert result.status is RunStatus.COMPLETED
    assert result.duration_s == 0.0


def test_one_clock_serves_run_after_run(backend: str) -> None:
    """Its time goes on where the last run left it."""
    clock = VirtualClock(start=1000.0)
    workflow = Workflow("nap")
    workflow.step("nap", "nap", seconds=60.0)

    first = virtual_run(workflow, executors=[nap], backend=backend, clock=clock)
    second = virtual_run(workflow, executors=[nap], backend=backend, clock=clock)

    assert (first.started_at, first.ended_at) == (1000.0, 1060.0)
    assert (second.started_at, second.ended_at) == (1060.0, 1120.0)
    assert clock.now() == 1120.0


def test_now_may_be_asked_from_a_thread(backend: str) -> None:
    """Spans of ``def`` executors are stamped there."""
    clock = VirtualClock(start=500.0)

    @executor("asks")
    def asks(ctx: SyncContext, /) -> float:
        with ctx.span("GET"):
            return clock.now()

    workflow = Workflow("asks")
    workflow.step("asks", "asks")

    result = virtual_run(workflow, executors=[asks], backend=backend, clock=clock)

    assert 500.0 <= result.steps["asks"].output < 530.0


@pytest.mark.parametrize(("attempts", "waits"), [(3, [1.0, 2.0]), (12, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300])])
def test_waits_between_attempts_double_up_to_their_maximum(backend: str, attempts: int, waits: list[float]) -> None:
    """Base 1 s, at most 300 s, 3 attempts unless more are asked for: 1 s, 2 s, 4 s ... (S1-46, S1-47, C03)."""

    @executor("down")
    async def down() -> None:
        raise TransientError("down")

    workflow = Workflow("down")
    retry = {"preset": "durable"} if attempts == 3 else {"preset": "durable", "max_attempts": attempts}
    workflow.step("down", "down", retry=retry)
    recorder = Recorder()

    result = virtual_run(workflow, executors=[down], backend=backend, sinks=[recorder])

    scheduled = [entry for entry in recorder.entries("RetryScheduled", "down") if isinstance(entry, RetryScheduled)]
    assert [entry.due - entry.at for entry in scheduled] == waits
    assert result.steps["down"].attempts == attempts
    assert result.duration_s == sum(waits)


def test_a_recorder_keeps_records_spans_and_progress(backend: str) -> None:
    """In order, numbered from 1."""

    @executor("tells")
    async def tells(ctx: SyncContext, /) -> None:
        ctx.progress(1, 2, "half")

    workflow = Workflow("tells")
    workflow.step("tells", "tells")
    recorder = Recorder()

    result = virtual_run(workflow, executors=[tells], backend=backend, sinks=[recorder])

    assert recorder.records == result.records
    assert [record.seq for record in recorder.records] == list(range(1, len(recorder.records) + 1))
    assert recorder.spans == result.spans
    assert recorder.progressed == [("tells", 1, 2, "half")]
    with pytest.raises(LookupError, match="no span is called 'nothing'; there are: "):
        recorder.span("nothing")


# -- signals


def waiting() -> Workflow:
    workflow = Workflow("waiting")
    workflow.wait("go", signal="go")
    return workflow


def test_what_sleeps_for_ever_does_not_move_time(backend: str) -> None:
    """A task without a deadline is no reason to jump, while what cannot be seen goes on."""
    clock = VirtualClock(start=0.0)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            await anyio.to_thread.run_sync(time.sleep, 0.02)
            group.cancel_scope.cancel()

    clock.run(main, backend=backend)

    assert clock.now() == 0.0


def test_a_patient_clock_jumps_although_the_store_is_asked_for_news(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However patient it is: to be asked whether the event loop lives, twice in that time, is nothing that happens there."""
    monkeypatch.setattr("treadle._heart.LISTEN_S", 0.1)
    results: list[RunResult] = []
    missing: list[str] = []

    def patiently() -> None:
        clock = VirtualClock(patience_s=0.25)
        results.append(virtual_run(waiting(), backend=backend, signals={"go": After(HOUR, 7)}, clock=clock))
        try:
            virtual_run(waiting(), backend=backend, clock=clock)
        except SignalMissingError as error:
            missing.extend(error.awaited)

    thread = threading.Thread(target=patiently, daemon=True)  # it would never end
    thread.start()
    thread.join(120)

    assert [result.duration_s for result in results] == [HOUR]
    assert missing == ["go"]


@pytest.mark.usefixtures("real_time")
def test_a_signal_that_nobody_sends_ends_the_run(backend: str) -> None:
    """At once, whatever patience the clock has; signals may be given."""
    for patience_s in (0.0, 0.01):
        clock = VirtualClock(start=0.0, patience_s=patience_s)
        with pytest.raises(SignalMissingError, match="step 'go' waits for the signal 'go', which nobody sends"):
            virtual_run(waiting(), backend=backend, clock=clock)
        assert clock.now() == 0.0

    result = virtual_run(waiting(), backend=backend, signals={"go": After(HOUR, 7)})

    assert result.steps["go"].output == 7
    assert result.duration_s == HOUR


def test_a_run_that_was_given_up_can_be_sent_its_signal(backend: str) -> None:
    """It is let go of, not lost, when its store is durable."""

    class Durable(MemoryStore):
        is_durable = True

    clock, store = VirtualClock(), Durable()
    with pytest.raises(SignalMissingError) as failure:
        virtual_run(waiting(), backend=backend, clock=clock, store=store)

    run_id = failure.value.run_id
    send_signal(run_id, "go", 7, store=store)
    result = clock.run(partial(aresume, run_id, registry=Registry.of(), store=store, clock=clock), backend=backend)

    assert result.steps["go"].output == 7


def test_what_the_event_loop_will_do_is_waited_for(backend: str) -> None:
    """A signal may come from a task, or a timer, of the test's own; or from an executor that works for long."""
    handles: list[RunHandle] = []

    async def later() -> None:
        await trio.sleep(HOUR)
        handles[0].signal("go", "at last")

    def start(handle: RunHandle) -> None:
        handles.append(handle)
        if backend == "trio":
            trio.lowlevel.spawn_system_task(later)
        else:
            asyncio.get_running_loop().call_later(HOUR, handle.signal, "go", "at last")

    @executor("operator")
    async def operator() -> None:
        await anyio.sleep(2 * HOUR)
        handles[0].signal("stop", "enough")

    workflow = waiting()
    workflow.wait("stop", signal="stop")
    workflow.step("operator", "operator")
    result = virtual_run(workflow, executors=[operator], backend=backend, on_start=start)

    assert (result.steps["go"].output, result.steps["stop"].output) == ("at last", "enough")
    assert result.duration_s == 2 * HOUR


def test_a_clock_that_is_held_waits_for_signals_of_other_threads(backend: str) -> None:
    """They come through the store, in real time."""
    clock, store = VirtualClock(), MemoryStore()
    threads: list[threading.Thread] = []

    with ExitStack() as held:

        def start(handle: RunHandle) -> None:
            held.enter_context(clock.hold())
            send = partial(send_signal, handle.run_id, "go", 7, store=store)
            threads.append(threading.Thread(target=send))
            threads[0].start()

        result = virtual_run(waiting(), backend=backend, clock=clock, store=store, on_start=start)
    threads[0].join()

    assert result.steps["go"].output == 7


def test_a_run_that_is_suspended_by_its_owner_says_so(backend: str) -> None:
    """It is not taken for one that misses a signal."""
    with pytest.raises(RunSuspendedError, match="enough"):
        virtual_run(waiting(), backend=backend, on_start=lambda handle: handle.suspend("enough"))


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "test-a-workflow.md"


def examples() -> dict[str, Callable[[], None]]:
    """Every test of the page on testing, with what stands before it."""
    names: dict[str, Callable[[], None]] = {}
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE))
    exec(compile(code, str(PAGE), "exec"), names)
    return {name: function for name, function in names.items() if name.startswith("test_")}


@pytest.mark.usefixtures("real_time")
@pytest.mark.parametrize("name", list(examples()))
def test_the_page_on_testing_says_what_is_so(name: str) -> None:
    """Each example runs, in next to no time."""
    examples()[name]()
