"""Processes that steps of a dead owner have started: they are ended before anything of the run is done again."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress

import anyio

from treadle._owner import group_of, machine, started
from treadle._store_records import Claim, ProcessRow
from treadle._supervisor import children_of
from treadle.errors import TreadleError
from treadle.ports import Store

_log = logging.getLogger("treadle.orphans")

_PATIENCE_S = 10.0
_POLL_S = 0.01


async def end_orphans(store: Store, claim: Claim) -> None:
    """End what earlier owners' steps have left running on this machine, and forget it.

    Raises:
        TreadleError: A process does not end; the run must not go on beside it.
        LeaseLostError: Somebody else has claimed the run since.
    """
    rows = await store.processes(claim.run_id)
    for row in rows:
        if row.machine == machine():
            await _end(claim.run_id, row)
    for row in rows:
        await store.drop_process(claim, row)


async def _end(run_id: str, row: ProcessRow) -> None:
    if started(row.pid) != row.started:
        return  # it has ended; its number may be somebody else's now
    group = group_of(row.pid)
    leads = group == row.pid
    item = row.path if row.index is None else f"{row.path}[{row.index}]"
    _log.warning("run %s: process %d of step %r outlived its owner; it is ended", run_id, row.pid, item)
    with anyio.move_on_after(_PATIENCE_S):
        while left := _left(row, in_group=leads):
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            await anyio.sleep(_POLL_S)
        return
    raise TreadleError(
        f"Run {run_id}: process {row.pid} of step {item!r} outlived its owner and does not end.",
        "End it by hand, then resume the run.",
    )


def _left(row: ProcessRow, *, in_group: bool) -> list[int]:
    """The process, what descends from it and, if it leads a group, what is in that; the living ones."""
    found: list[int] = []
    if started(row.pid) == row.started:
        found.append(row.pid)
        for pid in found:  # grows while it is walked
            found += children_of(pid)
    if in_group:
        with suppress(OSError):
            found += [int(name) for name in os.listdir("/proc") if name.isdigit() and group_of(int(name)) == row.pid]
    return [pid for pid in dict.fromkeys(found) if started(pid)]
