"""What the tests of this plugin share: both event loops, and the context of one call."""

from __future__ import annotations

import pytest
from treadle.testing import FakeContext


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ctx() -> FakeContext:
    return FakeContext(
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
