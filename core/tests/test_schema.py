"""The JSON Schema for editors, made from the table that the loader reads by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from treadle._retries import PRESETS, parse_retry
from treadle._schema import KINDS, TABLES, workflow_schema
from treadle._workflow import Workflow
from treadle._workflow._reader import READERS
from treadle.errors import WorkflowInvalidError

ROOT = Path(__file__).parents[2]
SCHEMA: Any = workflow_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one() -> None:
    """It is valid JSON Schema 2020-12."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_page_in_the_reference_is_what_the_code_says() -> None:
    """docs/reference/workflow.schema.json is generated."""
    page = (ROOT / "docs" / "reference" / "workflow.schema.json").read_text("utf-8")

    assert page == json.dumps(SCHEMA, indent=2, ensure_ascii=False) + "\n"


def test_every_key_has_a_reader_and_a_schema() -> None:
    """One table: no key that only the editor, or only the loader, knows."""
    kinds = {key.kind for table in TABLES.values() for key in table.keys.values() if key.kind}

    assert kinds == set(READERS) == set(KINDS)
    for table in TABLES.values():
        for key in table.keys.values():
            assert key.description.endswith(".")
        assert set(table.aliases.values()) <= set(table.keys)


def test_retry_has_the_keys_that_retries_have() -> None:
    """The schema's keys of ``retry`` are those that are read."""
    properties = SCHEMA["$defs"]["retry"]["properties"]
    good = {"max_attempts": 2, "retries": 2, "base": "1s", "factor": 2, "max_delay": "5m", "jitter": 0.1, "delays": ["1s"]}
    good |= {"retry_on": ["a"], "no_retry_on": ["b"], "on_invalid": True, "preset": "layered"}

    assert properties.keys() == good.keys()
    for key, value in good.items():
        parse_retry({key: value})
        VALIDATOR.validate({"name": "w", "steps": {"a": {"uses": "x", "retry": {key: value}}}})
    assert all(name in properties["preset"]["description"] for name in PRESETS)


DOCUMENTS = [
    {"name": "w", "steps": {"a": {"uses": "x"}}},
    {"name": "w", "steps": {"a-b": {"uses": "x", "needs": "c", "when": True}, "c": {"uses": "x", "timeout": 5, "needs": []}}},
    {
        "name": "w",
        "steps": {"a": {"uses": "x", "foreach": "${{ inputs.x }}", "as": "i", "max_parallel": 2}},
        "inputs": {"x": {}},
    },
    {
        "name": "w",
        "steps": {"a": {"uses": "x", "foreach": [1]}},
        "max_failures": "25%",
        "on_error": "continue",
        "syntax": "braces",
    },
    {"name": "w", "steps": {"a": {"uses": "x", "timeout": "PT5M", "clients": {"a": "b"}}}, "defaults": {"timeout": "1h 30m"}},
    {"name": "w", "steps": {"a": {"uses": "x"}}, "outputs": {"o": [None]}, "finally": {"f": {"uses": "x"}}, "secrets": ["A"]},
    {"name": "w", "steps": {"a": {"uses": "x", "cache": {}, "rate_limit": {"limit": 3, "per": "minute", "key": [1]}}}},
    {
        "name": "w",
        "steps": {"a": {"uses": "x", "cache": {"ttl": "1h", "key": {"a": 1}}, "rate_limit": {"limit": 3, "per": "90s"}}},
    },
]
BROKEN = [
    5,
    {"name": "w"},
    {"name": "", "steps": {"a": {"uses": "x"}}},
    {"name": "w", "steps": {"a": {}}},
    {"name": "w", "steps": {"1": {"uses": "x"}}},
    {"name": "w", "steps": {"a": {"uses": "x y"}}},
    {"name": "w", "steps": {"a": {"uses": "x", "as": "i"}}},
    {"name": "w", "steps": {"a": {"uses": "x", "foreach": [], "as": "steps"}}},
    {"name": "w", "steps": {"a": {"uses": "x", "foreach": {}}}},
    {"name": "w", "steps": {"a": {"uses": "x", "cache": {"til": "1h"}}}},
    {"name": "w", "steps": {"a": {"uses": "x", "cache": {"ttl": -1}}}},
    {"name": "w", "steps": {"a": {"uses": "x", "rate_limit": {"limit": 0, "per": "minute"}}}},
    {"name": "w", "steps": {"a": {"uses": "x", "rate_limit": {"limit": 1}}}},
    {"name": "w", "steps": {"a": {"uses": "x", "retry": {"tries": 3}}}},
    {"name": "w", "steps": {"a": {"uses": "x", "timeout": "soon"}}},
    {"name": "w", "steps": {"a": {"uses": "x", "on_error": "fail"}}},
    {"name": "w", "steps": {"a": {"uses": "x"}}, "on": 1},
    {"name": "w", "steps": {"a": {"uses": "x"}}, "version": 1},
    {"name": "w", "steps": {"a": {"uses": "x"}}, "inputs": {"x": {"type": "str"}}},
    {"name": "w", "steps": {"a": {"uses": "x"}}, "max_parallel": 0},
    {"name": "w", "steps": {"a": {"uses": "x"}}, "max_failures": "many"},
    {"name": "w", "steps": {"a": {"uses": "x"}}, "defaults": {"isolation": "thread"}},
    {"name": "w", "steps": {"a": {"uses": "x", "isolation": {"memry": 1}}}},
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_the_loader_takes_the_schema_takes(document: object) -> None:
    """An editor marks nothing that runs."""
    Workflow.from_dict(document)

    assert [error.message for error in VALIDATOR.iter_errors(document)] == []


@pytest.mark.parametrize("document", BROKEN)
def test_what_the_schema_refuses_the_loader_refuses(document: object) -> None:
    """An editor marks only what would not run."""
    assert not VALIDATOR.is_valid(document)

    with pytest.raises(WorkflowInvalidError):
        Workflow.from_dict(document)


PAGES = [ROOT / "docs" / "reference" / name for name in ("workflow-file.md", "expressions.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_workflows_of_the_pages_are_valid(page: Path) -> None:
    """Every YAML block of the reference that is a workflow loads and satisfies the schema."""
    blocks = [block.partition("```")[0] for block in page.read_text("utf-8").split("```yaml\n")[1:]]
    workflows = [document for document in map(yaml.safe_load, blocks) if isinstance(document, dict) and "steps" in document]

    assert workflows
    for document in workflows:
        VALIDATOR.validate(document)
        Workflow.from_dict(document)


def test_every_key_is_on_its_page() -> None:
    """The reference names each key, those that are not supported yet too."""
    page = PAGES[0].read_text("utf-8")

    missing = [key.name for table in TABLES.values() for key in table.keys.values() if f"`{key.name}`" not in page]
    assert missing == []


def test_every_filter_and_test_is_on_its_page() -> None:
    """The reference names each filter and test of expressions."""
    from treadle._expressions._operations import FILTERS, TESTS

    page = PAGES[1].read_text("utf-8")

    assert [name for name in (*FILTERS, *TESTS) if f"`{name}" not in page] == []
