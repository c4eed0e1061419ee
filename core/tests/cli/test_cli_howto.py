"""The how-to page, followed to the letter."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "run-a-workflow.md"


class Treadle(Protocol):
    """The fixture: the command in a folder."""

    folder: Path

    def __call__(self, *words: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]: ...

    def write(self, name: str, text: str) -> str: ...


def test_the_page_runs_as_it_stands(treadle: Treadle, fits: Callable[[str, str], dict[str, object]]) -> None:
    """Its files, put where it says, make each of its commands succeed."""
    text = PAGE.read_text("utf-8")
    blocks = dict(re.findall(r"^```(python|toml|yaml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    treadle.write("executors/words.py", blocks["python"])
    treadle.write("treadle.toml", blocks["toml"])
    treadle.write("words.yaml", blocks["yaml"])
    treadle.write("title.txt", "Macbeth")
    treadle.write("inputs.json", '{"texts": ["one"]}')
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^\$ treadle (.*)$", text, re.MULTILINE)]

    done = {" ".join(words): treadle(*(words[: words.index(">")] if ">" in words else words)) for words in commands}

    assert len(done) == 8
    assert {one.returncode for one in done.values()} == {0}, [one.stderr for one in done.values()]
    assert done["check words.yaml"].stdout.strip() in text
    assert "counts = [2]" in done['run words.yaml -i title=Hamlet -i texts=["to be"]'].stdout
    assert "title = Macbeth" in done["run words.yaml -i title=@title.txt"].stdout
    assert "counts = [1]" in done["run words.yaml --inputs inputs.json -i title=Hamlet"].stdout
    result = fits(done["run words.yaml --json -q > result.json"].stdout, "run")
    assert json.dumps(result["outputs"]) == '{"title": "Words", "counts": [2, 4]}'
