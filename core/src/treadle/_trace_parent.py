"""The span that a run is started from, as W3C Trace Context carries it."""

from __future__ import annotations

import re

import attrs

__all__ = ["TraceParent", "parse_traceparent"]


@attrs.frozen
class TraceParent:
    """The span that a run is started from.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        flags: W3C trace flags; bit 0 says sampled.
        is_remote: It belongs to another process.
        tracestate: W3C ``tracestate``, empty for none.
    """

    trace_id: str
    span_id: str
    flags: int = 1
    is_remote: bool = True
    tracestate: str = ""


_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def parse_traceparent(text: str, tracestate: str = "") -> TraceParent | None:
    """The parent that a W3C ``traceparent`` names; None when it is empty or not valid, as W3C asks."""
    match = _TRACEPARENT.fullmatch(text.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, int(flags, 16), is_remote=True, tracestate=tracestate.strip())
