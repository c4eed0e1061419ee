"""Values as bytes: JSON, compressed when it is long, apart from its row when it is very long."""

from __future__ import annotations

import gzip
import json

import attrs
from treadle.errors import StoreUnavailableError

PLAIN, PACKED, APART_PLAIN, APART_PACKED = range(4)

PACK_OVER = 10 * 1024
"""Longer values are compressed."""

APART_OVER = 100 * 1024
"""What is longer after that is kept in a table of its own, so that lists and indexes stay small."""

MOST = 256 * 1024 * 1024
"""Longest value, compressed."""


@attrs.frozen
class Payload:
    """A value as it is kept.

    Attributes:
        encoding: PLAIN to APART_PACKED.
        body: What stands in the row; empty when it is kept apart.
        apart: What is kept apart; empty when it is in the row.
        size: Bytes before compression.
    """

    encoding: int
    body: bytes
    apart: bytes
    size: int


def pack(text: str, what: str, *, may_be_apart: bool = True, most: int = MOST) -> Payload:
    """Encode a value.

    Args:
        text: JSON.
        what: Names it in an error.
        may_be_apart: Whether there is a table for what is very long.
        most: Longest, compressed.

    Raises:
        StoreUnavailableError: It is too long to be kept.
    """
    body = text.encode()
    size = len(body)
    is_packed = size > PACK_OVER
    if is_packed:
        body = gzip.compress(body, 1, mtime=0)
    if len(body) > most:
        raise StoreUnavailableError(
            f"{what} is too large to be kept: {len(body):,} bytes compressed ({size:,} before); {most:,} is the limit.",
            "Write large data to a file or an object store, and let the step answer where it is.",
        )
    if may_be_apart and len(body) > APART_OVER:
        return Payload(APART_PACKED if is_packed else APART_PLAIN, b"", body, size)
    return Payload(PACKED if is_packed else PLAIN, body, b"", size)


def unpack(encoding: int, body: bytes) -> str:
    """The JSON that ``pack`` was given."""
    return (gzip.decompress(body) if encoding in (PACKED, APART_PACKED) else body).decode()


def dump(value: object) -> str:
    """A value as compact JSON; a lone surrogate is escaped."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
