"""A span that only notes what is said of it: it stands for an attempt whose span leaves from the log.

Of OpenTelemetry only the API is used.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping

from opentelemetry import trace
from opentelemetry.trace import SpanContext
from opentelemetry.util.types import Attributes as OtelAttributes

from treadle import _telemetry as names
from treadle._attempt_span import clean
from treadle._models import SpanNote

__all__ = ["NotedSpan"]

_MOST = 128
"""Most attributes and events; OpenTelemetry's own limits."""


class NotedSpan(trace.Span):
    """The current span of an attempt; its name, status and end are treadle's affair.

    Args:
        context: Its ids.
        now: The clock, seconds since the epoch.
    """

    def __init__(self, context: SpanContext, now: Callable[[], float]) -> None:
        self._context, self._now = context, now
        self._attributes: dict[str, object] = {}
        self._events: list[tuple[str, float, Mapping[str, object]]] = []
        self._is_open = True

    def take(self) -> SpanNote | None:
        """What was said; what is said afterwards is lost."""
        self._is_open = False
        return SpanNote(dict(self._attributes), tuple(self._events)) if self._attributes or self._events else None

    def get_span_context(self) -> SpanContext:
        """Its ids."""
        return self._context

    def is_recording(self) -> bool:
        """Whether it may be told something."""
        return self._is_open

    def set_attribute(self, key: str, value: object) -> None:
        """Note an attribute."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, object]) -> None:
        """Note attributes."""
        if self._is_open:
            for key, value in clean(attributes).items():
                if key in self._attributes or len(self._attributes) < _MOST:
                    self._attributes[key] = value

    def add_event(self, name: str, attributes: OtelAttributes = None, timestamp: int | None = None) -> None:
        """Note an event."""
        if self._is_open and len(self._events) < _MOST:
            at = self._now() if timestamp is None else timestamp / 1e9
            self._events.append((str(name), at, clean(attributes or {})))

    def record_exception(
        self,
        exception: BaseException,
        attributes: OtelAttributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Note an exception that the executor dealt with; one that leaves it is noted anyway."""
        told = {
            names.EXCEPTION_TYPE: type(exception).__qualname__,
            names.EXCEPTION_MESSAGE: str(exception),
            names.EXCEPTION_STACKTRACE: "".join(traceback.format_exception(exception)),
        }
        self.add_event(names.EXCEPTION_EVENT, {**told, **(attributes or {})}, timestamp)

    def add_link(self, context: SpanContext, attributes: OtelAttributes = None) -> None:
        """Not kept."""

    def update_name(self, name: str) -> None:
        """Not kept: names of attempts are low in cardinality."""

    def set_status(self, status: trace.Status | trace.StatusCode, description: str | None = None) -> None:
        """Not kept: how the attempt ends says it."""

    def end(self, end_time: int | None = None) -> None:
        """Not kept: it ends with the attempt."""
