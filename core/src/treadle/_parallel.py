"""A group of tasks without a workflow: each runs, at once, and what became of all of them is one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

from treadle._app import arun
from treadle._pipeline import RunOptions
from treadle._results import RunResult
from treadle._workflow import Workflow

__all__ = ["execute_parallel"]


async def execute_parallel(group: Mapping[str, object], /, **options: Unpack[RunOptions]) -> RunResult:
    """Run the tasks of a ``parallel_group`` side by side.

    Args:
        group: ``{slug, executor_type: "parallel_group", config: {tasks: [{task_type, input}], fail_strategy}}``. With the
            strategy ``continue`` a failed task leaves the others alone, and the status is ``partial_failure``; with ``stop``
            (the default) nothing new starts after it.
        **options: As for ``treadle.arun``.

    Returns:
        The run. ``outputs["results"]`` maps each task to what it gave, null for those that did not complete.

    Raises:
        WorkflowInvalidError: The group is none, or cannot run here.
    """
    return await arun(Workflow.from_parallel_group(group), **options)
