"""Steps that hold steps, and steps that something stands in for: groups, choices, items, fallbacks, compensations.

What becomes of each, as a run shows it. What the scheduler may never do stands in ``test_scheduler_laws``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from treadle import PermanentError, SyncContext, TransientError, Use, Workflow, executor, load_workflow, resume
from treadle._app import RunHandle
from treadle._loader import loads_workflow
from treadle._memory import MemoryStore
from treadle._models import (
    AttemptEnded,
    CompensationEnded,
    Evaluated,
    FallbackChosen,
    GroupStarted,
    RunStatus,
    RunStopping,
    StepStatus,
)
from treadle._results import RunResult
from treadle.errors import ExpressionError, RunSuspendedError, WorkflowInvalidError
from treadle.testing import VirtualClock, virtual_run

seen: list[object] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    seen.clear()


@executor("echo")
async def echo(value: object) -> object:
    """Give back what is given."""
    seen.append(value)
    return value


@executor("nap")
async def nap(seconds: float) -> float:
    """Sleep."""
    await anyio.sleep(seconds)
    return seconds


@executor("fail")
async def fail(message: str = "no", seconds: float = 0.0, password: str = "") -> None:
    """Fail for good."""
    await anyio.sleep(seconds)
    raise PermanentError(message)


@executor("crash")
async def crash(message: str, password: str) -> None:
    """Fail like code that nobody expected to."""
    raise ValueError(f"{message}: {password}")


@executor("flaky")
async def flaky(ctx: SyncContext, /, succeeds_at: int) -> int:
    """Fail for now, until an attempt."""
    if ctx.attempt < succeeds_at:
        raise TransientError(f"attempt {ctx.attempt} failed")
    return ctx.attempt


@executor("busy")
async def busy(seconds: float) -> int:
    """How many of these run, this one included, when it ends."""
    seen.append(1)
    await anyio.sleep(seconds)
    running = len(seen)
    seen.pop()
    return running


EXECUTORS = [echo, nap, fail, crash, flaky, busy]


def run(steps: Mapping[str, Any], backend: str = "asyncio", **rest: Any) -> RunResult:
    """A workflow of these steps, in virtual time; what is no key of a workflow is an option of the run."""
    options = {key: rest.pop(key) for key in ("on_start", "store", "clock", "inputs_") if key in rest}
    inputs = options.pop("inputs_", None)
    workflow = Workflow.from_dict({"name": "w", "steps": steps, **rest})
    return virtual_run(workflow, inputs, executors=EXECUTORS, backend=backend, **options)


def statuses(result: RunResult) -> dict[str, str]:
    return {path: step.status.value for path, step in result.steps.items()}


def echoes(**values: object) -> dict[str, Any]:
    return {name: {"uses": "echo", "with": {"value": value}} for name, value in values.items()}


BAD = {"uses": "fail"}

# -- parallel ----------------------------------------------------------------------------------------------------------------


def test_steps_of_a_group_run_side_by_side_and_give_one_output(anyio_backend: str) -> None:
    """Three naps of a second take one second, and the group's output maps each id to what it gave."""
    naps = {name: {"uses": "nap", "with": {"seconds": 1}} for name in ("a", "b", "c")}

    result = run({"group": {"parallel": {"steps": naps}}}, anyio_backend)

    assert result.duration_s < 1.5
    assert result.steps["group"].output == {"a": 1, "b": 1, "c": 1}


GROUP = """
{"slug": "research", "executor_type": "parallel_group",
 "config": {"tasks": [{"task_type": "echo", "input": {"value": "one"}}, {"task_type": "fail", "input": {}},
                      {"task_type": "echo", "input": {"value": "{{ run.workflow }}"}}],
            "fail_strategy": "continue"}}
"""


def test_a_parallel_group_of_the_layered_executors_loads_as_it_is(tmp_path: Any) -> None:
    """The JSON that they write is a workflow file; two tasks of one type are told apart (S0-35)."""
    file = tmp_path / "group.json"
    file.write_text(GROUP)

    workflow = load_workflow(file)

    assert json.loads(GROUP)["executor_type"] == "parallel_group"
    group = workflow.steps["research"].parallel
    assert group is not None
    assert (group.on_error, list(group.steps)) == ("continue", ["echo", "fail", "echo-2"])
    assert Workflow.from_dict(workflow.to_dict()) == workflow


def test_a_failed_task_leaves_its_siblings_alone_and_is_seen() -> None:
    """With fail_strategy continue 1 of 3 fails, 2 outputs are there, and the status is partial_failure (S0-36, S0-38)."""
    result = virtual_run(loads_workflow(GROUP, "json"), executors=EXECUTORS)

    assert result.outputs["results"] == {"echo": "one", "fail": None, "echo-2": "research"}
    assert result.steps["research"].status.value == result.status.value == "partial_failure"
    assert result.culprit == "research/fail"


