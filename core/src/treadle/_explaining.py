"""Why a run went as it did: each decision with what it rests on, by deciding it again from the recorded facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from treadle._conductor import Conductor
from treadle._decisions import DecisionKind
from treadle._models import Entry, Json
from treadle._planned import Plan

__all__ = ["Explained", "explain"]


@attrs.frozen
class Explained:
    """An entry of a log.

    Attributes:
        seq: Its place, from 1.
        entry: The fact or decision.
        why: What a decision rests on; None for a fact.
        values: What the condition or list that was evaluated looked up: as it is written -> what it was.
    """

    seq: int
    entry: Entry
    why: DecisionKind | None = None
    values: Mapping[str, Json] = attrs.field(factory=dict, repr=False)


def explain(plan: Plan, entries: Sequence[Entry]) -> list[Explained]:
    """Each entry of a log with what it rests on.

    Nothing is guessed: the facts are applied again, by the rules of their time, and lead to the decisions; conditions are
    evaluated again with the values of then.

    Args:
        plan: Of the log's workflow.
        entries: The log.

    Raises:
        ReplayMismatchError: The facts do not lead to the decisions that were recorded, or an expression to its value.
    """
    told: list[Explained] = []

    def tell(entry: Entry, why: DecisionKind | None, values: Mapping[str, Json]) -> None:
        told.append(Explained(len(told) + 1, entry, why, values))

    Conductor(plan).replay(entries, told=tell)
    return told
