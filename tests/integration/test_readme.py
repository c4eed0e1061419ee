"""What the README shows works as it stands there."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def block(language: str) -> str:
    """The first block of a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_workflow_of_the_readme_runs(tmp_path: Path) -> None:
    """It reads the checkout's log and writes the file that its output names (S3-10)."""
    (tmp_path / "changes.yaml").write_text(block("yaml"), "utf-8")
    command = [str(Path(sys.executable).with_name("treadle")), "run", "changes.yaml", "--json", "-i", f"repo={ROOT}"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    written = (tmp_path / json.loads(done.stdout)["outputs"]["path"]).read_text("utf-8")
    log = subprocess.run(["git", "log", "--oneline", "-n", "5"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert written == log.stdout


def test_the_executor_of_the_readme_works_and_is_the_tutorials() -> None:
    """One example, told twice, is the same both times; decorated, it is still an ordinary function."""
    code = block("python")
    names: dict[str, object] = {}
    exec(code, names)

    slug = names["slug"]
    assert callable(slug)
    assert asyncio.run(slug("Hello brave new World")) == "hello-brave-new-world"
    assert code in (ROOT / "docs" / "tutorial" / "first-plugin.md").read_text("utf-8")
