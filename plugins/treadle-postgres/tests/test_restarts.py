"""The server goes away in the middle of a run, and comes back or does not."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from logs import append, new_run, numbers, signal
from servers import PostgresServer
from treadle import Registry, Secret, Workflow, executor, resume, run
from treadle.errors import StoreUnavailableError
from treadle_postgres import PostgresStore


@pytest.fixture(scope="module")
def restarting(server_programs: Path, server_folder: Path) -> Iterator[PostgresServer]:
    """A server that only these tests use."""
    made = PostgresServer(server_programs, server_folder / "restarting")
    yield made
    made.remove()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_run_goes_on_when_the_server_comes_back(restarting: PostgresServer, schema: str, mode: str) -> None:
    """A restart, tidy or as by kill -9, delays the run; every step runs once and all is kept (fault 27, G1, G2)."""
    done: Counter[int] = Counter()

    def restart() -> None:
        restarting.stop(mode=mode)
        restarting.start()

    restart_meanwhile = threading.Thread(target=restart)

    @executor("demo.count")
    def count(number: int) -> int:
        done[number] += 1
        if number == 3:
            restart_meanwhile.start()
        return number

    workflow = Workflow("restarted")
    for number in range(8):
        workflow.step(f"s{number}", "demo.count", needs=[f"s{number - 1}"] if number else [], number=number)
    store = PostgresStore(Secret(restarting.dsn()), schema=schema, timeout_s=300)
    try:
        result = run(workflow, registry=Registry.of(count), store=store)
    finally:
        store.close()
        if done[3]:
            restart_meanwhile.join()  # pg_ctl sees later than the run that the server is back; the next test may stop it then

    assert result.status == "completed"
    assert done == dict.fromkeys(range(8), 1)


def test_a_run_stops_when_the_server_stays_away_and_is_resumed(restarting: PostgresServer, schema: str) -> None:
    """After bounded attempts the error says where the store is and what to do; resuming does only what was not acknowledged."""
    done: Counter[int] = Counter()
    ids: list[str] = []

    @executor("demo.count")
    def count(number: int) -> int:
        done[number] += 1
        if number == 2 and done[2] == 1:
            restarting.stop()
        return number

    workflow = Workflow("stopped")
    for number in range(4):
        workflow.step(f"s{number}", "demo.count", needs=[f"s{number - 1}"] if number else [], number=number)
    store = PostgresStore(Secret(restarting.dsn()), schema=schema, timeout_s=0.5)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError) as caught:
        run(workflow, registry=Registry.of(count), store=store, on_start=lambda handle: ids.append(handle.run_id))
    took = time.monotonic() - begun
    restarting.start()
    result = resume(ids[0], registry=Registry.of(count), store=store)
    store.close()

    assert took < 60
    assert f"127.0.0.1:{restarting.port}" in caught.value.problem
    assert "resume" in caught.value.remedy
    assert result.status == "completed"
    assert done == {0: 1, 1: 1, 2: 2, 3: 1}


@pytest.mark.anyio
async def test_a_server_that_is_not_there_is_told_at_once(restarting: PostgresServer, schema: str) -> None:
    """Nobody waits for a server that was never reached; and once it is there, the same store uses it."""
    restarting.stop()
    store = PostgresStore(Secret(restarting.dsn()), schema=schema, timeout_s=600)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        await store.create(new_run("r1"))
    took = time.monotonic() - begun
    restarting.start()
    creation = await store.create(new_run("r1"))
    assert creation.claim is not None
    await append(store, creation.claim, 2, signal(0))
    assert await numbers(store, "r1") == ["signal 0"]
    await anyio.to_thread.run_sync(store.close)

    assert took < 60
