"""A workflow from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from treadle._workflow import Workflow, is_parallel_group
from treadle._workflow._documents import FORMATS, MAX_BYTES, read_document
from treadle.errors import Fault, WorkflowInvalidError

SUFFIXES = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".toml": "toml"}
"""How files of workflows end -> their format."""


def load_workflow(source: str | os.PathLike[str]) -> Workflow:
    """Read a workflow from a file.

    Args:
        source: A path that ends in ``.yaml``, ``.yml``, ``.json`` or ``.toml``.

    Raises:
        WorkflowInvalidError: With every structural fault, each with file, line, column and path.
    """
    path = Path(source)
    file = str(path)
    format = SUFFIXES.get(path.suffix.lower())
    if format is None:
        raise WorkflowInvalidError(
            [Fault(f"the ending {path.suffix!r} is not known", "", "use .yaml, .yml, .json or .toml", file)]
        )
    return loads_workflow(_read_text(path, file), format, file=file)


def loads_workflow(text: str, format: str, *, file: str = "") -> Workflow:
    """Read a workflow from a text.

    Args:
        text: The whole text.
        format: ``yaml``, ``json`` or ``toml``.
        file: A name for the faults.

    Raises:
        WorkflowInvalidError: With every structural fault.
    """
    if format not in FORMATS:
        raise ValueError(f"format is one of {', '.join(FORMATS)}, not {format!r}")
    document = read_document(text.removeprefix("\ufeff"), format, file=file)
    if not document.is_readable:
        raise WorkflowInvalidError(document.faults)
    if is_parallel_group(document.data) and not document.faults:
        return Workflow.from_parallel_group(cast("Mapping[str, object]", document.data), file=file)
    return Workflow.from_dict(document.data, file=file, positions=document.positions, faults=document.faults)


def _read_text(path: Path, file: str) -> str:
    try:
        with path.open("rb") as stream:
            # One byte more than allowed shows that there is more, also for a device that never ends.
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WorkflowInvalidError([Fault(f"the file cannot be read: {reason}", file=file)]) from error
    if len(content) > MAX_BYTES:
        raise WorkflowInvalidError([Fault(f"the file is larger than {MAX_BYTES >> 20} MiB", file=file)])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        fault = Fault("the file is not UTF-8", "", "save it as UTF-8", file, line, column)
        raise WorkflowInvalidError([fault]) from None
