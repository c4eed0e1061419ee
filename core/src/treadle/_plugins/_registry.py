"""The registry: what is there by name, loaded on demand, each thing once however many threads ask."""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import attrs

from treadle._bind import BoundExecutor, bind
from treadle._config import Config, Table, load_config
from treadle._executor import Executor, client_mark, executor_mark
from treadle._origin import Origin
from treadle._plugins import _settings
from treadle._plugins._entry_points import GROUPS, KINDS, Claim, MetadataFault, normalise, scan
from treadle._plugins._hooks import hook_deprecations, hook_faults
from treadle._plugins._importing import entered, load
from treadle._plugins._local import LOCAL, read_folder
from treadle._policy_keys import POLICIES
from treadle._secrets import Secret
from treadle.errors import (
    ConfigInvalidError,
    ExecutorNotFoundError,
    PluginBlockedError,
    PluginBrokenError,
    PluginConflictError,
    PluginNotFoundError,
    TreadleError,
)

_log = logging.getLogger("treadle.plugins")
_T = TypeVar("_T")

GIVEN = "python"
"""What stands in the place of a distribution for objects that were handed to ``Registry.of``."""

_ANY = ".*"
"""How the name of a source ends: ``tool.*`` provides every ``tool.NAME``."""


@attrs.frozen
class PluginEntry:
    """One name that a plugin provides, as its metadata says.

    Attributes:
        group: Entry-point group, like ``treadle.executors``.
        name: The name that users write.
        distribution: Who provides it; ``local`` for the folder of the configuration, ``python`` for what code handed over.
        version: Version of the distribution; may be empty.
        value: ``module:attribute``.
        status: ``ok``, ``blocked``, ``conflict`` (several claim the name), or ``overruled`` (``prefer`` chose another).
    """

    group: str
    name: str
    distribution: str
    version: str
    value: str
    status: str


@runtime_checkable
class ExecutorSource(Protocol):
    """What an entry point such as ``"tool.*"`` points to, or makes when called with the configuration."""

    def names(self) -> Iterable[str]:
        """The full names that it provides, like ``tool.count``."""

    def get(self, name: str) -> object:
        """The executor of that full name; a LookupError (an error of treadle with its own words, or any) when there is none."""


