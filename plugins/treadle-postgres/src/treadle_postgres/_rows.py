"""Rows as the values of statements, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from treadle.errors import StoreUnavailableError
from treadle.ports import (
    Commit,
    Entry,
    Record,
    Rows,
    RunRow,
    RunStatus,
    SpanRow,
    StepRow,
    StepStatus,
    TimerRow,
    dump_line,
    load_line,
)

from treadle_postgres import _queries as sql
from treadle_postgres._payloads import dump, pack, unpack

_WHOLE = -1
"""What stands for the item of a step without ``foreach``."""

Values = tuple[object, ...]


def item_number(index: int | None) -> int:
    """An item as columns hold it, which cannot hold a null where they are part of a key."""
    return _WHOLE if index is None else index


def item_of(number: object) -> int | None:
    """The item that a column tells."""
    return None if number == _WHOLE else cast("int", number)


def shown(owner: str) -> str:
    """``host:pid`` of an owner."""
    return owner.partition("@")[0]


def clean(text: str) -> str:
    """A text that Postgres can keep: it has no place for NUL, nor for half a surrogate pair. The log keeps both."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text


# -- entries


def entry_values(commit: Commit) -> Values:
    """Six arrays and the seq before the first entry, as ``_queries`` wants them.

    Raises:
        StoreUnavailableError: An entry is too large.
    """
    columns: tuple[list[object], ...] = ([], [], [], [], [], [])
    for seq, entry in enumerate(commit.entries, commit.seq):
        path = str(getattr(entry, "path", ""))
        what = f"{entry.kind} {seq} of run {commit.run_id}" + (f" (step {path!r})" if path else "")
        payload = pack(_line(entry), what)
        phase = "finally" if path.startswith("finally/") else "main" if path else ""
        row = (float(entry.at), entry.kind, phase, clean(path), payload.encoding, payload.body)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return (*columns, commit.seq - 1)


def _line(entry: Entry) -> str:
    line = dump_line(entry)
    try:
        line.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can spell
        return dump(json.loads(line))
    return line


def record_of(run_id: str, row: Values) -> Record:
    """An entry of the log.

    Raises:
        StoreUnavailableError: It cannot be read.
    """
    seq, encoding, body = cast("tuple[int, int, bytes]", row)
    try:
        return Record(run_id, seq, load_line(unpack(encoding, body)))
    except (ValueError, OSError, EOFError) as error:
        raise StoreUnavailableError(
            f"Entry {seq} of run {run_id} cannot be read: {error}",
            "Restore a backup, or read it with the version that wrote it.",
        ) from error


# -- what commits change


def row_values(rows: Rows) -> Values:
    """JSON of steps, timers, executions, and of places that have ended; None for none."""
    return (
        _json(_step_fields(row) for row in rows.steps),
        _json(_timer_fields(row) for row in rows.timers),
        _json(_span_fields(row) for row in rows.spans),
        _json({"path": path, "item_index": item_number(index)} for path, index in rows.ended),
    )


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
    """A run's row, in the order of ``RUN_COLUMNS``."""
    values = (
        *(row.run_id, row.workflow, row.workflow_hash, row.status.value, row.trigger, row.trace_id, row.created_at),
        *(row.ended_at, row.stint, row.key, row.source, row.reason, row.culprit, row.error_type, row.error_message),
    )
    return tuple([clean(value) if isinstance(value, str) else value for value in values])


def _step_fields(row: StepRow) -> dict[str, object]:
    values = (
        *(row.path, item_number(row.index), row.phase, row.executor, row.status.value, row.attempt, row.stint, row.worker),
        *(row.idempotency_key, row.queued_at, row.started_at, row.ended_at, row.cost, row.tokens),
        *(row.error_type, row.error_message, row.reason),
    )
    return dict(zip(sql.STEP_COLUMNS, values, strict=True))


def _timer_fields(row: TimerRow) -> dict[str, object]:
    values = (
        *(row.timer_id, row.path, item_number(row.index), row.kind, row.due, row.status, row.created_at, row.fired_at),
        None if row.payload is None else dump(row.payload),
    )
    return dict(zip(sql.TIMER_COLUMNS, values, strict=True))


def _span_fields(row: SpanRow) -> dict[str, object]:
    values = (
        *(row.span_id, row.trace_id, row.parent_id, row.executor_type, row.task_id, row.attempt, row.stint, row.started_at),
        *(row.ended_at, row.duration_ms, row.status, row.output_keys, row.validation_issues, row.error),
    )
    return dict(zip(sql.SPAN_COLUMNS, values, strict=True))


# -- what is read


def run_row(row: Values) -> RunRow:
    """A row of ``RUN`` or ``runs``."""
    fields = list(row)
    fields[3] = RunStatus(cast("str", fields[3]))
    fields[15] = shown(cast("str", fields[15]))
    return RunRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def step_row(row: Values) -> StepRow:
    """A row of ``STEPS``."""
    fields = list(row)
    fields[2] = item_of(fields[2])
    fields[5] = StepStatus(cast("str", fields[5]))
    return StepRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def timer_row(row: Values) -> TimerRow:
    """A row of ``TIMERS``."""
    fields = list(row)
    fields[3] = item_of(fields[3])
    fields[9] = None if fields[9] is None else json.loads(cast("str", fields[9]))
    return TimerRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def span_row(row: Values) -> SpanRow:
    """A row of ``SPANS``."""
    run_id, span_id, trace_id, parent_id, executor, task, attempt, stint, started, ended, _, status, keys, issues, error = row
    return SpanRow(
        *(span_id, trace_id, parent_id, executor, task, run_id, attempt, stint, started, ended, status),  # type: ignore[arg-type]  # in order
        output_keys=tuple(cast("list[str]", keys)),
        validation_issues=tuple(cast("list[str]", issues)),
        error=cast("str", error),
    )
