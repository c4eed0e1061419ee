"""How long a workflow will probably take: from what its steps took before, else from their deadlines."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import attrs

from treadle._plan import Plan
from treadle.ports import RunQuery, RunStatus, StepStatus, Store

_LOOKED_AT = 10
"""Runs that are looked back at."""


@attrs.frozen
class Estimate:
    """How long a step will take.

    Attributes:
        seconds: Of the step with its items and retries; None when nothing is known.
        source: ``recorded`` (the median of earlier runs), ``timeout`` (it cannot take longer in one attempt) or ``unknown``.
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
    steps = {path: _estimate(durations.get(path, []), step.timeout_s) for path, step in plan.steps.items()}
    until: dict[str, float] = {}
    before: dict[str, str] = {}
    main_end = ""
    for path in plan.order:
        needs = list(plan.needs(path))
        if plan.step(path).node.is_finally and not needs and main_end:
            needs = [main_end]
        latest = max(needs, key=lambda need: until[need], default="")
        if latest:
            before[path] = latest
        until[path] = (until[latest] if latest else 0.0) + (steps[path].seconds or 0.0)
        if not plan.step(path).node.is_finally and until[path] >= until.get(main_end, 0.0):
            main_end = path
    last = max(until, key=lambda path: until[path], default="")
    critical = [last] if last else []
    while critical and critical[-1] in before:
        critical.append(before[critical[-1]])
    return Forecast(steps, tuple(reversed(critical)), until.get(last, 0.0))


def _estimate(seen: list[float], timeout_s: float | None) -> Estimate:
    if seen:
        return Estimate(statistics.median(seen), "recorded", len(seen))
    return Estimate(timeout_s, "unknown" if timeout_s is None else "timeout")
