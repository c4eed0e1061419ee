"""The log of one run while this process drives it: what the driver appends to, under the claim that it was given."""

from __future__ import annotations

from collections.abc import Sequence

from treadle._log_rows import LogRows
from treadle._models import Entry
from treadle._store_records import Claim, Commit
from treadle.ports import Store


class RunLog:
    """Appends to a run in a store.

    Args:
        store: Where it is kept.
        claim: The right to write.
        rows: Makes the rows that go with the entries; None for a store that does not want any.
    """

    def __init__(self, store: Store, claim: Claim, rows: LogRows | None) -> None:
        self._commit, self._run_id, self._epoch, self._rows = store.commit, claim.run_id, claim.epoch, rows

    async def append(self, seq: int, entries: Sequence[Entry]) -> None:
        """Make ``entries`` durable, all or none; returning is the acknowledgement.

        Args:
            seq: Place of the first, from 1.
            entries: Facts and decisions in order.

        Raises:
            LeaseLostError: Another process drives the run now.
            StoreUnavailableError: Nothing was kept.
        """
        if self._rows is None:
            await self._commit(Commit(self._run_id, self._epoch, seq, entries))
            return
        for entry in entries:
            self._rows.apply(entry)
        await self._commit(Commit(self._run_id, self._epoch, seq, entries, self._rows.take()))
