"""What whole runs do when the disk is full, fails, may not be written, is locked, or the file goes away (faults 5, 6, 7, 9).

Each time the same: one error that says what and what to do, exit code 75 of the command, and a resume that loses nothing and
repeats nothing that was acknowledged.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import apsw
import pytest
from power_cut import Disk, PoweredStore
from treadle import Registry, Workflow, executor, resume, run
from treadle.errors import StoreGoneError, StoreUnavailableError
from treadle.ports import AttemptEnded, Context, Record
from treadle.ports import Commit as PortCommit
from treadle_sqlite import SqliteStore, _worker
from writing import numbers, write_records

IO_ERRORS = int(os.environ.get("TREADLE_IO_ERRORS", "16"))
STEPS = 12


class Trial:
    """A chain that is run in a store that gets into trouble, and then resumed in one that does not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: Counter[int] = Counter()
        self.acknowledged: set[int] = set()
        self.repeated: list[int] = []
        self.ids: list[str] = []
        self.at: Callable[[int], None] = lambda number: None

        @executor("demo.count")
        def count(number: int) -> dict[str, object]:
            if number in self.acknowledged:
                self.repeated.append(number)
            self.done[number] += 1
            self.at(number)
            return {"number": number, "text": "x" * 3000}

        self.registry = Registry.of(count)
        self.workflow = Workflow("trouble")
        for number in range(STEPS):
            self.workflow.step(f"s{number}", "demo.count", number=number, needs=[f"s{number - 1}"] if number else [])

    def record(self, record: Record) -> None:
        """Note what the engine believes to be kept."""
        entry = record.entry
        if isinstance(entry, AttemptEnded) and entry.outcome.status == "completed":
            self.acknowledged.add(int(entry.path[1:]))

    def run(self, store: SqliteStore) -> None:
        """Run it until it ends, or the store does not let it."""
        from treadle import hookimpl

        class Sink:
            @hookimpl
            def record_event(sink, record: Record) -> None:
                self.record(record)

        try:
            run(
                self.workflow,
                registry=self.registry,
                store=store,
                sinks=[Sink()],
                on_start=lambda handle: self.ids.append(handle.run_id),
            )
        finally:
            store.close()

    def check_resume(self) -> None:
        """With a sound store the run goes on, and nothing that was acknowledged runs again."""
        store = SqliteStore(path=self.path)
        result = resume(self.ids[0], registry=self.registry, store=store)
        store.close()
        assert result.status == "completed"
        assert self.repeated == []
        assert set(self.done) == set(range(STEPS))
        connection = apsw.Connection(str(self.path))
        assert connection.pragma("integrity_check") == "ok"
        connection.close()


# -- the disk


def test_a_run_on_a_full_disk_goes_on_when_there_is_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops with an error that says so, keeps what was acknowledged, and is resumed (fault 5, S1-76)."""
    opened = SqliteStore._open_writer

    def small(self: SqliteStore, worker: _worker.Worker) -> apsw.Connection:
        connection = opened(self, worker)
        connection.execute(f"PRAGMA max_page_count = {int(str(connection.pragma('page_count'))) + 8}")
        return connection

    monkeypatch.setattr(SqliteStore, "_open_writer", small)
    trial = Trial(tmp_path / "runs.db")
    with pytest.raises(StoreUnavailableError, match="Full") as caught:
        trial.run(SqliteStore(path=trial.path))
    monkeypatch.undo()

    assert "Free some space" in caught.value.remedy
    assert 0 < len(trial.acknowledged) < STEPS
    trial.check_resume()


class FlakyDisk(Disk):
    """A disk on which one write or synchronisation fails, or all from there on."""

    def __init__(self, name: str, fails_at: int, *, for_good: bool) -> None:
        super().__init__(name, sys.maxsize)
        self.fails_at, self.for_good = fails_at, for_good

    def step(self) -> None:
        self.operations += 1
        if self.operations == self.fails_at or (self.for_good and self.operations > self.fails_at):
            raise apsw.IOError("input/output error")


@pytest.fixture
def quiet_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite does not ask about (a log that it cannot delete at the end) is nobody's; a small log, for checkpoints too."""
    monkeypatch.setattr(_worker, "CHECKPOINT_PAGES", 20)
    hook = sys.unraisablehook

    def ignore(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, apsw.Error):
            hook(unraisable)

    monkeypatch.setattr(sys, "unraisablehook", ignore)


