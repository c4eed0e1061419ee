"""Where an object comes from, so that another process can have the same one; plain data, no pickle."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib import util
from types import ModuleType

import attrs

from treadle._models import Json

MAKER = "__treadle_origin__"
"""Attribute of an object that a function made: ``("module:function", arguments)``, which makes it again anywhere."""

_MAIN = "__treadle_main__"


@attrs.frozen
class Origin:
    """How another process gets an object.

    Attributes:
        module: The module that holds it.
        attribute: Dotted path within the module.
        file: The module's file, for one that cannot be imported by its name.
        arguments: When not None: what the attribute, a function, is called with to make the object.
    """

    module: str
    attribute: str
    file: str = ""
    arguments: Mapping[str, Json] | None = attrs.field(default=None, repr=False, hash=False)

    def to_dict(self) -> dict[str, Json]:
        """Plain data; ``Origin(**data)`` is the origin again."""
        return {"module": self.module, "attribute": self.attribute, "file": self.file, "arguments": self.arguments}


def origin_of(obj: object) -> Origin | None:
    """Where an object comes from; None when another process could not find it (a closure, a lambda, an interactive session)."""
    made = getattr(obj, MAKER, None)
    if isinstance(made, tuple) and len(made) == 2:
        module, _, attribute = str(made[0]).partition(":")
        return Origin(module, attribute, "", made[1])
    name, path = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    loaded = sys.modules.get(name) if isinstance(name, str) else None
    if loaded is None or not isinstance(name, str) or not isinstance(path, str) or _found(loaded, path) is not obj:
        return None
    file = str(getattr(loaded, "__file__", None) or "")
    return Origin(name, path, file) if file or name != "__main__" else None


def load_origin(origin: Origin) -> object:
    """The object; imports its module when need be, and raises whatever that raises.

    Raises:
        LookupError: The module does not hold it.
    """
    found = _found(_module(origin), origin.attribute)
    if found is None:
        raise LookupError(f"module {origin.module!r} has no {origin.attribute!r}")
    return found if origin.arguments is None else found(**origin.arguments)  # type: ignore[operator]  # a maker is a function


def _found(module: ModuleType, path: str) -> object | None:
    found: object | None = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _module(origin: Origin) -> ModuleType:
    name = _MAIN if origin.module == "__main__" else origin.module
    loaded = sys.modules.get(name)
    if loaded is None and name != _MAIN:
        try:
            loaded = importlib.import_module(name)
        except ModuleNotFoundError as error:
            # The module itself, or a package that was never on the path; what it needs itself is its own fault.
            if not origin.file or not f"{name}.".startswith(f"{error.name}."):
                raise
    if loaded is not None and (not origin.file or getattr(loaded, "__file__", None) == origin.file):
        return loaded
    return _from_file(name, origin.file)


def _from_file(name: str, file: str) -> ModuleType:
    spec = util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be imported")
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
