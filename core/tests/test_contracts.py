"""Contracts: one declared type checks, builds, reads and describes, strictly and with all issues at once."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, Optional, Required, TypedDict, TypeVar, Union

import annotated_types
import attrs
import jsonschema
import pydantic
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from treadle._contracts import Contract, ContractError, Member, contract_for, object_schema
from treadle._json import NotJsonError
from treadle.errors import BindError


class Color(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@attrs.frozen
class Point:
    """A place in the plane.

    It has two coordinates.

    Attributes:
        x: To the right.
        y: Upwards,
            in metres.
    """

    x: int
    y: float = 0.0


@attrs.frozen
class Tree:
    name: str
    children: list[Tree] = attrs.field(factory=list)
    parent: Tree | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Private:
    _token: str
    shown: str = attrs.field(alias="display", default="")
    computed: int = attrs.field(init=False, default=7)


@attrs.frozen
class Positive:
    n: int = attrs.field(validator=attrs.validators.gt(0))


@dataclasses.dataclass
class Size:
    width: int
    height: int = 1
    tags: list[str] = dataclasses.field(default_factory=list)
    area: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError("width is negative")


class Page(TypedDict):
    url: str
    status: NotRequired[int]


class Loose(TypedDict, total=False):
    url: Required[str]
    size: int


class Visit(TypedDict):
    page: Page
    at: datetime.datetime


T = TypeVar("T")
N = TypeVar("N", int, str)
P = TypeVar("P", bound=Point)


@attrs.frozen
class Box(Generic[T]):
    item: T
    more: list[T] = attrs.field(factory=list)


@attrs.frozen
class Limited(Generic[N, P]):
    n: N
    p: P


class Model(pydantic.BaseModel):
    """A model of pydantic."""

    n: int
    when: datetime.date | None = None
    inner: list[Model] = []


class Numbers(pydantic.RootModel[list[int]]):
    pass


NOON = datetime.datetime(2026, 1, 2, 3, 4, 5)
UNDECLARED = "is not JSON; declare it in the executor's return type, or return a dict"
UserId = NewType("UserId", int)
Stray = typing_extensions.TypeAliasType("Stray", "list[Missing]")  # type: ignore[name-defined]  # noqa: F821  # a fault to find
Nested = typing_extensions.TypeAliasType("Nested", "list[Nested] | Point | int")


def issues_of(type_: object, value: object) -> list[str]:
    with pytest.raises(ContractError) as caught:
        contract_for(type_).structure(value)
    return [str(issue) for issue in caught.value.issues]


GOOD: list[tuple[object, object, object]] = [
    (str, "x", "x"),
    (int, 3, 3),
    (bool, True, True),
    (float, 2.5, 2.5),
    (float, 3, 3.0),
    (None, None, None),
    (object, {"a": [1, None]}, {"a": [1, None]}),
    (Any, "x", "x"),
    (Color, "red", Color.RED),
    (Level, 2, Level.HIGH),
    (Literal["a", 1, None], "a", "a"),
    (Literal["a", 1, None], None, None),
    (Literal[Color.RED], "red", Color.RED),
    (int | None, None, None),
    (Optional[int], 3, 3),  # noqa: UP045  # the old spelling must work too
    (Union[int, str], "3", "3"),  # noqa: UP007  # the same
    (float | int, 3, 3),
    (float | int, 3.5, 3.5),
    (str | Point, {"x": 1}, Point(1)),
    (list[Point] | Point, [{"x": 1}], [Point(1)]),
    (datetime.date | str, "2026-01-02", datetime.date(2026, 1, 2)),
    (datetime.date | str, "soon", "soon"),
    (list[int], [1, 2], [1, 2]),
    (list, [1, "x"], [1, "x"]),
    (list[float], [1, 2.5], [1.0, 2.5]),
    (Sequence[str], ["a"], ["a"]),
    (Iterable[str], ["a"], ["a"]),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple, [1, "x"], (1, "x")),
    (tuple[int, str], [1, "x"], (1, "x")),
    (tuple[()], [], ()),
    (set[int], [1, 2], {1, 2}),
    (frozenset[str], ["a"], frozenset("a")),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict, {"a": 1}, {"a": 1}),
    (dict[str, object], {"a": [1]}, {"a": [1]}),
    (dict[str, Any], {"a": None}, {"a": None}),
    (dict[Any, int], {"a": 1}, {"a": 1}),
    (Mapping[str, float], {"a": 1}, {"a": 1.0}),
    (dict[Color, int], {"red": 1}, {Color.RED: 1}),
    (dict[Literal["a"], int], {"a": 1}, {"a": 1}),
    (Point, {"x": 1}, Point(1)),
    (Point, {"x": 1, "y": 2}, Point(1, 2.0)),
    (Tree, {"name": "a", "children": [{"name": "b"}]}, Tree("a", [Tree("b")])),
    (Private, {"token": "t", "display": "d"}, Private("t", "d")),
    (Size, {"width": 2, "tags": ["a"]}, Size(2, tags=["a"])),
    (Page, {"url": "u"}, {"url": "u"}),
    (Page, {"url": "u", "status": 200}, {"url": "u", "status": 200}),
    (Loose, {"url": "u"}, {"url": "u"}),
    (
        Visit,
        {"page": {"url": "u"}, "at": "2026-01-02T03:04:05"},
        {"page": {"url": "u"}, "at": datetime.datetime(2026, 1, 2, 3, 4, 5)},
    ),
    (Box[int], {"item": 1, "more": [2]}, Box(1, [2])),
    (Box[Box[str]], {"item": {"item": "x"}}, Box(Box("x"))),
    (Box[list[Point]], {"item": [{"x": 1}]}, Box([Point(1)])),
    (Box, {"item": {"any": 1}}, Box({"any": 1})),
    (Limited, {"n": "x", "p": {"x": 1}}, Limited("x", Point(1))),
    (UserId, 3, 3),
    (Annotated[int, "how many"], 3, 3),
    (Annotated[int, annotated_types.Ge(3)], 3, 3),
    (Annotated[str, annotated_types.Len(1, 2)], "ab", "ab"),
    (Annotated[int, ["not hashable"]], 3, 3),
    (Annotated[int, pydantic.Field(ge=3)], 3, 3),
    (datetime.datetime, "2026-01-02T03:04:05+00:00", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
    (datetime.date, "2026-01-02", datetime.date(2026, 1, 2)),
    (datetime.time, "03:04", datetime.time(3, 4)),
    (pathlib.Path, "a/b", pathlib.Path("a/b")),
    (pathlib.PurePosixPath, "a", pathlib.PurePosixPath("a")),
    (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
    (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    (Nested, [1, [2, {"x": 3}]], [1, [2, Point(3)]]),
    (
        Model,
        {"n": 1, "when": "2026-01-02", "inner": [{"n": 2}]},
        Model(n=1, when=datetime.date(2026, 1, 2), inner=[Model(n=2)]),
    ),
    (list[Model], [{"n": 1}], [Model(n=1)]),
    (Numbers, [1, 2], Numbers([1, 2])),
]


@pytest.mark.parametrize(("type_", "value", "expected"), GOOD, ids=lambda each: str(each)[:40])
def test_a_valid_value_is_built(type_: object, value: object, expected: object) -> None:
    """Each kind of type gives what its annotation says, of exactly that Python type (S3-17)."""
    result = contract_for(type_).structure(value)

    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(("type_", "value", "expected"), GOOD, ids=lambda each: str(each)[:40])
def test_what_was_built_reads_back(type_: object, value: object, expected: object) -> None:
    """Structuring what unstructuring gave is the same value again, and plain JSON (S3-18)."""
    contract = contract_for(type_)
    if contract.has_sets:
        with pytest.raises(ContractError, match="is not JSON; return a list"):
            contract.unstructure(expected)
        return

    plain = contract.unstructure(expected)

    assert json.loads(json.dumps(plain)) == plain
    assert contract.structure(plain) == expected


@pytest.mark.parametrize(("type_", "value", "expected"), GOOD, ids=lambda each: str(each)[:40])
def test_the_schema_accepts_what_the_contract_accepts(type_: object, value: object, expected: object) -> None:
    """The JSON Schema is valid 2020-12 and agrees with the check."""
    schema = contract_for(type_).schema()

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(value)


BAD: list[tuple[object, object, list[str]]] = [
    (int, "3", ["$: expected int, got str"]),
    (int, True, ["$: expected int, got bool"]),
    (int, 3.0, ["$: expected int, got float"]),
    (str, 3, ["$: expected str, got int"]),
    (bool, 1, ["$: expected bool, got int"]),
    (float, True, ["$: expected float, got bool"]),
    (float, "1", ["$: expected float, got str"]),
    (float, 10**400, ["$: the integer is too large for a float"]),
    (None, 0, ["$: expected null, got int"]),
    (int, None, ["$: expected int, got null"]),
    (Color, "green", ['$: expected "red" or "blue", got another str']),
    (Color, 3, ['$: expected "red" or "blue", got int']),
    (Level, True, ["$: expected 1 or 2, got bool"]),
    (Literal[1], True, ["$: expected 1, got bool"]),
    (Literal["a"], ["a"], ['$: expected "a", got list']),
    (int | None, "x", ["$: expected int or null, got str"]),
    (list[int], "12", ["$: expected list, got str"]),
    (list[int], {"a": 1}, ["$: expected list, got dict"]),
    (list[int], [1, "2", None], ["$[1]: expected int, got str", "$[2]: expected int, got null"]),
    (tuple[int, str], [1], ["$: expected 2 items, got 1"]),
    (tuple[int, str], ["a", 1], ["$[0]: expected int, got str", "$[1]: expected str, got int"]),
    (tuple[int, str], "ab", ["$: expected list, got str"]),
    (set[int], [1, 1], ["$: items of a set must differ"]),
    (set[object], [[1]], ["$: lists and objects cannot be items of a set"]),
    (dict[str, int], [], ["$: expected dict, got list"]),
    (dict[str, int], {"a": "1", "b c": None}, ["$.a: expected int, got str", "$['b c']: expected int, got null"]),
    (dict[Color, int], {"green": 1}, ['$.green: expected "red" or "blue", got another str']),
    (Point, {}, ["$.x: is missing"]),
    (Point, [1], ["$: expected Point (an object), got list"]),
    (Point, {"x": "1", "zz": 1}, ["$.x: expected int, got str", "$.zz: Point has no 'zz'; known: x, y"]),
    (Size, {"with": 1}, ["$.with: Size has no 'with'; did you mean 'width'?", "$.width: is missing"]),
    (Size, {"width": -1}, ["$: Size refuses it: width is negative"]),
    (Positive, {"n": 0}, ["$: Positive refuses it: 'n' must be > 0: 0"]),
    (
        Tree,
        {"name": "a", "children": [{"name": 1}, {}]},
        ["$.children[0].name: expected str, got int", "$.children[1].name: is missing"],
    ),
    (Private, {"_token": "x"}, ["$._token: Private has no '_token'; did you mean 'token'?", "$.token: is missing"]),
    (Page, {"status": "200"}, ["$.status: expected int, got str", "$.url: is missing"]),
    (Page, {"url": "u", "extra": 1}, ["$.extra: Page has no 'extra'; known: url, status"]),
    (Loose, {}, ["$.url: is missing"]),
    (Box[int], {"item": "x"}, ["$.item: expected int, got str"]),
    (Limited, {"n": None, "p": {"x": 1}}, ["$.n: expected int or str, got null"]),
    (str | Point, {"x": "1"}, ["$.x: expected int, got str"]),
    (Point | Size, {"width": "a"}, ["$.width: expected int, got str"]),
    (list[int] | None, ["a"], ["$[0]: expected int, got str"]),
    (Annotated[int, annotated_types.Interval(ge=1, lt=5)], 5, ["$: must be less than 5"]),
    (Annotated[str, annotated_types.MinLen(1)], "", ["$: must be of length at least 1"]),
    (Annotated[list[int], annotated_types.MaxLen(1)], [1, 2], ["$: must be of length at most 1"]),
    (Annotated[int, annotated_types.Gt(0)], "x", ["$: expected int, got str"]),
    (Annotated[int, pydantic.Field(ge=3)], 2, ["$: must be at least 3"]),
    (datetime.date, "soon", ["$: expected a date (ISO 8601), got another text"]),
    (datetime.datetime, "2026-01-02", ["$: expected a date and time (ISO 8601), got another text"]),
    (datetime.date, 3, ["$: expected a date (ISO 8601), got int"]),
    (pathlib.Path, "a\0b", ["$: expected a path, got another text"]),
    (pathlib.Path, "", ["$: expected a path, got another text"]),
    (decimal.Decimal, "x", ["$: expected a decimal number as text, got another text"]),
    (decimal.Decimal, 1.5, ["$: expected a decimal number as text, got float"]),
    (uuid.UUID, "1", ["$: expected a UUID, got another text"]),
    (Nested, [[1.5]], ["$[0][0]: expected list[Nested] or Point or int, got float"]),
    (Model, {"n": "1"}, ["$.n: Input should be a valid integer"]),
    (Model, {"n": 1, "inner": [{}]}, ["$.inner[0].n: Field required"]),
    (Model, [], ["$: expected Model (an object), got list"]),
    (dict[str, Model], {"a": {"n": None}}, ["$.a.n: Input should be a valid integer"]),
]


@pytest.mark.parametrize(("type_", "value", "expected"), BAD, ids=lambda each: str(each)[:40])
def test_an_invalid_value_is_refused_with_every_issue(type_: object, value: object, expected: list[str]) -> None:
    """Nothing is coerced, nothing is overlooked, and each issue has its path (S0-03, S3-17)."""
    assert issues_of(type_, value) == expected


@attrs.frozen
class Sum:
    kind: Literal["sum"]
    left: Sum | Product | int
    right: Sum | Product | int


@attrs.frozen
class Product:
    kind: Literal["product"]
    left: Sum | Product | int
    right: Sum | Product | int


@attrs.frozen
class One:
    inner: One | Other | None = None
    n: int = 0


@attrs.frozen
class Other:
    inner: One | Other | None = None
    n: int = 0


def test_a_literal_field_tells_the_members_of_a_union_apart() -> None:
    """Deep trees of alternatives take one look per level, valid or not."""

    def tree(leaf: object) -> object:
        for _ in range(60):
            leaf = {"kind": "product", "left": 1, "right": leaf}
        return leaf

    assert contract_for(Sum | Product).issues(tree(3)) == []
    (issue,) = contract_for(Sum | Product).issues(tree("x"))
    assert str(issue).endswith(".right.right: expected Sum or Product or int, got str")


def test_what_is_wrong_is_told_of_the_nearest_member() -> None:
    """Of the class whose members the value has, not of the first."""
    assert issues_of(Point | Size, {"width": 1, "height": "2", "tag": []}) == [
        "$: is none of Point or Size; nearest: $.height: expected int, got str; $.tag: Size has no 'tag'; did you mean 'tags'?"
    ]
    assert issues_of(Sum | Product, {"kind": "quotient", "left": 1, "right": 2})[0].startswith("$: is none of Sum or Product; ")


def test_classes_that_cannot_be_told_apart_end_in_an_issue() -> None:
    """Alternatives within alternatives would double the work at every level: after some, the author is told what to do."""
    value: dict[str, object] = {"n": "x"}
    for _ in range(100):
        value = {"inner": value}

    assert "cannot be told which of One or Other or null it is; add a Literal field to each" in str(issues_of(One, value))
    assert contract_for(One).structure({"inner": {"inner": {"n": 1}}}) == One(One(One(n=1)))


def test_values_are_not_shown() -> None:
    """An input may hold a secret, and issues are recorded: only its type is told."""
    issues = issues_of(dict[str, int | Color], {"token": "s3cret"}) + issues_of(Point, {"x": "s3cret"})

    assert "s3cret" not in str(issues)


OUTPUTS: list[tuple[object, object, list[str]]] = [
    (Point, Point("1"), ["$.x: expected int, got str"]),  # type: ignore[arg-type]  # what an untyped author does
    (Point, {"x": 1, "z": 2}, ["$.z: Point has no 'z'; known: x, y"]),
    (
        list[Point],
        [Point(1), Size(1)],
        [f"$[1]: an instance of Size {UNDECLARED}"],
    ),
    (Point, {}, ["$.x: is missing"]),
    (dict[str, int], {}, []),
    (dict[str, int], {"a": 1.5}, ["$.a: expected int, got float"]),
    (None, {}, ["$: expected null, got dict"]),
    (object, Point(1), [f"$: an instance of Point {UNDECLARED}"]),
    (
        list[object],
        [Point(1)],
        [f"$[0]: an instance of Point {UNDECLARED}"],
    ),
    (
        Box[object],
        Box(Point(1)),
        [f"$.item: an instance of Point {UNDECLARED}"],
    ),
    (list[datetime.date], [datetime.datetime(2026, 1, 2)], ["$[0]: expected a date (ISO 8601), got another text"]),
    (dict[str, Point], {"a": Point(float("nan"))}, ["$.a.x: nan is not JSON; return null (None) or text"]),  # type: ignore[arg-type]  # the same
    (Tree, Tree("a", children=("b",)), ["$.children[0]: expected Tree (an object), got str"]),  # type: ignore[arg-type]  # the same
]


@pytest.mark.parametrize(("type_", "output", "expected"), OUTPUTS, ids=lambda each: str(each)[:40])
def test_an_output_must_satisfy_its_declared_type(type_: object, output: object, expected: list[str]) -> None:
    """An instance proves nothing: what it holds is checked as plain JSON (S0-03, S3-18)."""
    contract = contract_for(type_)
    if not expected:
        assert contract.unstructure(output) == output
        return

    with pytest.raises(ContractError) as caught:
        contract.unstructure(output)

    assert [str(issue) for issue in caught.value.issues] == expected


READ: list[tuple[object, object, object]] = [
    (Point, Point(1, 2), {"x": 1, "y": 2}),
    (Point, {"x": 1}, {"x": 1}),
    (list[Point], (Point(1), {"x": 2}), [{"x": 1, "y": 0.0}, {"x": 2}]),
    (Private, Private("t", "d"), {"token": "t", "display": "d"}),
    (Size, Size(1, 2), {"width": 1, "height": 2, "tags": []}),
    (Visit, {"page": {"url": "u"}, "at": NOON}, {"page": {"url": "u"}, "at": "2026-01-02T03:04:05"}),
    (Point | None, Point(1), {"x": 1, "y": 0.0}),
    (list[Point] | list[Size], [Size(1)], [{"width": 1, "height": 1, "tags": []}]),
    (
        dict[str, Point | Model],
        {"a": Point(1), "b": Model(n=1)},
        {"a": {"x": 1, "y": 0.0}, "b": {"n": 1, "when": None, "inner": []}},
    ),
    (tuple[str, Point], ("a", Point(1)), ["a", {"x": 1, "y": 0.0}]),
    (tuple[str, Point] | int, ["a", Point(1)], ["a", {"x": 1, "y": 0.0}]),
    (dict[str, datetime.date], {"a": datetime.date(2026, 1, 2)}, {"a": "2026-01-02"}),
    (pathlib.Path, pathlib.PurePosixPath("a"), "a"),
    (Annotated[Point, "where"], Point(1), {"x": 1, "y": 0.0}),
    (list[Color], [Color.RED, "blue"], ["red", "blue"]),
    (datetime.date | Point, Point(1), {"x": 1, "y": 0.0}),
]


@pytest.mark.parametrize(("type_", "output", "expected"), READ, ids=lambda each: str(each)[:40])
def test_instances_are_read_by_their_declared_type(type_: object, output: object, expected: object) -> None:
    """Instances stand where they are declared, mixed with plain data as authors have it."""
    assert contract_for(type_).unstructure(output) == expected


def test_what_a_subclass_adds_is_not_lost_silently() -> None:
    """A declared base says nothing of the subclass's fields, so the output is refused."""

    @attrs.frozen
    class Point3(Point):
        z: int = 0

    @dataclasses.dataclass
    class Plain(Size):
        pass

    with pytest.raises(ContractError, match=r"\$\.z: Point has no 'z'"):
        contract_for(Point).unstructure(Point3(1))
    assert contract_for(Size).unstructure(Plain(1)) == {"width": 1, "height": 1, "tags": []}


