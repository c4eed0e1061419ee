"""Requests, results and errors, without the library that carries them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from json import dumps
from urllib.parse import urlsplit

import attrs
from treadle.errors import PermanentError, TransientError, TreadleError

from treadle_http._rate_limits import is_exhausted, wait_asked

RETRYABLE = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses after which the same request may succeed later."""

ParameterValue = str | int | float | bool

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_CONTROLS_AND_SPACES = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_EXCERPT = 300
# They say how a message is framed or routed, which is not the step's business.
_REFUSED_HEADERS = frozenset(("connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"))


@attrs.frozen
class Upload:
    """A file that a form sends.

    Attributes:
        path: Which file, beneath the client's ``root``.
        field: Name of the form's field.
        filename: What it is called to the service; default the path's last name.
        content_type: What it is; default what its name suggests.
    """

    path: str
    field: str = "file"
    filename: str | None = None
    content_type: str | None = None


@attrs.frozen
class HttpRequest:
    """What to send.

    Attributes:
        method: Like ``GET``.
        url: Absolute, or relative to the client's ``base_url``.
        headers: Beside those of the client's settings, over which they win.
        params: Query parameters; a list repeats its name.
        content: The body.
        timeout_s: Deadline of the whole call, redirects and body included; None for the client's.
        expect_status: Statuses that are a success; None for all below 400.
        fields: Fields of a form, which is sent with ``files``.
        files: Files of a form; makes the body ``multipart/form-data``.
        body_file: File beneath the client's ``root`` that is the body.
        save_to: Where beneath the client's ``root`` the answer's body goes; None for the result.
        key: What all attempts of this call have in common, like ``ctx.idempotency_key``; names the file while it is written.
    """

    method: str
    url: str
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    params: Mapping[str, ParameterValue | list[ParameterValue]] = attrs.field(factory=dict, repr=False)
    content: bytes | None = attrs.field(default=None, repr=False)
    timeout_s: float | None = None
    expect_status: frozenset[int] | None = None
    fields: Mapping[str, ParameterValue | list[ParameterValue]] = attrs.field(factory=dict, repr=False)
    files: tuple[Upload, ...] = ()
    body_file: str | None = None
    save_to: str | None = None
    key: str = ""

    def accepts(self, status: int) -> bool:
        """Whether a status is a success."""
        return status < 400 if self.expect_status is None else status in self.expect_status

    def check(self) -> None:
        """Refuse what must not be sent.

        Raises:
            PermanentError: A method, header or deadline that cannot be meant.
        """
        if not _TOKEN.fullmatch(self.method) or self.method in ("CONNECT", "TRACE"):
            raise PermanentError(
                f"{self.method!r} is not a method that http.request sends.", "Use GET, POST, PUT, PATCH, DELETE ..."
            )
        for name, value in self.headers.items():
            if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
                raise PermanentError(f"Header {name!r} holds what no header can.", "Remove line breaks and control characters.")
            if name.lower() in _REFUSED_HEADERS:
                raise PermanentError(f"Header {name!r} is set by the connection itself.", "Leave it out.")
        for upload in self.files:
            if _CONTROL.search(upload.content_type or ""):
                raise PermanentError(f"The content type of {upload.path!r} holds what no header can.", "Remove line breaks.")
        if self.timeout_s is not None and not 0 < self.timeout_s < float("inf"):
            raise PermanentError(f"timeout_s is {self.timeout_s}.", "Give seconds, more than 0.")


@attrs.frozen
class HttpResult:
    """An answer.

    Attributes:
        status: The HTTP status, like 200.
        headers: Names in lower case; values of a repeated name joined by ``, ``.
        text: The body as text, by the charset that the answer names, else UTF-8; empty when it was saved to a file.
        json: The parsed body when the answer says that it is JSON.
        url: Where it came from, after redirects.
        bytes: Size of the body after decompression.
        elapsed_s: Seconds from the first byte sent to the last one read.
        path: The file that the body was saved to, as ``save_to`` gave it.
        sha256: Digest of that file, 64 hex digits.
        http_version: Like ``1.1`` or ``2``.
    """

    status: int
    headers: dict[str, str]
    text: str
    json: object
    url: str
    bytes: int
    elapsed_s: float
    path: str | None = None
    sha256: str | None = None
    http_version: str = "1.1"


class HttpStatusError(TreadleError):
    """An answer whose status is no success.

    Attributes:
        status_code: The status.
        retryable: Whether the same request may succeed later.
        retry_after_s: How long the service asks to wait; None when it does not say.
        excerpt: The beginning of the body.
    """

    def __init__(
        self,
        method: str,
        url: str,
        status_code: int,
        *,
        retry_after: str = "",
        headers: Mapping[str, str] | None = None,
        excerpt: str = "",
    ) -> None:
        said = {**({"retry-after": retry_after} if retry_after else {}), **(headers or {})}
        self.status_code = status_code
        # Some services answer 403, not 429, to whoever asks too often.
        self.retryable = status_code in RETRYABLE or (status_code == 403 and is_exhausted(said))
        self.retry_after_s = wait_asked(said, status_code)
        self.excerpt = _CONTROLS_AND_SPACES.sub(" ", excerpt).strip()[:_EXCERPT]
        words = f": {self.excerpt}" if self.excerpt else "."
        remedy = _remedy(429 if self.retryable and status_code == 403 else status_code)
        super().__init__(f"{method} {shown_url(url)} answered {status_code}{_phrase(status_code)}{words}", remedy)


class HttpTimeoutError(TransientError, TimeoutError):
    """A call that was not over at its deadline."""

    def __init__(self, method: str, url: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        super().__init__(
            f"{method} {shown_url(url)} was not answered within {timeout_s:g}s.",
            "Raise 'timeout_s', or see what the service does.",
        )


class HttpConnectionError(TransientError, ConnectionError):
    """A service that cannot be reached, or that hung up."""

    def __init__(self, method: str, url: str, why: str) -> None:
        super().__init__(
            f"{method} {shown_url(url)} failed: {why}.", "See whether host and port are right and the service runs."
        )


class HttpPermanentError(PermanentError):
    """A request that cannot be sent, or an answer that cannot be taken, however often it is tried."""


class AddressRefusedError(HttpPermanentError):
    """A host that must not be asked: it is not on the public internet, and the settings do not open it.

    Attributes:
        host: The host.
        port: The port, when that is what is refused.
    """

    def __init__(self, host: str, why: str, entry: str, *, port: int | None = None) -> None:
        self.host, self.port = host, port
        opened = f"allow = [{dumps(entry)}]" + (f", or the port with ports = [80, 443, {port}]" if port else "")
        super().__init__(f"Requests to {host!r} are refused: {why}.", f"If it is meant, open it: {opened} in [clients.http].")


class FileRefusedError(HttpPermanentError):
    """A file that cannot be sent, or saved to."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        super().__init__(f"File {path!r} is refused: {why}.", "Give a path of a regular file beneath 'root' of [clients.http].")


def parameter_text(value: ParameterValue) -> str:
    """A value of a query or form as it is written: ``true``, ``1``, ``text``."""
    return value if isinstance(value, str) else dumps(value)


def shown_url(url: str) -> str:
    """A URL for people and spans: without user, query and fragment, where secrets are."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "See whether the token is right and may do this."
    if status in (404, 410):
        return "Correct the URL, or accept it with 'expect_status'."
    if status == 429:
        return "Send less at once ('max_parallel'), or wait longer between attempts ('retry')."
    if status in RETRYABLE:
        return "The service has a fault of its own; it is tried again as 'retry' says."
    return "Correct the request, or accept the status with 'expect_status'."
