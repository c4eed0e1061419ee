"""Where log records go while a run goes on: between the lines of its progress, or straight to stderr."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from treadle._cli._output import clean, say
from treadle._cli._progress import stamp
from treadle._log_records import CorrelationFilter, JsonLogFormatter
from treadle._step_log import HANDLER as KEPT

LogFormat = Literal["text", "json"]


class TextLogFormatter(logging.Formatter):
    """``12:30:05 WARNING page[3]: message``, then the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        step, index = getattr(record, "step", None), getattr(record, "index", None)
        place = f"{step}: " if step and index is None else f"{step}[{index}]: " if step else ""
        text = f"{stamp(record.created)} {record.levelname} {place}{record.getMessage()}"
        return clean(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


class LineHandler(logging.Handler):
    """Gives each record, as a line, to a function."""

    def __init__(self, line: Callable[[str], None]) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        try:
            self._line(self.format(record))
        except Exception:  # logging's own rule: a record that cannot be shown is reported, never raised
            self.handleError(record)


@contextmanager
def logging_to(line: Callable[[str], None] | None, *, log_format: LogFormat) -> Iterator[None]:
    """Show log records during the block: those of treadle from INFO on, everybody else's from WARNING on.

    Args:
        line: Takes each line; None for stderr itself, and warnings only.
        log_format: ``text`` or ``json``.
    """
    handler = LineHandler(line or say)
    handler.addFilter(CorrelationFilter())
    handler.setFormatter(JsonLogFormatter() if log_format == "json" else TextLogFormatter())
    ours, root = logging.getLogger("treadle"), logging.getLogger()
    before = ours.level
    ours.setLevel(logging.INFO if line else logging.WARNING)
    root.addHandler(handler)
    root.addHandler(KEPT)  # also what other libraries log within a step is kept with the run
    try:
        yield
    finally:
        root.removeHandler(KEPT)
        root.removeHandler(handler)
        ours.setLevel(before)
