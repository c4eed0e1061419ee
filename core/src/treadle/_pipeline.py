"""Pipelines: a run without a workflow, written as a list of executors, or as steps with their dependencies."""

from __future__ import annotations

import graphlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypedDict, Unpack, cast, overload

import anyio
import attrs

from treadle._app import arun, loop_options
from treadle._bind import BoundExecutor
from treadle._executor import executor_mark
from treadle._models import Json
from treadle._money import format_money, to_microcents
from treadle._plan import make_plan
from treadle._plugins import Registry
from treadle._prices import PipelineUsage
from treadle._results import RunResult
from treadle._workflow import Workflow
from treadle.errors import Fault, InputsInvalidError, WorkflowInvalidError
from treadle.ports import Clock, Store

__all__ = ["KeyOverwrittenWarning", "Pipeline", "PipelineResult"]

ChainStep = tuple[object, Mapping[str, object]] | tuple[object, Mapping[str, object], str]
"""An executor (its name, or a function or class), its own inputs, and perhaps the key that its whole output goes under."""


class KeyOverwrittenWarning(UserWarning):
    """A step of a chain gave a key that the context held already, with another value."""


class RunOptions(TypedDict, total=False):
    """What a pipeline's run takes besides its data; each means what it means for ``treadle.arun``."""

    registry: Registry | None
    store: Store | None
    key: str
    clock: Clock | None
    sinks: Sequence[object]


@attrs.frozen
class PipelineResult:
    """How a pipeline went.

    Attributes:
        output: Of a chain the final context, of a graph what its output step gave.
        step_outputs: Step -> what it gave.
        run: The run: its log, steps, spans and trace.
    """

    output: Json = attrs.field(repr=False)
    step_outputs: Mapping[str, Json] = attrs.field(repr=False)
    run: RunResult

    @property
    def usage(self) -> PipelineUsage:
        """What it used up."""
        return self.run.usage


