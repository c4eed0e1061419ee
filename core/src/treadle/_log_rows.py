"""The rows of a run as a projection of its log: what stores keep to be asked, beside the log itself. Pure.

The same log gives the same rows, so a resumed run is caught up by applying its earlier entries and throwing their rows away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import attrs

from treadle._budgets import parse_budget
from treadle._durations import parse_duration
from treadle._models import (
    BUDGET_TIMER_ID,
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    CompensationEnded,
    Entry,
    ErrorInfo,
    GroupStarted,
    InterruptAnswered,
    InterruptAsked,
    Issue,
    ItemEnded,
    Json,
    MapStarted,
    Outcome,
    RetryRequested,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    SignalReceived,
    SlotTaken,
    StepEnded,
    StepStatus,
    StepUsage,
    StintOpened,
    TimerFired,
    UsageNoted,
    WaitEnded,
    WaitStarted,
    idempotency_key,
    retry_timer_id,
    signal_timer_id,
    timeout_timer_id,
    wait_timer_id,
)
from treadle._paths import item_path, plan_path
from treadle._span_ids import attempt_span_id, step_span_id
from treadle._span_projection import executor_of
from treadle._store_records import Place, Rows, RunRow, SpanRow, SpanStatus, StepRow, TimerKind, TimerRow, TimerStatus

__all__ = ["LogRows", "rows_of"]

MAX_ERROR = 1_000
"""Longest error message of a row; the whole stands in the log."""


class _Step:
    """A step or item that has not ended, or ended since the rows were taken."""

    __slots__ = (
        "attempt",
        "cost",
        "ended_at",
        "error",
        "generation",
        "is_whole_map",
        "key",
        "queued_at",
        "reason",
        "span",
        "started_at",
        "status",
        "stint",
        "tokens",
        "variant",
        "worker",
    )

    def __init__(self) -> None:
        self.status = StepStatus.PENDING
        self.generation = 1
        self.attempt = self.stint = self.cost = self.tokens = 0
        self.worker = self.reason = self.key = ""
        self.variant = "primary"
        self.queued_at: float | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.error: ErrorInfo | None = None
        self.is_whole_map = False
        self.span: SpanRow | None = None  # of the attempt that runs


class LogRows:
    """Turns a run's log, entry by entry, into the rows that each batch changes.

    Args:
        key: The run's key; stands in no entry.
        source: The file that the run was started from.
    """

    def __init__(self, *, key: str = "", source: str = "") -> None:
        self.key, self.source = key, source
        self._created: RunCreated | None = None
        self._ended: RunEnded | None = None
        self._status = RunStatus.PENDING
        self._stint, self._generation = 0, 1
        self._is_timed = self._is_budget_timed = False  # whether the times that the run has count already
        self._maps: set[str] = set()  # steps that are known to have items
        self._worker = ""
        self._steps: dict[Place, _Step] = {}
        self._spent: dict[Place, tuple[int, int]] = {}  # by what has ended, for a run that goes on again: cost and tokens
        self._undone: dict[Place, _Step] = {}  # what undoes a step; its row stays what it came to
        self._timers: dict[str, TimerRow] = {}  # that have not fired
        self._executors: dict[str, str] = {}
        self._forget()

    def _forget(self) -> None:
        self._is_run_changed = False
        self._changed: dict[Place, _Step] = {}
        self._changed_timers: dict[str, TimerRow] = {}
        self._changed_spans: dict[str, SpanRow] = {}
        self._over: list[Place] = []

    def apply(self, entry: Entry) -> None:
        """Take an entry in."""
        handle = _HANDLERS.get(type(entry))
        if handle is not None:
            handle(self, entry)

    def take(self) -> Rows:
        """What has changed since the last time."""
        rows = Rows(
            self._run_row() if self._is_run_changed else None,
            tuple([self._step_row(place, step) for place, step in self._changed.items()]),
            tuple(self._changed_timers.values()),
            tuple(self._changed_spans.values()),
            tuple(self._over),
        )
        self._forget()
        return rows

    def suspend(self) -> Rows:
        """What changes when the process lets go of the run before its end: nothing runs any more."""
        self._set_status(RunStatus.SUSPENDED)
        for place, step in self._steps.items():
            if step.status is StepStatus.RUNNING:
                step.status = StepStatus.PENDING
                self._changed[place] = step
            if step.span is not None:
                self._close_span(step, step.span.started_at, "failed", error="the run was suspended")
        return self.take()

    # -- the run

    def _set_status(self, status: RunStatus) -> None:
        self._status = status
        self._is_run_changed = True

    def _run_created(self, entry: RunCreated) -> None:
        self._created = entry
        self._set_status(RunStatus.PENDING)

    def _stint_opened(self, entry: StintOpened) -> None:
        self._stint, self._worker = entry.stint, entry.owner
        if self._generation > 1 or not self._begun.workflow.get("concurrency"):
            self._begin(entry.at)
        if self._status is not RunStatus.CANCELLING:
            self._set_status(RunStatus.QUEUED if self._begun.workflow.get("concurrency") else RunStatus.RUNNING)
        self._is_run_changed = True
        for place, step in self._steps.items():
            if step.span is not None:  # its process went away
                self._close_span(step, entry.at, "failed", error="the process that performed it went away")
                self._changed[place] = step
                if entry.crashed and step.status is StepStatus.RUNNING:
                    step.status = StepStatus.PENDING  # until it is released again

    def _slot_taken(self, entry: SlotTaken) -> None:
        if not entry.path:
            self._begin(entry.at)
            if self._status is RunStatus.QUEUED:
                self._set_status(RunStatus.RUNNING)

    def _begin(self, at: float) -> None:
        """The times that the run has count from now on, whichever process drives it."""
        workflow = self._begun.workflow
        if not self._is_timed and workflow.get("timeout") is not None:
            due = at + parse_duration(cast("str", workflow["timeout"]))
            self._set_timer(timeout_timer_id(""), ("", None), "timeout", due, at)
        if not self._is_budget_timed and workflow.get("budget") and (time_s := _ends_after_s(workflow["budget"])) is not None:
            self._set_timer(BUDGET_TIMER_ID, ("", None), "timeout", at + time_s, at, {"budget": "wall_time"})
        self._is_timed = self._is_budget_timed = True

    def _cancel_requested(self, entry: CancelRequested) -> None:
        if self._ended is None:
            self._set_status(RunStatus.CANCELLING)

    def _retry_requested(self, entry: RetryRequested) -> None:
        self._generation, self._ended = entry.generation, None
        self._set_status(RunStatus.PENDING)
        self._is_timed, self._is_budget_timed = False, True
        self._begin(entry.at)
        self._is_budget_timed = False  # that counts from the next stint on

    def _run_ended(self, entry: RunEnded) -> None:
        self._ended = entry
        self._set_status(entry.status)
        for timer_id in list(self._timers):  # of signals that nobody will wait for
            self._change_timer(timer_id, "cancelled")

    def _run_row(self) -> RunRow:
        created, ended = self._begun, self._ended
        error = ended.error if ended else None
        return RunRow(
            run_id=created.run_id,
            workflow=str(created.workflow.get("name", "")),
            workflow_hash=created.workflow_hash,
            status=self._status,
            trigger=created.trigger,
            trace_id=created.trace_id,
            created_at=created.at,
            ended_at=ended.at if ended else None,
            stint=self._stint,
            key=self.key,
            source=self.source,
            reason=ended.reason if ended else "",
            culprit=ended.culprit if ended else "",
            error_type=error.type if error else "",
            error_message=_first_line(error),
        )

    @property
    def _begun(self) -> RunCreated:
        if self._created is None:
            raise ValueError("A run's log begins with RunCreated; apply that first.")
        return self._created

    # -- steps and items

    def _at(self, place: Place) -> _Step:
        step = self._steps.get(place)
        if step is None:
            step = self._steps[place] = _Step()
            if self._spent:
                step.cost, step.tokens = self._spent.pop(place, (0, 0))
            step.is_whole_map = place[1] is None and place[0] in self._maps
        self._changed[place] = step
        return step

    def _map_started(self, entry: MapStarted) -> None:
        self._maps.add(entry.path)
        whole = self._at((entry.path, None))
        whole.is_whole_map = True
        whole.status = StepStatus.RUNNING
        whole.queued_at = entry.at

    def _group_started(self, entry: GroupStarted) -> None:
        for place in {(entry.path, None), (entry.path, entry.index)}:
            step = self._at(place)
            step.is_whole_map = True
            step.status, step.stint, step.worker = StepStatus.RUNNING, self._stint, self._worker
            step.queued_at = step.queued_at or entry.at
            step.started_at = step.started_at or entry.at
        if entry.due is not None:
            timer_id = timeout_timer_id(_item((entry.path, entry.index)))
            self._set_timer(timer_id, (entry.path, entry.index), "timeout", entry.due, entry.at)

    def _attempt_started(self, entry: AttemptStarted) -> None:
        place = (entry.path, entry.index)
        is_undo = entry.variant == "compensation"
        step = self._undone.setdefault(place, _Step()) if is_undo else self._at(place)
        step.status = StepStatus.RUNNING
        step.attempt, step.stint, step.worker = entry.attempt, entry.stint, self._worker
        step.generation = self._generation
        if step.variant != entry.variant:
            step.variant, step.key = entry.variant, ""
        step.started_at = None
        if step.queued_at is None:
            step.queued_at = entry.at
        if entry.index is not None and not is_undo:
            whole = self._at((entry.path, None))
            whole.attempt += 1
            whole.stint, whole.worker = entry.stint, self._worker
            if whole.queued_at is None:  # a map that goes on again
                whole.queued_at = entry.at
        run = self._begun
        span = SpanRow(
            attempt_span_id(
                run.trace_id,
                run.root_span_id,
                entry.path,
                index=entry.index,
                variant=entry.variant,
                generation=self._generation,
                attempt=entry.attempt,
                stint=entry.stint,
            ),
            run.trace_id,
            step_span_id(run.trace_id, run.root_span_id, entry.path, generation=self._generation),
            self._executor(entry.path, entry.variant),
            _item(place),
            run.run_id,
            entry.attempt,
            entry.stint,
            entry.at,
        )
        step.span = self._changed_spans[span.span_id] = span

    def _attempt_ended(self, entry: AttemptEnded) -> None:
        place = (entry.path, entry.index)
        is_undo = entry.variant == "compensation"
        step = (self._undone if is_undo else self._steps).get(place)
        if step is None or step.span is None or (step.attempt, step.variant) != (entry.attempt, entry.variant):
            return  # it came too late and is evidence only
        if is_undo:
            self._end_span(step, entry.outcome, entry.at)
            return
        self._changed[place] = step
        outcome = entry.outcome
        step.started_at, step.error = outcome.started_at or entry.at, outcome.error
        if outcome.usage is not None:
            self._add_usage(step, entry, outcome.usage)
        self._end_span(step, outcome, entry.at)
        if outcome.status == "completed" and entry.index is not None:
            self._end(place, step, StepStatus.CACHED if outcome.cached else StepStatus.COMPLETED, entry.at)

    def _usage_noted(self, entry: UsageNoted) -> None:
        place = (entry.path, entry.index)
        step = self._steps.get(place)
        if step is not None and step.span is not None and (step.attempt, step.variant) == (entry.attempt, entry.variant):
            self._changed[place] = step
            self._add_usage(step, entry, entry.usage)

    def _add_usage(self, step: _Step, entry: AttemptEnded | UsageNoted, usage: StepUsage) -> None:
        for each in [step] if entry.index is None else [step, self._at((entry.path, None))]:
            each.cost += usage.cost
            each.tokens += usage.tokens

    def _interrupt_asked(self, entry: InterruptAsked) -> None:
        step = self._at((entry.path, entry.index))
        step.status, step.reason = StepStatus.INTERRUPTED, "may have been done: run it again, or let it fail?"

    def _interrupt_answered(self, entry: InterruptAnswered) -> None:
        step = self._steps.get((entry.path, entry.index))
        if step is not None and step.status is StepStatus.INTERRUPTED:
            step.status, step.reason = StepStatus.PENDING, ""
            self._changed[entry.path, entry.index] = step

    def _retry_scheduled(self, entry: RetryScheduled) -> None:
        place = (entry.path, entry.index)
        if entry.variant != "compensation":
            self._at(place).status = StepStatus.RETRYING
        timer_id = retry_timer_id(entry.path, entry.index, entry.attempt, entry.variant)
        self._set_timer(timer_id, place, "retry", entry.due, entry.at)

    def _wait_started(self, entry: WaitStarted) -> None:
        place, name = (entry.path, entry.index), item_path(entry.path, entry.index)
        step = self._at(place)
        step.status, step.queued_at, step.started_at = StepStatus.RUNNING, entry.at, entry.at
        step.stint = self._stint
        if entry.index is not None:
            whole = self._at((entry.path, None))
            whole.started_at, whole.stint = whole.started_at or entry.at, self._stint
        if entry.due is not None:
            payload = {"signal": entry.signal} if entry.signal else {"wait": name}
            kind: TimerKind = "timeout" if entry.signal else "custom"
            self._set_timer(wait_timer_id(name), place, kind, entry.due, entry.at, payload)

    def _wait_ended(self, entry: WaitEnded) -> None:
        timer_id = wait_timer_id(item_path(entry.path, entry.index))
        if timer_id in self._timers:
            self._change_timer(timer_id, "cancelled")

    def _signal_received(self, entry: SignalReceived) -> None:
        if entry.due is not None and entry.due > entry.at:
            timer_id = signal_timer_id(entry.signal_id)
            self._set_timer(timer_id, ("", None), "custom", entry.due, entry.at, {"signal": entry.name})

    def _item_ended(self, entry: ItemEnded) -> None:
        place = (entry.path, entry.index)
        step = self._at(place)
        if step.is_whole_map:
            step.attempt = entry.attempts
        self._end(place, step, entry.status, entry.at, entry.reason, entry.error)
        self._drop_timers(entry.path, entry.index)

    def _compensation_ended(self, entry: CompensationEnded) -> None:
        step = self._undone.pop((entry.path, entry.index), None)
        if step is not None and step.span is not None:
            self._close_span(step, entry.at, "failed", error=_first_line(entry.error) or entry.reason)
        self._drop_timers(entry.path, entry.index)

    def _drop_timers(self, path: str, index: int | None) -> None:
        if self._timers:
            for timer_id in [key for key, timer in self._timers.items() if (timer.path, timer.index) == (path, index)]:
                self._change_timer(timer_id, "cancelled")

    def _step_ended(self, entry: StepEnded) -> None:
        place = (entry.path, None)
        step = self._at(place)
        if not step.is_whole_map:
            step.attempt = max(step.attempt, entry.attempts)
        self._end(place, step, entry.status, entry.at, entry.reason, entry.error)
        if self._timers:
            for timer_id in [timer_id for timer_id, timer in self._timers.items() if timer.path == entry.path]:
                self._change_timer(timer_id, "cancelled")

    def _end(
        self,
        place: Place,
        step: _Step,
        status: StepStatus,
        at: float,
        reason: str = "",
        error: ErrorInfo | None = None,
    ) -> None:
        step.status, step.ended_at, step.reason = status, at, reason
        step.error = error
        if step.span is not None:  # it ended without an outcome: interrupted
            self._close_span(step, at, "failed", error=_first_line(error) or reason)
        self._over.append(place)
        self._steps.pop(place, None)
        if step.cost or step.tokens:
            self._spent[place] = step.cost, step.tokens

    def _step_row(self, place: Place, step: _Step) -> StepRow:
        run_id = self._begun.run_id
        path, index = place
        return StepRow(
            run_id,
            path,
            index,
            "finally" if path.startswith("finally/") else "main",
            self._executor(path),
            step.status,
            step.attempt,
            step.stint,
            step.worker,
            self._key(place, step),
            step.queued_at,
            step.started_at,
            step.ended_at,
            step.cost,
            step.tokens,
            step.error.type if step.error else "",
            _first_line(step.error),
            step.reason,
        )

    def _key(self, place: Place, step: _Step) -> str:
        if not step.key and step.attempt and not step.is_whole_map:
            # Worth keeping: a row is made at every change of the step.
            step.key = idempotency_key(self._begun.run_id, *place, step.variant, step.generation)
        return step.key

    def _executor(self, path: str, variant: str = "primary") -> str:
        if variant != "primary":
            return executor_of(self._begun.workflow, path, variant)
        path = plan_path(path)
        executor = self._executors.get(path)
        if executor is None:
            executor = self._executors[path] = executor_of(self._begun.workflow, path)
        return executor

    # -- timers

    def _timer_fired(self, entry: TimerFired) -> None:
        if entry.timer_id in self._timers:
            self._change_timer(entry.timer_id, "fired", entry.at)

    def _set_timer(self, timer_id: str, place: Place, kind: TimerKind, due: float, at: float, payload: Json = None) -> None:
        path, index = place
        row = TimerRow(self._begun.run_id, timer_id, path, index, kind, due, "pending", at, None, payload)
        self._timers[timer_id] = self._changed_timers[timer_id] = row

    def _change_timer(self, timer_id: str, status: TimerStatus, fired_at: float | None = None) -> None:
        """A timer is over."""
        row = self._timers.pop(timer_id)
        self._changed_timers[timer_id] = attrs.evolve(row, status=status, fired_at=fired_at)

    # -- executions

    def _end_span(self, step: _Step, outcome: Outcome, at: float) -> None:
        output, error = outcome.output, outcome.error
        self._close_span(
            step,
            outcome.ended_at or at,
            "completed" if outcome.status == "completed" else "failed",
            started_at=outcome.started_at,
            error=_first_line(error),
            keys=output.keys() if isinstance(output, dict) else (),
            issues=error.issues if error else (),
        )

    def _close_span(
        self,
        step: _Step,
        at: float,
        status: SpanStatus,
        *,
        started_at: float = 0.0,
        error: str = "",
        keys: Iterable[str] = (),
        issues: Iterable[Issue] = (),
    ) -> None:
        span, step.span = step.span, None
        if span is None:
            return
        self._changed_spans[span.span_id] = SpanRow(
            span.span_id,
            span.trace_id,
            span.parent_id,
            span.executor_type,
            span.task_id,
            span.workflow_execution_id,
            span.attempt,
            span.stint,
            started_at or span.started_at,
            at,
            status,
            tuple(keys),
            tuple([str(issue) for issue in issues]),
            error,
        )


# A table rather than a match: this runs for every entry of a durable run.
_HANDLERS: Mapping[type, Callable[[LogRows, Any], None]] = {
    RunCreated: LogRows._run_created,
    StintOpened: LogRows._stint_opened,
    SlotTaken: LogRows._slot_taken,
    CancelRequested: LogRows._cancel_requested,
    RetryRequested: LogRows._retry_requested,
    AttemptStarted: LogRows._attempt_started,
    AttemptEnded: LogRows._attempt_ended,
    UsageNoted: LogRows._usage_noted,
    InterruptAsked: LogRows._interrupt_asked,
    InterruptAnswered: LogRows._interrupt_answered,
    RetryScheduled: LogRows._retry_scheduled,
    TimerFired: LogRows._timer_fired,
    MapStarted: LogRows._map_started,
    GroupStarted: LogRows._group_started,
    CompensationEnded: LogRows._compensation_ended,
    WaitStarted: LogRows._wait_started,
    WaitEnded: LogRows._wait_ended,
    SignalReceived: LogRows._signal_received,
    ItemEnded: LogRows._item_ended,
    StepEnded: LogRows._step_ended,
    RunEnded: LogRows._run_ended,
}


def rows_of(entries: Iterable[Entry], *, key: str = "", source: str = "") -> Rows:
    """All rows of a log: what a store holds that was given it commit by commit."""
    rows = LogRows(key=key, source=source)
    for entry in entries:
        rows.apply(entry)
    return rows.take()


def _ends_after_s(budget: object) -> float | None:
    """How long a run may take by its budget; None when that does not end it."""
    found = parse_budget(budget)
    return found.wall_time_s if found.mode != "warn" and found.on_exceeded == "stop" else None


def _item(place: Place) -> str:
    return item_path(*place)


def _first_line(error: ErrorInfo | None) -> str:
    return "" if error is None else error.message.partition("\n")[0][:MAX_ERROR]
