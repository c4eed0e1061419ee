"""Virtual time: an event loop whose clock jumps to the next timer whenever nothing is left to do."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import anyio

from treadle._app import RunHandle, arun
from treadle._config import Config
from treadle._models import Json
from treadle._plan import Plan
from treadle._plugins import Registry
from treadle._results import RunResult
from treadle._workflow import Workflow
from treadle.ports import Store

T = TypeVar("T")

START = 1_767_225_600.0
"""2026-01-01T00:00:00Z: when virtual time begins unless a test says otherwise."""


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
        return anyio.run(function, backend=backend, backend_options=options)

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
        return {"clock": clock}

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        source = _Seconds(self._source.current_time(), autojump_threshold=self._patience_s)
        self._source = source
        return _VirtualLoop(source)


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

    def __init__(self, source: _Seconds) -> None:
        self._source = source
        super().__init__(_JumpingSelector(source))

    def time(self) -> float:
        return self._source.current_time()


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, source: _Seconds) -> None:
        super().__init__()
        self._source = source

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        patience_s = self._source.autojump_threshold
        if timeout is None or patience_s == float("inf"):
            return super().select(timeout)
        if patience_s and (ready := super().select(patience_s)):
            return ready
        self._source.jump(timeout)
        return []


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
        on_start: Called with a handle once the run exists.
        on_stuck: Called with the result when calls that were told to stop still run.

    Raises:
        WorkflowInvalidError: The workflow cannot run.
        InputsInvalidError: The inputs do not fit.
    """
    given = tuple(executors)
    if registry is None and given:
        registry = Registry.of(*given, config=config)
    clock = clock or VirtualClock()
    main = partial(
        arun,
        workflow,
        inputs,
        registry=registry,
        config=config,
        store=store,
        max_parallel=max_parallel,
        clock=clock,
        sinks=sinks,
        on_start=on_start,
        on_stuck=on_stuck,
    )
    return clock.run(main, backend=backend)
