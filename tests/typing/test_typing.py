"""Types are a promise to users: what is right is accepted, what is wrong is found."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = (ROOT / "tests" / "typing" / "api.py").read_text("utf-8")

MISTAKES = {
    "an executor's result": ('assert_type(await slug("Hello World"), str)', 'assert_type(await slug("Hello World"), int)'),
    "an executor's argument": ('await slug("Hello World")', "await slug(5)"),
    "effects": ('effects="none"', 'effects="nothing"'),
    "an issue": ('Issue("is empty", "$")', 'Issue("is empty", 1)'),
    "a group's cap": ("max_parallel=2", 'max_parallel="two"'),
    "a fallback": ('fallback=[Use("acme.slug", text="b")]', "fallback=[slug]"),
    "a context": ("ctx.attempt == 1", "ctx.atempt == 1"),
}


def mypy(file: Path) -> subprocess.CompletedProcess[str]:
    """Check one file as users do, with the configuration of this project."""
    command = [Path(sys.executable).with_name("mypy"), Path("--config-file"), ROOT / "pyproject.toml", file]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_public_api_passes_strict_checks() -> None:
    """The sample, which uses every kind of public name, has no error under mypy in strict mode (S1-102)."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]

    done = mypy(ROOT / "tests" / "typing" / "api.py")

    assert configuration["mypy"]["strict"] is True
    assert configuration["pyright"]["typeCheckingMode"] == "strict"
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(tmp_path: Path, mistake: str) -> None:
    """The types say enough that a wrong use of the public API does not pass (S1-102)."""
    right, wrong = MISTAKES[mistake]
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE.replace(right, wrong, 1), "utf-8")
    assert right in SAMPLE

    done = mypy(sample)

    assert done.returncode == 1, done.stdout
    assert "Found 1 error" in done.stdout


def test_the_checks_run_over_everything_that_ships() -> None:
    """Core, every plugin and the scripts are among the files that mypy reads; pyright reads the sample (S1-102)."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]

    assert {"core/src", "plugins/*/src", "noxfile.py", ".ci/setup.py"} <= set(configuration["mypy"]["files"])
    assert configuration["pyright"]["include"] == ["tests/typing"]
    assert "nox -s typing" in (ROOT / ".ci" / "run").read_text("utf-8")
