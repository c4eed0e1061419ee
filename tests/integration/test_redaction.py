"""Canaries go into a run by every way there is; then the raw bytes of all that the run left behind are searched for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest
from held_port import held_port
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

pytestmark = pytest.mark.anyio

TOKEN = "CANARY-9f3/+e1&x=ü"
PASSWORD = 'CANARY "quoted" and\\slashed'
KEY = "\n".join(["-----BEGIN PRIVATE KEY-----", *(f"CANARY{n}{'Q' * 50}" for n in range(3)), "-----END PRIVATE KEY-----"])

EXECUTORS = '''
import logging
from base64 import b64encode
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import attrs
from treadle import Context, GiveUp, RetryAfter, Secret, TransientError, client, executor
from treadle.errors import OutputInvalidError


def spelled(secret: str) -> list[str]:
    """A secret in every encoding that is promised to be found."""
    data = secret.encode()
    coded = [b64encode(b"x" * before + data + b"yz").decode() for before in range(3)]
    return [secret, *coded, quote(secret, safe=""), repr(secret), data.hex(), *secret.splitlines()]


class PartialError(TransientError):
    def __init__(self, text: str, results: list[str]) -> None:
        self.partial_results = results
        super().__init__(text, f"do not send {text}")


@client("vault")
@attrs.define
class Vault:
    password: Secret

    @asynccontextmanager
    async def open(self):
        yield self.password.reveal()


@executor("leaky.fail", effects="none")
async def fail(vault: object, ctx: Context, /, token: str, how: str) -> str:
    """Says its secrets in every way."""
    key = Path("key.pem").read_text()
    secrets = [word for secret in (token, str(vault), key) for word in spelled(secret)]
    for word in secrets:
        logging.getLogger("leaky").warning("using %s", word)
        ctx.log.info("using %s", word, extra={"sent": word})
        ctx.progress(1, 2, f"sending {word}")
        with ctx.span(f"call {word}", attributes={"sent": word, "all": [word]}):
            pass
    everything = " ".join(secrets)
    try:
        with ctx.span("refused"):
            raise OSError(f"refused: {everything}")
    except OSError as error:
        cause = error
    cause.add_note(everything)
    if how == "output":
        return everything
    if how == "long":
        raise ValueError("x" * (4076 - len(token) // 2) + token)
    if ctx.attempt == 1:
        raise PartialError(everything, secrets) from cause
    raise ValueError(everything) from cause


@executor("leaky.keep")
async def keep() -> None:
    """Keeps the write-ahead log: the store removes it when it is closed."""
    Path("runs.db-wal.kept").write_bytes(Path("runs.db-wal").read_bytes())
'''

WORKFLOW = {
    "name": "leaky",
    "secrets": ["TOKEN"],
    "on_error": "continue",
    "steps": {
        "fail": {
            "uses": "leaky.fail",
            "with": {"token": "${{ secrets.TOKEN }}", "how": "error"},
            "retry": {"max_attempts": 2, "base": "10ms"},
        },
        "long": {"uses": "leaky.fail", "with": {"token": "${{ secrets.TOKEN }}", "how": "long"}},
        "give": {"uses": "leaky.fail", "with": {"token": "${{ secrets.TOKEN }}", "how": "output"}},
        "quote": {"uses": "leaky.fail", "when": "steps.give.output > 3", "with": {"token": "a", "how": "error"}},
    },
    "finally": {"keep": {"uses": "leaky.keep"}},
    "outputs": {"given": "${{ steps.give.output }}"},
}

SETTINGS = """
[plugins]
folder = "executors"
{policies}
[policies.redact]
outputs = true
[policies.redact.secrets]
key = {{file = "key.pem"}}
[store]
use = "sqlite"
path = "runs.db"
[clients.vault]
password = {{file = "password.txt"}}
"""


@pytest.fixture
def anyio_backend() -> str:
    """The receiver is at home on asyncio; which loop the command uses is its own affair."""
    return "asyncio"


def folder(path: Path, policies: str) -> Path:
    """A project whose executor gives its secrets away."""
    (path / "executors").mkdir()
    (path / "executors" / "leaky.py").write_text(EXECUTORS, "utf-8")
    (path / "leaky.json").write_text(json.dumps(WORKFLOW), "utf-8")
    (path / "treadle.toml").write_text(SETTINGS.format(policies=policies), "utf-8")
    (path / "password.txt").write_text(PASSWORD, "utf-8")
    (path / "key.pem").write_text(KEY, "utf-8")
    return path


async def command(path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``treadle`` in a folder, with none of this process's tracing."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TRACE", "TREADLE_"))}
    with anyio.fail_after(120):
        return await anyio.run_process(
            [sys.executable, "-m", "treadle._cli", *arguments],
            cwd=path,
            env=inherited | environ,
            check=False,
            stderr=subprocess.PIPE,
        )


async def left_behind(path: Path) -> dict[str, bytes]:
    """Run the workflow with everything on that tells of a run; what each place then holds, as raw bytes."""
    spans = bytearray()

    async def read(receiver: OtelTapHttpProtobufReceiver) -> None:
        async for span in receiver.stream_traces():
            spans.extend(span.SerializeToString())

    with held_port() as port:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_METRICS_EXPORTER": "none"}
        settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
        async with OtelTapHttpProtobufReceiver(settings) as receiver, anyio.create_task_group() as tasks:
            tasks.start_soon(read, receiver)
            ended = await command(path, "run", "leaky.json", "--json", "--log-format", "json", TOKEN=TOKEN, **environ)
            with anyio.move_on_after(60):
                while b"RUN leaky" not in spans:  # noqa: ASYNC110 - the receiver fills it from its threads
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
    assert ended.returncode == 1, ended.stderr.decode()
    shown = await command(path, "show", json.loads(ended.stdout)["run_id"], "--json")
    stores = {file.name: await file.read_bytes() async for file in anyio.Path(path).glob("runs.db*")}
    assert stores.keys() >= {"runs.db", "runs.db-wal.kept"}
    return {"spans": bytes(spans), "stdout": ended.stdout, "stderr": ended.stderr, "show": shown.stdout, **stores}


def spellings() -> dict[str, bytes]:
    """What is looked for: of base64 the part that does not depend on what stands around the secret."""
    found = {"anything": b"CANARY", "in hex": b"CANARY".hex().encode()}
    for name, secret in {"token": TOKEN, "password": PASSWORD, "key": KEY}.items():
        data = secret.encode()
        for before in range(3):
            found[f"{name} in base64, {before} bytes in"] = b64encode(b"x" * before + data + b"yz")[4:-8]
        found[f"{name} in a URL"] = quote(secret, safe="").encode()
    found["the rest of the token"] = b"-9f3/+e1"
    found["the beginning of the token"] = TOKEN[: len(TOKEN) // 2].encode()
    found["a line of the key"] = b"Q" * 50
    return found


async def test_no_canary_gets_out(tmp_path: Path) -> None:
    """Store file, write-ahead log, spans at a collector, logs, progress, ``--json``, ``show``: 0 hits in any encoding."""
    places = await left_behind(folder(tmp_path, 'policies = ["redact"]'))

    hits = [(place, name) for place, held in places.items() for name, word in spellings().items() if word in held]
    assert hits == []
    assert all(b"***" in held for place, held in places.items() if place != "runs.db-shm")


async def test_every_canary_would_be_seen(tmp_path: Path) -> None:
    """Without the policy each place gives something away, and each spelling gets out: the test above tests something."""
    places = await left_behind(folder(tmp_path, ""))

    seen = {name for name, word in spellings().items() if any(word in held for held in places.values())}
    leaking = {place for place, held in places.items() if any(word in held for word in spellings().values())}
    assert seen == spellings().keys()
    assert leaking >= {"spans", "stdout", "stderr", "show"}
