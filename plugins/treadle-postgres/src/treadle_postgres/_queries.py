"""Every statement of the store, by name. A test asks Postgres for the plan of each and wants an index in it.

Each write is one statement that keeps everything or, when its condition does not hold, nothing: so it takes one turn to the
server and back, several share a commit, and one whose answer was lost is simply sent again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from treadle.ports import EXPORT_TABLE, KEY_KEPT_S, LINE_TABLE, RUN_TABLE, SPAN_TABLE, STEP_TABLE, TIMER_TABLE, Table

R = TypeVar("R")

RUN_ID = ("run_id", "workflow_execution_id")
"""What tables call the run."""

_RUN_COLUMNS = RUN_TABLE.columns
_RUN_SHOWN = f"{', '.join(_RUN_COLUMNS)}, owner, heartbeat_at"

_INTEGERS = dict.fromkeys(("item_index", "attempt", "stint", "cost", "tokens", "duration_ms", "level", "generation"), "bigint")
_TIMES = dict.fromkeys(
    ("at", "created_at", "ended_at", "queued_at", "started_at", "fire_at", "fired_at", "due"), "double precision"
)
_TYPES = _INTEGERS | _TIMES | {"output_keys": "text[]", "validation_issues": "text[]"}

NOW = "extract(epoch FROM clock_timestamp())::double precision"
"""The database's time, which all machines share; seconds since the epoch."""


def _type(column: str) -> str:
    return _TYPES.get(column, "text")


def _upsert(table: Table[R], source: str) -> str:
    """Insert rows, or change those of the same key, which keep their place in the order of insertion.

    Args:
        table: Where; its column for the run is that of ``held``.
        source: The parameter that holds the rows as JSON, each with its place among the new ones as ``n``; null for none.
    """
    changed = ", ".join(f"{name} = excluded.{name}" for name in table.columns if name not in table.key)
    shape = ", ".join(f"{name} {_type(name)}" for name in table.columns)
    values = ", ".join("held.run_id" if name in RUN_ID else f"x.{name}" for name in table.columns)
    return (
        f"INSERT INTO {table.name} ({', '.join(table.columns)}) SELECT {values}"
        f" FROM held, json_to_recordset({source}::json) AS x(n integer, {shape}) ORDER BY x.n"
        f" ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changed}"
    )


def _write(held: str, first: int, *, entries: bool = True) -> str:
    """What is kept when the statement ``held`` finds (or makes) its row of ``runs``; answers how many it found.

    Args:
        held: Changes a row of ``runs`` and returns its ``run_id``.
        first: Number of the first parameter after its own: six arrays of entries and the seq before them, unless there are
            none; then JSON of steps, timers, executions, and of steps and items that have ended.
        entries: Whether it appends to the log.
    """
    parts = [f"held AS ({held})"]
    number = first
    if entries:
        types = ("double precision", "text", "text", "text", "smallint", "bytea")
        arrays = ", ".join(f"${first + place}::{kind}[]" for place, kind in enumerate(types))
        parts.append(
            "entries AS (INSERT INTO records (run_id, seq, at, kind, phase, path, encoding, body)"
            f" SELECT held.run_id, ${first + len(types)}::bigint + e.n, e.at, e.kind, e.phase, e.path, e.encoding, e.body"
            f" FROM held, unnest({arrays}) WITH ORDINALITY AS e(at, kind, phase, path, encoding, body, n))"
        )
        number += len(types) + 1
    steps = _upsert(STEP_TABLE, f"${number}")
    timers = _upsert(TIMER_TABLE, f"${number + 1}")
    spans = _upsert(SPAN_TABLE, f"${number + 2}")
    parts += [f"s AS ({steps})", f"t AS ({timers})", f"e AS ({spans})"]
    parts.append(
        f"c AS (DELETE FROM checkpoints USING held, json_to_recordset(${number + 3}::json) AS x(path text, item_index bigint)"
        " WHERE checkpoints.run_id = held.run_id AND checkpoints.path = x.path"
        " AND (x.item_index < 0 OR checkpoints.item_index = x.item_index))"
    )
    parts.append(
        f"p AS (DELETE FROM processes USING held, json_to_recordset(${number + 3}::json) AS x(path text, item_index bigint)"
        " WHERE processes.run_id = held.run_id AND processes.path = x.path"
        " AND (x.item_index < 0 OR processes.item_index = x.item_index))"
    )
    return f"WITH {', '.join(parts)} SELECT count(*) FROM held"


