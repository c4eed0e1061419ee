"""Timers: what they are for, that each has effect once, and that no clock can make it otherwise."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle import Registry, RunHandle, TransientError, Workflow, aresume, arun, executor
from treadle._clock import LONGEST_SLEEP_S, RealClock
from treadle._log_rows import rows_of
from treadle._memory import MemoryStore
from treadle._models import RetryScheduled, RunStatus, TimerFired
from treadle._results import RunResult
from treadle.errors import RunSuspendedError, StoreUnavailableError
from treadle.ports import Claim, Commit, Rows, RunQuery, Store, TimerRow
from treadle.testing import VirtualClock, virtual_run

HOUR = 3600.0
DAY = 24 * HOUR


class DurableStore(MemoryStore):
    """Memory that counts as durable: what is let go of can be resumed."""

    is_durable = True


@executor("flaky")
async def flaky(fails: int) -> int:
    """Fail some times."""
    flaky.calls += 1  # type: ignore[attr-defined]  # a test's counter
    if flaky.calls <= fails:  # type: ignore[attr-defined]  # a test's counter
        raise TransientError("not yet")
    return flaky.calls  # type: ignore[attr-defined]  # a test's counter


@pytest.fixture(autouse=True)
def counter() -> None:
    flaky.calls = 0  # type: ignore[attr-defined]  # a test's counter


FLAKY = Registry.of(flaky)


def waits_and_retries() -> Workflow:
    wf = Workflow("w")
    wf.step("tried", "flaky", fails=3, retry={"max_attempts": 4, "base": "1h", "factor": 2, "jitter": 0, "max_delay": "9h"})
    wf.wait("pause", "2h")
    wf.wait("asked", signal="go", timeout="5h", on_timeout="skip")
    return wf


# -- the clock


@pytest.mark.anyio
async def test_a_clock_that_jumps_ahead_is_noticed_soon() -> None:
    """Of a machine that was suspended, say: the time is looked at every 10 s at least, and no timer is later (S1-44)."""
    assert LONGEST_SLEEP_S == 10

    class Suspended(RealClock):
        away_s = 0.0

        def now(self) -> float:
            return super().now() + self.away_s

    clock = Suspended(longest_sleep_s=0.05)

    async def wake_up() -> None:
        await anyio.sleep(0.1)
        clock.away_s = DAY

    begun = time.monotonic()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(wake_up)
            await clock.sleep_until(clock.now() + 8 * HOUR)

    assert time.monotonic() - begun < 5


def test_the_wall_clock_moves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is set to, and in whatever zone: a process keeps the time that it began with."""
    clock = RealClock()
    before = clock.now()
    monkeypatch.setattr(time, "time", lambda: before - DAY)
    monkeypatch.setenv("TZ", "Europe/Zurich" if os.environ.get("TZ") != "Europe/Zurich" else "UTC")
    time.tzset()
    try:
        after = clock.now()
    finally:
        monkeypatch.undo()
        time.tzset()

    assert 0 <= after - before < 60


class Jumping(VirtualClock):
    """Virtual time that is set from outside, now and then, as a wall clock may be.

    Args:
        jumps: ``(when, by)`` in virtual seconds since the beginning.
    """

    def __init__(self, jumps: list[tuple[float, float]]) -> None:
        super().__init__()
        self._jumps = jumps

    def now(self) -> float:
        steady = super().now()
        return steady + sum(by for when, by in self._jumps if steady - 1_767_225_600.0 >= when)

    async def sleep_until(self, at: float) -> None:
        while (rest := at - self.now()) > 0:  # noqa: ASYNC110 - it is time itself that is waited for
            await anyio.sleep(min(rest, 10.0 * 60))

    def hold(self) -> AbstractContextManager[None]:
        return super().hold()


jumps = st.lists(st.tuples(st.floats(0.0, 10 * HOUR), st.sampled_from([-HOUR, HOUR, DAY, -DAY, 60.0, -60.0])), max_size=5)


@settings(max_examples=40, deadline=None)
@given(jumps)
def test_no_jump_of_a_clock_makes_a_timer_fire_twice(when_and_by: list[tuple[float, float]]) -> None:
    """An hour back, a day ahead and back again: each timer fires once, and the run ends as it would have."""
    flaky.calls = 0  # type: ignore[attr-defined]  # a test's counter

    result = virtual_run(waits_and_retries(), registry=FLAKY, clock=Jumping(when_and_by))

    fired = Counter(entry.timer_id for entry in result.entries if isinstance(entry, TimerFired))
    assert result.status is RunStatus.COMPLETED
    assert set(fired.values()) == {1}
    assert len(fired) == 5
    assert flaky.calls == 4  # type: ignore[attr-defined]  # a test's counter
    ats = [entry.at for entry in result.entries]
    assert ats == sorted(ats), "the time of a run never goes back"


# -- retries


