"""``treadle resume``, ``runs``, ``show``, ``cancel``: what became of the runs that are kept."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import anyio
import attrs
import click

from treadle._cli._kept import ENDED, begun, find_run, kept_runs, moment, read_log, took
from treadle._cli._loading import json_option
from treadle._cli._output import clean, mark, paint, say, spell, stdout_kept, table, write, write_json
from treadle._cli._run import Options, Session, chosen_backend
from treadle._durations import parse_duration
from treadle._plan import make_plan
from treadle._plugins import Registry
from treadle._workflow import Workflow
from treadle.errors import OwnedElsewhereError
from treadle.ports import (
    CancelRequest,
    RunCreated,
    RunQuery,
    RunRow,
    RunStatus,
    StepRow,
    Store,
)

# -- resume -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Go on with a run that was interrupted.")
@click.argument("run")
@click.option("--accept-changes", is_flag=True, help="Go on although plugins or the workflow's file have changed.")
@json_option
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How stderr is written."
)
@click.option("-q", "--quiet", is_flag=True, help="Show only the result, and warnings.")
@click.option("--no-progress", is_flag=True, help="Plain lines instead of a live display, also on a terminal.")
@click.pass_context
def resume(ctx: click.Context, /, run: str, **asked: object) -> None:
    """Drive RUN (an id, the beginning of one, or 'last') to its end.

    Steps that completed are not run again. Those that may have been running are, under the same idempotency key, unless their
    executor must not run twice. A run that has ended shows its result again.

    The run keeps the workflow that it began with. Exit codes as for run.
    """
    with kept_runs() as (store, registry), stdout_kept() as out:
        options = Options("", (), (), max_parallel=None, strict=False, **asked)  # type: ignore[arg-type]  # click's types
        session = _session(store, registry, run, options, out)
        ctx.exit(session.run())


def _session(store: Store, registry: Registry, run: str, options: Options, out: object) -> Session:
    async def look() -> tuple[RunRow, RunCreated]:
        row = await find_run(store, run)
        return row, begun(await read_log(store, row.run_id))

    row, created = anyio.run(look)
    plan = make_plan(Workflow.from_dict(created.workflow, file=row.source), registry)
    options = attrs.evolve(options, file=row.source or row.workflow)
    return Session(options, out, plan, {}, registry, chosen_backend(), store, row.run_id)  # type: ignore[arg-type]  # a stream


# -- runs ---------------------------------------------------------------------------------------------------------------


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
        write_json({"runs": [_run_object(row) for row in page.runs], "cursor": page.cursor})
        return
    if not page.runs:
        say("No runs.")
        return
    rows = [
        [row.run_id, row.workflow, row.status.value, moment(row.created_at), took(row), row.owner or "-"] for row in page.runs
    ]
    write(table(["RUN", "WORKFLOW", "STATUS", "CREATED", "TOOK", "OWNER"], rows))
    if page.cursor:
        say(f"More: treadle runs --cursor '{page.cursor}'")


def _moment(text: str | None, option: str) -> float | None:
    """A moment as seconds since the epoch: a date, a date with a time (UTC), or an age."""
    if text is None:
        return None
    if re.match(r"\d{4}-\d\d-\d\d", text):
        for form in ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"):
            try:
                return float(_timegm(time.strptime(text.removesuffix("Z"), form)))
            except ValueError:
                continue
        raise click.UsageError(f"{option}: {text!r} is no date. Write 2026-01-31 or 2026-01-31T12:00.")
    try:
        return time.time() - parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from error


def _timegm(moment: time.struct_time) -> int:
    import calendar  # a small thing that only this option needs

    return calendar.timegm(moment)


# -- show ---------------------------------------------------------------------------------------------------------------


@click.command(short_help="Show a run and its steps.")
@click.argument("run")
@json_option
def show(run: str, as_json: bool) -> None:
    """Show how RUN (an id, the beginning of one, or 'last') stands: its state, its steps, what it waits for."""

    async def look(store: Store) -> tuple[RunRow, Sequence[StepRow], list[tuple[str, float]]]:
        row = await find_run(store, run)
        timers = [(timer.path, timer.due) for timer in await store.timers(row.run_id) if timer.status == "pending"]
        return row, await store.steps(row.run_id), timers

    with kept_runs() as (store, _):
        row, steps, timers = anyio.run(look, store)
    if as_json:
        waits = [{"path": path, "due": due} for path, due in timers]
        write_json({**_run_object(row), "steps": [_step_object(step) for step in steps], "waits": waits})
        return
    for line in _shown_run(row, steps, timers):
        write(line)


def _shown_run(row: RunRow, steps: Sequence[StepRow], timers: Sequence[tuple[str, float]]) -> Iterator[str]:
    status = row.status.value
    yield paint(f"{mark(status, sys.stdout)} {clean(row.workflow)} {status}", status, sys.stdout)
    yield f"  run:     {row.run_id}" + (f"  trace {row.trace_id}" if row.trace_id else "")
    yield f"  created: {moment(row.created_at)} by {row.trigger}, stint {row.stint}, took {took(row)}"
    if row.owner:
        yield f"  owner:   {row.owner}, last heard of {moment(row.heartbeat_at)}"
    if row.error_message or row.reason:
        yield f"  cause:   {clean(row.culprit + ': ' if row.culprit else '')}{clean(row.error_message or row.reason)}"
    rows = [
        [
            step.path if step.index is None else f"  {step.path}[{step.index}]",
            step.status.value,
            str(step.attempt),
            "" if step.ended_at is None or step.queued_at is None else spell(step.ended_at - step.queued_at),
            f"{step.error_type}: {step.error_message}" if step.error_type else step.reason,
        ]
        for step in steps
    ]
    if rows:
        yield ""
        yield table(["STEP", "STATUS", "ATTEMPTS", "TOOK", "WHY"], rows)
    for path, due in timers:
        yield f"  {clean(path)} waits until {moment(due)}"
    if row.status.value not in ENDED and not row.owner:
        yield f"  next:    treadle resume {row.run_id}"


def _run_object(row: RunRow) -> dict[str, object]:
    return attrs.asdict(row) | {"status": row.status.value, "duration_s": row.duration_s}


def _step_object(row: StepRow) -> dict[str, object]:
    return attrs.asdict(row) | {"status": row.status.value}


# -- cancel -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Cancel a run, wherever it is driven.")
@click.argument("run")
@click.option("--reason", default="cancelled by hand", show_default=True, metavar="TEXT", help="Shown to people.")
@click.option("--force", is_flag=True, help="Do without the finally steps.")
@click.pass_context
def cancel(ctx: click.Context, run: str, reason: str, force: bool) -> None:
    """Ask whoever drives RUN (an id, the beginning of one, or 'last') to cancel it.

    No step starts any more, what runs is told to stop, and finally steps run. Until that is over the run is 'cancelling'.
    A run that nobody drives is ended from here.
    """
    with kept_runs() as (store, registry):
        row = anyio.run(find_run, store, run)
        if row.status.value in ENDED:
            say(f"Run {row.run_id} has ended already: {row.status.value}.")
            return
        anyio.run(partial(store.request_cancel, row.run_id, CancelRequest(reason, force)))
        options = Options("", (), (), False, None, False, "text", quiet=False, no_progress=True, accept_changes=True)
        try:
            with stdout_kept() as out:
                code = _session(store, registry, row.run_id, options, out).run()
        except OwnedElsewhereError as error:
            say(f"Asked {error.owner} to cancel run {row.run_id}.")
            return
        ctx.exit(0 if code == 3 else code)
