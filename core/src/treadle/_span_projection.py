"""Spans as a projection of a run's log: always there, sampled or not, with or without a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import attrs

from treadle import _telemetry as names
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    Call,
    Entry,
    ErrorInfo,
    MapStarted,
    Outcome,
    RetryScheduled,
    RunCreated,
    RunEnded,
    SpanRecord,
    StepEnded,
    StintOpened,
)
from treadle._span_ids import attempt_span_id, step_span_id

__all__ = ["Ending", "SpanProjection", "attempt_attributes", "attempt_ending", "call_attributes", "error_type", "executor_of"]

Event = tuple[str, float, Mapping[str, object]]

_DESCRIPTION_LIMIT = 512
"""Longest status message; the whole error stands in the exception event and in the record."""


@attrs.frozen
class Ending:
    """What an attempt's span learns at its end.

    Attributes:
        status: Of the span.
        description: Of the error; empty without one.
        attributes: The result and the error's class.
        events: The exception, when there was one.
    """

    status: names.SpanStatus
    description: str
    attributes: dict[str, object]
    events: tuple[Event, ...]


def attempt_ending(outcome: Outcome, ended_at: float) -> Ending:
    """How ``outcome`` shows on its attempt's span, live or projected."""
    result, status = names.ATTEMPT_RESULTS[outcome.status]
    attributes: dict[str, object] = {names.TASK_RESULT: result}
    if status == "unset":
        return Ending(status, "", attributes, ())
    attributes[names.ERROR_TYPE] = error_type(result, outcome.error)
    return Ending(status, _description(outcome.error), attributes, _exception(outcome.error, ended_at))


def attempt_attributes(
    *,
    run_id: str,
    workflow: str,
    path: str,
    index: int | None,
    executor: str,
    attempt: int,
    variant: str,
    worker: str,
    queued_s: float,
) -> dict[str, object]:
    """What an attempt's span carries from its start, live or projected."""
    attributes: dict[str, object] = {
        names.PIPELINE: workflow,
        names.RUN_ID: run_id,
        names.TASK: path,
        names.TASK_RUN_ID: f"{run_id}/{path}",
        names.ATTEMPT_NUMBER: attempt,
        names.ATTEMPT_QUEUED_S: round(max(0.0, queued_s), 6),
    }
    if executor:
        attributes[names.EXECUTOR] = executor
    if index is not None:
        attributes[names.STEP_INDEX] = index
    if variant != "primary":
        attributes[names.ATTEMPT_VARIANT] = variant
    if worker:
        attributes[names.WORKER] = worker
    return attributes


def call_attributes(call: Call, *, worker: str, started_at: float) -> dict[str, object]:
    """``attempt_attributes`` of a call that starts now."""
    return attempt_attributes(
        run_id=call.run_id,
        workflow=call.workflow,
        path=call.path,
        index=call.index,
        executor=call.executor,
        attempt=call.attempt,
        variant=call.variant,
        worker=worker,
        queued_s=started_at - call.queued_at if call.queued_at else 0.0,
    )


def executor_of(workflow: Mapping[str, object], path: str) -> str:
    """The executor that a step of a workflow (as plain data) uses; empty when it cannot be told."""
    first, _, rest = path.partition("/")
    section, name = ("finally", rest) if first == "finally" and rest else ("steps", path)
    step = _mapping(_mapping(workflow.get(section)).get(name))
    uses = step.get("uses", "")
    return uses if isinstance(uses, str) else ""


@attrs.define
class _Step:
    """What is known of a step before it ends."""

    span_id: str
    executor: str
    started_at: float | None = None
    ended_at: float = 0.0
    count: int | None = None
    events: list[Event] = attrs.Factory(list)
    failed: dict[int | None, str] = attrs.Factory(dict)
    """Item -> span id of its last attempt, while another may follow."""


@attrs.frozen
class _Open:
    """An attempt that was released and has not ended."""

    entry: AttemptStarted
    worker: str


