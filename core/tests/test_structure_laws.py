"""Laws of groups, items, fallbacks and compensations: what holds for every tree, every outcome and every interleaving.

As in ``test_scheduler_laws``, whose laws of flat graphs these extend: Hypothesis draws a tree and plays the world, and
``World`` keeps its own books from records and commands alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from treadle._graph import Graph, Node, Rules, Variant
from treadle._models import (
    DECISIONS,
    AttemptEnded,
    AttemptStarted,
    Cancel,
    CancelRequested,
    Command,
    CompensationEnded,
    Entry,
    ErrorInfo,
    Evaluate,
    Evaluated,
    Fact,
    FallbackChosen,
    Finish,
    GiveUp,
    GroupStarted,
    ItemEnded,
    MapStarted,
    Outcome,
    RetryAfter,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SetTimer,
    Start,
    StepEnded,
    StepStatus,
    StintOpened,
    TimerFired,
)
from treadle._paths import item_path, plan_path, scope_path
from treadle._scheduler import Scheduler

laws = settings(
    max_examples=10_000 if os.environ.get("TREADLE_LAWS") == "large" else 400,
    report_multiple_bugs=False,
    deadline=None,  # the machine of a check may be slow
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],  # a long run is what we want
)

FINE = (StepStatus.COMPLETED, StepStatus.PARTIAL_FAILURE, StepStatus.SKIPPED)
BOOM = ErrorInfo("Boom", "it broke")

# -- trees -----------------------------------------------------------------------------------------------------------------


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    return Rules(
        on_error=draw(st.sampled_from(["stop", "continue"])),
        max_failures=draw(st.sampled_from([None, None, 0, 1])),
        max_parallel=draw(st.sampled_from([None, None, 1, 2])),
        timeout_s=draw(st.sampled_from([None, None, None, 30.0])),
        has_outputs=False,
    )


@st.composite
def nodes(draw: st.DrawFn, prefix: str, depth: int, most: int, *, is_finally: bool = False, alone: bool = False) -> list[Node]:
    """Some nodes of one scope; those of a choice are alone: without needs."""
    made: list[Node] = []
    for number in range(draw(st.integers(1 if depth else 0, most))):
        path = f"{prefix}{'f' if is_finally else 's'}{number}"
        earlier = [node.path for node in made]
        needs = () if alone or not earlier else tuple(draw(st.lists(st.sampled_from(earlier), unique=True, max_size=2)))
        form = draw(st.sampled_from([None, None, "parallel", "choose", "workflow"])) if depth < 3 else None
        children: list[Node] = []
        inner: Rules | None = None
        if form is not None:
            children = draw(nodes(f"{path}/", depth + 1, 3, alone=form == "choose"))
            inner = draw(rules())
        if form == "workflow":
            children += draw(nodes(f"{path}/finally/", 3, 2, is_finally=True))
            inner = attrs.evolve(inner, has_outputs=draw(st.booleans()))
        made.append(
            Node(
                path=path,
                needs=needs,
                needs_rule=draw(st.sampled_from(["all_succeeded", "all_succeeded", "all_done", "any_succeeded"])),
                has_when=not alone and draw(st.sampled_from([False, False, True])),
                is_map=draw(st.sampled_from([False, False, True])),
                max_parallel=draw(st.sampled_from([None, 1, 2])),
                max_failures=draw(st.sampled_from([None, None, 1, 50.0])),
                max_attempts=draw(st.integers(1, 2)),
                on_error=draw(st.sampled_from([None, None, "stop", "continue"])),
                is_finally=is_finally,
                on_interrupt=draw(st.sampled_from(["rerun", "rerun", "fail"])),
                form=form,
                children=tuple(children),
                rules=inner,
                fallbacks=() if form else draw(st.sampled_from([(), (), (Variant(2),), (Variant(1), Variant(1, "fail"))])),
                compensation=draw(st.sampled_from([None, None, Variant(1), Variant(2)])),
            )
        )
    return made


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A tree, and what runs finally."""
    main = draw(nodes("", 0, 4))
    return Graph(
        nodes=(*main, *draw(nodes("finally/", 3, 2, is_finally=True))),
        max_parallel=draw(st.integers(1, 4)),
        on_error=draw(st.sampled_from(["stop", "continue"])),
        max_failures=draw(st.sampled_from([None, None, 1])),
        has_outputs=draw(st.booleans()),
        timeout_s=draw(st.sampled_from([None, None, 60.0])),
        max_retries=draw(st.sampled_from([None, 0, 2])),
    )


