"""A sink that keeps what it is told."""

from __future__ import annotations

from treadle._models import Call, Entry, Record, SpanRecord
from treadle.hookspecs import hookimpl


class Recorder:
    """Keeps a run's records, spans and progress, in order; pass it in ``sinks``.

    Attributes:
        records: Each fact and decision, numbered, after it was durable.
        spans: Each finished span, children before parents.
        progressed: ``(step, done, total, message)`` each time an executor said how far it is.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.spans: list[SpanRecord] = []
        self.progressed: list[tuple[str, float, float | None, str]] = []

    @hookimpl
    def record_event(self, record: Record) -> None:
        """Keep a record."""
        self.records.append(record)

    @hookimpl
    def emit_span(self, span: SpanRecord) -> None:
        """Keep a span."""
        self.spans.append(span)

    def progress(self, call: Call, done: float, total: float | None, message: str) -> None:
        """Keep what an executor said."""
        self.progressed.append((call.item, done, total, message))

    def entries(self, kind: str, path: str | None = None) -> list[Entry]:
        """The facts and decisions of one kind, like ``RetryScheduled``; of one step, when a path is given."""
        entries = [record.entry for record in self.records if record.kind == kind]
        return [entry for entry in entries if path is None or getattr(entry, "path", None) == path]

    def span(self, name: str) -> SpanRecord:
        """The first span of that name.

        Raises:
            LookupError: There is none; the message lists those that there are.
        """
        for span in self.spans:
            if span.name == name:
                return span
        raise LookupError(f"no span is called {name!r}; there are: {', '.join(sorted({span.name for span in self.spans}))}")
