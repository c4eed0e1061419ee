"""One stint of a run in this process: everything that it holds open, from the claim to its release."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial

import anyio
import anyio.to_thread
import attrs
import sniffio

from treadle._checkpoint_secrets import CheckpointGuard
from treadle._clients import ClientHosts
from treadle._collector import collector_paused
from treadle._conductor import Conductor
from treadle._driver import DRAIN_S, Driver, received
from treadle._heart import Heart
from treadle._isolation import ChildPool
from treadle._keeper import Keeper
from treadle._log_rows import LogRows
from treadle._loop import loop_poster, sign_poster
from treadle._models import (
    Call,
    CancelRequested,
    Entry,
    Fact,
    InterruptAnswer,
    InterruptAnswered,
    Json,
    Outcome,
    Record,
    RetryRequested,
    RunCreated,
    SignalReceived,
    StintOpened,
)
from treadle._orphans import end_orphans
from treadle._outbox import Outbox
from treadle._owner import has_rebooted, let_go, shown, this_owner
from treadle._plan import Plan
from treadle._plugins import Registry
from treadle._recorded import Recorded
from treadle._redaction import Redaction
from treadle._results import RunResult, summarise
from treadle._run_log import RunLog
from treadle._run_settings import MAX_CRASHES, RunSettings, run_settings
from treadle._runner import Runner
from treadle._scopes import ExecutorScope, RunScope, TroubleLog
from treadle._sending import make_signal
from treadle._slot_keeper import SlotKeeper
from treadle._span_projection import SpanProjection
from treadle._step_log import LineKeeper, kept_lines
from treadle._store_records import CancelRequest, CheckpointRow, Claim, Commit, NewRun
from treadle._surroundings import Surroundings
from treadle._tracing import RunMetrics, RunTracing
from treadle._version import __version__
from treadle.errors import ConfigError, RunGoesOnError, RunSuspendedError, StoreUnavailableError, TreadleError
from treadle.ports import Clock, Store

_RELEASE_S = 5.0
"""How long letting go of a claim may take; afterwards the lease runs out by itself."""


class RunHandle:
    """A run that is going on.

    Attributes:
        run_id: The run.
        trace_id: Its trace.
        is_durable: Whether it can be suspended and resumed.
    """

    def __init__(
        self, run_id: str, trace_id: str, driver: Driver, plan: Plan, clock: Clock, *, is_durable: bool = False
    ) -> None:
        self.run_id, self.trace_id, self.is_durable, self._driver = run_id, trace_id, is_durable, driver
        self._plan, self._clock = plan, clock

    @property
    def only_waits(self) -> bool:
        """Whether nothing runs: the run waits for a time or a signal."""
        return self._driver.only_waits

    @property
    def awaited(self) -> Mapping[str, str]:
        """Step -> the signal that it waits for, when nothing but signals can go on with the run; empty otherwise."""
        return self._driver.awaited

    def signal(self, name: str, payload: Json = None, *, due: float | None = None, signal_id: str = "") -> None:
        """Send a signal to the run; call it on the event loop's thread.

        It goes to the step that has waited for it the longest, or waits for one. It is kept once the run's record shows it;
        ``asend_signal`` returns when a signal is kept.

        Args:
            name: What a step waits for.
            payload: Plain JSON that fits the step's schema.
            due: When it is to be delivered, seconds since the epoch; None: at once.
            signal_id: A second signal of the same id changes nothing.

        Raises:
            SignalNotDeclaredError: No step waits for such a signal.
            PayloadInvalidError: The payload does not fit.
        """
        at = self._clock.now()
        made = make_signal(self._plan, name, payload, at=at, due=due, signal_id=signal_id, run_id=self.run_id)
        self._driver.signal(made)

    def cancel(self, reason: str = "cancel requested", *, force: bool = False) -> None:
        """Ask the run to stop; call it on the event loop's thread.

        Args:
            reason: Shown to people.
            force: Do without the ``finally`` steps, and wait a second instead of ten for what runs.
        """
        self._driver.cancel(reason, is_forced=force)

    def suspend(self, reason: str = "suspended", *, drain_s: float = DRAIN_S) -> None:
        """Let go of the run so that it can be resumed; call it on the event loop's thread, again to wait no longer.

        Nothing more starts; what runs may end within ``drain_s``, and what does not is made again by the next stint. The call
        that drives the run raises RunSuspendedError.

        Args:
            reason: Shown to people.
            drain_s: Seconds.
        """
        self._driver.suspend(reason, drain_s=drain_s)


@attrs.frozen
class _Scopes:
    """The hooks of a run.

    Attributes:
        run: Those of policies and sinks for the run.
        executors: Executor name -> its own.
        redaction: What policies want hidden; None when there is nothing.
        trouble: Where errors of hooks go.
        secrets: Answers name -> value of all secrets that are known.
    """

    run: RunScope
    executors: Mapping[str, ExecutorScope]
    redaction: Redaction | None
    trouble: TroubleLog
    secrets: Callable[[], Mapping[str, str]]


@attrs.define
class Session:
    """A stint and its surroundings.

    Attributes:
        plan: What runs.
        registry: Where executors, clients and policies come from.
        secrets: Secret name -> its value.
        store: Where the run is kept.
        clock: Time.
        sinks: Who reads along.
        max_parallel: Calls at once, instead of what the workflow says.
        on_start: Called with a handle once the run exists.
        on_stuck: Called with the result when calls that were told to stop still run.
        recorded: A run whose outcomes this one is given.
        replay_from: The step from which on it makes its calls itself.
        answers: Step or item -> ``rerun`` or ``fail``, for calls that may have been running when their process went away.
        settings: How runs are held on to; what ``[run]`` says when None.
    """

    plan: Plan
    registry: Registry
    secrets: Mapping[str, str]
    store: Store
    clock: Clock
    sinks: Sequence[object]
    max_parallel: int | None
    on_start: Callable[[RunHandle], None] | None
    on_stuck: Callable[[RunResult], None] | None
    recorded: Recorded | None = None
    replay_from: str = ""
    answers: Mapping[str, InterruptAnswer] = attrs.field(factory=dict, kw_only=True)
    settings: RunSettings = attrs.field(
        default=attrs.Factory(lambda self: run_settings(self.registry.config), takes_self=True), kw_only=True
    )

    async def begin(self, run_id: str, inputs: Mapping[str, Json], *, trigger: str, key: str) -> RunResult | str:
        """Create the run and drive it to its end.

        Returns:
            The result; or the id of the run that there was under this key already.
        """
        self._check_backend()
        with self._scoped(run_id, 1) as scopes:
            owner = this_owner()
            tracing = self._tracing(owner)
            created = self._creation(run_id, inputs, tracing, trigger)
            conductor = Conductor(self.plan, scopes.redaction)
            entries = conductor.apply(created).records
            rows = LogRows(key=key, source=self._source())
            for entry in entries:
                rows.apply(entry)
            first = rows.take()
            assert first.run is not None, "RunCreated makes it"
            commit = Commit(run_id, 1, 1, entries, first if self.store.wants_rows else None)
            prints = fingerprint(self.plan.workflow.name, inputs)
            creation = await self.store.create(NewRun(commit, first.run, prints, owner, self.settings.lease_s))
            if creation.claim is None:
                return creation.run_id
            return await self._drive(creation.claim, scopes, conductor, tracing, (), entries, rows)

    async def go_on(
        self,
        claim: Claim,
        entries: Sequence[Entry],
        *,
        key: str,
        source: str,
        again: Callable[[float], RetryRequested] | None = None,
    ) -> RunResult:
        """Drive a run that was begun by another stint to its end.

        Args:
            claim: The right to write.
            entries: The log, read under the claim.
            key: Of the run.
            source: The file that it was started from.
            again: Makes the request of a run that has ended to go on.
        """
        with ExitStack() as stack:
            try:
                self._check_backend()
                scopes = stack.enter_context(self._scoped(claim.run_id, _next_stint(entries)))
                tracing = self._tracing(claim.owner)
                conductor = Conductor(self.plan, scopes.redaction)
                with collector_paused():
                    conductor.replay(entries)
                if again is not None and conductor.status is None:
                    raise RunGoesOnError(claim.run_id)
                self._check_answers(claim.run_id, conductor)
                if conductor.status is not None and again is None:
                    await self._release(claim)
                    return summarise(entries)
                rows = LogRows(key=key, source=source)
                with collector_paused():
                    for entry in entries:
                        rows.apply(entry)
                    rows.take()
            except BaseException:
                await self._release(claim)
                raise
            return await self._drive(claim, scopes, conductor, tracing, entries, (), rows, again)

    # -- parts

    @contextmanager
    def _scoped(self, run_id: str, stint: int) -> Iterator[_Scopes]:
        """The hooks of the run, whose policies are told that it is open."""
        trouble = TroubleLog()
        policies = self.registry.policies()
        run_scope = RunScope([*policies, *self.sinks], trouble)
        executors = {name: ExecutorScope(bound, policies, trouble) for name, bound in self.plan.executors.items()}
        workflow, registry = self.plan.workflow.name, self.registry
        run = Surroundings(run_id, workflow, stint, self.clock, self.secrets, registry.secrets)
        with run_scope.opened(run) as redaction:
            yield _Scopes(run_scope, executors, redaction, trouble, run.secrets)

    async def _drive(
        self,
        claim: Claim,
        scopes: _Scopes,
        conductor: Conductor,
        tracing: RunTracing,
        earlier: Sequence[Entry],
        fresh: Sequence[Entry],
        rows: LogRows,
        again: Callable[[float], RetryRequested] | None = None,
    ) -> RunResult:
        """Everything after the log's first or latest known entry.

        Args:
            claim: The right to write.
            scopes: The hooks.
            conductor: Has applied ``earlier`` and ``fresh``.
            tracing: Of the run.
            earlier: What other stints committed; its readers have had it.
            fresh: What was committed and nobody has read yet.
            rows: Has applied both, too.
            again: Makes the request to go on, of a run that has ended.
        """
        recorded = self.recorded
        readers = _Readers(claim.run_id, scopes.run, tracing)
        redact: Callable[[str], str] = str if scopes.redaction is None else scopes.redaction.text
        readers.catch_up(earlier)
        if earlier:
            self._tell_earlier(readers)
        readers.read(len(earlier) + 1, fresh)
        created = readers.entries[0]
        assert isinstance(created, RunCreated), "a log begins with it"
        outbox = self._outbox
        try:
            if outbox is not None:
                await outbox.follow(claim.run_id, readers.entries)
            children = ChildPool(self.registry.config, is_expected=self.plan.is_isolated)
            settings = self.settings
            guard = CheckpointGuard(settings.checkpoint_secrets, scopes.secrets, scopes.redaction)
            every_s, stall_s = settings.checkpoint_every_s, settings.stall_s
            keeper = Keeper(self.store, claim, self.clock, every_s=every_s, stall_s=stall_s, guard=guard)
            saved = await keeper.recall() if earlier else []
            if earlier:
                await end_orphans(self.store, claim)
            async with ClientHosts(self.registry) as hosts, children, keeper:
                runner = Runner(
                    scopes=scopes.executors,
                    hosts=hosts,
                    reveal=self.secrets.__getitem__,
                    tracing=tracing,
                    clock=self.clock,
                    progress=self._progress(),
                    trouble=scopes.trouble,
                    children=children,
                    redaction=scopes.redaction,
                    keeper=keeper,
                )
                driver = Driver(
                    run_id=claim.run_id,
                    conductor=conductor,
                    log=RunLog(self.store, claim, rows if self.store.wants_rows else None),
                    engine=_LocalEngine(runner) if recorded is None else _RecordedEngine(runner, recorded, self.clock),
                    runner=runner,
                    clock=self.clock,
                    on_commit=readers.read,
                    seq=len(readers.entries),
                    at=readers.entries[-1].at,
                    workers=created.max_parallel or self.plan.graph.max_parallel,
                    slots=SlotKeeper(self.store, claim) if self.plan.has_slots else None,
                    hide=redact,
                    is_over=recorded.has_fired if recorded is not None else lambda timer_id: False,
                    is_kept=self.store.is_durable,
                )
                keeper.on_stalled, keeper.on_used = driver.stop_call, driver.note_usage
                if self.on_start is not None:
                    durable = self.store.is_durable
                    self.on_start(RunHandle(claim.run_id, created.trace_id, driver, self.plan, self.clock, is_durable=durable))

                def tell(stuck: Sequence[str]) -> None:
                    if self.on_stuck is not None:
                        self.on_stuck(summarise(readers.entries))

                signals, last = await self._received(claim, earlier)
                if recorded is not None and not earlier:
                    signals = [*recorded.again(), *signals]
                begun: list[Callable[[float], Fact]] = [again] if again is not None else []
                facts = [
                    *begun,
                    self._opening(readers.entries, claim, saved),
                    *self._answered(),
                    *await self._asked(claim, earlier),
                    *signals,
                ]
                lines = LineKeeper(
                    self.store, claim.run_id, now=self.clock.now, secret_values=runner.secret_values, redact=redact
                )
                with kept_lines(lines, claim.run_id), self._heart(claim, driver, keeper, last):
                    await driver.drive(facts, eager_workers=self._width(), on_stuck=tell)
        except RunSuspendedError:
            suspended = LogRows(key=rows.key, source=rows.source)
            await self._release(claim, suspended, readers.entries)
            raise
        except BaseException as error:
            if isinstance(error, StoreUnavailableError) and self.store.is_durable:
                error.add_note(f"Run {claim.run_id} goes on where it stopped: treadle resume {claim.run_id}")
            await self._release(claim)
            raise
        finally:
            readers.close()
            if outbox is not None:
                outbox.leave(claim.run_id)
        return summarise(readers.entries)

    @property
    def _outbox(self) -> Outbox | None:
        """What sends the spans of this run out of its log; None when they go to the process's provider, if to anybody."""
        return next((sink for sink in self.sinks if isinstance(sink, Outbox) and sink.is_road), None)

    def _tracing(self, owner: str) -> RunTracing:
        return RunTracing(now=self.clock.now, worker=shown(owner), are_spans_kept=self._outbox is not None)

    async def _release(self, claim: Claim, suspended: LogRows | None = None, entries: Sequence[Entry] = ()) -> None:
        """Let go of the claim, so that the run can be resumed at once; the lease runs out anyway."""
        rows = None
        if suspended is not None:
            for entry in entries:
                suspended.apply(entry)
            suspended.take()
            rows = suspended.suspend()
        with anyio.move_on_after(_RELEASE_S, shield=True), suppress(TreadleError):
            await self.store.release(claim, rows)
            return
        let_go(claim.owner)

    def _tell_earlier(self, readers: _Readers) -> None:
        """Give sinks that show the whole run what earlier stints recorded."""
        records = readers.records()
        for sink in self.sinks:
            if callable(catch_up := getattr(sink, "catch_up", None)):
                catch_up(records)

    async def _asked(self, claim: Claim, earlier: Sequence[Entry]) -> list[Callable[[float], Fact]]:
        """The cancel that somebody asked for while nobody drove the run."""
        if not earlier:
            return []
        with self.clock.hold():
            asked = await anyio.to_thread.run_sync(self.store.cancel_request, claim.run_id)
        last = max((number for number, entry in enumerate(earlier) if isinstance(entry, RetryRequested)), default=0)
        heard = [entry for entry in earlier[last:] if isinstance(entry, CancelRequested)]
        if asked is None or any(entry.force >= asked.force for entry in heard):
            return []
        return [partial(CancelRequested, reason=asked.reason, force=asked.force)]

    async def _received(self, claim: Claim, earlier: Sequence[Entry]) -> tuple[list[Callable[[float], Fact]], int]:
        """The signals that were sent while nobody drove the run, and the number of the last that there is.

        They come before any timer: what was there in time is not too late because nobody looked.
        """
        last = max((entry.number for entry in earlier if isinstance(entry, SignalReceived)), default=0)
        if not (earlier and self.plan.listens):
            return [], last
        with self.clock.hold():
            signals = await anyio.to_thread.run_sync(self.store.signals, claim.run_id, last)
        makers: list[Callable[[float], Fact]] = [partial(received, signal) for signal in signals]
        return makers, signals[-1].number if signals else last

    def _heart(self, claim: Claim, driver: Driver, keeper: Keeper, last_signal: int) -> Heart | nullcontext[None]:
        if not (self.store.is_durable or self.plan.listens or self.plan.has_slots):
            return nullcontext()

        def silence() -> tuple[float, Sequence[str]]:
            at, calls = driver.at_work
            return self.clock.now() - max(at, keeper.heard_at), calls

        def cancel(asked: CancelRequest) -> None:
            driver.cancel(asked.reason, is_forced=asked.force)

        post, beat_s = loop_poster(), self.settings.beat_s
        on_signal = driver.signal if self.plan.listens else None
        return Heart(
            self.store,
            claim,
            post=post,
            ask_sign=sign_poster(),
            on_lost=driver.fail,
            on_cancel=cancel,
            beat_s=beat_s,
            on_signal=on_signal,
            after=last_signal,
            take_beats=keeper.take_beats,
            silence=silence,
        )

    def _opening(
        self, entries: Sequence[Entry], claim: Claim, saved: Sequence[CheckpointRow]
    ) -> Callable[[float], StintOpened]:
        stints = [entry for entry in entries if isinstance(entry, StintOpened)]
        # A machine that went down takes every process with it, whatever that did.
        crashed = bool(claim.taken_from) and not has_rebooted(claim.taken_from)
        since = stints[-1].at if stints else 0.0
        advanced = tuple(dict.fromkeys((row.path, row.index) for row in saved if row.saved_at >= since)) if crashed else ()
        return partial(
            StintOpened,
            stint=1 + len(stints),
            owner=shown(claim.owner),
            engine="local",
            versions=self.versions(),
            crashed=crashed,
            advanced=advanced,
            max_crashes=self.settings.max_crashes if crashed else MAX_CRASHES,
        )

    def _check_answers(self, run_id: str, conductor: Conductor) -> None:
        asked = [path if index is None else f"{path}[{index}]" for path, index in conductor.answerable]
        for item in self.answers:
            if item not in asked:
                raise ConfigError(
                    f"Run {run_id} does not ask about step {item!r}.",
                    f"It asks about: {', '.join(asked)}." if asked else "It asks about nothing: resume it without an answer.",
                )

    def _answered(self) -> list[Callable[[float], Fact]]:
        made: list[Callable[[float], Fact]] = []
        for item, answer in self.answers.items():
            path, bracket, number = item.partition("[")
            index = int(number.rstrip("]")) if bracket else None
            made.append(partial(InterruptAnswered, path=path, index=index, answer=answer))
        return made

    def _creation(self, run_id: str, inputs: Mapping[str, Json], tracing: RunTracing, trigger: str) -> RunCreated:
        workflow = self.plan.workflow
        environ = os.environ
        trace = tracing.begin(
            workflow.name,
            environ.get("TRACEPARENT", ""),
            tracestate=environ.get("TRACESTATE", ""),
            run_id=run_id,
            trigger=trigger,
        )
        return RunCreated(
            self.clock.now(),
            run_id=run_id,
            workflow=self.plan.document,
            workflow_hash=self.plan.hash,
            inputs=inputs,
            trace_id=trace.trace_id,
            root_span_id=trace.root_span_id,
            parent_span_id=trace.parent_span_id,
            trace_flags=trace.flags,
            max_parallel=self.max_parallel,
            trigger=trigger,
            replay_of=self.recorded.run_id if self.recorded is not None else "",
            replay_from=self.replay_from,
            spenders=self.plan.spenders,
        )

    def _source(self) -> str:
        file = self.plan.workflow.file
        return os.path.abspath(file) if file else ""

    def _check_backend(self) -> None:
        current = sniffio.current_async_library()
        for bound in self.plan.executors.values():
            if current not in bound.backends:
                raise ConfigError(
                    f"Executor {bound.name!r} does not run on {current} (it declares: {', '.join(bound.backends)}).",
                    f"Run the workflow with backend={bound.backends[0]!r}, or TREADLE_BACKEND={bound.backends[0]}.",
                )

    def versions(self) -> dict[str, str]:
        """Distribution -> version of treadle and of the plugins that the plan uses; local executor -> hash of its file."""
        bound = self.plan.executors.values()
        local = {item.name: version for item in bound if (version := item.local_version())}
        return {"treadle": __version__, **{item.distribution: item.version for item in bound if item.distribution}, **local}

    def _width(self) -> int:
        """Workers that the plan can use for certain."""
        if self.plan.has_maps:
            return self.plan.graph.max_parallel
        return len(self.plan.steps)

    def _progress(self) -> Callable[[Call, float, float | None, str], None]:
        listeners = [sink.progress for sink in self.sinks if callable(getattr(sink, "progress", None))]  # type: ignore[attr-defined]  # checked

        def tell(call: Call, done: float, total: float | None, message: str) -> None:
            for listener in listeners:
                listener(call, done, total, message)

        return tell


