"""The ``treadle plugins`` commands. Listing imports no plugin, so it works when every one of them is broken."""

from __future__ import annotations

import difflib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping

import attrs
import click

from treadle._bind import BoundExecutor
from treadle._cli._contract import test
from treadle._cli._failures import FAILED
from treadle._cli._loading import discover, json_option
from treadle._cli._new import new
from treadle._cli._output import clean, paint, say, table, write, write_json
from treadle._doctor import coverage, coverage_line, diagnose, doctor_lines, is_healthy
from treadle._plugins import GROUPS, PluginEntry, Registry

EXECUTORS = "treadle.executors"
_SHORT_GROUPS = tuple(group.removeprefix("treadle.") for group in GROUPS)

group_option = click.option("--group", type=click.Choice(_SHORT_GROUPS), help="Only this kind.")


@click.group(short_help="List, explain and diagnose installed plugins.")
def plugins() -> None:
    """List, explain, diagnose and test what installed plugins provide."""


plugins.add_command(test)
plugins.add_command(new)


@plugins.command("list")
@group_option
@json_option
def list_(group: str | None, as_json: bool) -> None:
    """List every name that a plugin provides; imports no plugin."""
    _, registry = discover()
    entries = registry.entries(f"treadle.{group}" if group else None)
    if as_json:
        unreadable = [{"distribution": fault.distribution, "why": fault.why} for fault in registry.faults]
        write_json({"plugins": [attrs.asdict(entry) for entry in entries], "faults": unreadable})
        return
    rows = [[_kind(entry), entry.name, entry.distribution, entry.version or "-", entry.status] for entry in entries]
    if rows:
        write(table(["kind", "name", "from", "version", "status"], rows))
    else:
        say("No plugin is installed. The usual ones: pip install 'treadle[standard]'")
    for fault in registry.faults:
        say(f"{fault.distribution}: {fault.why}")


def _kind(entry: PluginEntry) -> str:
    return entry.group.removeprefix("treadle.").removesuffix("s").replace("policie", "policy").replace("familie", "family")


@plugins.command()
@click.argument("name")
@group_option
@json_option
def info(name: str, group: str | None, as_json: bool) -> None:
    """Explain NAME: what it does, what it takes, what it gives. Imports only the plugin that provides it."""
    _, registry = discover()
    described = [_describe(registry, one, name) for one in _groups_of(registry, name, f"treadle.{group}" if group else None)]
    if as_json:
        write_json({"name": name, "provides": described})
        return
    write("\n\n".join("\n".join(_lines(one)) for one in described))


def _groups_of(registry: Registry, name: str, wanted: str | None) -> list[str]:
    """The groups in which a name is claimed. A name that nobody claims may still come from a source (``tool.*``)."""
    entries = registry.entries(wanted)
    groups = list(dict.fromkeys(entry.group for entry in entries if entry.name == name))
    if groups:
        return groups
    prefixes = [entry.name.removesuffix("*") for entry in entries if entry.group == EXECUTORS and entry.name.endswith(".*")]
    if any(name.startswith(prefix) for prefix in prefixes):
        return [EXECUTORS]
    close = difflib.get_close_matches(name, [entry.name for entry in entries], 1)
    hint = f"Did you mean {close[0]!r}?" if close else "'treadle plugins list' shows what is installed."
    raise click.UsageError(f"No plugin provides {name!r}. {hint}")


def _describe(registry: Registry, group: str, name: str) -> dict[str, object]:
    claim = registry.claim(group, name)
    head = {"group": group, "distribution": "", "version": "", "value": ""}
    if claim is not None:
        head |= {"distribution": claim.distribution, "version": claim.version, "value": claim.value}
    if group == EXECUTORS and not name.endswith(".*"):
        bound = registry.executor(name)
        return {**head, "distribution": bound.distribution, "version": bound.version, **_executor(bound)}
    if claim is None:  # _groups_of has seen an entry of this name
        raise click.UsageError(f"No plugin provides {name!r}.")
    if group == EXECUTORS:
        return {**head, "doc": "", "names": sorted(str(one) for one in registry.source(claim).names())}
    loaded = registry.load(claim)
    return {**head, "doc": inspect.getdoc(loaded) or "", "settings": _settings(loaded)}


