"""Retries: who decides, in which order, after how long, and what the file may say."""

from __future__ import annotations

import asyncio
import http.client
import logging
import math
import ssl

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle import is_transient
from treadle._models import Call, GiveUp, Issue, RetryAfter, RetryPolicy
from treadle._retries import RetryInvalidError, delay_s, parse_retry, preset, propose, unsafe_refusal
from treadle.errors import (
    BindError,
    CallCancelledError,
    CallPutOffError,
    ConfigError,
    ExpressionError,
    InputsInvalidError,
    OutputInvalidError,
    PermanentError,
    SecretNotFoundError,
    StepTimeoutError,
    TransientError,
)

EXPLICIT = RetryPolicy(jitter=0.0, explicit=True)


def call(policy: RetryPolicy = EXPLICIT, attempt: int = 1) -> Call:
    return Call("run", "workflow", "step", "acme.thing", {}, attempt=attempt, retry=policy)


def no_opinion(call: Call, error: Exception) -> None:
    return None


def verdict(error: Exception, policy: RetryPolicy = EXPLICIT) -> RetryAfter | GiveUp:
    return propose(call(policy), error, no_opinion, random=lambda: 0.5)


def is_retried(error: Exception, policy: RetryPolicy = EXPLICIT) -> bool:
    return isinstance(verdict(error, policy), RetryAfter)


# -- the delay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "waits"),
    [
        pytest.param(preset("layered"), [2.0, 4.0, 8.0, 16.0], id="S0-23"),
        pytest.param(preset("durable"), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0], id="S1-47"),
        pytest.param(preset("tool"), [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0], id="S2-60"),
        pytest.param(preset("pipeline"), [1.0, 1.0, 1.0], id="S4-10 one delay"),
        pytest.param(RetryPolicy(delays_s=(1.0, 5.0), jitter=0.0), [1.0, 5.0, 5.0], id="S4-10 a list"),
        pytest.param(RetryPolicy(jitter=0.0), [2.0, 4.0, 8.0], id="default"),
        pytest.param(RetryPolicy(base_s=0.0, jitter=0.0), [0.0, 0.0], id="no wait"),
    ],
)
def test_the_wait_follows_the_formula(policy: RetryPolicy, waits: list[float]) -> None:
    """``min(base * factor**(n-1), max_delay)`` after attempt n, also after the third (S0-23, S1-46, S1-47, S3-09, C03)."""
    assert [delay_s(policy, attempt) for attempt in range(1, len(waits) + 1)] == waits


