"""The child: performs calls one after the other, and is the same after each, or says that it is not.

Requests and replies are lines of JSON. What user code writes to its standard streams goes to treadle's log through pipes
of their own, never between the replies.
"""

from __future__ import annotations

import contextlib
import contextvars
import faulthandler
import functools
import importlib
import json
import logging
import math
import os
import random
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, cast

import attrs

from treadle._attempt_span import ClientSpan, Stamps
from treadle._bind import BoundExecutor, bind
from treadle._call_context import CallFacts, checked_checkpoint
from treadle._error_info import dump_error, message_of
from treadle._executor import Executor
from treadle._limits import size_text
from treadle._log_records import current_call
from treadle._meter import Meter
from treadle._models import Call, Json, RetryPolicy, SecretReference, SpanKind, SpanRecord, SpendLimit
from treadle._origin import Origin, load_origin
from treadle._store_records import Checkpoint
from treadle._supervisor import Job
from treadle.errors import CallCancelledError, ExecutorExitedError, PluginBrokenError, TransientError, TreadleError
from treadle.ports import Context

PROGRESS_EVERY_S = 0.05
"""Reports of progress that follow sooner wait for the next."""

SETTLE_S = 0.2
"""How long threads that a call started may take to end after it."""

MAX_LOG = 16_384

_BALLAST = 1024 * 1024
_CHUNK = 65536
_POLL_S = 0.0005


def live(job: Job) -> None:
    """The life of a child, from its fork to the end of its requests."""
    _settle_streams(job)
    for name, most in job.limits.items():
        with contextlib.suppress(ValueError, OSError):  # the hard limit is lower already, or the system has no such limit
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    faulthandler.enable()
    Worker(Lines(job.requests), job.replies, memory=job.limits.get("AS")).work()


