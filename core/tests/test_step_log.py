"""What executors log is kept with the run, apart from its commits, bounded, and without secrets."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Sequence

import anyio
import pytest
from treadle import Context, Registry, RunResult, SyncContext, TransientError, Workflow, executor, run
from treadle._memory import MemoryStore
from treadle._step_log import HANDLER, LONGEST_LINE, MOST_LINES, KeptPrints
from treadle.errors import StoreUnavailableError
from treadle.ports import LineQuery, LogLine


def lines_of(store: MemoryStore, result: RunResult, path: str = "", **which: int) -> Sequence[LogLine]:
    return anyio.run(store.lines, LineQuery(result.run_id, path, limit=100_000, **which))  # type: ignore[arg-type]  # ints


def run_one(function: object, store: MemoryStore, **inputs: object) -> RunResult:
    workflow = Workflow("one")
    workflow.step("one", "demo.one", **inputs)
    return run(workflow, registry=Registry.of(function), store=store)


@executor("demo.one")
async def one(ctx: Context, /, text: str = "hello") -> None:
    """Log on every level."""
    ctx.log.debug("too fine")
    ctx.log.info("said %s", text)
    try:
        raise LookupError("inside")
    except LookupError:
        ctx.log.exception("it went wrong", extra={"stream": "stderr"})


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
def test_what_an_executor_logs_is_kept(level: int) -> None:
    """From INFO on, once each, with the whole exception, whatever the application shows of it."""
    store = MemoryStore()
    logger = logging.getLogger("treadle.step.demo.one")
    logger.setLevel(level)
    try:
        result = run_one(one, store)
    finally:
        logger.setLevel(logging.NOTSET)

    said, wrong = lines_of(store, result)
    assert (said.path, said.index, said.attempt, said.variant, said.stint) == ("one", None, 1, "primary", 1)
    assert (said.level, said.text, said.logger, said.stream) == (20, "said hello", "treadle.step.demo.one", "")
    assert (wrong.level, wrong.stream) == (40, "stderr")
    assert wrong.text.startswith("it went wrong\nTraceback")
    assert wrong.text.endswith("LookupError: inside")
    assert result.started_at <= said.at <= result.ended_at
    assert HANDLER not in logging.getLogger("treadle").handlers, "nothing is left behind"


def test_a_record_says_where_it_was_logged(caplog: pytest.LogCaptureFixture) -> None:
    """File and line are the executor's, not the adapter's; what is extra reaches whoever shows it."""
    caplog.set_level(logging.INFO, "treadle.step")
    run_one(one, MemoryStore())

    said, wrong = [record for record in caplog.records if record.name == "treadle.step.demo.one"]
    assert said.pathname == wrong.pathname == __file__
    assert wrong.stream == "stderr"  # type: ignore[attr-defined]  # extra


def test_lines_are_of_an_attempt_and_an_item() -> None:
    """Also of executors in threads: each line knows who said it."""

    @executor("demo.each")
    def each(ctx: SyncContext, /, n: int) -> None:
        ctx.log.info("n is %s", n)
        if ctx.attempt == 1 and n == 1:
            raise TransientError("again", retry_after_s=0.001)

    workflow = Workflow.from_dict(
        {"name": "w", "steps": {"each": {"uses": "demo.each", "foreach": [0, 1], "with": {"n": "${{ item }}"}}}}
    )
    store = MemoryStore()
    result = run(workflow, registry=Registry.of(each), store=store)

    found = sorted((line.index, line.attempt, line.text) for line in lines_of(store, result))
    assert found == [(0, 1, "n is 0"), (1, 1, "n is 1"), (1, 2, "n is 1")]
    assert [line.attempt for line in lines_of(store, result, "each", attempt=2)] == [2]


def test_secrets_are_hidden_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As everywhere else: the value of a call's secret stands in no line, however it is spelled."""
    monkeypatch.setenv("LINE_TOKEN", 'top "secret"/1')

    @executor("demo.one")
    async def leak(ctx: Context, /, token: str) -> None:
        ctx.log.info("token %s or %r or %s", token, token, "top%20%22secret%22%2F1")

    workflow = Workflow.from_dict(
        {
            "name": "w",
            "secrets": ["LINE_TOKEN"],
            "steps": {"one": {"uses": "demo.one", "with": {"token": "${{ secrets.LINE_TOKEN }}"}}},
        }
    )
    store = MemoryStore()
    (line,) = lines_of(store, run(workflow, registry=Registry.of(leak), store=store))

    assert line.text == "token *** or '***' or ***"


