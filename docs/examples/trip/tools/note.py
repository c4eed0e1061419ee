"""Say something in the log."""

from __future__ import annotations

from treadle import SyncContext


def note(ctx: SyncContext, /, text: str) -> str:
    """Log a line, and return it."""
    ctx.log.info("%s", text)
    return text
