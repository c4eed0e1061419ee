"""Clients live in tasks of their own: opened once, on first use, closed in reverse, whatever happens around them."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.lowlevel
import attrs
import pytest
from treadle import _clients
from treadle._clients import ClientHosts
from treadle.errors import PluginBrokenError, TreadleError

pytestmark = pytest.mark.anyio


@attrs.define
class Source:
    """Clients by name, and how often each was asked for."""

    makers: dict[str, Callable[[], object]]
    asked: list[str] = attrs.field(factory=list)

    def client(self, name: str) -> object:
        """A new client."""
        self.asked.append(name)
        return self.makers[name]()


@attrs.define
class Recorded:
    """A client that writes down its life."""

    name: str
    diary: list[str]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Take a moment, like a connection."""
        self.diary.append(f"open {self.name}")
        await anyio.sleep(0.01)
        try:
            yield f"connection {self.name}"
        finally:
            self.diary.append(f"close {self.name}")


def recorded(*names: str) -> tuple[Source, list[str]]:
    """A source of recorded clients and their common diary."""
    diary: list[str] = []
    return Source({name: lambda name=name: Recorded(name, diary) for name in names}), diary  # type: ignore[misc] # a lambda's default


async def test_clients_open_on_first_use_and_close_in_reverse() -> None:
    """What is not used is not opened; the last one opened is closed first."""
    source, diary = recorded("a", "b", "c")

    async with ClientHosts(source) as hosts:
        assert diary == []
        assert [await hosts.get(name) for name in ("b", "a", "b")] == ["connection b", "connection a", "connection b"]

    assert diary == ["open b", "open a", "close a", "close b"]
    assert source.asked == ["b", "a"]


async def test_calls_that_ask_together_get_one_connection() -> None:
    """Twenty calls at once open a client once."""
    source, diary = recorded("a")
    got: list[object] = []

    async with ClientHosts(source) as hosts, anyio.create_task_group() as group:

        async def call() -> None:
            got.append(await hosts.get("a"))

        for _ in range(20):
            group.start_soon(call)

    assert got == ["connection a"] * 20
    assert diary == ["open a", "close a"]


async def test_a_client_may_own_a_task_group() -> None:
    """Opened within one call and closed at the end of the run, yet entered and left in one task."""
    ticks: list[int] = []
    often = anyio.Event()

    class Ticking:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[list[int]]:
            async with anyio.create_task_group() as group:
                group.start_soon(self.tick)
                yield ticks
                group.cancel_scope.cancel()

        async def tick(self) -> None:
            while True:
                ticks.append(1)
                if len(ticks) > 3:
                    often.set()
                await anyio.sleep(0.001)

    async with ClientHosts(Source({"tick": Ticking})) as hosts:
        async with anyio.create_task_group() as group:
            group.start_soon(hosts.get, "tick")
        await often.wait()

    ended = len(ticks)
    await anyio.sleep(0.01)
    assert len(ticks) == ended


async def test_a_failed_opening_is_raised_to_all_and_tried_again() -> None:
    """Whoever waits gets the very error; the next call opens anew."""
    attempts: list[int] = []

    class Flaky:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[str]:
            attempts.append(1)
            await anyio.sleep(0.01)
            if len(attempts) == 1:
                raise ConnectionRefusedError("port 5432")
            yield "connection"

    errors: list[str] = []

    async with ClientHosts(Source({"db": Flaky})) as hosts:

        async def call() -> None:
            try:
                await hosts.get("db")
            except ConnectionRefusedError as error:
                errors.append(f"{error} {error.__notes__[0]}")

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            group.start_soon(call)

        assert await hosts.get("db") == "connection"

    assert errors[0].startswith("port 5432 while opening client 'db'")
    assert len(errors) == 2
    assert len(attempts) == 2


async def test_an_error_of_the_source_reaches_the_caller() -> None:
    """A client that cannot even be made is an error of the call, and of no other."""
    source, _ = recorded("a")

    async with ClientHosts(source) as hosts:
        with pytest.raises(KeyError, match="nowhere"):
            await hosts.get("nowhere")
        assert await hosts.get("a") == "connection a"


async def test_a_context_manager_that_is_not_async_lives_in_threads() -> None:
    """Opening and closing may block; the event loop goes on."""
    threads: list[int] = []

    class Blocking:
        @contextmanager
        def open(self) -> Iterator[str]:
            threads.append(threading.get_ident())
            yield "connection"
            threads.append(threading.get_ident())

    async with ClientHosts(Source({"db": Blocking})) as hosts:
        assert await hosts.get("db") == "connection"

    assert len(threads) == 2
    assert threading.get_ident() not in threads


async def test_a_blocking_opening_that_nobody_waits_for_is_left_again() -> None:
    """The run ends while a thread is still connecting: what it connected is closed."""
    entered, go_on, left = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        @contextmanager
        def open(self) -> Iterator[str]:
            entered.set()
            go_on.wait(60)
            yield "connection"
            left.set()

    async with ClientHosts(Source({"db": Slow})) as hosts, anyio.create_task_group() as group:
        group.start_soon(hosts.get, "db")
        await anyio.to_thread.run_sync(entered.wait, 60)
        group.cancel_scope.cancel()
    go_on.set()

    assert await anyio.to_thread.run_sync(left.wait, 60)


async def test_open_must_answer_a_context_manager() -> None:
    """The usual mistake, an ``async def open`` without the decorator, says what is missing."""

    class Wrong:
        async def open(self) -> str:
            return "connection"

    async with ClientHosts(Source({"db": Wrong})) as hosts:
        with pytest.raises(PluginBrokenError, match="answers coroutine, not a context manager") as caught:
            await hosts.get("db")

    assert "@asynccontextmanager" in caught.value.remedy


