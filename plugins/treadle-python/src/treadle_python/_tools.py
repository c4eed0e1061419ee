"""A folder of functions: each NAME.py is the executor ``tool.NAME``."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from treadle.errors import PermanentError, PluginError

PREFIX = "tool."


class ToolError(PluginError):
    """A tool that cannot be used as it is."""


class ToolNotFoundError(ToolError, PermanentError, LookupError):
    """There is no file for a tool."""


class ToolsConfig(Protocol):
    """The part of treadle's configuration that says where tools are."""

    @property
    def tools(self) -> Mapping[str, object]:
        """The ``[tools]`` table."""

    @property
    def root(self) -> Path:
        """Folder that relative paths start from."""


class ToolFolder:
    """The source of ``tool.*``.

    Args:
        config: Its ``[tools] folder`` says where; ``tools`` beside the configuration file when it does not.

    Raises:
        ToolError: The table holds something else.
    """

    def __init__(self, config: ToolsConfig) -> None:
        unknown = set(config.tools) - {"folder"}
        folder = config.tools.get("folder", "tools")
        if unknown or not isinstance(folder, str):
            shown = ", ".join(sorted(unknown)) or "folder"
            raise ToolError(f"[tools] {shown}: not understood.", 'It has one key: folder = "tools".')
        self.folder = config.root / Path(folder).expanduser()
        # Modules of two folders must not meet in sys.modules.
        self._package = "treadle_tools_" + hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:12]
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[tuple[int, int], Callable[..., object]]] = {}

    def names(self) -> list[str]:
        """Names of all tools, in order; nothing is imported. A name that begins with ``_`` is no tool, but may be imported."""
        found = self.folder.glob("*.py") if self.folder.is_dir() else ()
        return sorted(PREFIX + file.stem for file in found if _is_name(file.stem) and file.is_file())

    def get(self, name: str) -> Callable[..., object]:
        """The function of a tool: the one named as its file, else ``run``; read anew when the file changed.

        Args:
            name: With or without ``tool.``.

        Raises:
            ToolNotFoundError: There is no such file.
            ToolError: The file cannot be imported, or holds no such function.
        """
        stem = name.removeprefix(PREFIX)
        file = self.folder / f"{stem}.py"
        if not _is_name(stem) or not file.is_file():
            known = ", ".join(self.names()) or "none"
            raise ToolNotFoundError(f"Tool not found: {stem}", f"There is no {file}. Known: {known}.")
        with self._lock:
            seen = file.stat()
            version = (seen.st_mtime_ns, seen.st_size)
            if stem not in self._loaded or self._loaded[stem][0] != version:
                self._loaded[stem] = version, _function(stem, self._import(stem, file))
            return self._loaded[stem][1]

    def _import(self, stem: str, file: Path) -> ModuleType:
        self._make_package()
        name = f"{self._package}.{stem}"
        spec = importlib.util.spec_from_loader(name, _Loader(name, str(file)), origin=str(file))
        assert spec is not None, "a loader was given"
        module = importlib.util.module_from_spec(spec)
        module.__file__ = str(file)
        before = sys.modules.get(name)
        sys.modules[name] = module  # Dataclasses and type hints look their module up here.
        try:
            _Loader(name, str(file)).exec_module(module)
        except BaseException as error:
            sys.modules.pop(name, None)
            if before is not None:
                sys.modules[name] = before
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ToolError(f"Tool {stem} cannot be loaded: {_described(error)}", f"Correct {file}.") from error
        return module

    def _make_package(self) -> None:
        """A package for the folder, so that a tool may import its neighbours: ``from ._shared import parse``."""
        if self._package not in sys.modules:
            package = ModuleType(self._package, f"Tools of {self.folder}.")
            package.__path__ = [str(self.folder)]
            sys.modules[self._package] = package


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads source alone: compiled files have a time of whole seconds, and would litter the folder."""

    def path_stats(self, path: str) -> Mapping[str, object]:
        raise OSError("not cached")


def _function(stem: str, module: ModuleType) -> Callable[..., object]:
    for attribute in (stem, "run"):
        found = getattr(module, attribute, None)
        if callable(found):
            return found  # type: ignore[no-any-return] # callable() says so
    raise ToolError(
        f"Tool {stem} has no callable function", f"Define 'def {stem}(...)' or 'def run(...)' in {module.__file__}."
    )


def _is_name(stem: str) -> bool:
    return stem.isidentifier() and not stem.startswith("_")


def _described(error: BaseException) -> str:
    """Type, message and line of what an import raised; exceptions of strangers may fail even at that."""
    try:
        text = str(error)
    except Exception:  # __str__ is foreign code
        text = "(its message cannot be shown)"
    place = f" (line {line})" if (line := _line(error)) else ""
    return f"{type(error).__name__}: {text}".rstrip(": ") + place


def _line(error: BaseException) -> int:
    """The last line of a tool's own code that led to an error; 0 when it never got there."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if isinstance(trace.tb_frame.f_globals.get("__loader__"), _Loader) or trace.tb_frame.f_globals.get(
            "__name__", ""
        ).startswith("treadle_tools_"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
