"""Commands that plugins add."""

from __future__ import annotations

import click

from treadle._cli._loading import discover
from treadle.errors import PluginBrokenError


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
