"""Binding: authors' functions and classes become the one plugin of their scope, or are refused with the reason."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypedDict, cast

import anyio.to_thread
import attrs
import jsonschema
import pluggy
import pytest
from treadle._bind import BoundExecutor, InputParameter, Need, bind
from treadle._executor import Executor, executor
from treadle._models import Call, GiveUp, Issue, RetryAfter, RetryPolicy, Work
from treadle.errors import BindError, InputsInvalidError, OutputInvalidError
from treadle.hookspecs import ExecutorHooks, hookimpl
from treadle.ports import Context, SyncContext

pytestmark = pytest.mark.anyio

CALL = Call("run", "workflow", "step", "acme.thing", {})


class Service:
    """A client's object."""


class Dialect(Protocol):
    def speak(self) -> str: ...


@attrs.frozen
class Posted:
    id: int
    url: str = ""


class Report(TypedDict):
    total: int


class RunnerContext:
    """What the runner hands over: needs and context in order, inputs structured, a thread for ``def``."""

    def __init__(self, *arguments: object, **inputs: object) -> None:
        self.arguments, self.inputs = arguments, inputs

    async def run_sync(self, function: Callable[[], object]) -> object:
        return await anyio.to_thread.run_sync(function)


async def perform(bound: BoundExecutor, *arguments: object, **inputs: object) -> object:
    work = bound.execute(CALL, cast(Context, RunnerContext(*arguments, **inputs)))
    return await work()


# -- the function form ---------------------------------------------------------------------------------------------------


@executor("acme.post", effects="idempotent", examples=[{"channel": "a", "text": "b"}])
async def post(http: Service, ctx: Context, /, channel: str, text: str = "hello", *, tags: list[str] | None = None) -> Posted:
    """Post a text to a channel.

    It appears at once.

    Args:
        channel: Where, by name
            or by number.
        text: What.
    """
    return Posted(len(channel), text)


async def test_an_async_function_is_bound() -> None:
    """Left of the slash what it needs, right of it what it is given; the rest comes from its mark and docstring."""
    bound = bind("acme.post", post, distribution="treadle-acme", version="1.2")

    assert (bound.name, bound.family, bound.effects, bound.is_async) == ("acme.post", "general", "idempotent", True)
    assert (bound.distribution, bound.version, bound.backends) == ("treadle-acme", "1.2", ("asyncio", "trio"))
    assert bound.doc.startswith("Post a text to a channel.\n\nIt appears at once.")
    assert bound.needs == (Need("http", Service),)
    assert bound.takes_context
    assert bound.positional == (Need("http", Service), None)
    assert bound.inputs == (
        InputParameter("channel", str, required=True, default=None, description="Where, by name or by number."),
        InputParameter("text", str, required=False, default="hello", description="What."),
        InputParameter("tags", list[str] | None, required=False, default=None),
    )
    assert bound.examples == ({"channel": "a", "text": "b"},)
    assert await perform(bound, Service(), None, channel="abc") == Posted(3, "hello")


async def test_a_def_runs_through_the_runners_thread() -> None:
    """A ``def`` never blocks the event loop."""

    def where(ctx: SyncContext, /, n: int) -> tuple[int, int]:
        return n, threading.get_ident()

    bound = bind("acme.where", where)
    n, thread = cast("tuple[int, int]", await perform(bound, None, n=3))

    assert not bound.is_async
    assert bound.positional == (None,)
    assert n == 3
    assert thread != threading.get_ident()


async def test_building_the_work_starts_nothing() -> None:
    """The hook answers a thunk: policies may wrap it, call it twice, or never."""
    calls: list[int] = []

    async def count(n: int) -> int:
        calls.append(n)
        return len(calls)

    work = bind("acme.count", count).execute(CALL, cast(Context, RunnerContext(n=7)))

    assert calls == []
    assert [await work(), await work()] == [1, 2]


