"""The last lines of a run: how it ended, why, and what to type next."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TextIO

import attrs

from treadle._cli._output import MARKS, clean, count, first_line, is_terminal, mark, paint, spell, spell_budget, spell_usage
from treadle._cli._view import told
from treadle._paths import item_path
from treadle._results import RunResult, undone_of
from treadle.ports import Entry, GroupStarted, MapStarted, RetryRequested, StepResult

_SHORT = 200
_NAMED = 5
_INSPECTED = ("InputsInvalidError", "OutputInvalidError")
_BAD = ("failed", "timed_out", "poisoned", "interrupted")


def summarize(
    result: RunResult, name: str, rerun: str, executors: Mapping[str, str], stream: TextIO, *, is_kept: bool = False
) -> str:
    """How a run ended, for people.

    Args:
        result: The run.
        name: The workflow, or its file when it has no name.
        rerun: The command that starts it again.
        executors: Step -> name of its executor.
        stream: Where it will be shown: a terminal gets long values cut, everything else whole.
        is_kept: Whether the run itself can go on with what did not complete.
    """
    status = str(result.status)
    head = paint(f"{mark(status, stream)} {name} {status}", status, stream)
    lines = [f"{head} in {spell(result.duration_s)} ({_counts(result)})"]
    lines += [f"  {label + ':':<8} {text}" for label, text in [*_causes(result), *undone(result.entries)]]
    lines += [f"  {'output:':<8} {text}" for text in _outputs(result.outputs, cut=is_terminal(stream))]
    lines += [f"  {'used:' if not number else '':<8} {used}" for number, used in enumerate(_used(result))]
    trace = f"  trace {result.trace_id}" if result.trace_id else ""
    lines.append(f"  {'run:':<8} {result.run_id}{trace}")
    if status != "completed":
        lines.append(f"  {'next:':<8} {_next_command(result, rerun, executors)}")
        if is_kept and not _has_no_means(result):
            lines.append(f"  {'or:':<8} treadle retry {result.run_id}")
    return "\n".join(lines)


def _used(result: RunResult) -> Iterator[str]:
    """What was used, of what the run may use; and budgets within it of which nothing is left."""
    uses, total = result.budgets, result.usage.total
    whole = spell_budget(uses[0], result.ended_at) if uses and not uses[0].path else spell_usage(*attrs.astuple(total))
    generations = 1 + sum(isinstance(entry, RetryRequested) for entry in result.entries)
    if whole:
        yield whole + (f", in {generations} generations" if generations > 1 else "")
    for use in uses:
        if use.path and use.is_used_up:
            yield f"{use.path}: {spell_budget(use, result.ended_at)}"


def _counts(result: RunResult) -> str:
    statuses = Counter(str(step.status) for step in result.steps.values())
    if set(statuses) <= {"completed"}:
        return count(len(result.steps), "step")
    return ", ".join(f"{statuses[status]} {status}" for status in sorted(statuses, key=list(MARKS).index))


def _causes(result: RunResult) -> Iterator[tuple[str, str]]:
    """The root cause with its remedy first, then the other steps that failed by themselves."""
    if result.status == "completed":
        return
    maps = {entry.path for entry in result.entries if isinstance(entry, MapStarted | GroupStarted)}
    culprit = result.steps.get(result.culprit)
    if culprit is None or not (culprit.error or culprit.reason):
        why = told(result.error) or first_line(result.reason)
        if why:
            yield "cause", why
        if result.error and result.error.remedy:
            yield "remedy", first_line(result.error.remedy)
    else:
        yield "cause", f"{culprit.path}: {_why(culprit, maps)}"
        if culprit.error and culprit.error.remedy:
            yield "remedy", first_line(culprit.error.remedy)
    for path, step in result.steps.items():
        if path != result.culprit and step.status in _BAD and not _is_told_within(path, step, result.steps):
            yield "also", f"{path}: {_why(step, maps)}"


def _is_told_within(path: str, step: StepResult, steps: Mapping[str, StepResult]) -> bool:
    """Whether a group failed by nothing but what a step in it failed by, which is told."""
    return any(
        other.startswith((f"{path}/", f"{path}[")) and inner.status in _BAD and inner.error == step.error
        for other, inner in steps.items()
    )


def undone(entries: Iterable[Entry]) -> Iterator[tuple[str, str]]:
    """What a run took back, and what it could not: label and text."""
    ended = undone_of(entries)
    done = [item_path(entry.path, entry.index) for entry in ended if entry.status == "completed"]
    if done:
        yield "undone", ", ".join(done[:_NAMED]) + (f" and {len(done) - _NAMED} more" if len(done) > _NAMED else "")
    for entry in ended:
        if entry.status != "completed":
            why = told(entry.error) or first_line(entry.reason) or str(entry.status)
            yield "not undone", f"{item_path(entry.path, entry.index)}: {why}"


def _why(step: StepResult, maps: Set[str]) -> str:
    # The attempts of a foreach are those of all its items: they explain nothing.
    tries = f" (after {count(step.attempts, 'attempt')})" if step.attempts > 1 and step.path not in maps else ""
    return (told(step.error) or first_line(step.reason) or str(step.status)) + tries


def _outputs(outputs: Mapping[str, object], *, cut: bool) -> Iterator[str]:
    for name, value in outputs.items():
        text = clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        if cut and (len(text) > _SHORT or "\n" in text):
            short = text[:_SHORT].splitlines()[0] if text.strip() else ""
            text = f"{short}... ({count(len(text), 'character')}; --json shows all)"
        yield f"{name} = {text}"


def _has_no_means(result: RunResult) -> bool:
    """Whether the run ended because there was too little of something that does not come back when it is retried."""
    error = result.error
    return error is not None and error.type == "BudgetExceededError" and not error.message.startswith("The wall_time budget")


def _next_command(result: RunResult, rerun: str, executors: Mapping[str, str]) -> str:
    culprit = result.steps.get(result.culprit)
    error = culprit.error if culprit else result.error
    if error and error.type in _INSPECTED and result.culprit in executors:
        return f"treadle plugins info {executors[result.culprit]}"
    return rerun
