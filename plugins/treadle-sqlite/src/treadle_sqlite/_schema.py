"""The tables, and how older stores come to have them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import apsw
from treadle.errors import StoreUnavailableError
from treadle.ports import fault_point

APPLICATION_ID = 0x7472646C
"""``trdl``: what tells a store of treadle from other SQLite files."""

_FIRST = """
CREATE TABLE facts (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
INSERT INTO facts VALUES ('generation', lower(hex(randomblob(16))));

CREATE TABLE runs (
    run_id TEXT NOT NULL PRIMARY KEY,
    workflow TEXT NOT NULL,
    workflow_hash TEXT NOT NULL,
    status TEXT NOT NULL,
    trigger TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    ended_at REAL,
    stint INTEGER NOT NULL,
    run_key TEXT NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    culprit TEXT NOT NULL,
    error_type TEXT NOT NULL,
    error_message TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    entry_count INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    owner TEXT NOT NULL,
    claimed_at REAL NOT NULL,
    heartbeat_at REAL NOT NULL,
    lease_until REAL NOT NULL,
    boot_id TEXT NOT NULL,
    cancel_reason TEXT,
    cancel_force INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX runs_key ON runs (run_key) WHERE run_key <> '';
CREATE INDEX runs_created ON runs (created_at, run_id);
CREATE INDEX runs_status ON runs (status, created_at, run_id);
CREATE INDEX runs_workflow ON runs (workflow, created_at, run_id);
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE records (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    phase TEXT NOT NULL,
    path TEXT NOT NULL,
    encoding INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX records_run ON records (run_id, seq);
CREATE TRIGGER records_are_kept BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'records are never changed'); END;

CREATE TABLE payloads (
    run_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX payloads_run ON payloads (run_id, seq);

CREATE TABLE steps (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    path TEXT NOT NULL,
    item_index INTEGER NOT NULL,
    phase TEXT NOT NULL,
    executor TEXT NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    stint INTEGER NOT NULL,
    worker TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    queued_at REAL,
    started_at REAL,
    ended_at REAL,
    duration_ms INTEGER GENERATED ALWAYS AS (CAST(round((ended_at - queued_at) * 1000) AS INTEGER)) VIRTUAL,
    cost INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    error_type TEXT NOT NULL,
    error_message TEXT NOT NULL,
    reason TEXT NOT NULL
);
CREATE UNIQUE INDEX steps_run ON steps (run_id, path, item_index);

CREATE TABLE timers (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    timer_id TEXT NOT NULL,
    path TEXT NOT NULL,
    item_index INTEGER NOT NULL,
    kind TEXT NOT NULL,
    fire_at REAL NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    fired_at REAL,
    payload BLOB
);
CREATE UNIQUE INDEX timers_run ON timers (run_id, timer_id);
CREATE INDEX timers_due ON timers (status, fire_at, run_id, timer_id);

CREATE TABLE signals (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    number INTEGER NOT NULL,
    signal_id TEXT NOT NULL,
    name TEXT NOT NULL,
    encoding INTEGER NOT NULL,
    payload BLOB NOT NULL,
    sent_at REAL NOT NULL,
    due REAL
);
CREATE UNIQUE INDEX signals_run ON signals (run_id, number);
CREATE UNIQUE INDEX signals_id ON signals (run_id, signal_id);

CREATE TABLE slots (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    slot_group TEXT NOT NULL,
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    is_held INTEGER NOT NULL
);
CREATE UNIQUE INDEX slots_holder ON slots (run_id, holder, slot_group);
CREATE INDEX slots_line ON slots (slot_group, is_held DESC, priority DESC, place);

CREATE TABLE checkpoints (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    path TEXT NOT NULL,
    item_index INTEGER NOT NULL,
    variant TEXT NOT NULL,
    token TEXT NOT NULL,
    encoding INTEGER NOT NULL,
    data BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    saved_at REAL NOT NULL
);
CREATE UNIQUE INDEX checkpoints_step ON checkpoints (run_id, path, item_index, variant);
CREATE INDEX checkpoints_saved ON checkpoints (saved_at, size_bytes);

CREATE TABLE processes (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    item_index INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    started TEXT NOT NULL,
    machine TEXT NOT NULL
);
CREATE UNIQUE INDEX processes_step ON processes (run_id, path, item_index, pid, started, machine);
CREATE INDEX processes_run ON processes (run_id);

CREATE TABLE heartbeats (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    item_index INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX heartbeats_run ON heartbeats (run_id, at);

CREATE TABLE lines (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    path TEXT NOT NULL,
    item_index INTEGER NOT NULL,
    at REAL NOT NULL,
    attempt INTEGER NOT NULL,
    level INTEGER NOT NULL,
    text TEXT NOT NULL,
    logger TEXT NOT NULL,
    stream TEXT NOT NULL,
    variant TEXT NOT NULL,
    stint INTEGER NOT NULL,
    generation INTEGER NOT NULL
);
CREATE INDEX lines_run ON lines (run_id, seq);
CREATE INDEX lines_path ON lines (run_id, path, item_index, seq);

CREATE TABLE execution_spans (
    id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    executor_type TEXT NOT NULL,
    task_id TEXT NOT NULL,
    workflow_execution_id TEXT NOT NULL REFERENCES runs (run_id),
    attempt INTEGER NOT NULL,
    stint INTEGER NOT NULL,
    started_at REAL NOT NULL,
    ended_at REAL,
    duration_ms INTEGER,
    status TEXT NOT NULL,
    output_keys TEXT NOT NULL,
    validation_issues TEXT NOT NULL,
    error TEXT NOT NULL,
    created_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400)
);
CREATE INDEX execution_spans_executor ON execution_spans (executor_type, status, started_at DESC);
CREATE UNIQUE INDEX execution_spans_workflow ON execution_spans (workflow_execution_id, id);

CREATE TABLE span_exports (
    run_id TEXT NOT NULL PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    letters TEXT NOT NULL,
    reason TEXT NOT NULL,
    changed_at REAL NOT NULL
);
CREATE INDEX span_exports_open ON span_exports (run_id) WHERE is_open = 1;
CREATE INDEX span_exports_refused ON span_exports (run_id) WHERE refused > 0;

CREATE TABLE leads (
    what TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    lease_until REAL NOT NULL,
    boot_id TEXT NOT NULL
);

CREATE VIEW active_tasks AS
SELECT steps.run_id, runs.workflow, steps.path, nullif(steps.item_index, -1) AS item_index, steps.phase, steps.executor,
    steps.status, steps.attempt, steps.worker, steps.queued_at, runs.heartbeat_at,
    CASE WHEN runs.owner = '' THEN 'orphaned'
         WHEN runs.heartbeat_at < (julianday('now') - 2440587.5) * 86400 - 30 THEN 'stale' ELSE 'alive' END AS heartbeat_status
FROM runs JOIN steps ON steps.run_id = runs.run_id
WHERE runs.status IN ('pending', 'queued', 'running', 'suspended', 'cancelling')
    AND steps.status IN ('pending', 'running', 'retrying');

CREATE VIEW task_stats_by_phase AS
SELECT run_id, phase, status, count(*) AS tasks, sum(attempt) AS attempts, avg(duration_ms) AS avg_duration_ms,
    max(duration_ms) AS max_duration_ms, sum(cost) AS cost, sum(tokens) AS tokens
FROM steps GROUP BY run_id, phase, status;

CREATE VIEW pending_timers AS
SELECT timers.run_id, runs.workflow, timers.timer_id, timers.path, nullif(timers.item_index, -1) AS item_index, timers.kind,
    timers.fire_at, timers.fire_at < (julianday('now') - 2440587.5) * 86400 AS is_overdue
FROM timers JOIN runs ON runs.run_id = timers.run_id
WHERE timers.status = 'pending';
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)
"""What leads from each version to the next; version n has had the first n of them."""

VERSION = len(MIGRATIONS)

AUDIT_INDEXES = """
CREATE INDEX IF NOT EXISTS records_path ON records (path, run_id, seq);
CREATE INDEX IF NOT EXISTS records_phase ON records (phase, at);
CREATE INDEX IF NOT EXISTS records_kind ON records (kind, at);
CREATE INDEX IF NOT EXISTS records_at ON records (at);
"""
"""For questions to the log across runs, which only people ask: every commit would pay for them."""

_FIND_DIGEST = "SELECT value FROM facts WHERE name = 'format'"
_SET_DIGEST = "INSERT INTO facts (name, value) VALUES ('format', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


def digest(version: int) -> str:
    """What tells the tables of a version from those of a state between versions, which have the same number."""
    text = " ".join("\n".join(MIGRATIONS[:version]).split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def migrate(connection: apsw.Connection, path: str, begin: Callable[[], None]) -> int:
    """Bring a store to this version, each step whole or not at all: one that is killed in between goes on the next time.

    Args:
        connection: Of the writer.
        path: For messages.
        begin: Begins a write transaction.

    Returns:
        The version that it had.

    Raises:
        StoreUnavailableError: It is no store of treadle's, or one of a later version or of none.
    """
    before = version_of(connection, path)
    if before == VERSION:
        return before
    while True:
        begin()
        try:
            version = version_of(connection, path)  # another process may have been quicker
            if version == VERSION:
                connection.execute("ROLLBACK")
                return before
            connection.execute(MIGRATIONS[version])
            connection.execute(_SET_DIGEST, (digest(version + 1),))
            fault_point("in_migration")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def version_of(connection: apsw.Connection, path: str) -> int:
    """The version of a store; 0 for an empty file."""
    application, version = (int(str(connection.pragma(name))) for name in ("application_id", "user_version"))
    is_empty = connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None
    if application != APPLICATION_ID and not (is_empty and not application and not version):
        raise StoreUnavailableError(f"{path} is not a store of treadle.", "Choose another path in [store].")
    if version > VERSION:
        raise StoreUnavailableError(
            f"Store {path} was written by a later version of treadle-sqlite (format {version}; this one knows {VERSION}).",
            "Update treadle-sqlite, or choose another path in [store].",
        )
    if version and _digest_of(connection) != digest(version):
        raise StoreUnavailableError(
            f"Store {path} has tables of an unknown format: it was written by a development state of treadle-sqlite,"
            f" before format {version} was final.",
            "Move the file (and -wal, -shm) away, to be read by what wrote it, or choose another path in [store].",
        )
    return version


def _digest_of(connection: apsw.Connection) -> str:
    try:
        found = connection.execute(_FIND_DIGEST).fetchone()
    except apsw.SQLError:  # there is not even that table
        return ""
    return "" if found is None else str(found[0])
