"""What the standard ``OTEL_*`` variables say; what they leave open is decided here, everything else by the SDK."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import attrs
from opentelemetry.util.re import parse_env_headers
from treadle.errors import ConfigError

__all__ = ["Connection", "Limits", "Settings", "Signal", "read_connection", "read_limits", "read_settings"]

Signal = Literal["traces", "metrics"]
Protocol = Literal["grpc", "http/protobuf"]

_DEFAULT_ENDPOINTS: dict[str, str] = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318"}


@attrs.frozen
class Settings:
    """Where one signal goes.

    Attributes:
        exporters: Names like ``otlp`` and ``console``; empty for a signal that goes nowhere.
        protocol: How OTLP is spoken.
        endpoint: Where to, as people are told; the exporter reads the variables itself.
    """

    exporters: tuple[str, ...]
    protocol: Protocol
    endpoint: str


@attrs.frozen
class Connection:
    """How the endpoint of traces is spoken to.

    Attributes:
        headers: Sent with every request; names in lower case. Never in repr.
        timeout_s: Longest wait for an answer.
        compression: ``gzip``, ``deflate`` or empty.
        certificate: File of the authorities that the server's certificate is checked against; empty for the usual ones.
        client_certificate: File of this process's own certificate; empty for none.
        client_key: File of its key.
        insecure: Whether gRPC goes without TLS, when the endpoint does not say.
    """

    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    timeout_s: float = 10.0
    compression: str = ""
    certificate: str = ""
    client_certificate: str = ""
    client_key: str = ""
    insecure: bool = False


@attrs.frozen
class Limits:
    """How much waits, and for how long.

    Attributes:
        queue: Most spans that wait; about 3 KB each.
        batch: Spans per request.
        delay_s: Longest wait of a span for its batch to fill.
        prompt_s: A collector that takes longer than this for a request does not hold the producer back.
        backoff_s: First wait after a request that failed for now; doubled up to half a minute.
    """

    queue: int = 16_384
    batch: int = 512
    delay_s: float = 1.0
    prompt_s: float = 1.0
    backoff_s: float = 1.0


def read_settings(signal: Signal, environ: Mapping[str, str]) -> Settings:
    """Where ``signal`` goes according to ``environ``.

    Raises:
        ConfigError: The protocol is none that can be spoken.
    """
    protocol = _protocol(signal, environ)
    return Settings(_exporters(signal, environ), protocol, _endpoint(signal, protocol, environ))


def _exporters(signal: Signal, environ: Mapping[str, str]) -> tuple[str, ...]:
    text = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if not text:
        return ("otlp",) if signal == "traces" or _metrics_have_an_endpoint(environ) else ()
    named = tuple(name.strip() for name in text.split(",") if name.strip())
    return tuple(name for name in named if name != "none")


def _metrics_have_an_endpoint(environ: Mapping[str, str]) -> bool:
    """Whether metrics were thought of: a backend that was named for traces alone need not take them."""
    if any(environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip() for name in ("ENDPOINT", "METRICS_ENDPOINT")):
        return True
    return not environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()


def _protocol(signal: Signal, environ: Mapping[str, str]) -> Protocol:
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        match environ.get(name, "").strip().lower():
            case "":
                continue
            case "grpc":
                return "grpc"
            case "http/protobuf":
                return "http/protobuf"
            case other:
                raise ConfigError(f"{name} is {other!r}, which cannot be spoken.", f"Set {name} to grpc or http/protobuf.")
    return "http/protobuf"


def _endpoint(signal: Signal, protocol: Protocol, environ: Mapping[str, str]) -> str:
    if own := environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip():
        return own
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or _DEFAULT_ENDPOINTS[protocol]
    return base if protocol == "grpc" else f"{base.rstrip('/')}/v1/{signal}"


def read_connection(environ: Mapping[str, str]) -> Connection | None:
    """How traces are sent; None when a part of it is known to OpenTelemetry's own exporter alone (a credential provider)."""
    if any(name.startswith("OTEL_PYTHON_EXPORTER_OTLP_") and "CREDENTIAL_PROVIDER" in name for name in environ):
        return None

    def said(name: str) -> str:
        both = (environ.get(f"OTEL_EXPORTER_OTLP_{prefix}{name}", "").strip() for prefix in ("TRACES_", ""))
        return next(filter(None, both), "")

    compression = said("COMPRESSION").lower()
    try:
        timeout_s = float(said("TIMEOUT") or 10)
    except ValueError:
        timeout_s = 10.0
    return Connection(
        headers=parse_env_headers(said("HEADERS"), liberal=True),
        timeout_s=timeout_s,
        compression=compression if compression in ("gzip", "deflate") else "",
        certificate=said("CERTIFICATE"),
        client_certificate=said("CLIENT_CERTIFICATE"),
        client_key=said("CLIENT_KEY"),
        insecure=said("INSECURE").lower() == "true",
    )


def read_limits(environ: Mapping[str, str]) -> Limits:
    """How much waits, as the variables of the batch processor (``OTEL_BSP_*``) say; a number that is none is passed over."""
    defaults = Limits()
    queue = _positive(environ, "OTEL_BSP_MAX_QUEUE_SIZE", defaults.queue)
    return Limits(
        queue=int(queue),
        batch=int(min(_positive(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", defaults.batch), queue)),
        delay_s=_positive(environ, "OTEL_BSP_SCHEDULE_DELAY", defaults.delay_s * 1000) / 1000,
    )


def _positive(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(environ.get(name, ""))
    except ValueError:
        return default
    return value if value > 0 else default
