"""What a docstring in Google style says: its summary, and a text for each name."""

from __future__ import annotations

import re

_SECTION = re.compile(r"(Args|Arguments|Attributes|Parameters|Inputs):")
_ENTRY = re.compile(r"\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s+(.*)")


def summary(doc: str | None) -> str:
    """The first paragraph, in one line."""
    return " ".join((doc or "").strip().split("\n\n")[0].split())


def described_names(doc: str | None) -> dict[str, str]:
    """What the sections ``Args:`` and ``Attributes:`` say of each name."""
    found: dict[str, str] = {}
    margin, current = -1, ""  # margin of the section's title; -1 outside of one
    for line in (doc or "").expandtabs().splitlines():
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if _SECTION.fullmatch(text):
            margin, current = indent, ""
        elif text and indent <= margin:
            margin = -1
        elif text and margin >= 0:
            if entry := _ENTRY.fullmatch(text):
                current = entry[1]
                found[current] = entry[2]
            elif current:
                found[current] += f" {text}"
    return found
