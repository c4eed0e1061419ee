"""The scheduler: a pure state machine. Facts go in; decisions (recorded) and commands (asked for) come out.

No I/O, no clock, no async, no randomness: time arrives in facts, so that resuming is a replay and every engine decides alike.
It knows steps, needs, counts and attempts; values and expressions belong to the conductor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, cast

import attrs

from treadle._graph import Graph, Node
from treadle._mailbox import Letter, Mailbox, Waiting
from treadle._models import (
    RULES_VERSION,
    AttemptEnded,
    AttemptStarted,
    AwaitSignal,
    Cancel,
    CancelRequested,
    Command,
    Entry,
    ErrorInfo,
    Evaluate,
    Evaluated,
    EvaluateKind,
    Fact,
    Finish,
    Issue,
    ItemEnded,
    Json,
    MapStarted,
    Outcome,
    RetryAfter,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SetTimer,
    SignalReceived,
    Start,
    StepEnded,
    StepStatus,
    StintOpened,
    TimerFired,
    Turn,
    WaitEnded,
    WaitStarted,
    retry_timer_id,
    signal_timer_id,
    wait_timer_id,
)
from treadle._waits import moment_text
from treadle.errors import RejectedError, StepInterruptedError, TreadleError, WaitTimeoutError

_BLOCKING = frozenset({"failed", "timed_out", "upstream_failed", "interrupted", "poisoned"})
"""States that dependents cannot go on from; what depends on a cancelled step is cancelled itself."""

_FAILURES = frozenset({StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.INTERRUPTED, StepStatus.POISONED})
"""What counts as a failure of the step itself."""

_FAILED_BY: Mapping[str, StepStatus] = {
    "failed": StepStatus.FAILED,
    "timed_out": StepStatus.TIMED_OUT,
    "cancelled": StepStatus.CANCELLED,
}

_Stage = Literal["pending", "when", "foreach", "wait", "ready", "active", "ended"]

_NOTHING, _TOLERATED, _IN_FINALLY, _FATAL = range(4)
"""How grave a failure is for the run: it goes on, its clean-up failed, or it stops."""


@attrs.frozen
class _Cause:
    """Why a run does not simply complete: the gravest failure so far, the first among equals."""

    gravity: int = _NOTHING
    reason: str = ""
    culprit: str = ""
    error: ErrorInfo | None = None


class _Step:
    """The changing side of a node. A plain step is handled as a map of one item whose index is None."""

    __slots__ = (
        "attempts",
        "blocked_by",
        "count",
        "cursor",
        "dependents",
        "dropped",
        "error",
        "failed_items",
        "in_flight",
        "is_queued",
        "is_stopped",
        "node",
        "retrying",
        "returned",
        "stage",
        "status",
        "waiting",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.dependents: list[_Step] = []
        self.stage: _Stage = "pending"
        self.status = StepStatus.PENDING
        self.waiting = len(node.needs)
        self.blocked_by = ""
        self.count = 1  # items in all
        self.cursor = 0  # items handed out so far
        self.in_flight = 0  # calls that may be running
        self.retrying: dict[int | None, int] = {}  # item -> attempt that failed, while its timer runs
        self.returned: deque[tuple[int | None, int]] = deque()  # (item, next attempt) whose wait is over
        self.attempts = 0
        self.failed_items = 0
        self.dropped = 0  # items whose retry was given up because the step was stopped
        self.is_stopped = False  # hands out no more items
        self.is_queued = False
        self.error: ErrorInfo | None = None

    @property
    def has_work(self) -> bool:
        return bool(self.returned) or (self.cursor < self.count and not self.is_stopped)

    @property
    def is_drained(self) -> bool:
        return not (self.in_flight or self.retrying or self.has_work)


class Scheduler:
    """The state of one run; ``apply`` moves it.

    Args:
        graph: What there is to run.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._steps = {node.path: _Step(node) for node in graph.nodes}
        for step in self._steps.values():
            for need in step.node.needs:
                self._steps[need].dependents.append(step)
        self._open_main = sum(not node.is_finally for node in graph.nodes)
        self._open_finally = len(graph.nodes) - self._open_main
        self._phase: Literal["new", "main", "finally", "outputs", "ended"] = "new"
        self._max_parallel = graph.max_parallel
        self._ready: deque[_Step] = deque()
        self._arrived: deque[_Step] = deque()  # needs are done, not yet looked at
        self._running: dict[tuple[str, int | None], int] = {}  # -> attempt
        self._timers: dict[str, tuple[str, int | None, float]] = {}  # -> step, item, due
        self._mailbox = Mailbox()
        self._failures = 0
        self._stopping = ""  # why nothing new starts in the main phase
        self._is_cancelling = False
        self._is_forced = False
        self._cause = _Cause()
        self._main_status = ""  # how the run stood when its main phase was over
        self._status: RunStatus | None = None
        self._stint = 0
        self._rules = RULES_VERSION
        self._at = 0.0
        self._records: list[Entry] = []
        self._commands: list[Command] = []
        self._handlers: Mapping[type, Callable[..., None]] = {
            RunCreated: self._on_created,
            StintOpened: self._on_stint,
            Evaluated: self._on_evaluated,
            AttemptEnded: self._on_attempt_ended,
            TimerFired: self._on_timer,
            SignalReceived: self._on_signal,
            CancelRequested: self._on_cancel,
        }

    # -- the face

    @property
    def status(self) -> RunStatus | None:
        """The run's final state; None while it goes on."""
        return self._status

    @property
    def is_cancelling(self) -> bool:
        """Whether a cancel was asked for and the run goes on."""
        return self._is_cancelling and self._status is None

    @property
    def prospect(self) -> RunStatus:
        """How the run would end if all that is left completed; during ``finally``, how it stood when that began."""
        if self._phase == "finally":
            return RunStatus(self._main_status)
        return self._status or self._final_status()

    @property
    def is_waiting(self) -> bool:
        """Whether a step waits for a time or a signal."""
        return len(self._mailbox) > 0

    def step_status(self, path: str) -> StepStatus:
        """The state of a step."""
        step = self._steps[path]
        if step.stage == "active":
            return StepStatus.RETRYING if step.retrying and not step.in_flight else StepStatus.RUNNING
        return step.status

    def attempts(self, path: str) -> int:
        """Attempts of a step so far, of all its items."""
        return self._steps[path].attempts

    def expects(self, fact: Fact) -> bool:
        """Whether a fact answers something that is open; if not, it comes too late and is evidence only."""
        if isinstance(fact, AttemptEnded):
            return self._running.get((fact.path, fact.index)) == fact.attempt
        if isinstance(fact, Evaluated):
            return (fact.path, fact.index) in self._running if fact.what == "inputs" else self.asks(fact.path, fact.what)
        return True

    def asks(self, path: str, what: EvaluateKind) -> bool:
        """Whether a question is open: it was asked, and the step or the run has not ended meanwhile."""
        return self._phase == "outputs" if what == "outputs" else self._steps[path].stage == what

    def apply(self, fact: Fact) -> Turn:
        """Take a fact in.

        Args:
            fact: With its time; times never go back within a run.

        Returns:
            The fact and the decisions it led to, and the commands to release once those are durable. A fact that changes
            nothing (a late outcome, a timer of an ended step) is returned alone: it is evidence.
        """
        self._at = fact.at
        self._records, self._commands = [fact], []
        handler = self._handlers.get(type(fact))
        if handler is not None and self._phase != "ended":
            handler(fact)
            self._settle()
        return Turn(tuple(self._records), tuple(self._commands))

    def outstanding(self) -> tuple[Command, ...]:
        """What is asked for and not answered yet, in a stable order: what a resumed run releases again."""
        if self._status is not None:
            return (Finish(self._status),)
        commands: list[Command] = [
            Evaluate(step.node.path, step.stage) for step in self._steps.values() if step.stage in ("when", "foreach", "wait")
        ]
        if self._phase == "outputs":
            commands.append(Evaluate("", "outputs"))
        commands += [Start(path, index, attempt) for (path, index), attempt in self._running.items()]
        commands += [SetTimer(timer_id, due) for timer_id, (_, _, due) in self._timers.items()]
        commands += self._awaited()
        if self._is_phase_cancelled:
            commands += [Cancel(path, index, attempt, self._stopping) for (path, index), attempt in self._running.items()]
        return tuple(commands)

    # -- facts

    def _on_created(self, fact: RunCreated) -> None:
        self._rules = fact.rules
        if fact.max_parallel is not None:
            self._max_parallel = fact.max_parallel

    def _on_stint(self, fact: StintOpened) -> None:
        self._stint = fact.stint
        if self._phase == "new":
            self._phase = "main"
            self._release(is_finally=False)
        else:
            self._ask_again()

    def _ask_again(self) -> None:
        """The process that performed the calls went away: make them again, and end those that must not run twice."""
        for (path, index), attempt in list(self._running.items()):
            if self._steps[path].node.on_interrupt == "fail":
                self._interrupt(self._steps[path], index, attempt)
        for (path, index), attempt in self._running.items():
            self._records.append(AttemptStarted(self._at, path, index, attempt, "primary", self._stint))
            self._commands.append(Start(path, index, attempt))
        self._commands += [SetTimer(timer_id, due) for timer_id, (_, _, due) in self._timers.items()]
        self._commands += self._awaited()
        if self._is_phase_cancelled:
            reason = self._stopping
            self._commands += [Cancel(path, index, attempt, reason) for (path, index), attempt in self._running.items()]

    def _on_evaluated(self, fact: Evaluated) -> None:
        if not self.expects(fact):
            return
        if fact.what == "outputs":
            self._on_outputs(fact)
        elif fact.what == "inputs":
            self._on_unrenderable(fact)
        else:
            self._on_condition(self._steps[fact.path], fact)

    def _on_condition(self, step: _Step, fact: Evaluated) -> None:
        if fact.error is not None:
            self._end(step, StepStatus.FAILED, f"its {fact.what!r} could not be evaluated", fact.error)
        elif fact.what == "wait":
            self._wait(step, Waiting.of(step.node.path, cast("Mapping[str, Json]", fact.value)))
        elif fact.what == "foreach":
            step.count = cast("int", fact.value)
            self._records.append(MapStarted(self._at, step.node.path, step.count))
            if step.count:
                self._enqueue(step)
            else:
                self._end(step, StepStatus.COMPLETED)
        elif not fact.value:
            self._end(step, StepStatus.SKIPPED, "its 'when' was false")
        else:
            self._begin(step)

    def _on_unrenderable(self, fact: Evaluated) -> None:
        attempt = self._running[fact.path, fact.index]
        outcome = Outcome("failed", error=fact.error)
        self._finish_attempt(self._steps[fact.path], fact.index, attempt, outcome, "its inputs could not be rendered")

    def _on_outputs(self, fact: Evaluated) -> None:
        if fact.error is None:
            self._finish(cast("Mapping[str, Json]", fact.value))
        else:
            self._blame(_Cause(_FATAL, "an output could not be evaluated", "outputs", fact.error))
            self._finish({})

    def _on_attempt_ended(self, fact: AttemptEnded) -> None:
        if self.expects(fact):
            self._finish_attempt(self._steps[fact.path], fact.index, fact.attempt, fact.outcome)

    def _on_timer(self, fact: TimerFired) -> None:
        timer = self._timers.pop(fact.timer_id, None)
        if timer is None:
            return
        path, index, _ = timer
        if not path:
            letter = self._mailbox.take_postponed(fact.timer_id)
            if letter is not None:
                self._deliver(letter)
            return
        step = self._steps[path]
        waiting = self._mailbox.forget(path) if step.node.is_wait else None
        if waiting is not None:
            self._run_out(step, waiting)
        else:
            step.returned.append((index, step.retrying.pop(index) + 1))
            self._enqueue(step)

    def _on_cancel(self, fact: CancelRequested) -> None:
        if self._phase == "outputs" or (self._phase == "finally" and not fact.force):
            return  # nothing is left to stop, or clean-up goes on; a forced cancel ends it
        self._is_forced |= fact.force
        self._is_cancelling = True
        if not self._stopping or self._phase == "finally":
            self._stop(fact.reason, "")
        self._commands += [Cancel(path, index, attempt, fact.reason) for (path, index), attempt in self._running.items()]

    @property
    def _is_phase_cancelled(self) -> bool:
        """Whether what runs now was told to stop; a graceful cancel leaves ``finally`` alone."""
        return self._is_cancelling and (self._phase != "finally" or self._is_forced)

    # -- waits

    def _awaited(self) -> list[Command]:
        return [AwaitSignal(waiting.path, waiting.signal) for waiting in self._mailbox if waiting.signal]

    def _on_signal(self, fact: SignalReceived) -> None:
        if self._mailbox.is_known(fact.signal_id):
            return
        letter = Letter(fact.name, fact.payload, fact.signal_id)
        if fact.due is None or fact.due <= self._at:
            self._deliver(letter)
            return
        timer_id = signal_timer_id(fact.signal_id)
        self._mailbox.postpone(timer_id, letter)
        self._timers[timer_id] = ("", None, fact.due)
        self._commands.append(SetTimer(timer_id, fact.due))

    def _deliver(self, letter: Letter) -> None:
        waiting = self._mailbox.deliver(letter)
        if waiting is not None:
            self._consume(self._steps[waiting.path], waiting, letter)

    def _wait(self, step: _Step, waiting: Waiting) -> None:
        step.stage = "active"
        self._records.append(WaitStarted(self._at, waiting.path, waiting.signal, waiting.due))
        letter = self._mailbox.await_(waiting)
        if letter is not None:
            self._consume(step, waiting, letter)
            return
        if waiting.due is not None:
            timer_id = wait_timer_id(waiting.path)
            self._timers[timer_id] = (waiting.path, None, waiting.due)
            self._commands.append(SetTimer(timer_id, waiting.due))
        if waiting.signal:
            self._commands.append(AwaitSignal(waiting.path, waiting.signal))

    def _consume(self, step: _Step, waiting: Waiting, letter: Letter) -> None:
        self._timers.pop(wait_timer_id(waiting.path), None)
        self._records.append(WaitEnded(self._at, waiting.path, "signal", letter.payload, letter.signal_id))
        if waiting.rejects(letter.payload):
            comment = str(cast("Mapping[str, Json]", letter.payload).get("comment") or "")
            self._end_badly(step, StepStatus.FAILED, "it was rejected", RejectedError(waiting.path, comment))
        else:
            self._end(step, StepStatus.COMPLETED)

    def _run_out(self, step: _Step, waiting: Waiting) -> None:
        """The time of a wait has come."""
        path, signal = waiting.path, waiting.signal
        if not signal:
            self._records.append(WaitEnded(self._at, path, "elapsed", moment_text(self._at)))
            self._end(step, StepStatus.COMPLETED)
            return
        output = waiting.default if waiting.on_timeout == "continue" else None
        self._records.append(WaitEnded(self._at, path, "timeout", output))
        reason = f"no signal {signal!r} came in time"
        if waiting.on_timeout == "fail":
            self._end_badly(step, StepStatus.TIMED_OUT, reason, WaitTimeoutError(path, signal))
        else:
            status = StepStatus.COMPLETED if waiting.on_timeout == "continue" else StepStatus.SKIPPED
            self._end(step, status, reason)

    def _end_badly(self, step: _Step, status: StepStatus, reason: str, error: TreadleError) -> None:
        step.error = ErrorInfo(type(error).__name__, error.problem, error.remedy, retryable=False)
        self._end(step, status, reason, step.error)

    # -- attempts

    def _finish_attempt(self, step: _Step, index: int | None, attempt: int, outcome: Outcome, why: str = "") -> None:
        del self._running[step.node.path, index]
        step.in_flight -= 1
        if outcome.status == "completed":
            if step.node.is_map:
                self._after_item(step)
            else:
                self._end(step, StepStatus.CACHED if outcome.cached else StepStatus.COMPLETED)
            return
        step.error = outcome.error
        refusal = why or self._refusal(step, attempt, outcome)
        if refusal:
            self._give_up(step, index, attempt, outcome, refusal)
        else:
            self._retry(step, index, attempt, cast("RetryAfter", outcome.retry))

    def _refusal(self, step: _Step, attempt: int, outcome: Outcome) -> str:
        """Why there is no further attempt; empty when there is one. Here the scheduler has the last word."""
        if outcome.status == "cancelled":
            return self._stopping if self._is_phase_cancelled else "it was cancelled, though nobody asked for it"
        if step.is_stopped:
            return f"not retried: {self._stopping or 'another item failed'}"
        if not isinstance(outcome.retry, RetryAfter):
            return f"not retried: {outcome.retry.reason}" if outcome.retry and outcome.retry.reason else "not retried"
        if attempt >= step.node.max_attempts:
            return f"attempt {attempt} of {step.node.max_attempts} failed"
        return ""

    def _retry(self, step: _Step, index: int | None, attempt: int, proposal: RetryAfter) -> None:
        path, most = step.node.path, step.node.max_attempts
        due = self._at + (proposal.delay_s or 0.0)
        timer_id = retry_timer_id(path, index, attempt)
        step.retrying[index] = attempt
        self._timers[timer_id] = (path, index, due)
        self._records.append(RetryScheduled(self._at, path, index, attempt, most, due, proposal.reason))
        self._commands.append(SetTimer(timer_id, due))
        if step.has_work:
            self._enqueue(step)

    def _give_up(self, step: _Step, index: int | None, attempt: int, outcome: Outcome, reason: str) -> None:
        status = _FAILED_BY[outcome.status]
        if status is StepStatus.CANCELLED and not self._is_phase_cancelled:
            status = StepStatus.FAILED
        self._lose(step, index, attempt, status, reason, outcome.error)

    def _interrupt(self, step: _Step, index: int | None, attempt: int) -> None:
        """End a call whose process went away, and which must not run twice."""
        path = step.node.path
        del self._running[path, index]
        step.in_flight -= 1
        error = StepInterruptedError(path if index is None else f"{path}[{index}]")
        step.error = ErrorInfo(type(error).__name__, error.problem, error.remedy, retryable=False)
        self._lose(step, index, attempt, StepStatus.INTERRUPTED, "its process went away while it ran", step.error)

    def _lose(
        self, step: _Step, index: int | None, attempt: int, status: StepStatus, reason: str, error: ErrorInfo | None
    ) -> None:
        """End a step or an item without success."""
        if index is None:
            self._end(step, status, reason, error)
            return
        self._records.append(ItemEnded(self._at, step.node.path, index, status, attempt, reason, error))
        step.failed_items += 1
        if (step.node.on_error or self._graph.on_error) == "stop":
            self._stop_items(step, "another item failed")
        self._after_item(step)

    def _after_item(self, step: _Step) -> None:
        if step.has_work:
            self._enqueue(step)
        elif step.is_drained:
            self._end_map(step)

    def _end_map(self, step: _Step) -> None:
        if not step.failed_items and not step.dropped and step.cursor == step.count:
            self._end(step, StepStatus.COMPLETED)
        elif self._is_phase_cancelled or not step.failed_items:
            self._end(step, StepStatus.CANCELLED, self._stopping, step.error)
        else:
            self._end(step, StepStatus.FAILED, f"{step.failed_items} of {step.count} items failed", step.error)

    def _stop_items(self, step: _Step, reason: str) -> None:
        """Hand out no more items and forget waiting retries; what runs drains."""
        step.is_stopped = True
        for index, attempt in [*step.retrying.items(), *((index, number - 1) for index, number in step.returned)]:
            if index is not None:
                entry = ItemEnded(self._at, step.node.path, index, StepStatus.CANCELLED, attempt, reason, step.error)
                self._records.append(entry)
                step.dropped += 1
        for timer_id in [key for key, (path, _, _) in self._timers.items() if path == step.node.path]:
            del self._timers[timer_id]
        step.retrying.clear()
        step.returned.clear()

    # -- steps

    def _release(self, *, is_finally: bool) -> None:
        for step in self._steps.values():
            if step.node.is_finally == is_finally and not step.waiting and step.stage == "pending":
                self._arrived.append(step)

    def _arrive(self, step: _Step) -> None:
        """All needs are done: skip, ask or queue."""
        if step.stage != "pending":
            return
        if step.blocked_by:
            self._end_blocked(step)
        elif step.node.has_when:
            self._ask(step, "when")
        else:
            self._begin(step)

    def _begin(self, step: _Step) -> None:
        """Nothing stands before its work any more."""
        if step.node.is_wait:
            self._ask(step, "wait")
        elif step.node.is_map:
            self._ask(step, "foreach")
        else:
            self._enqueue(step)

    def _end_blocked(self, step: _Step) -> None:
        reason = f"{step.blocked_by!r} did not complete"
        self._end(step, StepStatus.UPSTREAM_FAILED, reason, culprit=step.blocked_by)

    def _ask(self, step: _Step, what: Literal["when", "foreach", "wait"]) -> None:
        step.stage = what
        self._commands.append(Evaluate(step.node.path, what))

    def _enqueue(self, step: _Step) -> None:
        if not step.is_queued:
            step.is_queued = True
            self._ready.append(step)
        if step.stage != "active":
            step.stage = "ready"

    def _end(
        self, step: _Step, status: StepStatus, reason: str = "", error: ErrorInfo | None = None, culprit: str = ""
    ) -> None:
        node = step.node
        step.stage, step.status = "ended", status
        if node.is_wait:
            self._mailbox.forget(node.path)
        self._records.append(StepEnded(self._at, node.path, status, step.attempts, reason, error, culprit, step.failed_items))
        if node.is_finally:
            self._open_finally -= 1
        else:
            self._open_main -= 1
        if status in _FAILURES:
            self._on_failure(step, error)
        is_blocking = status.value in _BLOCKING and node.on_error != "continue"
        for dependent in step.dependents:
            dependent.waiting -= 1
            if is_blocking and not dependent.blocked_by:
                dependent.blocked_by = culprit or node.path
            if not dependent.waiting and dependent.stage == "pending":
                self._arrived.append(dependent)

    def _on_failure(self, step: _Step, error: ErrorInfo | None) -> None:
        node = step.node
        reason = f"step {node.path!r} failed"
        if node.on_error == "continue":
            self._blame(_Cause(_TOLERATED, reason, node.path, error))
        elif node.is_finally:
            self._blame(_Cause(_IN_FINALLY, reason, node.path, error))
        else:
            self._failures += 1
            is_fatal = not self._stopping and self._is_too_much(node)
            self._blame(_Cause(_FATAL if is_fatal else _TOLERATED, reason, node.path, error))
            if is_fatal:
                self._stop(reason, node.path)

    def _blame(self, cause: _Cause) -> None:
        if cause.gravity > self._cause.gravity:
            self._cause = cause

    def _is_too_much(self, node: Node) -> bool:
        if node.on_error == "stop":
            return True
        if self._graph.max_failures is not None:
            return self._failures > self._graph.max_failures
        return self._graph.on_error == "stop"

    def _stop(self, reason: str, culprit: str) -> None:
        """Start nothing new in this phase; end what waits; leave what runs."""
        self._stopping = reason
        self._records.append(RunStopping(self._at, reason, culprit))
        if culprit:
            self._block_dependents(self._steps[culprit])
        in_finally = self._phase == "finally"
        for step in self._steps.values():
            if step.node.is_finally == in_finally and step.stage != "ended":
                self._stop_step(step, reason)

    def _block_dependents(self, culprit: _Step) -> None:
        """Mark all that hangs on a failed step, so that it ends as ``upstream_failed`` and not merely as cancelled."""
        marked = deque([culprit])
        while marked:
            for dependent in marked.popleft().dependents:
                if not dependent.blocked_by and dependent.stage == "pending":
                    dependent.blocked_by = culprit.node.path
                    if dependent.node.on_error != "continue":
                        marked.append(dependent)

    def _stop_step(self, step: _Step, reason: str) -> None:
        self._stop_items(step, reason)
        if step.in_flight:
            return
        if step.blocked_by:
            self._end_blocked(step)
        elif step.node.is_map and step.cursor:
            self._end_map(step)
        else:
            self._end(step, StepStatus.CANCELLED, reason, step.error)

    # -- the run

    def _settle(self) -> None:
        """Follow every consequence of the fact until nothing more follows."""
        while True:
            while self._arrived:
                self._arrive(self._arrived.popleft())
            self._pump()
            if self._phase == "main" and not self._open_main:
                self._main_status = self._final_status()
                self._phase = "finally"
                if self._open_finally and not self._is_forced:
                    self._release(is_finally=True)
                elif self._open_finally:
                    self._stop(self._stopping, "")
            elif self._phase == "finally" and not self._open_finally:
                self._close()
                return
            elif not self._arrived:
                return

    def _pump(self) -> None:
        """Hand out ready work, in order, up to the caps."""
        ready, running, most = self._ready, self._running, self._max_parallel
        while ready and len(running) < most:
            step = ready.popleft()
            step.is_queued = False
            cap = step.node.max_parallel
            if step.stage == "ended" or not step.has_work or (cap is not None and step.in_flight >= cap):
                continue  # a step at its cap is queued again when one of its items ends
            self._start(step)
            if step.has_work:
                self._enqueue(step)

    def _start(self, step: _Step) -> None:
        path = step.node.path
        index: int | None
        if step.returned:
            index, attempt = step.returned.popleft()
        else:
            index, attempt = (step.cursor if step.node.is_map else None), 1
            step.cursor += 1
        step.stage = "active"
        step.in_flight += 1
        step.attempts += 1
        self._running[path, index] = attempt
        self._records.append(AttemptStarted(self._at, path, index, attempt, "primary", self._stint))
        self._commands.append(Start(path, index, attempt))

    def _close(self) -> None:
        if self._graph.has_outputs and self._final_status() in (RunStatus.COMPLETED, RunStatus.PARTIAL_FAILURE):
            self._phase = "outputs"
            self._commands.append(Evaluate("", "outputs"))
        else:
            self._finish({})

    def _final_status(self) -> RunStatus:
        gravity = self._cause.gravity
        if self._is_cancelling and gravity != _FATAL:
            return RunStatus.CANCELLED
        if gravity in (_FATAL, _IN_FINALLY):
            return RunStatus.FAILED
        return RunStatus.PARTIAL_FAILURE if gravity == _TOLERATED else RunStatus.COMPLETED

    def _finish(self, outputs: Mapping[str, Json]) -> None:
        self._phase = "ended"
        self._status = status = self._final_status()
        cause = _Cause(reason=self._stopping) if status is RunStatus.CANCELLED else self._cause
        self._records.append(RunEnded(self._at, status, cause.reason, cause.culprit, cause.error, outputs))
        self._commands.append(Finish(status))

    # -- snapshots, for hosts whose history is bounded

    def dump(self) -> dict[str, Json]:
        """The whole state as plain JSON data; ``load`` gives an equal scheduler."""
        return {
            "phase": self._phase,
            "max_parallel": self._max_parallel,
            "rules": self._rules,
            "stint": self._stint,
            "at": self._at,
            "failures": self._failures,
            "stopping": self._stopping,
            "is_cancelling": self._is_cancelling,
            "is_forced": self._is_forced,
            "cause": attrs.asdict(self._cause),
            "main_status": self._main_status,
            "status": self._status.value if self._status else None,
            "ready": [step.node.path for step in self._ready],
            "running": [[path, index, attempt] for (path, index), attempt in self._running.items()],
            "mailbox": self._mailbox.dump(),
            "timers": [[timer_id, *timer] for timer_id, timer in self._timers.items()],
            "steps": {path: _dump_step(step) for path, step in self._steps.items()},
        }

    @classmethod
    def load(cls, graph: Graph, data: Mapping[str, Json]) -> Scheduler:
        """Build the scheduler that ``dump`` described."""
        state = cast("dict[str, object]", data)
        self = cls(graph)
        plain = ("phase", "max_parallel", "rules", "stint", "at", "failures", "stopping", "is_cancelling", "is_forced")
        for name in (*plain, "main_status"):
            setattr(self, f"_{name}", state[name])
        cause = cast("dict[str, object]", state["cause"])
        self._cause = _Cause(**{**cause, "error": _load_error(cause["error"])})  # type: ignore[arg-type]  # a dump
        self._status = RunStatus(cast("str", state["status"])) if state["status"] else None
        for path, step in cast("dict[str, dict[str, object]]", state["steps"]).items():
            _load_step(self._steps[path], step)
        self._ready = deque(self._steps[path] for path in cast("list[str]", state["ready"]))
        rows = cast("list[tuple[str, int | None, int]]", state["running"])
        self._running = {(path, index): attempt for path, index, attempt in rows}
        self._mailbox = Mailbox.load(cast("Mapping[str, object]", state["mailbox"]))
        timers = cast("list[tuple[str, str, int | None, float]]", state["timers"])
        self._timers = {timer_id: (path, index, due) for timer_id, path, index, due in timers}
        steps = self._steps.values()
        self._open_main = sum(not step.node.is_finally and step.stage != "ended" for step in steps)
        self._open_finally = sum(step.node.is_finally and step.stage != "ended" for step in steps)
        return self


