"""Durations as people write them: ``90s``, ``1h30m``, ``250ms``, ISO 8601 ``PT5M``, or a bare number of seconds."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_UNITS_S = {
    "w": Decimal(604_800),
    "d": Decimal(86_400),
    "h": Decimal(3_600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_NUMBER = r"\d+(?:\.\d+)?"
_PART = re.compile(rf"({_NUMBER})(ms|w|d|h|m|s)")
_SHORT = re.compile(rf"(?:{_NUMBER}(?:ms|w|d|h|m|s)\s?)+")
_BARE = re.compile(_NUMBER)
# Years and months have no fixed length, so they are not durations here.
_ISO = re.compile(
    rf"P(?=.)(?:(?P<w>{_NUMBER})W)?(?:(?P<d>{_NUMBER})D)?(?:T(?=.)(?:(?P<h>{_NUMBER})H)?(?:(?P<m>{_NUMBER})M)?(?:(?P<s>{_NUMBER})S)?)?"
)
_LONGEST_S = 100 * 366 * 86_400
_REMEDY = "write it like '90s', '5m', '1h30m', '2d', '250ms' or 'PT5M'"


def parse_duration(text: str | int | float) -> float:
    """Seconds that a duration stands for.

    Args:
        text: ``90s 5m 2d 1h30m 250ms``, ISO 8601 (weeks to seconds), or a number of seconds.

    Raises:
        ValueError: It is no duration, negative, or longer than 100 years; the message ends with the remedy.
    """
    seconds = _parse_text(text) if isinstance(text, str) else _check_number(text)
    if not 0 <= seconds <= _LONGEST_S:
        raise ValueError(f"{_shown(text)} is not between 0 and 100 years; {_REMEDY}")
    return seconds


def _shown(text: object) -> str:
    if isinstance(text, int) and abs(text) > _LONGEST_S:
        return "a number of this size"  # Python refuses to spell out numbers of thousands of digits
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _check_number(number: int | float) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{_shown(number)} is no duration; {_REMEDY}")
    return float(number) if abs(number) <= _LONGEST_S else math.inf


def _parse_text(text: str) -> float:
    trimmed = text.strip()
    if len(trimmed) > 100 or not trimmed.isascii():
        raise ValueError(f"{_shown(text)} is no duration; {_REMEDY}")
    if _BARE.fullmatch(trimmed):
        return float(trimmed)
    if _SHORT.fullmatch(trimmed):
        return _total([(number, unit) for number, unit in _PART.findall(trimmed)], text)
    iso = _ISO.fullmatch(trimmed)
    if iso is None:
        raise ValueError(f"{_shown(text)} is no duration; {_REMEDY}")
    return _total([(number, unit) for unit, number in iso.groupdict().items() if number is not None], text)


def _total(parts: list[tuple[str, str]], text: str) -> float:
    units = [unit for _, unit in parts]
    if len(set(units)) != len(units):
        raise ValueError(f"{_shown(text)} names a unit twice; {_REMEDY}")
    # Decimals, because 0.1 + 0.2 seconds should be what people read.
    return float(sum(Decimal(number) * _UNITS_S[unit] for number, unit in parts))


def format_duration(seconds: float) -> str:
    """A short text for people and files: ``1h30m``, ``90ms``, ``2.5s``; what ``parse_duration`` reads, to the millisecond.

    Args:
        seconds: Not negative. Under a millisecond the text says ``0.25ms``; from a minute on parts of a second are dropped
            only when they are under a millisecond.
    """
    if seconds < 1:
        return f"{_trim(seconds * 1000)}ms" if seconds > 0 else "0s"
    milliseconds = round(seconds * 1000)
    if milliseconds < 60_000:
        return f"{_trim(milliseconds / 1000)}s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def _trim(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")
