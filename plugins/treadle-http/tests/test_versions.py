"""Encrypted connections, and HTTP/2 over them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.events
import pytest
import trustme
from treadle.errors import ConfigError
from treadle.ports import Context
from treadle_http import Http, HttpPermanentError, request

pytestmark = pytest.mark.anyio


class EncryptedService:
    """Speaks HTTP/2 with those who can and HTTP/1.1 with the rest; answers everything with the version spoken."""

    def __init__(self, authority: trustme.CA) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.connections = 0

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.speak, args=(plain,), daemon=True).start()

    def speak(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError), plain, self.context.wrap_socket(plain, server_side=True) as connection:
            if connection.selected_alpn_protocol() == "h2":
                self.speak_2(connection)
            elif connection.recv(65536):
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n1.1")

    def speak_2(self, connection: ssl.SSLSocket) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        state.initiate_connection()
        connection.sendall(state.data_to_send())
        while data := connection.recv(65536):
            for event in state.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    state.send_headers(event.stream_id, [(":status", "200")])
                    state.send_data(event.stream_id, b"2", end_stream=True)
            connection.sendall(state.data_to_send())


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def service(authority: trustme.CA) -> Iterator[EncryptedService]:
    service = EncryptedService(authority)
    thread = threading.Thread(target=service.serve)
    thread.start()
    yield service
    service.listener.shutdown(socket.SHUT_RDWR)
    service.listener.close()
    thread.join()


def client(tmp_path: Path, **settings: Any) -> Http:
    return Http(allow=("127.0.0.1",), ca_file=str(tmp_path / "ca.pem"), timeout_s=60.0, **settings)


async def test_the_authority_of_the_settings_is_trusted(ctx: Context, service: EncryptedService, tmp_path: Path) -> None:
    """With ``ca_file`` a private authority's certificate is accepted; without, it is refused for good."""
    async with client(tmp_path).open() as http:
        assert (await request(http, ctx, url=service.url)).text == "1.1"
    async with Http(allow=("127.0.0.1",)).open() as http:
        with pytest.raises(HttpPermanentError, match="certificate is not trusted"):
            await request(http, ctx, url=service.url)


async def test_http_2_is_spoken_where_it_is_asked_for(ctx: Any, service: EncryptedService, tmp_path: Path) -> None:
    """With ``http2`` many calls share one connection, which the guard has checked like any other; the span says so."""
    async with client(tmp_path, http2=True).open() as http:
        first = await request(http, ctx, url=service.url)
        async with anyio.create_task_group() as calls:
            for _ in range(5):
                calls.start_soon(lambda: request(http, ctx, url=service.url))

    assert (first.text, first.http_version, service.connections) == ("2", "2", 1)
    assert {span["network.protocol.version"] for span in ctx.spans} == {"2"}


async def test_http_2_needs_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authority: trustme.CA) -> None:
    """Without the library the client does not open, and says what to install."""
    monkeypatch.setitem(sys.modules, "h2", None)
    with pytest.raises(ConfigError, match=r"pip install treadle-http\[http2\]"):
        async with client(tmp_path, http2=True).open():
            pass
