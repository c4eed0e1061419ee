"""The live display of a terminal: a line per active step, a footer, finished steps scrolling away above."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TextIO

import attrs
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from treadle._budget_use import BudgetUse
from treadle._cli._output import clean, colour, count, mark, spell, spell_budget, spell_usage
from treadle._cli._progress import stamp
from treadle._cli._view import Change, RunView, StepView, Wait, items_over, wait_text

_BAR = 20
_OVERHEAD_LINES = 3


class LiveDisplay:
    """Shows a run on a terminal.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        encoding_ok = mark("completed", stream) == "✓"
        self._spinner = Spinner("dots" if encoding_ok else "line", style="cyan")
        self._bar_chars = ("━", "─") if encoding_ok else ("#", "-")
        self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._live.start()

    def show(self, view: RunView, changes: Iterable[Change | str]) -> None:
        """Scroll what is over, draw what is active anew."""
        lines = [self._line(change) for change in changes if isinstance(change, str) or change.scrolls]
        if lines:
            self._console.print(Text("\n").join(lines))
        self._live.update(self._picture(view), refresh=True)

    def close(self) -> None:
        """Take the picture away and show the cursor again."""
        self._live.update(Text(""), refresh=False)
        self._live.stop()

    def _line(self, change: Change | str) -> Text:
        if isinstance(change, str):
            return Text(change)
        text = Text(f"{stamp(change.at)} ", style="dim")
        text.append(f"{mark(change.status, self._stream)} ", style=colour(change.status) or "")
        return text.append(change.text, style="")

    def _picture(self, view: RunView) -> Table:
        now = time.time()
        grid = Table.grid(padding=(0, 1))
        for overflow in ("fold", "ellipsis", "fold", "ellipsis"):
            grid.add_column(no_wrap=True, overflow=overflow)
        room = max(1, self._console.height - _OVERHEAD_LINES)
        active = list(view.steps.values())
        shown = active if len(active) <= room else active[: room - 1]
        for step in shown:
            grid.add_row(self._sign(step, now), Text(step.path), Text(spell(now - step.started_at)), self._state(step, now))
        if len(shown) < len(active):
            grid.add_row("", Text(f"and {len(active) - len(shown)} more"), "", "")
        outer = Table.grid()
        outer.add_row(grid)
        outer.add_row(self._footer(view, now))
        return outer

    def _sign(self, step: StepView, now: float) -> Text | str:
        if step.signal is not None or ((step.waiting or step.awaiting) and not step.active):
            return Text(mark("retrying", self._stream), style=colour("retrying") or "")
        frame = self._spinner.render(now)
        return frame if isinstance(frame, Text) else ""

    def _state(self, step: StepView, now: float) -> Text:
        return Text(", ").join(Text(clean(part)) for part in self._parts(step, now) if part)

    def _parts(self, step: StepView, now: float) -> Iterator[str]:
        if step.total is not None:
            yield f"{self._bar(step.done + step.failed, step.total)} {items_over(step)}"
            yield f"{len(step.active)} active" if step.active else ""
            yield f"{len(step.awaiting)} waiting" if step.awaiting else ""
        elif step.inner or step.inner_done:
            names = [path.removeprefix(f"{step.path}/") for path in step.inner]
            yield f"{count(step.inner_done, 'step')} over"
            yield ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        elif step.most and None in step.active:
            yield f"attempt {step.active[None]}/{step.most}"
        if step.progress is not None:
            done, total, message = step.progress
            yield f"{self._bar(done, total)} {done:g}/{total:g}" if total else f"{done:g}"
            yield message
        if step.signal is not None:
            yield f"waits for {wait_text(step.signal, step.due, now)}"
        if step.waiting:
            yield waiting(step.waiting, now)

    def _bar(self, done: float, total: float) -> str:
        filled = round(_BAR * min(done / total, 1.0)) if total > 0 else _BAR
        full, empty = self._bar_chars
        return full * filled + empty * (_BAR - filled)

    def _footer(self, view: RunView, now: float) -> Text:
        over = sum(view.ended.values())
        parts = [f"{over}/{count(view.steps_total, 'step')} over"]
        parts += [f"{number} {status}" for status, number in view.ended.items() if status != "completed"]
        running = sum(len(step.active) for step in view.steps.values())
        parts += [f"{running} running"] if running else []
        parts += [spell(now - view.started_at)] if view.started_at else []
        if view.budget is not None:
            use = BudgetUse("", view.budget, view.usage, began_at=view.started_at)
            parts.append(f"{spell_budget(use, now)} used")
        elif view.usage:
            parts.append(f"{spell_usage(*attrs.astuple(view.usage))} used")
        text = Text(", ".join(parts), style="dim")
        return text.append(f"  stopping: {clean(view.stopping)}", style="yellow") if view.stopping else text


def waiting(waits: dict[int | None, Wait], now: float) -> str:
    """What a step waits for: the next attempt, of one or of several items."""
    first = min(waits.values(), key=lambda wait: wait.due)
    left = spell(max(0.0, first.due - now))
    if None in waits:
        return f"attempt {first.attempt}/{first.max_attempts} failed, next in {left}: {first.error}"
    return f"{len(waits)} waiting to retry, next in {left}: {first.error}"
