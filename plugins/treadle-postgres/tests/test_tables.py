"""The tables and views that people and other programs look into."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import psycopg
import pytest
from logs import append, new_run, signal
from servers import PostgresServer
from treadle import Registry, Secret, TransientError, Workflow, executor, run
from treadle.errors import ConfigError
from treadle.ports import Checkpoint
from treadle_postgres import PostgresStore, _queries

Database = psycopg.Connection[tuple[object, ...]]

COLUMNS = {
    "execution_spans": "id trace_id parent_id executor_type task_id workflow_execution_id attempt stint started_at ended_at"
    " duration_ms status output_keys validation_issues error created_at",
    "steps": "run_id path item_index phase executor status attempt stint worker idempotency_key queued_at started_at ended_at"
    " duration_ms cost tokens error_type error_message reason position",
    "checkpoints": "run_id path item_index variant token encoding data size_bytes epoch seq saved_at",
    "records": "run_id seq at kind phase path encoding body",
    "timers": "run_id timer_id path item_index kind fire_at status created_at fired_at payload",
}
INDEXES = {
    "execution_spans_executor": "(executor_type, status, started_at DESC)",
    "execution_spans_workflow": "(workflow_execution_id)",
    "records_pkey": "(run_id, seq)",
    "records_phase": "(phase, at)",
    "records_path": "(path, run_id, seq)",
    "records_kind": "(kind, at)",
    "records_at": "(at)",
    "timers_due": "(status, fire_at, run_id, timer_id)",
    "checkpoints_saved": "(saved_at, size_bytes)",
}


@pytest.fixture
def database(server: PostgresServer, schema: str) -> Database:
    """The tables after a run with a retry, a foreach and a failure."""

    @executor("demo.answer")
    async def answer(number: int) -> dict[str, int]:
        if number == 2:
            raise TransientError("not\0 this \ud800 one")
        return {"number": number}

    workflow = Workflow("tables")
    workflow.step("each", "demo.answer", foreach=[1, 2, 3], number="${{ item }}", retry={"max_attempts": 2, "base": "10ms"})
    workflow.finally_step("last", "demo.answer", number=4)
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    result = run(workflow, registry=Registry.of(answer), store=store)
    store.close()
    assert result.status == "failed"
    return server.connect(schema)


def texts(database: Database, statement: str) -> list[tuple[object, ...]]:
    """What a statement answers."""
    return database.execute(statement).fetchall()


def test_tables_have_their_columns(database: Database, schema: str) -> None:
    """Names stay as they are: other programs read them (S0-32, S1-48, S1-49, S1-50, S1-51)."""
    for table, columns in COLUMNS.items():
        found = database.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s"
            " ORDER BY ordinal_position",
            (schema, table),
        ).fetchall()
        assert " ".join(str(name) for (name,) in found) == columns
    database.close()


def test_indexes_are_there(database: Database, schema: str) -> None:
    """Each by what it is for (S0-34, S1-50, S1-51, S1-54)."""
    rows = database.execute("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s", (schema,)).fetchall()
    found = {str(name): str(definition) for name, definition in rows}
    database.close()

    assert {name: found[name].partition(" btree ")[2] for name in INDEXES} == INDEXES


def test_executions_are_told_with_their_status(database: Database) -> None:
    """Each attempt has a row with whole milliseconds, keys of its output and its error (S0-32, S0-33)."""
    rows = texts(database, "SELECT task_id, status, output_keys, error, duration_ms >= 0 FROM execution_spans ORDER BY 1, 2")
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("UPDATE execution_spans SET status = 'unknown'")
    database.close()

    broken = "not\ufffd this \\ud800 one"
    assert rows == [
        ("each[0]", "completed", ["number"], "", True),
        ("each[1]", "failed", [], broken, True),
        ("each[1]", "failed", [], broken, True),
        ("each[2]", "completed", ["number"], "", True),
        ("finally/last", "completed", ["number"], "", True),
    ]


def test_records_are_never_changed(database: Database) -> None:
    """The log is an audit log: the database itself refuses to alter an entry (S1-50)."""
    with pytest.raises(psycopg.errors.RaiseException, match="never changed"):
        database.execute("UPDATE records SET kind = 'another'")
    database.close()


def test_views_say_what_goes_on(server: PostgresServer, schema: str, database: Database) -> None:
    """Statistics by phase, active tasks with the heartbeat of their owner, and pending timers (S1-52)."""
    stats = texts(database, "SELECT phase, status, tasks, attempts FROM task_stats_by_phase ORDER BY 1, 2")
    now = time.time()
    database.execute("UPDATE steps SET status = 'running' WHERE path = 'finally/last'")
    database.execute("UPDATE timers SET status = 'pending', fire_at = %s", (now - 5,))
    told = []
    for owner, beat in (("h:1", now), ("h:1", now - 60), ("", now)):
        database.execute("UPDATE runs SET owner = %s, heartbeat_at = %s", (owner, beat))
        told += texts(database, "SELECT path, heartbeat_status FROM active_tasks")
    timers = texts(database, "SELECT workflow, path, item_index, kind, is_overdue FROM pending_timers")
    database.close()

    assert stats == [
        ("finally", "completed", 1, 1),
        ("main", "completed", 2, 2),
        ("main", "failed", 2, 6),
    ]
    assert told == [("finally/last", "alive"), ("finally/last", "stale"), ("finally/last", "orphaned")]
    assert timers == [("tables", "each", 1, "retry", True)]


def test_what_is_old_can_be_removed(server: PostgresServer, schema: str) -> None:
    """Retention is there as functions of the database as well, whatever the search path of the one who calls (S1-53)."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)

    async def fill() -> None:
        for run_id in ("ended", "going"):
            creation = await store.create(new_run(run_id))
            assert creation.claim is not None
            await append(store, creation.claim, 2, signal(0))
            await store.save(creation.claim, Checkpoint("a", None, "primary", "t", saved_at=time.time() - 3 * 86400))

    anyio.run(fill)
    store.close()
    day = time.time() - 2 * 86400
    with server.connect(schema) as database:
        database.execute("UPDATE runs SET ended_at = %s WHERE run_id = 'ended'", (day,))
        for timer, status, at in (("old", "fired", day), ("new", "fired", time.time()), ("waits", "pending", day)):
            database.execute(
                "INSERT INTO timers VALUES ('going', %s, 'a', -1, 'retry', %s, %s, %s, %s, NULL)", (timer, at, status, at, at)
            )
    counts = []
    with server.connect() as elsewhere:  # with another search path
        for what in ("cleanup_old_checkpoints", "cleanup_old_events", "cleanup_fired_timers", "cleanup_old_runs"):
            for days in (5, 1, 1):
                counts += elsewhere.execute(f"SELECT {schema}.{what}(%s)", (days,)).fetchall()

    assert counts == [(0,), (1,), (0,), (0,), (2,), (0,), (0,), (1,), (0,), (0,), (1,), (0,)]


