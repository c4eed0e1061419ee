"""The server: how to reach it, and what its errors mean."""

from __future__ import annotations

import logging
import re
from typing import Literal

import attrs
import psycopg
from psycopg import conninfo
from treadle import Secret
from treadle.errors import ConfigError, StoreUnavailableError

from treadle_postgres._schema import Connection, migrate

_log = logging.getLogger("treadle.postgres")

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_DEFAULTS = {
    "application_name": "treadle",
    "connect_timeout": "10",
    # A peer that is gone without a word is noticed in about 25 s instead of in hours.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_PASSING = (
    "40",  # a deadlock, or a transaction that could not be put in order: nothing was kept
    "55P03",  # a lock was not to be had
    "25006",  # read only: a server that became a standby
    "57",  # it shuts down, starts, or took too long
    "53",  # no space, no memory, too many connections
    "58",  # the disk
    "08",  # the connection
)
_REMEDIES = {
    "53100": "Free some space on the server's disk, then resume.",
    "53300": "Raise max_connections of the server, or lower pool_size in [store]; then resume.",
    "25006": "The server is a standby: let dsn in [store] name the primary (target_session_attrs=read-write), then resume.",
    "42501": "Grant the store's user CREATE and USAGE on the schema, and the tables in it.",
    "3F000": "Create the schema, or let the store's user create it.",
}


_told: set[str] = set()
"""Servers without fsync that were complained of."""


def is_passing(error: psycopg.Error, connection: Connection | None) -> bool:
    """Whether another attempt may do: the server or the way to it is out of order, and not the statement."""
    if connection is None or connection.closed:
        return True
    return (error.sqlstate or "").startswith(_PASSING)


@attrs.frozen
class Server:
    """Where a store is.

    Attributes:
        dsn: Address and credentials, as a URL or as ``key=value`` pairs.
        schema: Of the tables.
        durability: ``full`` or ``normal``.
        timeout_s: Longest time that a statement may take.
        formats: Those that were found when connections were opened to write, the first one first.
    """

    dsn: Secret
    schema: str
    durability: Literal["full", "normal"]
    timeout_s: float
    formats: list[int] = attrs.field(factory=list, eq=False)

    def check(self) -> None:
        """Refuse settings that do not fit."""
        if not _SCHEMA.fullmatch(self.schema) or self.schema.startswith("pg_"):
            raise ValueError(f"schema is a name of at most 40 small letters, digits and _, not {self.schema!r}")
        if self.durability not in ("full", "normal"):
            raise ValueError(f"durability is 'full' or 'normal', not {self.durability!r}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is more than 0, not {self.timeout_s!r}")

    def _parameters(self) -> dict[str, str]:
        try:
            given = conninfo.conninfo_to_dict(self.dsn.reveal())
        except psycopg.Error:  # its message repeats the text, and with it the password
            raise ConfigError(
                "[store] dsn: this is no address of a Postgres server.",
                "Write postgresql://USER:PASSWORD@HOST:5432/DATABASE, or 'host=HOST dbname=DATABASE user=USER'.",
            ) from None
        return {name: str(value) for name, value in given.items()}

    @property
    def where(self) -> str:
        """The place, for messages; without credentials."""
        try:
            given = self._parameters()
        except ConfigError:
            return f"in Postgres (schema {self.schema})"
        host, port = given.get("host") or given.get("hostaddr") or "localhost", given.get("port") or "5432"
        return f"postgresql://{host}:{port}/{given.get('dbname') or ''} (schema {self.schema})"

    def connect(self, *, is_reader: bool = False) -> Connection:
        """A new connection, each statement a transaction of its own unless it is told otherwise."""
        given = self._parameters()
        settings = {
            "search_path": self.schema,
            # What decides about conditions is written for this one; another default would only add errors.
            "default_transaction_isolation": r"read\ committed",
            "statement_timeout": str(int(self.timeout_s * 1000)),
            # A process that was stopped in the middle of a transaction must not lock others out.
            "idle_in_transaction_session_timeout": "10000",
            "default_transaction_read_only": "on" if is_reader else "off",
            "plan_cache_mode": "auto" if is_reader else "force_generic_plan",
            "client_encoding": "UTF8",
        }
        options = " ".join([given.get("options", ""), *(f"-c {name}={value}" for name, value in settings.items())]).strip()
        info = conninfo.make_conninfo("", **{**_DEFAULTS, **given, "options": options})
        connection: Connection = psycopg.connect(
            info, autocommit=True, cursor_factory=psycopg.RawCursor, prepare_threshold=None if is_reader else 0
        )
        connection.add_notice_handler(lambda notice: _log.debug("%s: %s", self.where, notice.message_primary))
        return connection

    def open_writer(self) -> Connection:
        """A connection that writes: the tables are there, and a commit is as durable as was asked for."""
        connection = self.connect()
        try:
            before = migrate(connection, self.schema, self.where)
            self.formats.append(before)
            row = connection.execute("SELECT current_setting('synchronous_commit'), current_setting('fsync')").fetchone()
            commits, syncs = row or ("on", "on")
            if self.durability == "normal":
                connection.execute("SET synchronous_commit = off")
            elif commits == "off":
                connection.execute("SET synchronous_commit = on")
            if self.durability == "full" and syncs == "off" and self.where not in _told:
                _told.add(self.where)
                _log.warning("%s has fsync switched off: a power cut may take what was acknowledged", self.where)
        except BaseException:
            connection.close()
            raise
        return connection

    def open_reader(self) -> Connection:
        """A connection that only reads."""
        return self.connect(is_reader=True)

    def unavailable(self, error: BaseException) -> StoreUnavailableError:
        """An error of the server's, or of the way to it, in words of treadle."""
        state = (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""
        what = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        remedy = _REMEDIES.get(state, "See that the server runs and can be reached, then resume; nothing acknowledged is lost.")
        return StoreUnavailableError(f"Store {self.where} cannot be used: {what.rstrip('.')}.", remedy)
