"""The commands that look back at runs, on a real store and from processes of their own; the page of the docs, followed."""

from __future__ import annotations

import json
import re
import signal
import statistics
import subprocess
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import pytest
from kept_project import KeptProject, fitting
from treadle import Context, Registry, Workflow, executor, run
from treadle._cli import _runs
from treadle.ports import RunRow, StepRow
from treadle_sqlite import SqliteStore


@pytest.fixture
def project(tmp_path: Path) -> KeptProject:
    """The page's files."""
    return KeptProject(tmp_path, "how-to/look-back-at-a-run.md")


def lines(text: str) -> list[dict[str, Any]]:
    return [fitting(line, "logs") for line in text.splitlines()]


# -- logs


def test_logs_of_a_run_are_kept(project: KeptProject) -> None:
    """By step, item, attempt and level, in the order in which they were said."""
    project("run", "shop.yaml", "-q")

    everything = project("logs", "last")
    said = [re.sub(r"^[\d:]+ ", "", line) for line in everything.stdout.splitlines()]
    second = lines(project("logs", "last/best", "--attempt", "2", "--json").stdout)
    warned = lines(project("logs", "last", "--level", "warning", "--json").stdout)

    assert sorted(said[:3]) == [
        "INFO prices[0]: asking for the price of apple",
        "INFO prices[1]: asking for the price of pear",
        "INFO prices[2]: asking for the price of fig",
    ]
    assert said[3:] == [
        "INFO best: asking for the price of melon",
        "WARNING best: the shop is closed",
        "INFO best (attempt 2): asking for the price of melon",
    ]
    assert [(line["text"], line["attempt"]) for line in second] == [("asking for the price of melon", 2)]
    assert [(line["level"], line["path"]) for line in warned] == [("WARNING", "best")]
    assert project("logs", "last/prices[1]").stdout.rstrip().endswith("prices[1]: asking for the price of pear")
    assert len(project("logs", "last", "-n", "2").stdout.splitlines()) == 2
    assert project("logs", "last/gift").stderr == "No lines.\n"


def test_logs_are_followed_from_another_process(project: KeptProject) -> None:
    """Lines come while their step runs, and the command ends with the run."""
    run = started(project, "-i", "seconds=300")
    follower = project.start("logs", "last", "-f", "--json")
    assert follower.stdout is not None
    followed = []
    for line in follower.stdout:
        followed.append(json.loads(line)["path"])
        if followed[-1] == "best":
            break
    was_running = run.poll() is None
    project("cancel", "last")
    run.communicate(timeout=60)
    out, err = follower.communicate(timeout=60)

    assert sorted(followed) == ["best", "prices", "prices", "prices"]
    assert was_running, "the line came while its step ran"
    assert follower.returncode == 0
    assert (out, err) == ("", "")


def test_what_is_printed_is_kept(project: KeptProject) -> None:
    """By commands, by executors in processes of their own, and by plain functions, each with its stream."""
    (project.folder / "executors" / "loud.py").write_text(
        "import logging, sys\nfrom treadle import executor\n\n"
        "@executor('loud.say')\ndef say(text: str) -> None:\n"
        "    print(text)\n    print('aside', file=sys.stderr)\n    logging.getLogger('acme').warning('a library warns')\n",
        "utf-8",
    )
    (project.folder / "loud.yaml").write_text(
        "name: loud\nsecrets: [WORD]\nsteps:\n"
        "  inline: {uses: loud.say, with: {text: here}}\n"
        "  apart: {uses: loud.say, isolation: process, with: {text: '${{ secrets.WORD }}'}}\n"
        "  shell: {uses: shell.run, with: {script: 'echo out; echo err >&2'}}\n",
        "utf-8",
    )
    done = project("run", "loud.yaml", "-q", WORD="sesame")
    kept = {
        (line["path"], line["stream"], line["level"], line["text"]) for line in lines(project("logs", "last", "--json").stdout)
    }

    assert done.returncode == 0, done.stderr
    assert kept == {
        ("inline", "stdout", "INFO", "here"),
        ("inline", "", "WARNING", "a library warns"),
        ("apart", "stdout", "INFO", "***"),
        ("apart", "stderr", "INFO", "aside"),
        ("apart", "", "WARNING", "a library warns"),
        ("shell", "stdout", "INFO", "out"),
        ("shell", "stderr", "INFO", "err"),
    }


