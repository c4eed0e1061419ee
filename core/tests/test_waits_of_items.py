"""A step that waits, with a ``foreach``: each item waits for a time or a signal of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle import Context, Registry, RunHandle, RunResult, Workflow, aretry, executor
from treadle._cli._open_waits import Open, open_waits
from treadle._cli._view import RunView
from treadle._codec import dump_line, load_line
from treadle._conductor import Conductor
from treadle._log_rows import rows_of
from treadle._memory import MemoryStore
from treadle._models import DECISIONS, Evaluated, ItemEnded, RunCreated, StepStatus, WaitEnded, WaitStarted
from treadle._plan import compile_plan
from treadle._sending import Heard
from treadle.errors import PayloadInvalidError
from treadle.testing import VirtualClock, virtual_run
from treadle.testing._virtual_time import START


@executor("demo.echo")
async def echo(ctx: Context, /, value: object = None) -> object:
    """Give back what is given."""
    return value


REGISTRY = Registry.of(echo)
APPROVAL = {"signal": "ok-${{ region }}", "schema": "approval"}


def flow(wait: object, items: object, **more: object) -> Workflow:
    step = {"wait": wait, "foreach": items, **more}
    return Workflow.from_dict({"name": "w", "steps": {"each": step}, "outputs": {"all": "${{ steps.each.output }}"}})


def go(workflow: Workflow, *signals: tuple[str, object, float], store: MemoryStore | None = None) -> RunResult:
    """Run it in virtual time, with signals that come so many seconds after its start."""

    def send(handle: RunHandle) -> None:
        for name, payload, at in signals:
            handle.signal(name, payload, due=START + at)

    result = virtual_run(workflow, registry=REGISTRY, store=store, on_start=send)
    replays(result)
    return result


def replays(result: RunResult) -> None:
    """The log leads to its decisions, also from JSON lines, and from a dump made after any turn."""
    entries = [load_line(dump_line(entry)) for entry in result.entries]
    created = entries[0]
    assert isinstance(created, RunCreated)
    plan = compile_plan(Workflow.from_dict(created.workflow))
    Conductor(plan).replay(entries)
    if any(entry.kind == "RetryRequested" for entry in entries):
        return  # that needs what led there, which a dump does not hold
    starts = [place for place, entry in enumerate(entries) if not isinstance(entry, (*DECISIONS, Evaluated))]
    steady = Conductor(plan)
    for place, end in zip(starts, [*starts[1:], len(entries)], strict=True):
        loaded = Conductor.load(plan, json.loads(json.dumps(steady.dump())))
        assert loaded.outstanding() == steady.outstanding()
        assert steady.apply(entries[place]).records == tuple(entries[place:end])  # type: ignore[arg-type]  # a fact begins each turn
        assert loaded.apply(entries[place]).records == tuple(entries[place:end])  # type: ignore[arg-type]  # the same
        assert loaded.dump() == steady.dump()


def items(result: RunResult) -> list[str]:
    ended = {entry.index: entry.status.value for entry in result.entries if isinstance(entry, ItemEnded)}
    return [ended[index] for index in sorted(ended)]


def test_each_item_waits_for_its_own_signal() -> None:
    """Named by the item; outputs stand in the order of the items, whatever came first."""
    workflow = flow(APPROVAL, ["eu", "us"], **{"as": "region"})

    result = go(workflow, ("ok-us", {"approved": True, "by": "u"}, 5.0), ("ok-eu", {"approved": True, "by": "e"}, 9.0))

    assert result.status == "completed"
    assert [seen["by"] for seen in result.outputs["all"]] == ["e", "u"]
    assert result.duration_s == 9.0
    begun = [(entry.path, entry.index, entry.signal) for entry in result.entries if isinstance(entry, WaitStarted)]
    assert begun == [("each", 0, "ok-eu"), ("each", 1, "ok-us")]
    assert [entry.index for entry in result.entries if isinstance(entry, WaitEnded)] == [1, 0]


def test_each_item_waits_for_its_own_time() -> None:
    """All at once, and without a slot of ``max_parallel``; ``max_parallel`` of the step says how many at once."""
    seconds = [30, 10, 20]
    at_once = go(flow({"duration": "${{ item }}"}, seconds))
    in_turn = go(flow({"duration": "${{ item }}"}, seconds, max_parallel=1))

    assert (at_once.duration_s, in_turn.duration_s) == (30, 60)
    assert len(at_once.outputs["all"]) == 3
    with_calls = Workflow.from_dict(
        {
            "name": "w",
            "max_parallel": 1,
            "steps": {
                "each": {"wait": {"duration": "${{ item }}"}, "foreach": seconds},
                "beside": {"uses": "demo.echo", "with": {"value": 1}},
            },
        }
    )
    assert go(with_calls).duration_s == 30


def test_shards_of_items_wait_together() -> None:
    """``batch`` hands over lists."""
    result = go(flow({"duration": "${{ item | length }}"}, [1, 2, 3, 4, 5], batch=2, max_parallel=1))

    assert (len(result.outputs["all"]), result.duration_s) == (3, 5)


def test_an_item_that_is_rejected_ends_the_others_unless_the_step_bears_it() -> None:
    """As for any ``foreach``: ``on_error: stop`` waits for nothing more; with ``max_failures`` the rest is waited for."""
    signals = [("ok-a", {"approved": False, "comment": "no"}, 1.0), ("ok-b", {"approved": True}, 2.0)]
    stopped = go(flow(APPROVAL, ["a", "b", "c"], **{"as": "region"}), *signals)
    borne = go(
        flow({**APPROVAL, "timeout": "1h", "on_timeout": "skip"}, ["a", "b", "c"], max_failures=1, **{"as": "region"}), *signals
    )

    assert (stopped.status, stopped.duration_s, items(stopped)) == ("failed", 1.0, ["failed", "cancelled", "cancelled"])
    assert stopped.error is not None
    assert stopped.error.type == "RejectedError"
    assert "each[0]" in stopped.error.message
    assert (borne.status, items(borne)) == ("partial_failure", ["failed", "completed", "skipped"])
    assert borne.outputs["all"] == [None, {"approved": True}, None]
    assert borne.steps["each"].reason == "1 of 3 items failed"


def test_what_does_not_fit_or_cannot_be_told_is_the_items_alone() -> None:
    """A payload is held to the schema at the sender, a name that is none fails its item."""
    workflow = flow(
        {"signal": "${{ item }}", "timeout": "1m", "on_timeout": "continue", "default": "none"}, ["go", "1st"], max_failures=1
    )
    result = go(workflow, ("go", 7, 3.0))
    assert result.outputs["all"] == [7, None]
    assert items(result) == ["completed", "failed"]

    def send(handle: RunHandle) -> None:
        with pytest.raises(PayloadInvalidError):
            handle.signal("ok-eu", {"approved": "yes"})
        handle.signal("ok-eu", {"approved": True})

    done = virtual_run(flow(APPROVAL, ["eu"], **{"as": "region"}), registry=REGISTRY, on_start=send)
    assert done.status == "completed"


def test_a_cancel_ends_what_items_wait_for() -> None:
    """At once, each item with its record."""
    workflow = flow({"signal": "never"}, [1, 2])
    stop: Callable[[RunHandle], object] = lambda handle: handle.cancel("enough")  # noqa: E731 - typed
    result = virtual_run(workflow, registry=REGISTRY, on_start=stop)

    assert (result.status, result.duration_s) == ("cancelled", 0)
    replays(result)


def test_a_retried_run_asks_again_only_for_what_was_not_given() -> None:
    """Items that were approved stay so; the one that was rejected waits again, for another answer."""
    workflow = flow(APPROVAL, ["a", "b", "c"], max_failures=0, **{"as": "region"})
    store = MemoryStore()
    yes, no = {"approved": True}, {"approved": False}
    first = go(workflow, ("ok-c", yes, 1.0), ("ok-a", yes, 2.0), ("ok-b", no, 3.0), store=store)
    assert items(first) == ["completed", "failed", "completed"]
    clock = VirtualClock(start=first.ended_at + 10)
    send: Callable[[RunHandle], object] = lambda handle: handle.signal("ok-b", {"approved": True, "by": "late"})  # noqa: E731 - typed
    second = clock.run(partial(aretry, first.run_id, store=store, registry=REGISTRY, clock=clock, on_start=send))

    assert second.status == "completed"
    assert second.outputs["all"] == [yes, {"approved": True, "by": "late"}, yes]
    new = second.entries[len(first.entries) :]
    assert [entry.index for entry in new if isinstance(entry, WaitStarted)] == [1]
    replays(second)


def test_a_retry_keeps_to_the_steps_own_cap() -> None:
    """What was held is waited for again, so many items at once as the step says."""
    workflow = flow({"signal": "go-${{ index }}", "timeout": "10s"}, [1, 2, 3], max_parallel=1, max_failures="100%")
    store = MemoryStore()
    first = go(workflow, store=store)
    assert (items(first), first.duration_s) == (["timed_out"] * 3, 30.0)
    clock = VirtualClock(start=first.ended_at + 10)
    second = clock.run(partial(aretry, first.run_id, store=store, registry=REGISTRY, clock=clock))

    assert second.ended_at - first.ended_at >= 40.0
    replays(second)


def test_what_waits_is_shown_item_by_item() -> None:
    """In rows, in what a run waits for, and in its progress; what was consumed for one item is not over for the others."""
    workflow = flow({**APPROVAL, "timeout": "1h"}, ["eu", "us"], **{"as": "region"})
    result = go(workflow, ("ok-us", {"approved": True}, 5.0), ("ok-eu", {"approved": True}, 9.0))
    cut = next(place for place, entry in enumerate(result.entries) if isinstance(entry, ItemEnded)) + 1
    so_far = result.entries[:cut]

    assert open_waits(so_far) == [Open("each[0]", "ok-eu", START + 3600.0, is_approval=True)]
    assert Heard.read(so_far).may_take("each", "ok-eu")
    rows = {(row.path, row.index): row for row in rows_of(so_far).steps}
    assert (rows["each", 0].status, rows["each", 1].status) == (StepStatus.RUNNING, StepStatus.COMPLETED)
    assert rows["each", None].started_at == START
    timers = {timer.timer_id: timer.status for timer in rows_of(so_far).timers}
    assert (timers["wait:each[0]"], timers["wait:each[1]"]) == ("pending", "cancelled")
    view = RunView(is_kept=True)
    said = [change.text for record in result.records for change in view.apply(record)]
    assert f"each[0]: waits for the signal 'ok-eu', at most 1h00m: treadle approve {result.run_id} ok-eu" in said
    assert any(line.startswith("each: completed (9.0s, 2/2 items)") for line in said)


def test_the_builder_writes_what_a_file_says() -> None:
    """``Workflow.wait`` takes a ``foreach`` as ``step`` does."""
    wf = Workflow("w")
    wf.wait("each", signal="ok-${{ region }}", foreach=["eu"], as_="region", max_parallel=2, max_failures=1)

    written = {"wait": {"signal": "ok-${{ region }}"}, "foreach": ["eu"], "as": "region", "max_parallel": 2, "max_failures": 1}
    assert wf.to_dict()["steps"]["each"] == written  # type: ignore[index]  # plain data
    assert Workflow.from_dict(wf.to_dict()) == wf


@attrs.frozen
class Told:
    """What comes for an item, and when, in seconds from the start."""

    timeout: int
    at: int
    says: bool | None

    @property
    def is_heard(self) -> bool:
        return self.says is not None and self.at < self.timeout

    def ends(self, on_timeout: str) -> tuple[int, str]:
        """When the item ends by itself, and how."""
        if self.is_heard:
            return self.at, "completed" if self.says else "failed"
        return self.timeout, {"fail": "timed_out", "skip": "skipped", "continue": "completed"}[on_timeout]

    def output(self, status: str) -> object:
        if status != "completed":
            return None
        return {"approved": True} if self.is_heard else "none"


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Told], str, bool]:
    """Items with what comes for them, no two things at once; what a timeout means, and whether failures are borne."""
    count = draw(st.integers(1, 5))
    times = iter(draw(st.permutations(range(1, 2 * count + 1))))
    told = [Told(next(times), next(times), draw(st.sampled_from([True, False, None]))) for _ in range(count)]
    return told, draw(st.sampled_from(["fail", "skip", "continue"])), draw(st.booleans())


@given(histories())
@settings(max_examples=150, deadline=None)
def test_every_item_ends_by_what_comes_first(case: tuple[list[Told], str, bool]) -> None:
    """Its signal, its timeout, or the failure of another where that is not borne; each once, and each with its own."""
    told, on_timeout, is_borne = case
    wait = {"signal": "go-${{ index }}", "schema": "approval", "timeout": "${{ item }}", "on_timeout": on_timeout}
    wait |= {"default": "none"} if on_timeout == "continue" else {}
    more = {"max_failures": "100%"} if is_borne else {}
    workflow = flow(wait, [each.timeout for each in told], **more)
    ends = [each.ends(on_timeout) for each in told]
    first_bad = min((at for at, status in ends if status in ("failed", "timed_out")), default=None)
    if first_bad is not None and not is_borne:
        ends = [(at, status) if at <= first_bad else (first_bad, "cancelled") for at, status in ends]

    heard = [(f"go-{n}", {"approved": each.says}, float(each.at)) for n, each in enumerate(told) if each.says is not None]
    result = go(workflow, *heard)

    found = [(entry.index, entry.at - START, entry.status.value) for entry in result.entries if isinstance(entry, ItemEnded)]
    assert sorted(found) == [(index, *end) for index, end in enumerate(ends)]
    good = first_bad is None or is_borne
    assert result.status == ("failed" if not good else "completed" if first_bad is None else "partial_failure")
    if good:
        assert result.outputs["all"] == [each.output(status) for each, (_, status) in zip(told, ends, strict=True)]
