"""Run a workflow in this process: the one entry that command line, Python and schedulers call."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import anyio
import attrs

from treadle._clients import ClientHosts
from treadle._clock import RealClock
from treadle._conductor import Conductor
from treadle._config import Config
from treadle._contracts import contract_for
from treadle._driver import Driver
from treadle._memory import MemoryStore
from treadle._models import Call, Entry, Json, Record, RunCreated, StintOpened
from treadle._plan import Plan, make_plan
from treadle._plugins import Registry
from treadle._results import RunResult, summarise
from treadle._runner import Runner
from treadle._scopes import ExecutorScope, RunScope, TroubleLog
from treadle._secrets import resolve
from treadle._span_projection import SpanProjection
from treadle._tracing import RunMetrics, RunTracing
from treadle._version import __version__
from treadle._workflow import Workflow
from treadle.errors import ConfigError, Fault, InputsInvalidError, NotSupportedError
from treadle.ports import Clock, Store

__all__ = ["RunHandle", "arun", "check_inputs", "new_run_id", "run"]


class RunHandle:
    """A run that is going on.

    Attributes:
        run_id: The run.
        trace_id: Its trace.
    """

    def __init__(self, run_id: str, trace_id: str, driver: Driver) -> None:
        self.run_id, self.trace_id, self._driver = run_id, trace_id, driver

    def cancel(self, reason: str = "cancel requested", *, force: bool = False) -> None:
        """Ask the run to stop; call it on the event loop's thread.

        Args:
            reason: Shown to people.
            force: Do without the ``finally`` steps, and wait a second instead of ten for what runs.
        """
        self._driver.cancel(reason, is_forced=force)


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
        store: Where the log is kept; memory when None.
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
    """
    main = partial(
        arun,
        workflow,
        inputs,
        registry=registry,
        config=config,
        store=store,
        max_parallel=max_parallel,
        clock=clock,
        sinks=sinks,
        trigger=trigger,
        on_start=on_start,
        on_stuck=on_stuck,
    )
    return anyio.run(main, backend=backend, backend_options=_loop_options(backend))


def _loop_options(backend: str) -> dict[str, object]:
    return {"use_uvloop": True} if backend == "asyncio" and importlib.util.find_spec("uvloop") else {}


