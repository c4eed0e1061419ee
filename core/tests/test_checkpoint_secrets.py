"""Secrets in checkpoints: a checkpoint is handed back as it was, so one that holds a secret is told of, or refused."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import savers
from treadle import Registry, RunResult, Secret, TransientError, Workflow, client, executor, hookimpl
from treadle._config import Config
from treadle._memory import MemoryStore
from treadle._models import Json
from treadle.errors import ConfigInvalidError
from treadle.ports import Checkpoint, Claim, Context
from treadle.testing import virtual_run

TOKEN = "correct-horse-battery"


class Watched(MemoryStore):
    """Notes what is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[Checkpoint] = []

    async def save(self, claim: Claim, checkpoint: Checkpoint) -> None:
        """Keep one."""
        self.saved.append(checkpoint)
        await super().save(claim, checkpoint)


def saving(
    data: Any, *, token: str = "half", rule: str = "", times: int = 1, policy: object = None, soon: bool = False
) -> tuple[RunResult, Watched, list[object]]:
    """Run a step that saves, fails once, and is handed back what it saved."""
    seen: list[object] = []

    @executor("demo.save")
    async def save(ctx: Context, /, key: str) -> None:
        """Save a few times, fail, and look."""
        if ctx.checkpoint is not None:
            seen.append((ctx.checkpoint.token, ctx.checkpoint.data))
            return
        for _ in range(times):
            if soon:
                ctx.save_soon(token, data)
            else:
                await ctx.save(token, data)
        raise TransientError("again")

    workflow = Workflow("w", secrets=["KEY"], on_error="continue")
    workflow.step("a", "demo.save", key="${{ secrets.KEY }}", retry={"max_attempts": 2, "base": "1s"})
    store = Watched()
    config = Config(run={"checkpoint_secrets": rule} if rule else {})
    policies = [policy] if policy is not None else []
    registry = Registry.of(save, config=config, policies=policies)
    return virtual_run(workflow, registry=registry, store=store), store, seen


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret of the workflow."""
    monkeypatch.setenv("KEY", TOKEN)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "treadle.keeper"]


@pytest.mark.parametrize("soon", [False, True])
def test_a_secret_in_a_checkpoint_is_told_once_and_changes_nothing(caplog: pytest.LogCaptureFixture, soon: bool) -> None:
    """The next attempt gets what was saved; the warning names the step, the checkpoint and the place, and not the secret."""
    data = {"page": 3, "headers": [{"Authorization": f"Bearer {TOKEN}"}]}
    result, store, seen = saving(data, times=3, soon=soon)

    assert result.steps["a"].status.value == "completed"
    assert seen == [("half", data)]
    assert store.saved[-1].data == data
    (said,) = warnings(caplog)
    assert said.startswith("Step 'a' saves a secret in checkpoint 'half', at $.headers[0].Authorization; ")
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "data",
    [TOKEN, [1, TOKEN], {TOKEN: 1}, b64encode(TOKEN.encode()).decode(), f"https://x/?key={TOKEN}&n=1", TOKEN.encode().hex()],
)
def test_it_is_found_wherever_it_stands_and_however_it_is_spelled(caplog: pytest.LogCaptureFixture, data: Json) -> None:
    """As a text, in a list, as a key, encoded, in a URL."""
    saving(data)

    assert len(warnings(caplog)) == 1
    assert TOKEN not in caplog.text


def test_a_step_may_be_forbidden_to_save_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """With ``refuse`` nothing is stored, and the step fails with an error that is not tried again and says where."""
    result, store, _ = saving({"a": {"b": [TOKEN]}}, rule="refuse")

    error = result.steps["a"].error
    assert error is not None
    assert error.type == "CheckpointInvalidError"
    assert error.message == "Step 'a' cannot save checkpoint 'half': its data hold a secret at $.a.b[0]."
    assert "checkpoint_secrets" in error.remedy
    assert (result.steps["a"].attempts, store.saved) == (1, [])
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("rule", ["warn", "refuse", "keep"])
def test_a_token_is_never_a_secret(rule: str) -> None:
    """Tokens are shown by ``treadle show`` and stand in a column of the store: no rule lets one hold a secret."""
    result, store, _ = saving(1, token=f"page of {TOKEN}", rule=rule)

    error = result.steps["a"].error
    assert error is not None
    assert error.message == "Step 'a' cannot save checkpoint 'page of ***': its token holds a secret."
    assert store.saved == []


def test_who_knows_what_it_does_may_keep_them(caplog: pytest.LogCaptureFixture) -> None:
    """``keep`` says nothing of data."""
    result, store, _ = saving([TOKEN], rule="keep")

    assert result.steps["a"].status.value == "completed"
    assert [point.data for point in store.saved] == [[TOKEN]]
    assert warnings(caplog) == []


def test_what_is_no_secret_is_not_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data without one; and a secret of few letters, which would be found in innocent words."""
    saving({"pages": ["a", "b"], "next": None, "ok": True})
    monkeypatch.setenv("KEY", "half")
    result, _, seen = saving({"done": "half of it"}, rule="refuse")

    assert warnings(caplog) == []
    assert result.steps["a"].status.value == "completed"
    assert seen == [("half", {"done": "half of it"})]


