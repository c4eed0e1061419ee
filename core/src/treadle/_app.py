"""Run and resume workflows in this process: the one entry that command line, Python and schedulers call."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import attrs

from treadle._clock import RealClock
from treadle._collector import collector_paused
from treadle._config import Config
from treadle._contracts import contract_for
from treadle._loader import load_workflow
from treadle._models import RULES_VERSION, Entry, InterruptAnswer, Json, RunCreated, RunEnded, StintOpened
from treadle._owner import is_gone, this_owner
from treadle._plan import Plan, compile_plan, make_plan
from treadle._plugins import Registry
from treadle._recorded import read_recorded
from treadle._results import RunResult, summarise
from treadle._secrets import resolve
from treadle._sending import Heard, make_signal
from treadle._session import RunHandle, Session
from treadle._store_records import Signal
from treadle._stores import open_store
from treadle._subflows import filled, input_faults, with_subflows
from treadle._workflow import Workflow
from treadle.errors import (
    ConfigError,
    InputsInvalidError,
    NotSupportedError,
    ResumeChangedError,
    RunEndedError,
    RunNotFoundError,
    TreadleError,
)
from treadle.ports import Clock, Store

__all__ = [
    "RunHandle",
    "aresume",
    "arun",
    "asend_signal",
    "check_inputs",
    "new_run_id",
    "resume",
    "run",
    "send_signal",
]

_MAX_DIFF = 60
"""Most lines of a changed file that an error shows."""


def new_run_id(now: float) -> str:
    """An id that sorts by time: 12 hex digits of milliseconds and 12 at random."""
    return f"{int(now * 1000):012x}-{secrets.randbits(48):012x}"


def run(
    workflow: Workflow | Plan,
    inputs: Mapping[str, Json] | None = None,
    *,
    backend: str = "asyncio",
    registry: Registry | None = None,
    config: Config | None = None,
    store: Store | None = None,
    key: str = "",
    max_parallel: int | None = None,
    clock: Clock | None = None,
    sinks: Sequence[object] = (),
    trigger: str = "python",
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Run a workflow to its end; ``arun`` for code that is async already.

    Args:
        workflow: What to run; a plan is not made again.
        inputs: By name; checked against the workflow's declarations.
        backend: ``asyncio`` (on uvloop when it is installed) or ``trio``.
        registry: Where executors come from; what is installed when None.
        config: Configuration; found from the working directory upwards when None.
        store: Where the run is kept; when None, where the workflow or ``[store]`` says, else in memory.
        key: Makes starting idempotent: when there is a run of this key, its result is the answer (it is resumed if need be).
        max_parallel: Calls at once, instead of what the workflow says.
        clock: Time; the real one when None.
        sinks: Objects with ``emit_span`` and ``record_event`` hooks, and perhaps a ``progress`` method.
        trigger: What started the run, for its record.
        on_start: Called with a handle once the run exists.
        on_stuck: Called with the result when calls that were told to stop still run; the run waits for them afterwards.

    Returns:
        How it ended; a run that failed is a result, not an exception. ``.check()`` makes it one.

    Raises:
        WorkflowInvalidError: The workflow cannot run here.
        InputsInvalidError: The inputs do not fit.
        SecretNotFoundError: A secret has no value.
        RunKeyConflictError: The run of this key has other inputs.
        OwnedElsewhereError: Another process drives the run of this key.
        StoreUnavailableError: The store failed; what was acknowledged is kept, and the run can be resumed.
        RunSuspendedError: ``RunHandle.suspend`` was called.
    """
    main = partial(
        arun,
        workflow,
        inputs,
        registry=registry,
        config=config,
        store=store,
        key=key,
        max_parallel=max_parallel,
        clock=clock,
        sinks=sinks,
        trigger=trigger,
        on_start=on_start,
        on_stuck=on_stuck,
    )
    return anyio.run(main, backend=backend, backend_options=loop_options(backend))


