"""What one attempt uses up: counted while it runs, held against what was set aside for it. Any thread may spend."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from treadle._models import BudgetRefusal, SpendLimit, StepUsage
from treadle._money import MOST, to_microcents
from treadle.errors import BudgetExceededError, CallCancelledError, UnknownPriceError

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["Meter", "Spent"]

_log = logging.getLogger("treadle.budgets")
_PLACES: Mapping[str, int] = {"cost": 0, "tokens": 1, "requests": 2}


class Meter:
    """Counts an attempt.

    Args:
        item: The step with its item, for messages.
        limits: What was set aside for it.
        on_change: Told the total after each change, before whoever spends goes on.
    """

    def __init__(
        self, item: str, limits: Iterable[SpendLimit], on_change: Callable[[Meter], object] = lambda meter: None
    ) -> None:
        self.refusal: BudgetRefusal | None = None
        self._item, self._on_change = item, on_change
        # Time passes by itself.
        self._limits = [(_PLACES[limit.resource], limit) for limit in limits if limit.resource != "wall_time"]
        self._used, self._noted = [0, 0, 0], [0, 0, 0]
        self._warned: set[SpendLimit | None] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def usage(self) -> StepUsage:
        """What was used up so far."""
        return StepUsage(*self._used)

    def spend(self, cost: int | str | Decimal | None, tokens: int, requests: int) -> Spent:
        """Count something, or refuse it.

        Args:
            cost: Microcents, or dollars as a text or Decimal; None: it has a price, which is not known.
            tokens: A number.
            requests: A number.

        Raises:
            BudgetExceededError: There is not so much left; nothing was counted, unless it has been used already.
            UnknownPriceError: Its price is not known, and cost is limited.
            CallCancelledError: The attempt is over.
        """
        asked = (0 if cost is None else to_microcents(cost), _counted(tokens), _counted(requests))
        with self._lock:
            if self._is_closed:
                raise CallCancelledError(
                    f"{self._item} is over, and spends.",
                    "Its outcome is recorded already; end the work when it is told to stop.",
                )
            if cost is None:
                self._check_price()
            self._refuse(asked)
            self._add(asked)
            self._on_change(self)
            self._look_back(asked)
        return Spent(self, asked)

    def settle(self, booked: tuple[int, ...], actual: tuple[int, ...]) -> None:
        """Count what was really used instead of what was asked for; more than there is stays counted, too."""
        with self._lock:
            if self._is_closed:
                return  # what was asked for stays counted
            self._add(tuple(new - old for new, old in zip(actual, booked, strict=True)))
            self._on_change(self)

    def take_over(self, used: Iterable[int], refusal: BudgetRefusal | None) -> None:
        """What another process has counted.

        Raises:
            TypeError: It is no list of whole numbers.
            ValueError: They are not three, or less than nothing.
        """
        told = [_counted(amount) for amount in used]
        if len(told) != len(self._used):
            raise ValueError(f"{len(told)} amounts were told")
        with self._lock:
            if not self._is_closed:
                self._used[:] = told
                self.refusal = self.refusal or refusal

    def note(self) -> StepUsage:
        """What was used up since the last time, so that it can be recorded; ``close`` answers the rest."""
        with self._lock:
            new = self._rest()
            self._noted[:] = self._used
        return new

    @property
    def is_noted(self) -> bool:
        """Whether ``note`` has answered something."""
        return any(self._noted)

    def abandon(self) -> StepUsage | None:
        """``close`` for an attempt of which nobody knows what it still uses up: all that was set aside for it counts."""
        with self._lock:
            for place, limit in self._limits:
                if limit.mode != "warn":
                    self._used[place] = max(self._used[place], limit.most)
        return self.close()

    def close(self) -> StepUsage | None:
        """The end of the attempt: what it used up and was not noted; None for nothing. Now nothing can be spent any more."""
        with self._lock:
            self._is_closed = True
            return self._rest() or None

    # -- with the lock held

    def _rest(self) -> StepUsage:
        return StepUsage(*[used - noted for used, noted in zip(self._used, self._noted, strict=True)])

    def _add(self, amounts: Iterable[int]) -> None:
        for place, amount in enumerate(amounts):
            self._used[place] += amount

    def _check_price(self) -> None:
        for _, limit in self._limits:
            if limit.resource == "cost" and limit.mode != "warn":
                self.refusal = BudgetRefusal("price", 0, limit.scope)
                self._on_change(self)
                raise UnknownPriceError(limit.scope)
        self._warn(None, "%s spends money at a price that is not known; its cost is counted too low", self._item)

    def _refuse(self, asked: tuple[int, ...]) -> None:
        for place, limit in self._limits:
            if limit.mode == "before" and asked[place] and self._used[place] + asked[place] > limit.most:
                self._raise(limit, self._used[place], asked[place])

    def _look_back(self, asked: tuple[int, ...]) -> None:
        for place, limit in self._limits:
            used = self._used[place]
            if limit.mode == "before" or not asked[place] or used <= limit.most:
                continue
            if limit.mode == "after":
                self._raise(limit, used - asked[place], asked[place], is_over=True)
            text = "%s has used more than the %s budget of the %s holds: %d of %d"
            self._warn(limit, text, self._item, limit.resource, limit.scope, used, limit.most)

    def _raise(self, limit: SpendLimit, spent: int, asked: int, *, is_over: bool = False) -> None:
        # Of what is over, nothing more was asked for.
        self.refusal = BudgetRefusal(limit.resource, 0 if is_over else asked, limit.scope)
        self._on_change(self)
        raise BudgetExceededError(
            limit.resource, limit.scope, most=limit.most, spent=spent, asked=asked, is_over=is_over, step=self._item
        )

    def _warn(self, of: SpendLimit | None, text: str, *arguments: object) -> None:
        if of not in self._warned:
            self._warned.add(of)
            _log.warning(text, *arguments)


class Spent:
    """Something that was counted, and may turn out to have been another amount."""

    __slots__ = ("_booked", "_meter")

    def __init__(self, meter: Meter, booked: tuple[int, ...]) -> None:
        self._meter, self._booked = meter, booked

    def settle(
        self, *, cost: int | str | Decimal | None = None, tokens: int | None = None, requests: int | None = None
    ) -> None:
        """Say what it really was; what is left out stays as it was asked for."""
        given = (None if cost is None else to_microcents(cost), tokens, requests)
        actual = tuple(old if new is None else _counted(new) for old, new in zip(self._booked, given, strict=True))
        self._meter.settle(self._booked, actual)
        self._booked = actual


def _counted(number: int) -> int:
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"tokens and requests are whole numbers, not {type(number).__name__}")
    if not 0 <= number <= MOST:
        raise ValueError(f"{number} tokens or requests cannot be spent")
    return number
