"""Why something was not delivered, in a few words: taken from what exporters log and raise."""

from __future__ import annotations

import logging

import pytest
from treadle_otlp._trouble import ExportTrouble

HTTP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
GRPC = "opentelemetry.exporter.otlp.proto.grpc.exporter"


def heard(message: str, logger: str = HTTP) -> ExportTrouble:
    trouble = ExportTrouble()
    trouble.emit(logging.LogRecord(logger, logging.ERROR, "", 0, "%s", (message,), None))
    return trouble


@pytest.mark.parametrize(
    ("message", "reason", "is_final"),
    [
        (
            "Transient error HTTPConnectionPool(host='c', port=9): Max retries exceeded with url: /v1/traces (Caused by "
            "NewConnectionError(\"HTTPConnection(host='c', port=9): Failed to establish a new connection: [Errno 111] "
            'Connection refused")) encountered while exporting spans batch, retrying in 0.90s.',
            "connection refused",
            False,
        ),
        (
            "Transient error StatusCode.UNAVAILABLE encountered while exporting traces to c:9, retrying in 0.90s. Error "
            "details: failed to connect to all addresses; last error: UNKNOWN: connect: Connection refused (111)",
            "connection refused",
            False,
        ),
        (
            "Transient error StatusCode.UNAVAILABLE encountered while exporting traces to c:9, retrying in 0.90s.",
            "StatusCode.UNAVAILABLE",
            False,
        ),
        (
            "Transient error Service Unavailable encountered while exporting spans batch, retrying in 2.00s.",
            "Service Unavailable",
            False,
        ),
        ("Failed to export spans batch code: 401, reason: Unauthorized", "401 Unauthorized", True),
        ("Failed to export batch code: 413, reason: ", "413", True),
        ("Failed to export traces to c:9, error code: StatusCode.UNAUTHENTICATED", "UNAUTHENTICATED", True),
        (
            "Failed to export traces to c:9, error code: StatusCode.PERMISSION_DENIED, error details: no key",
            "PERMISSION_DENIED no key",
            True,
        ),
        (
            "Failed to export traces to c:9, error code: StatusCode.DEADLINE_EXCEEDED, error details: Deadline Exceeded",
            "no answer in time",
            False,
        ),
        (
            "Failed to export traces to c:9, error code: StatusCode.CANCELLED, error details: Channel closed!",
            "no answer in time",
            False,
        ),
        ("Failed to export spans batch code: None, reason: Read timed out.", "no answer in time", False),
        (
            "Dropping span batch: serialized size 99 bytes exceeds max_request_size 9 bytes.",
            "Dropping span batch: serialized size 99 bytes exceeds max_request_size 9 bytes.",
            True,
        ),
        ("Failed to encode span batch: bad", "Failed to encode span batch: bad", True),
        ("Failed to export spans batch due to timeout, max retries or shutdown.", "", False),
        ("Something else altogether", "", False),
    ],
)
def test_a_message_gives_its_reason(message: str, reason: str, is_final: bool) -> None:
    """Short words for what people know, the message's own for the rest; only a refusal is final."""
    trouble = heard(message)
    assert (trouble.reason("traces"), trouble.is_final("traces")) == (reason, is_final)
    assert trouble.reason("metrics") == ""


def test_signals_are_told_apart() -> None:
    """What is said of metrics is no trouble of the traces."""
    assert heard("Failed to export metrics batch code: 404, reason: Not Found").reason("metrics") == "404 Not Found"
    grpc = heard("Failed to export metrics to c:9, error code: StatusCode.UNIMPLEMENTED, error details: x", GRPC)
    assert (grpc.reason("metrics"), grpc.reason("traces")) == ("UNIMPLEMENTED x", "")


def test_what_is_raised_is_a_reason_too() -> None:
    """An exporter that raises instead of logging is understood, and forgotten once it gets through."""
    trouble = ExportTrouble()
    trouble.note("traces", ConnectionError("[Errno 111] Connection refused"))
    assert trouble.reason("traces") == "connection refused"
    trouble.note("traces", ValueError("x" * 500))
    assert trouble.reason("traces").startswith("ValueError: xxx")
    assert len(trouble.reason("traces")) == 160
    trouble.forget("traces")
    assert trouble.reason("traces") == ""
