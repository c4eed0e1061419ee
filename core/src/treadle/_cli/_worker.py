"""``treadle worker``: a process that takes up runs which nobody drives."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType

import anyio
import click

from treadle._cli._ending import CANCELLED
from treadle._cli._kept import kept_runs
from treadle._cli._logging import LogFormat, logging_to
from treadle._cli._output import count, say
from treadle._cli._run import chosen_backend
from treadle._cli._tracing_setup import make_outbox, set_up_tracing, shut_down
from treadle._durations import parse_duration
from treadle._loop import loop_poster
from treadle._plugins import Registry
from treadle._run_settings import run_settings
from treadle._worker import POLL_S, Worker
from treadle.ports import Store


@click.group(short_help="Drive runs that nobody drives.")
def worker() -> None:
    """Processes that take up runs whose own process ended, or let go of them."""


@worker.command()
@click.option("--poll", default=f"{POLL_S:g}s", show_default=True, metavar="DURATION", help="How often to look for runs.")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="How many runs to drive at once, beside those that only wait.",
)
@click.option("--once", is_flag=True, help="Take up what there is now, and end when that is done.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How stderr is written."
)
@click.option("-q", "--quiet", is_flag=True, help="Show only warnings.")
def start(poll: str, concurrency: int, once: bool, log_format: LogFormat, quiet: bool) -> None:
    """Take up runs of the store whose process has ended or let go of them, and drive them to their end.

    A run is taken up when its lease has run out, 30 s after its process was last heard of, or at once when it was let go of.
    Runs that wait for somebody's answer are left alone. Any number of workers may share a store.

    SIGTERM and Ctrl-C drain: no more runs are taken up, what runs may end (30 s at most), and the runs are let go of. Twice
    stops at once.
    """
    try:
        poll_s = parse_duration(poll)
    except ValueError as error:
        raise click.UsageError(f"--poll: {error}") from error
    with _Drain() as drain, kept_runs() as (store, registry):
        run_settings(registry.config)  # its faults are said here, not once for each run
        made = _Process(store, registry, drain, quiet=quiet, log_format=log_format)
        made.run(poll_s, concurrency, once=once)


class _Process:
    """One worker as a process."""

    def __init__(self, store: Store, registry: Registry, drain: _Drain, *, quiet: bool, log_format: LogFormat) -> None:
        self._store, self._registry, self._drain = store, registry, drain
        self._is_quiet, self._log_format = quiet, log_format

    def run(self, poll_s: float, concurrency: int, *, once: bool) -> None:
        provider = set_up_tracing(self._registry, is_strict=False)
        outbox = make_outbox(provider, self._store, self._registry)
        if outbox is not None:
            outbox.start()
        sinks = [outbox] if outbox is not None else []
        made = Worker(self._store, self._registry, poll_s=poll_s, concurrency=concurrency, sinks=sinks)
        backend = chosen_backend()
        uses_uvloop = backend == "asyncio" and importlib.util.find_spec("uvloop") is not None
        options: dict[str, object] = {"use_uvloop": True} if uses_uvloop else {}
        try:
            with logging_to(None if self._is_quiet else say, log_format=self._log_format):
                anyio.run(partial(self._work, made, once), backend=backend, backend_options=options)
        finally:
            shut_down(provider, outbox)
        if not self._is_quiet:
            say(f"Took up {count(made.taken, 'run')}.")

    async def _work(self, made: Worker, once: bool) -> None:
        self._drain.attach(made)
        await made.work(once=once)


class _Drain:
    """Takes the signals of the process; a context manager, entered before anything of the worker is made.

    What comes before the worker works is told to it when it does, so that no moment of a worker's start loses a signal.
    """

    def __init__(self) -> None:
        self._tell: Callable[[str], object] | None = None
        self._said = ""
        self._count = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Drain:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):  # SIGHUP does not exist on Windows
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]  # what signal.signal answered

    def attach(self, worker: Worker) -> None:
        """The worker is about to work, on the event loop that runs here."""
        post = loop_poster()
        self._tell = lambda reason: post(lambda: worker.suspend(reason))
        if self._said:
            worker.suspend(self._said)

    def _received(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        name = signal.Signals(number).name
        self._said = f"by {name}"
        if self._count > 2:
            os._exit(CANCELLED)
        say(f"{name} again: stopping at once." if self._count == 2 else f"{name}: draining; once more stops at once.")
        if self._tell is not None:
            with suppress(RuntimeError):  # the event loop has just ended
                self._tell(self._said)
        elif self._count == 2:
            raise KeyboardInterrupt(name)  # nothing runs yet