def test_what_was_meant_is_suggested(project: KeptProject) -> None:
    """An id with a slip, the end of one, a workflow's name, and a step with a slip lead on; exit code 2."""
    project("run", "shop.yaml", "-q")
    run = json.loads(project("runs", "--json").stdout)["runs"][0]["run_id"]

    slip, end, name, step = (project("logs", word) for word in (run[:-1] + "x", run[-6:], "shop", f"{run[:14]}/bst"))

    assert {done.returncode for done in (slip, end, name, step)} == {2}
    assert f"Did you mean {run}?" in slip.stderr
    assert f"Did you mean {run}?" in end.stderr
    assert f"The newest run of the workflow 'shop' is {run}" in name.stderr
    assert "Did you mean 'best'? It has: prices, best, gift." in step.stderr


# -- watch


def test_a_run_is_watched_from_another_process(project: KeptProject) -> None:
    """Its progress and its lines come while it goes on; the result and the exit code are the run's."""
    run = started(project, "-i", "seconds=300")
    watcher = project.start("watch", "last", "--json")
    assert watcher.stderr is not None
    seen = []
    for line in watcher.stderr:
        seen.append(line)
        if "asking for the price of melon" in line:
            break
    was_running = run.poll() is None
    project("cancel", "last", "--reason", "seen enough")
    run.communicate(timeout=60)
    out, err = watcher.communicate(timeout=60)

    assert was_running
    assert any("prices: completed" in line for line in seen)
    assert watcher.returncode == run.returncode == 3
    result = fitting(out, "run")
    assert (result["status"], result["workflow"]) == ("cancelled", "shop")
    assert "best: cancelled" in err
    assert "cause:   seen enough" in err


def test_the_end_of_watching_is_not_the_end_of_the_run(project: KeptProject) -> None:
    """Ctrl-C leaves the run alone, and says so."""
    run = started(project, "-i", "seconds=300")
    watcher = project.start("watch", "last", "--no-progress")
    assert watcher.stderr is not None
    for line in watcher.stderr:
        if "best: started" in line:
            break
    watcher.send_signal(signal.SIGINT)
    _, err = watcher.communicate(timeout=60)
    is_running = run.poll() is None
    project("cancel", "last", "--force")
    run.communicate(timeout=60)

    assert watcher.returncode == 3
    assert "Not watched any more; the run goes on." in err
    assert is_running


def test_a_run_that_nobody_drives_is_not_watched(project: KeptProject) -> None:
    """It says how to go on with it, with exit code 3, rather than waiting for ever."""
    run = started(project, "-i", "seconds=300")
    assert run.stderr is not None
    run.terminate()
    assert any("SIGTERM: suspending" in line for line in run.stderr)
    run.terminate()
    run.communicate(timeout=60)

    watched = project("watch", "last", "--no-progress")

    assert watched.returncode == 3
    assert "is suspended: nobody drives it." in watched.stderr
    assert "treadle resume" in watched.stderr


def started(project: KeptProject, *words: str) -> subprocess.Popen[str]:
    """A run whose second step has begun."""
    run = project.start("run", "shop.yaml", *words)
    assert run.stderr is not None
    for line in run.stderr:
        if "best: started" in line:
            return run
    raise AssertionError("the run did not get that far")


# -- trace