@pytest.mark.usefixtures("quiet_hooks")
@pytest.mark.parametrize("for_good", [False, True])
def test_an_error_of_any_write_is_told_and_loses_nothing(tmp_path: Path, *, for_good: bool) -> None:
    """EIO on the n-th write, whatever n is: an error of the store's with a remedy, or unnoticed; nothing is lost (fault 6)."""
    errors: list[StoreUnavailableError] = []
    chosen = range(1, 201) if IO_ERRORS >= 200 else range(1, 201, 200 // IO_ERRORS)
    for fails_at in chosen:
        path = tmp_path / f"{fails_at}-{for_good}" / "runs.db"
        path.parent.mkdir()
        store = PoweredStore(path=path, timeout_s=5)
        store.disk = FlakyDisk(f"flaky-{fails_at}-{for_good}", fails_at, for_good=for_good)
        acknowledged: list[int] = []
        try:
            anyio.run(partial(write_records, store, 15, acknowledged))
        except StoreUnavailableError as error:  # anything else is a traceback, and fails here
            errors.append(error)
        store.close()

        kept = numbers(path)
        assert kept[: len(acknowledged)] == acknowledged, fails_at
        assert len(kept) <= len(acknowledged) + 1, fails_at
    assert len(errors) > len(chosen) // 4, "these errors do reach the store"
    assert [error for error in errors if "cannot be used" not in error.problem or not error.remedy] == []


@pytest.mark.usefixtures("quiet_hooks")
def test_a_run_on_a_failing_disk_is_resumed(tmp_path: Path) -> None:
    """Wherever in the run the disk begins to fail (fault 6)."""
    stopped = 0
    for number, fails_at in enumerate((60, 110, 160, 260)):
        trial = Trial(tmp_path / f"{number}.db")
        store = PoweredStore(path=trial.path, timeout_s=5)
        store.disk = FlakyDisk(f"failing-{number}", fails_at, for_good=True)
        try:
            trial.run(store)
        except StoreUnavailableError:
            stopped += 1
        if trial.ids:
            trial.check_resume()
    assert stopped >= 2


# -- locks


BLOCK = """
import sys, time
import apsw
connection = apsw.Connection(sys.argv[1])
connection.set_busy_timeout(60_000)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    """Let another process hold the file for so long."""
    process = subprocess.Popen([sys.executable, "-c", BLOCK, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_waited_for_and_costs_no_lease(tmp_path: Path) -> None:
    """While another process holds the file the run waits, heart and all; no step runs twice, nobody loses the run (fault 7)."""
    trial = Trial(tmp_path / "runs.db")
    holders: list[subprocess.Popen[str]] = []

    def at(number: int) -> None:
        if number == 4:
            holders.append(hold(trial.path, 1.5))

    trial.at = at
    began = time.monotonic()
    trial.run(SqliteStore(path=trial.path, timeout_s=120))

    assert time.monotonic() - began > 1.4
    assert trial.done == dict.fromkeys(range(STEPS), 1)
    holders[0].communicate(timeout=300)
    assert holders[0].returncode == 0


def test_a_lock_that_stays_stops_the_run_and_it_is_resumed(tmp_path: Path) -> None:
    """After ``timeout_s`` the error says that somebody holds the file, and not that the run was taken away (fault 7)."""
    trial = Trial(tmp_path / "runs.db")
    holders: list[subprocess.Popen[str]] = []

    def at(number: int) -> None:
        if number == 4 and not holders:
            holders.append(hold(trial.path, 600))

    trial.at = at
    with pytest.raises(StoreUnavailableError, match="Busy") as caught:
        trial.run(SqliteStore(path=trial.path, timeout_s=0.5))
    holders[0].kill()
    holders[0].communicate()

    assert "stop that process" in caught.value.remedy
    assert len(trial.acknowledged) == 4
    trial.check_resume()


# -- the file goes away


@contextmanager
def ticking() -> Iterator[Callable[[], float]]:
    """How many seconds it has been for a thread that only counts them: a machine that stands still does not age."""
    ticks, over = [0.0], threading.Event()

    def count() -> None:
        while not over.wait(0.05):
            ticks[0] += 0.05

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield lambda: ticks[0]
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_goes_away_stops_the_run_within_seconds(tmp_path: Path, how: str) -> None:
    """Also in the middle of a step that takes minutes: in under 5 s, with the files' name and what to do (fault 9)."""
    path = tmp_path / "runs.db"
    took: list[float] = []
    saved = tmp_path / "saved"
    saved.mkdir()

    @executor("demo.sleep")
    async def sleep(ctx: Context, /) -> None:
        if ctx.attempt == 1 and not took:
            took.append(seconds())
            for file in (path, path.with_name("runs.db-wal")):
                file.rename(saved / file.name)
            if how == "replaced":
                path.write_bytes(b"")
            await anyio.sleep(600)

    workflow = Workflow("gone")
    workflow.step("before", "demo.sleep2")
    workflow.step("sleeps", "demo.sleep", needs=["before"])
    done: Counter[str] = Counter()

    @executor("demo.sleep2")
    async def before() -> None:
        done["before"] += 1

    registry = Registry.of(sleep, before)
    ids: list[str] = []
    store = SqliteStore(path=path)
    with ticking() as seconds:
        with pytest.raises(StoreGoneError) as caught:
            run(workflow, registry=registry, store=store, on_start=lambda handle: ids.append(handle.run_id))
        assert seconds() - took[0] < 5
    store.close()
    assert f"{path} was {how}" in caught.value.problem
    assert "put the files back together" in caught.value.remedy

    for file in tmp_path.glob("runs.db*"):
        file.unlink()
    for file in saved.iterdir():  # the remedy
        file.rename(tmp_path / file.name)
    store = SqliteStore(path=path)
    result = resume(ids[0], registry=registry, store=store)
    store.close()
    assert result.status == "completed"
    assert done == {"before": 1}


# -- as the user of the command sees it


class Project:
    """A folder with a workflow of a few steps, each of which says that it ran, and a folder for the store."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder, self.witness = folder, folder / "witness"
        dropped = ("TREADLE_", "OTEL_", "TRACEPARENT")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.environ |= {"TREADLE_STORE__USE": "sqlite", "TREADLE_STORE__PATH": str(store), "PYTHONIOENCODING": "utf-8"}
        (folder / "executors").mkdir()
        (folder / "executors" / "demo.py").write_text(
            "from treadle import executor\n\n\n"
            '@executor("demo.say")\n'
            "def say(number: int) -> dict[str, object]:\n"
            f'    with open("{self.witness}", "a") as file:\n'
            '        file.write(f"{number}\\n")\n'
            "    return {'number': number, 'noise': ''.join(chr(33 + (number * i * i) % 90) for i in range(9000))}\n"
        )
        (folder / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
        steps = "".join(
            f"  s{n}: {{uses: demo.say, with: {{number: {n}}}, needs: [{f's{n - 1}' if n else ''}]}}\n" for n in range(100)
        )
        (folder / "many.yaml").write_text(f"name: many\nsteps:\n{steps}")
        self.command = f"{sys.executable} -m treadle._cli"

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script with mounts of its own."""
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", script],
            cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=3000, check=False,
        )  # fmt: skip


