"""The store: treadle's port, on a schema of a Postgres database."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar, cast

from treadle import Secret
from treadle.errors import (
    ConfigError,
    LeaseLostError,
    RunEndedError,
    RunKeyConflictError,
    RunNotFoundError,
    StoreUnavailableError,
)
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
    unpack,
    unpack_entry,
)

from treadle_postgres import _queries as sql
from treadle_postgres._cancels import Asked, Cancels, channel
from treadle_postgres._rows import Values, clean, entry_values, line_values, row_values, run_values
from treadle_postgres._schema import VERSION, Connection
from treadle_postgres._server import Server
from treadle_postgres._workers import Pool, Single

T = TypeVar("T")

_NO_ROWS = Rows()
_CLEANED_EVERY_S = 3600.0


_LOCK_GROUP = "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))"
"""Until the end of the transaction: of many that ask for slots of a group, one at a time."""


class PostgresStore:
    """Keeps runs in a Postgres database; any number of processes and machines may share it.

    Args:
        dsn: The database, as ``postgresql://USER:PASSWORD@HOST:5432/DATABASE`` or ``host=... dbname=...``.
        schema: Where the tables are; made when it is not there. One of its own for each set of runs.
        pool_size: Connections at most, half of them to write, made as needed; one more listens while a run is driven.
        timeout_s: How long to try again when the server cannot be reached or does not answer.
        durability: ``full``: what was acknowledged is on the server's disk. ``normal``: a crash of the server's machine may
            take the last moments; never more than a tail.
        keep_days: Remove runs that ended longer ago, by and by; 0 keeps them for ever.
    """

    name = "postgres"
    is_durable = True
    wants_rows = True

    def __init__(
        self,
        dsn: Secret,
        schema: str = "treadle",
        pool_size: int = 4,
        timeout_s: float = 30.0,
        durability: Literal["full", "normal"] = "full",
        keep_days: float = 0,
    ) -> None:
        if not keep_days >= 0:
            raise ValueError(f"keep_days is 0 or more, not {keep_days!r}")
        if pool_size < 2:
            raise ValueError(f"pool_size is at least 2, one to write and one to read, not {pool_size}")
        self._server = Server(dsn, schema, durability, timeout_s)
        self._server.check()
        self._pool_size, self._keep_days = pool_size, keep_days
        self._clean_at = 0.0
        self._cancels = Cancels(self._server)
        self._lock = threading.Lock()
        self._writers: Pool | None = None
        self._readers: Pool | None = None
        self._is_closed = False

    # -- writing

    async def create(self, new: NewRun) -> Creation:
        """Keep a new run with its first entries."""
        self._clean_by_and_by()
        row, commit_id = new.row, uuid.uuid4()
        if clean(row.key) != row.key:
            raise StoreUnavailableError(
                f"Key {row.key!r} holds what Postgres cannot keep.", "Use a key of ordinary characters."
            )
        ownership = (new.fingerprint, new.owner, commit_id, len(new.first.entries), new.lease_s)
        values = (*run_values(row), *ownership, *entry_values(new.first), *row_values(new.first.rows or _NO_ROWS))
        made = Creation(row.run_id, Claim(row.run_id, new.owner, 1, new.lease_s))

        def finish(connection: Connection, rows: list[Values], is_again: bool) -> Creation:
            if _is_held(rows):
                return made
            if is_again and self._last_commit(connection, row.run_id) == commit_id:
                return made  # it had been kept, and the answer was lost
            found = connection.execute(sql.FIND_KEY, (row.key,)).fetchone()
            if found is None:
                raise StoreUnavailableError(f"There is a run {row.run_id} in this store already.", "Start it under another id.")
            known, fingerprint = cast("tuple[str, str]", found)
            if fingerprint != new.fingerprint:
                raise RunKeyConflictError(row.key, known)
            return Creation(known, None)

        return await self._write().ask(Single(row.run_id, sql.CREATE, values, finish))

    def _last_commit(self, connection: Connection, run_id: str) -> uuid.UUID | None:
        row = connection.execute(sql.OWNERSHIP, (run_id,)).fetchone()
        return None if row is None else cast("uuid.UUID", row[5])

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> Claim:
        """Take a run over."""
        self._clean_by_and_by()
        tried, before = -1, ""  # the epoch that an attempt of ours may have ended, and its owner

        def work(connection: Connection, is_again: bool) -> Claim:
            nonlocal tried, before
            while True:
                current, epoch, claimed_at, is_held, _, _ = _ownership(connection, run_id)
                if is_again and current == owner and epoch == tried + 1:
                    return Claim(run_id, owner, epoch, lease_s, before)  # it had been kept, and the answer was lost
                is_free = bool(current and is_held) and is_gone(current)
                if current and is_held and not is_free:
                    raise owned_elsewhere(run_id, current, claimed_at)
                tried, before = epoch, current
                taken = connection.execute(sql.TAKE, (run_id, owner, lease_s, epoch, is_free)).fetchone()
                if taken is not None:
                    return Claim(run_id, owner, cast("int", taken[0]), lease_s, current)
                # Somebody was quicker, or the owner has just shown that it lives.

        return await self._write().ask(work)

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        """Let go of a run."""
        self._cancels.forget(claim.run_id)
        changes = rows or _NO_ROWS
        held: Values = (claim.run_id, claim.epoch)
        statement = sql.RELEASE
        if changes.run is not None:
            statement, held = sql.RELEASE_RUN, (*held, *run_values(changes.run)[1:])
        await self._write().ask(Single(claim.run_id, statement, (*held, *row_values(changes)), _ignore))

    async def commit(self, commit: Commit) -> None:
        """Append to a run's log, with the rows that it changes."""
        rows = commit.rows or _NO_ROWS
        before, commit_id = commit.seq - 1, uuid.uuid4()
        place: Values = (commit.run_id, commit.epoch, before, before + len(commit.entries), commit_id)
        statement = sql.COMMIT
        if rows.run is not None:
            has_ended = rows.run.ended_at is not None
            statement, place = sql.COMMIT_RUN, (*place, has_ended, *run_values(rows.run)[1:])
            if has_ended:
                self._cancels.forget(commit.run_id)

        def finish(connection: Connection, found: list[Values], is_again: bool) -> None:
            if _is_held(found):
                return
            owner, epoch, claimed_at, _, count, last = _ownership(connection, commit.run_id)
            if is_again and last == commit_id:
                return  # it had been kept, and the answer was lost
            if epoch != commit.epoch:
                raise lease_lost(commit.run_id, owner, claimed_at)
            raise out_of_place(commit, count)

        values = (*place, *entry_values(commit), *row_values(rows))
        await self._write().ask(Single(commit.run_id, statement, values, finish))

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Keep how far an attempt got."""
        what = f"The checkpoint of step {checkpoint.path!r} of run {claim.run_id}"
        # The token is kept with the data as well: the column is to be looked at, and cannot hold every character.
        packed = pack(dump_value([checkpoint.token, checkpoint.data]), what)
        place = (checkpoint.path, item_number(checkpoint.index), checkpoint.variant, clean(checkpoint.token))
        packed = packed._replace(size=packed.size - len(dump_value(checkpoint.token)) - len("[,]"))
        values = (*packed, checkpoint.seq, float(checkpoint.saved_at))
        finish = self._held_or_lost(claim)
        await self._write().ask(Single(claim.run_id, sql.SAVE_CHECKPOINT, (claim.run_id, claim.epoch, *place, *values), finish))

    async def keep_process(self, claim: Claim, process: ProcessRow) -> None:
        """Keep which process a step has started."""
        await self._change_process(claim, sql.KEEP_PROCESS, process)

    async def drop_process(self, claim: Claim, process: ProcessRow) -> None:
        """Forget a process that has ended."""
        await self._change_process(claim, sql.DROP_PROCESS, process)

    async def _change_process(self, claim: Claim, statement: str, process: ProcessRow) -> None:
        place = (claim.run_id, claim.epoch, clean(process.path), item_number(process.index))
        values = (*place, process.pid, process.started, process.machine)
        await self._write().ask(Single(claim.run_id, statement, values, self._held_or_lost(claim)))

    def _held_or_lost(self, claim: Claim) -> Callable[[Connection, list[Values], bool], None]:
        def finish(connection: Connection, rows: list[Values], is_again: bool) -> None:
            if not _is_held(rows):
                raise _lost(connection, claim)

        return finish

    async def send_signal(self, run_id: str, signal: Signal) -> None:
        """Keep a signal for whoever drives the run."""
        packed = pack(dump_value(signal.payload), f"The payload of the signal {signal.name!r} for run {run_id}")
        due = None if signal.due is None else float(signal.due)

        def finish(connection: Connection, rows: list[Values], is_again: bool) -> None:
            if rows:
                return
            row = connection.execute(sql.ENDING, (run_id, signal.signal_id)).fetchone()
            if row is None:
                raise RunNotFoundError(run_id)
            status, ended_at, is_kept = row
            if ended_at is not None and not is_kept:
                raise RunEndedError(run_id, cast("str", status))

        values = (run_id, signal.signal_id, signal.name, *packed[:2], float(signal.sent_at), due, channel(self._server.schema))
        await self._write().ask(Single(run_id, sql.SEND_SIGNAL, values, finish))
        self._cancels.forget(run_id)

    async def request_cancel(self, run_id: str, request: CancelRequest) -> None:
        """Ask whoever drives the run to stop it."""

        def finish(connection: Connection, rows: list[Values], is_again: bool) -> None:
            if not rows:
                _ownership(connection, run_id)  # a request that is not weaker was there, or no run

        values = (run_id, clean(request.reason), request.force, channel(self._server.schema))
        await self._write().ask(Single(run_id, sql.REQUEST_CANCEL, values, finish))
        self._cancels.forget(run_id)  # who asked hears it at once, before the server's announcement

    def keep_lines(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Keep what executors logged; those whose answer was lost may be kept twice."""

        def finish(connection: Connection, rows: list[Values], is_again: bool) -> None:
            if not _is_held(rows):
                raise RunNotFoundError(run_id)

        self._write().ask_here(Single(run_id, sql.KEEP_LINES, (run_id, line_values(lines)), finish))

    async def take_slots(self, claim: Claim, requests: Sequence[SlotRequest], is_gone: Callable[[str], bool]) -> frozenset[str]:
        """Ask for slots."""

        def work(connection: Connection, is_again: bool) -> frozenset[str]:
            taken: set[str] = set()
            # One group after the other: who held the locks of several could wait for who waits for them.
            for group in dict.fromkeys(request.group for request in requests):
                with connection.transaction():
                    connection.execute(_LOCK_GROUP, (f"{self._server.schema} {group}",))
                    if _ownership(connection, claim.run_id)[1] != claim.epoch:
                        raise _lost(connection, claim)
                    wanted = [request for request in requests if request.group == group]
                    taken |= {request.holder for request in wanted if _take_slot(connection, claim, request, is_gone)}
            return frozenset(taken)

        return await self._write().ask(work)

    async def free_slots(self, claim: Claim, holders: Sequence[str]) -> None:
        """Give slots back, or leave the line."""
        await self._write().ask(Single(claim.run_id, sql.FREE_SLOTS, (claim.run_id, claim.epoch, list(holders)), _ignore))

    # -- for the owner's heart

    def beat(self, claim: Claim, steps: Sequence[BeatRow] = ()) -> None:
        """Say that the owner lives; also brings what was asked of the run."""
        since = self._cancels.begin()

        def finish(connection: Connection, rows: list[Values], is_again: bool) -> Asked:
            if not rows:
                raise _lost(connection, claim)
            return _asked(rows[0])

        statement = sql.BEAT
        held: Values = (claim.run_id, claim.epoch, claim.lease_s)
        if steps:
            said = [
                {"path": row.path, "item_index": item_number(row.index), "attempt": row.attempt, "at": row.at} for row in steps
            ]
            statement, held = sql.BEAT_WITH_STEPS, (*held, dump_value(said))
        job = Single(claim.run_id, statement, held, finish)
        self._cancels.keep(claim.run_id, self._write().ask_here(job, timeout_s=claim.lease_s), since)

    def cancel_request(self, run_id: str) -> CancelRequest | None:
        """What ``request_cancel`` left; asks the server only when it is not known that nothing has changed."""
        return self._asked(run_id).cancel

    def signals(self, run_id: str, after: int) -> Sequence[Signal]:
        """What ``send_signal`` kept with a number over ``after``; asks the server only when there may be some."""
        if self._asked(run_id).signals <= after:
            return ()

        def work(connection: Connection, is_again: bool) -> list[Values]:
            return connection.execute(sql.SIGNALS, (run_id, after)).fetchall()

        return [_signal(*row) for row in self._read().ask_here(work)]  # type: ignore[arg-type]  # the columns in order

    def _asked(self, run_id: str) -> Asked:
        readers = self._read()
        since = self._cancels.begin()
        known = self._cancels.known(run_id)
        if known is not None:
            return known

        def work(connection: Connection, is_again: bool) -> Asked:
            row = connection.execute(sql.CANCEL_REQUEST, (run_id,)).fetchone()
            return Asked() if row is None else _asked(row)

        asked = readers.ask_here(work)
        self._cancels.keep(run_id, asked, since)
        return asked

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
        values: list[object] = [
            clean(value) if isinstance(value, str) else value
            for name, given in filters.items()
            for value in ([list(given)] if name == "statuses" else given)
        ]
        rows = await self._all(sql.runs(filters), (*values, query.limit + 1))
        return RunPage.of([RUN_TABLE.row(row) for row in rows], query.limit)

    async def steps(self, run_id: str) -> Sequence[StepRow]:
        """The steps of a run and their items."""
        return [STEP_TABLE.row(row) for row in await self._all(sql.STEPS, (run_id,))]

    async def timers(self, run_id: str) -> Sequence[TimerRow]:
        """The timers of a run, by due time."""
        return [TIMER_TABLE.row(row) for row in await self._all(sql.TIMERS, (run_id,))]

    async def pending_timers(self, *, until: float | None = None, limit: int = 100) -> Sequence[TimerRow]:
        """Timers of all runs that have not fired, by due time."""
        latest = 1e300 if until is None else float(until)
        return [TIMER_TABLE.row(row) for row in await self._all(sql.DUE_TIMERS, (latest, limit))]

    async def slots(self, group: str = "") -> Sequence[SlotRow]:
        """Slots that are held or waited for."""
        rows = await (self._all(sql.SLOTS, (group,)) if group else self._all(sql.ALL_SLOTS, ()))
        return [SlotRow(*row) for row in rows]  # type: ignore[arg-type]  # the columns in order

    async def spans(self, run_id: str) -> Sequence[SpanRow]:
        """The executions of a run, by start."""
        return [SPAN_TABLE.row(row) for row in await self._all(sql.SPANS, (run_id,))]

    async def lines(self, query: LineQuery) -> Sequence[LogLine]:
        """What executors logged, in the order in which it was kept."""
        filters = query.filters()
        wanted = [clean(value) if isinstance(value, str) else value for value in chain(*filters.values())]
        values = (query.run_id, query.after, query.level, *wanted, query.limit)
        return [LINE_TABLE.row(row) for row in await self._all(sql.lines(filters), values)]

    async def load(self, run_id: str, path: str, index: int | None = None, variant: str = "primary") -> Checkpoint | None:
        """The checkpoint of a step or item."""
        rows = await self._all(sql.CHECKPOINT, (run_id, path, item_number(index), variant))
        if not rows:
            return None
        path, item, variant, encoding, body, seq, saved_at = cast("tuple[str, int, str, int, bytes, int, float]", rows[0])
        token, data = json.loads(unpack(encoding, body))
        return Checkpoint(path, item_of(item), variant, token, data, seq, saved_at)

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

        def work(connection: Connection, is_again: bool) -> SpanExport:
            connection.execute(sql.OPEN_SPANS, (run_id, seq))
            row = connection.execute(sql.EXPORT, (run_id,)).fetchone()
            if row is None:
                raise RunNotFoundError(run_id)
            return EXPORT_TABLE.row(row)

        return await self._write().ask(work)

    async def put_spans(self, exports: Sequence[SpanExport]) -> None:
        """Note how far some exports are; each is right by itself, so they need not be kept together."""
        values = [
            tuple(clean(value) if isinstance(value, str) else value for value in EXPORT_TABLE.values(export))
            for export in exports
        ]

        def work(connection: Connection, is_again: bool) -> None:
            for row in values:
                connection.execute(sql.PUT_SPANS, row)

        await self._write().ask(work)

    async def span_exports(
        self, which: Literal["open", "refused"] = "open", *, run_id: str = "", limit: int = 1000
    ) -> Sequence[SpanExport]:
        """Exports, the oldest run first."""
        if run_id:
            rows = await self._all(sql.EXPORT, (run_id,))
        else:
            rows = await self._all(sql.OPEN_EXPORTS if which == "open" else sql.REFUSED_EXPORTS, (limit,))
        return [EXPORT_TABLE.row(row) for row in rows]

    async def lead(self, what: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> bool:
        """Whether ``owner`` is the one that does ``what`` for all."""

        def work(connection: Connection, is_again: bool) -> bool:
            found = connection.execute(sql.FIND_LEAD, (what,)).fetchone()
            holder = cast("str", found[0]) if found is not None and found[1] else ""
            gone = holder if holder and is_gone(holder) else owner
            return connection.execute(sql.LEAD, (what, owner, lease_s, gone)).fetchone() is not None

        return await self._write().ask(work)

    def close(self) -> None:
        """Finish what was begun and let go of the connections."""
        with self._lock:
            self._is_closed = True
            pools = self._readers, self._writers
        self._cancels.close()
        for pool in pools:
            if pool is not None:
                pool.close()

    # -- upkeep

    async def stats(self) -> StoreStats:
        """What the store holds."""

        def work(connection: Connection, is_again: bool) -> StoreStats:
            def one(statement: str, *values: object) -> Values:
                return connection.execute(statement, values).fetchone() or (None,)

            return StoreStats(
                store=self.name,
                where=self._server.where,
                format=VERSION,
                generation=str(one(sql.FACTS)[-1]),
                size_bytes=cast("int", one(sql.SIZE, self._server.schema)[0]),
                reusable_bytes=0,
                log_bytes=0,
                runs=dict(cast("list[tuple[str, int]]", connection.execute(sql.COUNT_RUNS).fetchall())),
                rows=dict(zip(sql.TABLES, cast("tuple[int, ...]", one(sql.COUNT_ROWS)), strict=True)),
                checkpoint_bytes=cast("int", one(sql.CHECKPOINT_BYTES)[0]),
                oldest_run_at=cast("float | None", one(sql.OLDEST_RUN)[0]),
            )

        return await self._read().ask(work)

    async def migrate(self) -> tuple[int, int]:
        """Bring the schema to this version; answers the formats before and after."""
        await self._write().ask(_nothing)
        return self._server.formats[0], VERSION

    async def backup(self, path: Path) -> int:
        """Postgres has better tools for this; says which."""
        raise ConfigError(
            f"A store in Postgres is not backed up by treadle, so {path} was not written.",
            f"Use pg_dump --schema={self._server.schema}, or what your database is backed up with anyway.",
        )

    async def vacuum(self) -> tuple[int, int]:
        """Let the server find the room that is free, and count anew what it plans by; answers its size before and after."""

        def work(connection: Connection, is_again: bool) -> tuple[int, int]:
            sizes = []
            connection.execute("SET statement_timeout = 0")
            for statement in (None, f"VACUUM (ANALYZE) {', '.join(sql.TABLES)}"):
                if statement is not None:
                    connection.execute(statement)
                row = connection.execute(sql.SIZE, (self._server.schema,)).fetchone()
                sizes.append(cast("int", row[0]) if row else 0)
            connection.execute("RESET statement_timeout")
            return sizes[0], sizes[1]

        return await self._write().ask(work)

    async def clean(self, days: float, *, dry_run: bool = False) -> int:
        """Remove the runs that ended so long ago."""
        if dry_run:
            return await self._counted(sql.COUNT_OLD_RUNS, days)
        removed = 0
        while count := await self._removed(sql.DROP_OLD_RUNS, days):
            removed += count
        return removed

    async def count_unsent(self, days: float) -> int:
        """How many runs are kept because their spans are still to be exported."""
        return await self._counted(sql.COUNT_UNSENT, days)

    async def drop_unsent(self, days: float) -> int:
        """Export no more of these runs."""
        return await self._removed(sql.DROP_UNSENT, days)

    async def cleanup_old_events(self, days: float) -> int:
        """Remove the logs of runs that ended so long ago."""
        return await self._removed(sql.DROP_OLD_EVENTS, days)

    async def cleanup_old_checkpoints(self, days: float) -> int:
        """Remove checkpoints that are so old, of runs that have ended."""
        return await self._removed(sql.DROP_OLD_CHECKPOINTS, days)

    async def cleanup_fired_timers(self, days: float) -> int:
        """Remove timers that fired or were cancelled so long ago."""
        return await self._removed(sql.DROP_OLD_TIMERS, days)

    async def _counted(self, statement: str, days: float) -> int:
        ((count,),) = cast("list[tuple[int]]", await self._all(statement, (days,)))
        return count

    async def _removed(self, statement: str, days: float) -> int:
        def work(connection: Connection, is_again: bool) -> int:
            row = connection.execute(statement, (days,)).fetchone()
            return cast("int", row[0]) if row else 0

        return await self._write().ask(work)

    def _clean_by_and_by(self) -> None:
        """When a run begins, and an hour has passed: let a portion be removed, which nobody waits for."""
        if self._keep_days and time.monotonic() >= self._clean_at:
            self._clean_at = time.monotonic() + _CLEANED_EVERY_S
            self._write().post(lambda connection, _: connection.execute(sql.DROP_OLD_RUNS, (self._keep_days,)).fetchone())

    # -- connections

    async def _all(self, statement: str, values: Values) -> list[Values]:
        def work(connection: Connection, is_again: bool) -> list[Values]:
            return connection.execute(statement, values).fetchall()

        return await self._read().ask(work)

    def _write(self) -> Pool:
        if self._writers is None:
            with self._lock:
                self._refuse_closed()
                if self._writers is None:
                    size = self._pool_size // 2
                    self._writers = Pool(self._server, self._server.open_writer, name="writer", size=size, is_grouping=True)
        return self._writers

    def _read(self) -> Pool:
        if self._readers is None:
            writers = self._write()  # they make the tables
            with self._lock:
                self._refuse_closed()
                if self._readers is None:
                    self._readers = self._make_readers(writers)
        return self._readers

    def _make_readers(self, writers: Pool) -> Pool:
        def connect() -> Connection:
            if not writers.was_connected:
                writers.ask_here(_nothing)  # once it answers, the tables are there
            return self._server.open_reader()

        size = self._pool_size - self._pool_size // 2
        return Pool(self._server, connect, name="reader", size=size, is_grouping=False, known=writers)

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise StoreUnavailableError(f"Store {self._server.where} is closed.", "Open it anew.")


def _nothing(connection: Connection, is_again: bool) -> None:
    """Work that only needs a connection."""


def _ignore(connection: Connection, rows: list[Values], is_again: bool) -> None:
    """An answer that changes nothing."""


def _is_held(rows: list[Values]) -> bool:
    """Whether a write found its run as it had to be."""
    return bool(rows and rows[0][0])


def _ownership(connection: Connection, run_id: str) -> tuple[str, int, float, bool, int, uuid.UUID]:
    """Owner, epoch, claimed at, whether the lease holds, number of entries, id of the last commit."""
    row = connection.execute(sql.OWNERSHIP, (run_id,)).fetchone()
    if row is None:
        raise RunNotFoundError(run_id)
    return cast("tuple[str, int, float, bool, int, uuid.UUID]", row)


def _lost(connection: Connection, claim: Claim) -> LeaseLostError:
    owner, _, claimed_at, *_ = _ownership(connection, claim.run_id)
    return lease_lost(claim.run_id, owner, claimed_at)


def _take_slot(connection: Connection, claim: Claim, request: SlotRequest, is_gone: Callable[[str], bool]) -> bool:
    group, mine = request.group, (claim.run_id, request.holder)
    connection.execute(sql.DROP_DEAD_SLOTS, (group,))
    connection.execute(sql.ASK_SLOT, (group, *mine, claim.epoch, request.priority))
    while True:
        line = cast("list[tuple[str, str, bool, str]]", connection.execute(sql.SLOT_LINE, (group,)).fetchall())
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
        connection.execute(sql.DROP_SLOTS_OF, (group, sorted(gone)))


def _asked(row: Values) -> Asked:
    reason, force, signals = cast("tuple[str | None, bool, int]", row)
    return Asked(None if reason is None else CancelRequest(reason, force), signals)


def _signal(name: str, encoding: int, payload: bytes, signal_id: str, sent_at: float, due: float | None, number: int) -> Signal:
    return Signal(name, json.loads(unpack(encoding, payload)), signal_id, sent_at, due, number)
