"""A folder of functions: each NAME.py is the executor ``tool.NAME``."""

from __future__ import annotations

import collections.abc
import functools
import hashlib
import inspect
import sys
import threading
import time
import typing
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, cast

from treadle.errors import PermanentError, PluginError

from treadle_python._family import Tool
from treadle_python._loading import Function, described, execute, loaded_files

PREFIX = "tool."

_KEYS = ("folder", "isolation")


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


_SETTLED_NS = 2_000_000_000
"""A file that was written so long ago gets another time when it is written again; some systems count time in seconds."""


class Version(NamedTuple):
    """What tells whether a file has changed.

    Attributes:
        written_ns: When it was written.
        size: Its size.
        digest: Of its content, where the time does not tell it from what is written in the next moment.
    """

    written_ns: int
    size: int
    digest: bytes | None = None


class ToolFolder:
    """The source of ``tool.*``. Files are looked at whenever a tool is asked for: nothing watches, and nothing is missed.

    Args:
        config: Its ``[tools] folder`` says where, ``tools`` beside the configuration file when it does not; ``isolation =
            "process"`` gives every tool that says nothing itself a process of its own.

    Raises:
        ToolError: The table holds something else.
    """

    family = Tool

    def __init__(self, config: ToolsConfig) -> None:
        folder, isolation = config.tools.get("folder", "tools"), config.tools.get("isolation")
        unknown = [key for key in config.tools if key not in _KEYS]
        if unknown or not isinstance(folder, str):
            shown = ", ".join(sorted(unknown)) or "folder"
            raise ToolError(f"[tools] {shown}: not understood.", 'Its keys are folder = "tools" and isolation = "process".')
        if isolation not in (None, "inline", "process"):
            raise ToolError(f"[tools] isolation: {isolation!r} is not known.", "Write 'process' or 'inline'.")
        self.folder = config.root / Path(folder).expanduser()
        self.isolation = "process" if isolation == "process" else None
        self._lock = threading.Lock()
        self._versions: dict[str, Version] = {}
        self._tools: dict[str, Function] = {}

    def names(self) -> list[str]:
        """Names of all tools, in order; nothing is imported. A name that begins with ``_`` is no tool, but may be imported."""
        found = self.folder.glob("*.py") if self.folder.is_dir() else ()
        return sorted(PREFIX + file.stem for file in found if _is_name(file.stem) and file.is_file())

    def file(self, name: str) -> Path:
        """The file of a tool.

        Args:
            name: With or without ``tool.``.

        Raises:
            ToolNotFoundError: There is no such file.
        """
        stem = name.removeprefix(PREFIX)
        file = self.folder / f"{stem}.py"
        if not _is_name(stem) or not file.is_file():
            known = ", ".join(self.names()) or "none"
            raise ToolNotFoundError(f"Tool not found: {stem}", f"There is no {file}. Known: {known}.")
        return file

    def get(self, name: str) -> Function:
        """The function of a tool: the one named as its file, else ``run``.

        It is read anew when its file has changed since, or any file of the folder that a tool has imported. Who holds a
        function that was given before keeps it: a run that goes on is not disturbed.

        Args:
            name: With or without ``tool.``.

        Raises:
            ToolNotFoundError: There is no such file.
            ToolError: The file cannot be imported, or holds no such function.
        """
        file = self.file(name)
        stem = file.stem
        with self._lock:
            # At first there may be modules that another object for the same folder has loaded, and not looked at since.
            if not self._tools or self._has_changed():
                self._forget()
            if stem not in self._tools:
                self._versions[str(file)] = _version(file)
                try:
                    self._tools[stem] = _made(self.folder, stem, file.read_bytes())
                finally:
                    self._remember()
            return self._tools[stem]

    def _has_changed(self) -> bool:
        for file, before in self._versions.items():
            now = _version(Path(file), is_read=before.digest is not None)
            if now != before:
                return True
            if _is_settled(now.written_ns):
                self._versions[file] = now._replace(digest=None)
        return False

    def _forget(self) -> None:
        """Everything: which tool imported what is not worth knowing."""
        for name in loaded_files(self.folder):
            sys.modules.pop(name, None)
        self._tools.clear()
        self._versions.clear()

    def _remember(self) -> None:
        for file in loaded_files(self.folder).values():
            self._versions.setdefault(str(file), _version(file))


