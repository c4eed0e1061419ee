"""Microseconds per in-memory step. Called by ``run.py`` with ``plain``, ``traced`` or ``sleepers``."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable

import anyio
from treadle import Plan, Registry, Workflow, arun, executor, make_plan

REPETITIONS = 5


@executor("bench.noop")
async def noop(n: int) -> dict[str, int]:
    """Nothing, with an input and an output to check."""
    return {"i": n}


@executor("bench.sleep")
async def sleep(seconds: float) -> None:
    """Wait."""
    await anyio.sleep(seconds)


REGISTRY = Registry.of(noop, sleep)


def chain(count: int) -> Workflow:
    """Each step needs the one before."""
    workflow = Workflow("chain")
    for n in range(count):
        workflow.step(f"s{n}", "bench.noop", n=n, needs=[f"s{n - 1}"] if n else [])
    return workflow


def parallel(count: int) -> Workflow:
    """No step needs another."""
    workflow = Workflow("parallel")
    for n in range(count):
        workflow.step(f"s{n}", "bench.noop", n=n)
    return workflow


def random_graph(nodes: int, edges: int) -> Workflow:
    """A random acyclic graph; the same each time."""
    source = random.Random(7)
    needs: dict[int, set[int]] = {n: set() for n in range(nodes)}
    while sum(map(len, needs.values())) < edges:
        low, high = sorted(source.sample(range(nodes), 2))
        needs[high].add(low)
    workflow = Workflow("random")
    for n in range(nodes):
        workflow.step(f"s{n}", "bench.noop", n=n, needs=[f"s{need}" for need in sorted(needs[n])])
    return workflow


async def timed(plan: Plan, max_parallel: int | None = None) -> float:
    """Seconds of one run; every step must have run exactly once."""
    began = time.perf_counter()
    result = await arun(plan, registry=REGISTRY, max_parallel=max_parallel)
    took = time.perf_counter() - began
    done = result.check().steps
    assert len(done) == len(plan.steps), "each step has a result"
    assert all(step.attempts == 1 for step in done.values()), "each step ran once"
    return took


async def best_us(workflow: Workflow) -> float:
    """Microseconds per step, best of some runs after a warm-up."""
    plan = make_plan(workflow, REGISTRY)
    await timed(plan)
    return min([await timed(plan) for _ in range(REPETITIONS)]) / len(plan.steps) * 1e6


async def raw_task_us(count: int = 1000) -> float:
    """Microseconds of a bare asyncio task that does the same: what no engine with a task per step can beat."""
    best = float("inf")
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        await asyncio.gather(*(asyncio.create_task(noop(n)) for n in range(count)))
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


async def measure_steps() -> dict[str, float]:
    """Every shape."""
    return {
        "raw_task_us": await raw_task_us(),
        "chain_1000": await best_us(chain(1000)),
        "parallel_1000": await best_us(parallel(1000)),
        "random_2000_4000": await best_us(random_graph(2000, 4000)),
        "random_200": await best_us(random_graph(200, 400)),
        "random_8000": await best_us(random_graph(8000, 16000)),
    }


async def measure_sleepers() -> dict[str, float]:
    """100 steps of 50 ms at once, against bare tasks."""
    workflow = Workflow("sleepers")
    for n in range(100):
        workflow.step(f"s{n}", "bench.sleep", seconds=0.05)
    plan = make_plan(workflow, REGISTRY)
    await timed(plan, 100)
    wall = min([await timed(plan, 100) for _ in range(REPETITIONS)])
    raw = float("inf")
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        await asyncio.gather(*(asyncio.create_task(asyncio.sleep(0.05)) for _ in range(100)))
        raw = min(raw, time.perf_counter() - began)
    return {"ratio": wall / 0.05, "raw": raw / 0.05}


def set_up_spans() -> Callable[[], None]:
    """The SDK with a batch processor and an exporter that throws away; answers how to close it."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Null(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            del spans
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Null(), max_queue_size=1 << 20))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def main(mode: str) -> None:
    """Measure and print."""
    if mode == "sleepers":
        measured = anyio.run(measure_sleepers)
    elif mode == "traced":
        close = set_up_spans()
        measured = anyio.run(measure_steps)
        close()
    else:
        measured = anyio.run(measure_steps)
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1])
