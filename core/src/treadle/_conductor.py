"""The conductor: the scheduler with values and expressions. Still pure: it answers Evaluate and renders calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import attrs

from treadle._models import (
    DECISIONS,
    AttemptEnded,
    Call,
    Command,
    Entry,
    ErrorInfo,
    Evaluate,
    Evaluated,
    EvaluateKind,
    Fact,
    ItemEnded,
    Json,
    RunCreated,
    RunStatus,
    Start,
    StepEnded,
    StintOpened,
    Turn,
    WaitEnded,
)
from treadle._plan import Plan, PlannedStep
from treadle._scheduler import Scheduler
from treadle.errors import ExpressionError, ReplayMismatchError

MAX_ITEMS = 1_000_000
"""Most items of one ``foreach``."""


class Cleaner(Protocol):
    """What is used of a run's redaction."""

    def error(self, error: ErrorInfo) -> ErrorInfo:
        """An error without what is to be hidden."""

    def output(self, output: Json) -> Json:
        """An output without it."""


class Conductor:
    """Drives one run's scheduler and holds its values.

    Args:
        plan: What runs.
        redaction: Takes out of what expressions give what policies want hidden, before it is recorded.
    """

    def __init__(self, plan: Plan, redaction: Cleaner | None = None) -> None:
        self._plan = plan
        self._redaction = redaction
        self._scheduler = Scheduler(plan.graph)
        self._created: RunCreated | None = None
        self._stint = 0
        self._steps: dict[str, dict[str, Json]] = {}  # id -> what expressions see of it; immutable once stored (S3-05)
        self._outputs: dict[str, Json] = {}  # path -> output, or the items' outputs so far
        self._items: dict[str, list[Json]] = {}
        self._errors: dict[str, dict[int, Json]] = {}
        self._names: dict[str, object] = {}

    @property
    def status(self) -> RunStatus | None:
        """The run's final state; None while it goes on."""
        return self._scheduler.status

    @property
    def is_cancelling(self) -> bool:
        """Whether a cancel was asked for and the run goes on."""
        return self._scheduler.is_cancelling

    @property
    def is_waiting(self) -> bool:
        """Whether a step waits for a time or a signal."""
        return self._scheduler.is_waiting

    def output(self, path: str) -> Json:
        """What a step produced; None when it did not."""
        return self._outputs.get(path)

    def apply(self, fact: Fact) -> Turn:
        """Take a fact in, answer what the scheduler asks, and render the calls it starts.

        Returns:
            All that became of the fact, in order. Append the records first, then release the commands.
        """
        records: list[Entry] = []
        commands: list[Command] = []
        waiting: deque[Fact | Evaluate] = deque([fact])
        if isinstance(fact, StintOpened):  # questions that were open when the last stint ended
            waiting += self._open_questions()
        while waiting:
            current = waiting.popleft()
            if isinstance(current, Evaluate):
                if not self._scheduler.asks(current.path, current.what):
                    continue  # an earlier answer stopped the run
                current = self._evaluate(current, fact.at)
            self._remember(current)
            turn = self._scheduler.apply(current)
            records += turn.records
            for entry in turn.records[1:]:
                self._note(entry)
            for command in turn.commands:
                if isinstance(command, Start):
                    start = self._render(command, fact.at)
                    if isinstance(start, Evaluated):
                        waiting.append(start)
                    else:
                        commands.append(start)
                elif isinstance(command, Evaluate):
                    waiting.append(command)
                else:
                    commands.append(command)
        return Turn(tuple(records), tuple(commands))

    def replay(self, entries: Sequence[Entry], started: Callable[[Call], object] | None = None) -> None:
        """Rebuild the state from a log. Nothing is asked; ``outstanding`` says afterwards what is open.

        Args:
            entries: The log.
            started: Told of each call that was released, as it was.

        Raises:
            ReplayMismatchError: The facts do not lead to the decisions that were recorded.
        """
        position = 0
        while position < len(entries):
            fact = entries[position]
            if isinstance(fact, DECISIONS):
                raise ReplayMismatchError(self._run_id, fact, "nothing")
            self._remember(cast("Fact", fact))
            turn = self._scheduler.apply(cast("Fact", fact))
            recorded = tuple(entries[position : position + len(turn.records)])
            if recorded != turn.records:
                self._complain(recorded, turn.records)
            for entry in turn.records[1:]:
                self._note(entry)
            if started is not None:
                self._tell_started(turn.commands, fact.at, started)
            position += len(turn.records)

    def _tell_started(self, commands: Sequence[Command], at: float, started: Callable[[Call], object]) -> None:
        for command in commands:
            start = self._render(command, at) if isinstance(command, Start) else None
            if isinstance(start, Start) and start.call is not None:
                started(start.call)

    def outstanding(self) -> tuple[Command, ...]:
        """What is asked for and not answered yet; Start carries its call again. Open questions wait for StintOpened."""
        commands: list[Command] = []
        for command in self._scheduler.outstanding():
            if isinstance(command, Start):
                start = self._render(command, 0.0)
                commands.append(start if isinstance(start, Start) else command)
            elif not isinstance(command, Evaluate):
                commands.append(command)
        return tuple(commands)

    # -- snapshots, for hosts whose history is bounded

    def dump(self) -> dict[str, Json]:
        """The whole state as plain JSON data; ``load`` gives an equal conductor."""
        created = self._created
        return {
            "scheduler": self._scheduler.dump(),
            "created": attrs.asdict(created, recurse=False) if created else None,
            "stint": self._stint,
            "outputs": self._copy_outputs(self._outputs),
            "steps": {path: self._dump_seen(step) for path, step in self._plan.steps.items() if step.id in self._steps},
            "maps": list[Json](self._items),
            "errors": {path: [list(pair) for pair in errors.items()] for path, errors in self._errors.items()},
        }

    @classmethod
    def load(cls, plan: Plan, data: Mapping[str, Json]) -> Conductor:
        """Build the conductor that ``dump`` described, of the same plan."""
        state = cast("dict[str, dict[str, Json]]", data)
        self = cls(plan)
        self._scheduler = Scheduler.load(plan.graph, state["scheduler"])
        self._stint = cast("int", data["stint"])
        if state["created"]:
            self._begin(RunCreated(**state["created"]))  # type: ignore[arg-type]  # a dump
        self._outputs = self._copy_outputs(state["outputs"])
        for path, seen in cast("dict[str, dict[str, Json]]", state["steps"]).items():
            self._steps[plan.steps[path].id] = {"output": self._outputs.get(path), **seen}
        for path, errors in state["errors"].items():
            self._errors[path] = dict(cast("list[tuple[int, Json]]", errors))
        for path in state["maps"]:
            self._items[path] = self._look_up_items(plan.steps[path])
        return self

    def _copy_outputs(self, outputs: Mapping[str, Json]) -> dict[str, Json]:
        """Outputs by path; the list of a ``foreach`` is copied, because it may still be filled."""
        maps = {path for path, step in self._plan.steps.items() if step.node.is_map}
        return {path: list(cast("list[Json]", value)) if path in maps else value for path, value in outputs.items()}

    def _dump_seen(self, step: PlannedStep) -> dict[str, Json]:
        """What expressions see of an ended step, without the output, which is kept by path."""
        return {name: value for name, value in self._steps[step.id].items() if name != "output"}

    # -- state

    @property
    def _run_id(self) -> str:
        return self._created.run_id if self._created else "?"

    def _complain(self, recorded: Sequence[Entry], decided: Sequence[Entry]) -> None:
        for index, entry in enumerate(decided):
            known = recorded[index] if index < len(recorded) else "nothing"
            if known != entry:
                raise ReplayMismatchError(self._run_id, known, entry)

    def _open_questions(self) -> list[Evaluate]:
        return [command for command in self._scheduler.outstanding() if isinstance(command, Evaluate)]

    def _remember(self, fact: Fact) -> None:
        """Keep the values that a fact brings. A late fact brings none: what is stored is never changed."""
        if not self._scheduler.expects(fact):
            return
        if isinstance(fact, AttemptEnded):
            self._keep_output(fact)
        elif isinstance(fact, Evaluated):
            if fact.what == "foreach" and fact.error is None:
                self._outputs[fact.path] = [None] * cast("int", fact.value)
                if fact.path not in self._items:  # a replay: the items were not looked up just now
                    self._items[fact.path] = self._look_up_items(self._plan.steps[fact.path])
        elif isinstance(fact, RunCreated):
            self._begin(fact)
        elif isinstance(fact, StintOpened):
            self._stint = fact.stint

    def _keep_output(self, fact: AttemptEnded) -> None:
        outcome = fact.outcome
        if outcome.status == "completed":
            if fact.index is None:
                self._outputs[fact.path] = outcome.output
            else:
                cast("list[Json]", self._outputs[fact.path])[fact.index] = outcome.output

    def _begin(self, fact: RunCreated) -> None:
        self._created = fact
        run = {
            "id": fact.run_id,
            "workflow": self._plan.workflow.name,
            "status": RunStatus.RUNNING.value,
            "trace_id": fact.trace_id,
            "started_at": fact.at,
        }
        self._names = {"inputs": dict(fact.inputs), "steps": self._steps, "run": run}

    def _note(self, entry: Entry) -> None:
        """Make an ended step visible to expressions, with the errors of the items that did not complete."""
        if isinstance(entry, ItemEnded):
            if entry.error is not None:
                self._errors.setdefault(entry.path, {})[entry.index] = _describe(entry.error)
        elif isinstance(entry, WaitEnded):
            self._outputs[entry.path] = entry.output
        elif isinstance(entry, StepEnded):
            step = self._plan.steps[entry.path]
            output = self._outputs.get(entry.path)
            seen: dict[str, Json] = {
                "output": output,
                "status": entry.status.value,
                "attempts": entry.attempts,
                "error": _describe(entry.error) if entry.error else None,
            }
            if step.node.is_map:
                errors = self._errors.pop(entry.path, {})
                seen["errors"] = [errors.get(index) for index in range(len(cast("list[Json]", output or [])))]
                self._items.pop(entry.path, None)
            else:
                seen["errors"] = []
            self._steps[step.id] = seen

    def _tell_run_status(self) -> None:
        """What ``finally`` steps and outputs see as ``run.status``."""
        cast("dict[str, Json]", self._names["run"])["status"] = self._scheduler.prospect.value

    def _names_for(self, step: PlannedStep) -> Mapping[str, object]:
        if step.node.is_finally:
            self._tell_run_status()
        return self._names

    # -- answers

    def _evaluate(self, command: Evaluate, at: float) -> Evaluated:
        path, what = command.path, command.what
        try:
            value = self._answer(path, what, at)
        except ExpressionError as error:
            return Evaluated(at, path, what, error=self._described(error))
        return Evaluated(at, path, what, value)

    def _described(self, error: ExpressionError) -> ErrorInfo:
        info = ErrorInfo("ExpressionError", error.problem, error.remedy)
        return info if self._redaction is None else self._redaction.error(info)

    def _answer(self, path: str, what: EvaluateKind, at: float) -> Json:
        if what == "outputs":
            self._tell_run_status()
            outputs = {name: value.render(self._names) for name, value in self._plan.outputs.items()}
            return outputs if self._redaction is None else self._redaction.output(outputs)
        step = self._plan.steps[path]
        if what == "when" and step.when is not None:
            return bool(step.when.evaluate(self._names_for(step)))
        if step.wait is not None:
            return step.wait.resolve(self._names_for(step), at)
        items = self._items[path] = self._look_up_items(step)
        return len(items)

    def _look_up_items(self, step: PlannedStep) -> list[Json]:
        if step.foreach is None:
            return []
        items = step.foreach.render(self._names_for(step))
        if not isinstance(items, list):
            kind = "null" if items is None else type(items).__name__
            raise ExpressionError(f"foreach of {step.path}", f"it gave {kind}, not a list", "Give it a list.")
        if len(items) > MAX_ITEMS:
            raise ExpressionError(f"foreach of {step.path}", f"it gave {len(items)} items", f"Give it at most {MAX_ITEMS}.")
        return items

    def _render(self, start: Start, at: float) -> Start | Evaluated:
        """Fill in the call, or say why its inputs cannot be rendered."""
        created, step = self._created, self._plan.steps[start.path]
        assert created is not None, "RunCreated comes first"
        index = start.index
        names = self._names_for(step)
        if index is not None and (step.keys is not None or not step.inputs.is_constant):
            names = {**names, step.item_name: self._items[start.path][index], "index": index}
        try:
            inputs = step.inputs.render(names)
            cache, rate = (None, None) if step.keys is None else step.keys.render(names)
            secrets = step.inputs.secret_references(names) if step.inputs.secret_names else ()
            if not isinstance(inputs, dict):
                kind = "null" if inputs is None else type(inputs).__name__
                raise ExpressionError(f"with of {start.path}", f"it gave {kind}, not a mapping", "Give it the inputs by name.")
        except ExpressionError as error:
            return Evaluated(at, start.path, "inputs", index=index, error=self._described(error))
        call = Call(
            created.run_id,
            self._plan.workflow.name,
            start.path,
            step.executor,
            inputs,
            index,
            start.attempt,
            start.variant,
            1,
            self._stint,
            step.timeout_s,
            step.retry,
            step.clients,
            secrets,
            created.trace_id,
            created.root_span_id,
            created.trace_flags,
            at,
            step.limits,
            cache=cache,
            rate=rate,
        )
        return Start(start.path, index, start.attempt, start.variant, call)


def _describe(error: ErrorInfo) -> Json:
    """An error as expressions see it."""
    seen: dict[str, Json] = {"type": error.type, "message": error.message}
    return seen if error.partial_results is None else {**seen, "partial_results": error.partial_results}
