"""A client for tests: answers what it was told to answer, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.lowlevel
import attrs

from treadle._secrets import Secret

__all__ = ["Asked", "FakeClient"]


@attrs.frozen
class Asked:
    """One call of a method of what a fake client opened."""

    method: str
    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = attrs.field(factory=dict)


@attrs.define(eq=False)
class FakeClient:
    """Stands for any client: ``open()`` yields an object that has every method that is asked of it.

    Each need has one of its own: ``clients = {"mail": FakeClient({"send": "id-1"})}``. A fake that has more to say derives from
    it and overrides ``session``.

    Attributes:
        answers: Method -> its answer; an exception is raised, a function is called with the arguments, an iterator is asked for
            the next of these each time. A method without one answers None.
        is_sync: Whether its methods are to be called without ``await``, as a ``def`` executor does.
        secret: Stands for the client's credentials; the kit puts one in to see that it gets nowhere.
        stalls: Whether every call waits for ever, like a service that does not answer. The kit sets it.
        asked: What its methods were asked, in order.
        opens: How often it was opened.
        closes: How often it was closed.
        closed_by: Names of the methods by which an executor closed what is not its own.
    """

    answers: Mapping[str, object] = attrs.field(factory=dict, repr=False)
    is_sync: bool = attrs.field(default=False, kw_only=True)
    secret: Secret | None = attrs.field(default=None, kw_only=True)
    stalls: bool = attrs.field(default=False, kw_only=True)
    # What it was asked may hold secrets of a step, and the kit looks for those in what is shown.
    asked: list[Asked] = attrs.field(factory=list, init=False, repr=False)
    opens: int = attrs.field(default=0, init=False)
    closes: int = attrs.field(default=0, init=False)
    closed_by: list[str] = attrs.field(factory=list, init=False)

    def open(self) -> object:
        """A context manager, async unless ``is_sync``."""
        return self._open_sync() if self.is_sync else self._open_async()

    @contextmanager
    def _open_sync(self) -> Iterator[object]:
        self.opens += 1
        try:
            yield self.session()
        finally:
            self.closes += 1

    @asynccontextmanager
    async def _open_async(self) -> AsyncIterator[object]:
        with self._open_sync() as session:
            yield session

    def session(self) -> object:
        """What executors receive; a new one each time it is opened."""
        return _Session(self)

    async def ask(self, method: str, *args: object, **kwargs: object) -> object:
        """Note a call and answer it; waits for ever when the client stalls."""
        if self.stalls:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        return self.ask_sync(method, *args, **kwargs)

    def ask_sync(self, method: str, *args: object, **kwargs: object) -> object:
        """Note a call and answer it."""
        self.asked.append(Asked(method, args, kwargs))
        answer = self.answers.get(method)
        if isinstance(answer, Iterator):
            answer = next(answer)
        if isinstance(answer, BaseException):
            raise answer
        return answer(*args, **kwargs) if callable(answer) else answer


class _Session:
    """Has every method; after it was closed, none."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self._is_closed = False

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("close", "aclose"):
            return lambda: self._close(name)
        if self._is_closed:
            raise RuntimeError(f"{name}() was called after the client was closed.")
        ask = self._client.ask_sync if self._client.is_sync else self._client.ask
        return lambda *args, **kwargs: ask(name, *args, **kwargs)

    def _close(self, how: str) -> object:
        self._is_closed = True
        self._client.closed_by.append(how)
        return _nothing() if how == "aclose" or not self._client.is_sync else None


async def _nothing() -> None:
    await anyio.lowlevel.checkpoint()
