"""The scheduler: a pure state machine. Facts go in; decisions (recorded) and commands (asked for) come out.

No I/O, no clock, no async, no randomness: time arrives in facts, so that resuming is a replay and every engine decides alike.
It knows steps, needs, counts and attempts; values and expressions belong to the conductor.

What is planned once may run many times: a group is a node with children, and each start of it (each item of a ``foreach`` over
it) is a scope with steps of its own, made when it starts and forgotten when it is over. The run itself is the outermost scope.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, cast

import attrs

from treadle._decisions import DecisionKind as Kind
from treadle._graph import Graph, Node, Rules, walk
from treadle._instances import (
    FATAL,
    IN_FINALLY,
    TOLERATED,
    Cause,
    Held,
    Scope,
    Step,
    dump_scope,
    dump_step,
    load_scope,
    load_step,
    queued,
)
from treadle._ledger import Ledger, shares_of
from treadle._mailbox import Letter, Mailbox, Waiting
from treadle._models import (
    BUDGET_TIMER_ID,
    RULES_VERSION,
    AttemptEnded,
    AttemptStarted,
    AwaitSignal,
    BudgetRefusal,
    Cancel,
    CancelRequested,
    Command,
    CompensationEnded,
    Decision,
    Entry,
    ErrorInfo,
    Evaluate,
    Evaluated,
    EvaluateKind,
    Fact,
    FallbackChosen,
    Finish,
    FreeSlot,
    GroupStarted,
    InterruptAnswered,
    InterruptAsked,
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
    SlotTaken,
    SpendLimit,
    Start,
    StepEnded,
    StepStatus,
    StintOpened,
    TakeSlot,
    TimerFired,
    Turn,
    UsageNoted,
    WaitEnded,
    WaitStarted,
    retry_timer_id,
    signal_timer_id,
    timeout_timer_id,
    wait_timer_id,
)
from treadle._paths import item_path
from treadle._ready_queue import ReadyQueue
from treadle._waits import moment_text
from treadle.errors import (
    BudgetExceededError,
    GroupTimeoutError,
    RejectedError,
    StepInterruptedError,
    StepPoisonedError,
    TreadleError,
    WaitTimeoutError,
)

_BLOCKING = frozenset({"failed", "timed_out", "upstream_failed", "interrupted", "poisoned"})
"""States that dependents cannot go on from; what depends on a cancelled step is cancelled itself."""

_FAILURES = frozenset({StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.INTERRUPTED, StepStatus.POISONED})
"""What counts as a failure of the step itself."""

_UNDONE = frozenset({StepStatus.COMPLETED, StepStatus.PARTIAL_FAILURE})
"""States of a step that its compensation undoes, when the run comes to that."""

_FAILED_BY: Mapping[str, StepStatus] = {
    "failed": StepStatus.FAILED,
    "timed_out": StepStatus.TIMED_OUT,
    "cancelled": StepStatus.CANCELLED,
}

_GROUP_KINDS: Mapping[StepStatus, Kind] = {
    StepStatus.COMPLETED: Kind.STEPS_COMPLETED,
    StepStatus.SKIPPED: Kind.NO_BRANCH,
    StepStatus.PARTIAL_FAILURE: Kind.STEPS_FAILED_IN_PART,
    StepStatus.FAILED: Kind.STEPS_FAILED,
    StepStatus.TIMED_OUT: Kind.GROUP_TIMED_OUT,
    StepStatus.CANCELLED: Kind.STOPPED,
}

_RUN_KINDS: Mapping[RunStatus, Kind] = {
    RunStatus.COMPLETED: Kind.RUN_COMPLETED,
    RunStatus.PARTIAL_FAILURE: Kind.RUN_FAILED_IN_PART,
    RunStatus.FAILED: Kind.RUN_FAILED,
    RunStatus.CANCELLED: Kind.RUN_CANCELLED,
    RunStatus.TIMED_OUT: Kind.RUN_TIMED_OUT,
}

Refusal = tuple[Kind, str]
"""Why there is no further attempt, and in words."""

_NO_BRANCH = "no branch's 'when' was true"


def _refused(refusal: BudgetRefusal) -> str:
    """Why an attempt was the last."""
    if refusal.resource == "price":
        return f"what it costs is not known, and the {refusal.scope} has a cost budget"
    ending = "is used up" if refusal.resource == "wall_time" else "does not hold so much"
    return f"the {refusal.resource} budget of the {refusal.scope} {ending}"


def _used_up(resource: str, path: str) -> str:
    """Why a group, or the run, ends."""
    return f"the {resource} budget of the {f'group {path}' if path else 'run'} is used up"


class Scheduler:
    """The state of one run; ``apply`` moves it.

    Args:
        graph: What there is to run.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._steps: dict[str, Step] = {}
        self._root = Scope(
            Rules(graph.on_error, graph.max_failures, None, graph.timeout_s, graph.has_outputs),
        )
        self._root.open_steps(graph.nodes, self._steps)
        self._scopes: dict[str, Scope] = {"": self._root}
        self._has_variants, self._has_slots = graph.has_variants, graph.has_slots
        self._max_parallel = graph.max_parallel
        self._ready: deque[Step] | ReadyQueue = ReadyQueue() if graph.has_priorities else deque()
        self._is_gated = False  # the run has not got its own slot
        self._arrived: deque[Step] = deque()  # needs are done, not yet looked at
        self._over: deque[Scope] = deque()  # no step of their phase is open
        self._running: dict[tuple[str, int | None], int] = {}  # -> attempt
        self._timers: dict[str, tuple[str, int | None, float]] = {}  # -> step, item, due
        self._crashes: dict[tuple[str, int | None], int] = {}  # -> how often its process went away while it ran
        self._suspects: dict[tuple[str, int | None], int] = {}  # held back since a crash -> attempt
        self._trial: tuple[str, int | None] | None = None  # the suspect that runs, alone
        self._asked: dict[tuple[str, int | None], int] = {}  # may have been done, and nobody has said so yet -> attempt
        self._mailbox = Mailbox()
        self._looked_at: dict[tuple[str, int], None] = {}  # items of steps that wait, of which it is asked what for
        self._done: list[tuple[Node, str, int | None]] = []  # what can be undone, in the order of completion
        self._undoing: dict[str, Step] = {}  # path -> what undoes it; one at a time within a scope
        self._retries = 0
        self._ledger: Ledger | None = None  # while no budget is to be kept, nothing of it costs anything
        self._spenders: tuple[str, ...] | None = None
        self._allowances: dict[tuple[str, int | None], tuple[SpendLimit, ...]] = {}  # of what runs
        self._over_budget: Cause | None = None  # why a step ends, while it does
        self._short: list[Step] = []  # ready, but their budgets wait for what others may give back
        self._is_cancelling = False
        self._is_forced = False
        self._status: RunStatus | None = None
        self._stint = 0
        self._rules = RULES_VERSION
        self._at = 0.0
        self._records: list[Entry] = []
        self._commands: list[Command] = []
        self._held: Held | None = None  # while the state of a run that goes on again is made
        self._kinds: list[Kind] | None = None  # of the decisions, when somebody asks

    # -- the face

    def take_kinds(self) -> list[Kind]:
        """What the decisions since the last time rest on, in order; they are noted from the first time on."""
        kinds, self._kinds = self._kinds or [], []
        return kinds

    def hold(self, wanted: Collection[tuple[str, int | None]]) -> None:
        """Start nothing but what is wanted, until the next stint but one opens.

        That is how a run goes on again: what had completed is applied anew, and all else is held until then.

        Args:
            wanted: Calls, starts of groups and waits (a step and its item) that are known to have completed.
        """
        self._held = Held(wanted)

    def carry(self, earlier: Scheduler) -> None:
        """Count in its budgets what the run has used up so far, whatever came of it."""
        if self._ledger is not None and earlier._ledger is not None:
            self._ledger.carry(earlier._ledger)

    def close(self) -> None:
        """Let steps and scopes go, which hold each other; no fact comes any more."""
        for scope in self._scopes.values():
            scope.close()
            if scope.owner is not None:
                scope.owner.scopes = None

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
        return self.prospect_of("")

    def prospect_of(self, scope: str) -> RunStatus:
        """The same of a subflow, by its path with its item."""
        found = self._scopes[scope]
        if found.phase in ("compensation", "finally"):
            return RunStatus(found.main_status)
        return self._run_status(found)

    @property
    def is_waiting(self) -> bool:
        """Whether something waits for a time, a signal or a slot."""
        return len(self._mailbox) > 0 or self._is_gated or self._is_in_line

    @property
    def _is_in_line(self) -> bool:
        return self._has_slots and any(step.asking for step in self._steps.values())

    @property
    def questions(self) -> tuple[tuple[str, int | None], ...]:
        """Steps and items that may have been done, and of which somebody has to say what becomes of them."""
        return tuple(self._asked)

    @property
    def answerable(self) -> tuple[tuple[str, int | None], ...]:
        """What a new stint would ask about, too."""
        running = [place for place in self._running if self._step_at(place[0]).on_interrupt(place[1]) == "ask"]
        return (*self._asked, *running)

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
        if type(fact) is AttemptEnded or type(fact) is UsageNoted:
            if self._running.get((fact.path, fact.index)) != fact.attempt:
                return False
            return not self._has_variants or self._step_at(fact.path).variant(fact.index) == fact.variant
        if isinstance(fact, Evaluated):
            if fact.what == "inputs" and (fact.path, fact.index) in self._running:
                return True
            if fact.what == "slot":
                return self._asks_slot(fact.path, fact.index)
            return self.asks(fact.path, fact.what, fact.index)
        if isinstance(fact, SlotTaken):
            return self._asks_slot(fact.path, fact.index)
        return True

    def _asks_slot(self, path: str, index: int | None) -> bool:
        if not path:
            return self._is_gated
        step = self._steps.get(path)
        return step is not None and index in step.asking

    def asks(self, path: str, what: EvaluateKind, index: int | None = None) -> bool:
        """Whether a question is open: it was asked, and whoever it is about has not ended meanwhile."""
        if what in ("when", "foreach", "wait"):
            if index is not None:
                return (path, index) in self._looked_at
            step = self._steps.get(path)
            return step is not None and step.stage == what
        scope = self._scopes.get(item_path(path, index))
        return scope is not None and scope.phase == what

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
        handler = _HANDLERS.get(type(fact))
        if handler is not None and self._root.phase != "ended":
            handler(self, fact)
            self._settle()
        return Turn(tuple(self._records), tuple(self._commands))

    def outstanding(self) -> tuple[Command, ...]:
        """What is asked for and not answered yet, in a stable order: what a resumed run releases again."""
        if self._status is not None:
            return (Finish(self._status),)
        commands: list[Command] = [
            Evaluate(step.path, step.stage) for step in self._steps.values() if step.stage in ("when", "foreach", "wait")
        ]
        commands += [
            Evaluate(scope.owner.path if scope.owner else "", scope.phase, scope.index)
            for scope in self._scopes.values()
            if scope.phase in ("inputs", "choose", "outputs")
        ]
        commands += [Evaluate(path, "wait", index) for path, index in self._looked_at]
        commands += [self._start_of(path, index, attempt) for (path, index), attempt in self._running.items()]
        commands += [SetTimer(timer_id, due) for timer_id, (_, _, due) in self._timers.items()]
        commands += self._awaited()
        commands += self._slots_asked()
        commands += self._cancels(self._root)
        return tuple(commands)

    def _decide(self, kind: Kind, entry: Decision) -> None:
        """Record a decision; what it rests on follows from the facts, so it is noted only when somebody asks."""
        self._records.append(entry)
        if self._kinds is not None:
            self._kinds.append(kind)

    # -- facts

    def _on_created(self, fact: RunCreated) -> None:
        self._rules = fact.rules
        if fact.max_parallel is not None:
            self._max_parallel = fact.max_parallel
        self._keep_budgets(fact.spenders)

    def _keep_budgets(self, spenders: tuple[str, ...] | None) -> None:
        if self._graph.has_budget:
            self._spenders = spenders
            self._ledger = Ledger(shares_of(self._graph, spenders))

    def _on_stint(self, fact: StintOpened) -> None:
        self._stint = fact.stint
        is_new = self._root.phase == "new"
        # What a run that goes on again had completed needs no slot any more.
        self._is_gated = self._graph.has_slot and not (is_new and self._held is not None)
        if self._held is not None and not is_new:
            self._let_go(self._held)
        if not is_new or (self._is_gated and fact.stint > 1):
            self._ask_again(fact)
        elif self._is_gated:
            self._commands.append(TakeSlot(""))
        else:
            self._begin_run()

    def _begin_run(self) -> None:
        self._set_deadline(self._root)
        if self._ledger is not None:
            self._begin_budgets(self._ledger)
        self._enter_main(self._root)

    def _ask_again(self, fact: StintOpened) -> None:
        """The process that performed the calls went away: make them again, and end those that must not run twice."""
        self._trial = None
        for (path, index), attempt in list(self._running.items()):
            step = self._step_at(path)
            is_suspect = fact.crashed and fact.max_crashes > 0
            if is_suspect:
                has_advanced = (path, index) in fact.advanced
                self._crashes[path, index] = 0 if has_advanced else self._crashes.get((path, index), 0) + 1
            what = step.on_interrupt(index)
            if what == "fail":
                self._take_back(step, index)
                self._interrupt(step, index, attempt)
            elif is_suspect and self._crashes[path, index] >= fact.max_crashes:
                self._take_back(step, index)
                self._poison(step, index, attempt)
            elif what == "ask":
                self._take_back(step, index)
                self._asked[path, index] = attempt
                self._decide(Kind.INTERRUPT_ASKED, InterruptAsked(self._at, path, index, attempt))
            elif is_suspect and not step.scope.is_cancelled:  # what was told to stop is told so again
                self._take_back(step, index)
                self._hold(step, index, attempt)
                self._suspects[path, index] = attempt
        if self._has_slots or self._is_gated:
            self._ask_slots_again()
        for (path, index), attempt in self._running.items():
            if self._ledger is not None:
                key = item_path(path, index)
                self._ledger.lose(key)
                self._ledger.open(key, self._at, may_wait=False)
                self._allowances[path, index] = self._allowance(self._ledger, self._step_at(path), index)
            start = self._start_of(path, index, attempt)
            entry = AttemptStarted(self._at, path, index, attempt, start.variant, self._stint, start.allowance)
            self._decide(Kind.RELEASED_AGAIN, entry)
            self._commands.append(start)
        self._commands += [SetTimer(timer_id, due) for timer_id, (_, _, due) in self._timers.items()]
        self._commands += self._awaited()
        self._commands += self._slots_asked()
        self._commands += self._cancels(self._root)

    def _take_back(self, step: Step, index: int | None) -> None:
        """A call does not run any more; its step still counts it."""
        del self._running[step.path, index]
        if step.scope.capped is not None:
            self._give_back(step.scope)
        if self._ledger is not None:
            self._ledger.lose(item_path(step.path, index))
            self._allowances.pop((step.path, index), None)
            self._let_wait_no_more()

    def _hold(self, step: Step, index: int | None, attempt: int) -> None:
        """Take back that an attempt was started; it is made as if its wait were over."""
        step.in_flight -= 1
        step.attempts -= 1
        step.put_back(index, attempt)

    def _on_told(self, fact: InterruptAnswered) -> None:
        place = (fact.path, fact.index)
        attempt = self._asked.pop(place, None)
        if attempt is None:
            return
        step = self._step_at(fact.path)
        if fact.answer == "fail":
            self._interrupt(step, fact.index, attempt)
            return
        self._hold(step, fact.index, attempt)
        if self._crashes.get(place):
            self._suspects[place] = attempt
        else:
            self._enqueue(step)

    def _end_questions(self) -> None:
        """Nobody will say any more what to do with steps that were told to stop."""
        for (path, index), attempt in list(self._asked.items()):
            step = self._step_at(path)
            if step.scope.is_cancelled:
                del self._asked[path, index]
                self._interrupt(step, index, attempt)

    def _start_of(self, path: str, index: int | None, attempt: int) -> Start:
        allowance = self._allowances.get((path, index), ())
        return Start(path, index, attempt, self._step_at(path).variant(index), allowance=allowance)

    def _step_at(self, path: str) -> Step:
        """The step that a call is for: once it is undone, nothing else of it runs."""
        return (self._undoing.get(path) if self._undoing else None) or self._steps[path]

    def _on_evaluated(self, fact: Evaluated) -> None:
        if not self.expects(fact):
            return
        if fact.what in ("when", "foreach", "wait"):
            self._on_condition(self._steps[fact.path], fact)
        elif fact.what == "inputs" and (fact.path, fact.index) in self._running:
            self._on_unrenderable(fact)
        elif fact.what == "slot":
            self._on_no_slot(fact)
        else:
            self._on_answer(self._scopes[item_path(fact.path, fact.index)], fact)

    def _on_condition(self, step: Step, fact: Evaluated) -> None:
        if fact.index is not None:
            del self._looked_at[step.path, fact.index]
        if fact.error is not None:
            reason = f"its {fact.what!r} could not be evaluated"
            if fact.index is not None:
                step.error = fact.error
            self._end_wait(step, fact.index, StepStatus.FAILED, reason, fact.error, kind=Kind.NOT_EVALUATED)
        elif fact.what == "wait":
            self._wait(step, Waiting.of(step.path, fact.index, cast("Mapping[str, Json]", fact.value)))
        elif fact.what == "foreach":
            step.count = cast("int", fact.value)
            if self._ledger is not None:
                self._ledger.expand(step.path, step.count)
            self._decide(Kind.MAP_STARTED, MapStarted(self._at, step.path, step.count))
            if not step.count:
                self._end(step, StepStatus.COMPLETED, kind=Kind.NO_ITEMS)
            elif step.node.is_wait:
                self._start_waits(step)
            else:
                self._enqueue(step)
        elif not fact.value:
            self._end(step, StepStatus.SKIPPED, "its 'when' was false", kind=Kind.CONDITION_FALSE)
        else:
            self._begin(step)

    def _on_unrenderable(self, fact: Evaluated) -> None:
        attempt = self._running[fact.path, fact.index]
        outcome = Outcome("failed", error=fact.error)
        refusal = (Kind.NOT_EVALUATED, "its inputs could not be rendered")
        self._finish_attempt(self._step_at(fact.path), fact.index, attempt, outcome, refusal)

    def _on_answer(self, scope: Scope, fact: Evaluated) -> None:
        """A group, or the run, was told what it asked for."""
        if fact.what == "outputs":
            self._on_outputs(scope, fact)
        elif fact.error is not None:
            reason = "its inputs could not be rendered" if fact.what == "inputs" else "its 'choose' could not be evaluated"
            scope.blame(Cause(FATAL, reason, scope.path, fact.error))
            self._enter_main(scope)
        else:
            scope.taken = cast("str | None", fact.value)
            self._open_group(scope)

    def _on_outputs(self, scope: Scope, fact: Evaluated) -> None:
        if fact.error is not None:
            scope.blame(Cause(FATAL, "an output could not be evaluated", scope.path or "outputs", fact.error))
        if scope.owner is not None:
            self._close_group(scope)
        else:
            self._finish(cast("Mapping[str, Json]", fact.value) if fact.error is None else {})

    def _on_attempt_ended(self, fact: AttemptEnded) -> None:
        if self.expects(fact):
            step = self._steps[fact.path] if not self._undoing else self._step_at(fact.path)
            self._finish_attempt(step, fact.index, fact.attempt, fact.outcome)

    def _on_usage(self, fact: UsageNoted) -> None:
        if self._ledger is not None and self.expects(fact):
            self._ledger.settle(item_path(fact.path, fact.index), fact.usage)

    def _on_timer(self, fact: TimerFired) -> None:
        timer = self._timers.pop(fact.timer_id, None)
        if timer is None:
            return
        path, index, _ = timer
        if fact.timer_id == BUDGET_TIMER_ID:
            self._end_at_due(path)
            return
        if fact.timer_id.startswith("timeout:"):
            self._time_out(self._scopes[item_path(path, index)])
            return
        if not path:
            letter = self._mailbox.take_postponed(fact.timer_id)
            if letter is not None:
                self._deliver(letter)
            return
        step = self._step_at(path)
        waiting = self._mailbox.forget(item_path(path, index)) if step.node.is_wait else None
        if waiting is not None:
            self._run_out(step, waiting)
        else:
            step.put_back(index, step.retrying.pop(index) + 1)
            self._enqueue(step)

    def _on_cancel(self, fact: CancelRequested) -> None:
        root = self._root
        is_cleaning = root.phase in ("compensation", "finally")
        if root.phase == "outputs" or (is_cleaning and not fact.force):
            return  # nothing is left to stop, or clean-up goes on; a forced cancel ends it
        if root.phase == "new" and self._is_gated:  # it never began, so there is nothing to clean up
            self._open_gate(is_forced=True)
        self._is_forced |= fact.force
        self._is_cancelling = True
        if not root.stopping or is_cleaning:
            self._stop(root, fact.reason, "", kind=Kind.STOPPING_ON_CANCEL)
        elif fact.force:
            self._halt(root, root.stopping)
        self._tell(root)
        self._end_questions()
        self._commands += self._cancels(root, fact.reason)

    # -- slots

    def _slots_asked(self) -> list[Command]:
        """What stands in line."""
        commands: list[Command] = [TakeSlot("")] if self._is_gated else []
        if self._has_slots:
            commands += [TakeSlot(step.path, index) for step in self._steps.values() for index in step.asking]
        return commands

    def _may_start(self, step: Step) -> bool:
        """Whether the next call of a step has its slot; otherwise it stands in line from now on."""
        if step.returned:
            index, attempt = step.returned[0]
        else:
            index, attempt = (step.cursor if step.node.is_map else None), 1
        if index in step.slots:
            return True
        self._next_item(step)
        self._ask_slot(step, index, attempt)
        return False

    def _ask_slot(self, step: Step, index: int | None, attempt: int) -> None:
        step.stage = "active"
        step.asking[index] = attempt
        self._commands.append(TakeSlot(step.path, index))

    def _on_slot(self, fact: SlotTaken) -> None:
        if not self.expects(fact):
            return
        if not fact.path:
            self._open_gate()
            return
        step = self._steps[fact.path]
        attempt = step.asking.pop(fact.index)
        step.slots.add(fact.index)
        if (fact.index, attempt) not in step.returned:
            step.put_back(fact.index, attempt, is_first=True)
            self._enqueue(step)

    def _open_gate(self, *, is_forced: bool = False) -> None:
        """The run may go on, or begins."""
        self._is_gated = False
        if is_forced:
            self._is_forced = True
            self._commands.append(FreeSlot(""))
        if self._root.phase == "new":
            self._begin_run()

    def _on_no_slot(self, fact: Evaluated) -> None:
        """It cannot be told which slot is needed."""
        reason = "its 'concurrency' could not be evaluated"
        if not fact.path:
            self._root.blame(Cause(FATAL, reason, "concurrency", fact.error))
            self._open_gate(is_forced=True)
            self._stop(self._root, reason, "", kind=Kind.STOPPING_ON_FAILURE)
            return
        step = self._steps[fact.path]
        attempt = step.asking.pop(fact.index)
        step.error = fact.error
        self._lose(step, fact.index, attempt - 1, StepStatus.FAILED, reason, fact.error, Kind.NOT_EVALUATED)

    def _free_slots(self, step: Step, indexes: Iterable[int | None]) -> None:
        for index in indexes:
            step.slots.discard(index)
            self._commands.append(FreeSlot(step.path, index))

    def _ask_slots_again(self) -> None:
        """A new owner has none of the slots of the one before: what ran stands in line again before it is made again."""
        for step in self._steps.values() if self._has_slots else ():
            if step.node.has_slots:
                step.slots.clear()
        for (path, index), attempt in list(self._running.items()):
            step = self._step_at(path)
            # What was told to stop is made again only to be stopped before it begins.
            if (self._is_gated or (step.node.has_slots and not step.is_undo)) and not step.scope.is_cancelled:
                self._take_back(step, index)
                self._hold(step, index, attempt)
                self._enqueue(step)

    # -- waits

    def _awaited(self) -> list[Command]:
        return [AwaitSignal(waiting.key, waiting.signal) for waiting in self._mailbox if waiting.signal]

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

    def _start_waits(self, step: Step) -> None:
        """Let items begin to wait, up to the step's own cap: they hold no slot of what is around it."""
        step.stage = "active"
        held, cap = self._held, step.node.max_parallel
        while step.has_work and (cap is None or step.in_flight < cap or held is not None):
            index, _ = self._next_item(step)
            assert index is not None, "it has items"
            step.in_flight += 1
            if held is not None and (step.path, index) not in held.wanted:
                held.items.append((step, index))
            else:
                self._looked_at[step.path, index] = None
                self._commands.append(Evaluate(step.path, "wait", index))

    def _wait(self, step: Step, waiting: Waiting) -> None:
        step.stage = "active"
        entry = WaitStarted(self._at, waiting.path, waiting.signal, waiting.due, waiting.index)
        self._decide(Kind.WAIT_STARTED, entry)
        letter = self._mailbox.await_(waiting)
        if letter is not None:
            self._consume(step, waiting, letter)
            return
        if waiting.due is not None:
            timer_id = wait_timer_id(waiting.key)
            self._timers[timer_id] = (waiting.path, waiting.index, waiting.due)
            self._commands.append(SetTimer(timer_id, waiting.due))
        if waiting.signal:
            self._commands.append(AwaitSignal(waiting.key, waiting.signal))

    def _consume(self, step: Step, waiting: Waiting, letter: Letter) -> None:
        index = waiting.index
        self._timers.pop(wait_timer_id(waiting.key), None)
        entry = WaitEnded(self._at, waiting.path, "signal", letter.payload, letter.signal_id, index)
        self._decide(Kind.WAIT_SIGNALLED, entry)
        if waiting.rejects(letter.payload):
            comment = str(cast("Mapping[str, Json]", letter.payload).get("comment") or "")
            error = RejectedError(waiting.key, comment)
            self._end_badly(step, index, StepStatus.FAILED, "it was rejected", error, Kind.REJECTED)
        else:
            self._end_wait(step, index, StepStatus.COMPLETED)

    def _run_out(self, step: Step, waiting: Waiting) -> None:
        """The time of a wait has come."""
        path, index, signal = waiting.path, waiting.index, waiting.signal
        if not signal:
            entry = WaitEnded(self._at, path, "elapsed", moment_text(self._at), index=index)
            self._decide(Kind.WAIT_ELAPSED, entry)
            self._end_wait(step, index, StepStatus.COMPLETED)
            return
        output = waiting.default if waiting.on_timeout == "continue" else None
        self._decide(Kind.WAIT_RAN_OUT, WaitEnded(self._at, path, "timeout", output, index=index))
        reason = f"no signal {signal!r} came in time"
        if waiting.on_timeout == "fail":
            error = WaitTimeoutError(waiting.key, signal)
            self._end_badly(step, index, StepStatus.TIMED_OUT, reason, error, Kind.SIGNAL_MISSED)
        elif waiting.on_timeout == "continue":
            self._end_wait(step, index, StepStatus.COMPLETED, reason, kind=Kind.WAIT_DEFAULTED)
        else:
            self._end_wait(step, index, StepStatus.SKIPPED, reason, kind=Kind.WAIT_SKIPPED)

    def _end_badly(
        self, step: Step, index: int | None, status: StepStatus, reason: str, error: TreadleError, kind: Kind
    ) -> None:
        step.error = ErrorInfo(type(error).__name__, error.problem, error.remedy, retryable=False)
        self._end_wait(step, index, status, reason, step.error, kind=kind)

    def _end_wait(
        self,
        step: Step,
        index: int | None,
        status: StepStatus,
        reason: str = "",
        error: ErrorInfo | None = None,
        *,
        kind: Kind = Kind.COMPLETED,
    ) -> None:
        """A step waits no more, or one of its items."""
        if index is None:
            self._end(step, status, reason, error, kind=kind)
            return
        step.in_flight -= 1
        self._decide(kind, ItemEnded(self._at, step.path, index, status, 0, reason, error))
        if status in _FAILURES:
            self._lose_item(step, status)
        else:
            self._after_item(step)

    def _stop_waits(self, step: Step, reason: str) -> None:
        """The items of a step wait no more, whatever comes."""
        indexes = [index for path, index in self._looked_at if path == step.path]
        indexes += [waiting.index for waiting in self._mailbox if waiting.path == step.path and waiting.index is not None]
        for index in indexes:
            key = item_path(step.path, index)
            self._looked_at.pop((step.path, index), None)
            self._mailbox.forget(key)
            self._timers.pop(wait_timer_id(key), None)
            entry = ItemEnded(self._at, step.path, index, StepStatus.CANCELLED, 0, reason)
            self._decide(Kind.STOPPED, entry)
            step.in_flight -= 1
            step.dropped += 1

    # -- being told to stop

    def _tell(self, scope: Scope) -> None:
        """Mark a scope and its groups as told to stop; a graceful cancel leaves ``finally`` alone."""
        if scope.phase not in ("compensation", "finally") or self._is_forced:
            scope.is_cancelled = True
        for step in scope.steps:
            if step.scopes and (scope.is_cancelled or not step.node.is_finally):
                for inner in step.scopes.values():
                    self._tell(inner)

    def _cancels(self, scope: Scope, reason: str = "") -> list[Command]:
        """What tells the calls of a scope that was told to stop."""
        commands: list[Command] = []
        for (path, index), attempt in self._running.items():
            step = self._step_at(path)
            if step.scope.is_cancelled and step.scope.is_within(scope):
                why = reason or step.scope.stopping
                commands.append(Cancel(path, index, attempt, why, step.variant(index)))
        return commands

    def _set_deadline(self, scope: Scope) -> None:
        if scope.rules.timeout_s is not None:
            timer_id, due = timeout_timer_id(scope.path), self._at + scope.rules.timeout_s
            self._timers[timer_id] = (scope.owner.path if scope.owner else "", scope.index, due)
            self._commands.append(SetTimer(timer_id, due))

    def _time_out(self, scope: Scope) -> None:
        """A scope is not over at its deadline; clean-up that has begun goes on."""
        if scope.phase in ("compensation", "finally", "outputs", "ended"):
            return
        error = GroupTimeoutError(scope.path, scope.rules.timeout_s or 0.0)
        info = ErrorInfo(type(error).__name__, error.problem, error.remedy, retryable=False)
        what = f"group {scope.path!r}" if scope.path else "the run"
        reason = f"{what} took longer than its timeout of {scope.rules.timeout_s:g}s"
        scope.blame(Cause(FATAL, reason, scope.path, info, is_timeout=True))
        if not scope.stopping:
            self._stop(scope, reason, "", kind=Kind.STOPPING_ON_TIMEOUT)
        self._tell(scope)
        self._end_questions()
        self._commands += self._cancels(scope, reason)

    # -- attempts

    def _finish_attempt(
        self, step: Step, index: int | None, attempt: int, outcome: Outcome, why: Refusal | None = None
    ) -> None:
        del self._running[step.path, index]
        step.in_flight -= 1
        if step.slots and index in step.slots:
            self._free_slots(step, (index,))
        if step.scope.capped is not None:
            self._give_back(step.scope)
        if self._ledger is not None:
            self._settle_budget(self._ledger, step, index, outcome)
        if outcome.status == "completed":
            if step.node.is_map or step.is_undo:
                self._complete_item(step, index, attempt, was_made=not outcome.cached)
            elif outcome.cached:
                self._end(step, StepStatus.CACHED, kind=Kind.TAKEN_FROM_CACHE)
            else:
                self._end(step, StepStatus.COMPLETED)
            return
        step.error = outcome.error
        if outcome.refusal is not None:
            self._exceed(step, index, attempt, outcome, outcome.refusal)
            return
        refusal = why or self._refusal(step, index, attempt, outcome)
        if refusal is not None:
            self._give_up(step, index, attempt, outcome, refusal)
        else:
            self._retry(step, index, attempt, cast("RetryAfter", outcome.retry))

    def _complete_item(self, step: Step, index: int | None, attempt: int, *, was_made: bool = True) -> None:
        if step.is_undo:
            self._end_undo(step, index, attempt, StepStatus.COMPLETED, Kind.UNDONE)
            return
        if step.node.compensation is not None and was_made:
            self._done.append((step.node, step.path, index))
        step.cached_items += not was_made
        self._close_budget(step, index)
        self._after_item(step)

    def _refusal(self, step: Step, index: int | None, attempt: int, outcome: Outcome) -> Refusal | None:
        """Why there is no further attempt; None when there is one. Here the scheduler has the last word."""
        if outcome.status == "cancelled":
            if step.scope.is_cancelled:
                return Kind.STOPPED, step.scope.stopping
            return Kind.CANCELLED_BY_ITSELF, "it was cancelled, though nobody asked for it"
        if step.is_stopped:
            return Kind.NOT_RETRIED_ANY_MORE, f"not retried: {step.scope.stopping or 'another item failed'}"
        if not isinstance(outcome.retry, RetryAfter):
            why = f": {outcome.retry.reason}" if outcome.retry and outcome.retry.reason else ""
            return Kind.NOT_RETRIABLE, f"not retried{why}"
        is_counted = outcome.retry.is_counted
        most = step.most_attempts(index)
        if attempt >= most and is_counted:
            return Kind.ATTEMPTS_USED_UP, f"attempt {attempt} of {most} failed"
        allowed = self._graph.max_retries
        if allowed is not None and self._retries >= allowed and is_counted:
            return Kind.RETRIES_USED_UP, f"not retried: the run's max_retries of {allowed} are used up"
        if self._ledger is not None and not self._is_clean_up(step):
            late = self._ledger.late(item_path(step.path, index), self._at + (outcome.retry.delay_s or 0.0))
            if late is not None:
                return Kind.BUDGET_REFUSED, f"not retried: the wall_time budget of the {late.scope} will be used up"
        return None

    def _retry(self, step: Step, index: int | None, attempt: int, proposal: RetryAfter) -> None:
        if proposal.is_counted:
            self._retries += 1
        else:
            step.note_put_off(index)
        path, most, variant = step.path, step.most_attempts(index), step.variant(index)
        due = self._at + (proposal.delay_s or 0.0)
        timer_id = retry_timer_id(path, index, attempt, variant)
        step.note_retry(index, attempt)
        self._timers[timer_id] = (path, index, due)
        self._decide(Kind.RETRIED, RetryScheduled(self._at, path, index, attempt, most, due, proposal.reason, variant))
        self._commands.append(SetTimer(timer_id, due))
        if step.has_work:
            self._enqueue(step)

    def _give_up(self, step: Step, index: int | None, attempt: int, outcome: Outcome, refusal: Refusal) -> None:
        kind, reason = refusal
        status = _FAILED_BY[outcome.status]
        if status is StepStatus.CANCELLED and not step.scope.is_cancelled:
            status = StepStatus.FAILED
        if (
            status is not StepStatus.CANCELLED
            and step.node.fallbacks
            and self._fall_back(step, index, attempt, outcome, reason)
        ):
            return
        self._lose(step, index, attempt, status, reason, outcome.error, kind)

    def _fall_back(self, step: Step, index: int | None, attempt: int, outcome: Outcome, reason: str) -> bool:
        """Go on with the next fallback, if there is one and the step may start anything."""
        if step.variants is None:
            step.variants = {}
        number = step.variants.get(index, 0) + 1
        if step.is_stopped or step.is_undo or number > len(step.node.fallbacks):
            return False
        step.variants[index] = number
        if step.put_off:
            step.put_off.pop(index, None)
        variant = step.variant(index)
        self._decide(Kind.FELL_BACK, FallbackChosen(self._at, step.path, index, variant, attempt, reason, outcome.error))
        step.put_back(index, 1)
        self._enqueue(step)
        return True

    def _interrupt(self, step: Step, index: int | None, attempt: int) -> None:
        """End a call whose process went away, and which must not run twice."""
        error = StepInterruptedError(item_path(step.path, index))
        reason = "its process went away while it ran"
        self._drop(step, index, attempt, StepStatus.INTERRUPTED, reason, error, Kind.INTERRUPTED)

    def _poison(self, step: Step, index: int | None, attempt: int) -> None:
        """End a call whose process went away again and again."""
        crashes = self._crashes[step.path, index]
        reason = f"its process went away {crashes} times while it ran"
        error = StepPoisonedError(item_path(step.path, index), crashes)
        self._drop(step, index, attempt, StepStatus.POISONED, reason, error, Kind.POISONED)

    def _drop(
        self,
        step: Step,
        index: int | None,
        attempt: int,
        status: StepStatus,
        reason: str,
        error: TreadleError,
        kind: Kind,
    ) -> None:
        step.in_flight -= 1
        if step.slots and index in step.slots:
            self._free_slots(step, (index,))
        step.error = ErrorInfo(type(error).__name__, error.problem, error.remedy, retryable=False)
        self._lose(step, index, attempt, status, reason, step.error, kind)

    def _lose(
        self,
        step: Step,
        index: int | None,
        attempt: int,
        status: StepStatus,
        reason: str,
        error: ErrorInfo | None,
        kind: Kind,
    ) -> None:
        """End a step or an item without success."""
        if step.is_undo:
            self._end_undo(step, index, attempt, status, Kind.NOT_UNDONE, reason, error)
        elif index is None:
            self._end(step, status, reason, error, kind=kind)
        else:
            self._decide(kind, ItemEnded(self._at, step.path, index, status, attempt, reason, error))
            self._close_budget(step, index)
            self._lose_item(step, status)

    def _lose_item(self, step: Step, status: StepStatus) -> None:
        step.failed_items += 1
        if self._is_too_much_for(step):
            self._stop_items(step, "another item failed")
        self._after_item(step)

    def _is_too_much_for(self, step: Step) -> bool:
        """Whether so many items of a ``foreach`` have failed that no more are started."""
        if step.node.max_failures is not None:
            return step.failed_items > step.tolerance
        return (step.node.on_error or step.scope.rules.on_error) == "stop"

    def _after_item(self, step: Step) -> None:
        if step.has_work:
            (self._start_waits if step.node.is_wait else self._enqueue)(step)
        elif step.is_drained:
            self._end_map(step)

    def _end_map(self, step: Step) -> None:
        is_whole = step.cursor == step.count and not step.dropped
        if not step.failed_items and not step.partial_items and is_whole:
            if step.cached_items == step.count:
                self._end(step, StepStatus.CACHED, kind=Kind.TAKEN_FROM_CACHE)
            else:
                self._end(step, StepStatus.COMPLETED, kind=Kind.ITEMS_COMPLETED)
        elif step.scope.is_cancelled or (not is_whole and step.failed_items <= step.tolerance):
            self._end(step, StepStatus.CANCELLED, step.scope.stopping, step.error, kind=Kind.STOPPED)
        elif step.failed_items <= step.tolerance:
            parts = f", {step.partial_items} in part" if step.partial_items else ""
            reason = f"{step.failed_items} of {step.count} items failed{parts}"
            self._end(step, StepStatus.PARTIAL_FAILURE, reason, step.error, kind=Kind.ITEMS_FAILED_IN_PART)
        else:
            reason = f"{step.failed_items} of {step.count} items failed"
            self._end(step, StepStatus.FAILED, reason, step.error, kind=Kind.ITEMS_FAILED)

    def _stop_items(self, step: Step, reason: str) -> None:
        """Hand out no more items and forget waiting retries; what runs drains."""
        step.is_stopped = True
        for index, attempt in [*step.retrying.items(), *((index, number - 1) for index, number in step.returned)]:
            if index is not None and not step.is_undo:
                entry = ItemEnded(self._at, step.path, index, StepStatus.CANCELLED, attempt, reason, step.error)
                self._decide(Kind.STOPPED, entry)
                self._close_budget(step, index)
                step.dropped += 1
        if step.node.has_slots:
            self._leave_line(step, reason)
        if step.node.is_wait and step.node.is_map:
            self._stop_waits(step, reason)
        for index, attempt in step.retrying.items():
            self._timers.pop(retry_timer_id(step.path, index, attempt, step.variant(index)), None)
        step.forget_waiting()

    def _leave_line(self, step: Step, reason: str) -> None:
        """Give up the places and slots of a step's calls that have not begun."""
        begun = [index for path, index in self._running if path == step.path]
        for index, attempt in step.asking.items():
            if index is not None and (index, attempt) not in step.returned:
                entry = ItemEnded(self._at, step.path, index, StepStatus.CANCELLED, attempt - 1, reason, step.error)
                self._decide(Kind.STOPPED, entry)
                step.dropped += 1
        self._free_slots(step, [*step.asking, *sorted(step.slots.difference(begun), key=str)])
        step.asking.clear()

    # -- steps

    def _release(self, scope: Scope, *, is_finally: bool) -> None:
        for step in scope.steps:
            if step.node.is_finally == is_finally and not step.waiting and step.stage == "pending":
                self._arrived.append(step)

    def _arrive(self, step: Step) -> None:
        """All needs are done: skip, ask or queue."""
        if step.stage != "pending":
            return
        if step.blocked_by and step.is_blocked:
            self._end_blocked(step)
        elif step.node.has_when:
            self._ask(step, "when")
        else:
            self._begin(step)

    def _begin(self, step: Step) -> None:
        """Nothing stands before its work any more."""
        node = step.node
        if node.is_map:
            self._ask(step, "foreach")
        elif node.is_wait:
            if self._held is not None and (step.path, None) not in self._held.wanted:
                self._held.waits.append(step)
            else:
                self._ask(step, "wait")
        else:
            self._enqueue(step)

    # -- going on again

    def _hand_out(self, held: Held) -> None:
        """Start what is wanted, without any cap, and hold what else could start."""
        while self._ready:
            step = self._ready.popleft()
            step.is_queued = False
            while step.stage != "ended" and step.has_work:
                index, attempt = self._next_item(step)
                if (step.path, index) not in held.wanted:
                    step.in_flight += 1  # or a map would be over
                    held.items.append((step, index))
                elif step.node.form is not None:
                    self._start_item(step, index)
                else:
                    self._launch(step, index, attempt)

    def _let_go(self, held: Held) -> None:
        """What was held may start."""
        self._held, self._retries = None, 0
        if self._ledger is not None:
            self._ledger.begin_again(self._at)
            if self._ledger.due is not None:
                self._timers[BUDGET_TIMER_ID] = ("", None, self._ledger.due)
        for step in held.waits:
            self._ask(step, "wait")
        for step, index in held.items:
            step.in_flight -= 1
            step.put_back(index, 1)
            if not step.node.is_wait:
                self._enqueue(step)
        for step, _ in held.items:
            if step.node.is_wait:
                self._start_waits(step)
        if held.is_over:
            self._over.append(self._root)

    # -- blocked

    def _end_blocked(self, step: Step) -> None:
        reason = f"{step.blocked_by!r} did not complete"
        self._end(step, StepStatus.UPSTREAM_FAILED, reason, culprit=step.blocked_by, kind=Kind.NEED_FAILED)

    def _ask(self, step: Step, what: Literal["when", "foreach", "wait"]) -> None:
        step.stage = what
        self._commands.append(Evaluate(step.path, what))

    def _enqueue(self, step: Step) -> None:
        if not step.is_queued:
            step.is_queued = True
            self._ready.append(step)
        if step.stage != "active":
            step.stage = "ready"

    def _end(
        self,
        step: Step,
        status: StepStatus,
        reason: str = "",
        error: ErrorInfo | None = None,
        culprit: str = "",
        *,
        cause: Cause | None = None,
        kind: Kind = Kind.COMPLETED,
    ) -> None:
        """End a step; a group comes with the cause that its scope found."""
        node, scope = step.node, step.scope
        step.stage, step.status = "ended", status
        if node.is_wait:
            self._mailbox.forget(step.path)
            self._timers.pop(wait_timer_id(step.path), None)
        if cause is not None:
            culprit = cause.culprit
        self._records.append(StepEnded(self._at, step.path, status, step.attempts, reason, error, culprit, step.failed_items))
        if self._kinds is not None:  # as _decide, of which every step would feel the call
            self._kinds.append(kind)
        if self._ledger is not None:
            self._ledger.close(step.path)
        if node.is_finally:
            scope.open_finally -= 1
        else:
            scope.open_main -= 1
        is_blocking = False
        if status is not StepStatus.COMPLETED:
            because = cause or self._over_budget or Cause(FATAL, f"step {step.path!r} failed", step.path, error)
            self._blame(step, status, because, reason)
            is_blocking = status.value in _BLOCKING and node.on_error != "continue"
        if node.compensation is not None and not node.is_map and status in _UNDONE:
            self._done.append((node, step.path, None))
        for dependent in step.dependents:
            dependent.waiting -= 1
            if is_blocking:
                dependent.blocks += 1
                if not dependent.blocked_by:
                    dependent.blocked_by = step.blocked_by if status is StepStatus.UPSTREAM_FAILED else step.path
            if not dependent.waiting and dependent.stage == "pending":
                self._arrived.append(dependent)
        if step.is_queued:
            step.is_queued = False
            if scope.capped is not None:
                self._unpark(scope)  # it will not take the place that it was queued for
        if not (scope.open_finally if node.is_finally else scope.open_main):
            self._over.append(scope)

    def _blame(self, step: Step, status: StepStatus, cause: Cause, reason: str) -> None:
        """What the end of a step means for its scope."""
        if status in _FAILURES:
            self._on_failure(step, cause)
        elif status is StepStatus.PARTIAL_FAILURE:
            if step.node.is_map:
                cause = attrs.evolve(cause, reason=f"step {step.path!r}: {reason}")
            step.scope.blame(attrs.evolve(cause, gravity=TOLERATED, is_timeout=False))
        elif status is StepStatus.CANCELLED:
            step.scope.has_lost = True

    def _on_failure(self, step: Step, cause: Cause) -> None:
        node, scope = step.node, step.scope
        if node.on_error == "continue":
            scope.blame(attrs.evolve(cause, gravity=TOLERATED, is_timeout=False))
        elif node.is_finally:
            scope.blame(attrs.evolve(cause, gravity=IN_FINALLY, is_timeout=False))
        else:
            scope.failures += 1
            is_fatal = not scope.stopping and self._is_too_much(scope, node)
            scope.blame(attrs.evolve(cause, gravity=FATAL if is_fatal else TOLERATED, is_timeout=False))
            if is_fatal:
                kind = Kind.STOPPING_ON_FAILURE if self._over_budget is None else Kind.STOPPING_ON_BUDGET
                self._stop(scope, cause.reason, cause.culprit, step, kind=kind)

    def _is_too_much(self, scope: Scope, node: Node) -> bool:
        if node.on_error == "stop":
            return True
        if scope.rules.max_failures is not None:
            return scope.failures > scope.rules.max_failures
        return scope.rules.on_error == "stop"

    def _stop(self, scope: Scope, reason: str, culprit: str, failed: Step | None = None, *, kind: Kind) -> None:
        """Start nothing new in this phase of a scope; end what waits; leave what runs."""
        self._decide(kind, RunStopping(self._at, reason, culprit, scope.path))
        if failed is not None:
            self._block_dependents(failed)
        self._halt(scope, reason)

    def _halt(self, scope: Scope, reason: str) -> None:
        """End what waits in a scope and in its groups. Clean-up that has begun goes on, unless there is to be none."""
        if scope.phase in ("compensation", "finally") and not self._is_forced:
            return
        scope.stopping = reason
        if scope.phase in ("inputs", "choose"):
            scope.has_lost = True
            self._enter_main(scope)
        if scope.phase == "compensation":
            self._halt_undo(scope, reason)
            return
        in_finally = scope.phase == "finally"
        for step in scope.steps:
            if step.node.is_finally == in_finally and step.stage != "ended":
                self._stop_step(step, reason)

    def _block_dependents(self, culprit: Step) -> None:
        """Mark all that hangs on a failed step, so that it ends as ``upstream_failed`` and not merely as cancelled."""
        marked = deque([culprit])
        while marked:
            for dependent in marked.popleft().dependents:
                node = dependent.node
                if not dependent.blocked_by and dependent.stage == "pending" and node.needs_rule == "all_succeeded":
                    dependent.blocked_by = culprit.path
                    if node.on_error != "continue":
                        marked.append(dependent)

    def _stop_step(self, step: Step, reason: str) -> None:
        self._stop_items(step, reason)
        if step.in_flight:
            for scope in list(step.scopes.values()) if step.scopes else ():
                self._halt(scope, reason)
            return
        if step.is_blocked:
            self._end_blocked(step)
        elif step.node.is_map and step.cursor:
            self._end_map(step)
        else:
            self._end(step, StepStatus.CANCELLED, reason, step.error, kind=Kind.STOPPED)

    # -- groups

    def _start_group(self, step: Step, index: int | None) -> None:
        """A group, or an item of a ``foreach`` over one, begins: its steps are made now, or once what it asks is answered."""
        node = step.node
        assert node.form is not None, "only groups come here"
        scope = Scope(node.rules or Rules(), step, index)
        if step.scopes is None:
            step.scopes = {}
        step.scopes[index] = self._scopes[scope.path] = scope
        due = None if scope.rules.timeout_s is None else self._at + scope.rules.timeout_s
        self._decide(Kind.GROUP_STARTED, GroupStarted(self._at, step.path, node.form, index, due))
        self._set_deadline(scope)
        if node.form == "parallel":
            self._open_group(scope)
        else:
            scope.phase = "choose" if node.form == "choose" else "inputs"
            self._commands.append(Evaluate(step.path, scope.phase, index))

    def _open_group(self, scope: Scope) -> None:
        owner = scope.owner
        assert owner is not None, "the run's steps are there from the start"
        scope.open_steps(owner.node.children, self._steps)
        if owner.node.form == "choose":
            self._skip_branches(scope)
        self._enter_main(scope)

    def _skip_branches(self, scope: Scope) -> None:
        """End the branches that are not taken. They stand in the order in which they were asked."""
        is_past = False
        for step in scope.steps:
            if step.path == f"{scope.path}/{scope.taken}":
                is_past = True
                continue
            if is_past:
                self._end(step, StepStatus.SKIPPED, f"branch {scope.taken!r} was taken", kind=Kind.BRANCH_NOT_TAKEN)
            else:
                self._end(step, StepStatus.SKIPPED, "its 'when' was false", kind=Kind.CONDITION_FALSE)

    def _enter_main(self, scope: Scope) -> None:
        scope.phase = "main"
        self._release(scope, is_finally=False)
        if not scope.open_main:
            self._over.append(scope)

    def _close_group(self, scope: Scope) -> None:
        """A start of a group is over: forget its steps, and end the group or the item."""
        owner = scope.owner
        assert owner is not None, "the run ends otherwise"
        scope.phase = "ended"
        status, cause = self._group_status(scope), scope.cause
        attempts = sum(step.attempts for step in scope.steps)
        for step in scope.steps:
            del self._steps[step.path]
        del self._scopes[scope.path]
        self._close_budget(owner, scope.index)
        if owner.scopes is not None:
            del owner.scopes[scope.index]
        if scope.rules.timeout_s is not None:
            self._timers.pop(timeout_timer_id(scope.path), None)
        owner.in_flight -= 1
        owner.attempts += attempts
        error = cause.error if cause.gravity else owner.error
        reason = self._group_reason(scope, status)
        if cause.culprit == scope.path:  # no step of it failed: it did so itself
            cause = attrs.evolve(cause, reason=f"step {owner.path!r} failed", culprit=owner.path)
        if owner.node.is_map:
            self._end_group_item(owner, scope, status, attempts, reason)
        else:
            self._end(owner, status, reason, error, cause=cause if cause.gravity else None, kind=_GROUP_KINDS[status])
        scope.close()

    def _end_group_item(self, owner: Step, scope: Scope, status: StepStatus, attempts: int, reason: str) -> None:
        assert scope.index is not None, "it is an item"
        error = scope.cause.error
        entry = ItemEnded(self._at, owner.path, scope.index, status, attempts, reason, error)
        self._decide(_GROUP_KINDS[status], entry)
        owner.error = error or owner.error
        if owner.node.compensation is not None and status in _UNDONE:
            self._done.append((owner.node, owner.path, scope.index))
        if status in _FAILURES:
            self._lose_item(owner, status)
            return
        if status is StepStatus.PARTIAL_FAILURE:
            owner.partial_items += 1
        elif status is StepStatus.CANCELLED:
            owner.dropped += 1
        self._after_item(owner)

    def _group_status(self, scope: Scope) -> StepStatus:
        gravity = scope.cause.gravity
        if gravity in (FATAL, IN_FINALLY):
            return StepStatus.TIMED_OUT if scope.cause.is_timeout else StepStatus.FAILED
        if scope.has_lost:
            return StepStatus.CANCELLED
        if gravity == TOLERATED:
            return StepStatus.PARTIAL_FAILURE
        is_choose = scope.owner is not None and scope.owner.node.form == "choose"
        return StepStatus.SKIPPED if is_choose and scope.taken is None else StepStatus.COMPLETED

    def _group_reason(self, scope: Scope, status: StepStatus) -> str:
        if status is StepStatus.CANCELLED:
            return scope.stopping
        return _NO_BRANCH if status is StepStatus.SKIPPED else scope.cause.reason

    # -- the run

    def _settle(self) -> None:
        """Follow every consequence of the fact until nothing more follows."""
        while True:
            while self._arrived:
                self._arrive(self._arrived.popleft())
            if self._held is None:
                self._pump()
            else:
                self._hand_out(self._held)
            if self._over:
                self._advance(self._over.popleft())
            elif not self._arrived:
                return

    def _advance(self, scope: Scope) -> None:
        """A phase of a scope is over: go on to the next."""
        if self._held is not None and scope is self._root:
            self._held.is_over = True
            return
        if scope.phase == "main" and not scope.open_main:
            scope.main_status = self._run_status(scope).value
            is_bad = scope.main_status in ("failed", "cancelled", "timed_out")
            if is_bad and self._done and (scope.owner is None or self._is_borne(scope, scope.owner)):
                self._begin_phase(scope, "compensation")
                self._undo_next(scope)
            else:
                self._enter_finally(scope)
        elif scope.phase == "compensation":
            self._undo_next(scope)
        elif scope.phase == "finally" and not scope.open_finally:
            self._close(scope)

    def _begin_phase(self, scope: Scope, phase: Literal["compensation", "finally"]) -> None:
        scope.phase = phase
        scope.is_cancelled = self._is_forced

    def _enter_finally(self, scope: Scope) -> None:
        self._begin_phase(scope, "finally")
        if not scope.open_finally:
            self._over.append(scope)
        elif not self._is_forced:
            self._release(scope, is_finally=True)
        else:
            self._stop(scope, scope.stopping, "", kind=Kind.STOPPING_ON_CANCEL)

    def _pump(self) -> None:
        """Hand out ready work, in order, up to the caps."""
        if self._is_gated or ((self._suspects or self._trial) and self._is_trying()):
            return
        ready, running, most = self._ready, self._running, self._max_parallel
        while ready and len(running) < most:
            step = ready.popleft()
            step.is_queued = False
            if step.stage == "ended":
                continue
            node = step.node
            cap = node.max_parallel
            if cap is None and (node.form is not None or node.has_slots):
                cap = most
            if not step.has_work or (cap is not None and step.in_flight + len(step.asking) >= cap):
                if step.scope.capped is not None:
                    self._unpark(step.scope)
                continue  # a step at its cap is queued again when one of its items ends
            if node.form is not None and not step.is_undo:
                self._start_item(step, self._next_item(step)[0])
                if step.has_work:
                    self._enqueue(step)
                if self._arrived and isinstance(ready, ReadyQueue):
                    return  # its steps may come before all others
                continue
            if node.has_slots and not step.is_undo and not self._may_start(step):
                if step.has_work:
                    self._enqueue(step)
                if step.scope.capped is not None:
                    self._unpark(step.scope)
                continue
            if step.scope.capped is not None and not self._take(step):
                continue
            if self._ledger is not None and not self._afford(self._ledger, step):
                if step.scope.capped is not None:
                    self._give_back(step.scope)
                continue
            self._start(step)
            if node.is_map and step.has_work:
                self._enqueue(step)

    def _next_item(self, step: Step) -> tuple[int | None, int]:
        """What of a step starts next: an item (None for a step without), and the attempt."""
        if step.returned:
            return step.returned.popleft()
        index = step.cursor if step.node.is_map else None
        step.cursor += 1
        return index, 1

    def _start_item(self, step: Step, index: int | None) -> None:
        step.stage = "active"
        step.in_flight += 1
        self._start_group(step, index)

    def _is_trying(self) -> bool:
        """After a crash, what may have caused it runs alone, one after the other: only the guilty is found running again."""
        if self._running:
            return True
        self._trial = None
        for place, attempt in list(self._suspects.items()):
            del self._suspects[place]
            path, index = place
            step = self._undoing.get(path) or self._steps.get(path)
            if step is None or (index, attempt) not in step.returned:
                continue  # it was stopped meanwhile
            if step.node.has_slots and not step.is_undo and index not in step.slots:
                self._suspects[place] = attempt
                if index not in step.asking:
                    self._ask_slot(step, index, attempt)
                return True
            step.returned.remove((index, attempt))
            if step.scope.capped is not None:
                self._take(step)
            self._trial = place
            if self._ledger is not None:
                self._ledger.open(item_path(path, index), self._at, may_wait=False)
            self._launch(step, index, attempt)
            return True
        return False

    def _start(self, step: Step) -> None:
        index: int | None  # as _next_item, of which every step would feel the call
        if step.returned:
            index, attempt = step.returned.popleft()
        else:
            index, attempt = (step.cursor if step.node.is_map else None), 1
            step.cursor += 1
        self._launch(step, index, attempt)

    def _launch(self, step: Step, index: int | None, attempt: int) -> None:
        path = step.path
        step.stage = "active"
        step.in_flight += 1
        step.attempts += 1
        self._running[path, index] = attempt
        variant = step.variant(index) if step.variants or step.is_undo else "primary"
        allowance: tuple[SpendLimit, ...] = ()
        if self._ledger is not None:
            allowance = self._allowances[path, index] = self._allowance(self._ledger, step, index)
        self._records.append(AttemptStarted(self._at, path, index, attempt, variant, self._stint, allowance))
        if self._kinds is not None:  # as _decide, again
            self._kinds.append(Kind.RELEASED)
        self._commands.append(Start(path, index, attempt, variant, allowance=allowance))

    # -- budgets

    def _begin_budgets(self, ledger: Ledger) -> None:
        ledger.begin(self._at)
        if ledger.due is not None:
            self._timers[BUDGET_TIMER_ID] = ("", None, ledger.due)
            self._commands.append(SetTimer(BUDGET_TIMER_ID, ledger.due))

    def _allowance(self, ledger: Ledger, step: Step, index: int | None) -> tuple[SpendLimit, ...]:
        return ledger.allowance(item_path(step.path, index), self._at, is_timed=not self._is_clean_up(step))

    def _is_clean_up(self, step: Step) -> bool:
        """Whether it has to be done although the time is up."""
        return step.is_undo or step.node.is_finally or self._root.phase in ("compensation", "finally")

    def _close_budget(self, step: Step, index: int | None) -> None:
        if self._ledger is not None:
            self._ledger.close(item_path(step.path, index))

    def _afford(self, ledger: Ledger, step: Step) -> bool:
        """Set aside what the next call of a step may use up; park it while others may give back what it lacks."""
        index = step.returned[0][0] if step.returned else step.cursor if step.node.is_map else None
        key = item_path(step.path, index)
        if not ledger.open(key, self._at, may_wait=bool(self._running)):
            step.is_queued = True
            self._short.append(step)
            return False
        late = None if self._is_clean_up(step) else ledger.late(key, self._at)
        if late is not None:
            self._refuse_start(step, index, late)
        return late is None

    def _refuse_start(self, step: Step, index: int | None, late: BudgetRefusal) -> None:
        """End a step or item instead of starting it: its time is up."""
        attempt = 0
        if step.returned:
            attempt = step.returned.popleft()[1] - 1
        else:
            step.cursor += 1
        if index in step.slots:
            self._free_slots(step, (index,))
        error = BudgetExceededError("wall_time", late.scope)
        info = ErrorInfo(type(error).__name__, error.problem, error.remedy, retryable=False)
        self._exceed(step, index, attempt, Outcome("failed", error=info), late)

    def _settle_budget(self, ledger: Ledger, step: Step, index: int | None, outcome: Outcome) -> None:
        """Count what a call has used up, and let those start that waited for what it left."""
        self._allowances.pop((step.path, index), None)
        ledger.settle(item_path(step.path, index), outcome.usage)
        self._let_wait_no_more()

    def _let_wait_no_more(self) -> None:
        for step in self._short:
            self._ready.append(step)
        self._short.clear()

    def _exceed(self, step: Step, index: int | None, attempt: int, outcome: Outcome, refusal: BudgetRefusal) -> None:
        """End a step that asked for more than there is, for good; and what its budget belongs to, when that says so."""
        ended = self._ledger.stops(item_path(step.path, index), refusal) if self._ledger is not None else None
        reason = f"not retried: {_refused(refusal)}"
        step.error = outcome.error
        if ended is None:
            self._give_up(step, index, attempt, outcome, (Kind.BUDGET_REFUSED, reason))
            return
        self._over_budget = Cause(FATAL, _used_up(refusal.resource, ended), step.path, outcome.error)
        self._lose(step, index, attempt, StepStatus.FAILED, reason, outcome.error, Kind.BUDGET_REFUSED)
        self._end_over_budget(ended, self._over_budget, step)
        self._over_budget = None

    def _end_over_budget(self, path: str, cause: Cause, failed: Step | None = None) -> None:
        """Start nothing more in the run or a group; the scopes of its items end each for itself."""
        for scope in [scope for key, scope in self._scopes.items() if key == path or key.startswith(f"{path}[")]:
            if scope.phase not in ("main", "inputs", "choose"):
                continue
            scope.blame(cause)
            if not scope.stopping:
                self._stop(scope, cause.reason, cause.culprit, failed, kind=Kind.STOPPING_ON_BUDGET)

    def _end_at_due(self, path: str) -> None:
        error = BudgetExceededError("wall_time", "run")
        info = ErrorInfo(type(error).__name__, error.problem, error.remedy, retryable=False)
        self._end_over_budget(path, Cause(FATAL, _used_up("wall_time", path), "", info))

    # -- caps of groups

    def _take(self, step: Step) -> bool:
        """Count a call under the caps of the groups around it, or park its step under the first that is reached."""
        for scope in step.scope.caps:
            if scope.running >= (scope.rules.max_parallel or 1):
                step.is_queued = True
                scope.parked.append(step)
                return False
        for scope in step.scope.caps:
            scope.running += 1
        return True

    def _give_back(self, scope: Scope) -> None:
        for capped in scope.caps:
            capped.running -= 1
        self._unpark(scope)

    def _unpark(self, scope: Scope) -> None:
        """Queue one step of each cap that has room again; one that cannot start makes way for the next."""
        for capped in scope.caps:
            while capped.parked and capped.parked[0].stage == "ended":
                capped.parked.popleft()
            if capped.parked and capped.running < (capped.rules.max_parallel or 1):
                self._ready.append(capped.parked.popleft())

    # -- undoing

    def _is_borne(self, scope: Scope, owner: Step) -> bool:
        """Whether a group that failed undoes its steps itself, because what is around it goes on.

        Otherwise the next scope around it that fails and is borne does, or the run.
        """
        node, around = owner.node, owner.scope
        if node.is_finally:
            return not self._is_forced
        if self._is_cancelling or around.stopping:
            return False
        if node.is_map and node.max_failures is not None and owner.failed_items < owner.tolerance:
            return True
        if (node.on_error or around.rules.on_error) == "continue":
            return True
        return node.on_error is None and around.failures < (around.rules.max_failures or 0)

    def _undo_of(self, scope: Scope) -> Step | None:
        """What of a scope is being undone."""
        return next((step for step in self._undoing.values() if step.scope is scope), None)

    def _take_done(self, scope: Scope) -> tuple[Node, str, int | None] | None:
        """What completed last in a scope and is not undone."""
        within = f"{scope.path}/" if scope.owner is not None else ""
        for place in range(len(self._done) - 1, -1, -1):
            if self._done[place][1].startswith(within):
                return self._done.pop(place)
        return None

    def _undo_next(self, scope: Scope) -> None:
        """Undo what completed last, if anything is left; then go on to ``finally``."""
        if self._undo_of(scope) is not None:
            return
        if self._is_forced:
            self._halt_undo(scope, scope.stopping or self._root.stopping)
            return
        done = self._take_done(scope)
        if done is None:
            self._enter_finally(scope)
            return
        node, path, index = done
        self._undoing[path] = step = _undo_step(node, scope, path)
        self._close_budget(step, index)  # what it used itself does not keep it from being undone
        step.put_back(index, 1)
        self._enqueue(step)

    def _end_undo(
        self,
        step: Step,
        index: int | None,
        attempt: int,
        status: StepStatus,
        kind: Kind,
        reason: str = "",
        error: ErrorInfo | None = None,
    ) -> None:
        step.stage = "ended"
        del self._undoing[step.path]
        self._close_budget(step, index)
        self._decide(kind, CompensationEnded(self._at, step.path, index, status, attempt, reason, error))
        self._over.append(step.scope)

    def _halt_undo(self, scope: Scope, reason: str) -> None:
        """No more of a scope is undone, and the log says of what."""
        step = self._undo_of(scope)
        if step is not None and not step.in_flight:
            index, attempt = next(iter([*step.retrying.items(), *((i, n - 1) for i, n in step.returned)]))
            self._stop_items(step, reason)
            self._end_undo(step, index, attempt, StepStatus.CANCELLED, Kind.UNDOING_STOPPED, reason, step.error)
        elif step is not None:
            self._stop_items(step, reason)
        while (left := self._take_done(scope)) is not None:
            entry = CompensationEnded(self._at, left[1], left[2], StepStatus.CANCELLED, 0, reason)
            self._decide(Kind.UNDOING_STOPPED, entry)
        if self._undo_of(scope) is None:
            self._enter_finally(scope)

    # -- the end

    def _close(self, scope: Scope) -> None:
        is_fine = self._run_status(scope) in (RunStatus.COMPLETED, RunStatus.PARTIAL_FAILURE)
        if scope.rules.has_outputs and is_fine:
            scope.phase = "outputs"
            self._commands.append(Evaluate(scope.owner.path if scope.owner else "", "outputs", scope.index))
        elif scope.owner is not None:
            self._close_group(scope)
        else:
            self._finish({})

    def _run_status(self, scope: Scope) -> RunStatus:
        """How the run, or a group as if it were one, stands."""
        gravity = scope.cause.gravity
        if gravity != FATAL and (self._is_cancelling if scope.owner is None else scope.has_lost):
            return RunStatus.CANCELLED
        if gravity in (FATAL, IN_FINALLY):
            return RunStatus.TIMED_OUT if scope.cause.is_timeout else RunStatus.FAILED
        return RunStatus.PARTIAL_FAILURE if gravity == TOLERATED else RunStatus.COMPLETED

    def _finish(self, outputs: Mapping[str, Json]) -> None:
        root = self._root
        root.phase = "ended"
        self._status = status = self._run_status(root)
        cause = Cause(reason=root.stopping) if status is RunStatus.CANCELLED else root.cause
        self._decide(_RUN_KINDS[status], RunEnded(self._at, status, cause.reason, cause.culprit, cause.error, outputs))
        self._commands.append(Finish(status))

    # -- snapshots, for hosts whose history is bounded

    def dump(self) -> dict[str, Json]:
        """The whole state as plain JSON data; ``load`` gives an equal scheduler."""
        return {
            "max_parallel": self._max_parallel,
            "rules": self._rules,
            "stint": self._stint,
            "at": self._at,
            "retries": self._retries,
            "is_cancelling": self._is_cancelling,
            "is_forced": self._is_forced,
            "status": self._status.value if self._status else None,
            "ready": [queued(step) for step in self._ready if step.stage != "ended"],
            **({"is_gated": self._is_gated} if self._graph.has_slot else {}),
            "running": [[path, index, attempt] for (path, index), attempt in self._running.items()],
            "mailbox": self._mailbox.dump(),
            "looked_at": [list(place) for place in self._looked_at],
            "crashes": _dump_places(self._crashes),
            "suspects": _dump_places(self._suspects),
            "asked": _dump_places(self._asked),
            "trial": list(self._trial) if self._trial else None,
            "timers": [[timer_id, *timer] for timer_id, timer in self._timers.items()],
            "done": [[node.path, path, index] for node, path, index in self._done],
            "undoing": [[step.node.path, path, step.scope.path, dump_step(step)] for path, step in self._undoing.items()],
            "scopes": {path: dump_scope(scope) for path, scope in self._scopes.items()},
            "steps": {path: dump_step(step) for path, step in self._steps.items()},
            **self._dump_budgets(),
        }

    def _dump_budgets(self) -> dict[str, Json]:
        if self._ledger is None:
            return {}
        allowances = [
            [path, index, [attrs.asdict(limit) for limit in limits]] for (path, index), limits in self._allowances.items()
        ]
        spenders = None if self._spenders is None else list(self._spenders)
        short = [queued(step) for step in self._short]
        return {"budgets": {"spenders": spenders, "ledger": self._ledger.dump(), "allowances": allowances, "short": short}}

    def _load_budgets(self, data: Mapping[str, object]) -> None:
        spenders = cast("list[str] | None", data["spenders"])
        self._spenders = None if spenders is None else tuple(spenders)
        self._ledger = Ledger.load(shares_of(self._graph, self._spenders), data["ledger"])
        rows = cast("list[tuple[str, int | None, list[dict[str, object]]]]", data["allowances"])
        for path, index, limits in rows:
            self._allowances[path, index] = tuple(SpendLimit(**limit) for limit in limits)  # type: ignore[arg-type]  # a dump
        self._short = self._queue_of(data["short"])

    def _queue_of(self, paths: object) -> list[Step]:
        return [self._find(place) for place in cast("list[object]", paths)]

    def _find(self, place: object) -> Step:
        """The step that ``queued`` told of."""
        return self._undoing[cast("str", place[0])] if isinstance(place, list | tuple) else self._steps[cast("str", place)]

    @classmethod
    def load(cls, graph: Graph, data: Mapping[str, Json]) -> Scheduler:
        """Build the scheduler that ``dump`` described."""
        state = cast("dict[str, object]", data)
        self = cls(graph)
        for name in ("max_parallel", "rules", "stint", "at", "retries", "is_cancelling", "is_forced"):
            setattr(self, f"_{name}", state[name])
        self._status = RunStatus(cast("str", state["status"])) if state["status"] else None
        scopes = cast("dict[str, dict[str, object]]", state["scopes"])
        for path, told in scopes.items():
            if path:
                self._reopen(path, told)
        steps = cast("dict[str, dict[str, object]]", state["steps"])
        self._steps = {path: self._steps[path] for path in steps}
        for path, step in steps.items():
            load_step(self._steps[path], step)
        self._load_undoing(state)
        for path, told in scopes.items():
            load_scope(self._scopes[path], told, self._find)
        for step_of in self._queue_of(state["ready"]):
            self._ready.append(step_of)
        self._is_gated = bool(state.get("is_gated"))
        rows = cast("list[tuple[str, int | None, int]]", state["running"])
        self._running = {(path, index): attempt for path, index, attempt in rows}
        self._mailbox = Mailbox.load(cast("Mapping[str, object]", state["mailbox"]))
        self._looked_at = dict.fromkeys((path, index) for path, index in cast("list[tuple[str, int]]", state["looked_at"]))
        for name in ("crashes", "suspects", "asked"):
            places = cast("list[tuple[str, int | None, int]]", state[name])
            setattr(self, f"_{name}", {(path, index): number for path, index, number in places})
        trial = cast("list[str | int | None] | None", state["trial"])
        self._trial = (cast("str", trial[0]), cast("int | None", trial[1])) if trial else None
        timers = cast("list[tuple[str, str, int | None, float]]", state["timers"])
        self._timers = {timer_id: (path, index, due) for timer_id, path, index, due in timers}
        if "budgets" in state:
            self._load_budgets(cast("Mapping[str, object]", state["budgets"]))
        return self

    def _reopen(self, path: str, told: Mapping[str, object]) -> None:
        """Make a group's scope again; its state is filled in later."""
        owner, index = self._steps[cast("str", told["owner"])], cast("int | None", told["index"])
        scope = Scope(owner.node.rules or Rules(), owner, index)
        if owner.scopes is None:
            owner.scopes = {}
        owner.scopes[index] = self._scopes[path] = scope
        if told["is_open"]:
            scope.open_steps(owner.node.children, self._steps)

    def _load_undoing(self, state: Mapping[str, object]) -> None:
        rows = cast("list[tuple[str, str, int | None]]", state["done"])
        undoing = cast("list[tuple[str, str, str, dict[str, object]]]", state["undoing"])
        if not rows and not undoing:
            return
        nodes = {node.path: node for node in walk(self._graph.nodes)}
        self._done = [(nodes[planned], path, index) for planned, path, index in rows]
        for planned, path, scope, told in undoing:
            self._undoing[path] = step = _undo_step(nodes[planned], self._scopes[scope], path)
            load_step(step, told)


# Not in each scheduler: with methods of its own in it, it would stay until the collector comes.
_HANDLERS: Mapping[type, Callable[[Scheduler, Any], None]] = {
    RunCreated: Scheduler._on_created,
    StintOpened: Scheduler._on_stint,
    Evaluated: Scheduler._on_evaluated,
    AttemptEnded: Scheduler._on_attempt_ended,
    UsageNoted: Scheduler._on_usage,
    TimerFired: Scheduler._on_timer,
    SlotTaken: Scheduler._on_slot,
    SignalReceived: Scheduler._on_signal,
    CancelRequested: Scheduler._on_cancel,
    InterruptAnswered: Scheduler._on_told,
}


def _undo_step(node: Node, scope: Scope, path: str) -> Step:
    """A step that undoes another: it has that one's path, and only the item that it is given."""
    step = Step(node, scope, path)
    step.is_undo = True
    step.count = step.cursor = 0
    return step


def _dump_places(places: Mapping[tuple[str, int | None], int]) -> Json:
    return [[path, index, number] for (path, index), number in places.items()]
