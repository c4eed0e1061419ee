"""The parts of a workflow as frozen records, and how each is written back as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs

from treadle._budgets import Budget, budget_data
from treadle._durations import format_duration, parse_duration
from treadle._models import Json, RetryPolicy
from treadle._policy_keys import StepCache, StepRate
from treadle._retries import parse_retry
from treadle._slots import Concurrency
from treadle._waits import Wait

OnError = Literal["stop", "continue"]
OnInterrupt = Literal["rerun", "fail", "ask"]
NeedsRule = Literal["all_succeeded", "all_done", "any_succeeded"]


@attrs.frozen
class InputSpec:
    """What a run may be given under one name.

    Attributes:
        type: One of the JSON types, or empty for any.
        required: Whether a run must be given it.
        default: Its value otherwise; None when there is none.
        description: What it is for.
    """

    type: str = ""
    required: bool = True
    default: Json = None
    description: str = ""

    def to_dict(self) -> dict[str, Json]:
        """Plain data that reads back the same."""
        data: dict[str, Json] = {"type": self.type} if self.type else {}
        if self.default is not None:
            data["default"] = copied(self.default)
        elif not self.required:
            data["required"] = False
        return {**data, "description": self.description} if self.description else data


@attrs.frozen
class Defaults:
    """What holds for every step that says nothing else.

    Attributes:
        timeout_s: Deadline of one attempt.
        retry: How failed attempts are repeated.
        isolation: ``inline``, ``process``, or limits of a process; None leaves it to the executor.
    """

    timeout_s: float | None = None
    retry: RetryPolicy | None = None
    isolation: Json = None

    def to_dict(self) -> dict[str, Json]:
        """Plain data that reads back the same."""
        data: dict[str, Json] = {} if self.timeout_s is None else {"timeout": duration_data(self.timeout_s)}
        data = data if self.retry is None else {**data, "retry": retry_data(self.retry)}
        return data if self.isolation is None else {**data, "isolation": copied(self.isolation)}


@attrs.frozen
class Body:
    """What stands in for a step that failed, or undoes one that completed.

    Attributes:
        uses: Name of the executor.
        with_: Inputs of the executor; texts may hold expressions.
        clients: Need -> name of the client.
        timeout_s: Deadline of one attempt.
        retry: How failed attempts are repeated; None takes the workflow's default.
        isolation: As of a step.
    """

    uses: str
    with_: Mapping[str, Json] | str = attrs.field(factory=dict)
    clients: Mapping[str, str] = attrs.field(factory=dict)
    timeout_s: float | None = None
    retry: RetryPolicy | None = None
    isolation: Json = None

    def to_dict(self) -> dict[str, Json]:
        """Plain data that reads back the same."""
        data: dict[str, Json] = {
            "uses": self.uses,
            "with": copied(self.with_),
            "clients": dict(self.clients),
            "retry": None if self.retry is None else retry_data(self.retry),
            "timeout": None if self.timeout_s is None else duration_data(self.timeout_s),
            "isolation": copied(self.isolation),
        }
        return {key: value for key, value in data.items() if value is not None and value not in ([], {})}


@attrs.frozen
class Parallel:
    """Steps that form one: they run side by side, as far as their needs allow.

    Attributes:
        steps: By id. The builder adds to it.
        on_error: What a failed step means for the others; None takes what holds around the group.
        max_failures: Failed steps, or percent of the steps, that the group bears.
        max_parallel: Most calls of the group at once.
        timeout_s: How long the group may take.
    """

    steps: dict[str, Step] = attrs.field(factory=dict)
    on_error: OnError | None = None
    max_failures: int | str | None = None
    max_parallel: int | None = None
    timeout_s: float | None = None

    def to_dict(self) -> dict[str, Json]:
        """Plain data that reads back the same."""
        data: dict[str, Json] = {
            "steps": {step.id: step.to_dict() for step in self.steps.values()},
            "on_error": self.on_error,
            "max_failures": self.max_failures,
            "max_parallel": self.max_parallel,
            "timeout": None if self.timeout_s is None else duration_data(self.timeout_s),
        }
        return {key: value for key, value in data.items() if value is not None}


@attrs.frozen
class Branch:
    """One of the steps that a ``choose`` chooses from.

    Attributes:
        step: What is done; its ``when`` is the condition.
        priority: The highest is asked first.
        is_else: Taken when no condition is true.
    """

    step: Step
    priority: int = 0
    is_else: bool = False

    def to_dict(self) -> dict[str, Json]:
        """Plain data that reads back the same."""
        told = self.step.to_dict()
        if self.priority:
            told["priority"] = self.priority
        return {**told, "else": True} if self.is_else else told


@attrs.frozen
class Step:
    """One declared unit of a workflow: exactly one of ``uses``, ``parallel``, ``choose`` and ``workflow``.

    Attributes:
        id: Its key under ``steps`` or ``finally``.
            uses: Name of the executor; empty for the other kinds.
        with_: Inputs of the executor or of the subflow, whose texts may hold expressions; or one expression for all of them.
        needs: Steps that come first, as written; references imply more.
        when: Bare source of the condition, or None.
        foreach: A list or a text that is one expression, or None.
        as_: Name of the item within a ``foreach``.
        max_parallel: Most items at once.
        clients: Need -> name of the client.
        timeout_s: Deadline of one attempt.
        retry: How failed attempts are repeated; None takes the workflow's default.
        on_error: None takes the workflow's.
        isolation: ``inline``, ``process``, or limits of a process; None takes the workflow's default, then the executor's.
        concurrency: The slots that its calls need.
        priority: Of its calls among those that are ready, and in line for slots; None takes the group's or workflow's.
        wait: What it waits for instead of using an executor.
        cache: How its outputs are kept for later calls.
        rate_limit: How often its calls may be made.
        needs_rule: Which of its needs must have succeeded.
        batch: Items of a ``foreach`` that are handed over together, as a list.
        max_failures: Failed items, or percent of the items, that a ``foreach`` bears.
        on_interrupt: What is done with a call whose process went away; None leaves it to the executor.
        fallback: What is tried, in order, when the executor has finally failed.
        compensate: What undoes the step when the run fails later.
        parallel: Steps that form one.
        choose: The branches by id, in the order of declaration; one of them is taken.
        workflow: A subflow: a path that begins with ``.`` or ``/``, or ``NAME`` or ``NAME@RANGE``.
        budget: What it may use up of what is around it.
    """

    id: str
    uses: str = ""
    with_: Mapping[str, Json] | str = attrs.field(factory=dict)
    needs: tuple[str, ...] = ()
    when: str | None = None
    foreach: Json | None = None
    as_: str = "item"
    max_parallel: int | None = None
    clients: Mapping[str, str] = attrs.field(factory=dict)
    timeout_s: float | None = None
    retry: RetryPolicy | None = None
    on_error: OnError | None = None
    isolation: Json = None
    wait: Wait | None = None
    cache: StepCache | None = None
    rate_limit: StepRate | None = None
    needs_rule: NeedsRule = "all_succeeded"
    batch: int | None = None
    max_failures: int | str | None = None
    on_interrupt: OnInterrupt | None = None
    fallback: tuple[Body, ...] = ()
    compensate: Body | None = None
    parallel: Parallel | None = None
    choose: dict[str, Branch] | None = None
    workflow: str = ""
    budget: Budget | None = None
    concurrency: Concurrency | None = None
    priority: int | None = None

    def to_dict(self) -> dict[str, Json]:
        """Plain data that reads back the same, without the id."""
        bodies = [body.to_dict() for body in self.fallback]
        data: dict[str, Json] = {
            "uses": self.uses or None,
            "wait": None if self.wait is None else copied(self.wait.to_data()),
            "parallel": self.parallel and self.parallel.to_dict(),
            "choose": self.choose and {name: branch.to_dict() for name, branch in self.choose.items()},
            "workflow": self.workflow or None,
            "with": copied(self.with_),
            "needs": list(self.needs),
            "needs_rule": None if self.needs_rule == "all_succeeded" else self.needs_rule,
            "when": self.when,
            "foreach": copied(self.foreach),
            "as": None if self.as_ == "item" else self.as_,
            "batch": self.batch,
            "max_parallel": self.max_parallel,
            "max_failures": self.max_failures,
            "clients": dict(self.clients),
            "retry": None if self.retry is None else retry_data(self.retry),
            "timeout": None if self.timeout_s is None else duration_data(self.timeout_s),
            "isolation": copied(self.isolation),
            "cache": None if self.cache is None else copied(self.cache.to_data()),
            "rate_limit": None if self.rate_limit is None else copied(self.rate_limit.to_data()),
            "budget": None if self.budget is None else budget_data(self.budget),
            "concurrency": None if self.concurrency is None else copied(self.concurrency.to_data()),
            "priority": self.priority,
            "on_interrupt": self.on_interrupt,
            "on_error": self.on_error,
            "fallback": bodies[0] if len(bodies) == 1 else bodies,
            "compensate": self.compensate and self.compensate.to_dict(),
        }
        # A foreach over an empty list is no step without a foreach, and an empty cache no step without one.
        kept = ("foreach", "cache")
        return {key: value for key, value in data.items() if value is not None and (value not in ([], {}) or key in kept)}


def copied(value: Json) -> Json:
    """Plain data in new containers, so that nobody who changes it changes the workflow."""
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def duration_data(seconds: float) -> Json:
    """A duration as people write it, when that reads back the same; else the number of seconds."""
    text = format_duration(seconds)
    return text if parse_duration(text) == seconds else seconds


def retry_data(policy: RetryPolicy) -> dict[str, Json]:
    """A retry policy as the file has it: ``max_attempts``, and what differs from what that alone means."""
    data: dict[str, Json] = {"max_attempts": policy.max_attempts}
    plain = parse_retry(data)
    # Explicit delays stand instead of the formula: the file may not have both.
    formula = ("base", "factor", "max_delay") if policy.delays_s is None else ()
    for name in (*formula, "jitter", "retry_on", "no_retry_on", "on_invalid"):
        field = f"{name}_s" if name in ("base", "max_delay") else name
        value = getattr(policy, field)
        if value != getattr(plain, field):
            data[name] = duration_data(value) if field.endswith("_s") else list(value) if isinstance(value, tuple) else value
    if policy.delays_s is not None:
        data["delays"] = [duration_data(delay) for delay in policy.delays_s]
    return data
