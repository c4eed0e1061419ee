"""The tables, and how older stores come to have them."""

from __future__ import annotations

import hashlib
from typing import cast

import psycopg
from psycopg.rows import TupleRow
from treadle.errors import StoreUnavailableError
from treadle.ports import fault_point

from treadle_postgres import _queries as sql

Connection = psycopg.Connection[TupleRow]

# Names compare by their bytes (COLLATE "C"), whatever the database's language: then ranges of them use the indexes.
_FIRST = """
CREATE TABLE facts (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
INSERT INTO facts VALUES ('generation', replace(gen_random_uuid()::text, '-', ''));

CREATE TABLE runs (
    run_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    workflow TEXT COLLATE "C" NOT NULL,
    workflow_hash TEXT NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    trigger TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    stint BIGINT NOT NULL,
    run_key TEXT COLLATE "C" NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    culprit TEXT NOT NULL,
    error_type TEXT NOT NULL,
    error_message TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    entry_count BIGINT NOT NULL,
    commit_id UUID NOT NULL,
    epoch BIGINT NOT NULL,
    owner TEXT NOT NULL,
    claimed_at DOUBLE PRECISION NOT NULL,
    heartbeat_at DOUBLE PRECISION NOT NULL,
    lease_until DOUBLE PRECISION NOT NULL,
    cancel_reason TEXT,
    cancel_force BOOLEAN NOT NULL DEFAULT FALSE,
    signal_count BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX runs_key ON runs (run_key) WHERE run_key <> '';
CREATE INDEX runs_created ON runs (created_at, run_id);
CREATE INDEX runs_status ON runs (status, created_at, run_id);
CREATE INDEX runs_workflow ON runs (workflow, created_at, run_id);
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE records (
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    seq BIGINT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    phase TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    encoding SMALLINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (run_id, seq)
);
ALTER TABLE records ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX records_path ON records (path, run_id, seq);
CREATE INDEX records_phase ON records (phase, at);
CREATE INDEX records_kind ON records (kind, at);
CREATE INDEX records_at ON records (at);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION 'records are never changed';
END $body$;
CREATE TRIGGER records_are_kept BEFORE UPDATE ON records FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TABLE steps (
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    path TEXT COLLATE "C" NOT NULL,
    item_index BIGINT NOT NULL,
    phase TEXT COLLATE "C" NOT NULL,
    executor TEXT NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    attempt BIGINT NOT NULL,
    stint BIGINT NOT NULL,
    worker TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    queued_at DOUBLE PRECISION,
    started_at DOUBLE PRECISION,
    ended_at DOUBLE PRECISION,
    duration_ms BIGINT GENERATED ALWAYS AS (round((ended_at - queued_at) * 1000)::bigint) STORED,
    cost BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    error_type TEXT NOT NULL,
    error_message TEXT NOT NULL,
    reason TEXT NOT NULL,
    position BIGINT GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (run_id, path, item_index)
) WITH (fillfactor = 80);
CREATE INDEX steps_status ON steps (status, phase);

CREATE TABLE timers (
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    timer_id TEXT COLLATE "C" NOT NULL,
    path TEXT COLLATE "C" NOT NULL,
    item_index BIGINT NOT NULL,
    kind TEXT NOT NULL,
    fire_at DOUBLE PRECISION NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    fired_at DOUBLE PRECISION,
    payload TEXT,
    PRIMARY KEY (run_id, timer_id)
);
CREATE INDEX timers_due ON timers (status, fire_at, run_id, timer_id);

CREATE TABLE signals (
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    number BIGINT NOT NULL,
    signal_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    encoding SMALLINT NOT NULL,
    payload BYTEA NOT NULL,
    sent_at DOUBLE PRECISION NOT NULL,
    due DOUBLE PRECISION,
    PRIMARY KEY (run_id, number)
);
ALTER TABLE signals ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX signals_id ON signals (run_id, signal_id);

CREATE TABLE slots (
    slot_group TEXT COLLATE "C" NOT NULL,
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    holder TEXT COLLATE "C" NOT NULL,
    epoch BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    is_held BOOLEAN NOT NULL,
    place BIGINT GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (run_id, holder, slot_group)
);
CREATE INDEX slots_line ON slots (slot_group, is_held DESC, priority DESC, place);

CREATE TABLE checkpoints (
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    path TEXT COLLATE "C" NOT NULL,
    item_index BIGINT NOT NULL,
    variant TEXT COLLATE "C" NOT NULL,
    token TEXT NOT NULL,
    encoding SMALLINT NOT NULL,
    data BYTEA NOT NULL,
    size_bytes BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    saved_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (run_id, path, item_index, variant)
);
ALTER TABLE checkpoints ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX checkpoints_saved ON checkpoints (saved_at, size_bytes);

CREATE TABLE processes (
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    path TEXT COLLATE "C" NOT NULL,
    item_index BIGINT NOT NULL,
    pid BIGINT NOT NULL,
    started TEXT COLLATE "C" NOT NULL,
    machine TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (run_id, path, item_index, pid, started, machine)
);

CREATE TABLE heartbeats (
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    path TEXT COLLATE "C" NOT NULL,
    item_index BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    at DOUBLE PRECISION NOT NULL
);
CREATE INDEX heartbeats_run ON heartbeats (run_id, at);

CREATE TABLE lines (
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    run_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    path TEXT COLLATE "C" NOT NULL,
    item_index BIGINT NOT NULL,
    at DOUBLE PRECISION NOT NULL,
    attempt BIGINT NOT NULL,
    level BIGINT NOT NULL,
    text TEXT NOT NULL,
    logger TEXT NOT NULL,
    stream TEXT NOT NULL,
    variant TEXT NOT NULL,
    stint BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    PRIMARY KEY (run_id, seq)
);
CREATE INDEX lines_path ON lines (run_id, path, item_index, seq);

CREATE TABLE execution_spans (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    trace_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    executor_type TEXT COLLATE "C" NOT NULL,
    task_id TEXT NOT NULL,
    workflow_execution_id TEXT COLLATE "C" NOT NULL REFERENCES runs (run_id),
    attempt BIGINT NOT NULL,
    stint BIGINT NOT NULL,
    started_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    duration_ms BIGINT,
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'partial_failure')),
    output_keys TEXT[] NOT NULL,
    validation_issues TEXT[] NOT NULL,
    error TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL DEFAULT extract(epoch FROM clock_timestamp())
) WITH (fillfactor = 80);
CREATE INDEX execution_spans_executor ON execution_spans (executor_type, status, started_at DESC);
CREATE INDEX execution_spans_workflow ON execution_spans (workflow_execution_id);

CREATE TABLE span_exports (
    run_id TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    is_open BOOLEAN NOT NULL,
    sent BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    letters TEXT NOT NULL,
    reason TEXT NOT NULL,
    changed_at DOUBLE PRECISION NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX span_exports_open ON span_exports (run_id) WHERE is_open;
CREATE INDEX span_exports_refused ON span_exports (run_id) WHERE refused > 0;

CREATE TABLE leads (
    what TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    lease_until DOUBLE PRECISION NOT NULL
);

CREATE VIEW active_tasks AS
SELECT steps.run_id, runs.workflow, steps.path, nullif(steps.item_index, -1) AS item_index, steps.phase, steps.executor,
    steps.status, steps.attempt, steps.worker, steps.queued_at, runs.heartbeat_at,
    CASE WHEN runs.owner = '' THEN 'orphaned'
         WHEN runs.heartbeat_at < extract(epoch FROM now()) - 30 THEN 'stale' ELSE 'alive' END AS heartbeat_status
FROM steps JOIN runs ON runs.run_id = steps.run_id
WHERE steps.status IN ('pending', 'running', 'retrying');

CREATE VIEW task_stats_by_phase AS
SELECT run_id, phase, status, count(*) AS tasks, sum(attempt) AS attempts, avg(duration_ms) AS avg_duration_ms,
    max(duration_ms) AS max_duration_ms, sum(cost) AS cost, sum(tokens) AS tokens
FROM steps GROUP BY run_id, phase, status;

CREATE VIEW pending_timers AS
SELECT timers.run_id, runs.workflow, timers.timer_id, timers.path, nullif(timers.item_index, -1) AS item_index, timers.kind,
    timers.fire_at, timers.fire_at < extract(epoch FROM now()) AS is_overdue
FROM timers JOIN runs ON runs.run_id = timers.run_id
WHERE timers.status = 'pending';
"""