def resume(
    run_id: str,
    *,
    backend: str = "asyncio",
    store: Store | None = None,
    accept_changes: bool = False,
    answers: Mapping[str, InterruptAnswer] | None = None,
    registry: Registry | None = None,
    config: Config | None = None,
    clock: Clock | None = None,
    sinks: Sequence[object] = (),
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Drive a run that was interrupted to its end; ``aresume`` for code that is async already.

    What was acknowledged is not done again. Calls that may have been running are made again under the same idempotency key,
    but those of ``unsafe`` executors end as ``interrupted``. A run that has ended answers its recorded result at once.

    Args:
        run_id: The run.
        backend: As for ``run``.
        store: Where it is kept; as configured when None.
        accept_changes: Go on although the versions of plugins, or the file that the run was started from, have changed. The
            run keeps the workflow that it began with.
        answers: Step or item -> ``rerun`` or ``fail``: what to do with calls of steps that ask (``on_interrupt: ask``).
        registry: As for ``run``.
        config: As for ``run``.
        clock: As for ``run``.
        sinks: As for ``run``; they are told what happens from now on.
        on_start: As for ``run``.
        on_stuck: As for ``run``.

    Raises:
        RunNotFoundError: There is no such run in the store.
        OwnedElsewhereError: Another process drives it.
        AnswerNeededError: Somebody has to say first what to do with a step that may have been done.
        ResumeChangedError: Something has changed, and ``accept_changes`` is not set.
        ReplayMismatchError: The log does not lead to the decisions that it holds.
        WorkflowInvalidError: An executor or client of it is no longer there.
        StoreUnavailableError: The store failed.
    """
    main = partial(
        aresume,
        run_id,
        store=store,
        accept_changes=accept_changes,
        answers=answers,
        registry=registry,
        config=config,
        clock=clock,
        sinks=sinks,
        on_start=on_start,
        on_stuck=on_stuck,
    )
    return anyio.run(main, backend=backend, backend_options=loop_options(backend))


def loop_options(backend: str) -> dict[str, object]:
    """What ``anyio.run`` is given for an event loop of ours: uvloop where it is installed."""
    return {"use_uvloop": True} if backend == "asyncio" and importlib.util.find_spec("uvloop") else {}


async def arun(
    workflow: Workflow | Plan,
    inputs: Mapping[str, Json] | None = None,
    *,
    registry: Registry | None = None,
    config: Config | None = None,
    store: Store | None = None,
    key: str = "",
    max_parallel: int | None = None,
    clock: Clock | None = None,
    sinks: Sequence[object] = (),
    trigger: str = "python",
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """Run a workflow to its end inside a running event loop (asyncio or trio); the arguments are those of ``run``."""
    registry = registry or Registry.discover(config)
    plan = workflow if isinstance(workflow, Plan) else make_plan(workflow, registry)
    values = check_inputs(plan.workflow, inputs or {})
    resolved = secrets_of(plan, registry.config)
    check_engine(plan.workflow, registry.config)
    clock = clock or RealClock()
    with opened(store, plan.workflow, registry) as kept:
        session = Session(plan, registry, resolved, kept, clock, sinks, max_parallel, on_start, on_stuck)
        done = await session.begin(new_run_id(clock.now()), values, trigger=trigger, key=key)
        if isinstance(done, RunResult):
            return done

        def again(recorded: Plan, _: Store) -> Session:
            return attrs.evolve(session, plan=recorded, max_parallel=None)

        return await _take_up(done, kept, registry, again, accept_changes=False)


async def aresume(
    run_id: str,
    *,
    store: Store | None = None,
    accept_changes: bool = False,
    answers: Mapping[str, InterruptAnswer] | None = None,
    registry: Registry | None = None,
    config: Config | None = None,
    clock: Clock | None = None,
    sinks: Sequence[object] = (),
    on_start: Callable[[RunHandle], None] | None = None,
    on_stuck: Callable[[RunResult], None] | None = None,
) -> RunResult:
    """``resume`` inside a running event loop (asyncio or trio)."""
    registry = registry or Registry.discover(config)

    def session(plan: Plan, kept: Store) -> Session:
        secret = secrets_of(plan, registry.config)
        return Session(
            *(plan, registry, secret, kept, clock or RealClock(), sinks, None, on_start, on_stuck), answers=answers or {}
        )

    with opened(store, None, registry) as kept:
        return await _take_up(run_id, kept, registry, session, accept_changes=accept_changes)


async def _take_up(
    run_id: str, store: Store, registry: Registry, make: Callable[[Plan, Store], Session], *, accept_changes: bool
) -> RunResult:
    """The result of a run that there is: recorded already, or after driving it to its end."""
    row = await store.run(run_id)
    with collector_paused():
        entries = [record.entry for record in await store.read(run_id)]
    if row is None:
        raise RunNotFoundError(run_id)
    if not entries:
        raise ConfigError(f"The log of run {run_id} is not kept any more.", "What 'treadle show' says of it still is.")
    if isinstance(entries[-1], RunEnded):
        return summarise(entries)
    created = cast("RunCreated", entries[0])
    if created.rules > RULES_VERSION:
        raise NotSupportedError(
            f"Run {run_id} was begun by a later version of treadle (rules {created.rules}; this one knows {RULES_VERSION}).",
            "Resume it with that version.",
        )
    with collector_paused():
        plan = make_plan(Workflow.from_dict(created.workflow, file=row.source), registry)
    session = make(plan, store)
    if created.replay_of:
        session.recorded = await read_recorded(store, plan, created.replay_of, created.replay_from)
    changes = [*_file_changes(created, row.source, registry.workflow_folder), *_version_changes(entries, session.versions())]
    if changes and not accept_changes:
        raise ResumeChangedError(run_id, changes)
    claim = await store.claim(run_id, this_owner(), session.settings.lease_s, is_gone)
    entries += [record.entry for record in await store.read(run_id, len(entries))]  # the last owner may have gone on since
    return await session.go_on(claim, entries, key=row.key, source=row.source)


async def asend_signal(
    run_id: str,
    name: str,
    payload: Json = None,
    *,
    due: float | None = None,
    signal_id: str = "",
    store: Store | None = None,
    registry: Registry | None = None,
    config: Config | None = None,
) -> Signal:
    """Send a signal to a run, wherever it is driven, or for when it is resumed; when this returns, the signal is kept.

    Args:
        run_id: The run.
        name: What a step of it waits for.
        payload: Plain JSON that fits the step's schema.
        due: When it is to be delivered, seconds since the epoch; None: at once.
        signal_id: Makes sending idempotent: a second signal of the same id changes nothing.
        store: Where the run is kept; as configured when None.
        registry: Where stores come from; what is installed when None.
        config: Configuration; found from the working directory upwards when None.

    Returns:
        What was sent, with its id.

    Raises:
        RunNotFoundError: There is no such run in the store.
        RunEndedError: It has ended.
        SignalNotDeclaredError: No step of it waits for such a signal.
        PayloadInvalidError: The payload does not fit; nothing was sent.
    """
    with opened(store, None, registry or Registry.discover(config)) as kept:
        row = await kept.run(run_id)
        records = await kept.read(run_id)
        if row is None or not records:
            raise RunNotFoundError(run_id)
        heard = Heard.read(record.entry for record in records)
        at = RealClock().now()
        if signal_id and signal_id in heard.ids:
            return Signal(name, payload, signal_id, at, due)  # it was sent before, and the run has had it
        if row.ended_at is not None:
            raise RunEndedError(run_id, row.status.value)
        plan = compile_plan(Workflow.from_dict(cast("RunCreated", records[0].entry).workflow))
        signal = make_signal(plan, name, payload, at=at, due=due, signal_id=signal_id, run_id=run_id, heard=heard)
        await kept.send_signal(run_id, signal)
        return signal


def send_signal(
    run_id: str,
    name: str,
    payload: Json = None,
    *,
    due: float | None = None,
    signal_id: str = "",
    store: Store | None = None,
    registry: Registry | None = None,
    config: Config | None = None,
) -> Signal:
    """``asend_signal`` for code that is not async."""
    send = partial(
        asend_signal,
        run_id,
        name,
        payload,
        due=due,
        signal_id=signal_id,
        store=store,
        registry=registry,
        config=config,
    )
    return anyio.run(send)


def _version_changes(entries: Sequence[Entry], now: Mapping[str, str]) -> Iterator[str]:
    """What differs from the versions of the last stint. Rules of treadle itself have a version of their own."""
    stints = [entry for entry in entries if isinstance(entry, StintOpened)]
    before = stints[-1].versions if stints else now
    for name in sorted({*before, *now} - {"treadle"}):
        if before.get(name) != now.get(name):
            yield f"- {name} {before.get(name, '(not used)')}"
            yield f"+ {name} {now.get(name, '(not used)')}"


def _file_changes(created: RunCreated, source: str, folder: Path | None) -> Iterator[str]:
    """How the file that the run was started from differs from what the run began with; nothing when it is gone."""
    if not source or not os.path.exists(source):
        return
    try:
        workflow = with_subflows(load_workflow(source), folder)
    except TreadleError as error:
        yield f"+ {source} is no workflow any more: {error.problem.partition(os.linesep)[0]}"
        return
    if workflow.hash != created.workflow_hash:
        before, after = (json.dumps(data, indent=2).splitlines() for data in (created.workflow, workflow.to_dict()))
        lines = difflib.unified_diff(before, after, "the run's workflow", source, n=1, lineterm="")
        yield from list(lines)[:_MAX_DIFF]


@contextmanager
def opened(store: Store | None, workflow: Workflow | None, registry: Registry) -> Iterator[Store]:
    """The store that was given; else the one that is asked for, closed afterwards."""
    if store is not None:
        yield store
        return
    store = open_store(registry, wanted=workflow.store if workflow else "")
    try:
        yield store
    finally:
        store.close()


def check_engine(workflow: Workflow, config: Config) -> None:
    """Refuse an engine that is asked for and not there: nothing is silently done elsewhere."""
    engine = workflow.engine or str(config.engine.get("use") or "")
    if engine not in ("", "local"):
        raise NotSupportedError(
            f"Engine {engine!r} is not supported yet: runs go on in this process.", "Use the engine 'local'."
        )


def check_inputs(workflow: Workflow, given: Mapping[str, Json]) -> dict[str, Json]:
    """The run's inputs with defaults filled in.

    Raises:
        InputsInvalidError: With every fault: missing, unknown, of the wrong type.
    """
    faults = [
        attrs.evolve(fault, remedy=f"pass it: -i {fault.path}=...") if fault.message == "is required" else fault
        for fault in input_faults(workflow, given, set())
    ]
    if faults:
        raise InputsInvalidError(f"workflow {workflow.name!r}", faults)
    return cast("dict[str, Json]", contract_for(object).unstructure(filled(workflow, given)))


def secrets_of(plan: Plan, config: Config) -> Mapping[str, str]:
    """Look every secret up before anything starts."""
    return {name: resolve(name, config, os.environ) for name in sorted(plan.secret_names)}
