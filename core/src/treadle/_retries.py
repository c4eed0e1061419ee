"""Retries: whether an error is worth another attempt, after how long, and what the file's ``retry`` means. Decides only."""

from __future__ import annotations

import difflib
import functools
import logging
import math
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from http import HTTPStatus
from random import random as _random
from typing import cast

import attrs

from treadle._durations import parse_duration
from treadle._models import Call, GiveUp, Json, RetryAfter, RetryPolicy
from treadle.errors import (
    CallPutOffError,
    ConfigError,
    ExpressionError,
    Fault,
    InputsInvalidError,
    NotSupportedError,
    OutputInvalidError,
    PluginError,
    SecretNotFoundError,
    WorkflowInvalidError,
)

log = logging.getLogger("treadle.retries")

Hook = Callable[..., object]
"""Asks the hooks: ``hook(call, error)`` answers RetryAfter, GiveUp or None."""

Random = Callable[[], float]
"""Gives a number from 0 up to 1."""

LONGEST_ASKED_S = 3600.0
"""Most that a service's own Retry-After can stretch a wait to."""

_NO_CAP_S = 365 * 86_400.0  # JSON has no infinity; nobody waits a year

PRESETS: Mapping[str, RetryPolicy] = {
    "layered": RetryPolicy(3, base_s=2.0, factor=2.0, max_delay_s=_NO_CAP_S, jitter=0.0, on_invalid=True, explicit=True),
    "durable": RetryPolicy(3, base_s=1.0, factor=2.0, max_delay_s=300.0, jitter=0.0, explicit=True),
    "tool": RetryPolicy(
        3,
        base_s=1.0,
        factor=2.0,
        max_delay_s=30.0,
        jitter=0.0,
        retry_on=("ConnectionError", "TimeoutError"),
        explicit=True,
    ),
    "pipeline": RetryPolicy(3, jitter=0.0, delays_s=(1.0,), explicit=True),
}
"""The sources' numbers, by the names that ``retry: {preset: NAME}`` takes (C01)."""


# -- the decision --------------------------------------------------------------------------------------------------------


chance: ContextVar[Random] = ContextVar("treadle_chance", default=_random)
"""Where the jitter of waits comes from; a simulation puts in a source of its own."""


def propose(
    call: Call, error: Exception, hook: Hook, *, effects: str | None = None, random: Random | None = None
) -> RetryAfter | GiveUp:
    """Whether to try again after ``error``, and when.

    In order: that the call was put off, invalid output, unsafe effects, the file's lists, the hooks, what the error says of
    itself, its type, and last the words of its message. What nobody knows is not retried.

    Args:
        call: The attempt that failed.
        error: What it failed with.
        hook: Asks the hooks; an exception in it counts as no opinion.
        effects: What the executor declares.
        random: For the jitter; ``chance`` when None.

    Returns:
        RetryAfter with its delay set, or GiveUp; both with the reason. ``max_attempts`` is the scheduler's business.
    """
    error = _only_leaf(error)
    verdict = (
        _by_putting_off(error)
        or _by_validity(call.retry, error)
        or unsafe_refusal(effects, call.retry)
        or _by_file(call.retry, error)
        or _by_hooks(call, error, hook)
        or (RetryAfter(reason="the output is invalid and the file says on_invalid") if _is_invalid(error) else None)
        or _by_attributes(error)
        or _by_type(error)
        or _by_words(error)
        or GiveUp(f"nothing says that {type(error).__name__} is temporary; 'retry_on: [{type(error).__name__}]' would retry it")
    )
    return verdict if isinstance(verdict, GiveUp) else _with_delay(call, error, verdict, random or chance.get())


def is_transient(error: Exception) -> bool:
    """Whether trying again may help after ``error``, as treadle judges when neither a file nor a hook says anything.

    In order: what the error says of itself, its type, and last the words of its message. What nobody knows is not retried.
    """
    error = _only_leaf(error)
    return isinstance(_by_attributes(error) or _by_type(error) or _by_words(error), RetryAfter)


