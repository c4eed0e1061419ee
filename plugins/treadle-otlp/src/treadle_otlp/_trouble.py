"""Why an exporter could not deliver: taken from what it logs, the only place where it says so."""

from __future__ import annotations

import logging
import re
import threading

__all__ = ["ExportTrouble", "plain", "short"]

_ROOT = "opentelemetry"

_PLAIN = (
    (re.compile(r"connection refused", re.IGNORECASE), "connection refused"),
    (re.compile(r"name or service not known|failed to resolve|DNS resolution|name resolution", re.IGNORECASE), "unknown host"),
    # A channel that is closed while it waits for an answer says that of itself.
    (re.compile(r"timed out|deadline.exceeded|channel closed", re.IGNORECASE), "no answer in time"),
    (re.compile(r"certificate|SSL", re.IGNORECASE), "the TLS certificate was not accepted"),
    (re.compile(r"connection (?:reset|aborted)|remote end closed", re.IGNORECASE), "the connection was cut"),
)
_HTTP = re.compile(r"batch code: (\d{3}), reason: (.*)", re.DOTALL)
_GRPC = re.compile(r"error code: StatusCode\.(\w+)(?:, error details: (.*))?", re.DOTALL)
_TRANSIENT = re.compile(r"Transient error (.*?) encountered while exporting .*?(?:details: (.*))?$", re.DOTALL)

_GRPC_RETRYABLE = {
    "CANCELLED",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNAVAILABLE",
    "DATA_LOSS",
}


class ExportTrouble(logging.Handler):
    """Remembers the last reason of each signal, and keeps exporters from writing to an unconfigured stderr."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._reasons: dict[str, str] = {}
        self._is_final: dict[str, bool] = {}
        self._guard = threading.Lock()

    def install(self) -> None:
        """Listen to OpenTelemetry's loggers until the process ends: exporters complain to the last.

        What a configured root logger does with their records stays as it is.
        """
        logging.getLogger(_ROOT).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Remember why."""
        message = record.getMessage()
        signal = "metrics" if "metric" in message.lower() or "metric" in record.name else "traces"
        if found := _reason(message):
            with self._guard:
                self._reasons[signal], self._is_final[signal] = found

    def note(self, signal: str, error: Exception) -> None:
        """Remember what an exporter raised: it may get through the next time."""
        text = f"{type(error).__name__}: {error}"
        with self._guard:
            self._reasons[signal], self._is_final[signal] = plain(text) or short(text), False

    def reason(self, signal: str) -> str:
        """The last reason, short; empty when there was none."""
        return self._reasons.get(signal, "")

    def is_final(self, signal: str) -> bool:
        """Whether the backend refused for good, so that trying again cannot help."""
        return self._is_final.get(signal, False)

    def forget(self, signal: str) -> None:
        """The signal got through."""
        if signal in self._reasons:
            with self._guard:
                self._reasons.pop(signal, None)
                self._is_final.pop(signal, None)


def _reason(message: str) -> tuple[str, bool] | None:
    """The short reason that a message gives, and whether it is final; None when it gives none."""
    if http := _HTTP.search(message):
        return f"{http[1]} {http[2]}".strip(), True
    if grpc := _GRPC.search(message):
        details = (grpc[2] or "").strip()
        return plain(details) or f"{grpc[1]} {details}".strip(), grpc[1] not in _GRPC_RETRYABLE
    if transient := _TRANSIENT.search(message):
        text = transient[2] or transient[1]
        return plain(text) or short(text), False
    if message.startswith(("Failed to export", "Exception while exporting")):
        found = plain(message)
        return (found, False) if found else None
    if "exceeds max_request_size" in message or message.startswith("Failed to encode"):
        return short(message), True
    return None


def plain(text: str) -> str:
    """A common trouble in a few words; empty when it is none."""
    return next((words for pattern, words in _PLAIN if pattern.search(text)), "")


def short(text: str) -> str:
    """A text on one line of 160 characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= 160 else line[:157] + "..."
