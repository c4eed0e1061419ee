"""Money, budgets of a file, the meter of an attempt, and prices."""

from __future__ import annotations

import logging
import pickle
import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle import CostCalculator, ModelPrice, PipelineUsage, StepUsage
from treadle._budgets import Budget, BudgetInvalidError, budget_data, parse_budget
from treadle._meter import Meter
from treadle._models import BudgetRefusal, SpendLimit
from treadle._money import MOST, format_money, parse_money, to_microcents
from treadle.errors import BudgetExceededError, CallCancelledError, UnknownPriceError

# -- money ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "microcents"),
    [
        ("0", 0),
        ("1", 100_000_000),
        ("0.10", 10_000_000),
        ("$0.10", 10_000_000),
        ("2.50 USD", 250_000_000),
        (" 2.5usd ", 250_000_000),
        ("0.00000001", 1),
        ("0.000000001", 1),
        ("0.000000010000000000000000000001", 2),
        ("999999999", 99_999_999_900_000_000),
    ],
)
def test_dollars_are_whole_microcents_rounded_up(text: str, microcents: int) -> None:
    """A microcent is 1e-8 USD; a part of one counts as a whole (S4-14)."""
    assert parse_money(text) == microcents
    assert isinstance(parse_money(text), int)


@pytest.mark.parametrize("text", ["", "-1", "1,5", "1e3", "NaN", "ten", "1 EUR", "0.1.1", "1" * 13])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no amount of dollars"):
        parse_money(text)


def test_no_float_is_money() -> None:
    """An int is microcents, texts and Decimals are dollars (S4-14)."""
    assert [to_microcents(amount) for amount in (100_000, "0.001", Decimal("0.001"))] == [100_000, 100_000, 100_000]
    for wrong in (0.1, True, None):
        with pytest.raises(TypeError, match="money is an int of microcents"):
            to_microcents(wrong)  # type: ignore[arg-type]  # that is the test
    for wrong in (-1, MOST + 1, Decimal("NaN"), Decimal(-1), Decimal("1e11")):
        with pytest.raises(ValueError, match="dollars"):
            to_microcents(wrong)