def delay_s(policy: RetryPolicy, attempt: int, random: Random = _random) -> float:
    """Seconds to wait after attempt ``attempt``, from 1: a given delay, or ``min(base * factor**(attempt-1), max_delay)``.

    Jitter is added to waits over 1 s only, so that short waits stay exact (C01).
    """
    if policy.delays_s:
        wait = policy.delays_s[min(attempt, len(policy.delays_s)) - 1]
    else:
        try:
            wait = min(policy.base_s * policy.factor ** (attempt - 1), policy.max_delay_s)
        except OverflowError:
            wait = policy.max_delay_s
    return wait + wait * policy.jitter * random() if wait > 1.0 else wait


def unsafe_refusal(effects: str | None, policy: RetryPolicy) -> GiveUp | None:
    """GiveUp when running again may do harm and the file did not ask for it."""
    if effects == "unsafe" and not policy.explicit:
        return GiveUp("running it again may do harm (effects 'unsafe'); a 'retry' in the file would allow it")
    return None


def _with_delay(call: Call, error: Exception, verdict: RetryAfter, random: Random) -> RetryAfter:
    if verdict.delay_s is not None:
        wait = verdict.delay_s if math.isfinite(verdict.delay_s) else call.retry.max_delay_s
        return attrs.evolve(verdict, delay_s=max(0.0, float(wait)))
    wait, reason = delay_s(call.retry, call.attempt, random), verdict.reason
    asked = _number(error, "retry_after_s")
    if asked is not None and asked > wait:
        wait = min(asked, max(wait, LONGEST_ASKED_S))
        capped = f", of which {wait:g} s are kept" if wait < asked else ""
        reason = f"{reason}; the service asked for {asked:g} s{capped}"
    return RetryAfter(wait, reason)


def _only_leaf(error: Exception) -> Exception:
    """The one error inside of groups that task groups wrap around it; else the error itself."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


# -- one voice each ------------------------------------------------------------------------------------------------------


def _by_putting_off(error: Exception) -> RetryAfter | None:
    return RetryAfter(error.retry_after_s, error.reason, is_counted=False) if isinstance(error, CallPutOffError) else None


def _is_invalid(error: Exception) -> bool:
    return isinstance(error, OutputInvalidError)


def _by_validity(policy: RetryPolicy, error: Exception) -> GiveUp | None:
    """An executor that gave a bad answer gives it again, or has its effect again: only the file may ask for that (C04)."""
    if _is_invalid(error) and not policy.on_invalid:
        return GiveUp("an invalid output is not retried unless the file says 'on_invalid: true'")
    return None


def _by_file(policy: RetryPolicy, error: Exception) -> RetryAfter | GiveUp | None:
    for entry in policy.no_retry_on:
        if _matches(entry, error):
            return GiveUp(f"no_retry_on: {entry}")
    for entry in policy.retry_on:
        if _matches(entry, error):
            return RetryAfter(reason=f"retry_on: {entry}")
    if policy.retry_on and not _is_invalid(error):
        return GiveUp(f"retry_on does not name {type(error).__name__}")
    return None


def _matches(entry: str, error: Exception) -> bool:
    """Whether an entry names the error's class or a base of it, or its status code, or stands in its message as whole words."""
    wanted = entry.lower()
    for kind in type(error).__mro__[:-1]:
        if wanted in (kind.__name__.lower(), f"{kind.__module__}.{kind.__qualname__}".lower()):
            return True
    if wanted.isdecimal():
        code = _status_code(error)
        return _says_code(_message(error), int(wanted)) if code is None else code == int(wanted)
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", _message(error).lower()) is not None


