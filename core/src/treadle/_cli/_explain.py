"""``treadle explain``: why a run went as it did, from what was recorded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping

import anyio
import attrs
import click

from treadle._cli._kept import begun, find_run, item_name, kept_runs, read_log, split_target
from treadle._cli._loading import json_option
from treadle._cli._output import clean, count, is_terminal, say, spell, spell_usage, write, write_json
from treadle._cli._recorded_plan import plan_of, split_item
from treadle._decisions import DecisionKind
from treadle._explaining import Explained
from treadle._explaining import explain as explained
from treadle._paths import plan_path
from treadle.ports import (
    DECISIONS,
    AttemptEnded,
    AttemptStarted,
    CancelRequested,
    CompensationEnded,
    Entry,
    ErrorInfo,
    Evaluated,
    FallbackChosen,
    GroupStarted,
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
    SlotTaken,
    StepEnded,
    StintOpened,
    Store,
    TimerFired,
    UsageNoted,
    WaitEnded,
    WaitStarted,
)

_LONGEST = 60
_SAID = (DecisionKind.COMPLETED, DecisionKind.MAP_STARTED, DecisionKind.WAIT_SIGNALLED, DecisionKind.WAIT_RAN_OUT)
"""Reasons that the entry itself says."""


@click.command(short_help="Say why a run, or one of its steps, went as it did.")
@click.argument("run_and_path", metavar="RUN[/PATH]")
@json_option
def explain(run_and_path: str, as_json: bool) -> None:
    """Say why RUN, or its step PATH, went as it did: what happened and what was decided, in order, and on what it rests.

    Nothing is guessed. The recorded facts are applied again, conditions are evaluated again with the values of then, and the
    decisions that follow are compared with the recorded ones; a difference is an error.
    """
    run, path = split_target(run_and_path)

    async def look(store: Store) -> tuple[RunRow, list[Entry]]:
        row = await find_run(store, run)
        return row, await read_log(store, row.run_id)

    with kept_runs() as (store, _):
        row, entries = anyio.run(look, store)
    plan = plan_of(entries)
    place = split_item(path, plan)
    told = [
        each
        for each in explained(plan, entries)
        if _concerns(each.entry, place) and (as_json or not isinstance(each.entry, UsageNoted))  # of those there may be many
    ]
    decisions = sum(isinstance(entry, DECISIONS) for entry in entries)
    facts = len(entries) - decisions
    if as_json:
        checked = {"facts": facts, "decisions": decisions}
        write_json({"run_id": row.run_id, "path": path, "decisions": list(map(_object, told)), "checked": checked})
        return
    began = begun(entries).at
    for each in told:
        write(f"{each.seq:>5}  +{spell(each.entry.at - began):<8} {clean(_sentence(each))}")
    say(f"Decided again from {count(facts, 'fact')}: all {count(decisions, 'decision')} of the run are the same.")


def _object(each: Explained) -> dict[str, object]:
    entry = each.entry
    told: dict[str, object] = {"seq": each.seq, "at": entry.at, "kind": entry.kind, "text": _tell(entry)}
    told |= {"why": each.why.value, "because": each.why.description} if each.why is not None else {}
    return told | ({"values": dict(each.values)} if each.values else {})


def _sentence(each: Explained) -> str:
    """An entry for people; a decision with what it rests on, when it does not say so itself."""
    text = _tell(each.entry)
    if each.values:
        found = ", ".join(f"{name} was {_short(value)}" for name, value in each.values.items())
        return f"{text}: {found}"
    is_undo = getattr(each.entry, "variant", "") == "compensation"  # what its step needed is not why it is called
    has_reason = each.why is None or each.why in _SAID or is_undo or bool(getattr(each.entry, "reason", None))
    return text if each.why is None or has_reason else f"{text}: {each.why.description}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST or not is_terminal(sys.stdout) else f"{text[: _LONGEST - 3]}..."


def _concerns(entry: Entry, place: tuple[str, int | None]) -> bool:
    """Whether an entry is part of the story: the run's own, or what names the step or what it holds, or made it end."""
    path, index = place
    if not path:
        return True
    own = entry.timer_id.split(":")[1] if isinstance(entry, TimerFired) else str(getattr(entry, "path", ""))
    if not own:
        return True
    if index is not None and own == path:
        return getattr(entry, "index", None) in (None, index)
    item = path if index is None else f"{path}[{index}]"
    return own == path or own.startswith((f"{item}/", f"{item}[")) or path in (getattr(entry, "culprit", ""), plan_path(own))


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
    AttemptStarted: lambda e: f"{_call(e)} was released in stint {e.stint}",
    AttemptEnded: lambda e: f"{_call(e)} {e.outcome.status}{_taken(e.outcome)}{_why(e.outcome.error)}",
    UsageNoted: lambda e: (
        f"{item_name(e.path, e.index)}: attempt {e.attempt} has used {spell_usage(*attrs.astuple(e.usage))} more"
    ),
    RetryScheduled: lambda e: (
        f"{item_name(e.path, e.index)}: will be tried again after {spell(e.due - e.at)}"
        f" (attempt {e.attempt} of {e.max_attempts} failed): {e.reason or 'no reason given'}"
    ),
    TimerFired: lambda e: _tell_timer(e.timer_id),
    SlotTaken: lambda e: f"{item_name(e.path, e.index) if e.path else 'the run'}: has its slot",
    SignalReceived: lambda e: f"the signal {e.name!r} came" + (", to be delivered later" if e.due is not None else ""),
    WaitStarted: lambda e: (
        f"{item_name(e.path, e.index)}: waits for {f'the signal {e.signal!r}' if e.signal else 'its time'}"
        + ("" if e.due is None else f", {'at most ' if e.signal else ''}{spell(e.due - e.at)}")
    ),
    WaitEnded: lambda e: f"{item_name(e.path, e.index)}: {_HOW[e.how]}",
    GroupStarted: lambda e: f"{item_name(e.path, e.index)}: its {'branches' if e.form == 'choose' else 'steps'} begin",
    FallbackChosen: lambda e: f"{item_name(e.path, e.index)}: goes on with {e.variant}: {e.reason}",
    CompensationEnded: lambda e: (
        f"{item_name(e.path, e.index)}: undoing it {e.status.value}" + (f", because {e.reason}" if e.reason else "")
    ),
    MapStarted: lambda e: f"{e.path}: has {count(e.count, 'item')}",
    ItemEnded: lambda e: f"{item_name(e.path, e.index)}: {e.status.value}: {e.reason}",
    StepEnded: lambda e: f"{e.path}: {e.status.value}" + (f", because {e.reason}" if e.reason else ""),
    RetryRequested: lambda e: (
        f"the run was told to go on again{f' from {e.start} on' if e.start else ''}, as generation {e.generation}"
        + (f": {e.reason}" if e.reason else "")
    ),
    CancelRequested: lambda e: f"a cancel was asked for: {e.reason}" + (" (forced)" if e.force else ""),
    RunStopping: lambda e: f"{f'{e.path}: ' if e.path else ''}nothing new starts from here on, because {e.reason}",
    RunEnded: lambda e: f"the run ended {e.status.value}" + (f", because {e.reason}" if e.reason else ""),
}


def _tell(entry: Entry) -> str:
    teller = _TELLERS.get(type(entry))
    return teller(entry) if teller is not None else entry.kind


def _call(entry: AttemptStarted | AttemptEnded) -> str:
    """Which attempt of what it is."""
    whose = "" if entry.variant == "primary" else f" of its {entry.variant}"
    return f"{item_name(entry.path, entry.index)}: attempt {entry.attempt}{whose}"


def _tell_timer(timer_id: str) -> str:
    kind, _, rest = timer_id.partition(":")
    path = rest.partition(":")[0]
    if kind == "timeout":
        return f"the time of {path or 'the run'} is up"
    if kind == "signal":
        return "the time of a signal that was sent for later has come"
    if kind == "budget" or not path:
        return "the time of the run's budget is up"
    return f"{path}: its wait is over" if kind == "wait" else f"{path}: the wait before its next attempt is over"


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
