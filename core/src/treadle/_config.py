"""Configuration: ``treadle.toml`` or ``[tool.treadle]`` in ``pyproject.toml``, then ``TREADLE_...`` variables on top."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from treadle._secrets import parse_source
from treadle.errors import ConfigError, ConfigInvalidError, Fault

Table = dict[str, object]
Place = tuple[str, int]
"""File (or environment variable) and line; 0 when the line is not known."""

TABLES = ("plugins", "tools", "clients", "policies", "secrets", "store", "engine", "limits", "run", "workflows")
"""The tables that a configuration may have."""

_PREFIX = "TREADLE_"
_PLUGIN_KEYS = ("block", "prefer", "policies", "folder")
_WORKFLOW_KEYS = ("folder",)


@attrs.frozen
class PluginsConfig:
    """The ``[plugins]`` table.

    Attributes:
        block: Distributions that are never imported.
        prefer: Name -> the distribution that provides it where several claim it.
        policies: Names of the policies that see every call, in the order in which they are registered.
        folder: Folder of executors that are not installed, relative to the configuration's root; None for none.
        enabled: False for ``TREADLE_PLUGINS=none``: nothing that is installed is looked at.
    """

    block: tuple[str, ...] = ()
    prefer: Mapping[str, str] = attrs.field(factory=dict)
    policies: tuple[str, ...] = ()
    folder: str | None = None
    enabled: bool = True


@attrs.frozen
class Config:
    """The whole configuration, checked.

    Attributes:
        plugins: The ``[plugins]`` table.
        tools: The ``[tools]`` table, for the plugin that provides ``tool.*``.
        clients: Client name -> its settings; ``use`` names the kind when it differs from the name.
        policies: Policy name -> its settings.
        secrets: Secret name -> ``{"env": ...}`` or ``{"file": ...}``.
        store: The ``[store]`` table; ``use`` names the store.
        engine: The ``[engine]`` table; ``use`` names the engine.
        limits: The ``[limits]`` table.
        run: The ``[run]`` table.
        workflows: The ``[workflows]`` table; ``folder`` is where subflows are looked up by name.
        root: Folder of the file, that relative paths in it start from; the start folder without a file.
        file: The file; None when there is none.
        places: Where each key was read: path of keys -> (file or variable, line).
    """

    plugins: PluginsConfig = PluginsConfig()
    tools: Table = attrs.field(factory=dict)
    clients: dict[str, Table] = attrs.field(factory=dict)
    policies: dict[str, Table] = attrs.field(factory=dict)
    secrets: dict[str, dict[str, str]] = attrs.field(factory=dict)
    store: Table = attrs.field(factory=dict)
    engine: Table = attrs.field(factory=dict)
    limits: Table = attrs.field(factory=dict)
    run: Table = attrs.field(factory=dict)
    workflows: Table = attrs.field(factory=dict)
    root: Path = attrs.field(factory=Path)
    file: Path | None = None
    places: Mapping[tuple[str, ...], Place] = attrs.field(factory=dict, repr=False, eq=False)

    def fault(self, path: tuple[str, ...], message: str, remedy: str = "") -> Fault:
        """A fault of the setting at ``path``, with the file and line, or the variable, that it came from."""
        return _fault(self.places, self.file, path, message, remedy)


def load_config(start: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration that holds for a folder.

    The first folder from ``start`` upwards that has a ``treadle.toml``, or a ``pyproject.toml`` with ``[tool.treadle]``,
    decides; ``treadle.toml`` wins where a folder has both. Without any the defaults hold. Variables such as
    ``TREADLE_CLIENTS__HTTP__TIMEOUT_S=3`` override single keys.

    Args:
        start: Where the search begins; the working directory when None.
        environ: The environment; the process's own when None.

    Raises:
        ConfigInvalidError: Every fault of the file and the variables at once.
        ConfigError: The file cannot be read or is not TOML.
    """
    folder = (start or Path()).resolve()
    environ = os.environ if environ is None else environ
    file, data, places = _find_file(folder)
    merged, faults = _override(data, environ, places)
    checker = _Checker(merged, places, file, faults)
    return checker.config(root=file.parent if file else folder, environ=environ)


