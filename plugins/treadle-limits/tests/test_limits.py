"""What the policy ``limits`` promises, in whole runs whose time is virtual."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import treadle
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle import Registry, RunHandle, RunResult, Workflow, executor
from treadle.errors import ConfigInvalidError, WorkflowInvalidError
from treadle.ports import AttemptEnded, RetryScheduled
from treadle.testing import Recorder, VirtualClock, virtual_run
from treadle_limits import Limits
from treadle_limits._tickets import LATE_S, Tickets

started: list[tuple[str, int, float]] = []


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    started.clear()
    yield
    started.clear()


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@executor("api.read", effects="none")
async def read(i: int) -> int:
    started.append(("api.read", i, anyio.current_time()))
    return i


@executor("api.write", effects="none")
async def write(i: int) -> int:
    started.append(("api.write", i, anyio.current_time()))
    return i


@executor("other.call", effects="none")
async def other(i: int) -> int:
    started.append(("other.call", i, anyio.current_time()))
    return i


EXECUTORS = (read, write, other)


def each(count: int, uses: str = "api.read", **options: object) -> Workflow:
    """A workflow that calls an executor ``count`` times at once."""
    workflow = Workflow("limited", max_parallel=1000)
    workflow.step("each", uses, foreach=list(range(count)), i="${{ item }}", **options)
    return workflow


def run(workflow: Workflow, *policies: object, **options: object) -> RunResult:
    return virtual_run(workflow, registry=Registry.of(*EXECUTORS, policies=policies), **options)  # type: ignore[arg-type]


def test_calls_wait_for_their_turn(backend: str) -> None:
    """No window holds more calls than the rate; what does not fit waits, in the order of arrival, and all complete."""
    result = run(each(7), Limits({"api.read": "2/second"}), backend=backend)

    assert result.status == "completed"
    assert result.steps["each"].output == list(range(7))
    assert result.duration_s == pytest.approx(3.0, abs=0.01)
    assert [i for _, i, _ in started] == list(range(7))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 30), amount=st.integers(1, 7), seconds=st.integers(1, 90))
def test_no_window_ever_holds_more(count: int, amount: int, seconds: int) -> None:
    """Whatever the rate, any span of its length holds at most its amount of calls, and no time is wasted."""
    started.clear()

    run(each(count), Limits({"*": f"{amount} per {seconds} second"}))

    at = [moment for _, _, moment in started]
    assert len(at) == count
    assert all(later - earlier >= seconds - 1e-6 for earlier, later in zip(at, at[amount:], strict=False))
    assert at[-1] - at[0] == pytest.approx((count - 1) // amount * seconds, abs=0.1)


def test_a_pattern_is_one_limit_for_all_that_it_matches(backend: str) -> None:
    """Executors that match a pattern share its rate; what no rule matches is not held back."""
    workflow = Workflow("shared")
    for uses in ("api.read", "api.write", "other.call"):
        workflow.step(uses.replace(".", "_"), uses, foreach=[0, 1], i="${{ item }}")

    result = run(workflow, Limits({"api.*": "1/minute"}), backend=backend)

    first = min(moment for _, _, moment in started)
    assert result.duration_s == pytest.approx(180, abs=0.1)
    assert [moment - first < 1 for name, _, moment in started if name == "other.call"] == [True, True]


def test_all_rates_of_a_rule_hold() -> None:
    """``2/second; 3/minute`` allows two at once and a third a second later, then nothing for a minute."""
    run(each(4), Limits({"api.read": "2/second; 3/minute; 3/minute"}))

    at = [moment - started[0][2] for _, _, moment in started]
    assert at == pytest.approx([0, 0, 1, 60], abs=0.01)


def test_all_rules_that_match_hold() -> None:
    """A call counts against each rule that matches it; a call that one rule stops takes nothing from another."""
    workflow = Workflow("two rules")
    workflow.step("read", "api.read", foreach=[0, 1], i="${{ item }}")
    workflow.step("write", "api.write", needs="read", i=9)

    run(workflow, Limits({"api.read": "1/minute", "api.*": "2/second"}))

    at = {(name, i): moment - started[0][2] for name, i, moment in started}
    assert at == pytest.approx({("api.read", 0): 0, ("api.read", 1): 60, ("api.write", 9): 60}, abs=0.01)


def test_it_can_fail_instead_of_waiting(backend: str) -> None:
    """With ``on_limit = "fail"`` a call that has no room fails as temporary, saying when to come again; the retry does."""
    recorder = Recorder()

    result = run(each(2), Limits({"api.read": "1/minute"}, on_limit="fail"), backend=backend, sinks=[recorder])

    assert result.status == "completed"
    [scheduled] = recorder.entries("RetryScheduled")
    assert isinstance(scheduled, RetryScheduled)
    assert scheduled.due - scheduled.at == pytest.approx(60, abs=0.1)
    [refused] = [one for one in recorder.entries("AttemptEnded") if isinstance(one, AttemptEnded) and one.outcome.error]
    assert refused.outcome.error is not None
    assert refused.outcome.error.type == "RateLimitedError"
    assert refused.outcome.error.message == "Step 'each[1]' was not called: 'api.read' allows 1 per 1 minute."
    assert "[policies.limits.rules]" in refused.outcome.error.remedy


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    """Whose turn would come after the attempt's timeout fails at once and is retried; who comes in time waits."""
    recorder = Recorder()
    retry = {"max_attempts": 1}

    result = run(each(4, timeout=70, retry=retry, on_error="continue"), Limits({"*": "1/minute"}), sinks=[recorder])

    ended = {one.index: one for one in recorder.entries("AttemptEnded") if isinstance(one, AttemptEnded)}
    assert {index: one.outcome.status for index, one in ended.items()} == {
        0: "completed",
        1: "completed",
        2: "failed",
        3: "failed",
    }
    assert ended[2].outcome.ended_at - ended[2].outcome.started_at < 0.1
    assert ended[3].outcome.error is not None
    assert ended[3].outcome.error.message.endswith("and its turn would come after its timeout of 70 s.")
    assert result.duration_s == pytest.approx(60, abs=0.1)


