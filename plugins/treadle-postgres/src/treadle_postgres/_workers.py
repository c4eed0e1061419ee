"""Threads that own connections: those that write, in groups that share a commit, and those that read.

A connection that is lost is made anew, and what was under way is done again: every job is such that this changes nothing when
it had been kept already.
"""

from __future__ import annotations

import copy
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar, cast

import anyio
import attrs
import psycopg
from treadle.errors import StoreUnavailableError, TreadleError
from treadle.ports import fault_point, loop_poster

from treadle_postgres._schema import Connection
from treadle_postgres._server import Server, is_passing

T = TypeVar("T")

MOST_AT_ONCE = 128
"""Most jobs that share one commit."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0
_GRACE_S = 5.0
"""How long to wait for a worker after it should have given up."""


@attrs.frozen
class Single(Generic[T]):
    """Work that is one statement, so that several may share a commit.

    Attributes:
        run_id: Of the run that it locks; those of a group are locked in this order, so that no two groups wait for each other.
        statement: The statement.
        values: Its values.
        finish: Makes the answer of the rows, once they are committed; may ask the connection why there are none. Its last
            argument says whether the statement was sent before without an answer.
    """

    run_id: str
    statement: str
    values: tuple[object, ...]
    finish: Callable[[Connection, list[tuple[object, ...]], bool], T]


Free = Callable[[Connection, bool], T]
"""Work of several statements; its last argument says whether it may have been done before."""


class Job(Generic[T]):
    """Work, and what came of it."""

    __slots__ = ("_done", "_error", "_result", "deadline", "is_again", "is_over", "work")

    def __init__(self, work: Single[T] | Free[T], done: Callable[[], object], deadline: float) -> None:
        self.work, self._done, self.deadline = work, done, deadline
        self._result: T | None = None
        self._error: BaseException | None = None
        self.is_over = self.is_again = False

    def settle(self, make: Callable[[], T]) -> None:
        """Take the answer; what the server cannot do now is raised, anything else belongs to whoever asked."""
        try:
            self._result = make()
        except psycopg.Error:
            raise
        except BaseException as error:
            self._error = error
        self._tell()

    def fail(self, error: BaseException) -> None:
        """It did not work."""
        self._error = error
        self._tell()

    def _tell(self) -> None:
        self.is_over = True
        with suppress(RuntimeError):  # the event loop has ended, and nobody waits any more
            self._done()

    def result(self) -> T:
        """What it answered; raises what went wrong."""
        if self._error is not None:
            raise self._error
        return cast("T", self._result)


class Pool:
    """Some threads that do jobs, each on a connection of its own; a thread is started when all others are busy.

    Args:
        server: Where to.
        connect: Opens a connection, on the thread that uses it.
        name: Of the threads.
        size: At most so many.
        is_grouping: Whether jobs that have come meanwhile share a commit.
        known: Another one of the same server.
    """

    def __init__(
        self,
        server: Server,
        connect: Callable[[], Connection],
        *,
        name: str,
        size: int,
        is_grouping: bool,
        known: Pool | None = None,
    ) -> None:
        self._server, self._connect, self._name, self._size, self._is_grouping = server, connect, name, size, is_grouping
        self._known = known
        self._pid = os.getpid()
        self._jobs: queue.SimpleQueue[Job[object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._lock = threading.Lock()
        self._is_closed = False
        self._was_connected = False

    # -- for callers

    @property
    def was_connected(self) -> bool:
        """Whether the server could be used before; one that never could is not waited for."""
        return self._was_connected or (self._known is not None and self._known.was_connected)

    async def ask(self, work: Single[T] | Free[T]) -> T:
        """Do ``work`` and wait for it; it is finished although whoever waits is cancelled."""
        event, post = anyio.Event(), loop_poster()
        timeout_s = self._server.timeout_s
        job = Job(work, lambda: post(event.set), time.monotonic() + timeout_s)
        self._put(job)
        with anyio.move_on_after(2 * timeout_s + _GRACE_S, shield=True):
            await event.wait()
            return job.result()
        raise self._silent()

    def ask_here(self, work: Single[T] | Free[T], *, timeout_s: float | None = None) -> T:
        """Do ``work`` and wait for it, blocking this thread; ``timeout_s`` when the server's is too long."""
        event = threading.Event()
        timeout_s = min(self._server.timeout_s, timeout_s or self._server.timeout_s)
        job = Job(work, event.set, time.monotonic() + timeout_s)
        self._put(job)
        if not event.wait(2 * timeout_s + _GRACE_S):
            raise self._silent()
        return job.result()

    def post(self, work: Free[object]) -> None:
        """Do ``work`` without anybody waiting for it."""
        self._put(Job(work, _nobody, time.monotonic() + self._server.timeout_s))

    def close(self) -> None:
        """Finish what was asked for, then close the connections; nothing when that was done."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        if self._pid == os.getpid():
            for _ in self._threads:
                self._jobs.put(None)
            until = time.monotonic() + self._server.timeout_s + _GRACE_S
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))

    def _put(self, job: Job[T]) -> None:
        if self._pid != os.getpid():
            raise StoreUnavailableError(
                f"Store {self._server.where} was opened by the process that this one was forked from.",
                "Open a store of its own in each process; start processes with 'spawn', not 'fork'.",
            )
        with self._lock:
            if self._is_closed:
                raise StoreUnavailableError(f"Store {self._server.where} is closed.", "Open it anew.")
            self._jobs.put(cast("Job[object]", job))
            if self._idle < self._jobs.qsize() and len(self._threads) < self._size:
                name = f"treadle-postgres-{self._name}-{len(self._threads) + 1}"
                thread = threading.Thread(target=self._live, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _silent(self) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"Store {self._server.where} did not answer in time.", "See that the server runs and can be reached, then resume."
        )

    # -- on the threads

    def _live(self) -> None:
        connection: Connection | None = None
        while jobs := self._take():
            connection = self._perform(connection, jobs)
        if connection is not None:
            connection.close()

    def _take(self) -> list[Job[object]]:
        """What is to be done next; nothing when the pool was closed."""
        with self._lock:
            self._idle += 1
        job = self._jobs.get()
        with self._lock:
            self._idle -= 1
        jobs: list[Job[object]] = []
        while job is not None:
            jobs.append(job)
            if not self._is_grouping or len(jobs) >= MOST_AT_ONCE:
                return jobs
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs
        if jobs:
            self._jobs.put(None)  # it was for a thread that has nothing more to do
        return jobs

    def _perform(self, connection: Connection | None, jobs: list[Job[object]]) -> Connection | None:
        """Do all, on new connections if need be, for as long as somebody waits for them."""
        wait_s = 0.0  # a lost connection is made anew at once; then the server gets some time
        while jobs:
            try:
                if connection is None or connection.closed:
                    connection = self._connect()
                    self._was_connected = True
                self._do(connection, jobs)
            except psycopg.Error as error:
                is_passing_now = is_passing(error, connection) and self.was_connected
                _drop(connection)
                connection = None
                jobs = self._left(jobs, error, may_wait=is_passing_now)
                if jobs:
                    time.sleep(wait_s * random.uniform(0.5, 1.0))
                    wait_s = min(max(_FIRST_WAIT_S, 2 * wait_s), _LONGEST_WAIT_S)
            except BaseException as error:  # of this package, or of settings: it belongs to whoever asked
                _drop(connection)
                connection = None
                jobs = self._left(jobs, error, may_wait=False)
            else:
                jobs = []
        return connection

    def _left(self, jobs: list[Job[object]], error: BaseException, *, may_wait: bool) -> list[Job[object]]:
        """What is to be tried again; everything else has failed."""
        left = []
        for job in jobs:
            if job.is_over:
                continue
            if may_wait and time.monotonic() < job.deadline:
                job.is_again = True
                left.append(job)
            else:
                # A copy for each who waits: an error that is raised in several places collects their tracebacks.
                job.fail(copy.copy(error) if isinstance(error, TreadleError) else self._server.unavailable(error))
        return left

    def _do(self, connection: Connection, jobs: list[Job[object]]) -> None:
        singles = [job for job in jobs if isinstance(job.work, Single) and not job.is_over]
        if len(singles) > 1:
            self._do_together(connection, sorted(singles, key=_run_of))
        for job in jobs:
            if not job.is_over:
                self._do_alone(connection, job)

    def _do_together(self, connection: Connection, jobs: list[Job[object]]) -> None:
        """One transaction, sent at once and answered at once; when a statement is wrong, none of them is kept."""
        try:
            with connection.pipeline():
                connection.execute("BEGIN")
                sent = [(job, *_send(connection, job)) for job in jobs]
                fault_point("in_transaction")
                ended = connection.execute("COMMIT")
            if ended.statusmessage != "COMMIT":
                raise psycopg.InternalError(f"the server answered {ended.statusmessage} to COMMIT")
        except psycopg.Error as error:
            if is_passing(error, connection):
                raise
            connection.execute("ROLLBACK")
            return  # each is done alone then, so that only the wrong one fails
        fault_point("committed")
        for job, work, cursor in sent:
            rows = cursor.fetchall()
            job.settle(lambda work=work, rows=rows, job=job: work.finish(connection, rows, job.is_again))  # type: ignore[misc]  # bound now

    def _do_alone(self, connection: Connection, job: Job[object]) -> None:
        work = job.work
        try:
            if isinstance(work, Single):
                rows = connection.execute(work.statement, work.values).fetchall()
                fault_point("committed")
                job.settle(lambda: work.finish(connection, rows, job.is_again))
            else:
                job.settle(lambda: work(connection, job.is_again))
        except psycopg.Error as error:
            if is_passing(error, connection):
                raise
            job.fail(self._server.unavailable(error))


def _nobody() -> None:
    """Whom to tell of work that was only posted."""


def _send(connection: Connection, job: Job[object]) -> tuple[Single[object], psycopg.Cursor[tuple[object, ...]]]:
    work = cast("Single[object]", job.work)
    return work, connection.execute(work.statement, work.values)


def _run_of(job: Job[object]) -> str:
    return cast("Single[object]", job.work).run_id


def _drop(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error):
            connection.close()