async def test_an_opening_that_tries_to_end_the_process_does_not() -> None:
    """SystemExit in a client is that client's failure."""

    class Quitter:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[str]:
            if self:
                raise SystemExit(3)
            yield "never"

    async with ClientHosts(Source({"db": Quitter})) as hosts:
        with pytest.raises(TreadleError, match="Opening client 'db' raised SystemExit: 3"):
            await hosts.get("db")


async def test_a_cancelled_run_closes_in_reverse_and_with_time_to_do_it() -> None:
    """Cancellation reaches calls, not clients: each closes in order, and may await while it does."""
    diary: list[str] = []

    class Polite:
        def __init__(self, name: str) -> None:
            self.name = name

        @asynccontextmanager
        async def open(self) -> AsyncIterator[None]:
            try:
                yield
            finally:
                await anyio.sleep(0.01)
                diary.append(self.name)

    source = Source({name: lambda name=name: Polite(name) for name in "abc"})  # type: ignore[misc] # a lambda's default
    with anyio.CancelScope() as scope:
        async with ClientHosts(source) as hosts:
            for name in "abc":
                await hosts.get(name)
            scope.cancel()
            await anyio.sleep_forever()

    assert scope.cancelled_caught
    assert diary == ["c", "b", "a"]


async def test_a_cancelled_call_does_not_end_the_opening() -> None:
    """The first call gives up; the second gets the connection that the first one asked for."""
    source, diary = recorded("a")

    async with ClientHosts(source) as hosts:
        async with anyio.create_task_group() as group:
            group.start_soon(hosts.get, "a")
            while diary != ["open a"]:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        assert await hosts.get("a") == "connection a"

    assert diary == ["open a", "close a"]


async def test_an_opening_that_never_ends_is_cancelled_with_the_run() -> None:
    """Nobody waits any more: the client's own clean-up runs, nothing stays."""
    diary: list[str] = []

    class Endless:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[None]:
            diary.append("opening")
            try:
                await anyio.sleep_forever()
                yield
            finally:
                diary.append("given up")

    with anyio.fail_after(60):
        async with ClientHosts(Source({"db": Endless})) as hosts, anyio.create_task_group() as group:
            group.start_soon(hosts.get, "db")
            while not diary:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    assert diary == ["opening", "given up"]


async def test_an_error_on_closing_is_logged_and_the_others_still_close(caplog: pytest.LogCaptureFixture) -> None:
    """A run that went well does not fail because of a connection's end."""
    source, diary = recorded("a", "c")

    class Grumpy:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[str]:
            yield "connection"
            raise OSError("broken pipe")

    source.makers["b"] = Grumpy

    async with ClientHosts(source) as hosts:
        for name in "abc":
            await hosts.get(name)

    assert diary == ["open a", "open c", "close c", "close a"]
    assert caplog.record_tuples == [
        ("treadle.clients", logging.ERROR, "client 'b' failed when it was closed: OSError: broken pipe")
    ]


async def test_a_closing_that_hangs_is_cut_short(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client has its own few seconds; the next one closes all the same."""
    monkeypatch.setattr(_clients, "CLOSE_S", 0.05)
    source, diary = recorded("a")

    class Hanging:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[str]:
            yield "connection"
            await anyio.sleep_forever()

    source.makers["b"] = Hanging

    with anyio.fail_after(60):
        async with ClientHosts(source) as hosts:
            for name in "ab":
                await hosts.get(name)

    assert diary == ["open a", "close a"]
    assert [record.getMessage() for record in caplog.records] == ["client 'b' did not close within 0.05 s and was cancelled"]


async def test_a_client_that_dies_in_use_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    """Its background task failed: that is logged, and the next call gets a new connection."""
    opened: list[anyio.Event] = []

    class Mortal:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[int]:
            opened.append(anyio.Event())
            async with anyio.create_task_group() as group:
                group.start_soon(self.live, opened[-1])
                yield len(opened)
                group.cancel_scope.cancel()

        async def live(self, until: anyio.Event) -> None:
            await until.wait()
            raise ConnectionResetError("peer")

    source = Source({"db": Mortal})
    async with ClientHosts(source) as hosts:
        assert await hosts.get("db") == 1
        opened[0].set()
        while not caplog.records:
            await anyio.lowlevel.checkpoint()
        assert await hosts.get("db") == 2

    assert "client 'db' failed while it was open; the next call opens it again" in caplog.records[0].getMessage()
    assert len(caplog.records) == 1


async def test_an_error_of_the_run_leaves_as_it_is() -> None:
    """No exception group around it, and the clients are closed."""
    source, diary = recorded("a")

    async def run() -> None:
        async with ClientHosts(source) as hosts:
            await hosts.get("a")
            raise ValueError("of the run")

    with pytest.raises(ValueError, match="of the run"):
        await run()
    assert diary == ["open a", "close a"]


async def test_a_client_does_not_inherit_the_context_of_the_call_that_came_first() -> None:
    """Its life is longer than that of the call, whose span it must not belong to."""
    where = contextvars.ContextVar("where", default="nowhere")
    seen: list[str] = []

    class Looking:
        @asynccontextmanager
        async def open(self) -> AsyncIterator[None]:
            seen.append(where.get())
            yield

    where.set("run")
    async with ClientHosts(Source({"db": Looking})) as hosts:
        where.set("call")
        await hosts.get("db")

    assert seen == ["run"]


async def test_no_client_outside_of_the_block() -> None:
    """Asking too early or too late is an error that says so."""
    source, _ = recorded("a")
    hosts = ClientHosts(source)

    with pytest.raises(TreadleError, match="outside of a run"):
        await hosts.get("a")
    async with hosts:
        await hosts.get("a")
    with pytest.raises(TreadleError, match="outside of a run"):
        await hosts.get("a")