def test_execute_parallel_runs_a_group_without_a_workflow(anyio_backend: str) -> None:
    """Each task runs, at once, and what became of all of them is one answer (S0-37)."""
    from treadle import Registry, execute_parallel

    async def both() -> list[RunResult]:
        registry = Registry.of(*EXECUTORS)
        group = json.loads(GROUP)
        kept = await execute_parallel(group, registry=registry)
        group["config"]["fail_strategy"] = "stop"
        return [kept, await execute_parallel(group, registry=registry)]

    kept, stopped = anyio.run(both, backend=anyio_backend)

    assert kept.status is RunStatus.PARTIAL_FAILURE
    assert kept.outputs["results"]["echo"] == "one"
    assert stopped.status is RunStatus.FAILED


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"slug": 5}, "slug", "expected a text"),
        ({"config": {"tasks": []}}, "config.tasks", "expected a list of tasks, not an empty one"),
        ({"config": {"tasks": [{"task_typ": "x"}]}}, "config.tasks[0].task_typ", "is not a key"),
        (
            {"config": {"tasks": [{"task_type": "x"}], "fail_strategy": "ignore"}},
            "config.fail_strategy",
            "'stop' or 'continue'",
        ),
        ({"more": 1}, "more", "is not a key of a parallel group"),
    ],
)
def test_a_parallel_group_that_is_none_is_refused(change: dict[str, object], path: str, message: str) -> None:
    """With every fault at its path."""
    with pytest.raises(WorkflowInvalidError) as caught:
        Workflow.from_parallel_group({**json.loads(GROUP), **change})

    assert any(fault.path == path and message in fault.message for fault in caught.value.faults)


def test_a_failure_stops_its_group_and_not_what_is_around_it() -> None:
    """Nothing new starts in the group, what runs drains, the rest of it is cancelled; other steps go on (S3-40)."""
    steps = {
        "group": {
            "on_error": "continue",
            "parallel": {
                "steps": {
                    "bad": {"uses": "fail", "with": {"seconds": 1}},
                    "runs": {"uses": "nap", "with": {"seconds": 5}},
                    "later": {"uses": "nap", "needs": "runs", "with": {"seconds": 1}},
                }
            },
        },
        "other": {"uses": "nap", "with": {"seconds": 9}},
        "after": {"uses": "echo", "with": {"value": "${{ steps.group.status }}"}},
    }

    result = run(steps)

    assert statuses(result) == {
        "group/bad": "failed",
        "group/later": "cancelled",
        "group/runs": "completed",
        "group": "failed",
        "after": "completed",
        "other": "completed",
    }
    assert result.steps["after"].output == "failed"
    assert [entry.path for entry in result.entries if isinstance(entry, RunStopping)] == ["group"]


@pytest.mark.parametrize(
    ("most", "expected"), [(1, "partial_failure"), (0, "failed"), ("50%", "partial_failure"), ("49%", "failed")]
)
def test_a_group_bears_a_number_or_a_percent_of_failures(most: int | str, expected: str) -> None:
    """One failure of two steps is within 1 and 50%, and beyond 0 and 49% (S3-41)."""
    steps = {"bad": BAD, **echoes(good=1)}

    result = run({"group": {"parallel": {"max_failures": most, "steps": steps}}})

    assert result.steps["group"].status.value == expected


def test_steps_of_a_group_see_what_is_around_it_and_the_group_waits_for_that() -> None:
    """A reference from within is a need of the group; steps within see each other by their ids."""
    inner = {
        "a": {"uses": "echo", "with": {"value": "${{ steps.first.output + 1 }}"}},
        "b": {"uses": "echo", "with": {"value": "${{ steps.a.output + steps.first.output }}"}},
    }
    steps = {"group": {"parallel": {"steps": {"deep": {"parallel": {"steps": inner}}}}}, **echoes(first=1)}

    result = run(steps)

    assert result.steps["group"].output == {"deep": {"a": 2, "b": 3}}


def test_a_cap_of_a_group_counts_all_calls_within_it(anyio_backend: str) -> None:
    """Also those of groups and items in it; what is outside is not counted."""
    inner = {
        "items": {"uses": "busy", "foreach": [1] * 6, "with": {"seconds": 1}},
        "deep": {"parallel": {"steps": {name: {"uses": "busy", "with": {"seconds": 1}} for name in "abcd"}}},
    }

    result = run({"group": {"parallel": {"max_parallel": 2, "steps": inner}}}, anyio_backend)

    group: Any = result.steps["group"].output
    assert max([*group["items"], *group["deep"].values()]) == 2
    assert result.duration_s == 5.0


def test_a_group_is_cut_at_its_timeout(anyio_backend: str) -> None:
    """What runs is told to stop, and the group ends timed_out; the run goes on if that is borne."""
    inner = {"slow": {"uses": "nap", "with": {"seconds": 60}}, **echoes(quick=1)}
    steps = {"group": {"on_error": "continue", "parallel": {"timeout": "3s", "steps": inner}}}

    result = run({**steps, "after": {"uses": "nap", "needs": "group", "with": {"seconds": 1}}}, anyio_backend)

    assert statuses(result)["group"] == "timed_out"
    assert statuses(result)["group/slow"] == "cancelled"
    assert (result.duration_s, result.status) == (4.0, RunStatus.PARTIAL_FAILURE)
    assert result.steps["group"].error is not None
    assert result.steps["group"].error.type == "GroupTimeoutError"


def test_a_run_is_cut_at_its_timeout_and_cleans_up(anyio_backend: str) -> None:
    """It ends timed_out, its compensations and finally steps run."""
    steps = {
        "done": {"uses": "nap", "with": {"seconds": 1}, "compensate": {"uses": "echo", "with": {"value": "undone"}}},
        "slow": {"uses": "nap", "needs": "done", "with": {"seconds": 60}},
    }

    result = run(steps, anyio_backend, timeout="5s", **{"finally": echoes(clean="cleaned")})

    assert (result.status, result.duration_s) == (RunStatus.TIMED_OUT, 5.0)
    assert seen == ["undone", "cleaned"]


# -- foreach -----------------------------------------------------------------------------------------------------------------


def test_items_are_handed_over_in_batches() -> None:
    """250 items in batches of 100 are three calls, of 100, 100 and 50; the outputs stay in order (S1-37)."""
    each = {"uses": "echo", "foreach": list(range(250)), "batch": 100, "with": {"value": "${{ item | length }}"}}

    result = run({"each": each})

    assert result.steps["each"].output == [100, 100, 50]


