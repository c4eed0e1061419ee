"""A stand-in for the client ``http``, for tests of executors that send requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import attrs
from treadle import client
from treadle.testing import FakeClient

from treadle_http import HttpClient, HttpRequest, HttpResult, HttpStatusError

__all__ = ["FakeHttp", "answer"]


def answer(status: int = 200, text: str = "", json: object = None, headers: Mapping[str, str] | None = None) -> HttpResult:
    """What a service answers; its URL is filled in with that of the request."""
    return HttpResult(status, dict(headers or {}), text, json, "", len(text.encode()), 0.0)


@client("http")
@attrs.define(eq=False)
class FakeHttp(FakeClient):
    """The client ``http`` without a network: answers each URL as it was told to, all others with an empty 200.

    ``answers`` has URLs for keys: ``FakeHttp({"https://example.org/": answer(text="hello")})``. An exception is raised, a
    function is called with the request, an iterator is asked for the next of these each time. ``asked`` has the requests. A
    status that the request does not expect is an HttpStatusError, as with the real client.
    """

    def session(self) -> HttpClient:
        """What executors receive."""
        return _FakeSession(self)


@attrs.frozen(eq=False)
class _FakeSession(HttpClient):
    client: FakeHttp = attrs.field(repr=False)

    @property
    def instrumented(self) -> bool:
        """No instrumentation sees these requests."""
        return False

    def resolve(self, url: str) -> str:
        """As it is."""
        return url

    async def send(self, request: HttpRequest) -> HttpResult:
        """Answer as the client was told to."""
        request.check()
        given = await self.client.ask(request.url, request)
        result = attrs.evolve(cast("HttpResult | None", given) or answer(), url=request.url)
        if not request.accepts(result.status):
            raise HttpStatusError(
                request.method,
                request.url,
                result.status,
                retry_after=result.headers.get("retry-after", ""),
                excerpt=result.text,
            )
        return result
