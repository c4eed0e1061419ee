"""Looking after the file: copies of it, room given back, what is old; and stores that can only be read."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import apsw
import attrs
import pytest
from treadle.errors import ConfigError, StoreUnavailableError
from treadle.ports import CancelRequest, Claim, Commit, Rows, RunQuery, RunStatus, SignalReceived
from treadle_sqlite import SqliteStore, _files, _queries, _upkeep, _worker
from writing import AT, new_run, numbers, write_records

HERE = Path(__file__).parent
KILLS = int(os.environ.get("TREADLE_UPKEEP_KILLS", "2"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store with a short log."""
    opened = SqliteStore(path=tmp_path / "runs.db")
    anyio.run(partial(write_records, opened, 3, []))
    yield opened
    opened.close()


async def add_ended(store: SqliteStore, run_id: str, days: float, entries: int = 1) -> None:
    """A run that ended so long ago."""
    new = new_run(run_id)
    await store.create(new)
    row = attrs.evolve(new.row, status=RunStatus.COMPLETED, ended_at=time.time() - days * 86_400)
    for seq in range(2, entries + 2):
        await store.commit(Commit(run_id, 1, seq, [SignalReceived(AT, "x", "x" * 500)], Rows(run=row)))


# -- copies


def test_a_backup_holds_all_that_was_acknowledged(store: SqliteStore, tmp_path: Path) -> None:
    """Also what stands in the log only; for the owner alone; nothing else is left in the folder."""
    target = tmp_path / "copies" / "backup.db"
    target.parent.mkdir()

    size = anyio.run(store.backup, target)

    assert numbers(target) == [1, 2, 3, 4]
    assert size > 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert {file.name for file in target.parent.iterdir()} <= {"backup.db", "backup.db-wal", "backup.db-shm"}


def test_a_backup_never_takes_the_place_of_a_file(store: SqliteStore, tmp_path: Path) -> None:
    """An old backup, or the store itself, is not written over; a folder that is not there is an error that says so."""
    (tmp_path / "old.db").write_text("precious")
    for target in (tmp_path / "old.db", store.path):
        with pytest.raises(ConfigError, match="already"):
            anyio.run(store.backup, target)
    with pytest.raises(ConfigError, match="cannot be written"):
        anyio.run(store.backup, tmp_path / "nowhere" / "backup.db")

    assert (tmp_path / "old.db").read_text() == "precious"
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith("runs.db")) == ["old.db"]


def test_a_backup_can_be_made_while_runs_go_on(store: SqliteStore, tmp_path: Path) -> None:
    """Writers do not wait for it, and what it holds is one moment of the store."""

    async def main() -> list[int]:
        kept: list[int] = []
        await store.create(new_run("busy"))

        async def write() -> None:
            for seq in range(2, 300):
                await store.commit(Commit("busy", 1, seq, [SignalReceived(AT, "x", "x" * 900)], Rows()))
                kept.append(seq)

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            await anyio.sleep(0.05)
            begun = len(kept)
            await store.backup(tmp_path / "backup.db")
        return [begun, len(kept)]

    begun, ended = anyio.run(main)
    held = numbers(tmp_path / "backup.db", "busy")

    assert held == list(range(1, len(held) + 1))
    assert begun < len(held) <= ended + 1


