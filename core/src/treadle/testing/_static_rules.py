"""The rules that look at an executor without running it."""

from __future__ import annotations

import functools
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import cast

from treadle._bind import BoundExecutor
from treadle._contracts import ContractError, contract_for, summary
from treadle._executor import executor_mark
from treadle._models import Json
from treadle._plugins import Registry
from treadle.errors import TreadleError
from treadle.testing._subject import Subject, is_local

IMPORT_LIMIT_S = 0.15
"""Processor time that importing an executor's module may take on a fast machine, beyond that of treadle itself."""

IMPORT_SHARE = 1.5
"""The same in relation to importing treadle: what counts on a slow one."""

_IMPORT_TRIES = 3
_IMPORT_TIMEOUT_S = 60.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+")


def name_problems(subject: Subject, backend: str) -> Iterator[str]:
    """The name has a namespace, and the mark says the same as the entry point."""
    mark = executor_mark(subject.executor)
    if mark is None and not isinstance(subject.executor, BoundExecutor):
        yield "It has no mark @executor(...), so its name is known only to its entry point."
    elif mark is not None and mark.name != subject.name:
        yield f"Its entry point calls it {subject.name!r}, its mark @executor({mark.name!r})."
    if not _NAME.fullmatch(subject.name):
        yield f"{subject.name!r} is no name of the form namespace.verb, so other distributions may well claim it too."


def doc_problems(subject: Subject, backend: str) -> Iterator[str]:
    """The docstring begins with a sentence."""
    said = summary(subject.bound.doc)
    if not said:
        yield "It has no docstring."
    elif len(said.split()) < 3 or said[-1] not in ".!?":
        yield f"Its docstring begins with {said!r}, which is no sentence."


def type_problems(subject: Subject, backend: str) -> Iterator[str]:
    """Every input and the output have a type."""
    if isinstance(subject.executor, BoundExecutor):
        return  # its source says what its types are
    function = subject.executor.execute if isinstance(subject.executor, type) else subject.executor  # type: ignore[attr-defined]  # bound
    signature = inspect.signature(inspect.unwrap(cast("Callable[..., object]", function)))
    inputs = {each.name for each in subject.bound.inputs}
    for parameter in signature.parameters.values():
        if parameter.name in inputs and parameter.annotation is parameter.empty:
            yield f"The input {parameter.name!r} has no type."
    if signature.return_annotation is signature.empty:
        yield "What it returns has no type."


def schema_problems(subject: Subject, backend: str) -> Iterator[str]:
    """Schemas are JSON; defaults and examples fit; what is given comes back from the declared types as it was."""
    for what, schema in (("inputs", subject.bound.input_schema()), ("output", subject.bound.output_schema())):
        try:
            json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"The schema of its {what} is not JSON: {error}."
    yield from _default_problems(subject.bound)
    for example in subject.examples:
        yield from _example_problems(subject.bound, example)


def _default_problems(bound: BoundExecutor) -> Iterator[str]:
    for each in bound.inputs:
        if not each.required:
            try:
                contract_for(each.type_).unstructure(each.default)
            except ContractError as error:
                yield f"The default of the input {each.name!r} does not fit its type: {'; '.join(map(str, error.issues))}."


def _example_problems(bound: BoundExecutor, example: Mapping[str, Json]) -> Iterator[str]:
    faults = bound.input_faults(example)
    yield from (f"The example {dict(example)!r} does not fit: {fault}." for fault in faults)
    types = {each.name: each.type_ for each in bound.inputs}
    for name, value in example.items() if not faults else ():
        contract = contract_for(types.get(name, object))
        try:
            back = contract.unstructure(contract.structure(value))
        except ContractError as error:
            yield f"The input {name!r} does not come back from its type: {'; '.join(map(str, error.issues))}."
            continue
        if not _is_kept(value, back):
            yield f"The input {name!r} goes in as {value!r} and comes back as {back!r}."


def _is_kept(value: Json, back: Json) -> bool:
    """Whether everything in ``value`` is in ``back``; a type may add what it fills in itself."""
    if isinstance(value, Mapping):
        return isinstance(back, Mapping) and all(key in back and _is_kept(item, back[key]) for key, item in value.items())
    if isinstance(value, list):
        return isinstance(back, list) and len(value) == len(back) and all(map(_is_kept, value, back))
    return value == back


