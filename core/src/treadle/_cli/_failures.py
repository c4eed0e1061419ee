"""What a command says when it fails: the error's own text, never a traceback unless TREADLE_DEBUG=1, and the exit code."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import suppress

import attrs

from treadle._cli._ending import CANCELLED
from treadle._cli._output import clean, say, write_json
from treadle.errors import (
    Fault,
    OwnedElsewhereError,
    RunFailedError,
    RunSuspendedError,
    StoreUnavailableError,
    TreadleError,
)

FAILED, USAGE, OWNED, UNAVAILABLE = 1, 2, 4, 75


def report(error: BaseException, *, json_wanted: bool = False) -> int:
    """Show what went wrong, every part of it; answer the exit code.

    Args:
        error: What ended the command.
        json_wanted: Also print it as the one object on stdout (``error.schema.json``).
    """
    parts = list(leaves(error))
    if os.environ.get("TREADLE_DEBUG"):
        say(clean("".join(traceback.format_exception(error)).rstrip()))
    for part in parts:
        say(f"Error: {describe(part)}")
    if json_wanted:
        with suppress(OSError):  # stdout itself may be what is wrong
            write_json(error_object(parts))
    return max(exit_code(part) for part in parts)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group, and of the groups within it; an error alone."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


def exit_code(error: BaseException) -> int:
    """Which exit code an error means before or outside of a run."""
    if isinstance(error, StoreUnavailableError):
        return UNAVAILABLE
    if isinstance(error, OwnedElsewhereError):
        return OWNED
    if isinstance(error, KeyboardInterrupt | RunSuspendedError):
        return CANCELLED
    if isinstance(error, RunFailedError):
        return FAILED
    # An OSError without a file is not about what the user named: a full disk behind stdout, a lost terminal.
    return USAGE if isinstance(error, TreadleError) or (isinstance(error, OSError) and error.filename) else FAILED


def describe(error: BaseException) -> str:
    """An error for people: problem and remedy of ours; type, message and place of a surprise."""
    if isinstance(error, TreadleError):
        return clean("\n".join([str(error), *getattr(error, "__notes__", ())]))
    if isinstance(error, OSError) and error.strerror:
        return clean(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return clean(
        f"{type(error).__name__}: {_text(error)}{where}\n"
        "This is a fault in treadle or in a plugin, not in your file. TREADLE_DEBUG=1 shows the traceback; please report it."
    )


def error_object(errors: list[BaseException]) -> dict[str, object]:
    """The object that ``--json`` prints instead of a result."""
    faults = [fault for error in errors for fault in faults_of(error)]
    first = errors[0]
    return {
        "error": {
            "type": type(first).__name__,
            "message": first.problem.splitlines()[0] if isinstance(first, TreadleError) else describe(first),
            "remedy": first.remedy if isinstance(first, TreadleError) else "",
            "faults": [attrs.asdict(fault) for fault in faults],
        }
    }


def faults_of(error: BaseException) -> tuple[Fault, ...]:
    """The faults that an error lists; none for one that lists none."""
    faults = getattr(error, "faults", ())
    return tuple(fault for fault in faults if isinstance(fault, Fault))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # foreign code: __str__ itself may raise
        return "(its text cannot be shown)"