def test_an_instance_that_contains_itself_is_an_issue() -> None:
    """A tree with its parent in it cannot be JSON."""
    child = Tree("child")
    object.__setattr__(child, "parent", child)

    with pytest.raises(ContractError, match=r"nested deeper than 200 levels"):
        contract_for(Tree).unstructure(child)


def test_an_attribute_that_cannot_be_read_is_an_issue() -> None:
    """An exception of the author's class is told with its place."""
    broken = Tree.__new__(Tree)

    with pytest.raises(NotJsonError, match=r"\$\[0\]: Tree cannot be read \(AttributeError"):
        contract_for(list[Tree]).to_plain([broken])


def test_a_value_too_deep_for_its_type_is_an_issue() -> None:
    """Whoever hands over unlimited depth gets an issue, not a RecursionError."""
    value: dict[str, object] = {"name": "a"}
    for _ in range(2000):
        value = {"name": "a", "children": [value]}

    assert issues_of(Tree, value) == ["$: nested too deeply"]


def test_structure_shares_no_container() -> None:
    """An executor that changes its inputs cannot change what is recorded."""
    value = {"a": [1, {"b": []}]}

    for type_ in (object, dict, dict[str, object], dict[str, list[object]]):
        result = contract_for(type_).structure(value)
        assert isinstance(result, dict)
        result["a"].append("changed")

    assert value == {"a": [1, {"b": []}]}


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyab"), inner, max_size=3),
    max_leaves=8,
)
types_ = st.sampled_from(
    [
        *(str, int, bool, float, None, list[int], list[float], dict[str, int], tuple[int, str], int | str),
        *(Point, Page, Color, Tree, list[Point] | None, dict[str, list[float | None]], Literal["a", 1], Box[int]),
        *(Positive, Annotated[int, annotated_types.Ge(0)]),
    ]
)


