"""Short logs for tests that are about the store and not about what runs."""

from __future__ import annotations

from collections.abc import Sequence

from treadle.ports import Claim, Commit, Entry, NewRun, Rows, RunCreated, RunRow, RunStatus, SignalReceived, Store

AT = 1_767_225_600.0


def created(run_id: str) -> RunCreated:
    """The first entry of a run."""
    return RunCreated(AT, run_id, {"name": "w", "steps": {"a": {"uses": "demo.a"}}}, "hash", {}, "0" * 31 + "1", "0" * 15 + "1")


def new_run(run_id: str, *, owner: str = "host:1@a/1/x", key: str = "", lease_s: float = 60.0) -> NewRun:
    """A run that is to be created."""
    row = RunRow(run_id, "w", "hash", RunStatus.PENDING, "python", "0" * 31 + "1", AT, key=key)
    return NewRun(Commit(run_id, 1, 1, [created(run_id)], Rows(run=row)), row, "f", owner, lease_s)


def signal(number: int, text: str = "") -> SignalReceived:
    """An entry that is told from others."""
    return SignalReceived(AT, f"signal {number}", {"text": text})


async def append(store: Store, claim: Claim, seq: int, *entries: Entry) -> None:
    """One commit."""
    await store.commit(Commit(claim.run_id, claim.epoch, seq, entries, Rows()))


async def numbers(store: Store, run_id: str) -> Sequence[str]:
    """The names of a log's signals."""
    return [record.entry.name for record in await store.read(run_id) if isinstance(record.entry, SignalReceived)]