def test_whoever_is_cancelled_leaves_nothing(backend: str) -> None:
    """Calls that are cancelled while they wait take no room and hold nobody up, in this run or the next."""
    handles: list[RunHandle] = []

    @executor("test.stop")
    async def stop() -> None:
        await anyio.sleep(600)
        handles[0].cancel("enough")

    workflow = each(5)
    workflow.step("stop", "test.stop")
    registry = Registry.of(*EXECUTORS, stop, policies=[Limits({"api.*": "1/hour"})])
    clock = VirtualClock()

    cancelled = virtual_run(workflow, registry=registry, backend=backend, clock=clock, on_start=handles.append)
    after = virtual_run(each(1), registry=registry, backend=backend, clock=clock)

    assert cancelled.status == "cancelled"
    assert after.status == "completed"
    assert 3000 <= after.duration_s <= 3601  # the window of the one call that was let through; each further one adds an hour


def test_a_wait_is_a_span_of_the_attempt() -> None:
    """What a step waited for shows in its trace."""
    recorder = Recorder()

    run(each(2), Limits({"api.*": "1/second"}), sinks=[recorder])

    span = recorder.span("wait for rate limit")
    assert span.ended_at - span.started_at == pytest.approx(1, abs=0.01)
    assert span.attributes == {
        "treadle.policy": "limits",
        "treadle.limits.rule": "api.*",
        "treadle.limits.rate": "1 per 1 second",
    }


# -- rates that the file says


def test_a_step_says_how_often(backend: str) -> None:
    """``rate_limit`` holds for the step alone, without any rule in the configuration."""
    workflow = each(5, rate_limit={"limit": 2, "per": "minute"})
    workflow.step("other", "other.call", foreach=[1, 2, 3], i="${{ item }}")

    result = run(workflow, Limits(), backend=backend)

    assert result.duration_s == pytest.approx(120, abs=0.1)
    first = min(moment for _, _, moment in started)
    assert [moment - first < 1 for name, _, moment in started if name == "other.call"] == [True] * 3


def test_steps_share_what_they_say_the_same_of() -> None:
    """Steps of one executor, or with one key, share a rate; another key or another rate is one of its own."""
    workflow = Workflow("shared", max_parallel=100)
    minute = {"limit": 1, "per": "minute"}
    said = {
        "a": ("api.read", minute),
        "b": ("api.read", minute),
        "c": ("api.write", minute),
        "d": ("api.read", {**minute, "key": "${{ inputs.host }}"}),
        "e": ("api.write", {**minute, "key": "x"}),
        "f": ("api.write", {**minute, "key": ["x"]}),
        "g": ("api.read", {"limit": 1, "per": "hour"}),
    }
    workflow.input("host", default="x")
    for number, (name, (uses, rate)) in enumerate(said.items()):
        workflow.step(name, uses, i=number, rate_limit=rate)

    run(workflow, Limits())

    first = started[0][2]
    waited = {list(said)[i]: round(moment - first) for _, i, moment in started}
    assert sorted((waited["a"], waited["b"])) == [0, 60]
    assert sorted((waited["d"], waited["e"])) == [0, 60]
    assert (waited["c"], waited["f"], waited["g"]) == (0, 0, 0)