async def test_decorated_and_partial_functions_keep_their_signature() -> None:
    """What functools makes of an async function is still awaited."""

    def logged(function: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
        @functools.wraps(function)
        def wrapper(*arguments: object, **inputs: object) -> Awaitable[int]:
            return function(*arguments, **inputs)

        return wrapper

    @logged
    async def double(n: int) -> int:
        """Double it."""
        return 2 * n

    async def power(n: int, exponent: int) -> float:
        return float(n**exponent)

    class Adder:
        async def __call__(self, n: int) -> int:
            return n + 1

    partial = bind("acme.square", functools.partial(power, exponent=2))
    decorated = bind("acme.double", double)
    instance = bind("acme.add", Adder())

    assert [bound.is_async for bound in (partial, decorated, instance)] == [True, True, True]
    assert [each.name for each in partial.inputs] == ["n", "exponent"]
    assert [each.type_ for each in (*decorated.inputs, *instance.inputs)] == [int, int]
    assert decorated.doc == "Double it."
    assert [await perform(bound, n=3) for bound in (partial, decorated, instance)] == [9, 6, 4]


def test_an_unmarked_function_and_a_lambda_are_bound() -> None:
    """A folder of tools needs no marks: no effects, any JSON in and out."""
    bound = bind("tool.same", lambda value, other=1: value)

    assert (bound.name, bound.effects, bound.family) == ("tool.same", None, "general")
    assert [(each.name, each.type_, each.required) for each in bound.inputs] == [
        ("value", object, True),
        ("other", object, False),
    ]
    assert bound.structure_inputs({"value": {"a": 1}}) == {"value": {"a": 1}}
    assert bound.validate_output(CALL, [1]) == []


def test_a_need_checks_what_it_is_given() -> None:
    """By its class; a Protocol and object ask nothing."""
    assert Need("a", Service).accepts(Service())
    assert not Need("a", Service).accepts("text")
    assert Need("a", Dialect).accepts("text")
    assert Need("a").accepts(3)


# -- inputs --------------------------------------------------------------------------------------------------------------


@executor("acme.many")
def many(n: int, at: Posted | None = None, mode: Literal["a", "b"] = "a", **rest: float) -> None:
    """Take much."""


def test_inputs_are_structured_by_their_types() -> None:
    """The executor gets Python values; names that it does not list go to ``**``."""
    given = {"n": 3, "at": {"id": 1}, "other": 2}

    assert bind("acme.many", many).structure_inputs(given) == {"n": 3, "at": Posted(1), "other": 2.0}


def test_inputs_share_nothing_with_what_is_recorded() -> None:
    """An executor that changes what it was given changes a copy (S3-05)."""

    def change(items: list[object], anything: object) -> None: ...

    recorded: dict[str, object] = {"items": [[1]], "anything": {"a": []}}
    inputs = bind("acme.change", change).structure_inputs(recorded)
    cast("list[list[int]]", inputs["items"])[0].append(2)
    cast("dict[str, list[int]]", inputs["anything"])["a"].append(2)

    assert recorded == {"items": [[1]], "anything": {"a": []}}


def test_invalid_inputs_are_refused_with_all_faults() -> None:
    """Missing, misspelt and mistyped inputs together, each with its path (S3-17)."""
    bound = bind("acme.post", post)

    with pytest.raises(InputsInvalidError) as caught:
        bound.structure_inputs({"chanel": "a", "text": 3, "tags": ["x", 1]})

    assert [(fault.path, fault.message, fault.remedy) for fault in caught.value.faults] == [
        ("chanel", "acme.post has no input 'chanel'", "did you mean 'channel'?"),
        ("channel", "acme.post needs the input 'channel' (str)", "add it under 'with'"),
        ("text", "expected str, got int", ""),
        ("tags[1]", "expected str, got int", ""),
    ]
    assert "executor 'acme.post'" in str(caught.value)


def test_inputs_are_checked_before_they_are_known() -> None:
    """At plan time, expressions stand for values that only the run will know; names and constants are checked all the same."""
    bound = bind("acme.post", post)

    assert bound.input_faults({"channel": "a"}) == []
    assert bound.input_faults({}, {"channel", "text"}) == []
    assert [fault.message for fault in bound.input_faults({"text": 1}, {"chan"})] == [
        "acme.post has no input 'chan'",
        "acme.post needs the input 'channel' (str)",
        "expected str, got int",
    ]


def test_free_form_inputs_have_their_type_too() -> None:
    """``**rest: float`` takes any name, and only numbers."""
    bound = bind("acme.many", many)

    assert bound.input_faults({"n": 1, "x": 2}) == []
    assert [str(fault) for fault in bound.input_faults({"n": 1, "x": "2"}, {"y"})] == ["x: expected float, got str"]
    with pytest.raises(InputsInvalidError, match="x: expected float, got str"):
        bound.structure_inputs({"n": 1, "x": "2"})


def test_an_executor_without_inputs_says_so() -> None:
    """A suggestion from nothing would be a riddle."""
    (fault,) = bind("acme.none", lambda: None).input_faults({"a": 1})

    assert fault.remedy == "there are none"


def test_schemas_describe_inputs_and_output() -> None:
    """Draft 2020-12, with descriptions and defaults, agreeing with the check."""
    bound = bind("acme.many", many)
    schema = bound.input_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)

    assert schema["description"] == "Take much."
    assert schema["required"] == ["n"]
    assert [validator.is_valid(each) for each in ({"n": 1, "x": 2}, {"n": "1"}, {"n": 1, "x": "2"})] == [True, False, False]
    assert bound.output_schema() == {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "null"}
    properties = cast("dict[str, dict[str, object]]", bind("acme.post", post).input_schema()["properties"])
    assert properties["text"] == {"type": "string", "description": "What.", "default": "hello"}
    assert properties["channel"] == {"type": "string", "description": "Where, by name or by number."}


