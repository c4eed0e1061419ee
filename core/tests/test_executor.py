"""The marks: what ``@executor`` and ``@client`` put on functions and classes, and what they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
from treadle._executor import Executor, client, client_mark, executor, executor_mark
from treadle._models import Call
from treadle.errors import BindError


def test_a_marked_function_stays_what_it_is() -> None:
    """The decorator returns the very function: it can be called and tested as before."""

    def double(n: int) -> int:
        return 2 * n

    marked = executor("acme.double", effects="none", backends=["asyncio"], examples=[{"n": 1}])(double)

    assert marked is double
    assert marked(2) == 4
    mark = executor_mark(marked)
    assert mark is not None
    assert (mark.name, mark.family, mark.effects, mark.backends) == ("acme.double", "general", "none", ("asyncio",))
    assert (mark.examples, mark.isolation) == (({"n": 1},), None)


def test_marks_are_not_inherited() -> None:
    """A class that derives from a marked one is not that executor, nor that client."""

    @executor("acme.base")
    class Base(Executor):
        def execute(self) -> None:
            return None

    class Child(Base):
        pass

    @client("db")
    class Database:
        def open(self) -> None:
            return None

    class Other(Database):
        pass

    assert [executor_mark(Base) is None, executor_mark(Child) is None] == [False, True]
    assert [client_mark(Database) is None, client_mark(Other) is None] == [False, True]


def test_unmarked_things_have_no_mark() -> None:
    """Neither functions, nor classes, nor anything else."""
    assert [executor_mark(each) for each in (len, Call, 3, None)] == [None] * 4
    assert [client_mark(each) for each in (len, Call, 3, None)] == [None] * 4


@pytest.mark.parametrize("name", ["", "a b", ".a", "a.", "a..b", "a/b", "\u00fc", 3])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    """Names are what entry points allow: words with dots between them."""
    with pytest.raises(BindError, match="cannot be the name of an executor"):
        executor(name)
    with pytest.raises(BindError, match="cannot be the name of a client"):
        client(name)


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        (lambda: executor("a", effects="some"), "declares effects='some'"),  # type: ignore[arg-type]  # the mistake
        (lambda: executor("a", backends=["curio"]), r"declares backends=\('curio',\)"),
        (lambda: executor("a", backends=[]), r"declares backends=\(\)"),
        (lambda: executor("a", isolation="thread"), "declares isolation='thread'"),  # type: ignore[arg-type]  # the mistake
        (lambda: executor("a")(len), "takes no attributes"),
        (lambda: client("a")(len), "is not a class with a method 'open'"),
        (lambda: client("a")(Call), "is not a class with a method 'open'"),
    ],
)
def test_a_mark_that_cannot_be_meant_is_refused(mark: Callable[[], object], problem: str) -> None:
    """At import, with the name in the message and the remedy behind it."""
    with pytest.raises(BindError, match=problem) as caught:
        mark()

    assert "'a'" in str(caught.value)
    assert caught.value.remedy


def test_a_client_class_keeps_its_settings() -> None:
    """The mark adds a name; the attributes stay the settings."""

    @client("http")
    @attrs.define
    class Http:
        base_url: str = ""

        @asynccontextmanager
        async def open(self) -> AsyncIterator[str]:
            yield self.base_url

    mark = client_mark(Http)

    assert mark is not None
    assert mark.name == "http"
    assert Http("x").base_url == "x"


def test_the_general_family_has_no_opinion() -> None:
    """Its contract is the declared type alone."""
    family = Executor()

    assert family.family == "general"
    assert family.validate_output({"any": "thing"}) == []
    assert family.retry_policy(ValueError()) is None