def _by_hooks(call: Call, error: Exception, hook: Hook) -> RetryAfter | GiveUp | None:
    try:
        answer = hook(call, error)
    except Exception:  # foreign code; the hook's promise is that raising counts as no opinion
        log.warning("retry_policy of %s raised; it counts as no opinion", call.executor, exc_info=True)
        return None
    if isinstance(answer, RetryAfter):
        return answer if answer.reason else attrs.evolve(answer, reason="its retry_policy says so")
    if isinstance(answer, GiveUp):
        return answer if answer.reason else GiveUp("its retry_policy says so")
    if answer is not None:
        log.warning("retry_policy of %s answered %s; it counts as no opinion", call.executor, type(answer).__name__)
    return None


_TRANSIENT_CODES = frozenset((408, 425, 429, 500, 502, 503, 504))


def _by_attributes(error: Exception) -> RetryAfter | GiveUp | None:
    name, retryable = type(error).__name__, _attribute(error, "retryable")
    if isinstance(retryable, bool):
        return (
            RetryAfter(reason=f"{name} says it is temporary") if retryable else GiveUp(f"{name} says trying again cannot help")
        )
    code = _status_code(error)
    if code in _TRANSIENT_CODES:
        return RetryAfter(reason=f"status {code} is temporary")
    if code is not None and 400 <= code < 500:
        return GiveUp(f"status {code} will not change")
    if _number(error, "retry_after_s") is not None:
        return RetryAfter(reason=f"{name} says when to try again")
    return None


# Errors of treadle itself that come again whenever the same is tried.
_LASTING = (
    ConfigError,
    ExpressionError,
    InputsInvalidError,
    NotSupportedError,
    PluginError,
    SecretNotFoundError,
    WorkflowInvalidError,
)
# Mistakes in code: their messages prove nothing, whatever words are in them.
_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    TypeError,
    UnicodeError,
)
# By name, so that none of these libraries is imported for it: (top-level package, class).
_TRANSIENT_NAMES = frozenset(
    {
        ("aiohttp", "ClientConnectionError"),
        ("aiohttp", "ClientPayloadError"),
        ("anyio", "BrokenResourceError"),
        ("anyio", "EndOfStream"),
        ("anyio", "IncompleteRead"),
        ("asyncio", "IncompleteReadError"),
        ("http", "IncompleteRead"),
        ("http", "RemoteDisconnected"),
        ("httpcore", "NetworkError"),
        ("httpcore", "RemoteProtocolError"),
        ("httpcore", "TimeoutException"),
        ("httpx", "NetworkError"),
        ("httpx", "RemoteProtocolError"),
        ("httpx", "TimeoutException"),
        ("requests", "ChunkedEncodingError"),
        ("requests", "ConnectionError"),
        ("requests", "Timeout"),
        ("ssl", "SSLEOFError"),
        ("ssl", "SSLZeroReturnError"),
        ("trio", "BrokenResourceError"),
        ("trio", "TooSlowError"),
        ("urllib3", "ProtocolError"),
        ("urllib3", "TimeoutError"),
    }
)


def _by_type(error: Exception) -> RetryAfter | GiveUp | None:
    name = type(error).__name__
    if isinstance(error, _LASTING):
        return GiveUp(f"{name} comes again whenever the same is tried")
    if isinstance(error, (ConnectionError, TimeoutError)) or _names_of(type(error)) & _TRANSIENT_NAMES:
        return RetryAfter(reason=f"{name} is temporary")
    if isinstance(error, _MISTAKES):
        return GiveUp(f"{name} is a mistake in code")
    return None


def _names_of(kind: type) -> set[tuple[str, str]]:
    return {(base.__module__.partition(".")[0].lstrip("_"), base.__name__) for base in kind.__mro__}


_WORDS = re.compile(r"(?<!\w)(timeout|connections?|rate[ -]limit(?:s|ed|ing)?)(?!\w)", re.IGNORECASE)
_WORD_CODES = (503, 429)


