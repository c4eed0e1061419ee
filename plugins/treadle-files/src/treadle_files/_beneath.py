"""Files beneath one folder: no spelling of a path, and no link that is changed meanwhile, leads out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator

import attrs
from treadle.errors import PermanentError, TreadleError

MAX_LINKS = 40
"""Symbolic links that one path may go through, as in the kernel."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class OutsideRootError(PermanentError):
    """A path that is not allowed: it leads out of the root, or tries to."""


class NotAFileError(PermanentError):
    """What is at a path is no regular file: a folder, a pipe, a socket, a device."""


class NotAFolderError(PermanentError):
    """What is at a path is no folder."""


class FileAccessError(TreadleError):
    """The system refuses: permissions, a full disk, a failing one. Whether it will later, nobody knows."""


class FileMissingError(PermanentError):
    """There is nothing at a path."""


@attrs.define(eq=False)
class _Walk:
    """The way from the root to a folder beneath it: open folders, so that ``..`` in a link goes back the way it came.

    Opening ``..`` itself would be wrong: a folder that somebody moves meanwhile has another parent than the one that was
    gone through.
    """

    root: int
    names: list[str] = attrs.field(factory=list)
    folders: list[int] = attrs.field(factory=list)

    @property
    def here(self) -> int:
        return self.folders[-1] if self.folders else self.root

    def enter(self, name: str) -> None:
        self.folders.append(os.open(name, _FOLDER, dir_fd=self.here))
        self.names.append(name)

    def back(self) -> bool:
        """Leave the last folder; False at the root."""
        if not self.folders:
            return False
        os.close(self.folders.pop())
        self.names.pop()
        return True

    def close(self) -> None:
        while self.back():
            pass


@attrs.frozen
class Place:
    """A name in an open folder; the name itself is no link, or nothing.

    Attributes:
        folder: File descriptor of the folder; valid within ``FileRoot.place`` alone.
        name: The name in it.
        path: Both, relative to the root, with links resolved.
    """

    folder: int
    name: str
    path: str


