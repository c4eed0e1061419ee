"""The keys of a step that policies serve: how they are written, what is refused, and what calls carry of them."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
from treadle import PermanentError, Workflow, executor, load_workflow, make_plan
from treadle._codec import dump_line, dump_record, load_call, load_line, load_outcome
from treadle._conductor import Conductor
from treadle._log_rows import rows_of
from treadle._plan import compile_plan
from treadle._plugins import Registry
from treadle._results import RunResult
from treadle.errors import WorkflowInvalidError
from treadle.hookspecs import hookimpl
from treadle.ports import FACTS, Cached, Call, CallCache, CallRate, Outcome, Work
from treadle.testing import Recorder, virtual_run


@executor("acme.read", effects="none")
async def read(n: int = 0, token: str = "") -> int:
    return n


@executor("acme.send")
async def send(n: int = 0) -> int:
    return n


@executor("acme.pay", effects="unsafe")
async def pay(n: int = 0) -> int:
    return n


@attrs.define(eq=False)
class Serving:
    """Serves both keys; answers calls whose executor has an answer here from an earlier one."""

    serves: ClassVar[tuple[str, ...]] = ("cache", "rate_limit")
    answers: Mapping[int, object] = attrs.field(factory=dict)
    calls: list[Call] = attrs.field(factory=list)
    ended: list[Outcome] = attrs.field(factory=list)

    @hookimpl(wrapper=True)
    def execute(self, call: Call) -> Generator[None, Work, Work]:
        work = yield
        self.calls.append(call)
        if call.inputs.get("n") not in self.answers:
            return work

        async def answer() -> Cached:
            return Cached(self.answers[call.inputs["n"]])  # type: ignore[index]  # a number

        return answer

    @hookimpl
    def end_attempt(self, outcome: Outcome) -> None:
        self.ended.append(outcome)


def step(**keys: object) -> dict[str, object]:
    return {"name": "w", "steps": {"one": {"uses": "acme.read", "with": {"n": 1}, **keys}}}


def run(workflow: Workflow, policy: Serving, *sinks: object) -> RunResult:
    return virtual_run(workflow, registry=Registry.of(read, send, pay, policies=[policy]), sinks=sinks)


# -- how they are written


@pytest.mark.parametrize(
    ("cache", "again"),
    [
        ({}, {}),
        ({"ttl": "90s"}, {"ttl": "1m30s"}),
        ({"ttl": 0.5, "key": ["${{ run.workflow }}", 1]}, {"ttl": "500ms", "key": ["${{ run.workflow }}", 1]}),
        ({"key": None, "allow_effects": True}, {"allow_effects": True}),
        ({"allow_effects": False}, {}),
    ],
)
def test_a_cache_reads_back_the_same(cache: object, again: object) -> None:
    """Whatever way it is written; an empty one is not the same as none."""
    workflow = Workflow.from_dict(step(cache=cache))

    assert workflow.to_dict()["steps"]["one"]["cache"] == again  # type: ignore[index,call-overload]  # plain data
    assert Workflow.from_dict(workflow.to_dict()).hash == workflow.hash


@pytest.mark.parametrize(
    ("rate", "again"),
    [
        ({"limit": 30, "per": "minute"}, {"limit": 30, "per": "minute"}),
        ({"limit": 1, "per": 3600, "key": "api"}, {"limit": 1, "per": "hour", "key": "api"}),
        ({"limit": 5, "per": "90s"}, {"limit": 5, "per": "1m30s"}),
    ],
)
def test_a_rate_limit_reads_back_the_same(rate: object, again: object) -> None:
    """In words where there is one for the time."""
    workflow = Workflow.from_dict(step(rate_limit=rate))

    assert workflow.to_dict()["steps"]["one"]["rate_limit"] == again  # type: ignore[index,call-overload]  # plain data


def test_the_builder_takes_them() -> None:
    """With expressions in their keys."""
    workflow = Workflow("w")
    host = workflow.input("host", default="a")
    workflow.step("one", "acme.read", cache={"ttl": "1h", "key": host}, rate_limit={"limit": 1, "per": "second", "key": host})

    built = workflow.to_dict()["steps"]["one"]  # type: ignore[index]  # plain data
    assert built["cache"] == {"ttl": "1h", "key": "${{ inputs.host }}"}  # type: ignore[index,call-overload]  # the same
    assert built["rate_limit"] == {"limit": 1, "per": "second", "key": "${{ inputs.host }}"}  # type: ignore[index,call-overload]  # the same


@pytest.mark.parametrize(
    ("keys", "path", "said"),
    [
        ({"cache": "1h"}, "steps.one.cache", "a cache is a mapping"),
        ({"cache": {"ttl": "soon"}}, "steps.one.cache.ttl", "expected a duration"),
        ({"cache": {"ttl": True}}, "steps.one.cache.ttl", "expected a duration"),
        ({"cache": {"til": "1h"}}, "steps.one.cache.til", "'til' is not a key of a cache"),
        ({"cache": {"allow_effects": "yes"}}, "steps.one.cache.allow_effects", "expected true or false"),
        ({"cache": {"key": "${{ secrets.X }}"}}, "steps.one.cache.key", "the secret 'X' cannot be used here"),
        ({"cache": {"key": "${{ steps.gone.output }}"}}, "steps.one.cache", "there is no step 'gone'"),
        ({"rate_limit": 5}, "steps.one.rate_limit", "a rate_limit is a mapping"),
        ({"rate_limit": {"limit": 5}}, "steps.one.rate_limit", "a rate_limit needs a 'per'"),
        ({"rate_limit": {"limit": 0, "per": "minute"}}, "steps.one.rate_limit.limit", "expected a whole number from 1"),
        ({"rate_limit": {"limit": True, "per": "minute"}}, "steps.one.rate_limit.limit", "expected a whole number from 1"),
        ({"rate_limit": {"limit": 10**10, "per": "minute"}}, "steps.one.rate_limit.limit", "expected a whole number from 1"),
        ({"rate_limit": {"limit": 1, "per": "fortnight"}}, "steps.one.rate_limit.per", "expected second, minute"),
        ({"rate_limit": {"limit": 1, "per": "1500ms"}}, "steps.one.rate_limit.per", "a duration of whole seconds"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, object], path: str, said: str) -> None:
    """Before anything starts, with its place."""
    with pytest.raises(WorkflowInvalidError) as failure:
        make_plan(Workflow.from_dict(step(**keys)), Registry.of(read, policies=[Serving()]))

    assert [(fault.path, said in fault.message) for fault in failure.value.faults] == [(path, True)]


def test_a_step_that_waits_has_neither() -> None:
    """They are for calls."""
    with pytest.raises(WorkflowInvalidError) as failure:
        Workflow.from_dict(
            {"name": "w", "steps": {"one": {"wait": "1s", "cache": {}, "rate_limit": {"limit": 1, "per": "day"}}}}
        )

    assert [fault.path for fault in failure.value.faults] == ["steps.one.cache", "steps.one.rate_limit"]


# -- what may be asked for


@pytest.mark.parametrize(
    ("keys", "policy"), [({"cache": {}}, "cache"), ({"rate_limit": {"limit": 1, "per": "second"}}, "limits")]
)
def test_a_key_that_nobody_serves_is_refused(keys: dict[str, object], policy: str) -> None:
    """Nothing is silently left out: the error says what to install and how to switch it on."""
    with pytest.raises(WorkflowInvalidError) as failure:
        make_plan(Workflow.from_dict(step(**keys)), Registry.of(read))

    [fault] = failure.value.faults
    [key] = keys
    assert fault.message == f"{key!r} is served by the policy {policy!r}, which is not active"
    assert fault.remedy == f'pip install treadle-{policy}, then name it in treadle.toml: [plugins] policies = ["{policy}"]'


@pytest.mark.parametrize(("uses", "said"), [("acme.send", "does not say that it has no effects"), ("acme.pay", "unsafe")])
def test_effects_are_not_left_out_unless_the_file_says_so(uses: str, said: str) -> None:
    """A cached output is a call that is not made: only what may run twice may as well run never."""
    workflow = {"name": "w", "steps": {"one": {"uses": uses, "cache": {}}}}
    registry = Registry.of(read, send, pay, policies=[Serving()])

    with pytest.raises(WorkflowInvalidError, match=said):
        make_plan(Workflow.from_dict(workflow), registry)
    workflow["steps"]["one"]["cache"] = {"allow_effects": True}  # type: ignore[index]  # plain data

    assert make_plan(Workflow.from_dict(workflow), registry).warnings == ()


def test_a_step_with_a_secret_needs_a_key_of_its_own() -> None:
    """What it gives may depend on the secret, and no secret is part of a key."""
    data = step(cache={})
    data["secrets"] = ["TOKEN"]
    data["steps"]["one"]["with"] = {"token": "${{ secrets.TOKEN }}"}  # type: ignore[index]  # plain data
    registry = Registry.of(read, policies=[Serving()])

    with pytest.raises(WorkflowInvalidError, match="the step takes a secret \\(TOKEN\\)"):
        make_plan(Workflow.from_dict(data), registry)
    data["steps"]["one"]["cache"] = {"key": "mine"}  # type: ignore[index]  # plain data

    assert make_plan(Workflow.from_dict(data), registry).warnings == ()


# -- what calls carry


def test_calls_carry_what_their_step_says() -> None:
    """Keys are evaluated for each item, durations are seconds, and the code has a name."""
    policy = Serving()
    workflow = Workflow("w")
    workflow.step("first", "acme.read", n=7)
    workflow.step(
        "each",
        "acme.read",
        foreach=[4, 5],
        n=0,
        cache={"ttl": "1h", "key": {"item": "${{ item }}", "n": "${{ steps.first.output }}"}},
        rate_limit={"limit": 3, "per": "minute", "key": "${{ index }}"},
    )

    run(workflow, policy)

    plain, *items = policy.calls
    assert (plain.cache, plain.rate) == (None, None)
    assert [call.cache.key for call in items if call.cache] == [{"item": 4, "n": 7}, {"item": 5, "n": 7}]
    assert [call.rate for call in items] == [CallRate(3, 60.0, 0), CallRate(3, 60.0, 1)]
    assert {call.cache.ttl_s for call in items if call.cache} == {3600.0}
    versions = {call.cache.version for call in items if call.cache}
    assert len(versions) == 1
    assert versions.pop().split() == ["python", hashlib.sha256(Path(__file__).read_bytes()).hexdigest()]


def test_a_key_that_cannot_be_evaluated_fails_the_step() -> None:
    """As an input that cannot."""
    workflow = Workflow("w", on_error="continue")
    workflow.step("first", "acme.read", n=7)
    workflow.step("one", "acme.read", cache={"key": "${{ steps.first.output.x }}"})

    result = run(workflow, Serving())

    error = result.steps["one"].error
    assert error is not None
    assert error.type == "ExpressionError"


def test_calls_and_outcomes_cross_process_borders_with_it() -> None:
    """And without it they look as they always did."""
    call = Call("r", "w", "p", "e", {}, cache=CallCache(60.0, {"a": [1]}, "v"), rate=CallRate(1, 2.0, "k"))
    outcome = Outcome("completed", 1, cached=True)

    assert load_call(dump_record(call)) == call
    assert load_outcome(dump_record(outcome)) == outcome
    assert dump_record(Call("r", "w", "p", "e", {})).keys() == {"run_id", "workflow", "path", "executor", "inputs"}
    assert dump_record(Outcome("completed", 1)) == {"status": "completed", "output": 1}


# -- what becomes of a cached step


def cached_run(*sinks: object) -> tuple[RunResult, Serving]:
    workflow = Workflow("w")
    one = workflow.step("one", "acme.read", n=1)
    workflow.step("each", "acme.read", foreach=[1, 2], n="${{ item }}", needs="one")
    workflow.step("after", "acme.read", when=one.status == "cached", n=one.output)
    policy = Serving({1: 11})
    return run(workflow, policy, *sinks), policy


def test_a_cached_step_has_a_status_of_its_own() -> None:
    """In the result, in rows, for expressions and in spans; an item has it too, and its step is completed."""
    recorder = Recorder()

    result, policy = cached_run(recorder)

    assert {path: (one.status, one.output) for path, one in result.steps.items()} == {
        "one": ("cached", 11),
        "each": ("completed", [11, 2]),
        "after": ("completed", 11),
    }
    assert result.status == "completed"
    assert result.to_dict()["steps"]["one"]["status"] == "cached"  # type: ignore[index,call-overload]  # plain data
    rows = {(row.path, row.index): str(row.status) for row in rows_of(result.entries).steps}
    assert rows["one", None] == "cached"
    assert (rows["each", 0], rows["each", 1], rows["each", None]) == ("cached", "completed", "completed")
    spans = {span.name: span.attributes for span in recorder.spans}
    assert spans["one"]["treadle.step.status"] == "cached"
    assert spans["attempt one"]["treadle.attempt.cached"] is True
    assert "treadle.attempt.cached" not in spans["attempt after"]
    assert [outcome.cached for outcome in policy.ended] == [True, True, False, False]


def test_a_foreach_is_cached_when_every_item_was() -> None:
    """One that was made makes it a completed step, and so does having no items; a snapshot remembers it."""
    workflow = Workflow("w", max_parallel=1)
    for name, items in {"all": [1, 1], "some": [1, 2], "none": []}.items():
        workflow.step(name, "acme.read", foreach=items, n="${{ item }}")

    result = run(workflow, Serving({1: 11}))

    assert {path: str(step.status) for path, step in result.steps.items()} == {
        "all": "cached",
        "some": "completed",
        "none": "completed",
    }
    plan = compile_plan(workflow)
    conductor = Conductor(plan)
    for entry in result.entries:
        if isinstance(entry, FACTS):
            conductor.apply(entry)
            conductor = Conductor.load(plan, conductor.dump())
    assert conductor.status == "completed"


def test_a_cached_step_replays() -> None:
    """The log says that it was cached, so a replay decides the same, without the policy."""
    result, _ = cached_run()
    entries = [load_line(dump_line(entry)) for entry in result.entries]
    conductor = Conductor(compile_plan(Workflow.from_dict(entries[0].workflow)))  # type: ignore[union-attr]  # RunCreated

    conductor.replay(entries)

    assert conductor.status == "completed"
    assert conductor.output("one") == 11


def test_a_cached_step_counts_as_done(tmp_path: Path) -> None:
    """For groups, choices and rules of needs; it has done nothing that would have to be undone, nor have cached items."""
    file = tmp_path / "w.yaml"
    file.write_text("""
