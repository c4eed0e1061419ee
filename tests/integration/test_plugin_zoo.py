"""The zoo: every way in which a plugin can be broken, all installed at once, beside plugins that work.

Everything runs in child processes, through the command line, as a person would.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

LAYING = Path(__file__).parents[1] / "zoo" / "laying.py"

LINES = [
    "blocked: executor zoo.blocked (treadle-zoo-blocked 1.0): [plugins] block names its distribution",
    "broken: executor zoo.crashes (treadle-zoo-crashes 1.0): its import was ended by signal SIGABRT",
    "broken: executor zoo.dies (treadle-zoo-dies 1.0): its import ended the process with exit code 7",
    "broken: executor zoo.exits (treadle-zoo-exits 1.0): its import ends the process with SystemExit: 3 "
    "(treadle_zoo_exits.py:8)",
    "broken: executor zoo.half (treadle-zoo-torn 1.0): its import raises ModuleNotFoundError: No module named 'treadle_zoo_'",
    "broken: executor zoo.interrupts (treadle-zoo-interrupts 1.0): its import raises KeyboardInterrupt "
    "(treadle_zoo_interrupts.py:3)",
    "broken: executor zoo.lost (treadle-zoo-lost 1.0): its import raises ModuleNotFoundError: "
    "No module named 'treadle_zoo_absent' (treadle_zoo_lost.py:3); requires treadle-zoo-absent, which is not installed",
    "broken: executor zoo.raises (treadle-zoo-raises 1.0): its import raises RuntimeError: no licence file "
    "(treadle_zoo_raises.py:5)",
    "broken: executor zoo.sleeps (treadle-zoo-sleeps 1.0): took longer than 5 s to import",
    "broken: executor zoo.sleeps_too (treadle-zoo-sleeps 1.0): took longer than 5 s to import",
    "broken: executor zoo.stolen (treadle-zoo-thief 1.0): its entry point points into treadle-zoo-good (treadle_zoo_good:echo)",
    "broken: policy zoo-misspelt (treadle-zoo-misspelt 1.0): unknown hook 'validate_outputs'; "
    "did its author mean 'validate_output'?",
    "broken: policy zoo-removed (treadle-zoo-removed 1.0): hook 'execute' asks for 'loop', which is not given "
    "(it gives call, ctx)",
    "broken: treadle-zoo-torn: entry_points.txt line 4 is not an entry point: '='",
    "conflict: executor zoo.twins (treadle-zoo-twin-a 1.0, treadle-zoo-twin-b 1.0): choose one in treadle.toml: "
    '[plugins] prefer = {"zoo.twins" = "treadle-zoo-twin-a"}',
    "ok: client zoo (treadle-zoo-good 1.0)",
    "ok: executor zoo.dies_not (treadle-zoo-dies 1.0)",
    "ok: executor zoo.echo (treadle-zoo-good 1.0)",
    "ok: executor zoo.torn (treadle-zoo-torn 1.0)",
    "ok: executor zootool.* (treadle-zoo-good 1.0)",
    "ok: family zoo (treadle-zoo-good 1.0)",
    "ok: policy zoo-quiet (treadle-zoo-good 1.0)",
    "warning: executor zoo.needy (treadle-zoo-needy 1.0): requires attrs>=9999, but ATTRS is installed; "
    "requires treadle-zoo-absent>=2, which is not installed",
    "warning: executor zoo.unbounded (treadle-zoo-unbounded 1.0): names no floor and no cap of the treadle that it works "
    "with, like treadle>=0.1,<1",
]

GOOD = """
name: good
steps:
  say: {uses: zoo.echo, with: {text: hello}}
  up: {uses: zootool.upper, with: {text: "${{ steps.say.output }}"}}
  needy: {uses: zoo.needy}
  torn: {uses: zoo.torn}
  after: {uses: zoo.dies_not}
