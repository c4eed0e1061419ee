"""Settings from the configuration into the class of a client or policy: checked by its types, every fault at once."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType

import attrs

from treadle._config import Config, Table, suggest
from treadle._contracts import ContractError, contract_for
from treadle._secrets import Secret
from treadle.errors import ConfigError, ConfigInvalidError, Fault, TreadleError

_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def make(
    cls: type,
    settings: Table,
    path: tuple[str, ...],
    config: Config,
    on_secret: Callable[[str, Secret], object] = lambda where, secret: None,
) -> object:
    """An instance of ``cls`` with its settings.

    Args:
        cls: Its constructor's parameters are the settings; attrs classes, dataclasses and plain classes alike.
        settings: The table without ``use``.
        path: The table's name, like ``("clients", "http")``, for messages.
        config: Knows files and lines, and the folder that relative files start from.
        on_secret: Told each setting that is a secret, like ``[clients.http] token``, and the secret.

    Raises:
        ConfigInvalidError: All unknown, missing and mistyped settings, each as ``[clients.http] timeout_s``.
    """
    maker = _Maker(path, config, on_secret)
    arguments = maker.arguments(cls, settings)
    if maker.faults:
        raise ConfigInvalidError(maker.faults)
    try:
        return cls(**arguments)
    except TreadleError:
        raise
    except Exception as error:  # validators of the class are foreign code
        fault = maker.fault((), f"{cls.__name__} does not take these settings: {error}")
        raise ConfigInvalidError([fault]) from error


@attrs.define
class _Maker:
    """Gathers the faults of one table."""

    path: tuple[str, ...]
    config: Config
    on_secret: Callable[[str, Secret], object]
    faults: list[Fault] = attrs.field(factory=list)

    def arguments(self, cls: type, settings: Table) -> dict[str, object]:
        types = dict(_parameters(cls))
        for key in settings:
            if key not in types:
                self._add((key,), "unknown setting", suggest(key, tuple(types)))
        for key, (_, required) in types.items():
            if required and key not in settings:
                self._add((key,), "this setting is required")
        known = [(key, value) for key, value in settings.items() if key in types]
        return {key: self.value(types[key][0], value, (key,)) for key, value in known}

    def value(self, hint: object, value: object, keys: tuple[str, ...]) -> object:
        """``value`` as the type asks; a fault and None when it does not fit."""
        if not _holds_secret(hint):
            return self._plain(hint, value, keys)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Secret:
            return self._secret(value, keys)
        if origin in (typing.Union, UnionType):
            return None if value is None and NoneType in arguments else self._secret(value, keys)
        if isinstance(value, Mapping) and origin is not None and issubclass(origin, Mapping):
            return {key: self.value(arguments[1], item, (*keys, key)) for key, item in value.items()}
        self._add(keys, "secrets may stand alone or in a table of secrets", "declare it as Secret or dict[str, Secret]")
        return None

    def _plain(self, hint: object, value: object, keys: tuple[str, ...]) -> object:
        try:
            return contract_for(hint).structure(value)
        except ContractError as error:
            for issue in error.issues:
                inner = issue.path.removeprefix("$").strip(".")
                self._add((*keys, *([inner] if inner else [])), issue.message)
        return None

    def _secret(self, value: object, keys: tuple[str, ...]) -> Secret | None:
        where = self._spelled(keys)
        try:
            secret = Secret.from_config(value, root=self.config.root, where=where)
        except ConfigError as error:
            self._add(keys, error.problem.removeprefix(f"{where}: ").rstrip("."), error.remedy.rstrip("."))
            return None
        self.on_secret(where, secret)
        return secret

    def _add(self, keys: tuple[str, ...], message: str, remedy: str = "") -> None:
        self.faults.append(self.fault(keys, message, remedy))

    def fault(self, keys: tuple[str, ...], message: str, remedy: str = "") -> Fault:
        """A fault with its file and line, its path spelled like ``[clients.http] timeout_s``."""
        return attrs.evolve(self.config.fault((*self.path, *keys), message, remedy), path=self._spelled(keys))

    def _spelled(self, keys: tuple[str, ...]) -> str:
        return f"[{'.'.join(self.path)}] {'.'.join(keys)}".rstrip().replace(".[", "[")


def _parameters(cls: type) -> Iterator[tuple[str, tuple[object, bool]]]:
    """Setting -> its type (object when there is none) and whether it is required."""
    hints = _hints(cls)
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in _KINDS:
            yield name, (hints.get(name, object), parameter.default is parameter.empty)


def _hints(cls: type) -> dict[str, object]:
    """The types of the constructor's parameters, forward references resolved."""
    if attrs.has(cls):
        resolved = typing.get_type_hints(cls, include_extras=True)
        return {field.alias or field.name: resolved.get(field.name, object) for field in attrs.fields(cls)}
    if dataclasses.is_dataclass(cls):
        return typing.get_type_hints(cls, include_extras=True)
    parameters = inspect.signature(cls, eval_str=True).parameters.values()
    return {each.name: each.annotation for each in parameters if each.annotation is not each.empty}


def _holds_secret(hint: object) -> bool:
    return hint is Secret or any(_holds_secret(argument) for argument in typing.get_args(hint))
