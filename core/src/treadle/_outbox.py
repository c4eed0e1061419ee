"""The road of treadle's own spans when a durable store keeps the runs: out of their logs, past a cursor, at least once.

Nothing is written while a run goes on. A thread reads the log that the run has in memory, makes the spans of what is new, sends
them in batches, and notes in the store how far it got. What this process could not send, a later one reads from the store.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import anyio
import attrs

from treadle import _telemetry as names
from treadle._durations import format_duration
from treadle._models import Entry, RunCreated, RunEnded, SpanRecord
from treadle._owner import is_gone, this_owner
from treadle._span_projection import SpanProjection
from treadle._store_records import SPAN_PATIENCE_S, SpanExport, SpanLetter
from treadle._version import __version__
from treadle.errors import StoreUnavailableError
from treadle.ports import Delivery, SpanBatch, SpanSender, Store

__all__ = ["Outbox", "SpanReport", "spans_waiting"]

T = TypeVar("T")

_log = logging.getLogger("treadle.spans")

BATCH = 512
"""Most spans of a request."""

DELAY_S = 1.0
"""How often the logs of runs that go on are looked at."""

NOTE_S = 5.0
"""How often it is noted how far the export of a run that goes on has come."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
SEND_S = 10.0
"""How long a request may take."""

LOOK_S = 60.0
"""How often a process looks for what others left behind."""

MOST_RUNS = 1000
"""How many runs it looks at in one go."""

LEAD, LEAD_S = "spans", 30.0
"""Of the processes that share a store, one sends what others left behind."""

_NEAR = 1_000
"""How far apart entries may be whose spans were refused for the same reason, and are told together."""

MOST_HELD = 32
"""Most logs of runs that have ended which are held in memory; of the others the store knows what was not sent."""

_COUNT_S = 6e-6
"""How long an entry takes when spans are counted."""

MOST_PARTS = 24
"""Most requests in which a batch is sent whose spans are not taken, to find the one that is to blame."""

FIRST_HOLD_S, LONGEST_HOLD_S = 1.0, 60.0
"""How long a run waits whose next span is to blame, while the others go on."""


class _Nobody:
    """Sends nothing."""

    endpoint = ""

    def send(self, batch: SpanBatch, timeout_s: float) -> Delivery:
        """Nobody is there."""
        return Delivery("denied", "no backend is named")


class _Item(NamedTuple):
    """A span that is to be sent.

    Attributes:
        source: Of the run.
        seq: The entry that finished it.
        is_last: Whether that entry finished no other after it.
        span: The span.
    """

    source: _Source
    seq: int
    is_last: bool
    span: SpanRecord


