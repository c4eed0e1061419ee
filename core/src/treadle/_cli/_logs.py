"""``treadle logs``: what the executors of a run logged and printed, also while another process drives it."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import AsyncIterator

import anyio
import attrs
import click

from treadle._cli._kept import ENDED, find_run, item_name, kept_runs, read_log, split_target
from treadle._cli._loading import wants_json
from treadle._cli._output import clean, paint, say, write, write_line
from treadle._cli._progress import stamp
from treadle._cli._recorded_plan import plan_of, split_item
from treadle.ports import LineQuery, LogLine, RunRow, Store

_LEVELS = ("debug", "info", "warning", "error", "critical")
_POLL_S = 0.3


@click.command(short_help="Show what the steps of a run logged and printed.")
@click.argument("run_and_path", metavar="RUN[/PATH]")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended, showing lines as they come.")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Only of the Nth attempt of each step.")
@click.option("--level", type=click.Choice(_LEVELS), default="debug", help="Only of this level or a higher one.")
@click.option("-n", "--tail", type=click.IntRange(min=1), metavar="N", help="Begin with the last N lines.")
@click.option("--json", "as_json", is_flag=True, callback=wants_json, help="Print one JSON object for each line.")
def logs(run_and_path: str, follow: bool, attempt: int | None, level: str, tail: int | None, as_json: bool) -> None:
    """Show what was logged and printed in RUN (an id, the beginning of one, or 'last'), or in its step PATH and what it holds.

    That is what executors log through ctx.log from INFO on, what commands and isolated executors write to their standard
    streams, and warnings of other libraries. It is kept for each attempt, 10,000 lines at most, secrets hidden.
    """
    run, path = split_target(run_and_path)

    async def look(store: Store) -> None:
        row = await find_run(store, run)
        place, index = (path, None) if not path else split_item(path, plan_of(await read_log(store, row.run_id)))
        query = LineQuery(row.run_id, place, index, attempt, logging.getLevelNamesMapping()[level.upper()])
        await _show(store, row, query, tail=tail, follow=follow, as_json=as_json)

    with kept_runs() as (store, _):
        anyio.run(look, store)


async def _show(store: Store, row: RunRow, query: LineQuery, *, tail: int | None, follow: bool, as_json: bool) -> None:
    kept: deque[LogLine] = deque(maxlen=tail)
    count = 0
    async for line in _read(store, query):
        count += 1
        query = attrs.evolve(query, after=line.seq)
        if tail is None:
            _write(row.run_id, line, as_json=as_json)
        else:
            kept.append(line)
    for line in kept:
        _write(row.run_id, line, as_json=as_json)
    while follow:
        current = await store.run(row.run_id)
        has_ended = current is None or current.status.value in ENDED  # asked first: its last lines are kept before it ends
        async for line in _read(store, query):
            count += 1
            query = attrs.evolve(query, after=line.seq)
            _write(row.run_id, line, as_json=as_json)
        if has_ended:
            break
        await anyio.sleep(_POLL_S)
    if not count:
        say("No lines.")


async def _read(store: Store, query: LineQuery) -> AsyncIterator[LogLine]:
    """All lines that there are now, page by page."""
    while True:
        page = await store.lines(query)
        for line in page:
            yield line
        if len(page) < query.limit:
            return
        query = attrs.evolve(query, after=page[-1].seq)


def _write(run_id: str, line: LogLine, *, as_json: bool) -> None:
    if as_json:
        write_line(line_object(run_id, line))
        return
    status = "failed" if line.level >= logging.ERROR else "warning" if line.level >= logging.WARNING else ""
    write(paint(text_of(line), status, sys.stdout) if status else text_of(line))


def text_of(line: LogLine) -> str:
    """A line for people."""
    level = logging.getLevelName(line.level)
    place = item_name(line.path, line.index)
    notes = [line.variant] if line.variant != "primary" else []
    notes += [f"attempt {line.attempt}"] if line.attempt > 1 else []
    where = f"{place} ({', '.join(notes)})" if notes else place
    return clean(f"{stamp(line.at)} {level} {where}: {line.text}")


def line_object(run_id: str, line: LogLine) -> dict[str, object]:
    """A line for programs."""
    return {"run_id": run_id, **attrs.asdict(line), "level": logging.getLevelName(line.level)}
