"""treadle runs steps: install executors like pytest plugins, compose them into workflows.

Every call is checked, retried, traced and recorded. Start with ``run`` and ``Workflow``, or ``executor`` to write your own.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from treadle._version import __version__

__all__ = [
    "Context",
    "CorrelationFilter",
    "CostCalculator",
    "EventPublisher",
    "Executor",
    "GiveUp",
    "Issue",
    "JsonLogFormatter",
    "KeyOverwrittenWarning",
    "ModelPrice",
    "OperationLog",
    "Outbox",
    "PermanentError",
    "PhaseContext",
    "PhasePlan",
    "Pipeline",
    "PipelineResult",
    "PipelineUsage",
    "Plan",
    "Registry",
    "RetryAfter",
    "RunHandle",
    "RunResult",
    "Secret",
    "SpanReport",
    "StepUsage",
    "SyncContext",
    "TaskEvent",
    "TaskEvents",
    "TaskSpec",
    "TransientError",
    "TreadleError",
    "Use",
    "Workflow",
    "__version__",
    "areplay",
    "aresume",
    "aretry",
    "arun",
    "asend_signal",
    "client",
    "execute_parallel",
    "executor",
    "hookimpl",
    "is_transient",
    "load_workflow",
    "make_plan",
    "phase_workflow",
    "replay",
    "resume",
    "retry",
    "run",
    "send_signal",
]

# Names are imported on first use: `import treadle` and `treadle --help` must not pay for the engine. The checkers' view of
# the same list stands below; a test holds the two together.
_HOMES = {
    "Context": "treadle.ports",
    "CorrelationFilter": "treadle._log_records",
    "CostCalculator": "treadle._prices",
    "EventPublisher": "treadle._phases",
    "Executor": "treadle._executor",
    "GiveUp": "treadle._models",
    "Issue": "treadle._models",
    "JsonLogFormatter": "treadle._log_records",
    "KeyOverwrittenWarning": "treadle._pipeline",
    "ModelPrice": "treadle._prices",
    "OperationLog": "treadle._operation_log",
    "Outbox": "treadle._outbox",
    "PermanentError": "treadle.errors",
    "PhaseContext": "treadle._phases",
    "PhasePlan": "treadle._phases",
    "Pipeline": "treadle._pipeline",
    "PipelineResult": "treadle._pipeline",
    "PipelineUsage": "treadle._prices",
    "Plan": "treadle._plan",
    "Registry": "treadle._plugins",
    "RetryAfter": "treadle._models",
    "RunHandle": "treadle._app",
    "RunResult": "treadle._results",
    "Secret": "treadle._secrets",
    "SpanReport": "treadle._outbox",
    "StepUsage": "treadle._models",
    "SyncContext": "treadle.ports",
    "TaskEvent": "treadle._phases",
    "TaskEvents": "treadle._phases",
    "TaskSpec": "treadle._phases",
    "TransientError": "treadle.errors",
    "TreadleError": "treadle.errors",
    "Use": "treadle._workflow",
    "Workflow": "treadle._workflow",
    "areplay": "treadle._again",
    "aresume": "treadle._app",
    "aretry": "treadle._again",
    "arun": "treadle._app",
    "asend_signal": "treadle._app",
    "client": "treadle._executor",
    "execute_parallel": "treadle._parallel",
    "executor": "treadle._executor",
    "hookimpl": "treadle.hookspecs",
    "is_transient": "treadle._retries",
    "load_workflow": "treadle._loader",
    "make_plan": "treadle._plan",
    "phase_workflow": "treadle._phases",
    "replay": "treadle._again",
    "resume": "treadle._app",
    "retry": "treadle._again",
    "run": "treadle._app",
    "send_signal": "treadle._app",
}

if TYPE_CHECKING:
    from treadle._again import areplay, aretry, replay, retry
    from treadle._app import RunHandle, aresume, arun, asend_signal, resume, run, send_signal
    from treadle._executor import Executor, client, executor
    from treadle._loader import load_workflow
    from treadle._log_records import CorrelationFilter, JsonLogFormatter
    from treadle._models import GiveUp, Issue, RetryAfter, StepUsage
    from treadle._operation_log import OperationLog
    from treadle._outbox import Outbox, SpanReport
    from treadle._parallel import execute_parallel
    from treadle._phases import (
        EventPublisher,
        PhaseContext,
        PhasePlan,
        TaskEvent,
        TaskEvents,
        TaskSpec,
        phase_workflow,
    )
    from treadle._pipeline import KeyOverwrittenWarning, Pipeline, PipelineResult
    from treadle._plan import Plan, make_plan
    from treadle._plugins import Registry
    from treadle._prices import CostCalculator, ModelPrice, PipelineUsage
    from treadle._results import RunResult
    from treadle._retries import is_transient
    from treadle._secrets import Secret
    from treadle._workflow import Use, Workflow
    from treadle.errors import PermanentError, TransientError, TreadleError
    from treadle.hookspecs import hookimpl
    from treadle.ports import Context, SyncContext


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'treadle' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted(__all__)
