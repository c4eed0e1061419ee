"""The planner: binds every executor of a workflow, parses every expression and resolves every reference.

Whatever can be refused is refused here, all of it at once, before anything starts.
"""

from __future__ import annotations

import difflib
import math
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import attrs

from treadle._bind import BoundExecutor
from treadle._budgets import Budget, smaller_budget
from treadle._expressions import Expression, Reference, Value, compile_value, parse_expression
from treadle._graph import Graph, Node, OnError, OnInterrupt, Rules, Variant
from treadle._models import GroupForm, Json, RetryPolicy
from treadle._planned import Plan, PlannedBody, PlannedStep
from treadle._policy_keys import PlannedKeys
from treadle._slots import Concurrency, PlannedConcurrency
from treadle._subflows import input_faults, with_subflows
from treadle._waits import PlannedWait
from treadle._workflow import Body, Branch, Step, Workflow, children_of
from treadle.errors import ExpressionError, Fault, TreadleError, WorkflowInvalidError

__all__ = ["Executors", "Plan", "PlannedBody", "PlannedStep", "compile_plan", "make_plan"]

STEP_FIELDS = ("output", "status", "error", "errors", "attempts", "branch")
"""What ``steps.NAME`` holds for expressions."""

RUN_FIELDS = ("id", "workflow", "status", "trace_id", "started_at")
"""What ``run`` holds for expressions."""

MAX_STEPS = 100_000
"""Steps of a plan, those of groups and subflows included."""


class Executors(Protocol):
    """Where a plan finds executors, clients and subflows by name: a Registry."""

    @property
    def workflow_folder(self) -> Path | None:
        """Where subflows are looked up by name; None for nowhere."""

    def executor(self, name: str) -> BoundExecutor:
        """The bound executor; raises a PluginError."""

    def client(self, name: str) -> object:
        """The configured client; raises a PluginError or ConfigError."""

    def policy_gap(self, key: str) -> tuple[str, str]:
        """Why a key of a step is not served by an active policy, and what to do; empty when it is."""


def make_plan(workflow: Workflow, registry: Executors) -> Plan:
    """Check a workflow, and the subflows that it uses, against what is installed.

    Raises:
        WorkflowInvalidError: With every fault: unknown executor, input or reference, wrong input type, cycle.
    """
    planner = _Planner(with_subflows(workflow, registry.workflow_folder))
    planner.compile()
    planner.bind(registry)
    return planner.finish()


def compile_plan(workflow: Workflow, workflow_folder: Path | None = None) -> Plan:
    """Plan without looking for executors: enough to replay a log.

    Args:
        workflow: The workflow; one of a log has its subflows with it.
        workflow_folder: Where subflows are looked for by name.

    Raises:
        WorkflowInvalidError: With every fault of references and needs.
    """
    planner = _Planner(with_subflows(workflow, workflow_folder))
    planner.compile()
    return planner.finish()


@attrs.frozen
class _Scope:
    """Where a step stands, and what it sees there.

    Attributes:
        workflow: Whose inputs, secrets and defaults hold.
        path: Path of what is around it, with a ``/``; empty for the run.
        siblings: Steps that it may need.
        visible: Steps that expressions may look up: those around it, too.
        item_names: Names of the items of the loops around it.
        in_finally: Whether what is around it is part of a ``finally``.
        on_error: What holds there.
    """

    workflow: Workflow
    path: str
    siblings: Mapping[str, Step]
    visible: Mapping[str, Step]
    item_names: tuple[str, ...]
    in_finally: bool
    on_error: OnError


@attrs.frozen
class _Site:
    """One executor that a step names: its own, or one of a body.

    Attributes:
        path: The step.
        variant: Which of its calls.
        place: Where it stands in the file.
        source: What the file says.
        workflow: Whose defaults hold.
    """

    path: str
    variant: str
    place: str
    source: Step | Body
    workflow: Workflow


class _TooManySteps(Exception):
    """The plan grows beyond its limit."""


