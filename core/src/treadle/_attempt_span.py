"""The span of one attempt, as the runner holds it, and the spans of the calls to services that are made inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Protocol

import attrs

from treadle import _telemetry as names
from treadle._models import Call, Outcome, SpanKind, SpanNote, SpanRecord
from treadle._span_ids import Bits, new_span_id
from treadle._trace_parent import TraceParent

__all__ = [
    "NO_SPAN",
    "AttemptSpan",
    "ClientSpan",
    "LiveSpan",
    "Provider",
    "Stamps",
    "clean",
    "first_line",
    "hidden",
    "traceparent_here",
]

Attributes = Mapping[str, object]


@attrs.frozen
class Stamps:
    """What all spans of one run in this process share.

    Attributes:
        now: The clock, seconds since the epoch.
        random: Where new ids come from.
        worker: ``host:pid`` of this process.
    """

    now: Callable[[], float]
    random: Bits
    worker: str = ""


_enclosing: ContextVar[tuple[str, str]] = ContextVar("treadle_enclosing_span", default=("", ""))
"""The client-call span that the running code is in: the id of its attempt, and its own."""


def traceparent_here(call: Call) -> str:
    """W3C header that makes what is called a child of the client-call span around it, else of the attempt."""
    attempt_id, client_id = _enclosing.get()
    if not client_id or not call.trace_id or attempt_id != call.span_id:
        return call.traceparent
    return f"00-{call.trace_id}-{client_id}-{call.trace_flags:02x}"


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


class Provider(Protocol):
    """The road to an SDK, made by ``_sdk_spans`` when the process has a provider."""

    def sampled(self, name: str, kind: SpanKind, trace_id: str, parent: TraceParent | None, attributes: Attributes) -> int:
        """Ask the provider's sampler about a run; 1 or 0."""

    def attempt(self, call: Call, started_at: float | None) -> AttemptSpan:
        """An AttemptSpan that is a live span of the SDK."""

    def client(
        self, call: Call, name: str, kind: SpanKind, span_id: str, started_at: float, attributes: Attributes
    ) -> LiveSpan:
        """Start the span of a client call under whatever is current, and make it current."""

    def take_sent(self, span_id: str) -> bool:
        """Whether this process sent the span live; says so once."""

    def emit(self, span: SpanRecord) -> None:
        """Give a finished span to the SDK, backdated, under its recorded ids; once."""


class ClientSpan:
    """A context manager around a call to a service: one record for the outcome, one SDK span when there is a provider.

    Args:
        stamps: Clock and ids.
        provider: The road to an SDK, when there is one.
        call: The attempt that makes the call.
        name: Of the span, low in cardinality.
        kind: Of the span.
        attributes: Its first attributes; the block may add to what it is given.
        keep: Receives the finished record.
        hide: Takes the call's secrets out of a text.
    """

    __slots__ = (
        "_attributes",
        "_call",
        "_enclosed",
        "_hide",
        "_keep",
        "_kind",
        "_live",
        "_name",
        "_parent_id",
        "_provider",
        "_span_id",
        "_stamps",
        "_started_at",
    )

    def __init__(
        self,
        stamps: Stamps,
        provider: Provider | None,
        call: Call,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        keep: Callable[[SpanRecord], object],
        hide: Callable[[str], str] = str,
    ) -> None:
        self._stamps, self._provider, self._call = stamps, provider, call
        self._name, self._kind, self._keep, self._hide = hide(name), kind, keep, hide
        self._attributes: dict[str, object] = dict(attributes)
        self._live: LiveSpan | None = None

    def __enter__(self) -> dict[str, object]:
        call, stamps = self._call, self._stamps
        attempt_id = call.span_id
        around_id, client_id = _enclosing.get()
        self._parent_id = client_id if around_id == attempt_id else attempt_id
        self._span_id = new_span_id(stamps.random)
        self._started_at = stamps.now()
        if self._provider is not None and call.trace_id:
            attributes = self._shown()
            self._live = self._provider.client(call, self._name, self._kind, self._span_id, self._started_at, attributes)
        self._enclosed: Token[tuple[str, str]] = _enclosing.set((attempt_id, self._span_id))
        return self._attributes

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        # A generator that is closed elsewhere leaves in another context, whose value is its own.
        with suppress(ValueError):
            _enclosing.reset(self._enclosed)
        span = self._finished(error)
        if self._live is not None:
            self._live.end(span.ended_at, status=span.status, description=span.status_message, attributes=span.attributes)
            self._live.leave()
        self._keep(span)

    def _finished(self, error: BaseException | None) -> SpanRecord:
        # What only ends the task (a cancellation) is no fault of the service.
        fault = error if isinstance(error, Exception) else None
        if fault is not None:
            self._attributes.setdefault(names.ERROR_TYPE, type(fault).__qualname__)
        return SpanRecord(
            name=self._name,
            kind=self._kind,
            trace_id=self._call.trace_id,
            span_id=self._span_id,
            parent_id=self._parent_id,
            started_at=self._started_at,
            ended_at=max(self._started_at, self._stamps.now()),
            status="error" if fault is not None else "unset",
            status_message=first_line(fault, self._hide) if fault is not None else "",
            attributes=self._shown(),
            trace_flags=self._call.trace_flags,
        )

    def _shown(self) -> dict[str, object]:
        """The attributes without the call's secrets."""
        return hidden(clean(self._attributes), self._hide)


class AttemptSpan:
    """The span of one attempt, as the runner holds it; without a provider there is nothing to do.

    Use it as a context manager around user code and call ``end`` before leaving.
    """

    __slots__ = ()

    def __enter__(self) -> AttemptSpan:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        return

    def note(self) -> SpanNote | None:
        """What user code said of the span, when nobody else keeps it."""
        return None

    def end(self, outcome: Outcome) -> None:
        """Say how the attempt ended."""


NO_SPAN = AttemptSpan()
"""The span of every attempt without a provider."""


def clean(attributes: Attributes) -> dict[str, object]:
    """What OpenTelemetry can hold of ``attributes``: None is left out, foreign values become their text."""
    return {str(key): _value(value) for key, value in attributes.items() if value is not None}


def hidden(attributes: Attributes, hide: Callable[[str], str]) -> dict[str, object]:
    """Attributes whose texts went through ``hide``, which takes secrets out."""
    return {key: _hidden(value, hide) for key, value in attributes.items()}


def _hidden(value: object, hide: Callable[[str], str]) -> object:
    if isinstance(value, tuple):
        return tuple(_hidden(item, hide) for item in value)
    return hide(value) if isinstance(value, str) else value


def _value(value: object) -> object:
    if type(value) in (str, bool, int, float):
        return value
    if isinstance(value, list | tuple) and len({type(item) for item in value}) <= 1:
        return tuple(_value(item) for item in value)
    return str(value)


def first_line(error: Exception, hide: Callable[[str], str] = str) -> str:
    """A short description of an error; empty when it cannot describe itself. ``hide`` sees the whole, before it is cut."""
    try:
        return hide(str(error)).partition("\n")[0][:512]
    except Exception:  # foreign code: an error that cannot describe itself must not replace itself
        return ""
