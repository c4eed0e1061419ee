"""A folder of tools in a process that lives: found, run, failing, hanging, dying, and none harms the others."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from treadle import OperationLog, Registry, RunResult, Workflow, load_workflow, run

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
ONCE = {"max_attempts": 1}
HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a tool into the folder of a project, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "treadle.toml").touch()
    (tmp_path / "tools").mkdir()

    def write(name: str, source: str) -> None:
        (tmp_path / "tools" / f"{name}.py").write_text(source)

    return write


def of(**steps: Mapping[str, object]) -> Workflow:
    return Workflow.from_dict({"name": "tools", "on_error": "continue", "steps": steps})


@BACKENDS
def test_a_folder_of_tools_runs(tool: Callable[[str, str], None], tmp_path: Path, backend: str) -> None:
    """S2-04, S2-05, S2-37, S2-39: from a file, with the parameters that it gives; the answer is the sources' example."""
    tool(
        "search",
        'def search(query: str, limit: int = 10) -> dict[str, object]:\n    """Search.\n\n    Args:\n        query: What for.\n'
        '        limit: How many.\n\n    Returns:\n        What was found.\n    """\n'
        '    items = [f"{query} {n}" for n in range(limit)]\n'
        '    return {"items": items, "count": len(items), "success": True}\n',
    )
    file = tmp_path / "workflow.yaml"
    file.write_text(
        "name: w\nsteps:\n  found: {uses: tool.search, with: {query: a, limit: 2}}\n"
        "outputs: {n: '${{ steps.found.output.count }}'}"
    )

    result = run(load_workflow(file), backend=backend).check()

    assert result.steps["found"].output == {"items": ["a 0", "a 1"], "count": 2, "success": True}
    assert result.outputs == {"n": 2}


@BACKENDS
@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_a_process_survives_what_its_tools_do(tool: Callable[[str, str], None], backend: str, isolation: str) -> None:
    """S2-51, S2-52: one process, one registry: a missing tool, one that fails, and then one that works."""
    tool("bad", "def bad(): raise RuntimeError('out of paper')")
    tool("good", "def good() -> str: return 'well'")
    registry = Registry.discover()

    with pytest.raises(Exception, match="Tool not found: absent"):
        run(of(a={"uses": "tool.absent"}), registry=registry, backend=backend)
    result = run(
        of(a={"uses": "tool.bad", "isolation": isolation}, b={"uses": "tool.good"}), registry=registry, backend=backend
    )
    again = run(of(b={"uses": "tool.good"}), registry=registry, backend=backend).check()

    error = result.steps["a"].error
    assert error is not None
    assert (error.type, error.message) == ("RuntimeError", "out of paper")
    assert "in bad" in error.traceback
    assert (result.steps["b"].output, again.steps["b"].output) == ("well", "well")


@BACKENDS
def test_a_tool_that_never_ends_is_over_at_its_deadline(tool: Callable[[str, str], None], backend: str) -> None:
    """S2-53, S2-58: ``while True: pass`` ends, for certain, with the sources' words."""
    tool("spin", "def spin():\n    while True: pass")
    tool("good", "def good() -> str: return 'well'")
    began, threads = time.monotonic(), threading.active_count()

    step = {"uses": "tool.spin", "isolation": "process", "timeout": "500ms", "retry": ONCE}
    result = run(of(a=step, b={"uses": "tool.good"}), backend=backend)

    error = result.steps["a"].error
    assert error is not None
    assert (result.steps["a"].status, error.type, error.message) == (
        "timed_out",
        "ToolTimeoutError",
        "Tool execution exceeded 0.5s",
    )
    assert result.steps["b"].output == "well"
    assert time.monotonic() - began < 60
    assert threading.active_count() < threads + 5


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef bad(): os._exit(1)",
        "import os, signal\ndef bad(): os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes\ndef bad(): ctypes.string_at(0)",
        "import sys\ndef bad(): sys.exit(1)",
        "import os\ndef bad():\n    os.closerange(3, 200)\n    return 1",
    ],
)
def test_one_bad_tool_does_not_harm_the_others(tool: Callable[[str, str], None], source: str) -> None:
    """S2-63, S2-64: os._exit, a signal, a segfault, SystemExit, closed files: a failed step beside others that complete."""
    tool("bad", source)
    tool("good", "import time\ndef good(n: int) -> int:\n    time.sleep(0.1)\n    return n")
    others = {"uses": "tool.good", "isolation": "process", "foreach": [1, 2, 3, 4], "with": {"n": "${{ item }}"}}

    result = run(of(bad={"uses": "tool.bad", "isolation": "process"}, good=others))

    assert result.status == "partial_failure"
    assert result.steps["bad"].status == "failed"
    assert result.steps["good"].output == [1, 2, 3, 4]


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_partial_results_are_kept_and_counted(tool: Callable[[str, str], None], isolation: str) -> None:
    """S2-37, S2-59: what ``exc.partial_results`` holds is in the error, for later steps, the result and the trace."""
    tool(
        "fetch",
        "class Halted(Exception): ...\ndef fetch():\n    error = Halted('page 3')\n"
        "    error.partial_results = ['p1', 'p2']\n    raise error",
    )
    tool("use", "def use(pages: list[str]) -> int: return len(pages)")
    workflow = of(
        fetch={"uses": "tool.fetch", "isolation": isolation, "on_error": "continue"},
        use={"uses": "tool.use", "with": {"pages": "${{ steps.fetch.error.partial_results }}"}},
    )

    result = run(workflow)

    error = result.steps["fetch"].error
    assert error is not None
    assert (error.partial_results, error.items_processed) == (["p1", "p2"], 2)
    assert result.steps["use"].output == 2
    told = result.to_dict()["steps"]["fetch"]["error"]  # type: ignore[index]  # JSON
    assert (told["partial_results"], told["items_processed"]) == (["p1", "p2"], 2)
    (attempt,) = [span for span in result.spans if span.name == "attempt fetch"]
    assert [(name, attributes) for name, _, attributes in attempt.events if name == "partial_completion"] == [
        ("partial_completion", {"treadle.items_processed": 2})
    ]