def test_every_table_that_knows_runs_is_cleaned(server: PostgresServer, schema: str) -> None:
    """A table with a column for the run stands in the list of those that a removed run is removed from."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    anyio.run(store.create, new_run("r1"))
    store.close()
    with server.connect(schema) as database:
        found = database.execute(
            "SELECT DISTINCT table_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema,"
            " table_name) WHERE table_schema = %s AND table_type = 'BASE TABLE' AND column_name IN ('run_id',"
            " 'workflow_execution_id')",
            (schema,),
        ).fetchall()

    assert {name for (name,) in found} == set(_queries.TABLES)


def test_what_is_too_old_goes_by_itself(server: PostgresServer, schema: str) -> None:
    """With ``keep_days`` a store removes old runs when a run begins; others stay."""
    store = PostgresStore(Secret(server.dsn()), schema=schema, keep_days=30)
    keeps_all = PostgresStore(Secret(server.dsn()), schema=schema)

    async def fill() -> None:
        for number, days in enumerate((40, 20)):
            await keeps_all.create(new_run(f"r{number}"))
            with server.connect(schema) as database:
                database.execute("UPDATE runs SET ended_at = %s WHERE run_id = %s", (time.time() - days * 86400, f"r{number}"))
        await store.create(new_run("r2"))

    anyio.run(fill)
    deadline = time.monotonic() + 60
    while anyio.run(keeps_all.run, "r0") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert anyio.run(keeps_all.run, "r1") is not None
    store.close()
    keeps_all.close()


def test_a_backup_is_left_to_better_tools(server: PostgresServer, schema: str, tmp_path: Path) -> None:
    """Nothing is written, and the error names the tool with the schema to use."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    with pytest.raises(ConfigError, match=f"pg_dump --schema={schema}"):
        anyio.run(store.backup, tmp_path / "copy")
    store.close()
    assert list(tmp_path.iterdir()) == []
