"""Spans of runs that a store keeps, from the command to a collector that is not always there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from kept_project import fitting
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

EXECUTORS = """
import os, time
import httpx
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from treadle import TransientError, executor
from treadle.ports import Context

HTTPXClientInstrumentor().instrument()

@executor("demo.fetch")
async def fetch(ctx: Context, /, url: str) -> int:
    ctx.log.info("fetching")
    with ctx.span("look up", attributes={"n": 1}):
        async with httpx.AsyncClient() as client:
            status = (await client.get(url)).status_code
    if ctx.attempt == 1:
        raise TransientError("not yet")
    return status

@executor("demo.die_once")
def die_once(file: str) -> str:
    if not os.path.exists(file):
        open(file, "w").close()
        os.kill(os.getpid(), 9)
    return file
"""

FLOW = {
    "name": "flow",
    "inputs": {"url": {"type": "string"}},
    "steps": {
        "fetch": {"uses": "demo.fetch", "with": {"url": "${{ inputs.url }}"}, "retry": {"base": "10ms"}},
        "die": {"uses": "demo.die_once", "with": {"file": "died"}, "needs": ["fetch"]},
    },
}

OWN = ["RUN flow", "attempt die", "attempt fetch", "attempt fetch", "die", "fetch", "look up", "look up"]
"""The names of treadle's spans in a whole trace of the flow."""


class Collector:
    """OTLP over HTTP, and a page to fetch; answers what it is told to."""

    def __init__(self) -> None:
        self.status, self.headers = 200, dict[str, str]()
        self.busy_for = ""  # a request with a span of this name is answered 503
        self.spans: list[Span] = []
        self.asked_at: list[float] = []
        self.well_after: int | None = None  # from then on requests are answered 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(204)
                self.end_headers()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked_at.append(time.monotonic())
                if collector.well_after is not None and len(collector.asked_at) > collector.well_after:
                    collector.status = 200
                resources = ExportTraceServiceRequest.FromString(body).resource_spans
                spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
                is_busy = any(span.name == collector.busy_for for span in spans)
                status = 503 if is_busy else collector.status
                if status == 200:
                    collector.spans += spans
                self.send_response(status)
                for name, value in collector.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def names(self) -> list[str]:
        """Of the spans of treadle and of the library."""
        return sorted(span.name for span in self.spans)

    @property
    def own(self) -> list[str]:
        """Of treadle's spans alone."""
        return [name for name in self.names if name != "GET"]

    @property
    def own_once(self) -> list[str]:
        """The same, each span once: an exporter that is slow to hear of its success sends a batch again."""
        once = {(span.trace_id, span.span_id): span.name for span in self.spans}
        return sorted(name for name in once.values() if name != "GET")


@pytest.fixture
def collector() -> Iterator[Collector]:
    """One that is there."""
    started = Collector()
    yield started
    started.close()


