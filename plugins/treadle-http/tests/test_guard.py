"""No request reaches what is not on the public internet, whatever leads there; a canary on this machine listens for one."""

from __future__ import annotations

import contextlib
import errno
import socket
import urllib.parse
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from treadle.errors import ConfigError, PermanentError, TreadleError
from treadle.ports import Context
from treadle_http import AddressRefusedError, Http, HttpClient, HttpConnectionError, HttpPermanentError, _network, request

pytestmark = pytest.mark.anyio


Listen = Callable[..., Any]
Names = dict[str, list[list[str]]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """A name service: name -> its answers, one after the other, of which the last repeats."""
    known: Names = {}
    original = socket.getaddrinfo

    def answered(host: Any, port: Any, *rest: Any, **options: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in known:
            return original(host, port, *rest, **options)
        answer = known[name].pop(0) if len(known[name]) > 1 else known[name][0]
        return [entry for address in answer for entry in original(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", answered)
    return known


@contextlib.asynccontextmanager
async def opened(*ports: int, **settings: Any) -> AsyncIterator[HttpClient]:
    """A client as it is by default, but for the ports, so that only the address can be what is refused."""
    async with Http(**{"ports": (80, 443, *ports), "timeout_s": 60, **settings}).open() as http:
        yield http


LOOPBACK = [
    "127.0.0.1", "127.1", "127.0.1", "0x7f000001", "0x7f.1", "0X7F.0.0.1", "2130706433", "0177.0.0.1", "017700000001", "0",
    "0.0.0.0", "127.0.0.1.", "127.127.127.127", "localhost", "LOCALHOST", "localhost.", "LocalHost.",
    "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:0:127.0.0.1]", "[::127.0.0.1]",
    "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:7f00:1::1]",
    "[2001:0:7f00:1::]", "[2001:0:808:808::80ff:fffe]", "[2606:4700::5efe:7f00:1]", "[2606:4700::200:5efe:7f00:1]",
    "[fe80::1%25lo]", "[fe80::1%25eth0]", "[::1%25lo]",
    "①②⑦.⓪.⓪.①", "127。0。0。1", "\uff11\uff12\uff17.0.0.1", "127\uff0e0\uff0e0\uff0e1", "%31%32%37.0.0.1",
    "127.0.0.1%00.example.org",
]  # fmt: skip
METADATA = [
    "169.254.169.254", "169.254.170.2", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16",
    "192.0.0.192", "10.0.0.1", "192.168.1.1", "172.16.0.1", "224.0.0.1", "[ff02::1]", "255.255.255.255",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK)
async def test_no_spelling_of_this_machine_is_asked(ctx: Context, canary: Any, host: str) -> None:
    """Short, octal, hexadecimal, whole-number, mapped, translated, tunnelled, zoned and Unicode forms reach nothing."""
    async with opened(canary.port) as http:
        with pytest.raises((AddressRefusedError, HttpPermanentError, HttpConnectionError)):
            await request(http, ctx, url=f"http://{host}:{canary.port}/echo")

    assert canary.connections == 0


@pytest.mark.parametrize("host", METADATA)
async def test_no_spelling_of_an_inner_address_is_asked(ctx: Context, host: str) -> None:
    """Where clouds keep credentials, and every private, shared, multicast and reserved network, is refused at once."""
    async with opened() as http:
        with pytest.raises(HttpPermanentError, match=r"allow = |Invalid IPv4 address") as refused:
            await request(http, ctx, url=f"http://{host}/latest/meta-data/")

    assert refused.value.retryable is False


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("metadata.google.internal", ["169.254.169.254"]),
        ("169.254.169.254.nip.io", ["169.254.169.254"]),
        ("inside.example.org", ["10.2.3.4"]),
        ("six.example.org", ["fd00:ec2::254"]),
        ("translated.example.org", ["64:ff9b::a9fe:a9fe"]),
        ("six-to-four.example.org", ["2002:a9fe:a9fe::"]),
        ("mixed.example.org", ["8.8.8.8", "127.0.0.1"]),
        ("mixed.example.net", ["2606:4700::1111", "::ffff:127.0.0.1"]),
    ],
)
async def test_a_name_is_what_it_leads_to(ctx: Context, names: Names, name: str, answer: list[str]) -> None:
    """A name is refused when any of its addresses is, although others are not."""
    names[name] = [answer]
    async with opened() as http:
        with pytest.raises(AddressRefusedError, match=f"{name!r} are refused"):
            await request(http, ctx, url=f"http://{name}/")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org@127.0.0.1:{port}/echo",
        "http://example.org:80@127.0.0.1:{port}/echo",
        "http://127.0.0.1:{port}\\@example.invalid/echo",
        "http://example.invalid\\@127.0.0.1:{port}/echo",
        "http://example.invalid\\.127.0.0.1:{port}/echo",
        "http:127.0.0.1:{port}/echo",
        "http:/127.0.0.1:{port}/echo",
        "http:///127.0.0.1:{port}/echo",
        "//127.0.0.1:{port}/echo",
        "http://127.0.0.1:{port}#@example.invalid/",
        "http://127.0.0.1:{port}?@example.invalid/",
        " http://127.0.0.1:{port}/echo",
        "http://127.0.0.1:{port}\t/echo",
        "h\nttp://127.0.0.1:{port}/echo",
        "HTTP://127.0.0.1:{port}/echo",
        "http+unix://127.0.0.1:{port}/echo",
        "file://127.0.0.1:{port}/etc/passwd",
        "gopher://127.0.0.1:{port}/_GET",
        "dict://127.0.0.1:{port}/info",
        "ws://127.0.0.1:{port}/echo",
        "http://127.0.0.1:{port}/\r\nHost: evil",
    ],
)
async def test_no_form_of_url_is_read_in_two_ways(ctx: Context, canary: Any, url: str) -> None:
    """Users, backslashes, missing slashes, other schemes and line breaks do not lead past the check."""
    async with opened(canary.port) as http:
        with pytest.raises(TreadleError):
            await request(http, ctx, url=url.format(port=canary.port))

    assert canary.connections == 0


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "[::ffff:7f00:1]", "inner.test"])
async def test_a_redirect_leads_nowhere_else(
    ctx: Context, canary: Any, listen: Listen, names: Names, host: str, code: int
) -> None:
    """Each redirect is checked as the first URL was: neither an address nor a name may lead inwards."""
    names["front.test"], names["inner.test"] = [["127.0.0.1"]], [["127.0.0.1"]]
    front = listen()
    to = urllib.parse.quote(f"http://{host}:{canary.port}/echo", safe="")
    async with opened(canary.port, allow=("front.test",)) as http:
        with pytest.raises((AddressRefusedError, HttpConnectionError)):
            await request(http, ctx, url=f"http://front.test:{front.port}/to?code={code}&url={to}", method="POST", json=[1])

    assert len(front.seen) == 1
    assert canary.connections == 0


