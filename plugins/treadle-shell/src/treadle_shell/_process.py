"""One supervised command: it is read without end, stopped with all its descendants, and dies with treadle."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import anyio
import attrs
from treadle.errors import TreadleError

from treadle_shell._capture import Capture
from treadle_shell._family import MARK, Family, reap_group
from treadle_shell._live import LineStream, Live

GRACE_S = 2.0
"""How long a command may take to end after TERM, before KILL."""

LINGER_S = 1.0
"""How long output is still awaited after the command's end, from descendants that hold its pipes."""

_log = logging.getLogger("treadle.shell")

_CHUNK = 65536
_POLL_S = 0.02

# The supervisor becomes the command (exec), so the command's process id, exit code and signals are its own. Before that it
# leaves a watcher in the same process group, as a grandchild, so that the command never sees a child that it did not start.
# The watcher reads from a pipe whose other end only treadle holds (by way of descriptor 3, since a shell gives its background
# processes an empty input). The pipe ends when treadle dies in whatever way; then the watcher kills the family.
_SUPERVISOR = r"""
input=$1 sweep=$2 prepare=$3
shift 3
exec 3<&0
( (
    trap '' TERM INT HUP QUIT TSTP TTIN TTOU
    read -r _
    exec /usr/bin/env -i PATH=/usr/bin:/bin /bin/sh -c "$sweep" watcher "$MARK"
) <&3 3<&- >/dev/null 2>&1 & )
eval "$prepare" || exit 126
exec "$@" <"$input" 3<&-
""".replace("MARK", MARK)

# What the watcher becomes, itself without the mark: it kills whoever carries it until nobody is found twice (somebody may have
# been born while it looked), and then its own group. The group comes last because it includes the watcher; so a member that
# leaves the group meanwhile is found by its mark.
_SWEEP = r"""
empty=0 pass=0
while [ $empty -lt 2 ] && [ $pass -lt 100 ]; do
    found=$(grep -lsxzF "MARK=$1" /proc/[0-9]*/environ)
    empty=$((empty + 1)) pass=$((pass + 1))
    for file in $found; do
        empty=0 file=${file#/proc/}
        kill -KILL "${file%/environ}"
    done
done
kill -KILL 0
""".replace("MARK", MARK)


@attrs.frozen
class Finished:
    """How a command ended.

    Attributes:
        returncode: Its exit code; negative for the signal that ended it.
        stdout: What it wrote.
        stderr: What it wrote to standard error.
    """

    returncode: int
    stdout: Capture
    stderr: Capture


async def run_process(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stdin: bytes | None,
    max_output: int,
    prepare: str,
    live: Live | None,
    own: Callable[[int], Awaitable[None]] | None = None,
) -> Finished:
    """Run a command to its end and return what it said.

    However this call ends, no descendant in the command's process group is left; when it is cancelled, none at all: TERM
    first, KILL after GRACE_S. Everything is stopped too when this process dies, even by ``kill -9``.

    Args:
        argv: The program as an absolute path, and its arguments.
        env: The whole environment.
        cwd: Working directory.
        stdin: What the command reads; None for nothing.
        max_output: Bytes kept of each stream.
        prepare: Line of shell that is performed before the command, for itself alone.
        live: Receives what is written as it is written; None for nobody.
        own: Notes the command's process, so that whoever takes the run over ends it first; None for nobody.
    """
    with _spawned(argv, env=env, cwd=cwd, stdin=stdin, max_output=max_output, prepare=prepare, live=live) as process:
        try:
            async with anyio.create_task_group() as group:
                if own is not None:
                    group.start_soon(_note, own, process.pid)  # beside the command, which needs not wait for it
                await process.finished(LINGER_S)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):  # Bounded by GRACE_S, twice.
                await process.end()
        return Finished(process.returncode, process.stdout, process.stderr)


async def _note(own: Callable[[int], Awaitable[None]], pid: int) -> None:
    try:
        await own(pid)
    except TreadleError as error:  # the run is in trouble, and hears of it by itself
        _log.warning("Process %d is not noted: %s", pid, error)


