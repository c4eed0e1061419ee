"""Makes ``docs/reference/cli.md`` from what the commands say of themselves."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import click
from treadle._cli import root

HEAD = """\
# The treadle command

Results go to stdout, everything else to stderr. With `--json` exactly one JSON object is on stdout, whatever executors print; its
form is in [json/](json/). When a command cannot give its result, that object is an [error](json/error.schema.json) instead.

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

SCHEMAS = {"run": "run", "check": "check", "plan": "plan", "version": "version"} | {
    f"plugins {name}": f"plugins-{name}" for name in ("list", "info", "doctor")
}


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_sections(root, "treadle"))


def _sections(group: click.Group, words: str) -> Iterator[str]:
    context = click.Context(group, info_name=words)
    for name in group.commands or group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and command.callback is not None and command.callback.__module__.startswith("treadle."):
            yield _section(command, f"{words} {name}")
            if isinstance(command, click.Group):
                yield from _sections(command, f"{words} {name}")


def _section(command: click.Command, words: str) -> str:
    context = click.Context(command, info_name=words, max_content_width=100, terminal_width=100)
    schema = SCHEMAS.get(words.removeprefix("treadle "))
    json = f"\n`--json`: [{schema}.schema.json](json/{schema}.schema.json)\n" if schema else ""
    help_text = textwrap.dedent(command.get_help(context))
    return f"\n## {words}\n\n```text\n{help_text}\n```\n{json}"
