"""What the policy ``redact`` promises in whole runs: a canary goes in, and comes out nowhere."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import treadle
from treadle import Issue, JsonLogFormatter, Registry, RunResult, TransientError, Workflow, executor, hookimpl
from treadle.errors import ConfigInvalidError
from treadle.ports import dump_line
from treadle.testing import Recorder, virtual_run
from treadle_redact import Redact, RedactionFilter, Redactor, without_secrets

CANARY = "CANARY-9f3/+e1&x"
CODED = b64encode(f"user:{CANARY}!".encode()).decode()
SPELLED = ("CANARY", "9f3%2F", CODED[8:-4], CANARY.encode().hex())


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _canary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_TOKEN", CANARY)


class QuotaError(Exception):
    """What an author's own error class may look like."""

    def __init__(self, sent: str, *, status_code: int) -> None:
        self.sent, self.status_code = sent, status_code
        super().__init__(sent, status_code)

    def __str__(self) -> str:
        return f"status {self.status_code} for {self.sent}"


class Fussy(Exception):
    """One that cannot be made in any other way than its own."""

    def __new__(cls, number: int) -> Fussy:
        return super().__new__(cls, int(number) + 1)

    def __init_subclass__(cls) -> None:
        raise TypeError("final")

    def __str__(self) -> str:
        return f"fussy about {CANARY}"


def failure(how: str) -> Exception:
    """An error that says the canary in one way or another."""
    if how == "message":
        return ValueError(f"cannot log in with {CANARY}")
    if how == "coded":
        return QuotaError(CODED, status_code=503)
    if how == "treadle":
        return TransientError(f"sent {CANARY.encode().hex()}", f"do not send {CANARY}", retry_after_s=5)
    if how == "note":
        error = ValueError("cannot log in")
        error.add_note(f"with {CANARY}")
        return error
    if how == "cause":
        error = ValueError("cannot log in")
        error.__cause__ = OSError(5, "refused", f"/tokens/{CANARY}")
        return error
    if how == "partial":
        partial = ValueError("cannot log in")
        partial.partial_results = [CODED]  # type: ignore[attr-defined]  # as authors do
        return partial
    if how == "group":
        return ExceptionGroup(f"two for {CANARY}", [ValueError("one"), KeyError(CANARY)])
    if how == "fussy":
        return Fussy(1)
    return UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, f"is {CANARY}")


HOW = {
    "message": "ValueError",
    "coded": "QuotaError",
    "treadle": "TransientError",
    "note": "ValueError",
    "cause": "ValueError",
    "partial": "ValueError",
    "group": "ExceptionGroup",
    "fussy": "Fussy",
    "unicode": "UnicodeDecodeError",
}


@executor("acme.login")
async def login(token: str, how: str) -> str:
    logging.getLogger("acme").warning("logging in with %s", token)
    assert token == CANARY
    raise failure(how)


@executor("acme.echo")
async def echo(token: str) -> dict[str, str]:
    return {"said": f"token is {token}", "coded": CODED}


@attrs.frozen
class Account:
    owner: str
    password: str


@executor("acme.account")
async def account(token: str) -> Account:
    return Account(owner=f"{token}@acme", password="x")


EXECUTORS = (login, echo, account)


def run(uses: str, policy: object, *sinks: object, backend: str = "asyncio", **inputs: object) -> RunResult:
    workflow = Workflow("secretive", secrets=("ACME_TOKEN",))
    retry = {"max_attempts": 2, "base": "1s"}
    workflow.step("one", uses, retry=retry, with_={"token": "${{ secrets.ACME_TOKEN }}", **inputs})
    return virtual_run(workflow, registry=Registry.of(*EXECUTORS, policies=[policy]), backend=backend, sinks=sinks)


@pytest.mark.parametrize(("how", "kind"), HOW.items())
def test_no_record_of_an_error_holds_the_secret(how: str, kind: str, backend: str) -> None:
    """Message, remedy, notes, causes, groups, attributes, in any spelling: hidden; the error's type stays."""
    recorder = Recorder()

    result = run("acme.login", Redact(), recorder, backend=backend, how=how)

    error = result.steps["one"].error
    assert error is not None
    assert error.type == kind
    kept = "\n".join([*(dump_line(record.entry) for record in recorder.records), *map(repr, recorder.spans), repr(result)])
    assert [spelled for spelled in SPELLED if spelled in kept] == []
    assert "***" in f"{error.message}{error.traceback}{error.remedy}{error.partial_results}"


