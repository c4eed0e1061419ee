"""A run that is alone commits on the event loop's thread while the disk is quick; everything is kept as it always is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import apsw
import attrs
import pytest
from treadle.errors import LeaseLostError, StoreUnavailableError
from treadle.ports import Claim, Commit, Rows, SignalReceived, Store, watch_fault_points
from treadle.testing import StoreContract
from treadle_sqlite import SqliteStore, _worker
from writing import AT, new_run, numbers

AFTER = _worker.QUICK_IN_A_ROW


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An open store."""
    opened = SqliteStore(path=tmp_path / "runs.db")
    yield opened
    opened.close()


@pytest.fixture
def is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is quick whatever else the machine does."""
    monkeypatch.setattr(_worker, "QUICK_S", 1e6)


@pytest.fixture
def threads() -> Iterator[list[bool]]:
    """For each commit, whether it was made on this thread."""
    here = threading.get_ident()
    made: list[bool] = []

    def listen(point: str) -> None:
        if point == "committed":
            made.append(threading.get_ident() == here)

    stop = watch_fault_points(listen)
    yield made
    stop()


def one(seq: int, run_id: str = "r", epoch: int = 1, *, is_alone: bool = True) -> Commit:
    """A commit of one record."""
    return Commit(run_id, epoch, seq, [SignalReceived(AT, f"n{seq}")], Rows(), is_alone)


async def append(store: Store, count: int, first: int = 2, run_id: str = "r") -> None:
    """Append records, one by one."""
    for seq in range(first, first + count):
        await store.commit(one(seq, run_id))


@pytest.mark.usefixtures("is_quick")
def test_a_lone_run_commits_on_its_own_thread(store: SqliteStore, threads: list[bool]) -> None:
    """After some quick commits in a row; one with more going on, or a large one, goes the usual way and counts as well."""

    async def main() -> None:
        await store.create(new_run())
        threads.clear()
        await append(store, AFTER + 3)
        assert threads == [*[False] * AFTER, True, True, True]
        await store.commit(one(AFTER + 5, is_alone=False))
        large = attrs.evolve(one(AFTER + 6), entries=[SignalReceived(AT, "large", "x" * 100_000)])
        await store.commit(large)
        await append(store, 1, AFTER + 7)
        assert threads[AFTER + 3 :] == [False, False, True]

    anyio.run(main)
    assert numbers(store.path) == list(range(1, AFTER + 8))


@pytest.mark.parametrize("quick_s", [0.0, 1e6])
def test_a_slow_disk_never_blocks_the_event_loop(
    store: SqliteStore, threads: list[bool], monkeypatch: pytest.MonkeyPatch, quick_s: float
) -> None:
    """One slow commit, and the next ones are left to the writer's thread until that has been quick again for a while."""
    monkeypatch.setattr(_worker, "QUICK_S", quick_s)

    async def main() -> None:
        await store.create(new_run())
        await append(store, AFTER + 2)
        monkeypatch.setattr(_worker, "QUICK_S", 0.0)
        await append(store, 1, AFTER + 4)
        monkeypatch.setattr(_worker, "QUICK_S", 1e6)
        threads.clear()
        await append(store, AFTER + 1, AFTER + 5)

    anyio.run(main)
    assert threads == [*[False] * AFTER, True]


@pytest.mark.usefixtures("is_quick")
def test_runs_at_the_same_time_share_commits(store: SqliteStore, threads: list[bool]) -> None:
    """Of several runs none is alone, so that their commits can be grouped."""

    async def main() -> None:
        for name in ("a", "b"):
            await store.create(new_run(name))
        for seq in range(2, 40):
            for name in ("a", "b"):
                await store.commit(one(seq, name))

    anyio.run(main)
    assert not any(threads)
    assert numbers(store.path, "b") == list(range(1, 40))


