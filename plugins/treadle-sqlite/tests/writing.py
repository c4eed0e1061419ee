"""A run that is written record by record, and what is read of it afterwards."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import anyio
from treadle.ports import Commit, NewRun, Rows, RunCreated, RunRow, RunStatus, SignalReceived, Store
from treadle_sqlite import SqliteStore

AT = 1_767_225_600.0


def new_run(run_id: str = "r", owner: str = "host:1@x") -> NewRun:
    """A run that is to be created."""
    created = RunCreated(AT, run_id, {"name": "w"}, "hash", {})
    row = RunRow(run_id, "w", "hash", RunStatus.RUNNING, "python", "", AT)
    return NewRun(Commit(run_id, 1, 1, [created], Rows(run=row)), row, "print", owner)


async def write_records(
    store: Store, count: int, acknowledged: list[int], run_id: str = "r", *, is_alone: bool = False
) -> None:
    """Create a run and append records, each of which is noted once it is acknowledged."""
    await store.create(new_run(run_id))
    acknowledged.append(1)
    for seq in range(2, count + 2):
        entry = SignalReceived(AT, f"n{seq}", "x" * (seq * 37 % 900))
        await store.commit(Commit(run_id, 1, seq, [entry], Rows(), is_alone))
        acknowledged.append(seq)


def numbers(path: Path, run_id: str = "r") -> list[int]:
    """The numbers of the records that a store holds; every one is read whole."""
    store = SqliteStore(path=path)
    try:
        return [record.seq for record in anyio.run(partial(store.read, run_id))]
    finally:
        store.close()
