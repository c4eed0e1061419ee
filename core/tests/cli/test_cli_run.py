"""``treadle run``: the real command in a process of its own."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest

Fits = Callable[[str, str], dict[str, object]]

HELLO = """
name: hello
inputs:
  who: {type: string, default: world}
  times: {type: integer, default: 1}
  words: {type: array, default: []}
steps:
  say: {uses: demo.echo, with: {text: "hello ${{ inputs.who }}"}}
  shout: {uses: demo.upper, with: {text: "${{ steps.say.output }}"}}
outputs:
  text: ${{ steps.shout.output }}
  times: ${{ inputs.times }}
  words: ${{ inputs.words }}
"""
FAILS = """
name: fails
steps:
  first: {uses: demo.echo}
  bad: {uses: demo.fail, with: {message: "line one\\nline two"}, needs: [first]}
  after: {uses: demo.echo, needs: [bad]}
"""
PARTLY = """
name: partly
steps:
  bad: {uses: demo.fail, on_error: continue}
  good: {uses: demo.echo, with: {text: "${{ steps.bad.status }}"}}
"""
SLOW = """
name: slow
steps:
  wait: {uses: demo.sleep, with: {seconds: 60, started: started}}
  after: {uses: demo.echo, needs: [wait]}
finally:
  clean: {uses: demo.sleep, with: {seconds: 0, started: cleaned}}
