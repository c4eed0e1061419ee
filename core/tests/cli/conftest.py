"""A project folder with executors of its own, and the real command in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jsonschema
import pytest

COMMAND = [sys.executable, "-m", "treadle._cli"]
SCHEMAS = Path(__file__).parents[3] / "docs" / "reference" / "json"

EXECUTORS = '''
"""Executors for the tests of the command line."""
import os
import sys
import time

import anyio
from treadle import Context, PermanentError, TransientError, executor


@executor("demo.echo")
async def echo(text: str = "") -> str:
    """Give back the text."""
    return text


@executor("demo.upper")
async def upper(text: str) -> str:
    """The text in capitals."""
    return text.upper()


@executor("demo.print")
async def noisy() -> str:
    """Write to stdout in every way there is."""
    print("printed")
    sys.stdout.write("written\\n")
    sys.__stdout__.write("written to the real one\\n")
    sys.__stdout__.flush()
    os.write(1, b"written to the descriptor\\n")
    os.system("echo written by a child")
    return "quiet"


@executor("demo.fail")
async def fail(message: str = "no such luck") -> None:
    """Fail."""
    raise PermanentError(message, "Try something else.")


@executor("demo.crash")
async def crash() -> None:
    """Fail as a mistake does."""
    raise LookupError("an unexpected turn")


@executor("demo.gate")
async def gate(ctx: Context, /, file: str, failures: int = 0, steps: int = 0) -> int:
    """Fail a number of times, then say how far it is, and wait until there is a file."""
    if ctx.attempt <= failures:
        raise TransientError(f"attempt {ctx.attempt} did not work")
    for done in range(steps):
        ctx.progress(done + 1, steps, "counting")
    while not os.path.exists(file):
        await anyio.sleep(0.05)
    return ctx.attempt


@executor("demo.flaky")
async def flaky(ctx: Context, /, failures: int = 1, seconds: float = 0.0) -> int:
    """Fail a number of times, then work for some seconds."""
    if ctx.attempt <= failures:
        raise TransientError(f"attempt {ctx.attempt} did not work")
    await anyio.sleep(seconds)
    return ctx.attempt


@executor("demo.odd")
async def odd(number: int) -> int:
    """Refuse even numbers."""
    if number % 2 == 0:
        raise PermanentError(f"{number} is even")
    return number


@executor("demo.sleep")
async def sleep(seconds: float, started: str = "") -> str:
    """Sleep; say so with a file."""
    if started:
        open(started, "w").close()
    await anyio.sleep(seconds)
    return "slept"


@executor("demo.stubborn")
def stubborn(seconds: float, started: str = "") -> str:
    """Sleep in a thread that does not stop when told to."""
    if started:
        open(started, "w").close()
    time.sleep(seconds)
    return "slept"


@executor("demo.undead")
async def undead(seconds: float, started: str = "") -> str:
    """Swallow every attempt to cancel it."""
    if started:
        open(started, "w").close()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            await anyio.sleep(seconds)
        except BaseException:
            time.sleep(0.001)
    return "risen"


@executor("demo.deaf")
async def deaf(seconds: float, started: str = "") -> str:
    """Block the event loop."""
    if started:
        open(started, "w").close()
    time.sleep(seconds)
    return "slept"


@executor("demo.progress")
async def progress(ctx: Context, /, steps: int = 3) -> int:
    """Say how far it is, and log a line."""
    for done in range(steps):
        ctx.progress(done + 1, steps, "counting")
        await anyio.sleep(0.15)
    ctx.log.info("counted to %s", steps)
    return steps
'''


class Command:
    """Runs ``treadle`` in a folder."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder, self.environ = folder, dict(environ)

    def __call__(self, *words: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; never more than two minutes."""
        return subprocess.run(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.environ | environ,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.folder,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(self, name: str, text: str) -> str:
        """Put a file into the folder; answers its name."""
        (self.folder / name).write_text(text, "utf-8")
        return name


@pytest.fixture
def treadle(tmp_path: Path) -> Command:
    """The command in a project whose executors lie in a folder."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "demo.py").write_text(EXECUTORS, "utf-8")
    (tmp_path / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n', "utf-8")
    dropped = ("TREADLE_", "OTEL_", "TRACEPARENT", "NO_COLOR", "COLUMNS")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    kept = {"TREADLE_STORE__USE": "memory", "XDG_STATE_HOME": str(tmp_path / "state")}
    return Command(tmp_path, environ | {"PYTHONIOENCODING": "utf-8"} | kept)


@pytest.fixture
def fits() -> Callable[[str, str], dict[str, object]]:
    """Reads one JSON object and holds it against a schema of the reference."""

    def check(text: str, name: str) -> dict[str, object]:
        schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text("utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
        data = json.loads(text)
        jsonschema.validate(data, schema, cls=jsonschema.Draft202012Validator)
        assert isinstance(data, dict)
        return data

    return check
