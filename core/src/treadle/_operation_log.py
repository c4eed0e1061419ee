"""A run's log entries as log records: every operation of a run, with its ids, on the logger ``treadle.run``."""

from __future__ import annotations

import logging
from typing import assert_never

from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    CompensationEnded,
    Entry,
    Evaluated,
    FallbackChosen,
    GroupStarted,
    InterruptAnswered,
    InterruptAsked,
    ItemEnded,
    MapStarted,
    Record,
    RetryRequested,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SignalReceived,
    SlotTaken,
    StepEnded,
    StepStatus,
    StintOpened,
    TimerFired,
    UsageNoted,
    WaitEnded,
    WaitStarted,
)
from treadle._span_ids import attempt_span_id, step_span_id
from treadle.hookspecs import hookimpl

__all__ = ["OperationLog"]

_log = logging.getLogger("treadle.run")

_BAD_STEPS = {StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.INTERRUPTED, StepStatus.POISONED}
_GOOD_RUNS = {RunStatus.COMPLETED}

Said = tuple[int, str]


class OperationLog:
    """A sink for one run: logs each fact and decision with the fields of a JSON log line and ``operation``, its kind.

    Levels: what failed is an error, what is tried again or stopped a warning, attempts and timers are for debugging, the
    rest is information. No inputs and no outputs are logged.
    """

    def __init__(self) -> None:
        self._run: RunCreated | None = None
        self._generation = 1

    @hookimpl
    def record_event(self, record: Record) -> None:
        """Log one entry."""
        entry = record.entry
        if isinstance(entry, RunCreated):
            self._run = entry
        elif isinstance(entry, RetryRequested):
            self._generation = entry.generation
        level, message = _said(entry)
        if _log.isEnabledFor(level):
            _log.log(level, "%s", message, extra={"operation": record.kind, **self._fields(record)})

    def _fields(self, record: Record) -> dict[str, object]:
        path = getattr(record.entry, "path", None) or None
        run = self._run
        return {
            "trace_id": run.trace_id or None if run else None,
            "span_id": self._span_id(record.entry),
            "run_id": record.run_id,
            "workflow": run.workflow.get("name") if run else None,
            "step": path,
            "index": getattr(record.entry, "index", None),
            "attempt": getattr(record.entry, "attempt", None),
        }

    def _span_id(self, entry: Entry) -> str | None:
        """The span that the entry tells of: its attempt's, its step's, or the run's."""
        run = self._run
        if run is None or not run.trace_id:
            return None
        match entry:
            case AttemptStarted() | AttemptEnded():
                return attempt_span_id(
                    run.trace_id,
                    run.root_span_id,
                    entry.path,
                    index=entry.index,
                    variant=entry.variant,
                    generation=self._generation,
                    attempt=entry.attempt,
                    stint=entry.stint,
                )
            case (
                StepEnded()
                | ItemEnded()
                | MapStarted()
                | GroupStarted()
                | RetryScheduled()
                | FallbackChosen()
                | CompensationEnded()
                | WaitStarted()
                | WaitEnded()
            ):
                return step_span_id(run.trace_id, run.root_span_id, entry.path, generation=self._generation)
            case _:
                return run.root_span_id


def _said(entry: Entry) -> Said:
    """How bad an entry is, and what it says in a sentence."""
    match entry:
        case RunCreated():
            return logging.INFO, f"run {entry.run_id} of {entry.workflow.get('name', '')} created by {entry.trigger}"
        case StintOpened():
            return logging.INFO, f"stint {entry.stint} opened by {entry.owner or 'this process'} on {entry.engine}"
        case AttemptStarted():
            return logging.DEBUG, f"{_item(entry)} attempt {entry.attempt} started"
        case AttemptEnded():
            return _attempt_ended(entry)
        case UsageNoted():
            return logging.DEBUG, f"{_item(entry)} attempt {entry.attempt} has used up more"
        case RetryScheduled():
            left = f"attempt {entry.attempt + 1}/{entry.max_attempts} in {max(0.0, entry.due - entry.at):g}s"
            return logging.WARNING, f"{_item(entry)} will be tried again: {left}{_because(entry.reason)}"
        case FallbackChosen():
            return logging.WARNING, f"{_item(entry)} goes on with {entry.variant}{_because(entry.reason)}"
        case CompensationEnded():
            return _step_level(entry.status), f"undoing {_item(entry)} {entry.status.value}{_because(entry.reason)}"
        case GroupStarted():
            return logging.INFO, f"{_item(entry)} began"
        case InterruptAsked():
            return logging.WARNING, f"{_item(entry)} may have been done: somebody has to say what to do"
        case InterruptAnswered():
            return logging.INFO, f"{_item(entry)} may have been done: somebody says {entry.answer}"
        case MapStarted():
            return logging.INFO, f"{entry.path} has {entry.count} items"
        case WaitStarted():
            return logging.INFO, f"{_item(entry)} waits for {f'the signal {entry.signal}' if entry.signal else 'its time'}"
        case WaitEnded():
            return logging.INFO, f"{_item(entry)} waits no more: {entry.how}"
        case ItemEnded():
            return _step_level(entry.status), f"{_item(entry)} {entry.status.value}{_because(entry.reason)}"
        case StepEnded():
            return _step_level(entry.status), f"{entry.path} {entry.status.value}{_because(entry.reason)}"
        case RunStopping():
            return logging.WARNING, f"{entry.path or 'run'} is stopping{_because(entry.reason)}"
        case RunEnded():
            level = logging.INFO if entry.status in _GOOD_RUNS else logging.ERROR
            return level, f"run {entry.status.value}{_because(entry.reason)}"
        case CancelRequested():
            return logging.WARNING, f"cancel requested{_because(entry.reason)}"
        case RetryRequested():
            what = f" from {entry.start} on" if entry.start else ""
            return logging.WARNING, f"the run goes on again{what}{_because(entry.reason)}"
        case SlotTaken():
            return logging.DEBUG, f"{entry.path or 'the run'} has its slot"
        case SignalReceived():
            return logging.INFO, f"signal {entry.name} received"
        case Evaluated():
            failed = f"failed: {entry.error.type}" if entry.error else "done"
            return logging.WARNING if entry.error else logging.DEBUG, f"{entry.what} of {entry.path or 'the run'} {failed}"
        case TimerFired():
            return logging.DEBUG, f"timer {entry.timer_id} fired"
        case _:
            assert_never(entry)


def _attempt_ended(entry: AttemptEnded) -> Said:
    outcome = entry.outcome
    said = f"{_item(entry)} attempt {entry.attempt} {outcome.status}"
    if outcome.status == "completed":
        return logging.DEBUG, said
    error = outcome.error
    return logging.WARNING, said + (f": {error.type}: {error.message.partition(chr(10))[0]}" if error else "")


def _item(
    entry: AttemptStarted
    | AttemptEnded
    | RetryScheduled
    | ItemEnded
    | GroupStarted
    | WaitStarted
    | WaitEnded
    | FallbackChosen
    | CompensationEnded
    | InterruptAsked
    | InterruptAnswered
    | UsageNoted,
) -> str:
    return entry.path if entry.index is None else f"{entry.path}[{entry.index}]"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _step_level(status: StepStatus) -> int:
    return logging.ERROR if status in _BAD_STEPS else logging.INFO
