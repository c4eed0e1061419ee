"""``treadle worker start``: runs of processes that are gone are brought to their end, by as many workers as one likes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jsonschema
import pytest
from treadle._driver import DRAIN_S

FLOW = """
name: long
on_error: continue
steps:
  a: {uses: slow.copy, with: {text: a}}
  b: {uses: slow.copy, needs: [a], with: {text: b, seconds: 300}}
  c: {uses: slow.copy, needs: [b], with: {text: c}}
outputs: {text: "${{ steps.c.output }}"}
"""
ASKS = """
name: asks
on_error: continue
steps:
  long: {uses: slow.saves, with: {seconds: 300}}
  pay: {uses: slow.copy, on_interrupt: ask, with: {text: paid, seconds: 300}}
"""
POISON = """
name: bad
on_error: continue
steps:
  bad: {uses: slow.kill}
  good: {uses: slow.copy, with: {text: good}}
"""
EXECUTORS = """
import os
import signal

import anyio
from treadle import Context, executor


@executor("slow.copy")
async def copy(text: str, seconds: float = 0.0) -> str:
    with open("ran.log", "a") as file:
        file.write(text + "\\n")
    with anyio.move_on_after(seconds):
        while seconds and not os.path.exists("go"):
            await anyio.sleep(0.02)
    return text


@executor("slow.saves")
async def saves(ctx: Context, /, seconds: float) -> object:
    with open("ran.log", "a") as file:
        file.write("saves\\n")
    if ctx.checkpoint:
        return ctx.checkpoint.data
    await ctx.save("half", {"done": [1, 2]})
    with open("ran.log", "a") as file:
        file.write("saved\\n")
    await anyio.sleep(seconds)


@executor("slow.kill")
async def kill() -> None:
    with open("ran.log", "a") as file:
        file.write("kill\\n")
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Project:
    """A folder with a workflow and its executors, and the command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        dropped = ("TREADLE_", "OTEL_", "TRACEPARENT")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.environ |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONIOENCODING": "utf-8"}
        (folder / "executors").mkdir()
        (folder / "executors" / "slow.py").write_text(EXECUTORS.replace("\\\\", "\\"), "utf-8")
        (folder / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n[run]\nlease = "2s"\nbeat = "0.5s"\n', "utf-8")

    def flow(self, text: str) -> None:
        (self.folder / "long.yaml").write_text(text, "utf-8")

    def let_go(self) -> None:
        """Let the slow step end, now and in every stint from here on."""
        (self.folder / "go").touch()

    def add_store(self, name: str, code: str) -> None:
        """Install a store, whose class has the name in title case, and use it."""
        info = self.folder / "site" / f"treadle_{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: treadle-{name}\nVersion: 1.0\n", "utf-8")
        (info / "entry_points.txt").write_text(f"[treadle.stores]\n{name} = treadle_{name}:{name.title()}\n", "utf-8")
        (self.folder / "site" / f"treadle_{name}.py").write_text(code, "utf-8")
        self.environ |= {"PYTHONPATH": str(self.folder / "site"), "TREADLE_STORE__USE": name}

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "treadle._cli", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def runs(self) -> list[Mapping[str, object]]:
        return list(json.loads(self("runs", "--json")[1])["runs"])

    @property
    def ran(self) -> list[str]:
        file = self.folder / "ran.log"
        return file.read_text("utf-8").split() if file.exists() else []

    def until_ran(self, text: str, times: int = 1) -> None:
        until(lambda: self.ran.count(text) >= times)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A folder to run in."""
    return Project(tmp_path)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def until_said(process: subprocess.Popen[str], text: str) -> list[str]:
    """The lines of its stderr, up to the first one with the text."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def test_a_worker_takes_up_a_killed_run_and_drains(project: Project) -> None:
    """After kill -9 the run goes on in a worker; SIGTERM lets go of it with no running row, and another one ends it (S3-84)."""
    project.flow(FLOW)
    first = project.start("run", "long.yaml")
    project.until_ran("b")
    first.kill()
    first.communicate()
    worker = project.start("worker", "start", "--poll", "0.2s")
    project.until_ran("b", 2)

    worker.send_signal(signal.SIGTERM)
    drains = until_said(worker, "draining")
    project.let_go()
    worker.communicate(timeout=60)

    (row,) = project.runs()
    steps = {step["path"]: step["status"] for step in json.loads(project("show", str(row["run_id"]), "--json")[1])["steps"]}
    code, _, once = project("worker", "start", "--once")
    (done,) = project.runs()
    assert worker.returncode == 0
    assert drains[-1] == "SIGTERM: draining; once more stops at once.\n"
    assert "taken up in stint 2" in "".join(drains)
    assert (row["status"], row["owner"]) == ("suspended", "")
    assert steps == {"a": "completed", "b": "completed", "c": "pending"}
    assert code == 0
    assert "taken up in stint 3" in once
    assert "Took up 1 run." in once
    assert done["status"] == "completed"
    assert project.ran == ["a", "b", "b", "c"]


def test_a_second_signal_stops_a_worker_at_once(project: Project) -> None:
    """It does not wait for what runs; the run can be taken up by the next."""
    project.flow(FLOW)
    first = project.start("run", "long.yaml")
    project.until_ran("b")
    first.kill()
    first.communicate()
    worker = project.start("worker", "start", "--poll", "0.2s")
    project.until_ran("b", 2)

    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    until_said(worker, "draining")
    worker.send_signal(signal.SIGTERM)
    until_said(worker, "SIGTERM again: stopping at once.")
    worker.communicate(timeout=60)

    assert time.monotonic() - began < DRAIN_S
    assert worker.returncode == 0
    (row,) = project.runs()
    assert (row["status"], row["owner"]) == ("suspended", "")


HELD = """
import os
import time
from treadle_sqlite import SqliteStore as Held

