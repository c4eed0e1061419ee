"""The public API as its users write it; checked by mypy and pyright in strict mode, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import asynccontextmanager
from typing import assert_type

import attrs
from treadle import (
    Context,
    Issue,
    PermanentError,
    Registry,
    Secret,
    TransientError,
    Use,
    Workflow,
    arun,
    client,
    executor,
    hookimpl,
    run,
)
from treadle.errors import RunFailedError, TreadleError
from treadle.ports import Call, Record, SpanRecord, SyncContext, Work


@attrs.frozen
class Posted:
    """An output."""

    url: str
    count: int = 0


@executor("acme.slug")
async def slug(text: str, sep: str = "-") -> str:
    """The decorator keeps the function's type."""
    return sep.join(text.lower().split())


@executor("acme.measure", effects="none", backends=("asyncio",))
def measure(ctx: SyncContext, /, lines: list[str]) -> dict[str, int]:
    """A plain function, with a context."""
    ctx.progress(1, len(lines), "measuring")
    with ctx.span("measure", attributes={"lines": len(lines)}) as attributes:
        attributes["done"] = True
    return {line: len(line) for line in lines}


@client("acme")
@attrs.define
class Acme:
    """A client with settings."""

    base_url: str = ""
    token: Secret | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Session, None]:
        """Connect."""
        yield Session(self.base_url, self.token.reveal() if self.token else "")


class Session:
    """What executors receive."""

    def __init__(self, base_url: str, token: str) -> None:
        self.base_url, self.token = base_url, token


@executor("acme.post")
async def post(acme: Session, ctx: Context, /, text: str) -> Posted:
    """Needs a client, and the context."""
    if not text:
        raise PermanentError("There is no text.", "Give one.")
    if ctx.attempt == 1:
        raise TransientError("busy", retry_after_s=1.5)
    return Posted(acme.base_url)


class Policy:
    """Every hook, as a policy implements it."""

    @hookimpl(wrapper=True)
    def execute(self, call: Call, ctx: Context) -> Generator[None, Work | None, Work | None]:
        """Time it, say."""
        return (yield)

    @hookimpl
    def validate_output(self, call: Call, output: object) -> Iterable[Issue] | None:
        """Find fault."""
        return [Issue("is empty", "$")] if not output else None

    @hookimpl
    def emit_span(self, span: SpanRecord) -> None:
        """Count."""

    @hookimpl
    def record_event(self, record: Record) -> None:
        """Write down."""


def use() -> None:
    """A workflow in Python, run in this thread."""
    workflow = Workflow("hello")
    word = workflow.step("word", "acme.slug", text="Hello World")
    workflow.step("post", "acme.post", text=word.output, needs=[word])
    result = run(workflow, {"x": 1}, registry=Registry.of(slug, post, clients=[Acme()], policies=[Policy()]))
    assert_type(result.run_id, str)
    assert_type(result.trace_id, str)
    try:
        result.check()
    except RunFailedError as error:
        assert_type(error.remedy, str)
    except TreadleError:
        raise


def use_structures() -> None:
    """Groups, choices, subflows, and what stands in for a step or undoes it."""
    workflow = Workflow("structured")
    gather = workflow.parallel("gather", on_error="continue", max_parallel=2, timeout="5m")
    page = gather.step("page", "acme.slug", text="a", fallback=[Use("acme.slug", text="b")], compensate=Use("acme.undo"))
    route = workflow.choose("route", needs=[gather])
    route.step("long", "acme.slug", when=gather.output.page != "a", priority=-1, text=page.output)
    route.step("rest", "acme.slug", else_=True, text="c")
    workflow.subflow("post", Workflow("post"), foreach=[1, 2], text=route.branch)


async def use_async() -> None:
    """The same inside a running loop; a decorated function is still a function."""
    assert_type(await slug("Hello World"), str)
    assert_type(measure.__name__, str)
    result = await arun(Workflow("hello"))
    assert_type(result.outputs["x"], object)
