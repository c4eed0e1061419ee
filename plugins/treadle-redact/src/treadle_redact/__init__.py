"""The policy ``redact``: secrets in every encoding, and what looks like one, are kept out of records, errors and logs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator, Iterable, Iterator
from functools import partial

import attrs
from treadle import Issue, Secret, hookimpl
from treadle.errors import ConfigError
from treadle.ports import Call, Record, RunEnded, Work

from treadle_redact._errors import without_secrets
from treadle_redact._log_filter import RedactionFilter
from treadle_redact._patterns import SHAPES
from treadle_redact._redactor import Redactor

__all__ = ["Redact", "RedactionFilter", "Redactor", "without_secrets"]

_log = logging.getLogger("treadle.policies.redact")

Issues = Iterable[Issue | str] | None


def _compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    compiled, faults = [], []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            faults.append(f"{pattern!r} is no regular expression: {error}")
    if faults:
        raise ValueError("; ".join(faults))
    return tuple(compiled)


@attrs.define(eq=False)
class Redact:
    """The policy. Its attributes are the table ``[policies.redact]``.

    Attributes:
        secrets: More values to hide: name -> ``{env = "NAME"}`` or ``{file = "PATH"}``.
        patterns: More regular expressions; what they match is hidden, or their group ``hidden``.
        shapes: Hide what looks like a secret: authorization headers, tokens, passwords in URLs, private keys.
        outputs: Also hide in outputs. Steps that need the secret of another's output then get ``***``.
        logs: While a run goes on, filter what the handlers of the root logger and of ``treadle`` write.
    """

    secrets: dict[str, Secret] = attrs.field(factory=dict)
    patterns: list[str] = attrs.field(factory=list)
    shapes: bool = True
    outputs: bool = False
    logs: bool = True
    redactor: Redactor = attrs.field(init=False)
    _known: set[str] = attrs.field(init=False, factory=set)
    _runs: set[str] = attrs.field(init=False, factory=set)
    _filter: RedactionFilter = attrs.field(init=False)
    _filtered: list[logging.Handler] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        shapes = (*_compiled(self.patterns), *(SHAPES if self.shapes else ()))
        self.redactor = Redactor(shapes, hides_fields=self.shapes)
        self._filter = RedactionFilter(self.redactor)

    @hookimpl(wrapper=True, tryfirst=True)
    def execute(self, call: Call) -> Generator[None, Work | None, Work | None]:
        """Look at what the work gives and raises: outermost, so that nothing that other policies do gets past it."""
        self._prepare(call)
        work = yield
        return None if work is None else partial(self._watched, work)

    @hookimpl(wrapper=True)
    def validate_output(self) -> Generator[None, list[Issues], list[Issues]]:
        """Clean what is said against an output, which may quote it."""
        answers = yield
        return [list(self._cleaned(answer)) for answer in answers]

    @hookimpl
    def record_event(self, record: Record) -> None:
        """Give the handlers back when the last run is over."""
        if isinstance(record.entry, RunEnded):
            self._runs.discard(record.run_id)
            if not self._runs:
                for handler in self._filtered:
                    handler.removeFilter(self._filter)

    async def _watched(self, work: Work) -> object:
        try:
            output = await work()
        except Exception as error:
            cleaned = without_secrets(error, self.redactor)
            if cleaned is error:
                raise
        else:
            return self.redactor.value(output) if self.outputs else output
        raise cleaned  # out here, so that Python does not note the original as its context

    def _cleaned(self, answer: Issues) -> Iterator[Issue | str]:
        for issue in [answer] if isinstance(answer, str) else answer or ():
            if isinstance(issue, Issue):
                yield attrs.evolve(issue, message=self.redactor.text(issue.message), path=self.redactor.text(issue.path))
            else:
                yield self.redactor.text(str(issue))

    # -- what is known

    def _prepare(self, call: Call) -> None:
        """Learn the values that are not known yet, and mind the log."""
        if call.run_id not in self._runs:
            self._begin(call.run_id)
        for reference in call.secrets:
            names = {part for kind, part in reference.parts if kind == "secret"} - self._known - self.secrets.keys()
            if names:
                self._known |= names
                self.redactor.learn(value for name in names if (value := os.environ.get(name)))

    def _begin(self, run_id: str) -> None:
        if not self._runs:
            self.redactor.learn(_revealed(self.secrets))
            loggers = (logging.getLogger(), logging.getLogger("treadle"))
            self._filtered = [handler for logger in loggers for handler in logger.handlers] if self.logs else []
            for handler in self._filtered:
                handler.addFilter(self._filter)
        self._runs.add(run_id)


def _revealed(secrets: dict[str, Secret]) -> Iterator[str]:
    for name, secret in secrets.items():
        try:
            yield secret.reveal()
        except ConfigError as error:
            _log.warning("[policies.redact.secrets] %s has no value, so it cannot be hidden: %s", name, error.problem)
