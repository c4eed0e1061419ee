"""Do a run that is over again: with what its log holds, in a run of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import anyio

from treadle._app import check_inputs, loop_options, new_run_id, opened, secrets_of
from treadle._clock import RealClock
from treadle._config import Config
from treadle._models import Json, RetryRequested, RunCreated, RunEnded, RunStatus
from treadle._owner import is_gone, this_owner
from treadle._paths import plan_path
from treadle._plan import make_plan
from treadle._plugins import Registry
from treadle._recorded import read_recorded
from treadle._results import RunResult
from treadle._session import RunHandle, Session
from treadle._workflow import Workflow
from treadle.errors import NothingToRetryError, RunGoesOnError, RunNotFoundError, StepNotFoundError
from treadle.ports import Clock, Store

__all__ = ["areplay", "aretry", "replay", "retry"]


def replay(
    run_id: str,
    inputs: Mapping[str, Json] | None = None,
    *,
    start: str = "",
    backend: str = "asyncio",
    store: Store | None = None,
    registry: Registry | None = None,
    config: Config | None = None,
    clock: Clock | None = None,
    sinks: Sequence[object] = (),
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Run a recorded run's workflow again, its calls answered from the record; ``areplay`` for code that is async already.

    A call that the recorded run made with the same inputs is not made: its outcome, success or failure, is that of the record,
    and waits that were over are not waited for. So a failure can be looked at as often as one likes, and with ``start`` a step
    can be tried on what really came before it.

    Args:
        run_id: The recorded run.
        inputs: By name, instead of the recorded ones; steps that are given something else by them run anew.
        start: A step: this one, all that follow from it and ``finally`` run anew, whatever the record holds.
        backend: As for ``run``, as all that follow.
        store: Where the run is kept, and the new one will be; as configured when None.
        registry: Where executors come from.
        config: Configuration.
        clock: Time.
        sinks: Who reads along.
        on_start: Called with a handle once the run exists.
        on_stuck: Called with the result when calls that were told to stop still run.

    Returns:
        How the new run ended; its first record names the recorded run.

    Raises:
        RunNotFoundError: There is no such run in the store.
        StepNotFoundError: It has no step ``start``.
        ReplayMismatchError: The log does not lead to the decisions that it holds.
        InputsInvalidError: The inputs do not fit.
    """
    main = partial(
        areplay,
        run_id,
        inputs,
        start=start,
        store=store,
        registry=registry,
        config=config,
        clock=clock,
        sinks=sinks,
        on_start=on_start,
        on_stuck=on_stuck,
    )
    return anyio.run(main, backend=backend, backend_options=loop_options(backend))


def retry(
    run_id: str,
    *,
    start: str = "",
    reason: str = "",
    backend: str = "asyncio",
    store: Store | None = None,
    registry: Registry | None = None,
    config: Config | None = None,
    clock: Clock | None = None,
    sinks: Sequence[object] = (),
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Let a run that has ended go on: what did not complete runs again; ``aretry`` for code that is async already.

    Steps and items that completed are not run again, unless they follow from ``start`` or were undone by a compensation.
    Whatever runs is of a new generation: it counts its attempts from 1, under idempotency keys of its own. ``finally`` runs
    again in any case, and deadlines begin anew. Of its budgets, what was used stays used. The run keeps the workflow that it
    began with; plugins may have changed.

    Args:
        run_id: The run.
        start: A step: this one and all that follow from it run again, although they completed.
        reason: Shown to people.
        backend: As for ``run``, as all that follow.
        store: Where the run is kept; as configured when None.
        registry: Where executors come from.
        config: Configuration.
        clock: Time.
        sinks: Who reads along; they are told what happens from now on.
        on_start: Called with a handle.
        on_stuck: Called with the result when calls that were told to stop still run.

    Returns:
        How the run ended now.

    Raises:
        RunNotFoundError: There is no such run in the store.
        RunGoesOnError: It has not ended.
        NothingToRetryError: Everything completed, and no step is named.
        StepNotFoundError: It has no step ``start``.
        OwnedElsewhereError: Another process drives it.
        ReplayMismatchError: The log does not lead to the decisions that it holds.
    """
    main = partial(
        aretry,
        run_id,
        start=start,
        reason=reason,
        store=store,
        registry=registry,
        config=config,
        clock=clock,
        sinks=sinks,
        on_start=on_start,
        on_stuck=on_stuck,
    )
    return anyio.run(main, backend=backend, backend_options=loop_options(backend))


async def aretry(
    run_id: str,
    *,
    start: str = "",
    reason: str = "",
    store: Store | None = None,
    registry: Registry | None = None,
    config: Config | None = None,
    clock: Clock | None = None,
    sinks: Sequence[object] = (),
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """``retry`` inside a running event loop (asyncio or trio)."""
    registry, clock = registry or Registry.discover(config), clock or RealClock()
    with opened(store, None, registry) as kept:
        row = await kept.run(run_id)
        entries = [record.entry for record in await kept.read(run_id)]
        if row is None or not entries:
            raise RunNotFoundError(run_id)
        ended = entries[-1]
        if not isinstance(ended, RunEnded):
            raise RunGoesOnError(run_id)
        if ended.status is RunStatus.COMPLETED and not start:
            raise NothingToRetryError(run_id)
        created = cast("RunCreated", entries[0])
        plan = make_plan(Workflow.from_dict(created.workflow, file=row.source), registry)
        if start and plan_path(start) not in plan.steps:
            raise StepNotFoundError(f"Run {run_id}", start, [*plan.steps])
        secrets = secrets_of(plan, registry.config)
        session = Session(plan, registry, secrets, kept, clock, sinks, None, on_start, on_stuck)
        generation = 2 + sum(isinstance(entry, RetryRequested) for entry in entries)
        again = partial(RetryRequested, generation=generation, start=plan_path(start), reason=reason)
        claim = await kept.claim(run_id, this_owner(), session.settings.lease_s, is_gone)
        entries += [record.entry for record in await kept.read(run_id, len(entries))]  # somebody may have been quicker
        return await session.go_on(claim, entries, key=row.key, source=row.source, again=again)


async def areplay(
    run_id: str,
    inputs: Mapping[str, Json] | None = None,
    *,
    start: str = "",
    store: Store | None = None,
    registry: Registry | None = None,
    config: Config | None = None,
    clock: Clock | None = None,
    sinks: Sequence[object] = (),
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """``replay`` inside a running event loop (asyncio or trio)."""
    registry, clock = registry or Registry.discover(config), clock or RealClock()
    with opened(store, None, registry) as kept:
        records = await kept.read(run_id)
        created = records[0].entry if records else None
        if not isinstance(created, RunCreated):
            raise RunNotFoundError(run_id)
        plan = make_plan(Workflow.from_dict(created.workflow), registry)
        if start and start not in plan.steps:
            raise StepNotFoundError(f"Run {run_id}", start, [*plan.steps])
        values = check_inputs(plan.workflow, {**created.inputs, **(inputs or {})})
        secrets = secrets_of(plan, registry.config)
        session = Session(plan, registry, secrets, kept, clock, sinks, created.max_parallel, on_start, on_stuck)
        session.recorded, session.replay_from = await read_recorded(kept, plan, run_id, start), start
        done = await session.begin(new_run_id(clock.now()), values, trigger="replay", key="")
        assert isinstance(done, RunResult), "a run without a key is always a new one"
        return done
