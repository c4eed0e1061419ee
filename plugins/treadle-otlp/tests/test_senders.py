"""Spans that a store keeps: how they are encoded, and what each answer of a backend means for them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from email.utils import formatdate

import grpc  # type: ignore[import-untyped]  # ships no types
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # ships no types
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTracePartialSuccess, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace import Status as SdkStatus
from otlp_receivers import GrpcCollector, HttpCollector
from treadle import Registry, TransientError, Workflow, executor, hookimpl, run
from treadle.ports import Context, Delivery, SpanBatch, SpanRecord, SpanSender
from treadle_otlp._encoding import encode
from treadle_otlp._senders import MOST_BYTES, _failed, _read, make_sender
from treadle_otlp._settings import Connection, Settings, read_connection, read_settings

RESOURCE = Resource({"service.name": "tests", "n": 1}, "https://schema")


def span(number: int = 1, **fields: object) -> SpanRecord:
    ids = (f"{7:032x}", f"{number:016x}", f"{99:016x}")
    return SpanRecord("page", "internal", *ids, 1000.5, 1001.5, trace_flags=1, **fields)  # type: ignore[arg-type]  # fields of it


def batch(*spans: SpanRecord) -> SpanBatch:
    return SpanBatch(spans, "treadle", "1.2", "https://conventions")


@pytest.fixture(params=["http/protobuf", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def collector(protocol: str) -> Iterator[HttpCollector | GrpcCollector]:
    with GrpcCollector() if protocol == "grpc" else HttpCollector() as started:
        yield started


def sender_to(endpoint: str, protocol: str = "http/protobuf", **connection: object) -> SpanSender:
    settings = read_settings("traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
    return make_sender(settings, Connection(**{"timeout_s": 60.0, **connection}), RESOURCE)  # type: ignore[arg-type]  # fields of it


# -- encoding --------------------------------------------------------------------------------------------------------------


@executor("demo.flaky")
async def flaky(ctx: Context, /, n: int) -> int:
    """Fails the first time, and calls a service."""
    with ctx.span("GET", attributes={"n": n, "names": ("a", "b"), "share": 0.5, "ok": True}):
        if ctx.attempt == 1:
            raise TransientError("not yet")
    return n


class Sink:
    """Keeps the spans of a run."""

    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []

    @hookimpl
    def emit_span(self, span: SpanRecord) -> None:
        """Keep one."""
        self.spans.append(span)


def sdk_span(span: SpanRecord, scope: InstrumentationScope) -> ReadableSpan:
    """The same span as the SDK has it."""

    def context(span_id: str) -> SpanContext:
        return SpanContext(int(span.trace_id, 16), int(span_id, 16), False, TraceFlags(span.trace_flags))

    return ReadableSpan(
        span.name,
        context(span.span_id),
        context(span.parent_id) if span.parent_id else None,
        RESOURCE,
        span.attributes,  # type: ignore[arg-type]  # clean ones
        [Event(name, more, int(at * 1e9)) for name, at, more in span.events],  # type: ignore[arg-type]  # clean ones
        [Link(context(span_id), more) for _, span_id, more in span.links],  # type: ignore[arg-type]  # clean ones
        SpanKind[span.kind.upper()],
        status=SdkStatus(StatusCode.ERROR, span.status_message) if span.status == "error" else SdkStatus(),
        start_time=int(span.started_at * 1e9),
        end_time=int(span.ended_at * 1e9),
        instrumentation_scope=scope,
    )


def test_a_run_is_encoded_as_the_sdk_would() -> None:
    """Ids, names, kinds, times, attributes, events, links, status, scope and resource: both roads send the same message."""
    sink, workflow = Sink(), Workflow("flow")
    workflow.step("each", "demo.flaky", n="${{ n }}", foreach=[1, 2], as_="n", retry={"base": "1ms"})
    run(workflow, registry=Registry.of(flaky), sinks=[sink]).check()
    scope = InstrumentationScope("treadle", "1.2", "https://conventions")

    ours = encode(batch(*sink.spans), RESOURCE)

    assert len(sink.spans) == 10
    assert {event for span in sink.spans for event, _, _ in span.events} == {"exception", "retry.scheduled"}
    assert any(span.links for span in sink.spans)
    theirs = encode_spans([sdk_span(span, scope) for span in sink.spans])
    for made in theirs.resource_spans[0].scope_spans[0].spans:
        if made.status == Status():  # spelled out, which says the same
            made.ClearField("status")
    assert ours == theirs


def test_what_protobuf_cannot_hold_is_held_all_the_same() -> None:
    """Half a surrogate pair, numbers beyond 64 bits, nesting and nothing at all."""
    odd: Mapping[str, object] = {"half": "a\ud800", "huge": 2**70, "deep": {"a": [1, "x"]}, "none": None, "bytes": b"\x00"}

    message = encode(batch(span(attributes=odd, status="error", status_message="\udfff")), RESOURCE)

    (made,) = message.resource_spans[0].scope_spans[0].spans
    values = {item.key: item.value for item in made.attributes}
    assert values["half"].string_value == "a?"
    assert values["huge"].string_value == str(2**70)
    assert values["deep"].kvlist_value.values[0].value.array_value.values[1].string_value == "x"
    assert values["none"].WhichOneof("value") is None
    assert values["bytes"].bytes_value == b"\x00"
    assert made.status.message == "?"


# -- answers ---------------------------------------------------------------------------------------------------------------


def test_spans_arrive(collector: HttpCollector | GrpcCollector, protocol: str) -> None:
    """Over both protocols, with headers, compressed, one connection for many batches."""
    sender = sender_to(collector.endpoint, protocol, headers={"x-api-key": "secret"}, compression="gzip")

    deliveries = [sender.send(batch(span(2 * number), span(2 * number + 1)), 60) for number in range(3)]

    assert deliveries == [Delivery("delivered")] * 3
    assert [int.from_bytes(item.span_id, "big") for item in collector.spans] == list(range(6))
    assert collector.headers["x-api-key"] == "secret"
    assert collector.resources[0]["service.name"] == "tests"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, "refused"),
        (422, "refused"),
        (401, "denied"),
        (403, "denied"),
        (404, "denied"),
        (302, "denied"),
        (408, "refused"),
        (500, "refused"),
        (429, "later"),
        (502, "later"),
        (503, "later"),
        (504, "later"),
        (413, "too_large"),
    ],
)
def test_a_status_says_what_becomes_of_the_batch(status: int, outcome: str) -> None:
    """Spans are to blame for 400, settings for 401, size for 413; what OTLP's table names passes."""
    with HttpCollector(status=status) as collector:
        delivery = sender_to(collector.endpoint).send(batch(span()), 60)

    assert delivery.outcome == outcome
    assert delivery.reason.startswith(str(status))
    assert collector.requests == 1, "trying again is the outbox's affair"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("CANCELLED", "later"),
        ("UNKNOWN", "refused"),
        ("INVALID_ARGUMENT", "refused"),
        ("DEADLINE_EXCEEDED", "later"),
        ("NOT_FOUND", "denied"),
        ("ALREADY_EXISTS", "refused"),
        ("PERMISSION_DENIED", "denied"),
        ("UNAUTHENTICATED", "denied"),
        ("RESOURCE_EXHAUSTED", "refused"),
        ("FAILED_PRECONDITION", "refused"),
        ("ABORTED", "later"),
        ("OUT_OF_RANGE", "later"),
        ("UNIMPLEMENTED", "denied"),
        ("INTERNAL", "refused"),
        ("UNAVAILABLE", "later"),
        ("DATA_LOSS", "later"),
    ],
)
def test_a_code_of_grpc_says_what_becomes_of_the_batch(code: str, outcome: str) -> None:
    """The same over gRPC, for every code of OTLP's table."""
    with GrpcCollector(grpc.StatusCode[code]) as collector:
        delivery = sender_to(collector.endpoint, "grpc").send(batch(span()), 60)

    assert delivery.outcome == outcome
    assert delivery.reason