def suggest(word: str, known: tuple[str, ...]) -> str:
    """``did you mean 'x'?`` for the nearest known word, else the list of them all."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"


# -- the file ----------------------------------------------------------------------------------------------------------


def _find_file(start: Path) -> tuple[Path | None, Table, dict[tuple[str, ...], Place]]:
    for folder in (start, *start.parents):
        own, shared = folder / "treadle.toml", folder / "pyproject.toml"
        if own.is_file():
            text = _read(own)
            return own, _parse(own, text), _places(own, text, ())
        if shared.is_file() and "tool.treadle" in (text := _read(shared)):
            tool = _parse(shared, text).get("tool")
            if isinstance(tool, dict) and isinstance(tool.get("treadle"), dict):
                return shared, tool["treadle"], _places(shared, text, ("tool", "treadle"))
    return None, {}, {}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}", "Make it a readable UTF-8 file, or remove it.") from error


def _parse(file: Path, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}", "Correct the file.") from error


_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")
_PART = re.compile(r"[\w-]+|\"[^\"]*\"|'[^']*'")


def _places(file: Path, text: str, prefix: tuple[str, ...]) -> dict[tuple[str, ...], Place]:
    """Line of each table header and key, below ``prefix``. Python's TOML reader tells none; what this misses has line 0."""
    places: dict[tuple[str, ...], Place] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            path = table = _parts(header[1])
        elif key := _KEY.match(line):
            path = (*table, *_parts(key[1]))
        else:
            continue
        if path[: len(prefix)] == prefix:
            places.setdefault(path[len(prefix) :], (str(file), number))
    return places


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


# -- the environment ---------------------------------------------------------------------------------------------------


def _override(data: Table, environ: Mapping[str, str], places: dict[tuple[str, ...], Place]) -> tuple[Table, list[Fault]]:
    """``data`` with the variables' values put in, and what is wrong with the variables."""
    merged, faults = _copy(data), []
    for variable, words in _variables(environ):
        if not all(words) or words[0].lower() not in TABLES:
            remedy = "" if not all(words) else suggest(words[0].lower(), TABLES)
            faults.append(Fault("this is not the name of a setting", remedy=remedy, file=variable))
            continue
        path = _spelling(merged, words)
        problem = _put(merged, path, _value(environ[variable]))
        if problem:
            faults.append(Fault(problem, path=".".join(path), file=variable))
        for below in [place for place in places if place[: len(path)] == path]:
            del places[below]  # what the file said there does not hold any more
        places[path] = (variable, 0)
    return merged, faults


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """The variables that mean a setting: ``TREADLE_`` and at least one ``__``."""
    for variable in sorted(environ):
        if variable.startswith(_PREFIX) and "__" in variable:
            yield variable, variable.removeprefix(_PREFIX).split("__")


def _spelling(data: Table, words: list[str]) -> tuple[str, ...]:
    """The keys that a variable means: as the file spells them (``my-api`` for ``MY_API``), else in lower case."""
    path: list[str] = []
    here: object = data
    for word in words:
        keys = list(here) if isinstance(here, dict) else []
        same = [key for key in keys if _folded(key) == _folded(word)]
        # The names of secrets are usually names of variables, so their case stays.
        fresh = word if path[:1] == ["secrets"] and len(path) == 1 else word.lower()
        path.append(same[0] if same else fresh)
        here = here.get(path[-1]) if isinstance(here, dict) else None
    return tuple(path)


def _folded(word: str) -> str:
    return re.sub(r"[-.]", "_", word).lower()