class _Planner:
    """Collects faults while it compiles and binds."""

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow
        self._faults: list[Fault] = []
        self._warnings: list[Fault] = []
        self._steps: dict[str, PlannedStep] = {}
        self._sites: list[_Site] = []
        self._children: dict[str, list[str]] = {}
        self._executors: dict[str, BoundExecutor] = {}
        self._outputs: dict[str, Value] = {}
        self._signals: dict[str, tuple[str, Json]] = {}
        self._said_rerun: set[str] = set()
        self._priorities: dict[str, int] = {}
        self._concurrency: PlannedConcurrency | None = None
        self._looks_at_errors = False
        self._roots: list[str] = []

    def compile(self) -> None:
        """Parse every expression, resolve every reference and need."""
        try:
            self._roots, self._outputs = self._compile_workflow(self._workflow, "", in_finally=False)
            outside = _Scope(self._workflow, "", {}, {}, (), in_finally=False, on_error="stop")
            self._concurrency = self._slots(self._workflow, self._workflow.concurrency, "concurrency", (), outside)
        except _TooManySteps:
            remedy = "hand over data in a foreach instead of writing steps"
            self._fault(self._workflow, "steps", f"there are more than {MAX_STEPS:,} steps, with those of subflows", remedy)

    def bind(self, registry: Executors) -> None:
        """Find every executor and client; check inputs against types as far as they are known."""
        found: dict[str, BoundExecutor | TreadleError] = {}
        for site in self._sites:
            planned = self._steps[site.path]
            call = planned.body(site.variant)
            name = call.executor
            if name not in found:
                found[name] = _look_up(registry, name)
            bound = found[name]
            if isinstance(bound, TreadleError):
                self._fault(site.workflow, f"{site.place}.uses", bound.problem, bound.remedy)
                continue
            self._executors[name] = bound
            self._settle(site, planned, bound)
            self._check_inputs(site, call.inputs, bound)
            self._check_clients(site, bound, registry, found)
            if site.variant == "primary" and planned.keys is not None:
                self._check_policies(site, planned.keys, bound, registry)

    def finish(self) -> Plan:
        """The plan, or all faults."""
        if self._faults:
            in_file_order = sorted(self._faults, key=lambda fault: (fault.line, fault.column))
            raise WorkflowInvalidError(in_file_order, name=self._workflow.name)
        workflow = self._workflow
        graph = Graph(
            nodes=tuple(self._node(path) for path in self._roots),
            max_parallel=workflow.max_parallel or 10,
            on_error=workflow.on_error,
            max_failures=_tolerated(workflow.max_failures, len(workflow.steps)),
            has_outputs=bool(self._outputs),
            timeout_s=workflow.timeout_s,
            max_retries=workflow.max_retries,
            budget=workflow.budget,
            has_slot=self._concurrency is not None,
        )
        return Plan(
            workflow,
            self._steps,
            graph,
            self._outputs,
            self._executors,
            tuple(self._warnings),
            self._looks_at_errors,
            self._concurrency,
        )

    # -- the tree

    def _node(self, path: str) -> Node:
        """The node of a step with all below it, and what its executors say of interruptions."""
        planned = self._steps[path]
        children = tuple(self._node(child) for child in self._children.get(path, ()))
        if not children and not planned.bodies and not self._executors:
            return planned.node
        node = attrs.evolve(
            planned.node,
            children=children,
            on_interrupt=self._on_interrupt(planned, "primary"),
            fallbacks=tuple(self._variant(planned, name) for name in planned.bodies if name != "compensation"),
            compensation=self._variant(planned, "compensation") if "compensation" in planned.bodies else None,
        )
        self._steps[path] = attrs.evolve(planned, node=node)
        return node

    def _variant(self, planned: PlannedStep, variant: str) -> Variant:
        return Variant(planned.bodies[variant].retry.max_attempts, self._on_interrupt(planned, variant))

    def _on_interrupt(self, planned: PlannedStep, variant: str) -> OnInterrupt:
        """Steps of unsafe executors end instead of running again when their process went away, unless the file says so."""
        if variant == "primary" and planned.node.on_interrupt != "rerun":
            return planned.node.on_interrupt
        if variant == "primary" and planned.path in self._said_rerun:
            return "rerun"
        bound = self._executors.get(planned.body(variant).executor)
        return "fail" if bound is not None and bound.effects == "unsafe" else "rerun"

    def _compile_workflow(self, workflow: Workflow, path: str, *, in_finally: bool) -> tuple[list[str], dict[str, Value]]:
        """Compile all steps and outputs of a workflow; ``path`` is that of the step that runs it, with a ``/``."""
        if not workflow.steps:
            self._fault(workflow, "steps", "a workflow needs at least one step")
        everything = ChainMap(workflow.steps, workflow.finally_steps) if workflow.finally_steps else workflow.steps
        main = _Scope(workflow, path, workflow.steps, workflow.steps, (), in_finally, workflow.on_error)
        last = _Scope(
            workflow, f"{path}finally/", workflow.finally_steps, everything, (), in_finally=True, on_error=workflow.on_error
        )
        paths = [self._compile_step(step, f"steps.{step.id}", main)[0] for step in workflow.steps.values()]
        self._check_cycles(workflow, "steps", paths)
        cleaning = []
        for step in workflow.finally_steps.values():
            if step.id in workflow.steps:
                self._fault(workflow, f"finally.{step.id}", f"a step is called {step.id!r} already", "give it another name")
            cleaning.append(self._compile_step(step, f"finally.{step.id}", last, is_finally=True)[0])
        self._check_cycles(workflow, "finally", cleaning)
        outputs: dict[str, Value] = {}
        for name, value in workflow.outputs.items():
            outputs[name] = compiled = self._value(workflow, value, f"outputs.{name}")
            self._check_references(compiled.references, f"outputs.{name}", (), last)
        return [*paths, *cleaning], outputs

    def _check_cycles(self, workflow: Workflow, place: str, paths: list[str]) -> None:
        cycle = _find_cycle({path: self._steps[path].node.needs for path in paths})
        if cycle:
            at = f"{place}.{cycle[0].rpartition('/')[2]}"
            problem = f"steps wait for each other: {' -> '.join(cycle)}"
            self._fault(workflow, at, problem, "remove one of these needs or references")

    def _compile_step(self, step: Step, place: str, scope: _Scope, *, is_finally: bool = False) -> tuple[str, list[str]]:
        """Compile a step and all below it; answers its path, and the steps around its scope that it refers to."""
        if len(self._steps) >= MAX_STEPS:
            raise _TooManySteps
        workflow, path = scope.workflow, scope.path + step.id
        in_finally = scope.in_finally or is_finally
        inputs = self._value(workflow, step.with_, f"{place}.with")
        foreach = None if step.foreach is None else self._value(workflow, step.foreach, f"{place}.foreach")
        when = self._condition(workflow, step.when, f"{place}.when")
        item_names = (*scope.item_names, step.as_, "index") if foreach is not None else scope.item_names
        wait = self._wait(step, f"{place}.wait", scope, item_names)
        references = [*inputs.references]
        if inputs.references:
            self._check_references(inputs.references, f"{place}.with", item_names, scope)
        if foreach is not None:
            references += foreach.references
            self._check_references(foreach.references, f"{place}.foreach", scope.item_names, scope)
        if when is not None:
            references += when.references
            self._check_references(when.references, f"{place}.when", scope.item_names, scope)
        if wait is not None:
            references += wait.references
        concurrency = self._slots(workflow, step.concurrency, f"{place}.concurrency", item_names, scope)
        if concurrency is not None:
            references += concurrency.references
        keys = self._policy_keys(step, place, scope, item_names)
        if keys is not None:
            references += keys.references
        if inputs.secret_names:
            self._check_secrets(step, workflow, inputs, f"{place}.with")
        bodies = self._bodies(step, place, scope, item_names, references, path) if step.fallback or step.compensate else {}
        retry = step.retry or workflow.defaults.retry or RetryPolicy()
        planned = PlannedStep(
            path,
            step.id,
            step.uses,
            inputs,
            when,
            foreach,
            step.as_,
            retry,
            step.timeout_s if step.timeout_s is not None else workflow.defaults.timeout_s,
            step.clients,
            Node(path),
            wait=wait,
            keys=keys,
            batch=step.batch,
            bodies=bodies,
            subflow=workflow.workflows.get(step.workflow) if step.workflow else None,
            in_finally=in_finally,
            concurrency=concurrency,
        )
        self._steps[path] = planned
        self._priorities[path] = self._outer_priority(scope) if step.priority is None else step.priority
        if step.uses:
            self._sites.append(_Site(path, "primary", place, step, workflow))
        if step.on_interrupt == "rerun":
            self._said_rerun.add(path)
        form, rules, outward = self._group(step, place, path, scope, item_names, is_finally=in_finally)
        needs, further = self._needs(step, references, outward, place, scope)
        node = Node(
            path=path,
            needs=tuple(scope.path + need for need in needs),
            has_when=when is not None,
            is_map=foreach is not None,
            max_parallel=step.max_parallel,
            max_attempts=retry.max_attempts,
            on_error=step.on_error,
            is_finally=is_finally,
            on_interrupt=step.on_interrupt or "rerun",
            is_wait=wait is not None,
            form=form,
            rules=rules,
            needs_rule=step.needs_rule,
            max_failures=_share(step.max_failures),
            budget=_budget_of(step, scope.workflow),
            priority=self._priorities[path],
            has_slots=concurrency is not None,
        )
        self._steps[path] = attrs.evolve(self._steps[path], node=node)
        return path, further

    # -- groups

    def _group(
        self, step: Step, place: str, path: str, scope: _Scope, item_names: tuple[str, ...], *, is_finally: bool
    ) -> tuple[GroupForm | None, Rules | None, list[str]]:
        """Compile what is within a step; answers what it refers to outside."""
        if step.parallel is not None or step.choose is not None:
            return self._compile_group(step, place, path, scope, item_names, is_finally=is_finally)
        if not step.workflow:
            return None, None, []
        inner = scope.workflow.workflows.get(step.workflow)
        if inner is None:
            return "workflow", Rules(), []  # it was not found, and that was said
        self._check_subflow_inputs(step, place, scope.workflow, inner, self._steps[path].inputs)
        if inner.concurrency is not None:
            line, column = scope.workflow.position(f"{place}.workflow")
            problem, remedy = "its own 'concurrency' does not hold for a subflow", "give it to the steps that need it"
            self._warnings.append(Fault(problem, f"{place}.workflow", remedy, scope.workflow.file, line, column))
        self._children[path], outputs = self._compile_workflow(inner, f"{path}/", in_finally=False)
        self._steps[path] = attrs.evolve(self._steps[path], outputs=outputs)
        limits = [limit for limit in (step.timeout_s, inner.timeout_s) if limit is not None]
        rules = Rules(
            inner.on_error,
            _tolerated(inner.max_failures, len(inner.steps)),
            inner.max_parallel,
            min(limits, default=None),
            has_outputs=bool(outputs),
        )
        return "workflow", rules, []

    def _compile_group(
        self, step: Step, place: str, path: str, scope: _Scope, item_names: tuple[str, ...], *, is_finally: bool
    ) -> tuple[GroupForm | None, Rules | None, list[str]]:
        children = {child.id: child for _, child in children_of(step)}
        if not children:
            where = "parallel.steps" if step.parallel is not None else "choose"
            self._fault(scope.workflow, f"{place}.{where}", "a group needs at least one step")
        visible = ChainMap(children, *(scope.visible.maps if isinstance(scope.visible, ChainMap) else [scope.visible]))
        on_error = (step.parallel.on_error if step.parallel is not None else None) or scope.on_error
        siblings: Mapping[str, Step] = children
        if step.choose is not None:  # only one of them runs, so none of them sees another
            siblings, visible = {}, scope.visible  # type: ignore[assignment]  # it is not written to
        within = _Scope(scope.workflow, f"{path}/", siblings, visible, item_names, is_finally, on_error)
        outward: dict[str, None] = {}
        paths: dict[str, str] = {}
        for where, child in children_of(step):
            paths[child.id], further = self._compile_step(child, f"{place}.{where}", within)
            outward.update(dict.fromkeys(further))
        if step.choose is not None:
            return self._choice(step, step.choose, path, paths), self._rules_of_choice(step), [*outward]
        assert step.parallel is not None, "a group is one of the two"
        self._children[path] = [*paths.values()]
        self._check_cycles(scope.workflow, f"{place}.parallel.steps", self._children[path])
        rules = Rules(
            on_error,
            _tolerated(step.parallel.max_failures, len(children)),
            step.parallel.max_parallel,
            step.parallel.timeout_s,
        )
        return "parallel", rules, [*outward]

    def _choice(self, step: Step, branches: Mapping[str, Branch], path: str, paths: Mapping[str, str]) -> GroupForm:
        """Bring the branches into the order in which they are asked: by priority, then as declared, ``else`` last."""
        asked = sorted(branches.values(), key=lambda branch: (branch.is_else, -branch.priority))
        self._children[path] = [paths[branch.step.id] for branch in asked]
        conditions = tuple((branch.step.id, self._steps[paths[branch.step.id]].when) for branch in asked)
        self._steps[path] = attrs.evolve(self._steps[path], branches=conditions)
        for child in paths.values():
            planned = self._steps[child]
            self._steps[child] = attrs.evolve(planned, node=attrs.evolve(planned.node, has_when=False))
        return "choose"

    def _rules_of_choice(self, step: Step) -> Rules:
        return Rules("stop", timeout_s=step.timeout_s)

    def _check_subflow_inputs(self, step: Step, place: str, workflow: Workflow, inner: Workflow, inputs: Value) -> None:
        if isinstance(step.with_, str):
            return  # one expression for all of them: known when it is evaluated
        known, unknown = _known(step.with_, inputs)
        for fault in input_faults(inner, known, unknown):
            self._fault_at(workflow, place, fault, step.with_, "workflow")

    # -- bodies

    def _bodies(
        self,
        step: Step,
        place: str,
        scope: _Scope,
        item_names: tuple[str, ...],
        references: list[Reference],
        path: str,
    ) -> dict[str, PlannedBody]:
        bodies: dict[str, PlannedBody] = {}
        for number, body in enumerate(step.fallback, 1):
            at = f"{place}.fallback" if len(step.fallback) == 1 else f"{place}.fallback[{number - 1}]"
            bodies[f"fallback {number}"] = made = self._body(body, at, scope, item_names)
            references += made.inputs.references
            self._sites.append(_Site(path, f"fallback {number}", at, body, scope.workflow))
        if step.compensate is not None:
            at = f"{place}.compensate"
            bodies["compensation"] = self._body(step.compensate, at, scope, item_names)
            self._sites.append(_Site(path, "compensation", at, step.compensate, scope.workflow))
        return bodies

    def _body(self, body: Body, place: str, scope: _Scope, item_names: tuple[str, ...]) -> PlannedBody:
        workflow = scope.workflow
        inputs = self._value(workflow, body.with_, f"{place}.with")
        self._check_references(inputs.references, f"{place}.with", item_names, scope)
        self._check_declared(workflow, inputs, f"{place}.with")
        retry = body.retry or workflow.defaults.retry or RetryPolicy()
        timeout_s = body.timeout_s if body.timeout_s is not None else workflow.defaults.timeout_s
        return PlannedBody(body.uses, inputs, retry, timeout_s, body.clients)

    # -- parts

    def _fault(self, workflow: Workflow, path: str, message: str, remedy: str = "") -> None:
        line, column = workflow.position(path)
        shown = f"{workflow.place}.{path}" if workflow.place else path
        self._faults.append(Fault(message, shown, remedy, workflow.file, line, column))

    def _fault_at(self, workflow: Workflow, place: str, fault: Fault, inputs: Collection[str], otherwise: str) -> None:
        """A fault of an input; it stands where the input does, else where the step says what it runs."""
        name = fault.path.split(".")[0].split("[")[0]
        path = f"{place}.with.{name}" if name in inputs else f"{place}.with"
        if workflow.position(path) == (0, 0):
            path = f"{place}.{otherwise}"
        line, column = workflow.position(path)
        shown = f"{place}.with.{fault.path}" if fault.path else f"{place}.with"
        shown = f"{workflow.place}.{shown}" if workflow.place else shown
        self._faults.append(Fault(fault.message, shown, fault.remedy, workflow.file, line, column))

    def _value(self, workflow: Workflow, value: Json, path: str) -> Value:
        try:
            return compile_value(value, braces=workflow.syntax == "braces")
        except ExpressionError as error:
            self._fault(workflow, path, error.problem, error.remedy)
            return compile_value(None)

    def _wait(self, step: Step, place: str, scope: _Scope, item_names: tuple[str, ...]) -> PlannedWait | None:
        if step.wait is None:
            return None
        workflow = scope.workflow
        try:
            planned = PlannedWait.compile(step.wait, braces=workflow.syntax == "braces")
        except ExpressionError as error:
            self._fault(workflow, place, error.problem, error.remedy)
            return None
        self._check_references(planned.references, place, item_names, scope)
        if step.wait.signal:
            path, schema = self._signals.setdefault(step.wait.signal, (scope.path + step.id, step.wait.payload_schema))
            if schema != step.wait.payload_schema:
                problem = f"{path!r} waits for the same signal with another schema"
                self._fault(workflow, place, problem, "give one of the two another name")
        return planned

    def _outer_priority(self, scope: _Scope) -> int:
        """That of the group or subflow around a scope; else the workflow's."""
        around = scope.path.removesuffix("/").removesuffix("/finally")
        return self._priorities.get(around, self._workflow.priority)

    def _slots(
        self, workflow: Workflow, said: Concurrency | None, place: str, item_names: Collection[str], scope: _Scope
    ) -> PlannedConcurrency | None:
        if said is None:
            return None
        try:
            planned = PlannedConcurrency.compile(said, braces=workflow.syntax == "braces")
        except ExpressionError as error:
            self._fault(workflow, place, error.problem, error.remedy)
            return None
        self._check_references(planned.references, place, item_names, scope)
        return planned

    def _policy_keys(self, step: Step, place: str, scope: _Scope, item_names: Collection[str]) -> PlannedKeys | None:
        try:
            keys = PlannedKeys.compile(step.cache, step.rate_limit, braces=scope.workflow.syntax == "braces")
        except ExpressionError as error:
            self._fault(scope.workflow, place, error.problem, error.remedy)
            return None
        if keys is not None and keys.references:
            self._check_references(keys.references, f"{place}.{keys.names[0]}", item_names, scope)
        return keys

    def _check_policies(self, site: _Site, keys: PlannedKeys, bound: BoundExecutor, registry: Executors) -> None:
        """Refuse what no active policy serves, and a cache that would leave out what calls are made for."""
        workflow, place = site.workflow, site.place
        for name in keys.names:
            problem, remedy = registry.policy_gap(name)
            if problem:
                self._fault(workflow, f"{place}.{name}", problem, remedy)
        cache = keys.cache
        if cache is None:
            return
        if bound.effects not in ("none", "idempotent") and not cache.allows_effects:
            said = "is declared unsafe" if bound.effects == "unsafe" else "does not say that it has no effects"
            remedy = "a cached output leaves them out: write allow_effects: true if that is meant, or take out the cache"
            self._fault(workflow, f"{place}.cache", f"{bound.name} {said}", remedy)
        planned = self._steps[site.path]
        if planned.inputs.secret_names and cache.key is None:
            problem = f"the step takes a secret ({', '.join(sorted(planned.inputs.secret_names))}), which no key may hold"
            remedy = "give it a key of its own that says whose outputs these are: {key: ...}"
            self._fault(workflow, f"{place}.cache", problem, remedy)
        self._steps[site.path] = attrs.evolve(planned, keys=attrs.evolve(keys, version=bound.code_version()))

    def _condition(self, workflow: Workflow, source: str | None, path: str) -> Expression | None:
        if source is None:
            return None
        try:
            return parse_expression(source)
        except ExpressionError as error:
            self._fault(workflow, path, error.problem, error.remedy)
            return None

    def _needs(
        self, step: Step, references: Iterable[Reference], outward: Iterable[str], place: str, scope: _Scope
    ) -> tuple[list[str], list[str]]:
        """Explicit needs, then those that references imply, also from within; and what is further out, for the group."""
        siblings, needs, further = scope.siblings, dict[str, None](), dict[str, None]()
        for need in step.needs:
            if need in siblings:
                needs[need] = None
            else:
                self._fault(scope.workflow, f"{place}.needs", f"there is no step {need!r}", _did_you_mean(need, siblings))
        for name in (*_steps_in(references), *outward):
            if name in siblings:
                needs[name] = None
            elif name in scope.visible:
                further[name] = None
        return [*needs], [*further]

    def _check_references(
        self, references: Iterable[Reference], place: str, item_names: Collection[str], scope: _Scope
    ) -> None:
        for reference in references:
            problem, remedy = self._reference_fault(reference, item_names, scope)
            if problem:
                self._fault(scope.workflow, place, problem, remedy)

    def _reference_fault(self, reference: Reference, item_names: Collection[str], scope: _Scope) -> tuple[str, str]:
        root, path = reference.root, reference.path
        if root in item_names or root == "secrets":
            return "", ""
        first = str(path[0]) if path else ""
        if root == "inputs":
            known: Collection[str] = scope.workflow.inputs
            kind = "input"
        elif root == "steps":
            known, kind = scope.visible, "step"
        elif root == "errors":
            self._looks_at_errors = True
            return _errors_fault(first, scope)
        elif root == "run":
            known, kind = RUN_FIELDS, "field of run"
        else:
            roots = ("inputs", "steps", "errors", "run", *item_names)
            return f"{root!r} is not known here", _did_you_mean(root, roots) or f"known: {', '.join(roots)}"
        if path and first not in known:
            shown = ", ".join(sorted(known)[:10]) or "none"
            return f"there is no {kind} {first!r}", _did_you_mean(first, known) or f"known: {shown}"
        if root == "steps" and len(path) > 1 and path[1] not in STEP_FIELDS:
            field = str(path[1])
            remedy = f"write steps.{first}.output.{field}, or one of {', '.join(STEP_FIELDS)}"
            return f"a step has no {field!r}", _did_you_mean(field, STEP_FIELDS) or remedy
        return "", ""

    def _check_secrets(self, step: Step, workflow: Workflow, inputs: Value, place: str) -> None:
        if step.workflow:
            remedy = "declare it in the subflow: secrets: [...], and take it there"
            self._fault(workflow, place, "a secret cannot be handed to a subflow", remedy)
        self._check_declared(workflow, inputs, place)

    def _check_declared(self, workflow: Workflow, inputs: Value, place: str) -> None:
        for name in sorted(inputs.secret_names - set(workflow.secrets)):
            self._fault(workflow, place, f"secret {name!r} is not declared", f"add it: secrets: [{name}]")

    # -- executors

    def _settle(self, site: _Site, planned: PlannedStep, bound: BoundExecutor) -> None:
        """Fill in what the executor says where the file says nothing."""
        source, defaults, call = site.source, site.workflow.defaults, planned.body(site.variant)
        said = (source.isolation, defaults.isolation, bound.isolation)
        isolation = next((word for word in said if word is not None), "inline")
        limits = isolation if isinstance(isolation, Mapping) else {} if isolation == "process" else None
        if limits is not None:
            problem, remedy = bound.isolation_problem()
            if problem:
                path = f"{site.place}.isolation" if source.isolation is not None else f"{site.place}.uses"
                self._fault(site.workflow, path, problem, f"{remedy}; or write isolation: inline")
        timeout_s = call.timeout_s if call.timeout_s is not None else bound.timeout_s
        has_retry = source.retry is not None or defaults.retry is not None
        retry = call.retry if has_retry or bound.retry is None else bound.retry
        is_timed = source.timeout_s is not None or defaults.timeout_s is not None
        if is_timed and limits is None and _is_unstoppable(bound):
            self._warn(site, bound)
        if site.variant == "primary":
            self._steps[site.path] = attrs.evolve(planned, limits=limits, timeout_s=timeout_s, retry=retry)
        else:
            body = attrs.evolve(planned.bodies[site.variant], limits=limits, timeout_s=timeout_s, retry=retry)
            self._steps[site.path] = attrs.evolve(planned, bodies={**planned.bodies, site.variant: body})

    def _warn(self, site: _Site, bound: BoundExecutor) -> None:
        line, column = site.workflow.position(f"{site.place}.timeout")
        message = f"{bound.name} is no 'async def': at its timeout the step ends, but its thread goes on"
        remedy = "write isolation: process to have it stopped for certain"
        self._warnings.append(Fault(message, f"{site.place}.timeout", remedy, site.workflow.file, line, column))

    def _check_inputs(self, site: _Site, inputs: Value, bound: BoundExecutor) -> None:
        if isinstance(site.source.with_, str):
            return  # the same
        known, unknown = _known(site.source.with_, inputs)
        for fault in bound.input_faults(known, unknown):
            self._fault_at(site.workflow, site.place, fault, site.source.with_, "uses")

    def _check_clients(
        self, site: _Site, bound: BoundExecutor, registry: Executors, found: dict[str, BoundExecutor | TreadleError]
    ) -> None:
        clients, place = site.source.clients, site.place
        needs = [need.name for need in bound.needs]
        for chosen in clients:
            if chosen not in needs:
                remedy = _did_you_mean(chosen, needs) or f"it needs: {', '.join(needs) or 'no client'}"
                self._fault(site.workflow, f"{place}.clients", f"{bound.name} needs no client {chosen!r}", remedy)
        for need in needs:
            name = clients.get(need, need)
            key = f"client {name}"
            if key not in found:
                try:
                    registry.client(name)
                    found[key] = bound
                except TreadleError as error:
                    found[key] = error
            error_or_bound = found[key]
            if isinstance(error_or_bound, TreadleError):
                path = f"{place}.clients" if need in clients else f"{place}.uses"
                self._fault(site.workflow, path, error_or_bound.problem, error_or_bound.remedy)


