"""Follow some links."""

from __future__ import annotations

from pathlib import Path

from ._link import Link

ROOT = Path(__file__).parents[3]


def follow(links: list[Link], known: list[str]) -> dict[str, object]:
    """Which of the links lead nowhere.

    Args:
        links: What to follow.
        known: The pages that there are; other targets are looked up in the folder.
    """
    pages = frozenset(known)
    broken = [link for link in links if link["target"] not in pages and not (ROOT / link["target"]).exists()]
    return {"checked": len(links), "broken": broken}
