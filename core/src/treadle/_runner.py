"""The runner: performs one call and returns its outcome. The one place where user code is entered."""

from __future__ import annotations

import logging
import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar, cast

import anyio
import anyio.to_thread
import attrs

from treadle._attempt_span import NO_SPAN, hidden
from treadle._bind import BoundExecutor
from treadle._call_context import CallFacts
from treadle._clients import ClientHosts
from treadle._error_info import describe_error, message_of, snapshot
from treadle._isolation import ChildPool
from treadle._keeper import Keeper
from treadle._log_records import current_call
from treadle._meter import Meter
from treadle._models import (
    BudgetRefusal,
    Cached,
    Call,
    GiveUp,
    Json,
    Outcome,
    OutcomeStatus,
    RetryAfter,
    SpanKind,
    SpanNote,
    SpanRecord,
    StepUsage,
    Work,
)
from treadle._redaction import Redaction
from treadle._retries import propose
from treadle._scopes import ExecutorScope, TroubleLog
from treadle._secrets import hide
from treadle._step_log import StepLog
from treadle._tracing import RunTracing
from treadle.errors import (
    BindError,
    BudgetExceededError,
    CallCancelledError,
    ExecutorExitedError,
    NotSupportedError,
    OutputInvalidError,
    StepStalledError,
    StepTimeoutError,
    TreadleError,
)
from treadle.ports import Clock

T = TypeVar("T")

MAX_DETACHED_THREADS = 32
"""Threads that did not stop when told to; with so many left behind no further one is started."""

_log = logging.getLogger("treadle.step")

Key = tuple[str, int | None, int, str]
"""A call within its run: path, index, attempt, variant."""


def key_of(call: Call) -> Key:
    """What tells a call from the others of its run."""
    return call.path, call.index, call.attempt, call.variant


class _CallContext(CallFacts):
    """What the contexts of all calls have in common: ``ports.AnyContext``."""

    __slots__ = (
        "_keeper", "_log", "_runner", "arguments", "inputs", "is_cached", "is_kept", "is_over", "is_usage_due", "isolated",
        "spans", "threads",
    )  # fmt: skip

    def __init__(self, call: Call, runner: Runner) -> None:
        super().__init__(call)
        self.is_cached = self.is_kept = self.is_over = self.is_usage_due = False
        self.arguments: tuple[object, ...] = ()
        self.inputs: dict[str, object] = {}
        self.isolated: Work | None = None
        self.spans: list[SpanRecord] = []
        self.threads = 0
        self._runner, self._keeper = runner, runner.keeper
        self._log: logging.LoggerAdapter[logging.Logger] | None = None

    @property
    def fencing_token(self) -> int:
        """The epoch of whoever drives the run."""
        return self._keeper.fencing_token if self._keeper is not None else 0

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the executor."""
        if self._log is None:
            self._log = StepLog(self.call.executor)
        return self._log

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is."""
        if self.is_kept and self._keeper is not None:
            self._keeper.heartbeat(self)
        self._runner.progress(self.call, done, total, message)

    def save_soon(self, token: str, data: Json = None) -> None:
        """Note how far the work is."""
        if self._keeper is not None:
            self._keeper.save_soon(self, token, data)

    def heartbeat(self) -> None:
        """Say that the work goes on."""
        if self._keeper is not None:
            self._keeper.heartbeat(self)

    def span(
        self, name: str, *, kind: SpanKind = "client", attributes: Mapping[str, object] | None = None
    ) -> AbstractContextManager[dict[str, object]]:
        """A span for a call to a service, child of this attempt."""
        return self._runner.client_span(self.call, name, kind, attributes or {}, self.spans.append)

    def _make_meter(self) -> Meter:
        on_change = self._note_usage if self._keeper is not None and self._keeper.notes_usage else _nothing
        meter = self._runner.meters[key_of(self.call)] = Meter(self.call.item, self.call.allowance, on_change)
        return meter

    def _note_usage(self, meter: Meter) -> None:
        """Something was used up: it is to be noted soon; from any thread."""
        if not self.is_usage_due and self._keeper is not None:
            self.is_usage_due = True
            self._keeper.note_usage(self)

    def spent(self, used: Sequence[int], refusal: Sequence[object] | None) -> None:
        """What a process of the call's own has used up, all in all."""
        meter = self.start_meter()
        meter.take_over(used, None if refusal is None else BudgetRefusal(*refusal))  # type: ignore[arg-type]  # as it was told
        if self._keeper is not None and self._keeper.notes_usage:
            self._note_usage(meter)

    async def run_sync(self, function: Callable[[], T]) -> T:
        """Run ``function`` in a worker thread with this context copied; for ``def`` executors."""
        return await self._runner.in_thread(self, function)

    async def keep(self, token: str, data: Json = None) -> None:
        """Keep how far the work is; on the event loop."""
        if self._keeper is not None:
            await self._keeper.save(self, token, data)

    async def note_process(self, pid: int) -> None:
        """Note a process that the call has started; on the event loop."""
        if self._keeper is not None:
            await self._keeper.own_process(self, pid)