def test_a_tool_that_is_dropped_is_found_without_a_restart(tool: Callable[[str, str], None]) -> None:
    """S2-43, S2-51: the process and its registry live on; a new file, a changed one and a removed one count at once."""
    registry = Registry.discover()

    def answer() -> RunResult:
        return run(of(a={"uses": "tool.late"}), registry=registry)

    with pytest.raises(Exception, match="Tool not found: late"):
        answer()
    tool("late", "def late() -> int: return 1")
    first = answer()
    tool("late", "def late() -> int: return 2")
    second = answer()
    Path("tools/late.py").unlink()

    assert (first.steps["a"].output, second.steps["a"].output) == (1, 2)
    with pytest.raises(Exception, match="Tool not found: late"):
        answer()


def test_every_change_of_state_is_logged(tool: Callable[[str, str], None], caplog: pytest.LogCaptureFixture) -> None:
    """S2-65: what becomes of runs, steps and attempts is a line each, and what a tool prints in its process is too."""
    caplog.set_level(logging.DEBUG)
    tool("t", "def t():\n    print('at work')\n    raise ConnectionError('gone')")

    run(of(a={"uses": "tool.t", "isolation": "process", "retry": {"preset": "tool", "base": "1ms"}}), sinks=[OperationLog()])

    text = caplog.text
    assert text.count("at work") == 3
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("treadle")]
    for said in ("started", "retry", "failed"):
        assert any(said in line for line in logged), said


def test_tools_of_one_folder_share_a_process_and_what_it_has_loaded(tool: Callable[[str, str], None]) -> None:
    """S2-64: isolated calls one after the other cost a process once."""
    for name in ("one", "two"):
        tool(name, f"import os\ndef {name}() -> int: return os.getpid()")
    steps = {
        f"s{number}": {"uses": f"tool.{name}", "isolation": "process", "needs": [f"s{number - 1}"] if number else []}
        for number, name in enumerate(["one", "two"] * 3)
    }

    result = run(of(**steps)).check()

    pids = {step.output for step in result.steps.values()}
    assert len(pids) == 1
    assert os.getpid() not in pids


# -- the pages ---------------------------------------------------------------------------------------------------------------


def blocks(page: str, language: str) -> list[str]:
    """What stands in the page's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", (HOW_TO / page).read_text("utf-8"), re.DOTALL)


def test_the_page_about_tools_is_what_happens(tool: Callable[[str, str], None], tmp_path: Path) -> None:
    """Its tool, its workflow and its commands, word for word."""
    tool("count_words", blocks("use-a-folder-of-tools.md", "python")[0])
    (tmp_path / "words.yaml").write_text(blocks("use-a-folder-of-tools.md", "yaml")[0])
    commands = [line.partition("#")[0] for line in blocks("use-a-folder-of-tools.md", "sh")[0].splitlines()]

    result = run(load_workflow(tmp_path / "words.yaml")).check()
    done = [
        subprocess.run(
            line.replace("treadle ", f"{sys.executable} -m treadle._cli ", 1),
            shell=True,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for line in commands
    ]

    assert result.outputs == {"words": ["be", "to"]}
    assert done[0] == "tool.count_words  Count how often each word occurs.\n"
    assert done[1].startswith("tool.count_words: Count how often each word occurs.\n")
    assert done[2].endswith('{\n  "items": [\n    "a"\n  ],\n  "count": 1,\n  "success": true\n}\n')


def test_the_page_about_isolation_is_what_happens(tool: Callable[[str, str], None], tmp_path: Path) -> None:
    """Its workflow with its tools, under its limits; the variables that it lists are those that a process gets."""
    risky, safe = blocks("isolate-an-executor.md", "python")
    tool("risky", risky)
    tool("safe", safe)
    tool("env", "import os\ndef env() -> list[str]: return sorted(os.environ)")
    (tmp_path / "treadle.toml").write_text(blocks("isolate-an-executor.md", "toml")[0])
    first, limited = blocks("isolate-an-executor.md", "yaml")
    (tmp_path / "isolated.yaml").write_text(first)
    (tmp_path / "limited.yaml").write_text("name: limited\n" + limited)

    result = run(load_workflow(tmp_path / "isolated.yaml"))
    names = run(of(env={"uses": "tool.env", "isolation": "process"})).check().steps["env"].output

    assert (result.steps["risky"].status, result.steps["safe"].output) == ("timed_out", "unharmed")
    assert load_workflow(tmp_path / "limited.yaml").steps["risky"].isolation == {"memory": "512 MiB", "cpu": "30s"}
    listed = (HOW_TO / "isolate-an-executor.md").read_text("utf-8")
    assert isinstance(names, list)
    assert {name for name in names if name not in listed and not name.startswith("LC_")} == set()
