"""Text of a workflow file to plain data and back: YAML, JSON, TOML."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable

import attrs

from treadle._models import Json
from treadle._workflow._places import MAX_DEPTH, MAX_FAULTS, NOTHING, Places, TextPositions, Unreadable, place_in
from treadle.errors import Fault, NotSupportedError

MAX_BYTES = 4 << 20
"""Size of a file."""

MAX_TOML_BYTES = 2 << 20
"""Size of a TOML file: its parser takes more time and memory for each byte than the others."""


@attrs.frozen
class Document:
    """What a text says.

    Attributes:
        data: Plain data; None when a fault hides it.
        positions: Where things are.
        faults: What is wrong with the text itself.
        is_readable: Whether ``data`` is what the text says, faults apart.
    """

    data: Json
    positions: TextPositions
    faults: tuple[Fault, ...]
    is_readable: bool


def read_document(text: str, format: str, *, file: str = "") -> Document:
    """Read a text.

    Args:
        text: The whole text.
        format: ``yaml``, ``json`` or ``toml``.
        file: Name of the file, for the faults.
    """
    read, locate = FORMATS[format]
    faults: list[Fault] = []
    data, is_readable = None, True
    try:
        if len(text) > MAX_BYTES:
            raise Unreadable(Fault(f"the file is larger than {MAX_BYTES >> 20} MiB"))
        data = read(text, faults)
    except Unreadable as error:
        faults.append(error.fault)
        is_readable = False
    placed = tuple(attrs.evolve(fault, file=file) for fault in faults)
    return Document(data, TextPositions(text, locate), placed, is_readable)


# -- YAML, whose parser is imported only for a file that needs it --------------------------------------------------------


def _read_yaml(text: str, faults: list[Fault]) -> Json:
    from treadle._workflow._yaml import read_yaml  # brings PyYAML, which a run from Python should not pay for

    return read_yaml(text, faults)


def _locate_yaml(text: str) -> Places:
    from treadle._workflow._yaml import locate_yaml  # brings PyYAML, which a run from Python should not pay for

    return locate_yaml(text)


def write_yaml(data: Json) -> str:
    """YAML that reads back as the same data."""
    from treadle._workflow import _yaml  # brings PyYAML, which a run from Python should not pay for

    return _yaml.write_yaml(data)


# -- JSON --------------------------------------------------------------------------------------------------------------

_JSON_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([{}\[\],:])|[^\s{}\[\],:"]+', re.DOTALL)


def _read_json(text: str, faults: list[Fault]) -> Json:
    has_doubles = False

    def unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        nonlocal has_doubles
        result = dict(pairs)
        has_doubles = has_doubles or len(result) != len(pairs)
        return result

    try:
        data: Json = json.loads(text, object_pairs_hook=unique, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Unreadable(Fault(f"not JSON: {error.msg}", line=error.lineno, column=error.colno)) from None
    except RecursionError:
        raise Unreadable(Fault("nested too deeply")) from None
    except ValueError as error:  # a number: too many digits, infinite or NaN
        raise Unreadable(Fault(f"not JSON: {error}")) from None
    if has_doubles:  # only now is it worth finding out where
        _JsonLocator(text, faults).locate()
    return data


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _locate_json(text: str) -> Places:
    return _JsonLocator(text, []).locate()


class _JsonLocator:
    """Finds where each key of a valid JSON text is, and the keys that are there twice."""

    def __init__(self, text: str, faults: list[Fault]) -> None:
        self._text, self._faults = text, faults
        self._line, self._line_start, self._position = 1, 0, 0

    def locate(self) -> Places:
        """The places; of a text that is not valid, what comes before the fault."""
        root: Places = {}
        # What is open: its places, and whether it is a mapping. ``inner`` takes what lies within the value that comes next.
        places, is_mapping, inner = root, True, root
        stack: list[tuple[Places, bool]] = []
        expects_key = False
        for token in _JSON_TOKEN.finditer(self._text):
            sign = token[2]
            if sign is None and expects_key:
                inner = self._note_key(places, token)
            elif sign == ":" or sign == ",":
                expects_key = is_mapping and sign == ","
            elif sign == "}" or sign == "]":
                if not stack:
                    break
                places, is_mapping = stack.pop()
            else:
                if not is_mapping:
                    inner = {} if sign else NOTHING
                    places[len(places)] = (*self._place(token), inner)
                if sign:
                    stack.append((places, is_mapping))
                    places, is_mapping = inner, sign == "{"
                    expects_key = is_mapping
        return root

    def _note_key(self, places: Places, token: re.Match[str]) -> Places:
        key, inner = str(json.loads(token[0])), Places()
        line, column = self._place(token)
        if key in places:
            if len(self._faults) >= MAX_FAULTS:
                raise Unreadable(Fault("more faults than these", line=line, column=column))
            message = f"the key {key[:60]!r} is there twice"
            self._faults.append(Fault(message, key[:60], "keep one of the two", line=line, column=column))
        else:
            places[key] = (line, column, inner)
        return inner

    def _place(self, token: re.Match[str]) -> tuple[int, int]:
        start = token.start()
        breaks = self._text.count("\n", self._position, start)
        if breaks:
            self._line += breaks
            self._line_start = self._text.rfind("\n", 0, start) + 1
        self._position = start
        return self._line, start - self._line_start + 1


# -- TOML --------------------------------------------------------------------------------------------------------------

_TOML_PLACE = re.compile(r"\(at line (\d+), column (\d+)\)|\(at end of document\)")
_TOML_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_TOML_KEYS = rf"{_TOML_KEY}(?:[ \t]*\.[ \t]*{_TOML_KEY})*"
# The parser takes quadratic time for keys of many parts, so those are looked for first, outside of texts and comments.
_TOML_TEXT = re.compile(
    r'''""".*?(?<!\\)"""|\'{3}.*?\'{3}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*''',
    re.DOTALL,
)
_TOML_LONG_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_DEPTH},}}")
_TOML_LINE = re.compile(rf"^[ \t]*(?:\[({_TOML_KEYS})\]|({_TOML_KEYS})[ \t]*=)", re.MULTILINE)


def _read_toml(text: str, faults: list[Fault]) -> Json:
    if len(text) > MAX_TOML_BYTES:
        raise Unreadable(Fault(f"the file is larger than {MAX_TOML_BYTES >> 20} MiB", remedy="write it as YAML or JSON"))
    long = _TOML_LONG_KEY.search(_TOML_TEXT.sub(_same_length, text))
    if long:
        line, column = place_in(text, long.start())
        raise Unreadable(Fault(f"a key of more than {MAX_DEPTH} parts", line=line, column=column))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        line, column = (int(place[1]), int(place[2])) if place and place[1] else place_in(text, len(text))
        message = _TOML_PLACE.sub("", str(error)).strip()
        raise Unreadable(Fault(f"not TOML: {message}", line=line, column=column)) from None
    except RecursionError:
        raise Unreadable(Fault("nested too deeply")) from None
    except ValueError as error:  # a number of thousands of digits
        raise Unreadable(Fault(f"not TOML: {error}")) from None


def _same_length(text: re.Match[str]) -> str:
    return "q" * len(text[0])


def _locate_toml(text: str) -> Places:
    """Where keys are, by their lines: what stands in inline tables and lists has the place of its key."""
    root: Places = {}
    table: list[str] = []
    line = position = 0
    for found in _TOML_LINE.finditer(text):
        start = found.start(1 if found[1] else 2)
        line += text.count("\n", position, start)
        position = start
        here = (line + 1, start - text.rfind("\n", 0, start))
        keys = [_toml_key(key) for key in re.findall(_TOML_KEY, found[1] or found[2])]
        if found[1]:
            table = keys
            _set_place(root, table, here)
        else:
            _set_place(root, [*table, *keys], here)
    return root


def _toml_key(spelled: str) -> str:
    if spelled.startswith('"'):
        try:
            return str(json.loads(spelled))
        except ValueError:
            return spelled[1:-1]
    return spelled[1:-1] if spelled.startswith("'") else spelled


def _set_place(root: Places, keys: list[str], here: tuple[int, int]) -> None:
    places = root
    for key in keys[:-1]:
        places = places.setdefault(key, (*here, {}))[2]
    if keys[-1] not in places:
        places[keys[-1]] = (*here, {})


def write_toml(data: dict[str, Json]) -> str:
    """TOML that reads back as the same data.

    Raises:
        NotSupportedError: It holds a null, which TOML cannot say, or ``tomli-w`` is not installed.
    """
    try:
        import tomli_w  # optional: few people write TOML by program
    except ImportError:
        raise NotSupportedError(
            "Writing TOML needs the package tomli-w.", "Run 'pip install treadle[toml]', or write YAML."
        ) from None
    try:
        return tomli_w.dumps(data, multiline_strings=False)
    except TypeError as error:
        raise NotSupportedError(f"TOML cannot say this workflow: {error}.", "Write YAML or JSON, which have null.") from None


FORMATS: dict[str, tuple[Callable[[str, list[Fault]], Json], Callable[[str], Places]]] = {
    "yaml": (_read_yaml, _locate_yaml),
    "json": (_read_json, _locate_json),
    "toml": (_read_toml, _locate_toml),
}
"""Format -> what reads a text, and what finds where things are in it."""
