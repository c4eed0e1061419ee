"""A workflow: the value behind YAML, JSON, TOML and Python, and the builder for the last."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import attrs

from treadle._budgets import Budget, budget_data
from treadle._models import Json
from treadle._schema import WORKFLOW, Table
from treadle._slots import Concurrency
from treadle._workflow._builder import (
    Built,
    Expression,
    GroupHandle,
    StepHandle,
    StepsBuilder,
    Use,
    all_inputs,
    condition_of,
    needs_of,
    without_none,
    written,
)
from treadle._workflow._documents import write_toml, write_yaml
from treadle._workflow._foreign import is_parallel_group, parallel_group
from treadle._workflow._reader import Reader, TooManyFaults, fits, suggestion
from treadle._workflow._records import Body, Branch, Defaults, InputSpec, OnError, Parallel, Step, copied, duration_data
from treadle.errors import Fault, WorkflowInvalidError

__all__ = [
    "Body",
    "Branch",
    "Defaults",
    "Expression",
    "GroupHandle",
    "InputSpec",
    "Parallel",
    "Positions",
    "Step",
    "StepHandle",
    "Use",
    "Workflow",
    "children_of",
    "fits",
    "is_parallel_group",
]

MAX_SUBFLOWS = 10
"""Subflows within each other."""


class Positions(Protocol):
    """Where things are in the text that a workflow was read from."""

    def find(self, path: str) -> tuple[int, int]:
        """Line and column of a path like ``steps.page.with.url``, from 1; ``(0, 0)`` when it is not there."""


@attrs.frozen
class _Within:
    """Where things are in a workflow that stands within another one's file."""

    positions: Positions
    place: str

    def find(self, path: str) -> tuple[int, int]:
        return self.positions.find(f"{self.place}.{path}" if path else self.place)


