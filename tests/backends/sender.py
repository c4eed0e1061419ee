"""Runs a workflow with something of everything and prints its span records as JSON; the spans go where ``OTEL_*`` says."""

from __future__ import annotations

import json
import sys

import attrs
import treadle_otlp
from treadle import Context, Registry, SyncContext, TransientError, Workflow, executor, run


@executor("demo.fetch")
async def fetch(ctx: Context, /, url: str) -> str:
    """Fails the first time, and calls a service."""
    with ctx.span("GET", attributes={"server.address": url, "http.response.status_code": 200}):
        pass
    if ctx.attempt == 1:
        raise TransientError("the site is busy")
    return url


@executor("demo.count")
def count(ctx: SyncContext, /, word: str) -> int:
    """Counts letters, in a thread."""
    return len(word)


@executor("demo.break")
async def break_() -> str:
    """Fails for good."""
    raise ValueError("this never works")


def workflow() -> Workflow:
    """A retried step, a ``foreach``, a failed step, one that it takes along, a skipped one, and one that always runs."""
    made = Workflow("everything", on_error="continue")
    page = made.step("page", "demo.fetch", url="example.org", retry={"base": "1ms"})
    made.step("words", "demo.count", word="${{ item }}", foreach=["one", "three", "seven"], needs=[page])
    made.step("broken", "demo.break")
    made.step("after", "demo.count", word="x", needs=["broken"])
    made.step("never", "demo.count", word="x", when="1 > 2")
    made.finally_step("tidy", "demo.count", word="done")
    return made


def main() -> None:
    """Run it, deliver, and print ``{"undelivered": ..., "spans": [...]}``."""
    pipeline = treadle_otlp.setup()
    result = run(workflow(), registry=Registry.of(fetch, count, break_))
    undelivered = pipeline.shutdown(20)
    json.dump({"undelivered": undelivered, "spans": [attrs.asdict(span) for span in result.spans]}, sys.stdout)


if __name__ == "__main__":
    main()
