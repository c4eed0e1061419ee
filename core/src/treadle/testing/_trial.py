"""Trials: an executor is run by the real runner, in a folder of its own, with everything watched that it could do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import cast

import anyio
import attrs

from treadle._app import RunHandle, arun
from treadle._config import load_config
from treadle._models import Call, Json, Work
from treadle._results import RunResult
from treadle._workflow import Workflow
from treadle.errors import TransientError, TreadleError
from treadle.hookspecs import hookimpl
from treadle.ports import Context
from treadle.testing._fakes import FakeClient
from treadle.testing._leftovers import Holdings, Leftovers, leftovers
from treadle.testing._recorder import Recorder
from treadle.testing._subject import Subject

STEP = "try"
"""The step of every trial."""

_TASK_PATIENCE_S = 1.0


@attrs.frozen
class Attempt:
    """How an executor is run.

    Attributes:
        inputs: What it is given, as the file would say it: texts may hold expressions.
        run_inputs: The run's inputs, for expressions.
        secrets: Name -> value.
        items: How many calls the run makes, one after the other.
        timeout_s: Deadline of the call; None for none.
        cancel_after_s: When the run is cancelled, counted from the start of the work; None for never.
        is_repeated: Whether the result of the first attempt is lost, so that there is a second one with the same key.
        is_stalled: Whether its clients do not answer.
        clients: Instead of the subject's.
    """

    inputs: Mapping[str, Json]
    run_inputs: Mapping[str, Json] = attrs.field(factory=dict)
    secrets: Mapping[str, str] = attrs.field(factory=dict)
    items: int = 1
    timeout_s: float | None = None
    cancel_after_s: float | None = None
    is_repeated: bool = False
    is_stalled: bool = False
    clients: Mapping[str, object] | None = None

    def workflow(self, name: str) -> Workflow:
        """The workflow of one step that runs the executor so."""
        step: dict[str, Json] = {"uses": name, "with": dict(self.inputs)}
        # Nothing is retried unless retrying is the point: a trial that fails should do so at once.
        step["retry"] = {"max_attempts": 2, "delays": [0]} if self.is_repeated else {"max_attempts": 1}
        if self.timeout_s is not None:
            step["timeout"] = self.timeout_s
        if self.items > 1:
            step |= {"foreach": list(range(self.items)), "max_parallel": 1}
        data: dict[str, Json] = {"name": "trial", "steps": {STEP: step}, "inputs": {each: {} for each in self.run_inputs}}
        return Workflow.from_dict({**data, "secrets": list(self.secrets)} if self.secrets else data)


@attrs.define
class Watched:
    """What was seen of a trial.

    Attributes:
        result: How the run ended; None when it was refused.
        refusal: Why it did not start.
        recorder: Its records, spans and progress.
        entered: When the work of each attempt began, on the monotonic clock.
        outputs: What the work returned, before anybody looked at it.
        states: What could be seen of effects: before the first work, then after each that ended.
        logged: Every log record as text, with all that came with it.
        printed: What was written to stdout and stderr from Python.
        tasks: Tasks that were left.
        left: Threads, processes and descriptors that were left.
        files: Every file that was left, by its path in the trial's folder.
        clients: The clients, counted.
        contexts: The context of each attempt, in its repr.
        ended: When the run ended, on the monotonic clock.
    """

    result: RunResult | None = None
    refusal: TreadleError | None = None
    recorder: Recorder = attrs.field(factory=Recorder)
    entered: list[float] = attrs.field(factory=list)
    outputs: list[object] = attrs.field(factory=list)
    states: list[object] = attrs.field(factory=list)
    logged: list[str] = attrs.field(factory=list)
    printed: str = ""
    tasks: tuple[str, ...] = ()
    left: Leftovers = attrs.field(factory=Leftovers)
    files: frozenset[str] = frozenset()
    clients: Mapping[str, CountedClient] = attrs.field(factory=dict)
    contexts: list[str] = attrs.field(factory=list)
    ended: float = 0.0

    @property
    def completed(self) -> bool:
        """Whether every call completed."""
        return self.result is not None and self.result.status.value == "completed"

    @property
    def took_s(self) -> float:
        """Seconds from the start of the work to the end of the run; 0.0 when none started."""
        return self.ended - self.entered[0] if self.entered else 0.0

    @property
    def failure(self) -> str:
        """Why it did not complete, in a line; empty when it did."""
        if self.refusal is not None:
            return " ".join(str(self.refusal).split())
        error = self.result.error if self.result else None
        return f"{error.type}: {error.message}" if error else "" if self.completed else "it did not complete"

    @property
    def error_type(self) -> str:
        """Class of the error; empty when there is none."""
        return self.result.error.type if self.result and self.result.error else ""


def usual(subject: Subject, backend: str) -> Watched:
    """The run of the first example, as it is; kept, so that several rules can look at it."""
    if backend not in subject.usual:
        subject.usual[backend] = watch(subject, backend, Attempt(literal(subject.examples[0])))
    return cast("Watched", subject.usual[backend])


def literal(example: Mapping[str, Json]) -> dict[str, Json]:
    """Inputs as a file would have to say them so that no text in them is taken for an expression."""
    return cast("dict[str, Json]", _literal(example))


def _literal(value: Json) -> Json:
    if isinstance(value, str):
        return value.replace("${{", "$${{")
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    return [_literal(item) for item in value] if isinstance(value, list) else value


def watch(subject: Subject, backend: str, attempt: Attempt) -> Watched:
    """Run an executor once and see what it does."""
    watched = Watched()
    mark = secrets.token_hex(8)
    before = Holdings.now()
    with _folder(subject, mark) as folder, _listening(watched):
        watcher = _Watcher(subject, attempt, watched, folder)
        anyio.run(watcher.main, backend=backend)
        watched.left = leftovers(before, [mark, watcher.trace_id], subject.grace_s)
        watched.files = frozenset(_files(folder))
    return watched


# -- surroundings ------------------------------------------------------------------------------------------------------


@contextmanager
def _folder(subject: Subject, mark: str) -> Iterator[Path]:
    """A folder that is the working directory, and another for temporary files; both go with all that is in them."""
    with tempfile.TemporaryDirectory(prefix="treadle-trial-") as name:
        folder = Path(name).resolve()
        here, temporary = folder / "here", folder / "tmp"
        here.mkdir()
        temporary.mkdir()
        subject.prepare(here)
        with contextlib.chdir(here), _temporaries(temporary), _environ(TREADLE_TRIAL=mark, TMPDIR=str(temporary)):
            yield folder


@contextmanager
def _temporaries(folder: Path) -> Iterator[None]:
    kept, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = kept


@contextmanager
def _environ(**variables: str) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _LogKeeper(logging.Handler):
    """Keeps every record as one text: message, arguments, extra fields and exception."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(f"{record.name}: {self.format(record)} {record.__dict__!r}")


