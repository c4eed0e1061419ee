"""The working directory of a command, held open and, where a root is configured, beneath it; and the files it left there."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from threading import Event

import attrs
from treadle.errors import PermanentError

MAX_ARTIFACTS = 1000
"""Files that one command may leave as artifacts."""

_CHUNK = 1 << 20
_ANY_FOLDERS = "**"
_MOST_ANY_FOLDERS = 4


class FolderNotFoundError(PermanentError):
    """A working directory that is not there."""


class FolderRefusedError(PermanentError):
    """A working directory, or a pattern, that leads out of where it may."""


class ArtifactMissingError(PermanentError):
    """A pattern of ``artifacts`` that no file matches."""


@attrs.frozen
class Artifact:
    """A file that a command left.

    Attributes:
        path: Relative to the client's ``root``, else to the working directory.
        bytes: Its size.
        sha256: Its digest, 64 hex digits.
    """

    path: str
    bytes: int
    sha256: str


@attrs.frozen
class Folder:
    """A working directory.

    Attributes:
        path: Where it is, links resolved.
        descriptor: Its open file descriptor.
        prefix: What leads to it from the root: empty, or ends in ``/``.
    """

    path: str
    descriptor: int
    prefix: str = ""

    @property
    def place(self) -> str:
        """What a new process changes to: the folder that was checked, whatever its name leads to by now."""
        return f"/proc/self/fd/{self.descriptor}" if os.path.isdir("/proc/self/fd") else self.path


@contextlib.contextmanager
def working_folder(cwd: str | None, root: str) -> Iterator[Folder]:
    """Open a working directory.

    Args:
        cwd: Which; relative to the root, or to our own working directory when there is none. None for these themselves.
        root: The folder that it has to be beneath; empty for none.

    Raises:
        FolderNotFoundError: It does not exist.
        FolderRefusedError: It leads out of the root.
    """
    path = os.path.join(os.path.expanduser(root) or ".", cwd or ".")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise FolderNotFoundError(
            f"The working directory {cwd or root!r} does not exist.", "Create it first, or correct 'cwd'."
        ) from error
    try:
        real = _real_path(path, descriptor)
        yield Folder(real, descriptor, _prefix(real, root, cwd))
    finally:
        os.close(descriptor)


def collect(folder: Folder, patterns: Sequence[str], stopped: Event) -> list[Artifact]:
    """The regular files in a folder that match patterns, sorted; links are neither followed nor listed.

    Args:
        folder: Where.
        patterns: Like ``dist/*.whl`` or ``**/report.xml``.
        stopped: Set when nobody waits for the answer any more.

    Raises:
        FolderRefusedError: A pattern leads out of the folder.
        ArtifactMissingError: A pattern matches nothing.
        PermanentError: They match too much.
    """
    parted = {pattern: _parts(pattern) for pattern in patterns}
    found: dict[str, Artifact] = {}
    missing = dict.fromkeys(patterns)
    for where, folders, names, here in os.fwalk(".", follow_symlinks=False, dir_fd=folder.descriptor):
        above = [part for part in where.split("/") if part != "."]
        folders[:] = [name for name in folders if any(_may_hold(parts, [*above, name]) for parts in parted.values())]
        for name in names:
            matching = [pattern for pattern, parts in parted.items() if _matches(parts, [*above, name])]
            artifact = _artifact("/".join([*above, name]), name, here, folder.prefix, stopped) if matching else None
            if artifact is not None:
                found[artifact.path] = artifact
                for pattern in matching:
                    missing.pop(pattern, None)
        if stopped.is_set():
            return []
        if len(found) > MAX_ARTIFACTS:
            raise PermanentError(f"The command left more than {MAX_ARTIFACTS:,} artifacts.", "Narrow the patterns.")
    if missing:
        raise ArtifactMissingError(
            f"The command left no file that matches {', '.join(map(repr, missing))}.", "Correct 'artifacts', or the command."
        )
    return [found[path] for path in sorted(found)]


def _real_path(path: str, descriptor: int) -> str:
    """Where an open folder is: asked of the system by its descriptor, so that no link can be swapped in meanwhile."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}")
    return os.path.realpath(path)


def _prefix(real: str, root: str, cwd: str | None) -> str:
    if not root:
        return ""
    top = os.path.realpath(os.path.expanduser(root))
    if real == top:
        return ""
    if not real.startswith(top.rstrip("/") + "/"):
        raise FolderRefusedError(
            f"The working directory {cwd!r} leads out of {top}.",
            "Use a folder beneath it, or change 'root' in [clients.shell].",
        )
    return real.removeprefix(top.rstrip("/") + "/") + "/"


def _parts(pattern: str) -> list[str]:
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if "\0" in pattern or pattern.startswith(("/", "~")) or ".." in parts or not parts:
        raise FolderRefusedError(
            f"The pattern {pattern!r} of 'artifacts' leads out of the working directory.", "Write it relative, like dist/*.whl."
        )
    if parts.count(_ANY_FOLDERS) > _MOST_ANY_FOLDERS:
        raise FolderRefusedError(f"The pattern {pattern!r} has too many '**'.", f"Use at most {_MOST_ANY_FOLDERS}.")
    return parts


def _matches(parts: Sequence[str], names: Sequence[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == _ANY_FOLDERS and len(parts) > 1:
        return _matches(parts[1:], names) or (bool(names) and _matches(parts, names[1:]))
    if parts[0] == _ANY_FOLDERS:
        return bool(names)
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(parts[1:], names[1:])


def _may_hold(parts: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether a match can be in a folder."""
    for part, name in zip(parts, folders, strict=False):
        if part == _ANY_FOLDERS:
            return True
        if not fnmatch.fnmatchcase(name, part):
            return False
    return len(folders) < len(parts)


def _artifact(path: str, name: str, here: int, prefix: str, stopped: Event) -> Artifact | None:
    """A file's size and digest; None for what is no regular file, has no name that is text, or went away."""
    try:
        path.encode()
        # O_NONBLOCK: opening a named pipe would wait for its other end.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    except (OSError, UnicodeEncodeError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        digest, size = hashlib.sha256(), 0
        while not stopped.is_set() and (chunk := os.read(file, _CHUNK)):
            digest.update(chunk)
            size += len(chunk)
        return Artifact(prefix + path, size, digest.hexdigest())
    finally:
        os.close(file)
