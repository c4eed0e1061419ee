"""Write the digest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ._records import Author, HotFile, Month, Owned

BAR = 30
MONTHS = 24


def report(folder: str, authors: list[Author], churn: list[Month], hot: list[HotFile], owned: list[Owned]) -> str:
    """The digest as Markdown.

    Args:
        folder: The repository's top folder; its last part is the title.
        authors: Everybody who committed, the most commits first.
        churn: Months, oldest first.
        hot: The most changed files.
        owned: Whose lines they hold.
    """
    name = folder.strip().rstrip("/").rpartition("/")[2] or folder.strip()
    title = f"# Digest of {_plain(name)}\n"
    if not authors:
        return f"{title}\nNo commits in this period.\n"
    commits = sum(author["commits"] for author in authors)
    first, last = min(author["first"] for author in authors), max(author["last"] for author in authors)
    people = f"{len(authors)} {'person' if len(authors) == 1 else 'people'}"
    summary = f"{commits:,} {'commit' if commits == 1 else 'commits'} by {people}, {first} to {last}.\n"
    return "\n".join([title, summary, _authors(authors), _churn(churn), _hot(hot, owned)])


def _authors(authors: list[Author]) -> str:
    rows = (
        (_plain(row["author"]), row["commits"], row["added"], row["deleted"], f"{row['first']} to {row['last']}")
        for row in authors
    )
    return "## Authors\n\n" + _table(("author", "commits", "lines added", "lines deleted", "active"), rows)


def _churn(churn: list[Month]) -> str:
    shown = churn[-MONTHS:]
    most = max(month["added"] + month["deleted"] for month in shown) or 1
    rows = (
        (row["month"], row["commits"], row["added"], row["deleted"], "█" * round(BAR * (row["added"] + row["deleted"]) / most))
        for row in shown
    )
    note = f"The last {MONTHS} months that have commits.\n\n" if len(churn) > MONTHS else ""
    return f"## Churn\n\n{note}" + _table(("month", "commits", "lines added", "lines deleted", ""), rows)


def _hot(hot: list[HotFile], owned: list[Owned]) -> str:
    if not hot:
        return "## Most changed files\n\nNo file that still exists was changed in this period.\n"
    owners = {file["path"]: _owners(file) for file in owned}
    rows = (
        (
            _code(row["path"]),
            row["commits"],
            row["authors"],
            row["added"],
            row["deleted"],
            owners.get(row["path"], "not traced"),
        )
        for row in hot
    )
    head = ("file", "commits", "authors", "lines added", "lines deleted", "lines last touched by")
    return "## Most changed files\n\n" + _table(head, rows)


def _owners(file: Owned) -> str:
    if not file["lines"]:
        return "no lines"
    shown = [f"{_plain(share['author'])} {share['lines'] / file['lines']:.0%}" for share in file["shares"][:3]]
    more = len(file["shares"]) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _plain(text: str) -> str:
    """Text for a cell or a heading: nothing in it is taken for Markdown or ends the line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", re.sub(r"[\x00-\x1f\x7f]+", " ", text))


def _code(text: str) -> str:
    """Text as code, whatever is in it: the fence is longer than any run of backticks inside."""
    safe = re.sub(r"[\x00-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", safe)), default=0) + 1)
    pad = " " if safe.startswith("`") or safe.endswith("`") else ""
    return f"{fence}{pad}{safe}{pad}{fence}"
