"""``shell.run``: a command by its argument list, or a script whose data arrives only as environment variables."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from json import loads

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
from treadle import client, executor
from treadle.errors import ConfigError, PermanentError, TransientError, TreadleError
from treadle.ports import Context

from treadle_shell._environment import build_environment
from treadle_shell._folder import (
    Artifact,
    ArtifactMissingError,
    Folder,
    FolderNotFoundError,
    FolderRefusedError,
    collect,
    working_folder,
)
from treadle_shell._limits import Limits, preparation
from treadle_shell._live import Live, secret_texts
from treadle_shell._process import Finished, run_process

__all__ = [
    "Artifact",
    "ArtifactMissingError",
    "CommandFailedError",
    "CommandNotFoundError",
    "FolderNotFoundError",
    "FolderRefusedError",
    "Limits",
    "Shell",
    "ShellResult",
    "ShellSettings",
    "run",
]

_LIMIT_SIGNALS = {int(signal.SIGXCPU): "cpu_s", int(signal.SIGXFSZ): "file_mb"}
_SCARCE = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@attrs.frozen
class ShellSettings:
    """What an executor receives that asks for ``shell``.

    Attributes:
        root: The folder that working directories are beneath; empty for none.
        limits: What every command may use at most.
    """

    root: str
    limits: Limits


@client("shell")
@attrs.define
class Shell:
    """Where commands run, and what they may use.

    Attributes:
        root: Folder that every working directory is beneath, and the default one; without it any folder will do. A command may
            still go where its user may.
        limits: What each process of a command may use at most; a step may ask for less.
    """

    root: str = ""
    limits: Limits = attrs.field(factory=Limits)

    @contextmanager
    def open(self) -> Iterator[ShellSettings]:
        """The settings."""
        if self.root and not os.path.isdir(os.path.expanduser(self.root)):
            raise ConfigError(f"The root {self.root!r} of [clients.shell] does not exist.", "Create it, or correct 'root'.")
        yield ShellSettings(self.root, self.limits)

    async def check(self) -> None:
        """Raise when the root is not there."""
        with self.open():
            pass


@attrs.frozen
class ShellResult:
    r"""What a command left.

    Attributes:
        exit_code: Its exit code; negative for the signal that ended it (only seen with ``check: false``).
        stdout: What it wrote, at most ``max_output`` bytes of it; bytes that are not UTF-8 show as ``\xff``.
        stderr: The same of standard error.
        truncated: Whether either is only the beginning.
        stdout_bytes: How much it wrote, kept or not.
        stderr_bytes: The same of standard error.
        duration_s: Seconds from start to end.
        json: The parsed standard output, when ``json: true`` asked for it.
        artifacts: The files that ``artifacts`` asked for.
    """

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool
    stdout_bytes: int
    stderr_bytes: int
    duration_s: float
    json: object = None
    artifacts: list[Artifact] = attrs.field(factory=list)


class CommandFailedError(TreadleError):
    """A command that ended with another exit code than 0, or by a signal; what that means only its author knows."""

    def __init__(self, command: str, exit_code: int, last_lines: list[str]) -> None:
        self.command, self.exit_code = command, exit_code
        self.signal = _signal_name(-exit_code) if exit_code < 0 else ""
        how = f"was ended by signal {self.signal}" if self.signal else f"ended with exit code {exit_code}"
        said = "".join(f"\n  {line}" for line in last_lines)
        remedy = "Correct the command, or say 'check: false' to receive its exit code."
        if (limit := _LIMIT_SIGNALS.get(-exit_code)) is not None:
            remedy = f"It used more than its limit {limit!r}: raise that, or make the command use less."
        super().__init__(f"Command {command!r} {how}{':' if said else '.'}{said}", remedy)


class CommandNotFoundError(PermanentError):
    """A program that is not there."""


@executor("shell.run", examples=({"argv": ["date", "+%A"]}, {"script": 'echo "hello $name"', "inputs": {"name": "world"}}))
async def run(
    shell: ShellSettings,
    ctx: Context,
    /,
    argv: list[str] | None = None,
    script: str | None = None,
    env: dict[str, str] | None = None,
    inputs: dict[str, object] | None = None,
    pass_env: list[str] | None = None,
    cwd: str | None = None,
    stdin: str | None = None,
    check: bool = True,
    json: bool = False,
    max_output: int = 1_048_576,
    artifacts: list[str] | None = None,
    limits: Limits | None = None,
    umask: str = "077",
    quiet: bool = False,
) -> ShellResult:
    """Run a command, or a script with ``/bin/sh -euc``, and return what it wrote.

    It gets its own session and a short environment, reads nothing unless ``stdin`` is given, and never outlives its step:
    on timeout or cancel it and its descendants get TERM and two seconds later KILL; they die too when treadle is killed.
    What it writes appears in the step's log and progress as it is written.

    Args:
        shell: The client.
        ctx: The call.
        argv: Program and arguments; no shell sees them.
        script: Text of a script instead of ``argv``. Data belongs into ``inputs``, never into this text.
        env: Environment variables to set.
        inputs: Data for the script, as environment variables of these names; what is not text arrives as JSON text.
        pass_env: Names of further environment variables of treadle's own to pass on, like ``SSH_AUTH_SOCK``.
        cwd: Working directory, relative to the client's ``root``; default that, else treadle's own.
        stdin: Text that the command reads.
        check: Whether an exit code other than 0 is an error.
        json: Whether standard output is parsed as JSON, into ``json``.
        max_output: Bytes kept of each output stream; the rest is read and counted.
        artifacts: Patterns of files that the command leaves in its working directory, like ``dist/*.whl`` or ``**/report.xml``;
            each has to match one.
        limits: What each process may use at most: ``memory_mb``, ``cpu_s``, ``file_mb``, ``open_files``.
        umask: Permissions that new files do not get.
        quiet: Whether its output is kept out of log and progress.

    Raises:
        CommandFailedError: The command failed and ``check`` is on; not retried unless the step says so.
        CommandNotFoundError: There is no such program.
        ArtifactMissingError: A pattern of ``artifacts`` matches no file.
        PermanentError: The inputs cannot be given to a process.
    """
    command = _command(argv, script, inputs)
    if max_output < 0:
        raise PermanentError(f"max_output is {max_output}.", "Give a number of bytes, 0 or more.")
    environment = build_environment(ctx, os.environ, env=env or {}, inputs=inputs or {}, pass_env=pass_env or ())
    prepare = preparation(umask, shell.limits, limits or {})
    live = None if quiet else _listening(ctx, argv=argv, script=script, env=env, inputs=inputs, stdin=stdin)
    with working_folder(cwd, shell.root) as folder:
        program = _find(command[0], environment.get("PATH", os.defpath), folder.path)
        began = time.monotonic()
        data = None if stdin is None else _encoded(stdin)
        finished = await _perform(
            [program, *command[1:]], environment, folder, data, max_output, prepare, live, ctx.own_process
        )
        duration_s = time.monotonic() - began
        if live is not None:
            live.tell()
        if check and finished.returncode != 0:
            lines = finished.stderr.last_lines(10) or finished.stdout.last_lines(10)
            raise CommandFailedError(_shown(argv), finished.returncode, lines)
        return ShellResult(
            exit_code=finished.returncode,
            stdout=finished.stdout.text(),
            stderr=finished.stderr.text(),
            truncated=finished.stdout.truncated or finished.stderr.truncated,
            stdout_bytes=finished.stdout.total,
            stderr_bytes=finished.stderr.total,
            duration_s=round(duration_s, 6),
            json=_parsed(finished, _shown(argv)) if json else None,
            artifacts=await _collected(folder, artifacts) if artifacts else [],
        )


def _listening(ctx: Context, **inputs: object) -> Live:
    return Live(ctx, secret_texts(ctx.call.secrets, inputs))


async def _collected(folder: Folder, patterns: list[str]) -> list[Artifact]:
    """In a thread, which is waited for, since it reads from our folder, and which stops soon when the call is cancelled."""
    stopped = threading.Event()

    async def stop_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    found: list[Artifact] = []
    error: PermanentError | None = None
    async with anyio.create_task_group() as watching:
        watching.start_soon(stop_when_cancelled)
        try:
            found = await anyio.to_thread.run_sync(collect, folder, patterns, stopped)
        except PermanentError as refused:  # The group would wrap it.
            error = refused
        watching.cancel_scope.cancel()
    await anyio.lowlevel.checkpoint()  # A cancellation that ended the thread comes before what it found.
    if error is not None:
        raise error
    return found


def _command(argv: list[str] | None, script: str | None, inputs: object) -> list[str]:
    """The arguments to run, from the one form that is given."""
    if (argv is None) == (script is None):
        raise PermanentError(
            "shell.run needs exactly one of 'argv' and 'script'.", "Give the command as a list, or a script as text."
        )
    if script is not None:
        # -e: a failed command fails the script; -u: so does a misspelt variable.
        return ["/bin/sh", "-euc", _plain(script), "script"]
    if inputs is not None:
        raise PermanentError("'inputs' are for 'script'.", "Put values into 'argv', or into 'env'.")
    if not argv or not argv[0]:
        raise PermanentError("'argv' names no program.", "Its first item is the program, like [git, log].")
    return [_plain(item) for item in argv]


def _plain(text: str) -> str:
    if "\0" in text:
        raise PermanentError("A command cannot hold a NUL character.", "Remove it, or pass the data with 'stdin'.")
    return text


def _find(program: str, path: str, cwd: str) -> str:
    """The absolute path of a program: looked up in PATH, or, when it has a slash, from the working directory."""
    if "/" in program:
        found = os.path.abspath(os.path.join(cwd, program))
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
        why = "is not executable" if os.path.isfile(found) else "does not exist"
        raise CommandNotFoundError(f"Program {program!r} {why}.", "Correct the path, or set its executable bit (chmod +x).")
    looked_up = shutil.which(program, path=path)
    if looked_up is None:
        raise CommandNotFoundError(
            f"There is no program {program!r} in PATH ({path}).",
            "Install it, correct its name, or set PATH with 'env'. A shell's own commands need 'script'.",
        )
    return os.path.abspath(looked_up)


def _encoded(stdin: str) -> bytes:
    try:
        return stdin.encode()
    except UnicodeEncodeError as error:
        raise PermanentError(f"'stdin' is not valid text: {error}.", "Pass valid Unicode.") from error


async def _perform(
    argv: list[str],
    env: Mapping[str, str],
    folder: Folder,
    stdin: bytes | None,
    max_output: int,
    prepare: str,
    live: Live | None,
    own: Callable[[int], Awaitable[None]],
) -> Finished:
    try:
        return await run_process(
            argv, env=env, cwd=folder.place, stdin=stdin, max_output=max_output, prepare=prepare, live=live, own=own
        )
    except UnicodeEncodeError as error:
        raise PermanentError(f"The command is not valid text: {error}.", "Pass valid Unicode.") from error
    except OSError as error:
        if error.errno == errno.E2BIG:
            raise PermanentError(
                f"Arguments and environment of {argv[0]!r} are larger than the system takes.",
                "Pass large data with 'stdin', or write it to a file first.",
            ) from error
        if error.errno in _SCARCE:
            raise TransientError(
                f"Command {argv[0]!r} cannot be started now: {error.strerror}.", "Run less at once ('max_parallel')."
            ) from error
        raise


def _parsed(finished: Finished, command: str) -> object:
    if finished.stdout.truncated:
        raise PermanentError(
            f"Command {command!r} wrote {finished.stdout.total:,} bytes, too many to parse as JSON.", "Raise 'max_output'."
        )
    try:
        return loads(finished.stdout.text(), parse_constant=_no_number)
    except ValueError as error:
        raise PermanentError(
            f"Command {command!r} did not write JSON: {error}.", "Correct the command, or leave 'json' out and read 'stdout'."
        ) from error


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _shown(argv: list[str] | None) -> str:
    """The program alone: arguments may hold what should not stand in an error."""
    return os.path.basename(argv[0]) if argv else "script"


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
