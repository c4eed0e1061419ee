"""What ``shell.run`` gives back, and how it fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from treadle.errors import PermanentError
from treadle.ports import Context
from treadle_shell import CommandFailedError, CommandNotFoundError, FolderNotFoundError, ShellSettings, run

pytestmark = pytest.mark.anyio

SHELL = ShellSettings("", {})


async def test_a_command_by_its_arguments_gives_output_and_exit_code(ctx: Context) -> None:
    """The argument list reaches the program unchanged: no shell splits, expands or quotes it."""
    result = await run(SHELL, ctx, argv=["printf", "%s|", "a b", "$HOME", "*", "; id"])

    assert (result.exit_code, result.stdout, result.stderr) == (0, "a b|$HOME|*|; id|", "")
    assert (result.truncated, result.stdout_bytes, result.stderr_bytes) == (False, 17, 0)
    assert result.duration_s > 0


async def test_a_script_runs_in_a_strict_shell(ctx: Context) -> None:
    """A script ends at its first failed command and at a misspelt variable."""
    with pytest.raises(CommandFailedError) as failed:
        await run(SHELL, ctx, script="echo before; false; echo after")
    with pytest.raises(CommandFailedError, match="misspelt"):
        await run(SHELL, ctx, script='echo "$misspelt"')

    assert failed.value.exit_code == 1
    assert str(failed.value).splitlines()[0] == "Command 'script' ended with exit code 1:"


@pytest.mark.parametrize(
    "hostile",
    [
        "; id",
        "$(id)",
        "`id`",
        "\nid\n",
        "' ; id ; '",
        '" ; id ; "',
        "${IFS}id",
        "--output=/etc/x",
        "&& id",
        "| id",
        "%0aid",
        "\u2013x",
    ],
)
async def test_data_never_becomes_code(ctx: Context, hostile: str) -> None:
    """A script's inputs arrive as environment variables only, so no value can add a command or an option."""
    result = await run(SHELL, ctx, script='printf "%s" "$value"; printf "[%s]" $#', inputs={"value": hostile})

    assert result.stdout == f"{hostile}[0]"


async def test_inputs_that_are_not_text_arrive_as_json(ctx: Context) -> None:
    """Numbers, booleans, null, lists and objects arrive as JSON text under the name as it is written."""
    inputs = {
        "Number": 3,
        "path": "p",
        "yes": True,
        "nothing": None,
        "list": ["ä", 1],
        "object": {"a": "b c"},
        "plain": "as it is",
    }

    result = await run(
        SHELL, ctx, script='printf "%s\\n" "$Number" "$yes" "$nothing" "$list" "$object" "$plain" "$path"', inputs=inputs
    )

    assert result.stdout.splitlines() == ["3", "true", "null", '["ä", 1]', '{"a": "b c"}', "as it is", "p"]


@pytest.mark.parametrize(
    "name", ["PATH", "LD_PRELOAD", "BASH_ENV", "IFS", "PYTHONPATH", "GIT_SSH_COMMAND", "ENV", "TREADLE_RUN_ID", "https_proxy"]
)
async def test_data_cannot_steer_programs_by_its_name(ctx: Context, name: str) -> None:
    """A mapping from an output that is handed over whole cannot set variables that change what runs."""
    with pytest.raises(PermanentError, match="steers programs"):
        await run(SHELL, ctx, script="true", inputs={name: "x"})


