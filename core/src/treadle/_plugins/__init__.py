"""Plugins: names from metadata, objects on demand, and every failure as an error that names the distribution."""

from treadle._plugins._entry_points import GROUPS, MetadataFault, normalise
from treadle._plugins._registry import PluginEntry, Registry

__all__ = ["GROUPS", "MetadataFault", "PluginEntry", "Registry", "normalise"]