def _numbered(columns: tuple[str, ...], first: int) -> str:
    return ", ".join(f"{name} = ${number}::{_type(name)}" for number, name in enumerate(columns, first))


# -- writing

_RUN_VALUES = ", ".join(f"${number}::{_type(name)}" for number, name in enumerate(_RUN_COLUMNS, 1))
_AFTER_RUN = len(_RUN_COLUMNS) + 1

CREATE = _write(
    f"INSERT INTO runs ({', '.join(_RUN_COLUMNS)}, fingerprint, owner, commit_id, entry_count, epoch, claimed_at, heartbeat_at,"
    f" lease_until) VALUES ({_RUN_VALUES}, ${_AFTER_RUN}, ${_AFTER_RUN + 1}, ${_AFTER_RUN + 2}::uuid,"
    f" ${_AFTER_RUN + 3}::bigint, 1, {NOW}, {NOW}, {NOW} + ${_AFTER_RUN + 4}::double precision)"
    " ON CONFLICT DO NOTHING RETURNING run_id",
    _AFTER_RUN + 5,
)
"""Values: the run's columns, fingerprint, owner, commit id, number of entries, lease; then as ``_write``."""

_ADVANCE = "UPDATE runs SET entry_count = $4::bigint, commit_id = $5::uuid"
_IN_PLACE = "WHERE run_id = $1 AND epoch = $2::bigint AND entry_count = $3::bigint RETURNING run_id"

COMMIT = _write(f"{_ADVANCE} {_IN_PLACE}", 6)
"""Values: run, epoch, entries before and after, commit id; then as ``_write``."""

COMMIT_RUN = _write(
    f"{_ADVANCE}, owner = CASE WHEN $6::boolean THEN '' ELSE owner END,"
    " cancel_reason = CASE WHEN $6::boolean THEN NULL ELSE cancel_reason END, cancel_force = cancel_force AND NOT $6::boolean,"
    f" {_numbered(_RUN_COLUMNS[1:], 7)} {_IN_PLACE}",
    6 + len(_RUN_COLUMNS),
)
"""The same with the run's row. Values: run, epoch, before, after, commit id, whether it has ended, the run's columns but the
first; then as ``_write``."""

RELEASE = _write("UPDATE runs SET owner = '' WHERE run_id = $1 AND epoch = $2::bigint RETURNING run_id", 3, entries=False)
RELEASE_RUN = _write(
    f"UPDATE runs SET owner = '', {_numbered(_RUN_COLUMNS[1:], 3)} WHERE run_id = $1 AND epoch = $2::bigint RETURNING run_id",
    2 + len(_RUN_COLUMNS),
    entries=False,
)

