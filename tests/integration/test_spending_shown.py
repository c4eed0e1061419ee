"""What a kept run used up can be looked up later: it survives the process, and a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SPENDER = '''
import os
from treadle import Context, executor

@executor("demo.ask", effects="idempotent")
async def ask(ctx: Context, /, crash: str = "") -> None:
    """Ask a model; once, end the whole process."""
    ctx.spend(cost="0.25", tokens=1200, requests=1)
    if crash and not os.path.exists(crash):
        open(crash, "w").close()
        os._exit(9)
'''


def treadle(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "treadle._cli", *words]
    environ = os.environ | {"TREADLE_STORE__USE": "sqlite", "XDG_STATE_HOME": str(folder / "state"), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_kept_run_shows_what_it_used(tmp_path: Path) -> None:
    """For people and programs, after the process that ran it was killed and another went on; nothing is counted twice."""
    (tmp_path / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "demo.py").write_text(SPENDER)
    (tmp_path / "w.yaml").write_text(
        "name: w\nsteps:\n  a: {uses: demo.ask}\n  b: {uses: demo.ask, needs: [a], with: {crash: crashed}}\n"
    )

    killed = treadle(tmp_path, "run", "w.yaml")
    resumed = treadle(tmp_path, "resume", "last")
    shown, told = treadle(tmp_path, "show", "last"), json.loads(treadle(tmp_path, "show", "last", "--json").stdout)

    assert (killed.returncode, resumed.returncode) == (9, 0), resumed.stderr
    assert "  used:    0.50 USD, 2,400 tokens" in shown.stdout.splitlines()
    assert [line.split()[:1] + line.split()[4:] for line in shown.stdout.splitlines() if line.startswith(("a ", "b "))] == [
        ["a", "0.25", "USD,", "1,200", "tokens"],
        ["b", "0.25", "USD,", "1,200", "tokens"],
    ]
    assert [(step["path"], step["cost"], step["tokens"]) for step in told["steps"]] == [
        ("a", 25_000_000, 1200),
        ("b", 25_000_000, 1200),
    ]
