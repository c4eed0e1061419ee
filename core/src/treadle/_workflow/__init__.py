"""A workflow: the value behind YAML, JSON, TOML and Python, and the builder for the last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from treadle._models import Json
from treadle._schema import WORKFLOW, Table
from treadle._workflow._builder import Expression, StepHandle, written
from treadle._workflow._documents import write_toml, write_yaml
from treadle._workflow._reader import Reader, TooManyFaults, fits, suggestion
from treadle._workflow._records import Defaults, InputSpec, OnError, Step, copied
from treadle.errors import Fault, WorkflowInvalidError

__all__ = ["Defaults", "Expression", "InputSpec", "Positions", "Step", "StepHandle", "Workflow", "fits"]


class Positions(Protocol):
    """Where things are in the text that a workflow was read from."""

    def find(self, path: str) -> tuple[int, int]:
        """Line and column of a path like ``steps.page.with.url``, from 1; ``(0, 0)`` when it is not there."""


class Workflow:
    """Steps and what binds them. Build one with ``step``, or read one with ``from_dict``.

    Attributes:
        name: Shown in runs and traces.
        version: A text; empty when not given.
        description: What it is for.
        labels: Free names with texts.
        inputs: What a run is given.
        secrets: Names of the secrets that steps may take.
        defaults: What holds for every step that says nothing else.
        engine: Name of the engine; empty leaves it to the configuration.
        store: Name of the store; empty leaves it to the configuration.
        max_parallel: Most calls at once; None is the default of 10.
        on_error: ``stop`` or ``continue``, after a failed step.
        max_failures: Failed steps, or percent of the steps, that ``continue`` bears; None for any number.
        steps: By id.
        finally_steps: Steps that run after all others, whatever happened.
        outputs: What the run answers; texts may hold expressions.
        syntax: ``braces`` when ``{{ }}`` holds expressions too; else empty.
        file: Where it was read from; empty for Python.
    """

    name: str
    version: str
    description: str
    labels: dict[str, str]
    inputs: dict[str, InputSpec]
    secrets: tuple[str, ...]
    defaults: Defaults
    engine: str
    store: str
    max_parallel: int | None
    on_error: OnError
    max_failures: int | str | None
    steps: dict[str, Step]
    finally_steps: dict[str, Step]
    outputs: dict[str, Json]
    syntax: str
    file: str
    _positions: Positions | None

    def __init__(
        self,
        name: str,
        *,
        version: str = "",
        description: str = "",
        labels: Mapping[str, str] | None = None,
        inputs: Mapping[str, Mapping[str, Json]] | None = None,
        secrets: Iterable[str] = (),
        timeout: str | float | None = None,
        retry: Json | None = None,
        engine: str = "",
        store: str = "",
        max_parallel: int | None = None,
        on_error: str = "stop",
        max_failures: int | str | None = None,
    ) -> None:
        """A workflow without steps.

        Args:
            name: Shown in runs and traces.
            version: Any text.
            description: What it is for.
            labels: Free names with texts.
            inputs: Name -> ``{"type": ..., "default": ...}`` as in a file; see also ``input``.
            secrets: Names of secrets; see also ``secret``.
            timeout: Default deadline of one attempt: seconds, or a text like ``90s``.
            retry: Default for repeating failed attempts: a mapping as in a file.
            engine: Name of the engine.
            store: Name of the store.
            max_parallel: Most calls at once.
            on_error: ``stop`` or ``continue``.
            max_failures: A number of steps, or a percent like ``25%``.

        Raises:
            WorkflowInvalidError: With every fault of these values.
        """
        defaults = _without_none({"timeout": timeout, "retry": retry})
        data = {
            "name": name,
            "version": version or None,
            "description": description or None,
            "labels": labels,
            "inputs": written(inputs),
            "secrets": list(secrets),
            "defaults": defaults or None,
            "engine": engine or None,
            "store": store or None,
            "max_parallel": max_parallel,
            "on_error": on_error,
            "max_failures": max_failures,
        }
        reader = Reader()
        self._fill(reader, {**_without_none(data), "steps": {}}, file="", positions=None)
        self._raise(reader.faults)

    @classmethod
    def from_dict(
        cls, data: object, *, file: str = "", positions: Positions | None = None, faults: Sequence[Fault] = ()
    ) -> Workflow:
        """Read a workflow from plain data, spelled as in a file.

        Args:
            data: A mapping; it is copied.
            file: Name of the file, for the faults.
            positions: Where things are in the file.
            faults: What was found already, reported together with the rest.

        Raises:
            WorkflowInvalidError: With every structural fault, each with its path and place.
        """
        workflow = cls.__new__(cls)
        reader = Reader(file=file, position=positions.find if positions else lambda path: (0, 0), faults=faults)
        try:
            workflow._fill(reader, data, file=file, positions=positions)
            workflow._check_steps(reader, data)
        except TooManyFaults:
            reader.faults.append(Fault("there are more faults than these", file=file))
        workflow._raise(reader.faults)
        return workflow

    def _fill(self, reader: Reader, data: object, *, file: str, positions: Positions | None) -> None:
        if isinstance(data, Mapping):
            # Both decide how the rest is read, wherever they stand.
            reader.braces = data.get("syntax") == "braces"
            secrets = data.get("secrets")
            named = secrets if isinstance(secrets, list | tuple) else ()
            reader.secret_names = tuple(name for name in named if isinstance(name, str))
        self.name, self.file, self._positions = "", file, positions
        read = reader.mapping("", data, WORKFLOW)
        # The readers made each value of its attribute's type; a fault leaves its key out.
        self.__dict__.update(
            name=read.get("name", ""),
            version=read.get("version", ""),
            description=read.get("description", ""),
            labels=read.get("labels", {}),
            inputs=read.get("inputs", {}),
            secrets=read.get("secrets", ()),
            defaults=read.get("defaults", Defaults()),
            engine=read.get("engine", ""),
            store=read.get("store", ""),
            max_parallel=read.get("max_parallel"),
            on_error=read.get("on_error", "stop"),
            max_failures=read.get("max_failures"),
            steps=read.get("steps", {}),
            finally_steps=read.get("finally", {}),
            outputs=read.get("outputs", {}),
            syntax=read.get("syntax", ""),
        )

    def _check_steps(self, reader: Reader, data: object) -> None:
        """What takes a look at several steps at once."""
        steps = data.get("steps") if isinstance(data, Mapping) else None
        if isinstance(steps, Mapping) and not steps:
            reader.fault("steps", "a workflow needs at least one step")
        for step_id in self.finally_steps.keys() & self.steps.keys():
            reader.fault(f"finally.{step_id}", f"the id {step_id!r} is taken by a step", "rename one of the two")
        for place, group, other in (("steps", self.steps, self.finally_steps), ("finally", self.finally_steps, self.steps)):
            for step in group.values():
                _check_needs(reader, f"{place}.{step.id}.needs", step, group, other)

    def _raise(self, faults: Sequence[Fault]) -> None:
        if faults:
            ordered = sorted(faults, key=lambda fault: (not fault.line, fault.line, fault.column))
            raise WorkflowInvalidError(ordered, name=self.name)

    # as plain data

    def to_dict(self) -> dict[str, Json]:
        """Plain data in canonical form: only what differs from the defaults, in the order of the schema."""
        data: dict[str, Json] = {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "labels": dict(self.labels),
            "syntax": self.syntax,
            "inputs": {name: spec.to_dict() for name, spec in self.inputs.items()},
            "secrets": list(self.secrets),
            "defaults": self.defaults.to_dict(),
            "engine": self.engine,
            "store": self.store,
            "max_parallel": self.max_parallel,
            "on_error": "" if self.on_error == "stop" else self.on_error,
            "max_failures": self.max_failures,
            "steps": {step.id: step.to_dict() for step in self.steps.values()},
            "finally": {step.id: step.to_dict() for step in self.finally_steps.values()},
            "outputs": copied(self.outputs),
        }
        # max_failures: 0 says something, so only None, empty texts and empty collections are left out.
        return {key: value for key, value in data.items() if value is not None and value not in ("", [], {})}

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical form: equal for every spelling of the same workflow."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> str:
        """The canonical form as JSON, indented."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_yaml(self) -> str:
        """The canonical form as YAML."""
        return write_yaml(self.to_dict())

    def to_toml(self) -> str:
        """The canonical form as TOML.

        Raises:
            NotSupportedError: It holds a null, which TOML cannot say, or ``tomli-w`` is not installed.
        """
        return write_toml(self.to_dict())

    def position(self, path: str) -> tuple[int, int]:
        """Line and column of a path like ``steps.page.with.url`` in the file, from 1; ``(0, 0)`` when unknown."""
        return self._positions.find(path) if self._positions else (0, 0)

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if isinstance(other, Workflow) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # a workflow grows while it is built

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r}, {len(self.steps)} steps>"

    # the builder

    def input(
        self, name: str, *, type: str = "", default: Json = None, required: bool | None = None, description: str = ""
    ) -> Expression:
        """Declare an input and get the expression that stands for its value.

        Args:
            name: Letters, digits and ``_``.
            type: A JSON type: string, integer, number, boolean, array, object; empty takes anything.
            default: Its value when a run is not given it.
            required: Whether a run must be given it; None: exactly when there is no default.
            description: What it is for.

        Raises:
            WorkflowInvalidError: Something about it is wrong, or the name is taken.
        """
        data = {"type": type or None, "default": default, "required": required, "description": description or None}
        reader = Reader()
        _refuse_double(reader, "inputs", name, self.inputs)
        read = reader.mapping("", {"inputs": {name: _without_none(data)}}, _only("inputs"))
        self._raise(reader.faults)
        self.inputs.update(read["inputs"])  # type: ignore[call-overload] # READERS made it a dict
        return Expression("inputs")[name]

    def secret(self, name: str) -> Expression:
        """Declare a secret and get the expression that stands for it; only inputs of steps may take it, and only alone."""
        reader = Reader()
        read = reader.mapping("", {"secrets": [*self.secrets, name]}, _only("secrets"))
        self._raise(reader.faults)
        self.__dict__.update(read)
        return Expression("secrets")[name]

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
        on_error: str | None = None,
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
            retry: A mapping as in a file, or a number of attempts.
            isolation: ``process``, limits of a process as in a file, or ``inline``.
            cache: Keep the output for later calls, as in a file: ``{"ttl": "1h"}``.
            rate_limit: How often its calls may be made, as in a file: ``{"limit": 30, "per": "minute"}``.
            on_error: ``stop`` or ``continue``.
            with_: Inputs whose names are taken by the arguments above; or one expression for all inputs.
            **inputs: Inputs of the executor; values may hold expressions.

        Raises:
            WorkflowInvalidError: With every fault of the step.
        """
        return self._add(
            self.steps,
            "steps",
            id,
            {
                "uses": uses,
                "with": _inputs(with_, inputs),
                "needs": [need.id if isinstance(need, StepHandle) else need for need in _listed(needs)] or None,
                "when": when._source if isinstance(when, Expression) else when,
                "foreach": foreach,
                "as": as_,
                "max_parallel": max_parallel,
                "clients": clients,
                "timeout": timeout,
                "retry": retry,
                "isolation": isolation,
                "cache": cache,
                "rate_limit": rate_limit,
                "on_error": on_error,
            },
        )

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
        when: str | bool | Expression | None = None,
        on_error: str | None = None,
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
            when: Condition; the step is skipped when it is false.
            on_error: ``stop`` or ``continue``.

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
        return self._add(
            self.steps,
            "steps",
            id,
            {
                "wait": _without_none(waits),
                "needs": [need.id if isinstance(need, StepHandle) else need for need in _listed(needs)] or None,
                "when": when._source if isinstance(when, Expression) else when,
                "on_error": on_error,
            },
        )

    def finally_step(
        self,
        id: str,
        uses: str,
        /,
        *,
        needs: Iterable[str | StepHandle] = (),
        when: str | bool | Expression | None = None,
        clients: Mapping[str, str] | None = None,
        timeout: str | float | None = None,
        retry: Json | None = None,
        isolation: Json | None = None,
        on_error: str | None = None,
        with_: Mapping[str, object] | Expression | str | None = None,
        **inputs: object,
    ) -> StepHandle:
        """Add a step that always runs, after all others; the arguments are those of ``step``."""
        return self._add(
            self.finally_steps,
            "finally",
            id,
            {
                "uses": uses,
                "with": _inputs(with_, inputs),
                "needs": [need.id if isinstance(need, StepHandle) else need for need in _listed(needs)] or None,
                "when": when._source if isinstance(when, Expression) else when,
                "clients": clients,
                "timeout": timeout,
                "retry": retry,
                "isolation": isolation,
                "on_error": on_error,
            },
        )

    def _add(self, group: dict[str, Step], place: str, step_id: str, data: Mapping[str, object]) -> StepHandle:
        reader = Reader(secrets=self.secrets, braces=self.syntax == "braces")
        _refuse_double(reader, place, step_id, self.steps.keys() | self.finally_steps.keys())
        read = reader.mapping("", {place: {step_id: written(_without_none(data))}}, _only(place))
        self._raise(reader.faults)
        group.update(read[place])  # type: ignore[call-overload] # READERS made it a dict
        return StepHandle(step_id)

    def output(self, name: str, value: object) -> None:
        """Declare what a run answers under a name; the value may hold expressions."""
        reader = Reader(braces=self.syntax == "braces")
        _refuse_double(reader, "outputs", name, self.outputs)
        read = reader.mapping("", {"outputs": {name: written(value)}}, _only("outputs"))
        self._raise(reader.faults)
        self.outputs.update(read["outputs"])  # type: ignore[call-overload] # READERS made it a dict


def _only(key: str) -> Table:
    """The table of a workflow with one key: what the builder adds is read as a file's is."""
    return Table(WORKFLOW.what, {key: WORKFLOW.keys[key]})


