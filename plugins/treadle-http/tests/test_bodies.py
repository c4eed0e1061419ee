"""What is sent and received beside JSON and text: forms, files, credentials; and in what way it is asked for."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle import Secret
from treadle.errors import ConfigError, PermanentError
from treadle.ports import Context, SecretReference
from treadle_http import (
    Auth,
    FileRefusedError,
    Http,
    HttpClient,
    HttpConnectionError,
    HttpPermanentError,
    HttpStatusError,
    Upload,
    _folder,
    _rate_limits,
    request,
)

pytestmark = pytest.mark.anyio

# See test_request.py.
leaves_a_body = pytest.mark.filterwarnings("ignore:Async generator 'httpcore2:ResourceWarning")


@contextlib.asynccontextmanager
async def opened(root: Path | str = ".", **settings: Any) -> AsyncIterator[HttpClient]:
    async with Http(**{"allow": ("127.0.0.1",), "root": str(root), "timeout_s": 60.0, **settings}).open() as http:
        yield http


def open_files() -> list[str]:
    """What this process has open, as paths."""
    paths = []
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            paths.append(os.readlink(entry.path))
    return paths


# -- forms and files -----------------------------------------------------------------------------------------------------


async def test_a_form_is_sent_as_browsers_send_it(ctx: Context, service: Any) -> None:
    """Fields are percent-encoded, lists repeat their name, values look as in JSON."""
    async with opened() as http:
        await request(http, ctx, url=f"{service.url}/echo", method="POST", form={"a b": "ä&=", "n": [1, True], "empty": ""})

    assert service.seen[0]["body"] == "a+b=%C3%A4%26%3D&n=1&n=true&empty="
    assert service.seen[0]["headers"]["content-type"] == "application/x-www-form-urlencoded"


async def test_files_are_sent_with_a_form(ctx: Context, service: Any, tmp_path: Path) -> None:
    """Files and fields travel as multipart/form-data, with names and types; no name can end its part."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"\x89PNG")
    (tmp_path / "b").write_text("two")
    files = [Upload("in/a.png", field="photo"), Upload("b", filename='x"\r\ny.txt', content_type="text/x")]
    async with opened(tmp_path) as http:
        await request(http, ctx, url=f"{service.url}/echo", method="POST", form={"title": "ä", 'n"\r\n': 1}, files=files)

    head, _, boundary = service.seen[0]["headers"]["content-type"].partition("; boundary=")
    parts = service.seen[0]["body"].split(f"--{boundary}")
    assert (head, parts[0], parts[-1]) == ("multipart/form-data", "", "--\r\n")
    assert parts[1:-1] == [
        '\r\nContent-Disposition: form-data; name="title"\r\n\r\nä\r\n',
        '\r\nContent-Disposition: form-data; name="n%22%0D%0A"\r\n\r\n1\r\n',
        '\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n\\x89PNG\r\n',
        '\r\nContent-Disposition: form-data; name="file"; filename="x%22%0D%0Ay.txt"\r\nContent-Type: text/x\r\n\r\ntwo\r\n',
    ]


async def test_a_large_file_is_sent_and_saved_in_little_memory(ctx: Context, service: Any, tmp_path: Path) -> None:
    """100 MB go each way through a few megabytes of memory; digests tell that nothing was lost."""
    block = os.urandom(1_000_000)
    with (tmp_path / "large").open("wb") as file:
        for _ in range(100):
            file.write(block)
    digest = hashlib.sha256(block * 100).hexdigest()
    del block
    async with opened(tmp_path, timeout_s=600.0) as http:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sent = await request(http, ctx, url=f"{service.url}/echo", method="PUT", body_file="large")
        saved = await request(http, ctx, url=f"{service.url}/flow?100", save_to="out/flow")

    assert isinstance(sent.json, dict)
    assert (sent.json["sha256"], service.seen[0]["headers"]["content-length"]) == (digest, "100000000")
    assert service.seen[0]["headers"]["content-type"] == "application/octet-stream"
    assert (saved.bytes, saved.path, saved.text, saved.json) == (100_000_000, "out/flow", "", None)
    assert saved.sha256 == hashlib.sha256(bytes(100_000_000)).hexdigest()
    assert (tmp_path / "out/flow").stat().st_size == 100_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


