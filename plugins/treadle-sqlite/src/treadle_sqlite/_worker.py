"""A thread that owns a connection: the one that writes, in groups that share a commit, or one that reads."""

from __future__ import annotations

import logging
import math
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

import anyio
import apsw
from treadle.errors import StoreGoneError, StoreUnavailableError, TreadleError
from treadle.ports import fault_point, loop_poster

T = TypeVar("T")

MOST_AT_ONCE = 256
"""Most jobs that share one commit."""

CHECKPOINT_PAGES = 1000
"""A write-ahead log of so many pages is brought into the file, after whoever waits has been told."""

STRETCH_PAGES = 128
"""By so many pages the write-ahead log is made longer at once, ahead of the commits that will need them."""

STRETCH_FROM = 32
"""Pages in the log from which on that pays: a command that hardly writes ends before."""

_COMMIT_PAGES = 12
"""With less room than this in the log the next commit may have to make it longer."""

_FRAME_BYTES = 4096 + 24
"""What a page takes in the log."""

_ZEROS = bytes(64 * 1024)
"""SQLite's own layer of files writes no more than twice as much at once."""

MOST_LOG_BYTES = 64 * 1024 * 1024
"""A write-ahead log that is longer is complained of: somebody reads for so long that it cannot be brought into the file."""

QUICK_S = 0.001
"""A commit that takes less is quick: then two changes of threads would cost as much again."""

QUICK_IN_A_ROW = 8
"""After so many quick commits of one run, which nothing else came between, its next one is made on the thread that asks."""

_GRACE_S = 5.0
"""How long to wait for a worker after it should have given up: on a busy machine it says later what the matter is."""

_IDLE_S = 1.0
_TOLD_S = 600.0
_log = logging.getLogger("treadle.sqlite")
_DOWN = (
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.NoMemError,
    apsw.BusyError,
    apsw.LockedError,
)
"""What says that nothing can be kept now, rather than that a statement is wrong."""

_REMEDIES: dict[type[Exception], str] = {
    apsw.FullError: "Free some space on the disk, then resume.",
    apsw.ReadOnlyError: "Make the file and its folder writable, then resume.",
    apsw.CantOpenError: "Make the file and its folder readable and writable, then resume.",
    apsw.CorruptError: "Restore a backup; do not go on with this file.",
    apsw.NotADBError: "Choose another path in [store]: this file is not a store.",
    apsw.BusyError: "Another process holds it; stop that process, or wait for it, then resume.",
}


def unavailable(path: str, error: Exception) -> StoreUnavailableError:
    """An error of SQLite in words of treadle."""
    remedy = next((text for kind, text in _REMEDIES.items() if isinstance(error, kind)), "Look after the disk, then resume.")
    what = type(error).__name__.removesuffix("Error")
    return StoreUnavailableError(f"Store {path} cannot be used ({what}: {error}).", remedy)


