"""Whether an executor keeps the contract that was recorded of it: a pure comparison of JSON Schemas.

One question answers both sides: does every value that one schema admits satisfy the other? What the recorded inputs admit
must satisfy the installed ones; what the installed output admits must satisfy the recorded one. The answer is on the safe
side: what is not understood counts as a difference unless it stayed the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from treadle._models import Json

_KINDS = ("null", "boolean", "number", "string", "array", "object")

# What constrains values of a kind beside the keywords that are compared one by one; these must stay as they are. Whatever
# is in neither list is an annotation, says the standard.
_ANY_KIND = ("not", "if", "then", "else", "$dynamicRef")
_FIXED = {
    "array": ("contains", "minContains", "maxContains", "unevaluatedItems"),
    "object": ("dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    "string": ("pattern", "format", "contentEncoding", "contentMediaType", "contentSchema"),
    "number": ("multipleOf",),
}
_LENGTHS = {"string": "Length", "array": "Items", "object": "Properties"}
_COMPARED = {
    "array": ("minItems", "maxItems", "uniqueItems", "items", "prefixItems"),
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties"),
    ),
    "string": ("minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}

_REFERRING = {"$ref", "$schema", "$defs", "$comment", "title", "description", "default", "examples", "deprecated"}
"""Keywords of a schema that says nothing of its own but where to look."""

_MOST_GAPS = 100
"""As many are told at most: where classes share classes, paths double at every level."""

_EFFECTS: tuple[object, ...] = ("none", "idempotent", None, "unsafe")
"""Declared effects, the strongest promise first; None: not declared."""


@attrs.frozen
class Difference:
    """One way in which an executor does not keep its recorded contract.

    Attributes:
        path: Where, like ``inputs.headers[].name``; ``[]`` is any item, ``*`` any further member.
        message: What changed, as a sentence without the place.
    """

    path: str
    message: str

    def __str__(self) -> str:
        """Path and message in one line."""
        return f"{self.path}: {self.message}"


def differences(recorded: Mapping[str, Json], installed: Mapping[str, Json]) -> list[Difference]:
    """Everything in which an installed executor falls behind its recorded contract; empty when whoever uses it is safe.

    More optional inputs, wider types of inputs and narrower outputs are fine.

    Args:
        recorded: Its contract then: ``inputs`` and ``output`` (JSON Schemas), ``effects``, ``backends``.
        installed: Its contract now.

    Raises:
        ValueError: A schema is none.
    """
    found = narrowed(recorded["inputs"], installed["inputs"]) + widened(recorded["output"], installed["output"])
    then, now = recorded.get("effects"), installed.get("effects")
    if _rank(now) > _rank(then):
        found.append(Difference("effects", f"were {_effects(then)}, are {_effects(now)} now: runs rely on what was declared"))
    lost = [str(each) for each in _sequence(recorded, "backends") if each not in _sequence(installed, "backends")]
    if lost:
        found.append(Difference("backends", f"does not run on {' and '.join(lost)} any more"))
    return found


def narrowed(recorded: Json, installed: Json) -> list[Difference]:
    """Where an executor does not take what its recorded inputs admit.

    Raises:
        ValueError: A schema is none.
    """
    return [Difference(f"inputs{gap.path}", gap.words.inputs) for gap in _Comparison(recorded, installed).gaps()]


def widened(recorded: Json, installed: Json) -> list[Difference]:
    """Where an executor may answer what its recorded output does not admit.

    Raises:
        ValueError: A schema is none.
    """
    return [Difference(f"output{gap.path}", gap.words.output) for gap in _Comparison(installed, recorded).gaps()]


def _rank(effects: object) -> int:
    return _EFFECTS.index(effects) if effects in _EFFECTS else len(_EFFECTS)


def _effects(effects: object) -> str:
    return "undeclared" if effects is None else repr(effects)


# -- words -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Words:
    """The sentence for either side: for inputs the tighter schema is the installed one, for outputs the recorded one."""

    inputs: str
    output: str


@attrs.frozen
class _Gap:
    """Something that the narrow schema admits and the wide one does not."""

    path: str
    words: _Words

    def below(self, step: str) -> _Gap:
        return _Gap(step + self.path, self.words)


_MEMBER = _Words(
    "is no longer taken: it was removed or renamed", "is new; a step that takes the whole recorded output would refuse it"
)
_MEMBERS = _Words("no longer takes further members", "may have further members now; the recorded output has none")
_REQUIRED = _Words("has to be given now", "may be missing now")


def _no_value(values: Sequence[str], others: Sequence[str]) -> _Words:
    listed, rest = _either(values), _either(others) or "nothing"
    return _Words(f"no longer takes {listed}; it takes {rest}", f"may be {listed} now; recorded: {rest}")


def _limit(loose: str, tight: str) -> _Words:
    return _Words(f"is held to {tight} now, before to {loose}", f"is held to {loose} now; recorded: {tight}")


def _changed(keyword: str) -> _Words:
    return _Words(f"its {keyword!r} changed", f"its {keyword!r} changed")


def _either(texts: Sequence[str]) -> str:
    if {"true", "false"} <= {*texts}:
        texts = ["boolean", *(text for text in texts if text not in ("true", "false"))]
    *most, last = dict.fromkeys(texts) or [""]
    return f"{', '.join(most)} or {last}" if most else last


# -- schemas as alternatives -------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class _Document:
    """A schema with the definitions that it refers to."""

    root: Json

    def at(self, reference: object) -> Json:
        """What a ``$ref`` within this document refers to."""
        found: object = self.root
        parts = str(reference).split("/")
        for part in parts[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                raise ValueError(f"the schema refers to {reference!r}, which is not in it")
            found = found[key]
        if parts[0] != "#":
            raise ValueError(f"the schema refers to {reference!r}, which is not in it")
        return found

    def meant(self, schema: Json) -> Json:
        """The definition, for a schema that only refers to one: what is compared twice is then known to be the same."""
        seen: set[object] = set()
        while isinstance(schema, Mapping) and "$ref" in schema and schema.keys() <= _REFERRING and schema["$ref"] not in seen:
            seen.add(schema["$ref"])
            schema = self.at(schema["$ref"])
        return schema


@attrs.frozen(eq=False)
class _Alternative:
    """The values of one kind that a schema admits, or a single one of them.

    Attributes:
        kind: As in JSON Schema.
        parts: Schemas that all hold.
        only: The single value, in a tuple.
    """

    kind: str
    parts: tuple[Mapping[str, Json], ...] = ()
    only: tuple[Json, ...] = ()

    @property
    def text(self) -> str:
        """For people."""
        return json.dumps(self.only[0], ensure_ascii=False) if self.only else self.kind

    def admits_kind(self, kind: str) -> bool:
        return kind == self.kind or (kind, self.kind) == ("integer", "number")


def _alternatives(document: _Document, schema: Json, seen: frozenset[str] = frozenset()) -> list[_Alternative]:
    """What a schema admits, as a list of alternatives."""
    if schema is True or schema is False:
        return [each for kind in _KINDS for each in _of_kind(kind, ())] if schema else []
    if not isinstance(schema, Mapping):
        raise ValueError(f"{json.dumps(schema)} is no schema")
    found = _plain_alternatives(schema)
    if "$ref" in schema:
        reference = str(schema["$ref"])
        # A definition that is its own alternative adds nothing to itself.
        inner = [] if reference in seen else _alternatives(document, document.at(reference), seen | {reference})
        found = _both(found, inner)
    for keyword in ("anyOf", "oneOf"):  # what is generated from types has no overlaps, so one of them is any of them
        if keyword in schema:
            members = [_alternatives(document, each, seen) for each in _sequence(schema, keyword)]
            found = _both(found, [each for member in members for each in member])
    for each in _sequence(schema, "allOf"):
        found = _both(found, _alternatives(document, each, seen))
    return found


def _plain_alternatives(schema: Mapping[str, Json]) -> list[_Alternative]:
    """What a schema admits by its own type, values and limits."""
    named = schema.get("type", _KINDS)
    kinds = [named] if isinstance(named, str) else list(_sequence(schema, "type") or _KINDS)
    parts = (schema,)
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else _sequence(schema, "enum")
        ones = [_Alternative(_kind(value), parts, (value,)) for value in values]
        return [one for one in ones if any(_Alternative(str(kind)).admits_kind(one.kind) for kind in kinds)]
    return [each for kind in kinds for each in _of_kind(str(kind), parts)]


def _of_kind(kind: str, parts: tuple[Mapping[str, Json], ...]) -> list[_Alternative]:
    """All values of a kind; those of which there are only one or two by themselves."""
    values = {"null": (None,), "boolean": (True, False)}.get(kind)
    return [_Alternative(kind, parts, (value,)) for value in values] if values else [_Alternative(kind, parts)]


def _kind(value: Json) -> str:
    kinds = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")


def _both(some: Iterable[_Alternative], others: Sequence[_Alternative]) -> list[_Alternative]:
    """What satisfies one of ``some`` and one of ``others``."""
    pairs = [(one, other) for one in some for other in others]
    return [met for one, other in pairs if (met := _meeting(one, other)) is not None]


def _meeting(one: _Alternative, other: _Alternative) -> _Alternative | None:
    kind = one.kind if other.admits_kind(one.kind) else other.kind if one.admits_kind(other.kind) else ""
    if not kind or (one.only and other.only and not _same(one.only[0], other.only[0])):
        return None
    return _Alternative(kind, one.parts + other.parts, one.only or other.only)


def _same(one: Json, other: Json) -> bool:
    """Whether two values are the same JSON, 1 and 1.0 and true being different."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _mapping(schema: Mapping[str, Json], keyword: str) -> Mapping[str, Json]:
    found = schema.get(keyword, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"{keyword!r} in the schema is no object")
    return found


