"""The server that these tests share, and what all of them need."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the modules that the tests share

from servers import PostgresServer, programs


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that another user may look into."""
    with tempfile.TemporaryDirectory(prefix="treadle-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def server_programs(server_folder: Path) -> Path:
    """Where ``initdb`` and ``pg_ctl`` are."""
    return programs(server_folder)


@pytest.fixture(scope="session")
def server(server_programs: Path, server_folder: Path) -> Iterator[PostgresServer]:
    """The server of most tests; each keeps to a schema of its own."""
    made = PostgresServer(server_programs, server_folder / "shared", syncs=False)
    yield made
    made.remove()


@pytest.fixture
def schema(request: pytest.FixtureRequest) -> str:
    """A schema for this test alone."""
    return "t_" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both event loops."""
    return str(request.param)
