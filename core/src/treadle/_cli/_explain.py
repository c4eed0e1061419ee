"""``treadle explain``: why a run went as it did, from what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
import click

from treadle._cli._kept import begun, find_run, item_name, kept_runs, plan_of, read_log, split_item, split_target
from treadle._cli._loading import json_option
from treadle._cli._output import clean, count, spell, write, write_json
from treadle.ports import (
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    Entry,
    ErrorInfo,
    Evaluated,
    InterruptAnswered,
    InterruptAsked,
    ItemEnded,
    MapStarted,
    Outcome,
    RetryRequested,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunRow,
    RunStopping,
    SignalReceived,
    StepEnded,
    StintOpened,
    Store,
    TimerFired,
    WaitEnded,
    WaitStarted,
)


@click.command(short_help="Say why a run, or one of its steps, went as it did.")
@click.argument("run_and_path", metavar="RUN[/PATH]")
@json_option
def explain(run_and_path: str, as_json: bool) -> None:
    """Say why RUN, or its step PATH, went as it did: what happened and what was decided, in order, as it was recorded."""
    run, path = split_target(run_and_path)

    async def look(store: Store) -> tuple[RunRow, list[Entry]]:
        row = await find_run(store, run)
        return row, await read_log(store, row.run_id)

    with kept_runs() as (store, _):
        row, entries = anyio.run(look, store)
    created = begun(entries)
    path, _ = split_item(path, plan_of(entries))
    told = [(seq, entry, _tell(entry)) for seq, entry in enumerate(entries, 1) if _concerns(entry, path)]
    if as_json:
        lines = [{"seq": seq, "at": entry.at, "kind": entry.kind, "text": text} for seq, entry, text in told if text]
        write_json({"run_id": row.run_id, "path": path, "decisions": lines})
        return
    for seq, entry, text in told:
        if text:
            write(f"{seq:>5}  +{spell(entry.at - created.at):<8} {clean(text)}")


def _concerns(entry: Entry, path: str) -> bool:
    """Whether an entry is part of the story: the run's own, or what names the step, or made it end."""
    if not path:
        return True
    if isinstance(entry, TimerFired):
        return entry.timer_id.split(":")[1:2] == [path]
    return getattr(entry, "path", "") in (path, "") or getattr(entry, "culprit", "") == path


_HOW = {"elapsed": "its time has come", "signal": "the signal came", "timeout": "no signal came in time"}

_TELLERS: Mapping[type, Callable[..., str]] = {
    RunCreated: lambda e: f"the run was created by {e.trigger}" + (f" of run {e.replay_of}" if e.replay_of else ""),
    StintOpened: lambda e: (
        f"stint {e.stint} began: {e.owner or 'somebody'} drives the run"
        + ("; the process before it crashed, so what ran then runs alone, one after the other" if e.crashed else "")
    ),
    InterruptAsked: lambda e: f"{item_name(e.path, e.index)}: may have been done; somebody has to say what to do",
    InterruptAnswered: lambda e: f"{item_name(e.path, e.index)}: somebody says: {e.answer}",
    Evaluated: lambda e: _tell_evaluated(e),
    AttemptStarted: lambda e: f"{item_name(e.path, e.index)}: attempt {e.attempt} was released in stint {e.stint}",
    AttemptEnded: lambda e: (
        f"{item_name(e.path, e.index)}: attempt {e.attempt} {e.outcome.status}{_taken(e.outcome)}{_why(e.outcome.error)}"
    ),
    RetryScheduled: lambda e: (
        f"{item_name(e.path, e.index)}: will be tried again after {spell(e.due - e.at)}"
        f" (attempt {e.attempt} of {e.max_attempts} failed): {e.reason or 'no reason given'}"
    ),
    TimerFired: lambda e: f"the wait {e.timer_id} is over",
    SignalReceived: lambda e: f"the signal {e.name!r} came" + (", to be delivered later" if e.due is not None else ""),
    WaitStarted: lambda e: (
        f"{e.path}: waits for {f'the signal {e.signal!r}' if e.signal else 'its time'}"
        + ("" if e.due is None else f", {'at most ' if e.signal else ''}{spell(e.due - e.at)}")
    ),
    WaitEnded: lambda e: f"{e.path}: {_HOW[e.how]}",
    MapStarted: lambda e: f"{e.path}: has {count(e.count, 'item')}",
    ItemEnded: lambda e: f"{item_name(e.path, e.index)}: {e.status.value}: {e.reason}",
    StepEnded: lambda e: f"{e.path}: {e.status.value}" + (f", because {e.reason}" if e.reason else ""),
    RetryRequested: lambda e: (
        f"the run was told to go on again{f' from {e.start} on' if e.start else ''}, as generation {e.generation}"
        + (f": {e.reason}" if e.reason else "")
    ),
    CancelRequested: lambda e: f"a cancel was asked for: {e.reason}" + (" (forced)" if e.force else ""),
    RunStopping: lambda e: f"nothing new starts from here on, because {e.reason}",
    RunEnded: lambda e: f"the run ended {e.status.value}" + (f", because {e.reason}" if e.reason else ""),
}


def _tell(entry: Entry) -> str:
    teller = _TELLERS.get(type(entry))
    return teller(entry) if teller is not None else entry.kind


def _tell_evaluated(entry: Evaluated) -> str:
    where = f"{item_name(entry.path, entry.index)}: " if entry.path else ""
    if entry.error is not None:
        return f"{where}its {entry.what!r} could not be evaluated{_why(entry.error)}"
    if entry.what == "when":
        return f"{where}its 'when' was {'true' if entry.value else 'false'}"
    return f"{where}its {entry.what!r} was evaluated"


def _taken(outcome: Outcome) -> str:
    return f" (recorded in run {outcome.taken_from})" if outcome.taken_from else ""


def _why(error: ErrorInfo | None) -> str:
    return "" if error is None else f": {error.type}: {error.message.partition(chr(10))[0]}"
