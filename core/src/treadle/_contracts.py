"""Contracts: a Python type as a strict check of JSON data, as a reader of its instances, and as a JSON Schema.

Each kind of type is one node that answers all three, so that they cannot disagree. Nothing is coerced: neither ``"3"`` nor
``True`` is an int; only an int is taken where a float is declared.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import difflib
import enum
import functools
import json
import operator
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, cast

import attrs

from treadle._json import MAX_BYTES, NotJsonError, Place, Shape, copy_json, path_text, plain
from treadle._models import Issue, Json
from treadle.errors import BindError, TreadleError

JsonSchema = dict[str, object]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ROOT_PATH = "$"


class ContractError(TreadleError, ValueError):
    """A value that does not satisfy a declared type; ``issues`` says everywhere it does not."""

    def __init__(self, type_name: str, issues: Iterable[Issue]) -> None:
        self.type_name, self.issues = type_name, tuple(issues)
        listed = "".join(f"\n  {issue}" for issue in self.issues)
        super().__init__(f"The value is not a valid {type_name}:{listed}", "Correct the value, or the declared type.")


class Contract:
    """What a declared type asks of JSON data. Made by ``contract_for``; holds no state, so one serves all calls.

    Attributes:
        type_: The declared type.
        name: The type for people, like ``list[Point]``.
        is_any: Any JSON satisfies it.
        has_sets: A set is somewhere in it: fine for inputs, never for outputs.
    """

    __slots__ = ("_node", "_shape", "has_sets", "is_any", "name", "type_")

    def __init__(self, type_: object, node: _Node, *, has_sets: bool) -> None:
        self.type_, self.name, self._node, self.has_sets = type_, type_text(type_), node, has_sets
        self.is_any = isinstance(node, _Any)
        self._shape: Shape | None = None if node.is_plain else node

    def structure(self, value: Json) -> object:
        """The Python value that JSON ``value`` stands for; shares no container with it.

        Raises:
            ContractError: With all issues.
        """
        issues: list[Issue] = []
        result = self.structure_at(value, None, issues)
        if issues:
            raise ContractError(self.name, issues)
        return result

    def structure_at(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        """The same at a place within a larger value; what is wrong is added to ``issues``."""
        try:
            return self._node.structure(value, place, issues)
        except RecursionError:
            issues.append(Issue("nested too deeply", path_text(place)))
            return None

    def issues(self, value: Json) -> list[Issue]:
        """Everything about JSON ``value`` that does not satisfy the type."""
        found: list[Issue] = []
        self.structure_at(value, None, found)
        return found

    def to_plain(self, obj: object, *, max_bytes: int = MAX_BYTES) -> Json:
        """``obj`` as plain JSON, instances of the declared types read as such; whether it satisfies the type is not asked.

        Raises:
            NotJsonError: For what is not JSON.
        """
        return plain(obj, max_bytes=max_bytes, shape=self._shape)

    def unstructure(self, obj: object) -> Json:
        """``obj`` as plain JSON that satisfies the type.

        Raises:
            ContractError: When it is not JSON or does not satisfy the type, whoever made it.
        """
        try:
            value = self.to_plain(obj)
        except NotJsonError as error:
            raise ContractError(self.name, error.issues) from error
        if issues := self.issues(value):
            raise ContractError(self.name, issues)
        return value

    def schema(self) -> JsonSchema:
        """JSON Schema 2020-12 of the type; classes stand in ``$defs``."""
        definitions = _Definitions()
        return definitions.finish(self._node.schema(definitions))


@attrs.frozen
class Member:
    """One named value of an object: what ``object_schema`` needs to know of it."""

    name: str
    contract: Contract
    required: bool
    default: object = None
    description: str = ""


def contract_for(type_: object) -> Contract:
    """The contract of a type: builtins, collections, enums, unions, attrs and data classes, TypedDicts, pydantic models.

    Raises:
        BindError: The type has no JSON form, or a name in it cannot be resolved.
    """
    try:
        # Equal types may differ in what counts here: ``int | str`` equals ``str | int``.
        return _cached_contract(type_, repr(type_))
    except TypeError:  # unhashable, like Annotated with a list in it
        return _new_contract(type_)


@functools.lru_cache(maxsize=2048)
def _cached_contract(type_: object, text: str) -> Contract:
    return _new_contract(type_)


def _new_contract(type_: object) -> Contract:
    compiler = _Compiler()
    node = compiler.node(type_, {})
    return Contract(type_, node, has_sets=compiler.has_sets)


def object_schema(members: Iterable[Member], *, others: Contract | None = None, description: str = "") -> JsonSchema:
    """JSON Schema 2020-12 of an object with these members; ``others`` is what any further member must satisfy."""
    definitions = _Definitions()
    properties: dict[str, JsonSchema] = {}
    required: list[str] = []
    for member in members:
        schema = member.contract._node.schema(definitions)
        properties[member.name] = _described(schema, member.description, _default_of(member.required, member.default))
        if member.required:
            required.append(member.name)
    rest = others._node.schema(definitions) if others is not None else False
    schema = _object(properties, required, rest)
    return definitions.finish(_described(schema, description, _NO_DEFAULT))


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'url'?``, or the names that are known, or that there are none."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"


def type_text(type_: object) -> str:
    """A type as its author wrote it, without modules: ``list[Point] | None``."""
    if type_ is None or type_ is type(None):
        return "None"
    if isinstance(type_, type) and typing.get_origin(type_) is None:
        return type_.__name__
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])|<locals>\.", "", str(type_))


def summary(doc: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((doc or "").strip().split("\n\n")[0].split())


def described_names(doc: str | None) -> dict[str, str]:
    """What the ``Args:`` or ``Attributes:`` section of a docstring (Google style) says of each name."""
    found: dict[str, str] = {}
    inside, current = False, ""
    for line in (doc or "").expandtabs().splitlines():
        if _SECTION.fullmatch(line.strip()):
            inside, current, margin = True, "", len(line) - len(line.lstrip())
        elif inside and line.strip():
            if len(line) - len(line.lstrip()) <= margin:
                inside = False
            elif entry := _ENTRY.fullmatch(line.strip()):
                current = entry[1]
                found[current] = entry[2].strip()
            elif current:
                found[current] += f" {line.strip()}"
    return found


_SECTION = re.compile(r"(Args|Arguments|Attributes|Parameters|Inputs):")
_ENTRY = re.compile(r"\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s+(.*)")


# -- schema ------------------------------------------------------------------------------------------------------------

_NO_DEFAULT = object()


class _Definitions:
    """The ``$defs`` of one schema while it is written: each class once, also when it refers to itself."""

    def __init__(self) -> None:
        self.schemas: dict[str, JsonSchema] = {}
        self._names: dict[object, str] = {}

    def refer(self, key: object, name: str, write: Callable[[], JsonSchema]) -> JsonSchema:
        if key not in self._names:
            unique, number = name, 2
            while unique in self.schemas:
                unique, number = f"{name}_{number}", number + 1
            self._names[key] = unique
            self.schemas[unique] = {}  # taken, so that a class that refers to itself ends here
            self.schemas[unique] = write()
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def finish(self, schema: JsonSchema) -> JsonSchema:
        whole: JsonSchema = {"$schema": DIALECT, **schema}
        if self.schemas:
            whole["$defs"] = self.schemas
        return whole


def _object(properties: dict[str, JsonSchema], required: list[str], rest: object) -> JsonSchema:
    schema: JsonSchema = {"type": "object", "properties": properties, "additionalProperties": rest}
    if required:
        schema["required"] = required
    return schema


def _described(schema: JsonSchema, description: str, default: object) -> JsonSchema:
    if description:
        schema = {**schema, "description": description}
    return schema if default is _NO_DEFAULT else {**schema, "default": default}


def _default_of(required: bool, default: object) -> object:
    """A default as JSON, when it is."""
    if required:
        return _NO_DEFAULT
    try:
        return plain(default, max_bytes=1000)
    except NotJsonError:
        return _NO_DEFAULT


# -- nodes: one kind of type each ----------------------------------------------------------------------------------------


class _Node(Protocol):
    """One kind of type, compiled.

    Attributes:
        is_plain: Its instances are plain JSON, so reading them needs no guidance.
        exact: Python types all whose values satisfy it; lets collections be checked in one step.
    """

    is_plain: bool
    exact: frozenset[type]

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        """Check and build; what is wrong is added to ``issues``, and then the answer means nothing."""

    def fits(self, value: Json) -> bool:
        """Whether ``value`` is of the JSON kind that it wants, so that its issues help."""

    def claims(self, value: object) -> bool:
        """Whether ``value`` is an instance that it knows how to read."""

    def open(self, value: object) -> tuple[object, Shape | None]:
        """See ``Shape``."""

    def child(self, key: str | int) -> Shape | None:
        """See ``Shape``."""

    def schema(self, definitions: _Definitions) -> JsonSchema:
        """JSON Schema without ``$defs``."""


class _Plain:
    """What nodes have in common whose instances are plain JSON."""

    __slots__ = ()
    is_plain = True
    exact: frozenset[type] = frozenset()

    def claims(self, value: object) -> bool:
        return False

    def open(self, value: object) -> tuple[object, Shape | None]:
        return value, None

    def child(self, key: str | int) -> Shape | None:
        return None


def _mismatch(words: str, value: Json, place: Place | None, issues: list[Issue]) -> object:
    # The value itself is not shown: it may hold a secret, and issues are recorded.
    got = "null" if value is None else f"an empty {type(value).__name__}" if value in ("", [], {}) else type(value).__name__
    issues.append(Issue(f"expected {words}, got {got}", path_text(place)))
    return None


class _Any(_Plain):
    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        return copy_json(value) if type(value) is dict or type(value) is list else value

    def fits(self, value: Json) -> bool:
        return True

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return {}


class _Scalar(_Plain):
    """str, int, bool, None: exactly that type."""

    def __init__(self, kind: type, words: str, json_type: str) -> None:
        self.kind, self.words, self.json_type = kind, words, json_type
        self.exact = frozenset((kind,))

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is self.kind:
            return value
        return _mismatch(self.words, value, place, issues)

    def fits(self, value: Json) -> bool:
        return type(value) is self.kind

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return {"type": self.json_type}


class _Float(_Plain):
    """A float, or an int, which becomes one."""

    exact: frozenset[type] = frozenset((float,))

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is float:
            return value
        if type(value) is int:
            try:
                return float(value)
            except OverflowError:
                issues.append(Issue("the integer is too large for a float", path_text(place)))
                return None
        return _mismatch("float", value, place, issues)

    def fits(self, value: Json) -> bool:
        return type(value) in (int, float)

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return {"type": "number"}


class _Choice(_Plain):
    """Literal and enums: one of some values, each with its exact type, so that 1 is not True."""

    def __init__(self, choices: Iterable[tuple[Json, object]]) -> None:
        self.choices = {(type(value), value): answer for value, answer in choices}
        self.values = [value for _, value in self.choices]
        self.words = " or ".join(json.dumps(value) for value in self.values)

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        try:
            return self.choices[(type(value), value)]
        except (KeyError, TypeError):  # a list or dict cannot be looked up
            words = f"expected {self.words}, got "
            shown = "another text" if isinstance(value, str) else f"another {type(value).__name__}"
            if not self.fits(value):
                return _mismatch(self.words, value, place, issues)
            issues.append(Issue(words + shown, path_text(place)))
            return None

    def fits(self, value: Json) -> bool:
        return any(type(value) is kind for kind, _ in self.choices)

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return {"const": self.values[0]} if len(self.values) == 1 else {"enum": self.values}


class _Text:
    """A class that stands in JSON as text: dates, paths, decimals, UUIDs."""

    is_plain = False
    exact: frozenset[type] = frozenset()

    def __init__(
        self, kind: type, words: str, parse: Callable[[str], object], write: Callable[[object], str], form: str
    ) -> None:
        self.kind, self.words, self.parse, self.write, self.form = kind, words, parse, write, form

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not str:
            return _mismatch(self.words, value, place, issues)
        try:
            return self.parse(value)
        except (ValueError, ArithmeticError):
            issues.append(Issue(f"expected {self.words}, got another text", path_text(place)))
            return None

    def fits(self, value: Json) -> bool:
        return type(value) is str

    def claims(self, value: object) -> bool:
        return isinstance(value, self.kind)

    def open(self, value: object) -> tuple[object, Shape | None]:
        return (self.write(value) if isinstance(value, self.kind) else value), None

    def child(self, key: str | int) -> Shape | None:
        return None

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return {"type": "string", "format": self.form} if self.form else {"type": "string"}


class _List:
    """list, tuple of one type, set: an array of items."""

    exact: frozenset[type] = frozenset()

    def __init__(self, item: _Node, build: Callable[[list[object]], object], *, unique: bool) -> None:
        self.item, self.build, self.unique = item, build, unique
        self.is_plain = item.is_plain
        self.same = build is list

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not list:
            return _mismatch("list", value, place, issues)
        item = self.item
        if item.exact and item.exact.issuperset(map(type, value)):
            items = value.copy()
        else:
            depth = 1 if place is None else place[2] + 1
            items = [item.structure(each, (place, index, depth), issues) for index, each in enumerate(value)]
        return items if self.same else self.finish(items, place, issues)

    def finish(self, items: list[object], place: Place | None, issues: list[Issue]) -> object:
        try:
            built = self.build(items)
        except TypeError:
            issues.append(Issue("items of a set must be hashable", path_text(place)))
            return None
        if self.unique and isinstance(built, collections.abc.Sized) and len(built) != len(items) and not issues:
            issues.append(Issue("items of a set must differ", path_text(place)))
        return built

    def fits(self, value: Json) -> bool:
        return type(value) is list

    def claims(self, value: object) -> bool:
        return isinstance(value, (list, tuple))

    def open(self, value: object) -> tuple[object, Shape | None]:
        return value, self

    def child(self, key: str | int) -> Shape | None:
        return None if self.item.is_plain else self.item

    def schema(self, definitions: _Definitions) -> JsonSchema:
        schema: JsonSchema = {"type": "array", "items": self.item.schema(definitions)}
        return {**schema, "uniqueItems": True} if self.unique else schema


class _Tuple:
    """A tuple of fixed length."""

    exact: frozenset[type] = frozenset()

    def __init__(self, items: tuple[_Node, ...]) -> None:
        self.items = items
        self.is_plain = all(item.is_plain for item in items)

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not list:
            return _mismatch("list", value, place, issues)
        if len(value) != len(self.items):
            issues.append(Issue(f"expected {len(self.items)} items, got {len(value)}", path_text(place)))
            return None
        depth = 1 if place is None else place[2] + 1
        pairs = enumerate(zip(self.items, value, strict=True))
        return tuple(item.structure(each, (place, index, depth), issues) for index, (item, each) in pairs)

    def fits(self, value: Json) -> bool:
        return type(value) is list

    def claims(self, value: object) -> bool:
        return isinstance(value, (list, tuple))

    def open(self, value: object) -> tuple[object, Shape | None]:
        return value, self

    def child(self, key: str | int) -> Shape | None:
        known = isinstance(key, int) and key < len(self.items)
        return self.items[key] if known and not self.items[cast(int, key)].is_plain else None  # type: ignore[index]  # an int

    def schema(self, definitions: _Definitions) -> JsonSchema:
        count = len(self.items)
        schema: JsonSchema = {"type": "array", "minItems": count, "maxItems": count}
        return {**schema, "prefixItems": [item.schema(definitions) for item in self.items]} if count else schema


class _Dict:
    """A mapping with text keys."""

    exact: frozenset[type] = frozenset()

    def __init__(self, key: _Node, item: _Node) -> None:
        self.key, self.item = key, item
        self.is_plain = item.is_plain
        self.any_key = isinstance(key, _Scalar)

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not dict:
            return _mismatch("dict", value, place, issues)
        item = self.item
        if self.any_key and item.exact and item.exact.issuperset(map(type, value.values())):
            return value.copy()
        depth = 1 if place is None else place[2] + 1
        if self.any_key:
            return {key: item.structure(each, (place, key, depth), issues) for key, each in value.items()}
        found = {}
        for key, each in value.items():
            here = (place, key, depth)
            found[self.key.structure(key, here, issues)] = item.structure(each, here, issues)
        return found

    def fits(self, value: Json) -> bool:
        return type(value) is dict

    def claims(self, value: object) -> bool:
        return isinstance(value, Mapping)

    def open(self, value: object) -> tuple[object, Shape | None]:
        return value, self

    def child(self, key: str | int) -> Shape | None:
        return None if self.item.is_plain else self.item

    def schema(self, definitions: _Definitions) -> JsonSchema:
        schema: JsonSchema = {"type": "object", "additionalProperties": self.item.schema(definitions)}
        return schema if self.any_key else {**schema, "propertyNames": self.key.schema(definitions)}


@attrs.frozen
class _Field:
    """One field of a class: its name in JSON, where an instance keeps it, and what it must be."""

    name: str
    attribute: str
    node: _Node
    required: bool
    default: object = None
    description: str = ""


class _Record:
    """attrs classes, dataclasses and TypedDicts: an object with known members and no others."""

    exact: frozenset[type] = frozenset()

    def __init__(self, kind: type, name: str, build: Callable[..., object], description: str) -> None:
        self.kind, self.name, self.build, self.description = kind, name, build, description
        self.is_typed_dict = build is dict
        # Until its fields are known: a class that refers to itself is read with guidance.
        self.is_plain = False
        self.fields: dict[str, _Field] = {}
        self.required: frozenset[str] = frozenset()

    def complete(self, fields: Iterable[_Field]) -> None:
        self.fields = {field.name: field for field in fields}
        self.required = frozenset(field.name for field in self.fields.values() if field.required)
        self.is_plain = self.is_typed_dict and all(field.node.is_plain for field in self.fields.values())

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not dict:
            return _mismatch(f"{self.name} (an object)", value, place, issues)
        before, depth = len(issues), 1 if place is None else place[2] + 1
        values: dict[str, object] = {}
        for key, each in value.items():
            field = self.fields.get(key)
            if field is None:
                hint = suggestion(key, self.fields)
                issues.append(Issue(f"{self.name} has no {key!r}; {hint}", path_text((place, key, depth))))
            else:
                values[key] = field.node.structure(each, (place, key, depth), issues)
        if not self.required <= value.keys():
            missing = [name for name in self.fields if name in self.required and name not in value]
            issues.extend(Issue("is missing", path_text((place, name, depth))) for name in missing)
        return self.construct(values, place, issues) if len(issues) == before else None

    def construct(self, values: dict[str, object], place: Place | None, issues: list[Issue]) -> object:
        try:
            return self.build(**values)
        except Exception as error:  # foreign code: validators and __post_init__ of the author's class
            why = error.args[0] if error.args and isinstance(error.args[0], str) else str(error) or type(error).__name__
            issues.append(Issue(f"{self.name} refuses it: {why}", path_text(place)))
            return None

    def fits(self, value: Json) -> bool:
        return type(value) is dict

    def claims(self, value: object) -> bool:
        return isinstance(value, Mapping) or (not self.is_typed_dict and isinstance(value, self.kind))

    def open(self, value: object) -> tuple[object, Shape | None]:
        if self.is_typed_dict or not isinstance(value, self.kind):
            return value, self if isinstance(value, Mapping) else None
        if type(value) is not self.kind:
            # What a subclass adds stays visible, so that the check refuses it instead of losing it.
            added = {name: name for name in _initial_names(type(value)) if name not in self.fields}
            return {**self.values_of(value), **{name: getattr(value, name, None) for name in added}}, self
        return self.values_of(value), self

    def values_of(self, value: object) -> dict[str, object]:
        return {field.name: getattr(value, field.attribute) for field in self.fields.values()}

    def child(self, key: str | int) -> Shape | None:
        field = self.fields.get(key) if isinstance(key, str) else None
        return None if field is None or field.node.is_plain else field.node

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return definitions.refer(self, self.name, lambda: self.definition(definitions))

    def definition(self, definitions: _Definitions) -> JsonSchema:
        properties = {
            field.name: _described(
                field.node.schema(definitions), field.description, _default_of(field.required, field.default)
            )
            for field in self.fields.values()
        }
        required = [name for name in self.fields if name in self.required]
        return {"title": self.name, **_described(_object(properties, required, False), self.description, _NO_DEFAULT)}


class _Union:
    """One of several types: the first that the value satisfies."""

    exact: frozenset[type] = frozenset()

    def __init__(self, members: tuple[_Node, ...], names: tuple[str, ...]) -> None:
        self.members, self.words = members, " or ".join(names)
        self.is_plain = all(member.is_plain for member in members)
        self.exact = frozenset[type]().union(*(member.exact for member in members)) if self.is_plain else frozenset()
        if any(isinstance(member, _Choice) for member in members):
            self.exact = frozenset()

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        tried: list[tuple[_Node, list[Issue]]] = []
        for member in self.members:
            found: list[Issue] = []
            answer = member.structure(value, place, found)
            if not found:
                return answer
            tried.append((member, found))
        self.explain([found for member, found in tried if member.fits(value)], value, place, issues)
        return None

    def explain(self, close: list[list[Issue]], value: Json, place: Place | None, issues: list[Issue]) -> None:
        if not close:
            _mismatch(self.words, value, place, issues)
        elif len(close) == 1:
            issues.extend(close[0])
        else:
            nearest = "; ".join(str(issue) for issue in min(close, key=len))
            issues.append(Issue(f"is none of {self.words}; nearest: {nearest}", path_text(place)))

    def fits(self, value: Json) -> bool:
        return any(member.fits(value) for member in self.members)

    def claims(self, value: object) -> bool:
        return any(member.claims(value) for member in self.members)

    def open(self, value: object) -> tuple[object, Shape | None]:
        return _open_either(self.members, value)

    def child(self, key: str | int) -> Shape | None:
        return None  # ``open`` hands over to a member's shape

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return {"anyOf": [member.schema(definitions) for member in self.members]}


def _open_either(members: Iterable[Shape], value: object) -> tuple[object, Shape | None]:
    """Read by the members that know the value; several may know a container, and then its children."""
    nodes = cast("Iterable[_Node]", members)
    claiming = tuple(member for member in nodes if member.claims(value))
    if len(claiming) <= 1:
        return claiming[0].open(value) if claiming else (value, None)
    if not isinstance(value, (list, tuple, Mapping)):
        return claiming[0].open(value)
    return value, _Either(claiming)


class _Either:
    """The shape of a container that several members of a union know."""

    is_plain = False

    def __init__(self, members: tuple[_Node, ...]) -> None:
        self.members = members

    def open(self, value: object) -> tuple[object, Shape | None]:
        return _open_either(self.members, value)

    def claims(self, value: object) -> bool:
        return any(member.claims(value) for member in self.members)

    def child(self, key: str | int) -> Shape | None:
        shapes = [shape for member in self.members if (shape := member.child(key)) is not None]
        return _Either(cast("tuple[_Node, ...]", tuple(shapes))) if shapes else None


class _Bounded:
    """``Annotated[int, Ge(0)]``: limits by the vocabulary of annotated-types, on top of a type."""

    exact: frozenset[type] = frozenset()

    def __init__(self, inner: _Node, limits: dict[str, object]) -> None:
        self.inner, self.limits, self.is_plain = inner, limits, inner.is_plain

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        before = len(issues)
        answer = self.inner.structure(value, place, issues)
        if len(issues) == before:
            for name, limit in self.limits.items():
                holds, words, _ = _LIMITS[name]
                if not holds(answer, limit):
                    issues.append(Issue(f"must be {words} {limit}", path_text(place)))
        return answer

    def fits(self, value: Json) -> bool:
        return self.inner.fits(value)

    def claims(self, value: object) -> bool:
        return self.inner.claims(value)

    def open(self, value: object) -> tuple[object, Shape | None]:
        return self.inner.open(value)

    def child(self, key: str | int) -> Shape | None:
        return self.inner.child(key)

    def schema(self, definitions: _Definitions) -> JsonSchema:
        schema = self.inner.schema(definitions)
        for name, limit in self.limits.items():
            keyword = _LIMITS[name][2]
            if name.endswith("_length") and schema.get("type") in ("array", "object"):
                keyword = keyword.replace("Length", "Items" if schema["type"] == "array" else "Properties")
            schema = {**schema, keyword: limit}
        return schema


_Holds = Callable[[typing.Any, typing.Any], bool]  # the operators' own looseness
_LIMITS: dict[str, tuple[_Holds, str, str]] = {
    "gt": (operator.gt, "more than", "exclusiveMinimum"),
    "ge": (operator.ge, "at least", "minimum"),
    "lt": (operator.lt, "less than", "exclusiveMaximum"),
    "le": (operator.le, "at most", "maximum"),
    "min_length": (lambda value, limit: len(value) >= limit, "of length at least", "minLength"),
    "max_length": (lambda value, limit: len(value) <= limit, "of length at most", "maxLength"),
}


class _Described:
    """``Annotated[int, "how many"]``: a text for the schema."""

    def __init__(self, inner: _Node, description: str) -> None:
        self.inner, self.description = inner, description
        self.is_plain, self.exact = inner.is_plain, inner.exact
        self.structure, self.fits, self.claims = inner.structure, inner.fits, inner.claims
        self.open, self.child = inner.open, inner.child

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return _described(self.inner.schema(definitions), self.description, _NO_DEFAULT)


class _Alias:
    """``type Tree = list[Tree] | int``: a name for a type, which may refer to itself."""

    is_plain = False
    exact: frozenset[type] = frozenset()

    def __init__(self, name: str) -> None:
        self.name = name
        self.target: _Node = _Any()

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        return self.target.structure(value, place, issues)

    def fits(self, value: Json) -> bool:
        return self.target.fits(value)

    def claims(self, value: object) -> bool:
        return self.target.claims(value)

    def open(self, value: object) -> tuple[object, Shape | None]:
        return self.target.open(value)

    def child(self, key: str | int) -> Shape | None:
        return self.target.child(key)

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return definitions.refer(self, self.name, lambda: self.target.schema(definitions))


class _PydanticClass(Protocol):
    """The part of a pydantic model class that contracts use; pydantic itself is not imported."""

    __name__: str

    def model_validate_json(self, json_data: str, *, strict: bool) -> object:
        """Strict as for JSON: dates as text, no other coercion."""

    def model_json_schema(self, *, ref_template: str) -> JsonSchema:
        """Its schema with its own ``$defs``."""


class _Pydantic:
    """A pydantic model: it checks, reads and describes itself."""

    is_plain = False
    exact: frozenset[type] = frozenset()

    def __init__(self, kind: type) -> None:
        self.kind, self.model = kind, cast(_PydanticClass, kind)

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not dict and not issubclass(self.kind, _pydantic_class("RootModel")):
            return _mismatch(f"{self.model.__name__} (an object)", value, place, issues)
        try:
            return self.model.model_validate_json(json.dumps(value), strict=True)
        except ValueError as error:
            details = cast("Callable[[], list[dict[str, object]]]", getattr(error, "errors", list))()
            for detail in details or [{"msg": str(error)}]:
                here = place
                for key in cast("tuple[str | int, ...]", detail.get("loc", ())):
                    here = (here, key, 1 if here is None else here[2] + 1)
                issues.append(Issue(str(detail["msg"]), path_text(here)))
            return None

    def fits(self, value: Json) -> bool:
        return type(value) is dict

    def claims(self, value: object) -> bool:
        return isinstance(value, self.kind)

    def open(self, value: object) -> tuple[object, Shape | None]:
        if not isinstance(value, self.kind):
            return value, None
        dump = cast("Callable[..., object]", value.model_dump)  # type: ignore[attr-defined]  # a pydantic model
        # Its own serializers, but without pydantic's warnings: what does not fit is refused by the check that follows.
        return dump(mode="json", by_alias=True, warnings=False), None

    def child(self, key: str | int) -> Shape | None:
        return None

    def schema(self, definitions: _Definitions) -> JsonSchema:
        return definitions.refer(self.kind, self.model.__name__, lambda: self.definition(definitions))

    def definition(self, definitions: _Definitions) -> JsonSchema:
        schema = self.model.model_json_schema(ref_template="#/$defs/{model}")
        nested = cast("dict[str, JsonSchema]", schema.pop("$defs", {}))
        for name, definition in nested.items():
            definitions.schemas.setdefault(name, definition)
        return schema


def _pydantic_class(name: str) -> type:
    """A class of pydantic when something imported it already; else one that nothing derives from."""
    found = getattr(sys.modules.get("pydantic"), name, None)
    return found if isinstance(found, type) else _Never


class _Never:
    pass


# -- from types to nodes -------------------------------------------------------------------------------------------------


def _parse_datetime(text: str) -> datetime.datetime:
    if len(text) <= 10:
        raise ValueError("a date without a time")
    return datetime.datetime.fromisoformat(text)


def _parse_path(kind: Callable[[str], object], text: str) -> object:
    if not text or "\0" in text:
        raise ValueError("not a path")
    return kind(text)


def _iso(value: object) -> str:
    return cast(datetime.date, value).isoformat()


_SIMPLE: dict[object, Callable[[], _Node]] = {
    object: _Any,
    typing.Any: _Any,
    str: lambda: _Scalar(str, "str", "string"),
    int: lambda: _Scalar(int, "int", "integer"),
    bool: lambda: _Scalar(bool, "bool", "boolean"),
    None: lambda: _Scalar(type(None), "null", "null"),
    type(None): lambda: _Scalar(type(None), "null", "null"),
    float: _Float,
    datetime.datetime: lambda: _Text(datetime.datetime, "a date and time (ISO 8601)", _parse_datetime, _iso, "date-time"),
    datetime.date: lambda: _Text(datetime.date, "a date (ISO 8601)", datetime.date.fromisoformat, _iso, "date"),
    datetime.time: lambda: _Text(datetime.time, "a time (ISO 8601)", datetime.time.fromisoformat, _iso, "time"),
    decimal.Decimal: lambda: _Text(decimal.Decimal, "a decimal number as text", decimal.Decimal, str, ""),
    uuid.UUID: lambda: _Text(uuid.UUID, "a UUID", uuid.UUID, str, "uuid"),
}

_LISTS: dict[object, tuple[Callable[[list[object]], object], bool]] = {
    list: (list, False),
    collections.abc.Sequence: (list, False),
    collections.abc.MutableSequence: (list, False),
    collections.abc.Iterable: (list, False),
    collections.abc.Collection: (list, False),
    set: (set, True),
    frozenset: (frozenset, True),
    collections.abc.Set: (frozenset, True),
    collections.abc.MutableSet: (set, True),
}

_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)

_REMEDIES: dict[object, str] = {
    bytes: "Take text (str); bytes have no JSON form.",
    bytearray: "Take text (str); bytes have no JSON form.",
    complex: "Take two floats.",
}

_Variables = Mapping[object, object]
"""What the type variables of a generic class stand for."""


class _Compiler:
    """Turns one type into nodes; classes once each, so that a class may refer to itself."""

    def __init__(self) -> None:
        self.known: dict[object, _Node] = {}
        self.has_sets = False

    def node(self, type_: object, variables: _Variables) -> _Node:
        if isinstance(type_, typing.TypeVar):
            return self.variable(type_, variables)
        simple = _SIMPLE.get(type_) if isinstance(type_, collections.abc.Hashable) else None
        if simple is not None:
            return simple()
        origin, arguments = typing.get_origin(type_), typing.get_args(type_)
        if origin is typing.Annotated:
            return self.annotated(type_, variables)
        if origin in (typing.Required, typing.NotRequired, typing.Final):
            return self.node(arguments[0], variables)
        if origin is typing.Literal:
            return _literal(type_, arguments)
        if origin in (typing.Union, types.UnionType):
            return self.union(arguments, variables)
        if isinstance(type_, typing.NewType):
            return self.node(type_.__supertype__, variables)
        if type(type_).__name__ == "TypeAliasType":
            return self.alias(type_, variables)
        return self.collection(type_, origin or type_, arguments, variables)

    def variable(self, type_: typing.TypeVar, variables: _Variables) -> _Node:
        if type_ in variables:
            return self.node(variables[type_], variables)
        if type_.__constraints__:
            return self.union(type_.__constraints__, variables)
        return self.node(type_.__bound__ or object, variables)

    def alias(self, type_: object, variables: _Variables) -> _Node:
        if type_ not in self.known:
            alias = _Alias(str(type_))
            self.known[type_] = alias
            alias.target = self.node(getattr(type_, "__value__", object), variables)
        return self.known[type_]

    def annotated(self, type_: object, variables: _Variables) -> _Node:
        inner, *notes = typing.get_args(type_)
        node = self.node(inner, variables)
        limits = dict(_limits(notes))
        if limits:
            node = _Bounded(node, limits)
        texts = [text for note in notes if (text := _note_text(note))]
        return _Described(node, " ".join(texts)) if texts else node

    def union(self, arguments: Iterable[object], variables: _Variables) -> _Node:
        members = [(self.node(argument, variables), type_text(argument)) for argument in arguments]
        # A float also takes ints, so an int member goes first: 3 stays 3 in ``float | int``.
        members.sort(key=lambda member: isinstance(member[0], _Float))
        names = ["null" if name == "None" else name for _, name in members]
        return _Union(tuple(node for node, _ in members), tuple(names))

    def collection(self, type_: object, kind: object, arguments: tuple[object, ...], variables: _Variables) -> _Node:
        if kind in _LISTS:
            build, unique = _LISTS[kind]
            self.has_sets = self.has_sets or unique
            return _List(self.node(arguments[0] if arguments else object, variables), build, unique=unique)
        if kind is tuple:
            if not arguments or arguments[-1] is Ellipsis:
                return _List(self.node(arguments[0] if arguments else object, variables), tuple, unique=False)
            return _Tuple(tuple(self.node(argument, variables) for argument in arguments))
        if kind in _DICTS:
            return self.mapping(type_, arguments, variables)
        if isinstance(kind, type):
            return self.of_class(type_, kind, arguments, variables)
        raise _no_json_form(type_)

    def mapping(self, type_: object, arguments: tuple[object, ...], variables: _Variables) -> _Node:
        key, item = arguments or (str, object)
        key_node = self.node(str if key is typing.Any or key is object else key, variables)
        keys_are_text = (isinstance(key_node, _Scalar) and key_node.kind is str) or (
            isinstance(key_node, _Choice) and all(isinstance(value, str) for value in key_node.values)
        )
        if not keys_are_text:
            raise BindError(
                f"{type_text(type_)} has keys that are not text.", "Declare dict[str, ...]: JSON has text keys only."
            )
        return _Dict(key_node, self.node(item, variables))

    def of_class(self, type_: object, kind: type, arguments: tuple[object, ...], variables: _Variables) -> _Node:
        if issubclass(kind, enum.Enum):
            return _enum(kind)
        if issubclass(kind, pathlib.PurePath):
            parse = functools.partial(_parse_path, kind)
            return _Text(pathlib.PurePath, "a path", parse, str, "")
        if issubclass(kind, _pydantic_class("BaseModel")):
            return _Pydantic(kind)
        if type_ in self.known:
            return self.known[type_]
        given = tuple(variables.get(argument, argument) for argument in arguments)
        inner = dict(zip(getattr(kind, "__parameters__", ()), given, strict=False))
        if attrs.has(kind):
            return self.record(type_, kind, kind, _attrs_fields, inner)
        if dataclasses.is_dataclass(kind):
            return self.record(type_, kind, kind, _dataclass_fields, inner)
        if issubclass(kind, dict) and hasattr(kind, "__required_keys__"):
            return self.record(type_, kind, dict, _typed_dict_fields, inner)
        raise _no_json_form(type_)

    def record(
        self,
        type_: object,
        kind: type,
        build: Callable[..., object],
        fields_of: Callable[[type, Mapping[str, object]], Iterable[_RawField]],
        variables: _Variables,
    ) -> _Node:
        record = _Record(kind, kind.__name__, build, _class_summary(kind))
        self.known[type_] = record
        texts = described_names(kind.__doc__)
        record.complete(
            _Field(
                name=raw.name,
                attribute=raw.attribute,
                node=self.field_node(kind, raw, variables),
                required=raw.required,
                default=raw.default,
                description=raw.description or texts.get(raw.name, ""),
            )
            for raw in fields_of(kind, class_hints(kind))
        )
        return record

    def field_node(self, kind: type, raw: _RawField, variables: _Variables) -> _Node:
        try:
            return self.node(raw.type_, variables)
        except BindError as error:
            raise BindError(f"{kind.__name__}.{raw.name}: {error.problem}", error.remedy) from error


@attrs.frozen
class _RawField:
    """A field as its class declares it."""

    name: str
    attribute: str
    type_: object
    required: bool
    default: object = None
    description: str = ""


def _attrs_fields(kind: type, hints: Mapping[str, object]) -> Iterable[_RawField]:
    for field in attrs.fields(kind):
        if field.init:
            name = field.alias or field.name
            made = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]  # a class, whatever its stub says
            default = _NO_DEFAULT if made else field.default
            text = str(field.metadata.get("description", ""))
            hint = hints.get(field.name, field.type or object)
            yield _RawField(name, field.name, hint, field.default is attrs.NOTHING, default, text)


def _dataclass_fields(kind: type, hints: Mapping[str, object]) -> Iterable[_RawField]:
    for field in dataclasses.fields(kind):
        if field.init:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            text = str(field.metadata.get("description", ""))
            yield _RawField(field.name, field.name, hints.get(field.name, object), required, field.default, text)


def _typed_dict_fields(kind: type, hints: Mapping[str, object]) -> Iterable[_RawField]:
    for name, hint in hints.items():
        marks = _marks(hint)
        # Under ``from __future__ import annotations`` the class itself cannot see these marks.
        required = typing.NotRequired not in marks and (typing.Required in marks or name in kind.__required_keys__)  # type: ignore[attr-defined]  # a TypedDict
        yield _RawField(name, name, hint, required, _NO_DEFAULT)


def _marks(hint: object) -> set[object]:
    """Required and NotRequired around a type, also within Annotated."""
    origin = typing.get_origin(hint)
    if origin in (typing.Required, typing.NotRequired, typing.Annotated):
        return {origin} | _marks(typing.get_args(hint)[0])
    return set()


def class_hints(kind: type) -> dict[str, object]:
    """The annotations of a class, texts resolved.

    Raises:
        BindError: One names something that is not there when the program runs.
    """
    try:
        return typing.get_type_hints(kind, localns={kind.__name__: kind}, include_extras=True)
    except NameError as error:
        raise unresolvable(kind.__qualname__, error) from error
    except (TypeError, SyntaxError) as error:
        raise BindError(
            f"{kind.__qualname__} has an annotation that is no type: {error}.", "Correct the annotation."
        ) from error


def unresolvable(owner: str, error: NameError) -> BindError:
    """The error for an annotation that names what is not there when the program runs."""
    return BindError(
        f"{owner}: the annotation {error.name!r} cannot be resolved.",
        f"Import or define {error.name!r} at the top of the module, not under TYPE_CHECKING and not inside a function.",
    )


def _class_summary(kind: type) -> str:
    """First paragraph of a class's own docstring; the ones that dataclasses and TypedDicts make themselves say nothing."""
    doc = kind.__dict__.get("__doc__")
    return "" if not doc or doc.startswith(f"{kind.__name__}(") else summary(doc)


