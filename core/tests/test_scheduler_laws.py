"""Laws of the scheduler: what holds for every graph, every outcome and every interleaving.

Hypothesis draws a graph and then plays the world: it answers questions, ends calls, lets timers fire, asks to cancel, and
sends facts twice or too late. ``World`` keeps its own books from the records and commands alone and compares.

``TREADLE_LAWS=large`` runs twenty times as many examples.
"""

from __future__ import annotations

import json
import os

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from treadle._graph import Graph, Node
from treadle._models import (
    DECISIONS,
    FACTS,
    AttemptEnded,
    AttemptStarted,
    AwaitSignal,
    Cancel,
    CancelRequested,
    Command,
    Entry,
    ErrorInfo,
    Evaluate,
    Evaluated,
    Fact,
    Finish,
    FreeSlot,
    GiveUp,
    Issue,
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
    SignalReceived,
    SlotTaken,
    SpendLimit,
    Start,
    StepEnded,
    StepStatus,
    StintOpened,
    TakeSlot,
    TimerFired,
    WaitEnded,
    WaitStarted,
)
from treadle._scheduler import Scheduler

EXAMPLES = 10_000 if os.environ.get("TREADLE_LAWS") == "large" else 500

laws = settings(
    max_examples=EXAMPLES,
    report_multiple_bugs=False,
    deadline=None,  # the machine of a check may be slow
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],  # a long run is what we want
)

FAILED = (StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.INTERRUPTED)
DONE = (StepStatus.COMPLETED, StepStatus.SKIPPED)

# -- graphs ----------------------------------------------------------------------------------------------------------------