class RunContext(_CallContext):
    """The context of a call of an ``async def``: ``ports.Context``."""

    __slots__ = ()

    save = _CallContext.keep
    own_process = _CallContext.note_process


class SyncRunContext(_CallContext):
    """The context of a call of a ``def``, in its thread: ``ports.SyncContext``."""

    __slots__ = ()

    def save(self, token: str, data: Json = None) -> None:
        """Keep how far the work is, and wait until it is kept."""
        if self._keeper is not None:
            self._keeper.ask(self, partial(self.keep, token, data))

    def own_process(self, pid: int) -> None:
        """Note a process that the call has started, and wait until it is noted."""
        if self._keeper is not None:
            self._keeper.ask(self, partial(self.note_process, pid))


class Runner:
    """Performs calls.

    Args:
        scopes: Executor name -> its hooks.
        hosts: The clients.
        reveal: Secret name -> its value.
        tracing: Where spans go.
        clock: Time.
        progress: Receives ``(call, done, total, message)`` of running executors, from any thread.
        trouble: Where errors of hooks go.
        children: Where isolated calls are performed; they are refused without.
        redaction: Takes out of outcomes what policies want hidden; None when there is nothing to hide.
        keeper: Keeps what calls save; nothing is kept without.
    """

    def __init__(
        self,
        *,
        scopes: Mapping[str, ExecutorScope],
        hosts: ClientHosts,
        reveal: Callable[[str], str],
        tracing: RunTracing,
        clock: Clock,
        progress: Callable[[Call, float, float | None, str], None],
        trouble: TroubleLog,
        children: ChildPool | None = None,
        redaction: Redaction | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.keeper = keeper
        self._scopes, self._hosts, self._reveal, self._children = scopes, hosts, reveal, children
        self.tracing, self._clock, self._progress, self._trouble = tracing, clock, progress, trouble
        self._redaction = redaction
        self.interruptions: dict[Key, TreadleError] = {}
        self.meters: dict[Key, Meter] = {}
        self.detached_threads = 0
        self._limiter: anyio.CapacityLimiter | None = None

    async def perform(self, call: Call) -> Outcome:
        """Perform one call.

        Whoever cancels it says why in ``interruptions`` first; then the outcome says so. Only a cancellation from
        outside of the run leaves as one.

        Returns:
            How it ended; user code's exceptions, even SystemExit, are outcomes.
        """
        scope = self._scopes[call.executor]
        started_at = self._clock.now()
        current_call.set(call)
        with self.tracing.attempt(call, started_at) as span:
            context = (RunContext if scope.bound.is_async else SyncRunContext)(call, self)
            if call.allowance:
                context.start_meter()
            try:
                output = await self._work(scope, call, context)
                if context.is_kept and self.keeper is not None:
                    self.keeper.end(context, is_done=True)
                now, spans = self._clock.now(), tuple(context.spans)
                usage = None if context.meter is None else self._used(call)
                outcome = Outcome(
                    "completed", output, None, None, started_at, now, False, spans, cached=context.is_cached, usage=usage
                )
            except BaseException as error:  # foreign code is entered here
                if context.is_kept and self.keeper is not None:
                    await self.keeper.flush(context)
                    self.keeper.end(context, is_done=False)
                outcome = self._conclude(call, context, error, started_at)
            context.is_over = True
            if span is not NO_SPAN and (note := span.note()) is not None:
                outcome = attrs.evolve(outcome, note=self._without_secrets(call, note))
            if self._redaction is not None:
                outcome = self._redaction.outcome(outcome)
            meter, told = context.meter, outcome
            if meter is not None and meter.is_noted:  # the record has only the rest
                told = attrs.evolve(outcome, usage=meter.usage)
            if scope.end_attempt is not None:
                scope.end_attempt(call, told)
            span.end(told)
        return outcome

    def failure(self, call: Call, error: TreadleError, *, started_at: float, is_detached: bool = False) -> Outcome:
        """The outcome of a call that was interrupted and does not answer."""
        outcome = self._outcome(call, error, _interrupted_status(error), started_at, is_detached=is_detached)
        return outcome if self._redaction is None else self._redaction.outcome(outcome)

    def progress(self, call: Call, done: float, total: float | None, message: str) -> None:
        """Hand on how far an executor is."""
        self._progress(call, done, total, message if self._redaction is None else self._redaction.text(message))

    def abandon(self, call: Call) -> None:
        """Take nothing more of a call that does not stop when told to."""
        if self.keeper is not None:
            self.keeper.abandon(key_of(call))

    async def in_thread(self, context: _CallContext, function: Callable[[], T]) -> T:
        """Run a function in a worker thread; a cancelled caller leaves the thread behind, counted."""
        if self.detached_threads >= MAX_DETACHED_THREADS:
            raise TreadleError(
                f"{self.detached_threads} threads did not stop when told to; no further one is started.",
                "Give these executors 'isolation: process', or make them shorter.",
            )
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(math.inf)  # max_parallel is the cap

        cancelled = anyio.get_cancelled_exc_class()
        begun = threading.Lock()  # taken by the thread when it begins, or by its caller, who goes before it has

        def guarded() -> T:
            if not begun.acquire(blocking=False):
                raise CallCancelledError("Its caller did not wait for it to begin.")  # nobody hears of this either
            try:
                return function()
            except StopIteration as error:
                raise RuntimeError("the executor raised StopIteration") from error
            except Exception:
                raise
            except BaseException as error:  # would reach the event loop as if it were the loop's own
                raise _as_failure(context.call, error, cancelled) from error
            finally:
                context.threads -= 1

        context.threads += 1
        try:
            with self._clock.hold():
                return await anyio.to_thread.run_sync(guarded, abandon_on_cancel=True, limiter=self._limiter)
        finally:
            if begun.acquire(blocking=False):
                context.threads -= 1

    def client_span(
        self, call: Call, name: str, kind: SpanKind, attributes: Mapping[str, object], keep: Callable[[SpanRecord], object]
    ) -> AbstractContextManager[dict[str, object]]:
        """A span for a call to a service; what the call's secrets are does not get into it."""
        if not call.secrets and self._redaction is None:
            return self.tracing.client_span(call, name, kind, attributes, keep)
        values = self.secret_values(call)
        redact = str if self._redaction is None else self._redaction.text
        return self.tracing.client_span(call, name, kind, attributes, keep, lambda text: redact(hide(text, values)))

    def _without_secrets(self, call: Call, note: SpanNote) -> SpanNote:
        """What an executor said of its span, without the call's secrets."""
        if not call.secrets:
            return note
        values = self.secret_values(call)
        events = [(hide(name, values), at, hidden(more, lambda text: hide(text, values))) for name, at, more in note.events]
        return SpanNote(hidden(note.attributes, lambda text: hide(text, values)), tuple(events))

    # -- parts

    async def _work(self, scope: ExecutorScope, call: Call, context: _CallContext) -> Json:
        bound = scope.bound
        inputs = self._with_secrets(call) if call.secrets else call.inputs
        if bound.positional:  # the context, or clients
            if bound.takes_context and self.keeper is not None:
                context.checkpoint = await self.keeper.load(call)
            if call.limits is None:
                context.arguments = await self._arguments(bound, call, context)
        if call.limits is not None:
            context.isolated = partial(self._in_child, bound, call, inputs, context)
        context.inputs = bound.structure_inputs(inputs)
        work = scope.execute(call, context)  # type: ignore[arg-type]  # its two classes are Context and SyncContext
        if work is None:
            raise BindError(f"No hook answered for executor {bound.name!r}.", "A policy may have removed it; check [plugins].")
        answer = await work()
        if type(answer) is Cached:
            context.is_cached, output = True, answer.output
        else:
            output = bound.plain_output(answer)
        issues = scope.validate_output(call, output)
        if issues:
            raise OutputInvalidError(bound.name, issues)
        return output

    async def _in_child(self, bound: BoundExecutor, call: Call, inputs: Mapping[str, Json], context: _CallContext) -> Json:
        if self._children is None:
            raise NotSupportedError(f"Step {call.item!r} asks for a process of its own, which is not to be had here.")
        with self._clock.hold():
            return await self._children.perform(bound, call, inputs, context, self.secret_values(call))

    async def _arguments(self, bound: BoundExecutor, call: Call, context: _CallContext) -> tuple[object, ...]:
        clients = call.clients
        return tuple(
            [context if need is None else await self._hosts.get(clients.get(need.name, need.name)) for need in bound.positional]
        )

    def _with_secrets(self, call: Call) -> Mapping[str, Json]:
        inputs: Json = call.inputs
        for reference in call.secrets:
            text = "".join(self._reveal(part) if kind == "secret" else part for kind, part in reference.parts)
            inputs = _replaced(inputs, reference.path, text)
        return cast("Mapping[str, Json]", inputs)

    def _conclude(self, call: Call, context: _CallContext, error: BaseException, started_at: float) -> Outcome:
        """Decide what an exception means: by who cancelled, not by its type."""
        interruption = self.interruptions.pop(key_of(call), None)
        if interruption is not None:
            is_detached = context.threads > 0
            if is_detached:
                self.detached_threads += 1
            status = _interrupted_status(interruption)
            return self._outcome(call, interruption, status, started_at, context=context, is_detached=is_detached)
        cancelled = anyio.get_cancelled_exc_class()
        if isinstance(error, cancelled):
            if anyio.current_effective_deadline() == -math.inf:
                raise error  # the run itself is being cancelled from outside
            _absorb_own_cancel()
        return self._outcome(call, _as_failure(call, error, cancelled), "failed", started_at, context=context)

    def _outcome(
        self,
        call: Call,
        error: Exception,
        status: OutcomeStatus,
        started_at: float,
        *,
        context: _CallContext | None = None,
        is_detached: bool = False,
    ) -> Outcome:
        proposal: RetryAfter | GiveUp | None = None
        if isinstance(error, StepTimeoutError) and not isinstance(error, StepStalledError) and status == "timed_out":
            error = self._in_family_words(call, error)
        if status == "cancelled":
            proposal = None
        elif is_detached and self._scopes[call.executor].bound.effects not in ("none", "idempotent"):
            proposal = GiveUp("its thread still runs and may still have effects")
        else:
            proposal = self._propose(call, error)
        secrets = self.secret_values(call)
        redact = str if self._redaction is None else self._redaction.text
        info = describe_error(error, secrets, redact)
        if status != "cancelled":
            info = attrs.evolve(info, inputs=snapshot(call.inputs, secrets, redact))
        spans = tuple(context.spans) if context else ()
        meter = self.meters.get(key_of(call))
        # What a process of its own still uses up after it was given up is not known.
        usage = self._used(call, is_known=context is not None or call.limits is None)
        refusal = meter.refusal if meter is not None and status == "failed" else None
        if refusal is None and isinstance(error, BudgetExceededError) and getattr(error, "resource", "") == "wall_time":
            refusal = BudgetRefusal("wall_time", 0, error.scope)
        return Outcome(
            status, None, info, proposal, started_at, self._clock.now(), is_detached, spans, usage=usage, refusal=refusal
        )

    def _used(self, call: Call, *, is_known: bool = True) -> StepUsage | None:
        """What an attempt has used up; from now on it can use nothing."""
        meter = self.meters.pop(key_of(call), None)
        if meter is None:
            return None
        return meter.close() if is_known else meter.abandon()

    def _in_family_words(self, call: Call, error: StepTimeoutError) -> Exception:
        try:
            return self._scopes[call.executor].bound.timed_out(error.timeout_s) or error
        except Exception as trouble:  # an author's method: raising counts as no words
            self._trouble(call.executor, "timed_out", trouble)
            return error

    def _propose(self, call: Call, error: Exception) -> RetryAfter | GiveUp:
        try:
            return propose(call, error, self._ask_retry, effects=self._scopes[call.executor].bound.effects)
        except BaseException as trouble:  # an author's exception class may do anything when it is looked at
            return GiveUp(f"{type(error).__name__} cannot be looked at: it raised {type(trouble).__name__}")

    def _ask_retry(self, call: Call, error: Exception) -> RetryAfter | GiveUp | None:
        try:
            return self._scopes[call.executor].retry_policy(call, error)
        except Exception as trouble:  # an author's hook: raising counts as no opinion
            self._trouble(call.executor, "retry_policy", trouble)
            return None

    def secret_values(self, call: Call) -> list[str]:
        """The values of a call's secrets: what is never shown nor kept."""
        names = {part for reference in call.secrets for kind, part in reference.parts if kind == "secret"}
        values: list[str] = []
        for name in names:
            try:
                values.append(self._reveal(name))
            except TreadleError:  # that it is missing may be the very error
                continue
        return values


def _nothing(meter: Meter) -> None:
    """Nobody notes what is used up."""


def _as_failure(call: Call, error: BaseException, cancelled: type[BaseException]) -> Exception:
    """What left an executor, as an exception that may be handed on."""
    if isinstance(error, Exception):
        return error
    failure: TreadleError
    if isinstance(error, cancelled):
        remedy = "Return a value or raise an ordinary exception instead."
        failure = CallCancelledError(f"Executor {call.executor!r} cancelled itself.", remedy)
    else:
        failure = ExecutorExitedError(call.executor, _shown(error))
    failure.__cause__ = error
    return failure


def _interrupted_status(error: TreadleError) -> OutcomeStatus:
    if isinstance(error, BudgetExceededError):
        return "failed"
    return "timed_out" if isinstance(error, StepTimeoutError) else "cancelled"


def _absorb_own_cancel() -> None:
    """Undo what ``asyncio.current_task().cancel()`` in an executor left on the worker's task."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return
    try:
        task = asyncio.current_task()
    except RuntimeError:  # trio runs
        return
    while task is not None and task.cancelling():
        task.uncancel()


def _replaced(value: Json, path: tuple[str | int, ...], text: str) -> Json:
    """A copy of ``value`` with ``text`` at ``path``."""
    if not path:
        return text
    key = path[0]
    if isinstance(value, list):
        items = list(value)
        items[cast("int", key)] = _replaced(items[cast("int", key)], path[1:], text)
        return items
    fields = dict(cast("Mapping[str | int, Json]", value))
    fields[key] = _replaced(fields[key], path[1:], text)
    return cast("Json", fields)


def _shown(error: BaseException) -> str:
    """``Name: message``."""
    name, message = type(error).__name__, message_of(error)
    return message if message.startswith(name) else f"{name}: {message}"
