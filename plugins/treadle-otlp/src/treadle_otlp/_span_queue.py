"""A span processor that holds the producer back rather than lose a span, as long as the collector keeps up."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY as SUPPRESS_INSTRUMENTATION,  # has no public name, the SDK uses it the same way
)
from opentelemetry.context import Context, attach, set_value
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from treadle_otlp._settings import Limits

__all__ = ["SUPPRESS_INSTRUMENTATION", "SpanQueue"]


class SpanQueue(SpanProcessor):
    """Sends finished spans in batches from a thread of its own.

    A full queue makes ``on_end`` wait while the collector answers promptly, so a burst slows down to the collector's rate
    and nothing is lost. A collector that is slow or away holds nobody up: what no longer fits is counted. A batch that
    failed for now is kept and sent again; one that was refused for good is counted.

    Args:
        exporter: Where batches go.
        limits: How much waits.
        is_refused: Whether the last failure was final.
        delivered: Told after each batch that arrived.
        raised: Told what an exporter raised instead of answering.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        limits: Limits,
        *,
        is_refused: Callable[[], bool] = lambda: False,
        delivered: Callable[[], None] = lambda: None,
        raised: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._exporter, self._limits = exporter, limits
        self._is_refused, self._on_delivered, self._on_raised = is_refused, delivered, raised
        self._start_over()

    def _start_over(self) -> None:
        """An empty queue without a thread: at first, and in the child of a fork."""
        self._changed = threading.Condition()
        self._waiting: deque[ReadableSpan] = deque()
        self._sending: list[ReadableSpan] = []
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._is_prompt = True
        self._is_closing = self._is_closed = self._is_hurried = False
        self._lost = self._delivered = 0

    @property
    def undelivered(self) -> int:
        """Spans that did not arrive so far: given up, waiting, or on their way."""
        with self._changed:
            return self._lost + len(self._waiting) + len(self._sending)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a finished span; waits only when the queue is full and the collector prompt."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        if self._pid != os.getpid():
            self._start_over()
        with self._changed:
            if self._is_closing or (len(self._waiting) >= self._limits.queue and not self._wait_for_room()):
                self._lost += 1
                return
            self._waiting.append(span)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="treadle-otlp-spans", daemon=True)
                self._thread.start()
            if len(self._waiting) in (1, self._limits.batch):
                self._changed.notify_all()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits now; False when the time was too short."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            done = self._changed.wait_for(self._is_idle, timeout_millis / 1000)
            self._is_hurried = False
        return done

    def shutdown(self) -> None:
        """Close, as the SDK's own processors would, but within two seconds."""
        self.close(2.0)

    def close(self, timeout_s: float) -> int:
        """Send what waits within ``timeout_s``; answers how many spans in all did not arrive."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            self._changed.wait_for(self._is_idle, timeout_s)
            self._is_closed = True
            self._lost += len(self._waiting) + len(self._sending)
            self._waiting.clear()
            self._sending = []
            self._changed.notify_all()
            lost = self._lost
        # Ends a retry that the exporter sleeps on; a thread, because closing a dead connection may take its time.
        closer = threading.Thread(target=self._exporter.shutdown, name="treadle-otlp-close", daemon=True)
        closer.start()
        closer.join(max(0.05, deadline - time.monotonic()))
        return lost

    def _is_idle(self) -> bool:
        return not self._waiting and not self._sending

    def _wait_for_room(self) -> bool:
        """Hold the producer back until there is room; False when there will not be any soon."""
        if not self._is_prompt:
            return False
        self._changed.wait_for(lambda: len(self._waiting) < self._limits.queue or not self._is_prompt, self._limits.prompt_s)
        self._is_prompt = len(self._waiting) < self._limits.queue
        return self._is_prompt and not self._is_closing

    # -- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        # Instrumented HTTP libraries would trace the export, and the export of that, for ever.
        attach(set_value(SUPPRESS_INSTRUMENTATION, True))
        backoff_s = self._limits.backoff_s
        while batch := self._next_batch():
            began_at = time.monotonic()
            is_delivered = self._export(batch)
            is_prompt = time.monotonic() - began_at <= self._limits.prompt_s
            if self._settle(batch, is_delivered=is_delivered, is_prompt=is_prompt):
                backoff_s = self._limits.backoff_s
            else:
                self._rest(backoff_s)
                backoff_s = min(backoff_s * 2, 30.0)

    def _next_batch(self) -> list[ReadableSpan]:
        """Wait for a batch to fill, for its time, or for the end; empty when there is nothing more to send."""
        limits = self._limits
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            self._changed.wait_for(self._is_batch_due, limits.delay_s)
            if not self._is_closed:
                self._sending = [self._waiting.popleft() for _ in range(min(limits.batch, len(self._waiting)))]
                self._changed.notify_all()
            return self._sending

    def _is_batch_due(self) -> bool:
        return len(self._waiting) >= self._limits.batch or self._is_closing or self._is_hurried

    def _export(self, batch: list[ReadableSpan]) -> bool:
        try:
            return self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception as error:  # foreign code: an exporter that raises has not delivered
            self._on_raised(error)
            return False

    def _settle(self, batch: list[ReadableSpan], *, is_delivered: bool, is_prompt: bool) -> bool:
        """Note how a batch fared; False when it goes back to be sent again."""
        with self._changed:
            if self._is_closed:
                return True
            self._sending = []
            self._is_prompt = is_delivered and is_prompt
            is_done = is_delivered or self._is_refused()
            if is_delivered:
                self._delivered += len(batch)
                self._on_delivered()
            elif is_done:
                self._lost += len(batch)
            else:
                self._waiting.extendleft(reversed(batch))
            self._changed.notify_all()
            return is_done

    def _rest(self, seconds: float) -> None:
        """Wait before trying again; the end of the process cuts it short once."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, min(seconds, 0.2) if self._is_closing else seconds)
