"""The conductor: the scheduler with values and expressions. Still pure: it answers Evaluate and renders calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast

import attrs

from treadle._decisions import DecisionKind
from treadle._expressions import Reference
from treadle._generations import kept_facts
from treadle._models import (
    DECISIONS,
    AttemptEnded,
    AttemptStarted,
    Call,
    Command,
    CompensationEnded,
    Entry,
    ErrorInfo,
    Evaluate,
    Evaluated,
    EvaluateKind,
    Fact,
    FallbackChosen,
    GroupStarted,
    ItemEnded,
    Json,
    RetryRequested,
    RunCreated,
    RunStatus,
    SpendLimit,
    Start,
    StepEnded,
    StepStatus,
    StintOpened,
    TakeSlot,
    Turn,
    WaitEnded,
)
from treadle._paths import item_path, plan_path, scope_path, split_item, step_id
from treadle._planned import Plan, PlannedBody, PlannedStep
from treadle._scheduler import Scheduler
from treadle._subflows import filled, input_faults
from treadle.errors import ExpressionError, ReplayMismatchError

MAX_ITEMS = 1_000_000
"""Most items of one ``foreach``."""


class Cleaner(Protocol):
    """What is used of a run's redaction."""

    def error(self, error: ErrorInfo) -> ErrorInfo:
        """An error without what is to be hidden."""

    def output(self, output: Json) -> Json:
        """An output without it."""


class _Seen(dict[str, Json]):
    """The steps that expressions see within a group: its own, and those around it."""

    def __init__(self, around: Mapping[str, Json]) -> None:
        super().__init__()
        self._around = around

    def __missing__(self, name: str) -> Json:
        return self._around[name]


