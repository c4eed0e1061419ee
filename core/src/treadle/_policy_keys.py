"""The keys of a step that policies serve, ``cache`` and ``rate_limit``: how they are written, what calls carry. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import attrs

from treadle._durations import format_duration, parse_duration
from treadle._expressions import Reference, Value, compile_value
from treadle._models import CallCache, CallRate, Json

__all__ = ["POLICIES", "PlannedKeys", "StepCache", "StepRate", "cache_faults", "rate_faults"]

POLICIES = {"cache": ("cache", "treadle-cache"), "rate_limit": ("limits", "treadle-limits")}
"""Key of a step -> the policy that serves it, and the distribution that has it."""

PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0}
"""What ``per`` may be called instead of a duration."""

MAX_RATE = 1_000_000_000
"""The largest ``limit``."""

_Fault = tuple[str, str, str]


@attrs.frozen
class StepCache:
    """How a step's outputs are kept for later calls.

    Attributes:
        ttl_s: How old a kept output may be, in seconds; None for any age.
        key: What tells calls apart, any value with expressions; None: executor, version and inputs.
        allows_effects: Whether it holds although the executor does not say that running it once is as good as twice.
    """

    ttl_s: float | None = None
    key: Json = None
    allows_effects: bool = False

    @classmethod
    def read(cls, data: Mapping[str, Json]) -> StepCache:
        """What plain data stand for that ``cache_faults`` finds nothing in."""
        ttl = data.get("ttl")
        return cls(None if ttl is None else _seconds(ttl), data.get("key"), data.get("allow_effects") is True)

    def to_data(self) -> dict[str, Json]:
        """Plain data that reads back the same."""
        data: dict[str, Json] = {} if self.ttl_s is None else {"ttl": _duration(self.ttl_s)}
        data = data if self.key is None else {**data, "key": self.key}
        return {**data, "allow_effects": True} if self.allows_effects else data


@attrs.frozen
class StepRate:
    """How often a step's calls may be made.

    Attributes:
        limit: How many calls.
        per_s: In how many seconds.
        key: Who shares the rate, any value with expressions; None: all calls of the executor.
    """

    limit: int
    per_s: float
    key: Json = None

    @classmethod
    def read(cls, data: Mapping[str, Json]) -> StepRate:
        """What plain data stand for that ``rate_faults`` finds nothing in."""
        return cls(cast("int", data["limit"]), _period(data["per"]), data.get("key"))

    def to_data(self) -> dict[str, Json]:
        """Plain data that reads back the same."""
        named = {seconds: name for name, seconds in PERIODS.items()}
        data: dict[str, Json] = {"limit": self.limit, "per": named.get(self.per_s) or _duration(self.per_s)}
        return data if self.key is None else {**data, "key": self.key}


def cache_faults(data: Json) -> Iterator[_Fault]:
    """What is wrong with a ``cache``: key, message and remedy each."""
    if not isinstance(data, Mapping):
        yield "", "a cache is a mapping", "write cache: {ttl: 1h}, or cache: {} for any age"
        return
    yield from _unknown(data, ("ttl", "key", "allow_effects"), "a cache")
    if data.get("ttl") is not None and _seconds(data["ttl"]) <= 0:
        yield "ttl", "expected a duration", "write it like '90s', '5m' or '2d'"
    if not isinstance(data.get("allow_effects", False), bool):
        yield "allow_effects", "expected true or false", ""


def rate_faults(data: Json) -> Iterator[_Fault]:
    """What is wrong with a ``rate_limit``: key, message and remedy each."""
    if not isinstance(data, Mapping):
        yield "", "a rate_limit is a mapping", "write rate_limit: {limit: 30, per: minute}"
        return
    yield from _unknown(data, ("key", "limit", "per"), "a rate_limit")
    for name in ("limit", "per"):
        if name not in data:
            yield "", f"a rate_limit needs a {name!r}", "write rate_limit: {limit: 30, per: minute}"
    limit = data.get("limit", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_RATE:
        yield "limit", f"expected a whole number from 1 to {MAX_RATE}", ""
    if "per" in data and not (_period(data["per"]) >= 1 and _period(data["per"]).is_integer()):
        yield "per", "expected second, minute, hour, day, or a duration of whole seconds", "write it like 'minute' or '90s'"


@attrs.frozen
class PlannedKeys:
    """What a step says to policies, with its expressions parsed.

    Attributes:
        cache: What it says of its outputs; None for nothing.
        rate: What it says of how often; None for nothing.
        references: What the expressions look up.
        version: What the executor's code is called, for the cache; empty until the executor is known.
    """

    cache: StepCache | None
    rate: StepRate | None
    references: tuple[Reference, ...]
    _keys: Value
    version: str = ""

    @classmethod
    def compile(cls, cache: StepCache | None, rate: StepRate | None, *, braces: bool = False) -> PlannedKeys | None:
        """Parse the expressions; None when the step says nothing.

        Raises:
            ExpressionError: One cannot be parsed.
        """
        if cache is None and rate is None:
            return None
        keys = compile_value([cache.key if cache else None, rate.key if rate else None], braces=braces)
        return cls(cache, rate, keys.references, keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The keys that the step has."""
        return tuple(name for name, said in (("cache", self.cache), ("rate_limit", self.rate)) if said is not None)

    def render(self, names: Mapping[str, object]) -> tuple[CallCache | None, CallRate | None]:
        """What a call carries.

        Args:
            names: What expressions see.

        Raises:
            ExpressionError: A key cannot be evaluated.
        """
        keys = cast("list[Json]", self._keys.render(names))
        cache = None if self.cache is None else CallCache(self.cache.ttl_s, keys[0], self.version)
        return cache, None if self.rate is None else CallRate(self.rate.limit, self.rate.per_s, keys[1])


def _unknown(data: Mapping[str, Json], known: tuple[str, ...], what: str) -> Iterator[_Fault]:
    for name in data:
        if name not in known:
            yield name, f"{name!r} is not a key of {what}", f"keys: {', '.join(known)}"


def _seconds(value: Json) -> float:
    """A duration in seconds; 0 for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return 0.0
    try:
        return parse_duration(value)
    except ValueError:
        return 0.0


def _period(value: Json) -> float:
    return PERIODS[value] if isinstance(value, str) and value in PERIODS else _seconds(value)


def _duration(seconds: float) -> Json:
    text = format_duration(seconds)
    return text if parse_duration(text) == seconds else seconds
