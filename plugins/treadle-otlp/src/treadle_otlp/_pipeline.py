"""The pipeline of a process: providers with their exporters, and a shutdown that never takes longer than it may."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Mapping

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from treadle.ports import SpanSender, TracingProvider

from treadle_otlp._exporters import metric_exporters, span_exporters
from treadle_otlp._senders import make_sender
from treadle_otlp._settings import Settings, read_connection, read_limits, read_settings
from treadle_otlp._span_queue import SpanQueue
from treadle_otlp._trouble import ExportTrouble

__all__ = ["NothingToClose", "Pipeline", "setup"]

AT_EXIT_S = 2.0
"""How long the end of the process may wait where nobody called ``shutdown``."""

_log = logging.getLogger("treadle.otlp")


def setup(*, service_name: str = "treadle") -> TracingProvider:
    """Set up export of traces and metrics as the ``OTEL_*`` variables say.

    A provider that the process has already is used and never replaced: then nothing is set up, and the answer's
    ``shutdown`` leaves that provider to its owner.

    Args:
        service_name: ``service.name`` when neither ``OTEL_SERVICE_NAME`` nor ``OTEL_RESOURCE_ATTRIBUTES`` gives one.

    Raises:
        ConfigError: A variable names a protocol or an exporter that does not exist here.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return NothingToClose("OTEL_SDK_DISABLED is true: nothing is exported.")
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return NothingToClose(
            "The process has a tracer provider already: treadle uses it and leaves its shutdown to its owner."
        )
    return Pipeline(service_name, os.environ)


class NothingToClose:
    """The answer when there was nothing to set up.

    Attributes:
        note: Why, in a sentence.
        sender: None: spans go to whatever provider there is.
    """

    sender: SpanSender | None = None

    def __init__(self, note: str) -> None:
        self.note = note
        _log.info(note)

    def shutdown(self, timeout_s: float) -> str:
        """Nothing to deliver."""
        return ""


class Pipeline:
    """Providers that were set up for this process, and how to close them.

    Attributes:
        sender: Sends the spans of runs that a store keeps; None when something else than OTLP was asked for.

    Args:
        service_name: ``service.name`` unless the environment names one.
        environ: The standard variables; the SDK reads them from the process as well.
    """

    def __init__(self, service_name: str, environ: Mapping[str, str]) -> None:
        self._traces, self._metrics = read_settings("traces", environ), read_settings("metrics", environ)
        self._trouble = ExportTrouble()
        self._resource = Resource.create(_service(service_name, environ))
        self.sender = self._make_sender(environ)
        self._queues = self._set_up_traces(environ)
        self._meters = self._set_up_metrics()
        self._answer: str | None = None
        self._trouble.install()
        atexit.register(self._at_exit)

    def shutdown(self, timeout_s: float) -> str:
        """Deliver what is left within ``timeout_s``; one line about what was not delivered, or an empty text."""
        if self._answer is None:
            atexit.unregister(self._at_exit)
            self._answer = self._close(timeout_s)
        return self._answer

    def _make_sender(self, environ: Mapping[str, str]) -> SpanSender | None:
        """Of spans that are kept; only for OTLP alone, which says what became of a batch."""
        connection = read_connection(environ)
        if self._traces.exporters != ("otlp",) or connection is None:
            return None
        return make_sender(self._traces, connection, self._resource)

    def _set_up_traces(self, environ: Mapping[str, str]) -> list[SpanQueue]:
        trouble, limits = self._trouble, read_limits(environ)
        queues = [
            SpanQueue(
                exporter,
                limits,
                is_refused=lambda: trouble.is_final("traces"),
                delivered=lambda: trouble.forget("traces"),
                raised=lambda error: trouble.note("traces", error),
            )
            for exporter in span_exporters(self._traces)
        ]
        if queues:
            # The SDK's own exit hook waits half a minute for a collector that is away.
            tracers = TracerProvider(resource=self._resource, shutdown_on_exit=False)
            for queue in queues:
                tracers.add_span_processor(queue)
            trace.set_tracer_provider(tracers)
        return queues

    def _set_up_metrics(self) -> MeterProvider | None:
        readers = [PeriodicExportingMetricReader(exporter) for exporter in metric_exporters(self._metrics)]
        if not readers:
            return None
        meters = MeterProvider(readers, resource=self._resource, shutdown_on_exit=False)
        metrics.set_meter_provider(meters)
        return meters

    def _close(self, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        closing = self._close_metrics(timeout_s)
        lost = sum(queue.close(max(0.0, deadline - time.monotonic())) for queue in self._queues)
        closing.join(max(0.0, deadline - time.monotonic()))
        said = []
        if lost:
            said.append(
                _line(f"{lost} span was" if lost == 1 else f"{lost} spans were", self._traces, self._trouble.reason("traces"))
            )
        if closing.is_alive() or self._trouble.reason("metrics"):
            said.append(_line("metrics were", self._metrics, self._trouble.reason("metrics")))
        return "; ".join(said)

    def _close_metrics(self, timeout_s: float) -> threading.Thread:
        """Close them aside: the reader waits for its exporter, and that for a collector that may be away."""
        thread = threading.Thread(target=self._shut_meters_down, args=(timeout_s,), name="treadle-otlp-metrics", daemon=True)
        thread.start()
        return thread

    def _shut_meters_down(self, timeout_s: float) -> None:
        if self._meters is not None:
            try:
                self._meters.shutdown(timeout_s * 1000)
            except Exception as error:  # the SDK raises what its readers met
                _log.debug("Metrics were not shut down cleanly: %s", error)

    def _at_exit(self) -> None:
        """Nobody called ``shutdown``: do it, and say on the log what was lost."""
        if undelivered := self.shutdown(AT_EXIT_S):
            _log.warning(undelivered)


def _service(service_name: str, environ: Mapping[str, str]) -> dict[str, str]:
    if environ.get("OTEL_SERVICE_NAME", "").strip() or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        return {}
    return {"service.name": service_name}


def _line(what: str, settings: Settings, reason: str) -> str:
    return f"{what} not delivered to {settings.endpoint}: {reason or 'no answer in time'}"
