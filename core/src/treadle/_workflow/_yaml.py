"""YAML to plain data by its events, with the place of each key; and back.

The parser (libyaml, through PyYAML) never builds a tree, so a bomb ends at the limits of depth and size. Tags, anchors,
aliases and merge keys are refused. Types follow YAML 1.2's core schema: ``no`` and dates stay text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import yaml

from treadle._models import Json
from treadle._workflow._places import MAX_DEPTH, MAX_FAULTS, MAX_NODES, NOTHING, Places, Unreadable, place_in, spell_path
from treadle.errors import Fault

# The C parser is twenty times as fast; both give the same events, and only events are taken: nothing is constructed.
_PARSER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

_OTHER_BREAKS = re.compile("[\x85\u2028\u2029]")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: Mapping[str, Json] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_BEGINS_NUMBER = frozenset("+-.0123456789")


def read_yaml(text: str, faults: list[Fault]) -> Json:
    """The data of a text with one document.

    Args:
        text: The whole text.
        faults: Where faults are added that do not hide the rest.

    Raises:
        Unreadable: It cannot be read any further.
    """
    return _Composer(text, faults, places=None).compose()


def locate_yaml(text: str) -> Places:
    """Where every key and item is; of a text that cannot be read, what comes before the fault."""
    places: Places = {}
    try:
        _Composer(text, [], places=places).compose()
    except Unreadable:
        return places
    return places


class _Composer:
    """Builds plain data from events. Going down is going into a function, since MAX_DEPTH bounds it."""

    def __init__(self, text: str, faults: list[Fault], *, places: Places | None) -> None:
        self._text, self._faults, self._places = text, faults, places
        self._nodes = 0
        self._path: list[str | int] = []

    def compose(self) -> Json:
        """The data of the one document."""
        other = _OTHER_BREAKS.search(self._text)
        if other:
            message = f"U+{ord(other[0]):04X}, which old YAML takes for a line break"
            raise self._unreadable(message, other.start(), "write it as an escape, in double quotes")
        try:
            return self._document(yaml.parse(self._text, Loader=_PARSER))
        except yaml.MarkedYAMLError as error:
            raise self._syntax_error(error) from None
        except yaml.reader.ReaderError as error:
            raise self._unreadable("a character that YAML does not allow", int(error.position)) from None
        except UnicodeEncodeError as error:
            raise self._unreadable("half a character (a lone surrogate)", error.start) from None

    def _document(self, events: Iterator[yaml.Event]) -> Json:
        self._events = events
        root: Json = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._fault(event, "a second document in one file", "keep one workflow in a file")
                    break
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, 1, self._places)
        return root

    def _node(self, event: yaml.Event, depth: int, places: Places | None) -> Json:
        """The value that begins with an event; ``places`` takes what lies within it."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._stop(event, f"more than {MAX_NODES:,} values")
        if event.anchor is not None:  # type: ignore[attr-defined] # every event here is a NodeEvent; asking costs time
            self._refuse_anchor(event)
            if isinstance(event, yaml.AliasEvent):
                return None
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if event.tag is not None:  # type: ignore[attr-defined] # scalars and aliases are gone, so it is a collection
            self._fault(event, "tags have no meaning here", "leave it out")
        if depth > MAX_DEPTH:
            raise self._stop(event, f"nested deeper than {MAX_DEPTH} levels")
        return self._mapping(depth, places) if isinstance(event, yaml.MappingStartEvent) else self._sequence(depth, places)

    def _mapping(self, depth: int, places: Places | None) -> dict[str, Json]:
        result: dict[str, Json] = {}
        events, path = self._events, self._path
        path.append("")
        for event in events:
            if type(event) is yaml.MappingEndEvent:
                break
            key = self._key(event, depth, result)
            path[-1] = "?" if key is None else key
            value = next(events)
            inner = None if places is None or key is None else _note(places, key, event, value)
            data = self._node(value, depth + 1, inner)
            if key is not None:
                result[key] = data
        path.pop()
        return result

    def _sequence(self, depth: int, places: Places | None) -> list[Json]:
        result: list[Json] = []
        path = self._path
        path.append(0)
        for index, event in enumerate(self._events):
            if type(event) is yaml.SequenceEndEvent:
                break
            path[-1] = index
            inner = None if places is None else _note(places, index, event, event)
            result.append(self._node(event, depth + 1, inner))
        path.pop()
        return result

    def _key(self, event: yaml.Event, depth: int, taken: Mapping[str, Json]) -> str | None:
        """A key, which is always text; None when it is refused, so that its value is read and dropped."""
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, depth + 1, None)
            if isinstance(event, yaml.AliasEvent):
                return None
            if "{{" in self._line(_place(event)[0] - 1):
                self._fault(event, "{{ }} without quotes reads as a mapping", 'write "${{ ... }}", in quotes')
            else:
                self._fault(event, "a key is a text, not a mapping or a list")
            return None
        if event.anchor is not None:
            self._refuse_anchor(event)
        if event.tag is not None:
            self._fault(event, "tags have no meaning here", "leave it out")
        key = event.value
        if key == "<<" and event.implicit[0]:
            self._fault(event, "merge keys have no meaning here", "write the keys out")
            return None
        if key in taken:
            self._path[-1] = key
            self._fault(event, f"the key {key[:60]!r} is there twice", "keep one of the two")
            return None
        return key

    def _scalar(self, event: yaml.ScalarEvent) -> Json:
        if event.tag is not None:
            self._fault(event, "tags have no meaning here", "leave it out; a text is put in quotes")
        value = event.value
        if not event.implicit[0]:  # it is in quotes, or a block
            return value
        if value in _WORDS:
            return _WORDS[value]
        return self._number(event, value) if value[0] in _BEGINS_NUMBER else value

    def _number(self, event: yaml.ScalarEvent, value: str) -> Json:
        """A number, or the text when it only begins like one."""
        if _INTEGER.fullmatch(value):
            if _LEADING_ZERO.fullmatch(value):
                self._fault(event, f"{value[:40]} is not clear", "put it in quotes for a text, or leave out the zeros")
            elif len(value) <= 100:
                return int(value, 0)
            else:
                self._fault(event, f"a number of {len(value):,} digits", "put it in quotes")
            return None
        if _NOT_FINITE.fullmatch(value):
            self._fault(event, f"{value} is no JSON number", "put it in quotes for a text")
            return None
        if not _FLOAT.fullmatch(value):
            return value
        number = float(value)
        if not math.isfinite(number):
            self._fault(event, f"{value[:40]} is too large for a number", "put it in quotes for a text")
            return None
        return number

    # faults

    def _fault(self, event: yaml.Event, message: str, remedy: str = "") -> None:
        line, column = _place(event)
        self._faults.append(Fault(message, spell_path(self._path), remedy, line=line, column=column))
        if len(self._faults) >= MAX_FAULTS:
            raise self._stop(event, "more faults than these")

    def _refuse_anchor(self, event: yaml.Event) -> None:
        what = "aliases (*name)" if isinstance(event, yaml.AliasEvent) else "anchors (&name)"
        self._fault(event, f"{what} have no meaning here", "write the value out; a text with this sign is put in quotes")

    def _stop(self, event: yaml.Event, message: str) -> Unreadable:
        line, column = _place(event)
        return Unreadable(Fault(message, line=line, column=column))

    def _unreadable(self, message: str, offset: int, remedy: str = "") -> Unreadable:
        line, column = place_in(self._text, offset)
        return Unreadable(Fault(message, remedy=remedy, line=line, column=column))

    def _syntax_error(self, error: yaml.MarkedYAMLError) -> Unreadable:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.problem, error.context) if part) or "it cannot be parsed"
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        has_braces = mark is not None and any("{{" in self._line(number) for number in (mark.line - 1, mark.line))
        remedy = "put values with ${{ }} in quotes" if has_braces else ""
        return Unreadable(Fault(f"not YAML: {message}", remedy=remedy, line=line, column=column))

    def _line(self, number: int) -> str:
        lines = self._text.split("\n", number + 1)
        return lines[number] if 0 <= number < len(lines) else ""


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None  # only events that a program makes have none
    return mark.line + 1, mark.column + 1


def _note(places: Places, key: str | int, event: yaml.Event, value: yaml.Event) -> Places:
    """Note where a key or item is; the answer takes what lies within its value."""
    inner: Places = {} if isinstance(value, yaml.CollectionStartEvent) else NOTHING
    places[key] = (*_place(event), inner)
    return inner


# -- writing -----------------------------------------------------------------------------------------------------------


class _Writer(yaml.SafeDumper):
    """PyYAML's writer, with every text in quotes that any YAML might read as something else, and no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_PLAIN = re.compile(r"[A-Za-z_/][\w ./@+-]*(?<! )|(?:\d+(?:ms|[dhms]))+", re.ASCII)
_OLD_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def _write_text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" in text and text.strip() == text.rstrip("\n") and all(char.isprintable() or char == "\n" for char in text):
        style: str | None = "|"
    else:
        style = None if _PLAIN.fullmatch(text) and text.lower() not in _OLD_WORDS else '"'
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _write_text)


def write_yaml(data: Json) -> str:
    """YAML that reads back as the same data, in block style."""
    return yaml.dump(data, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
