"""Run one WfFormat 1.5 graph: each task a step that sleeps its run time, scaled down, and answers its id."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from treadle import Registry, Workflow, arun, executor, make_plan

TARGET_S = 4.0
"""The critical path is scaled to about this: long enough that the engine's own time is seen and not drowned."""

_ended: dict[str, float] = {}
_began: dict[str, float] = {}


@executor("bench.task")
async def task(id: str, seconds: float) -> str:
    """Sleep and answer the id."""
    _began[id] = time.perf_counter()
    await anyio.sleep(seconds)
    _ended[id] = time.perf_counter()
    return id


def critical_path(needs: dict[str, list[str]], seconds: dict[str, float]) -> float:
    """Seconds of the longest chain."""
    finish: dict[str, float] = {}
    waiting = dict(needs)
    while waiting:
        ready = [name for name, parents in waiting.items() if all(parent in finish for parent in parents)]
        if not ready:
            raise SystemExit("the graph has a cycle")
        for name in ready:
            finish[name] = max((finish[parent] for parent in needs[name]), default=0.0) + seconds[name]
            del waiting[name]
    return max(finish.values(), default=0.0)


async def main(document: dict[str, Any]) -> None:
    """Run, check the order, print."""
    tasks = document["specification"]["tasks"]
    names = {item["id"]: f"t{number}" for number, item in enumerate(tasks)}
    needs = {item["id"]: [parent for parent in item["parents"] if parent in names] for item in tasks}
    runtimes = {item["id"]: float(item["runtimeInSeconds"]) for item in document["execution"]["tasks"]}
    whole = critical_path(needs, {name: runtimes.get(name, 0.0) for name in names})
    seconds = {name: runtimes.get(name, 0.0) * TARGET_S / whole for name in names}
    workflow = Workflow("graph")
    for item, step in names.items():
        workflow.step(step, "bench.task", id=item, seconds=seconds[item], needs=[names[parent] for parent in needs[item]])
    registry = Registry.of(task)
    plan = make_plan(workflow, registry)
    began = time.perf_counter()
    result = await arun(plan, registry=registry, max_parallel=max(1, len(names)))
    makespan = time.perf_counter() - began
    result.check()
    for item, parents in needs.items():
        late = [parent for parent in parents if _ended[parent] > _began[item]]
        if late:
            raise SystemExit(f"{item} began before {late} ended")
        if result.steps[names[item]].output != item:
            raise SystemExit(f"{item} answered {result.steps[names[item]].output!r}")
    told = {"tasks": len(names), "makespan_s": makespan, "critical_path_s": critical_path(needs, seconds)}
    print(json.dumps(told))


if __name__ == "__main__":
    anyio.run(main, json.loads(Path(sys.argv[1]).read_text())["workflow"])
