"""Trace and span ids of a run: two are drawn once, all others are hashes, so a replay gives the same ones.

Every hash starts from the root span's id, not from the trace id alone: runs under one caller share their trace, and the
steps of two runs must not share ids.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

__all__ = ["Bits", "attempt_span_id", "new_span_id", "new_trace_ids", "step_span_id"]


class Bits(Protocol):
    """A source of random bits, like ``random.Random``; given by the caller, so that this module stays pure."""

    def getrandbits(self, k: int, /) -> int:
        """A whole number below ``2**k``."""


def new_trace_ids(random: Bits) -> tuple[str, str]:
    """A new trace id (32 hex digits) and a new root span id (16); never all zeros, which W3C forbids."""
    return f"{_some_bits(random, 128):032x}", new_span_id(random)


def new_span_id(random: Bits) -> str:
    """A new span id: 16 hex digits, never all zeros."""
    return f"{_some_bits(random, 64):016x}"


def step_span_id(trace_id: str, root_span_id: str, path: str, *, generation: int = 1) -> str:
    """The span id of a step: 16 hex digits. All items, attempts and stints of the step share it.

    Args:
        trace_id: From RunCreated.
        root_span_id: From RunCreated.
        path: The step, like ``finally/notify``.
        generation: Raised by an explicit retry of a finished run.
    """
    return _hashed("step", trace_id, root_span_id, path, str(generation))


def attempt_span_id(
    trace_id: str,
    root_span_id: str,
    path: str,
    *,
    index: int | None = None,
    variant: str = "primary",
    generation: int = 1,
    attempt: int = 1,
    stint: int = 1,
) -> str:
    """The span id of one attempt: 16 hex digits; the stint tells an attempt from its rerun after a crash."""
    item = "" if index is None else str(index)
    return _hashed("attempt", trace_id, root_span_id, path, item, variant, str(generation), str(attempt), str(stint))


def _some_bits(random: Bits, k: int) -> int:
    while not (bits := random.getrandbits(k)):
        pass
    return bits


def _hashed(*parts: str) -> str:
    digest = hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()
    # W3C forbids a span id of zeros; one of 2**64 hashes would be it.
    return digest if digest != "0" * 16 else "0" * 15 + "1"
