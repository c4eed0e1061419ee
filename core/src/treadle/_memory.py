"""The memory store: runs live as long as the process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter
from typing import Literal

import attrs

from treadle._log_rows import rows_of
from treadle._models import AttemptEnded, Entry, ItemEnded, Record, RunEnded, RunStatus, StepEnded
from treadle._store_records import (
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
    Place,
    ProcessRow,
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
    TimerRow,
    lease_lost,
    out_of_place,
    owned_elsewhere,
    shown,
)
from treadle.errors import RunEndedError, RunKeyConflictError, RunNotFoundError


class _Run:
    """What is kept of a run. Rows are computed from the log when somebody asks."""

    __slots__ = (
        "beats",
        "cancel",
        "checkpoints",
        "claimed_at",
        "entries",
        "epoch",
        "fingerprint",
        "heartbeat_at",
        "is_suspended",
        "key",
        "lease_until",
        "lines",
        "owner",
        "processes",
        "signals",
        "source",
    )

    def __init__(self, new: NewRun) -> None:
        self.entries: list[Entry] = list(new.first.entries)
        self.key, self.source, self.fingerprint = new.row.key, new.row.source, new.fingerprint
        self.checkpoints: dict[tuple[Place, str], tuple[int, Checkpoint]] = {}
        self.processes: dict[ProcessRow, None] = {}
        self.beats: list[BeatRow] = []
        self.cancel: CancelRequest | None = None
        self.signals: dict[str, Signal] = {}  # by id, in order
        self.lines: list[LogLine] = []
        self.is_suspended = False
        self.epoch = 0
        self.take(new.owner, new.lease_s)

    def take(self, owner: str, lease_s: float) -> None:
        self.owner, self.is_suspended = owner, False
        self.epoch += 1
        self.claimed_at = self.heartbeat_at = time.time()
        self.lease_until = time.monotonic() + lease_s


@attrs.define
class _Slot:
    """A slot that is held, or a place in line."""

    group: str
    run_id: str
    holder: str
    priority: int
    epoch: int
    is_held: bool = False


def _is_next(line: Sequence[_Slot], mine: _Slot, limit: int) -> bool:
    """Whether there is a slot for a place in line: higher priority first, then who stood there first."""
    waiting = sorted((slot for slot in line if not slot.is_held), key=lambda slot: -slot.priority)
    free = limit - sum(slot.is_held for slot in line)
    return any(slot is mine for slot in waiting[: max(0, free)])


class MemoryStore:
    """Keeps runs in lists. Nothing survives the process."""

    name = "memory"
    is_durable = False
    wants_rows = False

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._keys: dict[str, str] = {}
        self._exports: dict[str, SpanExport] = {}
        self._leads: dict[str, tuple[str, float]] = {}
        self._slots: dict[str, list[_Slot]] = {}  # group -> who holds one or stands in line, in the order of asking
        self._lock = threading.Lock()  # beats come from other threads

    # -- writing

    async def create(self, new: NewRun) -> Creation:
        """Keep a new run."""
        with self._lock:
            run_id, key = new.row.run_id, new.row.key
            known = self._keys.get(key) if key else None
            if known is not None:
                if self._runs[known].fingerprint != new.fingerprint:
                    raise RunKeyConflictError(key, known)
                return Creation(known, None)
            self._runs[run_id] = _Run(new)
            if key:
                self._keys[key] = run_id
            return Creation(run_id, Claim(run_id, new.owner, 1, new.lease_s))

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> Claim:
        """Take a run over."""
        with self._lock:
            run = self._found(run_id)
            if run.owner and time.monotonic() < run.lease_until and not is_gone(run.owner):
                raise owned_elsewhere(run_id, run.owner, run.claimed_at)
            before = run.owner
            run.take(owner, lease_s)
            return Claim(run_id, owner, run.epoch, lease_s, before)

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        """Let go of a run."""
        with self._lock:
            run = self._runs.get(claim.run_id)
            if run is not None and run.epoch == claim.epoch:
                run.owner = ""
                run.is_suspended = rows is not None and rows.run is not None and rows.run.status is RunStatus.SUSPENDED

    async def commit(self, commit: Commit) -> None:
        """Append to a run's log."""
        run = self._runs.get(commit.run_id) or self._found(commit.run_id)
        entries, new = run.entries, commit.entries
        with self._lock:
            if run.epoch != commit.epoch:
                raise lease_lost(commit.run_id, run.owner, run.claimed_at)
            if commit.seq != len(entries) + 1:
                raise out_of_place(commit, len(entries))
            entries += new
            if run.checkpoints or run.processes:
                _drop_ended(run, new)
            if type(entries[-1]) is RunEnded:
                run.owner, run.cancel = "", None

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Keep how far an attempt got."""
        with self._lock:
            run = self._held(claim)
            key = ((checkpoint.path, checkpoint.index), checkpoint.variant)
            known = run.checkpoints.get(key)
            if known is None or (claim.epoch, checkpoint.seq) >= (known[0], known[1].seq):
                run.checkpoints[key] = (claim.epoch, checkpoint)

    async def send_signal(self, run_id: str, signal: Signal) -> None:
        """Keep a signal for whoever drives the run."""
        with self._lock:
            run = self._found(run_id)
            last = run.entries[-1]
            if isinstance(last, RunEnded):
                raise RunEndedError(run_id, last.status.value)
            run.signals.setdefault(signal.signal_id, attrs.evolve(signal, number=len(run.signals) + 1))

    async def keep_process(self, claim: Claim, process: ProcessRow) -> None:
        """Keep which process a step has started."""
        with self._lock:
            self._held(claim).processes[process] = None

    async def drop_process(self, claim: Claim, process: ProcessRow) -> None:
        """Forget a process that has ended."""
        with self._lock:
            self._held(claim).processes.pop(process, None)

    async def request_cancel(self, run_id: str, request: CancelRequest) -> None:
        """Ask whoever drives the run to stop it."""
        with self._lock:
            run = self._found(run_id)
            if run.cancel is None or request.force:
                run.cancel = request

    def keep_lines(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Keep what executors logged."""
        with self._lock:
            kept = self._found(run_id).lines
            kept += [attrs.evolve(line, seq=seq) for seq, line in enumerate(lines, len(kept) + 1)]

    async def take_slots(self, claim: Claim, requests: Sequence[SlotRequest], is_gone: Callable[[str], bool]) -> frozenset[str]:
        """Ask for slots."""
        with self._lock:
            self._held(claim)
            taken = {request.holder for request in requests if self._take_slot(claim, request, is_gone)}
            return frozenset(taken)

    def _take_slot(self, claim: Claim, request: SlotRequest, is_gone: Callable[[str], bool]) -> bool:
        line = [slot for slot in self._slots.get(request.group, ()) if self._is_alive(slot)]
        mine = next((slot for slot in line if (slot.run_id, slot.holder) == (claim.run_id, request.holder)), None)
        if mine is None:
            mine = _Slot(request.group, claim.run_id, request.holder, request.priority, claim.epoch)
            line.append(mine)
        if not mine.is_held and not _is_next(line, mine, request.limit):
            line = [slot for slot in line if slot is mine or not is_gone(self._runs[slot.run_id].owner)]
        self._slots[request.group] = line
        if not mine.is_held:
            mine.is_held = _is_next(line, mine, request.limit)
        return mine.is_held

    def _is_alive(self, slot: _Slot) -> bool:
        run = self._runs.get(slot.run_id)
        return run is not None and run.epoch == slot.epoch and bool(run.owner) and time.monotonic() < run.lease_until

    async def free_slots(self, claim: Claim, holders: Sequence[str]) -> None:
        """Give slots back, or leave the line."""
        gone = {(claim.run_id, holder, claim.epoch) for holder in holders}
        with self._lock:
            for group, line in list(self._slots.items()):
                self._slots[group] = [slot for slot in line if (slot.run_id, slot.holder, slot.epoch) not in gone]

    # -- for the owner's heart

    def beat(self, claim: Claim, steps: Sequence[BeatRow] = ()) -> None:
        """Say that the owner lives."""
        with self._lock:
            run = self._held(claim)
            run.beats += steps
            run.heartbeat_at = time.time()
            run.lease_until = time.monotonic() + claim.lease_s

    def cancel_request(self, run_id: str) -> CancelRequest | None:
        """What ``request_cancel`` left."""
        run = self._runs.get(run_id)
        return run.cancel if run is not None else None

    def signals(self, run_id: str, after: int) -> Sequence[Signal]:
        """What ``send_signal`` kept with a number over ``after``."""
        with self._lock:
            run = self._runs.get(run_id)
            return () if run is None else list(run.signals.values())[after:]

    # -- reading

    async def read(self, run_id: str, after: int = 0) -> Sequence[Record]:
        """The log of a run; empty when there is none."""
        return [Record(run_id, seq, entry) for seq, entry in enumerate(self.entries(run_id)[after:], after + 1)]

    async def run(self, run_id: str) -> RunRow | None:
        """A run's row."""
        run = self._runs.get(run_id)
        return None if run is None else self._row(run)

    async def runs(self, query: RunQuery) -> RunPage:
        """Runs, the newest first."""
        kept = [run for run in list(self._runs.values()) if not query.is_orphaned or _is_orphaned(run)]
        rows = sorted(map(self._row, kept), key=attrgetter("created_at", "run_id"), reverse=True)
        after = query.filters().get("cursor")
        found = [row for row in rows if _matches(row, query) and (not after or (row.created_at, row.run_id) < after)]
        return RunPage.of(found, query.limit)

    async def steps(self, run_id: str) -> Sequence[StepRow]:
        """The steps of a run and their items."""
        return self._rows(run_id).steps

    async def timers(self, run_id: str) -> Sequence[TimerRow]:
        """The timers of a run."""
        return sorted(self._rows(run_id).timers, key=attrgetter("due", "timer_id"))

    async def pending_timers(self, *, until: float | None = None, limit: int = 100) -> Sequence[TimerRow]:
        """Timers of all runs that have not fired, by due time."""
        rows = [row for run_id in list(self._runs) for row in self._rows(run_id).timers if row.status == "pending"]
        due = [row for row in rows if until is None or row.due <= until]
        return sorted(due, key=attrgetter("due", "run_id", "timer_id"))[:limit]

    async def slots(self, group: str = "") -> Sequence[SlotRow]:
        """Slots that are held or waited for."""
        with self._lock:
            lines = [self._slots.get(group, [])] if group else list(self._slots.values())
            found = [slot for line in lines for slot in line if self._is_alive(slot)]
            found.sort(key=lambda slot: (slot.group, not slot.is_held, -slot.priority))
            return [SlotRow(slot.group, slot.run_id, slot.holder, slot.priority, slot.is_held) for slot in found]

    async def spans(self, run_id: str) -> Sequence[SpanRow]:
        """The executions of a run."""
        return sorted(self._rows(run_id).spans, key=attrgetter("started_at", "span_id"))

    async def lines(self, query: LineQuery) -> Sequence[LogLine]:
        """What executors logged."""
        run = self._runs.get(query.run_id)
        return list(islice(filter(query.wants, run.lines if run is not None else ()), query.limit))

    async def load(self, run_id: str, path: str, index: int | None = None, variant: str = "primary") -> Checkpoint | None:
        """The checkpoint of a step or item."""
        run = self._runs.get(run_id)
        found = run.checkpoints.get(((path, index), variant)) if run is not None else None
        return found[1] if found else None

    async def checkpoints(self, run_id: str) -> Sequence[CheckpointRow]:
        """The checkpoints of a run."""
        run = self._runs.get(run_id)
        rows = [_checkpoint_row(point) for _, point in run.checkpoints.values()] if run is not None else []
        return sorted(rows, key=lambda row: (row.path, -1 if row.index is None else row.index, row.variant))

    async def checkpoint_statistics(self) -> CheckpointStatistics:
        """How much room the checkpoints of all runs take."""
        sizes = [_checkpoint_row(point).size_bytes for run in self._runs.values() for _, point in run.checkpoints.values()]
        return CheckpointStatistics(len(sizes), sum(sizes))

    async def processes(self, run_id: str) -> Sequence[ProcessRow]:
        """The processes that steps of a run have started."""
        run = self._runs.get(run_id)
        return list(run.processes) if run is not None else []

    async def heartbeats(self, run_id: str) -> Sequence[BeatRow]:
        """What steps of a run said of themselves."""
        run = self._runs.get(run_id)
        return sorted(run.beats, key=attrgetter("at")) if run is not None else []

    # -- spans that are to be exported

    async def open_spans(self, run_id: str, seq: int | None = None) -> SpanExport:
        """Note that a run's spans are to be exported."""
        with self._lock:
            self._found(run_id)
            known = self._exports.get(run_id) or SpanExport(run_id)
            again = attrs.evolve(known, is_open=True, changed_at=time.time())
            self._exports[run_id] = again if seq is None else attrs.evolve(again, seq=seq, letters=())
            return self._export(self._exports[run_id])

    async def put_spans(self, exports: Sequence[SpanExport]) -> None:
        """Note how far some exports are."""
        with self._lock:
            for export in exports:
                known = self._exports.get(export.run_id)
                if known is not None and export.seq >= known.seq:
                    self._exports[export.run_id] = export

    async def span_exports(
        self, which: Literal["open", "refused"] = "open", *, run_id: str = "", limit: int = 1000
    ) -> Sequence[SpanExport]:
        """Exports, the oldest run first."""
        with self._lock:
            found = [
                self._export(export)
                for export in sorted(self._exports.values(), key=attrgetter("run_id"))
                if not run_id or export.run_id == run_id
            ]
        if not run_id:
            found = [each for each in found if (each.is_open and each.seq < each.count if which == "open" else each.refused)]
        return found[:limit]

    def _export(self, export: SpanExport) -> SpanExport:
        run = self._runs.get(export.run_id)
        if run is None:
            return export
        is_held = run.owner and time.monotonic() < run.lease_until
        return attrs.evolve(export, count=len(run.entries), owner=run.owner if is_held else "")

    async def lead(self, what: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> bool:
        """Whether ``owner`` is the one that does ``what`` for all."""
        with self._lock:
            holder, until = self._leads.get(what, ("", 0.0))
            if holder not in ("", owner) and time.monotonic() < until and not is_gone(holder):
                return False
            self._leads[what] = (owner, time.monotonic() + lease_s)
            return True

    def close(self) -> None:
        """Nothing to let go of: what was kept stays as long as the store does."""

    def entries(self, run_id: str) -> Sequence[Entry]:
        """The log without its numbers, uncopied; for readers in this process."""
        run = self._runs.get(run_id)
        return () if run is None else run.entries

    def forget(self, run_id: str) -> None:
        """Free a run."""
        run = self._runs.pop(run_id, None)
        self._exports.pop(run_id, None)
        if run is not None and run.key:
            del self._keys[run.key]

    # -- parts

    def _found(self, run_id: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            raise RunNotFoundError(run_id)
        return run

    def _held(self, claim: Claim) -> _Run:
        run = self._found(claim.run_id)
        if run.epoch != claim.epoch:
            raise lease_lost(claim.run_id, run.owner, run.claimed_at)
        return run

    def _rows(self, run_id: str) -> Rows:
        return rows_of(self.entries(run_id)) if run_id in self._runs else Rows()

    def _row(self, run: _Run) -> RunRow:
        row = rows_of(run.entries, key=run.key, source=run.source).run
        assert row is not None, "a log begins with RunCreated"
        if run.is_suspended and not isinstance(run.entries[-1], RunEnded):
            row = attrs.evolve(row, status=RunStatus.SUSPENDED)
        return attrs.evolve(row, owner=shown(run.owner), heartbeat_at=run.heartbeat_at)


def _is_orphaned(run: _Run) -> bool:
    has_ended = isinstance(run.entries[-1], RunEnded)
    return not has_ended and (not run.owner or time.monotonic() >= run.lease_until)


def _checkpoint_row(point: Checkpoint) -> CheckpointRow:
    size = len(json.dumps(point.data, separators=(",", ":")))
    return CheckpointRow(point.path, point.index, point.variant, point.token, size, point.seq, point.saved_at)


def _drop_ended(run: _Run, entries: Sequence[Entry]) -> None:
    """What has ended needs no checkpoint and has no process; a whole step takes those of its items along."""
    ended: set[Place] = set()
    for entry in entries:
        if isinstance(entry, StepEnded):
            ended.add((entry.path, None))
        elif isinstance(entry, ItemEnded) or (isinstance(entry, AttemptEnded) and entry.outcome.status == "completed"):
            ended.add((entry.path, entry.index))
    for place, variant in list(run.checkpoints):
        if place in ended or (place[0], None) in ended:
            del run.checkpoints[place, variant]
    for process in list(run.processes):
        if (process.path, process.index) in ended or (process.path, None) in ended:
            del run.processes[process]


def _matches(row: RunRow, query: RunQuery) -> bool:
    return (
        (not query.statuses or row.status in query.statuses)
        and (not query.workflow or row.workflow == query.workflow)
        and (query.since is None or row.created_at >= query.since)
        and (query.until is None or row.created_at < query.until)
        and row.run_id.startswith(query.prefix)
        and (not query.key or row.key == query.key)
    )
