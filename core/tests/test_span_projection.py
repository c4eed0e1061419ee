"""Spans are a projection of the log: one whole tree per run, whatever happened in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle import _telemetry as names
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    Entry,
    ErrorInfo,
    Evaluated,
    MapStarted,
    Outcome,
    OutcomeStatus,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    SpanRecord,
    StepEnded,
    StepStatus,
    StintOpened,
)
from treadle._span_ids import attempt_span_id, step_span_id
from treadle._span_projection import SpanProjection

TRACE, ROOT, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
BOOM = ErrorInfo("BoomError", "it broke\nin two lines", traceback="Traceback ...\nBoomError: it broke")


def created(*, parent: str = "", trigger: str = "cli", flags: int = 1, **steps: str) -> RunCreated:
    """A run of the workflow ``digest`` whose steps use the given executors."""
    workflow = {"name": "digest", "steps": {name: {"uses": uses} for name, uses in steps.items()}}
    return RunCreated(
        at=100.0,
        run_id="run-1",
        workflow=workflow,
        workflow_hash="x",
        inputs={},
        trace_id=TRACE,
        root_span_id=ROOT,
        parent_span_id=parent,
        trace_flags=flags,
        trigger=trigger,
    )


def started(path: str, at: float, *, index: int | None = None, attempt: int = 1, stint: int = 1) -> AttemptStarted:
    return AttemptStarted(at=at, path=path, index=index, attempt=attempt, stint=stint)


def ended(
    path: str,
    at: float,
    status: OutcomeStatus = "completed",
    *,
    index: int | None = None,
    attempt: int = 1,
    stint: int = 1,
    entered: float = 0.0,
    error: ErrorInfo | None = None,
    spans: tuple[SpanRecord, ...] = (),
) -> AttemptEnded:
    outcome = Outcome(status, started_at=entered, ended_at=at, error=error, spans=spans)
    return AttemptEnded(at=at, path=path, index=index, attempt=attempt, outcome=outcome, stint=stint)


def project(*entries: Entry) -> list[SpanRecord]:
    projection = SpanProjection()
    return [span for entry in entries for span in projection.apply(entry)]


def only(spans: list[SpanRecord], name: str) -> SpanRecord:
    (span,) = [span for span in spans if span.name == name]
    return span


def simple(*steps: Entry, status: RunStatus = RunStatus.COMPLETED, error: ErrorInfo | None = None) -> list[SpanRecord]:
    """The spans of a run with these entries between its first and its last."""
    opened = StintOpened(at=100.0, stint=1, owner="host:7")
    return project(
        created(page="http.request"), opened, *steps, RunEnded(at=200.0, status=status, error=error, reason="because")
    )


# -- the tree ------------------------------------------------------------------------------------------------------------


def test_a_run_is_a_tree_of_run_step_attempt_and_client_call() -> None:
    """Every span has the run's trace id and stands under the span it belongs to (S0-04)."""
    attempt_id = attempt_span_id(TRACE, ROOT, "page")
    client = SpanRecord("GET", "client", TRACE, "aaaaaaaaaaaaaaaa", attempt_id, 101.5, 102.0)
    spans = simple(
        started("page", 101.0),
        ended("page", 103.0, entered=101.25, spans=(client,)),
        StepEnded(at=103.0, path="page", status=StepStatus.COMPLETED, attempts=1),
    )

    assert [span.name for span in spans] == ["GET", "attempt page", "page", "RUN digest"]
    assert {span.trace_id for span in spans} == {TRACE}
    assert [span.span_id for span in spans] == ["aaaaaaaaaaaaaaaa", attempt_id, step_span_id(TRACE, ROOT, "page"), ROOT]
    assert [span.parent_id for span in spans] == [span.span_id for span in spans[1:]] + [""]
    assert [span.kind for span in spans] == ["client", "internal", "internal", "server"]
    assert [(span.started_at, span.ended_at) for span in spans] == [
        (101.5, 102.0),
        (101.25, 103.0),
        (101.0, 103.0),
        (100.0, 200.0),
    ]
    assert {span.status for span in spans} == {"unset"}


