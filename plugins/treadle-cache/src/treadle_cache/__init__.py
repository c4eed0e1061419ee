"""The policy ``cache``: outputs of steps that say so are kept, and given again instead of calling."""

from __future__ import annotations

import hashlib
import json
import threading
from functools import partial
from pathlib import Path
from typing import ClassVar

import anyio.to_thread
import attrs
from treadle import hookimpl
from treadle.ports import Cached, Call, Context, Json, Outcome, RunSurroundings, Work

from treadle_cache._file import Kept, OutputFile, default_path
from treadle_cache._flight import Flight

__all__ = ["Cache", "key_of"]

_MEGABYTE = 1_000_000
_LARGEST_PART = 10
"""An output larger than this part of what may be kept is not kept: it would drive out the rest."""

_CallKey = tuple[str, str, int | None, str, int]


@attrs.define(eq=False)
class Cache:
    """The policy. Its attributes are the table ``[policies.cache]``; which outputs are kept is said by steps: ``cache``.

    Attributes:
        path: The file; in the user's cache directory when empty.
        max_mb: Megabytes of outputs in all; of more, the oldest are removed.
    """

    serves: ClassVar[tuple[str, ...]] = ("cache",)

    path: str = ""
    max_mb: int = attrs.field(default=256, validator=attrs.validators.ge(1))
    _file: OutputFile = attrs.field(init=False)
    _runs: dict[str, RunSurroundings] = attrs.field(init=False, factory=dict)
    _flights: dict[bytes, Flight] = attrs.field(init=False, factory=dict)
    _led: dict[_CallKey, tuple[bytes, Flight]] = attrs.field(init=False, factory=dict)
    _given: dict[_CallKey, bytes] = attrs.field(init=False, factory=dict)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        path = Path(self.path).expanduser().absolute() if self.path else default_path()
        self._file = OutputFile(path, self.max_mb * _MEGABYTE)

    @hookimpl
    def open_run(self, run: RunSurroundings) -> None:
        """Outputs grow old by the run's own time, and none is kept that holds one of its secrets."""
        self._runs[run.run_id] = run

    @hookimpl
    def close_run(self, run: RunSurroundings) -> None:
        """Nobody waits for it any more, and what it left is in the file."""
        self._runs.pop(run.run_id, None)
        for key in [key for key in self._led if key[0] == run.run_id]:
            self._end(key)
        for key in [key for key in self._given if key[0] == run.run_id]:
            del self._given[key]
        self._file.flush()

    @hookimpl(tryfirst=True)
    def wrap_work(self, call: Call, ctx: Context, work: Work) -> Work | None:
        """Look before the work is done: outermost, so that a kept output needs no other policy's leave."""
        return None if call.cache is None else partial(self._answer, call, work)

    @hookimpl
    def end_attempt(self, call: Call, outcome: Outcome) -> None:
        """Keep the output of a call that was made, once it was found to be valid."""
        if call.cache is None:
            return
        name = _name(call)
        given = self._given.pop(name, None)
        if given is not None and outcome.status != "completed":
            self._file.put(given, None)  # it no longer satisfies the contract
        led = self._led.get(name)
        if led is not None:
            kept = self._kept(call, outcome)
            if kept is not None:
                self._file.put(led[0], kept)
            self._end(name, outcome.output, at=kept.at if kept is not None else None)

    async def _answer(self, call: Call, work: Work) -> object:
        key, name = key_of(call), _name(call)
        with self._lock:
            flight = self._flights.get(key)
            is_leader = flight is None
            if flight is None:
                flight = self._flights[key] = Flight()
        if is_leader:
            self._led[name] = (key, flight)
        else:
            await flight.landed()
            if flight.has_output and self._is_fresh(call, flight.at):
                return Cached(flight.output)
            self._led[name] = (key, Flight())  # each for itself: what that call met, the others shall not meet in turn
        try:
            kept = await self._find(call, key) if is_leader or flight.has_output else None
            if kept is None:
                return await work()
        except BaseException:
            self._end(name)
            raise
        output: Json = json.loads(kept.output)
        self._given[name] = key
        self._end(name, output, at=kept.at)
        return Cached(output)

    async def _find(self, call: Call, key: bytes) -> Kept | None:
        with self._runs[call.run_id].clock.hold():
            kept = await anyio.to_thread.run_sync(self._file.get, key)
        return kept if kept is not None and self._is_fresh(call, kept.at) else None

    def _is_fresh(self, call: Call, at: float) -> bool:
        ttl_s = call.cache.ttl_s if call.cache is not None else None
        return ttl_s is None or self._runs[call.run_id].clock.now() - at < ttl_s

    def _kept(self, call: Call, outcome: Outcome) -> Kept | None:
        run = self._runs.get(call.run_id)
        if outcome.status != "completed" or run is None or run.holds_secret(outcome.output):
            return None
        output = json.dumps(outcome.output, separators=(",", ":")).encode()
        is_small = len(output) <= self.max_mb * _MEGABYTE // _LARGEST_PART
        return Kept(outcome.ended_at, output) if is_small else None

    def _end(self, name: _CallKey, output: Json = None, *, at: float | None = None) -> None:
        """A call that others may wait for is over."""
        key, flight = self._led.pop(name, (b"", None))
        if flight is None:
            return
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.land(output, at=at)


def key_of(call: Call) -> bytes:
    """What an output is kept under: executor, version of its code, and the step's key, else inputs and clients."""
    said = call.cache
    assert said is not None, "only steps with a cache are looked up"
    what = {"inputs": call.inputs, "clients": dict(call.clients)} if said.key is None else {"key": said.key}
    text = json.dumps([call.executor, said.version, what], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def _name(call: Call) -> _CallKey:
    return call.run_id, call.path, call.index, call.variant, call.attempt
