"""The driver: hands ready calls to a pool of workers, commits what became of them, and keeps time.

Whichever worker finishes a call also takes the turn and commits it; outcomes that arrive meanwhile join the next commit.
So a chain of steps runs in one worker without a switch, and a slow store gets its batches for free.
"""

from __future__ import annotations

import contextlib
import contextvars
import heapq
import logging
import math
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from typing import Generic, Literal, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from treadle._conductor import Conductor
from treadle._models import (
    AttemptEnded,
    AwaitSignal,
    Call,
    Cancel,
    CancelRequested,
    Command,
    Entry,
    Fact,
    Finish,
    FreeSlot,
    Outcome,
    SetTimer,
    SignalReceived,
    SlotTaken,
    Start,
    TakeSlot,
    TimerFired,
    UsageNoted,
)
from treadle._run_log import RunLog
from treadle._runner import Key, Runner, key_of
from treadle._slot_keeper import SlotKeeper
from treadle._store_records import Signal
from treadle.errors import (
    AnswerNeededError,
    BudgetExceededError,
    CallCancelledError,
    RunSuspendedError,
    StepTimeoutError,
    TreadleError,
)
from treadle.ports import Clock, DispatchEngine

T = TypeVar("T")

_log = logging.getLogger("treadle.driver")

GRACE_S = 10.0
"""How long a call that was told to stop may take to do so."""

FORCED_GRACE_S = 1.0
"""The same after a forced cancel."""

DRAIN_S = 30.0
"""How long what runs may go on when the run is suspended."""

MAX_IDLE_WORKERS = 8
"""Workers that wait for more to do; a further one ends, since starting another costs no more than waking one."""

_WOKEN_AT_ONCE = 2
"""How many workers one that has to wait wakes for other ready calls."""

_YIELD_AFTER_S = 0.005
"""How long workers go on by themselves before the event loop has a turn for whatever else there is."""


class _Active:
    """A call that a worker performs."""

    __slots__ = ("call", "is_interrupted", "key", "scope", "started_at")

    def __init__(self, call: Call, scope: anyio.CancelScope, started_at: float) -> None:
        self.call, self.scope, self.started_at = call, scope, started_at
        self.key = key_of(call)
        self.is_interrupted = False


_TimerKind = Literal["retry", "deadline", "grace", "drain"]


