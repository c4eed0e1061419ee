"""A proxy in front of the server that cuts a connection in a chosen moment."""

from __future__ import annotations

import random
import socket
import threading
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

    def cut(self, after: int, how: Cut, *, needle: bytes = b"") -> None:
        """Cut whichever connection sends the message that is so many from now, of those that hold ``needle``."""
        with self._lock:
            self._plan.append((after, how, needle))

    def cut_randomly(self, random: random.Random, count: int, *, most: int) -> None:
        """Plan ``count`` cuts of every kind, each at most so many messages after the last."""
        for _ in range(count):
            self.cut(random.randint(1, most), random.choice(CUTS))

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.close()
        with self._lock:
            for each in self._open:
                _end(each)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                with self._lock:
                    self._open |= {client, server}
                drops = threading.Event()
                threading.Thread(target=self._forward, args=(client, server, drops), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client, drops), daemon=True).start()

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
