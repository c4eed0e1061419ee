"""The changing side of a run: its steps, and the scopes in which they start and stop together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, cast

import attrs

from treadle._graph import Node, OnInterrupt, Rules
from treadle._models import ErrorInfo, Issue, Json, StepStatus
from treadle._paths import item_path

Stage = Literal["pending", "when", "foreach", "wait", "ready", "active", "ended"]
Phase = Literal["new", "inputs", "choose", "main", "compensation", "finally", "outputs", "ended"]

NOTHING, TOLERATED, IN_FINALLY, FATAL = range(4)
"""How grave a failure is for its scope: it goes on, its clean-up failed, or it stops."""


@attrs.frozen
class Cause:
    """Why a scope does not simply complete: the gravest failure so far, the first among equals."""

    gravity: int = NOTHING
    reason: str = ""
    culprit: str = ""
    error: ErrorInfo | None = None
    is_timeout: bool = False


# Most steps never retry and need no slot: they share containers that are empty and stay so.
NOTHING_HELD = cast("dict[int | None, int]", MappingProxyType[int | None, int]({}))
NOTHING_BACK = cast("deque[tuple[int | None, int]]", ())
NO_SLOTS = cast("set[int | None]", frozenset[int | None]())


class Step:
    """The changing side of a node. A plain step is handled as a map of one item whose index is None."""

    __slots__ = (
        "asking",
        "attempts",
        "blocked_by",
        "blocks",
        "cached_items",
        "count",
        "cursor",
        "dependents",
        "dropped",
        "error",
        "failed_items",
        "in_flight",
        "is_queued",
        "is_stopped",
        "is_undo",
        "node",
        "partial_items",
        "path",
        "put_off",
        "retrying",
        "returned",
        "scope",
        "scopes",
        "slots",
        "stage",
        "status",
        "variants",
        "waiting",
    )

    def __init__(self, node: Node, scope: Scope, path: str) -> None:
        self.node, self.scope, self.path = node, scope, path
        self.dependents: list[Step] = []
        self.stage: Stage = "pending"
        self.status = StepStatus.PENDING
        self.waiting = len(node.needs)
        self.blocked_by = ""
        self.blocks = 0  # needs that did not complete
        self.count = 1  # items in all
        self.cursor = 0  # items handed out so far
        self.in_flight = 0  # calls that may be running, or starts of a group that are not over
        self.retrying = NOTHING_HELD  # item -> attempt that failed, while its timer runs
        self.returned = NOTHING_BACK  # (item, next attempt) whose wait is over
        self.put_off: dict[int | None, int] | None = None  # item -> attempts in which the call was not made
        self.variants: dict[int | None, int] | None = None  # item -> fallback that it has come to, from 1
        self.scopes: dict[int | None, Scope] | None = None  # item -> its start, of a group
        self.asking = {} if node.has_slots else NOTHING_HELD  # item -> attempt that stands in line for a slot
        self.slots: set[int | None] = set() if node.has_slots else NO_SLOTS  # items that have theirs
        self.attempts = 0
        self.failed_items = 0
        self.cached_items = 0
        self.partial_items = 0
        self.dropped = 0  # items whose retry was given up because the step was stopped
        self.is_stopped = False  # hands out no more items
        self.is_queued = False
        self.is_undo = False  # it undoes a step that completed
        self.error: ErrorInfo | None = None

    def put_back(self, index: int | None, attempt: int, *, is_first: bool = False) -> None:
        """An item may start again, or has all that it needs to start."""
        if not self.returned:
            self.returned = deque()
        if is_first:
            self.returned.appendleft((index, attempt))
        else:
            self.returned.append((index, attempt))

    def note_retry(self, index: int | None, attempt: int) -> None:
        """An item waits for its next attempt."""
        if not self.retrying:
            self.retrying = {}
        self.retrying[index] = attempt

    def forget_waiting(self) -> None:
        """What waits to start again does not any more."""
        self.retrying, self.returned = NOTHING_HELD, NOTHING_BACK

    @property
    def has_work(self) -> bool:
        return bool(self.returned) or (self.cursor < self.count and not self.is_stopped)

    @property
    def is_drained(self) -> bool:
        return not (self.in_flight or self.retrying or self.asking or self.has_work)

    @property
    def is_blocked(self) -> bool:
        """Whether what its needs came to keeps it from starting."""
        if not self.blocked_by or self.node.needs_rule == "all_done":
            return False
        return self.node.needs_rule == "all_succeeded" or self.blocks >= len(self.node.needs)

    def variant(self, index: int | None) -> str:
        """Which of the step's executors an item has come to."""
        if self.is_undo:
            return "compensation"
        number = self.variants.get(index, 0) if self.variants else 0
        return f"fallback {number}" if number else "primary"

    def note_put_off(self, index: int | None) -> None:
        """An attempt of an item does not count."""
        if self.put_off is None:
            self.put_off = {}
        self.put_off[index] = self.put_off.get(index, 0) + 1

    def most_attempts(self, index: int | None) -> int:
        """The number of the last attempt there may be of what the item has come to."""
        most = self.max_attempts(index)
        return most + self.put_off.get(index, 0) if self.put_off else most

    def max_attempts(self, index: int | None) -> int:
        """How many times what the item has come to may be made."""
        if self.is_undo and self.node.compensation is not None:
            return self.node.compensation.max_attempts
        number = self.variants.get(index, 0) if self.variants else 0
        return self.node.fallbacks[number - 1].max_attempts if number else self.node.max_attempts

    def on_interrupt(self, index: int | None) -> OnInterrupt:
        """What a new stint does with a call of the item."""
        if self.is_undo and self.node.compensation is not None:
            return self.node.compensation.on_interrupt
        number = self.variants.get(index, 0) if self.variants else 0
        return self.node.fallbacks[number - 1].on_interrupt if number else self.node.on_interrupt

    @property
    def tolerance(self) -> int:
        """How many of its items may fail."""
        allowed = self.node.max_failures
        if isinstance(allowed, float):
            return int(allowed * self.count / 100)
        return allowed or 0