def test_attributes_say_what_ran_where_and_how_it_ended() -> None:
    """Attributes have the names of the semantic conventions where one exists; no input, no output."""
    run, step, attempt = (
        only(
            simple(
                started("page", 101.0),
                ended("page", 103.0, entered=101.25),
                StepEnded(at=103.0, path="page", status=StepStatus.COMPLETED, attempts=1),
            ),
            name,
        )
        for name in ("RUN digest", "page", "attempt page")
    )

    assert run.attributes == {
        "cicd.pipeline.action.name": "RUN",
        "cicd.pipeline.name": "digest",
        "cicd.pipeline.run.id": "run-1",
        "cicd.pipeline.result": "success",
        "treadle.run.status": "completed",
        "treadle.run.trigger": "cli",
        "treadle.run.stints": 1,
    }
    assert step.attributes == {
        "cicd.pipeline.name": "digest",
        "cicd.pipeline.run.id": "run-1",
        "cicd.pipeline.task.name": "page",
        "cicd.pipeline.task.run.id": "run-1/page",
        "cicd.pipeline.task.run.result": "success",
        "treadle.step.status": "completed",
        "treadle.step.attempts": 1,
        "treadle.executor": "http.request",
    }
    assert attempt.attributes == {
        "cicd.pipeline.run.id": "run-1",
        "cicd.pipeline.task.name": "page",
        "cicd.pipeline.task.run.result": "success",
        "cicd.worker.id": "host:7",
        "treadle.attempt.number": 1,
        "treadle.attempt.queued_s": 0.25,
    }


def test_items_of_a_foreach_are_attempts_of_one_step() -> None:
    """Items stand under the one span of their step; the index is an attribute, never in a name."""
    spans = simple(
        MapStarted(at=101.0, path="page", count=2),
        started("page", 102.0, index=0),
        started("page", 102.0, index=1),
        ended("page", 103.0, index=1),
        ended("page", 104.0, index=0),
        StepEnded(at=104.0, path="page", status=StepStatus.COMPLETED, attempts=2),
    )

    items = [span for span in spans if span.name == "attempt page"]
    step = only(spans, "page")
    assert [span.attributes["treadle.step.index"] for span in items] == [1, 0]
    assert {span.parent_id for span in items} == {step.span_id}
    assert step.attributes["treadle.step.count"] == 2
    assert (step.started_at, step.ended_at) == (101.0, 104.0)


def test_finally_steps_name_their_executor_too() -> None:
    """``finally/notify`` is looked up among the steps that always run."""
    run = created()
    run_with_finally = RunCreated(
        at=100.0,
        run_id="run-1",
        workflow={"name": "digest", "finally": {"notify": {"uses": "smtp.send"}}},
        workflow_hash="x",
        inputs={},
        trace_id=run.trace_id,
        root_span_id=run.root_span_id,
    )
    over = StepEnded(at=102.0, path="finally/notify", status=StepStatus.COMPLETED)
    spans = project(run_with_finally, started("finally/notify", 101.0), ended("finally/notify", 102.0), over)
    assert spans[1].attributes["treadle.executor"] == "smtp.send"


@pytest.mark.parametrize(
    ("parent", "trigger", "kind"),
    [("", "cli", "server"), (CALLER, "cli", "server"), ("", "python", "server"), (CALLER, "python", "internal")],
)
def test_a_run_is_internal_only_inside_a_span_of_its_own_process(parent: str, trigger: str, kind: str) -> None:
    """A run serves its starter; inside another span of the same program it is one more piece of its work."""
    spans = project(created(parent=parent, trigger=trigger), RunEnded(at=101.0, status=RunStatus.COMPLETED))
    assert (spans[0].kind, spans[0].parent_id) == (kind, parent)


def test_spans_exist_whether_or_not_the_run_is_sampled() -> None:
    """The record is complete; the flags only say what the sampler decided."""
    spans = project(created(flags=0), started("page", 101.0), ended("page", 102.0))
    assert [span.trace_flags for span in spans] == [0]