# -- output --------------------------------------------------------------------------------------------------------------


def test_an_empty_answer_is_not_accepted_for_a_typed_result() -> None:
    """An executor that returns ``{}`` where it declares fields fails its contract (S0-03)."""

    def report() -> Report:
        return cast(Report, {})

    def posted() -> Posted:
        return cast(Posted, {})

    issues = [bind("acme.it", each).validate_output(CALL, {}) for each in (report, posted)]

    assert issues == [[Issue("is missing", "$.total")], [Issue("is missing", "$.id")]]


def test_an_output_becomes_plain_json() -> None:
    """Instances of the declared type are read; the check then sees what will be recorded (S3-18)."""
    bound = bind("acme.post", post)
    output = bound.plain_output(Posted(1, "u"))

    assert output == {"id": 1, "url": "u"}
    assert bound.validate_output(CALL, output) == []
    assert bound.validate_output(CALL, {"id": "1"}) == [Issue("expected int, got str", "$.id")]


def test_an_output_that_is_not_json_is_refused() -> None:
    """With the executor's name, the place and what to return instead."""
    with pytest.raises(OutputInvalidError) as caught:
        bind("acme.any", lambda: None).plain_output({"a": {1}})

    assert str(caught.value).startswith("Output of 'acme.any' is not valid: $.a: a set is not JSON; return a list\n")


def test_no_annotation_means_any_json_and_none_means_none() -> None:
    """What is not declared is not checked; ``-> None`` is."""

    def free():  # type: ignore[no-untyped-def]  # as authors write tools
        return 3

    def nothing() -> None: ...

    assert bind("tool.free", free).validate_output(CALL, {"a": 1}) == []
    assert bind("tool.nothing", nothing).validate_output(CALL, None) == []
    assert bind("tool.nothing", nothing).validate_output(CALL, {}) == [Issue("expected null, got dict", "$")]


# -- families and the class form -------------------------------------------------------------------------------------------


class PublishingExecutor(Executor):
    """Outputs have an address."""

    family: ClassVar[str] = "publishing"

    def validate_output(self, output: object) -> Iterable[Issue | str] | None:
        return ["an address is needed"] if not cast("dict[str, object]", output).get("url") else None

    def retry_policy(self, error: Exception) -> RetryAfter | GiveUp | None:
        return GiveUp("published once") if isinstance(error, KeyError) else None


@executor("acme.upload", effects="unsafe")
class Upload(PublishingExecutor):
    """Upload a file."""

    def __init__(self) -> None:
        self.seen = 0

    async def execute(self, http: Service, /, name: str) -> dict[str, object]:
        """Do it.

        Args:
            name: Its name.
        """
        self.seen += 1
        return {"url": name, "seen": self.seen}

    def validate_output(self, output: object) -> Iterable[Issue | str]:
        yield from super().validate_output(output) or []
        if "seen" not in cast("dict[str, object]", output):
            yield Issue("was not counted", "$.seen")


