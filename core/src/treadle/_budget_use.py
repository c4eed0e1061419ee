"""What has been used of a run's budgets: a projection of its log, which comes to the same as the ledger. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import attrs

from treadle._budgets import DIVIDED, Budget
from treadle._graph import Graph, walk
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    Entry,
    Evaluated,
    ItemEnded,
    Json,
    Resource,
    RetryRequested,
    RunEnded,
    SlotTaken,
    StepEnded,
    StepUsage,
    StintOpened,
    UsageNoted,
)
from treadle._money import format_money
from treadle._paths import plan_path, scope_path, split_item

__all__ = ["BudgetUse", "budget_uses", "usage_data"]

_NOTHING = StepUsage()


@attrs.frozen
class BudgetUse:
    """What was used of one budget, by all attempts of all generations.

    Attributes:
        path: What it belongs to: a step or group, empty for the run.
        budget: What it may use up.
        used: What attempts said they used.
        lost: What counts as used beside that, because a crash interrupted calls that might have used it.
        began_at: When its time began, seconds since the epoch; None before.
        ended_at: When its step, or the run, ended; None while it goes on.
    """

    path: str
    budget: Budget
    used: StepUsage = _NOTHING
    lost: StepUsage = _NOTHING
    began_at: float | None = None
    ended_at: float | None = None

    @property
    def total(self) -> StepUsage:
        """What counts."""
        return self.used + self.lost

    @property
    def is_used_up(self) -> bool:
        """Whether nothing is left of something that it limits, time aside."""
        limits = {name: self.budget.limit(name) for name in DIVIDED}
        return any(limit is not None and getattr(self.total, name) >= limit for name, limit in limits.items())

    def time_used_s(self, now: float) -> float:
        """Seconds of its ``wall_time``, which begins anew when a run is retried."""
        return 0.0 if self.began_at is None else (now if self.ended_at is None else self.ended_at) - self.began_at

    def to_dict(self, now: float) -> dict[str, Json]:
        """What ``--json`` prints of it: each resource that is limited, money in microcents."""
        told: dict[str, Json] = {"path": self.path, "mode": self.budget.mode}
        for name in DIVIDED:
            limit = self.budget.limit(name)
            if limit is not None:
                told[_key(name)] = {"used": getattr(self.total, name), "limit": limit}
        if self.budget.wall_time_s is not None:
            told["wall_time_s"] = {"used": round(self.time_used_s(now), 6), "limit": self.budget.wall_time_s}
        if self.lost:
            lost = {_key(name): getattr(self.lost, name) for name in DIVIDED if getattr(self.lost, name)}
            told["lost"] = cast("Json", lost)
        return told


def usage_data(usage: StepUsage) -> dict[str, Json]:
    """What was used up, as ``--json`` prints it."""
    cost = {"cost_microcents": usage.cost, "cost_usd": format_money(usage.cost)}
    return {**cost, "tokens": usage.tokens, "requests": usage.requests}


def budget_uses(graph: Graph, entries: Iterable[Entry]) -> list[BudgetUse]:
    """The budgets of a run and what was used of each, the run's first, then in the order in which they began.

    Args:
        graph: What the run does.
        entries: Its log.
    """
    if not graph.has_budget:
        return []
    books = _Books(graph)
    for entry in entries:
        books.apply(entry)
    return list(books.uses.values())


class _Books:
    """Keeps one account for each budget that something has happened under."""

    def __init__(self, graph: Graph) -> None:
        self._budgets: Mapping[str, Budget] = {node.path: node.budget for node in walk(graph.nodes) if node.budget is not None}
        self._has_slot, self._generation = graph.has_slot, 1
        self._running: dict[tuple[str, int | None], AttemptStarted] = {}
        self.uses: dict[str, BudgetUse] = {}
        if graph.budget is not None:
            self.uses[""] = BudgetUse("", graph.budget)

    def apply(self, entry: Entry) -> None:
        """Take an entry in."""
        match entry:
            case AttemptStarted():
                self._running[entry.path, entry.index] = entry
                self._begin(entry.path, entry.at)
            case AttemptEnded():
                self._settle(entry)
            case UsageNoted():
                self._note(entry)
            case Evaluated(what="inputs", error=error) if error is not None:
                self._running.pop((entry.path, entry.index), None)
            case ItemEnded():
                self._running.pop((entry.path, entry.index), None)
            case StepEnded():
                self._running.pop((entry.path, None), None)
                self._end(entry.path, entry.at)
            case StintOpened():
                self._lose()
                if not self._has_slot or self._generation > 1:
                    self._begin("", entry.at)
            case SlotTaken(path=""):
                self._begin("", entry.at)
            case RetryRequested():
                self._generation = entry.generation
                for path, use in self.uses.items():
                    self.uses[path] = attrs.evolve(use, began_at=None, ended_at=None)
            case RunEnded():
                self._end("", entry.at)
            case _:
                pass

    def _of(self, path: str) -> Iterator[BudgetUse]:
        """The budgets that a step is under, from its own outwards."""
        while path:
            budget = self._budgets.get(plan_path(path))
            if budget is not None:
                yield self.uses.setdefault(path, BudgetUse(path, budget))
            path = split_item(scope_path(path))[0]
        if "" in self.uses:
            yield self.uses[""]

    def _begin(self, path: str, at: float) -> None:
        for use in list(self._of(path)):
            if use.began_at is None:
                self.uses[use.path] = attrs.evolve(use, began_at=at)

    def _end(self, path: str, at: float) -> None:
        if path in self.uses:
            self.uses[path] = attrs.evolve(self.uses[path], ended_at=at)

    def _is_running(self, entry: AttemptEnded | UsageNoted) -> bool:
        """Whether an entry is about what runs; else it came too late and is evidence only."""
        started = self._running.get((entry.path, entry.index))
        return started is not None and (started.attempt, started.variant) == (entry.attempt, entry.variant)

    def _settle(self, entry: AttemptEnded) -> None:
        if self._is_running(entry):
            del self._running[entry.path, entry.index]
            if entry.outcome.usage is not None:
                self._use(entry.path, entry.outcome.usage)

    def _note(self, entry: UsageNoted) -> None:
        if not self._is_running(entry):
            return
        place = entry.path, entry.index
        started = self._running[place]
        # What was set aside for it and is not used yet; the rest counts as used from now on.
        left = [
            attrs.evolve(limit, most=max(0, limit.most - getattr(entry.usage, limit.resource)))
            if limit.resource != "wall_time"
            else limit
            for limit in started.allowance
        ]
        self._running[place] = attrs.evolve(started, allowance=tuple(left))
        self._use(entry.path, entry.usage)

    def _use(self, path: str, usage: StepUsage) -> None:
        for use in list(self._of(path)):
            self.uses[use.path] = attrs.evolve(use, used=use.used + usage)

    def _lose(self) -> None:
        """What was set aside for calls whose process went away counts as used, unless its budget says otherwise."""
        for started in self._running.values():
            over = list(self._of(started.path))
            lost: dict[str, int] = {}
            for limit in started.allowance:
                if limit.resource != "wall_time" and limit.mode != "warn":
                    owner = next(use.budget for use in over if _divides(use.budget, limit.resource))
                    lost[limit.resource] = limit.most if owner.after_crash == "charge" else 0
            for use in over:
                self.uses[use.path] = attrs.evolve(use, lost=use.lost + StepUsage(**lost))
        self._running.clear()


def _divides(budget: Budget, resource: Resource) -> bool:
    return budget.mode != "warn" and budget.limit(resource) is not None


def _key(resource: Resource) -> str:
    return "cost_microcents" if resource == "cost" else resource
