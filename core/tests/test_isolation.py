"""isolation: process: whatever an executor does in its process, its step ends with a telling error and everything else goes on.

On asyncio, uvloop and trio, and nothing is left behind: no process, no thread, no file descriptor.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import attrs
import misbehaving as m
import pytest
from leaping import Leaping
from treadle import Registry, SyncContext, Workflow, arun, client, executor, hookimpl, make_plan
from treadle._config import Config
from treadle._error_info import FromChild, describe_error, dump_error, load_error
from treadle._isolated_child import load_call
from treadle._isolation import dump_call
from treadle._models import Call, GiveUp, Json, Outcome, RetryAfter, RetryPolicy, SecretReference, StepStatus, Work
from treadle._origin import Origin, load_origin, origin_of
from treadle._results import RunResult
from treadle._retries import propose
from treadle.errors import (
    ConfigInvalidError,
    OutputInvalidError,
    PluginBrokenError,
    StepTimeoutError,
    TransientError,
    WorkflowInvalidError,
)
from treadle.testing import Recorder, VirtualClock

ONCE = {"max_attempts": 1}
MEASURED = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
"""With these a child's lines are counted, when somebody counts."""


@pytest.fixture(params=["asyncio", "uvloop", "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", autouse=True)
def warm_loops() -> None:
    """What an event loop opens once for the whole process is open before anything is counted."""
    for loop in ("asyncio", "uvloop", "trio"):
        in_loop(partial(anyio.to_thread.run_sync, int), loop)


def family() -> set[int]:
    """The processes that descend from this one; a dead one that nobody collected counts too."""
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        children = {int(one) for file in Path(f"/proc/{pid}/task").glob("*/children") for one in read(file).split()}
        waiting += children - found
        found |= children
    return found


def read(file: Path) -> str:
    """What is in it; nothing when its thread has just ended."""
    try:
        return file.read_text()
    except OSError:
        return ""


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No process, no thread and no file descriptor outlives a test."""
    descriptors, processes, threads = len(os.listdir("/proc/self/fd")), family(), set(threading.enumerate())
    yield
    deadline = time.monotonic() + 30.0
    while extra := {thread for thread in set(threading.enumerate()) - threads if "trio" not in thread.name.lower()}:
        assert time.monotonic() < deadline, f"left behind: {extra}"
        time.sleep(0.01)
    assert not family() - processes
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def in_loop(function: Callable[[], object], loop: str) -> object:
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    return anyio.run(function, backend="trio" if loop == "trio" else "asyncio", backend_options=options)


def config(**limits: object) -> Config:
    given = list(limits.pop("pass_env", ()))  # type: ignore[call-overload]  # a list of names
    return Config(limits={"process": {**limits, "pass_env": [*given, *MEASURED]}})


@executor("sibling")
async def sibling() -> str:
    """Do ordinary work for a while."""
    await anyio.sleep(0.02)
    return "unharmed"


def run_in(loop: str, workflow: Workflow, *executors: object, settings: Config | None = None, **options: object) -> RunResult:
    """Run a workflow to its end, on one of the loops."""
    registry = Registry.of(*executors, sibling, config=settings or config())

    async def main() -> RunResult:
        with anyio.fail_after(120):
            return await arun(workflow, registry=registry, **options)  # type: ignore[arg-type]  # the test names them

    result = in_loop(main, loop)
    assert isinstance(result, RunResult)
    return result


def beside_a_sibling(
    guilty: object,
    name: str,
    loop: str = "asyncio",
    settings: Config | None = None,
    inputs: dict[str, object] | None = None,
    clock: Leaping | None = None,
    **step: object,
) -> RunResult:
    """Run one executor beside two ordinary steps, and see that those complete."""
    workflow = Workflow("survival", on_error="continue")
    workflow.step("guilty", name, with_=inputs, **step)  # type: ignore[arg-type]  # the test names them
    first = workflow.step("sibling", "sibling")
    workflow.step("after", "sibling", needs=[first])
    result = run_in(loop, workflow, guilty, settings=settings, clock=clock)
    assert result.steps["sibling"].status is StepStatus.COMPLETED
    assert result.steps["after"].output == "unharmed"
    return result


def error_of(result: RunResult) -> tuple[str, str]:
    error = result.steps["guilty"].error
    assert error is not None
    return error.type, error.message


# -- it ends -----------------------------------------------------------------------------------------------------------------


def test_what_never_ends_is_ended_at_its_deadline(loop: str) -> None:
    """S2-53, S2-64: ``while True: pass`` is over at its timeout, for certain, while its siblings go on."""
    began = time.monotonic()

    result = beside_a_sibling(m.spin, "bad.spin", loop, timeout=0.5, retry=ONCE)

    assert result.steps["guilty"].status is StepStatus.TIMED_OUT
    assert error_of(result) == ("StepTimeoutError", "Step 'guilty' exceeded its timeout of 0.5s.")
    assert time.monotonic() - began < 60
    outcome = next(entry.outcome for entry in result.entries if isinstance(getattr(entry, "outcome", None), Outcome))
    assert not outcome.detached


def test_what_ignores_the_request_to_stop_is_killed_with_all_its_descendants(loop: str, tmp_path: Path) -> None:
    """S2-64: TERM, two seconds of grace, KILL; children that left the group and dropped their environment are found too."""
    pids = tmp_path / "pids"

    clock = Leaping(lambda: pids.exists() and len(pids.read_text().split()) == 3)

    result = beside_a_sibling(m.stubborn, "bad.stubborn", loop, None, {"pids": str(pids)}, clock, timeout="1h", retry=ONCE)

    assert result.steps["guilty"].status is StepStatus.TIMED_OUT
    assert [pid for pid in map(int, pids.read_text().split()) if is_alive(pid)] == []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize(("bad", "name"), [(m.cleans_up, "good.cleans_up"), (m.cleans_up_async, "good.cleans_up_async")])
def test_what_is_told_to_stop_may_clean_up(loop: str, tmp_path: Path, bad: object, name: str) -> None:
    """TERM arrives as an exception in a ``def`` and as a cancellation in an ``async def``: their ``finally`` runs."""
    note = tmp_path / "note"
    clock = Leaping(lambda: note.exists() and note.read_text() == "began")

    result = beside_a_sibling(bad, name, loop, None, {"path": str(note)}, clock, timeout="1h", retry=ONCE)

    assert result.steps["guilty"].status is StepStatus.TIMED_OUT
    assert note.read_text() == "cleaned up"


def test_a_cancelled_run_stops_its_children(loop: str) -> None:
    """Cancelling ends the process, not only the wait for it."""
    workflow = Workflow("cancelled")
    workflow.step("spin", "bad.spin")
    handles: list[object] = []

    async def main() -> RunResult:
        result: list[RunResult] = []

        async def go() -> None:
            result.append(await arun(workflow, registry=Registry.of(m.spin, config=config()), on_start=handles.append))

        async with anyio.create_task_group() as group:
            group.start_soon(go)
            while not running_children():  # noqa: ASYNC110 -- another process starts to work
                await anyio.sleep(0.02)
            handles[0].cancel("enough")  # type: ignore[attr-defined]  # a RunHandle
        return result[0]

    result = in_loop(main, loop)

    assert isinstance(result, RunResult)
    assert (result.status.value, result.steps["spin"].status) == ("cancelled", StepStatus.CANCELLED)


def running_children() -> list[int]:
    """Descendants that are using the processor now."""
    found = []
    for pid in family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] == "R" and int(fields[11]) > 10:
            found.append(pid)
    return found


def test_a_cancelled_task_stops_its_children(loop: str) -> None:
    """S2-64: a run that is itself cancelled from outside, by its event loop, leaves no process."""
    workflow = Workflow("cancelled")
    workflow.step("spin", "bad.spin")

    async def main() -> bool:
        with anyio.move_on_after(1.5) as scope:
            await arun(workflow, registry=Registry.of(m.spin, config=config()))
        return scope.cancelled_caught

    assert in_loop(main, loop)


# -- it dies -----------------------------------------------------------------------------------------------------------------

DEATHS = [
    (
        m.leave,
        "bad.exit",
        {"code": 7},
        r"Executor 'bad.exit' ended its process with exit code 7\..*\n  these were its\n  last words$",
    ),
    (m.leave, "bad.exit", {"code": 0}, r"ended its process with exit code 0\."),
    (m.segfault, "bad.segfault", {}, r"was killed by SIGSEGV \(a segmentation fault\)\.[\s\S]*misbehaving\.py"),
    (
        m.killed,
        "bad.killed",
        {"number": int(signal.SIGKILL)},
        r"was killed by SIGKILL \(perhaps the system ran out of memory\)\.$",
    ),
    (m.killed, "bad.killed", {"number": int(signal.SIGABRT)}, r"was killed by SIGABRT"),
    (m.mute, "bad.mute", {}, r"closed its connection to treadle\."),
    (m.mute_and_return, "bad.mute_and_return", {}, r"ended its process with exit code|closed its connection"),
    (m.garbage, "bad.garbage", {}, r"sent treadle what is no message\."),
]


@pytest.mark.parametrize(("bad", "name", "inputs", "said"), DEATHS)
def test_what_ends_its_process_fails_its_step_alone(bad: object, name: str, inputs: dict[str, object], said: str) -> None:
    """S2-63: os._exit, a segfault, a kill, closed pipes: a failed step that says how, and with which last words."""
    result = beside_a_sibling(bad, name, inputs=inputs)

    type_, message = error_of(result)
    assert result.steps["guilty"].status is StepStatus.FAILED
    assert type_ == "ExecutorDiedError"
    assert re.search(said, message), message
    assert result.steps["guilty"].attempts == 1


def test_an_exit_is_told_on_every_loop(loop: str) -> None:
    """S2-63: the same on asyncio, uvloop and trio."""
    result = beside_a_sibling(m.leave, "bad.exit", loop, inputs={"code": 3})

    assert error_of(result)[1].startswith("Executor 'bad.exit' ended its process with exit code 3.")


def test_a_memory_hog_meets_its_limit() -> None:
    """S2-64: the system stays unharmed; the error names the limit."""
    result = beside_a_sibling(m.hog, "bad.hog", isolation={"memory": "512 MiB"})

    assert error_of(result) == ("MemoryError", "it needed more memory than its limit of 512 MiB")


def test_a_fork_bomb_is_put_out(tmp_path: Path) -> None:
    """S2-64: more processes than it may have, and the whole family is killed."""
    result = beside_a_sibling(m.bomb, "bad.bomb", isolation={"processes": 20}, timeout=60)

    assert error_of(result) == ("ExecutorDiedError", "Executor 'bad.bomb' started more than 20 processes.")


def test_a_flood_of_output_is_stopped() -> None:
    """S2-64: what is written costs no memory here, and more than the limit ends the process."""
    result = beside_a_sibling(m.flood, "bad.flood", isolation={"output": "8 MiB"}, inputs={"size": 10 * 1024**3}, timeout=60)

    said = "Executor 'bad.flood' wrote more than 8 MiB to its standard output and error."
    assert error_of(result) == ("ExecutorDiedError", said)


def test_much_output_is_no_error_but_not_all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One mebibyte of a call's output is logged, and then one line says that there was more."""
    caplog.set_level(logging.INFO, "treadle.step")

    result = beside_a_sibling(m.flood, "bad.flood", inputs={"size": 4 * 1024**2})

    lines = [record for record in caplog.records if record.name == "treadle.step.bad.flood"]
    assert result.steps["guilty"].output == "written"
    assert 900 < len(lines) < 1100
    assert lines[-1].getMessage() == "bad.flood: further output of this call is not logged"


def test_an_answer_that_no_record_can_hold_is_refused() -> None:
    """300 MB are never sent; the error says what to return instead."""
    result = beside_a_sibling(m.huge, "bad.huge", inputs={"megabytes": 300})

    type_, message = error_of(result)
    assert type_ == "OutputInvalidError"
    assert "larger than 64 MiB; write it to a file and return the file's path" in message


def test_a_large_answer_arrives_whole(loop: str) -> None:
    """40 MB go through, and hold nobody up."""
    workflow = Workflow("large")
    workflow.step("large", "bad.huge", megabytes=40)

    result = run_in(loop, workflow, m.huge)

    assert len(str(result.steps["large"].output)) == 40 * 1024**2


def test_processor_time_is_limited() -> None:
    """It is counted for each call, so a child that served many is not punished for the earlier ones."""
    result = beside_a_sibling(m.burn, "bad.burn", isolation={"cpu": "1s"}, timeout=60)

    assert error_of(result) == ("ExecutorDiedError", "Executor 'bad.burn' used more than 1 s of processor time.")


def test_files_are_limited(tmp_path: Path) -> None:
    """Their number and their size."""
    many = beside_a_sibling(m.open_many, "bad.open", isolation={"open_files": 50})
    large = beside_a_sibling(m.write_much, "bad.write", isolation={"file_size": "4 MiB"}, inputs={"path": str(tmp_path / "f")})

    assert "Too many open files" in error_of(many)[1]
    assert "File too large" in error_of(large)[1]
    assert (tmp_path / "f").stat().st_size == 4 * 1024**2


def test_limits_of_the_configuration_hold_and_a_step_may_change_them() -> None:
    """``[limits.process]`` for all, the step's ``isolation`` for one; ``unlimited`` takes a limit away."""
    settings = config(output="1 MiB")
    workflow = Workflow("limits", on_error="continue")
    workflow.step("held", "bad.flood", size=2 * 1024**2)
    workflow.step("free", "bad.flood", size=2 * 1024**2, isolation={"output": "unlimited"})

    result = run_in("asyncio", workflow, m.flood, settings=settings)

    assert [result.steps[path].status for path in ("held", "free")] == [StepStatus.FAILED, StepStatus.COMPLETED]


def test_limits_that_cannot_be_meant_are_refused_before_the_run() -> None:
    """Every fault of the table at once."""
    workflow = Workflow("limits")
    workflow.step("a", "good.pid")

    with pytest.raises(ConfigInvalidError) as refused:
        run_in("asyncio", workflow, m.pid, settings=Config(limits={"process": {"memory": "much", "cpus": 1}}))
    assert [fault.path for fault in refused.value.faults] == ["limits.process.memory", "limits.process.cpus"]
    with pytest.raises(ConfigInvalidError, match="must be a table"):
        run_in("asyncio", workflow, m.pid, settings=Config(limits={"process": 3}))


KILLED_PARENT = """
import sys; sys.path[:] = {path!r}
import misbehaving
from treadle import Registry, Workflow, run
workflow = Workflow("orphans")
workflow.step("strand", "bad.strand", pids=sys.argv[1])
run(workflow, registry=Registry.of(misbehaving.strand))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_children_die_with_treadle(tmp_path: Path, number: signal.Signals) -> None:
    """S2-64: even when treadle is killed, and the child can neither be interrupted nor look around."""
    pids = tmp_path / "pids"
    program = [sys.executable, "-c", KILLED_PARENT.format(path=sys.path), str(pids)]
    with subprocess.Popen(program) as treadle:
        deadline = time.monotonic() + 60
        while not (pids.exists() and len(pids.read_text().split()) == 4):
            assert time.monotonic() < deadline
            assert treadle.poll() is None
            time.sleep(0.02)
        treadle.send_signal(number)
        treadle.wait(60)
    deadline = time.monotonic() + 30

    while left := [pid for pid in map(int, pids.read_text().split()) if is_alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_a_supervisor_that_is_killed_fails_its_calls_and_is_replaced() -> None:
    """The step says so; a retry finds a new one."""
    workflow = Workflow("killed")
    workflow.step("kills", "bad.kills_supervisor", retry=ONCE, on_error="continue")
    workflow.step("after", "good.pid", needs=["kills"])

    result = run_in("asyncio", workflow, m.kills_supervisor, m.pid)

    assert result.steps["kills"].error is not None
    assert "lost the process that supervised it" in result.steps["kills"].error.message
    assert isinstance(result.steps["after"].output, int)


# -- it serves -----------------------------------------------------------------------------------------------------------------


def calls_of(*names: str, loop: str = "asyncio", settings: Config | None = None, **inputs: object) -> list[Json]:
    """What these executors answer, one after the other."""
    known = {
        m_name: each
        for each in vars(m).values()
        if (m_name := getattr(getattr(each, "__treadle_executor__", None), "name", ""))
    }
    workflow = Workflow("calls")
    for number, name in enumerate(names):
        needs = [f"s{number - 1}"] if number else []
        workflow.step(f"s{number}", name, needs=needs, **(inputs if name == "good.leaves" else {}))  # type: ignore[arg-type]
    result = run_in(loop, workflow, *(known[name] for name in set(names)), settings=settings).check()
    return [result.steps[f"s{number}"].output for number in range(len(names))]


def test_a_child_serves_many_calls(loop: str) -> None:
    """One process for calls one after the other: modules stay loaded."""
    answers = calls_of(*["good.count"] * 5, loop=loop)

    assert [answer[1] for answer in answers] == [1, 2, 3, 4, 5]  # type: ignore[index]  # lists
    assert len({answer[0] for answer in answers}) == 1  # type: ignore[index]  # lists


def test_a_child_is_replaced_after_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What libraries leak does not add up."""
    monkeypatch.setattr("treadle._isolation.MAX_CALLS", 2)

    answers = calls_of(*["good.count"] * 5)

    assert [answer[1] for answer in answers] == [1, 2, 1, 2, 1]  # type: ignore[index]  # lists


def test_only_so_many_children_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """More are let go of when they have served."""
    monkeypatch.setattr("treadle._isolation.MAX_IDLE", 2)
    workflow = Workflow("many")
    workflow.step("all", "good.count", foreach=list(range(6)), max_parallel=6)

    result = run_in("asyncio", workflow, m.count).check()

    assert len(result.steps["all"].output) == 6  # type: ignore[arg-type]  # a list


@pytest.mark.parametrize("what", ["process", "thread"])
def test_a_child_that_something_was_left_in_is_not_used_again(what: str) -> None:
    """A process or a thread that a call started and that still runs: both end, and the next call gets a new child."""
    left, fresh = calls_of("good.leaves", "good.pid", what=what)

    assert left != fresh
    assert not is_alive(int(str(left)))


def test_a_child_is_put_back_between_calls() -> None:
    """Environment and working directory are as they were; the process is the same."""
    left, around, pid = calls_of("good.leaves", "good.surroundings", "good.pid", what="changes")

    assert isinstance(around, dict)
    assert left == pid
    assert around["cwd"] == os.getcwd()
    assert "LEFT" not in around["env"]
    assert around["env"]["PATH"] == os.environ["PATH"]


def test_a_copy_that_user_code_forks_says_nothing() -> None:
    """A ``fork`` that returns twice gives one answer, the parent's."""
    assert calls_of("bad.forks", "good.pid")[0] == "parent"


def test_a_child_gets_few_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allow-list, what the configuration adds, and what says which call it is; a session of its own, and nothing to read."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("ACME_MODE", "fast")
    monkeypatch.setenv("LC_TIME", "C")

    (around,) = calls_of("good.surroundings", settings=config(pass_env=["ACME_MODE"]))

    assert isinstance(around, dict)
    env = around["env"]
    assert {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "LD_PRELOAD"}.isdisjoint(env)
    assert (env["ACME_MODE"], env["LC_TIME"], env["TREADLE_STEP"], env["TREADLE_ATTEMPT"]) == ("fast", "C", "s0", "1")
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", env["TRACEPARENT"])
    assert (around["stdin"], around["session"]) == ("", True)


def test_the_context_is_the_same_in_a_child(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """S2-64, S2-65: facts of the call, progress, spans and logs cross the border; prints become lines of the run's log."""
    caplog.set_level(logging.INFO)
    told: list[tuple[str, float, float | None, str]] = []

    class Progress(Recorder):
        def progress(self, call: Call, done: float, total: float | None, message: str) -> None:
            told.append((call.path, done, total, message))

    workflow = Workflow("context")
    workflow.step("facts", "good.facts", foreach=["a"])

    result = run_in(loop, workflow, m.facts, sinks=[Progress()]).check()

    (answer,) = result.steps["facts"].output  # type: ignore[misc]  # a list of one
    *seen, call = answer
    assert seen == call
    assert seen[:5] == [result.run_id, "facts", 0, 1, "primary"]
    assert told == [("facts", 1, 2, "half")]
    spans = {span.name: span for span in result.spans}
    assert spans["inner"].parent_id == spans["GET"].span_id
    assert spans["GET"].parent_id == spans["attempt facts"].span_id == seen[6].split("-")[2]
    assert spans["GET"].attributes == {"n": 1, "more": True}
    logged = {(record.name, record.levelname, record.getMessage().splitlines()[0]) for record in caplog.records}
    assert logged >= {
        ("treadle.step.good.facts", "WARNING", "item 7"),
        ("acme", "ERROR", "trouble"),
        ("treadle.step.good.facts", "INFO", "printed"),
        ("treadle.step.good.facts", "INFO", "complained"),
    }
    assert "ValueError: cause" in caplog.text


def test_progress_is_cheap_and_its_last_word_arrives() -> None:
    """Reports that follow each other quickly are left out, except the last."""
    told: list[float] = []

    class Progress(Recorder):
        def progress(self, call: Call, done: float, total: float | None, message: str) -> None:
            told.append(done)

    workflow = Workflow("often")
    workflow.step("often", "good.sync_facts", times=100_000)

    run_in("asyncio", workflow, m.sync_facts, sinks=[Progress()]).check()

    assert told[-1] == 100_000
    assert len(told) < 100


def test_types_cross_the_border() -> None:
    """Inputs arrive as the author's class, outputs leave as JSON that satisfies it; bad ones need no process."""
    workflow = Workflow("typed", on_error="continue")
    workflow.step("good", "good.typed", point={"x": 1, "y": 2})
    text = workflow.input("text", default="3")
    workflow.step("bad", "good.typed", point={"x": 1, "y": text})

    result = run_in("asyncio", workflow, m.typed)

    assert result.steps["good"].output == {"x": 2, "y": 1}
    assert result.steps["bad"].error is not None
    assert result.steps["bad"].error.type == "InputsInvalidError"


AWKWARD: list[object] = [None, True, "", "\u2028 \x00 é 😀", 1.5e300, 2**70, [], {}, {"a": [{"b": None}]}, "x" * 70_000]


def test_values_cross_the_border_unchanged() -> None:
    """Line separators, NUL, large integers, deep and long values."""
    workflow = Workflow("echo")
    workflow.step("echo", "good.echo", foreach=AWKWARD, value="${{ item }}")

    assert run_in("asyncio", workflow, m.echo).check().steps["echo"].output == AWKWARD


def test_secrets_reach_the_child_and_nobody_else(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The executor gets the value; printed, logged or raised it shows as ``***``."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TOKEN", "CANARY-93f1")
    workflow = Workflow("secret")
    token = workflow.secret("TOKEN")
    workflow.step("guilty", "good.shout", word=token)

    result = run_in("asyncio", workflow, m.shout)

    assert result.steps["guilty"].error is not None
    assert result.steps["guilty"].error.message == "raised ***"
    assert "CANARY" not in caplog.text + repr(result.entries) + result.steps["guilty"].error.traceback
    assert {"***", "logged ***"} <= {record.getMessage() for record in caplog.records}


# -- its errors ----------------------------------------------------------------------------------------------------------------

RAISED = [
    ("connection", "ConnectionError", "refused", 3),
    ("value", "ValueError", "wrong", 1),
    ("own", "OwnError", "of mine", 1),
    ("exit", "ExecutorExitedError", "Executor 'bad.raises' tried to end the process (SystemExit: 3).", 1),
    ("interrupt", "ExecutorExitedError", "Executor 'bad.raises' tried to end the process (KeyboardInterrupt).", 1),
    ("cancelled", "CallCancelledError", "Executor 'bad.raises' cancelled itself.", 1),
    ("mute", "MuteError", "MuteError (its message cannot be shown: __str__ raised ValueError)", 1),
]


@pytest.mark.parametrize(("what", "type_", "message", "attempts"), RAISED)
def test_errors_are_what_they_would_be_here(what: str, type_: str, message: str, attempts: int) -> None:
    """S2-52: type, message and traceback arrive, and what is transient is tried again (C05)."""
    workflow = (
        Workflow("raises", defaults={"retry": {"base": "1ms"}} if attempts > 1 else None) if False else Workflow("raises")
    )
    workflow.step("guilty", "bad.raises", what=what, retry={"max_attempts": 3, "base": "1ms"} if attempts == 3 else None)

    result = run_in("asyncio", workflow, m.raises)

    assert error_of(result) == (type_, message)
    assert result.steps["guilty"].attempts == attempts
    assert result.steps["guilty"].error is not None
    if what in ("connection", "value", "own"):
        assert "misbehaving.py" in result.steps["guilty"].error.traceback


def test_partial_results_cross_the_border() -> None:
    """S2-59: what an exception carries in ``partial_results`` is in the error of the step, and counted."""
    result = beside_a_sibling(m.raises, "bad.raises", inputs={"what": "partial"})

    error = result.steps["guilty"].error
    assert error is not None
    assert (error.partial_results, error.items_processed) == ([{"id": 1}, {"id": 2}], 2)


def test_an_executors_own_retry_policy_is_asked_of_the_real_exception(tmp_path: Path) -> None:
    """In the child, where the exception is of its own class."""
    workflow = Workflow("judge")
    workflow.step("guilty", "good.judge", path=str(tmp_path / "tried"))

    result = run_in("asyncio", workflow, m.judge).check()

    assert result.steps["guilty"].output == "the second time"
    assert any("wait a while: very busy" in str(getattr(entry, "reason", "")) for entry in result.entries)


class OddError(OSError):
    """Of a plugin, with a builtin and a treadle base."""


ERRORS: list[Exception] = [
    ValueError("a"),
    OddError(2, "b"),
    TransientError("busy", "wait", retry_after_s=7.0),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "c"),
    ExceptionGroup("several", [TimeoutError("late")]),
    ExceptionGroup("several", [TimeoutError("late"), ValueError("x")]),
    OutputInvalidError("x", ["too long"]),
    StepTimeoutError("s", 3.0),
    KeyError("k"),
    m.OwnError("own"),
    StopIteration("enough"),
    PluginBrokenError("n", "d", "why"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("retry", [RetryPolicy(), RetryPolicy(retry_on=("OSError", "418"), explicit=True)])
def test_a_stand_in_is_judged_like_the_original(error: Exception, retry: RetryPolicy) -> None:
    """Retry rules look at the class, its bases, attributes and words: all of them cross the border."""
    call = Call("r", "w", "s", "x", {}, retry=retry)
    original = propose(call, error, lambda *_: None, random=lambda: 0.0)

    stand_in = load_error(dump_error(error, None))

    assert isinstance(stand_in, FromChild)
    assert propose(call, stand_in, lambda *_: None, random=lambda: 0.0) == original
    assert describe_error(stand_in, ()) == describe_error(error, ())


def test_proposals_cross_the_border() -> None:
    """What the executor's hook proposed, or that it had no opinion."""
    for proposal in (None, GiveUp("no"), RetryAfter(None, "soon"), RetryAfter(2.5, "later")):
        stand_in = load_error(dump_error(ValueError("x"), proposal))
        assert isinstance(stand_in, FromChild)
        assert stand_in.proposal == proposal


def test_calls_cross_the_border() -> None:
    """Every field of a call is the same on the other side."""
    secrets = (SecretReference(("a", 0), (("text", "Bearer "), ("secret", "T"))),)
    retry = RetryPolicy(4, delays_s=(1.0, 2.0), retry_on=("A",), explicit=True)
    call = Call("r", "w", "p", "x", {"a": ["***"]}, 3, 2, retry=retry, secrets=secrets, clients={"a": "b"}, trace_id="1" * 32)

    assert load_call(json.loads(json.dumps(dump_call(call)))) == call


# -- what cannot be isolated ---------------------------------------------------------------------------------------------------


class Connection:
    """What the client opens."""


@client("link")
@attrs.define
class Link:
    """A client."""

    def open(self) -> object:
        raise AssertionError("never opened")


@executor("needs.link")
def needs_link(link: Connection, /) -> None:
    """Need a client."""


def test_what_needs_clients_cannot_be_isolated() -> None:
    """Refused while planning, with the place in the file."""
    workflow = Workflow("clients")
    workflow.step("a", "needs.link", isolation="process")

    with pytest.raises(WorkflowInvalidError) as refused:
        make_plan(workflow, Registry.of(needs_link, clients=[Link]))

    assert [(fault.path, fault.message) for fault in refused.value.faults] == [
        ("steps.a.isolation", "needs.link cannot run in a process of its own: it needs link")
    ]
    assert "or write isolation: inline" in refused.value.faults[0].remedy


def test_what_no_other_process_can_find_cannot_be_isolated() -> None:
    """A function inside a function."""

    @executor("hidden", isolation="process")
    def hidden() -> None:
        """Be hidden."""

    workflow = Workflow("hidden")
    workflow.step("a", "hidden")

    with pytest.raises(WorkflowInvalidError, match="another process could not find it"):
        make_plan(workflow, Registry.of(hidden))

    workflow.steps["a"] = attrs.evolve(workflow.steps["a"], isolation="inline")
    assert run_in("asyncio", workflow, hidden).check().steps["a"].output is None


@executor("plain.pid")
def plain_pid() -> int:
    """Say which process this is."""
    return os.getpid()


@pytest.mark.parametrize(
    ("marked", "default", "step", "isolated"),
    [
        (False, None, None, False),
        (True, None, None, True),
        (False, "process", None, True),
        (True, "inline", None, False),
        (False, "process", "inline", False),
        (True, None, "inline", False),
        (False, None, {"memory": "1 GiB"}, True),
    ],
)
def test_the_step_decides_then_the_workflow_then_the_executor(
    *, marked: bool, default: object, step: object, isolated: bool
) -> None:
    """The nearest word counts."""
    data: dict[str, object] = {"uses": "good.pid" if marked else "misbehaving.plain"}
    if step is not None:
        data["isolation"] = step
    whole: dict[str, object] = {"name": "w", "steps": {"a": data}}
    if default is not None:
        whole["defaults"] = {"isolation": default}

    result = run_in("asyncio", Workflow.from_dict(whole), m.pid, m.plain).check()

    assert (result.steps["a"].output != os.getpid()) is isolated


def test_policies_see_isolated_calls_too() -> None:
    """A wrapper around ``execute`` times, replaces or refuses a call before a process is asked for."""

    class Once:
        def __init__(self) -> None:
            self.seen: list[str] = []

        @hookimpl(wrapper=True)
        def execute(self, call: Call, ctx: SyncContext) -> Iterator[None, Work, Work]:  # type: ignore[type-arg]  # a pluggy wrapper
            work = yield
            self.seen.append(call.path)

            async def answered() -> object:
                return -1

            return answered if call.path == "replaced" else work

    policy = Once()
    workflow = Workflow("policies")
    workflow.step("replaced", "good.pid")
    workflow.step("real", "good.pid")
    registry = Registry.of(m.pid, policies=[policy], config=config())

    result = anyio.run(partial(arun, workflow, registry=registry)).check()

    assert result.steps["replaced"].output == -1
    assert isinstance(result.steps["real"].output, int)
    assert sorted(policy.seen) == ["real", "replaced"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_virtual_time_does_not_jump_while_a_child_works(backend: str) -> None:
    """A clock that jumps is held, so that a deadline in an hour does not end a call that takes a second."""
    clock = VirtualClock()
    workflow = Workflow("virtual")
    workflow.step("pid", "good.pid", timeout="1h")
    registry = Registry.of(m.pid, config=config())

    result = clock.run(partial(arun, workflow, registry=registry, clock=clock), backend=backend)

    assert isinstance(result, RunResult)
    assert result.check().steps["pid"].attempts == 1


def test_an_unstoppable_step_with_a_timeout_is_warned_of() -> None:
    """C24: a ``def`` with a timeout and no isolation: its thread would go on. Nothing is said where nothing could be done."""
    workflow = Workflow("warned")
    workflow.step("thread", "misbehaving.plain", timeout="5s")
    workflow.step("isolated", "misbehaving.plain", timeout="5s", isolation="process")
    workflow.step("endless", "misbehaving.plain")
    workflow.step("awaited", "sibling", timeout="5s")

    plan = make_plan(workflow, Registry.of(m.plain, sibling))

    assert [(warning.path, warning.message) for warning in plan.warnings] == [
        ("steps.thread.timeout", "misbehaving.plain is no 'async def': at its timeout the step ends, but its thread goes on")
    ]
    assert plan.warnings[0].remedy == "write isolation: process to have it stopped for certain"


# -- origins -------------------------------------------------------------------------------------------------------------------


def make_made(n: int) -> object:
    """A function that another process makes again."""

    def made() -> int:
        """Give it."""
        return n

    made.__treadle_origin__ = (f"{__name__}:make_made", {"n": n})  # type: ignore[attr-defined]  # the documented attribute
    return made


def test_origins_lead_back_to_their_objects(tmp_path: Path) -> None:
    """By module and name, by file where the module cannot be imported by its name, or by being made again."""
    assert load_origin(origin_of(m.spin) or Origin("", "")) is m.spin
    assert origin_of(m.Judge) == Origin("misbehaving", "Judge", m.__file__)
    assert origin_of(lambda: None) is None
    assert origin_of(3) is None
    made = origin_of(make_made(5))
    assert made is not None
    assert made.arguments == {"n": 5}
    assert load_origin(made)() == 5  # type: ignore[operator]  # a function
    file = tmp_path / "odd name.py"
    file.write_text("import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\ndef f(): return A(1)\n")
    function = load_origin(Origin("nowhere.odd", "f", str(file)))
    assert function().x == 1  # type: ignore[operator]  # a function
    assert load_origin(Origin("__main__", "f", str(file))) is not function
    for name in ("nowhere.odd", "__treadle_main__"):
        del sys.modules[name]


@pytest.mark.parametrize(
    ("origin", "error"),
    [
        (Origin("misbehaving", "absent"), LookupError),
        (Origin("no_such_module", "f"), ModuleNotFoundError),
        (Origin("no_such_module", "f", "/nowhere/at.all"), ImportError),
    ],
)
def test_origins_that_lead_nowhere_say_so(origin: Origin, error: type[Exception]) -> None:
    """The import's own error."""
    with pytest.raises(error):
        load_origin(origin)


def test_a_module_that_breaks_in_a_new_process_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S2-63: what can be imported here but not there: the step says why."""
    (tmp_path / "fragile.py").write_text(
        textwrap.dedent("""
        import os
        from treadle import executor
        if os.path.exists(__file__ + ".broken"):
            raise RuntimeError("no licence")
        @executor("fragile", isolation="process")
        def fragile() -> int:
            return 1
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import fragile

    (tmp_path / "fragile.py.broken").touch()
    workflow = Workflow("fragile")
    workflow.step("guilty", "fragile")

    result = run_in("asyncio", workflow, fragile.fragile)

    assert error_of(result)[0] == "PluginBrokenError"
    assert "in a new process RuntimeError: no licence" in error_of(result)[1]
    del sys.modules["fragile"]


def test_an_async_executor_of_the_runs_own_loop(loop: str) -> None:
    """An ``async def`` runs in the child on the kind of loop that the run is on."""
    workflow = Workflow("loops")
    workflow.step("which", "good.loop")

    result = run_in(loop, workflow, m.which_loop).check()

    assert result.steps["which"].output == ("trio" if loop == "trio" else "asyncio")
    assert asyncio.events._get_running_loop() is None


def test_calls_that_find_the_supervisor_gone_share_a_new_one(loop: str) -> None:
    """Several at once; each gets a child."""
    workflow = Workflow("gone", on_error="continue")
    workflow.step("kills", "bad.kills_supervisor", retry=ONCE)
    workflow.step("after", "good.pid", needs=["kills"], foreach=[1, 2, 3, 4])
    workflow.steps["kills"] = attrs.evolve(workflow.steps["kills"], on_error="continue")

    result = run_in(loop, workflow, m.kills_supervisor, m.pid)

    assert result.steps["after"].status is StepStatus.COMPLETED
