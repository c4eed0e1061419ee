"""The store: treadle's port, on one SQLite file."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar, cast

import apsw
from treadle.errors import (
    LeaseLostError,
    OwnedElsewhereError,
    RunKeyConflictError,
    RunNotFoundError,
    StoreUnavailableError,
)
from treadle.ports import (
    CancelRequest,
    Checkpoint,
    Claim,
    Commit,
    Creation,
    Entry,
    NewRun,
    Record,
    Rows,
    RunPage,
    RunQuery,
    RunRow,
    RunStatus,
    SpanRow,
    StepRow,
    StepStatus,
    TimerRow,
    dump_line,
    load_line,
)

from treadle_sqlite import _queries as sql
from treadle_sqlite._files import Guard, default_path, prepare
from treadle_sqlite._payloads import Payload, dump, pack, unpack
from treadle_sqlite._schema import migrate
from treadle_sqlite._worker import Worker, Writer

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

_WHOLE = -1
"""What stands for the item of a step without ``foreach``."""


class SqliteStore:
    """Keeps runs in one SQLite file on this machine; several processes may share it.

    Args:
        path: The file; in the user's state directory when empty.
        durability: ``full``: what was acknowledged survives power cuts. ``normal``: it survives the end of the process, but a
            power cut may take the last moments; never more than a tail, and never the file.
        timeout_s: How long to wait while another process holds the file.
        allow_network: Also use a file on a network file system, where SQLite may lose data.
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
    ) -> None:
        if durability not in ("full", "normal"):
            raise ValueError(f"durability is 'full' or 'normal', not {durability!r}")
        self.path = Path(path).expanduser().absolute() if str(path) else default_path()
        self._durability, self._timeout_s, self._allow_network = durability, timeout_s, allow_network
        self._guard = Guard(self.path)
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._reader: Worker | None = None
        self._is_closed = False
        self._boot = _boot_id()

    # -- writing

    async def create(self, new: NewRun) -> Creation:
        """Keep a new run with its first entries."""
        packed = _pack_entries(new.first)
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
            connection.execute(sql.CREATE_RUN, (*_run_values(row), *values))
            _add_entries(connection, packed)
            _put_rows(connection, row.run_id, new.first.rows or Rows(), has_run=False)
            return Creation(row.run_id, Claim(row.run_id, new.owner, 1, new.lease_s))

        return await self._write().ask(work)

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> Claim:
        """Take a run over."""

        def work(connection: apsw.Connection) -> Claim:
            current, _, claimed_at, until, boot, _ = self._ownership(connection, run_id)
            if current and boot == self._boot and _monotonic() < until and not is_gone(current):
                raise OwnedElsewhereError(run_id, _shown(current), _since(claimed_at))
            now = time.time()
            values = (owner, now, now, self._until(lease_s), self._boot, run_id)
            (epoch,) = cast("tuple[int]", connection.execute(sql.TAKE, values).fetchone())
            return Claim(run_id, owner, epoch, lease_s)

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
        packed = _pack_entries(commit)
        before = commit.seq - 1
        after = before + len(commit.entries)
        rows = commit.rows

        def work(connection: apsw.Connection) -> None:
            connection.execute(sql.ADVANCE, (after, commit.run_id, commit.epoch, before))
            if not connection.changes():
                raise self._refusal(connection, commit)
            _add_entries(connection, packed)
            if rows is not None:
                _put_rows(connection, commit.run_id, rows)

        await self._write().ask(work)

    def _refusal(self, connection: apsw.Connection, commit: Commit) -> Exception:
        """Why a commit changes nothing."""
        owner, epoch, claimed_at, _, _, count = self._ownership(connection, commit.run_id)
        if epoch != commit.epoch:
            return LeaseLostError(commit.run_id, _shown(owner), _since(claimed_at))
        return StoreUnavailableError(
            f"Run {commit.run_id}: entry {commit.seq} was to be appended, but the log holds {count}.",
            "Another process may drive this run; only one may.",
        )

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Keep how far an attempt got."""
        what = f"The checkpoint of step {checkpoint.path!r} of run {claim.run_id}"
        payload = pack(dump(checkpoint.data), what, may_be_apart=False)
        place = (claim.run_id, checkpoint.path, _index(checkpoint.index), checkpoint.variant, checkpoint.token)
        values = (payload.encoding, payload.body, payload.size, claim.epoch, checkpoint.seq, checkpoint.saved_at)

        def work(connection: apsw.Connection) -> None:
            self._hold(connection, claim)
            connection.execute(sql.SAVE_CHECKPOINT, (*place, *values))

        await self._write().ask(work)

    async def request_cancel(self, run_id: str, request: CancelRequest) -> None:
        """Ask whoever drives the run to stop it."""

        def work(connection: apsw.Connection) -> None:
            self._ownership(connection, run_id)
            connection.execute(sql.REQUEST_CANCEL, (request.reason, request.force, run_id, request.force))

        await self._write().ask(work)

    # -- for the owner's heart

    def beat(self, claim: Claim) -> None:
        """Say that the owner lives."""

        def work(connection: apsw.Connection) -> None:
            values = (time.time(), self._until(claim.lease_s), self._boot, claim.run_id, claim.epoch)
            connection.execute(sql.BEAT, values)
            if not connection.changes():
                self._hold(connection, claim)

        self._write().ask_here(work)

    def cancel_request(self, run_id: str) -> CancelRequest | None:
        """What ``request_cancel`` left."""

        def work(connection: apsw.Connection) -> CancelRequest | None:
            found = cast("tuple[str | None, int] | None", connection.execute(sql.CANCEL_REQUEST, (run_id,)).fetchone())
            return None if found is None or found[0] is None else CancelRequest(found[0], bool(found[1]))

        return self._read().ask_here(work)

    # -- reading

    async def read(self, run_id: str) -> Sequence[Record]:
        """The log of a run; empty when there is none."""
        rows = await self._all(sql.READ, (run_id,))
        return [
            Record(run_id, cast("int", seq), _load(run_id, cast("int", seq), encoding, body)) for seq, encoding, body in rows
        ]

    async def run(self, run_id: str) -> RunRow | None:
        """A run's row."""
        rows = await self._all(sql.RUN, (run_id,))
        return _run_row(rows[0]) if rows else None

    async def runs(self, query: RunQuery) -> RunPage:
        """Runs, the newest first."""
        after = _parse_cursor(query.cursor)
        statement = sql.runs(
            statuses=len(query.statuses),
            workflow=bool(query.workflow),
            since=query.since is not None,
            until=query.until is not None,
            prefix=bool(query.prefix),
            key=bool(query.key),
            cursor=after is not None,
        )
        values: list[object] = [status.value for status in query.statuses]
        values += [query.workflow] if query.workflow else []
        values += [bound for bound in (query.since, query.until) if bound is not None]
        values += [query.prefix, query.prefix + "\U0010ffff"] if query.prefix else []
        values += [query.key] if query.key else []
        values += after or ()
        found = [_run_row(row) for row in await self._all(statement, (*values, query.limit + 1))]
        page = tuple(found[: query.limit])
        return RunPage(page, f"{page[-1].created_at!r} {page[-1].run_id}" if len(found) > len(page) and page else "")

    async def steps(self, run_id: str) -> Sequence[StepRow]:
        """The steps of a run and their items."""
        return [_step_row(row) for row in await self._all(sql.STEPS, (run_id,))]

    async def timers(self, run_id: str) -> Sequence[TimerRow]:
        """The timers of a run, by due time."""
        return [_timer_row(row) for row in await self._all(sql.TIMERS, (run_id,))]

    async def spans(self, run_id: str) -> Sequence[SpanRow]:
        """The executions of a run, by start."""
        return [_span_row(row) for row in await self._all(sql.SPANS, (run_id,))]

    async def load(self, run_id: str, path: str, index: int | None = None, variant: str = "primary") -> Checkpoint | None:
        """The checkpoint of a step or item."""
        rows = await self._all(sql.CHECKPOINT, (run_id, path, _index(index), variant))
        if not rows:
            return None
        path, item, variant, token, encoding, data, seq, saved_at = cast(
            "tuple[str, int, str, str, int, bytes, int, float]", rows[0]
        )
        return Checkpoint(path, _item(item), variant, token, json.loads(unpack(encoding, data)), seq, saved_at)

    def close(self) -> None:
        """Finish what was begun and let go of the file."""
        with self._lock:
            self._is_closed = True
            writer, reader = self._writer, self._reader
        for worker in (reader, writer):
            if worker is not None:
                worker.close()

    # -- threads and connections

    def _write(self) -> Writer:
        if self._writer is None:
            with self._lock:
                self._refuse_closed()
                if self._writer is None:
                    connect, check = self._open_writer, self._guard.check
                    self._writer = Writer("treadle-sqlite-writer", str(self.path), connect, self._timeout_s, check)
        return self._writer

    def _read(self) -> Worker:
        if self._reader is None:
            writer = self._write()  # it makes the file and its tables
            with self._lock:
                self._refuse_closed()
                if self._reader is None:
                    self._reader = self._make_reader(writer)
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

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise StoreUnavailableError(f"Store {self.path} is closed.", "Open it anew.")

    def _open_writer(self, worker: Worker) -> apsw.Connection:
        prepare(self.path, may_be_remote=self._allow_network)
        connection = self._connect()
        writer = cast("Writer", worker)
        synchronous = "FULL" if self._durability == "full" else "NORMAL"
        # Timeouts are ours: SQLite's own waiting starves one process for seconds.
        for pragma in ("journal_mode = WAL", f"synchronous = {synchronous}", *_PRAGMAS):
            worker.retrying(lambda pragma=pragma: list(connection.execute(f"PRAGMA {pragma}")))  # type: ignore[misc]  # bound now
        migrate(connection, str(self.path), lambda: writer.begin(connection))
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
            raise LeaseLostError(claim.run_id, _shown(owner), _since(claimed_at))


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


