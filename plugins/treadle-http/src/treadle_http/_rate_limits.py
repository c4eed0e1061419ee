"""What an answer says about when to ask again: ``Retry-After``, and the headers of rate limits in their several spellings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LIMITED = (403, 429, 503)
_REMAINING = ("ratelimit-remaining", "x-ratelimit-remaining", "x-rate-limit-remaining")
_RESET = ("x-ratelimit-reset-after", "ratelimit-reset", "x-ratelimit-reset", "x-rate-limit-reset")
# A wait of thirty years is meant as a moment: seconds (or milliseconds) since 1970.
_EPOCH_S, _EPOCH_MS = 1e9, 1e12
_NUMBER = re.compile(r"\d{1,15}(\.\d{1,6})?", re.ASCII)
# "default";r=0;t=30 of the standard's draft, and limit=100, remaining=0, reset=30 of its earlier ones.
_DRAFT = re.compile(r"(?:^|[;,\s])(r|t|remaining|reset)=(\d{1,15})(?=$|[;,\s])", re.ASCII)
_SHORT = {"r": "r", "remaining": "r", "t": "t", "reset": "t"}


def wait_asked(headers: Mapping[str, str], status: int) -> float | None:
    """Seconds that a service asks to wait; None when it does not say.

    Args:
        headers: Of its answer, names in lower case.
        status: Of its answer: the headers of rate limits count only where they may be the reason.
    """
    now = _date(headers.get("date", "")) or datetime.now(UTC)  # The service's own clock, by which it reckons.
    asked = parse_retry_after(headers.get("retry-after", ""), now)
    if asked is None and status in _LIMITED:
        asked = _reset(headers, now.timestamp())
    return asked


def is_exhausted(headers: Mapping[str, str]) -> bool:
    """Whether an answer says that too much was asked, and not merely something forbidden."""
    return "retry-after" in headers or _remaining(headers) == 0


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Seconds to wait by a ``Retry-After`` header: a number of seconds or a date; None when it is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    at = _date(value)
    return None if at is None else max(0.0, (at - now).total_seconds())


def _date(value: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return at.replace(tzinfo=at.tzinfo or UTC)


def _reset(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until the limit is lifted, when it is what stands in the way."""
    if (_remaining(headers) or 0) > 0:
        return None
    for name in _RESET:
        if (value := _number(headers.get(name, ""))) is not None:
            return _seconds(value, now)
    waits = [_seconds(each["t"], now) for each in _draft(headers) if each.get("r", 0) == 0 and "t" in each]
    return max(waits, default=None)


def _remaining(headers: Mapping[str, str]) -> float | None:
    """What is left of the tightest limit; None when the answer does not say."""
    told = [_number(headers.get(name, "")) for name in _REMAINING] + [each.get("r") for each in _draft(headers)]
    return min((each for each in told if each is not None), default=None)


def _draft(headers: Mapping[str, str]) -> list[dict[str, float]]:
    """The limits of a ``RateLimit`` header, each with ``r`` (remaining) and ``t`` (seconds until it is lifted)."""
    value = headers.get("ratelimit", "")[:1024]
    limits = value.split(",") if ";" in value else [value]
    return [{_SHORT[key]: float(number) for key, number in _DRAFT.findall(each)} for each in limits]


def _number(value: str) -> float | None:
    value = value.strip()
    return float(value) if _NUMBER.fullmatch(value) else None


def _seconds(value: float, now: float) -> float:
    if value < _EPOCH_S:
        return value
    return max(0.0, math.ceil((value / 1000 if value >= _EPOCH_MS else value) - now))
