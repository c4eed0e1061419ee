"""Laws of budgets in the scheduler: whatever happens, no cap is exceeded, and a log replays to the same state."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from test_scheduler_laws import Key, World, graphs, laws, replay
from treadle._budget_use import budget_uses
from treadle._budgets import Budget
from treadle._graph import Graph
from treadle._models import AttemptEnded, AttemptStarted, BudgetRefusal, Command, Fact, Outcome, StepUsage


@st.composite
def budgets(draw: st.DrawFn, most: int) -> Budget | None:
    """Now and then one; it only fails the step, so that the laws of what stops a run stay those without budgets."""
    cost = draw(st.one_of(st.none(), st.integers(0, most)))
    after_crash = draw(st.sampled_from(["charge", "charge", "release"]))
    return None if cost is None else Budget(cost=cost, on_exceeded="fail", after_crash=after_crash)


@st.composite
def limited_graphs(draw: st.DrawFn) -> Graph:
    """Any graph, with budgets on the run and on some of its steps."""
    graph = draw(graphs())
    nodes = tuple(node if node.is_wait else attrs.evolve(node, budget=draw(budgets(60))) for node in graph.nodes)
    return attrs.evolve(graph, nodes=nodes, budget=draw(budgets(100)) or Budget(cost=50, on_exceeded="fail"))


class Spending(World):
    """A world whose calls use something up, never more than what was set aside for them, and which keeps the books."""

    def __init__(self, graph: Graph, draw: st.DataObject) -> None:
        super().__init__(graph, draw)
        self.aside: dict[Key, tuple[int, int]] = {}  # call -> attempt, and what was set aside for it
        self.spent: dict[str, int] = {node.path: 0 for node in graph.nodes}
        self.refused: set[Key] = set()

    def note_attempt(self, entry: AttemptStarted) -> None:
        key = entry.path, entry.index
        if key in self.again:
            self.lose(key)
        super().note_attempt(entry)
        assert key not in self.refused, "what was refused is not tried again"
        [limit] = [each for each in entry.allowance if each.resource == "cost"]
        assert limit.most >= 0
        self.aside[key] = entry.attempt, limit.most

    def lose(self, key: Key) -> None:
        """A call went away: all that it might have spent counts, unless its budget says otherwise."""
        _, most = self.aside.pop(key)
        budget = self.watches[key[0]].node.budget or self.graph.budget
        assert budget is not None
        self.spent[key[0]] += most if budget.after_crash == "charge" else 0

    def apply(self, fact: Fact) -> tuple[Command, ...]:
        if isinstance(fact, AttemptEnded):
            key = fact.path, fact.index
            if self.aside.get(key, (0, 0))[0] == fact.attempt and key not in self.running:
                fact = attrs.evolve(fact, outcome=self.spend(key, fact.outcome))
        elif getattr(fact, "what", "") == "inputs":
            self.aside.pop((fact.path, fact.index), None)  # type: ignore[union-attr]  # Evaluated has both
        commands = super().apply(fact)
        for lost in [key for key in self.aside if key not in self.running]:
            self.lose(lost)  # it was interrupted
        self.check_caps()
        return commands

    def spend(self, key: Key, outcome: Outcome) -> Outcome:
        _, most = self.aside.pop(key)
        cost = self.data.draw(st.integers(0, most))
        self.spent[key[0]] += cost
        refusal = None
        if outcome.status == "failed" and self.chance(3):
            refusal = BudgetRefusal("cost", self.data.draw(st.integers(1, 200)), "run")
            self.refused.add(key)
        return attrs.evolve(outcome, usage=StepUsage(cost=cost), refusal=refusal)

    def check_caps(self) -> None:
        assert self.graph.budget is not None
        held: dict[str, int] = dict.fromkeys(self.spent, 0)
        for (path, _), (_, most) in self.aside.items():
            held[path] += most
        assert sum(self.spent.values()) + sum(held.values()) <= (self.graph.budget.cost or 0), "the run's cap holds"
        for path, watch in self.watches.items():
            if watch.node.budget is not None:
                assert self.spent[path] + held[path] <= (watch.node.budget.cost or 0), "the step's cap holds"

    def check_nothing_idles(self) -> None:
        if not self.running:  # else a step may wait for what others give back
            super().check_nothing_idles()


@laws
@given(graph=limited_graphs(), data=st.data())
def test_no_run_exceeds_its_budgets(graph: Graph, data: st.DataObject) -> None:
    """What was spent, what is set aside and what may have been lost in a crash: together never more than the cap, of the run
    and of each step. What was refused is never tried again, every law of runs without budgets holds, and a log replays to the
    same state, decision by decision. What people are shown of it comes from the log alone, and is the same.
    """
    world: Any = Spending(graph, data)

    world.play()

    world.check_result()
    replay(graph, world)
    entries = [entry for records, _, _ in world.log for entry in records]
    ledger = world.scheduler._ledger._totals()
    for use in budget_uses(graph, entries):
        known = ledger.get(use.path, {"cost": 0})["cost"]
        assert use.total.cost == known, "what is shown is what counts"