CAN_MOUNT = (
    os.geteuid() == 0
    and subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"], check=False, capture_output=True
    ).returncode
    == 0
)
needs_mounts = pytest.mark.skipif(not CAN_MOUNT, reason="no mounts of its own here")


@needs_mounts
def test_the_command_on_a_full_disk_exits_with_75_and_resumes(tmp_path: Path) -> None:
    """A file system of 2 MB fills up in mid-run: one message, exit code 75; with more space it is resumed (fault 5)."""
    state = tmp_path / "state"
    state.mkdir()
    project = Project(tmp_path, state / "runs.db")
    done = project.shell(
        f"mount -t tmpfs -o size=2m tmpfs {state} && {project.command} run many.yaml --quiet; echo $? > first; "
        f"mount -o remount,size=64m {state} && {project.command} resume last --quiet --json; echo $? > second;"
        f"{project.command} runs --json > runs.json"
    )

    assert (tmp_path / "first").read_text() == "75\n", done.stderr
    assert (tmp_path / "second").read_text() == "0\n", done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert re.search(r"Store .*runs\.db cannot be used \((Full|IO)", errors[0])
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout)["status"] == "completed"
    said = Counter(project.witness.read_text().split())
    assert set(said) == {str(number) for number in range(100)}
    assert sum(said.values()) <= 101, "at most the step whose result could not be kept ran twice"


@needs_mounts
def test_the_command_on_a_medium_that_cannot_be_written(tmp_path: Path) -> None:
    """What only looks works; a run stops with exit code 75 before any step has run (fault 6)."""
    state = tmp_path / "state"
    state.mkdir()
    project = Project(tmp_path, state / "runs.db")
    (tmp_path / "one.yaml").write_text("name: one\nsteps:\n  s: {uses: demo.say, with: {number: 1}}\n")
    done = project.shell(
        f"{project.command} run one.yaml --quiet && mount --bind {state} {state} && mount -o remount,ro,bind {state} && "
        f"rm witness; for words in 'runs --json' 'show last' 'explain last' 'store stats'; "
        f"do {project.command} $words > out 2>&1; echo $? $words >> codes; done; "
        f"{project.command} run many.yaml --quiet; echo $? run >> codes"
    )

    assert (tmp_path / "codes").read_text().splitlines() == [
        *("0 runs --json", "0 show last", "0 explain last", "0 store stats", "75 run"),
    ], done.stderr
    assert not project.witness.exists()
    assert "can only be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_of_every_call_are_the_stores(tmp_path: Path) -> None:
    """No method lets an error of SQLite's own through: each says what is wrong in treadle's words (S1-76)."""
    (tmp_path / "runs.db").mkdir()
    store = SqliteStore(path=tmp_path / "runs.db", timeout_s=1)
    commit = PortCommit("r", 1, 2, [])
    calls = [
        partial(anyio.run, store.read, "r"),
        partial(anyio.run, store.run, "r"),
        partial(anyio.run, store.steps, "r"),
        partial(anyio.run, store.timers, "r"),
        partial(anyio.run, store.spans, "r"),
        partial(anyio.run, store.load, "r", "a"),
        partial(anyio.run, store.commit, commit),
        partial(anyio.run, store.stats),
        partial(anyio.run, store.clean, 1.0),
        partial(anyio.run, store.vacuum),
        partial(anyio.run, store.migrate),
        partial(anyio.run, store.backup, tmp_path / "copy.db"),
        partial(store.cancel_request, "r"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailableError):
            call()
    store.close()