async def test_the_environment_is_short_and_says_which_call_it_is(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only listed names pass; the call's run, step, attempt, idempotency key and trace are added."""
    for name in ("LD_PRELOAD_X", "PYTHONPATH_X", "GIT_DIR", "AWS_SECRET_ACCESS_KEY", "BASH_ENV"):
        monkeypatch.setenv(name, "leak")
    monkeypatch.setenv("LC_TIME", "C")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")

    result = await run(SHELL, ctx, argv=["env"], env={"MINE": "1"}, pass_env=["SSH_AUTH_SOCK", "NOT_SET"])

    seen = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert "leak" not in seen.values()
    assert (seen["MINE"], seen["LC_TIME"], seen["SSH_AUTH_SOCK"], seen["PATH"]) == ("1", "C", "/tmp/agent", os.environ["PATH"])
    assert (seen["TREADLE_RUN_ID"], seen["TREADLE_STEP"], seen["TREADLE_ATTEMPT"]) == ("run-1", "build/compile", "2")
    assert (seen["TREADLE_INDEX"], seen["TREADLE_IDEMPOTENCY_KEY"]) == ("3", ctx.idempotency_key)
    assert seen["TRACEPARENT"] == ctx.traceparent != ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"script": "true", "env": {"a.b": "x"}}, "cannot be the name"),
        ({"script": "true", "inputs": {"1a": "x"}}, "cannot be the name"),
        ({"script": "true", "inputs": {"a": "\0"}}, "NUL"),
        ({"script": "true", "inputs": {"a": "\ud800"}}, "not valid text"),
        ({"script": "true", "inputs": {"a": "x" * 140_000}}, "more than an environment variable holds"),
        ({"argv": ["echo", "\0"]}, "NUL"),
        ({"argv": ["echo", "\ud800"]}, "not valid text"),
        ({"argv": ["cat"], "stdin": "\ud800"}, "not valid text"),
        ({"argv": ["echo", "x" * 140_000]}, "larger than the system takes"),
        ({"argv": ["true"], "inputs": {"a": 1}}, "'inputs' are for 'script'"),
        ({"argv": ["true"], "script": "true"}, "exactly one"),
        ({}, "exactly one"),
        ({"argv": []}, "names no program"),
        ({"argv": ["true"], "max_output": -1}, "max_output"),
    ],
)
async def test_what_no_process_can_be_given_is_refused(ctx: Context, given: dict[str, object], message: str) -> None:
    """What the system or the executor cannot take is a permanent error that says so, not a crash."""
    with pytest.raises(PermanentError, match=message) as refused:
        await run(SHELL, ctx, **given)  # type: ignore[arg-type] # a table of wrong calls

    assert refused.value.remedy


async def test_a_missing_program_or_folder_is_said_plainly(ctx: Context, tmp_path: Path) -> None:
    """What is not there is named with its remedy and is not retried."""
    script = tmp_path / "plain.sh"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(CommandNotFoundError, match="no program 'no-such-program' in PATH") as missing:
        await run(SHELL, ctx, argv=["no-such-program"])
    with pytest.raises(FolderNotFoundError, match="working directory"):
        await run(SHELL, ctx, argv=["true"], cwd=str(tmp_path / "nowhere"))
    with pytest.raises(CommandNotFoundError, match="is not executable"):
        await run(SHELL, ctx, argv=["./plain.sh"], cwd=str(tmp_path))
    with pytest.raises(CommandNotFoundError, match="does not exist"):
        await run(SHELL, ctx, argv=["./other.sh"], cwd=str(tmp_path))

    assert missing.value.retryable is False
    assert "'script'" in missing.value.remedy


async def test_a_program_beside_the_working_directory_is_found(ctx: Context, tmp_path: Path) -> None:
    """A relative path starts from ``cwd``, as it would in a shell."""
    program = tmp_path / "say.sh"
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)

    result = await run(SHELL, ctx, argv=["./say.sh"], cwd=str(tmp_path))

    assert result.stdout.strip() == str(tmp_path)


async def test_failure_names_the_exit_code_and_the_last_lines(ctx: Context) -> None:
    """The error shows how the command ended and the end of what it said; arguments, which may hold data, stay out."""
    script = "for i in $(seq 1 40); do echo line $i >&2; done; exit 7"
    with pytest.raises(CommandFailedError) as failed:
        await run(SHELL, ctx, argv=["sh", "-c", script, "private"])

    text = str(failed.value)
    assert text.startswith("Command 'sh' ended with exit code 7:\n  line 31\n")
    assert "line 40\nCorrect the command" in text
    assert "private" not in text
    assert getattr(failed.value, "retryable", None) is None