_CLEANERS = {
    "cleanup_old_checkpoints": (sql.DROP_OLD_CHECKPOINTS, "Removes checkpoints that are so old, of runs that have ended."),
    "cleanup_old_events": (sql.DROP_OLD_EVENTS, "Removes the logs of runs that ended so long ago; their rows stay."),
    "cleanup_fired_timers": (sql.DROP_OLD_TIMERS, "Removes timers that fired or were cancelled so long ago."),
    "cleanup_old_runs": (sql.DROP_OLD_RUNS, "Removes runs that ended so long ago, with all of theirs, at most 200 at once."),
}
_FUNCTIONS = "".join(
    f"CREATE FUNCTION {name}(days DOUBLE PRECISION) RETURNS BIGINT LANGUAGE sql SET search_path FROM CURRENT"
    f" AS $body$ {statement} $body$;\nCOMMENT ON FUNCTION {name} IS '{comment}';\n"
    for name, (statement, comment) in _CLEANERS.items()
)

MIGRATIONS: tuple[str, ...] = (_FIRST + _FUNCTIONS,)
"""What leads from each version to the next; version n has had the first n of them."""

VERSION = len(MIGRATIONS)

VERSIONS = "treadle_versions"
"""The table that tells which migrations a schema has had, and that it is treadle's."""

