"""Who drives a run: this process, told so that another one can see whether it has ended."""

from __future__ import annotations

import functools
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from treadle._store_records import shown, since

__all__ = ["group_of", "has_rebooted", "is_gone", "let_go", "machine", "shown", "since", "started", "this_owner"]

_PROC = Path("/proc")


def this_owner() -> str:
    """A new name for this process as the owner of one stint: ``host:pid@identity``; the part before ``@`` is for people."""
    return f"{_process(os.getpid())}/{secrets.token_hex(4)}"


_let_go: set[str] = set()


def let_go(owner: str) -> None:
    """This process drives nothing under that name any more, although the store could not be told so."""
    _let_go.add(owner)


def is_gone(owner: str) -> bool:
    """Whether what ``owner`` names is known to have ended; False when it cannot be known from here."""
    if owner in _let_go:
        return True
    who, _, identity = owner.partition("@")
    where, _, rest = identity.partition("/")
    begun = rest.partition("/")[0]
    pid = who.rpartition(":")[2]
    if where != machine() or not begun or not pid.isdigit():
        return False  # on another machine, or in another container: only the lease can tell
    return started(int(pid)) != begun


@functools.lru_cache(1)
def _process(pid: int) -> str:
    """The part that every owner of this process has; ``pid`` is its own, another one after a fork."""
    return f"{socket.gethostname()}:{pid}@{machine()}/{started(pid)}"


def machine() -> str:
    """This boot of this machine, and the namespace that its process ids are of; empty where that cannot be told."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}.{os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def started(pid: int) -> str:
    """When a process was started, in ticks since boot; empty when there is none, or only what is left of one."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def group_of(pid: int) -> int:
    """The process group of a process; 0 when there is none."""
    fields = _stat(pid)
    return int(fields[2]) if fields else 0


def _stat(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; nothing when there is none."""
    with suppress(OSError):
        # The command's name stands in parentheses and may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return fields if len(fields) > 19 else []
    return []


def has_rebooted(owner: str) -> bool:
    """Whether the machine that the owner ran on has been started anew since; False when it cannot be known from here."""
    who, _, identity = owner.partition("@")
    boot, ours = (name.partition("/")[0].partition(".")[0] for name in (identity, machine()))
    return who.rpartition(":")[0] == socket.gethostname() and bool(boot and ours) and boot != ours
