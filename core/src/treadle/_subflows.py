"""Subflows: which workflow a step means by a path or a name, and what is given to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from treadle._loader import SUFFIXES, load_workflow
from treadle._models import Json
from treadle._workflow import Step, Workflow, children_of
from treadle._workflow._reader import suggestion
from treadle.errors import Fault, WorkflowInvalidError

MAX_DEPTH = 10
"""Subflows within each other."""

_RANGE = re.compile(r"\s*(\^|~)\s*(\d+(?:\.\d+)*)\s*")


def with_subflows(workflow: Workflow, folder: Path | None) -> Workflow:
    """The workflow with every subflow that its steps name, and theirs.

    Args:
        workflow: Paths in it are relative to its file.
        folder: Where names are looked up, ``[workflows] folder`` of the configuration; None for nowhere.

    Raises:
        WorkflowInvalidError: With every fault of the references, and of the workflows that they lead to.
    """
    faults: list[Fault] = []
    found = _Search(folder, faults).resolve(workflow, (_name_of(workflow),))
    if faults:
        raise WorkflowInvalidError(faults, name=workflow.name)
    return found


class _Search:
    def __init__(self, folder: Path | None, faults: list[Fault]) -> None:
        self._folder, self._faults = folder, faults
        self._known: dict[Path, Workflow] = {}

    def resolve(self, workflow: Workflow, trail: tuple[str, ...]) -> Workflow:
        used = dict.fromkeys(step.workflow for _, step in _steps_of(workflow) if step.workflow)
        if not used:
            return workflow
        places = {step.workflow: place for place, step in reversed([*_steps_of(workflow)]) if step.workflow}
        found: dict[str, Workflow] = {}
        for name in used:
            try:
                inner = workflow.workflows.get(name)
                own = name if inner is not None else ""
                inner = inner or self._look_up(name, workflow.file)
                found[name] = self._descend(inner, own or _name_of(inner), trail, is_file=not own)
            except _NotFound as problem:
                self._complain(workflow, f"{places[name]}.workflow", problem)
            except WorkflowInvalidError as error:
                if name in workflow.workflows:
                    raise
                self._faults.extend(error.faults)
        return workflow.with_workflows({**workflow.workflows, **found})

    def _descend(self, inner: Workflow, own: str, trail: tuple[str, ...], *, is_file: bool) -> Workflow:
        if is_file and own in trail:
            cycle = " -> ".join([*trail[trail.index(own) :], own])
            raise _NotFound(f"subflows call each other: {cycle}", "a workflow cannot be part of itself")
        if len(trail) > MAX_DEPTH:
            raise _NotFound(f"subflows are nested deeper than {MAX_DEPTH} levels", "flatten some of them")
        return self.resolve(inner, (*trail, own))

    def _complain(self, workflow: Workflow, place: str, problem: _NotFound) -> None:
        line, column = workflow.position(place)
        self._faults.append(Fault(str(problem), place, problem.remedy, workflow.file, line, column))

    def _look_up(self, name: str, file: str) -> Workflow:
        if name.startswith((".", "/", "~")) or name.endswith(tuple(SUFFIXES)):
            path = Path(file).parent / Path(name).expanduser()
            if not path.is_file():
                raise _NotFound(f"there is no file {name!r}", f"looked for {path}")
            return self._load(path)
        wanted, _, versions = name.partition("@")
        if self._folder is None:
            raise _NotFound(f"no subflow is called {name!r}", "write its path, like ./publish.yaml, or set [workflows] folder")
        return self._by_name(wanted.strip(), versions.strip())

    def _load(self, path: Path) -> Workflow:
        path = path.resolve()
        if path not in self._known:
            self._known[path] = load_workflow(_shown(path))
        return self._known[path]

    def _by_name(self, wanted: str, versions: str) -> Workflow:
        """The newest workflow of the folder that has the name, and one of the versions."""
        assert self._folder is not None, "the caller has looked"
        files = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        files = [file for file in files if file.suffix.lower() in SUFFIXES]
        named = [self._load(file) for file in files if re.fullmatch(rf"{re.escape(wanted)}([-@_].*)?", file.stem)]
        named = [workflow for workflow in named if workflow.name == wanted]
        if not named:
            close = suggestion(wanted, {re.split(r"[-@_]\d", file.stem)[0] for file in files})
            raise _NotFound(f"no workflow in {_shown(self._folder)} is called {wanted!r}", close)
        try:
            fitting = [workflow for workflow in named if fits_range(workflow.version, versions)] if versions else named
        except ValueError as error:
            raise _NotFound(str(error), "write it like ^2, ~1.4, >=1,<3 or 1.4.0") from None
        if not fitting:
            there = ", ".join(sorted(workflow.version or "none" for workflow in named))
            raise _NotFound(f"no version of {wanted!r} is in {versions!r}", f"versions: {there}")
        return max(fitting, key=lambda workflow: _order(workflow.version))


class _NotFound(Exception):
    def __init__(self, message: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(message)


def _name_of(workflow: Workflow) -> str:
    return os.path.relpath(workflow.file) if workflow.file else workflow.name


def _shown(path: Path) -> str:
    """A path as people like to read it: relative to where they are, unless that leads far away."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.path.join("..", "..")) else relative


