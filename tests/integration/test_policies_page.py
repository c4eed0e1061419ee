"""The reference of the policies: every setting and key stands there, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from treadle._schema import KINDS, workflow_schema
from treadle_breaker import Breaker
from treadle_cache import Cache
from treadle_chaos import Chaos, Fault
from treadle_limits import Limits
from treadle_redact import Redact

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "policies.md").read_text("utf-8")


def tables(section: str) -> list[set[str]]:
    """The names in the first column of each table of a section."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = table.splitlines()[2:]
        found.append({name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])})
    return found


def settings(kind: type) -> set[str]:
    return {field.name for field in attrs.fields(kind) if field.init}


@pytest.mark.parametrize(("section", "kind"), [("breaker", Breaker), ("redact", Redact)])
def test_every_setting_stands_in_the_reference(section: str, kind: type) -> None:
    """No more and no fewer than the policy takes."""
    assert tables(section) == [settings(kind)]


@pytest.mark.parametrize(("section", "kind", "key"), [("cache", Cache, "cache"), ("limits", Limits, "rate_limit")])
def test_every_key_of_a_step_stands_there_too(section: str, kind: type, key: str) -> None:
    """As the schema of workflow files has it."""
    definition = workflow_schema()["$defs"][key]  # type: ignore[index]  # a schema

    assert KINDS[key] == {"$ref": f"#/$defs/{key}"}
    assert tables(section) == [settings(kind), set(definition["properties"])]


def test_every_key_of_a_fault_stands_there() -> None:
    """Beside the settings of the policy."""
    assert tables("chaos") == [settings(Chaos), settings(Fault)]
