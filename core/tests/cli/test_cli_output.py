"""Text for people, one object for programs."""

from __future__ import annotations

import io
import json
import os

import pytest
from treadle._cli import _output
from treadle._cli._failures import describe, error_object, exit_code, leaves, report
from treadle.errors import (
    ConfigError,
    Fault,
    InputsInvalidError,
    RunFailedError,
    StoreUnavailableError,
    TreadleError,
    WorkflowInvalidError,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.00s"),
        (0.0, "0.00s"),
        (0.994, "0.99s"),
        (1.0, "1.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (65.4, "1m05s"),
        (3599.4, "59m59s"),
        (3600.0, "1h00m"),
        (7384.0, "2h03m"),
        (180_000.0, "50h00m"),
    ],
)
def test_durations_are_short_at_every_size(seconds: float, text: str) -> None:
    """Two or three figures, whatever the size."""
    assert _output.spell(seconds) == text


def test_a_status_is_a_word_and_a_symbol_that_the_stream_can_show() -> None:
    """A stream that knows no Unicode gets ASCII; no status goes without a mark."""
    ascii_stream = io.TextIOWrapper(io.BytesIO(), "ascii")

    assert _output.mark("completed", Terminal()) == "✓"
    assert _output.mark("completed", ascii_stream) == "+"
    assert _output.mark("never heard of", ascii_stream) == "."
    assert all(plain.isascii() for _, plain, _ in _output.MARKS.values())


def test_colours_need_a_terminal_and_its_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR, a dumb terminal and a pipe get none."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    assert _output.paint("done", "completed", Terminal()) == "\x1b[32mdone\x1b[0m"
    assert _output.paint("done", "completed", io.StringIO()) == "done"

    monkeypatch.setenv("TERM", "dumb")
    assert _output.paint("done", "completed", Terminal()) == "done"

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert _output.paint("done", "completed", Terminal()) == "done"


def test_a_closed_stream_is_no_terminal() -> None:
    """Asking a closed stream is not an error."""
    stream = io.StringIO()
    stream.close()

    assert not _output.is_terminal(stream)


def test_foreign_text_cannot_drive_the_terminal() -> None:
    """Control characters but tabs and line ends are written out."""
    assert _output.clean("a\x1b[31mb\tc\nd\x00\x9b") == "a\\x1b[31mb\tc\nd\\x00\\x9b"
    assert _output.first_line("\n  \n  first\x07 \nsecond") == "first\\x07"
    assert _output.first_line(" \n") == ""


def test_text_that_a_stream_cannot_encode_is_escaped() -> None:
    """Neither Unicode in an ASCII stream nor a lone surrogate of a file name ends the command."""
    for encoding in ("ascii", "utf-8"):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding)
        _output.write("✓ \udcff", stream)
        assert raw.getvalue().decode(encoding) in ("\\u2713 \\udcff\n", "✓ \\udcff\n")


def test_json_is_readable_for_people_and_one_line_for_programs() -> None:
    """A terminal gets it indented; anything else one line, valid even with a lone surrogate."""
    data = {"name": "é\udcff"}
    raw, terminal = io.BytesIO(), Terminal()
    piped = io.TextIOWrapper(raw, "utf-8")

    _output.write_json(data, piped)
    _output.write_json(data, terminal)

    assert raw.getvalue() == '{"name": "é\\udcff"}\n'.encode()
    assert json.loads(raw.getvalue()) == data
    assert terminal.getvalue() == '{\n  "name": "é\\udcff"\n}\n'


def test_a_table_cuts_nothing() -> None:
    """Columns grow with their cells; ends of lines carry no blanks."""
    text = _output.table(["a", "b"], [["x" * 90, "1"], ["y", "2\x1b"]])

    assert text.splitlines() == ["a" + " " * 91 + "b", "x" * 90 + "  1", "y" + " " * 91 + "2\\x1b"]


def test_a_reader_that_has_gone_is_no_error() -> None:
    """Writing to a closed pipe is silent, now and when the interpreter flushes at its end."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        _output.write("nobody reads this", stream)
        stream.write("nor this")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkflowInvalidError([Fault("wrong")]), 2),
        (ConfigError("wrong"), 2),
        (FileNotFoundError(2, "No such file", "x.yaml"), 2),
        (StoreUnavailableError("away"), 75),
        (RunFailedError("failed"), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyboardInterrupt(), 3),
        (ZeroDivisionError("ours"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """The table of exit codes, for what ends a command before there is a run."""
    assert exit_code(error) == code


def test_all_errors_of_a_group_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Several bad things at once are all listed, without a traceback; the gravest decides the exit code."""
    inner = ExceptionGroup("inner", [ConfigError("second", "mend it"), StoreUnavailableError("third")])

    code = report(ExceptionGroup("outer", [ConfigError("first"), inner]))

    shown = capsys.readouterr()
    assert shown.err == "Error: first\nError: second\nmend it\nError: third\n"
    assert shown.out == ""
    assert code == 75


def test_a_surprise_names_its_place_and_asks_for_a_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is nobody's message shows type, text and line; the traceback only with TREADLE_DEBUG."""
    monkeypatch.delenv("TREADLE_DEBUG", raising=False)
    try:
        raise LookupError("nothing there")
    except LookupError as error:
        surprise = error

    assert report(surprise) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Error: LookupError: nothing there (")
    assert "please report it" in shown
    assert "Traceback" not in shown

    monkeypatch.setenv("TREADLE_DEBUG", "1")
    report(surprise)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_errors_whose_text_cannot_be_had_are_shown_too() -> None:
    """A foreign exception whose __str__ raises still has a type."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    assert describe(Mute()).startswith("Mute: (its text cannot be shown)")


def test_notes_of_an_error_are_shown() -> None:
    """What was added to an error on its way up is part of its text."""
    error = TreadleError("wrong", "mend it")
    error.add_note("seen while planning")

    assert describe(error) == "wrong\nmend it\nseen while planning"


def test_the_error_object_holds_every_fault() -> None:
    """Faults of all errors are in one list, each with its place; the first error gives type and message."""
    errors = list(
        leaves(
            ExceptionGroup(
                "both",
                [
                    WorkflowInvalidError([Fault("bad key", "steps.a", "did you mean 'b'?", "x.yaml", 3, 5)]),
                    InputsInvalidError("workflow x", [Fault("not a number", "n")]),
                ],
            )
        )
    )

    made = error_object(errors)["error"]

    assert isinstance(made, dict)
    assert made["type"] == "WorkflowInvalidError"
    assert made["message"] == "The workflow file has 1 fault:"
    assert [(fault["path"], fault["line"]) for fault in made["faults"]] == [("steps.a", 3), ("n", 0)]
