"""Makes ``docs/reference/executors.md`` from the entry points of the plugins and what their executors say of themselves."""

from __future__ import annotations

import importlib
import inspect
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
from treadle import Registry
from treadle._contracts import described_names, type_text

ROOT = Path(__file__).parents[2]
EXECUTORS, CLIENTS = "treadle.executors", "treadle.clients"
HEAD = """\
# Executors

What a step can use (`uses`), what it is given (`with`) and what it leaves (`steps.NAME.output`), for every plugin of this
repository. `treadle plugins info NAME` says the same of any that is installed. An input without a default has to be given;
`any` is any JSON value. The settings of a client stand in `treadle.toml` under `[clients.NAME]`.
"""
TOOLS = """
### `tool.NAME`

Each file `NAME.py` in the folder that `[tools] folder` names (default `tools`, beside the configuration) is an executor: its
function `NAME`, else `run`. Inputs and output are those of the function's signature; a tool without annotations takes and gives
any JSON. It runs in a worker thread when it is a `def`, on the event loop when it is an `async def`. Files that begin with `_`
are no tools, but a tool may import them: `from ._shared import parse`.
"""

Schema = Mapping[str, object]


def entry_points() -> dict[str, dict[str, dict[str, str]]]:
    """Distribution -> group -> name -> ``module:attribute``, for every plugin that provides executors."""
    projects = [tomllib.loads(file.read_text("utf-8"))["project"] for file in sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    found = {project["name"]: project.get("entry-points", {}) for project in projects}
    return {name: groups for name, groups in found.items() if EXECUTORS in groups}


def page() -> str:
    """The whole page."""
    registry = Registry.discover()
    return HEAD + "".join(line for name, groups in entry_points().items() for line in _plugin(registry, name, groups))


def _plugin(registry: Registry, distribution: str, groups: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    yield f"\n## {distribution}\n"
    for name in groups[EXECUTORS]:
        yield TOOLS if name == "tool.*" else "\n".join(_executor(registry, name)) + "\n"
    for name, value in groups.get(CLIENTS, {}).items():
        yield "\n".join(_client(name, value)) + "\n"


def _executor(registry: Registry, name: str) -> Iterator[str]:
    bound = registry.executor(name)
    yield f"\n### `{name}`\n"
    yield _paragraphs(bound.doc)
    needs = ", ".join(f"`{need.name}`" for need in bound.needs)
    facts = [f"Needs the client {needs}." if needs else "", f"Effects: {bound.effects}." if bound.effects else ""]
    if said := " ".join(fact for fact in facts if fact):
        yield f"\n{said}"
    yield "\n| input | type | default | meaning |\n|---|---|---|---|"
    for each in bound.inputs:
        default = "" if each.required else f"`{json.dumps(each.default)}`"
        yield f"| `{each.name}` | {_type(each.type_)} | {default} | {_cell(each.description)} |"
    yield from _output(bound.output_schema())
    yield from _records(bound.input_schema(), bound.output_schema())


def _output(schema: Schema) -> Iterator[str]:
    fields = _fields(schema)
    if not fields:
        yield "\nOutput: any JSON value."
        return
    yield "\n| output | type | meaning |\n|---|---|---|"
    for name, field in fields.items():
        yield f"| `{name}` | {_schema_type(field)} | {_cell(str(field.get('description', '')))} |"


def _records(inputs: Schema, output: Schema) -> Iterator[str]:
    """The records that inputs and output are made of, a table each; the output itself has had its own."""
    itself = str(output.get("$ref", "")).rpartition("/")[2]
    for schema in (inputs, output):
        definitions = schema.get("$defs", {})
        for name, record in definitions.items() if isinstance(definitions, dict) else ():
            if name == itself:
                continue
            required = record.get("required", []) if schema is inputs else []
            yield f"\n| {name} | type | meaning |\n|---|---|---|"
            for key, field in _fields(record).items():
                has_to_be = "Required. " if key in required else ""
                yield f"| `{key}` | {_schema_type(field)} | {has_to_be}{_cell(str(field.get('description', '')))} |"


def _fields(schema: Schema) -> dict[str, Schema]:
    """Properties of an object schema, also of one that is referred to."""
    definitions = schema.get("$defs", {})
    reference = str(schema.get("$ref", "")).rpartition("/")[2]
    target = definitions.get(reference, schema) if isinstance(definitions, dict) else schema
    properties = target.get("properties", {})
    return dict(properties) if isinstance(properties, dict) else {}


def _client(name: str, value: str) -> Iterator[str]:
    module, _, attribute = value.partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    texts = described_names(inspect.getdoc(kind))
    yield f"\n### client `{name}`\n"
    yield _paragraphs(inspect.getdoc(kind) or "")
    yield "\n| setting | type | default | meaning |\n|---|---|---|---|"
    for field in attrs.fields(attrs.resolve_types(kind)):
        default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type] # a class
        shown = f"`{json.dumps(default)}`" if default is not attrs.NOTHING else ""
        yield f"| `{field.name}` | {_type(field.type)} | {shown} | {_cell(texts.get(field.name, ''))} |"


def _paragraphs(doc: str) -> str:
    """A docstring up to its first section."""
    text = doc
    for section in ("\nArgs:", "\nAttributes:", "\nReturns:", "\nRaises:"):
        text = text.partition(section)[0]
    return text.strip().replace("``", "`")


def _type(type_: object) -> str:
    text = "any" if type_ is object else type_text(type_)
    return f"`{text.removesuffix(' | None').replace('object', 'any')}`".replace("|", "\\|")


def _schema_type(schema: Schema) -> str:
    options = schema.get("anyOf")
    if isinstance(options, list):
        return " or ".join(_schema_type(option) for option in options)
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    items = schema.get("items")
    if isinstance(items, dict) and items:
        return f"array of {_schema_type(items)}"
    return str(schema.get("type", "any"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")