class SpanProjection:
    """Turns a run's log, entry by entry, into the spans that each entry finishes.

    Pure: the same log gives the same spans, so a resumed run is caught up by applying its earlier records and throwing
    their spans away.
    """

    def __init__(self) -> None:
        self._run: RunCreated | None = None
        self._workflow = ""
        self._stints = 0
        self._worker = ""
        self._last_at = 0.0
        self._steps: dict[str, _Step] = {}
        self._open: dict[tuple[str, int | None, int, str], _Open] = {}

    def apply(self, entry: Entry) -> tuple[SpanRecord, ...]:
        """The spans that ``entry`` finishes, children before parents; most entries finish none."""
        spans = self._finished_by(entry)
        self._last_at = max(self._last_at, entry.at)
        return spans

    def _finished_by(self, entry: Entry) -> tuple[SpanRecord, ...]:
        match entry:
            case AttemptStarted():
                self._attempt_started(entry)
            case AttemptEnded():
                return self._attempt_ended(entry)
            case StepEnded():
                return (self._step_ended(entry),)
            case RetryScheduled():
                self._retry_scheduled(entry)
            case MapStarted():
                self._map_started(entry)
            case RunCreated():
                self._run_created(entry)
            case StintOpened():
                return self._stint_opened(entry)
            case RunEnded():
                return (self._run_ended(entry),)
            case _:
                pass
        return ()

    # -- the run -------------------------------------------------------------------------------------------------------

    def _run_created(self, entry: RunCreated) -> None:
        self._run = entry
        self._workflow = str(entry.workflow.get("name", ""))

    def _stint_opened(self, entry: StintOpened) -> tuple[SpanRecord, ...]:
        """Closes the attempts of a process that went away, at the last moment that is known of it."""
        lost = [self._lost(open_) for open_ in self._open.values()]
        self._open.clear()
        self._stints = max(self._stints, entry.stint)
        self._worker = entry.owner
        return tuple(lost)

    def _run_ended(self, entry: RunEnded) -> SpanRecord:
        run = self._created()
        result, status = names.RUN_RESULTS[entry.status]
        attributes: dict[str, object] = {
            names.ACTION: "RUN",
            names.PIPELINE: self._workflow,
            names.RUN_ID: run.run_id,
            names.RUN_RESULT: result,
            names.RUN_STATUS: entry.status.value,
            names.RUN_TRIGGER: run.trigger,
            names.RUN_STINTS: max(1, self._stints),
        }
        if status == "error":
            attributes[names.ERROR_TYPE] = error_type(result, entry.error, otherwise=entry.status.value)
        return SpanRecord(
            name=names.run_span_name(self._workflow),
            kind=names.run_span_kind(run.parent_span_id, run.trigger),
            trace_id=run.trace_id,
            span_id=run.root_span_id,
            parent_id=run.parent_span_id,
            started_at=run.at,
            ended_at=max(entry.at, self._last_at),
            status=status,
            status_message=(_description(entry.error) or entry.reason) if status == "error" else "",
            attributes=attributes,
            trace_flags=run.trace_flags,
        )

    # -- steps -----------------------------------------------------------------------------------------------------------

    def _map_started(self, entry: MapStarted) -> None:
        step = self._step(entry.path)
        step.count = entry.count
        if step.started_at is None:
            step.started_at = entry.at

    def _retry_scheduled(self, entry: RetryScheduled) -> None:
        events = self._step(entry.path).events
        if len(events) < names.MAX_EVENTS:
            attributes: dict[str, object] = {
                names.ATTEMPT_NUMBER: entry.attempt,
                names.RETRY_DELAY_S: round(max(0.0, entry.due - entry.at), 6),
                names.RETRY_REASON: entry.reason,
            }
            if entry.index is not None:
                attributes[names.STEP_INDEX] = entry.index
            events.append((names.RETRY_EVENT, entry.at, attributes))

    def _step_ended(self, entry: StepEnded) -> SpanRecord:
        run = self._created()
        step = self._step(entry.path)
        del self._steps[entry.path]
        result, status = names.STEP_RESULTS[entry.status]
        return SpanRecord(
            name=names.step_span_name(entry.path),
            kind="internal",
            trace_id=run.trace_id,
            span_id=step.span_id,
            parent_id=run.root_span_id,
            started_at=entry.at if step.started_at is None else step.started_at,
            ended_at=max(entry.at, step.ended_at),
            status=status,
            status_message=(_description(entry.error) or entry.reason) if status == "error" else "",
            attributes=self._step_attributes(entry, step, result, status),
            events=tuple(step.events),
            trace_flags=run.trace_flags,
        )

    def _step_attributes(self, entry: StepEnded, step: _Step, result: str, status: names.SpanStatus) -> dict[str, object]:
        run_id = self._created().run_id
        attributes: dict[str, object] = {
            names.PIPELINE: self._workflow,
            names.RUN_ID: run_id,
            names.TASK: entry.path,
            names.TASK_RUN_ID: f"{run_id}/{entry.path}",
            names.TASK_RESULT: result,
            names.STEP_STATUS: entry.status.value,
            names.STEP_ATTEMPTS: entry.attempts,
        }
        if step.executor:
            attributes[names.EXECUTOR] = step.executor
        if step.count is not None:
            attributes[names.STEP_COUNT] = step.count
        if entry.culprit:
            attributes[names.STEP_CULPRIT] = entry.culprit
        if status == "error":
            attributes[names.ERROR_TYPE] = error_type(result, entry.error, otherwise=entry.status.value)
        return attributes

    # -- attempts --------------------------------------------------------------------------------------------------------

    def _attempt_started(self, entry: AttemptStarted) -> None:
        step = self._step(entry.path)
        if step.started_at is None:
            step.started_at = entry.at
        self._open[(entry.path, entry.index, entry.attempt, entry.variant)] = _Open(entry, self._worker)

    def _attempt_ended(self, entry: AttemptEnded) -> tuple[SpanRecord, ...]:
        outcome = entry.outcome
        open_ = self._open.pop((entry.path, entry.index, entry.attempt, entry.variant), None)
        released_at = open_.entry.at if open_ else outcome.started_at or entry.at
        ended_at = outcome.ended_at or entry.at
        span = self._attempt(
            entry,
            worker=open_.worker if open_ else self._worker,
            released_at=released_at,
            started_at=min(outcome.started_at or released_at, ended_at),
            ended_at=ended_at,
            ending=attempt_ending(outcome, ended_at),
        )
        return (*outcome.spans, span)

    def _lost(self, open_: _Open) -> SpanRecord:
        attributes: dict[str, object] = {names.TASK_RESULT: "error", names.ERROR_TYPE: names.INTERRUPTED}
        return self._attempt(
            open_.entry,
            worker=open_.worker,
            released_at=open_.entry.at,
            started_at=open_.entry.at,
            ended_at=self._last_at,
            ending=Ending("error", "The process that performed it went away.", attributes, ()),
        )

    def _attempt(
        self,
        entry: AttemptStarted | AttemptEnded,
        *,
        worker: str,
        released_at: float,
        started_at: float,
        ended_at: float,
        ending: Ending,
    ) -> SpanRecord:
        run = self._created()
        step = self._step(entry.path)
        # A step holds its attempts even when another machine's clock stamped them.
        step.started_at = started_at if step.started_at is None else min(step.started_at, started_at)
        step.ended_at = max(step.ended_at, ended_at)
        self._last_at = max(self._last_at, ended_at)
        span_id = attempt_span_id(
            run.trace_id,
            run.root_span_id,
            entry.path,
            index=entry.index,
            variant=entry.variant,
            attempt=entry.attempt,
            stint=entry.stint,
        )
        before = step.failed.pop(entry.index, None)
        if ending.status == "error":
            step.failed[entry.index] = span_id
        started = attempt_attributes(
            run_id=run.run_id,
            workflow=self._workflow,
            path=entry.path,
            index=entry.index,
            executor=step.executor,
            attempt=entry.attempt,
            variant=entry.variant,
            worker=worker,
            queued_s=started_at - released_at,
        )
        return SpanRecord(
            name=names.attempt_span_name(entry.path),
            kind="internal",
            trace_id=run.trace_id,
            span_id=span_id,
            parent_id=step.span_id,
            started_at=started_at,
            ended_at=ended_at,
            status=ending.status,
            status_message=ending.description,
            attributes={**started, **ending.attributes},
            events=ending.events,
            links=((run.trace_id, before, {names.LINK_KIND: "retry_of"}),) if before else (),
            trace_flags=run.trace_flags,
        )

    # -- look-ups --------------------------------------------------------------------------------------------------------

    def _created(self) -> RunCreated:
        if self._run is None:
            raise ValueError("A run's log begins with RunCreated; apply that first.")
        return self._run

    def _step(self, path: str) -> _Step:
        step = self._steps.get(path)
        if step is None:
            run = self._created()
            span_id = step_span_id(run.trace_id, run.root_span_id, path)
            step = self._steps[path] = _Step(span_id, executor_of(run.workflow, path))
        return step


def error_type(result: str, error: ErrorInfo | None, *, otherwise: str = "_OTHER") -> str:
    """The value of ``error.type``; ``_OTHER`` is the word of the conventions for what has no class."""
    if result == "timeout":
        return "timeout"
    return error.type if error is not None and error.type else otherwise


def _description(error: ErrorInfo | None) -> str:
    if error is None:
        return ""
    first_line = error.message.partition("\n")[0]
    return first_line if len(first_line) <= _DESCRIPTION_LIMIT else first_line[: _DESCRIPTION_LIMIT - 3] + "..."


def _exception(error: ErrorInfo | None, at: float) -> tuple[Event, ...]:
    if error is None:
        return ()
    attributes: dict[str, object] = {names.EXCEPTION_TYPE: error.type, names.EXCEPTION_MESSAGE: error.message}
    if error.traceback:
        attributes[names.EXCEPTION_STACKTRACE] = error.traceback
    return ((names.EXCEPTION_EVENT, at, attributes),)


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
