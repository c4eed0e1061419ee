"""The result of a run: a projection of its log, like every other view of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from treadle._budget_use import BudgetUse, budget_uses, usage_data
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    CompensationEnded,
    Entry,
    ErrorInfo,
    Evaluated,
    GroupForm,
    GroupStarted,
    ItemEnded,
    Json,
    MapStarted,
    Record,
    RetryRequested,
    RunCreated,
    RunEnded,
    RunStatus,
    SpanRecord,
    StepEnded,
    StepResult,
    StepStatus,
    StepUsage,
    UsageNoted,
    WaitEnded,
    WaitStarted,
)
from treadle._paths import item_path, scope_path, step_id
from treadle._plan import compile_plan
from treadle._prices import PipelineUsage
from treadle._span_projection import SpanProjection
from treadle._workflow import Workflow
from treadle.errors import RunFailedError

_SUCCESS = (StepStatus.COMPLETED, StepStatus.PARTIAL_FAILURE, StepStatus.CACHED, StepStatus.SKIPPED)
_USABLE = (StepStatus.COMPLETED, StepStatus.PARTIAL_FAILURE)
_NOTHING_USED = StepUsage()


@attrs.frozen
class RunResult:
    """How a run ended.

    Attributes:
        run_id: The run.
        workflow: Name of the workflow.
        status: Its final state.
        outputs: The run's outputs; empty unless it got that far.
        error: The root cause; None when it completed.
        culprit: The step that caused it; empty when it completed.
        reason: Why it ended so, in words; empty when it completed.
        trace_id: 32 hex digits.
        started_at: Seconds since the epoch.
        ended_at: Seconds since the epoch.
        steps: Path -> result, in the order in which the steps ended.
        entries: The log.
    """

    run_id: str
    workflow: str
    status: RunStatus
    outputs: Mapping[str, Json] = attrs.field(repr=False)
    error: ErrorInfo | None
    culprit: str
    reason: str
    trace_id: str
    started_at: float
    ended_at: float
    steps: Mapping[str, StepResult] = attrs.field(repr=False)
    entries: Sequence[Entry] = attrs.field(repr=False)

    @property
    def duration_s(self) -> float:
        """Seconds from the run's creation to its end."""
        return self.ended_at - self.started_at

    @property
    def records(self) -> list[Record]:
        """The log, numbered from 1."""
        return [Record(self.run_id, seq, entry) for seq, entry in enumerate(self.entries, 1)]

    @property
    def spans(self) -> list[SpanRecord]:
        """Every span of the run, children before parents."""
        projection = SpanProjection()
        return [span for entry in self.entries for span in projection.apply(entry)]

    @property
    def usage(self) -> PipelineUsage:
        """What all attempts used up, whatever became of them."""
        return PipelineUsage.from_step_usages(used_by_step(self.entries))

    @property
    def budgets(self) -> list[BudgetUse]:
        """What was used of each budget, the run's own first; ``to_dict`` of one tells it in plain data."""
        return budgets_of(self.entries)

    def check(self) -> RunResult:
        """This result, when the run completed.

        Raises:
            RunFailedError: It did not; the message names the step and its error.
        """
        if self.status is RunStatus.COMPLETED:
            return self
        cause = f": {self.error.type}: {self.error.message}" if self.error else ""
        remedy = self.error.remedy if self.error else ""
        raise RunFailedError(f"Run {self.run_id} ended {self.status.value}; {self.reason}{cause}", remedy)

    def to_dict(self) -> dict[str, Json]:
        """What ``treadle run --json`` prints."""
        return {
            "run_id": self.run_id,
            "workflow": self.workflow,
            "status": self.status.value,
            "outputs": dict(self.outputs),
            "error": _error(self.error, self.culprit),
            "trace_id": self.trace_id,
            "started_at": self.started_at,
            "duration_s": round(self.duration_s, 6),
            "steps": {path: _step(step) for path, step in self.steps.items()},
            **_usage(self.usage.total),
            **_budgets(self.budgets, self.ended_at),
            **undone_data(self.entries),
        }


