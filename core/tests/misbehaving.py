"""Executors for the tests of isolation; a module of its own, so that a new process can import it quickly."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from treadle import Context, Executor, GiveUp, RetryAfter, SyncContext, TransientError, TreadleError, executor

_calls = 0


@executor("bad.spin", isolation="process")
def spin() -> None:
    """Never end, and never wait."""
    while True:
        pass


@executor("bad.stubborn", isolation="process")
def stubborn(pids: str) -> None:
    """Ignore every request to stop, with a family of which one has left home."""
    with Path(pids).open("a") as file:
        child = subprocess.Popen(["sleep", "300"])
        away = subprocess.Popen(["sleep", "300"], start_new_session=True, env={})
        print(os.getpid(), child.pid, away.pid, file=file, flush=True)
    while True:
        try:
            time.sleep(300)
        except BaseException:
            continue


@executor("bad.exit", isolation="process")
def leave(code: int) -> None:
    """End the process."""
    print("these were its", file=sys.stderr)
    print("last words", file=sys.stderr)
    sys.stderr.flush()
    os._exit(code)


@executor("bad.segfault", isolation="process")
def segfault() -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


@executor("bad.killed", isolation="process")
def killed(number: int) -> None:
    """End by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


@executor("bad.hog", isolation="process")
def hog() -> int:
    """Take all the memory that there is."""
    taken = []
    while True:
        taken.append(bytearray(16 * 1024 * 1024))


@executor("bad.bomb", isolation="process")
def bomb() -> None:
    """Fork, and let every copy fork."""
    while True:
        os.fork()