class Scope:
    """Steps that start and stop together: those of the run, or of one start of a group."""

    __slots__ = (
        "capped",
        "cause",
        "failures",
        "has_lost",
        "index",
        "is_cancelled",
        "main_status",
        "open_finally",
        "open_main",
        "owner",
        "parent",
        "parked",
        "path",
        "phase",
        "rules",
        "running",
        "steps",
        "stopping",
        "taken",
    )

    def __init__(self, rules: Rules, owner: Step | None = None, index: int | None = None) -> None:
        self.rules, self.owner, self.index = rules, owner, index
        self.parent: Scope | None = None
        self.path = ""
        if owner is not None:
            self.parent, self.path = owner.scope, item_path(owner.path, index)
        self.phase: Phase = "new"
        self.steps: list[Step] = []
        self.open_main = self.open_finally = 0  # steps that have not ended
        self.failures = 0
        self.stopping = ""  # why nothing new starts in the main phase
        self.is_cancelled = False  # what runs in this phase was told to stop
        self.has_lost = False  # a step of it was cancelled
        self.cause = Cause()
        self.main_status = ""  # how it stood when its main phase was over
        self.taken: str | None = None  # the branch that was chosen
        self.running = 0  # calls at work in it and in the groups of it; counted only under a cap
        self.parked: deque[Step] = deque()  # ready, but the cap is reached
        outer = self.parent.capped if self.parent is not None else None
        self.capped: Scope | None = self if owner is not None and rules.max_parallel is not None else outer

    def close(self) -> None:
        """It is over: let go of its steps, which hold it as well."""
        self.steps, self.capped = [], None

    def blame(self, cause: Cause) -> None:
        if cause.gravity > self.cause.gravity:
            self.cause = cause

    @property
    def in_finally(self) -> bool:
        return self.phase == "finally"

    @property
    def caps(self) -> Iterable[Scope]:
        """The groups around its steps that have a cap of their own, from the inside out."""
        scope = self.capped
        while scope is not None:
            yield scope
            scope = scope.parent.capped if scope.parent is not None else None

    def is_within(self, other: Scope) -> bool:
        """Whether it is ``other``, or in one of its groups."""
        scope: Scope | None = self
        while scope is not None and scope is not other:
            scope = scope.parent
        return scope is not None

    def open_steps(self, nodes: Iterable[Node], known: dict[str, Step]) -> None:
        """Make the steps of the scope, and enter them under their paths."""
        cut = len(self.owner.node.path) if self.owner is not None else 0
        local: dict[str, Step] = {}
        for node in nodes:
            path = node.path if self.owner is None else self.path + node.path[cut:]
            local[node.path] = known[path] = step = Step(node, self, path)
            self.steps.append(step)
            if node.is_finally:
                self.open_finally += 1
            else:
                self.open_main += 1
        for step in self.steps:
            for need in step.node.needs:
                local[need].dependents.append(step)


