"""Contexts for tests that call an executor as a plain function: they remember what the executor did with them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import anyio.lowlevel

from treadle._call_context import CallFacts
from treadle._models import Call, Json, SpanKind
from treadle._step_log import StepLog

__all__ = ["FakeContext", "FakeSyncContext"]


class _Remembering(CallFacts):
    """What both kinds of context have in common.

    Args:
        call: The whole call; made of ``fields`` when None.
        **fields: Of the call, like ``path``, ``attempt`` or ``inputs``.

    Attributes:
        spans: The attributes of each span, with its ``name`` and ``kind``, in order; also those that are still open.
        progressed: ``(done, total, message)`` of each ``progress``.
        saved: ``(token, data)`` of each ``save`` and ``save_soon``. ``checkpoint`` is what the test puts there.
        heartbeats: How often ``heartbeat`` was called.
        processes: What ``own_process`` was told.
        fencing_token: 1, unless the test says otherwise.
    """

    __slots__ = ("_log", "fencing_token", "heartbeats", "processes", "progressed", "saved", "spans")

    def __init__(self, call: Call | None = None, **fields: object) -> None:
        given = {"run_id": "run-1", "workflow": "test", "path": "step", "executor": "test", "inputs": {}, **fields}
        super().__init__(call if call is not None else Call(**given))  # type: ignore[arg-type]  # the test's own fields
        self.spans: list[dict[str, object]] = []
        self.progressed: list[tuple[float, float | None, str]] = []
        self.saved: list[tuple[str, Json]] = []
        self.heartbeats = 0
        self.processes: list[int] = []
        self.fencing_token = 1
        self._log = StepLog(self.call.executor)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the executor, as in a run."""
        return self._log

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Remember how far the work is."""
        self.progressed.append((done, total, message))

    def save_soon(self, token: str, data: Json = None) -> None:
        """Remember it as saved."""
        self.saved.append((token, data))

    def heartbeat(self) -> None:
        """Count."""
        self.heartbeats += 1

    @contextmanager
    def span(
        self, name: str, *, kind: SpanKind = "client", attributes: Mapping[str, object] | None = None
    ) -> Iterator[dict[str, object]]:
        """Remember a span; what the block adds to its attributes is seen too."""
        seen = {"name": name, "kind": kind, **(attributes or {})}
        self.spans.append(seen)
        yield seen


class FakeContext(_Remembering):
    """Stands for the ``Context`` of an ``async def`` executor that a test calls as a plain function."""

    async def save(self, token: str, data: Json = None) -> None:
        """Remember it as saved."""
        await anyio.lowlevel.checkpoint()
        self.saved.append((token, data))

    async def own_process(self, pid: int) -> None:
        """Remember the process."""
        await anyio.lowlevel.checkpoint()
        self.processes.append(pid)


class FakeSyncContext(_Remembering):
    """Stands for the ``SyncContext`` of a ``def`` executor that a test calls as a plain function."""

    def save(self, token: str, data: Json = None) -> None:
        """Remember it as saved."""
        self.saved.append((token, data))

    def own_process(self, pid: int) -> None:
        """Remember the process."""
        self.processes.append(pid)
