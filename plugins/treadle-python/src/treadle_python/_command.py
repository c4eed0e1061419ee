"""``treadle tools``: what is in the folder, and whether one of it works."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path

import attrs
import click
from treadle import Registry, Workflow, run

from treadle_python._tools import PREFIX, ToolFolder

FAILED, UNUSABLE = 1, 2


@click.group(short_help="List and test the tools of a folder.")
def tools() -> None:
    """List and test tools: files of a folder whose functions are executors."""


@tools.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def list_(as_json: bool) -> None:
    """List the tools of the configured folder with the first line of their docstrings; imports none of them."""
    folder = ToolFolder(Registry.discover().config)
    found = {name: _summary(folder.file(name)) for name in folder.names()}
    if as_json:
        rows = [{"name": name, "summary": summary} for name, summary in found.items()]
        click.echo(json.dumps({"folder": str(folder.folder), "tools": rows}, ensure_ascii=False))
        return
    if not found:
        click.echo(f"No tool in {folder.folder}. Each NAME.py with a function NAME or run is one.", err=True)
    width = max(map(len, found), default=0)
    for name, summary in found.items():
        click.echo(f"{name:<{width}}  {summary}".rstrip())


def _summary(file: Path) -> str:
    """What the docstring of a tool begins with, read without running anything."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        return f"cannot be read: {error.args[0]}{line}"
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    node = functions.get(file.stem) or functions.get("run")
    return ((ast.get_docstring(node) or "") if node else "").partition("\n")[0]


@tools.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-i", "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input; JSON, or else text. Implies --run."
)
@click.option("--run", "is_run", is_flag=True, help="Also run it once, in a process of its own.")
@click.option("--timeout", default="300s", show_default=True, help="Deadline of that run.")
@click.pass_context
def test(ctx: click.Context, file: Path, inputs: tuple[str, ...], is_run: bool, timeout: str) -> None:
    """Load FILE as a tool, say what it takes and gives, and run it when asked to.

    Exit code 0 when all went well, 1 when it failed, 2 when it cannot be used.
    """
    registry = _registry_of(file.resolve().parent)
    name = PREFIX + file.stem
    bound = registry.executor(name)
    click.echo(f"{name}: {bound.doc.partition(chr(10))[0] or 'no docstring'}")
    for label, schema in (("takes", bound.input_schema()), ("gives", bound.output_schema())):
        click.echo(f"{label} {json.dumps(schema, ensure_ascii=False)}")
    if not is_run and not inputs:
        return
    workflow = Workflow("tools test")
    isolation = "inline" if bound.isolation_problem()[0] else "process"
    workflow.step(file.stem, name, with_=_parsed(inputs), timeout=timeout, isolation=isolation, retry={"max_attempts": 1})
    step = run(workflow, registry=registry).steps[file.stem]
    if step.error is not None:
        click.echo(f"{step.error.type}: {step.error.message}", err=True)
        if step.error.items_processed is not None:
            click.echo(f"partial results: {step.error.items_processed} items", err=True)
        ctx.exit(FAILED)
    click.echo(json.dumps(step.output, ensure_ascii=False, indent=2))


def _registry_of(folder: Path) -> Registry:
    """What is installed, with a folder of tools of its own."""
    config = Registry.discover().config
    return Registry.discover(attrs.evolve(config, tools={**config.tools, "folder": str(folder)}))


def _parsed(inputs: tuple[str, ...]) -> Mapping[str, object]:
    values: dict[str, object] = {}
    for given in inputs:
        name, equals, text = given.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{given!r} is no input. Write -i NAME=VALUE.")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values
