"""Which files change most."""

from __future__ import annotations

from typing import TypedDict

from ._records import Change, HotFile


class HotFiles(TypedDict):
    """The most changed files, and those of them whose lines can be traced."""

    files: list[HotFile]
    text: list[str]


def hot_files(changes: list[Change], tree: str, top: int) -> HotFiles:
    """The files of HEAD that most commits changed, most changed first.

    Args:
        changes: All changes.
        tree: Standard output of ``git ls-tree -r -z --full-tree HEAD``: what still exists. Submodules are not files.
        top: How many files at most.
    """
    existing = {entry.partition("\t")[2] for entry in tree.split("\0") if " blob " in entry.partition("\t")[0]}
    of_file: dict[str, list[Change]] = {}
    for change in changes:
        if change["path"] in existing:
            of_file.setdefault(change["path"], []).append(change)
    files = sorted((_sums(path, found) for path, found in of_file.items()), key=_heat)[: max(top, 0)]
    # Its newest change tells whether a file is text now; git traces the lines of nothing else.
    return {"files": files, "text": [file["path"] for file in files if not of_file[file["path"]][0]["binary"]]}


def _sums(path: str, changes: list[Change]) -> HotFile:
    return {
        "path": path,
        "commits": len(changes),
        "authors": len({change["author"] for change in changes}),
        "added": sum(change["added"] for change in changes),
        "deleted": sum(change["deleted"] for change in changes),
    }


def _heat(file: HotFile) -> tuple[int, int, str]:
    return -file["commits"], -file["added"] - file["deleted"], file["path"]
