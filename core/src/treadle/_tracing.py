"""What driver and runner know of tracing: begin a run's trace, hold an attempt's span, emit what the log finished.

Nothing of OpenTelemetry is imported here: a process whose host never imported it has no provider to ask. With an SDK's
provider, ``_sdk_spans`` makes ordinary SDK spans under the recorded ids; without one an attempt costs next to nothing.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache

import attrs

from treadle import _telemetry as names
from treadle._attempt_span import NO_SPAN, AttemptSpan, ClientSpan, Provider, Stamps
from treadle._log_records import CorrelationFilter, JsonLogFormatter, call_fields, current_call
from treadle._models import Call, SpanKind, SpanRecord
from treadle._run_metrics import RunMetrics
from treadle._span_ids import Bits, attempt_span_id, new_trace_ids, step_span_id
from treadle._span_projection import SpanProjection
from treadle._trace_parent import TraceParent, parse_traceparent

__all__ = [
    "AttemptSpan",
    "CorrelationFilter",
    "JsonLogFormatter",
    "RunMetrics",
    "RunTracing",
    "SpanProjection",
    "TraceParent",
    "TraceStart",
    "attempt_span_id",
    "call_fields",
    "current_call",
    "new_trace_ids",
    "parse_traceparent",
    "step_span_id",
]

_log = logging.getLogger("treadle.tracing")

Attributes = Mapping[str, object]


@attrs.frozen
class TraceStart:
    """What RunCreated records of a run's trace.

    Attributes:
        trace_id: 32 hex digits.
        root_span_id: 16 hex digits: the run's span.
        parent_span_id: The caller's span, or empty.
        flags: 1 when sampled, else 0: the one decision for the run.
    """

    trace_id: str
    root_span_id: str
    parent_span_id: str
    flags: int


class RunTracing:
    """Tracing of one run in this process; make one for each run that is driven, and one for each worker.

    Args:
        now: The clock that stamps live spans, seconds since the epoch.
        random: Where new ids come from.
        worker: ``host:pid`` of this process, for ``cicd.worker.id``.
        provider: A tracer provider; None takes the process's, when an SDK has set one.
        are_spans_kept: Whether treadle's own spans leave by another road, from the log: then the provider gets none of them,
            and what calls make is still a child of theirs.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.time,
        random: Bits = random,
        worker: str = "",
        provider: object | None = None,
        are_spans_kept: bool = False,
    ) -> None:
        self._stamps, self._are_spans_kept = Stamps(now, random, worker), are_spans_kept
        process = provider if provider is not None else _process_provider()
        self._provider = _road(process, self._stamps, are_spans_kept=are_spans_kept)

    @property
    def is_live(self) -> bool:
        """Whether the process has an SDK's provider that the spans go to."""
        return self._provider is not None and not self._are_spans_kept

    def begin(
        self,
        workflow_name: str,
        environ_traceparent: str = "",
        *,
        tracestate: str = "",
        run_id: str = "",
        trigger: str = "python",
    ) -> TraceStart:
        """Allocate a run's trace; the sampler is asked here, once.

        The parent is the span around the caller, else the call that the caller performs (a run inside an executor), else
        ``environ_traceparent``. Without a provider the parent's decision stands, and a root counts as sampled: its spans
        are recorded, so what it calls may join its trace.

        Args:
            workflow_name: For the span's name.
            environ_traceparent: The process's ``TRACEPARENT``, empty for none.
            tracestate: The process's ``TRACESTATE``.
            run_id: For the sampler.
            trigger: What started the run.
        """
        parent = self._ambient() or parse_traceparent(environ_traceparent, tracestate)
        trace_id, root_span_id = new_trace_ids(self._stamps.random)
        if parent is not None:
            trace_id = parent.trace_id
        parent_span_id = parent.span_id if parent is not None else ""
        return TraceStart(
            trace_id=trace_id,
            root_span_id=root_span_id,
            parent_span_id=parent_span_id,
            flags=self._flags(workflow_name, trace_id, parent, run_id, trigger),
        )

    def attempt(self, call: Call, started_at: float | None = None) -> AttemptSpan:
        """A context manager for the time in which user code performs ``call``; its span is current meanwhile.

        Args:
            call: The attempt.
            started_at: What its outcome will say, seconds since the epoch; None reads the clock.
        """
        return NO_SPAN if self._provider is None else self._provider.attempt(call, started_at)

    def client_span(
        self,
        call: Call,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        keep: Callable[[SpanRecord], object],
        hide: Callable[[str], str] = str,
    ) -> ClientSpan:
        """What ``ctx.span`` is: a context manager around a call to a service, yielding the attributes to add to.

        Args:
            call: The attempt that makes it.
            name: Of the span, low in cardinality.
            kind: Of the span.
            attributes: Its first attributes.
            keep: Receives the finished record, for ``Outcome.spans``.
            hide: Takes the call's secrets out of a text.
        """
        return ClientSpan(self._stamps, self._provider, call, name, kind, attributes, keep, hide)

    def take_sent(self, span_id: str) -> bool:
        """Whether this process sent the span live; then it need not be emitted. Says so once."""
        return self._provider is not None and self._provider.take_sent(span_id)

    def emit(self, span: SpanRecord) -> None:
        """Give a span that the log finished to the SDK, unless this process sent it live."""
        if self._provider is not None:
            self._provider.emit(span)

    def _flags(self, workflow: str, trace_id: str, parent: TraceParent | None, run_id: str, trigger: str) -> int:
        if self._provider is None:
            return parent.flags & 1 if parent is not None else 1
        kind = names.run_span_kind(parent.span_id if parent is not None else "", trigger)
        attributes = {names.ACTION: "RUN", names.PIPELINE: workflow, names.RUN_ID: run_id, names.RUN_TRIGGER: trigger}
        return self._provider.sampled(names.run_span_name(workflow), kind, trace_id, parent, attributes)

    def _ambient(self) -> TraceParent | None:
        if parent := _ambient_parent():
            return parent
        call = current_call.get()
        if call is None or not call.trace_id:
            return None
        return TraceParent(call.trace_id, call.span_id, call.trace_flags, is_remote=False)


def _ambient_parent() -> TraceParent | None:
    """The span around the caller, when somebody imported the API and made one."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace  # imported by somebody already

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return TraceParent(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        flags=int(context.trace_flags),
        is_remote=context.is_remote,
        tracestate=context.trace_state.to_header(),
    )


def _process_provider() -> object | None:
    """The process's tracer provider; nobody can have set one before the API was imported."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace  # imported by somebody already

    provider = trace.get_tracer_provider()
    # The API's own stand-in: nobody has set one.
    return None if type(provider).__module__.startswith("opentelemetry.trace") else provider


def _road(provider: object | None, stamps: Stamps, *, are_spans_kept: bool = False) -> Provider | None:
    """The road to ``provider``, when it is an SDK's."""
    if provider is None:
        return None
    if hasattr(provider, "sampler") and hasattr(provider, "id_generator"):
        from treadle._sdk_spans import CarrierProvider, SdkProvider  # import the SDK, which this provider has imported

        return (CarrierProvider if are_spans_kept else SdkProvider).of(provider, stamps)
    _warn_of(type(provider).__qualname__)
    return None


@cache
def _warn_of(provider: str) -> None:
    _log.warning(
        "The tracer provider %s is not the OpenTelemetry SDK's: treadle's spans are recorded, not sent to it.", provider
    )
