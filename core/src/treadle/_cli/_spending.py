"""What a kept run has used, and of how much, for ``treadle show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from treadle._budget_use import BudgetUse, usage_data
from treadle._cli._output import count, spell_budget, spell_usage
from treadle._results import budgets_of, usage_of
from treadle.ports import AttemptEnded, Entry, RetryRequested, RunRow, StepRow, StepUsage, UsageNoted

_NOTHING = StepUsage()


@attrs.frozen
class Spending:
    """What a run used up.

    Attributes:
        total: By all its calls.
        items: Step and item -> its part; None when the log is not kept any more, which alone knows of requests.
        uses: The budgets, and what was used of each.
        generations: How often the run has begun, retries of the whole included.
        now: When it is looked at.
    """

    total: StepUsage
    items: Mapping[tuple[str, int | None], StepUsage] | None
    uses: Mapping[str, BudgetUse]
    generations: int
    now: float

    @classmethod
    def of(cls, row: RunRow, steps: Sequence[StepRow], entries: Sequence[Entry], now: float) -> Spending:
        """What the log tells, or the rows when that is gone."""
        if not entries:
            whole = [step for step in steps if step.index is None]
            total = StepUsage(sum(step.cost for step in whole), sum(step.tokens for step in whole))
            return cls(total, None, {}, 1, row.ended_at or now)
        items: dict[tuple[str, int | None], StepUsage] = {}
        for entry in entries:
            if isinstance(entry, AttemptEnded | UsageNoted) and (usage := usage_of(entry)) is not None:
                for index in {entry.index, None}:
                    items[entry.path, index] = items.get((entry.path, index), _NOTHING) + usage
        total = sum((used for (_, index), used in items.items() if index is None), _NOTHING)
        generations = 1 + sum(isinstance(entry, RetryRequested) for entry in entries)
        return cls(total, items, {use.path: use for use in budgets_of(entries)}, generations, now)

    @property
    def whole(self) -> str:
        """The run's line; empty when it used nothing and has no budget."""
        used = spell_budget(self.uses[""], self.now) if "" in self.uses else spell_usage(*attrs.astuple(self.total))
        return used + (f", in {count(self.generations, 'generation')}" if used and self.generations > 1 else "")

    def of_step(self, step: StepRow) -> str:
        """What a step or item used, of its own budget if it has one."""
        if step.index is None and step.path in self.uses:
            return spell_budget(self.uses[step.path], self.now)
        if self.items is None:
            return spell_usage(step.cost, step.tokens)
        return spell_usage(*attrs.astuple(self.items.get((step.path, step.index), _NOTHING)))

    def requests(self, step: StepRow) -> int | None:
        """How many requests a step or item made; None when nobody knows any more."""
        return None if self.items is None else self.items.get((step.path, step.index), _NOTHING).requests

    def to_dict(self) -> dict[str, object]:
        """What ``treadle show --json`` prints of it beside the steps."""
        used = usage_data(self.total) | ({"requests": None} if self.items is None else {})
        return {"usage": used, "budgets": [use.to_dict(self.now) for use in self.uses.values()]}
