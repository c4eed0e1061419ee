"""What leaves a process that called ``setup()``, and how it ends when the collector is away."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator

import grpc  # type: ignore[import-untyped]  # ships no types
import pytest
from otlp_receivers import GrpcCollector, HttpCollector, Run

CLOSE = "print(pipeline.shutdown(60))"  # on a busy machine all is slow
CLOSE_SOON = "print(pipeline.shutdown(2))"

TRIED = """
def tried(signal):
    until = time.monotonic() + 60
    while not pipeline._trouble.reason(signal):
        assert time.monotonic() < until
        time.sleep(0.01)
"""
"""Waits until it is known why there is no delivery: two seconds may be over before on a busy machine."""
AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": "10", "OTEL_METRIC_EXPORT_INTERVAL": "10"}


@pytest.fixture(params=["http/protobuf", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def collector(protocol: str) -> Iterator[HttpCollector | GrpcCollector]:
    with GrpcCollector() if protocol == "grpc" else HttpCollector() as started:
        yield started


# -- a collector that is well ----------------------------------------------------------------------------------------------


def test_traces_and_metrics_arrive(run: Run, collector: HttpCollector | GrpcCollector, protocol: str) -> None:
    """Both signals over both protocols, under the service's name, and nothing is said at the end."""
    ended = run(
        """
        with tracer.start_as_current_span("outer"):
            spans(2, kind="inner")
        metrics.get_meter("test").create_counter("treadle.test.count").add(1)
        """
        + CLOSE,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )

    assert (ended.stdout, ended.stderr) == ("", "")
    assert collector.tree() == {"span 0": "outer", "span 1": "outer", "outer": ""}
    assert "treadle.test.count" in collector.metrics
    assert collector.resources[0]["service.name"] == "treadle"
    assert collector.resources[0]["telemetry.sdk.name"] == "opentelemetry"


@pytest.mark.parametrize(
    ("environ", "service"),
    [
        ({"OTEL_SERVICE_NAME": "digests"}, "digests"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=nightly,team=a"}, "nightly"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=a"}, "treadle"),
    ],
)
def test_the_standard_variables_name_the_service(run: Run, environ: dict[str, str], service: str) -> None:
    """The environment goes before the default."""
    with HttpCollector() as collector:
        run("spans(1)\n" + CLOSE, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **environ)
        assert collector.resources[0]["service.name"] == service


def test_headers_are_sent(run: Run, collector: HttpCollector | GrpcCollector, protocol: str) -> None:
    """An API key travels as the variables say."""
    run(
        "spans(1)\n" + CLOSE,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_HEADERS="x-api-key=secret",
    )
    assert collector.headers["x-api-key"] == "secret"


PATIENT = """
import attrs, treadle_otlp._pipeline as module
read_limits = module.read_limits
module.read_limits = lambda environ: attrs.evolve(read_limits(environ), prompt_s=60.0)  # on a busy machine all is slow
"""


def test_a_burst_of_fifty_thousand_spans_arrives_whole(
    run: Run, collector: HttpCollector | GrpcCollector, protocol: str
) -> None:
    """Three times what the queue holds, as fast as a program can end them: every one is there, once."""
    ended = run(
        "spans(50_000, a=1, b='x')\nprint(pipeline.shutdown(60))",
        before=PATIENT,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_METRICS_EXPORTER="none",
    )

    assert (ended.stdout, ended.stderr) == ("", "")
    assert len(collector.spans) == 50_000
    assert len({span.span_id for span in collector.spans}) == 50_000


def test_a_collector_that_comes_back_gets_everything(run: Run) -> None:
    """Answers of 503 are no loss: the spans are sent again."""
    with HttpCollector(fail_first=2) as collector:
        ended = run(
            "spans(5)\n" + CLOSE,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_METRICS_EXPORTER="none",
        )
    assert ended.stdout == ""
    assert len(collector.spans) == 5


