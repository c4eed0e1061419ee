"""Who owns a run: of many that want it one gets it, late ones are refused, and nothing of a dead one is left in the way.

``nox -s chaos`` does it hundreds of times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from owners import LEASE_S, is_alive, registry, resume, workflow
from treadle import arun
from treadle.errors import RunSuspendedError
from treadle.ports import AttemptEnded, NewRun, RunEnded, StepEnded, StintOpened
from treadle_sqlite import SqliteStore

RESUMES = int(os.environ.get("TREADLE_DOUBLE_RESUMES", "10"))
ZOMBIES = int(os.environ.get("TREADLE_ZOMBIES", "3"))
ORPHANS = int(os.environ.get("TREADLE_ORPHANS", "3"))
POISONS = int(os.environ.get("TREADLE_POISONS", "1"))
OWNERS = 8


class Owner:
    """A process of ``owners.py``."""

    def __init__(self, folder: Path) -> None:
        pipe = subprocess.PIPE
        command = [sys.executable, str(Path(__file__).parent / "owners.py"), str(folder)]
        with (folder / "stderr.log").open("ab") as errors:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)
        assert self._line() == "ready\n"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, run_id: str) -> None:
        """Have it resume a run."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{run_id}\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, object]:
        """What became of that."""
        return cast("dict[str, object]", json.loads(self._line()))

    def close(self) -> None:
        """End it, however it stands."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


@contextmanager
def owners(folder: Path, count: int) -> Iterator[Sequence[Owner]]:
    """Some processes that can resume runs of a folder's store."""
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(Owner(folder))
            stack.callback(made[-1].close)
        yield made


async def create(folder: Path, executor: str) -> str:
    """A run that was created and let go of before anything ran."""
    with_store = SqliteStore(path=folder / "runs.db")
    try:
        found: list[str] = []

        async def only_create(new: NewRun) -> object:
            creation = await SqliteStore.create(with_store, new)
            assert creation.claim is not None
            await with_store.release(creation.claim)
            found.append(creation.run_id)
            raise RunSuspendedError(creation.run_id)

        with_store.create = only_create  # type: ignore[method-assign,assignment]  # the run begins in another process
        with pytest.raises(RunSuspendedError):
            await arun(workflow(executor), store=with_store, registry=registry(folder))
        return found[0]
    finally:
        with_store.close()


async def log_of(folder: Path, run_id: str) -> list[object]:
    store = SqliteStore(path=folder / "runs.db")
    try:
        return [record.entry for record in await store.read(run_id)]
    finally:
        store.close()


def witnessed(folder: Path, run_id: str) -> list[list[str]]:
    lines = [line.split() for line in (folder / "witness.log").read_text("utf-8").splitlines()]
    return [line for line in lines if line[1] == run_id]


def test_of_many_resumes_one_wins(tmp_path: Path) -> None:
    """Eight processes resume a run at the same moment: one drives it, the others hear who does, each step runs once (G8)."""
    outcomes: Counter[str] = Counter()
    with owners(tmp_path, OWNERS) as all_of_them:
        for _ in range(RESUMES):
            run_id = anyio.run(create, tmp_path, "owners.quick")
            for owner in all_of_them:
                owner.tell(run_id)
            answers = [owner.answer() for owner in all_of_them]

            assert sum(bool(answer["drove"]) for answer in answers) == 1
            assert {answer["outcome"] for answer in answers} <= {"completed", "OwnedElsewhereError"}
            assert [line[2] for line in witnessed(tmp_path, run_id)] == ["a", "b"]
            outcomes.update(str(answer["outcome"]) for answer in answers)
    print(f"{RESUMES} double resumes by {OWNERS} processes: one winner each; {outcomes['OwnedElsewhereError']} were refused")
    assert outcomes["OwnedElsewhereError"] > RESUMES, "they did come at the same time"