def test_a_copy_is_another_store_and_says_so_once(store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It has a generation of its own; the first use warns that what was done since is not known in it (W8)."""
    anyio.run(store.backup, tmp_path / "backup.db")
    generations = [anyio.run(store.stats).generation]
    with caplog.at_level(logging.WARNING, "treadle.sqlite"):
        for _ in range(2):
            copy = SqliteStore(path=tmp_path / "backup.db")
            generations.append(anyio.run(copy.stats).generation)
            copy.close()

    assert generations[1] == generations[2] != generations[0]
    told = [record.getMessage() for record in caplog.records if "backup made at" in record.getMessage()]
    assert len(told) == 1
    assert "same idempotency keys" in told[0]


# -- being killed

UPKEEP = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import anyio
from pathlib import Path
from treadle_sqlite import SqliteStore, _schema
path, what = Path(sys.argv[1]), sys.argv[2]
if what == "migrate":
    # What a later version may bring: more tables, all rows written anew, another index.
    _schema.MIGRATIONS += (
        "CREATE TABLE later (run_id TEXT, seq INTEGER, body BLOB); INSERT INTO later SELECT run_id, seq, body FROM records",
        "CREATE INDEX later_run ON later (run_id, seq); ALTER TABLE runs ADD COLUMN later TEXT NOT NULL DEFAULT ''",
        "UPDATE runs SET later = workflow; DROP TABLE later",
    )
    _schema.VERSION += 3
store = SqliteStore(path=path)
if what == "backup":
    anyio.run(store.backup, path.with_name("backup.db"))
elif what == "clean":
    anyio.run(store.clean, 1.0)
else:
    anyio.run(getattr(store, what))
store.close()
print("done")
"""


@pytest.mark.parametrize("what", ["migrate", "vacuum", "backup", "clean"])
def test_upkeep_survives_being_killed(tmp_path: Path, what: str) -> None:
    """Killed anywhere in between, each is done or not: the store is whole, and the next attempt succeeds (fault 4, S1-74)."""
    points = {"migrate": "in_migration", "vacuum": "in_vacuum", "backup": "in_backup", "clean": "in_transaction"}
    chance = random.Random(what)
    kills = 0
    for trial in range(KILLS):
        path = tmp_path / f"{trial}" / "runs.db"
        path.parent.mkdir()
        store = SqliteStore(path=path, durability="normal")

        async def fill(store: SqliteStore = store) -> None:
            for number in range(6):
                await add_ended(store, f"ended{number}", 2, 8)
            await write_records(store, 40, [])

        anyio.run(fill)
        store.close()
        most = {"migrate": 3, "vacuum": 6, "backup": 6, "clean": 1}[what]
        fault = f"{points[what]}:{1 + trial % most}"
        command = [sys.executable, "-c", UPKEEP, str(path), what]
        environ = os.environ | ({"TREADLE_FAULTS": fault} if trial % 4 < 3 else {})
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        try:
            process.wait(60 if trial % 4 < 3 else chance.uniform(0.2, 0.5))
        except subprocess.TimeoutExpired:
            process.kill()
        kills += process.wait() == -signal.SIGKILL

        assert numbers(path) == list(range(1, 42)) if what != "migrate" else True
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if what == "backup" and "already" in done.stderr:
            assert numbers(path.with_name("backup.db")) == list(range(1, 42))
        else:
            assert done.stdout == "done\n", done.stderr
        connection = apsw.Connection(str(path))
        assert connection.pragma("integrity_check") == "ok"
        (count,) = connection.execute("SELECT count(*) FROM records WHERE run_id = 'r'").fetchone() or (0,)
        assert count == 41
        if what == "migrate":
            assert connection.pragma("user_version") == 4
            assert list(connection.execute("SELECT DISTINCT later FROM runs")) == [("w",)]
        connection.close()
    assert kills >= KILLS // 2


# -- room


def test_vacuum_gives_room_back_and_the_store_goes_on(store: SqliteStore) -> None:
    """What removed runs have left is given to the disk, while the store is open; nothing else changes."""

    async def main() -> tuple[int, int]:
        for number in range(20):
            await add_ended(store, f"ended{number}", 40, 60)
        assert await store.clean(30) == 20
        sizes = await store.vacuum()
        await store.commit(Commit("r", 1, 5, [SignalReceived(AT, "after")], Rows()))
        return sizes

    before, after = anyio.run(main)

    assert after < before / 2
    assert [record.seq for record in anyio.run(store.read, "r")] == [1, 2, 3, 4, 5]


def test_much_is_removed_in_portions(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write between two portions; a run goes whole, however long its log is."""
    monkeypatch.setattr(_upkeep, "AT_ONCE", 25)
    commits: list[int] = []
    commit = _worker.Writer._commit
    monkeypatch.setattr(_worker.Writer, "_commit", lambda self, *args: commits.append(1) or commit(self, *args))

    async def main() -> None:
        for number, length in enumerate((5, 5, 60, 5, 20)):
            await add_ended(store, f"ended{number}", 40, length)
        commits.clear()
        assert await store.clean(30) == 5

    anyio.run(main)

    assert len(commits) == 5  # 2 runs, the long one, the next, the last, and the one that finds none
    assert numbers(store.path) == [1, 2, 3, 4]


def test_what_is_too_old_goes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``keep_days`` a store removes old runs when it is opened, and later when it is idle; others stay."""
    monkeypatch.setattr(_worker, "_IDLE_S", 0.05)
    path = tmp_path / "runs.db"
    keeps_all = SqliteStore(path=path)
    anyio.run(add_ended, keeps_all, "old1", 40)
    anyio.run(add_ended, keeps_all, "new", 20)
    keeps_all.close()
    store = SqliteStore(path=path, keep_days=30)

    def left() -> list[str]:
        return sorted(row.run_id for row in anyio.run(store.runs, RunQuery()).runs)

    assert left() == ["new"]
    anyio.run(add_ended, store, "old2", 40)
    deadline = time.monotonic() + 60
    while left() != ["new"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    store.close()
    with pytest.raises(ValueError, match="keep_days"):
        SqliteStore(keep_days=-1)


def test_every_table_that_knows_runs_is_cleaned(store: SqliteStore) -> None:
    """A table with a column for the run stands in the list of those that a removed run is removed from, and is counted."""
    connection = apsw.Connection(str(store.path))
    found = {}
    for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"):
        columns = {str(row[1]) for row in connection.execute(f"PRAGMA table_xinfo({table})")}
        found[table] = columns & {"run_id", "workflow_execution_id"}
    connection.close()

    assert {table for table, columns in found.items() if columns} == set(_queries.OF_A_RUN)
    assert set(_queries.TABLES) == set(_queries.OF_A_RUN)
    assert _queries.OF_A_RUN[-1] == "runs"


@pytest.mark.parametrize("statement", [*map(_queries.remove, _queries.OF_A_RUN), *map(_queries.count, _queries.TABLES)])
def test_upkeep_uses_indexes(store: SqliteStore, statement: str) -> None:
    """Neither removing a run nor counting rows walks a table (S1-54)."""
    connection = apsw.Connection(str(store.path))
    values = tuple(0 for _ in re.findall(r"\?", statement))
    plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    connection.close()

    assert not [line for line in plan if line.startswith("SCAN") and "USING" not in line], plan


# -- only to be read


READS = f"""
import os, sys
sys.path.insert(0, {str(HERE)!r})
import anyio, tempfile
from treadle.errors import StoreUnavailableError
from treadle.ports import CancelRequest, RunQuery
from treadle_sqlite import SqliteStore
from writing import numbers, write_records
with tempfile.TemporaryDirectory() as folder:  # so that all is imported that another user may not look for
    warm = SqliteStore(path=folder + "/runs.db")
    anyio.run(write_records, warm, 1, [])
    anyio.run(warm.read, "r")
    warm.close()
tempfile.tempdir = sys.argv[2]
if sys.argv[3] == "nobody":
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
store = SqliteStore(path=sys.argv[1])
print([record.seq for record in anyio.run(store.read, "r")], len(anyio.run(store.runs, RunQuery()).runs))
try:
    anyio.run(store.request_cancel, "r", CancelRequest("enough"))
except StoreUnavailableError as error:
    print(error)
store.close()
print(os.listdir(sys.argv[2]))
"""
IS_ROOT = os.geteuid() == 0
CAN_MOUNT = IS_ROOT and subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode == 0


def sums(folder: Path) -> str:
    """What file and log hold; by another process, as it has to be."""
    names = sorted(file.name for file in folder.iterdir() if not file.name.endswith("-shm"))
    return subprocess.run(["sha256sum", *names], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    "why",
    [
        pytest.param("nobody", marks=pytest.mark.skipif(not IS_ROOT, reason="only root may become another user")),
        pytest.param("medium", marks=pytest.mark.skipif(not CAN_MOUNT, reason="no mounts of its own here")),
    ],
)
def test_a_store_that_may_not_be_written_can_be_read(why: str, *, is_open: bool) -> None:
    """All of it, also what stands in its log only; a write says why not and what to do; the store is not touched (fault 6)."""
    with tempfile.TemporaryDirectory() as name:  # where another user may look
        base = Path(name)
        folder, temporary = base / "state", base / "temporary"
        folder.mkdir()
        temporary.mkdir()
        store = SqliteStore(path=folder / "runs.db")
        anyio.run(partial(write_records, store, 3, []))
        if not is_open:
            store.close()
        temporary.chmod(0o777)
        for place, mode in ((base, 0o755), (folder, 0o755), *((file, 0o644) for file in folder.iterdir())):
            place.chmod(mode)
        before = sums(folder)
        command = [sys.executable, "-c", READS, str(store.path), str(temporary), why]
        if why == "medium":
            mount = f'mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", mount, "sh", *command]
        shown = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/")
        after = sums(folder)
        store.close()

    assert shown.stdout.startswith("[1, 2, 3, 4] 1\n"), shown.stderr
    reason = "is on a medium that cannot be written" if why == "medium" else "may not be written"
    assert f"can only be read: {store.path} {reason}" in shown.stdout
    assert "Make the file and its folder writable" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "[]"
    assert after == before


def test_a_store_that_cannot_be_written_is_read_from_a_copy(
    tmp_path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as seen by anybody: reads work, writes are refused, and the copy is gone when the store is closed."""
    store.close()
    os.chmod(store.path, 0o400)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(_files.os, "access", lambda path, mode: mode != os.W_OK)
    only_read = SqliteStore(path=store.path)

    assert [record.seq for record in anyio.run(only_read.read, "r")] == [1, 2, 3, 4]
    assert only_read.cancel_request("r") is None
    assert anyio.run(only_read.stats).where == str(store.path)
    with pytest.raises(StoreUnavailableError, match="can only be read"):
        anyio.run(only_read.request_cancel, "r", CancelRequest("enough"))
    with pytest.raises(StoreUnavailableError, match="can only be read"):
        only_read.beat(Claim("r", "host:1@x", 1))
    assert len(list(temporary.iterdir())) == 1
    only_read.close()
    assert list(temporary.iterdir()) == []


def test_a_log_that_begins_anew_while_it_is_copied_is_copied_again(
    tmp_path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a file of one moment with a log of another; one that changes all the time is an error that says so."""
    heads = [b"1", b"2", b"2", b"2"]
    monkeypatch.setattr(_files, "_log_head", lambda log: heads.pop(0))
    copy = _files.copy_to_read(store.path)
    assert heads == []
    assert numbers(copy) == [1, 2, 3, 4]
    heads += [b"%d" % number for number in range(20)]
    with pytest.raises(StoreUnavailableError, match="changes all the time"):
        _files.copy_to_read(store.path)


# -- what others do to it


@pytest.mark.parametrize("how", ["sqlite3", "open"])
def test_what_else_opens_the_file_is_told(
    store: SqliteStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Python's sqlite3, or any ``open()`` of it in this process, is warned of once, with where it happened."""
    monkeypatch.setattr(_files.watch, "_told", set())
    with caplog.at_level(logging.WARNING, "treadle.sqlite"):
        for _ in range(2):
            if how == "sqlite3":
                sqlite3.connect(store.path).close()
            else:
                store.path.open("rb").close()

    (told,) = [record for record in caplog.records if "keeps runs in" in record.getMessage()]
    assert {"sqlite3": "Python's sqlite3", "open": "open()"}[how] in told.getMessage()
    assert "test_what_else_opens_the_file_is_told" in str(told.stack_info)


def test_a_log_that_cannot_be_brought_in_is_told(
    store: SqliteStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that never ends makes the write-ahead log grow: over 64 MiB (here less) it is complained of, once."""
    assert _worker.MOST_LOG_BYTES == 64 * 1024 * 1024
    monkeypatch.setattr(_worker, "MOST_LOG_BYTES", 100_000)
    monkeypatch.setattr(_worker, "CHECKPOINT_PAGES", 20)
    reader = apsw.Connection(str(store.path))
    reader.execute("BEGIN; SELECT count(*) FROM runs")

    async def main() -> None:
        for seq in range(5, 60):
            await store.commit(Commit("r", 1, seq, [SignalReceived(AT, "x", "x" * 3000)], Rows()))

    with caplog.at_level(logging.WARNING, "treadle.sqlite"):
        anyio.run(main)
        anyio.run(store.run, "r")
    reader.close()

    (told,) = [record.getMessage() for record in caplog.records if "has grown to" in record.getMessage()]
    assert "runs.db-wal" in told


def test_the_readme_names_every_table() -> None:
    """Whoever looks into the file finds each table and view in the README."""
    readme = (HERE.parent / "README.md").read_text("utf-8")

    assert [table for table in (*_queries.TABLES, "active_tasks", "pending_timers") if f"`{table}`" not in readme] == []
