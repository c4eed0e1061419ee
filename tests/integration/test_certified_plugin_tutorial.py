"""docs/tutorial/certified-plugin.md, done word for word in an environment that has nothing else."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial" / "certified-plugin.md").read_text("utf-8")
PARTS = re.findall(r"^(?:`([\w./]+)`:\n\n)?```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
"""File (or nothing), language and text of each block, in order."""

INSTALL = "python -m pip install --group dev --editable ."


class Environment(Protocol):
    """The fixture's: a virtual environment with commands of its own."""

    def install(self, *wanted: str | Path, cwd: Path | None = None) -> None: ...

    def shell(self, command: str, *, cwd: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]: ...


Done = list[tuple[str, "subprocess.CompletedProcess[str]"]]


@pytest.fixture(scope="module")
def done(core_wheel: Path, new_environment: Callable[[], Environment], tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Every command of the page with what it said, the files written in between; only pip's work is done with built wheels."""
    environment = new_environment()
    environment.install(core_wheel)
    place = tmp_path_factory.mktemp("author")
    told: Done = []
    for file, language, text in PARTS:
        if file:
            assert (place / file).exists(), f"{file} is one of those that 'plugins new' wrote"
            (place / file).write_text(text, "utf-8")
        elif language == "sh":
            for line in text.splitlines():
                if line.startswith("cd "):
                    place /= line.removeprefix("cd ")
                elif line == INSTALL:
                    environment.install("--editable", ".", "--group", "dev", cwd=place)
                else:
                    told.append((line, environment.shell(line, cwd=place, timeout_s=120)))
    return told


def test_each_command_ends_as_the_page_says(done: Done) -> None:
    """All succeed, but for the tests of the version that forgot something."""
    codes = [(line, ran.returncode) for line, ran in done]

    assert codes == [
        ("treadle plugins new acme.mask", 0),
        ("pytest", 0),
        ("pytest", 1),
        ("pytest", 0),
        ("treadle plugins info acme.mask", 0),
        ("treadle plugins test acme.mask", 0),
        ("treadle plugins doctor", 0),
        ("treadle schema --executor acme.mask --write contracts.json", 0),
        ("treadle schema --check contracts.json", 0),
    ], "\n".join(ran.stdout + ran.stderr for _, ran in done)


def test_the_kit_finds_exactly_what_was_forgotten(done: Done) -> None:
    """The failures that the page shows are the failures there are."""
    shown = [line for file, language, text in PARTS if language == "text" for line in text.splitlines()]
    failed = [ran for line, ran in done if line == "pytest"][1]

    told = failed.stdout.partition("short test summary info")[0]  # which repeats them where the variable CI is set
    said = [line.removeprefix("E ").strip().removeprefix("AssertionError: ") for line in told.splitlines()]

    assert failed.stdout.count("FAILED tests/test_contract.py::TestMask::test_") == 2
    assert [line for line in said if line in [each.strip() for each in shown]] == [line.strip() for line in shown]


def test_the_plugin_is_certified(done: Done) -> None:
    """What its users see: declared and tested."""
    (tested,) = [ran for line, ran in done if line.startswith("treadle plugins test")]
    (row,) = [line.split() for line in tested.stdout.splitlines() if line.startswith("acme.mask")]

    assert row == ["acme.mask", "treadle-acme", "ok", "ok", "-"]