name: w
steps:
  group: {parallel: {steps: {x: {uses: acme.read, with: {n: 1}}, y: {uses: acme.read, with: {n: 2}}}}}
  pick: {needs: group, choose: {yes: {when: "true", uses: acme.read, with: {n: 1}}, no: {else: true, uses: acme.send}}}
  any: {needs: [pick], needs_rule: any_succeeded, uses: acme.read, with: {n: 3}}
  one: {needs: any, uses: acme.read, with: {n: 1}, compensate: {uses: acme.send, with: {n: 10}}}
  each:
    needs: one
    foreach: [1, 2]
    uses: acme.read
    with: {n: "${{ item }}"}
    compensate: {uses: acme.send, with: {n: "${{ item }}"}}
  last: {needs: each, uses: acme.fail}
""")

    @executor("acme.fail")
    async def fail() -> None:
        raise PermanentError("no")

    policy = Serving({1: 11})
    result = virtual_run(load_workflow(file), registry=Registry.of(read, send, fail, policies=[policy]))

    statuses = {path: str(step.status) for path, step in result.steps.items()}
    assert (statuses["group/x"], statuses["group"], statuses["pick/yes"], statuses["pick"]) == (
        *("cached", "completed", "cached", "completed"),
    )
    assert result.steps["group"].output == {"x": 11, "y": 2}
    assert result.steps["pick"].output == 11
    assert [statuses[path] for path in ("any", "one", "each", "last")] == ["completed", "cached", "completed", "failed"]
    undone = [(call.path, call.index) for call in policy.calls if call.variant == "compensation"]
    assert undone == [("each", 1)]


def test_a_cached_output_is_held_to_the_contract() -> None:
    """What was kept by older code may not be what is asked of it now."""
    workflow = Workflow("w")
    workflow.step("one", "acme.read", n=1)

    result = run(workflow, Serving({1: "eleven"}))

    assert result.status == "failed"
    assert result.error is not None
    assert result.error.type == "OutputInvalidError"


def test_a_policy_that_cannot_take_note_of_an_end_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, and the others are told."""

    class Broken:
        @hookimpl
        def end_attempt(self) -> None:
            raise ValueError("not today")

    policy = Serving()
    workflow = Workflow("w")
    workflow.step("each", "acme.read", foreach=[1, 2], n="${{ item }}")

    result = virtual_run(workflow, registry=Registry.of(read, policies=[policy, Broken()]))

    assert result.status == "completed"
    assert len(policy.ended) == 2
    assert len([record for record in caplog.records if "end_attempt" in record.getMessage()]) == 1