class Pipeline:
    """Executors that run one after the other, or as a graph, without a workflow: the same checks, retries, records and spans.

    A list is a chain. Each step is given what it takes of the context, its own inputs winning; its output is merged into the
    context for those after it::

        Pipeline([("http.request", {"url": "https://example.org/"}), (count, {"limit": 10})]).run()

    A name with steps is a graph. Each step is given the outputs of its dependencies and the data, by the names of its inputs::

        Pipeline("digest", steps={"page": fetch, "words": count}, dependencies={"words": ["page"]}).run({"url": "..."})
    """

    @overload
    def __init__(self, steps: Sequence[ChainStep], /, *, name: str = "pipeline", executor: str | None = None) -> None: ...

    @overload
    def __init__(
        self,
        name: str,
        /,
        steps: Mapping[str, object],
        dependencies: Mapping[str, Iterable[str]] | None = None,
        *,
        output_step: str = "",
        executor: str | None = None,
        step_configs: Mapping[str, Mapping[str, Json]] | None = None,
    ) -> None: ...

    def __init__(
        self,
        first: str | Sequence[ChainStep],
        /,
        steps: Mapping[str, object] | None = None,
        dependencies: Mapping[str, Iterable[str]] | None = None,
        *,
        name: str = "pipeline",
        output_step: str = "",
        executor: str | None = None,
        step_configs: Mapping[str, Mapping[str, Json]] | None = None,
    ) -> None:
        """A pipeline; nothing is imported or run yet.

        Args:
            first: A list of ``(executor, inputs)``, or ``(executor, inputs, key)`` for one whose output is no mapping; or the
                name of a graph.
            steps: Id -> executor, or ``(executor, inputs)``; these inputs may hold expressions, as in a workflow.
            dependencies: Id -> the ids of the steps before it.
            name: Of a chain, for its records.
            output_step: Whose output is the graph's; needed when several steps are last.
            executor: Name of the engine; None is this process.
            step_configs: Id -> keys of a workflow's step, like ``{"timeout": "30s", "on_error": "continue"}``, or ``retries``,
                ``retry_delay`` (seconds, or a list of them) and ``cost_budget`` (microcents).

        Raises:
            WorkflowInvalidError: With every fault.
        """
        self._objects: dict[str, object] = {}
        self._engine = executor
        self._shape: _Chain | _Graph
        if isinstance(first, str):
            self.name = first
            given = {step: one if isinstance(one, tuple) else (one, {}) for step, one in (steps or {}).items()}
            links = [self._link(step, *pair) for step, pair in given.items()]
            self._shape = _Graph(links, dependencies or {}, output_step, step_configs or {})
        else:
            self.name = name
            self._shape = _Chain(list(self._chained(first)))
        faults = self._shape.faults() if self._shape.links else [Fault("a pipeline needs at least one step")]
        if faults:
            raise WorkflowInvalidError(faults, name=self.name)

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r}, {len(self._shape.links)} steps>"

    def run(
        self,
        data: object = None,
        deps: Mapping[str, object] | None = None,
        *,
        backend: str = "asyncio",
        **options: Unpack[RunOptions],
    ) -> Json:
        """``arun`` for code that is not async; ``backend`` is ``asyncio`` or ``trio``."""
        main = partial(self.arun, data, deps, **options)
        return anyio.run(main, backend=backend, backend_options=loop_options(backend))

    async def arun(self, data: object = None, deps: Mapping[str, object] | None = None, **options: Unpack[RunOptions]) -> Json:
        """The output alone, see PipelineResult; takes what ``execute`` takes."""
        return (await self.execute(data, deps, **options)).output

    async def execute(
        self,
        data: object = None,
        deps: Mapping[str, object] | None = None,
        *,
        registry: Registry | None = None,
        store: Store | None = None,
        key: str = "",
        clock: Clock | None = None,
        sinks: Sequence[object] = (),
    ) -> PipelineResult:
        """Run the pipeline; nothing that is handed over is changed.

        Args:
            data: The first context of a chain, or the data of a graph; what is no mapping becomes ``{"data": ...}``.
            deps: Need -> the very object that executors are given for it, instead of a configured client.
            registry: Where executors come from; what is installed when None. What was handed over itself needs none.
            store: Where the run is kept, as for ``treadle.arun``; also ``key``, ``clock`` and ``sinks``.
            key: See ``treadle.arun``.
            clock: See ``treadle.arun``.
            sinks: See ``treadle.arun``.

        Raises:
            WorkflowInvalidError: An executor is not there, or cannot be used so.
            InputsInvalidError: A step's own inputs do not fit.
            RunFailedError: It did not complete.
        """
        given = cast("dict[str, Json]", dict(data) if isinstance(data, Mapping) else {} if data is None else {"data": data})
        held = {need: _Held(one) for need, one in (deps or {}).items()}
        registry = (registry or Registry.discover()).knowing(executors=self._objects, clients=held)
        links = self._shape.links
        bound = {link.uses: registry.executor(link.uses) for link in links}
        document = {"name": self.name, "engine": self._engine, **self._shape.document(bound, given)}
        workflow = Workflow.from_dict({key: value for key, value in document.items() if value is not None})
        plan = make_plan(workflow, registry)
        result = (
            await arun(plan, self._shape.inputs(given), registry=registry, store=store, key=key, clock=clock, sinks=sinks)
        ).check()
        outputs = {link.id: result.steps[link.id].output for link in links}
        for warning in self._shape.warnings(given, outputs):
            warnings.warn(f"Pipeline {self.name!r}: {warning}", KeyOverwrittenWarning, stacklevel=2)
        return PipelineResult(result.outputs["output"], outputs, result)

    # -- steps

    def _chained(self, steps: Sequence[ChainStep]) -> Iterator[_Link]:
        taken: set[str] = set()
        for number, step in enumerate(steps):
            if not isinstance(step, tuple) or len(step) not in (2, 3) or not isinstance(step[1], Mapping):
                shown = repr(step)[:200]
                raise WorkflowInvalidError([Fault(f"expected (executor, inputs), not {shown}", f"[{number}]")], name=self.name)
            link = self._link("", step[0], step[1], str(step[2]) if len(step) == 3 else "")
            stem = re.sub(r"[^A-Za-z0-9_]", "_", link.uses).lstrip("0123456789") or "step"
            names = (stem if again == 1 else f"{stem}_{again}" for again in range(1, len(steps) + 1))
            yield attrs.evolve(link, id=next(name for name in names if name not in taken and not taken.add(name)))  # type: ignore[func-returns-value]  # noted on the way

    def _link(self, step: str, given: object, own: Mapping[str, object], into: str = "") -> _Link:
        """A step, with its executor by name; one that was handed over itself is kept under its name."""
        name = given if isinstance(given, str) else ""
        if not name:
            mark = executor_mark(given)
            if mark is None and not callable(given):
                raise WorkflowInvalidError([Fault(f"{given!r} is no executor"[:200], step)], name=self.name)
            name = mark.name if mark else step or re.sub(r"\W", "_", getattr(given, "__name__", type(given).__name__))
            while self._objects.setdefault(name, given) is not given:
                name += "_"  # two functions of one name
        return _Link(step, name, cast("Mapping[str, Json]", dict(own)), into)


