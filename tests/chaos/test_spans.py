"""Spans of runs that are killed while the collector is away: afterwards it has every one. ``nox -s chaos`` sends 100,000."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import attrs
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings
from treadle.ports import AttemptEnded, AttemptStarted, RunCreated, RunEnded, RunQuery, RunRow, StepEnded
from treadle_sqlite import SqliteStore

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from held_port import held_port

KILLS = int(os.environ.get("TREADLE_SPAN_KILLS", "3"))
ITEMS = int(os.environ.get("TREADLE_SPAN_ITEMS", "40"))
SEED = int(os.environ.get("TREADLE_CHAOS_SEED", "0"))
CALLS = 8

EXECUTORS = f"""
import os
from treadle import executor
from treadle.ports import Context

witness = os.open("witness", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

@executor("demo.work")
async def work(ctx: Context, /, n: int) -> int:
    for number in range({CALLS}):
        with ctx.span("GET", attributes={{"number": number}}):
            pass
    os.write(witness, b".")
    return n
"""


class Project:
    """A folder with a workflow, and the command in it, whose spans go to a port.

    Args:
        folder: Of the project.
        port: Of the collector.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.witness, self.port = folder, folder / "witness", port
        dropped = ("TREADLE_", "OTEL_", "TRACE")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_METRICS_EXPORTER": "none",
            "PYTHONIOENCODING": "utf-8",
        }
        (folder / "executors").mkdir()
        (folder / "executors" / "demo.py").write_text(EXECUTORS, "utf-8")
        (folder / "treadle.toml").write_text(
            '[plugins]\nfolder = "executors"\n[store]\nuse = "sqlite"\npath = "runs.db"\n', "utf-8"
        )
        step = {"uses": "demo.work", "foreach": list(range(ITEMS)), "as": "n", "with": {"n": "${{ n }}"}}
        (folder / "flow.json").write_text(json.dumps({"name": "flow", "steps": {"each": step}}), "utf-8")

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command."""
        command = [sys.executable, "-m", "treadle._cli", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def done(self) -> int:
        """How many items were worked on, as the witness saw."""
        return self.witness.stat().st_size if self.witness.exists() else 0

    def killed(self, after: int, *words: str) -> bool:
        """Begin a command and kill it when so many more items were worked on; False when it was too quick."""
        process, goal = self.start(*words), self.done() + after
        while process.poll() is None and self.done() < goal:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        return process.returncode == -signal.SIGKILL


@attrs.define
class Promise:
    """What the logs say that a backend must have, told by the records alone: nothing of treadle's spans is asked.

    Attributes:
        traces: Trace of each run that has ended.
        calls: Ids of the spans of calls.
        executions: Ids of the rows of ``execution_spans``.
        count: Of all spans.
    """

    traces: dict[str, str] = attrs.Factory(dict)
    calls: set[str] = attrs.Factory(set)
    executions: set[str] = attrs.Factory(set)
    count: int = 0

    async def add(self, store: SqliteStore, run: RunRow) -> None:
        """Add what a run promises."""
        entries = [record.entry for record in await store.read(run.run_id)]
        kinds = Counter(type(entry) for entry in entries)
        assert kinds[RunEnded] == 1, "every run was resumed to its end"
        assert isinstance(entries[0], RunCreated)
        calls = [span.span_id for entry in entries if isinstance(entry, AttemptEnded) for span in entry.outcome.spans]
        rows = [row.span_id for row in await store.spans(run.run_id)]
        assert len(rows) == kinds[AttemptStarted], "a row for each execution"
        self.traces[run.run_id] = run.trace_id
        self.calls.update(calls)
        self.executions.update(rows)
        self.count += len(calls) + len(rows) + kinds[StepEnded] + 1


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A collector that is down has its port."""
    with held_port() as port:
        yield Project(tmp_path, port)


def test_no_span_of_a_killed_run_is_lost(project: Project) -> None:
    """Runs are killed at random moments, the collector down all along; once it is up, it gets the whole trace of each run.

    That is the run, each step, each execution (S0-31, S0-51) and each call of one that was recorded, in one trace over all
    stints, every span below another one of it (S0-10).
    """
    chance, kills, runs = random.Random(SEED), 0, 0
    while kills < KILLS:  # on a busy machine a run may have ended when it was to be killed
        runs += 1
        assert runs <= 10 * KILLS, "they can hardly be killed"
        kills += project.killed(chance.randint(1, ITEMS - 1), "run", "flow.json", "-q")
        (newest,) = json.loads(project("runs", "--json", "--limit", "1")[1])["runs"]
        if chance.random() < 0.3 and newest["status"] not in ("completed", "failed"):
            kills += project.killed(chance.randint(1, 3), "resume", newest["run_id"], "-q")
        code, _, err = project("resume", newest["run_id"], "-q")
        assert code == 0, err
        assert "were not delivered" in err or "spans" not in err

    received, promise = anyio.run(_delivered, project)

    ids = {span.span_id.hex() for span in received}
    by_trace = Counter(span.trace_id.hex() for span in received)
    assert promise.calls <= ids, f"{len(promise.calls - ids)} of {len(promise.calls)} calls are lost"
    assert promise.executions <= ids, f"{len(promise.executions - ids)} of {len(promise.executions)} executions are lost"
    assert len(ids) == promise.count
    assert by_trace.keys() == set(promise.traces.values()), "one trace for each run"
    roots = [span for span in received if not span.parent_span_id]
    assert {span.name for span in roots} == {"RUN flow"}
    assert {span.parent_span_id.hex() for span in received} - {""} <= ids, "every parent is there"
    stints = sum(item.value.int_value - 1 for span in roots for item in span.attributes if item.key == "treadle.run.stints")
    print(
        f"{kills} kills, {stints} resumes: {len(ids):,} spans promised, all delivered, {len(received) - len(ids)} of them twice"
    )


async def _promised(project: Project) -> Promise:
    store, promise = SqliteStore(project.folder / "runs.db"), Promise()
    try:
        for run in (await store.runs(RunQuery(limit=100))).runs:
            await promise.add(store, run)
    finally:
        store.close()
    return promise


async def _delivered(project: Project) -> tuple[list[Span], Promise]:
    """What a collector receives that comes up now, from the next run and from the command that sends the rest; and should."""
    received: list[Span] = []

    async def take(receiver: OtelTapHttpProtobufReceiver) -> None:
        async for span in receiver.stream_traces():
            received.append(span)  # noqa: PERF401 - it is read while it grows

    settings = OtelTapHttpProtobufReceiverSettings(http_port=project.port)
    async with OtelTapHttpProtobufReceiver(settings) as receiver, anyio.create_task_group() as tasks:
        tasks.start_soon(take, receiver)
        code, _, err = await anyio.to_thread.run_sync(project, "run", "flow.json", "-q")
        assert code == 0, err
        code, out, err = await anyio.to_thread.run_sync(project, "spans", "export", "--json", "--timeout", "120s")
        assert code == 0, out + err
        assert json.loads((await anyio.to_thread.run_sync(project, "spans", "status", "--json"))[1]) == {"runs": []}
        promise, seen = await _promised(project), -1
        with anyio.move_on_after(120):  # it hands them over a moment after it took them
            while seen < len(received) or len({span.span_id for span in received}) < promise.count:
                seen = len(received)
                await anyio.sleep(2)
        tasks.cancel_scope.cancel()
    return received, promise
