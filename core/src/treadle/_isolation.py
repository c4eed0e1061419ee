"""Isolated calls: each in a child process that can be stopped for certain, whatever it does, and that serves many calls.

A call costs a fork or, warm, two lines of JSON. Children belong to a supervisor (``_supervisor``), and that to one run.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, cast

import anyio
import anyio.to_thread
import attrs

from treadle._bind import BoundExecutor
from treadle._config import Config
from treadle._error_info import load_error
from treadle._limits import LimitsInvalidError, ProcessLimits, read_limits, size_text
from treadle._models import Call, Json, SpanRecord
from treadle._secrets import hide
from treadle._step_log import kept_level, log_line
from treadle._store_records import Checkpoint
from treadle.errors import ConfigInvalidError, ExecutorDiedError, NotSupportedError, TransientError, TreadleError

GRACE_S = 2.0
"""How long a child may take to end after TERM, before KILL."""

MAX_CALLS = 200
"""After so many calls a child is replaced: what libraries leak does not add up."""

MAX_IDLE = 16
"""Children that wait for their next call; more are let go."""

MAX_LOGGED = 1024 * 1024
"""Bytes of a call's standard output and error that are logged."""

MAX_REPLY = 512 * 1024 * 1024

INHERITED = frozenset(
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR TMP TEMP SSL_CERT_FILE SSL_CERT_DIR".split()  # noqa: SIM905 -- a list of 13 lines says less
)
"""What a child inherits of treadle's own environment, besides ``LC_*``; everything else is named in ``pass_env``."""

_START_S = 30.0
_KILL_S = 5.0
_TAIL = 8192
_CHUNK = 65536
_LARGE = 1024 * 1024
_HEARD = 8
"""Reads of what a child that is being ended still says, at a time."""

_LINE_COST = 64  # a log line costs more than its bytes
_POLL_S = 0.01
_LOOK = "Is the system out of memory or processes? Lower 'max_parallel', or see the log."

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); sys.argv[:] = ['treadle-supervisor']; "
    "from treadle._supervisor import main; from treadle._isolated_child import live; main(live)"
)

_log = logging.getLogger("treadle.isolation")


class Relay(Protocol):
    """What a child's messages reach: the context of the call in treadle's process."""

    call: Call
    spans: list[SpanRecord]
    checkpoint: Checkpoint | None

    @property
    def fencing_token(self) -> int:
        """The epoch of whoever drives the run."""

    async def keep(self, token: str, data: Json = None) -> None:
        """Keep how far the work is."""

    def save_soon(self, token: str, data: Json = None) -> None:
        """Note how far the work is."""

    def heartbeat(self) -> None:
        """It goes on."""

    async def note_process(self, pid: int) -> None:
        """Note a process of the call."""

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """How far the work is."""

    def spent(self, used: Sequence[int], refusal: Sequence[object] | None) -> None:
        """What the call has used up, all in all, and what it was refused."""


