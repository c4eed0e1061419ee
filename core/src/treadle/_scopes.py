"""Scopes: one pluggy manager per executor and one per run, with strangers' list hooks behind a guard."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast
from weakref import WeakSet

import attrs
import pluggy

from treadle._bind import BoundExecutor
from treadle._hook_calls import all_answers, each, first_answer, work_of
from treadle._models import Call, GiveUp, Issue, Outcome, Record, RetryAfter, SpanRecord, Work
from treadle._redaction import Redaction
from treadle.errors import BindError, PolicyFailedError
from treadle.hookspecs import PROJECT, ExecutorHooks, RunHooks
from treadle.ports import Context, Redactor, RunSurroundings

_log = logging.getLogger("treadle.hooks")

_OPTIONS = f"{PROJECT}_impl"
"""Where pluggy's marker leaves its options on a function."""

_GUARDED = {"validate_output", "emit_span", "record_event", "close_run", "end_attempt"}
_OPENING = {"open_run", "make_redactor"}
_EXECUTOR_HOOKS = ("execute", "wrap_work", "validate_output", "retry_policy", "end_attempt")
_RUN_HOOKS = ("open_run", "close_run", "make_redactor", "emit_span", "record_event")


@attrs.frozen
class HookTrouble:
    """A hook of a stranger that raised, or could not be registered.

    Attributes:
        plugin: Who it was.
        hook: Which hook.
        error: What it raised.
    """

    plugin: str
    hook: str
    error: Exception

    def __str__(self) -> str:
        """One line for the log and the run's span."""
        return f"hook {self.hook!r} of {self.plugin} raised {type(self.error).__name__}: {self.error}"