class _View:
    """What the expressions of one scope see: the run, or one start of a group.

    Attributes:
        names: Root -> what it stands for.
        steps: Id -> what is seen of an ended step; immutable once stored (S3-05).
        run: What is seen of the run, or of the subflow as if it were one.
        home: Path of the workflow that the scope is part of: empty, or that of a subflow.
        errors: Path within that workflow -> error; None unless an expression asks for any.
        taken: The branch that was chosen.
    """

    __slots__ = ("errors", "home", "names", "run", "steps", "taken")

    def __init__(
        self,
        names: dict[str, object],
        steps: dict[str, Json],
        run: dict[str, Json],
        home: str,
        errors: dict[str, Json] | None,
    ) -> None:
        self.names, self.steps, self.run, self.home, self.errors = names, steps, run, home, errors
        self.taken: str | None = None


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
        self._root = _View({}, {}, {}, "", None)
        self._views: dict[str, _View] = {}  # path of a scope -> what its expressions see
        self._outputs: dict[str, Json] = {}  # path -> output, or the items' outputs so far
        self._items: dict[str, list[Json]] = {}
        self._errors: dict[str, dict[int, Json]] = {}
        self._failed: dict[str, list[Json]] = {}  # path -> errors of what a step used before its fallback
        self._given: dict[str, dict[str, Json]] = {}  # path of a subflow's scope -> its inputs
        self._results: dict[str, Json] = {}  # path of a subflow's scope -> its outputs
        self._generation = 1
        self._facts: list[Fact] = []  # those that had an effect, for a run that goes on again
        self._undone: set[tuple[str, int | None]] = set()
        self._closed: set[tuple[str, int | None]] = set()  # groups that came to a good end
        self._waits: list[tuple[WaitEnded, bool]] = []  # how they ended, and whether well
        self._is_keeping = plan.undoes

    def close(self) -> None:
        """Nobody applies anything any more: let go of what would wait for Python's collector."""
        self._scheduler.close()

    @property
    def status(self) -> RunStatus | None:
        """The run's final state; None while it goes on."""
        return self._scheduler.status

    @property
    def questions(self) -> tuple[tuple[str, int | None], ...]:
        """Steps and items that may have been done, and of which somebody has to say what becomes of them."""
        return self._scheduler.questions

    @property
    def answerable(self) -> tuple[tuple[str, int | None], ...]:
        """What a new stint would ask about, too."""
        return self._scheduler.answerable

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
        waiting: list[Fact | Evaluate] = [fact]
        if isinstance(fact, StintOpened):  # questions that were open when the last stint ended
            waiting += self._open_questions()
        elif isinstance(fact, RetryRequested):
            self._go_on_again(fact)
            return Turn((fact,), ())
        for current in waiting:  # it grows meanwhile
            if isinstance(current, Evaluate):
                if not self._scheduler.asks(current.path, current.what, current.index):
                    continue  # an earlier answer stopped the run
                current = self._evaluate(current, fact.at)
            self._remember(current)
            turn = self._scheduler.apply(current)
            records += turn.records
            self._note_all(turn.records)
            for command in turn.commands:
                if isinstance(command, Start):
                    start = self._render(command, fact.at)
                    if isinstance(start, Evaluated):
                        waiting.append(start)
                    else:
                        commands.append(start)
                elif isinstance(command, Evaluate):
                    waiting.append(command)
                elif isinstance(command, TakeSlot):
                    slot = self._place(command, fact.at)
                    if isinstance(slot, Evaluated):
                        waiting.append(slot)
                    else:
                        commands.append(slot)
                else:
                    commands.append(command)
        return Turn(tuple(records), tuple(commands))

    def replay(
        self,
        entries: Sequence[Entry],
        started: Callable[[Call], object] | None = None,
        told: Callable[[Entry, DecisionKind | None, Mapping[str, Json]], object] | None = None,
    ) -> None:
        """Rebuild the state from a log. Nothing is asked; ``outstanding`` says afterwards what is open.

        Args:
            entries: The log.
            started: Told of each call that was released, as it was.
            told: Told of each entry, with what a decision rests on, or what an expression looked up. Then expressions are
                evaluated again.

        Raises:
            ReplayMismatchError: The facts do not lead to the decisions that were recorded.
        """
        position = 0
        if told is not None:
            self._scheduler.take_kinds()
        while position < len(entries):
            fact = entries[position]
            if isinstance(fact, DECISIONS):
                raise ReplayMismatchError(self._run_id, fact, "nothing")
            if isinstance(fact, RetryRequested):
                self._go_on_again(fact)
                position += 1
                if told is not None:
                    self._scheduler.take_kinds()
                    told(fact, None, {})
                continue
            values = self._looked_up_again(fact) if told is not None and isinstance(fact, Evaluated) else {}
            self._remember(cast("Fact", fact))
            turn = self._scheduler.apply(cast("Fact", fact))
            recorded = tuple(entries[position : position + len(turn.records)])
            if recorded != turn.records:
                self._complain(recorded, turn.records)
            self._note_all(turn.records)
            if started is not None:
                self._tell_started(turn.commands, fact.at, started)
            if told is not None:
                told(fact, None, values)
                for entry, kind in zip(turn.records[1:], self._scheduler.take_kinds(), strict=True):
                    told(entry, kind, {})
            position += len(turn.records)

    def _looked_up_again(self, fact: Evaluated) -> Mapping[str, Json]:
        """What an expression looked up; it is evaluated again.

        Raises:
            ReplayMismatchError: That gives something else than what was recorded.
        """
        if fact.what not in ("when", "foreach", "choose") or not self._scheduler.expects(fact):
            return {}
        again = self._evaluate(Evaluate(fact.path, fact.what, fact.index), fact.at)
        if (again.value, again.error is None) != (fact.value, fact.error is None):
            raise ReplayMismatchError(self._run_id, fact, again)
        step = self._planned(fact.path)
        names = self._names_for(step, fact.path)
        if fact.what == "choose":
            references = [each for _, condition in step.branches if condition is not None for each in condition.references]
        else:
            asked = step.when if fact.what == "when" else step.foreach
            references = list(asked.references) if asked is not None else []
        return {str(reference): _found(names, reference) for reference in references}

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
            elif isinstance(command, TakeSlot):
                slot = self._place(command, 0.0)
                commands.append(slot if isinstance(slot, TakeSlot) else command)
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
            "generation": self._generation,
            "outputs": self._copy_outputs(self._outputs),
            "views": {path: self._dump_view(path, view) for path, view in self._views.items()},
            "maps": list[Json](self._items),
            "errors": {path: [list(pair) for pair in errors.items()] for path, errors in self._errors.items()},
            "failed": {path: list(errors) for path, errors in self._failed.items()},
            "given": dict[str, Json](self._given),
            "results": dict(self._results),
        }

    @classmethod
    def load(cls, plan: Plan, data: Mapping[str, Json]) -> Conductor:
        """Build the conductor that ``dump`` described, of the same plan."""
        state = cast("dict[str, dict[str, Json]]", data)
        self = cls(plan)
        self._scheduler = Scheduler.load(plan.graph, state["scheduler"])
        self._stint, self._generation = cast("int", data["stint"]), cast("int", data["generation"])
        if state["created"]:
            self._begin(RunCreated(**state["created"]))  # type: ignore[arg-type]  # a dump
        self._outputs = self._copy_outputs(state["outputs"])
        self._given, self._results = cast("dict[str, dict[str, Json]]", dict(state["given"])), dict(state["results"])
        self._failed = {path: list(cast("list[Json]", errors)) for path, errors in state["failed"].items()}
        for path, errors in state["errors"].items():
            self._errors[path] = dict(cast("list[tuple[int, Json]]", errors))
        maps = cast("list[str]", state["maps"])
        for path, told in cast("dict[str, dict[str, Json]]", state["views"]).items():
            if path:
                owner, index = split_item(path)
                if owner in maps and owner not in self._items:
                    self._items[owner] = self._look_up_items(owner)
                self._open_view(owner, index)
            self._load_view(path, told)
        for path in maps:
            if path not in self._items:
                self._items[path] = self._look_up_items(path)
        return self

    def _dump_view(self, path: str, view: _View) -> dict[str, Json]:
        """What the expressions of a scope see, without the outputs, which are kept by path."""
        steps: dict[str, Json] = {
            name: {key: value for key, value in cast("dict[str, Json]", seen).items() if key != "output"}
            for name, seen in view.steps.items()
        }
        is_home = view.home == path and view.errors is not None
        return {"steps": steps, "taken": view.taken, **({"errors": dict(view.errors or {})} if is_home else {})}

    def _load_view(self, path: str, told: Mapping[str, Json]) -> None:
        view = self._views[path]
        view.taken = cast("str | None", told["taken"])
        for name, seen in cast("dict[str, dict[str, Json]]", told["steps"]).items():
            output = self._outputs.get(self._child_path(path, name))
            view.steps[name] = {"output": output, **seen}
        if view.errors is not None and "errors" in told:
            view.errors.update(cast("dict[str, Json]", told["errors"]))

    def _child_path(self, scope: str, name: str) -> str:
        prefix = f"{scope}/" if scope else ""
        path = f"{prefix}{name}"
        return path if plan_path(path) in self._plan.steps else f"{prefix}finally/{name}"

    def _copy_outputs(self, outputs: Mapping[str, Json]) -> dict[str, Json]:
        """Outputs by path; the list of a ``foreach`` is copied, because it may still be filled."""
        maps = {path for path, step in self._plan.steps.items() if step.node.is_map}
        return {path: list(cast("list[Json]", value)) if plan_path(path) in maps else value for path, value in outputs.items()}

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

    def _planned(self, path: str) -> PlannedStep:
        return self._plan.steps[path if "[" not in path else plan_path(path)]

    def _remember(self, fact: Fact) -> None:
        """Keep the values that a fact brings. A late fact brings none: what is stored is never changed."""
        if not self._scheduler.expects(fact):
            return
        if type(fact) is AttemptEnded:
            self._facts.append(fact)
            self._keep_output(fact)
            return
        if isinstance(fact, Evaluated):
            if fact.error is None:
                self._keep_answer(fact)
            return
        self._facts.append(fact)
        if isinstance(fact, RunCreated):
            self._begin(fact)
        elif isinstance(fact, StintOpened):
            self._stint = fact.stint

    def _go_on_again(self, fact: RetryRequested) -> None:
        """Become the conductor of a run in which only what completed has happened; all else is held until a stint opens."""
        assert self._facts, "a conductor that was loaded from a dump does not know how it came about"
        kept, wanted = kept_facts(self._plan, fact, self._facts, self._waits, self._closed, self._undone)
        fresh = Conductor(self._plan, self._redaction)
        fresh._scheduler.hold(wanted)
        for earlier in kept:
            fresh.apply(earlier)
        fresh._scheduler.carry(self._scheduler)
        self.__dict__.update(fresh.__dict__)
        self._generation = fact.generation

    def _keep_output(self, fact: AttemptEnded) -> None:
        outcome = fact.outcome
        if outcome.status != "completed" or fact.variant == "compensation":
            return
        if fact.index is None:
            self._outputs[fact.path] = outcome.output
        else:
            cast("list[Json]", self._outputs[fact.path])[fact.index] = outcome.output

    def _keep_answer(self, fact: Evaluated) -> None:
        path, scope = fact.path, item_path(fact.path, fact.index)
        if fact.what == "foreach":
            self._outputs[path] = [None] * cast("int", fact.value)
            if path not in self._items:  # a replay: the items were not looked up just now
                self._items[path] = self._look_up_items(path)
        elif fact.what == "choose":
            self._views[scope].taken = cast("str | None", fact.value)
        elif fact.what == "inputs":
            if scope not in self._given:  # a replay, again
                self._given[scope] = self._subflow_inputs(path, fact.index)
            self._open_view(path, fact.index)
        elif fact.what == "outputs" and path:
            self._results[scope] = fact.value

    def _begin(self, fact: RunCreated) -> None:
        self._created = fact
        self._views[""] = self._root = self._home("", self._plan.workflow.name, dict(fact.inputs), fact.at)

    def _home(self, path: str, workflow: str, inputs: dict[str, Json], at: float) -> _View:
        """What the steps of a workflow see: nothing of what is around it."""
        created = self._created
        assert created is not None, "RunCreated comes first"
        run: dict[str, Json] = {
            "id": created.run_id,
            "workflow": workflow,
            "status": RunStatus.RUNNING.value,
            "trace_id": created.trace_id,
            "started_at": at,
        }
        steps: dict[str, Json] = {}
        names: dict[str, object] = {"inputs": inputs, "steps": steps, "run": run}
        errors: dict[str, Json] | None = None
        if self._plan.looks_at_errors:
            names["errors"] = errors = {}
        return _View(names, steps, run, path, errors)

    def _open_view(self, path: str, index: int | None) -> None:
        """A group begins, or an item of a ``foreach`` over one: what its steps will see."""
        step, scope = self._planned(path), item_path(path, index)
        if step.subflow is not None:
            at = self._created.at if self._created is not None else 0.0
            self._views[scope] = self._home(scope, step.subflow.name, self._given[scope], at)
            return
        around = self._views[scope_path(path)]
        steps = _Seen(around.steps)
        names: dict[str, object] = {**around.names, "steps": steps}
        if index is not None:
            names[step.item_name], names["index"] = self._items[path][index], index
        self._views[scope] = _View(names, steps, around.run, around.home, around.errors)

    def _close_view(self, path: str, index: int | None) -> Json:
        """A group is over: its output, from what became of its steps."""
        scope = item_path(path, index)
        view = self._views.get(scope)
        if view is None:  # a subflow whose inputs did not fit
            return None
        step = self._planned(path)
        if not self._is_keeping:
            del self._views[scope]
            self._given.pop(scope, None)
        if step.node.form == "workflow":
            return self._results.pop(scope, None)
        if step.node.form == "choose":
            return _output_of(view.steps.get(view.taken)) if view.taken is not None else None
        return {step_id(node.path): _output_of(view.steps.get(step_id(node.path))) for node in step.node.children}

    def _note_all(self, records: Sequence[Entry]) -> None:
        """Keep what the decisions of a turn tell."""
        for entry in records[1:]:
            if type(entry) is StepEnded:  # with AttemptStarted, which tells nothing, by far the most frequent
                self._note_step(entry)
            elif type(entry) is not AttemptStarted:
                self._note(entry)

    def _note(self, entry: Entry) -> None:
        """Make what a step came to visible to expressions, with the errors of the items that did not complete."""
        if isinstance(entry, GroupStarted):
            if entry.form != "workflow":  # what a subflow sees is known once its inputs are
                self._open_view(entry.path, entry.index)
        elif isinstance(entry, CompensationEnded):
            if entry.status is StepStatus.COMPLETED:
                self._undone.add((entry.path, entry.index))
        elif isinstance(entry, ItemEnded):
            self._note_item(entry)
        elif isinstance(entry, WaitEnded):
            self._note_wait(entry)
        elif isinstance(entry, FallbackChosen) and entry.index is None and entry.error is not None:
            self._failed.setdefault(entry.path, []).append(_describe(entry.error))

    def _note_wait(self, entry: WaitEnded) -> None:
        if entry.index is None:
            self._outputs[entry.path] = entry.output
        else:
            cast("list[Json]", self._outputs[entry.path])[entry.index] = entry.output
        self._waits.append((entry, False))  # until its step, or item, ends

    def _note_item(self, entry: ItemEnded) -> None:
        if entry.error is not None:
            self._errors.setdefault(entry.path, {})[entry.index] = _describe(entry.error)
        node = self._planned(entry.path).node
        if node.is_wait and entry.status in _GOOD:
            ended, _ = self._waits.pop()  # it has just been noted
            self._waits.append((ended, True))
        elif node.is_wait:  # a rejection has a payload, which is no output
            cast("list[Json]", self._outputs[entry.path])[entry.index] = None
        if node.form is not None:
            output = self._close_view(entry.path, entry.index)
            if entry.status in _GOOD:
                self._closed.add((entry.path, entry.index))
            if entry.status in _USABLE:
                cast("list[Json]", self._outputs[entry.path])[entry.index] = output

    def _note_step(self, entry: StepEnded) -> None:
        path = entry.path
        is_nested = "/" in path
        step = self._planned(path) if is_nested else self._plan.steps[path]
        view = self._views[scope_path(path)] if is_nested else self._root
        node = step.node
        branch = self._end_group(entry) if node.form is not None and not node.is_map else None
        output = self._outputs.get(path)
        seen: dict[str, Json] = {
            "output": output,
            "status": str(entry.status),
            "attempts": entry.attempts,
            "error": _describe(entry.error) if entry.error else None,
        }
        if node.is_map:
            errors = self._errors.pop(path, {})
            seen["errors"] = [errors.get(index) for index in range(len(cast("list[Json]", output or [])))]
            if not self._is_keeping:
                self._items.pop(path, None)
        else:
            seen["errors"] = self._failed.pop(path, []) if self._failed else []
        if node.form == "choose":
            seen["branch"] = branch
        if node.is_wait and not node.is_map and entry.status in _GOOD:
            self._waits = [(ended, is_good or ended.path == path) for ended, is_good in self._waits]
        view.steps[step.id] = seen
        if view.errors is not None:
            self._note_error(entry, view)

    def _end_group(self, entry: StepEnded) -> str | None:
        """Keep the output of a group that is over; answers the branch that a choice took."""
        view = self._views.get(entry.path)
        output = self._close_view(entry.path, None)
        if entry.status in _GOOD:
            self._closed.add((entry.path, None))
        if entry.status in _USABLE:
            self._outputs[entry.path] = output
        return view.taken if view is not None else None

    def _note_error(self, entry: StepEnded, view: _View) -> None:
        """What ``errors`` holds of a step: null unless it failed."""
        if view.errors is None or "[" in entry.path.removeprefix(view.home):
            return
        name = entry.path.removeprefix(view.home).removeprefix("/").removeprefix("finally/")
        view.errors[name] = _error_record(entry) if entry.error is not None else None

    def _tell_run_status(self, view: _View) -> None:
        """What ``finally`` steps and outputs see as ``run.status``."""
        view.run["status"] = self._scheduler.prospect_of(view.home).value

    def _names_for(self, step: PlannedStep, path: str) -> Mapping[str, object]:
        view = self._views[scope_path(path)] if "/" in path else self._root
        if step.in_finally:
            self._tell_run_status(view)
        return view.names

    # -- answers

    def _evaluate(self, command: Evaluate, at: float) -> Evaluated:
        path, what, index = command.path, command.what, command.index
        try:
            value = self._answer(path, what, index, at)
        except ExpressionError as error:
            return Evaluated(at, path, what, index=index, error=self._described(error))
        return Evaluated(at, path, what, value, index)

    def _described(self, error: ExpressionError) -> ErrorInfo:
        info = ErrorInfo("ExpressionError", error.problem, error.remedy)
        return info if self._redaction is None else self._redaction.error(info)

    def _answer(self, path: str, what: EvaluateKind, index: int | None, at: float) -> Json:
        if what == "outputs":
            return self._answer_outputs(item_path(path, index))
        step = self._planned(path)
        if what == "when" and step.when is not None:
            return bool(step.when.evaluate(self._names_for(step, path)))
        if what == "choose":
            return self._choose(step, item_path(path, index))
        if what == "inputs":
            self._given[item_path(path, index)] = self._subflow_inputs(path, index)
            return None
        if what == "wait" and step.wait is not None:
            return step.wait.resolve(self._item_names(step, path, index), at)
        items = self._items[path] = self._look_up_items(path)
        return len(items)

    def _answer_outputs(self, scope: str) -> Json:
        view = self._views[scope]
        self._tell_run_status(view)
        values = self._planned(scope).outputs if scope else self._plan.outputs
        outputs = {name: value.render(view.names) for name, value in values.items()}
        return outputs if self._redaction is None else self._redaction.output(outputs)

    def _choose(self, step: PlannedStep, scope: str) -> str | None:
        """The first branch whose condition is true; ``else`` stands last."""
        names = self._views[scope].names
        for name, condition in step.branches:
            if condition is None or condition.evaluate(names):
                return name
        return None

    def _subflow_inputs(self, path: str, index: int | None) -> dict[str, Json]:
        """What a subflow is given, checked."""
        step = self._planned(path)
        assert step.subflow is not None, "only subflows are asked"
        given = step.inputs.render(self._item_names(step, path, index))
        if not isinstance(given, dict):
            raise _no_mapping(given, path)
        faults = [f"{fault.path}: {fault.message}" for fault in input_faults(step.subflow, given, set())]
        if faults:
            problem = f"the inputs of workflow {step.subflow.name!r} do not fit: {'; '.join(faults)}"
            raise ExpressionError(f"with of {path}", problem, "Give it what its 'inputs' say.")
        return filled(step.subflow, given)

    def _item_names(self, step: PlannedStep, path: str, index: int | None) -> Mapping[str, object]:
        names = self._names_for(step, path)
        if index is None:
            return names
        return {**names, step.item_name: self._items[path][index], "index": index}

    def _look_up_items(self, path: str) -> list[Json]:
        step = self._planned(path)
        if step.foreach is None:
            return []
        items = step.foreach.render(self._names_for(step, path))
        if not isinstance(items, list):
            kind = "null" if items is None else type(items).__name__
            raise ExpressionError(f"foreach of {path}", f"it gave {kind}, not a list", "Give it a list.")
        if len(items) > MAX_ITEMS:
            raise ExpressionError(f"foreach of {path}", f"it gave {len(items)} items", f"Give it at most {MAX_ITEMS}.")
        if step.batch is not None:
            return [items[start : start + step.batch] for start in range(0, len(items), step.batch)]
        return items

    def _place(self, command: TakeSlot, at: float) -> TakeSlot | Evaluated:
        """Say which slot is asked for, or why that cannot be told."""
        path, index = command.path, command.index
        step = self._planned(path) if path else None
        concurrency = step.concurrency if step is not None else self._plan.concurrency
        assert concurrency is not None, "only what needs a slot asks for one"
        try:
            names = self._views[""].names if step is None else self._item_names(step, path, index)
            group = concurrency.group(names)
        except ExpressionError as error:
            return Evaluated(at, path, "slot", index=index, error=self._described(error))
        priority = step.node.priority if step is not None else self._plan.workflow.priority
        return TakeSlot(path, index, group, concurrency.limit, priority)

    def _render(self, start: Start, at: float) -> Start | Evaluated:
        """Fill in the call, or say why its inputs cannot be rendered."""
        path = start.path
        created, step = self._created, self._plan.steps[path] if "[" not in path else self._planned(path)
        assert created is not None, "RunCreated comes first"
        index = start.index
        body: PlannedStep | PlannedBody = step
        keys = step.keys
        if start.variant != "primary":
            body, keys = step.bodies[start.variant], None
        names = _NO_NAMES if keys is None and body.inputs.is_constant else self._item_names(step, path, index)
        try:
            inputs = body.inputs.render(names)
            cache, rate = (None, None) if keys is None else keys.render(names)
            secrets = body.inputs.secret_references(names) if body.inputs.secret_names else ()
            if not isinstance(inputs, dict):
                raise _no_mapping(inputs, start.path)
        except ExpressionError as error:
            return Evaluated(at, start.path, "inputs", index=index, error=self._described(error))
        call = Call(
            created.run_id,
            self._plan.workflow.name,
            start.path,
            body.executor,
            inputs,
            index,
            start.attempt,
            start.variant,
            self._generation,
            self._stint,
            _deadline(body.timeout_s, start.allowance) if start.allowance else body.timeout_s,
            body.retry,
            body.clients,
            secrets,
            created.trace_id,
            created.root_span_id,
            created.trace_flags,
            at,
            body.limits,
            cache=cache,
            rate=rate,
            allowance=start.allowance,
        )
        return Start(start.path, index, start.attempt, start.variant, call, start.allowance)


