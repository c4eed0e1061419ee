"""``treadle show``: how a run that is kept stands."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import anyio
import attrs
import click

from treadle._cli._kept import ENDED, find_run, item_name, kept_runs, moment, run_object, took
from treadle._cli._loading import json_option
from treadle._cli._open_waits import Open, open_waits
from treadle._cli._output import clean, mark, paint, spell, table, write, write_json
from treadle._cli._spending import Spending
from treadle._cli._summary import undone
from treadle._collector import collector_paused
from treadle._results import undone_data
from treadle.ports import CheckpointRow, Entry, RunRow, StepRow, StepStatus, Store, TimerRow


@click.command(short_help="Show a run and its steps.")
@click.argument("run")
@json_option
def show(run: str, as_json: bool) -> None:
    """Show how RUN (an id, the beginning of one, or 'last') stands: its state, its steps, what it waits for."""

    async def look(store: Store) -> _Looked:
        row = await find_run(store, run)
        steps = await store.steps(row.run_id)
        with collector_paused():
            entries = [record.entry for record in await store.read(row.run_id)]
        waits, points = await _waits(store, row, steps, entries), await store.checkpoints(row.run_id)
        return _Looked(row, steps, entries, waits, points, Spending.of(row, steps, entries, time.time()))

    with kept_runs() as (store, _):
        seen = anyio.run(look, store)
    if as_json:
        write_json(seen.to_dict())
        return
    for line in _shown_run(seen):
        write(line)


@attrs.frozen
class _Looked:
    """What is known of a run."""

    row: RunRow
    steps: Sequence[StepRow]
    entries: Sequence[Entry]
    waits: Sequence[Open]
    points: Sequence[CheckpointRow]
    spending: Spending

    def to_dict(self) -> dict[str, object]:
        """What ``treadle show --json`` prints."""
        steps = [_step_object(step) | {"requests": self.spending.requests(step)} for step in self.steps]
        waits, points = list(map(attrs.asdict, self.waits)), list(map(attrs.asdict, self.points))
        told = {"steps": steps, "waits": waits, "checkpoints": points}
        return {**run_object(self.row), **self.spending.to_dict(), **undone_data(self.entries), **told}

    @property
    def tree(self) -> list[StepRow]:
        """The steps, what is within one below it; else in the order in which they were first heard of."""
        places = {item_name(step.path, step.index): place for place, step in enumerate(self.steps)}

        def order(step: StepRow) -> list[int]:
            name = item_name(step.path, step.index)
            around = [name[:cut] for cut, letter in enumerate(name) if letter in "/["]
            return [places[each] for each in around if each in places] + [places[name]]

        return sorted(self.steps, key=order)


async def _waits(store: Store, row: RunRow, steps: Sequence[StepRow], entries: Sequence[Entry]) -> list[Open]:
    """What a run waits for: next attempts, signals that are to be delivered later, and what its steps wait for."""
    pending = [timer for timer in await store.timers(row.run_id) if timer.status == "pending"]
    waits = [Open(timer.path, "", timer.due) for timer in pending if timer.kind == "retry"]
    waits += [Open("", _name_of(timer), timer.due) for timer in pending if timer.kind == "custom" and not timer.path]
    if row.ended_at is None:
        mine = [slot for slot in await store.slots() if slot.run_id == row.run_id and not slot.is_held]
        waits += [Open(slot.holder, "", None, slot=slot.group) for slot in mine]
    if row.ended_at is None and any(step.ended_at is None and not step.executor for step in steps):
        waits += open_waits(entries)  # the only place where a signal without a timeout stands
    return waits


def _name_of(timer: TimerRow) -> str:
    return str(timer.payload.get("signal", "")) if isinstance(timer.payload, Mapping) else ""


def _shown_wait(row: RunRow, wait: Open) -> str:
    until = "" if wait.due is None else f" until {moment(wait.due)}"
    if wait.slot:
        return f"{wait.path or 'the run'} waits for a slot of {wait.slot!r}"
    if not wait.path:
        return f"the signal {wait.signal!r} is to be delivered at {moment(wait.due)}"
    if not wait.signal:
        return f"{wait.path} waits{until}"
    answer = f"treadle approve {row.run_id} {wait.signal}" if wait.is_approval else f"treadle signal {row.run_id} {wait.signal}"
    return f"{wait.path} waits for the signal {wait.signal!r}{until}: {answer}"


def _shown_run(seen: _Looked) -> Iterator[str]:
    row, spending = seen.row, seen.spending
    status = row.status.value
    yield paint(f"{mark(status, sys.stdout)} {clean(row.workflow)} {status}", status, sys.stdout)
    yield f"  run:     {row.run_id}" + (f"  trace {row.trace_id}" if row.trace_id else "")
    yield f"  created: {moment(row.created_at)} by {row.trigger}, stint {row.stint}, took {took(row)}"
    if row.owner:
        yield f"  owner:   {row.owner}, last heard of {moment(row.heartbeat_at)}"
    if row.error_message or row.reason:
        yield f"  cause:   {clean(row.culprit + ': ' if row.culprit else '')}{clean(row.error_message or row.reason)}"
    for label, text in undone(seen.entries):
        yield f"  {label + ':':<8} {clean(text)}"
    if spending.whole:
        yield f"  used:    {spending.whole}"
    rows = [
        [
            step.path if step.index is None else f"  {step.path}[{step.index}]",
            step.status.value,
            str(step.attempt),
            "" if step.ended_at is None or step.queued_at is None else spell(step.ended_at - step.queued_at),
            spending.of_step(step),
            f"{step.error_type}: {step.error_message}" if step.error_type else step.reason,
        ]
        for step in seen.tree
    ]
    if rows:
        yield ""
        has_used = any(cells[4] for cells in rows)
        heads = ["STEP", "STATUS", "ATTEMPTS", "TOOK", "USED", "WHY"]
        yield table(heads, rows) if has_used else table([*heads[:4], "WHY"], [[*cells[:4], cells[5]] for cells in rows])
    for wait in seen.waits:
        yield f"  {clean(_shown_wait(row, wait))}"
    for point in seen.points:
        item = item_name(point.path, point.index) + (f" ({point.variant})" if point.variant != "primary" else "")
        size = f"{point.size_bytes:,} bytes, {moment(point.saved_at)}"
        yield f"  {clean(item)} goes on at checkpoint {clean(point.token)} ({size})"
    asked = [item_name(step.path, step.index) for step in seen.steps if _asks(step)]
    for item in asked:
        yield f"  {clean(item)} may have been done: treadle resume {row.run_id} --rerun '{clean(item)}' (or --fail)"
    if row.status.value not in ENDED and not row.owner and not asked:
        yield f"  next:    treadle resume {row.run_id}"


def _asks(step: StepRow) -> bool:
    return step.status is StepStatus.INTERRUPTED and step.ended_at is None


def _step_object(row: StepRow) -> dict[str, object]:
    return attrs.asdict(row) | {"status": row.status.value}
