"""The first executor plugins in real runs: from a file, through planning, hooks, retries, deadlines and records."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import anyio
import pytest
from treadle import Registry, RunHandle, Workflow, executor, load_workflow, make_plan, run
from treadle.errors import WorkflowInvalidError
from treadle_shell import Shell
from treadle_shell import run as shell_run

ROOT = Path(__file__).parents[2]
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder: configuration, a tools folder, and a root for files; the working directory of the test."""
    (tmp_path / "treadle.toml").write_text(
        '[tools]\nfolder = "tools"\n[clients.files]\nroot = "files"\n[clients.python]\nallow = ["statistics"]\n'
        '[clients.http]\ntimeout_s = 60\nallow = ["127.0.0.1"]\n'
    )
    (tmp_path / "tools").mkdir()
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(project: Path, text: str) -> Workflow:
    """A workflow from a file."""
    (project / "workflow.yaml").write_text(text)
    return load_workflow(project / "workflow.yaml")


def requests_noted(steps: list[tuple[int, dict[str, str]]]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A service that answers one status after the other, and notes the headers of each request."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append({name.lower(): value for name, value in self.headers.items()})
            status, headers = steps[min(len(seen), len(steps)) - 1]
            body = json.dumps({"asked": len(seen)}).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Not to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", seen
        server.shutdown()
        thread.join()


@pytest.fixture
def busy_service() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Busy twice, then well."""
    yield from requests_noted([(503, {}), (429, {"retry-after": "0"}), (200, {})])


@BACKENDS
def test_all_of_them_work_together(project: Path, backend: str) -> None:
    """S3-16: what a command wrote goes through a tool into a file, and a function of a module sums it up."""
    (project / "tools/words.py").write_text(
        'def words(text: str) -> dict[str, int]:\n    """Count words.\n\n    Args:\n        text: Where to count.\n    """\n'
        "    return {word: text.split().count(word) for word in text.split()}\n"
    )
    workflow = of(
        project,
        """
name: together
inputs: {text: {type: string}}
steps:
  say: {uses: shell.run, with: {script: 'printf "%s" "$text"', inputs: {text: "${{ inputs.text }}"}}}
  count: {uses: tool.words, with: {text: "${{ steps.say.output.stdout }}"}}
  write: {uses: file.write, with: {path: out/words.json, json: "${{ steps.count.output }}"}}
  read: {uses: file.read, needs: [write], with: {path: out/words.json, format: json}}
  found: {uses: file.glob, needs: [write], with: {pattern: "**/*.json"}}
  mean: {uses: python.call, with: {function: "statistics:mean", args: [[1, 2, 6]]}}
outputs:
  words: ${{ steps.read.output.json }}
  same: ${{ steps.read.output.sha256 == steps.write.output.sha256 }}
  files: ${{ steps.found.output.paths }}
  mean: ${{ steps.mean.output }}
""",
    )

    result = run(workflow, {"text": "a b $(id) a; `id`"}, backend=backend).check()

    assert result.outputs == {
        "words": {"a": 1, "b": 1, "$(id)": 1, "a;": 1, "`id`": 1},
        "same": True,
        "files": ["out/words.json"],
        "mean": 3,
    }
    assert json.loads((project / "files/out/words.json").read_text()) == result.outputs["words"]


@BACKENDS
def test_a_tool_may_be_async(project: Path, backend: str) -> None:
    """S3-16: an ``async def`` tool runs on the event loop, whichever it is."""
    (project / "tools/nap.py").write_text(
        "import anyio\nasync def nap(s: float) -> float:\n    await anyio.sleep(s)\n    return s"
    )
    workflow = Workflow("nap")
    workflow.step("nap", "tool.nap", s=0.01)

    assert run(workflow, backend=backend).check().steps["nap"].output == 0.01


def test_mistakes_in_using_a_tool_are_found_before_anything_starts(project: Path) -> None:
    """S3-16: the tool's signature is its contract: unknown tools, misspelt and mistyped inputs are refused by the plan."""
    (project / "tools/count.py").write_text("def count(items: list[str], top: int = 3) -> int: return len(items)")
    (project / "tools/broken.py").write_text("raise ValueError('no key')")
    workflow = of(
        project,
        """
name: mistakes
steps:
  a: {uses: tool.cuont, with: {items: []}}
  b: {uses: tool.count, with: {itmes: []}}
  c: {uses: tool.count, with: {items: [1], top: "3"}}
  d: {uses: tool.broken}
""",
    )

    with pytest.raises(WorkflowInvalidError) as refused:
        make_plan(workflow, Registry.discover())

    text = str(refused.value)
    assert "tool.count" in text
    assert "itmes" in text
    assert "items[0]" in text
    assert "top" in text
    assert "no key" in text


@BACKENDS
def test_a_tools_timeout_is_enforced(project: Path, backend: str) -> None:
    """S3-19: a step with a timeout ends at it, in a thread, in a process and on the network; the run goes on at once."""
    (project / "tools/block.py").write_text(
        "import os, time\ndef block() -> None:\n    while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    workflow = of(
        project,
        """
name: late
on_error: continue
defaults: {timeout: 300ms, retry: {max_attempts: 1}}
steps:
  thread: {uses: tool.block}
  process: {uses: shell.run, timeout: 2s, with: {script: "echo $$ >pid; sleep 300 & wait"}}
""",
    )
    began = time.monotonic()
    result = run(workflow, backend=backend)
    took_s = time.monotonic() - began
    (project / "go").touch()

    assert took_s < 60
    for name, type_, after in (("thread", "ToolTimeoutError", "0.3s"), ("process", "StepTimeoutError", "2")):
        step = result.steps[name]
        assert step.error is not None
        assert (step.error.type, step.attempts) == (type_, 1)
        assert after in step.error.message
    assert not Path(f"/proc/{(project / 'pid').read_text().strip()}").exists()


@BACKENDS
def test_a_tools_retry_is_the_workflows(project: Path, backend: str) -> None:
    """S3-20: ``retry`` in the file decides for a tool and for a command; every attempt has the same idempotency key."""
    (project / "tools/flaky.py").write_text(
        "from pathlib import Path\nfrom treadle import SyncContext\n"
        "def flaky(ctx: SyncContext, /) -> int:\n"
        "    with Path('tries').open('a') as file: file.write(ctx.idempotency_key + '\\n')\n"
        "    if ctx.attempt < 3: raise ConnectionError('reset')\n"
        "    return ctx.attempt\n"
    )
    workflow = of(
        project,
        """
name: flaky
defaults: {retry: {max_attempts: 3, base: 10ms}}
steps:
  tool: {uses: tool.flaky}
  command:
    uses: shell.run
    with: {script: 'echo "$TREADLE_IDEMPOTENCY_KEY" >>keys; test "$TREADLE_ATTEMPT" = 2'}
    retry: {max_attempts: 3, base: 10ms, retry_on: [CommandFailedError]}
""",
    )

    result = run(workflow, backend=backend).check()

    assert (result.steps["tool"].output, result.steps["tool"].attempts, result.steps["command"].attempts) == (3, 3, 2)
    for name, tries in (("tries", 3), ("keys", 2)):
        keys = (project / name).read_text().split()
        assert (len(keys), len(set(keys))) == (tries, 1)


@BACKENDS
def test_what_cannot_get_better_is_tried_once(project: Path, backend: str) -> None:
    """S3-20: without a ``retry`` that says otherwise a failed command, a missing program and a forbidden path are final."""
    workflow = of(
        project,
        """
name: final
on_error: continue
steps:
  failed: {uses: shell.run, with: {script: "exit 3"}}
  missing: {uses: shell.run, with: {argv: [no-such-program]}}
  outside: {uses: file.read, with: {path: ../treadle.toml}}
  forbidden: {uses: python.call, with: {function: "os:system", args: ["touch hacked"]}}
""",
    )

    result = run(workflow, backend=backend)

    errors = {name: step.error.type for name, step in result.steps.items() if step.error is not None}
    assert errors == {
        "failed": "CommandFailedError",
        "missing": "CommandNotFoundError",
        "outside": "OutsideRootError",
        "forbidden": "NotAllowedError",
    }
    assert {step.attempts for step in result.steps.values()} == {1}
    assert not (project / "hacked").exists()


@BACKENDS
def test_a_busy_service_is_asked_again(project: Path, backend: str, busy_service: tuple[str, list[dict[str, str]]]) -> None:
    """S3-20: 503 and 429 are retried as the attributes say; each attempt is a child of the run's trace and has one key."""
    url, seen = busy_service
    workflow = Workflow("busy")
    workflow.step("ask", "http.request", url=url, method="POST", json={"a": 1}, retry={"max_attempts": 3, "base": "10ms"})

    result = run(workflow, backend=backend).check()

    assert result.steps["ask"].attempts == 3
    assert result.steps["ask"].output["json"] == {"asked": 3}  # type: ignore[index] # an object
    assert len({headers["idempotency-key"] for headers in seen}) == 1
    assert len({headers["traceparent"] for headers in seen}) == 3
    assert {headers["traceparent"].split("-")[1] for headers in seen} == {result.trace_id}


@BACKENDS
def test_client_calls_are_spans_of_their_attempts(
    project: Path, backend: str, busy_service: tuple[str, list[dict[str, str]]]
) -> None:
    """Each request is a client span beneath its attempt, with status and without the query; the service becomes its child."""
    url, seen = busy_service
    workflow = Workflow("spans")
    workflow.step("ask", "http.request", url=f"{url}?key=private", method="POST", retry={"max_attempts": 3, "base": "10ms"})

    result = run(workflow, backend=backend).check()

    calls = [span for span in result.spans if span.kind == "client"]
    assert [(span.name, span.attributes["http.response.status_code"], span.status) for span in calls] == [
        ("POST", 503, "error"),
        ("POST", 429, "error"),
        ("POST", 200, "unset"),
    ]
    by_id = {span.span_id: span for span in result.spans}
    assert {by_id[span.parent_id].name for span in calls} == {"attempt ask"}
    assert [headers["traceparent"].split("-")[2] for headers in seen] == [span.span_id for span in calls]
    assert "private" not in str([span.attributes for span in result.spans])


@BACKENDS
def test_cancelling_a_run_ends_its_commands(project: Path, backend: str) -> None:
    """A cancelled run leaves no process, however deep, and ends as cancelled."""
    handles: list[RunHandle] = []

    @executor("test.stop")
    async def stop() -> None:
        files = [anyio.Path(project / name) for name in ("child", "parent")]
        while not all([await file.exists() and await file.read_text() for file in files]):  # noqa: ASYNC110 -- another process
            await anyio.sleep(0.01)
        handles[0].cancel("enough")

    workflow = Workflow("long")
    workflow.step("sleep", "shell.run", script="timeout 300 sh -c 'echo $$ >child; sleep 300' & echo $$ >parent; wait")
    workflow.step("stop", "test.stop")

    result = run(workflow, backend=backend, registry=Registry.of(shell_run, stop, clients=(Shell,)), on_start=handles.append)

    assert (result.status, result.reason) == ("cancelled", "enough")
    for name in ("child", "parent"):
        assert not Path(f"/proc/{(project / name).read_text().strip()}").exists()


# -- all entry points ----------------------------------------------------------------------------------------------------


def plugin_entry_points(group: str) -> list[tuple[str, str]]:
    """Distribution and name of each executor (or client) that a plugin of this repository declares."""
    found = []
    for file in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(file.read_text("utf-8"))["project"]
        found += [(project["name"], name) for name in project.get("entry-points", {}).get(group, {})]
    return found


@pytest.mark.parametrize(("distribution", "name"), plugin_entry_points("treadle.executors"))
def test_every_executor_binds_and_its_examples_fit(distribution: str, name: str) -> None:
    """Each entry point is an executor with documentation, documented inputs, and examples that planning accepts."""
    registry = Registry.discover()
    if name.endswith(".*"):
        assert [entry.status for entry in registry.entries() if entry.name == name] == ["ok"]
        return
    bound = registry.executor(name)

    assert (bound.name, bound.distribution) == (name, distribution)
    assert bound.doc
    assert all(each.description for each in bound.inputs)
    assert [bound.input_faults(example) for example in bound.examples] == [[] for _ in bound.examples]


def test_the_reference_page_lists_every_executor_and_client() -> None:
    """docs/reference/executors.md has each executor and client of the plugins with its inputs, as the code says them now."""
    page = (ROOT / "docs/reference/executors.md").read_text("utf-8")

    for _, name in plugin_entry_points("treadle.executors"):
        assert f"### `{name.replace('.*', '.NAME')}`" in page
    for _, name in plugin_entry_points("treadle.clients"):
        assert f"### client `{name}`" in page
    assert page == load_page_maker().page()


def load_page_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("executors_page", ROOT / "tests/house/executors_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