def test_spans_are_a_tree(project: KeptProject) -> None:
    """Run, steps, attempts and items with durations; what failed is marked; nothing is cut in a pipe."""
    project("run", "shop.yaml", "-q", "-i", "fail=1", "-i", "seconds=0.1")

    drawn = project("trace", "last").stdout
    told = fitting(project("trace", "last", "--json").stdout, "trace")
    spans = told["spans"]

    assert [re.sub(r"\s+[\d.]+s\s+[█ ]+", " ", line).rstrip() for line in drawn.splitlines()] == [
        "✓ shop completed",
        "├─ ✓ prices",
        "│  ├─ ✓ prices[0]",
        "│  ├─ ✓ prices[1]",
        "│  └─ ✓ prices[2]",
        "├─ ✓ best",
        "│  ├─ ✗ best failed: the shop is closed",
        "│  └─ ✓ best attempt 2",
        "└─ ○ gift skipped",
    ]
    assert [span["kind"] for span in spans] == ["run", "step", *["attempt"] * 3, "step", *["attempt"] * 2, "step"]
    assert {span["parent_id"] for span in spans} <= {"", *(span["span_id"] for span in spans)}
    best = next(span for span in spans if span["name"] == "best" and span["kind"] == "step")
    attempts = [span for span in spans if span["parent_id"] == best["span_id"]]
    assert best["duration_s"] >= sum(span["duration_s"] for span in attempts) >= 0.2
    assert drawn.count("█") > 20


def test_what_goes_on_is_in_the_tree(project: KeptProject) -> None:
    """Also of a run that another process drives: what has not ended is marked, with its time so far."""
    run = started(project, "-i", "seconds=300")
    drawn = project("trace", "last").stdout
    told = fitting(project("trace", "last", "--json").stdout, "trace")
    run.kill()
    run.communicate()

    assert re.search(r"▶ shop +[\dm.]+s\+ .* running\n", drawn)
    assert re.search(r"▶ best +[\dm.]+s\+ ", drawn)
    assert told["status"] == "running"
    assert [span["duration_s"] for span in told["spans"] if span["name"] == "best"] == [None, None]


# -- explain


def test_a_run_is_explained_from_its_facts(project: KeptProject) -> None:
    """Each decision with what it rests on, conditions with what they looked up; of a step, an item, or the whole run."""
    project("run", "shop.yaml", "-q", "-i", "fail=1")

    gift = fitting(project("explain", "last/gift", "--json").stdout, "explain")
    whole = fitting(project("explain", "last", "--json").stdout, "explain")
    item = project("explain", "last/prices[1]").stdout
    text = project("explain", "last/best")

    asked, skipped = [line for line in gift["decisions"] if line["text"].startswith("gift")]
    assert asked["values"] == {"steps.best.output": 5}
    assert (skipped["why"], skipped["because"]) == ("condition_false", "its condition was false")
    assert whole["checked"] == {"facts": 11, "decisions": len(whole["decisions"]) - 11}
    assert [line["seq"] for line in whole["decisions"]] == list(range(1, len(whole["decisions"]) + 1))
    assert "prices[1]: attempt 1 was released" in item
    assert "prices[0]" not in item
    assert re.search(r"best: will be tried again after [\d.]+s \(attempt 1 of 2 failed\)", text.stdout)
    assert "Decided again from 11 facts: all " in text.stderr


# -- diff


def test_what_differs_between_two_runs(project: KeptProject) -> None:
    """Inputs, workflow, how steps ended, outputs; a run does not differ from itself."""
    project("run", "shop.yaml", "-q", "-i", "fail=2")
    file = project.folder / "shop.yaml"
    file.write_text(file.read_text("utf-8").replace("item: melon", "item: kiwi"), "utf-8")
    project("run", "shop.yaml", "-q", "-i", 'items=["apple", "plum"]')
    rows = json.loads(project("runs", "--json").stdout)["runs"]
    new, old = (row["run_id"] for row in rows)

    told = fitting(project("diff", old, new, "--json").stdout, "diff")
    text = project("diff", old, new).stdout
    same = fitting(project("diff", old, old, "--json").stdout, "diff")

    assert told["inputs"] == [
        {"path": "$.items[1]", "before": "pear", "after": "plum"},
        {"path": "$.items[2]", "before": "fig"},
        {"path": "$.fail", "before": 2, "after": 1},
    ]
    assert [line for line in told["workflow"] if line[1:].strip().startswith('"item"')] == [
        '-        "item": "melon",',
        '+        "item": "kiwi",',
    ]
    steps = {step["path"]: step for step in told["steps"]}
    assert (steps["best"]["before"]["status"], steps["best"]["after"]["status"]) == ("failed", "completed")
    assert steps["best"]["before"]["error"] == "TransientError: the shop is closed"
    assert steps["prices"]["outputs"] == [{"path": "$[2]", "before": 3}]
    assert told["outputs"] == [{"path": "$.best", "after": 4}]
    assert "failed -> completed" in text
    assert '$.items[2]: "fig" -> (none)' in text
    assert {name: same[name] for name in ("inputs", "workflow", "versions", "steps", "outputs")} == {
        name: [] for name in ("inputs", "workflow", "versions", "steps", "outputs")
    }
    assert "Nothing else differs." in project("diff", old, old).stdout


