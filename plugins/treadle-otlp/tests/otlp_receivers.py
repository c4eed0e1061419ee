"""Collectors to send to, over HTTP and over gRPC: they keep what they decode and can be made to misbehave."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import attrs
import grpc  # type: ignore[import-untyped]  # ships no types
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@attrs.frozen
class Ended:
    """How a process ended."""

    stdout: str
    stderr: str
    seconds: float


Run = Callable[..., Ended]
Trailers = Iterable[tuple[str, str | bytes]]


class Received:
    """What a collector was sent.

    Attributes:
        spans: Every span, in order of arrival.
        metrics: Names of the metrics.
        resources: Attributes of the resources that spoke.
        headers: Headers of the last request.
        requests: How many came.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: set[str] = set()
        self.resources: list[dict[str, str]] = []
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.trailers: Trailers = ()

    def take_traces(self, request: traces_pb.ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            self.resources.append({item.key: item.value.string_value for item in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def take_metrics(self, request: metrics_pb.ExportMetricsServiceRequest) -> None:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics.update(metric.name for metric in scope.metrics)

    def tree(self) -> dict[str, str]:
        """Name of each span -> name of its parent; empty for a root."""
        names = {span.span_id: span.name for span in self.spans}
        return {span.name: names.get(span.parent_span_id, "") for span in self.spans}


class HttpCollector(Received):
    """OTLP over HTTP.

    Args:
        status: What it answers.
        fail_first: How many requests are answered 503 before that.
        delay_s: How long it thinks, at most until it is closed.
        answer: What it writes.
        more: Headers of its answers.
    """

    def __init__(
        self,
        *,
        status: int = 200,
        fail_first: int = 0,
        delay_s: float = 0.0,
        answer: bytes = b"",
        more: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.status, self.fail_first, self.delay_s = status, fail_first, delay_s
        self.answer, self.more = answer, more or {}
        self._is_closing = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 60

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(collector.take(self.path, body, dict(self.headers)))
                self.send_header("Content-Length", str(len(collector.answer)))
                for name, value in collector.more.items():
                    self.send_header(name, value)
                self.end_headers()
                if collector.answer:
                    self.wfile.write(collector.answer)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing waits for them, and none goes on in the middle of other tests
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> int:
        self.requests += 1
        if self.delay_s:
            self._is_closing.wait(self.delay_s)
        if self.requests <= self.fail_first:
            return 503
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.status == 200:
            self.headers = {name.lower(): value for name, value in headers.items()}
            if path == "/v1/traces":
                self.take_traces(traces_pb.ExportTraceServiceRequest.FromString(body))
            elif path == "/v1/metrics":
                self.take_metrics(metrics_pb.ExportMetricsServiceRequest.FromString(body))
        return self.status

    def __enter__(self) -> HttpCollector:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class GrpcCollector(Received):
    """OTLP over gRPC.

    Args:
        status: What it answers; None for the ordinary answer.
        trailers: What it sends along with a status.
    """

    def __init__(self, status: grpc.StatusCode | None = None, trailers: Trailers = ()) -> None:
        super().__init__()
        self.trailers = trailers
        self._server = grpc.server(ThreadPoolExecutor(4))
        traces_grpc.add_TraceServiceServicer_to_server(_Traces(self, status), self._server)  # type: ignore[no-untyped-call]  # generated
        metrics_grpc.add_MetricsServiceServicer_to_server(_Metrics(self, status), self._server)  # type: ignore[no-untyped-call]  # generated
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> GrpcCollector:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop(None).wait()


class _Traces(traces_grpc.TraceServiceServicer):
    def __init__(self, received: Received, status: grpc.StatusCode | None) -> None:
        self._received, self._status = received, status

    def Export(
        self, request: traces_pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> traces_pb.ExportTraceServiceResponse:
        _meet(self._received, self._status, context)
        self._received.take_traces(request)
        return traces_pb.ExportTraceServiceResponse()


class _Metrics(metrics_grpc.MetricsServiceServicer):
    def __init__(self, received: Received, status: grpc.StatusCode | None) -> None:
        self._received, self._status = received, status

    def Export(
        self, request: metrics_pb.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics_pb.ExportMetricsServiceResponse:
        _meet(self._received, self._status, context)
        self._received.take_metrics(request)
        return metrics_pb.ExportMetricsServiceResponse()


def _meet(received: Received, status: grpc.StatusCode | None, context: grpc.ServicerContext) -> None:
    received.requests += 1
    metadata: Iterable[tuple[str, str | bytes]] = context.invocation_metadata()
    received.headers = {name: str(value) for name, value in metadata}
    if status is not None:
        context.set_trailing_metadata(received.trailers)
        context.abort(status, "not today")
