"""Spans of the SDK made straight away: a tracer's ``start_span`` asks and checks what the record knows already.

They are spans of the SDK's own classes, which its processors and exporters cannot tell from others; they cost half. Since
that takes more than the SDK's public names, an SDK that differs from what is known here is used through ``start_span``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, cast

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, Tracer
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import SpanContext, Status

from treadle._models import SpanRecord

if TYPE_CHECKING:
    from opentelemetry.util.types import AnyValue  # an older SDK is of use without

__all__ = ["LeanSpans"]

_ROOM = 32
"""More attributes than treadle gives a span of its own accord."""

_UNSET = Status()


class LeanSpans:
    """Makes spans for one tracer, all of them sampled.

    Args:
        tracer: Of the SDK.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer, self.limits = tracer, tracer._span_limits
        self.scope = tracer._instrumentation_scope
        self._processor, self._resource = tracer.span_processor, tracer.resource
        self._are_starts_unseen = _look_at_ends_only(tracer.span_processor)

    @classmethod
    def of(cls, tracer: trace.Tracer) -> LeanSpans | None:
        """What makes spans for ``tracer``; None when only the tracer can."""
        if not (isinstance(tracer, Tracer) and _is_known() and tracer._is_enabled() and _have_room(tracer._span_limits)):
            return None
        return cls(tracer)

    def start(
        self, name: str, context: SpanContext, parent: SpanContext, attributes: Mapping[str, object], start_time: int
    ) -> trace.Span:
        """An internal span that has started and records; its attributes are clean and few."""
        span = _LeanSpan(self, name, context, parent, attributes, start_time)
        if not self._are_starts_unseen:
            self._processor.on_start(span, trace.set_span_in_context(trace.NonRecordingSpan(parent)))
        return span

    def may_only_end(self, span: SpanRecord) -> bool:
        """Whether ``finish`` may have a span: nobody was inside of it, and no processor wants to see it start."""
        return (
            self._are_starts_unseen and span.status == "unset" and not (span.events or span.links or not span.trace_flags & 1)
        )

    def finish(self, span: SpanRecord, context: SpanContext, parent: SpanContext | None, kind: trace.SpanKind) -> None:
        """Hand a finished span to the processors."""
        started_at = int(span.started_at * 1e9)
        ended_at = int(span.ended_at * 1e9) if span.ended_at > span.started_at else started_at
        known = cast("Mapping[str, AnyValue]", span.attributes)
        self._processor.on_end(
            ReadableSpan(
                span.name, context, parent, self._resource, known, (), (), kind, None, _UNSET, started_at, ended_at, self.scope
            )
        )


class _LeanSpan(Span):
    """A span of the SDK with attributes that need no cleaning."""

    def __init__(
        self,
        maker: LeanSpans,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: Mapping[str, object],
        start_time: int,
    ) -> None:
        tracer, limits = maker.tracer, maker.limits
        self._name, self._context, self._parent, self._kind = name, context, parent, trace.SpanKind.INTERNAL
        self._resource, self._sampler, self._span_processor = tracer.resource, tracer.sampler, tracer.span_processor
        self._instrumentation_info, self._instrumentation_scope = tracer.instrumentation_info, maker.scope
        self._limits, self._lock = limits, threading.Lock()
        self._attributes = held = BoundedAttributes(limits.max_span_attributes, None, False)
        held._dict.update(cast("Mapping[str, AnyValue]", attributes))
        self._events, self._links = BoundedList(limits.max_events), BoundedList(limits.max_links)
        self._start_time, self._end_time = start_time, None
        self._status = _UNSET
        self._trace_config = self._record_end_metrics = None
        self._record_exception = self._set_status_on_exception = True


class _PlainSpan(Span):
    """The SDK refuses to make its own class without a tracer."""


@cache
def _is_known() -> bool:
    """Whether a span made here holds what the SDK's constructor would have put into it, and nothing else is counted."""
    if os.environ.get("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "").strip().lower() == "true":
        return False  # the tracer counts what it starts
    try:
        from opentelemetry.sdk.trace import TracerProvider

        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("treadle.probe")
        assert isinstance(tracer, Tracer), "the SDK's provider makes the SDK's tracers"
        context = SpanContext(1, 1, is_remote=False)
        plain = _PlainSpan("probe", context, limits=tracer._span_limits, attributes={"probe": 1})
        lean = _LeanSpan(LeanSpans(tracer), "probe", context, None, {"probe": 1}, 1)
        return vars(plain).keys() == vars(lean).keys() and _same(plain, lean) and hasattr(tracer, "_is_enabled")
    except (AttributeError, TypeError):  # an older or a newer SDK
        return False


def _same(plain: Span, lean: Span) -> bool:
    held = vars(plain._attributes).keys() == vars(lean._attributes).keys() and plain.attributes == lean.attributes
    return held and plain.status.status_code == lean.status.status_code


def _have_room(limits: SpanLimits) -> bool:
    """Whether these limits leave what treadle says of a span as it is."""
    most = limits.max_span_attributes
    return limits.max_span_attribute_length is None and (most is None or most >= _ROOM)


def _look_at_ends_only(processor: SpanProcessor) -> bool:
    """Whether nothing would be missed by spans that only end, as the SDK's own exporting processors do not."""
    inner = getattr(processor, "_span_processors", None)
    if inner is not None:
        return all(_look_at_ends_only(each) for each in inner)
    kind = type(processor)
    if kind.__module__ in ("opentelemetry.sdk.trace.export", "treadle_otlp._span_queue"):
        return True
    return kind.on_start is SpanProcessor.on_start and getattr(kind, "_on_ending", None) is SpanProcessor._on_ending
