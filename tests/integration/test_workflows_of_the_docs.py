"""Every whole workflow in the docs can be loaded, and planned as far as what it uses is installed here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from treadle import Registry, load_workflow, make_plan
from treadle.errors import WorkflowInvalidError

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```yaml\n(name: .*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}:{number}")
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/*/*.md")])
    for number, text in enumerate(FENCE.findall(page.read_text("utf-8")), 1)
]

ELSEWHERE = re.compile(r"No installed plugin provides|Tool not found|which is not active|there is no file")
"""What the page lays beside the workflow, or what its reader is told to install."""


@pytest.mark.parametrize("text", BLOCKS)
def test_a_workflow_of_the_docs_is_sound(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, reference or input in it is wrong; only what is not installed here may be missing."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "workflow.yaml"
    file.write_text(text, "utf-8")

    workflow = load_workflow(file)
    faults = []
    try:
        make_plan(workflow, Registry.discover())
    except WorkflowInvalidError as error:
        faults = [fault for fault in error.faults if not ELSEWHERE.search(f"{fault.message} {fault.remedy}")]

    assert faults == []


def test_workflows_are_found_in_the_docs() -> None:
    """The pages have many of them."""
    assert len(BLOCKS) > 20