@attrs.define(eq=False)
class _Users:
    """Who uses an open folder: the last one closes it, once nobody else may come."""

    changed: threading.Condition = attrs.field(factory=threading.Condition)
    count: int = 0
    is_closed: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nobody uses it and nobody will."""
        return self.is_closed and not self.count


@attrs.frozen
class FileRoot:
    """The folder beneath which everything stays.

    Attributes:
        path: Its absolute path.
        folder: Its open file descriptor.
    """

    path: str
    folder: int
    _users: _Users = attrs.field(factory=_Users, init=False, eq=False, repr=False)

    def close(self) -> None:
        """Give the folder back: now, or when the last that uses it has ended.

        A thread whose step was cancelled may still be at it, and another folder may get the number of one that is closed.
        """
        with self._users.changed:
            self._users.is_closed = True
            if self._users.is_over:
                os.close(self.folder)

    def wait_until_unused(self, timeout_s: float) -> bool:
        """Whether nobody uses it any more, after so many seconds at most."""
        with self._users.changed:
            return self._users.changed.wait_for(lambda: not self._users.count, timeout_s)

    @contextlib.contextmanager
    def used(self) -> Iterator[int]:
        """The file descriptor of the folder, which stays open within the block.

        Raises:
            FileAccessError: It was closed.
        """
        users = self._users
        with users.changed:
            if users.is_closed:
                raise FileAccessError(f"The folder {self.path} was given back.", "Nothing: the run that used it is over.")
            users.count += 1
        try:
            yield self.folder
        finally:
            with users.changed:
                users.count -= 1
                if users.is_over:
                    os.close(self.folder)
                users.changed.notify_all()

    @contextlib.contextmanager
    def place(self, path: str, *, create: bool = False, follow: bool = True) -> Iterator[Place]:
        """Find where a path leads, following links only as long as they stay beneath the root.

        Args:
            path: Relative to the root, or absolute beneath it.
            create: Make folders that are missing.
            follow: Whether a link at the very end is followed too; else the place is the link's own.

        Raises:
            OutsideRootError: The path leads out, or tries to.
            FileMissingError: A folder of it is missing.
            NotAFileError: A folder of it is something else.
        """
        with self.used() as root:
            walk = _Walk(root)
            try:
                name = self._walk(walk, path, create=create, follow=follow)
                yield Place(walk.here, name, "/".join([*walk.names, name]))
            finally:
                walk.close()

    @contextlib.contextmanager
    def inside(self, path: str) -> Iterator[tuple[int, str]]:
        """Open a folder beneath the root, or the root itself for ``.``; yields its file descriptor and its path.

        Raises:
            OutsideRootError: The path leads out, or tries to.
            FileMissingError: There is nothing.
            NotAFolderError: There is something else.
        """
        if path and set(path) <= set("./") and ".." not in path and not path.startswith("/"):
            with self.used() as root:
                yield root, ""
            return
        with self.place(path) as place:
            try:
                folder = os.open(place.name, _FOLDER, dir_fd=place.folder)
            except FileNotFoundError:
                raise FileMissingError(f"There is no folder {place.path!r}.", "Correct the path.") from None
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise NotAFolderError(f"Path {place.path!r} is not a folder.", "Name a folder.") from error
                raise
            try:
                yield folder, place.path
            finally:
                os.close(folder)

    def parts(self, path: str) -> list[str]:
        """The components of a path as its author wrote it, checked.

        Raises:
            OutsideRootError: A spelling that is refused whatever is on the disk.
        """
        if "\0" in path or not path.strip():
            raise self._outside(path, "it is empty or holds a NUL character")
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise self._outside(path, "it is not valid text") from None
        if path.startswith("~"):
            raise self._outside(path, "a home folder is never meant")
        if path.startswith("/"):
            inside = path.removeprefix(self.path.rstrip("/") + "/")
            if inside == path:
                raise self._outside(path, "it is absolute")
            path = inside
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._outside(path, "it holds '..'")
        if not parts:
            raise NotAFileError(f"Path {path!r} is the root folder itself.", "Name a file in it.")
        return parts

    def _walk(self, walk: _Walk, path: str, *, create: bool, follow: bool) -> str:
        """Go to the last folder of a path; answers the name in it."""
        parts, links = self.parts(path), 0
        while True:
            name = parts.pop(0)
            if name == "..":  # Only a link's target can hold it.
                if not walk.back():
                    raise self._outside(path, "a symbolic link on the way leads out")
                if not parts:
                    raise NotAFileError(f"Path {path!r} is a folder.", "Name a file.")
                continue
            target = _link(name, walk.here) if parts or follow else None
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    raise self._outside(path, f"it goes through more than {MAX_LINKS} symbolic links")
                if target.startswith("/"):
                    raise self._outside(path, f"{'/'.join([*walk.names, name])!r} is a symbolic link to an absolute path")
                parts = [part for part in target.split("/") if part not in ("", ".")] + parts
                if not parts:
                    raise NotAFileError(f"Path {path!r} is a folder.", "Name a file.")
            elif parts:
                self._enter(walk, name, path, create=create)
            else:
                return name

    def _enter(self, walk: _Walk, name: str, path: str, *, create: bool) -> None:
        try:
            if create:
                _make_folder(name, walk.here)
            walk.enter(name)
        except FileNotFoundError:
            raise FileMissingError(f"Path {path!r}: there is no folder {name!r}.", "Correct the path.") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._outside(path, f"{name!r} was replaced by a link while it was opened") from error
            if error.errno == errno.ENOTDIR:
                raise NotAFileError(f"Path {path!r}: {name!r} is not a folder.", "Correct the path.") from error
            raise

    def _outside(self, path: str, why: str) -> OutsideRootError:
        return OutsideRootError(
            f"Path {path!r} is refused: {why}.", f"Use a path beneath {self.path}, or change 'root' in [clients.files]."
        )


def _link(name: str, folder: int) -> str | None:
    """Where a symbolic link points; None for anything else, also for nothing."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _make_folder(name: str, folder: int) -> None:
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        return
    os.fsync(folder)


def kind_of(mode: int) -> str:
    """What a file is, in a word."""
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
        stat.S_IFLNK: "symbolic link",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")
