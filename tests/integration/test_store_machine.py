"""Random histories of the store port against a model: memory, SQLite and Postgres answer as a dictionary would."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import attrs
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from treadle import Secret
from treadle._memory import MemoryStore
from treadle.errors import (
    LeaseLostError,
    OwnedElsewhereError,
    RunKeyConflictError,
    RunNotFoundError,
    StoreUnavailableError,
    TreadleError,
)
from treadle.ports import (
    CancelRequest,
    Checkpoint,
    Claim,
    Commit,
    NewRun,
    Rows,
    RunCreated,
    RunEnded,
    RunQuery,
    RunRow,
    RunStatus,
    SignalReceived,
    Store,
)
from treadle_postgres import PostgresStore
from treadle_sqlite import SqliteStore

EXAMPLES = int(os.environ.get("TREADLE_STORE_EXAMPLES", "20"))
AT = 1_767_225_600.0
LEASE_S = 3600.0
KEYS = ("", "", "k1", "k2")
PATHS = ("a", "b")


@attrs.define
class Run:
    """What the model knows of a run."""

    key: str
    fingerprint: str
    created_at: float
    names: list[str]
    owner: str
    epoch: int = 1
    is_ended: bool = False
    cancel: CancelRequest | None = None
    points: dict[str, tuple[int, int, str]] = attrs.Factory(dict)


PLACES = st.integers(0, 11)
has_runs = precondition(lambda self: bool(self.model))


class Machine(RuleBasedStateMachine):
    """Rules of the port. Two stores may have the same place open, as processes do; one may be closed and opened anew."""

    make: ClassVar[Callable[[Path], Store]]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="treadle-machine-"))
        self.loop = asyncio.Runner()
        self.stores = [type(self).make(self.folder)]
        self.model: dict[str, Run] = {}
        self.held: list[Claim] = []  # also those that were lost since: who had a run goes on as if it still did
        self.numbers = itertools.count(1)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()
            for store in self.stores:
                store.close()
            shutil.rmtree(self.folder)

    def do(self, which: int, act: Callable[[Store], object]) -> object:
        """What a call answers, or the class of the error that it raises."""
        store = self.stores[which % len(self.stores)]
        try:
            answer = act(store)
            return self.loop.run(answer) if asyncio.iscoroutine(answer) else answer
        except TreadleError as error:
            return type(error)

    # -- writing

    @precondition(lambda self: len(self.model) < 3)
    @rule(key=st.sampled_from(KEYS), print_=st.sampled_from(["ff", "g"]), which=st.integers(0, 1))
    def create(self, key: str, print_: str, which: int) -> None:
        number = next(self.numbers)
        run_id, at, owner = f"r{number:03d}", AT + number // 2, f"host:{number}@x"
        first = Commit(run_id, 1, 1, [RunCreated(at, run_id, {"name": "w"}, "hash", {})], None)
        row = RunRow(run_id, "w", "hash", RunStatus.PENDING, "python", "", at, key=key)
        first.rows = Rows(run=row)
        known = next((name for name, run in self.model.items() if key and run.key == key), None)
        answer = self.do(which, lambda store: store.create(NewRun(first, row, print_, owner, LEASE_S)))
        if known is not None:
            if self.model[known].fingerprint != print_:
                assert answer is RunKeyConflictError
            else:
                assert (answer.run_id, answer.claim) == (known, None)  # type: ignore[attr-defined]  # a Creation
            return
        assert answer.claim == Claim(run_id, owner, 1, LEASE_S)  # type: ignore[attr-defined]  # a Creation
        self.model[run_id] = Run(key, print_, at, ["created"], owner)
        self.held.append(Claim(run_id, owner, 1, LEASE_S))

    def run_at(self, place: int) -> str:
        return sorted(self.model)[place % len(self.model)]

    def claim_at(self, place: int) -> Claim:
        """One of the latest few."""
        return self.held[-1 - place % min(len(self.held), 4)]

    @has_runs
    @rule(place=PLACES, is_gone=st.booleans(), which=st.integers(0, 1))
    def claim(self, place: int, is_gone: bool, which: int) -> None:
        run = self.run_at(place)
        model, owner = self.model[run], f"host:{next(self.numbers)}@x"
        asked: list[str] = []

        def gone(who: str) -> bool:
            asked.append(who)
            return is_gone

        answer = self.do(which, lambda store: store.claim(run, owner, LEASE_S, gone))
        if model.owner and not is_gone:
            assert answer is OwnedElsewhereError
            assert asked == [model.owner]
            return
        assert isinstance(answer, Claim)
        assert (answer.epoch, answer.owner, answer.lease_s) == (model.epoch + 1, owner, LEASE_S)
        model.epoch, model.owner = answer.epoch, owner
        self.held.append(answer)

    @has_runs
    @rule(place=PLACES, count=st.integers(1, 3), slip=st.sampled_from((0, 0, 0, 1, -1)), which=st.integers(0, 1))
    def commit(self, place: int, count: int, slip: int, which: int) -> None:
        claim = self.claim_at(place)
        model = self.model[claim.run_id]
        names = [f"n{next(self.numbers)}" for _ in range(count)]
        seq = len(model.names) + 1 + slip
        commit = Commit(claim.run_id, claim.epoch, seq, [SignalReceived(AT, name) for name in names], Rows())
        answer = self.do(which, lambda store: store.commit(commit))
        if claim.epoch != model.epoch:
            assert answer is LeaseLostError
        elif slip:
            assert answer is StoreUnavailableError
        else:
            assert answer is None
            model.names += names

    @has_runs
    @rule(place=PLACES, which=st.integers(0, 1))
    def end(self, place: int, which: int) -> None:
        claim = self.claim_at(place)
        model = self.model[claim.run_id]
        if model.is_ended:
            return
        row = RunRow(claim.run_id, "w", "hash", RunStatus.COMPLETED, "python", "", model.created_at, AT, key=model.key)
        commit = Commit(claim.run_id, claim.epoch, len(model.names) + 1, [RunEnded(AT, RunStatus.COMPLETED)], Rows(run=row))
        answer = self.do(which, lambda store: store.commit(commit))
        if claim.epoch != model.epoch:
            assert answer is LeaseLostError
        else:
            assert answer is None
            model.names.append("ended")
            model.is_ended, model.owner, model.cancel = True, "", None

    @has_runs
    @rule(place=PLACES, which=st.integers(0, 1))
    def release(self, place: int, which: int) -> None:
        claim = self.claim_at(place)
        model = self.model[claim.run_id]
        assert self.do(which, lambda store: store.release(claim)) is None
        if claim.epoch == model.epoch:
            model.owner = ""

    @has_runs
    @rule(place=PLACES, which=st.integers(0, 1))
    def beat(self, place: int, which: int) -> None:
        claim = self.claim_at(place)
        answer = self.do(which, lambda store: store.beat(claim))
        assert answer is (None if claim.epoch == self.model[claim.run_id].epoch else LeaseLostError)

    @has_runs
    @rule(place=PLACES, path=st.sampled_from(PATHS), seq=st.integers(1, 4), which=st.integers(0, 1))
    def save(self, place: int, path: str, seq: int, which: int) -> None:
        claim = self.claim_at(place)
        model, token = self.model[claim.run_id], f"t{next(self.numbers)}"
        point = Checkpoint(path, None, "primary", token, {"seq": seq}, seq, AT)
        answer = self.do(which, lambda store: store.save(claim, point))
        if claim.epoch != model.epoch:
            assert answer is LeaseLostError
            return
        assert answer is None
        if (claim.epoch, seq) >= model.points.get(path, (0, 0, ""))[:2]:
            model.points[path] = (claim.epoch, seq, token)

    @has_runs
    @rule(place=PLACES, force=st.booleans(), which=st.integers(0, 1))
    def cancel(self, place: int, force: bool, which: int) -> None:
        run = self.run_at(place)
        model, request = self.model[run], CancelRequest(f"why {next(self.numbers)}", force)
        assert self.do(which, lambda store: store.request_cancel(run, request)) is None
        if model.cancel is None or force or not model.cancel.force:
            model.cancel = request

    # -- reading

    @has_runs
    @rule(place=PLACES, path=st.sampled_from(PATHS), which=st.integers(0, 1))
    def load(self, place: int, path: str, which: int) -> None:
        run = self.run_at(place)
        found = self.do(which, lambda store: store.load(run, path))
        known = self.model[run].points.get(path)
        assert (found and found.token) == (known and known[2])  # type: ignore[attr-defined]  # a Checkpoint

    @has_runs
    @rule(place=PLACES, which=st.integers(0, 1))
    def hears_cancel(self, place: int, which: int) -> None:
        run = self.run_at(place)
        heard = self.do(which, lambda store: store.cancel_request(run))
        known = self.model[run].cancel
        assert (heard and heard.force) == (known and known.force)  # type: ignore[attr-defined]  # a CancelRequest

    @rule(limit=st.integers(1, 3), which=st.integers(0, 1))
    def list_all(self, limit: int, which: int) -> None:
        seen: list[str] = []
        cursor = ""
        while True:
            page = self.do(which, lambda store, cursor=cursor: store.runs(RunQuery(limit=limit, cursor=cursor)))  # type: ignore[misc]  # bound
            seen += [row.run_id for row in page.runs]  # type: ignore[attr-defined]  # a RunPage
            cursor = page.cursor  # type: ignore[attr-defined]  # a RunPage
            if not cursor:
                break
        newest = sorted(self.model.items(), key=lambda item: (item[1].created_at, item[0]), reverse=True)
        assert seen == [name for name, _ in newest]

    # -- processes come and go

    @rule()
    def another_process(self) -> None:
        if len(self.stores) < 2 and self.stores[0].is_durable:
            self.stores.append(type(self).make(self.folder))

    @rule(which=st.integers(0, 1))
    def crash_and_reopen(self, which: int) -> None:
        """What was acknowledged is all that there is afterwards, and all of it."""
        place = which % len(self.stores)
        if self.stores[place].is_durable:
            self.stores[place].close()
            self.stores[place] = type(self).make(self.folder)

    @rule(which=st.integers(0, 1))
    def unknown_runs(self, which: int) -> None:
        assert self.do(which, lambda store: store.run("nobody")) is None
        assert self.do(which, lambda store: store.claim("nobody", "o", 1.0, lambda _: True)) is RunNotFoundError

    @invariant()
    def logs_are_those_of_the_model(self) -> None:
        if not getattr(self, "model", None):
            return
        run, model = max(self.model.items())
        records = self.do(0, lambda store: store.read(run))
        names = {RunCreated: "created", RunEnded: "ended"}
        found = [names.get(type(record.entry)) or record.entry.name for record in records]  # type: ignore[attr-defined]  # Records
        assert found == model.names
        row = self.do(len(self.stores) - 1, lambda store: store.run(run))
        assert row.owner == model.owner.partition("@")[0]  # type: ignore[attr-defined]  # a RunRow


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Address of a server."""
    path = Path(__file__).parents[2] / "plugins" / "treadle-postgres" / "tests" / "servers.py"
    servers = _load(path)
    with tempfile.TemporaryDirectory(prefix="treadle-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = servers.PostgresServer(servers.programs(folder), folder / "machine", syncs=False)
        yield server.dsn()
        server.remove()


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("treadle_postgres_servers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_machine(make: Callable[[Path], Store], examples: int, phases: Collection[Phase] = tuple(Phase)) -> None:
    """Random histories of one kind of store."""

    class Made(Machine):
        pass

    Made.make = staticmethod(make)
    case = Made.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=40,
        phases=phases,
        deadline=None,
        derandomize=EXAMPLES == 20,
        suppress_health_check=list(HealthCheck),
    )
    case("runTest").debug()


def test_memory_answers_as_the_model() -> None:
    """Whatever happens in whatever order (fault 45)."""
    run_machine(lambda folder: MemoryStore(), 3 * EXAMPLES)


class _NoFence(MemoryStore):
    """Whoever had the run once may write to it."""

    async def commit(self, commit: Commit) -> None:
        await super().commit(attrs.evolve(commit, epoch=self._runs[commit.run_id].epoch))


class _LastPoint(MemoryStore):
    """Keeps the checkpoint that comes last, whatever its number."""

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        self._held(claim).checkpoints.clear()
        await super().save(claim, checkpoint)


class _LastCancel(MemoryStore):
    """Lets a later request weaken a forced one."""

    async def request_cancel(self, run_id: str, request: CancelRequest) -> None:
        self._found(run_id).cancel = request


@pytest.mark.parametrize("broken", [_NoFence, _LastPoint, _LastCancel])
def test_what_is_wrong_is_found(broken: type[MemoryStore]) -> None:
    """A store without the fence, with older checkpoints, or with cancels that get weaker, does not get through."""
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_machine(lambda folder: broken(), 300, [Phase.generate])


def test_sqlite_answers_as_the_model() -> None:
    """The same, with two processes' stores on one file, closed and opened anew (fault 45)."""
    run_machine(lambda folder: SqliteStore(path=folder / "runs.db"), EXAMPLES)


def test_postgres_answers_as_the_model(postgres: str) -> None:
    """The same, with two stores on one schema (fault 45)."""

    def make(folder: Path) -> Store:
        return PostgresStore(Secret(postgres), schema="m_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16])

    run_machine(make, EXAMPLES)
