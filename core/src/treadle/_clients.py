"""Shared connections: each client lives in a task of its own, is opened once on first use and closed in reverse."""

from __future__ import annotations

import contextvars
import inspect
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Protocol

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from treadle.errors import PluginBrokenError, TreadleError

CLOSE_S = 5.0
"""How long one client may take to close."""

_log = logging.getLogger("treadle.clients")


class ClientSource(Protocol):
    """Where configured clients come from; the registry is one."""

    def client(self, name: str) -> object:
        """A new instance of the client with its settings."""


class _Host:
    """One client and the task that it lives in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settled = anyio.Event()
        """Open, or failed to open."""
        self.closing = anyio.Event()
        self.ended = anyio.Event()
        # Shielded: a cancelled run must not tear clients down in any order, with calls still using them.
        self.scope = anyio.CancelScope(shield=True)
        self.value: object = None
        self.error: BaseException | None = None


class ClientHosts:
    """Opens clients on first use and closes them, last opened first, when the block is left.

    A client that was opened within one call could not own a task group: it would be left from another task than it was entered
    from. So each has a host task, which also means that no call's cancellation reaches it.

    Args:
        source: Where configured clients come from.
    """

    def __init__(self, source: ClientSource) -> None:
        self._source = source
        self._hosts: dict[str, _Host] = {}
        self._group: TaskGroup | None = None
        self._context = contextvars.Context()

    async def __aenter__(self) -> ClientHosts:
        group = anyio.create_task_group()
        await group.__aenter__()
        # A host must not inherit the context of the call that happens to be first: its span would own the client's life.
        self._group, self._context = group, contextvars.copy_context()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        group, self._group = self._group, None
        assert group is not None, "left without having been entered"
        with anyio.CancelScope(shield=True):
            for host in reversed(list(self._hosts.values())):
                await _close(host)
        if isinstance(error, anyio.get_cancelled_exc_class()):
            await group.__aexit__(kind, error, trace)
        else:
            # No host is left, so the group has nothing to add; given the error it would wrap it in a group of exceptions.
            await group.__aexit__(None, None, None)

    async def get(self, name: str) -> object:
        """What the client's ``open()`` yields; opened now if nobody did before, once even when several calls ask together.

        Raises:
            TreadleError: The client cannot be had, see ``Registry.client``.
            Exception: What ``open()`` raised, to everybody who waits for it; the next call tries again.
        """
        host = self._hosts.get(name) or self._start(name)
        if not host.settled.is_set():  # waiting would give way to other tasks in every call
            await host.settled.wait()
        if host.error is not None:
            raise host.error
        return host.value

    def _start(self, name: str) -> _Host:
        if self._group is None:
            raise TreadleError(f"Client {name!r} was asked for outside of a run.", "Use ClientHosts in an 'async with' block.")
        host = self._hosts[name] = _Host(name)
        self._context.copy().run(self._group.start_soon, self._live, host)
        return host

    async def _live(self, host: _Host) -> None:
        """The whole life of a client."""
        try:
            with host.scope:
                client = await anyio.to_thread.run_sync(self._source.client, host.name, abandon_on_cancel=True)
                async with _entered(client, host.name) as host.value:
                    # Closed in the order of being open, not of being asked for.
                    self._hosts[host.name] = self._hosts.pop(host.name)
                    host.settled.set()
                    await host.closing.wait()
        except (KeyboardInterrupt, anyio.get_cancelled_exc_class()):
            raise  # not the client's doing
        except BaseException as error:  # whatever a stranger's open or close raises
            _note(host, error)
        finally:
            self._end(host)

    def _end(self, host: _Host) -> None:
        if host.scope.cancelled_caught and host.settled.is_set():
            _log.error("client %r did not close within %g s and was cancelled", host.name, CLOSE_S)
        if not host.settled.is_set() and host.error is None:
            host.error = TreadleError(f"Client {host.name!r} was still being opened when the run ended.")
        if self._hosts.get(host.name) is host:
            del self._hosts[host.name]
        host.settled.set()
        host.ended.set()


def _note(host: _Host, error: BaseException) -> None:
    """Keep an error of opening for those who wait; log one that nobody waits for."""
    if host.settled.is_set():
        when = "when it was closed" if host.closing.is_set() else "while it was open; the next call opens it again"
        _log.error("client %r failed %s: %s: %s", host.name, when, type(error).__name__, error, exc_info=error)
    elif isinstance(error, Exception):
        error.add_note(f"while opening client {host.name!r}")
        host.error = error
    else:
        host.error = TreadleError(
            f"Opening client {host.name!r} raised {type(error).__name__}: {error}",
            "A client may raise ordinary exceptions only; tell its authors.",
        )


async def _close(host: _Host) -> None:
    if host.settled.is_set():
        host.closing.set()
        host.scope.deadline = anyio.current_time() + CLOSE_S
    else:
        host.scope.cancel()  # nobody waits for it any more
    await host.ended.wait()


@asynccontextmanager
async def _entered(client: object, name: str) -> AsyncIterator[object]:
    """What ``client.open()`` yields; a context manager that is not async is entered and left in a thread."""
    opened = client.open()  # type: ignore[attr-defined] # whoever provides the client has checked it
    if isinstance(opened, AbstractAsyncContextManager):
        async with opened as value:
            yield value
    elif isinstance(opened, AbstractContextManager):
        async with _in_thread(opened) as value:
            yield value
    else:
        if inspect.iscoroutine(opened):
            opened.close()  # one that is dropped warns
        raise PluginBrokenError(
            name,
            type(client).__module__,
            f"open() answers {type(opened).__name__}, not a context manager",
            "Decorate open() with @asynccontextmanager (or @contextmanager) and yield what executors receive.",
        )


@asynccontextmanager
async def _in_thread(opened: AbstractContextManager[object]) -> AsyncIterator[object]:
    yield await _Entering(opened).enter()
    # Without the exception: only the end of the run, never a call, leads here.
    await anyio.to_thread.run_sync(opened.__exit__, None, None, None, abandon_on_cancel=True)


class _Entering:
    """Enters a context manager in a thread; when nobody waits any more, the thread leaves it again."""

    def __init__(self, manager: AbstractContextManager[object]) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self._entered = self._abandoned = False

    async def enter(self) -> object:
        try:
            return await anyio.to_thread.run_sync(self._in_thread, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            with self._lock:
                self._abandoned = True
            if self._entered:  # it was ready in the same moment
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._manager.__exit__, None, None, None)
            raise

    def _in_thread(self) -> object:
        value = self._manager.__enter__()
        with self._lock:
            self._entered = not self._abandoned
        if not self._entered:
            self._manager.__exit__(None, None, None)
        return value
