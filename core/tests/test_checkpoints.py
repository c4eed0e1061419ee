"""Checkpoints inside of steps: what was saved is where the next attempt begins, however the one before ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import cast

import anyio
import anyio.lowlevel
import attrs
import misbehaving as m
import pytest
from leaping import Leaping
from treadle import PermanentError, Registry, SyncContext, TransientError, Workflow, aresume, arun, executor
from treadle._app import RunHandle
from treadle._call_context import MAX_CHECKPOINT, checked_checkpoint
from treadle._config import Config
from treadle._keeper import PROGRESS_EVERY_S, STALL_S, Keeper
from treadle._memory import MemoryStore
from treadle._models import Call, Json, RunStatus, StepStatus, StintOpened
from treadle._owner import this_owner
from treadle._results import RunResult
from treadle.errors import (
    CallCancelledError,
    CheckpointInvalidError,
    LeaseLostError,
    RunSuspendedError,
    StoreUnavailableError,
    TreadleError,
)
from treadle.ports import Checkpoint, CheckpointStatistics, Claim, Commit, Context, RunQuery
from treadle.testing import VirtualClock, virtual_run

MINUTE = 60.0


class WatchedStore(MemoryStore):
    """Counts as durable, notes each save, and can die: from then on it takes nothing, as if the process had been killed."""

    is_durable = True

    def __init__(self) -> None:
        super().__init__()
        self.saves: list[Checkpoint] = []
        self.is_dead = False

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        self._check()
        await super().save(claim, checkpoint)
        self.saves.append(checkpoint)

    async def commit(self, commit: Commit) -> None:
        self._check()
        await super().commit(commit)

    def _check(self) -> None:
        if self.is_dead:
            raise StoreUnavailableError("the process was killed")


def one_step(function: object, store: MemoryStore, clock: VirtualClock, backend: str = "asyncio", **more: object) -> RunResult:
    """Run a workflow of one step in virtual time."""
    workflow = Workflow("w")
    name = function.__treadle__.name if hasattr(function, "__treadle__") else "demo.work"
    workflow.step("a", name, **more)  # type: ignore[arg-type]  # of the right types
    return virtual_run(workflow, executors=[function], store=store, clock=clock, backend=backend)


def kill_at(moments: Sequence[float], store: WatchedStore, clock: VirtualClock, run: Callable[..., object]) -> RunResult:
    """Run, kill at each moment (virtual seconds since the start) without a word to anybody, and resume each time."""
    start = clock.now()
    left = list(moments)

    async def stint(main: Callable[..., object]) -> RunResult | None:
        result: list[RunResult] = []

        async def drive(ready: Callable[[RunHandle], None]) -> None:
            try:
                result.append(await main(on_start=ready, clock=clock, store=store))  # type: ignore[misc]  # an arun
            except StoreUnavailableError:
                assert store.is_dead

        async with anyio.create_task_group() as group:

            async def kill(handle: RunHandle) -> None:
                await clock.sleep_until(start + left.pop(0))
                store.is_dead = True
                handle.cancel()  # something to commit, so that it is noticed

            handles: list[RunHandle] = []
            if left:
                group.start_soon(kill_soon, handles, kill)
            await drive(handles.append)
            group.cancel_scope.cancel()
        store.is_dead = False
        return result[0] if result else None

    async def kill_soon(handles: list[RunHandle], kill: Callable[[RunHandle], object]) -> None:
        while not handles:
            await anyio.lowlevel.checkpoint()
        await kill(handles[0])  # type: ignore[misc]  # a coroutine

    main = run
    while True:
        result = clock.run(partial(stint, main))
        if result is not None:
            return result
        run_id = clock.run(partial(only_run, store))
        main = partial(run.again, run_id)  # type: ignore[attr-defined]  # set by whoever made it


async def only_run(store: MemoryStore) -> str:
    (row,) = (await store.runs(RunQuery())).runs
    return row.run_id


class Runs:
    """A workflow that can be started, and resumed by its id."""

    def __init__(self, workflow: Workflow, *executors: object, config: Config | None = None) -> None:
        self._workflow, self._executors, self._config = workflow, executors, config

    async def __call__(self, **more: object) -> RunResult:
        registry = Registry.of(*self._executors, config=self._config)
        return await arun(self._workflow, registry=registry, **more)  # type: ignore[arg-type]  # of the right types

    async def again(self, run_id: str, **more: object) -> RunResult:
        registry = Registry.of(*self._executors, config=self._config)
        return await aresume(run_id, registry=registry, **more)  # type: ignore[arg-type]  # of the right types


# -- where an attempt begins


def test_the_next_attempt_begins_where_the_last_one_saved(anyio_backend: str) -> None:
    """An attempt sees what was saved before it begins; the checkpoint goes with the result (S1-13, S1-14,
    S1-15, S1-21, S1-81).
    """
    seen: list[object] = []
    store = WatchedStore()

    @executor("demo.work")
    async def work(ctx: Context, /) -> str:
        seen.append(ctx.checkpoint and (ctx.checkpoint.token, ctx.checkpoint.data))
        if ctx.checkpoint is None:
            await ctx.save("step-1-complete", {"pages": [1]})
            await ctx.save("step-2-complete", {"pages": [1, 2]})
            raise TransientError("the line broke", retry_after_s=1)
        return ctx.checkpoint.token

    result = one_step(work, store, VirtualClock(), anyio_backend)

    assert seen == [None, ("step-2-complete", {"pages": [1, 2]})]
    assert result.steps["a"].output == "step-2-complete"
    assert [point.seq for point in store.saves] == [1, 2]
    assert len(store._runs[result.run_id].checkpoints) == 0


def test_one_checkpoint_is_kept_for_each_step_and_item(anyio_backend: str) -> None:
    """A save takes the place of the one before (S1-18), beside those of other items; statistics count them (S1-16, S1-17)."""
    store, clock = WatchedStore(), VirtualClock()
    kept: list[object] = []

    @executor("demo.each")
    async def each(ctx: Context, /, n: int) -> int:
        for number in range(3):
            await ctx.save(f"{n}-{number}", "x" * 8)
        await anyio.sleep(MINUTE)
        if not kept:
            kept.append(await store.checkpoints(ctx.run_id))
            kept.append(await store.checkpoint_statistics())
        return n

    workflow = Workflow("w")
    workflow.step("each", "demo.each", foreach=[0, 1], n="${{ item }}")
    virtual_run(workflow, executors=[each], store=store, clock=clock, backend=anyio_backend)

    rows, statistics = kept
    assert [(row.path, row.index, row.token, row.size_bytes) for row in rows] == [  # type: ignore[attr-defined]  # a list
        ("each", 0, "0-2", 10),
        ("each", 1, "1-2", 10),
    ]
    assert statistics == CheckpointStatistics(2, 20)
    assert statistics.average_bytes == 10.0


@attrs.frozen
class ProgressV1:
    """What version 1 of an executor saved."""

    page: int


@attrs.frozen
class ProgressV2:
    """What version 2 reads."""

    page: int
    seen: tuple[str, ...] = ()
    mode: str = "fast"


def test_what_an_older_version_saved_loads_in_a_newer_class() -> None:
    """Added fields take their defaults, removed ones are left out, and what does not fit is said (S1-20)."""
    saved = Checkpoint("a", None, "primary", "page-7", checked_checkpoint("a", "page-7", ProgressV1(7)))

    assert saved.data == {"page": 7}
    assert saved.data_as(ProgressV2) == ProgressV2(7)
    assert attrs.evolve(saved, data={"page": 7, "gone": 1}).data_as(ProgressV2) == ProgressV2(7)
    with pytest.raises(ValueError, match=r"checkpoint 'page-7' of step 'a' is no ProgressV2.*page"):
        attrs.evolve(saved, data={"seen": []}).data_as(ProgressV2)


@pytest.mark.parametrize(
    ("token", "data", "words"),
    [
        ("", None, "token must be a text"),
        ("t", {"a": {1, 2}}, "$.a"),
        ("t", {"a": float("nan")}, "$.a"),
        ("t", {"small": 1, "html": "x" * (MAX_CHECKPOINT + 1)}, "$.html: larger than 64 MiB"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(token: str, data: Json, words: str) -> None:
    """The error names step, token and the key that is at fault (S1-88)."""
    with pytest.raises(CheckpointInvalidError, match="Step 'a'") as caught:
        checked_checkpoint("a", token, data)

    assert words in str(caught.value)


# -- how often it is written


def test_progress_is_written_every_two_minutes_and_ends_of_stretches_at_once(anyio_backend: str) -> None:
    """At most one save of progress in 120 s, the newest; a step boundary within is durable at once (S1-56, S1-57, S1-69,
    S1-91).
    """
    store, clock = WatchedStore(), VirtualClock()
    start = clock.now()

    @executor("demo.work")
    async def work(ctx: Context, /) -> int:
        for second in range(600):
            ctx.save_soon("progress", second)
            if second == 300:
                before = len(store.saves)
                await ctx.save("boundary", second)
                assert len(store.saves) == before + 1
            await anyio.sleep(1)
        await anyio.sleep(119)  # silent, but what waits is written in time
        return 1

    one_step(work, store, clock, anyio_backend)

    told = [(point.token, round(point.saved_at - start)) for point in store.saves]
    at_two_minutes = [("progress", 0), ("progress", 120), ("progress", 240)]
    assert told == [*at_two_minutes, ("boundary", 300), ("progress", 420), ("progress", 540), ("progress", 660)]
    ages = [min(round(point.saved_at - start), 599) - cast("int", point.data) for point in store.saves]
    assert max(ages) <= 1, "the newest was written"
    times = [point.saved_at for point in store.saves if point.token == "progress"]
    assert min(later - sooner for sooner, later in pairwise(times)) >= PROGRESS_EVERY_S == 120.0


@pytest.mark.parametrize("how", ["fails", "times out", "is cancelled", "is suspended", "is suspended twice"])
def test_the_newest_progress_is_never_dropped(anyio_backend: str, how: str) -> None:
    """However an attempt ends without success, what waited is written first (S1-57)."""
    store, clock = WatchedStore(), VirtualClock()
    handles: list[RunHandle] = []

    @executor("demo.work")
    async def work(ctx: Context, /) -> str:
        if ctx.checkpoint is not None:
            return ctx.checkpoint.token
        ctx.save_soon("first", 1)
        await anyio.sleep(1)
        ctx.save_soon("second", 2)
        if how == "fails":
            raise TransientError("no", retry_after_s=1)
        if how == "is cancelled":
            handles[0].cancel()
        if "suspended" in how:
            handles[0].suspend(drain_s=5)
        if how == "is suspended twice":
            handles[0].suspend()
        await anyio.sleep(1000)
        return "never"

    workflow = Workflow("w")
    workflow.step("a", "demo.work", timeout="30s", retry={"max_attempts": 2, "delays": [0]})
    run = partial(
        virtual_run, workflow, executors=[work], store=store, clock=clock, backend=anyio_backend, on_start=handles.append
    )
    if "suspended" in how:
        with pytest.raises(RunSuspendedError):
            run()
        registry = Registry.of(work)
        resume = partial(aresume, clock.run(partial(only_run, store)), store=store, registry=registry, clock=clock)
        result = clock.run(resume, backend=anyio_backend)
    else:
        result = run()

    assert [point.token for point in store.saves][:2] == ["first", "second"]
    assert store.saves[1].saved_at - store.saves[0].saved_at < PROGRESS_EVERY_S
    assert result.steps["a"].output == (None if how == "is cancelled" else "second")


def test_progress_that_the_store_does_not_take_is_tried_again() -> None:
    """A store that is away for a moment costs no progress."""

    class Away(WatchedStore):
        refusals = 2

        async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
            if self.refusals:
                self.refusals -= 1
                raise StoreUnavailableError("away")
            await super().save(claim, checkpoint)

    store = Away()

    @executor("demo.work")
    async def work(ctx: Context, /) -> int:
        ctx.save_soon("kept", 1)
        await anyio.sleep(60)
        return len(store.saves)

    assert one_step(work, store, VirtualClock()).steps["a"].output == 1


def test_a_store_that_takes_no_checkpoint_fails_the_attempt_for_now() -> None:
    """The step hears of it as a transient error, which is retried like any other."""

    class Away(WatchedStore):
        refusals = 1

        async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
            self.refusals -= 1
            if self.refusals >= 0:
                raise StoreUnavailableError("away", "wait")
            await super().save(claim, checkpoint)

    @executor("demo.work")
    async def work(ctx: Context, /) -> int:
        await ctx.save("kept", 1)
        return ctx.attempt

    result = one_step(work, Away(), VirtualClock())

    assert result.steps["a"].output == 2


# -- threads and processes


def test_threads_save_too(anyio_backend: str) -> None:
    """A def executor saves from its thread and from threads of its own, and waits until it is kept (S1-23)."""
    store = WatchedStore()

    @executor("demo.work")
    def work(ctx: SyncContext, /) -> object:
        if ctx.checkpoint is not None:
            return [ctx.checkpoint.token, ctx.fencing_token]
        ctx.save("one", 1)
        assert [point.token for point in store.saves] == ["one"]
        threads = [threading.Thread(target=ctx.save, args=(f"thread-{number}", number)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store.saves) == 6
        ctx.save_soon("soon", 2)
        raise TransientError("no", retry_after_s=0)

    workflow = Workflow("w")
    workflow.step("a", "demo.work")
    result = anyio.run(partial(arun, workflow, registry=Registry.of(work), store=store), backend=anyio_backend)

    assert result.steps["a"].output == ["soon", 1]
    assert sorted(point.seq for point in store.saves) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_isolated_executors_save_too(loop: str) -> None:
    """Over the pipes of their process: saved means kept, progress goes along, and the next attempt begins there."""
    store = WatchedStore()
    workflow = Workflow("w")
    workflow.step("a", "good.saves", fails=True)
    workflow.step("b", "good.saves")
    workflow.step("c", "good.saves-async", name="grüße")
    workflow.step("d", "bad.saves")
    registry = Registry.of(m.saves, m.saves_async, m.saves_nonsense)

    result = anyio.run(partial(arun, workflow, registry=registry, store=store), backend=loop).check()

    outputs = {path: step.output for path, step in result.steps.items()}
    assert outputs["a"] == {"seen": ["progress", {"n": 1001}], "fencing": 1}
    assert outputs["b"] == {"seen": None, "fencing": 1}
    assert outputs["c"] == ["last", {"name": "grüße"}]
    assert "Step 'd' cannot save checkpoint 'x': $.a" in str(outputs["d"])
    mine = [point for point in store.saves if point.path == "a"]
    assert [point.data for point in mine[:201]] == [{"n": 1}, *({"n": number} for number in range(200))]
    assert [point.seq for point in mine] == list(range(1, len(mine) + 1))


# -- who may save


def test_an_attempt_that_is_over_saves_nothing(anyio_backend: str) -> None:
    """A thread that goes on after its deadline is refused, and what the next attempt saved stays (G6)."""
    store = WatchedStore()
    refused: list[str] = []
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    @executor("demo.work", effects="idempotent")
    def work(ctx: SyncContext, /) -> str:
        if ctx.attempt == 1:
            begun.set()
            go_on.wait(60)
            try:
                ctx.save("late", 1)
            except CallCancelledError as error:
                refused.append(str(error))
            done.set()
            return "late"
        ctx.save("second", 2)
        go_on.set()
        assert done.wait(60)
        return "second"

    workflow = Workflow("w")
    workflow.step("a", "demo.work", timeout="1h", retry={"max_attempts": 2, "delays": [0], "retry_on": ["timeout"]})
    clock = Leaping(begun.is_set)
    result = anyio.run(partial(arun, workflow, registry=Registry.of(work), store=store, clock=clock), backend=anyio_backend)

    assert [point.token for point in store.saves] == ["second"]
    assert refused == ["Attempt 1 of step 'a' is over; nothing more is kept of it."]
    assert result.steps["a"].attempts == 2


def test_an_owner_that_was_replaced_saves_nothing(anyio_backend: str) -> None:
    """Saves are fenced by the epoch: the step of an earlier owner hears that its run was taken away (G6, G8)."""
    store = WatchedStore()
    heard: list[TreadleError] = []

    @executor("demo.work")
    async def work(ctx: Context, /) -> int:
        await ctx.save("mine", 1)
        await store.claim(ctx.run_id, "thief:1@x", 60.0, lambda owner: True)
        try:
            await ctx.save("stale", 2)
        except LeaseLostError as error:
            heard.append(error)
        return 1

    workflow = Workflow("w")
    workflow.step("a", "demo.work")
    with pytest.raises(LeaseLostError):
        anyio.run(partial(arun, workflow, registry=Registry.of(work), store=store), backend=anyio_backend)

    kept = anyio.run(store.load, anyio.run(only_run, store), "a")
    assert kept is not None
    assert (kept.token, len(heard)) == ("mine", 1)


def test_each_variant_has_its_own() -> None:
    """A fallback does not begin where the primary executor got."""

    @attrs.define
    class User:
        call: Call
        is_kept: bool = False
        is_over: bool = False
        is_usage_due: bool = False

    async def act() -> None:
        from treadle.testing._store_contract import _Writer  # the shortest way to a run in a store

        store = MemoryStore()
        writer = _Writer(store, "r1")
        await writer.create()
        primary = User(Call("r1", "w", "a", "demo.work", {}))
        fallback = User(attrs.evolve(primary.call, variant="fallback 1"))
        async with Keeper(store, writer.claim, VirtualClock()) as keeper:
            await keeper.save(primary, "primary", 1)
            assert await keeper.load(fallback.call) is None
            await keeper.save(fallback, "fallback", 2)
            points = [await keeper.load(user.call) for user in (primary, fallback)]
        assert [point.token for point in points if point] == ["primary", "fallback"]
        assert fallback.is_kept

    anyio.run(act)


@pytest.mark.parametrize("saved", [True, False], ids=["after its own checkpoint", "before it has any"])
@pytest.mark.parametrize("is_map", [False, True], ids=["step", "items"])
def test_a_fallback_that_was_killed_goes_on_where_it_was_itself(saved: bool, is_map: bool, anyio_backend: str) -> None:
    """The primary executor saves and fails for good; its fallback is killed and made again: it gets its own checkpoint, or
    none, and never the primary's, also of items; and a second fallback gets neither (S1-13).
    """
    seen: list[tuple[str, object]] = []
    store, clock = WatchedStore(), VirtualClock()

    def note(ctx: Context) -> bool:
        """Whether it begins anew."""
        seen.append((ctx.variant, ctx.checkpoint and ctx.checkpoint.token))
        return ctx.checkpoint is None

    @executor("demo.first")
    async def first(ctx: Context, /, n: int = 0) -> str:
        note(ctx)
        await ctx.save(f"primary {n}", {"from": "primary"})
        raise PermanentError("never")

    @executor("demo.second")
    async def second(ctx: Context, /, n: int = 0) -> str:
        note(ctx)
        if saved:
            await ctx.save(f"second {n}", {"from": "second"})
        await anyio.sleep(MINUTE)
        raise PermanentError("never either")

    @executor("demo.third")
    async def third(ctx: Context, /, n: int = 0) -> str:
        note(ctx)
        return "third"

    inputs = {"n": "${{ item }}"} if is_map else {}
    workflow = Workflow("w")
    fallback = [{"uses": name, "with": inputs} for name in ("demo.second", "demo.third")]
    workflow.step(
        "a",
        "demo.first",
        foreach=[1, 2] if is_map else None,
        max_parallel=1 if is_map else None,
        fallback=fallback,
        with_=inputs,
    )

    result = kill_at([MINUTE / 2], store, clock, Runs(workflow, first, second, third))

    own = f"second {1 if is_map else 0}" if saved else None
    story: list[tuple[str, object]] = [("primary", None), ("fallback 1", None)]
    again: list[tuple[str, object]] = [("fallback 1", own), ("fallback 2", None)]
    assert seen == [*story, *again, *([*story, ("fallback 2", None)] if is_map else [])]
    assert result.steps["a"].output == (["third"] * 2 if is_map else "third")
    assert len(store._runs[result.run_id].checkpoints) == 0, "those of all variants go with the result"


# -- long work


def test_work_of_half_an_hour_goes_on_where_it_was_killed() -> None:
    """Killed at minute 25 of 30: what was saved up to then is not done again, 25 of 30 minutes (S1-70, S1-82)."""
    store, clock = WatchedStore(), VirtualClock()
    start = clock.now()
    done: list[tuple[int, float]] = []

    @executor("demo.minutes")
    async def minutes(ctx: Context, /) -> int:
        first = int(ctx.checkpoint.token.removeprefix("minute-")) if ctx.checkpoint else 0
        for minute in range(first + 1, 31):
            await anyio.sleep(MINUTE)
            done.append((minute, clock.now() - start))
            await ctx.save(f"minute-{minute}", {"minute": minute})
        return 30

    workflow = Workflow("long")
    workflow.step("a", "demo.minutes")
    result = kill_at([25 * MINUTE + 1], store, clock, Runs(workflow, minutes))

    assert result.steps["a"].output == 30
    assert [minute for minute, _ in done] == list(range(1, 31))
    assert clock.now() - start < 30 * MINUTE + 2
    assert 25 / 30 > 0.83


def test_fifty_hours_with_kills_take_fifty_hours() -> None:
    """A run of 50 h that is killed every few hours ends in time: each stint goes on from the last save (S1-01, S1-89)."""
    store, clock = WatchedStore(), VirtualClock()
    start = clock.now()
    hour = 60 * MINUTE
    units: list[int] = []

    @executor("demo.hours")
    async def hours(ctx: Context, /, length: int) -> int:
        first = int(ctx.checkpoint.token) if ctx.checkpoint else 0
        for unit in range(first + 1, length + 1):
            await anyio.sleep(10 * MINUTE)
            ctx.save_soon(f"{unit}", {"unit": unit})
            units.append(unit)
        return length

    workflow = Workflow("autonomous")
    workflow.step("short", "demo.hours", length=1)
    workflow.step("hours", "demo.hours", needs=["short"], length=12)
    workflow.step("rest", "demo.hours", needs=["hours"], length=50 * 6 - 13)
    kills = [hour * number + 17 for number in (1, 2, 7, 13, 20, 20.5, 33, 41, 49)]
    result = kill_at(kills, store, clock, Runs(workflow, hours))

    took = clock.now() - start
    assert result.status is RunStatus.COMPLETED
    assert 50 * hour <= took < 50 * hour + len(kills) * 10 * MINUTE
    assert sum(isinstance(entry, StintOpened) for entry in result.entries) == 1 + len(kills)
    assert len(units) == 50 * 6


# -- signs of life


def test_a_step_that_says_it_lives_and_falls_silent_has_stalled(anyio_backend: str) -> None:
    """Judged from the time of its last sign, after 3 min; one that never says so has only its deadline (S1-22, S1-68,
    S1-80).
    """
    store, clock = WatchedStore(), VirtualClock()

    @executor("demo.work")
    async def work(ctx: Context, /) -> float:
        if ctx.attempt == 1:
            for _ in range(10):
                await anyio.sleep(60)
                ctx.heartbeat()
            await anyio.sleep(1000)
        return clock.now()

    @executor("demo.quiet")
    async def quiet() -> float:
        await anyio.sleep(2000)
        return clock.now()

    workflow = Workflow("w")
    workflow.step("a", "demo.work", retry={"max_attempts": 2, "delays": [0]})
    workflow.step("b", "demo.quiet")
    start = clock.now()
    result = virtual_run(workflow, executors=[work, quiet], store=store, clock=clock, backend=anyio_backend)

    assert result.steps["a"].output - start == pytest.approx(600 + STALL_S) == 600 + 180  # type: ignore[operator]  # a number
    assert result.steps["b"].status is StepStatus.COMPLETED
    (error,) = [entry.outcome.error for entry in result.entries if getattr(entry, "outcome", None) and entry.outcome.error]  # type: ignore[union-attr]  # such entries
    assert (error.type, error.message) == (
        "StepStalledError",
        "Step 'a' has stalled: it said nothing of itself for 180s.",
    )


def test_signs_of_life_are_sampled_for_audit() -> None:
    """The first of each attempt, then one in 5 min, however often it beats (S1-63, S1-64)."""
    store, clock = WatchedStore(), VirtualClock()
    taken: list[tuple[str, float]] = []

    @attrs.define
    class User:
        call: Call
        is_kept: bool = False
        is_over: bool = False

    async def act() -> None:
        users = [User(Call("r1", "w", f"task-{number}", "demo.work", {})) for number in range(10)]
        async with Keeper(store, Claim("r1", this_owner(), 1), clock) as keeper:
            start = clock.now()
            for _ in range(12 * 60 // 5):
                for user in users:
                    keeper.heartbeat(user)
                taken.extend((row.path, row.at - start) for row in keeper.take_beats())
                await anyio.sleep(5)

    clock.run(act)

    assert taken == [(f"task-{number}", at) for at in (0.0, 300.0, 600.0) for number in range(10)]


def test_progress_and_saves_are_signs_of_life() -> None:
    """Who saves or reports need not say it in other words."""

    @executor("demo.work")
    async def work(ctx: Context, /) -> int:
        ctx.heartbeat()
        for number in range(10):
            await anyio.sleep(100)
            ctx.progress(number)
            await anyio.sleep(100)
            await ctx.save("t", number)
        return 1

    assert one_step(work, WatchedStore(), VirtualClock(), retry={"max_attempts": 1}).steps["a"].output == 1


def test_the_reference_says_what_the_names_of_elsewhere_are_here() -> None:
    """setCheckpointCallback, saveCheckpoint, getCheckpointToken, getCheckpointData, resumeTask: each has its place (S1-55)."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "save-checkpoints.md").read_text("utf-8")
    for name in (
        "setCheckpointCallback",
        "saveCheckpoint(token, data)",
        "getCheckpointToken",
        "getCheckpointData",
        "resumeTask",
    ):
        assert name in page
