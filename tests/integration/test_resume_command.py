"""``treadle run`` killed in the middle, and what the commands say and do about it; the page of the docs, followed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "resume-a-run.md"


class Project:
    """A folder with the page's files, and the command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        dropped = ("TREADLE_", "OTEL_", "TRACEPARENT")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.environ |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONIOENCODING": "utf-8"}
        blocks = dict(re.findall(r"^```(python|toml|yaml)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL))
        (folder / "executors").mkdir()
        (folder / "executors" / "slow.py").write_text(blocks["python"], "utf-8")
        (folder / "treadle.toml").write_text(blocks["toml"], "utf-8")
        (folder / "slow.yaml").write_text(blocks["yaml"], "utf-8")

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "treadle._cli", *words],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a run and wait until its second step runs."""
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "treadle._cli", "run", "slow.yaml", *words]
        process = subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=pipe, stderr=pipe, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if "two: started" in line:
                return process
        raise AssertionError("the run did not get that far")

    def runs(self, *words: str) -> list[Mapping[str, object]]:
        return list(json.loads(self("runs", "--json", *words).stdout)["runs"])

    def end(self, process: subprocess.Popen[str], number: signal.Signals) -> int:
        process.send_signal(number)
        process.communicate(timeout=60)
        return process.returncode

    def take(self, seconds: int) -> None:
        """Make the workflow's slow step take so long, in runs that begin now."""
        self.change("slow.yaml", "seconds: 3", f"seconds: {seconds}")

    def hold(self) -> None:
        """Make the workflow's slow step last until it is let go, in runs that begin now."""
        waits = 'while seconds and not os.path.exists("go"):\n        await anyio.sleep(0.02)'
        self.change("executors/slow.py", "await anyio.sleep(seconds)", waits)
        self.change("executors/slow.py", "import anyio\n", "import os\n\nimport anyio\n")

    def let_go(self) -> None:
        """Let the slow step end, now and in every stint from here on."""
        (self.folder / "go").touch()

    def change(self, name: str, old: str, new: str) -> None:
        """Change a file."""
        file = self.folder / name
        before = file.read_text("utf-8")
        assert old in before
        file.write_text(before.replace(old, new), "utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The page's files."""
    return Project(tmp_path)


def fits(text: str, name: str) -> None:
    """One JSON object is as the reference says."""
    schema = json.loads((ROOT / "docs" / "reference" / "json" / f"{name}.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(text), schema, cls=jsonschema.Draft202012Validator)


def test_a_killed_run_is_found_and_resumed(project: Project) -> None:
    """After kill -9 the commands of the page show the run and bring it to its end; a second resume shows it (G1, G2)."""
    project.hold()
    code = project.end(project.start(), signal.SIGKILL)
    project.let_go()

    (row,) = project.runs()
    run = str(row["run_id"])
    before = json.loads(project("show", run, "--json").stdout)
    done = project("resume", run[:14], "--json")
    again = project("resume", run)
    told = project("explain", f"{run}/two").stdout
    explained = json.loads(project("explain", run, "--json").stdout)["decisions"]

    assert code == -signal.SIGKILL
    fits(project("runs", "--json").stdout, "runs")
    fits(project("show", run, "--json").stdout, "show")
    fits(project("explain", f"{run}/two", "--json").stdout, "explain")
    fits(done.stdout, "run")
    assert row["status"] == "running"
    assert {step["path"]: step["status"] for step in before["steps"]} == {"one": "completed", "two": "running"}
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["run_id"], result["outputs"]) == (run, {"text": "second"})
    assert again.returncode == 0
    assert "text = second" in again.stdout
    assert re.search(r"was released in stint 1: what it needs was done.*\n.*stint 2 began.*\n.*was released in stint 2: ", told)
    assert sum("one: attempt 1 was released" in line["text"] for line in explained) == 1
    assert [line["seq"] for line in explained] == list(range(1, len(explained) + 1))
    assert project.runs("--status", "completed", "--since", "1h", "--workflow", "slow")[0]["run_id"] == run
    assert project.runs("--status", "failed") == []
    shown = project("show", run).stdout
    assert "✓ slow completed" in shown
    assert "stint 2" in shown


def test_a_run_that_is_driven_is_left_alone(project: Project) -> None:
    """A second resume exits 4 and says who drives the run since when; a cancel is heard by whoever drives it (G8, G12)."""
    project.take(60)  # it is cancelled long before, also where commands are slow to start
    process = project.start()
    run = str(project.runs()[0]["run_id"])

    refused = project("resume", run)
    asked = project("cancel", run, "--reason", "not needed any more")
    out, _ = process.communicate(timeout=60)

    assert refused.returncode == 4
    assert f":{process.pid} since " in refused.stderr
    assert asked.returncode == 0, asked.stderr
    assert process.returncode == 3
    assert "not needed any more" in out
    assert "ended already" in project("cancel", run).stderr


def test_a_terminated_run_is_suspended(project: Project) -> None:
    """SIGTERM lets what runs end, leaves no running row, and the same key goes on with the run (S3-84, G13)."""
    project.hold()
    process = project.start("--key", "today")
    assert process.stderr is not None

    process.send_signal(signal.SIGTERM)
    told = [next(line for line in process.stderr if "SIGTERM" in line)]
    project.let_go()
    process.communicate(timeout=60)

    (row,) = project.runs("--key", "today")
    steps = {step["path"]: step["status"] for step in json.loads(project("show", str(row["run_id"]), "--json").stdout)["steps"]}
    done = project("run", "slow.yaml", "--key", "today", "--json")
    other = project("run", "slow.yaml", "--key", "today", "--json")
    assert process.returncode == 3
    assert told == ["SIGTERM: suspending; steps that run may end first. Once more stops them.\n"]
    assert (row["status"], row["owner"]) == ("suspended", "")
    assert steps == {"one": "completed", "two": "completed", "three": "pending"}
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run_id"] == row["run_id"] == json.loads(other.stdout)["run_id"]
    assert len(project.runs()) == 1


def test_a_run_that_nobody_drives_is_cancelled_from_here(project: Project) -> None:
    """A cancel of an orphaned run ends it; nothing that was running is made again (G12)."""
    project.hold()
    project.end(project.start(), signal.SIGKILL)
    run = str(project.runs()[0]["run_id"])

    done = project("cancel", run)

    assert done.returncode == 0, done.stderr
    shown = json.loads(project("show", run, "--json").stdout)
    assert shown["status"] == "cancelled"
    assert {step["path"]: step["status"] for step in shown["steps"]}["two"] == "cancelled"


def test_what_has_changed_stops_a_resume(project: Project) -> None:
    """Another file is shown as a difference; accepted, the run keeps what it began with (G14)."""
    project.hold()
    project.end(project.start(), signal.SIGKILL)
    project.let_go()
    run = str(project.runs()[0]["run_id"])
    project.change("slow.yaml", "text: second", "text: other")

    refused, accepted = project("resume", run), project("resume", run, "--accept-changes", "--json")

    assert refused.returncode == 2
    assert re.search(r'^\+ +"text": "other"', refused.stderr, re.MULTILINE)
    assert "--accept-changes" in refused.stderr
    assert json.loads(accepted.stdout)["outputs"] == {"text": "second"}


def test_what_cannot_be_found_is_said(project: Project) -> None:
    """An unknown run, one of several, a store that is memory, a step that is not there, a page that was made up."""
    project.take(0)
    for _ in range(2):
        assert project("run", "slow.yaml", "-q").returncode == 0
    run = str(project.runs()[0]["run_id"])

    unknown, several = project("resume", "nobody"), project("show", run[:4])
    step, cursor = project("explain", f"{run}/four"), project("runs", "--cursor", "x")
    first = json.loads(project("runs", "--limit", "1", "--json").stdout)
    second = json.loads(project("runs", "--limit", "1", "--json", "--cursor", first["cursor"]).stdout)
    project.environ["TREADLE_STORE__USE"] = "memory"
    memory = project("runs")

    assert [one.returncode for one in (unknown, several, step, cursor, memory)] == [2] * 5
    assert "treadle runs" in unknown.stderr
    assert "several runs" in several.stderr
    assert "one, two, three" in step.stderr
    assert "cursor" in cursor.stderr
    assert "treadle-sqlite" in memory.stderr
    assert first["runs"][0]["run_id"] == run != second["runs"][0]["run_id"]
    assert second["cursor"] == ""


def test_a_changed_executor_of_the_folder_stops_a_resume(project: Project) -> None:
    """A local executor or tool that was edited since is shown as a change, like another version of a plugin (G14)."""
    tools = project.folder / "tools"
    tools.mkdir()
    (tools / "double.py").write_text("def double(n: int) -> int:\n    return 2 * n\n", "utf-8")
    project.change("slow.yaml", "outputs:", "  four: {uses: tool.double, with: {n: 2}}\noutputs:")
    project.hold()
    project.end(project.start(), signal.SIGKILL)
    project.let_go()
    run = str(project.runs()[0]["run_id"])
    local = project.folder / "executors" / "slow.py"
    before = local.read_text("utf-8")

    local.write_text(before + "# changed\n", "utf-8")
    edited = project("resume", run)
    local.write_text(before, "utf-8")
    (tools / "double.py").write_text("def double(n: int) -> int:\n    return n + n\n", "utf-8")
    changed = project("resume", run)
    accepted = project("resume", run, "--accept-changes", "--json")

    assert edited.returncode != 0
    assert re.search(r"- slow\.copy sha256:\w{16}\n\+ slow\.copy sha256:\w{16}", edited.stderr)
    assert "tool.double" not in edited.stderr
    assert re.search(r"- tool\.double sha256:\w{16}\n\+ tool\.double sha256:\w{16}", changed.stderr)
    assert accepted.returncode == 0, accepted.stderr