@given(types_, values)
def test_contract_and_schema_agree(type_: object, value: object) -> None:
    """Whatever the value, the check and the JSON Schema say the same; numbers like 1.0 and what a class refuses apart."""
    contract = contract_for(type_)
    schema_accepts = jsonschema.Draft202012Validator(contract.schema()).is_valid(value)
    issues = str(contract.issues(value))

    if schema_accepts != (issues == "[]"):
        assert schema_accepts
        assert _has_whole_float(value) or "refuses" in issues


def _has_whole_float(value: object) -> bool:
    if isinstance(value, dict):
        return _has_whole_float(list(value.values()))
    return any(map(_has_whole_float, value)) if isinstance(value, list) else isinstance(value, float) and value.is_integer()


def test_a_class_stands_once_in_the_definitions() -> None:
    """Recursive classes, texts of docstrings and of Annotated, and defaults are in the schema."""

    @attrs.frozen
    class Shape:
        at: Point
        to: Point
        size: Annotated[int, "in metres"] = 3
        name: str = attrs.field(default="x", metadata={"description": "For people."})

    contract = contract_for(Shape)

    assert contract.schema() == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": "#/$defs/Shape",
        "$defs": {
            "Shape": {
                "title": "Shape",
                "type": "object",
                "properties": {
                    "at": {"$ref": "#/$defs/Point"},
                    "to": {"$ref": "#/$defs/Point"},
                    "size": {"type": "integer", "description": "in metres", "default": 3},
                    "name": {"type": "string", "description": "For people.", "default": "x"},
                },
                "additionalProperties": False,
                "required": ["at", "to"],
            },
            "Point": {
                "title": "Point",
                "type": "object",
                "properties": {
                    "x": {"type": "integer", "description": "To the right."},
                    "y": {"type": "number", "description": "Upwards, in metres.", "default": 0.0},
                },
                "additionalProperties": False,
                "required": ["x"],
                "description": "A place in the plane.",
            },
        },
    }


