"""Money as whole microcents (1e-8 USD): read from decimal texts, rounded up, and written as one. No float comes near it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["MICROCENTS", "format_money", "parse_money", "to_microcents"]

MICROCENTS = 100_000_000
"""In one US dollar."""

MOST = 10**18
"""Ten billion dollars: what is more is a mistake, and stores keep 64 bits."""

_TEXT = re.compile(r"\s*\$?\s*(\d{1,12}(?:\.\d{1,30})?)\s*(?:USD)?\s*", re.IGNORECASE)


def parse_money(text: str) -> int:
    """The microcents of a text like ``0.25``, ``$0.25`` or ``0.25 USD``; a part of one counts as a whole.

    Raises:
        ValueError: It is no amount of dollars.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is no amount of dollars, like '0.25' or '2.50 USD'")
    from decimal import Decimal  # start-up has no use for it

    return _rounded_up(Decimal(found[1]))


def to_microcents(amount: int | str | Decimal) -> int:
    """Microcents of what code says: an int is microcents, a text or Decimal dollars.

    Raises:
        TypeError: For a float, whose digits are not what was written.
        ValueError: For what is negative, not finite, or more than ten billion dollars.
    """
    if isinstance(amount, int) and not isinstance(amount, bool):
        return _checked(amount)
    if isinstance(amount, str):
        return parse_money(amount)
    from decimal import Decimal  # the same

    if not isinstance(amount, Decimal):
        raise TypeError(f"money is an int of microcents, a decimal text or a Decimal, not {type(amount).__name__}")
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{amount} is no amount of dollars")
    return _rounded_up(amount)


def format_money(microcents: int) -> str:
    """Dollars as a decimal text, at least two digits after the point: ``0.25``, ``0.00000015``."""
    sign = "-" if microcents < 0 else ""
    whole, rest = divmod(abs(microcents), MICROCENTS)
    digits = f"{rest:08d}".rstrip("0")
    return f"{sign}{whole}.{digits.ljust(2, '0')}"


def _rounded_up(dollars: Decimal) -> int:
    numerator, denominator = dollars.as_integer_ratio()
    return _checked(-(-numerator * MICROCENTS // denominator))


def _checked(microcents: int) -> int:
    if not 0 <= microcents <= MOST:
        raise ValueError(f"{microcents} microcents are not between nothing and ten billion dollars")
    return microcents
