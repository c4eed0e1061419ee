"""Microseconds that an active policy adds to an in-memory step, beside what its own work takes. Called by ``run.py``."""

from __future__ import annotations

import json
import time
from collections.abc import Generator

import anyio
from steps import chain, noop
from treadle import Plan, Registry, arun, hookimpl, make_plan
from treadle.ports import Call, Context, Work
from treadle_breaker import Breaker
from treadle_chaos import Chaos, Fault
from treadle_limits import Limits
from treadle_redact import Redact

ROUNDS = 15
STEPS = 400


class Wrapper:
    """Does nothing, in the place where policies do something."""

    @hookimpl(wrapper=True)
    def execute(self, call: Call, ctx: Context) -> Generator[None, Work | None, Work | None]:
        """Hand on what there is."""
        return (yield)


def policies() -> dict[str, list[object]]:
    """Each policy in a state in which it looks at every call and lets it through."""
    return {
        "none": [],
        "again": [],
        "wrapper": [Wrapper()],
        "limits": [Limits({"bench.*": "1000000000/second"})],
        "breaker": [Breaker()],
        "redact": [Redact()],
        "chaos": [Chaos(1, [Fault("error", probability=1e-12)])],
    }


async def best_of_each() -> dict[str, float]:
    """Microseconds of processor time per step, the best of rounds in which all take turns."""
    workflow = chain(STEPS)
    registries = {name: Registry.of(noop, policies=active) for name, active in policies().items()}
    plans = {name: make_plan(workflow, registry) for name, registry in registries.items()}
    best = dict.fromkeys(plans, float("inf"))
    for _ in range(ROUNDS):
        for name, plan in plans.items():
            best[name] = min(best[name], await took_us(plan, registries[name]))
    return best


async def took_us(plan: Plan, registry: Registry) -> float:
    """Processor time of one run, per step."""
    began = time.process_time()
    result = await arun(plan, registry=registry)
    took = time.process_time() - began
    assert result.status == "completed", "every step ran"
    return took / len(plan.steps) * 1e6


if __name__ == "__main__":
    print(json.dumps(anyio.run(best_of_each)))
