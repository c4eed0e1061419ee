"""Microseconds that an active policy adds to an in-memory step, beside what its own work takes. Called by ``run.py``."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import timeit
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import anyio
from limits import parse_many
from limits.strategies import MovingWindowRateLimiter
from steps import chain, noop
from treadle import Plan, Registry, arun, hookimpl, make_plan
from treadle._clock import RealClock, SteadySeconds
from treadle.ports import Call, Context, Work
from treadle_breaker import Breaker
from treadle_cache import Cache
from treadle_chaos import Chaos, Fault, _draw
from treadle_limits import Limits
from treadle_limits._windows import LoopStorage
from treadle_redact import Redact

ROUNDS = 300
STEPS = 300


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
        "wrapper": [Wrapper()],
        "limits": [Limits({"bench.*": "1000000000/second"})],
        "breaker": [Breaker()],
        "redact": [Redact()],
        "chaos": [Chaos(1, [Fault("error", probability=1e-12)])],
        "cache": [Cache(str(Path(tempfile.gettempdir()) / "treadle-bench-outputs.db"))],
    }


async def added_by_each() -> dict[str, float]:
    """Microseconds of processor time that each adds per step, over the quietest of short runs in which all take turns."""
    workflow = chain(STEPS)
    registries = {name: Registry.of(noop, policies=active) for name, active in policies().items()}
    plans = {name: make_plan(workflow, registry) for name, registry in registries.items()}
    took: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(ROUNDS):
        for name, plan in plans.items():
            took[name].append(await took_us(plan, registries[name]))
    # The best one of each alone would be a matter of luck where others use the machine.
    quiet = {name: statistics.fmean(sorted(times)[: ROUNDS // 20]) for name, times in took.items()}
    return {name: us - quiet["none"] for name, us in quiet.items()}


async def took_us(plan: Plan, registry: Registry) -> float:
    """Processor time of one run, per step."""
    began = time.process_time()
    result = await arun(plan, registry=registry)
    took = time.process_time() - began
    assert result.status == "completed", "every step ran"
    return took / len(plan.steps) * 1e6


class Standing:
    """What policies are told of a run, for their own work outside of one."""

    run_id = "r"
    workflow = "w"
    clock = RealClock()
    seconds = SteadySeconds(clock)

    def secrets(self) -> dict[str, str]:
        """None."""
        return {}


def own_us() -> dict[str, float]:
    """Microseconds that a policy's own work takes for a call that it lets through, whoever asks for it.

    For limits one hit of the library's limiter, as a program would write it; for chaos one draw; for the breaker what it does
    around work that succeeds, since the library's own way to say so takes longer.
    """
    breaker, chaos = Breaker(), Chaos(1, [Fault("error", probability=1e-12)])
    windows, [rate] = LoopStorage(), parse_many("1000000000/second")
    limiter = MovingWindowRateLimiter(windows)
    call = Call("r", "w", "p", "bench.noop", {})
    breaker.open_run(Standing())
    circuit = breaker._circuit("bench.noop")

    def hit() -> None:
        windows.at = Standing.seconds()
        assert limiter.hit(rate, "bench.*")

    async def done() -> None:
        """What is let through."""

    def walk(work: Awaitable[object]) -> None:
        for _ in work.__await__():
            raise AssertionError("nothing waits")

    works: dict[str, Callable[[], object]] = {
        "limits": hit,
        "breaker": lambda: walk(breaker._guarded(circuit, call, done)),
        "chaos": lambda: _draw(chaos._begun[0].copy, call, "error"),
    }
    best = {name: min(timeit.repeat(work, timer=time.process_time, number=1_000, repeat=50)) for name, work in works.items()}
    return {f"own_{name}": took / 1_000 * 1e6 for name, took in best.items()}


if __name__ == "__main__":
    print(json.dumps({**anyio.run(added_by_each), **own_us()}))
