"""A project that is made of a page of the docs, and the command in it, with a store of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference" / "json"

_FILES = re.compile(r"`([\w./-]+\.(?:py|toml|yaml))`")
_BLOCK = re.compile(r"^```(python|toml|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class KeptProject:
    """The files that a page names, each with the next block of its kind.

    Args:
        folder: Where.
        page: The page's name below ``docs``.
    """

    def __init__(self, folder: Path, page: str) -> None:
        self.folder = folder
        dropped = ("TREADLE_", "OTEL_", "TRACEPARENT", "NO_COLOR", "COLUMNS")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.environ |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONIOENCODING": "utf-8"}
        self.text = (ROOT / "docs" / page).read_text("utf-8")
        names = list(dict.fromkeys(_FILES.findall(self.text)))
        kinds = {"python": ".py", "toml": ".toml", "yaml": ".yaml"}
        for kind, block in _BLOCK.findall(self.text):
            name = next(name for name in names if name.endswith(kinds[kind]))
            names.remove(name)
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block, "utf-8")

    def __call__(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "treadle._cli", *words],
            cwd=self.folder,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "treadle._cli", *words]
        return subprocess.Popen(command, cwd=self.folder, env=self.environ, stdout=pipe, stderr=pipe, text=True)

    def commands(self) -> list[list[str]]:
        """The commands of the page's terminal blocks, in order, without the comments."""
        blocks = re.findall(r"^```console\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)
        lines = [shlex.split(line.partition("  #")[0]) for block in blocks for line in block.splitlines()]
        return [words[2:] for words in lines if words[:2] == ["$", "treadle"]]


def fitting(text: str, name: str) -> dict[str, Any]:
    """One JSON object, held against a schema of the reference."""
    schema = json.loads((REFERENCE / f"{name}.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    data = json.loads(text)
    jsonschema.validate(data, schema, cls=jsonschema.Draft202012Validator)
    assert isinstance(data, dict)
    return data
