"""Processes that set up tracing as a program does: a process has one provider for its whole life."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

# The receivers stand beside the tests, which pytest imports by path; their name is theirs alone in the workspace.
sys.path.insert(0, str(Path(__file__).parent))

from otlp_receivers import Ended, Run

PRELUDE = """
import time, treadle_otlp
from opentelemetry import trace, metrics
pipeline = treadle_otlp.setup()
tracer = trace.get_tracer("test")
def spans(n, **attributes):
    for i in range(n):
        tracer.start_span(f"span {i}", attributes=attributes).end()
"""


@pytest.fixture
def run() -> Run:
    """Run code after ``setup()`` in a process of its own, under the given variables alone."""

    def process(code: str, *, before: str = "", prelude: str = PRELUDE, **environ: str) -> Ended:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", before + prelude + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            env=inherited | environ,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return Ended(done.stdout.strip(), done.stderr.strip(), time.perf_counter() - began)

    return process


@pytest.fixture
def dead_endpoint() -> str:
    """An address where nobody listens."""
    return "http://127.0.0.1:9"
