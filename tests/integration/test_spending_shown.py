"""What a kept run used up can be looked up later: it survives the process, and a crash."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kept_project import fitting

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


LONG_SPENDER = '''
import os, time
from treadle import SyncContext, executor

@executor("demo.ask", effects="idempotent")
def ask(ctx: SyncContext, /) -> None:
    """Ask a model, and wait for an answer that never comes until the process was killed."""
    ctx.spend(cost="0.25", tokens=1200, requests=1)
    while not os.path.exists("killed"):
        time.sleep(0.1)
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
    shown, told = treadle(tmp_path, "show", "last"), fitting(treadle(tmp_path, "show", "last", "--json").stdout, "show")

    assert (killed.returncode, resumed.returncode) == (9, 0), resumed.stderr
    assert "  used:    0.50 USD, 2,400 tokens, 2 requests" in shown.stdout.splitlines()
    assert [line.split()[:1] + line.split()[4:] for line in shown.stdout.splitlines() if line.startswith(("a ", "b "))] == [
        ["a", "0.25", "USD,", "1,200", "tokens,", "1", "request"],
        ["b", "0.25", "USD,", "1,200", "tokens,", "1", "request"],
    ]
    assert [(step["path"], step["cost"], step["tokens"], step["requests"]) for step in told["steps"]] == [
        ("a", 25_000_000, 1200, 1),
        ("b", 25_000_000, 1200, 1),
    ]
    assert (told["usage"]["requests"], told["budgets"]) == (2, [])


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_a_killed_process_does_not_hide_what_it_used(tmp_path: Path, isolation: str) -> None:
    """What was noted shows before anybody resumes the run, and counts afterwards; also of a step in a process of its own."""
    (tmp_path / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "demo.py").write_text(LONG_SPENDER)
    (tmp_path / "w.yaml").write_text(f"name: w\nsteps:\n  a: {{uses: demo.ask, isolation: {isolation}}}\n")
    command = [sys.executable, "-m", "treadle._cli", "run", "w.yaml"]
    environ = os.environ | {"TREADLE_STORE__USE": "sqlite", "XDG_STATE_HOME": str(tmp_path / "state")}
    running = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while not (used := used_so_far(tmp_path)):
            assert running.poll() is None
            time.sleep(0.5)
    finally:
        running.kill()
        running.wait()
    (tmp_path / "killed").touch()

    resumed = treadle(tmp_path, "resume", "last")

    assert used == (25_000_000, 1200, 1)
    assert resumed.returncode == 0, resumed.stderr
    assert used_so_far(tmp_path) == (50_000_000, 2400, 2)


def used_so_far(folder: Path) -> tuple[int, int, int] | None:
    """Of the last run: cost, tokens and requests."""
    shown = treadle(folder, "show", "last", "--json")
    usage = json.loads(shown.stdout).get("usage") if shown.returncode == 0 else None
    return (usage["cost_microcents"], usage["tokens"], usage["requests"]) if usage and usage["tokens"] else None


def test_a_retried_run_shows_what_all_its_generations_used(tmp_path: Path) -> None:
    """Of how much, with what a crash may have cost; and it is not said of a run without money that it can be retried."""
    (tmp_path / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "demo.py").write_text(SPENDER)
    steps = "steps:\n  a: {uses: demo.ask, with: {crash: crashed}}\n  b: {uses: demo.ask, needs: [a]}\n"
    (tmp_path / "w.yaml").write_text(f"name: w\nbudget: {{cost: '2.00', wall_time: 1h}}\n{steps}")

    killed = treadle(tmp_path, "run", "w.yaml")
    resumed = treadle(tmp_path, "resume", "last")
    again = [treadle(tmp_path, "retry", "last", "--from", "b") for _ in range(3)]
    shown, told = treadle(tmp_path, "show", "last"), fitting(treadle(tmp_path, "show", "last", "--json").stdout, "show")

    assert [each.returncode for each in (killed, resumed, *again)] == [9, 0, 0, 0, 1], again[-1].stderr
    lost = "(1.00 USD of it set aside for calls that were interrupted)"
    used = f"2.00 of 2.00 USD, 4,800 tokens, 4 requests, TIME of 1h00m {lost}, in 4 generations"
    for text in (shown.stdout, again[-1].stdout + again[-1].stderr):
        assert re.sub(r"[\d.]+s of", "TIME of", next(line for line in text.splitlines() if "used:" in line))[11:] == used
    assert "treadle retry" not in again[-1].stdout + again[-1].stderr
    [run] = told["budgets"]
    assert run["cost_microcents"] == {"used": 200_000_000, "limit": 200_000_000}
    assert run["lost"] == {"cost_microcents": 100_000_000}
    assert told["usage"]["cost_usd"] == "1.00"
