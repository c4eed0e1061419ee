"""Takes out of all that leaves a run what its policies want hidden: errors, spans, reasons, progress, some outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import attrs

from treadle._models import ErrorInfo, Issue, Json, Outcome, SpanNote, SpanRecord
from treadle._secrets import HIDDEN
from treadle.ports import Redactor

Event = tuple[str, float, Mapping[str, object]]
Trouble = Callable[[str, str, Exception], None]


class Redaction:
    """All redactors of a run, one after the other. What one of them cannot clean is hidden whole, and its error told.

    Args:
        redactors: Name of the policy, and what it answered.
        trouble: Told the name, the hook and the error.
    """

    def __init__(self, redactors: Sequence[tuple[str, Redactor]], trouble: Trouble) -> None:
        self._texts = [partial(_text, name, redactor, trouble) for name, redactor in redactors]
        self._values = [partial(_value, name, redactor, trouble) for name, redactor in redactors]
        self._outputs = [partial(_value, name, one, trouble) for name, one in redactors if one.covers_outputs]

    def text(self, text: str) -> str:
        """A text without what is to be hidden."""
        for clean in self._texts:
            text = clean(text)
        return text

    def value(self, value: Json, field: str = "") -> Json:
        """Plain data without it; ``field`` is the name that the value stands under."""
        for clean in self._values:
            value = clean(value, field)
        return value

    def output(self, output: Json) -> Json:
        """An output, cleaned by those redactors alone that cover outputs."""
        for clean in self._outputs:
            output = clean(output, "")
        return output

    def error(self, error: ErrorInfo) -> ErrorInfo:
        """An error as data without it; its type stays, since rules and queries go by that."""
        return attrs.evolve(
            error,
            message=self.text(error.message),
            remedy=self.text(error.remedy),
            issues=tuple([Issue(self.text(issue.message), self.text(issue.path)) for issue in error.issues]),
            traceback=self.text(error.traceback),
            partial_results=None if error.partial_results is None else self.value(error.partial_results),
            inputs=None if error.inputs is None else self.value(error.inputs),
        )

    def outcome(self, outcome: Outcome) -> Outcome:
        """An outcome without it."""
        if outcome.error is None and not outcome.spans and outcome.note is None and not self._outputs:
            return outcome
        proposal = outcome.retry
        return attrs.evolve(
            outcome,
            output=self.output(outcome.output) if self._outputs else outcome.output,
            error=None if outcome.error is None else self.error(outcome.error),
            retry=None if proposal is None else attrs.evolve(proposal, reason=self.text(proposal.reason)),
            spans=tuple([self.span(span) for span in outcome.spans]),
            note=None if outcome.note is None else self.note(outcome.note),
        )

    def span(self, span: SpanRecord) -> SpanRecord:
        """A span of a call to a service without it."""
        return attrs.evolve(
            span,
            name=self.text(span.name),
            status_message=self.text(span.status_message),
            attributes=self.attributes(span.attributes),
            events=self.events(span.events),
        )

    def note(self, note: SpanNote) -> SpanNote:
        """What an executor said of its span, without it."""
        return SpanNote(self.attributes(note.attributes), self.events(note.events))

    def events(self, events: Iterable[Event]) -> tuple[Event, ...]:
        """Events of a span without it."""
        return tuple([(self.text(name), at, self.attributes(attributes)) for name, at, attributes in events])

    def attributes(self, attributes: Mapping[str, object]) -> dict[str, object]:
        """Attributes of a span without it."""
        return {name: self.value(value, name) for name, value in attributes.items()}


def _text(policy: str, redactor: Redactor, trouble: Trouble, text: str) -> str:
    try:
        return redactor.text(text) if text else text
    except Exception as error:  # a policy's code: what it could not look through must not get out
        trouble(policy, "make_redactor", error)
        return HIDDEN


def _value(policy: str, redactor: Redactor, trouble: Trouble, value: Json, field: str) -> Json:
    try:
        return redactor.value(value, field)
    except Exception as error:  # the same
        trouble(policy, "make_redactor", error)
        return HIDDEN
