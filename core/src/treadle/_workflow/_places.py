"""Where things are in the text of a workflow file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from treadle.errors import Fault

MAX_DEPTH = 50
"""Mappings and lists within each other, in one file."""

MAX_NODES = 1_000_000
"""Values in one file."""

MAX_FAULTS = 100
"""Faults of the text that are collected before reading stops."""

Places = dict[str | int, "Place"]
"""Key or index -> where it is, and what lies within."""

Place = tuple[int, int, Places]
"""Line and column, from 1, and the places within."""


NOTHING: Places = {}
"""What lies within a value that is neither a mapping nor a list; shared, so never filled."""


class Unreadable(Exception):
    """The text cannot be read any further."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault.message)


class TextPositions:
    """Where everything is in a text; worked out when the first place is asked for, since most files have no fault."""

    def __init__(self, text: str, locate: Callable[[str], Places]) -> None:
        self._text, self._locate = text, locate
        self._places: Places | None = None

    def find(self, path: str) -> tuple[int, int]:
        """Line and column of a path like ``steps.page.with.url[2]``; ``(0, 0)`` when it is not there."""
        if self._places is None:
            self._places = self._locate(self._text)
        return _find(self._places, path)


def _find(places: Places, path: str) -> tuple[int, int]:
    # A key may hold dots itself, so each end of a key is tried.
    for end in (*(match.start() for match in re.finditer(r"(?<!^)[.\[]", path)), len(path)):
        head, rest = path[:end], path[end:].removeprefix(".")
        key: str | int = int(head[1:-1]) if re.fullmatch(r"\[\d{1,9}\]", head) else head
        found = places.get(key)
        if found is not None:
            place = _find(found[2], rest) if rest else found[:2]
            if place != (0, 0):
                return place
    return (0, 0)


def place_in(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def spell_path(keys: Iterable[str | int]) -> str:
    """A path as faults have it: ``steps.page.with.url[2]``; long keys are cut."""
    parts = [f"[{key}]" if isinstance(key, int) else f".{key[:60]}" for key in keys if key != ""]
    return "".join(parts).removeprefix(".")