"""


class Treadle(Protocol):
    """The fixture: the command in a folder."""

    folder: Path
    environ: Mapping[str, str]

    def __call__(self, *words: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]: ...

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]: ...

    def write(self, name: str, text: str) -> str: ...


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def hear(process: subprocess.Popen[str], words: str) -> str:
    """What a command says on stderr until these words have come; ``communicate`` has the rest."""
    assert process.stderr is not None
    heard = b""
    while words.encode() not in heard:
        assert select.select([process.stderr], [], [], 60)[0], heard
        chunk = os.read(process.stderr.fileno(), 65536)
        assert chunk, heard
        heard += chunk
    return heard.decode()


# -- exit codes and results ---------------------------------------------------------------------------------------------


def test_a_completed_run_prints_its_outputs_and_ids(treadle: Treadle) -> None:
    """Exit code 0; the result on stdout with status, outputs, run id and trace id; progress on stderr."""
    done = treadle("run", treadle.write("hello.yaml", HELLO))

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("✓ hello completed in ")
    assert lines[0].endswith("(2 steps)")
    assert "  output:  text = HELLO WORLD" in lines
    assert lines[-1].split()[0] == "run:"
    assert len(lines[-1].split()[-1]) == 32
    assert "say: completed" in done.stderr
    assert "cannot be resumed" not in done.stderr, "memory was asked for"


def test_a_run_that_nobody_keeps_says_so(treadle: Treadle) -> None:
    """Without a store that is asked for or installed, one line says that the run cannot be resumed and what to install."""
    environ = {"TREADLE_STORE__USE": "", "TREADLE_PLUGINS__BLOCK": '["treadle-sqlite"]'}
    done = treadle("run", treadle.write("hello.yaml", HELLO), **environ)

    assert done.returncode == 0, done.stderr
    assert "cannot be resumed" in done.stderr
    assert "pip install treadle-sqlite" in done.stderr


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [(HELLO, 0, "completed"), (FAILS, 1, "failed"), (PARTLY, 1, "partial_failure")],
    ids=["completed", "failed", "partial_failure"],
)
def test_json_is_one_object_that_fits_its_schema(treadle: Treadle, fits: Fits, text: str, code: int, status: str) -> None:
    """Whatever the end, ``--json`` prints one line that run.schema.json describes, and the exit code says the same."""
    done = treadle("run", treadle.write("w.yaml", text), "--json")

    result = fits(done.stdout, "run")
    assert (done.returncode, result["status"]) == (code, status)
    assert done.stdout.count("\n") == 1


def test_json_stays_pure_whatever_executors_print(treadle: Treadle, fits: Fits) -> None:
    """print, the real sys.stdout, the descriptor and child processes all end up on stderr."""
    done = treadle("run", treadle.write("w.yaml", "name: w\nsteps: {noisy: {uses: demo.print}}"), "--json")

    result = fits(done.stdout, "run")
    assert result["status"] == "completed"
    for line in ("printed", "written", "written to the real one", "written to the descriptor", "written by a child"):
        assert line in done.stderr.splitlines()


def test_without_json_what_executors_print_is_not_on_stdout_either(treadle: Treadle) -> None:
    """stdout holds the result and nothing else."""
    done = treadle("run", treadle.write("w.yaml", "name: w\nsteps: {noisy: {uses: demo.print}}"))

    assert "printed" in done.stderr
    assert "printed" not in done.stdout
    assert "written" not in done.stdout


def test_a_failure_names_the_root_cause_the_remedy_and_the_next_command(treadle: Treadle) -> None:
    """Exit code 1; step, first line of the error, remedy, and the command to type."""
    done = treadle("run", treadle.write("my flow.yaml", FAILS), "--max-parallel", "2")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("✗ fails failed in ")
    assert "  cause:   bad: PermanentError: line one" in lines
    assert "  remedy:  Try something else." in lines
    assert lines[-1] == "  next:    treadle run 'my flow.yaml' --max-parallel 2"
    assert "Traceback" not in done.stdout + done.stderr


def test_debug_shows_the_traceback_of_a_failed_step(treadle: Treadle) -> None:
    """TREADLE_DEBUG=1 adds the stack of user code."""
    file = treadle.write("w.yaml", "name: w\nsteps: {bad: {uses: demo.crash}}")
    plain, debug = treadle("run", file), treadle("run", file, TREADLE_DEBUG="1")

    assert plain.returncode == debug.returncode == 1
    assert "Traceback" not in plain.stderr
    assert "-- bad\n" in debug.stderr
    assert 'raise LookupError("an unexpected turn")' in debug.stderr


def test_quiet_shows_only_the_result(treadle: Treadle) -> None:
    """-q leaves stderr empty; with --json nothing but the object is printed at all."""
    file = treadle.write("hello.yaml", HELLO)

    plain, as_json = treadle("run", file, "-q"), treadle("run", file, "-q", "--json")

    assert (plain.stderr, as_json.stderr) == ("", "")
    assert plain.stdout.startswith("✓ hello completed")
    assert json.loads(as_json.stdout)["outputs"]["text"] == "HELLO WORLD"


def test_outputs_are_never_cut_in_a_pipe(treadle: Treadle) -> None:
    """A long output is whole where no terminal is."""
    text = "x" * 5_000
    done = treadle("run", treadle.write("hello.yaml", HELLO), "-i", f"who={text}")

    assert f"text = HELLO {text.upper()}" in done.stdout


def test_the_steps_of_a_run_on_trio_are_the_same(treadle: Treadle, fits: Fits) -> None:
    """TREADLE_BACKEND=trio runs on trio, with the same result; another name is refused with exit code 2."""
    file = treadle.write("hello.yaml", HELLO)

    done, wrong = treadle("run", file, "--json", TREADLE_BACKEND="trio"), treadle("run", file, TREADLE_BACKEND="curio")

    assert fits(done.stdout, "run")["outputs"] == {"text": "HELLO WORLD", "times": 1, "words": []}
    assert wrong.returncode == 2
    assert "Error: TREADLE_BACKEND is 'curio'." in wrong.stderr


# -- wrong usage --------------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_said_at_once(treadle: Treadle, fits: Fits) -> None:
    """A bad plan and bad inputs: exit code 2, all faults, no traceback, nothing started; as an object with --json."""
    broken = HELLO.replace("demo.upper", "demo.uper").replace("steps.say.output", "steps.sya.output")
    words = ["run", treadle.write("w.yaml", broken), "-i", "times=many", "-i", "whoo=me", "-i", "who"]

    done, as_json = treadle(*words), treadle(*words, "--json")

    assert done.returncode == as_json.returncode == 2
    assert done.stdout == ""
    for part in ("demo.uper", "did you mean", "sya", "'many' is not an integer", "whoo", "'who' is not key=value"):
        assert part.lower() in done.stderr.lower(), part
    assert "Traceback" not in done.stderr
    error = fits(as_json.stdout, "error")["error"]
    assert isinstance(error, dict)
    assert len(error["faults"]) >= 5


def test_a_structural_fault_has_its_place_in_the_file(treadle: Treadle) -> None:
    """file:line:column of a misspelt key, with a suggestion; exit code 2."""
    done = treadle("run", treadle.write("w.yaml", "name: w\nsteps:\n  a:\n    uses: demo.echo\n    wiht: {text: x}\n"))

    assert done.returncode == 2
    assert "w.yaml:5:5" in done.stderr
    assert "'with'" in done.stderr


@pytest.mark.parametrize(
    "words",
    [["run"], ["run", "missing.yaml"], ["run", "."], ["run", "w.yaml", "--nope"], ["run", "w.yaml", "--max-parallel", "0"]],
    ids=lambda words: " ".join(words),
)
def test_wrong_usage_is_exit_code_2(treadle: Treadle, words: list[str]) -> None:
    """click's own refusals, without a traceback."""
    treadle.write("w.yaml", HELLO)
    done = treadle(*words)

    assert done.returncode == 2
    assert "Error" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_configuration_is_said_with_its_place(treadle: Treadle) -> None:
    """treadle.toml with an unknown key: exit code 2 and the file."""
    treadle.write("treadle.toml", "[plugin]\nblock = []\n")
    done = treadle("run", treadle.write("w.yaml", HELLO))

    assert done.returncode == 2
    assert "treadle.toml" in done.stderr


