"""What ``-i key=value`` and ``--inputs FILE`` say, as values of the types that the workflow declares."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from treadle._app import check_inputs
from treadle._expressions._operations import kind_of
from treadle._workflow import InputSpec, Workflow
from treadle._workflow._documents import read_document
from treadle.errors import Fault, InputsInvalidError

_FORMATS = {".json": "json", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml"}
_EXAMPLES = {"array": '-i key=\'["a", "b"]\'', "object": "-i key='{\"a\": 1}'", "boolean": "-i key=true"}


def gather(
    workflow: Workflow, pairs: Sequence[str], files: Sequence[str], given: Mapping[str, object] | None = None
) -> dict[str, object]:
    """The inputs of a run: those of the files, then the single ones over them.

    Args:
        workflow: Declares the types.
        pairs: ``key=value`` or ``key=@file`` each; ``key=@@text`` is a text that begins with ``@``.
        files: JSON, YAML or TOML files that each hold an object; ``-`` is JSON from stdin.
        given: What holds where neither says anything.

    Raises:
        InputsInvalidError: With everything that cannot be read, is missing, not declared or of another type, at once.
    """
    faults: list[Fault] = []
    values: dict[str, object] = dict(given or {})
    for file in files:
        _merge(values, file, faults)
    named: set[str] = set()
    for pair in pairs:
        _add(values, named, pair, workflow.inputs, faults)
    faults.extend(_undeclared(values, workflow.inputs))
    told = {*named, *(fault.path for fault in faults)}
    declared = {name: value for name, value in values.items() if name in workflow.inputs}
    try:
        check_inputs(workflow, declared)
    except InputsInvalidError as error:
        # An input that could not be read is not missing too.
        faults.extend(fault for fault in error.faults if fault.path in declared or fault.path not in told)
    if faults:
        raise InputsInvalidError(f"workflow {workflow.name or workflow.file}", faults)
    return values


def _merge(values: dict[str, object], file: str, faults: list[Fault]) -> None:
    """Add what a file says to ``values``, or what is wrong with it to ``faults``."""
    suffix = ".json" if file == "-" else Path(file).suffix.lower()
    if suffix not in _FORMATS:
        faults.append(Fault("is neither JSON, YAML nor TOML", path="--inputs", remedy=f"name it {file}.json", file=file))
        return
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        faults.append(Fault(_reason(error), path="--inputs", file=file))
        return
    document = read_document(text, _FORMATS[suffix], file=file)
    if document.faults:
        faults.extend(document.faults)
    elif isinstance(document.data, dict):
        values.update(document.data)
    else:
        faults.append(Fault(f"must hold an object (name: value), not {kind_of(document.data)}", file=file))


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 (byte {error.start})"
    return error.strerror or str(error)


def _add(values: dict[str, object], given: set[str], pair: str, declared: Mapping[str, InputSpec], faults: list[Fault]) -> None:
    key, equals, text = pair.partition("=")
    if not equals or not key:
        faults.append(Fault(f"{pair!r} is not key=value", path="-i", remedy="write -i name=value"))
    elif key in given:
        faults.append(Fault("given twice", path=f"-i {key}", remedy="give each input once"))
    elif key in declared:
        given.add(key)
        try:
            values[key] = typed(key, _text(text), declared[key].type)
        except (OSError, UnicodeDecodeError) as error:
            faults.append(Fault(f"{text[1:]}: {_reason(error)}", path=f"-i {key}"))
        except ValueError as error:
            faults.append(Fault(str(error), path=f"-i {key}"))
    else:
        given.add(key)
        values[key] = text


def _text(text: str) -> str:
    if text.startswith("@@"):
        return text[1:]
    return Path(text[1:]).read_text("utf-8") if text.startswith("@") else text


def typed(key: str, text: str, type_: str) -> object:
    """``text`` as a value of the declared JSON type: text stays text, everything else is read as JSON.

    Without a declared type it is what JSON makes of it, and the text itself when that is nothing.

    Raises:
        ValueError: With what to write instead.
    """
    if type_ == "string":
        return text
    document = read_document(text, "json")
    if not document.faults:
        return document.data
    if not type_:
        return text
    example = _EXAMPLES.get(type_, "-i key=5").replace("key", key)
    shown = text if len(text) <= 60 else text[:57] + "..."
    raise ValueError(f"{shown!r} is not {_article(type_)} in JSON; write for example {example}")


def _undeclared(values: Iterable[str], declared: Mapping[str, InputSpec]) -> Iterable[Fault]:
    for key in values:
        if key not in declared:
            close = difflib.get_close_matches(key, declared, 1)
            known = f"did you mean {close[0]!r}?" if close else f"declared inputs: {', '.join(declared) or 'none'}"
            yield Fault("the workflow declares no such input", path=key, remedy=known)


def _article(type_: str) -> str:
    return f"an {type_}" if type_[0] in "aeiou" else f"a {type_}"
