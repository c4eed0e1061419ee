"""Nothing leads out of the root: no spelling, no link, no race; and only regular files are touched."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from treadle.errors import ConfigError, PermanentError, TreadleError
from treadle.ports import SyncContext
from treadle_files import FileAccessError, FileMissingError, FileRoot, Files, NotAFileError, OutsideRootError, glob, read, write


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "a/../../secret.txt",
        "..",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "~/x",
        "~root/x",
        "a\0b",
        "",
        "  ",
        "\ud800",
        "./../secret.txt",
    ],
)
def test_spellings_that_lead_out_are_refused(files: FileRoot, ctx: SyncContext, path: str) -> None:
    """Reading, writing and searching refuse the same spellings, before anything is touched."""
    for attempt in (lambda: read(files, path), lambda: write(files, ctx, path, text="x"), lambda: glob(files, path)):
        with pytest.raises(OutsideRootError) as refused:
            attempt()
        assert files.path in refused.value.remedy
    assert os.listdir(files.path) == []


@pytest.mark.parametrize("path", ["....//x", "%2e%2e/secret.txt", "..\\secret.txt", "CON", "a:b"])
def test_spellings_that_mean_nothing_here_are_plain_names(files: FileRoot, path: str) -> None:
    """What is special to other systems or to URLs is a name like any other, so it is simply not there."""
    with pytest.raises(FileMissingError):
        read(files, path)


def test_an_absolute_path_beneath_the_root_is_the_same_file(files: FileRoot, ctx: SyncContext) -> None:
    """A path that an earlier step reported in full still works; a neighbour with the same beginning is outside."""
    write(files, ctx, f"{files.path}/a/b.txt", text="here")

    assert read(files, f"{files.path}//a/./b.txt").text == "here"
    with pytest.raises(OutsideRootError):
        read(files, f"{files.path}-other/b.txt")


@pytest.mark.parametrize(
    "target", ["../secret.txt", "/etc/passwd", "inner/../../secret.txt", "../root/../secret.txt", "self", "loop-a", "../"]
)
def test_links_that_lead_out_are_refused(files: FileRoot, ctx: SyncContext, target: str) -> None:
    """A symbolic link out of the root, an absolute one and a circle are refused in both directions."""
    root = Path(files.path)
    (root / "inner").mkdir()
    (root / "self").symlink_to("self")
    (root / "loop-a").symlink_to("loop-b")
    (root / "loop-b").symlink_to("loop-a")
    (root / "link").symlink_to(target)

    with pytest.raises(OutsideRootError):
        read(files, "link")
    with pytest.raises(OutsideRootError):
        write(files, ctx, "link", text="gone")
    assert (root.parent / "secret.txt").read_text() == "private"


def test_links_that_stay_beneath_the_root_are_followed(files: FileRoot, ctx: SyncContext) -> None:
    """Links within the root lead to their files, for reading and for writing; the link itself stays."""
    root = Path(files.path)
    (root / "releases/1").mkdir(parents=True)
    (root / "current").symlink_to("releases/1")
    (root / "releases/1/up").symlink_to("../../other")

    written = write(files, ctx, "current/a.txt", text="one")
    write(files, ctx, "current/up", text="two")

    assert written.path == "releases/1/a.txt"
    assert (root / "releases/1/a.txt").read_text() == "one"
    assert (read(files, "other").text, (root / "current").is_symlink()) == ("two", True)


def test_a_link_swapped_in_meanwhile_never_leads_out(files: FileRoot) -> None:
    """While another thread swaps a folder for a link to the outside, no read ever returns what is outside."""
    root = Path(files.path)
    inside, outside = root / "swap", root.parent / "outside"
    for folder, text in ((inside, "inside"), (outside, "OUTSIDE")):
        folder.mkdir()
        (folder / "file").write_text(text)
    stop = threading.Event()

    def swap() -> None:
        aside = root / "aside"
        while not stop.is_set():
            inside.rename(aside)
            inside.symlink_to("../outside")
            inside.unlink()
            aside.rename(inside)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        for count in itertools.count():
            if count >= 5000 and ("inside" in seen or count >= 500_000):
                break
            try:
                seen.add(read(files, "swap/file").text)
            except TreadleError:
                seen.add("refused")
    finally:
        stop.set()
        swapper.join()

    assert "inside" in seen
    assert seen <= {"inside", "refused"}


def test_only_regular_files_are_read_or_replaced(files: FileRoot, ctx: SyncContext) -> None:
    """A folder, a pipe, a socket: each is named, none is waited for."""
    root = Path(files.path)
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{files.folder}/socket")  # a socket's path is short
    (root / "dot").symlink_to(".")

    for name, kind in (
        ("folder", "folder"),
        ("pipe", "named pipe"),
        ("socket", "socket"),
        ("dot", "folder"),
        (".", "root folder"),
    ):
        with pytest.raises(NotAFileError, match=kind):
            read(files, name)
        with pytest.raises(NotAFileError, match=kind):
            write(files, ctx, name, text="x")
    with pytest.raises(NotAFileError, match="not a folder"):
        write(files, ctx, "pipe/x", text="x")


def test_a_missing_root_is_said_plainly(tmp_path: Path) -> None:
    """A root that is not there is an error of the configuration."""
    with pytest.raises(ConfigError, match=r"clients\.files"), Files(root=str(tmp_path / "nowhere")).open():
        pass


def test_the_root_is_held_even_when_it_is_renamed(files: FileRoot, ctx: SyncContext) -> None:
    """The folder, not its name, is the root of a run."""
    moved = Path(files.path).rename(Path(files.path).with_name("moved"))
    Path(files.path).mkdir()

    write(files, ctx, "a.txt", text="x")

    assert (moved / "a.txt").exists()


def test_a_call_that_goes_on_keeps_its_folder_to_the_end(tmp_path: Path) -> None:
    """The number of a folder that was closed may be the next one's: whoever uses it last closes it, and nobody comes after."""
    with Files(root=str(tmp_path)).open() as opened:
        going_on = opened.place("a.txt")
        place = going_on.__enter__()  # in a thread that was left behind, say
    others = [os.open("/", os.O_RDONLY) for _ in range(3)]
    here = os.readlink(f"/proc/self/fd/{place.folder}")
    with pytest.raises(FileAccessError, match="given back"), opened.place("b.txt"):
        pass
    is_used_at_first = not opened.wait_until_unused(0)
    going_on.__exit__(None, None, None)
    for other in others:
        os.close(other)

    assert here == str(tmp_path)
    assert is_used_at_first
    assert opened.wait_until_unused(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened.folder)


def test_no_file_stays_open(files: FileRoot, ctx: SyncContext, open_files: Callable[[], Counter[str]]) -> None:
    """Success and refusal alike give every descriptor back."""
    before = open_files()
    write(files, ctx, "a/b/c.txt", text="x")
    read(files, "a/b/c.txt")
    glob(files, "**/*")
    for path in ("a/b", "a/x/y", "../x", "a/b/c.txt/d"):
        with pytest.raises(PermanentError):
            read(files, path)

    assert not open_files() - before