def _settle_streams(job: Job) -> None:
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    for end, number in ((job.output, 1), (job.errors, 2)):
        os.dup2(end, number)
        os.close(end)
    sys.stdout = open(1, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115 -- open for life
    sys.stderr = open(2, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115 -- the same


class Lines:
    """Lines that come from a descriptor; it can be asked whether there is one.

    Args:
        end: The descriptor.
    """

    def __init__(self, end: int) -> None:
        self._end, self._read = end, bytearray()

    def take(self) -> bytes:
        """The next line, waiting for it; empty when there are no more."""
        seen = 0
        while (end := self._read.find(b"\n", seen)) < 0:
            seen = len(self._read)
            chunk = os.read(self._end, _CHUNK)
            if not chunk:
                return b""
            self._read += chunk
        line = bytes(self._read[: end + 1])
        del self._read[: end + 1]
        return line

    def is_there(self) -> bool:
        """Whether a line has come, or begun to."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(self._read) or bool(poll.poll(0))


class _Told(BaseException):
    """Treadle told the child to stop: raised in user code, so that it can clean up."""


class Worker:
    """Performs requests until there are none.

    Args:
        requests: They are JSON.
        replies: Where lines of JSON go.
        memory: The limit of its address space, for messages.
    """

    def __init__(self, requests: Lines, replies: int, *, memory: int | None = None) -> None:
        self._requests, self._replies, self._memory = requests, replies, memory
        self._bound: dict[str, BoundExecutor] = {}
        self._pid = os.getpid()
        self._sending = threading.Lock()
        self._told = False
        self._ballast: bytes | None = bytes(_BALLAST)
        self._cwd, self._environ = os.getcwd(), dict(os.environ)
        os.register_at_fork(after_in_child=self._let_go)

    def work(self) -> None:
        """Perform requests one after the other."""
        signal.signal(signal.SIGTERM, self._stop)
        relay = _Relay(self)
        logging.getLogger().addHandler(relay)
        try:
            while line := self._requests.take():
                request = json.loads(line)
                if "kept" in request:
                    continue  # nobody waited for this answer any more
                self._perform(request)
                if self._told:
                    return
        except _Told:
            return
        finally:
            logging.getLogger().removeHandler(relay)

    def send(self, reply: Mapping[str, Json]) -> None:
        """Write one reply; a copy of this process that user code forked has nothing to say."""
        if os.getpid() != self._pid:
            return
        text = json.dumps(reply, ensure_ascii=False, separators=(",", ":")) + "\n"
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        with self._sending:
            while data:
                data = data[os.write(self._replies, data) :]

    def receive(self) -> Mapping[str, object]:
        """The next line of treadle's; waits for it."""
        line = self._requests.take()
        if not line:
            raise CallCancelledError("Treadle is gone.")
        return cast("Mapping[str, object]", json.loads(line))

    def has_line(self) -> bool:
        """Whether ``receive`` would hardly wait."""
        return self._requests.is_there()

    def _let_go(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._replies)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._told = True
        raise _Told

    def _perform(self, request: Mapping[str, object]) -> None:
        before = set(threading.enumerate())
        logging.getLogger().setLevel(cast("int", request["level"]))
        logging.getLogger("treadle.step").setLevel(cast("int", request["step_level"]))
        self._set_cpu_limit(cast("float | None", request["cpu_s"]))
        call = load_call(cast("dict[str, object]", request["call"]))
        context = ChildContext(call, self, cast("int", request["fencing_token"]))
        if "checkpoint" in request:
            context.checkpoint = Checkpoint(**cast("dict[str, Any]", request["checkpoint"]))
        os.environ.update(_call_facts(call))
        try:
            answer = contextvars.copy_context().run(self._answer, request, context)
        except BaseException as error:  # foreign code is entered there; also what could not be described
            self._ballast = None
            answer = {"error": self._failure(request, error)}
        if self._told:
            return
        context.flush()
        if os.getpid() != self._pid:
            os._exit(0)  # user code forked and let its copy return here
        answer["spans"] = [attrs.asdict(span) for span in context.spans]
        answer["soiled"] = self._reset(before)
        self.send({"done": answer})
        self._ballast = self._ballast or bytes(_BALLAST)

    def _answer(self, request: Mapping[str, object], context: ChildContext) -> dict[str, Json]:
        current_call.set(context.call)
        bound = self._executor(cast("dict[str, object]", request["executor"]))
        inputs = cast("Mapping[str, Json]", request.get("inputs", context.call.inputs))
        context.backend = str(request["backend"]) if bound.is_async else ""
        context.arguments = tuple(context for _ in bound.positional)
        try:
            context.inputs = bound.structure_inputs(inputs)
            work = bound.execute(context.call, cast("Context", context))
            output = self._run_async(work, str(request["backend"])) if bound.is_async else work()
            return {"output": bound.plain_output(output)}
        except Exception as error:
            return {"error": self._described(error, bound, context.call)}

    def _executor(self, told: Mapping[str, object]) -> BoundExecutor:
        key = json.dumps(told, sort_keys=True)
        if key not in self._bound:
            name, distribution = str(told["name"]), str(told["distribution"])
            try:
                found = load_origin(Origin(**cast("dict[str, Any]", told["origin"])))
                family = cast("dict[str, Any] | None", told["family"])
                kind = cast("type[Executor]", load_origin(Origin(**family))) if family else None
            except TreadleError:
                raise
            except BaseException as error:
                raise PluginBrokenError(name, distribution or "this program", f"in a new process {_shown(error)}") from error
            self._bound[key] = bind(name, found, distribution=distribution, version=str(told["version"]), family=kind)
        return self._bound[key]

    def _run_async(self, work: Callable[[], Awaitable[object]], backend: str) -> object:
        run = _run_on_trio if backend == "trio" else _run_on_asyncio
        try:
            return run(work, self._note_told)
        finally:
            signal.signal(signal.SIGTERM, self._stop)  # an event loop takes its own handlers away
            if self._told:
                raise _Told

    def _note_told(self) -> None:
        self._told = True

    def _failure(self, request: Mapping[str, object], error: BaseException) -> dict[str, Json]:
        if isinstance(error, Exception):
            return self._described(error, None, None)
        name = str(cast("dict[str, object]", request["executor"])["name"])
        if type(error).__name__ in ("CancelledError", "Cancelled"):
            remedy = "Return a value or raise an ordinary exception instead."
            return dump_error(CallCancelledError(f"Executor {name!r} cancelled itself.", remedy), None)
        exited = ExecutorExitedError(name, _shown(error))
        exited.__cause__ = error
        return dump_error(exited, None)

    def _described(self, error: Exception, bound: BoundExecutor | None, call: Call | None) -> dict[str, Json]:
        if isinstance(error, MemoryError):
            self._ballast = None
            traceback.clear_frames(error.__traceback__)  # what filled the memory is held by them
            if self._memory is not None:
                limit = size_text(self._memory)
                error = MemoryError(f"it needed more memory than its limit of {limit}").with_traceback(error.__traceback__)
        proposal = None
        if bound is not None and call is not None:
            with contextlib.suppress(Exception):  # an author's hook: raising counts as no opinion
                proposal = bound.retry_policy(call, error)
        return dump_error(error, proposal)

    def _set_cpu_limit(self, cpu_s: float | None) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        most = hard if cpu_s is None else math.ceil(used.ru_utime + used.ru_stime + cpu_s)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (most, hard))

    def _reset(self, before: set[threading.Thread]) -> bool:
        """Put back what a call may have changed; True when it left behind what cannot be put back."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # user code may have put anything there
                stream.flush()
        with contextlib.suppress(OSError):
            os.chdir(self._cwd)
        if os.environ != self._environ:
            os.environ.clear()
            os.environ.update(self._environ)
        return _has_children() or _has_threads(before)


def _has_children() -> bool:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue  # it had ended already
        return True
    return False


def _has_threads(before: set[threading.Thread]) -> bool:
    deadline = time.monotonic() + SETTLE_S
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    return bool(set(threading.enumerate()) - before)


def _shown(error: BaseException) -> str:
    name, message = type(error).__name__, message_of(error)
    return message if message.startswith(name) else f"{name}: {message}"


def _call_facts(call: Call) -> dict[str, str]:
    """What programs that the call starts may want to know; shell.run tells its commands the same."""
    facts = {
        "TREADLE_RUN_ID": call.run_id,
        "TREADLE_STEP": call.path,
        "TREADLE_ATTEMPT": str(call.attempt),
        "TREADLE_IDEMPOTENCY_KEY": call.idempotency_key,
    }
    if call.index is not None:
        facts["TREADLE_INDEX"] = str(call.index)
    if call.traceparent:
        facts["TRACEPARENT"] = call.traceparent
    return facts


def load_call(data: Mapping[str, object]) -> Call:
    """The call that treadle's process took apart."""
    policy = cast("dict[str, object]", data["retry"])
    retry = {name: tuple(value) if isinstance(value, list) else value for name, value in policy.items()}
    references = cast("list[dict[str, list[Any]]]", data["secrets"])
    secrets = tuple(SecretReference(tuple(one["path"]), tuple(map(tuple, one["parts"]))) for one in references)
    allowance = tuple(SpendLimit(**one) for one in cast("list[dict[str, Any]]", data["allowance"]))
    # Plain data of a call, as treadle's process wrote it.
    return Call(**{**data, "retry": RetryPolicy(**retry), "secrets": secrets, "allowance": allowance})  # type: ignore[arg-type]


# -- event loops ---------------------------------------------------------------------------------------------------------


def _run_on_asyncio(work: Callable[[], Awaitable[object]], told: Callable[[], None]) -> object:
    import asyncio  # most executors that are isolated need no event loop

    async def main() -> object:
        task = asyncio.current_task()
        assert task is not None, "the loop runs it"

        def stop() -> None:
            told()
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        return await work()

    with asyncio.Runner() as runner:
        return runner.run(main())


def _run_on_trio(work: Callable[[], Awaitable[object]], told: Callable[[], None]) -> object:
    import trio  # the same

    async def main() -> object:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop, nursery)
            result = await work()
            nursery.cancel_scope.cancel()
        return result

    async def stop(nursery: trio.Nursery) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                told()
                nursery.cancel_scope.cancel()

    try:
        return trio.run(main)
    except BaseExceptionGroup as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


