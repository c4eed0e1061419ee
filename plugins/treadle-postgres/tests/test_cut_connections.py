"""A connection that is cut in any moment costs time, and nothing else (windows W2; G1, G2)."""

from __future__ import annotations

import os
import random
from collections import Counter
from functools import partial

import anyio
import pytest
from logs import append, new_run, numbers, signal
from proxies import CUTS, Cut, Proxy
from servers import PostgresServer
from treadle import Registry, Secret, Workflow, executor, run
from treadle.ports import Checkpoint, Creation
from treadle_postgres import PostgresStore

CUTS_RUN = int(os.environ.get("TREADLE_CUTS", "20"))


def through(proxy: Proxy, server: PostgresServer, schema: str) -> PostgresStore:
    """A store that reaches the server by the proxy."""
    return PostgresStore(Secret(server.dsn(proxy.port)), schema=schema, timeout_s=120)


async def write_some(store: PostgresStore, proxy: Proxy, cuts: random.Random) -> None:
    """Eight commits of a run, with three cuts among them; each commit is acknowledged once."""
    creation = await store.create(new_run("r1"))
    assert creation.claim is not None
    proxy.cut_randomly(cuts, 3, most=3)
    for number in range(8):
        await append(store, creation.claim, number + 2, signal(number))
    assert await numbers(store, "r1") == [f"signal {number}" for number in range(8)]


@pytest.mark.parametrize("seed", range(CUTS_RUN))
def test_a_commit_whose_answer_is_lost_is_kept_once(server: PostgresServer, schema: str, seed: int) -> None:
    """Wherever the connection is cut, every commit is in the log once, and whoever waited is told so (fault 27)."""
    with Proxy(server.port) as proxy:
        store = through(proxy, server, schema)
        try:
            anyio.run(write_some, store, proxy, random.Random(seed), backend=("asyncio", "trio")[seed % 2])
        finally:
            store.close()

    assert len(proxy.cuts) >= 2


@pytest.mark.anyio
@pytest.mark.parametrize("how", CUTS)
async def test_every_write_survives_a_cut(server: PostgresServer, schema: str, how: Cut) -> None:
    """Creating, claiming, saving, beating and letting go are done once as well, whatever was lost."""
    with Proxy(server.port) as proxy:
        store = through(proxy, server, schema)
        await store.create(new_run("r0"))  # the tables are there
        proxy.cut(1, how, needle=b"r1")
        creation = await store.create(new_run("r1", key="k"))
        assert creation.claim is not None
        assert (creation.run_id, creation.claim.epoch) == ("r1", 1)
        proxy.cut(1, how, needle=b"r1")
        await store.save(creation.claim, Checkpoint("a", None, "primary", "token"))
        proxy.cut(1, how, needle=b"r1")
        await anyio.to_thread.run_sync(store.beat, creation.claim)
        proxy.cut(1, how, needle=b"r1")
        await store.release(creation.claim)
        proxy.cut(1, how, needle=b"host:2")  # where it is taken, not where it is asked who has it
        claim = await store.claim("r1", "host:2@b/2/y", 60.0, lambda _: False)
        assert claim.epoch == 2
        await append(store, claim, 2, signal(0))
        kept = await store.load("r1", "a")
        assert kept is not None
        assert kept.token == "token"
        assert await store.create(new_run("r2", key="k")) == Creation("r1", None)
        store.close()

    assert proxy.cuts == [how] * 5


@pytest.mark.anyio
async def test_commits_that_share_a_transaction_survive_cuts(server: PostgresServer, schema: str) -> None:
    """Twelve runs that write at once lose nothing and repeat nothing while six connections are cut."""
    with Proxy(server.port) as proxy:
        store = through(proxy, server, schema)
        await store.create(new_run("r"))

        async def one(run_id: str) -> None:
            creation = await store.create(new_run(run_id))
            assert creation.claim is not None
            for number in range(12):
                await append(store, creation.claim, number + 2, signal(number))
            assert await numbers(store, run_id) == [f"signal {number}" for number in range(12)]

        proxy.cut_randomly(random.Random(7), 6, most=4)
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(partial(one, f"r{number}"))
        store.close()

    assert len(proxy.cuts) == 6


@pytest.mark.parametrize("seed", range(2))
def test_no_step_of_a_whole_run_is_done_twice(server: PostgresServer, schema: str, seed: int) -> None:
    """A run whose connections are cut six times completes, and each of its steps ran once (G2)."""
    done: Counter[int] = Counter()

    @executor("demo.count")
    async def count(number: int) -> int:
        done[number] += 1
        return number

    workflow = Workflow("cut")
    for number in range(12):
        after = [f"s{number - 1}"] if number % 4 else []
        workflow.step(f"s{number}", "demo.count", needs=after, number=number)
    with Proxy(server.port) as proxy:
        store = through(proxy, server, schema)
        assert anyio.run(store.run, "nobody") is None  # a server that was never reached is told at once
        proxy.cut_randomly(random.Random(seed), 6, most=6)
        result = run(workflow, registry=Registry.of(count), store=store, backend=("asyncio", "trio")[seed % 2])
        store.close()

    assert result.status == "completed"
    assert done == dict.fromkeys(range(12), 1)
    assert proxy.cuts
