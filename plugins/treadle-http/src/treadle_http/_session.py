"""An open connection pool: the only module that imports the HTTP library, which costs time that listing must not pay."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import os
import ssl
import time
from collections.abc import Mapping
from contextlib import ExitStack, aclosing, suppress

import anyio
import anyio.to_thread
import attrs
import httpx2

from treadle_http._bodies import FileBody, multipart
from treadle_http._folder import Draft, Folder, OpenFile
from treadle_http._messages import (
    HttpConnectionError,
    HttpPermanentError,
    HttpRequest,
    HttpResult,
    HttpStatusError,
    HttpTimeoutError,
    shown_url,
)
from treadle_http._network import Guard, GuardedTransport

_EXCERPT_BYTES = 2048
_BLOCK = 524_288  # what is written to a file at once: a thread's hop costs as much as writing this
# What may follow a redirect to somebody else: it says how to talk, not who we are.
_HARMLESS = frozenset(
    (
        "accept",
        "accept-encoding",
        "accept-language",
        "content-type",
        "content-length",
        "host",
        "transfer-encoding",
        "traceparent",
        "user-agent",
    )
)


# What describes a body, and goes with it.
_BODY_HEADERS = frozenset(
    ("content-encoding", "content-language", "content-length", "content-location", "content-type", "transfer-encoding")
)


@attrs.frozen
class Limits:
    """What every call of a session is held to.

    Attributes:
        timeout_s: Deadline of a call that does not bring its own.
        max_bytes: Largest body, after decompression.
        max_file_bytes: The same of one that goes to a file.
        max_redirects: Redirects that are followed.
    """

    timeout_s: float
    max_bytes: int
    max_file_bytes: int
    max_redirects: int


def open_transport(
    guard: Guard, *, ca_file: str, http2: bool, proxy: str, proxy_auth: tuple[str, str] | None
) -> GuardedTransport:
    """A connection pool that takes nothing from its surroundings: no proxy, no certificates, no .netrc.

    Raises:
        ImportError: A library for HTTP/2 or SOCKS is not installed.
        OSError: The certificates cannot be read.
        ValueError: The proxy's URL is none.
    """
    library = logging.getLogger("httpx2")
    if library.level == logging.NOTSET:  # It logs each whole URL, where secrets may be; who wants that sets a level.
        library.setLevel(logging.WARNING)
    if http2:
        importlib.import_module("h2")  # The library would miss it only when it connects.
    return GuardedTransport(
        guard,
        verify=ssl.create_default_context(cafile=ca_file) if ca_file else True,
        http2=http2,
        proxy=httpx2.Proxy(proxy, auth=proxy_auth) if proxy else None,
    )


def default_headers(transport: GuardedTransport) -> dict[str, str]:
    """What every request says: who we are, and the codings that the library can unpack."""
    codings = httpx2.AsyncClient(transport=transport, trust_env=False).headers["accept-encoding"]
    return {"accept": "*/*", "accept-encoding": codings, "connection": "keep-alive", "user-agent": "treadle-http"}


@attrs.frozen(eq=False)
class Session:
    """Sends requests over one pool.

    The library's own client is left out: its cookies, credentials and redirects are not wanted, and what it would do for each
    request costs time.

    Attributes:
        transport: The pool.
        base_url: What relative URLs start from, with a slash at its end; empty for none.
        guard: Where requests may go.
        limits: What every call is held to.
        folder: Where files are.
        defaults: Headers of every request.
        headers: Sent only to the origin of ``base_url``, or everywhere when there is none.
    """

    transport: GuardedTransport
    base_url: httpx2.URL
    guard: Guard
    limits: Limits
    folder: Folder
    defaults: Mapping[str, str]
    headers: Mapping[str, str] = attrs.field(repr=False)

    @property
    def instrumented(self) -> bool:
        """Whether an instrumentation of the library makes a client span of each request itself."""
        transport = httpx2.AsyncHTTPTransport.handle_async_request
        return hasattr(transport, "__wrapped__")

    def resolve(self, url: str) -> str:
        """The absolute form of a URL that may be relative to ``base_url``; as it is when it is no URL."""
        try:
            return str(self._absolute(url))
        except (httpx2.InvalidURL, UnicodeEncodeError):
            return url

    async def aclose(self) -> None:
        """Close all connections."""
        await self.transport.aclose()

    async def send(self, request: HttpRequest) -> HttpResult:
        """Send a request and read the whole answer.

        Raises:
            HttpStatusError: The status is no success.
            HttpTimeoutError: It was not over at its deadline.
            HttpConnectionError: The service cannot be reached, or hung up.
            PermanentError: The request cannot be sent, or the answer not be taken.
        """
        request.check()
        outgoing = self._build(request)
        timeout_s = self.limits.timeout_s if request.timeout_s is None else request.timeout_s
        with ExitStack() as files:
            with anyio.move_on_after(timeout_s) as deadline:
                if request.save_to is not None:
                    await anyio.to_thread.run_sync(self.folder.check, request.save_to)
                if request.files or request.body_file is not None:
                    await self._attach(request, outgoing, files)
                return await self._translated(request, outgoing)
        assert deadline.cancelled_caught, "only the deadline leaves the block without a result"
        raise HttpTimeoutError(request.method, self.resolve(request.url), timeout_s)

    async def _attach(self, request: HttpRequest, outgoing: httpx2.Request, files: ExitStack) -> None:
        """Give a request the body that is read from files, which stay open until it is over."""
        paths = [upload.path for upload in request.files] or [request.body_file or ""]
        opened: list[OpenFile] = []
        for path in paths:
            file = await anyio.to_thread.run_sync(self.folder.open_file, path)
            files.callback(os.close, file.descriptor)
            opened.append(file)
        if request.files:
            body, kind = multipart(request.fields, list(zip(request.files, opened, strict=True)))
            outgoing.headers["content-type"] = kind
        else:
            body = FileBody((opened[0],))
        outgoing.stream = body
        outgoing.headers["content-length"] = str(body.size)

    async def _translated(self, request: HttpRequest, outgoing: httpx2.Request) -> HttpResult:
        """The exchange, with the library's errors as ours."""
        try:
            return await self._exchange(request, outgoing)
        except httpx2.HTTPError as error:
            raise _translate(attrs.evolve(request, url=self.resolve(request.url)), error) from error

    async def _exchange(self, request: HttpRequest, outgoing: httpx2.Request) -> HttpResult:
        began = time.monotonic()
        for _ in range(self.limits.max_redirects + 1):
            response = await self.transport.handle_async_request(outgoing)
            response.request = outgoing
            try:
                if not response.has_redirect_location or _is_meant(request, response.status_code):
                    return await self._received(request, response, began)
                outgoing = self._next(outgoing, response)
            finally:
                await response.aclose()
        raise HttpPermanentError(
            f"{request.method} {shown_url(self.resolve(request.url))} was redirected more than "
            f"{self.limits.max_redirects} times.",
            "Use the URL that it ends at, or raise 'max_redirects' of the client.",
        )

    def _build(self, request: HttpRequest) -> httpx2.Request:
        try:
            url = self._absolute(request.url)
            if request.params:  # Added to what the URL brings; the library's own argument would replace it.
                url = url.copy_merge_params(dict(request.params))
            if url.scheme in ("http", "https") and url.host and not url.userinfo:
                self.guard.check_url(url)
                ours = self.headers if self._is_home(url) else {}
                headers = {**self.defaults, **ours, **request.headers}
                return httpx2.Request(request.method, url, headers=headers, content=request.content)
        except httpx2.InvalidURL as error:
            raise HttpPermanentError(f"{shown_url(request.url)!r} is not a URL: {error}.", "Correct it.") from error
        except UnicodeEncodeError as error:
            raise HttpPermanentError(
                f"{request.method} {shown_url(request.url)}: {error.object[error.start]!r} cannot be sent.",
                "Pass valid Unicode.",
            ) from error
        raise HttpPermanentError(
            f"{shown_url(request.url)!r} is not a URL that can be asked.",
            "Give http:// or https:// and a host without a user; credentials belong into 'headers' or the client's 'token'. "
            "A relative URL needs 'base_url' in [clients.http].",
        )

    def _next(self, sent: httpx2.Request, response: httpx2.Response) -> httpx2.Request:
        """The request after a redirect: what says who we are goes no further than the host it was meant for."""
        try:
            url = sent.url.join(response.headers["location"])
        except (httpx2.InvalidURL, ValueError):
            raise _leads_nowhere(sent, "to no URL") from None
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise _leads_nowhere(sent, f"to {url.scheme}:" if url.host and not url.userinfo else "to no plain URL")
        self.guard.check_url(url)
        method = _redirected_method(sent.method, response.status_code)
        has_body = method == sent.method
        dropped = {"host"} if has_body else {"host", *_BODY_HEADERS}
        is_at_home = _is_same_site(sent.url, url)
        headers = {
            name: value for name, value in sent.headers.items() if name not in dropped and (is_at_home or name in _HARMLESS)
        }
        headers["host"] = url.netloc.decode("ascii")
        return httpx2.Request(method, url, headers=headers, stream=sent.stream if has_body else httpx2.ByteStream(b""))

    def _absolute(self, url: str) -> httpx2.URL:
        parsed = _parsed_url(url)
        if not parsed.is_relative_url or not self.base_url.host:
            return parsed
        return self.base_url.copy_with(raw_path=self.base_url.raw_path + parsed.raw_path.lstrip(b"/"))

    def _is_home(self, url: httpx2.URL) -> bool:
        return not self.base_url.host or url.origin == self.base_url.origin

    async def _received(self, request: HttpRequest, response: httpx2.Response, began: float) -> HttpResult:
        if not request.accepts(response.status_code):
            raise HttpStatusError(
                request.method,
                str(response.url),
                response.status_code,
                headers=_joined(response.headers),
                excerpt=_text(response, await _beginning(response)),
            )
        if request.save_to is not None:
            draft = await self._saved(response, request.save_to, request.key)
            text, value, size, digest = "", None, draft.size, draft.sha256
        else:
            body = await self._body(response)
            text, size, digest = _text(response, body), len(body), None
            value = _parsed(response, text)
        return HttpResult(
            status=response.status_code,
            headers=_joined(response.headers),
            text=text,
            json=value,
            url=str(response.url),
            bytes=size,
            elapsed_s=round(time.monotonic() - began, 6),
            path=request.save_to,
            sha256=digest,
            http_version=response.http_version.removeprefix("HTTP/"),
        )

    async def _saved(self, response: httpx2.Response, path: str, key: str) -> Draft:
        """The body in a file, which is there when all of it is."""
        draft = await anyio.to_thread.run_sync(self.folder.draft, path, key)
        try:
            block = bytearray()
            async with aclosing(response.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    block += chunk
                    if draft.size + len(block) > self.limits.max_file_bytes:
                        raise _too_large(response, self.limits.max_file_bytes, "max_file_bytes")
                    if len(block) >= _BLOCK:
                        await anyio.to_thread.run_sync(draft.write, bytes(block))
                        block.clear()
            await anyio.to_thread.run_sync(draft.write, bytes(block))
            await anyio.to_thread.run_sync(draft.keep)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(draft.drop)
            raise
        return draft

    async def _body(self, response: httpx2.Response) -> bytes:
        body = bytearray()
        async with aclosing(response.aiter_bytes()) as chunks:  # Unpacked in pieces of at most 1 MiB.
            async for chunk in chunks:
                body += chunk
                if len(body) > self.limits.max_bytes:
                    raise _too_large(response, self.limits.max_bytes, "max_bytes")
        return bytes(body)


def _too_large(response: httpx2.Response, limit: int, setting: str) -> HttpPermanentError:
    return HttpPermanentError(
        f"{shown_url(str(response.url))} answered more than {limit:,} bytes.",
        f"Ask for less, raise {setting!r} of the client" + (", or use 'save_to'." if setting == "max_bytes" else "."),
    )


def _joined(headers: httpx2.Headers) -> dict[str, str]:
    """Names in lower case, values of a repeated name joined."""
    joined: dict[str, str] = {}
    for name, value in headers.multi_items():
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def _leads_nowhere(sent: httpx2.Request, where: str) -> HttpPermanentError:
    return HttpPermanentError(
        f"{shown_url(str(sent.url))} redirects {where}, which is not followed.", "Tell whoever runs the service."
    )


def _redirected_method(method: str, status: int) -> str:
    """As browsers do it: 303 asks for the answer to what was sent, 301 and 302 turn POST into GET, 307 and 308 repeat."""
    if (status == 303 and method not in ("GET", "HEAD")) or (status in (301, 302) and method == "POST"):
        return "GET"
    return method


async def _beginning(response: httpx2.Response) -> bytes:
    """Enough of a body to see what the service complains about; its own failure does not hide the status."""
    body = b""
    with suppress(httpx2.HTTPError):
        async with aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > _EXCERPT_BYTES:
                    break
    return body[:_EXCERPT_BYTES]


def _text(response: httpx2.Response, body: bytes) -> str:
    if "charset" not in response.headers.get("content-type", "").lower():
        return body.decode("utf-8", "replace")
    try:
        return body.decode(response.charset_encoding or "utf-8", "replace")
    except LookupError:  # A charset that nobody knows.
        return body.decode("utf-8", "replace")


def _parsed(response: httpx2.Response, text: str) -> object:
    """The value of a JSON body; None for any other, and for none at all."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not text or not (kind in ("application/json", "text/json") or kind.endswith("+json")):
        return None
    try:
        return _JSON.decode(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise HttpPermanentError(
            f"{shown_url(str(response.url))} says {kind} but answered something else: {error}.",
            "Tell whoever runs the service.",
        ) from error


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)


@functools.lru_cache(maxsize=256)
def _parsed_url(url: str) -> httpx2.URL:
    """A URL as the library reads it: once for the span and the request, and for those who ask it again."""
    return httpx2.URL(url)


def _is_meant(request: HttpRequest, status: int) -> bool:
    """Whether the step asked for this very status, so that a redirect is its answer."""
    return request.expect_status is not None and request.accepts(status)


def _is_same_site(sent: httpx2.URL, following: httpx2.URL) -> bool:
    """Whether both belong to one service: the same origin, or the same host's step from http to https."""
    upgrade = (sent.scheme, following.scheme) == ("http", "https") and sent.port is None and following.port is None
    return sent.origin == following.origin or (upgrade and sent.host == following.host)


def _translate(request: HttpRequest, error: httpx2.HTTPError) -> Exception:
    why = _reason(error)
    if _is_untrusted(error):
        return HttpPermanentError(
            f"{request.method} {shown_url(request.url)}: the certificate is not trusted ({why}).",
            "Correct the host's name, or name the authority's certificate with 'ca_file' in [clients.http].",
        )
    if isinstance(error, (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException, httpx2.ProxyError)):
        return HttpConnectionError(request.method, request.url, why)
    return HttpPermanentError(f"{request.method} {shown_url(request.url)} cannot be done: {why}.", "Correct the request.")


def _reason(error: BaseException) -> str:
    """The innermost cause that has words: the library's own are often empty or general."""
    words = str(error)
    cause = error.__cause__ or error.__context__
    while cause is not None:
        words = str(cause) or words
        cause = cause.__cause__ or cause.__context__
    return words.strip().rstrip(".") or type(error).__name__


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
