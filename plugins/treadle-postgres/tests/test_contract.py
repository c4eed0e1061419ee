"""The Postgres store keeps the contract of stores."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from servers import PostgresServer
from treadle import Secret
from treadle.ports import Store
from treadle.testing import StoreContract
from treadle_postgres import PostgresStore


class TestPostgresStore(StoreContract):
    """The port's promises, against a real server (G1, G3, G6, G8, G13)."""

    @pytest.fixture(autouse=True)
    def _use(self, server: PostgresServer) -> None:
        self.server = server

    def make_store(self, folder: Path) -> Store:
        schema = "c_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        return PostgresStore(Secret(self.server.dsn()), schema=schema, timeout_s=60)
