"""The trace of a real run, read back from a collector: the command, its subprocesses and the libraries its steps use."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from subprocess import PIPE, CompletedProcess

import anyio
import grpc  # type: ignore[import-untyped]  # ships no types
import pytest
from held_port import held_port
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

pytestmark = pytest.mark.anyio

CALLER = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"
KINDS = {Span.SPAN_KIND_INTERNAL: "internal", Span.SPAN_KIND_SERVER: "server", Span.SPAN_KIND_CLIENT: "client"}

EXECUTORS = """
import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from treadle import Context, SyncContext, TransientError, executor

HTTPXClientInstrumentor().instrument()

@executor("demo.fetch")
async def fetch(ctx: Context, /, url: str) -> int:
    async with httpx.AsyncClient() as client:
        status = (await client.get(url)).status_code
    if ctx.attempt == 1:
        raise TransientError("not yet")
    return status

@executor("demo.blocking")
def blocking(ctx: SyncContext, /, url: str) -> int:
    with ctx.span("look up", attributes={"server.address": "site"}):
        return httpx.get(url).status_code
"""

CHILD = """
import os
import treadle_otlp
from opentelemetry import propagate, trace

pipeline = treadle_otlp.setup(service_name="child")
parent = propagate.extract({name.lower(): value for name, value in os.environ.items()})
trace.get_tracer("child").start_span("in the child", context=parent).end()
pipeline.shutdown(5)
"""


@pytest.fixture
def anyio_backend() -> str:
    """The receiver is at home on asyncio; which loop the command uses is its own affair."""
    return "asyncio"


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("traceparent"))  # type: ignore[attr-defined]  # set by the fixture
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[HTTPServer]:
    """A site that notes the context its callers send."""
    server = HTTPServer(("127.0.0.1", 0), Page)
    server.seen = []  # type: ignore[attr-defined]  # what callers sent
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Trace:
    """Spans that a collector received."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.metrics: set[str] = set()

    async def until(self, count: int) -> None:
        """Wait until so many spans are there: the receiver hands them over a moment after it took them."""
        with anyio.move_on_after(60):
            while len(self.spans) < count:  # noqa: ASYNC110 - one collector fills the list from its own threads
                await anyio.sleep(0.02)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def only(self, name: str) -> Span:
        (span,) = self.named(name)
        return span

    def tree(self) -> list[tuple[str, str]]:
        """Name of each span with the name of its parent; an id where the parent was not received."""
        names = {span.span_id: span.name for span in self.spans}
        return sorted((span.name, names.get(span.parent_span_id, span.parent_span_id.hex())) for span in self.spans)


Collector = AbstractAsyncContextManager[tuple[Trace, dict[str, str]]]


@asynccontextmanager
async def over_http() -> AsyncIterator[tuple[Trace, dict[str, str]]]:
    """A collector that speaks OTLP over HTTP; gives what it receives and the variables that lead to it."""
    trace = Trace()

    async def read(receiver: OtelTapHttpProtobufReceiver) -> None:
        async for span in receiver.stream_traces():
            trace.spans.append(span)

    async def count(receiver: OtelTapHttpProtobufReceiver) -> None:
        async for metric in receiver.stream_metrics():
            trace.metrics.add(metric.name)

    with held_port() as port:
        async with (
            OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=port)) as receiver,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(read, receiver)
            tasks.start_soon(count, receiver)
            yield trace, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
            tasks.cancel_scope.cancel()


class Servicer(traces_grpc.TraceServiceServicer):
    """Keeps what arrives over gRPC."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def Export(self, request: traces_pb.ExportTraceServiceRequest, context: object) -> traces_pb.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self._trace.spans.extend(scope.spans)
        return traces_pb.ExportTraceServiceResponse()


@asynccontextmanager
async def over_grpc() -> AsyncIterator[tuple[Trace, dict[str, str]]]:
    """A collector that speaks OTLP over gRPC."""
    trace = Trace()
    server = grpc.server(ThreadPoolExecutor(2))
    traces_grpc.add_TraceServiceServicer_to_server(Servicer(trace), server)  # type: ignore[no-untyped-call]  # generated
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield (
        trace,
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    )
    server.stop(None).wait()


async def command(folder: Path, *arguments: str, **environ: str) -> CompletedProcess[bytes]:
    """Run ``treadle`` in ``folder`` under the given variables and none of this process's tracing."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TRACE", "TREADLE_"))}
    with anyio.fail_after(90):
        return await anyio.run_process(
            [sys.executable, "-m", "treadle._cli", *arguments],
            cwd=folder,
            env=inherited | {"OTEL_METRICS_EXPORTER": "none", "XDG_STATE_HOME": str(folder / "state")} | environ,
            check=False,
            stderr=PIPE,
        )


def steps_in_every_place(url: str) -> dict[str, object]:
    """A workflow whose steps reach out from the loop, from a thread, from a subprocess, and through another run."""
    passed = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_METRICS_EXPORTER", "XDG_STATE_HOME"]
    return {
        "name": "outer",
        "steps": {
            "fetch": {"uses": "demo.fetch", "with": {"url": url}, "retry": {"base": "10ms"}},
            "blocking": {"uses": "demo.blocking", "with": {"url": url}, "foreach": [1, 2], "needs": ["fetch"]},
            "child": {"uses": "shell.run", "with": {"argv": [sys.executable, "child.py"], "pass_env": passed}},
            "inner": {
                "uses": "shell.run",
                "with": {"argv": [sys.executable, "-m", "treadle._cli", "run", "inner.json"], "pass_env": passed},
            },
        },
    }


