"""Which distributions the configuration blocks; all that ``treadle --help`` asks of it."""

from __future__ import annotations

import re
from collections.abc import Callable

from treadle._config import PluginsConfig, load_config
from treadle.errors import TreadleError


def read() -> Callable[[str], bool]:
    """What says of a distribution's name whether it is blocked."""
    try:
        plugins = load_config().plugins
    except TreadleError:  # --help works all the same; a command that needs the configuration says what is wrong with it
        plugins = PluginsConfig()
    blocked = {_normal(name) for name in plugins.block}
    return lambda name: not plugins.enabled or _normal(name) in blocked


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
