"""A stand-in for the client ``files``, for tests of executors that read and write files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
from treadle import client

from treadle_files import FileRoot, Files

__all__ = ["FakeFiles"]


@client("files")
@attrs.define
class FakeFiles:
    """The client ``files`` with a new folder for its root each time, which goes when it is closed.

    Attributes:
        contents: Path -> text of what lies in the folder at first.
    """

    contents: Mapping[str, str] = attrs.field(factory=lambda: {"README.md": "# A folder to try things in\n"})

    @contextmanager
    def open(self) -> Iterator[FileRoot]:
        """The folder, held open."""
        with tempfile.TemporaryDirectory(prefix="fake-files-") as root:
            for path, text in self.contents.items():
                file = Path(root, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, "utf-8")
            with Files(root=root).open() as opened:
                yield opened
            # The thread of a call that was cancelled may still write into the folder.
            opened.wait_until_unused(60.0)
