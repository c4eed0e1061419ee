"""``tool.NAME``, a folder of functions, and ``python.call``, functions of modules that the operator allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
from treadle import client, executor
from treadle.errors import ConfigError

from treadle_python._allowed import NEVER, AllowedModules, NotAllowedError
from treadle_python._family import Tool, ToolTimeoutError
from treadle_python._tools import ToolError, ToolFolder, ToolNotFoundError, load_tool

__all__ = [
    "AllowedModules",
    "NotAllowedError",
    "Python",
    "Tool",
    "ToolError",
    "ToolFolder",
    "ToolNotFoundError",
    "ToolTimeoutError",
    "call",
    "load_tool",
]


@client("python")
@attrs.define
class Python:
    """What ``python.call`` may call.

    Attributes:
        allow: Modules and packages (with all their modules) whose functions may be called; none by default.
    """

    allow: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        """Refuse what would allow everything."""
        for name in self.allow:
            if name.partition(".")[0] in NEVER or not all(part.isidentifier() for part in name.split(".")):
                raise ConfigError(
                    f"allow: {name!r} is never allowed, or is no module.", "Name modules and packages of your own functions."
                )

    @contextmanager
    def open(self) -> Iterator[AllowedModules]:
        """The allowed modules; nothing is imported before it is called."""
        yield AllowedModules(self.allow)


@executor("python.call")
def call(
    python: AllowedModules,
    /,
    function: str,
    args: list[object] | None = None,
    kwargs: dict[str, object] | None = None,
) -> object:
    """Call a function of an installed module, in a worker thread, and return what it returns.

    Args:
        python: The allowed modules.
        function: ``package.module:function``; the module has to be named in ``[clients.python] allow``.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Raises:
        NotAllowedError: The operator did not allow the module.
        PermanentError: There is no such function.
    """
    return python.function(function)(*(args or ()), **(kwargs or {}))
