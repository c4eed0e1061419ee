"""The plan of a run that is kept, for commands that look at steps: listing runs does without it, and starts sooner."""

from __future__ import annotations

import re
from collections.abc import Sequence

from treadle._cli._kept import begun
from treadle._paths import plan_path
from treadle._plan import Plan, compile_plan
from treadle._workflow import Workflow
from treadle.errors import StepNotFoundError
from treadle.ports import Entry

_ITEM = re.compile(r"(.+)\[(\d+)\]")


def plan_of(entries: Sequence[Entry]) -> Plan:
    """What a log's run was to do; no executor need be installed."""
    return compile_plan(Workflow.from_dict(begun(entries).workflow))


def split_item(path: str, plan: Plan) -> tuple[str, int | None]:
    """A step, and which of its items a person means by ``each[3]``.

    Raises:
        StepNotFoundError: There is no such step; the remedy names those that were probably meant.
    """
    known = [*plan.steps]
    where = plan_path(path)  # a step of an item is written as runs show it: each[3]/post
    if not where or where in known or any(name.startswith(f"{where}/") for name in known):
        found = _ITEM.fullmatch(path)
        return (found[1], int(found[2])) if found and where in known else (path, None)
    raise StepNotFoundError("This run", path, known)