@given(
    st.integers(1, 100_000),
    st.floats(0, 1e6),
    st.floats(1, 100),
    st.floats(0.001, 1e6),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_every_wait_is_finite_and_bounded(
    attempt: int, base_s: float, factor: float, max_delay_s: float, jitter: float, drawn: float
) -> None:
    """No attempt number overflows, no wait is negative or longer than its bound with jitter (S1-47)."""
    policy = RetryPolicy(base_s=base_s, factor=factor, max_delay_s=max_delay_s, jitter=jitter)

    wait = delay_s(policy, attempt, lambda: drawn)

    assert 0 <= wait <= max_delay_s * (1 + jitter)
    assert delay_s(policy, attempt + 1, lambda: 0.0) >= delay_s(policy, attempt, lambda: 0.0)


def test_jitter_is_added_to_waits_over_a_second_only() -> None:
    """So that short waits stay exact (C01)."""
    policy = RetryPolicy(base_s=1.0, factor=2.0, jitter=0.5)

    assert [delay_s(policy, attempt, lambda: 0.5) for attempt in (1, 2, 3)] == [1.0, 2.5, 5.0]


def test_presets_have_the_numbers_of_their_sources() -> None:
    """Attempts, base, factor and cap by name (S0-21, S0-22, S1-46, S1-61, S2-60, S3-08, S4-10)."""
    numbers = {
        name: (each.max_attempts, each.base_s, each.factor, each.max_delay_s, each.delays_s, each.on_invalid, each.jitter)
        for name in ("layered", "durable", "tool", "pipeline")
        for each in [preset(name)]
    }

    assert numbers["layered"] == (3, 2.0, 2.0, 31_536_000.0, None, True, 0.0)
    assert numbers["durable"] == (3, 1.0, 2.0, 300.0, None, False, 0.0)
    assert numbers["tool"] == (3, 1.0, 2.0, 30.0, None, False, 0.0)
    assert numbers["pipeline"][0] == 3
    assert numbers["pipeline"][4] == (1.0,)
    assert preset("tool").retry_on == ("ConnectionError", "TimeoutError")


def test_the_tool_preset_retries_two_types_only() -> None:
    """What is not a ConnectionError or TimeoutError ends at once; a subclass is one (S2-60, C25)."""

    class ToolTimeoutError(TimeoutError): ...

    retried = (ConnectionResetError("x"), TimeoutError(), ToolTimeoutError())
    ended = (TransientError("x"), OSError("connection"), ValueError("timeout limit"))

    assert [is_retried(error, preset("tool")) for error in retried] == [True] * 3
    assert [is_retried(error, preset("tool")) for error in ended] == [False] * 3


# -- the order -----------------------------------------------------------------------------------------------------------


class Retryable(Exception):
    retryable = True


class NotRetryable(Exception):
    retryable = False


class Coded(Exception):
    def __init__(self, status_code: object) -> None:
        self.status_code = status_code
        super().__init__("failed")


class WithResponse(Exception):
    def __init__(self, status_code: int) -> None:
        self.response = Coded(status_code)
        super().__init__("failed")


class Asking(Exception):
    def __init__(self, retry_after_s: object, message: str = "later") -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Broken(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    @property
    def retryable(self) -> bool:
        raise ValueError("no answer")


class Odd(Exception):
    retryable = "yes"
    status_code = True
    retry_after_s = math.nan


class TimeoutException(Exception):  # the name that httpx gave it
    __module__ = "httpx"


class ReadTimeout(TimeoutException):
    __module__ = "httpx._exceptions"


@pytest.mark.parametrize(
    ("error", "retried", "reason"),
    [
        # What the error says of itself.
        (TransientError("x"), True, "TransientError says it is temporary"),
        (PermanentError("timeout"), False, "PermanentError says trying again cannot help"),
        (Retryable(), True, "Retryable says it is temporary"),
        (NotRetryable("connection"), False, "NotRetryable says trying again cannot help"),
        (StepTimeoutError("a", 3), True, "StepTimeoutError says it is temporary"),
        (CallCancelledError("x"), False, "CallCancelledError says trying again cannot help"),
        *((Coded(code), True, f"status {code} is temporary") for code in (408, 425, 429, 500, 502, 503, 504)),
        *((Coded(code), False, f"status {code} will not change") for code in (400, 401, 403, 404, 409, 422)),
        (Coded(501), False, "nothing says that Coded is temporary; 'retry_on: [Coded]' would retry it"),
        (WithResponse(503), True, "status 503 is temporary"),
        (WithResponse(404), False, "status 404 will not change"),
        (Asking(1), True, "Asking says when to try again"),
        # Types.
        (ConnectionError(), True, "ConnectionError is temporary"),
        (ConnectionResetError(), True, "ConnectionResetError is temporary"),
        (BrokenPipeError(), True, "BrokenPipeError is temporary"),
        (TimeoutError(), True, "TimeoutError is temporary"),
        (asyncio.IncompleteReadError(b"", 3), True, "IncompleteReadError is temporary"),
        (anyio.BrokenResourceError(), True, "BrokenResourceError is temporary"),
        (anyio.EndOfStream(), True, "EndOfStream is temporary"),
        (ssl.SSLEOFError(), True, "SSLEOFError is temporary"),
        (http.client.RemoteDisconnected("x"), True, "RemoteDisconnected is temporary"),
        (ReadTimeout(), True, "ReadTimeout is temporary"),
        (ssl.SSLCertVerificationError(), False, "nothing says that SSLCertVerificationError is temporary"),
        # What comes again, whatever words are in it.
        (TypeError("timeout"), False, "TypeError is a mistake in code"),
        (KeyError("connection"), False, "KeyError is a mistake in code"),
        (ZeroDivisionError(), False, "ZeroDivisionError is a mistake in code"),
        (InputsInvalidError("timeout", []), False, "InputsInvalidError comes again whenever the same is tried"),
        (ConfigError("connection"), False, "ConfigError comes again"),
        (BindError("timeout"), False, "BindError comes again"),
        (SecretNotFoundError("timeout", "x"), False, "SecretNotFoundError comes again"),
        (ExpressionError("timeout", "x"), False, "ExpressionError comes again"),
        # Nothing known.
        (RuntimeError("no"), False, "nothing says that RuntimeError is temporary; 'retry_on: [RuntimeError]' would retry it"),
        (Exception(), False, "nothing says that Exception is temporary"),
        (Broken(), False, "nothing says that Broken is temporary"),
        (Odd(), False, "nothing says that Odd is temporary"),
        (FileNotFoundError("x"), False, "nothing says that FileNotFoundError is temporary"),
    ],
    ids=lambda each: repr(each)[:40],
)
def test_errors_are_judged(error: Exception, retried: bool, reason: str) -> None:
    """What the error says of itself, then its type; unknown is not retried, and the reason is recorded (S1-60, S3-09, C05)."""
    proposal = verdict(error)

    assert isinstance(proposal, RetryAfter) is retried
    assert proposal.reason.startswith(reason)


@pytest.mark.parametrize(
    ("message", "retried"),
    [
        ("Timeout", True),
        ("read TIMEOUT after 3 s", True),
        ("connection refused", True),
        ("lost 3 connections", True),
        ("Rate limit exceeded", True),
        ("you are rate-limited", True),
        ("HTTP 503", True),
        ("HTTP/1.1 503 Service Unavailable", True),
        ("status code: 429", True),
        ("status=503", True),
        ("503 Service Unavailable", True),
        ("503 Server Error: Service Unavailable for url", True),
        ("Client error '429 Too Many Requests' for url", True),
        ("error 429", True),
        ("error code: 503", True),
        ("429", True),
        ("429: slow down", True),
        ("429 items", False),
        ("processed 429 items", False),
        ("error: 429 items are broken", False),
        ("wrote 503 bytes", False),
        ("1503 errors", False),
        ("4.429 error", False),
        ("id 5031", False),
        ("timeouts_total is missing", False),
        ("connection_id is wrong", False),
        ("disconnection", False),
        ("the rate limits nothing", True),
        ("corporate limit", False),
        ("", False),
    ],
)
def test_the_words_of_a_message_are_the_last_resort(message: str, retried: bool) -> None:
    """The sources' list, whole words only; a number only where it is a status (S0-26, C05)."""
    assert is_retried(RuntimeError(message)) is retried


def test_the_sources_words_are_found_as_they_are() -> None:
    """Each of the five alone, in any case (S0-26)."""
    words = ["timeout", "connection", "503", "rate limit", "429", "TIMEOUT", "Connection", "Rate Limit"]

    assert [is_retried(Exception(word)) for word in words] == [True] * len(words)


@pytest.mark.parametrize(
    ("lists", "error", "retried", "reason"),
    [
        ({"retry_on": ("ValueError",)}, ValueError("x"), True, "retry_on: ValueError"),
        ({"retry_on": ("valueerror",)}, UnicodeError("x"), True, "retry_on: valueerror"),
        ({"retry_on": ("builtins.OSError",)}, FileNotFoundError("x"), True, "retry_on: builtins.OSError"),
        ({"retry_on": ("Exception",)}, KeyError("x"), True, "retry_on: Exception"),
        ({"retry_on": ("BaseException",)}, KeyError("x"), True, "retry_on: BaseException"),
        ({"retry_on": ("object",)}, KeyError("x"), False, "retry_on does not name KeyError"),
        ({"retry_on": ("quota exceeded",)}, RuntimeError("Quota exceeded today"), True, "retry_on: quota exceeded"),
        ({"retry_on": ("quota",)}, RuntimeError("quotas"), False, "retry_on does not name RuntimeError"),
        ({"retry_on": ("a.b",)}, RuntimeError("axb"), False, "retry_on does not name RuntimeError"),
        ({"retry_on": ("404",)}, Coded(404), True, "retry_on: 404"),
        ({"retry_on": ("404",)}, RuntimeError("HTTP 404"), True, "retry_on: 404"),
        ({"retry_on": ("404",)}, RuntimeError("404 Not Found"), True, "retry_on: 404"),
        ({"retry_on": ("404",)}, RuntimeError("404 items"), False, "retry_on does not name RuntimeError"),
        ({"retry_on": ("404",)}, Coded(503), False, "retry_on does not name Coded"),
        ({"retry_on": ("ValueError",)}, ConnectionError(), False, "retry_on does not name ConnectionError"),
        ({"retry_on": ("PermanentError",)}, PermanentError("x"), True, "retry_on: PermanentError"),
        ({"no_retry_on": ("ConnectionError",)}, ConnectionResetError(), False, "no_retry_on: ConnectionError"),
        ({"no_retry_on": ("ConnectionError",)}, TimeoutError(), True, "TimeoutError is temporary"),
        ({"no_retry_on": ("OSError",), "retry_on": ("TimeoutError",)}, TimeoutError(), False, "no_retry_on: OSError"),
    ],
)
def test_the_file_decides_first(lists: dict[str, tuple[str, ...]], error: Exception, retried: bool, reason: str) -> None:
    """By class or base class, by status, by words of the message; ``retry_on`` is the whole list of what is retried (S3-09)."""
    policy = RetryPolicy(retry_on=lists.get("retry_on", ()), no_retry_on=lists.get("no_retry_on", ()), explicit=True)

    proposal = verdict(error, policy)

    assert isinstance(proposal, RetryAfter) is retried
    assert proposal.reason == reason


def test_hooks_come_after_the_file_and_before_the_error() -> None:
    """The file's lists need no hook; a hook overrules what the error says of itself (C05)."""
    asked: list[Exception] = []

    def give_up(call: Call, error: Exception) -> GiveUp:
        asked.append(error)
        return GiveUp("seen enough")

    by_file = propose(call(attrs.evolve(EXPLICIT, retry_on=("TimeoutError",))), TimeoutError(), give_up)
    by_hook = propose(call(), TransientError("x"), give_up)

    assert isinstance(by_file, RetryAfter)
    assert by_hook == GiveUp("seen enough")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RetryAfter(7.5, "the service says so"), RetryAfter(7.5, "the service says so")),
        (RetryAfter(), RetryAfter(2.0, "its retry_policy says so")),
        (RetryAfter(-1.0, "x"), RetryAfter(0.0, "x")),
        (RetryAfter(math.inf, "x"), RetryAfter(300.0, "x")),
        (RetryAfter(math.nan, "x"), RetryAfter(300.0, "x")),
        (GiveUp(), GiveUp("its retry_policy says so")),
    ],
)
def test_a_hook_may_name_the_delay(answer: RetryAfter | GiveUp, expected: RetryAfter | GiveUp) -> None:
    """None leaves it to the policy; what cannot be waited for is mended."""
    assert propose(call(), ValueError(), lambda call, error: answer) == expected


