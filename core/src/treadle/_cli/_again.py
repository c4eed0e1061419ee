"""``treadle retry`` and ``replay``: a run that is over goes on, or is done again with what was recorded of it."""

from __future__ import annotations

import sys
from functools import partial

import anyio
import attrs
import click

from treadle._again import replay as replay_run
from treadle._again import retry as retry_run
from treadle._cli._inputs import gather
from treadle._cli._kept import begun, find_run, kept_runs, read_log
from treadle._cli._loading import json_option
from treadle._cli._output import count, mark, paint, stdout_kept, write, write_json
from treadle._cli._recorded_plan import plan_of
from treadle._cli._run import Options, Session, chosen_backend
from treadle._conductor import Conductor
from treadle._plan import make_plan
from treadle._workflow import Workflow
from treadle.ports import DECISIONS, Entry, RunRow, Store


@click.command(short_help="Let a run that has ended go on: what did not complete runs again.")
@click.argument("run")
@click.option("--failed", is_flag=True, help="Run what did not complete again; that is so without --from, too.")
@click.option("--from", "start", default="", metavar="PATH", help="Also run this step and all that follows from it again.")
@click.option("--reason", default="", metavar="TEXT", help="Shown to people.")
@json_option
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How stderr is written."
)
@click.option("-q", "--quiet", is_flag=True, help="Show only the result, and warnings.")
@click.option("--no-progress", is_flag=True, help="Plain lines instead of a live display, also on a terminal.")
@click.pass_context
def retry(ctx: click.Context, /, run: str, failed: bool, start: str, reason: str, **asked: object) -> None:
    """Let RUN (an id, the beginning of one, or 'last') go on, in the same run.

    Steps and items that completed are not run again, unless they follow from PATH or were undone. What runs does so as a new
    generation: with attempts counted from 1, and idempotency keys of its own. Finally steps run again. Of budgets, what
    was used stays used.

    The run keeps the workflow that it began with; plugins may have been mended since. Exit codes as for run.
    """
    if failed and start:
        raise click.UsageError("Use --failed or --from PATH: --from runs what did not complete, too.")
    with kept_runs() as (store, registry):
        row, entries = anyio.run(_look, store, run)
        plan = make_plan(Workflow.from_dict(begun(entries).workflow), registry)
        options = Options(row.source or row.workflow, (), (), max_parallel=None, strict=False, **asked)  # type: ignore[arg-type]  # click's types
        act = partial(retry_run, row.run_id, start=start, reason=reason)
        with stdout_kept() as out:
            ctx.exit(Session(options, out, plan, {}, registry, chosen_backend(), store, act=act).run())


@click.command(short_help="Do a run again with its recorded outcomes, to look for a fault.")
@click.argument("run")
@click.option("--from", "start", default="", metavar="PATH", help="Run this step and all that follows from it anew.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Another input; KEY=@FILE takes it from a file.")
@click.option("--check", is_flag=True, help="Run nothing: only check that the log leads to the decisions that it holds.")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Show only the result, and warnings.")
@click.option("--no-progress", is_flag=True, help="Plain lines instead of a live display, also on a terminal.")
@click.pass_context
def replay(
    ctx: click.Context, run: str, start: str, pairs: tuple[str, ...], check: bool, as_json: bool, quiet: bool, no_progress: bool
) -> None:
    """Run the workflow of RUN (an id, the beginning of one, or 'last') again, in a new run, with the outcomes of its record.

    A call that was made with the same inputs is not made again: success or failure, its outcome is the recorded one, and waits
    that were over are not waited for. Calls that get other inputs, by --set or by a step that ran anew, are made.

    Before that, the log is checked: its facts must lead to its decisions. Exit codes as for run.
    """
    with kept_runs() as (store, registry):
        row, entries = anyio.run(_look, store, run)
        if check:
            _check(row, entries, as_json=as_json)
            ctx.exit()
        created = begun(entries)
        plan = make_plan(Workflow.from_dict(created.workflow), registry)
        given = {name: value for name, value in created.inputs.items() if name in plan.workflow.inputs}
        inputs = gather(plan.workflow, pairs, (), given)
        options = Options("", (), (), as_json, None, False, "text", quiet=quiet, no_progress=no_progress)
        options = attrs.evolve(options, file=row.source or row.workflow)
        act = partial(replay_run, row.run_id, inputs, start=start)
        with stdout_kept() as out:
            ctx.exit(Session(options, out, plan, inputs, registry, chosen_backend(), store, act=act).run())


async def _look(store: Store, run: str) -> tuple[RunRow, list[Entry]]:
    row = await find_run(store, run)
    return row, await read_log(store, row.run_id)


def _check(row: RunRow, entries: list[Entry], *, as_json: bool) -> None:
    Conductor(plan_of(entries)).replay(entries)
    decisions = sum(isinstance(entry, DECISIONS) for entry in entries)
    if as_json:
        write_json({"run_id": row.run_id, "ok": True, "facts": len(entries) - decisions, "decisions": decisions})
        return
    text = f"{count(len(entries) - decisions, 'fact')} of run {row.run_id} lead to {count(decisions, 'decision')}, as recorded"
    write(paint(f"{mark('ok', sys.stdout)} {text}", "ok", sys.stdout))