def test_a_flood_is_bounded() -> None:
    """Of each attempt so many lines, then one that says so; a long line is cut."""

    @executor("demo.one")
    async def flood(ctx: Context, /) -> None:
        ctx.log.info("x" * (LONGEST_LINE + 7))
        for number in range(MOST_LINES + 100):
            ctx.log.info("%s", number)

    store = MemoryStore()
    lines = lines_of(store, run_one(flood, store))

    assert len(lines) == MOST_LINES + 1
    assert lines[0].text == "x" * LONGEST_LINE + "... (7 more characters)"
    assert lines[-2].text == str(MOST_LINES - 2)
    assert (lines[-1].level, lines[-1].text) == (30, "(more than 10,000 lines or 4,000,000 characters; the rest is not kept)")


def test_no_step_waits_for_lines() -> None:
    """A store that takes no line for a while holds no commit up: the next step starts, and frees it."""
    freed = threading.Event()

    class Slow(MemoryStore):
        def keep_lines(self, run_id: str, lines: Sequence[LogLine]) -> None:
            assert freed.wait(60), "a commit waited for it"
            super().keep_lines(run_id, lines)

    @executor("demo.log")
    async def log(ctx: Context, /) -> None:
        ctx.log.info("first")

    @executor("demo.free")
    async def free() -> None:
        freed.set()

    workflow = Workflow("two")
    workflow.step("free", "demo.free", needs=[workflow.step("log", "demo.log")])
    store = Slow()
    result = run(workflow, registry=Registry.of(log, free), store=store)

    assert result.status == "completed"
    assert [line.text for line in lines_of(store, result)] == ["first"]


def test_a_store_that_keeps_no_lines_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    """It is said once."""

    class Broken(MemoryStore):
        def keep_lines(self, run_id: str, lines: Sequence[LogLine]) -> None:
            raise StoreUnavailableError("The disk is full.", "Free some.")

    result = run_one(one, Broken())

    assert result.status == "completed"
    (said,) = [record.getMessage() for record in caplog.records if record.name == "treadle.lines"]
    assert "2 lines that its steps logged could not be kept: The disk is full." in said


def test_prints_of_a_call_are_kept_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """When stdout is the command's: what is printed goes on, and whole lines of calls are kept."""
    stream = KeptPrints(sys.stdout)

    @executor("demo.one")
    def prints() -> None:
        print("one\ntw", end="", file=stream)  # type: ignore[call-overload]  # it has what print needs
        stream.writelines(["o\n", "100%\n"])

    store = MemoryStore()
    result = run_one(prints, store)
    stream.write("outside of a call\n")

    assert [(line.text, line.stream, line.level) for line in lines_of(store, result)] == [
        ("one", "stdout", 20),
        ("two", "stdout", 20),
        ("100%", "stdout", 20),
    ]
    assert capsys.readouterr().out == "one\ntwo\n100%\noutside of a call\n"


def test_warnings_are_still_shown_when_nobody_set_logging_up() -> None:
    """What logging shows of itself then, it shows of a run that keeps its lines; and nothing more."""
    program = """
from treadle import Context, Registry, Workflow, executor, run

@executor("demo.one")
async def one(ctx: Context, /) -> None:
    ctx.log.info("quiet")
    ctx.log.warning("loud")

workflow = Workflow("w")
workflow.step("one", "demo.one")
run(workflow, registry=Registry.of(one))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stderr == "loud\n"
    assert done.stdout == ""
