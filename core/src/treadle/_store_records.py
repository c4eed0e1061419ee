"""What stores keep beside the log: rows to look things up by, ownership, and questions about them. Frozen records.

The log is the truth; every row here is computed from it by core (``_log_rows``), so that a store only writes what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeVar

import attrs

from treadle._models import Entry, Json, RunStatus, StepStatus
from treadle.errors import LeaseLostError, OwnedElsewhereError, StoreUnavailableError

T = TypeVar("T")

SpanStatus = Literal["running", "completed", "failed", "partial_failure"]
TimerKind = Literal["retry", "timeout", "cleanup", "custom"]
TimerStatus = Literal["pending", "fired", "cancelled"]

LEASE_S = 30.0
"""How long a claim holds without a beat."""

BEAT_S = 5.0
"""How often an owner says that it lives."""

NO_INDEX = -1
"""What stores write for the item of a step without ``foreach``: part of keys, which cannot hold a null."""


@attrs.frozen
class RunRow:
    """One run, as lists show it.

    Attributes:
        run_id: Sortable by time.
        workflow: Name of the workflow.
        workflow_hash: SHA-256 of its canonical form.
        status: Of the run.
        trigger: What started it.
        trace_id: 32 hex digits.
        created_at: Seconds since the epoch.
        ended_at: None while it goes on.
        stint: The latest; 0 before the first.
        key: What makes starting it idempotent; empty for none.
        source: The file that it was started from; empty when it came from Python.
        reason: Why it ended so; empty when it completed.
        culprit: The step that caused it.
        error_type: Of the root cause; empty without one.
        error_message: Its first line.
        owner: ``host:pid`` of the process that drives it, empty for nobody; kept by the store.
        heartbeat_at: When the owner was last heard of; kept by the store.
    """

    run_id: str
    workflow: str
    workflow_hash: str
    status: RunStatus
    trigger: str
    trace_id: str
    created_at: float
    ended_at: float | None = None
    stint: int = 0
    key: str = ""
    source: str = ""
    reason: str = ""
    culprit: str = ""
    error_type: str = ""
    error_message: str = ""
    owner: str = ""
    heartbeat_at: float | None = None

    @property
    def duration_s(self) -> float | None:
        """Seconds from creation to end; None while it goes on."""
        return None if self.ended_at is None else self.ended_at - self.created_at


@attrs.define(unsafe_hash=True)
class StepRow:
    """One step of a run, or one item of a ``foreach`` (which has a row for the whole as well).

    Nobody changes one; it is not frozen because each step makes two, and setting their fields would take five times as long.

    Attributes:
        run_id: The run.
        path: The step.
        index: The item; None for the whole step.
        phase: ``main`` or ``finally``.
        executor: What it uses.
        status: Of the step or item.
        attempt: The latest attempt, from 1; 0 before the first. For the whole of a ``foreach``: of all its items.
        stint: In which the latest attempt was released.
        worker: ``host:pid`` of the process that performs or performed it.
        idempotency_key: What its effects carry.
        queued_at: When its first attempt was released.
        started_at: When the latest attempt was entered; None until it has ended.
        ended_at: None while it goes on.
        cost: Microcents spent.
        tokens: Tokens used.
        error_type: Of the last error; empty without one.
        error_message: Its first line.
        reason: Why it ended so.
    """

    run_id: str
    path: str
    index: int | None
    phase: str
    executor: str
    status: StepStatus
    attempt: int = 0
    stint: int = 0
    worker: str = ""
    idempotency_key: str = ""
    queued_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    cost: int = 0
    tokens: int = 0
    error_type: str = ""
    error_message: str = ""
    reason: str = ""


@attrs.frozen
class TimerRow:
    """A durable timer.

    Attributes:
        run_id: The run.
        timer_id: Unique within it.
        path: The step that waits.
        index: The item; None outside of a ``foreach``.
        kind: What it is for.
        due: When it fires, seconds since the epoch.
        status: ``pending``, ``fired`` or ``cancelled``.
        created_at: When it was set.
        fired_at: When it fired.
        payload: Of a custom one.
    """

    run_id: str
    timer_id: str
    path: str
    index: int | None
    kind: TimerKind
    due: float
    status: TimerStatus
    created_at: float
    fired_at: float | None = None
    payload: Json = attrs.field(default=None, repr=False)


@attrs.define(unsafe_hash=True)
class SpanRow:
    """One execution of an executor: a row of ``execution_spans``, there from its start. Nobody changes one (see ``StepRow``).

    Attributes:
        span_id: 16 hex digits, that of the attempt's span.
        trace_id: 32 hex digits.
        parent_id: The step's span.
        executor_type: The executor.
        task_id: The step, with its item: ``each[3]``.
        workflow_execution_id: The run.
        attempt: From 1.
        stint: From 1.
        started_at: When it was released, later when it was entered.
        ended_at: None while it runs.
        status: ``running``, ``completed``, ``failed`` or ``partial_failure``.
        output_keys: Keys of the output, when that is an object.
        validation_issues: What broke the contract.
        error: First line of the error; empty without one.
    """

    span_id: str
    trace_id: str
    parent_id: str
    executor_type: str
    task_id: str
    workflow_execution_id: str
    attempt: int
    stint: int
    started_at: float
    ended_at: float | None = None
    status: SpanStatus = "running"
    output_keys: tuple[str, ...] = ()
    validation_issues: tuple[str, ...] = ()
    error: str = ""

    @property
    def duration_ms(self) -> int | None:
        """Whole milliseconds; None while it runs."""
        return None if self.ended_at is None else max(0, round((self.ended_at - self.started_at) * 1000))


@attrs.frozen
class SpanLetter:
    """Spans that the backend did not take: they are kept in the log, and sent again only when somebody asks.

    Attributes:
        first: The first entry of the log that finished one of them.
        last: The last.
        spans: How many.
        reason: What the backend said.
        at: When, seconds since the epoch; the first time, if it was not final.
        is_final: False for a span that the backend may still take: it is tried again, and those behind it in the run wait.
    """

    first: int
    last: int
    spans: int
    reason: str
    at: float
    is_final: bool = True


@attrs.frozen
class SpanExport:
    """How far the spans of a run were exported. The spans themselves are a projection of its log.

    Attributes:
        run_id: The run.
        seq: The spans that entries up to this one finished have been delivered or refused; 0 for none.
        is_open: Whether there is more to send, or will be.
        sent: Spans that were delivered.
        letters: Those that were refused, and the one that holds the others up.
        reason: Why the last attempt did not deliver; empty when it did.
        changed_at: Seconds since the epoch.
        count: Entries of the log; kept by the store.
        owner: Who drives the run, empty when nobody's claim holds; kept by the store (see ``Store.claim``).
    """

    run_id: str
    seq: int = 0
    is_open: bool = True
    sent: int = 0
    letters: tuple[SpanLetter, ...] = ()
    reason: str = ""
    changed_at: float = 0.0
    count: int = 0
    owner: str = ""

    @property
    def refused(self) -> int:
        """Spans that were refused for good."""
        return sum(letter.spans for letter in self.letters if letter.is_final)


Place = tuple[str, int | None]
"""A step or one of its items: path and index."""


@attrs.frozen
class Rows:
    """What a commit changes beside the log: each row replaces the one of the same key.

    Attributes:
        run: The run's row; None when it stays as it is.
        steps: Steps and items.
        timers: Timers.
        spans: Executions.
        ended: Steps and items that have ended: their checkpoints and processes go.
    """

    run: RunRow | None = None
    steps: tuple[StepRow, ...] = ()
    timers: tuple[TimerRow, ...] = ()
    spans: tuple[SpanRow, ...] = ()
    ended: tuple[Place, ...] = ()


@attrs.define
class Commit:
    """What becomes durable together, or not at all. Nobody changes one; it is not frozen because each step makes one.

    Attributes:
        run_id: The run.
        epoch: The owner's; a commit of an earlier one is refused.
        seq: Place of the first entry, one after the last that is stored.
        entries: Facts and decisions in order.
        rows: What they change; None for a store that does not want rows.
        is_alone: Whether nothing of the run goes on meanwhile: no call is performed, and none is ready.
    """

    run_id: str
    epoch: int
    seq: int
    entries: Sequence[Entry]
    rows: Rows | None = None
    is_alone: bool = False


@attrs.frozen
class NewRun:
    """A run that is to be created, owned by its creator from the start.

    Attributes:
        first: Its first entries; epoch 1, seq 1.
        row: Its row, with key and source.
        fingerprint: Hash of what the key stands for; compared when there is a run of this key already.
        owner: Who creates it (see ``Store.claim``).
        lease_s: How long the claim holds without a beat.
    """

    first: Commit
    row: RunRow
    fingerprint: str
    owner: str
    lease_s: float = LEASE_S


@attrs.frozen
class Claim:
    """The right to write to a run, until somebody else claims it.

    Attributes:
        run_id: The run.
        owner: Who has it.
        epoch: Raised by every claim; what fences the writes of earlier owners off.
        lease_s: How long it holds without a beat.
        taken_from: The owner that it was taken from, which had not let go of it; empty when nobody had it.
    """

    run_id: str
    owner: str
    epoch: int
    lease_s: float = LEASE_S
    taken_from: str = ""


@attrs.frozen
class Checkpoint:
    """How far an attempt got, in its own words.

    Attributes:
        path: The step.
        index: The item; None outside of a ``foreach``.
        variant: Which of the step's executors.
        token: Where to go on, like ``step-2-complete``.
        data: Plain JSON. Never in repr.
        seq: Rises with each save of an attempt; a lower one never replaces a higher one.
        saved_at: Seconds since the epoch.
    """

    path: str
    index: int | None
    variant: str
    token: str
    data: Json = attrs.field(default=None, repr=False)
    seq: int = 1
    saved_at: float = 0.0

    def data_as(self, kind: type[T]) -> T:
        """The data as a class of attrs, a dataclass or a TypedDict.

        What an older version of the class did not save takes its default; what a newer one added is left out.

        Raises:
            ValueError: The data do not fit; the message names each field.
        """
        import cattrs  # takes longer than all of treadle's records, and few steps need it

        try:
            return cattrs.Converter(forbid_extra_keys=False).structure(self.data, kind)
        except (cattrs.BaseValidationError, TypeError, ValueError, KeyError) as error:
            why = "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else str(error)
            raise ValueError(f"checkpoint {self.token!r} of step {self.path!r} is no {kind.__name__}: {why}") from error


@attrs.frozen
class CheckpointRow:
    """What lists show of a checkpoint: all but its data.

    Attributes:
        path: The step.
        index: The item; None outside of a ``foreach``.
        variant: Which of the step's executors.
        token: Where to go on.
        size_bytes: Of its data as JSON, before compression.
        seq: Of its attempt's saves, the latest.
        saved_at: Seconds since the epoch.
    """

    path: str
    index: int | None
    variant: str
    token: str
    size_bytes: int
    seq: int
    saved_at: float


@attrs.frozen
class CheckpointStatistics:
    """How much room checkpoints take.

    Attributes:
        count: How many there are.
        total_bytes: Of their data as JSON, before compression.
    """

    count: int = 0
    total_bytes: int = 0

    @property
    def average_bytes(self) -> float:
        """Per checkpoint; 0.0 when there is none."""
        return self.total_bytes / self.count if self.count else 0.0


@attrs.frozen
class ProcessRow:
    """A process that a step has started, and that must not outlive its owner.

    Attributes:
        path: The step.
        index: The item; None outside of a ``foreach``.
        pid: Its number, which may have passed to another process since: ``started`` and ``machine`` tell.
        started: When it was started, in ticks since boot.
        machine: The boot and the namespace that the number is of.
    """

    path: str
    index: int | None
    pid: int
    started: str
    machine: str


@attrs.frozen
class BeatRow:
    """A step said that it lives; kept for audit, not every time.

    Attributes:
        path: The step.
        index: The item; None outside of a ``foreach``.
        attempt: Which attempt said so.
        at: Seconds since the epoch.
    """

    path: str
    index: int | None
    attempt: int
    at: float


@attrs.frozen
class LogLine:
    """Something that an executor logged or printed.

    Attributes:
        at: When, seconds since the epoch.
        path: The step.
        index: The item; None outside of a ``foreach``.
        attempt: From 1.
        level: As a number, like ``logging.INFO``.
        text: What was said; several lines when it was so. Holds neither NUL nor half a surrogate pair.
        logger: Name of the logger.
        stream: ``stdout`` or ``stderr`` for what was printed there; empty for what was logged.
        variant: Which of the step's executors.
        stint: In which it was said.
        generation: Of the step.
        seq: Its place among the lines of the run; given by the store, rising.
    """

    at: float
    path: str
    index: int | None
    attempt: int
    level: int
    text: str
    logger: str = ""
    stream: str = ""
    variant: str = "primary"
    stint: int = 1
    generation: int = 1
    seq: int = 0


@attrs.frozen
class LineQuery:
    """Which lines of a run to read, in the order in which they were kept.

    Attributes:
        run_id: The run.
        path: Of this step, and of what lies within it; of all when empty.
        index: Of this item of the step, and of what lies within it; of all when None.
        attempt: Of this attempt; of all when None.
        level: Of this level or a higher one.
        after: Whose ``seq`` is higher: the last one that was read before.
        limit: At most so many.
    """

    run_id: str
    path: str = ""
    index: int | None = None
    attempt: int | None = None
    level: int = 0
    after: int = 0
    limit: int = 1_000

    def filters(self) -> dict[str, tuple[object, ...]]:
        """The filters that are asked for, by name, each with its values: for a store that makes a statement of them.

        ``path`` has the path and two ranges of paths (from, below) that lie within it; ``item`` has the path, the index and
        one such range; ``attempt`` has the number.
        """
        found: dict[str, tuple[object, ...]] = {}
        path, index = self.path, self.index
        if path and index is None:
            found["path"] = (path, f"{path}/", f"{path}0", f"{path}[", f"{path}\\")
        elif path:
            found["item"] = (path, index, f"{path}[{index}]/", f"{path}[{index}]0")
        if self.attempt is not None:
            found["attempt"] = (self.attempt,)
        return found

    def wants(self, line: LogLine) -> bool:
        """Whether a line is asked for."""
        path, item = self.path, f"{self.path}[{self.index}]/"
        if self.index is None:
            is_there = not path or line.path == path or line.path.startswith((f"{path}/", f"{path}["))
        else:
            is_there = (line.path, line.index) == (path, self.index) or line.path.startswith(item)
        return is_there and self.attempt in (None, line.attempt) and line.level >= self.level and line.seq > self.after


@attrs.frozen
class CancelRequest:
    """Somebody asked through the store that the run stops.

    Attributes:
        reason: Shown to people.
        force: Also do without the ``finally`` steps.
    """

    reason: str
    force: bool = False


@attrs.frozen
class Signal:
    """A named message for a run.

    Attributes:
        name: What steps wait for.
        payload: Plain JSON. Never in repr.
        signal_id: Unique; a second one of the same id changes nothing.
        sent_at: Seconds since the epoch.
        due: When it is to be delivered; None: at once.
        number: Its place among those of the run, from 1; given by the store.
    """

    name: str
    payload: Json = attrs.field(default=None, repr=False)
    signal_id: str = ""
    sent_at: float = 0.0
    due: float | None = None
    number: int = 0


@attrs.frozen
class SlotRequest:
    """A call, or a whole run, that asks for a slot of a group.

    Attributes:
        group: What has slots; shared by all runs of the store.
        holder: Who asks, unique within the run.
        limit: Slots that the group has, by who asks.
        priority: Higher ones first; who asked first among equals.
    """

    group: str
    holder: str
    limit: int
    priority: int = 0


@attrs.frozen
class SlotRow:
    """A slot that is held, or that is waited for.

    Attributes:
        group: What has slots.
        run_id: Whose it is.
        holder: Of the run.
        priority: Higher ones first.
        is_held: False while it is waited for.
    """

    group: str
    run_id: str
    holder: str
    priority: int
    is_held: bool


@attrs.frozen
class Creation:
    """What became of a NewRun.

    Attributes:
        run_id: The run of this key: the new one, or the one that there was.
        claim: The creator's; None when there was a run of this key already.
    """

    run_id: str
    claim: Claim | None


@attrs.frozen
class RunQuery:
    """Which runs to list, the newest first.

    Attributes:
        statuses: Of one of these; all when empty.
        workflow: Of this workflow; all when empty.
        since: Created then or later, seconds since the epoch.
        until: Created before.
        prefix: Whose id begins so.
        key: Started under this key.
        is_orphaned: That have not ended and that nobody drives: let go of, or their lease has run out.
        limit: At most so many.
        cursor: Where the page before ended; empty for the first.
    """

    statuses: tuple[RunStatus, ...] = ()
    workflow: str = ""
    since: float | None = None
    until: float | None = None
    prefix: str = ""
    key: str = ""
    is_orphaned: bool = False
    limit: int = 50
    cursor: str = ""

    def filters(self) -> dict[str, tuple[object, ...]]:
        """The filters that are asked for, by name, each with its values: for a store that makes a statement of them.

        ``prefix`` has two (from, below), ``orphaned`` none (only the store knows the time of its leases), ``cursor`` two
        (created at, id): the place that the runs wanted come after.

        Raises:
            ValueError: The cursor is none.
        """
        found: dict[str, tuple[object, ...]] = {}
        if self.statuses:
            found["statuses"] = tuple([status.value for status in self.statuses])
        if self.workflow:
            found["workflow"] = (self.workflow,)
        if self.since is not None:
            found["since"] = (self.since,)
        if self.until is not None:
            found["until"] = (self.until,)
        if self.prefix:
            found["prefix"] = (self.prefix, self.prefix + "\U0010ffff")
        if self.key:
            found["key"] = (self.key,)
        if self.is_orphaned:
            found["orphaned"] = ()
        if self.cursor:
            at, _, run_id = self.cursor.partition(" ")
            try:
                found["cursor"] = (float(at), run_id)
            except ValueError:
                raise ValueError(f"{self.cursor!r} is no cursor of a list of runs") from None
        return found


@attrs.frozen
class RunPage:
    """Some runs.

    Attributes:
        runs: The newest first.
        cursor: For the next page; empty when this is the last. It stays right when runs come or go meanwhile.
    """

    runs: tuple[RunRow, ...]
    cursor: str = ""

    @classmethod
    def of(cls, runs: Sequence[RunRow], limit: int) -> RunPage:
        """A page of at most ``limit`` runs out of those that were found, which are one more when there is another page."""
        page = tuple(runs[:limit])
        return cls(page, f"{page[-1].created_at!r} {page[-1].run_id}" if len(runs) > len(page) and page else "")


@attrs.frozen
class StoreStats:
    """What a store holds.

    Attributes:
        store: Its name: ``sqlite``.
        where: The place, without credentials.
        format: Version of its tables.
        generation: Tells this store from a copy of it.
        size_bytes: What it takes on the disk, all in all.
        reusable_bytes: What of that is free for new rows.
        log_bytes: Of the write-ahead log, where it is a file of its own.
        runs: How many there are of each status.
        rows: How many there are in each table.
        checkpoint_bytes: Of all checkpoints, before compression.
        oldest_run_at: When the oldest run was created; None without runs.
    """

    store: str
    where: str
    format: int
    generation: str
    size_bytes: int
    reusable_bytes: int
    log_bytes: int
    runs: Mapping[str, int]
    rows: Mapping[str, int]
    checkpoint_bytes: int
    oldest_run_at: float | None


SPAN_PATIENCE_S = 3_600.0
"""How long a span is sent again that a backend answers with "later" while it takes others."""

KEY_KEPT_S = 86_400.0
"""How long after the end of its run a key still stands for it, however short the retention is (C07)."""


def owned_elsewhere(run_id: str, owner: str, claimed_at: float) -> OwnedElsewhereError:
    """Somebody else drives the run."""
    return OwnedElsewhereError(run_id, shown(owner), since(claimed_at))


def lease_lost(run_id: str, owner: str, claimed_at: float) -> LeaseLostError:
    """Somebody else has claimed the run since."""
    return LeaseLostError(run_id, shown(owner), since(claimed_at))


def out_of_place(commit: Commit, count: int) -> StoreUnavailableError:
    """A commit does not begin where the log, of so many entries, ends."""
    return StoreUnavailableError(
        f"Run {commit.run_id}: entry {commit.seq} was to be appended, but the log holds {count}.",
        "Another process may drive this run; only one may.",
    )


def shown(owner: str) -> str:
    """``host:pid`` of an owner."""
    return owner.partition("@")[0]


def since(at: float | None) -> str:
    """A time for people; empty for None."""
    return "" if at is None else local_text(at)


def local_text(at: float) -> str:
    """A time for people: in the zone of the machine, with its offset from UTC."""
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")