def neighbours(listen: Listen) -> tuple[Any, Any]:
    """Two services on one port of two addresses; where the port is taken on one of them, on another."""
    while True:
        first = listen("127.0.0.2")
        try:
            return first, listen("127.0.0.1", first.port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


async def test_a_name_that_changes_its_mind_changes_nothing(ctx: Context, listen: Listen, names: Names) -> None:
    """DNS rebinding: the connection goes to the address that was checked, and a new connection is checked anew."""
    names["rebind.test"] = [["127.0.0.2"], ["127.0.0.1"]]
    allowed, canary = neighbours(listen)
    async with opened(allowed.port, allow=("127.0.0.2",)) as http:
        url = f"http://rebind.test:{allowed.port}/echo"
        result = await request(http, ctx, url=url)
        again = await request(http, ctx, url=url)
        with contextlib.suppress(HttpConnectionError):
            await request(http, ctx, url=f"http://rebind.test:{allowed.port}/hangup")
        with pytest.raises(AddressRefusedError, match=r"127\.0\.0\.1 is this machine"):
            await request(http, ctx, url=url)

    assert (result.status, again.status, allowed.connections, canary.connections) == (200, 200, 1, 0)


async def test_the_allow_list_opens_an_address_and_nothing_beside_it(ctx: Context, canary: Any) -> None:
    """What ``allow`` names is asked, by whatever name and on any port; its neighbour is not."""
    async with opened(allow=("127.0.0.1", "::1")) as http:
        for host in ("127.0.0.1", "localhost", "127.1"):
            assert (await request(http, ctx, url=f"http://{host}:{canary.port}/echo")).status == 200
        with pytest.raises(AddressRefusedError):
            await request(http, ctx, url=f"http://127.0.0.2:{canary.port}/echo")
    async with opened(allow=("127.0.0.0/8",)) as http:
        assert (await request(http, ctx, url=f"http://127.0.0.2:{canary.port}/echo")).status == 200


async def test_the_origin_of_base_url_is_open(ctx: Context, services: tuple[Any, Any]) -> None:
    """What the settings name as the service is meant; another port of the same host is not."""
    home, other = services
    async with opened(base_url=home.url) as http:
        assert (await request(http, ctx, url="/echo")).status == 200
        with pytest.raises(AddressRefusedError):
            await request(http, ctx, url=f"{other.url}/echo")

    assert other.connections == 0


async def test_ports_of_other_services_are_closed(ctx: Context, names: Names) -> None:
    """On a public host only web ports are asked, unless the settings list others."""
    names["public.example.org"] = [["8.8.8.8"]]
    async with opened() as http:
        for url in ("http://public.example.org:25/", "http://8.8.8.8:6379/", "https://public.example.org:22/"):
            with pytest.raises(AddressRefusedError, match=r"port \d+ is not open") as refused:
                await request(http, ctx, url=url)

    assert "ports = [80, 443, 22]" in refused.value.remedy


async def test_the_first_address_that_answers_is_used(ctx: Context, listen: Listen, names: Names) -> None:
    """Where a name has several addresses, one that refuses the connection, or is slow, does not stop the call."""
    names["several.test"] = [["127.0.0.3", "127.0.0.2"]]
    names["none.test"] = [["127.0.0.3", "127.0.0.4"]]
    service = listen("127.0.0.2")
    async with opened(allow=("127.0.0.0/8",)) as http:
        result = await request(http, ctx, url=f"http://several.test:{service.port}/echo")
        with pytest.raises(HttpConnectionError, match=r"none\.test"):
            await request(http, ctx, url=f"http://none.test:{service.port}/echo")

    assert result.status == 200


async def test_behind_a_proxy_only_spelled_addresses_can_be_checked(ctx: Context, service: Any) -> None:
    """A proxy looks names up itself; addresses and names of the inner network are refused before it hears of them."""
    async with opened(proxy=service.url) as http:
        for host in ("127.0.0.1", "169.254.169.254", "[::ffff:a9fe:a9fe]", "localhost", "metadata.google.internal", "intranet"):
            with pytest.raises(AddressRefusedError):
                await request(http, ctx, url=f"http://{host}/")
        with pytest.raises(AddressRefusedError, match="port 25"):
            await request(http, ctx, url="http://example.org:25/")
        assert service.connections == 0
        assert (await request(http, ctx, url="http://somewhere.example.org/echo")).status == 200


async def test_a_version_that_cannot_be_guarded_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the library change where it keeps its network, the client does not open, instead of going unguarded."""
    original = httpx2.AsyncHTTPTransport.__init__

    def changed(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self._pool._network_backend = None

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "__init__", changed)
    with pytest.raises(TypeError, match="unguarded"):
        async with Http().open():
            pass


async def test_sockets_of_this_machine_are_never_asked() -> None:
    """The network refuses a path, should anything ever ask for one."""
    guard = _network.Guard(_network.AllowList(), frozenset((80,)))
    backend = _network.GuardedBackend(_network.httpcore2.AnyIOBackend(), guard)

    with pytest.raises(AddressRefusedError):
        await backend.connect_unix_socket("/run/docker.sock")


async def test_a_name_that_is_none_is_an_error(ctx: Context) -> None:
    """Labels that are empty or too long are errors of ours, not of the system's codecs."""
    async with opened() as http:
        for host in ("a..b", "x" * 70 + ".org"):
            with pytest.raises((HttpConnectionError, HttpPermanentError)):
                await request(http, ctx, url=f"http://{host}/")


@pytest.mark.parametrize("settings", [{"allow": ("10.0.0.5/8",)}, {"allow": ("http://a",)}, {"proxy": "http://u:private@h"}])
def test_settings_that_open_something_else_are_refused(settings: dict[str, Any]) -> None:
    """An entry that cannot be meant is an error of the configuration, which does not repeat a password."""
    with pytest.raises(ConfigError) as refused:
        Http(**settings)

    assert "private" not in str(refused.value)


def test_a_refusal_is_permanent() -> None:
    """Trying again cannot help; the remedy says what to write where."""
    refusal = AddressRefusedError("h", "10.0.0.1 is a private network", "10.0.0.1")

    assert isinstance(refusal, PermanentError)
    assert refusal.remedy == 'If it is meant, open it: allow = ["10.0.0.1"] in [clients.http].'
