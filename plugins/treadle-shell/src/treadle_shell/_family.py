"""All processes that descend from one command: its process group, and those that left it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping

import attrs

MARK = "TREADLE_PROCESS"
"""Environment variable that every descendant inherits; its value is unique to one command."""

_MOST_PASSES = 20


@attrs.define
class Family:
    """A command and what it started.

    Those that moved to a group or session of their own (``timeout``, ``setsid``, job control) are found by the mark in their
    environment, or, should they have cleared it, by their parents, as long as these live. Where there is no ``/proc`` only the
    group is reached.

    Attributes:
        leader: The command's process id, which is also its group's; it must not have been reaped, so that the id cannot
            have passed to a stranger.
        mark: Value of the variable MARK.
    """

    leader: int
    mark: str
    _known: dict[int, int] = attrs.field(factory=dict, init=False)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the leader's process group and to every member outside of it.

        Returns:
            How many were found outside of the group.
        """
        with contextlib.ExitStack() as stack:
            # Looked for first: whoever ends takes along the proof that its children belong here.
            outside = [stack.enter_context(member) for member in self._outside()]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.leader, number)
            return sum(_signalled(member, number) for member in outside)

    def kill(self) -> None:
        """Kill them all: until nobody is found twice, since somebody may be born while we look."""
        empty = 0
        for _ in range(_MOST_PASSES):
            empty = 0 if self.signal(signal.SIGKILL) else empty + 1
            if empty == 2:
                return

    def _outside(self) -> Iterator[contextlib.AbstractContextManager[int]]:
        """The members outside of the leader's group, each as a file descriptor to be closed."""
        if not hasattr(os, "pidfd_open"):
            return
        lives = _lives()
        descendants = self._descendants(lives)
        for process, life in lives.items():
            with contextlib.suppress(OSError):
                if os.getpgid(process) != self.leader and (process in descendants or self._is_marked(process)):
                    member = _Descriptor(os.pidfd_open(process))
                    if _life(process) == life:  # It is still the one that was looked at.
                        self._known[process] = life.started
                        yield member
                    else:
                        member.close()

    def _is_marked(self, process: int) -> bool:
        with open(f"/proc/{process}/environ", "rb") as file:
            return f"{MARK}={self.mark}".encode() in file.read().split(b"\0")

    def _descendants(self, lives: Mapping[int, _Life]) -> set[int]:
        """Children of the leader and of those that were members before, and theirs."""
        children: dict[int, list[int]] = {}
        for process, life in lives.items():
            children.setdefault(life.parent, []).append(process)
        still = [process for process, started in self._known.items() if process in lives and lives[process].started == started]
        found, waiting = set(still), [self.leader, *still]
        while waiting:
            born = children.get(waiting.pop(), [])
            waiting += [process for process in born if process not in found]
            found.update(born)
        return found


@attrs.frozen
class _Life:
    """What tells a process from another that gets its id later."""

    parent: int = attrs.field(eq=False)  # It changes when the parent ends.
    started: int


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


def _lives() -> dict[int, _Life]:
    """Every process that there is."""
    try:
        names = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return {}
    return {int(name): life for name in names if (life := _life(int(name))) is not None}


def _life(process: int) -> _Life | None:
    """A process; None when it is over."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            # After the name, which may hold anything: state, parent, and as the 20th the time of its start.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in b"ZX" else _Life(int(fields[1]), int(fields[19]))


@attrs.frozen
class _Descriptor(contextlib.AbstractContextManager[int]):
    """A process by file descriptor: between look-up and signal the id cannot pass to another."""

    number: int

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.number)


def _signalled(process: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(process, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
