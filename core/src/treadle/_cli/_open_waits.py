"""What a run that goes on waits for."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from treadle._paths import item_path, plan_path
from treadle.ports import Entry, ItemEnded, StepEnded, WaitEnded, WaitStarted


@attrs.frozen
class Open:
    """A wait of a run that goes on.

    Attributes:
        path: The step.
        signal: What for; empty for a time alone.
        due: When it is over, or its timeout; None for never.
        is_approval: Whether ``treadle approve`` answers it.
        slot: The group that it waits for a slot of; empty when it is something else.
    """

    path: str
    signal: str
    due: float | None
    is_approval: bool = False
    slot: str = ""


def open_waits(entries: Sequence[Entry]) -> list[Open]:
    """What a run waits for, by its log, in the order in which it began to."""
    found: dict[str, Open] = {}
    for entry in entries:
        if isinstance(entry, WaitStarted):
            name = item_path(entry.path, entry.index)
            found[name] = Open(name, entry.signal, entry.due)
        elif isinstance(entry, WaitEnded | ItemEnded):
            found.pop(item_path(entry.path, entry.index), None)
        elif isinstance(entry, StepEnded):
            found.pop(entry.path, None)
    if not any(wait.signal for wait in found.values()):
        return list(found.values())
    # Only now: whoever looks at a run that waits for nothing need not read its workflow.
    from treadle._cli._recorded_plan import plan_of
    from treadle._sending import awaited

    approvals = {one.path for one in awaited(plan_of(entries)) if one.is_approval}
    return [attrs.evolve(wait, is_approval=plan_path(wait.path) in approvals) for wait in found.values()]
