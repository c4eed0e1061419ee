"""The kit for authors of stores: a class to derive a test from."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar, Protocol

import anyio
import attrs

from treadle._log_rows import LogRows, rows_of
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    Entry,
    ErrorInfo,
    Evaluated,
    GiveUp,
    Issue,
    ItemEnded,
    Json,
    MapStarted,
    Outcome,
    RetryAfter,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SignalReceived,
    SpanRecord,
    StepEnded,
    StepStatus,
    StintOpened,
    TimerFired,
)
from treadle._store_records import (
    BeatRow,
    CancelRequest,
    Checkpoint,
    CheckpointRow,
    CheckpointStatistics,
    Claim,
    Commit,
    Creation,
    LineQuery,
    LogLine,
    NewRun,
    ProcessRow,
    Rows,
    RunQuery,
    Signal,
    SlotRequest,
    SpanExport,
    SpanLetter,
)
from treadle.errors import (
    LeaseLostError,
    OwnedElsewhereError,
    RunEndedError,
    RunKeyConflictError,
    RunNotFoundError,
    StoreUnavailableError,
    TreadleError,
)
from treadle.ports import Store, StoreUpkeep

__all__ = ["StoreContract"]

_AT = 1_767_225_600.0
_FIRST, _SECOND = "host:1@a/1/x", "host:2@a/2/y"
_LONG_S, _SHORT_S = 60.0, 0.05
_BODIES = (0, 10_000, 10_240, 10_241, 100_000, 150_000, 400_000)
"""Sizes of outputs around which stores may change how they keep them."""


class _Metafunc(Protocol):
    """What is used of pytest's object of that name."""

    fixturenames: list[str]

    def parametrize(self, argnames: str, argvalues: Sequence[str]) -> None:
        """Make one test of each value."""


@contextmanager
def _raises(kind: type[TreadleError], words: str = "") -> Iterator[list[TreadleError]]:
    """The block raises an error of this class that says these words; it is in the list afterwards."""
    caught: list[TreadleError] = []
    try:
        yield caught
    except kind as error:
        assert words in str(error)  # noqa: PT017 - pytest is not one of core's requirements
        caught.append(error)
    else:
        raise AssertionError(f"{kind.__name__} was not raised")


def _nobody_is_gone(owner: str) -> bool:
    del owner
    return False


def _created(run_id: str, *, workflow: str = "w", at: float = _AT) -> RunCreated:
    steps = {"a": {"uses": "demo.a"}, "each": {"uses": "demo.each", "foreach": [1, 2]}}
    document = {"name": workflow, "steps": steps}
    return RunCreated(at, run_id, document, "hash", {"n": 1, "text": "grüße\x00\u2028"}, "0" * 31 + "1", "0" * 15 + "1")


def _story(run_id: str) -> list[list[Entry]]:
    """The commits of a run in which everything happens once."""
    error = ErrorInfo("Boom", "it broke\nbadly", "mend it", (Issue("is missing", "$.a"),), "stack", retryable=True)
    span = SpanRecord("GET", "client", "0" * 31 + "1", "0" * 15 + "2", "0" * 15 + "1", _AT, _AT + 1, attributes={"n": 1})
    failed = Outcome("failed", None, error, RetryAfter(2.5, "may help"), _AT + 1, _AT + 2, spans=(span,))
    given_up = Outcome("failed", None, error, GiveUp("hopeless"), _AT + 5, _AT + 6)
    done = Outcome("completed", {"text": "ä" * 20, "deep": [{"x": [1, 2.5, None, True]}]}, None, None, _AT + 5, _AT + 6)
    return [
        [StintOpened(_AT, 1, "host:1", "local", {"treadle": "1"}), AttemptStarted(_AT, "a", None, 1)],
        [AttemptEnded(_AT + 2, "a", None, 1, failed), RetryScheduled(_AT + 2, "a", None, 1, 3, _AT + 4.5, "may help")],
        [TimerFired(_AT + 4.5, "retry:a::1"), AttemptStarted(_AT + 4.5, "a", None, 2)],
        [
            AttemptEnded(_AT + 6, "a", None, 2, done),
            StepEnded(_AT + 6, "a", StepStatus.COMPLETED, 2),
            Evaluated(_AT + 6, "each", "foreach", 2),
            MapStarted(_AT + 6, "each", 2),
            AttemptStarted(_AT + 6, "each", 0, 1),
            AttemptStarted(_AT + 6, "each", 1, 1),
        ],
        [SignalReceived(_AT + 6, "hello", {"a": [1]}), AttemptEnded(_AT + 7, "each", 0, 1, done)],
        [
            AttemptEnded(_AT + 7, "each", 1, 1, given_up),
            ItemEnded(_AT + 7, "each", 1, StepStatus.FAILED, 1, "not retried", error),
            StepEnded(_AT + 7, "each", StepStatus.FAILED, 2, "1 of 2 items failed", error, "", 1),
            RunStopping(_AT + 7, "step 'each' failed", "each"),
            CancelRequested(_AT + 7, "too late"),
            RunEnded(_AT + 8, RunStatus.FAILED, "step 'each' failed", "each", error, {"x": None}),
        ],
    ]


class _Writer:
    """Writes a run as a driver does."""

    def __init__(self, store: Store, run_id: str, *, key: str = "", source: str = "", workflow: str = "w", at: float = _AT):
        self.store, self.run_id, self.key = store, run_id, key
        self.rows = LogRows(key=key, source=source)
        self.entries: list[Entry] = []
        self.created = _created(run_id, workflow=workflow, at=at)
        self.claim = Claim(run_id, _FIRST, 1, _LONG_S)

    async def create(self, *, fingerprint: str = "f", lease_s: float = _LONG_S) -> Creation:
        commit = self._commit([self.created], 1)
        row = commit.rows.run if commit.rows else None
        assert row is not None
        if not self.store.wants_rows:
            commit = attrs.evolve(commit, rows=None)
        creation = await self.store.create(NewRun(commit, row, fingerprint, _FIRST, lease_s))
        if creation.claim is not None:
            self.claim = creation.claim
            self.entries.append(self.created)
        return creation

    async def write(self, entries: Sequence[Entry]) -> None:
        commit = self._commit(entries, self.claim.epoch)
        if not self.store.wants_rows:
            commit = attrs.evolve(commit, rows=None)
        await self.store.commit(commit)
        self.entries += entries

    def _commit(self, entries: Sequence[Entry], epoch: int) -> Commit:
        for entry in entries:
            self.rows.apply(entry)
        return Commit(self.run_id, epoch, len(self.entries) + 1, entries, self.rows.take())


def _waits(at: float, *, fires: float | None) -> list[Entry]:
    """A step that fails and waits to be tried again; and the end of the wait."""
    number = 1 if fires else 2
    failed = Outcome("failed", None, ErrorInfo("Boom", "broken"), None, at, at)
    entries: list[Entry] = [
        AttemptStarted(at, "a", None, number),
        AttemptEnded(at, "a", None, number, failed),
        RetryScheduled(at, "a", None, number, 3, fires or at + 1, "may help"),
    ]
    return [*entries, TimerFired(fires, f"retry:a::{number}")] if fires else entries