def entry_point_problems(subject: Subject, backend: str) -> Iterator[str]:
    """The installed entry point of its name leads to this very object. Nothing to say of what nobody installed."""
    claim, owner = subject.claim, subject.owner
    if is_local(subject) or isinstance(subject.executor, BoundExecutor):
        return
    module, attribute = (str(getattr(subject.executor, each, "?")) for each in ("__module__", "__qualname__"))
    line = f'"{subject.name}" = "{module}:{attribute}"'
    if claim is None:
        named = owner.metadata["Name"] if owner else ""
        yield f"{named} holds it, but has no entry point of its name; it needs {line}."
        return
    try:
        found = Registry.discover(subject.config).load(claim)
    except TreadleError as error:
        yield f"Its entry point {claim.value} cannot be loaded: {error.problem}"
        return
    if found is not subject.executor:
        yield f"The entry point {subject.name!r} of {claim.distribution} leads to {claim.value}, not to it; it needs {line}."


# -- imports -----------------------------------------------------------------------------------------------------------

_MEASURE = """
import json, sys, time
request = json.loads(sys.stdin.read())
sys.path[:] = request["path"]
begun = time.process_time()
import treadle, treadle.errors, treadle.hookspecs, treadle.ports
from treadle import Context, Registry, client, executor
core = time.process_time()
import importlib.util, threading
before, threads = set(sys.modules), threading.active_count()
out, sys.stdout = sys.stdout, sys.stderr
begun_module = time.process_time()
if request["file"]:
    spec = importlib.util.spec_from_file_location(request["module"], request["file"])
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
else:
    importlib.import_module(request["module"])
ended = time.process_time()
new = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
packages = [name for name in new if name not in sys.stdlib_module_names]
out.write(json.dumps([core - begun, ended - begun_module, packages, threading.active_count() - threads]))
"""


def import_problems(subject: Subject, backend: str) -> Iterator[str]:
    """Importing its module costs little processor time and starts no thread.

    Processor time, not time on the wall, so that a busy machine does not matter; the limit grows with what importing treadle
    costs there, so that a slow one does not either.
    """
    if subject.is_in_test or isinstance(subject.executor, BoundExecutor):
        return
    module = str(getattr(subject.executor, "__module__", ""))
    file = str(subject.claim.file or "") if subject.claim else ""
    core_s, own_s, packages, threads, why = _import_cost(module, file)
    limit_s = max(IMPORT_LIMIT_S, IMPORT_SHARE * core_s)
    if why and not is_local(subject):
        yield f"Its module {module} cannot be imported on its own: {why}"
    elif own_s > limit_s:
        others = ", ".join(name for name in packages if name != module.partition(".")[0]) or "only its own modules"
        cost = f"{own_s * 1000:.0f} ms of the processor, more than {limit_s * 1000:.0f}"
        yield f"Importing {module} takes {cost}: it imports {others}."
    if threads > 0:
        yield f"Importing {module} starts {threads} thread(s)."


@functools.cache
def _import_cost(module: str, file: str) -> tuple[float, float, tuple[str, ...], int, str]:
    """Seconds for treadle and for the module, the packages it brought, the threads it started; and why there is no answer.

    A cost above the limit is measured again: the least of a few is what the import needs.

    Args:
        module: Its name.
        file: The file of a module that cannot be imported by name; else empty.
    """
    best: tuple[float, float, tuple[str, ...], int, str] = (0.0, 0.0, (), 0, "it was not tried")
    for number in range(_IMPORT_TRIES):
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", _MEASURE],
                input=json.dumps({"path": sys.path, "module": module, "file": file}),
                capture_output=True,
                text=True,
                timeout=_IMPORT_TIMEOUT_S,
                check=False,
            )
            core_s, own_s, packages, threads = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            return 0.0, _IMPORT_TIMEOUT_S, (), 0, f"it takes over {_IMPORT_TIMEOUT_S:g} s."
        except ValueError:  # it printed no answer
            return 0.0, 0.0, (), 0, done.stderr.strip().rpartition("\n")[2]
        if number == 0 or own_s < best[1]:
            best = (core_s, own_s, tuple(packages), threads, "")
        if best[1] <= IMPORT_LIMIT_S:
            break
    return best
