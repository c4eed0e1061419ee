"""What the scheduler decides, case by case. What holds in every case stands in ``test_scheduler_laws``."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from treadle._graph import Graph, Node
from treadle._models import (
    AttemptEnded,
    Cancel,
    CancelRequested,
    Command,
    ErrorInfo,
    Evaluate,
    Evaluated,
    Finish,
    GiveUp,
    ItemEnded,
    MapStarted,
    Outcome,
    RetryAfter,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SetTimer,
    Start,
    StepEnded,
    StepStatus,
    StintOpened,
    TimerFired,
    Turn,
)
from treadle._scheduler import Scheduler

AGAIN = RetryAfter(5.0, "the service was busy")
BOOM = ErrorInfo("Boom", "it broke")


class Play:
    """A run in a test's hands: facts by name, one second apart."""

    def __init__(self, *nodes: Node, max_parallel: int | None = None, **rules: object) -> None:
        self.scheduler = Scheduler(Graph(nodes, **rules))  # type: ignore[arg-type]  # the test names them
        self.now = 0.0
        self.records: list[object] = []
        self.commands: tuple[Command, ...] = ()
        self.apply(RunCreated(0.0, "run", {}, "", {}, max_parallel=max_parallel))
        self.apply(StintOpened(0.0, 1))

    def apply(self, fact: object) -> Turn:
        turn = self.scheduler.apply(fact)  # type: ignore[arg-type]  # the test gives facts
        self.records += turn.records
        self.commands = turn.commands
        return turn

    def completes(self, path: str, index: int | None = None) -> None:
        self.ends(path, index, Outcome("completed", "ok"))

    def fails(self, path: str, index: int | None = None, retry: RetryAfter | GiveUp | None = None) -> None:
        self.ends(path, index, Outcome("failed", error=BOOM, retry=retry))

    def ends(self, path: str, index: int | None, outcome: Outcome) -> None:
        self.now += 1.0
        attempt = next(c.attempt for c in self.starts_open() if (c.path, c.index) == (path, index))
        self.apply(AttemptEnded(self.now, path, index, attempt, outcome))

    def answers(self, path: str, what: str, value: object = None, error: ErrorInfo | None = None) -> None:
        self.apply(Evaluated(self.now, path, what, value, error=error))  # type: ignore[arg-type]  # the test gives it

    def fires(self) -> None:
        """The next timer is due."""
        timer = min((c for c in self.scheduler.outstanding() if isinstance(c, SetTimer)), key=lambda c: c.due)
        self.now = timer.due
        self.apply(TimerFired(timer.due, timer.timer_id))

    def cancels(self, *, force: bool = False) -> None:
        self.apply(CancelRequested(self.now, "stop it", force))

    def starts_open(self) -> list[Start]:
        return [c for c in self.scheduler.outstanding() if isinstance(c, Start)]

    @property
    def running(self) -> list[str]:
        return [c.path if c.index is None else f"{c.path}[{c.index}]" for c in self.starts_open()]

    @property
    def statuses(self) -> Mapping[str, str]:
        return {entry.path: entry.status.value for entry in self.records if isinstance(entry, StepEnded)}

    def ended(self, path: str) -> StepEnded:
        return next(entry for entry in self.records if isinstance(entry, StepEnded) and entry.path == path)

    @property
    def result(self) -> RunEnded:
        entry = self.records[-1]
        assert isinstance(entry, RunEnded)
        assert self.commands[-1] == Finish(entry.status)
        return entry


# -- order -----------------------------------------------------------------------------------------------------------------


def test_a_step_starts_the_moment_its_own_needs_are_done() -> None:
    """No level waits for its slowest member (C16)."""
    play = Play(Node("slow"), Node("quick"), Node("after", needs=("quick",)))

    play.completes("quick")

    assert play.running == ["slow", "after"]


def test_steps_start_in_the_order_of_declaration() -> None:
    """Among equals the file decides."""
    play = Play(Node("c"), Node("a"), Node("b"), max_parallel=2)

    assert play.running == ["c", "a"]


