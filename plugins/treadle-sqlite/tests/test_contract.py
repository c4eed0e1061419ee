"""The SQLite store keeps the contract of stores, with either durability."""

from __future__ import annotations

from pathlib import Path

from treadle.ports import Store
from treadle.testing import StoreContract
from treadle_sqlite import SqliteStore


class TestSqliteStore(StoreContract):
    """The port's promises, on a file that is synchronised at every commit (G1, G3, G6, G8, G13)."""

    def make_store(self, folder: Path) -> Store:
        return SqliteStore(path=folder / "runs.db")


class TestSqliteStoreNormal(StoreContract):
    """The same with ``durability = "normal"``."""

    def make_store(self, folder: Path) -> Store:
        return SqliteStore(path=folder / "runs.db", durability="normal")
