"""Files that requests send, and that answers are saved to: beneath one folder, through no symbolic link, all at once."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator

import attrs

from treadle_http._messages import FileRefusedError


@attrs.frozen
class OpenFile:
    """A regular file that is open for reading.

    Attributes:
        descriptor: Its file descriptor, which the owner closes.
        name: Its last name.
        size: Bytes that it held when it was opened.
    """

    descriptor: int
    name: str
    size: int


@attrs.frozen
class Folder:
    """The folder that ``root`` names.

    Attributes:
        path: Absolute, or relative to the working directory.
    """

    path: str

    def open_file(self, path: str) -> OpenFile:
        """Open a regular file for reading.

        Raises:
            FileRefusedError: There is none, or the path is not allowed.
        """
        with self._parent(path, create=False) as (parent, name), _reported(path):
            # O_NONBLOCK: opening a named pipe would wait for its other end.
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                os.close(file)
                raise FileRefusedError(path, "it is no regular file")
            return OpenFile(file, name, status.st_size)

    def check(self, path: str) -> None:
        """Refuse a path that nothing can be saved to, before anything is asked for it.

        Raises:
            FileRefusedError: The path is not allowed, or there is something that is no regular file.
        """
        try:
            with self._parent(path, create=False) as (parent, name):
                _check_target(path, name, parent)
        except FileRefusedError as error:
            if not isinstance(error.__cause__, FileNotFoundError):  # What is missing will be made.
                raise

    def draft(self, path: str, key: str) -> Draft:
        """Begin a file that appears under its name only when it is kept.

        Args:
            path: Where; folders are made as needed, a regular file that is there is replaced.
            key: Names the draft, so that another attempt of one call replaces what a killed one left; empty for any name.

        Raises:
            FileRefusedError: The path is not allowed.
        """
        with self._parent(path, create=True) as (parent, name), _reported(path):
            _check_target(path, name, parent)
            salt = key or secrets.token_hex(16)
            temporary = f".treadle-{hashlib.sha256(f'{salt}/{name}'.encode()).hexdigest()[:24]}.tmp"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(temporary, flags, 0o666, dir_fd=parent)
            return Draft(os.dup(parent), temporary, name, file)

    @contextlib.contextmanager
    def _parent(self, path: str, *, create: bool) -> Iterator[tuple[int, str]]:
        """The folder that a path's last name is in, held open, and that name."""
        *folders, name = _parts(path)
        with contextlib.ExitStack() as stack, _reported(path):
            here = os.open(os.path.expanduser(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, here)
            for folder in folders:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=here)
                here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                stack.callback(os.close, here)
            yield here, name


@attrs.define(eq=False)
class Draft:
    """A file that is being written; ``keep`` or ``drop`` ends it.

    Attributes:
        size: Bytes so far.
    """

    _parent: int
    _temporary: str
    _name: str
    _file: int
    size: int = 0
    _digest: hashlib._Hash = attrs.field(factory=hashlib.sha256, init=False)

    @property
    def sha256(self) -> str:
        """Digest of what was written, 64 hex digits."""
        return self._digest.hexdigest()

    def write(self, content: bytes) -> None:
        """Add to it."""
        self.size += len(content)
        self._digest.update(content)
        view = memoryview(content)
        while view:
            view = view[os.write(self._file, view) :]

    def keep(self) -> None:
        """Give it its name, at once and durably."""
        os.fsync(self._file)
        os.replace(self._temporary, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        os.fsync(self._parent)  # The name, too, survives a power cut.
        self._close()

    def drop(self) -> None:
        """Leave nothing."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._parent)
        self._close()

    def _close(self) -> None:
        os.close(self._file)
        os.close(self._parent)


def _parts(path: str) -> list[str]:
    if os.open not in os.supports_dir_fd:
        raise FileRefusedError(path, "this system cannot hold a folder open, so files cannot be kept beneath it")
    if "\0" in path or not path.isprintable():
        raise FileRefusedError(path, "it holds a character that no file's name should")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or path.endswith("/"):
        raise FileRefusedError(path, "it names no file")
    if path.startswith(("/", "~")) or ".." in parts:
        raise FileRefusedError(path, "it leads out of the folder")
    return parts


def _check_target(path: str, name: str, parent: int) -> None:
    """Refuse to replace what is no regular file; a symbolic link would be replaced, not followed, but nobody means that."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise FileRefusedError(path, "there is something that is no regular file")


@contextlib.contextmanager
def _reported(path: str) -> Iterator[None]:
    """What the system refuses, as an error that names the path; a full disk or the like stays what it is."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileRefusedError(path, "it goes through a symbolic link") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
            raise FileRefusedError(path, (error.strerror or str(error)).lower()) from error
        raise
