"""Executors and clients that are not installed: files in a folder, named without being imported."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from treadle._plugins._entry_points import Claim, MetadataFault

LOCAL = "local"
"""What stands in the place of a distribution."""

_MARKS = {"executor": "treadle.executors", "client": "treadle.clients"}


def read_folder(folder: Path) -> Iterator[Claim | MetadataFault]:
    """The claims of each ``*.py`` in the folder: every function and class under ``@executor("name")`` or ``@client("name")``.

    The name must be written as a plain text, since the files are only parsed. Files whose name starts with ``_`` are left out.
    """
    if not folder.is_dir():
        yield MetadataFault(LOCAL, f"[plugins] folder {str(folder)!r} does not exist")
        return
    for file in sorted(folder.glob("[!_]*.py")):
        try:
            tree = ast.parse(file.read_text(encoding="utf-8-sig"), str(file))
        except UnicodeDecodeError:
            yield MetadataFault(LOCAL, f"{file.parent.name}/{file.name} is not UTF-8")
            continue
        except (OSError, SyntaxError, ValueError, RecursionError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            yield MetadataFault(LOCAL, f"{file.parent.name}/{file.name}{line} cannot be read ({error.args[0]})")
            continue
        yield from _marked(tree, file)


def _marked(tree: ast.Module, file: Path) -> Iterator[Claim | MetadataFault]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for mark in node.decorator_list:
            kind = _mark(mark)
            if kind is None or not isinstance(mark, ast.Call):
                continue
            name = _name(mark)
            if name is None:
                why = f"{file.parent.name}/{file.name}:{node.lineno} the name in @{kind}(...) must be a plain text"
                yield MetadataFault(LOCAL, why)
            else:
                yield Claim(_MARKS[kind], name, _module(file), node.name, LOCAL, file=file)


def _mark(decorator: ast.expr) -> str | None:
    """``executor`` or ``client`` when the decorator is one of ours, also as ``treadle.executor``."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name if name in _MARKS else None


def _name(mark: ast.Call) -> str | None:
    """The name in the decorator, as its first argument or as ``name=``."""
    values = [*mark.args[:1], *(word.value for word in mark.keywords if word.arg == "name")]
    first = values[0] if values else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _module(file: Path) -> str:
    """A module name that no installed module has, and no file of the same name in another folder."""
    digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]
    return f"treadle_local_{digest}_{file.stem}"
