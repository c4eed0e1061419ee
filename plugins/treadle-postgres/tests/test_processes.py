"""Several processes, as on several machines, use one store."""

from __future__ import annotations

import json
import os
import signal as signals
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest
from logs import append, new_run, numbers, signal
from servers import PostgresServer
from treadle import Secret
from treadle.errors import OwnedElsewhereError
from treadle_postgres import PostgresStore

PROCESSES = 4
RUNS = 40


def start(what: str, server: PostgresServer, schema: str, count: int) -> subprocess.Popen[str]:
    """A process of ``claimer.py``."""
    command = [sys.executable, str(Path(__file__).with_name("claimer.py")), what, server.dsn(), schema, str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_of_processes_that_claim_at_once_one_wins(server: PostgresServer, schema: str) -> None:
    """Four processes claim forty runs at once: each run has one winner (G8, fault 30, W9)."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    for number in range(RUNS):
        creation = await store.create(new_run(f"r{number}"))
        assert creation.claim is not None
        await store.release(creation.claim)
    processes = [start("claim", server, schema, RUNS) for _ in range(PROCESSES)]
    assert [line(process) for process in processes] == ["ready"] * PROCESSES
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [text for process in processes for text in process.communicate(timeout=300)[0].splitlines()]
    owners = {number: await store.run(f"r{number}") for number in range(RUNS)}
    store.close()

    assert [process.returncode for process in processes] == [0] * PROCESSES
    assert sorted(won) == sorted(f"won {number}" for number in range(RUNS))
    assert {row.owner for row in owners.values() if row} <= {f"host:{process.pid}" for process in processes}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_no_writer_starves(server: PostgresServer, schema: str) -> None:
    """Four processes that make the tables and write keep everything; none waits long while others are served (fault 30)."""
    processes = [start("write", server, schema, 30) for _ in range(PROCESSES)]
    told = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    kept = [await numbers(store, run_id) for run_id, _ in told]
    store.close()

    assert [process.returncode for process in processes] == [0] * PROCESSES
    assert kept == [[f"signal {number}" for number in range(30)]] * PROCESSES
    for run_id, commits in told:
        others = [commit for other, theirs in told if other != run_id for commit in theirs]
        for begun, ended in commits:
            # Where the whole machine is busy all wait; who starves sees the others served meanwhile.
            overtook = sum(begun < theirs and done < ended for theirs, done in others)
            assert ended - begun < 2.0 or overtook < 30


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_process_that_was_stopped_past_its_lease_writes_nothing_more(server: PostgresServer, schema: str) -> None:
    """When it wakes, its writes are refused, and it is told who has the run now (G8, W4, fault 31)."""
    process = start("freeze", server, schema, 10_000)
    assert line(process) == "ready"
    os.kill(process.pid, signals.SIGSTOP)
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    with anyio.fail_after(60):
        while True:
            try:
                claim = await store.claim("zombie", "host:2@b/2/y", 60.0, lambda _: False)
                break
            except OwnedElsewhereError:
                await anyio.sleep(0.02)
    before = await numbers(store, "zombie")
    os.kill(process.pid, signals.SIGCONT)
    told = line(process)
    after = await numbers(store, "zombie")
    await append(store, claim, len(after) + 2, signal(-1))
    process.communicate(timeout=300)
    store.close()

    assert told == "fenced by host:2"
    assert after == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_leases_are_held_against_the_time_of_the_database(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is hours ahead takes nothing away from others."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    await store.create(new_run("r1"))
    monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
    with pytest.raises(OwnedElsewhereError):
        await store.claim("r1", "host:2@b/2/y", 60.0, lambda _: False)
    row = await store.run("r1")
    store.close()

    assert row is not None
    assert row.heartbeat_at is not None
    assert row.heartbeat_at < 4_000_000_000.0
