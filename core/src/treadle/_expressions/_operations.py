"""What expressions can do to plain values: look up, compare, calculate, filter, test. Each is bounded, none sees attributes."""

from __future__ import annotations

import difflib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import islice

import attrs

from treadle._models import Json

MAX_TEXT = 1 << 20
"""Characters of any text that an expression makes."""

MAX_ITEMS = 100_000
"""Items of any list that an expression makes anew (a look-up may give a longer one)."""

MAX_BITS = 256
"""Size of any whole number that an expression makes."""

Names = Mapping[str, object]
Evaluate = Callable[[Names], Json]


class Problem(Exception):
    """Something that cannot be done; the offset is filled in by whoever knows it."""

    def __init__(self, problem: str, remedy: str = "", offset: int | None = None) -> None:
        self.problem, self.remedy, self.offset = problem, remedy, offset
        super().__init__(problem)


class Missing(Problem):
    """A look-up found nothing; ``default`` and ``is defined`` take it as an answer."""


# -- kinds of values ---------------------------------------------------------------------------------------------------

_PLAIN = frozenset((dict, list, str, int, float, bool, type(None)))


def kind_of(value: object) -> str:
    """The JSON word for a value's kind, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, Mapping):
        return "a mapping"
    return f"a Python object of type {type(value).__name__}"


def is_number(value: object) -> bool:
    """Whether it is a number in JSON's sense, so not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked(value: object) -> Json:
    """The value itself when it is plain data, a plain copy of a Mapping that is no dict; anything else is refused."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {str(key): checked(item) for key, item in value.items()}
    if isinstance(value, dict | list | str | int | float):
        return value
    raise Problem(f"{kind_of(value)} is no plain data", "expressions see texts, numbers, booleans, null, lists and mappings")


def text_of(value: Json) -> str:
    """How a value stands within a text: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else to_json(value)


def to_json(value: Json, *, indent: int | None = None) -> str:
    """JSON text of a value; refused beyond MAX_TEXT before it is wholly made."""
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, indent=indent, default=_plain_mapping)
    if not isinstance(value, dict | list | Mapping):
        return bounded(encoder.encode(value))
    pieces, size = [], 0
    for piece in encoder.iterencode(value):
        size += len(piece)
        if size > MAX_TEXT:
            raise _too_long()
        pieces.append(piece)
    return "".join(pieces)


def _plain_mapping(value: object) -> Json:
    if isinstance(value, Mapping):
        return dict(value)
    raise Problem(f"{kind_of(value)} is no plain data")


def bounded(text: str) -> str:
    """The text, unless it is longer than MAX_TEXT."""
    if len(text) > MAX_TEXT:
        raise _too_long()
    return text


def _too_long() -> Problem:
    return Problem(f"the text would be longer than {MAX_TEXT:,} characters", "pass the whole value with one ${{ }} alone")


def bounded_number(number: int | float) -> int | float:
    """The number, unless it is no JSON number or a whole number beyond MAX_BITS."""
    if isinstance(number, int):
        if number.bit_length() > MAX_BITS:
            raise Problem(f"the number would have more than {MAX_BITS} bits")
        return number
    if not math.isfinite(number):
        raise Problem("the result is not a finite number")
    return number


# -- look-ups ----------------------------------------------------------------------------------------------------------


def chain(root: str, path: tuple[str | int, ...]) -> Evaluate:
    """A look-up along a fixed path, like ``steps.page.output.total``; the most frequent expression, so the fastest."""

    def evaluate(names: Names) -> Json:
        try:
            value = names[root]
        except KeyError:
            raise unknown_name(root, names) from None
        for done, key in enumerate(path):
            kind = type(value)
            if (kind is dict and type(key) is str) or kind is list:
                try:
                    value = value[key]  # type: ignore[index] # it is a dict or a list; the except holds the rest
                except (KeyError, IndexError, TypeError):
                    value = look_up(value, key, spell(root, path[:done]))
            else:
                value = look_up(value, key, spell(root, path[:done]))
        return value if type(value) in _PLAIN else checked(value)

    return evaluate


def spell(root: str, path: Iterable[str | int]) -> str:
    """How a look-up is written: ``steps.page.output``, ``steps['my-step'].output[0]``."""
    parts = [root]
    for key in path:
        if isinstance(key, str):
            parts.append(f".{key}" if key.isidentifier() else f"[{_quoted(key)}]")
        else:
            parts.append(f"[{key}]")
    return "".join(parts)


