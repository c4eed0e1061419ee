"""After a crash: who may have caused it runs alone, who causes it again and again is poisoned, and some ask first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import anyio
import pytest
from crashing import CrashingStore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from treadle import Registry, Workflow, _heart, aresume, arun, executor
from treadle._clock import RealClock
from treadle._config import Config
from treadle._graph import Graph, Node, Rules, Variant
from treadle._heart import Heart
from treadle._loop import loop_poster
from treadle._memory import MemoryStore
from treadle._models import (
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    Entry,
    Evaluate,
    Evaluated,
    Fact,
    GiveUp,
    InterruptAnswered,
    InterruptAsked,
    Outcome,
    RetryAfter,
    RunCreated,
    RunStatus,
    SetTimer,
    Start,
    StepEnded,
    StepStatus,
    StintOpened,
    TimerFired,
)
from treadle._orphans import end_orphans
from treadle._owner import group_of, machine, started, this_owner
from treadle._results import RunResult
from treadle._run_settings import RunSettings, run_settings
from treadle._scheduler import Scheduler
from treadle.errors import AnswerNeededError, ConfigError, ConfigInvalidError, StoreUnavailableError, TreadleError
from treadle.ports import CancelRequest, Claim, Context, ProcessRow, RunQuery
from treadle.testing._store_contract import _Writer

# -- the scheduler


class World:
    """A run whose process crashes when the test says so; each fact is applied to its loaded dump as well."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.scheduler = graph, Scheduler(graph)
        self.log: list[Entry] = []
        self.running: set[tuple[str, int | None, int]] = set()
        self.questions: list[tuple[str, str, int | None]] = []
        self.timers: list[str] = []
        self.stint = 0
        self.apply(RunCreated(1.0, "r", {}, "", {}))
        self.open()

    def apply(self, fact: Fact) -> None:
        twin = Scheduler.load(self.graph, self.scheduler.dump())
        turn = self.scheduler.apply(fact)
        assert twin.apply(fact) == turn
        assert twin.dump() == self.scheduler.dump()
        self.log += turn.records
        for command in turn.commands:
            if isinstance(command, Start):
                assert (command.path, command.index, command.attempt) not in self.running
                self.running.add((command.path, command.index, command.attempt))
            elif isinstance(command, Evaluate):
                self.questions.append((command.path, command.what, command.index))
            elif isinstance(command, SetTimer):
                self.timers.append(command.timer_id)

    def open(self, *, crashed: bool = False, advanced: Sequence[tuple[str, int | None]] = (), most: int = 3) -> None:
        self.running.clear()
        self.timers.clear()
        self.questions = [
            (asked.path, asked.what, asked.index) for asked in self.scheduler.outstanding() if isinstance(asked, Evaluate)
        ]
        self.stint += 1
        self.apply(StintOpened(1.0, self.stint, crashed=crashed, advanced=tuple(advanced), max_crashes=most))

    def end(self, path: str, index: int | None = None, outcome: Outcome | None = None) -> None:
        (attempt,) = [number for name, item, number in self.running if (name, item) == (path, index)]
        self.running.remove((path, index, attempt))
        (start,) = [
            one for one in self.scheduler.outstanding() if isinstance(one, Start) and (one.path, one.index) == (path, index)
        ]
        self.apply(AttemptEnded(1.0, path, index, attempt, outcome or Outcome("completed"), start.variant))

    @property
    def names(self) -> list[str]:
        return sorted(name if index is None else f"{name}[{index}]" for name, index, _ in self.running)

    def status(self, path: str) -> StepStatus:
        return self.scheduler.step_status(path)


def flat(*names: str, **more: object) -> Graph:
    return Graph(tuple(Node(name) for name in names), on_error="continue", **more)  # type: ignore[arg-type]  # of the right types


def test_suspects_run_alone_until_they_are_acknowledged() -> None:
    """What ran at a crash runs one after the other; what is new begins when all of it is acknowledged."""
    world = World(flat("a", "b", "c", "d", max_parallel=3))
    assert world.names == ["a", "b", "c"]

    world.open(crashed=True)
    seen = [world.names]
    for name in ("a", "b", "c"):
        world.end(name)
        seen.append(world.names)
    world.end("d")

    assert seen == [["a"], ["b"], ["c"], ["d"]]
    assert world.scheduler.status is RunStatus.COMPLETED
    assert [world.scheduler.attempts(name) for name in "abcd"] == [1, 1, 1, 1]


