"""Pipelines: chains whose context grows, and graphs; both are runs."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest
from treadle import Context, Executor, KeyOverwrittenWarning, Pipeline, Registry, TransientError, client, executor
from treadle.errors import (
    ExecutorNotFoundError,
    InputsInvalidError,
    NotSupportedError,
    RunFailedError,
    WorkflowInvalidError,
)
from treadle.testing import VirtualClock

NOTHING = Registry.of()
"""No plugin at all."""


@executor("acme.find")
async def find(topic: str, limit: int = 10) -> dict[str, Any]:
    """Find things."""
    return {"found": [f"{topic} {n}" for n in range(limit)]}


@executor("acme.count")
def count(found: list[str]) -> dict[str, int]:
    """Count what was found."""
    return {"total": len(found)}


def chain(*steps: Any, **options: Any) -> Pipeline:
    return Pipeline(list(steps), **options)


def run(pipeline: Pipeline, *data: object, **options: Any) -> Any:
    return pipeline.run(*data, registry=options.pop("registry", NOTHING), **options)


# -- chains


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_outputs_are_merged_into_the_context(backend: str) -> None:
    """A list of (executor, inputs): what a step takes of the context, its own inputs winning, and the final context (S0-39)."""
    pipeline = chain((find, {"limit": 2}), (count, {}))

    assert run(pipeline, {"topic": "cats", "limit": 9, "kept": True}, backend=backend) == {
        "topic": "cats",
        "limit": 9,
        "kept": True,
        "found": ["cats 0", "cats 1"],
        "total": 2,
    }


def test_what_the_caller_handed_over_stays_as_it_was() -> None:
    """``{**context, **overrides}`` in, outputs merged, the caller's dict not touched (S0-40)."""

    @executor("acme.spoil")
    async def spoil(items: list[int], **others: object) -> dict[str, Any]:
        items.append(3)
        others["x"] = 1
        return {"more": items}

    data, own = {"items": [1], "deep": {"a": [1]}}, {"deep": {"b": 2}}
    before = copy.deepcopy((data, own))

    context = run(chain((spoil, own)), data)

    assert (data, own) == before
    assert context == {"items": [1], "deep": {"a": [1]}, "more": [1, 3]}


def test_executors_are_named_or_handed_over() -> None:
    """Names from the registry, marked functions and classes, bare functions and partials."""

    class Double(Executor):
        async def execute(self, n: int) -> dict[str, int]:
            return {"m": 2 * n}

    def halve(n: int) -> dict[str, float]:
        return {"half": n / 2}

    registry = Registry.of(find)
    pipeline = chain(("acme.find", {"limit": 1}), (Double, {}), (halve, {}), (partial(halve, n=5), {}, "again"))

    assert run(pipeline, {"topic": "x", "n": 3}, registry=registry) == {
        "topic": "x",
        "n": 3,
        "found": ["x 0"],
        "m": 6,
        "half": 1.5,
        "again": {"half": 1.5},
    }


def test_an_executor_that_takes_anything_is_given_the_whole_context() -> None:
    """As the layered executors did."""

    @executor("acme.all")
    async def everything(**context: object) -> dict[str, Any]:
        return {"keys": sorted(context)}

    assert run(chain((find, {"limit": 0}), (everything, {"own": 1})), {"topic": "x"})["keys"] == ["found", "own", "topic"]


def test_an_output_that_is_no_mapping_needs_a_key() -> None:
    """The third part of its tuple; without, the error says what cannot be merged."""

    async def title(topic: str) -> str:
        return topic.title()

    assert run(chain((title, {}, "title")), {"topic": "x y"}) == {"topic": "x y", "title": "X Y"}
    with pytest.raises(RunFailedError, match="merge needs a mapping, not a text"):
        run(chain((title, {})), {"topic": "x"})


def test_a_key_that_is_overwritten_is_a_warning() -> None:
    """A new mapping is made each time; who overwrote what is said, and an equal value overwrites nothing (C41)."""

    async def again(topic: str) -> dict[str, str]:
        return {"topic": topic, "found": "nothing"}

    with pytest.warns(KeyOverwrittenWarning) as warned:
        context = run(chain((find, {"limit": 0}), (again, {}), (again, {})), {"topic": "x"})

    [warning] = warned
    assert str(warning.message).startswith(
        "Pipeline 'pipeline': step 'again' overwrote 'found' of step 'acme_find'.\nKeep both: "
    )
    assert context == {"topic": "x", "found": "nothing"}


def test_a_chain_is_retried_as_any_step_is() -> None:
    """Three attempts, 2 s and 4 s apart, for what is transient (S0-41)."""
    calls: list[float] = []

    async def flaky(n: int) -> dict[str, int]:
        calls.append(anyio.current_time())
        if len(calls) < 3:
            raise TransientError("busy")
        return {"m": n}

    clock = VirtualClock()
    result = clock.run(partial(chain((flaky, {})).execute, {"n": 1}, registry=NOTHING, clock=clock))

    assert result.output == {"n": 1, "m": 1}
    assert (len(calls), result.run.steps["flaky"].attempts) == (3, 3)
    assert [later - earlier for earlier, later in pairwise(calls)] == pytest.approx([2.0, 4.0], rel=0.11)


