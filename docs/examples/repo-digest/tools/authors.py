"""Who wrote how much."""

from __future__ import annotations

from typing import TypedDict


class Commit(TypedDict):
    """One commit, in sums."""

    author: str
    day: str
    added: int
    deleted: int


class Author(TypedDict):
    """One person's part, in sums, with the days of the first and the last commit."""

    author: str
    commits: int
    added: int
    deleted: int
    first: str
    last: str


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
