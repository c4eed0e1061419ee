"""The SQLite store of treadle: one file, one host, nothing acknowledged is lost."""

from treadle_sqlite._store import SqliteStore

__all__ = ["SqliteStore"]
