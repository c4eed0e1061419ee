"""What the checks of all backends share: serve one, send it a run, and compare what it gives back with the records."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs

T = TypeVar("T")
HERE = Path(__file__).parent


@attrs.frozen
class Seen:
    """A span as a backend gives it back.

    Attributes:
        span_id: 16 hex digits.
        parent_id: The same, or empty.
        name: Its name.
        status: ``unset`` or ``error``.
        attributes: What it carries; backends add their own.
        events: Names of its events.
        links: Ids of the spans it links to; None where the backend does not keep them.
    """

    span_id: str
    parent_id: str
    name: str
    status: str
    attributes: Mapping[str, object]
    events: tuple[str, ...]
    links: tuple[str, ...] | None = None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def get(url: str, **headers: str) -> Any:
    """What a server answers, parsed."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return json.load(answer)


@contextmanager
def serving(command: Sequence[str], folder: Path, health: str, **environ: str) -> Iterator[None]:
    """A backend of the session's environment, from its first healthy answer to the end of the block."""
    log = folder / "server.log"
    with log.open("wb") as written:
        server = subprocess.Popen(command, cwd=folder, env=_plain() | environ, stdout=written, stderr=subprocess.STDOUT)
        try:
            until(lambda: _is_well(health, server, log), 120, "a healthy answer")
            yield
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _is_well(health: str, server: subprocess.Popen[bytes], log: Path) -> bool:
    if server.poll() is not None:
        sys.exit(f"The backend ended with {server.returncode}:\n{log.read_text('utf-8', errors='replace')[-4000:]}")
    try:
        with urllib.request.urlopen(health, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def send(**environ: str) -> list[dict[str, Any]]:
    """Run the workflow in a process that exports as ``environ`` says; its span records."""
    done = subprocess.run(
        [sys.executable, str(HERE / "sender.py")],
        capture_output=True,
        text=True,
        env=_plain() | {"OTEL_METRICS_EXPORTER": "none"} | environ,
        timeout=120,
    )
    if done.returncode:
        sys.exit(f"The run could not be sent:\n{done.stderr}")
    sent = json.loads(done.stdout)
    if sent["undelivered"]:
        sys.exit(f"Not everything was delivered: {sent['undelivered']}")
    spans: list[dict[str, Any]] = sent["spans"]
    return spans


def _plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "TRACE", "VIRTUAL_ENV"))}


def until(ask: Callable[[], T], seconds: float, what: str) -> T:
    """The first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            sys.exit(f"No {what} within {seconds:g} s.")
        time.sleep(0.2)
    return answer


def compare(title: str, records: Sequence[dict[str, Any]], read: Callable[[], Sequence[Seen]]) -> None:
    """Wait until the backend has as many spans as the records, then hold each beside its record; exits on a difference."""
    seen = until(lambda: found if len(found := read()) >= len(records) else [], 30, f"whole trace in {title}")
    by_id = {span.span_id: span for span in seen}
    faults = [f"{len(seen)} spans came back, {len(records)} were sent"] if len(seen) != len(records) else []
    for record in records:
        span = by_id.get(record["span_id"])
        faults += _differences(record, span) if span else [f"{record['name']} {record['span_id']} is missing"]
    if faults:
        sys.exit("\n".join([f"{title}: the trace that came back is not the one that was sent:", *faults]))
    links = sum(len(span.links or ()) for span in seen)
    events = sum(len(span.events) for span in seen)
    print(f"{title}: {len(seen)} spans, {events} events, {links} links came back as they were sent")


def _differences(record: dict[str, Any], span: Seen) -> list[str]:
    attributes = {name: span.attributes.get(name) for name in record["attributes"]}
    expected = {
        "name": (record["name"], span.name),
        "parent": (record["parent_id"], span.parent_id),
        "status": (record["status"], span.status),
        "attributes": (record["attributes"], attributes),
        "events": (sorted(name for name, _, _ in record["events"]), sorted(span.events)),
    }
    if span.links is not None:
        expected["links"] = (sorted(link[1] for link in record["links"]), sorted(span.links))
    return [
        f"{record['name']}: {what} {sent!r} came back as {came!r}" for what, (sent, came) in expected.items() if sent != came
    ]