def test_a_chain_completes() -> None:
    """Each in its turn, then the run."""
    play = Play(Node("a"), Node("b", needs=("a",)), Node("c", needs=("b",)))

    for path in "abc":
        assert play.running == [path]
        play.completes(path)

    assert play.result == RunEnded(3.0, RunStatus.COMPLETED)


def test_ten_calls_run_at_once_unless_said_otherwise() -> None:
    """The default cap is 10, counted over all steps and items (S3-12)."""
    play = Play(*[Node(f"s{number}") for number in range(50)])
    peak = 0

    while play.scheduler.status is None:
        peak = max(peak, len(play.running))
        play.completes(play.running[0])

    assert peak == 10


def test_whoever_starts_the_run_may_change_the_cap() -> None:
    """RunCreated's max_parallel wins over the workflow's."""
    play = Play(*[Node(f"s{number}") for number in range(5)], max_parallel=3)

    assert len(play.running) == 3


def test_a_run_without_steps_completes_at_once() -> None:
    """Nothing to do is done."""
    assert Play().result.status is RunStatus.COMPLETED


# -- conditions --------------------------------------------------------------------------------------------------------------


def test_a_condition_is_asked_when_the_needs_are_done_and_lets_the_step_start() -> None:
    """``when`` sees the outputs of what came before."""
    play = Play(Node("a"), Node("b", needs=("a",), has_when=True))
    assert not any(isinstance(c, Evaluate) for c in play.scheduler.outstanding())

    play.completes("a")
    assert play.commands == (Evaluate("b", "when"),)
    play.answers("b", "when", True)

    assert play.running == ["b"]


def test_a_skipped_need_counts_as_satisfied() -> None:
    """A step that is skipped says why, and its dependents run."""
    play = Play(Node("a", has_when=True), Node("b", needs=("a",)))

    play.answers("a", "when", False)

    assert play.ended("a").status is StepStatus.SKIPPED
    assert play.ended("a").reason == "its 'when' was false"
    assert play.running == ["b"]


def test_a_condition_that_cannot_be_evaluated_fails_its_step() -> None:
    """Without an attempt, with the expression's error."""
    play = Play(Node("a", has_when=True))

    play.answers("a", "when", error=BOOM)

    ended = play.ended("a")
    assert (ended.status, ended.attempts, ended.error) == (StepStatus.FAILED, 0, BOOM)
    assert ended.reason == "its 'when' could not be evaluated"


def test_inputs_that_cannot_be_rendered_fail_the_step_and_are_not_retried() -> None:
    """The same data would fail again."""
    play = Play(Node("a", max_attempts=3))

    play.apply(Evaluated(1.0, "a", "inputs", error=BOOM))

    assert play.ended("a").reason == "its inputs could not be rendered"
    assert play.result.status is RunStatus.FAILED


# -- failures ----------------------------------------------------------------------------------------------------------------


def test_what_hangs_on_a_failed_step_is_upstream_failed_and_names_the_culprit() -> None:
    """However far down; a run that goes on ends as a partial failure (S3-43)."""
    play = Play(Node("a"), Node("b", needs=("a",)), Node("c", needs=("b",)), Node("other"), on_error="continue")

    play.fails("a")
    play.completes("other")

    assert play.statuses == {"a": "failed", "b": "upstream_failed", "c": "upstream_failed", "other": "completed"}
    assert (play.ended("c").culprit, play.ended("c").reason) == ("a", "'a' did not complete")
    assert (play.result.status, play.result.culprit, play.result.error) == (RunStatus.PARTIAL_FAILURE, "a", BOOM)


def test_on_error_stop_starts_nothing_new_and_lets_running_steps_drain() -> None:
    """The rest is cancelled, with the reason; what already runs may end."""
    play = Play(Node("a"), Node("b"), Node("after_a", needs=("a",)), Node("after_b", needs=("b",)), on_error="stop")

    play.fails("a")
    assert play.running == ["b"]
    assert play.statuses == {"a": "failed", "after_a": "upstream_failed", "after_b": "cancelled"}
    assert play.ended("after_b").reason == "step 'a' failed"
    play.completes("b")

    assert play.ended("b").status is StepStatus.COMPLETED
    assert (play.result.status, play.result.reason) == (RunStatus.FAILED, "step 'a' failed")


