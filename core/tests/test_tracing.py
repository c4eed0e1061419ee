"""Real spans of the OpenTelemetry SDK under the recorded ids, and next to nothing without an SDK."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    DEFAULT_ON,
    Decision,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    Call,
    Entry,
    ErrorInfo,
    Outcome,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    SpanNote,
    SpanRecord,
    StepEnded,
    StepStatus,
    StintOpened,
)
from treadle._tracing import (
    RunTracing,
    SpanProjection,
    TraceParent,
    TraceStart,
    attempt_span_id,
    current_call,
    parse_traceparent,
)

HEADER = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
BOOM = ErrorInfo("BoomError", "it broke")


class Sdk:
    """A provider of the SDK and what it exported."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def tracing(self, **options: object) -> RunTracing:
        return RunTracing(provider=self.provider, random=random.Random(5), worker="host:7", **options)  # type: ignore[arg-type]  # keywords of its own

    def tree(self) -> dict[str, str | None]:
        """Name of each exported span -> name of its parent, or the parent's id when it is not exported."""
        by_id = {span.get_span_context().span_id: span.name for span in self.spans}  # type: ignore[union-attr]  # an ended span has one
        return {
            span.name: None if span.parent is None else by_id.get(span.parent.span_id, f"{span.parent.span_id:016x}")
            for span in self.spans
        }

    def only(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
def sdk() -> Sdk:
    return Sdk()


class MiniDriver:
    """Drives runs of single-attempt steps as the engine does: records, projection, spans to the SDK."""

    def __init__(self, tracing: RunTracing, header: str = "", *, trigger: str = "cli", is_sparing: bool = False) -> None:
        self.tracing, self.records = tracing, list[SpanRecord]()
        self.projection = SpanProjection(tracing.take_sent if is_sparing else None)
        self.start = tracing.begin("digest", header, run_id="run-1", trigger=trigger)
        self.apply(
            RunCreated(
                at=time.time(),
                run_id="run-1",
                workflow={"name": "digest", "steps": {"page": {"uses": "http.request"}}},
                workflow_hash="x",
                inputs={},
                trace_id=self.start.trace_id,
                root_span_id=self.start.root_span_id,
                parent_span_id=self.start.parent_span_id,
                trace_flags=self.start.flags,
                trigger=trigger,
            )
        )
        self.apply(StintOpened(at=time.time(), stint=1, owner="host:7"))

    def apply(self, *entries: Entry) -> None:
        for entry in entries:
            for span in self.projection.apply(entry):
                self.records.append(span)
                self.tracing.emit(span)

    def call(self, path: str = "page", attempt: int = 1) -> Call:
        now = time.time()
        self.apply(AttemptStarted(at=now, path=path, index=None, attempt=attempt))
        trace_id, root = self.start.trace_id, self.start.root_span_id
        return Call(
            "run-1",
            "digest",
            path,
            "http.request",
            {},
            attempt=attempt,
            trace_id=trace_id,
            root_span_id=root,
            trace_flags=self.start.flags,
            queued_at=now,
        )

    def attempt(self, work: Callable[[], object] = lambda: None, *, attempt: int = 1, error: ErrorInfo | None = None) -> None:
        call = self.call(attempt=attempt)
        started_at = time.time()
        with self.tracing.attempt(call, started_at) as span:
            work()
            status = "failed" if error else "completed"
            outcome = Outcome(status, started_at=started_at, ended_at=time.time(), error=error)  # type: ignore[arg-type]  # one of two
            span.end(outcome)
        self.apply(AttemptEnded(at=outcome.ended_at, path="page", index=None, attempt=attempt, outcome=outcome))

    def finish(self, status: StepStatus = StepStatus.COMPLETED) -> None:
        now = time.time()
        run = RunStatus.COMPLETED if status is StepStatus.COMPLETED else RunStatus.FAILED
        self.apply(StepEnded(at=now, path="page", status=status, attempts=1), RunEnded(at=now, status=run))


def id_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.span_id:016x}"


