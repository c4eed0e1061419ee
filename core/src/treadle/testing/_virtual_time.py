"""Virtual time: an event loop whose clock jumps to the next timer whenever nothing is left to do."""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

import anyio
import attrs

from treadle._app import RunHandle, arun
from treadle._config import Config
from treadle._loop import waits_quietly
from treadle._models import Json
from treadle._plan import Plan
from treadle._plugins import Registry
from treadle._results import RunResult
from treadle._workflow import Workflow
from treadle.errors import RunSuspendedError, TreadleError
from treadle.ports import Store

T = TypeVar("T")

START = 1_767_225_600.0
"""2026-01-01T00:00:00Z: when virtual time begins unless a test says otherwise."""


@attrs.frozen
class After:
    """An answer of a fake, or a signal, that takes its time.

    Attributes:
        delay_s: Seconds of virtual time.
        answer: What comes then: whatever a fake may be, or the payload of the signal.
    """

    delay_s: float
    answer: object = None


class SignalMissingError(TreadleError):
    """A run in virtual time can only be gone on with by a signal, and there is nobody who would send it.

    Attributes:
        run_id: The run. It is suspended: one in a durable store can be sent the signal and resumed.
        awaited: Step -> the signal that it waits for.
    """

    def __init__(self, run_id: str, awaited: Mapping[str, str]) -> None:
        self.run_id, self.awaited = run_id, dict(awaited)
        steps = "; ".join(f"step {path!r} waits for the signal {name!r}" for path, name in awaited.items())
        wanted = ", ".join(f"{name!r}: PAYLOAD" for name in dict.fromkeys(awaited.values()))
        super().__init__(
            f"Run {run_id} would wait for ever: {steps}, which nobody sends.",
            f"Send it: signals={{{wanted}}}; or give the wait a 'timeout'.",
        )


class VirtualClock:
    """Time that costs no time: ``anyio.sleep(3600)`` anywhere in the loop returns at once, an hour later.

    It jumps when no task can go on. While work is held (a ``def`` executor in its thread) it does not jump but runs at the
    pace of real time, so that deadlines still end what hangs.

    Args:
        start: When it begins, seconds since the epoch.
        patience_s: Real seconds in which nothing may happen before it jumps. Raise it a little when executors wait for
            sockets, child processes or threads of their own, which it cannot see.
    """

    def __init__(self, start: float = START, *, patience_s: float = 0.0) -> None:
        self._start, self._patience_s = start, patience_s
        self._holders = 0
        self._source: _Source = _Seconds()
        self._on_idle: Callable[[], bool] = lambda: False
        self._is_waiting = False

    def now(self) -> float:
        """Seconds since the epoch; may be called from any thread."""
        return self._start + self._source.current_time()

    async def sleep_until(self, at: float) -> None:
        """Return at ``at``; at once when it has passed."""
        # A sum of floats may wake us a hair too early.
        while (rest := at - self.now()) > 0:  # noqa: ASYNC110 - it is time itself that is waited for
            await anyio.sleep(rest)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Time runs at the pace of real time while the block is open, and does not jump."""
        self._hold(1)
        try:
            yield
        finally:
            self._hold(-1)

    def run(self, function: Callable[[], Awaitable[T]], *, backend: str = "asyncio") -> T:
        """Run an async function in a new event loop that keeps this time.

        Args:
            function: Without arguments; ``functools.partial`` gives it some.
            backend: ``asyncio`` or ``trio``.
        """
        options = self._trio_options() if backend == "trio" else {"loop_factory": self._make_loop}
        token = waits_quietly.set(lambda: self._is_waiting)
        try:
            return anyio.run(function, backend=backend, backend_options=options)
        finally:
            waits_quietly.reset(token)

    @contextmanager
    def watched(self, on_idle: Callable[[], bool]) -> Iterator[None]:
        """Call a function on the event loop whenever no task can go on, whatever time it is; it answers whether one can now."""
        before, self._on_idle = self._on_idle, on_idle
        try:
            yield
        finally:
            self._on_idle = before

    def _is_roused(self) -> bool:
        return self._on_idle()

    def _wait(self, is_waiting: bool) -> None:
        """Note whether the event loop waits, for as long as the clock's patience lasts."""
        self._is_waiting = is_waiting

    # -- one source of time for each kind of event loop

    def _hold(self, more: int) -> None:
        self._holders += more
        is_held = self._holders > 0
        self._source.rate = 1.0 if is_held else 0.0
        self._source.autojump_threshold = float("inf") if is_held else self._patience_s

    def _trio_options(self) -> dict[str, object]:
        import trio.testing

        clock = trio.testing.MockClock(autojump_threshold=self._patience_s)
        clock.jump(self._source.current_time())  # a clock may serve several loops, one after the other
        self._source = clock
        return {"clock": clock, "instruments": [_TrioWatch(clock, self._is_roused, self._wait)]}

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        source = _Seconds(self._source.current_time(), autojump_threshold=self._patience_s)
        self._source = source
        return _VirtualLoop(source, self._is_roused, self._wait)


