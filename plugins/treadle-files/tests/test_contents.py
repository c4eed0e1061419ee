"""What is written is what is read, all at once or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from treadle.errors import PermanentError
from treadle.ports import SyncContext
from treadle_files import FileAccessError, FileMissingError, FileRoot, _contents, glob, read, write

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("text", ["", "plain\n", "ä\r\nö\0", "x" * 3_000_000])
def test_text_round_trips(files: FileRoot, ctx: SyncContext, text: str) -> None:
    """Text comes back as it was, line ends included, with size and digest of the bytes."""
    written = write(files, ctx, "a/b/text.txt", text=text)
    found = read(files, "a/b/text.txt")

    content = text.encode()
    assert (found.text, found.json, found.base64) == (text, None, None)
    assert (written.path, written.bytes, written.sha256) == ("a/b/text.txt", len(content), hashlib.sha256(content).hexdigest())
    assert (found.path, found.bytes, found.sha256) == (written.path, written.bytes, written.sha256)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON.filter(lambda value: value is not None))
def test_json_round_trips(files: FileRoot, ctx: SyncContext, value: object) -> None:
    """Any JSON value but null comes back equal."""
    write(files, ctx, "value.json", json=value)

    assert read(files, "value.json", format="json").json == value


def test_bytes_round_trip_as_base64(files: FileRoot, ctx: SyncContext) -> None:
    """What is no text travels as base64."""
    write(files, ctx, "picture", base64="/wAB")

    assert (Path(files.path) / "picture").read_bytes() == b"\xff\x00\x01"
    assert read(files, "picture", format="base64").base64 == "/wAB"


def test_other_encodings_are_named(files: FileRoot, ctx: SyncContext) -> None:
    """An encoding is applied both ways; one that does not fit is an error with the way out."""
    write(files, ctx, "latin", text="grün", encoding="latin-1")

    assert read(files, "latin", encoding="latin-1").text == "grün"
    with pytest.raises(PermanentError, match="cannot be read as 'utf-8'") as wrong:
        read(files, "latin")
    assert "base64" in wrong.value.remedy
    for encoding in ("klingon", "rot13", "zlib"):
        with pytest.raises(PermanentError, match=encoding):
            read(files, "latin", encoding=encoding)
        with pytest.raises(PermanentError, match=encoding):
            write(files, ctx, "latin", text="x", encoding=encoding)
    with pytest.raises(PermanentError, match="ascii"):
        write(files, ctx, "latin", text="ü", encoding="ascii")


@pytest.mark.parametrize("content", ["{", "NaN", "[1,]", "[" * 100_000])
def test_what_is_not_json_is_said(files: FileRoot, ctx: SyncContext, content: str) -> None:
    """A file that is not strict JSON is a permanent error, however deep."""
    write(files, ctx, "x.json", text=content)

    with pytest.raises(PermanentError, match="is not JSON"):
        read(files, "x.json", format="json")


def test_a_file_over_the_limit_is_not_read(files: FileRoot, ctx: SyncContext) -> None:
    """The limit is exact, also for a file that does not tell its size."""
    write(files, ctx, "ten", text="0123456789")

    assert read(files, "ten", max_bytes=10).bytes == 10
    with pytest.raises(PermanentError, match="more than 9 bytes"):
        read(files, "ten", max_bytes=9)


def test_exactly_one_content_is_written(files: FileRoot, ctx: SyncContext) -> None:
    """None, or two, of the forms is an error, so that a null from an expression never becomes a file."""
    for given_ in ({}, {"text": "a", "json": 1}, {"text": None}):
        with pytest.raises(PermanentError, match="exactly one"):
            write(files, ctx, "x", **given_)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(PermanentError, match="not base64"):
        write(files, ctx, "x", base64="!")
    assert os.listdir(files.path) == []


def test_permissions_are_kept_or_set(files: FileRoot, ctx: SyncContext) -> None:
    """A new file has the usual permissions, an old one keeps its own, and ``mode`` sets them."""
    target = Path(files.path) / "x"

    def mode() -> int:
        return stat.S_IMODE(target.stat().st_mode)

    write(files, ctx, "x", text="a")
    usual = mode()
    target.chmod(0o640)
    write(files, ctx, "x", text="b")
    kept = mode()
    write(files, ctx, "x", text="c", mode="0600")

    umask = os.umask(0)
    os.umask(umask)
    assert (usual, kept, mode()) == (0o666 & ~umask, 0o640, 0o600)
    for wrong in ("4755", "rw", "0999", "", "1"):
        with pytest.raises(PermanentError, match="not a file's permissions"):
            write(files, ctx, "x", text="d", mode=wrong)


def test_a_reader_sees_the_old_content_or_the_new(files: FileRoot, ctx: SyncContext) -> None:
    """While a large file is replaced again and again, every read is whole."""
    contents = {"a" * 500_000, "b" * 700_000}
    write(files, ctx, "x", text="a" * 500_000)
    stop = threading.Event()
    seen: list[str | None] = []

    def look() -> None:
        while not stop.is_set():
            seen.append(read(files, "x").text)

    reader = threading.Thread(target=look)
    reader.start()
    rounds = 0
    while reader.is_alive() and (rounds < 20 or len(seen) < 20):
        rounds += 1
        for content in contents:
            write(files, ctx, "x", text=content)
    stop.set()
    reader.join()

    assert len(seen) >= 20
    assert set(seen) <= contents


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_failed_write_changes_nothing(
    files: FileRoot, ctx: SyncContext, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A full disk in whatever phase leaves the old content and no remains."""

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    write(files, ctx, "x", text="old")
    with monkeypatch.context() as broken:
        broken.setattr(_contents.os, failing, full)
        with pytest.raises(FileAccessError, match="'x' cannot be written: No space left"):
            write(files, ctx, "x", text="new")

    assert os.listdir(files.path) == ["x"]
    assert read(files, "x").text == "old"


