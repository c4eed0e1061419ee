"""What steps keep in the store while they run: how far they got, that they live, and which processes they started.

A checkpoint at the end of a stretch of work is written at once. Those of progress are written at most every two minutes: the
newest waits, and is written when its time has come or when its attempt ends without success, but never dropped.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Protocol

import anyio
import attrs
from anyio.abc import TaskGroup

from treadle._call_context import checked_checkpoint
from treadle._checkpoint_secrets import CheckpointGuard
from treadle._loop import Post, loop_poster
from treadle._models import Call, Json
from treadle._owner import machine, started
from treadle._store_records import BeatRow, Checkpoint, CheckpointRow, Claim, ProcessRow
from treadle.errors import (
    CallCancelledError,
    LeaseLostError,
    StepStalledError,
    StoreUnavailableError,
    TransientError,
    TreadleError,
)
from treadle.ports import Clock, Store

_log = logging.getLogger("treadle.keeper")

PROGRESS_EVERY_S = 120.0
"""How often progress is written (S1-56)."""

STALL_S = 180.0
"""How long a step that says that it lives may be silent (S1-80)."""

AUDIT_EVERY_S = 300.0
"""How often a sign of life of one attempt is kept for audit, besides its first (C10)."""

_FLUSH_S = 5.0
"""How long an attempt that ends may wait for its last checkpoint."""

_AGAIN_S = 5.0
"""When progress that the store did not take is tried again."""

USAGE_EVERY_S, USAGE_SELDOM_S = 5.0, 120.0
"""How often what an attempt uses up is noted: after a tenth of the time that it has gone on, between these."""

Key = tuple[str, int | None, int, str]
"""A call within its run: path, index, attempt, variant."""

_Slot = tuple[str, int | None, str]
"""What has one checkpoint: path, index, variant."""


class User(Protocol):
    """The context of a call, as the keeper knows it.

    Attributes:
        call: The call.
        is_kept: Whether it has turned to the keeper.
        is_over: Whether the attempt has ended, whatever of it may still run.
        is_usage_due: Whether it has used up something that is to be noted.
    """

    call: Call
    is_kept: bool
    is_over: bool
    is_usage_due: bool


@attrs.define
class _Spending:
    """An attempt that uses something up.

    Attributes:
        user: The attempt.
        began_at: When it did so first.
        noted_at: When that was noted last.
        due: When it is to be noted next; infinite while there is nothing new.
    """

    user: User
    began_at: float
    noted_at: float
    due: float = math.inf

    def expect(self, now: float) -> None:
        """There is something to note."""
        self.due = max(now, self.noted_at + min(USAGE_SELDOM_S, max(USAGE_EVERY_S, (now - self.began_at) / 10)))


@attrs.define
class _Pending:
    """Progress that waits to be written."""

    user: User
    token: str
    data: Json
    due: float


class Keeper:
    """What the steps of one stint keep; use it as an async context manager.

    Everything but what says so is for the event loop's thread.

    Args:
        store: Where it is kept.
        claim: The right to write.
        clock: Time.
        every_s: How often progress of a step is written, at most.
        stall_s: How long a step that says that it lives may be silent.
        guard: Looks for secrets in what is saved; None: nobody does.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        clock: Clock,
        *,
        every_s: float = PROGRESS_EVERY_S,
        stall_s: float = STALL_S,
        guard: CheckpointGuard | None = None,
    ) -> None:
        self._guard = guard
        self._store, self._claim, self._clock, self._every_s, self._stall_s = store, claim, clock, every_s, stall_s
        self.fencing_token = claim.epoch
        self.on_stalled: Callable[[Key, TreadleError], object] = lambda key, error: None
        self.on_used: Callable[[Key], object] = lambda key: None
        self.notes_usage = store.is_durable
        self._spending: dict[Key, _Spending] = {}
        self._seqs: dict[_Slot, int] = {}
        self._written: dict[_Slot, float] = {}
        self._pending: dict[_Slot, _Pending] = {}
        self._users: dict[Key, User] = {}
        self._abandoned: set[Key] = set()
        self._lives: dict[Key, float] = {}
        self._told: dict[Key, float] = {}
        self._audit: list[BeatRow] = []
        self._asked: deque[tuple[Callable[[], Awaitable[None]], Future[None]]] = deque()
        self._nap: anyio.CancelScope | None = None
        self._group: TaskGroup | None = None
        self._post: Post | None = None
        self._thread = 0

    async def __aenter__(self) -> Keeper:
        self._post, self._thread = loop_poster(), threading.get_ident()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._watch, self._group)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        group, self._group = self._group, None
        assert group is not None, "it was entered"
        group.cancel_scope.cancel()
        await group.__aexit__(None, None, None)  # whatever left the block goes on alone, in no group
        for _, answer in self._asked:
            answer.set_exception(CallCancelledError("The run has ended."))
        del (
            self._store
        )  # a cancelled task's traceback keeps this keeper until Python's collector comes, and not all that it keeps

    # -- checkpoints

    async def recall(self) -> Sequence[CheckpointRow]:
        """Learn which checkpoints earlier stints have left."""
        rows = await self._store.checkpoints(self._claim.run_id)
        for row in rows:
            self._seqs[row.path, row.index, row.variant] = row.seq
        return rows

    async def load(self, call: Call) -> Checkpoint | None:
        """What an earlier attempt saved last; asks the store only when there is something."""
        if _slot(call) not in self._seqs:
            return None
        try:
            return await self._store.load(call.run_id, call.path, call.index, call.variant)
        except StoreUnavailableError as error:
            raise _passing(call, "its checkpoint could not be read", error) from error

    async def save(self, user: User, token: str, data: Json) -> None:
        """Keep how far an attempt got; returning is the acknowledgement."""
        call = user.call
        point = self._checked(call, token, data)
        self._admit(user)
        self._pending.pop(_slot(call), None)  # this one is newer
        try:
            await self._write(call, token, point)
        except StoreUnavailableError as error:
            raise _passing(call, f"checkpoint {token!r} could not be saved", error) from error

    def save_soon(self, user: User, token: str, data: Json) -> None:
        """Keep how far an attempt got, when it is time; from any thread."""
        point = self._checked(user.call, token, data)
        self._on_loop(partial(self._note, user, token, point), user)

    def _checked(self, call: Call, token: str, data: Json) -> Json:
        point = checked_checkpoint(call.item, token, data)
        if self._guard is not None:
            self._guard.check(call, token, point)
        return point

    async def flush(self, user: User) -> None:
        """Write what waits of an attempt that ends without success; also when it is being cancelled."""
        slot = _slot(user.call)
        pending = self._pending.get(slot)
        if pending is None or pending.user is not user:
            return
        del self._pending[slot]
        with anyio.move_on_after(_FLUSH_S, shield=True):
            try:
                await self._write(user.call, pending.token, pending.data)
            except TreadleError as error:
                _log.warning("%s: progress %r is not kept: %s", user.call.item, pending.token, error)

    def end(self, user: User, *, is_done: bool) -> None:
        """An attempt is over: nothing more is taken of it. Of a step that is done nothing is needed any more."""
        user.is_over = True
        key, slot = _key(user.call), _slot(user.call)
        for known in (self._users, self._lives, self._told):
            known.pop(key, None)
        if is_done:
            self._pending.pop(slot, None)
            self._seqs.pop(slot, None)
            self._written.pop(slot, None)

    def abandon(self, key: Key) -> None:
        """An attempt does not stop when told to: it is over, whatever it does."""
        self._abandoned.add(key)
        user = self._users.get(key)
        if user is not None:
            self._pending.pop(_slot(user.call), None)
            self.end(user, is_done=False)

    def _note(self, user: User, token: str, data: Json) -> None:
        self._admit(user)
        slot = _slot(user.call)
        due = self._written.get(slot, -math.inf) + self._every_s
        self._pending[slot] = _Pending(user, token, data, due)
        self._wake()

    async def _write(self, call: Call, token: str, data: Json) -> None:
        slot = _slot(call)
        seq = self._seqs[slot] = self._seqs.get(slot, 0) + 1
        now = self._written[slot] = self._clock.now()
        await self._store.save(self._claim, Checkpoint(call.path, call.index, call.variant, token, data, seq, now))

    async def _write_pending(self, pending: _Pending) -> None:
        slot = _slot(pending.user.call)
        try:
            await self._write(pending.user.call, pending.token, pending.data)
        except LeaseLostError:
            return  # the run hears of it by itself
        except TreadleError as error:
            _log.warning("%s: progress %r could not be saved yet: %s", pending.user.call.item, pending.token, error)
            if not pending.user.is_over:
                pending.due = self._clock.now() + _AGAIN_S
                self._pending.setdefault(slot, pending)
                self._wake()

    # -- what is used up

    def note_usage(self, user: User) -> None:
        """Have noted, when it is time, what an attempt has used up; from any thread."""
        with suppress(CallCancelledError):  # it is over: its end tells all
            self._on_loop(partial(self._expect_usage, user), user)

    def _expect_usage(self, user: User) -> None:
        now = self._clock.now()
        self._spending.setdefault(_key(user.call), _Spending(user, now, now)).expect(now)
        self._wake()

    def _note_used(self, now: float) -> None:
        for key, spending in list(self._spending.items()):
            if spending.user.is_over:
                del self._spending[key]
            elif spending.due <= now:
                spending.noted_at, spending.due, spending.user.is_usage_due = now, math.inf, False
                self.on_used(key)

    # -- processes

    async def own_process(self, user: User, pid: int) -> None:
        """Note a process of a step, so that whoever takes the run over can end it first."""
        call = user.call
        self._admit(user)
        begun = started(pid)
        if not begun or not self._store.is_durable:
            return  # it has ended, or is not to be known; or nobody will take the run over
        process = ProcessRow(call.path, call.index, pid, begun, machine())
        try:
            await self._store.keep_process(self._claim, process)
        except StoreUnavailableError as error:
            raise _passing(call, f"process {pid} could not be noted", error) from error

    # -- signs of life

    def heartbeat(self, user: User) -> None:
        """An attempt says that it lives; from any thread."""
        key = _key(user.call)
        if key in self._lives and not user.is_over:
            self._lives[key] = self._clock.now()
            self._sample(user.call, key)
        else:
            self._on_loop(partial(self._watch_life, user), user)

    @property
    def heard_at(self) -> float:
        """When a step said last that it lives; from any thread."""
        return max(self._lives.copy().values(), default=-math.inf)

    def take_beats(self) -> list[BeatRow]:
        """What is to be kept for audit; from the heart's thread."""
        taken = self._audit[:]
        del self._audit[: len(taken)]
        return taken

    def _watch_life(self, user: User) -> None:
        self._admit(user)
        key = _key(user.call)
        is_new = key not in self._lives
        self._lives[key] = self._clock.now()
        self._sample(user.call, key)
        if is_new:
            self._wake()

    def _sample(self, call: Call, key: Key) -> None:
        now = self._lives.get(key, -math.inf)
        if self._store.is_durable and now - self._told.get(key, -math.inf) >= AUDIT_EVERY_S:
            self._told[key] = now
            self._audit.append(BeatRow(call.path, call.index, call.attempt, now))

    # -- threads and time

    def ask(self, user: User, work: Callable[[], Awaitable[None]]) -> None:
        """Have something done on the event loop and wait for it; from a thread of a ``def`` executor."""
        if threading.get_ident() == self._thread:
            raise RuntimeError("this would wait for itself: on the event loop, use a Context")
        answer: Future[None] = Future()
        self._on_loop(lambda: self._take(work, answer), user)
        answer.result()

    def _take(self, work: Callable[[], Awaitable[None]], answer: Future[None]) -> None:
        if self._group is None:
            answer.set_exception(CallCancelledError("The run has ended."))
            return
        self._asked.append((work, answer))
        self._wake()

    async def _serve(self, work: Callable[[], Awaitable[None]], answer: Future[None]) -> None:
        try:
            await work()
        except TreadleError as error:
            answer.set_exception(error)
        except BaseException:
            answer.set_exception(CallCancelledError("The run has ended."))
            raise
        else:
            answer.set_result(None)

    def _on_loop(self, function: Callable[[], object], user: User) -> None:
        """Call a function on the event loop: now, or soon when this is another thread."""
        if user.is_over:
            raise _over(user.call)
        if threading.get_ident() == self._thread:
            function()
            return
        assert self._post is not None, "it was entered"
        with suppress(RuntimeError):  # the event loop has just ended, and the run with it
            self._post(partial(_quietly, function))

    def _admit(self, user: User) -> None:
        """Take something of an attempt that is still wanted."""
        key = _key(user.call)
        if user.is_over or key in self._abandoned:
            user.is_over = True
            raise _over(user.call)
        if not user.is_kept:
            user.is_kept = True
            self._users[key] = user
        if key in self._lives:
            self._lives[key] = self._clock.now()

    def _wake(self) -> None:
        if self._nap is not None:
            self._nap.cancel()

    async def _watch(self, group: TaskGroup) -> None:
        """Do what threads ask for, write what is due, and end what has fallen silent."""
        while True:
            while self._asked:
                group.start_soon(self._serve, *self._asked.popleft())
            now = self._clock.now()
            for slot, pending in list(self._pending.items()):
                if pending.due <= now:
                    del self._pending[slot]
                    self._written[slot] = now
                    group.start_soon(self._write_pending, pending)
            for key, at in list(self._lives.items()):
                if at + self._stall_s <= now:
                    self._lives.pop(key, None)
                    self.on_stalled(key, StepStalledError(_item(key), self._stall_s))
            ends = [pending.due for pending in self._pending.values()] + [at + self._stall_s for at in self._lives.values()]
            if self._spending:
                self._note_used(now)
                ends += [spending.due for spending in self._spending.values() if spending.due < math.inf]
            with anyio.CancelScope() as self._nap:
                if ends:
                    await self._clock.sleep_until(min(ends))
                else:
                    await anyio.sleep_forever()
            self._nap = None


def _slot(call: Call) -> _Slot:
    return call.path, call.index, call.variant


def _key(call: Call) -> Key:
    return call.path, call.index, call.attempt, call.variant


def _item(key: Key) -> str:
    return key[0] if key[1] is None else f"{key[0]}[{key[1]}]"


def _over(call: Call) -> CallCancelledError:
    return CallCancelledError(f"Attempt {call.attempt} of step {call.item!r} is over; nothing more is kept of it.")


def _passing(call: Call, what: str, error: StoreUnavailableError) -> TransientError:
    return TransientError(f"Step {call.item!r}: {what}: {error.problem}", error.remedy)


def _quietly(function: Callable[[], object]) -> None:
    """What the thread asked for comes too late: nobody is there to be told."""
    with suppress(CallCancelledError):
        function()
