"""The ``[run]`` table: how a run is held on to while this process drives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast, get_args

import attrs

from treadle._checkpoint_secrets import SecretRule
from treadle._config import Config, suggest
from treadle._durations import parse_duration
from treadle._store_records import BEAT_S, LEASE_S, SPAN_PATIENCE_S
from treadle.errors import ConfigInvalidError, Fault

MAX_CRASHES = 3
"""How often a step may be running when its process goes away, before it is poisoned."""


@attrs.frozen
class RunSettings:
    """How runs are driven.

    Attributes:
        lease_s: How long a claim holds without a beat.
        beat_s: Seconds between two beats.
        stall_s: How long a step that says that it lives may be silent.
        checkpoint_every_s: How often progress of a step is written, at most.
        max_crashes: How often a step may be running when its process goes away, before it is poisoned; 0: as often as it likes,
            and nothing is run alone because of a crash.
        span_patience_s: How long a span is sent again that a backend answers with "later" while it takes others, before it is
            set aside.
        checkpoint_secrets: What becomes of a checkpoint whose data hold a secret: ``warn``, ``refuse`` or ``keep``.
    """

    lease_s: float = LEASE_S
    beat_s: float = BEAT_S
    stall_s: float = 180.0
    checkpoint_every_s: float = 120.0
    max_crashes: int = MAX_CRASHES
    span_patience_s: float = SPAN_PATIENCE_S
    checkpoint_secrets: SecretRule = "warn"


PRESETS: Mapping[str, RunSettings] = {
    "default": RunSettings(),
    "durable": RunSettings(lease_s=180.0, beat_s=60.0),
}
"""What ``preset`` takes: ``durable`` has the long beat for runs of many hours (S1-22, S1-80)."""

_DURATIONS = {
    "lease": "lease_s",
    "beat": "beat_s",
    "stall": "stall_s",
    "checkpoint_every": "checkpoint_every_s",
    "span_patience": "span_patience_s",
}


def run_settings(config: Config) -> RunSettings:
    """What ``[run]`` says.

    Raises:
        ConfigInvalidError: With every fault.
    """
    table, faults = config.run, list[Fault]()

    def read(key: str, take: Callable[[object], object], wanted: str) -> object:
        try:
            return take(table[key])
        except (ValueError, TypeError, KeyError):
            faults.append(config.fault(("run", key), f"expected {wanted}, not {table[key]!r}"))
            return None

    names = ", ".join(PRESETS)
    preset = read("preset", lambda name: PRESETS[cast("str", name)], f"one of {names}") if "preset" in table else None
    settings = cast("RunSettings | None", preset) or RunSettings()
    known = ("preset", *_DURATIONS, "max_crashes", "checkpoint_secrets")
    for key in table:
        if key in _DURATIONS:
            seconds = read(key, _seconds, "a duration like '30s'")
            if seconds is not None:
                settings = attrs.evolve(settings, **{_DURATIONS[key]: seconds})  # type: ignore[arg-type]  # a number
        elif key == "max_crashes":
            crashes = read(key, _count, "a whole number")
            if crashes is not None:
                settings = attrs.evolve(settings, max_crashes=crashes)  # type: ignore[arg-type]  # a number
        elif key == "checkpoint_secrets":
            rule = read(key, _rule, f"one of {', '.join(get_args(SecretRule))}")
            if rule is not None:
                settings = attrs.evolve(settings, checkpoint_secrets=rule)  # type: ignore[arg-type]  # one of them
        elif key != "preset":
            faults.append(config.fault(("run", key), "unknown key", suggest(key, known)))
    if settings.beat_s * 2 > settings.lease_s:
        message = f"a lease of {settings.lease_s:g}s is too short for a beat every {settings.beat_s:g}s"
        faults.append(config.fault(("run", "lease"), message, "make it three beats long, or more"))
    if faults:
        raise ConfigInvalidError(faults)
    return settings


def _seconds(value: object) -> float:
    seconds = parse_duration(cast("str | int | float", value))
    if seconds <= 0:
        raise ValueError
    return seconds


def _rule(value: object) -> object:
    if value not in get_args(SecretRule):
        raise ValueError
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value
