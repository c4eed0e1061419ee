"""What a child process may use: read from ``[limits.process]`` and from a step's ``isolation``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import cast

import attrs

from treadle._durations import parse_duration
from treadle._models import Json
from treadle.errors import Fault

KIB, MIB, GIB = 1024, 1024**2, 1024**3


@attrs.frozen
class ProcessLimits:
    """What one child process may use; None: as much as there is.

    Attributes:
        memory_bytes: Address space.
        cpu_s: Processor time of one call.
        open_files: File descriptors.
        file_bytes: Size of a file that it writes.
        processes: Processes that it may have started at one time.
        output_bytes: What one call may write to standard output and error.
        pass_env: Environment variables that it gets, besides those that every child gets.
    """

    memory_bytes: int | None = 4 * GIB
    cpu_s: float | None = None
    open_files: int | None = 1024
    file_bytes: int | None = None
    processes: int | None = 64
    output_bytes: int | None = 64 * MIB
    pass_env: tuple[str, ...] = ()


class LimitsInvalidError(ValueError):
    """Limits that cannot be meant; ``faults`` has a key as path each."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        super().__init__("; ".join(map(str, faults)))


def read_limits(data: Mapping[str, Json], base: ProcessLimits, *, takes_env: bool = False) -> ProcessLimits:
    """``base`` with what ``data`` says: ``memory cpu open_files file_size processes output`` and, if asked, ``pass_env``.

    Raises:
        LimitsInvalidError: With all faults.
    """
    faults: list[Fault] = []
    changes: dict[str, object] = {}
    known = [name for name in _READERS if takes_env or name != "pass_env"]
    for key, value in data.items():
        if key not in known:
            faults.append(Fault(f"limits have no key {key!r}", str(key), f"known: {', '.join(known)}"))
            continue
        field, read, wanted = _READERS[key]
        try:
            changes[field] = None if value == "unlimited" and key != "pass_env" else read(value)
        except ValueError:
            faults.append(Fault(f"expected {wanted}, not {_shown(value)}", key))
    if faults:
        raise LimitsInvalidError(faults)
    return attrs.evolve(base, **changes)  # type: ignore[arg-type]  # each reader answered the type of its own field


def size_text(size: int) -> str:
    """A size for people: ``512 MiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|[kKMG]B|[kKMG]iB)?")
_UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": KIB, "MIB": MIB, "GIB": GIB}


def _size(value: Json) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) and len(value) < 40 else None
    size = int(float(match[1]) * _UNITS[(match[2] or "B").upper()]) if match else 0
    if not 0 < size < 2**62:
        raise ValueError
    return size


def _count(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ValueError
    return value


def _seconds(value: Json) -> float:
    seconds = parse_duration(cast("str | int | float", value))
    if seconds <= 0:
        raise ValueError
    return seconds


def _names(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise ValueError
    return tuple(value)


_A_SIZE = "a size like '512 MiB', or 'unlimited'"
_A_COUNT = "a whole number, or 'unlimited'"
_READERS: Mapping[str, tuple[str, Callable[[Json], object], str]] = {
    "memory": ("memory_bytes", _size, _A_SIZE),
    "cpu": ("cpu_s", _seconds, "a duration like '30s', or 'unlimited'"),
    "open_files": ("open_files", _count, _A_COUNT),
    "file_size": ("file_bytes", _size, _A_SIZE),
    "processes": ("processes", _count, _A_COUNT),
    "output": ("output_bytes", _size, _A_SIZE),
    "pass_env": ("pass_env", _names, "a list of names of environment variables"),
}
"""Key -> the field that it sets, what reads it, and what it takes."""


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."
