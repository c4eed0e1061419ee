"""A recorded contract is kept or it is not: laws that hold for any schemas, and what is said when it is not."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from treadle._bind import bind
from treadle._compatibility import Difference, differences, narrowed, widened
from treadle._contracts import contract_for
from treadle._models import Json

Schema = dict[str, object]


# -- schemas as contracts write them, with values that they admit ------------------------------------------------------

NAMES = st.sampled_from(["url", "items", "size", "x y"])
SCALARS: st.SearchStrategy[Schema] = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("null", "boolean", "integer", "number", "string")]),
    st.lists(st.sampled_from(["a", "b", "c", 1, 2]), min_size=1, max_size=3, unique=True).map(lambda each: {"enum": each}),
    st.builds(lambda low: {"type": "integer", "minimum": low}, st.integers(-3, 3)),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 4)),
    st.just({}),
)


def objects(schemas: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Objects with some members, of which some are required."""

    @st.composite
    def build(draw: st.DrawFn) -> Schema:
        members = draw(st.dictionaries(NAMES, schemas, max_size=3))
        required = [name for name in members if draw(st.booleans())]
        return {"type": "object", "properties": members, "additionalProperties": False, "required": required}

    return build()


def containers(schemas: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        schemas.map(lambda item: {"type": "array", "items": item}),
        st.tuples(schemas, schemas).map(
            lambda items: {"type": "array", "prefixItems": list(items), "minItems": 2, "maxItems": 2}
        ),
        schemas.map(lambda item: {"type": "object", "additionalProperties": item}),
        st.lists(schemas, min_size=1, max_size=3).map(lambda members: {"anyOf": members}),
        objects(schemas),
    )


