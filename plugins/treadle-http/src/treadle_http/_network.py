"""Connections that go to checked addresses only: each is checked when it is made, and made to what was checked."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Sequence

import anyio
import attrs
import httpcore2
import httpx2

from treadle_http._addresses import Address, AllowList, distinct, is_local_name, normal, spelled_address, why_refused
from treadle_http._messages import AddressRefusedError

_NEXT_ADDRESS_S = 0.25  # RFC 8305: how long one address may take before the next is tried beside it
_SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@attrs.frozen
class Guard:
    """Decides where requests may go.

    Attributes:
        allow: What is opened beside the public internet.
        ports: Ports that may be asked; what ``allow`` opens is open on all.
        trusted: Hosts and ports that the settings themselves name: the origin of ``base_url``, the proxy.
        is_proxied: Whether a proxy looks names up, so that only spelled addresses can be checked here.
    """

    allow: AllowList
    ports: frozenset[int]
    trusted: frozenset[tuple[str, int]] = frozenset()
    is_proxied: bool = False

    def check_url(self, url: httpx2.URL) -> None:
        """Refuse what can be seen from a URL alone, before anything is looked up.

        Raises:
            AddressRefusedError: The host spells an address that must not be asked, or the port is not open.
        """
        address = spelled_address(url.host)
        if address is not None:
            self.check(url.host, port_of(url), [address])
        elif self.is_proxied and not self._is_open(url.host, port_of(url)):
            if is_local_name(url.host):
                raise AddressRefusedError(url.host, f"{url.host!r} is a name of the inner network", url.host)
            self._check_port(url.host, port_of(url))

    def check(self, host: str, port: int, addresses: Sequence[Address]) -> None:
        """Refuse a host unless every address that it has may be asked.

        Raises:
            AddressRefusedError: One of them must not, or the port is not open.
        """
        if self._is_open(host, port):
            return
        for address in addresses:
            if self.allow.holds(address):
                continue
            if why := why_refused(address):
                raise AddressRefusedError(host, f"{address} is {why}", str(address))
            self._check_port(host, port)

    def _is_open(self, host: str, port: int) -> bool:
        return (normal(host), port) in self.trusted or self.allow.names(host)

    def _check_port(self, host: str, port: int) -> None:
        if port not in self.ports:
            raise AddressRefusedError(host, f"port {port} is not open", host, port=port)


@attrs.frozen(eq=False)
class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Looks names up, checks what they lead to, and connects to exactly that.

    A name that leads elsewhere when it is asked again (DNS rebinding) changes nothing: it is asked once.
    """

    inner: httpcore2.AsyncNetworkBackend
    guard: Guard

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- the library's signature
        local_address: str | None = None,
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that answers."""
        addresses = await _look_up(host, port)
        self.guard.check(host, port, addresses)
        options = list(socket_options or ())
        if len(addresses) == 1:
            return await self.inner.connect_tcp(str(addresses[0]), port, timeout, local_address, options)
        return await _Race(self.inner, port, timeout, local_address, options).won(addresses)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 -- the library's signature
        socket_options: Iterable[_SocketOption] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Refuse: nothing asks for one."""
        raise AddressRefusedError(path, "it is a socket of this machine", path)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self.inner.sleep(seconds)


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """The library's transport, connecting through a guard.

    The library has no public way to hand it a network backend. Should its insides change, this fails when the client is
    opened; it never connects unguarded.
    """

    def __init__(self, guard: Guard, *, verify: ssl.SSLContext | bool, http2: bool, proxy: httpx2.Proxy | None) -> None:
        super().__init__(verify=verify, trust_env=False, http2=http2, proxy=proxy)
        inner = self._pool._network_backend
        if not isinstance(inner, httpcore2.AsyncNetworkBackend):
            raise TypeError("httpx2 is of a version that treadle-http does not know; nothing is sent unguarded")
        self._pool._network_backend = GuardedBackend(inner, guard)


def port_of(url: httpx2.URL) -> int:
    """The port that a URL leads to."""
    return url.port or (443 if url.scheme == "https" else 80)


@attrs.define
class _Race:
    """Attempts to connect, each begun when the one before has failed or is slow."""

    inner: httpcore2.AsyncNetworkBackend
    port: int
    timeout: float | None
    local_address: str | None
    options: list[_SocketOption]
    winner: httpcore2.AsyncNetworkStream | None = None
    error: Exception | None = None

    async def won(self, addresses: Sequence[Address]) -> httpcore2.AsyncNetworkStream:
        async with anyio.create_task_group() as attempts:
            for address in addresses:
                failed = anyio.Event()
                attempts.start_soon(self._attempt, str(address), failed, attempts.cancel_scope)
                with anyio.move_on_after(_NEXT_ADDRESS_S):
                    await failed.wait()
        if self.winner is None:
            assert self.error is not None, "an attempt wins or fails"
            raise self.error
        return self.winner

    async def _attempt(self, address: str, failed: anyio.Event, all_attempts: anyio.CancelScope) -> None:
        try:
            stream = await self.inner.connect_tcp(address, self.port, self.timeout, self.local_address, self.options)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            self.error = error
            failed.set()
            return
        if self.winner is None:
            self.winner = stream
            all_attempts.cancel()
        else:
            with anyio.CancelScope(shield=True):
                await stream.aclose()


async def _look_up(host: str, port: int) -> list[Address]:
    address = spelled_address(host)
    if address is not None:
        return [address]
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:  # Errors of name services are among them.
        raise httpcore2.ConnectError(f"{host}: {error.strerror or error}") from error
    except UnicodeError as error:  # A label that is empty or too long.
        raise httpcore2.ConnectError(f"{host!r} cannot be looked up: {error}") from error
    return distinct([str(place[0]) for *_, place in found])
