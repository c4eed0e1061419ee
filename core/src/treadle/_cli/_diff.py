"""``treadle diff``: what differs between two runs, from their records."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence

import anyio
import attrs
import click

from treadle._cli._kept import begun, find_run, kept_runs, read_log
from treadle._cli._loading import json_option
from treadle._cli._output import clean, count, is_terminal, spell, table, write, write_json
from treadle._log_rows import rows_of
from treadle._results import step_results
from treadle.ports import Entry, RunCreated, RunEnded, StepResult, StintOpened, Store

_SHOWN = 20
_SHORT = 60
_LONGER, _AT_LEAST_S = 1.2, 0.05
"""Durations differ always; they are shown when one is so much longer than the other, by that time at least."""


@attrs.frozen
class Change:
    """A value that differs.

    Attributes:
        path: Where in the data, like ``$.items[0].name``.
        before: In the first run; absent when it has none.
        after: In the second run.
    """

    path: str
    before: object = attrs.field(repr=False)
    after: object = attrs.field(repr=False)


_ABSENT = object()


@attrs.frozen
class Side:
    """One of the two runs.

    Attributes:
        created: Its first entry.
        status: How it stands.
        ended: Its last entry, when it has ended.
        steps: Those that have ended.
        versions: Of the latest stint: treadle, plugins and engine.
        duration_s: Until its end, or its latest entry.
    """

    created: RunCreated
    status: str
    ended: RunEnded | None
    steps: Mapping[str, StepResult]
    versions: Mapping[str, object]
    duration_s: float

    @classmethod
    def of(cls, log: Sequence[Entry]) -> Side:
        """What a log tells."""
        created, last, run = begun(log), log[-1], rows_of(log).run
        stints = [entry for entry in log if isinstance(entry, StintOpened)]
        return cls(
            created,
            run.status.value if run is not None else "",
            last if isinstance(last, RunEnded) else None,
            {step.path: step for step in step_results(log)},
            {"engine": stints[-1].engine, **stints[-1].versions} if stints else {},
            last.at - created.at,
        )

    @property
    def head(self) -> dict[str, object]:
        """Which run it is."""
        name = self.created.workflow.get("name", "")
        return {"run_id": self.created.run_id, "workflow": name, "status": self.status, "duration_s": round(self.duration_s, 6)}


@attrs.frozen
class StepChange:
    """A step that differs.

    Attributes:
        path: The step.
        before: Its status, attempts, reason and error in the first run; the status is None when it has not ended there.
        after: The same in the second run.
        outputs: Where its outputs differ.
        durations_s: How long it took; None where it has not ended.
    """

    path: str
    before: Mapping[str, object]
    after: Mapping[str, object]
    outputs: Sequence[Change]
    durations_s: tuple[float | None, float | None]


@attrs.frozen
class Difference:
    """What differs between two runs."""

    before: Side
    after: Side
    inputs: Sequence[Change]
    workflow: Sequence[str]
    versions: Sequence[Change]
    steps: Sequence[StepChange]
    outputs: Sequence[Change]

    @classmethod
    def of(cls, before: Side, after: Side) -> Difference:
        """Compare."""
        one, two = before.created, after.created
        old, new = (json.dumps(side.workflow, indent=2, ensure_ascii=False).splitlines() for side in (one, two))
        is_same = one.workflow_hash == two.workflow_hash
        paths = dict.fromkeys([*before.steps, *after.steps])
        steps = [_step(path, before.steps.get(path), after.steps.get(path)) for path in paths]
        return cls(
            before,
            after,
            list(changes(one.inputs, two.inputs)),
            [] if is_same else list(difflib.unified_diff(old, new, one.run_id, two.run_id, lineterm="")),
            list(changes(before.versions, after.versions)),
            [step for step in steps if step is not None],
            list(changes(before.ended.outputs if before.ended else {}, after.ended.outputs if after.ended else {})),
        )

    def to_dict(self) -> dict[str, object]:
        """What ``--json`` prints."""
        steps = [{**attrs.asdict(step, recurse=False), "outputs": _objects(step.outputs)} for step in self.steps]
        return {
            "before": self.before.head,
            "after": self.after.head,
            "inputs": _objects(self.inputs),
            "workflow": list(self.workflow),
            "versions": _objects(self.versions),
            "steps": steps,
            "outputs": _objects(self.outputs),
        }


@click.command(short_help="Show what differs between two runs.")
@click.argument("before", metavar="RUN")
@click.argument("after", metavar="RUN")
@json_option
def diff(before: str, after: str, as_json: bool) -> None:
    """Show what differs between two RUNs: inputs, workflow, versions, how their steps ended, outputs and durations."""

    async def look(store: Store) -> Difference:
        one, two = [await find_run(store, run) for run in (before, after)]
        return Difference.of(Side.of(await read_log(store, one.run_id)), Side.of(await read_log(store, two.run_id)))

    with kept_runs() as (store, _):
        told = anyio.run(look, store)
    if as_json:
        write_json(told.to_dict())
        return
    for line in _shown(told, cut=is_terminal(sys.stdout)):
        write(line)


def _objects(found: Sequence[Change]) -> list[dict[str, object]]:
    return [_object(change) for change in found]


def _object(change: Change) -> dict[str, object]:
    sides = {"before": change.before, "after": change.after}
    return {"path": change.path, **{name: value for name, value in sides.items() if value is not _ABSENT}}


def _step(path: str, before: StepResult | None, after: StepResult | None) -> StepChange | None:
    """How a step differs; None when nothing of it does but a little of its duration."""
    one, two = _told(before), _told(after)
    outputs = list(changes(before.output if before else None, after.output if after else None))
    durations = before.duration_s if before else None, after.duration_s if after else None
    if one == two and not outputs and not _is_notable(*durations):
        return None
    return StepChange(path, one, two, outputs, durations)


def _told(step: StepResult | None) -> dict[str, object]:
    if step is None:
        return {"status": None, "attempts": 0, "reason": "", "error": None}
    error = f"{step.error.type}: {step.error.message}" if step.error else None
    return {"status": step.status.value, "attempts": step.attempts, "reason": step.reason, "error": error}


def _is_notable(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return False
    short, long = sorted((one, two))
    return long - short >= _AT_LEAST_S and long > short * _LONGER


def changes(before: object, after: object, path: str = "$") -> Iterator[Change]:
    """Where two values differ, as deep as can be told."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            spelled = f"{path}.{key}" if str(key).isidentifier() else f"{path}[{json.dumps(key)}]"
            yield from changes(before.get(key, _ABSENT), after.get(key, _ABSENT), spelled)
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        for index in range(max(len(before), len(after))):
            one, two = (side[index] if index < len(side) else _ABSENT for side in (before, after))
            yield from changes(one, two, f"{path}[{index}]")
    elif type(before) is not type(after) or before != after:
        yield Change(path, before, after)


