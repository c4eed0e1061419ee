"""The end of the command while a collector does not answer: bounded, and not held up by who still waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest
from treadle._cli import _tracing_setup
from treadle._cli._ending import exports_left, is_export
from treadle._outbox import Outbox, SpanReport
from treadle.ports import TracingProvider

PATIENCE_S = 6.0


class Hung:
    """A provider whose shutdown does not come back, and its sender."""

    endpoint = "http://hung"

    def __init__(self) -> None:
        self.over = threading.Event()
        self.sender = self

    def shutdown(self, timeout_s: float) -> str:
        """Hang."""
        self.over.wait(60)
        return ""


class Slow:
    """An outbox that takes all the time that it is given."""

    def close(self, timeout_s: float) -> SpanReport:
        """Sleep."""
        time.sleep(timeout_s)
        return SpanReport(left=3, reason="no answer in time")


@pytest.fixture
def hung() -> Iterator[Hung]:
    """It is let go of at the end."""
    provider = Hung()
    yield provider
    provider.over.set()


def test_both_roads_are_closed_in_the_same_time(
    hung: Hung, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A provider that hangs is not waited for once more after the outbox has had all the time; what is left is said."""
    monkeypatch.setattr(_tracing_setup, "_SHUTDOWN_S", PATIENCE_S)
    began = time.monotonic()

    _tracing_setup.shut_down(cast("TracingProvider", hung), cast("Outbox", Slow()))

    assert time.monotonic() - began < 2 * PATIENCE_S
    assert "3 spans were not delivered to http://hung: no answer in time." in capsys.readouterr().err
    assert exports_left(), "so that the interpreter does not end at its leisure"


@pytest.mark.parametrize("name", ["treadle-spans", "treadle-otlp-metrics", "OtelPeriodicExportingMetricReader", "worker"])
def test_who_waits_for_a_collector_is_known_by_name(name: str) -> None:
    """Threads that export, and no others, make the command leave at once."""
    assert is_export(threading.Thread(name=name)) is (name != "worker")
