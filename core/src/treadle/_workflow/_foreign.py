"""Documents of other systems that stand for a workflow: ``parallel_group`` (S0-35)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from treadle._models import Json
from treadle._workflow._reader import shown, suggestion
from treadle.errors import Fault

PARALLEL_GROUP = "parallel_group"

_STRATEGIES = ("stop", "continue")


def is_parallel_group(data: object) -> bool:
    """Whether a document is a group of tasks as the layered executors write it."""
    return isinstance(data, Mapping) and data.get("executor_type") == PARALLEL_GROUP


def parallel_group(data: Mapping[str, object]) -> tuple[dict[str, Json], list[Fault]]:
    """The workflow that a ``parallel_group`` stands for, and what is wrong with the document.

    Its one step is the group, called as its slug says; the output ``results`` maps each task to what it gave.
    """
    reader = _Group()
    reader.keys("", data, ("slug", "executor_type", "config"))
    slug = reader.text("slug", data.get("slug"))
    config = reader.mapping("config", data.get("config"))
    reader.keys("config", config, ("tasks", "fail_strategy"))
    strategy = config.get("fail_strategy", "stop")
    if strategy not in _STRATEGIES:
        message = f"expected 'stop' or 'continue', not {shown(strategy)}"
        reader.fault("config.fail_strategy", message, suggestion(strategy, _STRATEGIES))
    step = _step_id(slug or "group")
    steps = reader.tasks(config.get("tasks"))
    workflow: dict[str, Json] = {
        "name": slug,
        "syntax": "braces",
        "on_error": "continue" if strategy == "continue" else "stop",
        "steps": {step: {"parallel": {"steps": steps, "on_error": strategy}}},
        "outputs": {"results": f"${{{{ steps['{step}'].output }}}}"},
    }
    return workflow, reader.faults


class _Group:
    """Reads the parts of a group and keeps the faults."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def fault(self, path: str, message: str, remedy: str = "") -> None:
        self.faults.append(Fault(message, path, remedy))

    def keys(self, path: str, data: Mapping[str, object], known: Sequence[str]) -> None:
        for key in data:
            if key not in known:
                place = f"{path}.{key}" if path else str(key)
                remedy = suggestion(key, known) or f"keys: {', '.join(known)}"
                self.fault(place, f"{shown(key)} is not a key of {path or 'a parallel group'}", remedy)

    def text(self, path: str, value: object) -> str:
        if isinstance(value, str) and value.strip():
            return value
        self.fault(path, f"expected a text, not {shown(value)}")
        return ""

    def mapping(self, path: str, value: object) -> Mapping[str, object]:
        if isinstance(value, Mapping):
            return value
        self.fault(path, f"expected a mapping, not {shown(value)}")
        return {}

    def tasks(self, value: object) -> dict[str, Json]:
        """The tasks as steps; of two of one type the second is called ``TYPE-2``."""
        steps: dict[str, Json] = {}
        if not isinstance(value, list | tuple) or not value:
            self.fault("config.tasks", f"expected a list of tasks, not {'an empty one' if value == [] else shown(value)}")
            return steps
        for index, item in enumerate(value):
            path = f"config.tasks[{index}]"
            task = self.mapping(path, item)
            self.keys(path, task, ("task_type", "input"))
            uses = self.text(f"{path}.task_type", task.get("task_type"))
            inputs = self.mapping(f"{path}.input", task.get("input", {}))
            name = base = _step_id(uses or "task")
            number = 1
            while name in steps:
                number += 1
                name = f"{base}-{number}"
            steps[name] = {"uses": uses, "with": dict(inputs)}
        return steps


def _step_id(text: str) -> str:
    """A text as the id of a step."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", text)
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"
