"""The memory store keeps the contract of stores."""

from __future__ import annotations

from pathlib import Path

from treadle._memory import MemoryStore
from treadle.ports import Store
from treadle.testing import StoreContract


class TestMemoryStore(StoreContract):
    """The port's promises, without the one of outliving the process (G3, G8, G13)."""

    def make_store(self, folder: Path) -> Store:
        del folder
        return MemoryStore()
