"""A picture as text: a line per step, and at its left a lane for each step that others still wait for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from treadle._cli._drawing import Box, Picture
from treadle._cli._output import clean

_SIGNS = {"step": "●", "map": "◉", "condition": "◆", "wait": "◷", "group": "▣"}
_PLAIN_SIGNS = {"step": "o", "map": "@", "condition": "?", "wait": "~", "group": "#"}
_LINES = {"down": "│", "from": "├", "end": "╰", "over": "─", "cross": "┼", "in": "┴"}
_PLAIN_LINES = {"down": "|", "from": "+", "end": "`", "over": "-", "cross": "+", "in": "+"}


@attrs.define
class _Lane:
    """A step that others wait for."""

    source: str
    waiting: set[str]


def lanes(picture: Picture, *, plain: bool = False) -> str:
    """The lines of a picture.

    Args:
        picture: The picture.
        plain: Whether only ASCII may be used.
    """
    style = (_PLAIN_SIGNS, _PLAIN_LINES) if plain else (_SIGNS, _LINES)
    needs: dict[str, list[str]] = {box.path: [] for box in picture.all()}
    for arrow in picture.arrows:
        needs[arrow.target].append(arrow.source)
    lines = [clean(picture.name)] if picture.name else []
    return "\n".join([*lines, *_drawn(picture.boxes, needs, *style)])


def _drawn(
    boxes: Sequence[Box], needs: Mapping[str, Sequence[str]], signs: Mapping[str, str], marks: Mapping[str, str]
) -> Iterator[str]:
    """The lines of the boxes of one group, in an order in which each stands after its needs."""
    here = {box.path for box in boxes}
    own = {box.path: [need for need in needs[box.path] if need in here] for box in boxes}
    waiting = {path: {box.path for box in boxes if path in own[box.path]} for path in here}
    open_: list[_Lane | None] = []
    for box in _ordered(boxes, own):
        sources = [number for number, lane in enumerate(open_) if lane is not None and box.path in lane.waiting]
        ending = [number for number in sources if open_[number].waiting == {box.path}]  # type: ignore[union-attr]  # just looked
        if len(sources) == 1 and ending == sources:
            column = sources[0]
            yield _row(open_, marks)
        else:
            column = _free(open_, sources)
        for number in sources:
            lane = open_[number]
            assert lane is not None
            lane.waiting.discard(box.path)
        beside = "".join(f" {marks['down'] if lane is not None else ' '}" for lane in open_[column + 1 :])
        yield f"{_branch(open_, sources, ending, column, marks)}{signs[box.shape]}{beside} {_text(box)}".rstrip()
        for number in ending:
            open_[number] = None
        if column == len(open_):
            open_.append(None)
        open_[column] = _Lane(box.path, waiting[box.path]) if waiting[box.path] else None
        while open_ and open_[-1] is None:
            open_.pop()
        if box.inner:
            lead = _row(open_, marks, width=column + 1)
            yield from (f"{lead}  {line}" for line in _drawn(box.inner, needs, signs, marks))


def _free(open_: Sequence[_Lane | None], sources: Sequence[int]) -> int:
    """A column for a new step: the first that is free right of all that it waits for."""
    first = max(sources, default=-1) + 1
    return next((number for number in range(first, len(open_)) if open_[number] is None), max(first, len(open_)))


def _row(open_: Sequence[_Lane | None], marks: Mapping[str, str], width: int = 0) -> str:
    """The lanes alone."""
    cells = [marks["down"] if lane is not None else " " for lane in open_]
    return " ".join(cells + [" "] * (width - len(cells)))


def _branch(
    open_: Sequence[_Lane | None], sources: Sequence[int], ending: Sequence[int], column: int, marks: Mapping[str, str]
) -> str:
    """What stands left of a step: lanes that go on, and the line from those that it waits for."""
    if column in sources:
        return "".join(f"{marks['down'] if lane is not None else ' '} " for lane in open_[:column])
    first = min(sources, default=column)
    cells = []
    for number in range(column):
        lane = open_[number] if number < len(open_) else None
        if number in sources:
            mark = (
                marks["end" if number == first else "in"] if number in ending else marks["from" if number == first else "cross"]
            )
        elif number > first:
            mark = marks["cross"] if lane is not None else marks["over"]
        else:
            mark = marks["down"] if lane is not None else " "
        cells.append(f"{mark}{marks['over'] if number >= first else ' '}")
    return "".join(cells)


def _ordered(boxes: Sequence[Box], needs: Mapping[str, Sequence[str]]) -> list[Box]:
    """Each box after its needs, and as soon after them as can be, so that lanes are short."""
    ordered: list[Box] = []
    placed: set[str] = set()
    by_path = {box.path: box for box in boxes}
    rest = list(by_path)
    while rest:
        ready = [path for path in rest if placed.issuperset(needs[path])]
        recent = {box.path: number for number, box in enumerate(ordered)}
        # What goes on from the latest step first; among equals the order of the file.
        path = max(ready, key=lambda path: max((recent[need] for need in needs[path]), default=-1))
        rest.remove(path)
        placed.add(path)
        ordered.append(by_path[path])
    return ordered


def _text(box: Box) -> str:
    return clean("  ".join([box.title, *box.notes]))