# -- the tree in the SDK -------------------------------------------------------------------------------------------------


def test_the_sdk_has_the_tree_that_the_records_have(sdk: Sdk) -> None:
    """Every span reaches the SDK once, with the recorded ids, parents, names, kinds, times and attributes (S0-04)."""
    driver = MiniDriver(sdk.tracing())
    driver.attempt()
    driver.finish()

    assert sdk.tree() == {"attempt page": "page", "page": "RUN digest", "RUN digest": None}
    recorded = {record.name: record for record in driver.records}
    for span in sdk.spans:
        record = recorded[span.name]
        context = span.get_span_context()
        assert context is not None
        assert (f"{context.trace_id:032x}", id_of(span)) == (record.trace_id, record.span_id)
        assert span.kind.name.lower() == record.kind
        assert (span.start_time, span.end_time) == (int(record.started_at * 1e9), int(record.ended_at * 1e9))
        assert dict(span.attributes or {}) == record.attributes
        assert span.status.is_unset
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.name == "treadle"


def test_spans_that_went_live_need_no_record(sdk: Sdk) -> None:
    """With nobody else listening, records of live attempts are not even made; the SDK has the same tree, once."""
    driver = MiniDriver(sdk.tracing(), is_sparing=True)
    driver.attempt(error=BOOM)
    driver.attempt(attempt=2)
    driver.finish()

    assert [record.name for record in driver.records] == ["page", "RUN digest"]
    assert [span.name for span in sdk.spans] == ["attempt page", "attempt page", "page", "RUN digest"]
    assert RunTracing().take_sent("a" * 16) is False


def test_user_code_runs_inside_the_attempt(sdk: Sdk) -> None:
    """A span that a library makes while the executor runs stands under the attempt."""
    library = sdk.provider.get_tracer("some.library")
    driver = MiniDriver(sdk.tracing())
    driver.attempt(lambda: library.start_span("GET").end())
    driver.finish()

    assert sdk.tree()["GET"] == "attempt page"
    assert trace.get_current_span().get_span_context().is_valid is False


def test_failed_attempts_are_errors_with_their_exception_and_a_link(sdk: Sdk) -> None:
    """Live spans follow the same rules as the records: error once, on the attempt; attempt 2 links to attempt 1."""
    driver = MiniDriver(sdk.tracing())
    driver.attempt(error=BOOM)
    driver.apply(RetryScheduled(time.time(), "page", None, 1, 3, time.time() + 1, "transient"))
    driver.attempt(attempt=2)
    driver.finish()

    first, second = [span for span in sdk.spans if span.name == "attempt page"]
    assert (first.status.status_code, first.status.description) == (trace.StatusCode.ERROR, "it broke")
    assert [(event.name, dict(event.attributes or {})) for event in first.events] == [
        ("exception", {"exception.type": "BoomError", "exception.message": "it broke"})
    ]
    assert [f"{link.context.span_id:016x}" for link in second.links] == [id_of(first)]
    step = sdk.only("page")
    assert step.status.is_unset
    assert [event.name for event in step.events] == ["retry.scheduled"]
    records = [record for record in driver.records if record.name == "attempt page"]
    assert [dict(span.attributes or {}).keys() for span in (first, second)] == [r.attributes.keys() for r in records]


def test_an_attempt_that_nobody_waits_for_ends_once(sdk: Sdk) -> None:
    """The driver may give up on a call that does not stop; its span ends with what was recorded, and only then."""
    driver = MiniDriver(sdk.tracing())
    call = driver.call()
    span = driver.tracing.attempt(call)
    with span:
        given_up = Outcome("timed_out", started_at=time.time(), ended_at=time.time(), error=BOOM, detached=True)
        driver.apply(AttemptEnded(at=time.time(), path="page", index=None, attempt=1, outcome=given_up))
        driver.finish(StepStatus.TIMED_OUT)
        span.end(Outcome("completed", started_at=1.0, ended_at=time.time()))

    attempt = sdk.only("attempt page")
    assert (attempt.attributes or {})["error.type"] == "timeout"
    assert len(sdk.spans) == 3


