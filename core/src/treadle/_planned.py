"""A plan: the tree of steps that can run, with executors bound, expressions parsed and references resolved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import attrs

from treadle._bind import BoundExecutor
from treadle._expressions import Expression, Value
from treadle._graph import Graph, Node
from treadle._models import Json, RetryPolicy
from treadle._policy_keys import PlannedKeys
from treadle._slots import PlannedConcurrency
from treadle._waits import PlannedWait
from treadle._workflow import Workflow
from treadle.errors import Fault


@attrs.frozen
class PlannedBody:
    """A call that a step may make beside its own: a fallback, or what undoes it.

    Attributes:
        executor: Name of the executor.
        inputs: Its ``with``.
        retry: How it is retried.
        timeout_s: Deadline of one attempt.
        clients: Need -> name of the client.
        limits: As of a step.
    """

    executor: str
    inputs: Value
    retry: RetryPolicy
    timeout_s: float | None
    clients: Mapping[str, str]
    limits: Mapping[str, Json] | None = None


@attrs.frozen
class PlannedStep:
    """A step, ready to be rendered into calls, or opened when it is a group.

    Attributes:
        path: ``report``, ``publish/post`` or ``finally/notify``: without items.
        id: Its name in the file.
        executor: Name of the executor; empty for a group, and for a step that waits.
        inputs: Its ``with``.
        when: Its condition; of a branch, too.
        foreach: Its list.
        item_name: What an item is called in expressions.
        retry: How it is retried.
        timeout_s: Deadline of one attempt.
        clients: Need -> name of the client.
        node: What the scheduler knows of it.
        limits: For a step in a process of its own: what it says of the limits; None: the run's process.
        wait: What a step waits for that uses no executor.
        keys: What it says to policies; None for nothing.
        batch: Items of the ``foreach`` that are handed over together; None for one at a time.
        bodies: Variant -> the call: ``fallback 1`` ..., ``compensation``.
        branches: Of a choice: id and condition in the order of asking; None for the condition of ``else``.
        subflow: The workflow that it runs.
        outputs: Of a subflow: name -> value.
        in_finally: Whether it is part of a ``finally``, however deep in groups of it.
        concurrency: The slots that its calls need.
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
    batch: int | None = None
    bodies: Mapping[str, PlannedBody] = attrs.field(factory=dict)
    branches: tuple[tuple[str, Expression | None], ...] = ()
    subflow: Workflow | None = None
    outputs: Mapping[str, Value] = attrs.field(factory=dict)
    in_finally: bool = False
    concurrency: PlannedConcurrency | None = None

    def body(self, variant: str) -> PlannedStep | PlannedBody:
        """The call that a variant makes."""
        return self if variant == "primary" else self.bodies[variant]

    @property
    def calls(self) -> Iterator[tuple[str, PlannedStep | PlannedBody]]:
        """Every call that it may make, by variant."""
        if self.executor:
            yield "primary", self
        yield from self.bodies.items()


@attrs.frozen(eq=False, slots=False)
class Plan:
    """A workflow that can run.

    Attributes:
        workflow: What was planned, with the subflows that it uses.
        steps: Path -> step, in the order of declaration, each group before its steps, ``finally`` last.
        graph: What the scheduler knows.
        outputs: Name -> value of the run's outputs.
        executors: Name -> bound executor; empty for a plan that only replays.
        warnings: What can run, but probably not as meant.
        looks_at_errors: Whether an expression asks for ``errors``.
        concurrency: The slot that the run needs.
    """

    workflow: Workflow
    steps: Mapping[str, PlannedStep]
    graph: Graph
    outputs: Mapping[str, Value]
    executors: Mapping[str, BoundExecutor]
    warnings: tuple[Fault, ...] = ()
    looks_at_errors: bool = False
    concurrency: PlannedConcurrency | None = None

    @cached_property
    def has_slots(self) -> bool:
        """Whether the run or a call of it needs a slot."""
        return self.concurrency is not None or any(step.concurrency is not None for step in self.steps.values())

    @cached_property
    def listens(self) -> bool:
        """Whether a step waits for a signal."""
        return any(step.wait is not None and step.wait.wait.signal for step in self.steps.values())

    @cached_property
    def has_maps(self) -> bool:
        """Whether a step has a ``foreach``."""
        return any(step.node.is_map for step in self.steps.values())

    @cached_property
    def is_isolated(self) -> bool:
        """Whether a call is made in a process of its own."""
        return any(call.limits is not None for step in self.steps.values() for _, call in step.calls)

    @cached_property
    def undoes(self) -> bool:
        """Whether a step has a compensation."""
        return any(step.node.compensation is not None for step in self.steps.values())

    @cached_property
    def document(self) -> Mapping[str, Json]:
        """The workflow as plain data, for the log; made once for all runs of the plan."""
        return self.workflow.to_dict()

    @cached_property
    def hash(self) -> str:
        """The workflow's hash."""
        return self.workflow.hash

    @cached_property
    def secret_names(self) -> frozenset[str]:
        """The secrets that its calls take."""
        return frozenset(name for step in self.steps.values() for _, call in step.calls for name in call.inputs.secret_names)

    @cached_property
    def spenders(self) -> tuple[str, ...] | None:
        """The steps whose executors can use something up, where a budget has to be divided among them; None where none has."""
        if not self.graph.has_budget:
            return None
        takers = {name for name, bound in self.executors.items() if bound.takes_context}
        return tuple(path for path, step in self.steps.items() if any(call.executor in takers for _, call in step.calls))

    @property
    def order(self) -> list[str]:
        """Paths so that each step stands after its needs; declaration order among equals; ``finally`` last."""
        return [path for level in self.levels for path in level]

    @property
    def levels(self) -> list[list[str]]:
        """Paths by depth: the steps of one level need only steps of earlier ones. ``finally`` levels come last.

        The steps of a group begin at its level, and what needs the group comes after all of them.
        """
        depth: dict[str, int] = {}
        _place(self.graph.nodes, 0, depth)
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


def _place(nodes: Iterable[Node], first: int, depth: dict[str, int]) -> int:
    """Give every step of a scope its level, from ``first``; the answer is the last level that is used."""
    last = first - 1
    after: dict[str, int] = {}  # -> the level after all of the step
    for part in (False, True):
        begin = last + 1 if part else first
        for node in _topological([node for node in nodes if node.is_finally == part]):
            level = max((after[need] for need in node.needs), default=begin)
            depth[node.path] = level
            end = max(level, _place(node.children, level, depth)) if node.children else level
            after[node.path] = end + 1
            last = max(last, end)
    return last


def _topological(nodes: list[Node]) -> Iterator[Node]:
    """Nodes of one scope so that each stands after its needs; declaration order among equals."""
    waiting = {node.path: len(node.needs) for node in nodes}
    dependents: dict[str, list[Node]] = {node.path: [] for node in nodes}
    for node in nodes:
        for need in node.needs:
            dependents[need].append(node)
    ready = [node for node in nodes if not node.needs]
    for node in ready:  # grows while it is walked
        yield node
        for dependent in dependents[node.path]:
            waiting[dependent.path] -= 1
            if not waiting[dependent.path]:
                ready.append(dependent)