def test_what_the_file_says_comes_on_top() -> None:
    """A call keeps to the rules of the configuration and to its step's own."""
    run(each(3, rate_limit={"limit": 1, "per": "second"}), Limits({"api.*": "2/minute"}))

    at = [moment - started[0][2] for _, _, moment in started]
    assert at == pytest.approx([0, 1, 60], abs=0.01)


def test_it_goes_on_in_the_next_run() -> None:
    """Runs of one process share the windows."""
    registry, clock = Registry.of(*EXECUTORS, policies=[Limits()]), VirtualClock()
    workflow = each(1, rate_limit={"limit": 1, "per": "minute"})

    first, second = (virtual_run(workflow, registry=registry, clock=clock) for _ in range(2))

    assert (first.duration_s, second.duration_s) == pytest.approx((0, 60), abs=0.1)


def test_the_error_says_where_the_rate_stands() -> None:
    """In the step, when it is the step's."""
    workflow = each(2, rate_limit={"limit": 1, "per": "90s"}, retry={"max_attempts": 1}, on_error="continue")

    result = run(workflow, Limits(on_limit="fail"))

    error = result.steps["each"].error
    assert error is not None
    assert error.message == "Step 'each[1]' was not called: 'api.read' allows 1 per 90 second."
    assert error.remedy == "There is room in 90 s. Raise the rate in the step's 'rate_limit', or the step's 'timeout'."


def test_rates_that_are_long_unused_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for each of many hosts does not fill the memory."""
    monkeypatch.setattr("treadle_limits._MOST_KEYS", 3)
    limits = Limits()
    workflow = each(50, rate_limit={"limit": 1, "per": "hour", "key": "${{ item }}"})

    result = run(workflow, limits)

    assert result.duration_s < 60
    assert len(limits._of_steps) == 3
    assert len(limits._windows._hits) <= 4


def test_a_file_that_asks_for_a_rate_is_refused_without_it(site: Path) -> None:
    """Nothing is called more often than the file allows only because the policy is not switched on."""
    (site / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')

    with pytest.raises(WorkflowInvalidError) as failure:
        treadle.run(each(1, "site.call", rate_limit={"limit": 1, "per": "second"}))

    assert "'rate_limit' is served by the policy 'limits', which is not active" in str(failure.value)
    assert 'name it in treadle.toml: [plugins] policies = ["limits"]' in str(failure.value)


SITE = """
from treadle import executor

@executor("site.call")
async def call(i: int) -> int:
    return i
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an executor, which is the working directory."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "site.py").write_text(SITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_switched_on_by_configuration(site: Path) -> None:
    """``[plugins] policies`` names it, ``[policies.limits]`` sets it up."""
    (site / "treadle.toml").write_text(
        '[plugins]\npolicies = ["limits"]\nfolder = "executors"\n[policies.limits.rules]\n"site.*" = "1/minute"\n'
    )

    result = virtual_run(each(3, "site.call"), registry=Registry.discover())

    assert result.duration_s == pytest.approx(120, abs=0.1)


def test_every_fault_of_the_settings_is_told(site: Path) -> None:
    """A rate that cannot be read, one that lets nothing through: both are named, with their rule."""
    (site / "treadle.toml").write_text(
        '[plugins]\npolicies = ["limits"]\nfolder = "executors"\n'
        '[policies.limits.rules]\n"a.*" = "many"\n"b" = "0/second"\n"c" = "1/hour"\n'
    )

    with pytest.raises(ConfigInvalidError) as failure:
        treadle.run(each(1, "site.call"))

    assert "'a.*': 'many' is not a rate" in str(failure.value)
    assert "'b': '0/second' would never let a call through" in str(failure.value)
    assert "'c'" not in str(failure.value)