@given(st.integers(0, MOST // 10))
def test_money_reads_back_the_same(microcents: int) -> None:
    """Exactly, with at least two digits after the point."""
    text = format_money(microcents)

    assert parse_money(text) == microcents
    assert len(text.partition(".")[2]) >= 2
    assert format_money(-150_000_000) == "-1.50"


# -- budgets of a file -----------------------------------------------------------------------------------------------------


def test_a_budget_of_a_file_reads_back_the_same() -> None:
    """Every key, and only what differs from the defaults."""
    data = {
        "cost": "2.50",
        "tokens": 200_000,
        "requests": 20,
        "wall_time": "2h",
        "mode": "after",
        "on_exceeded": "fail",
        "after_crash": "release",
    }
    budget = parse_budget(data)

    assert budget == Budget(250_000_000, 200_000, 20, 7200.0, "after", "fail", "release")
    assert budget_data(budget) == data
    assert budget_data(parse_budget({"cost": "$1"})) == {"cost": "1.00"}
    assert parse_budget({"tokens": 0}) == Budget(tokens=0)


@pytest.mark.parametrize(
    ("data", "path", "message"),
    [
        ([], "", "a budget is a mapping"),
        ({}, "", "limits nothing"),
        ({"on_exceeded": "stop"}, "", "limits nothing"),
        ({"cots": "1"}, "cots", "did you mean 'cost'?"),
        ({"cost": 0.5}, "cost", "put it in quotes: '0.5'"),
        ({"cost": 1}, "cost", "put it in quotes: '1'"),
        ({"cost": True}, "cost", "expected an amount of dollars"),
        ({"cost": "much"}, "cost", "no amount of dollars"),
        ({"tokens": "many"}, "tokens", "expected a whole number"),
        ({"tokens": -1}, "tokens", "expected a whole number"),
        ({"requests": 1.5}, "requests", "expected a whole number"),
        ({"wall_time": "soon"}, "wall_time", "is no duration"),
        ({"tokens": 1, "mode": "befor"}, "mode", "did you mean 'before'?"),
        ({"tokens": 1, "on_exceeded": "ask"}, "on_exceeded", "expected stop or fail"),
    ],
)
def test_faults_of_a_budget_have_their_place(data: Any, path: str, message: str) -> None:
    with pytest.raises(BudgetInvalidError) as raised:
        parse_budget(data)

    [fault] = raised.value.faults
    assert fault.path == path
    assert message in str(fault)


# -- the meter -------------------------------------------------------------------------------------------------------------


def meter(*limits: SpendLimit) -> Meter:
    return Meter("s", limits)


def cost(most: int, mode: Any = "before") -> SpendLimit:
    return SpendLimit("cost", most, mode, "run")


def test_what_would_exceed_is_refused_and_not_counted() -> None:
    """Before it is spent; exactly what is left is allowed."""
    spending = meter(cost(100), SpendLimit("tokens", 50, "before", "step s"))

    spending.spend(60, 10, 1)
    with pytest.raises(BudgetExceededError) as raised:
        spending.spend(41, 0, 1)
    assert spending.usage == StepUsage(60, 10, 1)
    assert spending.refusal == BudgetRefusal("cost", 41, "run")
    spending.spend(40, 40, 1)
    with pytest.raises(BudgetExceededError, match="asks for 1 token, and 0 tokens are left of its own tokens budget"):
        spending.spend(0, 1, 0)
    spending.spend(0, 0, 5)

    assert spending.usage == StepUsage(100, 50, 7)
    first, remedy = str(raised.value).splitlines()
    assert first == (
        "Step 's' asks for 0.00000041 USD, and 0.0000004 USD are left of its even share of the cost budget of the run."
    )
    assert remedy == (
        "Give the step a budget of its own, which takes what it says: budget: {cost: '0.00000101'}. "
        "When that is not left, raise the budget of the run."
    )
    assert raised.value.retryable is False
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_after_counts_first_and_refuses_then() -> None:
    """What has been used is counted; the call that crossed the limit is the last."""
    spending = meter(cost(100, "after"))

    spending.spend(90, 0, 0)
    with pytest.raises(BudgetExceededError, match=r"used 0\.0000002 USD, and 0\.0000001 USD were left of its even share"):
        spending.spend(20, 0, 0)

    assert spending.usage.cost == 110
    assert spending.refusal == BudgetRefusal("cost", 0, "run")


def test_warn_only_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """And counts on."""
    spending = meter(cost(100, "warn"))

    with caplog.at_level(logging.WARNING, "treadle.budgets"):
        for _ in range(3):
            spending.spend(90, 0, 0)

    assert [record.getMessage() for record in caplog.records] == [
        "s has used more than the cost budget of the run holds: 180 of 100"
    ]
    assert spending.usage.cost == 270


def test_what_turned_out_to_be_less_can_be_used() -> None:
    """What was asked for is set aside; ``settle`` says what it was, more than there is included."""
    spending = meter(cost(100), SpendLimit("tokens", 1000))
    first = spending.spend("0.0000008", 900, 1)

    first.settle(cost=30, tokens=500)
    second = spending.spend(70, 500, 1)
    second.settle(cost=200)
    second.settle(requests=0)

    assert spending.usage == StepUsage(230, 1000, 1)
    with pytest.raises(BudgetExceededError):
        spending.spend(1, 0, 0)


def test_a_price_that_is_not_known_is_refused_under_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    """Where cost is limited; else it is said once that the cost is too low."""
    limited, free = meter(cost(100)), meter(SpendLimit("tokens", 100))

    with pytest.raises(UnknownPriceError, match="no known price, and the run has a cost budget"):
        limited.spend(None, 10, 1)
    assert limited.usage == StepUsage()
    assert limited.refusal == BudgetRefusal("price", 0, "run")
    with caplog.at_level(logging.WARNING, "treadle.budgets"):
        free.spend(None, 10, 1)
        free.spend(None, 10, 1)
    assert free.usage == StepUsage(0, 20, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "s spends money at a price that is not known; its cost is counted too low"
    ]


def test_nothing_is_spent_after_the_end() -> None:
    """A thread that was left behind is refused; what it had asked for stays counted."""
    spending = meter()
    asked = spending.spend(10, 0, 0)

    assert spending.close() == StepUsage(10)
    asked.settle(cost=0)
    with pytest.raises(CallCancelledError, match="s is over"):
        spending.spend(1, 0, 0)

    assert spending.usage.cost == 10
    assert meter().close() is None


def test_of_what_is_not_known_all_that_was_set_aside_counts() -> None:
    """Of a process that does not answer."""
    spending = meter(cost(100), SpendLimit("tokens", 10, "warn"), SpendLimit("requests", 2, "after"))
    spending.spend(5, 7, 1)

    assert spending.abandon() == StepUsage(100, 7, 2)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0.5, 0, 0), TypeError),
        ((-1, 0, 0), ValueError),
        ((0, -1, 0), ValueError),
        ((0, 1.0, 0), TypeError),
        ((0, True, 0), TypeError),
    ],
)
def test_what_cannot_be_spent_is_refused(arguments: Any, error: type[Exception]) -> None:
    """No float, nothing negative."""
    spending = meter(cost(100))

    with pytest.raises(error):
        spending.spend(*arguments)

    assert spending.usage == StepUsage()


