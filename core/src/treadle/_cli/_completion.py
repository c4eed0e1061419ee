"""The command that prints a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from treadle._cli._output import write

_WHERE = {"bash": "~/.bashrc", "zsh": "~/.zshrc", "fish": "~/.config/fish/completions/treadle.fish"}


@click.command(short_help="Print the script that makes a shell complete treadle's commands.")
@click.argument("shell", type=click.Choice(list(_WHERE)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    For bash: `treadle completion bash >> ~/.bashrc`.
    """
    kind = get_completion_class(shell)
    if kind is None:  # click has checked the name; a click without this shell is older than the declared minimum
        raise click.UsageError(f"click does not know the shell {shell}")
    write(kind(ctx.find_root().command, {}, "treadle", "_TREADLE_COMPLETE").source())
