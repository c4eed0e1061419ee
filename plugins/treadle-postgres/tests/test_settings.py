"""How a store is configured, and what is never told."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest
from logs import new_run
from servers import PostgresServer
from treadle import Registry, Secret, TreadleError
from treadle.errors import ConfigInvalidError, StoreUnavailableError
from treadle_postgres import PostgresStore


def configured(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> PostgresStore:
    """The store that treadle makes of a ``[store]`` table."""
    (folder / "treadle.toml").write_text(f'[store]\nuse = "postgres"\n{text}', "utf-8")
    monkeypatch.chdir(folder)
    store = Registry.discover().make_store("postgres")
    assert isinstance(store, PostgresStore)
    return store


@pytest.mark.parametrize("source", ["env", "file"])
def test_the_address_comes_from_a_secret(
    server: PostgresServer, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """``dsn`` names an environment variable or a file; both are used as they are when the store is."""
    monkeypatch.setenv("TEST_DSN", server.dsn())
    (tmp_path / "dsn.txt").write_text(server.dsn() + "\n", "utf-8")
    place = {"env": "TEST_DSN", "file": "dsn.txt"}[source]
    store = configured(tmp_path, monkeypatch, f'dsn = {{{source} = "{place}"}}\nschema = "{schema}"\npool_size = 2\n')
    creation = anyio.run(store.create, new_run("r1"))
    store.close()

    assert creation.claim is not None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('dsn = "postgresql://u:hunter2@h/d"', "cannot be written into the configuration"),
        ('schema = "x"', "this setting is required"),
        ('dsn = {env = "D"}\nschema = "Robert\'); --"', "schema is a name"),
        ('dsn = {env = "D"}\npool_size = 1', "pool_size is at least 2"),
        ('dsn = {env = "D"}\ntimeout_s = 0', "timeout_s is more than 0"),
        ('dsn = {env = "D"}\ndurability = "half"', "durability"),
        ('dsn = {env = "D"}\nscheme = "x"', "did you mean"),
    ],
)
def test_settings_that_do_not_fit_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str) -> None:
    """Each with its name, before anything is connected to; never with the secret."""
    with pytest.raises(ConfigInvalidError) as caught:
        configured(tmp_path, monkeypatch, text)

    assert fault in str(caught.value).lower() or fault in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn", ["postgresql://me:hunter2@127.0.0.1:1/none", "host=127.0.0.1 port=1 password=hunter2", "hunter2 is no address"]
)
def test_credentials_are_in_no_message(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither an address that does not answer nor one that is none puts the password into an error or the log."""
    caplog.set_level(logging.DEBUG)
    store = PostgresStore(Secret(dsn))
    with pytest.raises(TreadleError) as caught:
        anyio.run(store.create, new_run("r1"))
    with pytest.raises(TreadleError):
        store.cancel_request("r1")
    store.close()

    told = "".join(str(error) for error in (caught.value, caught.value.__cause__, caught.value.__context__)) + caplog.text
    assert "hunter2" not in told
    assert "[store]" in told or "127.0.0.1:1" in told


def test_commits_are_as_durable_as_was_asked_for(server: PostgresServer, schema: str) -> None:
    """``full`` waits for the disk although the server's default does not; ``normal`` does not."""
    told = []
    for durability in ("full", "normal"):
        dsn = server.dsn() + "?options=-c%20synchronous_commit%3Doff"
        store = PostgresStore(Secret(dsn), schema=schema, durability=durability)
        with store._server.open_writer() as connection:
            told += connection.execute("SHOW synchronous_commit").fetchall()
        store.close()

    assert told == [("on",), ("off",)]


def test_a_key_that_cannot_be_kept_is_refused(server: PostgresServer, schema: str) -> None:
    """Two keys never become one by what the database leaves out."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    with pytest.raises(StoreUnavailableError, match="cannot keep"):
        anyio.run(store.create, new_run("r1", key="a\0b"))
    store.close()