@attrs.frozen
class _Link:
    """One step.

    Attributes:
        id: What it is called in records.
        uses: Name of its executor.
        own: Its own inputs.
        into: The key of the context that its whole output goes under; empty: it is merged.
    """

    id: str
    uses: str
    own: Mapping[str, Json]
    into: str = ""


@attrs.frozen
class _Held:
    """A client that is there already and belongs to somebody else."""

    held: object

    def open(self) -> AbstractContextManager[object]:
        """The object itself."""
        return nullcontext(self.held)


# -- the two shapes ------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Chain:
    """One after the other, over a context that grows."""

    links: Sequence[_Link]

    def faults(self) -> list[Fault]:
        """What is wrong with it, as far as it can be seen without executors: nothing."""
        return []

    def inputs(self, given: Mapping[str, Json]) -> dict[str, Json]:
        """The run's inputs: the first context, and what each step is given of its own."""
        return {"context": dict(given), "own": [dict(link.own) for link in self.links]}

    def document(self, bound: Mapping[str, BoundExecutor], given: Mapping[str, Json]) -> dict[str, object]:
        """The chain as a workflow: each step's inputs are one expression over the context so far.

        Raises:
            InputsInvalidError: A step's own inputs do not fit its executor.
        """
        steps: dict[str, Json] = {}
        outputs: list[Json] = []
        faults: list[Fault] = []
        for number, link in enumerate(self.links):
            takes = bound[link.uses]
            rest = [each.name for each in takes.inputs if each.name not in link.own]
            faults += [attrs.evolve(each, path=f"[{number}].{each.path}") for each in takes.input_faults(link.own, rest)]
            names = ", ".join(repr(each.name) for each in takes.inputs)
            picked = "" if takes.takes_others else f" | pick({names})"
            steps[link.id] = {
                "uses": link.uses,
                "needs": [self.links[number - 1].id] if number else [],
                "with": f"${{{{ {_context(outputs)}{picked} | merge(inputs.own[{number}]) }}}}",
            }
            output = f"steps.{link.id}.output"
            outputs.append(f"{{{link.into!r}: {output}}}" if link.into else output)
        if faults:
            raise InputsInvalidError("the pipeline's steps", faults)
        inputs = {"context": {"type": "object"}, "own": {"type": "array"}}
        return {"inputs": inputs, "steps": steps, "outputs": {"output": f"${{{{ {_context(outputs)} }}}}"}}

    def warnings(self, given: Mapping[str, Json], outputs: Mapping[str, Json]) -> Iterator[str]:
        """Which keys of the context were overwritten."""
        context, givers = dict(given), dict.fromkeys(given, "the first context")
        for link in self.links:
            output = outputs[link.id]
            gave = {link.into: output} if link.into else cast("Mapping[str, Json]", output or {})
            for key, value in gave.items():
                if key in context and context[key] != value:
                    yield (
                        f"step {link.id!r} overwrote {key!r} of {givers[key]}.\n"
                        f"Keep both: ({link.uses!r}, {{...}}, 'a_key') puts its whole output under a key of its own."
                    )
                context[key], givers[key] = value, f"step {link.id!r}"


