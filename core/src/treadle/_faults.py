"""Points at which a test can end the process; nothing but a look at an empty text unless TREADLE_FAULTS is set.

``TREADLE_FAULTS=after_commit:7`` kills the process (SIGKILL) when it passes the point ``after_commit`` for the seventh time.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_plan = os.environ.get("TREADLE_FAULTS", "")
_passed: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Pass a point by name."""
    if _plan:
        _pass(name)


def _pass(name: str) -> None:
    _passed[name] += 1
    for fault in _plan.split(","):
        where, _, count = fault.partition(":")
        if where == name and _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
