"""A workflow as a picture: boxes, boxes within boxes, and arrows, for whoever writes them down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from treadle._plan import Plan, PlannedStep

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


def draw(plan: Plan) -> Picture:
    """The picture of a plan: a box per step, an arrow per need, ``finally`` in a box of its own."""
    steps = plan.steps.values()
    main = [step for step in steps if not step.node.is_finally]
    last = [step for step in steps if step.node.is_finally]
    boxes = [_box(step) for step in main]
    arrows = [Arrow(need, step.path) for step in steps for need in plan.needs(step.path)]
    if last:
        boxes.append(Box("finally", "finally", shape="group", inner=tuple(map(_box, last))))
        arrows += [Arrow(path, "finally", is_loose=True) for path in _ends(plan, main)]
    return Picture(plan.workflow.name, tuple(boxes), tuple(arrows))


def _box(step: PlannedStep) -> Box:
    notes = [step.executor] if step.executor else []
    shape: Shape = "step"
    if step.wait is not None:
        shape = "wait"
        notes.append(f"wait for {step.wait.wait.signal}" if step.wait.wait.signal else "wait")
    if step.foreach is not None:
        shape = "map"
        notes.append(f"for each {step.item_name}")
    if step.when is not None:
        shape = "condition"
        notes.append(f"when {step.when.source}")
    return Box(step.path, step.id, tuple(notes), shape)


def _ends(plan: Plan, main: Sequence[PlannedStep]) -> list[str]:
    """The steps that no other step waits for."""
    needed = {need for step in main for need in plan.needs(step.path)}
    return [step.path for step in main if step.path not in needed]


def short(text: str) -> str:
    """A line that fits into a box."""
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
