"""``http.request`` and the client ``http`` that it (and any other executor) sends with."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from json import dumps
from typing import Protocol, TypedDict
from urllib.parse import urlencode, urlsplit

import anyio.to_thread
import attrs
from treadle import Secret, client, executor
from treadle.errors import ConfigError, PermanentError
from treadle.ports import Context, SpanKind

from treadle_http._addresses import AllowList, normal
from treadle_http._folder import Folder
from treadle_http._messages import (
    AddressRefusedError,
    FileRefusedError,
    HttpConnectionError,
    HttpPermanentError,
    HttpRequest,
    HttpResult,
    HttpStatusError,
    HttpTimeoutError,
    ParameterValue,
    Upload,
    parameter_text,
    shown_url,
)

__all__ = [
    "AddressRefusedError",
    "Auth",
    "FileRefusedError",
    "Http",
    "HttpClient",
    "HttpConnectionError",
    "HttpPermanentError",
    "HttpRequest",
    "HttpResult",
    "HttpStatusError",
    "HttpTimeoutError",
    "Upload",
    "request",
]

Parameters = dict[str, ParameterValue | list[ParameterValue]]


class Auth(TypedDict, total=False):
    """Who asks: a ``bearer`` token, or ``username`` and ``password``."""

    bearer: str
    username: str
    password: str


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

    Requests go to the public internet alone, unless ``allow`` or ``base_url`` opens something else: every address that a name
    has is looked at when the connection is made, and the connection goes to just that address.

    Attributes:
        base_url: What relative URLs start from; its origin is open wherever it is, and ``token``, ``password``, ``headers`` and
            ``secret_headers`` are sent there alone.
        token: Sent as ``Authorization: Bearer``; needs ``base_url``.
        username: Sent with ``password`` as ``Authorization: Basic``; needs ``base_url``.
        password: See ``username``.
        headers: Sent with every request; without ``base_url`` to everybody.
        secret_headers: The same for values that are secret, like an API key; needs ``base_url``.
        timeout_s: Deadline of a whole call, redirects and body included.
        max_bytes: Largest body, after decompression.
        max_file_bytes: Largest body that ``save_to`` writes, after decompression.
        max_redirects: Redirects that are followed.
        root: Folder beneath which ``save_to`` writes, and ``files`` and ``body_file`` are read; through no symbolic link.
        allow: What is opened beside the public internet: addresses, networks (``10.0.0.0/8``), names, ``*.`` and a name.
        ports: Ports that may be asked; what ``allow`` and ``base_url`` open is open on all, and on its own.
        ca_file: Certificates (PEM) of authorities to trust instead of the system's.
        http2: Whether HTTP/2 is spoken with services that offer it; needs ``treadle-http[http2]``.
        proxy: URL of a proxy for all requests; those that the environment names are not used. It looks names up itself, so it
            has to keep requests from inner addresses; only those that a URL spells are refused here.
        proxy_username: For the proxy.
        proxy_password: For the proxy.
    """

    base_url: str = ""
    token: Secret | None = None
    username: str = ""
    password: Secret | None = None
    headers: dict[str, str] = attrs.field(factory=dict)
    secret_headers: dict[str, Secret] = attrs.field(factory=dict)
    timeout_s: float = 10.0
    max_bytes: int = 10_485_760
    max_file_bytes: int = 1_073_741_824
    max_redirects: int = 5
    root: str = "."
    allow: tuple[str, ...] = ()
    ports: tuple[int, ...] = (80, 443)
    ca_file: str = ""
    http2: bool = False
    proxy: str = ""
    proxy_username: str = ""
    proxy_password: Secret | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what would send secrets to strangers, and what cannot be meant."""
        if self.base_url and not _is_plain_url(self.base_url):
            raise ConfigError(
                f"base_url {shown_url(self.base_url)!r} is not a URL to start from.",
                "Give http:// or https:// and a host, without a user or a query.",
            )
        if (self.token or self.password or self.username or self.secret_headers) and not self.base_url:
            raise ConfigError("A client with credentials does not say whom they are for.", "Set its 'base_url'.")
        if self.token and self.username:
            raise ConfigError("A client has a token and a username.", "Leave one of them out.")
        if self.timeout_s <= 0 or min(self.max_bytes, self.max_file_bytes, self.max_redirects) < 0:
            raise ConfigError("timeout_s has to be more than 0, the limits 0 or more.", "Correct the setting.")
        if "@" in self.proxy:
            raise ConfigError("The proxy's URL holds a user.", "Use 'proxy_username' and 'proxy_password' instead.")
        try:
            AllowList.parse(self.allow)
        except ValueError as error:
            raise ConfigError(f"allow: {error}.", 'Write like ["127.0.0.1", "10.0.0.0/8", "*.corp.example"].') from error

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
        import httpx2  # costs time that listing must not pay

        from treadle_http._network import Guard
        from treadle_http._session import Limits, Session, default_headers, open_transport

        trusted = frozenset(_origin(url) for url in (self.base_url, self.proxy) if url)
        guard = Guard(AllowList.parse(self.allow), frozenset(self.ports), trusted, is_proxied=bool(self.proxy))
        limits = Limits(self.timeout_s, self.max_bytes, self.max_file_bytes, self.max_redirects)
        password = self.proxy_password.reveal() if self.proxy_password else ""
        proxy_auth = (self.proxy_username, password) if self.proxy_username else None
        try:
            transport = open_transport(guard, ca_file=self.ca_file, http2=self.http2, proxy=self.proxy, proxy_auth=proxy_auth)
        except ImportError as error:
            extra = "http2" if self.http2 else "socks"
            raise ConfigError(
                f"The client's settings need a library: {error}.", f"pip install treadle-http[{extra}]"
            ) from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"The client's 'ca_file' or 'proxy' cannot be used: {error}.", "Correct the setting.") from error
        base = httpx2.URL(self.base_url.rstrip("/") + "/" if self.base_url else "")
        return Session(transport, base, guard, limits, Folder(self.root), default_headers(transport), self._credentials())

    def _credentials(self) -> dict[str, str]:
        """What is sent to the origin of ``base_url``."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        headers.update((name.lower(), secret.reveal()) for name, secret in self.secret_headers.items())
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token.reveal()}"
        if self.username:
            headers["authorization"] = _basic(self.username, self.password.reveal() if self.password else "")
        return headers


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
    form: Parameters | None = None,
    files: list[Upload] | None = None,
    body_file: str | None = None,
    auth: Auth | None = None,
    save_to: str | None = None,
    timeout_s: float | None = None,
    expect_status: list[int] | None = None,
    idempotent: bool = True,
) -> HttpResult:
    """Ask a web service and return its answer.

    A status of 400 or more is an error; 408, 425, 429 and most of 5xx say that they are worth another attempt, after as
    long as ``Retry-After`` or the headers of a rate limit ask. POST and PATCH carry the step's idempotency key, so that a
    service that knows ``Idempotency-Key`` does nothing twice.

    Args:
        http: The client.
        ctx: The call.
        url: Absolute, or relative to the client's ``base_url``.
        method: Like ``POST``.
        headers: Beside those of the client, over which they win.
        params: Query parameters, added to those of the URL; a list repeats its name.
        json: Body as a value, sent as ``application/json``.
        text: Body as text, sent as ``text/plain`` unless ``headers`` say otherwise.
        form: Body as the fields of a form, sent as ``application/x-www-form-urlencoded``, or with ``files``.
        files: Files beneath the client's ``root``, sent as ``multipart/form-data``: ``[{path: a.png, field: photo}]``.
        body_file: Body as the content of a file beneath the client's ``root``.
        auth: ``{bearer: TOKEN}`` or ``{username: NAME, password: WORD}``; goes no further than the host it is meant for.
        save_to: File beneath the client's ``root`` that the answer's body is saved to, all at once, instead of ``text``.
        timeout_s: Deadline of the whole call; default the client's.
        expect_status: Statuses that are a success, instead of all below 400.
        idempotent: Whether POST and PATCH carry ``Idempotency-Key``.

    Raises:
        HttpStatusError: The status is no success.
        HttpTimeoutError: It was not over at its deadline; worth another attempt.
        HttpConnectionError: The service cannot be reached, or hung up; worth another attempt.
        AddressRefusedError: The host is not on the public internet, and the client's ``allow`` does not open it.
        PermanentError: The request cannot be sent, or the answer not be taken.
    """
    method = method.upper()
    _check_bodies({"json": json, "text": text, "form": form, "files": files, "body_file": body_file})
    content, kind = _content(json, text, None if files else form, body_file)
    # One client span per request: where an instrumentation makes it, ours is the logical call around it.
    span_kind: SpanKind = "internal" if http.instrumented else "client"
    with ctx.span(
        _span_name(method), kind=span_kind, attributes=_span_attributes(method, _span_url(http, ctx, url))
    ) as attributes:
        defaults = {"content-type": kind} if kind else {}
        if idempotent and method in ("POST", "PATCH"):
            defaults["idempotency-key"] = ctx.idempotency_key
        if ctx.traceparent:
            defaults["traceparent"] = ctx.traceparent  # Within the span, so that what is asked becomes its child.
        outgoing = HttpRequest(
            method=method,
            url=url,
            headers={**defaults, **_authorization(auth), **{name.lower(): value for name, value in (headers or {}).items()}},
            params=params or {},
            content=content,
            timeout_s=timeout_s,
            expect_status=None if expect_status is None else frozenset(expect_status),
            fields=(form or {}) if files else {},
            files=tuple(files or ()),
            body_file=body_file,
            save_to=save_to,
            key=ctx.idempotency_key,
        )
        try:
            result = await http.send(outgoing)
        except HttpStatusError as error:
            attributes["http.response.status_code"] = error.status_code
            raise
        attributes["http.response.status_code"] = result.status
        attributes["network.protocol.version"] = result.http_version
        return result


