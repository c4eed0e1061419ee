"""Calls in a process of their own: the first of a run, one that needs a new child, and warm ones; a bench of ``run.py``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import anyio

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

from isolated_executor import nothing  # noqa: E402 -- a module of its own, so that a child can import it by name
from treadle import Registry, Workflow, arun  # noqa: E402 -- the same

CALLS = 200
RUNS = 9


async def measured() -> dict[str, float]:
    """Milliseconds of calls of an executor that does nothing."""
    registry = Registry.of(nothing)
    single, chain, wide = Workflow("single"), Workflow("chain"), Workflow("wide")
    single.step("first", "bench.nothing")
    for number in range(CALLS):
        chain.step(f"s{number}", "bench.nothing", needs=[f"s{number - 1}"] if number else [])
    wide.step("all", "bench.nothing", foreach=list(range(8)), max_parallel=8)
    inline = Workflow("inline")
    inline.step("first", "bench.nothing", isolation="inline")
    cold, plain, eight = [], [], []
    for _ in range(RUNS):
        cold.append(await _timed(single, registry))
        plain.append(await _timed(inline, registry))
        eight.append(await _timed(wide, registry))
    result = (await arun(chain, registry=registry)).check()
    warm = [step.duration_s * 1000 for step in result.steps.values()][10:]
    return {
        "cold_ms": min(cold) - min(plain),
        "cold_median_ms": statistics.median(cold) - statistics.median(plain),
        "another_ms": (min(eight) - min(cold)) / 7,
        "warm_ms": statistics.median(warm),
        "warm_p99_ms": sorted(warm)[int(len(warm) * 0.99)],
        "python_ms": min(_python() for _ in range(RUNS)),
    }


async def _timed(workflow: Workflow, registry: Registry) -> float:
    began = time.perf_counter()
    (await arun(workflow, registry=registry)).check()
    return (time.perf_counter() - began) * 1000


def _python() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    print(json.dumps(anyio.run(partial(measured))))
