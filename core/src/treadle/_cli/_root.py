"""The group of all commands: core's by a table, the plugins' by entry point, none imported before it is used."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Sequence
from importlib import metadata
from typing import NamedTuple, NoReturn

import click

from treadle._cli._ending import CANCELLED, leave, open_closed_streams

PLUGIN_GROUP = "treadle.commands"

# Name -> (module below this package, short help), under the heads of the help. The help is repeated here so that
# ``treadle --help`` imports no command; a test compares it with what the command says itself.
GROUPS = {
    "Run": {
        "run": ("_run", "Run a workflow file."),
        "resume": ("_resume", "Go on with a run that was interrupted."),
        "cancel": ("_resume", "Cancel a run, wherever it is driven."),
        "signal": ("_signal", "Send a signal to a run that waits for one, or will."),
        "approve": ("_signal", "Say yes to what a run asks approval for."),
        "reject": ("_signal", "Say no to what a run asks approval for."),
        "worker": ("_worker", "Drive runs that nobody drives."),
        "retry": ("_again", "Let a run that has ended go on: what did not complete runs again."),
        "replay": ("_again", "Do a run again with its recorded outcomes, to look for a fault."),
    },
    "Look back at runs": {
        "runs": ("_runs", "List the runs that are kept."),
        "show": ("_show", "Show a run and its steps."),
        "watch": ("_watch", "Watch a run that another process drives."),
        "logs": ("_logs", "Show what the steps of a run logged and printed."),
        "trace": ("_trace", "Show where the time of a run went: its spans as a tree."),
        "explain": ("_explain", "Say why a run, or one of its steps, went as it did."),
        "diff": ("_diff", "Show what differs between two runs."),
    },
    "Look at a workflow file": {
        "check": ("_inspect", "Say whether a workflow file can run, or all that is wrong with it."),
        "plan": ("_planning", "Show what a run would do: order, executors, timeouts, retries."),
        "graph": ("_inspect", "Draw the workflow: Mermaid, Graphviz or text."),
        "schema": ("_inspect", "Print the JSON Schema of workflow files, or contracts of executors."),
    },
    "Look after the installation": {
        "plugins": ("_plugins", "List, explain and diagnose installed plugins."),
        "store": ("_store", "Look after the store: back it up, clean it, see what it holds."),
        "spans": ("_spans", "Send spans that were not delivered yet, or say which there are."),
        "version": ("_inspect", "Show the versions of treadle, Python and the plugins."),
        "completion": ("_completion", "Print the script that makes a shell complete treadle's commands."),
    },
}
COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}


class PluginCommand(NamedTuple):
    """A command that a plugin adds; known by name, not imported."""

    name: str
    distribution: str
    is_usable: bool  # not blocked


class Root(click.Group):
    """``treadle`` itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Core's commands in the table's order, then the plugins' by name."""
        return [*COMMANDS, *(command.name for command in _added(ctx) if command.is_usable)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. One of a plugin that cannot be loaded answers with one line instead."""
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"treadle._cli.{COMMANDS[cmd_name][0]}")
            command: click.Command = getattr(module, cmd_name)
            return command
        if any(command.name == cmd_name for command in _added(ctx)):
            loader = importlib.import_module("treadle._cli._extensions")
            loaded: click.Command = loader.load(cmd_name)
            return loaded
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, and say what was probably meant."""
        name = args[0]
        known = self.list_commands(ctx)
        if name.startswith("-") or ctx.resilient_parsing or name in {*known, *(command.name for command in _added(ctx))}:
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(name, known, 1)
        if close:
            raise click.UsageError(f"No such command {name!r}. Did you mean {close[0]!r}?", ctx)
        hint = f" To run a workflow file: treadle run {name}" if os.path.isfile(name) else ""
        raise click.UsageError(f"No such command {name!r}.{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing one."""
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), help_text) for name, (_, help_text) in commands.items()])
        added = [(command.name, f"from {command.distribution}") for command in _added(ctx) if command.is_usable]
        if added:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(added)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        """Complete names without importing a command."""
        item = click.shell_completion.CompletionItem
        options = click.Command.shell_complete(self, ctx, incomplete)
        shown = {name: help_text for name, (_, help_text) in COMMANDS.items()}
        shown |= {command.name: f"from {command.distribution}" for command in _added(ctx) if command.is_usable}
        return [*(item(name, help=text) for name, text in shown.items() if name.startswith(incomplete)), *options]

    def invoke(self, ctx: click.Context) -> None:
        """Run the command; what it raises becomes text for people and an exit code."""
        try:
            super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException):
            raise
        except (KeyboardInterrupt, click.Abort):
            click.echo("Cancelled.", err=True)
            ctx.exit(CANCELLED)
        except Exception as error:
            failures = importlib.import_module("treadle._cli._failures")
            ctx.exit(failures.report(error, json_wanted=bool(ctx.meta.get("treadle.json"))))


def _added(ctx: click.Context) -> list[PluginCommand]:
    """The commands of plugins, by name; looked for once per command line.

    Read here rather than by the registry, whose import would take longer than the rest of ``treadle --help``.
    """
    key = "treadle.plugin_commands"
    if key not in ctx.meta:
        claims = {claim for distribution in metadata.distributions() for claim in _claims(distribution)}
        ctx.meta[key] = _merged(sorted(claims)) if claims else []
    added: list[PluginCommand] = ctx.meta[key]
    return added


def _merged(claims: Sequence[tuple[str, str]]) -> list[PluginCommand]:
    """One command per name, with everybody who claims it; using it says which one to choose."""
    is_blocked = importlib.import_module("treadle._cli._blocking").read()
    owners: dict[str, list[str]] = {}
    for name, distribution in claims:
        owners.setdefault(name, []).append(distribution)
    return [PluginCommand(name, " and ".join(who), not all(map(is_blocked, who))) for name, who in owners.items()]


def _claims(distribution: metadata.Distribution) -> list[tuple[str, str]]:
    """Name and distribution of each command that a distribution adds; core's names cannot be taken."""
    try:
        if PLUGIN_GROUP not in (distribution.read_text("entry_points.txt") or ""):
            return []
        entries = distribution.entry_points.select(group=PLUGIN_GROUP)
        return [(entry.name, distribution.name) for entry in entries if entry.name not in COMMANDS]
    except Exception:  # any file of a stranger may be in any state; the doctor says so
        return []


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=False)
@click.version_option(None, "--version", package_name="treadle", prog_name="treadle", message="%(prog)s %(version)s")
def root() -> None:
    """Run workflows of steps, every call checked, retried, traced and recorded.

    Exit codes: 0 completed, 1 failed, 2 wrong usage or a bad file, 3 cancelled, 4 owned by another process,
    75 store unavailable.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process."""
    open_closed_streams()
    try:
        answer = root.main(args, prog_name="treadle", standalone_mode=False)
        code = answer if isinstance(answer, int) else 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("Cancelled.", err=True)
        code = CANCELLED
    leave(code)