# -- retry


def mend(project: KeptProject) -> None:
    """Let the page's executor not fail any more."""
    file = project.folder / "executors" / "shop.py"
    file.write_text(file.read_text("utf-8").replace("ctx.attempt <= fail", "False"), "utf-8")


def test_a_run_that_failed_goes_on(project: KeptProject) -> None:
    """In the same run, with new keys for what runs; what completed is not called again."""
    project("run", "shop.yaml", "-q", "-i", "fail=2")
    run = project("runs", "--json").stdout
    before = {
        step["path"]: step["idempotency_key"] for step in fitting(project("show", "last", "--json").stdout, "show")["steps"]
    }
    mend(project)
    done = project("retry", "last", "--json", "--reason", "mended")
    after = {
        step["path"]: step["idempotency_key"] for step in fitting(project("show", "last", "--json").stdout, "show")["steps"]
    }
    said = lines(project("logs", "last", "--json").stdout)
    told = project("explain", "last").stdout
    nothing = project("retry", "last")
    more = project("retry", "last", "--from", "gift", "-q")

    assert done.returncode == 0, done.stderr
    result = fitting(done.stdout, "run")
    assert result["run_id"] == json.loads(run)["runs"][0]["run_id"]
    assert (result["status"], result["outputs"]) == ("completed", {"best": 5})
    assert before["best"] != after["best"]
    assert [line["path"] for line in said if line["generation"] == 2] == ["best"]
    assert "told to go on again, as generation 2: mended" in told
    assert "goes on again, generation 2" in done.stderr
    assert nothing.returncode == 2
    assert "Say from which step on it is to run again." in nothing.stderr
    assert more.returncode == 0
    assert "lead to" in project("replay", "last", "--check").stdout
    assert project("retry", "last", "--from", "best", "--failed").returncode == 2


# -- replay


def test_a_run_is_done_again_with_what_was_recorded(project: KeptProject) -> None:
    """Its failure comes again without a call; a step can be tried anew; another input reaches some steps only."""
    project("run", "shop.yaml", "-q", "-i", "fail=2")
    run = str(json.loads(project("runs", "--json").stdout)["runs"][0]["run_id"])

    checked = fitting(project("replay", run, "--check", "--json").stdout, "replay-check")
    again = project("replay", run, "--json")
    lines_again = project("logs", "last").stderr
    mended = project("replay", run, "--set", "fail=0", "--json")
    asked = lines(project("logs", "last", "--json").stdout)
    anew = project("replay", run, "--from", "prices", "-q")
    asked_anew = lines(project("logs", "last", "--json").stdout)

    assert checked["ok"] is True
    assert again.returncode == 1
    failed = fitting(again.stdout, "run")
    assert failed["error"]["message"] == "the shop is closed"
    assert lines_again == "No lines.\n", "nothing was called"
    assert mended.returncode == 0, mended.stderr
    assert fitting(mended.stdout, "run")["outputs"] == {"best": 5}
    assert {line["path"] for line in asked} == {"best"}
    assert anew.returncode == 1
    assert {line["path"] for line in asked_anew} == {"prices", "best"}
    assert f"of run {run}" in project("explain", "last").stdout
    assert project("replay", run, "--set", "nothing=1").returncode == 2


# -- runs, show, cancel


