"""The conductor: what expressions see, how calls are rendered, and that stored values never change. No event loop anywhere."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle import Workflow
from treadle import _conductor as conductor_module
from treadle._conductor import Conductor
from treadle._models import (
    AttemptEnded,
    Call,
    CancelRequested,
    Command,
    Entry,
    ErrorInfo,
    Evaluated,
    Fact,
    Finish,
    GiveUp,
    Outcome,
    RetryAfter,
    RunCreated,
    RunEnded,
    RunStatus,
    SecretReference,
    SetTimer,
    Start,
    StepEnded,
    StepStatus,
    StintOpened,
    TimerFired,
    Turn,
)
from treadle._plan import Plan, compile_plan

BOOM = ErrorInfo("Boom", "it broke")
AGAIN = RetryAfter(5.0, "may help")


class Run:
    """A run in a test's hands: it plays the driver."""

    def __init__(self, workflow: Workflow, **inputs: object) -> None:
        self.plan: Plan = compile_plan(workflow)
        self.conductor = Conductor(self.plan)
        self.now = 100.0
        self.entries: list[Entry] = []
        self.calls: dict[tuple[str, int | None], Call] = {}
        self.timers: list[SetTimer] = []
        created = RunCreated(100.0, "run-1", workflow.to_dict(), workflow.hash, inputs, "a" * 32, "b" * 16)
        self.apply(created)
        self.apply(StintOpened(100.0, 1))

    def apply(self, fact: Fact) -> Turn:
        turn = self.conductor.apply(fact)
        self.entries += turn.records
        for command in turn.commands:
            self.take(command)
        return turn

    def take(self, command: Command) -> None:
        if isinstance(command, Start):
            assert command.call is not None
            self.calls[command.path, command.index] = command.call
        elif isinstance(command, SetTimer):
            self.timers.append(command)

    def ends(self, path: str, outcome: Outcome, index: int | None = None) -> Turn:
        self.now += 1.0
        call = self.calls.pop((path, index))
        return self.apply(AttemptEnded(self.now, path, index, call.attempt, outcome, stint=call.stint))

    def completes(self, path: str, output: object = None, index: int | None = None) -> Turn:
        return self.ends(path, Outcome("completed", output), index)

    def fails(self, path: str, index: int | None = None, retry: RetryAfter | GiveUp | None = None) -> Turn:
        return self.ends(path, Outcome("failed", error=BOOM, retry=retry), index)

    def fires(self) -> Turn:
        timer = self.timers.pop(0)
        self.now = max(self.now, timer.due)
        return self.apply(TimerFired(self.now, timer.timer_id))

    @property
    def result(self) -> RunEnded:
        entry = self.entries[-1]
        assert isinstance(entry, RunEnded)
        return entry

    def ended(self, path: str) -> StepEnded:
        return next(entry for entry in self.entries if isinstance(entry, StepEnded) and entry.path == path)


def steps(**declared: dict[str, object]) -> Workflow:
    return Workflow.from_dict({"name": "w", "steps": {name: {"uses": "x", **step} for name, step in declared.items()}})


# -- what expressions see ----------------------------------------------------------------------------------------------------


def test_expressions_see_inputs_outputs_errors_and_the_run() -> None:
    """The variables of a run, its steps' outputs and their errors, each by a look-up with dots (S3-02, S3-03, S3-04)."""
    workflow = Workflow.from_dict(
        {
            "name": "names",
            "inputs": {"a": {"type": "object"}},
            "steps": {
                "good": {"uses": "x"},
                "bad": {"uses": "x", "on_error": "continue", "retry": {"max_attempts": 2}},
                "all": {
                    "uses": "x",
                    "with": {
                        "variable": "${{ inputs.a.b.c }}",
                        "output": "${{ steps.good.output.list[1] }}",
                        "error": "${{ steps.bad.error }}",
                        "nothing": "${{ steps.bad.output }}",
                        "status": "${{ steps.bad.status }}",
                        "attempts": "${{ steps.bad.attempts }}",
                        "run": "${{ run.workflow }} ${{ run.id }} ${{ run.status }} ${{ run.started_at }} ${{ run.trace_id }}",
                    },
                },
            },
        }
    )
    run = Run(workflow, a={"b": {"c": [1, None]}})

    run.completes("good", {"list": ["x", {"deep": True}]})
    run.fails("bad", retry=AGAIN)
    run.fires()
    run.fails("bad")

    assert run.calls["all", None].inputs == {
        "variable": [1, None],
        "output": {"deep": True},
        "error": {"type": "Boom", "message": "it broke"},
        "nothing": None,
        "status": "failed",
        "attempts": 2,
        "run": f"names run-1 running 100.0 {'a' * 32}",
    }