def test_the_canary_would_be_seen() -> None:
    """Without the policy a coded secret does stand in the records: the test above tests something."""
    recorder = Recorder()

    run("acme.login", Recorder(), recorder, how="partial")

    assert any(CODED in dump_line(record.entry) for record in recorder.records)


def test_what_an_error_says_of_itself_is_still_heard() -> None:
    """Retries decide as before: by status code, by what the service asks for, by type."""
    coded, asked, plain = (run("acme.login", Redact(), how=how) for how in ("coded", "treadle", "message"))

    assert coded.steps["one"].attempts == 2
    assert asked.steps["one"].attempts == 2
    assert asked.duration_s == pytest.approx(5, abs=0.01)
    assert plain.steps["one"].attempts == 1


def test_an_error_without_secrets_is_left_alone() -> None:
    """It is the same object; one with a secret gives a stand-in that passes for the same kind, with its traceback."""
    redactor = Redactor()
    redactor.learn([CANARY])
    innocent, guilty = ValueError("nothing to see"), QuotaError(CANARY, status_code=503)

    cleaned = without_secrets(guilty, redactor)

    assert without_secrets(innocent, redactor) is innocent
    assert isinstance(cleaned, QuotaError)
    assert (cleaned.status_code, cleaned.sent, str(cleaned)) == (503, "***", "status 503 for ***")
    assert guilty.sent == CANARY


def test_outputs_stay_unless_asked_for(backend: str) -> None:
    """By default an output is what it is, since later steps may need it; with ``outputs`` it is recorded without secrets."""
    as_it_is = run("acme.echo", Redact(), backend=backend)
    hidden = run("acme.echo", Redact(outputs=True), backend=backend)
    typed = run("acme.account", Redact(outputs=True), backend=backend)

    assert as_it_is.steps["one"].output == {"said": f"token is {CANARY}", "coded": CODED}
    assert json.dumps(hidden.steps["one"].output).count("***") == 2
    assert [spelled for spelled in SPELLED if spelled in json.dumps(hidden.steps["one"].output)] == []
    assert typed.steps["one"].output == {"owner": "***@acme", "password": "***"}


def test_what_is_said_against_an_output_is_cleaned() -> None:
    """A check that quotes what it saw does not give it away."""

    class Strict:
        @hookimpl
        def validate_output(self, output: object) -> list[Issue]:
            return [Issue(f"must not be {output}", f"$.{CANARY}")]

    workflow = Workflow("strict", secrets=("ACME_TOKEN",))
    workflow.step("one", "acme.echo", token="${{ secrets.ACME_TOKEN }}")

    result = virtual_run(workflow, registry=Registry.of(echo, policies=[Strict(), Redact()]))

    error = result.steps["one"].error
    assert error is not None
    assert [spelled for spelled in SPELLED if spelled in f"{error.message}{error.issues}"] == []


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a handler of the root logger writes, as JSON lines."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLogFormatter())
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


def test_logs_are_cleaned(stream: io.StringIO) -> None:
    """What executors log while the policy is active, whoever's logger it is, goes out without secrets."""
    policy = Redact()

    run("acme.login", policy, how="message")

    [line] = [json.loads(line) for line in stream.getvalue().splitlines() if '"acme"' in line]
    assert line["message"] == "logging in with ***"
    assert CANARY not in stream.getvalue()


def test_logs_stay_when_the_policy_is_told_so(stream: io.StringIO) -> None:
    """``logs = false`` leaves the handlers alone."""
    run("acme.login", Redact(logs=False), how="message")

    assert f"logging in with {CANARY}" in stream.getvalue()


def test_handlers_are_given_back(stream: io.StringIO) -> None:
    """When the run is over its filters are gone, also from handlers that it did not log to."""
    handlers = [*logging.getLogger().handlers, *logging.getLogger("treadle").handlers]
    before = [list(handler.filters) for handler in handlers]
    policy = Redact()
    seen: list[bool] = []

    @executor("acme.look")
    async def look() -> None:
        seen.append(all(len(handler.filters) > len(kept) for handler, kept in zip(handlers, before, strict=True)))

    workflow = Workflow("looks")
    workflow.step("one", "acme.look")
    for _ in range(2):
        virtual_run(workflow, registry=Registry.of(look, policies=[policy]))

    assert seen == [True, True]
    assert [list(handler.filters) for handler in handlers] == before