def test_attempts_that_the_receiver_has_are_not_made_again() -> None:
    """Whoever sent the live span needs no record of it; its client calls, its step and its retry's link are as ever."""
    client = SpanRecord("GET", "client", TRACE, "a" * 16, attempt_span_id(TRACE, ROOT, "page"), 101.5, 102.0)
    entries: list[Entry] = [
        created(page="http.request"),
        started("page", 101.0),
        ended("page", 103.0, "failed", entered=100.5, error=BOOM, spans=(client,)),
        started("page", 104.0, attempt=2),
        ended("page", 105.0, attempt=2),
        StepEnded(at=105.0, path="page", status=StepStatus.COMPLETED, attempts=2),
    ]
    known = {attempt_span_id(TRACE, ROOT, "page")}
    sparing = SpanProjection(known.__contains__)

    assert [span for entry in entries for span in sparing.apply(entry)] == [
        span for span in project(*entries) if span.span_id not in known
    ]


# -- errors --------------------------------------------------------------------------------------------------------------


def test_a_retried_attempt_is_an_error_and_its_step_is_not() -> None:
    """Failed attempts are errors; a step that succeeds in the end is none; attempt n links to n-1."""
    spans = simple(
        started("page", 101.0),
        ended("page", 102.0, "failed", error=BOOM),
        RetryScheduled(at=102.0, path="page", index=None, attempt=1, max_attempts=3, due=104.5, reason="transient"),
        started("page", 104.5, attempt=2),
        ended("page", 105.0, attempt=2),
        StepEnded(at=105.0, path="page", status=StepStatus.COMPLETED, attempts=2),
    )

    first, second = [span for span in spans if span.name == "attempt page"]
    step = only(spans, "page")
    assert (first.status, first.status_message, first.attributes["error.type"]) == ("error", "it broke", "BoomError")
    assert (second.status, second.links) == ("unset", ((TRACE, first.span_id, {"treadle.link.kind": "retry_of"}),))
    assert (step.status, step.attributes["treadle.step.attempts"]) == ("unset", 2)
    assert "error.type" not in step.attributes
    assert step.events == (
        (
            "retry.scheduled",
            102.0,
            {"treadle.attempt.number": 1, "treadle.retry.delay_s": 2.5, "treadle.retry.reason": "transient"},
        ),
    )


def test_an_exception_is_recorded_once_on_its_attempt() -> None:
    """The event carries class, message and stack; step and run carry only the class."""
    spans = simple(
        started("page", 101.0),
        ended("page", 102.0, "failed", error=BOOM),
        StepEnded(at=102.0, path="page", status=StepStatus.FAILED, attempts=1, error=BOOM),
        status=RunStatus.FAILED,
        error=BOOM,
    )

    event = (
        "exception",
        102.0,
        {
            "exception.type": "BoomError",
            "exception.message": "it broke\nin two lines",
            "exception.stacktrace": "Traceback ...\nBoomError: it broke",
        },
    )
    assert [(span.name, span.events) for span in spans] == [("attempt page", (event,)), ("page", ()), ("RUN digest", ())]
    assert {span.status for span in spans} == {"error"}
    assert {span.attributes["error.type"] for span in spans} == {"BoomError"}
    assert {span.status_message for span in spans} == {"it broke"}


@pytest.mark.parametrize(
    ("status", "result", "span_status", "error_type"),
    [
        ("completed", "success", "unset", None),
        ("failed", "failure", "error", "BoomError"),
        ("timed_out", "timeout", "error", "timeout"),
        ("cancelled", "cancellation", "unset", None),
    ],
)
def test_status_of_an_attempt(status: OutcomeStatus, result: str, span_status: str, error_type: str | None) -> None:
    """Only failures and timeouts are errors; a cancellation is a result."""
    error = None if status == "completed" else BOOM
    attempt = project(created(), started("page", 101.0), ended("page", 102.0, status, error=error))[0]
    assert attempt.attributes["cicd.pipeline.task.run.result"] == result
    assert (attempt.status, attempt.attributes.get("error.type")) == (span_status, error_type)
    assert len(attempt.events) == (1 if span_status == "error" else 0)