class Workflow(StepsBuilder):
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
        timeout_s: How long the whole run may take, ``finally`` aside; None for any time.
        max_retries: Retries of all steps together; None for any number.
        budget: What the run may use up; None for anything.
        concurrency: The slot that a run needs; None for none.
        priority: Of a run in line for slots, and of its steps' calls.
        outputs: What the run answers; texts may hold expressions.
        workflows: Subflows, by what steps call them. Those of files are not in it before the workflow is planned.
        syntax: ``braces`` when ``{{ }}`` holds expressions too; else empty.
        file: Where it was read from; empty for Python.
        place: Where it stands within another workflow's file, like ``workflows.post``; empty for a file of its own.
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
    timeout_s: float | None
    max_retries: int | None
    budget: Budget | None
    concurrency: Concurrency | None
    priority: int
    workflows: dict[str, Workflow]
    outputs: dict[str, Json]
    syntax: str
    file: str
    place: str
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
        run_timeout: str | float | None = None,
        max_retries: int | None = None,
        budget: Mapping[str, Json] | None = None,
        concurrency: str | Mapping[str, Json] | None = None,
        priority: int | None = None,
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
            run_timeout: How long the whole run may take.
            max_retries: Retries of all steps together.
            budget: What the run may use up, as in a file: ``{"cost": "0.50", "tokens": 20000}``.
            concurrency: A slot that each run needs: the name of a group, or ``{"group": ..., "limit": ...}``.
            priority: Of a run in line for slots, and of its steps' calls: higher ones first.

        Raises:
            WorkflowInvalidError: With every fault of these values.
        """
        defaults = without_none({"timeout": timeout, "retry": retry})
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
            "timeout": run_timeout,
            "max_retries": max_retries,
            "budget": written(budget),
            "concurrency": concurrency,
            "priority": priority,
        }
        reader = Reader()
        self._fill(reader, {**without_none(data), "steps": {}}, file="", positions=None)
        self._raise(reader.faults)

    @classmethod
    def from_dict(
        cls,
        data: object,
        *,
        file: str = "",
        positions: Positions | None = None,
        faults: Sequence[Fault] = (),
        _depth: int = 0,
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
            workflow._fill(reader, data, file=file, positions=positions, depth=_depth)
            workflow._check_steps(reader, data)
        except TooManyFaults:
            reader.faults.append(Fault("there are more faults than these", file=file))
        workflow._raise(reader.faults)
        return workflow

    @classmethod
    def from_parallel_group(cls, data: Mapping[str, object], *, file: str = "") -> Workflow:
        """Read a group of tasks as the layered executors write it.

        Args:
            data: ``{slug, executor_type: "parallel_group", config: {tasks: [{task_type, input}], fail_strategy}}``.
            file: Name of the file, for the faults.

        Raises:
            WorkflowInvalidError: With every fault.
        """
        document, faults = parallel_group(data)
        if faults:
            name = data.get("slug")
            raise WorkflowInvalidError([attrs.evolve(fault, file=file) for fault in faults], name=str(name or ""))
        return cls.from_dict(document, file=file)

    def _fill(self, reader: Reader, data: object, *, file: str, positions: Positions | None, depth: int = 0) -> None:
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
            timeout_s=read.get("timeout"),
            max_retries=read.get("max_retries"),
            budget=read.get("budget"),
            concurrency=read.get("concurrency"),
            priority=read.get("priority", 0),
            outputs=read.get("outputs", {}),
            workflows={},
            syntax=read.get("syntax", ""),
            place="",
        )
        embedded = read.get("workflows", {})
        for name, document in embedded.items() if isinstance(embedded, dict) else ():
            self._embed(reader, name, document, depth + 1)

    def _embed(self, reader: Reader, name: str, document: object, depth: int) -> None:
        """Read a subflow that stands in the workflow itself."""
        place = f"workflows.{name}"
        if depth > MAX_SUBFLOWS:
            reader.fault(place[:200], f"subflows are nested deeper than {MAX_SUBFLOWS} levels")
            return
        within = _Within(self._positions, place) if self._positions else None
        try:
            made = Workflow.from_dict(document, file=self.file, positions=within, _depth=depth)
            made.place = f"{self.place}.{place}" if self.place else place
            self.workflows[name] = made
        except WorkflowInvalidError as error:
            for fault in error.faults:
                reader.faults.append(attrs.evolve(fault, path=f"{place}.{fault.path}".rstrip(".")))

    def _check_steps(self, reader: Reader, data: object) -> None:
        """What takes a look at several steps at once."""
        steps = data.get("steps") if isinstance(data, Mapping) else None
        if isinstance(steps, Mapping) and not steps:
            reader.fault("steps", "a workflow needs at least one step")
        for step_id in self.finally_steps.keys() & self.steps.keys():
            reader.fault(f"finally.{step_id}", f"the id {step_id!r} is taken by a step", "rename one of the two")
        taken = (self.steps, self.finally_steps)
        for place, group, other in (("steps", self.steps, self.finally_steps), ("finally", self.finally_steps, self.steps)):
            for step in group.values():
                _check_needs(reader, f"{place}.{step.id}.needs", step, group, other)
                _check_children(reader, f"{place}.{step.id}", step, taken)

    def _raise(self, faults: Sequence[Fault]) -> None:
        if faults:
            ordered = sorted(faults, key=lambda fault: (not fault.line, fault.line, fault.column))
            raise WorkflowInvalidError(ordered, name=self.name, partial=self)

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
            "timeout": None if self.timeout_s is None else duration_data(self.timeout_s),
            "max_retries": self.max_retries,
            "budget": None if self.budget is None else budget_data(self.budget),
            "concurrency": None if self.concurrency is None else copied(self.concurrency.to_data()),
            "priority": self.priority or None,
            "outputs": copied(self.outputs),
            "workflows": {name: workflow.to_dict() for name, workflow in self.workflows.items()},
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

    def with_workflows(self, workflows: Mapping[str, Workflow]) -> Workflow:
        """The same workflow, with subflows that were found elsewhere."""
        made = copy.copy(self)
        made.workflows = dict(workflows)
        return made

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
        read = reader.mapping("", {"inputs": {name: without_none(data)}}, _only("inputs"))
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
        budget: Mapping[str, Json] | None = None,
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
                "with": all_inputs(with_, inputs),
                "needs": needs_of(needs),
                "when": condition_of(when),
                "clients": clients,
                "timeout": timeout,
                "retry": retry,
                "isolation": isolation,
                "budget": budget,
                "on_error": on_error,
            },
        )

    def _add(self, group: dict[str, Step], place: str, step_id: str, data: Mapping[str, object]) -> StepHandle:
        reader = self._reader()
        _refuse_double(reader, place, step_id, self.steps.keys() | self.finally_steps.keys())
        read = reader.mapping("", {place: {step_id: written(without_none(data))}}, _only(place))
        self._raise(reader.faults)
        group.update(read[place])  # type: ignore[call-overload] # READERS made it a dict
        return StepHandle(step_id)

    # what StepsBuilder asks for

    def _reader(self) -> Reader:
        return Reader(secrets=self.secrets, braces=self.syntax == "braces")

    def _declare(self, step_id: str, data: Mapping[str, object]) -> Step:
        self._add(self.steps, "steps", step_id, data)
        return self.steps[step_id]

    def _root(self) -> Workflow:
        return self

    def _taken(self) -> set[str]:
        return set(self.steps.keys() | self.finally_steps.keys())

    def _enclose(self, name: str, workflow: Built) -> None:
        """Keep a subflow that Python built, as it is now; one name stands for one workflow."""
        known = self.workflows.get(name)
        if known is not None and known.to_dict() != workflow.to_dict():
            reader = Reader()
            reader.fault(f"workflows.{name}", f"another subflow is called {name!r}", "rename one of the two")
            self._raise(reader.faults)
        self.workflows[name] = Workflow.from_dict(workflow.to_dict())

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


def _check_children(reader: Reader, place: str, step: Step, around: tuple[Mapping[str, object], ...]) -> None:
    """Ids and needs within a group: a child sees the steps around it by their ids, so it cannot have one of those itself."""
    if step.parallel is None and step.choose is None:
        return
    children = {step.id: (f"{place}.{where}", step) for where, step in children_of(step)}
    if step.parallel is not None and not children:
        reader.fault(f"{place}.parallel.steps", "a group needs at least one step")
    elif step.choose is not None and not children:
        reader.fault(f"{place}.choose", "a choice needs at least one branch")
    for path, child in children.values():
        if any(child.id in ids for ids in around):
            reader.fault(path, f"the id {child.id!r} is taken by a step around it", "rename one of the two")
        for need in child.needs:
            if need not in children:
                is_around = any(need in ids for ids in around)
                remedy = "the whole group needs it: put it there" if is_around else suggestion(need, children)
                reader.fault(f"{path}.needs", f"there is no step {need!r} in this group", remedy)
        _check_children(reader, path, child, (*around, children))


def children_of(step: Step) -> Iterator[tuple[str, Step]]:
    """The steps within a step, each with where it stands in it."""
    if step.parallel is not None:
        for child in step.parallel.steps.values():
            yield f"parallel.steps.{child.id}", child
    for branch in (step.choose or {}).values():
        yield f"choose.{branch.step.id}", branch.step
