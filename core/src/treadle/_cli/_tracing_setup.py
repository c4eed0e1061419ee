"""Tracing of the command itself: set up only when the environment asks for it and the host has not done so."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping

from treadle._cli._failures import describe
from treadle._cli._output import count, say
from treadle._outbox import Outbox, SpanReport
from treadle._plugins import Registry
from treadle._run_settings import run_settings
from treadle.errors import ConfigError, TreadleError
from treadle.ports import Store, TracingProvider

_PLUGIN = "otlp"
_SHUTDOWN_S, _SPARE_S = 2.0, 0.25


def set_up_tracing(registry: Registry, *, is_strict: bool = False) -> TracingProvider | None:
    """Set up the pipeline that the environment names; None when it names none or one is there already.

    Trouble with tracing is a line on stderr and not the end of a run, unless ``is_strict``.

    Raises:
        ConfigError: It cannot be set up, with ``is_strict``.
    """
    if not is_wanted(os.environ) or _has_provider():
        return None
    try:
        return _set_up(registry)
    except ConfigError as error:
        if is_strict:
            raise
        say(describe(error))
        return None


def _set_up(registry: Registry) -> TracingProvider:
    if not any(entry.name == _PLUGIN for entry in registry.entries("treadle.tracing")):
        raise ConfigError("Tracing is asked for (OTEL_... is set), but nothing can export it: pip install treadle-otlp")
    try:
        setup = registry.tracing(_PLUGIN)
        provider: TracingProvider = setup(service_name="treadle")  # type: ignore[operator]  # the entry point's promise
    except TreadleError as error:
        raise ConfigError(f"Tracing is off: {error.problem}", error.remedy) from error
    except Exception as error:  # foreign code: a plugin's set-up
        raise ConfigError(f"Tracing is off: {type(error).__name__}: {error}") from error
    return provider


def _has_provider() -> bool:
    """Whether somebody set a provider; nobody can have before the API was imported, which takes tens of milliseconds."""
    if "opentelemetry.trace" not in sys.modules:
        return False
    from opentelemetry import trace  # imported by somebody already

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces or metrics."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    traces, metrics = (environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower() for signal in ("TRACES", "METRICS"))
    if {traces, metrics} - {"", "none"}:
        return True
    if traces == "none":
        return False
    return any(name.startswith("OTEL_EXPORTER_OTLP_") and value for name, value in environ.items())


def make_outbox(provider: TracingProvider | None, store: Store, registry: Registry) -> Outbox | None:
    """What sends the spans of the runs that ``store`` keeps; None when they go through the provider, if anywhere."""
    sender = provider.sender if provider is not None and store.is_durable else None
    return None if sender is None else Outbox(store, sender, patience_s=run_settings(registry.config).span_patience_s)


def shut_down(provider: TracingProvider | None, outbox: Outbox | None = None) -> None:
    """Deliver what is left, both at once, in two seconds; one line says what was not delivered."""
    if provider is None:
        return
    lines: list[str] = []
    deadline = time.monotonic() + _SHUTDOWN_S

    def close() -> None:
        try:
            lines.append(provider.shutdown(_SHUTDOWN_S))
        except Exception as error:  # foreign code: a plugin's shutdown
            lines.append(f"Traces may be lost: {type(error).__name__}: {error}")

    thread = threading.Thread(target=close, name="treadle-tracing-close", daemon=True)
    thread.start()
    if outbox is not None and provider.sender is not None:
        lines.insert(0, undelivered(outbox.close(_SHUTDOWN_S), provider.sender.endpoint))
    thread.join(max(_SPARE_S, deadline + _SPARE_S - time.monotonic()))  # both had the same two seconds
    if any(lines):
        say("; ".join(filter(None, lines)))


def undelivered(report: SpanReport, endpoint: str) -> str:
    """What a report says that people should know, in a line; empty when everything was delivered."""
    said = []
    if report.left or report.runs_left:
        what = [count(report.left, "span")] if report.left else []
        what += [f"the spans of {count(report.runs_left, 'earlier run')}"] if report.runs_left else []
        verb = "was" if report.left == 1 and not report.runs_left else "were"
        said.append(
            f"{' and '.join(what)} {verb} not delivered to {endpoint}: {report.reason}."
            " The store keeps them; the next run sends them, or treadle spans export"
        )
    if report.refused:
        said.append(
            f"{count(report.refused, 'span')} {'was' if report.refused == 1 else 'were'} refused by {endpoint}:"
            f" {report.refusal}. The store keeps them: treadle spans status"
        )
    return "; ".join(said)
