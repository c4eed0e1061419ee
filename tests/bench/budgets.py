"""What a budget costs: a check of ``ctx.spend``, and a step of a run that has one. Prints one JSON object."""

from __future__ import annotations

import json
import time
from functools import partial

import anyio
from treadle import Context, Plan, Registry, Workflow, arun, executor, make_plan
from treadle._meter import Meter
from treadle._models import SpendLimit

CHECKS = 20_000
STEPS = 1_000


@executor("bench.spend", effects="none")
async def spend(ctx: Context, /) -> None:
    """Use something up."""
    ctx.spend(tokens=1)


@executor("bench.look", effects="none")
async def look(ctx: Context, /) -> None:
    """The same executor without it."""
    assert ctx.attempt


def check_us() -> float:
    """Microseconds of one check against limits of cost, tokens and requests; the best of five rounds."""
    limits = [SpendLimit("cost", 10**15), SpendLimit("tokens", 10**15), SpendLimit("requests", 10**15)]
    best = float("inf")
    for _ in range(5):
        meter = Meter("step", limits)
        started = time.process_time()
        for _ in range(CHECKS):
            meter.spend(1, 1, 1)
        best = min(best, (time.process_time() - started) / CHECKS * 1e6)
    return best


def plan(uses: str, *, limited: bool) -> Plan:
    """A chain."""
    workflow = Workflow("bench", budget={"tokens": 10**9} if limited else None)
    for number in range(STEPS):
        workflow.step(f"s{number}", uses, needs=[f"s{number - 1}"] if number else [])
    return make_plan(workflow, Registry.of(spend, look))


async def step_us(made: Plan) -> float:
    """Microseconds of processor time that a step takes, the best of fifteen runs."""
    best = float("inf")
    for _ in range(15):
        started = time.process_time()
        (await arun(made)).check()
        best = min(best, (time.process_time() - started) / STEPS * 1e6)
    return best


def main() -> None:
    """Measure and print."""
    plain, limited = (anyio.run(partial(step_us, plan("bench.look", limited=limited))) for limited in (False, True))
    spending = anyio.run(partial(step_us, plan("bench.spend", limited=True)))
    print(json.dumps({"check_us": check_us(), "plain_us": plain, "limited_us": limited, "spending_us": spending}))


if __name__ == "__main__":
    main()