def _filled(value: Json, size: int) -> AttemptEnded:
    return AttemptEnded(
        _AT + 1, "a", None, 1, Outcome("completed", {"value": value, "text": "x" * size}, None, None, _AT, _AT + 1)
    )


class StoreContract:
    """Everything that a store has to do right, as tests; derive a class from it whose name begins with ``Test``.

    ```python
    class TestSqliteStore(StoreContract):
        def make_store(self, folder: Path) -> Store:
            return SqliteStore(path=folder / "runs.db")
    ```

    Each test runs on asyncio and trio, with a new folder. ``make_store`` is called again with the same folder to see what a
    durable store has kept.
    """

    backends: ClassVar[Sequence[str]] = ("asyncio", "trio")

    def make_store(self, folder: Path) -> Store:
        """A store that keeps what it keeps in ``folder``."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say how its store is made. Add: def make_store(self, folder)"
        )

    def pytest_generate_tests(self, metafunc: _Metafunc) -> None:
        """One test for each event loop."""
        if "backend" in metafunc.fixturenames:
            metafunc.parametrize("backend", self.backends)

    def _run(self, backend: str, folder: Path, act: Callable[[Store], Awaitable[None]]) -> None:
        store = self.make_store(folder)

        async def main() -> None:
            with anyio.fail_after(30):
                await act(store)

        try:
            anyio.run(main, backend=backend)
        finally:
            store.close()

    # -- logs

    def test_a_log_is_read_as_it_was_written(self, backend: str, tmp_path: Path) -> None:
        """Every kind of entry comes back equal, numbered from 1, also from a store that is opened anew."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1", key="k", source="/w.yaml")
            await writer.create()
            for entries in _story("r1"):
                await writer.write(entries)
            records = await store.read("r1")
            assert [record.entry for record in records] == writer.entries
            assert [record.seq for record in records] == list(range(1, len(records) + 1))
            assert {record.run_id for record in records} == {"r1"}
            assert list(await store.read("r1", 3)) == list(records)[3:]
            assert list(await store.read("r1", len(records))) == []
            assert list(await store.read("nobody")) == []

        self._run(backend, tmp_path, act)
        self._run(backend, tmp_path, self._still_there)

    async def _still_there(self, store: Store) -> None:
        if store.is_durable:
            expected = [_created("r1"), *(entry for entries in _story("r1") for entry in entries)]
            assert [record.entry for record in await store.read("r1")] == expected

    def test_outputs_of_every_size_come_back(self, backend: str, tmp_path: Path) -> None:
        """However a store keeps large values, they are read as they were written."""

        async def act(store: Store) -> None:
            for number, size in enumerate(_BODIES):
                writer = _Writer(store, f"r{number}")
                await writer.create()
                await writer.write([StintOpened(_AT, 1, "host:1"), AttemptStarted(_AT, "a", None, 1)])
                await writer.write([_filled({"n": number}, size)])
                assert [record.entry for record in await store.read(f"r{number}")] == writer.entries

        self._run(backend, tmp_path, act)

    def test_rows_are_those_of_the_log(self, backend: str, tmp_path: Path) -> None:
        """After every commit the rows of run, steps, timers and executions are what the log so far says."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1", key="k", source="/w.yaml")
            await writer.create()
            for entries in _story("r1"):
                await writer.write(entries)
                expected = rows_of(writer.entries, key="k", source="/w.yaml")
                row = await store.run("r1")
                assert row is not None
                assert attrs.evolve(row, owner="", heartbeat_at=None) == expected.run
                assert list(await store.steps("r1")) == list(expected.steps)
                assert sorted(await store.timers("r1"), key=str) == sorted(expected.timers, key=str)
                assert sorted(await store.spans("r1"), key=str) == sorted(expected.spans, key=str)
            row = await store.run("r1")
            assert row is not None
            assert row.owner == ""
            assert await store.run("nobody") is None
            assert list(await store.steps("nobody")) == []

        self._run(backend, tmp_path, act)

    def test_a_commit_out_of_place_is_refused_whole(self, backend: str, tmp_path: Path) -> None:
        """Neither a gap nor a repetition is kept, and the next one in place is."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            first = _story("r1")[0]
            for seq in (1, 3, 9):
                with _raises(StoreUnavailableError):
                    await store.commit(Commit("r1", 1, seq, first, Rows()))
            assert len(await store.read("r1")) == 1
            await writer.write(first)
            assert [record.entry for record in await store.read("r1")] == writer.entries
            with _raises(TreadleError):
                await store.commit(Commit("nobody", 1, 1, first, Rows()))

        self._run(backend, tmp_path, act)

    def test_a_commit_survives_whoever_waits_for_it(self, backend: str, tmp_path: Path) -> None:
        """A cancelled awaiter gets either all of its commit or nothing, and the store stays usable."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            opened, *_ = _story("r1")
            with anyio.move_on_after(0):
                await writer.write(opened)
            kept = len(await store.read("r1"))
            assert kept in (1, 1 + len(opened))
            claim = writer.claim
            await store.commit(Commit("r1", claim.epoch, kept + 1, [SignalReceived(_AT, "after")], Rows()))
            assert len(await store.read("r1")) == kept + 1

        self._run(backend, tmp_path, act)

    def test_many_runs_write_at_once(self, backend: str, tmp_path: Path) -> None:
        """Commits of many tasks are each kept, in the order of their run; one that fails fails alone."""

        async def act(store: Store) -> None:
            refused: list[int] = []

            async def one(number: int) -> None:
                writer = _Writer(store, f"r{number:02d}")
                await writer.create()
                for entries in _story(writer.run_id):
                    await writer.write(entries)
                    if number % 7 == 0:
                        with _raises(StoreUnavailableError):
                            await store.commit(Commit(writer.run_id, 1, 99, entries, Rows()))
                        refused.append(number)
                assert [record.entry for record in await store.read(writer.run_id)] == writer.entries

            async with anyio.create_task_group() as group:
                for number in range(30):
                    group.start_soon(one, number)
            assert refused
            assert len((await store.runs(RunQuery(limit=100))).runs) == 30

        self._run(backend, tmp_path, act)

    # -- creation

    def test_creating_under_a_key_is_idempotent(self, backend: str, tmp_path: Path) -> None:
        """The same key gives the same run; other inputs under it are an error (G13)."""

        async def act(store: Store) -> None:
            first = await _Writer(store, "r1", key="daily").create(fingerprint="a")
            again = await _Writer(store, "r2", key="daily").create(fingerprint="a")
            other = await _Writer(store, "r3", key="hourly").create(fingerprint="b")
            keyless = [await _Writer(store, f"r{n}").create() for n in (4, 5)]
            assert first.claim is not None
            assert first.claim.epoch == 1
            assert again == Creation("r1", None)
            assert other.run_id == "r3"
            assert [creation.run_id for creation in keyless] == ["r4", "r5"]
            assert list(await store.read("r2")) == []
            with _raises(RunKeyConflictError, "r1"):
                await _Writer(store, "r6", key="daily").create(fingerprint="b")
            assert await store.run("r6") is None

        self._run(backend, tmp_path, act)

    def test_of_many_creators_under_one_key_one_wins(self, backend: str, tmp_path: Path) -> None:
        """However many start a run under one key at once, there is one run (G13)."""

        async def act(store: Store) -> None:
            made: list[Creation] = []

            async def one(number: int) -> None:
                made.append(await _Writer(store, f"r{number}", key="k").create())

            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(one, number)
            assert len({creation.run_id for creation in made}) == 1
            assert sum(creation.claim is not None for creation in made) == 1

        self._run(backend, tmp_path, act)

    # -- ownership

    def test_a_run_has_one_owner(self, backend: str, tmp_path: Path) -> None:
        """Who drives a run keeps it from others, until it lets go or its lease runs out."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            row = await store.run("r1")
            assert row is not None
            assert row.owner == "host:1"
            with _raises(OwnedElsewhereError, "host:1") as caught:
                await store.claim("r1", _SECOND, _LONG_S, _nobody_is_gone)
            (error,) = caught
            assert isinstance(error, OwnedElsewhereError)
            assert error.owner == "host:1"
            assert error.since
            await store.release(writer.claim)
            second = await store.claim("r1", _SECOND, _SHORT_S, _nobody_is_gone)
            assert (second.owner, second.epoch) == (_SECOND, 2)
            await anyio.sleep(2 * _SHORT_S)
            third = await store.claim("r1", _FIRST, _LONG_S, _nobody_is_gone)
            assert third.epoch == 3
            with _raises(RunNotFoundError):
                await store.claim("nobody", _FIRST, _LONG_S, _nobody_is_gone)

        self._run(backend, tmp_path, act)

    def test_the_run_of_a_process_that_is_gone_is_free(self, backend: str, tmp_path: Path) -> None:
        """When it is known that the owner's process has ended, nobody waits for the lease."""

        async def act(store: Store) -> None:
            await _Writer(store, "r1").create()
            asked: list[str] = []

            def is_gone(owner: str) -> bool:
                asked.append(owner)
                return True

            claim = await store.claim("r1", _SECOND, _LONG_S, is_gone)
            assert claim.epoch == 2
            assert asked == [_FIRST]

        self._run(backend, tmp_path, act)

    def test_an_earlier_owner_writes_nothing(self, backend: str, tmp_path: Path) -> None:
        """After a claim, commits, checkpoints and beats of the owner before are refused (G8)."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create(lease_s=_SHORT_S)
            await anyio.sleep(2 * _SHORT_S)
            new = await store.claim("r1", _SECOND, _LONG_S, _nobody_is_gone)
            with _raises(LeaseLostError, "host:2"):
                await writer.write(_story("r1")[0])
            with _raises(LeaseLostError):
                store.beat(writer.claim)
            with _raises(LeaseLostError):
                await store.save(writer.claim, Checkpoint("a", None, "primary", "late"))
            await store.release(writer.claim)  # not its any more: nothing happens
            with _raises(OwnedElsewhereError):
                await store.claim("r1", _FIRST, _LONG_S, _nobody_is_gone)
            assert len(await store.read("r1")) == 1
            assert await store.load("r1", "a") is None
            await store.commit(Commit("r1", new.epoch, 2, [SignalReceived(_AT, "mine")], Rows()))
            assert len(await store.read("r1")) == 2

        self._run(backend, tmp_path, act)

    def test_a_beat_keeps_the_claim(self, backend: str, tmp_path: Path) -> None:
        """A lease that is renewed does not run out, also from another thread; and the row says when it was."""

        async def is_kept(store: Store, run_id: str, lease_s: float) -> bool:
            writer = _Writer(store, run_id)
            await writer.create(lease_s=lease_s)
            until = time.monotonic() + 2 * lease_s
            while time.monotonic() < until:
                beaten_at = time.monotonic()
                await anyio.to_thread.run_sync(store.beat, writer.claim)
                try:
                    await store.claim(run_id, _SECOND, _LONG_S, _nobody_is_gone)
                except OwnedElsewhereError:
                    await anyio.sleep(lease_s / 4)
                else:
                    assert time.monotonic() - beaten_at > lease_s, "a beat renews the lease"
                    return False
            row = await store.run(run_id)
            assert row is not None
            assert row.heartbeat_at is not None
            assert abs(row.heartbeat_at - time.time()) < 60
            return True

        async def act(store: Store) -> None:
            for number, lease_s in enumerate((0.4, 4.0, 40.0)):
                if await is_kept(store, f"r{number}", lease_s):
                    return
                # The machine stood still for as long as the lease is, between a beat and the claim: a longer one will do.
            raise AssertionError("no lease was renewed")

        self._run(backend, tmp_path, act)

    def test_of_many_claimants_one_wins(self, backend: str, tmp_path: Path) -> None:
        """A double resume has one winner; the others are told who it is (G8)."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            for _ in range(10):
                await store.release(writer.claim)
                won: list[Claim] = []
                lost: list[str] = []
                async with anyio.create_task_group() as group:
                    for number in range(8):
                        group.start_soon(partial(self._claim_as, store, f"host:{number}@x", won, lost))
                (writer.claim,) = won
                assert lost == [writer.claim.owner.partition("@")[0]] * 7

        self._run(backend, tmp_path, act)

    async def _claim_as(self, store: Store, owner: str, won: list[Claim], lost: list[str]) -> None:
        try:
            won.append(await store.claim("r1", owner, _LONG_S, _nobody_is_gone))
        except OwnedElsewhereError as error:
            lost.append(error.owner)

    def test_a_run_that_is_let_go_of_may_say_so(self, backend: str, tmp_path: Path) -> None:
        """A suspended run is shown as such, owned by nobody, with nothing running."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            await writer.write(_story("r1")[0])
            await store.release(writer.claim, writer.rows.suspend())
            row = await store.run("r1")
            assert row is not None
            assert (row.status, row.owner) == (RunStatus.SUSPENDED, "")
            if store.wants_rows:
                assert [step.status for step in await store.steps("r1")] == [StepStatus.PENDING]

        self._run(backend, tmp_path, act)

    # -- requests

    def test_a_cancel_reaches_the_owner(self, backend: str, tmp_path: Path) -> None:
        """What is asked through the store is heard from the heart's thread; force is not weakened."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            assert store.cancel_request("r1") is None
            await store.request_cancel("r1", CancelRequest("enough"))
            assert store.cancel_request("r1") == CancelRequest("enough")
            await store.request_cancel("r1", CancelRequest("now", force=True))
            await store.request_cancel("r1", CancelRequest("please"))
            heard = await anyio.to_thread.run_sync(store.cancel_request, "r1")
            assert heard is not None
            assert heard.force
            with _raises(RunNotFoundError):
                await store.request_cancel("nobody", CancelRequest("enough"))
            await writer.write([RunEnded(_AT + 1, RunStatus.CANCELLED)])
            assert store.cancel_request("r1") is None, "a run that goes on again is not cancelled by what was asked before"

        self._run(backend, tmp_path, act)

    def test_signals_reach_the_owner_in_order(self, backend: str, tmp_path: Path) -> None:
        """Each is kept once, with a rising number, whoever drives the run; what is asked for is what came after."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            await _Writer(store, "r2").create()
            assert list(store.signals("r1", 0)) == []
            first = Signal("go", {"text": "grüße\x00\u2028", "deep": [1, None, 2.5]}, "id1", _AT)
            second = Signal("go", "x" * 200_000, "id2", _AT + 1, _AT + 60)
            for signal in (first, second, attrs.evolve(first, payload="again")):
                await store.send_signal("r1", signal)
            await store.send_signal("r2", first)
            heard = await anyio.to_thread.run_sync(store.signals, "r1", 0)
            assert [attrs.evolve(signal, number=0) for signal in heard] == [first, second]
            numbers = [signal.number for signal in heard]
            assert 0 < numbers[0] < numbers[1]
            assert [signal.signal_id for signal in store.signals("r1", numbers[0])] == ["id2"]
            assert list(store.signals("r1", numbers[1])) == []
            await store.release(writer.claim)
            await store.send_signal("r1", attrs.evolve(first, signal_id="id3"))
            await store.claim("r1", _SECOND, _LONG_S, _nobody_is_gone)
            assert [signal.signal_id for signal in store.signals("r1", numbers[1])] == ["id3"]
            assert list(store.signals("nobody", 0)) == []
            with _raises(RunNotFoundError):
                await store.send_signal("nobody", first)

        self._run(backend, tmp_path, act)

    def test_a_run_that_has_ended_takes_no_signal(self, backend: str, tmp_path: Path) -> None:
        """Whoever sends one is told, and nothing is kept."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            await writer.write([StintOpened(_AT + 1, 1, "host:1"), RunEnded(_AT + 2, RunStatus.COMPLETED)])
            with _raises(RunEndedError, "completed"):
                await store.send_signal("r1", Signal("go", None, "id1", _AT))
            assert list(store.signals("r1", 0)) == []

        self._run(backend, tmp_path, act)

    def test_of_many_senders_none_is_lost(self, backend: str, tmp_path: Path) -> None:
        """However many send at once, each signal is kept, under a number of its own, and no later one gets a lower number."""

        async def act(store: Store) -> None:
            await _Writer(store, "r1").create()
            seen: list[Signal] = []

            async def send(sender: int) -> None:
                for number in range(5):
                    await store.send_signal("r1", Signal("go", number, f"{sender}-{number}", _AT))
                    seen.extend(store.signals("r1", seen[-1].number if seen else 0))

            async with anyio.create_task_group() as group:
                for sender in range(8):
                    group.start_soon(send, sender)
            everything = list(store.signals("r1", 0))
            assert len({signal.number for signal in everything}) == len(everything) == 40
            assert [signal.number for signal in seen] == [signal.number for signal in everything]
            for sender in range(8):
                mine = [signal.payload for signal in everything if signal.signal_id.startswith(f"{sender}-")]
                assert mine == [0, 1, 2, 3, 4]

        self._run(backend, tmp_path, act)

    # -- slots and timers of all runs

    def test_slots_are_given_up_to_the_limit(self, backend: str, tmp_path: Path) -> None:
        """By priority, then by who asked first, whoever they belong to; one that is given back goes to the next in line."""

        async def act(store: Store) -> None:
            claims = [await self._claim_of(store, f"r{number}") for number in range(4)]
            wanted = [SlotRequest("gpu", f"h{number}", 2, priority) for number, priority in enumerate((0, 0, 0, 5))]

            async def ask(number: int) -> bool:
                return bool(await store.take_slots(claims[number], [wanted[number]], _nobody_is_gone))

            assert [await ask(number) for number in (0, 1, 2, 3)] == [True, True, False, False]
            assert await ask(0), "asking for what is held answers it"
            assert [(slot.holder, slot.is_held) for slot in await store.slots("gpu")] == [
                ("h0", True),
                ("h1", True),
                ("h3", False),
                ("h2", False),
            ]
            await store.free_slots(claims[0], ["h0", "nobody's"])
            assert [await ask(number) for number in (2, 3, 2)] == [False, True, False], "the higher priority is the first"
            await store.free_slots(claims[3], ["h3"])
            assert [await ask(number) for number in (0, 2, 0)] == [False, True, False], "then who asked first"
            await store.free_slots(claims[0], ["h0"])
            assert await store.take_slots(claims[3], [SlotRequest("other", "h3", 1)], _nobody_is_gone) == {"h3"}
            assert {slot.group for slot in await store.slots()} == {"gpu", "other"}

        self._run(backend, tmp_path, act)

    async def _claim_of(self, store: Store, run_id: str, *, lease_s: float = _LONG_S) -> Claim:
        writer = _Writer(store, run_id)
        await writer.create(lease_s=lease_s)
        return writer.claim

    def test_a_run_may_hold_several_slots(self, backend: str, tmp_path: Path) -> None:
        """Of one group and of several, asked for together; each is a holder of its own."""

        async def act(store: Store) -> None:
            claim = await self._claim_of(store, "r1")
            wanted = [SlotRequest("a", f"a{number}", 2) for number in range(3)] + [SlotRequest("b", "b0", 1)]
            assert await store.take_slots(claim, wanted, _nobody_is_gone) == {"a0", "a1", "b0"}
            await store.free_slots(claim, ["a1", "b0"])
            assert await store.take_slots(claim, wanted[2:3], _nobody_is_gone) == {"a2"}
            assert await store.take_slots(claim, [], _nobody_is_gone) == frozenset()

        self._run(backend, tmp_path, act)

    def test_slots_of_the_dead_are_free(self, backend: str, tmp_path: Path) -> None:
        """Also their places in line: when the lease has run out, the run was let go of, has ended or was claimed by another."""

        async def act(store: Store) -> None:
            alive = await self._claim_of(store, "alive")
            mine = [SlotRequest("gpu", "mine", 1)]
            high = [SlotRequest("gpu", "theirs", 1, 9)]

            async def is_free() -> bool:
                has_it = bool(await store.take_slots(alive, mine, _nobody_is_gone))
                await store.free_slots(alive, ["mine"])
                return has_it

            dying = await self._claim_of(store, "dying", lease_s=_SHORT_S)
            assert await store.take_slots(dying, high, _nobody_is_gone)
            await anyio.sleep(2 * _SHORT_S)
            assert await is_free(), "its lease has run out"
            assert "theirs" not in {slot.holder for slot in await store.slots()}

            held = await self._claim_of(store, "held")
            assert await store.take_slots(held, high, _nobody_is_gone)
            assert not await is_free()
            await store.release(held)
            assert await is_free(), "it was let go of"
            again = await store.claim("held", _SECOND, _LONG_S, _nobody_is_gone)
            assert await is_free(), "whoever goes on with it has to ask anew"
            with _raises(LeaseLostError):
                await store.take_slots(held, high, _nobody_is_gone)
            assert await store.take_slots(again, high, _nobody_is_gone)
            await store.free_slots(held, ["theirs"])
            assert not await is_free(), "an earlier owner gives nothing back"
            await store.free_slots(again, ["theirs"])

            gone = await self._claim_of(store, "gone")
            assert await store.take_slots(gone, high, _nobody_is_gone)
            assert not await is_free()
            assert await store.take_slots(alive, mine, lambda owner: True), "its process has ended"

        self._run(backend, tmp_path, act)

    def test_never_more_slots_than_the_limit(self, backend: str, tmp_path: Path) -> None:
        """However many ask at once, and none is lost: all get theirs in the end."""

        async def act(store: Store) -> None:
            claims = [await self._claim_of(store, f"r{number}") for number in range(6)]
            holding: set[int] = set()
            most = 0

            async def work(number: int) -> None:
                nonlocal most
                request = [SlotRequest("gpu", "call", 2)]
                for _ in range(2):
                    while not await store.take_slots(claims[number], request, _nobody_is_gone):  # noqa: ASYNC110 - so a slot is waited for
                        await anyio.sleep(0.001)
                    holding.add(number)
                    most = max(most, len(holding))
                    await anyio.sleep(0.001)
                    holding.discard(number)
                    await store.free_slots(claims[number], ["call"])

            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    for number in range(6):
                        group.start_soon(work, number)
            assert most == 2
            assert list(await store.slots()) == []

        self._run(backend, tmp_path, act)

    def test_timers_of_all_runs_are_found_by_their_time(self, backend: str, tmp_path: Path) -> None:
        """Those that have not fired, the next ones first: what a timer service looks at (S1-44)."""

        async def act(store: Store) -> None:
            for number in range(3):
                writer = _Writer(store, f"r{number}")
                await writer.create()
                story = _story(f"r{number}")
                await writer.write(story[0])
                retry = story[1][1]
                assert isinstance(retry, RetryScheduled)
                await writer.write([story[1][0], attrs.evolve(retry, due=_AT + 10 - number)])
                if number == 0:
                    await writer.write(story[2])
            found = await store.pending_timers()
            assert [(row.run_id, row.due - _AT) for row in found] == [("r2", 8), ("r1", 9)]
            assert [row.run_id for row in await store.pending_timers(limit=1)] == ["r2"]
            assert [row.run_id for row in await store.pending_timers(until=_AT + 8)] == ["r2"]
            assert list(await store.pending_timers(until=_AT + 7)) == []

        self._run(backend, tmp_path, act)

    # -- checkpoints

    def test_the_latest_checkpoint_is_kept(self, backend: str, tmp_path: Path) -> None:
        """One for each step, item and variant; a newer one replaces an older, never the other way round (G6)."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            claim = writer.claim
            points = [
                Checkpoint("a", None, "primary", "step-2-complete", {"n": [1, None]}, 2, _AT),
                Checkpoint("a", None, "fallback 1", "f", None, 1, _AT),
                Checkpoint("each", 0, "primary", "zero", "x" * 20_000, 1, _AT),
                Checkpoint("each", 1, "primary", "one", "x" * 200_000, 1, _AT),
            ]
            for point in points:
                await store.save(claim, point)
            await store.save(claim, attrs.evolve(points[0], token="older", seq=1))
            for point in points:
                assert await store.load("r1", point.path, point.index, point.variant) == point
            newer = attrs.evolve(points[0], token="step-3-complete", seq=3)
            await store.save(claim, newer)
            assert await store.load("r1", "a") == newer
            assert await store.load("r1", "b") is None
            assert await store.load("nobody", "a") is None

        self._run(backend, tmp_path, act)

    def test_a_new_owner_starts_its_checkpoints_anew(self, backend: str, tmp_path: Path) -> None:
        """The first save of a new owner is newer than the last of the one before, whatever its number."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            await store.save(writer.claim, Checkpoint("a", None, "primary", "ninth", seq=9))
            await store.release(writer.claim)
            claim = await store.claim("r1", _SECOND, _LONG_S, _nobody_is_gone)
            await store.save(claim, Checkpoint("a", None, "primary", "first", seq=1))
            kept = await store.load("r1", "a")
            assert kept is not None
            assert kept.token == "first"

        self._run(backend, tmp_path, act)

    def test_checkpoints_go_with_the_result(self, backend: str, tmp_path: Path) -> None:
        """They are removed in the commit that holds the result of their step or item, and not before (G3)."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            story = _story("r1")
            for path, index in (("a", None), ("each", 0), ("each", 1)):
                await store.save(writer.claim, Checkpoint(path, index, "primary", "t"))
            for entries in story[:3]:
                await writer.write(entries)
                assert await store.load("r1", "a") is not None
            await writer.write(story[3])
            assert await store.load("r1", "a") is None
            await writer.write(story[4])
            assert await store.load("r1", "each", 0) is None
            assert await store.load("r1", "each", 1) is not None
            await writer.write(story[5])
            assert await store.load("r1", "each", 1) is None

        self._run(backend, tmp_path, act)

    # -- lines

    def test_lines_are_read_as_they_were_kept(self, backend: str, tmp_path: Path) -> None:
        """What executors log comes back equal and in order, numbered upwards, also from a store that is opened anew."""

        async def act(store: Store) -> None:
            await _Writer(store, "r1").create()
            await _Writer(store, "r2").create()
            lines = [
                LogLine(_AT + 0.25, "a", None, 1, 20, "grüße \u2028 \x1b[31mred\nsecond line", "treadle.step.demo.a"),
                LogLine(_AT + 1, "a", None, 2, 30, "", "x", "stderr", "fallback 1", 2, 3),
                LogLine(_AT + 2, "each", 7, 1, 20, "x" * 20_000, "x", "stdout"),
            ]
            await anyio.to_thread.run_sync(store.keep_lines, "r1", lines[:2])
            await anyio.to_thread.run_sync(store.keep_lines, "r2", [attrs.evolve(lines[0], text="another run's")])
            await anyio.to_thread.run_sync(store.keep_lines, "r1", lines[2:])
            kept = list(await store.lines(LineQuery("r1")))
            assert [attrs.evolve(line, seq=0) for line in kept] == lines
            assert [line.seq for line in kept] == sorted({line.seq for line in kept})
            assert kept[0].seq > 0
            assert list(await store.lines(LineQuery("nobody"))) == []
            with _raises(RunNotFoundError):
                store.keep_lines("nobody", lines)
            if store.is_durable:
                again = self.make_store(tmp_path)
                assert list(await again.lines(LineQuery("r1"))) == kept
                again.close()

        self._run(backend, tmp_path, act)

    def test_lines_are_found_by_place_attempt_and_level(self, backend: str, tmp_path: Path) -> None:
        """Of a step with all that lies within it, of an item, of an attempt; in pages that a reader follows live."""

        async def act(store: Store) -> None:
            await _Writer(store, "r1").create()
            places: list[tuple[str, int | None]] = [("a", None), ("ab", None), ("a/x", None), ("a[0]/x", None)]
            places += [("a[1]/x", None), ("a[1]/y", 2), ("a", 0), ("a", 1), ("b", None)]
            store.keep_lines("r1", [LogLine(_AT, path, index, 1, 20, "one") for path, index in places])
            store.keep_lines("r1", [LogLine(_AT, "b", None, 2, 40, "two"), LogLine(_AT, "b", None, 1, 30, "late")])

            async def found(query: LineQuery) -> str:
                lines = await store.lines(query)
                return " ".join(line.path if line.index is None else f"{line.path}:{line.index}" for line in lines)

            assert await found(LineQuery("r1", "a")) == "a a/x a[0]/x a[1]/x a[1]/y:2 a:0 a:1"
            assert await found(LineQuery("r1", "a", 1)) == "a[1]/x a[1]/y:2 a:1"
            assert await found(LineQuery("r1", "ab")) == "ab"
            assert await found(LineQuery("r1", "b", attempt=2)) == "b"
            assert await found(LineQuery("r1", "a", 1, attempt=2)) == ""
            assert await found(LineQuery("r1", attempt=2)) == "b"
            assert await found(LineQuery("r1", level=30)) == "b b"
            assert await found(LineQuery("r1", "%")) == ""
            seen: list[LogLine] = []
            while page := await store.lines(LineQuery("r1", "a", after=seen[-1].seq if seen else 0, limit=3)):
                assert len(page) <= 3
                seen += page
            assert len(seen) == 7

        self._run(backend, tmp_path, act)

    def test_checkpoints_are_counted(self, backend: str, tmp_path: Path) -> None:
        """Lists and statistics tell how large the data are as JSON, before compression (S1-16, S1-17)."""

        async def act(store: Store) -> None:
            assert await store.checkpoint_statistics() == CheckpointStatistics(0, 0)
            for run_id in ("r1", "r2"):
                writer = _Writer(store, run_id)
                await writer.create()
                await store.save(writer.claim, Checkpoint("each", 1, "primary", 't"ä', "x" * 20_000, 4, _AT))
                await store.save(writer.claim, Checkpoint("a", None, "primary", "first", "x" * 200, 1, _AT))
                await store.save(writer.claim, Checkpoint("a", None, "primary", "second", {"n": 1}, 2, _AT + 1))
            assert list(await store.checkpoints("r1")) == [
                CheckpointRow("a", None, "primary", "second", 7, 2, _AT + 1),
                CheckpointRow("each", 1, "primary", 't"ä', 20_002, 4, _AT),
            ]
            statistics = await store.checkpoint_statistics()
            assert statistics == CheckpointStatistics(4, 2 * 20_009)
            assert statistics.average_bytes == 10_004.5
            assert list(await store.checkpoints("nobody")) == []

        self._run(backend, tmp_path, act)

    # -- processes and signs of life

    def test_processes_are_kept_until_their_step_has_ended(self, backend: str, tmp_path: Path) -> None:
        """Who takes a run over learns which processes of its steps may still live."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            story = _story("r1")
            mine = [
                ProcessRow("a", None, 10, "100", "boot.ns"),
                ProcessRow("a", None, 11, "101", "boot.ns"),
                ProcessRow("each", 0, 12, "102", "boot.ns"),
                ProcessRow("each", 1, 13, "103", "boot.ns"),
            ]
            for process in (*mine, mine[0]):
                await store.keep_process(writer.claim, process)
            assert list(await store.processes("r1")) == mine
            await store.drop_process(writer.claim, mine[1])
            for entries in story[:3]:
                await writer.write(entries)
            assert list(await store.processes("r1")) == [mine[0], *mine[2:]]
            await writer.write(story[3])
            assert list(await store.processes("r1")) == mine[2:]
            await writer.write(story[4])
            assert list(await store.processes("r1")) == mine[3:]
            await store.release(writer.claim)
            await store.claim("r1", _SECOND, _LONG_S, _nobody_is_gone)
            with _raises(LeaseLostError):
                await store.keep_process(writer.claim, mine[0])
            with _raises(LeaseLostError):
                await store.drop_process(writer.claim, mine[3])
            assert list(await store.processes("r1")) == mine[3:]
            assert list(await store.processes("nobody")) == []

        self._run(backend, tmp_path, act)

    def test_signs_of_life_are_kept_for_audit(self, backend: str, tmp_path: Path) -> None:
        """What a beat brings of steps is appended; a beat of an earlier owner brings nothing (S1-64)."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            first, second = BeatRow("a", None, 1, _AT), BeatRow("each", 1, 2, _AT + 300)
            store.beat(writer.claim, [first])
            store.beat(writer.claim)
            store.beat(writer.claim, [second])
            await store.release(writer.claim)
            await store.claim("r1", _SECOND, _LONG_S, _nobody_is_gone)
            with _raises(LeaseLostError):
                store.beat(writer.claim, [first])
            assert list(await store.heartbeats("r1")) == [first, second]
            assert list(await store.heartbeats("nobody")) == []

        self._run(backend, tmp_path, act)

    # -- lists

    def test_orphaned_runs_are_found(self, backend: str, tmp_path: Path) -> None:
        """Those that somebody let go of, or whose lease has run out; not those that are driven or have ended (G9)."""

        async def act(store: Store) -> None:
            async def orphans(**more: object) -> list[str]:
                query = RunQuery(is_orphaned=True, **more)  # type: ignore[arg-type]  # of the right types
                return [row.run_id for row in (await store.runs(query)).runs]

            writers = {run_id: _Writer(store, run_id) for run_id in ("driven", "ended", "left", "lost")}
            for run_id, writer in writers.items():
                await writer.create(lease_s=_SHORT_S if run_id == "lost" else _LONG_S)
            for entries in _story("ended"):
                await writers["ended"].write(entries)
            assert "left" not in await orphans()
            await store.release(writers["left"].claim)
            await anyio.sleep(2 * _SHORT_S)
            assert sorted(await orphans()) == ["left", "lost"]
            assert await orphans(prefix="le") == ["left"]
            taken = await store.claim("lost", _SECOND, _LONG_S, _nobody_is_gone)
            assert taken.taken_from == writers["lost"].claim.owner
            assert (await store.claim("left", _SECOND, _LONG_S, _nobody_is_gone)).taken_from == ""
            assert await orphans() == []

        self._run(backend, tmp_path, act)

    def test_runs_are_found_by_what_they_are(self, backend: str, tmp_path: Path) -> None:
        """By status, workflow, time, key and the beginning of the id, the newest first."""

        async def act(store: Store) -> None:
            for number in range(6):
                name = "even" if number % 2 == 0 else "odd"
                writer = _Writer(store, f"r{number}", workflow=name, key=f"k{number}", at=_AT + number)
                await writer.create()
                if number < 3:
                    await writer.write([StintOpened(_AT + 9, 1, "host:1"), RunEnded(_AT + 9, RunStatus.COMPLETED)])

            async def found(query: RunQuery) -> str:
                return " ".join(row.run_id for row in (await store.runs(query)).runs)

            assert await found(RunQuery()) == "r5 r4 r3 r2 r1 r0"
            assert await found(RunQuery(workflow="odd")) == "r5 r3 r1"
            assert await found(RunQuery(statuses=(RunStatus.COMPLETED,))) == "r2 r1 r0"
            assert await found(RunQuery(statuses=(RunStatus.COMPLETED, RunStatus.PENDING), workflow="even")) == "r4 r2 r0"
            assert await found(RunQuery(since=_AT + 1, until=_AT + 4)) == "r3 r2 r1"
            assert await found(RunQuery(prefix="r4")) == "r4"
            assert await found(RunQuery(prefix="%")) == ""
            assert await found(RunQuery(key="k2")) == "r2"
            assert await found(RunQuery(workflow="nobody's")) == ""

        self._run(backend, tmp_path, act)

    def test_pages_stay_right_while_runs_come(self, backend: str, tmp_path: Path) -> None:
        """Each run is seen once, whatever is created between two pages; the last page has no cursor (S3-52)."""

        async def act(store: Store) -> None:
            for number in range(7):
                await _Writer(store, f"r{number}", at=_AT + number // 2).create()  # some share their second
            seen: list[str] = []
            cursor = ""
            for late in range(10):
                page = await store.runs(RunQuery(limit=2, cursor=cursor))
                assert len(page.runs) <= 2
                seen += [row.run_id for row in page.runs]
                cursor = page.cursor
                await _Writer(store, f"late{late}", at=_AT + 100 + late).create()
                if not cursor:
                    break
            assert seen == ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
            assert not cursor

        self._run(backend, tmp_path, act)

    # -- upkeep, of stores that offer it

    def test_what_is_old_is_removed(self, backend: str, tmp_path: Path) -> None:
        """By age and only of runs that have ended: logs, checkpoints, fired timers, whole runs; nothing else (S1-53)."""

        async def act(store: Store) -> None:
            if not isinstance(store, StoreUpkeep):
                return
            now, day = time.time(), 86_400.0
            for run_id, ended in (("old", 10.0), ("new", 1.0), ("going", None)):
                writer = _Writer(store, run_id, at=now - 20 * day)
                await writer.create()
                await writer.write([StintOpened(now - 20 * day, 1, "host:1"), *_waits(now - 20 * day, fires=now - 19 * day)])
                await writer.write(_waits(now - 20 * day, fires=None))
                for path, saved in (("a", 9.0), ("b", 2.0)):
                    await store.save(writer.claim, Checkpoint(path, None, "primary", "t", saved_at=now - saved * day))
                if ended is not None:
                    await writer.write([RunEnded(now - ended * day, RunStatus.COMPLETED)])

            assert await store.cleanup_old_checkpoints(30) == 0
            assert await store.cleanup_old_checkpoints(5) == 2  # one of each run that has ended
            assert await store.load("going", "a") is not None
            assert await store.load("old", "b") is not None
            assert await store.cleanup_fired_timers(30) == 0
            assert await store.cleanup_fired_timers(5) == 5  # three fired; two were cancelled when their runs ended
            assert [timer.status for timer in await store.timers("going")] == ["pending"]
            length = len(await store.read("old"))
            assert await store.cleanup_old_events(30) == 0
            assert await store.cleanup_old_events(5) == length
            assert await store.cleanup_old_events(5) == 0
            assert list(await store.read("old")) == []
            assert await store.run("old") is not None
            assert len(await store.steps("old")) == 1
            assert len(await store.read("new")) == length
            assert await store.clean(30) == 0
            assert await store.clean(5, dry_run=True) == 1
            assert await store.run("old") is not None
            assert await store.clean(5) == 1
            assert await store.run("old") is None
            assert not (*await store.steps("old"), *await store.spans("old"), *await store.timers("old"))
            assert await store.load("old", "b") is None
            assert await store.clean(0) == 1
            assert [row.run_id for row in (await store.runs(RunQuery())).runs] == ["going"]

        self._run(backend, tmp_path, act)

    def test_what_is_old_waits_until_its_spans_are_sent(self, backend: str, tmp_path: Path) -> None:
        """A run whose export is open stays, with its log, until it is through or given up; others go as ever (S1-53)."""

        async def act(store: Store) -> None:
            if not isinstance(store, StoreUpkeep):
                return
            now, day = time.time(), 86_400.0
            for run_id, ended in (("never", 10.0), ("sent", 10.0), ("given_up", 10.0), ("young", 1.0)):
                writer = _Writer(store, run_id, at=now - 20 * day)
                await writer.create()
                await writer.write([RunEnded(now - ended * day, RunStatus.COMPLETED)])
                if run_id != "never":
                    await store.open_spans(run_id)

            assert (await store.count_unsent(5), await store.count_unsent(30)) == (2, 0)
            assert (await store.clean(5, dry_run=True), await store.clean(5)) == (1, 1), "nobody exports the spans of one"
            assert await store.run("never") is None
            assert await store.cleanup_old_events(5) == 0, "spans are made of the log"
            assert len(await store.read("given_up")) == 2

            await store.put_spans([SpanExport("sent", 2, is_open=False, sent=1, changed_at=now)])
            assert (await store.count_unsent(5), await store.clean(5)) == (1, 1)
            assert await store.run("given_up") is not None

            assert (await store.drop_unsent(30), await store.drop_unsent(5), await store.drop_unsent(5)) == (0, 1, 0)
            assert (await store.count_unsent(5), await store.clean(5)) == (0, 1)
            assert [export.run_id for export in await store.span_exports()] == ["young"]

        self._run(backend, tmp_path, act)

    def test_a_key_outlives_its_run_for_a_day(self, backend: str, tmp_path: Path) -> None:
        """However short the retention is, a key finds its run until a day after its end (C07, G13)."""

        async def act(store: Store) -> None:
            if not isinstance(store, StoreUpkeep):
                return
            now = time.time()
            for key, hours in (("fresh", 23), ("stale", 25)):
                writer = _Writer(store, key, key=key, at=now - 30 * 3600)
                await writer.create()
                await writer.write([RunEnded(now - hours * 3600, RunStatus.COMPLETED)])
            assert await store.clean(0.1) == 1
            assert (await _Writer(store, "another", key="fresh").create()).run_id == "fresh"
            assert (await _Writer(store, "another", key="stale").create()).run_id == "another"

        self._run(backend, tmp_path, act)

    def test_a_store_says_what_it_holds(self, backend: str, tmp_path: Path) -> None:
        """Runs by status, rows of every table, sizes; and vacuum and migrate leave all of it as it was."""

        async def act(store: Store) -> None:
            if not isinstance(store, StoreUpkeep):
                return
            empty = await store.stats()
            for run_id in ("r1", "r2"):
                writer = _Writer(store, run_id)
                await writer.create()
                await writer.write(_story(run_id)[0])
                await store.save(writer.claim, Checkpoint("a", None, "primary", "t", "x" * 1000))
                if run_id == "r2":
                    for entries in _story(run_id)[1:]:
                        await writer.write(entries)
            before, after = await store.vacuum()
            assert before > 0
            assert after > 0
            formats = await store.migrate()
            assert formats[1] >= 1
            found = await store.stats()
            assert (sum(empty.runs.values()), empty.oldest_run_at, empty.checkpoint_bytes) == (0, None, 0)
            assert (found.store, found.format, found.generation) == (store.name, formats[1], empty.generation)
            assert len(found.generation) == 32
            assert found.runs == {"failed": 1, "running": 1}
            assert found.size_bytes > 0
            rows = {name: found.rows[name] for name in ("runs", "steps", "checkpoints", "timers")}
            assert rows == {"runs": 2, "steps": 5, "checkpoints": 1, "timers": 1}
            assert found.rows["records"] == len(await store.read("r1")) + len(await store.read("r2"))
            assert found.checkpoint_bytes >= 1000
            assert found.oldest_run_at == _AT

        self._run(backend, tmp_path, act)

    # -- exports of spans

    def test_an_export_is_open_until_it_is_done(self, backend: str, tmp_path: Path) -> None:
        """How far the spans of a run were sent is kept beside its log, which goes on meanwhile; it never goes back."""

        async def act(store: Store) -> None:
            for name in ("r2", "r1", "r3"):
                await _Writer(store, name).create()
            writer = _Writer(store, "r4")
            await writer.create()
            assert [await store.open_spans(name) for name in ("r2", "r1")] != []
            opened = await store.open_spans("r4")
            assert (opened.seq, opened.is_open, opened.count, opened.owner) == (0, True, 1, _FIRST)
            await writer.write(_story("r4")[0])
            assert [(export.run_id, export.count) for export in await store.span_exports()] == [("r1", 1), ("r2", 1), ("r4", 3)]
            assert [export.run_id for export in await store.span_exports(limit=1)] == ["r1"]

            done = attrs.evolve(opened, seq=3, is_open=False, sent=7, reason="", changed_at=_AT)
            waiting = SpanExport("r1", 0, reason="connection refused", changed_at=_AT)
            caught_up = SpanExport("r2", 1, sent=1, changed_at=_AT)
            await store.put_spans([done, waiting, caught_up, SpanExport("r3", 9), SpanExport("nobody", 1)])
            await store.put_spans([attrs.evolve(done, seq=2, is_open=True)])

            (kept,) = await store.span_exports(run_id="r4")
            assert kept == attrs.evolve(done, count=3)
            open_ones = await store.span_exports()
            assert [(export.run_id, export.seq, export.reason) for export in open_ones] == [("r1", 0, "connection refused")]
            assert list(await store.span_exports(run_id="r3")) == []
            again = await store.open_spans("r4")
            assert (again.seq, again.is_open, again.sent) == (3, True, 7)
            with _raises(RunNotFoundError):
                await store.open_spans("nobody")

        self._run(backend, tmp_path, act)

    def test_refused_spans_are_kept_until_they_are_sent_again(self, backend: str, tmp_path: Path) -> None:
        """What a backend refused is found with its reason, also anew, until the export begins before it."""
        letters = (SpanLetter(2, 4, 3, "400 Bad Request", _AT), SpanLetter(9, 9, 1, "400 grüße\nagain", _AT + 1))

        async def act(store: Store) -> None:
            for name in ("r1", "r2"):
                await _Writer(store, name).create()
                await store.open_spans(name)
            await store.put_spans([SpanExport("r2", 9, is_open=False, sent=5, letters=letters, changed_at=_AT)])
            held = (SpanLetter(1, 1, 1, "503 Service Unavailable", _AT, is_final=False),)
            await store.put_spans([SpanExport("r1", 0, letters=held, changed_at=_AT)])
            (refused,) = await store.span_exports("refused")
            assert (refused.run_id, refused.letters, refused.refused) == ("r2", letters, 4)
            (waiting,) = await store.span_exports()
            assert (waiting.run_id, waiting.letters, waiting.refused) == ("r1", held, 0), "what is still tried is not refused"

        async def act_again(store: Store) -> None:
            if not store.is_durable:
                return
            (refused,) = await store.span_exports("refused")
            assert refused.letters == letters
            again = await store.open_spans("r2", 1)
            assert (again.seq, again.letters, again.is_open, again.sent) == (1, (), True, 5)
            assert list(await store.span_exports("refused")) == []

        self._run(backend, tmp_path, act)
        self._run(backend, tmp_path, act_again)

    def test_an_export_tells_who_drives_the_run(self, backend: str, tmp_path: Path) -> None:
        """While a claim holds, its owner is named; afterwards the spans belong to whoever sends them."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create(lease_s=_SHORT_S)
            await store.open_spans("r1")
            await anyio.sleep(2 * _SHORT_S)
            (export,) = await store.span_exports()
            assert export.owner == ""
            await store.claim("r1", _SECOND, _LONG_S, _nobody_is_gone)
            (export,) = await store.span_exports()
            assert export.owner == _SECOND

        self._run(backend, tmp_path, act)

    def test_one_of_many_leads(self, backend: str, tmp_path: Path) -> None:
        """One at a time does what is done for all: until it gives it back, its time is over, or its process has gone."""

        async def act(store: Store) -> None:
            won: list[str] = []

            async def ask(owner: str) -> None:
                if await store.lead("spans", owner, _LONG_S, _nobody_is_gone):
                    won.append(owner)

            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(ask, f"host:{number}@x")
            (holder,) = won
            assert await store.lead("spans", holder, _LONG_S, _nobody_is_gone)
            assert not await store.lead("spans", "other", _LONG_S, _nobody_is_gone)
            assert await store.lead("something else", "other", _LONG_S, _nobody_is_gone)
            assert await store.lead("spans", holder, 0.0, _nobody_is_gone)
            assert await store.lead("spans", "other", _SHORT_S, _nobody_is_gone)
            await anyio.sleep(2 * _SHORT_S)
            assert await store.lead("spans", "third", _LONG_S, _nobody_is_gone)
            assert await store.lead("spans", "fourth", _LONG_S, lambda owner: owner == "third")

        self._run(backend, tmp_path, act)

    # -- life

    def test_a_closed_store_says_so(self, backend: str, tmp_path: Path) -> None:
        """A durable store that was closed answers nothing any more; closing twice is nothing."""

        async def act(store: Store) -> None:
            writer = _Writer(store, "r1")
            await writer.create()
            store.close()
            store.close()
            if store.is_durable:
                with _raises(StoreUnavailableError):
                    await store.read("r1")
                with _raises(StoreUnavailableError):
                    await writer.write(_story("r1")[0])
                with _raises(StoreUnavailableError):
                    store.beat(writer.claim)

        self._run(backend, tmp_path, act)
