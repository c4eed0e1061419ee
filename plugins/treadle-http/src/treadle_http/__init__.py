"""``http.request`` and the client ``http`` that it (and any other executor) sends with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from json import dumps
from typing import Protocol
from urllib.parse import urlsplit

import anyio.to_thread
import attrs
from treadle import Secret, client, executor
from treadle.errors import ConfigError, PermanentError
from treadle.ports import Context, SpanKind

from treadle_http._messages import (
    HttpConnectionError,
    HttpPermanentError,
    HttpRequest,
    HttpResult,
    HttpStatusError,
    HttpTimeoutError,
    ParameterValue,
    shown_url,
)

__all__ = [
    "Http",
    "HttpClient",
    "HttpConnectionError",
    "HttpPermanentError",
    "HttpRequest",
    "HttpResult",
    "HttpStatusError",
    "HttpTimeoutError",
    "request",
]


class HttpClient(Protocol):
    """What an executor receives that asks for ``http: HttpClient`` left of ``/``."""

    @property
    def instrumented(self) -> bool:
        """Whether an instrumentation of the HTTP library makes a client span of each request itself."""

    def resolve(self, url: str) -> str:
        """The absolute form of a URL that may be relative to ``base_url``; as it is when it is no URL."""

    async def send(self, request: HttpRequest) -> HttpResult:
        """Send a request and read the whole answer.

        Raises:
            HttpStatusError: The status is no success.
            HttpTimeoutError: It was not over at its deadline.
            HttpConnectionError: The service cannot be reached, or hung up.
            PermanentError: The request cannot be sent, or the answer not be taken.
        """


class _Session(HttpClient, Protocol):
    async def aclose(self) -> None: ...


@client("http")
@attrs.define
class Http:
    """Connections to web services.

    Attributes:
        base_url: What relative URLs start from; ``token``, ``headers`` and ``secret_headers`` are sent to its origin alone.
        token: Sent as ``Authorization: Bearer``; needs ``base_url``.
        headers: Sent with every request; without ``base_url`` to everybody.
        secret_headers: The same for values that are secret, like an API key; needs ``base_url``.
        timeout_s: Deadline of a whole call, redirects and body included.
        max_bytes: Largest body, after decompression.
        max_redirects: Redirects that are followed.
        ca_file: Certificates (PEM) of authorities to trust instead of the system's.
        proxy: URL of a proxy for all requests; those that the environment names are not used.
    """

    base_url: str = ""
    token: Secret | None = None
    headers: dict[str, str] = attrs.field(factory=dict)
    secret_headers: dict[str, Secret] = attrs.field(factory=dict)
    timeout_s: float = 10.0
    max_bytes: int = 10_485_760
    max_redirects: int = 5
    ca_file: str = ""
    proxy: str = ""

    def __attrs_post_init__(self) -> None:
        """Refuse what would send secrets to strangers."""
        parts = urlsplit(self.base_url)
        if self.base_url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None):
            raise ConfigError(
                f"base_url {shown_url(self.base_url)!r} is not a URL to start from.",
                "Give http:// or https:// and a host, without a user.",
            )
        if (self.token or self.secret_headers) and not self.base_url:
            raise ConfigError("A client with a token or secret headers does not say whom they are for.", "Set its 'base_url'.")
        if self.timeout_s <= 0 or self.max_bytes < 0 or self.max_redirects < 0:
            raise ConfigError("timeout_s has to be more than 0, max_bytes and max_redirects 0 or more.", "Correct the setting.")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[HttpClient]:
        """A pool of connections; nothing is connected before the first request."""
        # In a thread: the import and the reading of all trusted certificates would hold the event loop up.
        session = await anyio.to_thread.run_sync(self._make)
        try:
            yield session
        finally:
            await session.aclose()

    async def check(self) -> None:
        """Ask the origin of ``base_url`` for anything; any answer will do."""
        if self.base_url:
            async with self.open() as http:
                await http.send(HttpRequest("HEAD", "/", expect_status=frozenset(range(100, 600))))

    def _make(self) -> _Session:
        from treadle_http._session import Limits, Session, open_client  # imports the HTTP library

        headers = {"user-agent": "treadle-http", **{name.lower(): value for name, value in self.headers.items()}}
        headers.update((name.lower(), secret.reveal()) for name, secret in self.secret_headers.items())
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token.reveal()}"
        limits = Limits(self.timeout_s, self.max_bytes, self.max_redirects)
        try:
            pool = open_client(self.base_url, ca_file=self.ca_file, proxy=self.proxy)
        except (OSError, ValueError) as error:
            raise ConfigError(f"The client's 'ca_file' or 'proxy' cannot be used: {error}.", "Correct the setting.") from error
        return Session(pool, limits, headers)


@executor("http.request", examples=({"url": "https://example.org/"},))
async def request(
    http: HttpClient,
    ctx: Context,
    /,
    url: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    params: dict[str, ParameterValue | list[ParameterValue]] | None = None,
    json: object = None,
    text: str | None = None,
    timeout_s: float | None = None,
    expect_status: list[int] | None = None,
) -> HttpResult:
    """Ask a web service and return its answer.

    A status of 400 or more is an error; 408, 425, 429 and most of 5xx say that they are worth another attempt, after as
    long as ``Retry-After`` asks. POST and PATCH carry the step's idempotency key, so that a service that knows
    ``Idempotency-Key`` does nothing twice.

    Args:
        http: The client.
        ctx: The call.
        url: Absolute, or relative to the client's ``base_url``.
        method: Like ``POST``.
        headers: Beside those of the client, over which they win.
        params: Query parameters, added to those of the URL; a list repeats its name.
        json: Body as a value, sent as ``application/json``.
        text: Body as text, sent as ``text/plain`` unless ``headers`` say otherwise.
        timeout_s: Deadline of the whole call; default the client's.
        expect_status: Statuses that are a success, instead of all below 400.

    Raises:
        HttpStatusError: The status is no success.
        HttpTimeoutError: It was not over at its deadline; worth another attempt.
        HttpConnectionError: The service cannot be reached, or hung up; worth another attempt.
        PermanentError: The request cannot be sent, or the answer not be taken.
    """
    body = _body(json, text)
    outgoing = HttpRequest(
        method=method.upper(),
        url=url,
        headers=_defaults(ctx, method.upper(), json, text) | {name.lower(): value for name, value in (headers or {}).items()},
        params=params or {},
        content=body,
        timeout_s=timeout_s,
        expect_status=None if expect_status is None else frozenset(expect_status),
    )
    # One client span per request: where an instrumentation makes it, ours is the logical call around it.
    kind: SpanKind = "internal" if http.instrumented else "client"
    attributes = _span_attributes(outgoing.method, http.resolve(url))
    with ctx.span(_span_name(outgoing.method), kind=kind, attributes=attributes) as attributes:
        try:
            result = await http.send(outgoing)
        except HttpStatusError as error:
            attributes["http.response.status_code"] = error.status_code
            raise
        attributes["http.response.status_code"] = result.status
        return result


def _body(json: object, text: str | None) -> bytes | None:
    if json is not None and text is not None:
        raise PermanentError("http.request takes one body; it got 'json' and 'text'.", "Leave one of them out.")
    try:
        if json is not None:
            return dumps(json, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        return None if text is None else text.encode()
    except UnicodeEncodeError as error:
        raise PermanentError(f"The body is not valid text: {error}.", "Pass valid Unicode.") from error


def _defaults(ctx: Context, method: str, json: object, text: str | None) -> dict[str, str]:
    """What a well-behaved call says where the step says nothing."""
    headers = {}
    if json is not None:
        headers["content-type"] = "application/json"
    elif text is not None:
        headers["content-type"] = "text/plain; charset=utf-8"
    if method in ("POST", "PATCH"):
        headers["idempotency-key"] = ctx.idempotency_key
    if ctx.traceparent:
        headers["traceparent"] = ctx.traceparent
    return headers


def _span_name(method: str) -> str:
    return method if method in _METHODS else "HTTP"


def _span_attributes(method: str, url: str) -> dict[str, object]:
    """Semantic-convention names; the URL without user and query, where secrets are."""
    attributes: dict[str, object] = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "url.full": shown_url(url),
    }
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return attributes
    if host:
        attributes["server.address"] = host
    if host and port:
        attributes["server.port"] = port
    return attributes


_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"))
