"""Log records that tell their run, step and attempt, and JSON lines of them with a fixed set of fields."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle import _telemetry as names
from treadle._log_records import CorrelationFilter, JsonLogFormatter, call_fields, current_call
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    Call,
    CancelRequested,
    Entry,
    ErrorInfo,
    Evaluated,
    ItemEnded,
    MapStarted,
    Outcome,
    Record,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SignalReceived,
    StepEnded,
    StepStatus,
    StintOpened,
    TimerFired,
)
from treadle._operation_log import OperationLog
from treadle._span_ids import attempt_span_id, step_span_id

TRACE, ROOT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALL = Call("run-1", "digest", "page", "http.request", {}, index=3, attempt=2, trace_id=TRACE, root_span_id=ROOT)
FIELDS = {
    "trace_id": TRACE,
    "span_id": attempt_span_id(TRACE, ROOT, "page", index=3, attempt=2),
    "run_id": "run-1",
    "workflow": "digest",
    "step": "page",
    "index": 3,
    "attempt": 2,
}
TYPES = {"string": str, "integer": int, "object": dict, "null": type(None)}


class Lines:
    """A logger that writes JSON lines into memory, as an application would set it up."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.addFilter(CorrelationFilter())
        self.handler.setFormatter(JsonLogFormatter())
        self.log = logging.getLogger("treadle.test_log_records")
        self.log.setLevel(logging.DEBUG)
        self.log.propagate = False
        self.log.addHandler(self.handler)

    @property
    def all(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def one(self) -> dict[str, object]:
        (line,) = self.all
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    yield made
    made.log.removeHandler(made.handler)


def in_call(function: Callable[[], object]) -> None:
    """Run ``function`` as the runner does: in a copied context that knows the call."""

    def performed() -> None:
        current_call.set(CALL)
        function()

    contextvars.copy_context().run(performed)


def test_a_json_line_has_the_fields_of_the_reference(lines: Lines) -> None:
    """S1-65: one JSON object per line with time, level, logger, message and the ids of run, step and trace."""
    in_call(lambda: lines.log.warning("page %s has %d words", "one", 7))

    line = lines.one
    at = datetime.fromisoformat(str(line.pop("time")))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert line == {
        "level": "WARNING",
        "logger": "treadle.test_log_records",
        "message": "page one has 7 words",
        **FIELDS,
        "exception": None,
    }


def test_every_line_has_every_field_in_its_order_and_type(lines: Lines) -> None:
    """Readers may rely on the keys: they are there outside of a call too, null where nothing is known (S1-65)."""
    lines.log.info("outside")
    in_call(lambda: lines.log.info("inside"))
    try:
        raise LookupError("no such page")
    except LookupError:
        lines.log.exception("failed")

    for line in lines.all:
        assert list(line) == [field.name for field in names.LOG_FIELDS]
        for field in names.LOG_FIELDS:
            allowed = tuple(TYPES[word] for word in field.type.split(" or "))
            assert isinstance(line[field.name], allowed), field
    assert {name for name, value in lines.all[0].items() if value is None} == {*names.CORRELATION, "exception"}


def test_an_exception_is_an_object(lines: Lines) -> None:
    """Type, message and stack, each in its place."""
    try:
        raise LookupError("no such page")
    except LookupError:
        lines.log.exception("failed")

    exception = lines.one["exception"]
    assert isinstance(exception, dict)
    assert (exception["type"], exception["message"]) == ("LookupError", "no such page")
    assert exception["stacktrace"].startswith("Traceback")
    assert exception["stacktrace"].rstrip().endswith("LookupError: no such page")


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_extra_fields_follow_whatever_they_hold(lines: Lines) -> None:
    """Foreign objects, NaN, deep nesting and objects that cannot describe themselves do not break a line."""
    deep: object = "end"
    for _ in range(50):
        deep = [deep]
    lines.log.info("x", extra={"rows": 3, "nan": float("nan"), "set": {1}, "mute": Mute(), "deep": deep, "map": {1: (2,)}})

    line = lines.one
    assert (line["rows"], line["nan"], line["set"], line["map"]) == (3, "nan", "{1}", {"1": [2]})
    assert line["mute"] == "<Mute without text>"
    assert "end" in str(line["deep"])


def test_what_extra_says_goes_before_the_current_call(lines: Lines) -> None:
    """An adapter that knows its run is not overruled."""
    in_call(lambda: lines.log.info("x", extra={"run_id": "other"}))
    assert (lines.one["run_id"], lines.one["step"]) == ("other", "page")


def test_the_stack_is_kept_when_it_was_asked_for(lines: Lines) -> None:
    """``stack_info`` has its own key."""
    lines.log.info("x", stack_info=True)
    assert "test_the_stack_is_kept" in str(lines.one["stack"])


@given(st.text(), st.dictionaries(st.text(), st.floats() | st.text() | st.none()))
def test_a_record_is_always_one_line_of_json(message: str, payload: dict[str, object]) -> None:
    """Line breaks, control characters and lone surrogates stay inside their string."""
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%s", (message,), None)
    record.payload = payload
    line = JsonLogFormatter().format(record)
    assert "\n" not in line
    assert line.isascii()
    assert json.loads(line)["message"] == message


def test_the_filter_serves_plain_formats_too() -> None:
    """``%(run_id)s`` works in any format once the filter is on the handler."""
    record = logging.makeLogRecord({"msg": "hello"})
    in_call(lambda: CorrelationFilter().filter(record))
    assert logging.Formatter("%(trace_id)s %(step)s[%(index)s] %(message)s").format(record) == f"{TRACE} page[3] hello"


def test_threads_and_nested_functions_know_their_call(lines: Lines) -> None:
    """A copied context carries the call into a worker thread; a thread of its own knows none."""

    def both() -> None:
        copied = contextvars.copy_context()
        for target in (lambda: copied.run(lines.log.info, "copied"), lambda: lines.log.info("own")):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

    in_call(both)
    assert [line["run_id"] for line in lines.all] == ["run-1", None]


def test_a_call_without_a_trace_has_no_ids() -> None:
    """Absent ids are null, not empty texts."""
    fields = call_fields(Call("run-1", "digest", "page", "x", {}))
    assert (fields["trace_id"], fields["span_id"], fields["index"], fields["run_id"]) == (None, None, None, "run-1")
    assert set(fields) == set(names.CORRELATION)


def test_the_library_installs_no_handler_and_no_filter() -> None:
    """Whoever owns the process configures logging."""
    assert "treadle._log_records" in sys.modules
    for name in ("treadle", "treadle.run", "treadle.tracing"):
        assert logging.getLogger(name).handlers == []
        assert logging.getLogger(name).filters == []


# -- operations ------------------------------------------------------------------------------------------------------------

BOOM = ErrorInfo("BoomError", "it broke\nbadly")
CREATED = RunCreated(
    at=1.0,
    run_id="run-1",
    workflow={"name": "digest"},
    workflow_hash="x",
    inputs={"token": "s3cret"},
    trace_id=TRACE,
    root_span_id=ROOT,
    trigger="cli",
)
OPERATIONS: list[tuple[Entry, str, str]] = [
    (CREATED, "INFO", "run run-1 of digest created by cli"),
    (StintOpened(1.0, 1, "host:7"), "INFO", "stint 1 opened by host:7 on local"),
    (Evaluated(1.0, "page", "when", value=True), "DEBUG", "when of page done"),
    (Evaluated(1.0, "", "outputs", error=BOOM), "WARNING", "outputs of the run failed: BoomError"),
    (MapStarted(1.0, "page", 4), "INFO", "page has 4 items"),
    (AttemptStarted(1.0, "page", 3, 1), "DEBUG", "page[3] attempt 1 started"),
    (
        AttemptEnded(2.0, "page", 3, 1, Outcome("failed", error=BOOM)),
        "WARNING",
        "page[3] attempt 1 failed: BoomError: it broke",
    ),
    (RetryScheduled(2.0, "page", 3, 1, 3, 4.5, "busy"), "WARNING", "page[3] will be tried again: attempt 2/3 in 2.5s: busy"),
    (AttemptEnded(3.0, "page", 3, 2, Outcome("completed", output="s3cret")), "DEBUG", "page[3] attempt 2 completed"),
    (ItemEnded(3.0, "page", 2, StepStatus.FAILED, 1, "gave up"), "ERROR", "page[2] failed: gave up"),
    (StepEnded(3.0, "page", StepStatus.COMPLETED), "INFO", "page completed"),
    (StepEnded(3.0, "late", StepStatus.TIMED_OUT, reason="too long"), "ERROR", "late timed_out: too long"),
    (SignalReceived(3.0, "go", "s3cret"), "INFO", "signal go received"),
    (TimerFired(3.0, "retry/page"), "DEBUG", "timer retry/page fired"),
    (CancelRequested(3.0), "WARNING", "cancel requested: cancel requested"),
    (RunStopping(3.0, "page failed"), "WARNING", "run is stopping: page failed"),
    (RunEnded(4.0, RunStatus.FAILED, "page failed"), "ERROR", "run failed: page failed"),
    (RunEnded(4.0, RunStatus.COMPLETED), "INFO", "run completed"),
]


def test_every_operation_of_a_run_can_be_logged(lines: Lines) -> None:
    """S1-65: each fact and decision is a JSON line with its kind, its level, and the ids of run, step and trace."""
    logger = logging.getLogger("treadle.run")
    logger.addHandler(lines.handler)
    logger.setLevel(logging.DEBUG)
    sink = OperationLog()
    try:
        for number, (entry, _, _) in enumerate(OPERATIONS, 1):
            sink.record_event(Record("run-1", number, entry))
    finally:
        logger.removeHandler(lines.handler)
        logger.setLevel(logging.NOTSET)

    assert [(line["level"], line["message"]) for line in lines.all] == [(level, said) for _, level, said in OPERATIONS]
    assert [line["operation"] for line in lines.all] == [entry.kind for entry, _, _ in OPERATIONS]
    assert {line["trace_id"] for line in lines.all} == {TRACE}
    assert {line["run_id"] for line in lines.all} == {"run-1"}
    assert "s3cret" not in lines.stream.getvalue()
    spans = {str(line["operation"]): line["span_id"] for line in lines.all}
    assert spans["RunEnded"] == ROOT
    assert spans["ItemEnded"] == step_span_id(TRACE, ROOT, "page")
    assert spans["AttemptStarted"] == attempt_span_id(TRACE, ROOT, "page", index=3)


def test_a_log_that_begins_in_the_middle_is_logged_without_a_trace(lines: Lines) -> None:
    """A sink that joined late still logs, with what it knows."""
    logger = logging.getLogger("treadle.run")
    logger.addHandler(lines.handler)
    try:
        OperationLog().record_event(Record("run-1", 9, RunEnded(4.0, RunStatus.FAILED, "page failed")))
    finally:
        logger.removeHandler(lines.handler)
    assert (lines.one["trace_id"], lines.one["span_id"], lines.one["run_id"]) == (None, None, "run-1")
