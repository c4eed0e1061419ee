"""The frozen records that every floor shares: calls, outcomes, facts, decisions, commands, spans, results.

Times are seconds since the epoch (float, UTC); durations are seconds and their names end in ``_s``.
Values that come from or go to a workflow are plain JSON data (None, bool, int, float, str, list, dict with str keys).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from treadle._span_ids import attempt_span_id, step_span_id

if TYPE_CHECKING:
    from attrs import frozen as record
else:
    # Every step makes eight of these: a frozen class takes three times as long to fill in. The checkers hold them frozen.
    record = partial(attrs.define, unsafe_hash=True)

Json = object
"""Plain JSON data. An alias for readers: Python's types cannot say it strictly and cheaply."""

Work = Callable[[], Awaitable[object]]
"""What the ``execute`` hook answers: a zero-argument async function that the runner awaits."""

BUDGET_TIMER_ID = "budget:"
"""The timer of the run's own wall_time budget."""

RULES_VERSION = 1
"""Version of the scheduler's rules, written into RunCreated; replay decides by it."""


class RunStatus(enum.StrEnum):
    """States of a run (C18)."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    PARTIAL_FAILURE = "partial_failure"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


class StepStatus(enum.StrEnum):
    """States of a step (C18)."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    PARTIAL_FAILURE = "partial_failure"
    CACHED = "cached"
    SKIPPED = "skipped"
    FAILED = "failed"
    UPSTREAM_FAILED = "upstream_failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    POISONED = "poisoned"


# -- contracts and retries ---------------------------------------------------------------------------------------------


@attrs.frozen
class Issue:
    """One broken clause of a contract.

    Attributes:
        message: What is wrong, in a sentence.
        path: Where in the output, like ``$.items[0].name``; empty for the whole.
    """

    message: str
    path: str = ""

    def __str__(self) -> str:
        """The path, when there is one, and the message."""
        return f"{self.path}: {self.message}" if self.path else self.message


@attrs.frozen
class RetryAfter:
    """A proposal: try again.

    Attributes:
        delay_s: Seconds to wait; None leaves the delay to the step's retry policy.
        reason: Why trying again may help; shown to people.
        is_counted: Whether the attempt that failed counts against ``max_attempts`` and the run's ``max_retries``. Not when the
            call was put off: it was not made.
    """

    delay_s: float | None = None
    reason: str = ""
    is_counted: bool = True


@attrs.frozen
class GiveUp:
    """A proposal: do not try again."""

    reason: str = ""


@attrs.frozen
class RetryPolicy:
    """How a step is retried; the wait after attempt n is ``min(base_s * factor**(n-1), max_delay_s)`` plus jitter (C01).

    Attributes:
        max_attempts: Attempts in all, the first included (C02).
        base_s: Wait after the first attempt.
        factor: What each further wait is multiplied by.
        max_delay_s: Longest wait.
        jitter: Part of the wait that is drawn at random and added, 0 to 1; applied only to waits over 1 s.
        delays_s: Explicit waits instead of the formula; the last one repeats.
        retry_on: Names of error types (or words of the message) that are retried.
        no_retry_on: The same, never retried; wins over ``retry_on``.
        on_invalid: Whether an invalid output is retried (C04).
        explicit: Whether the file (or builder) said ``retry``; without it only what is transient is retried.
    """

    max_attempts: int = 3
    base_s: float = 2.0
    factor: float = 2.0
    max_delay_s: float = 300.0
    jitter: float = 0.1
    delays_s: tuple[float, ...] | None = None
    retry_on: tuple[str, ...] = ()
    no_retry_on: tuple[str, ...] = ()
    on_invalid: bool = False
    explicit: bool = False