def test_a_filter_cleans_everything_of_a_record() -> None:
    """Message, arguments, ``extra=``, stack and traceback."""
    redactor = Redactor()
    redactor.learn([CANARY])
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLogFormatter())
    handler.addFilter(RedactionFilter(redactor))
    logger = logging.Logger("one of its own")
    logger.addHandler(handler)

    try:
        raise QuotaError(CANARY, status_code=1)
    except QuotaError:
        logger.exception("sent %s", {"x": CANARY}, extra={"headers": {"authorization": "y"}, "sent": [CANARY]}, stack_info=True)
    logger.warning("count %d", 3)

    first, second = map(json.loads, stream.getvalue().splitlines())
    assert CANARY not in stream.getvalue()
    assert first["message"] == "sent {'x': '***'}"
    assert first["exception"]["type"] == "QuotaError"
    assert first["exception"]["message"] == "status 1 for ***"
    assert "test_runs.py" in first["exception"]["stacktrace"]
    assert (first["headers"], first["sent"]) == ({"authorization": "***"}, ["***"])
    assert second["message"] == "count 3"


SITE = """
from pathlib import Path
from treadle import executor

@executor("site.fail")
async def fail() -> None:
    token, other = Path("FOLDER/token.txt").read_text(), Path("FOLDER/other.txt").read_text().strip()
    raise ValueError(f"{token} and {other} and ticket-4711 for https://me:pw@host/")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an executor, which is the working directory."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "site.py").write_text(SITE.replace("FOLDER", str(tmp_path)))
    (tmp_path / "token.txt").write_text(CANARY)
    (tmp_path / "other.txt").write_text("abcdefghij\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("isolation", ["", ', isolation="process"'], ids=["here", "in a process of its own"])
def test_it_is_switched_on_by_configuration(site: Path, isolation: str) -> None:
    """Values from the environment and from files, and patterns of one's own."""
    (site / "treadle.toml").write_text(
        '[plugins]\npolicies = ["redact"]\nfolder = "executors"\n[policies.redact]\npatterns = ["ticket-(?P<hidden>\\\\d+)"]\n'
        '[policies.redact.secrets]\ntoken = {env = "ACME_TOKEN"}\nother = {file = "other.txt"}\ngone = {env = "NOT_THERE"}\n'
    )
    source = site / "executors" / "site.py"
    source.write_text(source.read_text().replace('"site.fail"', f'"site.fail"{isolation}'))
    workflow = Workflow("w")
    workflow.step("one", "site.fail")

    result = treadle.run(workflow)

    assert result.steps["one"].error is not None
    assert result.steps["one"].error.message == "*** and *** and ticket-*** for https://***@host/"
    assert CANARY not in repr(result) + result.steps["one"].error.traceback


def test_patterns_that_cannot_be_are_refused(site: Path) -> None:
    """All of them, before anything starts; a secret cannot be written into the file."""
    (site / "treadle.toml").write_text(
        '[plugins]\npolicies = ["redact"]\nfolder = "executors"\n[policies.redact]\npatterns = ["(", "a", "["]\n'
    )
    workflow = Workflow("w")
    workflow.step("one", "site.fail")

    with pytest.raises(ConfigInvalidError) as failure:
        treadle.run(workflow)

    assert "'(' is no regular expression" in str(failure.value)
    assert "'[' is no regular expression" in str(failure.value)


def test_it_costs_nothing_when_it_is_not_named(site: Path) -> None:
    """Installed but not named, it is not even imported."""
    (site / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    code = """
import sys, treadle
workflow = treadle.Workflow("w")
workflow.step("one", "site.fail")
assert treadle.run(workflow).status == "failed"
print("treadle_redact" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)

    assert done.stdout == "False\n", done.stderr


def test_a_checkpoint_that_holds_what_is_hidden_is_told_and_handed_back_as_it_was(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A value of the settings, and what looks like a secret; the warning has their places, and neither of them."""
    seen: list[object] = []
    data = {"login": {"password": "hunter2hunter2"}, "seen": [f"as {CODED}"], "page": 4}

    @executor("demo.save")
    async def save(ctx: treadle.Context, /) -> None:
        """Save, fail, and look."""
        if ctx.checkpoint is None:
            await ctx.save("half", data)
            raise TransientError("again")
        seen.append(ctx.checkpoint.data)

    workflow = Workflow("w")
    workflow.step("a", "demo.save", retry={"max_attempts": 2, "base": "1s"})
    policy = Redact(secrets={"token": treadle.Secret(CANARY)})
    result = virtual_run(workflow, registry=Registry.of(save, policies=[policy]), backend=backend)

    assert result.steps["a"].status.value == "completed"
    assert seen == [data]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "treadle.keeper"]
    assert "at $.login.password, $.seen[0];" in said
    assert not any(spelled in caplog.text for spelled in (*SPELLED, "hunter2"))
