"""The policy ``redact``: secrets in every encoding, and what looks like one, stay out of all that leaves a run."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator

import attrs
from treadle import Secret, hookimpl
from treadle.errors import ConfigError
from treadle.ports import RunSurroundings

from treadle_redact._errors import without_secrets
from treadle_redact._log_filter import RedactionFilter
from treadle_redact._patterns import SHAPES
from treadle_redact._redactor import Redactor

__all__ = ["Redact", "RedactionFilter", "Redactor", "without_secrets"]

_log = logging.getLogger("treadle.policies.redact")


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
    _runs: set[str] = attrs.field(init=False, factory=set)
    _filter: RedactionFilter = attrs.field(init=False)
    _filtered: list[logging.Handler] = attrs.field(init=False, factory=list)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        shapes = (*_compiled(self.patterns), *(SHAPES if self.shapes else ()))
        self.redactor = Redactor(shapes, hides_fields=self.shapes, covers_outputs=self.outputs)
        self._filter = RedactionFilter(self.redactor)

    @hookimpl
    def open_run(self, run: RunSurroundings) -> None:
        """Learn the values of all secrets there are, and mind the log."""
        with self._lock:
            self.redactor.learn([*run.secrets().values(), *_revealed(self.secrets)])
            if self.logs and not self._runs:
                loggers = (logging.getLogger(), logging.getLogger("treadle"))
                self._filtered = [handler for logger in loggers for handler in logger.handlers]
                for handler in self._filtered:
                    handler.addFilter(self._filter)
            self._runs.add(run.run_id)

    @hookimpl
    def close_run(self, run: RunSurroundings) -> None:
        """Give the handlers back when the last run is over."""
        with self._lock:
            self._runs.discard(run.run_id)
            if not self._runs:
                for handler in self._filtered:
                    handler.removeFilter(self._filter)
                self._filtered = []

    @hookimpl
    def make_redactor(self) -> Redactor:
        """Everything that leaves a run goes through here."""
        return self.redactor


def _revealed(secrets: dict[str, Secret]) -> Iterator[str]:
    for name, secret in secrets.items():
        try:
            yield secret.reveal()
        except ConfigError as error:
            _log.warning("[policies.redact.secrets] %s has no value, so it cannot be hidden: %s", name, error.problem)
