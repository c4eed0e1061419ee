"""What expressions may say, what they answer, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle._expressions import (
    Reference,
    check_text,
    compile_value,
    parse_expression,
    split_text,
)
from treadle._expressions._grammar import compile_source
from treadle.errors import ExpressionError
from treadle.ports import SecretReference

NAMES: dict[str, Any] = {
    "inputs": {"x": {"y": 3}, "sites": ["b", "a"], "items": [1, 2, 3], "flag": True, "text": "Hello", "none": None},
    "steps": {
        "a": {"status": "completed", "output": {"n": 4, "rows": [{"k": 1, "v": {"w": "p"}}, {"k": 2}]}},
        "my-step": {"output": "dashed"},
        "skipped": {"status": "skipped", "output": None},
    },
    "a": {"b": {"c": "deep"}},
    "item": "it",
    "index": 0,
}


def evaluate(source: str, names: Mapping[str, object] = NAMES) -> Any:
    return parse_expression(source).evaluate(names)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        # look-ups
        ("a.b.c", "deep"),
        ("steps.a.output.n", 4),
        ("steps['my-step'].output", "dashed"),
        ("inputs.items", [1, 2, 3]),
        ("inputs.items[0]", 1),
        ("inputs.items.0", 1),
        ("inputs.items[-1]", 3),
        ("inputs.items[1:]", [2, 3]),
        ("inputs.items[:index + 1]", [1]),
        ("inputs.text[:2]", "He"),
        ("inputs.text[0]", "H"),
        ("inputs['x']['y']", 3),
        ("inputs.items[index]", 1),
        ("(a.b).c", "deep"),
        ("(a if true else a).b.c", "deep"),
        # literals
        ("1", 1),
        ("-1.5", -1.5),
        ("+2", 2),
        ("-0.0", 0.0),
        ("'it''s'", "its"),
        ('"a\\nb"', "a\nb"),
        ("'é☃'", "é☃"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("none", None),
        ("[1, 'a', [null]]", [1, "a", [None]]),
        ("(1, 2)", [1, 2]),
        ("{'a': 1, 'b': {'c': [inputs.x.y]}}", {"a": 1, "b": {"c": [3]}}),
        # comparisons and booleans
        ("1 < 2 <= 2", True),
        ("1 < 2 > 3", False),
        ("'a' < 'b'", True),
        ("2 >= 3", False),
        ("1 == 1.0", True),
        ("1 == true", False),
        ("'1' == 1", False),
        ("1 != 2", True),
        ("2 in inputs.items", True),
        ("true in [1]", False),
        ("'x' in inputs", True),
        ("1 in inputs", False),
        ("'ell' in inputs.text", True),
        ("'z' not in inputs.text", True),
        ("not inputs.flag", False),
        ("inputs.flag and 'yes'", "yes"),
        ("'' or 'other'", "other"),
        ("0 or false", False),
        # arithmetic
        ("steps.a.output.n + 1", 5),
        ("7 - 2 * 3", 1),
        ("7 / 2", 3.5),
        ("7 // 2", 3),
        ("-7 % 3", 2),
        ("1 + 0.5", 1.5),
        ("'a' + 'b'", "ab"),
        ("[1] + [2]", [1, 2]),
        ("'n=' ~ 1 ~ true ~ null ~ [1, 'a'] ~ 1.5", 'n=1truenull[1, "a"]1.5'),
        # choice
        ("'big' if steps.a.output.n > 3 else 'small'", "big"),
        ("'big' if false", None),
        # filters
        ("inputs.items | length", 3),
        ("inputs | length", 6),
        ("inputs.text | lower | upper", "HELLO"),
        ("'  x ' | trim", "x"),
        ("'xax' | trim('x')", "a"),
        ("inputs.sites | sort | join(', ')", "a, b"),
        ("inputs.sites | first ~ inputs.sites | last", "ba"),
        ("[3, 1, 2] | sort(reverse=true)", [3, 2, 1]),
        ("['B', 'a'] | sort", ["B", "a"]),
        ("['B', 'a'] | sort(case_sensitive=false)", ["a", "B"]),
        ("steps.a.output.rows | sort(attribute='k', reverse=true) | map(attribute='k')", [2, 1]),
        ("[1, true, 1.0, 'a', 'a', [1], [1], {'a': 1}, {'a': 1}] | unique", [1, True, "a", [1], {"a": 1}]),
        ("steps.a.output.rows | unique(attribute='k') | length", 2),
        ("inputs.items | sum", 6),
        ("steps.a.output.rows | sum(attribute='k')", 3),
        ("[0.5] | sum(start=1)", 1.5),
        ("inputs.items | min ~ inputs.items | max", "13"),
        ("steps.a.output.rows | max(attribute='k')", {"k": 2}),
        ("2.5 | round", 2),
        ("2.345 | round(2)", 2.35),
        ("1234 | round(-2)", 1200),
        ("2.1 | round(0, 'ceil')", 3),
        ("2.19 | round(1, method='floor')", 2.1),
        ("'12' | int + 1", 13),
        ("'ff' | int(base=16)", 255),
        ("'x' | int(0)", 0),
        ("2.9 | int", 2),
        ("'1.5' | float", 1.5),
        ("'nan' | float(0)", 0),
        ("12 | string", "12"),
        ("'ab' | list", ["a", "b"]),
        ("{'a': 1} | keys", ["a"]),
        ("{'a': 1} | values", [1]),
        ("{'a': 1} | items", [["a", 1]]),
        ("{'a': 1, 'b': 1} | merge({'b': 2}, null, {'c': 3})", {"a": 1, "b": 2, "c": 3}),
        ("{'a': 1} | merge", {"a": 1}),
        ("{'a': 1, 'b': 2} | pick('b', 'c')", {"b": 2}),
        ("{'a': 1} | pick", {}),
        ("{'a': [1, null]} | tojson", '{"a": [1, null]}'),
        ("{'a': 1} | tojson(indent=1)", '{\n "a": 1\n}'),
        ("'é' | tojson", '"é"'),
        ("'[1, {\"a\": null}]' | fromjson", [1, {"a": None}]),
        ("'a-b-c' | replace('-', '+')", "a+b+c"),
        ("'a-b-c' | replace('-', '+', 1)", "a+b-c"),
        ("'a,b,c' | split(',')", ["a", "b", "c"]),
        ("'a,b,c' | split(',', 1)", ["a", "b,c"]),
        ("' a  b ' | split", ["a", "b"]),
        ("-3 | abs", 3),
        ("inputs.items | reverse", [3, 2, 1]),
        ("'abc' | reverse", "cba"),
        ("steps.a.output.rows | map(attribute='k')", [1, 2]),
        ("steps.a.output.rows | map(attribute='v.w', default='-')", ["p", "-"]),
        ("[[5]] | map(attribute=0)", [5]),
        ("[{'a': [7]}] | map(attribute='a.0')", [7]),
        ("inputs.sites | map('upper')", ["B", "A"]),
        ("inputs.sites | map('replace', 'a', 'z')", ["b", "z"]),
        ("[1, 0, '', 'a', null] | select", [1, "a"]),
        ("[1, 0] | reject", [0]),
        ("[1, 2, 3] | select('gt', 1)", [2, 3]),
        ("[1, 2, 3] | reject('odd')", [2]),
        ("steps.a.output.rows | selectattr('v') | length", 1),
        ("steps.a.output.rows | selectattr('k', 'eq', 2) | length", 1),
        ("steps.a.output.rows | rejectattr('k', 'ge', 2) | length", 1),
        # missing and null
        ("inputs.nope | default(7)", 7),
        ("inputs.nope.further.down | default('-')", "-"),
        ("steps.skipped.output.total | default(0)", 0),
        ("inputs.none | default('-')", "-"),
        ("inputs.items[9] | default(0)", 0),
        ("[] | first | default('none')", "none"),
        ("[] | max | default(0)", 0),
        ("0 | default(5)", 0),
        ("0 | default(5, true)", 5),
        ("inputs.nope is defined", False),
        ("inputs.nope is undefined", True),
        ("inputs.x.y is defined", True),
        ("inputs.nope is not defined and inputs.x is defined", True),
        # tests
        ("inputs.none is none", True),
        ("inputs.none is null", True),
        ("1 is number and 1 is integer and 1.5 is float", True),
        ("true is number", False),
        ("true is boolean and true is true and false is false", True),
        ("'a' is string and [] is list and {} is mapping and [] is sequence", True),
        ("[] is empty and '' is empty", True),
        ("4 is even and 3 is odd and 9 is divisibleby 3", True),
        ("1 is in [1] and 1 is eq 1 and 1 is ne 2 and 1 is equalto(1)", True),
        ("1 is lt 2 and 2 is ge 2 and 2 is le 2 and 3 is gt 2", True),
        ("'report.md' is endswith '.md' and 'report.md' is startswith('rep')", True),
    ],
)
def test_answers(source: str, value: object) -> None:
    """Look-ups (a.b.c), literals, operators, listed filters and tests give these values (S3-03, S3-04: steps.ID.output)."""
    result = evaluate(source)

    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("source", "message", "remedy"),
    [
        ("a.b.d", "a.b has no key 'd'", "it has: c"),
        ("steps.a.output.m", "steps.a.output has no key 'm'", "it has: n, rows"),
        ("steps.a.output.row", "has no key 'row'", "did you mean 'rows'?"),
        ("nope", "there is no 'nope' here", "there is: inputs, steps"),
        ("nope | default(1)", "there is no 'nope' here", ""),
        ("inputs.items[3]", "inputs.items has 3 items, so there is no index 3", ""),
        ("inputs.items.k", "inputs.items is a list, so it has no key 'k'", "map(attribute='k')"),
        ("inputs.none.x", "inputs.none is null", "default("),
        ("inputs.x.y.z", "inputs.x.y is a number", ""),
        ("inputs.x[0]", "inputs.x has no key 0", ""),
        ("inputs[true]", "a boolean cannot be a key", ""),
        ("inputs.items[1.5]", "a number cannot be a key", ""),
        ("inputs.items['a':]", "a slice needs a whole number", ""),
        ("inputs[1:]", "there is no part", ""),
        ("1 < 'a'", "a number < a text has no answer", "compare two"),
        ("null > 1", "null > a number", ""),
        ("1 in 2", "cannot be looked for", ""),
        ("1 in 'a'", "cannot be looked for", ""),
        ("1 + 'a'", "a number + a text", "join texts with ~"),
        ("true + 1", "a boolean + a number", ""),
        ("'a' * 3", "a text * a number", ""),
        ("[0] * 3", "a list * a number", ""),
        ("'%s' % 1", "a text % a number", ""),
        ("1 / 0", "division by zero", ""),
        ("1e308 * 10", "not a finite number", ""),
        ("-'a'", "has no answer", ""),
        ("+'a'", "has no sign", ""),
        ("{1: 2}", "the key of a mapping is a text", ""),
        ("1 | length", "has no length", ""),
        ("1 | upper", "upper needs a text", "| string"),
        ("1 | join", "join needs a list", ""),
        ("[] | first", "has no first one", "default("),
        ("1 | last", "last needs a list or a text", ""),
        ("[] | min", "an empty list has no min", "default("),
        ("[1, 'a'] | sort", "only numbers or only texts", ""),
        ("['a'] | sum", "sum needs only numbers", ""),
        ("'x' | int", "'x' cannot be read as a whole number", "int(0)"),
        ("[] | float", "a list cannot be read as a number", ""),
        ("{} | list", "a mapping is no list", "keys"),
        ("[] | keys", "keys needs a mapping", ""),
        ("{} | merge([])", "merge needs a mapping, not a list", ""),
        ("'a' | pick('a')", "pick needs a mapping, not a text", ""),
        ("'{' | fromjson", "not JSON", ""),
        ("'NaN' | fromjson", "not JSON", ""),
        ("'1e999' | fromjson", "not JSON", ""),
        ("'a' | split('')", "separator that is not empty", ""),
        ("1 | reverse", "reverse needs", ""),
        ("1 | abs | round(99)", "between -20 and 20", ""),
        ("1 | round('x')", "whole number", ""),
        ("1 | round(0, 'up')", "no method 'up'", "ceil"),
        ("'a' | round", "round needs a number", ""),
        ("[] | map", "map needs attribute", ""),
        ("[{}] | map(attribute='k')", "an item has no key 'k'", ""),
        ("[{}] | map(attribute=[])", "cannot be an attribute", ""),
        ("[1] | selectattr", "need the name", ""),
        ("[1] | map('string') | tojson(indent=99)", "indent of 0 to 8", ""),
    ],
)
def test_a_missing_or_unfit_value_is_a_clear_error(source: str, message: str, remedy: str) -> None:
    """The error names the key and what there is, or the two kinds that do not go together, and has an offset (S3-03)."""
    with pytest.raises(ExpressionError) as caught:
        evaluate(source)

    assert message in caught.value.problem
    assert remedy in caught.value.remedy
    assert caught.value.offset is not None
    assert 0 <= caught.value.offset <= len(source)


@pytest.mark.parametrize(
    ("source", "offset", "message"),
    [
        ("", None, "empty"),
        ("  ", None, "empty"),
        ("1 +", 2, "it ends too early"),
        ("a b", 2, "'b' is not expected here"),
        ("a ! b", 2, "unexpected char '!'"),
        ("a = 1", 2, "'=' is not expected here"),
        ("(1", 1, "it ends too early"),
        ("inputs.", 7, "expected name or number"),
        ("a }} {{ b", 2, "text follows"),
        ("a %} b", 3, "unexpected '}'"),
        ("f(1)", 1, "no calls"),
        ("inputs.x()", 8, "no calls"),
        ("'a'.format(1)", 10, "no calls"),
        ("2 ** 3", 0, "'**' is not part"),
        ("1 | frob", 4, "there is no filter 'frob'"),
        ("1 | lenght", 4, "there is no filter 'lenght'"),
        ("1 is frob", 2, "there is no test 'frob'"),
        ("1 | join(1, 2, 3)", 4, "too many positional"),
        ("1 | round(precison=1)", 4, "precison"),
        ("1 | default(*[1])", 4, "no place"),
        ("[] | map('frob')", 5, "there is no filter 'frob'"),
        ("[] | select('frob')", 5, "there is no test 'frob'"),
        ("[] | map(inputs.x)", 5, "must be a literal"),
        ("[] | map('map', 'upper')", 5, "cannot be used within"),
        ("[1:2]", 2, "expected"),
        ("inputs.items[::2]", 12, "no step"),
        ("'\\ud800'", 0, "lone surrogate"),
        ("1e999", 0, "not a finite number"),
        ("9" * 100, 0, "more than 256 bits"),
        ("9" * 5000, None, "cannot be read"),
        ("steps.my-step.output", 0, "reads as a subtraction"),
        ("secrets.TOKEN", None, "secrets cannot be used here"),
        ("a ~ secrets.TOKEN", None, "secrets cannot be used here"),
        ("'" + "x" * 8192 + "'", None, "longer than 8,192"),
        ("(" * 51 + "1" + ")" * 51, 50, "nested deeper"),
        ("[" * 5000, 50, "nested deeper"),
        ("not " * 2000 + "a", None, "nested deeper"),
        ("-" * 5000 + "1", None, "nested deeper"),
        ("1" + " + 1" * 1000, None, "nested deeper"),
        ("a" + ".b" * 60, None, "nested deeper"),
        ("a" + "[b]" * 60, None, "nested deeper"),
        ("'x'" + " ~ 'x' | upper" * 101, None, "more than 100 operators"),
        ("a is defined(1)", 2, "too many"),
    ],
)
def test_what_is_no_expression_is_refused_when_it_is_parsed(source: str, offset: int | None, message: str) -> None:
    """Before anything runs, with the place in the source."""
    with pytest.raises(ExpressionError) as caught:
        parse_expression(source)

    assert message in caught.value.problem
    if offset is not None:
        assert abs((caught.value.offset or 0) - offset) <= 1


PAYLOADS = [
    "''.__class__.__mro__[1].__subclasses__()",
    "''|attr('__class__')",
    "('{0.__class__}'|attr('format'))(o)",
    "'{0.__class__.__mro__}'.format(o)",
    "'{o.__class__}'.format_map({'o':o})",
    "['{0.__class__}']|map('format',o)",
    "{'a onclick=x':'x'}|xmlattr",
    "fn.__globals__",
    "o['__class__']",
    "cycler.__init__.__globals__",
    "lipsum.__globals__['os']",
    "self._TemplateReference__context",
    "x['items'].pop()",
    "'a'*10**9",
    "([0]*10**8)|length",
    "(7**(10**7))%10",
    "lipsum(n=100000)",
    "range(10**6)",
    "'a'.center(10**9)",
    "'a'|center(999999999)",
    "'%999999999d'|format(1)",
    "'{:>999999999}'.format(1)",
    "x|indent(999999999)",
    "x|batch(1)",
    "x|wordwrap",
    "x|urlize",
    "joiner",
    "namespace(a=1)",
    "dict(a=1)",
    "x.a.append(1)",
    "9**9**9",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_known_escapes_and_bombs_end_in_an_error(payload: str) -> None:
    """Nothing that ever broke out of a template sandbox, or exhausted one, gets anywhere, nor takes time."""
    names = {"x": {"a": [1], "items": [1, 2]}, "o": {"k": 1}, "fn": {}}
    started = time.process_time()

    with pytest.raises(ExpressionError):
        evaluate(payload, names)

    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "source",
    [
        "t | replace('a', t)",
        "t ~ t ~ t",
        "t + t",
        "(many | map('replace', 'a', t)) | length",
        "many | join(t)",
        "many + many + many",
        "t | list | length",
        "t | split('a') | length",
        "big | tojson",
        "big ~ ''",
        "t | upper | replace('A', 'bb')",
    ],
)
def test_what_an_expression_makes_is_bounded(source: str) -> None:
    """Texts end at 1 MiB, lists at 100,000 items, before they are made."""
    names = {"t": "a" * 600_000, "many": ["a"] * 50_000, "big": [["x" * 100] * 100] * 200}

    with pytest.raises(ExpressionError, match=r"longer than|more than"):
        evaluate(source, names)


def test_a_long_text_or_list_is_looked_up_and_measured_without_limit() -> None:
    """Limits hold for what expressions make, not for what they find."""
    names = {"t": "a" * 3_000_000, "many": [0] * 300_000}

    assert evaluate("t | length", names) == 3_000_000
    assert evaluate("many", names) is names["many"]
    assert evaluate("many | length > 5 and t", names) is names["t"]


class Sly:
    """A Python object that offers everything."""

    secret = "S3CR3T"

    def __getitem__(self, key: object) -> str:
        return "S3CR3T"

    def __str__(self) -> str:
        return "S3CR3T"


@pytest.mark.parametrize(
    "source", ["o", "o.secret", "o['x']", "o ~ ''", "[o] | join", "o | tojson", "h.o", "h.o.secret", "h.o[0:1]", "h | tojson"]
)
def test_python_objects_are_refused(source: str) -> None:
    """Only plain data is seen: no attribute, item or text of anything else."""
    with pytest.raises(ExpressionError, match="no plain data"):
        evaluate(source, {"o": Sly(), "h": {"o": Sly()}})


def test_data_that_is_too_deep_is_an_error_of_the_expression() -> None:
    """Where Python's own stack ends, the answer is still an ExpressionError."""
    deep: list[object] = []
    for _ in range(20_000):
        deep = [deep]

    for source in ("v | tojson", "[v] | unique", "v ~ ''"):
        with pytest.raises(ExpressionError, match="too large to evaluate"):
            evaluate(source, {"v": deep})


