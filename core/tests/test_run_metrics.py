"""The metrics, counted from the log, told apart by names alone."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from treadle import _telemetry as names
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    Entry,
    ErrorInfo,
    Issue,
    MapStarted,
    Outcome,
    RunCreated,
    RunEnded,
    RunStatus,
    StepEnded,
    StepStatus,
    StepUsage,
    StintOpened,
)
from treadle._run_metrics import RunMetrics

CREATED = RunCreated(
    at=100.0,
    run_id="run-1",
    workflow={"name": "digest", "steps": {"page": {"uses": "http.request"}}},
    workflow_hash="x",
    inputs={},
)
BOOM = ErrorInfo("BoomError", "it broke")
STEP = {"cicd.pipeline.name": "digest", "cicd.pipeline.task.name": "page", "treadle.executor": "http.request"}
USED = (names.USED_COST, names.USED_TOKENS, names.USED_REQUESTS)
RUN = {"cicd.pipeline.name": "digest", "cicd.pipeline.run.state": "executing"}


class Meters:
    """A meter provider of the SDK and what it would export."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def points(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def one(self, name: str) -> Any:
        (point,) = self.points()[name]
        return point


@pytest.fixture
def meters() -> Meters:
    return Meters()


def log(status: StepStatus = StepStatus.COMPLETED, run: RunStatus = RunStatus.COMPLETED) -> list[Entry]:
    error = None if status is StepStatus.COMPLETED else BOOM
    return [
        CREATED,
        StintOpened(100.0, 1),
        AttemptStarted(101.0, "page", None, 1),
        AttemptEnded(104.0, "page", None, 1, Outcome("completed", started_at=101.5, ended_at=104.0)),
        StepEnded(104.0, "page", status, error=error),
        RunEnded(110.0, run, error=error),
    ]


def count(meters: Meters, *entries: Entry) -> RunMetrics:
    metrics = RunMetrics(meters.provider)
    for entry in entries:
        metrics.apply(entry)
    return metrics


def test_a_run_is_counted_in_metrics(meters: Meters) -> None:
    """Durations of run and step, the wait in the queue, and how many runs are active, under the names of the reference."""
    count(meters, *log())

    points = meters.points()
    assert set(points) | {metric.name for metric in (names.OUTPUT_ISSUES, *USED)} == {metric.name for metric in names.METRICS}
    run, step, wait = (meters.one(metric.name) for metric in (names.RUN_DURATION, names.STEP_DURATION, names.QUEUE_WAIT))
    assert (run.sum, dict(run.attributes)) == (10.0, RUN | {"cicd.pipeline.result": "success"})
    assert (step.sum, dict(step.attributes)) == (3.0, STEP | {"cicd.pipeline.task.run.result": "success"})
    assert (wait.sum, dict(wait.attributes)) == (0.5, STEP)
    active = meters.one("cicd.pipeline.run.active")
    assert (active.value, dict(active.attributes)) == (0, RUN)
    for histogram in (run, step, wait):
        assert tuple(histogram.explicit_bounds) == names.BUCKETS_S


def test_attributes_are_those_of_the_reference_and_hold_no_id(meters: Meters) -> None:
    """What has many values (run ids, indexes, messages) never makes a series of its own."""
    error = ErrorInfo("OutputInvalidError", "bad", issues=(Issue("a"),))
    invalid = Outcome("failed", error=error, started_at=101.5, usage=StepUsage(1, 1, 1))
    entries = log(StepStatus.FAILED, RunStatus.FAILED)
    entries[3] = AttemptEnded(104.0, "page", None, 1, invalid)
    count(meters, *entries)

    for metric in names.METRICS:
        point = meters.one(metric.name)
        assert set(point.attributes) <= set(metric.attributes)
        assert "run-1" not in str(dict(point.attributes))
    assert meters.one("treadle.step.duration").attributes["error.type"] == "BoomError"
    assert meters.one("cicd.pipeline.run.duration").attributes["error.type"] == "BoomError"


