"""Contracts of executors, recorded in a file and held against what is installed: for ``treadle schema``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from treadle._bind import BoundExecutor
from treadle._cli._loading import discover
from treadle._cli._output import clean, count, mark, paint, say, write
from treadle._compatibility import Difference, differences
from treadle._models import Json
from treadle._plugins import Registry
from treadle.errors import ExecutorNotFoundError, TreadleError

Contract = Mapping[str, Json]


def contracts_text(names: Sequence[str]) -> str:
    """The contracts of executors as they are installed, in the form of the file that records them."""
    _, registry = discover()
    return json.dumps({"contracts": {name: _contract(registry.executor(name)) for name in names}}, indent=2, ensure_ascii=False)


def record(file: Path, names: Sequence[str]) -> None:
    """Write contracts into a file: of ``names`` beside those that it holds, or of all that it holds again."""
    held = list(_read(file)) if file.exists() else []
    if not names and not held:
        raise click.UsageError("--write needs --executor NAME, or a file that holds contracts already.")
    wanted = list(dict.fromkeys((*held, *names)))
    text = contracts_text(wanted)
    file.write_text(text + "\n", "utf-8")
    say(f"Wrote {count(len(wanted), 'contract')} to {file}")


def check(file: Path) -> bool:
    """Say how the installed executors differ from a file's contracts; answers whether they keep all of them."""
    _, registry = discover()
    recorded = _read(file)
    kept = 0
    for name, contract in recorded.items():
        found, version = _compared(registry, name, contract, file)
        for difference in found:
            write(clean(f"{name}: {difference}"))
        if found:
            since = f"recorded with {contract.get('version') or 'an unknown version'}, installed is {version or 'none'}"
            say(clean(f"{name} does not keep its contract ({since}): {count(len(found), 'difference')}"))
        kept += not found
    if kept < len(recorded):
        say(
            "Workflows that rely on it would break. Take it back; or release it as a new major version and record that: "
            f"treadle schema --write {file}"
        )
        return False
    write(f"{paint(mark('ok', sys.stdout) + ' ok', 'ok', sys.stdout)}: {count(kept, 'contract')} of {file} kept")
    return True


def _contract(bound: BoundExecutor) -> dict[str, Json]:
    return {
        "distribution": bound.distribution,
        "version": bound.version,
        "effects": bound.effects,
        "backends": list(bound.backends),
        "inputs": bound.input_schema(),
        "output": bound.output_schema(),
    }


def _compared(registry: Registry, name: str, contract: Contract, file: Path) -> tuple[list[Difference], str]:
    """What an executor does not keep of its contract, and its version."""
    try:
        bound = registry.executor(name)
    except ExecutorNotFoundError:
        return [Difference("executor", "no installed plugin provides it any more")], ""
    try:
        return differences(contract, _contract(bound)), bound.version
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"{name}: {error}") from error


def _read(file: Path) -> dict[str, Contract]:
    """The contracts of a file, by executor."""
    try:
        data = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"it is not JSON ({error})") from error
    contracts = data.get("contracts") if isinstance(data, dict) else None
    if not isinstance(contracts, dict):
        raise _damaged(file, "it has no object 'contracts'")
    faults = list(_faults(contracts))
    if faults:
        raise _damaged(file, "; ".join(faults))
    return contracts


def _faults(contracts: Mapping[str, object]) -> Iterator[str]:
    for name, contract in contracts.items():
        missing = [key for key in ("inputs", "output") if not isinstance(contract, dict) or key not in contract]
        if missing:
            yield f"{name} has no {' and no '.join(map(repr, missing))}"


def _damaged(file: Path, why: str) -> TreadleError:
    return TreadleError(
        f"{file} does not hold contracts: {why}.", f"Record them again: treadle schema --executor NAME --write {file}"
    )
