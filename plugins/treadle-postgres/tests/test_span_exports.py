"""Spans of runs that are kept in Postgres leave from there, also when the process that drove them was killed."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
from collections import Counter

import anyio
import pytest
from servers import PostgresServer
from treadle import Outbox, Registry, Secret, executor, resume
from treadle.ports import Delivery, SpanBatch, SpanRecord
from treadle_postgres import PostgresStore

SCRIPT = """
import sys
from treadle import Outbox, Registry, Secret, Workflow, executor, run
from treadle.ports import Delivery
from treadle_postgres import PostgresStore

class Away:
    endpoint = "http://backend"
    def send(self, batch, timeout_s):
        return Delivery("later", "connection refused")

@executor("demo.count")
def count(number: int) -> int:
    return number

workflow = Workflow("killed")
for number in range(12):
    workflow.step(f"s{number}", "demo.count", needs=[f"s{number - 1}"] if number else [], number=number)
store = PostgresStore(Secret(sys.argv[1]), schema=sys.argv[2])
outbox = Outbox(store, Away())
registry = Registry.of(count)
run(workflow, registry=registry, store=store, sinks=[outbox], on_start=lambda handle: print(handle.run_id, flush=True))
"""


class Backend:
    """Takes everything."""

    endpoint = "http://backend"

    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []

    def send(self, batch: SpanBatch, timeout_s: float) -> Delivery:
        """Take a batch."""
        self.spans += batch.spans
        return Delivery("delivered")


@executor("demo.count")
def count(number: int) -> int:
    """The same as in the script."""
    return number


@pytest.mark.parametrize("commit", [4, 9, 0])
def test_the_trace_of_a_killed_run_is_whole(server: PostgresServer, schema: str, commit: int) -> None:
    """Nobody took its spans before; another process sends them all, each once, those of the first stint among them."""
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, server.dsn(), schema],
        env=os.environ | ({"TREADLE_FAULTS": f"committed:{commit}"} if commit else {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == (-signals.SIGKILL if commit else 0), killed.stderr
    run_id, backend = killed.stdout.strip(), Backend()
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    outbox = Outbox(store, backend)

    result = resume(run_id, registry=Registry.of(count), store=store, sinks=[outbox]) if commit else None
    report = outbox.close(60) if commit else outbox.drain(60)
    (export,) = anyio.run(lambda: store.span_exports(run_id=run_id))
    store.close()

    assert result is None or result.check()
    assert report.is_done
    names = Counter(span.name for span in backend.spans)
    assert names["RUN killed"] == 1
    assert {name for name in names if name.startswith("s")} == {f"s{number}" for number in range(12)}
    assert {len(backend.spans), len({span.span_id for span in backend.spans}), export.sent} == {sum(names.values())}
    assert len({span.trace_id for span in backend.spans}) == 1
    assert (export.is_open, export.seq) == (False, export.count)
