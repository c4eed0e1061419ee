"""What store, engine, client and policy authors need: the ports, and the records that cross them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import attrs

from treadle._codec import dump_line, load_line
from treadle._columns import (
    EXPORT_TABLE,
    LINE_TABLE,
    PACK_OVER,
    RUN_TABLE,
    SPAN_TABLE,
    STEP_TABLE,
    TIMER_TABLE,
    EntryColumns,
    Packed,
    Table,
    dump_value,
    item_number,
    item_of,
    pack,
    pack_entries,
    unpack,
    unpack_entry,
)
from treadle._faults import fault_point, watch_fault_points
from treadle._loop import loop_poster
from treadle._models import (
    DECISIONS,
    FACTS,
    AttemptEnded,
    AttemptStarted,
    BudgetRefusal,
    Cached,
    Call,
    CallCache,
    CallRate,
    Cancel,
    CancelRequested,
    Command,
    CompensationEnded,
    Decision,
    Entry,
    ErrorInfo,
    Evaluated,
    Fact,
    FallbackChosen,
    Finish,
    GiveUp,
    GroupStarted,
    InterruptAnswered,
    InterruptAsked,
    Issue,
    ItemEnded,
    Json,
    MapStarted,
    Outcome,
    Record,
    RetryAfter,
    RetryPolicy,
    RetryRequested,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SecretReference,
    SetTimer,
    SignalReceived,
    SlotTaken,
    SpanKind,
    SpanNote,
    SpanRecord,
    SpendLimit,
    Start,
    StepEnded,
    StepResult,
    StepStatus,
    StepUsage,
    StintOpened,
    TimerFired,
    Turn,
    UsageNoted,
    WaitEnded,
    WaitStarted,
    Work,
)
from treadle._spellings import spellings
from treadle._store_records import (
    BEAT_S,
    KEY_KEPT_S,
    LEASE_S,
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
    Rows,
    RunPage,
    RunQuery,
    RunRow,
    Signal,
    SlotRequest,
    SlotRow,
    SpanExport,
    SpanLetter,
    SpanRow,
    StepRow,
    StoreStats,
    TimerRow,
    lease_lost,
    out_of_place,
    owned_elsewhere,
)

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = [
    "BEAT_S",
    "DECISIONS",
    "EXPORT_TABLE",
    "FACTS",
    "KEY_KEPT_S",
    "LEASE_S",
    "LINE_TABLE",
    "PACK_OVER",
    "RUN_TABLE",
    "SPAN_TABLE",
    "STEP_TABLE",
    "TIMER_TABLE",
    "AnyContext",
    "AttemptEnded",
    "AttemptStarted",
    "BeatRow",
    "BudgetRefusal",
    "Cached",
    "Call",
    "CallCache",
    "CallRate",
    "Cancel",
    "CancelRequest",
    "CancelRequested",
    "Checkpoint",
    "CheckpointRow",
    "CheckpointStatistics",
    "Claim",
    "Client",
    "Clock",
    "Command",
    "Commit",
    "CompensationEnded",
    "Context",
    "Creation",
    "Decision",
    "Delivery",
    "DispatchEngine",
    "Entry",
    "EntryColumns",
    "ErrorInfo",
    "Evaluated",
    "Fact",
    "FallbackChosen",
    "Finish",
    "GiveUp",
    "GroupStarted",
    "InterruptAnswered",
    "InterruptAsked",
    "Issue",
    "ItemEnded",
    "Json",
    "LineQuery",
    "LogLine",
    "MapStarted",
    "NewRun",
    "Outcome",
    "Packed",
    "ProcessRow",
    "Record",
    "Redactor",
    "RetryAfter",
    "RetryPolicy",
    "RetryRequested",
    "RetryScheduled",
    "Rows",
    "RunCreated",
    "RunEnded",
    "RunPage",
    "RunQuery",
    "RunRow",
    "RunStatus",
    "RunStopping",
    "RunSurroundings",
    "SecretReference",
    "SetTimer",
    "Signal",
    "SignalReceived",
    "SlotRequest",
    "SlotRow",
    "SlotTaken",
    "SpanBatch",
    "SpanExport",
    "SpanKind",
    "SpanLetter",
    "SpanNote",
    "SpanRecord",
    "SpanRow",
    "SpanSender",
    "SpendLimit",
    "Spent",
    "Start",
    "StepEnded",
    "StepResult",
    "StepRow",
    "StepStatus",
    "StepUsage",
    "StintOpened",
    "Store",
    "StoreStats",
    "StoreUpkeep",
    "SyncContext",
    "Table",
    "TimerFired",
    "TimerRow",
    "TracingProvider",
    "Turn",
    "UsageNoted",
    "WaitEnded",
    "WaitStarted",
    "Work",
    "dump_line",
    "dump_value",
    "fault_point",
    "item_number",
    "item_of",
    "lease_lost",
    "load_line",
    "loop_poster",
    "out_of_place",
    "owned_elsewhere",
    "pack",
    "pack_entries",
    "spellings",
    "unpack",
    "unpack_entry",
    "watch_fault_points",
]


class Spent(Protocol):
    """Something that was counted by ``spend``."""

    def settle(
        self, *, cost: int | str | Decimal | None = None, tokens: int | None = None, requests: int | None = None
    ) -> None:
        """Say what it really was; what is left out stays as it was asked for. More than there was is counted, too."""


class AnyContext(Protocol):
    """What ``Context`` and ``SyncContext`` have in common, for helpers that take either."""

    @property
    def run_id(self) -> str:
        """The run."""

    @property
    def step(self) -> str:
        """The step's path, like ``publish/post``."""

    @property
    def index(self) -> int | None:
        """Item of a ``foreach``, from 0."""

    @property
    def attempt(self) -> int:
        """From 1."""

    @property
    def variant(self) -> str:
        """``primary``, ``fallback 1`` ..., ``compensation``."""

    @property
    def idempotency_key(self) -> str:
        """Equal for every attempt of this step and item; send it with every effect (G5)."""

    @property
    def traceparent(self) -> str:
        """W3C header that makes what is called a child of this attempt; empty without a trace."""

    @property
    def fencing_token(self) -> int:
        """Rises with every process that takes the run over: a service that remembers the highest one can refuse a late one."""

    @property
    def call(self) -> Call:
        """The whole call."""

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What an earlier attempt of this step (item, variant) saved last, read before this one began; None: begin anew."""

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry trace, span, run and step ids; those from INFO on are kept with the run."""

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is; shown live, never recorded. Cheap enough for a loop."""

    def save_soon(self, token: str, data: Json = None) -> None:
        """Note how far the work is, for progress within a stretch of work; what ends a stretch is ``save``.

        The newest is kept, at most every two minutes and when the attempt ends without success. Costs a copy of ``data``.

        Args:
            token: Where to go on.
            data: What is needed for that: plain JSON, or what can become it.

        Raises:
            CheckpointInvalidError: ``data`` is not JSON, or too large.
            CallCancelledError: The attempt is over already.
        """

    def heartbeat(self) -> None:
        """Say that the work goes on. Cheap enough for a loop.

        Who has said so once is held to it: an attempt that is silent for three minutes (``[run] stall``) ends as timed out.
        ``progress``, ``save`` and ``save_soon`` say the same.
        """

    def spend(self, *, cost: int | str | Decimal | None = 0, tokens: int = 0, requests: int = 0) -> Spent:
        """Count what is about to be used up, before it is; from any thread, and from a process of the call's own.

        Whatever becomes of the attempt, what was counted is counted, and recorded with its outcome.

        Args:
            cost: Dollars as a text or Decimal, or microcents as an int; None: it costs something, and nobody knows how much.
            tokens: Of a language model, in and out.
            requests: To something that is paid or limited.

        Returns:
            What ``settle`` is called on when it turned out to be another amount, so that the rest can be used by others.

        Raises:
            BudgetExceededError: The budget does not hold so much; nothing was counted.
            UnknownPriceError: ``cost`` is None, and a budget limits it.
            CallCancelledError: The attempt is over.
        """

    def span(
        self, name: str, *, kind: SpanKind = "client", attributes: Mapping[str, object] | None = None
    ) -> AbstractContextManager[dict[str, object]]:
        """A span for a call to a service, child of this attempt; yields its attributes to add to.

        An exception that leaves the block marks the span as an error and goes on.
        """


class SyncContext(AnyContext, Protocol):
    """What a ``def`` executor may ask for, left of ``/``: facts of its call, checkpoints, logging. Usable from its threads."""

    def save(self, token: str, data: Json = None) -> None:
        """As ``Context.save``; waits until it is kept."""

    def own_process(self, pid: int) -> None:
        """As ``Context.own_process``; waits until it is noted."""


class Context(AnyContext, Protocol):
    """What an ``async def`` executor may ask for, left of ``/``; as SyncContext, for use on the event loop."""

    async def save(self, token: str, data: Json = None) -> None:
        """Keep how far the work is; when it returns, the next attempt sees this or a later one, whatever happens (G6).

        There is one for each step (item, variant); it goes when the step has ended.

        Args:
            token: Where to go on, like ``step-2-complete``.
            data: What is needed for that: plain JSON, or what can become it.

        Raises:
            CheckpointInvalidError: ``data`` is not JSON, or too large.
            CallCancelledError: The attempt is over already.
            LeaseLostError: Another process drives the run now.
            TransientError: The store did not take it.
        """

    async def own_process(self, pid: int) -> None:
        """Note a process that the executor has started, so that it is ended before the step runs again after a crash.

        Its descendants end with it, and, when it leads a process group, that group.

        Raises:
            LeaseLostError: Another process drives the run now.
            TransientError: The store did not take it.
        """


@runtime_checkable
class Client(Protocol):
    """A shared connection to a service. The class's attributes are its settings.

    ``open`` returns an (async) context manager that yields what executors receive; an optional ``async def check(self)``
    serves ``treadle plugins doctor --connect``.
    """

    def open(self) -> AbstractAsyncContextManager[object] | AbstractContextManager[object]:
        """Connect; entered once on first use, left when the run ends."""


class Clock(Protocol):
    """Time, where it is part of behaviour (timers, deadlines, stamps), so that tests can skip it."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""

    async def sleep_until(self, at: float) -> None:
        """Return at ``at`` (seconds since the epoch) or soon after; at once when it has passed."""

    def hold(self) -> AbstractContextManager[None]:
        """Work is going on that time must not skip over (a thread, a child process). Reentrant."""


