"""What every context says of its call, wherever the call is performed."""

from __future__ import annotations

from treadle._attempt_span import traceparent_here
from treadle._models import Call


class CallFacts:
    """The part of ``ports.Context`` that only reads the call.

    Args:
        call: The call.
    """

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call

    @property
    def run_id(self) -> str:
        """The run."""
        return self.call.run_id

    @property
    def step(self) -> str:
        """The step's path."""
        return self.call.path

    @property
    def index(self) -> int | None:
        """Item of a ``foreach``, from 0."""
        return self.call.index

    @property
    def attempt(self) -> int:
        """From 1."""
        return self.call.attempt

    @property
    def variant(self) -> str:
        """Which of the step's executors."""
        return self.call.variant

    @property
    def idempotency_key(self) -> str:
        """Equal for every attempt of this step and item."""
        return self.call.idempotency_key

    @property
    def traceparent(self) -> str:
        """W3C header, of the client-call span that the code is in, else of the attempt; empty without a trace."""
        return traceparent_here(self.call)
