"""A picture as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator

from treadle._cli._drawing import Arrow, Box, Picture, short

_ESCAPES = {ord(char): f"#{ord(char)};" for char in '#"<>&`'} | {ord("\n"): "<br/>", ord("\r"): None}
_BRACKETS = {
    "step": ("[", "]"),
    "map": ("[[", "]]"),
    "condition": ("{{", "}}"),
    "wait": ("([", "])"),
    "group": ("[", "]"),
}


def mermaid(picture: Picture) -> str:
    """Mermaid text: a node per step, a subgraph per group, an arrow per need; each arrow in the group that holds both ends."""
    boxes = [*picture.all()]
    ids = {box.path: f"s{number}" for number, box in enumerate(box for box in boxes if not box.inner)}
    ids |= {box.path: f"g{number}" for number, box in enumerate(box for box in boxes if box.inner)}
    if "finally" in ids:
        ids["finally"] = "finally"
    lines = [f"    {line}" for line in _within(picture.boxes, picture.arrows, ids)]
    return "\n".join(["flowchart TD", *lines])


def _within(boxes: tuple[Box, ...], arrows: tuple[Arrow, ...], ids: dict[str, str]) -> Iterator[str]:
    """What stands in a group, or in the picture: boxes, then the arrows between those that are not deeper together."""
    inner = {box.path: {each.path for each in box.all()} for box in boxes}
    for box in boxes:
        if not box.inner:
            yield _node(ids[box.path], box)
            continue
        yield f"subgraph {_head(ids[box.path], box)}"
        yield from (f"    {line}" for line in _within(box.inner, _inside(arrows, inner[box.path]), ids))
        yield "end"
    for arrow in arrows:
        if not any({arrow.source, arrow.target} <= paths and len(paths) > 1 for paths in inner.values()):
            yield f"{ids[arrow.source]} {'-.->' if arrow.is_loose else '-->'} {ids[arrow.target]}"


def _inside(arrows: tuple[Arrow, ...], paths: set[str]) -> tuple[Arrow, ...]:
    return tuple(arrow for arrow in arrows if {arrow.source, arrow.target} <= paths)


def _head(id_: str, box: Box) -> str:
    return id_ if id_ == box.title and not box.notes else f'{id_}["{_text(box)}"]'


def _node(id_: str, box: Box) -> str:
    left, right = _BRACKETS[box.shape]
    return f'{id_}{left}"{_text(box)}"{right}'


def _text(box: Box) -> str:
    return "<br/>".join([f"<b>{_label(box.title)}</b>", *map(_label, box.notes)])


def _label(text: str) -> str:
    """Text that Mermaid shows as it is: every character that means something to it or to HTML is written as a number."""
    return short(text).translate(_ESCAPES)