@attrs.frozen
class ErrorInfo:
    """An exception as data.

    Attributes:
        type: Name of the exception's class, for people and for ``retry_on``.
        message: Its first lines, never empty.
        remedy: What to do about it; may be empty.
        issues: Broken clauses of a contract, when that was the error.
        traceback: The formatted stack, when user code raised.
        retryable: What the exception said of itself: True, False, or None when it did not say.
        partial_results: What it carried of the work done before it (``exc.partial_results``), when that is plain JSON.
        items_processed: How many items that is.
        inputs: What the failed call was given, with ``***`` for secrets, cut to a few KiB; None when no call failed.
    """

    type: str
    message: str
    remedy: str = ""
    issues: tuple[Issue, ...] = ()
    traceback: str = attrs.field(default="", repr=False)
    retryable: bool | None = None
    partial_results: Json = attrs.field(default=None, repr=False)
    items_processed: int | None = None
    inputs: Json = attrs.field(default=None, repr=False)


# -- what is used up ---------------------------------------------------------------------------------------------------

Resource = Literal["cost", "tokens", "requests"]
LimitMode = Literal["before", "after", "warn"]


@attrs.frozen
class StepUsage:
    """What was used up: by an attempt, a step or a whole run; usages can be added.

    Attributes:
        cost: Microcents (1e-8 USD).
        tokens: Tokens of language models, in and out.
        requests: Requests to a service that is paid or counted.
    """

    cost: int = 0
    tokens: int = 0
    requests: int = 0

    def __add__(self, other: StepUsage) -> StepUsage:
        """Both together."""
        return StepUsage(self.cost + other.cost, self.tokens + other.tokens, self.requests + other.requests)

    def __bool__(self) -> bool:
        """Whether anything was used."""
        return bool(self.cost or self.tokens or self.requests)


@attrs.frozen
class SpendLimit:
    """How much of one resource an attempt may use.

    Attributes:
        resource: ``cost``, ``tokens``, ``requests`` or ``wall_time``.
        most: Microcents, a number, or milliseconds.
        mode: ``before`` refuses what would exceed it, ``after`` what has exceeded it, ``warn`` nothing.
        scope: Whose budget it is a part of, for people: ``run``, ``step report``.
    """

    resource: Literal["cost", "tokens", "requests", "wall_time"]
    most: int
    mode: LimitMode = "before"
    scope: str = "run"


@attrs.frozen
class BudgetRefusal:
    """That an attempt asked for more than there was.

    Attributes:
        resource: Of what; ``wall_time`` when the time of a budget was over.
        asked: How much more: microcents, a number, or whole seconds.
        scope: Whose budget it was.
    """

    resource: str
    asked: int = 0
    scope: str = ""


# -- calls -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class SecretReference:
    """Where a secret goes in a call's inputs: beside the data, never a marker inside it.

    Attributes:
        path: Keys and indexes from the inputs down to the text.
        parts: The text in order; each part is ``("text", literal)`` or ``("secret", name)``.
    """

    path: tuple[str | int, ...]
    parts: tuple[tuple[str, str], ...]


_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = tuple([first + second for first in _BASE32 for second in _BASE32])


def idempotency_key(run_id: str, path: str, index: int | None, variant: str = "primary", generation: int = 1) -> str:
    """What every attempt of a step or item carries: ``trd1-`` and 32 characters (G5)."""
    item = "" if index is None else str(index)
    digest = hashlib.sha256("\x1f".join((run_id, path, item, variant, str(generation))).encode()).digest()
    number = int.from_bytes(digest[:20], "big")  # 20 bytes are 32 characters of base32, two at a time here
    return "trd1-" + "".join([_PAIRS[number >> shift & 1023] for shift in range(150, -1, -10)])


def wait_timer_id(path: str) -> str:
    """The timer that ends the wait of a step, or of its item ``each[3]``."""
    return f"wait:{path}"


def signal_timer_id(signal_id: str) -> str:
    """The timer that a signal waits for which is to be delivered later."""
    return f"signal::{signal_id}"


def retry_timer_id(path: str, index: int | None, attempt: int, variant: str = "primary") -> str:
    """The timer that waits for the attempt after ``attempt``."""
    timer_id = f"retry:{path}:{'' if index is None else index}:{attempt}"
    return timer_id if variant == "primary" else f"{timer_id}:{variant}"


def timeout_timer_id(scope: str) -> str:
    """The timer that ends a group, or an item of a ``foreach`` over one; the run's for an empty scope."""
    return f"timeout:{scope}"