def test_on_error_stop_ends_pending_retries() -> None:
    """A step that waits to be tried again is not tried again."""
    play = Play(Node("a"), Node("b", max_attempts=3), on_error="stop")
    play.fails("b", retry=AGAIN)

    play.fails("a")

    assert play.ended("b").status is StepStatus.CANCELLED
    assert play.result.status is RunStatus.FAILED


def test_a_failure_while_the_run_stops_is_not_retried_and_not_the_cause() -> None:
    """The first is to blame."""
    play = Play(Node("a"), Node("b", max_attempts=3), on_error="stop")
    play.fails("a")

    play.fails("b", retry=AGAIN)

    assert play.ended("b").reason == "not retried: step 'a' failed"
    assert play.result.culprit == "a"


def test_a_step_that_may_fail_lets_its_dependents_run() -> None:
    """``on_error: continue`` on a step: dependents run, and the run ends as a partial failure."""
    play = Play(Node("a", on_error="continue"), Node("b", needs=("a",)), on_error="stop")

    play.fails("a")
    play.completes("b")

    assert play.statuses == {"a": "failed", "b": "completed"}
    assert (play.result.status, play.result.culprit) == (RunStatus.PARTIAL_FAILURE, "a")


def test_a_step_that_must_not_fail_stops_a_run_that_goes_on() -> None:
    """``on_error: stop`` on a step wins over the run's ``continue``."""
    play = Play(Node("a", on_error="stop"), Node("b"), Node("c", needs=("b",)), on_error="continue")

    play.fails("a")
    play.completes("b")

    assert play.statuses == {"a": "failed", "b": "completed", "c": "cancelled"}
    assert play.result.status is RunStatus.FAILED


def test_the_culprit_is_the_failure_that_ended_the_run_not_an_earlier_tolerated_one() -> None:
    """Reason, culprit and error of a run belong together."""
    play = Play(Node("a", on_error="continue"), Node("b"))
    play.fails("a")

    play.ends("b", None, Outcome("timed_out", error=ErrorInfo("StepTimeoutError", "too long")))

    assert play.ended("b").status is StepStatus.TIMED_OUT
    assert (play.result.culprit, play.result.reason) == ("b", "step 'b' failed")
    assert play.result.error == ErrorInfo("StepTimeoutError", "too long")


@pytest.mark.parametrize(("tolerated", "failures"), [(0, 1), (1, 2), (2, 3)])
def test_one_failure_more_than_tolerated_stops_the_run(tolerated: int, failures: int) -> None:
    """``max_failures`` counts failed steps; ``25%`` is made a number by the plan (S3-41)."""
    play = Play(*[Node(f"s{number}") for number in range(6)], Node("z", needs=("s5",)), max_failures=tolerated)

    for number in range(failures):
        assert not any(isinstance(entry, RunStopping) for entry in play.records)
        play.fails(f"s{number}")

    assert any(isinstance(entry, RunStopping) for entry in play.records)
    assert play.ended("z").status is StepStatus.CANCELLED


def test_a_call_that_ends_cancelled_though_nobody_asked_has_failed() -> None:
    """Nothing vanishes without a failure."""
    play = Play(Node("a"), Node("b", needs=("a",)))

    play.ends("a", None, Outcome("cancelled", error=BOOM))

    assert play.statuses == {"a": "failed", "b": "upstream_failed"}
    assert play.result.status is RunStatus.FAILED


# -- retries -----------------------------------------------------------------------------------------------------------------


def test_a_retry_waits_for_its_timer_and_holds_no_slot() -> None:
    """While it waits another step takes the slot; then it takes its turn again."""
    play = Play(Node("a", max_attempts=2), Node("b"), max_parallel=1)

    play.fails("a", retry=AGAIN)
    assert play.running == ["b"]
    assert play.scheduler.step_status("a") is StepStatus.RETRYING
    scheduled = next(entry for entry in play.records if isinstance(entry, RetryScheduled))
    assert scheduled == RetryScheduled(1.0, "a", None, 1, 2, 6.0, "the service was busy")
    play.fires()
    assert play.running == ["b"]
    play.completes("b")
    assert play.starts_open() == [Start("a", None, 2)]
    play.completes("a")

    assert play.ended("a").attempts == 2
    assert play.result.status is RunStatus.COMPLETED