class _Once(Generic[_T]):
    """A value that is made on first use, once even when several threads ask together; an error of treadle is kept too."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._lock = threading.RLock()
        self._value: list[_T] = []
        self._error: TreadleError | None = None

    def get(self) -> _T:
        with self._lock:
            if not self._value and self._error is None:
                try:
                    self._value.append(self._make())
                except TreadleError as error:
                    self._error = error
            if self._error is not None:
                # A copy: an exception that is raised again and again gathers tracebacks.
                raise copy.copy(self._error) from self._error.__cause__
            return self._value[0]


class Registry:
    """Executors, clients, policies and the rest, by name.

    ``discover`` and ``of`` make one. Nothing is imported before it is asked for. All methods may be called from any thread.

    Attributes:
        config: The configuration that holds.
        faults: What could not be read while looking for plugins.
        on_import: Called with a name and its distribution when importing it takes over a second, while it still runs.
    """

    def __init__(self, config: Config, claims: Sequence[Claim] = (), faults: Sequence[MetadataFault] = ()) -> None:
        self.config = config
        self.faults = tuple(faults)
        self.on_import: Callable[[str, str], None] = _announce
        self._blocked = {normalise(name) for name in config.plugins.block}
        self._claims: dict[tuple[str, str], list[Claim]] = defaultdict(list)
        for claim in claims:
            self._claims[claim.group, claim.name].append(claim)
        self._lock = threading.Lock()
        self._made: dict[object, _Once[object]] = {}
        self._from_sources: dict[str, tuple[object, BoundExecutor | None]] = {}
        self._secrets: dict[str, Secret] = {}

    @property
    def workflow_folder(self) -> Path | None:
        """Where subflows are looked up by name; None for nowhere."""
        folder = self.config.workflows.get("folder")
        return self.config.root / folder if isinstance(folder, str) else None

    @classmethod
    def discover(cls, config: Config | None = None) -> Registry:
        """What is installed, and what lies in the folder of the configuration, known by name; nothing is imported.

        Args:
            config: The configuration; that of the working directory when None.
        """
        config = load_config() if config is None else config
        found = scan() if config.plugins.enabled else None
        claims = list(found.claims) if found else []
        faults = list(found.faults) if found else []
        if config.plugins.folder is not None:
            for local in read_folder(config.root / config.plugins.folder):
                (claims if isinstance(local, Claim) else faults).append(local)  # type: ignore[arg-type] # split by type
        return cls(config, claims, faults)

    @classmethod
    def of(
        cls, *executors: object, clients: Iterable[object] = (), policies: Iterable[object] = (), config: Config | None = None
    ) -> Registry:
        """A registry of these objects alone.

        Args:
            executors: Functions and classes marked with ``@executor``.
            clients: Classes marked with ``@client`` (made with the settings of ``config``), or instances of them.
            policies: Instances with hook implementations; all are active.
            config: For settings and secrets; empty when None.
        """
        registry = cls(Config() if config is None else config)
        registry._give_executors(executors)
        for one in clients:
            name = client_mark(one if isinstance(one, type) else type(one))
            registry._give("treadle.clients", name.name if name else getattr(one, "__name__", type(one).__name__), one)
        names = [registry._give("treadle.policies", f"policy {n}", policy) for n, policy in enumerate(policies, 1)]
        registry.config = attrs.evolve(
            registry.config, plugins=attrs.evolve(registry.config.plugins, policies=(*registry.config.plugins.policies, *names))
        )
        return registry

    def knowing(
        self, *marked: object, executors: Mapping[str, object] | None = None, clients: Mapping[str, object] | None = None
    ) -> Registry:
        """The same with these too; they win over what is installed by that name.

        Args:
            marked: Functions and classes marked with ``@executor``.
            executors: Name -> function or class, marked or not.
            clients: Name -> an instance with ``open()``, instead of one made with the settings of the configuration.
        """
        more = Registry(self.config, self.claims(), self.faults)
        more.on_import = self.on_import
        with self._lock:
            more._made = dict(self._made)  # what was imported or made stays one thing
        more._give_executors(marked)
        for name, one in (executors or {}).items():
            more._give("treadle.executors", name, one)
        for name, one in (clients or {}).items():
            more._give("treadle.clients", name, one)
        more.config = attrs.evolve(
            self.config, clients={k: v for k, v in self.config.clients.items() if k not in (clients or {})}
        )
        return more

    def _give_executors(self, executors: Iterable[object]) -> None:
        for marked in executors:
            mark = executor_mark(marked)
            self._give("treadle.executors", mark.name if mark else getattr(marked, "__name__", repr(marked)), marked)

    def _give(self, group: str, name: str, given: object) -> str:
        claim = Claim(group, name, getattr(given, "__module__", ""), getattr(given, "__qualname__", ""), GIVEN)
        self._claims[group, name] = [claim]
        self._made[claim] = _Once(lambda: given)
        self._made.pop(("bound", claim), None)  # of another object that was defined in the same place
        return name

    # -- what is there -------------------------------------------------------------------------------------------------

    def entries(self, group: str | None = None) -> list[PluginEntry]:
        """Every name of one group, or of all, sorted; from metadata alone."""
        return [
            PluginEntry(claim.group, claim.name, claim.distribution, claim.version, claim.value, self.status(claim))
            for claim in self.claims(group)
        ]

    def claims(self, group: str | None = None) -> list[Claim]:
        """Who claims the names of one group, or of all, in the order of ``entries``."""
        found = [claim for claims in self._claims.values() for claim in claims if group in (None, claim.group)]
        return sorted(found, key=lambda claim: (GROUPS.index(claim.group), claim.name, claim.distribution))

    def status(self, claim: Claim) -> str:
        """``ok``, ``blocked``, ``conflict`` or ``overruled``, see PluginEntry."""
        if self._is_blocked(claim):
            return "blocked"
        rivals = self.rivals(claim)
        if len(rivals) == 1:
            return "ok"
        chosen = self._preferred(rivals)
        return "conflict" if chosen is None else "ok" if claim is chosen else "overruled"

    def rivals(self, claim: Claim) -> list[Claim]:
        """Everybody who claims the same name and is not blocked, itself included."""
        claims = self._claims.get((claim.group, claim.name), [])
        return sorted((each for each in claims if not self._is_blocked(each)), key=lambda rival: rival.distribution)

    def names(self, group: str) -> list[str]:
        """The names of a group that can be used, sorted; of a source only its own, like ``tool.*``."""
        return sorted({claim.name for claim in self.claims(group) if not self._is_blocked(claim)})

    def _is_blocked(self, claim: Claim) -> bool:
        return normalise(claim.distribution) in self._blocked

    def _preferred(self, rivals: Sequence[Claim]) -> Claim | None:
        wanted = normalise(self.config.plugins.prefer.get(rivals[0].name, ""))
        return next((claim for claim in rivals if normalise(claim.distribution) == wanted), None)

    def claim(self, group: str, name: str) -> Claim | None:
        """Who provides a name; None when nobody claims it.

        Raises:
            PluginBlockedError: Everybody who claims it is blocked.
            PluginConflictError: Several claim it, and ``prefer`` does not choose.
        """
        claims = self._claims.get((group, name), [])
        if not claims:
            return None
        rivals = self.rivals(claims[0])
        if not rivals:
            raise PluginBlockedError(name, claims[0].distribution)
        chosen = rivals[0] if len(rivals) == 1 else self._preferred(rivals)
        if chosen is None:
            raise PluginConflictError(group, name, [claim.distribution for claim in rivals])
        return chosen

    # -- loading -------------------------------------------------------------------------------------------------------

    def load(self, claim: Claim) -> object:
        """The object that a claim points to, imported on first use.

        Raises:
            PluginBrokenError: It cannot be had.
        """
        return self._once(claim, lambda: load(claim, on_import=self._slow))

    def _once(self, key: object, make: Callable[[], _T]) -> _T:
        with self._lock:
            once = self._made.setdefault(key, _Once(make))
        return once.get()  # type: ignore[return-value] # each key has one kind of value

    def _slow(self, name: str, distribution: str) -> None:
        self.on_import(name, distribution)

    def executor(self, name: str) -> BoundExecutor:
        """The executor that a workflow names after ``uses``, imported and bound on first use.

        Raises:
            ExecutorNotFoundError: Nothing provides it.
            PluginError: It is blocked, in conflict, broken, or defined in a way that cannot work.
        """
        claim = self.claim("treadle.executors", name)
        if claim is not None and not name.endswith(_ANY):
            return self._once(("bound", claim), lambda: self._bind(claim, name, self.load(claim)))
        source = self._source(name)
        if source is None:
            raise self._no_executor(name, ())
        return self._from_source(source, name)

    def _bind(self, claim: Claim, name: str, found: object) -> BoundExecutor:
        mark = executor_mark(found)
        family = self.family(mark.family) if mark else None
        # What was handed over and what a source makes is found by where it was defined, the rest by its entry point.
        is_named = claim.distribution != GIVEN and not claim.name.endswith(_ANY)
        origin = Origin(claim.module, claim.attribute, str(claim.file or "")) if is_named else None
        return bind(name, found, distribution=claim.distribution, version=claim.version, family=family, origin=origin)

    def _rebound(self, claim: Claim, name: str, source: ExecutorSource, found: object) -> BoundExecutor:
        """What a source gave, bound again only when it is another object than the last time: its files may have changed.

        A source may have a ``family`` (a class) and an ``isolation`` for what says nothing itself.
        """
        with self._lock:
            known, bound = self._from_sources.get(name, (None, None))
        # Methods are made anew for whoever asks.
        is_same = known is found or (inspect.ismethod(found) and known == found)
        if bound is None or not is_same:
            if executor_mark(found) is None:
                family = getattr(source, "family", None)
                bound = bind(name, found, distribution=claim.distribution, version=claim.version, family=family)
                bound = attrs.evolve(bound, isolation=getattr(source, "isolation", None))
            else:
                bound = self._bind(claim, name, found)
            with self._lock:
                self._from_sources[name] = found, bound
        return bound

    def _no_executor(self, name: str, more: Iterable[str]) -> ExecutorNotFoundError:
        known = sorted({*self.names("treadle.executors"), *more})
        return ExecutorNotFoundError(name, known, suggestion=_nearest(name, known), note=self._hidden())

    def _hidden(self) -> str:
        """Why a plugin that is installed may not have been found, as a sentence; mostly empty."""
        if not self.config.plugins.enabled:
            return "Plugins are switched off by TREADLE_PLUGINS=none."
        if self.faults:
            return f"Not readable: {'; '.join(f'{fault.distribution}: {fault.why}' for fault in self.faults)}."
        return ""

    def _source(self, name: str) -> Claim | None:
        """The source that is asked for a name: the one with the longest prefix of it."""
        parts = name.split(".")
        for length in range(len(parts) - 1, 0, -1):
            claim = self.claim("treadle.executors", ".".join(parts[:length]) + _ANY)
            if claim is not None:
                return claim
        return None

    def _from_source(self, claim: Claim, name: str) -> BoundExecutor:
        source = self.source(claim)
        with entered(claim, on_import=self._slow, doing=f"getting {name!r}"):
            try:
                return self._rebound(claim, name, source, source.get(name))
            except LookupError as error:
                if isinstance(error, TreadleError):
                    raise  # the source says it in its own words
                names = [str(one) for one in source.names()]
                if name in names:
                    raise  # it has the name, so this is a fault of its code
        raise self._no_executor(name, names)

    def source(self, claim: Claim) -> ExecutorSource:
        """The source of a claim such as ``tool.*``; a class or function is called once with the configuration."""
        return self._once(("source", claim), lambda: self._make_source(claim))

    def _make_source(self, claim: Claim) -> ExecutorSource:
        found = self.load(claim)
        if isinstance(found, type) or not isinstance(found, ExecutorSource):
            if not callable(found):
                raise PluginBrokenError(claim.name, claim.distribution, "it is no source: it has no names() and get(name)")
            with entered(claim, on_import=self._slow, doing="making its source"):
                found = found(self.config)
        if not isinstance(found, ExecutorSource):
            raise PluginBrokenError(claim.name, claim.distribution, "it makes no source: no names() and get(name)")
        return found

    def family(self, name: str) -> type[Executor] | None:
        """The base class of a family; None for ``general``, which core holds.

        Raises:
            PluginNotFoundError: Nothing provides it.
            PluginError: It is blocked, in conflict or broken.
        """
        if name == Executor.family:
            return None
        claim = self._found("treadle.families", name)
        found = self.load(claim)
        if not isinstance(found, type) or not issubclass(found, Executor):
            raise PluginBrokenError(name, claim.distribution, "it is not a class derived from treadle.Executor")
        return found

    def client(self, name: str) -> object:
        """A new instance of the client, with its settings from ``[clients.NAME]``; ``use`` there names another kind.

        Raises:
            PluginNotFoundError: Nothing provides it.
            ConfigInvalidError: Its settings do not fit.
            PluginError: It is blocked, in conflict or broken.
        """
        settings = dict(self.config.clients.get(name, {}))
        claim = self._found("treadle.clients", str(settings.pop("use", name)))
        self.check_client(claim)
        return self._configured(claim, settings, ("clients", name))

    def check_client(self, claim: Claim) -> None:
        """Load a client's class, without making an instance, and see whether it is one.

        Raises:
            PluginBrokenError: It cannot be loaded, or has no ``open``.
        """
        if not callable(getattr(self.load(claim), "open", None)):
            raise PluginBrokenError(claim.name, claim.distribution, "it is not a client: it has no open()")

    def policies(self) -> list[object]:
        """The policies that ``[plugins] policies`` names, in that order; one instance each for the life of the registry.

        Raises:
            PluginNotFoundError: Nothing provides one of them.
            ConfigInvalidError: The settings in ``[policies.NAME]`` do not fit.
            PluginError: One is blocked, in conflict or broken; a misspelt hook is broken too.
        """
        return [self.policy(name) for name in self.config.plugins.policies]

    def policy_gap(self, key: str) -> tuple[str, str]:
        """Why no active policy serves a key of the file, and what to do; empty when one does.

        A policy says in its attribute ``serves`` which keys it serves.
        """
        if any(key in getattr(policy, "serves", ()) for policy in self.policies()):
            return "", ""
        policy, distribution = POLICIES[key]
        activate = f'name it in treadle.toml: [plugins] policies = ["{policy}"]'
        if self.claim("treadle.policies", policy) is None:
            activate = f"pip install {distribution}, then {activate}"
        return f"{key!r} is served by the policy {policy!r}, which is not active", activate

    def policy(self, name: str) -> object:
        """One policy, active or not, with its settings; errors as for ``policies``."""
        claim = self._found("treadle.policies", name)
        return self._once(("policy", claim), lambda: self._make_policy(claim))

    def _make_policy(self, claim: Claim) -> object:
        self.check_hooks(claim)
        return self._configured(claim, self.config.policies.get(claim.name, {}), ("policies", claim.name))

    def check_hooks(self, claim: Claim) -> None:
        """Load a policy, without making an instance, and hold its hooks against the specifications.

        Raises:
            PluginBrokenError: It cannot be loaded, or one of its hooks cannot work.
        """
        found = self.load(claim)
        with entered(claim, on_import=self._slow, doing="looking for its hooks"):
            faults = hook_faults(found)
        if faults:
            raise PluginBrokenError(claim.name, claim.distribution, "; ".join(faults))

    def deprecations(self, claim: Claim) -> list[str]:
        """What the hooks of a policy ask for that a coming version of treadle will no longer give, in sentences."""
        found = self.load(claim)
        with entered(claim, on_import=self._slow, doing="looking for its hooks"):
            return hook_deprecations(found)

    def _configured(self, claim: Claim, settings: Table, path: tuple[str, ...]) -> object:
        """The loaded class with its settings; an instance is taken as it is and takes none."""
        found = self.load(claim)
        if isinstance(found, type):
            with entered(claim, on_import=self._slow, doing="making it"):
                return _settings.make(found, settings, path, self.config, self._secrets.__setitem__)
        if settings:
            raise ConfigInvalidError([self.config.fault(path, f"{claim.name!r} of {claim.distribution} takes no settings")])
        return found

    def secrets(self) -> list[tuple[str, Secret]]:
        """Each setting that is a secret, like ``[clients.http] token``, of what has been made so far."""
        return list(self._secrets.items())

    def store(self, name: str) -> object:
        """What the entry point of a store points to."""
        return self.load(self._found("treadle.stores", name))

    def make_store(self, name: str) -> object:
        """A new instance of a store, with its settings from ``[store]`` when that is the one that it names.

        Raises:
            PluginNotFoundError: Nothing provides it.
            ConfigInvalidError: Its settings do not fit.
            PluginError: It is blocked, in conflict or broken.
        """
        settings = dict(self.config.store)
        if settings.pop("use", name) != name:
            settings = {}  # they are another store's
        return self._configured(self._found("treadle.stores", name), settings, ("store",))

    def engine(self, name: str) -> object:
        """What the entry point of an engine points to."""
        return self.load(self._found("treadle.engines", name))

    def tracing(self, name: str) -> object:
        """What the entry point of a tracing set-up points to."""
        return self.load(self._found("treadle.tracing", name))

    def trigger(self, name: str) -> object:
        """What the entry point of a trigger points to."""
        return self.load(self._found("treadle.triggers", name))

    def command(self, name: str) -> object:
        """What the entry point of a command points to."""
        return self.load(self._found("treadle.commands", name))

    def _found(self, group: str, name: str) -> Claim:
        claim = self.claim(group, name)
        if claim is None:
            known = self.names(group)
            raise PluginNotFoundError(KINDS[group], name, known, suggestion=_nearest(name, known), note=self._hidden())
        return claim


def _nearest(name: str, known: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(name, known, n=1)), "")


def _announce(name: str, distribution: str) -> None:
    who = distribution if distribution != LOCAL else "the local folder"
    _log.warning("importing %s (%s)", name, who)
