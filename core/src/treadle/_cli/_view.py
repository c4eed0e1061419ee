"""What a run looks like while it goes on: a projection of its records, and each change of state in a line."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from treadle._budgets import Budget, parse_budget
from treadle._cli._output import count, first_line, spell
from treadle._paths import item_path, outermost, written_step
from treadle._waits import Wait as DeclaredWait
from treadle.ports import (
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    CompensationEnded,
    ErrorInfo,
    FallbackChosen,
    GroupStarted,
    ItemEnded,
    MapStarted,
    Record,
    RetryRequested,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStopping,
    SignalReceived,
    SlotTaken,
    StepEnded,
    StepUsage,
    StintOpened,
    UsageNoted,
    WaitStarted,
)


@attrs.frozen
class Change:
    """One change of state.

    Attributes:
        at: When, seconds since the epoch.
        event: What kind: ``run_started``, ``step_started``, ``retry_scheduled`` ...
        status: Whose mark and colour it has.
        text: The line, without time and mark.
        step: The step; empty for the run.
        index: Item of a ``foreach``.
        scrolls: Whether it stays above a live display (which shows the other changes by itself).
    """

    at: float
    event: str
    status: str
    text: str
    step: str = ""
    index: int | None = None
    scrolls: bool = False


@attrs.define
class Wait:
    """A failed attempt whose next one is due."""

    attempt: int
    max_attempts: int
    due: float
    error: str


@attrs.define
class StepView:
    """One step that is under way.

    Attributes:
        path: The step.
        started_at: When it began.
        active: Item (None outside of a ``foreach``) -> attempt that runs now.
        waiting: Item -> the wait for its next attempt.
        most: The most attempts an item may have, once one was retried.
        total: Number of items; None outside of a ``foreach``.
        done: Items that completed.
        failed: Items that ended otherwise.
        tenths: How far the last line about it was.
        inner: Of a group: its steps that are under way, however deep, with the time they began.
        inner_done: Of a group: its steps that are over.
        progress: What the executor said last: done, total, message.
        signal: What it waits for; None when it does not wait, empty for a time alone.
        due: When that wait is over.
    """

    path: str
    started_at: float
    active: dict[int | None, int] = attrs.field(factory=dict)
    waiting: dict[int | None, Wait] = attrs.field(factory=dict)
    most: int = 0
    total: int | None = None
    done: int = 0
    failed: int = 0
    tenths: int = 0
    inner: dict[str, float] = attrs.field(factory=dict)
    inner_done: int = 0
    awaiting: set[int] = attrs.field(factory=set)
    progress: tuple[float, float | None, str] | None = None
    signal: str | None = None
    due: float | None = None


@attrs.define
class RunView:
    """A run under way. Fed with its records in order; touched by one thread only."""

    is_kept: bool = False

    run_id: str = ""
    workflow: str = ""
    trace_id: str = ""
    started_at: float = 0.0
    steps_total: int = 0
    ended: dict[str, int] = attrs.field(factory=dict)
    steps: dict[str, StepView] = attrs.field(factory=dict)
    stopping: str = ""
    cancelled: str = ""
    usage: StepUsage = attrs.field(factory=StepUsage)
    budget: Budget | None = None
    _needs_slot: bool = False
    _groups: set[str] = attrs.field(factory=set)
    _document: Mapping[str, object] = attrs.field(factory=dict)
    _errors: dict[tuple[str, int | None], str] = attrs.field(factory=dict)

    def apply(self, record: Record) -> list[Change]:
        """Take a record in; answer the changes that people should see."""
        match record.entry:
            case RunCreated() as entry:
                return self._created(entry)
            case StintOpened() as entry if self._needs_slot:
                return [Change(entry.at, "run_queued", "running", "run waits for its slot", scrolls=True)]
            case SlotTaken() as entry if not entry.path:
                return [Change(entry.at, "slot_taken", "running", "run has its slot", scrolls=True)]
            case WaitStarted() as entry:
                return self._wait_started(entry)
            case MapStarted() as entry:
                self._step(entry.path, entry.at).total = entry.count
                items = count(entry.count, "item")
                return [Change(entry.at, "map_started", "running", f"{entry.path}: {items}", entry.path)]
            case AttemptStarted() as entry:
                return self._attempt_started(entry)
            case AttemptEnded() as entry:
                return self._attempt_ended(entry)
            case UsageNoted() as entry:
                self.usage += entry.usage
                return []
            case GroupStarted() as entry:
                return self._group_started(entry)
            case FallbackChosen() as entry:
                text = f"{_item(entry.path, entry.index)}: {entry.variant} is tried: {_why_given_up(entry)}"
                return [Change(entry.at, "fallback_chosen", "retrying", text, entry.path, entry.index, scrolls=True)]
            case CompensationEnded() as entry:
                return self._compensated(entry)
            case RetryScheduled() as entry:
                return self._retry(entry)
            case ItemEnded() as entry:
                return self._item_ended(entry)
            case StepEnded() as entry:
                return self._step_ended(entry)
            case RunStopping() as entry:
                return self._stopping(entry)
            case RetryRequested() as entry:
                return self._going_on_again(entry)
            case CancelRequested() as entry:
                self.cancelled = entry.reason
                return [Change(entry.at, "cancel_requested", "cancelled", first_line(entry.reason), scrolls=True)]
            case SignalReceived() as entry:
                return [Change(entry.at, "signal_received", "running", f"signal {entry.name}", scrolls=True)]
            case RunEnded() as entry:
                return [self._run_ended(entry)]
            case _:  # facts that only lead to one of the above
                return []

    def _outer(self, path: str, at: float) -> StepView | None:
        """The group that a step is folded into; None when it is a step of the run itself."""
        outer = outermost(path)
        return self._step(outer, at) if outer != path else None

    def _group_started(self, entry: GroupStarted) -> list[Change]:
        self._groups.add(item_path(entry.path, entry.index))
        outer = self._outer(entry.path, entry.at)
        step = outer or self._step(entry.path, entry.at)
        if outer is not None:
            outer.inner[item_path(entry.path, entry.index)] = entry.at
        if entry.index is not None:
            if outer is None:
                step.active[entry.index] = 1
            return []
        return [Change(entry.at, "group_started", "running", f"{entry.path}: started", entry.path)]

    def _compensated(self, entry: CompensationEnded) -> list[Change]:
        step = self.steps.pop(entry.path, None)
        if step is not None and step.total is not None and step.active:
            self.steps[entry.path] = step
        name = _item(entry.path, entry.index)
        text = f"{name}: undone" if entry.status == "completed" else f"{name}: could not be undone{_because(entry)}"
        return [Change(entry.at, "compensation_ended", entry.status, text, entry.path, entry.index, scrolls=True)]

    def progressed(self, path: str, done: float, total: float | None, message: str) -> None:
        """Note what an executor says of its own progress."""
        if path in self.steps:
            self.steps[path].progress = (done, total, message)

    def _step(self, path: str, at: float) -> StepView:
        if path not in self.steps:
            self.steps[path] = StepView(path, at)
        return self.steps[path]

    def _created(self, entry: RunCreated) -> list[Change]:
        self.started_at, self.trace_id, self.run_id = entry.at, entry.trace_id, entry.run_id
        self.workflow = str(entry.workflow.get("name") or "")
        self._needs_slot = bool(entry.workflow.get("concurrency"))
        self._document = entry.workflow
        self.steps_total = sum(_size(entry.workflow.get(part)) for part in ("steps", "finally"))
        self.budget = parse_budget(entry.workflow["budget"]) if entry.workflow.get("budget") else None
        trace = f", trace {entry.trace_id}" if entry.trace_id else ""
        text = f"run {entry.run_id} of {self.workflow or 'the workflow'}: {count(self.steps_total, 'step')}{trace}"
        return [Change(entry.at, "run_started", "running", text, scrolls=True)]

    def _wait_started(self, entry: WaitStarted) -> list[Change]:
        outer = self._outer(entry.path, entry.at)
        if outer is not None:
            outer.inner[entry.path] = entry.at
        elif entry.index is not None:
            self._step(entry.path, entry.at).awaiting.add(entry.index)
        else:
            step = self._step(entry.path, entry.at)
            step.signal, step.due = entry.signal, entry.due
        text = f"{_item(entry.path, entry.index)}: waits for {wait_text(entry.signal, entry.due, entry.at)}"
        if self.is_kept and entry.signal:
            text += f": treadle {'approve' if self._is_approval(entry) else 'signal'} {self.run_id} {entry.signal}"
        return [Change(entry.at, "wait_started", "running", text, entry.path, entry.index, scrolls=bool(entry.signal))]

    def _is_approval(self, entry: WaitStarted) -> bool:
        """Whether it is a yes or no that a step waits for."""
        wait = written_step(self._document, entry.path).get("wait")
        return wait is not None and DeclaredWait.read(wait).is_approval

    def _attempt_started(self, entry: AttemptStarted) -> list[Change]:
        outer = self._outer(entry.path, entry.at)
        step = outer or self._step(entry.path, entry.at)
        if outer is not None:
            outer.inner[entry.path] = entry.at
            if "[" in entry.path:
                return []
        else:
            step.waiting.pop(entry.index, None)
            step.active[entry.index] = entry.attempt
        if entry.variant == "compensation":
            text = f"{_item(entry.path, entry.index)}: undoing it"
        elif entry.attempt > 1:
            text = f"{_item(entry.path, entry.index)}: {_attempt(entry.attempt, step.most)} started"
        elif entry.index is None:
            text = f"{entry.path}: started"
        else:
            return []
        return [Change(entry.at, "attempt_started", "running", text, entry.path, entry.index)]

    def _attempt_ended(self, entry: AttemptEnded) -> list[Change]:
        outer, outcome = self._outer(entry.path, entry.at), entry.outcome
        step = outer or self._step(entry.path, entry.at)
        if outer is None and step.active.get(entry.index) == entry.attempt:
            del step.active[entry.index]
        self.usage += outcome.usage or StepUsage()
        changes = []
        if outcome.detached:
            text = f"{_item(entry.path, entry.index)}: did not stop when told to; its code may still be running"
            changes.append(Change(entry.at, "attempt_detached", "warning", text, entry.path, entry.index, scrolls=True))
        if outcome.status != "completed":
            self._errors[entry.path, entry.index] = told(outcome.error) or outcome.status
        elif entry.index is not None and outer is None and entry.variant != "compensation":
            step.done += 1
            changes.extend(self._milestone(step, entry.at))
        return changes

    def _milestone(self, step: StepView, at: float) -> list[Change]:
        over, total = step.done + step.failed, step.total or 0
        # A line for each tenth: a log of a long map shows that it moves, and stays short.
        if total < 20 or over == total or over * 10 // total <= step.tenths:
            return []
        step.tenths = over * 10 // total
        return [Change(at, "map_progress", "running", f"{step.path}: {items_over(step)}", step.path)]

    def _retry(self, entry: RetryScheduled) -> list[Change]:
        outer = self._outer(entry.path, entry.at)
        step = outer or self._step(entry.path, entry.at)
        error = self._errors.pop((entry.path, entry.index), "") or first_line(entry.reason)
        if outer is None:
            step.most = entry.max_attempts
            step.waiting[entry.index] = Wait(entry.attempt, entry.max_attempts, entry.due, error)
        name, attempt = _item(entry.path, entry.index), _attempt(entry.attempt, entry.max_attempts)
        text = f"{name}: {attempt} failed: {error}; next in {spell(entry.due - entry.at)}"
        return [Change(entry.at, "retry_scheduled", "retrying", text, entry.path, entry.index)]

    def _item_ended(self, entry: ItemEnded) -> list[Change]:
        outer = self._outer(entry.path, entry.at)
        step = outer or self._step(entry.path, entry.at)
        if outer is not None:
            outer.inner.pop(item_path(entry.path, entry.index), None)
        else:
            step.waiting.pop(entry.index, None)
            step.active.pop(entry.index, None)
            step.awaiting.discard(entry.index)
        if entry.status in _FINE:
            step.done += outer is None
            return [] if outer is not None else self._milestone(step, entry.at)
        if entry.status == "cancelled" and not entry.attempts:
            return []  # it had not begun, and why nothing does is said once
        step.failed += outer is None and entry.status != "cancelled"
        is_group = item_path(entry.path, entry.index) in self._groups  # its attempts are those of all its steps
        tries = f" after {count(entry.attempts, 'attempt')}" if entry.attempts > 1 and not is_group else ""
        text = f"{_item(entry.path, entry.index)}: {entry.status}{tries}{_because(entry)}"
        return [Change(entry.at, "item_ended", entry.status, text, entry.path, entry.index, scrolls=True)]

    def _step_ended(self, entry: StepEnded) -> list[Change]:
        outer = self._outer(entry.path, entry.at)
        if outer is not None:
            return self._inner_ended(outer, entry)
        step = self.steps.pop(entry.path, None)
        self.ended[entry.status] = self.ended.get(entry.status, 0) + 1
        details = []
        if step is not None and (entry.attempts or step.signal is not None or step.done or step.failed):
            details.append(spell(entry.at - step.started_at))
        if step is not None and step.total is not None:
            details.append(items_over(step))
        elif step is not None and step.inner_done:
            details.append(count(step.inner_done, "step"))
        elif entry.attempts > 1:
            details.append(count(entry.attempts, "attempt"))
        text = f"{entry.path}: {entry.status}" + (f" ({', '.join(details)})" if details else "")
        if entry.status not in ("completed", "cached"):
            text += _because(entry)
        return [Change(entry.at, "step_ended", entry.status, text, entry.path, scrolls=True)]

    def _inner_ended(self, outer: StepView, entry: StepEnded) -> list[Change]:
        """A step of a group: a line of its own, unless it went well for one of many items."""
        outer.inner.pop(entry.path, None)
        outer.inner_done += 1
        if "[" in entry.path and entry.status in _FINE:
            return []
        text = f"{entry.path}: {entry.status}" + ("" if entry.status in ("completed", "cached") else _because(entry))
        scrolls = entry.status not in _FINE
        return [Change(entry.at, "step_ended", entry.status, text, entry.path, scrolls=scrolls)]

    def _stopping(self, entry: RunStopping) -> list[Change]:
        if entry.path:
            text = f"{entry.path}: stopping: {first_line(entry.reason)}"
            return [Change(entry.at, "group_stopping", "warning", text, entry.path, scrolls=True)]
        self.stopping = entry.reason or "stopping"
        if self.cancelled and entry.reason == self.cancelled:
            return []  # said by the request already
        return [Change(entry.at, "run_stopping", "warning", f"stopping: {first_line(entry.reason)}", scrolls=True)]

    def _going_on_again(self, entry: RetryRequested) -> list[Change]:
        self.started_at, self.stopping, self.cancelled = entry.at, "", ""
        self.ended = {status: number for status, number in self.ended.items() if status in _GOOD}
        from_ = f" from {entry.start} on" if entry.start else ""
        text = f"run {self.run_id} goes on again{from_}, generation {entry.generation}"
        return [Change(entry.at, "retry_requested", "running", text, scrolls=True)]

    def _run_ended(self, entry: RunEnded) -> Change:
        text = f"run {self.run_id} {entry.status} in {spell(entry.at - self.started_at)}"
        return Change(entry.at, "run_ended", entry.status, text)


_FINE = ("completed", "cached", "skipped")


def _why_given_up(entry: FallbackChosen) -> str:
    return told(entry.error) or first_line(entry.reason)


_GOOD = ("completed", "cached", "skipped")


def items_over(step: StepView) -> str:
    """How far a ``foreach`` is: ``12/40 items``, and how many failed."""
    return f"{step.done + step.failed}/{step.total} items" + (f", {step.failed} failed" if step.failed else "")


def wait_text(signal: str, due: float | None, now: float) -> str:
    """What a step waits for: ``the signal 'go', at most 2h``, ``5m``."""
    left = "" if due is None else spell(max(0.0, due - now))
    if not signal:
        return left
    return f"the signal {signal!r}" + (f", at most {left}" if left else "")


def told(error: ErrorInfo | None) -> str:
    """An error in a line: type and first line of its message, with the last when the first only leads to it; empty for none."""
    if error is None:
        return ""
    text = first_line(error.message)
    if text.endswith(":"):
        text = f"{text} {first_line(error.message.rstrip().rpartition(chr(10))[2])}"
    return f"{error.type}: {text}"


def _because(entry: ItemEnded | StepEnded | CompensationEnded) -> str:
    """Why a step or item ended as it did: the error, but for a cancel the reason, which says more."""
    error, reason = told(entry.error), first_line(entry.reason)
    why = (reason or error) if entry.status == "cancelled" else (error or reason)
    return f": {why}" if why else ""


def _item(path: str, index: int | None) -> str:
    return item_path(path, index)


def _attempt(attempt: int, most: int) -> str:
    return f"attempt {attempt}/{most}" if most else f"attempt {attempt}"


def _size(part: object) -> int:
    return len(part) if isinstance(part, Mapping) else 0
