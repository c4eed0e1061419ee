"""What every context says of its call, wherever the call is performed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from treadle._attempt_span import traceparent_here
from treadle._contracts import contract_for
from treadle._json import NotJsonError
from treadle._meter import Meter, Spent
from treadle._models import Call, Json
from treadle._store_records import Checkpoint
from treadle.errors import BindError, CheckpointInvalidError

MAX_CHECKPOINT = 64 * 1024 * 1024
"""Bytes of a checkpoint's data as JSON."""

if TYPE_CHECKING:
    from decimal import Decimal

_making = threading.Lock()
"""Threads of one call may spend at the same time, and share its meter."""


class CallFacts:
    """The part of ``ports.Context`` that only reads the call.

    Args:
        call: The call.
    """

    __slots__ = ("call", "checkpoint", "meter")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.checkpoint: Checkpoint | None = None
        self.meter: Meter | None = None

    def spend(self, *, cost: int | str | Decimal | None = 0, tokens: int = 0, requests: int = 0) -> Spent:
        """Count what is about to be used up, or refuse it."""
        return (self.meter or self.start_meter()).spend(cost, tokens, requests)

    def start_meter(self) -> Meter:
        """The meter of the call, made when it is first needed."""
        with _making:
            if self.meter is None:
                self.meter = self._make_meter()
            return self.meter

    def _make_meter(self) -> Meter:
        return Meter(self.call.item, self.call.allowance)

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


def checked_checkpoint(item: str, token: str, data: object) -> Json:
    """A checkpoint's data as plain JSON of its own, whatever becomes of what was given.

    Raises:
        CheckpointInvalidError: It is not JSON, or too large: the message says where.
    """
    if not isinstance(token, str) or not token:
        raise CheckpointInvalidError(item, str(token), "the token must be a text that is not empty")
    try:
        return contract_for(type(data) if hasattr(type(data), "__annotations__") else object).to_plain(
            data, max_bytes=MAX_CHECKPOINT
        )
    except NotJsonError as error:
        raise CheckpointInvalidError(item, token, "; ".join(map(str, error.issues))) from error
    except BindError as error:
        raise CheckpointInvalidError(item, token, error.problem.rstrip(".")) from error