def test_retries_are_scheduled_with_backoff() -> None:
    """Each wait is a timer that is due after min(base * factor**(n-1), max_delay): 1 h, 2 h, 4 h (S1-40, S1-72)."""
    result = virtual_run(waits_and_retries(), registry=FLAKY)

    scheduled = [entry for entry in result.entries if isinstance(entry, RetryScheduled)]
    assert [(entry.due - entry.at) / HOUR for entry in scheduled] == [1.0, 2.0, 4.0]
    assert result.duration_s == 7 * HOUR
    fired = [
        entry.timer_id for entry in result.entries if isinstance(entry, TimerFired) and entry.timer_id.startswith("retry:")
    ]
    assert fired == ["retry:tried::1", "retry:tried::2", "retry:tried::3"]


# -- restarts


def restarted(main: Callable[[VirtualClock, Store], object]) -> object:
    clock, store = VirtualClock(), DurableStore()
    return clock.run(partial(main, clock, store))  # type: ignore[arg-type]  # a coroutine function


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 3 * HOUR), st.floats(0.0, 4 * HOUR)), max_size=5))
def test_restarts_change_nothing_but_the_time(stops: list[tuple[float, float]]) -> None:
    """However often it is let go of and for how long: each timer has effect once, none before it is due, all that are overdue
    as soon as somebody drives the run again (S1-43, S1-73)."""
    flaky.calls = 0  # type: ignore[attr-defined]  # a test's counter

    async def main(clock: VirtualClock, store: Store) -> RunResult:
        run_id = ""
        for after, away in stops:
            try:
                result = await stint(run_id, clock, store, after)
            except RunSuspendedError as error:
                run_id = error.run_id
                await anyio.sleep(away)
            else:
                return result
        return await stint(run_id, clock, store, None)

    async def stint(run_id: str, clock: VirtualClock, store: Store, after: float | None) -> RunResult:
        async with anyio.create_task_group() as group:

            async def stop(handle: RunHandle) -> None:
                await anyio.sleep(after or 0.0)
                handle.suspend("enough")

            def started(handle: RunHandle) -> None:
                if after is not None:
                    group.start_soon(stop, handle)

            try:
                if run_id:
                    result = await aresume(run_id, registry=FLAKY, store=store, clock=clock, on_start=started)
                else:
                    result = await arun(waits_and_retries(), registry=FLAKY, store=store, clock=clock, on_start=started)
            except RunSuspendedError as error:
                kept = error
            else:
                group.cancel_scope.cancel()
                return result
        raise kept

    result = restarted(main)

    assert isinstance(result, RunResult)
    assert result.status is RunStatus.COMPLETED
    fired = {entry.timer_id: entry.at for entry in result.entries if isinstance(entry, TimerFired)}
    assert len([entry for entry in result.entries if isinstance(entry, TimerFired)]) == len(fired) == 5
    for entry in result.entries:
        if isinstance(entry, RetryScheduled):
            assert fired[f"retry:tried::{entry.attempt}"] >= entry.due
    assert fired["wait:pause"] >= result.started_at + 2 * HOUR
    assert flaky.calls == 4  # type: ignore[attr-defined]  # a test's counter


# -- timeouts


def test_the_timebox_of_a_group_is_a_timer() -> None:
    """Of 300 s: what is not over by then is stopped, at that moment, and the timer has a row of its own (S1-41)."""

    @executor("nap")
    async def nap(seconds: float) -> float:
        """Sleep."""
        await anyio.sleep(seconds)
        return seconds

    wf = Workflow("w")
    phase = wf.parallel("phase", timeout=300)
    phase.step("quick", "nap", seconds=60)
    phase.step("slow", "nap", seconds=2 * HOUR)
    store = DurableStore()

    result = virtual_run(wf, registry=Registry.of(nap), store=store)

    (row,) = anyio.run(store.timers, result.run_id)
    assert (row.kind, row.status, row.due - result.started_at) == ("timeout", "fired", 300)
    assert result.steps["phase/quick"].status.value == "completed"
    assert result.steps["phase"].status.value == "timed_out"
    assert result.duration_s == 300


class Killed(StoreUnavailableError):
    """The process is no more."""


