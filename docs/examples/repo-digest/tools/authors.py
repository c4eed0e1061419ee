"""Who wrote how much."""

from __future__ import annotations

from ._records import Author, Commit


def authors(commits: list[Commit]) -> list[Author]:
    """Everybody who committed, the most commits first."""
    found: dict[str, Author] = {}
    for commit in commits:
        name, day = commit["author"], commit["day"]
        author = found.setdefault(name, {"author": name, "commits": 0, "added": 0, "deleted": 0, "first": day, "last": day})
        author["commits"] += 1
        author["added"] += commit["added"]
        author["deleted"] += commit["deleted"]
        author["first"], author["last"] = min(author["first"], day), max(author["last"], day)
    return sorted(found.values(), key=lambda author: (-author["commits"], author["author"]))
