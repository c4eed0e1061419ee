"""All processes that descend from one command: its process group, and those that left it but carry its mark."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

MARK = "TREADLE_PROCESS"
"""Environment variable that every descendant inherits; its value is unique to one command."""

_MOST_PASSES = 20


def signal_family(leader: int, mark: str, number: signal.Signals) -> int:
    """Send a signal to the leader's process group and to every marked process outside of it.

    The mark finds those that moved to a group or session of their own (``timeout``, ``setsid``, job control). Where there
    is no ``/proc`` only the group is reached.

    Args:
        leader: The command's process id, which is also its group's; it must not have been reaped, so that the id cannot
            have passed to a stranger.
        mark: Value of the variable MARK.
        number: The signal.

    Returns:
        How many were found outside of the group.
    """
    outside = 0
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
    for process in _marked(f"{MARK}={mark}".encode(), leader):
        # By file descriptor: between look-up and signal the id cannot pass to another process.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(process, number)
            outside += 1
    return outside


def kill_family(leader: int, mark: str) -> None:
    """Kill the whole family: until nobody is found twice, since somebody may be born while we look."""
    empty = 0
    for _ in range(_MOST_PASSES):
        empty = 0 if signal_family(leader, mark, signal.SIGKILL) else empty + 1
        if empty == 2:
            return


def reap_group(leader: int) -> bool:
    """Collect the dead of a process group; True when none of its members is a living child of this process.

    Orphans come to us only where this process adopts them (first process of a container); there they would otherwise stay
    as zombies for ever.
    """
    while True:
        try:
            process, _ = os.waitpid(-leader, os.WNOHANG)
        except ChildProcessError:
            return True
        if process == 0:
            return False


def _marked(entry: bytes, leader: int) -> Iterator[int]:
    """File descriptors of the processes outside the leader's group whose environment holds ``entry``; closed after use."""
    if not hasattr(os, "pidfd_open"):
        return
    for name in _process_names():
        with contextlib.suppress(OSError):
            process = os.pidfd_open(int(name))
            try:
                if os.getpgid(int(name)) != leader and entry in _environment(name):
                    yield process
            finally:
                os.close(process)


def _process_names() -> list[str]:
    try:
        return [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def _environment(name: str) -> list[bytes]:
    with open(f"/proc/{name}/environ", "rb") as file:
        return file.read().split(b"\0")
