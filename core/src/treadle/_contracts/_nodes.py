"""Nodes: one kind of type each, which checks JSON data, reads instances, and writes its JSON Schema."""

from __future__ import annotations

import difflib
import json
import operator
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol, cast

import attrs

from treadle._json import NotJsonError, Place, Shape, copy_json, path_text, plain
from treadle._models import Issue, Json

JsonSchema = dict[str, object]
Opened = tuple[object, Shape | None]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NO_DEFAULT = object()
"""A member without a default, or with one that its author did not write down."""


class Definitions:
    """The ``$defs`` of one schema while it is written: each class once, also when it refers to itself."""

    def __init__(self) -> None:
        self.schemas: dict[str, JsonSchema] = {}
        self._names: dict[object, str] = {}

    def refer(self, key: object, name: str, write: Callable[[], JsonSchema]) -> JsonSchema:
        """A reference to the definition of ``key``, which is written when it is not there yet."""
        if key not in self._names:
            unique, number = name, 2
            while unique in self.schemas:
                unique, number = f"{name}_{number}", number + 1
            self._names[key] = unique
            self.schemas[unique] = {}  # taken, so that a class that refers to itself ends here
            self.schemas[unique] = write()
        return {"$ref": f"#/$defs/{self._names[key]}"}

    def finish(self, schema: JsonSchema) -> JsonSchema:
        """The whole document."""
        whole: JsonSchema = {"$schema": DIALECT, **schema}
        return {**whole, "$defs": self.schemas} if self.schemas else whole


def object_of(properties: dict[str, JsonSchema], required: list[str], others: JsonSchema | None) -> JsonSchema:
    """The schema of an object; ``others`` is what further members must satisfy, None: there are none."""
    schema: JsonSchema = {"type": "object", "properties": properties}
    schema["additionalProperties"] = False if others is None else others
    return {**schema, "required": required} if required else schema


def described(schema: JsonSchema, description: str, default: object = NO_DEFAULT) -> JsonSchema:
    """The schema with a description, and with its default when that is JSON."""
    if description:
        schema = {**schema, "description": description}
    if default is NO_DEFAULT:
        return schema
    try:
        return {**schema, "default": plain(default, max_bytes=1000)}
    except NotJsonError:
        return schema


