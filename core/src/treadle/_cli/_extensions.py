"""Commands that plugins add."""

from __future__ import annotations

from collections.abc import Collection

import click

from treadle._cli._loading import discover
from treadle.errors import PluginBrokenError, TreadleError


def listed(taken: Collection[str]) -> list[tuple[str, str, bool]]:
    """Name, distribution and whether it can be used, of each command of a plugin; none with a broken configuration.

    Args:
        taken: Names that plugins cannot have.
    """
    try:
        _, registry = discover()
    except TreadleError:  # --help works all the same; any command that needs the configuration says what is wrong with it
        return []
    entries = [entry for entry in registry.entries("treadle.commands") if entry.name not in taken]
    return [(entry.name, entry.distribution, entry.status != "blocked") for entry in entries if entry.status != "overruled"]


def load(name: str) -> click.Command:
    """Import the command that a plugin registered as ``name``.

    Raises:
        PluginError: It is broken, or two distributions claim the name.
    """
    _, registry = discover()
    command = registry.command(name)
    if isinstance(command, click.Command):
        return command
    entry = next(entry for entry in registry.entries("treadle.commands") if entry.name == name)
    raise PluginBrokenError(
        name,
        entry.distribution,
        f"entry point {entry.value} is a {type(command).__name__}, not a click command",
        f"Its author decorates the function with @click.command(). Until then uninstall {entry.distribution}.",
    )
