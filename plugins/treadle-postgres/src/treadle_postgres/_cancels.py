"""What was asked of runs: heard from the server when it comes, instead of asking it over and over."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from typing import NamedTuple

import psycopg
from treadle.errors import TreadleError
from treadle.ports import CancelRequest

from treadle_postgres._schema import Connection
from treadle_postgres._server import Server

_log = logging.getLogger("treadle.postgres")

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0
_JOIN_S = 2.0


def channel(schema: str) -> str:
    """Where a store announces cancels and signals; the message is the run."""
    return f"{schema}_cancel"


class Asked(NamedTuple):
    """What was asked of a run.

    Attributes:
        cancel: The cancel; None for none.
        signals: The number of the last signal.
    """

    cancel: CancelRequest | None = None
    signals: int = 0


class Cancels:
    """What is known of cancels and signals, on a thread and a connection of its own from the first question on.

    An answer holds until the server announces another one. Nothing is held while the connection is down, and the owner's beat
    brings the answer again, so that an announcement that got lost costs seconds, never the cancel.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._wake: socket.socket | None = None
        self._known: dict[str, Asked] = {}
        self._is_listening = False
        self._notices = 0

    def begin(self) -> int:
        """Listen from now on; answers what ``keep`` wants to be told."""
        with self._lock:
            if self._thread is None and not self._end.is_set():
                self._thread = threading.Thread(target=self._live, name="treadle-postgres-listener", daemon=True)
                self._thread.start()
            return self._notices

    def known(self, run_id: str) -> Asked | None:
        """What was asked for; None when it is not known without asking the server."""
        with self._lock:
            return self._known.get(run_id)

    def keep(self, run_id: str, asked: Asked, since: int) -> None:
        """Remember an answer, unless something was announced since ``begin`` answered ``since``."""
        with self._lock:
            if self._is_listening and self._notices == since:
                self._known[run_id] = asked

    def forget(self, run_id: str) -> None:
        """What is known of this run holds no longer, nor what is being asked."""
        with self._lock:
            self._notices += 1
            self._known.pop(run_id, None)

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._end.set()
            if self._wake is not None:
                self._wake.close()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    # -- on the thread

    def _live(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._end.is_set():
            try:
                with self._server.connect() as connection:
                    connection.execute(f'LISTEN "{channel(self._server.schema)}"')
                    self._changed(is_listening=True)
                    wait_s = _FIRST_WAIT_S
                    self._listen(connection)
            except (psycopg.Error, TreadleError) as error:
                _log.debug("%s: not listening for cancels: %s", self._server.where, error)
            finally:
                self._changed(is_listening=False)
            self._end.wait(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _listen(self, connection: Connection) -> None:
        woken, wake = socket.socketpair()
        with self._lock:
            self._wake = wake
        with woken, wake, selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            selector.register(connection.fileno(), selectors.EVENT_READ)
            while not self._end.is_set():
                for notice in connection.notifies(timeout=0):
                    self.forget(notice.payload)
                selector.select()

    def _changed(self, *, is_listening: bool) -> None:
        with self._lock:
            self._is_listening = is_listening
            self._notices += 1
            self._known.clear()
