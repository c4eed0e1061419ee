"""Finding files by a pattern: one walk through the folders, whatever the pattern; links are never followed."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterator, Sequence

import attrs
from treadle.errors import PermanentError

from treadle_files._beneath import FileRoot

MAX_DEPTH = 100
"""Folders within each other that are still searched."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ANY_FOLDERS = "**"


@attrs.define
class Search:
    """One search for files.

    A folder is entered with the set of pattern components that may match in it, so that each is read once even for a
    pattern with many ``**``.

    Attributes:
        parts: The pattern's components.
        max_matches: More than these are an error.
        found: Paths relative to the root, as they are found.
        skipped: Names that are no valid text, and folders that may not be read.
    """

    parts: Sequence[str]
    max_matches: int
    found: list[str] = attrs.field(factory=list)
    skipped: int = 0

    def run(self, root: FileRoot) -> list[str]:
        """All paths of regular files that match, sorted.

        Raises:
            PermanentError: There are too many, or folders are nested too deep.
        """
        with root.used() as folder:
            self._enter(folder, "", frozenset({0}), depth=0)
        return sorted(self.found)

    def _enter(self, folder: int, prefix: str, at: frozenset[int], *, depth: int) -> None:
        at = self._with_no_folders(at)
        with os.scandir(folder) as listing:
            entries = [
                (entry.name, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)) for entry in listing
            ]
        for name, is_folder, is_file in entries:
            if not is_text(name):
                self.skipped += 1
            elif is_file and any(i == len(self.parts) - 1 and _matches(self.parts[i], name) for i in at):
                self._add(prefix + name)
            elif is_folder and (inside := frozenset(self._inside(name, at))):
                self._descend(folder, name, prefix, inside, depth=depth)

    def _descend(self, folder: int, name: str, prefix: str, at: frozenset[int], *, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise PermanentError(
                f"Folders are nested more than {MAX_DEPTH} deep at {prefix!r}.", "Search in a narrower pattern."
            )
        try:
            inner = os.open(name, _FOLDER, dir_fd=folder)
        except PermissionError:
            self.skipped += 1
            return
        except (FileNotFoundError, NotADirectoryError):
            return  # It went away, or became a link, since the folder was listed.
        try:
            self._enter(inner, f"{prefix}{name}/", at, depth=depth + 1)
        finally:
            os.close(inner)

    def _with_no_folders(self, at: frozenset[int]) -> frozenset[int]:
        """The components at hand when each ``**`` may also stand for no folder."""
        closed = set(at)
        for i in range(min(at), len(self.parts) - 1):
            if i in closed and self.parts[i] == _ANY_FOLDERS:
                closed.add(i + 1)
        return frozenset(closed)

    def _inside(self, name: str, at: frozenset[int]) -> Iterator[int]:
        """The components that may match within the folder of this name."""
        for i in at:
            if self.parts[i] == _ANY_FOLDERS and not name.startswith("."):
                yield i
            elif i + 1 < len(self.parts) and _matches(self.parts[i], name):
                yield i + 1

    def _add(self, path: str) -> None:
        if len(self.found) >= self.max_matches:
            raise PermanentError(
                f"The pattern {'/'.join(self.parts)!r} matches more than {self.max_matches:,} files.",
                "Narrow it, or raise 'max_matches'.",
            )
        self.found.append(path)


def _matches(part: str, name: str) -> bool:
    """Whether a name fits one component; a leading dot must be written out."""
    if name.startswith(".") and not part.startswith("."):
        return False
    return fnmatch.fnmatchcase(name, part)


def is_text(name: str) -> bool:
    """Whether a name can be part of an output."""
    with contextlib.suppress(UnicodeEncodeError):
        name.encode()
        return True
    return False
