"""What the log of a run tells of its calls, so that another run can be given their outcomes instead of making them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs

from treadle._conductor import Conductor
from treadle._generations import following
from treadle._models import (
    AttemptEnded,
    Call,
    Entry,
    Json,
    Outcome,
    RetryAfter,
    RunCreated,
    SignalReceived,
    TimerFired,
)
from treadle._paths import plan_path
from treadle._planned import Plan
from treadle.errors import RunNotFoundError
from treadle.ports import Store

_Key = tuple[str, int | None, int, str]


@attrs.frozen
class Recorded:
    """Outcomes of calls by what was called.

    Attributes:
        run_id: The run that made them.
        inputs: Call -> the inputs that it was made with.
        outcomes: Call -> how it ended; the latest, when it was made several times.
        fired: Timers that had fired.
        signals: What the run was told, in order.
        is_live: Says of a step that it is to run anew.
    """

    run_id: str
    inputs: Mapping[_Key, Mapping[str, Json]] = attrs.field(repr=False)
    outcomes: Mapping[_Key, Outcome] = attrs.field(repr=False)
    fired: frozenset[str]
    signals: tuple[SignalReceived, ...]
    is_live: Callable[[str], bool]

    @classmethod
    def of(cls, plan: Plan, entries: Sequence[Entry], is_live: Callable[[str], bool]) -> Recorded:
        """Read a log.

        Args:
            plan: Of the workflow that the log holds.
            entries: The log.
            is_live: Says of a step that it is to run anew.

        Raises:
            ReplayMismatchError: The log's facts do not lead to its decisions.
        """
        created = entries[0]
        assert isinstance(created, RunCreated), "a log begins with it"
        inputs: dict[_Key, Mapping[str, Json]] = {}

        def note(call: Call) -> None:
            inputs[_key(call)] = call.inputs

        Conductor(plan).replay(entries, note)
        ended = [entry for entry in entries if isinstance(entry, AttemptEnded) and _key(entry) in inputs]
        return cls(
            created.run_id,
            inputs,
            {_key(entry): entry.outcome for entry in ended},
            frozenset(entry.timer_id for entry in entries if isinstance(entry, TimerFired)),
            tuple(entry for entry in entries if isinstance(entry, SignalReceived)),
            is_live,
        )

    def outcome(self, call: Call, now: float) -> Outcome | None:
        """How a call ended that was made with the same inputs; None when it is to be made.

        A recorded failure is tried again at once: what it waited for is over.
        """
        key = _key(call)
        outcome = self.outcomes.get(key)
        if outcome is None or outcome.status == "cancelled" or self.is_live(call.path) or self.inputs[key] != call.inputs:
            return None
        retry = attrs.evolve(outcome.retry, delay_s=0.0) if isinstance(outcome.retry, RetryAfter) else outcome.retry
        # What it used up, the other run has paid for.
        return attrs.evolve(outcome, retry=retry, started_at=now, ended_at=now, spans=(), usage=None, taken_from=self.run_id)

    def has_fired(self, timer_id: str) -> bool:
        """Whether a wait was over in the recorded run, so that nobody waits again."""
        return timer_id in self.fired and not self.is_live(timer_id.partition(":")[2].partition(":")[0])

    def again(self) -> list[Callable[[float], SignalReceived]]:
        """The signals that the recorded run had received, for the time that they are given."""
        return [partial(_given, signal) for signal in self.signals]


async def read_recorded(store: Store, plan: Plan, run_id: str, start: str) -> Recorded:
    """What a run's log tells, for a run of the same workflow that makes its calls itself from the step ``start`` on.

    Args:
        store: Where the run is kept.
        plan: Of the workflow that its log holds.
        run_id: The run.
        start: This step, all that follow from it and ``finally`` run anew; when empty, only calls that the log does not have.

    Raises:
        RunNotFoundError: Its log is not there.
        ReplayMismatchError: The log's facts do not lead to its decisions.
    """
    entries = [record.entry for record in await store.read(run_id)]
    if not entries:
        raise RunNotFoundError(run_id)
    live = following(plan, start) if start else frozenset[str]()
    return Recorded.of(plan, entries, lambda path: plan_path(path) in live)


def _key(call: Call | AttemptEnded) -> _Key:
    return call.path, call.index, call.attempt, call.variant


def _given(signal: SignalReceived, at: float) -> SignalReceived:
    return attrs.evolve(signal, at=at, number=0, due=None)
