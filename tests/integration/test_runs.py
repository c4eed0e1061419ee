"""Whole runs with real plugins: what holds for every workflow, from its file to its result."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter, defaultdict
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from treadle import Context, Registry, RunResult, Workflow, arun, executor, load_workflow, run
from treadle._cli import _run as command
from treadle.errors import WorkflowInvalidError
from treadle.ports import AttemptEnded, RetryScheduled, RunStatus, SpanRecord, StepStatus

SHELL = """
name: shell
steps:
  one: {uses: shell.run, with: {argv: [sleep, "1"]}}
  two: {uses: shell.run, with: {argv: [sleep, "1"]}}
  three: {uses: shell.run, with: {argv: [sleep, "1"]}}
"""


def from_file(folder: Path, text: str, inputs: dict[str, object] | None = None) -> RunResult:
    """Run a workflow file with what is installed."""
    file = folder / "workflow.yaml"
    file.write_text(text, "utf-8")
    return run(load_workflow(file), inputs)


def test_independent_steps_run_at_the_same_time(tmp_path: Path) -> None:
    """Three commands of a second each are done in under one and a half (S0-02, S3-11, S3-78)."""
    durations = []
    for _ in range(5):  # a busy machine may let one of them wait
        result = from_file(tmp_path, SHELL)
        assert result.status == "completed"
        durations.append(result.duration_s)
        if durations[-1] < 1.5:
            break

    assert min(durations) < 1.5


def test_parallel_steps_take_a_fraction_of_the_time_of_serial_ones() -> None:
    """Four equal steps: at least twice the throughput, at most 60 % of the time (S0-07, S0-50)."""

    @executor("demo.wait")
    async def wait() -> None:
        await anyio.sleep(0.1)

    workflow = Workflow("four")
    for number in range(4):
        workflow.step(f"step{number}", "demo.wait")

    def quickest(max_parallel: int) -> float:
        """Of five: the others may have waited for the machine."""
        return min(run(workflow, registry=Registry.of(wait), max_parallel=max_parallel).duration_s for _ in range(5))

    serial, parallel = quickest(1), quickest(4)

    assert parallel <= 0.6 * serial
    assert serial / parallel >= 2


AGENT = """
from treadle import TransientError, executor
from treadle_families import GenerativeExecutor


@executor("agent.film")
class Film(GenerativeExecutor):
    \"\"\"Make a film of a prompt.\"\"\"

    async def execute(self, prompt: str) -> dict[str, str]:
        raise TransientError(f"the model is busy with {prompt}")
"""

TOOL = """
from treadle import TransientError


def film(prompt: str) -> dict[str, str]:
    \"\"\"Make a film of a prompt.\"\"\"
    raise TransientError(f"the tool is busy with {prompt}")
"""

BOTH = """
name: both
defaults: {retry: {max_attempts: 3, base: 20ms, jitter: 0}}
on_error: continue
steps:
  agent: {uses: agent.film, with: {prompt: rain}}
  tool: {uses: tool.film, with: {prompt: rain}}
"""


def test_tools_and_agents_are_retried_alike_and_driven_by_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor of the family that asks models and a function of the tools folder: the same attempts and waits (S3-85)."""
    for name, text in {"executors/agent.py": AGENT, "tools/film.py": TOOL}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n[tools]\nfolder = "tools"\n', "utf-8")
    monkeypatch.chdir(tmp_path)

    result = from_file(tmp_path, BOTH)

    retries = [entry for entry in result.entries if isinstance(entry, RetryScheduled)]
    waits = {
        path: [(entry.attempt, entry.max_attempts, round(entry.due - entry.at, 3)) for entry in retries if entry.path == path]
        for path in ("agent", "tool")
    }
    assert waits["agent"] == waits["tool"] == [(1, 3, 0.02), (2, 3, 0.04)]
    assert {step.attempts for step in result.steps.values()} == {3}
    assert vars(command)["run_workflow"] is run, "the command and Python, and so whatever schedules either"


