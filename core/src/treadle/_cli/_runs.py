"""``treadle runs``: the runs that are kept."""

from __future__ import annotations

import re
import time
from datetime import datetime

import anyio
import click

from treadle._cli._kept import kept_runs, moment, run_object, took
from treadle._cli._loading import json_option
from treadle._cli._output import say, table, write, write_json
from treadle._durations import parse_duration
from treadle.ports import RunQuery, RunStatus


@click.command(short_help="List the runs that are kept.")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice([status.value for status in RunStatus]), help="Only these."
)
@click.option("--workflow", default="", metavar="NAME", help="Only of this workflow.")
@click.option("--since", metavar="WHEN", help="Created then or later: 2026-01-31, 2026-01-31T12:00, or an age such as 2h.")
@click.option("--until", metavar="WHEN", help="Created before.")
@click.option("--key", default="", metavar="KEY", help="Started under this key.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="At most so many.")
@click.option("--cursor", default="", metavar="TEXT", help="Go on where the page before ended.")
@json_option
def runs(
    statuses: tuple[str, ...],
    workflow: str,
    since: str | None,
    until: str | None,
    key: str,
    limit: int,
    cursor: str,
    as_json: bool,
) -> None:
    """List runs, the newest first."""
    query = RunQuery(
        statuses=tuple(RunStatus(status) for status in statuses),
        workflow=workflow,
        since=_moment(since, "--since"),
        until=_moment(until, "--until"),
        key=key,
        limit=limit,
        cursor=cursor,
    )
    with kept_runs() as (store, _):
        try:
            page = anyio.run(store.runs, query)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if as_json:
        write_json({"runs": [run_object(row) for row in page.runs], "cursor": page.cursor})
        return
    if not page.runs:
        say("No runs.")
        return
    rows = [
        [row.run_id, row.workflow, row.status.value, moment(row.created_at), took(row), row.owner or "-"] for row in page.runs
    ]
    write(table(["RUN", "WORKFLOW", "STATUS", "CREATED", "TOOK", "OWNER"], rows, keep_empty=False))
    if page.cursor:
        say(f"More: treadle runs --cursor '{page.cursor}'")


def _moment(text: str | None, option: str) -> float | None:
    """A moment as seconds since the epoch: an age, or a date, with a time or not, of this machine unless it names an offset."""
    if text is None:
        return None
    if re.match(r"\d{4}-\d\d-\d\d", text):
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError) as error:
            remedy = "Write 2026-01-31, 2026-01-31T12:00 or 2026-01-31T12:00+01:00."
            raise click.UsageError(f"{option}: {text!r} is no date. {remedy}") from error
    try:
        return time.time() - parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from error
