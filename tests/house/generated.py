"""Pages that are made from the code: ``--check`` compares them, ``--write`` writes them."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import cli_page
import contract_page
import executors_page
import hooks_page
import telemetry_page

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
MODULES = ["treadle", "treadle.errors", "treadle.hookspecs", "treadle.ports", "treadle.testing"]


def api() -> str:
    """Every public name with the first line of its docstring."""
    return "# Public names\n\n" + "\n".join(line for module in MODULES for line in _section(module))


def _section(module: str) -> Iterator[str]:
    loaded = importlib.import_module(module)
    yield f"## {module}\n"
    yield f"{_first_line(loaded)}\n"
    yield "| name | what it is |"
    yield "|---|---|"
    for name in sorted(loaded.__all__):
        value = getattr(loaded, name)
        is_own = (inspect.isclass(value) or inspect.isroutine(value)) and value is not object
        yield f"| `{name}` | {_first_line(value) if is_own else _constant(name, value)} |"
    yield ""


def _constant(name: str, value: object) -> str:
    """What stands below it in the source; else, of what it is one, or what it holds."""
    members = value if isinstance(value, tuple) else get_args(value)
    listed = ", ".join(f"`{getattr(member, '__name__', member)}`" for member in members)
    return _texts_below().get(
        name, f"One of {listed}." if get_args(value) else f"All of {listed}." if listed else "A constant."
    )


@functools.cache
def _texts_below() -> dict[str, str]:
    """The first line of the text below each assignment of core: what Python keeps no docstring of."""
    found = {}
    for file in (ROOT / "core" / "src" / "treadle").rglob("*.py"):
        for node, below in itertools.pairwise(ast.parse(file.read_text("utf-8")).body):
            if isinstance(node, ast.Assign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[ast.unparse(node.targets[0])] = str(below.value.value).partition("\n")[0].replace("|", "\\|")
    return found


def _first_line(value: object) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0].replace("|", "\\|")


def phases() -> str:
    """The schemas of the records of phases."""
    from treadle._phases import phase_schemas

    return json.dumps(phase_schemas(), indent=2, ensure_ascii=False) + "\n"


def schema() -> str:
    """The JSON Schema of the workflow file."""
    command = [str(Path(sys.executable).with_name("treadle")), "schema"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.dumps(json.loads(printed), indent=2, ensure_ascii=False) + "\n"


PAGES: dict[Path, Callable[[], str]] = {
    REFERENCE / "api.md": api,
    REFERENCE / "cli.md": cli_page.page,
    REFERENCE / "executor-contract.md": contract_page.page,
    REFERENCE / "executors.md": executors_page.page,
    REFERENCE / "hooks.md": hooks_page.page,
    REFERENCE / "telemetry.md": telemetry_page.page,
    REFERENCE / "phases.schema.json": phases,
    REFERENCE / "workflow.schema.json": schema,
}


def main(arguments: list[str]) -> int:
    """Write or compare every page; 1 when one differs."""
    stale = []
    for file, make in PAGES.items():
        text = make()
        if "--write" in arguments:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
        elif not file.exists() or file.read_text("utf-8") != text:
            stale.append(file.relative_to(ROOT))
    for name in stale:
        print(f"{name} is not what the code says now. Run: nox -s docs -- --write", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