async def test_a_file_follows_a_redirect(ctx: Context, services: tuple[Any, Any], tmp_path: Path) -> None:
    """307 sends a file again from its beginning."""
    home, other = services
    (tmp_path / "a").write_text("content")
    async with opened(tmp_path) as http:
        to = f"{home.url}/to?code=307&url={other.url}/echo"
        await request(http, ctx, url=to, method="PUT", body_file="a")
        await request(http, ctx, url=to, method="POST", files=[Upload("a")])

    assert other.seen[0]["body"] == "content"
    assert "content" in other.seen[1]["body"]


async def test_a_file_that_shrinks_while_it_is_sent_is_an_error(ctx: Context, service: Any, tmp_path: Path) -> None:
    """A body is never shorter than it said."""
    (tmp_path / "a").write_bytes(bytes(1000))
    original = os.pread

    def shrunk(file: int, count: int, offset: int) -> bytes:
        return b"" if offset else original(file, 10, offset)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "pread", shrunk)
        async with opened(tmp_path) as http:
            with pytest.raises(HttpPermanentError, match="became shorter"):
                await request(http, ctx, url=f"{service.url}/echo", method="PUT", body_file="a")


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "~/x", "a\0b", "", "a/", "link", "linked/x", "pipe", "folder", "."]
)
async def test_files_stay_beneath_the_root(ctx: Context, service: Any, tmp_path: Path, path: str) -> None:
    """No spelling, no link and nothing but a regular file is read or replaced, in either direction."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_text("private")
    (root / "link").symlink_to("../secret")
    (root / "linked").symlink_to("..")
    os.mkfifo(root / "pipe")
    async with opened(root) as http:
        for given in ({"body_file": path}, {"files": [Upload(path)]}):
            with pytest.raises(FileRefusedError):
                await request(http, ctx, url=f"{service.url}/echo", method="POST", **given)  # type: ignore[arg-type] # a table
        with pytest.raises(FileRefusedError):
            await request(http, ctx, url=f"{service.url}/text", save_to=path)

    assert service.seen == []

    assert (tmp_path / "secret").read_text() == "private"
    assert sorted(path.name for path in root.iterdir()) == ["folder", "link", "linked", "pipe"]
    assert not [file for file in open_files() if str(tmp_path) in file]


@leaves_a_body
async def test_an_answer_is_saved_whole_or_not_at_all(ctx: Context, service: Any, tmp_path: Path) -> None:
    """A body that breaks off, is too large, or comes with a wrong status leaves what was there, and no remains."""
    (tmp_path / "a").write_text("old")
    async with opened(tmp_path, max_file_bytes=1_000_000) as http:
        for path, error in (("/short", HttpConnectionError), ("/flow?2", HttpPermanentError), ("/missing", HttpStatusError)):
            with pytest.raises(error):
                await request(http, ctx, url=service.url + path, save_to="a")
        assert (os.listdir(tmp_path), (tmp_path / "a").read_text()) == (["a"], "old")
        with anyio.move_on_after(0.2):
            await request(http, ctx, url=f"{service.url}/trickle", save_to="a")
        assert (os.listdir(tmp_path), (tmp_path / "a").read_text()) == (["a"], "old")
        result = await request(http, ctx, url=f"{service.url}/text", save_to="./a")

    assert ((tmp_path / "a").read_bytes(), result.sha256) == (b"gr\xfcn", hashlib.sha256(b"gr\xfcn").hexdigest())
    assert os.listdir(tmp_path) == ["a"]
    assert not [file for file in open_files() if str(tmp_path) in file]


@leaves_a_body
async def test_a_full_disk_is_not_the_steps_fault(ctx: Context, service: Any, tmp_path: Path) -> None:
    """What the system cannot do now stays an error of the system; the draft is gone."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with opened(tmp_path) as http:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(_folder.os, "write", full)
            with pytest.raises(OSError, match="No space left"):
                await request(http, ctx, url=f"{service.url}/text", save_to="a")

    assert os.listdir(tmp_path) == []


