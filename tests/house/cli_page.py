"""Makes ``docs/reference/cli.md`` from what the commands say of themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click
from treadle._cli import root
from treadle._cli._root import COMMANDS

HEAD = """\
# The treadle command

Results go to stdout, everything else to stderr. With `--json` exactly one JSON object is on stdout (`logs`: one for each
line), whatever executors print; its form is in [json/](json/). When a command cannot give its result, that object is an
[error](json/error.schema.json) instead.

| exit code | meaning |
|---|---|
| 0 | completed |
| 1 | failed, timed out, or partial failure |
| 2 | wrong usage, or a file or input that is not valid: nothing was started |
| 3 | cancelled, also by a signal |
| 4 | owned by another process |
| 75 | the store is unavailable |

| variable | meaning |
|---|---|
| `NO_COLOR` | no colours; a status is always written as a word too |
| `TREADLE_BACKEND` | the event loop: `asyncio` (default, on uvloop when it is installed) or `trio` |
| `TREADLE_DEBUG` | `1` shows tracebacks |
| `OTEL_TRACES_EXPORTER`, `OTEL_EXPORTER_OTLP_*` | where traces go; needs `treadle-otlp` |
"""

SCHEMAS = (
    {"run": "run", "resume": "run", "runs": "runs", "show": "show", "logs": "logs", "explain": "explain"}
    | {"watch": "run", "replay": "run", "retry": "run", "cancel": "cancel", "trace": "trace", "diff": "diff"}
    | dict.fromkeys(("signal", "approve", "reject"), "signal")
    | {"check": "check", "plan": "plan", "version": "version"}
    | {f"spans {name}": f"spans-{name}" for name in ("export", "status")}
    | {f"plugins {name}": f"plugins-{name}" for name in ("list", "info", "doctor", "test")}
    | {f"store {name}": f"store-{name}" for name in ("stats", "backup", "vacuum", "migrate", "clean")}
)


def page() -> str:
    """The whole page."""
    context = click.Context(root, info_name="treadle", max_content_width=100, terminal_width=100, **root.context_settings)
    return HEAD + "".join(_sections(root, context))


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    # Of the root group only core's own commands: the page says nothing of what is installed beside it.
    for name in COMMANDS if group is root else group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, context, name)
        yield _section(command, inner)
        if isinstance(command, click.Group):
            yield from _sections(command, inner)


def _section(command: click.Command, context: click.Context) -> str:
    words = context.command_path
    schema = SCHEMAS.get(words.removeprefix("treadle "))
    json = f"\n`--json`: [{schema}.schema.json](json/{schema}.schema.json)\n" if schema else ""
    return f"\n## {words}\n\n```text\n{command.get_help(context)}\n```\n{json}"