class Project:
    """A folder with the flow, and the command in it."""

    def __init__(self, folder: Path, collector: Collector) -> None:
        self.folder, self.collector = folder, collector
        (folder / "executors").mkdir()
        (folder / "executors" / "demo.py").write_text(EXECUTORS, "utf-8")
        (folder / "treadle.toml").write_text(
            '[plugins]\nfolder = "executors"\n[store]\nuse = "sqlite"\npath = "runs.db"\n', "utf-8"
        )
        (folder / "flow.json").write_text(json.dumps(FLOW), "utf-8")

    def __call__(self, *words: str, to: str | None = "", **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command whose spans go to the collector, or elsewhere, or nowhere for None."""
        dropped = ("TREADLE_", "OTEL_", "TRACE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        export = {} if to is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": to or self.collector.endpoint}
        return subprocess.run(
            [sys.executable, "-m", "treadle._cli", *words],
            cwd=self.folder,
            env=inherited | {"OTEL_METRICS_EXPORTER": "none", "PYTHONIOENCODING": "utf-8"} | export | environ,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def run(self, *, to: str | None = "", dies: bool = False, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the flow; it kills itself the first time, if asked."""
        if not dies:
            (self.folder / "died").touch()
        return self("run", "flow.json", "-i", f"url={self.collector.endpoint}/", "--json", to=to, **environ)

    def status(self) -> list[Mapping[str, object]]:
        """What was not delivered."""
        told = fitting(self("spans", "status", "--json", to=None).stdout, "spans-status")["runs"]
        assert isinstance(told, list)
        return told


@pytest.fixture
def project(tmp_path: Path, collector: Collector) -> Project:
    """The flow, and a collector to send to."""
    return Project(tmp_path, collector)


AWAY = "http://127.0.0.1:9"


def test_a_kept_run_is_one_tree_and_each_span_comes_once(project: Project, collector: Collector) -> None:
    """treadle's spans leave from the store and the library's from the provider, below them; none comes by both roads."""
    ended = project.run()
    assert ended.returncode == 0, ended.stderr
    assert "delivered" not in ended.stderr

    assert collector.names == sorted([*OWN, "GET", "GET"])
    names = {span.span_id: span.name for span in collector.spans}
    assert len(names) == len(collector.spans)
    assert {span.trace_id.hex() for span in collector.spans} == {json.loads(ended.stdout)["trace_id"]}
    parents = {(span.name, names.get(span.parent_span_id, "")) for span in collector.spans}
    assert parents == {
        *(("RUN flow", ""), ("fetch", "RUN flow"), ("die", "RUN flow"), ("attempt fetch", "fetch"), ("attempt die", "die")),
        *(("look up", "attempt fetch"), ("GET", "look up")),
    }
    assert project.status() == []


def test_the_whole_trace_is_in_the_store_and_in_the_log_lines(project: Project, collector: Collector) -> None:
    """By the run's id: each execution with its place in the trace; and each line says which one it belongs to (S0-10)."""
    (project.folder / "died").touch()
    ended = project("run", "flow.json", "-i", f"url={collector.endpoint}/", "--log-format", "json", "--json", to=None)
    result = json.loads(ended.stdout)
    spoken = [json.loads(line) for line in ended.stderr.splitlines() if '"fetching"' in line]

    exported = fitting(project("spans", "export", "--run", result["run_id"], "--json").stdout, "spans-export")

    assert exported["sent"] == len(OWN) == len(collector.spans)
    assert {span.trace_id.hex() for span in collector.spans} == {result["trace_id"]}
    assert [span.name for span in collector.spans if not span.parent_span_id] == ["RUN flow"]
    fetching = sorted(span.span_id.hex() for span in collector.spans if span.name == "attempt fetch")
    assert sorted(line["span_id"] for line in spoken) == fetching
    assert {line["trace_id"] for line in spoken} == {result["trace_id"]}


def test_a_collector_that_is_away_loses_nothing(project: Project, collector: Collector) -> None:
    """The run is the same, one line says what is kept, and the next run sends both traces."""
    began = time.monotonic()
    ended = project.run(to=AWAY)
    took_s = time.monotonic() - began

    assert ended.returncode == 0
    (line,) = [line for line in ended.stderr.splitlines() if "not delivered" in line]
    assert line.startswith(f"{len(OWN)} spans were not delivered to {AWAY}/v1/traces: connection refused. The store keeps them")
    assert took_s < 30, "nobody waits for it"
    (waiting,) = project.status()
    assert (waiting["waiting"], waiting["refused"], waiting["reason"]) == (len(OWN), 0, "connection refused")

    assert project.run().returncode == 0

    assert collector.own == sorted(OWN * 2)
    assert len({span.trace_id for span in collector.spans}) == 2
    assert project.status() == []


def test_a_killed_run_has_one_trace(project: Project, collector: Collector) -> None:
    """It is resumed by another process; the attempt that was lost is in the trace, as interrupted."""
    killed = project.run(to=AWAY, dies=True)
    assert killed.returncode == -signal.SIGKILL
    (run,) = json.loads(project("runs", "--json", to=None).stdout)["runs"]

    ended = project("resume", run["run_id"], "--json")
    assert ended.returncode == 0, ended.stderr

    assert collector.own_once == sorted([*OWN, "attempt die"])
    assert {span.trace_id.hex() for span in collector.spans} == {run["trace_id"]}
    lost = [span for span in collector.spans if span.name == "attempt die" and span.status.message]
    assert [
        attribute.value.string_value for span in lost for attribute in span.attributes if attribute.key == "error.type"
    ] == ["interrupted"]


def test_a_run_that_began_without_a_backend_is_sent_whole_when_it_goes_on_with_one(
    project: Project, collector: Collector
) -> None:
    """What earlier stints did is in the store, so it is in the trace."""
    project.run(to=None, dies=True)
    (run,) = json.loads(project("runs", "--json", to=None).stdout)["runs"]
    assert project.status() == []

    project("resume", run["run_id"])

    assert collector.own_once == sorted([*OWN, "attempt die"])


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_collector_that_hangs_ends_the_command_in_time(project: Project, protocol: str) -> None:
    """It takes connections and never answers: spans and metrics are told in plain words, and the spans are kept."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as hung:
        endpoint = f"http://127.0.0.1:{hung.getsockname()[1]}"
        ended = project.run(to=endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_METRICS_EXPORTER="otlp")

    assert ended.returncode == 0
    (said,) = [line for line in ended.stderr.splitlines() if "not delivered" in line]
    assert "CANCELLED" not in said
    assert said.startswith(f"{len(OWN)} spans were not delivered to {endpoint}")
    assert "no answer in time" in said
    assert project.status()[0]["waiting"] == len(OWN)


def test_refused_spans_are_shown_and_sent_when_asked(project: Project, collector: Collector) -> None:
    """A 400 is said at the end, listed with its reason, left alone by later runs, and sent by --again."""
    collector.status = 400
    ended = project.run()
    assert ended.returncode == 0
    refused = f"{len(OWN)} spans were refused by {collector.endpoint}/v1/traces: 400 Bad Request. The store keeps them"
    assert refused in ended.stderr
    (letter,) = project.status()
    assert (letter["refused"], letter["waiting"]) == (len(OWN), 0)
    assert "400 Bad Request" in project("spans", "status", to=None).stdout

    collector.status = 200
    collector.spans.clear()
    assert project("spans", "export").stdout == "Nothing waits to be sent.\n"
    again = project("spans", "export", "--again", "--json")

    assert again.returncode == 0
    assert fitting(again.stdout, "spans-export")["sent"] == len(OWN)
    assert collector.own == sorted(OWN)
    assert project("spans", "status", to=None).stdout == "All spans were delivered.\n"


def test_a_span_that_is_never_taken_is_set_aside_and_the_others_arrive(project: Project, collector: Collector) -> None:
    """A collector that answers 503 for one span alone blocks nobody: the span is kept, shown, and sent by --again."""
    collector.busy_for = "attempt die"
    for _ in range(2):
        assert project.run(TREADLE_RUN__SPAN_PATIENCE="1ms").returncode == 0
    project("spans", "export", "--timeout", "80s", TREADLE_RUN__SPAN_PATIENCE="1ms")  # what the runs' ends had no time for

    assert collector.own_once == sorted(name for name in OWN * 2 if name != "attempt die")
    letters = [letter for run in project.status() for letter in run["letters"]]  # type: ignore[attr-defined]  # a list, by its schema
    assert [(letter["spans"], letter["is_final"]) for letter in letters] == [(1, True)] * 2
    assert all(letter["reason"].startswith("503 Service Unavailable, for ") for letter in letters)
    assert "while others were taken" in project("spans", "status", to=None).stdout

    collector.busy_for = ""
    assert project("spans", "export", "--again").returncode == 0
    assert collector.own_once == sorted(OWN * 2)
    assert project.status() == []


def test_a_wrong_key_is_said_and_loses_nothing(project: Project, collector: Collector) -> None:
    """A 401 stops the export, whose exit code says so; with the right key everything is there."""
    collector.status = 401
    project.run()
    ended = project("spans", "export", "--json")
    assert ended.returncode == 1
    assert (fitting(ended.stdout, "spans-export")["left"], "401" in ended.stdout) == (len(OWN), True)

    collector.status = 200
    assert project("spans", "export").stdout == f"{len(OWN)} spans delivered to {collector.endpoint}/v1/traces.\n"
    assert collector.own == sorted(OWN)


def test_retry_after_is_waited_for(project: Project, collector: Collector) -> None:
    """A run does not wait at its end; the command that sends what is left does, as long as it may."""
    collector.status, collector.headers = 503, {"Retry-After": "120"}
    assert "503 Service Unavailable" in project.run().stderr
    before = len(collector.asked_at)

    ended = project("spans", "export", "--timeout", "60s", "--json")

    assert ended.returncode == 1
    assert len(collector.asked_at) == before + 1
    collector.headers, collector.well_after = {"Retry-After": "2"}, before + 2
    assert project("spans", "export", "--timeout", "60s").returncode == 0
    put_off, taken = collector.asked_at[before + 1 : before + 3]
    assert taken - put_off > 1.9
    assert collector.own_once == sorted(OWN)


def test_a_run_is_sent_again_whole(project: Project, collector: Collector) -> None:
    """To another backend, for instance: the same spans under the same ids."""
    project.run()
    first = sorted(span.span_id for span in collector.spans if span.name != "GET")
    collector.spans.clear()

    ended = project("spans", "export", "--run", "last", "--again")

    assert ended.returncode == 0
    assert sorted(span.span_id for span in collector.spans) == first


def test_an_unsampled_run_is_not_sent(project: Project, collector: Collector) -> None:
    """The sampler's one decision holds for what is kept, too."""
    ended = project.run(OTEL_TRACES_SAMPLER="always_off")

    assert ended.returncode == 0
    assert collector.spans == []
    assert project.status() == []


def test_runs_in_memory_and_other_exporters_have_the_batches(project: Project, collector: Collector) -> None:
    """Their spans arrive by the provider as before, once."""
    file = project.folder / "treadle.toml"
    file.write_text('[plugins]\nfolder = "executors"\n[store]\nuse = "memory"\n', "utf-8")
    assert project.run().returncode == 0
    assert collector.own == sorted(OWN)
    collector.spans.clear()

    file.write_text('[plugins]\nfolder = "executors"\n[store]\nuse = "sqlite"\npath = "runs.db"\n', "utf-8")
    both = project.run(OTEL_TRACES_EXPORTER="console,otlp")

    assert collector.own == sorted(OWN)
    assert both.stderr.count('"name": "RUN flow"') == 1
    refused = project("spans", "export", OTEL_TRACES_EXPORTER="console")
    assert (refused.returncode, "OTLP alone" in refused.stderr) == (2, True)


def test_what_cannot_be_done_is_said(project: Project) -> None:
    """Without a backend, without a store that keeps runs, and for a run that there is not."""
    for words, environ, said in (
        (("spans", "export"), {"to": None}, "No backend is named."),
        (("spans", "export", "--run", "nobody"), {}, "nobody"),
        (("spans", "export", "--timeout", "soon"), {}, "soon"),
    ):
        ended = project(*words, **environ)  # type: ignore[arg-type]  # keywords of its own
        assert ended.returncode == 2, ended.stderr
        assert said in ended.stderr


def test_a_run_that_is_retried_goes_on_in_its_trace(project: Project, collector: Collector) -> None:
    """What a retry does is in the same trace, below spans that are there, each of them once."""
    failing = dict(FLOW["steps"]["die"], **{"with": {"file": "nowhere/died"}})  # type: ignore[index]  # a part of it
    (project.folder / "flow.json").write_text(json.dumps(FLOW | {"steps": FLOW["steps"] | {"die": failing}}), "utf-8")  # type: ignore[operator]
    ended = project.run()
    assert ended.returncode == 1, ended.stderr
    before = len(collector.spans)
    (project.folder / "nowhere").mkdir()
    (project.folder / "nowhere" / "died").touch()

    again = project("retry", json.loads(ended.stdout)["run_id"], "--json")

    assert again.returncode == 0, again.stderr
    ids = [span.span_id for span in collector.spans]
    assert len(ids) == len(set(ids)) > before
    assert {span.trace_id.hex() for span in collector.spans} == {json.loads(ended.stdout)["trace_id"]}
    assert {span.parent_span_id for span in collector.spans} - {b""} <= set(ids)
    assert [span.name for span in collector.spans[before:] if span.name != "GET"] == ["attempt die", "die", "RUN flow"]
    assert project.status() == []
