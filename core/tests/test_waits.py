"""Steps that wait: what may be written, what they come to, and how a run with them goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

import anyio
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from treadle import RunHandle, TransientError, Workflow, executor
from treadle._loader import load_workflow
from treadle._models import SignalReceived, StepStatus, TimerFired, WaitEnded
from treadle._payload_schema import APPROVAL, payload_issues, schema_faults
from treadle._plan import compile_plan
from treadle._results import RunResult
from treadle._waits import PlannedWait, Wait, moment_text, parse_moment, wait_faults
from treadle.errors import PayloadInvalidError, SignalNotDeclaredError, WorkflowInvalidError
from treadle.ports import RunStatus
from treadle.testing import virtual_run

HOURS = 3600.0


@executor("nap")
async def nap(seconds: float) -> float:
    """Sleep."""
    await anyio.sleep(seconds)
    return seconds


def go(workflow: Workflow, *executors: object, on_start: Callable[[RunHandle], None] | None = None) -> RunResult:
    return virtual_run(workflow, executors=[nap, *executors], on_start=on_start)


def sent(name: str, payload: object = None, **more: object) -> Callable[[RunHandle], None]:
    return lambda handle: handle.signal(name, payload, **more)  # type: ignore[arg-type]  # a test's own


# -- what may be written


@pytest.mark.parametrize(
    ("data", "key", "problem"),
    [
        (True, "", "expected a duration"),
        ("soon", "", "'soon' is no duration"),
        (-1, "", "not between 0 and 100 years"),
        ({}, "", "a wait needs a 'duration', an 'until' or a 'signal'"),
        ({"duration": "5m", "signal": "go"}, "", "exactly one of 'duration' and 'signal'"),
        ({"signal": "go", "for": 1}, "for", "'for' is not a key of a wait"),
        ({"duration": "5m", "timeout": "1h"}, "timeout", "'timeout' belongs to a wait for a signal"),
        ({"until": "tomorrow"}, "until", "'tomorrow' is no moment"),
        ({"until": "2026-12-01T09:00"}, "until", "does not say its offset from UTC"),
        ({"until": "9999-01-01T00:00Z"}, "until", "not between 1970 and 3000"),
        ({"until": None}, "until", "expected a moment"),
        ({"signal": "1st"}, "signal", "'1st' is not the name of a signal"),
        ({"signal": 7}, "signal", "7 is not the name of a signal"),
        ({"signal": "go", "timeout": 0}, "timeout", "a timeout is more than no time"),
        ({"signal": "go", "timeout": "1h", "on_timeout": "retry"}, "on_timeout", "expected 'fail' or 'skip' or 'continue'"),
        ({"signal": "go", "on_timeout": "skip"}, "on_timeout", "there is no 'timeout'"),
        ({"signal": "go", "timeout": "1h", "default": 1}, "default", "on_timeout: continue"),
        ({"signal": "go", "schema": {"type": "text"}}, "schema.type", "'text' is no type"),
        ({"signal": "go", "schema": {"propertyNames": {}}}, "schema.propertyNames", "not supported"),
        ({"signal": "go", "schema": {"$ref": "#/$defs/x"}}, "schema.$ref", "there is no '#/$defs/x'"),
        ({"signal": "go", "schema": {"pattern": "("}}, "schema.pattern", "not a regular expression"),
        ({"signal": "go", "on_reject": "fail"}, "on_reject", "only an approval can be rejected"),
    ],
)
def test_a_wait_that_cannot_be_is_refused(data: object, key: str, problem: str) -> None:
    """Each with the key and what is wrong."""
    found = [(where, message) for where, message, _ in wait_faults(data)]

    assert any(where == key and problem in message for where, message in found), found


def test_all_faults_of_a_wait_are_reported_at_once(tmp_path: object) -> None:
    """With the line and the column of each, beside those of the step."""
    path = f"{tmp_path}/w.yaml"
    text = """name: w
steps:
  a:
    wait: {signal: "a b", timeout: never, on_timeout: skip, extra: 1}
    with: {x: 1}
    retry: 3
    max_parallel: 1
