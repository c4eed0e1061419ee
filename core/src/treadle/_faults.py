"""Points at which a test can end the process; nothing but two looks at what is empty unless somebody asks for more.

``TREADLE_FAULTS=after_commit:7`` kills the process (SIGKILL) when it passes the point ``after_commit`` for the seventh time.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

_plan = os.environ.get("TREADLE_FAULTS", "")
_passed: Counter[str] = Counter()
_listeners: list[Callable[[str], object]] = []


def fault_point(name: str) -> None:
    """Pass a point by name."""
    if _plan or _listeners:
        _pass(name)


def watch_fault_points(listener: Callable[[str], object]) -> Callable[[], None]:
    """Call a function with the name of each point that this process passes, in whatever thread, until the answer is called."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def _pass(name: str) -> None:
    for listener in tuple(_listeners):
        listener(name)
    _passed[name] += 1
    for fault in _plan.split(",") if _plan else ():
        where, _, count = fault.partition(":")
        if where == name and _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
