"""A workflow in virtual time, with fakes in the place of its executors, and faults by seed."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
import random
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import cast

import anyio
import attrs

from treadle._app import RunHandle, arun
from treadle._bind import BoundExecutor, CallContext, Need, bind
from treadle._codec import dump_entry
from treadle._config import Config
from treadle._executor import executor
from treadle._loader import load_workflow
from treadle._models import Call, Entry, Json, RetryScheduled, RunCreated, StepResult, StintOpened, Work
from treadle._plan import Plan, make_plan
from treadle._plugins import Registry
from treadle._results import RunResult
from treadle._retries import chance
from treadle._workflow import Workflow
from treadle.errors import PluginError, TransientError, TreadleError
from treadle.hookspecs import hookimpl
from treadle.ports import Context, Store
from treadle.testing._recorder import Recorder
from treadle.testing._virtual_time import After, VirtualClock, play

__all__ = ["SimulatedCall", "SimulatedFault", "Simulation", "simulate"]


@attrs.frozen
class SimulatedCall:
    """One call of a fake.

    Attributes:
        executor: Its name.
        step: Path of the step.
        index: Item of a ``foreach``; None outside of one.
        attempt: From 1.
        inputs: What it was given, plain JSON.
        at: When, in seconds since the simulation began.
    """

    executor: str
    step: str
    index: int | None
    attempt: int
    inputs: Mapping[str, Json]
    at: float


class SimulatedFault(TransientError):
    """A fault that ``faults`` asked for; trying again may help."""


@attrs.frozen
class Simulation:
    """How a simulated run went, and what may be asserted of it.

    Attributes:
        result: The run's result.
        recorder: Its records, spans and progress, in order.
        calls: Every call of a fake, in order.
    """

    result: RunResult
    recorder: Recorder = attrs.field(repr=False)
    calls: Sequence[SimulatedCall] = attrs.field(repr=False)

    @property
    def outputs(self) -> Mapping[str, Json]:
        """The run's outputs."""
        return self.result.outputs

    @property
    def duration_s(self) -> float:
        """Seconds of virtual time."""
        return self.result.duration_s

    def step(self, path: str) -> StepResult:
        """How a step ended.

        Raises:
            LookupError: There is no such step; the message lists those that there are.
        """
        if path not in self.result.steps:
            raise LookupError(f"no step {path!r} ended; there are: {', '.join(self.result.steps) or 'none'}")
        return self.result.steps[path]

    def calls_of(self, executor: str = "*", step: str = "*") -> list[SimulatedCall]:
        """The calls of the fakes whose names, and of the steps whose paths, match a pattern."""
        return [call for call in self.calls if fnmatchcase(call.executor, executor) and fnmatchcase(call.step, step)]

    def waits(self, path: str) -> list[float]:
        """Seconds between the end of each failed attempt of a step and the next, in order."""
        entries = cast("list[RetryScheduled]", self.recorder.entries("RetryScheduled", path))
        return [round(entry.due - entry.at, 6) for entry in entries]

    @property
    def log(self) -> list[str]:
        """The record log, a line of JSON for each entry: without ids, tracebacks and versions; times count from the start.

        The same seed gives the same lines, byte by byte, on asyncio.
        """
        return [_line(entry, self.result) for entry in self.result.entries]

    # -- assertions; each answers the simulation, so that they can be strung together

    def assert_completed(self) -> Simulation:
        """The run completed; else the message says what went wrong."""
        result = self.result
        cause = f": {result.error.type}: {result.error.message}" if result.error else ""
        assert result.status == "completed", f"the run ended {result.status}, {result.reason or 'without a reason'}{cause}"
        return self

    def assert_failed(self, culprit: str | None = None, *, error: str | None = None) -> Simulation:
        """The run failed, or ended as a partial failure.

        Args:
            culprit: Path of the step that it failed by.
            error: The type of the error, or a part of its message.
        """
        result = self.result
        assert result.status in ("failed", "partial_failure"), f"the run ended {result.status}, it did not fail"
        assert culprit is None or result.culprit == culprit, f"it failed by {result.culprit!r}, not {culprit!r}"
        if error is not None:
            told = f"{result.error.type}: {result.error.message}" if result.error else "no error"
            assert error in told, f"it failed with {told!r}, which does not say {error!r}"
        return self

    def assert_step(
        self, path: str, status: str | None = None, *, attempts: int | None = None, output: object = ...
    ) -> Simulation:
        """A step ended so.

        Args:
            path: The step.
            status: Like ``completed`` or ``skipped``.
            attempts: How many were made, of all items.
            output: What it gave.
        """
        step = self.step(path)
        why = f" ({step.error.type}: {step.error.message})" if step.error else f" ({step.reason})" if step.reason else ""
        assert status is None or step.status == status, f"step {path!r} ended {step.status}, not {status}{why}"
        assert attempts is None or step.attempts == attempts, (
            f"step {path!r} made {step.attempts} attempts, not {attempts}{why}"
        )
        assert output is ... or step.output == output, f"step {path!r} gave {step.output!r}, not {output!r}{why}"
        return self

    def assert_called(self, executor: str, times: int | None = None, **inputs: Json) -> Simulation:
        """A fake was called, with these inputs among others.

        Args:
            executor: Its name, or a pattern.
            times: How often; at least once when None.
            **inputs: What it was given.
        """
        given = [call.inputs for call in self.calls_of(executor)]
        fitting = [one for one in given if all(name in one and one[name] == value for name, value in inputs.items())]
        wanted = f"{executor}({', '.join(f'{name}={value!r}' for name, value in inputs.items())})"
        shown = "; ".join(map(repr, given[:5])) or "never"
        is_met = bool(fitting) if times is None else len(fitting) == times
        assert is_met, f"{wanted} was called {len(fitting)} times, not {times or 'once'}; it was called with: {shown}"
        return self

    def assert_order(self, *paths: str) -> Simulation:
        """Of these steps each had ended when the next began."""
        for before, after in pairwise(paths):
            ended, began = self.step(before).ended_at, self.step(after).started_at
            assert began is not None, f"step {after!r} never began"
            assert ended <= began, f"step {after!r} began {ended - began:.3g} s before {before!r} had ended"
        return self