def _sequence(schema: Mapping[str, Json], keyword: str) -> Sequence[Json]:
    found = schema.get(keyword, ())
    if not isinstance(found, list | tuple):
        raise ValueError(f"{keyword!r} in the schema is no list")
    return found


def _number(schema: Mapping[str, Json], keyword: str) -> float | None:
    found = schema.get(keyword)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
        raise ValueError(f"{keyword!r} in the schema is no number")
    return found


# -- comparison --------------------------------------------------------------------------------------------------------


class _Comparison:
    """Whether everything that the narrow schema admits satisfies the wide one.

    Args:
        narrow: The schema whose values must satisfy the other.
        wide: The other.
    """

    def __init__(self, narrow: Json, wide: Json) -> None:
        self._narrow, self._wide = _Document(narrow), _Document(wide)
        self._same_definitions = _same(*[each.get("$defs", {}) if isinstance(each, Mapping) else {} for each in (narrow, wide)])
        # Schemas that refer to themselves: what is being compared is taken to fit until something speaks against it.
        self._running: set[tuple[int, int]] = set()
        self._assumed = 0
        self._known: dict[tuple[int, int], list[_Gap]] = {}
        self._kept: list[Json] = []  # schemas made on the way: their ids must not pass to others

    def gaps(self) -> list[_Gap]:
        """What speaks against it."""
        return list(dict.fromkeys(self._within(self._narrow.root, self._wide.root)))

    def _within(self, narrow: Json, wide: Json) -> list[_Gap]:
        narrow, wide = self._narrow.meant(narrow), self._wide.meant(wide)
        key = (id(narrow), id(wide))
        if wide is True or wide == {} or (self._same_definitions and _same(narrow, wide)):
            return []
        if key in self._known:
            return self._known[key]
        if key in self._running:
            self._assumed += 1
            return []
        self._running.add(key)
        before = self._assumed
        gaps = self._compared(narrow, wide)[:_MOST_GAPS]
        self._running.remove(key)
        # A fault stays one whatever was assumed; that nothing is wrong may hang on what is still being compared.
        if gaps or self._assumed == before:
            self._known[key] = gaps
        return gaps

    def _compared(self, narrow: Json, wide: Json) -> list[_Gap]:
        ours, theirs = _alternatives(self._narrow, narrow), _alternatives(self._wide, wide)
        gaps: list[_Gap] = []
        homeless: list[str] = []
        for one in ours:
            tries = [self._fit(one, other) for other in theirs if other.admits_kind(one.kind)]
            likely = [each for each in tries if each is not None]
            if not likely:
                homeless.append(one.text)
            else:
                gaps += _fewest(likely)
        if homeless:
            gaps.insert(0, _Gap("", _no_value(homeless, [other.text for other in theirs])))
        return gaps

    def _fit(self, one: _Alternative, other: _Alternative) -> list[_Gap] | None:
        """What keeps the values of one alternative from being among those of the other; None: all of it."""
        if other.only and not (one.only and _same(one.only[0], other.only[0])):
            return None
        parts = [*one.parts, self._keep(_described(one.only[0]))] if one.only else one.parts or [{}]
        gaps: list[_Gap] = []
        for theirs in other.parts:
            if self._limits(theirs, one.kind):
                gaps += _fewest([self._part_gaps(one, ours, theirs) for ours in parts])
        return gaps

    def _keep(self, schema: Mapping[str, Json]) -> Mapping[str, Json]:
        self._kept.append(schema)
        return schema

    def _limits(self, schema: Mapping[str, Json], kind: str) -> bool:
        """Whether a schema says more about values of a kind than that they are of it."""
        kind = "number" if kind == "integer" else kind
        return any(keyword in schema for keyword in (*_ANY_KIND, *_FIXED.get(kind, ()), *_COMPARED.get(kind, ())))

    def _part_gaps(self, one: _Alternative, ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[_Gap]:
        kind = "number" if one.kind == "integer" else one.kind
        gaps = [
            _Gap("", _changed(keyword))
            for keyword in (*_ANY_KIND, *_FIXED.get(kind, ()))
            if keyword in theirs and not self._keeps(one, ours, theirs, keyword)
        ]
        return gaps + self._by_kind.get(kind, _Comparison._nothing)(self, ours, theirs)

    def _keeps(self, one: _Alternative, ours: Mapping[str, Json], theirs: Mapping[str, Json], keyword: str) -> bool:
        """Whether a keyword that is not understood stayed the same, or a single value satisfies it."""
        if one.only and keyword == "pattern" and _matches(str(theirs[keyword]), str(one.only[0])):
            return True
        is_same = keyword in ours and _same(ours[keyword], theirs[keyword])
        return is_same and (self._same_definitions or "$ref" not in json.dumps(theirs[keyword]))

    def _nothing(self, ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[_Gap]:
        return []

    def _number_gaps(self, ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[_Gap]:
        gaps = []
        for name, sign in (("inimum", 1), ("aximum", -1)):
            loose, tight = _bound(ours, name, sign), _bound(theirs, name, sign)
            if tight is not None and (loose is None or loose < tight):
                gaps.append(_Gap("", _limit(_spelled(loose, name, sign), _spelled(tight, name, sign))))
        return gaps

    def _length_gaps(self, kind: str, ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[_Gap]:
        gaps = []
        for name, sign in (("min", 1), ("max", -1)):
            keyword = f"{name}{_LENGTHS[kind]}"
            loose, tight = _number(ours, keyword), _number(theirs, keyword)
            if tight is not None and (loose is None or loose * sign < tight * sign) and (sign, tight) != (1, 0):
                gaps.append(_Gap("", _limit("nothing" if loose is None else f"{keyword} {loose}", f"{keyword} {tight}")))
        return gaps

    def _string_gaps(self, ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[_Gap]:
        return self._length_gaps("string", ours, theirs)

    def _array_gaps(self, ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[_Gap]:
        gaps = self._length_gaps("array", ours, theirs)
        if theirs.get("uniqueItems") is True and ours.get("uniqueItems") is not True and _most(ours) > 1:
            gaps.append(_Gap("", _Words("takes no item twice any more", "may hold an item twice now")))
        heads = max(len(_sequence(ours, "prefixItems")), len(_sequence(theirs, "prefixItems")))
        for place in range(min(heads, int(min(_most(ours), heads)))):
            gaps += [gap.below(f"[{place}]") for gap in self._within(_item(ours, place), _item(theirs, place))]
        if _most(ours) > heads:
            gaps += [gap.below("[]") for gap in self._within(_item(ours, heads), _item(theirs, heads))]
        return gaps

    def _object_gaps(self, ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[_Gap]:
        if "patternProperties" in ours or "patternProperties" in theirs:
            # Which name falls under which pattern is not looked into.
            one, other = ({each: schema.get(each) for each in _COMPARED["object"]} for schema in (ours, theirs))
            return [] if self._same_definitions and _same(one, other) else [_Gap("", _changed("patternProperties"))]
        known, taken = _mapping(ours, "properties"), _mapping(theirs, "properties")
        rest, more = ours.get("additionalProperties", True), theirs.get("additionalProperties", True)
        gaps = self._length_gaps("object", ours, theirs)
        for name in dict.fromkeys((*known, *taken)):
            value, place = known.get(name, rest), _below(name)
            if value is not False and taken.get(name, more) is False:
                gaps.append(_Gap(place, _MEMBER))
            elif value is not False:
                gaps += [gap.below(place) for gap in self._within(value, taken.get(name, more))]
        needed = [str(name) for name in _sequence(theirs, "required") if name not in _sequence(ours, "required")]
        gaps += [_Gap(_below(name), _REQUIRED) for name in needed]
        if rest is not False and more is False:
            return [*gaps, _Gap("", _MEMBERS)]
        if rest is False:
            return gaps
        gaps += [gap.below(".*") for gap in self._within(rest, more)]
        names = ours.get("propertyNames", _TEXT)
        return gaps + [gap.below(".(name)") for gap in self._within(names, theirs.get("propertyNames", True))]

    _by_kind: Mapping[str, Callable[[_Comparison, Mapping[str, Json], Mapping[str, Json]], list[_Gap]]] = {
        "number": _number_gaps,
        "string": _string_gaps,
        "array": _array_gaps,
        "object": _object_gaps,
    }


_TEXT: Mapping[str, Json] = {"type": "string"}


def _fewest(tries: Sequence[list[_Gap]]) -> list[_Gap]:
    """The try that came nearest: what it lacks is what its author wants to read; of several the last, which knows most."""
    return tries[min(range(len(tries)), key=lambda place: (len(tries[place]), -place))]


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:  # a pattern of another dialect
        return False


def _below(name: str) -> str:
    return f".{name}" if re.fullmatch(r"[\w-]+", name) else f"[{json.dumps(name, ensure_ascii=False)}]"


def _most(schema: Mapping[str, Json]) -> float:
    """How many items an array may have."""
    most = _number(schema, "maxItems")
    return float("inf") if most is None else most


def _item(schema: Mapping[str, Json], place: int) -> Json:
    """The schema of the item at a place."""
    heads = _sequence(schema, "prefixItems")
    return heads[place] if place < len(heads) else schema.get("items", True)


def _bound(schema: Mapping[str, Json], name: str, sign: int) -> tuple[float, bool] | None:
    """A limit of a number, the tighter of two; turned round by ``sign`` so that the greater one is the tighter."""
    said = [(_number(schema, f"m{name}"), False), (_number(schema, f"exclusiveM{name}"), True)]
    return max(((limit * sign, is_open) for limit, is_open in said if limit is not None), default=None)


def _spelled(bound: tuple[float, bool] | None, name: str, sign: int) -> str:
    return "nothing" if bound is None else f"{'exclusiveM' if bound[1] else 'm'}{name} {bound[0] * sign}"


def _described(value: Json) -> Mapping[str, Json]:
    """A schema that admits a value and says of it what schemas can limit."""
    if isinstance(value, str):
        return {"minLength": len(value), "maxLength": len(value)}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"minimum": value, "maximum": value}
    if isinstance(value, list):
        items = [{"const": item} for item in value]
        return {"minItems": len(value), "maxItems": len(value), "prefixItems": items}
    if isinstance(value, dict):
        members = {name: {"const": item} for name, item in value.items()}
        counts = {"minProperties": len(value), "maxProperties": len(value)}
        return {"properties": members, "required": list(value), "additionalProperties": False, **counts}
    return {}