# -- for people


def _shown(told: Difference, *, cut: bool) -> Iterator[str]:
    for sign, side in (("-", told.before), ("+", told.after)):
        head = side.head
        yield f"{sign} {head['run_id']}  {clean(str(head['workflow']))} {head['status']} in {spell(side.duration_s)}"
    sections = {
        "inputs": _lines(told.inputs, cut=cut),
        "workflow": [clean(line) for line in told.workflow],
        "versions": _lines(told.versions, cut=cut),
        "steps": _step_table(told.steps),
        "outputs of steps": [f"{step.path}: {line}" for step in told.steps for line in _lines(step.outputs, cut=cut)],
        "outputs": _lines(told.outputs, cut=cut),
    }
    for name, lines in sections.items():
        if lines:
            yield f"\n{name}:"
            shown = lines[:_SHOWN] if cut and len(lines) > _SHOWN and name != "steps" else lines
            yield from (f"  {line}" for line in shown)
            if len(shown) < len(lines):
                yield f"  and {count(len(lines) - len(shown), 'more line')} (--json shows all)"
    if not any(sections.values()):
        yield "\nNothing else differs."


def _lines(found: Sequence[Change], *, cut: bool) -> list[str]:
    return [f"{each.path}: {_value(each.before, cut=cut)} -> {_value(each.after, cut=cut)}" for each in found]


def _value(value: object, *, cut: bool) -> str:
    if value is _ABSENT:
        return "(none)"
    text = clean(json.dumps(value, ensure_ascii=False))
    return text if not cut or len(text) <= _SHORT else f"{text[: _SHORT - 3]}..."


def _step_table(found: Sequence[StepChange]) -> list[str]:
    rows = []
    for step in found:
        one, two = step.before, step.after
        took = ["-" if value is None else spell(value) for value in step.durations_s]
        why = "" if one["error"] == two["error"] else str(two["error"] or one["error"]).partition("\n")[0]
        columns = [_both(str(one[name] or "-"), str(two[name] or "-")) for name in ("status", "attempts")]
        rows.append([step.path, *columns, _both(*took), why])
    return table(["STEP", "STATUS", "ATTEMPTS", "TOOK", "WHY"], rows).splitlines() if rows else []


def _both(one: str, two: str) -> str:
    return one if one == two else f"{one} -> {two}"