@pytest.mark.parametrize(
    ("error", "status", "result"),
    [(ValueError("odd"), trace.StatusCode.ERROR, "error"), (KeyboardInterrupt(), trace.StatusCode.UNSET, "cancellation")],
)
def test_an_attempt_that_is_left_without_an_outcome_ends(
    sdk: Sdk, error: BaseException, status: trace.StatusCode, result: str
) -> None:
    """A runner that fails or is cancelled itself leaves no span open."""
    driver = MiniDriver(sdk.tracing())
    with pytest.raises(type(error)), driver.tracing.attempt(driver.call()):
        raise error

    span = sdk.only("attempt page")
    assert span.status.status_code is status
    assert (span.attributes or {})["cicd.pipeline.task.run.result"] == result


def test_spans_of_another_process_reach_the_sdk_from_the_record(sdk: Sdk) -> None:
    """An attempt that a worker without a provider performed is sent, backdated, when its record comes."""
    driver = MiniDriver(sdk.tracing())
    driver.call()
    driver.apply(AttemptEnded(2e9, "page", None, 1, Outcome("failed", started_at=1.5e9, ended_at=2e9, error=BOOM)))

    span = sdk.only("attempt page")
    assert (span.start_time, span.end_time) == (1_500_000_000_000_000_000, 2_000_000_000_000_000_000)
    assert [event.timestamp for event in span.events] == [2_000_000_000_000_000_000]


def test_tracers_of_the_same_name_keep_the_providers_ids(sdk: Sdk) -> None:
    """Only treadle's own spans get recorded ids; whoever asks for its tracer otherwise gets ordinary spans."""
    driver = MiniDriver(sdk.tracing())
    driver.attempt(lambda: sdk.provider.get_tracer("treadle").start_span("own").end())
    driver.finish()
    sdk.provider.get_tracer("treadle").start_span("apart").end()

    assert sdk.tree()["own"] == "attempt page"
    assert sdk.tree()["apart"] is None
    assert len({id_of(span) for span in sdk.spans}) == 5


# -- client calls --------------------------------------------------------------------------------------------------------


def call_of(start: TraceStart) -> Call:
    return Call("run-1", "digest", "page", "x", {}, trace_id=start.trace_id, root_span_id=start.root_span_id, trace_flags=1)


@pytest.mark.parametrize("with_sdk", [False, True], ids=["without a provider", "with a provider"])
def test_client_calls_are_recorded_under_their_attempt(sdk: Sdk, with_sdk: bool) -> None:
    """``ctx.span`` gives a record for the outcome in any case, nested as the code is."""
    tracing = sdk.tracing() if with_sdk else RunTracing(random=random.Random(5))
    call, kept = call_of(tracing.begin("digest")), list[SpanRecord]()
    with (
        tracing.attempt(call),
        tracing.client_span(call, "outer", "client", {"server.address": "a"}, kept.append) as outer,
        tracing.client_span(call, "inner", "internal", {}, kept.append),
    ):
        outer["rows"] = 3

    assert [(span.name, span.kind, span.status) for span in kept] == [
        ("inner", "internal", "unset"),
        ("outer", "client", "unset"),
    ]
    inner, outer_span = kept
    assert (inner.parent_id, outer_span.parent_id) == (outer_span.span_id, call.span_id)
    assert outer_span.attributes == {"server.address": "a", "rows": 3}
    assert {span.trace_id for span in kept} == {call.trace_id}


