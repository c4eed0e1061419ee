"""Copying, moving, deleting and listing: what is done is done at once, again does no harm, and nothing is lost."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from treadle.errors import PermanentError
from treadle.ports import SyncContext
from treadle_files import (
    FileMissingError,
    FileRoot,
    NotAFileError,
    NotAFolderError,
    OutsideRootError,
    TargetExistsError,
    copy,
    delete,
    list_entries,
    move,
    read,
    write,
)


@pytest.fixture
def root(files: FileRoot) -> Path:
    return Path(files.path)


def tree(root: Path) -> dict[str, str]:
    """Path -> content of all regular files."""
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_a_copy_has_content_and_permissions(files: FileRoot, ctx: SyncContext, root: Path) -> None:
    """A new copy is as the original; one that replaces keeps the permissions that were there; again is the same."""
    (root / "a").write_text("content")
    (root / "a").chmod(0o640)
    (root / "old").write_text("old")
    (root / "old").chmod(0o600)

    first, again = copy(files, ctx, "a", "new/b"), copy(files, ctx, "a", "new/b")
    copy(files, ctx, "a", "old")

    assert first == again
    assert (first.path, first.bytes, first.sha256) == ("new/b", 7, read(files, "a").sha256)
    assert tree(root) == {"a": "content", "new/b": "content", "old": "content"}
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in ("new/b", "old")] == [0o640, 0o600]


def test_a_large_file_is_copied_in_pieces(files: FileRoot, ctx: SyncContext, root: Path) -> None:
    """A file larger than what is read at once comes across whole."""
    with (root / "a").open("wb") as file:
        file.truncate(5_000_001)

    assert copy(files, ctx, "a", "b").bytes == 5_000_001


def test_a_file_and_a_folder_are_moved(files: FileRoot, root: Path) -> None:
    """The new name has it all, the old one nothing; folders on the way are made."""
    (root / "in").mkdir()
    (root / "in/a").write_text("a")

    assert (move(files, "in/a", "in/b").moved, move(files, "in", "x/y").path) == (True, "x/y")
    assert tree(root) == {"x/y/b": "a"}


def test_a_move_replaces_only_what_it_is_told_to(files: FileRoot, root: Path) -> None:
    """What is at the target stays, unless ``overwrite`` says otherwise; a folder is never replaced."""
    for name in ("a", "b", "c"):
        (root / name).write_text(name)
    (root / "folder").mkdir()

    for path, to, overwrite in (
        ("a", "b", False),
        ("a", "folder", False),
        ("a", "folder", True),
        ("folder", "b", True),
        ("a", "a", False),
    ):
        with pytest.raises(TargetExistsError):
            move(files, path, to, overwrite=overwrite)
    assert tree(root) == {"a": "a", "b": "b", "c": "c"}
    move(files, "a", "b", overwrite=True)
    assert tree(root) == {"b": "a", "c": "c"}


def test_a_move_that_was_done_is_not_done_again(files: FileRoot, root: Path) -> None:
    """A second attempt finds it moved, also when the first was killed between its two halves; nothing to move is an error."""
    (root / "a").write_text("a")
    assert (move(files, "a", "b").moved, move(files, "a", "b").moved) == (True, False)
    os.link(root / "b", root / "a")
    assert move(files, "a", "b").moved is True
    assert tree(root) == {"b": "a"}
    for path in ("none", "none/x"):
        with pytest.raises(FileMissingError):
            move(files, path, "new/c")
    assert not (root / "new").exists()


def test_a_move_works_without_hard_links(files: FileRoot, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no second names, the target is looked at first."""

    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", unsupported)
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    with pytest.raises(TargetExistsError):
        move(files, "a", "b")
    move(files, "a", "c")

    assert tree(root) == {"b": "b", "c": "a"}


def test_a_link_is_not_moved(files: FileRoot, root: Path) -> None:
    """A link at another place would lead elsewhere."""
    (root / "a").write_text("a")
    (root / "link").symlink_to("a")

    with pytest.raises(NotAFileError, match="symbolic link"):
        move(files, "link", "x/link")


