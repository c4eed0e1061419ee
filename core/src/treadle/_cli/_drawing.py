"""A workflow as a picture: boxes, boxes within boxes, and arrows, for whoever writes them down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from treadle._cli._output import spell
from treadle._graph import Node
from treadle._paths import scope_path
from treadle._plan import Plan, PlannedStep
from treadle._waits import Wait

Shape = Literal["step", "map", "condition", "wait", "group"]

LONGEST = 60
"""Longest line of a box: the rest is cut."""


@attrs.frozen
class Box:
    """A step, or a group of boxes.

    Attributes:
        path: The step; ``finally`` for what runs at the end.
        title: Its name.
        notes: What else to say of it, a line each.
        shape: What kind of thing it is.
        inner: What it holds, for a group.
    """

    path: str
    title: str
    notes: tuple[str, ...] = ()
    shape: Shape = "step"
    inner: tuple[Box, ...] = ()

    def all(self) -> Iterator[Box]:
        """This box and all within it, each before what it holds."""
        yield self
        for box in self.inner:
            yield from box.all()


@attrs.frozen
class Arrow:
    """What comes after what.

    Attributes:
        source: Path of the box that comes first.
        target: Path of the box that waits for it.
        is_loose: Whether the target runs however the source ends.
    """

    source: str
    target: str
    is_loose: bool = False


@attrs.frozen
class Picture:
    """A workflow.

    Attributes:
        name: Of the workflow.
        boxes: The outermost, ``finally`` last.
        arrows: Between any two of them.
    """

    name: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]

    def all(self) -> Iterator[Box]:
        """Every box, each before what it holds."""
        for box in self.boxes:
            yield from box.all()


def draw(plan: Plan, *, fold: bool = False) -> Picture:
    """The picture of a plan: a box per step, a box around the steps of a group, an arrow per need.

    Args:
        plan: The plan.
        fold: Whether a subflow is a box without its steps.
    """
    arrows: list[Arrow] = []
    boxes = _scope(plan, "", plan.graph.nodes, arrows, fold=fold)
    return Picture(plan.workflow.name, boxes, tuple(arrows))


def _scope(plan: Plan, around: str, nodes: Sequence[Node], arrows: list[Arrow], *, fold: bool) -> tuple[Box, ...]:
    """The boxes of steps that start and stop together; adds the arrows between them."""
    main = [node for node in nodes if not node.is_finally]
    last = [node for node in nodes if node.is_finally]
    arrows += [Arrow(need, node.path) for node in nodes for need in node.needs]
    boxes = [_box(plan, node, arrows, fold=fold) for node in main]
    if last:
        path = f"{around}/finally" if around else "finally"
        inner = tuple([_box(plan, node, arrows, fold=fold) for node in last])
        boxes.append(Box(path, "finally", shape="group", inner=inner))
        needed = {need for node in main for need in node.needs}
        arrows += [Arrow(node.path, path, is_loose=True) for node in main if node.path not in needed]
    return tuple(boxes)


_FORMS = {"parallel": "group", "choose": "choose", "workflow": "workflow"}


def _box(plan: Plan, node: Node, arrows: list[Arrow], *, fold: bool) -> Box:
    step = plan.steps[node.path]
    is_folded = fold and node.form == "workflow"
    inner = () if is_folded else _scope(plan, node.path, node.children, arrows, fold=fold)
    return Box(node.path, step.id, tuple(notes(plan, step)), _shape(step), inner)


def _shape(step: PlannedStep) -> Shape:
    if step.node.form is not None:
        return "group"
    if step.wait is not None:
        return "wait"
    return "condition" if step.when is not None else "map" if step.foreach is not None else "step"


def notes(plan: Plan, step: PlannedStep) -> Iterator[str]:
    """What a box says below its title."""
    if step.executor:
        yield step.executor
    elif step.wait is not None:
        yield _waits(step.wait.wait)
    elif step.node.form == "workflow":
        yield f"workflow {step.subflow.name}" if step.subflow is not None else "workflow"
    elif step.node.form is not None:
        yield _FORMS[step.node.form]
    for variant, body in step.bodies.items():
        yield f"undone by {body.executor}" if variant == "compensation" else f"else {body.executor}"
    if step.foreach is not None:
        yield f"for each {step.item_name}" + (f", {step.batch} at a time" if step.batch else "")
    if step.when is not None:
        yield f"when {step.when.source}"
    elif _is_else(plan, step):
        yield "else"


def _is_else(plan: Plan, step: PlannedStep) -> bool:
    """Whether it is the branch that is taken when no other is."""
    owner = plan.steps.get(scope_path(step.path))
    return owner is not None and (step.id, None) in owner.branches


def _waits(wait: Wait) -> str:
    if wait.is_approval:
        return f"asks for approval: {wait.signal}"
    if wait.signal:
        return f"waits for {wait.signal}"
    if wait.duration is None:
        return f"waits until {wait.until}"
    return f"waits {wait.duration if isinstance(wait.duration, str) else spell(wait.duration)}"


def short(text: str) -> str:
    """A line that fits into a box."""
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
