"""Policies that are active together: who sees a call first, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from treadle import Registry, RunResult, TransientError, Workflow, executor
from treadle.testing import virtual_run
from treadle_breaker import Breaker
from treadle_cache import Cache
from treadle_chaos import Chaos, Fault
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
    assert result.duration_s < 2
    assert len(made) == 1


def test_an_open_breaker_uses_up_no_rate() -> None:
    """When the breaker is named after the limits it is asked first."""
    retry = {"max_attempts": 1}

    result = run(several(100, fails=True, retry=retry), Limits({"*": "5/hour"}), Breaker(failures=5))

    assert len(made) == 5
    assert result.duration_s < 1


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