def test_only_the_guilty_is_poisoned() -> None:
    """Three crashes, each while it ran, and the step that causes them is out; all others complete (G9)."""
    world = World(flat("a", "guilty", "b"))
    crashes = 1
    while True:
        world.open(crashed=True)
        while world.running and world.names != ["guilty"]:
            world.end(*[name for name, _, _ in world.running][:1])
        if world.scheduler.status is not None:
            break
        crashes += 1
        assert crashes <= 3

    assert crashes == 3
    ended = {entry.path: entry for entry in world.log if isinstance(entry, StepEnded)}
    assert (ended["a"].status, ended["b"].status) == (StepStatus.COMPLETED, StepStatus.COMPLETED)
    assert ended["guilty"].status is StepStatus.POISONED
    assert ended["guilty"].reason == "its process went away 3 times while it ran"
    assert ended["guilty"].error is not None
    assert "it was running 3 times" in ended["guilty"].error.message
    assert world.scheduler.status is RunStatus.PARTIAL_FAILURE


def test_items_are_suspects_each_for_itself() -> None:
    """One item of a foreach is poisoned, the others complete."""
    world = World(Graph((Node("each", is_map=True),), on_error="continue"))
    world.apply(_evaluated("each", 4))
    for _ in range(3):
        assert ("each", 2, 1) in world.running
        world.open(crashed=True)
        while world.running and ("each", 2, 1) not in world.running:
            world.end("each", next(index for _, index, _ in world.running))
    ended = [entry for entry in world.log if isinstance(entry, StepEnded)]
    assert [(entry.path, entry.status, entry.failed_items) for entry in ended] == [("each", StepStatus.FAILED, 1)]


def _evaluated(path: str, count: int) -> Fact:
    return Evaluated(1.0, path, "foreach", count)


def test_a_step_that_gets_on_is_no_poison() -> None:
    """Whoever saved a checkpoint before each crash may crash as often as it likes."""
    world = World(flat("a"))
    for _ in range(20):
        world.open(crashed=True, advanced=[("a", None)])
    world.open(crashed=True)
    world.open(crashed=True)
    world.end("a")
    assert world.status("a") is StepStatus.COMPLETED


@pytest.mark.parametrize(("crashed", "most"), [(False, 3), (True, 0)])
def test_what_was_let_go_of_is_no_crash(crashed: bool, most: int) -> None:
    """After a suspension, or with max_crashes = 0, all runs again at once, however often."""
    world = World(flat("a", "b"))
    for _ in range(10):
        world.open(crashed=crashed, most=most)
        assert world.names == ["a", "b"]


def test_suspects_that_wait_end_with_the_run() -> None:
    """A failure that stops the run, or a cancel, ends what is held back; nothing is left over."""
    world = World(Graph(tuple(Node(name) for name in ("a", "b", "c"))))
    world.open(crashed=True)
    world.end("a", outcome=Outcome("failed", retry=GiveUp("no")))
    assert [world.status(name) for name in "abc"] == [StepStatus.FAILED, StepStatus.CANCELLED, StepStatus.CANCELLED]
    assert world.scheduler.status is RunStatus.FAILED

    world = World(flat("a", "b"))
    world.open(crashed=True)
    world.apply(CancelRequested(1.0, "enough"))
    world.end("a", outcome=Outcome("cancelled"))
    assert world.scheduler.status is RunStatus.CANCELLED