def _steps_in(references: Iterable[Reference]) -> Iterator[str]:
    """The steps that expressions look up; the ones whose errors they look up, too."""
    for reference in references:
        if reference.path and reference.root == "steps":
            yield str(reference.path[0])
        elif reference.path and reference.root == "errors":
            yield str(reference.path[0]).partition("/")[0]


def _errors_fault(path: str, scope: _Scope) -> tuple[str, str]:
    """``errors`` is looked up by a step, or a path within a group like ``errors['publish/post']``."""
    if not path:
        return "", ""
    steps = scope.visible
    for name in path.split("/"):
        if name not in steps:
            return f"there is no step {path!r}", _did_you_mean(name, steps) or f"steps: {', '.join([*steps][:10])}"
        step = steps[name]
        if step.foreach is not None and path != name:
            return f"the errors of the items of {name!r} have no name", f"write steps.{name}.errors"
        steps = {child.id: child for _, child in children_of(step)}
    return "", ""


def _is_unstoppable(bound: BoundExecutor) -> bool:
    """Whether its code cannot be stopped, and could be isolated."""
    return not bound.is_async and not bound.isolation_problem()[0]


def _known(written: Mapping[str, Json], inputs: Value) -> tuple[dict[str, Json], set[str]]:
    """The inputs whose values are known before the run, and the names of the others."""
    known: dict[str, Json] = {}
    unknown: set[str] = set()
    for name, value in written.items():
        if inputs.is_constant or _is_plain(value):
            known[name] = value
        else:
            unknown.add(name)
    return known, unknown


