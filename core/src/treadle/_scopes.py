"""Scopes: one pluggy manager per executor and one per run, with strangers' list hooks behind a guard."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast
from weakref import WeakSet

import attrs
import pluggy

from treadle._bind import BoundExecutor
from treadle._hook_calls import each, first_answer
from treadle._models import Call, GiveUp, Issue, Outcome, Record, RetryAfter, SpanRecord, Work
from treadle._redaction import Redaction
from treadle.errors import BindError, PolicyFailedError
from treadle.hookspecs import PROJECT, ExecutorHooks, RunHooks
from treadle.ports import Context, Redactor, RunSurroundings

_log = logging.getLogger("treadle.hooks")

_GUARDED = {"validate_output", "emit_span", "record_event", "close_run", "end_attempt"}
_OPENING = {"open_run", "make_redactor"}
_EXECUTOR_HOOKS = ("execute", "validate_output", "retry_policy", "end_attempt")
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
        if policies:
            hooks = _managed(bound, policies, trouble)
            if "execute" in asked:
                self.execute = cast("Callable[[Call, Context], Work | None]", first_answer(hooks.execute, ("call", "ctx")))
            if "retry_policy" in asked:
                answer = first_answer(hooks.retry_policy, ("call", "error"))
                self.retry_policy = cast("Callable[[Call, Exception], RetryAfter | GiveUp | None]", answer)
            if "end_attempt" in asked:
                self.end_attempt = each(hooks.end_attempt, ("call", "outcome"))
            if "validate_output" in asked:
                self.validate_output = _all_issues(cast("_Answers", hooks.validate_output))


_Answers = Callable[..., Sequence[Iterable[Issue | str] | None]]


def _managed(bound: BoundExecutor, policies: Sequence[object], trouble: TroubleLog) -> pluggy.HookRelay:
    """The hooks of a scope with policies, as pluggy calls them."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(ExecutorHooks)
    manager.register(_Proxy(bound, _EXECUTOR_HOOKS, None), name=bound.name)
    for policy in policies:
        _register(manager, policy, _EXECUTOR_HOOKS, trouble)
    return manager.hook


def _all_issues(validate: _Answers) -> Callable[[Call, object], list[Issue]]:
    """Everything anybody has to say against an output."""

    def ask(call: Call, output: object) -> list[Issue]:
        issues: list[Issue] = []
        for answer in validate(call=call, output=output):
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
        self.emit_span: Callable[..., object] | None = None
        self.record_event: Callable[..., object] | None = None
        self.troubles = trouble
        self._hooks: RunHooks | None = None
        if plugins:
            manager = pluggy.PluginManager(PROJECT)
            manager.add_hookspecs(RunHooks)
            for plugin in plugins:
                _register(manager, plugin, _RUN_HOOKS, trouble)
            self._hooks = hooks = cast("RunHooks", manager.hook)
            self.emit_span = hooks.emit_span if _has_impls(manager, "emit_span") else None
            self.record_event = hooks.record_event if _has_impls(manager, "record_event") else None

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
            self._hooks.close_run(run=run)

    def _open(self, hooks: RunHooks, run: RunSurroundings) -> Redaction | None:
        hooks.open_run(run=run)
        answers = cast("Sequence[Redactor]", hooks.make_redactor(run=run))
        # pluggy asks the last one first.
        redactors = [(plugin_name(redactor), redactor) for redactor in reversed(answers)]
        return Redaction(redactors, self.troubles) if redactors else None

    def span(self, span: SpanRecord) -> None:
        """Hand a finished span to whoever listens."""
        if self.emit_span is not None:
            self.emit_span(span=span)

    def event(self, record: Record) -> None:
        """Hand a durable record to whoever listens."""
        if self.record_event is not None:
            self.record_event(record=record)


def _has_impls(manager: pluggy.PluginManager, hook: str) -> bool:
    return bool(getattr(manager.hook, hook).get_hookimpls())


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
    return hasattr(getattr(plugin, hook, None), f"{PROJECT}_impl")


def _register(manager: pluggy.PluginManager, plugin: object, hooks: Iterable[str], trouble: TroubleLog) -> None:
    check_policy(plugin)
    manager.register(_Proxy(plugin, hooks, trouble))
    manager.check_pending()


def _impl_names(plugin: object) -> list[str]:
    return [name for name in dir(type(plugin)) if hasattr(getattr(type(plugin), name, None), f"{PROJECT}_impl")]


class _Proxy:
    """Shows pluggy only the hooks of one specification, list hooks behind a guard."""

    def __init__(self, plugin: object, hooks: Iterable[str], trouble: TroubleLog | None) -> None:
        for hook in hooks:
            method = getattr(plugin, hook, None)
            options = getattr(method, f"{PROJECT}_impl", None)
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