def _context(outputs: Sequence[Json]) -> str:
    return f"inputs.context | merge({', '.join(map(str, outputs))})" if outputs else "inputs.context"


@attrs.frozen
class _Graph:
    """Each after its dependencies."""

    links: Sequence[_Link]
    dependencies: Mapping[str, Iterable[str]]
    output_step: str
    step_configs: Mapping[str, Mapping[str, Json]]

    def faults(self) -> list[Fault]:
        """Unknown ids, a cycle, several last steps."""
        ids = [link.id for link in self.links]
        named = [("dependencies", step) for step in self.dependencies] + [("step_configs", step) for step in self.step_configs]
        named += [(f"dependencies.{step}", need) for step, needs in self.dependencies.items() for need in needs]
        named += [("output_step", self.output_step)] if self.output_step else []
        known = f"steps: {', '.join(ids[:10])}"
        faults = [Fault(f"there is no step {name!r}", place, known) for place, name in named if name not in ids]
        try:
            graphlib.TopologicalSorter(self.dependencies).prepare()
        except graphlib.CycleError as error:
            shown = " -> ".join(error.args[1])
            faults.append(Fault(f"steps wait for each other: {shown}", "dependencies", "remove one of these dependencies"))
        last = self._last()
        if not self.output_step and len(last) > 1 and not faults:
            shown = ", ".join(map(repr, last))
            faults.append(Fault(f"several steps are last: {shown}", "output_step", "name the one whose output counts"))
        return faults

    def inputs(self, given: Mapping[str, Json]) -> dict[str, Json]:
        """The run's inputs."""
        return {"data": dict(given)}

    def document(self, bound: Mapping[str, BoundExecutor], given: Mapping[str, Json]) -> dict[str, object]:
        """The graph as a workflow: inputs are named after dependencies and keys of the data."""
        steps: dict[str, Json] = {}
        for link in self.links:
            takes, needs = bound[link.uses], list(self.dependencies.get(link.id, ()))
            offered = {key: f"${{{{ inputs.data[{key!r}] }}}}" for key in given}
            offered |= {need: f"${{{{ steps[{need!r}].output }}}}" for need in needs}
            names = {each.name for each in takes.inputs}
            taken = {key: value for key, value in offered.items() if takes.takes_others or key in names}
            steps[link.id] = {
                "uses": link.uses,
                "needs": needs,
                "with": {**taken, **link.own},
                **_step_keys(self.step_configs.get(link.id, {})),
            }
        output = f"${{{{ steps[{(self.output_step or self._last()[0])!r}].output }}}}"
        return {"inputs": {"data": {"type": "object"}}, "steps": steps, "outputs": {"output": output}}

    def warnings(self, given: Mapping[str, Json], outputs: Mapping[str, Json]) -> Iterable[str]:
        """Nothing is merged, so nothing is overwritten."""
        return ()

    def _last(self) -> list[str]:
        needed = {need for needs in self.dependencies.values() for need in needs}
        return [link.id for link in self.links if link.id not in needed]


def _step_keys(config: Mapping[str, Json]) -> dict[str, Json]:
    """A step's configuration as a workflow has it: retries become a ``retry``, a cost budget in microcents a ``budget``."""
    keys = {key: value for key, value in config.items() if key not in ("retries", "retry_delay", "cost_budget")}
    if config.get("cost_budget") is not None:
        keys["budget"] = {"cost": format_money(to_microcents(cast("int", config["cost_budget"])))}
    retry: dict[str, Json] = {"preset": "pipeline"}
    if "retries" in config:
        retry["retries"] = config["retries"]
    if "retry_delay" in config:
        delay = config["retry_delay"]
        retry["delays"] = list(delay) if isinstance(delay, list | tuple) else [delay]
    return keys if len(retry) == 1 else {"retry": retry, **keys}