class _Source:
    """The spans of one run, in order.

    Args:
        export: How far they were exported.
        entries: The log, which may grow.
    """

    def __init__(self, export: SpanExport, entries: Sequence[Entry]) -> None:
        self.export, self.entries = export, entries
        self.is_noted = True
        self._projection = SpanProjection()
        self._read = 0
        self._waiting: deque[tuple[int, bool, SpanRecord]] = deque()
        self._settled = export.seq
        self._sent, self._letters = export.sent, [letter for letter in export.letters if letter.is_final]
        self._failing = {letter.first: letter for letter in export.letters if not letter.is_final}
        self.is_held, self.held_until, self._hold_s = bool(self._failing), 0.0, FIRST_HOLD_S

    def take(self, most: int) -> list[_Item]:
        """The next spans, at most so many."""
        entries = self.entries
        while len(self._waiting) < most and self._read < len(entries):
            entry = entries[self._read]
            self._read += 1
            spans = self._projection.apply(entry)
            if self._read > self.export.seq:
                self._waiting.extend((self._read, span is spans[-1], span) for span in spans)
        return [_Item(self, *self._waiting.popleft()) for _ in range(min(most, len(self._waiting)))]

    def put_back(self, item: _Item) -> None:
        """The next spans begin with this one after all."""
        self._waiting.appendleft((item.seq, item.is_last, item.span))

    def settle(self, item: _Item, reason: str = "") -> None:
        """A span was delivered, or refused for a reason."""
        self._settled = item.seq if item.is_last else item.seq - 1
        self.is_noted = self.is_held = False
        self._hold_s = FIRST_HOLD_S
        if self._failing and item.is_last:
            self._failing.pop(item.seq, None)
        if not reason:
            self._sent += 1
        else:
            self.refuse(item.seq, item.seq, 1, reason)

    def refuse(self, first: int, last: int, spans: int, reason: str) -> None:
        """The backend did not take spans that these entries finished."""
        before = self._letters[-1] if self._letters else None
        if before is not None and before.reason == reason and first <= before.last + _NEAR:
            self._letters[-1] = attrs.evolve(before, last=last, spans=before.spans + spans)
        else:
            self._letters.append(SpanLetter(first, last, spans, reason, time.time()))

    def hold(self, seq: int, reason: str, asked_s: float | None) -> bool:
        """Wait with all spans from this one on, for a while; True when it is the first time for this one."""
        is_new = seq not in self._failing
        if is_new:
            self._failing[seq] = SpanLetter(seq, seq, 1, reason, time.time(), is_final=False)
        self.is_held, self.is_noted = True, False
        self.held_until = time.monotonic() + max(self._hold_s, asked_s or 0.0)
        self._hold_s = min(self._hold_s * 2, LONGEST_HOLD_S)
        return is_new

    def failing_s(self, seq: int) -> float:
        """How long it is known that the backend does not take this span, while it takes others."""
        letter = self._failing.get(seq)
        return -1.0 if letter is None else time.time() - letter.at

    @property
    def hold_reason(self) -> str:
        """Why it is held; empty when it is not."""
        return next((letter.reason for letter in self._failing.values()), "") if self.is_held else ""

    @property
    def is_done(self) -> bool:
        """Whether everything that the log holds so far is settled."""
        return not self._waiting and self._read == len(self.entries)

    @property
    def has_ended(self) -> bool:
        """Whether nothing can follow."""
        return bool(self.entries) and isinstance(self.entries[-1], RunEnded)

    def count_left(self) -> int:
        """Spans that are not settled; any thread may ask."""
        # Those of a request that was not answered are neither waiting nor settled.
        return 0 if self._settled >= len(self.entries) else spans_waiting(self._settled, self.entries)

    def note(self, reason: str) -> SpanExport:
        """How far it is, for the store."""
        self.is_noted = True
        # Entries that finish no span need nothing sent.
        seq = self._read if self.is_done else self._settled
        return SpanExport(
            self.export.run_id,
            max(self.export.seq, seq),
            not (self.is_done and self.has_ended),
            self._sent,
            (*self._letters, *self._failing.values()),
            self.hold_reason or reason,
            time.time(),
        )


@attrs.frozen
class SpanReport:
    """What became of the spans that an outbox had to send.

    Attributes:
        sent: Spans that were delivered.
        refused: Spans that were refused for good; they are kept.
        left: Spans that were not delivered yet; they are kept.
        runs_left: Runs with such spans that were not looked at.
        reason: Why they were not.
        refusal: Why the others were refused.
    """

    sent: int = 0
    refused: int = 0
    left: int = 0
    runs_left: int = 0
    reason: str = ""
    refusal: str = ""

    @property
    def is_done(self) -> bool:
        """Whether everything was delivered."""
        return not (self.refused or self.left or self.runs_left)


