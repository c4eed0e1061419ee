"""Pack a folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import TypedDict


class Packed(TypedDict):
    """What was packed."""

    archive: str
    files: int
    sha256: str


def pack(folder: str, archive: str) -> Packed:
    """Write the files of a folder to an archive, the same bytes for the same files."""
    root, target = Path(folder), Path(archive)
    files = [file for file in sorted(root.rglob("*")) if file.is_file() and not {"report", "__pycache__"} & set(file.parts)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            entry = tarfile.TarInfo(file.relative_to(root).as_posix())
            content = file.read_bytes()
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))
    return {"archive": archive, "files": len(files), "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
