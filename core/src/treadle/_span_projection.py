"""Spans as a projection of a run's log: always there, sampled or not, with or without a provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import attrs

from treadle import _telemetry as names
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    Call,
    Entry,
    ErrorInfo,
    GroupStarted,
    ItemEnded,
    MapStarted,
    Outcome,
    RetryRequested,
    RetryScheduled,
    RunCreated,
    RunEnded,
    SpanRecord,
    StepEnded,
    StepUsage,
    StintOpened,
    UsageNoted,
    WaitStarted,
)
from treadle._paths import item_path, scope_path, split_item, written_step
from treadle._span_ids import attempt_span_id, step_span_id

__all__ = [
    "Ending",
    "SpanProjection",
    "attempt_attributes",
    "attempt_ending",
    "call_attributes",
    "error_type",
    "executor_of",
    "usage_attributes",
]

Event = tuple[str, float, Mapping[str, object]]

_DESCRIPTION_LIMIT = 512
"""Longest status message; the whole error stands in the exception event and in the record."""


class Ending(NamedTuple):
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
    if outcome.cached:
        attributes[names.ATTEMPT_CACHED] = True
    if outcome.usage is not None:
        attributes |= usage_attributes(outcome.usage)
    if outcome.refusal is not None:
        attributes[names.REFUSED] = outcome.refusal.resource
    if status == "unset":
        return Ending(status, "", attributes, ())
    attributes[names.ERROR_TYPE] = error_type(result, outcome.error)
    return Ending(status, _description(outcome.error), attributes, _exception(outcome.error, ended_at))


def usage_attributes(usage: StepUsage) -> dict[str, object]:
    """What was used up; what was not is left out."""
    used = {names.COST: usage.cost, names.TOKENS: usage.tokens, names.REQUESTS: usage.requests}
    return {name: amount for name, amount in used.items() if amount}


def attempt_attributes(
    *,
    run_id: str,
    path: str,
    index: int | None,
    attempt: int,
    variant: str,
    worker: str,
    queued_s: float,
) -> dict[str, object]:
    """What an attempt's span carries from its start, live or projected; what its step says is not said again."""
    attributes: dict[str, object] = {
        names.RUN_ID: run_id,
        names.TASK: path,
        names.ATTEMPT_NUMBER: attempt,
        names.ATTEMPT_QUEUED_S: round(max(0.0, queued_s), 6),
    }
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
        path=call.path,
        index=call.index,
        attempt=call.attempt,
        variant=call.variant,
        worker=worker,
        queued_s=started_at - call.queued_at if call.queued_at else 0.0,
    )


def executor_of(workflow: Mapping[str, object], path: str, variant: str = "primary") -> str:
    """The executor that a step of a workflow (as plain data) uses; empty when it cannot be told."""
    step = written_step(workflow, path)
    if variant == "compensation":
        step = _mapping(step.get("compensate"))
    elif variant != "primary":
        bodies = step.get("fallback")
        number = int(variant.rpartition(" ")[2]) - 1
        step = _mapping(bodies[number] if isinstance(bodies, list) and number < len(bodies) else bodies)
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
    events: tuple[Event, ...] = ()
    usage: StepUsage | None = None
    failed: dict[tuple[int | None, str], str] | None = None
    """Item and variant -> span id of its last attempt, while another may follow."""


class _Open(NamedTuple):
    """An attempt that was released and has not ended."""

    entry: AttemptStarted
    worker: str


class _Place(NamedTuple):
    """Where an attempt stands: its span, its step's, and that of the failed attempt before it, empty for none."""

    span_id: str
    parent_id: str
    before: str