class RunSurroundings(Protocol):
    """What policies are told of a run, when a process begins to drive it."""

    @property
    def run_id(self) -> str:
        """The run."""

    @property
    def workflow(self) -> str:
        """Name of the workflow."""

    @property
    def stint(self) -> int:
        """How many processes have driven the run with this one, from 1."""

    @property
    def clock(self) -> Clock:
        """The run's time: real, or virtual in tests."""

    def seconds(self) -> float:
        """The run's time as seconds that only go forward, from one run of this process to the next as well.

        For what policies measure across runs. They pass with the run's clock, so tests can skip them.
        """

    def secrets(self) -> Mapping[str, str]:
        """The values of all secrets as they are now: those that the workflow takes, by name, and those of settings.

        A setting is called like ``[clients.http] token``. What has no value at the moment is left out.
        """

    def holds_secret(self, value: Json) -> bool:
        """Whether the value of one of them stands in plain data, however it is spelled; as they were when the run began."""


class Redactor(Protocol):
    """Takes out of a run's errors, spans, reasons and progress what must not be kept or shown."""

    @property
    def covers_outputs(self) -> bool:
        """Whether outputs are cleaned as well; later steps then receive them cleaned."""

    def text(self, text: str) -> str:
        """A text without it."""

    def value(self, value: Json, field: str = "") -> Json:
        """Plain data without it: the value itself when it holds none. ``field`` is the name that it stands under."""