def test_runs_are_listed_in_pages_that_stay_right(project: KeptProject) -> None:
    """By status and date, the newest first, in pages that no run leaves or enters when others begin (S3-50, S3-52, S3-53)."""
    for number in range(3):
        project("run", "shop.yaml", "-q", "-i", f"fail={number}")
    page = fitting(project("runs", "--limit", "2", "--json").stdout, "runs")
    project("run", "shop.yaml", "-q")
    rest = fitting(project("runs", "--limit", "2", "--cursor", str(page["cursor"]), "--json").stdout, "runs")
    text = project("runs", "--limit", "2")

    def statuses(*words: str) -> list[str]:
        return [row["status"] for row in fitting(project("runs", "--json", *words).stdout, "runs")["runs"]]

    seen = [row["run_id"] for half in (page, rest) for row in half["runs"]]
    assert len(set(seen)) == len(seen) == 3
    assert seen == sorted(seen, reverse=True)
    assert rest["cursor"] == ""
    assert "More: treadle runs --cursor" in text.stderr
    assert statuses("--status", "failed") == ["failed"]
    assert statuses("--status", "completed", "--since", "1h", "--until", "2999-01-01") == ["completed"] * 3
    assert statuses("--until", "1h") == statuses("--workflow", "other") == []
    assert project("runs", "--since", "yesterday").returncode == 2


def test_times_are_those_of_the_machine_with_their_offset(project: KeptProject) -> None:
    """One rule for all that people read, and for what they type; programs get seconds since 1970, whatever the zone."""
    assert project("run", "shop.yaml", "--quiet").returncode == 0
    india = timezone(timedelta(hours=5, minutes=30))
    ats = {json.loads(project("runs", "--json", TZ=zone).stdout)["runs"][0]["created_at"] for zone in ("IST-5:30", "UTC0")}
    (at,) = ats

    local = datetime.fromtimestamp(at, india).isoformat(" ", "seconds")
    assert local.endswith("+05:30")
    for words in (("runs",), ("show", "last"), ("store", "stats")):
        assert local in project(*words, TZ="IST-5:30").stdout
    assert datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds") in project("runs", TZ="UTC0").stdout
    after = datetime.fromtimestamp(at + 60, india)
    assert len(json.loads(project("runs", "--since", local, "--json", TZ="UTC0").stdout)["runs"]) == 1
    assert json.loads(project("runs", "--since", f"{after:%Y-%m-%d %H:%M:%S}", "--json", TZ="IST-5:30").stdout)["runs"] == []


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-01-31", datetime(2026, 1, 30, 18, 30, tzinfo=UTC)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 6, 30, tzinfo=UTC)),
        ("2026-01-31 12:00:05", datetime(2026, 1, 31, 6, 30, 5, tzinfo=UTC)),
        ("2026-01-31T12:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00+01:00", datetime(2026, 1, 31, 11, tzinfo=UTC)),
    ],
)
def test_a_moment_without_an_offset_is_of_this_machine(monkeypatch: pytest.MonkeyPatch, text: str, at: datetime) -> None:
    """What a command shows can be given back to it; another offset, or Z, is what it says."""
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    try:
        assert _runs._moment(text, "--since") == at.timestamp()
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_run_is_shown_with_its_steps(project: KeptProject) -> None:
    """Its state and result, and each step and item with attempts, times and why it ended so (S3-49, S3-51)."""
    project("run", "shop.yaml", "-q", "-i", "fail=2", "--key", "today")

    told = fitting(project("show", "last", "--json").stdout, "show")
    text = project("show", "last").stdout

    assert (told["status"], told["key"], told["culprit"]) == ("failed", "today", "best")
    steps = {(step["path"], step["index"]): step for step in told["steps"]}
    assert list(steps) == [("prices", None), ("prices", 0), ("prices", 1), ("prices", 2), ("best", None), ("gift", None)]
    best = steps["best", None]
    assert (best["status"], best["attempt"], best["error_type"]) == ("failed", 2, "TransientError")
    assert best["queued_at"] <= best["started_at"] <= best["ended_at"]
    assert steps["gift", None]["status"] == "upstream_failed"
    assert "cause:   best: the shop is closed" in text
    assert re.search(r"best +failed +2 +[\d.]+s +TransientError: the shop is closed", text)


