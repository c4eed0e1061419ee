"""How stores write rows, entries and large values into columns, and read them back: what every store does in the same way."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar, cast

import attrs

from treadle._codec import compact_json, dump_entry, dump_line, load_line
from treadle._models import Entry, RunStatus, StepStatus
from treadle._store_records import NO_INDEX, Commit, LogLine, RunRow, SpanExport, SpanLetter, SpanRow, StepRow, TimerRow
from treadle.errors import StoreUnavailableError

__all__ = [
    "EXPORT_TABLE",
    "LINE_TABLE",
    "LONG_OVER",
    "MOST_BYTES",
    "PACK_OVER",
    "RUN_TABLE",
    "SPAN_TABLE",
    "STEP_TABLE",
    "TIMER_TABLE",
    "EntryColumns",
    "Packed",
    "Table",
    "dump_value",
    "item_number",
    "item_of",
    "pack",
    "pack_entries",
    "unpack",
    "unpack_entry",
]

R = TypeVar("R")

Values = tuple[object, ...]

# -- large values

PLAIN, GZIP = 0, 1

PACK_OVER = 10 * 1024
"""Longer values are compressed."""

_SHORT = PACK_OVER // 4
"""A text of so many characters is not compressed, whatever they are."""

LONG_OVER = 100 * 1024
"""What is longer after that should not lie in the row itself, so that lists and indexes stay small."""

MOST_BYTES = 256 * 1024 * 1024
"""Longest value, compressed."""

_encode = compact_json(ensure_ascii=True)


class Packed(NamedTuple):
    """A value as it is kept.

    Attributes:
        encoding: 0 as it is, 1 compressed by gzip. Larger numbers are the stores' own, with the same last bit.
        body: The bytes.
        size: Bytes before compression.
    """

    encoding: int
    body: bytes
    size: int

    @property
    def is_long(self) -> bool:
        """Whether it should be kept apart from its row."""
        return len(self.body) > LONG_OVER


def pack(text: str, what: str, *, most: int = MOST_BYTES, largest: Callable[[], str] | None = None) -> Packed:
    """Make the bytes of a text that is kept.

    Args:
        text: JSON.
        what: Names it in an error.
        most: Longest, compressed.
        largest: Names the part of it that takes the most room, for an error.

    Raises:
        StoreUnavailableError: It is too long to be kept.
    """
    body = text.encode()
    size = len(body)
    encoding = PLAIN
    if size > PACK_OVER:
        encoding, body = GZIP, gzip.compress(body, 1, mtime=0)
    if len(body) > most:
        part = largest() if largest is not None else ""
        raise StoreUnavailableError(
            f"{what} is too large to be kept: {len(body):,} bytes compressed ({size:,} before); {most:,} is the limit."
            + (f" The largest part is {part}." if part else ""),
            "Write large data to a file or an object store, and let the step answer where it is.",
        )
    return Packed(encoding, body, size)


def unpack(encoding: int, body: bytes) -> str:
    """The text that ``pack`` was given."""
    return (gzip.decompress(body) if encoding & GZIP else body).decode()


def dump_value(value: object) -> str:
    """A value as compact JSON; a lone surrogate is escaped."""
    return _encode(value)


# -- entries


class EntryColumns(NamedTuple):
    """An entry of a log as a row.

    Attributes:
        seq: Its place.
        at: When, seconds since the epoch.
        kind: Of the entry.
        phase: ``main`` or ``finally`` of its step; empty without one.
        path: The step; empty without one.
        packed: The entry itself.
    """

    seq: int
    at: float
    kind: str
    phase: str
    path: str
    packed: Packed


def pack_entries(commit: Commit, *, most: int = MOST_BYTES) -> list[EntryColumns]:
    """The entries of a commit as rows.

    Raises:
        StoreUnavailableError: One is too large; says which, and what of it takes the room.
    """
    rows = []
    for seq, entry in enumerate(commit.entries, commit.seq):
        path: str = getattr(entry, "path", "")
        phase = "" if not path else "finally" if path.startswith("finally/") else "main"
        line = _line(entry)
        if len(line) <= _SHORT:
            body = line.encode()
            packed = Packed(PLAIN, body, len(body))
        else:
            what = f"{entry.kind} {seq} of run {commit.run_id}" + (f" (step {path!r})" if path else "")
            packed = pack(line, what, most=most, largest=partial(_largest, entry))
        rows.append(EntryColumns(seq, float(entry.at), entry.kind, phase, path, packed))
    return rows


def _largest(entry: Entry) -> str:
    """Where in an entry the most room is taken, like ``outcome.output.pages[3].text``: down to where no part has half of it."""
    path, value = "", cast("object", dump_entry(entry))
    while isinstance(value, dict | list) and value:
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        sizes = {key: len(_encode(part)) for key, part in parts}
        key = max(sizes, key=lambda each: sizes[each])
        if sizes[key] * 2 < sum(sizes.values()):
            break
        path += f"[{key}]" if isinstance(key, int) else f".{key}" if path else str(key)
        value = value[key]
    return path


def _line(entry: Entry) -> str:
    line = dump_line(entry)
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError:  # a lone surrogate, which only an escape can spell
            return _encode(json.loads(line))
    return line


def unpack_entry(run_id: str, seq: int, encoding: int, body: bytes) -> Entry:
    """The entry that ``pack_entries`` was given.

    Raises:
        StoreUnavailableError: It cannot be read.
    """
    try:
        return load_line(unpack(encoding, body))
    except (ValueError, OSError, EOFError) as error:
        raise StoreUnavailableError(
            f"Entry {seq} of run {run_id} cannot be read: {error}",
            "Restore a backup, or read it with the version that wrote it.",
        ) from error


# -- rows


@attrs.frozen
class Table(Generic[R]):
    """How the rows of one class are written into columns.

    Attributes:
        name: Of the table.
        columns: Their names.
        key: Those that tell a row from others.
        values: What a row has in them, in that order: texts, numbers, None, and tuples of texts.
        row: The row that such values stand for; those that only the store knows (a run's owner) may come after them.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    values: Callable[[R], Values]
    row: Callable[[Sequence[object]], R]


def item_number(index: int | None) -> int:
    """An item as columns hold it, which cannot hold a null where they are part of a key."""
    return NO_INDEX if index is None else index


def item_of(number: object) -> int | None:
    """The item that a column tells."""
    return None if number == NO_INDEX else cast("int", number)


def _run_values(row: RunRow) -> Values:
    return (
        *(row.run_id, row.workflow, row.workflow_hash, row.status.value, row.trigger, row.trace_id, row.created_at),
        *(row.ended_at, row.stint, row.key, row.source, row.reason, row.culprit, row.error_type, row.error_message),
    )


def _run_row(values: Sequence[object]) -> RunRow:
    fields = list(values)
    fields[3] = RunStatus(cast("str", fields[3]))
    if len(fields) > 15:
        fields[15] = str(fields[15]).partition("@")[0]  # what is before it is for people
    return RunRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def _step_values(row: StepRow) -> Values:
    # One tuple of its own: this is written at every step.
    return (
        row.run_id,
        row.path,
        NO_INDEX if row.index is None else row.index,
        row.phase,
        row.executor,
        row.status.value,
        row.attempt,
        row.stint,
        row.worker,
        row.idempotency_key,
        row.queued_at,
        row.started_at,
        row.ended_at,
        row.cost,
        row.tokens,
        row.error_type,
        row.error_message,
        row.reason,
    )


def _step_row(values: Sequence[object]) -> StepRow:
    fields = list(values)
    fields[2] = item_of(fields[2])
    fields[5] = StepStatus(cast("str", fields[5]))
    return StepRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def _timer_values(row: TimerRow) -> Values:
    return (
        *(row.run_id, row.timer_id, row.path, item_number(row.index), row.kind, row.due, row.status, row.created_at),
        *(row.fired_at, None if row.payload is None else dump_value(row.payload)),
    )


def _timer_row(values: Sequence[object]) -> TimerRow:
    fields = list(values)
    fields[3] = item_of(fields[3])
    fields[9] = None if fields[9] is None else json.loads(cast("str", fields[9]))
    return TimerRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def _span_values(row: SpanRow) -> Values:
    return (
        row.span_id,
        row.trace_id,
        row.parent_id,
        row.executor_type,
        row.task_id,
        row.workflow_execution_id,
        row.attempt,
        row.stint,
        row.started_at,
        row.ended_at,
        row.duration_ms,
        row.status,
        row.output_keys,
        row.validation_issues,
        row.error,
    )


def _span_row(values: Sequence[object]) -> SpanRow:
    fields = list(values)
    del fields[10]  # the duration, which the row computes
    fields[11], fields[12] = tuple(cast("list[str]", fields[11])), tuple(cast("list[str]", fields[12]))
    return SpanRow(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields


def _line_values(line: LogLine) -> Values:
    return (
        *(line.at, line.path, item_number(line.index), line.attempt, line.level, line.text, line.logger, line.stream),
        *(line.variant, line.stint, line.generation),
    )


def _line_row(values: Sequence[object]) -> LogLine:
    fields = list(values)
    fields[2] = item_of(fields[2])
    return LogLine(*fields)  # type: ignore[arg-type]  # the columns in the order of the fields, then the seq


def _export_values(row: SpanExport) -> Values:
    letters = dump_value([attrs.astuple(letter) for letter in row.letters])
    return (row.run_id, row.seq, row.is_open, row.sent, row.refused, letters, row.reason, row.changed_at)


def _export_row(values: Sequence[object]) -> SpanExport:
    run_id, seq, is_open, sent, _, letters, *rest = values
    told = tuple([SpanLetter(*letter) for letter in json.loads(cast("str", letters))])
    return SpanExport(run_id, seq, bool(is_open), sent, told, *rest)  # type: ignore[arg-type]  # the columns in the order of the fields


RUN_TABLE: Table[RunRow] = Table(
    "runs",
    (
        *("run_id", "workflow", "workflow_hash", "status", "trigger", "trace_id", "created_at", "ended_at", "stint", "run_key"),
        *("source", "reason", "culprit", "error_type", "error_message"),
    ),
    ("run_id",),
    _run_values,
    _run_row,
)
STEP_TABLE: Table[StepRow] = Table(
    "steps",
    (
        *("run_id", "path", "item_index", "phase", "executor", "status", "attempt", "stint", "worker", "idempotency_key"),
        *("queued_at", "started_at", "ended_at", "cost", "tokens", "error_type", "error_message", "reason"),
    ),
    ("run_id", "path", "item_index"),
    _step_values,
    _step_row,
)
TIMER_TABLE: Table[TimerRow] = Table(
    "timers",
    (
        *("run_id", "timer_id", "path", "item_index", "kind", "fire_at", "status", "created_at", "fired_at"),
        "payload",
    ),
    ("run_id", "timer_id"),
    _timer_values,
    _timer_row,
)
SPAN_TABLE: Table[SpanRow] = Table(
    "execution_spans",
    (
        *("id", "trace_id", "parent_id", "executor_type", "task_id", "workflow_execution_id", "attempt", "stint"),
        *("started_at", "ended_at", "duration_ms", "status", "output_keys", "validation_issues", "error"),
    ),
    ("id",),
    _span_values,
    _span_row,
)
LINE_TABLE: Table[LogLine] = Table(
    "lines",
    ("at", "path", "item_index", "attempt", "level", "text", "logger", "stream", "variant", "stint", "generation"),
    ("seq",),
    _line_values,
    _line_row,
)
EXPORT_TABLE: Table[SpanExport] = Table(
    "span_exports",
    ("run_id", "seq", "is_open", "sent", "refused", "letters", "reason", "changed_at"),
    ("run_id",),
    _export_values,
    _export_row,
)