@executor("acme.store")
class Store(PublishingExecutor):
    def execute(self, name: str) -> dict[str, object]:
        """Store a file."""
        return {"url": name, "thread": threading.get_ident()}


async def test_a_class_is_bound() -> None:
    """Its family comes from its base; every call has a new instance, so no state leaks from one into the next."""
    bound = bind("acme.upload", Upload)

    assert (bound.family, bound.effects, bound.is_async, bound.doc) == ("publishing", "unsafe", True, "Upload a file.")
    assert bound.needs == (Need("http", Service),)
    assert [each.description for each in bound.inputs] == ["Its name."]
    assert [await perform(bound, Service(), name="a") for _ in range(2)] == [{"url": "a", "seen": 1}] * 2


async def test_a_class_with_a_def_runs_in_a_thread() -> None:
    """The class form knows both kinds, too; its docstring may stand at the method."""
    bound = bind("acme.store", Store)
    output = cast("dict[str, object]", await perform(bound, name="a"))

    assert (bound.is_async, bound.doc) == (False, "Store a file.")
    assert output["thread"] != threading.get_ident()


def test_a_class_extends_the_contract_of_its_family() -> None:
    """Through ``super()``, so each clause is told once."""
    bound = bind("acme.upload", Upload)

    assert bound.validate_output(CALL, {"url": "u", "seen": 1}) == []
    assert bound.validate_output(CALL, {}) == [Issue("an address is needed"), Issue("was not counted", "$.seen")]


def test_a_function_keeps_the_contract_of_its_family() -> None:
    """Core runs it: the function form cannot lose it."""

    @executor("acme.link", family="publishing")
    async def link(name: str) -> dict[str, object]:
        return {}

    bound = bind("acme.link", link, family=PublishingExecutor)

    assert bound.family == "publishing"
    assert bound.validate_output(CALL, {}) == [Issue("an address is needed")]
    assert bound.retry_policy(CALL, KeyError()) == GiveUp("published once")
    assert bound.retry_policy(CALL, OSError()) is None


def test_the_declared_type_comes_before_the_contract() -> None:
    """The family's check may rely on the type: it is not asked about anything else."""

    class Strict(Executor):
        def execute(self) -> Posted:
            return Posted(1)

        def validate_output(self, output: object) -> Iterable[str]:
            return [f"id is {cast('dict[str, object]', output)['id']}"]

    bound = bind("acme.strict", Strict)

    assert bound.validate_output(CALL, {"url": "u"}) == [Issue("is missing", "$.id")]
    assert bound.validate_output(CALL, {"id": 3}) == [Issue("id is 3")]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda: None, []),
        (lambda: [], []),
        (lambda: "one text is one issue", [Issue("one text is one issue")]),
        (lambda: Issue("m", "$.a"), [Issue("m", "$.a")]),
        (lambda: ["a", Issue("b", "$.b")], [Issue("a"), Issue("b", "$.b")]),
        (lambda: (each for each in ("a", "b")), [Issue("a"), Issue("b")]),
        (lambda: True, [Issue("validate_output answered bool instead of issues or None")]),
        (lambda: {"a": 1}, [Issue("validate_output answered dict instead of issues or None")]),
        (lambda: [3], [Issue("3")]),
        (lambda: 1 / 0, [Issue("validate_output raised ZeroDivisionError: division by zero")]),
    ],
)
def test_whatever_validate_output_does_is_understood(answer: Callable[[], Any], expected: list[Issue]) -> None:
    """Issues, texts, one bare text, generators; an exception is an issue that names it."""

    class Loose(Executor):
        def execute(self) -> object:
            return None

        def validate_output(self, output: object) -> Iterable[Issue | str] | None:
            return cast("Iterable[Issue | str] | None", answer())

    assert bind("acme.loose", Loose).validate_output(CALL, {}) == expected


def test_a_generator_that_raises_midway_is_an_issue() -> None:
    """Also when the exception comes from the second step of the check."""

    class Loose(Executor):
        def execute(self) -> object:
            return None

        def validate_output(self, output: object) -> Iterable[str]:
            yield "first"
            raise KeyError("second")

    assert bind("acme.loose", Loose).validate_output(CALL, {}) == [Issue("validate_output raised KeyError: 'second'")]


