"""treadle's spans as ordinary spans of the OpenTelemetry SDK, under the ids that the record holds.

Imported only when the process has an SDK's provider. Most spans are made straight away (``_lean_spans``). For the others a
tracer is asked, of which only what is public is used: its ``sampler`` and ``id_generator`` attributes, which answer from a
context variable while one of treadle's spans starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.util.types import Attributes as OtelAttributes

from treadle import _telemetry as names
from treadle._attempt_span import NO_SPAN, AttemptSpan, LiveSpan, Stamps, first_line
from treadle._lean_spans import LeanSpans
from treadle._models import Call, Outcome, SpanKind, SpanNote, SpanRecord
from treadle._noted_span import NotedSpan
from treadle._span_projection import attempt_ending, call_attributes
from treadle._trace_parent import TraceParent
from treadle._version import __version__

__all__ = ["CarrierProvider", "SdkProvider"]

Attributes = Mapping[str, object]

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {kind.name.lower(): kind for kind in trace.SpanKind}


# What the tracer is told about the span that it starts now: trace id, span id, sampling result without attributes.
_answer: ContextVar[tuple[int, int, Decision, TraceState | None] | None] = ContextVar("treadle_span_answer", default=None)


class RecordedIds(IdGenerator):
    """Gives the recorded ids while one of treadle's spans starts, else what the provider would give."""

    def __init__(self, otherwise: IdGenerator) -> None:
        self._otherwise = otherwise

    def generate_span_id(self) -> int:
        """The recorded span id."""
        answer = _answer.get()
        return self._otherwise.generate_span_id() if answer is None else answer[1]

    def generate_trace_id(self) -> int:
        """The recorded trace id."""
        answer = _answer.get()
        return self._otherwise.generate_trace_id() if answer is None else answer[0]


