"""Which addresses a request may go to: none that only this machine or its network can reach, in whatever form it is written."""

from __future__ import annotations

import functools
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Spelled out rather than left to ``is_global``, whose answers differ between Python's releases.
_REFUSED: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "this machine"),
        ("10.0.0.0/8", "a private network"),
        ("100.64.0.0/10", "a carrier's or cloud's inner network"),
        ("127.0.0.0/8", "this machine"),
        ("168.63.129.16/32", "a cloud's inner services"),
        ("169.254.0.0/16", "link-local, where clouds keep credentials"),
        ("172.16.0.0/12", "a private network"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved for documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "a private network"),
        ("198.18.0.0/15", "reserved for measurements"),
        ("198.51.100.0/24", "reserved for documentation"),
        ("203.0.113.0/24", "reserved for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::1/128", "this machine"),
        ("64:ff9b:1::/48", "a translator of the inner network"),
        ("fc00::/7", "a private network"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "a private network"),
        ("ff00::/8", "multicast"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved for documentation"),
        ("3fff::/20", "reserved for documentation"),
    )
)
_PUBLIC_6 = IPv6Network("2000::/3")
# Prefixes that hold an IPv4 address, and the bit at which it ends; what is reached is that address.
_TRANSLATED: tuple[tuple[IPv6Network, int], ...] = (
    (IPv6Network("::ffff:0:0/96"), 128),  # mapped
    (IPv6Network("::ffff:0:0:0/96"), 128),  # SIIT
    (IPv6Network("::/96"), 128),  # compatible
    (IPv6Network("64:ff9b::/96"), 128),  # NAT64
    (IPv6Network("2002::/16"), 48),  # 6to4
)
_TEREDO = IPv6Network("2001::/32")
_ISATAP = (0x00005EFE, 0x02005EFE)
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
# Names that no public name service gives out.
_LOCAL_NAMES = ("localhost", "local", "internal", "localdomain", "lan", "home.arpa")


@attrs.frozen
class AllowList:
    """Hosts and networks that are opened although they are not public.

    Attributes:
        networks: Addresses that may be asked, whatever name leads there.
        hosts: Names that may be asked, wherever they lead.
        domains: The same for all names beneath these.
    """

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    domains: tuple[str, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AllowList:
        """From addresses, networks (``10.0.0.0/8``), names, and ``*.`` before a name for all beneath it.

        Raises:
            ValueError: An entry is none of them.
        """
        networks: list[Network] = []
        names: list[str] = []
        for entry in entries:
            try:
                networks.append(ip_network(entry))
            except ValueError as error:
                name = normal(entry)
                is_odd = spelled_address(name.removeprefix("*.")) is not None
                if "/" in entry or is_odd or not _HOST.fullmatch(name):
                    raise ValueError(f"{entry!r} is no address, network or host name ({error})") from None
                names.append(name)
        hosts = frozenset(name for name in names if not name.startswith("*."))
        return cls(tuple(networks), hosts, tuple(name[1:] for name in names if name.startswith("*.")))

    def names(self, host: str) -> bool:
        """Whether a host is opened by its name."""
        host = normal(host)
        return host in self.hosts or host.endswith(self.domains)

    def holds(self, address: Address) -> bool:
        """Whether an address is opened, as it stands or as the IPv4 address that it holds."""
        if any(address.version == network.version and address in network for network in self.networks):
            return True
        inner = list(_translated(address))
        return bool(inner) and all(self.holds(each) for each in inner)


def why_refused(address: Address) -> str:
    """What an address is that must not be asked; empty for one on the public internet.

    Addresses that hold another (mapped, NAT64, 6to4, Teredo, ISATAP ...) are what the one inside is.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "link-local"
    inner = list(_translated(address))
    for each in [*inner, *_isatap(address)]:
        if why := why_refused(each):
            return why
    if inner:
        return ""
    for network, what in _REFUSED:
        if address.version == network.version and address in network:
            return what
    return "" if isinstance(address, IPv4Address) or address in _PUBLIC_6 else "not on the public internet"


@functools.lru_cache(maxsize=1024)
def spelled_address(host: str) -> Address | None:
    """The address that a host spells, also as ``127.1``, ``0x7f000001`` or ``017700000001``; None for a name."""
    host = normal(host).strip("[]")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError, ValueError):
        return None


def is_local_name(host: str) -> bool:
    """Whether a name can only mean something near: ``localhost``, ``printer``, ``x.internal``."""
    host = normal(host)
    return "." not in host or host.endswith(tuple(f".{name}" for name in _LOCAL_NAMES)) or host in _LOCAL_NAMES


def normal(host: str) -> str:
    """A host as it is compared: ``LOCALHOST.`` is ``localhost``."""
    return host.lower().rstrip(".")


def distinct(addresses: Sequence[str]) -> list[Address]:
    """Addresses as a name service answered them, each once, in order."""
    return [ip_address(each) for each in dict.fromkeys(addresses)]


def _translated(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, IPv4Address):
        return
    bits = int(address)
    for network, end in _TRANSLATED:
        if address in network:
            yield IPv4Address((bits >> (128 - end)) & 0xFFFFFFFF)
            return
    if address in _TEREDO:
        yield IPv4Address((bits >> 64) & 0xFFFFFFFF)  # the server
        yield IPv4Address(~bits & 0xFFFFFFFF)  # the client, which is written inverted


def _isatap(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 address in an interface's identifier, whatever network the address belongs to."""
    if isinstance(address, IPv6Address) and (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