def test_values_are_replaced_within_nested_data_and_keep_their_type() -> None:
    """In lists and mappings, however deep; more than the expression makes text (S3-06)."""
    workflow = steps(
        a={}, b={"with": {"list": [{"n": "${{ steps.a.output }}"}, "n=${{ steps.a.output }}"], "fixed": {"x": [1]}}}
    )
    run = Run(workflow)

    run.completes("a", 7)

    assert run.calls["b", None].inputs == {"list": [{"n": 7}, "n=7"], "fixed": {"x": [1]}}


def test_inputs_are_gathered_from_the_needs() -> None:
    """A step starts when all that it refers to is there, and is given it (S3-13)."""
    run = Run(steps(join={"with": {"both": ["${{ steps.l.output }}", "${{ steps.r.output }}"]}}, l={}, r={}))
    assert set(run.calls) == {("l", None), ("r", None)}

    run.completes("r", "right")
    assert ("join", None) not in run.calls
    run.completes("l", "left")

    assert run.calls["join", None].inputs == {"both": ["left", "right"]}


def test_what_is_missing_names_the_place_and_what_there_is() -> None:
    """The step fails, in the same turn, without having started (S3-03)."""
    run = Run(steps(a={}, b={"with": {"x": "${{ steps.a.output.lenght }}"}}))

    turn = run.completes("a", {"length": 3})

    assert not run.calls
    error = run.ended("b").error
    assert error is not None
    assert error.type == "ExpressionError"
    assert "has no key 'lenght'" in error.message
    assert "length" in error.remedy
    assert [entry.kind for entry in turn.records] == [
        "AttemptEnded",
        "StepEnded",
        "AttemptStarted",
        "Evaluated",
        "StepEnded",
        "RunStopping",
        "RunEnded",
    ]
    assert {entry.at for entry in turn.records} == {101.0}


def test_items_see_their_name_and_index() -> None:
    """``as`` names the item; ``index`` counts from 0; the output is a list in item order."""
    run = Run(steps(each={"foreach": ["a", "b"], "as": "letter", "with": {"x": "${{ letter }}${{ index }}"}}))

    assert [run.calls["each", index].inputs for index in (0, 1)] == [{"x": "a0"}, {"x": "b1"}]
    run.completes("each", "B", 1)
    run.completes("each", "A", 0)

    assert run.conductor.output("each") == ["A", "B"]


def test_errors_of_items_stand_beside_their_outputs() -> None:
    """Null for items that completed, also after a retry."""
    each = {"foreach": [0, 1, 2], "on_error": "continue", "retry": {"max_attempts": 2}}
    run = Run(steps(each=each, after={"with": {"o": "${{ steps.each.output }}", "e": "${{ steps.each.errors }}"}}))

    run.fails("each", 0, AGAIN)
    run.fails("each", 1)
    run.completes("each", "two", 2)
    run.fires()
    run.completes("each", "zero", 0)

    assert run.calls["after", None].inputs == {
        "o": ["zero", None, "two"],
        "e": [None, {"type": "Boom", "message": "it broke"}, None],
    }


@pytest.mark.parametrize(("items", "said"), [({"a": 1}, "dict"), (None, "null"), ("abc", "str")])
def test_foreach_over_what_is_no_list_fails_the_step(items: object, said: str) -> None:
    """It is said what it was instead."""
    run = Run(steps(a={}, each={"foreach": "${{ steps.a.output }}"}))

    run.completes("a", items)

    error = run.ended("each").error
    assert error is not None
    assert f"it gave {said}, not a list" in error.message


def test_one_expression_gives_all_inputs() -> None:
    """It implies needs as others do; what is no mapping fails the step and is said."""
    run = Run(steps(a={}, b={"with": "${{ steps.a.output | merge({'n': 1}) }}"}, c={"with": "${{ steps.b.output }}"}))

    run.completes("a", {"m": 2})
    assert run.calls["b", None].inputs == {"m": 2, "n": 1}
    run.completes("b", ["no", "mapping"])

    error = run.ended("c").error
    assert error is not None
    assert "it gave list, not a mapping" in error.message


