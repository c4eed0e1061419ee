"""Policies that are active together: who sees a call first, and what becomes of it."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import pytest
from treadle import Registry, RunHandle, RunResult, TransientError, Workflow, aresume, executor
from treadle._memory import MemoryStore
from treadle.errors import RunSuspendedError
from treadle.testing import VirtualClock, virtual_run
from treadle_breaker import Breaker
from treadle_cache import Cache
from treadle_chaos import CRASH_CODE, Chaos, Fault
from treadle_limits import Limits
from treadle_redact import Redact

TOKEN = "correct-horse-battery"
made: list[float] = []


@executor("acme.read", effects="none")
async def read(fails: bool = False) -> str:
    made.append(anyio.current_time())
    if fails:
        raise TransientError(f"refused {TOKEN}")
    return "x"


def run(workflow: Workflow, *policies: object) -> RunResult:
    made.clear()
    return virtual_run(workflow, registry=Registry.of(read, policies=policies))


def several(count: int, **options: object) -> Workflow:
    workflow = Workflow("several", max_parallel=1, on_error="continue")
    workflow.step("each", "acme.read", foreach=list(range(count)), on_error="continue", **options)  # type: ignore[arg-type]  # a test's own
    return workflow


@pytest.mark.parametrize("is_first", [True, False])
def test_a_cached_output_needs_no_leave(tmp_path: Path, is_first: bool) -> None:
    """Neither a rate nor a breaker is asked about a call that is not made, in whatever order policies are named."""
    cache, limits = Cache(str(tmp_path / "outputs.db")), Limits({"*": "1/hour"})

    result = run(several(5, cache={}), *([cache, limits] if is_first else [limits, cache]), Breaker())

    assert result.steps["each"].output == ["x"] * 5
    assert result.duration_s < 60
    assert len(made) == 1


def test_an_open_breaker_uses_up_no_rate() -> None:
    """When the breaker is named after the limits it is asked first."""
    retry = {"max_attempts": 1}

    result = run(several(100, fails=True, retry=retry), Limits({"*": "5/hour"}), Breaker(failures=5))

    assert len(made) == 5
    assert result.duration_s < 60


def test_a_breaker_sees_the_faults_of_chaos() -> None:
    """They are struck innermost, as if the service had failed."""
    result = run(several(20, retry={"max_attempts": 1}), Chaos(1, [Fault("error")]), Breaker(failures=3))

    errors = [entry.error.type for entry in result.entries if getattr(entry, "kind", "") == "ItemEnded" and entry.error]  # type: ignore[union-attr]  # ItemEnded
    assert errors == ["ChaosTransientError"] * 3 + ["BreakerOpenError"] * 17
    assert made == []


def test_what_is_hidden_decides_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All five at once: the secret is nowhere, the breaker counts, what failed is not kept."""
    monkeypatch.setenv("TOKEN", TOKEN)
    workflow = several(6, fails=True, retry={"max_attempts": 1}, cache={})
    workflow.secrets = ("TOKEN",)
    rate = {"limit": 1, "per": "minute"}
    workflow.step("one", "acme.read", needs="each", cache={}, rate_limit=rate, retry={"max_attempts": 1})
    monkeypatch.setattr("treadle._app.secrets_of", lambda plan, config: {"TOKEN": TOKEN})

    result = run(
        workflow, Redact(), Limits({"*": "100/second"}), Breaker(failures=5), Cache(str(tmp_path / "outputs.db")), Chaos(1)
    )

    assert TOKEN not in repr(result.entries) + repr(result.spans)
    assert len(made) == 5
    assert result.steps["one"].error is not None
    assert result.steps["one"].error.type == "BreakerOpenError"


SITE = """
from pathlib import Path
from treadle import executor

@executor("site.note")
async def note(i: int) -> int:
    with Path("notes.txt").open("a") as notes:
        notes.write(f"{i}\\n")
    return i
"""

SETTINGS = """
[store]
use = "sqlite"
path = "runs.db"
[plugins]
policies = ["chaos"]
folder = "executors"
[policies.chaos]
seed = 1
[[policies.chaos.faults]]
kind = "crash"
point = "commit*"
passing = PASSING
"""

DURABLE = """
import treadle
workflow = treadle.Workflow("w")
for number in range(5):
    workflow.step(f"s{number}", "site.note", needs=[f"s{number - 1}"] if number else [], i=number)
print(treadle.run(workflow, key="k").status)
"""


@pytest.mark.parametrize("passing", [2, 5])
def test_a_crash_at_a_point_inside_of_treadle(tmp_path: Path, passing: int) -> None:
    """At its so manieth passing in the first process; the next one takes the run to its end, and nothing is done twice."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "site.py").write_text(SITE)
    (tmp_path / "treadle.toml").write_text(SETTINGS.replace("PASSING", str(passing)))

    first, second = (
        subprocess.run([sys.executable, "-c", DURABLE], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        for _ in range(2)
    )

    assert (first.returncode, first.stdout) == (CRASH_CODE, "")
    assert (second.returncode, second.stdout) == (0, "completed\n"), second.stderr
    assert (tmp_path / "notes.txt").read_text().split() == [str(number) for number in range(5)]


def test_what_was_put_off_is_no_failure_of_the_service() -> None:
    """A breaker, in whatever order, counts only calls that were made; a cache keeps what came in the end."""
    for is_first in (True, False):
        limits, breaker = Limits({"*": "1/minute"}, on_limit="later"), Breaker(failures=1)

        result = run(several(4, retry={"max_attempts": 1}), *([limits, breaker] if is_first else [breaker, limits]))

        assert result.steps["each"].output == ["x"] * 4
        assert result.duration_s == pytest.approx(180, abs=0.1)


def test_calls_that_share_an_output_are_made_once_though_they_were_put_off(tmp_path: Path) -> None:
    """Who waits for the first of them is not left alone, and finds what it gave."""
    cache, limits = Cache(str(tmp_path / "outputs.db")), Limits({"*": "1/minute"}, on_limit="later")
    workflow = several(1)
    workflow.step("same", "acme.read", foreach=list(range(3)), needs="each", cache={})

    result = run(workflow, cache, limits)

    assert result.steps["same"].output == ["x"] * 3
    assert len(made) == 2


def test_a_run_that_goes_on_elsewhere_goes_on_with_what_was_put_off() -> None:
    """The time is recorded: who resumes the run waits for the rest of it, and knows nothing of the windows before."""
    clock, store, handles = VirtualClock(), MemoryStore(), list[RunHandle]()
    made.clear()

    @executor("test.leave", effects="none")
    async def leave() -> None:
        if len(handles) == 1:
            await anyio.sleep(600)
            handles[0].suspend("enough for now")

    workflow = Workflow("leaving")
    workflow.step("each", "acme.read", foreach=[1, 2])
    workflow.step("leave", "test.leave")

    def registry() -> Registry:
        return Registry.of(read, leave, policies=[Limits({"acme.*": "1/hour"}, on_limit="later")])

    with pytest.raises(RunSuspendedError):
        virtual_run(workflow, registry=registry(), clock=clock, store=store, on_start=handles.append)
    handles.append(handles[0])
    result = clock.run(partial(aresume, handles[0].run_id, store=store, registry=registry(), clock=clock))

    assert result.status == "completed"
    assert result.duration_s == pytest.approx(3600, abs=1)
    assert len(made) == 2
