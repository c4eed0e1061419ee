"""Looking after the file: what it holds, copies of it, and what is old in it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

import apsw
from treadle.errors import ConfigError
from treadle.ports import KEY_KEPT_S, StoreStats, fault_point

from treadle_sqlite import _queries as sql
from treadle_sqlite._schema import version_of

DAY_S = 86_400.0

AT_ONCE = 2_000
"""About so many entries of logs are removed in one transaction, so that nobody waits for long."""


def stats(connection: apsw.Connection, path: Path) -> StoreStats:
    """What the store holds."""
    pages, free, size = (int(str(connection.pragma(name))) for name in ("page_count", "freelist_count", "page_size"))
    log = Path(f"{path}-wal")
    oldest = connection.execute(sql.OLDEST_RUN).fetchone()
    return StoreStats(
        store="sqlite",
        where=str(path),
        format=version_of(connection, str(path)),
        generation=facts(connection).get("generation", ""),
        size_bytes=pages * size,
        reusable_bytes=free * size,
        log_bytes=log.stat().st_size if log.exists() else 0,
        runs={str(status): cast("int", count) for status, count in connection.execute(sql.COUNT_RUNS)},
        rows={table: _number(connection, sql.count(table)) for table in sql.TABLES},
        checkpoint_bytes=_number(connection, sql.CHECKPOINT_BYTES),
        oldest_run_at=None if oldest is None else cast("float", oldest[0]),
    )


def _number(connection: apsw.Connection, statement: str, values: tuple[float, ...] = ()) -> int:
    (number,) = cast("tuple[int]", connection.execute(statement, values).fetchone())
    return number


def facts(connection: apsw.Connection) -> dict[str, str]:
    """What the store knows of itself."""
    return {str(name): str(value) for name, value in connection.execute(sql.FACTS)}


# -- what is old; each of these is done in the transaction of the one who calls, and answers whether there may be more


def remove_runs(connection: apsw.Connection, days: float) -> tuple[int, bool]:
    """Remove some of the runs that ended so long ago, with all that belongs to them; answers how many."""
    ended = _old_runs(connection, sql.OLD_RUNS, _before_of_runs(days))
    for run_id, _ in ended:
        for table in sql.OF_A_RUN:
            connection.execute(sql.remove(table), (run_id,))
    return len(ended), bool(ended)


def count_runs(connection: apsw.Connection, days: float) -> int:
    """How many runs ``remove_runs`` would remove in the end."""
    return _number(connection, sql.COUNT_OLD_RUNS, _before_of_runs(days))


def count_unsent(connection: apsw.Connection, days: float) -> int:
    """How many runs ``remove_runs`` leaves because of their spans."""
    return _number(connection, sql.COUNT_UNSENT, _before_of_runs(days))


def drop_unsent(connection: apsw.Connection, days: float) -> tuple[int, bool]:
    """Let some of these runs wait for their spans no longer; answers how many."""
    connection.execute(sql.DROP_UNSENT, _before_of_runs(days))
    return connection.changes(), bool(connection.changes())


def remove_events(connection: apsw.Connection, days: float) -> tuple[int, bool]:
    """Remove the logs of some of the runs that ended so long ago; answers how many entries."""
    ended = _old_runs(connection, sql.OLD_LOGS, (time.time() - days * DAY_S,))
    removed = 0
    for run_id, _ in ended:
        for table in ("lines", "payloads", "records"):
            connection.execute(sql.remove(table), (run_id,))
        removed += connection.changes()
        connection.execute(sql.FORGET_LOG, (run_id,))
    return removed, bool(ended)


def remove_checkpoints(connection: apsw.Connection, days: float) -> tuple[int, bool]:
    """Remove some of the checkpoints that are older, of runs that have ended; answers how many."""
    connection.execute(sql.DROP_OLD_CHECKPOINTS, (time.time() - days * DAY_S, AT_ONCE))
    return connection.changes(), connection.changes() == AT_ONCE


def remove_timers(connection: apsw.Connection, days: float) -> tuple[int, bool]:
    """Remove some of the timers that fired or were cancelled so long ago; answers how many."""
    before = time.time() - days * DAY_S
    connection.execute(sql.DROP_OLD_TIMERS, (before, before, AT_ONCE))
    return connection.changes(), connection.changes() == AT_ONCE


def _before_of_runs(days: float) -> tuple[float, float]:
    before = time.time() - days * DAY_S
    return before, min(before, time.time() - KEY_KEPT_S)


def _old_runs(connection: apsw.Connection, statement: str, values: tuple[float, ...]) -> list[tuple[str, int]]:
    """The oldest few, with the lengths of their logs; at least one when there is one."""
    found: list[tuple[str, int]] = []
    entries = 0
    for run_id, count in connection.execute(statement, values):
        if found and entries + cast("int", count) > AT_ONCE:
            break
        found.append((str(run_id), cast("int", count)))
        entries += cast("int", count)
    return found


# -- the whole file, on connections of their own


def backup(connect: Callable[[], apsw.Connection], target: Path, retrying: Callable[[Callable[[], object]], object]) -> int:
    """Write a copy to a new file that appears only when it is whole; answers its size."""
    target = target.expanduser().absolute()
    if target.exists():
        raise ConfigError(f"There is a file {target} already.", "Name a new one; a backup never takes the place of a file.")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise ConfigError(
            f"{target} cannot be written: {error.strerror}.", "Name a file in a folder that can be written."
        ) from error
    try:
        connection = connect()
        try:
            _say_how_far(connection, "in_backup")
            retrying(lambda: connection.execute("VACUUM INTO ?", (str(partial),)))
        finally:
            connection.close()
        _mark_copy(partial)
        descriptor = os.open(partial, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.link(partial, target)  # unlike a rename, it never takes the place of a file that has come meanwhile
        _synchronise(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return target.stat().st_size


def _mark_copy(path: Path) -> None:
    """A copy is another store: it has a generation of its own, and says so when it is first used."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        with connection:
            for name, value in (("generation", uuid.uuid4().hex), ("copied_at", repr(time.time()))):
                connection.execute(sql.SET_FACT, (name, value))
    finally:
        connection.close()


def _synchronise(folder: Path) -> None:
    with suppress(OSError):  # not every system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def vacuum(connection: apsw.Connection, retrying: Callable[[Callable[[], object]], object]) -> tuple[int, int]:
    """Write the file anew without what is free in it; answers its size before and after."""
    before = _size(connection)
    _say_how_far(connection, "in_vacuum")
    retrying(lambda: connection.execute("VACUUM"))
    connection.set_progress_handler(None)
    with suppress(apsw.BusyError, apsw.LockedError):  # somebody reads: the log is brought into the file another time
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    return before, _size(connection)


def _size(connection: apsw.Connection) -> int:
    pages, size = (int(str(connection.pragma(name))) for name in ("page_count", "page_size"))
    return pages * size


def _say_how_far(connection: apsw.Connection, point: str) -> None:
    """Pass a fault point again and again while a long statement runs."""

    def passing() -> bool:
        fault_point(point)
        return False

    connection.set_progress_handler(passing, 100)


def warning(known: Mapping[str, str]) -> str:
    """What to say of a store that is a copy; empty for one that is not, or that has been used since."""
    copied_at = known.get("copied_at")
    if not copied_at:
        return ""
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(float(copied_at)))
    return (
        f"this store is a backup made at {at}: what was done since then is not known here, and is done again, under the same"
        " idempotency keys, by runs that are resumed"
    )
