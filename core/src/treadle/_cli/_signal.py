"""``treadle signal``, ``approve``, ``reject``: what people say to a run that waits."""

from __future__ import annotations

import getpass
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import anyio
import click

from treadle._app import asend_signal
from treadle._cli._kept import find_run, kept_runs, moment, read_log
from treadle._cli._loading import json_option
from treadle._cli._open_waits import Open, open_waits
from treadle._cli._output import clean, say, write, write_json
from treadle._cli._recorded_plan import plan_of
from treadle._durations import parse_duration
from treadle._sending import Awaited, awaited, schemas_of
from treadle._waits import parse_moment
from treadle.errors import ConfigError, RunEndedError
from treadle.ports import Entry, RunRow, Signal, Store

# -- commands ----------------------------------------------------------------------------------------------------------


@click.command(short_help="Send a signal to a run that waits for one, or will.")
@click.argument("run")
@click.argument("name")
@click.argument("payload", default="")
@click.option("--at", metavar="MOMENT", help="Deliver it then: 2026-12-01T09:00+01:00.")
@click.option("--after", metavar="DURATION", help="Deliver it so much later: 90s, 5m, 2d.")
@click.option("--id", "signal_id", default="", metavar="TEXT", help="Send once: a second signal of the same id is none.")
@json_option
def signal(run: str, name: str, payload: str, at: str | None, after: str | None, signal_id: str, as_json: bool) -> None:
    """Send the signal NAME to RUN (an id, the beginning of one, or 'last').

    PAYLOAD is JSON, @FILE takes it from a file, - from stdin; without it, it is null. It must fit the schema of the step that
    waits for it. When nobody drives the run, the signal is kept until it is resumed; when the step is not reached yet, until
    it is.
    """
    due = _due(at, after)
    value = _payload(payload)
    with kept_runs() as (store, _):
        row, entries = anyio.run(_look, store, run)
        sent = _send(store, row, name, value, due=due, signal_id=signal_id)
        _tell(row, sent, open_waits(entries), as_json=as_json)


@click.command(short_help="Say yes to what a run asks approval for.")
@click.argument("run")
@click.argument("name", default="")
@click.option("--comment", default="", metavar="TEXT", help="Why, for people.")
@json_option
def approve(run: str, name: str, comment: str, as_json: bool) -> None:
    """Approve what RUN (an id, the beginning of one, or 'last') waits for.

    NAME is the signal; it may be left out when the run waits for one approval.
    """
    _answer(run, name, comment, is_approved=True, as_json=as_json)


@click.command(short_help="Say no to what a run asks approval for.")
@click.argument("run")
@click.argument("name", default="")
@click.option("--comment", default="", metavar="TEXT", help="Why, for people.")
@json_option
def reject(run: str, name: str, comment: str, as_json: bool) -> None:
    """Reject what RUN (an id, the beginning of one, or 'last') waits for.

    NAME is the signal; it may be left out when the run waits for one approval. The step fails, unless it says otherwise.
    """
    _answer(run, name, comment, is_approved=False, as_json=as_json)


def _answer(run: str, name: str, comment: str, *, is_approved: bool, as_json: bool) -> None:
    with kept_runs() as (store, _):
        row, entries = anyio.run(_look, store, run)
        waits = open_waits(entries)
        plan = plan_of(entries)
        chosen = name or _only_approval(row, waits, awaited(plan))
        sent = _send(store, row, chosen, _says(comment, schemas_of(plan, chosen), is_approved=is_approved))
        _tell(row, sent, waits, as_json=as_json)


def _only_approval(row: RunRow, waits: Sequence[Open], declared: Sequence[Awaited]) -> str:
    """The approval that is meant when none is named: the one that is waited for, else the only one there is.

    Raises:
        ConfigError: There is none, or there are several.
    """
    now = list(dict.fromkeys(wait.signal for wait in waits if wait.is_approval))
    some = now or list(dict.fromkeys(one.signal for one in declared if one.is_approval))
    if len(some) == 1 and "{{" not in some[0]:
        return some[0]
    verb = "waits for several approvals" if now else "asks for several approvals" if some else "asks for no approval"
    raise ConfigError(
        f"Run {row.run_id} {verb}.", f"Name one: {', '.join(some)}." if some else "Look: treadle show " + row.run_id
    )


def _says(comment: str, schemas: Iterable[Mapping[str, object] | bool], *, is_approved: bool) -> dict[str, object]:
    """The answer as a payload; what a schema of the workflow's own does not know is left out."""
    says: dict[str, object] = {"approved": is_approved, "comment": comment, "by": _user()}
    for schema in schemas:
        known = schema.get("properties") if isinstance(schema, Mapping) else None
        if isinstance(known, Mapping) and isinstance(schema, Mapping) and schema.get("additionalProperties") is False:
            return {key: value for key, value in says.items() if key in known or (key == "comment" and comment)}
    return says


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without a name for this number
        return ""


# -- parts -------------------------------------------------------------------------------------------------------------


async def _look(store: Store, run: str) -> tuple[RunRow, list[Entry]]:
    row = await find_run(store, run)
    if row.ended_at is not None:
        raise RunEndedError(row.run_id, row.status.value)
    return row, await read_log(store, row.run_id)


def _send(store: Store, row: RunRow, name: str, value: object, *, due: float | None = None, signal_id: str = "") -> Signal:
    return anyio.run(partial(asend_signal, row.run_id, name, value, due=due, signal_id=signal_id, store=store))


def _tell(row: RunRow, sent: Signal, waits: Sequence[Open], *, as_json: bool) -> None:
    steps = [wait.path for wait in waits if wait.signal == sent.name]
    if as_json:
        write_json(
            {
                "run_id": row.run_id,
                "signal": sent.name,
                "signal_id": sent.signal_id,
                "payload": sent.payload,
                "due": sent.due,
                "owner": row.owner,
                "steps": steps,
            }
        )
        return
    when = "" if sent.due is None else f", to be delivered at {moment(sent.due)}"
    waiting = f"step {steps[0]} waits for it" if steps else "no step waits for it yet, so it is kept"
    write(clean(f"Sent {sent.name} to run {row.run_id}{when}: {waiting}."))
    if not row.owner:
        say(f"Nobody drives the run; it goes on with: treadle resume {row.run_id}")


def _due(at: str | None, after: str | None) -> float | None:
    if at and after:
        raise click.UsageError("--at and --after cannot both be given.")
    try:
        if at:
            return parse_moment(at)
        return time.time() + parse_duration(after) if after else None
    except ValueError as error:
        raise click.UsageError(f"{'--at' if at else '--after'}: {error}") from error


def _payload(text: str) -> object:
    if not text:
        return None
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text("utf-8")
        return json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"PAYLOAD: {text[1:]} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise click.UsageError(f"PAYLOAD: {shown!r} is no JSON ({error}). A text is written '\"{shown[:20]}\"'.") from error