def test_what_a_killed_attempt_left_is_replaced(tmp_path: Path) -> None:
    """All attempts of one call use one name for the draft."""
    folder = _folder.Folder(str(tmp_path))
    folder.draft("a", "key").write(b"first")
    second = folder.draft("a", "key")
    second.write(b"second")
    second.keep()

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"second"}


@given(path=st.text(st.sampled_from("ab./~\\\0\n-%"), max_size=12))
def test_no_path_leaves_the_root(path: str) -> None:
    """Whatever a path is, its parts stay beneath the folder."""
    with contextlib.suppress(FileRefusedError):
        parts = _folder._parts(path)
        assert parts
        assert not {"..", ".", ""} & set(parts)
        assert not any("/" in part or "\0" in part for part in parts)


async def test_one_body_is_sent(ctx: Context) -> None:
    """Two bodies are one too many, but for a form with files."""
    async with opened() as http:
        for given in (
            {"json": 1, "form": {}},
            {"text": "", "body_file": "a"},
            {"form": {}, "body_file": "a", "files": [Upload("a")]},
        ):
            with pytest.raises(PermanentError, match="takes one body"):
                await request(http, ctx, url="http://127.0.0.1/", **given)  # type: ignore[arg-type] # a table of wrong calls
        with pytest.raises(PermanentError, match="content type"):
            await request(http, ctx, url="http://127.0.0.1/", files=[Upload("a", content_type="a\r\nb: c")])


# -- credentials ---------------------------------------------------------------------------------------------------------


async def test_a_step_says_who_asks(ctx: Context, services: tuple[Any, Any]) -> None:
    """A bearer token or a name and password, which go no further than the host that they are meant for."""
    home, other = services
    async with opened() as http:
        await request(http, ctx, url=f"{home.url}/echo", auth={"bearer": "t0ken"})
        await request(http, ctx, url=f"{home.url}/to?url={other.url}/echo", auth={"username": "ä", "password": "p:w"})

    assert [seen["headers"]["authorization"] for seen in home.seen] == ["Bearer t0ken", "Basic w6Q6cDp3"]
    assert "authorization" not in other.seen[0]["headers"]


@pytest.mark.parametrize(
    "auth",
    [{"bearer": "a", "username": "b"}, {"password": "a"}, {"username": "a:b"}, {"bearer": "a\r\nx: y"}, {"bearer": "\ud800"}],
)
async def test_half_a_credential_is_refused(ctx: Context, auth: Auth) -> None:
    """What does not say one way to log in is not sent."""
    async with opened() as http:
        with pytest.raises(PermanentError):
            await request(http, ctx, url="http://127.0.0.1/", auth=auth)


async def test_a_client_logs_in_by_name_and_password(ctx: Context, services: tuple[Any, Any]) -> None:
    """The client's own password goes to the origin of ``base_url`` alone, and shows nowhere."""
    home, other = services
    settings = Http(base_url=home.url, username="user", password=Secret("p4ss"), allow=("127.0.0.1",))
    async with settings.open() as http:
        await request(http, ctx, url="/echo")
        await request(http, ctx, url=f"{other.url}/echo")
        assert "p4ss" not in repr(http) + repr(settings)

    assert home.seen[0]["headers"]["authorization"] == "Basic dXNlcjpwNHNz"
    assert "authorization" not in other.seen[0]["headers"]
    for wrong in ({"username": "a"}, {"base_url": "http://h", "username": "a", "token": Secret("b")}):
        with pytest.raises(ConfigError):
            Http(**wrong)  # type: ignore[arg-type] # wrong on purpose


async def test_a_proxy_is_logged_in_to(ctx: Context, service: Any) -> None:
    """The proxy's password goes to the proxy."""
    async with opened(proxy=service.url, proxy_username="user", proxy_password=Secret("p4ss")) as http:
        await request(http, ctx, url="http://somewhere.example.org/echo")

    assert service.seen[0]["headers"]["proxy-authorization"] == "Basic dXNlcjpwNHNz"