@st.composite
def nodes(draw: st.DrawFn, prefix: str, most: int, *, is_finally: bool) -> list[Node]:
    """A few nodes; each needs some of those before it. Shuffled: the order of declaration means nothing."""
    made: list[Node] = []
    for number in range(draw(st.integers(0, most))):
        earlier = [node.path for node in made]
        needs = tuple(draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3))) if earlier else ()
        is_wait = draw(st.sampled_from([False, False, False, True]))
        made.append(
            Node(
                path=f"{prefix}{number}",
                needs=needs,
                has_when=draw(st.sampled_from([False, False, True])),
                is_map=not is_wait and draw(st.sampled_from([False, False, True])),
                is_wait=is_wait,
                max_parallel=None if is_wait else draw(st.sampled_from([None, 1, 2])),
                max_attempts=1 if is_wait else draw(st.integers(1, 3)),
                on_error=draw(st.sampled_from([None, None, "stop", "continue"])),
                is_finally=is_finally,
                on_interrupt=draw(st.sampled_from(["rerun", "rerun", "fail"])),
                priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
                has_slots=not is_wait and draw(st.sampled_from([False, False, True])),
            )
        )
    return draw(st.permutations(made))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A graph with a main part and a part that runs finally."""
    main = draw(nodes("s", 7, is_finally=False))
    after = draw(nodes("finally/f", 3, is_finally=True))
    return Graph(
        nodes=(*main, *after),
        max_parallel=draw(st.integers(1, 4)),
        on_error=draw(st.sampled_from(["stop", "continue"])),
        max_failures=draw(st.sampled_from([None, None, 0, 1, 2])),
        has_outputs=draw(st.booleans()),
        has_slot=draw(st.sampled_from([False, False, False, True])),
    )


# -- the world -------------------------------------------------------------------------------------------------------------

Key = tuple[str, int | None]

GATE: Key = ("", None)
"""Where the run itself stands in line."""


@attrs.define
class Watch:
    """What the world knows of a step, from records and commands alone."""

    node: Node
    when: bool | None = None
    count: int | None = None  # items; None until known
    started: set[int | None] = attrs.field(factory=set)
    attempts: dict[int | None, int] = attrs.field(factory=dict)
    returned: set[int | None] = attrs.field(factory=set)  # items whose wait is over and that did not start again yet
    has_failed_item: bool = False
    how: WaitEnded | None = None
    put_off: dict[int | None, int] = attrs.field(factory=dict)  # item -> attempts in which the call was not made
    refused: set[int | None] = attrs.field(factory=set)  # items whose slot could not be told
    given_up: int = 0  # attempts of the stint before that were not made again
    ended: StepEnded | None = None


class World:
    """Plays the world against a scheduler and holds every law after every turn.

    Args:
        graph: What runs.
        draw: Hypothesis' hand.
    """

    def __init__(self, graph: Graph, draw: st.DataObject) -> None:
        self.graph, self.data = graph, draw
        self.scheduler = Scheduler(graph)
        self.shadow: Scheduler | None = None  # loaded from a dump in mid-run, fed the same facts
        self.now = 1_000.0
        self.watches = {node.path: Watch(node) for node in graph.nodes}
        self.questions: list[Evaluate] = []
        self.running: dict[Key, int] = {}
        self.allowances: dict[Key, tuple[SpendLimit, ...]] = {}
        self.told_to_stop: set[tuple[str, int | None, int]] = set()
        self.timers: dict[str, float] = {}
        self.ended_attempts: list[AttemptEnded] = []
        self.fired: list[TimerFired] = []
        self.answered: list[Evaluated] = []
        self.awaited: list[AwaitSignal] = []
        self.told_waits: dict[str, dict[str, object]] = {}  # path -> what the scheduler was told when it asked
        self.waiting: dict[str, dict[str, object]] = {}  # path -> the same, while it waits; in order
        self.letters: dict[str, list[tuple[str, object]]] = {}  # name -> signals that are there and not consumed, in order
        self.posted: dict[str, SignalReceived] = {}  # timer -> signal for later
        self.sent: list[SignalReceived] = []
        self.consumed: list[str] = []
        self.line: dict[Key, TakeSlot] = {}  # what stands in line for a slot
        self.slots: set[Key] = set()  # what has one
        self.held: dict[Key, int] = {}  # calls of the stint before that are made again once they have their slot
        self.is_begun = False
        self.given: list[SlotTaken] = []
        self.finishes = 0
        self.cancelled = False
        self.forced = False
        self.stopping: dict[bool, bool] = {False: False, True: False}  # phase (is it finally?) -> told to stop
        self.stops: list[RunStopping] = []
        self.result: RunEnded | None = None
        self.log: list[tuple[tuple[Entry, ...], str, list[str]]] = []  # per turn: records, dump, outstanding
        self.stint = 0
        self.again: dict[Key, int] = {}  # calls of the stint before that are to be made again
        self.interrupted: set[Key] = set()  # those that are not

    # -- playing

    def play(self, *, budget: int = 250) -> None:
        """Drive the run to its end; nuisance facts stop after a while, the rest is finite by itself."""
        self.apply(RunCreated(self.now, "run", {"name": "w"}, "hash", {}, max_parallel=self.pick([None, None, 1, 2])))
        if self.chance(20):
            self.cancelled = True
            self.apply(CancelRequested(self.now, "early", False))
        self.stint = 1
        self.apply(StintOpened(self.now, 1))
        nuisances = 8
        while not self.finishes:
            assert budget, "the run does not end"
            budget -= 1
            self.now += self.pick([0.0, 0.0, 1.0, 7.5])
            if nuisances and self.chance(6):
                nuisances -= 1
                self.nuisance()
            else:
                self.progress()
            if self.chance(3):
                self.shadow = Scheduler.load(self.graph, json.loads(json.dumps(self.scheduler.dump())))
        for _ in range(2):
            self.nuisance()

    def pick(self, options: list[object]) -> object:
        return self.data.draw(st.sampled_from(options))

    def chance(self, one_in: int) -> bool:
        return self.data.draw(st.integers(1, one_in)) == one_in

    def progress(self) -> None:
        """Answer one of the things that were asked for."""
        options: list[tuple[str, object]] = [("question", question) for question in self.questions]
        options += [("call", key) for key in self.running]
        options += [("timer", timer) for timer in self.timers]
        options += [("slot", key) for key in self.line]
        options += [("signal", command.name) for command in self.awaited if command.path in self.waiting]
        assert options, "the scheduler waits for nothing and has not ended"
        kind, what = self.pick(options)
        if kind == "question":
            self.answer(what)
        elif kind == "call":
            self.end_call(what)
        elif kind == "signal":
            self.send(what)
        elif kind == "slot":
            self.give_slot(what)
        else:
            self.now = max(self.now, self.timers[what])
            self.fire(what)

    def answer(self, question: Evaluate) -> None:
        error = ErrorInfo("ExpressionError", "no such key") if self.chance(8) else None
        value: object = None
        if error is None:
            value = {
                "when": self.data.draw(st.booleans()),
                "foreach": self.data.draw(st.integers(0, 4)),
                "wait": self.a_wait(),
                "outputs": {"x": 1},
            }[question.what]
        self.questions.remove(question)
        fact = Evaluated(self.now, question.path, question.what, value, error=error)
        self.answered.append(fact)
        if question.what == "when" and error is None:
            self.watches[question.path].when = bool(value)
        if question.what == "wait" and error is None:
            self.told_waits[question.path] = value
        self.apply(fact)

    def a_wait(self) -> dict[str, object]:
        due = {"due": self.now + self.pick([0.0, 5.0, 600.0])}
        signal = {"signal": self.pick(["a", "b"])}
        timeout = {
            **due,
            **self.pick([{"on_timeout": "fail"}, {"on_timeout": "skip"}, {"on_timeout": "continue", "default": 7}]),
        }
        return self.pick([due, signal, {**signal, **timeout}, {**signal, "on_reject": "fail"}])

    def send(self, name: str, *, again: SignalReceived | None = None) -> None:
        """A signal comes: at once or for later, now and then one that was sent before."""
        due = self.pick([None, None, None, self.now, self.now + 60.0])
        payload = self.pick([None, {"approved": True}, {"approved": False}])
        fact = again or SignalReceived(self.now, name, payload, f"id{len(self.sent)}", len(self.sent) + 1, due)
        if again is not None:
            self.apply_evidence(attrs.evolve(again, at=self.now))
            return
        self.sent.append(fact)
        if not self.result:
            if fact.due is not None and fact.due > self.now:
                self.posted[f"signal::{fact.signal_id}"] = fact
            else:
                self.letters.setdefault(name, []).append((fact.signal_id, payload))
        self.apply(fact)

    def give_slot(self, key: Key) -> None:
        path, index = key
        del self.line[key]
        if path and self.chance(8):
            error = ErrorInfo("ExpressionError", "no such group")
            self.watches[path].given_up += self.held.pop(key, None) is not None
            self.watches[path].refused.add(index)
            self.apply(Evaluated(self.now, path, "slot", index=index, error=error))
            return
        self.slots.add(key)
        self.is_begun |= key == GATE
        self.given.append(SlotTaken(self.now, path, index))
        self.apply(self.given[-1])

    def end_call(self, key: Key) -> None:
        attempt = self.running[key]
        issues = (Issue("is missing", "$.a"),)
        error = ErrorInfo("Boom", f"{key} {attempt}", issues=issues)
        how = self.pick(
            ["completed", "completed", "failed", "again", "again", "put off", "timed_out", "cancelled", "unrenderable"]
        )
        if how == "unrenderable":
            fact: Fact = Evaluated(self.now, key[0], "inputs", index=key[1], error=error)
        else:
            outcome = {
                "completed": Outcome("completed", {"ok": True}),
                "failed": Outcome("failed", error=error, retry=GiveUp("hopeless")),
                "again": Outcome("failed", error=error, retry=RetryAfter(self.pick([0.0, 2.0, 60.0]), "may help")),
                "put off": Outcome("failed", error=error, retry=RetryAfter(self.pick([0.0, 5.0]), "later", is_counted=False)),
                "timed_out": Outcome("timed_out", error=error, retry=self.pick([None, RetryAfter(1.0)])),
                "cancelled": Outcome("cancelled", error=error),
            }[how]
            fact = AttemptEnded(self.now, key[0], key[1], attempt, outcome)
            self.ended_attempts.append(fact)
        del self.running[key]
        self.told_to_stop.discard((*key, attempt))
        watch = self.watches[key[0]]
        if how == "put off":
            watch.put_off[key[1]] = watch.put_off.get(key[1], 0) + 1
        self.apply(fact)
        if how == "put off" and not (self.is_stopped(watch.node) or watch.has_failed_item or watch.ended):
            assert any(timer.startswith(f"retry:{key[0]}:") for timer in self.timers), "what was put off is made later"

    def fire(self, timer_id: str) -> None:
        del self.timers[timer_id]
        if timer_id.startswith("retry:"):
            _, path, item, _ = timer_id.split(":")
            watch = self.watches[path]
            if not watch.ended:
                watch.returned.add(int(item) if item else None)
        letter = self.posted.pop(timer_id, None)
        if letter is not None and not self.result:
            self.letters.setdefault(letter.name, []).append((letter.signal_id, letter.payload))
        fact = TimerFired(self.now, timer_id)
        self.fired.append(fact)
        self.apply(fact)

    def nuisance(self) -> None:
        """Something unasked: a cancel, a new stint, a signal, or a fact that comes twice or too late."""
        options = ["signal", "stint", "cancel", "force", "unknown timer", "unasked outputs"]
        options += ["late attempt", "late attempt"] * bool(self.ended_attempts)
        options += ["late timer"] * bool(self.fired)
        options += ["late slot"] * bool(self.given)
        options += ["late answer"] * bool(self.answered)
        kind = self.pick(options)
        if kind in ("cancel", "force"):
            self.cancel(is_forced=kind == "force")
        elif kind == "stint":
            self.open_stint()
        elif kind == "signal":
            self.send(self.pick(["a", "b", "hello"]), again=self.pick([None, *self.sent]))
        elif kind == "unknown timer":
            self.apply_evidence(TimerFired(self.now, "retry:nobody::1"))
        elif kind == "unasked outputs":
            if not any(question.what == "outputs" for question in self.questions):
                self.apply_evidence(Evaluated(self.now, "", "outputs", {"x": 2}))
        elif kind == "late attempt":
            outcome = self.pick([Outcome("completed", "late"), Outcome("failed", retry=RetryAfter(1.0))])
            # The nastiest: an earlier attempt of an item that runs again.
            nasty = [ended for ended in self.ended_attempts if (ended.path, ended.index) in self.running]
            again = attrs.evolve(self.pick(nasty or self.ended_attempts), at=self.now, outcome=outcome)
            if self.running.get((again.path, again.index)) != again.attempt:
                self.apply_evidence(again)
        elif kind == "late slot":
            again = attrs.evolve(self.pick(self.given), at=self.now)
            if (again.path, again.index) not in self.line:
                self.apply_evidence(again)
        elif kind == "late timer":
            self.apply_evidence(attrs.evolve(self.pick(self.fired), at=self.now))
        else:
            again = attrs.evolve(self.pick(self.answered), at=self.now)
            if not any((question.path, question.what) == (again.path, again.what) for question in self.questions):
                self.apply_evidence(again)

    def open_stint(self) -> None:
        """The process went away: what is open is asked for again, once, and what must not run twice ends."""
        self.stint += 1
        if self.stint > 1:
            self.timers = {}
            self.awaited = []
            self.line, self.slots = {}, set()
            self.again = {key: n for key, n in self.running.items() if self.watches[key[0]].node.on_interrupt == "rerun"}
            for key in set(self.running) - set(self.again):
                self.told_to_stop.discard((*key, self.running.pop(key)))
                self.interrupted.add(key)
            for key, attempt in list(self.again.items()):
                needs_slot = self.graph.has_slot or self.watches[key[0]].node.has_slots
                if needs_slot and (*key, attempt) not in self.told_to_stop:
                    self.held[key] = self.again.pop(key)
                    del self.running[key]
        self.apply(StintOpened(self.now, self.stint))

        assert not self.again, "every call that may have been running is made again"
        assert not self.interrupted, "what must not run twice has ended"

    def cancel(self, *, is_forced: bool) -> None:
        is_over = self.result is not None or any(question.what == "outputs" for question in self.questions)
        is_heard = not is_over and (is_forced or not self.in_finally())
        if is_heard and GATE in self.line and not self.is_begun:
            self.forced = self.is_begun = True  # it never began, and ends at once
        self.cancelled |= is_heard
        self.forced |= is_heard and is_forced
        commands = self.apply(CancelRequested(self.now, "please", is_forced))
        if is_heard and not self.result and (self.forced or not self.in_finally()):
            told = {(c.path, c.index, c.attempt) for c in commands if isinstance(c, Cancel)}
            assert told == {(*key, attempt) for key, attempt in self.running.items()}, "a cancel reaches every call"

    # -- laws of a turn

    def apply_evidence(self, fact: Fact) -> None:
        """A fact that comes too late or concerns nobody is recorded and changes nothing."""
        before = json.dumps({**self.scheduler.dump(), "at": None})

        commands = self.apply(fact)

        assert not commands
        assert self.log[-1][0] == (fact,)
        assert json.dumps({**self.scheduler.dump(), "at": None}) == before

    def apply(self, fact: Fact) -> tuple[Command, ...]:
        turn = self.scheduler.apply(fact)
        if self.shadow is not None:
            assert self.shadow.apply(fact) == turn, "a loaded scheduler goes on like the one that was dumped"
        assert turn.records[0] is fact
        assert all(isinstance(entry, DECISIONS) for entry in turn.records[1:])
        assert all(entry.at == fact.at for entry in turn.records), "decisions carry the time of their fact"
        for entry in turn.records[1:]:
            self.note(entry)
        for command in turn.commands:
            self.take(command)
        self.check_outstanding()
        self.check_nothing_idles()
        self.check_waits()
        if self.shadow is not None:
            assert self.shadow.dump() == self.scheduler.dump()
            assert self.shadow.outstanding() == self.scheduler.outstanding()
        dump = self.scheduler.dump()
        assert json.loads(json.dumps(dump)) == json.loads(json.dumps(Scheduler.load(self.graph, dump).dump()))
        self.log.append((turn.records, json.dumps(dump), [repr(command) for command in self.scheduler.outstanding()]))
        return turn.commands

    def note(self, entry: Entry) -> None:
        assert self.result is None, "nothing is decided after the end"
        if isinstance(entry, AttemptStarted):
            self.note_attempt(entry)
        elif isinstance(entry, WaitStarted):
            self.note_wait(entry)
        elif isinstance(entry, WaitEnded):
            self.note_wait_end(entry)
        elif isinstance(entry, MapStarted):
            assert self.watches[entry.path].node.is_map
            self.watches[entry.path].count = entry.count
        elif isinstance(entry, RetryScheduled):
            watch = self.watches[entry.path]
            node = watch.node
            assert entry.attempt < node.max_attempts + watch.put_off.get(entry.index, 0) == entry.max_attempts
            assert entry.due >= entry.at
            assert not self.is_stopped(node), "pending retries end with the run"
        elif isinstance(entry, ItemEnded):
            watch = self.watches[entry.path]
            watch.given_up += self.held.pop((entry.path, entry.index), None) is not None
            watch.has_failed_item = True
            watch.returned.discard(entry.index)
            if entry.status is StepStatus.INTERRUPTED:
                self.interrupted.remove((entry.path, entry.index))
            assert entry.status in (*FAILED, StepStatus.CANCELLED)
            assert entry.reason
        elif isinstance(entry, StepEnded):
            if entry.status is StepStatus.INTERRUPTED:
                self.interrupted.remove((entry.path, None))
            self.note_end(entry)
        elif isinstance(entry, RunStopping):
            self.stops.append(entry)
            self.stopping[not entry.culprit and self.in_finally()] = True  # finally never stops by a failure
        elif isinstance(entry, RunEnded):
            self.result = entry

    def note_attempt(self, entry: AttemptStarted) -> None:
        watch = self.watches[entry.path]
        node, index = watch.node, entry.index
        assert entry.stint == self.stint
        self.allowances[entry.path, index] = entry.allowance
        if self.again.get((entry.path, index)) == entry.attempt:
            del self.again[entry.path, index]
            assert self.running[entry.path, index] == entry.attempt
            return
        if node.has_slots:
            assert (entry.path, index) in self.slots, "no call without its slot"
        if self.graph.has_slot:
            assert GATE in self.slots, "no call of a run without its slot"
        if self.held.get((entry.path, index)) == entry.attempt:
            self.running[entry.path, index] = self.held.pop((entry.path, index))
            return
        assert watch.ended is None, "an ended step does not start"
        assert all(self.watches[need].ended for need in node.needs), "no step starts before its needs are done"
        assert not self.is_stopped(node), "nothing new starts after the run was told to stop"
        if node.is_finally:
            assert self.main_is_over(), "finally is after the rest"
        if node.has_when:
            assert watch.when, "only a true condition lets a step start"
        if node.is_map:
            assert index is not None
            assert watch.count is not None
            assert 0 <= index < watch.count
        else:
            assert index is None
        assert entry.attempt == watch.attempts.get(index, 0) + 1, "attempts are counted without gap and none is made twice"
        assert entry.attempt == 1 or index in watch.returned, "a retry waits for its timer"
        assert entry.attempt - watch.put_off.get(index, 0) <= node.max_attempts, "what was put off does not count"
        watch.returned.discard(index)
        watch.started.add(index)
        watch.attempts[index] = entry.attempt
        assert (entry.path, index) not in self.running
        self.running[entry.path, index] = entry.attempt
        assert len(self.running) <= self.most_parallel, "the run's cap holds"
        if node.max_parallel is not None:
            assert sum(path == entry.path for path, _ in self.running) <= node.max_parallel, "the foreach's cap holds"

    def note_wait(self, entry: WaitStarted) -> None:
        watch = self.watches[entry.path]
        assert watch.node.is_wait
        assert watch.ended is None
        assert not self.is_stopped(watch.node)
        told = self.told_waits[entry.path]
        assert (entry.signal, entry.due) == (told.get("signal", ""), told.get("due"))
        assert entry.path not in self.waiting
        self.waiting[entry.path] = told

    def note_wait_end(self, entry: WaitEnded) -> None:
        told = self.waiting.pop(entry.path)
        self.watches[entry.path].how = entry
        if entry.how == "signal":
            letters = self.letters[told["signal"]]
            assert letters.pop(0) == (entry.signal_id, entry.output), "signals are consumed in the order in which they came"
            assert entry.signal_id not in self.consumed, "each signal is consumed once"
            self.consumed.append(entry.signal_id)
            earlier = [path for path, other in self.waiting.items() if other.get("signal") == told["signal"]]
            places = list(self.told_waits)
            assert all(places.index(entry.path) < places.index(path) for path in earlier), "who waits the longest gets it"
        else:
            assert entry.at >= told["due"], "no wait is over before its time"
            assert (entry.how == "timeout") == ("signal" in told)

    def check_waits(self) -> None:
        """No signal lies about that a step waits for, and nothing waits after its end."""
        if self.result is None:
            for told in self.waiting.values():
                assert not self.letters.get(told.get("signal", "")), "a signal is delivered as soon as somebody waits for it"
            assert all(not self.watches[path].ended for path in self.waiting)

    def note_end(self, entry: StepEnded) -> None:
        self.waiting.pop(entry.path, None)
        watch = self.watches[entry.path]
        node = watch.node
        assert watch.ended is None, "a step ends once"
        watch.ended = entry
        assert not any(path == entry.path for path, _ in self.running), "a step ends after its calls"
        given_up = [key for key in self.held if key[0] == entry.path]
        for key in given_up:
            del self.held[key]  # it stands as if it had not been begun again
        assert entry.attempts + len(given_up) + watch.given_up == sum(watch.attempts.values())
        assert (entry.status is StepStatus.UPSTREAM_FAILED) == bool(entry.culprit)
        needs = [self.watches[need] for need in node.needs]
        if entry.status is StepStatus.UPSTREAM_FAILED:
            assert not watch.started
            self.check_culprit(node, entry.culprit)
        elif node.is_wait and watch.how is not None:
            self.check_wait_end(entry, watch.how, self.told_waits[entry.path])
        elif entry.status is StepStatus.SKIPPED:
            assert watch.when is not True
        elif entry.status is StepStatus.COMPLETED:
            assert not node.is_wait
            assert watch.started == (set(range(watch.count or 0)) if node.is_map else {None})
            assert not watch.has_failed_item
        elif entry.status is StepStatus.CANCELLED:
            assert self.is_stopped(node), "only a run that stops cancels steps"
            assert entry.reason
        else:
            assert entry.status in FAILED
            assert entry.error is not None
            assert entry.reason
        if entry.status in (*DONE, *FAILED):
            assert all(need.ended and (need.ended.status in DONE or need.node.on_error == "continue") for need in needs)

    def check_wait_end(self, entry: StepEnded, how: WaitEnded, told: dict[str, object]) -> None:
        if how.how == "timeout":
            expected = {"fail": StepStatus.TIMED_OUT, "skip": StepStatus.SKIPPED, "continue": StepStatus.COMPLETED}
            assert entry.status is expected[told["on_timeout"]]
            assert how.output == told.get("default")
        elif how.output == {"approved": False} and told.get("on_reject") == "fail":
            assert entry.status is StepStatus.FAILED
        else:
            assert entry.status is StepStatus.COMPLETED

    def check_culprit(self, node: Node, culprit: str) -> None:
        """The culprit is a failed step that this one hangs on, through steps that do not tolerate failure."""
        seen, ahead = set(), list(node.needs)
        while ahead:
            path = ahead.pop()
            if path not in seen and self.watches[path].node.on_error != "continue":
                seen.add(path)
                ahead += self.watches[path].node.needs
        assert culprit in seen
        ended = self.watches[culprit].ended
        # While the run is being stopped the culprit's own record comes first as well.
        assert ended is not None
        assert ended.status in FAILED, f"a step that {ended.status.value} is nobody's culprit"

    def take(self, command: Command) -> None:
        if isinstance(command, Evaluate):
            assert command not in self.questions
            if command.path:
                watch = self.watches[command.path]
                assert all(self.watches[need].ended for need in watch.node.needs), "nothing is asked before its needs are done"
            self.questions.append(command)
        elif isinstance(command, Start):
            assert self.running[command.path, command.index] == command.attempt, "a start is recorded"
        elif isinstance(command, AwaitSignal):
            assert self.waiting[command.path]["signal"] == command.name
            assert command not in self.awaited
            self.awaited.append(command)
        elif isinstance(command, TakeSlot):
            key = (command.path, command.index)
            assert key not in self.line
            assert key not in self.slots
            assert key not in self.running, "a call that runs asks for nothing"
            self.line[key] = command
        elif isinstance(command, FreeSlot):
            key = (command.path, command.index)
            assert key in self.line or key in self.slots or self.stint > 1, "only what was asked for is given back"
            self.line.pop(key, None)
            self.slots.discard(key)
            assert key not in self.running, "a call that runs keeps its slot"
        elif isinstance(command, SetTimer):
            assert command.timer_id not in self.timers
            self.timers[command.timer_id] = command.due
        elif isinstance(command, Cancel):
            assert self.running[command.path, command.index] == command.attempt
            self.told_to_stop.add((command.path, command.index, command.attempt))
        else:
            assert isinstance(command, Finish)
            self.finishes += 1
            assert self.finishes == 1, "a run finishes once"
            assert self.result is not None
            assert command.status is self.result.status

    # -- books

    @property
    def most_parallel(self) -> int:
        created = self.log[0][0][0] if self.log else None
        return getattr(created, "max_parallel", None) or self.graph.max_parallel

    def in_finally(self) -> bool:
        return self.stint > 0 and self.main_is_over() and (self.is_begun or not self.graph.has_slot)

    def main_is_over(self) -> bool:
        return all(watch.ended for watch in self.watches.values() if not watch.node.is_finally)

    def is_stopped(self, node: Node) -> bool:
        return self.stopping[node.is_finally]

    def check_outstanding(self) -> None:
        """What the scheduler calls outstanding is what it asked for and nobody answered."""
        for path in [path for path, watch in self.watches.items() if watch.ended]:
            self.questions = [question for question in self.questions if question.path != path]
            self.timers = {timer: due for timer, due in self.timers.items() if timer.split(":")[1] != path}
        commands = self.scheduler.outstanding()
        if self.result is not None:
            assert commands == (Finish(self.result.status),)
            assert not self.running
            assert not self.questions
            assert self.slots | self.line.keys() <= {GATE}, "all slots were given back; the run's own goes with it"
            return
        alive = {timer for timer in self.timers if any(isinstance(c, SetTimer) and c.timer_id == timer for c in commands)}
        for timer in set(self.timers) - alive:  # given up: only when the step was stopped
            watch = self.watches[timer.split(":")[1]]
            assert self.is_stopped(watch.node) or watch.has_failed_item or watch.how is not None
            del self.timers[timer]
        expected: list[Command] = [
            *self.questions,
            *(Start(*key, attempt, allowance=self.allowances[key]) for key, attempt in self.running.items()),
            *(SetTimer(timer, due) for timer, due in self.timers.items()),
            *self.line.values(),
            *(AwaitSignal(path, told["signal"]) for path, told in self.waiting.items() if "signal" in told),
        ]
        told = {(c.path, c.index, c.attempt) for c in commands if isinstance(c, Cancel)}
        assert told == self.told_to_stop
        assert sorted(repr(c) for c in commands if not isinstance(c, Cancel)) == sorted(map(repr, expected))

    def check_nothing_idles(self) -> None:
        """Whenever there is room, nothing that could run waits."""
        if self.result is not None or len(self.running) >= self.most_parallel or not self.stint or GATE in self.line:
            return
        for watch in self.watches.values():
            node = watch.node
            in_flight = sum(path == node.path for path, _ in self.running)
            is_full = node.max_parallel is not None and in_flight >= node.max_parallel
            asked = {index for path, index in {*self.line, *self.slots} if path == node.path}
            if node.has_slots:
                in_line = sum(path == node.path for path, _ in self.line)
                is_full = in_flight + in_line >= (node.max_parallel or self.most_parallel)
            if watch.ended or is_full or self.is_stopped(node) or not self.is_released(watch):
                continue
            if node.is_map and watch.has_failed_item and (node.on_error or self.graph.on_error) == "stop":
                continue
            if node.is_wait:
                assert node.path in self.told_waits or any(question.path == node.path for question in self.questions)
                continue
            assert watch.returned <= asked, f"{node.path} may try again and there is room"
            assert len(watch.started | watch.refused | asked) == (watch.count if node.is_map else 1), (
                f"{node.path} may start and there is room"
            )

    def is_released(self, watch: Watch) -> bool:
        node = watch.node
        if node.is_finally and not self.main_is_over():
            return False
        if not all(self.watches[need].ended for need in node.needs):
            return False
        if node.has_when and not watch.when:
            return False
        return not node.is_map or watch.count is not None

    # -- laws of a run

    def check_result(self) -> None:
        """How a run ended fits how its steps ended."""
        result = self.result
        assert result is not None
        statuses = {path: watch.ended.status for path, watch in self.watches.items() if watch.ended}
        assert len(statuses) == len(self.watches), "every step ends"
        failed = {path for path, status in statuses.items() if status in FAILED}
        if result.status is RunStatus.COMPLETED:
            assert set(statuses.values()) <= set(DONE)
            assert not result.reason
            assert not result.culprit
            assert result.error is None
        elif result.status is RunStatus.PARTIAL_FAILURE:
            assert result.culprit in failed
        elif result.status is RunStatus.CANCELLED:
            assert self.cancelled
            assert not result.culprit
            assert result.reason in ("please", "early")
        else:
            assert result.status is RunStatus.FAILED
            assert result.culprit in failed | {"outputs"}
        if result.culprit:
            assert result.error is not None
            assert result.reason
            ended = self.watches[result.culprit].ended if result.culprit in self.watches else None
            assert ended is None or ended.error == result.error, "the root cause is the culprit's own error"
        if result.outputs:
            assert result.status in (RunStatus.COMPLETED, RunStatus.PARTIAL_FAILURE)
        self.check_stopping(failed)
        self.check_finally()

    def check_stopping(self, failed: set[str]) -> None:
        """The run stops itself exactly when a failure says so."""
        main = [watch for watch in self.watches.values() if not watch.node.is_finally]
        counted = [w.node for w in main if w.node.path in failed and w.node.on_error != "continue"]
        reasons = [any(node.on_error == "stop" for node in counted)]
        if self.graph.max_failures is not None:
            reasons.append(len(counted) > self.graph.max_failures)
        else:
            reasons.append(bool(counted) and self.graph.on_error == "stop")
        if not self.cancelled:
            assert bool(self.stops) == any(reasons)
            assert len(self.stops) == any(reasons)
        if any(reasons) and not self.cancelled:
            assert self.result is not None
            assert self.result.status is RunStatus.FAILED
            assert self.stops[0].culprit == self.result.culprit

    def check_finally(self) -> None:
        """Steps of ``finally`` run whatever happened before, unless the cancel was forced."""
        for watch in self.watches.values():
            if watch.node.is_finally and watch.ended and watch.ended.status is StepStatus.CANCELLED:
                assert self.forced


def replay(graph: Graph, world: World) -> None:
    """A fresh scheduler, given the facts of a log, is after each turn in the state that was, and decides the same."""
    fresh = Scheduler(graph)
    for records, dump, outstanding in world.log:
        fact = records[0]
        assert isinstance(fact, FACTS)
        assert fresh.apply(fact).records == records
        assert json.dumps(fresh.dump()) == dump
        assert [repr(command) for command in fresh.outstanding()] == outstanding


@laws
@given(graph=graphs(), data=st.data())
def test_every_run_keeps_the_laws(graph: Graph, data: st.DataObject) -> None:
    """No step before its needs, none twice, caps held, nothing idles, one end, and a log replays to the same state (S3-12)."""
    world = World(graph, data)

    world.play()

    world.check_result()
    replay(graph, world)
