"""What the tools hand to each other."""

from __future__ import annotations

from typing import TypedDict


class Link(TypedDict):
    """A relative link and the page that it stands on, both beneath the root."""

    page: str
    target: str
