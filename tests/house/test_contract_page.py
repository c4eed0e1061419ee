"""The reference of the kit's rules."""

from __future__ import annotations

from pathlib import Path

import contract_page
from treadle.testing import ExecutorContract
from treadle.testing._rules import RULES

ROOT = Path(__file__).parents[2]


def test_the_page_lists_the_rules_of_the_kit() -> None:
    """Page, test class and command read one table of rules; a rule cannot come or go in one of them alone."""
    page = (ROOT / "docs" / "reference" / "executor-contract.md").read_text("utf-8")
    methods = {name.removeprefix("test_") for name in vars(ExecutorContract) if name.startswith("test_")}

    assert page == contract_page.page()
    assert methods == {rule.id for rule in RULES} | {"nothing_overridden"}
