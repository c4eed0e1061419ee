"""The objects that the Python builder hands out: they stand for values of a later run and are written as ``${{ }}``."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from treadle._models import Json
from treadle._workflow._reader import Reader
from treadle._workflow._records import Step
from treadle.errors import WorkflowInvalidError


class Built(Protocol):
    """A workflow, as far as the builder needs to know it."""

    name: str

    def to_dict(self) -> dict[str, Json]:
        """Plain data in canonical form."""


class _Root(Built, Protocol):
    def _reader(self) -> Reader: ...

    def _enclose(self, name: str, workflow: Built) -> None: ...


class Expression:
    """A value of a later run: ``step.output.stdout``, ``inputs.sites``.

    Attributes and items look further into it, comparisons and ``& | ~`` make conditions, ``str()`` and f-strings give the
    text ``${{ ... }}``. A key that starts with ``_`` or is no name is taken with ``[...]``.
    """

    __slots__ = ("_is_look_up", "_source")
    __hash__ = None  # type: ignore[assignment] # == makes an expression, so there is no equality to hash by
    __iter__ = None  # without it, Python would iterate by asking for [0], [1] ... for ever
    __contains__ = None

    def __init__(self, source: str, *, is_look_up: bool = True) -> None:
        self._source, self._is_look_up = source, is_look_up

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("_"):
            raise AttributeError(name)
        return Expression(f"{self._operand()}.{name}")

    def __getitem__(self, key: str | int | Expression) -> Expression:
        if isinstance(key, str) and key.isascii() and key.isidentifier():
            return Expression(f"{self._operand()}.{key}")
        return Expression(f"{self._operand()}[{source_of(key)}]")

    def __str__(self) -> str:
        return f"${{{{ {self._source} }}}}"

    def __format__(self, spec: str) -> str:
        if spec:
            raise ValueError(f"{self} has no value yet, so it cannot be formatted with {spec!r}")
        return str(self)

    def __repr__(self) -> str:
        return f"<expression {self._source}>"

    def __bool__(self) -> bool:
        raise TypeError(f"{self} has no value yet. Use & | ~ for a condition, and 'when=' instead of 'if'.")

    def _operand(self) -> str:
        return self._source if self._is_look_up else f"({self._source})"

    def _with(self, sign: str, other: object) -> Expression:
        right = other._operand() if isinstance(other, Expression) else source_of(other)
        return Expression(f"{self._operand()} {sign} {right}", is_look_up=False)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override] # it makes a condition, as in SQLAlchemy
        return self._with("==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override] # it makes a condition, as in SQLAlchemy
        return self._with("!=", other)

    def __lt__(self, other: object) -> Expression:
        return self._with("<", other)

    def __le__(self, other: object) -> Expression:
        return self._with("<=", other)

    def __gt__(self, other: object) -> Expression:
        return self._with(">", other)

    def __ge__(self, other: object) -> Expression:
        return self._with(">=", other)

    def __and__(self, other: object) -> Expression:
        return self._with("and", other)

    def __or__(self, other: object) -> Expression:
        return self._with("or", other)

    def __invert__(self) -> Expression:
        return Expression(f"not {self._operand()}", is_look_up=False)


class StepHandle:
    """A step that was declared: put it into ``needs``, or its ``output`` and ``status`` into other steps' inputs."""

    __slots__ = ("_look_up", "id")

    def __init__(self, step_id: str) -> None:
        self.id = step_id
        self._look_up = Expression("steps")[step_id]

    @property
    def output(self) -> Expression:
        """What its executor answered; null when it was skipped, a list for a ``foreach``."""
        return self._look_up.output

    @property
    def status(self) -> Expression:
        """Its final state, like ``completed`` or ``skipped``."""
        return self._look_up.status

    @property
    def error(self) -> Expression:
        """The last attempt's error, or null."""
        return self._look_up.error

    @property
    def errors(self) -> Expression:
        """The errors of a ``foreach``, one for each item."""
        return self._look_up.errors

    @property
    def attempts(self) -> Expression:
        """How many were made."""
        return self._look_up.attempts

    @property
    def branch(self) -> Expression:
        """Of a choice: the id of the branch that was taken, or null."""
        return self._look_up.branch

    def __repr__(self) -> str:
        return f"<step {self.id}>"


