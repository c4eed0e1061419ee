"""The page about checkpoints: its executor goes on where it was killed, as the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from treadle.ports import RunQuery
from treadle_sqlite import SqliteStore

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "save-checkpoints.md"
FLOW = """
name: crawl
steps:
  crawl: {uses: acme.crawl, with: {pages: 6}}
outputs: {read: "${{ steps.crawl.output }}"}
"""


def saved(state: Path) -> str:
    """The token of the checkpoint in the store; empty when there is none."""
    for file in state.rglob("*.db"):
        store = SqliteStore(path=file)
        try:
            for row in anyio.run(store.runs, RunQuery()).runs:
                for point in anyio.run(store.checkpoints, row.run_id):
                    return point.token
        finally:
            store.close()
    return ""


def test_the_pages_executor_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """After kill -9 in the middle the pages that were read are not read again (S1-70)."""
    (code,) = re.findall(r"^`acme.py`:\n\n```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert "await anyio.sleep(seconds)" in code
    held = 'while page and not os.path.exists("go"):\n            await anyio.sleep(0.02)'  # each page but the first
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "acme.py").write_text("import os\n" + code.replace("await anyio.sleep(seconds)", held), "utf-8")
    (tmp_path / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n', "utf-8")
    (tmp_path / "crawl.yaml").write_text(FLOW, "utf-8")
    dropped = ("TREADLE_", "OTEL_", "TRACEPARENT")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environ |= {"XDG_STATE_HOME": str(tmp_path / "state")}

    def start(*words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "treadle._cli", *words]
        return subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=pipe, stderr=pipe, text=True)

    def told(*words: str) -> dict[str, Any]:
        out, error = start(*words).communicate(timeout=60)
        assert out, error
        return dict(json.loads(out))

    process = start("run", "crawl.yaml")
    deadline = time.monotonic() + 60
    while not (token := saved(tmp_path / "state")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (tmp_path / "go").touch()
    (point,) = told("show", "last", "--json")["checkpoints"]

    result = told("resume", "last", "--json")

    assert token == point["token"] == "page-0-complete"
    assert result["outputs"] == {"read": {"pages": 6, "read_now": 5}}
