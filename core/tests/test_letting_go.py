"""A run that is over is let go of at once, and does not wait for Python's collector of cycles."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import anyio
import pytest
from treadle import Registry, RunHandle, Workflow, arun, executor, hookimpl
from treadle._conductor import Conductor
from treadle._instances import Scope, Step
from treadle._log_rows import LogRows
from treadle._models import DECISIONS, FACTS, Entry, Outcome
from treadle._scheduler import Scheduler
from treadle._span_projection import SpanProjection
from treadle.errors import RunSuspendedError
from treadle.ports import Record

KINDS = {Conductor, Scheduler, Scope, Step, LogRows, SpanProjection, Outcome, *FACTS, *DECISIONS}


@executor("demo.say")
async def say(text: str = "x") -> dict[str, str]:
    """Answer."""
    if text == "bad":
        raise ValueError("bad")
    return {"text": text}


REGISTRY = Registry.of(say)


def chain() -> Workflow:
    """One after the other."""
    workflow = Workflow("chain")
    for n in range(20):
        workflow.step(f"s{n}", "demo.say", needs=[f"s{n - 1}"] if n else [])
    return workflow


def items() -> Workflow:
    """A foreach of which one item fails."""
    workflow = Workflow("items")
    each = workflow.step("each", "demo.say", foreach=["a", "bad", "c"], text="${{ item }}", on_error="continue")
    workflow.finally_step("last", "demo.say", text="last")
    workflow.output("each", each.output)
    return workflow


def groups() -> Workflow:
    """A group for each item, with a cap of its own."""
    workflow = Workflow("groups")
    group = workflow.parallel("all", foreach=[1, 2, 3], max_parallel=1)
    group.step("b", "demo.say", text=group.step("a", "demo.say").output.text)
    return workflow


class Refs:
    """A sink that notes the records without keeping them."""

    def __init__(self) -> None:
        self.entries: list[weakref.ref[Entry]] = []

    @hookimpl
    def record_event(self, record: Record) -> None:
        """Note one."""
        self.entries.append(weakref.ref(record.entry))


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Cycles stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    """What is there of a run."""
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in KINDS)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("make", [chain, items, groups])
def test_a_run_that_has_ended_is_freed_at_once(make: Callable[[], Workflow], anyio_backend: str) -> None:
    """Its log, state and values go with its result, without a look for cycles."""
    refs = Refs()

    async def main() -> Counter[str]:
        before = alive()
        result = await arun(make(), registry=REGISTRY, sinks=[refs])
        assert len(result.steps) > 1
        del result
        return alive() - before

    left = anyio.run(main, backend=anyio_backend)

    assert len(refs.entries) > 10
    assert [ref() for ref in refs.entries if ref() is not None] == []
    assert left == Counter()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("how", ["cancel", "suspend"])
def test_a_run_that_is_cancelled_is_freed_at_once(how: str, anyio_backend: str) -> None:
    """The same when something was at work; the handle of the run can still be asked, and is told nothing more."""
    held = anyio.Event()

    @executor("demo.hold")
    async def hold() -> None:
        held.set()
        await anyio.sleep_forever()

    workflow = chain()
    workflow.step("hold", "demo.hold", needs=["s19"])
    handles: list[RunHandle] = []
    refs = Refs()

    async def main() -> Counter[str]:
        before = alive()
        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            with suppress(RunSuspendedError):
                await arun(workflow, registry=Registry.of(say, hold), sinks=[refs], on_start=handles.append)
        return alive() - before

    async def stop() -> None:
        await held.wait()
        if how == "cancel":
            handles[0].cancel("enough")
        else:
            handles[0].suspend("enough", drain_s=0)

    left = anyio.run(main, backend=anyio_backend)

    assert len(refs.entries) > 5
    if how == "cancel":  # an error's traceback keeps what it tells of, as anywhere
        assert left - Counter({"Outcome": 1}) == Counter(), "no more than that of the call whose error it was"
    assert (handles[0].only_waits, handles[0].awaited) == (False, {})
    handles[0].cancel("again")
    handles[0].suspend("again")