class MortalStore(DurableStore):
    """From ``dies_at`` on (virtual time) nothing is taken any more, and nobody lets go of the run: its process is gone."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock, self.dies_at = clock, math.inf

    async def commit(self, commit: Commit) -> None:
        self._check()
        await super().commit(commit)

    async def release(self, claim: Claim, rows: Rows | None = None) -> None:
        """The dead let go of nothing."""

    async def claim(self, run_id: str, owner: str, lease_s: float, is_gone: Callable[[str], bool]) -> Claim:
        return await super().claim(run_id, owner, lease_s, lambda owner: True)

    def _check(self) -> None:
        if self.clock.now() >= self.dies_at:
            raise Killed("killed")


def killed_and_resumed(
    workflow: Workflow, registry: Registry, *, at: float, away: float
) -> tuple[RunResult, Sequence[TimerRow]]:
    """The run, killed after so many seconds and taken up so much later; and the timers that it had in between."""
    clock = VirtualClock()
    store = MortalStore(clock)

    async def main() -> tuple[RunResult, Sequence[TimerRow]]:
        start = clock.now()
        store.dies_at = start + at
        async with anyio.create_task_group() as group:

            async def commit_something(handle: RunHandle) -> None:
                await clock.sleep_until(start + at)
                handle.signal("look")

            with pytest.raises(Killed):
                await arun(
                    workflow,
                    registry=registry,
                    store=store,
                    clock=clock,
                    on_start=lambda handle: group.start_soon(commit_something, handle),
                )
        store.dies_at = math.inf
        await clock.sleep_until(start + at + away)
        (row,) = (await store.runs(RunQuery())).runs
        waiting = await store.pending_timers()
        return await aresume(row.run_id, registry=registry, store=store, clock=clock), waiting

    return clock.run(main)


def napping(seconds: float) -> tuple[Workflow, Registry]:
    """A run of one step that takes so long, each time that it is begun."""

    @executor("nap")
    async def nap(seconds: float) -> float:
        """Sleep."""
        await anyio.sleep(seconds)
        return seconds

    wf = Workflow("w")
    wf.step("a", "nap", seconds=seconds)
    wf.wait("look", signal="look", timeout="100d", on_timeout="skip")
    return wf, Registry.of(nap)


@pytest.mark.parametrize(("away", "took"), [(0.0, 10 * HOUR), (4 * HOUR, 10 * HOUR), (20 * HOUR, 21 * HOUR)])
@pytest.mark.parametrize("kind", ["timeout", "budget"])
def test_the_time_of_a_run_counts_from_its_begin_whoever_drives_it(kind: str, away: float, took: float) -> None:
    """Killed after an hour and taken up later, it still ends ten hours after it began, or at once when they are over; the
    timer has a row, whose due time the kill does not move (G10, S1-41)."""
    wf, registry = napping(50 * HOUR)
    limit: dict[str, object] = {"timeout": "10h"} if kind == "timeout" else {"budget": {"wall_time": "10h"}}
    wf = Workflow.from_dict({**wf.to_dict(), **limit})

    result, waiting = killed_and_resumed(wf, registry, at=HOUR, away=away)

    assert result.status.value == ("timed_out" if kind == "timeout" else "failed")
    assert result.duration_s == pytest.approx(took, abs=60)
    timer_id = "timeout:" if kind == "timeout" else "budget:"
    (row,) = [row for row in waiting if row.timer_id == timer_id]
    assert (row.kind, row.path, row.due - result.started_at) == ("timeout", "", 10 * HOUR)
    rows = {row.timer_id: row.status for row in rows_of(result.entries).timers}
    # The deadline of the call that runs is that of the budget as well, and whichever comes first ends the run.
    assert rows[timer_id] in ({"fired"} if kind == "timeout" else {"fired", "cancelled"})


def test_the_timer_of_a_run_that_ends_in_time_is_cancelled() -> None:
    """Nothing is pending of a run that has ended."""
    wf, registry = napping(60)
    wf = Workflow.from_dict(
        {**wf.to_dict(), "timeout": "10h", "budget": {"wall_time": "9h"}, "steps": {"a": wf.to_dict()["steps"]["a"]}}
    )  # type: ignore[index]  # JSON
    store = DurableStore()

    result = virtual_run(wf, registry=registry, store=store)

    rows = anyio.run(store.timers, result.run_id)
    assert [(row.timer_id, row.status, row.due - result.started_at) for row in rows] == [
        ("budget:", "cancelled", 9 * HOUR),
        ("timeout:", "cancelled", 10 * HOUR),
    ]
    assert list(anyio.run(store.pending_timers)) == []


def test_a_budget_that_does_not_end_the_run_has_no_timer() -> None:
    """One that only warns, or that ends steps alone."""
    for budget in ({"wall_time": "9h", "mode": "warn"}, {"wall_time": "9h", "on_exceeded": "fail"}):
        wf, registry = napping(60)
        data = wf.to_dict()
        data = {**data, "budget": budget, "steps": {"a": data["steps"]["a"]}}  # type: ignore[index]  # JSON
        result = virtual_run(Workflow.from_dict(data), registry=registry)
        assert rows_of(result.entries).timers == ()


def test_an_attempt_that_is_made_again_has_its_whole_time() -> None:
    """Its deadline counts from the moment it is entered: a crash takes nothing of it away, and no timer of it is kept."""
    wf, registry = napping(50 * 60)
    data = wf.to_dict()
    data["steps"]["a"]["timeout"] = "1h"  # type: ignore[index,call-overload]  # JSON
    data["steps"] = {"a": data["steps"]["a"], "look": {**data["steps"]["look"]}}  # type: ignore[index]  # JSON
    data["timeout"] = "2h"

    result, waiting = killed_and_resumed(Workflow.from_dict(data), registry, at=40 * 60, away=0.0)

    assert result.steps["a"].status.value == "completed"
    assert result.steps["a"].attempts == 1
    took = result.steps["a"].ended_at - result.started_at
    assert took == pytest.approx(90 * 60, abs=60), "50 minutes anew, though an hour had passed since it began"
    assert sorted(row.timer_id for row in waiting) == ["timeout:", "wait:look"]
