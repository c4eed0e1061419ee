"""The policy ``limits``: no more calls than a rate allows, per executor or pattern; calls wait for their turn."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar, Literal

import anyio
import attrs
from anyio.lowlevel import RunVar
from limits import (
    RateLimitItemPerDay,
    RateLimitItemPerHour,
    RateLimitItemPerMinute,
    RateLimitItemPerSecond,
    parse_many,
)
from limits.strategies import MovingWindowRateLimiter
from treadle import TransientError, hookimpl
from treadle.errors import CallPutOffError
from treadle.ports import Call, CallRate, Context, RunSurroundings, Work

from treadle_limits._tickets import CallName, Tickets
from treadle_limits._windows import LoopStorage, NamedRate

__all__ = ["Limits", "RateLimitedError", "RateWaitError"]

_MOST_KEYS = 10_000
"""Rates of steps that are kept; of more, the one that was not used for the longest time is forgotten."""

_Begin = Callable[[Call, Context, Work], Awaitable[object]]
_Rate = tuple[str, int, float]  # whom it is for, calls, seconds

_SHORTEST_S = 0.001  # a wait of less may be lost in the rounding of a loop's clock

_PUT_OFF_S = 0.05
"""A shorter wait is waited for at once: to be put off is recorded."""

_log = logging.getLogger("treadle.policies.limits")
_queues: RunVar[dict[_Rule, anyio.Lock]] = RunVar("treadle_limits_queues")


class RateWaitError(CallPutOffError):
    """A call that its rate does not let through now, and that is made later.

    Attributes:
        rule: The pattern that holds it back.
        rate: What the rule allows.
        refused_by: ``limits``: the call was not made, so it says nothing about the service.
    """

    refused_by = "limits"

    def __init__(self, item: str, rule: str, rate: str, retry_after_s: float) -> None:
        self.rule, self.rate = rule, rate
        super().__init__(
            f"Step {item!r} waits for its turn: {rule!r} allows {rate}.",
            retry_after_s=retry_after_s,
            reason=f"it waits for its turn: {rule!r} allows {rate}",
        )


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
    rates: tuple[NamedRate, ...]
    where: str = "[policies.limits.rules]"
    waiting: int = 0  # calls that stand before whoever comes now
    standing: int = 0  # of these, the ones that wait where they are
    tickets: Tickets = attrs.field(factory=Tickets)

    def count(self) -> None:
        """Count anew who waits."""
        self.waiting = self.standing + len(self.tickets)

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
        parsed.append(_Rule(pattern, tuple([NamedRate(rate, pattern) for rate in rates])))
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(parsed)


_PERIODS = (
    (86_400, RateLimitItemPerDay),
    (3_600, RateLimitItemPerHour),
    (60, RateLimitItemPerMinute),
    (1, RateLimitItemPerSecond),
)


def _rule_of(name: str, said: CallRate) -> _Rule:
    """What a step says of its own calls."""
    seconds, kind = next((seconds, kind) for seconds, kind in _PERIODS if said.per_s % seconds == 0)
    rate = kind(said.limit, int(said.per_s // seconds), "rate_limit")
    return _Rule(name, (NamedRate(rate, name),), "the step's 'rate_limit'")


@attrs.define(eq=False)
class Limits:
    """The policy. Its attributes are the table ``[policies.limits]``; steps of a workflow add rates by ``rate_limit``.

    Attributes:
        rules: Executor, or pattern like ``http.*``, -> how many calls: ``30/minute``, ``10/second; 500/hour``.
        on_limit: ``wait`` until there is room, first come, first served; ``later``, to be put off until then, without a place
            in ``max_parallel``; ``fail`` at once, to be retried later.
    """

    serves: ClassVar[tuple[str, ...]] = ("rate_limit",)

    rules: dict[str, str] = attrs.field(factory=dict)
    on_limit: Literal["wait", "later", "fail"] = "wait"
    _parsed: tuple[_Rule, ...] = attrs.field(init=False)
    _matching: dict[str, tuple[_Rule, ...]] = attrs.field(init=False, factory=dict)
    _beginning: dict[str, _Begin] = attrs.field(init=False, factory=dict)
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
        """Its time is no longer asked for, and no call of it comes back."""
        self._seconds.pop(run.run_id, None)
        with self._lock:
            for rule in (*self._parsed, *self._of_steps.values()):
                rule.tickets.forget_run(run.run_id)
                rule.count()

    @hookimpl
    def wrap_work(self, call: Call, ctx: Context, work: Work) -> Work | None:
        """Put the wait before the work; a call that no rule matches stays as it is."""
        begin = self._beginning.get(call.executor) if call.rate is None else None
        if begin is not None:
            return partial(begin, call, ctx, work)
        rules = self._matching.get(call.executor)
        if rules is None:
            rules = tuple(rule for rule in self._parsed if fnmatchcase(call.executor, rule.pattern))
            self._matching[call.executor] = rules
            if len(rules) == 1 and len(rules[0].rates) == 1:
                self._beginning[call.executor] = self._beginning_of(rules[0])
        if call.rate is not None:
            rules = (*rules, self._of_step(call.executor, call.rate))
        return partial(self._in_turn, rules, call, ctx, work) if rules else None

    def _beginning_of(self, rule: _Rule) -> _Begin:
        """``_in_turn`` for a single rate, with all that does not change between calls looked up."""
        rules, [rate] = (rule,), rule.rates
        seconds, lock, windows, wait = self._seconds, self._lock, self._windows, self._after_waiting

        def begin(call: Call, ctx: Context, work: Work) -> Awaitable[object]:
            if not rule.waiting:
                at = seconds[call.run_id]()
                with lock:
                    has_room = windows.take(rate, at)
                if has_room:
                    return work()
            return wait(rules, call, ctx, work)

        return begin

    def _of_step(self, executor: str, said: CallRate) -> _Rule:
        """The rule that all steps share which say the same; what has not been used for long is forgotten."""
        name = executor if said.key is None else said.key if isinstance(said.key, str) else json.dumps(said.key, sort_keys=True)
        rate = (name, said.limit, said.per_s)
        with self._lock:
            rule = self._of_steps.pop(rate, None)
            if rule is None and len(self._of_steps) >= _MOST_KEYS:
                calm = next((key for key, one in self._of_steps.items() if not one.waiting), None)
                if calm is not None:
                    self._windows.clear(self._of_steps.pop(calm).rates[0].key_for())
            rule = self._of_steps[rate] = rule or _rule_of(name, said)  # the last one was used last
        return rule

    def _in_turn(self, rules: Sequence[_Rule], call: Call, ctx: Context, work: Work) -> Awaitable[object]:
        """Begin the work when there is room at once, so that nothing stands between it and who awaits it."""
        # Nobody overtakes those who wait already.
        for rule in rules:
            if rule.waiting:
                return self._after_waiting(rules, call, ctx, work)
        return work() if self._take(rules, call) else self._after_waiting(rules, call, ctx, work)

    async def _after_waiting(self, rules: Sequence[_Rule], call: Call, ctx: Context, work: Work) -> object:
        await self._wait(rules, call, ctx)
        return await work()

    def _take(self, rules: Sequence[_Rule], call: Call) -> bool:
        """Count the call against every rate of every rule; against none, when one has no room."""
        at = self._seconds[call.run_id]()
        with self._lock:
            if len(rules) == 1 and len(rules[0].rates) == 1:
                return self._windows.take(rules[0].rates[0], at)
            self._windows.at = at
            wanted = [rate for rule in rules for rate in rule.rates]
            return all(self._limiter.test(rate) for rate in wanted) and all(self._limiter.hit(rate) for rate in wanted)

    def _longest(
        self, rules: Sequence[_Rule], call: Call, ahead: Callable[[_Rule], int] = lambda rule: 0
    ) -> tuple[float, _Rule]:
        """Seconds until there is room behind those that are ahead, and the rule that it takes longest for."""
        with self._lock:
            self._windows.at = self._seconds[call.run_id]()
            waits = [(self._windows.wait_s(rate, ahead(rule)), rule) for rule in rules for rate in rule.rates]
        return max(waits, key=lambda wait: wait[0])

    def _may_begin(self, rules: Sequence[_Rule], call: Call) -> bool:
        """Whether a call that was put off has its turn now; otherwise it is put off, again if it was, unless it is soon.

        Raises:
            RateWaitError: It is to come back.
        """
        name: CallName = (call.run_id, call.path, call.index, call.variant)
        with self._lock:
            at = self._seconds[call.run_id]()
            dues = [due for rule in rules if (due := rule.tickets.take(name)) is not None]
            for rule in rules:
                rule.tickets.forget(at)
                rule.count()
        if dues and self._take(rules, call):
            return True
        due = min(dues, default=math.inf)
        wait_s, slowest = self._longest(rules, call, lambda rule: rule.standing + rule.tickets.before(due))
        if wait_s <= _PUT_OFF_S:
            return False
        with self._lock:
            for rule in rules:
                rule.tickets.put(name, at + wait_s)
                rule.count()
        _log.info("is made in about %.3g s: %s allows %s", wait_s, slowest.pattern, slowest.rate)
        raise RateWaitError(call.item, slowest.pattern, slowest.rate, wait_s)

    async def _wait(self, rules: Sequence[_Rule], call: Call, ctx: Context) -> None:
        if self.on_limit == "later" and self._may_begin(rules, call):
            return
        wait_s, rule = self._longest(rules, call, lambda rule: rule.waiting)
        if self.on_limit == "fail":
            raise RateLimitedError(call.item, rule.pattern, rule.rate, wait_s, where=rule.where)
        if self.on_limit != "later" and wait_s > (math.inf if call.timeout_s is None else call.timeout_s):
            why = f", and its turn would come after its timeout of {call.timeout_s:g} s"
            raise RateLimitedError(call.item, rule.pattern, rule.rate, wait_s, why, rule.where)
        _log.info("waits about %.3g s: %s allows %s", wait_s, rule.pattern, rule.rate)
        attributes = {"treadle.policy": "limits", "treadle.limits.rule": rule.pattern, "treadle.limits.rate": rule.rate}
        with ctx.span("wait for rate limit", kind="internal", attributes=attributes), _counted(rules):
            async with _queued(rules):
                while not self._take(rules, call):  # noqa: ASYNC110 - room is made by time alone
                    await anyio.sleep(max(self._longest(rules, call)[0], _SHORTEST_S))


@contextmanager
def _counted(rules: Sequence[_Rule]) -> Iterator[None]:
    """While the block is open, the call stands before whoever comes now."""
    for rule in rules:
        rule.standing += 1
        rule.count()
    try:
        yield
    finally:
        for rule in rules:
            rule.standing -= 1
            rule.count()


@asynccontextmanager
async def _queued(rules: Sequence[_Rule]) -> AsyncIterator[None]:
    """The block is entered by one call at a time per rule, in the order of arrival; whoever is cancelled leaves the queue."""
    queues = _queues.get({})
    _queues.set(queues)
    async with AsyncExitStack() as stack:
        for rule in rules:  # all calls take them in the order of the configuration, so none wait for each other
            await stack.enter_async_context(queues.setdefault(rule, anyio.Lock()))
        yield
