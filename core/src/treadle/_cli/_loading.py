"""What every command begins with: the configuration, and the names of what is installed."""

from __future__ import annotations

import click

from treadle._config import Config, load_config
from treadle._plugins import Registry

FILE = click.Path(exists=True, dir_okay=False, readable=True)


def wants_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    """Remember that errors belong into an object on stdout too."""
    ctx.meta["treadle.json"] = value
    return value


json_option = click.option("--json", "as_json", is_flag=True, callback=wants_json, help="Print one JSON object on stdout.")


def discover() -> tuple[Config, Registry]:
    """The configuration, and the names of what is installed; nothing is imported."""
    config = load_config()
    return config, Registry.discover(config)
