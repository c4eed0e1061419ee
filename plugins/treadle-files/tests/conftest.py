"""What the tests of this plugin share: a root folder, and the context of one call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from treadle.testing import FakeSyncContext
from treadle_files import FileRoot, Files


@pytest.fixture
def ctx() -> FakeSyncContext:
    return FakeSyncContext(
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


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileRoot]:
    """A root with a secret beside it."""
    (tmp_path / "secret.txt").write_text("private")
    root = tmp_path / "root"
    root.mkdir()
    with Files(root=str(root)).open() as opened:
        yield opened
