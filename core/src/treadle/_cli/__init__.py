"""The ``treadle`` command. Only click is imported here; each command's module is imported when it is used."""

from __future__ import annotations

from treadle._cli._root import main, root

__all__ = ["main", "root"]
