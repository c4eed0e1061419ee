"""The log of one run while this process drives it: what the driver appends to, under the claim that it was given."""

from __future__ import annotations

from collections.abc import Sequence

from treadle._log_rows import LogRows
from treadle._models import Entry
from treadle._store_records import Claim, Commit
from treadle.ports import Store


class RunLog:
    """Appends to a run in a store: ``await log.commit(log.pack(seq, entries))``; returning is the acknowledgement.

    Two calls, because a coroutine around the store's own is felt at every step.

    Args:
        store: Where it is kept.
        claim: The right to write.
        rows: Makes the rows that go with the entries; None for a store that does not want any.
    """

    def __init__(self, store: Store, claim: Claim, rows: LogRows | None) -> None:
        self.commit = store.commit
        self._run_id, self._epoch, self._rows = claim.run_id, claim.epoch, rows

    def pack(self, seq: int, entries: Sequence[Entry], *, is_alone: bool = False) -> Commit:
        """What makes ``entries`` durable; ``seq`` is the place of the first, ``is_alone`` as of ``Commit``."""
        rows = self._rows
        if rows is None:
            return Commit(self._run_id, self._epoch, seq, entries)
        for entry in entries:
            rows.apply(entry)
        return Commit(self._run_id, self._epoch, seq, entries, rows.take(), is_alone)
