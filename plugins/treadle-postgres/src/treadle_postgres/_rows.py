"""Rows as the values of statements, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from treadle.ports import (
    LINE_TABLE,
    RUN_TABLE,
    SPAN_TABLE,
    STEP_TABLE,
    TIMER_TABLE,
    Commit,
    LogLine,
    Rows,
    RunRow,
    Table,
    item_number,
    pack_entries,
)

R = TypeVar("R")

Values = tuple[object, ...]


def clean(text: str) -> str:
    """A text that Postgres can keep: it has no place for NUL, nor for half a surrogate pair. The log keeps both."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text


def entry_values(commit: Commit) -> Values:
    """Six arrays and the seq before the first entry, as ``_queries`` wants them.

    Raises:
        StoreUnavailableError: An entry is too large.
    """
    columns: tuple[list[object], ...] = ([], [], [], [], [], [])
    for _, at, kind, phase, path, packed in pack_entries(commit):
        # Postgres itself moves what is long out of the row.
        for column, value in zip(columns, (at, kind, phase, clean(path), packed.encoding, packed.body), strict=True):
            column.append(value)
    return (*columns, commit.seq - 1)


def row_values(rows: Rows) -> Values:
    """JSON of steps, timers, executions, and of places that have ended; None for none."""
    return (
        _table(STEP_TABLE, rows.steps),
        _table(TIMER_TABLE, rows.timers),
        _table(SPAN_TABLE, rows.spans),
        _json({"path": path, "item_index": item_number(index)} for path, index in rows.ended),
    )


def _table(table: Table[R], rows: Sequence[R]) -> str | None:
    return _json(dict(zip(table.columns, table.values(row), strict=True)) for row in rows)


def _json(rows: Iterable[dict[str, object]]) -> str | None:
    numbered = [{**row, "n": number} for number, row in enumerate(rows)]
    if not numbered:
        return None
    text = json.dumps(numbered, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if "\\u0000" in text or not _is_encodable(text):
        text = json.dumps(_clean_all(numbered), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text


def _is_encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clean_all(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {name: _clean_all(each) for name, each in value.items()}
    return [_clean_all(each) for each in value] if isinstance(value, Sequence) else value


def run_values(row: RunRow) -> Values:
    """A run's row, in the order of its columns."""
    return tuple([clean(value) if isinstance(value, str) else value for value in RUN_TABLE.values(row)])


def line_values(lines: Sequence[LogLine]) -> str | None:
    """Lines as JSON."""
    return _table(LINE_TABLE, lines)
