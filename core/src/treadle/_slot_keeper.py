"""Takes slots of the store for the calls of one run, and gives them back."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from treadle._models import FreeSlot, TakeSlot
from treadle._owner import is_gone
from treadle._paths import item_path
from treadle._store_records import Claim, SlotRequest
from treadle.ports import Store

ASK_S = 0.5
"""How often it is asked again for a slot that others hold; what this run gives back is asked for at once."""


class SlotKeeper:
    """Stands in line for a run's calls.

    Args:
        store: Has the slots.
        claim: Of the run; what it holds counts only while the claim does.
    """

    def __init__(self, store: Store, claim: Claim) -> None:
        self._store, self._claim = store, claim
        self._asked: dict[str, tuple[TakeSlot, SlotRequest]] = {}
        self._freed: list[str] = []
        self._changed = anyio.Event()

    def take(self, command: TakeSlot) -> None:
        """Stand in line from now on."""
        holder = item_path(command.path, command.index)
        self._asked[holder] = (command, SlotRequest(command.group, holder, command.limit, command.priority))
        self._changed.set()

    def free(self, command: FreeSlot) -> None:
        """Give back, or leave the line."""
        holder = item_path(command.path, command.index)
        self._asked.pop(holder, None)
        self._freed.append(holder)
        self._changed.set()

    async def keep(self, on_taken: Callable[[TakeSlot], None]) -> None:
        """Ask until cancelled; ``on_taken`` is called with what has its slot."""
        while True:
            self._changed = anyio.Event()  # what comes from here on is not overlooked
            if self._freed:
                freed, self._freed = self._freed, []
                await self._store.free_slots(self._claim, freed)
            if self._asked:
                await self._ask(on_taken)
            with anyio.move_on_after(ASK_S if self._asked else None):
                await self._changed.wait()

    async def _ask(self, on_taken: Callable[[TakeSlot], None]) -> None:
        requests = [request for _, request in self._asked.values()]
        taken = await self._store.take_slots(self._claim, requests, is_gone)
        for holder in [holder for holder in self._asked if holder in taken]:  # else it left the line: it is given back next
            on_taken(self._asked.pop(holder)[0])