SAVE_CHECKPOINT = (
    # The lock keeps claims out until this is kept; one that is strong enough for a commit, so that none has to be raised.
    "WITH held AS (SELECT run_id FROM runs WHERE run_id = $1 AND epoch = $2::bigint FOR NO KEY UPDATE), kept AS ("
    "INSERT INTO checkpoints (run_id, path, item_index, variant, token, encoding, data, size_bytes, epoch, seq, saved_at)"
    " SELECT held.run_id, $3, $4::bigint, $5, $6, $7::smallint, $8::bytea, $9::bigint, $2::bigint, $10::bigint,"
    " $11::double precision FROM held"
    " ON CONFLICT (run_id, path, item_index, variant) DO UPDATE SET token = excluded.token, encoding = excluded.encoding,"
    " data = excluded.data, size_bytes = excluded.size_bytes, epoch = excluded.epoch, seq = excluded.seq,"
    " saved_at = excluded.saved_at WHERE (excluded.epoch, excluded.seq) >= (checkpoints.epoch, checkpoints.seq)"
    ") SELECT count(*) FROM held"
)
KEEP_LINES = (
    f"WITH held AS (SELECT run_id FROM runs WHERE run_id = $1), kept AS (INSERT INTO lines ({', '.join(LINE_TABLE.columns)},"
    f" run_id) SELECT {', '.join(f'x.{name}' for name in LINE_TABLE.columns)}, held.run_id FROM held, json_to_recordset("
    f"$2::json) AS x(n integer, {', '.join(f'{name} {_type(name)}' for name in LINE_TABLE.columns)}) ORDER BY x.n)"
    " SELECT count(*) FROM held"
)
_HELD = "WITH held AS (SELECT run_id FROM runs WHERE run_id = $1 AND epoch = $2::bigint FOR NO KEY UPDATE)"
KEEP_PROCESS = (
    f"{_HELD}, kept AS (INSERT INTO processes (run_id, path, item_index, pid, started, machine)"
    " SELECT held.run_id, $3, $4::bigint, $5::bigint, $6, $7 FROM held ON CONFLICT DO NOTHING) SELECT count(*) FROM held"
)
DROP_PROCESS = (
    f"{_HELD}, gone AS (DELETE FROM processes USING held WHERE processes.run_id = held.run_id AND path = $3"
    " AND item_index = $4::bigint AND pid = $5::bigint AND started = $6 AND machine = $7) SELECT count(*) FROM held"
)
OWNERSHIP = (
    f"SELECT owner, epoch, claimed_at, lease_until > {NOW} AS is_held, entry_count, commit_id FROM runs WHERE run_id = $1"
)
TAKE = (
    f"UPDATE runs SET owner = $2, epoch = epoch + 1, claimed_at = {NOW}, heartbeat_at = {NOW},"
    f" lease_until = {NOW} + $3::double precision"
    f" WHERE run_id = $1 AND epoch = $4::bigint AND (owner = '' OR lease_until <= {NOW} OR $5::boolean) RETURNING epoch"
)
BEAT = (
    f"UPDATE runs SET heartbeat_at = {NOW}, lease_until = {NOW} + $3::double precision"
    " WHERE run_id = $1 AND epoch = $2::bigint RETURNING cancel_reason, cancel_force, signal_count"
)
SEND_SIGNAL = (
    # A number of a second one of the same id is left out: nobody counts on there being no gap.
    "WITH held AS (UPDATE runs SET signal_count = signal_count + 1 WHERE run_id = $1 AND ended_at IS NULL"
    " AND NOT EXISTS (SELECT FROM signals WHERE run_id = $1 AND signal_id = $2) RETURNING run_id, signal_count),"
    " kept AS (INSERT INTO signals (run_id, number, signal_id, name, encoding, payload, sent_at, due)"
    " SELECT run_id, signal_count, $2, $3, $4::smallint, $5::bytea, $6::double precision, $7::double precision FROM held"
    " ON CONFLICT (run_id, signal_id) DO NOTHING)"
    " SELECT run_id, pg_notify($8, run_id) FROM held"
)
BEAT_WITH_STEPS = (
    f"WITH held AS (UPDATE runs SET heartbeat_at = {NOW}, lease_until = {NOW} + $3::double precision"
    " WHERE run_id = $1 AND epoch = $2::bigint RETURNING run_id, cancel_reason, cancel_force, signal_count), said AS ("
    "INSERT INTO heartbeats (run_id, path, item_index, attempt, at) SELECT held.run_id, x.path, x.item_index, x.attempt, x.at"
    " FROM held, json_to_recordset($4::json) AS x(path text, item_index bigint, attempt bigint, at double precision)"
    ") SELECT cancel_reason, cancel_force, signal_count FROM held"
)
_ALIVE = (
    "EXISTS (SELECT FROM runs WHERE runs.run_id = slots.run_id AND runs.epoch = slots.epoch AND runs.owner <> ''"
    f" AND runs.lease_until > {NOW})"
)
DROP_DEAD_SLOTS = f"DELETE FROM slots WHERE slot_group = $1 AND NOT {_ALIVE}"
ASK_SLOT = (
    "INSERT INTO slots (slot_group, run_id, holder, epoch, priority, is_held) SELECT $1, run_id, $3, epoch, $5::bigint, FALSE"
    " FROM runs WHERE run_id = $2 AND epoch = $4::bigint ON CONFLICT (run_id, holder, slot_group) DO NOTHING"
)
SLOT_LINE = (
    "SELECT slots.run_id, slots.holder, slots.is_held, runs.owner FROM slots JOIN runs ON runs.run_id = slots.run_id"
    " WHERE slot_group = $1 ORDER BY is_held DESC, priority DESC, place"
)
GIVE_SLOT = "UPDATE slots SET is_held = TRUE WHERE run_id = $1 AND holder = $2 AND slot_group = $3"
FREE_SLOTS = "DELETE FROM slots WHERE run_id = $1 AND epoch = $2::bigint AND holder = ANY ($3::text[]) RETURNING holder"
DROP_SLOTS_OF = "DELETE FROM slots WHERE slot_group = $1 AND run_id = ANY ($2::text[])"
REQUEST_CANCEL = (
    "WITH asked AS (UPDATE runs SET cancel_reason = $2, cancel_force = $3::boolean"
    " WHERE run_id = $1 AND (cancel_reason IS NULL OR $3::boolean OR NOT cancel_force) RETURNING run_id)"
    " SELECT run_id, pg_notify($4, run_id) FROM asked"
)

