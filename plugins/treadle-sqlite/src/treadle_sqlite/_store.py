"""The store: treadle's port, on one SQLite file."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar, cast

import apsw
import attrs
from anyio import to_thread
from treadle.errors import RunEndedError, RunKeyConflictError, RunNotFoundError, StoreUnavailableError
from treadle.ports import (
    EXPORT_TABLE,
    LINE_TABLE,
    RUN_TABLE,
    SPAN_TABLE,
    STEP_TABLE,
    TIMER_TABLE,
    BeatRow,
    CancelRequest,
    Checkpoint,
    CheckpointRow,
    CheckpointStatistics,
    Claim,
    Commit,
    Creation,
    EntryColumns,
    LineQuery,
    LogLine,
    NewRun,
    ProcessRow,
    Record,
    Rows,
    RunPage,
    RunQuery,
    RunRow,
    Signal,
    SlotRequest,
    SlotRow,
    SpanExport,
    SpanRow,
    StepRow,
    StoreStats,
    TimerRow,
    dump_value,
    item_number,
    item_of,
    lease_lost,
    out_of_place,
    owned_elsewhere,
    pack,
    pack_entries,
    unpack,
    unpack_entry,
)

from treadle_sqlite import _queries as sql
from treadle_sqlite import _upkeep as upkeep
from treadle_sqlite._files import Guard, copy_to_read, default_path, prepare, watch, why_read_only
from treadle_sqlite._schema import AUDIT_INDEXES, VERSION, migrate, version_of
from treadle_sqlite._worker import Worker, Writer, begin, retrying

T = TypeVar("T")

_WRITES = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
_PRAGMAS = (
    "foreign_keys = ON",
    "wal_autocheckpoint = 0",
    "journal_size_limit = 67108864",
    "mmap_size = 0",
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "fullfsync = ON",
    "checkpoint_fullfsync = ON",
)
"""How the connection that writes is set, beside journal and durability."""

_log = logging.getLogger("treadle.sqlite")

_CLEANED_EVERY_S = 3600.0

_SMALL = 64 * 1024
"""A commit of less is written in no time; how long it takes is up to the disk."""

_APART = 2
"""Added to the encoding of a value that is kept in a table of its own."""

_KEYS, _ISSUES = (SPAN_TABLE.columns.index(name) for name in ("output_keys", "validation_issues"))
"""The columns that hold several texts, as JSON."""


class SqliteStore:
    """Keeps runs in one SQLite file on this machine; several processes may share it.

    Args:
        path: The file; in the user's state directory when empty.
        durability: ``full``: what was acknowledged survives power cuts. ``normal``: it survives the end of the process, but a
            power cut may take the last moments; never more than a tail, and never the file.
        timeout_s: How long to wait while another process holds the file.
        allow_network: Also use a file on a network file system, where SQLite may lose data.
        keep_days: Remove runs that ended longer ago, by and by, when nothing else is to be done; 0 keeps them for ever.
        audit_indexes: Also index the log by path, phase, kind and time, for whoever asks it across runs with SQL; every commit
            waits for them. Once made they stay.
    """

    name = "sqlite"
    is_durable = True
    wants_rows = True

    def __init__(
        self,
        path: str | Path = "",
        durability: Literal["full", "normal"] = "full",
        timeout_s: float = 30.0,
        allow_network: bool = False,
        keep_days: float = 0,
        audit_indexes: bool = False,
    ) -> None:
        if durability not in ("full", "normal"):
            raise ValueError(f"durability is 'full' or 'normal', not {durability!r}")
        if not keep_days >= 0:
            raise ValueError(f"keep_days is 0 or more, not {keep_days!r}")
        self.path = Path(path).expanduser().absolute() if str(path) else default_path()
        self._durability, self._timeout_s, self._allow_network = durability, timeout_s, allow_network
        self._keep_days, self._audit_indexes = keep_days, audit_indexes
        self._guard = Guard(self.path)
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._reader: Worker | None = None
        self._copy: Path | None = None
        self._is_closed = False
        self._format_before = 0
        self._boot = _boot_id()

    # -- writing

    async def create(self, new: NewRun) -> Creation:
        """Keep a new run with its first entries."""
        entries = pack_entries(new.first)
        row = new.row

        def work(connection: apsw.Connection) -> Creation:
            found = connection.execute(sql.FIND_KEY, (row.key,)).fetchone() if row.key else None
            if found is not None:
                known, fingerprint = cast("tuple[str, str]", found)
                if fingerprint != new.fingerprint:
                    raise RunKeyConflictError(row.key, known)
                return Creation(known, None)
            now = time.time()
            values = (new.fingerprint, len(new.first.entries), new.owner, now, now, self._until(new.lease_s), self._boot)
            _put(connection, sql.CREATE_RUN, (*RUN_TABLE.values(row), *values))
            _add_entries(connection, row.run_id, entries)
            _put_rows(connection, row.run_id, new.first.rows or Rows(), has_run=False)
            return Creation(row.run_id, Claim(row.run_id, new.owner, 1, new.lease_s))

        return await self._write().ask(work)

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> Claim:
        """Take a run over."""

        def work(connection: apsw.Connection) -> Claim:
            current, _, claimed_at, until, boot, _ = self._ownership(connection, run_id)
            if current and boot == self._boot and _monotonic() < until and not is_gone(current):
                raise owned_elsewhere(run_id, current, claimed_at)
            now = time.time()
            values = (owner, now, now, self._until(lease_s), self._boot, run_id)
            (epoch,) = cast("tuple[int]", connection.execute(sql.TAKE, values).fetchone())
            return Claim(run_id, owner, epoch, lease_s, current)

        return await self._write().ask(work)

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        """Let go of a run."""

        def work(connection: apsw.Connection) -> None:
            connection.execute(sql.LET_GO, (claim.run_id, claim.epoch))
            if connection.changes() and rows is not None:
                _put_rows(connection, claim.run_id, rows)

        await self._write().ask(work)

    async def commit(self, commit: Commit) -> None:
        """Append to a run's log, with the rows that it changes."""
        entries = pack_entries(commit)
        before = commit.seq - 1
        after = before + len(commit.entries)
        rows = commit.rows

        def work(connection: apsw.Connection) -> None:
            connection.execute(sql.ADVANCE, (after, commit.run_id, commit.epoch, before))
            if not connection.changes():
                raise self._refusal(connection, commit)
            _add_entries(connection, commit.run_id, entries)
            if rows is not None:
                _put_rows(connection, commit.run_id, rows)

        writer = self._write()
        is_small = commit.is_alone and sum([entry.packed.size for entry in entries]) < _SMALL
        done = writer.try_here(work, commit.run_id) if is_small else None
        if done is None:
            await writer.ask(work)
        else:
            done.result()

    def _refusal(self, connection: apsw.Connection, commit: Commit) -> Exception:
        """Why a commit changes nothing."""
        owner, epoch, claimed_at, _, _, count = self._ownership(connection, commit.run_id)
        if epoch != commit.epoch:
            return lease_lost(commit.run_id, owner, claimed_at)
        return out_of_place(commit, count)

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Keep how far an attempt got."""
        what = f"The checkpoint of step {checkpoint.path!r} of run {claim.run_id}"
        packed = pack(dump_value(checkpoint.data), what)
        place = (claim.run_id, checkpoint.path, item_number(checkpoint.index), checkpoint.variant, checkpoint.token)
        values = (*packed, claim.epoch, checkpoint.seq, checkpoint.saved_at)

        def work(connection: apsw.Connection) -> None:
            self._hold(connection, claim)
            _put(connection, sql.SAVE_CHECKPOINT, (*place, *values))

        await self._write().ask(work)

    async def send_signal(self, run_id: str, signal: Signal) -> None:
        """Keep a signal for whoever drives the run."""
        packed = pack(dump_value(signal.payload), f"The payload of the signal {signal.name!r} for run {run_id}")
        values = (run_id, signal.signal_id, signal.name, packed.encoding, packed.body, signal.sent_at, signal.due, run_id)

        def work(connection: apsw.Connection) -> None:
            found = cast("tuple[str, float | None] | None", connection.execute(sql.ENDING, (run_id,)).fetchone())
            if found is None:
                raise RunNotFoundError(run_id)
            if found[1] is not None:
                raise RunEndedError(run_id, found[0])
            _put(connection, sql.SEND_SIGNAL, values)

        await self._write().ask(work)

    async def keep_process(self, claim: Claim, process: ProcessRow) -> None:
        """Keep which process a step has started."""
        await self._change_process(claim, sql.KEEP_PROCESS, process)

    async def drop_process(self, claim: Claim, process: ProcessRow) -> None:
        """Forget a process that has ended."""
        await self._change_process(claim, sql.DROP_PROCESS, process)

    async def _change_process(self, claim: Claim, statement: str, process: ProcessRow) -> None:
        place = (claim.run_id, process.path, item_number(process.index))
        values = (*place, process.pid, process.started, process.machine)

        def work(connection: apsw.Connection) -> None:
            self._hold(connection, claim)
            connection.execute(statement, values)

        await self._write().ask(work)

    async def request_cancel(self, run_id: str, request: CancelRequest) -> None:
        """Ask whoever drives the run to stop it."""

        def work(connection: apsw.Connection) -> None:
            self._ownership(connection, run_id)
            _put(connection, sql.REQUEST_CANCEL, (request.reason, request.force, run_id, request.force))

        await self._write().ask(work)

    def keep_lines(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Keep what executors logged."""
        values = [cast("tuple[apsw.SQLiteValue, ...]", (*LINE_TABLE.values(line), run_id)) for line in lines]

        def work(connection: apsw.Connection) -> None:
            self._ownership(connection, run_id)
            connection.executemany(sql.KEEP_LINE, values)

        self._write().ask_here(work)

    async def take_slots(self, claim: Claim, requests: Sequence[SlotRequest], is_gone: Callable[[str], bool]) -> frozenset[str]:
        """Ask for slots."""

        def work(connection: apsw.Connection) -> frozenset[str]:
            self._hold(connection, claim)
            return frozenset({request.holder for request in requests if self._take_slot(connection, claim, request, is_gone)})

        return await self._write().ask(work)

    def _take_slot(
        self, connection: apsw.Connection, claim: Claim, request: SlotRequest, is_gone: Callable[[str], bool]
    ) -> bool:
        group, mine = request.group, (claim.run_id, request.holder)
        connection.execute(sql.DROP_DEAD_SLOTS, (group, self._boot, _monotonic()))
        connection.execute(sql.ASK_SLOT, (group, *mine, claim.epoch, request.priority))
        while True:
            line = cast("list[tuple[str, str, int, str]]", connection.execute(sql.SLOT_LINE, (group,)).fetchall())
            given = {(run_id, holder) for run_id, holder, is_held, _ in line if is_held}
            if mine in given:
                return True
            waiting = [(run_id, holder) for run_id, holder, is_held, _ in line if not is_held]
            if mine in waiting[: max(0, request.limit - len(given))]:
                connection.execute(sql.GIVE_SLOT, (*mine, group))
                return True
            gone = {run_id for run_id, _, _, owner in line if run_id != claim.run_id and is_gone(owner)}
            if not gone:
                return False
            connection.executemany(sql.DROP_SLOTS_OF, [(group, run_id) for run_id in gone])

    async def free_slots(self, claim: Claim, holders: Sequence[str]) -> None:
        """Give slots back, or leave the line."""
        values = [(claim.run_id, holder, claim.epoch) for holder in holders]

        def work(connection: apsw.Connection) -> None:
            connection.executemany(sql.FREE_SLOT, values)

        await self._write().ask(work)

    # -- for the owner's heart

    def beat(self, claim: Claim, steps: Sequence[BeatRow] = ()) -> None:
        """Say that the owner lives."""

        def work(connection: apsw.Connection) -> None:
            values = (time.time(), self._until(claim.lease_s), self._boot, claim.run_id, claim.epoch)
            connection.execute(sql.BEAT, values)
            if not connection.changes():
                self._hold(connection, claim)
            for row in steps:
                connection.execute(sql.ADD_HEARTBEAT, (claim.run_id, row.path, item_number(row.index), row.attempt, row.at))

        self._write().ask_here(work)

    def cancel_request(self, run_id: str) -> CancelRequest | None:
        """What ``request_cancel`` left."""

        def work(connection: apsw.Connection) -> CancelRequest | None:
            if self._copy is None:
                self._guard.check()  # the owner asks twice in a second: so it hears soon that its files have gone
            found = cast("tuple[str | None, int] | None", connection.execute(sql.CANCEL_REQUEST, (run_id,)).fetchone())
            return None if found is None or found[0] is None else CancelRequest(found[0], bool(found[1]))

        return self._read().ask_here(work)

    def signals(self, run_id: str, after: int) -> Sequence[Signal]:
        """What ``send_signal`` kept with a number over ``after``."""
        rows = self._read().ask_here(lambda connection: _fetch(connection, sql.SIGNALS, (run_id, after)))
        return [_signal(*row) for row in rows]  # type: ignore[arg-type]  # the columns in order

    # -- reading

    async def read(self, run_id: str, after: int = 0) -> Sequence[Record]:
        """The log of a run; empty when there is none."""
        rows = cast("list[tuple[int, int, bytes]]", await self._all(sql.READ, (run_id, after)))
        return [Record(run_id, seq, unpack_entry(run_id, seq, encoding, body)) for seq, encoding, body in rows]

    async def run(self, run_id: str) -> RunRow | None:
        """A run's row."""
        rows = await self._all(sql.RUN, (run_id,))
        return RUN_TABLE.row(rows[0]) if rows else None

    async def runs(self, query: RunQuery) -> RunPage:
        """Runs, the newest first."""
        filters = query.filters()
        if "orphaned" in filters:
            filters["orphaned"] = (self._boot, _monotonic())
        values = (*chain.from_iterable(filters.values()), query.limit + 1)
        return RunPage.of([RUN_TABLE.row(row) for row in await self._all(sql.runs(filters), values)], query.limit)

    async def steps(self, run_id: str) -> Sequence[StepRow]:
        """The steps of a run and their items."""
        return [STEP_TABLE.row(row) for row in await self._all(sql.STEPS, (run_id,))]

    async def timers(self, run_id: str) -> Sequence[TimerRow]:
        """The timers of a run, by due time."""
        return [TIMER_TABLE.row(row) for row in await self._all(sql.TIMERS, (run_id,))]

    async def pending_timers(self, *, until: float | None = None, limit: int = 100) -> Sequence[TimerRow]:
        """Timers of all runs that have not fired, by due time."""
        latest = 1e300 if until is None else until
        return [TIMER_TABLE.row(row) for row in await self._all(sql.DUE_TIMERS, (latest, limit))]

    async def slots(self, group: str = "") -> Sequence[SlotRow]:
        """Slots that are held or waited for."""
        alive = (self._boot, _monotonic())
        rows = await (self._all(sql.SLOTS, (group, *alive)) if group else self._all(sql.ALL_SLOTS, alive))
        return [SlotRow(*row[:4], bool(row[4])) for row in rows]  # type: ignore[call-arg,arg-type]  # the columns in order

    async def spans(self, run_id: str) -> Sequence[SpanRow]:
        """The executions of a run, by start."""
        return [_span_row(row) for row in await self._all(sql.SPANS, (run_id,))]

    async def lines(self, query: LineQuery) -> Sequence[LogLine]:
        """What executors logged, in the order in which it was kept."""
        filters = query.filters()
        values = (query.run_id, query.after, query.level, *chain(*filters.values()), query.limit)
        return [LINE_TABLE.row(row) for row in await self._all(sql.lines(filters), values)]

    async def load(self, run_id: str, path: str, index: int | None = None, variant: str = "primary") -> Checkpoint | None:
        """The checkpoint of a step or item."""
        rows = await self._all(sql.CHECKPOINT, (run_id, path, item_number(index), variant))
        if not rows:
            return None
        path, item, variant, token, encoding, data, seq, saved_at = cast(
            "tuple[str, int, str, str, int, bytes, int, float]", rows[0]
        )
        return Checkpoint(path, item_of(item), variant, token, json.loads(unpack(encoding, data)), seq, saved_at)

    async def checkpoints(self, run_id: str) -> Sequence[CheckpointRow]:
        """The checkpoints of a run."""
        rows = await self._all(sql.CHECKPOINTS, (run_id,))
        return [CheckpointRow(path, item_of(index), *rest) for path, index, *rest in rows]  # type: ignore[arg-type]  # in order

    async def checkpoint_statistics(self) -> CheckpointStatistics:
        """How much room the checkpoints of all runs take."""
        (row,) = await self._all(sql.CHECKPOINT_STATISTICS, ())
        return CheckpointStatistics(*cast("tuple[int, int]", row))

    async def processes(self, run_id: str) -> Sequence[ProcessRow]:
        """The processes that steps of a run have started."""
        rows = await self._all(sql.PROCESSES, (run_id,))
        return [ProcessRow(path, item_of(index), *rest) for path, index, *rest in rows]  # type: ignore[arg-type]  # in order

    async def heartbeats(self, run_id: str) -> Sequence[BeatRow]:
        """What steps of a run said of themselves."""
        rows = await self._all(sql.HEARTBEATS, (run_id,))
        return [BeatRow(path, item_of(index), *rest) for path, index, *rest in rows]  # type: ignore[arg-type]  # in order

    # -- spans that are to be exported

    async def open_spans(self, run_id: str, seq: int | None = None) -> SpanExport:
        """Note that a run's spans are to be exported."""

        def work(connection: apsw.Connection) -> SpanExport:
            connection.execute(sql.OPEN_SPANS, (time.time(), run_id))
            if seq is not None:
                connection.execute(sql.BEGIN_SPANS_AT, (seq, run_id))
            row = connection.execute(sql.EXPORT, (run_id,)).fetchone()
            if row is None:
                raise RunNotFoundError(run_id)
            return self._export(row)

        return await self._write().ask(work)

    async def put_spans(self, exports: Sequence[SpanExport]) -> None:
        """Note how far some exports are."""

        def work(connection: apsw.Connection) -> None:
            for export in exports:
                _put(connection, sql.PUT_SPANS, (*EXPORT_TABLE.values(export)[1:], export.run_id, export.seq))

        await self._write().ask(work)

    async def span_exports(
        self, which: Literal["open", "refused"] = "open", *, run_id: str = "", limit: int = 1000
    ) -> Sequence[SpanExport]:
        """Exports, the oldest run first."""
        if run_id:
            rows = await self._all(sql.EXPORT, (run_id,))
        else:
            rows = await self._all(sql.OPEN_EXPORTS if which == "open" else sql.REFUSED_EXPORTS, (limit,))
        return [self._export(row) for row in rows]

    def _export(self, row: Sequence[object]) -> SpanExport:
        *values, owner, until, boot = row
        is_held = boot == self._boot and _monotonic() < cast("float", until)
        return EXPORT_TABLE.row((*values, owner if is_held else ""))

    async def lead(self, what: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> bool:
        """Whether ``owner`` is the one that does ``what`` for all."""

        def work(connection: apsw.Connection) -> bool:
            found = connection.execute(sql.FIND_LEAD, (what,)).fetchone()
            if found is not None:
                holder, until, boot = cast("tuple[str, float, str]", found)
                if holder != owner and boot == self._boot and _monotonic() < until and not is_gone(holder):
                    return False
            connection.execute(sql.LEAD, (what, owner, self._until(lease_s), self._boot))
            return True

        return await self._write().ask(work)

    def close(self) -> None:
        """Finish what was begun and let go of the file."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            writer, reader = self._writer, self._reader
        for worker in (reader, writer):
            if worker is not None:
                worker.close()
        if writer is not None and not was_closed:
            watch.end(self.path)
        if self._copy is not None:
            shutil.rmtree(self._copy.parent, ignore_errors=True)

    # -- upkeep

    async def stats(self) -> StoreStats:
        """What the store holds."""
        found = await self._read().ask(lambda connection: upkeep.stats(connection, self.path))
        return found if self._copy is None else attrs.evolve(found, where=str(self.path))

    async def migrate(self) -> tuple[int, int]:
        """Bring the file to this version; answers the formats before and after."""
        await self._write().ask(lambda _: None)
        return self._format_before, VERSION

    async def backup(self, path: Path) -> int:
        """Write a copy to a new file."""

        def work() -> int:
            return upkeep.backup(lambda: self._connect_beside(apsw.SQLITE_OPEN_READONLY), path, self._retrying)

        await self._read().ask(lambda _: None)  # the file is there, and is a store
        return await to_thread.run_sync(work)

    async def vacuum(self) -> tuple[int, int]:
        """Write the file anew without what is free in it; whoever writes meanwhile waits."""

        def work() -> tuple[int, int]:
            connection = self._connect_beside(apsw.SQLITE_OPEN_READWRITE)
            try:
                return upkeep.vacuum(connection, self._retrying)
            finally:
                connection.close()

        await self._write().ask(lambda _: None)
        return await to_thread.run_sync(work)

    async def clean(self, days: float, *, dry_run: bool = False) -> int:
        """Remove the runs that ended so long ago."""
        if dry_run:
            return await self._read().ask(lambda connection: upkeep.count_runs(connection, days))
        return await self._in_portions(upkeep.remove_runs, days)

    async def count_unsent(self, days: float) -> int:
        """How many runs are kept because their spans are still to be exported."""
        return await self._read().ask(lambda connection: upkeep.count_unsent(connection, days))

    async def drop_unsent(self, days: float) -> int:
        """Export no more of these runs."""
        return await self._in_portions(upkeep.drop_unsent, days)

    async def cleanup_old_events(self, days: float) -> int:
        """Remove the logs of runs that ended so long ago."""
        return await self._in_portions(upkeep.remove_events, days)

    async def cleanup_old_checkpoints(self, days: float) -> int:
        """Remove checkpoints that are so old, of runs that have ended."""
        return await self._in_portions(upkeep.remove_checkpoints, days)

    async def cleanup_fired_timers(self, days: float) -> int:
        """Remove timers that fired or were cancelled so long ago."""
        return await self._in_portions(upkeep.remove_timers, days)

    async def _in_portions(self, remove: Callable[[apsw.Connection, float], tuple[int, bool]], days: float) -> int:
        """Each portion is a job of its own, so that commits of runs come between them."""
        removed, has_more = 0, True
        while has_more:
            count, has_more = await self._write().ask(lambda connection: remove(connection, days))
            removed += count
        return removed

    def _clean_by_and_by(self, connection: apsw.Connection) -> float:
        _, has_more = upkeep.remove_runs(connection, self._keep_days)
        return 0.0 if has_more else _CLEANED_EVERY_S

    def _connect_beside(self, flags: int) -> apsw.Connection:
        """One more connection, for what takes long or cannot be part of a transaction."""
        connection = apsw.Connection(str(self._copy or self.path), flags=flags)
        connection.execute("PRAGMA trusted_schema = OFF; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0")
        return connection

    def _retrying(self, act: Callable[[], object]) -> None:
        retrying(act, self._timeout_s)

    # -- threads and connections

    def _write(self) -> Writer:
        if self._writer is None:
            with self._lock:
                self._refuse_closed()
                if self._writer is None:
                    chore = self._clean_by_and_by if self._keep_days else None
                    connect, check = self._open_writer, self._guard.check
                    stretches = self._durability == "full"
                    self._writer = Writer(
                        "treadle-sqlite-writer", str(self.path), connect, self._timeout_s, check, chore, stretches=stretches
                    )
        return self._writer

    def _read(self) -> Worker:
        if self._reader is None:
            # The writer makes the file and its tables.
            writer = self._write() if self._writer is not None or not why_read_only(self.path) else None
            with self._lock:
                self._refuse_closed()
                if self._reader is None:
                    self._reader = self._make_reader(writer) if writer is not None else self._make_reader_of_copy()
        return self._reader

    def _make_reader(self, writer: Writer) -> Worker:
        def connect(worker: Worker) -> apsw.Connection:
            writer.ask_here(lambda _: None)  # once it answers, the tables are there
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
            worker.retrying(
                lambda: connection.execute("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA mmap_size = 0")
            )
            return connection

        return Worker("treadle-sqlite-reader", str(self.path), connect, self._timeout_s)

    def _make_reader_of_copy(self) -> Worker:
        def connect(worker: Worker) -> apsw.Connection:
            self._copy = copy_to_read(self.path)
            connection = apsw.Connection(str(self._copy), flags=apsw.SQLITE_OPEN_READWRITE)
            if version_of(connection, str(self.path)):  # the tables of an empty file are nobody's wish
                migrate(connection, str(self.path), lambda: begin(connection, self._timeout_s))
            connection.execute("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA mmap_size = 0")
            return connection

        return Worker("treadle-sqlite-reader", str(self.path), connect, self._timeout_s)

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise StoreUnavailableError(f"Store {self.path} is closed.", "Open it anew.")

    def _open_writer(self, worker: Worker) -> apsw.Connection:
        prepare(self.path, may_be_remote=self._allow_network)
        watch.begin(self.path)
        connection = self._connect()
        writer = cast("Writer", worker)
        synchronous = "FULL" if self._durability == "full" else "NORMAL"
        # Timeouts are ours: SQLite's own waiting starves one process for seconds.
        for pragma in ("journal_mode = WAL", f"synchronous = {synchronous}", *_PRAGMAS):
            worker.retrying(lambda pragma=pragma: list(connection.execute(f"PRAGMA {pragma}")))  # type: ignore[misc]  # bound now
        self._format_before = migrate(connection, str(self.path), lambda: writer.begin(connection))
        if self._audit_indexes:
            writer.begin(connection)
            connection.execute(AUDIT_INDEXES)
            connection.execute("COMMIT")
        if told := upkeep.warning(upkeep.facts(connection)):
            _log.warning("%s: %s", self.path, told)
            writer.begin(connection)
            connection.execute(sql.DROP_FACT, ("copied_at",))
            connection.execute("COMMIT")
        if self._keep_days:  # a process that lives long goes on with it when it is idle
            writer.begin(connection)
            upkeep.remove_runs(connection, self._keep_days)
            connection.execute("COMMIT")
        self._guard.check()
        return connection

    def _connect(self) -> apsw.Connection:
        return apsw.Connection(str(self.path), flags=_WRITES)

    async def _all(self, statement: str, values: Sequence[object]) -> list[tuple[object, ...]]:
        bindings = cast("tuple[apsw.SQLiteValue, ...]", tuple(values))
        return await self._read().ask(lambda connection: _fetch(connection, statement, bindings))

    # -- ownership

    def _until(self, lease_s: float) -> float:
        return _monotonic() + lease_s

    def _ownership(self, connection: apsw.Connection, run_id: str) -> tuple[str, int, float, float, str, int]:
        found = connection.execute(sql.OWNERSHIP, (run_id,)).fetchone()
        if found is None:
            raise RunNotFoundError(run_id)
        return cast("tuple[str, int, float, float, str, int]", found)

    def _hold(self, connection: apsw.Connection, claim: Claim) -> None:
        owner, epoch, claimed_at, *_ = self._ownership(connection, claim.run_id)
        if epoch != claim.epoch:
            raise lease_lost(claim.run_id, owner, claimed_at)


def _fetch(connection: apsw.Connection, statement: str, values: tuple[apsw.SQLiteValue, ...]) -> list[tuple[object, ...]]:
    return list(connection.execute(statement, values))


def _monotonic() -> float:
    """Seconds since boot, also while the machine slept: a clock that nobody can set, and that all processes share."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


def _boot_id() -> str:
    """This boot of this machine: a lease of another one has ended with it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:  # not Linux: there leases are held against the wall clock
        return ""


# -- rows


def _add_entries(connection: apsw.Connection, run_id: str, entries: Sequence[EntryColumns]) -> None:
    rows = []
    for seq, at, kind, phase, path, packed in entries:
        encoding, body, _ = packed
        if packed.is_long:
            connection.execute(sql.ADD_PAYLOAD, (run_id, seq, body))
            encoding, body = encoding + _APART, b""
        rows.append((run_id, seq, at, kind, phase, path, encoding, body))
    _put_all(connection, sql.ADD_RECORD, rows)


def _put_rows(connection: apsw.Connection, run_id: str, rows: Rows, *, has_run: bool = True) -> None:
    if rows.run is not None and has_run:
        has_ended = rows.run.ended_at is not None
        _put(connection, sql.CHANGE_RUN, (*RUN_TABLE.values(rows.run)[1:], has_ended, has_ended, has_ended, run_id))
    _put_all(connection, sql.PUT_STEP, [STEP_TABLE.values(step) for step in rows.steps])
    _put_all(connection, sql.PUT_TIMER, [TIMER_TABLE.values(timer) for timer in rows.timers])
    _put_all(connection, sql.PUT_SPAN, [_span_values(span) for span in rows.spans])
    for path, index in rows.ended:
        if index is None:
            connection.execute(sql.DROP_ALL_CHECKPOINTS, (run_id, path))
            connection.execute(sql.DROP_ALL_PROCESSES, (run_id, path))
        else:
            connection.execute(sql.DROP_CHECKPOINTS, (run_id, path, index))
            connection.execute(sql.DROP_PROCESSES, (run_id, path, index))


def _put_all(connection: apsw.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """Write rows, in their order."""
    for first in range(0, len(rows), sql.ROWS_AT_ONCE):
        part = rows[first : first + sql.ROWS_AT_ONCE]
        _put(connection, sql.for_rows(statement, len(part)), tuple(chain.from_iterable(part)))


def _put(connection: apsw.Connection, statement: str, values: Sequence[object]) -> None:
    """Write a row; half of a surrogate pair, which only the log can keep, becomes a question mark."""
    bindings = cast("tuple[apsw.SQLiteValue, ...]", values)
    try:
        connection.execute(statement, bindings)
    except UnicodeEncodeError:
        clean = [value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in bindings]
        connection.execute(statement, clean)


def _signal(name: str, encoding: int, payload: bytes, signal_id: str, sent_at: float, due: float | None, number: int) -> Signal:
    return Signal(name, json.loads(unpack(encoding, payload)), signal_id, sent_at, due, number)


def _span_values(span: SpanRow) -> Sequence[object]:
    values = list(SPAN_TABLE.values(span))
    values[_KEYS] = dump_value(span.output_keys) if span.output_keys else "[]"
    values[_ISSUES] = dump_value(span.validation_issues) if span.validation_issues else "[]"
    return values


def _span_row(row: tuple[object, ...]) -> SpanRow:
    fields = list(row)
    fields[_KEYS], fields[_ISSUES] = json.loads(cast("str", row[_KEYS])), json.loads(cast("str", row[_ISSUES]))
    return SPAN_TABLE.row(fields)
