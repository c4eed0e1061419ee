"""Whole runs that are kept in Postgres, to their end or to where they were killed."""

from __future__ import annotations

import os
import signal as signals
import subprocess
import sys
import time
from pathlib import Path

import anyio
import attrs
import pytest
from logs import append, new_run, numbers, signal
from servers import PostgresServer
from treadle import Context, Registry, Secret, Workflow, arun, executor, resume
from treadle.errors import StoreUnavailableError
from treadle.ports import CancelRequest, Checkpoint, Commit, Rows, RunStatus, Signal, SpanRow
from treadle_postgres import PostgresStore, _cancels

SCRIPT = """
import sys
from treadle import Registry, Secret, Workflow, executor, run
from treadle_postgres import PostgresStore

@executor("demo.note")
def note(number: int) -> int:
    with open(sys.argv[3], "a") as file:
        file.write(f"{number}\\n")
    return number

workflow = Workflow("killed")
for number in range(12):
    workflow.step(f"s{number}", "demo.note", needs=[f"s{number - 1}"] if number else [], number=number)
store = PostgresStore(Secret(sys.argv[1]), schema=sys.argv[2])
run(workflow, registry=Registry.of(note), store=store, on_start=lambda handle: print(handle.run_id, flush=True))
"""


@pytest.mark.parametrize("commit", [2, 9])
def test_a_run_that_was_killed_is_resumed_without_doing_anything_again(
    server: PostgresServer, schema: str, tmp_path: Path, commit: int
) -> None:
    """kill -9 right after a commit: what was acknowledged is not done again, by whichever process goes on (G1, G2)."""
    notes = tmp_path / "notes"

    @executor("demo.note")
    def note(number: int) -> int:
        with notes.open("a") as file:
            file.write(f"{number}\n")
        return number

    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, server.dsn(), schema, str(notes)],
        env=os.environ | {"TREADLE_FAULTS": f"committed:{commit}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    before = notes.read_text().split() if notes.exists() else []
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    result = resume(killed.stdout.strip(), registry=Registry.of(note), store=store)
    store.close()
    done = [int(number) for number in notes.read_text().split()]

    assert killed.returncode == -signals.SIGKILL, killed.stderr
    assert len(before) < 12
    assert result.status == "completed"
    # The chain runs one by one: at most the step that was under way when its process died is done again.
    assert sorted(set(done)) == list(range(12))
    assert len(done) <= 13


@pytest.mark.anyio
async def test_a_cancel_that_another_process_asks_for_is_heard(server: PostgresServer, schema: str) -> None:
    """The run stops soon, although its owner does not ask the database over and over."""
    entered = anyio.Event()

    @executor("demo.wait")
    async def wait(ctx: Context, /) -> None:
        entered.set()
        await anyio.sleep(600)

    workflow = Workflow("cancelled")
    workflow.step("a", "demo.wait")
    store, other = (PostgresStore(Secret(server.dsn()), schema=schema) for _ in range(2))
    ids: list[str] = []

    async def cancel() -> None:
        await entered.wait()
        await other.request_cancel(ids[0], CancelRequest("enough"))

    begun = time.monotonic()
    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        result = await arun(
            workflow, registry=Registry.of(wait), store=store, on_start=lambda handle: ids.append(handle.run_id)
        )
    took = time.monotonic() - begun
    row = await other.run(ids[0])
    await anyio.to_thread.run_sync(store.close)
    await anyio.to_thread.run_sync(other.close)

    assert result.status == "cancelled"
    assert took < 60
    assert row is not None
    assert (row.status, row.owner) == (RunStatus.CANCELLED, "")


def test_cancels_are_announced_instead_of_asked_for(
    server: PostgresServer, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for a cancel costs the server nothing until there is one, and then it is heard without a beat."""
    monkeypatch.setattr(_cancels, "_JOIN_S", 60.0)
    store, other = (PostgresStore(Secret(server.dsn()), schema=schema) for _ in range(2))
    anyio.run(store.create, new_run("r1"))
    until = time.monotonic() + 60
    while store._cancels.known("r1") is None:
        assert time.monotonic() < until
        assert store.cancel_request("r1") is None
    begun = time.thread_time()
    for _ in range(20_000):
        assert store.cancel_request("r1") is None
    looking = time.thread_time() - begun
    anyio.run(other.request_cancel, "r1", CancelRequest("enough"))
    until = time.monotonic() + 60
    while (heard := store.cancel_request("r1")) is None:
        assert time.monotonic() < until
        time.sleep(0.005)
    listener = store._cancels._thread
    store.close()
    other.close()

    assert looking < 1.0  # of the processor: a turn to the server takes more than 50 us of it
    assert heard == CancelRequest("enough")
    assert listener is not None
    assert not listener.is_alive()  # it was woken: a command line must not wait for its listener


def test_a_beat_brings_a_cancel_whose_announcement_was_lost(server: PostgresServer, schema: str) -> None:
    """Where announcements do not pass (a pooler), the next beat tells."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    claim = anyio.run(store.create, new_run("r1")).claim
    assert claim is not None
    until = time.monotonic() + 60
    while store._cancels.known("r1") is None:
        assert time.monotonic() < until
        store.cancel_request("r1")
    with server.connect(schema) as connection:
        connection.execute("UPDATE runs SET cancel_reason = 'enough'")
    before = store.cancel_request("r1")
    store.beat(claim)
    after = store.cancel_request("r1")
    store.close()

    assert before is None
    assert after == CancelRequest("enough")


def test_signals_are_announced_instead_of_asked_for(server: PostgresServer, schema: str) -> None:
    """Looking for signals costs the server nothing until there is one; whoever drives the run hears it at once."""
    store, other = (PostgresStore(Secret(server.dsn()), schema=schema) for _ in range(2))
    anyio.run(store.create, new_run("r1"))
    until = time.monotonic() + 60
    while store._cancels.known("r1") is None:
        assert time.monotonic() < until
        assert list(store.signals("r1", 0)) == []
    begun = time.thread_time()
    for _ in range(20_000):
        assert list(store.signals("r1", 0)) == []
    looking = time.thread_time() - begun
    anyio.run(other.send_signal, "r1", Signal("go", {"n": 1}, "id1", 0.0))
    until = time.monotonic() + 60
    while not (heard := store.signals("r1", 0)):
        assert time.monotonic() < until
        time.sleep(0.005)
    store.close()
    other.close()

    assert looking < 1.0  # of the processor: a turn to the server takes more than 50 us of it
    assert [signal.payload for signal in heard] == [{"n": 1}]


@pytest.mark.anyio
async def test_texts_that_postgres_cannot_hold_come_back(server: PostgresServer, schema: str) -> None:
    """The log and checkpoints keep every character, and one odd text harms no commit that it shares a transaction with."""
    store = PostgresStore(Secret(server.dsn()), schema=schema)
    odd = "nul \0, half \ud800, grüße \U0001f600"

    async def one(run_id: str, text: str) -> None:
        creation = await store.create(new_run(run_id))
        assert creation.claim is not None
        await append(store, creation.claim, 2, signal(0, text))
        point = Checkpoint("a", None, "primary", text, {"x": [text]})
        await store.save(creation.claim, point)
        assert await store.load(run_id, "a") == point

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(one, f"r{number}", odd if number % 2 else "plain")
    records = await store.read("r1")
    assert await numbers(store, "r0") == ["signal 0"]
    await anyio.to_thread.run_sync(store.close)

    assert records[1].entry == signal(0, odd)


@pytest.mark.anyio
async def test_a_commit_that_the_database_refuses_fails_alone(server: PostgresServer, schema: str) -> None:
    """Those that were sent in the same transaction are kept, each once (G3)."""
    store = PostgresStore(Secret(server.dsn()), schema=schema, pool_size=2)
    refused: list[str] = []
    span = SpanRow("0" * 16, "0" * 32, "1" * 16, "demo.a", "a", "r5", 1, 1, 1.0)
    bad = attrs.evolve(span, status="unheard of")  # type: ignore[arg-type]  # that is the point

    async def one(run_id: str) -> None:
        claim = (await store.create(new_run(run_id))).claim
        assert claim is not None
        everybody.append(run_id)
        if len(everybody) == 10:
            complete.set()
        await complete.wait()
        rows = Rows(spans=(bad,) if run_id == "r5" else ())
        try:
            await store.commit(Commit(run_id, claim.epoch, 2, [signal(0)], rows))
        except StoreUnavailableError as error:
            refused.append(f"{run_id} {error.problem}")

    everybody: list[str] = []
    complete = anyio.Event()
    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(one, f"r{number}")
    kept = {f"r{number}": list(await numbers(store, f"r{number}")) for number in range(10)}
    await anyio.to_thread.run_sync(store.close)

    assert len(refused) == 1
    assert refused[0].startswith("r5 ")
    assert "status_check" in refused[0]
    assert kept == {f"r{number}": ["signal 0"] if number != 5 else [] for number in range(10)}
