"""What ``http.request`` sends, what it gives back, and how it fails."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from treadle import Secret
from treadle.errors import ConfigError, PermanentError, TransientError
from treadle.ports import Context
from treadle_http import (
    Http,
    HttpClient,
    HttpConnectionError,
    HttpPermanentError,
    HttpRequest,
    HttpStatusError,
    HttpTimeoutError,
    _messages,
    _rate_limits,
    _session,
    request,
)

pytestmark = pytest.mark.anyio

# A body that is left before its end leaves the library's inner generators to the garbage collector, of which trio tells.
# The connection itself is closed at once, by response.aclose().
leaves_a_body = pytest.mark.filterwarnings("ignore:Async generator 'httpcore2:ResourceWarning")


@contextlib.asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[HttpClient]:
    """A client for the services of the tests, which are on this machine."""
    async with Http(**{"allow": ("127.0.0.1",), "timeout_s": 60.0, **settings}).open() as http:
        yield http


async def test_an_answer_comes_back_whole(ctx: Context, service: Any) -> None:
    """Status, headers in lower case, text, parsed JSON, final URL, size and time."""
    async with opened() as http:
        result = await request(http, ctx, url=f"{service.url}/echo?a=1", params={"b": 2, "c": [True, "x"], "a b": "ä&"})
        text = await request(http, ctx, url=f"{service.url}/text")

    assert (result.status, result.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert isinstance(result.json, dict)
    assert result.json["query"] == [["a", "1"], ["b", "2"], ["c", "true"], ["c", "x"], ["a b", "ä&"]]
    assert (result.url.partition("?")[0], result.bytes) == (f"{service.url}/echo", len(result.text))
    assert 0 < result.elapsed_s < 60
    assert (text.text, text.json, text.bytes) == ("grün", None, 4)


async def test_bodies_say_what_they_are(ctx: Context, service: Any) -> None:
    """JSON and text get their content type, which the step may override; two bodies are one too many."""
    async with opened() as http:
        await request(http, ctx, url=f"{service.url}/echo", method="post", json={"ä": [1, None]})
        await request(http, ctx, url=f"{service.url}/echo", method="PUT", text="grün")
        await request(http, ctx, url=f"{service.url}/echo", method="PUT", text="a,b", headers={"Content-Type": "text/csv"})
        with pytest.raises(PermanentError, match="one body"):
            await request(http, ctx, url=f"{service.url}/echo", method="PUT", text="a", json=1)

    assert [(seen["method"], seen["body"], seen["headers"]["content-type"]) for seen in service.seen] == [
        ("POST", '{"ä":[1,null]}', "application/json"),
        ("PUT", "grün", "text/plain; charset=utf-8"),
        ("PUT", "a,b", "text/csv"),
    ]


async def test_a_call_says_which_call_it_is(ctx: Context, service: Any) -> None:
    """The trace goes along; POST and PATCH carry the idempotency key, unless the step brings its own."""
    async with opened() as http:
        for method in ("GET", "POST", "PATCH", "DELETE"):
            await request(http, ctx, url=f"{service.url}/echo", method=method)
        await request(http, ctx, url=f"{service.url}/echo", method="POST", headers={"Idempotency-Key": "mine"})

    keys = [seen["headers"].get("idempotency-key") for seen in service.seen]
    assert keys == [None, ctx.idempotency_key, ctx.idempotency_key, None, "mine"]
    assert {seen["headers"]["traceparent"] for seen in service.seen} == {ctx.traceparent}


async def test_each_request_is_a_client_span_without_secrets(ctx: Any, service: Any) -> None:
    """The span has semantic-convention attributes, and of the URL neither query nor anything else that may be secret."""
    async with opened(base_url=service.url) as http:
        await request(http, ctx, url="/echo?key=private", params={"token": "private"})
        with pytest.raises(HttpStatusError):
            await request(http, ctx, url="/missing", method="BREW")

    port = int(service.url.rpartition(":")[2])
    assert ctx.spans == [
        {
            "name": "GET",
            "kind": "client",
            "http.request.method": "GET",
            "url.full": f"{service.url}/echo",
            "server.address": "127.0.0.1",
            "server.port": port,
            "http.response.status_code": 200,
            "network.protocol.version": "1.1",
        },
        {
            "name": "HTTP",
            "kind": "client",
            "http.request.method": "_OTHER",
            "url.full": f"{service.url}/missing",
            "server.address": "127.0.0.1",
            "server.port": port,
            "http.response.status_code": 404,
        },
    ]


async def test_an_instrumented_library_makes_the_client_span(ctx: Any, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the transport is wrapped by an instrumentation, ours is the logical call around its span."""
    original = httpx2.AsyncHTTPTransport.handle_async_request

    async def wrapped(self: httpx2.AsyncHTTPTransport, outgoing: httpx2.Request) -> httpx2.Response:
        outgoing.headers["traceparent"] = "00-11111111111111111111111111111111-2222222222222222-01"
        return await original(self, outgoing)

    wrapped.__wrapped__ = original  # type: ignore[attr-defined] # as wrappers of instrumentations say it
    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", wrapped)
    async with opened() as http:
        await request(http, ctx, url=f"{service.url}/echo")

    assert ctx.spans[0]["kind"] == "internal"
    assert service.seen[0]["headers"]["traceparent"].endswith("-2222222222222222-01")