def test_names_of_mapping_methods_are_keys() -> None:
    """``x.items`` is the key of that name, or missing; never Python's method."""
    names = {"x": {"items": 1, "keys": 2}}

    assert evaluate("x.items + x.keys", names) == 3
    with pytest.raises(ExpressionError, match="no key 'values'"):
        evaluate("x.values", names)


class View(Mapping[str, object]):
    """A mapping that is no dict, as the names of steps are."""

    def __init__(self, data: Mapping[str, object]) -> None:
        self._data = data

    def __getitem__(self, key: str) -> object:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def test_mappings_that_are_no_dicts_are_looked_into_and_copied_at_the_end() -> None:
    """The conductor's views work as mappings; what leaves an expression is plain data."""
    names = {"steps": View({"a": MappingProxyType({"output": {"n": 1}})})}

    assert evaluate("steps.a.output.n", names) == 1
    assert evaluate("steps", names) == {"a": {"output": {"n": 1}}}
    assert type(evaluate("steps.a", names)) is dict
    assert evaluate("steps ~ ''", names) == '{"a": {"output": {"n": 1}}}'
    assert evaluate("steps.b | default(1)", names) == 1
    assert evaluate("'a' in steps and steps | length == 1 and steps is mapping", names) is True


@pytest.mark.parametrize(
    ("source", "references"),
    [
        ("steps.page.output.total", [("steps", ("page", "output", "total"))]),
        ("steps['my-step'].output[0]", [("steps", ("my-step", "output", 0))]),
        ("inputs.items[-1].x", [("inputs", ("items", -1, "x"))]),
        ("steps[inputs.which].output", [("steps", ()), ("inputs", ("which",))]),
        ("a.b + a.b + c", [("a", ("b",)), ("c", ())]),
        ("inputs.x | default(inputs.y)", [("inputs", ("x",)), ("inputs", ("y",))]),
        ("a if b.c is defined else [d, {'k': e.f}]", [("b", ("c",)), ("a", ()), ("d", ()), ("e", ("f",))]),
        ("null or true", []),
        ("a.b[1:c.d]", [("a", ("b",)), ("c", ("d",))]),
    ],
)
def test_static_look_ups_are_known_before_a_run(source: str, references: list[tuple[str, tuple[str | int, ...]]]) -> None:
    """The plan sees what an expression needs, up to the first key that must be computed."""
    assert parse_expression(source).references == tuple(Reference(root, path) for root, path in references)


NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True).filter(
    lambda name: name.lower() not in {"true", "false", "none", "null", "not", "and", "or", "if", "else", "in", "is", "secrets"}
)


@given(NAME, st.lists(NAME, max_size=4))
def test_the_quick_way_for_plain_look_ups_is_the_grammars_way(root: str, path: list[str]) -> None:
    """A look-up that skips the parser gives what the parser would."""
    source = " " + ".".join([root, *path]) + " "
    quick = parse_expression(source)
    parsed = compile_source(source)

    value: object = "leaf"
    for key in reversed(path):
        value = {key: value}
    assert [(reference.root, reference.path) for reference in quick.references] == list(parsed.references)
    assert quick.evaluate({root: value}) == parsed.evaluate({root: value}) == "leaf"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab${}'\"\\\n é"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abk", max_size=3), inner, max_size=4),
    max_leaves=10,
)


@given(st.text("abc.|()[]{}'\"$+-*/%~ 01is not,:\\\n", max_size=40))
def test_any_text_is_an_expression_or_a_clear_error(source: str) -> None:
    """Garbage raises ExpressionError and nothing else, when parsed or when evaluated."""
    outcome: object = None
    try:
        outcome = parse_expression(source).evaluate({"a": 1, "b": [1], "c": {"a": "x"}})
    except ExpressionError as error:
        outcome = error.problem

    json.dumps(outcome, allow_nan=False)  # an answer is plain data


