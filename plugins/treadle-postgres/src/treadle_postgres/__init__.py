"""The Postgres store of treadle: several machines, one owner for each run, nothing acknowledged is lost."""

from treadle_postgres._store import PostgresStore

__all__ = ["PostgresStore"]