def walk(some: tuple[Node, ...]) -> Iterator[Node]:
    for node in some:
        yield node
        yield from walk(node.children)


# -- the world -------------------------------------------------------------------------------------------------------------

Place = tuple[str, int | None]


def is_main_of(scope: str, path: str) -> bool:
    """Whether a step is part of what a scope undoes: its clean-up comes later."""
    return path.startswith(f"{scope}/") and not path.startswith(f"{scope}/finally/")


class World:
    """Plays the world against a scheduler and holds every law after every turn."""

    def __init__(self, graph: Graph, data: st.DataObject) -> None:
        self.graph, self.data = graph, data
        self.nodes = {node.path: node for node in walk(graph.nodes)}
        self.scheduler = Scheduler(graph)
        self.shadow: Scheduler | None = None
        self.now, self.stint = 1_000.0, 0
        self.questions: list[Evaluate] = []
        self.running: dict[Place, tuple[int, str]] = {}
        self.timers: dict[str, float] = {}
        self.again: dict[Place, tuple[int, str]] = {}
        self.attempts: dict[tuple[str, int | None, str], int] = {}
        self.is_put_off = False  # the call that ends now
        self.chosen: dict[Place, str] = {}  # the fallback that an item has come to
        self.counts: dict[str, int] = {}
        self.open: dict[str, Node] = {}  # scopes that are
        self.ended: dict[str, StepEnded] = {}  # of scopes that are, and of the run
        self.ended_items: set[Place] = set()
        self.stopped: set[str] = set()
        self.completed: list[Place] = []  # what can be undone, in order
        self.undone: list[Place] = []
        self.failed: list[str] = []  # scopes that failed by themselves
        self.retries = 0
        self.cancelled = self.forced = False
        self.over: list[AttemptEnded] = []
        self.result: RunEnded | None = None
        self.finishes = 0
        self.log: list[tuple[tuple[Entry, ...], str]] = []

    # -- playing

    def play(self, *, budget: int = 600) -> None:
        self.apply(RunCreated(self.now, "run", {"name": "w"}, "hash", {}, max_parallel=self.pick([None, None, 1, 2])))
        self.stint = 1
        self.apply(StintOpened(self.now, 1))
        nuisances = 6
        while not self.finishes:
            assert budget, "the run does not end"
            budget -= 1
            self.now += self.pick([0.0, 0.0, 1.0, 7.5])
            if nuisances and self.chance(10):
                nuisances -= 1
                self.nuisance()
            else:
                self.progress()
            if self.chance(6):
                self.shadow = Scheduler.load(self.graph, json.loads(json.dumps(self.scheduler.dump())))

    def pick(self, options: list[object]) -> object:
        return self.data.draw(st.sampled_from(options))

    def chance(self, one_in: int) -> bool:
        return self.data.draw(st.integers(1, one_in)) == one_in

    def progress(self) -> None:
        options: list[tuple[str, object]] = [("question", question) for question in self.questions]
        options += [("call", place) for place in self.running]
        options += [("timer", timer) for timer in self.timers if timer.startswith("retry:") or self.chance(3)]
        options = options or [("timer", timer) for timer in self.timers]
        assert options, "the scheduler waits for nothing and has not ended"
        kind, what = self.pick(options)
        if kind == "question":
            self.answer(what)
        elif kind == "call":
            self.end_call(what)
        else:
            self.now = max(self.now, self.timers.pop(what))
            self.apply(TimerFired(self.now, what))

    def answer(self, question: Evaluate) -> None:
        node = self.nodes.get(plan_path(question.path))
        value: object = None
        error = BOOM if self.chance(12) else None
        if error is None and question.what == "when":
            value = self.data.draw(st.booleans())
        elif error is None and question.what == "foreach":
            value = self.data.draw(st.integers(0, 3))
        elif error is None and question.what == "choose":
            assert node is not None
            value = self.pick([None, *[child.path.rpartition("/")[2] for child in node.children]])
        elif error is None and question.what == "outputs":
            value = {"x": 1}
        self.apply(Evaluated(self.now, question.path, question.what, value, question.index, error))

    def end_call(self, place: Place) -> None:
        attempt, variant = self.running[place]
        how = self.pick(
            ["completed", "completed", "completed", "failed", "again", "put off", "timed_out", "cancelled", "unrenderable"]
        )
        if how == "unrenderable":
            del self.running[place]
            self.apply(Evaluated(self.now, place[0], "inputs", index=place[1], error=BOOM))
            return
        outcome = {
            "completed": Outcome("completed", {"ok": True}),
            "failed": Outcome("failed", error=BOOM, retry=GiveUp("hopeless")),
            "again": Outcome("failed", error=BOOM, retry=RetryAfter(self.pick([0.0, 5.0]), "may help")),
            "put off": Outcome("failed", error=BOOM, retry=RetryAfter(self.pick([0.0, 5.0]), "later", is_counted=False)),
            "timed_out": Outcome("timed_out", error=BOOM),
            "cancelled": Outcome("cancelled", error=BOOM),
        }[how]
        del self.running[place]
        fact = AttemptEnded(self.now, place[0], place[1], attempt, outcome, variant)
        self.over.append(fact)
        if how == "completed" and place[1] is not None and variant != "compensation":
            self.note_completed(place)
        self.is_put_off = how == "put off"
        self.apply(fact)
        self.is_put_off = False

    def nuisance(self) -> None:
        kind = self.pick(["cancel", "force", "stint", "late", "late", "timer"])
        if kind in ("cancel", "force"):
            in_main = any(node.path not in self.ended for node in self.graph.nodes if not node.is_finally)
            is_heard = not any(question.what == "outputs" and not question.path for question in self.questions)
            is_heard &= kind == "force" or in_main
            self.cancelled |= is_heard
            self.forced |= is_heard and kind == "force"
            commands = self.apply(CancelRequested(self.now, "please", kind == "force"))
            if is_heard and self.forced and not self.result:
                told = {(c.path, c.index) for c in commands if isinstance(c, Cancel)}
                assert told == set(self.running), "a forced cancel reaches every call"
        elif kind == "stint":
            self.stint += 1
            self.timers = {}
            self.again = dict(self.running)
            self.apply(StintOpened(self.now, self.stint))
            assert not self.again, "every call is made again, or ends"
        elif kind == "timer":
            self.evidence(TimerFired(self.now, "retry:nobody::1"))
        elif self.over:
            late = attrs.evolve(self.pick(self.over), at=self.now)
            if self.running.get((late.path, late.index)) != (late.attempt, late.variant):
                self.evidence(late)

    # -- a turn

    def evidence(self, fact: Fact) -> None:
        before = json.dumps({**self.scheduler.dump(), "at": None})
        commands = self.apply(fact)
        assert not commands
        assert self.log[-1][0] == (fact,)
        assert json.dumps({**self.scheduler.dump(), "at": None}) == before

    def apply(self, fact: Fact) -> tuple[Command, ...]:
        turn = self.scheduler.apply(fact)
        if isinstance(fact, Evaluated):
            self.questions = [q for q in self.questions if (q.path, q.what, q.index) != (fact.path, fact.what, fact.index)]
        if self.shadow is not None:
            assert self.shadow.apply(fact) == turn, "a loaded scheduler goes on like the one that was dumped"
        assert all(isinstance(entry, DECISIONS) for entry in turn.records[1:])
        for entry in turn.records[1:]:
            self.note(entry)
        for command in turn.commands:
            self.take(command)
        self.check_outstanding()
        dump = self.scheduler.dump()
        text = json.dumps(dump)
        assert json.dumps(Scheduler.load(self.graph, json.loads(text)).dump()) == text
        if self.shadow is not None:
            assert self.shadow.outstanding() == self.scheduler.outstanding()
        self.log.append((turn.records, text))
        return turn.commands

    def take(self, command: Command) -> None:
        if isinstance(command, Evaluate):
            self.questions.append(command)
        elif isinstance(command, Start):
            assert self.running[command.path, command.index] == (command.attempt, command.variant), "a start is recorded"
        elif isinstance(command, SetTimer):
            self.timers[command.timer_id] = command.due
        elif isinstance(command, Cancel):
            assert self.running[command.path, command.index] == (command.attempt, command.variant)
        else:
            assert isinstance(command, Finish)
            self.finishes += 1
            assert self.finishes == 1, "a run finishes once"

    def check_outstanding(self) -> None:
        """What is outstanding is what was asked and not answered, of what is still there."""
        commands = self.scheduler.outstanding()
        if self.result is not None:
            assert commands == (Finish(self.result.status),)
            assert not self.running
            return
        asked = [command for command in commands if isinstance(command, Evaluate)]
        assert all(question in self.questions for question in asked)
        self.questions = asked
        timers = {command.timer_id: command.due for command in commands if isinstance(command, SetTimer)}
        assert timers.items() <= self.timers.items()
        self.timers = timers
        starts = {(c.path, c.index): (c.attempt, c.variant) for c in commands if isinstance(c, Start)}
        assert starts == self.running

    # -- decisions

    def note(self, entry: Entry) -> None:
        assert self.result is None, "nothing is decided after the end"
        if isinstance(entry, AttemptStarted):
            self.note_attempt(entry)
        elif isinstance(entry, GroupStarted):
            node = self.check_startable(entry.path, entry.index)
            assert node.form == entry.form
            self.open[item_path(entry.path, entry.index)] = node
        elif isinstance(entry, MapStarted):
            self.counts[entry.path] = entry.count
        elif isinstance(entry, RetryScheduled):
            self.retries += not self.is_put_off
            assert self.graph.max_retries is None or self.retries <= self.graph.max_retries, "the budget of retries holds"
            assert entry.attempt < entry.max_attempts
        elif isinstance(entry, FallbackChosen):
            number = int(entry.variant.split()[1])
            before = self.chosen.get((entry.path, entry.index), "fallback 0")
            assert number == int(before.split()[1]) + 1 <= len(self.nodes[plan_path(entry.path)].fallbacks)
            self.chosen[entry.path, entry.index] = entry.variant
        elif isinstance(entry, ItemEnded):
            self.note_item(entry)
        elif isinstance(entry, StepEnded):
            self.note_step(entry)
        elif isinstance(entry, CompensationEnded):
            self.note_undone(entry)
        elif isinstance(entry, RunStopping):
            assert entry.path == "" or entry.path in self.open
            self.stopped.add(entry.path)
        else:
            assert isinstance(entry, RunEnded)
            self.result = entry

    def note_attempt(self, entry: AttemptStarted) -> None:
        place, node = (entry.path, entry.index), self.nodes[plan_path(entry.path)]
        if place in self.again:
            assert self.again.pop(place) == (entry.attempt, entry.variant)
            return
        key = (*place, entry.variant)
        assert entry.attempt == self.attempts.get(key, 0) + 1, "attempts are counted without gap and none is made twice"
        self.attempts[key] = entry.attempt
        if entry.variant == "compensation":
            assert any(self.may_undo(scope, place) for scope in ["", *self.open] if scope in self.stopped or not scope)
            assert not self.forced
        else:
            self.check_startable(*place)
            assert node.form is None
            assert entry.variant == self.chosen.get(place, "primary")
        assert place not in self.running
        self.running[place] = (entry.attempt, entry.variant)
        most = getattr(self.log[0][0][0], "max_parallel", None) or self.graph.max_parallel
        assert len(self.running) <= most, "the run's cap holds"
        if entry.variant != "compensation":
            self.check_caps(entry.path, node)

    def may_undo(self, scope: str, place: Place) -> bool:
        """Whether a scope undoes a step: its main part is over, what completed last in it comes first, no other runs."""
        within = f"{scope}/" if scope else ""
        left = [done for done in self.completed if done not in self.undone and done[0].startswith(within)]
        nodes = self.open[scope].children if scope else self.graph.nodes
        main = [within + node.path[len(plan_path(within)) :] for node in nodes if not node.is_finally]
        if not left or left[-1] != place or not all(path in self.ended for path in main):
            return False
        return not any(path.startswith(within) for path, _ in self.running)

    def check_caps(self, path: str, node: Node) -> None:
        if node.max_parallel is not None:
            assert sum(other == path for other, _ in self.running) <= node.max_parallel, "the foreach's cap holds"
        for scope, group in self.open.items():
            cap = group.rules.max_parallel if group.rules is not None else None
            if cap is not None:
                assert sum(other.startswith(f"{scope}/") for other, _ in self.running) <= cap, "the group's cap holds"

    def check_startable(self, path: str, index: int | None) -> Node:
        node = self.nodes[plan_path(path)]
        scope = scope_path(path)
        assert scope == "" or scope in self.open, "a step starts within a group that has started and is not over"
        assert path not in self.ended, "an ended step does not start"
        around = len(plan_path(scope))
        base = path[: len(path) - len(node.path[around:])]
        for need in node.needs:
            assert base + need[around:] in self.ended, "no step starts before its needs are done"
        assert (index is not None) == node.is_map
        if index is not None:
            assert 0 <= index < self.counts[path]
            assert (path, index) not in self.ended_items
        assert not self.is_stopped(path), "nothing new starts in what was told to stop"
        if node.is_finally:
            siblings = self.open[scope].children if scope else self.graph.nodes
            for other in siblings:
                if not other.is_finally:
                    assert base + other.path[around:] in self.ended or not self.was_opened(scope), "finally is after the rest"
        return node

    def was_opened(self, scope: str) -> bool:
        return scope == "" or any(path.startswith(f"{scope}/") for path in self.ended)

    def is_stopped(self, path: str) -> bool:
        """Whether a step is of the main part of a scope that was told to stop, or of anything after a forced cancel."""
        if self.forced:
            return True
        inner, node = path, self.nodes[plan_path(path)]
        while True:
            if node.is_finally:
                return False
            scope = scope_path(inner)
            if scope in self.stopped:
                return True
            if not scope:
                return False
            inner, node = scope, self.open[scope]
            inner = inner.rpartition("[")[0] if inner.endswith("]") else inner

    def note_item(self, entry: ItemEnded) -> None:
        place, scope = (entry.path, entry.index), item_path(entry.path, entry.index)
        assert place not in self.ended_items, "an item ends once"
        self.ended_items.add(place)
        self.drop_interrupted(entry.path, entry.index)
        node = self.nodes[plan_path(entry.path)]
        if node.form is None:
            assert entry.status not in FINE
            return
        self.close(scope, entry.status)
        if entry.status in (StepStatus.COMPLETED, StepStatus.PARTIAL_FAILURE):
            self.note_completed(place)

    def note_step(self, entry: StepEnded) -> None:
        path, node = entry.path, self.nodes[plan_path(entry.path)]
        assert path not in self.ended, "a step ends once"
        self.drop_interrupted(path, None)
        assert not any(other == path for other, _ in self.running), "a step ends after its calls"
        assert not any(scope == path or scope.startswith(f"{path}[") for scope in self.open if node.is_map)
        if node.form is not None and not node.is_map and path in self.open:
            self.close(path, entry.status)
        self.ended[path] = entry
        if entry.status is StepStatus.COMPLETED and node.form is None and not node.is_map:
            assert (path, None, self.chosen.get((path, None), "primary")) in self.attempts
        if entry.status in (StepStatus.COMPLETED, StepStatus.PARTIAL_FAILURE) and not node.is_map:
            self.note_completed((path, None))
        if entry.status not in (*FINE, StepStatus.CANCELLED, StepStatus.UPSTREAM_FAILED):
            assert entry.error is not None
            assert entry.reason

    def drop_interrupted(self, path: str, index: int | None) -> None:
        if (path, index) in self.again:
            del self.again[path, index]
            del self.running[path, index]

    def close(self, scope: str, status: StepStatus) -> None:
        """A scope is over: all its steps have ended, and how it ended fits how they did."""
        node = self.open.pop(scope)
        if scope in self.stopped and status in (StepStatus.FAILED, StepStatus.TIMED_OUT):
            self.failed.append(scope)
        children = {path: ended for path, ended in self.ended.items() if scope_path(path) == scope}
        assert not any(other.startswith(f"{scope}/") for other, _ in self.running)
        assert not any(other.startswith(f"{scope}/") for other in self.open)
        if children:
            assert len(children) == len(node.children), "every step of a group ends before it"
        statuses = {ended.status for ended in children.values()}
        if status is StepStatus.COMPLETED:
            assert statuses <= {StepStatus.COMPLETED, StepStatus.SKIPPED}
        if status is StepStatus.PARTIAL_FAILURE:
            assert not statuses <= {StepStatus.COMPLETED, StepStatus.SKIPPED}
        for path in [path for path in self.ended if path.startswith(f"{scope}/")]:
            del self.ended[path]

    def note_completed(self, place: Place) -> None:
        if self.nodes[plan_path(place[0])].compensation is not None and place not in self.completed:
            self.completed.append(place)

    def note_undone(self, entry: CompensationEnded) -> None:
        place = (entry.path, entry.index)
        self.drop_interrupted(*place)
        assert place in self.completed
        assert place not in self.undone, "a step is undone once"
        self.undone.append(place)
        assert entry.attempts or self.forced, "only a forced cancel leaves something as it is"

    # -- the run

    def check_result(self) -> None:
        result = self.result
        assert result is not None
        assert not self.open
        assert set(self.ended) == {node.path for node in self.graph.nodes}, "every step ends"
        statuses = {ended.status for ended in self.ended.values()}
        if result.status is RunStatus.COMPLETED:
            assert statuses <= {StepStatus.COMPLETED, StepStatus.SKIPPED}
        if result.status is RunStatus.CANCELLED:
            assert self.cancelled
        if result.status in (RunStatus.COMPLETED, RunStatus.PARTIAL_FAILURE):
            within = {done for done in self.completed for scope in self.failed if is_main_of(scope, done[0])}
            assert set(self.undone) == within, "what failed is undone, what succeeded is not"
        elif not any(self.nodes[plan_path(path)].is_finally for path, _ in self.completed) and result.culprit != "outputs":
            in_main = [node.path for node in self.graph.nodes if not node.is_finally]
            bad = {self.ended[path].status for path in in_main} - {StepStatus.COMPLETED, StepStatus.SKIPPED}
            if bad and not self.forced and ("" in self.stopped):
                assert set(self.undone) == set(self.completed), "all that completed is undone"
                last = [place for place in self.undone if "/" not in place[0]]
                assert last == [place for place in self.completed[::-1] if "/" not in place[0]], "the last first"


@laws
@given(graph=graphs(), data=st.data())
def test_every_structured_run_keeps_the_laws(graph: Graph, data: st.DataObject) -> None:
    """Nothing starts before its needs, none twice, caps held, every scope ends with its steps, and a log replays alike."""
    world = World(graph, data)

    world.play()

    world.check_result()
    fresh = Scheduler(graph)
    for records, dump in world.log:
        assert fresh.apply(records[0]).records == records  # type: ignore[arg-type]  # the first is the fact
        assert json.dumps(fresh.dump()) == dump