@attrs.frozen
class CallCache:
    """What a call's step says of keeping its output; for the policy that serves ``cache``.

    Attributes:
        ttl_s: How old a kept output may be, in seconds; None for any age.
        key: What tells its calls apart; None: executor, version and inputs.
        version: What the executor's code is called.
    """

    ttl_s: float | None = None
    key: Json = attrs.field(default=None, repr=False)
    version: str = ""


@attrs.frozen
class CallRate:
    """How often calls such as this may be made; for the policy that serves ``rate_limit``.

    Attributes:
        limit: How many calls.
        per_s: In how many seconds.
        key: Who shares the rate; None: all calls of the executor.
    """

    limit: int
    per_s: float
    key: Json = attrs.field(default=None, repr=False)


@attrs.frozen
class Cached:
    """What the work of a policy answers instead of performing a call: the plain output that an earlier call gave."""

    output: Json = attrs.field(repr=False)


@record
class Call:
    """What an executor receives for one attempt of a step; plain data, so it may cross a process border.

    Attributes:
        run_id: The run.
        workflow: Name of the workflow.
        path: The step, like ``report`` or ``finally/notify``.
        executor: Name of the executor.
        inputs: Rendered inputs, plain JSON; a secret's place holds ``***``. Never in repr.
        index: Item of a ``foreach``, from 0; None outside of one.
        attempt: From 1.
        variant: Which of the step's executors: ``primary``, ``fallback 1`` ..., ``compensation``.
        generation: Raised by an explicit retry of a finished run; from 1.
        stint: The run's stint that performs it; from 1.
        timeout_s: Deadline of this attempt; None for none.
        retry: How the step is retried, for the retry hooks to read.
        clients: Need -> name of the client, where the step says so.
        secrets: Where secrets belong in ``inputs``.
        trace_id: 32 hex digits.
        root_span_id: 16 hex digits: the run's span, which the ids of its other spans derive from.
        trace_flags: W3C trace flags, 1 when sampled.
        queued_at: When the call was released, seconds since the epoch.
        limits: For a call in a process of its own: what differs there from ``[limits.process]``; None: the runner's process.
        cache: What the step says of keeping its output; None for nothing.
        rate: What the step says of how often its calls may be made; None for nothing.
        allowance: What it may use up; empty for any amount.
    """

    run_id: str
    workflow: str
    path: str
    executor: str
    inputs: Mapping[str, Json] = attrs.field(repr=False)
    index: int | None = None
    attempt: int = 1
    variant: str = "primary"
    generation: int = 1
    stint: int = 1
    timeout_s: float | None = None
    retry: RetryPolicy = RetryPolicy()
    clients: Mapping[str, str] = attrs.field(factory=dict)
    secrets: tuple[SecretReference, ...] = ()
    trace_id: str = ""
    root_span_id: str = ""
    trace_flags: int = 0
    queued_at: float = 0.0
    limits: Mapping[str, Json] | None = None
    cache: CallCache | None = None
    rate: CallRate | None = None
    allowance: tuple[SpendLimit, ...] = ()

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this (run, path, index, variant, generation): ``trd1-`` and 32 characters (G5)."""
        return idempotency_key(self.run_id, self.path, self.index, self.variant, self.generation)

    @property
    def span_id(self) -> str:
        """16 hex digits: this attempt's span; empty without a trace."""
        if not self.trace_id:
            return ""
        return attempt_span_id(
            self.trace_id,
            self.root_span_id,
            self.path,
            index=self.index,
            variant=self.variant,
            generation=self.generation,
            attempt=self.attempt,
            stint=self.stint,
        )

    @property
    def step_span_id(self) -> str:
        """16 hex digits: its parent, the step's span; empty without a trace."""
        if not self.trace_id:
            return ""
        return step_span_id(self.trace_id, self.root_span_id, self.path, generation=self.generation)

    @property
    def traceparent(self) -> str:
        """W3C ``traceparent`` that makes what is called a child of this attempt; empty without a trace."""
        return f"00-{self.trace_id}-{self.span_id}-{self.trace_flags:02x}" if self.trace_id else ""

    @property
    def item(self) -> str:
        """The step with its item, for people: ``each[3]``."""
        return self.path if self.index is None else f"{self.path}[{self.index}]"