def _deadline(timeout_s: float | None, allowance: tuple[SpendLimit, ...]) -> float | None:
    """A call's own, or when the time of a budget is up, if that comes sooner."""
    limits = [limit.most / 1000 for limit in allowance if limit.resource == "wall_time"]
    return min(limits if timeout_s is None else [timeout_s, *limits], default=None)


_NO_NAMES: Mapping[str, object] = {}
"""What inputs without an expression need."""

_GOOD = (StepStatus.COMPLETED, StepStatus.SKIPPED, StepStatus.CACHED)
"""States that nobody would have a step in again."""

_USABLE = (StepStatus.COMPLETED, StepStatus.PARTIAL_FAILURE)
"""States of a group that has an output."""


def _found(names: Mapping[str, object], reference: Reference) -> Json:
    """What a reference leads to; None where there is nothing."""
    value: object = names.get(reference.root)
    for key in reference.path:
        try:
            value = value[key]  # type: ignore[index]  # whatever is no container raises
        except (LookupError, TypeError):
            return None
    return value


def _no_mapping(value: Json, path: str) -> ExpressionError:
    kind = "null" if value is None else type(value).__name__
    return ExpressionError(f"with of {path}", f"it gave {kind}, not a mapping", "Give it the inputs by name.")


def _output_of(seen: Json) -> Json:
    return cast("dict[str, Json]", seen)["output"] if seen is not None else None


def _error_record(entry: StepEnded) -> Json:
    """What ``errors.NAME`` gives (S3-38): class, message, stack, and what the call was given."""
    error = entry.error
    assert error is not None, "the caller has looked"
    return {
        **cast("dict[str, Json]", _describe(error)),
        "step": entry.path,
        "status": entry.status.value,
        "attempts": entry.attempts,
        "reason": entry.reason,
        "stack": error.traceback,
        "inputs": error.inputs,
    }


def _describe(error: ErrorInfo) -> Json:
    """An error as expressions see it."""
    seen: dict[str, Json] = {"type": error.type, "message": error.message}
    return seen if error.partial_results is None else {**seen, "partial_results": error.partial_results}
