"""The how-to pages for authors: what they show is laid out as they say, and every command does what stands below it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
PAGES = [
    "cache-outputs",
    "chain-executors",
    "count-and-limit-costs",
    "handle-retries-and-errors",
    "hide-secrets",
    "inject-faults",
    "leave-a-broken-service-alone",
    "limit-rates",
    "publish-a-plugin",
    "run-phases-of-agents",
    "use-secrets",
    "write-a-client",
    "write-a-family",
    "write-a-policy",
    "write-an-executor",
]
BLOCK = re.compile(r"(?:^`(?P<file>[\w./-]+)`[^\n]*:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
CODES = {"": 0, "fails": 1, "refused": 2}


class Block(NamedTuple):
    """A block of a page: a file, commands, or what the commands before it print."""

    file: str
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    return [Block(found["file"] or "", found["language"], found["text"]) for found in BLOCK.finditer(text)]


class Project(NamedTuple):
    """A folder with what a page shows, and a site where its plugin is installed."""

    folder: Path
    site: Path

    def lay(self, block: Block) -> None:
        """Put a file where its page says: modules and entry points are installed, the rest lies in the folder."""
        if block.file == "pyproject.toml":
            self._install(block.text)
        else:
            folder = self.site if block.file.endswith(".py") else self.folder
            (folder / block.file).write_text(block.text, "utf-8")

    def _install(self, text: str) -> None:
        info = self.site / "treadle_acme-0.1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: treadle-acme\nVersion: 0.1.0\nRequires-Dist: treadle>=0.1,<1\n"
        )
        groups = tomllib.loads(text)["project"]["entry-points"].items()
        with (info / "entry_points.txt").open("a", encoding="utf-8") as file:
            file.writelines(
                f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in names.items()) for group, names in groups
            )

    def run(self, command: str, code: int) -> str:
        """Run a command as in a shell; what it printed."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=os.environ | {"PATH": path, "PYTHONPATH": str(self.site), "NO_COLOR": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty one."""
    (tmp_path / "project").mkdir()
    (tmp_path / "site").mkdir()
    return Project(tmp_path / "project", tmp_path / "site")


def commands(text: str) -> Iterator[tuple[str, int]]:
    """Each command of a block with the exit code that it should have: ``# fails`` behind it says 1, ``# refused`` 2."""
    for line in text.splitlines():
        command, _, ending = line.partition("  # ")
        yield command, CODES[ending]


def follow(project: Project, page: str) -> int:
    """Do what a page says, block by block; how many outputs were compared."""
    printed, compared = "", 0
    shown = blocks(page)
    for block in shown:
        if block.file:
            project.lay(block)
    for block in shown:
        if block.language == "sh":
            printed = "".join(project.run(command, code) for command, code in commands(block.text))
        elif block.language == "text" and not block.file and not block.text.startswith("pip install "):
            missing = [line for line in block.text.splitlines() if line.strip() not in printed]
            assert not missing, f"{page}: {missing} are not in\n{printed}"
            compared += 1
    return compared


@pytest.mark.parametrize("page", [page for page in PAGES if page != "publish-a-plugin"])
def test_a_page_for_authors_does_what_it_says(project: Project, page: str) -> None:
    """Its code is installed from its own entry points, its commands end as it says, and print what it shows."""
    assert follow(project, page) >= 1


def test_the_page_on_publishing_does_what_it_says(project: Project) -> None:
    """The contract is recorded with the one version of its example, and checked with the other."""
    first, second = [block for block in blocks("publish-a-plugin") if block.language == "python"]
    (project.folder / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    (project.folder / "executors").mkdir()
    printed, compared = "", 0
    for block in blocks("publish-a-plugin"):
        if block.language == "sh":
            code = second.text if "# fails" in block.text else first.text
            (project.folder / "executors" / "words.py").write_text(code, "utf-8")
            printed = "".join(project.run(command, code) for command, code in commands(block.text))
        elif block.language == "text":
            assert [line for line in block.text.splitlines() if line.strip() not in printed] == []
            compared += 1

    assert compared == 3


def test_every_page_for_authors_is_followed() -> None:
    """A new page about writing something joins the list above."""
    assert {file.stem for file in DOCS.glob("write-a*.md")} <= set(PAGES)