def test_a_failing_command_is_tried_again_as_the_file_says(tmp_path: Path) -> None:
    """The second attempt finds what the first one left and succeeds (S3-08, S3-20, S3-78)."""
    text = """
name: again
inputs: {folder: {type: string}}
steps:
  flaky:
    uses: shell.run
    with:
      cwd: ${{ inputs.folder }}
      script: test -e been-here || { touch been-here; echo not yet >&2; exit 7; }
    retry: {max_attempts: 3, base: 10ms, retry_on: [CommandFailedError]}
"""
    result = from_file(tmp_path, text, {"folder": str(tmp_path)})

    assert result.status == "completed"
    assert result.steps["flaky"].attempts == 2
    ended = [record.entry.outcome for record in result.records if isinstance(record.entry, AttemptEnded)]
    assert [outcome.status for outcome in ended] == ["failed", "completed"]
    assert "not yet" in str(ended[0].error)


def test_a_failing_step_leaves_its_siblings_running(tmp_path: Path) -> None:
    """What was started ends as if nothing had happened beside it; what needed the failed step names it (S3-75, S3-78)."""
    text = """
name: isolated
on_error: continue
steps:
  bad: {uses: shell.run, with: {argv: ["false"]}}
  good: {uses: shell.run, with: {script: sleep 0.1; echo fine}}
  after: {uses: shell.run, with: {argv: [echo, "${{ steps.bad.output.stdout }}"]}}
outputs: {said: "${{ steps.good.output.stdout }}"}
"""
    result = from_file(tmp_path, text)

    assert result.status == "partial_failure"
    assert {path: str(step.status) for path, step in result.steps.items()} == {
        "bad": "failed",
        "good": "completed",
        "after": "upstream_failed",
    }
    assert result.steps["good"].output["stdout"] == "fine\n"  # type: ignore[index]  # plain data
    assert "bad" in result.steps["after"].reason


def test_an_output_that_breaks_its_contract_is_never_accepted() -> None:
    """An executor that declares a number and answers {} fails, and nothing that needs it starts (S0-03, S3-18)."""

    @executor("demo.count")
    async def count() -> int:
        return {}  # type: ignore[return-value]  # the mistake

    @executor("demo.use")
    async def use(number: int) -> int:
        return number

    workflow = Workflow("broken")
    workflow.step("use", "demo.use", number=workflow.step("count", "demo.count").output)
    result = run(workflow, registry=Registry.of(count, use))

    assert str(result.steps["count"].status) == "failed"
    error = result.steps["count"].error
    assert error is not None
    assert error.type == "OutputInvalidError"
    assert result.steps["use"].attempts == 0


