"""Reading and writing whole files at a place beneath the root."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

import attrs
from treadle.errors import PermanentError

from treadle_files._beneath import FileMissingError, NotAFileError, Place, kind_of

_CHUNK = 1 << 20


@attrs.define
class Digest:
    """Size and digest of what went by.

    Attributes:
        size: Bytes.
    """

    size: int = 0
    _hash: hashlib._Hash = attrs.field(factory=hashlib.sha256, init=False)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.size += len(chunk)
        self._hash.update(chunk)

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        return self._hash.hexdigest()


def read_bytes(place: Place, max_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        FileMissingError: There is nothing.
        NotAFileError: It is something else; a pipe or device is never waited for.
        PermanentError: It holds more than ``max_bytes``.
    """
    with opened(place) as file:
        return _read_all(file, place, max_bytes)


@contextlib.contextmanager
def opened(place: Place) -> Iterator[int]:
    """The file descriptor of a regular file, open for reading.

    Raises:
        FileMissingError: There is nothing.
        NotAFileError: It is something else; a pipe or device is never waited for.
    """
    if permissions(place) is None:  # Looked at before it is opened: opening alone can set a device going.
        raise FileMissingError(f"There is no file {place.path!r}.", "Correct the path, or let an earlier step write it.")
    # O_NONBLOCK: opening a named pipe, should one have come there meanwhile, would wait for a writer.
    file = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.folder)
    try:
        _check_regular(place, os.fstat(file).st_mode)
        yield file
    finally:
        os.close(file)


def chunks_of(file: int) -> Iterator[bytes]:
    """All that is left to read of a file."""
    while chunk := os.read(file, _CHUNK):
        yield chunk


def write_bytes(place: Place, content: Iterable[bytes], *, temporary: str, mode: int | None) -> Digest:
    """Replace a file's content at once and durably: readers see the old content or the new, never a part.

    Args:
        place: Where; what is there keeps its permissions unless ``mode`` is given.
        content: All of it, piece by piece.
        temporary: Name for the file while it is written; the same for every attempt of a step, so that a killed attempt's
            remains are replaced by the next.
        mode: Permissions; None for what is there, or the usual ones of a new file.

    Returns:
        What was written.

    Raises:
        NotAFileError: There is something that is no regular file.
    """
    kept = permissions(place)
    file = _create(temporary, place.folder)
    written = Digest()
    try:
        try:
            for chunk in content:
                written.feed(chunk)
                _write_all(file, chunk)
            if (wanted := mode if mode is not None else kept) is not None:
                os.fchmod(file, wanted)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(temporary, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=place.folder)
        raise
    os.fsync(place.folder)  # The name, too, survives a power cut.
    return written


def _read_all(file: int, place: Place, max_bytes: int) -> bytes:
    content = bytearray()
    # One byte more than allowed tells a file that grows, or whose size is not told in advance.
    while len(content) <= max_bytes:
        chunk = os.read(file, min(_CHUNK, max_bytes + 1 - len(content)))
        if not chunk:
            return bytes(content)
        content += chunk
    raise PermanentError(
        f"File {place.path!r} holds more than {max_bytes:,} bytes ({os.fstat(file).st_size:,}).",
        "Raise 'max_bytes', or read less.",
    )


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view[:_CHUNK]) :]


def _create(name: str, folder: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, 0o666, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        return os.open(name, flags, 0o666, dir_fd=folder)


def permissions(place: Place) -> int | None:
    """Permissions of what is there; None for nothing."""
    try:
        mode = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    _check_regular(place, mode)
    return stat.S_IMODE(mode) & 0o777


def _check_regular(place: Place, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFileError(f"Path {place.path!r} is a {kind_of(mode)}, not a regular file.", "Name a file.")