def test_no_proposal_exceeds_max_attempts() -> None:
    """The scheduler has the last word: 3 attempts, the first included (C02)."""
    play = Play(Node("a", max_attempts=3))

    for _ in range(2):
        play.fails("a", retry=AGAIN)
        play.fires()
    play.fails("a", retry=AGAIN)

    assert play.ended("a").attempts == 3
    assert play.ended("a").reason == "attempt 3 of 3 failed"


def test_who_gives_up_is_quoted() -> None:
    """The reason of the proposal is the reason of the step."""
    play = Play(Node("a", max_attempts=3))

    play.fails("a", retry=GiveUp("the address is wrong"))

    assert play.ended("a").reason == "not retried: the address is wrong"


def test_a_late_outcome_is_evidence_only() -> None:
    """The first attempt's answer, after the second was started, is recorded and changes nothing."""
    play = Play(Node("a", max_attempts=2))
    play.fails("a", retry=AGAIN)
    play.fires()

    late = AttemptEnded(9.0, "a", None, 1, Outcome("completed", "late"))
    turn = play.apply(late)

    assert turn == Turn((late,), ())
    assert play.running == ["a"]


# -- foreach -----------------------------------------------------------------------------------------------------------------


def test_a_foreach_runs_its_items_up_to_its_own_cap() -> None:
    """Two of three at once; the third follows when one ends."""
    play = Play(Node("each", is_map=True, max_parallel=2))
    assert play.commands == (Evaluate("each", "foreach"),)

    play.answers("each", "foreach", 3)
    assert play.running == ["each[0]", "each[1]"]
    play.completes("each", 1)

    assert play.running == ["each[0]", "each[2]"]
    assert MapStarted(0.0, "each", 3) in play.records


def test_a_foreach_over_nothing_completes() -> None:
    """An empty list is no failure and no call."""
    play = Play(Node("each", is_map=True))

    play.answers("each", "foreach", 0)

    assert play.ended("each") == StepEnded(0.0, "each", StepStatus.COMPLETED)


def test_a_failed_item_stops_the_others_unless_the_step_continues() -> None:
    """``stop``: no further item starts, what runs drains."""
    play = Play(Node("each", is_map=True, max_parallel=2))
    play.answers("each", "foreach", 4)

    play.fails("each", 0)
    assert play.running == ["each[1]"]
    play.completes("each", 1)

    ended = play.ended("each")
    assert (ended.status, ended.reason, ended.attempts) == (StepStatus.FAILED, "1 of 4 items failed", 2)
    assert ItemEnded(1.0, "each", 0, StepStatus.FAILED, 1, "not retried", BOOM) in play.records


def test_a_foreach_that_continues_runs_every_item_and_says_how_many_failed() -> None:
    """``continue``: failures of items do not keep the others from running, nor the dependents."""
    play = Play(Node("each", is_map=True, on_error="continue"), Node("after", needs=("each",)))
    play.answers("each", "foreach", 3)

    play.fails("each", 0)
    play.completes("each", 1)
    play.fails("each", 2)
    play.completes("after")

    ended = play.ended("each")
    assert (ended.status, ended.failed_items, ended.reason) == (StepStatus.FAILED, 2, "2 of 3 items failed")
    assert play.result.status is RunStatus.PARTIAL_FAILURE


def test_items_are_retried_one_by_one() -> None:
    """Each item has its own attempts and timers."""
    play = Play(Node("each", is_map=True, max_attempts=2))
    play.answers("each", "foreach", 2)

    play.fails("each", 1, retry=AGAIN)
    play.completes("each", 0)
    play.fires()
    play.completes("each", 1)

    assert play.ended("each").status is StepStatus.COMPLETED
    assert play.ended("each").attempts == 3


# -- cancelling --------------------------------------------------------------------------------------------------------------


