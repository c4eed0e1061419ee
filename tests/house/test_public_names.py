"""The public names: what they are, that each is documented, and what importing them costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC = ["treadle", "treadle.errors", "treadle.hookspecs", "treadle.ports", "treadle.testing"]
LAZY = ["click", "jinja2", "rich", "yaml", "opentelemetry.sdk"]


@pytest.mark.parametrize("module", PUBLIC)
def test_names_are_those_of_the_reference(module: str) -> None:
    """A public name comes or goes only together with its line in docs/reference/api.md."""
    names = importlib.import_module(module).__all__
    page = (ROOT / "docs" / "reference" / "api.md").read_text("utf-8")
    section = page.partition(f"\n## {module}\n")[2].partition("\n## ")[0]
    documented = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]

    assert len(names) == len(set(names))
    assert sorted(names) == sorted(documented)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_documented(module: str) -> None:
    """Every class and function has a docstring of its own, not one that it inherits."""
    loaded = importlib.import_module(module)
    values = {name: getattr(loaded, name) for name in loaded.__all__}
    bare = [
        name
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and not vars(value).get("__doc__", value.__doc__)
    ]

    assert loaded.__doc__
    assert not bare


@pytest.mark.parametrize("module", PUBLIC)
def test_public_modules_hide_everything_else(module: str) -> None:
    """A public module is a list of names, so that nobody comes to depend on what happened to be imported there."""
    loaded = importlib.import_module(module)

    assert all(hasattr(loaded, name) for name in loaded.__all__)
    assert not [name for name in loaded.__all__ if name.startswith("_") and name != "__version__"]


def test_the_face_tells_type_checkers_what_it_imports_late() -> None:
    """What ``treadle`` gives on first use is what editors and type checkers see, name by name."""
    tree = ast.parse((ROOT / "core" / "src" / "treadle" / "__init__.py").read_text("utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    spelled = {alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    face = importlib.import_module("treadle")

    assert set(spelled) | {"__version__"} == set(face.__all__)
    assert all(getattr(face, name) is getattr(importlib.import_module(home), name) for name, home in spelled.items())


def test_every_other_module_is_private() -> None:
    """What is not public begins with an underscore."""
    files = (ROOT / "core" / "src" / "treadle").iterdir()
    names = {file.stem for file in files if file.suffix == ".py" or (file / "__init__.py").exists()}
    public = {name.partition(".")[2] or "__init__" for name in PUBLIC}

    assert {name for name in names if not name.startswith("_")} | {"__init__"} == public


def test_importing_treadle_imports_nothing_heavy() -> None:
    """Parsers, terminal libraries and the tracing SDK are imported only when used."""
    code = f"import sys, treadle; print(*[name for name in {LAZY!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert shown.stdout.split() == []


def test_importing_treadle_imports_no_plugin() -> None:
    """Plugins are imported when a plan uses them, not because they are installed."""
    code = "import sys, treadle; print(*[name for name in sys.modules if name.startswith('treadle_')])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert shown.stdout.split() == []
