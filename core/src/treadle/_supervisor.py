"""The supervisor: a process of one thread, without code of users, that forks the children of isolated calls.

It is the process that children descend from, so it knows how each ended, adopts what they leave behind, and kills it. When
treadle dies, in whatever way, its end of the control socket closes and everything ends. What forks children must be no thread
of a pool (the kernel's death signal is sent when the *thread* ends) and no process of many threads (a fork copies their locks).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, cast

import attrs

COUNT_EVERY_S = 0.05
"""How often the descendants of children are counted."""

SWEEP_S = 3.0
"""How long what a child left behind may take to die of KILL."""

_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36  # of Linux's prctl(2)


@attrs.frozen
class Job:
    """What a forked child is born with.

    Attributes:
        requests: Where it reads requests.
        replies: Where it writes replies.
        output: What its standard output becomes.
        errors: What its standard error becomes.
        limits: Of its resources: names of ``resource.RLIMIT_...`` -> number.
    """

    requests: int
    replies: int
    output: int
    errors: int
    limits: Mapping[str, int]


@attrs.define
class _Child:
    """A child as its supervisor knows it."""

    pid: int
    status: int
    processes: int | None
    over: str = ""


class Supervisor:
    """Answers the requests of one control socket; see ``supervise``."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, _Child] = {}
        self._ended: list[tuple[_Child, int]] = []
        self._waker, self._woken = os.pipe()

    def serve(self) -> Job | None:
        """Serve until the control socket closes (None), or until this is a forked child (its job)."""
        for end in (self._waker, self._woken):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        while True:
            control = self._control.fileno()
            ready, _, _ = select.select([control, self._waker], [], [], COUNT_EVERY_S if self._children else None)
            if self._waker in ready:
                os.read(self._waker, 4096)
            if control in ready:
                message, ends = _receive(self._control)
                if not message:
                    self._end()
                    return None
                job = self._answer(json.loads(message), ends)
                if job is not None:
                    return job
            self._collect()
            self._count()

    def _answer(self, message: Mapping[str, object], ends: list[int]) -> Job | None:
        answer: dict[str, object] = {}
        if message["do"] == "fork":
            forked = self._fork(message, ends)
            if isinstance(forked, Job):
                return forked
            answer = forked
        else:
            pid = cast("int", message["pid"])
            if pid in self._children:  # not reaped yet, so the number is still the child's
                _signal_group(pid, signal.Signals(cast("int", message["signal"])))
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps(answer).encode() + b"\n")
        return None

    def _fork(self, message: Mapping[str, object], ends: list[int]) -> Job | dict[str, object]:
        requests, replies, output, errors, status = ends
        limits = dict(cast("dict[str, int]", message["limits"]))
        processes = cast("int | None", message["processes"])
        if processes is not None and os.getuid() != 0:
            # The kernel counts all of the user's; a look at what there is now is near enough for a second line of defence.
            limits["NPROC"] = _tasks() + 4 * processes + 64
        supervisor = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            for end in ends:
                os.close(end)
            return {"error": str(error)}
        if pid == 0:
            return self._be_born(supervisor, Job(requests, replies, output, errors, limits), status)
        for end in ends[:-1]:
            os.close(end)
        self._children[pid] = _Child(pid, status, processes)
        return {"pid": pid}

    def _be_born(self, supervisor: int, job: Job, status: int) -> Job:
        """In the child: leave everything that is the supervisor's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        _prctl(_SET_SUBREAPER, 1)
        if os.getppid() != supervisor:
            os._exit(1)
        self._control.close()
        for end in (self._waker, self._woken, status, *(child.status for child in self._children.values())):
            os.close(end)
        return job

    def _collect(self) -> None:
        """Take notice of who has ended; tell it when nothing that they left behind lives any more."""
        self._reap()
        if not self._ended and not self._strays():
            return
        deadline = time.monotonic() + SWEEP_S
        while (strays := self._strays()) and time.monotonic() < deadline:
            for pid in strays:
                _kill(pid)
            self._reap()
            time.sleep(0.001)
        for child, status in self._ended:
            told = json.dumps({"status": status, "over": child.over}).encode()
            with contextlib.suppress(OSError):  # nobody wants to know any more
                os.write(child.status, told)
            os.close(child.status)
        self._ended.clear()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if (child := self._children.pop(pid, None)) is not None:
                    self._ended.append((child, status))

    def _strays(self) -> list[int]:
        """Processes that came to us because the child that they descend from is gone."""
        return [pid for pid in children_of(os.getpid()) if pid not in self._children]

    def _count(self) -> None:
        """Kill a child that has started more processes than it may."""
        for child in list(self._children.values()):
            if child.processes is not None and not child.over and _descendants(child.pid, child.processes) > child.processes:
                child.over = "processes"
                _signal_group(child.pid, signal.SIGKILL)

    def _end(self) -> None:
        for pid in self._children:
            _signal_group(pid, signal.SIGKILL)
        deadline = time.monotonic() + SWEEP_S
        while (self._children or self._strays()) and time.monotonic() < deadline:
            self._collect()
            time.sleep(0.001)


def supervise(control: socket.socket, live: Callable[[Job], None]) -> NoReturn:
    """Serve a control socket in this process until it closes; in each forked child ``live`` runs instead.

    Args:
        control: Requests come in and answers go out, a JSON line each; file descriptors come with the requests.
        live: The life of a child.
    """
    _prctl(_SET_SUBREAPER, 1)
    gc.collect()
    gc.freeze()  # what is here before the fork stays shared: the collector does not write to it
    job = Supervisor(control).serve()
    if job is None:
        os._exit(0)
    live(job)
    sys.exit(0)


def main(live: Callable[[Job], None]) -> NoReturn:
    """The supervisor as a program: the control socket is its standard input."""
    with open(os.devnull) as nothing:
        control = socket.socket(fileno=os.dup(0))
        os.dup2(nothing.fileno(), 0)
    supervise(control, live)


def children_of(pid: int) -> list[int]:
    """The living and the dead children of a process; none where the system does not say (not Linux)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += map(int, file.read().split())
    return found


def _descendants(pid: int, enough: int) -> int:
    """How many descend from a process; counting stops above ``enough``."""
    waiting, count = children_of(pid), 0
    while waiting and count <= enough:
        count += len(waiting)
        waiting = [grandchild for child in waiting for grandchild in children_of(child)]
    return count


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """One line and the descriptors that came with it; an empty line when the other side is gone."""
    line, ends = b"", list[int]()
    while not line.endswith(b"\n"):
        try:
            part, more, _, _ = socket.recv_fds(control, 65536, 8, _CLOSE_ON_EXEC)
        except ConnectionError:
            return b"", ends
        if not part:
            return b"", ends
        line, ends = line + part, ends + more
    return line, ends


_CLOSE_ON_EXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        _kill(pid, number)  # just born: it has no group of its own yet
    if number == signal.SIGKILL:
        _kill(pid)  # it may have left its group


def _kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _tasks() -> int:
    """Threads of the whole system: the kernel's figure in one line."""
    try:
        with open("/proc/loadavg") as file:
            return int(file.read().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return 1024


def _libraries() -> Iterator[ctypes.CDLL]:
    if sys.platform == "linux":
        yield ctypes.CDLL(None, use_errno=True)


_LIBC: Sequence[ctypes.CDLL] = tuple(_libraries())


def _prctl(option: int, value: int) -> None:
    for library in _LIBC:
        library.prctl(option, value, 0, 0, 0)
