"""``treadle trace``: the spans of a run as a tree with durations and bars, from its records."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import anyio
import attrs
import click

from treadle._cli._kept import begun, find_run, item_name, kept_runs, read_log
from treadle._cli._loading import json_option
from treadle._cli._output import clean, encodes, first_line, is_terminal, mark, paint, spell, wants_colour, write, write_json
from treadle._log_rows import rows_of
from treadle._models import SpanRecord
from treadle._span_ids import step_span_id
from treadle._span_projection import SpanProjection
from treadle._telemetry import ATTEMPT_NUMBER, ATTEMPT_VARIANT, STEP_INDEX, STEP_STATUS, TASK, TASK_RESULT
from treadle.ports import Entry, RetryRequested, RunEnded, Store

_FOLD = 40
_BAR, _WIDEST_BAR = 16, 48
_WIDTH = 120
_LONGEST_NOTE = 24
_ENDINGS = {"cancellation": "cancelled"}


@attrs.define
class Node:
    """A span and what lies under it.

    Attributes:
        span_id: 16 hex digits.
        parent_id: 16 hex digits; empty for the root.
        name: For people: the step, the item, the call.
        kind: ``run``, ``step``, ``attempt`` or ``call``.
        started_at: Seconds since the epoch.
        ended_at: None while it goes on.
        status: How it ended, or ``running``.
        message: First line of its error.
        attributes: Of the span.
        children: By start.
    """

    span_id: str
    parent_id: str
    name: str
    kind: str
    started_at: float
    ended_at: float | None
    status: str
    message: str = ""
    attributes: Mapping[str, object] = attrs.field(factory=dict)
    children: list[Node] = attrs.field(factory=list)


@click.command(short_help="Show where the time of a run went: its spans as a tree.")
@click.argument("run")
@click.option("--all", "show_all", is_flag=True, help=f"Fold nothing; a terminal shows {_FOLD} parts of a span otherwise.")
@json_option
def trace(run: str, show_all: bool, as_json: bool) -> None:
    """Show the spans of RUN (an id, the beginning of one, or 'last'): its steps, their attempts, the calls to services.

    They are made from the records of the run, so they are there whether or not traces are sent anywhere. Each bar shows when
    in the run something went on.
    """

    async def look(store: Store) -> list[Entry]:
        row = await find_run(store, run)
        return await read_log(store, row.run_id)

    with kept_runs() as (store, _):
        entries = anyio.run(look, store)
    now = entries[-1].at if isinstance(entries[-1], RunEnded) else max(time.time(), entries[-1].at)
    root = tree(entries)
    if as_json:
        created = begun(entries)
        spans = [_span_object(node, root) for node in _walk(root)]
        write_json({"run_id": created.run_id, "trace_id": created.trace_id, "status": root.status, "spans": spans})
        return
    for line in _Picture(root, now, fold=None if show_all or not is_terminal(sys.stdout) else _FOLD).lines():
        write(line)


def tree(entries: Sequence[Entry]) -> Node:
    """The spans of a log, also those that have not ended, under the run's."""
    created = begun(entries)
    projection = SpanProjection()
    nodes = {span.span_id: _node(span) for entry in entries for span in projection.apply(entry)}
    rows = rows_of(entries)
    for row in rows.spans:
        if row.ended_at is None and row.span_id not in nodes:
            name = row.task_id if row.attempt == 1 else f"{row.task_id} attempt {row.attempt}"
            nodes[row.span_id] = Node(row.span_id, row.parent_id, name, "attempt", row.started_at, None, "running")
    for step in rows.steps:
        if step.index is None and step.queued_at is not None and step.ended_at is None:
            span_id, parent_id = projection.place_of(step.path)
            nodes[span_id] = Node(span_id, parent_id, step.path, "step", step.queued_at, None, step.status.value)
    workflow = str(created.workflow.get("name", ""))
    status = rows.run.status.value if rows.run is not None else ""
    root = nodes.get(created.root_span_id) or Node(created.root_span_id, "", "", "run", created.at, None, status)
    root.name, root.kind, root.status, root.parent_id = workflow, "run", status, created.parent_span_id
    root.ended_at = entries[-1].at if isinstance(entries[-1], RunEnded) else None
    root.message = "" if status == "completed" else root.message
    for number, again in enumerate((entry for entry in entries if isinstance(entry, RetryRequested)), 2):
        span_id = step_span_id(created.trace_id, created.root_span_id, "", generation=number)
        node = nodes.setdefault(span_id, Node(span_id, root.span_id, "", "run", again.at, None, "running"))
        node.name, node.kind = f"generation {number}", "run"
    for node in nodes.values():
        if node is not root:
            nodes.get(node.parent_id, root).children.append(node)
    for node in nodes.values():
        node.children.sort(key=lambda child: child.started_at)
    return root