def _error(error: ErrorInfo | None, step: str = "") -> dict[str, Json] | None:
    if error is None:
        return None
    issues = [{"message": issue.message, "path": issue.path} for issue in error.issues]
    told: dict[str, Json] = {"type": error.type, "message": error.message, "issues": issues}
    if error.remedy:
        told["remedy"] = error.remedy
    if error.partial_results is not None:
        told["partial_results"] = error.partial_results
    if error.items_processed is not None:
        told["items_processed"] = error.items_processed
    if step:
        told["step"] = step
    return told


def _step(step: StepResult) -> dict[str, Json]:
    told: dict[str, Json] = {
        "status": step.status.value,
        "attempts": step.attempts,
        "duration_s": round(step.duration_s, 6),
    }
    if step.status in _SUCCESS or step.output is not None:
        told["output"] = step.output
    if step.error is not None:
        told["error"] = _error(step.error)
    if step.reason:
        told["reason"] = step.reason
    return told | _usage(step.usage)


def _usage(usage: StepUsage) -> dict[str, Json]:
    """What was used up, under its key; nothing when it was nothing."""
    return {"usage": usage_data(usage)} if usage else {}


def _budgets(uses: Sequence[BudgetUse], at: float) -> dict[str, Json]:
    return {"budgets": [use.to_dict(at) for use in uses]} if uses else {}


def budgets_of(entries: Sequence[Entry]) -> list[BudgetUse]:
    """What was used of each budget of a run, by its log."""
    created = entries[0] if entries else None
    if not isinstance(created, RunCreated) or not _names_budget(created.workflow):
        return []
    return budget_uses(compile_plan(Workflow.from_dict(created.workflow)).graph, entries)


def undone_of(entries: Iterable[Entry]) -> list[CompensationEnded]:
    """What a run has undone, or could not, since it began or was retried last."""
    undone: list[CompensationEnded] = []
    for entry in entries:
        if isinstance(entry, RetryRequested):
            undone.clear()
        elif isinstance(entry, CompensationEnded):
            undone.append(entry)
    return undone


def undone_data(entries: Iterable[Entry]) -> dict[str, Json]:
    """The same as ``--json`` prints it, under its key; nothing when it was nothing."""
    told: list[Json] = []
    for entry in undone_of(entries):
        one: dict[str, Json] = {"step": item_path(entry.path, entry.index), "status": entry.status.value}
        one |= {"error": _error(entry.error)} if entry.error is not None else {}
        told.append(one | ({"reason": entry.reason} if entry.reason else {}))
    return {"undone": told} if told else {}


def _names_budget(data: object) -> bool:
    """Whether a budget may be anywhere in a workflow: a look at its keys is cheaper than a plan."""
    if isinstance(data, Mapping):
        return "budget" in data or any(_names_budget(value) for value in data.values())
    return isinstance(data, (list, tuple)) and any(_names_budget(value) for value in data)


def used_by_step(entries: Iterable[Entry]) -> dict[str, StepUsage]:
    """Step -> what its attempts used up, by a log, in the order of their first end; late ones count too."""
    used: dict[str, StepUsage] = {}
    for entry in entries:
        if isinstance(entry, AttemptEnded | UsageNoted) and (usage := usage_of(entry)) is not None:
            used[entry.path] = used.get(entry.path, _NOTHING_USED) + usage
    return used


def usage_of(entry: AttemptEnded | UsageNoted) -> StepUsage | None:
    """What an entry adds to what was used up; None for nothing."""
    return entry.usage if isinstance(entry, UsageNoted) else entry.outcome.usage