def test_at_most_ten_calls_at_once_by_default() -> None:
    """Of 50 ready steps 10 run at any time, neither more nor fewer; another number holds when asked for (S3-12)."""
    running = Counter[str]()
    peak = Counter[str]()
    full = defaultdict[str, anyio.Event](anyio.Event)

    @executor("demo.count")
    async def count(ctx: Context, /, limit: int) -> None:
        running[ctx.run_id] += 1
        peak[ctx.run_id] = max(peak[ctx.run_id], running[ctx.run_id])
        if running[ctx.run_id] == limit:
            full[ctx.run_id].set()
        with anyio.fail_after(60):
            await full[ctx.run_id].wait()  # the first calls stay until so many run as may
        await anyio.sleep(0.005)
        running[ctx.run_id] -= 1

    workflow = Workflow("wide")
    limit = workflow.input("limit", type="integer")
    for number in range(50):
        workflow.step(f"step{number}", "demo.count", limit=limit)
    default = run(workflow, {"limit": 10}, registry=Registry.of(count))
    three = run(workflow, {"limit": 3}, registry=Registry.of(count), max_parallel=3)

    assert (default.status, three.status) == ("completed", "completed")
    assert peak[default.run_id] == 10
    assert peak[three.run_id] == 3
    assert sum(step.attempts for step in default.steps.values()) == 50


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hundred_runs_at_once_share_nothing(backend: str) -> None:
    """Each sees its own inputs, its own steps' outputs and its own trace, however they interleave (S3-07)."""

    @executor("demo.slow_echo")
    async def slow_echo(value: int) -> int:
        await anyio.sleep(0.001 * (value % 7))
        return value

    workflow = Workflow("echo")
    value = workflow.input("value", type="integer")
    first = workflow.step("first", "demo.slow_echo", value=value)
    workflow.output("value", workflow.step("second", "demo.slow_echo", value=first.output).output)
    registry = Registry.of(slow_echo)
    results: dict[int, RunResult] = {}

    async def start(number: int) -> None:
        results[number] = await arun(workflow, {"value": number}, registry=registry)

    async def all_at_once() -> None:
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(start, number)

    anyio.run(all_at_once, backend=backend)

    assert {number: result.outputs["value"] for number, result in results.items()} == {n: n for n in range(100)}
    assert len({result.trace_id for result in results.values()}) == 100
    assert len({result.run_id for result in results.values()}) == 100


def test_spans_of_a_run_make_one_tree(tmp_path: Path) -> None:
    """One trace id for the whole run; each parent_id is a span of the run, but the root's (S0-04)."""
    result = from_file(tmp_path, SHELL.replace('"1"', '"0"'))
    spans: dict[str, SpanRecord] = {span.span_id: span for span in result.spans}

    assert len(spans) == 7
    assert {span.trace_id for span in spans.values()} == {result.trace_id}
    assert [span.name for span in spans.values() if span.parent_id not in spans] == ["RUN shell"]


def test_what_a_run_held_is_freed_when_it_is_over() -> None:
    """Values and plan of a run live no longer than its result (S3-76)."""

    class Held(list[int]):
        """Something large that an executor keeps while it works."""

    held: list[weakref.ref[Held]] = []

    @executor("demo.hold")
    async def hold() -> int:
        value = Held(range(1000))
        held.append(weakref.ref(value))
        return len(value)

    workflow = Workflow("hold")
    workflow.step("hold", "demo.hold")
    result = run(workflow, registry=Registry.of(hold))
    kept = weakref.ref(result)
    assert result.steps["hold"].output == 1000
    del result
    gc.collect()

    assert held[0]() is None
    assert kept() is None


def test_nothing_holds_the_event_loop() -> None:
    """Plain functions run in threads: the loop goes on while all of them block (S3-74)."""
    goes_on = threading.Event()
    threads = set[int]()

    @executor("demo.block")
    def block() -> bool:
        threads.add(threading.get_ident())
        return goes_on.wait(30)

    async def watched() -> RunResult:
        workflow = Workflow("blocking")
        for number in range(5):
            workflow.step(f"step{number}", "demo.block")
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            result = await arun(workflow, registry=Registry.of(block))
            group.cancel_scope.cancel()
        return result

    async def watch() -> None:
        while len(threads) < 5:  # noqa: ASYNC110 - threads of the pool: no event tells
            await anyio.sleep(0.001)
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        goes_on.set()

    result = anyio.run(watched)

    assert result.status == "completed"
    assert [result.steps[f"step{number}"].output for number in range(5)] == [True] * 5
    assert threading.get_ident() not in threads


def test_a_step_in_memory_costs_less_than_a_millisecond() -> None:
    """Without durability, hooks, checks, records and spans of a step together stay light (S4-27)."""

    @executor("demo.nothing")
    async def nothing() -> None:
        return None

    workflow = Workflow("light")
    for number in range(300):
        workflow.step(f"step{number}", "demo.nothing")
    used_s = []
    for _ in range(5):
        before = time.process_time()
        result = run(workflow, registry=Registry.of(nothing))
        used_s.append(time.process_time() - before)
        assert result.status == "completed"

    # Of the processor, and the least of five: a busy machine lets it wait, and its caches are cold.
    assert min(used_s) / 300 < 0.001


