"""Give a booking back."""

from __future__ import annotations

from ._ledger import opened


def give_back(ledger: str, number: str) -> bool:
    """Remove a booking; whether it was there."""
    with opened(ledger) as bookings:
        return bookings.pop(number, None) is not None
