"""What a command writes, as it writes it: lines for the log, and the last one as its progress."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence

import attrs
from treadle.ports import Context, SecretReference

MAX_LINES = 1000
"""Lines of one command that are logged; a flood is told once, not written."""

MAX_LINE = 2000
"""Characters of one line that are logged."""

_KEPT = 8192  # of a line that does not end: more than is shown, so that a secret is hidden before it is cut
_PROGRESS_S = 0.1
_SHORTEST_SECRET = 4
_BREAKS = re.compile(rb"\r\n|\n|\r")
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@attrs.define
class Live:
    """Lines of both streams of one command.

    Attributes:
        ctx: The call, whose log and progress are fed.
        secrets: Texts that are hidden.
        lines: How many there were.
    """

    ctx: Context
    secrets: Sequence[str]
    lines: int = 0
    _told_at: float = attrs.field(default=0.0, init=False)
    _last: bytes = attrs.field(default=b"", init=False)

    def stream(self, name: str) -> LineStream:
        """One of its streams: ``stdout`` or ``stderr``."""
        return LineStream(self, name)

    @property
    def is_flooded(self) -> bool:
        """Whether no further line will be logged."""
        return self.lines > MAX_LINES

    def take(self, name: str, line: bytes, *, unseen: int = 0) -> None:
        """A line is complete.

        Args:
            name: Its stream.
            line: The line.
            unseen: How many came before it that are only counted.
        """
        was_flooded = self.is_flooded
        self.lines += 1 + unseen
        self._last = line
        if not was_flooded and self.ctx.log.isEnabledFor(logging.INFO):
            self._log(name, self._shown(line))
        if time.monotonic() - self._told_at >= _PROGRESS_S:
            self.tell()

    def tell(self) -> None:
        """Show the last line as progress."""
        if self.lines:
            self._told_at = time.monotonic()
            self.ctx.progress(self.lines, None, self._shown(self._last)[:200])

    def _log(self, name: str, line: str) -> None:
        if self.is_flooded:
            line, name = f"(more than {MAX_LINES:,} lines; the rest is not logged)", "treadle"
        self.ctx.log.info("%s", line, extra={"stream": name})

    def _shown(self, line: bytes) -> str:
        text = line.decode("utf-8", "backslashreplace")
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return _CONTROL.sub("", text)[:MAX_LINE]


@attrs.define
class LineStream:
    """Bytes of one stream, cut into lines."""

    live: Live
    name: str
    _rest: bytes = attrs.field(default=b"", init=False)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; none at the end of the stream."""
        if not chunk:
            self._end()
        elif b"\n" not in chunk and b"\r" not in chunk and not self._rest.endswith(b"\r"):
            self._rest += chunk[: max(0, _KEPT - len(self._rest))]
        elif self.live.is_flooded:
            self._count(self._rest + chunk)
        else:
            self._split(self._rest + chunk)

    def _split(self, text: bytes) -> None:
        held = b"\r" if text.endswith(b"\r") else b""  # It may be the first half of a line break.
        *lines, rest = _BREAKS.split(text.removesuffix(held))
        for line in lines:
            self.live.take(self.name, line[:_KEPT])
        self._rest = rest[:_KEPT] + held

    def _count(self, text: bytes) -> None:
        """Of a flood only the last line is looked at."""
        whole, _, rest = text.rpartition(b"\n")
        if whole:
            self.live.take(self.name, whole.rpartition(b"\n")[2][-_KEPT:], unseen=whole.count(b"\n"))
        self._rest = rest[-_KEPT:]

    def _end(self) -> None:
        if self._rest:
            self.live.take(self.name, self._rest.removesuffix(b"\r"))
        self._rest = b""


def secret_texts(references: Sequence[SecretReference], inputs: Mapping[str, object]) -> list[str]:
    """The texts that secrets put into a call's inputs, longest first; each line of those that have several."""
    found: set[str] = set()
    for reference in references:
        value = _at(inputs, reference.path)
        if isinstance(value, str):
            found.update(line.strip() for text in _between(value, reference.parts) for line in text.splitlines())
    return sorted((text for text in found if len(text) >= _SHORTEST_SECRET), key=lambda text: (-len(text), text))


def _at(value: object, path: Sequence[str | int]) -> object:
    for key in path:
        try:
            value = value[key]  # type: ignore[index] # whatever is no container raises
        except (LookupError, TypeError):
            return None
    return value


def _between(value: str, parts: Sequence[tuple[str, str]]) -> list[str]:
    """The secrets in a text, told by the literal texts around them."""
    pattern = "".join(re.escape(part) if kind == "text" else "(.*)" for kind, part in parts)
    found = re.fullmatch(pattern, value, re.DOTALL)
    return list(found.groups()) if found else [value]