def test_a_chain_is_one_run_with_its_contracts_and_spans() -> None:
    """Steps one after the other under one trace; an output that breaks its type fails the run."""

    @executor("acme.bad")
    async def bad() -> dict[str, int]:
        return {"n": "three"}  # type: ignore[dict-item]  # that is the test

    result = anyio.run(partial(chain((find, {}), (count, {}), name="digest").execute, {"topic": "x"}, registry=NOTHING))

    assert list(result.run.steps) == ["acme_find", "acme_count"]
    assert result.run.workflow == "digest"
    assert {span.name for span in result.run.spans} >= {"RUN digest", "acme_find", "attempt acme_count"}
    assert len({span.trace_id for span in result.run.spans}) == 1
    assert result.step_outputs["acme_count"] == {"total": 10}
    with pytest.raises(RunFailedError, match=r"OutputInvalidError.*\$\.n"):
        run(chain((bad, {})))


def test_a_failing_step_ends_the_chain() -> None:
    """Nothing after it runs; the error names it."""
    ran: list[int] = []

    async def breaks() -> dict[str, int]:
        raise ValueError("no luck")

    async def after() -> dict[str, int]:
        ran.append(1)
        return {}

    with pytest.raises(RunFailedError, match="step 'breaks' failed: ValueError: no luck"):
        run(chain((breaks, {}), (after, {})))

    assert not ran


def test_own_inputs_are_checked_before_anything_runs() -> None:
    """All of them at once, each with its place; what is missing everywhere is said by its step."""
    with pytest.raises(InputsInvalidError) as raised:
        run(chain((find, {"limits": 3}), (count, {"found": 3})), {"topic": "x"})

    assert [fault.path for fault in raised.value.faults] == ["[0].limits", "[1].found"]
    with pytest.raises(RunFailedError, match=r"acme\.find needs the input 'topic'"):
        run(chain((find, {})))
    with pytest.raises(ExecutorNotFoundError):
        run(chain(("acme.lost", {})))


@pytest.mark.parametrize("step", ["acme.find", ("acme.find",), ("acme.find", None), (3, {})])
def test_what_is_no_step_is_refused_at_once(step: object) -> None:
    """So is a pipeline without steps."""
    with pytest.raises(WorkflowInvalidError, match=r"expected \(executor, inputs\)|is no executor"):
        chain(step)
    with pytest.raises(WorkflowInvalidError, match="at least one step"):
        chain()


def test_data_that_is_no_mapping_is_called_data() -> None:
    """And none at all is an empty context."""

    async def doubled(data: int = 4) -> dict[str, int]:
        return {"twice": 2 * data}

    assert run(chain((doubled, {})), 3) == {"data": 3, "twice": 6}
    assert run(chain((doubled, {}))) == {"twice": 8}


def test_expressions_in_data_stay_text() -> None:
    """Whatever a context or an own input holds is data."""

    async def echo(text: str, other: str) -> dict[str, str]:
        return {"said": text + other}

    assert run(chain((echo, {"other": "${{ 1 }}"})), {"text": "${{ inputs.x }}"})["said"] == "${{ inputs.x }}${{ 1 }}"


def test_a_long_chain_works() -> None:
    """A hundred steps."""

    def step(number: int) -> Any:
        async def add(n: int) -> dict[str, int]:
            return {f"out{number}": n + number}

        return add, {}

    context = run(chain(*(step(number) for number in range(100))), {"n": 1})

    assert context["out99"] == 100
    assert len(context) == 101


def test_no_engine_is_needed() -> None:
    """A process in which no engine, store or other plugin can be imported chains two executors (S0-05)."""
    program = """
        import os
        os.environ["TREADLE_PLUGINS"] = "none"
        from treadle import Pipeline, Registry

        async def one(n: int) -> dict:
            return {"m": n + 1}

        async def two(m: int) -> dict:
            return {"k": m * 2}

        assert not Registry.discover().entries("treadle.engines")
        print(Pipeline([(one, {}), (two, {})]).run({"n": 1}))
        """
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line[8:] for line in program.splitlines())],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.stdout.strip(), done.stderr) == ("{'n': 1, 'm': 2, 'k': 4}", "")


# -- graphs


async def fetch(url: str) -> str:
    return f"text of {url}"


async def words(page: str, at_least: int = 1) -> list[str]:
    return [word for word in page.split() if len(word) >= at_least]


async def say(words: list[str], url: str) -> str:
    return f"{len(words)} words at {url}"


STEPS: dict[str, object] = {"page": fetch, "words": words, "say": say}
NEEDS = {"words": ["page"], "say": ["words"]}


