"""What holds for every tool that says nothing itself: deadline, retries, lists for generators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from treadle import Registry, Workflow, arun, make_plan, run
from treadle.errors import StepTimeoutError
from treadle_python import Tool, ToolTimeoutError


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a tool into the folder ``tools`` of the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "treadle.toml").touch()
    (tmp_path / "tools").mkdir()
    return lambda name, source: (tmp_path / "tools" / f"{name}.py").write_text(source) and None


def test_a_tool_has_five_minutes(tool: Callable[[str, str], None]) -> None:
    """S2-58: 300 s unless the workflow says otherwise; the error has the tool's own words and is a TimeoutError (C25)."""
    tool("t", "def t(): ...")
    workflow = Workflow("w")
    workflow.step("default", "tool.t")
    workflow.step("own", "tool.t", timeout="10s")

    steps = make_plan(workflow, Registry.discover()).steps

    assert (steps["default"].timeout_s, steps["own"].timeout_s) == (300.0, 10.0)
    error = Tool().timed_out(300.0)
    assert isinstance(error, ToolTimeoutError)
    assert isinstance(error, TimeoutError)
    assert not isinstance(error, StepTimeoutError)
    assert str(error).splitlines()[0] == "Tool execution exceeded 300s"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_tool_that_exceeds_its_deadline_says_so(tool: Callable[[str, str], None], tmp_path: Path, backend: str) -> None:
    """S2-58: status, type and words of the step's error."""
    over = tmp_path / "over"
    tool("nap", f"import os, time\ndef nap():\n    while not os.path.exists({str(over)!r}): time.sleep(0.01)")
    workflow = Workflow("w", on_error="continue")
    workflow.step("nap", "tool.nap", timeout="100ms", retry={"max_attempts": 1})

    step = run(workflow, backend=backend).steps["nap"]
    over.touch()

    assert step.error is not None
    assert (step.status, step.error.type, step.error.message) == (
        "timed_out",
        "ToolTimeoutError",
        "Tool execution exceeded 0.1s",
    )


def test_a_tool_is_tried_again_as_the_sources_did(tool: Callable[[str, str], None]) -> None:
    """S2-60: 3 attempts, waits from 1 s, doubling, up to 30 s, only for ConnectionError and TimeoutError."""
    tool("t", "def t(): ...")
    workflow = Workflow("w")
    workflow.step("default", "tool.t")
    workflow.step("own", "tool.t", retry={"max_attempts": 7})

    steps = make_plan(workflow, Registry.discover()).steps

    policy = steps["default"].retry
    assert (policy.max_attempts, policy.base_s, policy.factor, policy.max_delay_s) == (3, 1.0, 2.0, 30.0)
    assert policy.retry_on == ("ConnectionError", "TimeoutError")
    assert steps["own"].retry.max_attempts == 7


@pytest.mark.parametrize(
    ("raised", "attempts"), [("ConnectionResetError('x')", 3), ("TimeoutError()", 3), ("ValueError('connection lost')", 1)]
)
def test_only_connections_and_timeouts_are_tried_again(tool: Callable[[str, str], None], raised: str, attempts: int) -> None:
    """S2-60: their subclasses too; words of a message alone do not count."""
    tool("t", f"def t(): raise {raised}")
    workflow = Workflow("w")
    workflow.step("t", "tool.t", retry={"preset": "tool", "base": "1ms"} if attempts > 1 else None)

    assert run(workflow).steps["t"].attempts == attempts


@pytest.mark.parametrize(
    "source",
    [
        "def t(n: int):\n    yield from range(n)",
        "from collections.abc import Iterator\ndef t(n: int) -> Iterator[int]:\n    yield from range(n)",
        "from __future__ import annotations\nfrom typing import Generator\n"
        "def t(n: int) -> Generator[int, None, None]:\n    yield from range(n)",
        "def t(n: int):\n    return (i for i in range(n))",
        "async def t(n: int):\n    for i in range(n):\n        yield i",
        "from collections.abc import AsyncIterator\n"
        "async def t(n: int) -> AsyncIterator[int]:\n    for i in range(n):\n        yield i",
        "async def t(n: int):\n    return map(int, range(n))",
        "def t(n: int) -> list[int]:\n    return list(range(n))",
    ],
)
@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_generators_become_lists(tool: Callable[[str, str], None], source: str, isolation: str) -> None:
    """What is made while it is read is read to its end; the declared items are checked."""
    tool("t", source)
    workflow = Workflow("w")
    workflow.step("t", "tool.t", n=3, isolation=isolation)

    assert run(workflow).check().steps["t"].output == [0, 1, 2]