@pytest.mark.parametrize(
    ("status", "result", "span_status", "error_type"),
    [
        (StepStatus.COMPLETED, "success", "unset", None),
        (StepStatus.CACHED, "success", "unset", None),
        (StepStatus.SKIPPED, "skip", "unset", None),
        (StepStatus.UPSTREAM_FAILED, "skip", "unset", None),
        (StepStatus.CANCELLED, "cancellation", "unset", None),
        (StepStatus.FAILED, "failure", "error", "BoomError"),
        (StepStatus.TIMED_OUT, "timeout", "error", "timeout"),
        (StepStatus.INTERRUPTED, "error", "error", "BoomError"),
        (StepStatus.POISONED, "error", "error", "BoomError"),
    ],
)
def test_status_of_a_step(status: StepStatus, result: str, span_status: str, error_type: str | None) -> None:
    """A step without an attempt still has its span, of no length; skipped and cancelled steps are no errors."""
    culprit = "load" if status is StepStatus.UPSTREAM_FAILED else ""
    step = project(created(), StepEnded(at=105.0, path="page", status=status, error=BOOM, culprit=culprit))[0]
    assert (step.started_at, step.ended_at) == (105.0, 105.0)
    assert (step.attributes["cicd.pipeline.task.run.result"], step.attributes["treadle.step.status"]) == (result, status)
    assert (step.status, step.attributes.get("error.type")) == (span_status, error_type)
    assert step.attributes.get("treadle.step.culprit", "") == culprit


@pytest.mark.parametrize(
    ("status", "result", "span_status", "error_type"),
    [
        (RunStatus.COMPLETED, "success", "unset", None),
        (RunStatus.PARTIAL_FAILURE, "failure", "error", "partial_failure"),
        (RunStatus.FAILED, "failure", "error", "failed"),
        (RunStatus.TIMED_OUT, "timeout", "error", "timeout"),
        (RunStatus.CANCELLED, "cancellation", "unset", None),
    ],
)
def test_status_of_a_run(status: RunStatus, result: str, span_status: str, error_type: str | None) -> None:
    """The result is the convention's word, the status treadle's own; without an error the state names the class."""
    run = project(created(), RunEnded(at=101.0, status=status, reason="because"))[0]
    assert (run.attributes["cicd.pipeline.result"], run.attributes["treadle.run.status"]) == (result, status)
    assert (run.status, run.attributes.get("error.type")) == (span_status, error_type)
    assert run.status_message == ("because" if span_status == "error" else "")


def test_every_final_state_has_a_result() -> None:
    """A state that is added to the models must be given its result here, or the projection would fail on it."""
    assert set(names.RUN_RESULTS) == set(RunStatus) - {"pending", "queued", "running", "suspended", "cancelling"}
    assert set(names.STEP_RESULTS) == set(StepStatus) - {"pending", "running", "retrying"}


def test_a_long_message_is_cut_in_the_status_only() -> None:
    """The description stays short; the event has the whole."""
    long = ErrorInfo("BoomError", "x" * 2000)
    attempt = project(created(), started("page", 101.0), ended("page", 102.0, "failed", error=long))[0]
    assert len(attempt.status_message) == 512
    assert attempt.events[0][2]["exception.message"] == "x" * 2000


def test_events_of_a_step_are_bounded() -> None:
    """A thousand retries do not make a span that no backend takes."""
    retries = [
        RetryScheduled(at=101.0, path="page", index=item, attempt=1, max_attempts=3, due=102.0, reason="r")
        for item in range(1000)
    ]
    step = project(created(), *retries, StepEnded(at=103.0, path="page", status=StepStatus.COMPLETED))[0]
    assert len(step.events) == 128


# -- several stints ------------------------------------------------------------------------------------------------------


