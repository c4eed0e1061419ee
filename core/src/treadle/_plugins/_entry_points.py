"""What installed distributions say they provide: read from metadata alone, nothing is imported."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from importlib import metadata, util
from pathlib import Path
from urllib.parse import unquote, urlsplit

import attrs

KINDS = {
    "treadle.executors": "executor",
    "treadle.families": "family",
    "treadle.clients": "client",
    "treadle.engines": "engine",
    "treadle.stores": "store",
    "treadle.tracing": "tracing",
    "treadle.policies": "policy",
    "treadle.triggers": "trigger",
    "treadle.commands": "command",
}
"""Entry-point group -> what one of its names is called."""

GROUPS = tuple(KINDS)
"""The entry-point groups; the entry-point name is the name that users write."""

_VALUE = re.compile(r"(?P<module>\w+(?:\.\w+)*)(?:\s*:\s*(?P<attribute>\w+(?:\.\w+)*))?(?:\s*\[.*\])?")
_FIELD = re.compile(r"^(Name|Version):\s*(.*?)\s*$", re.MULTILINE)


@attrs.frozen
class Claim:
    """One entry point: a distribution claims a name.

    Attributes:
        group: One of GROUPS.
        name: The name that users write.
        module: The module to import; the file's path for one of the local folder.
        attribute: Dotted path within the module; empty for the module itself.
        distribution: Name of the distribution as it spells itself; ``local`` for the folder of the configuration.
        version: Its version; empty when it has none.
        metadata: The distribution; None for what is not installed.
        file: The file of the local folder that holds it; None for what is installed.
    """

    group: str
    name: str
    module: str
    attribute: str
    distribution: str
    version: str = ""
    metadata: metadata.Distribution | None = attrs.field(default=None, repr=False, eq=False)
    file: Path | None = None

    @property
    def value(self) -> str:
        """``module:attribute`` as the entry point spells it."""
        return f"{self.module}:{self.attribute}" if self.attribute else self.module


@attrs.frozen
class MetadataFault:
    """A distribution (or file of the local folder) whose claims cannot be read, wholly or in part.

    Attributes:
        distribution: Its name, as far as it is known.
        why: What is wrong, in a few words.
    """

    distribution: str
    why: str


@attrs.frozen
class Scan:
    """All claims of the environment."""

    claims: tuple[Claim, ...]
    faults: tuple[MetadataFault, ...]


_lock = threading.Lock()
_last: list[tuple[object, Scan]] = []


def scan() -> Scan:
    """The claims of every distribution on ``sys.path``: read once per process, again only when a folder on it changed."""
    key = _state(sys.path)
    with _lock:
        if not _last or _last[0][0] != key:
            _last[:] = [(key, _read_all())]
        return _last[0][1]


def normalise(distribution: str) -> str:
    """The name by which distributions are compared: ``Treadle.HTTP`` is ``treadle-http``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def parse_value(value: str) -> tuple[str, str] | None:
    """Module and attribute of an entry point's value; None when it is not one."""
    match = _VALUE.fullmatch(value.strip())
    return (match["module"], match["attribute"] or "") if match else None


def _state(path: Iterable[str]) -> object:
    return tuple((folder, _changed(folder)) for folder in path)


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _read_all() -> Scan:
    claims: list[Claim] = []
    faults: list[MetadataFault] = []
    seen: set[str] = set()
    for distribution in _distributions(faults):
        try:
            name, version = _identity(distribution)
            if normalise(name) in seen:
                continue  # a second copy further down sys.path: the first one is what Python imports
            seen.add(normalise(name))
            text = distribution.read_text("entry_points.txt") or ""
        except Exception as error:  # any file of a stranger may be in any state
            faults.append(
                MetadataFault(_folder(distribution), f"its metadata cannot be read ({type(error).__name__}: {error})")
            )
            continue
        if "treadle." in text:
            for found in _claims(text, name, version, distribution):
                (claims if isinstance(found, Claim) else faults).append(found)  # type: ignore[arg-type] # split by type
    return Scan(tuple(claims), tuple(faults))


