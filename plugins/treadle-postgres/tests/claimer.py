"""A process of the tests of several processes: ``claimer.py claim|write|freeze DSN SCHEMA ...``."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress

import anyio
from logs import append, new_run, signal
from treadle import Secret
from treadle.errors import LeaseLostError, OwnedElsewhereError
from treadle_postgres import PostgresStore


async def claim(store: PostgresStore, count: int) -> None:
    """Say which of the runs were won, when everybody tries at once."""
    await store.run("r0")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        with suppress(OwnedElsewhereError):
            await store.claim(f"r{number}", f"host:{os.getpid()}@m/{os.getpid()}/x", 60.0, lambda _: False)
            print(f"won {number}", flush=True)


async def write(store: PostgresStore, count: int) -> None:
    """Make a run and write to it; say of each commit when it was begun and ended."""
    run_id = f"w{os.getpid()}"
    creation = await store.create(new_run(run_id))
    assert creation.claim is not None
    commits: list[tuple[float, float]] = []
    for number in range(count):
        begun = time.monotonic()
        await append(store, creation.claim, number + 2, signal(number))
        commits.append((begun, time.monotonic()))
    print(json.dumps([run_id, commits]), flush=True)


async def freeze(store: PostgresStore, count: int) -> None:
    """Own a run by a short lease and write to it until it has been taken away."""
    creation = await store.create(new_run("zombie", lease_s=0.3))
    assert creation.claim is not None
    print("ready", flush=True)
    for number in range(count):
        try:
            await append(store, creation.claim, number + 2, signal(number))
            await anyio.sleep(0.01)
        except LeaseLostError as error:
            print(f"fenced by {error.owner}", flush=True)
            return


def main() -> None:
    """Do what the arguments say."""
    what, dsn, schema, count = sys.argv[1:]
    store = PostgresStore(Secret(dsn), schema=schema)
    anyio.run({"claim": claim, "write": write, "freeze": freeze}[what], store, int(count))
    store.close()


if __name__ == "__main__":
    main()
