"""What a process holds: threads, child processes, open descriptors; and what of it was not there before."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import attrs

_PROC = Path("/proc")
_DESCRIPTORS = "/dev/fd"
_POLL_S = 0.01


@attrs.frozen
class Holdings:
    """What this process holds at one moment.

    Attributes:
        threads: Threads of Python, without those of a pool that have nothing to do.
        children: Process ids of its live descendants; none where the system does not tell (only Linux does).
        descriptors: Open descriptor -> what it leads to; none where the system does not tell.
    """

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: Mapping[int, str]

    @classmethod
    def now(cls) -> Holdings:
        """What it holds now."""
        # A worker that trio keeps may have nothing to do before, and be left with work afterwards.
        threads = frozenset(thread for thread in threading.enumerate() if not _is_pooled(thread))
        return cls(threads, frozenset(_descendants(os.getpid())), _open_descriptors())


@attrs.frozen
class Leftovers:
    """What was not there before, in words, by kind.

    Attributes:
        threads: Like ``thread 'poller'``.
        processes: Like ``process 4711 (sleep)``.
        descriptors: Like ``open file /tmp/x``.
    """

    threads: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    descriptors: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.threads, *self.processes, *self.descriptors)


def leftovers(before: Holdings, marks: Iterable[str], patience_s: float) -> Leftovers:
    """What is held beyond ``before``, once it has had ``patience_s`` to go; processes that are left are ended.

    Args:
        before: What there was.
        marks: Texts that stand in the environment of the processes in question, for those that have left the family.
        patience_s: How long to wait for it to become nothing.
    """
    tokens = [mark.encode() for mark in marks if mark]
    deadline = time.monotonic() + patience_s
    while True:
        threads, children, descriptors = _beyond(before, tokens)
        if not (threads or children or descriptors):
            return Leftovers()
        if time.monotonic() > deadline:
            break
        gc.collect()  # what nobody refers to any more is no leftover, even when it sits in a cycle
        time.sleep(_POLL_S)
    found = Leftovers(
        tuple(f"thread {thread.name!r}" for thread in threads),
        tuple(f"process {child} ({_command(child)})" for child in children),
        tuple(f"open {_kind(target)} {target}" for target in descriptors.values()),
    )
    for child in children:
        with suppress(OSError):  # it went in the same moment, or is not ours to wait for
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return found


def _beyond(before: Holdings, tokens: list[bytes]) -> tuple[list[threading.Thread], list[int], dict[int, str]]:
    now = Holdings.now()
    threads = [thread for thread in now.threads - before.threads if thread.is_alive()]
    children = sorted((now.children - before.children) | (set(_marked(tokens)) - before.children))
    descriptors = {number: target for number, target in now.descriptors.items() if before.descriptors.get(number) != target}
    return threads, children, descriptors


def _is_pooled(thread: threading.Thread) -> bool:
    """Whether it is a worker that trio keeps for the next one who needs a thread, with nothing to do."""
    if not thread.name.startswith("Trio thread "):
        return False
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is None or frame.f_code.co_filename.endswith("_thread_cache.py")


def _open_descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    try:
        numbers = os.listdir(_DESCRIPTORS)
    except OSError:
        return found
    for number in numbers:
        with suppress(OSError):  # the one that lists them is closed already
            found[int(number)] = os.readlink(f"{_DESCRIPTORS}/{number}")
    return found


def _kind(target: str) -> str:
    return "file" if target.startswith("/") else "descriptor"


def _descendants(pid: int) -> Iterator[int]:
    for file in (_PROC / str(pid) / "task").glob("*/children"):
        for child in map(int, _read(file).split()):
            if _is_alive(child):
                yield child
            yield from _descendants(child)


def _is_alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be asked for its exit code does not."""
    return _read(_PROC / str(pid) / "stat").rpartition(b")")[2].split()[:1] not in ([b"Z"], [])


def _marked(tokens: list[bytes]) -> Iterator[int]:
    """Processes that were started with one of the tokens in their environment, wherever they are now."""
    for folder in _PROC.glob("[0-9]*") if tokens else ():
        environ = _read(folder / "environ")
        if environ and int(folder.name) != os.getpid() and any(token in environ for token in tokens):
            yield int(folder.name)


def _command(pid: int) -> str:
    return _read(_PROC / str(pid) / "comm").decode(errors="replace").strip() or "gone"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # gone, or somebody else's
        return b""