def test_rows_are_there_while_a_step_runs(tmp_path: Path) -> None:
    """The run's before its first step, the step's from its start; both change with their end (S3-44, S3-45, S3-46, S3-47)."""
    store = SqliteStore(path=tmp_path / "runs.db")
    seen: list[tuple[RunRow | None, StepRow]] = []

    @executor("demo.look")
    async def look(ctx: Context, /) -> None:
        (step,) = await store.steps(ctx.run_id)
        seen.append((await store.run(ctx.run_id), step))

    workflow = Workflow("look")
    workflow.step("look", "demo.look")
    result = run(workflow, registry=Registry.of(look), store=store)
    row = anyio.run(store.run, result.run_id)
    (step,) = anyio.run(store.steps, result.run_id)
    store.close()

    ((row_then, step_then),) = seen
    assert row_then is not None
    assert row is not None
    assert (row_then.status, row_then.ended_at, step_then.status, step_then.ended_at) == ("running", None, "running", None)
    assert (row.status, row.ended_at, step.status, step.attempt) == ("completed", result.ended_at, "completed", 1)
    assert step.ended_at is not None


def test_a_cancel_is_cooperative_then_hard(project: KeptProject) -> None:
    """What runs is told to stop, and the run is 'cancelling' until it has; a process that does not stop is killed (C38)."""
    (project.folder / "executors" / "deaf.py").write_text(
        "import signal, time\nfrom treadle import executor\n\n"
        "@executor('deaf.sleep')\ndef sleep(mark: str) -> None:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    open(mark, 'w').close()\n    time.sleep(60)\n\n"
        "@executor('deaf.tidy')\ndef tidy(mark: str) -> None:\n"
        "    import os\n    while not os.path.exists(mark):\n        time.sleep(0.05)\n",
        "utf-8",
    )
    mark, seen_it = project.folder / "runs-now", project.folder / "was-seen"
    (project.folder / "deaf.yaml").write_text(
        f"name: deaf\nsteps:\n  deaf: {{uses: deaf.sleep, isolation: process, with: {{mark: {mark}}}}}\n"
        "  after: {uses: shop.price, needs: [deaf], with: {item: x}}\n"
        f"finally:\n  tidy: {{uses: deaf.tidy, with: {{mark: {seen_it}}}}}\n",
        "utf-8",
    )
    run = project.start("run", "deaf.yaml", "-q")
    while not mark.exists():
        assert run.poll() is None
        time.sleep(0.05)
    asked = fitting(project("cancel", "last", "--json").stdout, "cancel")
    meanwhile = fitting(project("show", "last", "--json").stdout, "show")["status"]
    seen_it.touch()
    waited = fitting(project("cancel", "last", "--wait", "--json").stdout, "cancel")
    run.communicate()
    steps = {step["path"]: step["status"] for step in json.loads(project("show", "last", "--json").stdout)["steps"]}

    assert asked["owner"]
    assert meanwhile == "cancelling"
    assert waited["status"] == "cancelled"
    assert run.returncode == 3
    assert steps == {"deaf": "cancelled", "after": "cancelled", "finally/tidy": "completed"}


def test_a_cancel_of_a_run_that_nobody_drives_ends_it(project: KeptProject) -> None:
    """Its owner was killed: the command ends it, finally steps included, and prints nothing else."""
    run = started(project, "-i", "seconds=300")
    run.kill()
    run.communicate()

    done = project("cancel", "last", "--reason", "no need", "--json")

    assert fitting(done.stdout, "cancel")["status"] == "cancelled"
    assert done.returncode == 0
    assert "no need" in project("show", "last").stdout


# -- plan


