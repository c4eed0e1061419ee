"""The page about slots, followed on a real store with several processes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from kept_project import KeptProject, fitting

STAY = """
from pathlib import Path

import anyio
from treadle import executor


@executor("room.stay")
async def stay(name: str, seconds: float = 0.3) -> int:
    \"\"\"Be in the room; answers how many were in it at most.\"\"\"
    folder = Path("room")
    folder.mkdir(exist_ok=True)
    mine = folder / name
    mine.touch()
    most = 0
    try:
        for _ in range(10):
            most = max(most, len(list(folder.iterdir())))
            await anyio.sleep(seconds / 10)
    finally:
        mine.unlink()
    return most
"""
ROOM = """
name: room
inputs: {name: {type: string}, seconds: {type: number, default: 0.3}}
steps:
  stay:
    foreach: [1, 2, 3]
    uses: room.stay
    with: {name: "${{ inputs.name }}-${{ item }}", seconds: "${{ inputs.seconds }}"}
    concurrency: {group: room, limit: 2}
outputs: {most: "${{ steps.stay.output }}"}
"""


def project(folder: Path) -> KeptProject:
    made = KeptProject(folder, "how-to/wait-for-an-approval.md")
    (folder / "executors" / "room.py").write_text(STAY)
    (folder / "room.yaml").write_text(ROOM)
    return made


def waiting_for(made: KeptProject) -> list[str]:
    """The slots that items of all runs wait for, as ``show`` says."""
    runs = json.loads(made("runs", "--json").stdout)["runs"]
    shown = [fitting(made("show", run["run_id"], "--json").stdout, "show")["waits"] for run in runs]
    return [wait["slot"] for waits in shown for wait in waits]


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other processes do."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_files_of_the_page_run(tmp_path: Path) -> None:
    """As they are written."""
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "share-slots.md").read_text("utf-8")
    made = project(tmp_path)
    for number, block in enumerate(part.split("```")[0] for part in text.split("```yaml\n")[1:]):
        (tmp_path / f"page{number}.yaml").write_text(block)
        done = made("run", f"page{number}.yaml", "-q", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == "completed"


def test_slots_hold_across_processes_and_are_not_lost_with_one(tmp_path: Path) -> None:
    """Of three processes, one killed while it holds both slots: never more than two calls at once, and all get theirs."""
    made = project(tmp_path)
    first = made.start("run", "room.yaml", "-i", "name=killed", "-i", "seconds=300")
    until(lambda: len(list((tmp_path / "room").glob("killed-*"))) == 2)
    others = [made.start("run", "room.yaml", "-i", f"name={name}", "-q", "--json") for name in ("a", "b")]
    until(lambda: waiting_for(made) == ["room"] * (1 + 3 + 3))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    for left in (tmp_path / "room").glob("killed-*"):
        left.unlink()
    results = [json.loads(other.communicate(timeout=120)[0]) for other in others]

    assert [result["status"] for result in results] == ["completed", "completed"]
    most = [number for result in results for number in result["outputs"]["most"]]
    assert len(most) == 6
    assert max(most) <= 2
