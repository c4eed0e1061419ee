"""The outbox: spans leave from the log of a run, at least once, whatever the backend does and whenever the process ends."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from treadle import Registry, RunResult, TransientError, Workflow, _outbox, _tracing, executor, run
from treadle._memory import MemoryStore
from treadle._models import Entry
from treadle._outbox import BATCH, MOST_HELD, Outbox, SpanReport, spans_waiting
from treadle._owner import this_owner
from treadle._span_projection import SpanProjection
from treadle.errors import StoreUnavailableError
from treadle.ports import Context, Delivery, SpanBatch, SpanExport, SpanRecord

failed_once: set[str] = set()


@executor("demo.look")
async def look(ctx: Context, /, n: int) -> int:
    """Fails the first time, and calls a service."""
    with ctx.span("GET", attributes={"n": n}):
        if n == 1 and ctx.attempt == 1:
            raise TransientError("not yet")
    return n


REGISTRY = Registry.of(look)
DELIVERED = Delivery("delivered")


class Kept(MemoryStore):
    """A store that is as durable as the test."""

    is_durable = True


class Backend:
    """Takes spans, or answers what it is told to.

    Args:
        answer: Asked with each batch.
    """

    endpoint = "http://backend"

    def __init__(self, answer: Callable[[Sequence[SpanRecord]], Delivery] = lambda spans: DELIVERED) -> None:
        self.answer = answer
        self.batches: list[Sequence[SpanRecord]] = []
        self.spans: list[SpanRecord] = []

    def send(self, batch: SpanBatch, timeout_s: float) -> Delivery:
        """Take a batch."""
        assert batch.scope == "treadle"
        assert 0 < len(batch.spans) <= BATCH
        self.batches.append(batch.spans)
        delivery = self.answer(batch.spans)
        if delivery.outcome == "delivered":
            self.spans += batch.spans
        return delivery


def away(spans: Sequence[SpanRecord]) -> Delivery:
    return Delivery("later", "connection refused")


def flow(steps: int = 3) -> Workflow:
    workflow = Workflow("flow")
    for n in range(steps):
        workflow.step(f"s{n}", "demo.look", n=n, needs=[f"s{n - 1}"] if n else [], retry={"base": "1ms"})
    return workflow


def perform(store: Kept, outbox: Outbox | None, steps: int = 3) -> RunResult:
    return run(flow(steps), registry=REGISTRY, store=store, sinks=[outbox] if outbox is not None else []).check()


def projected(entries: Sequence[Entry]) -> list[SpanRecord]:
    projection = SpanProjection()
    return [span for entry in entries for span in projection.apply(entry)]


def ids(spans: Sequence[SpanRecord]) -> list[str]:
    return [span.span_id for span in spans]


def test_every_span_of_a_run_leaves_once() -> None:
    """Run, steps, attempts and the calls that they make: what the log says, in its order, in one trace (S0-51)."""
    store, backend = Kept(), Backend()
    outbox = Outbox(store, backend)

    result = perform(store, outbox)
    report = outbox.close(60)

    assert report == SpanReport(sent=len(backend.spans))
    assert backend.spans == projected(store.entries(result.run_id))
    assert {span.trace_id for span in backend.spans} == {result.trace_id}
    assert sorted(span.name for span in backend.spans) == sorted(
        ["RUN flow", *["GET"] * 4, *(f"s{n}" for n in range(3)), "attempt s0", *["attempt s1"] * 2, "attempt s2"]
    )
    (export,) = anyio.run(lambda: store.span_exports(run_id=result.run_id))
    assert (export.is_open, export.seq, export.sent) == (False, export.count, len(backend.spans))


def test_what_an_executor_tells_opentelemetry_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a provider in the process, attributes of the current span leave with the attempt, without the call's secrets."""
    monkeypatch.setenv("KEY", "hunter2")
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(_tracing, "_process_provider", lambda: provider)

    @executor("demo.tell")
    async def tell(key: str) -> None:
        """Says more than it should."""
        trace.get_current_span().set_attributes({"order.id": 7, "url": f"https://x?key={key}"})
        trace.get_current_span().add_event(f"with {key}", {"keys": (key,)})

    store, backend = Kept(), Backend()
    outbox, workflow = Outbox(store, backend), Workflow("flow", secrets=["KEY"])
    workflow.step("tell", "demo.tell", key="${{ secrets.KEY }}")
    run(workflow, registry=Registry.of(tell), store=store, sinks=[outbox]).check()
    assert outbox.close(60).is_done

    (attempt,) = [span for span in backend.spans if span.name == "attempt tell"]
    assert (attempt.attributes["order.id"], attempt.attributes["url"]) == (7, "https://x?key=***")
    ((name, _, attributes),) = attempt.events
    assert (name, attributes) == ("with ***", {"keys": ("***",)})