def test_client_calls_are_live_spans_and_sent_once(sdk: Sdk) -> None:
    """With a provider a library's spans nest under the client call, and the outcome's record is not sent again."""
    driver, kept = MiniDriver(sdk.tracing()), list[SpanRecord]()
    call = driver.call()
    with driver.tracing.attempt(call) as attempt:
        with driver.tracing.client_span(call, "query", "client", {}, kept.append):
            sdk.provider.get_tracer("driver.library").start_span("wire").end()
        outcome = Outcome("completed", started_at=time.time(), ended_at=time.time(), spans=tuple(kept))
        attempt.end(outcome)
    driver.apply(AttemptEnded(time.time(), "page", None, 1, outcome))
    driver.finish()

    assert sdk.tree() == {
        "wire": "query",
        "query": "attempt page",
        "attempt page": "page",
        "page": "RUN digest",
        "RUN digest": None,
    }
    assert [id_of(sdk.only("query"))] == [record.span_id for record in kept]
    assert len(sdk.spans) == 5


def test_an_exception_marks_the_client_call_and_goes_on(sdk: Sdk) -> None:
    """The caller sees its exception; the span says its class; a cancellation is no error."""
    tracing, kept = sdk.tracing(), list[SpanRecord]()
    call = call_of(tracing.begin("digest"))
    with pytest.raises(ZeroDivisionError), tracing.client_span(call, "divide", "client", {}, kept.append):
        raise ZeroDivisionError("by\nzero")
    with pytest.raises(asyncio.CancelledError), tracing.client_span(call, "wait", "client", {}, kept.append):
        raise asyncio.CancelledError

    assert [(span.status, span.status_message, span.attributes) for span in kept] == [
        ("error", "by", {"error.type": "ZeroDivisionError"}),
        ("unset", "", {}),
    ]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_attributes_that_opentelemetry_cannot_hold_become_text(caplog: pytest.LogCaptureFixture, sdk: Sdk) -> None:
    """None is left out, foreign objects are their text, lists keep one type; an error without words has none."""
    tracing, kept = sdk.tracing(), list[SpanRecord]()
    call = call_of(tracing.begin("digest"))
    values = {"none": None, "path": os.path, "list": [1, 2], "mixed": [1, "a"], "n": 1.5}
    with pytest.raises(Mute), tracing.client_span(call, "odd", "client", values, kept.append):
        raise Mute

    attributes = dict(kept[0].attributes)
    assert str(attributes.pop("path")).startswith("<module")
    assert attributes == {"list": (1, 2), "mixed": "[1, 'a']", "n": 1.5, "error.type": "Mute"}
    assert kept[0].status_message == ""
    assert not caplog.records  # the SDK complains of what it cannot hold


def test_a_span_that_is_left_in_another_context_does_not_fail() -> None:
    """A generator of user code may be closed elsewhere; its span is finished all the same."""
    tracing, kept = RunTracing(), list[SpanRecord]()
    call = call_of(tracing.begin("digest"))

    def rows() -> Generator[int, None, None]:
        with tracing.client_span(call, "rows", "client", {}, kept.append):
            yield 1
            yield 2

    opened = rows()
    thread = threading.Thread(target=lambda: next(opened))
    thread.start()
    thread.join()
    opened.close()

    assert [span.name for span in kept] == ["rows"]


# -- parents and sampling --------------------------------------------------------------------------------------------------


def test_traceparent_makes_the_run_a_child_of_the_caller(sdk: Sdk) -> None:
    """An incoming ``TRACEPARENT`` is the parent: same trace, and the run's span stands under the caller's."""
    driver = MiniDriver(sdk.tracing(), HEADER)
    driver.attempt()
    driver.finish()

    assert driver.start.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert sdk.tree()["RUN digest"] == "00f067aa0ba902b7"
    run = sdk.only("RUN digest")
    assert run.parent is not None
    assert run.parent.is_remote
    assert run.kind is trace.SpanKind.SERVER


