"""The memory store: runs live as long as the process."""

from __future__ import annotations

from collections.abc import Sequence

from treadle._models import Entry, Record
from treadle.errors import StoreUnavailableError


class MemoryStore:
    """Keeps logs in lists. Nothing survives the process."""

    def __init__(self) -> None:
        self._logs: dict[str, list[Entry]] = {}

    async def append(self, run_id: str, seq: int, entries: Sequence[Entry]) -> None:
        """Keep entries.

        Raises:
            StoreUnavailableError: ``seq`` is not the next one: two owners write, or an append was lost.
        """
        log = self._logs.setdefault(run_id, [])
        if seq != len(log) + 1:
            raise StoreUnavailableError(
                f"Run {run_id}: entry {seq} was to be appended, but the log holds {len(log)}.",
                "Another process may drive this run; only one may.",
            )
        log.extend(entries)

    async def read(self, run_id: str) -> Sequence[Record]:
        """The log of a run; empty when there is none."""
        return [Record(run_id, seq, entry) for seq, entry in enumerate(self._logs.get(run_id, ()), 1)]

    def entries(self, run_id: str) -> Sequence[Entry]:
        """The log without its numbers, uncopied; for readers in this process."""
        return self._logs.get(run_id, ())

    def forget(self, run_id: str) -> None:
        """Free a run's log."""
        self._logs.pop(run_id, None)
