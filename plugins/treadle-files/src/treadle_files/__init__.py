"""``file.read``, ``file.write`` and others: whole files, beneath one folder and nowhere else."""

from __future__ import annotations

import binascii
import hashlib
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from json import dumps, loads
from typing import Literal

import attrs
from treadle import client, executor
from treadle.errors import ConfigError, PermanentError
from treadle.ports import SyncContext

from treadle_files._arranging import (
    Deleted,
    Entry,
    Listing,
    Moved,
    TargetExistsError,
    Written,
    copy,
    delete,
    list_entries,
    move,
    reported,
    temporary_name,
)
from treadle_files._beneath import (
    FileAccessError,
    FileMissingError,
    FileRoot,
    NotAFileError,
    NotAFolderError,
    OutsideRootError,
)
from treadle_files._contents import read_bytes, write_bytes
from treadle_files._matching import Search

__all__ = [
    "Content",
    "Deleted",
    "Entry",
    "FileAccessError",
    "FileMissingError",
    "FileRoot",
    "Files",
    "Listing",
    "Matches",
    "Moved",
    "NotAFileError",
    "NotAFolderError",
    "OutsideRootError",
    "TargetExistsError",
    "Written",
    "copy",
    "delete",
    "glob",
    "list_entries",
    "move",
    "read",
    "write",
]


@client("files")
@attrs.define
class Files:
    """The folder beneath which all files of a run lie.

    Attributes:
        root: Path of the folder; relative to the working directory, ``~`` allowed.
    """

    root: str = "."

    @contextmanager
    def open(self) -> Iterator[FileRoot]:
        """The folder, held open: renaming it does not lead a run elsewhere."""
        path = os.path.abspath(os.path.expanduser(self.root))
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"The root {path!r} of [clients.files] cannot be opened: {error.strerror}.",
                "Create the folder, or correct 'root'.",
            ) from error
        root = FileRoot(path, folder)
        try:
            yield root
        finally:
            root.close()

    async def check(self) -> None:
        """Raise when the folder is not there."""
        with self.open():
            pass


@attrs.frozen
class Content:
    """A file that was read.

    Attributes:
        path: Where it is, relative to the root, links resolved.
        bytes: Its size.
        sha256: Its digest, 64 hex digits.
        text: The content for ``format: text``.
        json: The parsed content for ``format: json``.
        base64: The content for ``format: base64``.
    """

    path: str
    bytes: int
    sha256: str
    text: str | None = None
    json: object = None
    base64: str | None = None


@attrs.frozen
class Matches:
    """Files that a pattern matches.

    Attributes:
        paths: Relative to the root, sorted.
        count: How many.
        skipped: Names that are no valid text and folders that may not be read, which are left out.
    """

    paths: list[str]
    count: int
    skipped: int


@executor("file.read", effects="none", examples=({"path": "README.md"},))
def read(
    files: FileRoot,
    /,
    path: str,
    format: Literal["text", "json", "base64"] = "text",
    encoding: str = "utf-8",
    max_bytes: int = 10_485_760,
) -> Content:
    """Read a whole file beneath the root.

    Args:
        files: The root.
        path: Which file, relative to the root.
        format: What to make of it: its text, the value that its JSON says, or base64 of whatever it holds.
        encoding: How its text is encoded.
        max_bytes: A larger file is an error.

    Raises:
        PermanentError: There is no such regular file beneath the root, it is too large, or it is not in that format.
    """
    with reported("read", path), files.place(path) as place:
        content = read_bytes(place, max_bytes)
    found = Content(place.path, len(content), hashlib.sha256(content).hexdigest())
    if format == "base64":
        return attrs.evolve(found, base64=b64encode(content).decode())
    text = _decoded(content, encoding, path)
    return attrs.evolve(found, text=text) if format == "text" else attrs.evolve(found, json=_parsed(text, path))


@executor("file.write", effects="idempotent", examples=({"path": "out/hello.txt", "text": "hello"},))
def write(
    files: FileRoot,
    ctx: SyncContext,
    /,
    path: str,
    text: str | None = None,
    json: object = None,
    base64: str | None = None,
    encoding: str = "utf-8",
    mode: str | None = None,
) -> Written:
    """Write a whole file beneath the root, at once and durably; folders are made as needed.

    Whoever reads the file meanwhile sees the old content or the new. When this returns, the content survives a power cut.

    Args:
        files: The root.
        ctx: The call.
        path: Which file, relative to the root.
        text: Content as text; exactly one of ``text``, ``json`` and ``base64``.
        json: Content as a value, written as indented JSON.
        base64: Content of any kind.
        encoding: How text is encoded.
        mode: Permissions like ``"0600"``; default those of the file that is there, else the usual ones.

    Raises:
        PermanentError: The path is not allowed, is no regular file, or the content cannot be written in that form.
    """
    content = _content(text, json, base64, encoding)
    permissions = _permissions(mode)
    with reported("written", path), files.place(path, create=True) as place:
        digest = write_bytes(place, [content], temporary=temporary_name(ctx, place), mode=permissions)
        return Written(place.path, digest.size, digest.sha256)


@executor("file.glob", effects="none", examples=({"pattern": "**/*.md"},))
def glob(files: FileRoot, /, pattern: str, max_matches: int = 10_000) -> Matches:
    """List the regular files beneath the root that match a pattern.

    Args:
        files: The root.
        pattern: Like ``reports/**/*.csv``: ``*``, ``?`` and ``[ab]`` within a name, ``**`` for any folders. A leading dot of
            a name has to be written out. Symbolic links are neither followed nor listed.
        max_matches: More are an error.

    Raises:
        PermanentError: The pattern leads out of the root, or matches too much.
    """
    search = Search(files.parts(pattern), max_matches)
    paths = search.run(files)
    return Matches(paths, len(paths), search.skipped)


def _content(text: str | None, json: object, base64: str | None, encoding: str) -> bytes:
    given = [value for value in (text, json, base64) if value is not None]
    if len(given) != 1:
        raise PermanentError(
            f"file.write needs exactly one of 'text', 'json' and 'base64'; it got {len(given)}.",
            "Give one that is not null; a file that holds JSON null can be written with 'text'.",
        )
    if base64 is not None:
        try:
            return b64decode(base64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise PermanentError(f"'base64' is not base64: {error}.", "Encode the content first.") from error
    if text is None:
        text = dumps(json, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    try:
        return text.encode(encoding)
    except (LookupError, UnicodeEncodeError) as error:
        raise PermanentError(f"The text cannot be written as {encoding!r}: {error}.", "Use encoding utf-8.") from error


def _permissions(mode: str | None) -> int | None:
    if mode is None:
        return None
    if not re.fullmatch(r"(0o?)?[0-7]{3}", mode):
        raise PermanentError(f"mode {mode!r} is not a file's permissions.", 'Write three octal digits as text, like "0640".')
    return int(mode[-3:], 8)


def _decoded(content: bytes, encoding: str, path: str) -> str:
    try:
        return content.decode(encoding)
    except (LookupError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"File {path!r} cannot be read as {encoding!r}: {error}.", "Give its 'encoding', or say 'format: base64'."
        ) from error


def _parsed(text: str, path: str) -> object:
    try:
        return loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PermanentError(f"File {path!r} is not JSON: {error}.", "Correct the file, or say 'format: text'.") from error


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
