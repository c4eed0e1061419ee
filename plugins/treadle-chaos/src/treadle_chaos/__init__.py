"""The policy ``chaos``: errors, delays, invalid outputs and crashes at named steps, the same ones for the same seed."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import anyio
import attrs
from treadle import PermanentError, TransientError, hookimpl
from treadle.ports import Call, Context, RunSurroundings, Work, watch_fault_points

__all__ = ["CRASH_CODE", "Chaos", "ChaosPermanentError", "ChaosTransientError", "Fault"]

CRASH_CODE = 86
"""The exit code of a process that a fault ended, unless the fault says another."""

_log = logging.getLogger("treadle.policies.chaos")


class ChaosTransientError(TransientError):
    """A fault that was asked for; trying again may help."""


class ChaosPermanentError(PermanentError):
    """A fault that was asked for; trying again does not help."""


@attrs.frozen
class Fault:
    """One entry of ``[[policies.chaos.faults]]``.

    Attributes:
        kind: ``error``, ``delay``, ``invalid`` (an output that no contract takes) or ``crash`` (the process ends at once).
        executor: Name or pattern of the executors.
        step: Path or pattern of the steps.
        probability: How often, 0 to 1, over the attempts that it is asked about.
        when: ``before`` the work, or ``after`` it: then it has taken effect, but nobody has heard of it.
        attempts: Only in the first so many attempts; 0: in every one.
        stints: ``crash`` only: only in the first so many processes that drive the run; 0: in every one.
        delay_s: ``delay`` only: how long.
        retryable: ``error`` only: whether it says that trying again may help.
        message: What an error says.
        exit_code: ``crash`` only.
        point: ``crash`` only: name or pattern of a point inside of treadle, like ``committed``, instead of a step.
        passing: With ``point``: at its so manieth passing, from 1; 0: at each, by ``probability``.
    """

    kind: Literal["error", "delay", "invalid", "crash"]
    executor: str = "*"
    step: str = "*"
    probability: float = attrs.field(
        default=1.0, validator=attrs.validators.and_(attrs.validators.ge(0), attrs.validators.le(1))
    )
    when: Literal["before", "after"] = "before"
    attempts: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    stints: int = attrs.field(default=1, validator=attrs.validators.ge(0))
    delay_s: float = attrs.field(default=1.0, validator=attrs.validators.ge(0))
    retryable: bool = True
    message: str = "a fault that chaos was asked for"
    exit_code: int = CRASH_CODE
    point: str = ""
    passing: int = attrs.field(default=0, validator=attrs.validators.ge(0))

    def __attrs_post_init__(self) -> None:
        if self.point and self.kind != "crash":
            raise ValueError(f"a fault at a point is a crash, not {self.kind!r}")

    def matches(self, call: Call) -> bool:
        """Whether the fault is asked about this attempt."""
        if self.point:
            return False
        return fnmatchcase(call.executor, self.executor) and (self._is_anywhere or self._is_here(call))

    @property
    def _is_anywhere(self) -> bool:
        """Whether the executor is all that it depends on."""
        return self.step == "*" and not self.attempts and self.kind != "crash"

    def _is_here(self, call: Call) -> bool:
        if self.attempts and call.attempt > self.attempts:
            return False
        if self.kind == "crash" and self.stints and call.stint > self.stints:
            return False
        return fnmatchcase(call.path, self.step)


# What begins a draw of a fault, what it has to be less than, the fault, and whether the executor is all that it depends on.
_Asked = tuple[Callable[[], hashlib.blake2b], bytes, Fault, bool]


class _Invalid:
    """An output that is not JSON, so no contract takes it."""

    def __repr__(self) -> str:
        return "<what chaos gave instead of the output>"


@attrs.define(eq=False)
class Chaos:
    """The policy. Its attributes are the table ``[policies.chaos]``.

    Attributes:
        seed: Another seed, other decisions; the same seed, the same ones.
        faults: What may happen, in this order.
    """

    seed: int
    faults: list[Fault] = attrs.field(factory=list)
    _begun: list[hashlib.blake2b] = attrs.field(init=False)
    _of_executor: dict[str, list[_Asked]] = attrs.field(init=False, factory=dict)
    _watches: dict[str, Callable[[], None]] = attrs.field(init=False, factory=dict)
    _passed: Counter[str] = attrs.field(init=False, factory=Counter)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        begun = [f"({self.seed!r}, {number!r}, ".encode() for number in range(len(self.faults))]
        self._begun = [hashlib.blake2b(text, digest_size=8) for text in begun]

    @hookimpl
    def open_run(self, run: RunSurroundings) -> None:
        """Mind the points that are named, when this process is one of those that they are for."""
        at_points = [number for number, fault in enumerate(self.faults) if fault.point]
        due = [number for number in at_points if not (0 < self.faults[number].stints < run.stint)]
        if due:
            self._watches[run.run_id] = watch_fault_points(partial(self._pass, due))

    @hookimpl
    def close_run(self, run: RunSurroundings) -> None:
        """Let the points be."""
        if run.run_id in self._watches:
            self._watches.pop(run.run_id)()

    def _pass(self, numbers: Sequence[int], point: str) -> None:
        with self._lock:
            self._passed[point] += 1
            passing = self._passed[point]
        for number in numbers:
            if self.strikes(number, point, passing):
                _log.info("chaos strikes at the point %s, passed %d times", point, passing)
                os._exit(self.faults[number].exit_code)

    def strikes(self, number: int, point: str, passing: int) -> bool:
        """Whether fault ``number`` ends the process when it passes a point for the so manieth time."""
        fault = self.faults[number]
        if not fnmatchcase(point, fault.point) or (fault.passing and fault.passing != passing):
            return False
        return fault.probability >= 1 or _number((self.seed, number, point, passing)) < fault.probability

    @hookimpl(trylast=True)
    def wrap_work(self, call: Call, ctx: Context, work: Work) -> Work | None:
        """Put the faults around the work: innermost, so that other policies see them as they would see the service's."""
        asked = self._of_executor.get(call.executor)
        if asked is None:
            asked = self._of_executor[call.executor] = [
                (begun.copy, _limit(fault), fault, fault._is_anywhere)
                for begun, fault in zip(self._begun, self.faults, strict=True)
                if not fault.point and fnmatchcase(call.executor, fault.executor)
            ]
        struck: tuple[Fault, ...] = ()
        for begin, limit, fault, is_anywhere in asked:
            if (is_anywhere or fault._is_here(call)) and _draw(begin, call, fault.kind) < limit:
                struck += (fault,)
        return partial(_struck, struck, call, work) if struck else None

    def decides(self, number: int, call: Call) -> bool:
        """Whether fault ``number`` strikes this attempt.

        Depends on the seed and on which attempt of what it is, not on the run, the time or what else goes on.
        """
        fault = self.faults[number]
        return fault.matches(call) and _draw(self._begun[number].copy, call, fault.kind) < _limit(fault)