class Driver:
    """Drives one run from its first fact to its end.

    Args:
        run_id: The run.
        conductor: Its state; replayed already when the run is resumed.
        log: Where records are acknowledged.
        engine: Where calls are performed.
        runner: Makes outcomes of calls that do not answer.
        clock: Time.
        on_commit: Receives each batch of entries after it is durable, with the number of its first.
        seq: How many entries the log holds already.
        at: The time of the last of them.
        workers: How many calls may run at once, at most.
        slots: Takes the slots that the run's calls need; None: they need none.
        hide: Takes out of a text what must not be recorded.
        is_over: Says of a timer that it is due at once, whatever time it is.
        is_kept: Whether the log outlives the process.
    """

    def __init__(
        self,
        *,
        run_id: str,
        conductor: Conductor,
        log: RunLog,
        engine: DispatchEngine,
        runner: Runner,
        clock: Clock,
        on_commit: Callable[[int, Sequence[Entry]], None],
        seq: int = 0,
        at: float = -math.inf,
        workers: int = 10,
        hide: Callable[[str], str] = str,
        is_over: Callable[[str], bool] = lambda timer_id: False,
        slots: SlotKeeper | None = None,
        is_kept: bool = False,
    ) -> None:
        self._is_kept = is_kept
        self._run_id, self._conductor, self._engine = run_id, conductor, engine
        self._pack, self._commit = log.pack, log.commit
        self._runner, self._clock, self._on_commit, self._seq = runner, clock, on_commit, seq
        self._most_workers, self._hide, self._is_over = workers, hide, is_over
        self._workers = 0
        self._inbox: deque[Fact] = deque()
        self._ready: deque[Call] = deque()
        self._idle: list[anyio.Event] = []
        self._active: dict[Key, _Active] = {}
        self._timers: list[tuple[float, int, _TimerKind, str | Key]] = []
        self._timer_count = 0
        self._timer_scope: anyio.CancelScope | None = None
        self._slots = slots
        self._early: list[Callable[[], None]] = []  # what was asked before the run is driven
        self._at = at
        self._stuck: set[str] = set()
        self._is_draining = False
        self._is_finished = False
        self._has_let_go = False
        self._suspension: RunSuspendedError | None = None
        self._is_let_go = False  # it is suspended, and what still runs is waited for no longer
        self._failure: TreadleError | None = None
        self._finished = anyio.Event()
        self._grace_s = GRACE_S
        self._group: TaskGroup | None = None
        self._last_yield = 0.0
        self._is_yielding = False

    async def drive(
        self,
        facts: Sequence[Callable[[float], Fact]],
        *,
        eager_workers: int,
        on_stuck: Callable[[Sequence[str]], None] = lambda stuck: None,
    ) -> None:
        """Run until the run has ended.

        Args:
            facts: Makers of the first facts, given the time.
            eager_workers: Workers to start before the first commit.
            on_stuck: Called when the run has ended but calls that were told to stop still run, before they are waited for.

        Raises:
            StoreUnavailableError: A commit failed; nothing that was released before it is lost.
            LeaseLostError: Another process drives the run now.
            RunSuspendedError: ``suspend`` was called, and what ran is done or was stopped.
        """
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                for _ in range(min(eager_workers, self._most_workers, MAX_IDLE_WORKERS)):
                    self._start_worker()
                group.start_soon(self._keep_time)
                if self._slots is not None:
                    group.start_soon(self._slots.keep, self._taken)
                for make in facts:
                    self._inbox.append(make(self._stamp()))
                for ask in self._early:
                    ask()
                await self._drain()
                await self._finished.wait()
                if self._stuck:
                    on_stuck(sorted(self._stuck))
                group.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            raise (self._failure or _only(errors)) from None
        else:
            if not self._is_finished:
                if self._failure is not None:
                    raise self._failure
                self._raise_stall()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Let go of the run: tasks that were cancelled keep this driver in their tracebacks until Python's collector comes."""
        self._has_let_go = True
        self._failure = self._suspension = None
        self._conductor.close()
        del self._conductor, self._engine, self._runner, self._pack, self._commit, self._on_commit

    def cancel(self, reason: str, *, is_forced: bool = False) -> None:
        """Ask the run to stop; from the event loop's thread. The result comes as usual."""
        if self._is_finished or self._has_let_go or self._is_early(partial(self.cancel, reason, is_forced=is_forced)):
            return
        if is_forced:
            self._grace_s = FORCED_GRACE_S
        self._inbox.append(CancelRequested(self._stamp(), self._hide(reason), is_forced))
        if self._timer_scope is not None:  # not a task of its own: asyncio's callbacks may not start one
            self._timer_scope.cancel()

    def signal(self, signal: Signal) -> None:
        """Bring a signal; from the event loop's thread. One that comes after the end is nobody's."""
        if self._is_finished or self._has_let_go or self._is_early(partial(self.signal, signal)):
            return
        self._inbox.append(received(signal, self._stamp()))
        if self._timer_scope is not None:
            self._timer_scope.cancel()

    def note_usage(self, key: Key) -> None:
        """Record what a call that goes on has used up so far; from the event loop's thread."""
        if not self._is_finished and self._note_usage(key) and self._timer_scope is not None:
            self._timer_scope.cancel()

    def _note_usage(self, key: Key) -> bool:
        meter, active = self._runner.meters.get(key), self._active.get(key)
        used = meter.note() if meter is not None and active is not None else None
        if active is None or not used:
            return False
        call = active.call
        self._inbox.append(UsageNoted(self._stamp(), call.path, call.index, call.attempt, used, call.variant))
        return True

    def _taken(self, command: TakeSlot) -> None:
        """A slot was given to a call, or to the run."""
        self._inbox.append(SlotTaken(self._stamp(), command.path, command.index))
        if self._timer_scope is not None:
            self._timer_scope.cancel()

    @property
    def only_waits(self) -> bool:
        """Whether nothing runs, and nothing would by itself before a time or a signal."""
        return not (self._has_let_go or self._active or self._ready or self._inbox) and self._conductor.is_waiting

    @property
    def awaited(self) -> Mapping[str, str]:
        """Step -> the signal that it waits for, when nothing else can go on with the run; empty otherwise."""
        if self._group is None or self._is_draining or not self.only_waits:
            return {}
        outstanding = self._conductor.outstanding()
        awaited = {command.path: command.name for command in outstanding if isinstance(command, AwaitSignal)}
        return awaited if len(awaited) == len(outstanding) else {}

    def suspend(self, reason: str, *, drain_s: float = DRAIN_S) -> None:
        """Let go of the run: start nothing more, wait for what runs; from the event loop's thread.

        Asked a second time, what runs is not waited for.
        """
        if self._is_finished or self._has_let_go or self._is_early(partial(self.suspend, reason, drain_s=drain_s)):
            return
        if self._suspension is not None:
            self.fail(self._suspension)
            return
        self._suspension = RunSuspendedError(self._run_id, reason)
        self._ready.clear()  # released, but not begun: the next stint makes them
        self._set_timer(self._clock.now() + drain_s, "drain", "")
        self._watch_for_drained()

    def stop_call(self, key: Key, error: TreadleError) -> None:
        """End one call with an error of ours, when it still runs; from the event loop's thread."""
        active = self._active.get(key)
        if active is not None and not active.is_interrupted:
            self._interrupt(active, error)

    @property
    def at_work(self) -> tuple[float, tuple[str, ...]]:
        """When something happened last, and the calls that are being performed; from any thread."""
        try:
            return self._at, tuple(active.call.item for active in list(self._active.values()))
        except RuntimeError:  # one began or ended at this moment
            return self._clock.now(), ()

    def fail(self, error: TreadleError) -> None:
        """Stop driving the run at once; what runs is cancelled, nothing more is recorded. From the event loop's thread."""
        if not self._is_finished and self._failure is None and self._group is not None:
            self._failure = error
            self._group.cancel_scope.cancel()

    def _is_early(self, ask: Callable[[], None]) -> bool:
        """Whether the run is not driven yet; then it is asked as soon as it is."""
        if self._group is None:
            self._early.append(ask)
        return self._group is None

    def _watch_for_drained(self) -> None:
        if self._suspension is None or self._inbox or self._is_draining:
            return
        if self._is_let_go or not self._active:
            self.fail(self._suspension)

    # -- turns

    def _stamp(self) -> float:
        """Now, but never before the last stamp."""
        now = self._clock.now()
        if now > self._at:
            self._at = now
        return self._at

    async def _drain(self) -> None:
        """Take turns until nothing is waiting; one task at a time, the others go on."""
        if self._is_draining:
            return
        # It stays so when something goes wrong: then the state is ahead of the log, and nobody may go on from it.
        self._is_draining = True
        while self._inbox and not self._is_finished:
            records: list[Entry] = []
            commands: list[Command] = []
            while self._inbox:
                turn = self._conductor.apply(self._inbox.popleft())
                records += turn.records
                commands += turn.commands
                if self._inbox and self._conductor.status is not None:
                    break  # a log ends with RunEnded; what arrives later is nobody's
            if self._ready:  # they need not wait for the store
                self._wake_workers(len(self._ready))
            try:
                await self._commit(self._pack(self._seq + 1, records, is_alone=not (self._active or self._ready)))
            except TreadleError as error:
                self.fail(error)
                raise
            first = self._seq + 1
            self._seq += len(records)
            for command in commands:
                self._release(command)
            self._on_commit(first, records)
        self._is_draining = False
        if self._ready:
            self._wake_workers(_WOKEN_AT_ONCE)
        elif self._suspension is None:
            self._watch_for_stall()
        else:
            self._watch_for_drained()

    def _release(self, command: Command) -> None:
        if isinstance(command, Start):
            assert command.call is not None, "the conductor fills it in"
            if self._suspension is None:
                self._ready.append(command.call)
        elif isinstance(command, SetTimer):
            due = self._clock.now() if self._is_over(command.timer_id) else command.due
            self._set_timer(due, "retry", command.timer_id)
        elif isinstance(command, TakeSlot):
            assert self._slots is not None, "the plan says whether any are needed"
            self._slots.take(command)
        elif isinstance(command, FreeSlot):
            assert self._slots is not None, "the plan says whether any are needed"
            self._slots.free(command)
        elif isinstance(command, Cancel):
            self._stop_call((command.path, command.index, command.attempt, command.variant), command.reason)
        elif isinstance(command, Finish):
            self._is_finished = True
            self._finished.set()

    def _watch_for_stall(self) -> None:
        """A run that waits for nothing and has not ended is a fault of ours: say so instead of hanging."""
        if self._is_finished or self._is_draining or self._inbox or self._ready or self._active:
            return
        if not self._conductor.is_waiting and not any(kind == "retry" for _, _, kind, _ in self._timers):
            if questions := self._conductor.questions:
                steps = [path if index is None else f"{path}[{index}]" for path, index in questions]
                self.fail(AnswerNeededError(self._run_id, steps))
                return
            self._raise_stall()

    def _raise_stall(self) -> None:
        raise TreadleError(
            f"Run {self._run_id} stalled: nothing runs and nothing is waited for.",
            "This is a fault of treadle; please report it with the workflow.",
        )

    # -- workers

    def _start_worker(self) -> None:
        assert self._group is not None, "drive() opens it"
        self._workers += 1
        self._group.start_soon(self._keep_working)

    def _wake_workers(self, most: int) -> None:
        """Have somebody take ready calls; the caller, if a worker, takes one itself.

        Who takes one and has to wait in it wakes others for the rest. So calls begin at the pace at which workers can be made,
        the first ones at once, and what ends at the same pace need not stand in line.
        """
        wanted = min(len(self._ready), most)
        while wanted and self._idle:
            self._idle.pop().set()
            wanted -= 1
        while wanted and self._workers < self._most_workers:
            self._start_worker()
            wanted -= 1

    def _pass_on(self) -> None:
        """A call has to wait for something."""
        if self._ready:
            self._wake_workers(_WOKEN_AT_ONCE)

    async def _keep_working(self) -> None:
        """Work on, though an executor may cancel the task that it ran in long after it returned."""
        task = _asyncio_task()
        while True:
            try:
                await self._work(task)
                return
            except anyio.get_cancelled_exc_class():
                if task is None or anyio.current_effective_deadline() == -math.inf:
                    raise
                _log.warning("an executor of run %s cancelled a task that is not its own; it is ignored", self._run_id)
                await _forget_cancel(task)

    async def _work(self, task: CancellableTask | None) -> None:
        """Perform calls until there is nothing to do and enough others wait for more."""
        while True:
            active: _Active | None = None
            outcome: Outcome | None = None
            # One scope serves many calls: only a cancelled one has to be replaced.
            with anyio.CancelScope() as scope:
                while True:
                    call = self._ready.popleft() if self._ready else await self._next_call()
                    if call is None:
                        return
                    active = _Active(call, scope, self._clock.now())
                    self._active[active.key] = active
                    if call.timeout_s is not None:
                        self._set_timer(active.started_at + call.timeout_s, "deadline", active.key)
                    outcome = None
                    outcome = await _Contextual(self._engine.perform(call), self._pass_on)
                    if scope.cancel_called:
                        break  # leave the scope before the next await
                    if task is not None and task.cancelling():
                        await _forget_cancel(task)
                    await self._conclude(active, outcome)
                    active = outcome = None  # while nothing is to be done, nothing is kept
            assert active is not None, "only a running call's scope is cancelled"
            if outcome is None:
                error = self._runner.interruptions.pop(active.key, None) or CallCancelledError("cancelled")
                outcome = self._runner.failure(active.call, error, started_at=active.started_at)
            await self._conclude(active, outcome)

    async def _next_call(self) -> Call | None:
        while not self._ready:
            if len(self._idle) >= MAX_IDLE_WORKERS or self._is_finished:
                self._workers -= 1
                return None
            event = anyio.Event()
            self._idle.append(event)
            try:
                await event.wait()
            except BaseException:
                if event in self._idle:
                    self._idle.remove(event)
                raise
        return self._ready.popleft()

    def _note_end(self, call: Call, outcome: Outcome) -> None:
        at = self._stamp()
        self._inbox.append(AttemptEnded(at, call.path, call.index, call.attempt, outcome, call.variant, call.stint))

    async def _conclude(self, active: _Active, outcome: Outcome) -> None:
        call = active.call
        key = active.key
        if self._active.get(key) is not active:
            self._stuck.discard(call.item)
            _log.warning("%s ended after it was given up; its outcome (%s) is not used", call.item, outcome.status)
            return
        del self._active[key]
        if active.is_interrupted:
            self._runner.interruptions.pop(key, None)
        self._note_end(call, outcome)
        await self._drain()
        if not self._is_finished and self._at - self._last_yield > (0.0 if self._is_yielding else _YIELD_AFTER_S):
            await self._yield()

    async def _yield(self) -> None:
        """Let the event loop have a whole turn: a long chain of quick steps must not starve timers, signals and heartbeats.

        Meanwhile no other worker makes more than one call that takes any time; each would go on with the chain for as long
        again, within the same turn.
        """
        if self._is_yielding:
            await anyio.lowlevel.checkpoint()
            return
        self._is_yielding, self._last_yield = True, self._at
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            self._is_yielding = False
            self._last_yield = self._clock.now()

    # -- time

    def _set_timer(self, due: float, kind: _TimerKind, what: str | Key) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (due, self._timer_count, kind, what))
        if self._timers[0][1] == self._timer_count and self._timer_scope is not None:
            self._timer_scope.cancel()

    async def _keep_time(self) -> None:
        while True:
            if self._inbox:
                await self._drain()
            with anyio.CancelScope() as self._timer_scope:
                if self._timers:
                    await self._clock.sleep_until(self._timers[0][0])
                else:
                    await anyio.sleep_forever()
            self._timer_scope = None
            now = self._stamp()
            while self._timers and self._timers[0][0] <= now:
                _, _, kind, what = heapq.heappop(self._timers)
                self._fire(kind, what, now)
            await self._drain()

    def _fire(self, kind: _TimerKind, what: str | Key, now: float) -> None:
        if kind == "drain":
            self._is_let_go = True
            for key in list(self._active) if self._is_kept else ():
                self._note_usage(key)
            return
        if isinstance(what, str):
            if self._suspension is None:  # else the next stint finds it overdue
                self._inbox.append(TimerFired(now, what))
            return
        active = self._active.get(what)
        if active is None:
            return
        if kind == "deadline" and not active.is_interrupted:
            self._interrupt(active, _overdue(active.call))
        elif kind == "grace":
            self._abandon(active)

    def _stop_call(self, key: Key, reason: str) -> None:
        active = self._active.get(key)
        if active is not None:
            error = CallCancelledError(f"Step {active.call.item!r} was cancelled: {reason}.")
            self._interrupt(active, error)
            return
        for call in self._ready:
            if key_of(call) == key:  # released, but no worker took it yet
                self._ready.remove(call)
                outcome = self._runner.failure(call, CallCancelledError(reason), started_at=self._at)
                self._inbox.append(
                    AttemptEnded(self._at, call.path, call.index, call.attempt, outcome, call.variant, call.stint)
                )
                return

    def _interrupt(self, active: _Active, error: TreadleError) -> None:
        key = key_of(active.call)
        self._set_timer(self._clock.now() + self._grace_s, "grace", key)
        if not active.is_interrupted:
            active.is_interrupted = True
            self._runner.interruptions[key] = error
            active.scope.cancel()

    def _abandon(self, active: _Active) -> None:
        """A call that ignores its cancellation: decide without it, and give its slot to another worker."""
        call, key = active.call, key_of(active.call)
        error = self._runner.interruptions.get(key) or CallCancelledError("cancelled")
        outcome = self._runner.failure(call, error, started_at=active.started_at, is_detached=True)
        del self._active[key]
        self._runner.abandon(call)
        self._stuck.add(call.item)
        _log.error("%s ignores its cancellation (executor %s); the run goes on without it", call.item, call.executor)
        self._note_end(call, outcome)
        self._most_workers += 1