def test_a_store_that_forgets_has_no_outbox() -> None:
    """Runs in memory go by the provider: their spans are nowhere else once the process has ended."""
    store, backend = MemoryStore(), Backend()
    outbox = Outbox(store, backend)

    run(flow(), registry=REGISTRY, store=store, sinks=[outbox]).check()

    assert outbox.close(1) == SpanReport()
    assert backend.batches == []


def test_without_a_backend_there_is_nothing_to_do() -> None:
    """A program may pass what ``setup()`` answered, also when no backend was named."""
    store = Kept()
    outbox = Outbox(store, None)
    result = perform(store, outbox)

    assert outbox.close(1) == SpanReport()
    assert anyio.run(lambda: store.span_exports(run_id=result.run_id)) == []


def test_what_was_not_delivered_is_sent_by_the_next_process() -> None:
    """With the backend away a run is the same, and its end is not held up; afterwards everything arrives."""
    store, down = Kept(), Backend(away)
    first = Outbox(store, down)
    runs = [perform(store, first), perform(store, first)]
    began = time.monotonic()
    report = first.close(120)
    promised = [span for result in runs for span in projected(store.entries(result.run_id))]
    assert time.monotonic() - began < 60, "it does not wait for a backend that is away"
    assert (report.sent, report.left, report.reason) == (0, len(promised), "connection refused")

    up = Backend()
    second = Outbox(store, up)
    third = perform(store, second)
    assert second.close(60).is_done

    promised += projected(store.entries(third.run_id))
    assert sorted(ids(up.spans)) == sorted(ids(promised))
    assert list(anyio.run(store.span_exports)) == []


def test_a_request_that_is_not_answered_is_counted() -> None:
    """The end does not wait longer than it may for it, and says that its spans were not delivered."""
    store, released = Kept(), threading.Event()

    def silent(spans: Sequence[SpanRecord]) -> Delivery:
        released.wait(60)
        return Delivery("later", "no answer in time")

    backend = Backend(silent)
    outbox = Outbox(store, backend)
    perform(store, outbox)
    while not backend.batches:
        time.sleep(0.01)
    report = outbox.close(0.2)
    released.set()

    assert (report.left, report.reason) == (12, "no answer in time")


def test_a_long_run_is_sent_while_it_goes_on() -> None:
    """More spans than fit a request leave in several, and a run that grows is followed."""
    store, backend = Kept(), Backend()
    outbox = Outbox(store, backend)

    result = perform(store, outbox, steps=400)
    assert outbox.close(60).is_done

    assert ids(backend.spans) == ids(projected(store.entries(result.run_id)))
    assert len(backend.batches) >= 3


def test_a_backend_that_asks_for_patience_gets_it() -> None:
    """A ``Retry-After`` is waited for, by nobody whose process ends; when it is over, everything arrives."""
    asked: list[float] = []
    patience_s = 3600.0

    def busy(spans: Sequence[SpanRecord]) -> Delivery:
        asked.append(time.monotonic())
        return Delivery("later", "503 Service Unavailable", patience_s) if len(asked) == 1 else DELIVERED

    store, backend = Kept(), Backend(busy)
    outbox = Outbox(store, backend)
    perform(store, outbox)
    while not asked:
        time.sleep(0.01)
    report = outbox.close(60)
    assert len(asked) == 1, "it is not asked again before"
    assert (report.left, report.reason) == (12, "503 Service Unavailable")

    asked.clear()
    patience_s = 1.5
    assert Outbox(store, backend).drain(60).sent == 12
    assert asked[1] - asked[0] >= 1.5


