"""The heart of a stint: a thread that says to the store that this process lives, and hears what was asked of the run.

A thread, because a step that blocks the event loop for some seconds must not cost its run the lease. One that blocks it for
half of the lease does: nobody would ever take over from a process that hangs.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from treadle._loop import Post
from treadle._store_records import BEAT_S, BeatRow, CancelRequest, Claim, Signal
from treadle.errors import LeaseLostError, StoreGoneError, StoreUnavailableError, TreadleError
from treadle.ports import Store

_log = logging.getLogger("treadle.heart")

LISTEN_S = 0.5
"""How often it is looked whether somebody asked for a cancel or sent a signal, and whether the event loop goes on."""

SILENT_S = 600.0
"""How long nothing may happen while calls are performed before it is said."""

BLOCKED_S = 1.0
"""How long the event loop may be blocked before its stack is shown."""


class Heart:
    """Beats while the block is open; a context manager.

    Args:
        store: Where the claim holds.
        claim: What is kept alive.
        post: Calls functions on the run's event loop.
        ask_sign: The same for what is only to show that the loop lives; ``post`` when None.
        on_lost: Called there when the claim is lost, or could not be renewed for as long as it holds.
        on_cancel: Called there when somebody asks for the end of the run, again when it is asked for more forcefully.
        beat_s: Seconds between two beats.
        on_signal: Called there with each signal that was sent, in order; None: the run waits for none.
        after: The number of the last signal that was received.
        take_beats: What steps said of themselves since it was called last; goes with the next beat.
        silence: For how many seconds nothing has happened, and the calls that are being performed.
    """

    def __init__(
        self,
        store: Store,
        claim: Claim,
        *,
        post: Post,
        ask_sign: Post | None = None,
        on_lost: Callable[[TreadleError], None],
        on_cancel: Callable[[CancelRequest], None],
        beat_s: float = BEAT_S,
        on_signal: Callable[[Signal], None] | None = None,
        after: int = 0,
        take_beats: Callable[[], Sequence[BeatRow]] = tuple,
        silence: Callable[[], tuple[float, Sequence[str]]] = lambda: (0.0, ()),
    ) -> None:
        self._store, self._claim, self._post, self._ask_sign = store, claim, post, ask_sign or post
        self._on_lost, self._on_cancel, self._beat_s = on_lost, on_cancel, beat_s
        self._on_signal, self._after = on_signal, after
        self._take_beats, self._said = take_beats, list[BeatRow]()
        self._thread_of_loop = threading.get_ident()
        self._ticked_at = time.monotonic()
        self._is_blocked = False
        self._silence, self._told_at_s = silence, 0.0
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
            self._feel_the_loop()
            self._watch_for_silence()
            try:
                self._listen()
                if self._on_signal is not None:
                    self._listen_for_signals(self._on_signal)
                if time.monotonic() >= next_beat and self._is_loop_alive():
                    self._beat()
                    beaten_at = time.monotonic()
                    next_beat = beaten_at + self._beat_s
            except (LeaseLostError, StoreGoneError) as error:
                self._tell(lambda error=error: self._on_lost(error))  # type: ignore[misc]  # bound now, not when it is called
                return
            except TreadleError as error:
                if time.monotonic() - beaten_at > self._claim.lease_s:
                    _log.error("run %s: no beat for %.0f s: %s", self._claim.run_id, self._claim.lease_s, error)
                    lost = error if isinstance(error, StoreUnavailableError) else LeaseLostError(self._claim.run_id)
                    self._tell(partial(self._on_lost, lost))
                    return
                _log.warning("run %s: the store does not take the heartbeat: %s", self._claim.run_id, error)
                next_beat = time.monotonic() + min(1.0, self._beat_s)

    def _beat(self) -> None:
        self._said += self._take_beats()
        self._store.beat(self._claim, self._said)
        self._said = []

    def _feel_the_loop(self) -> None:
        """Ask the event loop for a sign, and show where it is stuck when it gives none."""
        self._tell(self._tick, self._ask_sign)
        silent_s = time.monotonic() - self._ticked_at
        if silent_s > BLOCKED_S and not self._is_blocked:
            self._is_blocked = True
            frame = sys._current_frames().get(self._thread_of_loop)
            stack = "".join(traceback.format_stack(frame, 12)) if frame is not None else ""
            _log.warning("run %s: the event loop is blocked for %.1f s\n%s", self._claim.run_id, silent_s, stack.rstrip())
        elif silent_s <= BLOCKED_S:
            self._is_blocked = False

    def _watch_for_silence(self) -> None:
        """Say which calls are out when nothing has happened for long, again after twice that time."""
        silent_s, calls = self._silence()
        if not calls or silent_s < SILENT_S:
            self._told_at_s = 0.0
        elif silent_s >= 2 * self._told_at_s:
            self._told_at_s = silent_s
            shown = ", ".join(calls[:5]) + (f" and {len(calls) - 5} more" if len(calls) > 5 else "")
            _log.warning("run %s: nothing has happened for %.0f s; at work: %s", self._claim.run_id, silent_s, shown)

    def _tick(self) -> None:
        self._ticked_at = time.monotonic()

    def _is_loop_alive(self) -> bool:
        """Whether the claim is deserved: a loop that is stuck does not drive the run, and would keep it for ever."""
        return time.monotonic() - self._ticked_at < self._claim.lease_s / 2

    def _listen(self) -> None:
        asked = self._store.cancel_request(self._claim.run_id)
        if asked is not None and asked != self._heard:
            self._heard = asked
            self._tell(lambda: self._on_cancel(asked))

    def _listen_for_signals(self, on_signal: Callable[[Signal], None]) -> None:
        for signal in self._store.signals(self._claim.run_id, self._after):
            self._after = signal.number
            self._tell(partial(on_signal, signal))

    def _tell(self, function: Callable[[], object], post: Post | None = None) -> None:
        with suppress(RuntimeError):  # the event loop has just ended, and the stint with it
            (post or self._post)(function)
