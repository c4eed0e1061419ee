"""Every statement of the store, by name. A test asks SQLite for the plan of each and wants an index in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TypeVar

from treadle.ports import EXPORT_TABLE, LINE_TABLE, RUN_TABLE, SPAN_TABLE, STEP_TABLE, TIMER_TABLE, Table

R = TypeVar("R")

_RUN_COLUMNS = RUN_TABLE.columns
_RUN_SHOWN = f"{', '.join(_RUN_COLUMNS)}, owner, heartbeat_at"


def _upsert(table: Table[R], *, key: Sequence[str] = ()) -> str:
    """Insert a row or change the one of the same key, which keeps its place in the order of insertion."""
    key = key or table.key
    changed = ", ".join(f"{name} = excluded.{name}" for name in table.columns if name not in key)
    return (
        f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({_marks(table.columns)})"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
    )


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" for _ in values)


ROWS_AT_ONCE = 16
"""Most rows of one statement: few enough that the texts for all counts stay prepared."""


@cache
def for_rows(statement: str, count: int) -> str:
    """An insert of one row as an insert of so many, which costs half as much as one statement after the other."""
    before, _, rest = statement.partition("VALUES (")
    marks, _, after = rest.partition(")")
    return f"{before}VALUES {', '.join([f'({marks})'] * count)}{after}"


# -- writing

CREATE_RUN = (
    f"INSERT INTO runs ({', '.join(_RUN_COLUMNS)}, fingerprint, entry_count, epoch, owner, claimed_at, heartbeat_at,"
    f" lease_until, boot_id) VALUES ({_marks(_RUN_COLUMNS)}, ?, ?, 1, ?, ?, ?, ?, ?)"
)
FIND_KEY = "SELECT run_id, fingerprint FROM runs WHERE run_key = ? AND run_key <> ''"
ADVANCE = "UPDATE runs SET entry_count = ? WHERE run_id = ? AND epoch = ? AND entry_count = ?"
ADD_RECORD = "INSERT INTO records (run_id, seq, at, kind, phase, path, encoding, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
ADD_PAYLOAD = "INSERT INTO payloads (run_id, seq, body) VALUES (?, ?, ?)"
CHANGE_RUN = (
    f"UPDATE runs SET {', '.join(f'{name} = ?' for name in _RUN_COLUMNS[1:])},"
    " owner = CASE WHEN ? THEN '' ELSE owner END, cancel_reason = CASE WHEN ? THEN NULL ELSE cancel_reason END,"
    " cancel_force = CASE WHEN ? THEN 0 ELSE cancel_force END WHERE run_id = ?"
)
PUT_STEP = _upsert(STEP_TABLE)
PUT_TIMER = _upsert(TIMER_TABLE)
PUT_SPAN = _upsert(SPAN_TABLE, key=("workflow_execution_id", "id"))
DROP_CHECKPOINTS = "DELETE FROM checkpoints WHERE run_id = ? AND path = ? AND item_index = ?"
DROP_ALL_CHECKPOINTS = "DELETE FROM checkpoints WHERE run_id = ? AND path = ?"
DROP_PROCESSES = "DELETE FROM processes WHERE run_id = ? AND path = ? AND item_index = ?"
DROP_ALL_PROCESSES = "DELETE FROM processes WHERE run_id = ? AND path = ?"
KEEP_PROCESS = (
    "INSERT INTO processes (run_id, path, item_index, pid, started, machine) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
DROP_PROCESS = (
    "DELETE FROM processes WHERE run_id = ? AND path = ? AND item_index = ? AND pid = ? AND started = ? AND machine = ?"
)
ADD_HEARTBEAT = "INSERT INTO heartbeats (run_id, path, item_index, attempt, at) VALUES (?, ?, ?, ?, ?)"
SAVE_CHECKPOINT = (
    "INSERT INTO checkpoints (run_id, path, item_index, variant, token, encoding, data, size_bytes, epoch, seq, saved_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, path, item_index, variant) DO UPDATE SET"
    " token = excluded.token, encoding = excluded.encoding, data = excluded.data, size_bytes = excluded.size_bytes,"
    " epoch = excluded.epoch, seq = excluded.seq, saved_at = excluded.saved_at"
    " WHERE (excluded.epoch, excluded.seq) >= (epoch, seq)"
)
KEEP_LINE = f"INSERT INTO lines ({', '.join(LINE_TABLE.columns)}, run_id) VALUES ({_marks(LINE_TABLE.columns)}, ?)"
OWNERSHIP = "SELECT owner, epoch, claimed_at, lease_until, boot_id, entry_count FROM runs WHERE run_id = ?"
TAKE = (
    "UPDATE runs SET owner = ?, epoch = epoch + 1, claimed_at = ?, heartbeat_at = ?, lease_until = ?, boot_id = ?"
    " WHERE run_id = ? RETURNING epoch"
)
LET_GO = "UPDATE runs SET owner = '' WHERE run_id = ? AND epoch = ?"
BEAT = "UPDATE runs SET heartbeat_at = ?, lease_until = ?, boot_id = ? WHERE run_id = ? AND epoch = ?"
SEND_SIGNAL = (
    "INSERT INTO signals (run_id, number, signal_id, name, encoding, payload, sent_at, due)"
    " SELECT ?, coalesce(max(number), 0) + 1, ?, ?, ?, ?, ?, ? FROM signals WHERE run_id = ?"
    " ON CONFLICT (run_id, signal_id) DO NOTHING"
)
_ALIVE = (
    "EXISTS (SELECT 1 FROM runs WHERE runs.run_id = slots.run_id AND runs.epoch = slots.epoch AND runs.owner <> ''"
    " AND runs.boot_id = ? AND runs.lease_until > ?)"
)
DROP_DEAD_SLOTS = f"DELETE FROM slots WHERE slot_group = ? AND NOT {_ALIVE}"
ASK_SLOT = (
    "INSERT INTO slots (slot_group, run_id, holder, epoch, priority, is_held) VALUES (?, ?, ?, ?, ?, 0)"
    " ON CONFLICT (run_id, holder, slot_group) DO NOTHING"
)
SLOT_LINE = (
    "SELECT slots.run_id, slots.holder, slots.is_held, runs.owner FROM slots JOIN runs ON runs.run_id = slots.run_id"
    " WHERE slot_group = ? ORDER BY is_held DESC, priority DESC, place"
)
GIVE_SLOT = "UPDATE slots SET is_held = 1 WHERE run_id = ? AND holder = ? AND slot_group = ?"
FREE_SLOT = "DELETE FROM slots WHERE run_id = ? AND holder = ? AND epoch = ?"
DROP_SLOTS_OF = "DELETE FROM slots WHERE slot_group = ? AND run_id = ?"
REQUEST_CANCEL = (
    "UPDATE runs SET cancel_reason = ?, cancel_force = ? WHERE run_id = ? AND (cancel_reason IS NULL OR ? >= cancel_force)"
)

# -- what is old; a run goes with the rows of it in all tables, whatever they are called

TABLES = (
    "runs",
    "steps",
    "records",
    "payloads",
    "checkpoints",
    "timers",
    "signals",
    "slots",
    "processes",
    "heartbeats",
    "lines",
    "execution_spans",
    "span_exports",
)
_RUN_OF = {"execution_spans": "workflow_execution_id"}
OF_A_RUN = (*TABLES[1:], "runs")
"""The order in which tables let go of a run: the row that others refer to is the last."""


def remove(table: str) -> str:
    """The statement that removes what a table holds of a run."""
    return f"DELETE FROM {table} WHERE {_RUN_OF.get(table, 'run_id')} = ?"


def count(table: str) -> str:
    """The statement that counts a table's rows."""
    return f"SELECT count(*) FROM {table}"