@pytest.mark.parametrize("answer", ["rerun", "fail", "cancel"])
def test_a_step_that_asks_waits_for_its_answer(answer: str) -> None:
    """It is not made again by itself, over any number of stints; the answer decides, and a cancel ends it (G4)."""
    world = World(Graph((Node("pay", on_interrupt="ask"), Node("after", ("pay",)), Node("other")), on_error="continue"))
    world.open()
    world.end("other")
    world.open(crashed=True)
    world.open()
    assert world.running == set()
    assert world.scheduler.questions == world.scheduler.answerable == (("pay", None),)
    assert sum(isinstance(entry, InterruptAsked) for entry in world.log) == 1

    if answer == "cancel":
        world.apply(CancelRequested(1.0, "enough"))
        assert world.scheduler.status is RunStatus.CANCELLED
        return
    world.apply(InterruptAnswered(1.0, "other", None, "fail"))  # nobody asked about it
    world.apply(InterruptAnswered(1.0, "pay", None, answer))  # type: ignore[arg-type]  # one of the two
    if answer == "rerun":
        world.end("pay")
        world.end("after")
        assert world.scheduler.status is RunStatus.COMPLETED
        assert world.scheduler.attempts("pay") == 1
    else:
        assert world.status("pay") is StepStatus.INTERRUPTED
        assert world.status("after") is StepStatus.UPSTREAM_FAILED


INTERRUPTS = st.sampled_from(["rerun", "rerun", "fail", "ask"])