@executor("bad.flood", isolation="process")
def flood(size: int) -> str:
    """Write without end."""
    line = b"x" * 1023 + b"\n"
    for _ in range(size // 1024):
        os.write(1, line)
    return "written"


@executor("bad.mute", isolation="process")
def mute() -> None:
    """Close every pipe, and go on."""
    os.closerange(3, 1000)
    time.sleep(300)


@executor("bad.mute_and_return", isolation="process")
def mute_and_return() -> str:
    """Close every pipe, and answer."""
    os.closerange(3, 1000)
    return "nobody hears it"


@executor("bad.garbage", isolation="process")
def garbage() -> None:
    """Write what is no message wherever messages might go."""
    for end in range(3, 50):
        try:
            os.write(end, b"not json\n")
        except OSError:
            continue
    time.sleep(300)


@executor("bad.huge", isolation="process")
def huge(megabytes: int) -> str:
    """Answer more than a record may hold."""
    return "x" * (megabytes * 1024 * 1024)


@executor("bad.burn", isolation="process")
def burn() -> None:
    """Use the processor."""
    while True:
        pass


@executor("bad.open", isolation="process")
def open_many() -> int:
    """Open files without end."""
    files = []
    while True:
        files.append(open(os.devnull))  # noqa: SIM115 -- the point


@executor("bad.write", isolation="process")
def write_much(path: str) -> None:
    """Write a file without end."""
    with open(path, "wb") as file:
        while True:
            file.write(bytes(1024 * 1024))
            file.flush()


@executor("bad.raises", isolation="process")
def raises(what: str) -> None:
    """Raise."""
    errors = {
        "connection": ConnectionError("refused"),
        "value": ValueError("wrong"),
        "own": OwnError("of mine"),
        "transient": TransientError("busy", "wait", retry_after_s=7.0),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "cancelled": asyncio.CancelledError(),
        "group": ExceptionGroup("several", [TimeoutError("late")]),
        "mute": MuteError(),
        "partial": PartialError(),
        "stop": StopIteration("enough"),
    }
    raise errors[what]


class OwnError(ConnectionResetError):
    """An exception of a plugin."""

    status_code = 418


class MuteError(Exception):
    """Cannot be looked at."""

    def __str__(self) -> str:
        raise ValueError("no words")


class PartialError(Exception):
    """Carries what was done."""

    def __init__(self) -> None:
        self.partial_results = [{"id": 1}, {"id": 2}]
        super().__init__("the third failed")


@executor("bad.forks", isolation="process")
def forks() -> str:
    """Return twice."""
    return "child" if os.fork() == 0 else "parent"


# -- executors that behave, and what they see ------------------------------------------------------------------------------


@executor("good.pid", isolation="process")
def pid() -> int:
    """Say which process this is."""
    return os.getpid()


@executor("good.count", isolation="process")
def count() -> list[int]:
    """Say which process this is, and how many calls it had."""
    global _calls
    _calls += 1
    return [os.getpid(), _calls]


@executor("good.echo", isolation="process")
def echo(value: object) -> object:
    """Give back what it got."""
    return value


@executor("good.leaves", isolation="process")
def leaves(what: str) -> int:
    """Leave something behind."""
    if what == "process":
        return subprocess.Popen(["sleep", "300"], start_new_session=True).pid
    if what == "thread":
        threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
    if what == "changes":
        os.chdir("/")
        os.environ["LEFT"] = "behind"
        del os.environ["PATH"]
    return os.getpid()


@executor("good.surroundings", isolation="process")
def surroundings() -> dict[str, object]:
    """Say what is around."""
    return {"env": dict(os.environ), "cwd": os.getcwd(), "stdin": sys.stdin.read(), "session": os.getsid(0) == os.getpid()}


@executor("good.facts", isolation="process")
async def facts(ctx: Context, /) -> list[object]:
    """Say what the context says, and use all of it."""
    ctx.progress(1, 2, "half")
    with ctx.span("GET", attributes={"n": 1}) as attributes:
        attributes["more"] = True
        with ctx.span("inner"):
            await asyncio.sleep(0) if "trio" not in sys.modules else None
    ctx.log.warning("item %d", 7)
    logging.getLogger("acme").error("%s", "trouble", exc_info=ValueError("cause"))
    print("printed")
    print("complained", file=sys.stderr)
    call = ctx.call
    seen = [ctx.run_id, ctx.step, ctx.index, ctx.attempt, ctx.variant, ctx.idempotency_key, ctx.traceparent]
    return [*seen, [call.run_id, call.path, call.index, call.attempt, call.variant, call.idempotency_key, call.traceparent]]


@executor("good.sync_facts", isolation="process")
def sync_facts(ctx: SyncContext, /, times: int) -> str:
    """Report progress often."""
    for done in range(times + 1):
        ctx.progress(done, times)
    return ctx.step


@dataclasses.dataclass
class Point:
    """A type of the author's."""

    x: int
    y: int


@executor("good.typed", isolation="process")
def typed(point: Point) -> Point:
    """Mirror a point."""
    return Point(point.y, point.x)


@executor("good.cleans_up", isolation="process")
def cleans_up(path: str) -> None:
    """Note its end."""
    try:
        Path(path).write_text("began")
        time.sleep(300)
    finally:
        Path(path).write_text("cleaned up")


@executor("good.cleans_up_async", isolation="process")
async def cleans_up_async(path: str) -> None:
    """Note its end, on whichever loop."""
    import anyio

    try:
        Path(path).write_text("began")  # noqa: ASYNC240 -- a test
        await anyio.sleep(300)
    finally:
        Path(path).write_text("cleaned up")  # noqa: ASYNC240 -- a test


class Judge(Executor):
    """A class whose own hook knows its own error."""

    def retry_policy(self, error: Exception) -> RetryAfter | GiveUp | None:
        """Ask what only the real exception has."""
        return RetryAfter(0.0, f"wait a while: {error.detail}") if isinstance(error, DetailedError) else None  # type: ignore[attr-defined]

    def execute(self, path: str) -> str:
        """Fail the first time."""
        if not Path(path).exists():
            Path(path).touch()
            raise DetailedError
        return "the second time"


class DetailedError(Exception):
    """Has more than a message."""

    detail = "very busy"


judge = executor("good.judge", isolation="process")(Judge)


@executor("good.shout", isolation="process")
def shout(word: str) -> str:
    """Say a word on every channel."""
    print(word)
    logging.getLogger("treadle.step.good.shout").warning("logged %s", word)
    raise ValueError(f"raised {word}")


@executor("bad.strand", isolation="process")
def strand(pids: str) -> None:
    """Start a family, and never end; the interpreter cannot be interrupted."""
    child = subprocess.Popen(["sleep", "300"])
    away = subprocess.Popen(["sleep", "300"], start_new_session=True, env={})
    Path(pids).write_text(f"{os.getpid()} {os.getppid()} {child.pid} {away.pid}")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ctypes.PyDLL(None).sleep(300)  # holds the interpreter's lock


@executor("bad.kills_supervisor", isolation="process")
def kills_supervisor() -> None:
    """Kill who it descends from."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(300)


@executor("misbehaving.plain")
def plain() -> int:
    """Say which process this is; says nothing of isolation."""
    return os.getpid()


@executor("good.loop", isolation="process")
async def which_loop() -> str:
    """Say which event loop this is."""
    import anyio
    import sniffio

    await anyio.lowlevel.checkpoint()
    return sniffio.current_async_library()


@executor("good.saves", isolation="process")
def saves(ctx: SyncContext, /, fails: bool = False) -> object:
    """Go on from where an earlier attempt got, with threads of its own that save too."""
    seen = [ctx.checkpoint.token, ctx.checkpoint.data] if ctx.checkpoint else None
    if fails and seen is None:
        ctx.heartbeat()
        thread = threading.Thread(target=ctx.save, args=("from-thread", {"n": 1}))
        thread.start()
        thread.join()
        for number in range(200):
            ctx.save("step", {"n": number})
        ctx.save_soon("progress", {"n": 1000})
        ctx.save_soon("progress", {"n": 1001})
        raise TransientError("again", retry_after_s=0.0)
    return {"seen": seen, "fencing": ctx.fencing_token}


@executor("good.saves-async", isolation="process")
async def saves_async(ctx: Context, /, name: str) -> object:
    """Save from many tasks at a time."""
    seen = [ctx.checkpoint.token, ctx.checkpoint.data] if ctx.checkpoint else None
    if seen is None:
        import anyio

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(ctx.save, f"task-{number}", number)
        await ctx.save("last", {"name": name})
        raise TransientError("again", retry_after_s=0.0)
    return seen


@executor("bad.saves", isolation="process")
def saves_nonsense(ctx: SyncContext, /) -> str:
    """Try to save what cannot be saved, then what can."""
    try:
        ctx.save("x", {"a": {1, 2}})
    except TreadleError as error:
        ctx.save("y", None)
        return str(error)
    return "nothing was said"