def _by_words(error: Exception) -> RetryAfter | None:
    """The sources' list, the weakest evidence: whole words only, and numbers only where they are status codes (C05)."""
    message = _message(error)
    if found := _WORDS.search(message):
        return RetryAfter(reason=f"its message says {found[1].lower()!r}")
    for code in _WORD_CODES:
        if _says_code(message, code):
            return RetryAfter(reason=f"its message says {str(code)!r}")
    return None


def _says_code(message: str, code: int) -> bool:
    """Whether ``code`` is a status there, not a count: ``HTTP 429`` and ``429 Too Many Requests``, but not ``429 items``."""
    return _code_pattern(code).search(message) is not None


@functools.lru_cache(maxsize=64)
def _code_pattern(code: int) -> re.Pattern[str]:
    try:
        phrase = HTTPStatus(code).phrase.replace("Service ", "Service (?:Temporarily )?")
    except ValueError:
        phrase = "error"
    named = rf"\b(?:http(?:/\d(?:\.\d)?)?|status(?:[ _-]?code)?|response)\W{{0,3}}{code}\b"
    explained = rf"(?<![\w.]){code}\W{{0,3}}(?:{phrase}|(?:client |server )?error\b)"
    alone = rf"(?:^|\b(?:error|code)\W{{1,3}}){code}(?=\W*$|:)"
    return re.compile(f"{named}|{explained}|{alone}", re.IGNORECASE)


# -- what an error says; its attributes are foreign code -------------------------------------------------------------------


def _message(error: Exception) -> str:
    try:
        return str(error)[:10_000]
    except Exception:  # a __str__ that raises
        return ""


def _attribute(owner: object, name: str) -> object:
    try:
        return getattr(owner, name, None)
    except Exception:  # a property that raises
        return None


