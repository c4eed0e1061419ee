"""Stores that every version has written stay readable, and their runs go on."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import apsw
import pytest
from treadle import Secret
from treadle_postgres import PostgresStore
from treadle_sqlite import SqliteStore

sys.path.insert(0, str(Path(__file__).parents[1] / "golden_stores"))

from golden_runs import (  # type: ignore[import-not-found]  # found by the path above
    HERE,
    POSTGRES_FORMAT,
    SCHEMA,
    SQLITE_FORMAT,
    PostgresServer,
    check,
    postgres_server,
)

SQLITE = sorted(HERE.glob("sqlite-*.db.gz"))
POSTGRES = sorted(HERE.glob("postgres-*.sql.gz"))
REMEDY = "until this format has been released, write its file again: python tests/golden_stores/golden_runs.py"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of its own."""
    with postgres_server() as made:
        yield made


@pytest.mark.parametrize("file", SQLITE, ids=[file.name for file in SQLITE])
def test_a_sqlite_store_of_every_format_is_read_and_goes_on(tmp_path: Path, file: Path) -> None:
    """It opens, lists, reads; its key finds its run; its suspended run is resumed from its checkpoint (fault 43)."""
    path = tmp_path / "runs.db"
    path.write_bytes(gzip.decompress(file.read_bytes()))
    store = SqliteStore(path=path)
    anyio.run(check, store)
    store.close()


@pytest.mark.parametrize("file", POSTGRES, ids=[file.name for file in POSTGRES])
def test_a_postgres_store_of_every_format_is_read_and_goes_on(server: PostgresServer, file: Path) -> None:
    """The same, of a dump."""
    with server.connect() as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
    dump = gzip.decompress(file.read_bytes())
    command = [str(server.program("psql")), "--quiet", "--set=ON_ERROR_STOP=1", server.dsn()]
    subprocess.run(command, input=dump, check=True, capture_output=True)
    store = PostgresStore(Secret(server.dsn()), schema=SCHEMA)
    anyio.run(check, store)
    store.close()


def test_every_format_has_its_files() -> None:
    """From the first one on."""
    assert [int(re.findall(r"\d+", file.name)[0]) for file in SQLITE] == list(range(1, SQLITE_FORMAT + 1))
    assert [int(re.findall(r"\d+", file.name)[0]) for file in POSTGRES] == list(range(1, POSTGRES_FORMAT + 1))


def test_files_of_the_latest_format_have_its_tables(tmp_path: Path, server: PostgresServer) -> None:
    """A change of the tables is a new format, with a migration, and not a change of one that stores have already."""
    path = tmp_path / "golden.db"
    path.write_bytes(gzip.decompress(SQLITE[-1].read_bytes()))
    fresh = SqliteStore(path=tmp_path / "fresh.db")
    anyio.run(fresh.stats)
    fresh.close()
    tables: list[dict[str, object]] = []
    for file in (path, tmp_path / "fresh.db"):
        connection = apsw.Connection(str(file))
        tables.append({str(row[0]): row[1] for row in connection.execute("SELECT name, sql FROM sqlite_schema")})
        connection.close()
    assert tables[0] == tables[1], REMEDY

    store = PostgresStore(Secret(server.dsn()), schema="fresh")
    anyio.run(store.stats)
    store.close()
    command = [str(server.program("pg_dump")), "--no-owner", "--schema-only", "--schema=fresh", server.dsn()]
    now = subprocess.run(command, check=True, capture_output=True, text=True).stdout.replace("fresh", SCHEMA)
    golden = gzip.decompress(POSTGRES[-1].read_bytes()).decode()
    assert _statements(now) <= _statements(golden), REMEDY


def _statements(dump: str) -> set[str]:
    """The definitions in a dump."""
    return {part.strip() for part in re.split(r";\n\n", dump) if re.match(r"(--.*\n|\s)*(CREATE|ALTER)", part)}