def test_attempts_of_a_lost_process_are_closed_by_the_next_stint() -> None:
    """An attempt whose process went away ends at the last moment known of it, as the system's error; its rerun links to it."""
    spans = project(
        created(),
        StintOpened(at=100.0, stint=1, owner="one:1"),
        started("page", 101.0),
        started("other", 102.0),
        ended("other", 107.0),
        StintOpened(at=500.0, stint=2, owner="two:2"),
        started("page", 501.0, stint=2),
        ended("page", 502.0, stint=2),
        StepEnded(at=502.0, path="page", status=StepStatus.COMPLETED, attempts=2),
        RunEnded(at=503.0, status=RunStatus.COMPLETED),
    )

    lost, rerun = [span for span in spans if span.name == "attempt page"]
    assert (lost.started_at, lost.ended_at, lost.status) == (101.0, 107.0, "error")
    assert lost.attributes["error.type"] == "interrupted"
    assert lost.attributes["cicd.pipeline.task.run.result"] == "error"
    assert (lost.attributes["cicd.worker.id"], rerun.attributes["cicd.worker.id"]) == ("one:1", "two:2")
    assert lost.span_id != rerun.span_id
    assert rerun.links[0][1] == lost.span_id
    assert only(spans, "RUN digest").attributes["treadle.run.stints"] == 2


def test_an_outcome_without_a_recorded_start_still_has_its_span() -> None:
    """A resumed run may be told of an attempt that it never released itself."""
    attempt = project(created(), ended("page", 105.0, entered=104.0))[0]
    assert (attempt.started_at, attempt.ended_at, attempt.parent_id) == (104.0, 105.0, step_span_id(TRACE, ROOT, "page"))


def test_another_machines_clock_does_not_tear_the_tree() -> None:
    """A step holds its attempts, and the run its steps, even when their stamps come from a clock that is off."""
    spans = simple(
        started("page", 101.0),
        ended("page", 300.0, entered=90.0),
        StepEnded(at=103.0, path="page", status=StepStatus.COMPLETED, attempts=1),
    )
    step, run = only(spans, "page"), only(spans, "RUN digest")
    assert (step.started_at, step.ended_at) == (90.0, 300.0)
    assert run.ended_at == 300.0


def test_entries_before_run_created_are_refused() -> None:
    """A log always begins with RunCreated; anything else is a caller's mistake that is named."""
    with pytest.raises(ValueError, match="begins with RunCreated"):
        SpanProjection().apply(started("page", 101.0))


# -- laws over random logs -----------------------------------------------------------------------------------------------


def attempts_of(path: str, index: int | None, fates: list[OutcomeStatus]) -> Iterator[Entry]:
    """The entries of one step's or item's attempts, times still to be set; all but the last failed."""
    for attempt, fate in enumerate(fates, 1):
        error = None if fate == "completed" else BOOM
        yield started(path, 0.0, index=index, attempt=attempt)
        yield AttemptEnded(at=0.0, path=path, index=index, attempt=attempt, outcome=Outcome(fate, error=error))
        if attempt < len(fates):
            yield RetryScheduled(at=0.0, path=path, index=index, attempt=attempt, max_attempts=9, due=0.0, reason="r")


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """A whole log: steps that run, retry, map, are skipped or cancelled, their entries interleaved at random."""
    failures: st.SearchStrategy[list[OutcomeStatus]] = st.lists(st.sampled_from(["failed", "timed_out"]), max_size=3)
    endings: st.SearchStrategy[OutcomeStatus] = st.sampled_from(["completed", "failed", "cancelled"])
    fates = st.builds(lambda failed, last: [*failed, last], failures, endings)
    threads: list[list[Entry]] = []
    last: dict[str, tuple[Entry, int]] = {}
    for number in range(draw(st.integers(0, 6))):
        path = f"step{number}"
        items: list[int | None] = list(range(draw(st.integers(0, 4)))) if draw(st.booleans()) else [None]
        status = draw(st.sampled_from([StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED]))
        lanes = [] if status is StepStatus.SKIPPED else [list(attempts_of(path, item, draw(fates))) for item in items]
        threads.extend(lanes)
        last[path] = (StepEnded(at=0.0, path=path, status=status, error=BOOM), len(lanes))
    body: list[Entry] = [Evaluated(at=0.0, path="step0", what="when", value=True), CancelRequested(at=0.0)]
    while threads:
        lane = threads[draw(st.integers(0, len(threads) - 1))]
        entry = lane.pop(0)
        body.append(entry)
        if not lane:
            threads.remove(lane)
            path = str(getattr(entry, "path", ""))
            last[path] = (last[path][0], last[path][1] - 1)
            if not last[path][1]:
                body.append(last.pop(path)[0])
    body.extend(entry for entry, _ in last.values())
    return [created(parent=draw(st.sampled_from(["", CALLER]))), *timed(body, draw), RunEnded(at=9e9, status=RunStatus.FAILED)]