def load_tool(*, folder: str, stem: str, source: str) -> Function:
    """The function of a tool, made from its source as a run found it; how another process gets the same one."""
    return _made(Path(folder), stem, source.encode("utf-8", "surrogateescape"))


def _version(file: Path, *, is_read: bool | None = None) -> Version:
    """What a file is like now; ``is_read`` says whether by its content too, which None leaves to its age."""
    try:
        seen = file.stat()
        is_read = not _is_settled(seen.st_mtime_ns) if is_read is None else is_read
        digest = hashlib.sha256(file.read_bytes()).digest() if is_read else None
    except OSError:
        return Version(0, -1)
    return Version(seen.st_mtime_ns, seen.st_size, digest)


def _is_settled(written_ns: int) -> bool:
    return time.time_ns() - written_ns > _SETTLED_NS


def _made(folder: Path, stem: str, source: bytes) -> Function:
    file = folder / f"{stem}.py"
    try:
        module = execute(folder, stem, source)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ToolError(f"Tool {stem} cannot be loaded: {described(error)}", f"Correct {file}.") from error
    tool = _with_lists(stem, _function(stem, module))
    arguments = {"folder": str(folder.absolute()), "stem": stem, "source": source.decode("utf-8", "surrogateescape")}
    try:
        tool.__treadle_origin__ = ("treadle_python:load_tool", arguments)  # type: ignore[attr-defined]  # isolation reads it
    except AttributeError:  # An object with slots: it runs, only not in a process of its own.
        return tool
    return tool


def _function(stem: str, module: ModuleType) -> Function:
    for attribute in (stem, "run"):
        found = getattr(module, attribute, None)
        if callable(found):
            return found  # type: ignore[no-any-return]  # callable() says so
    raise ToolError(
        f"Tool {stem} has no callable function", f"Define 'def {stem}(...)' or 'def run(...)' in {module.__file__}."
    )


def _is_name(stem: str) -> bool:
    return stem.isidentifier() and not stem.startswith("_")


# -- results that are made while they are read become lists --------------------------------------------------------------


def _with_lists(stem: str, function: Function) -> Function:
    """A function that answers a list where ``function`` answers a generator or another iterator."""
    if not inspect.isfunction(function):
        return function
    is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)

    def call(*arguments: object, **inputs: object) -> object:
        result = function(*arguments, **inputs)
        return list(result) if isinstance(result, Iterator) else result

    async def call_async(*arguments: object, **inputs: object) -> object:
        result = function(*arguments, **inputs)
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, AsyncIterator):
            return [item async for item in result]
        return list(result) if isinstance(result, Iterator) else result

    tool = cast("Function", call_async if is_async else call)
    functools.update_wrapper(tool, function)
    if is_generator:
        _declare_list(stem, tool, function)
    return tool


def _declare_list(stem: str, tool: Function, function: Function) -> None:
    """``tool`` stands for itself: what it says of its types is what a list has."""
    del tool.__wrapped__  # type: ignore[attr-defined]  # update_wrapper has set it
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise ToolError(f"Tool {stem} has an annotation that cannot be read: {error}", "Correct the annotation.") from error
    if "return" in hints:
        items = typing.get_args(hints["return"])
        is_iterable = isinstance(kind := typing.get_origin(hints["return"]), type) and issubclass(
            kind, (collections.abc.Iterable, collections.abc.AsyncIterable)
        )
        hints["return"] = list[items[0]] if is_iterable and items else list  # type: ignore[valid-type]  # a type at run time
    signature = inspect.signature(function)
    parameters = [each.replace(annotation=hints.get(each.name, each.empty)) for each in signature.parameters.values()]
    tool.__annotations__ = hints
    tool.__signature__ = signature.replace(  # type: ignore[attr-defined]  # inspect reads it
        parameters=parameters, return_annotation=hints.get("return", signature.empty)
    )
