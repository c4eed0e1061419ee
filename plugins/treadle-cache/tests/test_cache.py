"""What the policy ``cache`` promises, in whole runs whose time is virtual."""

from __future__ import annotations

import json
import logging
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import apsw
import pytest
import treadle
from treadle import PermanentError, Registry, RunResult, TransientError, Workflow, executor
from treadle.errors import ConfigInvalidError, WorkflowInvalidError
from treadle.ports import Call, CallCache
from treadle.testing import Recorder, VirtualClock, virtual_run
from treadle_cache import Cache, key_of
from treadle_cache._file import Kept, OutputFile, default_path
from treadle_cache._flight import Flight

TOKEN = "s3cret-value-of-it"

made: list[tuple[str, object]] = []


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    made.clear()
    yield
    made.clear()


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(str(tmp_path / "outputs.db"))


@executor("acme.read", effects="none")
async def read(what: object = None, seconds: float = 1.0) -> dict[str, object]:
    made.append(("read", what))
    await anyio.sleep(seconds)
    return {"what": what}


@executor("acme.fail", effects="none")
async def fail(what: object = None) -> None:
    made.append(("fail", what))
    await anyio.sleep(1)
    raise TransientError("not now")


@executor("acme.strange", effects="none")
async def strange(what: object = None) -> int:
    made.append(("strange", what))
    return "no number"  # type: ignore[return-value]  # that is the point


@executor("acme.tell", effects="none")
async def tell(token: str = "", as_is: bool = True) -> list[str]:
    made.append(("tell", as_is))
    return ["the token is", token if as_is else token.encode().hex()]


@executor("acme.pause", effects="none")
async def pause(seconds: float) -> None:
    await anyio.sleep(seconds)


EXECUTORS = (read, fail, strange, tell, pause)


def run(workflow: Workflow, *policies: object, **options: object) -> RunResult:
    return virtual_run(workflow, registry=Registry.of(*EXECUTORS, policies=policies), **options)  # type: ignore[arg-type]


def reading(count: int = 1, uses: str = "acme.read", **options: object) -> Workflow:
    """A workflow of steps that do the same, one after the other."""
    workflow = Workflow("reading")
    for number in range(count):
        needs = [f"s{number - 1}"] if number else []
        workflow.step(f"s{number}", uses, needs=needs, **{"cache": {"ttl": "1h"}, "what": "x", **options})  # type: ignore[arg-type]
    return workflow


def statuses(result: RunResult) -> list[str]:
    return [str(step.status) for step in result.steps.values()]


def test_a_kept_output_is_given_again(cache: Cache, backend: str) -> None:
    """The second step takes no time, ends as cached, and has the same output; only the first was called."""
    result = run(reading(2), cache, backend=backend)

    assert statuses(result) == ["completed", "cached"]
    assert result.steps["s1"].output == {"what": "x"}
    assert 1 <= result.duration_s < 60  # the file is read in real time
    assert made == [("read", "x")]


def test_it_lasts_longer_than_the_process(cache: Cache) -> None:
    """Another instance with the same file finds what the first one kept."""
    run(reading(), cache)

    result = run(reading(), Cache(cache.path))

    assert statuses(result) == ["cached"]
    assert len(made) == 1


def test_a_step_without_a_cache_is_called(cache: Cache) -> None:
    """Nothing is looked up or kept for a step that does not say so."""
    result = run(reading(2, cache=None), cache)

    assert statuses(result) == ["completed", "completed"]


@pytest.mark.parametrize(("age_s", "status"), [(3000, "cached"), (3601, "completed")])
def test_it_grows_old(cache: Cache, backend: str, age_s: float, status: str) -> None:
    """After ``ttl`` the call is made again, and its output is kept in place of the old one; by the run's own time."""
    registry, clock = Registry.of(*EXECUTORS, policies=[cache]), VirtualClock()
    workflow = reading()
    workflow.step("pause", "acme.pause", seconds=age_s, needs="s0")
    workflow.step("again", "acme.read", what="x", cache={"ttl": "1h"}, needs="pause")
    workflow.step("at_once", "acme.read", what="x", cache={"ttl": "10m"}, needs="again")

    result = virtual_run(workflow, registry=registry, backend=backend, clock=clock)

    assert result.steps["again"].status == status
    assert result.steps["at_once"].status == ("completed" if status == "cached" else "cached")