def test_a_run_is_active_from_its_stint_to_its_end(meters: Meters) -> None:
    """The counter says how many runs this process drives now."""
    metrics = count(meters, *log()[:2])
    assert meters.one("cicd.pipeline.run.active").value == 1
    metrics.close()
    metrics.close()
    assert meters.one("cicd.pipeline.run.active").value == 0


def test_replayed_entries_are_remembered_and_not_counted(meters: Meters) -> None:
    """An earlier stint counted them already; what was begun then is measured to its end."""
    metrics = RunMetrics(meters.provider)
    entries = log()
    for entry in entries[:3]:
        metrics.apply(entry, replayed=True)
    assert meters.points() == {}
    for entry in [StintOpened(103.0, 2), *entries[3:]]:
        metrics.apply(entry)

    assert meters.one("treadle.step.duration").sum == 3.0
    assert meters.one("cicd.pipeline.run.duration").sum == 10.0
    assert meters.one("cicd.pipeline.run.active").value == 0


def test_whole_runs_can_be_replayed(meters: Meters) -> None:
    """Catching up on a run that has ended counts nothing."""
    metrics = RunMetrics(meters.provider)
    for entry in log():
        metrics.apply(entry, replayed=True)
    assert meters.points() == {}


def test_a_step_is_measured_from_its_first_item(meters: Meters) -> None:
    """A ``foreach`` begins when its items are known; a step that never ran is not counted."""
    count(
        meters,
        CREATED,
        MapStarted(101.0, "page", 1),
        AttemptStarted(102.0, "page", 0, 1),
        StepEnded(106.0, "page", StepStatus.COMPLETED),
        StepEnded(106.0, "skipped", StepStatus.SKIPPED),
    )
    assert meters.one("treadle.step.duration").sum == 5.0


def test_runs_share_their_instruments(meters: Meters, caplog: pytest.LogCaptureFixture) -> None:
    """A second run adds to the same metrics, without a word from the SDK about doubles."""
    count(meters, *log())
    count(meters, *log())
    assert meters.one("cicd.pipeline.run.duration").count == 2
    assert not caplog.records


def test_without_a_provider_nothing_is_counted() -> None:
    """No meter provider was set in this process: applying entries does nothing."""
    metrics = RunMetrics()
    for entry in log():
        metrics.apply(entry)
    metrics.close()
    assert not metrics.is_active


def test_issues_of_outputs_are_counted_by_executor(meters: Meters) -> None:
    """Each broken clause of every attempt, also of those that are retried; a replayed attempt was counted by its stint."""
    bad = ErrorInfo("OutputInvalidError", "bad", issues=(Issue("a"), Issue("b")))
    ended = AttemptEnded(104.0, "page", None, 1, Outcome("failed", error=bad, started_at=101.5, ended_at=104.0))
    metrics = RunMetrics(meters.provider)
    metrics.apply(CREATED)

    metrics.apply(ended)
    metrics.apply(ended, replayed=True)
    metrics.apply(ended)

    point = meters.one("treadle.output.issues")
    assert (point.value, dict(point.attributes)) == (4, STEP)


def test_what_is_used_up_is_counted_by_step(meters: Meters) -> None:
    """Cost, tokens and requests of every attempt, beside how long its step took (S1-25)."""
    entries = log()
    entries[3] = AttemptEnded(104.0, "page", None, 1, Outcome("completed", started_at=101.5, usage=StepUsage(250, 12, 0)))
    count(meters, *entries)

    assert meters.one("treadle.step.duration").sum == 3.0
    assert [
        (meters.one(name).value, dict(meters.one(name).attributes)) for name in ("treadle.usage.cost", "treadle.usage.tokens")
    ] == [
        (250, STEP),
        (12, STEP),
    ]
    assert "treadle.usage.requests" not in meters.points()