class Use:
    """What stands in for a step's executor or undoes it, for ``fallback=`` and ``compensate=``.

    Args:
        uses: Name of the executor.
        clients: Need -> name of the client.
        timeout: Deadline of one attempt: seconds, or a text like ``90s``.
        retry: A mapping as in a file.
        isolation: ``process``, limits of a process as in a file, or ``inline``.
        with_: Inputs whose names are taken by the arguments above; or one expression for all inputs.
        **inputs: Inputs of the executor; values may hold expressions.
    """

    def __init__(
        self,
        uses: str,
        /,
        *,
        clients: Mapping[str, str] | None = None,
        timeout: str | float | None = None,
        retry: Json | None = None,
        isolation: Json | None = None,
        with_: Mapping[str, object] | Expression | str | None = None,
        **inputs: object,
    ) -> None:
        data = {"uses": uses, "with": all_inputs(with_, inputs), "clients": clients, "timeout": timeout}
        self._data = without_none({**data, "retry": retry, "isolation": isolation})

    def __repr__(self) -> str:
        return f"<use of {self._data['uses']}>"


Bodies = Use | Mapping[str, object] | Sequence["Use | Mapping[str, object]"]
"""One body or several: as ``Use``, or mappings as in a file."""


class StepsBuilder(ABC):
    """What steps can be added to: a workflow, a parallel group, or the branches of a choice."""

    def step(
        self,
        id: str,
        uses: str,
        /,
        *,
        needs: Iterable[str | StepHandle] = (),
        when: str | bool | Expression | None = None,
        foreach: Json | Expression | None = None,
        as_: str | None = None,
        max_parallel: int | None = None,
        clients: Mapping[str, str] | None = None,
        timeout: str | float | None = None,
        retry: Json | None = None,
        isolation: Json | None = None,
        cache: Mapping[str, object] | None = None,
        rate_limit: Mapping[str, object] | None = None,
        budget: Mapping[str, Json] | None = None,
        on_error: str | None = None,
        needs_rule: str | None = None,
        batch: int | None = None,
        max_failures: int | str | None = None,
        on_interrupt: str | None = None,
        fallback: Bodies | None = None,
        compensate: Use | Mapping[str, object] | None = None,
        priority: int | None = None,
        concurrency: str | Mapping[str, Json] | None = None,
        else_: bool | None = None,
        with_: Mapping[str, object] | Expression | str | None = None,
        **inputs: object,
    ) -> StepHandle:
        """Add a step and get its handle.

        Args:
            id: Unique among the steps.
            uses: Name of the executor.
            needs: Steps that come first; what inputs refer to need not be named.
            when: Condition; the step is skipped when it is false.
            foreach: A list or an expression for one: the step runs once for each item.
            as_: Name of the item in expressions; ``item`` unless given.
            max_parallel: Most items at once.
            clients: Need -> name of the client.
            timeout: Deadline of one attempt: seconds, or a text like ``90s``.
            retry: A mapping as in a file.
            isolation: ``process``, limits of a process as in a file, or ``inline``.
            cache: Keep the output for later calls, as in a file: ``{"ttl": "1h"}``.
            rate_limit: How often its calls may be made, as in a file: ``{"limit": 30, "per": "minute"}``.
            budget: What it may use up, as in a file: ``{"cost": "0.50"}``.
            on_error: ``stop`` or ``continue``.
            needs_rule: ``all_succeeded``, ``all_done`` or ``any_succeeded``.
            batch: Items that are handed over together, as a list.
            max_failures: Failed items, or a percent like ``25%``, that a ``foreach`` bears.
            on_interrupt: ``rerun``, ``fail`` or ``ask``: what is done with a call whose process went away.
            fallback: What is tried when the executor has finally failed: one ``Use`` or several in order.
            compensate: What undoes the step when the run fails later.
            priority: Of its calls among those that are ready: higher ones first. Of a branch of a choice: the highest is asked
                first.
            concurrency: A slot that each of its calls needs: the name of a group, or ``{"group": ..., "limit": ...}``.
            else_: Of a branch of a choice: taken when no condition is true.
            with_: Inputs whose names are taken by the arguments above; or one expression for all inputs.
            **inputs: Inputs of the executor; values may hold expressions.

        Raises:
            WorkflowInvalidError: With every fault of the step.
        """
        self._declare(
            id,
            {
                "uses": uses,
                "with": all_inputs(with_, inputs),
                "needs": needs_of(needs),
                "needs_rule": needs_rule,
                "when": condition_of(when),
                "foreach": foreach,
                "as": as_,
                "batch": batch,
                "max_parallel": max_parallel,
                "max_failures": max_failures,
                "clients": clients,
                "timeout": timeout,
                "retry": retry,
                "isolation": isolation,
                "cache": cache,
                "rate_limit": rate_limit,
                "budget": budget,
                "on_error": on_error,
                "on_interrupt": on_interrupt,
                "fallback": fallback,
                "compensate": compensate,
                "priority": priority,
                "concurrency": concurrency,
                "else": else_,
            },
        )
        return StepHandle(id)

    def wait(
        self,
        id: str,
        /,
        duration: str | float | Expression | None = None,
        *,
        until: str | float | Expression | None = None,
        signal: str | Expression | None = None,
        schema: Json | None = None,
        timeout: str | float | Expression | None = None,
        on_timeout: str | None = None,
        default: Json | Expression | None = None,
        on_reject: str | None = None,
        needs: Iterable[str | StepHandle] = (),
        needs_rule: str | None = None,
        when: str | bool | Expression | None = None,
        foreach: Json | Expression | None = None,
        as_: str | None = None,
        batch: int | None = None,
        max_parallel: int | None = None,
        max_failures: int | str | None = None,
        on_error: str | None = None,
        priority: int | None = None,
        else_: bool | None = None,
    ) -> StepHandle:
        """Add a step that waits for a time or a signal, and get its handle.

        Its output is the signal's payload, or the time at which the wait was over. While it waits it holds no slot of
        ``max_parallel``.

        Args:
            id: Unique among the steps.
            duration: So long: seconds, or a text like ``5m``.
            until: Until this moment: ISO 8601 with its offset from UTC, or seconds since the epoch.
            signal: For a signal of this name.
            schema: JSON Schema of its payload, or ``approval``.
            timeout: Longest wait for the signal.
            on_timeout: What becomes of the step then: ``fail`` (the default), ``skip`` or ``continue``.
            default: Its output then, with ``continue``.
            on_reject: What becomes of it when an approval says no: ``fail`` (the default) or ``continue``.
            needs: Steps that come first.
            needs_rule: As for ``step``.
            when: Condition; the step is skipped when it is false.
            foreach: A list or an expression for one: each item waits for its own time or signal.
            as_: Name of the item in expressions.
            batch: Items per shard.
            max_parallel: Items that wait at once; all of them when None.
            max_failures: As for ``step``.
            on_error: ``stop`` or ``continue``.
            priority: As for ``step``.
            else_: As for ``step``.

        Raises:
            WorkflowInvalidError: With every fault of the step.
        """
        waits = {
            "duration": duration,
            "until": until,
            "signal": signal,
            "schema": schema,
            "timeout": timeout,
            "on_timeout": on_timeout,
            "default": default,
            "on_reject": on_reject,
        }
        self._declare(
            id,
            {
                "wait": without_none(waits),
                "needs": needs_of(needs),
                "needs_rule": needs_rule,
                "when": condition_of(when),
                "foreach": foreach,
                "as": as_,
                "batch": batch,
                "max_parallel": max_parallel,
                "max_failures": max_failures,
                "on_error": on_error,
                "priority": priority,
                "else": else_,
            },
        )
        return StepHandle(id)

    def parallel(
        self,
        id: str,
        /,
        *,
        on_error: str | None = None,
        max_failures: int | str | None = None,
        max_parallel: int | None = None,
        timeout: str | float | None = None,
        needs: Iterable[str | StepHandle] = (),
        needs_rule: str | None = None,
        when: str | bool | Expression | None = None,
        foreach: Json | Expression | None = None,
        as_: str | None = None,
        batch: int | None = None,
        max_items: int | None = None,
        max_failed_items: int | str | None = None,
        on_group_error: str | None = None,
        compensate: Use | Mapping[str, object] | None = None,
        budget: Mapping[str, Json] | None = None,
        priority: int | None = None,
        else_: bool | None = None,
    ) -> GroupHandle:
        """Add a group of steps that run side by side; add its steps to what this answers.

        Args:
            id: Unique among the steps.
            on_error: What a failed step of the group means for the others: ``stop`` or ``continue``.
            max_failures: Failed steps of the group that are borne.
            max_parallel: Most calls of the group at once.
            timeout: How long the group may take.
            needs: As for ``step``.
            needs_rule: As for ``step``.
            when: As for ``step``.
            foreach: The whole group runs once for each item.
            as_: As for ``step``.
            batch: As for ``step``.
            max_items: Most items of the ``foreach`` at once.
            max_failed_items: Failed items that are borne.
            on_group_error: What the group's failure means outside of it.
            compensate: As for ``step``.
            budget: As for ``step``; its steps share it.
            priority: As for ``step``.
            else_: As for ``step``.

        Raises:
            WorkflowInvalidError: With every fault of it.
        """
        inside = {"on_error": on_error, "max_failures": max_failures, "max_parallel": max_parallel, "timeout": timeout}
        data = _group_data(
            needs, needs_rule, when, foreach, as_, batch, max_items, max_failed_items, on_group_error, compensate
        )
        data |= {"priority": priority, "else": else_, "budget": budget}
        step = self._declare(id, {**data, "parallel": {"steps": {}, **without_none(inside)}})
        return GroupHandle(self, step)

    def choose(
        self,
        id: str,
        /,
        *,
        timeout: str | float | None = None,
        needs: Iterable[str | StepHandle] = (),
        needs_rule: str | None = None,
        when: str | bool | Expression | None = None,
        foreach: Json | Expression | None = None,
        as_: str | None = None,
        batch: int | None = None,
        max_items: int | None = None,
        max_failed_items: int | str | None = None,
        on_error: str | None = None,
        compensate: Use | Mapping[str, object] | None = None,
        budget: Mapping[str, Json] | None = None,
        priority: int | None = None,
        else_: bool | None = None,
    ) -> GroupHandle:
        """Add a choice; add its branches to what this answers, each with ``when=`` or ``else_=True``.

        The first branch whose condition is true is taken: the highest ``priority=`` first, then in the order of declaration.
        The other arguments are those of ``parallel``; ``on_error`` is that of the choice.
        """
        data = _group_data(needs, needs_rule, when, foreach, as_, batch, max_items, max_failed_items, on_error, compensate)
        data |= {"priority": priority, "else": else_, "timeout": timeout, "budget": budget}
        return GroupHandle(self, self._declare(id, {**data, "choose": {}}))

    def subflow(
        self,
        id: str,
        workflow: str | Built,
        /,
        *,
        timeout: str | float | None = None,
        needs: Iterable[str | StepHandle] = (),
        needs_rule: str | None = None,
        when: str | bool | Expression | None = None,
        foreach: Json | Expression | None = None,
        as_: str | None = None,
        batch: int | None = None,
        max_parallel: int | None = None,
        max_failures: int | str | None = None,
        on_error: str | None = None,
        compensate: Use | Mapping[str, object] | None = None,
        budget: Mapping[str, Json] | None = None,
        priority: int | None = None,
        else_: bool | None = None,
        with_: Mapping[str, object] | Expression | str | None = None,
        **inputs: object,
    ) -> StepHandle:
        """Add a step that runs another workflow.

        Args:
            id: Unique among the steps.
            workflow: A workflow, or as in a file: a path, a name, a name with versions. One that is passed is copied now.
            timeout: How long all of it may take.
            needs: As for ``step``, like the arguments up to ``else_``.
            needs_rule: As for ``step``.
            when: As for ``step``.
            foreach: As for ``step``.
            as_: As for ``step``.
            batch: As for ``step``.
            max_parallel: As for ``step``.
            max_failures: As for ``step``.
            on_error: As for ``step``.
            compensate: As for ``step``.
            budget: As for ``step``; its steps share it.
            priority: As for ``step``.
            else_: As for ``step``.
            with_: Inputs whose names are taken by the arguments above; or one expression for all inputs.
            **inputs: Inputs of the workflow; values may hold expressions.

        Raises:
            WorkflowInvalidError: With every fault of it.
        """
        data = _group_data(needs, needs_rule, when, foreach, as_, batch, max_parallel, max_failures, on_error, compensate)
        data |= {"priority": priority, "else": else_, "timeout": timeout, "budget": budget}
        data["with"] = all_inputs(with_, inputs)
        name = workflow if isinstance(workflow, str) else workflow.name
        if not isinstance(workflow, str):
            self._root()._enclose(name, workflow)
        self._declare(id, {**data, "workflow": name})
        return StepHandle(id)

    @abstractmethod
    def _declare(self, step_id: str, data: Mapping[str, object]) -> Step:
        """Read a step from data as in a file, and keep it."""

    @abstractmethod
    def _root(self) -> _Root:
        """The workflow that all of it belongs to."""

    @abstractmethod
    def _taken(self) -> set[str]:
        """Ids that steps within cannot have."""


