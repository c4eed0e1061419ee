"""Reading one tool's file: always its source as it is now, in a package that lets tools import their neighbours."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

PREFIX = "treadle_tools_"

Function = Callable[..., object]


def package_of(folder: Path) -> str:
    """Name of the package whose modules are the files of a folder; modules of two folders never meet in ``sys.modules``."""
    return PREFIX + hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12]


def execute(folder: Path, stem: str, source: bytes) -> ModuleType:
    """The module of a tool, made anew from ``source``; raises whatever its code raises, and then leaves no trace."""
    package = package_of(folder)
    _make_package(package, folder)
    name, file = f"{package}.{stem}", str(folder / f"{stem}.py")
    loader = _Loader(name, file, source)
    spec = importlib.util.spec_from_loader(name, loader, origin=file)
    assert spec is not None, "a loader was given"
    module = importlib.util.module_from_spec(spec)
    module.__file__ = file
    before = sys.modules.get(name)
    sys.modules[name] = module  # Dataclasses and type hints look their module up here.
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def loaded_files(folder: Path) -> dict[str, Path]:
    """The modules of a folder that are loaded now, with their files."""
    prefix = package_of(folder) + "."
    modules = {name: module for name, module in list(sys.modules.items()) if name.startswith(prefix)}
    return {name: Path(file) for name, module in modules.items() if (file := getattr(module, "__file__", None))}


def described(error: BaseException) -> str:
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
        if trace.tb_frame.f_globals.get("__name__", "").startswith(PREFIX):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _make_package(name: str, folder: Path) -> None:
    """A package for the folder, so that a tool may import its neighbours: ``from ._shared import parse``."""
    if name not in sys.modules:
        package = ModuleType(name, f"Tools of {folder}.")
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Loader(importlib.machinery.SourceFileLoader):
    """Reads source alone: compiled files have a time of whole seconds, and would litter the folder."""

    def __init__(self, name: str, path: str, source: bytes | None = None) -> None:
        super().__init__(name, path)
        self._source = source

    def path_stats(self, path: str) -> Mapping[str, object]:
        raise OSError("not cached")

    def get_data(self, path: str) -> bytes:
        """The source that was given, or the file's."""
        return super().get_data(path) if self._source is None else self._source


class _Finder:
    """Finds the neighbours of tools, for the same loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Where a module of a folder of tools is; None for everybody else's."""
        if not name.startswith(PREFIX) or not path:
            return None
        for folder in path:
            base = Path(folder, name.rpartition(".")[2])
            for file, inner in ((base / "__init__.py", [str(base)]), (base.with_name(f"{base.name}.py"), None)):
                if file.is_file():
                    loader = _Loader(name, str(file))
                    return importlib.util.spec_from_file_location(name, file, loader=loader, submodule_search_locations=inner)
        return None
