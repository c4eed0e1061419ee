"""``treadle plugins test``: the kit over what is installed, without anything written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest


class Result(Protocol):
    """What is used of subprocess's object of that name."""

    returncode: int
    stdout: str
    stderr: str


Treadle = Callable[..., Result]
Fits = Callable[[str, str], dict[str, object]]

KIT = '''
"""Executors of each sort."""
import os
import time
from treadle import executor


@executor("kit.good", examples=({"text": "A b"},))
async def good(text: str) -> str:
    """Give back the text."""
    return text


@executor("kit.bare")
async def bare(text: str) -> str:
    """Give back the text, without an example."""
    return text


@executor("kit.wrong", examples=({"text": "A b"},))
async def wrong(text: str) -> int:
    """Give back the text as a number."""
    return text


@executor("kit.harmful", effects="unsafe", examples=({"text": "A b"},))
async def harmful(text: str) -> None:
    """Send the text to everybody."""
    open(os.environ["SENT"], "w").write(text)


@executor("kit.dies", examples=({"text": "A b"},))
async def dies(text: str) -> None:
    """End the process at once."""
    os._exit(7)


@executor("kit.hangs", examples=({"text": "A b"},))
async def hangs(text: str) -> None:
    """Block the event loop for good."""
    time.sleep(1000)


@executor("kit.unbound", examples=({"text": "A b"},))
async def unbound(*text: str) -> None:
    """Take what cannot be taken."""
'''

ACME = '''
from contextlib import asynccontextmanager
from treadle import client, executor
import attrs


@client("board")
@attrs.define
class Board:
    """A board that nobody can reach."""

    host: str = "board.example"

    @asynccontextmanager
    async def open(self):
        raise ConnectionError(f"{self.host} does not answer")
        yield


@executor("acme.post", examples=({"text": "A b"},))
async def post(board: Board, /, text: str) -> int:
    """Post a text to the board."""
    return await board.post(text)
'''
ACME_TESTING = """
from treadle import client
from treadle.testing import FakeClient
import attrs
from acme import Board


@client("board")
@attrs.define(eq=False)
class FakeBoard(FakeClient):
    answers: object = attrs.field(factory=lambda: {"post": 1}, repr=False)
"""


@pytest.fixture
def kit(treadle: Treadle, tmp_path: Path) -> Treadle:
    """The command in a project with one executor of each sort."""
    (tmp_path / "executors" / "demo.py").write_text(KIT, "utf-8")
    return treadle


def levels(executor: object) -> tuple[object, ...]:
    assert isinstance(executor, dict)
    return executor["declared"], executor["tested"], executor["live"]


def test_each_executor_is_declared_and_tested(kit: Treadle, fits: Fits, tmp_path: Path) -> None:
    """One that hangs, ends the process or cannot be bound costs the others nothing; one that does harm is not run."""
    ended = kit("plugins", "test", "--all", "--timeout", "20", "--json", TREADLE_PLUGINS="none", SENT=str(tmp_path / "sent"))

    data = fits(ended.stdout, "plugins-test")
    found = {one["name"]: one for one in data["executors"]}
    assert ended.returncode == 1
    assert not data["passed"]
    assert {name: levels(one) for name, one in found.items()} == {
        "kit.good": ("ok", "ok", "untested"),
        "kit.bare": ("ok", "untested", "untested"),
        "kit.wrong": ("ok", "failed", "untested"),
        "kit.harmful": ("ok", "untested", "untested"),
        "kit.dies": ("failed", "untested", "untested"),
        "kit.hangs": ("failed", "untested", "untested"),
        "kit.unbound": ("failed", "untested", "untested"),
    }
    said = {name: " ".join(finding["message"] for finding in one["findings"]) for name, one in found.items()}
    assert said["kit.good"] == ""
    assert "There is no example of its inputs" in said["kit.bare"]
    assert {finding["rule"] for finding in found["kit.wrong"]["findings"]} == {"output"}
    assert "only run with inputs from a test of its author" in said["kit.harmful"]
    assert not (tmp_path / "sent").exists()
    assert "ended with exit code 7" in said["kit.dies"]
    assert "was not over after 20 s" in said["kit.hangs"]
    assert "'*text'" in said["kit.unbound"]


def test_a_table_and_the_failures_with_their_remedies(kit: Treadle) -> None:
    """People see three columns, then what is wrong and what to do; exit code 0 when nothing is."""
    good, wrong = kit("plugins", "test", "kit.good"), kit("plugins", "test", "kit.wrong")

    assert good.returncode == 0, good.stderr
    assert good.stdout.splitlines()[:2] == ["name      from   declared  tested  live", "kit.good  local  ok        ok      -"]
    assert "none failed" in good.stdout
    assert wrong.returncode == 1
    assert "kit.wrong: failure: output on asyncio: Its output breaks its contract:" in wrong.stdout
    assert "\n  Correct what it returns, or the declared type.\n" in wrong.stdout


def test_what_nobody_provides_is_refused(kit: Treadle) -> None:
    """A misspelt name gets a suggestion; neither name nor --all is wrong usage."""
    misspelt, nothing = kit("plugins", "test", "kit.god"), kit("plugins", "test")

    assert (misspelt.returncode, nothing.returncode) == (2, 2)
    assert "Did you mean 'kit.good'?" in misspelt.stderr
    assert "--all" in nothing.stderr


def test_fakes_are_found_and_real_clients_are_tried_on_demand(treadle: Treadle, fits: Fits, tmp_path: Path) -> None:
    """The module ``testing`` of a client's package has its fake; --connect says whether the real one can be had."""
    info = tmp_path / "site" / "acme-1.0.dist-info"
    (tmp_path / "site" / "acme").mkdir(parents=True)
    info.mkdir()
    (tmp_path / "site" / "acme" / "__init__.py").write_text(ACME)
    (tmp_path / "site" / "acme" / "testing.py").write_text(ACME_TESTING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\nRequires-Dist: treadle>=0.1\n")
    (info / "entry_points.txt").write_text(
        "[treadle.executors]\nacme.post = acme:post\n[treadle.clients]\nboard = acme:Board\n"
    )
    (info / "RECORD").write_text("acme/__init__.py,,\nacme/testing.py,,\n")
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])

    fake = fits(treadle("plugins", "test", "acme.post", "--json", PYTHONPATH=path).stdout, "plugins-test")
    real = fits(treadle("plugins", "test", "acme.post", "--connect", "--json", PYTHONPATH=path).stdout, "plugins-test")

    assert [levels(one) for one in fake["executors"]] == [("ok", "ok", "untested")], fake
    assert [levels(one) for one in real["executors"]] == [("ok", "ok", "failed")]
    assert "board.example does not answer" in real["executors"][0]["findings"][0]["message"]
