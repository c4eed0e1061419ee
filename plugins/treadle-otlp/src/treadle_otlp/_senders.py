"""Senders of spans that a store keeps: one request, one answer, and what the answer means for the batch."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from opentelemetry.context import attach, detach, set_value
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from treadle.ports import Delivery, SpanBatch, SpanSender

from treadle_otlp._encoding import encode
from treadle_otlp._settings import Connection, Settings
from treadle_otlp._span_queue import SUPPRESS_INSTRUMENTATION
from treadle_otlp._trouble import plain, short

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped]  # ships no types
    import requests

__all__ = ["MOST_BYTES", "make_sender"]

MOST_BYTES = 1024 * 1024
"""Longest request of more than one span: servers refuse whole batches from 4 MB on."""

_LATER = {429, 502, 503, 504}
"""What may be sent again, by OTLP's table; of all else the same request is not."""
_DENIED = {401, 402, 403, 404, 405, 407}
"""What the settings are to blame for, not the spans."""
_GRPC_LATER = {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
_GRPC_DENIED = {"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND"}


def make_sender(settings: Settings, connection: Connection, resource: Resource) -> SpanSender:
    """What sends spans to the endpoint of the settings, as the connection says, in the name of the resource."""
    if settings.protocol == "grpc":
        return GrpcSender(settings.endpoint, connection, resource)
    return HttpSender(settings.endpoint, connection, resource)


class HttpSender:
    """OTLP over HTTP.

    Args:
        endpoint: The whole URL.
        connection: How it is spoken to.
        resource: Who speaks.
    """

    def __init__(self, endpoint: str, connection: Connection, resource: Resource) -> None:
        self.endpoint, self._connection, self._resource = endpoint, connection, resource
        self._session: requests.Session | None = None

    def send(self, batch: SpanBatch, timeout_s: float) -> Delivery:
        """Send a batch and wait for the answer."""
        body = encode(batch, self._resource).SerializeToString()
        if len(body) > MOST_BYTES and len(batch.spans) > 1:
            return Delivery("too_large", f"{len(body):,} bytes in one request")
        return _unwatched(lambda: self._post(body, min(timeout_s, self._connection.timeout_s)))

    def _post(self, body: bytes, timeout_s: float) -> Delivery:
        import requests  # takes a tenth of a second; a run that ends at once need not wait for it

        try:
            answer = self._opened().post(self.endpoint, data=self._packed(body), timeout=timeout_s, allow_redirects=False)
        except (requests.RequestException, OSError) as error:
            return Delivery("later", _reason_of(error))
        return _read(answer.status_code, answer.reason or "", answer.headers.get("Retry-After"), answer.content)

    def _opened(self) -> requests.Session:
        if self._session is None:
            import requests

            session, connection = requests.Session(), self._connection
            session.headers.update(
                {"Content-Type": "application/x-protobuf", "User-Agent": _user_agent(), **connection.headers}
            )
            if connection.compression:
                session.headers["Content-Encoding"] = connection.compression
            if connection.certificate:
                session.verify = connection.certificate
            if connection.client_certificate:
                own, key = connection.client_certificate, connection.client_key
                session.cert = (own, key) if key else own
            self._session = session
        return self._session

    def _packed(self, body: bytes) -> bytes:
        match self._connection.compression:
            case "gzip":
                return gzip.compress(body, 1, mtime=0)
            case "deflate":
                return zlib.compress(body, 1)
            case _:
                return body


def _read(status: int, words: str, retry_after: str | None, body: bytes) -> Delivery:
    """What an answer over HTTP means."""
    if 200 <= status < 300:
        return _accepted(body)
    reason = " ".join(f"{status} {words}".split())
    if status == 413:
        return Delivery("too_large", reason)
    if status in _LATER:
        return Delivery("later", reason, _seconds(retry_after))
    if status < 400 or status in _DENIED:
        return Delivery("denied", reason)
    said = _said(body)
    return Delivery("refused", f"{reason}: {said}" if said else reason)


def _accepted(body: bytes) -> Delivery:
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except Exception:  # a backend that answers something else has taken them all the same
        return Delivery("delivered")
    return Delivery("delivered", short(partial.error_message), rejected=partial.rejected_spans)


def _said(body: bytes) -> str:
    """What a backend wrote about a request that it refused: the text of a status message, JSON, or plain."""
    text = body[:2000].decode("utf-8", "ignore")
    return short("".join(letter if letter.isprintable() else " " for letter in text))


def _seconds(retry_after: str | None) -> float | None:
    """What a ``Retry-After`` asks for: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


class GrpcSender:
    """OTLP over gRPC.

    Args:
        endpoint: ``http://host:port``, ``https://...``, or ``host:port``.
        connection: How it is spoken to.
        resource: Who speaks.
    """

    def __init__(self, endpoint: str, connection: Connection, resource: Resource) -> None:
        self.endpoint, self._connection, self._resource = endpoint, connection, resource
        self._export: Callable[..., ExportTraceServiceResponse] | None = None

    def send(self, batch: SpanBatch, timeout_s: float) -> Delivery:
        """Send a batch and wait for the answer."""
        request = encode(batch, self._resource)
        size = request.ByteSize()
        if size > MOST_BYTES and len(batch.spans) > 1:
            return Delivery("too_large", f"{size:,} bytes in one request")
        return _unwatched(lambda: self._call(request, min(timeout_s, self._connection.timeout_s)))

    def _call(self, request: object, timeout_s: float) -> Delivery:
        import grpc

        try:
            answer = self._opened()(request, timeout=timeout_s, metadata=tuple(self._connection.headers.items()))
        except grpc.RpcError as error:
            return _failed(error)
        partial = answer.partial_success
        return Delivery("delivered", short(partial.error_message), rejected=partial.rejected_spans)

    def _opened(self) -> Callable[..., ExportTraceServiceResponse]:
        if self._export is None:
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

            stub = TraceServiceStub(self._channel())  # type: ignore[no-untyped-call]  # generated without types
            self._export = cast("Callable[..., ExportTraceServiceResponse]", stub.Export)
        return self._export

    def _channel(self) -> grpc.Channel:
        import grpc

        connection, url = self._connection, urlsplit(self.endpoint)
        target = url.netloc or self.endpoint
        compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}.get(connection.compression)
        options = [("grpc.primary_user_agent", _user_agent())]
        if url.scheme == "http" or (url.scheme != "https" and connection.insecure):
            return grpc.insecure_channel(target, options, compression)
        files = (connection.certificate, connection.client_key, connection.client_certificate)
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(*map(_content, files)), options, compression)


def _failed(error: grpc.RpcError) -> Delivery:
    """What an error of gRPC means."""
    name = error.code().name
    details = error.details() or ""
    reason = plain(details) or short(f"{name} {details}")
    asked_s = _asked_s(error)
    if name in _GRPC_LATER or (name == "RESOURCE_EXHAUSTED" and asked_s is not None):
        return Delivery("later", reason, asked_s)
    if name == "RESOURCE_EXHAUSTED" and "larger than max" in details:
        return Delivery("too_large", reason)
    return Delivery("denied" if name in _GRPC_DENIED else "refused", reason)


def _asked_s(error: grpc.RpcError) -> float | None:
    """How long the server asks not to be bothered."""
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # ships no types

    for key, value in error.trailing_metadata() or ():
        if key == "google.rpc.retryinfo-bin":
            delay = RetryInfo.FromString(value).retry_delay
            return float(delay.seconds + delay.nanos / 1e9)
    return None


def _content(path: str) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()


def _reason_of(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return plain(text) or short(text)


def _user_agent() -> str:
    return f"treadle-otlp/{version('treadle-otlp')}"


def _unwatched(send: Callable[[], Delivery]) -> Delivery:
    """Send; instrumented libraries would trace the export, and the export of that, for ever."""
    token = attach(set_value(SUPPRESS_INSTRUMENTATION, True))
    try:
        return send()
    except Exception as error:  # a library that raises has not delivered
        return Delivery("later", _reason_of(error))
    finally:
        detach(token)