class ChildPool:
    """The children of one run; use it as an async context manager.

    Args:
        config: ``[limits.process]`` holds for every child that a step does not give its own limits.
        is_expected: Whether isolated calls will come, so that the supervisor starts before the first one does.

    Raises:
        ConfigInvalidError: ``[limits.process]`` has faults.
    """

    def __init__(self, config: Config, *, is_expected: bool = False) -> None:
        self._limits = _configured(config)
        if is_expected and not hasattr(os, "fork"):
            raise NotSupportedError("Steps with isolation: process need a system that can fork.", "Write isolation: inline.")
        self._is_expected = is_expected
        self._idle: list[_Child] = []
        self._supervisor: _Supervisor | None = None

    async def __aenter__(self) -> ChildPool:
        if self._is_expected:
            self._supervisor = _Supervisor(self._limits.pass_env)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        idle, self._idle = self._idle, []
        with anyio.CancelScope(shield=True):
            for child in idle:
                child.dismiss()
            with anyio.move_on_after(GRACE_S / 2):
                for child in idle:
                    await child.ended()
            for child in idle:
                child.close()
            await supervisor.close()

    async def perform(
        self, bound: BoundExecutor, call: Call, inputs: Mapping[str, Json], relay: Relay, secrets: Sequence[str] = ()
    ) -> Json:
        """Perform one call in a child.

        Args:
            bound: The executor; the child gets its own by ``bound.origin``.
            call: The call.
            inputs: Its inputs, with the secrets' values.
            relay: Receives spans and progress.
            secrets: Values that are not logged.

        Returns:
            The output, plain JSON.

        Raises:
            ExecutorDiedError: The child ended without an answer.
            Exception: What the executor raised, as a FromChild.
        """
        limits = read_limits(call.limits or {}, self._limits)
        request = _request(bound, call, inputs, limits, relay)
        child = await self._take((bound.distribution or bound.origin, limits), limits)
        answer: Mapping[str, object] | None = None
        try:
            answer = await child.perform(request, relay, secrets)
        finally:
            if answer is None or answer["soiled"]:
                with anyio.CancelScope(shield=True):  # bounded by GRACE_S and _KILL_S
                    await self._stop(child)
        if answer is None:
            raise ExecutorDiedError(bound.name, child.how_it_ended(), child.last_lines(secrets))
        relay.spans += [SpanRecord(**one) for one in _spans(answer["spans"])]  # type: ignore[arg-type]  # plain data of spans
        if not answer["soiled"]:
            self._keep(child)
        if "error" in answer:
            raise load_error(cast("dict[str, Json]", answer["error"]))
        return answer["output"]

    async def _take(self, key: object, limits: ProcessLimits) -> _Child:
        for child in self._idle[::-1]:
            if child.key == key:
                self._idle.remove(child)
                if not child.has_ended():
                    return child
                child.close()
        supervisor = self._supervisor
        if supervisor is not None:
            with contextlib.suppress(_SupervisorGoneError):
                return await supervisor.fork(key, limits)
            if self._supervisor is supervisor:  # of several calls that find it gone, the first replaces it
                self._supervisor = None
            await supervisor.close()
        if self._supervisor is None:
            self._supervisor = _Supervisor(self._limits.pass_env)
        return await self._supervisor.fork(key, limits)

    def _keep(self, child: _Child) -> None:
        if child.calls >= MAX_CALLS:
            child.close()  # the end of its requests is the end of it; the supervisor sees to the rest
            return
        self._idle.append(child)
        if len(self._idle) > MAX_IDLE:
            self._idle.pop(0).close()

    async def _stop(self, child: _Child) -> None:
        """End a child and all that descends from it; takes at most GRACE_S + _KILL_S."""
        supervisor = self._supervisor
        if supervisor is not None and not child.over and not child.has_ended():
            await supervisor.signal(child.pid, signal.SIGTERM)
            with anyio.move_on_after(GRACE_S):
                await child.ended()
        if supervisor is not None and not child.has_ended():
            await supervisor.signal(child.pid, signal.SIGKILL)
        with anyio.move_on_after(_KILL_S) as scope:
            await child.ended()
        if scope.cancelled_caught:
            _log.warning("Process %d survives KILL (the kernel holds it); nobody waits for it any more.", child.pid)
        child.close()


def _configured(config: Config) -> ProcessLimits:
    table = config.limits.get("process", {})
    if not isinstance(table, dict):
        raise ConfigInvalidError([config.fault(("limits", "process"), "must be a table", "write [limits.process]")])
    try:
        return read_limits(table, ProcessLimits(), takes_env=True)
    except LimitsInvalidError as error:
        faults = [config.fault(("limits", "process", fault.path), fault.message, fault.remedy) for fault in error.faults]
        raise ConfigInvalidError(faults) from error


async def _note_process(relay: Relay, pid: int) -> None:
    with contextlib.suppress(TreadleError):  # then the run is in trouble, and hears of it by itself
        await relay.note_process(pid)