class GroupHandle(StepHandle, StepsBuilder):
    """A group that was declared: add steps to it, and refer to it as to any step."""

    __slots__ = ("_around", "_step")

    def __init__(self, around: StepsBuilder, step: Step) -> None:
        super().__init__(step.id)
        self._around, self._step = around, step

    def _declare(self, step_id: str, data: Mapping[str, object]) -> Step:
        reader = self._root()._reader()
        told = {step_id: written(without_none(data))}
        if step_id in self._taken():
            reader.fault(step_id, f"{step_id!r} is declared already", "choose another name")
        if self._step.choose is not None:
            branches = reader.choose("choose", told)
            self._check(reader)
            self._step.choose.update(branches)
            return branches[step_id].step
        assert self._step.parallel is not None, "a group is one of the two"
        steps = reader.steps("steps", told)
        self._check(reader)
        self._step.parallel.steps.update(steps)
        return steps[step_id]

    def _check(self, reader: Reader) -> None:
        if reader.faults:
            raise WorkflowInvalidError(reader.faults, name=self._root().name)

    def _root(self) -> _Root:
        return self._around._root()

    def _taken(self) -> set[str]:
        own = self._step.parallel.steps if self._step.parallel is not None else self._step.choose or {}
        return self._around._taken() | set(own)


