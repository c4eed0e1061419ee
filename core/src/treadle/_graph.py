"""What the scheduler knows of a workflow: a tree of nodes and the rules that hold for them, without values."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Literal

import attrs

from treadle._budgets import Budget
from treadle._models import GroupForm

OnError = Literal["stop", "continue"]
OnInterrupt = Literal["rerun", "fail", "ask"]
NeedsRule = Literal["all_succeeded", "all_done", "any_succeeded"]


@attrs.frozen
class Rules:
    """What holds for steps that start and stop together: those of a run, or of a group.

    Attributes:
        on_error: What happens when a step without its own ``on_error`` fails.
        max_failures: Failed steps that are tolerated; one more stops the rest. None: ``on_error`` decides.
        max_parallel: Calls at once; None leaves it to what is around the group.
        timeout_s: How long all of it may take.
        has_outputs: Whether outputs are evaluated at the end.
    """

    on_error: OnError = "stop"
    max_failures: int | None = None
    max_parallel: int | None = None
    timeout_s: float | None = None
    has_outputs: bool = False


@attrs.frozen
class Variant:
    """What stands beside a step's executor: a fallback or its compensation.

    Attributes:
        max_attempts: Attempts of it, the first included.
        on_interrupt: As of a node.
    """

    max_attempts: int = 1
    on_interrupt: OnInterrupt = "rerun"


@attrs.frozen
class Node:
    """What the scheduler knows of a step.

    Attributes:
        path: The step in the plan: ``publish/post``, without items.
        needs: Paths of the steps it waits for: of the same group, in the same phase.
        has_when: Whether a condition is asked before it starts.
        is_map: Whether it has a ``foreach``.
        max_parallel: Items of the map at once; None leaves it to the run.
        max_attempts: Attempts of each item, the first included.
        on_error: What the step itself says; None leaves it to the group or run.
        is_finally: Whether it runs after the rest of its workflow, whatever happened.
        on_interrupt: What a new stint does with its calls that may have been running: make them again, end them, or ask.
        is_wait: Whether it waits for a time or a signal instead of making calls.
        form: What kind of group it is; None for a step that calls an executor.
        children: Of a group; those of a subflow's ``finally`` come last.
        rules: What holds for the children.
        needs_rule: Which of its needs must have succeeded.
        max_failures: Failed items that a ``foreach`` tolerates: an int, or a float of percent; None: ``on_error`` decides.
        fallbacks: What is tried, in order, when the executor has finally failed.
        compensation: What undoes the step.
        budget: What it may use up of what is around it.
        priority: Of its calls among those that are ready: higher ones first.
        has_slots: Whether each of its calls needs a slot of a group.
    """

    path: str
    needs: tuple[str, ...] = ()
    has_when: bool = False
    is_map: bool = False
    max_parallel: int | None = None
    max_attempts: int = 1
    on_error: OnError | None = None
    is_finally: bool = False
    on_interrupt: OnInterrupt = "rerun"
    is_wait: bool = False
    form: GroupForm | None = None
    children: tuple[Node, ...] = ()
    rules: Rules | None = None
    needs_rule: NeedsRule = "all_succeeded"
    max_failures: int | float | None = None
    fallbacks: tuple[Variant, ...] = ()
    compensation: Variant | None = None
    budget: Budget | None = None
    priority: int = 0
    has_slots: bool = False


@attrs.frozen(slots=False)
class Graph:
    """What the scheduler knows of a workflow.

    Attributes:
        nodes: In the order of declaration, which is the order of starting among equals.
        max_parallel: Calls at once.
        on_error: What the run does when a step without its own ``on_error`` fails.
        max_failures: Failed steps that are tolerated; one more stops the run. None: ``on_error`` decides.
        has_outputs: Whether outputs are evaluated at the end.
        timeout_s: How long the whole run may take, ``finally`` aside.
        max_retries: Retries of all steps together; None for any number.
        budget: What the run may use up.
        has_slot: Whether the run needs a slot of a group while it is driven.
    """

    nodes: tuple[Node, ...]
    max_parallel: int = 10
    on_error: OnError = "stop"
    max_failures: int | None = None
    has_outputs: bool = False
    timeout_s: float | None = None
    max_retries: int | None = None
    budget: Budget | None = None
    has_slot: bool = False

    # What is asked of all nodes is looked up once for all runs.

    @cached_property
    def has_budget(self) -> bool:
        """Whether there is one anywhere."""
        return self.budget is not None or any(node.budget is not None for node in walk(self.nodes))

    @cached_property
    def has_variants(self) -> bool:
        """Whether a step can make other calls than its own."""
        return any(node.fallbacks or node.compensation for node in walk(self.nodes))

    @cached_property
    def has_slots(self) -> bool:
        """Whether a call needs a slot."""
        return any(node.has_slots for node in walk(self.nodes))

    @cached_property
    def has_priorities(self) -> bool:
        """Whether some steps come before others."""
        return len({node.priority for node in walk(self.nodes)}) > 1


def walk(nodes: Iterable[Node]) -> Iterator[Node]:
    """All nodes of a tree."""
    ahead = deque(nodes)
    while ahead:
        node = ahead.popleft()
        yield node
        ahead.extend(node.children)