def _quoted(key: str) -> str:
    return "'" + key.replace("\\", "\\\\").replace("'", "\\'") + "'"


def unknown_name(name: str, names: Names) -> Problem:
    """A root that does not exist here; ``default`` does not hide it, since that is always a slip."""
    return Problem(f"there is no {name!r} here", f"{_suggest(name, names)}there is: {_some(names)}")


def look_up(value: object, key: object, label: str) -> object:
    """An item of a mapping, list or text; never an attribute.

    Args:
        value: What to look in.
        key: Name or index.
        label: How ``value`` is called in the message.

    Raises:
        Missing: There is no such item.
        Problem: The value cannot be looked into, or the key is neither text nor whole number.
    """
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise Problem(f"{kind_of(key)} cannot be a key or an index")
    if isinstance(value, Mapping):
        return _key_of(value, key, label)
    if isinstance(value, list | str):
        return _item_of(value, key, label)
    if value is None:
        raise Missing(f"{label} is null, so it has no {key!r}", "guard it: ... | default(...), or a 'when'")
    if is_number(value) or isinstance(value, bool):
        raise Missing(f"{label} is {kind_of(value)}, so it has no {key!r}")
    raise Problem(f"{label} is {kind_of(value)}, which is no plain data")


def _key_of(value: Mapping[object, object], key: str | int, label: str) -> object:
    try:
        if isinstance(key, str):
            return value[key]
    except KeyError:
        pass
    raise Missing(f"{label} has no key {key!r}", f"{_suggest(key, value)}it has: {_some(value)}")


def _item_of(value: list[object] | str, key: str | int, label: str) -> object:
    if isinstance(key, str):
        remedy = f"take an item by its index, or map(attribute='{key}')" if isinstance(value, list) else ""
        raise Missing(f"{label} is {kind_of(value)}, so it has no key {key!r}", remedy)
    try:
        return value[key]
    except IndexError:
        raise Missing(f"{label} has {len(value)} items, so there is no index {key}") from None


def slice_of(value: object, start: object, stop: object, label: str) -> Json:
    """Part of a list or text."""
    ends = [None if end is None else _whole(end, "a slice") for end in (start, stop)]
    if isinstance(value, list | str):
        return value[ends[0] : ends[1]]
    raise Problem(f"{label} is {kind_of(value)}, so there is no part [:] of it")


def _suggest(name: object, known: Iterable[object]) -> str:
    if not isinstance(name, str) or len(name) > 60:
        return ""
    candidates = [key for key in islice(known, 1000) if isinstance(key, str) and len(key) <= 60]
    close = difflib.get_close_matches(name, candidates, 1)
    return f"did you mean {close[0]!r}? " if close else ""


def _some(known: Iterable[object]) -> str:
    shown = [str(key)[:60] for key in islice(known, 11)]
    return ", ".join(shown[:10]) + (", ..." if len(shown) > 10 else "") or "nothing"


# -- operators ---------------------------------------------------------------------------------------------------------


def equal(left: Json, right: Json) -> bool:
    """JSON equality: ``1 == 1.0``, but ``true != 1``."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _ordered(sign: str, compare: Callable[[Json, Json], bool]) -> Callable[[Json, Json], bool]:
    def ordered(left: Json, right: Json) -> bool:
        if not (is_number(left) and is_number(right)) and not (isinstance(left, str) and isinstance(right, str)):
            raise Problem(f"{kind_of(left)} {sign} {kind_of(right)} has no answer", "compare two numbers or two texts")
        return compare(left, right)

    return ordered


def contains(item: Json, container: Json) -> bool:
    """``item in container``: a list's item, a mapping's key, a text's part."""
    if isinstance(container, list):
        return any(equal(item, other) for other in container)
    if isinstance(container, Mapping):
        return isinstance(item, str) and item in container
    if isinstance(container, str) and isinstance(item, str):
        return item in container
    raise Problem(f"{kind_of(item)} cannot be looked for in {kind_of(container)}")


COMPARISONS: Mapping[str, Callable[[Json, Json], bool]] = {
    "eq": equal,
    "ne": lambda left, right: not equal(left, right),
    # The types are checked by _ordered, which mypy cannot see through two lambdas.
    "lt": _ordered("<", lambda left, right: left < right),  # type: ignore[operator]
    "lteq": _ordered("<=", lambda left, right: left <= right),  # type: ignore[operator]
    "gt": _ordered(">", lambda left, right: left > right),  # type: ignore[operator]
    "gteq": _ordered(">=", lambda left, right: left >= right),  # type: ignore[operator]
    "in": contains,
    "notin": lambda item, container: not contains(item, container),
}


