"""The file of kept outputs: read at once, written by a thread of its own, never larger than it may be."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw
import attrs

VERSION = 1
"""Of the file's layout; a file of another one is emptied."""

BUSY_MS = 5_000
"""How long to wait for another process that writes."""

_IDLE_S = 0.5
"""How long the thread that writes waits for more."""

_LAYOUT = """
CREATE TABLE IF NOT EXISTS outputs (key BLOB PRIMARY KEY, at REAL NOT NULL, size INTEGER NOT NULL, output BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS outputs_by_age ON outputs (at, size);
"""
_OLDEST = "SELECT key, size FROM outputs INDEXED BY outputs_by_age ORDER BY at"

_log = logging.getLogger("treadle.policies.cache")


def default_path() -> Path:
    """Where the file is unless ``[policies.cache] path`` says otherwise: in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "treadle" / "outputs.db"


@attrs.frozen
class Kept:
    """An output that was kept.

    Attributes:
        at: When, in seconds since the epoch.
        output: As JSON.
    """

    at: float
    output: bytes


class OutputFile:
    """One SQLite file, for the owner alone; several processes may share it. A file that cannot be used is done without.

    Args:
        path: The file.
        most_bytes: Outputs in all; of more, the oldest are removed.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path, self._most_bytes = path, most_bytes
        self._waiting: dict[bytes, Kept | None] = {}  # what the thread has not written yet; None is to be removed
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._reader: apsw.Connection | None = None
        self._reads = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_useless = False

    def get(self, key: bytes) -> Kept | None:
        """What is kept under a key; may wait for the disk. None when there is nothing, or the file cannot be read."""
        with self._lock:
            if key in self._waiting:
                return self._waiting[key]
        with self._reads:
            if self._reader is None and not self._is_useless:
                self._reader = self._opened()
            if self._reader is None:
                return None
            try:
                row = self._reader.execute("SELECT at, output FROM outputs WHERE key = ?", (key,)).fetchone()
            except apsw.Error as error:
                self._complain(error)
                return None
        return None if row is None else Kept(*row)

    def put(self, key: bytes, kept: Kept | None) -> None:
        """Keep an output, or remove it; at once for who reads in this process, soon for the rest."""
        with self._lock:
            if self._is_useless:
                return
            self._waiting[key] = kept
            self._queue.put(lambda: self._write(key))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="treadle-cache", daemon=True)
                self._thread.start()

    def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until what was put is in the file."""
        with self._lock:
            if self._thread is None:
                return
            done = threading.Event()
            self._queue.put(done.set)
        done.wait(timeout_s)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            thread = self._thread
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join(5.0)
        with self._reads:
            if self._reader is not None:
                self._reader.close()
            self._reader, self._is_useless = None, True

    # -- the thread that writes

    def _work(self) -> None:
        self._writer = self._opened()
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Callable[[], None] | None:
        """What is to be done; nothing, and the file is left, when it is let go of or nobody asks for a while."""
        task = None
        with suppress(queue.Empty):
            task = self._queue.get(timeout=_IDLE_S)
        if task is None:
            with self._lock:  # whoever puts something now begins anew
                if not self._queue.empty():
                    return self._queue.get()
                self._thread = None
                if self._writer is not None:
                    self._writer.close()
        return task

    def _write(self, key: bytes) -> None:
        with self._lock:
            kept = self._waiting.get(key)
            is_known = key in self._waiting
        if is_known and self._writer is not None:
            try:
                with _writing(self._writer):
                    self._replace(self._writer, key, kept)
            except apsw.Error as error:
                self._complain(error)
        with self._lock:
            if self._waiting.get(key) is kept:
                self._waiting.pop(key, None)

    def _replace(self, writer: apsw.Connection, key: bytes, kept: Kept | None) -> None:
        if kept is None:
            writer.execute("DELETE FROM outputs WHERE key = ?", (key,))
            return
        size = len(kept.output) + len(key)
        writer.execute("REPLACE INTO outputs VALUES (?, ?, ?, ?)", (key, kept.at, size, kept.output))
        too_much = int(writer.execute("SELECT sum(size) FROM outputs").get or 0) - self._most_bytes
        if too_much <= 0:
            return
        too_much += self._most_bytes // 10  # so that it is not the same with the next one
        gone = []
        for old, freed in writer.execute(_OLDEST):
            if too_much <= 0:
                break
            gone.append((old,))
            too_much -= freed
        writer.executemany("DELETE FROM outputs WHERE key = ?", gone)

    # -- parts

    def _opened(self) -> apsw.Connection | None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.path.exists():
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            return _connected(self.path)
        except (apsw.Error, OSError) as error:
            self._complain(error)
            return None

    def _complain(self, error: Exception) -> None:
        with self._lock:
            if self._is_useless:
                return
            self._is_useless = True
            self._waiting.clear()
        _log.warning("%s cannot be used (%s: %s); nothing is cached", self.path, type(error).__name__, error)


def _connected(path: Path) -> apsw.Connection:
    """A connection to a file that has the layout."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(BUSY_MS)
    _to_write_ahead(connection)
    # A cache may lose its last moments in a power cut, not more: then outputs are made again.
    connection.execute("PRAGMA synchronous = NORMAL; PRAGMA trusted_schema = OFF")
    if connection.pragma("user_version") != VERSION:
        with _writing(connection):
            if connection.pragma("user_version") not in (0, VERSION):
                connection.execute("DROP TABLE IF EXISTS outputs")
            connection.execute(_LAYOUT)
            connection.pragma("user_version", VERSION)
    return connection


def _to_write_ahead(connection: apsw.Connection) -> None:
    """Readers do not wait for who writes. SQLite does not wait for others who do the same, so we do."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


@contextmanager
def _writing(connection: apsw.Connection) -> Iterator[None]:
    """A transaction that has the right to write from its beginning: one that asks for it later may be refused at once."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
