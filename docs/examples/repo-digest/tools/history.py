"""Read what ``git log -z -M --numstat --format=%x01%aN%x1f%at`` wrote, newest commit first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TypedDict

from ._records import Change, Commit


class History(TypedDict):
    """All that was read, newest first."""

    commits: list[Commit]
    changes: list[Change]


def history(log: str) -> History:
    """Commits and the changes in them, each change under the present name of its file.

    Args:
        log: Standard output of ``git log``, with NUL characters between its fields.
    """
    commits: list[Commit] = []
    changes: list[Change] = []
    present: dict[str, str] = {}
    for author, at, stats in _entries(log):
        # Newest first, so a rename tells what all older changes to the old name belong to.
        of_commit = [_change(author, added, deleted, old, new, present) for added, deleted, old, new in stats]
        changes += of_commit
        commits.append(
            {
                "author": author,
                "day": datetime.fromtimestamp(at, UTC).date().isoformat(),
                "added": sum(change["added"] for change in of_commit),
                "deleted": sum(change["deleted"] for change in of_commit),
            }
        )
    return {"commits": commits, "changes": changes}


Stat = tuple[str, str, str, str]


def _entries(log: str) -> Iterator[tuple[str, int, list[Stat]]]:
    """Author, time and file statistics of each commit.

    With ``-z``, names are raw and NUL ends them, so that no character of a name can be taken for something else; a rename
    has an empty name, followed by the old one and the new one.
    """
    fields = iter(log.split("\0"))
    author, at, stats = "", 0, list[Stat]()
    for field in fields:
        text = field.removeprefix("\n")
        if text.startswith("\x01"):
            if author:
                yield author, at, stats
            author, _, stamp = text[1:].partition("\x1f")
            author, at, stats = author or "(no name)", int(stamp), []
        elif text:
            added, deleted, path = text.split("\t", 2)
            old, new = (path, path) if path else (next(fields), next(fields))
            stats.append((added, deleted, old, new))
    if author:
        yield author, at, stats


def _change(author: str, added: str, deleted: str, old: str, new: str, present: dict[str, str]) -> Change:
    path = present.get(new, new)
    if old != new:
        present[old] = path
    binary = added == "-"
    return {
        "path": path,
        "author": author,
        "added": 0 if binary else int(added),
        "deleted": 0 if binary else int(deleted),
        "binary": binary,
    }