def received(signal: Signal, at: float) -> SignalReceived:
    """A signal as a fact."""
    return SignalReceived(at, signal.name, signal.payload, signal.signal_id, signal.number, signal.due)


class _Contextual(Generic[T]):
    """Awaits a coroutine inside a copy of the current context: what it sets stays in there, and no task is made for it.

    Args:
        coroutine: What is awaited.
        on_wait: Called each time when it has to wait for something.
    """

    __slots__ = ("_context", "_coroutine", "_on_wait")

    def __init__(self, coroutine: Coroutine[object, object, T], on_wait: Callable[[], object]) -> None:
        self._coroutine, self._context, self._on_wait = coroutine, contextvars.copy_context(), on_wait

    def __await__(self) -> Generator[object, object, T]:
        run, coroutine = self._context.run, self._coroutine
        resume: Callable[..., object] = coroutine.send
        value: object = None
        while True:
            try:
                asked = run(resume, value)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # it is the coroutine's own answer
            self._on_wait()
            try:
                resume, value = coroutine.send, (yield asked)
            except BaseException as error:  # a cancellation: it belongs to the coroutine
                resume, value = coroutine.throw, error


class CancellableTask(Protocol):
    """What is used of asyncio's Task."""

    def cancelling(self) -> int:
        """How many cancels were asked for and not taken back."""

    def uncancel(self) -> int:
        """Take one back."""


def _asyncio_task() -> CancellableTask | None:
    """The current task on asyncio; None on trio, whose tasks cannot be cancelled by whoever holds them."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        return cast("CancellableTask", asyncio.current_task())
    except RuntimeError:
        return None


async def _forget_cancel(task: CancellableTask) -> None:
    """Undo what ``asyncio.current_task().cancel()`` in an executor left on a worker's task."""
    with contextlib.suppress(anyio.get_cancelled_exc_class()):
        await anyio.lowlevel.checkpoint()  # it may not have been delivered yet
    while task.cancelling():
        task.uncancel()


def _overdue(call: Call) -> TreadleError:
    """Why a call is ended at its deadline: its own, or that of a budget."""
    for limit in call.allowance:
        if limit.resource == "wall_time" and call.timeout_s is not None and limit.most / 1000 <= call.timeout_s:
            return BudgetExceededError("wall_time", limit.scope)
    return StepTimeoutError(call.item, call.timeout_s or 0.0)


def _only(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group of one, however deep; else the group."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
