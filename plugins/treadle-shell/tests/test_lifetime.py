"""No command outlives its step: not its grandchildren, not in a session of their own, not when treadle is killed."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from treadle.ports import Context
from treadle.testing import FakeContext
from treadle_shell import ShellSettings, _family, _process, run

pytestmark = pytest.mark.anyio

SHELL = ShellSettings("", {})

# Each line of the script starts one more sleeper and notes its process id: a child, a grandchild in the same group, one in
# a group of its own (timeout), one in a session of its own (setsid), and one that ignores TERM.
FAMILY = """
echo $$ >>"$pids"
sh -c 'echo $$ >>"$pids"; sleep 300' &
timeout 300 sh -c 'echo $$ >>"$pids"; sleep 300' &
setsid sh -c 'echo $$ >>"$pids"; sleep 300' &
sh -c 'trap "" TERM; echo $$ >>"$pids"; while :; do sleep 300; done' &
wait
"""


def is_alive(process: int) -> bool:
    """Whether the process still runs; a zombie does not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def noted(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


async def wait_for_family(file: Path, members: int) -> list[int]:
    with anyio.fail_after(60):
        while len(noted(file)) < members:  # noqa: ASYNC110 -- another process writes it
            await anyio.sleep(0.01)
    return noted(file)


async def wait_until_dead(processes: list[int]) -> None:
    with anyio.fail_after(60):  # or never: they would sleep for minutes
        while any(is_alive(process) for process in processes):  # noqa: ASYNC110 -- strangers: no event tells
            await anyio.sleep(0.01)


async def test_a_deadline_ends_the_whole_family(ctx: Context, tmp_path: Path) -> None:
    """S3-19: after a timeout nothing is left, whichever group or session a descendant moved to, even if it ignores TERM."""
    file = tmp_path / "pids"
    with anyio.move_on_after(120) as deadline:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: run(SHELL, ctx, script=FAMILY, env={"pids": str(file)}))
            await wait_for_family(file, 5)
            deadline.deadline = anyio.current_time()

    assert deadline.cancelled_caught
    assert len(noted(file)) == 5
    await wait_until_dead(noted(file))


async def test_whoever_hides_its_descent_is_found_by_its_parents(ctx: Context, tmp_path: Path) -> None:
    """S3-19: one that clears its environment and leaves the session is ended too, even if it ignores TERM, and its children."""
    file = tmp_path / "pids"
    hidden = f'trap "" TERM; echo $$ >>{file}; sh -c "echo \\$\\$ >>{file}; while :; do sleep 0.1; done"'
    with anyio.move_on_after(120) as deadline:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: run(SHELL, ctx, script=f"env -i PATH=\"$PATH\" setsid sh -c '{hidden}' & wait"))
            family = await wait_for_family(file, 2)
            assert len({os.getsid(member) for member in family}) == 1
            assert os.getsid(family[0]) == family[0]
            tasks.cancel_scope.cancel()

    assert not deadline.cancelled_caught
    await wait_until_dead(family)


async def test_a_command_may_tidy_up_before_it_ends(ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM comes first, and output written while tidying up does not block the command."""
    monkeypatch.setattr(_process, "GRACE_S", 120.0)  # whoever hangs takes that long, and no busy machine does
    file = tmp_path / "tidied"
    script = (
        f"trap 'head -c 300000 /dev/zero; echo done >{file}; exit 0' TERM; echo ready >{file}; while :; do sleep 0.05; done"
    )
    began = time.monotonic()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run(SHELL, ctx, script=script))
        with anyio.fail_after(60):
            while not file.exists():  # noqa: ASYNC110 -- another process writes it
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    assert file.read_text() == "done\n"
    assert time.monotonic() - began < _process.GRACE_S


async def test_whoever_ignores_term_is_killed_after_the_grace(ctx: Context, tmp_path: Path) -> None:
    """Cancelling returns within the grace and a little, however stubborn the command."""
    file = tmp_path / "pids"
    script = f"trap '' TERM; echo $$ >{file}; while :; do sleep 0.05; done"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run(SHELL, ctx, script=script))
        family = await wait_for_family(file, 1)
        began = time.monotonic()
        tasks.cancel_scope.cancel()

    assert _process.GRACE_S <= time.monotonic() - began < _process.GRACE_S + 60
    assert not any(is_alive(member) for member in family)


async def test_a_descendant_that_holds_the_output_does_not_hold_the_step(ctx: Context, tmp_path: Path) -> None:
    """A background process that keeps the pipes open is ended a second after its command."""
    file = tmp_path / "pids"
    began = time.monotonic()
    result = await run(SHELL, ctx, script='sleep 300 & echo $! >"$pids"; echo said', env={"pids": str(file)})

    assert result.stdout == "said\n"
    assert time.monotonic() - began < 120
    await wait_until_dead(noted(file))


async def test_a_flood_costs_no_memory_and_can_be_stopped(ctx: Context) -> None:
    """Endless output without a line break is counted, not kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await run(SHELL, ctx, script="head -c 2000000000 /dev/zero", max_output=1000)
    with anyio.move_on_after(0.5) as deadline:
        await run(SHELL, ctx, argv=["yes"])

    assert (result.stdout_bytes, len(result.stdout)) == (2_000_000_000, 1000)
    assert deadline.cancelled_caught
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


def children() -> set[int]:
    """The processes that this one has started and not collected."""
    found = set()
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry))
    return found


