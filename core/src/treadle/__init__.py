"""treadle runs steps: install executors like pytest plugins, compose them into workflows.

Every call is checked, retried, traced and recorded. Start with ``run`` and ``Workflow``, or ``executor`` to write your own.
"""

from __future__ import annotations

from treadle._app import RunHandle, arun, run
from treadle._executor import Executor, client, executor
from treadle._loader import load_workflow
from treadle._models import GiveUp, Issue, RetryAfter
from treadle._plan import Plan, make_plan
from treadle._plugins import Registry
from treadle._results import RunResult
from treadle._secrets import Secret
from treadle._version import __version__
from treadle._workflow import Workflow
from treadle.errors import PermanentError, TransientError, TreadleError
from treadle.hookspecs import hookimpl
from treadle.ports import Context, SyncContext

__all__ = [
    "Context",
    "Executor",
    "GiveUp",
    "Issue",
    "PermanentError",
    "Plan",
    "Registry",
    "RetryAfter",
    "RunHandle",
    "RunResult",
    "Secret",
    "SyncContext",
    "TransientError",
    "TreadleError",
    "Workflow",
    "__version__",
    "arun",
    "client",
    "executor",
    "hookimpl",
    "load_workflow",
    "make_plan",
    "run",
]