class Store(Protocol):
    """Keeps runs: their logs, who drives them, and rows to look them up by.

    Every method may raise StoreUnavailableError. The async ones run on asyncio and trio; a write that was begun is finished
    although whoever awaits it is cancelled. ``beat``, ``cancel_request``, ``signals``, ``keep_lines`` and ``close`` may
    block; any thread may call them.
    """

    @property
    def name(self) -> str:
        """The name that users write: ``memory``, ``sqlite``."""

    @property
    def is_durable(self) -> bool:
        """Whether runs outlive the process."""

    @property
    def wants_rows(self) -> bool:
        """Whether commits are to carry rows; a store that can compute them from its logs does without."""

    # -- writing: each of these is all or nothing, and returning is the acknowledgement

    async def create(self, new: NewRun) -> Creation:
        """Keep a new run with its first entries, owned by its creator (epoch 1).

        When there is a run of the same (not empty) key already, nothing is kept and its id is answered (G13).

        Raises:
            RunKeyConflictError: The run of this key has another fingerprint.
        """

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> Claim:
        """Take a run over: raises its epoch, so that nothing of an earlier owner is accepted any more.

        Args:
            run_id: The run.
            owner: Who takes it; the part before ``@`` is for people.
            lease_s: How long the claim holds without a beat.
            is_gone: Asked with the owner whose lease has not run out: True when that process is known to have ended.

        Raises:
            RunNotFoundError: There is no such run.
            OwnedElsewhereError: Somebody else has it.
        """

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        """Let go of a run, so that anybody may claim it at once; nothing happens when the claim has been lost.

        Args:
            claim: The claim.
            rows: What changes because nobody drives the run any more.
        """

    async def commit(self, commit: Commit) -> None:
        """Append to a run's log.

        Raises:
            LeaseLostError: Somebody else has claimed the run since; nothing was kept.
            StoreUnavailableError: Nothing was kept; also when ``seq`` is not one after the last entry.
        """

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Keep how far an attempt got, in place of the one before; an older ``seq`` never replaces a newer one.

        Raises:
            LeaseLostError: Somebody else has claimed the run since; nothing was kept.
        """

    async def send_signal(self, run_id: str, signal: Signal) -> None:
        """Keep a signal for whoever drives the run, now or later; nothing changes when there is one of its id.

        Its ``number`` is not used: the store gives it one.

        Raises:
            RunNotFoundError: There is no such run.
            RunEndedError: It has ended; nothing was kept.
        """

    async def keep_process(self, claim: Claim, process: ProcessRow) -> None:
        """Keep which process a step has started, until the step or item has ended or ``drop_process``.

        Raises:
            LeaseLostError: Somebody else has claimed the run since; nothing was kept.
        """

    async def drop_process(self, claim: Claim, process: ProcessRow) -> None:
        """Forget a process that has ended.

        Raises:
            LeaseLostError: Somebody else has claimed the run since.
        """

    async def request_cancel(self, run_id: str, request: CancelRequest) -> None:
        """Ask whoever drives the run to stop it; a forced request is not weakened by a later one.

        Raises:
            RunNotFoundError: There is no such run.
        """

    # -- what executors log, from a thread of its own

    def keep_lines(self, run_id: str, lines: Sequence[LogLine]) -> None:
        """Keep what executors logged, giving each line the next ``seq``; may block, any thread may call it.

        Kept together or not at all, beside the log of the run and never in the way of its commits for longer than a write.

        Raises:
            RunNotFoundError: There is no such run.
        """

    async def take_slots(self, claim: Claim, requests: Sequence[SlotRequest], is_gone: Callable[[str], bool]) -> frozenset[str]:
        """Ask for slots, again and again until they are given; who asks stands in line from the first time on.

        A slot is given to the first in line while fewer than ``limit`` are held: higher priority first, then who asked first.
        Slots and places in line count only while their run's claim holds: what a process that died, or that lost its run, held
        is free without anybody's doing.

        Args:
            claim: Of the run that asks.
            requests: What is asked for; asking for what is held already answers it.
            is_gone: As for ``claim``: a holder whose process is known to have ended holds nothing.

        Returns:
            The holders that have their slot.

        Raises:
            LeaseLostError: Somebody else has claimed the run since.
        """

    async def free_slots(self, claim: Claim, holders: Sequence[str]) -> None:
        """Give slots back, or leave the line; nothing happens to what the run does not have."""

    # -- for the owner's heart, from its thread

    def beat(self, claim: Claim, steps: Sequence[BeatRow] = ()) -> None:
        """Say that the owner lives: the claim holds for its ``lease_s`` from now on.

        Args:
            claim: The claim.
            steps: What steps said of themselves, to be appended to ``heartbeats``.

        Raises:
            LeaseLostError: Somebody else has claimed the run since.
        """

    def cancel_request(self, run_id: str) -> CancelRequest | None:
        """What ``request_cancel`` left, until the run ends."""

    def signals(self, run_id: str, after: int) -> Sequence[Signal]:
        """What ``send_signal`` kept for a run with a number over ``after``, in the order in which it came."""

    # -- reading

    async def read(self, run_id: str, after: int = 0) -> Sequence[Record]:
        """The log of a run, in order, what comes after the entry ``after``; empty when there is no such run."""

    async def run(self, run_id: str) -> RunRow | None:
        """A run's row; None when there is no such run."""

    async def runs(self, query: RunQuery) -> RunPage:
        """Runs, the newest first."""

    async def steps(self, run_id: str) -> Sequence[StepRow]:
        """The steps of a run and their items, in the order in which they were first heard of."""

    async def timers(self, run_id: str) -> Sequence[TimerRow]:
        """The timers of a run, by due time."""

    async def pending_timers(self, *, until: float | None = None, limit: int = 100) -> Sequence[TimerRow]:
        """Timers of all runs that have not fired, by due time: those that are due ``until`` then, or the next ones."""

    async def slots(self, group: str = "") -> Sequence[SlotRow]:
        """Slots that are held or waited for, of one group or of all: held ones first, then in the order of the line."""

    async def spans(self, run_id: str) -> Sequence[SpanRow]:
        """The executions of a run, by start."""

    async def lines(self, query: LineQuery) -> Sequence[LogLine]:
        """What executors logged, in the order in which it was kept."""

    async def load(self, run_id: str, path: str, index: int | None = None, variant: str = "primary") -> Checkpoint | None:
        """The checkpoint of a step or item that has not ended; None when there is none."""

    async def checkpoints(self, run_id: str) -> Sequence[CheckpointRow]:
        """The checkpoints of a run, by step, item and variant."""

    async def checkpoint_statistics(self) -> CheckpointStatistics:
        """How much room the checkpoints of all runs take."""

    async def processes(self, run_id: str) -> Sequence[ProcessRow]:
        """The processes that steps of a run have started and that may still live."""

    async def heartbeats(self, run_id: str) -> Sequence[BeatRow]:
        """What steps of a run said of themselves, by time."""

    # -- spans that are to be exported: they are in the logs, and here stands how far each log was

    async def open_spans(self, run_id: str, seq: int | None = None) -> SpanExport:
        """Note that a run's spans are to be exported, until ``put_spans`` says that they were; answers how far they are.

        Args:
            run_id: The run.
            seq: Which entry to begin after, whatever was sent or refused before; None goes on where the last export stopped.

        Raises:
            RunNotFoundError: There is no such run.
        """

    async def put_spans(self, exports: Sequence[SpanExport]) -> None:
        """Note how far some exports are; one that would go back is passed over, as is one that nobody opened."""

    async def span_exports(
        self, which: Literal["open", "refused"] = "open", *, run_id: str = "", limit: int = 1000
    ) -> Sequence[SpanExport]:
        """Exports, the oldest run first.

        Args:
            which: Those that are open and have more to send, or those with spans that were refused.
            run_id: That of this run alone, whichever it is.
            limit: At most so many.
        """

    async def lead(self, what: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> bool:
        """Whether ``owner`` is the one that does ``what`` for all; holds for ``lease_s``, and is asked again to keep it.

        Args:
            what: A name.
            owner: Who asks, as for ``claim``; one that has it keeps it. With a ``lease_s`` of 0 it is given back.
            lease_s: Seconds.
            is_gone: As for ``claim``.
        """

    def close(self) -> None:
        """Let go of files and connections once what was begun is done; afterwards every method raises StoreUnavailableError."""


@runtime_checkable
class StoreUpkeep(Protocol):
    """What a store may offer besides to whoever looks after it; the ``treadle store`` commands use it.

    Days are counted from now, in fractions if need be. What is removed is removed in portions that others can write between.
    """

    async def stats(self) -> StoreStats:
        """What it holds."""

    async def migrate(self) -> tuple[int, int]:
        """Bring the tables to this version; answers the formats before and after. Opening a store to write does the same."""

    async def backup(self, path: Path) -> int:
        """Write a copy of all that has been acknowledged to a new file, while others read and write; answers its size in bytes.

        Raises:
            ConfigError: There is such a file already, or the store has tools of its own for this.
        """

    async def vacuum(self) -> tuple[int, int]:
        """Give room that is free back to the disk; answers its size in bytes before and after."""

    async def clean(self, days: float, *, dry_run: bool = False) -> int:
        """Remove the runs that ended more than so many days ago, with all that belongs to them; answers how many.

        A run that has a key is kept for a day at least, so that its key still finds it; and one whose spans are still to be
        exported, until they are or ``drop_unsent`` says that they will not be.
        """

    async def count_unsent(self, days: float) -> int:
        """How many runs ``clean`` keeps, although they are old enough, because their spans are still to be exported."""

    async def drop_unsent(self, days: float) -> int:
        """Export no more of the runs that ``clean`` keeps because of their spans; answers how many.

        What was not sent then goes with the run; runs that go on, or that are not old enough, are still exported.
        """

    async def cleanup_old_events(self, days: float) -> int:
        """Remove the logs of runs that ended more than so many days ago, and what their steps logged; their rows stay.

        Answers how many entries of logs it were.
        """

    async def cleanup_old_checkpoints(self, days: float) -> int:
        """Remove the checkpoints that are older, of runs that have ended; answers how many."""

    async def cleanup_fired_timers(self, days: float) -> int:
        """Remove the timers that fired or were cancelled more than so many days ago; answers how many."""


class DispatchEngine(Protocol):
    """Decides where calls are performed; treadle's driver and log do the rest."""

    @property
    def name(self) -> str:
        """The engine's name."""

    @property
    def capabilities(self) -> frozenset[str]:
        """Of ``durable distributed cancels_running streams``."""

    async def perform(self, call: Call) -> Outcome:
        """Perform one call and return how it ended; cancelling the await cancels the call."""


@attrs.frozen
class SpanBatch:
    """Spans to send in one request.

    Attributes:
        spans: Finished spans of treadle; of several runs, perhaps.
        scope: Name of the instrumentation scope that they belong to.
        version: Of the scope.
        schema_url: Of the conventions that they follow.
    """

    spans: Sequence[SpanRecord]
    scope: str
    version: str
    schema_url: str


@attrs.frozen
class Delivery:
    """How a batch of spans fared.

    Attributes:
        outcome: ``delivered``; ``later``: not now, the same batch may be sent again; ``too_large``: it may be sent in parts;
            ``refused``: these spans will never be taken; ``denied``: nothing is taken from here (an unknown key, a wrong
            address) until somebody changes the settings.
        reason: Why it was not delivered, short; or what the backend remarked.
        retry_after_s: How long the backend asks not to be bothered; None when it does not say.
        rejected: Spans of a delivered batch that it did not take.
    """

    outcome: Literal["delivered", "later", "too_large", "refused", "denied"]
    reason: str = ""
    retry_after_s: float | None = None
    rejected: int = 0


class SpanSender(Protocol):
    """Sends spans that a store keeps, one batch after another, from one thread."""

    @property
    def endpoint(self) -> str:
        """Where to, for people."""

    def send(self, batch: SpanBatch, timeout_s: float) -> Delivery:
        """Send a batch and wait for the answer; never raises, never tries twice."""


class TracingProvider(Protocol):
    """What an entry point of group ``treadle.tracing`` answers: a pipeline that it set up and must be closed."""

    @property
    def sender(self) -> SpanSender | None:
        """Takes the spans of runs that a durable store keeps, which then do not go through the provider; None: they do."""

    def shutdown(self, timeout_s: float) -> str:
        """Deliver what is left within ``timeout_s``; answer one line about what was not delivered, or an empty text."""
