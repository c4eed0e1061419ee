"""A process that resumes runs when it is told to, for tests of who owns a run.

``python owners.py FOLDER``: each line of stdin is a run to resume; the answer is a line of JSON with what became of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from treadle import Registry, RunHandle, Workflow, aresume, executor
from treadle._config import Config
from treadle.errors import OwnedElsewhereError, TreadleError
from treadle.ports import Context
from treadle_sqlite import SqliteStore
from workload import Witness

LEASE_S = 3.0
"""Longer than a process on a busy machine takes to be scheduled again, and short enough to be waited for hundreds of times."""


def is_alive(pid: int) -> bool:
    """Whether a process runs; what is only left of one does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def registry(folder: Path) -> Registry:
    """Executors that tell an outside witness what they do."""
    witness = Witness(folder / "witness.log")

    def living(run_id: str) -> int:
        """How many of the processes that steps of a run have started still live."""
        lines = [line.split() for line in (folder / "witness.log").read_text("utf-8").splitlines()]
        return sum(is_alive(int(line[2])) for line in lines if line[:2] == ["P", run_id])

    @executor("owners.quick")
    async def quick(ctx: Context, /) -> str:
        witness.note("S", ctx.run_id, ctx.step, ctx.fencing_token, os.getpid())
        await anyio.sleep(0.02)
        return f"{os.getpid()}"

    @executor("owners.stopped")
    async def stopped(ctx: Context, /) -> str:
        """In the first stint: is stopped in the middle, like a machine that sleeps, and finds itself replaced."""
        witness.note("S", ctx.run_id, ctx.step, ctx.fencing_token, os.getpid())
        alive = living(ctx.run_id) if ctx.call.stint > 1 else 0
        if ctx.call.stint == 1:
            child = subprocess.Popen(["sleep", "300"], start_new_session=True)  # noqa: ASYNC220 -- as below
            witness.note("P", ctx.run_id, child.pid)
            await ctx.own_process(child.pid)
            await ctx.save("before", {"by": os.getpid()})
            os.kill(os.getpid(), signal.SIGSTOP)
            try:
                await ctx.save("stale", {"by": os.getpid()})
                witness.note("KEPT", ctx.run_id)
            except TreadleError as error:
                witness.note("REFUSED", ctx.run_id, type(error).__name__)
        return f"{ctx.call.stint}: {alive} alive"

    @executor("owners.parent")
    async def parent(ctx: Context, /) -> str:
        """In the first stint: starts a process that outlives it. In the next: looks whether it is gone."""
        alive = living(ctx.run_id) if ctx.call.stint > 1 else 0
        witness.note("S", ctx.run_id, ctx.step, ctx.fencing_token, os.getpid())
        if ctx.call.stint == 1:
            script = "sleep 300 & trap '' TERM HUP; echo $$ $!; wait; sleep 300"
            started = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE)  # noqa: ASYNC220 -- an executor as careless as they come
            await ctx.own_process(started.pid)
            assert started.stdout is not None
            for pid in (await anyio.to_thread.run_sync(started.stdout.readline)).split():
                witness.note("P", ctx.run_id, int(pid))
            await anyio.sleep(300)
        return f"alive: {alive}"

    @executor("owners.guilty")
    async def guilty(ctx: Context, /, n: int) -> int:
        """One of them kills its process, always."""
        witness.note("S", ctx.run_id, ctx.call.item, ctx.fencing_token, os.getpid())
        await anyio.sleep(0.01)
        if n == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    config = Config(run={"lease": LEASE_S, "beat": LEASE_S / 5})
    return Registry.of(quick, stopped, parent, guilty, config=config)


def workflow(executor_name: str) -> Workflow:
    """What is run."""
    made = Workflow("owners", on_error="continue")
    if executor_name == "owners.guilty":
        made.step("before", "owners.quick")
        made.step("each", executor_name, foreach=[1, 2, 3, 4, 5], n="${{ item }}")
        made.step("beside", "owners.quick")
    else:
        made.step("a", executor_name)
        made.step("b", "owners.quick", needs=["a"])
    return made


async def resume(folder: Path, store: SqliteStore, run_id: str) -> dict[str, object]:
    """Resume a run; what became of it."""
    driven: list[RunHandle] = []
    try:
        result = await aresume(run_id, store=store, registry=registry(folder), on_start=driven.append)
    except OwnedElsewhereError as error:
        return {"outcome": type(error).__name__, "drove": bool(driven), "owner": error.owner}
    return {"outcome": result.status.value, "drove": bool(driven)}


async def main(folder: Path, args: Sequence[str]) -> None:
    """Resume what stdin says, one run after the other."""
    store = SqliteStore(path=folder / "runs.db")
    print("ready", flush=True)
    while line := await anyio.to_thread.run_sync(sys.stdin.readline):
        answer = await resume(folder, store, line.strip())
        print(json.dumps(answer), flush=True)
    store.close()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), sys.argv[2:])
