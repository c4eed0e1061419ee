"""Takes secrets out of texts and of the data that holds them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

import attrs

from treadle_redact._patterns import FIELD, HIDDEN, SHAPES, without_shapes
from treadle_redact._spellings import pattern_of

MAX_DEPTH = 200
"""How deep data is looked into; no deeper data is JSON for treadle."""


class Redactor:
    """Knows values and shapes, and takes both out of whatever it is given.

    Args:
        shapes: Expressions; what they match is hidden, or their group ``hidden``.
        hides_fields: Whether the texts of fields such as ``password`` are hidden in data.
        covers_outputs: Whether a run that is given it shall clean its outputs as well.
    """

    def __init__(
        self,
        shapes: Iterable[re.Pattern[str]] = SHAPES,
        *,
        hides_fields: bool = True,
        covers_outputs: bool = False,
    ) -> None:
        self.covers_outputs = covers_outputs
        self._shapes = tuple(shapes)
        self._hides_fields = hides_fields
        self._values: frozenset[str] = frozenset()
        self._known: re.Pattern[str] | None = None

    def learn(self, values: Iterable[str]) -> None:
        """Hide these values too, from now on."""
        values = self._values | set(values)
        if values != self._values:
            self._values, self._known = values, pattern_of(values)

    def text(self, text: str) -> str:
        """``text`` with ``***`` in the place of every secret."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return without_shapes(text, self._shapes)

    def value(self, value: object, field: str = "", depth: int = 0) -> object:
        """``value`` without secrets: itself when it holds none, else a copy.

        Looks into mappings, lists, tuples, attrs classes, dataclasses and pydantic's models.
        """
        if isinstance(value, str):
            is_hidden = self._hides_fields and value and FIELD.fullmatch(field)
            found = HIDDEN if is_hidden else self.text(value)
            return value if found == value else found
        if value is None or isinstance(value, bool | int | float) or depth > MAX_DEPTH:
            return value
        if isinstance(value, Mapping):
            return self._mapping(value, depth + 1)
        if isinstance(value, list | tuple):
            return self._sequence(value, field, depth + 1)
        return self._record(value, depth + 1)

    def _mapping(self, value: Mapping[object, object], depth: int) -> object:
        copy = {
            self.text(key) if isinstance(key, str) else key: self.value(item, key if isinstance(key, str) else "", depth)
            for key, item in value.items()
        }
        is_same = len(copy) == len(value) and all(key in value and value[key] is item for key, item in copy.items())
        return value if is_same else copy

    def _sequence(self, value: list[object] | tuple[object, ...], field: str, depth: int) -> object:
        items = [self.value(item, field, depth) for item in value]
        if all(item is before for item, before in zip(items, value, strict=True)):
            return value
        if isinstance(value, list):
            return items
        named = getattr(type(value), "_make", None)  # of a named tuple
        return named(items) if named is not None else tuple(items)

    def _record(self, value: object, depth: int) -> object:
        """An attrs instance, dataclass or model with its changed fields replaced; anything else as it is."""
        kind = type(value)
        if attrs.has(kind):
            changed = self._changed(value, [(field.name, field.alias) for field in attrs.fields(kind) if field.init], depth)
            evolve: Callable[..., object] = attrs.evolve
            return evolve(value, **changed) if changed else value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            changed = self._changed(
                value, [(field.name, field.name) for field in dataclasses.fields(value) if field.init], depth
            )
            return dataclasses.replace(value, **changed) if changed else value
        copy: Callable[..., object] | None = getattr(kind, "model_copy", None)  # of pydantic's models
        if copy is not None:
            changed = self._changed(value, [(name, name) for name in vars(value)], depth)
            return copy(value, update=changed) if changed else value
        return value

    def _changed(self, value: object, names: list[tuple[str, str]], depth: int) -> dict[str, object]:
        changed = {}
        for name, alias in names:
            before = getattr(value, name, None)
            after = self.value(before, name, depth)
            if after is not before:
                changed[alias] = after
        return changed
