"""The spellings of a secret: how its value looks in base64, URLs, JSON, hexadecimal, and line by line."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

SHORTEST = 8
"""Characters that a spelling must have: a shorter one is part of innocent words."""


def spellings(value: str) -> set[str]:
    """Every text that stands for a secret: in quotes, URLs, hexadecimal and base64, and so for each of its lines.

    Those of fewer than 8 characters are left out: they would be found in innocent words.
    """
    lines = [line.strip() for line in value.splitlines()]
    texts = [text for text in {value, value.strip(), *lines} if len(text) >= SHORTEST]
    return {spelled for text in texts for spelled in _spelled(text) if len(spelled) >= SHORTEST}


def quoted(text: str) -> Iterator[str]:
    """A text as it is written in quotes of JSON and Python, and in URLs."""
    yield from _as_json(text)
    for url in (quote(text, safe=""), quote(text), quote_plus(text)):
        yield url
        yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), url)


def _spelled(text: str) -> Iterator[str]:
    yield text
    yield from quoted(text)
    data = text.encode("utf-8", "surrogatepass")
    yield data.hex()
    yield data.hex().upper()
    yield from _in_base64(data)


def _as_json(text: str) -> Iterator[str]:
    """As JSON and Python write it in quotes; also JSON within JSON."""
    for ascii_only in (True, False):
        once = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield once
        yield once.replace("/", "\\/")
        yield json.dumps(once)[1:-1]
    yield repr(text)[1:-1]


def _in_base64(data: bytes) -> Iterator[str]:
    """The part of the coded text that the value alone decides, for each of the three places that it may begin at."""
    for before in range(3):
        for encode in (b64encode, urlsafe_b64encode):
            coded = encode(bytes(before) + data).decode().rstrip("=")
            first = (before * 8 + 5) // 6  # the character before may hold bits of what stands before the value
            whole = (before + len(data)) * 8 // 6
            yield coded[first:whole]
