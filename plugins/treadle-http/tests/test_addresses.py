"""Which addresses are on the public internet, in every form that one can be written in."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle_http._addresses import AllowList, is_local_name, spelled_address, why_refused

INNER = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1", "198.19.255.255", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1", "2001:db8::1",
    "3fff::1", "64:ff9b:1::8.8.8.8", "5f00::1", "2001:10::1", "2001:2::1",
]  # fmt: skip
OUTER = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.0.1.1", "2606:4700::1111", "2a00:1450:4001::200e"]


@pytest.mark.parametrize("address", INNER)
def test_inner_addresses_are_refused(address: str) -> None:
    """Private, loopback, link-local, metadata, carrier's, multicast and reserved addresses are named as what they are."""
    assert why_refused(ip_address(address))


@pytest.mark.parametrize("address", OUTER)
def test_public_addresses_are_not_refused(address: str) -> None:
    """What is on the public internet may be asked."""
    assert why_refused(ip_address(address)) == ""


def embedding(inner: IPv4Address) -> list[IPv6Address]:
    """Every form of IPv6 address that leads to an IPv4 address."""
    bits = int(inner)
    return [
        IPv6Address(0xFFFF << 32 | bits),  # mapped
        IPv6Address(0xFFFF << 48 | bits),  # SIIT
        IPv6Address(bits),  # compatible
        IPv6Address(int(IPv6Address("64:ff9b::")) | bits),  # NAT64
        IPv6Address(0x2002 << 112 | bits << 80 | 1),  # 6to4
        IPv6Address(0x20010000 << 96 | bits << 64 | ~int(IPv4Address("8.8.8.8")) & 0xFFFFFFFF),  # Teredo, by its server
        IPv6Address(0x20010000 << 96 | int(IPv4Address("8.8.8.8")) << 64 | ~bits & 0xFFFFFFFF),  # and by its client
        IPv6Address(int(IPv6Address("2a00:1450::")) | 0x00005EFE << 32 | bits),  # ISATAP
        IPv6Address(int(IPv6Address("2a00:1450::")) | 0x02005EFE << 32 | bits),
    ]


@given(address=st.sampled_from([each for each in INNER if ":" not in each and each != "0.0.0.0"]))
def test_no_form_hides_an_inner_address(address: str) -> None:
    """Mapped, translated, tunnelled: what is inside is what counts, and is named as itself."""
    inner = ip_address(address)
    assert isinstance(inner, IPv4Address)

    assert {why_refused(each) for each in embedding(inner)} == {why_refused(inner)}


@given(address=st.ip_addresses(v=4))
def test_a_form_of_an_address_is_what_the_address_is(address: IPv4Address) -> None:
    """For every IPv4 address each form of it is refused exactly when it is."""
    assert {bool(why_refused(each)) for each in embedding(address)[:7]} == {bool(why_refused(address))} or int(address) < 2


@pytest.mark.parametrize(
    "spelling",
    ["127.0.0.1", "127.1", "127.0.1", "0x7f000001", "0x7f.1", "2130706433", "0177.0.0.1", "017700000001", "127.0.0.1."],
)
def test_an_address_is_seen_through_its_spelling(spelling: str) -> None:
    """Short, hexadecimal, octal and whole-number forms are the address that the system would connect to."""
    assert spelled_address(spelling) == IPv4Address("127.0.0.1")


@pytest.mark.parametrize("name", ["example.org", "a1.b2", "0x7g", "1.2.3.4.5", "", "bad"])
def test_a_name_spells_no_address(name: str) -> None:
    """What the system would look up is not taken for an address."""
    assert spelled_address(name) is None


def test_the_allow_list_opens_addresses_networks_and_names() -> None:
    """An entry opens itself, in every form of it, and nothing beside it."""
    allow = AllowList.parse(["127.0.0.1", "10.0.0.0/8", "fd00::/8", "Printer.lan.", "*.corp.example"])

    for address in ("127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::10.1.1.1", "fd12::1"):
        assert allow.holds(ip_address(address))
    for address in ("127.0.0.2", "11.0.0.1", "::1", "::ffff:192.168.0.1", "8.8.8.8"):
        assert not allow.holds(ip_address(address))
    assert [allow.names(name) for name in ("printer.LAN", "a.b.corp.example.")] == [True, True]
    assert [allow.names(name) for name in ("corp.example", "xcorp.example", "x.printer.lan", "corp.example.evil.org")] == [
        False
    ] * 4


@pytest.mark.parametrize("entry", ["", "*", "10.0.0.5/8", "http://a", "a b", "127.1", "a:80", "*.", "0x7f000001", "*.1"])
def test_entries_that_cannot_be_meant_are_refused(entry: str) -> None:
    """Host bits, URLs, ports and odd spellings of addresses are errors, not entries that open something else."""
    with pytest.raises(ValueError, match="no address, network or host name"):
        AllowList.parse([entry])


def test_names_of_the_inner_network_are_known() -> None:
    """What no public name service can know is told without asking one."""
    for name in ("localhost", "LOCALHOST.", "a.localhost", "metadata.google.internal", "printer", "nas.local", "x.home.arpa"):
        assert is_local_name(name)
    for name in ("example.org", "internal.example.org", "localhost.example.org"):
        assert not is_local_name(name)
