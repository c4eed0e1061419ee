"""The span of one attempt, as the runner holds it, and the spans of the calls to services made inside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Protocol

import attrs

from treadle import _telemetry as names
from treadle._models import Call, Outcome, SpanKind, SpanRecord
from treadle._span_ids import Bits, new_span_id

__all__ = ["AttemptSpan", "LiveSpan", "Stamps", "clean", "first_line"]

_log = logging.getLogger("treadle.tracing")

Attributes = Mapping[str, object]


@attrs.define
class Stamps:
    """What all spans of one run in this process share.

    Attributes:
        now: The clock, seconds since the epoch.
        random: Where new ids come from.
        worker: ``host:pid`` of this process.
        sent: Ids of the spans that an SDK has already and the log has not finished yet.
    """

    now: Callable[[], float]
    random: Bits
    worker: str = ""
    sent: set[str] = attrs.Factory(set)


_enclosing: ContextVar[tuple[AttemptSpan, str] | None] = ContextVar("treadle_enclosing_span", default=None)
"""The client-call span that the running code is in, with its attempt."""


class LiveSpan(Protocol):
    """A span of an SDK that is current while user code runs."""

    def end(
        self,
        ended_at: float,
        *,
        status: names.SpanStatus,
        description: str = "",
        attributes: Attributes | None = None,
        events: tuple[tuple[str, float, Attributes], ...] = (),
    ) -> None:
        """Finish the span; a second time does nothing."""

    def leave(self) -> None:
        """Make what was current before it current again."""


class _ClientSpan:
    """A context manager around a call to a service: one record for the outcome, one SDK span when there is a provider."""

    __slots__ = ("_attempt", "_attributes", "_enclosed", "_kind", "_live", "_name", "_parent_id", "_span_id", "_started_at")

    def __init__(self, attempt: AttemptSpan, name: str, kind: SpanKind, attributes: Attributes | None) -> None:
        self._attempt, self._name, self._kind = attempt, name, kind
        self._attributes: dict[str, object] = dict(attributes or {})
        self._live: LiveSpan | None = None

    def __enter__(self) -> dict[str, object]:
        attempt = self._attempt
        enclosing = _enclosing.get()
        inside = enclosing is not None and enclosing[0] is attempt
        self._parent_id = enclosing[1] if enclosing is not None and inside else attempt.call.span_id
        self._span_id = new_span_id(attempt.stamps.random)
        self._started_at = attempt.stamps.now()
        self._live = attempt.start_client(self._name, self._kind, self._span_id, self._started_at, clean(self._attributes))
        self._enclosed: Token[tuple[AttemptSpan, str] | None] = _enclosing.set((attempt, self._span_id))
        return self._attributes

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        # A generator that is closed elsewhere leaves in another context, whose value is its own.
        with suppress(ValueError):
            _enclosing.reset(self._enclosed)
        ended_at = max(self._started_at, self._attempt.stamps.now())
        status: names.SpanStatus = "unset"
        description = ""
        # What only ends the task (a cancellation) is no fault of the service.
        if isinstance(error, Exception):
            status, description = "error", first_line(error)
            self._attributes.setdefault(names.ERROR_TYPE, type(error).__qualname__)
        attributes = clean(self._attributes)
        if self._live is not None:
            self._live.end(ended_at, status=status, description=description, attributes=attributes)
            self._live.leave()
        self._attempt.keep(
            SpanRecord(
                name=self._name,
                kind=self._kind,
                trace_id=self._attempt.call.trace_id,
                span_id=self._span_id,
                parent_id=self._parent_id,
                started_at=self._started_at,
                ended_at=ended_at,
                status=status,
                status_message=description,
                attributes=attributes,
                trace_flags=self._attempt.call.trace_flags,
            ),
            is_sent=self._live is not None,
        )


def clean(attributes: Attributes) -> dict[str, object]:
    """What OpenTelemetry can hold of ``attributes``: None is left out, foreign values become their text."""
    return {str(key): _value(value) for key, value in attributes.items() if value is not None}


def _value(value: object) -> object:
    if type(value) in (str, bool, int, float):
        return value
    if isinstance(value, list | tuple) and len({type(item) for item in value}) <= 1:
        return tuple(_value(item) for item in value)
    return str(value)


def first_line(error: BaseException) -> str:
    try:
        return str(error).partition("\n")[0][:512]
    except Exception:  # foreign code: an error that cannot describe itself must not replace itself
        return ""


class AttemptSpan:
    """The span of one attempt, as the runner holds it. Without a provider it only keeps the client-call spans.

    Use it as a context manager around user code and call ``end`` before leaving.
    """

    __slots__ = ("_records", "call", "stamps")

    def __init__(self, stamps: Stamps, call: Call) -> None:
        self.stamps, self.call = stamps, call
        self._records: list[SpanRecord] | None = None

    def __enter__(self) -> AttemptSpan:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        return

    def end(self, outcome: Outcome) -> None:
        """Say how the attempt ended."""

    @property
    def spans(self) -> tuple[SpanRecord, ...]:
        """The finished client-call spans, for ``Outcome.spans``."""
        return tuple(self._records) if self._records else ()

    def client_span(self, name: str, *, kind: SpanKind = "client", attributes: Attributes | None = None) -> _ClientSpan:
        """What ``ctx.span`` answers: a context manager that yields the attributes to add to."""
        return _ClientSpan(self, name, kind, attributes)

    def start_client(
        self, name: str, kind: SpanKind, span_id: str, started_at: float, attributes: Attributes
    ) -> LiveSpan | None:
        """Start the SDK's span of a client call and make it current; None without a provider."""
        return None

    def keep(self, span: SpanRecord, *, is_sent: bool) -> None:
        """Keep a finished client-call span for the outcome; too many are counted once in the log and let go."""
        if is_sent:
            self.stamps.sent.add(span.span_id)
        if self._records is None:
            self._records = []
        if len(self._records) < names.MAX_CLIENT_SPANS:
            self._records.append(span)
            if len(self._records) == names.MAX_CLIENT_SPANS:
                _log.warning(
                    "Attempt %d of %s made %d client-call spans; further ones are not recorded.",
                    *(self.call.attempt, self.call.item, names.MAX_CLIENT_SPANS),
                )