async def arun(
    workflow: Workflow | Plan,
    inputs: Mapping[str, Json] | None = None,
    *,
    registry: Registry | None = None,
    config: Config | None = None,
    store: Store | None = None,
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
    reveal = _secrets(plan, registry.config)
    _check_places(plan.workflow, registry.config, store)
    clock = clock or RealClock()
    session = _Session(plan, values, registry, reveal, store or MemoryStore(), clock, sinks)
    return await session.run(max_parallel, trigger, on_start, on_stuck)


def _check_places(workflow: Workflow, config: Config, store: Store | None) -> None:
    """Refuse an engine or a store that is asked for and not there: nothing is silently done elsewhere."""
    engine = workflow.engine or str(config.engine.get("use") or "")
    if engine not in ("", "local"):
        raise NotSupportedError(f"Engine {engine!r} is not supported yet: runs go on in this process.", "Use 'local'.")
    wanted = workflow.store or str(config.store.get("use") or "")
    if store is None and wanted not in ("", "memory"):
        raise NotSupportedError(f"Store {wanted!r} is not supported yet: runs are kept in memory.", "Use 'memory'.")


def check_inputs(workflow: Workflow, given: Mapping[str, Json]) -> dict[str, Json]:
    """The run's inputs with defaults filled in.

    Raises:
        InputsInvalidError: With every fault: missing, unknown, of the wrong type.
    """
    faults: list[Fault] = []
    values: dict[str, Json] = {}
    for name in given:
        if name not in workflow.inputs:
            known = ", ".join(workflow.inputs) or "none"
            faults.append(Fault("the workflow has no such input", name, f"known: {known}"))
    for name, spec in workflow.inputs.items():
        if name in given:
            problem = type_fault(given[name], spec.type)
            if problem:
                faults.append(Fault(problem, name))
            values[name] = given[name]
        elif spec.required:
            faults.append(Fault("is required", name, f"pass it: -i {name}=..."))
        else:
            values[name] = spec.default
    if faults:
        raise InputsInvalidError(f"workflow {workflow.name!r}", faults)
    return cast("dict[str, Json]", contract_for(object).unstructure(values))


_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def type_fault(value: Json, declared: str) -> str:
    """What is wrong with a value of a declared JSON type; empty when nothing is."""
    types = _JSON_TYPES.get(declared)
    if types is None or (isinstance(value, types) and not (isinstance(value, bool) and declared in ("integer", "number"))):
        return ""
    shown = "null" if value is None else type(value).__name__
    return f"must be {declared}, not {shown}"


def _secrets(plan: Plan, config: Config) -> Callable[[str], str]:
    """Look every secret up before anything starts."""
    names = {name for step in plan.steps.values() for name in step.inputs.secret_names}
    values = {name: resolve(name, config, os.environ) for name in sorted(names)}
    return values.__getitem__


@attrs.define
class _Session:
    """Everything that one stint of a run holds open."""

    plan: Plan
    inputs: Mapping[str, Json]
    registry: Registry
    reveal: Callable[[str], str]
    store: Store
    clock: Clock
    sinks: Sequence[object]

    async def run(
        self,
        max_parallel: int | None,
        trigger: str,
        on_start: Callable[[RunHandle], None] | None,
        on_stuck: Callable[[RunResult], None] | None,
    ) -> RunResult:
        trouble = TroubleLog()
        policies = self.registry.policies()
        run_scope = RunScope([*policies, *self.sinks], trouble)
        self._check_backend()
        scopes = {name: ExecutorScope(bound, policies, trouble) for name, bound in self.plan.executors.items()}
        worker = f"{socket.gethostname()}:{os.getpid()}"
        tracing = RunTracing(now=self.clock.now, worker=worker)
        run_id = new_run_id(self.clock.now())
        created = self._creation(run_id, tracing, max_parallel, trigger)
        opened = partial(StintOpened, stint=1, owner=worker, engine="local", versions=self._versions())
        readers = _Readers(run_id, run_scope, tracing)
        most = max_parallel or self.plan.graph.max_parallel
        async with ClientHosts(self.registry) as hosts:
            runner = Runner(
                scopes=scopes,
                hosts=hosts,
                reveal=self.reveal,
                tracing=tracing,
                clock=self.clock,
                progress=self._progress(),
                trouble=trouble,
            )
            driver = Driver(
                run_id=run_id,
                conductor=Conductor(self.plan),
                store=self.store,
                engine=_LocalEngine(runner),
                runner=runner,
                clock=self.clock,
                on_commit=readers.read,
                workers=most,
            )
            if on_start is not None:
                on_start(RunHandle(run_id, created(0.0).trace_id, driver))

            def tell(stuck: Sequence[str]) -> None:
                if on_stuck is not None:
                    on_stuck(summarise(readers.entries))

            await driver.drive([created, opened], eager_workers=self._width(), on_stuck=tell)
        readers.close()
        return summarise(readers.entries)

    def _creation(
        self, run_id: str, tracing: RunTracing, max_parallel: int | None, trigger: str
    ) -> Callable[[float], RunCreated]:
        workflow = self.plan.workflow
        environ = os.environ
        trace = tracing.begin(
            workflow.name,
            environ.get("TRACEPARENT", ""),
            tracestate=environ.get("TRACESTATE", ""),
            run_id=run_id,
            trigger=trigger,
        )
        return partial(
            RunCreated,
            run_id=run_id,
            workflow=self.plan.document,
            workflow_hash=self.plan.hash,
            inputs=self.inputs,
            trace_id=trace.trace_id,
            root_span_id=trace.root_span_id,
            parent_span_id=trace.parent_span_id,
            trace_flags=trace.flags,
            max_parallel=max_parallel,
            trigger=trigger,
        )

    def _check_backend(self) -> None:
        current = _current_backend()
        for bound in self.plan.executors.values():
            if current not in bound.backends:
                raise ConfigError(
                    f"Executor {bound.name!r} does not run on {current} (it declares: {', '.join(bound.backends)}).",
                    f"Run the workflow with backend={bound.backends[0]!r}, or TREADLE_BACKEND={bound.backends[0]}.",
                )

    def _versions(self) -> dict[str, str]:
        bound = self.plan.executors.values()
        return {"treadle": __version__, **{item.distribution: item.version for item in bound if item.distribution}}

    def _width(self) -> int:
        """Workers that the plan can use for certain."""
        if any(node.is_map for node in self.plan.graph.nodes):
            return self.plan.graph.max_parallel
        return len(self.plan.graph.nodes)

    def _progress(self) -> Callable[[Call, float, float | None, str], None]:
        listeners = [sink.progress for sink in self.sinks if callable(getattr(sink, "progress", None))]  # type: ignore[attr-defined]  # checked

        def tell(call: Call, done: float, total: float | None, message: str) -> None:
            for listener in listeners:
                listener(call, done, total, message)

        return tell


def _current_backend() -> str:
    import sniffio

    return sniffio.current_async_library()


class _LocalEngine:
    """Performs calls in this process."""

    name = "local"
    capabilities = frozenset({"cancels_running", "streams"})

    def __init__(self, runner: Runner) -> None:
        self.perform = runner.perform


class _Readers:
    """Everybody who reads the log while it grows: sinks, spans, metrics."""

    def __init__(self, run_id: str, scope: RunScope, tracing: RunTracing) -> None:
        self._run_id, self._scope, self._tracing = run_id, scope, tracing
        self.entries: list[Entry] = []
        is_known = tracing.take_sent if scope.emit_span is None else None
        self._projection = SpanProjection(is_known) if scope.emit_span is not None or tracing.is_live else None
        metrics = RunMetrics()
        self._metrics = metrics if metrics.is_active else None
        self._is_quiet = scope.record_event is None and self._projection is None and self._metrics is None

    def read(self, first: int, entries: Sequence[Entry]) -> None:
        """Take in what was just committed."""
        self.entries += entries
        if self._is_quiet:
            return
        for seq, entry in enumerate(entries, first):
            if self._scope.record_event is not None:
                self._scope.event(Record(self._run_id, seq, entry))
            if self._projection is not None:
                for span in self._projection.apply(entry):
                    self._scope.span(span)
                    self._tracing.emit(span)
            if self._metrics is not None:
                self._metrics.apply(entry)

    def close(self) -> None:
        """The run is over or let go."""
        if self._metrics is not None:
            self._metrics.close()
