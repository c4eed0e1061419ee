"""Environments that hold nothing but what a test installs into them, from built wheels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that the tests share


class Environment:
    """A virtual environment with commands of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        uv("venv", "--quiet", "--python", sys.executable, folder, cwd=folder.parent)

    def install(self, *wanted: str | Path, cwd: Path | None = None) -> None:
        """Install wheels, requirements or options of ``uv pip install``."""
        uv("pip", "install", "--quiet", "--python", self.folder, *wanted, cwd=cwd or self.folder.parent)

    def shell(self, command: str, *, cwd: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell command as somebody who has activated it."""
        dropped = ("VIRTUAL_ENV", "PYTEST_", "TREADLE_", "COVERAGE_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=cwd,
            env=kept | {"PATH": path, "COLUMNS": "120", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def uv(*arguments: str | Path, cwd: Path) -> None:
    """Run uv, the one beside this interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    command = [Path(sys.executable).with_name("uv"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def build_wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Builds a project's wheel as a third party would get it, and answers its file."""
    wheels = tmp_path_factory.mktemp("wheels")

    def build(project: Path) -> Path:
        before = set(wheels.glob("*.whl"))
        uv("build", "--quiet", "--wheel", "--no-sources", "--out-dir", wheels, project, cwd=wheels)
        (built,) = set(wheels.glob("*.whl")) - before
        return built

    return build


@pytest.fixture(scope="session")
def core_wheel(build_wheel: Callable[[Path], Path]) -> Path:
    """The wheel of core."""
    return build_wheel(ROOT / "core")


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Environment]:
    """Makes an empty environment."""
    return lambda: Environment(tmp_path_factory.mktemp("environment") / "venv")