@contextmanager
def _listening(watched: Watched) -> Iterator[None]:
    root, keeper, printed = logging.getLogger(), _LogKeeper(watched.logged), io.StringIO()
    level = root.level
    root.addHandler(keeper)
    root.setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    finally:
        root.removeHandler(keeper)
        root.setLevel(level)
        watched.printed = printed.getvalue()


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield str(path.relative_to(folder))


def _content(folder: Path) -> dict[str, str]:
    """Path -> digest of every file."""
    found: dict[str, str] = {}
    for name in _files(folder):
        with contextlib.suppress(OSError):  # it may be going away just now
            found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return found


# -- clients -----------------------------------------------------------------------------------------------------------


class CountedClient:
    """A client that counts how often it is opened and closed.

    Args:
        client: A client, its class, or the very object that executors receive.
    """

    def __init__(self, client: object) -> None:
        self.client = client() if isinstance(client, type) else client
        self.opens = self.closes = 0
        # A fake serves many trials; what earlier ones did with it does not count.
        self._asked, self._closed_by = len(self._kept("asked")), len(self._kept("closed_by"))
        self.given: object = None

    @property
    def was_asked(self) -> bool:
        """Whether the executor called a method of a fake."""
        return len(self._kept("asked")) > self._asked

    @property
    def closed_by(self) -> list[str]:
        """The methods by which the executor closed a fake."""
        return list(dict.fromkeys(map(str, self._kept("closed_by")[self._closed_by :])))

    def _kept(self, what: str) -> list[object]:
        kept = getattr(self.client, what, None) if isinstance(self.client, FakeClient) else None
        return kept if isinstance(kept, list) else []

    def open(self) -> AbstractAsyncContextManager[object] | AbstractContextManager[object]:
        """What the client's ``open`` answers, counted."""
        opener = getattr(self.client, "open", None)
        opened = opener() if callable(opener) else contextlib.nullcontext(self.client)
        if isinstance(opened, AbstractAsyncContextManager) and not isinstance(opened, contextlib.nullcontext):
            return self._entered(opened)
        return self._entered_sync(cast("AbstractContextManager[object]", opened))

    @asynccontextmanager
    async def _entered(self, opened: AbstractAsyncContextManager[object]) -> AsyncIterator[object]:
        self.opens += 1
        async with opened as self.given:
            yield self.given
        self.closes += 1

    @contextmanager
    def _entered_sync(self, opened: AbstractContextManager[object]) -> Iterator[object]:
        self.opens += 1
        with opened as self.given:
            yield self.given
        self.closes += 1


@contextmanager
def _stalled(clients: Mapping[str, CountedClient], *, wanted: bool) -> Iterator[None]:
    fakes = [counted.client for counted in clients.values() if wanted and hasattr(counted.client, "stalls")]
    for fake in fakes:
        fake.stalls = True
    try:
        yield
    finally:
        for fake in fakes:
            fake.stalls = False


