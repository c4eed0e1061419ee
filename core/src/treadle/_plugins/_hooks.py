"""Whether an object's hook implementations fit the hook specifications."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterator

import pluggy

from treadle.hookspecs import PROJECT, ExecutorHooks, RunHooks

SPECIFICATIONS: tuple[type, ...] = (ExecutorHooks, RunHooks)
"""Where the hooks are specified."""


def hook_faults(plugin: object) -> list[str]:
    """What is wrong with the hook implementations of a policy (an object or its class), in sentences; empty when all fit.

    A hook that no specification knows would never be called, and one that asks for an argument that is not given could not
    be: both are faults of the plugin that pluggy tells late or in several lines.
    """
    manager = pluggy.PluginManager(PROJECT)
    hooks = dict(_hooks(manager, plugin))
    if not hooks:
        return ["it implements no hook; its methods need the mark @hookimpl"]
    specified = _specified()
    faults = [fault for name, options in hooks.items() for fault in _faults_of(name, options, plugin, specified)]
    return faults or _refusal(manager, plugin)


def hook_deprecations(plugin: object) -> list[str]:
    """What the hook implementations of a policy ask for that a coming version will no longer give, in sentences."""
    manager = pluggy.PluginManager(PROJECT)
    announced = _announced(manager)
    asked = [(options["specname"] or name, _parameters(name, plugin)) for name, options in _hooks(manager, plugin)]
    return [
        f"hook {name!r} asks for {announced[name, parameter.name]}"
        for name, parameters in asked
        for parameter in parameters
        if (name, parameter.name) in announced
    ]


def _announced(manager: pluggy.PluginManager) -> dict[tuple[str, str], Warning]:
    """Hook and argument -> the announcement that the argument will go."""
    options = {name: manager.parse_hookspec_opts(spec, name) for spec in SPECIFICATIONS for name in vars(spec)}
    return {
        (hook, argument): warning
        for hook, said in options.items()
        if said is not None
        for argument, warning in (said["warn_on_impl_args"] or {}).items()
    }


def _specified() -> dict[str, tuple[str, ...]]:
    """Hook name -> the arguments that it gives."""
    methods = [(name, method) for spec in SPECIFICATIONS for name, method in vars(spec).items() if name[0] != "_"]
    return {name: tuple(inspect.signature(method).parameters)[1:] for name, method in methods}


def _hooks(manager: pluggy.PluginManager, plugin: object) -> Iterator[tuple[str, pluggy.HookimplOpts]]:
    """The attributes that are marked as hook implementations."""
    for name in dir(plugin):
        # Properties of strangers must not run only because somebody looks for hooks.
        if isinstance(inspect.getattr_static(plugin, name, None), property):
            continue
        options = manager.parse_hookimpl_opts(plugin, name)
        if options is not None:
            yield name, options


def _faults_of(
    attribute: str, options: pluggy.HookimplOpts, plugin: object, specified: dict[str, tuple[str, ...]]
) -> Iterator[str]:
    name = options["specname"] or attribute
    if name in specified:
        given = specified[name]
        for asked in _asked(attribute, plugin):
            if asked not in given:
                yield f"hook {name!r} asks for {asked!r}, which is not given (it gives {', '.join(given)})"
    elif not options["optionalhook"]:
        near = difflib.get_close_matches(name, specified, n=1)
        yield f"unknown hook {name!r}" + (f"; did its author mean {near[0]!r}?" if near else "")


def _asked(attribute: str, plugin: object) -> list[str]:
    """The arguments that a hook implementation cannot do without. One with a default may be newer than this core."""
    return [each.name for each in _parameters(attribute, plugin) if each.default is each.empty]


def _parameters(attribute: str, plugin: object) -> list[inspect.Parameter]:
    """The parameters of a hook implementation, without its ``self``."""
    parameters = list(inspect.signature(getattr(plugin, attribute)).parameters.values())
    static = isinstance(inspect.getattr_static(plugin, attribute), staticmethod | classmethod)
    return parameters[1:] if isinstance(plugin, type) and not static else parameters


def _refusal(manager: pluggy.PluginManager, plugin: object) -> list[str]:
    """What pluggy itself says against the plugin, in one line."""
    if isinstance(plugin, type):
        return []  # its methods still have their self; pluggy would take it for an argument
    for specification in SPECIFICATIONS:
        manager.add_hookspecs(specification)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # hook_deprecations tells of them
            manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        return [" ".join(str(error).split())]
    return []