@pytest.mark.parametrize(
    ("most", "expected"), [(2, "partial_failure"), (1, "failed"), ("40%", "partial_failure"), ("39%", "failed")]
)
def test_a_foreach_bears_a_number_or_a_percent_of_failed_items(most: int | str, expected: str) -> None:
    """Two of five items fail; up to the limit the step ends partial_failure and what needs it runs (S3-41)."""
    each = {"uses": "flaky", "foreach": [1, 9, 1, 9, 1], "max_failures": most, "with": {"succeeds_at": "${{ item }}"}}
    steps = {
        "each": {**each, "retry": {"max_attempts": 1}},
        "after": {"uses": "echo", "with": {"value": "${{ steps.each.output }}"}},
    }

    result = run(steps)

    assert result.steps["each"].status.value == expected
    assert result.steps["after"].status.value == ("completed" if expected == "partial_failure" else "upstream_failed")
    if expected == "partial_failure":
        assert result.steps["after"].output == [1, None, 1, None, 1]


def test_each_item_can_run_a_whole_group(anyio_backend: str) -> None:
    """Steps within see their item and their siblings of the same item; the items go at most so many at once, in order."""
    inner = {
        "nap": {"uses": "nap", "with": {"seconds": "${{ n }}"}},
        "sum": {"uses": "echo", "with": {"value": "${{ steps.nap.output + index * 10 + steps.base.output }}"}},
    }
    each = {"foreach": [3, 1, 2], "as": "n", "max_parallel": 2, "parallel": {"steps": inner}}

    result = run({"each": each, **echoes(base=100)}, anyio_backend)

    assert result.steps["each"].output == [{"nap": 3, "sum": 103}, {"nap": 1, "sum": 111}, {"nap": 2, "sum": 122}]
    assert result.duration_s == 3.0
    assert [entry.index for entry in result.entries if isinstance(entry, GroupStarted)] == [0, 1, 2]


def test_a_group_within_a_foreach_within_a_foreach_keeps_its_items_apart() -> None:
    """Every instance has a path of its own."""
    inner = {"foreach": [10, 20], "as": "b", "parallel": {"steps": {"x": {"uses": "echo", "with": {"value": "${{ a + b }}"}}}}}
    each = {"foreach": [1, 2], "as": "a", "parallel": {"steps": {"inner": inner}}}

    result = run({"each": each})

    assert result.steps["each"].output == [{"inner": [{"x": 11}, {"x": 21}]}, {"inner": [{"x": 12}, {"x": 22}]}]
    assert result.steps["each[1]/inner[0]/x"].output == 12


# -- choose ------------------------------------------------------------------------------------------------------------------

CHOICE = {
    "small": {"when": "inputs.n < 10", "uses": "echo", "with": {"value": "small"}},
    "even": {"when": "inputs.n % 2 == 0", "priority": 1, "uses": "echo", "with": {"value": "even"}},
    "rest": {"else": True, "uses": "echo", "with": {"value": "rest"}},
}
INPUT = {"n": {"type": "integer"}}


@pytest.mark.parametrize(("n", "taken"), [(4, "even"), (7, "small"), (12, "even"), (13, "rest")])
def test_the_first_branch_whose_condition_holds_is_taken(n: int, taken: str) -> None:
    """By priority, then as declared, and else when none holds; the others are skipped with the reason (S3-27, S3-28)."""
    result = run({"route": {"choose": CHOICE}}, inputs=INPUT, inputs_={"n": n}, outputs={"b": "${{ steps.route.branch }}"})

    assert (result.outputs["b"], result.steps["route"].output) == (taken, taken)
    skipped = {path: step.reason for path, step in result.steps.items() if step.status is StepStatus.SKIPPED}
    assert skipped.keys() == {f"route/{name}" for name in CHOICE if name != taken}
    assert set(skipped.values()) <= {"its 'when' was false", f"branch {taken!r} was taken"}
    asked = [entry.value for entry in result.entries if isinstance(entry, Evaluated)]
    assert asked[0] == taken


def test_a_choice_without_a_true_condition_is_skipped() -> None:
    """Its output and its branch are null, and what needs it runs."""
    steps = {
        "route": {"choose": {"a": {"when": "false", "uses": "echo", "with": {"value": 1}}}},
        "after": {"uses": "echo", "with": {"value": "${{ [steps.route.output, steps.route.branch] }}"}},
    }

    result = run(steps)

    assert result.steps["route"].status is StepStatus.SKIPPED
    assert result.steps["route"].reason == "no branch's 'when' was true"
    assert result.steps["after"].output == [None, None]


def test_conditions_are_parsed_when_the_workflow_is_read() -> None:
    """A condition that is no expression is refused with its place (S3-25)."""
    with pytest.raises(
        WorkflowInvalidError, match=r"steps\.route\.choose\.a\.when: Expression 'inputs\.n >': it ends too early"
    ):
        Workflow.from_dict(
            {"name": "w", "inputs": INPUT, "steps": {"route": {"choose": {"a": {"when": "inputs.n >", "uses": "echo"}}}}}
        )


@pytest.mark.parametrize(
    "attack",
    [
        "''.__class__.__mro__[1].__subclasses__()",
        "().__class__.__bases__",
        "inputs.__init__.__globals__",
        "cycler.__init__.__globals__.os",
        "lipsum.__globals__['os'].system('id')",
        "''|attr('__class__')",
        "__import__('os')",
        "self._TemplateReference__context",
        "steps.a.output.pop()",
        "9**9**9 > 1 and 'a'*10**9 == ''",
    ],
)
def test_no_condition_gets_out_of_plain_data(attack: str) -> None:
    """Neither attributes of Python's objects nor calls, imports or bombs: refused, or an error of the step (S3-26)."""
    try:
        result = run({"route": {"choose": {"a": {"when": attack, "uses": "echo", "with": {"value": 1}}}}, **echoes(b=2)})
    except WorkflowInvalidError:
        return
    error = result.steps["route"].error
    assert error is not None
    assert error.type == ExpressionError.__name__
    assert seen in ([], [2])


