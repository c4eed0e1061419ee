"""Plain JSON data: one guarded walk that copies a value, or says everywhere it is not JSON."""

from __future__ import annotations

import enum
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol, cast

import attrs

from treadle._models import Issue, Json

MAX_DEPTH = 200
"""Containers within containers; more is refused, long before Python's own recursion limit."""

MAX_BYTES = 64 * 1024 * 1024
"""Default for the estimated size of one value."""

MAX_ISSUES = 20
"""The walk stops after that many issues: a list of a million sets needs no million lines."""

# What the estimate counts besides the characters of texts: near what the copy takes in memory.
_SLOT_BYTES = 8
_CONTAINER_BYTES = 64
# Python refuses to write a larger integer as text (its default limit is 4,300 digits).
_MAX_INT_BITS = 14_000
# Texts are checked for lone surrogates in slices, so that a large one is not copied as a whole.
_SLICE = 1 << 16

Place = tuple["Place | None", str | int, int]
"""A place below the root: its parent (None: the root), its key or index, and its depth from 1."""


class NotJsonError(ValueError):
    """A value that is not plain JSON; ``issues`` says where and what to return instead."""

    def __init__(self, issues: list[Issue]) -> None:
        self.issues = issues
        super().__init__("; ".join(str(issue) for issue in issues))


class Shape(Protocol):
    """Guides the walk through values of declared types: says how an instance is read."""

    def open(self, value: object) -> tuple[object, Shape | None]:
        """The value with its outermost layer turned into a container or a text, and the shape that guides what is inside."""

    def child(self, key: str | int) -> Shape | None:
        """The shape of what is under a key or index; None for any JSON."""


def plain(value: object, *, max_bytes: int = MAX_BYTES, shape: Shape | None = None) -> Json:
    """A deep copy of ``value`` as plain JSON: tuples become lists, enums and subclasses of str, int, float their plain values.

    Args:
        value: Anything that an executor may return.
        max_bytes: Largest size, estimated while walking, so that too large a value is not copied first.
        shape: How instances of declared types are read; None: no instance is.

    Returns:
        New containers throughout; texts are shared.

    Raises:
        NotJsonError: With up to ``MAX_ISSUES`` issues and their paths.
    """
    if shape is None and type(value) is dict and len(value) <= 16 and _is_small_and_flat(value, max_bytes):
        return value.copy()
    walk = _Walk(max_bytes)
    try:
        copy = walk.copy(value, None, shape)
    except _StopWalk:
        pass
    except RuntimeError as error:
        # Another thread changes the value while it is read ("dictionary changed size during iteration").
        walk.issues.append(Issue(f"cannot be read: {error}; do not change a value after returning it", "$"))
    if walk.issues:
        raise NotJsonError(walk.issues)
    return copy


def copy_json(value: Json) -> Json:
    """A deep copy of what is known to be plain JSON already."""
    if type(value) is dict:
        return {key: copy_json(item) if type(item) in _CONTAINERS else item for key, item in value.items()}
    if type(value) is list:
        return [copy_json(item) if type(item) in _CONTAINERS else item for item in value]
    return value


def path_text(path: Place | None) -> str:
    """``$.items[3]['odd key']``; a very long path is shortened in its middle."""
    parts: list[str] = []
    while path is not None:
        path, key, _ = path
        parts.append(_key_text(key))
    text = "$" + "".join(reversed(parts))
    return text if len(text) <= 160 else f"{text[:100]}...{text[-40:]}"


