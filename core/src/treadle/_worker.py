"""A worker: takes up runs that nobody drives, because their process ended or let go of them, and drives them to their end."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence

import anyio
from anyio.abc import TaskGroup

from treadle._app import aresume
from treadle._clock import RealClock
from treadle._plugins import Registry
from treadle._results import RunResult
from treadle._session import RunHandle
from treadle.errors import OwnedElsewhereError, RunSuspendedError, StoreUnavailableError, TreadleError
from treadle.ports import Clock, RunQuery, RunRow, StepStatus, Store

__all__ = ["Worker"]

_log = logging.getLogger("treadle.worker")

POLL_S = 5.0
"""How often it is looked for runs."""

_JITTER = 0.2
"""Part of the pause that is drawn at random, so that workers that started together do not ask together."""

MOST_DRIVEN = 200
"""How many runs it drives at once, with those that only wait; each takes a thread and a little memory."""

_PAGE = 200
_PATIENCE_S = 600.0
"""How long a run that could not be driven here is left alone."""


class Worker:
    """Drives the runs of a store that nobody else drives.

    Any number of workers may share a store: of those that want a run one gets it.

    Args:
        store: Where the runs are.
        registry: Where executors come from.
        poll_s: How often it is looked for runs.
        concurrency: How many runs it drives at once; those that only wait, for a time, a signal or a slot, are not counted.
        clock: Time; the real one when None.
        sinks: Objects with ``emit_span`` and ``record_event`` hooks, told of every run.
        on_end: Called with the result of each run that it brought to its end.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        poll_s: float = POLL_S,
        concurrency: int = 4,
        clock: Clock | None = None,
        sinks: Sequence[object] = (),
        on_end: Callable[[RunResult], None] = lambda result: None,
    ) -> None:
        self._store, self._registry, self._poll_s, self._concurrency = store, registry, poll_s, concurrency
        self._clock, self._sinks, self._on_end = clock or RealClock(), sinks, on_end
        self._driven: dict[str, RunHandle | None] = {}
        self._left: dict[str, tuple[int, float]] = {}  # what cannot be driven here -> its stint then, and until when it is left
        self._reason = ""
        self._nap: anyio.CancelScope | None = None
        self.taken = 0

    async def work(self, *, once: bool = False) -> None:
        """Take up runs until ``suspend`` is called.

        Args:
            once: Only those that there are now, and return when all of them are done.

        Raises:
            StoreUnavailableError: The store could not be read at the start. Later it is tried again.
        """
        await self._store.runs(RunQuery(is_orphaned=True, limit=1))
        async with anyio.create_task_group() as group:
            while not self._reason:
                try:
                    found = await self._take_up(group)
                except StoreUnavailableError as error:
                    _log.warning("the store cannot be read now: %s", error)
                    found = 0
                if once and not found and not self._driven:
                    return
                await self._pause(0.0 if found and self._room > 0 else self._poll_s)

    def suspend(self, reason: str = "suspended") -> None:
        """Take up no more runs, and let go of those that are driven: what runs of them may end. Asked again, at once.

        From the event loop's thread.
        """
        self._reason = reason
        for handle in list(self._driven.values()):
            if handle is not None:
                handle.suspend(reason)
        self._wake()

    # -- parts

    async def _take_up(self, group: TaskGroup) -> int:
        """Begin with as many runs as there is room for, the longest waiting first; answers how many."""
        room = self._room
        if room <= 0:
            return 0
        rows = (await self._store.runs(RunQuery(is_orphaned=True, limit=_PAGE))).runs
        begun = 0
        for row in reversed(rows):
            if begun < room and row.run_id not in self._driven and await self._is_wanted(row):
                self._driven[row.run_id] = None
                begun += 1
                group.start_soon(self._drive, row)
        return begun

    @property
    def _room(self) -> int:
        """For how many more runs there is room; one that waits for days keeps no other from being taken up."""
        busy = sum(handle is None or not handle.only_waits for handle in self._driven.values())
        return min(self._concurrency - busy, MOST_DRIVEN - len(self._driven))

    async def _is_wanted(self, row: RunRow) -> bool:
        stint, until = self._left.get(row.run_id, (-1, 0.0))
        if stint == row.stint and time.monotonic() < until:
            return False
        steps = await self._store.steps(row.run_id)
        asks = any(step.status is StepStatus.INTERRUPTED and step.ended_at is None for step in steps)
        return not asks  # somebody has to answer first

    async def _drive(self, row: RunRow) -> None:
        run_id = row.run_id

        def started(handle: RunHandle) -> None:
            self.taken += 1
            self._driven[run_id] = handle
            _log.info("run %s of %s: taken up in stint %d", run_id, row.workflow, row.stint + 1)
            if self._reason:
                handle.suspend(self._reason)

        try:
            result = await aresume(
                run_id, store=self._store, registry=self._registry, clock=self._clock, sinks=self._sinks, on_start=started
            )
        except OwnedElsewhereError:
            _log.debug("run %s: somebody else was quicker, or took it over", run_id)
        except RunSuspendedError as error:
            _log.info("%s", error.problem)
        except TreadleError as error:
            self._leave(row, error)
        except Exception as error:  # of one run; the others go on
            _log.exception("run %s cannot be driven", run_id)
            self._leave(row, error)
        else:
            if self._driven[run_id] is not None:  # else somebody else had brought it to its end meanwhile
                _log.info("run %s of %s: %s", run_id, row.workflow, result.status.value)
                self._on_end(result)
        finally:
            del self._driven[run_id]
            self._wake()

    def _leave(self, row: RunRow, error: Exception) -> None:
        self._left[row.run_id] = (row.stint, time.monotonic() + _PATIENCE_S)
        _log.error("run %s of %s is left alone for %.0f min: %s", row.run_id, row.workflow, _PATIENCE_S / 60, error)

    async def _pause(self, seconds: float) -> None:
        if self._reason:
            return
        with anyio.CancelScope() as self._nap:
            spread = 1.0 + random.uniform(-_JITTER, _JITTER)
            await self._clock.sleep_until(self._clock.now() + seconds * spread)
        self._nap = None

    def _wake(self) -> None:
        if self._nap is not None:
            self._nap.cancel()