@pytest.mark.parametrize("code", [400, 401, 404, 409, 418, 422, 501])
async def test_a_status_that_will_not_change_is_not_retried(ctx: Context, service: Any, code: int) -> None:
    """S3-20: a client error says that trying again cannot help, and what to do instead."""
    async with opened() as http:
        with pytest.raises(HttpStatusError, match=f"answered {code}") as failed:
            await request(http, ctx, url=f"{service.url}/status?code={code}&key=private")

    assert (failed.value.retryable, failed.value.status_code, failed.value.retry_after_s) == (False, code, None)
    assert (failed.value.excerpt, bool(failed.value.remedy)) == ("the reason", True)
    assert "private" not in str(failed.value)


@pytest.mark.parametrize("code", sorted(_messages.RETRYABLE))
async def test_a_status_that_may_change_is_retried_when_the_service_says(ctx: Context, service: Any, code: int) -> None:
    """S3-20: a transient status says so by its attributes, with the wait that ``Retry-After`` asks for."""
    async with opened() as http:
        with pytest.raises(HttpStatusError) as failed:
            await request(http, ctx, url=f"{service.url}/status?code={code}&after=7")

    assert (failed.value.retryable, failed.value.status_code, failed.value.retry_after_s) == (True, code, 7.0)


def test_retry_after_is_seconds_or_a_date() -> None:
    """Both forms of the header are understood; the past means now, nonsense means nothing."""
    now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)

    def parsed(value: str) -> float | None:
        return _rate_limits.parse_retry_after(value, now)

    assert (parsed("120"), parsed(" 0 "), parsed("9" * 400)) == (120.0, 0.0, 999_999_999_999.0)
    assert parsed(format_datetime(now + timedelta(seconds=90), usegmt=True)) == 90.0
    assert parsed("Fri, 01 May 2026 12:00:30 -0000") == 30.0
    assert parsed(format_datetime(now - timedelta(days=1), usegmt=True)) == 0.0
    assert [parsed(value) for value in ("", "soon", "-5", "1.5", "٣")] == [None] * 5


async def test_the_step_decides_what_is_a_success(ctx: Context, service: Any) -> None:
    """``expect_status`` replaces the rule in both directions; an expected redirect is an answer."""
    async with opened() as http:
        missing = await request(http, ctx, url=f"{service.url}/nothing", expect_status=[200, 404])
        moved = await request(http, ctx, url=f"{service.url}/to?url=/echo", expect_status=[302])
        with pytest.raises(HttpStatusError, match="answered 200 OK"):
            await request(http, ctx, url=f"{service.url}/echo", expect_status=[201])

    assert (missing.status, moved.status, moved.headers["location"]) == (404, 302, "/echo")


async def test_an_error_shows_the_complaint_without_control_characters(ctx: Context, service: Any) -> None:
    """The beginning of the body is in the message, and cannot play with the terminal."""
    async with opened() as http:
        with pytest.raises(HttpStatusError, match=r"answered 404 Not Found: nothing at \[31m /x") as failed:
            await request(http, ctx, url=f"{service.url}/x")

    assert "\x1b" not in str(failed.value)


@pytest.mark.parametrize(
    ("body", "type_", "expected"),
    [
        ("[1]", "application/json", [1]),
        ("{}", "application/problem+json; charset=utf-8", {}),
        ("\ufeff1", "application/json", 1),
        ("", "application/json", None),
        ("[1]", "text/plain", None),
    ],
)
async def test_json_is_parsed_where_the_answer_says_so(
    ctx: Context, service: Any, body: str, type_: str, expected: object
) -> None:
    """The content type decides; the text is there in any case."""
    async with opened() as http:
        result = await request(http, ctx, url=f"{service.url}/json", params={"body": body, "type": type_})

    assert (result.json, result.text) == (expected, body)


