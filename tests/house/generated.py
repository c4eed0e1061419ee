"""Pages that are made from the code: ``--check`` compares them, ``--write`` writes them."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_page
import executors_page

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
        documented = inspect.isclass(value) or inspect.isroutine(value)
        yield f"| `{name}` | {_first_line(value) if documented else f'a constant: `{value!r}`'} |"
    yield ""


def _first_line(value: object) -> str:
    return (inspect.getdoc(value) or "").partition("\n")[0].replace("|", "\\|")


def schema() -> str:
    """The JSON Schema of the workflow file."""
    command = [str(Path(sys.executable).with_name("treadle")), "schema"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.dumps(json.loads(printed), indent=2, ensure_ascii=False) + "\n"


PAGES: dict[Path, Callable[[], str]] = {
    REFERENCE / "api.md": api,
    REFERENCE / "cli.md": cli_page.page,
    REFERENCE / "executors.md": executors_page.page,
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