def test_a_batch_that_is_too_large_goes_in_parts() -> None:
    """A 413 is answered by halves; a single span that is still too large is refused, and the others arrive."""

    def picky(spans: Sequence[SpanRecord]) -> Delivery:
        if len(spans) > 2 or any(span.name == "s1" for span in spans):
            return Delivery("too_large", "413 Content Too Large")
        return DELIVERED

    store, backend = Kept(), Backend(picky)
    outbox = Outbox(store, backend)
    result = perform(store, outbox)
    report = outbox.close(60)

    everything = projected(store.entries(result.run_id))
    assert ids(backend.spans) == [span.span_id for span in everything if span.name != "s1"]
    assert (report.sent, report.refused, report.refusal) == (len(everything) - 1, 1, "413 Content Too Large")


def test_refused_spans_are_kept_and_sent_when_somebody_asks() -> None:
    """A 400 is never tried again by itself and never forgotten: reason and place are kept, and the log has the spans."""
    store, backend = Kept(), Backend(lambda spans: Delivery("refused", "400 Bad Request"))
    outbox = Outbox(store, backend)
    result = perform(store, outbox)
    report = outbox.close(60)
    everything = projected(store.entries(result.run_id))
    assert (report.sent, report.left, report.refused) == (0, 0, len(everything))
    (export,) = anyio.run(store.span_exports, "refused")
    assert (export.refused, {letter.reason for letter in export.letters}) == (len(everything), {"400 Bad Request"})
    assert Outbox(store, Backend()).drain(60).sent == 0

    backend.answer = lambda spans: DELIVERED
    anyio.run(store.open_spans, result.run_id, min(letter.first for letter in export.letters) - 1)
    assert Outbox(store, backend).drain(60).sent == len(everything)
    assert ids(backend.spans) == ids(everything)
    assert list(anyio.run(store.span_exports, "refused")) == []


def test_one_bad_span_does_not_take_others_along() -> None:
    """A backend that took spans before and refuses a batch is asked for its parts, until the guilty span is alone."""

    def strict(spans: Sequence[SpanRecord]) -> Delivery:
        return Delivery("refused", "400 bad name") if any(span.name == "s300" for span in spans) else DELIVERED

    store, backend = Kept(), Backend(strict)
    outbox = Outbox(store, backend)
    result = perform(store, outbox, steps=400)
    report = outbox.close(60)

    everything = projected(store.entries(result.run_id))
    assert (report.refused, len(backend.spans)) == (1, len(everything) - 1)
    (export,) = anyio.run(store.span_exports, "refused")
    (letter,) = export.letters
    assert letter.first == letter.last


BUSY = Delivery("later", "503 Service Unavailable")