class Job(Generic[T]):
    """Something to do on a worker's thread, and what came of it."""

    __slots__ = ("_error", "_result", "done", "work")

    def __init__(self, work: Callable[[apsw.Connection], T], done: Callable[[], object]) -> None:
        self.work, self.done = work, done
        self._result: T | None = None
        self._error: BaseException | None = None

    def run(self, connection: apsw.Connection) -> None:
        """Do it, keeping the result."""
        self._result = self.work(connection)

    def fail(self, error: BaseException) -> None:
        """It did not work."""
        self._error = error

    @property
    def has_failed(self) -> bool:
        """Whether it failed."""
        return self._error is not None

    def tell(self) -> None:
        """Wake whoever waits."""
        with suppress(RuntimeError):  # the event loop has ended, and nobody waits any more
            self.done()

    def result(self) -> T:
        """What it answered; raises what went wrong."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


class Worker:
    """Runs jobs on a connection of its own, one after the other.

    Args:
        name: Of the thread.
        path: Of the file, for messages.
        connect: Opens the connection, on the thread.
        timeout_s: How long to wait for other processes' locks.
    """

    def __init__(self, name: str, path: str, connect: Callable[[Worker], apsw.Connection], timeout_s: float) -> None:
        self._path, self._connect, self._timeout_s = path, connect, timeout_s
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[Job[object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    # -- for callers

    async def ask(self, work: Callable[[apsw.Connection], T]) -> T:
        """Do ``work`` and wait for it; it is finished although whoever waits is cancelled."""
        event, post = anyio.Event(), loop_poster()
        job = Job(work, lambda: post(event.set))
        self._put(job)
        with anyio.move_on_after(self._longest_s, shield=True):
            await event.wait()
            return job.result()
        raise self._silent()

    def ask_here(self, work: Callable[[apsw.Connection], T]) -> T:
        """Do ``work`` and wait for it, blocking this thread."""
        event = threading.Event()
        job = Job(work, event.set)
        self._put(job)
        if not event.wait(self._longest_s):
            raise self._silent()
        return job.result()

    def close(self) -> None:
        """Finish what was asked for, then close the connection; nothing when that was done."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        if self._pid == os.getpid():
            self._jobs.put(None)
            self._thread.join(self._longest_s)

    @property
    def _longest_s(self) -> float:
        """What an answer may take, when another job waits for a lock before it does."""
        return 2 * self._timeout_s + _GRACE_S

    def _put(self, job: Job[T]) -> None:
        if self._pid != os.getpid():
            raise StoreUnavailableError(
                f"Store {self._path} was opened by the process that this one was forked from.",
                "Open a store of its own in each process; start processes with 'spawn', not 'fork'.",
            )
        with self._lock:
            if self._is_closed:
                raise StoreUnavailableError(f"Store {self._path} is closed.", "Open it anew.")
            self._jobs.put(cast("Job[object]", job))

    def _silent(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"Store {self._path} did not answer within {self._longest_s:.0f} s.", "Look after the disk, then resume."
        )

    # -- on the thread

    def _live(self) -> None:
        connection: apsw.Connection | None = None
        try:
            connection = self._connect(self)
        except TreadleError as error:
            self._refuse(error)
        except Exception as error:
            self._refuse(unavailable(self._path, error))
        if connection is not None:
            try:
                self._serve(connection)
            finally:
                with suppress(apsw.Error):
                    connection.close()

    def _refuse(self, error: TreadleError) -> None:
        """The connection cannot be had: say so to everybody until the store is closed."""
        while (job := self._jobs.get()) is not None:
            job.fail(type(error)(error.problem, error.remedy))
            job.tell()

    def _serve(self, connection: apsw.Connection) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.run(connection)
            except TreadleError as error:
                job.fail(error)
            except _DOWN as error:
                job.fail(unavailable(self._path, error))
            except BaseException as error:  # it belongs to whoever asked
                job.fail(error)
            job.tell()

    def retrying(self, act: Callable[[], T]) -> T:
        """Do ``act``, again while another process holds a lock."""
        return retrying(act, self._timeout_s)