async def test_output_stands_in_when_standard_error_is_empty(ctx: Context) -> None:
    """Programs that complain on standard output are heard too."""
    with pytest.raises(CommandFailedError, match="complaint"):
        await run(SHELL, ctx, script="echo complaint; exit 1")


async def test_an_end_by_signal_says_which(ctx: Context) -> None:
    """A command that a signal ended names the signal; unchecked it gives the negative number."""
    with pytest.raises(CommandFailedError, match=r"ended by signal 11 \(SIGSEGV\)") as failed:
        await run(SHELL, ctx, script="kill -SEGV $$")
    unchecked = await run(SHELL, ctx, script="kill -KILL $$", check=False)

    assert (failed.value.exit_code, unchecked.exit_code) == (-11, -9)


async def test_unchecked_failure_is_a_result(ctx: Context) -> None:
    """``check: false`` hands the exit code over."""
    assert (await run(SHELL, ctx, script="exit 3", check=False)).exit_code == 3


async def test_standard_input_is_empty_unless_given(ctx: Context) -> None:
    """A command that reads never waits for a person; given text arrives whole, however large."""
    large = "ä" * 1_000_000

    assert (await run(SHELL, ctx, argv=["cat"])).stdout == ""
    assert (await run(SHELL, ctx, argv=["cat"], stdin="")).stdout == ""
    assert (await run(SHELL, ctx, argv=["wc", "-c"], stdin=large)).stdout.strip() == "2000000"
    assert (await run(SHELL, ctx, argv=["true"], stdin=large)).exit_code == 0


async def test_nothing_else_is_inherited(ctx: Context) -> None:
    """A command gets the three standard streams alone, in a session of its own and without a terminal."""
    result = await run(SHELL, ctx, argv=["ls", "/proc/self/fd"])
    session = await run(SHELL, ctx, argv=[sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"])

    assert result.stdout.split()[:3] == ["0", "1", "2"]
    assert len(result.stdout.split()) == 4  # the fourth is the folder that ls reads
    assert session.stdout == "True\n"


async def test_a_command_sees_no_child_that_it_did_not_start(ctx: Context) -> None:
    """Supervision adds no child to the command: waiting for any child finds none."""
    result = await run(
        SHELL, ctx, argv=[sys.executable, "-c", "import os\ntry: os.wait()\nexcept ChildProcessError: print('none')"]
    )

    assert result.stdout == "none\n"


async def test_output_over_the_cap_is_read_and_counted(ctx: Context) -> None:
    """The beginning is kept, cut between characters; the rest is read, so that the command ends by itself."""
    result = await run(SHELL, ctx, script="printf 'äöü'; head -c 5000000 /dev/zero | tr '\\0' x; echo err >&2", max_output=3)

    assert (result.stdout, result.truncated, result.stdout_bytes) == ("ä", True, 5_000_006)
    assert (result.stderr, result.stderr_bytes) == ("err", 4)


async def test_bytes_that_are_not_text_show_as_escapes(ctx: Context) -> None:
    """Output is always JSON-safe text."""
    assert (await run(SHELL, ctx, argv=["printf", r"a\377\000b"])).stdout == "a\\xff\0b"


async def test_json_output_is_parsed(ctx: Context) -> None:
    """``json: true`` gives the value; what is not JSON, or not whole, is an error that says so."""
    result = await run(SHELL, ctx, argv=["echo", '{"a": [1, 2]}'], json=True)

    assert result.json == {"a": [1, 2]}
    with pytest.raises(PermanentError, match="did not write JSON"):
        await run(SHELL, ctx, argv=["echo", "NaN"], json=True)
    with pytest.raises(PermanentError, match="too many to parse"):
        await run(SHELL, ctx, argv=["echo", "[1, 2, 3]"], json=True, max_output=4)
