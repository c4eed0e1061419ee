"""Who last touched the lines that are there now."""

from __future__ import annotations

import re
from collections import Counter

from ._records import Owned

LINE = re.compile(r"[0-9a-f]{40,64} \d+ \d+( \d+)?")


def ownership(paths: list[str], blames: list[dict[str, object] | None]) -> list[Owned]:
    """Each file with the people whose lines it holds; files that git could not trace are left out.

    Args:
        paths: The files.
        blames: What ``git blame --porcelain`` left of each, as ``shell.run`` answers it; null where it failed.
    """
    return [_owned(path, _lines(str(blame["stdout"]))) for path, blame in zip(paths, blames, strict=True) if blame]


def _owned(path: str, lines: Counter[str]) -> Owned:
    ranked = sorted(lines.items(), key=lambda item: (-item[1], item[0]))
    return {"path": path, "lines": lines.total(), "shares": [{"author": author, "lines": count} for author, count in ranked]}


def _lines(blame: str) -> Counter[str]:
    """Lines per author. The author stands only at the first line of each commit; text lines begin with a tab."""
    author_of: dict[str, str] = {}
    lines: Counter[str] = Counter()
    commit = ""
    for line in blame.split("\n"):
        if line.startswith("\t"):
            lines[author_of.get(commit, "(no name)")] += 1
        elif line.startswith("author "):
            author_of[commit] = line.removeprefix("author ")
        elif LINE.fullmatch(line):
            commit = line.partition(" ")[0]
    return lines
