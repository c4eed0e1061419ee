"""A store whose process crashes when a test says so."""

from __future__ import annotations

from treadle._memory import MemoryStore
from treadle.errors import StoreUnavailableError
from treadle.ports import Claim, Commit, Rows


class CrashingStore(MemoryStore):
    """Counts as durable; when the process has crashed it takes nothing, and nobody lets go of the run."""

    is_durable = True
    is_crashed = False

    async def commit(self, commit: Commit) -> None:
        if self.is_crashed:
            raise StoreUnavailableError("crashed")
        await super().commit(commit)

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        if not self.is_crashed:
            await super().release(claim, rows)