def _steps_of(workflow: Workflow) -> Iterator[tuple[str, Step]]:
    """Every step with its place, however deep in groups."""
    ahead = [(f"steps.{step.id}", step) for step in workflow.steps.values()]
    ahead += [(f"finally.{step.id}", step) for step in workflow.finally_steps.values()]
    for place, step in ahead:  # grows while it is walked
        yield place, step
        ahead += [(f"{place}.{where}", child) for where, child in children_of(step)]


# -- versions --------------------------------------------------------------------------------------------------------------


def fits_range(version: str, versions: str) -> bool:
    """Whether a version is in a range: ``^2``, ``~1.4``, ``>=1,<3``, or a version alone.

    Raises:
        ValueError: It is no range.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # only workflows with versions need it
    from packaging.version import InvalidVersion, Version

    try:
        range_ = SpecifierSet(_as_specifier(versions))
    except InvalidSpecifier:
        raise ValueError(f"{versions!r} is no range of versions") from None
    try:
        return range_.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _as_specifier(versions: str) -> str:
    found = _RANGE.fullmatch(versions)
    if found is None:
        return versions if re.match(r"\s*[<>=!~]", versions) else f"=={versions}"
    numbers = [int(number) for number in found[2].split(".")]
    if found[1] == "~":
        place = min(1, len(numbers) - 1)
    else:  # the first number that is not 0 stays
        place = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
    ceiling = [*numbers[:place], numbers[place] + 1]
    return f">={found[2]},<{'.'.join(map(str, ceiling))}"


def _order(version: str) -> tuple[bool, object]:
    from packaging.version import InvalidVersion, Version  # the same

    try:
        return True, Version(version)
    except InvalidVersion:
        return False, version


# -- inputs ----------------------------------------------------------------------------------------------------------------


def input_faults(workflow: Workflow, known: Mapping[str, Json], unknown: set[str]) -> Iterator[Fault]:
    """What is wrong with the inputs of a workflow, as far as they are known; each fault's path is the name."""
    for name in [*known, *sorted(unknown)]:
        if name not in workflow.inputs:
            listed = ", ".join(workflow.inputs) or "none"
            yield Fault("the workflow has no such input", name, suggestion(name, workflow.inputs) or f"known: {listed}")
    for name, spec in workflow.inputs.items():
        if name in known:
            problem = type_fault(known[name], spec.type)
            if problem:
                yield Fault(problem, name)
        elif spec.required and name not in unknown:
            yield Fault("is required", name, f"give it: {name}: ...")


def filled(workflow: Workflow, given: Mapping[str, Json]) -> dict[str, Json]:
    """Inputs that have no fault, with the defaults of the others."""
    return {name: given.get(name, spec.default) for name, spec in workflow.inputs.items()}


_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def type_fault(value: Json, declared: str) -> str:
    """What is wrong with a value of a declared JSON type; empty when nothing is."""
    types = _JSON_TYPES.get(declared)
    if types is None or (isinstance(value, types) and not (isinstance(value, bool) and declared in ("integer", "number"))):
        return ""
    shown = "null" if value is None else type(value).__name__
    return f"must be {declared}, not {shown}"