def _dump_error(error: ErrorInfo | None) -> Json:
    return attrs.asdict(error) if error else None


def _load_error(data: object) -> ErrorInfo | None:
    from_issues = cast("dict[str, object] | None", data)
    if from_issues is None:
        return None
    issues = cast("Iterable[dict[str, str]]", from_issues["issues"])
    return ErrorInfo(**{**from_issues, "issues": tuple(Issue(**issue) for issue in issues)})  # type: ignore[arg-type]  # a dump


def _dump_step(step: _Step) -> dict[str, Json]:
    return {
        "stage": step.stage,
        "status": step.status.value,
        "waiting": step.waiting,
        "blocked_by": step.blocked_by,
        "count": step.count,
        "cursor": step.cursor,
        "in_flight": step.in_flight,
        "retrying": [list(pair) for pair in step.retrying.items()],
        "returned": [list(pair) for pair in step.returned],
        "attempts": step.attempts,
        "failed_items": step.failed_items,
        "dropped": step.dropped,
        "is_stopped": step.is_stopped,
        "is_queued": step.is_queued,
        "error": _dump_error(step.error),
    }


def _load_step(step: _Step, data: Mapping[str, object]) -> None:
    plain = ("stage", "waiting", "blocked_by", "count", "cursor", "in_flight", "attempts")
    for name in (*plain, "failed_items", "dropped", "is_stopped", "is_queued"):
        setattr(step, name, data[name])
    step.status = StepStatus(cast("str", data["status"]))
    step.retrying = dict(cast("list[tuple[int | None, int]]", data["retrying"]))
    step.returned = deque((index, attempt) for index, attempt in cast("list[tuple[int | None, int]]", data["returned"]))
    step.error = _load_error(data["error"])
