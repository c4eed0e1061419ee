"""Where a step stands in a run: ``publish/post``, ``each[3]/post``, ``finally/notify``; and where that is in the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

_ITEM = re.compile(r"\[\d+\]")
_FINALLY = "finally"


def item_path(path: str, index: int | None) -> str:
    """A step with its item: ``each[3]``."""
    return path if index is None else f"{path}[{index}]"


def split_item(path: str) -> tuple[str, int | None]:
    """The step and the item of a path like ``each[3]``."""
    if not path.endswith("]"):
        return path, None
    step, _, index = path[:-1].rpartition("[")
    return step, int(index)


def plan_path(path: str) -> str:
    """Where an instance stands in the plan: ``each/post`` for ``each[3]/post``."""
    return _ITEM.sub("", path) if "[" in path else path


def scope_path(path: str) -> str:
    """The group that a step is part of, with its item: ``each[3]`` for ``each[3]/post``; empty for the run."""
    if "/" not in path:
        return ""
    scope = path.rpartition("/")[0]
    if scope == _FINALLY:
        return ""
    return scope.removesuffix(f"/{_FINALLY}")


def step_id(path: str) -> str:
    """What a step is called in the file."""
    return path.rpartition("/")[2]


def outermost(path: str) -> str:
    """The step of the run that a path is part of: ``publish`` for ``publish/post``, ``finally/notify`` for itself."""
    parts = path.split("/", 2)
    outer = "/".join(parts[:2]) if parts[0] == _FINALLY else parts[0]
    return split_item(outer)[0]


def written_step(workflow: Mapping[str, object], path: str) -> Mapping[str, object]:
    """A step as the workflow has it, which is plain data; empty when it is not there."""
    if "/" not in path:
        return _mapping(_mapping(workflow.get("steps")).get(path if "[" not in path else plan_path(path)))
    document, step = workflow, _mapping({})
    section = "steps"
    for name in plan_path(path).split("/"):
        if name == _FINALLY and section == "steps" and _FINALLY in document:
            section = _FINALLY
            continue
        if step:
            document, within = _within(document, step)
            if name == _FINALLY and within is document:
                section = _FINALLY
                step = {}
                continue
            step = _mapping(_mapping(within.get("steps")).get(name)) if within is document else _mapping(within.get(name))
        else:
            step = _mapping(_mapping(document.get(section)).get(name))
        section = "steps"
    return step


def _within(document: Mapping[str, object], step: Mapping[str, object]) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The workflow that the steps within a step belong to, and where they stand: the workflow itself for a subflow."""
    if "parallel" in step:
        return document, _mapping(_mapping(step["parallel"]).get("steps"))
    if "choose" in step:
        return document, _mapping(step["choose"])
    inner = _mapping(_mapping(document.get("workflows")).get(str(step.get("workflow"))))
    return inner, inner


def _mapping(value: object) -> Mapping[str, object]:
    if type(value) is dict:  # nearly always, and much quicker to tell
        return value
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}