def busy_for(name: str) -> Callable[[Sequence[SpanRecord]], Delivery]:
    """A backend that answers "later" whenever a certain span is in a request."""
    return lambda spans: BUSY if any(span.name == name for span in spans) else DELIVERED


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put off is tried again at once."""
    for name in ("FIRST_WAIT_S", "LONGEST_WAIT_S", "FIRST_HOLD_S", "LONGEST_HOLD_S"):
        monkeypatch.setattr(_outbox, name, 0.001)


@pytest.mark.usefixtures("in_haste")
def test_a_span_that_is_always_put_off_does_not_block_those_behind_it() -> None:
    """While the backend takes others, it is found, tried again for so long, then set aside with its reason; no other is."""
    store, backend = Kept(), Backend(busy_for("s300"))
    result = perform(store, None, steps=400)
    anyio.run(store.open_spans, result.run_id)

    report = Outbox(store, backend, patience_s=0.05).drain(120)

    everything = projected(store.entries(result.run_id))
    guilty = [span for span in everything if span.name == "s300"]
    assert (report.refused, report.left) == (1, 0)
    assert {*ids(backend.spans)} == {*ids(everything)} - {*ids(guilty)}
    (export,) = anyio.run(store.span_exports, "refused")
    (letter,) = export.letters
    assert (letter.first, letter.spans, letter.is_final) == (letter.last, 1, True)
    assert letter.reason.startswith("503 Service Unavailable, for ")
    assert letter.reason.endswith(" while others were taken")

    backend.answer = lambda spans: DELIVERED
    anyio.run(store.open_spans, result.run_id, letter.first - 1)
    assert Outbox(store, backend).drain(120).is_done
    assert {*ids(backend.spans)} == {*ids(everything)}


def test_other_runs_do_not_wait_for_a_span_that_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anybody's patience is over they are sent; which span waits, and since when, the next process knows."""
    for name, value in (("FIRST_WAIT_S", 0.001), ("LONGEST_WAIT_S", 0.001), ("FIRST_HOLD_S", 1e6), ("LONGEST_HOLD_S", 1e6)):
        monkeypatch.setattr(_outbox, name, value)
    store = Kept()
    blocked, other = (perform(store, None, steps=steps).run_id for steps in (5, 3))
    for run_id in (blocked, other):
        anyio.run(store.open_spans, run_id)
    backend = Backend(busy_for("s4"))
    report = Outbox(store, backend, patience_s=3600).drain(120)

    assert {*ids(projected(store.entries(other)))} <= {*ids(backend.spans)}
    assert (report.refused, report.reason) == (0, "503 Service Unavailable")
    assert report.left == spans_waiting(_index_of(store, blocked, "s4"), store.entries(blocked))
    (export,) = anyio.run(store.span_exports)
    (letter,) = export.letters
    assert (export.run_id, export.refused, export.reason) == (blocked, 0, "503 Service Unavailable")
    assert (letter.first, letter.is_final) == (_index_of(store, blocked, "s4") + 1, False)

    # The next process has the others' spans to send as well, and is as patient as the first one.
    third = perform(store, None).run_id
    anyio.run(store.open_spans, third)
    assert Outbox(store, backend, patience_s=3600).drain(120).refused == 0
    assert {*ids(projected(store.entries(third)))} <= {*ids(backend.spans)}
    (export,) = anyio.run(store.span_exports)
    assert export.letters[0].at == letter.at, "the time counts from the first time on"

    # Once the patience is over, one look is enough.
    last = Outbox(store, backend, patience_s=0.0).drain(120)
    assert (last.sent, last.refused, last.left) == (report.left - 1, 1, 0)
    assert list(anyio.run(store.span_exports)) == []


def _index_of(store: Kept, run_id: str, name: str) -> int:
    """The index of the entry that finishes the span of this name."""
    projection = SpanProjection()
    found = [n for n, entry in enumerate(store.entries(run_id)) if any(s.name == name for s in projection.apply(entry))]
    return found[-1]


@pytest.mark.usefixtures("in_haste")
@pytest.mark.parametrize("answer", [BUSY, Delivery("later", "connection refused"), Delivery("later", "no answer in time")])
def test_a_backend_that_takes_nothing_is_waited_for_however_long(answer: Delivery) -> None:
    """It is away, and the spans are not to blame: nothing is set aside, and it is asked with one span at a time."""
    store, backend = Kept(), Backend(lambda spans: answer)
    results = [perform(store, None) for _ in range(2)]
    for result in results:
        anyio.run(store.open_spans, result.run_id)
    while len(backend.batches) < 10:
        report = Outbox(store, backend, patience_s=0.0).drain(0.3)
        assert (report.refused, report.left) == (0, 24)
    assert {len(batch) for batch in backend.batches} == {1, 24}
    assert [export.letters for export in anyio.run(store.span_exports)] == [(), ()]

    backend.answer = lambda spans: DELIVERED
    assert Outbox(store, backend, patience_s=0.0).drain(120) == SpanReport(sent=24)


