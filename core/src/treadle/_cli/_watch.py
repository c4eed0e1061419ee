"""``treadle watch``: a run that another process drives, shown as that process shows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from operator import attrgetter

import anyio
import attrs
import click

from treadle._cli._ending import CANCELLED
from treadle._cli._kept import ENDED, begun, find_run, kept_runs
from treadle._cli._loading import json_option
from treadle._cli._logs import text_of
from treadle._cli._output import say, write, write_json
from treadle._cli._progress import Progress
from treadle._cli._run import EXIT_CODES, display_for
from treadle._cli._summary import summarize
from treadle._results import RunResult, summarise
from treadle._span_projection import executor_of
from treadle.errors import RunSuspendedError
from treadle.ports import LEASE_S, Entry, LineQuery, LogLine, Record, RunEnded, RunRow, Store

_POLL_S = 0.2


@click.command(short_help="Watch a run that another process drives.")
@click.argument("run")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Show only the result.")
@click.option("--no-progress", is_flag=True, help="Plain lines instead of a live display, also on a terminal.")
@click.pass_context
def watch(ctx: click.Context, run: str, as_json: bool, quiet: bool, no_progress: bool) -> None:
    """Show RUN (an id, the beginning of one, or 'last') while it goes on, and how it ends.

    Ctrl-C ends the watching, not the run. Exit codes as for run; 3 also when nobody drives the run.
    """
    with kept_runs() as (store, _):
        progress = None if quiet else Progress(display_for(plain=no_progress), is_kept=True)
        try:
            with progress or nullcontext():
                result = anyio.run(partial(_watch, store, run, progress))
        except KeyboardInterrupt:
            say("Not watched any more; the run goes on.")
            ctx.exit(CANCELLED)
    _show(result, as_json=as_json)
    ctx.exit(EXIT_CODES.get(str(result.status), 1))


async def _watch(store: Store, run: str, progress: Progress | None) -> RunResult:
    row = await find_run(store, run)
    query = LineQuery(row.run_id)
    entries: list[Entry] = []
    is_warned = False
    while True:
        row = await store.run(row.run_id) or row
        records, lines = await store.read(row.run_id, len(entries)), await store.lines(query)
        entries += [record.entry for record in records]
        query = attrs.evolve(query, after=lines[-1].seq if lines else query.after)
        if progress is not None:
            _tell(progress, records, lines)
        if entries and isinstance(entries[-1], RunEnded):
            return summarise(entries)
        if not row.owner and row.status.value not in ENDED:
            raise RunSuspendedError(row.run_id, "nobody drives it")
        if not is_warned and _is_silent(row):
            is_warned = True
            tell = progress.line if progress is not None else say
            tell(f"{row.owner} was last heard of {LEASE_S:.0f} s ago; to take the run over: treadle resume {row.run_id}")
        await anyio.sleep(_POLL_S)


def _tell(progress: Progress, records: Sequence[Record], lines: Sequence[LogLine]) -> None:
    """Show what is new, in the order in which it happened."""
    events: list[Record | LogLine] = [*records, *lines]
    for event in sorted(events, key=attrgetter("at")):
        if isinstance(event, LogLine):
            progress.line(text_of(event))
        else:
            progress.record_event(event)


def _is_silent(row: RunRow) -> bool:
    return row.heartbeat_at is not None and time.time() - row.heartbeat_at > LEASE_S


def _show(result: RunResult, *, as_json: bool) -> None:
    created = begun(result.entries)
    executors = {path: executor_of(created.workflow, path) for path in result.steps}
    target = sys.stderr if as_json else sys.stdout
    write(summarize(result, result.workflow, f"treadle retry {result.run_id}", executors, target), target)
    if as_json:
        write_json(result.to_dict())