def test_a_plan_knows_what_earlier_runs_took(project: KeptProject) -> None:
    """The median of completed runs, else the timeout, else nothing; and the chain of steps that decides the time."""
    file = project.folder / "shop.yaml"
    before = fitting(project("plan", "shop.yaml", "--json").stdout, "plan")
    took: dict[str, list[float]] = {"prices": [], "best": []}
    for seconds in (0.2, 0.5, 0.8):
        project("run", "shop.yaml", "-q", "-i", f"seconds={seconds}", "-i", "fail=0")
        for step in fitting(project("show", "last", "--json").stdout, "show")["steps"]:
            if step["index"] is None and step["path"] in took:
                took[step["path"]].append(step["ended_at"] - step["queued_at"])
    project("run", "shop.yaml", "-q", "-i", "fail=2")
    file.write_text(file.read_text("utf-8") + "finally:\n  tidy: {uses: shop.price, timeout: 90s, with: {item: x}}\n", "utf-8")
    after = fitting(project("plan", "shop.yaml", "--json").stdout, "plan")
    blind = fitting(project("plan", "shop.yaml", "--no-history", "--json").stdout, "plan")
    text = project("plan", "shop.yaml").stdout

    assert before["critical_path"]["unknown"] == ["prices", "best", "gift"]
    steps = after["steps"]
    assert (steps["best"]["expected_from"], steps["best"]["expected_runs"]) == ("recorded", 3)
    assert steps["best"]["expected_s"] == pytest.approx(statistics.median(took["best"]), abs=0.01)
    assert steps["best"]["expected_s"] >= 0.5
    assert (steps["finally/tidy"]["expected_from"], steps["finally/tidy"]["expected_s"]) == ("timeout", 90.0)
    critical = after["critical_path"]
    assert critical["steps"] == ["prices", "best", "gift", "finally/tidy"]
    assert critical["unknown"] == ["gift"]
    assert critical["duration_s"] == pytest.approx(90 + sum(map(statistics.median, took.values())), abs=0.02)
    assert blind["critical_path"]["duration_s"] == 90.0
    assert re.search(r"critical path: prices -> best -> gift -> finally/tidy  \(\dm\d\ds, from 3 runs; 1 step unknown\)", text)
    assert re.search(r"finally/tidy +shop.price .* at most 1m30s\n", text)


def test_a_plan_says_what_cannot_be_had(project: KeptProject) -> None:
    """A wait that ends with the process is a warning, and with --strict an error; an unknown engine is one at once."""
    (project.folder / "wait.yaml").write_text("name: w\nsteps:\n  nap: {wait: 90m}\n", "utf-8")
    memory = {"TREADLE_STORE__USE": "memory"}
    warned = project("plan", "wait.yaml", "--json", **memory)
    strict = project("plan", "wait.yaml", "--strict", **memory)

    (warning,) = fitting(warned.stdout, "plan")["warnings"]
    assert warning["message"] == "the waits of nap end with the process: runs are kept in memory"
    assert strict.returncode == 2
    assert "the waits of nap end with the process" in strict.stderr
    assert project("plan", "wait.yaml", "--strict").returncode == 0
    assert "No installed plugin provides engine 'nope'" in project("plan", "shop.yaml", "--engine", "nope").stderr


def test_a_plan_bounds_the_cost(project: KeptProject) -> None:
    """What the run and its steps may use up at most stands in the plan."""
    (project.folder / "paid.yaml").write_text(
        "name: paid\nbudget: {cost: '1.50', tokens: 2000}\nsteps:\n"
        "  a: {uses: shop.price, budget: {cost: '0.25', mode: warn}, with: {item: x}}\n",
        "utf-8",
    )
    told = fitting(project("plan", "paid.yaml", "--json").stdout, "plan")
    text = project("plan", "paid.yaml").stdout

    assert (told["budget"]["cost"], told["budget"]["tokens"]) == ("1.50", 2000)
    assert told["steps"]["a"]["budget"]["cost"] == "0.25"
    assert "run: at most 1.50 USD, 2000 tokens" in text
    assert "a: at most 0.25 USD (warns only)" in text


# -- the page


def test_the_commands_of_the_page_work(project: KeptProject) -> None:
    """In order, as they stand there; RUN stands for the newest runs."""
    for words in project.commands():
        if "RUN" in words:
            rows = json.loads(project("runs", "--json").stdout)["runs"]
            ids = [row["run_id"] for row in rows]
            words = [ids.pop(0) if word == "RUN" else word for word in words]
        if words[0] == "retry":
            mend(project)
        done = project(*words)
        assert done.returncode == ("fail=2" in words), (words, done.stderr)
