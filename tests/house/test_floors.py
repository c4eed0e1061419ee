"""The floors of core: what stands on what, read from the imports, wherever in a file they are."""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core" / "src" / "treadle"

FLOORS = [
    "_money _span_ids",
    "errors",
    "_models _paths",
    "_codec _faults _loop _spellings _store_records",
    "_columns",
    "ports",
    "hookspecs",
    # each small, pure where it can be
    """_attempt_span _call_context _checkpoint_secrets _clock _collector _compatibility _config _contracts _decisions
    _durations _error_info
    _expressions _graph _hook_calls _json _lean_spans _limits _log_records _log_rows _mailbox _operation_log _origin _owner
    _noted_span _payload_schema _policy_keys _redaction _retries _run_metrics _sdk_spans _secrets _span_projection _step_log
    _surroundings _telemetry _trace_parent _tracing _version _waits _slots
    _budgets _budget_use _ledger _meter _prices""",
    "_bind _clients _doctor _executor _plugins _scopes",
    "_generations _loader _plan _planned _schema _subflows _workflow",
    "_conductor _instances _ready_queue _isolated_child _isolation _keeper _run_settings _scheduler _supervisor",
    "_runner",
    "_driver _explaining _heart _memory _orphans _outbox _recorded _results _run_log _sending _slot_keeper _stores",
    "_session",
    "_app",
    "_worker",
    "_again _phases _pipeline",
    "_parallel",
    "",  # the face: only names, taken from below
    "_cli testing",
]
FLOOR = {f"treadle.{name}".rstrip("."): number for number, names in enumerate(FLOORS, 1) for name in names.split() or [""]}
PUBLIC = {"treadle", "treadle.errors", "treadle.hookspecs", "treadle.ports", "treadle.testing"}
PURE = {
    "treadle._conductor",
    "treadle._decisions",
    "treadle._expressions",
    "treadle._budgets",
    "treadle._budget_use",
    "treadle._generations",
    "treadle._graph",
    "treadle._ready_queue",
    "treadle._slots",
    "treadle._instances",
    "treadle._ledger",
    "treadle._mailbox",
    "treadle._models",
    "treadle._policy_keys",
    "treadle._paths",
    "treadle._scheduler",
    "treadle._waits",
}
IMPURE = {"anyio", "asyncio", "os", "random", "secrets", "socket", "subprocess", "threading", "time", "trio", "uuid"}


def module_name(file: Path) -> str:
    """The dotted name of a file beneath a ``src`` folder."""
    parts = file.relative_to(CORE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, name: str = "") -> Iterator[str]:
    """Every module that a file imports or takes names from, also inside functions, relative names resolved."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text("utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # ``from treadle import _json`` imports that module, ``from treadle import run`` the face.
            inner = {f"{source}.{alias.name}" for alias in node.names}
            yield from inner & modules().keys() or {source}


def sources(file: Path) -> Iterator[str]:
    """The modules that a file imports as a whole or takes names from, absolute imports only."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"), str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of core with its file."""
    return {module_name(file): file for file in sorted(CORE.rglob("*.py"))}


def part(name: str) -> str:
    """The module of the floors that a name belongs to: ``treadle._cli._run`` belongs to ``treadle._cli``."""
    return ".".join(name.split(".")[:2])


def uses() -> dict[str, set[str]]:
    """What each part of core imports of core."""
    known = {part(name) for name in modules()}
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, file in modules().items():
        targets = {part(target) for target in imports(file, name) if target.split(".")[0] == "treadle"}
        graph[part(name)] |= (targets & known) - {part(name)}
    return graph


def test_every_module_has_a_floor_and_every_floor_its_modules() -> None:
    """A new module gets a place in the table, a removed one leaves it."""
    assert {part(name) for name in modules()} == set(FLOOR)


def test_imports_never_go_up_a_floor() -> None:
    """No module imports from a floor above its own, not even inside a function (S3-80)."""
    up = [f"{name} -> {target}" for name, targets in uses().items() for target in targets if FLOOR[target] > FLOOR[name]]

    assert not up


def test_imports_make_no_cycle() -> None:
    """Also within a floor, no two modules need each other (S3-80)."""
    graph, done, path = uses(), set[str](), list[str]()

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for target in sorted(graph[name]):
            visit(target)
        done.add(path.pop())

    for name in sorted(graph):
        visit(name)

    assert done == set(graph)


def test_nothing_is_imported_for_types_alone() -> None:
    """An import of ours under TYPE_CHECKING would be an import up in disguise; only the face spells so what it imports late."""
    hidden = [
        f"{name}:{node.lineno}"
        for name, file in modules().items()
        if name != "treadle"
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and "treadle" in ast.unparse(node)
    ]

    assert not hidden


def test_scheduler_and_conductor_are_pure() -> None:
    """The state machine imports nothing that could wait, draw lots, look at a clock or reach outside."""
    impure = [
        f"{name} imports {target}"
        for name, file in modules().items()
        if part(name) in PURE
        for target in imports(file, name)
        if target.split(".")[0] in IMPURE
    ]

    assert set(FLOOR) >= PURE
    assert not impure


def test_core_imports_only_what_its_requirements_name() -> None:
    """What core imports is the standard library, itself, or a distribution that its pyproject names."""
    project = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    names = {_import_name(requirement) for requirement in declared} | {"treadle"} | set(sys.stdlib_module_names)
    strangers = {
        f"{name}: {target}" for name, file in modules().items() for target in sources(file) if target.split(".")[0] not in names
    }

    assert not strangers


def _import_name(requirement: str) -> str:
    """``opentelemetry-api>=1.30`` is imported as ``opentelemetry``."""
    distribution = requirement.partition(">")[0].partition("[")[0].strip()
    return {"opentelemetry-api": "opentelemetry", "pyyaml": "yaml", "tomli-w": "tomli_w"}.get(distribution, distribution)


PLUGIN_FILES = sorted([*ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("contrib/*/src/**/*.py")])


@pytest.mark.parametrize("file", PLUGIN_FILES, ids=[str(file.relative_to(ROOT)) for file in PLUGIN_FILES])
def test_plugins_import_public_modules_only(file: Path) -> None:
    """A plugin of ours lives by the rules of everybody's."""
    foreign = [target for target in sources(file) if target.split(".")[0] == "treadle" and target not in PUBLIC]
    private = [target for target in imports(file) if target.startswith("treadle.") and target not in PUBLIC]

    assert not foreign
    assert not private


def test_parts_are_separate_modules() -> None:
    """Families and executors, running and tracing are modules of their own, none of which imports another's insides (S0-53)."""
    graph = uses()

    assert {"treadle._executor", "treadle._driver", "treadle._tracing"} <= set(graph)
    assert "treadle._driver" not in graph["treadle._executor"] | graph["treadle._tracing"]
    assert "treadle._executor" not in graph["treadle._tracing"]
