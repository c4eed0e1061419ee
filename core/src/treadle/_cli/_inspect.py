"""Commands that look at a workflow file or at treadle itself and start nothing."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path

import attrs
import click

from treadle._cli import _schema_check
from treadle._cli._dot import dot
from treadle._cli._drawing import draw
from treadle._cli._failures import FAILED, USAGE
from treadle._cli._lanes import lanes
from treadle._cli._loading import FILE, discover, json_option
from treadle._cli._mermaid import mermaid
from treadle._cli._output import count, encodes, mark, paint, say, write, write_json
from treadle._cli._reading import planned
from treadle._loader import load_workflow
from treadle._plan import Plan, compile_plan
from treadle._schema import workflow_schema
from treadle.errors import Fault, TreadleError, WorkflowInvalidError


@click.command(short_help="Say whether a workflow file can run, or all that is wrong with it.")
@click.argument("file", type=FILE)
@json_option
@click.pass_context
def check(ctx: click.Context, file: str, as_json: bool) -> None:
    """Load and plan FILE without starting anything.

    Every fault is listed with its place. Exit code 0 when the file can run, 2 when it cannot.
    """
    try:
        _, plan = planned(file)
    except WorkflowInvalidError as error:
        if not as_json:
            raise
        write_json(_verdict(file, error.name, 0, error.faults, ()))
        ctx.exit(USAGE)
    if as_json:
        write_json(_verdict(file, plan.workflow.name, len(plan.steps), (), plan.warnings))
        return
    warn(plan)
    sizes = [count(len(plan.steps), "step"), count(len(plan.executors), "executor"), count(len(plan.levels), "level")]
    ok = paint(f"{mark('ok', sys.stdout)} ok", "ok", sys.stdout)
    write(f"{ok}: {plan.workflow.name or file} ({', '.join(sizes)})")


def _verdict(file: str, name: str, steps: int, faults: tuple[Fault, ...], warnings: tuple[Fault, ...]) -> dict[str, object]:
    told = {"ok": not faults, "file": file, "workflow": name, "steps": steps}
    listed = {"faults": faults, "warnings": warnings}
    return {**told, **{kind: [attrs.asdict(fault) for fault in some] for kind, some in listed.items()}}


def warn(plan: Plan) -> None:
    for warning in plan.warnings:
        say(f"warning: {warning}")


@click.command(short_help="Draw the workflow: Mermaid, Graphviz or text.")
@click.argument("file", type=FILE)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["mermaid", "dot", "terminal"]),
    default="mermaid",
    show_default=True,
    help="Mermaid text, the language of Graphviz, or a picture of text.",
)
@click.option("--fold", is_flag=True, help="Draw a subflow as one step.")
def graph(file: str, format_: str, fold: bool) -> None:
    """Print the steps of FILE and what they wait for as a diagram.

    The executors need not be installed. GitHub, GitLab and most editors draw Mermaid text in Markdown; `dot -Tsvg` draws the
    language of Graphviz.
    """
    workflow = load_workflow(file)
    _, registry = discover()
    picture = draw(compile_plan(workflow, registry.workflow_folder), fold=fold)
    if format_ == "terminal":
        write(lanes(picture, plain=not encodes(sys.stdout, "●◉◆◷▣│├╰─┼┴")))
    else:
        write(dot(picture) if format_ == "dot" else mermaid(picture))


@click.command(short_help="Print the JSON Schema of workflow files, or contracts of executors.")
@click.option("--out", type=click.Path(dir_okay=False, writable=True), help="Write it to this file instead of stdout.")
@click.option("--executor", "executors", multiple=True, metavar="NAME", help="Print the contract of this executor instead.")
@click.option(
    "--write", "record", type=click.Path(dir_okay=False), help="Record contracts in this file: of --executor, or all it holds."
)
@click.option("--check", "recorded", type=FILE, help="Fail when an installed executor breaks its contract in this file.")
@click.pass_context
def schema(ctx: click.Context, out: str | None, executors: tuple[str, ...], record: str | None, recorded: str | None) -> None:
    """Print the JSON Schema (2020-12) of workflow files.

    Editors complete and check workflow files with it: in YAML, `# yaml-language-server: $schema=FILE` as first line.

    With --executor it is the contract of an executor: what it takes, gives and declares. Authors record it with --write
    when they release, and --check in their tests says when inputs narrow or the output widens (exit code 1).
    """
    if (recorded and (executors or record)) or (out and (executors or record or recorded)):
        raise click.UsageError("Use --out alone, --check alone, or --executor with or without --write.")
    if recorded:
        ctx.exit(0 if _schema_check.check(Path(recorded)) else FAILED)
    if record:
        return _schema_check.record(Path(record), executors)
    text = _schema_check.contracts_text(executors) if executors else json.dumps(workflow_schema(), indent=2, ensure_ascii=False)
    if out is None:
        return write(text)
    Path(out).write_text(text + "\n", "utf-8")
    return say(f"Wrote {out}")


@click.command(short_help="Show the versions of treadle, Python and the plugins.")
@json_option
def version(as_json: bool) -> None:
    """Show what is installed; imports no plugin."""
    try:
        plugins = _plugin_versions()
    except TreadleError as error:  # a broken treadle.toml must not hide the versions
        say(f"Error: {error}")
        plugins = {}
    data = {
        "treadle": metadata.version("treadle"),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
    }
    if as_json:
        write_json({**data, "plugins": plugins})
        return
    write(f"treadle {data['treadle']}")
    write(f"{data['implementation']} {data['python']} on {data['platform']}")
    for name, number in plugins.items():
        write(f"{name} {number}")


def _plugin_versions() -> dict[str, str]:
    _, registry = discover()
    return {
        name: number for name, number in sorted((entry.distribution, entry.version) for entry in registry.entries()) if number
    }