SCHEMAS = st.recursive(SCALARS, containers, max_leaves=6)
INPUTS = objects(SCHEMAS)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-4, 4), st.sampled_from([0.5, 1.5]), st.sampled_from(["", "a", "b", "long text"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)


def is_valid(schema: Schema, value: Json) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


# -- laws --------------------------------------------------------------------------------------------------------------


@given(SCHEMAS)
def test_a_schema_is_compatible_with_itself(schema: Schema) -> None:
    """Also when it is another object with the same text."""
    assert narrowed(schema, copy.deepcopy(schema)) == []
    assert widened(schema, copy.deepcopy(schema)) == []


@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(SCHEMAS, SCHEMAS, st.lists(JSON, min_size=5, max_size=20))
def test_compatible_inputs_take_every_value_that_was_taken(recorded: Schema, installed: Schema, values: list[Json]) -> None:
    """The promise itself: no difference found means that no value of before is refused, whatever the two schemas are."""
    assume(not narrowed(recorded, installed))

    assert [value for value in values if is_valid(recorded, value) and not is_valid(installed, value)] == []


@given(SCHEMAS, SCHEMAS)
def test_inputs_and_output_are_one_question_asked_both_ways(one: Schema, other: Schema) -> None:
    """What narrows as an input from one to the other widens as an output from the other to the one."""
    assert len(narrowed(one, other)) == len(widened(other, one))
    assert [each.path.removeprefix("inputs") for each in narrowed(one, other)] == [
        each.path.removeprefix("output") for each in widened(other, one)
    ]


@given(INPUTS, SCHEMAS)
def test_another_optional_input_is_compatible(recorded: Schema, schema: Schema) -> None:
    """Old workflows do not know it and need not."""
    installed = {**recorded, "properties": {**members(recorded), "new": schema}}

    assert narrowed(recorded, installed) == []


@given(INPUTS, SCHEMAS)
def test_another_required_input_is_not(recorded: Schema, schema: Schema) -> None:
    """Old workflows do not give it."""
    installed = {**recorded, "properties": {**members(recorded), "new": schema}, "required": [*needed(recorded), "new"]}

    assert narrowed(recorded, installed) == [Difference("inputs.new", "has to be given now")]


@given(INPUTS, st.data())
def test_an_input_that_is_removed_renamed_or_now_required_is_not(recorded: Schema, data: st.DataObject) -> None:
    """Whatever else stays the same, the difference names the input."""
    assume(members(recorded))
    name = data.draw(st.sampled_from(sorted(members(recorded))))
    place = "inputs" + (f".{name}" if " " not in name else f'["{name}"]')
    others = {key: value for key, value in members(recorded).items() if key != name}
    without = {**recorded, "properties": others, "required": [each for each in needed(recorded) if each != name]}
    renamed = {**without, "properties": {**others, "renamed": members(recorded)[name]}}
    optional = {**recorded, "required": []}
    required = {**recorded, "required": [name]}

    assert [each.path for each in narrowed(recorded, without)] == [place]
    assert [each.path for each in narrowed(recorded, renamed)] == [place]
    assert narrowed(optional, required) == [Difference(place, "has to be given now")]
    assert narrowed(required, optional) == []


@given(SCHEMAS)
def test_taking_more_is_compatible_and_answering_more_is_not(schema: Schema) -> None:
    """A type that also allows null; unless it did before."""
    wider: Schema = {"anyOf": [schema, {"type": "null"}]}

    assert narrowed(schema, wider) == []
    assert widened(wider, schema) == []
    assert bool(narrowed(wider, schema)) is bool(widened(schema, wider)) is not is_valid(schema, None)


@given(st.lists(st.integers(), min_size=2, max_size=6, unique=True), st.data())
def test_fewer_choices_are_not_compatible(choices: list[int], data: st.DataObject) -> None:
    """Each choice that is gone is named, and only those."""
    left = data.draw(st.lists(st.sampled_from(choices), min_size=1, max_size=len(choices) - 1, unique=True))
    gone = [each for each in choices if each not in left]

    [found] = narrowed({"enum": choices}, {"enum": left})

    assert found.message.startswith("no longer takes " + ", ".join(map(str, gone[:-1])))
    assert narrowed({"enum": left}, {"enum": choices}) == []


@st.composite
def wider(draw: st.DrawFn, schema: Schema) -> Schema:
    """A schema that admits all that ``schema`` does, and mostly more."""
    match draw(st.sampled_from(["same", "null", "any", "optional", "inner"])):
        case "null":
            return {"anyOf": [schema, {"type": "null"}]}
        case "any":
            return {}
        case "optional" if "required" in schema:
            return {**schema, "properties": {**members(schema), "more": {"type": "string"}}, "required": []}
        case "inner" if isinstance(schema.get("items"), dict):
            return {**schema, "items": draw(wider(schema["items"]))}
        case "inner" if members(schema):
            return {**schema, "properties": {name: draw(wider(each)) for name, each in members(schema).items()}}
    return schema


@given(SCHEMAS, st.data())
def test_what_stays_compatible_step_by_step_is_so_in_one(first: Schema, data: st.DataObject) -> None:
    """Widening is transitive: nobody has to update through every version in between."""
    second = data.draw(wider(first))
    third = data.draw(wider(second))

    assert narrowed(first, second) == []
    assert narrowed(second, third) == []
    assert narrowed(first, third) == []


@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(SCALARS, SCALARS, SCALARS)
def test_compatibility_of_single_values_is_transitive(one: Schema, two: Schema, three: Schema) -> None:
    """For any three types of single values, not only for ones made to fit."""
    assume(not narrowed(one, two) and not narrowed(two, three))

    assert narrowed(one, three) == []


def members(schema: Schema) -> dict[str, Schema]:
    found = schema.get("properties", {})
    assert isinstance(found, dict)
    return found


def needed(schema: Schema) -> list[str]:
    found = schema.get("required", [])
    assert isinstance(found, list)
    return found


# -- types, as authors write them --------------------------------------------------------------------------------------


@dataclass
class Point:
    x: int
    y: str | None = None


@dataclass
class Moved:
    x: int | str
    y: str
    z: int = 0


@dataclass
class Tree:
    leaf: int
    branches: list[Tree]


@dataclass
class TextTree:
    leaf: str
    branches: list[TextTree]


class Some(TypedDict, total=False):
    name: str


@dataclass
class Limited:
    short: Annotated[str, "a word"]


TYPES: list[tuple[object, object, list[str]]] = [
    (str, int, ["inputs: no longer takes string; it takes integer"]),
    (int, float, []),
    (float, int, ["inputs: no longer takes number; it takes integer"]),
    (str | None, str, ["inputs: no longer takes null; it takes string"]),
    (str, str | None, []),
    (object, str, ["inputs: no longer takes boolean, null, number, array or object; it takes string"]),
    (str, object, []),
    (str, Literal["a", "b"], ['inputs: no longer takes string; it takes "a" or "b"']),
    (Literal["a"], str, []),
    (Literal[1], Literal[True], ["inputs: no longer takes 1; it takes true"]),
    (bool, Literal[True], ["inputs: no longer takes false; it takes true"]),
    (list[int], list[str], ["inputs[]: no longer takes integer; it takes string"]),
    (list[int], set[int], ["inputs: takes no item twice any more"]),
    (set[int], list[int], []),
    (tuple[int, int], list[int], []),
    (
        list[int],
        tuple[int, int],
        ["inputs: is held to minItems 2 now, before to nothing", "inputs: is held to maxItems 2 now, before to nothing"],
    ),
    (tuple[int, str], tuple[int, int], ["inputs[1]: no longer takes string; it takes integer"]),
    (dict[str, int], dict[str, str], ["inputs.*: no longer takes integer; it takes string"]),
    (dict[str, int], dict[Literal["a"], int], ['inputs.(name): no longer takes string; it takes "a"']),
    (dict[Literal["a"], int], dict[str, int], []),
    (dict[str, str], Some, ["inputs: no longer takes further members"]),
    (Some, dict[str, str], []),
    (Point, Point, []),
    (Point, Moved, ["inputs.y: no longer takes null; it takes string", "inputs.y: has to be given now"]),
    (
        Moved,
        Point,
        ["inputs.x: no longer takes string; it takes integer", "inputs.z: is no longer taken: it was removed or renamed"],
    ),
    (Tree, Tree, []),
    (
        Tree,
        TextTree,
        [
            "inputs.leaf: no longer takes integer; it takes string",
        ],
    ),
    (Tree | Point, Tree | Point | None, []),
    (Tree | None, TextTree | Tree | None, []),
    (Tree, object, []),
]


@pytest.mark.parametrize(("recorded", "installed", "said"), TYPES, ids=lambda each: str(each)[:40])
def test_what_is_said_of_types(recorded: object, installed: object, said: list[str]) -> None:
    """Each difference with its path and a sentence, and nothing else."""
    assert [str(each) for each in narrowed(contract_for(recorded).schema(), contract_for(installed).schema())] == said


def test_what_is_said_of_outputs() -> None:
    """The recorded output is the tighter one here, so the sentences are the other way round."""
    found = widened(contract_for(Point).schema(), contract_for(Moved).schema())

    assert [str(each) for each in found] == [
        "output.x: may be string now; recorded: integer",
        "output.z: is new; a step that takes the whole recorded output would refuse it",
    ]
    assert [str(each) for each in widened(contract_for(Moved).schema(), contract_for(Point).schema())] == [
        "output.y: may be null now; recorded: string",
        "output.y: may be missing now",
    ]
    assert widened(contract_for(Some).schema(), contract_for(dict[str, str]).schema()) == [
        Difference("output", "may have further members now; the recorded output has none")
    ]


LIMITS: list[tuple[Schema, Schema, list[str]]] = [
    ({"minimum": 1}, {"minimum": 0}, []),
    ({"minimum": 0}, {"minimum": 1}, ["inputs: is held to minimum 1 now, before to minimum 0"]),
    ({}, {"exclusiveMaximum": 9}, ["inputs: is held to exclusiveMaximum 9 now, before to nothing"]),
    ({"minimum": 1}, {"exclusiveMinimum": 1}, ["inputs: is held to exclusiveMinimum 1 now, before to minimum 1"]),
    ({"exclusiveMinimum": 1}, {"minimum": 1}, []),
    ({"maximum": 2}, {"exclusiveMaximum": 3}, []),
    ({"const": 4}, {"minimum": 3}, []),
    ({"const": 2}, {"minimum": 3}, ["inputs: is held to minimum 3 now, before to minimum 2"]),
    ({"multipleOf": 4}, {"multipleOf": 2}, ["inputs: its 'multipleOf' changed"]),
    ({"multipleOf": 2}, {}, []),
]


@pytest.mark.parametrize(("recorded", "installed", "said"), LIMITS)
def test_limits_of_numbers(recorded: Schema, installed: Schema, said: list[str]) -> None:
    """A tighter limit narrows, a looser one does not; open and closed limits are told apart."""
    found = narrowed({"type": "integer", **recorded}, {"type": "integer", **installed})

    assert [str(each) for each in found] == said


TEXTS: list[tuple[Schema, Schema, list[str]]] = [
    ({"maxLength": 3}, {"maxLength": 5}, []),
    ({"maxLength": 5}, {"maxLength": 3}, ["inputs: is held to maxLength 3 now, before to maxLength 5"]),
    ({}, {"minLength": 0}, []),
    ({"format": "date"}, {}, []),
    ({}, {"format": "date"}, ["inputs: its 'format' changed"]),
    ({"pattern": "^a"}, {"pattern": "^b"}, ["inputs: its 'pattern' changed"]),
    ({"enum": ["ab", "ac"]}, {"pattern": "^a"}, []),
    ({"enum": ["ab", "b"]}, {"pattern": "^a"}, ["inputs: its 'pattern' changed"]),
    ({"enum": ["ab"]}, {"pattern": "("}, ["inputs: its 'pattern' changed"]),
    ({"enum": ["ab"]}, {"maxLength": 2}, []),
    ({"not": {"const": "a"}}, {"not": {"const": "a"}}, []),
    ({"title": "then", "x-said": 1}, {"title": "now", "x-said": 2, "examples": ["a"], "default": "b"}, []),
    ({"allOf": [{"minLength": 2}]}, {"minLength": 1}, []),
    ({"allOf": [{"minLength": 1}]}, {"minLength": 2}, ["inputs: is held to minLength 2 now, before to minLength 1"]),
]


@pytest.mark.parametrize(("recorded", "installed", "said"), TEXTS)
def test_limits_of_texts(recorded: Schema, installed: Schema, said: list[str]) -> None:
    """What is not understood must stay as it is; annotations may change."""
    found = narrowed({"type": "string", **recorded}, {"type": "string", **installed})

    assert [str(each) for each in found] == said


OBJECTS: list[tuple[Schema, Schema, list[str]]] = [
    ({"const": {"a": [1, "b"]}}, {"properties": {"a": {"type": "array"}}, "additionalProperties": False}, []),
    (
        {"const": {"a": [1, "b"]}},
        {"additionalProperties": {"items": {"type": "integer"}}},
        ['inputs.a[1]: no longer takes "b"; it takes integer'],
    ),
    ({"patternProperties": {"^a": {}}}, {"patternProperties": {"^a": {}}}, []),
    ({"patternProperties": {"^a": {}}}, {"patternProperties": {"^b": {}}}, ["inputs: its 'patternProperties' changed"]),
    ({}, {"minProperties": 1}, ["inputs: is held to minProperties 1 now, before to nothing"]),
    ({"properties": {"a": False}}, {"properties": {}, "additionalProperties": True}, []),
    ({"dependentRequired": {"a": ["b"]}}, {"dependentRequired": {"a": ["c"]}}, ["inputs: its 'dependentRequired' changed"]),
]


@pytest.mark.parametrize(("recorded", "installed", "said"), OBJECTS)
def test_objects_that_no_type_of_treadle_makes(recorded: Schema, installed: Schema, said: list[str]) -> None:
    """Models of other libraries write schemas of their own."""
    found = narrowed({"type": "object", **recorded}, {"type": "object", **installed})

    assert [str(each) for each in found] == said


def test_definitions_are_compared_by_what_they_say() -> None:
    """Neither their names nor what nobody refers to matters; two that refer to each other come to an end."""

    def pair(name: str, leaf: str) -> Schema:
        node: Schema = {"type": "object", "properties": {"leaf": {"type": leaf}, "next": {"$ref": "#/$defs/b~1c"}}}
        return {
            "$ref": f"#/$defs/{name}",
            "$defs": {name: node, "b/c": {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"$ref": "#/$defs/b~1c"}]}},
        }

    assert narrowed(pair("one", "integer"), pair("other", "number")) == []
    assert [each.path for each in narrowed(pair("one", "number"), pair("other", "integer"))] == [
        "inputs.leaf",
        "inputs.next.leaf",
    ]