def test_a_program_that_forgets_to_close_delivers_all_the_same(run: Run) -> None:
    """The end of the process closes what nobody closed."""
    with HttpCollector() as collector:
        patient = "import treadle_otlp._pipeline as module; module.AT_EXIT_S = 60.0\n"  # on a busy machine all is slow
        run("spans(3)", before=patient, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert len(collector.spans) == 3


def test_a_forked_child_sends_its_own_spans(run: Run) -> None:
    """The child sends what it ends and nothing of its parent's; neither waits for the other."""
    code = """
    import os, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
    spans(2)
    if (child := os.fork()) == 0:
        spans(3)
        trace.get_tracer_provider().force_flush(60_000)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """
    with HttpCollector() as collector:
        ended = run(textwrap.dedent(code) + CLOSE, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_METRICS_EXPORTER="none")
        assert ended.stdout == ""
        assert sorted(span.name for span in collector.spans) == ["span 0", "span 0", "span 1", "span 1", "span 2"]


# -- a collector that is not ------------------------------------------------------------------------------------------------


def test_a_process_ends_within_three_seconds_without_a_collector(run: Run, protocol: str, dead_endpoint: str) -> None:
    """The SDK alone would take half a minute; one line says how many spans were lost, to where, and why."""
    ended = run(
        TRIED
        + "spans(12)\ntried('traces')\nbegan = time.perf_counter()\n"
        + CLOSE_SOON
        + "\nprint(time.perf_counter() - began)",
        OTEL_EXPORTER_OTLP_ENDPOINT=dead_endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_METRICS_EXPORTER="none",
        **AT_ONCE,
    )

    said, closing_s = ended.stdout.splitlines()
    path = "" if protocol == "grpc" else "/v1/traces"
    assert said == f"12 spans were not delivered to {dead_endpoint}{path}: connection refused"
    assert float(closing_s) < 15  # two seconds, and what a busy machine takes beside them
    assert ended.stderr == ""


def test_lost_metrics_are_named_too(run: Run, dead_endpoint: str) -> None:
    """One line for both signals."""
    ended = run(
        TRIED
        + 'spans(1)\nmetrics.get_meter("test").create_counter("c").add(1)\ntried("traces")\ntried("metrics")\n'
        + CLOSE_SOON,
        OTEL_EXPORTER_OTLP_ENDPOINT=dead_endpoint,
        **AT_ONCE,
    )
    assert ended.stdout == (
        f"1 span was not delivered to {dead_endpoint}/v1/traces: connection refused; "
        f"metrics were not delivered to {dead_endpoint}/v1/metrics: connection refused"
    )


@pytest.mark.parametrize(
    ("collector", "protocol", "reason"),
    [
        (lambda: HttpCollector(status=401), "http/protobuf", "401 Unauthorized"),
        (lambda: HttpCollector(status=413), "http/protobuf", "413 Request Entity Too Large"),
        (lambda: GrpcCollector(grpc.StatusCode.UNAUTHENTICATED), "grpc", "UNAUTHENTICATED not today"),
    ],
    ids=["401", "413", "unauthenticated"],
)
def test_a_refusal_is_final_and_said(
    run: Run, collector: Callable[[], HttpCollector | GrpcCollector], protocol: str, reason: str
) -> None:
    """What the backend refuses is not sent again, and the end does not wait for it."""
    with collector() as refusing:
        ended = run(
            "spans(3)\n" + CLOSE,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=refusing.endpoint + ("/v1/traces" if protocol != "grpc" else ""),
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        )
        requests = refusing.requests
    assert ended.stdout.endswith(f": {reason}")
    assert ended.stdout.startswith("3 spans were not delivered to http://127.0.0.1:")
    assert requests == 1


def test_a_collector_that_hangs_does_not_hold_up_the_end(run: Run) -> None:
    """No answer within the time is said as such."""
    with HttpCollector(delay_s=600) as collector:
        ended = run("spans(3)\n" + CLOSE_SOON, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_METRICS_EXPORTER="none")
    assert ended.stdout == f"3 spans were not delivered to {collector.endpoint}/v1/traces: no answer in time"


def test_a_collector_that_comes_back_is_not_complained_of(run: Run) -> None:
    """A trouble that is over is not reported at the end."""
    with HttpCollector(fail_first=1) as collector:
        ended = run(
            "spans(1)\ntrace.get_tracer_provider().force_flush(60_000)\nspans(1)\n" + CLOSE,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_METRICS_EXPORTER="none",
        )
    assert ended.stdout == ""
    assert len(collector.spans) == 2


# -- what is set up -----------------------------------------------------------------------------------------------------------

HOST = """
import treadle_otlp
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
host = TracerProvider()
trace.set_tracer_provider(host)
pipeline = treadle_otlp.setup()
"""


def test_a_hosts_provider_is_never_replaced(run: Run, dead_endpoint: str) -> None:
    """The process's provider stays, its shutdown stays its owner's, and the answer says so."""
    ended = run(
        "print(trace.get_tracer_provider() is host, repr(pipeline.shutdown(2)), pipeline.note)",
        prelude=HOST,
        OTEL_EXPORTER_OTLP_ENDPOINT=dead_endpoint,
    )
    assert ended.stdout == (
        "True '' The process has a tracer provider already: treadle uses it and leaves its shutdown to its owner."
    )


def test_a_disabled_sdk_sends_nothing(run: Run) -> None:
    """``OTEL_SDK_DISABLED`` is obeyed."""
    with HttpCollector() as collector:
        ended = run("spans(3)\n" + CLOSE, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_SDK_DISABLED="true")
    assert (ended.stdout, collector.requests) == ("", 0)


def test_the_console_leaves_stdout_alone(run: Run) -> None:
    """Standard output belongs to the command; the console exporter writes to stderr."""
    ended = run("spans(1)\n" + CLOSE, OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="none")
    assert ended.stdout == ""
    assert '"name": "span 0"' in ended.stderr


def test_an_unknown_exporter_is_refused(run: Run) -> None:
    """The error names the variable, and what may be set instead."""
    prelude = """
import treadle_otlp
from treadle.errors import ConfigError
try:
    treadle_otlp.setup()
except ConfigError as error:
    print(error)
"""
    ended = run("", prelude=prelude, OTEL_TRACES_EXPORTER="zipkin")
    assert ended.stdout.splitlines() == [
        "OTEL_TRACES_EXPORTER names 'zipkin', and no installed distribution has that exporter.",
        "Set OTEL_TRACES_EXPORTER to otlp, console or none, or install the exporter.",
    ]


def test_another_distributions_exporter_is_found(run: Run) -> None:
    """OpenTelemetry's own entry points are honoured: the HTTP exporter by its full name."""
    with HttpCollector() as collector:
        run(
            "spans(1)\n" + CLOSE,
            OTEL_TRACES_EXPORTER="otlp_proto_http",
            OTEL_METRICS_EXPORTER="none",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )
        assert [span.name for span in collector.spans] == ["span 0"]


def test_the_sampler_of_the_environment_decides(run: Run) -> None:
    """``OTEL_TRACES_SAMPLER`` is obeyed."""
    with HttpCollector() as collector:
        run("spans(3)\n" + CLOSE, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_SAMPLER="always_off")
    assert collector.spans == []


def test_setup_is_an_entry_point() -> None:
    """The ``treadle`` command finds it by name."""
    from importlib.metadata import entry_points

    import treadle_otlp

    (found,) = entry_points(group="treadle.tracing", name="otlp")
    assert found.load() is treadle_otlp.setup


def test_only_the_protocol_in_use_is_imported(run: Run) -> None:
    """gRPC costs a tenth of a second and megabytes: it is imported only when it is spoken."""
    assert os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") is None
    ended = run("import sys; print('grpc' in sys.modules)", OTEL_METRICS_EXPORTER="none", OTEL_TRACES_EXPORTER="otlp")
    assert ended.stdout == "False"
