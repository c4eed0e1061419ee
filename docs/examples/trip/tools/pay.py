"""Pay for what was booked."""

from __future__ import annotations

from treadle import TransientError

from ._ledger import opened

PRICES = {"flight": 240, "room": 180, "car": 95, "tram": 6}


def pay(ledger: str, is_down: bool = False) -> int:
    """The sum of all bookings, in whole euros."""
    if is_down:
        raise TransientError("the bank does not answer")
    with opened(ledger) as bookings:
        return sum(PRICES[booking["what"]] for booking in bookings.values())
