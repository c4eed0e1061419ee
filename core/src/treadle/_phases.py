"""Phases: agents that work side by side under one budget, as records that turn into a workflow; and events of their tasks.

A phase is a group of a workflow, and nothing else: it is checked, retried, traced, resumed and limited as any group is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol, cast

import attrs

from treadle._budgets import DIVIDED, BudgetInvalidError, parse_budget
from treadle._contracts import JsonSchema, contract_for
from treadle._models import (
    AttemptStarted,
    GroupStarted,
    Issue,
    ItemEnded,
    Json,
    Record,
    RetryScheduled,
    RunCreated,
    StepEnded,
    WaitStarted,
)
from treadle._money import format_money
from treadle._workflow import Workflow
from treadle.errors import Fault, WorkflowInvalidError
from treadle.hookspecs import hookimpl

__all__ = [
    "EventPublisher",
    "PhaseContext",
    "PhasePlan",
    "TaskEvent",
    "TaskEvents",
    "TaskSpec",
    "phase_schemas",
    "phase_workflow",
]


@attrs.frozen
class PhaseContext:
    """What all agents of a phase are told.

    Attributes:
        inputs: Inputs of every agent; its own win over them.
    """

    inputs: dict[str, object] = attrs.field(factory=dict)


@attrs.frozen
class PhasePlan:
    """One phase: agents that work side by side.

    Attributes:
        phase: Its id, unique among the phases of a run.
        agents: The executors; one may stand there several times.
        inputs: Agent -> inputs of its own.
        budget: What all of them may use up together, as in a workflow file; each gets an even share, and what it leaves goes
            to those that start later.
        timebox: How long the phase may take, like ``30m``; None for any time.
        max_parallel: Agents at work at once; None leaves it to the run.
        on_error: What a failed agent means for the others.
    """

    phase: str
    agents: list[str]
    inputs: dict[str, dict[str, object]] = attrs.field(factory=dict)
    budget: dict[str, object] = attrs.field(factory=dict)
    timebox: str | None = None
    max_parallel: int | None = None
    on_error: Literal["stop", "continue"] = "stop"

    @classmethod
    def from_dict(cls, data: object) -> PhasePlan:
        """Read a plan from plain data.

        Raises:
            WorkflowInvalidError: With every fault.
        """
        issues: list[Issue] = []
        plan = contract_for(cls).structure_at(data, None, issues)
        if issues:
            raise WorkflowInvalidError([Fault(issue.message, issue.path.removeprefix("$.")) for issue in issues], name="phase")
        return cast("PhasePlan", plan)

    def to_dict(self) -> dict[str, Json]:
        """Plain data that reads back the same."""
        return cast("dict[str, Json]", contract_for(type(self)).unstructure(self))

    def tasks(self, context: PhaseContext | None = None) -> tuple[TaskSpec, ...]:
        """The tasks of the phase, one for each agent, each with its even share of the budget.

        What does not divide evenly goes to the first ones, one unit more each, so the shares add up to the whole.

        Raises:
            WorkflowInvalidError: It has no agent, or inputs of one that it does not have, or its budget cannot be meant.
        """
        self._check()
        shares = self._shares()
        common = (context or PhaseContext()).inputs
        ids = _ids(self.agents)
        return tuple(
            TaskSpec(task, self.phase, agent, {**common, **self.inputs.get(agent, {})}, share)
            for task, agent, share in zip(ids, self.agents, shares, strict=True)
        )

    def _check(self) -> None:
        faults = [] if self.agents else [Fault("a phase needs at least one agent", "agents")]
        known = f"agents: {', '.join(self.agents)}"
        strange = [agent for agent in self.inputs if agent not in self.agents]
        faults += [Fault(f"the phase has no agent {agent!r}", f"inputs.{agent}", known) for agent in strange]
        if self.budget:
            try:
                parse_budget(self.budget)
            except BudgetInvalidError as error:
                faults += [attrs.evolve(fault, path=f"budget.{fault.path}".rstrip(".")) for fault in error.faults]
        if faults:
            raise WorkflowInvalidError(faults, name=self.phase)

    def _shares(self) -> list[dict[str, object]]:
        count = len(self.agents)
        shares: list[dict[str, object]] = [{} for _ in range(count)]
        budget = parse_budget(self.budget) if self.budget else None
        for resource in DIVIDED:
            whole = None if budget is None else budget.limit(resource)
            if whole is None:
                continue
            least, more = divmod(whole, count)
            for number, share in enumerate(shares):
                part = least + (number < more)
                share[resource] = format_money(part) if resource == "cost" else part
        return shares


@attrs.frozen
class TaskSpec:
    """What one agent has to do.

    Attributes:
        task: Its id within the phase.
        phase: The phase.
        agent: The executor.
        input: What it is given.
        budget: Its even share of the phase's budget, as in a workflow file.
    """

    task: str
    phase: str
    agent: str
    input: dict[str, object] = attrs.field(factory=dict)
    budget: dict[str, object] = attrs.field(factory=dict)


def phase_workflow(
    name: str, phases: Sequence[PhasePlan], context: PhaseContext | None = None, *, budget: Mapping[str, Json] | None = None
) -> Workflow:
    """A workflow of phases, one after the other; the agents of each run side by side.

    Args:
        name: Of the workflow.
        phases: In their order.
        context: What all agents are told.
        budget: What the whole run may use up; phases without a budget of their own get even shares of it.

    Returns:
        A workflow whose steps are the phases, and whose outputs map each phase to the outputs of its tasks.

    Raises:
        WorkflowInvalidError: With every fault.
    """
    steps: dict[str, Json] = {}
    for number, plan in enumerate(phases):
        inside: dict[str, Json] = {"on_error": plan.on_error}
        inside |= {"timeout": plan.timebox} if plan.timebox is not None else {}
        inside |= {"max_parallel": plan.max_parallel} if plan.max_parallel is not None else {}
        tasks = {task.task: {"uses": task.agent, "with": _literal(task.input)} for task in plan.tasks(context)}
        step: dict[str, Json] = {"parallel": {**inside, "steps": tasks}}
        step |= {"budget": dict(plan.budget)} if plan.budget else {}
        steps[plan.phase] = {**step, "needs": [phases[number - 1].phase]} if number else step
    document: dict[str, Json] = {
        "name": name,
        "steps": steps,
        "outputs": {_name(phase): f"${{{{ steps[{phase!r}].output }}}}" for phase in steps},
    }
    if len(steps) < len(phases):
        raise WorkflowInvalidError([Fault("two phases have the same id", "phases", "give each its own")], name=name)
    return Workflow.from_dict(document if budget is None else {**document, "budget": dict(budget)})


def _literal(value: Json) -> Json:
    """A value whose texts stay what they are."""
    if isinstance(value, str):
        return value.replace("${{", "$${{")
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list | tuple) else value


def _name(phase: str) -> str:
    return re.sub(r"\W", "_", phase)


def _ids(agents: Sequence[str]) -> Iterator[str]:
    """Ids of steps: the agents' names, the second of one with ``-2``."""
    seen: dict[str, int] = {}
    for agent in agents:
        stem = re.sub(r"[^A-Za-z0-9_-]", "-", agent).lstrip("-0123456789") or "task"
        seen[stem] = seen.get(stem, 0) + 1
        yield stem if seen[stem] == 1 else f"{stem}-{seen[stem]}"