def test_a_graceful_cancel_stops_what_runs_and_still_cleans_up() -> None:
    """Running calls are told to stop, nothing new starts, ``finally`` runs, the run ends cancelled."""
    play = Play(Node("a"), Node("b", needs=("a",)), Node("finally/f", is_finally=True))

    play.cancels()
    assert play.commands == (Cancel("a", None, 1, "stop it"),)
    assert play.scheduler.is_cancelling
    play.ends("a", None, Outcome("cancelled", error=BOOM))
    assert play.running == ["finally/f"]
    assert not any(isinstance(c, Cancel) for c in play.scheduler.outstanding()), "a resumed run does not cancel its clean-up"
    play.completes("finally/f")

    assert play.statuses == {"a": "cancelled", "b": "cancelled", "finally/f": "completed"}
    assert (play.result.status, play.result.reason, play.result.culprit) == (RunStatus.CANCELLED, "stop it", "")


def test_a_forced_cancel_does_without_finally() -> None:
    """Also when it comes while ``finally`` runs."""
    play = Play(Node("a"), Node("finally/f", is_finally=True), Node("finally/g", needs=("finally/f",), is_finally=True))
    play.completes("a")

    play.cancels(force=True)
    assert play.commands == (Cancel("finally/f", None, 1, "stop it"),)
    play.ends("finally/f", None, Outcome("cancelled", error=BOOM))

    assert play.statuses == {"a": "completed", "finally/f": "cancelled", "finally/g": "cancelled"}
    assert play.result.status is RunStatus.CANCELLED


def test_a_second_cancel_with_force_skips_finally() -> None:
    """Once gracefully, twice at once."""
    play = Play(Node("a"), Node("finally/f", is_finally=True))
    play.cancels()

    play.cancels(force=True)
    play.ends("a", None, Outcome("cancelled", error=BOOM))

    assert play.statuses == {"a": "cancelled", "finally/f": "cancelled"}
    assert play.result.status is RunStatus.CANCELLED


def test_a_value_that_comes_back_after_the_cancel_is_kept() -> None:
    """A call that completed before it was stopped has completed; the run is cancelled all the same."""
    play = Play(Node("a"))
    play.cancels()

    play.completes("a")

    assert play.ended("a").status is StepStatus.COMPLETED
    assert play.result.status is RunStatus.CANCELLED


def test_dependents_of_a_cancelled_step_are_cancelled_in_any_order_of_declaration() -> None:
    """Nobody failed, so nobody is upstream of a failure."""
    for nodes in ((Node("a"), Node("b", needs=("a",))), (Node("b", needs=("a",)), Node("a"))):
        play = Play(Node("busy"), *nodes, max_parallel=1)

        play.cancels()

        assert {path: play.statuses[path] for path in "ab"} == {"a": "cancelled", "b": "cancelled"}


# -- finally and outputs -----------------------------------------------------------------------------------------------------


def test_finally_runs_after_the_rest_whatever_happened() -> None:
    """Also after a failure that stopped the run; its own failure fails a run that completed."""
    play = Play(Node("a"), Node("b", needs=("a",)), Node("finally/f", is_finally=True))
    assert play.running == ["a"]

    play.fails("a")
    assert play.running == ["finally/f"]
    play.completes("finally/f")

    assert play.result.status is RunStatus.FAILED


def test_a_failed_clean_up_fails_a_run_that_would_have_completed() -> None:
    """It is named as the culprit."""
    play = Play(Node("a"), Node("finally/f", is_finally=True), Node("finally/g", is_finally=True))
    play.completes("a")

    play.fails("finally/f")
    play.completes("finally/g")

    assert (play.result.status, play.result.culprit) == (RunStatus.FAILED, "finally/f")


def test_clean_up_sees_how_the_main_part_ended_whatever_other_clean_up_does() -> None:
    """``run.status`` in ``finally`` does not change between two steps, nor between two attempts."""
    play = Play(Node("a"), Node("finally/f", is_finally=True), Node("finally/g", is_finally=True))
    play.completes("a")

    play.fails("finally/f")

    assert play.scheduler.prospect is RunStatus.COMPLETED


def test_outputs_are_asked_for_at_the_end() -> None:
    """And become the run's."""
    play = Play(Node("a"), has_outputs=True)

    play.completes("a")
    assert play.commands == (Evaluate("", "outputs"),)
    play.answers("", "outputs", {"x": 1})

    assert play.result.outputs == {"x": 1}