def simulate(
    workflow: Workflow | Plan | str | Path,
    inputs: Mapping[str, Json] | None = None,
    *,
    executors: Mapping[str, object] | None = None,
    installed: Collection[str] = (),
    faults: Mapping[str, float] | None = None,
    signals: Mapping[str, object] | None = None,
    seed: int = 0,
    policies: Iterable[object] = (),
    config: Config | None = None,
    store: Store | None = None,
    max_parallel: int | None = None,
    backend: str = "asyncio",
    clock: VirtualClock | None = None,
    on_start: Callable[[RunHandle], None] | None = None,
) -> Simulation:
    """Run a workflow to its end in virtual time, with fakes in the place of its executors.

    A fake is a function, given those inputs that it names (and a ``Context``, if it asks for one left of ``/``); an exception,
    which is raised; a list of these, one for each call in order, the last one for all that follow; ``After(seconds, ...)``
    one of these; or any other value, which is the output. A fake of an executor that is installed is held to its inputs, its
    output's contract and its family.

    Args:
        workflow: What to run; a text or path is read as a file.
        inputs: By name.
        executors: Name or pattern -> its fake. The first pattern that matches counts, an exact name before all.
        installed: Names or patterns of executors that are called for real, with clients as ``config`` has them.
        faults: Name or pattern of executors -> the part of their attempts that fail as transient, 0 to 1, by the seed.
        signals: Name -> the payload that is sent to the run when it starts, ``After(seconds, payload)`` that sends it later,
            or a list of these, one after the other, each ``After`` counted from the one before. A payload that is a list is
            written in a list.
        seed: Of faults and of the jitter of waits. The same seed, the same run.
        policies: Instances that are active; those that a configuration names are not.
        config: Configuration; an empty one when None, so that nothing of the machine counts.
        store: Where the log is kept; memory when None.
        max_parallel: Calls at once, instead of what the workflow says.
        backend: ``asyncio`` or ``trio``.
        clock: The time; a new one when None.
        on_start: Called with a handle once the run exists.

    Returns:
        The result, the record log, and helpers to assert with. A run that failed is a result.

    Raises:
        WorkflowInvalidError: The workflow cannot run, or uses an executor that has no fake and is not in ``installed``.
        InputsInvalidError: The inputs do not fit.
        SignalNotDeclaredError: No step waits for such a signal.
        PayloadInvalidError: The payload of a signal does not fit its step's schema.
        SignalMissingError: Nothing can go on with the run but a signal that nobody sends.
    """
    if isinstance(workflow, str | Path):
        workflow = load_workflow(workflow)
    clock = clock or VirtualClock()
    stage = _Stage.set_up(executors or {}, installed, config or Config(), clock)
    stage.active = [*policies, _Faults(seed, faults)] if faults else list(policies)
    plan = stage.plan(workflow)
    recorder = Recorder()

    async def main(start: Callable[[RunHandle], None]) -> RunResult:
        chance.set(random.Random(seed).random)
        return await arun(
            plan,
            inputs,
            registry=stage,
            store=store,
            max_parallel=max_parallel,
            clock=clock,
            sinks=[recorder],
            on_start=start,
        )

    with _stand_in_secrets(plan.workflow, stage.config):
        result = play(main, clock, signals or {}, on_start, backend=backend)
    return Simulation(result, recorder, tuple(stage.calls))