def test_a_hook_that_raises_or_rambles_has_no_opinion(caplog: pytest.LogCaptureFixture) -> None:
    """The decision goes on without it, and the log says whose it was."""

    def broken(call: Call, error: Exception) -> RetryAfter:
        raise KeyError("oops")

    with caplog.at_level(logging.WARNING, "treadle.retries"):
        proposals = [propose(call(), ConnectionError(), hook) for hook in (broken, lambda call, error: 3)]

    assert [type(each) for each in proposals] == [RetryAfter, RetryAfter]
    assert [record.getMessage() for record in caplog.records] == [
        "retry_policy of acme.thing raised; it counts as no opinion",
        "retry_policy of acme.thing answered int; it counts as no opinion",
    ]


# -- invalid outputs and unsafe effects ------------------------------------------------------------------------------------

INVALID = OutputInvalidError("acme.thing", [Issue("is missing", "$.timeout connection")])


@pytest.mark.parametrize(
    ("policy", "retried"),
    [
        (RetryPolicy(), False),
        (EXPLICIT, False),
        (RetryPolicy(on_invalid=True, explicit=True), True),
        (preset("layered"), True),
        (preset("durable"), False),
        (RetryPolicy(retry_on=("OutputInvalidError", "RuntimeError"), explicit=True), False),
        (RetryPolicy(on_invalid=True, retry_on=("ConnectionError",), explicit=True), True),
        (RetryPolicy(on_invalid=True, no_retry_on=("OutputInvalidError",), explicit=True), False),
    ],
)
def test_an_invalid_output_is_retried_only_when_the_file_says_so(policy: RetryPolicy, retried: bool) -> None:
    """An executor that answered badly does so again, or has its effect again (S0-24, C04)."""
    assert is_retried(INVALID, policy) is retried


