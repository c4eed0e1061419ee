"""From types to nodes: what each annotation means as JSON."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import operator
import pathlib
import re
import sys
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import attrs

from treadle._contracts._docstrings import described_names, summary
from treadle._contracts._nodes import (
    LIMITS,
    NO_DEFAULT,
    AliasNode,
    AnyNode,
    ChoiceNode,
    DictNode,
    Field,
    FloatNode,
    ListNode,
    Node,
    NotedNode,
    PydanticNode,
    RecordNode,
    ScalarNode,
    TextNode,
    TupleNode,
    UnionNode,
    pydantic_class,
)
from treadle._models import Json
from treadle.errors import BindError

_Variables = Mapping[object, object]
"""What the type variables of a generic class stand for."""


def type_text(type_: object) -> str:
    """A type as its author wrote it, without modules: ``list[Point] | None``."""
    if type_ is None or type_ is type(None):
        return "None"
    if isinstance(type_, type) and typing.get_origin(type_) is None:
        return type_.__name__
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?:<locals>\.)?(?=[A-Za-z_])", "", str(type_))


def is_hashable(type_: object) -> bool:
    """Whether a type can be looked up; ``Annotated`` with a list in it cannot."""
    try:
        hash(type_)
    except TypeError:
        return False
    return True


def unresolvable(owner: str, error: NameError) -> BindError:
    """The error for an annotation that names what is not there when the program runs."""
    return BindError(
        f"{owner}: the annotation {error.name!r} cannot be resolved.",
        f"Import or define {error.name!r} at the top of the module, not under TYPE_CHECKING and not inside a function.",
    )


class Compiler:
    """Turns one type into nodes; classes once each, so that a class may refer to itself."""

    def __init__(self) -> None:
        self._known: dict[object, Node] = {}
        self.has_sets = False

    def node(self, type_: object, variables: _Variables) -> Node:
        """The node of a type.

        Raises:
            BindError: It has no JSON form.
        """
        if isinstance(type_, typing.TypeVar):
            return self._variable(type_, variables)
        simple = _SIMPLE.get(type_) if is_hashable(type_) else None
        if simple is not None:
            return simple()
        origin, arguments = typing.get_origin(type_), typing.get_args(type_)
        if origin is typing.Annotated:
            return self._annotated(arguments[0], type_.__metadata__, variables)  # type: ignore[attr-defined]  # Annotated
        if origin in (typing.Required, typing.NotRequired, typing.Final):
            return self.node(arguments[0], variables)
        if origin is Literal:
            return ChoiceNode((_plain_choice(argument), argument) for argument in arguments)
        if origin in (typing.Union, types.UnionType):
            return self._union(arguments, variables)
        if isinstance(type_, typing.NewType):
            return self.node(type_.__supertype__, variables)
        if type(type_).__name__ == "TypeAliasType":
            return self._alias(type_, variables)
        return self._collection(type_, origin or type_, arguments, variables)

    def _variable(self, type_: typing.TypeVar, variables: _Variables) -> Node:
        if type_ in variables:
            return self.node(variables[type_], {})
        if type_.__constraints__:
            return self._union(type_.__constraints__, variables)
        return self.node(type_.__bound__ or object, variables)

    def _alias(self, type_: object, variables: _Variables) -> Node:
        if type_ not in self._known:
            self._known[type_] = alias = AliasNode(str(type_))
            alias.wrap(self.node(_alias_value(type_), variables))
        return self._known[type_]

    def _annotated(self, inner: object, notes: Iterable[object], variables: _Variables) -> Node:
        texts = [text for note in notes if (text := _note_text(note))]
        limits = dict(_limits(notes))
        node = self.node(inner, variables)
        return NotedNode(node, " ".join(texts), limits) if texts or limits else node

    def _union(self, arguments: Iterable[object], variables: _Variables) -> Node:
        members = [(self.node(argument, variables), type_text(argument)) for argument in arguments]
        # A float also takes ints, so an int member goes first: 3 stays 3 in ``float | int``.
        members.sort(key=lambda member: isinstance(member[0], FloatNode))
        words = " or ".join("null" if name == "None" else name for _, name in members)
        return UnionNode(tuple(node for node, _ in members), words)

    def _collection(self, type_: object, kind: object, arguments: tuple[object, ...], variables: _Variables) -> Node:
        if kind in _LISTS:
            self.has_sets = self.has_sets or _LISTS[kind] in (set, frozenset)
            return ListNode(self.node(arguments[0] if arguments else object, variables), _LISTS[kind])
        if kind is tuple:
            if not arguments or arguments[-1] is Ellipsis:
                return ListNode(self.node(arguments[0] if arguments else object, variables), tuple)
            return TupleNode(tuple(self.node(argument, variables) for argument in arguments))
        if kind in _DICTS:
            key, item = arguments or (str, object)
            return DictNode(self._key(type_, key, variables), self.node(item, variables))
        if isinstance(kind, type):
            return self._class(type_, kind, arguments, variables)
        raise _no_json_form(type_)

    def _key(self, type_: object, key: object, variables: _Variables) -> Node:
        node = self.node(str if key in (typing.Any, object) else key, variables)
        if node.kinds != {str} or not node.is_plain:
            raise BindError(
                f"{type_text(type_)} has keys that are not text.", "JSON has text keys only: declare dict[str, ...]."
            )
        return node

    def _class(self, type_: object, kind: type, arguments: tuple[object, ...], variables: _Variables) -> Node:
        if issubclass(kind, enum.Enum):
            return _enum(kind)
        if issubclass(kind, pathlib.PurePath):
            return TextNode(pathlib.PurePath, "a path", functools.partial(_parse_path, kind), str)
        if issubclass(kind, pydantic_class("BaseModel")):
            return PydanticNode(kind)
        if type_ in self._known:
            return self._known[type_]
        given = [variables.get(argument, argument) for argument in arguments]
        inner = dict(zip(getattr(kind, "__parameters__", ()), given, strict=False))
        form = _form_of(kind)
        if form is None:
            raise _no_json_form(type_)
        return self._record(type_, kind, form, inner)

    def _record(self, type_: object, kind: type, form: _Form, variables: _Variables) -> Node:
        record = RecordNode(kind, form.build or kind, form.names, _class_summary(kind))
        self._known[type_] = record
        texts = described_names(kind.__doc__)
        fields = [self._field(kind, raw, texts, variables) for raw in form.fields(kind, _class_hints(kind))]
        record.complete(fields)
        return record

    def _field(self, kind: type, raw: _RawField, texts: Mapping[str, str], variables: _Variables) -> Field:
        try:
            node = self.node(raw.type_, variables)
        except BindError as error:
            raise BindError(f"{kind.__name__}.{raw.name}: {error.problem}", error.remedy) from error
        return Field(raw.name, raw.attribute, node, raw.required, raw.default, raw.description or texts.get(raw.name, ""))


# -- single types --------------------------------------------------------------------------------------------------------


def _parse_datetime(text: str) -> datetime.datetime:
    if len(text) <= 10:
        raise ValueError("a date without a time")
    return datetime.datetime.fromisoformat(text)


def _parse_path(kind: Callable[[str], object], text: str) -> object:
    if not text or "\0" in text:
        raise ValueError("not a path")
    return kind(text)


def _scalar(kind: type, words: str, json_type: str) -> Callable[[], Node]:
    return lambda: ScalarNode(kind, words, json_type)


def _text(kind: type, words: str, parse: Callable[[str], object], form: str) -> Callable[[], Node]:
    # Called on the value itself: ``date.isoformat`` would silently cut a datetime.
    write: Callable[[Any], str] = operator.methodcaller("isoformat") if hasattr(kind, "isoformat") else str
    return lambda: TextNode(kind, words, parse, write, form)


_SIMPLE: Mapping[object, Callable[[], Node]] = {
    object: AnyNode,
    typing.Any: AnyNode,
    str: _scalar(str, "str", "string"),
    int: _scalar(int, "int", "integer"),
    bool: _scalar(bool, "bool", "boolean"),
    None: _scalar(type(None), "null", "null"),
    type(None): _scalar(type(None), "null", "null"),
    float: FloatNode,
    datetime.datetime: _text(datetime.datetime, "a date and time (ISO 8601)", _parse_datetime, "date-time"),
    datetime.date: _text(datetime.date, "a date (ISO 8601)", datetime.date.fromisoformat, "date"),
    datetime.time: _text(datetime.time, "a time (ISO 8601)", datetime.time.fromisoformat, "time"),
    decimal.Decimal: _text(decimal.Decimal, "a decimal number as text", decimal.Decimal, ""),
    uuid.UUID: _text(uuid.UUID, "a UUID", uuid.UUID, "uuid"),
}

_LISTS: Mapping[object, Callable[[list[object]], object]] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
}

_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _enum(kind: type[enum.Enum]) -> Node:
    choices = [(_plain_choice(member), member) for member in kind]
    if not choices or not all(value is None or type(value) in (str, int, float, bool) for value, _ in choices):
        raise BindError(f"Enum {kind.__name__} has values that are not JSON.", "Give its members texts or numbers.")
    return ChoiceNode(choices)


def _plain_choice(choice: object) -> Json:
    """The JSON of a literal or of an enum's member, also of one that mixes in str or int."""
    value = choice.value if isinstance(choice, enum.Enum) else choice
    if isinstance(value, bytes):
        raise _no_json_form(bytes)
    for kind in (str, int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def _limits(notes: Iterable[object]) -> Iterable[tuple[str, object]]:
    for note in notes:
        # pydantic's FieldInfo keeps them one level down.
        for item in (note, *cast("list[object]", getattr(note, "metadata", None) or [])):
            for name in LIMITS:
                limit = getattr(item, name, None)
                if isinstance(limit, (int, float, datetime.date, decimal.Decimal)) and not isinstance(limit, bool):
                    yield name, limit


def _note_text(note: object) -> str:
    if isinstance(note, str):
        return note
    text = getattr(note, "documentation", None) or getattr(note, "description", None)
    return text if isinstance(text, str) else ""


def _no_json_form(type_: object) -> BindError:
    remedy = "Use builtins, an attrs class, a dataclass, a TypedDict or a pydantic model; or object for any JSON."
    if type_ in (bytes, bytearray, memoryview):
        remedy = "Use str: decode the bytes, or write them as base64."
    return BindError(f"The type {type_text(type_)} has no JSON form.", remedy)


def _alias_value(type_: object) -> object:
    """What an alias stands for; before Python 3.12 it may be written as text."""
    names = vars(sys.modules.get(getattr(type_, "__module__", ""), typing))
    holder = types.SimpleNamespace(__annotations__={"value": getattr(type_, "__value__", object)})
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["value"]
    except NameError as error:
        raise unresolvable(str(type_), error) from error


# -- classes -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class _RawField:
    """A field as its class declares it."""

    name: str
    attribute: str
    type_: object
    required: bool
    default: object = NO_DEFAULT
    description: str = ""


@attrs.frozen
class _Form:
    """A way to declare a class with fields.

    Attributes:
        fields: Its fields, given its resolved annotations.
        names: The names of its fields alone.
        build: Makes an instance of keywords; None: the class itself.
    """

    fields: Callable[[type, Mapping[str, object]], Iterable[_RawField]]
    names: Callable[[type], list[str]]
    build: Callable[..., object] | None = None


def _form_of(kind: type) -> _Form | None:
    if attrs.has(kind):
        return _ATTRS
    if dataclasses.is_dataclass(kind):
        return _DATACLASS
    return _TYPED_DICT if issubclass(kind, dict) and hasattr(kind, "__required_keys__") else None


def _attrs_fields(kind: type, hints: Mapping[str, object]) -> Iterable[_RawField]:
    for field in attrs.fields(kind):
        if field.init:
            hidden = field.default is attrs.NOTHING or isinstance(field.default, _FACTORY)
            yield _RawField(
                name=field.alias or field.name,
                attribute=field.name,
                type_=hints.get(field.name, field.type or object),
                required=field.default is attrs.NOTHING,
                default=NO_DEFAULT if hidden else field.default,
                description=str(field.metadata.get("description", "")),
            )


# The stubs call attrs.Factory a function; it is a class.
_FACTORY = cast(type, attrs.Factory)


def _dataclass_fields(kind: type, hints: Mapping[str, object]) -> Iterable[_RawField]:
    for field in dataclasses.fields(kind):
        if field.init:
            yield _RawField(
                name=field.name,
                attribute=field.name,
                type_=hints.get(field.name, object),
                required=field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
                default=NO_DEFAULT if field.default is dataclasses.MISSING else field.default,
                description=str(field.metadata.get("description", "")),
            )


def _typed_dict_fields(kind: type, hints: Mapping[str, object]) -> Iterable[_RawField]:
    required_keys = cast("frozenset[str]", vars(kind)["__required_keys__"])
    for name, hint in hints.items():
        marks = _marks(hint)
        # Under ``from __future__ import annotations`` the class itself cannot see these marks.
        required = typing.Required in marks or (name in required_keys and typing.NotRequired not in marks)
        yield _RawField(name, name, hint, required)


def _marks(hint: object) -> set[object]:
    """Required and NotRequired around a type, also within Annotated."""
    origin = typing.get_origin(hint)
    if origin in (typing.Required, typing.NotRequired, typing.Annotated):
        return {origin} | _marks(typing.get_args(hint)[0])
    return set()


_ATTRS = _Form(_attrs_fields, lambda kind: [field.alias or field.name for field in attrs.fields(kind) if field.init])
_DATACLASS = _Form(_dataclass_fields, lambda kind: [field.name for field in dataclasses.fields(kind) if field.init])
_TYPED_DICT = _Form(_typed_dict_fields, lambda kind: [], dict)


def _class_hints(kind: type) -> dict[str, object]:
    """The annotations of a class, texts resolved."""
    try:
        return typing.get_type_hints(kind, localns={kind.__name__: kind}, include_extras=True)
    except NameError as error:
        raise unresolvable(kind.__qualname__, error) from error
    except (TypeError, SyntaxError) as error:
        raise BindError(f"{kind.__qualname__} has an annotation that is no type: {error}.", "Correct it.") from error


def _class_summary(kind: type) -> str:
    """First paragraph of a class's own docstring; what dataclasses write there themselves says nothing."""
    doc = vars(kind).get("__doc__")
    return "" if not doc or doc.startswith(f"{kind.__name__}(") else summary(doc)
