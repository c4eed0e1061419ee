"""``treadle tools list`` and ``treadle tools test``: what authors of tools look at first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = '''
def count(text: str, least: int = 1) -> dict[str, object]:
    """Count words.

    Args:
        text: Where to count.
        least: Leave rarer ones out.

    Returns:
        The words with their counts.
    """
    words = {word: text.split().count(word) for word in text.split()}
    items = [word for word, times in words.items() if times >= least]
    return {"items": items, "count": len(items), "success": True}
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "treadle.toml").touch()
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/count.py").write_text(COUNT)
    return tmp_path / "tools"


def treadle(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "treadle._cli", *words], capture_output=True, text=True, timeout=300)


def test_tools_are_listed_without_running_them(folder: Path) -> None:
    """S2-04, S2-38: names and the first lines of docstrings; what cannot be read says so and spares the others."""
    (folder / "run_it.py").write_text("raise SystemExit\ndef run():\n    '''Run it.\n\n    Twice.'''")
    (folder / "broken.py").write_text("def broken(:")
    (folder / "mute.py").write_text("mute = 3")

    listed, as_json = treadle("tools", "list"), treadle("tools", "list", "--json")

    assert listed.stdout.splitlines() == [
        "tool.broken  cannot be read: invalid syntax (line 1)",
        "tool.count   Count words.",
        "tool.mute",
        "tool.run_it  Run it.",
    ]
    told = json.loads(as_json.stdout)
    assert told["folder"] == str(folder)
    assert {"name": "tool.count", "summary": "Count words."} in told["tools"]


def test_an_empty_folder_says_what_a_tool_is(folder: Path) -> None:
    """On standard error, so that a script sees no line."""
    (folder / "count.py").unlink()

    listed = treadle("tools", "list")

    assert (listed.returncode, listed.stdout) == (0, "")
    assert "Each NAME.py with a function NAME or run is one." in listed.stderr


def test_a_file_is_tested(folder: Path, tmp_path: Path) -> None:
    """S2-54: it is loaded, and says what it takes and gives; nothing runs unless asked, wherever the file lies."""
    elsewhere = tmp_path / "drafts"
    elsewhere.mkdir()
    (folder / "count.py").rename(elsewhere / "count.py")

    done = treadle("tools", "test", str(elsewhere / "count.py"))

    first, takes, gives = done.stdout.splitlines()
    assert first == "tool.count: Count words."
    schema = json.loads(takes.removeprefix("takes "))
    assert schema["required"] == ["text"]
    assert schema["properties"]["least"] == {"type": "integer", "default": 1, "description": "Leave rarer ones out."}
    assert json.loads(gives.removeprefix("gives "))["type"] == "object"


def test_a_file_is_run_with_inputs(folder: Path) -> None:
    """S2-05, S2-39, S2-54: ``-i`` gives inputs, JSON or text; the answer is printed."""
    done = treadle("tools", "test", str(folder / "count.py"), "-i", "text=a b a", "-i", "least=2")

    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.partition("gives ")[2].partition("\n")[2])
    assert answer == {"items": ["a"], "count": 1, "success": True}


@pytest.mark.parametrize(
    ("source", "words", "code", "said"),
    [
        ("def t(): raise ValueError('no')", ("--run",), 1, "ValueError: no"),
        ("import os\ndef t(): os._exit(3)", ("--run",), 1, "ended its process with exit code 3"),
        (
            "def t():\n    while True: pass",
            ("--run", "--timeout", "300ms"),
            1,
            "ToolTimeoutError: Tool execution exceeded 0.3s",
        ),
        (
            "class P(Exception): partial_results = [1, 2]\ndef t(): raise P('third')",
            ("--run",),
            1,
            "P: third\npartial results: 2 items",
        ),
        ("t = 3", (), 2, "Tool t has no callable function"),
        ("raise KeyError('x')", (), 2, "Tool t cannot be loaded: KeyError: 'x' (line 1)"),
        ("def t(a: int): ...", ("-i", "a=x"), 2, "steps.t.with.a: expected int, got str"),
        ("def t(): ...", ("-i", "a"), 2, "'a' is no input. Write -i NAME=VALUE."),
    ],
)
def test_what_is_wrong_is_said_with_an_exit_code(
    folder: Path, source: str, words: tuple[str, ...], code: int, said: str
) -> None:
    """S2-54, S2-63: 1 for a tool that failed, 2 for one that cannot be used; whatever it does to its process."""
    (folder / "t.py").write_text(source)

    done = treadle("tools", "test", str(folder / "t.py"), *words)

    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr


def test_the_catalogue_shows_a_tools_docstring(folder: Path) -> None:
    """S2-38: ``treadle plugins info`` shows Args and Returns, and the inputs that the signature declares."""
    done = treadle("plugins", "info", "tool.count")

    assert "least: Leave rarer ones out." in done.stdout
    assert "Returns:\n    The words with their counts." in done.stdout
    assert "input text: string (required)" in done.stdout
    assert "input least: integer = 1" in done.stdout
