"""What a run used up, as people and programs see it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from treadle._cli._live import LiveDisplay
from treadle._cli._view import RunView
from treadle.ports import AttemptEnded, AttemptStarted, Outcome, Record, RunCreated, StepUsage

SPENDER = '''
from treadle import Context, executor

@executor("demo.ask")
async def ask(ctx: Context, /, cost: str = "0.25") -> None:
    """Ask a model."""
    ctx.spend(cost=cost, tokens=1200, requests=1)
'''


def test_a_runs_summary_and_its_object_say_what_it_used(treadle: Any, fits: Callable[[str, str], dict[str, Any]]) -> None:
    """In dollars for people, in microcents and dollars for programs; nothing when it used nothing."""
    (treadle.folder / "executors" / "spender.py").write_text(SPENDER)
    treadle.write("w.yaml", "name: w\nsteps:\n  a: {uses: demo.ask}\n  b: {uses: demo.ask, with: {cost: '0.001'}}\n")

    people, programs = treadle("run", "w.yaml"), treadle("run", "w.yaml", "--json")
    nothing = treadle("run", treadle.write("n.yaml", "name: n\nsteps: {a: {uses: demo.echo}}"))

    assert "  used:    0.251 USD, 2,400 tokens, 2 requests" in (people.stdout + people.stderr).splitlines()
    usage = fits(programs.stdout, "run")["usage"]
    assert usage == {"cost_microcents": 25_100_000, "cost_usd": "0.251", "tokens": 2400, "requests": 2}
    assert "used:" not in nothing.stdout + nothing.stderr


def test_what_was_used_stands_beside_what_may_be_used(treadle: Any, fits: Callable[[str, str], dict[str, Any]]) -> None:
    """Of the run for each kind that has a limit, and of what within it has nothing left; for programs, of every budget."""
    (treadle.folder / "executors" / "spender.py").write_text(SPENDER)
    budget = "budget: {cost: '1.00', requests: 10, wall_time: 2h}"
    steps = "steps:\n  a: {uses: demo.ask, budget: {cost: '0.25'}}\n  b: {uses: demo.ask, budget: {tokens: 5000}}\n"
    treadle.write("w.yaml", f"name: w\n{budget}\n{steps}")

    people, programs = treadle("run", "w.yaml", "-q"), treadle("run", "w.yaml", "--json")

    lines = (people.stdout + people.stderr).splitlines()
    number = next(number for number, line in enumerate(lines) if "used:" in line)
    assert re.fullmatch(r"  used:    0\.50 of 1\.00 USD, 2,400 tokens, 2 of 10 requests, [\d.]+s of 2h00m", lines[number])
    assert lines[number + 1] == "           a: 0.25 of 0.25 USD, 1,200 tokens, 1 request"
    run, first, second = fits(programs.stdout, "run")["budgets"]
    assert run["wall_time_s"].pop("used") > 0
    assert run == {
        "path": "",
        "mode": "before",
        "cost_microcents": {"used": 50_000_000, "limit": 100_000_000},
        "requests": {"used": 2, "limit": 10},
        "wall_time_s": {"limit": 7200},
    }
    assert first == {"path": "a", "mode": "before", "cost_microcents": {"used": 25_000_000, "limit": 25_000_000}}
    assert second == {"path": "b", "mode": "before", "tokens": {"used": 1200, "limit": 5000}}


def test_a_live_display_shows_what_is_used_of_the_budget() -> None:
    """In its footer, from the records."""
    view = RunView()
    workflow = {"name": "w", "steps": {"a": {}}, "budget": {"cost": "0.50", "tokens": 20000}}
    outcome = Outcome("failed", usage=StepUsage(1_000_000, 1200, 1))
    for seq, entry in enumerate(
        [
            RunCreated(100.0, "r", workflow, "", {}),
            AttemptStarted(100.0, "a", None, 1),
            AttemptEnded(101.0, "a", None, 1, outcome),
            AttemptStarted(101.0, "a", None, 2),
            AttemptEnded(102.0, "a", None, 2, outcome),
        ],
        1,
    ):
        view.apply(Record("r", seq, entry))

    display = LiveDisplay(io.StringIO())
    try:
        footer = display._footer(view, 110.0).plain
    finally:
        display.close()

    assert footer.endswith("0.02 of 0.50 USD, 2,400 of 20,000 tokens, 2 requests used")