class RecordedSampler(Sampler):
    """Repeats the run's one decision while one of treadle's spans starts, else asks the provider's sampler."""

    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: trace.SpanKind | None = None,
        attributes: OtelAttributes = None,
        links: Sequence[trace.Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """The recorded decision."""
        answer = _answer.get()
        if answer is None:
            return self._otherwise.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        return SamplingResult(answer[2], attributes, answer[3])

    def get_description(self) -> str:
        """For people."""
        return f"TreadleRecorded{{{self._otherwise.get_description()}}}"


class SdkProvider:
    """The road of one run's spans to the process's SDK."""

    def __init__(self, tracer: trace.Tracer, sampler: Sampler, stamps: Stamps) -> None:
        self._tracer, self._sampler, self.stamps = tracer, sampler, stamps
        self.lean = LeanSpans.of(tracer)
        self._decision: Decision | None = None
        self._tracestate: TraceState | None = None
        self._parent: TraceParent | None = None
        self._sampler_attributes: dict[str, object] = {}
        self._failed: dict[tuple[str, int | None, str], str] = {}
        self._trace = ("", 0)
        self._parents: dict[str, NonRecordingSpan] = {}
        self.open: dict[str, LiveSpan] = {}
        self.sent: set[str] = set()

    @classmethod
    def of(cls, provider: object, stamps: Stamps) -> SdkProvider | None:
        """The road to ``provider``; None when it makes no tracer of the SDK (it is disabled, or of another make)."""
        known = cast("_HasSampler", provider)
        tracer = known.get_tracer(names.SCOPE, __version__, names.SCHEMA_URL)
        if not (hasattr(tracer, "sampler") and hasattr(tracer, "id_generator")):
            return None
        # The provider keeps one tracer per scope, so this one has been ours since the first run.
        if not isinstance(tracer.sampler, RecordedSampler):
            tracer.sampler = RecordedSampler(tracer.sampler)
            tracer.id_generator = RecordedIds(tracer.id_generator)
        return cls(tracer, known.sampler, stamps)

    # -- the run -------------------------------------------------------------------------------------------------------

    def sampled(self, name: str, kind: SpanKind, trace_id: str, parent: TraceParent | None, attributes: Attributes) -> int:
        """Ask the provider's sampler about a run; 1 or 0."""
        asked = {key: value for key, value in attributes.items() if value}
        context = Context() if parent is None else trace.set_span_in_context(_span_of(parent), Context())
        result = self._sampler.should_sample(context, int(trace_id, 16), name, _KINDS[kind], cast("OtelAttributes", asked), ())
        self._decision, self._tracestate, self._parent = result.decision, result.trace_state, parent
        self._sampler_attributes = {key: value for key, value in result.attributes.items() if key not in asked}
        return int(result.decision is Decision.RECORD_AND_SAMPLE)

    def take_sent(self, span_id: str) -> bool:
        """Whether this process sent the span live; says so once."""
        if span_id not in self.sent:
            return False
        self.sent.remove(span_id)
        return True

    def emit(self, span: SpanRecord) -> None:
        """Give a finished span to the SDK, backdated, under its recorded ids; once.

        What this process sent live is left out; what is still open here (the driver gave up waiting for it) ends now.
        """
        if self.take_sent(span.span_id):
            return
        if (live := self.open.pop(span.span_id, None)) is not None:
            live.end(
                span.ended_at,
                status=span.status,
                description=span.status_message,
                attributes=span.attributes,
                events=span.events,
            )
        elif self.decision(span.trace_flags) is not Decision.DROP:
            self._emit(span)

    def _emit(self, span: SpanRecord) -> None:
        attributes, above = span.attributes, self._parent_of(span)
        if self._sampler_attributes and names.ACTION in attributes:
            attributes = {**self._sampler_attributes, **attributes}
        elif self.lean is not None and self.lean.may_only_end(span):
            parent = None if above is None else above.get_span_context()
            self.lean.finish(span, self.sampled_context(span, span.span_id), parent, _KINDS[span.kind])
            return
        live = self.start(
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id,
            span_id=span.span_id,
            parent=Context() if above is None else trace.set_span_in_context(above),
            attributes=attributes,
            links=_links(span.links, span.trace_flags),
            started_at=span.started_at,
            trace_flags=span.trace_flags,
        )
        _finish(live, span.ended_at, span.started_at, span.status, span.status_message, {}, span.events)

    def attempt(self, call: Call, started_at: float | None) -> AttemptSpan:
        """An AttemptSpan that is a live span of the SDK."""
        return _LiveAttempt(call, self, started_at) if call.trace_id else NO_SPAN

    def client(
        self, call: Call, name: str, kind: SpanKind, span_id: str, started_at: float, attributes: Attributes
    ) -> LiveSpan:
        """Start the span of a client call under whatever is current, and make it current."""
        span = self.start(
            name=name,
            kind=kind,
            trace_id=call.trace_id,
            span_id=span_id,
            parent=None,
            attributes=attributes,
            links=(),
            started_at=started_at,
            trace_flags=call.trace_flags,
        )
        self.sent.add(span_id)
        return _LiveSpan(span, started_at)

    # -- single spans --------------------------------------------------------------------------------------------------

    def start(
        self,
        *,
        name: str,
        kind: SpanKind,
        trace_id: str,
        span_id: str,
        parent: Context | None,
        attributes: Attributes,
        links: Sequence[trace.Link],
        started_at: float,
        trace_flags: int,
    ) -> trace.Span:
        """A span of the SDK under the given ids, started at ``started_at``; a mere carrier of ids when unsampled."""
        token = _answer.set((self._number(trace_id), int(span_id, 16), self.decision(trace_flags), self._tracestate))
        try:
            return self._tracer.start_span(
                name,
                context=parent,
                kind=_KINDS[kind],
                attributes=cast("OtelAttributes", attributes),
                links=links,
                start_time=_ns(started_at),
            )
        finally:
            _answer.reset(token)

    def decision(self, trace_flags: int) -> Decision:
        """The run's decision; of a run that began elsewhere the flags are all that is known."""
        if trace_flags & 1:
            return Decision.RECORD_AND_SAMPLE
        return Decision.RECORD_ONLY if self._decision is Decision.RECORD_ONLY else Decision.DROP

    def failed_before(self, call: Call) -> str:
        """The span of the attempt that ``call`` repeats, when this process performed it; else empty."""
        return self._failed.pop((call.path, call.index, call.variant), "")

    def note_failure(self, call: Call, span_id: str) -> None:
        """Remember a failed attempt for the link of the next one."""
        self._failed[(call.path, call.index, call.variant)] = span_id

    def context_under(self, trace_id: str, parent_id: str, trace_flags: int) -> Context:
        """The current context with a span of this run as the parent.

        Not marked as remote: backends take the child of a remote span for the entry of a service.
        """
        return trace.set_span_in_context(self._carrier(trace_id, parent_id, trace_flags))

    def _carrier(self, trace_id: str, parent_id: str, trace_flags: int) -> NonRecordingSpan:
        # Steps all have the same parent, and so do the items of a foreach: the last two serve nearly every span.
        span = self._parents.get(parent_id)
        if span is None:
            flags = TraceFlags(trace_flags)
            span = NonRecordingSpan(SpanContext(self._number(trace_id), int(parent_id, 16), False, flags, self._tracestate))
            while len(self._parents) > 1:
                del self._parents[next(iter(self._parents))]
        else:
            del self._parents[parent_id]
        self._parents[parent_id] = span
        return span

    def sampled_context(self, of: Call | SpanRecord, span_id: str) -> SpanContext:
        """A span of the same, sampled, trace."""
        return SpanContext(self._number(of.trace_id), int(span_id, 16), False, _SAMPLED, self._tracestate)

    def _number(self, trace_id: str) -> int:
        if self._trace[0] != trace_id:
            self._trace = (trace_id, int(trace_id, 16))
        return self._trace[1]

    def _parent_of(self, span: SpanRecord) -> NonRecordingSpan | None:
        if not span.parent_id:
            return None
        if self._parent is not None and span.parent_id == self._parent.span_id:
            return _span_of(self._parent)
        return self._carrier(span.trace_id, span.parent_id, span.trace_flags)


class CarrierProvider(SdkProvider):
    """Asks the process's sampler and lends spans their context, but sends none: they leave from the log."""

    def attempt(self, call: Call, started_at: float | None) -> AttemptSpan:
        """An AttemptSpan that is only a parent."""
        return _CarriedAttempt(self.carry(call, call.span_id), self.stamps) if call.trace_id else NO_SPAN

    def client(
        self, call: Call, name: str, kind: SpanKind, span_id: str, started_at: float, attributes: Attributes
    ) -> LiveSpan:
        """Make the span of a client call the parent of what is made inside."""
        return _LiveSpan(self.carry(call, span_id), started_at)

    def emit(self, span: SpanRecord) -> None:
        """Nothing: it is in the log."""

    def carry(self, call: Call, span_id: str) -> NonRecordingSpan:
        """What stands for a span in the context."""
        flags = TraceFlags(call.trace_flags)
        return NonRecordingSpan(SpanContext(self._number(call.trace_id), int(span_id, 16), False, flags, self._tracestate))


class _CarriedAttempt(AttemptSpan):
    """An attempt's span that the SDK does not keep: the parent of others, and what user code says of it."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: NonRecordingSpan, stamps: Stamps) -> None:
        context = span.get_span_context()
        self._span: trace.Span = NotedSpan(context, stamps.now) if context.trace_flags.sampled else span

    def note(self) -> SpanNote | None:
        """What user code said; from now on it says it to nobody."""
        return self._span.take() if isinstance(self._span, NotedSpan) else None

    def __enter__(self) -> AttemptSpan:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        otel_context.detach(self._token)


class _LiveSpan:
    """A span of the SDK that is current until ``leave``."""

    __slots__ = ("_span", "_started_at", "_token")

    def __init__(self, span: trace.Span, started_at: float) -> None:
        self._span, self._started_at = span, started_at
        self._token: Token[Context] | None = otel_context.attach(trace.set_span_in_context(span))

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
        if self._span.is_recording():
            _finish(self._span, ended_at, self._started_at, status, description, attributes or {}, events)

    def leave(self) -> None:
        """Make what was current before it current again."""
        if self._token is not None:
            otel_context.detach(self._token)
            self._token = None


class _LiveAttempt(AttemptSpan):
    """An attempt's span that the SDK knows while user code runs."""

    __slots__ = ("_call", "_live", "_provider", "_span_id", "_started_at")

    def __init__(self, call: Call, provider: SdkProvider, started_at: float | None) -> None:
        self._call, self._provider, self._started_at = call, provider, started_at
        self._span_id = call.span_id  # derived each time somebody asks
        self._live: LiveSpan

    def __enter__(self) -> AttemptSpan:
        provider = self._provider
        started_at = provider.stamps.now() if self._started_at is None else self._started_at
        self._live = provider.open[self._span_id] = _LiveSpan(self._start(started_at), started_at)
        return self

    def _start(self, started_at: float) -> trace.Span:
        call, provider = self._call, self._provider
        name, links = names.attempt_span_name(call.path), self._retry_links()
        attributes = call_attributes(call, worker=provider.stamps.worker, started_at=started_at)
        if provider.lean is not None and call.trace_flags & 1 and not links:
            context, parent = provider.sampled_context(call, self._span_id), provider.sampled_context(call, call.step_span_id)
            return provider.lean.start(name, context, parent, attributes, _ns(started_at))
        return provider.start(
            name=name,
            kind="internal",
            trace_id=call.trace_id,
            span_id=self._span_id,
            parent=provider.context_under(call.trace_id, call.step_span_id, call.trace_flags),
            attributes=attributes,
            links=links,
            started_at=started_at,
            trace_flags=call.trace_flags,
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        if self._provider.open.pop(self._span_id, None) is not None:
            self._leave_without_outcome(error)
        self._live.leave()

    def end(self, outcome: Outcome) -> None:
        """Say how the attempt ended."""
        if self._provider.open.pop(self._span_id, None) is None:
            return  # ended by the driver, which did not wait
        ended_at = outcome.ended_at or self._provider.stamps.now()
        ending = attempt_ending(outcome, ended_at)
        if ending.status == "error":
            self._provider.note_failure(self._call, self._span_id)
        self._provider.sent.add(self._span_id)
        self._live.end(
            ended_at,
            status=ending.status,
            description=ending.description,
            attributes=ending.attributes,
            events=ending.events,
        )

    def _leave_without_outcome(self, error: BaseException | None) -> None:
        """The runner itself was cancelled or failed."""
        now = self._provider.stamps.now()
        if isinstance(error, Exception):
            attributes = {names.TASK_RESULT: "error", names.ERROR_TYPE: type(error).__qualname__}
            self._live.end(now, status="error", description=first_line(error), attributes=attributes)
        else:
            self._live.end(now, status="unset", attributes={names.TASK_RESULT: "cancellation"})
        self._provider.sent.add(self._span_id)

    def _retry_links(self) -> Sequence[trace.Link]:
        if self._call.attempt == 1:
            return ()
        before = self._provider.failed_before(self._call)
        if not before:
            return ()
        return _links(((self._call.trace_id, before, {names.LINK_KIND: "retry_of"}),), self._call.trace_flags)


class _HasSampler(trace.TracerProvider):
    """What the SDK's provider has beside the API's."""

    sampler: Sampler


def _span_of(parent: TraceParent) -> NonRecordingSpan:
    state = TraceState.from_header([parent.tracestate]) if parent.tracestate else None
    flags = TraceFlags(parent.flags)
    return NonRecordingSpan(SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), parent.is_remote, flags, state))


def _links(links: Sequence[tuple[str, str, Attributes]], trace_flags: int) -> Sequence[trace.Link]:
    return [
        trace.Link(
            SpanContext(int(trace_id, 16), int(span_id, 16), False, TraceFlags(trace_flags)),
            cast("OtelAttributes", attributes),
        )
        for trace_id, span_id, attributes in links
    ]


def _finish(
    span: trace.Span,
    ended_at: float,
    started_at: float,
    status: names.SpanStatus,
    description: str,
    attributes: Attributes,
    events: Sequence[tuple[str, float, Attributes]],
) -> None:
    for key, value in attributes.items():  # a few: the SDK looks at the whole mapping first when given one
        span.set_attribute(key, cast("str", value))
    for name, at, more in events:
        span.add_event(name, cast("OtelAttributes", more), _ns(at))
    if status == "error":
        span.set_status(trace.StatusCode.ERROR, description or None)
    span.end(_ns(max(ended_at, started_at)))


def _ns(at: float) -> int:
    return int(at * 1e9)
