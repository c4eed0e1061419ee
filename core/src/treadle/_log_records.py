"""Log records that say which run, step and attempt they belong to, and JSON lines of them.

The library installs no handler and no filter: whoever configures logging adds these to a handler.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

from treadle._models import Call
from treadle._telemetry import CORRELATION

__all__ = ["CorrelationFilter", "JsonLogFormatter", "call_fields", "current_call"]

current_call: ContextVar[Call | None] = ContextVar("treadle_current_call", default=None)
"""The call that the running code performs; set by the runner in the call's own context."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else on a record came with ``extra=``."""


def call_fields(call: Call | None) -> dict[str, object]:
    """The correlation fields of a call: what ``extra=`` of its log records holds; all None without a call."""
    if call is None:
        return dict.fromkeys(CORRELATION)
    return {
        "trace_id": call.trace_id or None,
        "span_id": call.span_id or None,
        "run_id": call.run_id,
        "workflow": call.workflow,
        "step": call.path,
        "index": call.index,
        "attempt": call.attempt,
    }


class CorrelationFilter(logging.Filter):
    """Adds ``trace_id span_id run_id workflow step index attempt`` to every record, None outside of a call.

    Add it to a *handler*: a logger's filters do not see the records of its children. A field that the record has
    already (from ``extra=``) stays.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; every record passes."""
        known = record.__dict__
        for name, value in call_fields(current_call.get()).items():
            known.setdefault(name, value)
        return True


class JsonLogFormatter(logging.Formatter):
    """Formats a record as one line: a JSON object with the fields of ``docs/reference/telemetry.md``.

    Fields of ``extra=`` follow under their own names. Works without CorrelationFilter when the handler formats in the
    thread that logged; with a queue between them, put the filter on the queue's handler.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object without a line break in it; never fails for what a record carries."""
        fields = call_fields(current_call.get())
        known = record.__dict__
        line: dict[str, object] = {
            "time": _utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, known.get(name, value)) for name, value in fields.items())
        line["exception"] = _exception(record)
        if record.stack_info:
            line["stack"] = record.stack_info
        for name, value in known.items():
            if name not in _STANDARD:
                line.setdefault(name, value)
        return json.dumps(_jsonable(line), separators=(",", ":"), allow_nan=False)


def _utc(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _exception(record: logging.LogRecord) -> dict[str, object] | None:
    if not record.exc_info or record.exc_info[0] is None:
        return None
    kind, error, stack = record.exc_info
    return {
        "type": kind.__qualname__,
        "message": _text(error),
        "stacktrace": "".join(traceback.format_exception(kind, error, stack)),
    }


def _jsonable(value: object, *, depth: int = 0) -> object:
    """What JSON can hold of ``value``: foreign objects become their text, deep nesting ends in it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth >= 8:
        return _text(value)
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item, depth=depth + 1) for item in value]
    return _text(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # foreign code: a log line must not fail because an object cannot describe itself
        return f"<{type(value).__qualname__} without text>"
