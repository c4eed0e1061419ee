"""What a person sees: the command on a terminal."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import pytest

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Treadle(Protocol):
    """The fixture: the command in a folder."""

    folder: Path
    environ: Mapping[str, str]

    def write(self, name: str, text: str) -> str: ...


FLOW = """
name: live
steps:
  flaky: {uses: demo.flaky, with: {failures: 1, seconds: 0.4}, retry: {max_attempts: 3, base: 800ms}}
  each: {uses: demo.sleep, foreach: "${{ [0.1, 0.2, 0.3, 0.4] }}", max_parallel: 2, with: {seconds: "${{ item }}"}}
  count: {uses: demo.progress, with: {steps: 4}}
  bad: {uses: demo.fail, needs: [flaky], with: {message: "no luck [bold]today[/bold]"}}
"""


LIVE = """
name: live
steps:
  flaky: {uses: demo.gate, with: {file: flaky, failures: 1}, retry: {max_attempts: 3, base: 3s, jitter: 0}}
  each: {uses: demo.gate, foreach: "${{ [1, 2, 3, 4] }}", max_parallel: 2, with: {file: "item${{ item }}"}}
  count: {uses: demo.gate, with: {file: counted, steps: 4}}
  bad: {uses: demo.fail, needs: [flaky], with: {message: "no luck [bold]today[/bold]"}}
"""
"""Each step stays as it is until the test has seen it."""


class Screen:
    """A terminal of 100 columns and 30 lines that keeps everything that was written to it."""

    def __init__(self, treadle: Treadle, *words: str, **environ: str) -> None:
        self.main, other = pty.openpty()
        self.folder = treadle.folder
        size = {"COLUMNS": "100", "LINES": "30", "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "treadle._cli", *words],
            cwd=treadle.folder,
            env={**treadle.environ, **size, **environ},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.raw = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may come in two parts

    @property
    def text(self) -> str:
        """Everything so far, without colours and movements."""
        return ESCAPES.sub("", self.raw)

    def read(self, is_enough: Callable[[], object] = lambda: False) -> bool:
        """Read until it is enough; False when the process ended, or a minute was over, before."""
        deadline = time.monotonic() + 60.0
        while not is_enough():
            if time.monotonic() > deadline:
                return False
            if not select.select([self.main], [], [], 0.1)[0]:
                continue
            try:
                chunk = os.read(self.main, 65536)
            except OSError:  # the other side is closed
                return False
            if not chunk:
                return False
            self.raw += self._decoder.decode(chunk)
        return True

    def shows(self, *patterns: str) -> None:
        """Wait until each of these was shown."""
        assert self.read(lambda: all(re.search(pattern, self.text) for pattern in patterns)), self.text

    def open(self, *files: str) -> None:
        """Let steps go on that wait for these files."""
        for file in files:
            (self.folder / file).touch()

    def close(self) -> int:
        """Wait for the end; answers the exit code."""
        self.read()
        code = self.process.wait(60)
        os.close(self.main)
        return code


def test_a_terminal_shows_active_steps_live_and_keeps_the_finished_ones(treadle: Treadle) -> None:
    """Retries with attempt and countdown, maps with their counts, progress, a footer; then the summary; the cursor is back."""
    screen = Screen(treadle, "run", treadle.write("w.yaml", LIVE))
    screen.shows(r"attempt 1/3 failed, next in [0-3]\.\d+s: TransientError: attempt 1 did not work", r"4/4, counting")
    screen.open("counted", "item1")
    screen.shows(r"━+─+ 1/4 items, 2 active", r"1/4 steps over, \d running, \d+\.\d+s")
    screen.open("item2", "item3", "item4")
    screen.shows("attempt 2/3")
    screen.open("flaky")
    code = screen.close()

    text = screen.text
    assert code == 1, text
    assert re.search(r"✓ flaky: completed \(.*2 attempts\)", text)
    assert "✗ bad: failed" in text
    assert "no luck [bold]today[/bold]" in text
    assert "✗ live failed in" in text
    assert screen.raw.rindex("\x1b[?25h") > screen.raw.rindex("\x1b[?25l")


def test_more_active_steps_than_lines_are_counted(treadle: Treadle) -> None:
    """Sixty steps at once on thirty lines: the first ones, how many more there are, and the footer is never pushed away."""
    steps = "\n".join(f"  s{number}: {{uses: demo.gate, with: {{file: go}}}}" for number in range(60))
    screen = Screen(treadle, "run", treadle.write("w.yaml", f"name: many\nmax_parallel: 60\nsteps:\n{steps}\n"))
    screen.shows("and 34 more", "0/60 steps over, 60 running")
    screen.open("go")
    screen.close()

    assert "60 steps)" in screen.text


def test_no_progress_and_dumb_terminals_get_plain_lines(treadle: Treadle) -> None:
    """--no-progress and TERM=dumb: no cursor movement, the same lines as in a pipe."""
    file = treadle.write("w.yaml", FLOW)
    plain, dumb = Screen(treadle, "run", file, "--no-progress"), Screen(treadle, "run", file, TERM="dumb")
    plain.close()
    dumb.close()

    for screen in (plain, dumb):
        assert "flaky: started" in screen.raw
        assert "\x1b[?25l" not in screen.raw
        assert "\x1b[1A" not in screen.raw
    assert "\x1b[3" in plain.raw
    assert "\x1b" not in dumb.raw


def test_no_color_is_honoured(treadle: Treadle) -> None:
    """NO_COLOR: the live display moves the cursor, but colours nothing; statuses are words all the same."""
    screen = Screen(treadle, "run", treadle.write("w.yaml", FLOW), NO_COLOR="1")
    screen.close()

    colours = {code for code in re.findall(r"\x1b\[([0-9;]*)m", screen.raw) if re.search(r"(^|;)(3[0-7]|38|9[0-7])(;|$)", code)}
    assert not colours
    assert "bad: failed" in screen.raw


def test_ctrl_c_on_a_terminal_cancels_and_puts_the_cursor_back(treadle: Treadle) -> None:
    """The key itself, typed: a message, a summary, exit code 3."""
    flow = "name: w\nsteps: {wait: {uses: demo.sleep, with: {seconds: 60, started: started}}}"
    screen = Screen(treadle, "run", treadle.write("w.yaml", flow))
    assert screen.read((treadle.folder / "started").exists), screen.text
    os.killpg(screen.process.pid, signal.SIGINT)
    code = screen.close()

    text = screen.text
    assert code == 3
    assert "SIGINT: cancelling" in text
    assert "■ w cancelled" in text
    assert "next:    treadle run w.yaml" in text
    assert screen.raw.rindex("\x1b[?25h") > screen.raw.rindex("\x1b[?25l")


def test_long_outputs_are_short_on_a_terminal(treadle: Treadle) -> None:
    """Two hundred characters, and how to get the rest."""
    flow = "name: w\nsteps: {it: {uses: demo.echo, with: {text: TEXT}}}\noutputs: {t: '${{ steps.it.output }}'}"
    flow = flow.replace("TEXT", "x" * 500)
    screen = Screen(treadle, "run", treadle.write("w.yaml", flow), "-q")
    screen.close()

    assert "... (500 characters; --json shows all)" in screen.raw
    assert "x" * 201 not in screen.raw.replace("\r\n", "")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"]])
def test_help_fits_a_terminal(treadle: Treadle, words: list[str]) -> None:
    """No line of the help is longer than the terminal is wide."""
    screen = Screen(treadle, *words)

    assert screen.close() == 0
    assert max(len(line) for line in screen.raw.splitlines()) <= 100
