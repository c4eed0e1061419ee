"""Values as bytes: JSON, compressed when it is long."""

from __future__ import annotations

import gzip
import json

import attrs
from treadle.errors import StoreUnavailableError

PLAIN, PACKED = range(2)

PACK_OVER = 10 * 1024
"""Longer values are compressed here; Postgres itself moves what is over 2 KB out of the row."""

MOST = 256 * 1024 * 1024
"""Longest value, compressed."""


@attrs.frozen
class Payload:
    """A value as it is kept.

    Attributes:
        encoding: PLAIN or PACKED.
        body: The bytes.
        size: Bytes before compression.
    """

    encoding: int
    body: bytes
    size: int


def pack(text: str, what: str, *, most: int = MOST) -> Payload:
    """Encode a value.

    Args:
        text: JSON.
        what: Names it in an error.
        most: Longest, compressed.

    Raises:
        StoreUnavailableError: It is too long to be kept.
    """
    body = text.encode()
    size = len(body)
    encoding = PLAIN
    if size > PACK_OVER:
        encoding, body = PACKED, gzip.compress(body, 1, mtime=0)
    if len(body) > most:
        raise StoreUnavailableError(
            f"{what} is too large to be kept: {len(body):,} bytes compressed ({size:,} before); {most:,} is the limit.",
            "Write large data to a file or an object store, and let the step answer where it is.",
        )
    return Payload(encoding, body, size)


def unpack(encoding: int, body: bytes) -> str:
    """The JSON that ``pack`` was given."""
    return (gzip.decompress(body) if encoding == PACKED else body).decode()


def dump(value: object) -> str:
    """A value as compact JSON; a lone surrogate is escaped."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