def test_the_secrets_of_settings_count_too(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a client, which the step took from it."""

    @client("vault")
    @attrs.define
    class Vault:
        """Has a password."""

        password: Secret

        @asynccontextmanager
        async def open(self) -> AsyncIterator[str]:
            """What executors get."""
            yield self.password.reveal()

    @executor("demo.save")
    async def save(vault: object, ctx: Context, /) -> None:
        """Save what the client knows."""
        await ctx.save("half", {"with": str(vault)})

    monkeypatch.setenv("PASSWORD", "another-long-password")
    config = Config(clients={"vault": {"password": {"env": "PASSWORD"}}})
    workflow = Workflow("w")
    workflow.step("a", "demo.save")
    virtual_run(workflow, registry=Registry.of(save, clients=[Vault], config=config))

    (said,) = warnings(caplog)
    assert "at $.with;" in said


class Shy:
    """A policy that wants tickets hidden, and whatever stands under ``pin``."""

    covers_outputs = False

    @hookimpl
    def make_redactor(self) -> Shy:
        """It is one itself."""
        return self

    def text(self, text: str) -> str:
        """A text without tickets."""
        return text.replace("ticket", "***")

    def value(self, value: Json, field: str = "") -> Json:
        """Data without them."""
        if isinstance(value, str):
            return "***" if field == "pin" else self.text(value)
        return value


def test_what_policies_hide_counts_too(caplog: pytest.LogCaptureFixture) -> None:
    """By their texts and by the names of fields."""
    _, _, seen = saving({"a": "my ticket", "pin": "1234", "b": ["pin"]}, policy=Shy())

    assert seen == [("half", {"a": "my ticket", "pin": "1234", "b": ["pin"]})]
    (said,) = warnings(caplog)
    assert "at $.a, $.pin;" in said


def test_the_rule_is_one_of_three() -> None:
    """Anything else is a fault of the configuration."""
    with pytest.raises(ConfigInvalidError, match="expected one of warn, refuse, keep, not 'hide'"):
        saving(1, rule="hide")


@pytest.mark.parametrize("how", ["save", "save_soon"])
def test_a_process_of_its_own_is_held_to_it(how: str) -> None:
    """The check is made where the checkpoint is kept; the step fails with the same words."""
    workflow = Workflow("w", secrets=["KEY"], on_error="continue")
    workflow.step("a", "savers.save", isolation="process", how=how, data="${{ secrets.KEY }}")
    config = Config(run={"checkpoint_secrets": "refuse"})
    store = Watched()
    result = virtual_run(workflow, registry=Registry.of(savers.save, config=config), store=store)

    error = result.steps["a"].error
    assert error is not None
    assert "its data hold a secret at $" in error.message
    assert store.saved == []


def test_logging_of_the_warning_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It is seen without any set-up of logging."""
    saving(TOKEN)

    assert [record.levelno for record in caplog.records if record.name == "treadle.keeper"] == [logging.WARNING]
