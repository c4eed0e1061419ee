"""What a signal must be before it is sent: one that a step of the run waits for or will, with a payload that fits."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence, Set

import attrs

from treadle._contracts import contract_for
from treadle._models import Entry, Issue, ItemEnded, Json, RetryRequested, SignalReceived, StepEnded, WaitEnded, WaitStarted
from treadle._paths import item_path
from treadle._payload_schema import payload_issues
from treadle._plan import Plan
from treadle._store_records import Signal
from treadle.errors import PayloadInvalidError, SignalNotDeclaredError

__all__ = ["Awaited", "Heard", "awaited", "make_signal", "new_signal_id", "schemas_of"]

MAX_PAYLOAD = 1 << 20
"""Most bytes of a payload as JSON."""


@attrs.frozen
class Awaited:
    """A signal that a workflow's step waits for, as it is written.

    Attributes:
        path: The step.
        signal: Its name; may hold expressions.
        schema: What the payload must fit.
        is_approval: Whether it asks for a yes or no.
    """

    path: str
    signal: str
    schema: Mapping[str, Json] | bool
    is_approval: bool


def awaited(plan: Plan) -> list[Awaited]:
    """The signals that a plan's steps wait for, in the order of declaration."""
    waits = [(path, step.wait.wait) for path, step in plan.steps.items() if step.wait is not None and step.wait.wait.signal]
    return [Awaited(path, wait.signal, wait.payload_schema, wait.is_approval) for path, wait in waits]


@attrs.frozen
class Heard:
    """What a log tells of a run's signals.

    Attributes:
        waiting: Step -> the signal that it waits for now.
        over: Steps that wait no more.
        ids: Of the signals that were received.
    """

    waiting: Mapping[str, str]
    over: Set[str]
    ids: Set[str]

    @classmethod
    def read(cls, entries: Iterable[Entry]) -> Heard:
        """Read a log, as far as it goes."""
        waiting: dict[str, str] = {}
        over: set[str] = set()
        ids: set[str] = set()
        for entry in entries:
            if isinstance(entry, WaitStarted):
                waiting[item_path(entry.path, entry.index)] = entry.signal
            elif isinstance(entry, WaitEnded | ItemEnded) and entry.index is not None:
                waiting.pop(item_path(entry.path, entry.index), None)  # others of the step may still wait
            elif isinstance(entry, WaitEnded | StepEnded):
                waiting.pop(entry.path, None)
                over.add(entry.path)
            elif isinstance(entry, SignalReceived):
                ids.add(entry.signal_id)
            elif isinstance(entry, RetryRequested):
                over.clear()  # what ended may be done again
        return cls(waiting, over, ids)

    def may_take(self, path: str, signal: str) -> bool:
        """Whether a step, as far as is known of it, may still take a signal."""
        return path not in self.over and self.waiting.get(path, signal) == signal


def schemas_of(plan: Plan, signal: str, heard: Heard | None = None) -> list[Mapping[str, Json] | bool]:
    """What a payload of this signal must fit, for each step that may wait for it."""
    waits = [
        step.wait
        for path, step in plan.steps.items()
        if step.wait is not None and step.wait.may_be_for(signal) and (heard is None or heard.may_take(path, signal))
    ]
    return [wait.wait.payload_schema for wait in waits]


def _still_awaited(plan: Plan, heard: Heard | None) -> list[str]:
    """The signals that steps wait for or may wait for later, as far as is known."""
    if heard is None:
        return list(dict.fromkeys(one.signal for one in awaited(plan)))
    open_ = [heard.waiting.get(one.path, one.signal) for one in awaited(plan) if one.path not in heard.over]
    return list(dict.fromkeys([*open_, *(signal for signal in heard.waiting.values() if signal)]))


def new_signal_id() -> str:
    """An id for a signal, at random."""
    return secrets.token_hex(8)


def make_signal(
    plan: Plan,
    name: str,
    payload: Json,
    *,
    at: float,
    due: float | None = None,
    signal_id: str = "",
    run_id: str,
    heard: Heard | None = None,
) -> Signal:
    """A signal that steps of the plan can consume.

    Args:
        plan: Of the run.
        name: Of the signal.
        payload: Plain JSON.
        at: Now.
        due: When it is to be delivered; None: at once.
        signal_id: What makes sending it idempotent; a new one when empty.
        run_id: For messages.
        heard: What the run's log tells; None: what its workflow says.

    Raises:
        SignalNotDeclaredError: No step waits for such a signal, or will.
        PayloadInvalidError: The payload is no plain JSON, is too large, or does not fit the schema.
    """
    schemas = schemas_of(plan, name, heard)
    if not schemas:
        raise SignalNotDeclaredError(run_id, name, _still_awaited(plan, heard))
    plain = _plain(name, payload)
    found: Sequence[Issue] = ()
    for schema in schemas:
        issues = payload_issues(schema, plain)
        if not issues:
            return Signal(name, plain, signal_id or new_signal_id(), at, due)
        found = found or issues
    raise PayloadInvalidError(name, found)


def _plain(name: str, payload: Json) -> Json:
    try:
        plain = contract_for(object).unstructure(payload)
        size = len(json.dumps(plain, allow_nan=False).encode("utf-8", "surrogatepass"))
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadInvalidError(name, [Issue(f"is no plain JSON: {error}", "$")]) from error
    if size > MAX_PAYLOAD:
        issue = Issue(f"has {size} bytes, and at most {MAX_PAYLOAD} are allowed: send where it is instead", "$")
        raise PayloadInvalidError(name, [issue])
    return plain
