"""The ledger: even shares, own budgets, what comes back, crashes; and its laws."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle._budgets import Budget
from treadle._ledger import Ledger, Share
from treadle._models import BudgetRefusal, SpendLimit, StepUsage


def step(path: str, cost: int | None = None, *, spends: bool = True, is_map: bool = False, **more: Any) -> Share:
    budget = Budget(cost=cost, **more) if cost is not None or more else None
    return Share(path, budget, spends, is_map)


def group(path: str, *children: Share, cost: int | None = None, **more: Any) -> Share:
    return Share(path, Budget(cost=cost, **more) if cost is not None or more else None, True, False, children)


def run(*children: Share, cost: int | None = 100, **more: Any) -> Share:
    return group("", *children, cost=cost, **more)


def steps(number: int) -> list[Share]:
    return [step(f"s{n}") for n in range(number)]


def opened(ledger: Ledger, key: str, at: float = 0.0) -> int | None:
    """What a step that starts may spend; None when it has to wait."""
    if not ledger.open(key, at, may_wait=True):
        return None
    return cost_of(ledger, key)


def cost_of(ledger: Ledger, key: str, at: float = 0.0) -> int:
    [most] = [limit.most for limit in ledger.allowance(key, at) if limit.resource == "cost"]
    return most


def use(ledger: Ledger, key: str, cost: int, *, close: bool = True) -> None:
    ledger.settle(key, StepUsage(cost=cost))
    if close:
        ledger.close(key)


def test_what_is_not_divided_evenly_goes_to_the_first() -> None:
    """Each gets the whole divided by how many they are; the first ones one more; the sum is the whole (S1-34, C37)."""
    ledger = Ledger(run(*steps(7)))

    shares = [opened(ledger, f"s{n}") for n in range(7)]

    assert shares == [15, 15, 14, 14, 14, 14, 14]
    assert sum(share for share in shares if share is not None) == 100


def test_unused_money_goes_back_to_all() -> None:
    """What a step leaves is divided among those that are still to come."""
    ledger = Ledger(run(*steps(4)))

    assert opened(ledger, "s0") == 25
    use(ledger, "s0", 1)
    assert opened(ledger, "s1") == 33
    use(ledger, "s1", 33)
    assert opened(ledger, "s2") == 33
    use(ledger, "s2", 0)
    assert opened(ledger, "s3") == 66


def test_a_skipped_step_leaves_its_share() -> None:
    """So does one that cannot spend: it never had one."""
    ledger = Ledger(run(*steps(3), step("silent", spends=False)))

    ledger.close("s1")

    assert opened(ledger, "s0") == 50
    assert ledger.allowance("silent", 0.0) == ()
    assert opened(ledger, "s2") == 50


def test_a_step_with_a_budget_of_its_own_takes_that() -> None:
    """The others share the rest, whether it has started or not."""
    ledger = Ledger(run(step("rich", 70), step("a"), step("b")))

    assert opened(ledger, "a") == 15
    assert opened(ledger, "rich") == 70
    assert opened(ledger, "b") == 15


def test_a_step_waits_for_its_own_budget_while_others_may_give_back() -> None:
    """When nobody can, it starts with what there is."""
    ledger = Ledger(run(step("a", 70), step("b", 70)))

    assert opened(ledger, "a") == 70
    assert opened(ledger, "b") is None
    assert ledger.open("b", 0.0, may_wait=False)
    assert cost_of(ledger, "b") == 30

    again = Ledger(run(step("a", 70), step("b", 70)))
    assert opened(again, "a") == 70
    use(again, "a", 10)
    assert opened(again, "b") == 70


def test_no_own_budget_is_more_than_what_is_above() -> None:
    """A step may say more than its run has."""
    assert opened(Ledger(run(step("a", 500))), "a") is None
    ledger = Ledger(run(step("a", 500)))
    ledger.open("a", 0.0, may_wait=False)
    assert cost_of(ledger, "a") == 100


def test_a_step_may_be_limited_alone() -> None:
    """Without a budget of the run nothing else is."""
    ledger = Ledger(run(step("a", 5), step("b"), cost=None))

    assert opened(ledger, "a") == 5
    ledger.open("b", 0.0, may_wait=True)
    assert ledger.allowance("b", 0.0) == ()


def test_groups_share_and_divide_what_they_got() -> None:
    """A group without a budget of its own gets an even share when its first step starts."""
    ledger = Ledger(run(group("g", step("g/a"), step("g/b")), group("h", step("h/a"), cost=40), step("c")))

    assert opened(ledger, "g/a") == 15  # of 30, of 100 less 40
    assert opened(ledger, "h/a") == 40
    assert opened(ledger, "c") == 30
    use(ledger, "g/a", 5)
    assert opened(ledger, "g/b") == 25
    use(ledger, "g/b", 20)
    ledger.close("g")
    assert cost_of(ledger, "c") == 30


def test_what_a_group_leaves_goes_back() -> None:
    """To those after it."""
    ledger = Ledger(run(group("g", step("g/a"), step("g/b")), step("c")))

    assert opened(ledger, "g/a") == 25
    use(ledger, "g/a", 10)
    ledger.close("g/b")
    ledger.close("g")

    assert opened(ledger, "c") == 90


def test_items_share_what_their_step_has() -> None:
    """Each its part; what one leaves goes to those that are still to come."""
    ledger = Ledger(run(step("each", 40, is_map=True), step("c")))
    ledger.expand("each", 4)

    assert [opened(ledger, f"each[{n}]") for n in range(2)] == [10, 10]
    use(ledger, "each[0]", 0)
    assert opened(ledger, "each[2]") == 15
    assert opened(ledger, "c") == 60


def test_items_of_a_group_have_their_own_steps() -> None:
    """The steps of each item share what the item got."""
    each = Share("each", Budget(cost=40), True, True, (step("each/a"), step("each/b")))
    ledger = Ledger(run(each))
    ledger.expand("each", 2)

    assert opened(ledger, "each[0]/a") == 10
    assert opened(ledger, "each[1]/a") == 10
    use(ledger, "each[0]/a", 2)
    assert opened(ledger, "each[0]/b") == 18
    use(ledger, "each[0]/b", 18)
    ledger.close("each[0]")
    assert opened(ledger, "each[1]/b") == 10


def test_attempts_of_a_step_share_what_it_got() -> None:
    """A retry gets what is left."""
    ledger = Ledger(run(*steps(2)))

    assert opened(ledger, "s0") == 50
    use(ledger, "s0", 30, close=False)
    assert opened(ledger, "s0") == 20
    assert opened(ledger, "s1") == 50


def test_what_went_away_counts_as_spent() -> None:
    """All that was set aside for it; it gets a share of what is left, and of its own budget nothing (never under-counted)."""
    ledger = Ledger(run(*steps(2)))
    assert opened(ledger, "s0") == 50
    ledger.lose("s0")
    assert opened(ledger, "s0") == 25
    use(ledger, "s0", 25)
    assert opened(ledger, "s1") == 25

    own = Ledger(run(step("a", 30)))
    assert opened(own, "a") == 30
    own.lose("a")
    assert opened(own, "a") == 0

    released = Ledger(run(step("a", 30, after_crash="release")))
    assert opened(released, "a") == 30
    released.lose("a")
    assert opened(released, "a") == 30


def test_a_budget_that_only_warns_sets_nothing_aside() -> None:
    """Everybody may use all of it; the limit is there for the warning."""
    ledger = Ledger(run(*steps(2), mode="warn"))
    ledger.open("s0", 0.0, may_wait=True)
    use(ledger, "s0", 40)
    ledger.open("s1", 0.0, may_wait=True)

    assert ledger.allowance("s1", 0.0) == (SpendLimit("cost", 60, "warn", "run"),)


def test_nobody_is_laxer_than_what_is_around_it() -> None:
    """A step that says ``after`` in a run that says ``before`` is refused before."""
    strict = Ledger(run(step("a", 10, mode="after")))
    lax = Ledger(run(step("a", 10, mode="after"), cost=None))
    for ledger in (strict, lax):
        ledger.open("a", 0.0, may_wait=True)

    assert strict.allowance("a", 0.0) == (SpendLimit("cost", 10, "before", "step a"),)
    assert lax.allowance("a", 0.0) == (SpendLimit("cost", 10, "after", "step a"),)


def test_time_passes_for_all_alike() -> None:
    """Of a run from its begin, of a step from its first start."""
    ledger = Ledger(run(step("a", wall_time_s=5.0), step("b"), cost=None, wall_time_s=60.0))
    ledger.begin(1000.0)
    ledger.open("a", 1010.0, may_wait=True)
    ledger.open("b", 1010.0, may_wait=True)

    assert ledger.allowance("a", 1012.0) == (
        SpendLimit("wall_time", 3000, "before", "step a"),
        SpendLimit("wall_time", 48000, "before", "run"),
    )
    assert (ledger.due, ledger.late("a", 1014.9), ledger.late("b", 1059.9)) == (1060.0, None, None)
    assert ledger.late("a", 1015.0) == BudgetRefusal("wall_time", 0, "step a")
    assert ledger.late("b", 1060.0) == BudgetRefusal("wall_time", 0, "run")


@pytest.mark.parametrize(
    ("spent", "asked", "scope"),
    [(90, 11, ""), (90, 10, None), (100, 0, ""), (0, 51, None)],
)
def test_the_run_stops_only_when_its_own_budget_is_used_up(spent: int, asked: int, scope: str | None) -> None:
    """Not when a step asks for more than its share while others have theirs."""
    ledger = Ledger(run(*steps(2)))
    ledger.open("s0", 0.0, may_wait=True)
    use(ledger, "s0", spent, close=False)

    assert ledger.stops("s0", BudgetRefusal("cost", asked, "run")) == scope


def test_only_budgets_that_say_so_stop_more_than_the_step() -> None:
    """``fail`` leaves it to the step's ``on_error``; a group may stop and the run not; a step's own budget stops the step."""
    failing = Ledger(run(step("a"), on_exceeded="fail"))
    inner = Ledger(run(group("g", step("g/a"), cost=5), on_exceeded="fail"))
    alone = Ledger(run(step("a", 5), cost=None))
    refusal = BudgetRefusal("cost", 1000, "run")

    assert failing.stops("a", refusal) is None
    assert inner.stops("g/a", refusal) == "g"
    assert alone.stops("a", refusal) is None
    assert Ledger(run(step("a"), cost=None, wall_time_s=1.0)).stops("a", BudgetRefusal("wall_time", 0, "run")) == ""


# -- laws ----------------------------------------------------------------------------------------------------------------

shares_of_steps = st.lists(st.one_of(st.none(), st.integers(0, 120)), min_size=1, max_size=6)
moves = st.lists(
    st.tuples(st.sampled_from(["open", "use", "close", "lose"]), st.integers(0, 5), st.integers(0, 200)), max_size=40
)


@given(shares_of_steps, st.integers(0, 200), moves, st.booleans())
@settings(max_examples=300)
def test_nobody_ever_gets_more_than_the_cap(
    owns: list[int | None], cap: int, taken: list[tuple[str, int, int]], may_wait: bool
) -> None:
    """Whatever starts, spends what it may, goes away or ends: what was spent and what is set aside never exceed the budget;
    and a ledger that is written down and read again goes on as before.
    """
    root = run(*[step(f"s{n}", own) for n, own in enumerate(owns)], cost=cap)
    ledger = Ledger(root)
    spent = 0
    running: dict[str, int] = {}
    for move, number, amount in taken:
        key = f"s{number % len(owns)}"
        if move == "open" and key not in running and ledger.open(key, 0.0, may_wait=may_wait and bool(running)):
            running[key] = cost_of(ledger, key)
        elif move == "use" and key in running:
            used = min(amount, running.pop(key))
            use(ledger, key, used, close=False)
            spent += used
        elif move == "lose" and key in running:
            spent += running.pop(key)
            ledger.lose(key)
        elif move == "close" and key not in running:
            ledger.close(key)
        assert spent + sum(running.values()) <= cap
        copied = Ledger.load(root, json.loads(json.dumps(ledger.dump())))
        assert copied.dump() == ledger.dump()
        ledger = copied


@given(st.integers(0, 10**12), st.integers(1, 60))
def test_even_shares_are_the_whole(cap: int, number: int) -> None:
    """All of it, to the microcent, and no two differ by more than one (S1-34)."""
    ledger = Ledger(run(*steps(number), cost=cap))

    shares = [opened(ledger, f"s{n}") or 0 for n in range(number)]

    assert sum(shares) == cap
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


class NeverSearched(dict[str, Any]):
    """Answers for a key, and for nothing else."""

    def __iter__(self) -> Any:
        raise AssertionError("all places were looked through")

    keys = values = items = __iter__


def test_the_end_of_one_does_not_look_through_the_others() -> None:
    """What a step's end costs does not depend on how many are going on; what is in a group goes with it."""
    inner = group("g", step("g/a"), step("g/b", is_map=True), cost=40)
    ledger = Ledger(run(*steps(4), inner, cost=1000))
    for key in ("s0", "s1", "g/a", "g/b[0]", "g/b[1]"):
        assert opened(ledger, key) is not None
    ledger._places = NeverSearched(ledger._places)

    use(ledger, "s0", 7)
    use(ledger, "g/b[0]", 3)
    ledger.close("g")

    left = {key for key in ("", "s1", "s0", "g", "g/a", "g/b", "g/b[0]", "g/b[1]") if key in ledger._places}
    assert left == {"", "s1"}
    assert ledger._used == {"g": {"cost": 3, "tokens": 0, "requests": 0}}