class Outbox:
    """A sink that sends the spans of runs that a durable store keeps, from a thread of its own; one for each such store.

    Pass it as one of the ``sinks`` of every run and resume in this store, and close it at the end. treadle's own spans then
    take this road alone. The ``treadle`` command does so by itself.

    Args:
        store: Where the runs are; the one that is given to ``run``.
        sender: Takes the spans: the ``sender`` of what ``treadle_otlp.setup()`` answers. With None nothing is sent from here,
            and spans go to the process's provider, if there is one.
        patience_s: How long a span is sent again that the backend answers with "later" while it takes others; then it is set
            aside as refused. A backend that takes none is waited for, however long.
    """

    def __init__(self, store: Store, sender: SpanSender | None, *, patience_s: float = SPAN_PATIENCE_S) -> None:
        self.is_road = sender is not None and store.is_durable
        self._store, self._sender, self._patience_s = store, sender or _Nobody(), patience_s
        self._owner = this_owner()
        self._changed = threading.Condition()
        self._live: dict[str, _Source] = {}
        self._backlog: deque[SpanExport] = deque()
        self._drained: list[_Source] = []
        self._let_go: set[str] = set()
        self._only = ""
        self._is_patient = False
        self._thread: threading.Thread | None = None
        self._closing_at: float | None = None
        self._is_sending = False
        self._is_over = self._has_delivered = self._is_leading = self._is_denied = self._is_store_away = False
        self._is_wary = False  # the last request was put off: by the backend, or because of what was in it?
        self._witness: SpanRecord | None = None  # one that the backend has taken
        self._led_at = self._noted_at = 0.0
        self._looked_at = -LOOK_S
        self._not_before, self._is_asked_to_wait = 0.0, False
        self._wait_s = FIRST_WAIT_S
        self._sent = self._refused = self._elsewhere = 0
        self._reason = self._refusal = ""

    # -- for the process

    async def follow(self, run_id: str, entries: Sequence[Entry]) -> None:
        """Send the spans of a run that this process drives.

        Args:
            run_id: The run.
            entries: Its log; what is appended to it is followed.
        """
        created = entries[0]
        if not (isinstance(created, RunCreated) and created.trace_flags & 1):
            return
        export = await self._store.open_spans(run_id)
        with self._changed:
            self._live[run_id] = _Source(export, entries)
        self.start()

    def start(self) -> None:
        """Begin with what earlier runs left behind; ``follow`` does so as well."""
        with self._changed:
            if self._thread is None and not self._is_over:
                self._thread = threading.Thread(target=self._work, name="treadle-spans", daemon=True)
                self._thread.start()

    def leave(self, run_id: str) -> None:
        """This process does not drive the run any more; what its log holds is still sent."""
        with self._changed:
            source = self._live.pop(run_id, None)
            if source is not None:
                self._drained.append(source)

    def close(self, timeout_s: float) -> SpanReport:
        """Send what is left within ``timeout_s``, and say what became of it all. A backend that is away is left alone."""
        with self._changed:
            # What is left over of a long run takes a moment to count.
            entries = sum(len(source.entries) for source in [*self._live.values(), *self._drained])
            deadline = time.monotonic() + max(timeout_s / 2, timeout_s - entries * _COUNT_S)
            self._closing_at = deadline
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(max(0.0, deadline - time.monotonic()))
        return self._report()

    def drain(self, timeout_s: float, *, only: str = "") -> SpanReport:
        """Send what runs left behind, in this thread, and say what became of it.

        Args:
            timeout_s: How long to try; a backend that asks to wait is waited for.
            only: That of this run alone.
        """
        self._closing_at, self._is_patient, self._only = time.monotonic() + timeout_s, True, only
        self._work()
        return self._report()

    def _report(self) -> SpanReport:
        with self._changed:
            self._is_over = True
            sources = [*self._live.values(), *self._drained]
            left = sum(source.count_left() for source in sources)
            held = next((source.hold_reason for source in sources if source.is_held), "")
            # That another process sends what others left behind is only news to who asked for it.
            elsewhere = self._elsewhere if self._is_patient else 0
            runs_left = len(self._backlog) + len(self._let_go) + elsewhere
            short = "no answer in time" if self._is_sending else "the time was too short"
            reason = "another process sends them" if elsewhere else self._reason or held or short
            reason = reason if left or runs_left else ""
            return SpanReport(self._sent, self._refused, left, runs_left, reason, self._refusal)

    # -- the thread

    def _work(self) -> None:
        try:
            while not self._is_over:
                batch = self._gather()
                if batch:
                    self._deliver(batch)
                self._ask_again()
                self._note()
                if not self._may_go_on(is_idle=len(batch) < BATCH):
                    break
            self._note(is_last=True)
            if self._is_leading:
                with self._patience_with_the_store():
                    self._ask(lambda: self._store.lead(LEAD, self._owner, 0.0, is_gone))
        except Exception as error:  # what is not noted is sent again by a later process: the run goes on
            self._reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            if not self._is_over:  # the store may be closed before a request has ended
                _log.warning("Spans are not exported any more: %s. The store keeps them.", self._reason)

    def _may_go_on(self, *, is_idle: bool) -> bool:
        """Wait until there may be something to do; False when it is time to end."""
        now = time.monotonic()
        with self._changed:
            wait_s = self._not_before - now
            if self._closing_at is not None and wait_s <= 0:
                wait_s = self._held_until() - now
            if self._closing_at is not None:
                if self._is_denied or self._is_store_away or now > self._closing_at or self._is_empty():
                    return False
                if wait_s > 0 and (not self._is_patient or now + wait_s > self._closing_at):
                    return False
            elif wait_s <= 0 and is_idle:
                wait_s = DELAY_S
            if wait_s > 0:
                self._changed.wait_for(lambda: self._closing_at is not None and not self._is_patient, wait_s)
                if self._closing_at is not None and not self._is_asked_to_wait:
                    self._not_before = 0.0  # one last try
            return True

    def _is_empty(self) -> bool:
        return not self._backlog and all(source.is_done for source in [*self._live.values(), *self._drained])

    def _held_until(self) -> float:
        """When the first run is asked about again whose next span is not taken; 0 while there is anything else to send."""
        waiting = [source for source in [*self._live.values(), *self._drained] if not source.is_done]
        if self._backlog or not waiting or not all(source.is_held for source in waiting):
            return 0.0
        return min(source.held_until for source in waiting)

    def _gather(self) -> list[_Item]:
        """The next batch: of runs that go on, then of those that were left behind."""
        if self._is_denied or self._not_before > time.monotonic():
            return []
        batch: list[_Item] = []
        for source in [*self._live.values(), *self._drained]:
            if not source.is_held:
                batch += source.take(BATCH - len(batch))
        with self._patience_with_the_store():
            while len(batch) < BATCH and (behind := self._next_behind()) is not None:
                if not behind.is_held:
                    batch += behind.take(BATCH - len(batch))
        return batch

    @contextmanager
    def _patience_with_the_store(self) -> Iterator[None]:
        """What it cannot do now is done another time: spans that were sent and not noted are sent again."""
        try:
            yield
            self._is_store_away = False
        except StoreUnavailableError as error:
            self._is_store_away = True
            _log.debug("The export of spans goes on without the store for now: %s", error.problem)

    def _look_back(self) -> None:
        """Look, from time to time, for what others left behind; one of all processes sends it."""
        now = time.monotonic()
        if self._is_leading and self._backlog and now - self._led_at > LEAD_S / 3:
            self._take_the_lead()
        if self._backlog or now - self._looked_at < LOOK_S:
            return
        exports = self._ask(partial(self._store.span_exports, run_id=self._only, limit=MOST_RUNS))
        self._looked_at = now if len(exports) < MOST_RUNS else -LOOK_S
        with self._changed:
            known = {*self._live, *(source.export.run_id for source in self._drained)}
            behind = [export for export in exports if export.run_id not in known and _is_left_behind(export)]
        if behind:
            self._take_the_lead()
            if self._is_leading:
                self._backlog.extend(behind)
                self._let_go.difference_update(export.run_id for export in behind)
            self._elsewhere = 0 if self._is_leading else len(behind)

    def _take_the_lead(self) -> None:
        self._led_at = time.monotonic()
        self._is_leading = self._ask(lambda: self._store.lead(LEAD, self._owner, LEAD_S, is_gone))
        if not self._is_leading:
            self._backlog.clear()

    def _next_behind(self) -> _Source | None:
        """The next run that was left behind, read from the store."""
        self._look_back()
        if not self._backlog:
            return None
        export = self._backlog[0]
        records = self._ask(partial(self._store.read, export.run_id))
        source = _Source(export, [record.entry for record in records])
        with self._changed:
            self._backlog.popleft()
            self._drained.append(source)
        return source

    # -- sending

    def _deliver(self, batch: Sequence[_Item]) -> None:
        """Send a batch, in parts if need be, and settle in order what became of it.

        Once a request was put off, the next one begins with a single span of the batch. A backend that does not take that is
        away, and waited for. One that does is asked for the rest in parts, until it is known which spans it puts off alone:
        their runs are held, and the others go on.
        """
        fates: dict[int, Delivery] = {}
        held: set[_Source] = set()
        parts, budget, is_searching = deque([list(range(len(batch)))]), MOST_PARTS, False
        if self._is_wary and len(batch) > 1:
            parts.appendleft([parts[0].pop(random.randrange(len(batch)))])
        stopped: Delivery | None = None
        while parts and stopped is None:
            part = [n for n in parts.popleft() if batch[n].source not in held]
            if not part:
                continue
            delivery = self._send([batch[n].span for n in part])
            is_later = delivery.outcome == "later"
            if delivery.outcome == "delivered":
                self._accept([batch[n] for n in part], delivery)
                is_searching = is_searching or self._is_wary
                fates.update(dict.fromkeys(part, delivery))
            elif delivery.outcome == "denied" or (is_later and not (is_searching and budget > 0 and self._has_time())):
                stopped = delivery
            elif len(part) > 1 and (delivery.outcome == "too_large" or (self._has_delivered and budget > 0)):
                budget -= delivery.outcome != "too_large"
                middle = len(part) // 2
                parts.extendleft((part[middle:], part[:middle]))
            elif is_later:
                budget -= 1
                held.add(batch[part[0]].source)
                fates[part[0]] = delivery
            else:
                fates.update(dict.fromkeys(part, delivery))
        self._settle(batch, fates)
        if stopped is not None:
            self._put_off(stopped)
        else:
            self._is_wary = False

    def _settle(self, batch: Sequence[_Item], fates: Mapping[int, Delivery]) -> None:
        """Note what became of the spans of a batch, in order: what follows one that is undecided is sent another time."""
        undecided: set[_Source] = set()
        again: list[_Item] = []
        for n, item in enumerate(batch):
            fate, source = fates.get(n), item.source
            if source in undecided or fate is None or fate.outcome == "later":
                if fate is not None and fate.outcome == "later" and source not in undecided:
                    self._hold(item, fate)
                undecided.add(source)
                again.append(item)
            elif fate.outcome == "delivered":
                source.settle(item)
            else:
                self._refuse([item], fate)
        for item in reversed(again):
            item.source.put_back(item)
            item.source.is_noted = False

    # -- a span that the backend puts off while it takes others

    def _hold(self, item: _Item, delivery: Delivery) -> None:
        if item.source.hold(item.seq, delivery.reason, delivery.retry_after_s) and self._closing_at is None:
            _log.warning(
                "A span of run %s is not taken by %s, which takes others: %s. It is tried again for %s, then set aside.",
                item.source.export.run_id,
                self._sender.endpoint,
                delivery.reason,
                format_duration(self._patience_s),
            )

    def _ask_again(self) -> None:
        """Send, alone, the span that holds up its run, of each run whose time has come."""
        now = time.monotonic()
        if self._is_denied or self._not_before > now:
            return
        with self._changed:
            due = [s for s in [*self._live.values(), *self._drained] if s.is_held and s.held_until <= now]
        for source in due:
            items = source.take(2)
            for item in items[:0:-1]:
                source.put_back(item)
            if items and self._has_time():
                self._ask_again_for(items[0], items[1:])
            elif items:
                source.put_back(items[0])

    def _ask_again_for(self, item: _Item, following: Sequence[_Item]) -> None:
        source, delivery = item.source, self._send([item.span])
        if delivery.outcome == "later":
            others = [self._witness] if self._witness is not None else [each.span for each in following]
            is_patient = source.failing_s(item.seq) < self._patience_s or not self._has_time()
            if is_patient or not others or self._send(others).outcome != "delivered":
                source.put_back(item)
                self._hold(item, delivery)
                return
            told = f"{delivery.reason}, for {format_duration(round(source.failing_s(item.seq)))}, while others were taken"
            delivery = attrs.evolve(delivery, reason=told)
        if delivery.outcome == "delivered":
            self._accept([item], delivery)
            source.settle(item)
        elif delivery.outcome == "denied":
            source.put_back(item)
            self._put_off(delivery)
        else:
            self._refuse([item], delivery)

    def _has_time(self) -> bool:
        return self._closing_at is None or time.monotonic() < self._closing_at

    def _send(self, spans: Sequence[SpanRecord]) -> Delivery:
        timeout_s = SEND_S
        if self._closing_at is not None:
            timeout_s = min(timeout_s, self._closing_at - time.monotonic())
        if timeout_s <= 0:
            return Delivery("later", self._reason or "no answer in time")
        batch = SpanBatch(spans, names.SCOPE, __version__, names.SCHEMA_URL)
        self._is_sending = True
        delivery = self._sender.send(batch, timeout_s)
        self._is_sending = False
        return delivery

    def _accept(self, items: Sequence[_Item], delivery: Delivery) -> None:
        if delivery.rejected:
            self._reject(items, delivery)
        self._sent += len(items) - delivery.rejected
        self._reason, self._wait_s, self._has_delivered, self._witness = "", FIRST_WAIT_S, True, items[-1].span

    def _reject(self, items: Sequence[_Item], delivery: Delivery) -> None:
        """A batch was taken in part; the backend does not say which, so that each run of it may be concerned."""
        seqs: dict[_Source, list[int]] = {}
        for item in items:
            seqs.setdefault(item.source, []).append(item.seq)
        for source, of_run in seqs.items():
            source.refuse(of_run[0], of_run[-1], min(delivery.rejected, len(of_run)), delivery.reason)
        self._complain(delivery.rejected, delivery.reason)

    def _put_off(self, delivery: Delivery) -> None:
        self._reason, self._is_denied = delivery.reason, delivery.outcome == "denied"
        self._is_wary = not self._is_denied
        asked_s = delivery.retry_after_s
        self._is_asked_to_wait = asked_s is not None
        self._not_before = time.monotonic() + (self._wait_s * random.uniform(0.8, 1.2) if asked_s is None else asked_s)
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
        if self._is_denied:
            self._warn("not taken", delivery.reason)

    def _refuse(self, items: Sequence[_Item], delivery: Delivery) -> None:
        for item in items:
            item.source.settle(item, delivery.reason)
        self._complain(len(items), delivery.reason)

    def _complain(self, count: int, reason: str) -> None:
        if not self._refused:
            self._warn("refused", reason)
        self._refused += count
        self._refusal = reason

    def _warn(self, what: str, reason: str) -> None:
        """Say it while the process goes on; at its end there is the report."""
        if self._closing_at is None:
            _log.warning("Spans were %s by %s: %s. The store keeps them.", what, self._sender.endpoint, reason)

    # -- what is kept of it

    def _note(self, *, is_last: bool = False) -> None:
        """Tell the store how far it is: at once of runs that are through, of the others from time to time."""
        now = time.monotonic()
        is_time = is_last or now - self._noted_at >= NOTE_S
        with self._changed:
            through = [source for source in self._drained if source.is_done]
            waiting = [source for source in self._drained if source not in through]
            self._drained, surplus = waiting[:MOST_HELD], waiting[MOST_HELD:]
            self._let_go.update(source.export.run_id for source in surplus)
            others = [*self._live.values(), *self._drained] if is_time else []
        at_once = [*through, *surplus]
        notes = [source.note(self._reason) for source in (*at_once, *others) if source in at_once or not source.is_noted]
        if notes:
            with self._patience_with_the_store():
                self._ask(partial(self._store.put_spans, notes))
        if is_time:
            self._noted_at = now

    def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """What the store answers."""
        return anyio.run(question)


def _is_left_behind(export: SpanExport) -> bool:
    """Whether there is more to send, and nobody alive drives the run, which would send it."""
    return export.seq < export.count and not (export.owner and not is_gone(export.owner))


def spans_waiting(after: int, entries: Sequence[Entry]) -> int:
    """How many spans the entries of a log finish that come after the given one."""
    projection = SpanProjection()
    finished = [len(projection.apply(entry)) for entry in entries]
    return sum(finished[after:])
