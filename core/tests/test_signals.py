"""Signals through the store: kept for whoever drives the run, heard within a beat, each consumed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio
import pytest
from treadle import Registry, RunHandle, Workflow, aresume, arun, asend_signal, executor, send_signal
from treadle._cli._signal import open_waits
from treadle._memory import MemoryStore
from treadle._models import AttemptStarted, RunStatus, SignalReceived, StepStatus, TimerFired, WaitEnded
from treadle._results import RunResult
from treadle.errors import PayloadInvalidError, RunEndedError, RunNotFoundError, RunSuspendedError, SignalNotDeclaredError
from treadle.ports import RunQuery, Store
from treadle.testing import VirtualClock

pytestmark = pytest.mark.anyio

HOUR = 3600.0


class DurableStore(MemoryStore):
    """Memory that counts as durable: what is let go of can be resumed."""

    is_durable = True


@executor("echo")
async def echo(value: object) -> object:
    """Give back what is given."""
    return value


ECHO = Registry.of(echo)


def approval(*, timeout: str | None = None) -> Workflow:
    wf = Workflow("release")
    ok = wf.wait("ok", signal="ok", schema="approval", timeout=timeout)
    wf.step("deploy", "echo", value=ok.output.comment)
    return wf


async def run_id_of(store: Store) -> str:
    while True:
        page = await store.runs(RunQuery())
        if page.runs:
            return page.runs[0].run_id
        await anyio.sleep(0.001)


async def let_go(workflow: Workflow, store: Store, clock: VirtualClock, *, after_s: float = 1.0) -> str:
    """Run until some time, then let go of the run; answers its id."""

    async def later(handle: RunHandle) -> None:
        await anyio.sleep(after_s)
        handle.suspend("enough for today")

    async with anyio.create_task_group() as group:
        handles: list[RunHandle] = []

        def started(handle: RunHandle) -> None:
            handles.append(handle)
            group.start_soon(later, handle)

        with pytest.raises(RunSuspendedError):
            await arun(workflow, registry=ECHO, store=store, clock=clock, on_start=started)
    return handles[0].run_id


def played(main: Callable[[VirtualClock, Store], object]) -> object:
    """Run a scene in virtual time, with a store."""
    clock, store = VirtualClock(), DurableStore()
    return clock.run(partial(main, clock, store))  # type: ignore[arg-type]  # a coroutine function


async def test_a_running_run_hears_a_signal_within_a_beat() -> None:
    """Sent through the store, by whoever knows the run; also when the store is memory."""
    store = MemoryStore()
    results: list[RunResult] = []

    async def drive() -> None:
        results.append(await arun(approval(), registry=ECHO, store=store))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(drive)
            run_id = await run_id_of(store)
            await asend_signal(run_id, "ok", {"approved": True, "comment": "fine"}, store=store)

    (result,) = results
    assert result.status is RunStatus.COMPLETED
    assert result.steps["deploy"].output == "fine"


def test_a_signal_waits_for_a_run_that_nobody_drives() -> None:
    """It is kept, and is the first thing that the next stint hears (S1-43)."""

    async def main(clock: VirtualClock, store: Store) -> RunResult:
        run_id = await let_go(approval(timeout="2h"), store, clock)
        await asend_signal(run_id, "ok", {"approved": True, "comment": "late but there"}, store=store)
        await anyio.sleep(9 * HOUR)
        return await aresume(run_id, registry=ECHO, store=store, clock=clock)

    result = played(main)

    assert isinstance(result, RunResult)
    assert result.status is RunStatus.COMPLETED
    assert result.steps["deploy"].output == "late but there"
    assert [entry.how for entry in result.entries if isinstance(entry, WaitEnded)] == ["signal"]


def test_what_fell_due_while_nobody_drove_the_run_fires_at_once() -> None:
    """Waits, timeouts and signals for later: each once, as soon as the run is resumed (S1-43, S1-73)."""
    wf = Workflow("overdue")
    wf.wait("pause", "3h")
    wf.wait("asked", signal="ok", timeout="4h", on_timeout="skip")
    wf.wait("long", "30h")
    wf.wait("posted", signal="posted")

    async def main(clock: VirtualClock, store: Store) -> RunResult:
        run_id = await let_go(wf, store, clock)
        await asend_signal(run_id, "posted", 7, due=clock.now() + 5 * HOUR, store=store)
        with pytest.raises(RunSuspendedError):
            await arun_again(run_id, clock, store)
        await anyio.sleep(20 * HOUR)
        return await aresume(run_id, registry=ECHO, store=store, clock=clock)

    async def arun_again(run_id: str, clock: VirtualClock, store: Store) -> RunResult:
        def started(handle: RunHandle) -> None:
            handle.suspend("again")

        return await aresume(run_id, registry=ECHO, store=store, clock=clock, on_start=started)

    result = played(main)

    assert isinstance(result, RunResult)
    assert result.status is RunStatus.COMPLETED
    ended = {path: round((step.ended_at - result.started_at) / HOUR) for path, step in result.steps.items()}
    assert ended == {"pause": 20, "asked": 20, "posted": 20, "long": 30}
    assert result.steps["posted"].output == 7
    fired = [entry.timer_id for entry in result.entries if isinstance(entry, TimerFired)]
    assert len(fired) == len(set(fired)) == 4


def test_a_stint_that_begins_anew_consumes_no_signal_twice() -> None:
    """What the log holds is not read again from the store."""
    wf = Workflow("w")
    one = wf.wait("one", signal="go")
    pause = wf.wait("pause", "1h", needs=one)
    wf.wait("two", signal="go", needs=pause, timeout="1h", on_timeout="skip")

    async def main(clock: VirtualClock, store: Store) -> RunResult:
        run_id = await let_go(wf, store, clock)
        await asend_signal(run_id, "go", 1, signal_id="same", store=store)
        await asend_signal(run_id, "go", 1, signal_id="same", store=store)
        for _ in range(3):
            with pytest.raises(RunSuspendedError):
                await aresume(run_id, registry=ECHO, store=store, clock=clock, on_start=lambda handle: handle.suspend())
        return await aresume(run_id, registry=ECHO, store=store, clock=clock)

    result = played(main)

    assert isinstance(result, RunResult)
    assert result.steps["one"].output == 1
    assert result.steps["two"].status is StepStatus.SKIPPED
    assert sum(isinstance(entry, SignalReceived) for entry in result.entries) == 1


def test_the_rows_of_timers_say_what_they_are_for() -> None:
    """Timeouts and custom ones, pending, fired or cancelled; they outlive the process that set them (S1-42)."""
    wf = Workflow("w")
    wf.wait("pause", "3h")
    wf.wait("asked", signal="ok", timeout="4h")
    wf.wait("posted", signal="posted")

    async def main(clock: VirtualClock, store: Store) -> None:
        run_id = await let_go(wf, store, clock)
        begun_at = clock.now() - 1.0
        await asend_signal(run_id, "posted", 7, due=begun_at + 5 * HOUR, store=store)
        await asend_signal(run_id, "ok", None, store=store)
        with pytest.raises(RunSuspendedError):
            await aresume(run_id, registry=ECHO, store=store, clock=clock, on_start=lambda handle: handle.suspend())
        rows = {row.timer_id.partition("::")[0]: row for row in await store.timers(run_id)}
        told = {name: (row.kind, row.status, round((row.due - begun_at) / HOUR)) for name, row in rows.items()}
        assert told == {
            "wait:pause": ("custom", "pending", 3),
            "wait:asked": ("timeout", "cancelled", 4),
            "signal": ("custom", "pending", 5),
        }
        assert rows["signal"].payload == {"signal": "posted"}
        await aresume(run_id, registry=ECHO, store=store, clock=clock)
        assert {row.status for row in await store.timers(run_id)} == {"fired", "cancelled"}

    played(main)


async def test_what_cannot_be_sent_is_refused_and_nothing_is_kept() -> None:
    """No such run, no such signal, a payload that does not fit, a run that has ended: each says which."""
    store = DurableStore()
    clock = VirtualClock()
    handles: list[RunHandle] = []

    def started(handle: RunHandle) -> None:
        handles.append(handle)
        handle.suspend()

    with pytest.raises(RunSuspendedError):
        await arun(approval(), registry=ECHO, store=store, clock=clock, on_start=started)
    run_id = handles[0].run_id
    with pytest.raises(RunNotFoundError):
        await asend_signal("nobody", "ok", {"approved": True}, store=store)
    with pytest.raises(SignalNotDeclaredError, match=r"no step that waits for the signal 'okay'\.\nIt waits for: ok\."):
        await asend_signal(run_id, "okay", {"approved": True}, store=store)
    with pytest.raises(PayloadInvalidError, match=r"\$\.approved: is required\nNothing was sent"):
        await asend_signal(run_id, "ok", {}, store=store)
    assert list(store.signals(run_id, 0)) == []
    await asend_signal(run_id, "ok", {"approved": True, "comment": ""}, store=store)
    result = await aresume(run_id, registry=ECHO, store=store)
    assert result.status is RunStatus.COMPLETED
    assert sum(isinstance(entry, AttemptStarted) for entry in result.entries) == 1
    with pytest.raises(RunEndedError, match="has ended: completed"):
        await asend_signal(run_id, "ok", {"approved": True}, store=store)


def test_code_that_is_not_async_sends_signals_too() -> None:
    """``send_signal`` answers what was sent."""
    store = DurableStore()
    clock = VirtualClock()
    run_id = clock.run(partial(let_go, approval(), store, clock))

    sent = send_signal(run_id, "ok", {"approved": True}, store=store)

    (kept,) = store.signals(run_id, 0)
    assert (kept.signal_id, kept.payload) == (sent.signal_id, {"approved": True})
    assert kept.number == 1


def test_what_nobody_can_take_any_more_is_refused() -> None:
    """A step that has had its signal, or that waits for another name, takes none; but what was sent before is no fault."""
    wf = Workflow("w")
    one = wf.wait("one", signal="go")
    wf.wait("two", signal="region-${{ steps.one.output }}", needs=one)

    async def main(clock: VirtualClock, store: Store) -> None:
        run_id = await let_go(wf, store, clock)
        await asend_signal(run_id, "region-any", 1, store=store)
        await asend_signal(run_id, "go", "eu", signal_id="mine", store=store)
        with pytest.raises(RunSuspendedError):
            await aresume(run_id, registry=ECHO, store=store, clock=clock, on_start=lambda handle: handle.suspend())
        await asend_signal(run_id, "go", "eu", signal_id="mine", store=store)
        with pytest.raises(SignalNotDeclaredError, match=r"the signal 'go'\.\nIt waits for: region-eu\."):
            await asend_signal(run_id, "go", "us", store=store)
        with pytest.raises(SignalNotDeclaredError, match="'region-us'"):
            await asend_signal(run_id, "region-us", 1, store=store)
        await asend_signal(run_id, "region-eu", 7, store=store)
        result = await aresume(run_id, registry=ECHO, store=store, clock=clock)
        assert result.steps["two"].output == 7
        await asend_signal(run_id, "go", "eu", signal_id="mine", store=store)

    played(main)


def test_approvals_within_groups_are_known_as_such() -> None:
    """Of each item its own, by the names that their expressions give."""
    wf = Workflow("w")
    each = wf.parallel("each", foreach=["eu", "us"], as_="region")
    each.wait("ok", signal="ok-${{ region }}", schema="approval")

    async def main(clock: VirtualClock, store: Store) -> None:
        run_id = await let_go(wf, store, clock)
        waits = open_waits([record.entry for record in await store.read(run_id)])
        told = {wait.path: (wait.signal, wait.is_approval) for wait in waits}
        assert told == {"each[0]/ok": ("ok-eu", True), "each[1]/ok": ("ok-us", True)}
        for region in ("eu", "us"):
            await asend_signal(run_id, f"ok-{region}", {"approved": True}, store=store)
        result = await aresume(run_id, registry=ECHO, store=store, clock=clock)
        assert result.status is RunStatus.COMPLETED
        assert result.steps["each"].output == [{"ok": {"approved": True}}, {"ok": {"approved": True}}]

    played(main)