def _group_data(
    needs: Iterable[str | StepHandle],
    needs_rule: str | None,
    when: str | bool | Expression | None,
    foreach: Json | Expression | None,
    as_: str | None,
    batch: int | None,
    max_parallel: int | None,
    max_failures: int | str | None,
    on_error: str | None,
    compensate: Use | Mapping[str, object] | None,
) -> dict[str, object]:
    """What every kind of step may say."""
    return {
        "needs": needs_of(needs),
        "needs_rule": needs_rule,
        "when": condition_of(when),
        "foreach": foreach,
        "as": as_,
        "batch": batch,
        "max_parallel": max_parallel,
        "max_failures": max_failures,
        "on_error": on_error,
        "compensate": compensate,
    }


def without_none(data: Mapping[str, object]) -> dict[str, object]:
    """The arguments that were given."""
    return {key: value for key, value in data.items() if value is not None}


def all_inputs(with_: Mapping[str, object] | Expression | str | None, inputs: Mapping[str, object]) -> object:
    """What stands under ``with``."""
    if isinstance(with_, Mapping) or with_ is None:
        return {**(with_ or {}), **inputs} or None
    if inputs:
        raise TypeError(f"with_ is one expression for all inputs, so {', '.join(inputs)} cannot be given. Merge them into it.")
    return with_


def needs_of(needs: Iterable[str | StepHandle]) -> list[str] | None:
    """The ids of steps that come first; None for none."""
    listed = [needs] if isinstance(needs, str | StepHandle) else needs
    return [need.id if isinstance(need, StepHandle) else need for need in listed] or None


def condition_of(when: str | bool | Expression | None) -> str | bool | None:
    """A condition as the file has it."""
    return when._source if isinstance(when, Expression) else when


def source_of(value: object) -> str:
    """A value as it is written within an expression."""
    if isinstance(value, Expression):
        return value._source
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{value!r} cannot stand in an expression: {error}") from None


def written(value: object) -> Json:
    """A value of the builder as the file has it: expressions become texts, tuples lists."""
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, Use):
        return written(value._data)
    if isinstance(value, StepHandle):
        raise TypeError(f"{value!r} is a step, not a value. Use its .output, or its .status.")
    if isinstance(value, Mapping):
        return {key: written(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [written(item) for item in value]
    return value