@pytest.fixture
def folder(tmp_path: Path, site: HTTPServer) -> Path:
    """A project with executors of its own, as a user would lay it out."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "demo.py").write_text(EXECUTORS, "utf-8")
    (tmp_path / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n', "utf-8")
    (tmp_path / "child.py").write_text(CHILD, "utf-8")
    inner = {"name": "inner", "steps": {"say": {"uses": "shell.run", "with": {"argv": ["echo", "hello"]}}}}
    (tmp_path / "inner.json").write_text(json.dumps(inner), "utf-8")
    outer = steps_in_every_place(f"http://127.0.0.1:{site.server_port}/")
    (tmp_path / "outer.json").write_text(json.dumps(outer), "utf-8")
    return tmp_path


EXPECTED = [
    ("GET", "attempt fetch"),
    ("GET", "attempt fetch"),
    ("GET", "look up"),
    ("GET", "look up"),
    ("RUN inner", "attempt inner"),
    ("RUN outer", "00f067aa0ba902b7"),
    ("attempt blocking", "blocking"),
    ("attempt blocking", "blocking"),
    ("attempt child", "child"),
    ("attempt fetch", "fetch"),
    ("attempt fetch", "fetch"),
    ("attempt inner", "inner"),
    ("attempt say", "say"),
    ("blocking", "RUN outer"),
    ("child", "RUN outer"),
    ("fetch", "RUN outer"),
    ("in the child", "attempt child"),
    ("inner", "RUN outer"),
    ("look up", "attempt blocking"),
    ("look up", "attempt blocking"),
    ("say", "RUN inner"),
]


@pytest.mark.parametrize("collector", [over_http, over_grpc], ids=["http", "grpc"])
async def test_a_run_is_one_tree_at_the_collector(folder: Path, site: HTTPServer, collector: Callable[[], Collector]) -> None:
    """Caller, run, steps, attempts, client calls, instrumented libraries, subprocesses, a nested run: one tree (S0-04)."""
    async with collector() as (trace, environ):
        ended = await command(folder, "run", "outer.json", "--json", TRACEPARENT=CALLER, **environ)
        assert ended.returncode == 0, ended.stderr.decode()
        await trace.until(len(EXPECTED))

    assert trace.tree() == EXPECTED
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    assert {span.trace_id.hex() for span in trace.spans} == {trace_id}
    assert json.loads(ended.stdout)["trace_id"] == trace_id
    assert len({span.span_id for span in trace.spans}) == len(EXPECTED)
    sent = {f"00-{trace_id}-{span.span_id.hex()}-01" for span in trace.named("GET")}
    assert set(site.seen) == sent  # type: ignore[attr-defined]  # set by the fixture


async def test_status_kinds_and_links_arrive(folder: Path) -> None:
    """What the records say of a retried step reaches the collector as it is."""
    async with over_http() as (trace, environ):
        ended = await command(folder, "run", "outer.json", **environ)
        await trace.until(len(EXPECTED))

    first, second = sorted(trace.named("attempt fetch"), key=lambda span: span.start_time_unix_nano)
    assert (first.status.code, second.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)
    assert [event.name for event in first.events] == ["exception"]
    assert [link.span_id for link in second.links] == [first.span_id]
    step = trace.only("fetch")
    assert (step.status.code, [event.name for event in step.events]) == (Status.STATUS_CODE_UNSET, ["retry.scheduled"])
    kinds = {span.name: KINDS[span.kind] for span in trace.spans}
    assert (kinds["RUN outer"], kinds["fetch"], kinds["attempt fetch"], kinds["look up"], kinds["GET"]) == (
        *("server", "internal", "internal", "client", "client"),
    )
    assert trace.only("RUN outer").trace_id.hex() in ended.stderr.decode() + ended.stdout.decode()


async def test_the_metrics_of_a_run_arrive(folder: Path) -> None:
    """The command exports the four metrics of the reference; a run alone is enough for all of them."""
    async with over_http() as (trace, environ):
        ended = await command(folder, "run", "inner.json", **environ | {"OTEL_METRICS_EXPORTER": "otlp"})
        assert ended.returncode == 0, ended.stderr.decode()
        with anyio.move_on_after(60):
            while len(trace.metrics) < 4:  # noqa: ASYNC110 - the receiver hands them over a moment later
                await anyio.sleep(0.02)

    assert trace.metrics == {
        "cicd.pipeline.run.active",
        "cicd.pipeline.run.duration",
        "treadle.queue.wait",
        "treadle.step.duration",
    }


async def test_a_collector_that_is_away_delays_a_run_by_three_seconds_at_most(folder: Path) -> None:
    """The run succeeds, its exit code is its own, and one line says what was not delivered."""
    longer_s, said = [], []
    for _ in range(3):
        began = anyio.current_time()
        without = await command(folder, "run", "inner.json")
        took_s = anyio.current_time() - began
        began = anyio.current_time()
        ended = await command(folder, "run", "inner.json", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
        longer_s.append(anyio.current_time() - began - took_s)
        said.append(ended.stderr.decode())
        assert (without.returncode, ended.returncode) == (0, 0)

    # The quickest of three: the others may have waited for the machine.
    assert "3 spans were not delivered to http://127.0.0.1:9/v1/traces: connection refused" in said[0]
    assert min(longer_s) < 3