# -- what stands in for a step, and what undoes it ----------------------------------------------------------------------------


def test_a_fallback_stands_in_for_what_has_finally_failed(anyio_backend: str) -> None:
    """One after the other once the attempts are used up; the step completes, and the errors before it stay visible (S3-71)."""
    step = {
        "uses": "flaky",
        "with": {"succeeds_at": 9},
        "retry": {"max_attempts": 2, "base": "1s", "jitter": 0},
        "fallback": [{"uses": "fail", "with": {"message": "neither"}}, {"uses": "echo", "with": {"value": "instead"}}],
    }
    after = {"uses": "echo", "with": {"value": "${{ steps.a.errors | map(attribute='message') | list }}"}}

    result = run({"a": step, "after": after}, anyio_backend)

    assert result.status is RunStatus.COMPLETED
    assert result.steps["a"].output == "instead"
    assert result.steps["after"].output == ["attempt 2 failed", "neither"]
    chosen = [(entry.variant, entry.attempts) for entry in result.entries if isinstance(entry, FallbackChosen)]
    assert chosen == [("fallback 1", 2), ("fallback 2", 1)]


def test_each_variant_has_an_idempotency_key_of_its_own() -> None:
    """What the first executor may have done is not what the fallback does."""
    keys: list[str] = []

    @executor("key")
    async def key(ctx: SyncContext, /, ok: bool) -> None:
        """Note the key."""
        keys.append(ctx.idempotency_key)
        if not ok:
            raise PermanentError("no")

    step = {"uses": "key", "with": {"ok": False}, "fallback": {"uses": "key", "with": {"ok": True}}}
    virtual_run(Workflow.from_dict({"name": "w", "steps": {"a": step}}), executors=[key])

    assert len(set(keys)) == 2


def test_completed_steps_are_undone_in_reverse_when_the_run_fails(anyio_backend: str) -> None:
    """Before finally; each with its own output, and one that cannot be undone does not stop the rest."""

    def undo(name: str) -> dict[str, Any]:
        return {"uses": "echo", "with": {"value": [f"undo {name}", f"${{{{ steps.{name}.output }}}}"]}}

    steps = {
        "a": {**echoes(a=1)["a"], "compensate": undo("a")},
        "b": {"uses": "nap", "needs": "a", "with": {"seconds": 2}, "compensate": {"uses": "fail"}},
        "c": {"uses": "nap", "needs": "b", "with": {"seconds": 3}, "compensate": undo("c")},
        "skipped": {**echoes(x=1)["x"], "when": "false", "compensate": undo("skipped")},
        "bad": {"uses": "fail", "needs": "c"},
    }

    result = run(steps, anyio_backend, **{"finally": echoes(clean="${{ run.status }}")})

    assert seen == [1, ["undo c", 3], ["undo a", 1], "failed"]
    undone = [(entry.path, entry.status.value) for entry in result.entries if isinstance(entry, CompensationEnded)]
    assert undone == [("c", "completed"), ("b", "failed"), ("a", "completed")]
    assert (result.status, result.culprit) == (RunStatus.FAILED, "bad")
    assert result.steps["c"].output == 3, "what a step gave is not what undid it gave"


@pytest.mark.parametrize("force", [False, True])
def test_a_cancelled_run_undoes_what_it_did_unless_it_is_forced(force: bool) -> None:
    """A forced cancel does without."""
    handles: list[RunHandle] = []

    @executor("cancel")
    async def cancel() -> None:
        """Cancel the run and wait to be told."""
        handles[0].cancel("enough", force=force)
        await anyio.sleep_forever()

    steps = {"a": {**echoes(a=1)["a"], "compensate": {"uses": "echo", "with": {"value": "undone"}}}}
    workflow = Workflow.from_dict({"name": "w", "steps": {**steps, "b": {"uses": "cancel", "needs": "a"}}})

    result = virtual_run(workflow, executors=[*EXECUTORS, cancel], on_start=handles.append)

    assert result.status is RunStatus.CANCELLED
    assert seen == ([1] if force else [1, "undone"])
    assert [entry.status.value for entry in result.entries if isinstance(entry, CompensationEnded)] == (
        ["cancelled"] if force else ["completed"]
    )


def test_a_run_that_completes_or_fails_in_part_undoes_nothing() -> None:
    """Only what did not succeed as a whole is taken back."""
    done = {**echoes(a=1)["a"], "compensate": {"uses": "echo", "with": {"value": "undone"}}}

    run({"a": done, "bad": {**BAD, "on_error": "continue"}})

    assert seen == [1]


def test_a_run_has_one_budget_of_retries(anyio_backend: str) -> None:
    """All its steps together are tried again at most so often, with jitter between; the rest say why not (S3-83)."""
    retry = {"max_attempts": 9, "base": "2s", "jitter": 0.5}
    steps = {name: {"uses": "flaky", "retry": retry, "with": {"succeeds_at": 9}} for name in ("a", "b", "c")}

    result = run(steps, anyio_backend, max_retries=4, on_error="continue")

    assert sum(step.attempts for step in result.steps.values()) == 3 + 4
    reasons = {step.reason for step in result.steps.values()}
    assert reasons == {"not retried: the run's max_retries of 4 are used up"}
    delays = {
        round(entry.outcome.retry.delay_s, 6)  # type: ignore[union-attr]  # each proposes one
        for entry in result.entries
        if isinstance(entry, AttemptEnded) and entry.attempt == 1
    }
    assert len(delays) > 1, "jitter spreads them"


