"""The heart of a stint: a thread that says to the store that this process lives, and hears what was asked of the run.

A thread, because a step that blocks the event loop for a minute must not cost its run the lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from treadle._loop import Post
from treadle._store_records import BEAT_S, CancelRequest, Claim, Signal
from treadle.errors import LeaseLostError, TreadleError
from treadle.ports import Store

_log = logging.getLogger("treadle.heart")

LISTEN_S = 0.5
"""How often it is looked whether somebody asked for a cancel, or sent a signal."""


class Heart:
    """Beats while the block is open; a context manager.

    Args:
        store: Where the claim holds.
        claim: What is kept alive.
        post: Calls functions on the run's event loop.
        on_lost: Called there when the claim is lost, or could not be renewed for as long as it holds.
        on_cancel: Called there when somebody asks for the end of the run, again when it is asked for more forcefully.
        beat_s: Seconds between two beats.
        on_signal: Called there with each signal that was sent, in order; None: the run waits for none.
        after: The number of the last signal that was received.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        *,
        post: Post,
        on_lost: Callable[[TreadleError], None],
        on_cancel: Callable[[CancelRequest], None],
        beat_s: float = BEAT_S,
        on_signal: Callable[[Signal], None] | None = None,
        after: int = 0,
    ) -> None:
        self._store, self._claim, self._post = store, claim, post
        self._on_lost, self._on_cancel, self._beat_s = on_lost, on_cancel, beat_s
        self._on_signal, self._after = on_signal, after
        self._heard: CancelRequest | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"treadle-heart {claim.run_id}", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join(1.0)

    def _live(self) -> None:
        beaten_at = time.monotonic()
        next_beat = beaten_at + self._beat_s
        while not self._end.wait(min(LISTEN_S, self._beat_s)):
            try:
                self._listen()
                if self._on_signal is not None:
                    self._listen_for_signals(self._on_signal)
                if time.monotonic() >= next_beat:
                    self._store.beat(self._claim)
                    beaten_at = time.monotonic()
                    next_beat = beaten_at + self._beat_s
            except LeaseLostError as error:
                self._tell(lambda error=error: self._on_lost(error))  # type: ignore[misc]  # bound now, not when it is called
                return
            except TreadleError as error:
                if time.monotonic() - beaten_at > self._claim.lease_s:
                    _log.error("run %s: no beat for %.0f s: %s", self._claim.run_id, self._claim.lease_s, error)
                    self._tell(lambda: self._on_lost(LeaseLostError(self._claim.run_id)))
                    return
                _log.warning("run %s: the store does not take the heartbeat: %s", self._claim.run_id, error)
                next_beat = time.monotonic() + min(1.0, self._beat_s)

    def _listen(self) -> None:
        asked = self._store.cancel_request(self._claim.run_id)
        if asked is not None and asked != self._heard:
            self._heard = asked
            self._tell(lambda: self._on_cancel(asked))

    def _listen_for_signals(self, on_signal: Callable[[Signal], None]) -> None:
        for signal in self._store.signals(self._claim.run_id, self._after):
            self._after = signal.number
            self._tell(partial(on_signal, signal))

    def _tell(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the event loop has just ended, and the stint with it
            self._post(function)
