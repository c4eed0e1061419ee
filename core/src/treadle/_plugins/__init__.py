"""Plugins: names from metadata, objects on demand, and every failure as an error that names the distribution."""

from treadle._plugins._entry_points import GROUPS, Claim, MetadataFault, normalise
from treadle._plugins._registry import GIVEN, PluginEntry, Registry

__all__ = ["GIVEN", "GROUPS", "Claim", "MetadataFault", "PluginEntry", "Registry", "normalise"]