outputs: {said: "${{ steps.up.output }}", alive: "${{ steps.after.output }}"}
"""


def _used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Ended(NamedTuple):
    """A command that is over."""

    code: int
    out: str
    err: str
    took_s: float
    used_s: float  # of the processor


class Project(NamedTuple):
    """A folder with a configuration, and a site where the whole zoo is installed."""

    folder: Path
    site: Path

    def treadle(self, *words: str, environ: Mapping[str, str] | None = None) -> Ended:
        """Run a command of treadle here."""
        started, used = time.monotonic(), _used_s()
        done = subprocess.run(
            [sys.executable, "-P", "-c", "from treadle._cli import main; main()", *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.site), "NO_COLOR": "1", "COLUMNS": "1000", **(environ or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - started, _used_s() - used)

    def write(self, name: str, text: str) -> str:
        """A file of the project; answers its name."""
        (self.folder / name).write_text(text)
        return name


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The zoo, installed, one distribution of it blocked."""
    spec = importlib.util.spec_from_file_location("zoo_laying", LAYING)
    assert spec is not None
    assert spec.loader is not None
    laying = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(laying)
    folder = tmp_path_factory.mktemp("zoo")
    (folder / "site").mkdir()
    assert len(laying.lay_zoo(folder / "site")) == 17
    (folder / "treadle.toml").write_text('[plugins]\nblock = ["treadle_zoo.blocked"]\n')
    return Project(folder, folder / "site")


def test_listing_is_fast_and_valid_json_with_the_whole_zoo(project: Project) -> None:
    """``plugins list --json`` imports nothing: under 1 s, every name with its status, and what could not be read."""
    runs = [project.treadle("plugins", "list", "--json") for _ in range(3)]

    listed = json.loads(runs[0].out)
    status = {(entry["name"], entry["distribution"]): entry["status"] for entry in listed["plugins"]}
    assert [run.code for run in runs] == [0, 0, 0]
    # Of the processor, and the quickest of three: a busy machine lets it wait.
    assert min(run.used_s for run in runs) < 1.0
    assert status["zoo.raises", "treadle-zoo-raises"] == "ok"
    assert status["zoo.blocked", "treadle-zoo-blocked"] == "blocked"
    assert status["zoo.twins", "treadle-zoo-twin-a"] == status["zoo.twins", "treadle-zoo-twin-b"] == "conflict"
    assert {"distribution": "treadle-zoo-torn", "why": "entry_points.txt line 4 is not an entry point: '='"} in listed["faults"]


def test_the_doctor_has_an_exact_line_for_every_plugin(project: Project) -> None:
    """Each animal of the zoo, line by line; broken ones make exit code 1, and the children run two at a time."""
    ended = project.treadle("plugins", "doctor")

    from_zoo = sorted(line for line in ended.out.splitlines() if "treadle-zoo-" in line)
    assert from_zoo == [line.replace("ATTRS", importlib.metadata.version("attrs")) for line in LINES]
    assert ended.code == 1
    assert ended.took_s < 60


def test_the_doctor_answers_in_json_too(project: Project) -> None:
    """The same diagnoses as data, with the traceback or the place of the hang."""
    found = json.loads(project.treadle("plugins", "doctor", "--json").out)

    by_name = {each["name"]: each for each in found["diagnoses"]}
    assert found["healthy"] is False
    assert "_read_licence()" in by_name["zoo.raises"]["detail"]
    assert "time.sleep" in by_name["zoo.sleeps"]["detail"]
    assert sorted(each["line"] for each in found["diagnoses"] if "treadle-zoo-" in each["line"]) == [
        line.replace("ATTRS", importlib.metadata.version("attrs")) for line in LINES
    ]


def test_every_other_plugin_still_works(project: Project) -> None:
    """A run that uses only what works is not touched by what does not."""
    ended = project.treadle("run", project.write("good.yaml", GOOD), "--json")

    result = json.loads(ended.out)
    assert (ended.code, result["status"]) == (0, "completed")
    assert result["outputs"] == {"said": "HELLO", "alive": "alive"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zoo.raises", "'zoo.raises' of treadle-zoo-raises is broken: its import raises RuntimeError: no licence file"),
        ("zoo.exits", "'zoo.exits' of treadle-zoo-exits is broken: its import ends the process with SystemExit: 3"),
        ("zoo.interrupts", "'zoo.interrupts' of treadle-zoo-interrupts is broken: its import raises KeyboardInterrupt"),
        ("zoo.twins", "'zoo.twins' is claimed by treadle-zoo-twin-a and treadle-zoo-twin-b."),
        ("zoo.stolen", "'zoo.stolen' of treadle-zoo-thief is broken: its entry point points into treadle-zoo-good"),
        ("zoo.blocked", "'zoo.blocked' of treadle-zoo-blocked is blocked by the configuration."),
    ],
)
def test_a_workflow_that_uses_a_broken_plugin_is_refused_before_it_starts(project: Project, name: str, message: str) -> None:
    """Exit code 2, the step, the distribution and the reason."""
    file = project.write("bad.yaml", f"name: bad\nsteps:\n  s: {{uses: {name}}}\n")

    ended = project.treadle("run", file)

    assert ended.code == 2
    assert f"bad.yaml:3:7: steps.s.uses: {message}" in ended.err
    assert "Nothing was started." in ended.err