def _executor(bound: BoundExecutor) -> dict[str, object]:
    return {
        "doc": bound.doc,
        "family": bound.family,
        "contract": list(bound.contract),
        "effects": bound.effects,
        "backends": list(bound.backends),
        "async": bound.is_async,
        "needs": [need.name for need in bound.needs],
        "inputs": bound.input_schema(),
        "output": bound.output_schema(),
    }


def _settings(loaded: object) -> list[dict[str, object]]:
    """What a class can be configured with: the parameters of its constructor."""
    if not isinstance(loaded, type):
        return []
    try:
        parameters = inspect.signature(loaded).parameters.values()
    except (TypeError, ValueError):  # a class whose constructor says nothing of itself
        return []
    return [
        {"name": one.name, "type": _annotation(one), "required": one.default is one.empty}
        for one in parameters
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]


def _annotation(parameter: inspect.Parameter) -> str:
    if parameter.annotation is parameter.empty:
        return "anything"
    said = parameter.annotation
    return said if isinstance(said, str) else inspect.formatannotation(said)


def _lines(described: Mapping[str, object]) -> Iterator[str]:
    kind = str(described["group"]).removeprefix("treadle.")
    yield f"{described['distribution'] or 'local'} {described['version']} ({kind}; {described['value']})".replace("  ", " ")
    if described["doc"]:
        yield f"\n{described['doc']}\n"
    for key in ("family", "contract", "effects", "needs", "names"):
        value = described.get(key)
        if value:
            yield f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
    yield from _schema_lines("input", described.get("inputs"))
    if "output" in described:
        yield f"output: {_type(described['output'])}"
        yield from _schema_lines("output", _resolved(described["output"]))
    settings = described.get("settings")
    for setting in settings if isinstance(settings, list) else []:
        yield f"setting {setting['name']}: {setting['type']}" + (" (required)" if setting["required"] else "")


def _resolved(schema: object) -> object:
    """The definition that a schema consists of a reference to; any other schema itself."""
    if not isinstance(schema, dict) or "$ref" not in schema:
        return schema
    return schema.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2], schema)


def _schema_lines(label: str, schema: object) -> Iterator[str]:
    """The properties of an object's schema, a line each."""
    if not isinstance(schema, dict):
        return
    required = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        more = " (required)" if label == "input" and name in required else ""
        more += f" = {json.dumps(one['default'], ensure_ascii=False)}" if one.get("default") is not None else ""
        yield f"{label} {name}: {_type(one)}{more}"


def _type(schema: object) -> str:
    """A JSON Schema in a few words; --json has all of it."""
    if not isinstance(schema, dict) or not schema:
        return "anything"
    if "enum" in schema or "const" in schema:
        return " or ".join(json.dumps(one) for one in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(sorted((_type(one) for one in schema["anyOf"]), key="null".__eq__))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kinds = schema.get("type", "anything")
    spelled = " or ".join(sorted(kinds, key="null".__eq__)) if isinstance(kinds, list) else str(kinds)
    return f"{spelled} of {_type(schema['items'])}" if schema.get("items") else spelled


@plugins.command()
@click.option("--connect", is_flag=True, help="Also open every configured client and run its check.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, connect: bool, as_json: bool) -> None:
    """Import every plugin, each in a process of its own, and say what is wrong with it.

    Also says how many executors have a family and a contract that their outputs are held to. A plugin gets
    5 seconds. Exit code 1 when one is broken or two claim one name.
    """
    _, registry = discover()
    found = diagnose(registry, connect=connect)
    healthy = is_healthy(found)
    if as_json:
        diagnoses = [attrs.asdict(one) for one in found]
        write_json({"healthy": healthy, "diagnoses": diagnoses, "coverage": attrs.asdict(coverage(found))})
    else:
        for line in doctor_lines(found):
            write(paint(clean(line), _DOCTORED.get(line.partition(":")[0], ""), sys.stdout))
        covered = coverage(found)
        if covered.executors:
            write(clean(coverage_line(covered)))
    ctx.exit(0 if healthy else FAILED)


_DOCTORED = {"broken": "failed", "conflict": "failed", "warning": "warning", "blocked": "skipped", "ok": "ok"}
"""Status of a diagnosis -> the status whose colour its line has."""