def test_no_hook_has_an_invalid_output_retried() -> None:
    """A hook may end what ``on_invalid`` would retry, never the other way round (C04)."""
    on_invalid = RetryPolicy(on_invalid=True, explicit=True)

    assert isinstance(propose(call(), INVALID, lambda call, error: RetryAfter(1.0)), GiveUp)
    assert isinstance(propose(call(on_invalid), INVALID, lambda call, error: GiveUp()), GiveUp)


def test_an_invalid_output_waits_like_any_other_error() -> None:
    """The same backoff for both (S0-25, C04)."""
    proposals = [propose(call(preset("layered"), attempt), INVALID, no_opinion) for attempt in (1, 2)]

    assert [each.delay_s for each in proposals if isinstance(each, RetryAfter)] == [2.0, 4.0]


def test_unsafe_effects_are_not_repeated_unless_the_file_says_so() -> None:
    """Not even when a policy plugin or the error would have it."""
    implicit = call(RetryPolicy())

    proposals = [
        propose(implicit, ConnectionError(), lambda call, error: RetryAfter(1.0), effects="unsafe"),
        propose(call(EXPLICIT), ConnectionError(), no_opinion, effects="unsafe"),
        propose(implicit, ConnectionError(), no_opinion, effects="idempotent"),
        propose(implicit, ConnectionError(), no_opinion),
    ]

    assert [type(each) for each in proposals] == [GiveUp, RetryAfter, RetryAfter, RetryAfter]
    assert unsafe_refusal("none", RetryPolicy()) is None


