"""The commands that speak to a run that waits, on a real store; the page of the docs, followed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from kept_project import KeptProject, fitting


@pytest.fixture
def project(tmp_path: Path) -> KeptProject:
    """The page's files."""
    return KeptProject(tmp_path, "how-to/wait-for-an-approval.md")


def waiting(project: KeptProject, *words: str) -> subprocess.Popen[str]:
    """A run that waits for its approval."""
    run = project.start("run", "release.yaml", *words)
    assert run.stderr is not None
    for line in run.stderr:
        if "waits for the signal" in line:
            return run
    raise AssertionError("it never waited")


def suspended(project: KeptProject, *words: str) -> str:
    """A run that waits and that nobody drives; answers its id."""
    run = waiting(project, *words)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    shown = fitting(project("show", "last", "--json").stdout, "show")
    assert shown["status"] == "suspended"
    return str(shown["run_id"])


def test_an_approval_from_another_process(project: KeptProject) -> None:
    """The run says what it waits for and how to answer, hears the answer within a beat, and goes on."""
    run = project.start("run", "release.yaml")
    assert run.stderr is not None
    said = next(line for line in run.stderr if "waits for the signal" in line)
    shown = project("show", "last")
    waits = fitting(project("show", "last", "--json").stdout, "show")["waits"]
    answered = project("approve", "last", "--comment", "looks good", "--json")
    sent_at = time.time()
    out, _ = run.communicate(timeout=60)
    ended = {step["path"]: step["ended_at"] for step in fitting(project("show", "last", "--json").stdout, "show")["steps"]}
    told = fitting(answered.stdout, "signal")

    assert re.search(r"ok: waits for the signal 'release', at most 48h00m: treadle approve [\w-]+ release$", said)
    assert re.search(r"ok waits for the signal 'release' until [\d: +-]+: treadle approve [\w-]+ release", shown.stdout)
    assert isinstance(waits, list)
    assert [(wait["path"], wait["signal"], wait["is_approval"]) for wait in waits] == [("ok", "release", True)]
    assert told["steps"] == ["ok"]
    assert told["owner"]
    assert isinstance(told["payload"], dict)
    assert (told["payload"]["approved"], told["payload"]["comment"]) == (True, "looks good")
    assert run.returncode == 0
    assert f"site-1.0.tar.gz published for {told['payload']['by']}" in out
    assert ended["ok"] - sent_at < 10, "a beat is 5 s at most"


def test_a_rejection_ends_what_needs_the_approval(project: KeptProject) -> None:
    """With the comment as the cause; the exit code says failed."""
    run = waiting(project)
    project("reject", "last", "--comment", "not on a Friday")
    out, _ = run.communicate(timeout=60)
    told = project("explain", "last/ok")

    assert run.returncode == 1
    assert "not on a Friday" in out
    assert "ok: the signal came" in told.stdout
    assert "ok: failed, because it was rejected" in told.stdout


def test_a_run_that_only_waits_is_suspended_by_ctrl_c(project: KeptProject) -> None:
    """It is not cancelled; what is sent meanwhile is kept, and is the first thing that it hears (S3-84)."""
    run = waiting(project)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    answered = project("approve", "last")
    again = project("resume", "last", "--json")
    result = fitting(again.stdout, "run")

    assert run.returncode == 3
    assert "the run only waits, so it is suspended. To end it instead: treadle cancel " in err
    assert "Nobody drives the run; it goes on with: treadle resume " in answered.stderr
    assert again.returncode == 0
    assert result["status"] == "completed"
    assert isinstance(result["steps"], dict)
    assert result["steps"]["build"]["attempts"] == 1


def test_ctrl_c_cancels_a_run_that_does_something(project: KeptProject) -> None:
    """Only one that waits and nothing else is suspended."""
    (project.folder / "busy.yaml").write_text(
        "name: busy\nsteps:\n  wait: {wait: {signal: go}}\n  sleep: {uses: shell.run, with: {argv: [sleep, '300']}}\n"
    )
    run = project.start("run", "busy.yaml")
    assert run.stderr is not None
    for line in run.stderr:
        if "sleep: started" in line:
            break
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)

    assert run.returncode == 3
    assert fitting(project("show", "last", "--json").stdout, "show")["status"] == "cancelled"


