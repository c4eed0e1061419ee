"""Lays the zoo's distributions into a folder, as an installer lays the contents of their wheels."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

ZOO = Path(__file__).parent


def lay_zoo(target: Path) -> list[str]:
    """Lay every distribution of the zoo; answers their names."""
    return [lay(project.parent, target) for project in sorted(ZOO.glob("*/pyproject.toml"))]


def lay(project: Path, target: Path) -> str:
    """Lay one distribution: its modules, its metadata, the list of its files.

    An ``entry_points.txt`` in the project is laid as it is, so that it can be damaged.
    """
    data = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    info = target / f"{data['name'].replace('-', '_')}-{data['version']}.dist-info"
    info.mkdir(parents=True)
    modules = [Path(shutil.copy(module, target)) for module in sorted(project.glob("*.py"))]
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in data["dependencies"])
    head = f"Metadata-Version: 2.3\nName: {data['name']}\nVersion: {data['version']}\n"
    (info / "METADATA").write_text(head + requires)
    kept = project / "entry_points.txt"
    (info / "entry_points.txt").write_text(kept.read_text("utf-8") if kept.exists() else _entry_points(data))
    listed = [*(module.name for module in modules), *(f"{info.name}/{file.name}" for file in info.iterdir())]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*listed, f"{info.name}/RECORD"]))
    return str(data["name"])


def _entry_points(project: dict[str, dict[str, dict[str, str]]]) -> str:
    groups = project.get("entry-points", {}).items()
    return "\n".join(
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in names.items())]) for group, names in groups
    )