def _check_bodies(bodies: dict[str, object]) -> None:
    given = [name for name, body in bodies.items() if body is not None and body != []]
    if len(given) > 1 and given != ["form", "files"]:
        raise PermanentError(f"http.request takes one body; it got {' and '.join(map(repr, given))}.", "Leave one of them out.")


def _content(json: object, text: str | None, form: Parameters | None, body_file: str | None) -> tuple[bytes | None, str]:
    """The body and what it is."""
    try:
        if json is not None:
            body = dumps(json, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            return body.encode(), "application/json"
        if text is not None:
            return text.encode(), "text/plain; charset=utf-8"
        if form is not None:
            pairs = [(name, parameter_text(each)) for name, value in form.items() for each in _each(value)]
            return urlencode(pairs).encode(), "application/x-www-form-urlencoded"
    except UnicodeEncodeError as error:
        raise PermanentError(f"The body is not valid text: {error}.", "Pass valid Unicode.") from error
    return None, "application/octet-stream" if body_file is not None else ""


def _each(value: ParameterValue | list[ParameterValue]) -> list[ParameterValue]:
    return value if isinstance(value, list) else [value]


def _authorization(auth: Auth | None) -> dict[str, str]:
    if not auth:
        return {}
    if "bearer" in auth and len(auth) == 1:
        return {"authorization": f"Bearer {auth['bearer']}"}
    if "username" in auth and "bearer" not in auth:
        return {"authorization": _basic(auth["username"], auth.get("password", ""))}
    raise PermanentError("'auth' does not say one way to log in.", "Give {bearer: ...}, or {username: ..., password: ...}.")


def _basic(username: str, password: str) -> str:
    if ":" in username:
        raise PermanentError("A username cannot hold a colon.", "Correct it.")
    return "Basic " + b64encode(f"{username}:{password}".encode()).decode()


def _is_plain_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 -- raises when it is no number
    except ValueError:
        return False
    is_bare = parts.username is None and not parts.query and not parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and is_bare


def _origin(url: str) -> tuple[str, int]:
    """Host and port of a URL of the settings."""
    parts = urlsplit(url)
    default = {"https": 443, "socks5": 1080, "socks5h": 1080}.get(parts.scheme, 80)
    return normal(parts.hostname or ""), parts.port or default


def _span_name(method: str) -> str:
    return method if method in _METHODS else "HTTP"


def _span_url(http: HttpClient, ctx: Context, url: str) -> str:
    """The URL that the span is about; what the step put into it as a secret, like a webhook's path, is hidden."""
    for reference in ctx.call.secrets:
        if reference.path == ("url",):
            return "".join(part if kind == "text" else "***" for kind, part in reference.parts)
    return http.resolve(url)


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