_UNSENT = (
    "EXISTS (SELECT 1 FROM span_exports WHERE span_exports.run_id = runs.run_id AND span_exports.is_open = 1"
    " AND span_exports.seq < runs.entry_count)"
)
_SENT = f"NOT {_UNSENT}"
"""Spans that are still to be sent are made of the log."""
_DUE = "ended_at < ? AND (run_key = '' OR ended_at < ?)"
_OLD = f"{_DUE} AND {_SENT}"
OLD_RUNS = f"SELECT run_id, entry_count FROM runs WHERE {_OLD} ORDER BY ended_at LIMIT 500"
COUNT_OLD_RUNS = f"SELECT count(*) FROM runs WHERE {_OLD}"
OLD_LOGS = (
    f"SELECT run_id, entry_count FROM runs WHERE ended_at < ? AND entry_count > 0 AND {_SENT} ORDER BY ended_at LIMIT 500"
)
COUNT_UNSENT = f"SELECT count(*) FROM runs WHERE {_DUE} AND {_UNSENT}"
DROP_UNSENT = (
    f"UPDATE span_exports SET is_open = 0 WHERE run_id IN (SELECT run_id FROM runs WHERE {_DUE} AND {_UNSENT} LIMIT 500)"
)
FORGET_LOG = "UPDATE runs SET entry_count = 0 WHERE run_id = ?"
DROP_OLD_CHECKPOINTS = (
    "DELETE FROM checkpoints WHERE rowid IN (SELECT checkpoints.rowid FROM checkpoints JOIN runs ON runs.run_id ="
    " checkpoints.run_id WHERE checkpoints.saved_at < ? AND runs.ended_at IS NOT NULL LIMIT ?)"
)
DROP_OLD_TIMERS = (
    # None fires before it is due, so that the index on that finds all.
    "DELETE FROM timers WHERE rowid IN (SELECT rowid FROM timers WHERE status IN ('fired', 'cancelled') AND fire_at < ?"
    " AND coalesce(fired_at, fire_at) < ? LIMIT ?)"
)
SET_FACT = "INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
DROP_FACT = "DELETE FROM facts WHERE name = ?"
_EXPORT_COLUMNS = EXPORT_TABLE.columns
OPEN_SPANS = (
    "INSERT INTO span_exports (run_id, seq, is_open, sent, refused, letters, reason, changed_at)"
    " SELECT run_id, 0, 1, 0, 0, '[]', '', ? FROM runs WHERE run_id = ?"
    " ON CONFLICT (run_id) DO UPDATE SET is_open = 1, changed_at = excluded.changed_at"
)
BEGIN_SPANS_AT = "UPDATE span_exports SET seq = ?, refused = 0, letters = '[]' WHERE run_id = ?"
PUT_SPANS = f"UPDATE span_exports SET {', '.join(f'{name} = ?' for name in _EXPORT_COLUMNS[1:])} WHERE run_id = ? AND seq <= ?"
FIND_LEAD = "SELECT owner, lease_until, boot_id FROM leads WHERE what = ?"
LEAD = (
    "INSERT INTO leads (what, owner, lease_until, boot_id) VALUES (?, ?, ?, ?) ON CONFLICT (what)"
    " DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until, boot_id = excluded.boot_id"
)

