"""Whether an object's hook implementations fit the hook specifications."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator

import pluggy

from treadle.hookspecs import PROJECT, ExecutorHooks, RunHooks


def hook_faults(plugin: object) -> list[str]:
    """What is wrong with the hook implementations of a policy, in sentences; empty when all fit.

    A hook that no specification knows would never be called, and one that asks for an argument that is not given could not
    be: both are faults of the plugin that pluggy tells late or in several lines.
    """
    specified = _specified()
    manager = pluggy.PluginManager(PROJECT)
    faults = [fault for name in _hooks(manager, plugin) for fault in _faults_of(name, plugin, specified)]
    if not faults and not list(_hooks(manager, plugin)):
        faults = ["it implements no hook; mark its methods with @hookimpl"]
    return faults or _refusal(manager, plugin)


def _specified() -> dict[str, tuple[str, ...]]:
    """Hook name -> the arguments that it gives."""
    methods = [(name, method) for spec in (ExecutorHooks, RunHooks) for name, method in vars(spec).items() if name[0] != "_"]
    return {name: tuple(inspect.signature(method).parameters)[1:] for name, method in methods}


def _hooks(manager: pluggy.PluginManager, plugin: object) -> Iterator[str]:
    """Names of the attributes that are marked as hook implementations."""
    for name in dir(plugin):
        # Properties of strangers must not run only because somebody looks for hooks.
        if isinstance(inspect.getattr_static(plugin, name, None), property):
            continue
        if manager.parse_hookimpl_opts(plugin, name) is not None:
            yield name


def _faults_of(attribute: str, plugin: object, specified: dict[str, tuple[str, ...]]) -> Iterator[str]:
    options = pluggy.PluginManager(PROJECT).parse_hookimpl_opts(plugin, attribute)
    name = (options and options.get("specname")) or attribute
    if name not in specified:
        if not (options and options.get("optionalhook")):
            near = difflib.get_close_matches(name, specified, n=1)
            yield f"unknown hook {name!r}" + (f"; did its author mean {near[0]!r}?" if near else "")
        return
    given = specified[name]
    for parameter in inspect.signature(getattr(plugin, attribute)).parameters.values():
        if parameter.name not in given and parameter.default is parameter.empty:
            yield f"hook {name!r} asks for {parameter.name!r}, which is not given (it gives {', '.join(given)})"


def _refusal(manager: pluggy.PluginManager, plugin: object) -> list[str]:
    """What pluggy itself says against the plugin."""
    manager.add_hookspecs(ExecutorHooks)
    manager.add_hookspecs(RunHooks)
    try:
        manager.register(plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        return [" ".join(str(error).split())]
    return []