def test_classes_of_one_name_stay_apart() -> None:
    """Two classes called alike get two definitions."""

    def other() -> type:
        @attrs.frozen
        class Point:
            z: int

        return Point

    definitions = contract_for(Union[Point, other()]).schema()["$defs"]  # noqa: UP007  # a type made at run time

    assert isinstance(definitions, dict)
    assert list(definitions) == ["Point", "Point_2"]


def test_an_object_schema_is_made_of_members() -> None:
    """The schema of an executor's inputs: members, required ones, defaults that are JSON, and what else may come."""
    members = [
        Member("n", contract_for(int), description="How many."),
        Member("at", contract_for(Point), required=False, default=Point(1)),
    ]

    schema = object_schema(members, others=contract_for(str), description="Do it.")

    assert {key: schema[key] for key in ("type", "required", "additionalProperties", "description", "properties")} == {
        "type": "object",
        "required": ["n"],
        "additionalProperties": {"type": "string"},
        "description": "Do it.",
        "properties": {"n": {"type": "integer", "description": "How many."}, "at": {"$ref": "#/$defs/Point"}},
    }


class Unknown:
    name: Missing  # type: ignore[name-defined]  # noqa: F821  # that is the fault


attrs.define(Unknown, slots=False)


@attrs.define
class Garbled:
    name: "1 +"  # type: ignore[valid-type]  # noqa: F722  # the same