def test_without_a_ttl_it_does_not(cache: Cache) -> None:
    """Any age will do."""
    workflow = reading(cache={})
    workflow.step("pause", "acme.pause", seconds=10_000_000, needs="s0")
    workflow.step("again", "acme.read", what="x", cache={}, needs="pause")

    result = run(workflow, cache)

    assert result.steps["again"].status == "cached"


def test_other_inputs_are_another_call(cache: Cache) -> None:
    """Whatever is different in them; the order of their names is not."""
    workflow = Workflow("others", max_parallel=1)
    for number, what in enumerate([{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1}, [1], "1", 1, None]):
        workflow.step(f"s{number}", "acme.read", what=what, cache={}, needs=[f"s{number - 1}"] if number else [])

    assert statuses(run(workflow, cache)) == ["completed", "cached", *["completed"] * 5]


def test_a_key_stands_for_the_inputs(cache: Cache) -> None:
    """Steps with one key share an output though their inputs differ; with different keys they do not."""
    workflow = Workflow("keys", max_parallel=1)
    day = workflow.input("day", default="monday")
    workflow.step("a", "acme.read", what=1, cache={"key": day})
    workflow.step("b", "acme.read", what=2, cache={"key": "monday"}, needs="a")
    workflow.step("c", "acme.read", what=1, cache={"key": "tuesday"}, needs="b")

    result = run(workflow, cache)

    assert statuses(result) == ["completed", "cached", "completed"]
    assert result.steps["b"].output == {"what": 1}


def test_the_key_names_executor_code_and_client() -> None:
    """A call of another executor, of a new version, or through another client is another call; an attempt is not."""
    call = Call("r", "w", "p", "e", {"n": 1}, cache=CallCache(None, None, "1.0"))
    others = [
        Call("r", "w", "p", "f", {"n": 1}, cache=CallCache(None, None, "1.0")),
        Call("r", "w", "p", "e", {"n": 1}, cache=CallCache(None, None, "1.1")),
        Call("r", "w", "p", "e", {"n": 1}, clients={"db": "billing"}, cache=CallCache(None, None, "1.0")),
        Call("r", "w", "p", "e", {"n": 1}, cache=CallCache(None, {"inputs": {"n": 1}, "clients": {}}, "1.0")),
    ]
    same = Call("r2", "w2", "q", "e", {"n": 1}, index=3, attempt=2, cache=CallCache(5.0, None, "1.0"))

    assert key_of(same) == key_of(call)
    assert len({key_of(one) for one in (call, *others)}) == 5


@pytest.mark.parametrize("uses", ["acme.fail", "acme.strange"])
def test_failures_are_not_kept(cache: Cache, backend: str, uses: str) -> None:
    """Neither what raised, nor an output that its contract refuses: each call is made."""
    workflow = Workflow("failing", on_error="continue")
    for number in range(2):
        workflow.step(f"s{number}", uses, cache={}, retry={"max_attempts": 2, "base": "1s"})

    result = run(workflow, cache, backend=backend)

    assert statuses(result) == ["failed", "failed"]
    assert len(made) == (4 if uses == "acme.fail" else 2)


def test_a_retry_that_works_is_kept(cache: Cache) -> None:
    """It is the outcome that counts."""
    attempts: list[int] = []

    @executor("acme.second", effects="none")
    async def second(what: object = None) -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise TransientError("not yet")
        return 7

    registry = Registry.of(second, policies=[cache])

    first, again = (virtual_run(reading(1, "acme.second"), registry=registry) for _ in range(2))

    assert (first.steps["s0"].status, first.steps["s0"].attempts) == ("completed", 2)
    assert (again.steps["s0"].status, again.steps["s0"].output) == ("cached", 7)


@pytest.mark.parametrize("as_is", [True, False])
def test_an_output_with_a_secret_is_not_kept(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, as_is: bool, tmp_path: Path
) -> None:
    """In whatever spelling it stands there: the call is made each time, and the file has no trace of it."""
    monkeypatch.setenv("TOKEN", TOKEN)
    workflow = Workflow("telling", secrets=("TOKEN",))
    workflow.step("one", "acme.tell", token="${{ secrets.TOKEN }}", as_is=as_is, cache={"key": "mine"})

    first, second = (run(workflow, cache) for _ in range(2))

    assert statuses(first) == statuses(second) == ["completed"]
    assert len(made) == 2
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert TOKEN.encode() not in written
    assert TOKEN.encode().hex().encode() not in written