def test_every_missing_secret_is_said_before_anything_starts(treadle: Treadle) -> None:
    """Exit code 2; each by name, with what to set."""
    flow = "name: w\nsecrets: [ONE, TWO]\nsteps: {a: {uses: demo.echo, with: {text: '${{ secrets.ONE }} ${{ secrets.TWO }}'}}}"
    done = treadle("run", treadle.write("w.yaml", flow))

    assert done.returncode == 2
    assert "Secret 'ONE' has no value" in done.stderr
    assert "Secret 'TWO' has no value" in done.stderr
    assert "started" not in done.stderr


def test_an_engine_that_cannot_be_had_is_refused(treadle: Treadle) -> None:
    """Asking for an engine that is not there ends before the run."""
    done = treadle("run", treadle.write("w.yaml", HELLO.replace("name: hello", "name: hello\nengine: temporal")))

    assert done.returncode == 2
    assert "temporal" in done.stderr


def test_a_store_that_cannot_be_had_is_refused(treadle: Treadle) -> None:
    """Asking for a store that is not there ends before the run; asking for memory silences the hint."""
    file = treadle.write("w.yaml", HELLO)

    other, memory = treadle("run", file, TREADLE_STORE__USE="stone"), treadle("run", file, TREADLE_STORE__USE="memory")

    assert other.returncode == 2
    assert "stone" in other.stderr
    assert memory.returncode == 0
    assert "cannot be resumed" not in memory.stderr


# -- inputs -------------------------------------------------------------------------------------------------------------


def test_inputs_take_the_declared_types(treadle: Treadle) -> None:
    """Text stays text even when it looks like JSON; a number and a list are read as JSON; @file reads, @@ is a literal @."""
    file = treadle.write("hello.yaml", HELLO)
    treadle.write("words.json", '["a", "b"]')

    done = treadle("run", file, "--json", "-i", "who=5", "-i", "times=3", "-i", "words=@words.json")
    literal = treadle("run", file, "--json", "-i", "who=@@me", "-i", 'words=["x"]')

    assert json.loads(done.stdout)["outputs"] == {"text": "HELLO 5", "times": 3, "words": ["a", "b"]}
    assert json.loads(literal.stdout)["outputs"] == {"text": "HELLO @ME", "times": 1, "words": ["x"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("inputs.json", '{"who": "file", "times": 2}'),
        ("inputs.yaml", "who: file\ntimes: 2\n"),
        ("inputs.toml", 'who = "file"\ntimes = 2\n'),
    ],
)
def test_inputs_come_from_a_file_and_single_ones_win(treadle: Treadle, name: str, text: str) -> None:
    """JSON, YAML and TOML alike; -i overrides what the file says."""
    done = treadle("run", treadle.write("hello.yaml", HELLO), "--json", "--inputs", treadle.write(name, text), "-i", "times=7")

    assert json.loads(done.stdout)["outputs"] == {"text": "HELLO FILE", "times": 7, "words": []}


