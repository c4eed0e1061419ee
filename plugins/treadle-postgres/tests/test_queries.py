"""Every statement of the store finds its rows by an index (S0-34, S1-54)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import anyio
import psycopg
import pytest
from logs import new_run
from servers import PostgresServer
from treadle import Secret
from treadle_postgres import PostgresStore
from treadle_postgres import _queries as sql

FILTERS = ("statuses", "workflow", "since", "until", "prefix", "key", "orphaned", "cursor")
STATEMENTS = {
    name: value
    for name, value in vars(sql).items()
    if name[0].isupper() and isinstance(value, str) and value.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH"))
}
LISTS = {
    "runs " + " ".join(chosen): sql.runs(chosen)
    for count in (0, 1, 2, len(FILTERS))
    for chosen in itertools.combinations(FILTERS, count)
} | {"lines " + " ".join(chosen): sql.lines(chosen) for chosen in ((), ("path",), ("attempt",), ("item",), ("item", "attempt"))}


@pytest.fixture(scope="module")
def tables(server: PostgresServer) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection to tables that may not be read from end to end."""
    store = PostgresStore(Secret(server.dsn()), schema="queries")
    anyio.run(store.create, new_run("r1"))
    store.close()
    with server.connect("queries") as connection:
        # What only this planner setting makes an index be used for has one, and uses it by itself once there are rows.
        connection.execute("SET enable_seqscan = off")
        yield connection


def nodes(plan: dict[str, object]) -> Iterator[dict[str, object]]:
    """A plan's steps, from the top."""
    yield plan
    for part in plan.get("Plans", []):  # type: ignore[attr-defined]  # a list, by Postgres's format
        yield from nodes(part)


@pytest.mark.parametrize("name", [*STATEMENTS, *LISTS])
def test_statement_uses_indexes(tables: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    """No table is read from end to end, and no list is sorted that an index has in order."""
    statement = (STATEMENTS | LISTS)[name]
    with psycopg.RawCursor(tables) as cursor:
        row = cursor.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {statement}").fetchone()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(str(row[0]))
    kinds = [str(node["Node Type"]) for node in nodes(plan[0]["Plan"])]

    assert "Seq Scan" not in kinds
    assert any("Index" in kind for kind in kinds) or any(node.get("Conflict Resolution") for node in nodes(plan[0]["Plan"]))


def test_lists_are_read_in_the_order_of_an_index(tables: psycopg.Connection[tuple[object, ...]]) -> None:
    """The newest runs, all or of one workflow, come out of the index one by one: a page costs the same in any number."""
    for chosen in ((), ("workflow",), ("cursor",), ("since", "until")):
        statement = LISTS["runs " + " ".join(chosen)]
        with psycopg.RawCursor(tables) as cursor:
            row = cursor.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {statement}").fetchone()
        assert row is not None
        assert "Sort" not in [node["Node Type"] for node in nodes(row[0][0]["Plan"])]  # type: ignore[index]  # JSON


def test_the_statements_of_the_module_are_found() -> None:
    """The test above walks them all."""
    assert {"COMMIT", "COMMIT_RUN", "CREATE", "TAKE", "BEAT", "READ", "STEPS", "SAVE_CHECKPOINT"} <= set(STATEMENTS)
    assert len(STATEMENTS) > 30