@pytest.mark.parametrize(("token", "times"), [("abc", 2), ("", 1), (TOKEN, 2)])
def test_short_secrets_count_too(cache: Cache, monkeypatch: pytest.MonkeyPatch, token: str, times: int) -> None:
    """One of a few letters is looked for as it is; an empty one is none."""
    monkeypatch.setenv("TOKEN", token)
    workflow = Workflow("telling", secrets=("TOKEN",))
    workflow.step("one", "acme.tell", token="${{ secrets.TOKEN }}", cache={"key": "mine"})

    for _ in range(2):
        run(workflow, cache)

    assert len(made) == times


def test_of_equal_calls_at_one_time_one_is_made(cache: Cache, backend: str) -> None:
    """The others wait for it and take what it gives."""
    workflow = Workflow("herd", max_parallel=50)
    workflow.step("each", "acme.read", foreach=list(range(50)), what="x", cache={"ttl": "1h"})
    recorder = Recorder()

    result = run(workflow, cache, backend=backend, sinks=[recorder])

    assert made == [("read", "x")]
    assert result.steps["each"].output == [{"what": "x"}] * 50
    assert 1 <= result.duration_s < 60  # the file is read in real time
    assert sum(entry.outcome.cached for entry in recorder.entries("AttemptEnded")) == 49  # type: ignore[union-attr]  # AttemptEnded


def test_when_the_one_fails_each_goes_for_itself(cache: Cache, backend: str) -> None:
    """At the same time, not one after the other."""
    workflow = Workflow("herd", max_parallel=50, on_error="continue")
    options = {"retry": {"max_attempts": 1}, "on_error": "continue"}
    workflow.step("each", "acme.fail", foreach=list(range(50)), what="x", cache={}, **options)  # type: ignore[arg-type]

    result = run(workflow, cache, backend=backend)

    assert len(made) == 50
    assert result.duration_s < 50


def test_whoever_waits_may_be_cancelled(cache: Cache, backend: str) -> None:
    """At its deadline a call that waits for another gives up, and leaves nothing behind."""
    workflow = Workflow("deadline", on_error="continue")
    workflow.step("slow", "acme.read", what="x", seconds=60, cache={"key": "k"})
    workflow.step("hasty", "acme.read", what="x", seconds=60, timeout=5, cache={"key": "k"}, retry={"max_attempts": 1})

    result = run(workflow, cache, backend=backend)

    assert {path: str(step.status) for path, step in result.steps.items()} == {"hasty": "timed_out", "slow": "completed"}
    assert statuses(run(reading(cache={"key": "k"}), cache, backend=backend)) == ["cached"]


def test_a_call_that_is_cancelled_lets_the_others_go(cache: Cache, backend: str) -> None:
    """Those that waited for it do it themselves."""
    workflow = Workflow("deadline", on_error="continue")
    workflow.step("hasty", "acme.read", what="x", seconds=60, timeout=5, cache={"key": "k"}, retry={"max_attempts": 1})
    workflow.step("other", "acme.read", what="x", cache={"key": "k"})

    result = run(workflow, cache, backend=backend)

    assert {path: str(step.status) for path, step in result.steps.items()} == {"hasty": "timed_out", "other": "completed"}
    assert result.duration_s < 50


def test_runs_in_two_threads_share_one_call(cache: Cache) -> None:
    """Whichever event loop each has."""
    registry = Registry.of(*EXECUTORS, policies=[cache])
    results: list[RunResult] = []

    def go() -> None:
        results.append(treadle.run(reading(seconds=0.5), registry=registry, store=None))

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(status for result in results for status in statuses(result)) == ["cached"] * 3 + ["completed"]
    assert len(made) == 1


def test_a_flight_can_land_before_anybody_waits() -> None:
    """Then nobody does; and only the first landing counts."""

    async def main() -> None:
        flight = Flight()
        flight.land(1, at=5.0)
        flight.land(2)
        await flight.landed()
        assert (flight.output, flight.has_output, flight.at) == (1, True, 5.0)

    anyio.run(main)


