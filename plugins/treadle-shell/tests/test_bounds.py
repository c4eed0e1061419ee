"""Where a command runs, what it may use, and what it leaves behind as files."""

from __future__ import annotations

import hashlib
import os
import resource
import threading
from pathlib import Path

import anyio
import pytest
from treadle.errors import ConfigError, PermanentError
from treadle.ports import Context
from treadle_shell import (
    Artifact,
    ArtifactMissingError,
    CommandFailedError,
    FolderNotFoundError,
    FolderRefusedError,
    Shell,
    ShellSettings,
    _folder,
    run,
)

pytestmark = pytest.mark.anyio

SHELL = ShellSettings("", {})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    return root


# -- where ---------------------------------------------------------------------------------------------------------------


async def test_the_root_is_where_commands_run(ctx: Context, root: Path) -> None:
    """Without ``cwd`` a command runs in the root, with it beneath, however it is spelled; a link may lead within."""
    shell = ShellSettings(str(root), {})
    (root / "link").symlink_to("inner")

    for cwd, expected in (
        (None, ""),
        (".", ""),
        ("inner", "inner"),
        (str(root / "inner"), "inner"),
        ("link", "inner"),
        ("inner/..", ""),
    ):
        result = await run(shell, ctx, argv=["/bin/pwd"], cwd=cwd)
        assert result.stdout.strip() == str(root / expected).rstrip("/")


@pytest.mark.parametrize("cwd", ["..", "../outside", "/", "/etc", "out", "inner/../.."])
async def test_no_working_directory_leads_out_of_the_root(ctx: Context, root: Path, cwd: str) -> None:
    """Neither a spelling nor a link leads elsewhere; what is not there is said."""
    (root / "out").symlink_to("../outside")
    shell = ShellSettings(str(root), {})
    with pytest.raises(FolderRefusedError, match=r"leads out of|clients\.shell"):
        await run(shell, ctx, argv=["touch", "here"], cwd=cwd)
    for missing in ("none", "a\0b"):
        with pytest.raises(FolderNotFoundError):
            await run(shell, ctx, argv=["true"], cwd=missing)

    assert not list(root.parent.rglob("here"))


async def test_a_link_swapped_in_meanwhile_leads_nowhere(ctx: Context, root: Path) -> None:
    """A command runs in the folder that was checked, though its name leads elsewhere by now."""
    swapping, stop = root / "swap", threading.Event()
    swapping.mkdir()

    def swap() -> None:
        while not stop.is_set():
            swapping.rename(root / "aside")
            swapping.symlink_to("../outside")
            swapping.unlink()
            (root / "aside").rename(swapping)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(40):
            try:
                seen.add((await run(ShellSettings(str(root), {}), ctx, argv=["/bin/pwd"], cwd="swap")).stdout.strip())
            except (FolderNotFoundError, FolderRefusedError):
                seen.add("refused")
    finally:
        stop.set()
        thread.join()

    assert not any("outside" in place for place in seen)


def test_a_root_that_is_not_there_is_said(tmp_path: Path) -> None:
    """It is an error of the configuration."""
    with pytest.raises(ConfigError, match=r"clients\.shell"), Shell(root=str(tmp_path / "none")).open():
        pass
    with Shell(root=str(tmp_path), limits={"cpu_s": 5}).open() as settings:
        assert settings == ShellSettings(str(tmp_path), {"cpu_s": 5})


# -- how much ------------------------------------------------------------------------------------------------------------


async def test_new_files_are_private(ctx: Context, root: Path) -> None:
    """Others may not read what a command writes, unless the step says so."""
    await run(SHELL, ctx, script="touch a; mkdir b", cwd=str(root))
    await run(SHELL, ctx, script="touch c", cwd=str(root), umask="022")

    assert [oct((root / name).stat().st_mode & 0o777) for name in "abc"] == ["0o600", "0o700", "0o644"]
    for wrong in ("", "7", "888", "u=rwx", "077; id"):
        with pytest.raises(PermanentError, match="umask"):
            await run(SHELL, ctx, argv=["true"], umask=wrong)


async def test_limits_are_set_for_the_command(ctx: Context) -> None:
    """Memory, processor time, files and their size are limited, never raised; a core is never dumped."""
    script = "ulimit -v; ulimit -t; ulimit -f; ulimit -n; ulimit -c"
    shell = ShellSettings("", {"memory_mb": 4096, "cpu_s": 100})
    result = await run(shell, ctx, script=script, limits={"memory_mb": 2048, "cpu_s": 200, "file_mb": 3, "open_files": 50})

    assert result.stdout.split() == [str(2048 * 1024), "100", str(3 * 2048), "50", "0"]


