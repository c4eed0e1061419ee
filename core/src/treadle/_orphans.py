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

_SELF_S = 1.0
"""How long what is left may take to end by itself."""

_MARK = b"TREADLE_PROCESS="
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
    now = started(row.pid)
    if now and now != row.started:
        return  # its number is somebody else's now
    mark = _mark_of(row.pid)
    # What supervises itself sees that its owner is gone, and knows best what belongs to it.
    with anyio.move_on_after(_SELF_S):
        while _left(row, mark):  # noqa: ASYNC110 -- strangers: no event tells
            await anyio.sleep(_POLL_S)
        return
    item = row.path if row.index is None else f"{row.path}[{row.index}]"
    _log.warning("run %s: process %d of step %r outlived its owner; it is ended", run_id, row.pid, item)
    with anyio.move_on_after(_PATIENCE_S):
        while left := _left(row, mark):
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            await anyio.sleep(_POLL_S)
        return
    raise TreadleError(
        f"Run {run_id}: process {row.pid} of step {item!r} outlived its owner and does not end.",
        "End it by hand, then resume the run.",
    )


def _left(row: ProcessRow, mark: bytes) -> list[int]:
    """What still lives of the process, of what descends from it, of the group that it leads, and of who carries its mark."""
    found = [row.pid] if started(row.pid) == row.started else []
    leads = group_of(row.pid) in (row.pid, 0)  # a number is not given anew while a group has it
    for pid in found:  # grows while it is walked
        found += children_of(pid)
    with suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and ((leads and group_of(int(name)) == row.pid) or (mark and _mark_of(int(name)) == mark)):
                found.append(int(name))
    return [pid for pid in dict.fromkeys(found) if started(pid)]


def _mark_of(pid: int) -> bytes:
    """What a process that supervises itself marks its family with, in the environment; empty when there is none."""
    with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        for entry in file.read().split(b"\0"):
            if entry.startswith(_MARK):
                return entry
    return b""