def test_what_an_exhausted_server_says_decides_over_grpc() -> None:
    """It recovers when it says how long it takes, and a message that was too large is sent in parts."""
    retry = RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)).SerializeToString()
    with GrpcCollector(grpc.StatusCode.RESOURCE_EXHAUSTED, [("google.rpc.retryinfo-bin", retry)]) as collector:
        recovers = sender_to(collector.endpoint, "grpc").send(batch(span()), 60)

    assert (recovers.outcome, recovers.retry_after_s) == ("later", 2.5)
    for details, outcome in (
        ("grpc: received message larger than max (5000000 vs. 4194304)", "too_large"),
        ("quota", "refused"),
    ):
        assert _failed(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, details)).outcome == outcome


class Failure(grpc.RpcError):
    """What gRPC raises."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> None:
        """None was sent."""


def test_only_what_otlp_names_is_sent_again() -> None:
    """Of all statuses four are for later; by the specification no other is sent again as it is."""
    later = [status for status in range(300, 600) if _read(status, "", None, b"").outcome == "later"]

    assert later == [429, 502, 503, 504]


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [("7", 7.0, 7.0), ("in an hour", 3300.0, 3601.0), ("soon", None, None)],
)
def test_retry_after_is_handed_on(header: str, least: float | None, most: float | None) -> None:
    """In seconds or as a date; what cannot be read is no wish."""
    header = formatdate(time.time() + 3600, usegmt=True) if header == "in an hour" else header
    with HttpCollector(status=503, more={"Retry-After": header}) as collector:
        asked = sender_to(collector.endpoint).send(batch(span()), 60).retry_after_s

    assert asked is None if least is None or most is None else asked is not None and least <= asked <= most


def test_what_a_backend_says_is_told() -> None:
    """The words of a refusal, and how many spans of a batch were rejected."""
    with HttpCollector(status=400, answer=b'{"message": "no service.name"}') as collector:
        refused = sender_to(collector.endpoint).send(batch(span()), 60)
    partial = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    answer = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    with HttpCollector(answer=answer) as collector:
        taken = sender_to(collector.endpoint).send(batch(span()), 60)

    assert refused == Delivery("refused", '400 Bad Request: {"message": "no service.name"}')
    assert taken == Delivery("delivered", "too old", rejected=2)


def test_nobody_there_is_for_later(dead_endpoint: str, protocol: str) -> None:
    """A collector that is away is no loss, and is told in two words."""
    delivery = sender_to(dead_endpoint, protocol).send(batch(span()), 60)

    assert (delivery.outcome, delivery.reason) == ("later", "connection refused")


def test_a_slow_collector_is_waited_for_so_long() -> None:
    """As long as the caller says and ``OTEL_EXPORTER_OTLP_TIMEOUT`` allows, whichever is less."""
    with HttpCollector(delay_s=600) as collector:
        began = time.monotonic()
        deliveries = [
            sender_to(collector.endpoint, timeout_s=own_s).send(batch(span()), given_s)
            for own_s, given_s in ((0.3, 600), (600, 0.3))
        ]

    assert deliveries == [Delivery("later", "no answer in time")] * 2
    assert time.monotonic() - began < 120


def test_a_request_is_bounded(collector: HttpCollector | GrpcCollector, protocol: str) -> None:
    """More than a megabyte is not even sent, unless it is a single span."""
    sender = sender_to(collector.endpoint, protocol)
    large = span(attributes={"text": "x" * MOST_BYTES})

    assert sender.send(batch(large, span(2)), 60).outcome == "too_large"
    assert collector.spans == []
    assert sender.send(batch(large), 60).outcome == "delivered"


# -- settings --------------------------------------------------------------------------------------------------------------


def test_the_standard_variables_say_how_it_is_sent() -> None:
    """Those for traces go before the general ones; what cannot be used falls back to the default."""
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "a=1,b=two%20words",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "c=3",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca.pem",
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": "/key.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/own.pem",
    }
    assert read_connection(environ) == Connection(
        headers={"c": "3"},
        timeout_s=10.0,
        compression="gzip",
        certificate="/ca.pem",
        client_certificate="/own.pem",
        client_key="/key.pem",
    )
    assert read_connection({}) == Connection()
    assert read_connection({"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "gcp"}) is None
    assert "secret" not in repr(Connection(headers={"x-api-key": "secret"}))


def test_settings_are_for_one_endpoint() -> None:
    """What people are told is where it goes."""
    settings = Settings(("otlp",), "http/protobuf", "http://c:4318/v1/traces")

    assert make_sender(settings, Connection(), RESOURCE).endpoint == "http://c:4318/v1/traces"