def test_inputs_come_from_stdin(treadle: Treadle) -> None:
    """--inputs - reads JSON from stdin."""
    done = treadle("run", treadle.write("hello.yaml", HELLO), "--json", "--inputs", "-", stdin='{"who": "pipe"}')

    assert json.loads(done.stdout)["outputs"]["text"] == "HELLO PIPE"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-i", "times=1.5"], "must be integer"),
        (["-i", "words={"], '-i words=\'["a", "b"]\''),
        (["-i", "times=1", "-i", "times=2"], "given twice"),
        (["-i", "who=@missing.txt"], "missing.txt: No such file"),
        (["--inputs", "missing.json"], "No such file"),
        (["--inputs", "list.json"], "must hold an object"),
        (["--inputs", "broken.json"], "broken.json:1:"),
        (["--inputs", "w.ini"], "neither JSON, YAML nor TOML"),
        (["--inputs", "latin.json"], "is not UTF-8 (byte 8)"),
        (["-i", "times=NaN"], "'NaN' is not an integer"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_inputs_that_cannot_be_used_are_explained(treadle: Treadle, words: list[str], said: str) -> None:
    """Exit code 2, and what to write instead."""
    treadle.write("list.json", "[1]")
    treadle.write("broken.json", "{")
    (treadle.folder / "latin.json").write_bytes(b'{"who":"\xe9"}')

    done = treadle("run", treadle.write("hello.yaml", HELLO), *words)

    assert done.returncode == 2
    assert said in done.stderr


# -- progress -----------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_one_line_per_change_of_state(treadle: Treadle) -> None:
    """Start, failed attempt with number and wait, next attempt, end: a line each on stderr, without escape codes."""
    retry = "{max_attempts: 3, base: 10ms}"
    flow = f"name: w\nsteps: {{it: {{uses: demo.flaky, with: {{failures: 1}}, retry: {retry}}}}}"
    done = treadle("run", treadle.write("w.yaml", flow))

    said = [line.split(" ", 2)[2] for line in done.stderr.splitlines() if "it:" in line]
    assert done.returncode == 0, done.stderr
    assert said[0] == "it: started"
    assert said[1].startswith("it: attempt 1/3 failed: TransientError: attempt 1 did not work; next in 0.0")
    assert said[2] == "it: attempt 2/3 started"
    assert said[3].startswith("it: completed (")
    assert "\x1b" not in done.stderr + done.stdout


def test_json_logs_are_one_object_per_line(treadle: Treadle) -> None:
    """--log-format json: progress and log records alike are JSON lines with the ids of run, trace and step (S1-65)."""
    done = treadle(
        "run", treadle.write("w.yaml", "name: w\nsteps: {it: {uses: demo.progress}}"), "--log-format", "json", "--json"
    )

    result = json.loads(done.stdout)
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {"run_started", "attempt_started", "step_ended", "run_ended"} <= {line.get("event") for line in lines}
    counted = next(line for line in lines if line["message"] == "counted to 3")
    for line in (*lines[1:], counted):
        assert (line["run_id"], line["trace_id"]) == (result["run_id"], result["trace_id"])
    assert counted["step"] == "it"


def test_a_map_with_failures_says_which_items(treadle: Treadle) -> None:
    """Each failed item is a line, the step's end counts them, the run ends 1."""
    flow = """
name: w
steps:
  each: {uses: demo.odd, foreach: "${{ [1, 2, 3, 4] }}", with: {number: "${{ item }}"}, on_error: continue}
"""
    done = treadle("run", treadle.write("w.yaml", flow))

    assert done.returncode == 1
    assert "each[1]: failed: PermanentError: 2 is even" in done.stderr
    assert "each[3]: failed: PermanentError: 4 is even" in done.stderr
    assert "4/4 items, 2 failed" in done.stderr


def test_a_reader_that_leaves_does_not_fail_the_run(treadle: Treadle) -> None:
    """Closed stdout and stderr (``| head``) change nothing about how the run ends."""
    process = treadle.start("run", treadle.write("hello.yaml", HELLO))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()

    assert process.wait(60) == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_fail_the_run(treadle: Treadle, closed: str) -> None:
    """A parent that closed stdin, stdout or stderr gets the exit code all the same."""
    treadle.write("hello.yaml", HELLO)
    command = f"{shlex.join([sys.executable, '-m', 'treadle._cli', 'run', 'hello.yaml'])} {closed}"
    done = subprocess.run(command, shell=True, cwd=treadle.folder, env=treadle.environ, capture_output=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("options", ["", " --json"])
def test_a_result_that_cannot_be_written_is_an_error(treadle: Treadle, options: str) -> None:
    """A full disk behind stdout: exit code 1, one line, no traceback."""
    treadle.write("hello.yaml", HELLO)
    command = f"{shlex.join([sys.executable, '-m', 'treadle._cli', 'run', 'hello.yaml'])} -q{options} > /dev/full"
    done = subprocess.run(command, shell=True, cwd=treadle.folder, env=treadle.environ, capture_output=True, check=False)

    assert done.returncode == 1
    assert done.stderr == b"Error: No space left on device\n"


# -- signals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_one_signal_cancels_gracefully(treadle: Treadle, fits: Fits, number: signal.Signals, backend: str) -> None:
    """Running steps are told to stop, ``finally`` runs, the exit code is 3, and the object is printed."""
    process = treadle.start("run", treadle.write("w.yaml", SLOW), "--json", TREADLE_BACKEND=backend)
    until((treadle.folder / "started").exists)

    process.send_signal(number)
    out, err = process.communicate(timeout=100)

    result = fits(out, "run")
    assert (process.returncode, result["status"]) == (3, "cancelled")
    assert f"{number.name}: cancelling" in err
    assert (treadle.folder / "cleaned").exists()
    assert "Traceback" not in err


def test_two_signals_stop_at_once(treadle: Treadle, fits: Fits) -> None:
    """The second Ctrl-C does not wait for the ``finally`` steps: the process ends within seconds, still with its object."""
    flow = SLOW.replace("seconds: 0, started: cleaned", "seconds: 300, started: cleaning")
    process = treadle.start("run", treadle.write("w.yaml", flow), "--json")
    until((treadle.folder / "started").exists)

    process.send_signal(signal.SIGINT)
    until((treadle.folder / "cleaning").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)

    assert process.returncode == 3
    assert fits(out, "run")["status"] == "cancelled"
    assert "stopping at once" in err


def test_two_signals_end_even_a_blocked_event_loop(treadle: Treadle, fits: Fits) -> None:
    """An executor that blocks the loop cannot keep the process: exit code 3 and an error object within seconds."""
    flow = "name: w\nsteps: {deaf: {uses: demo.deaf, with: {seconds: 300, started: started}}}"
    process = treadle.start("run", treadle.write("w.yaml", flow), "--json")
    until((treadle.folder / "started").exists)

    process.send_signal(signal.SIGINT)
    hear(process, "SIGINT: cancelling")  # two signals of one kind at the same moment are one
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)

    assert process.returncode == 3
    error = fits(out, "error")["error"]
    assert isinstance(error, dict)
    assert error["type"] == "CallCancelledError"
    assert "left behind" in err


def test_a_thread_that_does_not_stop_does_not_keep_the_process(treadle: Treadle, fits: Fits) -> None:
    """A ``def`` executor past its deadline goes on in its thread; the run ends, is shown, and the process ends with it."""
    flow = "name: w\nsteps: {it: {uses: demo.stubborn, with: {seconds: 300}, timeout: 2s, retry: {max_attempts: 1}}}"
    done = treadle("run", treadle.write("w.yaml", flow), "--json")

    assert fits(done.stdout, "run")["status"] in ("failed", "timed_out")
    assert done.returncode == 1
    assert "did not stop when told to" in done.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_swallows_its_cancel_does_not_keep_the_process(treadle: Treadle, fits: Fits, backend: str) -> None:
    """An ``async def`` executor that cannot be cancelled: stopped at once, the run ends without it and is shown whole."""
    flow = "name: w\nsteps: {it: {uses: demo.undead, with: {seconds: 300, started: started}}}"
    process = treadle.start("run", treadle.write("w.yaml", flow), "--json", TREADLE_BACKEND=backend)
    until((treadle.folder / "started").exists)

    process.send_signal(signal.SIGINT)
    hear(process, "SIGINT: cancelling")  # two signals of one kind at the same moment are one
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)

    assert (process.returncode, fits(out, "run")["status"]) == (3, "cancelled")
    assert "it: did not stop when told to" in err