# From the tables themselves: what to_regclass and its like remember may be older than the lock.
_FIND = (
    "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1), EXISTS (SELECT FROM pg_class"
    " JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND relname = $2), EXISTS (SELECT FROM pg_class"
    " JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1)"
)
# As JSON: the table of a development state may have no digest.
_LATEST = f"SELECT version, to_jsonb({VERSIONS}) ->> 'digest' FROM {VERSIONS} ORDER BY version DESC LIMIT 1"


def digest(version: int) -> str:
    """What tells the tables of a version from those of a state between versions, which have the same number."""
    text = " ".join("\n".join(MIGRATIONS[:version]).split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def migrate(connection: Connection, schema: str, where: str) -> int:
    """Bring a schema to this version, each step whole or not at all: one that is killed in between goes on the next time.

    Args:
        connection: In autocommit mode, with the schema as its search path.
        schema: Its name.
        where: For messages.

    Returns:
        The version that it had.

    Raises:
        StoreUnavailableError: It is no schema of treadle's, or one of a later version or of none.
    """
    version = before = version_of(connection, schema, where)
    while version < VERSION:
        with connection.transaction():
            # Until the end of the transaction: of many processes that come at once, one at a time goes on from here.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"treadle {schema}",))
            version = version_of(connection, schema, where)  # another process may have been quicker
            if version == VERSION:
                break
            if not version:
                _make_schema(connection, schema, where)
            connection.execute(MIGRATIONS[version], prepare=False)
            fault_point("in_migration")
            version += 1
            connection.execute(f"INSERT INTO {VERSIONS} (version, digest) VALUES ($1, $2)", (version, digest(version)))
    return before


def _make_schema(connection: Connection, schema: str, where: str) -> None:
    has_schema, has_versions, has_any = _one(connection, _FIND, (schema, VERSIONS))
    if not has_schema:  # asked first: making one takes a right that is not needed when it is there
        connection.execute(f'CREATE SCHEMA "{schema}"')
    elif has_any and not has_versions:
        raise StoreUnavailableError(
            f"Schema {schema} of {where} holds tables that are not treadle's.", "Choose another schema in [store]."
        )
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {VERSIONS} (version INTEGER PRIMARY KEY, digest TEXT NOT NULL,"
        " applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
    )


def version_of(connection: Connection, schema: str, where: str) -> int:
    """The version of a schema; 0 when there is nothing of treadle's in it."""
    _, has_versions, _ = _one(connection, _FIND, (schema, VERSIONS))
    found = connection.execute(_LATEST).fetchone() if has_versions else None
    version, known = (0, "") if found is None else cast("tuple[int, str | None]", found)
    if version > VERSION:
        raise StoreUnavailableError(
            f"Store {where} was written by a later version of treadle-postgres (format {version}; this one knows {VERSION}).",
            "Update treadle-postgres, or choose another schema in [store].",
        )
    if version and known != digest(version):
        raise StoreUnavailableError(
            f"Schema {schema} of {where} has tables of an unknown format: it was written by a development state of"
            f" treadle-postgres, before format {version} was final.",
            "Keep it for what wrote it, or drop it, and choose another schema in [store].",
        )
    return version


def _one(connection: Connection, statement: str, values: tuple[object, ...]) -> TupleRow:
    row = connection.execute(statement, values).fetchone()
    assert row is not None, "an aggregate or a function answers one row"
    return row
