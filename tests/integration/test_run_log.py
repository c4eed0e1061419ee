"""The log of a real run as JSON lines, set up as docs/how-to/send-traces-to-a-backend.md shows."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from treadle import (
    Context,
    CorrelationFilter,
    JsonLogFormatter,
    OperationLog,
    Registry,
    SyncContext,
    TransientError,
    Workflow,
    executor,
    run,
)


@executor("demo.greet")
async def greet(ctx: Context, /, name: str) -> str:
    """Fails once, then greets."""
    logging.getLogger("acme.greetings").info("greeting %s", name)
    if ctx.attempt == 1:
        raise TransientError("not yet")
    return f"hello {name}"


@executor("demo.shout")
def shout(ctx: SyncContext, /, text: str) -> str:
    """Runs in a thread."""
    ctx.log.warning("shouting")
    return text.upper()


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The root logger writes JSON lines into memory, as an application's would to stderr."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(CorrelationFilter())
    handler.setFormatter(JsonLogFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_run_can_be_followed_by_its_log(stream: io.StringIO) -> None:
    """S1-65: operations, the executor's own lines and those of its libraries are JSON lines that name run, step and trace."""
    workflow = Workflow("greetings")
    greeting = workflow.step("greet", "demo.greet", name="you", retry={"base": "1ms"})
    workflow.step("shout", "demo.shout", text=greeting.output)
    result = run(workflow, registry=Registry.of(greet, shout), sinks=[OperationLog()])
    result.check()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    ours = [line for line in lines if line["logger"].startswith(("treadle.run", "treadle.step", "acme"))]
    assert {(line["run_id"], line["trace_id"]) for line in ours} == {(result.run_id, result.trace_id)}
    said = [(line["logger"], line["step"], line["attempt"]) for line in ours if line["logger"] != "treadle.run"]
    assert said == [
        ("acme.greetings", "greet", 1),
        ("acme.greetings", "greet", 2),
        ("treadle.step.demo.shout", "shout", 1),
    ]
    operations = [line["operation"] for line in ours if line["logger"] == "treadle.run"]
    assert (operations[0], operations[-1]) == ("RunCreated", "RunEnded")
    assert operations.count("AttemptEnded") == 3
    assert operations.count("RetryScheduled") == 1
    spans = {record.span_id for record in result.spans}
    assert {line["span_id"] for line in ours} <= spans
