"""An executor that says what it uses up, as one that asks a model would."""

from __future__ import annotations

import re
from collections import Counter

from treadle import Context, CostCalculator, executor

PRICES = CostCalculator({"tiny": {"input_per_mtok": "0.15", "output_per_mtok": "0.60"}})


@executor("notes.summary", effects="none")
async def summary(ctx: Context, /, text: str, words: int = 3) -> str:
    """Say what a text is about.

    Args:
        ctx: What the spending is told to.
        text: The text.
        words: How many words the answer may have.
    """
    asked = len(text) // 4  # about so many tokens
    spent = ctx.spend(cost=PRICES.calculate_cost("tiny", asked, 100), tokens=asked + 100, requests=1)
    found = Counter(re.findall(r"[a-z]{5,}", text.lower()))
    answer = " ".join(word for word, _ in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:words])
    spent.settle(cost=PRICES.calculate_cost("tiny", asked, len(answer) // 4), tokens=asked + len(answer) // 4)
    return answer
