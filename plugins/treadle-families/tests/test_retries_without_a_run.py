"""``execute_with_retry``: attempts, waits, texts and what is not tried again."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest
from treadle import GiveUp, Registry, RetryAfter, TransientError, Workflow, executor, run
from treadle.errors import BindError, OutputInvalidError
from treadle.testing import VirtualClock
from treadle_families import InfraExecutor, LayeredExecutor, OutputStillInvalidError


class Saving(InfraExecutor):
    """Answers or raises one thing after the other, and notes when it was asked."""

    executor_name = "acme.save"

    def __init__(self, *answers: object) -> None:
        self.answers, self.asked = list(answers), list[float]()

    async def execute(self, **inputs: object) -> Any:
        self.asked.append(anyio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def waits(self) -> list[float]:
        return [round(later - earlier, 6) for earlier, later in pairwise(self.asked)]


GOOD = {"status": "saved"}
LOST = ConnectionError("connection lost")


def call(saving: LayeredExecutor, backend: str = "asyncio", **options: Any) -> Any:
    return VirtualClock().run(partial(saving.execute_with_retry, {}, **options), backend=backend)


def test_the_interface_is_the_layered_one() -> None:
    """Names and defaults: 2 retries, 2.0 s (S0-21)."""
    parameters = inspect.signature(LayeredExecutor.execute_with_retry).parameters

    assert {name: each.default for name, each in parameters.items() if name != "self"} == {
        "input_data": inspect.Parameter.empty,
        "heartbeat_fn": None,
        "max_retries": 2,
        "base_delay": 2.0,
    }


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_three_attempts_two_and_four_seconds_apart(backend: str) -> None:
    """Attempts are max_retries + 1 = 3, waits base_delay * 2**attempt: 2 s, 4 s (S0-22, S0-23)."""
    saving = Saving(LOST, LOST, GOOD)

    assert call(saving, backend) == GOOD
    assert saving.waits == [2.0, 4.0]


def test_waits_have_no_cap() -> None:
    """Nine retries of 10 s: the last wait is 2560 s (S0-23)."""
    saving = Saving(LOST)

    with pytest.raises(ConnectionError):
        call(saving, max_retries=9, base_delay=10.0)

    assert saving.waits[-1] == 2560.0


def test_an_invalid_output_is_a_failed_attempt_and_at_last_an_error() -> None:
    """After as many attempts as for an exception, a RuntimeError with the exact text, then the remedy (S0-24, C04)."""
    saving = Saving({})

    with pytest.raises(RuntimeError) as raised:
        call(saving)

    issue = "acme.save: output missing required keys (expected one of: ['status'])"
    first, remedy = str(raised.value).splitlines()
    assert first == f"Output validation failed after 2 retries: {[issue]}"
    assert remedy.startswith("Make 'acme.save' return")
    assert isinstance(raised.value, OutputStillInvalidError)
    assert isinstance(raised.value, OutputInvalidError)
    assert saving.waits == [2.0, 4.0]


def test_an_invalid_output_may_heal() -> None:
    """The next attempt's output counts."""
    assert call(Saving({}, GOOD)) == GOOD


def test_what_is_not_transient_leaves_at_once_as_it_is() -> None:
    """One attempt, and the same object (S0-27)."""
    error = ValueError("no such title")
    saving = Saving(error)

    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the very object is asked for below
        call(saving)

    assert raised.value is error
    assert len(saving.asked) == 1


@pytest.mark.parametrize(
    ("message", "attempts"),
    [
        ("Timeout while reading", 3),
        ("CONNECTION refused", 3),
        ("HTTP 503", 3),
        ("Rate Limit exceeded", 3),
        ("status 429", 3),
        ("429 items found", 1),
        ("disconnectionist", 1),
        ("no luck", 1),
    ],
)
def test_words_of_a_message_tell_what_is_transient(message: str, attempts: int) -> None:
    """timeout, connection, 503, rate limit, 429, in any case, as whole words and statuses (S0-26, C05)."""
    saving = Saving(Exception(message))

    with pytest.raises(Exception, match=message):
        call(saving)

    assert len(saving.asked) == attempts