def _node(span: SpanRecord) -> Node:
    told = span.attributes
    path, attempt = str(told.get(TASK, "")), told.get(ATTEMPT_NUMBER)
    if attempt is not None:
        kind, name = "attempt", item_name(path, told.get(STEP_INDEX))  # type: ignore[arg-type]  # a number, or none
        notes = [str(told[ATTEMPT_VARIANT])] if ATTEMPT_VARIANT in told else []
        notes += [f"attempt {attempt}"] if attempt != 1 else []
        name = " ".join([name, *notes])
    elif STEP_STATUS in told:
        kind, name = "step", item_name(path, told.get(STEP_INDEX))  # type: ignore[arg-type]  # the same
    else:
        kind, name = "call", span.name
    ended = "failed" if span.status == "error" else _ENDINGS.get(str(told.get(TASK_RESULT)), "completed")
    status = str(told.get(STEP_STATUS) or ended)
    message = first_line(span.status_message) if span.status == "error" else ""
    return Node(span.span_id, span.parent_id, name, kind, span.started_at, span.ended_at, status, message, told)


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _span_object(node: Node, root: Node) -> dict[str, object]:
    ended_at = node.ended_at
    return {
        "span_id": node.span_id,
        "parent_id": node.parent_id,
        "kind": node.kind,
        "name": node.name,
        "status": node.status,
        "message": node.message,
        "started_at": node.started_at,
        "offset_s": round(node.started_at - root.started_at, 6),
        "duration_s": None if ended_at is None else round(ended_at - node.started_at, 6),
        "attributes": dict(node.attributes),
    }


class _Picture:
    """A tree for people.

    Args:
        root: The run.
        now: Where what goes on ends so far.
        fold: The most children that are shown of a node; None for all.
    """

    def __init__(self, root: Node, now: float, *, fold: int | None) -> None:
        self._root, self._now, self._fold = root, now, fold
        self._spans_s = max((root.ended_at or now) - root.started_at, 1e-6)
        has_lines = encodes(sys.stdout, "├─└│█░")
        self._branch, self._last, self._down = ("├─ ", "└─ ", "│  ") if has_lines else ("|- ", "`- ", "|  ")
        self._full, self._empty = ("█", " ") if has_lines else ("#", " ")

    def lines(self) -> list[str]:
        """All lines."""
        rows = [*self._rows(self._root, "", "")]
        width = max(len(label) for label, _ in rows)
        terminal = shutil.get_terminal_size((_WIDTH, 24)).columns if is_terminal(sys.stdout) else _WIDTH
        notes = max((len(self._note(node)) for _, node in rows if node is not None), default=0)
        bar = max(_BAR, min(_WIDEST_BAR, terminal - width - 12 - min(notes, _LONGEST_NOTE)))
        return [self._line(label, node, width, bar) for label, node in rows]

    def _rows(self, node: Node, lead: str, under: str) -> Iterator[tuple[str, Node | None]]:
        sign = mark(node.status, sys.stdout)
        yield f"{lead}{sign} {clean(node.name)}", node
        children = node.children
        if [(child.kind, child.name, child.status) for child in children] == [("attempt", node.name, node.status)]:
            children = children[0].children  # the only attempt of a step says nothing new
        hidden = len(children) - self._fold if self._fold is not None else 0
        shown = children[: self._fold] if hidden > 0 else children
        for child in shown:
            is_last = child is children[-1]
            yield from self._rows(
                child, under + (self._last if is_last else self._branch), under + ("   " if is_last else self._down)
            )
        if hidden > 0:
            yield f"{under}{self._last}and {hidden} more (--all)", None

    def _line(self, label: str, node: Node | None, width: int, bar: int) -> str:
        if node is None:
            return label
        ended_at = self._now if node.ended_at is None else node.ended_at
        took = spell(ended_at - node.started_at) + ("" if node.ended_at is not None else "+")
        first = min(bar - 1, max(0, int((node.started_at - self._root.started_at) / self._spans_s * bar)))
        last = min(bar, max(first + 1, round((ended_at - self._root.started_at) / self._spans_s * bar)))
        drawn = self._empty * first + self._full * (last - first)
        notes = self._note(node)
        text = f"{label.ljust(width)}  {took:>7}  "
        if wants_colour(sys.stdout):
            drawn = paint(drawn, node.status, sys.stdout)
        return f"{text}{drawn}{' ' * (bar - last) if notes else ''}{notes}".rstrip()

    def _note(self, node: Node) -> str:
        if node.message:
            return f"  {node.status}: {clean(node.message)}"
        return f"  {node.status}" if node.status not in ("completed", "running") or node is self._root else ""
