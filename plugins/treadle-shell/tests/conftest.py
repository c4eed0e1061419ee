"""What the tests of this plugin share: both event loops, and the context of one call."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, MutableMapping

import attrs
import pytest
from treadle.ports import Call, SpanKind


class _Log(logging.LoggerAdapter[logging.Logger]):
    """Lets what is extra reach the record, as the log of a call in a run does."""

    def process(self, msg: object, kwargs: MutableMapping[str, object]) -> tuple[object, MutableMapping[str, object]]:
        return msg, kwargs


@attrs.define
class OneCall:
    """The context of a single call, for executors that are called as plain functions."""

    call: Call

    @property
    def run_id(self) -> str:
        return self.call.run_id

    @property
    def step(self) -> str:
        return self.call.path

    @property
    def index(self) -> int | None:
        return self.call.index

    @property
    def attempt(self) -> int:
        return self.call.attempt

    @property
    def variant(self) -> str:
        return self.call.variant

    @property
    def idempotency_key(self) -> str:
        return self.call.idempotency_key

    @property
    def traceparent(self) -> str:
        return self.call.traceparent

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        return _Log(logging.getLogger("test"))

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        self.log.info("%s of %s %s", done, total, message)

    @contextlib.contextmanager
    def span(
        self, name: str, *, kind: SpanKind = "client", attributes: Mapping[str, object] | None = None
    ) -> Iterator[dict[str, object]]:
        yield dict(attributes or {})


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ctx() -> OneCall:
    return OneCall(
        Call(
            run_id="run-1",
            workflow="demo",
            path="build/compile",
            executor="shell.run",
            inputs={},
            index=3,
            attempt=2,
            trace_id="0af7651916cd43dd8448eb211c80319c",
            root_span_id="b7ad6b7169203331",
            trace_flags=1,
        )
    )
