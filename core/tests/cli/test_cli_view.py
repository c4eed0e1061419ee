"""What a run looks like while it goes on: records in, lines out."""

from __future__ import annotations

from treadle._cli._view import RunView
from treadle.ports import (
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    Entry,
    ErrorInfo,
    ItemEnded,
    MapStarted,
    Outcome,
    Record,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SignalReceived,
    StepEnded,
    StepStatus,
    TimerFired,
    WaitStarted,
)

REFUSED = ErrorInfo("ConnectionError", "refused\nby the host")
CREATED = RunCreated(
    at=100.0,
    run_id="r1",
    workflow={"name": "digest", "steps": {"page": {}, "report": {}}, "finally": {"notify": {}}},
    workflow_hash="",
    inputs={},
    trace_id="ab" * 16,
)


def lines(view: RunView, *entries: Entry) -> list[str]:
    """The lines that these records lead to."""
    return [change.text for seq, entry in enumerate(entries, 1) for change in view.apply(Record("r1", seq, entry))]


def failed(at: float, index: int | None = None, attempt: int = 1) -> AttemptEnded:
    return AttemptEnded(at, "page", index, attempt, Outcome("failed", error=REFUSED))


def completed(at: float, index: int | None = None, attempt: int = 1) -> AttemptEnded:
    return AttemptEnded(at, "page", index, attempt, Outcome("completed", output=1))


def test_a_step_that_is_retried_says_why_and_when() -> None:
    """A failed attempt shows its number of the most, the error's first line and the wait; the end shows time and attempts."""
    said = lines(
        RunView(),
        CREATED,
        AttemptStarted(100.0, "page", None, 1),
        failed(101.0),
        RetryScheduled(101.0, "page", None, 1, 3, 103.0, "transient"),
        TimerFired(103.0, "t"),
        AttemptStarted(103.0, "page", None, 2),
        completed(104.0, attempt=2),
        StepEnded(104.0, "page", StepStatus.COMPLETED, 2),
        RunEnded(104.5, RunStatus.COMPLETED),
    )

    assert said == [
        f"run r1 of digest: 3 steps, trace {'ab' * 16}",
        "page: started",
        "page: attempt 1/3 failed: ConnectionError: refused; next in 2.0s",
        "page: attempt 2/3 started",
        "page: completed (4.0s, 2 attempts)",
        "run r1 completed in 4.5s",
    ]


def test_a_map_shows_failures_and_each_tenth() -> None:
    """A long map writes a line per tenth and per failed item, not one per item."""
    entries: list[Entry] = [MapStarted(100.0, "page", 40)]
    for index in range(40):
        entries.append(AttemptStarted(100.0, "page", index, 1))
        if index == 5:
            entries += [failed(101.0, index), ItemEnded(101.0, "page", index, StepStatus.FAILED, 1, "", REFUSED)]
        else:
            entries.append(completed(101.0, index))
    entries.append(StepEnded(102.0, "page", StepStatus.FAILED, 40, "1 of 40 items failed", REFUSED, failed_items=1))

    said = lines(RunView(), CREATED, *entries)[1:]

    assert said[0] == "page: 40 items"
    assert said[1] == "page: 4/40 items"
    assert said[2] == "page[5]: failed: ConnectionError: refused"
    assert [line for line in said if "/40 items" in line and "failed (" not in line] == [
        "page: 4/40 items",
        *(f"page: {done}/40 items, 1 failed" for done in range(8, 40, 4)),
    ]
    assert said[-1] == "page: failed (2.0s, 40/40 items, 1 failed): ConnectionError: refused"


def test_items_that_wait_are_known_until_they_run_again() -> None:
    """A map's item waits from its retry's scheduling to its next attempt; other items are not touched."""
    view = RunView()
    lines(
        view,
        CREATED,
        MapStarted(100.0, "page", 3),
        AttemptStarted(100.0, "page", 0, 1),
        AttemptStarted(100.0, "page", 1, 1),
        failed(101.0, 1),
        RetryScheduled(101.0, "page", 1, 1, 5, 109.0, ""),
    )

    assert list(view.steps["page"].active) == [0]
    assert view.steps["page"].waiting[1].due == 109.0

    lines(view, AttemptStarted(109.0, "page", 1, 2))

    assert view.steps["page"].active == {0: 1, 1: 2}
    assert not view.steps["page"].waiting


