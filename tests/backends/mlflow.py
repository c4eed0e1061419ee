"""Sends a run to MLflow over HTTP and reads the trace back with its client; the argument is its environment's bin folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from backend import Seen, compare, free_port, send, serving

READ = """
import json, sys
import mlflow

mlflow.set_tracking_uri(sys.argv[1])
spans = [
    {
        "trace_id": trace.info.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id or "",
        "name": span.name,
        "status": span.status.status_code.value.lower(),
        "attributes": dict(span.attributes),
        "events": [event.name for event in span.events],
        "links": [link.span_id for link in span.links],
    }
    for trace in mlflow.search_traces(locations=["0"], return_type="list")
    for span in trace.data.spans
]
json.dump(spans, sys.stdout, default=str)
"""


def main(binaries: Path) -> None:
    """One server, one protocol: MLflow speaks OTLP over HTTP alone."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        command = [str(binaries / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", f"{folder}/artifacts"]
        with serving([*command, *stores], Path(folder), f"{base}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
            records = send(OTEL_EXPORTER_OTLP_ENDPOINT=base, OTEL_EXPORTER_OTLP_HEADERS="x-mlflow-experiment-id=0")
            compare("mlflow over HTTP", records, lambda: read(binaries, base, records[0]["trace_id"]))


def read(binaries: Path, base: str, trace_id: str) -> list[Seen]:
    """The spans of a trace, links included; MLflow keeps no kinds."""
    # Not from this folder: a file of it has the client's name.
    done = subprocess.run(
        [str(binaries / "python"), "-P", "-c", READ, base], capture_output=True, text=True, timeout=120, cwd=binaries
    )
    if done.returncode:
        sys.exit(f"MLflow's client failed:\n{done.stderr[-4000:]}")
    return [
        Seen(
            span_id=span["span_id"],
            parent_id=span["parent_id"],
            name=span["name"],
            status=span["status"],
            attributes=span["attributes"],
            events=tuple(span["events"]),
            links=tuple(span["links"]),
        )
        for span in json.loads(done.stdout)
        if span["trace_id"].removeprefix("tr-") == trace_id
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