# -- events --------------------------------------------------------------------------------------------------------------


@attrs.frozen
class TaskEvent:
    """That the state of a task, or of a whole phase, has changed.

    Attributes:
        run_id: The run.
        seq: Place of the record in the run's log that says so.
        at: When, in seconds since the epoch.
        phase: The phase; of a step outside of one, its path.
        task: The task within it; empty for the phase itself.
        status: What it is now: ``pending``, ``running``, ``retrying``, or how it ended.
        attempt: The attempt that runs or ran last; 0 before the first, and of a phase.
        reason: Why, in words; may be empty.
    """

    run_id: str
    seq: int
    at: float
    phase: str
    task: str
    status: str
    attempt: int = 0
    reason: str = ""


class EventPublisher(Protocol):
    """Where events of tasks go: a channel, a queue, a log."""

    def publish(self, event: TaskEvent) -> None:
        """Hand an event on; must return in microseconds, so a slow channel keeps a queue of its own."""


class TaskEvents:
    """A sink for one run: publishes each change of state of each task, after it is durable.

    Args:
        publisher: Receives them. One that raises is logged once, and the run goes on.
    """

    def __init__(self, publisher: EventPublisher) -> None:
        self._publish = publisher.publish
        self._run_id = ""

    @hookimpl
    def record_event(self, record: Record) -> None:
        """Publish what a record changes."""
        entry = record.entry
        if isinstance(entry, RunCreated):
            self._run_id = entry.run_id
            for path in _paths(entry.workflow):
                self._say(record, path, "pending")
        elif isinstance(entry, (AttemptStarted, GroupStarted, WaitStarted)):
            self._say(record, entry.path, "running", attempt=getattr(entry, "attempt", 0))
        elif isinstance(entry, RetryScheduled):
            self._say(record, entry.path, "retrying", attempt=entry.attempt, reason=entry.reason)
        elif isinstance(entry, ItemEnded):
            path = f"{entry.path}[{entry.index}]"
            self._say(record, path, entry.status.value, attempt=entry.attempts, reason=entry.reason)
        elif isinstance(entry, StepEnded):
            self._say(record, entry.path, entry.status.value, attempt=entry.attempts, reason=entry.reason)

    def _say(self, record: Record, path: str, status: str, *, attempt: int = 0, reason: str = "") -> None:
        phase, _, task = path.partition("/")
        self._publish(TaskEvent(self._run_id, record.seq, record.at, phase, task, status, attempt if task else 0, reason))


def _paths(workflow: Mapping[str, Json]) -> Iterator[str]:
    """The steps of a workflow as plain data, and those of its groups."""
    for name, step in cast("Mapping[str, Mapping[str, Json]]", workflow.get("steps", {})).items():
        yield name
        group = step.get("parallel")
        if isinstance(group, Mapping):
            yield from (f"{name}/{path}" for path in _paths(group))


# -- schemas -------------------------------------------------------------------------------------------------------------


def phase_schemas() -> JsonSchema:
    """JSON Schemas 2020-12 of the records, by name under ``$defs``, for those who make or read them in other languages."""
    defs: dict[str, Json] = {}
    for record in (PhasePlan, PhaseContext, TaskSpec, TaskEvent):
        schema = dict(contract_for(record).schema())
        inner = cast("Mapping[str, Json]", schema.pop("$defs", {}))
        defs |= inner or {record.__name__: schema}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Records of phases",
        "description": "Phases, their tasks, and events of what becomes of them.",
        "$defs": defs,
    }