@contextlib.contextmanager
def _spawned(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str,
    stdin: bytes | None,
    max_output: int,
    prepare: str,
    live: Live | None,
) -> Iterator[_Process]:
    with contextlib.ExitStack() as stack:
        watched, lifeline = _pipe(stack)
        out, out_end = _pipe(stack)
        err, err_end = _pipe(stack)
        source = _source(stack, stdin)
        mark = secrets.token_hex(16)
        popen = subprocess.Popen(
            ["/bin/sh", "-c", _SUPERVISOR, "treadle", f"/dev/fd/{source}" if source else os.devnull, _SWEEP, prepare, *argv],
            stdin=watched,
            stdout=out_end,
            stderr=err_end,
            env={**env, MARK: mark},
            cwd=cwd,
            pass_fds=(source,) if source else (),
            start_new_session=True,
        )
        for end in (watched, out_end, err_end):
            os.close(end)
        for end in (out, err):
            os.set_blocking(end, False)
        stack.pop_all()
        process = _Process(
            popen=popen,
            family=Family(popen.pid, mark),
            lifeline=lifeline,
            out=out,
            err=err,
            stdout=Capture(max_output),
            stderr=Capture(max_output),
            live=live,
            pidfd=_pidfd(popen.pid),
        )
        if source:
            os.close(source)
    try:
        yield process
    finally:
        process.close()


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed when the command cannot be started."""
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _source(stack: contextlib.ExitStack, stdin: bytes | None) -> int:
    """A file that holds what the command will read, or 0: a file needs no writer that could block or be left behind."""
    if stdin is None:
        return 0
    with tempfile.TemporaryFile() as file:
        file.write(stdin)
        file.flush()
        source = os.dup(file.fileno())
    stack.callback(os.close, source)
    return source


def _pidfd(process: int) -> int | None:
    try:
        return os.pidfd_open(process)
    except (AttributeError, OSError):  # Not Linux, an old kernel, or a sandbox: the end is polled for.
        return None


@attrs.define(eq=False)
class _Process:
    _popen: subprocess.Popen[bytes]
    _family: Family
    _lifeline: int
    _out: int
    _err: int
    stdout: Capture
    stderr: Capture
    _live: Live | None
    _pidfd: int | None
    _at_end: set[int] = attrs.field(factory=set, init=False)
    _streams: dict[str, LineStream] = attrs.field(factory=dict, init=False)

    @property
    def pid(self) -> int:
        """The command's process, which leads its group."""
        return self._popen.pid

    @property
    def returncode(self) -> int:
        """The exit code, negative for a signal; only after ``end``."""
        return self._popen.returncode if self._popen.returncode is not None else -int(signal.SIGKILL)

    async def finished(self, linger_s: float) -> None:
        """Return when the command has ended and its output is read, at the latest ``linger_s`` after its end."""
        async with anyio.create_task_group() as readers:
            closed = anyio.Event()
            readers.start_soon(self._drain, self._out, self.stdout, self._lines("stdout"), closed)
            readers.start_soon(self._drain, self._err, self.stderr, self._lines("stderr"), closed)
            await self._exited()
            with anyio.move_on_after(linger_s):
                await closed.wait()
            readers.cancel_scope.cancel()

    async def end(self) -> None:
        """Stop what still runs, kill what is left, and collect the exit code; takes at most 2 * GRACE_S."""
        if not self._has_exited():
            self._family.signal(signal.SIGTERM)
            with anyio.move_on_after(GRACE_S):
                await self.finished(GRACE_S)
            self._family.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)  # The watcher, and what the command left behind.
        with anyio.move_on_after(GRACE_S) as scope:
            await self._exited()
            # Only now may the process id pass to somebody else: every signal by number was sent before.
            self._popen.wait()
            while not reap_group(self._popen.pid):  # noqa: ASYNC110 -- the kernel tells nobody
                await anyio.sleep(_POLL_S)
        if scope.cancelled_caught:
            _log.warning("Process %d survives KILL (the kernel holds it); nobody waits for it any more.", self._popen.pid)

    def close(self) -> None:
        """Give the file descriptors back."""
        for end in (self._lifeline, self._out, self._err, self._pidfd):
            if end is not None:
                os.close(end)

    def _lines(self, name: str) -> LineStream | None:
        return None if self._live is None else self._streams.setdefault(name, self._live.stream(name))

    async def _drain(self, end: int, capture: Capture, lines: LineStream | None, closed: anyio.Event) -> None:
        while end not in self._at_end:
            await anyio.wait_readable(end)
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(end, _CHUNK)
                capture.feed(chunk)
                if lines is not None:
                    lines.feed(chunk)
                if not chunk:
                    self._at_end.add(end)
        if len(self._at_end) == 2:
            closed.set()

    async def _exited(self) -> None:
        if self._pidfd is not None:
            await anyio.wait_readable(self._pidfd)
        while not self._has_exited():  # noqa: ASYNC110 -- only without a process descriptor
            await anyio.sleep(_POLL_S)

    def _has_exited(self) -> bool:
        """Whether the command is over, without collecting it where the system can tell so."""
        if self._popen.returncode is not None:
            return True
        if not hasattr(os, "waitid"):
            return self._popen.poll() is not None
        return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
