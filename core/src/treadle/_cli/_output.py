"""What commands print: results on stdout, everything else on stderr; text for people, one object for programs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO, cast

import attrs
import click

from treadle._budget_use import BudgetUse
from treadle._cli._ending import threads_left
from treadle._money import format_money
from treadle._step_log import KeptPrints

# Status -> symbol, the same in ASCII, colour. The status is always written too: no meaning hangs on a symbol or a colour.
MARKS = {
    "completed": ("✓", "+", "green"),
    "ok": ("✓", "+", "green"),
    "cached": ("✓", "+", "green"),
    "running": ("▶", ">", "cyan"),
    "retrying": ("↻", "~", "yellow"),
    "partial_failure": ("!", "!", "yellow"),
    "warning": ("!", "!", "yellow"),
    "skipped": ("○", "o", "bright_black"),
    "cancelled": ("■", "#", "yellow"),
    "upstream_failed": ("⊘", "/", "red"),
    "failed": ("✗", "x", "red"),
    "timed_out": ("✗", "x", "red"),
    "interrupted": ("✗", "x", "red"),
    "poisoned": ("✗", "x", "red"),
}

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def mark(status: str, stream: TextIO) -> str:
    """The symbol of a status, in what ``stream`` can encode."""
    symbol, plain, _ = MARKS.get(status, ("·", ".", ""))
    return symbol if encodes(stream, symbol) else plain


def colour(status: str) -> str | None:
    """The colour of a status, for click and rich alike; None for none."""
    return MARKS.get(status, ("", "", ""))[2] or None


def paint(text: str, status: str, stream: TextIO) -> str:
    """``text`` in the colour of ``status``, when ``stream`` is a terminal that wants colours."""
    return click.style(text, fg=colour(status)) if wants_colour(stream) else text


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour: a terminal, and neither NO_COLOR nor a dumb one."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads ``stream``."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def clean(text: str) -> str:
    """``text`` without control characters but line ends and tabs: foreign text must not drive the terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def first_line(text: str) -> str:
    """The first line that says something, cleaned."""
    lines = [line for line in text.splitlines() if line.strip()]
    return clean(lines[0].strip()) if lines else ""


def spell(seconds: float) -> str:
    """A duration for people: ``0.04s 3.2s 1m05s 2h03m``."""
    if seconds < 1:
        return f"{max(seconds, 0.0):.2f}s"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def count(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def spell_usage(cost: int, tokens: int, requests: int = 0) -> str:
    """What was used up, for people: ``0.25 USD, 1,200 tokens, 3 requests``; empty for nothing."""
    parts = [
        f"{format_money(cost)} USD" if cost else "",
        f"{tokens:,} tokens" if tokens else "",
        count(requests, "request") if requests else "",
    ]
    return ", ".join(part for part in parts if part)


def spell_budget(use: BudgetUse, now: float) -> str:
    """What was used of a budget, and of how much: ``0.25 of 1.00 USD, 1,200 tokens, 12.0s of 2h00m``."""
    used, budget = use.total, use.budget
    parts = [
        _part(format_money(used.cost), None if budget.cost is None else format_money(budget.cost), "USD", used.cost),
        _part(f"{used.tokens:,}", None if budget.tokens is None else f"{budget.tokens:,}", "tokens", used.tokens),
        _part(f"{used.requests:,}", None if budget.requests is None else f"{budget.requests:,}", "requests", used.requests),
        f"{spell(use.time_used_s(now))} of {spell(budget.wall_time_s)}" if budget.wall_time_s is not None else "",
    ]
    lost = f" ({spell_usage(*attrs.astuple(use.lost))} of it set aside for calls that were interrupted)" if use.lost else ""
    return ", ".join(part for part in parts if part) + lost


def _part(used: str, limit: str | None, unit: str, amount: int) -> str:
    if limit is not None:
        return f"{used} of {limit} {unit}"
    return (count(amount, "request") if unit == "requests" else f"{used} {unit}") if amount else ""


def write(text: str, stream: TextIO | None = None) -> None:
    """Write a line to ``stream`` (stdout when None); a reader that has gone away is not an error."""
    stream = stream or sys.stdout
    try:
        stream.write(text.encode(stream.encoding or "utf-8", "backslashreplace").decode(stream.encoding or "utf-8") + "\n")
        stream.flush()
    except BrokenPipeError:
        _discard(stream)


def say(text: str) -> None:
    """Write a line to stderr."""
    write(text, sys.stderr)


def _discard(stream: TextIO) -> None:
    """Send what is still written to ``stream`` nowhere, so that the interpreter's own flush at exit stays quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def write_json(data: object, stream: TextIO | None = None) -> None:
    """Write one JSON object: indented for a terminal, one line for a program."""
    stream = stream or sys.stdout
    indent = 2 if is_terminal(stream) else None
    # Lone surrogates (from file names) leave ``write`` as backslash escapes, which is what JSON spells them as.
    write(json.dumps(data, ensure_ascii=not encodes(stream, "\U0001f600"), indent=indent, allow_nan=False), stream)


def write_line(data: object, stream: TextIO | None = None) -> None:
    """Write one JSON object in a line of its own, for commands that print many."""
    stream = stream or sys.stdout
    write(json.dumps(data, ensure_ascii=not encodes(stream, "\U0001f600"), allow_nan=False), stream)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, keep_empty: bool = True) -> str:
    """Columns as wide as their widest cell; nothing is cut, so a narrow terminal wraps.

    Args:
        heads: Names of the columns.
        rows: Their cells.
        keep_empty: Whether a column is shown in which no row has anything.
    """
    grid = [list(heads), *([clean(cell) for cell in row] for row in rows)]
    if not keep_empty:
        full = [place for place in range(len(heads)) if any(row[place] not in ("", "-") for row in grid[1:])]
        grid = [[row[place] for place in full] for row in grid]
        heads = [heads[place] for place in full]
    widths = [max(len(row[column]) for row in grid) for column in range(len(heads))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in grid)
    return "\n".join(lines)


@contextmanager
def stdout_kept() -> Iterator[TextIO]:
    """Keep stdout for the result: whatever else is written to it within the block goes to stderr.

    Also what child processes and C code write, and what threads write that did not stop when told to: with such
    threads stdout stays closed to them until the process ends. Yields the stream for the result.
    """
    sys.stdout.flush()
    before, descriptors = sys.stdout, _descriptors()
    if descriptors is None:  # not real files: a test's capture
        sys.stdout = cast("TextIO", KeptPrints(sys.stderr))
        try:
            yield before
        finally:
            sys.stdout = before
        return
    out, err = descriptors
    kept = os.dup(out)
    os.dup2(err, out)
    sys.stdout = cast("TextIO", KeptPrints(sys.stderr))
    result = open(kept, "w", encoding=before.encoding, errors="backslashreplace", closefd=True)  # noqa: SIM115 - closed below
    try:
        yield result
    finally:
        if not threads_left():
            sys.stdout = before
            os.dup2(kept, out)
        _close(result)


def _descriptors() -> tuple[int, int] | None:
    try:
        return sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _close(stream: TextIO) -> None:
    try:
        stream.close()
    except OSError:  # said already when it was written; close() has let go of the descriptor all the same
        return
