"""Find a title."""

from __future__ import annotations

import textwrap


def title(text: str, longest: int = 60) -> str:
    """The beginning of a text, cut between words."""
    return textwrap.shorten(text, longest, placeholder=" ...")