def test_the_span_around_the_caller_goes_before_traceparent(sdk: Sdk) -> None:
    """A host's current span is the parent; the run is a piece of the host's work."""
    with sdk.provider.get_tracer("host").start_as_current_span("request"):
        driver = MiniDriver(sdk.tracing(), HEADER, trigger="python")
        driver.attempt()
        driver.finish()

    assert sdk.tree()["RUN digest"] == "request"
    run = sdk.only("RUN digest")
    assert run.parent is not None
    assert run.parent.is_remote is False
    assert run.kind is trace.SpanKind.INTERNAL


def test_a_run_inside_an_executor_stands_under_its_attempt() -> None:
    """Also without a provider a nested run joins the trace of the call that starts it."""
    call = call_of(TraceStart("0af7651916cd43dd8448eb211c80319c", "c" * 16, "", 1))
    token = current_call.set(call)
    try:
        start = RunTracing().begin("inner")
    finally:
        current_call.reset(token)
    assert (start.trace_id, start.parent_span_id, start.flags) == (call.trace_id, call.span_id, 1)


class Counting(Sampler):
    """Notes what it is asked."""

    def __init__(self, otherwise: Sampler) -> None:
        self.otherwise, self.asked = otherwise, list[tuple[str, dict[str, object]]]()

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):  # type: ignore[no-untyped-def]  # the SDK's own signature
        self.asked.append((name, dict(attributes or {})))
        result = self.otherwise.should_sample(parent_context, trace_id, name, kind, attributes, links)
        return SamplingResult(result.decision, {**(attributes or {}), "sampler.rule": "7"}, result.trace_state)

    def get_description(self) -> str:
        return "Counting"


def test_the_sampler_is_asked_once_per_run() -> None:
    """One decision for the whole tree, asked with the run's name and attributes; what the sampler adds stands on the run."""
    sampler = Counting(DEFAULT_ON)
    sdk = Sdk(sampler)
    driver = MiniDriver(sdk.tracing())
    driver.attempt()
    driver.finish()

    assert sampler.asked == [
        (
            "RUN digest",
            {
                "cicd.pipeline.action.name": "RUN",
                "cicd.pipeline.name": "digest",
                "cicd.pipeline.run.id": "run-1",
                "treadle.run.trigger": "cli",
            },
        )
    ]
    assert [span.name for span in sdk.spans if "sampler.rule" in (span.attributes or {})] == ["RUN digest"]


def test_an_unsampled_run_exports_nothing_and_still_carries_its_context() -> None:
    """Flags say unsampled all the way down, so that libraries and callees decide the same."""
    sdk = Sdk(ALWAYS_OFF)
    driver, seen = MiniDriver(sdk.tracing()), list[SpanContext]()
    driver.attempt(lambda: seen.append(trace.get_current_span().get_span_context()))
    driver.finish()

    assert driver.start.flags == 0
    assert sdk.spans == ()
    assert [(f"{context.span_id:016x}", int(context.trace_flags)) for context in seen] == [
        (attempt_span_id(driver.start.trace_id, driver.start.root_span_id, "page"), 0)
    ]
    assert {record.trace_flags for record in driver.records} == {0}


def test_the_callers_decision_is_followed() -> None:
    """An unsampled caller makes an unsampled run, with the SDK's default sampler and without a provider."""
    unsampled = HEADER[:-1] + "0"
    sdk = Sdk()
    assert MiniDriver(sdk.tracing(), unsampled).start.flags == 0
    assert RunTracing().begin("digest", unsampled).flags == 0
    assert RunTracing().begin("digest", HEADER).flags == 1
    assert RunTracing().begin("digest").flags == 1


class RecordOnly(Counting):
    """Records everything for processors, and samples nothing."""

    def should_sample(self, *question, **more):  # type: ignore[no-untyped-def]  # the SDK's own signature
        return SamplingResult(Decision.RECORD_ONLY)


