"""``treadle resume``, ``runs``, ``show``, ``explain``, ``cancel``: what became of the runs that are kept."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import anyio
import attrs
import click

from treadle._cli._loading import discover, json_option
from treadle._cli._output import clean, count, mark, paint, say, spell, stdout_kept, table, write, write_json
from treadle._cli._run import Options, Session, chosen_backend, command_store
from treadle._durations import parse_duration
from treadle._plan import make_plan
from treadle._plugins import Registry
from treadle._workflow import Workflow
from treadle.errors import ConfigError, OwnedElsewhereError, RunNotFoundError
from treadle.ports import (
    AttemptEnded,
    AttemptStarted,
    CancelRequest,
    CancelRequested,
    Entry,
    ErrorInfo,
    Evaluated,
    ItemEnded,
    MapStarted,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunQuery,
    RunRow,
    RunStatus,
    RunStopping,
    StepEnded,
    StepRow,
    StintOpened,
    Store,
    TimerFired,
)

T = TypeVar("T")

_ENDED = frozenset({"completed", "partial_failure", "failed", "cancelled", "timed_out"})


@contextmanager
def _kept() -> Iterator[tuple[Store, Registry]]:
    """The store of the command, closed afterwards."""
    _, registry = discover()
    store = command_store(registry)
    if not store.is_durable:
        raise ConfigError(
            "No runs are kept: the store is memory.", "Install one (pip install treadle-sqlite), or name it in [store]."
        )
    try:
        yield store, registry
    finally:
        store.close()


async def _find(store: Store, run: str) -> RunRow:
    """The run of an id, or of the beginning of one."""
    row = await store.run(run)
    if row is not None:
        return row
    page = await store.runs(RunQuery(prefix=run, limit=3))
    if not page.runs or not run:
        raise RunNotFoundError(run)
    if len(page.runs) > 1:
        some = ", ".join(row.run_id for row in page.runs[:2])
        raise ConfigError(f"{run!r} may be several runs: {some} ...", "Give more of the id.")
    return page.runs[0]


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
    """Drive RUN (an id, or the beginning of one) to its end.

    Steps that completed are not run again. Those that may have been running are, under the same idempotency key, unless their
    executor must not run twice. A run that has ended shows its result again.

    The run keeps the workflow that it began with. Exit codes as for run.
    """
    with _kept() as (store, registry), stdout_kept() as out:
        options = Options("", (), (), max_parallel=None, strict=False, **asked)  # type: ignore[arg-type]  # click's types
        session = _session(store, registry, run, options, out)
        ctx.exit(session.run())


def _session(store: Store, registry: Registry, run: str, options: Options, out: object) -> Session:
    async def look() -> tuple[RunRow, RunCreated]:
        row = await _find(store, run)
        entries = await store.read(row.run_id)
        created = entries[0].entry
        assert isinstance(created, RunCreated), "a log begins with it"
        return row, created

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
    with _kept() as (store, _):
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
        [row.run_id, row.workflow, row.status.value, _time(row.created_at), _took(row), row.owner or "-"] for row in page.runs
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
    """Show how RUN (an id, or the beginning of one) stands: its state, its steps, what it waits for."""

    async def look(store: Store) -> tuple[RunRow, Sequence[StepRow], list[tuple[str, float]]]:
        row = await _find(store, run)
        timers = [(timer.path, timer.due) for timer in await store.timers(row.run_id) if timer.status == "pending"]
        return row, await store.steps(row.run_id), timers

    with _kept() as (store, _):
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
    yield f"  created: {_time(row.created_at)} by {row.trigger}, stint {row.stint}, took {_took(row)}"
    if row.owner:
        yield f"  owner:   {row.owner}, last heard of {_time(row.heartbeat_at)}"
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
        yield f"  {clean(path)} waits until {_time(due)}"
    if row.status.value not in _ENDED and not row.owner:
        yield f"  next:    treadle resume {row.run_id}"


def _run_object(row: RunRow) -> dict[str, object]:
    return attrs.asdict(row) | {"status": row.status.value, "duration_s": row.duration_s}


def _step_object(row: StepRow) -> dict[str, object]:
    return attrs.asdict(row) | {"status": row.status.value}


def _time(at: float | None) -> str:
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def _took(row: RunRow) -> str:
    return "-" if row.duration_s is None else spell(row.duration_s)


# -- explain ------------------------------------------------------------------------------------------------------------


@click.command(short_help="Say why a run, or one of its steps, went as it did.")
@click.argument("run_and_path", metavar="RUN[/PATH]")
@json_option
def explain(run_and_path: str, as_json: bool) -> None:
    """Say why RUN, or its step PATH, went as it did: what happened and what was decided, in order, as it was recorded."""
    run, _, path = run_and_path.partition("/")

    async def look(store: Store) -> tuple[RunRow, list[tuple[int, Entry]]]:
        row = await _find(store, run)
        return row, [(record.seq, record.entry) for record in await store.read(row.run_id)]

    with _kept() as (store, _):
        row, entries = anyio.run(look, store)
    created = entries[0][1]
    assert isinstance(created, RunCreated), "a log begins with it"
    if path and path not in _paths(created.workflow):
        raise ConfigError(f"Run {row.run_id} has no step {path!r}.", f"It has: {', '.join(_paths(created.workflow))}.")
    told = [(seq, entry, _tell(entry)) for seq, entry in entries if _concerns(entry, path)]
    if as_json:
        lines = [{"seq": seq, "at": entry.at, "kind": entry.kind, "text": text} for seq, entry, text in told if text]
        write_json({"run_id": row.run_id, "path": path, "decisions": lines})
        return
    for seq, entry, text in told:
        if text:
            write(f"{seq:>5}  +{spell(entry.at - created.at):<8} {clean(text)}")


def _paths(workflow: Mapping[str, object]) -> list[str]:
    main, after = workflow.get("steps"), workflow.get("finally")
    names = [str(name) for name in main] if isinstance(main, Mapping) else []
    return names + ([f"finally/{name}" for name in after] if isinstance(after, Mapping) else [])


def _concerns(entry: Entry, path: str) -> bool:
    """Whether an entry is part of the story: the run's own, or what names the step, or made it end."""
    if not path:
        return True
    if isinstance(entry, TimerFired):
        return entry.timer_id.split(":")[1:2] == [path]
    return getattr(entry, "path", "") in (path, "") or getattr(entry, "culprit", "") == path


