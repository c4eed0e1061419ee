"""The family of tools: a deadline of five minutes with its own words, and the sources' rules of trying again."""

from __future__ import annotations

from typing import ClassVar

from treadle import Executor
from treadle.errors import TreadleError

TIMEOUT_S = 300.0
"""Deadline of one attempt where the workflow names none."""


class ToolTimeoutError(TreadleError, TimeoutError):
    """A tool that was still running at its deadline; it is a TimeoutError, so the preset ``tool`` tries it again."""

    retryable = True

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        super().__init__(
            f"Tool execution exceeded {timeout_s:g}s", "Raise the step's 'timeout', or make the work of the tool shorter."
        )


class Tool(Executor):
    """Base of the family ``tool``: what a tool returns has the declared type, and nothing more is asked of it."""

    family: ClassVar[str] = "tool"
    timeout_s: ClassVar[float | None] = TIMEOUT_S
    retry_preset: ClassVar[str | None] = "tool"

    def timed_out(self, timeout_s: float) -> Exception | None:
        """The error of a tool at its deadline."""
        return ToolTimeoutError(timeout_s)