def summarise(entries: Sequence[Entry]) -> RunResult:
    """The result that a finished run's log tells.

    Raises:
        ValueError: The log has no beginning or no end.
    """
    created = entries[0] if entries else None
    ended = entries[-1] if entries else None
    if not isinstance(created, RunCreated) or not isinstance(ended, RunEnded):
        raise ValueError("the log of a finished run begins with RunCreated and ends with RunEnded")
    return RunResult(
        run_id=created.run_id,
        workflow=str(created.workflow.get("name", "")),
        status=ended.status,
        outputs=ended.outputs,
        error=ended.error,
        culprit=ended.culprit,
        reason=ended.reason,
        trace_id=created.trace_id,
        started_at=created.at,
        ended_at=ended.at,
        steps={step.path: step for step in step_results(entries)},
        entries=entries,
    )


def step_results(entries: Sequence[Entry]) -> Iterator[StepResult]:
    """The steps of a log that have ended, in that order."""
    used = used_by_step(entries)
    started: dict[str, float] = {}
    outputs = _Outputs()
    running: dict[tuple[str, int | None], tuple[int, str]] = {}
    for entry in entries:
        if isinstance(entry, AttemptStarted):
            started.setdefault(entry.path, entry.at)
            running[entry.path, entry.index] = (entry.attempt, entry.variant)
        elif isinstance(entry, AttemptEnded):
            if running.get((entry.path, entry.index)) != (entry.attempt, entry.variant):
                continue  # it came too late and is evidence only
            del running[entry.path, entry.index]
            outputs.keep(entry)
        elif isinstance(entry, StepEnded):
            path = entry.path
            yield StepResult(
                path,
                entry.status,
                outputs.of(entry),
                entry.attempts,
                started.pop(path, None),
                entry.at,
                entry.error,
                entry.reason,
                used.get(path, _NOTHING_USED),
            )
        else:
            if isinstance(entry, GroupStarted | WaitStarted):
                started.setdefault(entry.path, entry.at)
            outputs.note(entry)


class _Outputs:
    """What steps give, as their log tells it; a group's from those of its steps."""

    def __init__(self) -> None:
        self._outputs: dict[str, Json] = {}
        self._forms: dict[str, GroupForm] = {}
        self._children: dict[str, dict[str, Json]] = {}  # scope -> id -> output
        self._told: dict[str, Json] = {}  # scope -> the branch that was chosen, or the outputs of a subflow

    def keep(self, entry: AttemptEnded) -> None:
        """An attempt is over."""
        if entry.outcome.status == "completed" and entry.variant != "compensation":
            self._put(entry.path, entry.index, entry.outcome.output)

    def note(self, entry: Entry) -> None:
        """Whatever else gives outputs."""
        if isinstance(entry, MapStarted):
            self._outputs[entry.path] = [None] * entry.count
        elif isinstance(entry, WaitEnded):
            self._put(entry.path, entry.index, entry.output)
        elif isinstance(entry, GroupStarted):
            self._forms[item_path(entry.path, entry.index)] = entry.form
        elif isinstance(entry, Evaluated) and entry.what in ("choose", "outputs"):
            self._told[item_path(entry.path, entry.index)] = entry.value
        elif isinstance(entry, ItemEnded):
            if entry.status not in _USABLE:
                self._put(entry.path, entry.index, None)
            self._close(entry.path, entry.index, entry.status)

    def of(self, entry: StepEnded) -> Json:
        """The output of a step that ended."""
        path = entry.path
        if not self._forms:  # no group has started
            return self._outputs.get(path)
        self._close(path, None, entry.status)
        output = self._outputs.get(path)
        if "/" in path:
            scope, name = scope_path(path), step_id(path)
            if scope in self._forms:
                self._children.setdefault(scope, {})[name] = output
        return output

    def _close(self, path: str, index: int | None, status: StepStatus) -> None:
        scope = item_path(path, index)
        form = self._forms.get(scope)  # kept: the run may go on again, and the group with it
        children, told = self._children.get(scope, {}), self._told.get(scope)
        if form is not None and status in _USABLE:
            self._put(path, index, children if form == "parallel" else told if form == "workflow" else children.get(str(told)))

    def _put(self, path: str, index: int | None, output: Json) -> None:
        items = self._outputs.get(path)
        if index is None:
            self._outputs[path] = output
        elif isinstance(items, list):
            items[index] = output