def retrying(act: Callable[[], T], timeout_s: float) -> T:
    """Do ``act``, again while somebody else holds a lock; short waits of random length, so that nobody starves."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return act()
        except (apsw.BusyError, apsw.LockedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.0002, 0.004))


def begin(connection: apsw.Connection, timeout_s: float) -> None:
    """Begin a transaction that writes."""
    retrying(lambda: connection.execute("BEGIN IMMEDIATE"), timeout_s)


class Writer(Worker):
    """The one thread of the process that writes to a file.

    Jobs that have come meanwhile share one commit. When one fails, all are undone and done again with a savepoint for each, so
    that it fails alone.

    Only ``try_here`` uses its connection on another thread, when it has nothing to do.

    Args:
        name: Of the thread.
        path: Of the file.
        connect: Opens the connection.
        timeout_s: How long to wait for other processes' locks.
        check: Raises StoreUnavailableError when the files are no longer those that were opened.
        chore: What to do when nobody has asked for anything for a while; answers in how many seconds to do it again.
        stretches: Whether to make room in the write-ahead log ahead of commits: of use where each is synchronised.
    """

    def __init__(
        self,
        name: str,
        path: str,
        connect: Callable[[Worker], apsw.Connection],
        timeout_s: float,
        check: Callable[[], None],
        chore: Callable[[apsw.Connection], float] | None = None,
        *,
        stretches: bool = False,
    ) -> None:
        self._check, self._chore = check, chore
        self._chore_at = 0.0 if chore is not None else math.inf
        self._told_at = -math.inf
        self._pages = 0  # in the log, that are not in the file yet
        self._room = 0 if stretches else sys.maxsize  # pages that the log is long
        self._log_file: apsw.VFSFile | None = None
        self._broken: StoreGoneError | None = None
        self._turn = threading.Lock()  # whoever has it may use the connection
        self._connection: apsw.Connection | None = None
        self._quick = 0
        self._quick_for = ""
        super().__init__(name, path, connect, timeout_s)

    def begin(self, connection: apsw.Connection) -> None:
        """Begin a transaction that writes: the lock is taken now, so that no reader's view can go stale under it."""
        begin(connection, self._timeout_s)

    def try_here(self, work: Callable[[apsw.Connection], T], who: str) -> Job[T] | None:
        """Do ``work`` in a commit on the thread of whoever asks, which blocks it for so long; None: not now, so ask and wait.

        For who has nothing to do meanwhile. It is done while commits have been quick for a while, nobody else has anything to
        write, and no other process holds the file.

        Args:
            work: What to do.
            who: The run that it is for; when it is another than the last time, it has to show first that it is alone.
        """
        if who != self._quick_for:
            self._quick_for, self._quick = who, 0
        if self._quick < QUICK_IN_A_ROW or not self._jobs.empty() or self._is_closed or self._pid != os.getpid():
            return None
        if not self._turn.acquire(blocking=False):
            return None
        try:
            connection = self._connection
            if connection is None or not _begins(connection):
                return None
            job = Job(work, _nobody)
            self._commit(connection, [job], has_begun=True)
            fault_point("committed")
            if self._is_cramped:
                self._stretch(connection)
        finally:
            self._turn.release()
        if self._pages > CHECKPOINT_PAGES:
            self._jobs.put(Job(_nothing, _nobody))
        return job

    def _serve(self, connection: apsw.Connection) -> None:
        connection.set_wal_hook(self._note_pages)
        self._connection = connection
        try:
            self._take_jobs(connection)
        finally:
            with self._turn:
                self._connection = None
                if self._log_file is not None:
                    with suppress(apsw.Error, OSError):
                        self._log_file.xClose()

    def _take_jobs(self, connection: apsw.Connection) -> None:
        is_open = True
        while is_open:
            try:
                first = self._jobs.get(timeout=self._patience())
            except queue.Empty:
                with self._turn:
                    self._be_idle(connection)
                continue
            jobs: list[Job[object]] = []
            job = first
            while True:
                if job is None:
                    is_open = False
                    break
                jobs.append(job)
                if len(jobs) >= MOST_AT_ONCE:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if jobs := [each for each in jobs if each.work is not _nothing]:
                with self._turn:
                    self._commit(connection, jobs)
                    fault_point("committed")
                for done in jobs:
                    done.tell()
            if self._pages > CHECKPOINT_PAGES:
                with self._turn:
                    self._checkpoint(connection, apsw.SQLITE_CHECKPOINT_PASSIVE)
            elif self._is_cramped:
                with self._turn:
                    self._stretch(connection)

    def _patience(self) -> float | None:
        """How long to wait for a job before there is something else to do; None for as long as it takes."""
        if self._pages > CHECKPOINT_PAGES:
            return _IDLE_S
        if self._chore_at == math.inf:
            return None
        return max(_IDLE_S, self._chore_at - time.monotonic())

    def _be_idle(self, connection: apsw.Connection) -> None:
        if self._pages > CHECKPOINT_PAGES:
            self._checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._pages = 0
            if self._room < sys.maxsize:
                self._room = 0
        elif self._chore is not None and time.monotonic() >= self._chore_at:
            job = Job(self._chore, _nobody)
            self._commit(connection, [job])
            if job.has_failed:
                _log.debug("%s: not cleaned now", self._path)
            self._chore_at = time.monotonic() + (60.0 if job.has_failed else job.result())

    def _commit(self, connection: apsw.Connection, jobs: Sequence[Job[Any]], *, has_begun: bool = False) -> None:
        """Do all in one transaction. Afterwards each is durable or has failed."""
        began = time.monotonic()
        try:
            if self._broken is not None:
                raise self._broken
            if not has_begun:
                self.begin(connection)
            if not self._do_plainly(connection, jobs):
                connection.execute("ROLLBACK")
                self.begin(connection)
                for job in jobs:
                    self._do_apart(connection, job)
            fault_point("in_transaction")
            connection.execute("COMMIT")
            self._quick = self._quick + 1 if len(jobs) == 1 and time.monotonic() - began < QUICK_S else 0
            self._check()
        except BaseException as error:
            with suppress(apsw.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if isinstance(error, StoreGoneError):
                self._broken = error  # the files are not ours any more: nothing more is written
            reason = error if isinstance(error, StoreUnavailableError) else unavailable(self._path, cast("Exception", error))
            for job in jobs:
                if not job.has_failed:
                    job.fail(type(reason)(reason.problem, reason.remedy))
            if not isinstance(error, Exception) and threading.current_thread() is not self._thread:
                raise  # a keyboard's interrupt, in the thread of whoever asks

    def _do_plainly(self, connection: apsw.Connection, jobs: Sequence[Job[Any]]) -> bool:
        """Do all without savepoints, which cost as much as all the rest; answers whether none has failed, as is the rule."""
        try:
            for job in jobs:
                job.run(connection)
        except _DOWN:
            raise
        except Exception:  # it comes again when each is done apart
            return False
        return True

    def _do_apart(self, connection: apsw.Connection, job: Job[Any]) -> None:
        connection.execute("SAVEPOINT job")
        try:
            job.run(connection)
        except _DOWN:
            raise
        except Exception as error:
            connection.execute("ROLLBACK TO job")
            job.fail(error)
        connection.execute("RELEASE job")

    def _note_pages(self, connection: apsw.Connection, name: str, pages: int) -> int:
        del connection, name
        self._pages, self._room = pages, max(pages, self._room)
        return apsw.SQLITE_OK

    @property
    def _is_cramped(self) -> bool:
        """Whether the next commits would make the log longer."""
        return self._pages >= STRETCH_FROM and self._pages + _COMMIT_PAGES > self._room

    def _stretch(self, connection: apsw.Connection) -> None:
        """Make the log longer than it has to be now.

        A commit that does not change the length of a file is synchronised in half the time, and takes one write of the disk
        where it took three. What is written here is no part of the log before a commit has written over it; nobody else makes
        the log longer, or shorter, meanwhile, because that takes the lock that is held here.
        """
        if not _begins(connection):
            return
        try:
            if self._log_file is None:  # by SQLite's own layer, so that it knows of it
                flags = [apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_WAL, 0]
                self._log_file = apsw.VFSFile(connection.open_vfs, f"{self._path}-wal", flags)
            size = self._log_file.xFileSize()
            fault_point("in_stretch")
            for place in range(size, size + STRETCH_PAGES * 4096, len(_ZEROS)):
                self._log_file.xWrite(_ZEROS, place)
            self._room = size // _FRAME_BYTES + STRETCH_PAGES
        except (apsw.Error, OSError):  # no room on the disk, say: commits find it where they need it, or tell of it
            self._room = sys.maxsize
        finally:
            with suppress(apsw.Error):
                connection.execute("ROLLBACK")

    def _checkpoint(self, connection: apsw.Connection, mode: int) -> None:
        fault_point("in_checkpoint")
        with suppress(apsw.BusyError, apsw.LockedError):  # a reader is at it; the next one will do
            try:
                pages, done = connection.wal_checkpoint(mode=mode)
            except _DOWN:  # the disk is full, say: what is in the log is kept all the same
                return
            self._pages = 0
            size = pages * int(str(connection.pragma("page_size")))
            if done < pages and size > MOST_LOG_BYTES and time.monotonic() > self._told_at + _TOLD_S:
                self._told_at = time.monotonic()
                _log.warning(
                    "%s-wal has grown to %d MiB: somebody has been reading for so long that it cannot be brought into the file."
                    " End what has the file open (a shell with an open transaction?)",
                    self._path,
                    size >> 20,
                )


def _begins(connection: apsw.Connection) -> bool:
    """Begin a transaction that writes, at once or not at all."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except apsw.Error:  # a lock, or trouble, which the writer's thread finds again and tells of
        return False
    return True


def _nothing(connection: apsw.Connection) -> None:
    """What makes the writer's thread look after the write-ahead log."""


def _nobody() -> None:
    """Whom to tell of a chore."""