@given(JSON)
def test_json_goes_through_its_filters_unchanged(value: object) -> None:
    """``tojson`` and ``fromjson`` are each other's inverse for every plain value."""
    assert evaluate("v | tojson | fromjson", {"v": value}) == value


# -- texts and values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [("text", "")]),
        ("plain", [("text", "plain")]),
        ("${{ a }}", [("expression", " a ")]),
        ("x ${{a}} y", [("text", "x "), ("expression", "a"), ("text", " y")]),
        ("${{a}}${{b}}", [("expression", "a"), ("expression", "b")]),
        ("${{ '}}' }}", [("expression", " '}}' ")]),
        ('${{ "\\"}}" }}', [("expression", ' "\\"}}" ')]),
        ("${{ {'a': {'b': 1}} }}", [("expression", " {'a': {'b': 1}} ")]),
        ("${{ {'a': {}}}}", [("expression", " {'a': {}}")]),
        ("$${{ a }}", [("text", "${{ a }}")]),
        ("$$${{ a }}", [("text", "$${{ a }}")]),
        ("$${{ ${{ a }}", [("text", "${{ "), ("expression", " a ")]),
        ("{% x %} {# y #} ${x} ${#x} {{ z }} $ {{", [("text", "{% x %} {# y #} ${x} ${#x} {{ z }} $ {{")]),
        ("}} a }}", [("text", "}} a }}")]),
        ("it's ${{ a }} isn't", [("text", "it's "), ("expression", " a "), ("text", " isn't")]),
    ],
)
def test_texts_are_taken_apart_by_us(text: str, parts: list[tuple[str, str]]) -> None:
    """Only the inside of ``${{ }}`` is ever parsed; quotes and nested braces are respected; ``$${{`` is a literal."""
    assert split_text(text) == parts