def _request(
    bound: BoundExecutor, call: Call, inputs: Mapping[str, Json], limits: ProcessLimits, relay: Relay
) -> dict[str, object]:
    if bound.origin is None:
        raise NotSupportedError(f"Executor {bound.name!r} cannot be found by another process.", "Define it in a module.")
    request: dict[str, object] = {
        "executor": {
            "name": bound.name,
            "distribution": bound.distribution,
            "version": bound.version,
            "origin": bound.origin.to_dict(),
            "family": bound.family_origin.to_dict() if bound.family_origin else None,
        },
        "call": dump_call(call),
        "cpu_s": limits.cpu_s,
        "level": logging.getLogger().getEffectiveLevel(),
        "step_level": kept_level("treadle.step"),
        "backend": _backend(),
        "fencing_token": relay.fencing_token,
    }
    if relay.checkpoint is not None:
        request["checkpoint"] = attrs.asdict(relay.checkpoint, recurse=False)
    return request if inputs is call.inputs else {**request, "inputs": inputs}


def dump_call(call: Call) -> dict[str, Json]:
    """A call for the child. The codec would do, but importing it there costs more than all the rest."""
    fields = {field.name: getattr(call, field.name) for field in attrs.fields(Call)}
    return {
        **fields,
        "retry": attrs.asdict(call.retry),
        "secrets": [attrs.asdict(one) for one in call.secrets],
        "allowance": [attrs.asdict(one) for one in call.allowance],
    }


def _backend() -> str:
    import sniffio

    return sniffio.current_async_library()


def _spans(told: object) -> Iterator[dict[str, object]]:
    for span in cast("list[dict[str, object]]", told):
        yield {**span, **{name: tuple(map(tuple, cast("list[list[object]]", span[name]))) for name in ("events", "links")}}


# -- the supervisor's side -----------------------------------------------------------------------------------------------


class _SupervisorGoneError(TreadleError):
    """It has died, or does not answer."""