def _next_stint(entries: Sequence[Entry]) -> int:
    return 1 + sum(isinstance(entry, StintOpened) for entry in entries)


def fingerprint(workflow: str, inputs: Mapping[str, Json]) -> str:
    """What a run's key stands for: the workflow's name and the inputs."""
    text = json.dumps([workflow, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _LocalEngine:
    """Performs calls in this process."""

    name = "local"
    capabilities = frozenset({"cancels_running", "streams"})

    def __init__(self, runner: Runner) -> None:
        self.perform = runner.perform


class _RecordedEngine:
    """Gives calls the outcomes that a recorded run had, and performs the others in this process."""

    name = "local"
    capabilities = _LocalEngine.capabilities

    def __init__(self, runner: Runner, recorded: Recorded, clock: Clock) -> None:
        self._perform, self._recorded, self._clock = runner.perform, recorded, clock

    async def perform(self, call: Call) -> Outcome:
        """The recorded outcome, or that of performing the call."""
        outcome = self._recorded.outcome(call, self._clock.now())
        return await self._perform(call) if outcome is None else outcome


class _Readers:
    """Everybody who reads the log while it grows: sinks, spans, metrics."""

    def __init__(self, run_id: str, scope: RunScope, tracing: RunTracing) -> None:
        self._run_id, self._scope, self._tracing = run_id, scope, tracing
        self.entries: list[Entry] = []
        is_known = tracing.take_sent if scope.emit_span is None else None
        self._projection = SpanProjection(is_known) if scope.emit_span is not None or tracing.is_live else None
        metrics = RunMetrics()
        self._metrics = metrics if metrics.is_active else None
        self._is_quiet = scope.record_event is None and self._projection is None and self._metrics is None

    def catch_up(self, entries: Sequence[Entry]) -> None:
        """Take in what earlier stints committed; they have told everybody."""
        self.entries += entries
        for entry in entries:
            if self._projection is not None:
                self._projection.apply(entry)
            if self._metrics is not None:
                self._metrics.apply(entry, replayed=True)

    def read(self, first: int, entries: Sequence[Entry]) -> None:
        """Take in what was just committed."""
        self.entries += entries
        if self._is_quiet:
            return
        for seq, entry in enumerate(entries, first):
            if self._scope.record_event is not None:
                self._scope.event(Record(self._run_id, seq, entry))
            if self._projection is not None:
                for span in self._projection.apply(entry):
                    self._scope.span(span)
                    self._tracing.emit(span)
            if self._metrics is not None:
                self._metrics.apply(entry)

    def records(self) -> list[Record]:
        """The log so far, numbered from 1."""
        return [Record(self._run_id, seq, entry) for seq, entry in enumerate(self.entries, 1)]

    def close(self) -> None:
        """The run is over or let go."""
        if self._metrics is not None:
            self._metrics.close()