def _initial_names(kind: type) -> list[str]:
    """The members of an instance of an attrs class or dataclass."""
    if attrs.has(kind):
        return [field.alias or field.name for field in attrs.fields(kind) if field.init]
    return [field.name for field in dataclasses.fields(kind) if field.init] if dataclasses.is_dataclass(kind) else []


def _literal(type_: object, arguments: tuple[object, ...]) -> _Node:
    choices = [(argument.value if isinstance(argument, enum.Enum) else argument, argument) for argument in arguments]
    if any(isinstance(value, bytes) for value, _ in choices):
        raise _no_json_form(type_)
    return _Choice(choices)


def _enum(kind: type[enum.Enum]) -> _Node:
    choices = [(_enum_value(member.value), member) for member in kind]
    if not choices or not all(value is None or type(value) in (str, int, float, bool) for value, _ in choices):
        raise BindError(f"Enum {kind.__name__} has values that are not JSON.", "Give its members texts or numbers.")
    return _Choice(choices)


def _enum_value(value: object) -> object:
    """The plain value of a member of a mixed-in enum."""
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def _limits(notes: Iterable[object]) -> Iterable[tuple[str, object]]:
    for note in notes:
        # pydantic's FieldInfo keeps them one level down.
        for item in (note, *cast("list[object]", getattr(note, "metadata", None) or [])):
            for name in _LIMITS:
                limit = getattr(item, name, None)
                if isinstance(limit, (int, float, datetime.date, decimal.Decimal)) and limit is not False:
                    yield name, limit


def _note_text(note: object) -> str:
    if isinstance(note, str):
        return note
    text = getattr(note, "documentation", None) or getattr(note, "description", None)
    return text if isinstance(text, str) else ""


def _no_json_form(type_: object) -> BindError:
    remedy = _REMEDIES.get(type_) if isinstance(type_, collections.abc.Hashable) else None
    return BindError(
        f"The type {type_text(type_)} has no JSON form.",
        remedy or "Use builtins, an attrs class, a dataclass, a TypedDict or a pydantic model; or object for any JSON.",
    )
