"""The four layers, by their imports: what runs workflows, families, the contract of executors, clients."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "src" / "treadle"
PUBLIC = {"treadle", "treadle.errors", "treadle.hookspecs", "treadle.ports", "treadle.testing"}
RUNS = {"_app", "_session", "_driver", "_conductor", "_scheduler", "_runner"}
"""Layer 4: what runs workflows."""
CONTRACT = {"_executor", "_bind", "_retries", "_contracts"}
"""Layer 2: the contract of executors, checks and retries."""
CLIENTS = {"_clients"}
"""Layer 1: connections to services."""


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def parts(names: set[str]) -> set[str]:
    """Every module of core that files of these parts import, as parts."""
    files = [file for name in names for file in [CORE / f"{name}.py", *(CORE / name).glob("*.py")] if file.exists()]
    assert files
    return {name.split(".")[1] for file in files for name in imported(file) if name.startswith("treadle._")}


def test_a_layer_only_calls_the_ones_below() -> None:
    """Orchestration, then families, then the contract of all executors, then clients; nobody reaches up (S0-11)."""
    families = {name for file in (ROOT / "plugins/treadle-families/src").rglob("*.py") for name in imported(file)}

    assert CONTRACT & parts(RUNS)
    assert CLIENTS & parts(RUNS)
    assert not RUNS & parts(CONTRACT | CLIENTS)
    assert not CONTRACT & parts(CLIENTS)
    assert {name for name in families if name.startswith("treadle") and not name.startswith("treadle_families")} <= PUBLIC
    for file in CORE.rglob("*.py"):
        assert not [name for name in imported(file) if name.startswith("treadle_")], file


@pytest.mark.parametrize("client", ["http", "python"])
def test_a_client_loads_without_any_executor(client: str) -> None:
    """Service clients are units of their own: made, opened and closed, and no executor was bound (S0-12)."""
    program = f"""
        import anyio
        from treadle import Registry
        from treadle import _bind
        from treadle._clients import ClientHosts

        def refuse(*_, **__):
            raise AssertionError("an executor was bound")

        _bind.bind = refuse
        import treadle._plugins._registry
        treadle._plugins._registry.bind = refuse

        async def main():
            registry = Registry.discover()
            async with ClientHosts(registry) as hosts:
                print(type(await hosts.get({client!r})).__name__)

        anyio.run(main)
        """

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)

    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.strip()
