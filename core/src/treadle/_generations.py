"""What of a run that has ended is kept when it goes on again. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import attrs

from treadle._graph import Node
from treadle._models import (
    AttemptEnded,
    CancelRequested,
    Fact,
    InterruptAnswered,
    RetryRequested,
    RunCreated,
    SignalReceived,
    StintOpened,
    TimerFired,
    UsageNoted,
    WaitEnded,
)
from treadle._paths import plan_path, scope_path, split_item
from treadle._planned import Plan

Place = tuple[str, int | None]
"""A step and its item."""


def following(plan: Plan, start: str) -> frozenset[str]:
    """Paths in the plan of a step, of what it holds, of every step that follows from it, and of ``finally``.

    What follows from a step within a group follows from the group, too; the group itself is not among them.
    """
    found: set[str] = set()
    for scope in _scopes(plan):
        here = {node.path for node in scope}
        inner = {node.path for node in scope if start.startswith(f"{node.path}/")}
        if not (start in here or inner):
            continue
        reached = {start} if start in here else inner
        after = _dependents(scope, reached)
        found |= after if inner else after | reached
    found |= {path for path in plan.steps if any(path.startswith(f"{each}/") for each in found)}
    return frozenset(found | {path for path in plan.steps if path.startswith("finally/")})


def _scopes(plan: Plan) -> Iterator[Sequence[Node]]:
    """The steps of the run, and those of each group."""
    yield plan.graph.nodes
    for step in plan.steps.values():
        if step.node.children:
            yield step.node.children


def _dependents(scope: Sequence[Node], of: Collection[str]) -> set[str]:
    """The steps of a scope that wait for one of these, however indirectly; its own ``finally`` as well."""
    found = set(of)
    grows = True
    while grows:
        more = {node.path for node in scope if node.path not in found and (node.is_finally or found.intersection(node.needs))}
        found |= more
        grows = bool(more)
    return found.difference(of)


def kept_facts(
    plan: Plan,
    again: RetryRequested,
    facts: Sequence[Fact],
    waits: Sequence[tuple[WaitEnded, bool]],
    closed: Collection[Place],
    undone: Collection[Place],
) -> tuple[list[Fact], set[Place]]:
    """What has happened, when only what completed and need not run again counts.

    Args:
        plan: The run's.
        again: What is asked for.
        facts: Those that had an effect so far.
        waits: How steps that wait came to their end, and whether that was a good one.
        closed: Starts of groups that came to a good end.
        undone: Calls that were compensated since.

    Returns:
        The facts, stamped with the time of ``again`` so that deadlines run anew; and the calls, starts of groups and waits that
        they are about.
    """
    redone = following(plan, again.start) if again.start else frozenset[str]()

    def is_kept(path: str) -> bool:
        return plan_path(path) not in redone and not path.startswith("finally/")

    done: set[Place] = {
        (fact.path, fact.index)
        for fact in facts
        if isinstance(fact, AttemptEnded) and fact.outcome.status == "completed" and fact.variant != "compensation"
    }
    done -= set(undone)
    done |= {(ended.path, ended.index) for ended, is_good in waits if is_good}
    kept: list[Fact] = []
    used = _used_up([ended for ended, is_good in waits if not (is_good and is_kept(ended.path))])
    places = {place for place in done if is_kept(place[0])}
    for fact in facts:
        if isinstance(fact, RunCreated):
            kept.append(fact)  # it began when it began
        elif _still_counts(fact, places, used) and not (isinstance(fact, StintOpened) and len(kept) > 1):
            kept.append(attrs.evolve(fact, at=again.at))
    wanted = places | {place for place in closed if is_kept(place[0]) or _holds(place[0], redone)}
    return kept, wanted | {around for path, _ in wanted for around in _around(path)}


def _holds(path: str, redone: Collection[str]) -> bool:
    return any(each.startswith(f"{plan_path(path)}/") for each in redone) and plan_path(path) not in redone


def _still_counts(fact: Fact, places: Collection[Place], used: list[tuple[str, object]]) -> bool:
    if isinstance(fact, AttemptEnded):
        return (fact.path, fact.index) in places and fact.variant != "compensation"
    if isinstance(fact, TimerFired):
        kind, _, rest = fact.timer_id.partition(":")
        path, _, rest = rest.partition(":")
        index = rest.partition(":")[0]
        place = (path, int(index)) if kind == "retry" and index else split_item(path) if kind == "wait" else (path, None)
        return kind == "signal" or place in places
    if isinstance(fact, SignalReceived):
        for key in ((fact.signal_id, None), ("", fact.payload)):
            if key in used and (fact.signal_id or key[1] is not None):
                used.remove(key)
                return False
        return True
    # What was used up is carried as a whole.
    return not isinstance(fact, CancelRequested | InterruptAnswered | UsageNoted)


def _used_up(ended: Sequence[WaitEnded]) -> list[tuple[str, object]]:
    """The signals that waits took which are to be waited for again: by id, or by what they brought."""
    return [(each.signal_id, None) if each.signal_id else ("", each.output) for each in ended if each.how == "signal"]


def _around(path: str) -> Iterator[Place]:
    """The starts of groups that a step is part of."""
    while scope := scope_path(path):
        yield split_item(scope)
        path = split_item(scope)[0]