def test_a_check_that_changes_the_output_changes_a_copy() -> None:
    """What is recorded is what the executor returned."""

    class Greedy(Executor):
        def execute(self) -> object:
            return None

        def validate_output(self, output: object) -> None:
            cast("dict[str, list[int]]", output)["items"].clear()

    output = {"items": [1]}

    assert bind("acme.greedy", Greedy).validate_output(CALL, output) == []
    assert output == {"items": [1]}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(), GiveUp("running it again may do harm (effects 'unsafe'); a 'retry' in the file would allow it")),
        (RetryPolicy(explicit=True), None),
    ],
)
def test_what_is_unsafe_is_not_retried_unless_the_file_says_so(policy: RetryPolicy, expected: GiveUp | None) -> None:
    """The executor's own hook says so, whatever the error."""
    bound = bind("acme.upload", Upload)

    assert bound.retry_policy(attrs.evolve(CALL, retry=policy), ConnectionError()) == expected


# -- pluggy --------------------------------------------------------------------------------------------------------------


async def test_a_bound_executor_is_a_plugin_of_its_scope() -> None:
    """pluggy takes it as it is; nothing is left unimplemented, and wrappers see the thunk."""
    manager = pluggy.PluginManager("treadle")
    manager.add_hookspecs(ExecutorHooks)
    manager.register(bind("acme.upload", Upload))
    manager.check_pending()
    explicit = attrs.evolve(CALL, retry=RetryPolicy(explicit=True))

    class Twice:
        @hookimpl(wrapper=True)
        def execute(self, call: Call, ctx: Context) -> Generator[None, Work, Work]:
            work = yield

            async def twice() -> list[object]:
                return [await work(), await work()]

            return twice

    manager.register(Twice())
    work = manager.hook.execute(call=CALL, ctx=cast(Context, RunnerContext(Service(), name="a")))

    assert work is not None
    assert await work() == [{"url": "a", "seen": 1}] * 2
    assert manager.hook.validate_output(call=CALL, output={"seen": 1}) == [[Issue("an address is needed")]]
    assert manager.hook.retry_policy(call=explicit, error=KeyError()) == GiveUp("published once")


# -- what cannot work ------------------------------------------------------------------------------------------------------