def test_outputs_that_cannot_be_evaluated_fail_the_run() -> None:
    """Even though every step completed."""
    play = Play(Node("outputs"), has_outputs=True)
    play.completes("outputs")

    play.answers("", "outputs", error=BOOM)

    assert (play.result.status, play.result.reason) == (RunStatus.FAILED, "an output could not be evaluated")


def test_a_failed_run_has_no_outputs() -> None:
    """They are not asked for."""
    play = Play(Node("a"), has_outputs=True)

    play.fails("a")

    assert (play.result.status, play.result.outputs) == (RunStatus.FAILED, {})


# -- the log -----------------------------------------------------------------------------------------------------------------


def test_a_dump_is_plain_json_and_loads_into_an_equal_scheduler() -> None:
    """With a retry waiting, an item running and an error kept."""
    graph = Graph((Node("each", is_map=True, max_attempts=2, on_error="continue"), Node("b")))
    play = Play(*graph.nodes)
    play.answers("each", "foreach", 3)
    play.fails("each", 0, retry=AGAIN)
    play.fails("each", 1)

    text = json.dumps(play.scheduler.dump())
    loaded = Scheduler.load(graph, json.loads(text))

    assert json.dumps(loaded.dump()) == text
    assert loaded.outstanding() == play.scheduler.outstanding()
    assert loaded.attempts("each") == 3


def test_after_the_end_only_finish_is_outstanding() -> None:
    """A run that ended is resumed by saying so."""
    play = Play(Node("a"))

    play.completes("a")

    assert play.scheduler.outstanding() == (Finish(RunStatus.COMPLETED),)


def test_a_fact_after_the_end_is_evidence_only() -> None:
    """The run stays as it ended."""
    play = Play(Node("a"))
    play.completes("a")

    late = CancelRequested(9.0)

    assert play.apply(late) == Turn((late,), ())


# -- calls that are put off ------------------------------------------------------------------------------------------------


PUT_OFF = RetryAfter(60.0, "it is not its turn", is_counted=False)


def test_what_is_put_off_gives_its_place_back_and_counts_for_nothing() -> None:
    """Others start meanwhile; it is made at its time, as often as it is put off, though it may be made once."""
    play = Play(Node("busy"), Node("free"), max_parallel=1)

    play.fails("busy", retry=PUT_OFF)
    assert play.running == ["free"]
    play.completes("free")
    for _ in range(3):
        play.fires()
        play.fails("busy", retry=PUT_OFF)
    play.fires()
    play.fails("busy", retry=AGAIN)

    scheduled = [entry for entry in play.records if isinstance(entry, RetryScheduled)]
    assert [(entry.attempt, entry.max_attempts, entry.due - entry.at) for entry in scheduled] == [
        (number, number + 1, 60.0) for number in (1, 2, 3, 4)
    ]
    assert play.ended("busy").reason == "attempt 5 of 5 failed"


def test_what_is_put_off_uses_up_no_retry_of_the_run() -> None:
    """``max_retries`` counts the attempts that failed."""
    play = Play(Node("a", max_attempts=2), max_retries=1)

    play.fails("a", retry=PUT_OFF)
    play.fires()
    play.fails("a", retry=AGAIN)
    play.fires()
    play.fails("a", retry=PUT_OFF)
    play.fires()
    play.completes("a")

    assert play.statuses == {"a": "completed"}


def test_what_is_put_off_is_kept_in_a_snapshot() -> None:
    """A host with a bounded history goes on with the same count."""
    play = Play(Node("a"))
    play.fails("a", retry=PUT_OFF)
    play.fires()
    play.fails("a", retry=PUT_OFF)
    play.scheduler = Scheduler.load(play.scheduler._graph, json.loads(json.dumps(play.scheduler.dump())))

    play.fires()
    play.fails("a", retry=AGAIN)

    assert play.ended("a").reason == "attempt 3 of 3 failed"


def test_nothing_that_is_put_off_is_made_once_the_run_stops() -> None:
    """It ends like any other attempt that waits."""
    play = Play(Node("a"), Node("b"))

    play.fails("a", retry=PUT_OFF)
    play.fails("b")

    assert play.statuses == {"b": "failed", "a": "cancelled"}
