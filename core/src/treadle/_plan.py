"""The plan: a workflow with every executor bound, every expression parsed and every reference resolved.

Whatever can be refused is refused here, all of it at once, before anything starts.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Protocol

import attrs

from treadle._bind import BoundExecutor
from treadle._expressions import Expression, Reference, Value, compile_value, parse_expression
from treadle._graph import Graph, Node
from treadle._models import Json, RetryPolicy
from treadle._policy_keys import PlannedKeys
from treadle._waits import PlannedWait
from treadle._workflow import Step, Workflow
from treadle.errors import ExpressionError, Fault, TreadleError, WorkflowInvalidError

STEP_FIELDS = ("output", "status", "error", "errors", "attempts")
"""What ``steps.NAME`` holds for expressions."""

RUN_FIELDS = ("id", "workflow", "status", "trace_id", "started_at")
"""What ``run`` holds for expressions."""


class Executors(Protocol):
    """Where a plan finds executors and clients by name: a Registry."""

    def executor(self, name: str) -> BoundExecutor:
        """The bound executor; raises a PluginError."""

    def client(self, name: str) -> object:
        """The configured client; raises a PluginError or ConfigError."""

    def policy_gap(self, key: str) -> tuple[str, str]:
        """Why a key of a step is not served by an active policy, and what to do; empty when it is."""


@attrs.frozen
class PlannedStep:
    """A step, ready to be rendered into calls.

    Attributes:
        path: ``report`` or ``finally/notify``.
        id: Its name in the file.
        executor: Name of the executor.
        inputs: Its ``with``.
        when: Its condition.
        foreach: Its list.
        item_name: What an item is called in expressions.
        retry: How it is retried.
        timeout_s: Deadline of one attempt.
        clients: Need -> name of the client.
        node: What the scheduler knows of it.
        limits: For a step in a process of its own: what it says of the limits; None: the run's process.
        wait: What a step waits for that uses no executor.
        keys: What it says to policies; None for nothing.
    """

    path: str
    id: str
    executor: str
    inputs: Value
    when: Expression | None
    foreach: Value | None
    item_name: str
    retry: RetryPolicy
    timeout_s: float | None
    clients: Mapping[str, str]
    node: Node
    limits: Mapping[str, Json] | None = None
    wait: PlannedWait | None = None
    keys: PlannedKeys | None = None


@attrs.frozen(eq=False, slots=False)
class Plan:
    """A workflow that can run.

    Attributes:
        workflow: What was planned.
        steps: Path -> step, in the order of declaration, ``finally`` last.
        graph: What the scheduler knows.
        outputs: Name -> value of the run's outputs.
        executors: Name -> bound executor; empty for a plan that only replays.
        warnings: What can run, but probably not as meant.
    """

    workflow: Workflow
    steps: Mapping[str, PlannedStep]
    graph: Graph
    outputs: Mapping[str, Value]
    executors: Mapping[str, BoundExecutor]
    warnings: tuple[Fault, ...] = ()

    @cached_property
    def document(self) -> Mapping[str, Json]:
        """The workflow as plain data, for the log; made once for all runs of the plan."""
        return self.workflow.to_dict()

    @cached_property
    def hash(self) -> str:
        """The workflow's hash."""
        return self.workflow.hash

    @property
    def order(self) -> list[str]:
        """Paths so that each step stands after its needs; declaration order among equals; ``finally`` last."""
        return [path for level in self.levels for path in level]

    @property
    def levels(self) -> list[list[str]]:
        """Paths by depth: the steps of one level need only steps of earlier ones. ``finally`` levels come last."""
        depth: dict[str, int] = {}
        last_main = -1
        for path in _topological(self.steps):
            node = self.steps[path].node
            base = last_main if node.is_finally else -1
            depth[path] = 1 + max((depth[need] for need in node.needs), default=base)
            last_main = last_main if node.is_finally else max(last_main, depth[path])
        levels: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
        for path in self.steps:
            levels[depth[path]].append(path)
        return levels

    def needs(self, path: str) -> tuple[str, ...]:
        """Paths of the steps that a step waits for."""
        return self.steps[path].node.needs

    def step(self, path: str) -> PlannedStep:
        """The step at a path."""
        return self.steps[path]