def builtin_left(text: str, /) -> None: ...
def union_left(http: Service | None, /) -> None: ...
def collection_left(texts: list[str], /) -> None: ...
def literal_left(mode: Literal["a"], /) -> None: ...
def bare_left(http, /) -> None: ...  # type: ignore[no-untyped-def]  # that is the fault
def default_left(http: Service = Service(), /) -> None: ...  # noqa: B008  # that is the fault
def context_right(ctx: Context) -> None: ...
def sync_context_right(*, ctx: Annotated[SyncContext, "facts"]) -> None: ...
def two_contexts(a: SyncContext, b: SyncContext, /) -> None: ...
def async_context_in_def(ctx: Context, /) -> None: ...
def starred(*texts: str) -> None: ...
def set_returned() -> set[int]: ...  # type: ignore[empty-body]  # only its signature counts
def bytes_taken(data: bytes) -> None: ...
def bytes_returned() -> bytes: ...  # type: ignore[empty-body]  # the same
def bytes_in_rest(**data: bytes) -> None: ...
def unresolvable(x: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # that is the fault
def no_type(x: "1 +") -> None: ...  # type: ignore[valid-type]  # noqa: F722  # the same
def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


class NotAnExecutor:
    async def execute(self) -> None: ...


class WithoutExecute(Executor):
    pass


class StaticExecute(Executor):
    @staticmethod
    async def execute() -> None: ...


class WithArguments(Executor):
    def __init__(self, url: str) -> None:
        self.url = url

    async def execute(self) -> None: ...


class AsyncCheck(Executor):
    async def execute(self) -> None: ...
    async def validate_output(self, output: object) -> None: ...  # type: ignore[override]  # that is the fault


class AsyncRetry(Executor):
    async def execute(self) -> None: ...
    async def retry_policy(self, error: Exception) -> None: ...  # type: ignore[override]  # that is the fault


@executor("acme.other", family="research")
class OtherFamily(PublishingExecutor):
    async def execute(self) -> None: ...


@executor("acme.orphan", family="research")
async def orphan() -> None: ...


class AsyncGeneratorExecute(Executor):
    async def execute(self) -> AsyncIterator[int]:
        yield 1


NOT_A_CLIENT = "so it cannot be a client."

REFUSED: list[tuple[object, str, str]] = [
    (builtin_left, f"'text', left of '/', is str, {NOT_A_CLIENT}", "Move inputs right of '/'"),
    (union_left, f"'http', left of '/', is Service | None, {NOT_A_CLIENT}", "annotate needs with the client's class"),
    (collection_left, f"'texts', left of '/', is list[str], {NOT_A_CLIENT}", "Move inputs right"),
    (literal_left, f"'mode', left of '/', is Literal['a'], {NOT_A_CLIENT}", "Move inputs right"),
    (bare_left, f"'http', left of '/', is not annotated, {NOT_A_CLIENT}", "annotate needs"),
    (default_left, "'http', left of '/', has a default.", "Needs are always given"),
    (context_right, "'ctx' is the context, right of '/'.", "def f(ctx: Context, /, ...)"),
    (sync_context_right, "'ctx' is the context, right of '/'.", "def f(ctx: Context, /, ...)"),
    (two_contexts, "it asks for the context twice.", "Ask for one."),
    (async_context_in_def, "'ctx' is a Context in a 'def'.", "Ask for a SyncContext"),
    (starred, "it takes '*texts'.", "Take one list"),
    (set_returned, "it returns set[int], and a set is not JSON.", "Return a list"),
    (bytes_taken, "the input 'data': The type bytes has no JSON form.", "Use str"),
    (bytes_returned, "what it returns: The type bytes has no JSON form.", "Use str"),
    (bytes_in_rest, "the inputs '**data': The type bytes has no JSON form.", "Use str"),
    (unresolvable, "unresolvable: the annotation 'Missing' cannot be resolved.", "not under TYPE_CHECKING"),
    (no_type, "an annotation is no type", "Correct the annotation."),
    (generator, "it is a generator.", "Return a list"),
    (async_generator, "it is a generator.", "Return a list"),
    (AsyncGeneratorExecute, "it is a generator.", "Return a list"),
    (NotAnExecutor, "the class NotAnExecutor is no Executor.", "Derive it from treadle.Executor"),
    (WithoutExecute, "the class WithoutExecute has no method 'execute'.", "Add 'async def execute(self, ...)'"),
    (StaticExecute, "the class StaticExecute has no method 'execute'.", "Add 'async def execute(self, ...)'"),
    (WithArguments, "WithArguments cannot be made without url.", "Take inputs in 'execute'"),
    (AsyncCheck, "AsyncCheck.validate_output is 'async def'.", "Make it 'def'"),
    (AsyncRetry, "AsyncRetry.retry_policy is 'async def'.", "Make it 'def'"),
    (OtherFamily, "its mark says family 'research', its base 'publishing'.", "Leave 'family' out"),
    (orphan, "the family 'research' is not installed.", "Install the plugin"),
    (3, "3 is no function or class.", "Point the entry point"),
    (dict.update, "its signature cannot be read", "Wrap it in a 'def' of your own."),
]


@pytest.mark.parametrize(("obj", "problem", "remedy"), REFUSED, ids=[getattr(obj, "__name__", str(obj)) for obj, *_ in REFUSED])
def test_what_cannot_work_is_refused(obj: object, problem: str, remedy: str) -> None:
    """Before anything starts, naming the executor, the parameter and what to write instead."""
    with pytest.raises(BindError) as caught:
        bind("acme.bad", obj)

    assert caught.value.problem.startswith(f"Executor 'acme.bad': {problem}")
    assert remedy in caught.value.remedy


def test_a_family_whose_check_is_async_is_refused_for_functions() -> None:
    """The same rule for whoever brings the check."""
    with pytest.raises(BindError, match="validate_output is 'async def'"):
        bind("acme.link", post, family=AsyncCheck)


def test_object_is_a_need_of_any_type() -> None:
    """``object`` left of the slash: whatever the client of that name gives."""

    def anything(db: object, /, data: Mapping[str, int]) -> None: ...

    assert bind("acme.anything", anything).needs == (Need("db", object),)
