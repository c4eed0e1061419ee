"""The part of JSON Schema that payloads of signals are held to: checked when a workflow is read, applied when one is sent.

Of draft 2020-12: types, enumerations, limits of texts, numbers, lists and objects, combinations, and references within the
schema. ``format`` and other annotations say something to people and are not checked; any other keyword is refused, because a
rule that nobody applies is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

from treadle._models import Issue, Json

__all__ = ["APPROVAL", "MAX_DEPTH", "MAX_TEXT", "payload_issues", "schema_faults"]

Schema = Mapping[str, Json]

APPROVAL: Schema = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean", "description": "Whether what is asked for may go on."},
        "comment": {"type": "string", "description": "Why, for people."},
        "by": {"type": "string", "description": "Who says so."},
    },
    "required": ["approved"],
    "additionalProperties": False,
}
"""What ``schema: approval`` stands for."""

MAX_DEPTH = 40
"""Schemas within each other, references followed."""

MAX_STEPS = 100_000
"""Schemas that are applied to one payload: alternatives that lead to themselves would be tried for ever."""

MAX_TEXT = 100_000
"""Longest text that a ``pattern`` is tried on: what people send must not keep the sender busy for ever."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int, float),
    "number": (int, float),
    "string": (str,),
    "array": (list, tuple),
    "object": (dict,),
}
_ANNOTATIONS = frozenset(
    (
        *("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
        *("format", "contentMediaType"),
    )
)


def payload_issues(schema: Schema | bool, payload: Json) -> list[Issue]:
    """What is wrong with a payload; empty when it fits. The schema is one that ``schema_faults`` finds nothing in."""
    return list(_Check(schema).issues(schema, payload, "$", 0))


def schema_faults(schema: Json, path: str = "") -> Iterator[tuple[str, str]]:
    """Each place (below ``path``) of a schema that cannot be applied, and what is wrong there."""
    yield from _faults(schema, path, schema, 0)


# -- schemas -----------------------------------------------------------------------------------------------------------


def _faults(schema: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield path, "a schema is a mapping, or true or false"
        return
    if depth > MAX_DEPTH:
        yield path, f"schemas nested deeper than {MAX_DEPTH} levels"
        return
    for keyword, value in schema.items():
        place = f"{path}.{keyword}" if path else str(keyword)
        if keyword in _ANNOTATIONS:
            continue
        reader = _READERS.get(keyword)
        if reader is None:
            yield place, f"the keyword {keyword!r} is not supported in schemas of payloads"
        else:
            yield from reader(value, place, root, depth)


def _type(value: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
    names = value if isinstance(value, list) and value else [value]
    for name in names:
        if not isinstance(name, str) or name not in _TYPES:
            yield path, f"{name!r} is no type; types: {', '.join(_TYPES)}"


def _pattern(value: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
    try:
        re.compile(cast("str", value))
    except (TypeError, re.error) as error:
        yield path, f"not a regular expression: {error}"


def _reference(value: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
    seen: set[object] = set()
    while True:
        if value in seen if isinstance(value, str) else True:
            yield path, "a reference that leads to itself" if isinstance(value, str) else "expected a text like '#/$defs/name'"
            return
        seen.add(value)
        target = _resolve(cast("str", value), root)
        if target is None:
            yield path, f"there is no {value!r} in this schema; references are like '#/$defs/name'"
            return
        if not isinstance(target, Mapping) or "$ref" not in target:
            return
        value = target["$ref"]


def _resolve(reference: str, root: Json) -> Json:
    if not reference.startswith("#"):
        return None
    found: Json = root
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found


def _one(value: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
    yield from _faults(value, path, root, depth + 1)


def _some(value: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        yield path, "expected a list of schemas"
        return
    for number, item in enumerate(value):
        yield from _faults(item, f"{path}[{number}]", root, depth + 1)


def _named(value: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield path, "expected a mapping of schemas"
        return
    for name, item in value.items():
        yield from _faults(item, f"{path}.{name}", root, depth + 1)


def _any(value: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
    return iter(())


def _kind(test: Callable[[Json], bool], words: str) -> Callable[[Json, str, Json, int], Iterator[tuple[str, str]]]:
    def read(value: Json, path: str, root: Json, depth: int) -> Iterator[tuple[str, str]]:
        if not test(value):
            yield path, f"expected {words}"

    return read


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_number = _kind(_is_number, "a number")
_count = _kind(_is_count, "a whole number from 0")
_flag = _kind(lambda value: isinstance(value, bool), "true or false")
_names = _kind(lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value), "a list of names")
_list = _kind(lambda value: isinstance(value, list), "a list")
_positive = _kind(lambda value: _is_number(value) and cast("float", value) > 0, "a number above 0")

_READERS: Mapping[str, Callable[[Json, str, Json, int], Iterator[tuple[str, str]]]] = {
    "type": _type,
    "enum": _list,
    "const": _any,
    "minLength": _count,
    "maxLength": _count,
    "pattern": _pattern,
    "minimum": _number,
    "maximum": _number,
    "exclusiveMinimum": _number,
    "exclusiveMaximum": _number,
    "multipleOf": _positive,
    "items": _one,
    "prefixItems": _some,
    "minItems": _count,
    "maxItems": _count,
    "uniqueItems": _flag,
    "properties": _named,
    "required": _names,
    "additionalProperties": _one,
    "minProperties": _count,
    "maxProperties": _count,
    "anyOf": _some,
    "oneOf": _some,
    "allOf": _some,
    "not": _one,
    "$defs": _named,
    "$ref": _reference,
}


# -- payloads ----------------------------------------------------------------------------------------------------------


class _Check:
    def __init__(self, root: Schema | bool) -> None:
        self._root = root
        self._left = MAX_STEPS

    def issues(self, schema: Json, value: Json, path: str, depth: int) -> Iterator[Issue]:
        if schema is True or not isinstance(schema, Mapping):
            if schema is False:
                yield Issue("nothing is allowed here", path)
            return
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            yield Issue("takes too many schemas within each other to check", path)
            return
        if "$ref" in schema:
            yield from self.issues(_resolve(cast("str", schema["$ref"]), self._root), value, path, depth + 1)
        problem = _wrong_type(schema, value)
        if problem:
            yield Issue(problem, path)
            return  # what else is wrong only follows from it
        yield from _scalar_issues(schema, value, path)
        if isinstance(value, list | tuple):
            yield from self._list_issues(schema, value, path, depth)
        elif isinstance(value, Mapping):
            yield from self._object_issues(schema, value, path, depth)
        yield from self._combined(schema, value, path, depth)

    def _fits(self, schema: Json, value: Json, path: str, depth: int) -> bool:
        return next(self.issues(schema, value, path, depth + 1), None) is None

    def _combined(self, schema: Schema, value: Json, path: str, depth: int) -> Iterator[Issue]:
        for part in cast("list[Json]", schema.get("allOf", ())):
            yield from self.issues(part, value, path, depth + 1)
        for name, least, most in (("anyOf", 1, None), ("oneOf", 1, 1)):
            if name in schema:
                fitting = sum(self._fits(part, value, path, depth) for part in cast("list[Json]", schema[name]))
                if fitting < least:
                    yield Issue(f"fits none of the alternatives ({name})", path)
                elif most is not None and fitting > most:
                    yield Issue(f"fits {fitting} of the alternatives, and only one may ({name})", path)
        if "not" in schema and self._fits(schema["not"], value, path, depth):
            yield Issue("is what it must not be (not)", path)

    def _list_issues(self, schema: Schema, value: Iterable[Json], path: str, depth: int) -> Iterator[Issue]:
        items = list(value)
        yield from _size_issues(schema, len(items), "Items", "items", path)
        first = cast("list[Json]", schema.get("prefixItems", []))
        for number, (part, item) in enumerate(zip(first, items, strict=False)):
            yield from self.issues(part, item, f"{path}[{number}]", depth + 1)
        if "items" in schema:
            for number in range(len(first), len(items)):
                yield from self.issues(schema["items"], items[number], f"{path}[{number}]", depth + 1)
        if schema.get("uniqueItems") and any(_same(one, other) for n, one in enumerate(items) for other in items[:n]):
            yield Issue("items must differ from each other", path)

    def _object_issues(self, schema: Schema, value: Mapping[str, Json], path: str, depth: int) -> Iterator[Issue]:
        yield from _size_issues(schema, len(value), "Properties", "keys", path)
        for name in cast("list[str]", schema.get("required", ())):
            if name not in value:
                yield Issue("is required", f"{path}.{name}")
        known = cast("Mapping[str, Json]", schema.get("properties", {}))
        for name, item in value.items():
            if name in known:
                yield from self.issues(known[name], item, f"{path}.{name}", depth + 1)
            elif schema.get("additionalProperties") is False:
                listed = ", ".join(known) or "none"
                yield Issue(f"is not known; known: {listed}", f"{path}.{name}"[:200])
            elif "additionalProperties" in schema:
                yield from self.issues(schema["additionalProperties"], item, f"{path}.{name}", depth + 1)


def _wrong_type(schema: Schema, value: Json) -> str:
    if "type" not in schema:
        return ""
    wanted = cast("list[str]", schema["type"] if isinstance(schema["type"], list) else [schema["type"]])
    if any(_is_of(name, value) for name in wanted):
        return ""
    return f"must be {' or '.join(wanted)}, not {_called(value)}"


def _is_of(name: str, value: Json) -> bool:
    if not isinstance(value, _TYPES[name]) or (isinstance(value, bool) and name in ("integer", "number")):
        return False
    return name != "integer" or not isinstance(value, float) or value.is_integer()


def _called(value: Json) -> str:
    return next((name for name in _TYPES if _is_of(name, value)), type(value).__name__)


def _same(one: Json, other: Json) -> bool:
    """Equality of JSON: true is not 1, and 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other


def _scalar_issues(schema: Schema, value: Json, path: str) -> Iterator[Issue]:
    if "enum" in schema and not any(_same(value, one) for one in cast("list[Json]", schema["enum"])):
        listed = ", ".join(repr(one) for one in cast("list[Json]", schema["enum"])[:10])
        yield Issue(f"must be one of {listed}", path)
    if "const" in schema and not _same(value, schema["const"]):
        yield Issue(f"must be {schema['const']!r}", path)
    if isinstance(value, str):
        yield from _size_issues(schema, len(value), "Length", "characters", path)
        yield from _pattern_issues(schema, value, path)
    elif _is_number(value):
        yield from _number_issues(schema, cast("float", value), path)


def _pattern_issues(schema: Schema, value: str, path: str) -> Iterator[Issue]:
    pattern = schema.get("pattern")
    if not isinstance(pattern, str):
        return
    if len(value) > MAX_TEXT:
        yield Issue(f"a text with a pattern has at most {MAX_TEXT} characters", path)
    elif not re.search(pattern, value):
        yield Issue(f"must match {pattern!r}", path)


def _number_issues(schema: Schema, value: float, path: str) -> Iterator[Issue]:
    limits: tuple[tuple[str, str, Callable[[float, float], bool]], ...] = (
        ("minimum", "at least", lambda number, limit: number >= limit),
        ("maximum", "at most", lambda number, limit: number <= limit),
        ("exclusiveMinimum", "more than", lambda number, limit: number > limit),
        ("exclusiveMaximum", "less than", lambda number, limit: number < limit),
        ("multipleOf", "a multiple of", lambda number, limit: number % limit == 0),
    )
    for name, words, holds in limits:
        if name in schema and not holds(value, cast("float", schema[name])):
            yield Issue(f"must be {words} {schema[name]}, not {value}", path)


def _size_issues(schema: Schema, size: int, what: str, words: str, path: str) -> Iterator[Issue]:
    least, most = schema.get(f"min{what}"), schema.get(f"max{what}")
    if isinstance(least, int) and size < least:
        yield Issue(f"must have at least {least} {words}, not {size}", path)
    if isinstance(most, int) and size > most:
        yield Issue(f"must have at most {most} {words}, not {size}", path)
