"""``treadle store``, as a user types it, on the real SQLite store; and its page of the docs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import apsw
import jsonschema
import pytest

ROOT = Path(__file__).parents[2]


class Project:
    """A folder with a workflow, and the command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "state" / "treadle" / "runs.db"
        dropped = ("TREADLE_", "OTEL_", "TRACEPARENT")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.environ |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONIOENCODING": "utf-8"}
        (folder / "executors").mkdir()
        (folder / "executors" / "demo.py").write_text(
            'from treadle import executor\n\n\n@executor("demo.say")\ndef say(text: str) -> str:\n    return text\n', "utf-8"
        )
        (folder / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n', "utf-8")
        (folder / "hello.yaml").write_text("name: hello\nsteps:\n  say: {uses: demo.say, with: {text: hello}}\n", "utf-8")

    def __call__(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "treadle._cli", *words],
            cwd=self.folder,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def json(self, *words: str) -> Mapping[str, object]:
        """The object that a command prints, which is as the reference says."""
        done = self(*words, "--json")
        assert done.returncode == 0, done.stderr
        found: Mapping[str, object] = json.loads(done.stdout)
        schema = json.loads((ROOT / "docs" / "reference" / "json" / f"{words[0]}-{words[1]}.schema.json").read_text("utf-8"))
        jsonschema.Draft202012Validator(schema).validate(found)
        return found

    def run(self, *, days_ago: float = 0, **environ: str) -> str:
        """A run that ended so long ago."""
        done = self("run", "hello.yaml", "--json", "--quiet", **environ)
        run_id = str(json.loads(done.stdout)["run_id"])
        connection = apsw.Connection(str(self.store))
        connection.execute("UPDATE runs SET ended_at = ? WHERE run_id = ?", (time.time() - days_ago * 86_400, run_id))
        connection.close()
        return run_id


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A folder with a workflow."""
    return Project(tmp_path)


def test_store_commands_print_what_they_did(project: Project) -> None:
    """Each says it in words, and as one JSON object of its schema with ``--json``."""
    old, new = project.run(days_ago=40), project.run()

    stats = project.json("store", "stats")
    assert (stats["store"], stats["where"], stats["runs"]) == ("sqlite", str(project.store), {"completed": 2})
    assert project.json("store", "clean", "--older-than", "30d", "--dry-run")["removed"] == {"runs": 1}
    assert project.json("store", "clean", "--older-than", "30d", "--events")["removed"] == {"records": 6}
    assert project.json("store", "clean", "--older-than", "30d", "--timers", "--checkpoints")["removed"] == {
        "checkpoints": 0,
        "timers": 0,
    }
    assert project.json("store", "clean", "--older-than", "30d") == {
        "dry_run": False,
        "older_than_s": 30 * 86_400,
        "removed": {"runs": 1},
        "unsent_runs": {"kept": 0, "dropped": 0},
    }
    assert project.json("store", "migrate") == {"before": 1, "after": 1}
    assert set(project.json("store", "vacuum")) == {"before_bytes", "after_bytes"}
    assert project.json("store", "backup", "copy.db")["path"] == "copy.db"
    told = project("store", "stats").stdout
    assert f"sqlite  {project.store}" in told
    assert "runs:       1 (1 completed)" in told
    assert "has format 1 already" in project("store", "migrate").stderr
    assert re.search(r"takes [\d.]+ KB now", project("store", "vacuum").stderr)
    assert "Removed 0 runs." in project("store", "clean", "--older-than", "30d").stderr
    assert project("show", old).returncode == 2
    assert project("show", new).returncode == 0


def test_a_backup_is_a_store_to_work_with(project: Project) -> None:
    """Named in place of the store it shows the same runs, and says that it is a copy."""
    run_id = project.run()
    done = project("store", "backup", "copy.db")
    assert re.fullmatch(r"Wrote copy\.db \([\d.]+ KB\)\.\n", done.stderr)
    again = project("store", "backup", "copy.db")
    assert again.returncode == 2
    assert "already" in again.stderr

    shown = project("runs", "--json", TREADLE_STORE__USE="sqlite", TREADLE_STORE__PATH=str(project.folder / "copy.db"))

    assert [run["run_id"] for run in json.loads(shown.stdout)["runs"]] == [run_id]
    assert "backup made at" in shown.stderr


def test_runs_whose_spans_were_not_sent_stay_until_somebody_gives_them_up(project: Project) -> None:
    """With a backend that was away, clean keeps them, their logs and their spans, and says so; --drop-unsent removes them.

    Runs that nobody exports go as ever, and keep_days is as careful as the command (S1-53).
    """
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    project.run(days_ago=40)
    unsent = project.run(days_ago=40, **away)
    older = ("store", "clean", "--older-than", "30d")

    would = project(*older, "--dry-run")
    assert would.stderr.startswith("Would remove 1 run.\nWould keep 1 run whose spans were not sent to a backend yet.\n")
    assert project.json(*older, "--drop-unsent", "--dry-run")["removed"] == {"runs": 2}
    done = project(*older)
    assert (
        "Removed 1 run.\nKept 1 run whose spans were not sent to a backend yet.\nSend them with 'treadle spans export'"
        in done.stderr
    )
    assert project.json(*older, "--events")["unsent_runs"] == {"kept": 1, "dropped": 0}
    assert project("store", "migrate", TREADLE_STORE__USE="sqlite", TREADLE_STORE__KEEP_DAYS="30").returncode == 0
    waiting = json.loads(project("spans", "status", "--json").stdout)["runs"]
    assert [(run["run_id"], run["waiting"]) for run in waiting] == [(unsent, 3)]

    assert "concerns whole runs" in project(*older, "--timers", "--drop-unsent").stderr
    dropped = project(*older, "--drop-unsent")

    assert dropped.stderr == "Removed 1 run.\nSpans of 1 run were never sent to a backend.\n"
    assert project("spans", "status").stdout == "All spans were delivered.\n"
    assert json.loads(project("runs", "--json").stdout)["runs"] == []


@pytest.mark.parametrize("command", ["resume", "explain"])
def test_a_run_whose_log_was_removed_says_so(project: Project, command: str) -> None:
    """Its row and its steps are still shown; what needs the log says why there is none."""
    run_id = project.run(days_ago=40)
    project("store", "clean", "--older-than", "30d", "--events")

    assert project("show", run_id).returncode == 0
    done = project(command, run_id)

    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: The log of run {run_id} is not kept any more.\n")
    assert "treadle show" in done.stderr


def test_a_key_whose_log_was_removed_says_so(project: Project) -> None:
    """The run that the key stands for cannot be shown again, and another one is not started in its place (G13)."""
    first = project("run", "hello.yaml", "--quiet", "--key", "daily")
    assert first.returncode == 0, first.stderr
    project("store", "clean", "--older-than", "0s", "--events")

    again = project("run", "hello.yaml", "--quiet", "--key", "daily")

    assert again.returncode == 2
    assert "is not kept any more" in again.stderr
    assert len(json.loads(project("runs", "--json").stdout)["runs"]) == 1


def test_what_cannot_be_looked_after_is_told(project: Project) -> None:
    """Memory keeps nothing; a wrong age or contradictory options are usage errors."""
    done = project("store", "stats", TREADLE_STORE__USE="memory")
    assert done.returncode == 2
    assert "the store is memory" in done.stderr
    assert project("store", "clean", "--older-than", "soon").returncode == 2
    assert "whole runs" in project("store", "clean", "--older-than", "1d", "--timers", "--dry-run").stderr
    assert project("store", "clean").returncode == 2


def test_the_page_says_what_the_store_says() -> None:
    """The messages that docs/how-to/look-after-the-store.md explains are those of the store, and its commands are there."""
    page = (ROOT / "docs" / "how-to" / "look-after-the-store.md").read_text("utf-8")
    source = "".join(file.read_text("utf-8") for file in (ROOT / "plugins" / "treadle-sqlite" / "src").rglob("*.py"))
    said = [
        *("cannot be used (", "can only be read", "was deleted", "was replaced", "while it was in use"),
        *("lies on a network file system", "was written by a later version", "keeps runs in: once it closes the file"),
        "-wal has grown to",
    ]
    commands = set(re.findall(r"treadle store (\w+)", page))

    assert [each for each in said if each not in page or each not in source] == []
    assert commands == {"stats", "backup", "clean", "vacuum", "migrate"}
    assert set(re.findall(r"`(\w+)`[,:;]? ", page.partition("Tables:")[2])) >= {"runs", "records", "active_tasks"}