def test_classes_that_share_members_are_compared_once() -> None:
    """A schema whose paths double at every level takes no longer than it is long."""
    levels = 60
    for leaf, said in (("integer", 0), ("string", 1)):
        recorded, installed = (doubling(levels, kind) for kind in ("integer", leaf))
        installed["$defs"]["unused"] = {}  # type: ignore[index] # so that the two are not simply equal

        found = narrowed(recorded, installed)

        assert (len(found) > 0) is (said > 0)


def doubling(levels: int, leaf: str) -> Schema:
    """Every definition but the last refers to the next one twice."""
    definitions: dict[str, object] = {
        str(level): {"type": "object", "properties": {side: {"$ref": f"#/$defs/{level + 1}"} for side in "ab"}}
        for level in range(levels)
    }
    return {"$ref": "#/$defs/0", "$defs": {**definitions, str(levels): {"type": leaf}}}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": 5}, "'properties' in the schema is no object"),
        ({"required": "all"}, "'required' in the schema is no list"),
        ({"minLength": "two", "type": "string"}, "'minLength' in the schema is no number"),
        ({"$ref": "#/$defs/lost"}, "the schema refers to '#/$defs/lost', which is not in it"),
        ({"$ref": "other.json"}, "the schema refers to 'other.json', which is not in it"),
        (5, "5 is no schema"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Json, why: str) -> None:
    """A damaged record is not taken for a contract that anything keeps."""
    with pytest.raises(ValueError, match=re.escape(why)):
        narrowed({}, schema)