def make_plan(workflow: Workflow, registry: Executors) -> Plan:
    """Check a workflow against what is installed.

    Raises:
        WorkflowInvalidError: With every fault: unknown executor, input or reference, wrong input type, cycle.
    """
    planner = _Planner(workflow)
    planner.compile()
    planner.bind(registry)
    return planner.finish()


def compile_plan(workflow: Workflow) -> Plan:
    """Plan without looking for executors: enough to replay a log.

    Raises:
        WorkflowInvalidError: With every fault of references and needs.
    """
    planner = _Planner(workflow)
    planner.compile()
    return planner.finish()


class _Planner:
    """Collects faults while it compiles and binds."""

    def __init__(self, workflow: Workflow) -> None:
        self._workflow = workflow
        self._faults: list[Fault] = []
        self._warnings: list[Fault] = []
        self._steps: dict[str, PlannedStep] = {}
        self._executors: dict[str, BoundExecutor] = {}
        self._outputs: dict[str, Value] = {}
        self._braces = workflow.syntax == "braces"

    def compile(self) -> None:
        """Parse every expression, resolve every reference and need."""
        workflow = self._workflow
        if not workflow.steps:
            self._fault("steps", "a workflow needs at least one step")
        for step in workflow.steps.values():
            self._compile_step(step, f"steps.{step.id}", step.id, is_finally=False)
        for step in workflow.finally_steps.values():
            if step.id in workflow.steps:
                self._fault(f"finally.{step.id}", f"a step is called {step.id!r} already", "give it another name")
            self._compile_step(step, f"finally.{step.id}", f"finally/{step.id}", is_finally=True)
        for name, value in workflow.outputs.items():
            compiled = self._value(value, f"outputs.{name}")
            self._outputs[name] = compiled
            self._check_references(compiled.references, f"outputs.{name}", (), workflow.steps | workflow.finally_steps)
        cycle = _find_cycle({path: step.node.needs for path, step in self._steps.items()})
        if cycle:
            place = f"steps.{cycle[0]}" if "/" not in cycle[0] else cycle[0].replace("/", ".")
            self._fault(place, f"steps wait for each other: {' -> '.join(cycle)}", "remove one of these needs or references")

    def bind(self, registry: Executors) -> None:
        """Find every executor and client; check inputs against types as far as they are known."""
        found: dict[str, BoundExecutor | TreadleError] = {}
        for planned in list(self._steps.values()):
            name = planned.executor
            if planned.wait is not None:
                continue  # it uses none
            if name not in found:
                found[name] = _look_up(registry, name)
            bound = found[name]
            place = _place(planned)
            if isinstance(bound, TreadleError):
                self._fault(f"{place}.uses", bound.problem, bound.remedy)
                continue
            self._executors[name] = bound
            self._steps[planned.path] = self._settled(planned, bound, place)
            self._check_inputs(planned, bound, place)
            self._check_clients(planned, bound, place, registry, found)
            self._check_policies(planned, bound, place, registry)

    def finish(self) -> Plan:
        """The plan, or all faults."""
        if self._faults:
            in_file_order = sorted(self._faults, key=lambda fault: (fault.line, fault.column))
            raise WorkflowInvalidError(in_file_order, name=self._workflow.name)
        self._mark_what_must_not_run_twice()
        graph = Graph(
            nodes=tuple(step.node for step in self._steps.values()),
            max_parallel=self._workflow.max_parallel or 10,
            on_error=self._workflow.on_error,
            max_failures=_tolerated(self._workflow.max_failures, len(self._workflow.steps)),
            has_outputs=bool(self._outputs),
        )
        return Plan(self._workflow, self._steps, graph, self._outputs, self._executors, tuple(self._warnings))

    # -- parts

    def _mark_what_must_not_run_twice(self) -> None:
        """Steps of unsafe executors end instead of running again when their process went away."""
        for path, step in self._steps.items():
            bound = self._executors.get(step.executor)
            if bound is not None and bound.effects == "unsafe":
                self._steps[path] = attrs.evolve(step, node=attrs.evolve(step.node, on_interrupt="fail"))

    def _fault(self, path: str, message: str, remedy: str = "") -> None:
        line, column = self._workflow.position(path)
        self._faults.append(Fault(message, path, remedy, self._workflow.file, line, column))

    def _value(self, value: Json, path: str) -> Value:
        try:
            return compile_value(value, braces=self._braces)
        except ExpressionError as error:
            self._fault(path, error.problem, error.remedy)
            return compile_value(None)

    def _compile_step(self, step: Step, place: str, path: str, *, is_finally: bool) -> None:
        inputs = self._value(step.with_, f"{place}.with")
        foreach = None if step.foreach is None else self._value(step.foreach, f"{place}.foreach")
        when = self._condition(step.when, f"{place}.when")
        siblings = self._workflow.finally_steps if is_finally else self._workflow.steps
        visible = self._workflow.steps | self._workflow.finally_steps if is_finally else self._workflow.steps
        item_names = (step.as_, "index") if step.foreach is not None else ()
        wait = self._wait(step, f"{place}.wait", visible)
        keys = self._policy_keys(step, place, item_names, visible)
        asked = (inputs, foreach, when, wait, keys)
        references = [reference for part in asked if part is not None for reference in part.references]
        if inputs.references:
            self._check_references(inputs.references, f"{place}.with", item_names, visible)
        if foreach:
            self._check_references(foreach.references, f"{place}.foreach", (), visible)
        if when:
            self._check_references(when.references, f"{place}.when", (), visible)
        self._check_secrets(inputs, f"{place}.with")
        needs = self._needs(step, references, place, siblings)
        prefix = "finally/" if is_finally else ""
        retry = step.retry or self._workflow.defaults.retry or RetryPolicy()
        node = Node(
            path=path,
            needs=tuple(prefix + need for need in needs),
            has_when=when is not None,
            is_map=foreach is not None,
            max_parallel=step.max_parallel,
            max_attempts=retry.max_attempts,
            on_error=step.on_error,
            is_finally=is_finally,
            is_wait=wait is not None,
        )
        timeout_s = step.timeout_s if step.timeout_s is not None else self._workflow.defaults.timeout_s
        self._steps[path] = PlannedStep(
            path, step.id, step.uses, inputs, when, foreach, step.as_, retry, timeout_s, step.clients, node,
            wait=wait, keys=keys,
        )  # fmt: skip

    def _wait(self, step: Step, place: str, visible: Collection[str]) -> PlannedWait | None:
        if step.wait is None:
            return None
        try:
            planned = PlannedWait.compile(step.wait, braces=self._braces)
        except ExpressionError as error:
            self._fault(place, error.problem, error.remedy)
            return None
        self._check_references(planned.references, place, (), visible)
        others = ((path, other.wait.wait) for path, other in self._steps.items() if other.wait is not None)
        for path, other in others:
            if step.wait.signal and other.signal == step.wait.signal and other.payload_schema != step.wait.payload_schema:
                problem = f"{path!r} waits for the same signal with another schema"
                self._fault(place, problem, "give one of the two another name")
        return planned

    def _policy_keys(self, step: Step, place: str, item_names: Collection[str], visible: Collection[str]) -> PlannedKeys | None:
        try:
            keys = PlannedKeys.compile(step.cache, step.rate_limit, braces=self._braces)
        except ExpressionError as error:
            self._fault(place, error.problem, error.remedy)
            return None
        if keys is not None and keys.references:
            self._check_references(keys.references, f"{place}.{keys.names[0]}", item_names, visible)
        return keys

    def _check_policies(self, planned: PlannedStep, bound: BoundExecutor, place: str, registry: Executors) -> None:
        """Refuse what no active policy serves, and a cache that would leave out what calls are made for."""
        keys = planned.keys
        if keys is None:
            return
        for name in keys.names:
            problem, remedy = registry.policy_gap(name)
            if problem:
                self._fault(f"{place}.{name}", problem, remedy)
        cache = keys.cache
        if cache is None:
            return
        if bound.effects not in ("none", "idempotent") and not cache.allows_effects:
            said = "is declared unsafe" if bound.effects == "unsafe" else "does not say that it has no effects"
            remedy = "a cached output leaves them out: write allow_effects: true if that is meant, or take out the cache"
            self._fault(f"{place}.cache", f"{bound.name} {said}", remedy)
        if planned.inputs.secret_names and cache.key is None:
            problem = f"the step takes a secret ({', '.join(sorted(planned.inputs.secret_names))}), which no key may hold"
            self._fault(f"{place}.cache", problem, "give it a key of its own that says whose outputs these are: {key: ...}")
        step = self._steps[planned.path]
        self._steps[planned.path] = attrs.evolve(step, keys=attrs.evolve(keys, version=bound.code_version()))

    def _condition(self, source: str | None, path: str) -> Expression | None:
        if source is None:
            return None
        try:
            return parse_expression(source)
        except ExpressionError as error:
            self._fault(path, error.problem, error.remedy)
            return None

    def _needs(self, step: Step, references: Iterable[Reference], place: str, siblings: Mapping[str, Step]) -> list[str]:
        """Explicit needs, then those that references imply; each once, only of the same phase."""
        needs: dict[str, None] = {}
        for need in step.needs:
            if need in siblings:
                needs[need] = None
            else:
                self._fault(f"{place}.needs", f"there is no step {need!r}", _did_you_mean(need, siblings))
        for reference in references:
            if reference.root == "steps" and reference.path and reference.path[0] in siblings:
                needs[str(reference.path[0])] = None
        return list(needs)

    def _check_references(
        self, references: Iterable[Reference], place: str, item_names: Collection[str], steps: Collection[str]
    ) -> None:
        for reference in references:
            problem, remedy = self._reference_fault(reference, item_names, steps)
            if problem:
                self._fault(place, problem, remedy)

    def _reference_fault(self, reference: Reference, item_names: Collection[str], steps: Collection[str]) -> tuple[str, str]:
        root, path = reference.root, reference.path
        if root in item_names or root == "secrets":
            return "", ""
        first = str(path[0]) if path else ""
        if root == "inputs":
            known: Collection[str] = self._workflow.inputs
            kind = "input"
        elif root == "steps":
            known, kind = steps, "step"
        elif root == "run":
            known, kind = RUN_FIELDS, "field of run"
        else:
            roots = ("inputs", "steps", "run", *item_names)
            return f"{root!r} is not known here", _did_you_mean(root, roots) or f"known: {', '.join(roots)}"
        if path and first not in known:
            shown = ", ".join(sorted(known)[:10]) or "none"
            return f"there is no {kind} {first!r}", _did_you_mean(first, known) or f"known: {shown}"
        if root == "steps" and len(path) > 1 and path[1] not in STEP_FIELDS:
            field = str(path[1])
            remedy = f"write steps.{first}.output.{field}, or one of {', '.join(STEP_FIELDS)}"
            return f"a step has no {field!r}", _did_you_mean(field, STEP_FIELDS) or remedy
        return "", ""

    def _check_secrets(self, inputs: Value, place: str) -> None:
        for name in sorted(inputs.secret_names - set(self._workflow.secrets)):
            self._fault(place, f"secret {name!r} is not declared", f"add it: secrets: [{name}]")

    def _settled(self, planned: PlannedStep, bound: BoundExecutor, place: str) -> PlannedStep:
        """The step with what its executor says where the file says nothing."""
        step, defaults = self._source(planned), self._workflow.defaults
        isolation = next((said for said in (step.isolation, defaults.isolation, bound.isolation) if said is not None), "inline")
        limits = isolation if isinstance(isolation, Mapping) else {} if isolation == "process" else None
        if limits is not None:
            problem, remedy = bound.isolation_problem()
            if problem:
                path = f"{place}.isolation" if step.isolation is not None else f"{place}.uses"
                self._fault(path, problem, f"{remedy}; or write isolation: inline")
        timeout_s = planned.timeout_s if planned.timeout_s is not None else bound.timeout_s
        has_retry = step.retry is not None or defaults.retry is not None
        retry = planned.retry if has_retry or bound.retry is None else bound.retry
        if self._is_unstoppable(step, bound) and limits is None:
            self._warn(planned, bound, place)
        return attrs.evolve(planned, limits=limits, timeout_s=timeout_s, retry=retry)

    def _is_unstoppable(self, step: Step, bound: BoundExecutor) -> bool:
        """Whether somebody asked for a deadline of code that cannot be stopped, and could be isolated."""
        is_timed = step.timeout_s is not None or self._workflow.defaults.timeout_s is not None
        return is_timed and not bound.is_async and not bound.isolation_problem()[0]

    def _warn(self, planned: PlannedStep, bound: BoundExecutor, place: str) -> None:
        line, column = self._workflow.position(f"{place}.timeout")
        message = f"{bound.name} is no 'async def': at its timeout the step ends, but its thread goes on"
        remedy = "write isolation: process to have it stopped for certain"
        self._warnings.append(Fault(message, f"{place}.timeout", remedy, self._workflow.file, line, column))

    def _check_inputs(self, planned: PlannedStep, bound: BoundExecutor, place: str) -> None:
        step = self._source(planned)
        if isinstance(step.with_, str):
            return  # one expression for all of them: known when it is evaluated
        known: dict[str, Json] = {}
        unknown: set[str] = set()
        for name, value in step.with_.items():
            if planned.inputs.is_constant or _is_plain(value):
                known[name] = value
            else:
                unknown.add(name)
        for fault in bound.input_faults(known, unknown):
            name = fault.path.split(".")[0].split("[")[0]
            path = f"{place}.with.{name}" if name in step.with_ else f"{place}.with"
            if self._workflow.position(path) == (0, 0):
                path = f"{place}.uses"
            line, column = self._workflow.position(path)
            shown = f"{place}.with.{fault.path}" if fault.path else f"{place}.with"
            self._faults.append(Fault(fault.message, shown, fault.remedy, self._workflow.file, line, column))

    def _check_clients(
        self,
        planned: PlannedStep,
        bound: BoundExecutor,
        place: str,
        registry: Executors,
        found: dict[str, BoundExecutor | TreadleError],
    ) -> None:
        needs = [need.name for need in bound.needs]
        for chosen in planned.clients:
            if chosen not in needs:
                remedy = _did_you_mean(chosen, needs) or f"it needs: {', '.join(needs) or 'no client'}"
                self._fault(f"{place}.clients", f"{bound.name} needs no client {chosen!r}", remedy)
        for need in needs:
            name = planned.clients.get(need, need)
            key = f"client {name}"
            if key not in found:
                try:
                    registry.client(name)
                    found[key] = bound
                except TreadleError as error:
                    found[key] = error
            error_or_bound = found[key]
            if isinstance(error_or_bound, TreadleError):
                path = f"{place}.clients" if need in planned.clients else f"{place}.uses"
                self._fault(path, error_or_bound.problem, error_or_bound.remedy)

    def _source(self, planned: PlannedStep) -> Step:
        steps = self._workflow.finally_steps if planned.node.is_finally else self._workflow.steps
        return steps[planned.id]


def _place(planned: PlannedStep) -> str:
    return f"finally.{planned.id}" if planned.node.is_finally else f"steps.{planned.id}"


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


def _tolerated(max_failures: int | str | None, steps: int) -> int | None:
    """``3`` or ``25%`` (of the steps, rounded down) as a number of steps."""
    if isinstance(max_failures, str):
        return math.floor(float(max_failures.rstrip("% ")) / 100 * steps)
    return max_failures


def _topological(steps: Mapping[str, PlannedStep]) -> Iterator[str]:
    """Paths so that each stands after its needs; declaration order among equals; ``finally`` last."""
    waiting = {path: len(step.node.needs) for path, step in steps.items()}
    dependents: dict[str, list[str]] = {path: [] for path in steps}
    for path, step in steps.items():
        for need in step.node.needs:
            dependents[need].append(path)
    for is_finally in (False, True):
        ready = [path for path, count in waiting.items() if not count and steps[path].node.is_finally == is_finally]
        for path in ready:  # grows while it is walked
            yield path
            for dependent in dependents[path]:
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    ready.append(dependent)


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
