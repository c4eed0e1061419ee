"""Plain JSON: what comes out of an executor is copied as such, or refused with the place and the remedy."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import tracemalloc
from collections import OrderedDict
from types import MappingProxyType, SimpleNamespace

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle._json import MAX_BYTES, MAX_DEPTH, NotJsonError, Place, copy_json, path_text, plain

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


class Color(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Odd(enum.Enum):
    PAIR = (1, 2)


class LoudText(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another text"


@attrs.frozen
class Point:
    x: int


def issues_of(value: object, *, max_bytes: int = MAX_BYTES) -> list[str]:
    with pytest.raises(NotJsonError) as caught:
        plain(value, max_bytes=max_bytes)
    return [str(issue) for issue in caught.value.issues]


@given(json_values)
def test_plain_json_is_copied_unchanged(value: object) -> None:
    """What is plain JSON already comes back equal, and can be written and read (S0-03)."""
    copy = plain(value)

    assert copy == value
    assert json.loads(json.dumps(copy)) == value


@given(json_values)
def test_a_copy_shares_no_container(value: object) -> None:
    """Changing the copy does not change the value: neither at the top nor below."""

    def containers(value: object) -> set[int]:
        if isinstance(value, dict):
            return {id(value)}.union(*map(containers, value.values()))
        return {id(value)}.union(*map(containers, value)) if isinstance(value, list) else set()

    for copy in (plain(value), copy_json(value)):
        assert copy == value
        assert not containers(copy) & containers(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Odd.PAIR, [1, 2]),
        ({Color.RED: Color.RED}, {"red": "red"}),
        (LoudText("as it is"), "as it is"),
        ({LoudText("key"): 1}, {"key": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        ([], []),
        ({}, {}),
        ([True, False], [True, False]),
        ([1, 2.5, "x", None, True], [1, 2.5, "x", None, True]),
        ({"n": 2**70}, {"n": 2**70}),
        ([2**70, 1], [2**70, 1]),
        ({"t": "gr\u00fc\u00dfe"}, {"t": "gr\u00fc\u00dfe"}),
    ],
)
def test_near_json_becomes_plain(value: object, expected: object) -> None:
    """Tuples become lists; enums, mappings and subclasses of str and int their plain values."""
    result = plain(value)

    assert result == expected
    assert type(result) is type(expected)


def test_subclasses_leave_no_trace() -> None:
    """Not even as keys or items: what is recorded has the builtin types exactly."""
    result = plain({LoudText("a"): [LoudText("b"), Level.HIGH]})

    assert isinstance(result, dict)
    ((key, items),) = result.items()
    assert [type(key), *map(type, items)] == [str, str, int]


@pytest.mark.parametrize(
    ("value", "issue"),
    [
        (float("nan"), "$: nan is not JSON; return null (None) or text"),
        ({"a": [1, float("inf")]}, "$.a[1]: inf is not JSON; return null (None) or text"),
        ([float("nan")], "$[0]: nan is not JSON; return null (None) or text"),
        ({"a": float("-inf")}, "$.a: -inf is not JSON; return null (None) or text"),
        ({"a": {3}}, "$.a: a set is not JSON; return a list"),
        (frozenset(), "$: a frozenset is not JSON; return a list"),
        (b"x", "$: bytes is not JSON; return text: decode it, or base64"),
        ({3: "x"}, "$: key of type int is not JSON; use text keys"),
        ("\ud800", "$: text with a lone surrogate is not JSON; decode bytes with errors='replace'"),
        ({"\udfff": 1}, "$['\\udfff']: text with a lone surrogate is not JSON; decode bytes with errors='replace'"),
        (["a" * 70_000 + "\ud800"], "$[0]: text with a lone surrogate is not JSON; decode bytes with errors='replace'"),
        ([10**5000], "$[0]: an integer of more than 4,200 digits cannot be written; return text"),
        (iter(()), "$: a tuple_iterator is not JSON; return a list of its items"),
        (
            SimpleNamespace(),
            "$: an instance of SimpleNamespace is not JSON; return text, numbers, lists and dicts, or declare its type",
        ),
        (
            datetime.date(2026, 1, 2),
            "$: an instance of date is not JSON; return text, numbers, lists and dicts, or declare its type",
        ),
        (
            decimal.Decimal(1),
            "$: an instance of Decimal is not JSON; return text, numbers, lists and dicts, or declare its type",
        ),
        (Point(1), "$: an instance of Point is not JSON; declare it in the executor's return type, or return a dict"),
        ({"odd key": {"it's": {1}}}, "$['odd key'][\"it's\"]: a set is not JSON; return a list"),
    ],
)
def test_what_is_not_json_is_refused_with_its_place_and_a_remedy(value: object, issue: str) -> None:
    """Each kind of bad output has its own words (S0-03)."""
    assert issues_of(value) == [issue]


def test_a_coroutine_is_asked_to_be_awaited() -> None:
    """Forgetting ``await`` is a frequent mistake, so it is named."""

    async def work() -> int:
        return 1

    coroutine = work()
    found = issues_of({"a": coroutine})
    coroutine.close()

    assert found == ["$.a: a coroutine is not JSON; await it and return what it gives"]


def test_an_array_is_asked_for_its_list() -> None:
    """Whatever has ``tolist`` is told by that name; no array library is imported."""

    class Array:
        def tolist(self) -> list[int]:
            return []

    assert issues_of([Array()]) == ["$[0]: Array is not JSON; return .tolist() of it"]


def test_all_issues_come_at_once() -> None:
    """One fault does not hide the next."""
    assert [each.split(":")[0] for each in issues_of({"a": {1}, "b": [b"", {"c": float("nan")}]})] == [
        "$.a",
        "$.b[0]",
        "$.b[1].c",
    ]


def test_the_walk_stops_at_twenty_issues() -> None:
    """A list of many sets says enough with twenty lines."""
    assert len(issues_of([{1}] * 1000)) == 20


def test_a_cycle_is_named() -> None:
    """A value that contains itself is an issue at the place where it closes, not an endless walk."""
    cycle: dict[str, object] = {"list": []}
    inner = cycle["list"]
    assert isinstance(inner, list)
    inner.append(cycle)

    assert issues_of(cycle) == ["$.list[0]: contains itself (a cycle), which is not JSON; return a value without the loop"]


def test_the_same_container_twice_is_no_cycle() -> None:
    """A shared list is copied for each place."""
    shared = [1]

    result = plain([shared, shared])

    assert isinstance(result, list)
    assert result == [[1], [1]]
    assert result[0] is not result[1]


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: (inner, 1)])
def test_depth_is_limited(wrap: object) -> None:
    """5,000 levels are one issue, not a RecursionError."""
    assert callable(wrap)
    value: object = 1
    for _ in range(5000):
        value = wrap(value)

    (issue,) = issues_of(value)

    assert issue.endswith(f"nested deeper than {MAX_DEPTH} levels; return flatter data")
    assert len(issue) < 300


def test_the_deepest_allowed_value_passes() -> None:
    """Two hundred levels are fine."""
    value: object = 1
    for _ in range(MAX_DEPTH):
        value = [value]

    assert plain(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 2000,
        "\u00fc" * 600,
        {"k" * 2000: 1},
        ["x" * 600, "y" * 600],
        [1] * 1000,
        [1, "x"] * 500,
        {str(number): number for number in range(200)},
        {"a": "x" * 2000},
        [[] for _ in range(20)],
        [1 << 13_000],
    ],
)
def test_size_is_limited(value: object) -> None:
    """Whatever a value is large by, the estimate sees it."""
    (issue,) = issues_of(value, max_bytes=1000)

    assert issue.endswith("larger than 0.000954 MiB; write it to a file and return the file's path")


def test_shared_containers_count_each_time() -> None:
    """A value that doubles at every level cannot explode in the copy."""
    value: object = ["x"]
    for _ in range(60):
        value = [value, value]

    (issue,) = issues_of(value, max_bytes=100_000)

    assert "larger than 0.0954 MiB" in issue


def test_a_value_that_is_too_large_costs_no_copy() -> None:
    """300 MB are refused before memory is spent on them."""
    large = {"rows": [0] * 40_000_000, "text": "x"}
    tracemalloc.start()
    try:
        (issue,) = issues_of(large)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert issue.startswith("$.rows: larger than 64 MiB")
    assert peak < 1_000_000


def test_a_value_that_changes_while_it_is_read_is_an_issue() -> None:
    """A thread that still writes to its result is told so."""
    value: dict[str, object] = {}

    class Growing(dict[str, object]):
        def items(self) -> object:  # type: ignore[override]  # an iterator that misbehaves like a concurrent change
            raise RuntimeError("dictionary changed size during iteration")

    value["inner"] = Growing(a=1)

    assert issues_of(value) == [
        "$: cannot be read: dictionary changed size during iteration; do not change a value after returning it"
    ]


def test_paths_read_like_code_and_stay_short() -> None:
    """Keys that are no names are quoted; a very long path loses its middle."""
    keys: list[str | int] = ["a", 3, "b c"]
    place: Place | None = None
    for depth, key in enumerate(keys, start=1):
        place = (place, key, depth)
    long: Place | None = None
    for depth in range(1, 150):
        long = (long, depth, depth)

    assert path_text(place) == "$.a[3]['b c']"
    assert len(path_text(long)) < 160
    assert path_text(long).endswith("[148][149]")
    assert path_text(None) == "$"
