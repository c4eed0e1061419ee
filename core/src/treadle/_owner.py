"""Who drives a run: this process, told so that another one can see whether it has ended."""

from __future__ import annotations

import functools
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from treadle._store_records import shown, since

__all__ = ["is_gone", "shown", "since", "this_owner"]

_PROC = Path("/proc")


def this_owner() -> str:
    """A new name for this process as the owner of one stint: ``host:pid@identity``; the part before ``@`` is for people."""
    return f"{_process(os.getpid())}/{secrets.token_hex(4)}"


def is_gone(owner: str) -> bool:
    """Whether the process that ``owner`` names is known to have ended; False when it cannot be known from here."""
    who, _, identity = owner.partition("@")
    machine, _, rest = identity.partition("/")
    started = rest.partition("/")[0]
    pid = who.rpartition(":")[2]
    if machine != _machine() or not started or not pid.isdigit():
        return False  # on another machine, or in another container: only the lease can tell
    return _started(int(pid)) != started


@functools.lru_cache(1)
def _process(pid: int) -> str:
    """The part that every owner of this process has; ``pid`` is its own, another one after a fork."""
    return f"{socket.gethostname()}:{pid}@{_machine()}/{_started(pid)}"


def _machine() -> str:
    """This boot of this machine, and the namespace that its process ids are of; empty where that cannot be told."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}.{os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _started(pid: int) -> str:
    """When a process was started, in ticks since boot; empty when there is none, or only what is left of one."""
    with suppress(OSError, ValueError, IndexError):
        # The command's name stands in parentheses and may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""