@st.composite
def nodes(draw: st.DrawFn, prefix: str, most: int, depth: int) -> tuple[Node, ...]:
    """Some steps: plain ones, maps, groups with a cap, with fallbacks and compensations."""
    made: list[Node] = []
    for number in range(draw(st.integers(1, most))):
        path = f"{prefix}s{number}"
        earlier = [node.path for node in made]
        needs = tuple(draw(st.lists(st.sampled_from(earlier), unique=True, max_size=2))) if earlier else ()
        is_map = draw(st.sampled_from([False, False, True]))
        on_error = draw(st.sampled_from([None, "continue"]))
        if depth and draw(st.sampled_from([False, False, True])):
            rules = Rules(draw(st.sampled_from(["stop", "continue"])), max_parallel=draw(st.sampled_from([None, 1, 2])))
            children = draw(nodes(f"{path}/", 3, depth - 1))
            made.append(Node(path, needs, is_map=is_map, on_error=on_error, form="parallel", children=children, rules=rules))
            continue
        made.append(
            Node(
                path,
                needs,
                is_map=is_map,
                max_parallel=draw(st.sampled_from([None, 1])),
                max_attempts=draw(st.integers(1, 2)),
                on_error=on_error,
                on_interrupt=draw(INTERRUPTS),
                fallbacks=tuple(Variant(1, draw(INTERRUPTS)) for _ in range(draw(st.integers(0, 1)))),
                compensation=Variant(1, draw(INTERRUPTS)) if draw(st.booleans()) and not depth < 1 else None,
            )
        )
    return tuple(made)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A graph of steps and groups."""
    on_error = draw(st.sampled_from(["stop", "continue"]))
    return Graph(draw(nodes("", 5, 1)), max_parallel=draw(st.integers(1, 4)), on_error=on_error)


FAILURES = [Outcome("failed", retry=GiveUp("no")), Outcome("failed", retry=RetryAfter(1.0))]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(graphs(), st.data())
def test_every_run_gets_to_its_end_whatever_crashes(graph: Graph, data: st.DataObject) -> None:
    """With a guilty step, crashes, suspensions, failures and cancels at any moment: the run ends, who is tried runs alone, the
    innocent are not poisoned, and the log replays to the same state (G9).
    """

    def draw(options: Sequence[object]) -> object:
        return data.draw(st.sampled_from(options))

    guilty = data.draw(st.integers(0, 6))  # the place of the guilty call among all that are ever made
    world = World(graph)
    seen: list[tuple[str, int | None]] = []
    crashes = Counter[str]()
    for _ in range(500):
        if world.scheduler.status is not None:
            break
        seen += sorted({(path, index) for path, index, _ in world.running} - set(seen), key=str)
        bad = seen[guilty] if guilty < len(seen) else ("", None)
        if any((path, index) == bad for path, index, _ in world.running):
            crashes["guilty"] += 1
            world.open(crashed=True)
        elif world.questions:
            path, what, index = world.questions.pop(0)
            world.apply(Evaluated(1.0, path, what, 2 if what == "foreach" else {}, index))  # type: ignore[arg-type]  # as asked
        elif data.draw(st.integers(0, 12)) == 0 and crashes["suspended"] < 4:
            crashes["suspended"] += 1
            world.open()
        elif data.draw(st.integers(0, 40)) == 0 and crashes["cancelled"] < 2:
            crashes["cancelled"] += 1
            world.apply(CancelRequested(1.0, "enough", data.draw(st.booleans())))
        elif world.running:
            path, index, _ = draw(sorted(world.running, key=str))  # type: ignore[misc]  # a call
            world.end(path, index, draw([None, None, None, *FAILURES]))  # type: ignore[arg-type]  # an outcome
        elif world.timers:
            world.apply(TimerFired(1.0, world.timers.pop(0)))
        else:
            path, index = world.scheduler.questions[0]
            world.apply(InterruptAnswered(1.0, path, index, draw(["rerun", "fail"])))  # type: ignore[arg-type]  # one of the two
        assert not world.scheduler._trial or len(world.running) <= 1

    assert world.scheduler.status is not None, "it came to its end"
    # A step that is undone, or has come to its fallback, is the same place once more.
    assert crashes["guilty"] <= 9
    again = Scheduler(graph)
    log = list(world.log)
    while log:
        turn = again.apply(log[0])  # type: ignore[arg-type]  # a fact: decisions are taken off with it
        assert list(turn.records) == log[: len(turn.records)]
        del log[: len(turn.records)]
    assert again.dump() == world.scheduler.dump()


# -- runs


QUICK = Config(run={"lease": 0.05, "beat": 0.02})


async def crash_and_resume(store: CrashingStore, workflow: Workflow, registry: Registry, **more: object) -> RunResult | None:
    """One stint; None when it crashed."""
    registry.config = QUICK
    rows = (await store.runs(RunQuery())).runs
    store.is_crashed = False
    try:
        if not rows:
            return await arun(workflow, registry=registry, store=store)
        await anyio.sleep(0.06)  # the lease of the dead
        return await aresume(rows[0].run_id, registry=registry, store=store, **more)  # type: ignore[arg-type]  # of the right types
    except StoreUnavailableError:
        return None


@pytest.mark.anyio
async def test_a_poison_step_ends_a_run_after_three_crashes() -> None:
    """The engine notices crashes by itself: three for the guilty, and the others are done once or twice (G9)."""
    store = CrashingStore()
    ran = Counter[str]()

    @executor("demo.work")
    async def work(ctx: Context, /, guilty: bool = False) -> str:
        ran[ctx.step] += 1
        await anyio.sleep(0.001)
        if guilty:
            store.is_crashed = True
        return "done"

    workflow = Workflow("w", on_error="continue")
    for name in ("a", "b", "guilty", "c"):
        workflow.step(name, "demo.work", guilty=name == "guilty")
    result = None
    stints = 0
    while result is None:
        stints += 1
        assert stints < 10
        result = await crash_and_resume(store, workflow, Registry.of(work))

    assert ran["guilty"] == 3
    assert stints == 4
    assert result.steps["guilty"].status is StepStatus.POISONED
    assert {result.steps[name].status for name in "abc"} == {StepStatus.COMPLETED}
    assert max(ran[name] for name in "abc") <= 2
    opened = [entry for entry in result.entries if isinstance(entry, StintOpened)]
    assert [entry.crashed for entry in opened] == [False, True, True, True]
    for before, entry in zip(result.entries, result.entries[1:], strict=False):
        if isinstance(before, StintOpened) and before.crashed and isinstance(entry, AttemptStarted):
            after = [one for one in result.entries if isinstance(one, AttemptStarted) and one.stint == entry.stint]
            assert after[0] is entry
    steps = {row.path: row.status for row in await store.steps(result.run_id)}
    assert steps["guilty"] is StepStatus.POISONED


@pytest.mark.anyio
async def test_a_step_that_saves_may_crash_more_often() -> None:
    """Progress between two crashes clears a step: ten crashes of a long step that gets on do not poison it."""
    store = CrashingStore()

    @executor("demo.work")
    async def work(ctx: Context, /) -> int:
        done = int(ctx.checkpoint.token) if ctx.checkpoint else 0
        if done < 10:
            await ctx.save(str(done + 1))
            store.is_crashed = True
        return done

    workflow = Workflow("w")
    workflow.step("a", "demo.work")
    result = None
    while result is None:
        result = await crash_and_resume(store, workflow, Registry.of(work))

    assert result.steps["a"].output == 10
    assert sum(isinstance(entry, StintOpened) and entry.crashed for entry in result.entries) == 10


@pytest.mark.anyio
@pytest.mark.parametrize("answer", ["rerun", "fail"])
async def test_a_run_that_asks_is_suspended_until_somebody_answers(answer: str) -> None:
    """The rest goes on, the question is shown, a wrong answer is refused, and the right one ends the run (G4)."""
    store = CrashingStore()
    ran: list[str] = []

    @executor("demo.pay", effects="unsafe")
    async def pay(ctx: Context, /) -> str:
        ran.append(ctx.step)
        store.is_crashed = len(ran) == 1
        return "paid"

    @executor("demo.look")
    async def look() -> str:
        await anyio.sleep(0.01)
        return "seen"

    workflow = Workflow("w", on_error="continue")
    workflow.step("pay", "demo.pay", on_interrupt="ask")
    workflow.step("look", "demo.look")
    registry = Registry.of(pay, look)
    assert await crash_and_resume(store, workflow, registry) is None
    with pytest.raises(AnswerNeededError, match="nobody knows whether 'pay' was done") as caught:
        await crash_and_resume(store, workflow, registry)
    (row,) = (await store.runs(RunQuery())).runs
    steps = {one.path: one for one in await store.steps(row.run_id)}
    with pytest.raises(ConfigError, match="does not ask about step 'look'") as refused:
        await crash_and_resume(store, workflow, registry, answers={"look": "rerun"})
    result = await crash_and_resume(store, workflow, registry, answers={"pay": answer})

    assert f"treadle resume {row.run_id} --rerun 'pay'" in caught.value.remedy
    assert "It asks about: pay." in refused.value.remedy
    assert (row.status, row.owner) == (RunStatus.SUSPENDED, "")
    assert (steps["pay"].status, steps["pay"].ended_at) == (StepStatus.INTERRUPTED, None)
    assert steps["look"].status is StepStatus.COMPLETED
    assert result is not None
    expected = StepStatus.COMPLETED if answer == "rerun" else StepStatus.INTERRUPTED
    assert result.steps["pay"].status is expected
    assert len(ran) == (2 if answer == "rerun" else 1)


# -- orphans


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """A shell with two children that ignore TERM, in a group of their own; and a stranger."""
    script = "trap '' TERM INT; sleep 300 & sleep 300 & echo ready; wait"
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, stdout=pipe) as orphan,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=pipe) as stranger,
    ):
        assert orphan.stdout is not None
        orphan.stdout.readline()
        yield orphan, stranger
        stranger.communicate(b"\n")
        orphan.kill()


def test_processes_that_outlived_their_owner_are_ended_first(
    family: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]], anyio_backend: str
) -> None:
    """With all that descends from them, also what ignores TERM; others that have the number by now are left alone."""
    orphan, stranger = family

    async def act() -> None:
        store = MemoryStore()
        writer = _Writer(store, "r1")
        await writer.create()
        rows = [
            ProcessRow("a", None, orphan.pid, started(orphan.pid), machine()),
            ProcessRow("a", None, stranger.pid, "1", machine()),
            ProcessRow("b", 3, stranger.pid, started(stranger.pid), "another machine"),
            ProcessRow("c", None, 2**22 + 1, "5", machine()),
        ]
        for row in rows:
            await store.keep_process(writer.claim, row)

        await end_orphans(store, writer.claim)

        assert await store.processes("r1") == []

    anyio.run(act, backend=anyio_backend)

    assert orphan.wait(60) == -9
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    assert [pid for pid in pids if started(pid) and group_of(pid) == orphan.pid] == []
    assert stranger.poll() is None


# -- the heart


@pytest.mark.anyio
async def test_a_loop_that_is_blocked_for_half_the_lease_is_not_kept_alive(caplog: pytest.LogCaptureFixture) -> None:
    """Beats go on while a step blocks the loop for a moment, and stop when it hangs: else nobody could ever take over."""

    class Beaten(MemoryStore):
        is_durable = True
        beats: list[float] = []

        def beat(self, claim: Claim, steps: object = ()) -> None:
            self.beats.append(time.monotonic())

        async def beats_after(self, at: float) -> None:
            with anyio.fail_after(60):
                while not any(beat > at for beat in self.beats):  # noqa: ASYNC110 - a thread beats
                    await anyio.sleep(0.01)

    store = Beaten()
    claim = Claim("r", this_owner(), 1, lease_s=4.0)
    lost: list[TreadleError] = []
    asked: list[CancelRequest] = []
    heart = Heart(store, claim, post=loop_poster(), on_lost=lost.append, on_cancel=asked.append, beat_s=0.05)
    with heart:
        await store.beats_after(0.0)
        began = time.monotonic()
        time.sleep(5.0)  # noqa: ASYNC251 - this is what must not be done
        ended = time.monotonic()
        await store.beats_after(ended)  # it beats again when the loop goes on

    during = [at - began for at in store.beats if began < at < ended]
    assert during, "a short block costs no beat"
    assert max(during) < 2.0 + 2.0, "no beat after half of the lease"
    told = [record.getMessage() for record in caplog.records if "is blocked for" in record.getMessage()]
    assert any("time.sleep(5.0)" in one for one in told)
    assert not lost


@pytest.mark.anyio
async def test_a_run_in_which_nothing_happens_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls that are out for long without a sign are named, now and then; those that give signs are not."""
    monkeypatch.setattr(_heart, "SILENT_S", 150.0)

    class Minutes(RealClock):
        """Time that goes on in the test's steps alone, by one minute each."""

        at = 1000.0

        def now(self) -> float:
            return self.at

    class Looked(CrashingStore):
        """Counts the looks of the heart."""

        looks = 0

        def cancel_request(self, run_id: str) -> CancelRequest | None:
            self.looks += 1
            return super().cancel_request(run_id)

    @executor("demo.quiet")
    async def quiet(ctx: Context, /, beats: bool) -> None:
        for _ in range(5):
            clock.at += 60.0
            looks = store.looks
            while store.looks < looks + 2:  # noqa: ASYNC110 - of another thread
                await anyio.sleep(0.01)
            if beats:
                ctx.heartbeat()

    for beats in (True, False):
        clock, store = Minutes(), Looked()
        workflow = Workflow("w")
        workflow.step("each", "demo.quiet", foreach=[1, 2], beats=beats)
        registry = Registry.of(quiet, config=Config(run={"beat": 0.05}))
        await arun(workflow, registry=registry, store=store, clock=clock)
        told = [record.getMessage() for record in caplog.records if "nothing has happened" in record.getMessage()]
        if beats:
            assert told == []
        else:
            assert 1 <= len(told) <= 3
            assert told[0].endswith("s; at work: each[0], each[1]")