def test_deleting_leaves_nothing_and_nothing_is_fine(files: FileRoot, root: Path) -> None:
    """A file goes at once; a folder only with ``recursive``; what is not there is not an error."""
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/f").write_text("f")
    (root / "a").write_text("a")

    assert [delete(files, "a").deleted for _ in range(2)] == [True, False]
    assert delete(files, "none/x").deleted is False
    with pytest.raises(NotAFileError, match="recursive"):
        delete(files, "d")
    assert delete(files, "d", recursive=True).deleted is True
    assert list(root.iterdir()) == []
    for path in (".", "", "..", "d/.."):
        with pytest.raises(PermanentError):
            delete(files, path, recursive=True)


def test_a_link_is_deleted_not_what_it_leads_to(files: FileRoot, root: Path) -> None:
    """Neither file nor folder behind a link is touched, inside or outside of the root."""
    (root / "a").write_text("a")
    (root / "d").mkdir()
    for name, target in (("to-file", "a"), ("to-folder", "d"), ("out", "../secret.txt"), ("up", "..")):
        (root / name).symlink_to(target)
        assert delete(files, name, recursive=True).deleted is True
    (root / "d/up").symlink_to("../..")
    with pytest.raises(OutsideRootError):
        delete(files, "d/up/secret.txt")
    assert delete(files, "d", recursive=True).deleted is True

    assert tree(root) == {"a": "a"}
    assert (root.parent / "secret.txt").read_text() == "private"


def test_a_folder_is_listed(files: FileRoot, ctx: SyncContext, root: Path) -> None:
    """Names in order, with kind, size and time; links are shown as links."""
    write(files, ctx, "d/b.txt", text="four")
    (root / "d/a").mkdir()
    (root / "d/link").symlink_to("b.txt")
    (root / "to").symlink_to("d")
    os.mkfifo(root / "d/pipe")
    os.utime(root / "d/b.txt", (0, 1.5))

    listing = list_entries(files, "d")

    assert [(entry.name, entry.path, entry.kind, entry.bytes) for entry in listing.entries] == [
        ("a", "d/a", "folder", None),
        ("b.txt", "d/b.txt", "file", 4),
        ("link", "d/link", "symbolic link", None),
        ("pipe", "d/pipe", "named pipe", None),
    ]
    assert (listing.count, listing.skipped, listing.entries[1].modified) == (4, 0, "1970-01-01T00:00:01.500+00:00")
    assert list_entries(files, "to") == listing
    assert [entry.path for entry in list_entries(files).entries] == ["d", "to"]


def test_listing_is_bounded_and_names_what_is_wrong(files: FileRoot, root: Path) -> None:
    """Too many entries, a missing folder and a file are errors; a name that is no text is left out and counted."""
    (root / "a").write_text("a")
    with open(os.fsencode(root) + b"/\xff", "w"):
        pass

    assert (list_entries(files).count, list_entries(files).skipped) == (1, 1)
    with pytest.raises(PermanentError, match="2 entries"):
        list_entries(files, max_entries=1)
    with pytest.raises(FileMissingError):
        list_entries(files, "none")
    with pytest.raises(NotAFolderError):
        list_entries(files, "a")
    for path in ("..", "/", "./..", ""):
        with pytest.raises(OutsideRootError):
            list_entries(files, path)


def test_only_regular_files_are_copied(files: FileRoot, ctx: SyncContext, root: Path) -> None:
    """Pipes, sockets and folders are named, in both places; none is waited for."""
    (root / "a").write_text("a")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{files.folder}/socket")
    for name, kind in (("folder", "folder"), ("pipe", "named pipe"), ("socket", "socket")):
        with pytest.raises(NotAFileError, match=kind):
            copy(files, ctx, name, "b")
        with pytest.raises(NotAFileError, match=kind):
            copy(files, ctx, "a", name)
    with pytest.raises(FileMissingError):
        copy(files, ctx, "none", "b")