def can_stall(subject: Subject) -> bool:
    """Whether one of the clients that the executor needs can play a service that does not answer."""
    return any(hasattr(subject.clients.get(need.name), "stalls") for need in subject.bound.needs)


# -- the run -----------------------------------------------------------------------------------------------------------


class _Watcher:
    """One run with eyes."""

    def __init__(self, subject: Subject, attempt: Attempt, watched: Watched, folder: Path) -> None:
        self._subject, self._attempt, self._watched, self._folder = subject, attempt, watched, folder
        self._handle: RunHandle | None = None
        self._has_begun: anyio.Event | None = None
        self.trace_id = ""

    async def main(self) -> None:
        """The whole life of the event loop."""
        self._has_begun = anyio.Event()
        before = _tasks()
        async with anyio.create_task_group() as group:
            if self._attempt.cancel_after_s:
                group.start_soon(self._cancel_later, self._attempt.cancel_after_s)
            await self._run()
            group.cancel_scope.cancel()
        self._watched.tasks = await _tasks_left(before)

    async def _run(self) -> None:
        subject, attempt, watched = self._subject, self._attempt, self._watched
        try:
            config = load_config(self._folder / "here") if subject.config is None else subject.config
            values = {name: {"file": str(self._keep(name, value))} for name, value in attempt.secrets.items()}
            registry = subject.registry(attrs.evolve(config, secrets={**config.secrets, **values}))
            clients = subject.clients if attempt.clients is None else attempt.clients
            watched.clients = {name: CountedClient(client) for name, client in clients.items()}
            registry.trial_clients, registry.trial_policies = watched.clients, [self]
            with _stalled(watched.clients, wanted=attempt.is_stalled):
                watched.result = await arun(
                    attempt.workflow(subject.name),
                    dict(attempt.run_inputs),
                    registry=registry,
                    sinks=[watched.recorder],
                    on_start=self._started,
                )
        except TreadleError as error:
            watched.refusal = error
        watched.ended = time.monotonic()

    def _keep(self, name: str, value: str) -> Path:
        file = self._folder / f"secret-{name}"
        file.write_text(value, "utf-8")
        return file

    def _started(self, handle: RunHandle) -> None:
        self._handle, self.trace_id = handle, handle.trace_id

    async def _cancel_later(self, after_s: float) -> None:
        assert self._has_begun is not None, "made before this task"
        await self._has_begun.wait()
        await anyio.sleep(after_s)
        self._cancel()

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel("the trial wants to see how it stops")

    def _state(self) -> object:
        probe = self._subject.effects_seen
        seen = probe() if probe else None
        # A copy in words: the probe may answer the very list that grows.
        return _content(self._folder), json.dumps(seen, default=repr, sort_keys=True)

    @hookimpl(wrapper=True)
    def execute(self, call: Call, ctx: Context) -> Generator[None, Work | None, Work | None]:
        """Watch the work of each attempt."""
        work = yield
        if work is None:
            return None

        async def watched() -> object:
            return await self._perform(call, ctx, work)

        return watched

    async def _perform(self, call: Call, ctx: Context, work: Callable[[], object]) -> object:
        watched = self._watched
        watched.contexts.append(f"{ctx!r} {call!r}")
        if not watched.states:
            watched.states.append(self._state())
        watched.entered.append(time.monotonic())
        assert self._has_begun is not None, "made before the run"
        self._has_begun.set()
        if self._attempt.cancel_after_s == 0:
            self._cancel()
        try:
            output = await cast("Work", work)()
        finally:
            watched.states.append(self._state())
        watched.outputs.append(output)
        if self._attempt.is_repeated and call.attempt == 1:
            raise TransientError("The trial lost the result of the first attempt, as a crash would.")
        return output


def _tasks() -> object:
    """The tasks of the running event loop: a set of them on asyncio, their number on trio."""
    trio = sys.modules.get("trio")
    if trio is not None and _backend() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    import asyncio

    return set(asyncio.all_tasks())


def _backend() -> str:
    import sniffio

    return sniffio.current_async_library()


async def _tasks_left(before: object) -> tuple[str, ...]:
    """Tasks that were not there before, once they have had a moment to end."""
    deadline = anyio.current_time() + _TASK_PATIENCE_S
    # Whoever left a task tells nobody when it ends.
    while (left := _tasks_beyond(before)) and anyio.current_time() < deadline:  # noqa: ASYNC110 - see above
        await anyio.sleep(0.01)
    return left


def _tasks_beyond(before: object) -> tuple[str, ...]:
    now = _tasks()
    if isinstance(now, int) and isinstance(before, int):
        return (f"{now - before} tasks",) if now > before else ()
    if isinstance(now, set) and isinstance(before, set):
        return tuple(f"task {getattr(task.get_coro(), '__qualname__', task)}" for task in now - before)
    return ()