def test_recorded_but_not_sampled_runs_reach_processors_only() -> None:
    """A sampler that only records (for metrics made from spans) is understood."""
    processed = list[str]()

    class Processor(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            processed.append(span.name)

    sdk = Sdk(RecordOnly(ALWAYS_OFF))
    sdk.provider.add_span_processor(Processor(sdk.exporter))
    driver = MiniDriver(sdk.tracing())
    driver.attempt()
    driver.finish()

    assert driver.start.flags == 0
    assert processed == ["attempt page", "page", "RUN digest"]
    assert sdk.spans == ()


def test_tracestate_travels_with_the_trace(sdk: Sdk) -> None:
    """What vendors put beside the trace id reaches every span of the run."""
    tracing = sdk.tracing()
    start = tracing.begin("digest", HEADER, tracestate="vendor=x")
    with tracing.attempt(call_of(start)):
        state = trace.get_current_span().get_span_context().trace_state
    assert state.to_header() == "vendor=x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEADER, TraceParent("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7", 1)),
        (f" {HEADER}\n", TraceParent("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7", 1)),
        ("cc" + HEADER[2:] + "-more", TraceParent("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7", 1)),
        (HEADER[:-2] + "03", TraceParent("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7", 3)),
        ("", None),
        ("nonsense", None),
        (HEADER.upper(), None),
        (HEADER + "-more", None),
        ("ff" + HEADER[2:], None),
        ("00-" + "0" * 32 + HEADER[35:], None),
        (HEADER[:36] + "0" * 16 + HEADER[52:], None),
    ],
)
def test_traceparent_is_read_as_w3c_says(text: str, expected: TraceParent | None) -> None:
    """Valid headers of this and later versions are understood, others are passed over."""
    assert parse_traceparent(text) == expected


# -- providers ---------------------------------------------------------------------------------------------------------------