open("opening", "w").close()
while not os.path.exists("go"):
    time.sleep(0.02)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_before_a_worker_works_is_not_lost(project: Project, number: signal.Signals) -> None:
    """While it opens its store it hears what it is told, and then takes up nothing (S3-84)."""
    project.flow(FLOW)
    first = project.start("run", "long.yaml")
    project.until_ran("b")
    first.kill()
    first.communicate()
    project.add_store("held", HELD)
    worker = project.start("worker", "start")
    until((project.folder / "opening").exists)

    worker.send_signal(number)
    until_said(worker, f"{number.name}: draining; once more stops at once.")
    project.let_go()
    _, told = worker.communicate(timeout=60)

    assert worker.returncode == 0, told
    assert "Took up 0 runs." in told
    assert project.ran == ["a", "b"]


def test_two_signals_before_a_worker_works_end_it(project: Project) -> None:
    """It does not go on to open its store."""
    project.add_store("held", HELD)
    worker = project.start("worker", "start")
    until((project.folder / "opening").exists)

    for said in ("SIGTERM: draining", "SIGTERM again: stopping at once."):
        worker.send_signal(signal.SIGTERM)
        until_said(worker, said)
    worker.communicate(timeout=60)

    assert worker.returncode == 3


def test_a_step_that_kills_its_worker_is_poisoned(project: Project) -> None:
    """Workers that are started again and again: the step kills three processes, then the run ends without it (G9)."""
    project.flow(POISON)
    codes = [project("run", "long.yaml")[0]]
    while project.runs()[0]["ended_at"] is None and len(codes) < 8:
        time.sleep(2.1)  # the lease of the dead
        codes.append(project("worker", "start", "--once", "-q")[0])

    (row,) = project.runs()
    steps = {step["path"]: step["status"] for step in json.loads(project("show", str(row["run_id"]), "--json")[1])["steps"]}
    told = project("explain", str(row["run_id"]))[1]
    assert codes == [-9, -9, -9, 0]
    assert project.ran.count("kill") == 3
    assert steps == {"bad": "poisoned", "good": "completed"}
    assert row["status"] == "partial_failure"
    assert "the process before it crashed" in told
    assert "its process went away 3 times while it ran" in told


def test_wrong_words_are_refused(project: Project) -> None:
    """A duration that is none, and settings that cannot be."""
    code, _, told = project("worker", "start", "--poll", "soon")
    assert (code, "--poll" in told) == (2, True)
    project.environ["TREADLE_RUN__LEASE"] = "0.1s"
    code, _, told = project("worker", "start", "--once")
    assert (code, "too short for a beat" in told) == (2, True)


def test_what_a_step_saved_and_what_it_asks_is_shown(project: Project) -> None:
    """``show`` says where a step goes on and which answer it waits for; answers bring the run to its end (S1-70, G4)."""
    project.flow(ASKS)
    first = project.start("run", "long.yaml")
    project.until_ran("saved")
    project.until_ran("paid")
    first.kill()
    first.communicate()
    (row,) = project.runs()
    run = str(row["run_id"])

    shown = project("show", run)[1]
    told = json.loads(project("show", run, "--json")[1])
    time.sleep(2.1)
    code, _, error = project("resume", run)
    asked = project("show", run)[1]
    nobody = project("worker", "start", "--once")[2]
    wrong = project("resume", run, "--rerun", "long")
    done = project("resume", run, "--fail", "pay", "--json")

    schema = json.loads((Path(__file__).parents[2] / "docs/reference/json/show.schema.json").read_text("utf-8"))
    jsonschema.validate(told, schema, cls=jsonschema.Draft202012Validator)
    assert "long goes on at checkpoint half (14 bytes, " in shown
    assert [(point["path"], point["token"], point["size_bytes"]) for point in told["checkpoints"]] == [("long", "half", 14)]
    assert code == 3
    assert "nobody knows whether 'pay' was done" in error
    assert f"pay may have been done: treadle resume {run} --rerun 'pay' (or --fail)" in asked
    assert "Took up 0 runs." in nobody
    assert wrong[0] == 2
    assert "It asks about: pay." in wrong[2]
    result = json.loads(done[1])
    assert result["steps"]["long"]["output"] == {"done": [1, 2]}
    assert result["steps"]["pay"]["status"] == "interrupted"
    assert project.ran.count("paid") == 1
