"""A workflow as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator

from treadle._plan import Plan, PlannedStep

_ESCAPES = {ord(char): f"#{ord(char)};" for char in '#"<>&`'} | {ord("\n"): "<br/>", ord("\r"): None}
_SHOWN = 60


def mermaid(plan: Plan) -> str:
    """Mermaid text: a node per step, an arrow per need, ``finally`` in a box of its own."""
    ids = {path: f"s{number}" for number, path in enumerate(plan.steps)}
    main = [step for step in plan.steps.values() if not step.node.is_finally]
    last = [step for step in plan.steps.values() if step.node.is_finally]
    lines = ["flowchart TD", *(f"    {_node(ids[step.path], step)}" for step in main)]
    lines += [f"    {arrow}" for arrow in _arrows(plan, main, ids)]
    if last:
        lines += ["    subgraph finally", *(f"        {_node(ids[step.path], step)}" for step in last)]
        lines += [f"        {arrow}" for arrow in _arrows(plan, last, ids, within=True)]
        lines += ["    end", *(f"    {arrow}" for arrow in _arrows(plan, last, ids, within=False))]
        lines += [f"    {ids[path]} -.-> finally" for path in _ends(plan, main)]
    return "\n".join(lines)


def _node(id_: str, step: PlannedStep) -> str:
    """A step's node: several boxes for a ``foreach``, a diamond's edges for a condition."""
    parts = [f"<b>{_label(step.id)}</b>", _label(step.executor)]
    if step.foreach is not None:
        parts.append(f"for each {_label(step.item_name)}")
    if step.when is not None:
        parts.append(f"when {_label(step.when.source)}")
    left, right = ("{{", "}}") if step.when is not None else ("[[", "]]") if step.foreach is not None else ("[", "]")
    return f'{id_}{left}"{"<br/>".join(parts)}"{right}'


def _label(text: str) -> str:
    """Text that Mermaid shows as it is: every character that means something to it or to HTML is written as a number."""
    short = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return short.translate(_ESCAPES)


def _arrows(plan: Plan, steps: list[PlannedStep], ids: dict[str, str], *, within: bool | None = None) -> Iterator[str]:
    paths = {step.path for step in steps}
    for step in steps:
        for need in plan.needs(step.path):
            if within is None or (need in paths) is within:
                yield f"{ids[need]} --> {ids[step.path]}"


def _ends(plan: Plan, main: list[PlannedStep]) -> list[str]:
    """The steps that no other step waits for."""
    needed = {need for step in main for need in plan.needs(step.path)}
    return [step.path for step in main if step.path not in needed]