class _Supervisor:
    """The process that forks children, by its control socket."""

    def __init__(self, pass_env: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        passing = {*INHERITED, *pass_env}
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, json.dumps([path for path in sys.path if path])],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name in passing or name.startswith("LC_")},
                start_new_session=True,
            )
        ours.setblocking(False)
        self._control = ours
        self._lock = anyio.Lock()

    async def fork(self, key: object, limits: ProcessLimits) -> _Child:
        """A new child."""
        with contextlib.ExitStack() as stack:
            pipes = [_pipe(stack) for _ in range(5)]
            # Of the first, the child reads; of the others it (or, of the last, the supervisor) writes.
            theirs = [pipes[0][0], *(write for _, write in pipes[1:])]
            ours = [pipes[0][1], *(read for read, _ in pipes[1:])]
            message = {"do": "fork", "limits": _resource_limits(limits), "processes": limits.processes}
            answer = await self._ask(message, theirs)
            if "pid" not in answer:
                raise TransientError(f"A child process cannot be started: {answer['error']}.", _LOOK)
            stack.pop_all()
        for end in theirs:
            os.close(end)
        for end in ours:
            os.set_blocking(end, False)
        requests, replies, out, err, status = ours
        return _Child(cast("int", answer["pid"]), key, limits, requests, replies, out, err, status)

    async def signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a child's process group."""
        with contextlib.suppress(_SupervisorGoneError):  # then the kernel has ended its children
            await self._ask({"do": "signal", "pid": pid, "signal": int(number)})

    async def close(self) -> None:
        """End it, and with it all children."""
        self._control.close()
        with anyio.move_on_after(_KILL_S):
            while self._popen.poll() is None:  # noqa: ASYNC110 -- the kernel tells nobody, and it takes a moment
                await anyio.sleep(_POLL_S / 5)
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()

    async def _ask(self, message: Mapping[str, object], ends: Sequence[int] = ()) -> dict[str, object]:
        async with self._lock:
            # Half of a question would be answered to the next one who asks.
            with anyio.move_on_after(_START_S, shield=True):
                try:
                    socket.send_fds(self._control, [json.dumps(message).encode() + b"\n"], ends)
                    return cast("dict[str, object]", json.loads(await self._line()))
                except (OSError, ValueError) as error:
                    raise _SupervisorGoneError(f"The supervisor of isolated calls is gone ({error}).", _LOOK) from error
            raise _SupervisorGoneError("The supervisor of isolated calls does not answer.", _LOOK)

    async def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            await anyio.wait_readable(self._control)
            with contextlib.suppress(BlockingIOError):
                part = self._control.recv(4096)
                if not part:
                    raise ConnectionError("it ended")
                line += part
        return line


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed when the child cannot be had."""
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _resource_limits(limits: ProcessLimits) -> dict[str, int]:
    told = {"CORE": 0, "AS": limits.memory_bytes, "NOFILE": limits.open_files, "FSIZE": limits.file_bytes}
    return {name: most for name, most in told.items() if most is not None}


# -- one child -----------------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Child:
    """A child process: what it is asked, what it answers, and what it writes."""

    pid: int
    key: object
    limits: ProcessLimits
    _requests: int
    _replies: int
    _out: int
    _err: int
    _status: int
    calls: int = 0
    over: str = ""
    """Why treadle ended it; empty when it did not."""
    _pending: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _written: int = attrs.field(default=0, init=False)
    _streams: tuple[_Lines, ...] = attrs.field(default=(), init=False, repr=False)
    _relay: Relay | None = attrs.field(default=None, init=False, repr=False)
    _told: dict[str, object] | None = attrs.field(default=None, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)

    async def perform(self, request: Mapping[str, object], relay: Relay, secrets: Sequence[str]) -> Mapping[str, object] | None:
        """The child's answer; None when it has none and has to be ended."""
        self.calls += 1
        self._written = 0
        self._relay = relay
        budget = _Budget(MAX_LOGGED)
        self._streams = tuple(_Lines(relay.call.executor, name, budget, secrets) for name in ("stdout", "stderr"))
        answer: Mapping[str, object] | None = None
        refusal: TreadleError | None = None
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as receiving:
                group.start_soon(self._drain, self._out, self._streams[0], receiving)
                group.start_soon(self._drain, self._err, self._streams[1], receiving)
                group.start_soon(self._watch, receiving)
                group.start_soon(_note_process, relay, self.pid)  # beside the call: it needs not wait for it
                try:
                    await self._send(request)
                    answer = await self._receive(relay, secrets)
                except OSError:
                    answer = None
                except TreadleError as error:  # what it told cannot be kept; as it is, and in no group
                    refusal = error
            group.cancel_scope.cancel()
        if refusal is not None:
            raise refusal
        if answer is not None:
            self._take_rest()
            for stream in self._streams:
                stream.end()
        return answer

    async def _send(self, request: Mapping[str, object]) -> None:
        data = memoryview(json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        while data:
            try:
                data = data[os.write(self._requests, data) :]
            except BlockingIOError:
                await anyio.wait_writable(self._requests)

    async def _receive(self, relay: Relay, secrets: Sequence[str]) -> Mapping[str, object] | None:
        seen = 0
        while True:
            end = self._pending.find(b"\n", seen)
            if end >= 0:
                line = bytes(self._pending[:end])
                del self._pending[: end + 1]
                seen = 0
                answer = await self._understand(line, relay, secrets)
                if answer is not None:
                    return answer
                continue
            seen = len(self._pending)
            if seen > MAX_REPLY:
                self.over = f"sent treadle more than {size_text(MAX_REPLY)}"
                return None
            await anyio.wait_readable(self._replies)
            with contextlib.suppress(BlockingIOError):
                chunk = os.read(self._replies, 16 * _CHUNK)
                if not chunk:
                    with anyio.move_on_after(GRACE_S / 2):  # it ends, or it only closed its pipe
                        await self.ended()
                    if not self.has_ended():
                        self.over = "closed its connection to treadle"
                    return None
                self._pending += chunk

    async def _understand(self, line: bytes, relay: Relay, secrets: Sequence[str]) -> Mapping[str, object] | None:
        try:
            message = json.loads(line) if len(line) < _LARGE else await anyio.to_thread.run_sync(json.loads, line)
            if "done" in message:
                return cast("Mapping[str, object]", message["done"])
            if "progress" in message:
                relay.progress(*message["progress"])
            elif "save_soon" in message:
                relay.save_soon(*message["save_soon"])
            elif "alive" in message:
                relay.heartbeat()
            elif "keep" in message:
                await self._keep(message["keep"], relay)
            elif "spent" in message:
                relay.spent(*message["spent"])
            else:
                name, level, text, path, number = message["log"]
                self._count(len(line))
                log_line(name, level, hide(text, secrets), path=path, number=number)
        except (ValueError, TypeError, KeyError):
            self.over = "sent treadle what is no message"
        if self.over:
            raise ConnectionError(self.over)
        return None

    async def _keep(self, asked: Sequence[object], relay: Relay) -> None:
        """Keep what the child waits for, and tell it."""
        number, what, *rest = asked
        answer: dict[str, object] = {"kept": number}
        try:
            if what == "process":
                await relay.note_process(cast("int", rest[0]))
            else:
                await relay.keep(cast("str", rest[0]), rest[1])
        except TreadleError as error:
            answer["error"] = [type(error).__name__, error.problem, error.remedy]
        await self._send(answer)

    async def _drain(self, end: int, lines: _Lines, receiving: anyio.CancelScope) -> None:
        while True:
            await anyio.wait_readable(end)
            if not self._read(end, lines):
                return
            if self.over:
                receiving.cancel()
                return

    def _read(self, end: int, lines: _Lines) -> int:
        """Read what is there; the number of bytes, 0 at the end."""
        try:
            chunk = os.read(end, _CHUNK)
        except BlockingIOError:
            return -1
        self._count(len(chunk))
        lines.feed(chunk)
        return len(chunk)

    def _count(self, written: int) -> None:
        self._written += written
        most = self.limits.output_bytes
        if most is not None and self._written > most:
            self.over = self.over or f"wrote more than {size_text(most)} to its standard output and error"

    async def _watch(self, receiving: anyio.CancelScope) -> None:
        """A copy of the child may hold its pipes open: only the supervisor knows that it has ended."""
        await anyio.wait_readable(self._status)
        await anyio.sleep(_POLL_S)
        while _is_readable(self._replies):  # whoever receives sees the end of it himself  # noqa: ASYNC110 -- he reads it
            await anyio.sleep(_POLL_S)
        receiving.cancel()

    def _take_rest(self) -> None:
        """What the streams hold at this moment; the child has flushed them before it answered."""
        for end, lines in zip((self._out, self._err), self._streams, strict=True):
            while not self.over and self._read(end, lines) > 0:
                continue

    # -- its end

    def dismiss(self) -> None:
        """Let it end by itself: there are no more requests."""
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1

    def has_ended(self) -> bool:
        """Whether the supervisor has said how it ended, or is gone itself."""
        return self._told is not None or _is_readable(self._status)

    async def ended(self) -> None:
        """Return when it has ended; what it writes meanwhile is read, so that it can."""
        while not self.has_ended():
            if self._streams and not self.over:
                self._take_rest()
            self._hear_spending()
            await anyio.sleep(_POLL_S)

    def _hear_spending(self) -> None:
        """Of all that it still says only what it has used up: its end must not hide that."""
        with contextlib.suppress(OSError):  # there is no more now, or for ever
            for _ in range(_HEARD):  # one that never stops talking must not hold the loop
                if not (chunk := os.read(self._replies, 16 * _CHUNK)):
                    return
                *lines, rest = (self._pending + chunk).split(b"\n")
                self._pending = bytearray(rest[-_CHUNK:])  # nothing as long as that is about spending
                for line in lines:
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        if self._relay is not None:
                            self._relay.spent(*json.loads(line)["spent"])

    def how_it_ended(self) -> str:
        """For people: ``ended its process with exit code 3``."""
        told = self._told or {}
        if told.get("over") == "processes":
            return f"started more than {self.limits.processes} processes"
        if self.over:
            return self.over
        if "status" not in told:
            return "lost the process that supervised it"
        code = os.waitstatus_to_exitcode(cast("int", told["status"]))
        return f"ended its process with exit code {code}" if code >= 0 else _killed(-code, self.limits)

    def last_lines(self, secrets: Sequence[str]) -> list[str]:
        """What it wrote to standard error at last."""
        return self._streams[1].last(8, secrets) if self._streams else []

    def close(self) -> None:
        """Give the file descriptors back."""
        if self._is_closed:
            return
        self._is_closed = True
        self._hear_spending()
        with contextlib.suppress(OSError, ValueError):
            self._told = json.loads(os.read(self._status, _CHUNK))
        if self._streams and self._told is not None and not self.over:
            self._take_rest()
        for stream in self._streams:
            stream.end()
        for end in (self._requests, self._replies, self._out, self._err, self._status):
            if end >= 0:
                os.close(end)


def _is_readable(end: int) -> bool:
    """Whether reading would not block; any number of descriptors may be open, so not ``select``."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(0))


_SIGNALS: Mapping[int, str] = {
    signal.SIGSEGV: "a segmentation fault",
    signal.SIGBUS: "a bus error",
    signal.SIGABRT: "a library gave up",
    signal.SIGKILL: "perhaps the system ran out of memory",
    signal.SIGILL: "an instruction that the processor does not have",
}


def _killed(number: int, limits: ProcessLimits) -> str:
    if number == signal.SIGXCPU and limits.cpu_s is not None:
        return f"used more than {limits.cpu_s:g} s of processor time"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    why = _SIGNALS.get(number)
    return f"was killed by {name}" + (f" ({why})" if why else "")


# -- what it writes ------------------------------------------------------------------------------------------------------


@attrs.define
class _Budget:
    """Bytes that may still be logged of one call, whichever stream they come from."""

    left: int
    is_told: bool = False


@attrs.define
class _Lines:
    """A stream of a call on its way into the log, line by line, and its end for error messages."""

    executor: str
    name: str
    budget: _Budget
    secrets: Sequence[str] = attrs.field(repr=False)
    _rest: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _tail: bytearray = attrs.field(factory=bytearray, init=False, repr=False)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._tail += chunk[-_TAIL:]
        del self._tail[:-_TAIL]
        if self.budget.left <= 0:
            return
        self._rest += chunk[: self.budget.left]
        *lines, rest = self._rest.split(b"\n")
        self.budget.left -= len(chunk) + _LINE_COST * len(lines)
        self._rest = rest
        for line in lines:
            self._log(line)
        if len(self._rest) > _TAIL:
            self._log(self._rest)
            self._rest = bytearray()

    def end(self) -> None:
        """There is no more."""
        if self._rest:
            self._log(self._rest)
            self._rest = bytearray()
        if self.budget.left <= 0 and not self.budget.is_told:
            self.budget.is_told = True
            log_line(self._logger, logging.WARNING, f"{self.executor}: further output of this call is not logged")

    def last(self, count: int, secrets: Sequence[str]) -> list[str]:
        """The last lines that are not empty, each cut to 400 characters."""
        lines = hide(_text(self._tail), secrets).splitlines()
        return [line[:400] for line in lines if line.strip() and not _OURS.match(line)][-count:]

    def _log(self, line: bytes | bytearray) -> None:
        log_line(self._logger, logging.INFO, hide(_text(line), self.secrets).rstrip("\r"), self.name)

    @property
    def _logger(self) -> str:
        return f"treadle.step.{self.executor}"


_OURS = re.compile(r'  File "(.*treadle.(_isolated_child|_supervisor)\.py|<string>)"')
"""Lines of the interpreter's last stack that say nothing to anybody."""


def _text(data: bytes | bytearray) -> str:
    return codecs.decode(bytes(data), "utf-8", "backslashreplace")