def test_a_graph_gives_outputs_by_name() -> None:
    """Pipeline(name, steps=..., dependencies=..., executor=..., step_configs=...), await execute(data, deps) (S4-26)."""
    pipeline = Pipeline(
        "digest", steps=STEPS, dependencies=NEEDS, executor=None, step_configs={"page": {"timeout": "5s", "retries": 1}}
    )

    result = anyio.run(partial(pipeline.execute, {"url": "example.org"}, None, registry=NOTHING))

    assert result.output == "3 words at example.org"
    assert result.step_outputs["words"] == ["text", "of", "example.org"]
    assert result.run.workflow == "digest"
    assert run(pipeline, {"url": "example.org"}) == result.output


def test_steps_of_a_graph_may_have_inputs_of_their_own() -> None:
    """Constants and expressions, as in a workflow; they win over names."""
    steps = {**STEPS, "words": (words, {"at_least": 3, "page": "${{ steps.page.output }} ${{ inputs.data.url }}"})}

    assert run(Pipeline("digest", steps=steps, dependencies=NEEDS), {"url": "abc"}) == "3 words at abc"


def test_independent_steps_of_a_graph_run_at_the_same_time() -> None:
    """Each starts when its own dependencies are done."""
    met = anyio.Event()

    async def first() -> int:
        with anyio.fail_after(60):
            await met.wait()
        return 1

    async def second() -> int:
        met.set()
        return 2

    async def both(first: int, second: int) -> int:
        return first + second

    steps = {"first": first, "second": second, "both": both}

    assert run(Pipeline("g", steps=steps, dependencies={"both": ["first", "second"]})) == 3


@client("books")
class Books:
    """Would fail if anybody opened it."""

    @asynccontextmanager
    async def open(self) -> Any:
        yield 1 / 0


def test_dependencies_of_a_graph_are_given_objects() -> None:
    """``deps`` stands in for configured clients."""

    async def read(books: Books, /, title: str) -> str:
        return f"{title} of {type(books).__name__}"

    held = Books()

    assert run(Pipeline("g", steps={"read": read}), {"title": "x"}, {"books": held}) == "x of Books"


def test_waits_and_attempts_of_a_graphs_step() -> None:
    """``retries`` counts the further attempts, ``retry_delay`` is seconds or a list of them."""
    calls: list[float] = []

    async def flaky() -> int:
        calls.append(anyio.current_time())
        if len(calls) < 4:
            raise TransientError("busy")
        return 1

    pipeline = Pipeline("g", steps={"flaky": flaky}, step_configs={"flaky": {"retries": 3, "retry_delay": [1.0, 5.0]}})
    clock = VirtualClock()

    assert clock.run(partial(pipeline.arun, registry=NOTHING, clock=clock)) == 1
    assert [round(later - earlier, 3) for earlier, later in pairwise(calls)] == [1.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"dependencies": {"say": ["lost"]}}, "there is no step 'lost'"),
        ({"dependencies": {"lost": ["say"]}}, "there is no step 'lost'"),
        ({"step_configs": {"lost": {}}}, "there is no step 'lost'"),
        ({"dependencies": NEEDS, "output_step": "lost"}, "there is no step 'lost'"),
        ({"dependencies": {"words": ["say"], "say": ["words"]}}, "steps wait for each other: "),
        ({}, "several steps are last: 'page', 'words', 'say'"),
    ],
)
def test_a_graph_that_cannot_work_is_refused_when_it_is_made(options: Any, fault: str) -> None:
    """Unknown steps, cycles, and several last steps of which none is named."""
    with pytest.raises(WorkflowInvalidError, match=fault):
        Pipeline("g", steps=STEPS, **options)


def test_the_output_step_may_be_named() -> None:
    """Then several may be last."""
    steps = {"one": partial(fetch, url="1"), "two": partial(fetch, url="2")}

    assert run(Pipeline("g", steps=steps, output_step="two")) == "text of 2"


def test_an_engine_that_is_not_there_is_refused() -> None:
    """Nothing silently runs elsewhere."""
    with pytest.raises(NotSupportedError, match="'temporal'"):
        run(Pipeline("g", steps={"page": fetch}, executor="temporal"), {"url": "x"})


def test_two_functions_of_one_name_are_two_executors() -> None:
    """In one chain."""

    def make(n: int) -> Any:
        async def step() -> dict[str, int]:
            return {f"n{n}": n}

        return step, {}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(chain(make(1), make(2), make(1))) == {"n1": 1, "n2": 2}


def test_a_graphs_step_may_have_a_cost_budget() -> None:
    """In microcents, as ``step_configs`` says it; a step that would exceed it fails, and the result says what was used."""

    async def ask(ctx: Context, /, times: int) -> int:
        for _ in range(times):
            ctx.spend(cost=40_000)
        return times

    pipeline = Pipeline("g", steps={"ask": ask}, step_configs={"ask": {"cost_budget": 100_000}})

    result = anyio.run(partial(pipeline.execute, {"times": 2}, registry=NOTHING))

    assert result.usage.total_cost == 80_000
    with pytest.raises(RunFailedError, match=r"Step 'ask' asks for 0\.0004 USD, and 0\.0002 USD are left of its own"):
        run(pipeline, {"times": 3})
