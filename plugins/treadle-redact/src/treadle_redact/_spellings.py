"""One expression for all that is to be hidden."""

from __future__ import annotations

import re
from collections.abc import Iterable

from treadle.ports import spellings


def pattern_of(values: Iterable[str]) -> re.Pattern[str] | None:
    """Matches every spelling of every value, the longest first; None when there is nothing to look for."""
    found = sorted({spelled for value in values for spelled in spellings(value)}, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, found))) if found else None