def _value(text: str) -> object:
    """What the text says as a TOML value (number, boolean, list, table, quoted text), else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    value = parsed["value"]
    # Several keys: the text had line breaks. A date: no setting is one, and a text that looks like one is a text.
    return value if len(parsed) == 1 and isinstance(value, str | int | float | list | dict) else text


def _put(data: Table, path: tuple[str, ...], value: object) -> str:
    """Set the value at ``path``, making tables on the way; answers what is in the way, or an empty text."""
    *folders, last = path
    for folder in folders:
        inner = data.setdefault(folder, {})
        if not isinstance(inner, dict):
            return f"{folder!r} is not a table"
        data = inner
    data[last] = value
    return ""


def _copy(table: Table) -> Table:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in table.items()}


# -- the check ---------------------------------------------------------------------------------------------------------


@attrs.define
class _Checker:
    """Turns merged data into a Config, gathering faults on the way."""

    data: Table
    places: Mapping[tuple[str, ...], Place]
    file: Path | None
    faults: list[Fault]

    def config(self, *, root: Path, environ: Mapping[str, str]) -> Config:
        self._unknown((), self.data, TABLES)
        config = Config(
            plugins=self._plugins(environ.get("TREADLE_PLUGINS")),
            tools=self._table("tools"),
            clients=self._clients(),
            policies=self._tables("policies"),
            secrets=self._secrets(),
            store=self._used("store"),
            engine=self._used("engine"),
            limits=self._table("limits"),
            run=self._table("run"),
            workflows=self._workflows(),
            root=root,
            file=self.file,
            places=self.places,
        )
        if self.faults:
            raise ConfigInvalidError(self.faults)
        return config

    def _fault(self, path: tuple[str, ...], message: str, remedy: str = "") -> None:
        self.faults.append(_fault(self.places, self.file, path, message, remedy))

    def _unknown(self, path: tuple[str, ...], table: Table, known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                self._fault((*path, key), "unknown key", suggest(key, known))

    def _table(self, name: str) -> Table:
        table = self.data.get(name, {})
        if isinstance(table, dict):
            return table
        self._fault((name,), "must be a table", f"write [{name}]")
        return {}

    def _tables(self, name: str) -> dict[str, Table]:
        """A table of tables: one per client or policy."""
        tables: dict[str, Table] = {}
        for key, value in self._table(name).items():
            if isinstance(value, dict):
                tables[key] = value
            else:
                self._fault((name, key), "must be a table of settings", f"write [{name}.{key}]")
        return tables

    def _plugins(self, switch: str | None) -> PluginsConfig:
        table = self._table("plugins")
        self._unknown(("plugins",), table, _PLUGIN_KEYS)
        if switch not in (None, "", "none"):
            self.faults.append(Fault(f"{switch!r} is not known", remedy="the only value is 'none'", file="TREADLE_PLUGINS"))
        return PluginsConfig(
            block=self._texts("block", table.get("block", [])),
            prefer=self._prefer(table.get("prefer", {})),
            policies=self._texts("policies", table.get("policies", [])),
            folder=self._text(("plugins", "folder"), table.get("folder")),
            enabled=switch != "none",
        )

    def _workflows(self) -> Table:
        table = self._table("workflows")
        self._unknown(("workflows",), table, _WORKFLOW_KEYS)
        self._text(("workflows", "folder"), table.get("folder"))
        return table

    def _texts(self, key: str, value: object) -> tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self._fault(("plugins", key), "must be a list of texts", f'like {key} = ["name"]')
        return ()

    def _prefer(self, value: object) -> dict[str, str]:
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return value
        self._fault(("plugins", "prefer"), "must map names to distributions", 'like prefer = {"http.request" = "treadle-http"}')
        return {}

    def _text(self, path: tuple[str, ...], value: object) -> str | None:
        if value is None or isinstance(value, str):
            return value
        self._fault(path, "must be a text")
        return None

    def _clients(self) -> dict[str, Table]:
        clients = self._tables("clients")
        for name, settings in clients.items():
            self._text(("clients", name, "use"), settings.get("use"))
        return clients

    def _used(self, name: str) -> Table:
        table = self._table(name)
        self._text((name, "use"), table.get("use"))
        return table

    def _secrets(self) -> dict[str, dict[str, str]]:
        secrets: dict[str, dict[str, str]] = {}
        for name, source in self._table("secrets").items():
            try:
                secrets[name] = dict(parse_source(source, where=name))
            except ConfigError as error:
                self._fault(("secrets", name), error.problem.removeprefix(f"{name}: ").rstrip("."), error.remedy.rstrip("."))
        return secrets


def _fault(
    places: Mapping[tuple[str, ...], Place], file: Path | None, path: tuple[str, ...], message: str, remedy: str
) -> Fault:
    """A fault at ``path``: with its own place, or that of the nearest table above it that has one."""
    spelled = ".".join(path)
    for length in range(len(path), 0, -1):
        if path[:length] in places:
            name, line = places[path[:length]]
            return Fault(message, path=spelled, remedy=remedy, file=name, line=line, column=1 if line else 0)
    return Fault(message, path=spelled, remedy=remedy, file=str(file or ""))