class SpanProjection:
    """Turns a run's log, entry by entry, into the spans that each entry finishes.

    Pure: the same log gives the same spans, so a resumed run is caught up by applying its earlier records and throwing
    their spans away.

    Args:
        is_known: Asked with the id of an attempt's span: True when whoever receives the spans has it already, so that it
            need not be made.
    """

    def __init__(self, is_known: Callable[[str], bool] | None = None) -> None:
        self._is_known = is_known
        self._run: RunCreated | None = None
        self._workflow = ""
        self._stints = 0
        self._generation, self._began_at, self._run_span_id = 1, 0.0, ""
        self._worker = ""
        self._last_at = 0.0
        self._usage: StepUsage | None = None
        self._steps: dict[str, _Step] = {}
        self._open: dict[tuple[str, int | None, int, str], _Open] = {}
        self._noted: dict[tuple[str, int | None, int, str], StepUsage] = {}  # what attempts that go on have used up

    def apply(self, entry: Entry) -> tuple[SpanRecord, ...]:
        """The spans that ``entry`` finishes, children before parents; most entries finish none."""
        handle = _HANDLERS.get(type(entry))
        spans = handle(self, entry) if handle is not None else ()
        if entry.at > self._last_at:
            self._last_at = entry.at
        return spans

    # -- the run -------------------------------------------------------------------------------------------------------

    def _retry_requested(self, entry: RetryRequested) -> tuple[SpanRecord, ...]:
        self._generation, self._began_at = entry.generation, entry.at
        self._run_span_id = self._step_span_id(self._created(), "")  # of its own, under the run's
        return ()

    def _run_created(self, entry: RunCreated) -> tuple[SpanRecord, ...]:
        self._run, self._began_at, self._run_span_id = entry, entry.at, entry.root_span_id
        self._workflow = str(entry.workflow.get("name", ""))
        return ()

    def _stint_opened(self, entry: StintOpened) -> tuple[SpanRecord, ...]:
        """Closes the attempts of a process that went away, at the last moment that is known of it."""
        lost = [self._lost(open_) for open_ in self._open.values()]
        self._open.clear()
        self._stints = max(self._stints, entry.stint)
        self._worker = entry.owner
        return tuple(lost)

    def _run_ended(self, entry: RunEnded) -> tuple[SpanRecord, ...]:
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
        if self._usage is not None:
            attributes |= usage_attributes(self._usage)
        if status == "error":
            attributes[names.ERROR_TYPE] = error_type(result, entry.error, otherwise=entry.status.value)
        span = SpanRecord(
            name=names.run_span_name(self._workflow),
            kind=names.run_span_kind(run.parent_span_id, run.trigger),
            trace_id=run.trace_id,
            span_id=self._run_span_id,
            parent_id=run.parent_span_id if self._generation == 1 else run.root_span_id,
            started_at=self._began_at,
            ended_at=max(entry.at, self._last_at),
            status=status,
            status_message=(_description(entry.error) or entry.reason) if status == "error" else "",
            attributes=attributes,
            trace_flags=run.trace_flags,
        )
        return (span,)

    # -- steps -----------------------------------------------------------------------------------------------------------

    def _map_started(self, entry: MapStarted) -> tuple[SpanRecord, ...]:
        step = self._step(entry.path)
        step.count = entry.count
        if step.started_at is None:
            step.started_at = entry.at
        return ()

    def _wait_started(self, entry: WaitStarted) -> tuple[SpanRecord, ...]:
        step = self._step(entry.path)
        if entry.index is None or step.started_at is None:
            step.started_at = entry.at
        return ()

    def _group_started(self, entry: GroupStarted) -> tuple[SpanRecord, ...]:
        for path in {entry.path, item_path(entry.path, entry.index)}:
            step = self._step(path)
            if step.started_at is None:
                step.started_at = entry.at
        return ()

    def _item_ended(self, entry: ItemEnded) -> tuple[SpanRecord, ...]:
        """An item of a ``foreach`` over a group has a span of its own, for the spans of its steps."""
        path = item_path(entry.path, entry.index)
        if path not in self._steps:
            return ()
        ended = StepEnded(entry.at, path, entry.status, entry.attempts, entry.reason, entry.error)
        (span,) = self._step_ended(ended)
        return (attrs.evolve(span, attributes={**span.attributes, names.TASK: entry.path, names.STEP_INDEX: entry.index}),)

    def _retry_scheduled(self, entry: RetryScheduled) -> tuple[SpanRecord, ...]:
        step = self._step(entry.path)
        if len(step.events) < names.MAX_EVENTS:
            attributes: dict[str, object] = {
                names.ATTEMPT_NUMBER: entry.attempt,
                names.RETRY_DELAY_S: round(max(0.0, entry.due - entry.at), 6),
                names.RETRY_REASON: entry.reason,
            }
            if entry.index is not None:
                attributes[names.STEP_INDEX] = entry.index
            step.events = (*step.events, (names.RETRY_EVENT, entry.at, attributes))
        return ()

    def _step_ended(self, entry: StepEnded) -> tuple[SpanRecord, ...]:
        run = self._created()
        step = self._step(entry.path)
        del self._steps[entry.path]
        result, status = names.STEP_RESULTS[entry.status]
        # By position: by name costs as much again, for each step of a traced run.
        span = SpanRecord(
            names.step_span_name(entry.path),
            "internal",
            run.trace_id,
            step.span_id,
            self._run_span_id if "/" not in entry.path and not entry.path.endswith("]") else self._parent_of(entry.path),
            entry.at if step.started_at is None else step.started_at,
            max(entry.at, step.ended_at),
            status,
            (_description(entry.error) or entry.reason) if status == "error" else "",
            self._step_attributes(entry, step, result, status),
            step.events,
            (),
            run.trace_flags,
        )
        return (span,)

    def _parent_of(self, path: str) -> str:
        """The span of the group that a step, or an item of a group, is part of."""
        run = self._created()
        step, index = split_item(path)
        around = step if index is not None else scope_path(path)
        return self._step_span_id(run, around) if around else self._run_span_id

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
        if step.usage is not None:
            attributes |= usage_attributes(step.usage)
        if status == "error":
            attributes[names.ERROR_TYPE] = error_type(result, entry.error, otherwise=entry.status.value)
        return attributes

    # -- attempts --------------------------------------------------------------------------------------------------------

    def _attempt_started(self, entry: AttemptStarted) -> tuple[SpanRecord, ...]:
        step = self._step(entry.path)
        if step.started_at is None:
            step.started_at = entry.at
        self._open[(entry.path, entry.index, entry.attempt, entry.variant)] = _Open(entry, self._worker)
        return ()

    def _attempt_ended(self, entry: AttemptEnded) -> tuple[SpanRecord, ...]:
        outcome = entry.outcome
        if outcome.usage is not None:
            self._add_usage(entry.path, outcome.usage)
        if self._noted:
            noted = self._noted.pop((entry.path, entry.index, entry.attempt, entry.variant), None)
            if noted is not None:
                outcome = attrs.evolve(outcome, usage=noted + (outcome.usage or StepUsage()))
        open_ = self._open.pop((entry.path, entry.index, entry.attempt, entry.variant), None)
        released_at = open_.entry.at if open_ else outcome.started_at or entry.at
        ended_at = outcome.ended_at or entry.at
        started_at = min(outcome.started_at or released_at, ended_at)
        place = self._place(entry, started_at, ended_at, has_failed=outcome.status in ("failed", "timed_out"))
        if self._is_known is not None and self._is_known(place.span_id):
            return outcome.spans
        worker = open_.worker if open_ else self._worker
        span = self._attempt(
            entry, place, started_at, ended_at, attempt_ending(outcome, ended_at), worker, queued_s=started_at - released_at
        )
        return (*outcome.spans, span)

    def _usage_noted(self, entry: UsageNoted) -> tuple[SpanRecord, ...]:
        key = (entry.path, entry.index, entry.attempt, entry.variant)
        if key in self._open:
            self._add_usage(entry.path, entry.usage)
            self._noted[key] = entry.usage + self._noted.get(key, StepUsage())
        return ()

    def _add_usage(self, path: str, usage: StepUsage) -> None:
        step = self._step(path)
        step.usage = usage + (step.usage or StepUsage())
        self._usage = usage + (self._usage or StepUsage())

    def _lost(self, open_: _Open) -> SpanRecord:
        entry, ended_at = open_.entry, self._last_at
        attributes: dict[str, object] = {names.TASK_RESULT: "error", names.ERROR_TYPE: names.INTERRUPTED}
        if self._noted:
            attributes |= usage_attributes(
                self._noted.pop((entry.path, entry.index, entry.attempt, entry.variant), StepUsage())
            )
        ending = Ending("error", "The process that performed it went away.", attributes, ())
        place = self._place(entry, entry.at, ended_at, has_failed=True)
        return self._attempt(entry, place, entry.at, ended_at, ending, open_.worker, queued_s=0.0)

    def _place(self, entry: AttemptStarted | AttemptEnded, started_at: float, ended_at: float, *, has_failed: bool) -> _Place:
        """Where an attempt stands in the tree; its step and its run stretch to hold it."""
        run = self._created()
        step = self._step(entry.path)
        # Even when another machine's clock stamped it.
        if step.started_at is None or started_at < step.started_at:
            step.started_at = started_at
        if ended_at > step.ended_at:
            step.ended_at = ended_at
        if ended_at > self._last_at:
            self._last_at = ended_at
        span_id = attempt_span_id(
            run.trace_id,
            run.root_span_id,
            entry.path,
            index=entry.index,
            variant=entry.variant,
            generation=self._generation,
            attempt=entry.attempt,
            stint=entry.stint,
        )
        before = step.failed.pop((entry.index, entry.variant), "") if step.failed else ""
        if has_failed:
            step.failed = {**(step.failed or {}), (entry.index, entry.variant): span_id}
        return _Place(span_id, step.span_id, before)

    def _attempt(
        self,
        entry: AttemptStarted | AttemptEnded,
        place: _Place,
        started_at: float,
        ended_at: float,
        ending: Ending,
        worker: str,
        *,
        queued_s: float,
    ) -> SpanRecord:
        run = self._created()
        note = entry.outcome.note if isinstance(entry, AttemptEnded) else None
        started = attempt_attributes(
            run_id=run.run_id,
            path=entry.path,
            index=entry.index,
            attempt=entry.attempt,
            variant=entry.variant,
            worker=worker,
            queued_s=queued_s,
        )
        return SpanRecord(
            names.attempt_span_name(entry.path),
            "internal",
            run.trace_id,
            place.span_id,
            place.parent_id,
            started_at,
            ended_at,
            ending.status,
            ending.description,
            {**started, **ending.attributes} if note is None else {**note.attributes, **started, **ending.attributes},
            ending.events if note is None else (*note.events, *ending.events),
            ((run.trace_id, place.before, {names.LINK_KIND: "retry_of"}),) if place.before else (),
            run.trace_flags,
        )

    def place_of(self, path: str) -> tuple[str, str]:
        """The ids of a step's span and of its parent, also while it goes on."""
        return self._step_span_id(self._created(), path), self._parent_of(path)

    # -- look-ups --------------------------------------------------------------------------------------------------------

    def _created(self) -> RunCreated:
        if self._run is None:
            raise ValueError("A run's log begins with RunCreated; apply that first.")
        return self._run

    def _step_span_id(self, run: RunCreated, path: str) -> str:
        return step_span_id(run.trace_id, run.root_span_id, path, generation=self._generation)

    def _step(self, path: str) -> _Step:
        step = self._steps.get(path)
        if step is None:
            run = self._created()
            span_id = self._step_span_id(run, path)
            step = self._steps[path] = _Step(span_id, executor_of(run.workflow, path))
        return step


# A table rather than a match: this runs for every entry of a traced run.
_HANDLERS: Mapping[type, Callable[[SpanProjection, Any], tuple[SpanRecord, ...]]] = {
    RunCreated: SpanProjection._run_created,
    StintOpened: SpanProjection._stint_opened,
    AttemptStarted: SpanProjection._attempt_started,
    AttemptEnded: SpanProjection._attempt_ended,
    UsageNoted: SpanProjection._usage_noted,
    RetryScheduled: SpanProjection._retry_scheduled,
    MapStarted: SpanProjection._map_started,
    GroupStarted: SpanProjection._group_started,
    ItemEnded: SpanProjection._item_ended,
    WaitStarted: SpanProjection._wait_started,
    StepEnded: SpanProjection._step_ended,
    RunEnded: SpanProjection._run_ended,
    RetryRequested: SpanProjection._retry_requested,
}


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
    exception: Event = (names.EXCEPTION_EVENT, at, attributes)
    if error.items_processed is None:
        return (exception,)
    return (exception, (names.PARTIAL_EVENT, at, {names.ITEMS_PROCESSED: error.items_processed}))


def _mapping(value: object) -> Mapping[str, object]:
    if type(value) is dict:  # nearly always, and much quicker to tell
        return value
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