# -- settings


def test_settings_of_runs_are_read_and_checked() -> None:
    """Presets with the numbers of elsewhere: a beat every 60 s, a lease of 3 min; every fault is said (S1-22, S1-80)."""
    assert run_settings(Config()) == RunSettings(30.0, 5.0, 180.0, 120.0, 3)
    assert run_settings(Config(run={"preset": "durable"})) == RunSettings(180.0, 60.0, 180.0, 120.0, 3)
    changed = {"preset": "durable", "stall": "10m", "checkpoint_every": 30, "max_crashes": 0, "beat": "20s"}
    assert run_settings(Config(run=changed)) == RunSettings(180.0, 20.0, 600.0, 30.0, 0)
    wrong = {"preset": "fast", "lease": "soon", "max_crashes": -1, "beats": 1, "stall": 0}
    with pytest.raises(ConfigInvalidError) as caught:
        run_settings(Config(run=wrong))
    assert [fault.path for fault in caught.value.faults] == [
        "run.preset",
        "run.lease",
        "run.max_crashes",
        "run.beats",
        "run.stall",
    ]
    assert "did you mean 'beat'?" in str(caught.value)
    with pytest.raises(ConfigInvalidError, match="too short for a beat every 20s"):
        run_settings(Config(run={"beat": 20}))
