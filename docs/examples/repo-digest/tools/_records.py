"""What the tools hand to each other. A file whose name begins with an underscore is no tool, but tools may import it."""

from __future__ import annotations

from typing import TypedDict


class Commit(TypedDict):
    """One commit, in sums."""

    author: str
    day: str
    added: int
    deleted: int


class Change(TypedDict):
    """What one commit did to one file, under the name that the file has now."""

    path: str
    author: str
    added: int
    deleted: int
    binary: bool


class Author(TypedDict):
    """One person's part, in sums, with the days of the first and the last commit."""

    author: str
    commits: int
    added: int
    deleted: int
    first: str
    last: str


class Month(TypedDict):
    """One month's commits, in sums."""

    month: str
    commits: int
    added: int
    deleted: int


class HotFile(TypedDict):
    """One file's changes, in sums."""

    path: str
    commits: int
    authors: int
    added: int
    deleted: int


class Share(TypedDict):
    """How many lines of a file one person touched last."""

    author: str
    lines: int


class Owned(TypedDict):
    """One file's lines by the person who touched them last, most lines first."""

    path: str
    lines: int
    shares: list[Share]