@pytest.mark.usefixtures("in_haste")
def test_a_last_span_alone_does_not_tell_a_busy_backend_from_one_that_is_away() -> None:
    """With no other span to ask with, nothing is set aside; the next run's spans show that the backend takes others."""
    store = Kept()
    first = perform(store, None).run_id
    anyio.run(store.open_spans, first, len(store.entries(first)) - 1)
    backend = Backend(busy_for("RUN flow"))
    assert Outbox(store, backend, patience_s=0.0).drain(0.3).refused == 0

    second = perform(store, None).run_id
    anyio.run(store.open_spans, second)
    report = Outbox(store, backend, patience_s=0.0).drain(120)

    assert (report.refused, report.left) == (2, 0)
    assert sorted(span.name for span in backend.spans if span.name == "RUN flow") == []


@pytest.mark.usefixtures("in_haste")
def test_a_backend_that_goes_away_in_the_search_condemns_nothing() -> None:
    """A span is set aside only when another one is taken right after it was not."""
    store = Kept()
    result = perform(store, None, steps=20)
    anyio.run(store.open_spans, result.run_id)
    taken: list[str] = []

    def going(spans: Sequence[SpanRecord]) -> Delivery:
        """Takes one span, and is away ever after."""
        if taken or len(spans) > 1:
            return BUSY
        taken.extend(ids(spans))
        return DELIVERED

    backend = Backend(going)
    while len(backend.batches) < 12:
        assert Outbox(store, backend, patience_s=0.0).drain(0.3).refused == 0

    assert len(taken) == 1
    last = Backend()
    assert Outbox(store, last, patience_s=0.0).drain(120).is_done
    assert {*ids(last.spans), *taken} == {*ids(projected(store.entries(result.run_id)))}


def test_a_backend_that_lets_nobody_in_is_asked_once() -> None:
    """An unknown key is no fault of the spans: they wait until it is corrected."""
    store, backend = Kept(), Backend(lambda spans: Delivery("denied", "401 Unauthorized"))
    outbox = Outbox(store, backend)
    perform(store, outbox)
    report = outbox.close(60)
    assert (report.refused, report.left, report.reason, len(backend.batches)) == (0, 12, "401 Unauthorized", 1)

    assert Outbox(store, Backend()).drain(60) == SpanReport(sent=12)


def test_spans_that_a_backend_takes_only_in_part_are_told() -> None:
    """What is rejected of a batch that was taken is counted as refused, with the backend's words."""
    store, backend = Kept(), Backend(lambda spans: Delivery("delivered", "2 spans are too old", rejected=2))
    outbox = Outbox(store, backend)
    perform(store, outbox)

    assert outbox.close(60) == SpanReport(sent=10, refused=2, refusal="2 spans are too old")


def test_a_store_that_is_away_for_a_moment_is_waited_for() -> None:
    """A process that goes on does not give up its exports: what was sent meanwhile may be sent again, and nothing is lost."""

    class Shaky(Kept):
        is_away = False

        async def put_spans(self, exports: Sequence[SpanExport]) -> None:
            if self.is_away:
                raise StoreUnavailableError("The store is away.", "Wait.")
            await super().put_spans(exports)

        async def span_exports(
            self, which: Literal["open", "refused"] = "open", *, run_id: str = "", limit: int = 1000
        ) -> Sequence[SpanExport]:
            if self.is_away:
                raise StoreUnavailableError("The store is away.", "Wait.")
            return await super().span_exports(which, run_id=run_id, limit=limit)

    store, backend = Shaky(), Backend()
    outbox = Outbox(store, backend)
    store.is_away = True
    first = perform(store, outbox)
    while not backend.spans:
        time.sleep(0.01)
    store.is_away = False
    second = perform(store, outbox)
    assert outbox.close(60).is_done

    everything = {span.span_id for result in (first, second) for span in projected(store.entries(result.run_id))}
    assert {span.span_id for span in backend.spans} == everything