def add(left: Json, right: Json) -> Json:
    """Sum of two numbers, or two texts or two lists one after the other."""
    if type(left) is int and type(right) is int:
        return bounded_number(left + right)
    if isinstance(left, str) and isinstance(right, str):
        if len(left) + len(right) > MAX_TEXT:
            raise _too_long()
        return left + right
    if isinstance(left, list) and isinstance(right, list):
        if len(left) + len(right) > MAX_ITEMS:
            raise Problem(f"the list would have more than {MAX_ITEMS:,} items")
        return left + right
    return _calculate("+", left, right, lambda a, b: a + b)


def _calculate(sign: str, left: Json, right: Json, operate: Callable[[float, float], float]) -> Json:
    if not (is_number(left) and is_number(right)):
        remedy = "join texts with ~" if sign == "+" else "only numbers can be calculated with"
        raise Problem(f"{kind_of(left)} {sign} {kind_of(right)} has no answer", remedy)
    for number in (left, right):
        bounded_number(number)  # type: ignore[arg-type] # both are numbers here
    try:
        return bounded_number(operate(left, right))  # type: ignore[arg-type] # both are numbers here
    except ZeroDivisionError:
        raise Problem("division by zero") from None
    except OverflowError:
        raise Problem("the result is too large for a number") from None


def _arithmetic(sign: str, operate: Callable[[float, float], float]) -> Callable[[Json, Json], Json]:
    return lambda left, right: _calculate(sign, left, right, operate)