def test_braces_syntax_also_takes_bare_double_braces() -> None:
    """With ``syntax: braces`` both spellings hold expressions; the literal stays."""
    text = "{{ a }} ${{ b }} $${{ c }} { d }"

    assert [part for part in split_text(text, braces=True) if part[0] == "expression"] == [
        ("expression", " a "),
        ("expression", " b "),
    ]
    assert compile_value(text, braces=True).render({"a": 1, "b": 2}) == "1 2 ${{ c }} { d }"
    assert compile_value(text).render({"a": 1, "b": 2}) == "{{ a }} 2 ${{ c }} { d }"


@pytest.mark.parametrize(
    "text", ["${{ a", "x ${{ '}} ", "${{ {'a' }}", "${{ a }", "${{" + "a" * 9000 + "}}", "${{'" + "a" * 9000]
)
def test_an_expression_that_is_not_closed_is_refused(text: str) -> None:
    """An unclosed ``${{`` is a fault, never text."""
    with pytest.raises(ExpressionError, match="closed"):
        split_text(text)


@given(
    st.lists(st.sampled_from(["${{ 1 }}", "$${{", "{{", "}}", "$", "{", "}", "'", '"', "a", "\n"]), max_size=12).map("".join)
)
def test_rendering_any_text_gives_a_text_or_a_value_once(text: str) -> None:
    """A text without expressions renders to itself (literals unescaped); nothing is rendered a second time."""
    try:
        value = compile_value(text)
    except ExpressionError:
        return
    rendered = value.render({})
    if "${{" not in text:
        assert rendered == text
        assert value.is_constant
    elif text == "${{ 1 }}":
        assert rendered == 1