# -- what is old; each takes a number of days, answers how many it removed, and is a function of the database as well

TABLES = (
    *("runs", "steps", "records", "checkpoints", "timers", "signals", "slots", "processes", "heartbeats", "lines"),
    *("execution_spans", "span_exports"),
)
_RUN_OF = {"execution_spans": "workflow_execution_id"}
_BEFORE = f"{NOW} - $1::double precision * 86400"
_UNSENT = (
    "EXISTS (SELECT FROM span_exports WHERE span_exports.run_id = runs.run_id AND span_exports.is_open"
    " AND span_exports.seq < runs.entry_count)"
)
_SENT = f"NOT {_UNSENT}"
"""Spans that are still to be sent are made of the log."""
_DUE_RUNS = (
    f"runs WHERE ended_at < {_BEFORE}"
    f" AND (run_key = '' OR ended_at < {NOW} - greatest($1::double precision * 86400, {KEY_KEPT_S}))"
)
_OLD_RUNS = f"{_DUE_RUNS} AND {_SENT}"

DROP_OLD_RUNS = (
    f"WITH old AS (SELECT run_id FROM {_OLD_RUNS} ORDER BY ended_at LIMIT 200 FOR UPDATE SKIP LOCKED), "
    + ", ".join(
        f"of_{table} AS (DELETE FROM {table} USING old WHERE {table}.{_RUN_OF.get(table, 'run_id')} = old.run_id)"
        for table in TABLES[1:]
    )
    + ", gone AS (DELETE FROM runs USING old WHERE runs.run_id = old.run_id RETURNING 1) SELECT count(*) FROM gone"
)
DROP_OLD_EVENTS = (
    f"WITH old AS (UPDATE runs SET entry_count = 0 WHERE ended_at < {_BEFORE} AND entry_count > 0 AND {_SENT}"
    " RETURNING run_id),"
    " said AS (DELETE FROM lines USING old WHERE lines.run_id = old.run_id),"
    " gone AS (DELETE FROM records USING old WHERE records.run_id = old.run_id RETURNING 1) SELECT count(*) FROM gone"
)
DROP_OLD_CHECKPOINTS = (
    "WITH gone AS (DELETE FROM checkpoints USING runs WHERE runs.run_id = checkpoints.run_id AND runs.ended_at IS NOT NULL"
    f" AND checkpoints.saved_at < {_BEFORE} RETURNING 1) SELECT count(*) FROM gone"
)
DROP_OLD_TIMERS = (
    # None fires before it is due, so that the index on that finds all.
    f"WITH gone AS (DELETE FROM timers WHERE status IN ('fired', 'cancelled') AND fire_at < {_BEFORE}"
    f" AND coalesce(fired_at, fire_at) < {_BEFORE} RETURNING 1) SELECT count(*) FROM gone"
)
DROP_UNSENT = (
    "WITH given_up AS (UPDATE span_exports SET is_open = FALSE WHERE is_open AND run_id IN"
    f" (SELECT run_id FROM {_DUE_RUNS} AND {_UNSENT}) RETURNING 1) SELECT count(*) FROM given_up"
)
COUNT_OLD_RUNS = f"SELECT count(*) FROM {_OLD_RUNS}"
COUNT_UNSENT = f"SELECT count(*) FROM {_DUE_RUNS} AND {_UNSENT}"