def _inputs(with_: Mapping[str, object] | Expression | str | None, inputs: Mapping[str, object]) -> object:
    """What stands under ``with``."""
    if isinstance(with_, Mapping) or with_ is None:
        return {**(with_ or {}), **inputs} or None
    if inputs:
        raise TypeError(f"with_ is one expression for all inputs, so {', '.join(inputs)} cannot be given. Merge them into it.")
    return with_


def _without_none(data: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in data.items() if value is not None}


def _listed(needs: Iterable[str | StepHandle]) -> Iterable[str | StepHandle]:
    return [needs] if isinstance(needs, str | StepHandle) else needs


def _refuse_double(reader: Reader, place: str, name: str, taken: Iterable[str]) -> None:
    if name in taken:
        reader.fault(f"{place}.{name}", f"{name!r} is declared already", "choose another name")


def _check_needs(reader: Reader, path: str, step: Step, group: Mapping[str, Step], other: Mapping[str, Step]) -> None:
    for need in step.needs:
        if need in group:
            continue
        if need in other:
            remedy = "finally steps run after all others by themselves" if path.startswith("finally") else "leave it out"
            reader.fault(path, f"{need!r} is on the other side of 'finally'", remedy)
        else:
            reader.fault(path, f"there is no step {need!r}", suggestion(need, group) or f"steps: {', '.join(list(group)[:10])}")
