"""What the tests of this plugin share: both event loops, the context of one call, and a web service."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import brotli
import pytest
from treadle.testing import FakeContext

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ctx() -> FakeContext:
    return FakeContext(
        run_id="run-1",
        workflow="demo",
        path="build/compile",
        executor="http.request",
        inputs={},
        index=3,
        attempt=2,
        trace_id="0af7651916cd43dd8448eb211c80319c",
        root_span_id="b7ad6b7169203331",
        trace_flags=1,
    )


@functools.cache
def packed(coding: str) -> bytes:
    """Fifty million bytes in a few."""
    pack = {"gzip": gzip.compress, "br": functools.partial(brotli.compress, quality=4), "zstd": zstd.compress}[coding]
    return bytes(pack(bytes(50_000_000)))


class Handler(BaseHTTPRequestHandler):
    """A service whose paths misbehave in one way each; every request is noted."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: Service

    def handle_any(self) -> None:
        length = int(self.headers.get("content-length", 0))
        parts = urlsplit(self.path)
        body, digest = b"", hashlib.sha256()
        while length:
            chunk = self.rfile.read(min(length, 1 << 20))
            if not chunk:  # the client hung up in the middle of its body
                self.close_connection = True
                return
            body, length = (body + chunk)[: 1 << 20], length - len(chunk)
            digest.update(chunk)
        seen = {
            "method": self.command,
            "path": parts.path,
            "query": parse_qsl(parts.query, keep_blank_values=True),
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body.decode("utf-8", "backslashreplace"),
            "sha256": digest.hexdigest(),
        }
        self.server.seen.append(seen)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, "answer_" + parts.path.strip("/").split("/")[0].replace("-", "_"), self.answer_missing)(seen)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_BREW = handle_any

    def say(self, status: int, body: bytes | str = b"", **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"content_length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_missing(self, seen: dict[str, object]) -> None:
        self.say(404, f"nothing at\x1b[31m {self.path}")

    def answer_echo(self, seen: dict[str, object]) -> None:
        self.say(200, json.dumps(seen), content_type="application/json; charset=utf-8", set_cookie="session=1")

    def answer_text(self, seen: dict[str, object]) -> None:
        self.say(200, "grün".encode("latin-1"), content_type="text/plain; charset=latin-1", x_many="a")

    def answer_status(self, seen: dict[str, object]) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        extra = {"retry_after": query["after"]} if "after" in query else {}
        named = {name: value for name, value in query.items() if name.startswith(("x-", "ratelimit"))}
        self.say(int(query["code"]), "the reason", **extra, **named)

    def answer_json(self, seen: dict[str, object]) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        self.say(200, query["body"], content_type=query.get("type", "application/json"))

    def answer_to(self, seen: dict[str, object]) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        self.say(int(query.get("code", 302)), "moved", location=query["url"])

    def answer_loop(self, seen: dict[str, object]) -> None:
        self.say(302, location="/loop")

    def answer_bomb(self, seen: dict[str, object]) -> None:
        coding = urlsplit(self.path).path.rpartition("/")[2]
        self.say(200, packed(coding), content_encoding=coding)

    def answer_large(self, seen: dict[str, object]) -> None:
        self.say(200, bytes(5_000_000))

    def answer_flow(self, seen: dict[str, object]) -> None:
        count = int(urlsplit(self.path).query)
        self.send_response(200)
        self.send_header("content-length", str(count * 1_000_000))
        self.end_headers()
        for _ in range(count):
            self.wfile.write(bytes(1_000_000))

    def answer_headers(self, seen: dict[str, object]) -> None:
        self.say(200, **{f"x_{number}": "x" * 1000 for number in range(1000)})

    def answer_broken(self, seen: dict[str, object]) -> None:
        self.say(200, b"not packed", content_encoding="gzip")

    def answer_trickle(self, seen: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        for _ in range(900):
            self.wfile.write(b"x")
            if self.server.release.wait(0.1):  # the slowness is the point
                break

    def answer_slow(self, seen: dict[str, object]) -> None:
        self.server.release.wait(90)
        self.say(200)

    def answer_hangup(self, seen: dict[str, object]) -> None:
        self.close_connection = True

    def answer_short(self, seen: dict[str, object]) -> None:
        self.send_response(200)
        self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Not to standard error."""


class Service(ThreadingHTTPServer):
    """Handler's requests, on a free port."""

    daemon_threads = False  # so that closing waits for them, and none goes on in the middle of other tests

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.seen: list[dict[str, object]] = []
        self.connections = 0
        self.release = threading.Event()
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, object]:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are nothing to tell of."""

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.port}"


@contextlib.contextmanager
def serving(service: Service) -> Iterator[Service]:
    """The service answers within the block."""
    with service:
        thread = threading.Thread(target=service.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield service
        finally:
            service.release.set()
            service.shutdown()
            thread.join()


@pytest.fixture
def listen() -> Iterator[Callable[..., Service]]:
    """Starts services: ``listen(host, port)``."""
    with contextlib.ExitStack() as stack:
        yield lambda *place: stack.enter_context(serving(Service(*place)))


@pytest.fixture
def canary(listen: Callable[..., Service]) -> Service:
    """A service on every address of this machine, of both families where there are two."""
    return listen("::" if socket.has_dualstack_ipv6() else "0.0.0.0")


@pytest.fixture
def services(listen: Callable[..., Service]) -> tuple[Service, Service]:
    """Two services, which are two origins."""
    return listen(), listen()


@pytest.fixture
def service(services: tuple[Service, Service]) -> Service:
    return services[0]
