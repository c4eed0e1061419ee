"""docs/tutorial/first-plugin.md, done word for word in an environment that has nothing else."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial" / "first-plugin.md").read_text("utf-8")
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()]

Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


class Environment(Protocol):
    """The fixture's: a virtual environment with commands of its own."""

    def install(self, *wanted: str | Path, cwd: Path | None = None) -> None: ...

    def shell(self, command: str, *, cwd: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="module")
def shell(
    tmp_path_factory: pytest.TempPathFactory,
    core_wheel: Path,
    build_wheel: Callable[[Path], Path],
    new_environment: Callable[[], Environment],
) -> Shell:
    """A shell in the author's folder, with treadle and the tutorial's plugin installed from their wheels."""
    folder = tmp_path_factory.mktemp("treadle-acme")
    for name, text in FILES.items():
        (folder / name).write_text(text, "utf-8")
    environment = new_environment()
    environment.install(core_wheel, build_wheel(folder))
    return lambda command: environment.shell(command, cwd=folder)


def test_the_plugin_is_under_ten_lines_and_one_entry_point() -> None:
    """What a first plugin costs its author."""
    code = [line for line in FILES["treadle_acme.py"].splitlines() if line.strip()]

    assert len(code) < 10
    assert FILES["pyproject.toml"].count('[project.entry-points."treadle.executors"]') == 1
    assert FILES["pyproject.toml"].count("treadle_acme:slug") == 1


def test_the_page_tells_these_commands() -> None:
    """The tests below run each of them but the first, whose work the fixture does with built wheels."""
    assert COMMANDS == [
        "pip install .",
        "treadle plugins list",
        "treadle plugins info acme.slug",
        "treadle run post.yaml",
        "treadle check post.yaml",
    ]


def test_the_plugin_is_listed(shell: Shell) -> None:
    """One entry point of an installed wheel adds an executor, under the same interface as everybody's (S3-15)."""
    done = shell("treadle plugins list")

    assert '"treadle.executors"' in FILES["pyproject.toml"]
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "acme.slug" in line]
    assert "treadle-acme" in line
    assert "0.1.0" in line


def test_the_plugin_is_explained(shell: Shell) -> None:
    """``info`` tells what the author wrote: purpose and inputs."""
    done = shell("treadle plugins info acme.slug")

    assert done.returncode == 0, done.stderr
    assert "Turn a title into a URL slug." in done.stdout
    assert "text" in done.stdout
    assert "sep" in done.stdout


def test_the_plugin_runs(shell: Shell) -> None:
    """The output is what the page says; core alone and one plugin are enough to run a workflow (S1-02)."""
    done = shell("treadle run post.yaml")

    assert done.returncode == 0, done.stderr
    assert "`hello-brave-new-world`" in PAGE
    assert "hello-brave-new-world" in done.stdout
    assert "something" in shell("treadle run post.yaml -i title=Something").stdout


def test_a_misspelt_input_is_refused_before_anything_starts(shell: Shell) -> None:
    """As the page promises for ``txt`` instead of ``text``, with what was probably meant."""
    assert shell("treadle check post.yaml").returncode == 0

    done = shell("sed 's/with: {text:/with: {txt:/' post.yaml > misspelt.yaml && treadle check misspelt.yaml")

    assert done.returncode == 2
    assert "misspelt.yaml:" in done.stdout + done.stderr
    assert "did you mean 'text'" in done.stdout + done.stderr
