"""``treadle resume`` and ``cancel``: go on with a run that is kept, or end it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import anyio
import attrs
import click

from treadle._app import resume as resume_run
from treadle._cli._kept import ENDED, begun, find_run, kept_runs, read_log
from treadle._cli._loading import json_option
from treadle._cli._output import say, stdout_kept, write_json
from treadle._cli._run import Options, Session, chosen_backend
from treadle._plan import make_plan
from treadle._plugins import Registry
from treadle._workflow import Workflow
from treadle.errors import OwnedElsewhereError
from treadle.ports import (
    CancelRequest,
    RunCreated,
    RunRow,
    Store,
)

_POLL_S = 0.2

# -- resume -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Go on with a run that was interrupted.")
@click.argument("run")
@click.option("--accept-changes", is_flag=True, help="Go on although plugins or the workflow's file have changed.")
@click.option("--rerun", multiple=True, metavar="PATH", help="Of a step that asks (on_interrupt: ask): run it again.")
@click.option("--fail", multiple=True, metavar="PATH", help="Of a step that asks: let it end as interrupted.")
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
    executor must not run twice. A step that asks what to do is answered by --rerun or --fail; until then the run stays
    suspended. A run that has ended shows its result again.

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


# -- cancel -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Cancel a run, wherever it is driven.")
@click.argument("run")
@click.option("--reason", default="cancelled by hand", show_default=True, metavar="TEXT", help="Shown to people.")
@click.option("--force", is_flag=True, help="Do without the finally steps, and give what runs a second to stop, not ten.")
@click.option("--wait", is_flag=True, help="Wait until the run has ended.")
@json_option
def cancel(run: str, reason: str, force: bool, wait: bool, as_json: bool) -> None:
    """Ask whoever drives RUN (an id, the beginning of one, or 'last') to cancel it.

    No step starts any more. What runs is told to stop; an isolated step that does not within ten seconds is killed, another is
    left behind. Then the finally steps run. Until that is over the run is 'cancelling', afterwards 'cancelled'.

    A run that nobody drives is ended from here.
    """
    with kept_runs() as (store, registry):
        row = anyio.run(find_run, store, run)
        if row.status.value not in ENDED:
            anyio.run(partial(store.request_cancel, row.run_id, CancelRequest(reason, force)))
            _end_here(store, registry, row.run_id)
            row = anyio.run(partial(_ended if wait else _current, store, row))
            has_ended = row.status.value in ENDED
            told = f"Run {row.run_id} is {row.status.value}." if has_ended else f"Asked {row.owner} to cancel run {row.run_id}."
        else:
            told = f"Run {row.run_id} has ended already: {row.status.value}."
    say(told)
    if as_json:
        write_json({"run_id": row.run_id, "status": row.status.value, "owner": row.owner})


def _end_here(store: Store, registry: Registry, run_id: str) -> None:
    """Drive a run that nobody drives to its end, which has been asked for."""
    with suppress(OwnedElsewhereError), stdout_kept():
        resume_run(run_id, backend=chosen_backend(), store=store, registry=registry, accept_changes=True)


async def _current(store: Store, row: RunRow) -> RunRow:
    return await store.run(row.run_id) or row


async def _ended(store: Store, row: RunRow) -> RunRow:
    """The run's row once it has ended."""
    while (row := await _current(store, row)).status.value not in ENDED:  # noqa: ASYNC110 - another process ends it
        await anyio.sleep(_POLL_S)
    return row