def _number(error: Exception, name: str) -> float | None:
    value = _attribute(error, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _status_code(error: Exception) -> int | None:
    """``error.status_code``, or that of its ``response`` as the HTTP libraries have it."""
    for owner in (error, _attribute(error, "response")):
        code = _attribute(owner, "status_code")
        if isinstance(code, int) and not isinstance(code, bool):
            return int(code)
    return None


# -- the file's words ----------------------------------------------------------------------------------------------------


class RetryInvalidError(ValueError):
    """A ``retry`` that cannot be meant; ``faults`` has a path per key, like ``max_delay`` or ``delays[1]``."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("; ".join(map(str, faults)))


def preset(name: str) -> RetryPolicy:
    """The policy of that name; KeyError when there is none."""
    return PRESETS[name]


def parse_retry(data: Json) -> RetryPolicy:
    """The policy that a ``retry`` mapping of the file stands for.

    ``preset`` gives the numbers that the other keys override; ``retries: n`` stands for ``max_attempts: n + 1`` (C02).

    Raises:
        RetryInvalidError: With all faults.
    """
    if not isinstance(data, dict):
        raise RetryInvalidError([Fault("retry must be a mapping", "", "like {max_attempts: 3, base: 2s}")])
    return _RetryReader(data).read()


class _RetryReader:
    def __init__(self, data: Mapping[str, Json]) -> None:
        self.data = data
        self.faults: list[Fault] = []

    def read(self) -> RetryPolicy:
        start = self.start()
        changes: dict[str, object] = {"explicit": True}
        for key, value in self.data.items():
            if key != "preset":
                self.read_key(key, value, changes)
        self.check_together()
        if self.faults:
            raise RetryInvalidError(self.faults)
        if "delays_s" not in changes and changes.keys() & {"base_s", "factor", "max_delay_s"}:
            changes["delays_s"] = None  # the formula that the file asks for replaces a preset's list
        # Each reader answered the type of its own field.
        return attrs.evolve(start, **changes)  # type: ignore[arg-type]

    def start(self) -> RetryPolicy:
        name = self.data.get("preset")
        if name is None and "preset" not in self.data:
            return RetryPolicy()
        if isinstance(name, str) and name in PRESETS:
            return PRESETS[name]
        self.fault("preset", f"there is no preset {name!r}", f"use one of {', '.join(PRESETS)}")
        return RetryPolicy()

    def read_key(self, key: str, value: Json, changes: dict[str, object]) -> None:
        reader = _READERS.get(key)
        if reader is None:
            close = difflib.get_close_matches(key, [*_READERS, "preset"], n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"known: {', '.join([*_READERS, 'preset'])}"
            self.fault(key, f"retry has no key {key!r}", remedy)
            return
        field, read = reader
        try:
            changes[field] = read(value)
        except _KeyFaultsError as error:
            for place, message, remedy in error.found:
                self.fault(f"{key}{place}", message, remedy)

    def check_together(self) -> None:
        if "retries" in self.data and "max_attempts" in self.data:
            self.fault("retries", "retries and max_attempts say the same", "keep max_attempts")
        extra = [key for key in ("base", "factor", "max_delay") if key in self.data]
        if "delays" in self.data and extra:
            self.fault("delays", f"delays and {', '.join(extra)} exclude each other", "keep one of the two")

    def fault(self, path: str, message: str, remedy: str) -> None:
        self.faults.append(Fault(message, path, remedy))


class _KeyFaultsError(Exception):
    """What is wrong with the value of one key: (place below the key, message, remedy) each."""

    def __init__(self, *found: tuple[str, str, str]) -> None:
        self.found = found
        super().__init__()


def _attempts(value: Json, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= 1000:
        raise _KeyFaultsError(("", f"must be a whole number from {least} to 1000", "the first attempt counts" if least else ""))
    return value


def _retries(value: Json) -> int:
    return _attempts(value, 0) + 1


def _between(least: float, most: float) -> Callable[[Json], float]:
    def read(value: Json) -> float:
        if type(value) not in (int, float) or not least <= cast(float, value) <= most:
            raise _KeyFaultsError(("", f"must be a number from {least:g} to {most:g}", ""))
        return float(cast(float, value))

    return read


def _duration(value: Json) -> float:
    try:
        return parse_duration(cast("str | int | float", value))
    except ValueError as error:
        message, _, remedy = str(error).partition("; ")
        raise _KeyFaultsError(("", message, remedy)) from error


def _list_of(read: Callable[[Json], object], words: str) -> Callable[[Json], tuple[object, ...]]:
    def read_all(value: Json) -> tuple[object, ...]:
        if not isinstance(value, list) or not value:
            raise _KeyFaultsError(("", f"must be a list of {words}", ""))
        found: list[object] = []
        faults: list[tuple[str, str, str]] = []
        for index, item in enumerate(value):
            try:
                found.append(read(item))
            except _KeyFaultsError as error:
                faults.extend((f"[{index}]", message, remedy) for _, message, remedy in error.found)
        if faults:
            raise _KeyFaultsError(*faults)
        return tuple(found)

    return read_all


def _entry(value: Json) -> str:
    # A bare 503 in YAML is an int, and means the status code.
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise _KeyFaultsError(("", "must be the name of an error or words of its message", ""))
    return value.strip()


def _switch(value: Json) -> bool:
    if not isinstance(value, bool):
        raise _KeyFaultsError(("", "must be true or false", ""))
    return value


_READERS: Mapping[str, tuple[str, Callable[[Json], object]]] = {
    "max_attempts": ("max_attempts", _attempts),
    "retries": ("max_attempts", _retries),
    "base": ("base_s", _duration),
    "factor": ("factor", _between(1.0, 100.0)),
    "max_delay": ("max_delay_s", _duration),
    "jitter": ("jitter", _between(0.0, 1.0)),
    "delays": ("delays_s", _list_of(_duration, "durations")),
    "retry_on": ("retry_on", _list_of(_entry, "names")),
    "no_retry_on": ("no_retry_on", _list_of(_entry, "names")),
    "on_invalid": ("on_invalid", _switch),
}