def test_a_process_that_goes_on_holds_few_logs() -> None:
    """While the backend is away, runs that have ended are let go of: the store has them, and they are sent from there."""
    store, backend = Kept(), Backend(away)
    outbox = Outbox(store, backend)
    runs = [perform(store, outbox, steps=1).run_id for _ in range(MOST_HELD + 8)]
    while len(outbox._drained) != MOST_HELD or not outbox._let_go:
        time.sleep(0.01)
    report = outbox.close(60)
    assert (report.left, report.runs_left) == (MOST_HELD * 4, 8)

    backend.answer = lambda spans: DELIVERED
    assert Outbox(store, backend).drain(60) == SpanReport(sent=len(runs) * 4)


def test_an_unsampled_run_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler's decision holds for this road, too; the rows are there all the same (S0-31)."""
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00")
    store, backend = Kept(), Backend()
    outbox = Outbox(store, backend)
    result = perform(store, outbox)

    assert outbox.close(60) == SpanReport()
    assert anyio.run(lambda: store.span_exports(run_id=result.run_id)) == []
    rows = anyio.run(store.spans, result.run_id)
    assert len(rows) == sum(step.attempts for step in result.steps.values()) == 4


def test_one_process_sends_what_was_left_behind() -> None:
    """While another one does it, a second leaves it alone, and says so."""
    store = Kept()
    first = Outbox(store, Backend(away))
    perform(store, first)
    first.close(60)
    anyio.run(store.lead, "spans", this_owner(), 60.0, lambda owner: False)

    report = Outbox(store, Backend()).drain(60)

    assert (report.sent, report.runs_left, report.reason) == (0, 1, "another process sends them")


def test_the_run_of_a_living_process_is_left_to_it() -> None:
    """Only what nobody drives is sent by others."""
    store, backend = Kept(), Backend()
    seen: list[SpanReport] = []

    @executor("demo.peek")
    async def peek() -> None:
        """Another process looks for what was left behind, in the middle of the run."""
        seen.append(await anyio.to_thread.run_sync(lambda: Outbox(store, backend).drain(60)))

    outbox = Outbox(store, Backend(away))
    workflow = Workflow("flow")
    workflow.step("peek", "demo.peek")
    run(workflow, registry=Registry.of(peek), store=store, sinks=[outbox]).check()
    outbox.close(60)

    assert seen == [SpanReport()]
    assert backend.batches == []


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1_000_000))
def test_whatever_happens_every_span_arrives(seed: int) -> None:
    """Backends that answer anything, and processes that vanish without noting how far they were: in the end all is there."""
    chance = random.Random(seed)
    store = Kept()
    results = [perform(store, None, steps=chance.choice((1, 5, 120))) for _ in range(3)]
    for result in results:
        anyio.run(store.open_spans, result.run_id)
    taken: set[str] = set()
    outcomes = ("delivered", "delivered", "later", "too_large", "denied")

    def answer(spans: Sequence[SpanRecord]) -> Delivery:
        outcome = chance.choice(outcomes)
        if outcome == "too_large" and len(spans) == 1:
            outcome = "later"
        if outcome == "delivered":
            taken.update(ids(spans))
        return Delivery(outcome)  # type: ignore[arg-type]  # one of them

    class Vanished(Exception):
        """The process is no more."""

    class Mortal(Outbox):
        def _note(self, *, is_last: bool = False) -> None:
            if chance.random() < 0.4:
                raise Vanished
            super()._note(is_last=is_last)

    for _ in range(4):
        Mortal(store, Backend(answer)).drain(0.05)
        anyio.run(store.lead, "spans", "the dead", 0.0, lambda owner: True)
    last = Outbox(store, Backend(lambda spans: taken.update(ids(spans)) or DELIVERED))  # type: ignore[func-returns-value]
    assert last.drain(120).is_done

    assert taken == {span.span_id for result in results for span in projected(store.entries(result.run_id))}


def test_waiting_spans_are_counted() -> None:
    """Counted from an entry on, without being sent."""
    store = Kept()
    entries = store.entries(perform(store, None).run_id)

    assert spans_waiting(0, entries) == len(projected(entries)) == 12
    assert spans_waiting(len(entries) - 1, entries) == 1
    assert spans_waiting(len(entries), entries) == 0