def test_a_kept_output_that_is_no_longer_valid_is_forgotten(cache: Cache) -> None:
    """The step fails once, with its issues; afterwards the call is made."""
    run(reading(uses="acme.read"), cache)
    connection = apsw.Connection(cache.path)
    connection.execute("UPDATE outputs SET output = CAST('[1]' AS BLOB)")
    connection.close()

    first = run(reading(retry={"max_attempts": 1}), cache)
    second = run(reading(), cache)

    assert first.steps["s0"].error is not None
    assert first.steps["s0"].error.type == "OutputInvalidError"
    assert statuses(second) == ["completed"]


# -- the file


def test_the_file_is_for_its_owner_alone(cache: Cache, tmp_path: Path) -> None:
    """And made with its folder on first use."""
    nested = Cache(str(tmp_path / "a" / "b" / "outputs.db"))

    run(reading(), nested)

    assert stat.S_IMODE(Path(nested.path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(nested.path).parent.stat().st_mode) == 0o700


def test_the_thread_that_writes_comes_and_goes(tmp_path: Path) -> None:
    """A process that is done with caching keeps neither a thread nor an open file for it; one that goes on gets both again."""
    file = OutputFile(tmp_path / "outputs.db", 1_000)
    until = time.monotonic() + 60
    file.put(b"a", Kept(1.0, b"1"))
    while any(thread.name == "treadle-cache" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.02)
    file.put(b"b", Kept(2.0, b"2"))
    file.flush()

    other = OutputFile(tmp_path / "outputs.db", 1_000)
    assert [other.get(key) for key in (b"a", b"b")] == [Kept(1.0, b"1"), Kept(2.0, b"2")]
    other.close()
    file.close()


@pytest.mark.parametrize("fault", ["a folder", "garbage", "not writable"])
def test_a_file_that_cannot_be_used_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str, request: pytest.FixtureRequest
) -> None:
    """The run goes on, and one line says why nothing is cached."""
    path = tmp_path / "outputs.db"
    if fault == "a folder":
        path.mkdir()
    elif fault == "garbage":
        path.write_bytes(b"no database at all" * 100)
    else:
        path = Path("/proc/treadle/outputs.db")

    result = run(reading(3), Cache(str(path)))

    assert statuses(result) == ["completed"] * 3
    assert [record.getMessage().partition(" (")[0] for record in caplog.records if record.name == "treadle.policies.cache"] == [
        f"{path} cannot be used"
    ]


def test_the_oldest_outputs_make_room(tmp_path: Path) -> None:
    """The file holds what it may, and what came last stays."""
    file = OutputFile(tmp_path / "outputs.db", 100_000)
    keys = [bytes([number]) * 32 for number in range(50)]

    for number, key in enumerate(keys):
        file.put(key, Kept(float(number), b"x" * 5_000))
    file.flush()

    kept = [number for number, key in enumerate(keys) if file.get(key)]
    assert kept == list(range(50 - len(kept), 50))
    assert 15 <= len(kept) <= 20
    file.close()


def test_an_output_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    """One may have a tenth of the room, so that it does not drive out the rest."""
    cache = Cache(str(tmp_path / "outputs.db"), max_mb=1)
    workflow = reading(2, what="x" * 100_001)

    assert statuses(run(workflow, cache)) == ["completed", "completed"]


def test_what_was_put_is_there_at_once(tmp_path: Path) -> None:
    """For this process before it is in the file, for others when it is; after it was removed for nobody."""
    file = OutputFile(tmp_path / "outputs.db", 1_000_000)
    kept = Kept(1.0, b"1")

    file.put(b"k", kept)
    at_once = file.get(b"k")
    file.flush()
    other = OutputFile(file.path, 1_000_000)

    assert at_once == kept
    assert other.get(b"k") == kept
    file.put(b"k", None)
    assert file.get(b"k") is None
    file.flush()
    assert other.get(b"k") is None
    file.close()
    other.close()
    assert file.get(b"k") is None


def test_a_file_of_another_layout_is_emptied(tmp_path: Path) -> None:
    """It is a cache: nothing is lost that cannot be made again."""
    path = tmp_path / "outputs.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE outputs (a); INSERT INTO outputs VALUES (1); PRAGMA user_version = 99")
    connection.close()
    file = OutputFile(path, 1_000_000)

    file.put(b"k", Kept(1.0, b"1"))
    file.flush()

    assert file.get(b"k") == Kept(1.0, b"1")
    file.close()


