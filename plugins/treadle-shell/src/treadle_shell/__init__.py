"""``shell.run``: a command by its argument list, or a script whose data arrives only as environment variables."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections.abc import Mapping
from json import loads

import attrs
from treadle import executor
from treadle.errors import PermanentError, TransientError, TreadleError
from treadle.ports import Context

from treadle_shell._environment import build_environment
from treadle_shell._process import Finished, run_process

__all__ = ["CommandFailedError", "CommandNotFoundError", "ShellResult", "run"]

_SCARCE = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


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
    """

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool
    stdout_bytes: int
    stderr_bytes: int
    duration_s: float
    json: object = None


class CommandFailedError(TreadleError):
    """A command that ended with another exit code than 0, or by a signal; what that means only its author knows."""

    def __init__(self, command: str, exit_code: int, last_lines: list[str]) -> None:
        self.command, self.exit_code = command, exit_code
        self.signal = _signal_name(-exit_code) if exit_code < 0 else ""
        how = f"was ended by signal {self.signal}" if self.signal else f"ended with exit code {exit_code}"
        said = "".join(f"\n  {line}" for line in last_lines)
        super().__init__(
            f"Command {command!r} {how}{':' if said else '.'}{said}",
            "Correct the command, or say 'check: false' to receive its exit code.",
        )


class CommandNotFoundError(PermanentError):
    """A program that is not there, or a working directory that is not."""


@executor("shell.run", examples=({"argv": ["date", "+%A"]}, {"script": 'echo "hello $name"', "inputs": {"name": "world"}}))
async def run(
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
) -> ShellResult:
    """Run a command, or a script with ``/bin/sh -euc``, and return what it wrote.

    It gets its own session and a short environment, reads nothing unless ``stdin`` is given, and never outlives its step:
    on timeout or cancel it and its descendants get TERM and two seconds later KILL; they die too when treadle is killed.

    Args:
        ctx: The call.
        argv: Program and arguments; no shell sees them.
        script: Text of a script instead of ``argv``. Data belongs into ``inputs``, never into this text.
        env: Environment variables to set.
        inputs: Data for the script, as environment variables of these names; what is not text arrives as JSON text.
        pass_env: Names of further environment variables of treadle's own to pass on, like ``SSH_AUTH_SOCK``.
        cwd: Working directory; default treadle's own.
        stdin: Text that the command reads.
        check: Whether an exit code other than 0 is an error.
        json: Whether standard output is parsed as JSON, into ``json``.
        max_output: Bytes kept of each output stream; the rest is read and counted.

    Raises:
        CommandFailedError: The command failed and ``check`` is on; not retried unless the step says so.
        CommandNotFoundError: There is no such program or directory.
        PermanentError: The inputs cannot be given to a process.
    """
    command = _command(argv, script, inputs)
    if max_output < 0:
        raise PermanentError(f"max_output is {max_output}.", "Give a number of bytes, 0 or more.")
    environment = build_environment(ctx, os.environ, env=env or {}, inputs=inputs or {}, pass_env=pass_env or ())
    _check_folder(cwd)
    program = _find(command[0], environment.get("PATH", os.defpath), cwd)
    began = time.monotonic()
    finished = await _perform([program, *command[1:]], environment, cwd, stdin, max_output)
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
        duration_s=round(time.monotonic() - began, 6),
        json=_parsed(finished, _shown(argv)) if json else None,
    )


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


def _check_folder(cwd: str | None) -> None:
    if cwd is not None and not os.path.isdir(cwd):
        raise CommandNotFoundError(f"The working directory {cwd!r} does not exist.", "Create it first, or correct 'cwd'.")


def _find(program: str, path: str, cwd: str | None) -> str:
    """The absolute path of a program: looked up in PATH, or, when it has a slash, from the working directory."""
    if "/" in program:
        found = os.path.abspath(os.path.join(cwd or "", program))
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


async def _perform(argv: list[str], env: Mapping[str, str], cwd: str | None, stdin: str | None, max_output: int) -> Finished:
    try:
        data = None if stdin is None else stdin.encode()
        return await run_process(argv, env=env, cwd=cwd, stdin=data, max_output=max_output)
    except UnicodeEncodeError as error:
        raise PermanentError(f"The command or its 'stdin' is not valid text: {error}.", "Pass valid Unicode.") from error
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
