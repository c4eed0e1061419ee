"""Metrics of runs and steps, counted from the run's log when the process has a meter provider."""

from __future__ import annotations

import sys
from typing import Protocol, cast
from weakref import WeakKeyDictionary

import attrs

from treadle import _telemetry as names
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    Entry,
    ErrorInfo,
    GroupStarted,
    MapStarted,
    RetryRequested,
    RunCreated,
    RunEnded,
    StepEnded,
    StepUsage,
    StintOpened,
    UsageNoted,
)
from treadle._paths import plan_path
from treadle._span_projection import error_type, executor_of
from treadle._version import __version__

__all__ = ["RunMetrics"]

Attributes = dict[str, str]


class _Histogram(Protocol):
    def record(self, amount: float, attributes: Attributes) -> None: ...


class _Counter(Protocol):
    def add(self, amount: int, attributes: Attributes) -> None: ...


@attrs.frozen
class _Instruments:
    run_duration: _Histogram
    run_active: _Counter
    step_duration: _Histogram
    queue_wait: _Histogram
    output_issues: _Counter
    used: tuple[_Counter, _Counter, _Counter]


_made: WeakKeyDictionary[object, _Instruments] = WeakKeyDictionary()
"""Instruments by meter provider: a second set of the same names would only earn a warning."""


class RunMetrics:
    """Counts one run; make one for each run that this process drives.

    Args:
        provider: A meter provider; None takes the process's, when an SDK has set one. Without one nothing is counted.
    """

    def __init__(self, provider: object | None = None) -> None:
        self._instruments = _instruments(provider if provider is not None else _process_provider())
        self._run: RunCreated | None = None
        self._workflow = ""
        self._is_counted = False
        self._began_at = 0.0
        self._released: dict[tuple[str, int | None, int, str], float] = {}
        self._began: dict[str, float] = {}

    @property
    def is_active(self) -> bool:
        """Whether anything is counted; without, ``apply`` need not be called."""
        return self._instruments is not None

    def apply(self, entry: Entry, *, replayed: bool = False) -> None:
        """Count what ``entry`` says.

        Args:
            entry: The log's entries, in order.
            replayed: The entry is of an earlier stint, which counted it; only remember it.
        """
        if (instruments := self._instruments) is None:
            return
        match entry:
            case AttemptStarted():
                self._released[(entry.path, entry.index, entry.attempt, entry.variant)] = entry.at
                self._began.setdefault(entry.path, entry.at)
            case AttemptEnded():
                self._attempt_ended(instruments, entry, replayed=replayed)
            case UsageNoted() if not replayed:
                self._count(instruments, entry.path, entry.usage)
            case MapStarted() | GroupStarted():
                self._began.setdefault(entry.path, entry.at)
            case StepEnded():
                self._step_ended(instruments, entry, replayed=replayed)
            case RunCreated():
                self._run, self._workflow = entry, str(entry.workflow.get("name", ""))
                self._began_at = entry.at
            case RetryRequested():
                self._began_at = entry.at
            case StintOpened() if not replayed:
                self._is_counted = True
                instruments.run_active.add(1, self._active())
            case RunEnded():
                self._run_ended(instruments, entry, replayed=replayed)
            case _:
                pass

    def close(self) -> None:
        """The process lets go of the run, whether it has ended or not."""
        if self._is_counted and self._instruments is not None:
            self._is_counted = False
            self._instruments.run_active.add(-1, self._active())

    def _attempt_ended(self, instruments: _Instruments, entry: AttemptEnded, *, replayed: bool) -> None:
        released_at = self._released.pop((entry.path, entry.index, entry.attempt, entry.variant), None)
        started_at = entry.outcome.started_at
        if not replayed and released_at is not None and started_at:
            instruments.queue_wait.record(max(0.0, started_at - released_at), self._step(entry.path))
        error = entry.outcome.error
        if not replayed and error is not None and error.issues:
            instruments.output_issues.add(len(error.issues), self._step(entry.path))
        if not replayed and entry.outcome.usage:
            self._count(instruments, entry.path, entry.outcome.usage)

    def _count(self, instruments: _Instruments, path: str, usage: StepUsage) -> None:
        for counter, amount in zip(instruments.used, attrs.astuple(usage), strict=True):
            if amount > 0:  # a counter never goes back
                counter.add(amount, self._step(path))

    def _step_ended(self, instruments: _Instruments, entry: StepEnded, *, replayed: bool) -> None:
        began_at = self._began.pop(entry.path, None)
        if replayed or began_at is None:
            return
        result, _ = names.STEP_RESULTS[entry.status]
        attributes = self._step(entry.path) | _ended(names.TASK_RESULT, result, entry.error, entry.status.value)
        instruments.step_duration.record(max(0.0, entry.at - began_at), attributes)

    def _run_ended(self, instruments: _Instruments, entry: RunEnded, *, replayed: bool) -> None:
        if not replayed and self._run is not None:
            result, _ = names.RUN_RESULTS[entry.status]
            attributes = self._active() | _ended(names.RUN_RESULT, result, entry.error, entry.status.value)
            instruments.run_duration.record(max(0.0, entry.at - self._began_at), attributes)
        self.close()

    def _active(self) -> Attributes:
        return {names.PIPELINE: self._workflow, names.RUN_STATE: "executing"}

    def _step(self, path: str) -> Attributes:
        executor = executor_of(self._run.workflow, path) if self._run is not None else ""
        return {names.PIPELINE: self._workflow, names.TASK: plan_path(path), names.EXECUTOR: executor}


def _ended(name: str, result: str, error: ErrorInfo | None, status: str) -> Attributes:
    if result in ("failure", "error", "timeout"):
        return {name: result, names.ERROR_TYPE: error_type(result, error, otherwise=status)}
    return {name: result}


def _process_provider() -> object | None:
    """The meter provider that an SDK set for this process; nobody can have set one before the API was imported."""
    if "opentelemetry.metrics" not in sys.modules:
        return None
    from opentelemetry import metrics  # imported by somebody already

    provider = metrics.get_meter_provider()
    # The API's own stand-ins have no pipeline behind them.
    return None if type(provider).__module__.startswith("opentelemetry.metrics") else provider


def _instruments(provider: object | None) -> _Instruments | None:
    if provider is None:
        return None
    if (made := _made.get(provider)) is None:
        made = _made[provider] = _make(provider)
    return made


def _make(provider: object) -> _Instruments:
    from opentelemetry.metrics import MeterProvider  # heavy, and there already when a provider is

    meter = cast("MeterProvider", provider).get_meter(names.SCOPE, __version__, names.SCHEMA_URL)

    def histogram(metric: names.Metric) -> _Histogram:
        buckets = names.BUCKETS_S
        return meter.create_histogram(
            metric.name, unit=metric.unit, description=metric.meaning, explicit_bucket_boundaries_advisory=buckets
        )

    def counter(metric: names.Metric) -> _Counter:
        return meter.create_counter(metric.name, unit=metric.unit, description=metric.meaning)

    active = names.RUN_ACTIVE
    return _Instruments(
        run_duration=histogram(names.RUN_DURATION),
        run_active=meter.create_up_down_counter(active.name, unit=active.unit, description=active.meaning),
        step_duration=histogram(names.STEP_DURATION),
        queue_wait=histogram(names.QUEUE_WAIT),
        output_issues=counter(names.OUTPUT_ISSUES),
        used=(counter(names.USED_COST), counter(names.USED_TOKENS), counter(names.USED_REQUESTS)),
    )
