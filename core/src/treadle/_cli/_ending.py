"""How the process ends: with its exit code, also when threads are stuck in code that did not stop when told to."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process now, whatever threads are left."""
    if not threads_left():
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


def threads_left() -> bool:
    """Whether threads would keep the interpreter from ending; those that are just ending get a moment."""
    here = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not here and not thread.daemon]
    for thread in others:
        thread.join(0.1 / len(others))
    return any(thread.is_alive() for thread in others)