# -- what the service asks for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "wait", "reason"),
    [
        (10, 10.0, "Asking says when to try again; the service asked for 10 s"),
        (1, 2.0, "Asking says when to try again"),
        (0, 2.0, "Asking says when to try again"),
        (7200, 3600.0, "Asking says when to try again; the service asked for 7200 s, of which 3600 s are kept"),
    ],
)
def test_a_service_may_stretch_the_wait(asked: float, wait: float, reason: str) -> None:
    """``retry_after_s`` is the least that is waited, up to an hour; the reason says what was asked."""
    assert verdict(Asking(asked)) == RetryAfter(wait, reason)


def test_a_policy_that_waits_longer_than_an_hour_is_not_shortened() -> None:
    """The hour bounds what the service adds, not what the file says."""
    policy = RetryPolicy(base_s=5000.0, max_delay_s=9000.0, jitter=0.0, explicit=True)

    assert verdict(Asking(7200), policy).reason.endswith("of which 5000 s are kept")
    assert verdict(TransientError("x", retry_after_s=None), policy) == RetryAfter(5000.0, "TransientError says it is temporary")


@pytest.mark.parametrize("asked", ["3", True, -1, math.nan, math.inf, None])
def test_nonsense_from_a_service_is_ignored(asked: object) -> None:
    """It neither makes an error temporary nor changes a wait."""
    assert isinstance(verdict(Asking(asked)), GiveUp)


def test_the_one_error_in_a_group_counts() -> None:
    """Task groups wrap what failed in them."""
    wrapped = ExceptionGroup("a", [ExceptionGroup("b", [ConnectionError()])])
    two = ExceptionGroup("a", [ConnectionError(), ValueError()])

    assert verdict(wrapped).reason == "ConnectionError is temporary"
    assert isinstance(verdict(two), GiveUp)


# -- the file's words --------------------------------------------------------------------------------------------------------


