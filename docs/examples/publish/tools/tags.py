"""Find what a text is about."""

from __future__ import annotations

import re
from collections import Counter

_COMMON = frozenset(
    ["a", "an", "and", "are", "as", "by", "had", "in", "is", "it", "of", "on", "one", "or", "that", "the", "to", "was"]
)


def tags(text: str, most: int = 3) -> list[str]:
    """The words that occur most often, common ones aside; the longer ones first among equals."""
    counted = Counter(word for word in re.findall(r"[\w']+", text.lower()) if word not in _COMMON)
    return sorted(counted, key=lambda word: (-counted[word], -len(word), word))[:most]