def _draw(begin: Callable[[], hashlib.blake2b], call: Call, kind: str) -> bytes:
    """A number of eight bytes that only the seed, the fault and which attempt of what it is decide."""
    digest = begin()
    if kind == "crash":  # a call that a crash interrupted is made again under the same number
        which = f"{call.path!r}, {call.index}, {call.variant!r}, {call.generation}, {call.attempt}, {call.stint})"
    elif call.attempt == 1 and call.index is None and call.variant == "primary" and not call.generation:
        which = f"{call.path!r}, None, 'primary', 0, 1)"  # as below, for most calls, at a sixth of the price
    else:
        which = f"{call.path!r}, {call.index}, {call.variant!r}, {call.generation}, {call.attempt})"
    digest.update(which.encode())
    return digest.digest()


def _limit(fault: Fault) -> bytes:
    """What that number has to be less than for a fault to strike."""
    part = math.ceil(fault.probability * 2**53) << 11
    return part.to_bytes(8) if part < 2**64 else b"\xff" * 9  # more than any


def _number(parts: tuple[object, ...]) -> float:
    """A number from 0 up to 1 that only what it is made of decides."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


async def _struck(faults: Sequence[Fault], call: Call, work: Work) -> object:
    for fault in faults:
        if fault.when == "before" and fault.kind != "invalid":
            await _strike(fault, call)
    output = await work()
    for fault in faults:
        if fault.kind == "invalid":
            _log.info("chaos replaces the output")
            output = _Invalid()
        elif fault.when == "after":
            await _strike(fault, call)
    return output


async def _strike(fault: Fault, call: Call) -> None:
    _log.info("chaos strikes attempt %d: %s %s it", call.attempt, fault.kind, fault.when)
    if fault.kind == "delay":
        await anyio.sleep(fault.delay_s)
    elif fault.kind == "crash":
        os._exit(fault.exit_code)
    else:
        kind = ChaosTransientError if fault.retryable else ChaosPermanentError
        raise kind(f"{fault.message} ({call.item}, attempt {call.attempt})", "It is in [policies.chaos]; remove it there.")