def _key_text(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.isidentifier() else f"[{key!r}]"


_CONTAINERS = (dict, list)


def _is_small_and_flat(value: dict[object, object], max_bytes: int) -> bool:
    """Whether a dict holds only harmless scalars: by far the most frequent output, so worth its own loop."""
    size = _CONTAINER_BYTES
    for key, item in value.items():
        if type(key) is not str or not key.isascii():
            return False
        kind = type(item)
        size += len(key) + _SLOT_BYTES
        if kind is str:
            if not item.isascii():  # type: ignore[attr-defined]  # mypy does not narrow through ``kind``
                return False
            size += len(item)  # type: ignore[arg-type]  # the same
        elif kind is int:
            if not -(1 << 63) <= item < 1 << 63:  # type: ignore[operator]  # the same
                return False
        elif kind is float:
            if not math.isfinite(item):  # type: ignore[arg-type]  # the same
                return False
        elif item is not None and kind is not bool:
            return False
    return size <= max_bytes


class _StopWalk(Exception):
    """Enough is known; a signal within this module."""


class _Walk:
    """State of one walk: what it found, how many bytes are left, and which containers it is inside of."""

    __slots__ = ("inside", "issues", "left", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.issues: list[Issue] = []
        self.left = self.max_bytes = max_bytes
        self.inside: set[int] = set()

    def copy(self, value: object, path: Place | None, shape: Shape | None) -> Json:
        if shape is not None:
            try:
                value, shape = shape.open(value)
            except Exception as error:  # foreign code: a property or a serializer of the author's class
                return self.fault(path, f"{type(value).__name__} cannot be read ({type(error).__name__}: {error})")
        kind = type(value)
        if kind is str:
            return self.text(value, path)  # type: ignore[arg-type]  # mypy does not narrow through ``kind``
        if kind is int:
            return self.integer(value, path)  # type: ignore[arg-type]  # the same
        if value is None or kind is bool:
            return value
        if kind is float:
            return self.number(value, path)  # type: ignore[arg-type]  # the same
        if kind is dict or kind is list or kind is tuple:
            return self.container(value, path, shape)
        return self.unusual(value, path, shape)

    def unusual(self, value: object, path: Place | None, shape: Shape | None) -> Json:
        if isinstance(value, enum.Enum):
            return self.copy(value.value, path, None)
        # The plain value of a subclass, by the builtin's own method: an override is not asked.
        if isinstance(value, str):
            return self.text(str.__str__(value), path)
        if isinstance(value, int):
            return self.integer(int.__int__(value), path)
        if isinstance(value, float):
            return self.number(float.__float__(value), path)
        if isinstance(value, (list, tuple, Mapping)):
            return self.container(value, path, shape)
        return self.fault(path, _not_json(value))

    def text(self, value: str, path: Place | None) -> str:
        self.spend(len(value), path)
        if not value.isascii():
            try:
                self.spend(_extra_bytes(value), path)
            except UnicodeEncodeError:
                self.fault(path, "text with a lone surrogate is not JSON; decode bytes with errors='replace'")
        return value

    def integer(self, value: int, path: Place | None) -> Json:
        if -(1 << 63) <= value < 1 << 63:
            return value
        bits = value.bit_length()
        if bits > _MAX_INT_BITS:
            return self.fault(path, "an integer of more than 4,200 digits cannot be written; return text")
        self.spend(bits // 8, path)
        return value

    def number(self, value: float, path: Place | None) -> Json:
        if math.isfinite(value):
            return value
        return self.fault(path, f"{value} is not JSON; return null (None) or text")

    def container(self, value: object, path: Place | None, shape: Shape | None) -> Json:
        depth = 0 if path is None else path[2]
        if depth >= MAX_DEPTH:
            return self.fault(path, f"nested deeper than {MAX_DEPTH} levels; return flatter data")
        if id(value) in self.inside:
            return self.fault(path, "contains itself (a cycle), which is not JSON; return a value without the loop")
        # Before anything is copied: one enormous list costs nothing but this.
        self.spend(_CONTAINER_BYTES + _SLOT_BYTES * len(value), path)  # type: ignore[arg-type]  # callers pass sized ones
        self.inside.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self.mapping(value, path, depth + 1, shape)
            return self.sequence(value, path, depth + 1, shape)  # type: ignore[arg-type]  # a list or a tuple
        finally:
            self.inside.discard(id(value))

    def mapping(self, value: Mapping[object, object], path: Place | None, depth: int, shape: Shape | None) -> Json:
        result: dict[str, Json] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                self.fault(path, f"key of type {type(key).__name__} is not JSON; use text keys")
                continue
            place = (path, key, depth)
            name = self.text(key if type(key) is str else _plain_key(key), place)
            result[name] = self.copy(item, place, None if shape is None else shape.child(name))
        return result

    def sequence(self, value: list[object] | tuple[object, ...], path: Place | None, depth: int, shape: Shape | None) -> Json:
        if shape is not None:
            return [self.copy(item, (path, index, depth), shape.child(index)) for index, item in enumerate(value)]
        if self.is_uniform(value, path):
            return list(value)
        return [self.copy(item, (path, index, depth), None) for index, item in enumerate(value)]

    def is_uniform(self, value: list[object] | tuple[object, ...], path: Place | None) -> bool:
        """Whether a sequence holds harmless scalars of one type: a column of a million numbers needs no million calls."""
        kinds = set(map(type, value))
        if len(kinds) != 1:
            return not kinds
        kind = kinds.pop()
        if kind is int:
            numbers = cast("Sequence[int]", value)
            return min(numbers) >= -(1 << 63) and max(numbers) < 1 << 63
        if kind is float:
            return all(map(math.isfinite, cast("Sequence[float]", value)))
        if kind is str:
            texts = cast("Sequence[str]", value)
            if all(map(str.isascii, texts)):
                self.spend(sum(map(len, texts)), path)
                return True
        return kind is bool

    def spend(self, size: int, path: Place | None) -> None:
        self.left -= size
        if self.left < 0:
            megabytes = self.max_bytes / (1024 * 1024)
            self.fault(path, f"larger than {megabytes:.3g} MiB; write it to a file and return the file's path")
            raise _StopWalk

    def fault(self, path: Place | None, message: str) -> Json:
        """Note an issue; the answer, null, stands in the copy that nobody will see."""
        self.issues.append(Issue(message, path_text(path)))
        if len(self.issues) >= MAX_ISSUES:
            raise _StopWalk
        return None


def _plain_key(key: str) -> str:
    return _plain_key(key.value) if isinstance(key, enum.Enum) else str.__str__(key)


def _extra_bytes(value: str) -> int:
    """How many bytes more than characters ``value`` has in UTF-8."""
    size = sum(len(value[start : start + _SLICE].encode()) for start in range(0, len(value), _SLICE))
    return size - len(value)


def _not_json(value: object) -> str:
    """What is wrong with an instance, and what to return instead."""
    name = type(value).__name__
    if isinstance(value, AbstractSet):
        return f"a {name} is not JSON; return a list"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{name} is not JSON; return text: decode it, or base64"
    if inspect.isawaitable(value):
        return f"a {name} is not JSON; await it and return what it gives"
    if isinstance(value, Iterator):
        return f"a {name} is not JSON; return a list of its items"
    if hasattr(type(value), "tolist"):  # numpy, pandas, polars and their like
        return f"{name} is not JSON; return .tolist() of it"
    if attrs.has(type(value)) or hasattr(type(value), "__dataclass_fields__") or hasattr(type(value), "model_dump"):
        return f"an instance of {name} is not JSON; declare it in the executor's return type, or return a dict"
    return f"an instance of {name} is not JSON; return text, numbers, lists and dicts, or declare its type"