def test_a_foreach_has_a_largest_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that would drown the run is refused."""
    monkeypatch.setattr(conductor_module, "MAX_ITEMS", 3)
    run = Run(steps(a={}, each={"foreach": "${{ steps.a.output }}"}))

    run.completes("a", [1, 2, 3, 4])

    error = run.ended("each").error
    assert error is not None
    assert (error.message, error.remedy) == ("Expression 'foreach of each': it gave 4 items", "Give it at most 3.")


# -- stored values never change ----------------------------------------------------------------------------------------------


def test_a_late_outcome_changes_no_stored_output() -> None:
    """Neither a step's nor an item's: once stored, an output is what it is (S3-05)."""
    run = Run(steps(a={}, each={"foreach": [1, 2]}, last={"needs": ["a", "each"]}))
    run.completes("a", "kept")
    run.completes("each", "kept", 0)
    run.completes("each", "kept", 1)

    for path, index in (("a", None), ("each", 0), ("each", 1)):
        turn = run.apply(AttemptEnded(200.0, path, index, 1, Outcome("completed", "late")))
        assert len(turn.records) == 1

    assert run.conductor.output("a") == "kept"
    assert run.conductor.output("each") == ["kept", "kept"]


def test_a_retry_is_given_the_same_inputs() -> None:
    """Also in finally, where run.status would change between two attempts if another clean-up failed meanwhile."""
    workflow = Workflow.from_dict(
        {
            "name": "w",
            "steps": {"a": {"uses": "x"}},
            "finally": {
                "tells": {"uses": "x", "with": {"status": "${{ run.status }}"}, "retry": {"max_attempts": 2}},
                "breaks": {"uses": "x"},
            },
        }
    )
    run = Run(workflow)
    run.completes("a")
    first = run.calls["finally/tells", None]

    run.fails("finally/tells", retry=AGAIN)
    run.fails("finally/breaks")
    run.fires()

    assert first.inputs == run.calls["finally/tells", None].inputs == {"status": "completed"}


# -- calls -------------------------------------------------------------------------------------------------------------------


def test_a_call_holds_all_that_its_executor_needs() -> None:
    """Plain data: it may be performed in another process."""
    workflow = Workflow.from_dict(
        {
            "name": "w",
            "steps": {"a": {"uses": "x.y", "timeout": "90s", "clients": {"db": "billing"}, "retry": {"max_attempts": 5}}},
        }
    )
    call = Run(workflow).calls["a", None]

    assert (call.run_id, call.workflow, call.path, call.executor) == ("run-1", "w", "a", "x.y")
    assert (call.attempt, call.variant, call.generation, call.stint, call.index) == (1, "primary", 1, 1, None)
    assert (call.timeout_s, dict(call.clients), call.retry.max_attempts) == (90.0, {"db": "billing"}, 5)
    assert (call.trace_id, call.queued_at) == ("a" * 32, 100.0)
    assert call.traceparent == f"00-{'a' * 32}-{call.span_id}-00"


def test_each_attempt_has_its_own_span_under_the_steps() -> None:
    """And one idempotency key for all of them."""
    run = Run(steps(a={"retry": {"max_attempts": 2}}))
    first = run.calls["a", None]
    run.fails("a", retry=AGAIN)
    run.fires()
    second = run.calls["a", None]

    assert first.span_id != second.span_id
    assert first.step_span_id == second.step_span_id
    assert first.idempotency_key == second.idempotency_key


def test_secrets_stay_references() -> None:
    """In the call, in the log and in a dump; only the runner looks them up."""
    workflow = Workflow.from_dict(
        {
            "name": "w",
            "secrets": ["TOKEN"],
            "inputs": {"who": {"default": "me"}},
            "steps": {"a": {"uses": "x", "with": {"auth": ["Bearer ${{ inputs.who }}:${{ secrets.TOKEN }}"]}}},
        }
    )
    call = Run(workflow, who="me").calls["a", None]

    assert "TOKEN" not in json.dumps(call.inputs)
    assert call.secrets == (SecretReference(("auth", 0), (("text", "Bearer me:"), ("secret", "TOKEN"))),)


# -- the log -----------------------------------------------------------------------------------------------------------------


def test_outstanding_gives_the_calls_again_after_a_replay() -> None:
    """What a resumed run releases is what was released, but for the time."""
    run = Run(steps(a={"with": {"x": 1}}, each={"foreach": ["p", "q"], "with": {"x": "${{ item }}"}}))
    again = Conductor(run.plan)

    again.replay(run.entries)

    calls = {(c.path, c.index): c.call for c in again.outstanding() if isinstance(c, Start)}
    assert calls == {key: attrs.evolve(call, queued_at=0.0) for key, call in run.calls.items()}


def test_a_second_stint_takes_over() -> None:
    """The calls of the new stint are new spans of the same attempt, with the same idempotency key."""
    run = Run(steps(a={}))
    first = run.calls["a", None]
    resumed = Conductor(run.plan)
    resumed.replay(run.entries)

    resumed.apply(StintOpened(500.0, 2))
    (start,) = resumed.outstanding()

    assert isinstance(start, Start)
    assert start.call is not None
    assert (start.call.stint, start.call.attempt) == (2, 1)
    assert start.call.span_id != first.span_id
    assert start.call.idempotency_key == first.idempotency_key


RICH = Workflow.from_dict(
    {
        "name": "rich",
        "on_error": "continue",
        "max_parallel": 3,
        "inputs": {"n": {"default": 2}},
        "steps": {
            "a": {"uses": "x", "retry": {"max_attempts": 2}},
            "b": {"uses": "x", "when": "steps.a.output > inputs.n", "with": {"a": "${{ steps.a.output }}"}},
            "each": {"uses": "x", "foreach": [1, 2, 3], "with": {"i": "${{ item }}"}},
            "part": {"uses": "x", "foreach": "${{ steps.each.output }}", "on_error": "continue", "with": {"i": "${{ item }}"}},
            "end": {"uses": "x", "with": {"p": "${{ steps.part.output }}", "e": "${{ steps.part.errors }}"}},
        },
        "finally": {
            "f": {"uses": "x", "when": "run.status != 'completed'", "with": {"s": "${{ run.status }}"}},
            "g": {"uses": "x", "foreach": "${{ steps.each.output or [] }}", "with": {"s": "${{ run.status }}${{ item }}"}},
        },
        "outputs": {"end": "${{ steps.end.output }}", "b": "${{ steps.b.status }}"},
    }
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_dumped_loaded_and_replayed_conductors_go_on_alike(data: st.DataObject) -> None:
    """Whatever the outcomes and their order: equal dumps, equal calls, equal records, through JSON text each time."""
    run = Run(RICH, n=data.draw(st.integers(0, 5)))
    shadow = Conductor.load(run.plan, json.loads(json.dumps(run.conductor.dump())))
    while run.conductor.status is None:
        fact = next_fact(run, data)
        assert shadow.apply(fact).records == run.apply(fact).records
        assert shadow.outstanding() == run.conductor.outstanding()
        assert json.dumps(shadow.dump()) == json.dumps(run.conductor.dump())
        if data.draw(st.booleans()):
            replayed = Conductor(run.plan)
            replayed.replay(run.entries)
            assert json.dumps(replayed.dump()) == json.dumps(run.conductor.dump())
            shadow = replayed if data.draw(st.booleans()) else Conductor.load(run.plan, json.loads(json.dumps(shadow.dump())))

    assert run.conductor.outstanding() == (Finish(run.result.status),)
    assert {entry.path for entry in run.entries if isinstance(entry, StepEnded)} == set(run.plan.steps)


def next_fact(run: Run, data: st.DataObject) -> Fact:
    run.now += data.draw(st.sampled_from([0.0, 1.0]))
    options: list[object] = [*run.calls, *run.timers]
    chosen = data.draw(st.sampled_from(options))
    if data.draw(st.integers(0, 25)) == 25:
        return CancelRequested(run.now, "enough", data.draw(st.booleans()))
    if isinstance(chosen, SetTimer):
        run.timers.remove(chosen)
        run.now = max(run.now, chosen.due)
        return TimerFired(run.now, chosen.timer_id)
    call = run.calls.pop(chosen)  # type: ignore[call-overload]  # a key
    outcome = data.draw(
        st.sampled_from(
            [
                Outcome("completed", data.draw(st.integers(0, 5))),
                Outcome("completed", [1, {"a": None}]),
                Outcome("failed", error=BOOM, retry=AGAIN),
                Outcome("failed", error=BOOM),
            ]
        )
    )
    return AttemptEnded(run.now, call.path, call.index, call.attempt, outcome)


def test_a_question_that_an_earlier_answer_made_idle_is_not_answered() -> None:
    """One condition fails and stops the run; the other question is dropped, and the log ends with the run's end."""
    workflow = steps(a={}, bad={"when": "steps.a.output.x > 1"}, each={"foreach": "${{ steps.a.output.items }}"})
    run = Run(workflow)

    run.completes("a", {"items": [1, 2]})

    assert run.ended("each").status is StepStatus.CANCELLED
    assert [entry.path for entry in run.entries if isinstance(entry, Evaluated)] == ["bad"]
    assert run.conductor.output("each") is None
    assert run.result.status is RunStatus.FAILED
    assert not run.calls
