"""A stand-in for the client ``shell``, for tests of what runs commands."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
from treadle import client

from treadle_shell import Limits, ShellSettings

__all__ = ["FakeShell"]


@client("shell")
@attrs.define
class FakeShell:
    """The client ``shell`` with a new folder for its root each time, which goes when it is closed.

    Attributes:
        contents: Path -> text of what lies in the folder at first.
        limits: What each process of a command may use at most.
    """

    contents: Mapping[str, str] = attrs.field(factory=dict)
    limits: Limits = attrs.field(factory=Limits)

    @contextmanager
    def open(self) -> Iterator[ShellSettings]:
        """The settings."""
        with tempfile.TemporaryDirectory(prefix="fake-shell-") as root:
            for path, text in self.contents.items():
                file = Path(root, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, "utf-8")
            yield ShellSettings(root, self.limits)