def test_a_retry_mapping_becomes_a_policy() -> None:
    """Every key, in the units that people write (S3-08)."""
    policy = parse_retry(
        {
            "max_attempts": 5,
            "base": "500ms",
            "factor": 3,
            "max_delay": "1m",
            "jitter": 0,
            "retry_on": ["TimeoutError", 503],
            "no_retry_on": ["PermissionError"],
            "on_invalid": True,
        }
    )

    assert policy == RetryPolicy(
        max_attempts=5,
        base_s=0.5,
        factor=3.0,
        max_delay_s=60.0,
        jitter=0.0,
        retry_on=("TimeoutError", "503"),
        no_retry_on=("PermissionError",),
        on_invalid=True,
        explicit=True,
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, RetryPolicy(explicit=True)),
        ({"retries": 2}, RetryPolicy(max_attempts=3, explicit=True)),
        ({"retries": 0}, RetryPolicy(max_attempts=1, explicit=True)),
        ({"delays": [1, "2s", 0.5]}, RetryPolicy(delays_s=(1.0, 2.0, 0.5), explicit=True)),
        ({"preset": "durable"}, preset("durable")),
        ({"preset": "durable", "max_attempts": 9}, attrs.evolve(preset("durable"), max_attempts=9)),
        ({"preset": "pipeline", "base": 3}, attrs.evolve(preset("pipeline"), base_s=3.0, delays_s=None)),
        ({"preset": "pipeline", "jitter": 1}, attrs.evolve(preset("pipeline"), jitter=1.0)),
    ],
)
def test_presets_and_sugar_are_taken(data: dict[str, object], expected: RetryPolicy) -> None:
    """``retries: n`` is n + 1 attempts; keys beside a preset override its numbers (C01, C02)."""
    assert parse_retry(data) == expected
    assert parse_retry(data).explicit


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        (3, ["retry must be a mapping (like {max_attempts: 3, base: 2s})"]),
        ({"max_attempts": 0}, ["max_attempts: must be a whole number from 1 to 1000 (the first attempt counts)"]),
        ({"max_attempts": True}, ["max_attempts: must be a whole number from 1 to 1000 (the first attempt counts)"]),
        ({"retries": -1}, ["retries: must be a whole number from 0 to 1000"]),
        ({"base": "soon"}, ["base: 'soon' is no duration (write it like '90s', '5m', '1h30m', '2d', '250ms' or 'PT5M')"]),
        ({"factor": 0.5}, ["factor: must be a number from 1 to 100"]),
        ({"factor": "2"}, ["factor: must be a number from 1 to 100"]),
        ({"jitter": 2}, ["jitter: must be a number from 0 to 1"]),
        ({"on_invalid": "yes"}, ["on_invalid: must be true or false"]),
        ({"retry_on": "TimeoutError"}, ["retry_on: must be a list of names"]),
        ({"retry_on": []}, ["retry_on: must be a list of names"]),
        ({"no_retry_on": [" ", None]}, ["no_retry_on[0]: must be the name of an error or words of its message"]),
        ({"delays": []}, ["delays: must be a list of durations"]),
        ({"delays": [1, "x"]}, ["delays[1]: 'x' is no duration"]),
        ({"delays": [1], "base": 1}, ["delays: delays and base exclude each other (keep one of the two)"]),
        ({"retries": 1, "max_attempts": 2}, ["retries: retries and max_attempts say the same (keep max_attempts)"]),
        ({"preset": "fast"}, ["preset: there is no preset 'fast' (use one of layered, durable, tool, pipeline)"]),
        ({"preset": None}, ["preset: there is no preset None"]),
        ({"max_attempt": 3}, ["max_attempt: retry has no key 'max_attempt' (did you mean 'max_attempts'?)"]),
    ],
)
def test_a_retry_that_cannot_be_meant_is_refused(data: object, faults: list[str]) -> None:
    """With the key, what it takes, and a suggestion."""
    with pytest.raises(RetryInvalidError) as caught:
        parse_retry(data)

    assert len(caught.value.faults) >= len(faults)
    for found, expected in zip(caught.value.faults, faults, strict=False):
        assert str(found).startswith(expected)


def test_all_faults_of_a_retry_come_at_once() -> None:
    """One run of the check tells everything."""
    with pytest.raises(RetryInvalidError) as caught:
        parse_retry({"max_attempts": 0, "base": "x", "retry_on": [None, ""], "colour": 1, "preset": "x"})

    assert [fault.path for fault in caught.value.faults] == [
        "preset",
        "max_attempts",
        "base",
        "retry_on[0]",
        "retry_on[1]",
        "colour",
    ]


def test_an_unknown_preset_is_a_key_error() -> None:
    """For callers in Python."""
    with pytest.raises(KeyError):
        preset("fast")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TransientError("x"), True),
        (PermanentError("connection"), False),
        (ConnectionError(), True),
        (ExceptionGroup("g", [TimeoutError()]), True),
        (ValueError("rate limit"), True),
        (ValueError("no luck"), False),
        (KeyError("timeout"), False),
    ],
)
def test_anybody_may_ask_whether_an_error_is_transient(error: Exception, expected: bool) -> None:
    """What the error says, then its type, then words; as for a step without a file's or hooks' opinion."""
    assert is_transient(error) is expected


def test_what_was_put_off_is_made_later_whoever_says_what() -> None:
    """After the time that it says, without jitter; neither lists, nor effects, nor hooks are asked, and it does not count."""
    error = CallPutOffError("Not now.", retry_after_s=12.5, reason="it is not its turn")
    listed = RetryPolicy(jitter=0.5, explicit=True, no_retry_on=("CallPutOffError",))

    def opposed(call: Call, error: Exception) -> GiveUp:
        return GiveUp("never")

    answers = [propose(call(policy), error, opposed, effects="unsafe") for policy in (EXPLICIT, listed, RetryPolicy())]

    assert answers == [RetryAfter(12.5, "it is not its turn", is_counted=False)] * 3
    assert propose(call(), ExceptionGroup("one", [error]), opposed) == answers[0]
