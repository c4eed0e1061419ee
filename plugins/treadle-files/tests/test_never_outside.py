"""Whatever tree there is and whatever path is given, nothing beside the root is read, changed or named."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from treadle.errors import TreadleError
from treadle.ports import SyncContext
from treadle_files import FileRoot, Files, copy, delete, glob, list_entries, move, read, write

SECRET = "0f-outside-the-root"
NAMES = st.sampled_from(["a", "b", "A", ".x", "link", "up"])
STEPS = st.sampled_from(
    ["a", "b", "A", ".x", "link", "up", "..", ".", "", "~", "*", "**", "secret", "outside", "\0", "a\nb", "...", "\ud800"]
)
PATHS = st.builds(
    lambda start, steps: start + "/".join(steps),
    st.sampled_from(["", "", "", "/", "//", "./", "ROOT/", "ROOT/../", "/proc/self/root", "~/"]),
    st.lists(STEPS, max_size=6),
)
TARGETS = st.sampled_from(
    [
        "..",
        "../outside",
        "../outside/secret",
        "/",
        "OUTSIDE",
        "OUTSIDE/secret",
        "a",
        "b/..",
        "a/../..",
        "link",
        ".",
        "up/../..",
        "/proc/self/cwd",
    ]
)
# (path, None) is a folder, (path, "") a file, (path, target) a link.
TREES = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.none() | st.just("") | TARGETS), max_size=8)
OPERATIONS = st.sampled_from(["read", "write", "glob", "list", "copy", "move", "delete"])


@contextlib.contextmanager
def laid_out(tree: list[tuple[list[str], str | None]]) -> Iterator[tuple[FileRoot, Path]]:
    """A root with that tree, and a folder beside it that must not be reached."""
    with tempfile.TemporaryDirectory() as folder:
        root, outside = Path(folder, "root"), Path(folder, "outside")
        root.mkdir()
        outside.mkdir()
        (outside / "secret").write_text(SECRET)
        (outside / "only-outside").mkdir()
        for names, target in tree:
            path = root.joinpath(*names)
            if any(parent.is_symlink() for parent in path.parents):
                continue  # it would be laid outside
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                if target is None:
                    path.mkdir()
                elif target:
                    path.symlink_to(target.replace("OUTSIDE", str(outside)))
                else:
                    path.write_text("inside")
        with Files(root=str(root)).open() as files:
            yield files, outside


def perform(name: str, files: FileRoot, ctx: SyncContext, path: str, to: str) -> object:
    """One of the executors; what it answers, or None when it refuses."""
    operations: dict[str, Callable[[], object]] = {
        "read": lambda: read(files, path, format="base64").base64,
        "write": lambda: write(files, ctx, path, text="written"),
        "glob": lambda: glob(files, path),
        "list": lambda: list_entries(files, path),
        "copy": lambda: copy(files, ctx, path, to),
        "move": lambda: move(files, path, to, overwrite=True),
        "delete": lambda: delete(files, path, recursive=True),
    }
    try:
        return operations[name]()
    except TreadleError:
        return None


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def holds_secret(folder: Path) -> bool:
    """Whether a regular file in the folder has what was outside."""
    return any(
        SECRET in Path(where, name).read_text("utf-8", "replace")
        for where, _, names in os.walk(folder)
        for name in names
        if not Path(where, name).is_symlink() and Path(where, name).is_file()
    )


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, operations=st.lists(st.tuples(OPERATIONS, PATHS, PATHS), min_size=1, max_size=6))
def test_no_path_in_any_tree_leads_out(
    ctx: SyncContext, tree: list[tuple[list[str], str | None]], operations: list[tuple[str, str, str]]
) -> None:
    """Links to everywhere, paths of every spelling, one operation after the other: the outside is as it was, and unread."""
    with laid_out(tree) as (files, outside):
        before = contents(outside)
        for name, path, to in operations:
            path, to = path.replace("ROOT", files.path), to.replace("ROOT", files.path)
            answer = perform(name, files, ctx, path, to)
            assert SECRET not in repr(answer)
            assert "only-outside" not in repr(answer)
        assert sorted(path.name for path in outside.parent.iterdir()) == ["outside", "root"]
        assert contents(outside) == before
        assert not holds_secret(Path(files.path))


def test_a_link_swapped_in_meanwhile_leads_nowhere(ctx: SyncContext, tmp_path: Path) -> None:
    """While another thread swaps a folder for a link to the outside, no operation reads, changes or lists what is there."""
    with laid_out([(["swap"], None), (["b"], "")]) as (files, outside):
        root, before = Path(files.path), contents(outside)
        inside, aside, stop = root / "swap", root / "aside", threading.Event()

        def swap() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    inside.mkdir(exist_ok=True)
                    shutil.rmtree(aside, ignore_errors=True)
                    inside.rename(aside)
                    inside.symlink_to("../outside")
                    inside.unlink()
                    aside.rename(inside)

        swapper = threading.Thread(target=swap)
        swapper.start()
        answers: set[str] = set()
        try:
            for _ in range(300):
                answers |= {
                    repr(perform(name, files, ctx, path, "b"))
                    for name, path in (
                        ("write", "swap/new"),
                        ("read", "swap/secret"),
                        ("copy", "swap/secret"),
                        ("glob", "**/*"),
                        ("glob", "swap/*"),
                        ("list", "swap"),
                        ("move", "swap/secret"),
                        ("delete", "swap/secret"),
                        ("delete", "swap"),
                    )
                }
        finally:
            stop.set()
            swapper.join()

        assert not any(word in answer for answer in answers for word in ("only-outside", SECRET))
        assert contents(outside) == before
        assert not holds_secret(root)