# -- reading

FACTS = "SELECT name, value FROM facts WHERE name IN ('generation', 'copied_at')"
COUNT_RUNS = "SELECT status, count(*) FROM runs GROUP BY status ORDER BY status"
OLDEST_RUN = "SELECT created_at FROM runs ORDER BY created_at LIMIT 1"
CHECKPOINT_BYTES = "SELECT coalesce(sum(size_bytes), 0) FROM checkpoints"

READ = (
    "SELECT records.seq, records.encoding, coalesce(payloads.body, records.body) FROM records"
    " LEFT JOIN payloads ON records.encoding >= 2 AND payloads.run_id = records.run_id AND payloads.seq = records.seq"
    " WHERE records.run_id = ? AND records.seq > ? ORDER BY records.seq"
)
RUN = f"SELECT {_RUN_SHOWN} FROM runs WHERE run_id = ?"
STEPS = f"SELECT {', '.join(STEP_TABLE.columns)} FROM steps WHERE run_id = ? ORDER BY rowid"
TIMERS = f"SELECT {', '.join(TIMER_TABLE.columns)} FROM timers WHERE run_id = ? ORDER BY fire_at, timer_id"
SPANS = f"SELECT {', '.join(SPAN_TABLE.columns)} FROM execution_spans WHERE workflow_execution_id = ? ORDER BY started_at, id"
CHECKPOINT = (
    "SELECT path, item_index, variant, token, encoding, data, seq, saved_at FROM checkpoints"
    " WHERE run_id = ? AND path = ? AND item_index = ? AND variant = ?"
)
ENDING = "SELECT status, ended_at FROM runs WHERE run_id = ?"
SIGNALS = (
    "SELECT name, encoding, payload, signal_id, sent_at, due, number FROM signals WHERE run_id = ? AND number > ?"
    " ORDER BY number"
)
CHECKPOINTS = (
    "SELECT path, item_index, variant, token, size_bytes, seq, saved_at FROM checkpoints"
    " WHERE run_id = ? ORDER BY path, item_index, variant"
)
CHECKPOINT_STATISTICS = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM checkpoints"
PROCESSES = "SELECT path, item_index, pid, started, machine FROM processes WHERE run_id = ? ORDER BY path, item_index, pid"
HEARTBEATS = "SELECT path, item_index, attempt, at FROM heartbeats WHERE run_id = ? ORDER BY at"
DUE_TIMERS = (
    f"SELECT {', '.join(TIMER_TABLE.columns)} FROM timers WHERE status = 'pending' AND fire_at <= ?"
    " ORDER BY fire_at, run_id, timer_id LIMIT ?"
)
SLOTS = (
    f"SELECT slot_group, run_id, holder, priority, is_held FROM slots WHERE slot_group = ? AND {_ALIVE}"
    " ORDER BY is_held DESC, priority DESC, place"
)
ALL_SLOTS = (
    f"SELECT slot_group, run_id, holder, priority, is_held FROM slots INDEXED BY slots_line WHERE {_ALIVE}"
    " ORDER BY slot_group, is_held DESC, priority DESC, place"
)
CANCEL_REQUEST = "SELECT cancel_reason, cancel_force FROM runs WHERE run_id = ?"