class _Source(Protocol):
    """Where a virtual clock reads its seconds: trio's MockClock, or ours for asyncio."""

    rate: float
    autojump_threshold: float

    def current_time(self) -> float:
        """Seconds since virtual time began."""


class _Seconds:
    """Seconds that stand still (rate 0) or run with real time (rate 1), and can be moved on."""

    def __init__(self, seconds: float = 0.0, *, autojump_threshold: float = 0.0) -> None:
        self._base, self._real_base, self._rate = seconds, time.monotonic(), 0.0
        self.autojump_threshold = autojump_threshold

    @property
    def rate(self) -> float:
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._base, self._real_base, self._rate = self.current_time(), time.monotonic(), rate

    def current_time(self) -> float:
        return self._base + (time.monotonic() - self._real_base) * self._rate if self._rate else self._base

    def jump(self, seconds: float) -> None:
        self._base += seconds


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that asks a source for the time, and moves it on instead of sleeping."""

    _scheduled: list[asyncio.TimerHandle]  # the base's own heap; nothing public tells what the next timer is

    def __init__(self, source: _Seconds, is_roused: Callable[[], bool], wait: Callable[[bool], None]) -> None:
        self._source = source
        super().__init__(_JumpingSelector(source, self._sleeps_for_ever, is_roused, wait))

    def time(self) -> float:
        return self._source.current_time()

    def _sleeps_for_ever(self) -> bool:
        """Whether no timer is left but those of ``sleep_forever``, after which asyncio looks once a day."""
        return bool(self._scheduled) and self._scheduled[0].when() == math.inf


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(
        self,
        source: _Seconds,
        is_endless: Callable[[], bool],
        is_roused: Callable[[], bool],
        wait: Callable[[bool], None],
    ) -> None:
        super().__init__()
        self._source, self._is_endless, self._is_roused, self._wait = source, is_endless, is_roused, wait

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        patience_s = self._source.autojump_threshold
        if patience_s == float("inf"):
            return super().select(timeout)
        if patience_s:
            self._wait(True)
            ready = super().select(patience_s)
            self._wait(False)
            if ready:
                return ready
        if timeout is None or self._is_endless():
            return [] if self._is_roused() else super().select(None)
        self._source.jump(timeout)
        return []


class _TrioWatch:
    """An instrument of trio: notices when no task can go on and no deadline is left."""

    def __init__(self, source: _Source, is_roused: Callable[[], bool], wait: Callable[[bool], None]) -> None:
        import trio.lowlevel

        self._statistics = trio.lowlevel.current_statistics
        self._source, self._is_roused, self._wait = source, is_roused, wait
        self._is_idle = False

    def before_task_step(self, task: object) -> None:
        self._is_idle = False

    def before_io_wait(self, timeout: float) -> None:
        was_idle, statistics = self._is_idle, self._statistics()
        is_quiet = not statistics.tasks_runnable and statistics.seconds_to_next_deadline == math.inf
        self._is_idle = is_quiet and self._source.autojump_threshold < math.inf
        # Twice in a row: what had come in meanwhile has been looked at, and the clock's patience is over.
        if was_idle and self._is_idle:
            self._is_roused()
        self._wait(timeout > 0 and self._source.autojump_threshold < math.inf)

    def after_io_wait(self, timeout: float) -> None:
        self._wait(False)


def play(
    main: Callable[[Callable[[RunHandle], None]], Awaitable[RunResult]],
    clock: VirtualClock,
    signals: Mapping[str, object],
    on_start: Callable[[RunHandle], None] | None,
    *,
    backend: str,
) -> RunResult:
    """Drive one run in virtual time; send it its signals, and end it when it waits for others.

    Args:
        main: Drives it, given what is to be called with its handle.
        clock: The time.
        signals: As for ``virtual_run``.
        on_start: The caller's own.
        backend: ``asyncio`` or ``trio``.
    """
    handles: list[RunHandle] = []
    missing: list[SignalMissingError] = []

    def start(handle: RunHandle) -> None:
        handles.append(handle)
        _send(handle, signals, clock.now())
        if on_start is not None:
            on_start(handle)

    def is_given_up() -> bool:
        awaited = handles[-1].awaited if handles and not missing else {}
        if awaited:
            missing.append(SignalMissingError(handles[-1].run_id, awaited))
            handles[-1].suspend("it waits for signals that nobody sends")
        return bool(awaited)

    async def played() -> RunResult:
        try:
            return await main(start)
        except RunSuspendedError:
            if missing:
                raise missing[0] from None
            raise

    with clock.watched(is_given_up):
        return clock.run(played, backend=backend)


def _send(handle: RunHandle, signals: Mapping[str, object], now: float) -> None:
    for name, given in signals.items():
        due: float | None = None
        for payload in given if isinstance(given, list | tuple) else [given]:
            while isinstance(payload, After):
                due = (now if due is None else due) + payload.delay_s
                payload = payload.answer
            handle.signal(name, cast("Json", payload), due=due)


def virtual_run(
    workflow: Workflow | Plan,
    inputs: Mapping[str, Json] | None = None,
    *,
    executors: Iterable[object] = (),
    registry: Registry | None = None,
    backend: str = "asyncio",
    clock: VirtualClock | None = None,
    config: Config | None = None,
    store: Store | None = None,
    max_parallel: int | None = None,
    sinks: Sequence[object] = (),
    signals: Mapping[str, object] | None = None,
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Run a workflow to its end in virtual time; the result's times are virtual too.

    Args:
        workflow: What to run.
        inputs: By name.
        executors: Functions and classes with ``@executor``, and nothing of what is installed.
        registry: Where executors come from instead; what is installed when neither is given.
        backend: ``asyncio`` or ``trio``.
        clock: The time; a new one when None.
        config: Configuration.
        store: Where the log is kept; memory when None.
        max_parallel: Calls at once, instead of what the workflow says.
        sinks: Such as a ``Recorder``.
        signals: Name -> the payload that is sent to the run when it starts, ``After(seconds, payload)`` that sends it later,
            or a list of these, one after the other, each ``After`` counted from the one before. A payload that is a list is
            written in a list.
        on_start: Called with a handle once the run exists.
        on_stuck: Called with the result when calls that were told to stop still run.

    Raises:
        WorkflowInvalidError: The workflow cannot run.
        InputsInvalidError: The inputs do not fit.
        SignalNotDeclaredError: No step waits for such a signal.
        PayloadInvalidError: The payload of a signal does not fit its step's schema.
        SignalMissingError: Nothing can go on with the run but a signal that nobody sends.
    """
    given = tuple(executors)
    if registry is None and given:
        registry = Registry.of(*given, config=config)
    clock = clock or VirtualClock()

    async def main(start: Callable[[RunHandle], None]) -> RunResult:
        return await arun(
            workflow,
            inputs,
            registry=registry,
            config=config,
            store=store,
            max_parallel=max_parallel,
            clock=clock,
            sinks=sinks,
            on_start=start,
            on_stuck=on_stuck,
        )

    return play(main, clock, signals or {}, on_start, backend=backend)