async def test_a_secret_in_a_url_is_not_in_its_span(ctx: Any, service: Any) -> None:
    """A webhook's URL is its secret: the span shows the rest of it."""
    ctx.call = attrs.evolve(
        ctx.call, secrets=(SecretReference(("url",), (("text", f"{service.url}/echo/"), ("secret", "HOOK"))),)
    )
    async with opened() as http:
        await request(http, ctx, url=f"{service.url}/echo/T0/xyz")

    assert (ctx.spans[0]["url.full"], ctx.spans[0]["server.address"]) == (f"{service.url}/echo/***", "127.0.0.1")
    assert service.seen[0]["path"] == "/echo/T0/xyz"


# -- politeness ----------------------------------------------------------------------------------------------------------


async def test_the_idempotency_key_can_be_left_out(ctx: Context, service: Any) -> None:
    """Services that refuse the header are asked without it."""
    async with opened() as http:
        await request(http, ctx, url=f"{service.url}/echo", method="POST", idempotent=False)

    assert "idempotency-key" not in service.seen[0]["headers"]


NOW = 1_750_000_000
DATE = formatdate(NOW, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"retry-after": "7", "x-ratelimit-reset": "99"}, 7.0),
        ({"ratelimit-reset": "30"}, 30.0),
        ({"ratelimit-limit": "100", "ratelimit-remaining": "0", "ratelimit-reset": "12"}, 12.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(NOW + 60)}, 60.0),
        ({"x-rate-limit-remaining": "0", "x-rate-limit-reset": str((NOW + 60) * 1000)}, 60.0),
        ({"x-ratelimit-reset": str(NOW - 60)}, 0.0),
        ({"x-ratelimit-reset-after": "1.5", "x-ratelimit-reset": str(NOW + 9)}, 1.5),
        ({"ratelimit": "limit=100, remaining=0, reset=5"}, 5.0),
        ({"ratelimit": '"default";r=0;t=50'}, 50.0),
        ({"ratelimit": '"burst";r=0;t=5, "daily";r=0;t=500'}, 500.0),
        ({"ratelimit": '"burst";r=0;t=5, "daily";r=90;t=500'}, 5.0),
        ({"retry-after": formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "30"}, None),
        ({"ratelimit": '"default";r=9;t=50'}, None),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"ratelimit": "nonsense"}, None),
        ({"x-ratelimit-reset": "-5"}, None),
        ({"x-ratelimit-reset": "9" * 40}, None),
        ({}, None),
    ],
)
def test_the_headers_of_rate_limits_say_how_long_to_wait(headers: dict[str, str], asked: float | None) -> None:
    """Seconds or a moment, by the service's own clock, of the limit that is used up; anything else says nothing."""
    assert _rate_limits.wait_asked({"date": DATE, **headers}, 429) == asked


def test_a_limit_counts_only_where_it_may_be_the_reason() -> None:
    """The headers of a rate limit stand in every answer; a fault of the service has nothing to do with them."""
    headers = {"ratelimit-remaining": "0", "ratelimit-reset": "30"}

    assert [_rate_limits.wait_asked(headers, status) for status in (403, 429, 503, 500, 404)] == [30.0, 30.0, 30.0, None, None]


async def test_whoever_asks_too_often_is_told_when(ctx: Context, service: Any) -> None:
    """S3-20: 429 waits as the limit says; so does 403 from services that mean the same, and no other 403."""
    reset = str(int(time.time()) + 60)
    async with opened() as http:
        for query, expected in (
            ("code=429&ratelimit-reset=30", (True, 30)),
            (f"code=403&x-ratelimit-remaining=0&x-ratelimit-reset={reset}", (True, 60)),
            ("code=403&after=9", (True, 9)),
            ("code=403&x-ratelimit-remaining=7&x-ratelimit-reset=30", (False, None)),
        ):
            with pytest.raises(HttpStatusError) as failed:
                await request(http, ctx, url=f"{service.url}/status?{query}")
            retryable, asked = expected
            assert failed.value.retryable is retryable
            assert failed.value.retry_after_s == (
                asked if asked is None else pytest.approx(asked, abs=30 if asked == 60 else 0.1)
            )


@leaves_a_body
async def test_headers_are_bounded(ctx: Context, service: Any) -> None:
    """A megabyte of headers ends the call."""
    async with opened() as http:
        with pytest.raises(HttpConnectionError):
            await request(http, ctx, url=f"{service.url}/headers")