# -- what there is

FACTS = "SELECT name, value FROM facts WHERE name = 'generation'"
COUNT_RUNS = "SELECT status, count(*) FROM runs GROUP BY status ORDER BY status"
COUNT_ROWS = f"SELECT {', '.join(f'(SELECT count(*) FROM {table})' for table in TABLES)}"
OLDEST_RUN = "SELECT created_at FROM runs ORDER BY created_at LIMIT 1"
CHECKPOINT_BYTES = "SELECT coalesce(sum(size_bytes), 0)::bigint FROM checkpoints"
SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint FROM pg_class"
    " JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND relkind = 'r'"
)
OPEN_SPANS = (
    "INSERT INTO span_exports (run_id, seq, is_open, sent, refused, letters, reason, changed_at)"
    f" SELECT run_id, coalesce($2::bigint, 0), true, 0, 0, '[]', '', {NOW} FROM runs WHERE run_id = $1"
    " ON CONFLICT (run_id) DO UPDATE SET is_open = true, changed_at = excluded.changed_at,"
    " seq = coalesce($2::bigint, span_exports.seq),"
    " refused = CASE WHEN $2::bigint IS NULL THEN span_exports.refused ELSE 0 END,"
    " letters = CASE WHEN $2::bigint IS NULL THEN span_exports.letters ELSE '[]' END"
)
PUT_SPANS = (
    "UPDATE span_exports SET seq = $2::bigint, is_open = $3::boolean, sent = $4::bigint, refused = $5::bigint, letters = $6,"
    " reason = $7, changed_at = $8::double precision WHERE run_id = $1 AND seq <= $2::bigint"
)
FIND_LEAD = f"SELECT owner, lease_until > {NOW} FROM leads WHERE what = $1"
LEAD = (
    f"INSERT INTO leads (what, owner, lease_until) VALUES ($1, $2, {NOW} + $3::double precision) ON CONFLICT (what)"
    " DO UPDATE SET owner = excluded.owner, lease_until = excluded.lease_until"
    f" WHERE leads.owner = $2 OR leads.owner = $4 OR leads.lease_until <= {NOW} RETURNING what"
)
"""Values: what, owner, lease, and the owner that is known to be gone."""

# -- reading

FIND_KEY = "SELECT run_id, fingerprint FROM runs WHERE run_key = $1 AND run_key <> ''"
READ = "SELECT seq, encoding, body FROM records WHERE run_id = $1 AND seq > $2::bigint ORDER BY seq"
RUN = f"SELECT {_RUN_SHOWN} FROM runs WHERE run_id = $1"
STEPS = f"SELECT {', '.join(STEP_TABLE.columns)} FROM steps WHERE run_id = $1 ORDER BY position"
TIMERS = f"SELECT {', '.join(TIMER_TABLE.columns)} FROM timers WHERE run_id = $1 ORDER BY fire_at, timer_id"
SPANS = f"SELECT {', '.join(SPAN_TABLE.columns)} FROM execution_spans WHERE workflow_execution_id = $1 ORDER BY started_at, id"
CHECKPOINT = (
    "SELECT path, item_index, variant, encoding, data, seq, saved_at FROM checkpoints"
    " WHERE run_id = $1 AND path = $2 AND item_index = $3::bigint AND variant = $4"
)
ENDING = (
    "SELECT status, ended_at, EXISTS (SELECT FROM signals WHERE run_id = $1 AND signal_id = $2) FROM runs WHERE run_id = $1"
)
SIGNALS = (
    "SELECT name, encoding, payload, signal_id, sent_at, due, number FROM signals"
    " WHERE run_id = $1 AND number > $2::bigint ORDER BY number"
)
CHECKPOINTS = (
    "SELECT path, item_index, variant, token, size_bytes, seq, saved_at FROM checkpoints"
    " WHERE run_id = $1 ORDER BY path, item_index, variant"
)
CHECKPOINT_STATISTICS = "SELECT count(*), coalesce(sum(size_bytes), 0)::bigint FROM checkpoints WHERE saved_at >= 0"
PROCESSES = "SELECT path, item_index, pid, started, machine FROM processes WHERE run_id = $1 ORDER BY path, item_index, pid"
HEARTBEATS = "SELECT path, item_index, attempt, at FROM heartbeats WHERE run_id = $1 ORDER BY at"
DUE_TIMERS = (
    f"SELECT {', '.join(TIMER_TABLE.columns)} FROM timers WHERE status = 'pending' AND fire_at <= $1::double precision"
    " ORDER BY fire_at, run_id, timer_id LIMIT $2::bigint"
)
SLOTS = (
    f"SELECT slot_group, run_id, holder, priority, is_held FROM slots WHERE slot_group = $1 AND {_ALIVE}"
    " ORDER BY is_held DESC, priority DESC, place"
)
ALL_SLOTS = (
    f"SELECT slot_group, run_id, holder, priority, is_held FROM slots WHERE {_ALIVE}"
    " ORDER BY slot_group, is_held DESC, priority DESC, place"
)
CANCEL_REQUEST = "SELECT cancel_reason, cancel_force, signal_count FROM runs WHERE run_id = $1"


