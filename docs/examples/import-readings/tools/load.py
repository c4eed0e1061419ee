"""Load readings into a database."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from treadle import SyncContext


def load(ctx: SyncContext, /, rows: list[dict[str, str]], database: str, pause: float = 0) -> int:
    """Write a batch and the step's idempotency key in one transaction: a batch that is there is not written again."""
    readings = [(row["sensor"], int(row["hour"]), float(row["celsius"])) for row in rows]
    time.sleep(pause)
    Path(database).parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS batches (key TEXT PRIMARY KEY)")
        connection.execute("CREATE TABLE IF NOT EXISTS readings (sensor TEXT, hour INTEGER, celsius REAL)")
        fresh = connection.execute("INSERT OR IGNORE INTO batches VALUES (?)", (ctx.idempotency_key,))
        if fresh.rowcount:
            connection.executemany("INSERT INTO readings VALUES (?, ?, ?)", readings)
    return len(readings)
