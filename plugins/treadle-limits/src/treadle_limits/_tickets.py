"""Whose turn comes when: calls that were put off, which come back when there is to be room for them."""

from __future__ import annotations

CallName = tuple[str, str, int | None, str]  # run, step, item, variant

LATE_S = 10.0
"""How long after its time a call may come back and still go before those that came after it. One may never come back."""


class Tickets:
    """The calls of one rule that were put off, in the order in which they were."""

    def __init__(self) -> None:
        self._due: dict[CallName, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def put(self, name: CallName, due: float) -> None:
        """A call will come back."""
        self._due[name] = due

    def take(self, name: CallName) -> float | None:
        """A call has come back; answers when it was to, None when it was not put off or is too late."""
        return self._due.pop(name, None)

    def before(self, due: float) -> int:
        """How many are to come back before a time."""
        return sum(other < due for other in self._due.values())

    def forget(self, at: float) -> None:
        """Wait no more for those whose time was long ago."""
        for name, due in list(self._due.items()):
            if due + LATE_S >= at:
                break
            del self._due[name]

    def forget_run(self, run_id: str) -> None:
        """None of a run will come back."""
        for name in [name for name in self._due if name[0] == run_id]:
            del self._due[name]
