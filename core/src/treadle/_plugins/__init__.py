"""Plugins: names from metadata, objects on demand, and every failure as an error that names the distribution."""

from treadle._plugins._entry_points import GROUPS, KINDS, Claim, MetadataFault, normalise
from treadle._plugins._registry import GIVEN, PluginEntry, Registry

__all__ = ["GIVEN", "GROUPS", "KINDS", "Claim", "MetadataFault", "PluginEntry", "Registry", "normalise"]