SpanKind = Literal["internal", "server", "client", "producer", "consumer"]


@record
class SpanRecord:
    """One finished span of treadle, whether or not a provider is there (DESIGN section 7).

    Attributes:
        name: Low-cardinality name: ``RUN digest``, ``page``, ``attempt page``.
        kind: One of OpenTelemetry's span kinds, lower case.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_id: 16 hex digits, or empty for a root.
        started_at: Seconds since the epoch.
        ended_at: Seconds since the epoch.
        status: ``unset`` or ``error``.
        status_message: A short description of the error.
        attributes: Semantic-convention names where one exists.
        events: ``(name, at, attributes)`` each.
        links: ``(trace_id, span_id, attributes)`` each.
        trace_flags: 1 when sampled.
    """

    name: str
    kind: SpanKind
    trace_id: str
    span_id: str
    parent_id: str
    started_at: float
    ended_at: float
    status: Literal["unset", "error"] = "unset"
    status_message: str = ""
    attributes: Mapping[str, object] = attrs.field(factory=dict)
    events: tuple[tuple[str, float, Mapping[str, object]], ...] = ()
    links: tuple[tuple[str, str, Mapping[str, object]], ...] = ()
    trace_flags: int = 0


@record
class SpanNote:
    """What an executor said of its attempt's span through OpenTelemetry, when the SDK does not keep that span itself.

    Attributes:
        attributes: By name.
        events: ``(name, at, attributes)`` each.
    """

    attributes: Mapping[str, object] = attrs.field(factory=dict)
    events: tuple[tuple[str, float, Mapping[str, object]], ...] = ()


OutcomeStatus = Literal["completed", "failed", "timed_out", "cancelled"]


@record
class Outcome:
    """How one call ended.

    Attributes:
        status: ``completed``, ``failed``, ``timed_out`` or ``cancelled``.
        output: Plain JSON when completed, else None. Never in repr.
        error: What went wrong, unless completed.
        retry: The hooks' proposal, unless completed; ``RetryAfter.delay_s`` is set, jitter included.
        started_at: When the executor was entered.
        ended_at: When it was left.
        detached: The executor did not stop when told to; its thread or task may still run.
        spans: Client-call spans of this attempt.
        taken_from: The run whose record it was taken from instead of being made; empty for one that was made.
        cached: The call was not performed: an earlier one's output is the answer.
        usage: What it used up, less what was noted while it ran (see UsageNoted); None for nothing.
        refusal: That it ended because it asked for more than its budget held; None when that was not so.
        note: What the executor said of its attempt's span; None for nothing.
    """

    status: OutcomeStatus
    output: Json = attrs.field(default=None, repr=False)
    error: ErrorInfo | None = None
    retry: RetryAfter | GiveUp | None = None
    started_at: float = 0.0
    ended_at: float = 0.0
    detached: bool = False
    spans: tuple[SpanRecord, ...] = ()
    taken_from: str = ""
    cached: bool = False
    usage: StepUsage | None = None
    refusal: BudgetRefusal | None = None
    note: SpanNote | None = None


# -- facts: what happened; stamped, applied, recorded --------------------------------------------------------------------


@attrs.frozen
class RunCreated:
    """A run begins. Holds all that replay needs besides the other facts.

    Attributes:
        at: When.
        run_id: Sortable and unique.
        workflow: The whole workflow as plain data.
        workflow_hash: SHA-256 of its canonical form.
        inputs: The run's inputs with defaults filled in.
        trace_id: 32 hex digits.
        root_span_id: 16 hex digits.
        parent_span_id: The caller's span, or empty.
        trace_flags: The sampler's one decision for the run.
        rules: Version of the scheduler's rules.
        max_parallel: Calls at once, when the starter overrides the workflow.
        trigger: What started it: ``cli``, ``python``, ...
        replay_of: The run whose recorded outcomes it is given; empty for none.
        replay_from: The step from which on it makes its calls itself; empty for those only that the record does not have.
        spenders: The steps whose executors can use something up, when there is a budget to divide; None: all.
    """

    kind: ClassVar[str] = "RunCreated"
    at: float
    run_id: str
    workflow: Mapping[str, Json] = attrs.field(repr=False)
    workflow_hash: str
    inputs: Mapping[str, Json] = attrs.field(repr=False)
    trace_id: str = ""
    root_span_id: str = ""
    parent_span_id: str = ""
    trace_flags: int = 0
    rules: int = RULES_VERSION
    max_parallel: int | None = None
    trigger: str = "python"
    replay_of: str = ""
    replay_from: str = ""
    spenders: tuple[str, ...] | None = None


