"""The commands that look back at runs, on a real store and from processes of their own; the page of the docs, followed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from kept_project import KeptProject, fitting


@pytest.fixture
def project(tmp_path: Path) -> KeptProject:
    """The page's files."""
    return KeptProject(tmp_path, "how-to/look-back-at-a-run.md")


def lines(text: str) -> list[dict[str, object]]:
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
    run = project.start("run", "shop.yaml", "-i", "seconds=1.5", "-i", "fail=0")
    assert run.stderr is not None
    for line in run.stderr:
        if "best: started" in line:
            break
    follower = project.start("logs", "last", "-f", "--json")
    assert follower.stdout is not None
    followed = []
    for line in follower.stdout:
        followed.append(json.loads(line)["path"])
        if followed[-1] == "best":
            break
    was_running = run.poll() is None
    run.communicate(timeout=30)
    out, err = follower.communicate(timeout=30)

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
