"""What is kept of an output stream: its beginning up to a limit, its end, and how much there was."""

from __future__ import annotations

import codecs

import attrs

TAIL_BYTES = 8192
"""How much of a stream's end is kept for error messages."""


@attrs.define
class Capture:
    """A stream as it is read; memory stays bounded however much arrives.

    Attributes:
        limit: Bytes of the beginning that are kept.
        total: Bytes that arrived.
    """

    limit: int
    total: int = 0
    _head: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _tail: bytearray = attrs.field(factory=bytearray, init=False, repr=False)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.total += len(chunk)
        room = self.limit - len(self._head)
        if room > 0:
            self._head += chunk[:room]
        self._tail += chunk[-TAIL_BYTES:]
        del self._tail[:-TAIL_BYTES]

    @property
    def truncated(self) -> bool:
        """Whether more arrived than is kept."""
        return self.total > self.limit

    def text(self) -> str:
        r"""The beginning as text; what is not UTF-8 shows as ``\xff``."""
        decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        # A cut in the middle of a character is no fault of the stream: the decoder keeps such a rest to itself.
        return decoder.decode(bytes(self._head), final=not self.truncated)

    def last_lines(self, count: int) -> list[str]:
        """The last lines that are not empty, each cut to 400 characters."""
        lines = bytes(self._tail).decode("utf-8", "backslashreplace").splitlines()
        return [line.rstrip()[:400] for line in lines if line.strip()][-count:]
