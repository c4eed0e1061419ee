"""The policy ``limits``: no more calls than a rate allows, per executor or pattern; calls wait for their turn."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar, Literal

import anyio
import attrs
from anyio.lowlevel import RunVar
from limits import (
    RateLimitItem,
    RateLimitItemPerDay,
    RateLimitItemPerHour,
    RateLimitItemPerMinute,
    RateLimitItemPerSecond,
    parse_many,
)
from limits.strategies import MovingWindowRateLimiter
from treadle import TransientError, hookimpl
from treadle.ports import Call, CallRate, Context, RunSurroundings, Work

from treadle_limits._windows import LoopStorage

__all__ = ["Limits", "RateLimitedError"]

_MOST_KEYS = 10_000
"""Rates of steps that are kept; of more, the one that was not used for the longest time is forgotten."""

_Rate = tuple[str, int, float]  # whom it is for, calls, seconds

_SHORTEST_S = 0.001  # a wait of less may be lost in the rounding of a loop's clock

_log = logging.getLogger("treadle.policies.limits")
_queues: RunVar[dict[_Rule, anyio.Lock]] = RunVar("treadle_limits_queues")


class RateLimitedError(TransientError):
    """A call that its rate does not let through now, or not before its deadline.

    Attributes:
        rule: The pattern that holds it back.
        rate: What the rule allows.
        refused_by: ``limits``: the call was not made, so it says nothing about the service.
    """

    refused_by = "limits"

    def __init__(
        self, item: str, rule: str, rate: str, retry_after_s: float, why: str = "", where: str = "[policies.limits.rules]"
    ) -> None:
        self.rule, self.rate = rule, rate
        super().__init__(
            f"Step {item!r} was not called: {rule!r} allows {rate}{why}.",
            f"There is room in {retry_after_s:.3g} s. Raise the rate in {where}, or the step's 'timeout'.",
            retry_after_s=retry_after_s,
        )


@attrs.define(eq=False)
class _Rule:
    """One pattern with its rates: all executors that it matches share them."""

    pattern: str
    rates: tuple[RateLimitItem, ...]
    where: str = "[policies.limits.rules]"
    waiting: int = 0

    @property
    def rate(self) -> str:
        return " and ".join(str(rate) for rate in self.rates)


def _parse(rules: dict[str, str]) -> tuple[_Rule, ...]:
    parsed, faults = [], []
    for pattern, text in rules.items():
        try:
            rates = tuple(dict.fromkeys(parse_many(text)))  # one that is said twice counts once
        except ValueError:
            faults.append(f"{pattern!r}: {text!r} is not a rate, like '30/minute' or '10/second; 500/hour'")
            continue
        if not all(rate.amount > 0 for rate in rates):
            faults.append(f"{pattern!r}: {text!r} would never let a call through")
        parsed.append(_Rule(pattern, rates))
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(parsed)


_PERIODS = (
    (86_400, RateLimitItemPerDay),
    (3_600, RateLimitItemPerHour),
    (60, RateLimitItemPerMinute),
    (1, RateLimitItemPerSecond),
)


def _rule_of(executor: str, said: CallRate) -> _Rule:
    """What a step says of its own calls."""
    name = executor if said.key is None else said.key if isinstance(said.key, str) else json.dumps(said.key, sort_keys=True)
    seconds, kind = next((seconds, kind) for seconds, kind in _PERIODS if said.per_s % seconds == 0)
    return _Rule(name, (kind(said.limit, int(said.per_s // seconds), "rate_limit"),), "the step's 'rate_limit'")


@attrs.define(eq=False)
class Limits:
    """The policy. Its attributes are the table ``[policies.limits]``; steps of a workflow add rates by ``rate_limit``.

    Attributes:
        rules: Executor, or pattern like ``http.*``, -> how many calls: ``30/minute``, ``10/second; 500/hour``.
        on_limit: ``wait`` until there is room, first come, first served; ``fail`` at once, to be retried later.
    """

    serves: ClassVar[tuple[str, ...]] = ("rate_limit",)

    rules: dict[str, str] = attrs.field(factory=dict)
    on_limit: Literal["wait", "fail"] = "wait"
    _parsed: tuple[_Rule, ...] = attrs.field(init=False)
    _matching: dict[str, tuple[_Rule, ...]] = attrs.field(init=False, factory=dict)
    _of_steps: dict[_Rate, _Rule] = attrs.field(init=False, factory=dict)
    _seconds: dict[str, Callable[[], float]] = attrs.field(init=False, factory=dict)
    _windows: LoopStorage = attrs.field(init=False, factory=LoopStorage)
    _limiter: MovingWindowRateLimiter = attrs.field(init=False)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        self._parsed = _parse(self.rules)
        self._limiter = MovingWindowRateLimiter(self._windows)

    @hookimpl
    def open_run(self, run: RunSurroundings) -> None:
        """Windows pass with the run's own time."""
        self._seconds[run.run_id] = run.seconds

    @hookimpl
    def close_run(self, run: RunSurroundings) -> None:
        """Its time is no longer asked for."""
        self._seconds.pop(run.run_id, None)

    @hookimpl(wrapper=True)
    def execute(self, call: Call, ctx: Context) -> Generator[None, Work | None, Work | None]:
        """Put the wait before the work; a call that no rule matches stays as it is."""
        work = yield
        rules = self._matching.get(call.executor)
        if rules is None:
            rules = tuple(rule for rule in self._parsed if fnmatchcase(call.executor, rule.pattern))
            self._matching[call.executor] = rules
        if call.rate is not None:
            rules = (*rules, self._of_step(call.executor, call.rate))
        if work is None or not rules:
            return work
        return partial(self._in_turn, rules, call, ctx, work)

    def _of_step(self, executor: str, said: CallRate) -> _Rule:
        """The rule that all steps share which say the same; what has not been used for long is forgotten."""
        made = _rule_of(executor, said)
        rate = (made.pattern, said.limit, said.per_s)
        with self._lock:
            rule = self._of_steps.pop(rate, None)
            if rule is None and len(self._of_steps) >= _MOST_KEYS:
                calm = next((key for key, one in self._of_steps.items() if not one.waiting), None)
                if calm is not None:
                    forgotten = self._of_steps.pop(calm)
                    self._windows.clear(forgotten.rates[0].key_for(forgotten.pattern))
            rule = self._of_steps[rate] = rule or made  # the last one was used last
        return rule

    async def _in_turn(self, rules: Sequence[_Rule], call: Call, ctx: Context, work: Work) -> object:
        for rule in rules:
            if rule.waiting:  # nobody overtakes those who wait already
                await self._wait(rules, call, ctx)
                return await work()
        if not self._take(rules, call):
            await self._wait(rules, call, ctx)
        return await work()

    def _take(self, rules: Sequence[_Rule], call: Call) -> bool:
        """Count the call against every rate of every rule; against none, when one has no room."""
        at = self._seconds[call.run_id]()
        with self._lock:
            self._windows.at = at
            if len(rules) == 1 and len(rules[0].rates) == 1:
                return self._limiter.hit(rules[0].rates[0], rules[0].pattern)
            wanted = [(rate, rule.pattern) for rule in rules for rate in rule.rates]
            return all(self._limiter.test(*one) for one in wanted) and all(self._limiter.hit(*one) for one in wanted)

    def _longest(self, rules: Sequence[_Rule], call: Call, *, is_queued: bool) -> tuple[float, _Rule]:
        """Seconds until there is room, and the rule that it takes longest for."""
        with self._lock:
            self._windows.at = self._seconds[call.run_id]()
            waits = [
                (self._windows.wait_s(rate, rule.pattern, 0 if is_queued else rule.waiting), rule)
                for rule in rules
                for rate in rule.rates
            ]
        return max(waits, key=lambda wait: wait[0])

    async def _wait(self, rules: Sequence[_Rule], call: Call, ctx: Context) -> None:
        wait_s, rule = self._longest(rules, call, is_queued=False)
        if self.on_limit == "fail":
            raise RateLimitedError(call.item, rule.pattern, rule.rate, wait_s, where=rule.where)
        if wait_s > (math.inf if call.timeout_s is None else call.timeout_s):
            why = f", and its turn would come after its timeout of {call.timeout_s:g} s"
            raise RateLimitedError(call.item, rule.pattern, rule.rate, wait_s, why, rule.where)
        _log.info("%s waits about %.3g s: %s allows %s", call.item, wait_s, rule.pattern, rule.rate)
        attributes = {"treadle.policy": "limits", "treadle.limits.rule": rule.pattern, "treadle.limits.rate": rule.rate}
        with ctx.span("wait for rate limit", kind="internal", attributes=attributes), _counted(rules):
            async with _queued(rules):
                while not self._take(rules, call):  # noqa: ASYNC110 - room is made by time alone
                    await anyio.sleep(max(self._longest(rules, call, is_queued=True)[0], _SHORTEST_S))


@contextmanager
def _counted(rules: Sequence[_Rule]) -> Iterator[None]:
    """While the block is open, the call stands before whoever comes now."""
    for rule in rules:
        rule.waiting += 1
    try:
        yield
    finally:
        for rule in rules:
            rule.waiting -= 1


@asynccontextmanager
async def _queued(rules: Sequence[_Rule]) -> AsyncIterator[None]:
    """The block is entered by one call at a time per rule, in the order of arrival; whoever is cancelled leaves the queue."""
    queues = _queues.get({})
    _queues.set(queues)
    async with AsyncExitStack() as stack:
        for rule in rules:  # all calls take them in the order of the configuration, so none wait for each other
            await stack.enter_async_context(queues.setdefault(rule, anyio.Lock()))
        yield