# -- what user code sees -------------------------------------------------------------------------------------------------


class ChildContext(CallFacts):
    """The context of one call; what executors see of it is ``ports.Context``, without what needs the run's own process."""

    isolated: None = None

    def __init__(self, call: Call, worker: Worker, fencing_token: int) -> None:
        super().__init__(call)
        self._worker, self.fencing_token = worker, fencing_token
        self.arguments: tuple[object, ...] = ()
        self.inputs: dict[str, object] = {}
        self.spans: list[SpanRecord] = []
        self.backend = ""  # of an async def
        self._sent_at: dict[str, float] = {}
        self._waiting: dict[str, Json] = {}
        self._asking = threading.Lock()
        self._answers: dict[int, Mapping[str, object]] = {}
        self._count = 0

    @functools.cached_property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the executor; its records are logged by treadle's process."""
        return logging.LoggerAdapter(logging.getLogger(f"treadle.step.{self.call.executor}"), {})

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the work is."""
        self._tell("progress", [done, total, message])

    def save_soon(self, token: str, data: Json = None) -> None:
        """Note how far the work is."""
        self._tell("save_soon", [token, checked_checkpoint(self.call.item, token, data)])

    def heartbeat(self) -> None:
        """Say that the work goes on."""
        self._tell("alive", True)

    def save(self, token: str, data: Json = None) -> Awaitable[None] | None:
        """Keep how far the work is; waits until treadle has kept it."""
        self._waiting.pop("save_soon", None)  # this one is newer
        return self._ask("checkpoint", token, checked_checkpoint(self.call.item, token, data))

    def own_process(self, pid: int) -> Awaitable[None] | None:
        """Note a process that the call has started; waits until treadle has noted it."""
        return self._ask("process", pid)

    def flush(self) -> None:
        """Send what waits."""
        for what in list(self._waiting):
            self._worker.send({what: self._waiting.pop(what)})

    def _tell(self, what: str, news: Json) -> None:
        """Send news, of each kind the latest and not too often; what waits goes with the next, or at the end."""
        self._waiting[what] = news
        now = time.monotonic()
        if now - self._sent_at.get(what, -math.inf) >= PROGRESS_EVERY_S:
            self._sent_at[what] = now
            self._worker.send({what: self._waiting.pop(what, news)})

    def _ask(self, *what: Json) -> Awaitable[None] | None:
        if self.backend:
            return self._ask_async(*what)
        self._ask_here(*what)
        return None

    def _ask_here(self, *what: Json) -> None:
        with self._asking:
            number = self._send_question(what)
            while number not in self._answers:
                self._keep_answer()
            self._conclude(number)

    async def _ask_async(self, *what: Json) -> None:
        """Look again and again: the descriptor has one reader only, and several tasks may ask at a time."""
        number = self._send_question(what)
        sleep = importlib.import_module(self.backend).sleep  # it runs
        pause_s = _POLL_S
        while number not in self._answers:
            if self._worker.has_line():
                self._keep_answer()
            else:
                await sleep(pause_s)
                pause_s = min(2 * pause_s, 20 * _POLL_S)
        self._conclude(number)

    def _keep_answer(self) -> None:
        answer = self._worker.receive()
        if "kept" in answer:
            self._answers[cast("int", answer["kept"])] = answer

    def _conclude(self, number: int) -> None:
        answer = self._answers.pop(number)
        if "error" in answer:
            name, problem, remedy = cast("tuple[str, str, str]", answer["error"])
            kind = {"TransientError": TransientError, "CallCancelledError": CallCancelledError}.get(name, TreadleError)
            raise kind(problem, remedy)

    def _send_question(self, what: Sequence[Json]) -> int:
        self._count += 1
        self._worker.send({"keep": [self._count, *what]})
        return self._count

    def _make_meter(self) -> Meter:
        return Meter(self.call.item, self.call.allowance, self._note_spent)

    def _note_spent(self, meter: Meter) -> None:
        """Tell treadle's process at once: whatever becomes of this one, what was used up is known."""
        used, refusal = meter.usage, meter.refusal
        told: list[Json] = [[used.cost, used.tokens, used.requests], None if refusal is None else list(attrs.astuple(refusal))]
        self._worker.send({"spent": told})

    def span(
        self, name: str, *, kind: SpanKind = "client", attributes: Mapping[str, object] | None = None
    ) -> AbstractContextManager[dict[str, object]]:
        """A span for a call to a service, child of this attempt; it travels back with the outcome."""
        stamps = Stamps(time.time, random.SystemRandom(), "")
        return ClientSpan(stamps, None, self.call, name, kind, attributes or {}, self.spans.append)

    def run_sync(self, function: Callable[[], object]) -> object:
        """Run a ``def`` here: this thread has nothing else to do."""
        return function()


class _Relay(logging.Handler):
    """Sends log records to treadle's process."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, formatted, never failing."""
        try:
            message = record.getMessage()
            if record.exc_info:
                message = f"{message}\n{logging.Formatter().formatException(record.exc_info)}"
            self._worker.send({"log": [record.name, record.levelno, message[:MAX_LOG], record.pathname, record.lineno]})
        except Exception:  # an author's arguments, or a pipe that is gone
            self.handleError(record)