# -- fakes ---------------------------------------------------------------------------------------------------------------


class _Fake:
    """Answers the calls of one executor."""

    def __init__(self, name: str, answer: object, stage: _Stage) -> None:
        self._name, self._stage = name, stage
        self._answers = _in_order(answer)

    async def __call__(self, context: _Context, **inputs: object) -> object:
        call = context.call
        at = round(self._stage.clock.now() - self._stage.began, 6)
        given = copy.deepcopy(dict(call.inputs))
        self._stage.calls.append(SimulatedCall(self._name, call.path, call.index, call.attempt, given, at))
        return await _answered(next(self._answers), context, inputs)


class _Context:
    """What is used of a call's context."""

    call: Call


def _in_order(answer: object) -> Iterator[object]:
    """Each answer of a list, the last one for ever."""
    answers = list(answer) if isinstance(answer, list | tuple) and answer else [answer]
    yield from answers
    while True:
        yield answers[-1]


async def _answered(answer: object, context: _Context, inputs: Mapping[str, object]) -> object:
    while isinstance(answer, After):
        await anyio.sleep(answer.delay_s)
        answer = answer.answer
    if isinstance(answer, type) and issubclass(answer, BaseException):
        raise answer(f"a simulated {answer.__name__}")
    if isinstance(answer, BaseException):
        raise copy.copy(answer)  # one that is raised again and again gathers tracebacks
    if callable(answer):
        result = _called(answer, context, inputs)
        result = await result if inspect.isawaitable(result) else result
        return await _answered(result, context, inputs) if isinstance(result, After) else result
    return copy.deepcopy(answer)


def _called(function: Callable[..., object], context: _Context, inputs: Mapping[str, object]) -> object:
    """Call a function with those inputs that it takes."""
    parameters = inspect.signature(function).parameters.values()
    first = [context for one in parameters if one.kind is one.POSITIONAL_ONLY][:1]
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return function(*first, **inputs)
    names = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return function(*first, **{name: value for name, value in inputs.items() if name in names})


@attrs.frozen(eq=False)
class _FakeExecutor(BoundExecutor):
    """A fake that is bound; it runs wherever the simulation does, without clients.

    Attributes:
        asked: What the real one needs.
    """

    asked: tuple[Need, ...] = ()

    @property
    def needs(self) -> tuple[Need, ...]:
        """What the file may name clients for."""
        return self.asked

    def isolation_problem(self) -> tuple[str, str]:
        """There is none, since it is not isolated."""
        return "", ""

    @hookimpl
    def execute(self, call: Call, ctx: Context) -> Work:
        """The fake's answer, here, although the step asks for a process of its own."""
        return cast("Work", partial(self._start, ctx, **cast("CallContext", ctx).inputs))


# -- the stage -------------------------------------------------------------------------------------------------------------