def test_expressions_in_nested_data_are_replaced_and_keep_their_type() -> None:
    """A value that is exactly one expression keeps its type; anything else becomes text (S3-06)."""
    value = compile_value(
        {
            "n": "${{ steps.a.output.n }}",
            "t": "n=${{ steps.a.output.n }}, ${{ inputs.none }}",
            "deep": [{"l": ["${{ inputs.items }}"]}],
            "k": 1,
        }
    )

    assert value.render(NAMES) == {"n": 4, "t": "n=4, null", "deep": [{"l": [[1, 2, 3]]}], "k": 1}
    assert list(value.render(NAMES)) == ["n", "t", "deep", "k"]  # type: ignore[call-overload] # it is a dict
    assert value.references == (
        Reference("steps", ("a", "output", "n")),
        Reference("inputs", ("none",)),
        Reference("inputs", ("items",)),
    )
    assert not value.is_constant


def test_rendering_makes_new_containers_and_copies_no_values() -> None:
    """What a step changes in its inputs reaches neither the next rendering nor, by us, a copy of a large output."""
    value = compile_value({"c": [1, {"d": []}], "x": "${{ inputs.items }}"})
    first: Any = value.render(NAMES)
    first["c"][1]["d"].append(1)
    first["c"].append(2)
    second: Any = value.render(NAMES)

    assert second["c"] == [1, {"d": []}]
    assert second["x"] is NAMES["inputs"]["items"]