# -- failures and who looks at them --------------------------------------------------------------------------------------------


def test_the_error_record_holds_stack_and_inputs_and_reaches_later_steps() -> None:
    """Class, message, stack and what the call was given, secrets as ***, under errors.NAME (S3-38, S3-42)."""
    steps = {
        "a": {
            "uses": "crash",
            "with": {"message": "cannot log in", "password": "pre-${{ secrets.TOKEN }}"},
        },
        "b": {"uses": "echo", "needs_rule": "all_done", "with": {"value": "${{ errors.a }}"}},
        "c": {"uses": "echo", "needs_rule": "all_done", "with": {"value": "${{ errors.b }}"}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKEN", "s3cret")
        result = run(steps, secrets=["TOKEN"], on_error="continue")

    record: Any = result.steps["b"].output
    assert (record["type"], record["message"]) == ("ValueError", "cannot log in: pre-***")
    assert (record["step"], record["status"], record["attempts"]) == ("a", "failed", 1)
    assert "raise ValueError(" in record["stack"]
    assert record["inputs"] == {"message": "cannot log in", "password": "pre-***"}
    assert result.steps["c"].output is None, "b did not fail"
    assert "s3cret" not in repr(result.entries)


def test_inputs_of_an_error_are_cut() -> None:
    """A megabyte that was handed over does not go into the record a second time."""
    result = run({"a": {"uses": "fail", "with": {"message": "m" * 1_000_000}}})

    error = result.steps["a"].error
    assert error is not None
    assert len(json.dumps(error.inputs)) < 5_000
    assert "(1000000 in all)" in error.inputs["message"]  # type: ignore[index]  # a mapping


def test_a_failure_that_is_borne_lets_dependents_run_with_null() -> None:
    """on_error continue: the output is null, what needs it runs, and the run ends partial_failure (S3-39)."""
    result = run(
        {"bad": {**BAD, "on_error": "continue"}, "after": {"uses": "echo", "with": {"value": "${{ steps.bad.output }}"}}}
    )

    assert statuses(result) == {"bad": "failed", "after": "completed"}
    assert seen == [None]
    assert result.status is RunStatus.PARTIAL_FAILURE


@pytest.mark.parametrize(
    ("rule", "needs", "status"),
    [
        ("all_succeeded", ["good", "bad"], "upstream_failed"),
        ("any_succeeded", ["good", "bad"], "completed"),
        ("any_succeeded", ["bad", "worse"], "upstream_failed"),
        ("all_done", ["bad", "worse"], "completed"),
        ("any_succeeded", ["skipped", "bad"], "completed"),
    ],
)
def test_what_must_have_succeeded_is_said_by_a_rule(rule: str, needs: list[str], status: str) -> None:
    """In each case all needs are over first; what is not let run names the culprit (S3-43)."""
    steps = {
        **echoes(good=1),
        "bad": {"uses": "fail", "with": {"seconds": 2}},
        "worse": {**echoes(x=1)["x"], "needs": "bad"},
        "skipped": {**echoes(x=1)["x"], "when": "false"},
        "step": {**echoes(x=1)["x"], "needs": needs, "needs_rule": rule},
    }

    result = run(steps, on_error="continue")

    assert result.steps["step"].status.value == status
    assert result.steps["step"].ended_at == result.started_at + 2
    if status == "upstream_failed":
        assert "'bad' did not complete" in result.steps["step"].reason


def test_a_structured_run_goes_on_where_it_stopped() -> None:
    """A run that is let go in the middle of a group, of items and of a fallback ends as if nothing had been."""
    handles: list[RunHandle] = []
    store = MemoryStore()
    inner = {
        "slow": {"uses": "nap", "with": {"seconds": "${{ item }}"}},
        "then": {"uses": "echo", "with": {"value": "${{ steps.slow.output }}"}},
    }
    steps = {
        "each": {"foreach": [1, 50], "parallel": {"steps": inner}},
        "instead": {"uses": "fail", "fallback": {"uses": "nap", "with": {"seconds": 40}}},
        "stop": {"uses": "suspend"},
    }

    @executor("suspend")
    async def suspend() -> None:
        """Let go of the run, once."""
        await anyio.sleep(5)
        if len(handles) == 1:
            handles[0].suspend("for now", drain_s=0)

    options: Any = {"executors": [*EXECUTORS, suspend], "store": store, "on_start": handles.append}
    clock = VirtualClock()
    with pytest.raises(RunSuspendedError) as caught:
        virtual_run(Workflow.from_dict({"name": "w", "steps": steps}), clock=clock, **options)

    run_id = caught.value.run_id
    from treadle import Registry
    from treadle._app import aresume

    registry = Registry.of(*options["executors"])
    result = clock.run(lambda: aresume(run_id, store=store, registry=registry, clock=clock, on_start=handles.append))

    assert result.status is RunStatus.COMPLETED
    assert result.steps["each"].output == [{"slow": 1, "then": 1}, {"slow": 50, "then": 50}]
    assert result.steps["instead"].output == 40
    assert seen.count(1) == 1, "what was acknowledged is not done again"


# -- Python --------------------------------------------------------------------------------------------------------------------


def test_python_builds_what_a_file_says() -> None:
    """The builder and the file are two spellings of one workflow."""
    post = Workflow("post")
    text = post.input("text", type="string")
    post.output("sent", post.step("send", "echo", value=text).output)

    wf = Workflow("w", run_timeout="1h", max_retries=5)
    sites = wf.input("sites", type="array")
    gather = wf.parallel("gather", on_error="continue", max_failures=1, max_parallel=2, timeout="5m", foreach=sites, as_="site")
    page = gather.step(
        "page", "nap", seconds=1, fallback=[Use("nap", seconds=2, retry={"max_attempts": 1}), Use("echo", value=None)]
    )
    gather.step("text", "echo", value=page.output)
    route = wf.choose("route", needs=gather)
    route.step("many", "echo", when=gather.output[0] != None, priority=1, value=1)  # noqa: E711 - it makes an expression
    rest = route.parallel("rest", else_=True)
    rest.step("x", "echo", value=2)
    wf.subflow("post", post, text="hi", needs_rule="all_done", needs=[route], compensate=Use("echo", value="undo"))
    wf.step("each", "echo", foreach=sites, batch=10, max_failures="5%", on_interrupt="fail", value=route.branch)

    assert wf.to_dict() == {
        "name": "w",
        "inputs": {"sites": {"type": "array"}},
        "steps": {
            "gather": {
                "parallel": {
                    "steps": {
                        "page": {
                            "uses": "nap",
                            "with": {"seconds": 1},
                            "fallback": [
                                {"uses": "nap", "with": {"seconds": 2}, "retry": {"max_attempts": 1}},
                                {"uses": "echo", "with": {"value": None}},
                            ],
                        },
                        "text": {"uses": "echo", "with": {"value": "${{ steps.page.output }}"}},
                    },
                    "on_error": "continue",
                    "max_failures": 1,
                    "max_parallel": 2,
                    "timeout": "5m",
                },
                "foreach": "${{ inputs.sites }}",
                "as": "site",
            },
            "route": {
                "choose": {
                    "many": {
                        "uses": "echo",
                        "with": {"value": 1},
                        "when": "steps.gather.output[0] != null",
                        "priority": 1,
                    },
                    "rest": {"parallel": {"steps": {"x": {"uses": "echo", "with": {"value": 2}}}}, "else": True},
                },
                "needs": ["gather"],
            },
            "post": {
                "workflow": "post",
                "with": {"text": "hi"},
                "needs": ["route"],
                "needs_rule": "all_done",
                "compensate": {"uses": "echo", "with": {"value": "undo"}},
            },
            "each": {
                "uses": "echo",
                "with": {"value": "${{ steps.route.branch }}"},
                "foreach": "${{ inputs.sites }}",
                "batch": 10,
                "max_failures": "5%",
                "on_interrupt": "fail",
            },
        },
        "timeout": "1h",
        "max_retries": 5,
        "workflows": {
            "post": {
                "name": "post",
                "inputs": {"text": {"type": "string"}},
                "steps": {"send": {"uses": "echo", "with": {"value": "${{ inputs.text }}"}}},
                "outputs": {"sent": "${{ steps.send.output }}"},
            }
        },
    }
    assert Workflow.from_dict(wf.to_dict()) == wf
    assert loads_workflow(wf.to_yaml(), "yaml") == wf
    result = virtual_run(wf, {"sites": [1, 2]}, executors=EXECUTORS).check()
    assert result.steps["post"].output == {"sent": "hi"}
    assert result.steps["route"].output == 1


def test_the_builder_refuses_what_a_file_may_not_say() -> None:
    """At once, with the place."""
    wf = Workflow("w")
    group = wf.parallel("group")
    group.step("a", "echo", value=1)

    with pytest.raises(WorkflowInvalidError, match="'a' is declared already"):
        group.step("a", "echo", value=1)
    with pytest.raises(WorkflowInvalidError, match="'group' is declared already"):
        group.step("group", "echo", value=1)
    with pytest.raises(WorkflowInvalidError, match="a branch needs a 'when'"):
        wf.choose("route").step("x", "echo", value=1)
    with pytest.raises(WorkflowInvalidError, match="a group needs at least one step"):
        virtual_run(_with_empty_group(), executors=EXECUTORS)


def _with_empty_group() -> Workflow:
    wf = Workflow("w")
    wf.parallel("group")
    return wf


def test_resume_is_public() -> None:
    """What the test of going on uses is what users call."""
    assert callable(resume)


# -- what others see of it -----------------------------------------------------------------------------------------------------

NESTED: dict[str, Any] = {
    "each": {
        "foreach": [1, 2],
        "parallel": {"steps": {"a": {"uses": "echo", "with": {"value": "${{ item }}"}}}},
        "compensate": {"uses": "echo", "with": {"value": "undo"}},
    },
    "bad": {"uses": "fail", "needs": "each", "fallback": {"uses": "crash", "with": {"message": "m", "password": "p"}}},
}


def test_spans_nest_as_the_steps_do() -> None:
    """A step's span is a child of its group's, of its item's where there is a foreach; names do not grow with the items."""
    spans = {span.span_id: span for span in run(NESTED).spans}
    by_name: dict[str, list[Any]] = {}
    for span in spans.values():
        by_name.setdefault(span.name, []).append(span)

    steps = by_name["each/a"]
    assert len(steps) == 2
    items = [spans[step.parent_id] for step in steps]
    assert [item.attributes["treadle.step.index"] for item in items] == [0, 1]
    assert {spans[item.parent_id].name for item in items} == {"each"}
    (whole,) = [span for span in by_name["each"] if span not in items]
    assert spans[whole.parent_id].name == "RUN w"
    for step in steps:
        assert whole.started_at <= step.started_at <= step.ended_at <= whole.ended_at
    assert all(span.parent_id in spans or span.name == "RUN w" for span in spans.values())


def test_rows_tell_groups_items_and_variants() -> None:
    """Each instance has a row, a group's says how it ended; what undid a step leaves its row as it was."""
    from treadle._log_rows import rows_of

    rows = rows_of(run(NESTED).entries)

    steps = {(row.path, row.index): row for row in rows.steps}
    assert {place: row.status.value for place, row in steps.items()} == {
        ("each", None): "completed",
        ("each", 0): "completed",
        ("each", 1): "completed",
        ("each[0]/a", None): "completed",
        ("each[1]/a", None): "completed",
        ("bad", None): "failed",
    }
    assert steps["each[1]/a", None].executor == "echo"
    assert sorted((span.executor_type, span.task_id) for span in rows.spans) == [
        ("crash", "bad"),
        ("echo", "each[0]"),
        ("echo", "each[0]/a"),
        ("echo", "each[1]"),
        ("echo", "each[1]/a"),
        ("fail", "bad"),
    ]


def test_progress_is_folded_into_the_steps_of_the_run() -> None:
    """A line for each step of the run, none for each step of each item that goes well."""
    from treadle._cli._view import RunView

    view = RunView()
    result = run(NESTED)
    lines = [change.text for record in result.records for change in view.apply(record)]

    assert view.steps_total == 2
    assert sum(view.ended.values()) == 2
    assert not [line for line in lines if line.startswith("each[0]/a")]
    assert [line for line in lines if line.startswith("each: completed")]
    assert "bad: fallback 1 is tried: PermanentError: no" in lines
    assert lines.count("each[1]: undone") == 1
    assert not view.steps, "nothing is shown as under way after the end"


@pytest.mark.parametrize(
    ("step", "path", "message"),
    [
        ({"parallel": {"steps": {}}}, "steps.a.parallel.steps", "a group needs at least one step"),
        ({"parallel": {"tasks": {}}}, "steps.a.parallel.tasks", "did you mean 'steps'?"),
        ({"parallel": {"steps": {"b": BAD}}, "timeout": "5s"}, "steps.a.timeout", "write it inside of 'parallel'"),
        (
            {"parallel": {"steps": {"b": BAD}}, "retry": {"max_attempts": 2}},
            "steps.a.retry",
            "give it to the steps in 'parallel'",
        ),
        ({"parallel": {"steps": {"a": BAD}}}, "steps.a.parallel.steps.a", "is taken by a step around it"),
        (
            {"parallel": {"steps": {"b": {**BAD, "needs": "z"}}}},
            "steps.a.parallel.steps.b.needs",
            "the whole group needs it: put it there",
        ),
        ({"uses": "fail", "parallel": {"steps": {"b": BAD}}}, "steps.a.parallel", "exactly one of 'uses' and 'parallel'"),
        ({"choose": {}}, "steps.a.choose", "a choice needs at least one branch"),
        ({"choose": {"b": BAD}}, "steps.a.choose.b", "a branch needs a 'when'"),
        ({"choose": {"b": {**BAD, "else": True, "when": "true"}}}, "steps.a.choose.b.when", "not both"),
        (
            {"choose": {"b": {**BAD, "else": True}, "c": {**BAD, "else": True}}},
            "steps.a.choose.c.else",
            "'b' is the 'else' already",
        ),
        ({"choose": {"b": {**BAD, "when": "true", "needs": "z"}}}, "steps.a.choose.b.needs", "is not a key of a branch"),
        ({"workflow": "x-${{ inputs.y }}"}, "steps.a.workflow", "a subflow is fixed"),
        ({**BAD, "batch": 2}, "steps.a.batch", "belongs to a foreach"),
        ({**BAD, "max_failures": 2}, "steps.a.max_failures", "belongs to a foreach"),
        ({**BAD, "needs_rule": "any"}, "steps.a.needs_rule", "'all_succeeded', 'all_done' or 'any_succeeded'"),
        ({**BAD, "fallback": {"use": "x"}}, "steps.a.fallback.use", "is not a key of a body"),
        ({**BAD, "compensate": {"uses": "x", "when": "true"}}, "steps.a.compensate.when", "is not a key of a body"),
    ],
)
def test_what_no_structure_may_say_is_refused(step: dict[str, Any], path: str, message: str) -> None:
    """With its place and what was meant."""
    with pytest.raises(WorkflowInvalidError) as caught:
        Workflow.from_dict({"name": "w", "steps": {"a": step, "z": BAD}})

    found = {fault.path: f"{fault.message} {fault.remedy}" for fault in caught.value.faults}
    assert message in found[path]


def test_a_group_cannot_be_called_like_the_clean_up() -> None:
    """Its paths would be those of the finally steps."""
    with pytest.raises(WorkflowInvalidError, match="a group cannot be called 'finally'"):
        Workflow.from_dict({"name": "w", "steps": {"finally": {"parallel": {"steps": {"a": BAD}}}}})


def test_an_output_that_looks_like_an_expression_stays_text() -> None:
    """Also through a group, a choice and a fallback."""
    inner = {"b": {"uses": "echo", "with": {"value": "${{ steps.text.output }}"}}}
    steps = {
        **echoes(text="$${{ 1 + 1 }}"),
        "group": {"parallel": {"steps": inner}},
        "route": {"choose": {"c": {"else": True, "uses": "echo", "with": {"value": "${{ steps.group.output.b }}"}}}},
        "last": {**BAD, "fallback": {"uses": "echo", "with": {"value": "${{ steps.route.output }}"}}},
    }

    result = run(steps)

    assert result.steps["last"].output == "${{ 1 + 1 }}"


# -- what fails as a whole

UNDO = {"uses": "echo", "with": {"value": "undone"}}


def go(document: dict[str, Any], *more: object, on_start: Callable[[RunHandle], object] | None = None) -> RunResult:
    """A run in virtual time."""
    return virtual_run(Workflow.from_dict(document), executors=[echo, nap, fail, *more], on_start=on_start)


def undone(result: RunResult) -> list[str]:
    return [
        f"{entry.path} {entry.status.value}" + ("" if entry.index is None else f" [{entry.index}]")
        for entry in result.entries
        if isinstance(entry, CompensationEnded)
    ]


def test_a_subflow_that_fails_is_undone_though_the_run_goes_on() -> None:
    """Before its own ``finally`` and before what comes after it, as when it is run by itself; the run ends in part."""
    trip = {
        "name": "trip",
        "steps": {
            "hotel": {
                **echoes(a="room")["a"],
                "compensate": {"uses": "echo", "with": {"value": "no ${{ steps.hotel.output }}"}},
            },
            "car": {**echoes(a="car")["a"], "needs": "hotel", "compensate": {"uses": "echo", "with": {"value": "no car"}}},
            "flight": {**BAD, "needs": "car"},
        },
        "finally": {"tell": {"uses": "echo", "with": {"value": "${{ run.status }}"}}},
    }
    steps = {
        "trip": {"workflow": "trip", "on_error": "continue"},
        "after": {**echoes(a="after")["a"], "needs": "trip"},
    }
    by_itself = go({"name": "w", **{key: value for key, value in trip.items() if key != "name"}})
    order = list(seen)
    seen.clear()
    result = go({"name": "w", "steps": steps, "workflows": {"trip": trip}})

    assert by_itself.status is RunStatus.FAILED
    assert seen == [*order, "after"]
    assert order == ["room", "car", "no car", "no room", "failed"]
    assert result.status is RunStatus.PARTIAL_FAILURE
    assert result.steps["trip"].status is StepStatus.FAILED


@pytest.mark.parametrize("bears", [True, False])
def test_an_item_that_fails_is_undone_alone_where_that_is_borne(bears: bool) -> None:
    """The others stay as they are; where it is not borne, the run undoes all, the last first."""
    group = {
        "on_error": "stop",
        "steps": {
            "book": {**echoes(a="${{ item }}")["a"], "compensate": {"uses": "echo", "with": {"value": "undo ${{ item }}"}}},
            "pay": {"uses": "fail", "needs": "book", "when": "item == 2"},
        },
    }
    each = {"foreach": [1, 2], "max_parallel": 1, "parallel": group, **({"max_failures": 1} if bears else {})}
    result = go({"name": "w", "steps": {"each": each}})

    assert undone(result) == (["each[1]/book completed"] if bears else ["each[1]/book completed", "each[0]/book completed"])
    assert result.status is (RunStatus.PARTIAL_FAILURE if bears else RunStatus.FAILED)


def test_what_a_group_has_undone_is_not_undone_again_when_the_run_fails() -> None:
    """And what is not borne inside is undone with what is around it, in one row."""
    inner = {"on_error": "stop", "steps": {"deep": {**echoes(a=1)["a"], "compensate": UNDO}, "bad": {**BAD, "needs": "deep"}}}
    first = {**echoes(a=2)["a"], "compensate": UNDO}
    outer = {"on_error": "stop", "steps": {"first": first, "inner": {"needs": "first", "parallel": inner}}}
    steps = {
        "before": {**echoes(a=3)["a"], "compensate": UNDO},
        "outer": {"needs": "before", "on_error": "continue", "parallel": outer},
        "last": {**BAD, "needs": "outer"},
    }
    result = go({"name": "w", "steps": steps})

    assert undone(result) == ["outer/inner/deep completed", "outer/first completed", "before completed"]
    assert result.status is RunStatus.FAILED


@pytest.mark.parametrize("is_forced", [False, True])
def test_a_cancel_waits_for_what_a_group_undoes_unless_it_is_forced(is_forced: bool) -> None:
    """Undoing is clean-up; what is left when a forced cancel ends it is told."""
    handles: list[RunHandle] = []

    @executor("stop")
    async def stop() -> None:
        """Cancel the run while the group is undone."""
        await anyio.sleep(2)
        handles[0].cancel("enough", force=is_forced)
        await anyio.sleep_forever()

    undo = {"uses": "nap", "with": {"seconds": 5}}
    group = {
        "on_error": "stop",
        "steps": {
            "a": {**echoes(a=1)["a"], "compensate": undo},
            "b": {**echoes(a=1)["a"], "needs": "a", "compensate": undo},
            "bad": {**BAD, "needs": "b"},
        },
    }
    steps = {"g": {"parallel": group, "on_error": "continue"}, "stops": {"uses": "stop"}}
    result = go({"name": "w", "steps": steps}, stop, on_start=handles.append)

    assert result.status is RunStatus.CANCELLED
    assert undone(result) == (["g/a cancelled", "g/b cancelled"] if is_forced else ["g/b completed", "g/a completed"])
    assert result.duration_s == (2 if is_forced else 10)


def test_a_compensation_that_fails_in_a_group_does_not_stop_the_others() -> None:
    """It is reported; the group ends as it would have."""
    group = {
        "on_error": "stop",
        "steps": {
            "a": {**echoes(a=1)["a"], "compensate": UNDO},
            "b": {**echoes(a=1)["a"], "needs": "a", "compensate": {"uses": "fail"}},
            "bad": {**BAD, "needs": "b"},
        },
    }
    result = go({"name": "w", "steps": {"g": {"parallel": group, "on_error": "continue"}}})

    assert undone(result) == ["g/b failed", "g/a completed"]
    assert result.steps["g"].status is StepStatus.FAILED
