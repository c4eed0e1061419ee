"""Add up what was found."""

from __future__ import annotations

from typing import TypedDict

from ._link import Link


class Verdict(TypedDict):
    """The sums, and the links that lead nowhere."""

    pages: int
    links: int
    broken: list[Link]


class Batch(TypedDict):
    """What one batch came to."""

    checked: int
    broken: list[Link]


def verdict(batches: list[Batch | None], pages: int) -> Verdict:
    """All batches as one."""
    done = [batch for batch in batches if batch is not None]
    broken = [link for batch in done for link in batch["broken"]]
    return {"pages": pages, "links": sum(batch["checked"] for batch in done), "broken": broken}