def timed(body: list[Entry], draw: st.DrawFn) -> Iterator[Entry]:
    """The same entries at times that never go back."""
    at = 100.0
    for entry in body:
        at += draw(st.sampled_from([0.0, 0.001, 5.0]))
        match entry:
            case AttemptStarted(path=path, index=index, attempt=attempt):
                yield started(path, at, index=index, attempt=attempt)
            case AttemptEnded(path=path, index=index, attempt=attempt, outcome=outcome):
                yield ended(path, at, outcome.status, index=index, attempt=attempt, error=outcome.error)
            case RetryScheduled(path=path, index=index, attempt=attempt):
                yield RetryScheduled(at=at, path=path, index=index, attempt=attempt, max_attempts=9, due=at + 1, reason="r")
            case StepEnded(path=path, status=status, error=error):
                yield StepEnded(at=at, path=path, status=status, error=error)
            case Evaluated() | CancelRequested():
                yield entry
            case _:
                raise AssertionError(entry)


@given(logs())
def test_all_spans_of_a_run_share_its_trace_and_their_parents_exist(log: list[Entry]) -> None:
    """S0-04: one trace id per run, ids unique, every parent in the trace, children within their parents' times."""
    spans = project(*log)
    run = log[0]
    assert isinstance(run, RunCreated)
    by_id = {span.span_id: span for span in spans}

    assert {span.trace_id for span in spans} == {TRACE}
    assert len(by_id) == len(spans)
    assert [span for span in spans if span.parent_id == run.parent_span_id] == [spans[-1]]
    for span in spans[:-1]:
        parent = by_id[span.parent_id]
        assert parent.started_at <= span.started_at <= span.ended_at <= parent.ended_at
        assert parent.name in ("RUN digest", span.name.removeprefix("attempt "))
    assert all(link[1] in by_id for span in spans for link in span.links)


@given(logs())
def test_every_attempt_and_every_step_has_exactly_one_span(log: list[Entry]) -> None:
    """Nothing that ran is missing from the trace, nothing is in it twice (S0-04)."""
    spans = project(*log)
    attempts = [entry for entry in log if isinstance(entry, AttemptEnded)]
    steps = [entry for entry in log if isinstance(entry, StepEnded)]
    assert sorted(span.name for span in spans) == sorted(
        ["RUN digest", *(entry.path for entry in steps), *(f"attempt {entry.path}" for entry in attempts)]
    )


@given(logs())
def test_every_name_is_in_the_table(log: list[Entry]) -> None:
    """What spans, events and links carry is what docs/reference/telemetry.md lists, and nothing else."""
    spans = project(*log)
    known = {attribute.name for attribute in names.ATTRIBUTES}
    used = {name for span in spans for name in span.attributes}
    used |= {name for span in spans for _, _, attributes in span.events for name in attributes}
    used |= {name for span in spans for _, _, attributes in span.links for name in attributes}
    assert used <= known
    assert {event for span in spans for event, _, _ in span.events} <= {event for event, _, _ in names.EVENTS}


@given(logs())
def test_the_same_log_gives_the_same_spans(log: list[Entry]) -> None:
    """No clock and no chance in it: a process that catches up on a log knows the spans that another one sent."""
    assert project(*log) == project(*log)