@pytest.mark.parametrize("body", ["<html>", "NaN", "[" * 50_000])
async def test_an_answer_that_lies_about_json_is_an_error(ctx: Context, service: Any, body: str) -> None:
    """A body that is not the JSON that it claims to be is never passed on as null."""
    path = "/json?body=" + ("[" * 50_000 if body.startswith("[[") else body)
    async with opened() as http:
        with pytest.raises(HttpPermanentError, match="says application/json but answered something else"):
            await request(http, ctx, url=service.url + path)


# -- limits --------------------------------------------------------------------------------------------------------------


async def test_the_whole_call_has_one_deadline(ctx: Context, service: Any) -> None:
    """S3-19: neither a silent service nor one that sends a byte now and then outlasts the deadline."""
    async with opened(timeout_s=0.3) as http:
        for path in ("/trickle", "/slow"):
            began = time.monotonic()
            with pytest.raises(HttpTimeoutError, match=r"within 0\.3s") as late:
                await request(http, ctx, url=service.url + path)
            assert 0.25 < time.monotonic() - began < 60  # each of them takes 90 s
        with pytest.raises(HttpTimeoutError, match=r"within 0\.1s"):
            await request(http, ctx, url=f"{service.url}/slow", timeout_s=0.1)

    assert late.value.retryable is True
    assert isinstance(late.value, TimeoutError)


async def test_a_cancelled_call_is_over_at_once_and_its_client_goes_on(ctx: Context, service: Any) -> None:
    """Cancelling closes the connection; the pool serves the next call, and nothing stays open."""
    async with opened() as http:
        with anyio.move_on_after(0.1) as scope:
            await request(http, ctx, url=f"{service.url}/slow")
        result = await request(http, ctx, url=f"{service.url}/echo")

    assert scope.cancelled_caught
    assert result.status == 200


@leaves_a_body
async def test_bodies_are_bounded_after_unpacking(ctx: Context, service: Any) -> None:
    """A body over the limit ends the call while it is read, also when it is small on the wire."""
    async with opened(max_bytes=1_000_000) as http:
        for path in ("/bomb/gzip", "/bomb/br", "/bomb/zstd", "/large"):
            with pytest.raises(HttpPermanentError, match="more than 1,000,000 bytes"):
                await request(http, ctx, url=service.url + path)
    async with opened(max_bytes=5_000_000) as http:
        assert (await request(http, ctx, url=f"{service.url}/large")).bytes == 5_000_000


@leaves_a_body
async def test_a_broken_answer_is_told_from_a_broken_connection(ctx: Context, service: Any) -> None:
    """What was packed wrongly stays wrong; a connection that ends too early may hold next time."""
    async with opened() as http:
        with pytest.raises(HttpPermanentError, match="cannot be done"):
            await request(http, ctx, url=f"{service.url}/broken")
        for path in ("/hangup", "/short"):
            with pytest.raises(HttpConnectionError):
                await request(http, ctx, url=service.url + path)


async def test_a_service_that_is_not_there_is_a_transient_error(ctx: Context) -> None:
    """Nobody listening, and a name that nobody knows, are named and may be tried again."""
    async with opened() as http:
        with socket.socket() as unused:  # it does not listen, and keeps the port from those who would
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(HttpConnectionError, match=f"http://127.0.0.1:{port}/a failed") as refused:
                await request(http, ctx, url=f"http://127.0.0.1:{port}/a?key=private")
        with pytest.raises(TransientError):
            await request(http, ctx, url="http://no-such-host.invalid/")

    assert isinstance(refused.value, ConnectionError)
    assert "private" not in str(refused.value)


async def test_an_untrusted_certificate_is_a_permanent_error() -> None:
    """What the certificate says will not change by asking again."""
    outgoing = HttpRequest("GET", "https://example.org/")
    broken = httpx2.ConnectError("failed")
    broken.__cause__ = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")

    error = _session._translate(outgoing, broken)

    assert isinstance(error, PermanentError)
    assert "self-signed" in str(error)


# -- where credentials go ------------------------------------------------------------------------------------------------


