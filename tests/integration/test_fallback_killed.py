"""A fallback whose process is killed goes on where it was itself, in the real store and with real signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

EXECUTORS = '''
import os, time
from treadle import PermanentError, SyncContext, executor

def note(ctx: SyncContext) -> None:
    with open("story", "a") as story:
        story.write(f"{ctx.variant}: {ctx.checkpoint.token if ctx.checkpoint else None}\\n")

@executor("demo.first")
def first(ctx: SyncContext, /) -> None:
    """Save, and fail for good."""
    note(ctx)
    ctx.save("primary's", {"from": "primary"})
    raise PermanentError("never")

@executor("demo.second")
def second(ctx: SyncContext, /) -> object:
    """Save, and hang until the process was killed."""
    note(ctx)
    if ctx.checkpoint is None:
        ctx.save("fallback's", {"from": "fallback"})
        open("saved", "w").close()
        time.sleep(600)
    return ctx.checkpoint.data
'''
WORKFLOW = "name: w\nsteps:\n  a: {uses: demo.first, fallback: {uses: demo.second}}\n"


def test_a_killed_fallback_gets_its_own_checkpoint_and_never_the_primarys(tmp_path: Path) -> None:
    """kill -9 while the fallback works: the resumed run makes the fallback again, from the fallback's checkpoint (G6)."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "demo.py").write_text(EXECUTORS)
    (tmp_path / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n[store]\nuse = "sqlite"\npath = "runs.db"\n')
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    command = [sys.executable, "-m", "treadle._cli"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("TREADLE_", "OTEL_", "TRACE"))}
    running = subprocess.Popen([*command, "run", "w.yaml", "--quiet"], cwd=tmp_path, env=environ)
    try:
        while not (tmp_path / "saved").exists():
            assert running.poll() is None
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait()

    resumed = subprocess.run(
        [*command, "resume", "last", "--json", "--quiet"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "story").read_text().splitlines() == ["primary: None", "fallback 1: None", "fallback 1: fallback's"]
    assert json.loads(resumed.stdout)["steps"]["a"]["output"] == {"from": "fallback"}
