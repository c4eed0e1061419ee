"""What the README shows works as it stands there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def block(language: str) -> str:
    """The first block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_workflow_of_the_readme_runs(tmp_path: Path) -> None:
    """It reads the checkout's log and writes the file that its output names (S3-10)."""
    (tmp_path / "changes.yaml").write_text(block("yaml"), "utf-8")
    command = [str(Path(sys.executable).with_name("treadle")), "run", "changes.yaml", "--json", "-i", f"repo={ROOT}"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    written = (tmp_path / json.loads(done.stdout)["outputs"]["path"]).read_text("utf-8")
    log = subprocess.run(["git", "log", "--oneline", "-n", "5"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert written == log.stdout


TIMEOUT = f"""#!{sys.executable}
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path


def batches() -> int:
    if not Path("report/readings.db").exists():
        return 0
    with closing(sqlite3.connect("report/readings.db", timeout=60)) as connection:
        has_table = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'batches'").fetchone()
        return connection.execute("SELECT count(*) FROM batches").fetchone()[0] if has_table else 0


assert sys.argv[1:4] == ["-s", "KILL", "6"]
process = subprocess.Popen(sys.argv[4:])
while batches() < 2:
    assert process.poll() is None
    time.sleep(0.02)
process.kill()
process.wait()
"""
"""Kills as ``timeout`` does, but when the second batch is there: a busy machine may need six seconds to start the command."""


def test_the_killed_run_of_the_readme_is_resumed(tmp_path: Path) -> None:
    """Its commands as they stand, in a copy: what was acknowledged before the kill is not done again (G1, G2)."""
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "treadle").symlink_to(Path(sys.executable).with_name("treadle"))
    (programs / "timeout").write_text(TIMEOUT, "utf-8")
    (programs / "timeout").chmod(0o755)
    commands = [line.removeprefix("$ ") for line in block("console").splitlines()]
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}

    run = "\n".join(commands)
    done = subprocess.run(
        ["bash", "-c", run], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "(2 completed, 1 partial_failure)" in done.stdout
    assert "loaded = 238" in done.stdout
    explained = done.stdout.rpartition("stint 2 began")
    again = {line.partition(":")[0].split()[-1] for line in explained[2].splitlines() if "was released in stint 2" in line}
    before = {line.partition(":")[0].split()[-1] for line in explained[0].splitlines() if ": attempt 1 completed" in line}
    assert before, "it was killed after the first batch"
    assert again, "and before the last"
    assert not before & again


def test_the_executor_of_the_readme_works_and_is_the_tutorials() -> None:
    """One example, told twice, is the same both times; decorated, it is still an ordinary function."""
    code = block("python")
    names: dict[str, object] = {}
    exec(code, names)

    slug = names["slug"]
    assert callable(slug)
    assert asyncio.run(slug("Hello brave new World")) == "hello-brave-new-world"
    assert code in (ROOT / "docs" / "tutorial" / "first-plugin.md").read_text("utf-8")
