"""Slots that calls and runs share: how ``concurrency`` is written, and which group it comes to in a run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import attrs

from treadle._expressions import Reference, Value, compile_value
from treadle._models import Json
from treadle.errors import ExpressionError

__all__ = ["Concurrency", "PlannedConcurrency", "concurrency_faults"]

MAX_GROUP = 200
"""Longest name of a group."""

_KEYS = ("group", "limit")


@attrs.frozen
class Concurrency:
    """Slots that something needs.

    Attributes:
        group: What has them, in all runs of the store; may hold expressions.
        limit: How many there are.
    """

    group: str
    limit: int = 1

    @classmethod
    def read(cls, data: Json) -> Concurrency:
        """What plain data stand for; ``concurrency_faults`` finds nothing in them."""
        if not isinstance(data, Mapping):
            return cls(cast("str", data).strip())
        return cls(str(data["group"]).strip(), cast("int", data.get("limit", 1)))

    def to_data(self) -> Json:
        """Plain data in canonical form."""
        return self.group if self.limit == 1 else {"group": self.group, "limit": self.limit}


@attrs.frozen
class PlannedConcurrency:
    """The same with its expressions parsed.

    Attributes:
        limit: How many slots the group has.
        references: What the group's expressions look up.
    """

    limit: int
    references: tuple[Reference, ...]
    _group: Value

    @classmethod
    def compile(cls, concurrency: Concurrency, *, braces: bool = False) -> PlannedConcurrency:
        """Parse the expressions of a group.

        Raises:
            ExpressionError: One cannot be parsed.
        """
        group = compile_value(concurrency.group, braces=braces)
        return cls(concurrency.limit, group.references, group)

    def group(self, names: Mapping[str, object]) -> str:
        """The group for these values.

        Raises:
            ExpressionError: A value is no name of a group.
        """
        group = self._group.render(names)
        if isinstance(group, bool) or not isinstance(group, str | int) or not _is_name(str(group)):
            shown = repr(group)[:60] if isinstance(group, str | int | float) or group is None else type(group).__name__
            raise ExpressionError("group", f"{shown} is not the name of a group", "give it 1 to 200 printable characters")
        return str(group)


def _is_name(text: str) -> bool:
    return bool(text.strip()) and len(text) <= MAX_GROUP and text.isprintable()


def concurrency_faults(data: Json) -> Iterator[tuple[str, str, str]]:
    """Everything that is wrong with what is written: key (empty for the whole), problem, remedy.

    Expressions are looked at by whoever reads the file.
    """
    if isinstance(data, str):
        if not _is_name(data):
            yield "", "expected the name of a group: 1 to 200 printable characters", ""
        return
    if not isinstance(data, Mapping):
        yield "", "expected the name of a group, or a mapping", "write concurrency: {group: NAME, limit: 2}"
        return
    for key in data:
        if key not in _KEYS:
            yield str(key)[:60], f"{str(key)[:60]!r} is not a key of concurrency", "keys: group, limit"
    group, limit = data.get("group"), data.get("limit", 1)
    if not isinstance(group, str) or not _is_name(group):
        problem = "concurrency needs a 'group'" if group is None else "expected 1 to 200 printable characters"
        yield "group" if "group" in data else "", problem, "name what is shared, like group: gpu"
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit < 2**31:
        yield "limit", f"expected a whole number from 1, not {limit!r}"[:120], ""