def test_a_call_finds_its_executor_through_the_registry() -> None:
    """The same workflow does what the registry at hand holds under the name (S1-24)."""

    @executor("demo.greet")
    async def hello() -> str:
        return "hello"

    @executor("demo.greet")
    def bonjour() -> str:
        return "bonjour"

    workflow = Workflow("greet")
    workflow.output("said", workflow.step("greet", "demo.greet").output)

    assert run(workflow, registry=Registry.of(hello)).outputs == {"said": "hello"}
    assert run(workflow, registry=Registry.of(bonjour)).outputs == {"said": "bonjour"}


def test_steps_see_inputs_outputs_and_errors(tmp_path: Path) -> None:
    """Inputs are made of the run's inputs, the outputs of what is needed, and the errors of what failed (S3-02, S3-13)."""
    text = """
name: seen
inputs: {word: {type: string}}
steps:
  echo: {uses: shell.run, with: {argv: [echo, "${{ inputs.word }}"]}}
  bad: {uses: shell.run, with: {argv: ["false"]}, on_error: continue}
  all:
    uses: shell.run
    with: {argv: [echo, "${{ steps.echo.output.stdout | trim }}/${{ steps.bad.status }}/${{ steps.bad.error.type }}"]}
outputs: {said: "${{ steps.all.output.stdout | trim }}"}
"""
    result = from_file(tmp_path, text, {"word": "hello"})

    assert result.outputs == {"said": "hello/failed/CommandFailedError"}


def test_a_cycle_and_an_unknown_step_are_refused_before_anything_starts(tmp_path: Path) -> None:
    """The error names the steps of the cycle, and the step that is not there (S3-14)."""
    text = """
name: round
steps:
  a: {uses: shell.run, with: {argv: [touch, MARK]}}
  b: {uses: shell.run, with: {argv: [echo]}, needs: [c]}
  c: {uses: shell.run, with: {argv: [echo]}, needs: [d]}
  d: {uses: shell.run, with: {argv: [echo]}, needs: [b]}
""".replace("MARK", str(tmp_path / "started"))
    with pytest.raises(WorkflowInvalidError) as cycle:
        from_file(tmp_path, text)
    with pytest.raises(WorkflowInvalidError) as unknown:
        from_file(tmp_path, text.replace("needs: [b]", "needs: [aa]"))

    assert "cycle" in str(cycle.value)
    assert all(name in str(cycle.value).partition("cycle")[2] for name in "bcd")
    assert "'aa'" in str(unknown.value)
    assert not (tmp_path / "started").exists()


def test_a_run_tolerates_a_part_of_its_steps_failing(tmp_path: Path) -> None:
    """Of four steps 25% is one: the second failure stops the run, and what had not begun is cancelled (S3-41)."""
    steps = "".join(f"  step{n}: {{uses: shell.run, with: {{argv: ['false']}}}}\n" for n in range(4))
    text = f"name: tolerant\nmax_parallel: 1\non_error: continue\nmax_failures: 25%\nsteps:\n{steps}"

    result = from_file(tmp_path, text)

    assert result.status == "failed"
    assert Counter(str(step.status) for step in result.steps.values()) == {"failed": 2, "cancelled": 2}


def test_the_states_are_these() -> None:
    """One vocabulary for runs and one for steps, in files, records and results (S3-61, S3-62)."""
    runs = "pending queued running suspended cancelling completed partial_failure failed cancelled timed_out"
    steps = (
        "pending running retrying completed partial_failure cached skipped"
        " failed upstream_failed cancelled timed_out interrupted poisoned"
    )

    assert [str(status) for status in RunStatus] == runs.split()
    assert [str(status) for status in StepStatus] == steps.split()
