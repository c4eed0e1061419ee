"""What commands say of runs with groups, items and compensations."""

from __future__ import annotations

from typing import Any

from treadle._cli._view import RunView
from treadle.ports import GroupStarted, ItemEnded, MapStarted, Record, RunCreated, StepEnded, StepStatus, WaitStarted

WORKFLOW = """
name: w
on_error: continue
steps:
  trips:
    foreach: [a, b]
    as: city
    max_parallel: 1
    parallel:
      on_error: stop
      steps:
        book: {uses: demo.echo, with: {text: "${{ city }}"}, compensate: {uses: demo.echo}}
        guide: {uses: demo.echo, needs: [book], compensate: {uses: demo.fail}}
        fly: {uses: demo.fail, needs: [guide], when: city == 'b'}
  nap: {uses: demo.echo, needs: [trips], needs_rule: all_done}
"""


def test_a_summary_says_what_was_undone_and_what_could_not_be(treadle: Any, fits: Any) -> None:
    """After the causes; of a failure that is told of a step, the groups around it are not told again; ``show`` and programs
    are told the same.
    """
    treadle.environ["TREADLE_STORE__USE"] = "sqlite"
    treadle.write("w.yaml", WORKFLOW)

    told = fits(treadle("run", "w.yaml", "--json").stdout, "run")["undone"]
    run, shown = treadle("run", "w.yaml", "-q"), treadle("show", "last")
    kept = fits(treadle("show", "last", "--json").stdout, "show")

    lines = [line.strip() for line in (run.stdout + run.stderr).splitlines()]
    assert "undone:  trips[1]/book" in lines
    [left] = [line for line in lines if line.startswith("not undone:")]
    assert left.startswith("not undone: trips[1]/guide: ")
    assert [(one["step"], one["status"]) for one in told] == [("trips[1]/guide", "failed"), ("trips[1]/book", "completed")]
    assert kept["undone"] == told
    assert {"undone:  trips[1]/book", left} <= {line.strip() for line in shown.stdout.splitlines()}
    assert [line.split()[0] for line in shown.stdout.splitlines() if "trips" in line.split(" ")[0]][:3] == [
        *("trips", "trips[0]/book", "trips[0]/guide")
    ]
    assert [line.split(": ")[1].strip() for line in lines if line.startswith("also:")] == ["trips[1]/fly"]


def test_a_step_of_an_item_is_named_as_it_is_shown(treadle: Any) -> None:
    """``explain`` takes the path that progress, ``show`` and ``trace`` print, and tells of nothing else."""
    treadle.environ["TREADLE_STORE__USE"] = "sqlite"
    treadle.write("w.yaml", WORKFLOW)
    treadle("run", "w.yaml", "-q")

    told = treadle("explain", "last/trips[1]/guide")
    trace = treadle("trace", "last").stdout
    unknown = treadle("explain", "last/trips[1]/gide")

    assert told.returncode == 0, told.stderr
    assert "trips[1]/guide: attempt 1 of its compensation was released in stint 1\n" in told.stdout
    assert "trips[0]" not in told.stdout
    assert "trips[1] " in trace
    assert "Did you mean 'trips/guide'?" in unknown.stderr


def test_an_item_of_a_group_is_not_said_to_have_attempts_and_a_wait_in_a_group_ends() -> None:
    """Its attempts are those of all its steps; what waited there is not shown once it is over."""
    view = RunView()
    entries = [
        RunCreated(100.0, "r1", {"name": "w", "steps": {"each": {}}}, "", {}),
        MapStarted(100.0, "each", 1),
        GroupStarted(100.0, "each", "parallel", 0),
        WaitStarted(100.0, "each[0]/ok", "ok"),
        StepEnded(101.0, "each[0]/ok", StepStatus.COMPLETED, 0),
        ItemEnded(102.0, "each", 0, StepStatus.FAILED, 3, "no"),
    ]

    said = [change.text for seq, entry in enumerate(entries, 1) for change in view.apply(Record("r1", seq, entry))]

    assert said[-1] == "each[0]: failed: no"
    assert [*view.steps] == ["each"]
    assert not view.steps["each"].inner
