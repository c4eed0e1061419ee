"""The runs of the golden stores: what they do, and how a store of an earlier version that holds them must behave.

``python tests/golden_stores/golden_runs.py`` writes the files of the installed versions. Once a version has been released its
files stay as they are for ever; until then they are written again when the tables change.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
from treadle import Registry, RunHandle, Secret, TransientError, Workflow, aresume, arun, executor
from treadle.errors import RunSuspendedError
from treadle.ports import Context, RunQuery, Store
from treadle_postgres import PostgresStore
from treadle_postgres._schema import VERSION as POSTGRES_FORMAT
from treadle_sqlite import SqliteStore
from treadle_sqlite._schema import VERSION as SQLITE_FORMAT

HERE = Path(__file__).parent
SCHEMA = "golden"
sys.path.insert(0, str(HERE.parents[1] / "plugins" / "treadle-postgres" / "tests"))

from servers import PostgresServer, programs  # noqa: E402 - where that plugin's tests are

KEY = "golden key"


def workflow(name: str) -> Workflow:
    """A chain with a foreach, a step that is tried again, one that may wait, and what is done in the end."""
    made = Workflow(name)
    made.step("first", "golden.say", text="grüße \u2028 \\ud83d")
    each = made.step("each", "golden.say", foreach=["a", "b", "c"], text="${{ item }}", needs=["first"])
    made.step("again", "golden.again", needs=["each"], retry={"max_attempts": 3, "base": "1ms", "jitter": 0})
    made.step("long", "golden.say", text="x" * 30_000, needs=["again"])
    made.step("wait", "golden.wait", needs=["long"])
    made.step("last", "golden.say", text="${{ steps.each.output | length }} items", needs=["wait"])
    made.finally_step("after", "golden.say", text="after")
    made.output("items", each.output)
    made.output("last", "${{ steps.last.output.text }}")
    return made


class Golden:
    """The executors of these runs, counted."""

    def __init__(self, *, waits: bool) -> None:
        self.done: Counter[str] = Counter()
        self.waiting = anyio.Event()

        @executor("golden.say")
        async def say(ctx: Context, /, text: str) -> dict[str, str]:
            self.done[f"{ctx.step}{'' if ctx.index is None else ctx.index}"] += 1
            return {"text": text}

        @executor("golden.again")
        async def again(ctx: Context, /) -> int:
            self.done[ctx.step] += 1
            if ctx.attempt < 2:
                raise TransientError("not yet")
            return ctx.attempt

        @executor("golden.wait")
        async def wait(ctx: Context, /) -> str:
            self.done[ctx.step] += 1
            if waits:
                await ctx.save("half", {"done": 50})
                self.waiting.set()
                await anyio.sleep_forever()
            return "resumed after " + str(ctx.checkpoint and ctx.checkpoint.token)

        self.registry = Registry.of(say, again, wait)


async def make(store: Store) -> None:
    """One run that completed, under a key; and one that was let go of while a step was at work."""
    await arun(workflow("whole"), registry=Golden(waits=False).registry, store=store, key=KEY)
    golden = Golden(waits=True)
    handles: list[RunHandle] = []

    async def suspended() -> None:
        with suppress(RunSuspendedError):
            await arun(workflow("half"), registry=golden.registry, store=store, on_start=handles.append)

    async with anyio.create_task_group() as group:
        group.start_soon(suspended)
        await golden.waiting.wait()
        handles[0].suspend(drain_s=0)


async def check(store: Store) -> None:
    """Everything is there and is understood: lists, rows, logs, the key; and the run that was let go of goes on."""
    page = await store.runs(RunQuery())
    found = {row.workflow: row for row in page.runs}
    assert {name: row.status.value for name, row in found.items()} == {"whole": "completed", "half": "suspended"}
    whole, half = found["whole"].run_id, found["half"].run_id
    for run_id in (whole, half):
        records = await store.read(run_id)
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
    steps = {(step.path, step.index): step for step in await store.steps(whole)}
    assert steps["again", None].attempt == 2
    assert steps["each", 2].status == "completed"
    assert {row.executor_type for row in await store.spans(whole)} == {"golden.say", "golden.again", "golden.wait"}
    point = await store.load(half, "wait")
    assert point is not None
    assert (point.token, point.data) == ("half", {"done": 50})

    golden = Golden(waits=False)
    again = await arun(workflow("whole"), registry=golden.registry, store=store, key=KEY)
    assert again.run_id == whole
    assert not golden.done
    result = await aresume(half, registry=golden.registry, store=store)
    assert result.status == "completed"
    assert result.outputs["items"] == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    assert golden.done == {"wait": 1, "last": 1, "finally/after": 1}
    assert result.steps["wait"].output == "resumed after half"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server of its own."""
    with tempfile.TemporaryDirectory(prefix="treadle-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # another user may have to look into it
        server = PostgresServer(programs(folder), folder / "golden", syncs=False)
        try:
            yield server
        finally:
            server.remove()


def make_sqlite(target: Path) -> None:
    """Write the SQLite file of this version."""
    with tempfile.TemporaryDirectory() as name:
        store = SqliteStore(path=Path(name) / "runs.db")
        anyio.run(make, store)
        copy = Path(name) / "copy.db"
        anyio.run(store.backup, copy)
        store.close()
        target.write_bytes(gzip.compress(copy.read_bytes(), 9, mtime=0))


def make_postgres(server: PostgresServer, target: Path) -> None:
    """Write the Postgres dump of this version."""
    store = PostgresStore(Secret(server.dsn()), schema=SCHEMA)
    anyio.run(make, store)
    store.close()
    command = [str(server.program("pg_dump")), "--no-owner", f"--schema={SCHEMA}", server.dsn()]
    dump = subprocess.run(command, check=True, capture_output=True).stdout
    target.write_bytes(gzip.compress(dump, 9, mtime=0))


def main() -> None:
    """Write the files of the installed versions."""
    make_sqlite(HERE / f"sqlite-{SQLITE_FORMAT}.db.gz")
    with postgres_server() as server:
        make_postgres(server, HERE / f"postgres-{POSTGRES_FORMAT}.sql.gz")


if __name__ == "__main__":
    main()
