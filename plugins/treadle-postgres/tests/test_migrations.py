"""How the tables come about."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from logs import new_run
from servers import PostgresServer
from treadle import Secret
from treadle.errors import StoreUnavailableError
from treadle_postgres import PostgresStore
from treadle_postgres._schema import VERSION, VERSIONS


def use(server: PostgresServer, schema: str) -> None:
    """Open a store and write to it."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    try:
        anyio.run(store.create, new_run("r1"))
    finally:
        store.close()


def test_a_migration_that_is_killed_is_made_the_next_time(server: PostgresServer, schema: str) -> None:
    """Nothing of it is left behind, and the next process begins anew (fault 27)."""
    command = [sys.executable, str(Path(__file__).with_name("claimer.py")), "write", server.dsn(), schema, "1"]
    killed = subprocess.run(
        command, env=os.environ | {"TREADLE_FAULTS": "in_migration:1"}, capture_output=True, timeout=300, check=False
    )
    with server.connect() as connection:
        left = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    use(server, schema)

    assert killed.returncode == -signals.SIGKILL
    assert left == (0,)


def test_opening_a_store_again_changes_nothing(server: PostgresServer, schema: str) -> None:
    """Migrations are made once, however often and from however many stores it is opened."""
    use(server, schema)
    with server.connect(schema) as connection:
        before = connection.execute(f"SELECT version, applied_at FROM {VERSIONS}").fetchall()
        store = PostgresStore(Secret(server.dsn()), schema=schema)
        assert anyio.run(store.run, "r1") is not None
        store.close()
        after = connection.execute(f"SELECT version, applied_at FROM {VERSIONS}").fetchall()

    assert before == after
    assert [version for version, _ in after] == list(range(1, VERSION + 1))


def test_the_store_of_a_later_version_is_refused(server: PostgresServer, schema: str) -> None:
    """It is not touched, and the message says what to update."""
    use(server, schema)
    with server.connect(schema) as connection:
        connection.execute(f"INSERT INTO {VERSIONS} (version, digest) VALUES ({VERSION + 1}, '')")
    with pytest.raises(StoreUnavailableError, match="later version") as caught:
        use(server, schema)

    assert "Update treadle-postgres" in caught.value.remedy


@pytest.mark.parametrize(
    "make_it_old", [f"UPDATE {VERSIONS} SET digest = 'another'", f"ALTER TABLE {VERSIONS} DROP COLUMN digest"]
)
def test_a_format_between_versions_is_refused_in_clear_words(server: PostgresServer, schema: str, make_it_old: str) -> None:
    """A schema of a development state has the number of a format but not its tables."""
    use(server, schema)
    with server.connect(schema) as connection:
        connection.execute(make_it_old)
    with pytest.raises(StoreUnavailableError, match="unknown format") as caught:
        use(server, schema)

    assert "another schema" in caught.value.remedy


def test_a_schema_of_somebody_else_is_refused(server: PostgresServer, schema: str) -> None:
    """Tables that are not treadle's are left alone; an empty schema is used."""
    with server.connect() as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        connection.execute(f"CREATE TABLE {schema}.runs (mine INTEGER)")
        with pytest.raises(StoreUnavailableError, match="not treadle's"):
            use(server, schema)
        connection.execute(f"DROP TABLE {schema}.runs")
    use(server, schema)


def test_a_user_needs_rights_in_the_schema_alone(server: PostgresServer, schema: str) -> None:
    """Who may not make schemas uses one that was made for them."""
    user = f"u_{schema}"
    with server.connect() as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN")
        store = PostgresStore(Secret(server.dsn().replace("tester@", f"{user}@")), schema=schema)
        with pytest.raises(StoreUnavailableError, match="permission denied") as caught:
            anyio.run(store.create, new_run("r1"))
        connection.execute(f"CREATE SCHEMA {schema} AUTHORIZATION {user}")
        creation = anyio.run(store.create, new_run("r1"))
        store.close()

    assert "Grant" in caught.value.remedy
    assert creation.claim is not None
