"""Log records without secrets."""

from __future__ import annotations

import logging
from typing import cast

from treadle_redact._errors import without_secrets
from treadle_redact._redactor import Redactor

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else on a record came with ``extra=``."""


class RedactionFilter(logging.Filter):
    """Takes secrets out of a record's message, exception, stack and ``extra=`` fields; every record passes.

    Add it to a *handler*: a logger's filters do not see the records of its children.

    Args:
        redactor: Knows what to hide.
    """

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where it says a secret; every handler after this one sees it changed."""
        self._clean_message(record)
        self._clean_error(record)
        if record.stack_info:
            record.stack_info = self._redactor.text(record.stack_info)
        for name in record.__dict__.keys() - _STANDARD:
            record.__dict__[name] = self._redactor.value(record.__dict__[name], name)
        return True

    def _clean_message(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit: the handler will say so, and shows them
            record.args = cast("tuple[object, ...] | None", self._redactor.value(record.args))
            return
        cleaned = self._redactor.text(message)
        if cleaned != message:
            record.msg, record.args = cleaned, None

    def _clean_error(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            error = without_secrets(record.exc_info[1], self._redactor)
            if error is not record.exc_info[1]:
                record.exc_info = (type(error), error, error.__traceback__)
        if record.exc_text:
            record.exc_text = self._redactor.text(record.exc_text)
