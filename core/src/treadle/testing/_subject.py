"""What the kit judges: an executor with all that its author says of it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import attrs

from treadle._bind import BoundExecutor
from treadle._config import Config, load_config
from treadle._executor import executor_mark
from treadle._models import Json
from treadle._plugins import Claim, Registry
from treadle.errors import TreadleError

EXECUTORS = "treadle.executors"

UNKNOWN = object()
"""Stands for an output that the author did not foretell."""


class TrialRegistry(Registry):
    """What is installed, with an executor, clients and policies of a trial in the place of those of the same names."""

    trial_clients: Mapping[str, object] = {}
    trial_policies: Sequence[object] = ()

    def put(self, executor: object, name: str) -> None:
        """Let a name stand for this very object."""
        self._give(EXECUTORS, name, executor)

    def client(self, name: str) -> object:
        """One of the trial's; nothing else is opened in a trial."""
        if name not in self.trial_clients:
            raise TreadleError(f"The trial has no client {name!r}.", "Add a fake of it to 'clients'.")
        return self.trial_clients[name]

    def policies(self) -> list[object]:
        """The trial's own alone: what a configuration adds is not the executor's doing."""
        return list(self.trial_policies)


@attrs.define(eq=False)
class Subject:
    """An executor under test.

    Attributes:
        executor: The function or class; a bound one when it comes from a source such as ``tool.*``.
        bound: The same, bound.
        examples: Inputs that must work.
        bad_example: Inputs that the executor must refuse; None when its author gave none.
        clients: Need -> client, or the very object that executors receive.
        expected: What the first example must give; UNKNOWN when its author did not say.
        effects_seen: What the executor has done so far, as its author can see it; None when there is no way.
        prepare: Lays into an empty folder what the examples need; it is the working directory then.
        grace_s: How long after its deadline it may still run, and after its end its threads.
        claim: The installed entry point of its name.
        owner: The installed distribution whose files hold its module.
        is_in_test: Its module is the test itself, which nobody imports to run a workflow.
        config: Configuration of every trial; that of the prepared folder when None.
        usual: Backend -> the run of the first example, kept by the rules.
    """

    executor: object
    bound: BoundExecutor
    examples: tuple[Mapping[str, Json], ...] = ()
    bad_example: Mapping[str, Json] | None = None
    clients: Mapping[str, object] = attrs.field(factory=dict)
    expected: object = UNKNOWN
    effects_seen: Callable[[], object] | None = None
    prepare: Callable[[Path], None] = lambda folder: None
    grace_s: float = 3.0
    claim: Claim | None = None
    owner: metadata.Distribution | None = None
    is_in_test: bool = False
    config: Config | None = None
    usual: dict[str, object] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        """Its name."""
        return self.bound.name

    @property
    def gap(self) -> str:
        """Why it cannot be run, as a sentence; empty when it can."""
        if not self.examples and self.bound.effects == "unsafe":
            return "It declares effects='unsafe', so it is only run with inputs from a test of its author."
        if not self.examples:
            return "There is no example of its inputs: set 'example', or declare @executor(..., examples=...)."
        missing = [need.name for need in self.bound.needs if need.name not in self.clients]
        if missing:
            return f"There is no fake of the client {', '.join(map(repr, missing))}: add one to 'clients'."
        return ""

    def registry(self, config: Config) -> TrialRegistry:
        """A registry in which its name stands for it."""
        registry = TrialRegistry.discover(config)
        assert isinstance(registry, TrialRegistry), "discover makes one of its own class"
        if not isinstance(self.executor, BoundExecutor):
            registry.put(self.executor, self.name)
        return registry


def make_subject(
    executor: object,
    *,
    examples: Sequence[Mapping[str, Json]] = (),
    bad_example: Mapping[str, Json] | None = None,
    clients: Mapping[str, object] | None = None,
    expected: object = UNKNOWN,
    effects_seen: Callable[[], object] | None = None,
    prepare: Callable[[Path], None] = lambda folder: None,
    grace_s: float = 3.0,
    tested_in: str = "",
) -> Subject:
    """An executor as its author's test hands it over.

    Args:
        executor: The function or class.
        examples: Inputs that must work; those that it declares when empty. Without inputs none are needed.
        bad_example: Inputs that it must refuse.
        clients: Need -> client.
        expected: What the first example must give.
        effects_seen: What it has done so far.
        prepare: Lays what the examples need into a folder.
        grace_s: How long after its deadline it may still run.
        tested_in: Module of the test.

    Raises:
        BindError: It cannot work at all.
    """
    registry = TrialRegistry.discover(load_config())
    assert isinstance(registry, TrialRegistry), "discover makes one of its own class"
    mark = executor_mark(executor)
    name = mark.name if mark else str(getattr(executor, "__name__", repr(executor)))
    claim = registry.claim(EXECUTORS, name)
    registry.put(executor, name)
    bound = registry.executor(name)
    module = str(getattr(executor, "__module__", ""))
    return Subject(
        executor=executor,
        bound=bound,
        examples=tuple(examples) or bound.examples or none_needed(bound),
        bad_example=bad_example,
        clients=dict(clients or {}),
        expected=expected,
        effects_seen=effects_seen,
        prepare=prepare,
        grace_s=grace_s,
        claim=claim,
        owner=owner_of(module),
        is_in_test=module == tested_in,
    )


def none_needed(bound: BoundExecutor) -> tuple[Mapping[str, Json], ...]:
    """The example of an executor that can do without inputs: none."""
    return () if any(each.required for each in bound.inputs) else ({},)


@functools.cache
def owner_of(module: str) -> metadata.Distribution | None:
    """The installed distribution whose files hold a module; None for one of nobody, such as a test."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file:
        return None
    path = module.replace(".", "/")
    for distribution in metadata.distributions():
        record = distribution.read_text("RECORD") or ""
        if f"{path}.py," in record or f"{path}/__init__.py," in record or _is_linked(distribution, record, Path(file)):
            return distribution
    return None


def _is_linked(distribution: metadata.Distribution, record: str, file: Path) -> bool:
    """Whether an editable installation leads to the file: its ``.pth`` names the folder."""
    for line in record.splitlines():
        name = line.partition(",")[0]
        if name.endswith(".pth") and "/" not in name:
            folders = (distribution.read_text(f"../{name}") or "").splitlines()
            if any(folder and file.is_relative_to(folder) for folder in folders):
                return True
    return False


def floor_of(subject: Subject) -> str:
    """The oldest core that the executor's distribution declares, like ``0.1``; empty when it declares none."""
    # Imported here: only the kit and the doctor need it, and it is not free.
    from packaging.requirements import InvalidRequirement, Requirement

    distribution = subject.claim.metadata if subject.claim else subject.owner
    for text in (distribution.requires or []) if distribution else []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name == "treadle":
            floors = [part.version for part in requirement.specifier if part.operator in (">=", "~=", "==")]
            return floors[0] if floors else ""
    return ""


def is_local(subject: Subject) -> bool:
    """Whether nobody installed it: its entry point, if any, is none of a distribution's."""
    return subject.owner is None and (subject.claim is None or subject.claim.metadata is None)