def test_a_long_import_is_announced_by_the_run_that_needs_it(project: Project) -> None:
    """While it lasts, the command says for what it waits."""
    file = project.write("slow.yaml", "name: slow\nsteps:\n  s: {uses: zoo.sleeps, with: {text: x}}\n")

    ended = project.treadle("run", file, environ={"ZOO_SLEEP_S": "4"})

    assert ended.code == 0
    assert "importing zoo.sleeps (treadle-zoo-sleeps)" in ended.err


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("zoo-misspelt", "unknown hook 'validate_outputs'; did its author mean 'validate_output'?"),
        ("zoo-removed", "hook 'execute' asks for 'loop', which is not given (it gives call, ctx)"),
    ],
)
def test_an_active_policy_that_cannot_work_stops_the_run(project: Project, policy: str, message: str) -> None:
    """A policy guards every call, so a run without it is not what was asked for."""
    file = project.write("good.yaml", GOOD)

    ended = project.treadle("run", file, environ={"TREADLE_PLUGINS__POLICIES": f'["{policy}"]'})

    assert ended.code == 2
    assert f"'{policy}' of treadle-{policy} is broken: {message}" in ended.err


def test_the_line_of_the_conflict_solves_it(project: Project) -> None:
    """Either twin can be chosen, by the setting that the error prints."""
    file = project.write("twins.yaml", 'name: twins\nsteps:\n  t: {uses: zoo.twins}\noutputs: {who: "${{ steps.t.output }}"}\n')

    for who in ("a", "b"):
        environ = {"TREADLE_PLUGINS__PREFER": f'{{"zoo.twins" = "treadle-zoo-twin-{who}"}}'}
        assert json.loads(project.treadle("run", file, "--json", environ=environ).out)["outputs"] == {"who": who}


def test_clients_are_tried_on_request(project: Project) -> None:
    """``doctor --connect`` opens and checks what the configuration names."""
    environ = {
        "TREADLE_CLIENTS__WELL": '{use = "zoo"}',
        "TREADLE_CLIENTS__ILL": '{use = "zoo", mood = "ill"}',
        "TREADLE_CLIENTS__REFUSED": '{use = "zoo", mood = "refuses"}',
        "TREADLE_CLIENTS__EXITS": '{use = "zoo", mood = "exits"}',
    }

    ended = project.treadle("plugins", "doctor", "--connect", environ=environ)

    assert sorted(line for line in ended.out.splitlines() if "[clients." in line) == [
        "broken: [clients.exits] (treadle-zoo-good 1.0): opening it ended the process with exit code 9",
        "broken: [clients.ill] (treadle-zoo-good 1.0): RuntimeError: the service is ill",
        "broken: [clients.refused] (treadle-zoo-good 1.0): ConnectionRefusedError: nobody listens",
        "ok: [clients.well] (treadle-zoo-good 1.0): connected",
    ]


def test_the_commands_work_without_any_plugin(project: Project) -> None:
    """TREADLE_PLUGINS=none: the way out when nothing else helps."""
    listed = project.treadle("plugins", "list", "--json", environ={"TREADLE_PLUGINS": "none"})
    doctor = project.treadle("plugins", "doctor", environ={"TREADLE_PLUGINS": "none"})

    assert json.loads(listed.out) == {"plugins": [], "faults": []}
    assert (doctor.code, doctor.out) == (0, "0 looked at: no plugin is installed\n")
