"""Spans that are made without asking the tracer: whoever processes them cannot tell."""

from __future__ import annotations

import json
import random
from importlib.metadata import version

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from treadle._lean_spans import LeanSpans
from treadle._models import Call, ErrorInfo, Outcome, SpanRecord
from treadle._tracing import RunTracing

BOOM = ErrorInfo("BoomError", "it broke")


def exported(*processors: SpanProcessor, limits: SpanLimits | None = None) -> list[ReadableSpan]:
    """What leaves for the spans of two attempts, their step and their run."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, span_limits=limits)
    for processor in processors:
        provider.add_span_processor(processor)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = RunTracing(provider=provider, random=random.Random(5), worker="host:7", now=lambda: 1000.0)
    start = tracing.begin("digest", run_id="run-1", trigger="cli")

    def attempt(number: int, error: ErrorInfo | None) -> str:
        call = Call(
            "run-1",
            "digest",
            "page",
            "http.request",
            {},
            attempt=number,
            trace_id=start.trace_id,
            root_span_id=start.root_span_id,
            trace_flags=start.flags,
            queued_at=999.0,
        )
        with tracing.attempt(call, 1000.0) as span:
            trace.get_current_span().add_event("from within", {"n": number}, 1)
            trace.get_current_span().set_attribute("own", "a text that somebody added")
            span.end(Outcome("failed" if error else "completed", started_at=1000.0, ended_at=1001.0, error=error))  # type: ignore[arg-type]
        return call.step_span_id

    attempt(1, BOOM)
    step = attempt(2, None)
    facts: tuple[float, float] = (1000.0, 1002.0)
    ids = (start.trace_id, step, start.root_span_id)
    tracing.emit(SpanRecord("page", "internal", *ids, *facts, attributes={"treadle.step.attempts": 2}, trace_flags=start.flags))
    root = (start.trace_id, start.root_span_id, "")
    tracing.emit(
        SpanRecord("RUN digest", "server", *root, *facts, attributes={"treadle.run.stints": 1}, trace_flags=start.flags)
    )
    return list(exporter.get_finished_spans())


def shown(spans: list[ReadableSpan]) -> list[object]:
    return [json.loads(span.to_json()) for span in spans]


@pytest.mark.skipif(
    tuple(map(int, version("opentelemetry-sdk").split(".")[:2])) < (1, 43), reason="older SDKs are asked for each span"
)
def test_this_sdk_need_not_be_asked() -> None:
    """With the SDK that the plugins ask for, the quick road is taken; should an update close it, this says so."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("treadle")

    assert LeanSpans.of(tracer) is not None


def test_exporters_get_the_same_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, parents, kinds, times, attributes, events, links, status, resource and scope are as when the tracer makes them."""
    quick = shown(exported())
    monkeypatch.setattr(LeanSpans, "of", lambda tracer: None)

    assert quick == shown(exported())
    assert [span["name"] for span in quick] == ["attempt page", "attempt page", "page", "RUN digest"]  # type: ignore[index]


class Tenant(SpanProcessor):
    """Adds an attribute when a span starts, as processors of hosts do."""

    def __init__(self) -> None:
        self.parents = list[trace.SpanContext]()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Add it."""
        span.set_attribute("tenant", "acme")
        self.parents.append(trace.get_current_span(parent_context).get_span_context())


def test_processors_see_each_span_start() -> None:
    """What a processor adds at the start is on every span, also on those that treadle only makes at their end."""
    tenant = Tenant()

    spans = exported(tenant)

    assert [(span.attributes or {})["tenant"] for span in spans] == ["acme"] * 4
    assert [parent.span_id for parent in tenant.parents] == [span.parent.span_id if span.parent else 0 for span in spans]


def test_limits_of_the_provider_hold() -> None:
    """A length that the host set cuts treadle's own attributes, too."""
    limits = SpanLimits(max_span_attribute_length=4)

    (_, attempt, *_) = exported(limits=limits)

    assert (attempt.attributes or {})["own"] == "a te"
    assert (attempt.attributes or {})["cicd.pipeline.run.id"] == "run-"
    assert (attempt.attributes or {})["cicd.worker.id"] == "host"


def test_an_sdk_that_counts_its_spans_counts_treadles(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the SDK's own metrics switched on, the tracer makes every span, because it counts what it makes."""
    from treadle import _lean_spans

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("treadle")
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    _lean_spans._is_known.cache_clear()

    try:
        assert LeanSpans.of(tracer) is None
    finally:
        _lean_spans._is_known.cache_clear()