def suggestion(name: str, known: Collection[str]) -> str:
    """``did you mean 'url'?``, else the names that are known."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "there are none"


def _wrong(words: str, value: Json, place: Place | None, issues: list[Issue]) -> object:
    # The value itself is not shown: it may hold a secret, and issues are recorded.
    got = "null" if value is None else type(value).__name__
    issues.append(Issue(f"expected {words}, got {got}", path_text(place)))
    return None


def _depth(place: Place | None) -> int:
    return 1 if place is None else place[2] + 1


class Node:
    """One kind of type, compiled. The defaults are those of a type whose instances are plain JSON.

    Attributes:
        is_plain: Instances are plain JSON, so reading them needs no guidance.
        exact: Python types whose values satisfy it and stay as they are; lets collections be checked in one step.
        kinds: Python types of the JSON that it wants; empty: any.
        words: What it wants, for messages.
    """

    is_plain: bool = True
    exact: frozenset[type] = frozenset()
    kinds: frozenset[type] = frozenset()
    words: str = "any JSON"

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        """Check and build; what is wrong is added to ``issues``, and then the answer means nothing."""
        raise NotImplementedError

    def schema(self, definitions: Definitions) -> JsonSchema:
        """JSON Schema without ``$defs``."""
        raise NotImplementedError

    def fits(self, value: Json) -> bool:
        """Whether ``value`` is of the JSON kind that it wants, so that its issues help."""
        return type(value) in self.kinds

    def may_be(self, value: Json) -> bool:
        """Whether ``value`` does not tell a class apart that has it in a field; only choices do."""
        return True

    def likeness(self, value: Json) -> float:
        """How near ``value`` comes at first sight, from 0; 1 when nothing is seen that speaks against it."""
        return 1.0 if self.fits(value) else 0.0

    def claims(self, value: object) -> bool:
        """Whether ``value`` is an instance that it knows how to read."""
        return False

    def open(self, value: object) -> Opened:
        """See ``Shape``."""
        return value, None

    def child(self, key: str | int) -> Shape | None:
        """See ``Shape``."""
        return None


# -- single values -------------------------------------------------------------------------------------------------------


class AnyNode(Node):
    """object and Any: all JSON."""

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        return copy_json(value) if type(value) is dict or type(value) is list else value

    def fits(self, value: Json) -> bool:
        return True

    def schema(self, definitions: Definitions) -> JsonSchema:
        return {}


class ScalarNode(Node):
    """str, int, bool, None: exactly that type."""

    def __init__(self, kind: type, words: str, json_type: str) -> None:
        self.kind, self.words, self.json_type = kind, words, json_type
        self.exact = self.kinds = frozenset((kind,))

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        return value if type(value) is self.kind else _wrong(self.words, value, place, issues)

    def schema(self, definitions: Definitions) -> JsonSchema:
        return {"type": self.json_type}


class FloatNode(Node):
    """A float, or an int, which becomes one."""

    exact = frozenset((float,))
    kinds = frozenset((float, int))
    words = "float"

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is float:
            return value
        if type(value) is not int:
            return _wrong(self.words, value, place, issues)
        try:
            return float(value)
        except OverflowError:
            issues.append(Issue("the integer is too large for a float", path_text(place)))
            return None

    def schema(self, definitions: Definitions) -> JsonSchema:
        return {"type": "number"}


class ChoiceNode(Node):
    """Literal and enums: one of some values, each with its exact type, so that 1 is not True."""

    def __init__(self, choices: Iterable[tuple[Json, object]]) -> None:
        self.choices = {(type(value), value): answer for value, answer in choices}
        self.values = [value for _, value in self.choices]
        self.kinds = frozenset(kind for kind, _ in self.choices)
        self.words = " or ".join(json.dumps(value) for value in self.values)

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if not self.fits(value):
            return _wrong(self.words, value, place, issues)
        if self.may_be(value):
            return self.choices[(type(value), value)]
        issues.append(Issue(f"expected {self.words}, got another {type(value).__name__}", path_text(place)))
        return None

    def may_be(self, value: Json) -> bool:
        return self.fits(value) and (type(value), value) in self.choices

    def schema(self, definitions: Definitions) -> JsonSchema:
        return {"const": self.values[0]} if len(self.values) == 1 else {"enum": self.values}


@attrs.frozen(eq=False)
class TextNode(Node):
    """A class that stands in JSON as text: dates, paths, decimals, UUIDs."""

    kind: type
    words: str
    parse: Callable[[str], object]
    write: Callable[[Any], str]  # takes instances of ``kind``
    form: str = ""
    is_plain: bool = False
    kinds: frozenset[type] = frozenset((str,))

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not str:
            return _wrong(self.words, value, place, issues)
        try:
            return self.parse(value)
        except (ValueError, ArithmeticError):
            issues.append(Issue(f"expected {self.words}, got another text", path_text(place)))
            return None

    def claims(self, value: object) -> bool:
        return isinstance(value, self.kind)

    def open(self, value: object) -> Opened:
        return (self.write(value) if isinstance(value, self.kind) else value), None

    def schema(self, definitions: Definitions) -> JsonSchema:
        return {"type": "string", "format": self.form} if self.form else {"type": "string"}


# -- containers ----------------------------------------------------------------------------------------------------------


class _Container(Node):
    """What containers have in common: they are read in place, and their children have shapes of their own."""

    def open(self, value: object) -> Opened:
        return value, self


class ListNode(_Container):
    """list, tuple of one type, set: an array of items."""

    kinds = frozenset((list,))
    words = "list"

    def __init__(self, item: Node, build: Callable[[list[object]], object]) -> None:
        self.item, self.build = item, build
        self.is_plain = item.is_plain
        self.is_set = build in (set, frozenset)

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not list:
            return _wrong(self.words, value, place, issues)
        item = self.item
        if item.exact and item.exact.issuperset(map(type, value)):
            items = value.copy()
        else:
            depth = _depth(place)
            items = [item.structure(each, (place, index, depth), issues) for index, each in enumerate(value)]
        if self.is_set:
            return self.make_set(items, place, issues)
        return items if self.build is list else self.build(items)

    def make_set(self, items: list[object], place: Place | None, issues: list[Issue]) -> object:
        try:
            made = cast("frozenset[object]", self.build(items))
        except TypeError:
            issues.append(Issue("lists and objects cannot be items of a set", path_text(place)))
            return None
        if len(made) != len(items) and not issues:
            issues.append(Issue("items of a set must differ", path_text(place)))
        return made

    def claims(self, value: object) -> bool:
        return isinstance(value, (list, tuple))

    def child(self, key: str | int) -> Shape | None:
        return None if self.item.is_plain else self.item

    def schema(self, definitions: Definitions) -> JsonSchema:
        schema: JsonSchema = {"type": "array", "items": self.item.schema(definitions)}
        return {**schema, "uniqueItems": True} if self.is_set else schema


class TupleNode(_Container):
    """A tuple of fixed length."""

    kinds = frozenset((list,))
    words = "list"

    def __init__(self, items: tuple[Node, ...]) -> None:
        self.items = items
        self.is_plain = all(item.is_plain for item in items)

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not list:
            return _wrong(self.words, value, place, issues)
        if len(value) != len(self.items):
            issues.append(Issue(f"expected {len(self.items)} items, got {len(value)}", path_text(place)))
            return None
        depth, pairs = _depth(place), zip(self.items, value, strict=True)
        return tuple(item.structure(each, (place, index, depth), issues) for index, (item, each) in enumerate(pairs))

    def claims(self, value: object) -> bool:
        return isinstance(value, (list, tuple))

    def child(self, key: str | int) -> Shape | None:
        item = self.items[key] if isinstance(key, int) and key < len(self.items) else None
        return None if item is None or item.is_plain else item

    def schema(self, definitions: Definitions) -> JsonSchema:
        count = len(self.items)
        schema: JsonSchema = {"type": "array", "minItems": count, "maxItems": count}
        return {**schema, "prefixItems": [item.schema(definitions) for item in self.items]} if count else schema


class DictNode(_Container):
    """A mapping from text, or from some texts, to items."""

    kinds = frozenset((dict,))
    words = "dict"

    def __init__(self, key: Node, item: Node) -> None:
        self.key, self.item = key, item
        self.is_plain = item.is_plain
        self.has_any_key = str in key.exact

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not dict:
            return _wrong(self.words, value, place, issues)
        item = self.item
        if self.has_any_key and item.exact and item.exact.issuperset(map(type, value.values())):
            return value.copy()
        depth = _depth(place)
        if self.has_any_key:
            return {key: item.structure(each, (place, key, depth), issues) for key, each in value.items()}
        found = {}
        for key, each in value.items():
            here = (place, key, depth)
            found[self.key.structure(key, here, issues)] = item.structure(each, here, issues)
        return found

    def claims(self, value: object) -> bool:
        return isinstance(value, Mapping)

    def child(self, key: str | int) -> Shape | None:
        return None if self.item.is_plain else self.item

    def schema(self, definitions: Definitions) -> JsonSchema:
        schema: JsonSchema = {"type": "object", "additionalProperties": self.item.schema(definitions)}
        return schema if self.has_any_key else {**schema, "propertyNames": self.key.schema(definitions)}


@attrs.frozen(eq=False)
class Field:
    """One member of a class: its name in JSON, the attribute that holds it, what it must be."""

    name: str
    attribute: str
    node: Node
    required: bool
    default: object = NO_DEFAULT
    description: str = ""


class RecordNode(_Container):
    """attrs classes, dataclasses and TypedDicts: an object with known members and no others."""

    kinds = frozenset((dict,))

    def __init__(self, kind: type, build: Callable[..., object], members_of: Callable[[type], list[str]], text: str) -> None:
        self.kind, self.build, self.members_of, self.description = kind, build, members_of, text
        self.name = kind.__name__
        self.words = f"{self.name} (an object)"
        self.is_typed_dict = build is dict
        # Until its fields are known: a class that refers to itself is read with guidance.
        self.is_plain = False
        self.fields: dict[str, Field] = {}
        self.required: frozenset[str] = frozenset()

    def complete(self, fields: Iterable[Field]) -> None:
        """Give it its fields, which may refer to it."""
        self.fields = {field.name: field for field in fields}
        self.required = frozenset(field.name for field in self.fields.values() if field.required)
        self.is_plain = self.is_typed_dict and all(field.node.is_plain for field in self.fields.values())

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) is not dict:
            return _wrong(self.words, value, place, issues)
        before, depth = len(issues), _depth(place)
        values: dict[str, object] = {}
        for key, each in value.items():
            here, field = (place, key, depth), self.fields.get(key)
            if field is None:
                issues.append(Issue(f"{self.name} has no {key!r}; {suggestion(key, self.fields)}", path_text(here)))
            else:
                values[key] = field.node.structure(each, here, issues)
        if not self.required <= value.keys():
            missing = [name for name in self.fields if name in self.required and name not in value]
            issues.extend(Issue("is missing", path_text((place, name, depth))) for name in missing)
        return self.construct(values, place, issues) if len(issues) == before else None

    def likeness(self, value: Json) -> float:
        if not isinstance(value, dict):
            return 0.0
        matching = [name for name in value if name in self.fields and self.fields[name].node.may_be(value[name])]
        wanted = value.keys() | self.required
        return len(matching) / len(wanted) if wanted else 1.0

    def construct(self, values: dict[str, object], place: Place | None, issues: list[Issue]) -> object:
        try:
            return self.build(**values)
        except Exception as error:  # foreign code: validators and __post_init__ of the author's class
            # attrs' validators put a text first and objects behind it.
            why = error.args[0] if error.args and isinstance(error.args[0], str) else type(error).__name__
            issues.append(Issue(f"{self.name} refuses it: {why}", path_text(place)))
            return None

    def claims(self, value: object) -> bool:
        return isinstance(value, Mapping) or (not self.is_typed_dict and isinstance(value, self.kind))

    def open(self, value: object) -> Opened:
        if self.is_typed_dict or not isinstance(value, self.kind):
            return value, self
        members = {field.name: getattr(value, field.attribute) for field in self.fields.values()}
        if type(value) is not self.kind:
            # What a subclass adds stays visible, so that the check refuses it instead of losing it.
            added = [name for name in self.members_of(type(value)) if name not in self.fields]
            members |= {name: getattr(value, name, None) for name in added}
        return members, self

    def child(self, key: str | int) -> Shape | None:
        field = self.fields.get(key) if isinstance(key, str) else None
        return None if field is None or field.node.is_plain else field.node

    def schema(self, definitions: Definitions) -> JsonSchema:
        return definitions.refer(self, self.name, lambda: self.definition(definitions))

    def definition(self, definitions: Definitions) -> JsonSchema:
        """Its entry in ``$defs``."""
        properties = {
            field.name: described(field.node.schema(definitions), field.description, field.default)
            for field in self.fields.values()
        }
        required = [name for name in self.fields if name in self.required]
        return {"title": self.name, **described(object_of(properties, required, None), self.description)}


# -- combinations --------------------------------------------------------------------------------------------------------


_MOST_DOUBTS = 8
"""Unions within unions whose members look alike: each level at least doubles the work."""


class _Attempt(list[Issue]):
    """Issues of one member of a union, which is tried below ``level`` doubtful choices."""

    def __init__(self, level: int) -> None:
        self.level = level


class UnionNode(Node):
    """One of several types: the first that the value satisfies."""

    def __init__(self, members: tuple[Node, ...], words: str) -> None:
        self.members, self.words = members, words
        self.is_plain = all(member.is_plain for member in members)
        if all(member.exact for member in members):
            self.exact = frozenset[type]().union(*(member.exact for member in members))

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if type(value) in self.exact:
            return value
        likely = [member for member in self.members if member.likeness(value) == 1.0]
        level = issues.level + 1 if isinstance(issues, _Attempt) else 1
        if len(likely) > 1 and isinstance(value, (dict, list)) and level > _MOST_DOUBTS:
            issues.append(Issue(f"cannot be told which of {self.words} it is; add a Literal field to each", path_text(place)))
            return None
        failed: list[list[Issue]] = []
        for member in likely or self.nearest(value):
            found = _Attempt(level if len(likely) > 1 else level - 1)
            answer = member.structure(value, place, found)
            if not found:
                return answer
            failed.append(found)
        if not failed:
            return _wrong(self.words, value, place, issues)
        if len(likely) == 1 or sum(member.fits(value) for member in self.members) == 1:
            issues.extend(failed[0])
        else:
            nearest = "; ".join(str(issue) for issue in min(failed, key=len))
            issues.append(Issue(f"is none of {self.words}; nearest: {nearest}", path_text(place)))
        return None

    def nearest(self, value: Json) -> list[Node]:
        """The member that a value which is none of them comes nearest to, to tell what is wrong."""
        near = [member for member in self.members if member.fits(value)]
        return [max(near, key=lambda member: member.likeness(value))] if near else []

    def fits(self, value: Json) -> bool:
        return any(member.fits(value) for member in self.members)

    def likeness(self, value: Json) -> float:
        return max(member.likeness(value) for member in self.members)

    def claims(self, value: object) -> bool:
        return any(member.claims(value) for member in self.members)

    def open(self, value: object) -> Opened:
        return _open_by_any(self.members, value)

    def schema(self, definitions: Definitions) -> JsonSchema:
        return {"anyOf": [member.schema(definitions) for member in self.members]}


def _open_by_any(members: Iterable[Node], value: object) -> Opened:
    """Read by the members that know the value; several may know a container, and then its children."""
    claiming = tuple(member for member in members if member.claims(value))
    if not claiming:
        return value, None
    if len(claiming) == 1 or not isinstance(value, (list, tuple, Mapping)):
        return claiming[0].open(value)
    return value, _AnyOfThem(claiming)


@attrs.frozen
class _AnyOfThem:
    """The shape of a container that several members of a union know."""

    members: tuple[Node, ...]

    def open(self, value: object) -> Opened:
        return _open_by_any(self.members, value)

    def child(self, key: str | int) -> Shape | None:
        shapes = tuple(shape for member in self.members if isinstance(shape := member.child(key), Node))
        return _AnyOfThem(shapes) if shapes else None


class NotedNode(Node):
    """``Annotated``: a type with a text for its schema, and limits in the vocabulary of annotated-types."""

    def __init__(self, inner: Node, description: str = "", limits: Mapping[str, object] | None = None) -> None:
        self.limits, self.description = limits or {}, description
        self.wrap(inner)

    def wrap(self, inner: Node) -> None:
        """Take over what another node is."""
        self.inner, self.is_plain, self.kinds, self.words = inner, inner.is_plain, inner.kinds, inner.words
        self.exact = frozenset() if self.limits else inner.exact

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        before = len(issues)
        answer = self.inner.structure(value, place, issues)
        if len(issues) == before:
            for name, limit in self.limits.items():
                if not LIMITS[name].holds(answer, limit):
                    issues.append(Issue(f"must be {LIMITS[name].words} {limit}", path_text(place)))
        return answer

    def fits(self, value: Json) -> bool:
        return self.inner.fits(value)

    def likeness(self, value: Json) -> float:
        return self.inner.likeness(value)

    def claims(self, value: object) -> bool:
        return self.inner.claims(value)

    def open(self, value: object) -> Opened:
        return self.inner.open(value)

    def child(self, key: str | int) -> Shape | None:
        return self.inner.child(key)

    def schema(self, definitions: Definitions) -> JsonSchema:
        schema = self.inner.schema(definitions)
        counted = {"array": "Items", "object": "Properties"}.get(str(schema.get("type")), "Length")
        limits = {LIMITS[name].keyword.replace("Length", counted): limit for name, limit in self.limits.items()}
        return described({**schema, **limits}, self.description)


@attrs.frozen
class Limit:
    """One limit: whether it holds, its words, its keyword in JSON Schema."""

    holds: Callable[[Any, Any], bool]  # as loose as the operators are
    words: str
    keyword: str


LIMITS = {
    "gt": Limit(operator.gt, "more than", "exclusiveMinimum"),
    "ge": Limit(operator.ge, "at least", "minimum"),
    "lt": Limit(operator.lt, "less than", "exclusiveMaximum"),
    "le": Limit(operator.le, "at most", "maximum"),
    "min_length": Limit(lambda value, limit: len(value) >= limit, "of length at least", "minLength"),
    "max_length": Limit(lambda value, limit: len(value) <= limit, "of length at most", "maxLength"),
}


class AliasNode(NotedNode):
    """``type Tree = list[Tree] | int``: a name for a type, which may refer to itself."""

    def __init__(self, name: str) -> None:
        super().__init__(AnyNode())
        self.name = name
        self.is_plain = False

    def wrap(self, inner: Node) -> None:
        super().wrap(inner)
        # What stands inside may be this very alias, which was not known to be plain then.
        self.is_plain = False

    def schema(self, definitions: Definitions) -> JsonSchema:
        return definitions.refer(self, self.name, lambda: self.inner.schema(definitions))


# -- pydantic, which is never imported from here ---------------------------------------------------------------------------


class _PydanticClass(Protocol):
    """The part of a pydantic model class that contracts use."""

    __name__: str

    def model_validate_json(self, json_data: str, *, strict: bool) -> object:
        """Strict as for JSON: dates as text, no other coercion."""

    def model_json_schema(self, *, ref_template: str) -> JsonSchema:
        """Its schema with its own ``$defs``."""


def pydantic_class(name: str) -> type:
    """A class of pydantic when something imported it already; else one that nothing derives from."""
    found = getattr(sys.modules.get("pydantic"), name, None)
    return found if isinstance(found, type) else _Nothing


class _Nothing:
    pass


class PydanticNode(Node):
    """A pydantic model: it checks, reads and describes itself."""

    is_plain = False

    def __init__(self, kind: type) -> None:
        self.kind, self.model = kind, cast(_PydanticClass, kind)
        self.is_root = issubclass(kind, pydantic_class("RootModel"))
        self.kinds = frozenset((dict,))
        self.words = f"{self.model.__name__} (an object)"

    def structure(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        if not self.fits(value):
            return _wrong(self.words, value, place, issues)
        try:
            return self.model.model_validate_json(json.dumps(value), strict=True)
        except ValueError as error:
            details = cast("Callable[[], list[dict[str, object]]]", getattr(error, "errors", list))()
            for detail in details or [{"msg": str(error)}]:
                here = place
                for key in cast("tuple[str | int, ...]", detail.get("loc", ())):
                    here = (here, key, _depth(here))
                issues.append(Issue(str(detail["msg"]), path_text(here)))
            return None

    def fits(self, value: Json) -> bool:
        return self.is_root or type(value) is dict

    def claims(self, value: object) -> bool:
        return isinstance(value, self.kind)

    def open(self, value: object) -> Opened:
        if not isinstance(value, self.kind):
            return value, None
        dump = cast("Callable[..., object]", value.model_dump)  # type: ignore[attr-defined]  # a pydantic model
        # Without pydantic's warnings: what does not fit is refused by the check that follows.
        return dump(mode="json", by_alias=True, warnings=False), None

    def schema(self, definitions: Definitions) -> JsonSchema:
        return definitions.refer(self.kind, self.model.__name__, lambda: self.definition(definitions))

    def definition(self, definitions: Definitions) -> JsonSchema:
        """Its entry in ``$defs``; the classes inside of it become entries under its name."""
        name = self.model.__name__
        schema = self.model.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        inner = cast("dict[str, JsonSchema]", schema.pop("$defs", {}))
        definitions.schemas.update({f"{name}.{each}": definition for each, definition in inner.items()})
        return schema
