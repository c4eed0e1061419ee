"""What commands about a workflow file begin with: the file, loaded and planned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from treadle._cli._loading import discover
from treadle._loader import load_workflow
from treadle._plan import Plan, make_plan
from treadle._plugins import Registry
from treadle._workflow import Workflow
from treadle.errors import Fault, WorkflowInvalidError


def planned(file: str) -> tuple[Workflow, Plan]:
    """Load and plan a file."""
    _, registry = discover()
    workflow = loaded(file, registry)
    return workflow, make_plan(workflow, registry)


def loaded(file: str, registry: Registry) -> Workflow:
    """Load a file.

    Raises:
        WorkflowInvalidError: With every structural fault; and with what planning finds in the steps that have none.
    """
    try:
        return load_workflow(file)
    except WorkflowInvalidError as error:
        if not isinstance(error.partial, Workflow):
            raise
        faults = [*error.faults, *_further_faults(error.partial, error.faults, registry)]
        raise WorkflowInvalidError(sorted(faults, key=_place), name=error.name) from None


def _further_faults(partial: Workflow, known: Sequence[Fault], registry: Registry) -> Iterator[Fault]:
    """What planning finds wrong in steps that could be read whole: in others it may only follow from the first fault."""
    heads = {fault.path.split(".")[0] for fault in known}
    if not heads <= {"steps", "finally"}:
        return  # inputs, secrets or the whole: references to them would be called wrong
    broken = {tuple(fault.path.split(".")[:2]) for fault in known}
    try:
        make_plan(partial, registry)
    except WorkflowInvalidError as error:
        for fault in error.faults:
            place = fault.path.split(".")
            if place[0] in ("steps", "finally") and len(place) > 1 and tuple(place[:2]) not in broken:
                yield fault


def _place(fault: Fault) -> tuple[bool, int, int]:
    return not fault.line, fault.line, fault.column
