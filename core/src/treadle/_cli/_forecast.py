"""How long a workflow will probably take: from what its steps took before, else from their deadlines."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import attrs

from treadle._graph import Node
from treadle._plan import Plan, PlannedStep
from treadle.ports import RunQuery, RunStatus, StepStatus, Store

_LOOKED_AT = 10
"""Runs that are looked back at."""


@attrs.frozen
class Estimate:
    """How long a step will take.

    Attributes:
        seconds: Of the step with its items and retries; None when nothing is known.
        source: ``recorded`` (the median of earlier runs), ``timeout`` (it cannot take longer in one attempt), ``steps`` (what
            the steps of a group take), ``declared`` (of a wait) or ``unknown``.
        runs: How many runs it is the median of.
    """

    seconds: float | None
    source: str
    runs: int = 0


@attrs.frozen
class Forecast:
    """What is known of a workflow's time.

    Attributes:
        steps: Path -> estimate.
        critical: The steps that decide how long the run takes, in order.
        seconds: How long those take; what is unknown counts as nothing.
    """

    steps: Mapping[str, Estimate]
    critical: tuple[str, ...]
    seconds: float

    @property
    def unknown(self) -> list[str]:
        """The steps of which nothing is known."""
        return [path for path, estimate in self.steps.items() if estimate.seconds is None]


async def recorded_durations(store: Store, workflow: str) -> dict[str, list[float]]:
    """Step -> what it took in the latest runs of a workflow that completed, retries included, in seconds."""
    page = await store.runs(RunQuery(statuses=(RunStatus.COMPLETED,), workflow=workflow, limit=_LOOKED_AT))
    found: dict[str, list[float]] = {}
    for run in page.runs:
        for step in await store.steps(run.run_id):
            has_times = step.index is None and step.queued_at is not None and step.ended_at is not None
            if has_times and step.status is StepStatus.COMPLETED:
                found.setdefault(step.path, []).append(step.ended_at - step.queued_at)  # type: ignore[operator]  # both there
    return found


def forecast(plan: Plan, durations: Mapping[str, list[float]]) -> Forecast:
    """How long a plan will take.

    Args:
        plan: The plan.
        durations: Step -> what it took before.
    """
    steps: dict[str, Estimate] = {}
    critical, seconds = _scope(plan, plan.graph.nodes, durations, steps)
    return Forecast({path: steps[path] for path in plan.steps}, tuple(critical), seconds)


def _scope(
    plan: Plan, nodes: Sequence[Node], durations: Mapping[str, list[float]], steps: dict[str, Estimate]
) -> tuple[list[str], float]:
    """The chain of steps that decides how long a group, or the run, takes; fills in the estimates of all."""
    until: dict[str, float] = {}
    before: dict[str, str] = {}
    for is_finally in (False, True):
        begin = _latest(until) if is_finally else ""
        for node in _ordered([node for node in nodes if node.is_finally is is_finally]):
            path = node.path
            _, within = _scope(plan, node.children, durations, steps)
            estimate = steps[path] = _estimate(plan.steps[path], durations.get(path, []), within)
            latest = max(node.needs, key=lambda need: until[need], default=begin)
            if latest:
                before[path] = latest
            until[path] = (until[latest] if latest else 0.0) + (estimate.seconds or 0.0)
    last = _latest(until)
    critical = [last] if last else []
    while critical and critical[-1] in before:
        critical.append(before[critical[-1]])
    return critical[::-1], until.get(last, 0.0)


def _latest(until: dict[str, float]) -> str:
    """The step that ends last; among equals the last of them, which may take longer than is known."""
    return max(reversed(until), key=lambda path: until[path], default="")


def _ordered(nodes: Sequence[Node]) -> list[Node]:
    """Each after its needs."""
    ordered: list[Node] = []
    placed: set[str] = set()
    rest = list(nodes)
    while rest:
        ready = [node for node in rest if placed.issuperset(node.needs)]
        ordered += ready
        placed.update(node.path for node in ready)
        rest = [node for node in rest if node.path not in placed]
    return ordered


def _estimate(step: PlannedStep, seen: list[float], within: float) -> Estimate:
    """How long a step will take; ``within`` is what the steps of a group take."""
    if seen:
        return Estimate(statistics.median(seen), "recorded", len(seen))
    if step.wait is not None:
        wait = step.wait.wait
        if isinstance(wait.duration, float | int):
            return Estimate(wait.duration, "declared")
        return Estimate(wait.timeout, "timeout") if isinstance(wait.timeout, float | int) else Estimate(None, "unknown")
    if step.node.form is not None:
        rules = step.node.rules
        limit = rules.timeout_s if rules is not None else None
        return Estimate(within, "steps") if within else Estimate(limit, "unknown" if limit is None else "timeout")
    return Estimate(step.timeout_s, "unknown" if step.timeout_s is None else "timeout")
