"""The policy ``breaker``: a service that failed five times in a row is left alone, then tried with one call."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

import anyio
import attrs
from interlock import CircuitBreaker, CircuitOpenError, Config, CoreEventListener, State
from treadle import PermanentError, TransientError, hookimpl
from treadle.errors import CallCancelledError, InputsInvalidError, NotSupportedError, PluginError
from treadle.ports import Call, Context, RunSurroundings, Work

__all__ = ["Breaker", "BreakerOpenError"]

MAX_CIRCUITS = 1_024
"""Circuits that are kept; of more, one that had no trouble is forgotten."""

_SLACK = 0.95  # a call that ends so near to its deadline was ended by it: the runner's clock began a little earlier

_log = logging.getLogger("treadle.policies.breaker")


class BreakerOpenError(TransientError):
    """A call that was not made, because its service failed too often.

    Attributes:
        circuit: What is left alone: the executor, and its key if it has one.
        last_failure: What it was at last: the type of the error; may be empty.
        refused_by: ``breaker``: the call was not made, so it says nothing about the service.
    """

    refused_by = "breaker"

    def __init__(self, item: str, circuit: str, retry_after_s: float, *, is_probing: bool, last_failure: str = "") -> None:
        self.circuit, self.last_failure = circuit, last_failure
        why = "another call is trying whether it works again" if is_probing else "it failed too often in a row"
        last = f" (at last: {last_failure})" if last_failure else ""
        super().__init__(
            f"Step {item!r} was not called: {circuit} is left alone, {why}{last}.",
            f"See what is wrong with it. The next call may try it in {retry_after_s:.3g} s.",
            retry_after_s=retry_after_s,
        )


class _NoVerdict(BaseException):
    """Tells the circuit that a call ended without saying anything about its service; never raised."""


class _Failure(Exception):
    """What the circuit keeps of a failure: the name of its type. The error itself would hold on to frames and secrets."""


class _Time:
    """The run's time, as interlock asks for it: set before each use."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at


@attrs.define(eq=False)
class _Circuit:
    """A circuit, and whether there is anything in it that a success would change.

    A success is what the library is told most of all, and it takes 5 us; in a circuit that is closed and whose last call
    worked, it changes nothing. So such a circuit is only told of failures.
    """

    name: str
    breaker: CircuitBreaker
    is_calm: bool = True


class _Teller(CoreEventListener):
    """Says in the log what becomes of a circuit."""

    def on_state_change(self, *, name: str, old: State, new: State) -> None:
        if new is State.OPEN:
            _log.warning("%s failed too often in a row and is left alone for a while", name)
        elif new is State.CLOSED:
            _log.info("%s works again", name)