def test_items_of_a_generator_have_the_declared_type(tool: Callable[[str, str], None]) -> None:
    """The contract is that of a list."""
    tool("t", "from collections.abc import Iterator\ndef t() -> Iterator[int]:\n    yield 'a'")
    workflow = Workflow("w")
    workflow.step("t", "tool.t")

    bound = Registry.discover().executor("tool.t")
    error = run(workflow).steps["t"].error

    assert bound.output_schema()["type"] == "array"
    assert bound.output_schema()["items"] == {"type": "integer"}
    assert error is not None
    assert error.type == "OutputInvalidError"


def test_a_tool_may_declare_more_than_its_signature(tool: Callable[[str, str], None]) -> None:
    """``@executor`` in a tool's file is the author's word; the family can be chosen there too."""
    tool(
        "t",
        'from treadle import executor\n@executor("tool.t", family="tool", effects="unsafe", isolation="process")\ndef t(): ...',
    )
    tool("plain", 'from treadle import executor\n@executor("tool.plain")\ndef plain(): ...')
    registry = Registry.discover()

    marked, plain = registry.executor("tool.t"), registry.executor("tool.plain")

    assert (marked.effects, marked.isolation, marked.family, marked.timeout_s) == ("unsafe", "process", "tool", 300.0)
    assert (plain.family, plain.timeout_s, plain.isolation) == ("general", None, None)


def test_a_callable_object_may_be_a_tool(tool: Callable[[str, str], None]) -> None:
    """Partials and instances with ``__call__`` work too; slots only keep them from a process of their own."""
    tool("p", "import functools\np = functools.partial(max, 3)\np = functools.partial(lambda a, b: a + b, b=2)")
    tool("o", "class O:\n    __slots__ = ()\n    def __call__(self, a: int) -> int:\n        return a\no = O()")
    workflow = Workflow("w")
    workflow.step("p", "tool.p", a=1)
    workflow.step("o", "tool.o", a=1)

    result = run(workflow).check()

    assert (result.steps["p"].output, result.steps["o"].output) == (3, 1)
    assert Registry.discover().executor("tool.o").isolation_problem()[0]


def test_an_annotation_that_cannot_be_read_is_said(tool: Callable[[str, str], None]) -> None:
    """Of a generator, whose types are taken apart."""
    tool("t", "from __future__ import annotations\ndef t() -> Iterator[int]:\n    yield 1")

    with pytest.raises(Exception, match="Tool t has an annotation that cannot be read: name 'Iterator' is not defined"):
        Registry.discover().executor("tool.t")


def test_every_tool_can_be_isolated_by_configuration(tool: Callable[[str, str], None], tmp_path: Path) -> None:
    """S2-64: ``[tools] isolation = "process"``; a step may still say inline."""
    tool("pid", "import os\ndef pid() -> int: return os.getpid()")
    (tmp_path / "treadle.toml").write_text('[tools]\nisolation = "process"\n')
    workflow = Workflow("w")
    workflow.step("isolated", "tool.pid")
    workflow.step("inline", "tool.pid", isolation="inline")

    result = run(workflow).check()

    assert result.steps["isolated"].output != result.steps["inline"].output


def test_a_run_keeps_the_tool_that_it_began_with(tool: Callable[[str, str], None], tmp_path: Path) -> None:
    """S2-43: a file that changes meanwhile counts from the next run on, here and in processes that start later."""
    tool("t", "def t(): return 'old'")
    tool(
        "change",
        f"import pathlib\ndef change(): pathlib.Path({str(tmp_path / 'tools/t.py')!r}).write_text(\"def t(): return 'new'\")",
    )
    workflow = Workflow("w")
    workflow.step("before", "tool.t")
    workflow.step("change", "tool.change", needs=["before"])
    for isolation in ("inline", "process"):
        workflow.step(isolation, "tool.t", needs=["change"], isolation=isolation)
    registry = Registry.discover()

    first = run(workflow, registry=registry).check()
    second = run(workflow, registry=registry).check()

    assert [first.steps[path].output for path in ("before", "inline", "process")] == ["old", "old", "old"]
    assert [second.steps[path].output for path in ("before", "inline", "process")] == ["new", "new", "new"]


def test_concurrent_runs_share_a_folder(tool: Callable[[str, str], None]) -> None:
    """Many at once, each with a registry of its own."""
    tool("t", "def t(n: int) -> int: return n")
    workflow = Workflow("w")
    workflow.step("t", "tool.t", foreach=[1, 2, 3], n="${{ item }}")
    results: list[object] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(one)

    async def one() -> None:
        results.append((await arun(workflow, registry=Registry.discover())).check().steps["t"].output)

    anyio.run(main)

    assert results == [[1, 2, 3]] * 5