_EXPORTS = (
    f"SELECT {', '.join(f'span_exports.{name}' for name in _EXPORT_COLUMNS)}, runs.entry_count, runs.owner,"
    " runs.lease_until, runs.boot_id FROM span_exports JOIN runs ON runs.run_id = span_exports.run_id"
)
OPEN_EXPORTS = (
    f"{_EXPORTS} WHERE span_exports.is_open = 1 AND span_exports.seq < runs.entry_count ORDER BY span_exports.run_id LIMIT ?"
)
REFUSED_EXPORTS = f"{_EXPORTS} WHERE span_exports.refused > 0 ORDER BY span_exports.run_id LIMIT ?"
EXPORT = f"{_EXPORTS} WHERE span_exports.run_id = ?"


_FILTERS = {
    "workflow": "workflow = ?",
    "since": "created_at >= ?",
    "until": "created_at < ?",
    "prefix": "run_id >= ? AND run_id < ?",
    "key": "run_key = ? AND run_key <> ''",
    "orphaned": "status IN ('pending', 'queued', 'running', 'suspended', 'cancelling')"
    " AND (owner = '' OR boot_id <> ? OR lease_until <= ?)",
    "cursor": "(created_at, run_id) < (?, ?)",
}


_LINE_FILTERS = {
    "path": "(path = ? OR (path >= ? AND path < ?) OR (path >= ? AND path < ?))",
    "item": "((path = ? AND item_index = ?) OR (path >= ? AND path < ?))",
    "attempt": "attempt = ?",
}


def lines(filters: Collection[str]) -> str:
    """The statement that reads lines: run, after, level, values as of ``LineQuery.filters``, then a limit."""
    tests = ["run_id = ?", "seq > ?", "level >= ?", *(_LINE_FILTERS[name] for name in filters)]
    return f"SELECT {', '.join(LINE_TABLE.columns)}, seq FROM lines WHERE {' AND '.join(tests)} ORDER BY seq LIMIT ?"


def runs(filters: Mapping[str, Sequence[object]]) -> str:
    """The statement that lists runs, the newest first: values as of ``RunQuery.filters``, then a limit."""
    tests = [_FILTERS[name] if name in _FILTERS else f"status IN ({_marks(values)})" for name, values in filters.items()]
    where = f" WHERE {' AND '.join(tests)}" if tests else ""
    return f"SELECT {_RUN_SHOWN} FROM runs{where} ORDER BY created_at DESC, run_id DESC LIMIT ?"
