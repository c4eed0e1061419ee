"""How much changed, and when."""

from __future__ import annotations

from ._records import Commit, Month


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
