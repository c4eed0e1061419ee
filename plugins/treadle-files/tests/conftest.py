"""What the tests of this plugin share: a root folder, and the context of one call."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest
from treadle.ports import Call, SpanKind
from treadle_files import FileRoot, Files


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
        return logging.LoggerAdapter(logging.getLogger("test"))

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        self.log.info("%s of %s %s", done, total, message)

    @contextlib.contextmanager
    def span(
        self, name: str, *, kind: SpanKind = "client", attributes: Mapping[str, object] | None = None
    ) -> Iterator[dict[str, object]]:
        yield dict(attributes or {})


@pytest.fixture
def ctx() -> OneCall:
    return OneCall(
        Call(
            run_id="run-1",
            workflow="demo",
            path="build/compile",
            executor="file.write",
            inputs={},
            index=3,
            attempt=2,
            trace_id="0af7651916cd43dd8448eb211c80319c",
            root_span_id="b7ad6b7169203331",
            trace_flags=1,
        )
    )


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileRoot]:
    """A root with a secret beside it."""
    (tmp_path / "secret.txt").write_text("private")
    root = tmp_path / "root"
    root.mkdir()
    with Files(root=str(root)).open() as opened:
        yield opened
