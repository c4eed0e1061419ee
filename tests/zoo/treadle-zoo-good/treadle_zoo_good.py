"""Everything right: an executor, a source of two, a client, a policy and a family."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import attrs
from treadle import Executor, client, executor, hookimpl


@executor("zoo.echo")
async def echo(text: str) -> str:
    """Say it again."""
    return text


class Tools:
    """Two executors by one entry point."""

    def __init__(self, config: object) -> None:
        self.config = config

    def names(self) -> list[str]:
        """Both."""
        return ["zootool.upper", "zootool.lower"]

    def get(self, name: str) -> Callable[[str], str]:
        """A method of texts."""
        method = name.rpartition(".")[2]

        def work(text: str) -> str:
            """Change the case."""
            return str(getattr(text, method)())

        return work


@client("zoo")
@attrs.define
class Zoo:
    """A client that connects as its settings say."""

    mood: str = "well"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Connect, in one of three moods."""
        if self.mood == "refuses":
            raise ConnectionRefusedError("nobody listens\nat all")
        if self.mood == "hangs":
            await anyio.sleep_forever()
        if self.mood == "exits":
            os._exit(9)
        yield "connection"

    async def check(self) -> None:
        """Ask the service, which may be ill."""
        if self.mood == "ill":
            raise RuntimeError("the service is ill")


class Quiet:
    """A policy without an opinion."""

    @hookimpl
    def execute(self) -> None:
        """Decline."""


class ZooExecutor(Executor):
    """A family."""

    family = "zoo"
