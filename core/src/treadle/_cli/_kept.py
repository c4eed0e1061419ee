"""What commands about kept runs share: the store, the run and the step that a person means, times."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import click

from treadle._cli._loading import discover
from treadle._cli._output import spell
from treadle._plugins import Registry
from treadle._store_records import local_text
from treadle._stores import open_store
from treadle.errors import ConfigError, RunNotFoundError
from treadle.ports import Entry, RunCreated, RunQuery, RunRow, Store

ENDED = frozenset({"completed", "partial_failure", "failed", "cancelled", "timed_out"})

LAST = "last"
"""What stands for the newest run."""

RUN_HELP = "an id, the beginning of one, or 'last'"

_LOOKED_AT = 200


@contextmanager
def kept_runs() -> Iterator[tuple[Store, Registry]]:
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


def command_store(registry: Registry, wanted: str = "") -> Store:
    """Where the command keeps runs: as asked for by name, else in SQLite when that is installed, else in memory."""
    has_sqlite = "sqlite" in registry.names("treadle.stores")
    return open_store(registry, wanted=wanted, otherwise="sqlite" if has_sqlite else "memory")


async def find_run(store: Store, run: str) -> RunRow:
    """The run of an id, of the beginning of one, or the newest one for ``last``.

    Raises:
        RunNotFoundError: There is none; the remedy names those that were probably meant.
        ConfigError: It may be several.
    """
    if run == LAST:
        page = await store.runs(RunQuery(limit=1))
    else:
        row = await store.run(run)
        if row is not None:
            return row
        page = await store.runs(RunQuery(prefix=run, limit=3))
    if not page.runs or not run:
        raise RunNotFoundError(run, await _meant(store, run))
    if len(page.runs) > 1:
        some = ", ".join(row.run_id for row in page.runs[:2])
        raise ConfigError(f"{run!r} may be several runs: {some} ...", "Give more of the id.")
    return page.runs[0]


async def _meant(store: Store, run: str) -> str:
    """What was probably meant: an id that is spelled alike or ends so, or the newest run of that workflow."""
    newest = (await store.runs(RunQuery(limit=_LOOKED_AT))).runs
    ids = [row.run_id for row in newest]
    close = [run_id for run_id in ids if run and run in run_id] or difflib.get_close_matches(run, ids, 1, 0.8)
    if close:
        return f"Did you mean {close[0]}? 'treadle runs' lists the runs that are kept."
    of_workflow = (await store.runs(RunQuery(workflow=run, limit=1))).runs if run else ()
    if of_workflow:
        return f"The newest run of the workflow {run!r} is {of_workflow[0].run_id}; 'treadle runs --workflow {run}' lists them."
    return ""


def split_target(target: str) -> tuple[str, str]:
    """The run and the step of ``RUN[/PATH]``."""
    run, _, path = target.partition("/")
    return run, path


async def read_log(store: Store, run_id: str) -> list[Entry]:
    """The log of a run.

    Raises:
        ConfigError: It was cleaned away.
    """
    entries = [record.entry for record in await store.read(run_id)]
    if not entries:
        raise ConfigError(f"The log of run {run_id} is not kept any more.", "What 'treadle show' says of it still is.")
    return entries


def begun(entries: Sequence[Entry]) -> RunCreated:
    """The first entry of a log."""
    created = entries[0]
    assert isinstance(created, RunCreated), "a log begins with it"
    return created


def moment(at: float | None) -> str:
    """A time for people."""
    return "-" if at is None else local_text(at)


def took(row: RunRow) -> str:
    """How long a run took, for people."""
    return "-" if row.duration_s is None else spell(row.duration_s)


def item_name(path: str, index: int | None) -> str:
    """A step, with its item."""
    return path if index is None else f"{path}[{index}]"


def positive(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    """An option that must be above zero."""
    if value <= 0:
        raise click.BadParameter("must be above 0", ctx, parameter)
    return value


def run_object(row: RunRow) -> dict[str, object]:
    """A run's row for ``--json``."""
    return attrs.asdict(row) | {"status": row.status.value, "duration_s": row.duration_s}