class Held:
    """What waits while the state of a run that goes on again is made."""

    __slots__ = ("is_over", "items", "waits", "wanted")

    def __init__(self, wanted: Collection[tuple[str, int | None]]) -> None:
        self.wanted = wanted  # what is known to have completed
        self.items: list[tuple[Step, int | None]] = []  # calls and starts of groups
        self.waits: list[Step] = []
        self.is_over = False  # the main phase of the run


# -- snapshots -------------------------------------------------------------------------------------------------------------


def dump_error(error: ErrorInfo | None) -> Json:
    return attrs.asdict(error) if error else None


def load_error(data: object) -> ErrorInfo | None:
    fields = cast("dict[str, object] | None", data)
    if fields is None:
        return None
    issues = cast("Iterable[dict[str, str]]", fields["issues"])
    return ErrorInfo(**{**fields, "issues": tuple(Issue(**issue) for issue in issues)})  # type: ignore[arg-type]  # a dump


_STEP_FIELDS = ("stage", "waiting", "blocked_by", "blocks", "count", "cursor", "in_flight", "attempts", "failed_items")
_MORE_STEP_FIELDS = ("partial_items", "cached_items", "dropped", "is_stopped", "is_queued", "is_undo")


def dump_step(step: Step) -> dict[str, Json]:
    data: dict[str, Json] = {name: getattr(step, name) for name in (*_STEP_FIELDS, *_MORE_STEP_FIELDS)}
    data["status"] = step.status.value
    data["retrying"] = [list(pair) for pair in step.retrying.items()]
    data["returned"] = [list(pair) for pair in step.returned]
    data["error"] = dump_error(step.error)
    if step.node.has_slots:
        data["asking"] = [list(pair) for pair in step.asking.items()]
        data["slots"] = sorted(step.slots, key=lambda index: -1 if index is None else index)
    if step.variants:
        data["variants"] = [list(pair) for pair in step.variants.items()]
    if step.put_off:
        data["put_off"] = [list(pair) for pair in step.put_off.items()]
    return data


def load_step(step: Step, data: Mapping[str, object]) -> None:
    for name in (*_STEP_FIELDS, *_MORE_STEP_FIELDS):
        setattr(step, name, data[name])
    step.status = StepStatus(cast("str", data["status"]))
    step.retrying = dict(cast("list[tuple[int | None, int]]", data["retrying"]))
    step.returned = deque((index, attempt) for index, attempt in cast("list[tuple[int | None, int]]", data["returned"]))
    step.error = load_error(data["error"])
    if step.node.has_slots:
        step.asking = dict(cast("list[tuple[int | None, int]]", data.get("asking", [])))
        step.slots = set(cast("list[int | None]", data.get("slots", [])))
    variants = data.get("variants")
    step.variants = dict(cast("list[tuple[int | None, int]]", variants)) if variants else None
    put_off = data.get("put_off")
    step.put_off = dict(cast("list[tuple[int | None, int]]", put_off)) if put_off else None


_SCOPE_FIELDS = ("phase", "failures", "stopping", "is_cancelled", "has_lost", "main_status", "taken", "running")


def dump_scope(scope: Scope) -> dict[str, Json]:
    data: dict[str, Json] = {name: getattr(scope, name) for name in _SCOPE_FIELDS}
    data["cause"] = attrs.asdict(scope.cause)
    if scope.owner is not None:
        data["owner"], data["index"] = scope.owner.path, scope.index
    parked = [queued(step) for step in scope.parked if step.stage != "ended"]
    if parked:
        data["parked"] = parked
    data["is_open"] = bool(scope.steps)
    return data


def queued(step: Step) -> Json:
    """How a dump names a step that stands in a line: its path, or that alone in a list when it undoes the step."""
    return [step.path] if step.is_undo else step.path


def load_scope(scope: Scope, data: Mapping[str, object], find: Callable[[object], Step]) -> None:
    for name in _SCOPE_FIELDS:
        setattr(scope, name, data[name])
    cause = cast("dict[str, object]", data["cause"])
    scope.cause = Cause(**{**cause, "error": load_error(cause["error"])})  # type: ignore[arg-type]  # a dump
    scope.parked = deque(find(path) for path in cast("list[object]", data.get("parked", [])))
    open_steps = [step for step in scope.steps if step.stage != "ended"]
    scope.open_main = sum(not step.node.is_finally for step in open_steps)
    scope.open_finally = len(open_steps) - scope.open_main
