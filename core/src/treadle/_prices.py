"""What language models cost: a table of prices, and whole runs summed up. No price is built in: they change too often."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

import attrs

from treadle._models import StepUsage
from treadle._money import MICROCENTS, format_money, to_microcents

__all__ = ["CostCalculator", "ModelPrice", "PipelineUsage"]

_MILLION = 1_000_000


def _price(text: str | Decimal) -> Fraction:
    """Microcents of one token, exactly."""
    if not isinstance(text, str | Decimal):
        raise TypeError(f"a price is a decimal text or a Decimal, in dollars for a million tokens, not {type(text).__name__}")
    price = Fraction(str(text).strip().removeprefix("$"))
    if price < 0:
        raise ValueError(f"{text} is no price")
    return price * MICROCENTS / _MILLION


@attrs.frozen
class ModelPrice:
    """Prices of a model, in dollars for a million tokens, as texts: ``"0.15"``.

    Attributes:
        input_per_mtok: Of what it reads.
        output_per_mtok: Of what it writes.
        cache_read_per_mtok: Of what it reads from its cache; 10 % of ``input_per_mtok`` when None.
        cache_write_per_mtok: Of what it keeps there; 125 % of it when None.
    """

    input_per_mtok: str | Decimal
    output_per_mtok: str | Decimal
    cache_read_per_mtok: str | Decimal | None = None
    cache_write_per_mtok: str | Decimal | None = None

    def per_token(self) -> tuple[Fraction, Fraction, Fraction, Fraction]:
        """Microcents of one token: read, written, read from the cache, written to it."""
        read, written = _price(self.input_per_mtok), _price(self.output_per_mtok)
        cached = read / 10 if self.cache_read_per_mtok is None else _price(self.cache_read_per_mtok)
        kept = read * 5 / 4 if self.cache_write_per_mtok is None else _price(self.cache_write_per_mtok)
        return read, written, cached, kept


class CostCalculator:
    """Turns tokens into money by a table of prices.

    What ``calculate_cost`` answers goes straight into ``ctx.spend(cost=...)``; None, for a model without a price, is refused
    there when cost is limited.

    Args:
        prices: Model -> its prices: a ModelPrice, or a mapping with its fields.
    """

    def __init__(self, prices: Mapping[str, ModelPrice | Mapping[str, str]] | None = None) -> None:
        self._prices: dict[str, tuple[Fraction, Fraction, Fraction, Fraction]] = {}
        for model, price in (prices or {}).items():
            self.add_pricing_override(model, price)

    @property
    def models(self) -> frozenset[str]:
        """The models whose prices are known."""
        return frozenset(self._prices)

    def add_pricing_override(self, model: str, price: ModelPrice | Mapping[str, str]) -> None:
        """Add a model, or change its prices."""
        self._prices[model] = (price if isinstance(price, ModelPrice) else ModelPrice(**price)).per_token()

    def calculate_cost(
        self,
        model: str,
        input_tokens: int = 0,
        output_tokens: int = 0,
        *,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> int | None:
        """Microcents, rounded up; None when the model's price is not known.

        Args:
            model: Its name; ``openai:gpt-4o`` is looked up as such, then as ``gpt-4o``.
            input_tokens: What it read, without what came from its cache or went there.
            output_tokens: What it wrote.
            cache_read_tokens: What it read from its cache.
            cache_write_tokens: What it kept there.
        """
        prices = self._prices.get(model) or self._prices.get(model.rpartition(":")[2])
        if prices is None:
            return None
        tokens = (input_tokens, output_tokens, cache_read_tokens, cache_write_tokens)
        if min(tokens) < 0:
            raise ValueError(f"{min(tokens)} tokens cannot have been used")
        exact = sum((price * number for price, number in zip(prices, tokens, strict=True)), Fraction())
        return -(-exact.numerator // exact.denominator)

    @staticmethod
    def microcents_to_dollars(microcents: int) -> Decimal:
        """Exactly."""
        return Decimal(format_money(microcents))

    @staticmethod
    def dollars_to_microcents(dollars: str | Decimal) -> int:
        """Rounded up."""
        return to_microcents(dollars)

    @staticmethod
    def format_cost(microcents: int) -> str:
        """For people: ``$0.25``."""
        return f"${format_money(microcents)}"


@attrs.frozen
class PipelineUsage:
    """What a run used up.

    Attributes:
        total: Of all its attempts, also of those that failed.
        steps: Step -> of all its attempts; without those that used up nothing.
    """

    total: StepUsage
    steps: Mapping[str, StepUsage]

    @classmethod
    def from_step_usages(cls, steps: Mapping[str, StepUsage]) -> PipelineUsage:
        """Their sum."""
        used = {step: usage for step, usage in steps.items() if usage}
        return cls(sum(used.values(), StepUsage()), used)

    @property
    def total_cost(self) -> int:
        """Microcents."""
        return self.total.cost

    @property
    def total_tokens(self) -> int:
        """Tokens, in and out."""
        return self.total.tokens

    @property
    def total_requests(self) -> int:
        """Requests."""
        return self.total.requests
