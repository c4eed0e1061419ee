"""What the scheduler knows of a workflow: nodes and the rules of the run, without values."""

from __future__ import annotations

from typing import Literal

import attrs

OnError = Literal["stop", "continue"]
OnInterrupt = Literal["rerun", "fail"]


@attrs.frozen
class Node:
    """What the scheduler knows of a step.

    Attributes:
        path: The step.
        needs: Paths of the steps it waits for, in the same phase.
        has_when: Whether a condition is asked before it starts.
        is_map: Whether it has a ``foreach``.
        max_parallel: Items of the map at once; None leaves it to the run.
        max_attempts: Attempts of each item, the first included.
        on_error: What the step itself says; None leaves it to the run.
        is_finally: Whether it runs after the rest, whatever happened.
        on_interrupt: What a new stint does with its calls that may have been running: make them again, or end them.
        is_wait: Whether it waits for a time or a signal instead of making calls.
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


@attrs.frozen
class Graph:
    """What the scheduler knows of a workflow.

    Attributes:
        nodes: In the order of declaration, which is the order of starting among equals.
        max_parallel: Calls at once.
        on_error: What the run does when a step without its own ``on_error`` fails.
        max_failures: Failed steps that are tolerated; one more stops the run. None: ``on_error`` decides.
        has_outputs: Whether outputs are evaluated at the end.
    """

    nodes: tuple[Node, ...]
    max_parallel: int = 10
    on_error: OnError = "stop"
    max_failures: int | None = None
    has_outputs: bool = False
