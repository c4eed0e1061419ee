"""Secrets: values that never show in repr, logs, equality or pickles, and where they come from."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from treadle._spellings import quoted, spellings
from treadle.errors import ConfigError, SecretNotFoundError

HIDDEN = "***"
"""What stands wherever a secret would."""


class SecretsConfig(Protocol):
    """The part of the configuration that says where secrets come from."""

    @property
    def secrets(self) -> Mapping[str, Mapping[str, str]]:
        """The ``[secrets]`` table: name to ``{env = ...}`` or ``{file = ...}``."""

    @property
    def root(self) -> Path:
        """Folder that relative files are looked up in."""


class Secret:
    """A text that is only given out by ``reveal()``.

    It is hashable and comparable by identity alone, so two secrets of one value are not equal and nothing can be guessed by
    comparing. It shows as ``***`` in every kind of text, JSON writers refuse it, and so does pickle.

    Args:
        value: The text to hide.
    """

    __slots__ = ("_read",)

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"A Secret holds a text, not {type(value).__name__}.")
        self._read: Callable[[], str] = lambda: value

    @classmethod
    def from_config(cls, data: object, *, root: Path | None = None, where: str = "secret") -> Secret:
        """A secret that is read from its source each time it is revealed.

        Args:
            data: ``{"env": NAME}`` or ``{"file": PATH}``; a plain text is refused, so that no secret lies in a settings file.
            root: Folder that a relative file is looked up in; the working directory when None.
            where: The setting, for messages, like ``[clients.http] token``.

        Raises:
            ConfigError: ``data`` is something else.
        """
        source = parse_source(data, where=where)
        secret = cls("")
        secret._read = lambda: _read_setting(source, root or Path(), where)
        return secret

    def reveal(self) -> str:
        """The text itself.

        Raises:
            ConfigError: The environment variable or file that it comes from is not there.
        """
        return self._read()

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return format(HIDDEN, spec)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A Secret cannot be pickled: pass its name and resolve it where it is used.")

    def __getstate__(self) -> NoReturn:
        raise TypeError("A Secret gives out no state: use reveal().")


def hide(text: str, secrets: Iterable[str]) -> str:
    """``text`` with ``***`` in the place of each secret, however it is spelled; of few characters, as it is and quoted."""
    for secret in secrets:
        for spelled in _in_order(secret) if secret else ():
            text = text.replace(spelled, HIDDEN)
    return text


@functools.lru_cache(maxsize=256)  # to spell one takes 50 us, and a step's texts are many
def _in_order(secret: str) -> tuple[str, ...]:
    """All spellings, the longest first: it may hold another."""
    return tuple(sorted({secret, *quoted(secret), *spellings(secret)}, key=len, reverse=True))


def holds_secret(value: object, secrets: Sequence[str]) -> bool:
    """Whether the value of one stands in a text, key or item of plain data, however it is spelled."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if hide(one, secrets) != one:
                return True
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one
    return False


def parse_source(data: object, *, where: str) -> Mapping[str, str]:
    """``data`` itself when it says where a secret comes from: exactly one of ``env`` and ``file``, with a text.

    Raises:
        ConfigError: It is something else. The message never repeats a text, which may be the secret itself.
    """
    if isinstance(data, str):
        raise ConfigError(
            f"{where}: a secret cannot be written into the configuration.",
            'Say where it comes from: {env = "NAME"} or {file = "PATH"}.',
        )
    if isinstance(data, Mapping) and len(data) == 1:
        [(kind, place)] = data.items()
        if kind in ("env", "file") and isinstance(place, str) and place:
            return {kind: place}
    raise ConfigError(f"{where}: this does not say where the secret comes from.", 'Use {env = "NAME"} or {file = "PATH"}.')


def resolve(name: str, config: SecretsConfig, environ: Mapping[str, str] | None = None) -> str:
    """The value of a workflow's secret: from where ``[secrets]`` says, else the environment variable of that name.

    Args:
        name: The name that the workflow uses.
        config: Has the ``[secrets]`` table.
        environ: The environment; the process's own when None.

    Raises:
        SecretNotFoundError: There is no value; says where it was looked for.
    """
    source = config.secrets.get(name, {"env": name})
    value, looked_in = _read(source, config.root, os.environ if environ is None else environ)
    if value is None:
        raise SecretNotFoundError(name, looked_in)
    return value


def _read_setting(source: Mapping[str, str], root: Path, where: str) -> str:
    value, looked_in = _read(source, root, os.environ)
    if value is None:
        raise ConfigError(
            f"{where}: the secret has no value (looked in {looked_in}).", "Provide it there, or correct the setting."
        )
    return value


def _read(source: Mapping[str, str], root: Path, environ: Mapping[str, str]) -> tuple[str | None, str]:
    """The value (None when there is none) and the place that was looked in, for messages."""
    if "env" in source:
        return environ.get(source["env"]), f"environment variable {source['env']}"
    path = root / source["file"]
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        return None, f"file {path}: {error.strerror}"
    except UnicodeDecodeError:
        return None, f"file {path}: not UTF-8 text"
    # Editors and `echo` end a file with a line break that nobody means to be part of the secret.
    return text.removesuffix("\n").removesuffix("\r"), f"file {path}"
