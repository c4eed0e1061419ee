"""The queue of spans: lossless under a prompt collector, never in the way of the work under another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import attrs
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from treadle_otlp._settings import Limits
from treadle_otlp._span_queue import SpanQueue

SMALL = Limits(queue=8, batch=4, delay_s=0.02, prompt_s=0.05, backoff_s=0.02)
PATIENT = attrs.evolve(SMALL, prompt_s=120.0)
"""No collector is slow by these, however busy the machine."""


class Exporter(SpanExporter):
    """Keeps what it is given; does what the test wants first."""

    def __init__(self, before: Callable[[], bool] = lambda: True) -> None:
        self.names: list[str] = []
        self.batches: list[int] = []
        self.is_shut_down = False
        self._before = before

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not self._before():
            return SpanExportResult.FAILURE
        self.batches.append(len(spans))
        self.names.extend(span.name for span in spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.is_shut_down = True


def producer(queue: SpanQueue) -> Callable[[int], None]:
    """A function that ends so many spans, as a program does."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(queue)
    tracer = provider.get_tracer("test")

    def produce(count: int) -> None:
        for number in range(count):
            tracer.start_span(str(number)).end()

    return produce


def test_a_burst_is_delivered_whole_and_in_order() -> None:
    """Twenty times as many spans as the queue holds all arrive at a prompt collector; the producer waits meanwhile."""
    exporter = Exporter(lambda: not threading.Event().wait(0.001))
    queue = SpanQueue(exporter, Limits(queue=500, batch=100, prompt_s=120.0))
    producer(queue)(10_000)

    assert queue.close(60) == 0
    assert exporter.names == [str(number) for number in range(10_000)]
    assert max(exporter.batches) <= 100


def test_a_slow_collector_holds_nobody_up() -> None:
    """Once it is seen to be slow, ending a span never waits again; what does not fit is counted, not forgotten."""
    release = threading.Event()
    exporter = Exporter(release.wait)
    queue = SpanQueue(exporter, SMALL)
    produce = producer(queue)
    produce(30)
    began = time.perf_counter()
    produce(1000)
    took_s = time.perf_counter() - began
    release.set()

    lost = queue.close(60)
    assert took_s < 25  # a thousand waits would be 50 s
    assert lost + len(exporter.names) == 1030
    assert lost > 900


def test_a_slow_collector_that_recovers_holds_back_again() -> None:
    """Being slow is no life sentence: after a prompt answer the producer waits again rather than lose."""
    asked, release = threading.Event(), threading.Event()
    exporter = Exporter(lambda: asked.set() or release.wait())
    queue = SpanQueue(exporter, SMALL)
    produce = producer(queue)
    produce(4)
    assert asked.wait(60)
    on_its_way = len(queue._sending)
    produce(30)
    lost_before = queue.undelivered - on_its_way - SMALL.queue
    queue._limits = PATIENT
    release.set()
    assert queue.force_flush(60_000)
    produce(4)
    assert queue.force_flush(60_000)
    produce(200)

    assert lost_before > 0
    assert queue.close(60) == lost_before


def test_a_batch_that_failed_for_now_is_sent_again() -> None:
    """A collector that is away for a while loses nothing that fits the queue."""
    answers = iter([False, False, True])
    exporter = Exporter(lambda: next(answers, True))
    queue = SpanQueue(exporter, SMALL)
    producer(queue)(8)

    assert queue.close(60) == 0
    assert exporter.names == [str(number) for number in range(8)]


def test_a_batch_that_was_refused_for_good_is_counted() -> None:
    """Trying again cannot help: the batch is given up and the next one has its turn."""
    answers = iter([False])
    exporter = Exporter(lambda: next(answers, True))
    queue = SpanQueue(exporter, attrs.evolve(SMALL, delay_s=60.0), is_refused=lambda: True)  # only whole batches leave
    producer(queue)(8)

    assert queue.close(60) == 4
    assert exporter.names == ["4", "5", "6", "7"]


def test_an_exporter_that_raises_has_not_delivered() -> None:
    """A fault of the exporter does not end the thread."""
    answers = iter([ZeroDivisionError()])

    def before() -> bool:
        if error := next(answers, None):
            raise error
        return True

    exporter, raised = Exporter(before), list[Exception]()
    queue = SpanQueue(exporter, SMALL, raised=raised.append)
    producer(queue)(4)

    assert queue.close(60) == 0
    assert len(exporter.names) == 4
    assert [type(error) for error in raised] == [ZeroDivisionError]


def test_closing_is_bounded_and_counts_what_is_left() -> None:
    """A collector that never answers costs the time that closing may take, and not more."""
    hang = threading.Event()
    exporter = Exporter(hang.wait)
    queue = SpanQueue(exporter, SMALL)
    producer(queue)(6)
    began = time.perf_counter()
    lost = queue.close(0.3)
    took_s = time.perf_counter() - began
    hang.set()

    assert lost == 6
    assert 0.25 < took_s < 60
    assert exporter.is_shut_down


def test_closing_again_says_the_same_and_late_spans_are_counted() -> None:
    """A span that ends after the end did not arrive."""
    exporter = Exporter()
    queue = SpanQueue(exporter, SMALL)
    produce = producer(queue)
    produce(3)
    assert queue.close(60) == 0
    produce(2)
    assert queue.undelivered == 2
    queue.shutdown()
    assert queue.close(0.1) == 2


def test_spans_are_sent_without_waiting_for_a_full_batch() -> None:
    """A single span leaves after the delay; a flush sends it at once."""
    exporter = Exporter()
    queue = SpanQueue(exporter, Limits(delay_s=600.0))
    producer(queue)(1)
    assert queue.force_flush(60_000)
    assert exporter.names == ["0"]
    assert queue.close(60) == 0


def test_a_flush_that_takes_too_long_says_so() -> None:
    """False, and the spans still wait."""
    hang = threading.Event()
    queue = SpanQueue(Exporter(hang.wait), SMALL)
    producer(queue)(1)
    assert queue.force_flush(20) is False
    assert queue.undelivered == 1
    hang.set()
    assert queue.close(60) == 0


def test_unsampled_spans_are_not_taken() -> None:
    """Nothing is sent of what the sampler left out."""
    exporter = Exporter()
    queue = SpanQueue(exporter, SMALL)
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(queue)
    provider.get_tracer("test").start_span("x").end()
    assert queue.close(60) == 0
    assert exporter.names == []