# -- whole contracts ---------------------------------------------------------------------------------------------------


def contract(function: object, **declared: object) -> dict[str, object]:
    bound = bind("acme.page", function)
    return {
        "inputs": bound.input_schema(),
        "output": bound.output_schema(),
        "effects": None,
        "backends": ["asyncio", "trio"],
    } | declared


async def page(url: str, mode: Literal["text", "html"] = "text") -> Point:
    raise AssertionError("only its signature is looked at")


async def page_now(url: str | None, mode: str = "text", limit: int = 10) -> Point:
    raise AssertionError("only its signature is looked at")


async def page_broken(address: str, mode: Literal["text"] = "text") -> Moved:
    raise AssertionError("only its signature is looked at")


def test_an_executor_may_take_more() -> None:
    """Wider types, more optional inputs."""
    assert differences(contract(page), contract(page_now)) == []


def test_an_executor_that_takes_less_and_answers_more_is_found_out() -> None:
    """Inputs first, then the output, then what it declares of itself."""
    found = differences(contract(page, effects="idempotent"), contract(page_broken, effects="unsafe", backends=["asyncio"]))

    assert [str(each) for each in found] == [
        "inputs.url: is no longer taken: it was removed or renamed",
        'inputs.mode: no longer takes "html"; it takes "text"',
        "inputs.address: has to be given now",
        "output.x: may be string now; recorded: integer",
        "output.z: is new; a step that takes the whole recorded output would refuse it",
        "effects: were 'idempotent', are 'unsafe' now: runs rely on what was declared",
        "backends: does not run on trio any more",
    ]


def test_stronger_promises_are_fine() -> None:
    """Effects that are declared at last, another event loop."""
    weak, strong = contract(page, backends=["trio"]), contract(page, effects="none")

    assert differences(weak, strong) == []
    assert [each.path for each in differences(strong, weak)] == ["effects", "backends"]