def test_the_retry_policy_of_a_class_comes_first() -> None:
    """It may heal what nobody knows and give up what others would try again."""

    class Judging(Saving):
        def retry_policy(self, error: Exception) -> RetryAfter | GiveUp | None:
            return RetryAfter() if isinstance(error, KeyError) else GiveUp() if isinstance(error, ConnectionError) else None

    healing, giving_up, silent = Judging(KeyError("x"), GOOD), Judging(LOST), Judging(TransientError("x"), GOOD)

    assert call(healing) == call(silent) == GOOD
    with pytest.raises(ConnectionError):
        call(giving_up)
    assert len(giving_up.asked) == 1


def test_each_wait_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """[executor] {task_type} attempt {n} failed, retry in {delay}s: {exc} (S0-28)."""
    with caplog.at_level(logging.WARNING, "treadle.families"):
        call(Saving(LOST, TransientError("busy", "wait"), GOOD))

    assert [record.getMessage() for record in caplog.records] == [
        "[executor] acme.save attempt 1 failed, retry in 2.0s: connection lost",
        "[executor] acme.save attempt 2 failed, retry in 4.0s: busy",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


@executor("acme.older")
class Older(InfraExecutor):
    """All inputs as one."""

    async def execute(self, input_data: dict, heartbeat_fn=None) -> dict:  # type: ignore[no-untyped-def,type-arg]  # as authors write
        if heartbeat_fn is not None:
            beaten = heartbeat_fn()
            if inspect.isawaitable(beaten):
                await beaten
        return {"status": "ok", **input_data}


def test_an_executor_may_take_all_inputs_as_one() -> None:
    """``async execute(input_data, heartbeat_fn) -> dict`` works alone, retried, and in a run (S0-29)."""
    beats: list[int] = []
    workflow = Workflow("w")
    workflow.step("s", "acme.older", n=1, text="x")

    alone = anyio.run(Older().execute, {"n": 1}, None)
    by_name = anyio.run(partial(Older().execute, input_data={"n": 1}))
    retried = anyio.run(Older().execute_with_retry, {"n": 2}, lambda: beats.append(1))
    result = run(workflow, registry=Registry.of(Older))

    assert (alone, by_name, retried) == ({"status": "ok", "n": 1}, {"status": "ok", "n": 1}, {"status": "ok", "n": 2})
    assert result.check().steps["s"].output == {"status": "ok", "n": 1, "text": "x"}
    assert beats == [1]
    assert Registry.of(Older).executor("acme.older").family == "infra"


def test_a_plain_def_runs_in_a_thread() -> None:
    """In both forms."""

    class Plain(InfraExecutor):
        def execute(self, n: int) -> dict[str, int]:
            return {"status": n}

    class PlainOlder(InfraExecutor):
        def execute(self, input_data, heartbeat_fn):  # type: ignore[no-untyped-def]  # as authors write
            return {"status": input_data["n"]}

    assert anyio.run(Plain().execute_with_retry, {"n": 1}) == {"status": 1}
    assert anyio.run(PlainOlder().execute_with_retry, {"n": 1}) == {"status": 1}


def test_what_only_a_run_gives_is_said() -> None:
    """Clients and the context."""

    class Needing(InfraExecutor):
        async def execute(self, http: object, /, url: str) -> dict[str, str]:
            return {"status": url}

    with pytest.raises(BindError, match="execute needs http, which only a run gives"):
        anyio.run(Needing().execute_with_retry, {"url": "x"})
    with pytest.raises(BindError, match="has no method 'execute'"):
        anyio.run(InfraExecutor().execute_with_retry, {})
    with pytest.raises(ValueError, match="max_retries is -1"):
        anyio.run(partial(Saving(GOOD).execute_with_retry, {}, max_retries=-1))
