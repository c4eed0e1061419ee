"""Every statement of the store, by name. A test asks SQLite for the plan of each and wants an index in it."""

from __future__ import annotations

RUN_COLUMNS = (
    *("run_id", "workflow", "workflow_hash", "status", "trigger", "trace_id", "created_at", "ended_at", "stint", "run_key"),
    *("source", "reason", "culprit", "error_type", "error_message"),
)
STEP_COLUMNS = (
    *("run_id", "path", "item_index", "phase", "executor", "status", "attempt", "stint", "worker", "idempotency_key"),
    *("queued_at", "started_at", "ended_at", "cost", "tokens", "error_type", "error_message", "reason"),
)
TIMER_COLUMNS = (
    *("run_id", "timer_id", "path", "item_index", "kind", "fire_at", "status", "created_at", "fired_at", "payload"),
)
SPAN_COLUMNS = (
    *("id", "trace_id", "parent_id", "executor_type", "task_id", "workflow_execution_id", "attempt", "stint"),
    *("started_at", "ended_at", "duration_ms", "status", "output_keys", "validation_issues", "error", "created_at"),
)


def _upsert(table: str, columns: tuple[str, ...], key: tuple[str, ...], kept: tuple[str, ...] = ()) -> str:
    """Insert a row or change the one of the same key, which keeps its place in the order of insertion."""
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in (*key, *kept))
    marks = ", ".join("?" for _ in columns)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"


# -- writing

CREATE_RUN = (
    f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}, fingerprint, entry_count, epoch, owner, claimed_at, heartbeat_at,"
    f" lease_until, boot_id) VALUES ({', '.join('?' for _ in RUN_COLUMNS)}, ?, ?, 1, ?, ?, ?, ?, ?)"
)
FIND_KEY = "SELECT run_id, fingerprint FROM runs WHERE run_key = ? AND run_key <> ''"
ADVANCE = "UPDATE runs SET entry_count = ? WHERE run_id = ? AND epoch = ? AND entry_count = ?"
ADD_RECORD = "INSERT INTO records (run_id, seq, at, kind, phase, path, encoding, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
ADD_PAYLOAD = "INSERT INTO payloads (run_id, seq, body) VALUES (?, ?, ?)"
CHANGE_RUN = (
    f"UPDATE runs SET {', '.join(f'{name} = ?' for name in RUN_COLUMNS[1:])},"
    " owner = CASE WHEN ? THEN '' ELSE owner END WHERE run_id = ?"
)
PUT_STEP = _upsert("steps", STEP_COLUMNS, ("run_id", "path", "item_index"))
PUT_TIMER = _upsert("timers", TIMER_COLUMNS, ("run_id", "timer_id"))
PUT_SPAN = _upsert("execution_spans", SPAN_COLUMNS, ("id",), ("created_at",))
DROP_CHECKPOINTS = "DELETE FROM checkpoints WHERE run_id = ? AND path = ? AND item_index = ?"
DROP_ALL_CHECKPOINTS = "DELETE FROM checkpoints WHERE run_id = ? AND path = ?"
SAVE_CHECKPOINT = (
    "INSERT INTO checkpoints (run_id, path, item_index, variant, token, encoding, data, size_bytes, epoch, seq, saved_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, path, item_index, variant) DO UPDATE SET"
    " token = excluded.token, encoding = excluded.encoding, data = excluded.data, size_bytes = excluded.size_bytes,"
    " epoch = excluded.epoch, seq = excluded.seq, saved_at = excluded.saved_at"
    " WHERE (excluded.epoch, excluded.seq) >= (epoch, seq)"
)
OWNERSHIP = "SELECT owner, epoch, claimed_at, lease_until, boot_id, entry_count FROM runs WHERE run_id = ?"
TAKE = (
    "UPDATE runs SET owner = ?, epoch = epoch + 1, claimed_at = ?, heartbeat_at = ?, lease_until = ?, boot_id = ?"
    " WHERE run_id = ? RETURNING epoch"
)
LET_GO = "UPDATE runs SET owner = '' WHERE run_id = ? AND epoch = ?"
BEAT = "UPDATE runs SET heartbeat_at = ?, lease_until = ?, boot_id = ? WHERE run_id = ? AND epoch = ?"
REQUEST_CANCEL = (
    "UPDATE runs SET cancel_reason = ?, cancel_force = ? WHERE run_id = ? AND (cancel_reason IS NULL OR ? >= cancel_force)"
)

# -- reading

READ = (
    "SELECT records.seq, records.encoding, coalesce(payloads.body, records.body) FROM records"
    " LEFT JOIN payloads ON records.encoding >= 2 AND payloads.run_id = records.run_id AND payloads.seq = records.seq"
    " WHERE records.run_id = ? ORDER BY records.seq"
)
RUN = f"SELECT {', '.join(RUN_COLUMNS)}, owner, heartbeat_at FROM runs WHERE run_id = ?"
STEPS = f"SELECT {', '.join(STEP_COLUMNS)} FROM steps WHERE run_id = ? ORDER BY rowid"
TIMERS = f"SELECT {', '.join(TIMER_COLUMNS)} FROM timers WHERE run_id = ? ORDER BY fire_at, timer_id"
SPANS = f"SELECT {', '.join(SPAN_COLUMNS)} FROM execution_spans WHERE workflow_execution_id = ? ORDER BY started_at, id"
CHECKPOINT = (
    "SELECT path, item_index, variant, token, encoding, data, seq, saved_at FROM checkpoints"
    " WHERE run_id = ? AND path = ? AND item_index = ? AND variant = ?"
)
CANCEL_REQUEST = "SELECT cancel_reason, cancel_force FROM runs WHERE run_id = ?"


def runs(
    *, statuses: int = 0, workflow: bool = False, since: bool = False, until: bool = False, prefix: bool = False,
    key: bool = False, cursor: bool = False,
) -> str:  # fmt: skip
    """The statement that lists runs, the newest first, with the filters that are asked for; its values in the same order.

    ``prefix`` takes two values (from, below), ``cursor`` two (created at, id); the limit is the last.
    """
    tests = [f"status IN ({', '.join('?' for _ in range(statuses))})"] if statuses else []
    tests += ["workflow = ?"] if workflow else []
    tests += ["created_at >= ?"] if since else []
    tests += ["created_at < ?"] if until else []
    tests += ["run_id >= ? AND run_id < ?"] if prefix else []
    tests += ["run_key = ? AND run_key <> ''"] if key else []
    tests += ["(created_at, run_id) < (?, ?)"] if cursor else []
    where = f" WHERE {' AND '.join(tests)}" if tests else ""
    columns = ", ".join(RUN_COLUMNS)
    return f"SELECT {columns}, owner, heartbeat_at FROM runs{where} ORDER BY created_at DESC, run_id DESC LIMIT ?"