class _Stage(Registry):
    """The registry of a simulation: fakes by name, what is installed where that is asked for, and nothing else."""

    fakes: Mapping[str, object]
    installed: Collection[str]
    clock: VirtualClock
    began: float
    calls: list[SimulatedCall]
    active: list[object]
    bound: dict[str, BoundExecutor]

    @classmethod
    def set_up(cls, fakes: Mapping[str, object], installed: Collection[str], config: Config, clock: VirtualClock) -> _Stage:
        """A stage with these fakes."""
        stage = cast("_Stage", cls.discover(config))
        stage.fakes, stage.installed, stage.clock, stage.began = fakes, installed, clock, clock.now()
        stage.calls, stage.active, stage.bound = [], [], {}
        return stage

    def plan(self, workflow: Workflow | Plan) -> Plan:
        """The workflow's plan on this stage, with every fake in the run's own process."""
        plan = make_plan(workflow.workflow if isinstance(workflow, Plan) else workflow, self)
        steps = {
            path: attrs.evolve(step, limits=None) if isinstance(plan.executors.get(step.executor), _FakeExecutor) else step
            for path, step in plan.steps.items()
        }
        return attrs.evolve(plan, steps=steps)

    def executor(self, name: str) -> BoundExecutor:
        """A fake, or what is installed when that is to be called."""
        fake = next((pattern for pattern in self.fakes if pattern == name), None)
        fake = fake or next((pattern for pattern in self.fakes if fnmatchcase(name, pattern)), None)
        if fake is None:
            if any(fnmatchcase(name, pattern) for pattern in self.installed):
                return super().executor(name)
            raise TreadleError(
                f"the simulation has no fake of the executor {name!r}",
                f"add one: executors={{{name!r}: ...}}, or call the real one: installed=[{name!r}]",
            )
        if name not in self.bound:
            self.bound[name] = self._faked(name, _Fake(name, self.fakes[fake], self))
        return self.bound[name]

    def policies(self) -> list[object]:
        """Those of the simulation alone."""
        return self.active

    def policy_gap(self, key: str) -> tuple[str, str]:
        """What no policy of the simulation serves is left out, so that a workflow can be tried without."""
        return "", ""

    def _faked(self, name: str, fake: _Fake) -> BoundExecutor:
        try:
            real = super().executor(name)
        except PluginError:  # it is not installed, or cannot be used
            real = bind(name, executor("simulated", effects="none")(_anything))
        fields = {field.name: getattr(real, field.name) for field in attrs.fields(BoundExecutor)}
        fields |= {"is_async": True, "positional": (None,), "isolation": None, "_start": fake, "asked": real.needs}
        return _FakeExecutor(**{name.lstrip("_"): value for name, value in fields.items()})

    def client(self, name: str) -> object:
        """The real one, for executors that are called for real; a fake opens none, so anything will do."""
        try:
            return super().client(name)
        except TreadleError:
            if any(isinstance(one, _FakeExecutor) and one.asked for one in self.bound.values()):
                return self
            raise


async def _anything(**inputs: object) -> object:
    """Takes whatever it is given."""
    return inputs


class _Faults:
    """The policy of a simulation: makes a part of all attempts fail, always the same ones for one seed."""

    def __init__(self, seed: int, rates: Mapping[str, float] | None) -> None:
        self._seed, self._rates = seed, dict(rates or {})

    @hookimpl(wrapper=True, trylast=True)
    def execute(self, call: Call) -> Generator[None, Work | None, Work | None]:
        """Put the fault in the place of the work."""
        work = yield
        rate = next((rate for pattern, rate in self._rates.items() if fnmatchcase(call.executor, pattern)), 0.0)
        return partial(_fail, call) if self._draw(call) < rate else work

    def _draw(self, call: Call) -> float:
        parts = (self._seed, call.path, call.index, call.variant, call.attempt)
        return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()) / 2**56


async def _fail(call: Call) -> None:
    raise SimulatedFault(f"a simulated fault of {call.executor} ({call.item}, attempt {call.attempt})")


@contextmanager
def _stand_in_secrets(workflow: Workflow, config: Config) -> Iterator[None]:
    """Secrets of the workflow that have no value here have one while the block is open."""
    missing = [name for name in workflow.secrets if name not in os.environ and name not in config.secrets]
    os.environ.update({name: f"simulated secret {name}" for name in missing})
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


# -- the log -----------------------------------------------------------------------------------------------------------


def _line(entry: Entry, result: RunResult) -> str:
    created = cast("RunCreated", result.entries[0])
    if isinstance(entry, StintOpened):
        entry = attrs.evolve(entry, owner="", versions={})
    text = json.dumps(_counted(dump_entry(entry), created.at), ensure_ascii=False, separators=(",", ":"))
    for name, own in (("run", created.run_id), ("trace", created.trace_id), ("span", created.root_span_id)):
        text = text.replace(own, f"<{name}>") if own else text
    return text


_TIMES = frozenset({"at", "due", "started_at", "ended_at"})


def _counted(value: object, start: float) -> object:
    """A copy whose times count from the start, without tracebacks and ids of spans."""
    if isinstance(value, Mapping):
        return {
            key: round(item - start, 6) if key in _TIMES and isinstance(item, float) else _counted(item, start)
            for key, item in value.items()
            if key not in ("traceback", "span_id", "parent_id")
        }
    return [_counted(item, start) for item in value] if isinstance(value, list | tuple) else value
