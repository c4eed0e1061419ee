"""The exporters that the settings name: OTLP over HTTP or gRPC, the console, or another distribution's."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter
from treadle.errors import ConfigError

from treadle_otlp._settings import Settings, Signal

__all__ = ["metric_exporters", "span_exporters"]


def span_exporters(settings: Settings) -> list[SpanExporter]:
    """One exporter for each name of the settings.

    Raises:
        ConfigError: No installed distribution has an exporter of that name.
    """
    return [_span_exporter(name, settings) for name in settings.exporters]


def metric_exporters(settings: Settings) -> list[MetricExporter]:
    """One exporter for each name of the settings.

    Raises:
        ConfigError: No installed distribution has an exporter of that name.
    """
    return [_metric_exporter(name, settings) for name in settings.exporters]


def _span_exporter(name: str, settings: Settings) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter(out=sys.stderr)  # stdout belongs to the command's own output
    if name != "otlp":
        made = _foreign("traces", name)
        assert isinstance(made, SpanExporter), f"{name} is an exporter of traces"
        return made
    # Each protocol's libraries take a tenth of a second to import; only one is needed.
    if settings.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp

    return OverHttp()


def _metric_exporter(name: str, settings: Settings) -> MetricExporter:
    if name == "console":
        return ConsoleMetricExporter(out=sys.stderr)
    if name != "otlp":
        made = _foreign("metrics", name)
        assert isinstance(made, MetricExporter), f"{name} is an exporter of metrics"
        return made
    if settings.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as OverGrpc

        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as OverHttp

    return OverHttp()


def _foreign(signal: Signal, name: str) -> object:
    """An exporter of OpenTelemetry's own entry-point group."""
    found = list(entry_points(group=f"opentelemetry_{signal}_exporter", name=name))
    if not found:
        variable = f"OTEL_{signal.upper()}_EXPORTER"
        raise ConfigError(
            f"{variable} names {name!r}, and no installed distribution has that exporter.",
            f"Set {variable} to otlp, console or none, or install the exporter.",
        )
    return found[0].load()()