@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param("pathlib.Path('importing').touch()\ntime.sleep(300)\n", id="import"),
        # CPython ends a process by the signal, caught or not, when KeyboardInterrupt has left source text that was executed.
        pytest.param("exec('pathlib.Path(\"importing\").touch(); time.sleep(300)')\n", id="exec"),
    ],
)
def test_a_signal_before_the_run_is_a_cancel_too(treadle: Treadle, waiting: str) -> None:
    """Ctrl-C while plugins are still imported: exit code 3, no traceback."""
    (treadle.folder / "executors" / "slow.py").write_text(
        f"import pathlib, time\n{waiting}from treadle import executor\n@executor('slow.one')\ndef one() -> None:\n    pass\n",
        "utf-8",
    )
    process = treadle.start("run", treadle.write("w.yaml", "name: w\nsteps: {it: {uses: slow.one}}"))
    until((treadle.folder / "importing").exists)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)

    assert (process.returncode, err.splitlines()[-1]) == (3, "Cancelled.")  # a slow machine says what it imports
    assert "Traceback" not in err


def test_a_signal_between_the_checks_and_the_run_cancels_the_run(treadle: Treadle, fits: Fits) -> None:
    """At that moment there are handlers and no run: it is told once it is there, and nothing is raised in the event loop."""
    (treadle.folder / "executors" / "early.py").write_text(
        "import os, signal\n"
        "from treadle import executor\n"
        "from treadle._cli._signals import Interrupts\n"
        "enter = Interrupts.__enter__\n"
        "def early(self):\n"
        "    entered = enter(self)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return entered\n"
        "Interrupts.__enter__ = early\n"
        "@executor('early.one')\n"
        "def one() -> None:\n"
        "    pass\n",
        "utf-8",
    )
    done = treadle("run", treadle.write("w.yaml", "name: w\nsteps: {it: {uses: early.one}}"), "--json")

    result = fits(done.stdout, "run")
    assert (done.returncode, result["status"]) == (3, "cancelled")
    assert "SIGINT: the run is told once it is there." in done.stderr
    assert "SIGINT: cancelling" in done.stderr