_TELLERS: Mapping[type, Callable[..., str]] = {
    RunCreated: lambda e: f"the run was created by {e.trigger}",
    StintOpened: lambda e: f"stint {e.stint} began: {e.owner or 'somebody'} drives the run",
    Evaluated: lambda e: _tell_evaluated(e),
    AttemptStarted: lambda e: f"{_item(e.path, e.index)}: attempt {e.attempt} was released in stint {e.stint}",
    AttemptEnded: lambda e: f"{_item(e.path, e.index)}: attempt {e.attempt} {e.outcome.status}{_why(e.outcome.error)}",
    RetryScheduled: lambda e: (
        f"{_item(e.path, e.index)}: will be tried again after {spell(e.due - e.at)} (attempt {e.attempt} of {e.max_attempts}"
        f" failed): {e.reason or 'no reason given'}"
    ),
    TimerFired: lambda e: f"the wait {e.timer_id} is over",
    MapStarted: lambda e: f"{e.path}: has {count(e.count, 'item')}",
    ItemEnded: lambda e: f"{_item(e.path, e.index)}: {e.status.value}: {e.reason}",
    StepEnded: lambda e: f"{e.path}: {e.status.value}" + (f", because {e.reason}" if e.reason else ""),
    CancelRequested: lambda e: f"a cancel was asked for: {e.reason}" + (" (forced)" if e.force else ""),
    RunStopping: lambda e: f"nothing new starts from here on, because {e.reason}",
    RunEnded: lambda e: f"the run ended {e.status.value}" + (f", because {e.reason}" if e.reason else ""),
}


def _tell(entry: Entry) -> str:
    teller = _TELLERS.get(type(entry))
    return teller(entry) if teller is not None else entry.kind


def _tell_evaluated(entry: Evaluated) -> str:
    where = f"{_item(entry.path, entry.index)}: " if entry.path else ""
    if entry.error is not None:
        return f"{where}its {entry.what!r} could not be evaluated{_why(entry.error)}"
    if entry.what == "when":
        return f"{where}its 'when' was {'true' if entry.value else 'false'}"
    return f"{where}its {entry.what!r} was evaluated"


def _item(path: str, index: int | None) -> str:
    return path if index is None else f"{path}[{index}]"


def _why(error: ErrorInfo | None) -> str:
    return "" if error is None else f": {error.type}: {error.message.partition(chr(10))[0]}"


# -- cancel -------------------------------------------------------------------------------------------------------------


@click.command(short_help="Cancel a run, wherever it is driven.")
@click.argument("run")
@click.option("--reason", default="cancelled by hand", show_default=True, metavar="TEXT", help="Shown to people.")
@click.option("--force", is_flag=True, help="Do without the finally steps.")
@click.pass_context
def cancel(ctx: click.Context, run: str, reason: str, force: bool) -> None:
    """Ask whoever drives RUN (an id, or the beginning of one) to cancel it: no step starts any more, and finally steps run.

    A run that nobody drives is ended from here.
    """
    with _kept() as (store, registry):
        row = anyio.run(_find, store, run)
        if row.status.value in _ENDED:
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
