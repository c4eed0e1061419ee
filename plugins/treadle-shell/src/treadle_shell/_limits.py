"""What a command may use at most, as the shell's own ``ulimit`` sets it."""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from typing import TypedDict

from treadle.errors import PermanentError


class Limits(TypedDict, total=False):
    """What each process of a command may use at most.

    Attributes:
        memory_mb: Address space, in MiB.
        cpu_s: Processor time, in seconds.
        file_mb: Largest file that it writes, in MiB.
        open_files: Open files.
    """

    memory_mb: int
    cpu_s: int
    file_mb: int
    open_files: int


# Name -> option of ulimit, how many of its units one of ours is, the resource, and how many of its units that is.
_OPTIONS: Mapping[str, tuple[str, int, int, int]] = {
    "memory_mb": ("-v", 1024, resource.RLIMIT_AS, 1024 * 1024),
    "file_mb": ("-f", 2048, resource.RLIMIT_FSIZE, 1024 * 1024),
    "open_files": ("-n", 1, resource.RLIMIT_NOFILE, 1),
}


def preparation(umask: str, *limits: Limits) -> str:
    """A line of shell that sets umask and limits; of several limits the lowest counts, and none is raised.

    Raises:
        PermanentError: A value that cannot be meant.
    """
    if not re.fullmatch(r"0?[0-7]{3}", umask):
        raise PermanentError(f"umask {umask!r} is none.", 'Write three octal digits as text, like "077".')
    lowest: dict[str, int] = {}
    for each in limits:
        for name, value in each.items():
            assert isinstance(value, int), "checked by its type"
            if value <= 0:
                raise PermanentError(f"limits.{name} is {value}.", "Give a number over 0.")
            lowest[name] = min(value, lowest.get(name, value))
    commands = [f"umask {umask}", "ulimit -c 0"]
    for name, (option, units, which, size) in _OPTIONS.items():
        if name in lowest and not _is_stricter(which, lowest[name] * size):
            commands.append(f"ulimit {option} {lowest[name] * units}")
    if "cpu_s" in lowest and not _is_stricter(resource.RLIMIT_CPU, lowest["cpu_s"] + 1):
        # First a signal that tells what happened, a second later one that nobody can ignore.
        commands += [f"ulimit -S -t {lowest['cpu_s']}", f"ulimit -H -t {lowest['cpu_s'] + 1}"]
    return " && ".join(commands)


def _is_stricter(which: int, wanted: int) -> bool:
    """Whether treadle itself may use less, which its children then do too."""
    _, hard = resource.getrlimit(which)
    return hard != resource.RLIM_INFINITY and hard <= wanted
