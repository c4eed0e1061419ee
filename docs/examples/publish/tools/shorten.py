"""Shorten a text."""

from __future__ import annotations

import re


def shorten(text: str, sentences: int) -> str:
    """The first sentences of a text."""
    return " ".join(re.split(r"(?<=[.!?])\s+", text)[:sentences])
