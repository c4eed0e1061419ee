"""Functions of modules that the operator allows, and of no other."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable

import attrs
from treadle.errors import PermanentError

NEVER = frozenset(
    [
        "builtins",
        "code",
        "codeop",
        "ctypes",
        "dis",
        "gc",
        "imp",
        "importlib",
        "inspect",
        "marshal",
        "multiprocessing",
        "nt",
        "operator",
        "os",
        "pickle",
        "pkgutil",
        "posix",
        "pty",
        "runpy",
        "shelve",
        "shutil",
        "signal",
        "site",
        "socket",
        "subprocess",
        "sys",
        "threading",
        "types",
        "webbrowser",
    ]
)
"""Modules that turn data into code or reach everything; naming them in ``allow`` does not help."""

_SPELLING = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<function>[A-Za-z]\w*)", re.ASCII)


class NotAllowedError(PermanentError):
    """A function that the operator did not allow."""


@attrs.frozen
class AllowedModules:
    """What ``python.call`` may call.

    Attributes:
        allow: Modules and packages; a package includes its modules.
    """

    allow: tuple[str, ...]

    def function(self, spelling: str) -> Callable[..., object]:
        """The function that ``module:function`` names. Nothing is imported before it is known to be allowed.

        Raises:
            NotAllowedError: Its module, or the one that defines it, is not allowed.
            PermanentError: There is no such function, or it cannot be called so.
        """
        match = _SPELLING.fullmatch(spelling)
        if match is None:
            raise NotAllowedError(
                f"{spelling!r} is no function that python.call takes.", "Write 'package.module:function', without further dots."
            )
        module, name = match["module"], match["function"]
        self._check(module, spelling)
        found = getattr(_imported(module), name, None)
        if found is None or not callable(found):
            raise PermanentError(f"Module {module!r} has no function {name!r}.", "Correct 'function'.")
        if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
            raise PermanentError(f"{spelling!r} is async or a generator.", "Make it an executor, or wrap it in a 'def'.")
        # A module may have imported what it may not give away: os.system is not allowed by another name either.
        self._check(_home(found), spelling)
        return found  # type: ignore[no-any-return] # callable() says so

    def _check(self, module: str, spelling: str) -> None:
        top = module.partition(".")[0]
        if top in NEVER or not any(module == allowed or module.startswith(f"{allowed}.") for allowed in self.allow):
            allowed = ", ".join(self.allow) or "none"
            raise NotAllowedError(
                f"{spelling!r} may not be called: module {module!r} is not allowed (allowed: {allowed}).",
                "Name it in [clients.python] allow, or provide the function as an executor or a tool."
                if top not in NEVER
                else "This module reaches everything and is never allowed; provide a function of your own.",
            )


def _imported(module: str) -> object:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PermanentError(f"There is no module {error.name!r}.", "Install it, or correct 'function'.") from error


def _home(found: object) -> str:
    """The module that defines a function."""
    home = getattr(found, "__module__", None)
    if isinstance(home, str):
        return home
    owner = getattr(found, "__self__", found)  # Methods of C types, like random.random, name no module.
    return type(owner).__module__