def run_python(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=os.environ | environ, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_tracing_does_not_import_opentelemetry() -> None:
    """Start-up pays nothing: a process whose host never imported OpenTelemetry has no provider to ask."""
    code = (
        "import sys; from treadle._tracing import RunTracing, RunMetrics; t = RunTracing(); t.begin('x');"
        "print(t.is_live, RunMetrics().is_active, [m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    assert run_python(code) == "False False []"


def test_the_api_alone_is_no_provider() -> None:
    """The API without an SDK: nothing is live, and an ambient context is still the parent."""
    code = (
        "from opentelemetry import trace, metrics; from treadle._tracing import RunTracing, RunMetrics; t = RunTracing();"
        "c = trace.SpanContext(5, 6, True, trace.TraceFlags(1));"
        "token = __import__('opentelemetry.context').context.attach(trace.set_span_in_context(trace.NonRecordingSpan(c)));"
        "s = t.begin('x'); print(t.is_live, RunMetrics().is_active, int(s.trace_id, 16), int(s.parent_span_id, 16), s.flags)"
    )
    assert run_python(code) == "False False 5 6 1"


def test_the_hosts_provider_is_used() -> None:
    """A provider that the host set for its process is the road, without a word to treadle."""
    code = (
        "from opentelemetry import trace; from opentelemetry.sdk.trace import TracerProvider;"
        "trace.set_tracer_provider(TracerProvider()); from treadle._tracing import RunTracing; print(RunTracing().is_live)"
    )
    assert run_python(code) == "True"
    assert run_python(code, OTEL_SDK_DISABLED="true") == "False"


class ForeignProvider:
    """A tracer provider that is not the SDK's."""


def test_a_provider_of_another_make_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """Spans are recorded all the same; one line says why they are not sent."""
    with caplog.at_level(logging.WARNING, "treadle.tracing"):
        tracings = [RunTracing(provider=ForeignProvider()) for _ in range(3)]
    assert [tracing.is_live for tracing in tracings] == [False] * 3
    assert [record.getMessage().split(" is ")[0] for record in caplog.records] == ["The tracer provider ForeignProvider"]


class Nothing:
    """The least that a context manager with an ``end`` can be."""

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def end(self, outcome: object) -> None:
        """Nothing."""


def best_of(one: Callable[[], None]) -> float:
    """Seconds for one of 2,000, in the best of many rounds: what else the machine does cannot make it faster."""
    rounds = []
    for _ in range(30):
        began = time.perf_counter()
        for _ in range(2_000):
            one()
        rounds.append(time.perf_counter() - began)
    return min(rounds) / 2_000


def test_without_a_provider_an_attempt_costs_next_to_nothing() -> None:
    """At most three times an empty context manager, which is some tenths of a microsecond."""
    tracing, nothing = RunTracing(), Nothing()
    call, outcome = call_of(tracing.begin("digest")), Outcome("completed")

    def traced() -> None:
        with tracing.attempt(call) as span:
            span.end(outcome)

    def bare() -> None:
        with nothing as span:
            span.end(outcome)

    assert best_of(traced) < 3 * best_of(bare)


# -- instrumented libraries ------------------------------------------------------------------------------------------------


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("traceparent"))  # type: ignore[attr-defined]  # set by the fixture
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Page)
    server.seen = []  # type: ignore[attr-defined]  # what callers sent
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["async", "thread"])
async def test_an_instrumented_http_library_nests_under_the_attempt(sdk: Sdk, site: HTTPServer, where: str) -> None:
    """A real instrumented library parents to the attempt and sends its context on, on the loop and in a thread."""
    import httpx
    from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport, SyncOpenTelemetryTransport

    url = f"http://127.0.0.1:{site.server_port}/"
    driver = MiniDriver(sdk.tracing())
    call = driver.call()
    with driver.tracing.attempt(call) as attempt:
        if where == "async":
            transport = AsyncOpenTelemetryTransport(httpx.AsyncHTTPTransport(), tracer_provider=sdk.provider)
            async with httpx.AsyncClient(transport=transport) as client:
                await client.get(url)
        else:
            in_thread = SyncOpenTelemetryTransport(httpx.HTTPTransport(), tracer_provider=sdk.provider)
            with httpx.Client(transport=in_thread) as blocking:
                await anyio.to_thread.run_sync(blocking.get, url)
        attempt.end(Outcome("completed", started_at=time.time(), ended_at=time.time()))

    assert sdk.tree()["GET"] == "attempt page"
    assert site.seen == [f"00-{driver.start.trace_id}-{id_of(sdk.only('GET'))}-01"]  # type: ignore[attr-defined]  # set by the fixture


def test_contexts_of_parallel_calls_do_not_mix(sdk: Sdk) -> None:
    """Two calls in tasks of their own each see their own attempt."""

    async def work(call: Call, tracing: RunTracing, name: str) -> None:
        with tracing.attempt(call) as attempt:
            await anyio.lowlevel.checkpoint()
            sdk.provider.get_tracer("library").start_span(name).end()
            await anyio.lowlevel.checkpoint()
            attempt.end(Outcome("completed", started_at=time.time(), ended_at=time.time()))

    async def both() -> None:
        driver = MiniDriver(sdk.tracing())
        async with anyio.create_task_group() as tasks:
            for path in ("one", "two"):
                tasks.start_soon(work, driver.call(path), driver.tracing, f"from {path}")

    anyio.run(both)
    assert {name: parent for name, parent in sdk.tree().items() if name.startswith("from")} == {
        "from one": "attempt one",
        "from two": "attempt two",
    }


def test_a_hosts_baggage_and_context_survive_an_attempt(sdk: Sdk) -> None:
    """After the attempt the host's span is current again."""
    host = NonRecordingSpan(SpanContext(5, 6, False, TraceFlags(1)))
    token = attach(set_span_in_context(host))
    try:
        driver = MiniDriver(sdk.tracing())
        driver.attempt()
        assert trace.get_current_span() is host
    finally:
        detach(token)


# -- spans that leave from the log ---------------------------------------------------------------------------------------------