class Holder(TypedDict):
    raw: bytes


class Mixed(enum.Enum):
    PAIR = (1, 2)


@pytest.mark.parametrize(
    ("type_", "problem", "remedy"),
    [
        (bytes, "The type bytes has no JSON form.", "Use str: decode the bytes, or write them as base64."),
        (complex, "The type complex has no JSON form.", "Use builtins"),
        (Iterable[bytes], "The type bytes has no JSON form.", "Use str"),
        (Literal[b"x"], "The type bytes has no JSON form.", "Use str"),
        (subprocess.Popen, "The type Popen has no JSON form.", "Use builtins"),
        (Holder, "Holder.raw: The type bytes has no JSON form.", "Use str"),
        (dict[int, str], "dict[int, str] has keys that are not text.", "declare dict[str, ...]"),
        (dict[datetime.date, str], "dict[date, str] has keys that are not text.", "declare dict[str, ...]"),
        (Mixed, "Enum Mixed has values that are not JSON.", "Give its members texts or numbers."),
        (
            Unknown,
            "Unknown: the annotation 'Missing' cannot be resolved.",
            "Import or define 'Missing' at the top of the module",
        ),
        (Garbled, "Garbled has an annotation that is no type: ", "Correct it."),
        (Stray, "Stray: the annotation 'Missing' cannot be resolved.", "Import or define 'Missing' at the top"),
        ("Point", "The type Point has no JSON form.", "Use builtins"),
    ],
)
def test_a_type_without_a_json_form_is_refused(type_: object, problem: str, remedy: str) -> None:
    """The message names the type, the field that holds it, and what to write instead."""
    with pytest.raises(BindError) as caught:
        contract_for(type_)

    assert caught.value.problem.startswith(problem)
    assert remedy in caught.value.remedy


def test_contracts_are_made_once_per_type() -> None:
    """The same type gives the same contract; equal types that mean different things do not."""
    assert contract_for(dict[str, Point]) is contract_for(dict[str, Point])
    assert contract_for(Union[int, str]).name == "Union[int, str]"  # noqa: UP007  # the old spelling
    assert contract_for(datetime.date | str).structure("2026-01-02") == datetime.date(2026, 1, 2)
    assert contract_for(str | datetime.date).structure("2026-01-02") == "2026-01-02"


def test_a_contract_names_its_type() -> None:
    """For people, without modules."""
    names = [contract_for(type_).name for type_ in (None, int, Point, list[Point], Point | None, dict[str, datetime.date])]

    assert names == ["None", "int", "Point", "list[Point]", "Point | None", "dict[str, date]"]
    assert isinstance(contract_for(object), Contract)
    assert [contract_for(type_).is_any for type_ in (object, Any, int)] == [True, True, False]


def test_pydantic_is_not_imported_for_other_types() -> None:
    """A program that does not use pydantic does not pay for it."""
    code = """if True:
        import sys
        from treadle._contracts import contract_for
        contract_for(dict[str, int])
        print('pydantic' in sys.modules)
    """

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