def zombie(folder: Path) -> str:
    """An owner is stopped for longer than its lease, another one ends the run, and the first one wakes up."""
    folder.mkdir()
    run_id = anyio.run(create, folder, "owners.stopped")
    with owners(folder, 1) as (first,):
        first.tell(run_id)
        _wait_for(lambda: _state(first.process.pid) == "T")
        time.sleep(1.1 * LEASE_S)

        store = SqliteStore(path=folder / "runs.db")
        second = anyio.run(partial(resume, folder, store, run_id))
        store.close()
        first.process.send_signal(signal.SIGCONT)
        told = first.answer()

    log = anyio.run(log_of, folder, run_id)
    ended = [entry for entry in log if isinstance(entry, AttemptEnded)]
    lines = witnessed(folder, run_id)
    faults = []
    if second != {"outcome": "completed", "drove": True}:
        faults.append(f"the second owner: {second}")
    if told["outcome"] != "LeaseLostError":
        faults.append(f"the first owner was not refused: {told}")
    if [(entry.path, entry.outcome.output, entry.stint) for entry in ended][:1] != [("a", "2: 0 alive", 2)] or len(ended) != 2:
        faults.append(f"the log holds {ended}")
    if not isinstance(log[-1], RunEnded) or sum(isinstance(entry, StintOpened) for entry in log) != 2:
        faults.append("the log does not end as it should")
    if [line[0] for line in lines if line[0] in ("KEPT", "REFUSED")] not in (["REFUSED"], []):
        faults.append("a stale checkpoint was kept")
    tokens = [int(line[3]) for line in lines if line[0] == "S" and line[2] == "a"]
    if tokens != sorted(set(tokens)):
        faults.append(f"fencing tokens {tokens} do not rise")
    return "; ".join(faults)


def test_an_owner_that_slept_through_its_lease_is_refused(tmp_path: Path) -> None:
    """SIGSTOP past the lease, another takes over and ends its processes, SIGCONT: nothing of the first is kept (G8)."""
    with ThreadPoolExecutor(4) as pool:
        faults = [fault for fault in pool.map(zombie, [tmp_path / str(number) for number in range(ZOMBIES)]) if fault]

    assert not faults
    print(f"{ZOMBIES} owners slept through their lease: every stale commit and checkpoint was refused")


def orphan(folder: Path) -> str:
    """An owner is killed while a process of its step runs, and the run is resumed."""
    folder.mkdir()
    run_id = anyio.run(create, folder, "owners.parent")
    with owners(folder, 1) as (first,):
        first.tell(run_id)
        _wait_for(lambda: sum(line[0] == "P" for line in witnessed(folder, run_id)) == 2, folder / "witness.log")
        first.process.kill()
        first.process.wait()
        pids = [int(line[2]) for line in witnessed(folder, run_id) if line[0] == "P"]
        outlived = sum(map(is_alive, pids))
        store = SqliteStore(path=folder / "runs.db")
        anyio.run(partial(resume, folder, store, run_id))
        store.close()
    log = anyio.run(log_of, folder, run_id)
    outputs = [entry.outcome.output for entry in log if isinstance(entry, AttemptEnded) and entry.path == "a"]
    if outlived != 2:
        return f"{outlived} of 2 processes outlived the kill, so this shows nothing"
    return "" if outputs == ["alive: 0"] else f"the step began with {outputs}"


def test_what_a_dead_owner_left_is_gone_before_its_step_runs_again(tmp_path: Path) -> None:
    """kill -9 of the owner leaves a shell that ignores signals, with a child: both are dead when the step begins anew."""
    with ThreadPoolExecutor(2) as pool:
        faults = [fault for fault in pool.map(orphan, [tmp_path / str(number) for number in range(ORPHANS)]) if fault]

    assert not faults
    print(f"{ORPHANS} orphaned families: dead before their step ran again")


def poison(folder: Path) -> str:
    """A run with an item that kills its process, resumed until it ends."""
    folder.mkdir()
    run_id = anyio.run(create, folder, "owners.guilty")
    crashes = 0
    while crashes <= 5:
        with owners(folder, 1) as (owner,):
            owner.tell(run_id)
            try:
                owner.answer()
                break
            except json.JSONDecodeError:
                crashes += 1
    ended = {entry.path: entry for entry in anyio.run(log_of, folder, run_id) if isinstance(entry, StepEnded)}
    begun = Counter(line[2] for line in witnessed(folder, run_id))
    if crashes != 3 or begun["each[2]"] != 3:
        return f"{crashes} crashes, and {begun} were begun"
    if max(begun.values()) > 3 or ended["each"].failed_items != 1 or ended["beside"].status.value != "completed":
        return f"others were harmed: {ended}"
    return ""


def test_a_poison_item_crashes_at_most_three_processes(tmp_path: Path) -> None:
    """Then it is out, and the other items and steps complete (G9)."""
    with ThreadPoolExecutor(2) as pool:
        faults = [fault for fault in pool.map(poison, [tmp_path / str(number) for number in range(POISONS)]) if fault]

    assert not faults


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]


def _wait_for(condition: object, file: Path | None = None) -> None:
    deadline = time.monotonic() + 60
    while (file is not None and not file.exists()) or not condition():  # type: ignore[operator]  # a function
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
