"""Steps that wait: for a time, or for a signal. How they are written, and what they come to once a run reaches them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import cast

import attrs

from treadle._durations import format_duration, parse_duration
from treadle._expressions import Reference, Value, compile_value, split_text
from treadle._models import Json, OnReject, OnTimeout
from treadle._payload_schema import APPROVAL, schema_faults
from treadle.errors import ExpressionError

__all__ = ["PlannedWait", "Wait", "moment_text", "parse_moment", "wait_faults"]

SIGNAL_NAME = r"[A-Za-z_][A-Za-z0-9_.:/-]*"
"""How a signal is spelled."""

MAX_NAME = 200
"""Longest name of a signal."""

_NAME = re.compile(SIGNAL_NAME)
_KINDS = ("duration", "until", "signal")
_OF_SIGNALS = ("schema", "timeout", "on_timeout", "default", "on_reject")
_EARLIEST, _LATEST = 0.0, 32_503_680_000.0  # 1970 and 3000
_ZONE_REMEDY = "write it like '2026-12-01T09:00+01:00' or '2026-12-01T08:00Z'"


@attrs.frozen
class Wait:
    """What a step waits for; texts may hold expressions.

    Attributes:
        duration: Seconds, or an expression for a duration; None unless it waits for so long.
        until: A moment (ISO 8601 with its offset from UTC), or an expression for one; None unless it waits until then.
        signal: Name of the signal; empty unless it waits for one.
        schema: What the signal's payload must be; None for anything. The word ``approval`` stands for ``APPROVAL``.
        timeout: Longest wait for the signal, as ``duration``; None for none.
        on_timeout: What becomes of the step then.
        default: Its output then, with ``continue``.
        on_reject: What becomes of the step when an approval says no.
    """

    duration: float | str | None = None
    until: Json = None
    signal: str = ""
    schema: Json = None
    timeout: float | str | None = None
    on_timeout: OnTimeout = "fail"
    default: Json = None
    on_reject: OnReject = "fail"

    @classmethod
    def read(cls, data: Json) -> Wait:
        """The wait that plain data stand for; ``wait_faults`` finds nothing in them."""
        if not isinstance(data, Mapping):
            return cls(duration=_seconds_or_text(data))
        return cls(
            duration=_seconds_or_text(data.get("duration")),
            until=data.get("until"),
            signal=str(data.get("signal", "")).strip(),
            schema=data.get("schema"),
            timeout=_seconds_or_text(data.get("timeout")),
            on_timeout=data.get("on_timeout", "fail"),
            default=data.get("default"),
            on_reject=data.get("on_reject", "fail"),
        )

    def to_data(self) -> Json:
        """Plain data in canonical form: equal for every spelling of the same wait."""
        if self.duration is not None:
            return _duration_data(self.duration)
        if not self.signal:
            return {"until": self.until}
        data = {
            "signal": self.signal,
            "schema": self.schema,
            "timeout": None if self.timeout is None else _duration_data(self.timeout),
            "on_timeout": None if self.on_timeout == "fail" else self.on_timeout,
            "default": self.default,
            "on_reject": None if self.on_reject == "fail" else self.on_reject,
        }
        return {key: value for key, value in data.items() if value is not None}

    @property
    def payload_schema(self) -> Mapping[str, Json] | bool:
        """The schema that payloads are held to."""
        if self.schema == "approval":
            return APPROVAL
        return True if self.schema is None else cast("Mapping[str, Json] | bool", self.schema)

    @property
    def is_approval(self) -> bool:
        """Whether it waits for a yes or no: ``treadle approve`` and ``reject`` answer it."""
        schema = self.payload_schema
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        return bool(self.signal) and isinstance(properties, Mapping) and "approved" in properties


@attrs.frozen
class PlannedWait:
    """A wait with its expressions parsed.

    Attributes:
        wait: What was written.
        references: What its expressions look up.
    """

    wait: Wait
    references: tuple[Reference, ...]
    _values: Value
    _name: re.Pattern[str]

    @classmethod
    def compile(cls, wait: Wait, *, braces: bool = False) -> PlannedWait:
        """Parse the expressions of a wait.

        Raises:
            ExpressionError: One cannot be parsed.
        """
        written: Json = {
            "duration": wait.duration,
            "until": wait.until,
            "signal": wait.signal,
            "timeout": wait.timeout,
            "default": wait.default,
        }
        values = compile_value(written, braces=braces)
        return cls(wait, values.references, values, _name_pattern(wait.signal, braces=braces))

    @property
    def secret_names(self) -> frozenset[str]:
        """The secrets that it takes; it may take none."""
        return self._values.secret_names

    def may_be_for(self, signal: str) -> bool:
        """Whether it may wait for a signal of this name, whatever the values of the run are."""
        return bool(self.wait.signal) and self._name.fullmatch(signal) is not None

    def resolve(self, names: Mapping[str, object], at: float) -> dict[str, Json]:
        """What the scheduler is told of the wait: ``due``, ``signal``, ``on_timeout``, ``default``, ``on_reject``.

        Args:
            names: What expressions see.
            at: When the step begins to wait.

        Raises:
            ExpressionError: A value is no duration, moment or name.
        """
        values = cast("dict[str, Json]", self._values.render(names))
        if self.wait.duration is not None:
            return {"due": at + _span(values["duration"], "duration")}
        if not self.wait.signal:
            return {"due": _moment(values["until"])}
        answer: dict[str, Json] = {"signal": _signal_name(values["signal"])}
        if self.wait.timeout is not None:
            answer["due"] = at + _span(values["timeout"], "timeout")
            answer["on_timeout"] = self.wait.on_timeout
        if self.wait.on_timeout == "continue":
            answer["default"] = values["default"]
        if self.wait.is_approval and self.wait.on_reject == "fail":
            answer["on_reject"] = "fail"
        return answer


def _name_pattern(signal: str, *, braces: bool) -> re.Pattern[str]:
    parts = split_text(signal, braces=braces) if signal else []
    return re.compile("".join(re.escape(text) if kind == "text" else ".*" for kind, text in parts), re.DOTALL)


# -- reading -------------------------------------------------------------------------------------------------------------


def wait_faults(data: Json) -> Iterator[tuple[str, str, str]]:
    """Everything that is wrong with a wait as it is written: key (empty for the whole), problem, remedy.

    Expressions are looked at by whoever reads the file.
    """
    if not isinstance(data, Mapping):
        yield from _duration_faults("", data)
        return
    kinds = [kind for kind in _KINDS if kind in data]
    if len(kinds) != 1:
        named = " and ".join(repr(kind) for kind in kinds)
        problem = f"a wait has exactly one of {named}" if kinds else "a wait needs a 'duration', an 'until' or a 'signal'"
        yield "", problem, "make two steps of it" if kinds else "write wait: 5m, or wait: {signal: NAME}"
    known = (*_KINDS, *_OF_SIGNALS)
    for key in data:
        if key not in known:
            yield str(key)[:60], f"{str(key)[:60]!r} is not a key of a wait", f"keys: {', '.join(known)}"
        elif key in _OF_SIGNALS and "signal" not in data:
            yield str(key), f"{key!r} belongs to a wait for a signal, and there is none", ""
    yield from _value_faults(data)


def _value_faults(data: Mapping[str, Json]) -> Iterator[tuple[str, str, str]]:
    for key in ("duration", "timeout"):
        if key in data:
            yield from _duration_faults(key, data[key])
    if "until" in data and not _is_expression(data["until"]):
        try:
            parse_moment(data["until"])
        except ValueError as error:
            yield "until", *_parted(error)
    if "signal" in data and not _is_expression(data["signal"]):
        try:
            _signal_name(data["signal"])
        except ExpressionError as error:
            yield "signal", error.problem.partition(": ")[2] or error.problem, error.remedy
    for key, words in (("on_timeout", ("fail", "skip", "continue")), ("on_reject", ("fail", "continue"))):
        if key in data and data[key] not in words:
            yield key, f"expected {' or '.join(map(repr, words))}, not {data[key]!r}"[:200], ""
    if "on_timeout" in data and "timeout" not in data:
        yield "on_timeout", "there is no 'timeout'", "add one, like timeout: 2d"
    if "default" in data and data.get("on_timeout") != "continue":
        yield "default", "a default is the output after a timeout with on_timeout: continue", "add that, or leave it out"
    schema = data.get("schema")
    if schema != "approval" and "schema" in data:
        for place, problem in schema_faults(schema):
            yield f"schema.{place}" if place else "schema", problem, ""
    if "on_reject" in data and not Wait(signal="s", schema=schema).is_approval:
        yield "on_reject", "only an approval can be rejected", "add schema: approval"


def _duration_faults(key: str, value: Json) -> Iterator[tuple[str, str, str]]:
    if _is_expression(value):
        return
    try:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ValueError("expected a duration; write it like '90s' or '5m'")
        if parse_duration(value) <= 0 and key == "timeout":
            raise ValueError("a timeout is more than no time; leave it out for none")
    except ValueError as error:
        yield key, *_parted(error)


def _parted(error: ValueError) -> tuple[str, str]:
    problem, _, remedy = str(error).partition("; ")
    return problem, remedy


def _is_expression(value: Json) -> bool:
    return isinstance(value, str) and "{{" in value


def _seconds_or_text(value: Json) -> float | str | None:
    if value is None or (isinstance(value, str) and _is_expression(value)):
        return None if value is None else value.strip()
    return parse_duration(cast("str | float", value))


def _duration_data(value: float | str) -> Json:
    """A duration as people write it, when that reads back the same; else the number of seconds."""
    if isinstance(value, str):
        return value
    text = format_duration(value)
    return text if parse_duration(text) == value else value


# -- values --------------------------------------------------------------------------------------------------------------


def _span(value: Json, what: str) -> float:
    try:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ValueError(f"expected a duration, not {_called(value)}; write it like '90s' or '5m'")
        return parse_duration(value)
    except ValueError as error:
        problem, remedy = _parted(error)
        raise ExpressionError(what, problem, remedy) from None


def _called(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a mapping" if isinstance(value, Mapping) else "a list"


def _moment(value: Json) -> float:
    try:
        return parse_moment(value)
    except ValueError as error:
        problem, remedy = _parted(error)
        raise ExpressionError("until", problem, remedy) from None


def _signal_name(value: Json) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME or not _NAME.fullmatch(value):
        shown = value[:60] if isinstance(value, str) else value if isinstance(value, int | float) else type(value).__name__
        remedy = "letters, digits and _ . : / -, no digit first, at most 200"
        raise ExpressionError("signal", f"{shown!r} is not the name of a signal", remedy)
    return value


def parse_moment(value: object) -> float:
    """Seconds since the epoch of a moment: ISO 8601 with its offset from UTC, or the number itself.

    Raises:
        ValueError: It is none; the message ends with the remedy.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        at = float(value) if abs(value) < 1e12 else math.inf
    elif isinstance(value, str) and len(value) <= 100:
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"{value!r} is no moment; {_ZONE_REMEDY}") from None
        if moment.tzinfo is None:
            raise ValueError(f"{value!r} does not say its offset from UTC; {_ZONE_REMEDY}")
        at = moment.timestamp()
    else:
        raise ValueError(f"expected a moment; {_ZONE_REMEDY}")
    if not _EARLIEST <= at <= _LATEST:
        raise ValueError(f"{value!r} is not between 1970 and 3000; {_ZONE_REMEDY}")
    return at


def moment_text(at: float) -> str:
    """A moment as text: ``2026-12-01T08:00:00Z``, to the millisecond where there are any."""
    moment = datetime.fromtimestamp(round(at, 3), UTC)
    spec = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=spec).replace("+00:00", "Z")
