"""Blocked by the configuration, so this is never reached."""

raise RuntimeError("imported although blocked")
