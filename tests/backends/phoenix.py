"""Sends a run to Phoenix, over HTTP and over gRPC, and reads the trace back; the argument is its environment's bin folder."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from backend import Seen, compare, free_port, get, send, serving


def main(binaries: Path) -> None:
    """Both protocols against one server."""
    http, grpc = free_port(), free_port()
    base = f"http://127.0.0.1:{http}"
    with tempfile.TemporaryDirectory() as folder:
        environ = {
            "PHOENIX_WORKING_DIR": folder,
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(http),
            "PHOENIX_GRPC_PORT": str(grpc),
            "PHOENIX_TELEMETRY_ENABLED": "false",
        }
        with serving([str(binaries / "phoenix"), "serve"], Path(folder), f"{base}/healthz", **environ):
            over_http = send(OTEL_EXPORTER_OTLP_ENDPOINT=base)
            compare("phoenix over HTTP", over_http, lambda: read(base, over_http[0]["trace_id"]))
            over_grpc = send(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{grpc}", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
            compare("phoenix over gRPC", over_grpc, lambda: read(base, over_grpc[0]["trace_id"]))


def read(base: str, trace_id: str) -> list[Seen]:
    """The spans of a trace; Phoenix keeps no links and names kinds in its own way."""
    spans = get(f"{base}/v1/projects/default/spans?limit=1000")["data"]
    return [
        Seen(
            span_id=span["context"]["span_id"],
            parent_id=span["parent_id"] or "",
            name=span["name"],
            status=span["status_code"].lower(),
            attributes=span["attributes"],
            events=tuple(event["name"] for event in span["events"]),
        )
        for span in spans
        if span["context"]["trace_id"] == trace_id
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
