"""Book something."""

from __future__ import annotations

from treadle import SyncContext, TransientError

from ._ledger import Booking, opened


def book(ctx: SyncContext, /, ledger: str, what: str, who: str, is_down: bool = False) -> Booking:
    """Book something once, however often this is tried: the step's idempotency key is the number of the booking."""
    if is_down:
        raise TransientError(f"the service for a {what} does not answer")
    booking: Booking = {"number": ctx.idempotency_key, "what": what, "who": who}
    with opened(ledger) as bookings:
        return bookings.setdefault(booking["number"], booking)
