"""Spans of treadle as the messages of OTLP, made straight from their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from opentelemetry.sdk.resources import Resource
from treadle.ports import SpanBatch, SpanRecord

__all__ = ["encode"]

_KINDS = {
    "internal": Span.SPAN_KIND_INTERNAL,
    "server": Span.SPAN_KIND_SERVER,
    "client": Span.SPAN_KIND_CLIENT,
    "producer": Span.SPAN_KIND_PRODUCER,
    "consumer": Span.SPAN_KIND_CONSUMER,
}
_ERROR = Status.STATUS_CODE_ERROR
_KNOWN, _REMOTE = 0x100, 0x200
"""Bits of a span's flags: that it is known whether its parent is another process's, and that it is."""


def encode(batch: SpanBatch, resource: Resource) -> ExportTraceServiceRequest:
    """The request that carries a batch."""
    scope = InstrumentationScope(name=batch.scope, version=batch.version)
    spans = ScopeSpans(scope=scope, spans=map(_span, batch.spans), schema_url=batch.schema_url)
    message = ResourceMessage(attributes=_attributes(resource.attributes))
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=message, scope_spans=[spans], schema_url=resource.schema_url)]
    )


def _span(span: SpanRecord) -> Span:
    is_remote = bool(span.parent_id) and span.kind == "server"
    message = Span(
        trace_id=bytes.fromhex(span.trace_id),
        span_id=bytes.fromhex(span.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        name=_text(span.name),
        kind=_KINDS[span.kind],
        start_time_unix_nano=int(span.started_at * 1e9),
        end_time_unix_nano=int(max(span.started_at, span.ended_at) * 1e9),
        attributes=_attributes(span.attributes),
        flags=_KNOWN | (_REMOTE if is_remote else 0),
    )
    for name, at, attributes in span.events:
        message.events.add(name=_text(name), time_unix_nano=int(at * 1e9), attributes=_attributes(attributes))
    for trace_id, span_id, attributes in span.links:
        message.links.add(
            trace_id=bytes.fromhex(trace_id),
            span_id=bytes.fromhex(span_id),
            attributes=_attributes(attributes),
            flags=_KNOWN,
        )
    if span.status == "error":
        message.status.code = _ERROR
        message.status.message = _text(span.status_message)
    return message


def _attributes(attributes: Mapping[str, object]) -> Iterable[KeyValue]:
    return [KeyValue(key=_text(key), value=_value(value)) for key, value in attributes.items()]


def _value(value: object) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=_text(value))
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        # OTLP knows whole numbers of 64 bits.
        return AnyValue(int_value=value) if -(2**63) <= value < 2**63 else AnyValue(string_value=str(value))
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, Mapping):
        return AnyValue(kvlist_value=KeyValueList(values=_attributes(value)))
    if isinstance(value, Sequence):
        return AnyValue(array_value=ArrayValue(values=map(_value, value)))
    return AnyValue() if value is None else AnyValue(string_value=_text(str(value)))


def _text(text: str) -> str:
    """What protobuf can hold: half of a surrogate pair becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