@given(JSON.filter(lambda value: "${{" not in repr(value)))
def test_a_constant_renders_to_itself(value: object) -> None:
    """Whatever plain data has no ``${{`` comes out equal, and a container is a new one."""
    compiled = compile_value(value)
    rendered = compiled.render({})

    assert rendered == value
    assert compiled.is_constant
    if isinstance(value, dict | list):
        assert rendered is not value


def test_outputs_that_look_like_expressions_stay_text() -> None:
    """A value is rendered once: what it says is data for ever."""
    names = {"a": "${{ secrets.TOKEN }} {{ 7*7 }}"}

    assert compile_value("${{ a }}").render(names) == names["a"]
    assert compile_value("x ${{ a }}").render(names) == "x " + names["a"]


def test_secrets_stay_references() -> None:
    """A secret's place holds ``***``; where it belongs is said beside the data, with the other expressions rendered."""
    value = compile_value(
        {
            "h": {"auth": "Bearer ${{ secrets.TOKEN }}-${{ inputs.x.y }}!"},
            "l": ["${{ secrets.KEY }}"],
            "t": "${{ inputs.text }}",
        }
    )

    assert value.render(NAMES) == {"h": {"auth": "Bearer ***-3!"}, "l": ["***"], "t": "Hello"}
    assert value.secret_names == {"TOKEN", "KEY"}
    assert not value.is_constant
    assert value.references == (Reference("inputs", ("x", "y")), Reference("inputs", ("text",)))
    assert value.secret_references(NAMES) == (
        SecretReference(("h", "auth"), (("text", "Bearer "), ("secret", "TOKEN"), ("text", "-3!"))),
        SecretReference(("l", 0), (("secret", "KEY"),)),
    )
    assert check_text("a ${{ secrets.A }}${{ secrets.B }}") == {"A", "B"}