async def test_many_at_once_leave_no_descriptor_and_no_process(ctx: Context, open_files: Callable[[], Counter[str]]) -> None:
    """Fifty commands at once, half of them cancelled: every pipe is closed and every child collected."""
    await run(SHELL, ctx, argv=["true"])
    before, others = open_files(), children()

    async def one(number: int) -> None:
        with anyio.move_on_after(0.3 if number % 2 else 30):
            await run(SHELL, ctx, argv=["sleep", "60" if number % 2 else "0.1"])

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(one, number)

    assert not open_files() - before
    assert not children() - others


async def test_a_cancel_before_the_start_starts_nothing(ctx: Context, tmp_path: Path) -> None:
    """A call that was cancelled before it began, or as it begins, leaves no process."""
    file = tmp_path / "pids"
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run(SHELL, ctx, script='echo $$ >"$pids"; sleep 300', env={"pids": str(file)})

    assert scope.cancelled_caught
    await wait_until_dead(noted(file))


async def test_the_end_is_found_without_process_descriptors(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no pidfd (other kernels, sandboxes) the end is polled for, with the same result."""
    monkeypatch.delattr(os, "pidfd_open")
    result = await run(SHELL, ctx, script="sleep 0.1; echo over; exit 4", check=False)
    with anyio.move_on_after(0.2) as deadline:
        await run(SHELL, ctx, argv=["sleep", "60"])
    monkeypatch.delattr(os, "waitid")
    again = await run(SHELL, ctx, script="sleep 0.1; exit 5", check=False)

    assert (result.stdout, result.exit_code, again.exit_code) == ("over\n", 4, 5)
    assert deadline.cancelled_caught


ENGINE = """
import logging, sys
import anyio
sys.path[:0] = {path!r}
from treadle.testing import FakeContext
from treadle_shell import ShellSettings, run

SHELL = ShellSettings("", {{}})
{before}

async def main():
    ctx = FakeContext(executor="shell.run")
    {body}

anyio.run(main, backend={backend!r})
"""


def engine(backend: str, body: str, *, before: str = "", **env: str) -> subprocess.Popen[str]:
    """A process of its own that runs a command as treadle would."""
    path = [str(Path(__file__).parent), *sys.path]
    code = ENGINE.format(path=path, body=body, before=before, backend=backend)
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)


async def test_everything_dies_with_treadle(anyio_backend: str, tmp_path: Path) -> None:
    """When the engine gets ``kill -9``, command, grandchildren and those in other sessions are gone within two seconds."""
    file = tmp_path / "pids"
    with engine(anyio_backend, f"await run(SHELL, ctx, script={FAMILY!r}, env={{'pids': {str(file)!r}}})") as process:
        try:
            family = await wait_for_family(file, 5)
            assert all(is_alive(member) for member in family)
        finally:
            process.send_signal(signal.SIGKILL)

        await wait_until_dead(family)


async def test_the_dead_are_collected_where_treadle_adopts_orphans(anyio_backend: str) -> None:
    """As the first process of a container treadle adopts orphans; no zombie stays, not even of the supervision."""
    adopt = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER"
    body = """
    for _ in range(5):
        await run(SHELL, ctx, script="sleep 300 >/dev/null 2>&1 & sh -c 'sleep 300 &' >/dev/null 2>&1; true")
    with anyio.move_on_after(0.3):
        await run(SHELL, ctx, script="sh -c 'sleep 300' & wait")
    import os
    try:
        print("left:", os.waitpid(-1, os.WNOHANG))
    except ChildProcessError:
        print("none left")
    """
    with engine(anyio_backend, body, before=adopt) as process:
        said, _ = process.communicate(timeout=300)

    assert said == "none left\n"


async def test_a_mark_reaches_only_its_own_family(ctx: Context) -> None:
    """Signalling one command's family leaves another's alone."""
    results: list[int] = []

    async def other() -> None:
        results.append((await run(SHELL, ctx, argv=["sleep", "0.8"])).exit_code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        with anyio.move_on_after(0.2):
            await run(SHELL, ctx, script="timeout 60 sleep 60")

    assert results == [0]
    assert _family.MARK == "TREADLE_PROCESS"


async def test_the_process_is_noted_for_whoever_takes_the_run_over(ctx: FakeContext) -> None:
    """The command's own process, which leads its group, and whose family carries a mark."""
    answer = await run(SHELL, ctx, argv=["/bin/sh", "-c", "echo $$; sleep 0.05"])

    assert ctx.processes == [int(answer.stdout)]