def test_two_processes_may_write(tmp_path: Path) -> None:
    """What each keeps the other finds."""
    path = tmp_path / "outputs.db"
    code = """
import sys
from treadle_cache._file import Kept, OutputFile
from pathlib import Path
file = OutputFile(Path(sys.argv[1]), 10**9)
for n in range(200):
    file.put(f"{sys.argv[2]}-{n}".encode(), Kept(float(n), b"[]"))
file.close()
"""
    started = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "abc"]
    assert [process.wait(300) for process in started] == [0, 0, 0]

    file = OutputFile(path, 10**9)
    assert all(file.get(f"{name}-{n}".encode()) for name in "abc" for n in range(200))
    file.close()


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_path() == Path("/somewhere/treadle/outputs.db")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_path() == Path.home() / ".cache" / "treadle" / "outputs.db"


# -- as it is switched on

SITE = """
from treadle import executor

@executor("site.read", effects="none")
async def read() -> int:
    print("called")
    return VALUE
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an executor and a workflow, which is the working directory."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "site.py").write_text(SITE.replace("VALUE", "1"))
    workflow = {"name": "w", "steps": {"one": {"uses": "site.read", "cache": {}}}, "outputs": {"n": "${{ steps.one.output }}"}}
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    monkeypatch.chdir(tmp_path)
    return tmp_path


SETTINGS = (
    '[plugins]\npolicies = ["cache"]\nfolder = "executors"\n[policies.cache]\npath = "kept.db"\n[store]\nuse = "memory"\n'
)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "treadle._cli", *arguments], capture_output=True, text=True, timeout=300)


def test_it_is_switched_on_by_configuration(site: Path) -> None:
    """Through the command, from one process to the next; an executor that was edited is called again."""
    (site / "treadle.toml").write_text(SETTINGS)

    first, second = (command("run", "w.json", "--json") for _ in range(2))
    shown = command("run", "w.json")
    (site / "executors" / "site.py").write_text(SITE.replace("VALUE", "2"))
    third = command("run", "w.json", "--json")

    results = [json.loads(one.stdout) for one in (first, second, third)]
    assert [result["steps"]["one"]["status"] for result in results] == ["completed", "cached", "completed"]
    assert [result["outputs"]["n"] for result in results] == [1, 1, 2]
    assert "called" not in second.stderr
    assert "cached" in shown.stdout + shown.stderr


def test_a_file_that_asks_for_it_is_refused_without_it(site: Path) -> None:
    """It is installed but not named: the error says how to switch it on."""
    (site / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')

    with pytest.raises(WorkflowInvalidError) as failure:
        treadle.run(treadle.load_workflow("w.json"))

    assert "'cache' is served by the policy 'cache', which is not active" in str(failure.value)
    assert 'name it in treadle.toml: [plugins] policies = ["cache"]' in str(failure.value)
    assert "pip install" not in str(failure.value)


def test_settings_that_cannot_be_are_refused(site: Path) -> None:
    """Before anything starts."""
    (site / "treadle.toml").write_text(SETTINGS.replace('path = "kept.db"', "max_mb = 0"))

    with pytest.raises(ConfigInvalidError, match="max_mb"):
        treadle.run(treadle.load_workflow("w.json"))


def test_it_costs_nothing_when_it_is_not_named(site: Path) -> None:
    """Installed but not named, it is not even imported."""
    (site / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    code = """
import sys, treadle
workflow = treadle.Workflow("w")
workflow.step("one", "site.read")
assert treadle.run(workflow).status == "completed"
print([name for name in sys.modules if name.split(".")[0] in ("apsw", "treadle_cache")])
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)

    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_permanent_failure_of_the_one_leaves_the_others_their_own(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """What a call met is not given to those who waited: each hears its own answer."""
    answers = iter([PermanentError("not you"), {"ok": 1}, {"ok": 2}])

    @executor("acme.moody", effects="none")
    async def moody() -> dict[str, int]:
        answer = next(answers)
        await anyio.sleep(1)
        if isinstance(answer, Exception):
            raise answer
        return answer

    workflow = Workflow("moody", on_error="continue")
    workflow.step("each", "acme.moody", foreach=[1, 2, 3], cache={}, on_error="continue")

    with caplog.at_level(logging.INFO):
        result = virtual_run(workflow, registry=Registry.of(moody, policies=[cache]))

    assert sorted(str(item) for item in result.steps["each"].output) == ["None", "{'ok': 1}", "{'ok': 2}"]  # type: ignore[attr-defined]  # a list
