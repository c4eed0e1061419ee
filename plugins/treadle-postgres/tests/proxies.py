"""A proxy in front of the server that cuts a connection in a chosen moment."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

Cut = Literal["request lost", "request sent", "reply lost"]
CUTS: tuple[Cut, ...] = ("request lost", "request sent", "reply lost")
"""The server never heard of it; it heard of it and nobody waited; it had answered already."""


class Proxy:
    """Listens on a port of its own; ``with Proxy(port) as proxy``."""

    def __init__(self, port: int) -> None:
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cuts: list[Cut] = []
        self._plan: list[tuple[int, Cut, bytes]] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def cut(self, after: int, how: Cut, *, needle: bytes = b"") -> None:
        """Cut whichever connection sends the message that is so many from now, of those that hold ``needle``."""
        with self._lock:
            self._plan.append((after, how, needle))

    def cut_randomly(self, random: random.Random, count: int, *, most: int) -> None:
        """Plan ``count`` cuts of every kind, each at most so many messages after the last."""
        for _ in range(count):
            self.cut(random.randint(1, most), random.choice(CUTS))

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        _end(self._listener)  # closing alone would leave its thread waiting, and the port open
        with self._lock:
            self._is_closed = True
            for each in self._open:
                _end(each)
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._open |= {client, server}
                    if self._is_closed:
                        _end(client)
                        _end(server)
                        return
                drops = threading.Event()
                self._start(self._forward, client, server, drops)
                self._start(self._back, server, client, drops)

    def _forward(self, client: socket.socket, server: socket.socket, drops: threading.Event) -> None:
        with suppress(OSError):
            while message := client.recv(1 << 20):
                how = self._due(message)
                if how == "request lost":
                    break
                if how == "reply lost":
                    drops.set()
                server.sendall(message)
                if how == "request sent":
                    break
        self._close(client, server)  # also where a reply is to be lost that the server will now never give

    def _back(self, server: socket.socket, client: socket.socket, drops: threading.Event) -> None:
        with suppress(OSError):
            while message := server.recv(1 << 20):
                if drops.is_set():
                    break
                client.sendall(message)
        self._close(client, server)

    def _due(self, message: bytes) -> Cut | None:
        with self._lock:
            if not self._plan or self._plan[0][2] not in message:
                return None
            left, how, needle = self._plan.pop(0)
            if left > 1:
                self._plan.insert(0, (left - 1, how, needle))
                return None
            self.cuts.append(how)
            return how

    def _close(self, *sockets: socket.socket) -> None:
        with self._lock:
            for each in sockets:
                _end(each)
                self._open.discard(each)


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
