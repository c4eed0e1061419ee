"""Where runs are kept: the store that somebody asks for by name."""

from __future__ import annotations

from typing import cast

from treadle._memory import MemoryStore
from treadle._plugins import Registry
from treadle.ports import Store


def open_store(registry: Registry, *, wanted: str | None = None, otherwise: str = "memory") -> Store:
    """A store by name.

    Args:
        registry: Knows which there are, and their settings.
        wanted: The name that the workflow says; empty or None for none.
        otherwise: What it is when neither the workflow nor the configuration says one.

    Raises:
        PluginNotFoundError: Nothing provides it.
        PluginError: It cannot be used.
        StoreUnavailableError: It cannot be opened.
    """
    name = wanted or str(registry.config.store.get("use") or otherwise)
    return MemoryStore() if name == "memory" else cast("Store", registry.make_store(name))
