"""``treadle plugins test``: the kit for executors, over what is installed."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence

import attrs
import click

from treadle._cli._failures import FAILED
from treadle._cli._loading import discover, json_option
from treadle._cli._output import clean, paint, table, write, write_json
from treadle._plugins import Registry

_EXECUTORS = "treadle.executors"
_LEVELS = ("declared", "tested", "live")
_SHOWN = {"ok": "ok", "failed": "failed", "untested": "-"}


@click.command("test", short_help="Hold executors against the rules of the kit.")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="Every executor that is installed.")
@click.option("--connect", is_flag=True, help="Also open the clients that they need, as configured.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds for each."
)
@json_option
@click.pass_context
def test(ctx: click.Context, name: str | None, everything: bool, connect: bool, timeout_s: float, as_json: bool) -> None:
    """Hold the executor NAME, or every one that is installed, against the rules of the kit.

    "declared" says that the rules hold which need no run, "tested" those that run its examples with fakes of its clients,
    "live" (with --connect) that its real clients can be connected. Each has a process of its own. Exit code 1 when a rule
    fails.
    """
    # Imported here: the kit brings the whole engine, and no other command of this group needs it.
    from treadle.testing._certificate import certify, names_of

    if (name is None) != everything:
        raise click.UsageError("Give the NAME of an executor, or --all.")
    _, registry = discover()
    names = names_of(registry) if name is None else [_known(registry, name)]
    data = [attrs.asdict(one) | {"passed": one.passed} for one in certify(names, connect=connect, timeout_s=timeout_s)]
    passed = all(one["passed"] for one in data)
    if as_json:
        write_json({"passed": passed, "executors": data})
    else:
        _show(data)
    ctx.exit(0 if passed else FAILED)


def _known(registry: Registry, name: str) -> str:
    """The name, when an executor or a source of some has it."""
    known = registry.names(_EXECUTORS)
    if name in known or any(each.endswith(".*") and name.startswith(each[:-1]) for each in known):
        return name
    close = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {close[0]!r}?" if close else "'treadle plugins list --group executors' shows what is installed."
    raise click.UsageError(f"No plugin provides the executor {name!r}. {hint}")


def _show(data: Sequence[Mapping[str, object]]) -> None:
    rows = [
        [str(one["name"]), str(one["distribution"] or "-"), *(_SHOWN[str(one[level])] for level in _LEVELS)] for one in data
    ]
    write(table(["name", "from", *_LEVELS], rows) if rows else "No executor is installed.")
    for one in data:
        for line, status in _lines(one):
            write(paint(clean(line), status, sys.stdout))
    failed = sum(not one["passed"] for one in data)
    write(f"\n{len(data)} tested: {f'{failed} failed' if failed else 'none failed'}")


def _lines(one: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What was found out about an executor, for people, with the status whose colour it has."""
    findings = one["findings"]
    remedies: dict[str, None] = {}
    for finding in findings if isinstance(findings, list | tuple) else ():
        where = f" on {finding['backend']}" if finding["backend"] and finding["kind"] != "untested" else ""
        status = {"failure": "failed", "advice": "warning"}.get(finding["kind"], "skipped")
        yield f"{one['name']}: {finding['kind']}: {finding['rule']}{where}: {finding['message']}", status
        if finding["remedy"] and finding["remedy"] not in remedies:
            remedies[finding["remedy"]] = None
            yield f"  {finding['remedy']}", ""