async def test_credentials_stay_with_the_service_they_are_for(ctx: Context, services: tuple[Any, Any]) -> None:
    """The client's token and headers go to the origin of its base_url alone, directly or by a redirect."""
    home, stranger = services
    settings = {
        "base_url": f"{home.url}/echo",
        "token": Secret("t0ken"),
        "headers": {"X-Team": "a"},
        "secret_headers": {"X-Key": Secret("k3y")},
    }
    async with opened(**settings) as http:
        await request(http, ctx, url="items")
        await request(http, ctx, url=f"{stranger.url}/echo")
        await request(http, ctx, url=f"{home.url}/to?url={stranger.url}/echo", headers={"X-Step": "s3cret"})
        await request(http, ctx, url=f"{home.url}/to?url=/echo", headers={"X-Step": "s3cret"})

    sent = [(seen["path"], seen["headers"]) for seen in home.seen]
    assert sent[0][0] == "/echo/items"
    names = ("authorization", "x-team", "x-key")
    assert [sent[0][1].get(name) for name in names] == ["Bearer t0ken", "a", "k3y"]
    assert [(path, headers.get("x-step"), headers.get("x-key")) for path, headers in sent[1:]] == [
        ("/to", "s3cret", "k3y"),
        ("/to", "s3cret", "k3y"),
        ("/echo", "s3cret", "k3y"),
    ]
    for seen in stranger.seen:
        assert not {*names, "x-step"} & set(seen["headers"])
        assert seen["headers"]["traceparent"] == ctx.traceparent
    assert len(stranger.seen) == 2


async def test_a_body_follows_a_redirect_that_keeps_the_method(ctx: Context, services: tuple[Any, Any]) -> None:
    """307 repeats the request with its body, 303 asks with GET."""
    home, stranger = services
    async with opened() as http:
        await request(http, ctx, url=f"{home.url}/to?code=307&url={stranger.url}/echo", method="POST", json=[1])
        await request(http, ctx, url=f"{home.url}/to?code=303&url={stranger.url}/echo", method="POST", json=[1])

    assert [(seen["method"], seen["body"]) for seen in stranger.seen] == [("POST", "[1]"), ("GET", "")]


@pytest.mark.parametrize(
    ("method", "becoming"),
    [
        ("GET", ["GET"] * 5),
        ("HEAD", ["HEAD"] * 5),
        ("POST", ["GET", "GET", "GET", "POST", "POST"]),
        ("PUT", ["PUT", "PUT", "GET", "PUT", "PUT"]),
        ("DELETE", ["DELETE", "DELETE", "GET", "DELETE", "DELETE"]),
    ],
)
async def test_a_redirect_changes_the_method_as_in_browsers(
    ctx: Context, services: tuple[Any, Any], method: str, becoming: list[str]
) -> None:
    """301 and 302 turn POST into GET, 303 everything but HEAD, 307 and 308 nothing; what describes a body goes with it."""
    home, other = services
    body = {"json": [1]} if method in ("POST", "PUT") else {}
    async with opened() as http:
        for code in (301, 302, 303, 307, 308):
            await request(http, ctx, url=f"{home.url}/to?code={code}&url={other.url}/echo", method=method, **body)

    assert [seen["method"] for seen in other.seen] == becoming
    for seen in other.seen:
        assert ("content-type" in seen["headers"]) == bool(body and seen["method"] == method)
        assert seen["body"] == ("[1]" if body and seen["method"] == method else "")


@pytest.mark.parametrize("location", ["http://", "//", "http://u:p@127.0.0.1/", "http://[::1", "http://a b/"])
async def test_a_redirect_to_no_url_is_an_error(ctx: Context, service: Any, location: str) -> None:
    """What a service cannot mean is not guessed."""
    async with opened(max_redirects=2) as http:
        with pytest.raises((HttpPermanentError, HttpConnectionError)):
            await request(http, ctx, url=f"{service.url}/to", params={"url": location})


async def test_the_step_wins_over_the_client(ctx: Context, service: Any) -> None:
    """A header that the step gives replaces the client's, whatever its case."""
    async with opened(base_url=service.url, token=Secret("t"), headers={"Accept": "a/b"}) as http:
        await request(http, ctx, url="/echo", headers={"AUTHORIZATION": "Basic x", "accept": "c/d"})

    assert (service.seen[0]["headers"]["authorization"], service.seen[0]["headers"]["accept"]) == ("Basic x", "c/d")


async def test_nothing_is_taken_from_the_surroundings(ctx: Context, service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies of the environment are not used, and cookies of one call do not reach the next."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with opened() as http:
        for _ in range(2):
            result = await request(http, ctx, url=f"{service.url}/echo")

    assert result.headers["set-cookie"] == "session=1"
    assert "cookie" not in service.seen[1]["headers"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "http://[::1"])
async def test_redirects_lead_nowhere_else(ctx: Context, service: Any, target: str) -> None:
    """A redirect to another kind of URL, or to none, is not followed."""
    async with opened() as http:
        with pytest.raises((HttpPermanentError, HttpConnectionError)):
            await request(http, ctx, url=f"{service.url}/to", params={"url": target})

    assert len(service.seen) == 1