def test_every_way_to_stop_is_a_line() -> None:
    """Cancelling, stopping, signals, detached attempts and steps that never ran are said with their reasons."""
    outcome = Outcome("timed_out", error=ErrorInfo("StepTimeoutError", "too long"), detached=True)
    said = lines(
        RunView(),
        CREATED,
        AttemptStarted(100.0, "page", None, 1),
        SignalReceived(100.5, "go"),
        CancelRequested(101.0, "cancelled by SIGINT"),
        RunStopping(101.0, "cancelled by SIGINT"),
        AttemptEnded(102.0, "page", None, 1, outcome),
        StepEnded(102.0, "page", StepStatus.TIMED_OUT, 1, "", outcome.error),
        StepEnded(102.0, "report", StepStatus.UPSTREAM_FAILED, 0, "page failed", None, "page"),
    )

    assert said[2:] == [
        "signal go",
        "cancelled by SIGINT",
        "page: did not stop when told to; its code may still be running",
        "page: timed_out (2.0s): StepTimeoutError: too long",
        "report: upstream_failed: page failed",
    ]


def test_a_stop_says_its_reason_and_cancelled_steps_theirs() -> None:
    """A failure that stops the run is named; a cancelled step or item shows why, not the error that carried it."""
    told = ErrorInfo("CallCancelledError", "Step 'page' was cancelled: step 'bad' failed")
    said = lines(
        RunView(),
        CREATED,
        RunStopping(101.0, "step 'bad' failed", "bad"),
        ItemEnded(101.0, "page", 3, StepStatus.CANCELLED, 2, "step 'bad' failed", told),
        StepEnded(101.0, "page", StepStatus.CANCELLED, 4, "step 'bad' failed", told),
        StepEnded(101.0, "report", StepStatus.CANCELLED),
    )

    assert said[1:] == [
        "stopping: step 'bad' failed",
        "page[3]: cancelled after 2 attempts: step 'bad' failed",
        "page: cancelled (0.00s, 4 attempts): step 'bad' failed",
        "report: cancelled",
    ]


def test_an_approval_is_asked_for_wherever_it_stands() -> None:
    """Within items of a group and within a subflow the line says ``approve``; for any other signal it says ``signal``."""
    ask = {"wait": {"signal": "ok", "schema": "approval"}}
    inner = {"name": "inner", "steps": {"ok": ask, "data": {"wait": {"signal": "data"}}}, "finally": {"last": ask}}
    group = {"foreach": [1, 2], "parallel": {"steps": {"ok": ask, "pick": {"choose": {"ok": {**ask, "else": True}}}}}}
    workflow = {"name": "w", "steps": {"each": group, "sub": {"workflow": "inner"}}, "workflows": {"inner": inner}}
    view = RunView(is_kept=True)
    paths = ["each[1]/ok", "each[1]/pick/ok", "sub/ok", "sub/finally/last", "sub/data"]

    said = lines(view, RunCreated(100.0, "r1", workflow, "", {}), *[WaitStarted(100.0, path, "ok") for path in paths])

    assert [line.partition(": treadle ")[2] for line in said[1:]] == [*["approve r1 ok"] * 4, "signal r1 ok"]


def test_control_characters_of_foreign_text_do_not_reach_the_terminal() -> None:
    """An error's escape sequences are written out, not obeyed."""
    evil = ErrorInfo("ValueError", "\x1b[2J\x07gone")

    said = lines(RunView(), CREATED, StepEnded(101.0, "page", StepStatus.FAILED, 1, "", evil))

    assert said[1] == "page: failed: ValueError: \\x1b[2J\\x07gone"


def test_progress_of_a_step_that_is_over_is_ignored() -> None:
    """What an executor still says after its step ended changes nothing."""
    view = RunView()
    lines(view, CREATED, AttemptStarted(100.0, "page", None, 1))

    view.progressed("page", 1, 2, "half")
    view.progressed("report", 1, 2, "nobody")

    assert view.steps["page"].progress == (1, 2, "half")
    assert list(view.steps) == ["page"]
