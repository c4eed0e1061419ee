"""What the standard variables mean here."""

from __future__ import annotations

from typing import Literal

import pytest
from treadle.errors import ConfigError
from treadle_otlp._settings import Limits, Settings, Signal, read_limits, read_settings

HTTP: Literal["http/protobuf"] = "http/protobuf"
GRPC: Literal["grpc"] = "grpc"


@pytest.mark.parametrize(
    ("signal", "environ", "expected"),
    [
        ("traces", {}, Settings(("otlp",), HTTP, "http://localhost:4318/v1/traces")),
        ("traces", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Settings(("otlp",), GRPC, "http://localhost:4317")),
        (
            "traces",
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            Settings(("otlp",), HTTP, "http://localhost:4318/v1/traces"),
        ),
        ("traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1/"}, Settings(("otlp",), HTTP, "http://c:1/v1/traces")),
        ("metrics", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1"}, Settings(("otlp",), HTTP, "http://c:1/v1/metrics")),
        ("traces", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/x"}, Settings(("otlp",), HTTP, "http://c:1/x")),
        ("traces", {"OTEL_TRACES_EXPORTER": "none"}, Settings((), HTTP, "http://localhost:4318/v1/traces")),
        (
            "traces",
            {"OTEL_TRACES_EXPORTER": "otlp, console"},
            Settings(("otlp", "console"), HTTP, "http://localhost:4318/v1/traces"),
        ),
        ("metrics", {}, Settings(("otlp",), HTTP, "http://localhost:4318/v1/metrics")),
        (
            "metrics",
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/x"},
            Settings((), HTTP, "http://localhost:4318/v1/metrics"),
        ),
        (
            "metrics",
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/x", "OTEL_METRICS_EXPORTER": "otlp"},
            Settings(("otlp",), HTTP, "http://localhost:4318/v1/metrics"),
        ),
        (
            "metrics",
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/x", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:1/y"},
            Settings(("otlp",), HTTP, "http://m:1/y"),
        ),
    ],
)
def test_where_a_signal_goes(signal: Signal, environ: dict[str, str], expected: Settings) -> None:
    """Own variables of a signal go before those of both; a backend named for traces alone gets no metrics."""
    assert read_settings(signal, environ) == expected


def test_a_protocol_that_cannot_be_spoken_is_refused() -> None:
    """The error names the variable and what to set it to."""
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'.*\n.*grpc or http/protobuf"):
        read_settings("traces", {"OTEL_EXPORTER_OTLP_PROTOCOL": "HTTP/json"})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Limits(queue=16_384, batch=512, delay_s=1.0)),
        (
            {
                "OTEL_BSP_MAX_QUEUE_SIZE": "100",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "512",
                "OTEL_BSP_SCHEDULE_DELAY": "250",
            },
            Limits(queue=100, batch=100, delay_s=0.25),
        ),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1", "OTEL_BSP_SCHEDULE_DELAY": "soon"}, Limits()),
    ],
)
def test_how_much_waits(environ: dict[str, str], expected: Limits) -> None:
    """The batch processor's variables are honoured; a batch never exceeds the queue; nonsense is passed over."""
    assert read_limits(environ) == expected
