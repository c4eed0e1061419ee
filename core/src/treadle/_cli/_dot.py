"""A picture in the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from treadle._cli._drawing import Box, Picture, short

_SHAPES = {
    "step": 'shape=box, style="rounded"',
    "map": "shape=box3d",
    "condition": "shape=hexagon",
    "wait": 'shape=box, style="rounded,dashed"',
    "group": "shape=box",
}


def dot(picture: Picture) -> str:
    """A digraph: a node per step, a cluster per group, an edge per need; edges of a group end at its border."""
    anchors = {box.path: _anchor(box) for box in picture.all()}
    clusters = {box.path for box in picture.all() if box.inner}
    lines = [f"digraph {_quoted(picture.name or 'workflow')} {{"]
    lines += ["    compound=true;", "    node [fontname=sans];", "    edge [fontname=sans];", "    fontname=sans;"]
    for box in picture.boxes:
        lines += [f"    {line}" for line in _written(box)]
    for arrow in picture.arrows:
        marks = [f"ltail={_quoted(f'cluster {arrow.source}')}"] if arrow.source in clusters else []
        marks += [f"lhead={_quoted(f'cluster {arrow.target}')}"] if arrow.target in clusters else []
        marks += ["style=dashed"] if arrow.is_loose else []
        end = f" [{', '.join(marks)}]" if marks else ""
        lines.append(f"    {_quoted(anchors[arrow.source])} -> {_quoted(anchors[arrow.target])}{end};")
    return "\n".join([*lines, "}"])


def _anchor(box: Box) -> str:
    """The node that stands for a group where Graphviz knows only nodes."""
    return _anchor(box.inner[0]) if box.inner else box.path


def _written(box: Box) -> Iterator[str]:
    label = _quoted("\n".join([short(box.title), *map(short, box.notes)]))
    if not box.inner:
        yield f"{_quoted(box.path)} [label={label}, {_SHAPES[box.shape]}];"
        return
    yield f"subgraph {_quoted(f'cluster {box.path}')} {{"
    yield f"    label={label};"
    for inner in box.inner:
        yield from (f"    {line}" for line in _written(inner))
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "").replace("\n", "\\n")
    return f'"{escaped}"'