def test_what_another_process_counted_is_looked_at() -> None:
    """It may tell anything: what is no usage is refused, so that nobody's budget grows by it."""
    spending = meter(cost(100))

    spending.take_over([10, 2, 1], None)
    for told in ([-5, 0, 0], [1], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match=r"spent|told"):
            spending.take_over(told, None)
    with pytest.raises(TypeError):
        spending.take_over(["1", 0, 0], None)  # type: ignore[list-item]  # that is the test

    assert spending.usage == StepUsage(10, 2, 1)


def test_threads_spend_at_the_same_time() -> None:
    """Eight threads, never more than the cap, and exactly the cap."""
    spending = meter(SpendLimit("requests", 1000))
    refused: list[int] = []

    def work() -> None:
        for _ in range(300):
            try:
                spending.spend(0, 0, 1)
            except BudgetExceededError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert spending.usage.requests == 1000
    assert len(refused) == 8 * 300 - 1000


# -- prices and sums -------------------------------------------------------------------------------------------------------

PRICES = {
    "gpt-4o-mini": ModelPrice("0.15", "0.60"),
    "big": {"input_per_mtok": "$3", "output_per_mtok": "15", "cache_read_per_mtok": "0.1"},
}


def test_a_table_of_prices_turns_tokens_into_microcents() -> None:
    """Whole, rounded up: five tokens are not free; cached ones have their own price (S4-14, S4-16)."""
    prices = CostCalculator(PRICES)

    assert prices.calculate_cost("gpt-4o-mini", 5) == 75
    assert prices.calculate_cost("openai:gpt-4o-mini", 1_000_000, 1_000_000) == 75_000_000
    assert prices.calculate_cost("gpt-4o-mini", cache_read_tokens=1) == 2  # 10 % of 15 microcents
    assert prices.calculate_cost("gpt-4o-mini", cache_write_tokens=1) == 19  # 125 %
    assert prices.calculate_cost("big", 1, cache_read_tokens=1) == 310
    assert prices.models == {"gpt-4o-mini", "big"}


def test_a_model_without_a_price_has_none() -> None:
    """Not zero: a budget would let it pass."""
    prices = CostCalculator(PRICES)

    assert prices.calculate_cost("unheard-of", 1_000_000) is None
    prices.add_pricing_override("unheard-of", {"input_per_mtok": "1", "output_per_mtok": "2"})
    assert prices.calculate_cost("unheard-of", 1) == 100
    with pytest.raises(TypeError, match="a price is a decimal text"):
        CostCalculator({"x": ModelPrice(0.15, 1)})  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ValueError, match="is no price"):
        CostCalculator({"x": ModelPrice("-1", "1")})
    with pytest.raises(ValueError, match="-5 tokens"):
        prices.calculate_cost("big", -5)


def test_money_is_shown_as_dollars() -> None:
    """Exactly."""
    assert CostCalculator.format_cost(10_000_000) == "$0.10"
    assert CostCalculator.microcents_to_dollars(75) == Decimal("0.00000075")
    assert CostCalculator.dollars_to_microcents("0.10") == 10_000_000


def test_usages_add_up() -> None:
    """Of steps to that of a run (S4-16)."""
    usage = PipelineUsage.from_step_usages({"a": StepUsage(1, 2, 3), "b": StepUsage(10, 20, 30), "c": StepUsage()})

    assert usage.total == StepUsage(1, 2, 3) + StepUsage(10, 20, 30)
    assert (usage.total_cost, usage.total_tokens, usage.total_requests) == (11, 22, 33)
    assert list(usage.steps) == ["a", "b"]
    assert not StepUsage()


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=30), st.integers(0, 300))
def test_a_meter_never_counts_more_than_its_limit(asked: list[tuple[int, bool]], most: int) -> None:
    """Whatever is asked for and settled to less; the sum is what was granted."""
    spending = meter(cost(most))
    granted = 0
    for amount, is_settled in asked:
        try:
            spent = spending.spend(amount, 0, 0)
        except BudgetExceededError:
            assert granted + amount > most
            continue
        granted += amount
        if is_settled:
            spent.settle(cost=amount // 2)
            granted -= amount - amount // 2
        assert spending.usage.cost == granted <= most
