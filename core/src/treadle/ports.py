"""What store, engine, client and policy authors need: the ports, and the records that cross them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol, runtime_checkable

from treadle._models import (
    DECISIONS,
    FACTS,
    AttemptEnded,
    AttemptStarted,
    Call,
    Cancel,
    CancelRequested,
    Command,
    Decision,
    Entry,
    ErrorInfo,
    Evaluated,
    Fact,
    Finish,
    GiveUp,
    Issue,
    ItemEnded,
    Json,
    MapStarted,
    Outcome,
    Record,
    RetryAfter,
    RetryPolicy,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SecretReference,
    SetTimer,
    SignalReceived,
    SpanKind,
    SpanRecord,
    Start,
    StepEnded,
    StepResult,
    StepStatus,
    StintOpened,
    TimerFired,
    Turn,
    Work,
)

__all__ = [
    "DECISIONS",
    "FACTS",
    "AttemptEnded",
    "AttemptStarted",
    "Call",
    "Cancel",
    "CancelRequested",
    "Client",
    "Clock",
    "Command",
    "Context",
    "Decision",
    "DispatchEngine",
    "Entry",
    "ErrorInfo",
    "Evaluated",
    "Fact",
    "Finish",
    "GiveUp",
    "Issue",
    "ItemEnded",
    "Json",
    "MapStarted",
    "Outcome",
    "Record",
    "RetryAfter",
    "RetryPolicy",
    "RetryScheduled",
    "RunCreated",
    "RunEnded",
    "RunStatus",
    "RunStopping",
    "SecretReference",
    "SetTimer",
    "SignalReceived",
    "SpanKind",
    "SpanRecord",
    "Start",
    "StepEnded",
    "StepResult",
    "StepStatus",
    "StintOpened",
    "Store",
    "SyncContext",
    "TimerFired",
    "TracingProvider",
    "Turn",
    "Work",
]


class SyncContext(Protocol):
    """What a ``def`` executor may ask for, left of ``/``: facts of its call, progress, logging. Usable from its thread."""

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
    def call(self) -> Call:
        """The whole call."""

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry trace, span, run and step ids."""

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is; shown live, never recorded. Cheap enough for a loop."""

    def span(
        self, name: str, *, kind: SpanKind = "client", attributes: Mapping[str, object] | None = None
    ) -> AbstractContextManager[dict[str, object]]:
        """A span for a call to a service, child of this attempt; yields its attributes to add to.

        An exception that leaves the block marks the span as an error and goes on.
        """


class Context(SyncContext, Protocol):
    """What an ``async def`` executor may ask for, left of ``/``; all of SyncContext, for use on the event loop."""


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


class Store(Protocol):
    """Keeps the log of each run. Every method may raise StoreUnavailableError."""

    async def append(self, run_id: str, seq: int, entries: Sequence[Entry]) -> None:
        """Make ``entries`` durable, all or none; returning is the acknowledgement.

        Args:
            run_id: The run.
            seq: Place of the first entry, from 1; must be one after the last that is stored.
            entries: Facts and decisions in order.
        """

    async def read(self, run_id: str) -> Sequence[Record]:
        """The log of a run, in order; empty when there is no such run."""


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


class TracingProvider(Protocol):
    """What an entry point of group ``treadle.tracing`` answers: a pipeline that it set up and must be closed."""

    def shutdown(self, timeout_s: float) -> str:
        """Deliver what is left within ``timeout_s``; answer one line about what was not delivered, or an empty text."""
