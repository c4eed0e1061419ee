"""What a signal must be before it is sent: one that a step of the run waits for or will, with a payload that fits."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence

import attrs

from treadle._contracts import contract_for
from treadle._models import Issue, Json
from treadle._payload_schema import payload_issues
from treadle._plan import Plan
from treadle._store_records import Signal
from treadle.errors import PayloadInvalidError, SignalNotDeclaredError

__all__ = ["Awaited", "awaited", "make_signal", "new_signal_id", "schemas_of"]

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


def schemas_of(plan: Plan, signal: str) -> list[Mapping[str, Json] | bool]:
    """What a payload of this signal must fit, for each step that may wait for it."""
    waits = [step.wait for step in plan.steps.values() if step.wait is not None and step.wait.may_be_for(signal)]
    return [wait.wait.payload_schema for wait in waits]


def new_signal_id() -> str:
    """An id for a signal, at random."""
    return secrets.token_hex(8)


def make_signal(
    plan: Plan, name: str, payload: Json, *, at: float, due: float | None = None, signal_id: str = "", run_id: str
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

    Raises:
        SignalNotDeclaredError: No step waits for such a signal.
        PayloadInvalidError: The payload is no plain JSON, is too large, or does not fit the schema.
    """
    schemas = schemas_of(plan, name)
    if not schemas:
        raise SignalNotDeclaredError(run_id, name, list(dict.fromkeys(one.signal for one in awaited(plan))))
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
