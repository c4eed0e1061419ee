"""``file.copy``, ``file.move``, ``file.delete`` and ``file.list``."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

import attrs
from treadle import executor
from treadle.errors import PermanentError
from treadle.ports import SyncContext

from treadle_files._beneath import FileAccessError, FileMissingError, FileRoot, NotAFileError, Place, kind_of
from treadle_files._contents import chunks_of, opened, permissions, write_bytes
from treadle_files._matching import is_text

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)


class TargetExistsError(PermanentError):
    """Something is where a file shall go."""


@attrs.frozen
class Written:
    """A file that was written.

    Attributes:
        path: Where it is, relative to the root, links resolved.
        bytes: Its size.
        sha256: Its digest, 64 hex digits.
    """

    path: str
    bytes: int
    sha256: str


@attrs.frozen
class Moved:
    """A file or folder that has another name now.

    Attributes:
        path: Where it is, relative to the root.
        moved: False when it was there already, because an earlier attempt had moved it.
    """

    path: str
    moved: bool


@attrs.frozen
class Deleted:
    """A path at which nothing is any more.

    Attributes:
        path: As it was given.
        deleted: False when there was nothing.
    """

    path: str
    deleted: bool


@attrs.frozen
class Entry:
    """What is in a folder.

    Attributes:
        name: Its name.
        path: Relative to the root.
        kind: ``file``, ``folder``, ``symbolic link``, ``named pipe``, ``socket`` or ``device``.
        bytes: Size of a file.
        modified: When it was changed last, ISO 8601 in UTC.
    """

    name: str
    path: str
    kind: str
    bytes: int | None
    modified: str


@attrs.frozen
class Listing:
    """A folder's entries.

    Attributes:
        entries: Sorted by name.
        count: How many.
        skipped: Names that are no valid text, which are left out.
    """

    entries: list[Entry]
    count: int
    skipped: int


@executor("file.copy", effects="idempotent", examples=({"path": "README.md", "to": "out/README.md"},))
def copy(files: FileRoot, ctx: SyncContext, /, path: str, to: str) -> Written:
    """Copy a regular file beneath the root, at once and durably; folders are made as needed.

    Args:
        files: The root.
        ctx: The call.
        path: Which file, relative to the root.
        to: Where to; what is there is replaced and keeps its permissions, a new file gets those of the original.

    Raises:
        PermanentError: A path is not allowed, or is no regular file.
    """
    with reported(f"copied to {to!r}", path), files.place(path) as source, opened(source) as file:
        mode = stat.S_IMODE(os.fstat(file).st_mode) & 0o777
        with files.place(to, create=True) as target:
            kept = None if permissions(target) is not None else mode
            digest = write_bytes(target, chunks_of(file), temporary=temporary_name(ctx, target), mode=kept)
            return Written(target.path, digest.size, digest.sha256)


@executor("file.move", effects="idempotent", examples=({"path": "README.md", "to": "done/README.md"},))
def move(files: FileRoot, /, path: str, to: str, overwrite: bool = False) -> Moved:
    """Give a file or folder beneath the root another name, at once; folders on the way are made as needed.

    An attempt that finds nothing to move but the target in place takes it that an earlier attempt has moved it.

    Args:
        files: The root.
        path: Which file or folder, relative to the root; a symbolic link is refused.
        to: Its new path, not the folder that it goes to.
        overwrite: Whether a file that is there is replaced.

    Raises:
        TargetExistsError: There is something, and ``overwrite`` is off.
        PermanentError: A path is not allowed, or there is nothing to move.
    """
    with reported(f"moved to {to!r}", path), _source(files, path) as source:
        what = _mode(source)
        if source is None or what is None:
            return _moved_before(files, path, to)
        if not (stat.S_ISREG(what) or stat.S_ISDIR(what)):
            raise NotAFileError(f"Path {path!r} is a {kind_of(what)}, which is not moved.", "Name a file or folder.")
        with files.place(to, create=True) as target:
            _rename(source, target, is_file=stat.S_ISREG(what), overwrite=overwrite)
            os.fsync(target.folder)
            os.fsync(source.folder)
            return Moved(target.path, moved=True)


@executor("file.delete", effects="idempotent", examples=({"path": "README.md"},))
def delete(files: FileRoot, /, path: str, recursive: bool = False) -> Deleted:
    """Delete what is at a path beneath the root; that there is nothing is fine.

    Args:
        files: The root.
        path: Which file, relative to the root. Of a symbolic link the link itself is deleted, never what it leads to.
        recursive: Whether a folder is deleted, with all that is in it.

    Raises:
        PermanentError: The path is not allowed, or is a folder and ``recursive`` is off.
    """
    with reported("deleted", path), _source(files, path) as place:
        mode = _mode(place)
        if place is None or mode is None:
            return Deleted(path, deleted=False)
        if not stat.S_ISDIR(mode):
            os.unlink(place.name, dir_fd=place.folder)
        elif recursive:
            shutil.rmtree(place.name, dir_fd=place.folder)  # Holds each folder open, so a link swapped in leads nowhere.
        else:
            raise NotAFileError(f"Path {path!r} is a folder.", "Name a file, or say 'recursive: true'.")
        os.fsync(place.folder)
        return Deleted(path, deleted=True)


@executor("file.list", effects="none", examples=({"path": "."},))
def list_entries(files: FileRoot, /, path: str = ".", max_entries: int = 10_000) -> Listing:
    """List what is in a folder beneath the root.

    Args:
        files: The root.
        path: Which folder, relative to the root.
        max_entries: More are an error.

    Raises:
        PermanentError: The path is not allowed, is no folder, or holds too much.
    """
    with reported("listed", path), files.inside(path) as (folder, where):
        names = os.listdir(folder)
        if len(names) > max_entries:
            raise PermanentError(f"Folder {path!r} holds {len(names):,} entries.", "Use file.glob, or raise 'max_entries'.")
        entries = [entry for name in sorted(names) if (entry := _entry(name, folder, where)) is not None]
        return Listing(entries, len(entries), sum(not is_text(name) for name in names))


def temporary_name(ctx: SyncContext, place: Place) -> str:
    """Name of a file while it is written: the same for every attempt of a step."""
    return f".treadle-{hashlib.sha256(f'{ctx.idempotency_key}/{place.name}'.encode()).hexdigest()[:24]}.tmp"


@contextlib.contextmanager
def reported(verb: str, path: str) -> Iterator[None]:
    """An error of the system names the path that the step gave, not a name of ours."""
    try:
        yield
    except OSError as error:
        raise FileAccessError(
            f"File {path!r} cannot be {verb}: {error.strerror or error}.",
            "See its folder's permissions and the disk's free space.",
        ) from error


@contextlib.contextmanager
def _source(files: FileRoot, path: str) -> Iterator[Place | None]:
    """The place of a path, not that of what a link there leads to; None when a folder of it is missing."""
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(files.place(path, follow=False))
        except FileMissingError:
            place = None
        yield place


def _mode(place: Place | None) -> int | None:
    """What is at a place; None for nothing."""
    if place is None:
        return None
    try:
        return os.stat(place.name, dir_fd=place.folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _moved_before(files: FileRoot, path: str, to: str) -> Moved:
    with _source(files, to) as target:
        if target is not None and _mode(target) is not None:
            return Moved(target.path, moved=False)
    raise FileMissingError(f"There is nothing at {path!r}.", "Correct the path, or let an earlier step write it.")


def _rename(source: Place, target: Place, *, is_file: bool, overwrite: bool) -> None:
    """Rename at once; without ``overwrite`` nothing is replaced, even if it appears in this moment."""
    if is_file and not overwrite and _link(source, target):
        os.unlink(source.name, dir_fd=source.folder)
        return
    there = _mode(target)
    if there is not None and (not overwrite or not is_file or not stat.S_ISREG(there)):
        raise _exists(target)
    os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)


def _link(source: Place, target: Place) -> bool:
    """Give a file its second name, which fails when there is something; False where the file system has no such links."""
    try:
        os.link(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder, follow_symlinks=False)
    except FileExistsError:
        # An attempt that was killed between link and unlink left two names of one file.
        if not _is_same(source, target):
            raise _exists(target) from None
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return False
    return True


def _is_same(one: Place, other: Place) -> bool:
    found = [os.stat(place.name, dir_fd=place.folder, follow_symlinks=False) for place in (one, other)]
    is_one_name = (os.fstat(one.folder).st_ino, one.name) == (os.fstat(other.folder).st_ino, other.name)
    return os.path.samestat(*found) and not is_one_name


def _exists(target: Place) -> TargetExistsError:
    return TargetExistsError(
        f"There is something at {target.path!r} already.", "Choose another path, or say 'overwrite: true'."
    )


def _entry(name: str, folder: int, where: str) -> Entry | None:
    """One entry; None when its name is no text, or it went away meanwhile."""
    if not is_text(name):
        return None
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return Entry(
        name=name,
        path=f"{where}/{name}" if where else name,
        kind=kind_of(status.st_mode),
        bytes=status.st_size if stat.S_ISREG(status.st_mode) else None,
        modified=datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="milliseconds"),
    )
