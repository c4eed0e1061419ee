"""The run that is killed: 50 steps with a chain, a fan-out and a foreach, whose executors tell an outside witness what they do.

``python workload.py FOLDER`` starts the run of the folder's store, or resumes it, and says on stdout what was acknowledged.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
from treadle import Registry, Workflow, aresume, arun, executor, hookimpl
from treadle._config import Config
from treadle.ports import AttemptEnded, Context, Record, RunQuery, fault_point
from treadle_sqlite import SqliteStore

ITEMS = 12


class Witness:
    """A file outside of the engine: each line is appended by one write, so that no kill tears it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def note(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def workflow() -> Workflow:
    """A chain of 20, a fan-out of 17, a foreach of 12 and what gathers them: 50 steps and items."""
    made = Workflow("chaos", max_parallel=5)
    before: list[str] = []
    for number in range(20):
        made.step(f"chain{number}", "chaos.work", n=number, needs=before)
        before = [f"chain{number}"]
    for number in range(17):
        made.step(f"fan{number}", "chaos.work", n=number, needs=["chain3"])
    each = made.step("each", "chaos.work", foreach=list(range(ITEMS)), n="${{ item }}", needs=["chain5"])
    made.step("gather", "chaos.sum", numbers=each.output, needs=["chain19", *(f"fan{number}" for number in range(17))])
    made.output("sum", "${{ steps.gather.output }}")
    return made


class Acknowledged:
    """A sink: what the engine believes to be durable is told to the witness."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    @hookimpl
    def record_event(self, record: Record) -> None:
        """Told after the commit."""
        entry = record.entry
        if isinstance(entry, AttemptEnded) and entry.outcome.status == "completed":
            self._witness.note("A", entry.path, entry.index)
            fault_point("acknowledged")


def registry(witness: Witness) -> Registry:
    """Executors that say when they begin and when their effect has happened."""

    @executor("chaos.work")
    async def work(ctx: Context, /, n: int) -> int:
        fault_point("before")
        witness.note("S", ctx.step, ctx.index, ctx.idempotency_key, ctx.call.stint)
        await anyio.sleep(0.0005)
        fault_point("in_the_middle")
        witness.note("E", ctx.step, ctx.index, ctx.idempotency_key, ctx.call.stint)
        fault_point("after_effect")
        return n * n

    @executor("chaos.sum")
    async def total(ctx: Context, /, numbers: list[int]) -> int:
        witness.note("S", ctx.step, ctx.index, ctx.idempotency_key, ctx.call.stint)
        witness.note("E", ctx.step, ctx.index, ctx.idempotency_key, ctx.call.stint)
        return sum(numbers)

    return Registry.of(work, total, config=Config(run={"max_crashes": int(os.environ.get("TREADLE_CHAOS_CRASHES", "3"))}))


async def main(folder: Path) -> None:
    """Start, or go on."""
    witness = Witness(folder / "witness.log")
    store = SqliteStore(path=folder / "runs.db")
    sinks = [Acknowledged(witness)]
    known = (await store.runs(RunQuery())).runs
    if known:
        result = await aresume(known[0].run_id, store=store, registry=registry(witness), sinks=sinks)
    else:
        result = await arun(workflow(), store=store, registry=registry(witness), sinks=sinks)
    store.close()
    witness.note("R", result.status.value, result.outputs.get("sum"))


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
