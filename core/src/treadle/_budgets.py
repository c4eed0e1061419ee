"""Budgets: what ``budget`` in a file means, as a record and back."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Literal, cast, get_args

import attrs

from treadle._durations import format_duration, parse_duration
from treadle._models import Json, LimitMode, Resource
from treadle._money import MOST, format_money, parse_money
from treadle.errors import Fault

__all__ = ["Budget", "BudgetInvalidError", "budget_data", "parse_budget", "smaller_budget"]

OnExceeded = Literal["stop", "fail"]
AfterCrash = Literal["charge", "release"]

DIVIDED: tuple[Resource, ...] = ("cost", "tokens", "requests")
"""What a budget gives out in parts; time passes for all alike."""


@attrs.frozen
class Budget:
    """What a run, group or step may use up.

    Attributes:
        cost: Microcents (1e-8 USD); None for any.
        tokens: Tokens; None for any.
        requests: Requests; None for any.
        wall_time_s: Seconds from its start, waits included; None for any.
        mode: ``before`` refuses what would exceed, ``after`` what has exceeded, ``warn`` nothing.
        on_exceeded: ``stop`` ends what the budget belongs to, ``fail`` only the step that asked for more.
        after_crash: Whether what an interrupted attempt might have spent counts as spent.
    """

    cost: int | None = None
    tokens: int | None = None
    requests: int | None = None
    wall_time_s: float | None = None
    mode: LimitMode = "before"
    on_exceeded: OnExceeded = "stop"
    after_crash: AfterCrash = "charge"

    def limit(self, resource: Resource) -> int | None:
        """How much of a resource; None for any amount."""
        return cast("int | None", getattr(self, resource))


class BudgetInvalidError(ValueError):
    """A ``budget`` that cannot be meant; ``faults`` has a path per key."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("; ".join(map(str, faults)))


class _Refused(ValueError):
    def __init__(self, message: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(message)


def parse_budget(data: object) -> Budget:
    """The budget that a mapping of the file stands for.

    Raises:
        BudgetInvalidError: With all faults.
    """
    if not isinstance(data, Mapping):
        raise BudgetInvalidError([Fault("a budget is a mapping", "", "like {cost: '0.50', tokens: 20000}")])
    faults: list[Fault] = []
    fields: dict[str, object] = {}
    for key, value in data.items():
        read = _READERS.get(key) if isinstance(key, str) else None
        if read is None:
            close = difflib.get_close_matches(str(key), _READERS, 1)
            remedy = f"did you mean {close[0]!r}?" if close else f"keys: {', '.join(_READERS)}"
            faults.append(Fault(f"a budget has no key {key!r}"[:200], str(key)[:60], remedy))
            continue
        try:
            fields["wall_time_s" if key == "wall_time" else key] = read(value)
        except _Refused as refused:
            faults.append(Fault(str(refused), key, refused.remedy))
        except ValueError as error:
            faults.append(Fault(str(error), key))
    if not faults and not fields.keys() & {*DIVIDED, "wall_time_s"}:
        faults.append(Fault("a budget limits nothing", "", f"give it one of {', '.join(DIVIDED)} and wall_time"))
    if faults:
        raise BudgetInvalidError(faults)
    return Budget(**fields)  # type: ignore[arg-type]  # each reader answered its field's type


def smaller_budget(one: Budget | None, other: Budget | None) -> Budget | None:
    """One that keeps to both; the first one's terms hold."""
    if one is None or other is None:
        return one or other
    limits = {name: _least(getattr(one, name), getattr(other, name)) for name in (*DIVIDED, "wall_time_s")}
    return attrs.evolve(one, **limits)  # type: ignore[arg-type]  # each of its field's type


def _least(one: float | None, other: float | None) -> float | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def budget_data(budget: Budget) -> dict[str, Json]:
    """Plain data that reads back the same."""
    data: dict[str, Json] = {} if budget.cost is None else {"cost": format_money(budget.cost)}
    data |= {name: budget.limit(name) for name in ("tokens", "requests") if budget.limit(name) is not None}
    if budget.wall_time_s is not None:
        text = format_duration(budget.wall_time_s)
        data["wall_time"] = text if parse_duration(text) == budget.wall_time_s else budget.wall_time_s
    plain = Budget()
    for name in ("mode", "on_exceeded", "after_crash"):
        if getattr(budget, name) != getattr(plain, name):
            data[name] = getattr(budget, name)
    return data


def _cost(value: object) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise _Refused(f"money is a text, not the number {value}", f"put it in quotes: '{value}'")
    if not isinstance(value, str):
        raise _Refused(f"expected an amount of dollars, not {type(value).__name__}", "like '0.50' or '2.50 USD'")
    return parse_money(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise _Refused(f"expected a whole number from 0, not {value!r}"[:120])
    return value


def _one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in words:
            close = difflib.get_close_matches(str(value), words, 1)
            remedy = f"did you mean {close[0]!r}?" if close else ""
            raise _Refused(f"expected {', '.join(words[:-1])} or {words[-1]}, not {value!r}"[:200], remedy)
        return value

    return read


_READERS: Mapping[str, Callable[[object], object]] = {
    "cost": _cost,
    "tokens": _count,
    "requests": _count,
    "wall_time": lambda value: parse_duration(cast("str", value)),
    "mode": _one_of(*get_args(LimitMode)),
    "on_exceeded": _one_of(*get_args(OnExceeded)),
    "after_crash": _one_of(*get_args(AfterCrash)),
}