def test_a_run_that_was_killed_while_it_waited_goes_on(project: KeptProject) -> None:
    """A wait outlives the process that began it, however that ended, and is less than 10 s late afterwards (S1-42, S1-94)."""
    run = waiting(project, "-i", "pause=1s")
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    project("signal", "last", "release", '{"approved": true, "by": "me"}')
    result = fitting(project("resume", "last", "--json").stdout, "run")

    assert result["status"] == "completed"
    assert result["outputs"] == {"done": "site-1.0.tar.gz published for me"}
    assert 1 <= result["steps"]["pause"]["duration_s"] < 1 + 10


def test_what_cannot_be_sent_is_refused(project: KeptProject) -> None:
    """Each says what is wrong and what to do; nothing is sent, and the run waits on."""
    run_id = suspended(project)
    refusals = [
        (["signal", "nobody", "release"], "There is no run 'nobody'"),
        (["signal", "last", "relaese", "{}"], "has no step that waits for the signal 'relaese'.\nIt waits for: release."),
        (["signal", "last", "release", "{}"], "does not fit: $.approved: is required"),
        (["signal", "last", "release", '{"approved": 1}'], "$.approved: must be boolean, not integer"),
        (["approve", "last", "other"], "no step that waits for the signal 'other'"),
    ]
    for words, said in refusals:
        refused = project(*words)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert said in refused.stderr
    assert fitting(project(*refusals[2][0], "--json").stdout, "error")["error"]
    waits = fitting(project("show", run_id, "--json").stdout, "show")["waits"]
    assert isinstance(waits, list)
    assert [wait["signal"] for wait in waits] == ["release"]


def test_what_is_no_payload_or_moment_is_refused(project: KeptProject) -> None:
    """Before any store is opened."""
    refusals = [
        (["yes"], "PAYLOAD: 'yes' is no JSON"),
        (["@nothing.json"], "nothing.json cannot be read"),
        (["--at", "tomorrow"], "--at: 'tomorrow' is no moment"),
        (["--after", "soon"], "--after: 'soon' is no duration"),
        (["--at", "2026-12-01T08:00Z", "--after", "1h"], "cannot both be given"),
    ]
    for words, said in refusals:
        refused = project("signal", "last", "release", *words)
        assert refused.returncode == 2
        assert said in refused.stderr


def test_a_run_that_has_ended_takes_no_signal(project: KeptProject) -> None:
    """Whoever sends one is told so."""
    run = waiting(project)
    project("approve", "last")
    run.communicate(timeout=60)

    refused = project("approve", "last")

    assert refused.returncode == 2
    assert "has ended: completed." in refused.stderr


def test_a_signal_for_later_is_kept_by_a_timer(project: KeptProject) -> None:
    """``show`` says when it is delivered; it is, once, also across stints (S1-45)."""
    run_id = suspended(project)
    words = ["signal", run_id, "release", '{"approved": true, "by": "custom"}', "--id", "x", "--json"]
    sent = fitting(project(*words, "--after", "3s").stdout, "signal")
    again = fitting(project(*words).stdout, "signal")
    run = project.start("resume", run_id, "--json")
    out, _ = run.communicate(timeout=60)
    result = json.loads(out)

    assert sent["signal_id"] == again["signal_id"] == "x"
    assert result["status"] == "completed"
    assert result["outputs"] == {"done": "site-1.0.tar.gz published for custom"}
    assert result["steps"]["ok"]["duration_s"] > 2


def test_the_commands_of_the_page(project: KeptProject) -> None:
    """As they are written, one after the other."""
    commands = project.commands()
    assert [words[0] for words in commands] == ["run", "show", "approve", "resume"]
    run = waiting(project)
    project("approve", "last", "--comment", "looks good")
    run.communicate(timeout=60)
    resumed = project(*commands[3])

    assert run.returncode == 0
    assert resumed.returncode == 0
    assert "published for" in resumed.stdout


def test_a_run_in_memory_says_that_nobody_can_send_it_a_signal(project: KeptProject) -> None:
    """Before it waits for ever."""
    with (project.folder / "treadle.toml").open("a") as file:
        file.write('\n[store]\nuse = "memory"\n')
    run = project.start("run", "release.yaml")
    assert run.stderr is not None
    first = next(run.stderr)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)

    assert first == "It waits for signals, and nobody can send one to a run that is kept in memory.\n"
    assert run.returncode == 3