# -- tracing ------------------------------------------------------------------------------------------------------------


def test_tracing_without_an_exporter_says_what_to_install(treadle: Treadle) -> None:
    """One line, and the run goes on; with --strict the run does not start. Nothing is said when nothing is asked for."""
    file = treadle.write("w.yaml", HELLO)
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "TREADLE_PLUGINS": "none"}

    warned, strict = treadle("run", file, **asked), treadle("run", file, "--strict", **asked)
    off = treadle("run", file, **asked, OTEL_TRACES_EXPORTER="none")
    disabled = treadle("run", file, **asked, OTEL_SDK_DISABLED="true")

    assert warned.returncode == 0
    assert "pip install treadle-otlp" in warned.stderr
    assert strict.returncode == 2
    assert "pip install treadle-otlp" in strict.stderr
    assert "treadle-otlp" not in off.stderr + disabled.stderr


EXPORTER = """
import os

class Pipeline:
    def shutdown(self, timeout_s):
        if os.environ.get("ACME") == "late":
            raise OSError("the line is dead")
        return f"3 spans were not delivered within {timeout_s:g} s"

def setup(*, service_name):
    if os.environ.get("ACME") == "broken":
        raise ValueError("no such endpoint")
    print(f"exporting as {service_name}")
    return Pipeline()
"""


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("well", "3 spans were not delivered within 2 s"),
        ("broken", "Tracing is off: ValueError: no such endpoint"),
        ("late", "Traces may be lost: OSError: the line is dead"),
    ],
)
def test_what_tracing_could_not_deliver_is_one_line(treadle: Treadle, state: str, said: str) -> None:
    """The exporter's set-up and its 2 s at the end; trouble with it is a line and never the end of the run."""
    info = treadle.folder / "site" / "acme_otlp-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-otlp\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[treadle.tracing]\notlp = acme_otlp:setup\n", "utf-8")
    (info / "RECORD").write_text("acme_otlp.py,,\n", "utf-8")
    (info.parent / "acme_otlp.py").write_text(EXPORTER, "utf-8")
    treadle.write("treadle.toml", '[plugins]\nfolder = "executors"\nprefer = {otlp = "acme-otlp"}\n')
    asked = {"OTEL_TRACES_EXPORTER": "otlp", "PYTHONPATH": str(info.parent), "ACME": state}
    done = treadle("run", treadle.write("w.yaml", HELLO), "--json", **asked)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    assert said in done.stderr.splitlines()
    assert ("exporting as treadle" in done.stderr) is (state != "broken")
