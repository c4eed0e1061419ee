"""How much changed, and when."""

from __future__ import annotations

from typing import TypedDict


class Commit(TypedDict):
    """One commit, in sums."""

    author: str
    day: str
    added: int
    deleted: int


class Month(TypedDict):
    """One month's commits, in sums."""

    month: str
    commits: int
    added: int
    deleted: int


def churn(commits: list[Commit]) -> list[Month]:
    """Lines added and deleted in each month that has commits, oldest first."""
    months: dict[str, Month] = {}
    for commit in commits:
        name = commit["day"][:7]
        month = months.setdefault(name, {"month": name, "commits": 0, "added": 0, "deleted": 0})
        month["commits"] += 1
        month["added"] += commit["added"]
        month["deleted"] += commit["deleted"]
    return sorted(months.values(), key=lambda month: month["month"])