@attrs.frozen
class StintOpened:
    """A process takes the run over.

    Attributes:
        at: When.
        stint: From 1.
        owner: ``host:pid`` of the process.
        engine: Name of the engine.
        versions: Distribution -> version of treadle and of the plugins the plan uses; local executor -> hash of its file.
        crashed: Whether the process before it ended without letting go of the run: what ran then may have been the cause.
        advanced: Steps (path, item) that saved a checkpoint in the stint before, and so are no cause.
        max_crashes: How often a step may be running when its process crashes, before it is poisoned; 0: as often as it likes.
    """

    kind: ClassVar[str] = "StintOpened"
    at: float
    stint: int
    owner: str = ""
    engine: str = "local"
    versions: Mapping[str, str] = attrs.field(factory=dict)
    crashed: bool = False
    advanced: tuple[tuple[str, int | None], ...] = ()
    max_crashes: int = 3


OnTimeout = Literal["fail", "skip", "continue"]
OnReject = Literal["fail", "continue"]

EvaluateKind = Literal["when", "foreach", "choose", "inputs", "outputs", "wait", "slot"]


@record
class Evaluated:
    """The conductor's answer to Evaluate.

    Attributes:
        at: When.
        path: The step; empty for the run's outputs.
        what: ``when`` (a bool), ``foreach`` (the number of items), ``choose`` (the id of the branch, None for none), ``inputs``
            (of a call only when rendering failed; of a subflow always, without a value), ``outputs`` (name -> value), ``wait``
            (an object with what applies of ``due``, ``signal``, ``on_timeout``, ``default`` and ``on_reject``).
        value: The answer; None with an error.
        index: Item of a ``foreach`` that was asked about.
        error: Why there is no answer.
    """

    kind: ClassVar[str] = "Evaluated"
    at: float
    path: str
    what: EvaluateKind
    value: Json = attrs.field(default=None, repr=False)
    index: int | None = None
    error: ErrorInfo | None = None


@record
class AttemptEnded:
    """One attempt is over."""

    kind: ClassVar[str] = "AttemptEnded"
    at: float
    path: str
    index: int | None
    attempt: int
    outcome: Outcome
    variant: str = "primary"
    stint: int = 1


@record
class UsageNoted:
    """What an attempt that goes on has used up since it was noted last, so that a crash does not hide it.

    AttemptEnded has the rest: what an attempt used up is the sum. Only runs that outlive their process note it.

    Attributes:
        at: When.
        path: The step.
        index: Item of a ``foreach``.
        attempt: From 1.
        usage: How much more; less than nothing when it turned out to be less than was noted.
        variant: Which of the step's executors.
    """

    kind: ClassVar[str] = "UsageNoted"
    at: float
    path: str
    index: int | None
    attempt: int
    usage: StepUsage
    variant: str = "primary"


@attrs.frozen
class TimerFired:
    """A timer that SetTimer asked for is due."""

    kind: ClassVar[str] = "TimerFired"
    at: float
    timer_id: str


@attrs.frozen
class SlotTaken:
    """A call, or the run, has the slot that TakeSlot asked for.

    Attributes:
        at: When.
        path: The step; empty for the run.
        index: Item of a ``foreach``.
    """

    kind: ClassVar[str] = "SlotTaken"
    at: float
    path: str
    index: int | None = None


@attrs.frozen
class SignalReceived:
    """A named message for the run.

    Attributes:
        at: When.
        name: What steps wait for.
        payload: Plain JSON. Never in repr.
        signal_id: What tells it from others: a second one of the same id changes nothing. Empty: it is none of the store's.
        number: Its place among the signals that the store keeps for the run, from 1; 0: it is none of the store's.
        due: When it is to be delivered; None: at once.
    """

    kind: ClassVar[str] = "SignalReceived"
    at: float
    name: str
    payload: Json = attrs.field(default=None, repr=False)
    signal_id: str = ""
    number: int = 0
    due: float | None = None


