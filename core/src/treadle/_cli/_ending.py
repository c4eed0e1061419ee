"""How the process begins and ends: with all its streams, and with its exit code also when threads are stuck."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

CANCELLED = 3
"""The exit code of what was interrupted."""


def open_closed_streams() -> None:
    """Put nothing in the place of a standard stream that the parent closed, before a file of somebody gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open as long as the process lives


_EXPORTING = ("treadle-spans", "treadle-tracing-close", "treadle-otlp-", "OtelPeriodicExportingMetricReader")
"""How threads are called that may wait for a collector: nobody waits for them, but they make the interpreter's end slow."""


def leave(code: int) -> NoReturn:
    """End the process now, whatever threads are left.

    One that was interrupted not by ``sys.exit``: once KeyboardInterrupt has left an ``exec`` of source text, CPython ends the
    process by SIGINT whatever exit code it is given, also when the exception was caught.
    """
    if code != CANCELLED and not threads_left() and not exports_left():
        sys.exit(code)
    leave_at_once(code)


def leave_at_once(code: int) -> NoReturn:
    """End the process without waiting for anything but what was written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader has gone, or it is closed: nothing can be said any more
            continue
    os._exit(code)


def exports_left() -> bool:
    """Whether somebody still waits for a collector that does not answer; what was not delivered has been said."""
    return any(map(is_export, threading.enumerate()))


def is_export(thread: threading.Thread) -> bool:
    """Whether a thread sends spans or metrics, by its name."""
    return thread.name.startswith(_EXPORTING)


def threads_left() -> bool:
    """Whether threads would keep the interpreter from ending; those that are just ending get a moment."""
    here = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not here and not thread.daemon]
    for thread in others:
        thread.join(0.1 / len(others))
    return any(thread.is_alive() for thread in others)