class TroubleLog:
    """Collects hook trouble: each (plugin, hook) is logged once, the first error of each is kept."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], HookTrouble] = {}

    def __call__(self, plugin: str, hook: str, error: Exception) -> None:
        """Note one error."""
        if (plugin, hook) not in self.seen:
            trouble = self.seen[plugin, hook] = HookTrouble(plugin, hook, error)
            _log.warning("%s; it is still called, further errors of it are not logged", trouble, exc_info=error)


class ExecutorScope:
    """The hooks of one executor: the executor itself, then the active policies; last registered wins.

    Args:
        bound: The executor.
        policies: Active policies, first configured first.
        trouble: Where errors of guarded hooks go.

    Raises:
        BindError: A policy misspells a hook or asks for an argument that there is not.
    """

    def __init__(self, bound: BoundExecutor, policies: Sequence[object], trouble: TroubleLog) -> None:
        self.bound = bound
        # Decided once: where the executor is all that pluggy would ask, it is asked directly.
        self.execute: Callable[[Call, Context], Work | None] = bound.execute
        self.retry_policy: Callable[[Call, Exception], RetryAfter | GiveUp | None] = bound.retry_policy
        self.end_attempt: Callable[[Call, Outcome], object] | None = None
        self.validate_output: Callable[[Call, object], list[Issue]] = bound.validate_output
        asked = [name for name in _EXECUTOR_HOOKS if any(_implements(policy, name) for policy in policies)]
        if asked:
            hooks = _Hooks(ExecutorHooks, _EXECUTOR_HOOKS, policies, trouble, bound)
            if "execute" in asked or "wrap_work" in asked:
                work = work_of(hooks.of("execute"), hooks.of("wrap_work"), hooks.by_pluggy("execute"))
                self.execute = cast("Callable[[Call, Context], Work | None]", work)
            if "retry_policy" in asked:
                answer = first_answer(hooks.of("retry_policy"), ("call", "error"), hooks.by_pluggy("retry_policy"))
                self.retry_policy = cast("Callable[[Call, Exception], RetryAfter | GiveUp | None]", answer)
            if "end_attempt" in asked:
                self.end_attempt = each(hooks.of("end_attempt"), ("call", "outcome"), hooks.by_pluggy("end_attempt"))
            if "validate_output" in asked:
                answers = all_answers(
                    hooks.of("validate_output"), ("call", "output"), cast("_Answers", hooks.by_pluggy("validate_output"))
                )
                self.validate_output = _all_issues(cast("_Answers", answers))
        else:
            for policy in policies:
                check_policy(policy)


_Answers = Callable[..., Sequence[Iterable[Issue | str] | None]]


def _all_issues(validate: _Answers) -> Callable[[Call, object], list[Issue]]:
    """Everything anybody has to say against an output."""

    def ask(call: Call, output: object) -> list[Issue]:
        issues: list[Issue] = []
        for answer in validate(call, output):
            if isinstance(answer, str):
                issues.append(Issue(answer))
            elif answer:
                issues += [issue if isinstance(issue, Issue) else Issue(str(issue)) for issue in answer]
        return issues

    return ask


class RunScope:
    """The hooks of one run: policies and sinks.

    Args:
        plugins: Policies and sinks, in order.
        trouble: Where errors of guarded hooks go.
    """

    def __init__(self, plugins: Sequence[object], trouble: TroubleLog) -> None:
        self.troubles = trouble
        self._hooks = _Hooks(RunHooks, _RUN_HOOKS, plugins, trouble) if plugins else None
        self.emit_span = self._each("emit_span", "span")
        self.record_event = self._each("record_event", "record")

    def _each(self, hook: str, argument: str) -> Callable[..., object] | None:
        return None if self._hooks is None else each(self._hooks.of(hook), (argument,), self._hooks.by_pluggy(hook))

    @contextmanager
    def opened(self, run: RunSurroundings) -> Iterator[Redaction | None]:
        """Tell policies of the run while the block is open; yields what takes secrets out, when there is any.

        Raises:
            PolicyFailedError: One of them cannot do its work.
        """
        if self._hooks is None:
            yield None
            return
        try:
            yield self._open(self._hooks, run)
        finally:
            if (close := self._each("close_run", "run")) is not None:
                close(run)

    def _open(self, hooks: _Hooks, run: RunSurroundings) -> Redaction | None:
        if (tell := self._each("open_run", "run")) is not None:
            tell(run)
        ask = all_answers(hooks.of("make_redactor"), ("run",), cast("_Answers", hooks.by_pluggy("make_redactor")))
        answers = cast("Sequence[Redactor]", ask(run))
        # pluggy asks the last one first.
        redactors = [(plugin_name(redactor), redactor) for redactor in reversed(answers)]
        return Redaction(redactors, self.troubles) if redactors else None

    def span(self, span: SpanRecord) -> None:
        """Hand a finished span to whoever listens."""
        if self.emit_span is not None:
            self.emit_span(span)

    def event(self, record: Record) -> None:
        """Hand a durable record to whoever listens."""
        if self.record_event is not None:
            self.record_event(record)


@attrs.frozen
class _Place:
    """Where an implementation stands among those of its hook.

    Attributes:
        plugin: Whose it is.
        argnames: Which of the hook's arguments it takes.
        wrapper: Whether it is a generator around the others.
        hookwrapper: Whether it is one of the kind that pluggy had before.
        rank: Where it stands when it is put in order with those of another hook: the order of pluggy, as numbers.
    """

    plugin: int
    argnames: tuple[str, ...]
    wrapper: bool
    hookwrapper: bool
    rank: tuple[int, int]

    @classmethod
    def of(cls, one: pluggy.HookImpl, plugin: int) -> _Place:
        """What pluggy knows of an implementation."""
        rank = (-1, -plugin) if one.trylast else (int(one.tryfirst), plugin)
        return cls(plugin, tuple(one.argnames), one.wrapper, one.hookwrapper, rank)


@attrs.frozen
class _Placed:
    """The same with what is called."""

    function: Callable[..., object]
    argnames: tuple[str, ...]
    wrapper: bool
    hookwrapper: bool
    rank: tuple[int, int]


_Order = Mapping[str, Sequence[_Place]]

MOST_ORDERS = 256
_orders: dict[tuple[object, ...], _Order] = {}
"""What pluggy has answered: it takes 100 us to ask it, for each executor of each run, and the answer is always the same."""


class _Hooks:
    """The hooks of some plugins in the order in which pluggy calls them, each shown the hooks of one specification.

    Args:
        specification: The hooks.
        names: Their names.
        plugins: Policies and sinks, in order.
        trouble: Where errors of guarded hooks go.
        first: Registered before them, and trusted.

    Raises:
        BindError: A plugin misspells a hook or asks for an argument that there is not.
    """

    def __init__(
        self,
        specification: type,
        names: tuple[str, ...],
        plugins: Sequence[object],
        trouble: TroubleLog,
        first: BoundExecutor | None = None,
    ) -> None:
        for plugin in plugins:
            check_policy(plugin)
        self._specification, self._manager = specification, cast("pluggy.PluginManager | None", None)
        self._shown = [_Proxy(plugin, names, trouble) for plugin in plugins]
        if first is not None:
            self._shown.insert(0, _Proxy(first, names, None))
        # Which function it is decides its options and arguments; whose it is does not matter.
        key = (specification, *[tuple([(hook, _function(one)) for hook, one in vars(shown).items()]) for shown in self._shown])
        order = _orders.get(key)
        if order is None:
            if len(_orders) >= MOST_ORDERS:
                _orders.clear()
            order = _orders[key] = self._asked(names)
        self._order = order

    def of(self, hook: str) -> list[_Placed]:
        """All implementations of a hook; the last one is called first."""
        return [
            _Placed(getattr(self._shown[place.plugin], hook), place.argnames, place.wrapper, place.hookwrapper, place.rank)
            for place in self._order[hook]
        ]

    def by_pluggy(self, hook: str) -> Callable[..., object]:
        """What has pluggy call a hook."""

        def ask(**given: object) -> object:
            if self._manager is None:
                self._manager = self._managed()
            return getattr(self._manager.hook, hook)(**given)

        return ask

    def _asked(self, names: Sequence[str]) -> _Order:
        manager = self._managed()
        owners = {id(shown): number for number, shown in enumerate(self._shown)}
        return {
            name: tuple([_Place.of(one, owners[id(one.plugin)]) for one in getattr(manager.hook, name).get_hookimpls()])
            for name in names
        }

    def _managed(self) -> pluggy.PluginManager:
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(self._specification)
        for shown in self._shown:
            manager.register(shown)
        manager.check_pending()
        return manager


def _function(shown: object) -> object:
    method = getattr(shown, "__wrapped__", shown)
    return getattr(method, "__func__", method)


_checked: WeakSet[type] = WeakSet()


def check_policy(plugin: object) -> None:
    """Refuse a policy or sink whose hooks cannot work; a class that can work is looked at once.

    Raises:
        BindError: Names the hook or the argument that does not exist.
    """
    if type(plugin) not in _checked:
        _check_hooks(plugin)
        _checked.add(type(plugin))


def _check_hooks(plugin: object) -> None:
    known = {*_EXECUTOR_HOOKS, *_RUN_HOOKS}
    name = plugin_name(plugin)
    for attribute in _impl_names(plugin):
        if attribute not in known:
            raise BindError(f"{name} implements {attribute!r}, which is no hook.", f"Hooks are: {', '.join(sorted(known))}.")
    options = getattr(getattr(plugin, "wrap_work", None), f"{PROJECT}_impl", {})
    if options.get("wrapper") or options.get("hookwrapper"):
        raise BindError(f"{name} wraps 'wrap_work', which cannot be wrapped.", "Make it a plain function, or wrap 'execute'.")
    for specification, hooks in ((ExecutorHooks, _EXECUTOR_HOOKS), (RunHooks, _RUN_HOOKS)):
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(specification)
        try:
            manager.register(_Proxy(plugin, hooks, None), name=name)
        except pluggy.PluginValidationError as error:
            why = str(error).strip().splitlines()[-1]
            raise BindError(f"A hook of {name} has the wrong arguments: {why}", "Take only arguments of the hook.") from error


def plugin_name(plugin: object) -> str:
    """What a plugin object is called in messages."""
    return str(getattr(plugin, "name", "")) or f"{type(plugin).__module__}.{type(plugin).__qualname__}"


def _implements(plugin: object, hook: str) -> bool:
    return hasattr(getattr(plugin, hook, None), _OPTIONS)


def _impl_names(plugin: object) -> list[str]:
    return [name for name in dir(type(plugin)) if hasattr(getattr(type(plugin), name, None), f"{PROJECT}_impl")]


class _Proxy:
    """Shows pluggy only the hooks of one specification, list hooks behind a guard."""

    def __init__(self, plugin: object, hooks: Iterable[str], trouble: TroubleLog | None) -> None:
        for hook in hooks:
            method = getattr(plugin, hook, None)
            options = getattr(method, _OPTIONS, None)
            if method is None or options is None:
                continue
            is_wrapper = options.get("wrapper") or options.get("hookwrapper")
            if trouble is not None and hook in _GUARDED and not is_wrapper:
                method = _guarded(method, plugin_name(plugin), hook, trouble)
            elif trouble is not None and hook in _OPENING and not is_wrapper:
                method = _telling(method, plugin_name(plugin), hook)
            setattr(self, hook, method)

    def __dir__(self) -> list[str]:
        """The hooks alone: pluggy looks at every name that it is shown."""
        return list(vars(self))


def _guarded(method: Callable[..., object], plugin: str, hook: str, trouble: TroubleLog) -> Callable[..., object]:
    @functools.wraps(method)
    def call(*args: object) -> object:
        try:
            return method(*args)
        except Exception as error:  # strangers' code: one that raises must not keep the others from running
            trouble(plugin, hook, error)
            if hook == "validate_output":
                return [Issue(f"{plugin} could not check it: {type(error).__name__}: {error}")]
            return None

    return call


def _telling(method: Callable[..., object], plugin: str, hook: str) -> Callable[..., object]:
    """The method; what it raises says whose it was."""

    @functools.wraps(method)
    def call(*args: object) -> object:
        try:
            return method(*args)
        except Exception as error:  # a policy's code: the run cannot go on as its configuration wants it
            raise PolicyFailedError(plugin, hook, error) from error

    return call