@attrs.frozen
class CancelRequested:
    """Somebody wants the run to stop.

    Attributes:
        at: When.
        reason: Shown to people.
        force: Also do without the ``finally`` steps.
    """

    kind: ClassVar[str] = "CancelRequested"
    at: float
    reason: str = "cancel requested"
    force: bool = False


InterruptAnswer = Literal["rerun", "fail"]


@attrs.frozen
class InterruptAnswered:
    """Somebody says what to do with a call that may have been running when its process went away.

    Attributes:
        at: When.
        path: The step.
        index: Item of a ``foreach``.
        answer: ``rerun`` or ``fail``.
    """

    kind: ClassVar[str] = "InterruptAnswered"
    at: float
    path: str
    index: int | None
    answer: InterruptAnswer


@attrs.frozen
class RetryRequested:
    """A run that has ended goes on: what did not complete runs again, as a new generation, and what is asked for.

    Attributes:
        at: When.
        generation: Of the calls that follow; from 2.
        start: This step and all that follows from it run again, although they completed; empty for none.
        reason: Shown to people.
    """

    kind: ClassVar[str] = "RetryRequested"
    at: float
    generation: int
    start: str = ""
    reason: str = ""


Fact = (
    RunCreated
    | StintOpened
    | Evaluated
    | AttemptEnded
    | TimerFired
    | SignalReceived
    | CancelRequested
    | InterruptAnswered
    | RetryRequested
    | SlotTaken
    | UsageNoted
)

# -- decisions: what the scheduler concluded; recorded with their reason, never applied -----------------------------------


@record
class AttemptStarted:
    """A call was released; it may have started from now on.

    ``allowance`` is what was set aside for it in the budgets that it is under: it counts as spent until the attempt ends.
    """

    kind: ClassVar[str] = "AttemptStarted"
    at: float
    path: str
    index: int | None
    attempt: int
    variant: str = "primary"
    stint: int = 1
    allowance: tuple[SpendLimit, ...] = ()


@attrs.frozen
class InterruptAsked:
    """A call may have been running when its process went away, and its step wants to be asked what to do."""

    kind: ClassVar[str] = "InterruptAsked"
    at: float
    path: str
    index: int | None
    attempt: int


@attrs.frozen
class MapStarted:
    """A ``foreach`` knows its items.

    Attributes:
        at: When.
        path: The step.
        count: Number of items.
    """

    kind: ClassVar[str] = "MapStarted"
    at: float
    path: str
    count: int


@attrs.frozen
class WaitStarted:
    """A step begins to wait.

    Attributes:
        at: When.
        path: The step.
        signal: What for; empty for a time alone.
        due: When the wait is over, or its timeout; None for a signal without one.
        index: Item of a ``foreach``.
    """

    kind: ClassVar[str] = "WaitStarted"
    at: float
    path: str
    signal: str = ""
    due: float | None = None
    index: int | None = None


WaitEnding = Literal["elapsed", "signal", "timeout"]


@attrs.frozen
class WaitEnded:
    """A step need not wait any more; how the step ends follows.

    Attributes:
        at: When.
        path: The step.
        how: ``elapsed`` (its time has come), ``signal`` or ``timeout``.
        output: What the step gives, if it completes. Never in repr.
        signal_id: The signal that was consumed, when it has an id.
        index: Item of a ``foreach``.
    """

    kind: ClassVar[str] = "WaitEnded"
    at: float
    path: str
    how: WaitEnding
    output: Json = attrs.field(default=None, repr=False)
    signal_id: str = ""
    index: int | None = None


GroupForm = Literal["parallel", "choose", "workflow"]


@record
class GroupStarted:
    """A step that holds steps begins, or an item of a ``foreach`` over one.

    Attributes:
        at: When.
        path: The step.
        form: What kind of group it is.
        index: Item of a ``foreach``.
        due: When it must be over; None for any time.
    """

    kind: ClassVar[str] = "GroupStarted"
    at: float
    path: str
    form: GroupForm
    index: int | None = None
    due: float | None = None


