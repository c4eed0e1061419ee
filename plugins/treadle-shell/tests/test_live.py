"""What a command writes is seen while it runs: in the log, bounded and clean, and as its progress."""

from __future__ import annotations

import time
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle.ports import SecretReference
from treadle_shell import ShellSettings, _live, run

pytestmark = pytest.mark.anyio

SHELL = ShellSettings("", {})


@pytest.fixture
def told(ctx: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """What was shown as progress."""
    told: list[tuple[float, str]] = []
    monkeypatch.setattr(type(ctx), "progress", lambda self, done, total=None, message="": told.append((done, message)))
    return told


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.stream, record.getMessage()) for record in caplog.records if hasattr(record, "stream")]


async def test_lines_are_logged_as_they_are_written(
    ctx: Any, told: list[tuple[float, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """Each line stands in the step's log with its stream, and the last one in its progress, before the command has ended."""
    caplog.set_level("INFO")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: run(SHELL, ctx, script="echo one; echo two >&2; sleep 300; echo three"))
        with anyio.fail_after(60):
            while len(logged(caplog)) < 2:  # noqa: ASYNC110 -- another process writes it
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()

    assert sorted(logged(caplog)) == [("stderr", "two"), ("stdout", "one")]
    assert told[0][1] in ("one", "two")


async def test_the_last_line_is_the_progress(ctx: Any, told: list[tuple[float, str]]) -> None:
    """Progress counts lines; it is shown at most ten times a second, and at the end."""
    began = time.monotonic()
    await run(SHELL, ctx, script="i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i + 1)); done; printf 'no break'")

    assert told[-1] == (5001, "no break")
    assert len(told) <= (time.monotonic() - began) * 10 + 3


async def test_a_flood_is_not_logged(ctx: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The first thousand lines are logged, then a line says so; a line without end is cut."""
    caplog.set_level("INFO")
    await run(SHELL, ctx, script="seq 1 5000; head -c 1000000 /dev/zero | tr '\\0' x >&2")
    lines = logged(caplog)

    assert len(lines) == _live.MAX_LINES + 1
    assert lines[-1] == ("treadle", "(more than 1,000 lines; the rest is not logged)")
    assert max(len(line) for _, line in lines) <= _live.MAX_LINE


async def test_quiet_is_quiet(ctx: Any, told: list[tuple[float, str]], caplog: pytest.LogCaptureFixture) -> None:
    """With ``quiet`` nothing is logged or shown; the result has it."""
    caplog.set_level("INFO")
    result = await run(SHELL, ctx, argv=["echo", "private"], quiet=True)

    assert (result.stdout, logged(caplog), told) == ("private\n", [], [])


async def test_lines_cannot_play_with_a_terminal(ctx: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Colours and other control characters are left out, and a carriage return begins a line of its own."""
    caplog.set_level("INFO")
    await run(SHELL, ctx, argv=["printf", r"\033[31mred\033[0m\a\b\n10%%\r20%%\rWARNING fake\r\nbytes \377\n"])

    assert [line for _, line in logged(caplog)] == ["red", "10%", "20%", "WARNING fake", "bytes \\xff"]


async def test_secrets_of_the_step_are_hidden(
    ctx: Any, told: list[tuple[float, str]], caplog: pytest.LogCaptureFixture
) -> None:
    """What came as a secret, alone or within a text, is neither logged nor shown, each line of it."""
    caplog.set_level("INFO")
    references = (
        SecretReference(("env", "TOKEN"), (("secret", "TOKEN"),)),
        SecretReference(("argv", 3), (("text", "key="), ("secret", "KEY"), ("text", "!"))),
        SecretReference(("stdin",), (("secret", "PEM"),)),
    )
    ctx.call = attrs.evolve(ctx.call, secrets=references)
    await run(
        SHELL,
        ctx,
        argv=["sh", "-c", 'echo "$TOKEN $0"; cat', "key=k3y-value!"],
        env={"TOKEN": "t0ken-value"},
        stdin="first-secret\nsecond-secret\n",
    )

    assert [line for _, line in logged(caplog)] == ["*** key=***!", "***", "***"]
    assert not any("value" in message or "second" in message for _, message in told)


def test_where_secrets_are_is_told_from_their_surroundings() -> None:
    """Several in one text, one in a nested value, and one whose place is not there."""
    references = (
        SecretReference(("script",), (("text", "a "), ("secret", "A"), ("text", " b "), ("secret", "B"))),
        SecretReference(("inputs", "list", 1, "x"), (("secret", "C"),)),
        SecretReference(("inputs", "none"), (("secret", "D"),)),
        SecretReference(("stdin", "x"), (("secret", "E"),)),
        SecretReference(("env", "SHORT"), (("secret", "F"),)),
    )
    inputs = {
        "script": "a first b second!",
        "inputs": {"list": [0, {"x": "third"}]},
        "stdin": "text",
        "env": {"SHORT": "abc"},
    }

    assert _live.secret_texts(references, inputs) == ["second!", "first", "third"]


@given(chunks=st.lists(st.binary(max_size=6).map(lambda chunk: chunk.replace(b"\xff", b"\r\n")), max_size=12))
def test_lines_do_not_depend_on_how_they_arrive(chunks: list[bytes]) -> None:
    """However a stream is cut into pieces, its lines are the same."""

    def lines(pieces: list[bytes]) -> list[bytes]:
        seen: list[bytes] = []
        live = type("Live", (), {"is_flooded": False, "take": lambda self, name, line: seen.append(line)})()
        stream = _live.LineStream(live, "stdout")
        for piece in [*pieces, b""]:
            stream.feed(piece)
        return seen

    pieces = [chunk for chunk in chunks if chunk]
    assert lines(pieces) == lines([b"".join(pieces)] if pieces else [])
