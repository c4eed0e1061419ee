"""``treadle store``: looking after what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import attrs
import click

from treadle._cli._kept import kept_runs, moment
from treadle._cli._loading import json_option
from treadle._cli._output import count, say, table, write, write_json
from treadle._durations import parse_duration
from treadle.errors import ConfigError
from treadle.ports import StoreStats, StoreUpkeep

DAY_S = 86_400.0


@contextmanager
def _looked_after() -> Iterator[StoreUpkeep]:
    """The store of the command, closed afterwards."""
    with kept_runs() as (found, _):
        if not isinstance(found, StoreUpkeep):
            raise ConfigError(
                f"Store {found.name} offers nothing to look after it with.",
                "See the documentation of the plugin that provides it.",
            )
        yield found


@click.group(short_help="Look after the store: back it up, clean it, see what it holds.")
def store() -> None:
    """Look after the store that [store] names: back it up, remove what is old, see what it holds."""


@store.command()
@json_option
def stats(as_json: bool) -> None:
    """Say where the store is, how large it is, and what it holds."""
    with _looked_after() as kept:
        found = anyio.run(kept.stats)
    if as_json:
        write_json(attrs.asdict(found) | {"runs": dict(found.runs), "rows": dict(found.rows)})
        return
    for line in _lines(found):
        write(line)


def _lines(found: StoreStats) -> Iterator[str]:
    yield f"{found.store}  {found.where}"
    log = f", write-ahead log {_size(found.log_bytes)}" if found.log_bytes else ""
    free = f", of which {_size(found.reusable_bytes)} free for new rows" if found.reusable_bytes else ""
    yield f"  size:       {_size(found.size_bytes)}{free}{log}"
    yield f"  format:     {found.format}, generation {found.generation}"
    states = ", ".join(f"{number:,} {status}" for status, number in found.runs.items())
    yield f"  runs:       {sum(found.runs.values()):,}" + (f" ({states})" if states else "")
    if found.oldest_run_at is not None:
        yield f"  oldest run: {moment(found.oldest_run_at)}"
    points = found.rows.get("checkpoints", 0)
    if points:
        yield f"  checkpoints: {_size(found.checkpoint_bytes)} in {points:,}, {_size(found.checkpoint_bytes // points)} each"
    yield ""
    yield table(["TABLE", "ROWS"], [[name, f"{number:,}"] for name, number in found.rows.items()])


def _size(size: int) -> str:
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} B"


@store.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def backup(path: Path, as_json: bool) -> None:
    """Write a copy of the store to the new file PATH, while runs go on.

    The copy holds all that was acknowledged when it was begun. Never copy the files of a store by other means.
    """
    with _looked_after() as kept:
        size = anyio.run(kept.backup, path)
    if as_json:
        write_json({"path": str(path), "size_bytes": size})
    else:
        say(f"Wrote {path} ({_size(size)}).")


@store.command()
@json_option
def vacuum(as_json: bool) -> None:
    """Give room that removed runs have left back to the disk."""
    with _looked_after() as kept:
        before, after = anyio.run(kept.vacuum)
    if as_json:
        write_json({"before_bytes": before, "after_bytes": after})
    else:
        say(f"The store took {_size(before)} and takes {_size(after)} now.")


@store.command()
@json_option
def migrate(as_json: bool) -> None:
    """Bring the store's tables to the format of the installed version.

    Every command that writes does so by itself; this one is for doing it at a time of your choice.
    """
    with _looked_after() as kept:
        before, after = anyio.run(kept.migrate)
    if as_json:
        write_json({"before": before, "after": after})
    elif before == after:
        say(f"The store has format {after} already.")
    else:
        say(f"Brought the store from format {before} to {after}." if before else f"Made the store, of format {after}.")


@store.command()
@click.option("--older-than", required=True, metavar="AGE", help="Remove runs that ended so long ago: 30d, 12h.")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@click.option("--events", is_flag=True, help="Remove their logs only; 'treadle runs' and 'show' still know them.")
@click.option("--checkpoints", is_flag=True, help="Remove only checkpoints that are so old, of runs that have ended.")
@click.option("--timers", is_flag=True, help="Remove only timers that fired or were cancelled so long ago.")
@click.option(
    "--drop-unsent", is_flag=True, help="Also of runs whose spans were not sent to the backend yet: they never will be."
)
@json_option
def clean(
    *, older_than: str, dry_run: bool, events: bool, checkpoints: bool, timers: bool, drop_unsent: bool, as_json: bool
) -> None:
    """Remove runs that ended long ago, with their steps, logs, spans, timers and checkpoints.

    A run that has not ended is never touched, and one that has a key stays for a day at least. One whose spans are still to
    be sent to a backend stays until they are; how many these are is told. The store does this by itself when [store] says
    keep_days = 30.
    """
    days = _days(older_than)
    parts = {"records": events, "checkpoints": checkpoints, "timers": timers}
    if dry_run and any(parts.values()):
        raise click.UsageError("--dry-run tells of whole runs; do without --events, --checkpoints and --timers.")
    is_of_logs = events or not any(parts.values())
    if drop_unsent and not is_of_logs:
        raise click.UsageError("--drop-unsent concerns whole runs and --events; do without it.")
    removed: dict[str, int] = {}
    with _looked_after() as kept:
        unsent = anyio.run(kept.count_unsent, days) if is_of_logs else 0
        if drop_unsent and not dry_run:
            unsent = anyio.run(kept.drop_unsent, days)
        cleaners: dict[str, Callable[[float], object]] = {
            "records": kept.cleanup_old_events,
            "checkpoints": kept.cleanup_old_checkpoints,
            "timers": kept.cleanup_fired_timers,
        }
        for name, is_asked in parts.items():
            if is_asked:
                removed[name] = anyio.run(cleaners[name], days)  # type: ignore[arg-type]  # async, each of them
        if not removed:
            removed["runs"] = anyio.run(partial(kept.clean, days, dry_run=dry_run))
            if dry_run and drop_unsent:
                removed["runs"] += unsent
    if as_json:
        runs = {"dropped": unsent if drop_unsent else 0, "kept": 0 if drop_unsent else unsent}
        write_json({"dry_run": dry_run, "older_than_s": days * DAY_S, "removed": removed, "unsent_runs": runs})
        return
    nouns = {"runs": "run", "records": "record", "checkpoints": "checkpoint", "timers": "timer"}
    told = ", ".join(count(number, nouns[name]) for name, number in removed.items())
    say(f"Would remove {told}." if dry_run else f"Removed {told}.")
    if unsent:
        say(_of_unsent(unsent, is_dropped=drop_unsent, is_dry=dry_run))


def _of_unsent(unsent: int, *, is_dropped: bool, is_dry: bool) -> str:
    """What becomes of runs whose spans were not sent."""
    runs = count(unsent, "run")
    if is_dropped:
        return f"Spans of {runs} {'would never be' if is_dry else 'were never'} sent to a backend."
    return (
        f"{'Would keep' if is_dry else 'Kept'} {runs} whose spans were not sent to a backend yet."
        "\nSend them with 'treadle spans export', or remove them all the same with --drop-unsent."
    )


def _days(older_than: str) -> float:
    try:
        return parse_duration(older_than) / DAY_S
    except ValueError as error:
        raise click.UsageError(f"--older-than: {error}") from error
