"""The ledger of a run's budgets: what is set aside for whom, and what was used up. Pure: the scheduler keeps it and decides.

Budgets form a tree: run, groups, steps, items. Whoever starts gets a part of what is above it, set aside for it alone until
it ends, so that nothing that runs at the same time can use the same money twice. What it leaves goes back.

A place with a budget of its own takes that; the others take even shares of the rest: what is free, less the budgets of its
siblings that are still to come, divided by how many they are, rounded up. So the first ones get the remainder, one more each,
and the sum is the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import cast

import attrs

from treadle._budgets import DIVIDED, AfterCrash, Budget
from treadle._graph import Graph, Node
from treadle._models import BudgetRefusal, Json, LimitMode, Resource, SpendLimit, StepUsage
from treadle._paths import plan_path

__all__ = ["Ledger", "Share", "shares_of"]


_NO_AMOUNTS: dict[Resource, int] = {}
"""Shared by all that have none, and never changed."""


@attrs.frozen
class Share:
    """A place in the plan that takes part.

    Attributes:
        path: The step or group in the plan; empty for the run.
        budget: Its own; None: it takes an even share.
        spends: Whether it, or something in it, can use anything up.
        is_map: Whether it has items, which share what it has.
        children: The places in it.
    """

    path: str
    budget: Budget | None = None
    spends: bool = True
    is_map: bool = False
    children: tuple[Share, ...] = ()
    own: Mapping[Resource, int] = attrs.field(init=False)
    """How much its own budget sets aside; one that only warns does not."""

    @own.default
    def _own_of_budget(self) -> Mapping[Resource, int]:
        budget = self.budget
        if budget is None or budget.mode == "warn":
            return _NO_AMOUNTS
        return {resource: most for resource in DIVIDED if (most := budget.limit(resource)) is not None}


def shares_of(graph: Graph, spenders: Collection[str] | None) -> Share:
    """The tree of a run's places.

    Args:
        graph: What there is to run.
        spenders: The steps that can use something up; None: all that make calls.
    """
    nodes = tuple(_share_of(node, spenders) for node in graph.nodes)
    return Share("", graph.budget, children=nodes)


def _share_of(node: Node, spenders: Collection[str] | None) -> Share:
    children = tuple(_share_of(child, spenders) for child in node.children)
    can_spend = not node.is_wait if spenders is None else node.path in spenders
    spends = any(child.spends for child in children) if node.form is not None else can_spend
    return Share(node.path, node.budget, spends, node.is_map, children)


_NO_CHILDREN: dict[str, Share] = {}
"""The same."""


class _Place:
    """A share while something in it is going on."""

    __slots__ = (
        "began_at",
        "budget",
        "budgeted",
        "children",
        "claims",
        "coming",
        "earlier",
        "given",
        "inner",
        "is_given",
        "is_item",
        "items",
        "key",
        "own",
        "owners",
        "parent",
        "share",
        "spent",
    )

    def __init__(self, key: str, share: Share, parent: _Place | None) -> None:
        self.key, self.share, self.parent = key, share, parent
        self.is_item = key.endswith("]")
        # The budget of a step with items is for all of them together.
        self.budget: Budget | None = None if self.is_item else share.budget
        self.own: Mapping[Resource, int] = _NO_AMOUNTS if self.is_item else share.own
        around: tuple[_Place, ...] = () if parent is None else parent.budgeted
        self.budgeted: tuple[_Place, ...] = around if self.budget is None else (self, *around)  # itself and up, with a budget
        self.inner: dict[str, _Place] = {}  # all that is known in it
        self.children: dict[str, _Place] = {}  # those for whom something is set aside
        self.is_given = False  # whether it has its part of all there is
        self.items = 0  # of a map, that are still to come
        self.coming: dict[str, Share] = _NO_CHILDREN  # by path, those to come; most places have none
        self.owners = self.claims = _NO_AMOUNTS  # how many of those have a budget of their own, and what these will want
        self.earlier: dict[str, dict[Resource, int]] = {}  # path -> what one of those has used before the run went on again
        if share.children and not (share.is_map and not self.is_item):
            self.coming = {child.path: child for child in share.children if child.spends}
            self.owners, self.claims = dict.fromkeys(DIVIDED, 0), dict.fromkeys(DIVIDED, 0)
            for child in self.coming.values():
                self._expect(child, 1)
        self.given: dict[Resource, int] = {}  # what it may use up in all
        self.spent: dict[Resource, int] = dict.fromkeys(DIVIDED, 0)
        self.began_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether something was set aside for it."""
        return self.parent is None or self.key in self.parent.children

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{'group' if self.share.children else 'step'} {self.key}" if self.key else "run"

    @property
    def due(self) -> float | None:
        """When its own time is up."""
        budget = self.budget
        if budget is None or budget.wall_time_s is None or self.began_at is None:
            return None
        return self.began_at + budget.wall_time_s

    def left(self, resource: Resource) -> int:
        """What it may still use up."""
        return max(0, self.given[resource] - self.spent[resource])

    def free(self, resource: Resource) -> int:
        """What of that is not set aside for a child."""
        held = sum(child.left(resource) for child in self.children.values() if resource in child.given)
        return max(0, self.left(resource) - held)

    def even_share(self, resource: Resource) -> int:
        """What a child without a budget of its own gets now."""
        rest = max(0, self.free(resource) - self.claims.get(resource, 0))
        return -(-rest // (1 + self.items + len(self.coming) - self.owners.get(resource, 0)))

    def await_only(self, paths: Iterable[str]) -> None:
        """These children are to come, and no others."""
        for path in self.coming.keys() - set(paths):
            self.forget(path)

    def forget(self, path: str) -> None:
        """A child that was to come is there, or will not come."""
        if self.share.is_map and not self.is_item:
            self.items = max(0, self.items - 1)
        elif (child := self.coming.pop(path, None)) is not None:
            self._expect(child, -1)
            self.earlier.pop(path, None)

    def know(self, child: _Place) -> None:
        """A child that is to come has used something up already, in part of what it will want."""
        path = child.share.path
        if path in self.coming:
            self._expect(child.share, -1)
            self.earlier[path] = dict(child.spent)
            self._expect(child.share, 1)

    def _expect(self, child: Share, number: int) -> None:
        earlier = self.earlier.get(child.path) if child.own else None
        for resource, own in child.own.items():
            self.owners[resource] += number
            self.claims[resource] += number * (own if earlier is None else max(0, own - earlier[resource]))


class Ledger:
    """Keeps one run's budgets.

    Args:
        root: The run with everything in it.
    """

    def __init__(self, root: Share) -> None:
        self._shares: dict[str, tuple[Share, str]] = {}
        self._index(root, "")
        self._root = _Place("", root, None)
        self._places: dict[str, _Place] = {"": self._root}
        self._used: dict[str, dict[Resource, int]] = {}  # path of what has a budget -> what it had used when it ended
        _give(self._root)

    def _index(self, share: Share, above: str) -> None:
        self._shares[share.path] = share, above
        for child in share.children:
            self._index(child, share.path)

    # -- the life of a place

    def begin(self, at: float) -> None:
        """The run begins."""
        self._root.began_at = at

    def begin_again(self, at: float) -> None:
        """A run that had ended goes on: its time begins anew, and that of what is going on in it."""
        for place in self._places.values():
            if place.began_at is not None:
                place.began_at = at

    def carry(self, earlier: Ledger) -> None:
        """Count what a run that goes on again has used up so far, but for what is counted here already: what completed.

        Args:
            earlier: The ledger of the run as it was.
        """
        here = self._totals()
        for key, used in earlier._totals().items():
            known = here.get(key, {})
            more = {resource: max(0, amount - known.get(resource, 0)) for resource, amount in used.items()}
            place = self._place(key) if any(more.values()) else None
            if place is not None:
                _add(place.spent, more)
        self._know_all()

    def _totals(self) -> dict[str, dict[Resource, int]]:
        """What the run, and whatever has a budget of its own, has used up in all."""
        totals = {key: dict(used) for key, used in self._used.items()}
        for key, place in self._places.items():
            if place.budget is not None or not key:
                _add(totals.setdefault(key, {}), place.spent)
        return totals

    def _know_all(self) -> None:
        for place in self._places.values():
            if place.parent is not None and not place.is_open and any(place.spent.values()):
                place.parent.know(place)

    def expand(self, key: str, count: int) -> None:
        """A place with items knows how many they are."""
        place = self._place(key)
        if place is not None:
            place.items = count

    def open(self, key: str, at: float, *, may_wait: bool) -> bool:
        """Set something aside for a step or item that is about to start.

        Args:
            key: Its path, with its item: ``each[3]``.
            at: When.
            may_wait: Whether others run, who may give something back.

        Returns:
            Whether it may start; not while its own budget is more than what is free, and others may give something back.
        """
        chain = [each for each in _upwards(self._place(key)) if not each.is_given]
        if may_wait and any(map(_lacks, chain)):
            return False
        for each in reversed(chain):  # what is around it first
            if each.began_at is None:
                each.began_at = at
            _give(each)
        return True

    def allowance(self, key: str, at: float, *, is_timed: bool = True) -> tuple[SpendLimit, ...]:
        """What an attempt that starts now may use up; clean-up has all the time it needs."""
        place = self._place(key)
        limits: list[SpendLimit] = []
        if place is None:
            return ()
        for resource in place.given:
            mode, scope, _ = _terms(place, resource)
            limits.append(SpendLimit(resource, place.left(resource), mode, scope))
        for each in place.budgeted:
            budget = cast("Budget", each.budget)
            if budget.mode == "warn":
                most = {resource: budget.limit(resource) for resource in DIVIDED}
                limits += [
                    SpendLimit(resource, max(0, number - each.spent[resource]), "warn", each.label)
                    for resource, number in most.items()
                    if number is not None
                ]
            elif each.due is not None and is_timed:
                limits.append(SpendLimit("wall_time", max(0, round((each.due - at) * 1000)), budget.mode, each.label))
        return tuple(limits)

    def settle(self, key: str, usage: StepUsage | None) -> None:
        """An attempt has used something up."""
        if usage is None:
            return
        for resource in DIVIDED:
            amount = getattr(usage, resource)
            for each in _upwards(self._place(key)) if amount else ():
                each.spent[resource] += amount

    def lose(self, key: str) -> None:
        """An attempt went away, and nobody knows what it has used up: all that it might have counts."""
        place = self._place(key)
        if place is None:
            return
        for resource in list(place.given):
            _, _, after_crash = _terms(place, resource)
            lost = place.left(resource) if after_crash == "charge" else 0
            for each in _upwards(place):
                each.spent[resource] += lost
            if resource not in place.own and place.parent is not None:
                # It gets another share: what it lost is lost to all.
                place.is_given = False
                del place.given[resource]
                place.spent[resource] = 0

    def close(self, key: str) -> None:
        """A step, item or group has ended: what was set aside for it and not used goes back."""
        place = self._places.get(key)
        parent = place.parent if place is not None else self._parent_of(key)
        if parent is None:
            return
        if place is None or not place.is_open:
            parent.forget(plan_path(key))
        parent.children.pop(key, None)
        if place is not None:
            del parent.inner[key]
            self._let_go(place)

    def _let_go(self, place: _Place) -> None:
        del self._places[place.key]
        if place.budget is not None and any(place.spent.values()):
            _add(self._used.setdefault(place.key, {}), place.spent)
        for inner in place.inner.values():
            self._let_go(inner)

    # -- what is over

    def late(self, key: str, at: float) -> BudgetRefusal | None:
        """That the time of a budget over a step is up; None while it is not."""
        place = self._place(key)
        for each in () if place is None else place.budgeted:
            if each.due is not None and at >= each.due and cast("Budget", each.budget).mode != "warn":
                return BudgetRefusal("wall_time", 0, each.label)
        return None

    @property
    def due(self) -> float | None:
        """When the run's own time is up; None when that ends nothing."""
        budget = self._root.budget
        return None if budget is None or budget.mode == "warn" or budget.on_exceeded != "stop" else self._root.due

    def stops(self, key: str, refusal: BudgetRefusal) -> str | None:
        """Which group, or run (empty), ends because an attempt was refused something; None: only its step does."""
        for each in _upwards(self._place(key)):
            budget = each.budget
            if budget is None or budget.on_exceeded != "stop" or budget.mode == "warn" or not each.share.children:
                continue
            if refusal.resource in DIVIDED:
                most = budget.limit(refusal.resource)
                if most is not None and each.spent[refusal.resource] + max(1, refusal.asked) > most:
                    return each.key
            elif refusal.scope == each.label:
                return each.key
        return None

    # -- parts

    def _place(self, key: str) -> _Place | None:
        """The place of a path; None for one that takes no part."""
        place = self._places.get(key)
        if place is None and (found := self._shares.get(plan_path(key))) is not None:
            parent = self._parent_of(key)
            if parent is not None:
                place = self._places[key] = parent.inner[key] = _Place(key, found[0], parent)
        return place

    def _parent_of(self, key: str) -> _Place | None:
        if not key:
            return None
        if key.endswith("]"):
            return self._place(key[: key.rindex("[")])
        found = self._shares.get(plan_path(key))
        if found is None:
            return None
        if "[" not in key:
            return self._place(found[1])
        depth = found[1].count("/") + 1 if found[1] else 0
        return self._place("/".join(key.split("/")[:depth]))

    # -- snapshots

    def dump(self) -> Json:
        """The whole state as plain JSON data."""
        places: dict[str, Json] = {
            key: {
                "given": dict(place.given),
                "spent": dict(place.spent),
                "items": place.items,
                "coming": list(place.coming),
                "began_at": place.began_at,
                "is_open": place.is_open,
            }
            for key, place in self._places.items()
        }
        return {"places": places, "used": {key: dict(used) for key, used in self._used.items()}}

    @classmethod
    def load(cls, root: Share, data: Json) -> Ledger:
        """Build the ledger that ``dump`` described."""
        self = cls(root)
        told = cast("Mapping[str, Mapping[str, dict[str, object]]]", data)
        self._used = {key: dict(cast("dict[Resource, int]", used)) for key, used in told["used"].items()}
        for key, state in told["places"].items():
            place = self._place(key)
            assert place is not None, "it was dumped"
            place.given = cast("dict[Resource, int]", dict(cast("dict[str, int]", state["given"])))
            place.spent = cast("dict[Resource, int]", dict(cast("dict[str, int]", state["spent"])))
            place.items, place.began_at = cast("int", state["items"]), cast("float | None", state["began_at"])
            place.await_only(cast("list[str]", state["coming"]))
            if place.parent is not None and state["is_open"]:
                place.parent.children[key] = place
        self._know_all()
        return self


def _add(total: dict[Resource, int], amounts: Mapping[Resource, int]) -> None:
    for resource, amount in amounts.items():
        total[resource] = total.get(resource, 0) + amount


def _upwards(place: _Place | None) -> Iterator[_Place]:
    """A place and all that it is in, up to the run."""
    while place is not None:
        yield place
        place = place.parent


def _terms(place: _Place, resource: Resource) -> tuple[LimitMode, str, AfterCrash]:
    """By which mode, of whose budget, and with which rule after a crash something was given."""
    budgets = [each for each in place.budgeted if resource in each.own]
    nearest = budgets[0]
    budget = cast("Budget", nearest.budget)
    # Nobody may be laxer than what is around it.
    is_strict = "before" in [cast("Budget", each.budget).mode for each in budgets]
    return "before" if is_strict else budget.mode, nearest.label, budget.after_crash


def _lacks(place: _Place) -> bool:
    """Whether its own budget is more than what it could be given now."""
    parent = place.parent
    if parent is None or place.is_open:
        return False
    return any(
        resource in parent.given and own - place.spent[resource] > parent.free(resource) for resource, own in place.own.items()
    )


def _give(place: _Place) -> None:
    """Set aside what it is to have of each limited resource, unless that is done."""
    parent = place.parent
    if parent is not None and not place.is_open:
        parent.forget(place.share.path)
    above = _NO_AMOUNTS if parent is None else parent.given
    for resource in DIVIDED if place.own or above else ():
        if resource in place.given:
            continue
        own = place.own.get(resource)
        before = place.spent[resource]  # of what completed before the run went on again, and counts above it already
        if own is not None:
            shared = parent if resource in above else None
            place.given[resource] = own if shared is None else min(own, before + shared.free(resource))
        elif parent is not None and resource in above and place.share.spends:
            place.given[resource] = before + parent.even_share(resource)
    if parent is not None:
        parent.children[place.key] = place
    place.is_given = True