ARITHMETIC: Mapping[str, Callable[[Json, Json], Json]] = {
    "Add": add,
    "Sub": _arithmetic("-", lambda a, b: a - b),
    "Mul": _arithmetic("*", lambda a, b: a * b),
    "Div": _arithmetic("/", lambda a, b: a / b),
    "FloorDiv": _arithmetic("//", lambda a, b: a // b),
    "Mod": _arithmetic("%", lambda a, b: a % b),
}


def negate(value: Json) -> Json:
    """The number with its sign turned."""
    return _calculate("-", 0, value, lambda a, b: a - b) if value != 0 else positive(value)


def positive(value: Json) -> Json:
    """The number itself."""
    if not is_number(value):
        raise Problem(f"{kind_of(value)} has no sign")
    return value


def concatenate(values: Iterable[Json]) -> str:
    """The values as one text, as ``~`` and texts with several expressions have it."""
    parts, size = [], 0
    for value in values:
        text = text_of(value)
        size += len(text)
        if size > MAX_TEXT:
            raise _too_long()
        parts.append(text)
    return "".join(parts)


# -- filters -----------------------------------------------------------------------------------------------------------


def _text(value: Json, name: str) -> str:
    if not isinstance(value, str):
        raise Problem(f"{name} needs a text, not {kind_of(value)}", "turn it into one with | string")
    return value


def _list(value: Json, name: str) -> list[Json]:
    if not isinstance(value, list):
        raise Problem(f"{name} needs a list, not {kind_of(value)}")
    return value


def _whole(value: Json, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Problem(f"{name} needs a whole number, not {kind_of(value)}")
    return value


def _attribute(item: Json, attribute: Json) -> Json:
    if isinstance(attribute, bool) or not isinstance(attribute, str | int):
        raise Problem(f"{kind_of(attribute)} cannot be an attribute", "name a key, like attribute='name'")
    value: object = item
    for key in attribute.split(".") if isinstance(attribute, str) else [attribute]:
        is_index = isinstance(value, list) and isinstance(key, str) and key.isdecimal() and len(key) < 10
        value = look_up(value, int(key) if is_index else key, "an item")
    return checked(value)


def _attributes(value: list[Json], attribute: Json) -> list[Json]:
    return value if attribute is None else [_attribute(item, attribute) for item in value]


def _comparable(values: list[Json], name: str) -> list[Json]:
    if all(isinstance(value, str) for value in values) or all(is_number(value) for value in values):
        return values
    raise Problem(f"{name} needs only numbers or only texts", "choose what to compare with attribute='...'")


def _length(value: Json) -> Json:
    if isinstance(value, str | list | Mapping):
        return len(value)
    raise Problem(f"{kind_of(value)} has no length")


def _join(value: Json, d: Json = "", attribute: Json = None) -> Json:
    separator = _text(d, "join")
    pieces: list[Json] = []
    for item in _attributes(_list(value, "join"), attribute):
        if pieces and separator:
            pieces.append(separator)
        pieces.append(item)
    return concatenate(pieces)


def _trim(value: Json, chars: Json = None) -> Json:
    return _text(value, "trim").strip(None if chars is None else _text(chars, "trim"))


def _end_of(value: Json, name: str, index: int) -> Json:
    if not isinstance(value, list | str):
        raise Problem(f"{name} needs a list or a text, not {kind_of(value)}")
    if not value:
        raise Missing(f"{kind_of(value)} without items has no {name} one", f"guard it: ... | {name} | default(...)")
    return value[index]


def _sort(value: Json, reverse: Json = False, case_sensitive: Json = True, attribute: Json = None) -> Json:
    items = _list(value, "sort")
    keys = _comparable(_attributes(items, attribute), "sort")
    if not case_sensitive:
        keys = [key.lower() if isinstance(key, str) else key for key in keys]
    # The keys are all texts or all numbers, as _comparable made sure.
    order = sorted(range(len(items)), key=keys.__getitem__, reverse=bool(reverse))  # type: ignore[arg-type]
    return [items[index] for index in order]


def _unique(value: Json, attribute: Json = None) -> Json:
    items = _list(value, "unique")
    seen: set[object] = set()
    chosen = []
    for item, key in zip(items, _attributes(items, attribute), strict=True):
        marker = _marker(key)
        if marker not in seen:
            seen.add(marker)
            chosen.append(item)
    return chosen


def _marker(value: Json) -> object:
    """Something hashable that is the same for equal JSON values: ``1`` and ``1.0``, but not ``1`` and ``true``."""
    if isinstance(value, list):
        return ("list", *map(_marker, value))
    if isinstance(value, Mapping):
        return ("mapping", frozenset((key, _marker(item)) for key, item in value.items()))
    return (isinstance(value, bool), value)


def _sum(value: Json, attribute: Json = None, start: Json = 0) -> Json:
    total = start
    for item in _attributes(_list(value, "sum"), attribute):
        if not is_number(item):
            raise Problem(f"sum needs only numbers, not {kind_of(item)}", "choose what to add with attribute='...'")
        total = add(total, item)
    return total


def _extreme(name: str, choose: Callable[..., int]) -> Callable[..., Json]:
    def extreme(value: Json, attribute: Json = None) -> Json:
        items = _list(value, name)
        if not items:
            raise Missing(f"an empty list has no {name}", f"guard it: ... | {name} | default(...)")
        keys = _comparable(_attributes(items, attribute), name)
        return items[choose(range(len(items)), key=keys.__getitem__)]

    return extreme


def _round(value: Json, precision: Json = 0, method: Json = "common") -> Json:
    number, digits = _number(value, "round"), _whole(precision, "round")
    if not -20 <= digits <= 20:
        raise Problem("round takes between -20 and 20 digits")
    if method == "common":
        return bounded_number(round(float(number), digits)) if digits > 0 else int(round(number, digits))
    if method not in ("ceil", "floor"):
        raise Problem(f"round knows no method {str(method)[:40]!r}", "common, ceil or floor")
    scale = 10.0**digits
    result = (math.ceil if method == "ceil" else math.floor)(number * scale) / scale
    return bounded_number(result) if digits > 0 else int(result)


def _number(value: Json, name: str) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bounded_number(value)
    raise Problem(f"{name} needs a number, not {kind_of(value)}")


_NO_DEFAULT = object()


def _int(value: Json, default: Json = _NO_DEFAULT, base: Json = 10) -> Json:
    try:
        if isinstance(value, str):
            return bounded_number(int(value, _whole(base, "int")))
        if isinstance(value, int | float):
            return bounded_number(int(value))
    except (ValueError, OverflowError, Problem):
        pass
    return _or_default(value, default, "whole number")


def _float(value: Json, default: Json = _NO_DEFAULT) -> Json:
    try:
        if isinstance(value, str | int | float):
            return bounded_number(float(value))
    except (ValueError, OverflowError, Problem):
        pass
    return _or_default(value, default, "number")


def _or_default(value: Json, default: Json, wanted: str) -> Json:
    if default is not _NO_DEFAULT:
        return default
    shown = repr(value[:40]) if isinstance(value, str) else kind_of(value)
    raise Problem(f"{shown} cannot be read as a {wanted}", "give a default, like int(0)")


def _to_list(value: Json) -> Json:
    if isinstance(value, str | list):
        if len(value) > MAX_ITEMS:
            raise Problem(f"the list would have more than {MAX_ITEMS:,} items")
        return list(value)
    raise Problem(f"{kind_of(value)} is no list", "use keys, values or items for a mapping")


def _mapping(value: Json, name: str) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise Problem(f"{name} needs a mapping, not {kind_of(value)}")
    return value


def _merge(value: Json, *others: Json) -> Json:
    """One mapping of all, the later ones winning; null, as of a skipped step, adds nothing."""
    merged = dict(_mapping(value, "merge"))
    for other in others:
        merged.update(_mapping({} if other is None else other, "merge"))
    return merged


def _pick(value: Json, *names: Json) -> Json:
    """The keys of a mapping that are named, as far as they are there."""
    found = _mapping(value, "pick")
    return {name: found[name] for name in names if isinstance(name, str) and name in found}


def _from_json(value: Json) -> Json:
    text = bounded(_text(value, "fromjson"))
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise Problem("the JSON text is nested too deeply") from None
    except ValueError as error:
        raise Problem(f"not JSON: {error}") from None


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number too large for a float")
    return number


def _replace(value: Json, old: Json, new: Json, count: Json = None) -> Json:
    text, before, after = _text(value, "replace"), _text(old, "replace"), _text(new, "replace")
    most = -1 if count is None else _whole(count, "replace")
    found = text.count(before)
    hits = found if most < 0 else min(found, most)
    if len(text) + hits * (len(after) - len(before)) > MAX_TEXT:
        raise _too_long()
    return text.replace(before, after, most)


def _split(value: Json, sep: Json = None, maxsplit: Json = -1) -> Json:
    separator = None if sep is None else _text(sep, "split")
    if separator == "":
        raise Problem("split needs a separator that is not empty", "use | list for single characters")
    parts = bounded(_text(value, "split")).split(separator, _whole(maxsplit, "split"))
    if len(parts) > MAX_ITEMS:
        raise Problem(f"the list would have more than {MAX_ITEMS:,} items")
    return list(parts)


def _reverse(value: Json) -> Json:
    if isinstance(value, list | str):
        return value[::-1]
    raise Problem(f"reverse needs a list or a text, not {kind_of(value)}")


def _map(value: Json, *arguments: Json, attribute: Json = None, default: Json = _NO_DEFAULT) -> Json:
    items = _list(value, "map")
    if attribute is not None:
        return [_attribute_or(item, attribute, default) for item in items]
    if not arguments:
        raise Problem("map needs attribute='...' or the name of a filter")
    name, *rest = arguments
    operate = inner_operation("filter", name)
    results, size = [], 0
    for item in items:
        result = operate(item, *rest)
        size += len(result) if isinstance(result, str) else 0
        if size > 16 * MAX_TEXT:
            raise Problem(f"map would make more than {16 * MAX_TEXT:,} characters")
        results.append(result)
    return results


def _attribute_or(item: Json, attribute: Json, default: Json) -> Json:
    try:
        return _attribute(item, attribute)
    except Missing:
        if default is _NO_DEFAULT:
            raise
        return default


def _selector(*, keep: bool, by_attribute: bool) -> Callable[..., Json]:
    def select(value: Json, *arguments: Json) -> Json:
        items = _list(value, "select")
        if by_attribute and not arguments:
            raise Problem("selectattr and rejectattr need the name of an attribute")
        attribute, rest = (arguments[0], arguments[1:]) if by_attribute else (None, arguments)
        test = inner_operation("test", rest[0]) if rest else bool

        def holds(item: Json) -> bool:
            # An item without the attribute is no match rather than an error: lists of mappings are often uneven.
            subject = item if attribute is None else _attribute_or(item, attribute, None)
            return bool(test(subject, *rest[1:]))

        return [item for item in items if holds(item) == keep]

    return select


def _default(value: Json, default_value: Json = "", boolean: Json = False) -> Json:
    """The value, unless it is null (or missing, which the grammar turns into null), or false-like when asked."""
    return default_value if value is None or (boolean and not value) else value


FILTERS: Mapping[str, Callable[..., Json]] = {
    "abs": lambda value: abs(_number(value, "abs")),
    "default": _default,
    "first": lambda value: _end_of(value, "first", 0),
    "float": _float,
    "fromjson": _from_json,
    "int": _int,
    "items": lambda value: [[key, item] for key, item in _mapping(value, "items").items()],
    "join": _join,
    "keys": lambda value: list(_mapping(value, "keys")),
    "last": lambda value: _end_of(value, "last", -1),
    "length": _length,
    "list": _to_list,
    "lower": lambda value: bounded(_text(value, "lower").lower()),
    "map": _map,
    "max": _extreme("max", max),
    "merge": _merge,
    "min": _extreme("min", min),
    "pick": _pick,
    "reject": _selector(keep=False, by_attribute=False),
    "rejectattr": _selector(keep=False, by_attribute=True),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "select": _selector(keep=True, by_attribute=False),
    "selectattr": _selector(keep=True, by_attribute=True),
    "sort": _sort,
    "split": _split,
    "string": text_of,
    "sum": _sum,
    "tojson": lambda value, indent=None: to_json(value, indent=_indent(indent)),
    "trim": _trim,
    "unique": _unique,
    "upper": lambda value: bounded(_text(value, "upper").upper()),
    "values": lambda value: list(_mapping(value, "values").values()),
}
"""Name -> what it does to the value before the bar."""

_NOT_NESTED = frozenset(("map", "select", "selectattr", "reject", "rejectattr"))


def _indent(value: Json) -> int | None:
    if value is None:
        return None
    indent = _whole(value, "tojson")
    if not 0 <= indent <= 8:
        raise Problem("tojson takes an indent of 0 to 8")
    return indent


# -- tests -------------------------------------------------------------------------------------------------------------


def _divisible(value: Json, num: Json) -> Json:
    return ARITHMETIC["Mod"](value, num) == 0


TESTS: Mapping[str, Callable[..., Json]] = {
    "boolean": lambda value: isinstance(value, bool),
    "defined": lambda value: True,  # the grammar answers False for what is missing, before asking
    "divisibleby": _divisible,
    "empty": lambda value: _length(value) == 0,
    "endswith": lambda value, end: _text(value, "endswith").endswith(_text(end, "endswith")),
    "eq": equal,
    "equalto": equal,
    "even": lambda value: _divisible(value, 2),
    "false": lambda value: value is False,
    "float": lambda value: isinstance(value, float),
    "ge": COMPARISONS["gteq"],
    "gt": COMPARISONS["gt"],
    "in": contains,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "le": COMPARISONS["lteq"],
    "list": lambda value: isinstance(value, list),
    "lt": COMPARISONS["lt"],
    "mapping": lambda value: isinstance(value, Mapping),
    "ne": COMPARISONS["ne"],
    "none": lambda value: value is None,
    "null": lambda value: value is None,
    "number": is_number,
    "odd": lambda value: not _divisible(value, 2),
    "sequence": lambda value: isinstance(value, list | str),
    "startswith": lambda value, start: _text(value, "startswith").startswith(_text(start, "startswith")),
    "string": lambda value: isinstance(value, str),
    "true": lambda value: value is True,
    "undefined": lambda value: False,  # the grammar answers True for what is missing, before asking
}
"""Name -> predicate, for ``is``, ``select`` and ``selectattr``."""


@attrs.frozen
class Operation:
    """A filter or test with what it may be given.

    Attributes:
        function: What it does.
        signature: Its parameters, the value first.
    """

    function: Callable[..., Json]
    signature: inspect.Signature


@cache
def operation(what: str, name: str) -> Operation:
    """The filter or test of that name.

    Args:
        what: ``filter`` or ``test``.
        name: Its name.

    Raises:
        Problem: There is none.
    """
    table = FILTERS if what == "filter" else TESTS
    if name not in table:
        raise Problem(f"there is no {what} {name[:60]!r}", f"{_suggest(name, table)}there is: {', '.join(sorted(table))}")
    return Operation(table[name], inspect.signature(table[name]))


def inner_operation(what: str, name: Json) -> Callable[..., Json]:
    """The filter or test that another filter applies to each item, as in ``map('upper')``.

    Raises:
        Problem: There is none, or it would go through lists of lists.
    """
    if name in _NOT_NESTED:
        raise Problem(f"{name!r} cannot be used within another filter")
    return operation(what, name if isinstance(name, str) else kind_of(name)).function
