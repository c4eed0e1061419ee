"""Every executor belongs to a family, whose contract its outputs keep."""

from __future__ import annotations

import pytest
from rows import all_tests
from treadle import Executor, Registry
from treadle._bind import bind
from treadle.errors import BindError


def test_no_installed_executor_stands_outside_of_a_family() -> None:
    """Zero executors without a family: each has one that is known, and each class among them derives from its class (S0-49)."""
    registry = Registry.discover()
    families = {"general", *(entry.name for entry in registry.entries("treadle.families"))}
    names = [entry.name for entry in registry.entries("treadle.executors") if not entry.name.endswith("*")]

    outside = [name for name in names if registry.executor(name).family not in families]

    assert len(names) >= 6
    assert len(outside) == 0


def test_every_installed_executor_has_a_contract() -> None:
    """All of them: the hook ``validate_output`` answers for each, and each declares what its outputs are held to (S0-09)."""
    registry = Registry.discover()
    names = [entry.name for entry in registry.entries("treadle.executors") if not entry.name.endswith("*")]
    bound = [registry.executor(name) for name in names]

    assert [each.name for each in bound if not callable(each.validate_output)] == []
    assert [each.name for each in bound if not each.contract] == []


def test_a_class_outside_of_every_family_is_refused() -> None:
    """An executor's class has a family's class in its MRO, or it is no executor (S0-49)."""

    class Stray:
        """Derives from nothing."""

        async def execute(self, n: int) -> int:
            return n

    class Kept(Executor):
        """Of the family general."""

        async def execute(self, n: int) -> int:
            return n

    with pytest.raises(BindError, match="Executor"):
        bind("acme.stray", Stray)
    assert Executor in type(Kept()).__mro__
    assert bind("acme.kept", Kept).family == "general"


def test_the_layered_architecture_has_its_three_files_of_tests() -> None:
    """Contracts, pipelines, and parallel groups with partial failure: each in a file of its own, with tests in it (S0-45)."""
    files = {
        row: {test.test.partition("::")[0] for test in all_tests() if row in test.ids} for row in ("S0-20", "S0-39", "S0-38")
    }

    assert files["S0-20"] == {"plugins/treadle-families/tests/test_families.py"}
    assert files["S0-39"] == {"core/tests/test_pipeline.py"}
    assert files["S0-38"] == {"core/tests/test_structures.py"}
