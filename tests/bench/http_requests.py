"""Microseconds per request: by the bare library, by ``http.request``, and by steps of a run. Called by ``run.py``."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

import attrs
import httpx2
from treadle import Registry, Workflow, arun
from treadle.ports import Call, SpanKind
from treadle.testing import Recorder
from treadle_http import Http, request

BLOCKS, BLOCK = 60, 25
PAGES = itertools.count()
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 27\r\nx-request-id: 1\r\n\r\n"
    b'{"total": 3, "items": [1]}\n'
)
# A process of its own, so that its work is not counted; it answers without looking.
SERVER = f"""
import asyncio

class Answering(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data.endswith(b"\\r\\n\\r\\n"):
            self.transport.write({ANSWER!r})

async def serve():
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(serve())
"""


@attrs.define
class OneCall:
    """The context of a call outside of a run."""

    call: Call
    idempotency_key: str = "key"
    traceparent: str = f"00-{'1' * 32}-{'2' * 16}-01"

    @contextlib.contextmanager
    def span(
        self, name: str, *, kind: SpanKind = "client", attributes: Mapping[str, object] | None = None
    ) -> Iterator[dict[str, object]]:
        """No span: what one costs shows in the steps."""
        yield dict(attributes or {})


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The URL of a service that answers at once."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/orders"
        finally:
            process.kill()


async def timed(ask: Callable[[str], Awaitable[object]], url: str) -> list[float]:
    """Microseconds of each request of a block; no URL is asked twice."""
    taken: list[float] = []
    for page in itertools.islice(PAGES, BLOCK):
        each = f"{url}?page={page}"
        began = time.perf_counter()
        await ask(each)
        taken.append((time.perf_counter() - began) * 1e6)
    return taken


async def in_steps(registry: Registry, url: str) -> list[float]:
    """Microseconds of each step of a run that asks one after the other, from its start to that of the next."""
    workflow = Workflow("bench")
    pages = list(itertools.islice(PAGES, BLOCK))
    workflow.step("ask", "http.request", url=f"{url}?page=${{{{ item }}}}", foreach=pages, max_parallel=1)
    recorder = Recorder()
    result = await arun(workflow, registry=registry, sinks=[recorder])
    assert result.status == "completed", result.error
    ends = [getattr(entry, "at", 0.0) for entry in recorder.entries("AttemptEnded")]
    return [(later - earlier) * 1e6 for earlier, later in itertools.pairwise(ends[1:])]


async def measure() -> dict[str, float]:
    """Blocks of each take turns, so that a busy machine slows all alike; medians, so that its worst moments do not count."""
    ctx = OneCall(Call(run_id="r", workflow="w", path="s", executor="http.request", inputs={}))
    settings = Http(allow=("127.0.0.1",))
    registry = Registry.of(request, clients=(settings,))
    taken: dict[str, list[float]] = {"bare_us": [], "request_us": [], "step_us": []}
    with serving() as url:
        async with httpx2.AsyncClient(trust_env=False, timeout=None) as bare, settings.open() as http:

            async def by_library(each: str) -> object:
                return (await bare.get(each)).json()

            async def by_executor(each: str) -> object:
                return (await request(http, ctx, url=each)).json

            assert await by_library(url) == await by_executor(url) == {"total": 3, "items": [1]}
            for _ in range(BLOCKS):
                taken["bare_us"] += await timed(by_library, url)
                taken["request_us"] += await timed(by_executor, url)
                taken["step_us"] += await in_steps(registry, url)
    return {name: statistics.median(each) for name, each in taken.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure())))