def _share(max_failures: int | str | None) -> int | float | None:
    """``3`` as a number, ``25%`` as a float of percent."""
    return float(max_failures.rstrip("% ")) if isinstance(max_failures, str) else max_failures


def _look_up(registry: Executors, name: str) -> BoundExecutor | TreadleError:
    try:
        return registry.executor(name)
    except TreadleError as error:
        return error


def _is_plain(value: Json) -> bool:
    """Whether a value holds no expression, so that it is known before the run."""
    if isinstance(value, str):
        return "{{" not in value
    if isinstance(value, dict):
        return all(_is_plain(part) for part in value.values())
    if isinstance(value, list):
        return all(_is_plain(part) for part in value)
    return True


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {matches[0]!r}?" if matches else ""


def _budget_of(step: Step, workflow: Workflow) -> Budget | None:
    """What a step may use up; a subflow also keeps to what it says itself."""
    inner = workflow.workflows.get(step.workflow) if step.workflow else None
    return step.budget if inner is None else smaller_budget(step.budget, inner.budget)


def _tolerated(max_failures: int | str | None, steps: int) -> int | None:
    """``3`` or ``25%`` (of the steps, rounded down) as a number of steps."""
    if isinstance(max_failures, str):
        return math.floor(float(max_failures.rstrip("% ")) * steps / 100)
    return max_failures


def _find_cycle(needs: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One cycle as ``[a, b, a]`` along needs, or an empty list. Iterative: a chain may be long."""
    done: set[str] = set()
    for start in needs:
        trail: list[str] = []
        on_trail: set[str] = set()
        stack: list[tuple[str, Iterator[str]]] = []
        if start not in done:
            stack.append((start, iter(needs[start])))
            trail.append(start)
            on_trail.add(start)
        while stack:
            path, rest = stack[-1]
            need = next(rest, None)
            if need is None:
                stack.pop()
                trail.pop()
                on_trail.discard(path)
                done.add(path)
            elif need in on_trail:
                return [*trail[trail.index(need) :], need]
            elif need not in done and need in needs:
                stack.append((need, iter(needs[need])))
                trail.append(need)
                on_trail.add(need)
    return []