_EXPORTS = (
    f"SELECT {', '.join(f'span_exports.{name}' for name in EXPORT_TABLE.columns)}, runs.entry_count,"
    f" CASE WHEN runs.lease_until > {NOW} THEN runs.owner ELSE '' END"
    " FROM span_exports JOIN runs ON runs.run_id = span_exports.run_id"
)
OPEN_EXPORTS = (
    f"{_EXPORTS} WHERE span_exports.is_open AND span_exports.seq < runs.entry_count"
    " ORDER BY span_exports.run_id LIMIT $1::bigint"
)
REFUSED_EXPORTS = f"{_EXPORTS} WHERE span_exports.refused > 0 ORDER BY span_exports.run_id LIMIT $1::bigint"
EXPORT = f"{_EXPORTS} WHERE span_exports.run_id = $1"


_FILTERS = {
    "statuses": "status = ANY ({}::text[])",
    "workflow": "workflow = {}::text",
    "since": "created_at >= {}::double precision",
    "until": "created_at < {}::double precision",
    "prefix": "run_id >= {}::text AND run_id < {}::text",
    "key": "run_key = {}::text AND run_key <> ''",
    "orphaned": "status IN ('pending', 'queued', 'running', 'suspended', 'cancelling')"
    f" AND (owner = '' OR lease_until <= {NOW})",
    "cursor": "(created_at, run_id) < ({}::double precision, {}::text)",
}


_LINE_FILTERS = {
    "path": "(path = {}::text OR (path >= {}::text AND path < {}::text) OR (path >= {}::text AND path < {}::text))",
    "item": "((path = {}::text AND item_index = {}::bigint) OR (path >= {}::text AND path < {}::text))",
    "attempt": "attempt = {}::bigint",
}


def lines(filters: Collection[str]) -> str:
    """The statement that reads lines: run, after, level, values as of ``LineQuery.filters``, then a limit."""
    tests = ["run_id = {}::text", "seq > {}::bigint", "level >= {}::bigint", *(_LINE_FILTERS[name] for name in filters)]
    shown = ", ".join(LINE_TABLE.columns)
    return _numbered_marks(f"SELECT {shown}, seq FROM lines WHERE {' AND '.join(tests)} ORDER BY seq LIMIT {{}}::bigint")


def _numbered_marks(statement: str) -> str:
    return statement.format(*(f"${number}" for number in range(1, statement.count("{}") + 1)))


def runs(filters: Collection[str]) -> str:
    """The statement that lists runs, the newest first, with such filters (of ``RunQuery.filters``).

    Its values are theirs (the statuses one array), then a limit.
    """
    text = " AND ".join(_FILTERS[name] for name in filters)
    where = f" WHERE {text}" if text else ""
    return _numbered_marks(f"SELECT {_RUN_SHOWN} FROM runs{where} ORDER BY created_at DESC, run_id DESC LIMIT {{}}::bigint")