@record
class FallbackChosen:
    """What a step uses has finally failed, and its next fallback is tried.

    Attributes:
        at: When.
        path: The step.
        index: Item of a ``foreach``.
        variant: What is tried now: ``fallback 1`` ...
        attempts: How many were made of the variant that failed.
        reason: Why there was no further one.
        error: Its last error.
    """

    kind: ClassVar[str] = "FallbackChosen"
    at: float
    path: str
    index: int | None
    variant: str
    attempts: int
    reason: str
    error: ErrorInfo | None = None


@record
class RetryScheduled:
    """An attempt failed and another will be made.

    Attributes:
        at: When.
        path: The step.
        index: Item of a ``foreach``.
        attempt: The attempt that failed, from 1.
        max_attempts: The most there may be.
        due: When the next one may start.
        reason: Why trying again may help.
        variant: Which of the step's executors.
    """

    kind: ClassVar[str] = "RetryScheduled"
    at: float
    path: str
    index: int | None
    attempt: int
    max_attempts: int
    due: float
    reason: str
    variant: str = "primary"


@record
class ItemEnded:
    """An item of a ``foreach`` is over: of one over a group always, else only without success (AttemptEnded tells the rest)."""

    kind: ClassVar[str] = "ItemEnded"
    at: float
    path: str
    index: int
    status: StepStatus
    attempts: int
    reason: str
    error: ErrorInfo | None = None


@record
class StepEnded:
    """A step is over.

    Attributes:
        at: When.
        path: The step.
        status: Its final state.
        attempts: How many were made (of all items, for a ``foreach``).
        reason: Why it ended so, in words; empty when it simply completed.
        error: The last attempt's error; of a group that of its culprit.
        culprit: For ``upstream_failed``, and for a group that failed: the step whose failure it was.
        failed_items: How many items of a ``foreach`` did not complete.
    """

    kind: ClassVar[str] = "StepEnded"
    at: float
    path: str
    status: StepStatus
    attempts: int = 0
    reason: str = ""
    error: ErrorInfo | None = None
    culprit: str = ""
    failed_items: int = 0


@record
class CompensationEnded:
    """A completed step was undone, or could not be.

    Attributes:
        at: When.
        path: The step.
        index: Item of a ``foreach``.
        status: How undoing it ended.
        attempts: How many were made.
        reason: Why it ended so, in words; empty when it simply completed.
        error: The last attempt's error.
    """

    kind: ClassVar[str] = "CompensationEnded"
    at: float
    path: str
    index: int | None
    status: StepStatus
    attempts: int
    reason: str = ""
    error: ErrorInfo | None = None


@attrs.frozen
class RunStopping:
    """Nothing new starts from now on; what runs drains (failure) or is told to stop (cancel, timeout).

    Attributes:
        at: When.
        reason: Why, in words.
        culprit: The step whose failure it was.
        path: The group that stops, with its item like ``each[3]``; empty for the run.
    """

    kind: ClassVar[str] = "RunStopping"
    at: float
    reason: str
    culprit: str = ""
    path: str = ""


@attrs.frozen
class RunEnded:
    """The run is over.

    Attributes:
        at: When.
        status: Its final state.
        reason: Why, in words; empty when it completed.
        culprit: The step that caused it.
        error: The root cause.
        outputs: The run's outputs; empty unless it got that far.
    """

    kind: ClassVar[str] = "RunEnded"
    at: float
    status: RunStatus
    reason: str = ""
    culprit: str = ""
    error: ErrorInfo | None = None
    outputs: Mapping[str, Json] = attrs.field(factory=dict, repr=False)


Decision = (
    AttemptStarted
    | InterruptAsked
    | MapStarted
    | GroupStarted
    | WaitStarted
    | WaitEnded
    | RetryScheduled
    | FallbackChosen
    | ItemEnded
    | StepEnded
    | CompensationEnded
    | RunStopping
    | RunEnded
)

