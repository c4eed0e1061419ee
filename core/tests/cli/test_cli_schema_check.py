"""``treadle schema --executor``, ``--write`` and ``--check``: what an executor promised, and whether it keeps it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Protocol

import jsonschema
import pytest

THEN = '''
from typing import Literal
from treadle import executor


@executor("demo.page", effects="idempotent")
async def page(url: str, mode: Literal["text", "html"] = "text") -> str:
    """Read a page."""
    return url


@executor("demo.other")
async def other() -> int:
    """Another."""
    return 1
'''
MORE = THEN.replace("url: str,", "url: str | None, limit: int = 10,")
LESS = THEN.replace('mode: Literal["text", "html"] = "text") -> str', 'kind: str = "text") -> str | None')
GONE = THEN.replace('"demo.other"', '"demo.another"')
UNSAFE = THEN.replace('effects="idempotent"', 'effects="unsafe", backends=("asyncio",)')


class Treadle(Protocol):
    """The fixture: the command in a folder."""

    folder: Path

    def __call__(self, *words: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]: ...

    def write(self, name: str, text: str) -> str: ...


@pytest.fixture
def recorded(treadle: Treadle) -> Treadle:
    """A project whose contracts of today are in ``contracts.json``."""
    treadle.write("executors/demo.py", THEN)
    done = treadle("schema", "--executor", "demo.page", "--executor", "demo.other", "--write", "contracts.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Wrote 2 contracts to contracts.json\n")
    return treadle


def test_the_contract_of_an_executor_is_printed_as_it_is_recorded(recorded: Treadle) -> None:
    """What goes into the file is what stdout shows: valid schemas of both sides, what is declared, and the version."""
    printed = recorded("schema", "--executor", "demo.page", "--executor", "demo.other")

    contract = json.loads(printed.stdout)["contracts"]["demo.page"]
    assert printed.stdout == (recorded.folder / "contracts.json").read_text("utf-8")
    assert {key: contract[key] for key in ("effects", "backends", "version")} == {
        "effects": "idempotent",
        "backends": ["asyncio", "trio"],
        "version": "",
    }
    jsonschema.validate({"url": "x", "mode": "html"}, contract["inputs"], cls=jsonschema.Draft202012Validator)
    assert not jsonschema.Draft202012Validator(contract["inputs"]).is_valid({"url": "x", "mode": "pdf"})
    assert contract["output"]["type"] == "string"


@pytest.mark.parametrize("code", [THEN, MORE], ids=["as it was", "takes more"])
def test_who_keeps_its_contract_passes(recorded: Treadle, code: str) -> None:
    """More optional inputs and wider types are fine."""
    recorded.write("executors/demo.py", code)

    done = recorded("schema", "--check", "contracts.json")

    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("ok: 2 contracts of contracts.json kept\n")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            LESS,
            [
                "demo.page: inputs.mode: is no longer taken: it was removed or renamed",
                "demo.page: output: may be null now; recorded: string",
            ],
        ),
        (GONE, ["demo.other: executor: no installed plugin provides it any more"]),
        (
            UNSAFE,
            [
                "demo.page: effects: were 'idempotent', are 'unsafe' now: runs rely on what was declared",
                "demo.page: backends: does not run on trio any more",
            ],
        ),
    ],
    ids=["takes less, gives more", "is gone", "promises less"],
)
def test_who_breaks_its_contract_fails(recorded: Treadle, code: str, said: list[str]) -> None:
    """Exit code 1; a line with place and sentence for each difference, and what to do about it."""
    recorded.write("executors/demo.py", code)

    done = recorded("schema", "--check", "contracts.json")

    assert done.returncode == 1
    assert done.stdout.splitlines() == said
    assert "does not keep its contract" in done.stderr
    assert "treadle schema --write contracts.json" in done.stderr


def test_a_new_major_version_is_recorded_by_the_command_that_the_failure_names(recorded: Treadle) -> None:
    """Without --executor, everything that the file holds is recorded again; --executor adds to it."""
    recorded.write("executors/demo.py", LESS + THEN.replace("demo.", "more."))

    again = recorded("schema", "--write", "contracts.json")
    added = recorded("schema", "--write", "contracts.json", "--executor", "more.page")

    assert (again.returncode, again.stderr) == (0, "Wrote 2 contracts to contracts.json\n")
    assert (added.returncode, added.stderr) == (0, "Wrote 3 contracts to contracts.json\n")
    assert recorded("schema", "--check", "contracts.json").returncode == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it has no object 'contracts'"),
        ('{"contracts": {"demo.page": {"inputs": {}}}}', "demo.page has no 'output'"),
        ('{"contracts": {"demo.page": 1}}', "demo.page has no 'inputs' and no 'output'"),
        (
            '{"contracts": {"demo.page": {"inputs": {}, "output": {"anyOf": 1}}}}',
            "demo.page: 'anyOf' in the schema is no list",
        ),
    ],
)
def test_a_damaged_record_is_wrong_usage(recorded: Treadle, text: str, why: str) -> None:
    """It is no contract that anything could keep: exit code 2, and how to make a new one."""
    recorded.write("contracts.json", text)

    done = recorded("schema", "--check", "contracts.json")

    assert done.returncode == 2
    assert f"contracts.json does not hold contracts: {why}" in done.stderr
    assert "treadle schema --executor NAME --write contracts.json" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--check", "contracts.json", "--executor", "demo.page"), "Use --out alone"),
        (("--check", "contracts.json", "--write", "contracts.json"), "Use --out alone"),
        (("--out", "x.json", "--executor", "demo.page"), "Use --out alone"),
        (("--write", "new.json"), "--write needs --executor NAME"),
        (("--executor", "demo.pag"), "Did you mean 'demo.page'?"),
        (("--check", "lost.json"), "lost.json"),
    ],
)
def test_what_cannot_be_meant_is_refused(recorded: Treadle, words: tuple[str, ...], said: str) -> None:
    """Exit code 2, and no file is written."""
    done = recorded("schema", *words)

    assert done.returncode == 2
    assert said in done.stderr
    assert not (recorded.folder / "new.json").exists()
    assert not (recorded.folder / "x.json").exists()