async def test_what_uses_more_than_its_limit_ends(ctx: Context, tmp_path: Path) -> None:
    """A loop, a large file and a memory hog each end, with an error that names the limit where the system tells it."""
    with pytest.raises(CommandFailedError, match="SIGXCPU") as busy:
        await run(SHELL, ctx, script="while :; do :; done", limits={"cpu_s": 1})
    with pytest.raises(CommandFailedError) as large:
        await run(SHELL, ctx, argv=["dd", "if=/dev/zero", f"of={tmp_path}/x", "bs=1M", "count=9"], limits={"file_mb": 1})
    with pytest.raises(CommandFailedError):
        await run(SHELL, ctx, script='x=$(head -c 300000000 /dev/zero | tr "\\0" x); echo ${#x}', limits={"memory_mb": 100})

    assert "'cpu_s'" in busy.value.remedy
    assert (large.value.exit_code, "'file_mb'" in large.value.remedy) == (-25, True)
    assert (tmp_path / "x").stat().st_size == 1024 * 1024


async def test_limits_that_cannot_be_meant_are_refused(ctx: Context) -> None:
    """Nothing and less than nothing are no limits."""
    for value in (0, -1):
        with pytest.raises(PermanentError, match=r"limits\.cpu_s"):
            await run(SHELL, ctx, argv=["true"], limits={"cpu_s": value})


async def test_treadles_own_limits_are_kept(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that treadle itself has is never raised for a command, nor is raising it tried."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10, 10))

    result = await run(SHELL, ctx, script="ulimit -v", limits={"memory_mb": 4096, "cpu_s": 1000})

    assert result.exit_code == 0


# -- what it leaves ------------------------------------------------------------------------------------------------------


async def test_artifacts_are_the_files_that_match(ctx: Context, root: Path) -> None:
    """Path, size and digest of each regular file, sorted; paths start from the root, where there is one."""
    script = "mkdir -p dist/deep; printf one >dist/a.whl; printf two >dist/deep/b.whl; touch c.txt; ln -s a.whl dist/link.whl"
    patterns = ["dist/*.whl", "**/*.whl", "c.txt"]
    result = await run(ShellSettings(str(root), {}), ctx, script=script, cwd="inner", artifacts=patterns)
    plain = await run(SHELL, ctx, argv=["true"], cwd=str(root / "inner"), artifacts=["dist/**"])

    def artifact(path: str, content: bytes) -> Artifact:
        return Artifact(path, len(content), hashlib.sha256(content).hexdigest())

    assert result.artifacts == [
        artifact("inner/c.txt", b""),
        artifact("inner/dist/a.whl", b"one"),
        artifact("inner/dist/deep/b.whl", b"two"),
    ]
    assert [each.path for each in plain.artifacts] == ["dist/a.whl", "dist/deep/b.whl"]


async def test_an_artifact_that_is_not_there_is_an_error(ctx: Context, root: Path) -> None:
    """A pattern without a file fails the step; links, pipes and folders are no files."""
    script = "mkdir folder; ln -s /etc/passwd link; mkfifo pipe; ln -s /etc up"
    with pytest.raises(ArtifactMissingError, match=r"'folder', 'link', 'pipe', 'up/passwd'") as missing:
        await run(SHELL, ctx, script=script, cwd=str(root), artifacts=["folder", "link", "pipe", "up/passwd"])

    assert missing.value.retryable is False
    for pattern in ("../*", "/etc/passwd", "~/x", "a\0", "", "**/" * 5 + "x"):
        with pytest.raises(FolderRefusedError):
            await run(SHELL, ctx, argv=["true"], cwd=str(root), artifacts=[pattern])


async def test_artifacts_are_bounded_and_can_be_given_up(ctx: Context, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many are an error; a cancelled step does not go on reading large files, and leaves no thread."""
    monkeypatch.setattr(_folder, "MAX_ARTIFACTS", 5)
    with pytest.raises(PermanentError, match="more than 5 artifacts"):
        await run(SHELL, ctx, script="touch 1 2 3 4 5 6", cwd=str(root), artifacts=["*"])
    with (root / "large").open("wb") as file:
        file.truncate(1_000_000_000_000)
    with anyio.fail_after(60), anyio.move_on_after(0.3) as scope:
        await run(SHELL, ctx, argv=["true"], cwd=str(root), artifacts=["large"])

    assert scope.cancelled_caught


async def test_a_name_that_is_no_text_is_no_artifact(ctx: Context, root: Path) -> None:
    """What no output could hold is left out."""
    os.mknod(os.fsencode(root) + b"/\xff.txt")
    result = await run(SHELL, ctx, argv=["touch", "a.txt"], cwd=str(root), artifacts=["*.txt"])

    assert [each.path for each in result.artifacts] == ["a.txt"]


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("*", "a", True),
        ("*", "a/b", False),
        ("**", "a/b", True),
        ("**/b", "b", True),
        ("**/b", "a/x/b", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "b", False),
        ("a/*/b", "a/x/b", True),
        ("a/*/b", "a/b", False),
        ("[ab]?.txt", "a1.txt", True),
    ],
)
def test_patterns_match_as_in_a_shell(pattern: str, path: str, fits: bool) -> None:
    """``*`` stays within a name, ``**`` stands for any folders, none included."""
    parts, names = pattern.split("/"), path.split("/")

    assert _folder._matches(parts, names) is fits
    assert not fits or all(_folder._may_hold(parts, names[:count]) for count in range(1, len(names)))