def test_the_remains_of_a_killed_attempt_are_replaced(
    files: FileRoot, ctx: SyncContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every attempt of a step uses one temporary name, so that a rerun tidies up after a killed one."""

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(_contents.os, "replace", killed)
        dying.setattr(_contents.os, "unlink", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            write(files, ctx, "x", text="first")
    assert len(os.listdir(files.path)) == 1

    write(files, ctx, "x", text="second")

    assert os.listdir(files.path) == ["x"]
    assert read(files, "x").text == "second"


def test_what_is_missing_is_said(files: FileRoot) -> None:
    """A missing file and a missing folder are told apart."""
    with pytest.raises(FileMissingError, match="no file 'x'"):
        read(files, "x")
    with pytest.raises(FileMissingError, match="no folder 'a'"):
        read(files, "a/b")


def test_glob_lists_regular_files_beneath_the_root(files: FileRoot, ctx: SyncContext) -> None:
    """Patterns match names and folders; hidden names only when written out; links are left out; the order is fixed."""
    for path in ("b.md", "a.md", "a.txt", "docs/c.md", "docs/deep/d.md", ".hidden/e.md", "docs/.f.md"):
        write(files, ctx, path, text="x")
    (Path(files.path) / "link.md").symlink_to("a.md")
    (Path(files.path) / "docs/up").symlink_to("..")

    def found(pattern: str) -> list[str]:
        return glob(files, pattern).paths

    assert found("*.md") == ["a.md", "b.md"]
    assert found("**/*.md") == ["a.md", "b.md", "docs/c.md", "docs/deep/d.md"]
    assert found("docs/**") == ["docs/c.md", "docs/deep/d.md"]
    assert found("docs/*/?.md") == ["docs/deep/d.md"]
    assert found("**/deep/**/*.md") == ["docs/deep/d.md"]
    assert found("**/.*.md") == ["docs/.f.md"]
    assert found(".hidden/*") == [".hidden/e.md"]
    assert found("[ab].md") == ["a.md", "b.md"]
    assert found("docs") == []
    assert (found("nothing/*"), glob(files, "*.md").count) == ([], 2)


def test_glob_is_bounded(files: FileRoot, ctx: SyncContext) -> None:
    """Too many matches or folders in folders are an error; many ``**`` cost no more than one."""
    deep = "/".join("d" * 60)
    write(files, ctx, f"{deep}/x", text="x")
    for number in range(20):
        write(files, ctx, f"many/{number}", text="x")

    assert glob(files, "/".join(["**"] * 40) + "/x").count == 1
    with pytest.raises(PermanentError, match="more than 19 files"):
        glob(files, "many/*", max_matches=19)
    write(files, ctx, f"{deep}/{deep}/y", text="x")
    with pytest.raises(PermanentError, match="nested more than"):
        glob(files, "**/y")


def test_names_that_are_no_text_are_counted(files: FileRoot) -> None:
    """A name that no output could hold is left out and counted."""
    with open(os.fsencode(files.path) + b"/\xff.md", "w"):
        pass

    assert glob(files, "*.md").skipped == 1