"""
    with open(path, "w") as file:
        file.write(text)

    with pytest.raises(WorkflowInvalidError) as caught:
        load_workflow(path)

    faults = {fault.path: fault.line for fault in caught.value.faults}
    assert faults == {
        "steps.a.wait.signal": 4,
        "steps.a.wait.timeout": 4,
        "steps.a.wait.extra": 4,
        "steps.a.with": 5,
        "steps.a.retry": 6,
        "steps.a.max_parallel": 7,
    }


def test_references_of_a_wait_are_checked_and_are_needs() -> None:
    """As those of inputs are; secrets may not stand in it."""
    data = {"name": "w", "steps": {"a": {"uses": "nap"}, "b": {"wait": {"until": "${{ steps.a.output }}"}}}}
    assert compile_plan(Workflow.from_dict(data)).needs("b") == ("a",)

    with pytest.raises(WorkflowInvalidError, match="there is no step 'c'"):
        compile_plan(Workflow.from_dict({"name": "w", "steps": {"b": {"wait": "${{ steps.c.output }}"}}}))
    with pytest.raises(WorkflowInvalidError, match="the secret 'KEY' cannot be used here"):
        Workflow.from_dict({"name": "w", "secrets": ["KEY"], "steps": {"b": {"wait": "${{ secrets.KEY }}"}}})


def test_two_steps_of_one_signal_have_one_schema() -> None:
    """Otherwise what fits the one could go to the other."""
    steps = {"a": {"wait": {"signal": "go"}}, "b": {"wait": {"signal": "go", "schema": {"type": "object"}}}}

    with pytest.raises(WorkflowInvalidError, match=r"steps\.b\.wait: 'a' waits for the same signal with another schema"):
        compile_plan(Workflow.from_dict({"name": "w", "steps": steps}))


waits = st.one_of(
    st.floats(0.001, 1e6).map(lambda seconds: round(seconds, 3)),
    st.sampled_from(["5m", "PT1H", "1h30m", "${{ inputs.n }}"]),
    st.fixed_dictionaries({"until": st.sampled_from(["2026-12-01T09:00+01:00", "${{ inputs.at }}", 1_800_000_000])}),
    st.fixed_dictionaries(
        {"signal": st.sampled_from(["go", "go-${{ inputs.n }}"]), "timeout": st.sampled_from(["2d", 60, "${{ inputs.n }}"])},
        optional={
            "schema": st.sampled_from(["approval", {"type": "string"}, True]),
            "on_timeout": st.sampled_from(["fail", "skip"]),
        },
    ),
    st.just({"signal": "go", "timeout": "1d", "on_timeout": "continue", "default": {"x": [1, "${{ inputs.n }}"]}}),
)


@given(waits)
def test_a_wait_reads_back_as_it_was_written(data: object) -> None:
    """Through plain data, and every spelling of one wait has one hash."""
    assert list(wait_faults(data)) == []
    workflow = Workflow.from_dict({"name": "w", "inputs": {"n": {}, "at": {}}, "steps": {"a": {"wait": data}}})
    again = Workflow.from_dict(json.loads(workflow.to_json()))

    assert again.hash == workflow.hash
    assert Wait.read(cast("dict[str, object]", again.to_dict())["steps"]["a"]["wait"]) == workflow.steps["a"].wait  # type: ignore[index]  # plain data
    assert Workflow.from_dict(json.loads(json.dumps(again.to_dict()))) == workflow


def test_spellings_of_a_duration_are_one_workflow() -> None:
    """A number, a short text, ISO 8601, or under its key."""
    spelled = [300, "5m", "PT5M", {"duration": "300s"}]

    assert len({Workflow.from_dict({"name": "w", "steps": {"a": {"wait": wait}}}).hash for wait in spelled}) == 1


def test_the_builder_writes_what_a_file_says() -> None:
    """``wait`` takes all of it."""
    wf = Workflow("w")
    pause = wf.wait("pause", "5m")
    wf.wait("until", until="2026-12-01T09:00+01:00", needs=pause)
    wf.wait("ok", signal="go", schema="approval", timeout="2d", on_timeout="continue", default={"by": pause.output})

    assert wf.to_dict()["steps"] == {
        "pause": {"wait": "5m"},
        "until": {"wait": {"until": "2026-12-01T09:00+01:00"}, "needs": ["pause"]},
        "ok": {
            "wait": {
                "signal": "go",
                "schema": "approval",
                "timeout": "2d",
                "on_timeout": "continue",
                "default": {"by": "${{ steps.pause.output }}"},
            }
        },
    }


def test_moments_are_the_same_in_every_zone() -> None:
    """What a clock on a wall does at the end of summer time changes nothing: an offset says which of the two hours it is."""
    first, second = parse_moment("2026-10-25T02:30+02:00"), parse_moment("2026-10-25T02:30+01:00")

    assert second - first == HOURS
    assert moment_text(first) == "2026-10-25T00:30:00Z"
    assert parse_moment(moment_text(first + 0.25)) == first + 0.25
    assert parse_moment("2026-12-01T08:00Z") == datetime(2026, 12, 1, 8, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("wait", "values", "problem"),
    [
        ({"duration": "${{ inputs.n }}"}, {"n": None}, "expected a duration, not null"),
        ({"duration": "${{ inputs.n }}"}, {"n": "x"}, "'x' is no duration"),
        ({"until": "${{ inputs.n }}"}, {"n": "2026-01-01"}, "does not say its offset"),
        ({"signal": "${{ inputs.n }}"}, {"n": "not good"}, "'not good' is not the name of a signal"),
    ],
)
def test_a_value_that_is_no_wait_fails_the_step(wait: object, values: dict[str, object], problem: str) -> None:
    """With a message that says what it was; nothing hangs."""
    workflow = Workflow.from_dict({"name": "w", "inputs": {"n": {}}, "steps": {"a": {"wait": wait}}})

    result = virtual_run(workflow, values, executors=[nap])

    error = result.steps["a"].error
    assert result.status is RunStatus.FAILED
    assert error is not None
    assert problem in error.message


# -- schemas of payloads


@pytest.mark.parametrize(
    ("schema", "good", "bad", "where"),
    [
        ({"type": "integer"}, [1, 2.0], [True, "1", 1.5, None], "$"),
        ({"type": ["string", "null"]}, ["", None], [0, False], "$"),
        ({"enum": [1, "a", None]}, [1.0, "a", None], [True, "b"], "$"),
        ({"const": {"a": [1]}}, [{"a": [1.0]}], [{"a": [True]}, {}], "$"),
        ({"minLength": 1, "maxLength": 2, "pattern": "^a"}, ["a", "ab"], ["", "abc", "b"], "$"),
        ({"minimum": 1, "exclusiveMaximum": 3, "multipleOf": 0.5}, [1, 2.5], [0.5, 3, 1.25], "$"),
        ({"items": {"type": "integer"}, "minItems": 1, "uniqueItems": True}, [[1], [1, 2]], [[], [1, 1.0]], "$"),
        ({"prefixItems": [{"const": 1}], "items": False}, [[1], []], [[1, 2]], "$[1]"),
        ({"properties": {"a": {"type": "string"}}, "required": ["a"]}, [{"a": ""}, {"a": "", "b": 1}], [{}, {"a": 1}], "$.a"),
        ({"properties": {"a": {}}, "additionalProperties": False}, [{}, {"a": 1}], [{"b": 1}], "$.b"),
        ({"additionalProperties": {"type": "null"}, "maxProperties": 1}, [{"x": None}], [{"x": 1}], "$.x"),
        ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["", 5], [4], "$"),
        ({"oneOf": [{"minimum": 1}, {"minimum": 5}]}, [2], [0, 6], "$"),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1], [0, 3], "$"),
        ({"not": {"type": "string"}}, [1], ["a"], "$"),
        ({"$defs": {"n": {"type": "number"}}, "items": {"$ref": "#/$defs/n"}}, [[1]], [["a"]], "$[0]"),
        (APPROVAL, [{"approved": True}, {"approved": False, "comment": "c"}], [{"approved": "yes"}], "$.approved"),
        (True, [None, {}], [], ""),
    ],
)
def test_payloads_are_held_to_their_schema(schema: object, good: list[object], bad: list[object], where: str) -> None:
    """What fits passes; what does not is told with its place."""
    assert list(schema_faults(schema)) == []
    for payload in good:
        assert payload_issues(schema, payload) == []  # type: ignore[arg-type]  # plain data
    for payload in bad:
        issues = payload_issues(schema, payload)  # type: ignore[arg-type]  # plain data
        assert {issue.path for issue in issues} == {where}, payload


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0, 2.5]) | st.sampled_from(["", "a", "ab", "ü"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=6,
)


def _schemas(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    some = st.lists(inner, min_size=1, max_size=2)
    types = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
    return st.fixed_dictionaries(
        {},
        optional={
            "type": types | st.lists(types, min_size=1, max_size=2, unique=True),
            "enum": st.lists(_plain, min_size=1, max_size=3),
            "const": _plain,
            "minLength": st.integers(0, 2),
            "maxLength": st.integers(0, 2),
            "pattern": st.sampled_from(["^a", "b$", "."]),
            "minimum": st.integers(-2, 2),
            "exclusiveMaximum": st.integers(-2, 2),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "items": inner,
            "prefixItems": some,
            "minItems": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
            "required": st.lists(st.sampled_from(["a", "b"]), unique=True),
            "additionalProperties": inner,
            "maxProperties": st.integers(0, 2),
            "anyOf": some,
            "oneOf": some,
            "allOf": some,
            "not": inner,
        },
    )


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.recursive(st.booleans() | st.just({}), _schemas, max_leaves=5), _plain)
def test_payloads_fit_exactly_when_an_independent_reader_of_schemas_says_so(schema: object, payload: object) -> None:
    """Of any schema that is read here, and any payload."""
    assert list(schema_faults(schema)) == []

    fits = jsonschema.Draft202012Validator(schema).is_valid(payload)  # type: ignore[arg-type]  # plain data

    assert (payload_issues(schema, payload) == []) == fits  # type: ignore[arg-type]  # plain data


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}] * 20}}, "$ref": "#/$defs/a"},
    ],
)
def test_a_schema_that_leads_to_itself_ends(schema: dict[str, object]) -> None:
    """It is applied so often and no more; the payload does not fit."""
    assert list(schema_faults(schema)) == []

    assert payload_issues(schema, {}) != []


def test_references_in_a_circle_are_refused() -> None:
    """When the file is read."""
    schema = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}

    assert any("leads to itself" in problem for _, problem in schema_faults(schema))


# -- runs


def test_a_wait_takes_its_time_and_no_slot() -> None:
    """With one call at once, steps go on while others wait."""
    wf = Workflow("w", max_parallel=1)
    wf.wait("long", "2d")
    wf.step("one", "nap", seconds=60)
    wf.step("two", "nap", seconds=60)

    result = go(wf)

    assert result.duration_s == 48 * HOURS
    assert result.steps["two"].ended_at - result.started_at == 120
    assert result.steps["long"].output == moment_text(result.started_at + 48 * HOURS)
    assert result.steps["long"].duration_s == 48 * HOURS
    assert result.steps["long"].attempts == 0


@pytest.mark.parametrize("offset", [3 * HOURS, 0.0, -5 * HOURS])
def test_a_wait_until_a_moment(offset: float) -> None:
    """It is over then, or at once when that has passed."""
    wf = Workflow("w")
    start = 1_767_225_600.0
    wf.wait("until", until=moment_text(start + offset))

    result = go(wf)

    assert result.duration_s == max(0.0, offset)


def test_fifty_hours_of_waits_in_no_time() -> None:
    """A run of waits, retries and naps keeps each of its times (virtual time)."""

    @executor("flaky")
    async def flaky() -> int:
        """Fail for a day."""
        if flaky.calls < 4:  # type: ignore[attr-defined]  # a test's counter
            flaky.calls += 1  # type: ignore[attr-defined]  # a test's counter
            raise TransientError("not yet")
        return 1

    flaky.calls = 0  # type: ignore[attr-defined]  # a test's counter
    wf = Workflow("w")
    first = wf.wait("first", "10h")
    tried = wf.step("tried", "flaky", needs=first, retry={"max_attempts": 5, "delays": ["5h"], "jitter": 0})
    asked = wf.wait("asked", signal="go", timeout="20h", on_timeout="continue", default="nobody", needs=tried)
    wf.output("asked", asked.output)

    result = go(wf, flaky)

    assert result.status is RunStatus.COMPLETED
    assert result.duration_s == 50 * HOURS
    assert result.outputs == {"asked": "nobody"}


def test_an_early_signal_waits_for_its_step() -> None:
    """Sent before the step is reached, and before the run is driven at all: each step gets one, in the order they came."""
    wf = Workflow("w")
    slow = wf.step("slow", "nap", seconds=5)
    one = wf.wait("one", signal="go", needs=slow)
    wf.wait("two", signal="go", needs=one)

    def send(handle: RunHandle) -> None:
        handle.signal("go", 1)
        handle.signal("go", 2)

    result = go(wf, on_start=send)

    assert (result.steps["one"].output, result.steps["two"].output) == (1, 2)
    assert result.duration_s == 5


def test_a_signal_sent_twice_counts_once() -> None:
    """What has the same id is the same signal."""
    wf = Workflow("w")
    one = wf.wait("one", signal="go")
    wf.wait("two", signal="go", needs=one, timeout="1h", on_timeout="skip")

    def send(handle: RunHandle) -> None:
        handle.signal("go", 1, signal_id="same")
        handle.signal("go", 1, signal_id="same")

    result = go(wf, on_start=send)

    assert result.steps["one"].output == 1
    assert result.steps["two"].status is StepStatus.SKIPPED


def test_a_signal_may_be_sent_for_later() -> None:
    """A custom timer keeps it until its time; each has effect once (S1-45)."""
    wf = Workflow("w")
    wf.wait("one", signal="go")

    result = go(wf, on_start=lambda handle: handle.signal("go", "custom", due=1_767_225_600.0 + 3 * HOURS))

    assert result.steps["one"].output == "custom"
    assert result.duration_s == 3 * HOURS
    assert sum(isinstance(entry, TimerFired) for entry in result.entries) == 1


def test_a_rejection_fails_the_step_unless_it_says_otherwise() -> None:
    """What depends on an approval does not run after a no."""
    wf = Workflow("w")
    ok = wf.wait("ok", signal="ok", schema="approval")
    wf.step("deploy", "nap", seconds=1, needs=ok)

    result = go(wf, on_start=sent("ok", {"approved": False, "comment": "not on a Friday"}))

    error = result.steps["ok"].error
    assert result.status is RunStatus.FAILED
    assert error is not None
    assert "not on a Friday" in error.message
    assert result.steps["deploy"].status is StepStatus.UPSTREAM_FAILED
    assert result.steps["ok"].output == {"approved": False, "comment": "not on a Friday"}


@pytest.mark.parametrize(
    ("name", "payload", "error", "words"),
    [
        ("other", None, SignalNotDeclaredError, "It waits for: ok, region-${{ inputs.n }}"),
        ("ok", {"approved": "yes"}, PayloadInvalidError, "$.approved: must be boolean, not string"),
        ("ok", None, PayloadInvalidError, "$: must be object, not null"),
        ("region-7", {1, 2}, PayloadInvalidError, "no plain JSON"),
        ("region-7", "x" * 2_000_000, PayloadInvalidError, "at most 1048576 are allowed"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_sender(name: str, payload: object, error: type[Exception], words: str) -> None:
    """With the place; the run goes on waiting, and takes the right one."""
    wf = Workflow("w", inputs={"n": {"default": 7}})
    wf.wait("ok", signal="ok", schema="approval")
    wf.wait("region", signal="region-${{ inputs.n }}")

    def send(handle: RunHandle) -> None:
        with pytest.raises(error) as caught:
            handle.signal(name, payload)
        assert words in str(caught.value)
        handle.signal("ok", {"approved": True})
        handle.signal("region-7", 1)

    result = go(wf, on_start=send)

    assert result.status is RunStatus.COMPLETED
    assert sum(isinstance(entry, SignalReceived) for entry in result.entries) == 2


def test_a_cancel_ends_a_wait() -> None:
    """At once; the finally steps run."""
    handles: list[RunHandle] = []

    @executor("stop")
    async def stop() -> None:
        """Cancel the run."""
        handles[0].cancel("enough")

    wf = Workflow("w")
    wf.wait("long", signal="never")
    wf.wait("longer", "9d")
    wf.step("stop", "stop")
    wf.finally_step("clean", "nap", seconds=1)

    result = go(wf, stop, on_start=handles.append)

    assert result.status is RunStatus.CANCELLED
    assert result.duration_s == 1
    assert [result.steps[path].status.value for path in ("long", "longer", "finally/clean")] == [
        "cancelled",
        "cancelled",
        "completed",
    ]


def test_a_failure_ends_what_waits() -> None:
    """With on_error: stop nothing new is begun, and a wait for days does not hold the run."""

    @executor("fail")
    async def fail() -> None:
        """Fail."""
        raise ValueError("no")

    wf = Workflow("w")
    wf.wait("long", "9d")
    wf.step("fails", "fail")

    result = go(wf, fail)

    assert result.status is RunStatus.FAILED
    assert result.duration_s == 0
    assert result.steps["long"].status is StepStatus.CANCELLED
    assert not [entry for entry in result.entries if isinstance(entry, WaitEnded)]


def test_a_compiled_wait_knows_which_signals_it_may_be_for() -> None:
    """A name with an expression may be any that fits its text."""
    wait = PlannedWait.compile(Wait(signal="region-${{ inputs.n }}/ok"))

    assert wait.may_be_for("region-eu/ok")
    assert not wait.may_be_for("region-eu/no")
    assert not PlannedWait.compile(Wait(duration=5.0)).may_be_for("")