def kept(sdk: Sdk, call: Call, say: Callable[[trace.Span], object]) -> SpanNote | None:
    """What is noted of what user code says of its attempt's span, which the provider does not get."""
    tracing = sdk.tracing(are_spans_kept=True)
    with tracing.attempt(call, 1.0) as attempt:
        say(trace.get_current_span())
        note = attempt.note()
        attempt.end(Outcome("completed"))
    return note


def test_a_kept_span_is_the_parent_of_others_and_not_sent(sdk: Sdk) -> None:
    """Libraries nest under the attempt's and the call's recorded ids; treadle's own spans reach no processor."""
    tracing, records = sdk.tracing(are_spans_kept=True), list[SpanRecord]()
    call = call_of(tracing.begin("digest"))
    assert not tracing.is_live
    with tracing.attempt(call), tracing.client_span(call, "GET", "client", {}, records.append):
        sdk.provider.get_tracer("library").start_span("wire").end()
    with tracing.attempt(call):
        sdk.provider.get_tracer("library").start_span("file").end()
    tracing.emit(records[0])

    parents = {span.name: f"{span.parent.span_id:016x}" for span in sdk.spans if span.parent}
    assert parents == {"wire": records[0].span_id, "file": call.span_id}
    assert {span.context.trace_id for span in sdk.spans if span.context} == {int(call.trace_id, 16)}
    assert not trace.get_current_span().get_span_context().is_valid


def test_what_user_code_says_of_a_kept_span_is_noted(sdk: Sdk) -> None:
    """Attributes, events and exceptions, cleaned, as the SDK would have kept them; a name or a status is treadle's affair."""
    call = call_of(sdk.tracing().begin("digest"))

    def say(span: trace.Span) -> None:
        assert span.is_recording()
        span.set_attribute("order.id", 7)
        span.set_attributes({"tags": ["a", "b"], "odd": object, "order.id": 8})  # type: ignore[dict-item]  # what people do
        span.add_event("packed", {"boxes": 2}, 5_000_000_000)
        span.record_exception(ValueError("half empty"))
        span.update_name("other")
        span.set_status(trace.StatusCode.ERROR, "no")
        span.end()

    note = kept(sdk, call, say)

    assert note is not None
    assert note.attributes == {"order.id": 8, "tags": ("a", "b"), "odd": "<class 'object'>"}
    (packed, exception) = note.events
    assert packed == ("packed", 5.0, {"boxes": 2})
    assert (exception[0], exception[2]["exception.type"], exception[2]["exception.message"]) == (
        *("exception", "ValueError"),
        "half empty",
    )
    assert kept(sdk, call, lambda span: None) is None


def test_a_note_is_bounded_and_over_with_its_attempt(sdk: Sdk) -> None:
    """128 attributes and events at most, as with the SDK; what comes too late is nobody's."""
    call = call_of(sdk.tracing().begin("digest"))
    spans = list[trace.Span]()

    def say(span: trace.Span) -> None:
        spans.append(span)
        for number in range(200):
            span.set_attribute(f"n{number}", number)
            span.add_event(f"n{number}")

    note = kept(sdk, call, say)
    spans[0].set_attribute("late", 1)
    spans[0].add_event("late")

    assert note is not None
    assert (len(note.attributes), len(note.events)) == (128, 128)
    assert not spans[0].is_recording()


def test_a_note_is_on_the_attempts_span() -> None:
    """Beside what treadle says, which goes before it; events in order, the exception last."""
    driver = MiniDriver(RunTracing())
    driver.call()
    note = SpanNote({"order.id": 7, "cicd.pipeline.run.id": "forged"}, (("packed", 5.0, {"boxes": 2}),))
    driver.apply(AttemptEnded(time.time(), "page", None, 1, Outcome("failed", error=BOOM, note=note)))

    (span,) = driver.records
    assert (span.attributes["order.id"], span.attributes["cicd.pipeline.run.id"]) == (7, "run-1")
    assert [name for name, _, _ in span.events] == ["packed", "exception"]