@pytest.mark.parametrize(
    "text",
    ["${{ secrets.A | upper }}", "${{ secrets }}", "${{ secrets.A.b }}", "${{ secrets['A'] }}", "${{ secrets.A ~ 'x' }}"],
)
def test_a_secret_stands_alone(text: str) -> None:
    """No filter, operator or computed name: the reference must be known, whole, before the run."""
    with pytest.raises(ExpressionError, match="a secret cannot be looked into"):
        compile_value({"k": text})


def test_errors_of_rendering_name_the_expression() -> None:
    """Which expression failed is in the message."""
    with pytest.raises(ExpressionError, match=r"inputs\.nope"):
        compile_value({"a": ["x ${{ inputs.nope }}"]}).render(NAMES)
    with pytest.raises(ExpressionError, match="longer than"):
        compile_value("${{ t }}${{ t }}").render({"t": "a" * 600_000})


QUICK = """
import timeit
from treadle._expressions import compile_value, parse_expression

names = {"inputs": {"x": {"y": 3}}, "steps": {"a": {"output": {"n": 4}}}}
look_up, total = parse_expression("inputs.x.y"), parse_expression("steps.a.output.n + 1")
value = compile_value({"a": 1, "b": "x", "c": True, "d": "${{ inputs.x.y }}", "e": "${{ steps.a.output.n + 1 }}"})
constant = compile_value({"a": 1, "b": "x", "c": True})
for call in (look_up.evaluate, total.evaluate, value.render, constant.render):
    print(min(timeit.repeat(lambda: call(names), number=500, repeat=20)) / 500 * 1e6)
"""


def test_evaluating_is_quick() -> None:
    """A look-up or small sum takes under 5 us, five keys with two expressions under 8 us, constants next to nothing."""
    answer = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, check=True, timeout=60)
    look_up, total, value, constant = map(float, answer.stdout.split())

    assert look_up < 5
    assert total < 5
    assert value < 8
    assert constant < 1
