"""What a run used up, as people and programs see it."""

from __future__ import annotations

import io
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

    assert footer.endswith("0.02 USD, 2,400 tokens, 2 requests used of 0.50 USD, 20,000 tokens")