def _distributions(faults: list[MetadataFault]) -> Iterator[metadata.Distribution]:
    """Every distribution; a finder that raises ends the list and is reported."""
    try:
        yield from metadata.distributions()
    except Exception as error:  # finders are foreign code
        faults.append(MetadataFault("sys.meta_path", f"a finder fails ({type(error).__name__}: {error})"))


def _identity(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version, from the head of the metadata file: the full parser takes most of the time of a scan."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    fields = dict(reversed(_FIELD.findall(text.split("\n\n", 1)[0])))
    name = fields.get("Name", "")
    if not name:
        raise ValueError("no Name in its METADATA")
    return name, fields.get("Version", "")


def _folder(distribution: metadata.Distribution) -> str:
    """Name of the metadata's folder: all that is known of a distribution that cannot be read."""
    try:
        return Path(str(distribution.locate_file(""))).joinpath(str(getattr(distribution, "_path", "?"))).name
    except Exception:  # distributions may come from foreign finders
        return "unknown distribution"


def _claims(text: str, name: str, version: str, distribution: metadata.Distribution) -> Iterator[Claim | MetadataFault]:
    """The claims in an ``entry_points.txt``. Line by line: with the standard reader one bad line hides all the others."""
    group, seen = "", set[tuple[str, str]]()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("["):
            group = line.strip("[]").strip()
        if group not in GROUPS or not line or line.startswith(("#", ";", "[")):
            continue
        key, equals, value = line.partition("=")
        target = parse_value(value)
        if not equals or not key.strip() or target is None:
            yield MetadataFault(name, f"entry_points.txt line {number} is not an entry point: {line!r}")
        elif (group, key.strip()) in seen:
            yield MetadataFault(name, f"entry_points.txt line {number} claims {key.strip()!r} a second time")
        else:
            seen.add((group, key.strip()))
            yield Claim(group, key.strip(), *target, name, version, distribution)


# -- whose module it is ------------------------------------------------------------------------------------------------


def foreign_owner(claim: Claim) -> str:
    """Name of the other distribution that the claim's module belongs to; empty when it is the claim's own, or nobody's.

    Told from the lists of installed files. An editable distribution lists no modules; its project folder decides.
    """
    own = claim.metadata
    if own is None or _lists(own, claim.module) or _is_beneath(claim.module, _editable_folder(own)):
        return ""
    for other in metadata.distributions():
        if _lists(other, claim.module):
            name = _identity(other)[0]
            return "" if normalise(name) == normalise(claim.distribution) else name
        if other.read_text("direct_url.json") and _is_beneath(claim.module, _editable_folder(other)):
            return _identity(other)[0]
    return ""


def _lists(distribution: metadata.Distribution, module: str) -> bool:
    """Whether the distribution's RECORD lists the module's file, as source, package or compiled extension."""
    path = module.replace(".", "/")
    starts = (f"{path}.", f"{path}/__init__.", f'"{path}.')
    return any(line.startswith(starts) for line in (distribution.read_text("RECORD") or "").splitlines())


def _editable_folder(distribution: metadata.Distribution) -> Path | None:
    """The project's folder when the distribution is an editable installation."""
    text = distribution.read_text("direct_url.json") or ""
    found = re.search(r'"url"\s*:\s*"(file:[^"]*)"', text)
    if not found or not re.search(r'"editable"\s*:\s*true', text):
        return None
    return Path(unquote(urlsplit(found[1]).path))


def _is_beneath(module: str, folder: Path | None) -> bool:
    """Whether Python would take the module's top package from the folder. Looks only; imports nothing."""
    if folder is None:
        return False
    try:
        spec = util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return any(place and Path(place).resolve().is_relative_to(folder.resolve()) for place in places)