async def test_redirects_are_counted(ctx: Context, service: Any) -> None:
    """A circle ends after ``max_redirects``."""
    async with opened(max_redirects=3) as http:
        with pytest.raises(HttpPermanentError, match="more than 3 times"):
            await request(http, ctx, url=f"{service.url}/loop")

    assert len(service.seen) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "/relative"}, "not a URL that can be asked"),
        ({"url": "file:///etc/passwd"}, "not a URL that can be asked"),
        ({"url": "http://user:pw@host/"}, "not a URL that can be asked"),
        ({"url": "http://"}, "not a URL"),
        ({"url": "http://[::1"}, "not a URL"),
        ({"url": "http://a\nb/"}, "not a URL"),
        ({"url": "http://h/", "headers": {"a": "b\r\nc: d"}}, "no header can"),
        ({"url": "http://h/", "headers": {"a b": "c"}}, "no header can"),
        ({"url": "http://h/", "headers": {"a": "\ud800"}}, "cannot be sent"),
        ({"url": "http://h/", "headers": {"Transfer-Encoding": "chunked"}}, "set by the connection"),
        ({"url": "http://h/", "method": "GET / HTTP/1.1"}, "not a method"),
        ({"url": "http://h/", "method": "CONNECT"}, "not a method"),
        ({"url": "http://h/", "timeout_s": 0}, "timeout_s"),
        ({"url": "http://h/", "text": "\ud800"}, "not valid text"),
        ({"url": "http://h/", "params": {"a": "\ud800"}}, "cannot be sent"),
    ],
)
async def test_what_must_not_be_sent_is_refused(ctx: Context, given: dict[str, Any], message: str) -> None:
    """Wrong URLs, smuggled headers and the like are permanent errors before anything is connected."""
    async with opened() as http:
        with pytest.raises(PermanentError, match=message) as refused:
            await request(http, ctx, **given)

    assert "pw" not in str(refused.value)


# -- the client ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"token": Secret("x")},
        {"secret_headers": {"a": Secret("x")}},
        {"base_url": "example.org"},
        {"base_url": "ftp://example.org"},
        {"base_url": "https://example.org/?a=b"},
        {"base_url": "https://example.org:port/"},
        {"base_url": "https://u:private@example.org"},
        {"timeout_s": 0.0},
        {"max_bytes": -1},
    ],
)
def test_settings_that_would_harm_are_refused(settings: dict[str, Any]) -> None:
    """Credentials without a receiver, and values that mean nothing, are errors of the configuration."""
    with pytest.raises(ConfigError) as refused:
        Http(**settings)

    assert "private" not in str(refused.value)


async def test_the_check_asks_the_service(service: Any) -> None:
    """``check`` is content with any answer, and says when there is none."""
    await Http(base_url=service.url).check()
    await Http().check()
    with pytest.raises(HttpConnectionError):
        await Http(base_url="http://127.0.0.1:9").check()

    assert [seen["method"] for seen in service.seen] == ["HEAD"]


def test_the_library_is_imported_only_when_a_client_opens() -> None:
    """Planning a workflow imports this plugin; the HTTP library waits for the first request."""
    code = "import sys, treadle_http; print([name for name in sys.modules if name.startswith(('httpx', 'httpcore', 'h11'))])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)

    assert said.stdout == "[]\n"


async def test_another_authority_can_be_trusted(tmp_path: Path) -> None:
    """``ca_file`` names the certificates; a file that is not there, or holds none, fails when the client is opened."""
    (tmp_path / "empty.pem").write_text("")
    for settings in ({"ca_file": str(tmp_path / "none.pem")}, {"ca_file": str(tmp_path / "empty.pem")}, {"proxy": "nonsense"}):
        with pytest.raises(ConfigError, match="'ca_file' or 'proxy'"):
            async with opened(**settings):
                pass


async def test_a_proxy_is_used_when_the_settings_name_one(ctx: Context, service: Any) -> None:
    """Every request goes to the proxy, which sees whom it is for."""
    async with opened(proxy=service.url) as http:
        result = await request(http, ctx, url="http://somewhere.invalid/echo")

    assert (result.status, service.seen[0]["headers"]["host"]) == (200, "somewhere.invalid")


async def test_urls_are_not_logged(ctx: Context, service: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The library would log each URL whole, secrets in its query too."""
    caplog.set_level("INFO")
    async with opened() as http:
        await request(http, ctx, url=f"{service.url}/echo?key=private")

    assert "private" not in caplog.text