FACTS: tuple[type, ...] = (
    RunCreated,
    StintOpened,
    Evaluated,
    AttemptEnded,
    TimerFired,
    SlotTaken,
    SignalReceived,
    CancelRequested,
    InterruptAnswered,
    RetryRequested,
    UsageNoted,
)
DECISIONS: tuple[type, ...] = (
    AttemptStarted,
    InterruptAsked,
    MapStarted,
    GroupStarted,
    WaitStarted,
    WaitEnded,
    RetryScheduled,
    FallbackChosen,
    ItemEnded,
    StepEnded,
    CompensationEnded,
    RunStopping,
    RunEnded,
)

Entry = Fact | Decision
"""What a run's log holds, in order."""


@record
class Record:
    """One entry of a run's log, as readers and the ``record_event`` hook see it.

    Attributes:
        run_id: The run.
        seq: Place in the run's log, from 1.
        entry: The fact or decision.
    """

    run_id: str
    seq: int
    entry: Entry

    @property
    def kind(self) -> str:
        """Name of the fact or decision."""
        return self.entry.kind

    @property
    def at(self) -> float:
        """When, in seconds since the epoch."""
        return self.entry.at


# -- commands: what the scheduler asks for; never recorded ----------------------------------------------------------------


@record
class Start:
    """Perform a call. From the scheduler ``call`` is None; the conductor fills it in."""

    path: str
    index: int | None
    attempt: int
    variant: str = "primary"
    call: Call | None = None
    allowance: tuple[SpendLimit, ...] = ()


@attrs.frozen
class Evaluate:
    """Answer with an Evaluated fact; the conductor does."""

    path: str
    what: EvaluateKind
    index: int | None = None


@attrs.frozen
class Load:
    """Supply a value that is not in memory."""

    ref: str


@attrs.frozen
class SetTimer:
    """Apply TimerFired at ``due`` (seconds since the epoch) or as soon after as possible."""

    timer_id: str
    due: float


@attrs.frozen
class AwaitSignal:
    """A step, or its item ``each[3]``, waits for a named signal."""

    path: str
    name: str


@attrs.frozen
class TakeSlot:
    """Stand in line for a slot and apply SlotTaken. The scheduler says for what; the conductor adds the rest.

    Attributes:
        path: The step; empty for the run.
        index: Item of a ``foreach``.
        group: What has slots.
        limit: How many it has.
        priority: Higher ones first.
    """

    path: str
    index: int | None = None
    group: str = ""
    limit: int = 1
    priority: int = 0


@attrs.frozen
class FreeSlot:
    """Give a slot back, or leave the line."""

    path: str
    index: int | None = None


@attrs.frozen
class Cancel:
    """Tell a running call to stop; its AttemptEnded still comes."""

    path: str
    index: int | None
    attempt: int
    reason: str
    variant: str = "primary"


@attrs.frozen
class Finish:
    """The run is over; nothing else will be asked."""

    status: RunStatus


Command = Start | Evaluate | Load | SetTimer | AwaitSignal | TakeSlot | FreeSlot | Cancel | Finish


@record
class Turn:
    """What one fact led to.

    Attributes:
        records: The fact, the Evaluated facts it led to, and the decisions, in order.
        commands: What is asked for; to be released only after the records are durable.
    """

    records: tuple[Entry, ...]
    commands: tuple[Command, ...]


# -- results -------------------------------------------------------------------------------------------------------------


@record
class StepResult:
    """One step of a finished run.

    Attributes:
        path: The step.
        status: Its final state.
        output: Plain JSON or None. Never in repr.
        attempts: How many were made.
        started_at: When its first attempt was released, or its wait began; None if there was none.
        ended_at: When it ended.
        error: The last error.
        reason: Why it ended so.
        usage: What all its attempts used up, also those that failed.
    """

    path: str
    status: StepStatus
    output: Json = attrs.field(default=None, repr=False)
    attempts: int = 0
    started_at: float | None = None
    ended_at: float = 0.0
    error: ErrorInfo | None = None
    reason: str = ""
    usage: StepUsage = StepUsage()

    @property
    def duration_s(self) -> float:
        """Seconds from the first attempt's release to the end; 0.0 for a step without an attempt."""
        return 0.0 if self.started_at is None else max(0.0, self.ended_at - self.started_at)
