"""treadle runs steps."""

from treadle._executor import Executor, client, executor
from treadle._models import GiveUp, Issue, RetryAfter
from treadle._secrets import Secret
from treadle._version import __version__
from treadle.errors import PermanentError, TransientError, TreadleError
from treadle.hookspecs import hookimpl
from treadle.ports import Context, SyncContext

__all__ = [
    "Context",
    "Executor",
    "GiveUp",
    "Issue",
    "PermanentError",
    "RetryAfter",
    "Secret",
    "SyncContext",
    "TransientError",
    "TreadleError",
    "__version__",
    "client",
    "executor",
    "hookimpl",
]