def _shown(owner: str) -> str:
    return owner.partition("@")[0]


def _since(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _index(index: int | None) -> int:
    return _WHOLE if index is None else index


def _item(index: int) -> int | None:
    return None if index == _WHOLE else index


def _parse_cursor(cursor: str) -> tuple[float, str] | None:
    at, _, run_id = cursor.partition(" ")
    try:
        return (float(at), run_id) if cursor else None
    except ValueError:
        raise ValueError(f"{cursor!r} is no cursor of this store") from None


# -- entries


def _pack_entries(commit: Commit) -> list[tuple[tuple[apsw.SQLiteValue, ...], Payload]]:
    """Each entry as a row; made before the writer's turn, so that what cannot be kept harms nobody else's commit."""
    packed: list[tuple[tuple[apsw.SQLiteValue, ...], Payload]] = []
    for seq, entry in enumerate(commit.entries, commit.seq):
        path = str(getattr(entry, "path", ""))
        what = f"{entry.kind} {seq} of run {commit.run_id}" + (f" (step {path!r})" if path else "")
        payload = pack(_line(entry), what)
        phase = "finally" if path.startswith("finally/") else "main" if path else ""
        packed.append(((commit.run_id, seq, entry.at, entry.kind, phase, path, payload.encoding, payload.body), payload))
    return packed


def _line(entry: Entry) -> str:
    line = dump_line(entry)
    try:
        line.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can spell
        return dump(json.loads(line))
    return line


def _add_entries(connection: apsw.Connection, packed: list[tuple[tuple[apsw.SQLiteValue, ...], Payload]]) -> None:
    for row, payload in packed:
        connection.execute(sql.ADD_RECORD, row)
        if payload.apart:
            connection.execute(sql.ADD_PAYLOAD, (row[0], row[1], payload.apart))


def _load(run_id: str, seq: int, encoding: object, body: object) -> Entry:
    try:
        return load_line(unpack(cast("int", encoding), cast("bytes", body)))
    except (ValueError, OSError, EOFError) as error:
        raise StoreUnavailableError(
            f"Entry {seq} of run {run_id} cannot be read: {error}",
            "Restore a backup, or read it with the version that wrote it.",
        ) from error


# -- rows


def _run_values(row: RunRow) -> tuple[apsw.SQLiteValue, ...]:
    return (
        row.run_id,
        row.workflow,
        row.workflow_hash,
        row.status.value,
        row.trigger,
        row.trace_id,
        row.created_at,
        row.ended_at,
        row.stint,
        row.key,
        row.source,
        row.reason,
        row.culprit,
        row.error_type,
        row.error_message,
    )


def _put_rows(connection: apsw.Connection, run_id: str, rows: Rows, *, has_run: bool = True) -> None:
    if rows.run is not None and has_run:
        values = _run_values(rows.run)
        connection.execute(sql.CHANGE_RUN, (*values[1:], rows.run.ended_at is not None, run_id))
    for step in rows.steps:
        connection.execute(sql.PUT_STEP, _step_values(step))
    for timer in rows.timers:
        connection.execute(sql.PUT_TIMER, _timer_values(timer))
    for span in rows.spans:
        connection.execute(sql.PUT_SPAN, _span_values(span))
    for path, index in rows.ended:
        if index is None:
            connection.execute(sql.DROP_ALL_CHECKPOINTS, (run_id, path))
        else:
            connection.execute(sql.DROP_CHECKPOINTS, (run_id, path, index))


def _run_row(row: tuple[object, ...]) -> RunRow:
    fields = list(row)
    fields[3] = RunStatus(cast("str", fields[3]))
    fields[15] = _shown(cast("str", fields[15]))
    return RunRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def _step_values(row: StepRow) -> tuple[apsw.SQLiteValue, ...]:
    return (
        row.run_id,
        row.path,
        _index(row.index),
        row.phase,
        row.executor,
        row.status.value,
        row.attempt,
        row.stint,
        row.worker,
        row.idempotency_key,
        row.queued_at,
        row.started_at,
        row.ended_at,
        row.cost,
        row.tokens,
        row.error_type,
        row.error_message,
        row.reason,
    )


def _step_row(row: tuple[object, ...]) -> StepRow:
    fields = list(row)
    fields[2] = _item(cast("int", fields[2]))
    fields[5] = StepStatus(cast("str", fields[5]))
    return StepRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def _timer_values(row: TimerRow) -> tuple[apsw.SQLiteValue, ...]:
    payload = None if row.payload is None else dump(row.payload).encode()
    return (
        *(row.run_id, row.timer_id, row.path, _index(row.index), row.kind, row.due),
        *(row.status, row.created_at, row.fired_at, payload),
    )


def _timer_row(row: tuple[object, ...]) -> TimerRow:
    fields = list(row)
    fields[3] = _item(cast("int", fields[3]))
    fields[9] = None if fields[9] is None else json.loads(cast("bytes", fields[9]))
    return TimerRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def _span_values(row: SpanRow) -> tuple[apsw.SQLiteValue, ...]:
    return (
        *(row.span_id, row.trace_id, row.parent_id, row.executor_type, row.task_id, row.workflow_execution_id),
        *(row.attempt, row.stint, row.started_at, row.ended_at, row.duration_ms, row.status),
        *(dump(row.output_keys), dump(row.validation_issues), row.error, time.time()),
    )


def _span_row(row: tuple[object, ...]) -> SpanRow:
    span_id, trace_id, parent_id, executor, task, run_id, attempt, stint, started, ended, _, status, keys, issues, error, _ = (
        row
    )
    return SpanRow(
        *(span_id, trace_id, parent_id, executor, task, run_id, attempt, stint, started, ended, status),  # type: ignore[arg-type]  # in order
        output_keys=tuple(json.loads(cast("str", keys))),
        validation_issues=tuple(json.loads(cast("str", issues))),
        error=cast("str", error),
    )