@attrs.define(eq=False)
class Breaker:
    """The policy. Its attributes are the table ``[policies.breaker]``.

    Attributes:
        executors: Which are watched, by name or pattern like ``http.*``; each has a circuit of its own.
        failures: After how many failures in a row it opens.
        reset_s: Seconds until one call may try whether the service works again.
        keys: Executor or pattern -> the input that tells its services apart, like ``"http.*" = "url"``; of a URL, the host.
        ignore: Names of error types that say nothing about the service.
    """

    executors: list[str] = attrs.field(factory=lambda: ["*"])
    failures: int = attrs.field(default=5, validator=attrs.validators.ge(1))
    reset_s: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    keys: dict[str, str] = attrs.field(factory=dict)
    ignore: list[str] = attrs.field(factory=list)
    _circuits: dict[str, _Circuit] = attrs.field(init=False, factory=dict)
    _watched: dict[str, bool] = attrs.field(init=False, factory=dict)
    _seconds: dict[str, Callable[[], float]] = attrs.field(init=False, factory=dict)
    _time: _Time = attrs.field(init=False, factory=_Time)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    @hookimpl
    def open_run(self, run: RunSurroundings) -> None:
        """Circuits stay open by the run's own time."""
        self._seconds[run.run_id] = run.seconds

    @hookimpl
    def close_run(self, run: RunSurroundings) -> None:
        """Its time is no longer asked for."""
        self._seconds.pop(run.run_id, None)

    @hookimpl
    def wrap_work(self, call: Call, ctx: Context, work: Work) -> Work | None:
        """Put the circuit around the work."""
        circuit = None if self.keys else self._circuits.get(call.executor)
        if circuit is None:
            is_watched = self._watched.get(call.executor)
            if is_watched is None:
                is_watched = any(fnmatchcase(call.executor, pattern) for pattern in self.executors)
                self._watched[call.executor] = is_watched
            if not is_watched:
                return None
            name = self._name(call) if self.keys else call.executor
            circuit = self._circuits.get(name) or self._circuit(name)
        return partial(self._guarded, circuit, call, work)

    async def _guarded(self, circuit: _Circuit, call: Call, work: Work) -> object:
        is_entered, began = not circuit.is_calm, 0.0
        if is_entered or call.timeout_s is not None:  # how long it took is only asked where a deadline may have ended it
            began = self._seconds[call.run_id]()
        if is_entered:
            await self._enter(circuit, call, began)
        try:
            output = await work()
        except BaseException as error:
            now = self._seconds[call.run_id]()
            verdict = self._verdict(call, error, now - began)
            if is_entered:
                await self._tell(circuit, verdict, now)
            elif isinstance(verdict, _Failure):
                await self._tell_late(circuit, verdict, now)
            raise
        if is_entered:
            await self._tell(circuit, None, self._seconds[call.run_id]())
        elif not circuit.is_calm:  # others have failed meanwhile
            await self._tell_late(circuit, None, self._seconds[call.run_id]())
        return output

    async def _enter(self, circuit: _Circuit, call: Call, at: float) -> None:
        self._time.at = at
        try:
            await circuit.breaker.__aenter__()
        except CircuitOpenError as refusal:
            raise self._refused(call, circuit.name, refusal) from None

    async def _tell(self, circuit: _Circuit, verdict: BaseException | None, at: float) -> None:
        """Leave what was entered. By hand: what the circuit is told differs from what is raised."""
        self._time.at = at
        await circuit.breaker.__aexit__(type(verdict) if verdict else None, verdict, None)
        circuit.is_calm = verdict is None and circuit.breaker.state is State.CLOSED

    async def _tell_late(self, circuit: _Circuit, verdict: BaseException | None, at: float) -> None:
        """The same for a call that was let through unasked; one that opened meanwhile is told nothing any more."""
        circuit.is_calm = False
        self._time.at = at
        if circuit.breaker.state is State.CLOSED:
            await circuit.breaker.__aenter__()
            await self._tell(circuit, verdict, at)

    def _name(self, call: Call) -> str:
        key = next((key for pattern, key in self.keys.items() if fnmatchcase(call.executor, pattern)), "")
        value = call.inputs.get(key) if key else None
        return call.executor if value is None else f"{call.executor} of {_service(value)}"

    def _circuit(self, name: str) -> _Circuit:
        with self._lock:
            if len(self._circuits) >= MAX_CIRCUITS:
                calm = (name for name, one in self._circuits.items() if one.breaker.state is State.CLOSED)
                self._circuits.pop(next(calm, next(iter(self._circuits))))
            made = CircuitBreaker(name=name, config=self._config(), clock=self._time, listener=_Teller())
            return self._circuits.setdefault(name, _Circuit(name, made))

    def _config(self) -> Config:
        """As many failures in a row as the window is long; being slow is no failure; one probe, alone."""
        return Config(
            window_size=self.failures,
            minimum_number_of_calls=self.failures,
            failure_rate_threshold=1.0,
            slow_call_duration_threshold=math.inf,
            wait_duration_in_open=self.reset_s,
            permitted_calls_in_half_open=1,
            max_concurrent_probes=1,
        )

    def _refused(self, call: Call, name: str, refusal: CircuitOpenError) -> BreakerOpenError:
        is_probing = refusal.retry_after is None
        wait_s = self.reset_s if refusal.retry_after is None else refusal.retry_after
        last = str(refusal.last_failure or "")
        return BreakerOpenError(call.item, name, wait_s, is_probing=is_probing, last_failure=last)

    def _verdict(self, call: Call, error: BaseException, took_s: float) -> BaseException | None:
        """What the circuit is told of an error: a _Failure, None when the service answered, else _NoVerdict."""
        if isinstance(error, anyio.get_cancelled_exc_class()):
            is_late = call.timeout_s is not None and took_s >= call.timeout_s * _SLACK
            return _Failure("no answer in time") if is_late else _NoVerdict()
        if not isinstance(error, Exception) or self._says_nothing(error):
            return _NoVerdict()
        return None if _is_answer(error) else _Failure(type(error).__name__)

    def _says_nothing(self, error: Exception) -> bool:
        if hasattr(error, "refused_by") or any(kind.__name__ in self.ignore for kind in type(error).__mro__):
            return True
        is_ours = isinstance(error, CallCancelledError | InputsInvalidError | NotSupportedError | PluginError)
        return is_ours or (isinstance(error, PermanentError) and not hasattr(error, "status_code"))


def _is_answer(error: Exception) -> bool:
    """Whether the service worked and only refused this request."""
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return False
    return 400 <= status < 500 and status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def _service(value: object) -> str:
    """The host of a URL; of anything else, its text."""
    text = str(value) if not isinstance(value, Mapping) else ",".join(sorted(map(str, value)))
    try:
        host = urlsplit(text).netloc.rpartition("@")[2]
    except ValueError:
        host = ""
    return host or text[:200]