def test_it_costs_nothing_when_it_is_not_named(site: Path) -> None:
    """Installed but not named, it is not even imported."""
    (site / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    code = """
import sys, treadle
workflow = treadle.Workflow("w")
workflow.step("one", "site.call", i=1)
assert treadle.run(workflow).status == "completed"
print([name for name in sys.modules if name.split(".")[0] in ("limits", "treadle_limits")])
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)

    assert done.stdout == "[]\n", done.stderr


# -- calls that are put off ------------------------------------------------------------------------------------------------


def test_what_is_put_off_holds_no_place(backend: str) -> None:
    """With ``on_limit = "later"`` others go on, be there a single place; the order is that of arrival, no attempt is lost."""
    workflow = each(4, retry={"max_attempts": 1})
    workflow.step("other", "other.call", foreach=[1, 2, 3], i="${{ item }}")
    recorder = Recorder()

    result = run(workflow, Limits({"api.*": "1/minute"}, on_limit="later"), backend=backend, max_parallel=1, sinks=[recorder])

    first = started[0][2]
    assert result.status == "completed"
    assert result.steps["each"].output == [0, 1, 2, 3]
    assert [round(at - first) for name, _, at in started if name == "other.call"] == [0, 0, 0]
    assert [(i, round(at - first)) for name, i, at in started if name == "api.read"] == [(0, 0), (1, 60), (2, 120), (3, 180)]
    scheduled = [one for one in recorder.entries("RetryScheduled") if isinstance(one, RetryScheduled)]
    assert [one.reason for one in scheduled] == ["it waits for its turn: 'api.*' allows 1 per 1 minute"] * 3


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 30),
    amount=st.integers(1, 7),
    seconds=st.integers(1, 90),
    places=st.integers(1, 8),
    takes=st.integers(0, 5),
)
def test_no_window_holds_more_of_what_was_put_off(count: int, amount: int, seconds: int, places: int, takes: int) -> None:
    """Whenever it gets its place; all of them are made."""
    at: list[float] = []

    @executor("api.slow", effects="none")
    async def slow(i: int) -> int:
        at.append(anyio.current_time())
        await anyio.sleep(takes * i % 7)
        return i

    limits = Limits({"*": f"{amount} per {seconds} seconds"}, on_limit="later")
    workflow = each(count, "api.slow", retry={"max_attempts": 1})

    result = virtual_run(workflow, registry=Registry.of(slow, policies=[limits]), max_parallel=places)

    assert result.status == "completed"
    assert len(at) == count
    assert all(later - earlier >= seconds - 1e-6 for earlier, later in zip(at, at[amount:], strict=False))


def test_what_is_put_off_is_not_bounded_by_the_timeout_of_an_attempt() -> None:
    """That is for the call itself, which has not begun."""
    result = run(each(3, timeout=5), Limits({"*": "1/minute"}, on_limit="later"))

    assert result.status == "completed"
    assert result.duration_s == pytest.approx(120, abs=0.1)


def test_short_waits_are_waited_for(backend: str) -> None:
    """What has its turn in a moment is not put off, which would be recorded each time."""
    recorder = Recorder()

    run(each(20), Limits({"*": "1/second"}, on_limit="later"), backend=backend, sinks=[recorder])
    scheduled = len(recorder.entries("RetryScheduled"))
    quick = Recorder()
    limits = Limits({"*": "1/second"}, on_limit="later")
    limits._parsed[0].rates[0].expiry = 0.04  # type: ignore[assignment]  # no rate of the library is so short
    run(each(2), limits, backend=backend, sinks=[quick])

    assert scheduled >= 19
    assert quick.entries("RetryScheduled") == []


def test_who_was_cancelled_holds_nobody_up() -> None:
    """Calls of a run that ended do not come back; of others that do not, nobody waits for long."""
    registry, clock = Registry.of(*EXECUTORS, policies=[Limits({"api.*": "2/hour"}, on_limit="later")]), VirtualClock()
    handles: list[RunHandle] = []

    @executor("test.stop")
    async def stop() -> None:
        await anyio.sleep(600)
        handles[0].cancel("enough")

    workflow = each(50)
    workflow.step("stop", "test.stop")
    stopping = Registry.of(*EXECUTORS, stop, policies=registry.policies())

    cancelled = virtual_run(workflow, registry=stopping, clock=clock, on_start=handles.append)
    after = virtual_run(each(2), registry=registry, clock=clock)

    assert cancelled.status == "cancelled"
    assert after.status == "completed"
    assert after.duration_s <= 3600


def test_a_ticket_is_held_for_a_while_only() -> None:
    """Who does not come back in time has to queue again."""
    tickets = Tickets()
    for number, due in enumerate((10.0, 20.0, 30.0)):
        tickets.put(("run", f"s{number}", None, "primary"), due)

    assert tickets.before(20.0) == 1
    tickets.forget(20.0 + LATE_S)
    assert len(tickets) == 2
    assert tickets.take(("run", "s0", None, "primary")) is None
    assert tickets.take(("run", "s1", None, "primary")) == 20.0
    tickets.forget_run("another")
    assert len(tickets) == 1
    tickets.forget_run("run")
    assert len(tickets) == 0


def test_the_log_does_not_name_the_step_itself(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever shows the line names the step that it is of."""
    caplog.set_level("INFO", logger="treadle.policies")

    run(each(2), Limits({"*": "1/second"}))
    run(each(2), Limits({"*": "1/second"}, on_limit="later"))

    lines = [record.getMessage() for record in caplog.records if record.name == "treadle.policies.limits"]
    assert len(lines) == 2
    assert not any("each" in line for line in lines)