@pytest.mark.usefixtures("is_quick")
def test_the_lock_of_another_process_is_not_waited_for_on_the_event_loop(store: SqliteStore) -> None:
    """The loop goes on and can do what lets the other one go; then the commit is made."""

    async def main() -> None:
        await store.create(new_run())
        await append(store, AFTER + 1)
        other = apsw.Connection(str(store.path))
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as group:
            group.start_soon(append, store, 1, AFTER + 3)
            await anyio.sleep(0.05)
            other.execute("COMMIT")
        other.close()

    anyio.run(main)
    assert numbers(store.path) == list(range(1, AFTER + 4))


@pytest.mark.usefixtures("is_quick")
def test_what_is_refused_is_refused_there_too(store: SqliteStore, threads: list[bool]) -> None:
    """A claim that was lost and a place that is taken are errors that change nothing, and the next commit is made (G8)."""

    async def main() -> None:
        await store.create(new_run())
        await append(store, AFTER + 1)
        for wrong, error in ((one(AFTER + 3, epoch=0), LeaseLostError), (one(2), Exception)):
            with pytest.raises(error):
                await store.commit(wrong)
        await append(store, 1, AFTER + 3)
        assert threads[-1]
        with pytest.raises(KeyboardInterrupt):
            store._write().try_here(_interrupted, "r")
        await append(store, AFTER + 1, AFTER + 4)

    anyio.run(main)
    assert numbers(store.path) == list(range(1, 2 * AFTER + 5))


def _interrupted(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM records")
    raise KeyboardInterrupt


@pytest.mark.usefixtures("is_quick")
def test_a_file_that_goes_away_is_noticed_there_too(store: SqliteStore) -> None:
    """What is written into a file without a name is not acknowledged (G1)."""

    async def main() -> None:
        await store.create(new_run())
        await append(store, AFTER + 1)
        store.path.rename(store.path.with_suffix(".old"))
        for seq in (AFTER + 3, AFTER + 4):
            with pytest.raises(StoreUnavailableError, match="deleted"):
                await store.commit(one(seq))

    anyio.run(main)


@pytest.mark.usefixtures("is_quick")
def test_the_log_is_brought_into_the_file_all_the_same(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, threads: list[bool]
) -> None:
    """The writer's thread is woken for it when a lone run has made the write-ahead log long."""
    monkeypatch.setattr(_worker, "CHECKPOINT_PAGES", 30)
    woken = threading.Event()
    checkpoint = _worker.Writer._checkpoint

    def noted(self: _worker.Writer, connection: apsw.Connection, mode: int) -> None:
        checkpoint(self, connection, mode)
        assert threading.current_thread().name == "treadle-sqlite-writer"
        woken.set()

    async def main() -> None:
        await store.create(new_run())
        await append(store, AFTER)
        woken.clear()
        monkeypatch.setattr(_worker.Writer, "_checkpoint", noted)
        seq = AFTER + 2
        while not woken.is_set():
            assert seq < 2_000
            await append(store, 1, seq)
            seq += 1

    anyio.run(main)
    assert any(threads)


class AloneStore(SqliteStore):
    """Takes every commit for a lone one."""

    async def commit(self, commit: Commit) -> None:
        """Append, on the caller's thread."""
        await super().commit(attrs.evolve(commit, is_alone=True))


@pytest.mark.usefixtures("is_quick")
class TestAloneStore(StoreContract):
    """The port's promises, with every commit on the thread of whoever asks (G1, G3, G6, G8, G13)."""

    @pytest.fixture(autouse=True)
    def from_the_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No quick commits have to come before."""
        monkeypatch.setattr(_worker, "QUICK_IN_A_ROW", 0)

    def make_store(self, folder: Path) -> Store:
        return AloneStore(path=folder / "runs.db")


def test_a_closed_store_says_so(store: SqliteStore) -> None:
    """Also to a lone run."""
    claim = Claim("r", "host:1@x", 1)

    async def main() -> None:
        await store.create(new_run())
        await append(store, AFTER + 2)
        store.close()
        with pytest.raises(StoreUnavailableError, match="closed"):
            await store.commit(one(AFTER + 4, claim.run_id))

    anyio.run(main)
