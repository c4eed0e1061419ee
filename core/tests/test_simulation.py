"""What ``simulate`` promises beyond its page, and the fakes of contexts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import attrs
import pytest
from treadle import Context, Executor, PermanentError, SyncContext, TransientError, Workflow, executor
from treadle._plugins import Registry
from treadle.errors import InputsInvalidError, PayloadInvalidError, SignalNotDeclaredError, WorkflowInvalidError
from treadle.testing import (
    After,
    FakeContext,
    FakeSyncContext,
    SignalMissingError,
    SimulatedFault,
    Simulation,
    VirtualClock,
    simulate,
)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def one(uses: str = "acme.read", **options: object) -> Workflow:
    workflow = Workflow("one")
    workflow.step("one", uses, **options)  # type: ignore[arg-type]  # whatever a test asks for
    return workflow


def several(count: int, **options: object) -> Workflow:
    workflow = Workflow("several", max_parallel=1, on_error="continue")
    options = {"retry": {"max_attempts": 1}, "on_error": "continue", **options}
    workflow.step("each", "acme.read", foreach=list(range(count)), n="${{ item }}", **options)  # type: ignore[arg-type]  # the same
    return workflow


# -- fakes


async def later(n: int = 0) -> dict[str, int]:
    await anyio.sleep(5)
    return {"n": n}


def with_context(ctx: Context, /, **inputs: object) -> dict[str, object]:
    return {**inputs, "attempt": ctx.attempt, "step": ctx.step}


FAKES: dict[str, tuple[object, object, float]] = {
    "a value": ({"n": [1]}, {"n": [1]}, 0),
    "nothing": (None, None, 0),
    "an empty list": ([], [], 0),
    "a list as the output": ([[1, 2]], [1, 2], 0),
    "a function": (lambda n: n + 1, 8, 0),
    "a function of nothing": (lambda: "x", "x", 0),
    "a function of everything": (lambda **inputs: inputs, {"n": 7, "m": "b"}, 0),
    "an async function": (later, {"n": 7}, 5),
    "one that asks for the context": (with_context, {"n": 7, "m": "b", "attempt": 1, "step": "one"}, 0),
    "a value later": (After(3600, "late"), "late", 3600),
    "a function later": (After(10, later), {"n": 7}, 15),
    "a function that takes its time": (lambda n: After(n, n), 7, 7),
}


@pytest.mark.parametrize("kind", FAKES)
def test_a_fake_may_be_many_things(kind: str, backend: str) -> None:
    """Each in its own way, at its own time."""
    fake, output, took_s = FAKES[kind]

    simulation = simulate(one(n=7, m="b"), executors={"acme.read": fake}, backend=backend)

    simulation.assert_completed().assert_step("one", "completed", output=output)
    assert simulation.duration_s == pytest.approx(took_s, abs=0.001)
    assert [call.inputs for call in simulation.calls] == [{"n": 7, "m": "b"}]


@pytest.mark.parametrize("error", [PermanentError("never"), PermanentError, After(5, ValueError("never"))])
def test_a_fake_may_be_an_exception(error: object) -> None:
    """An instance, a class, or one of these later; the same instance may be raised again and again."""
    simulation = simulate(several(3), executors={"*": error})

    simulation.assert_failed("each").assert_step("each", "failed", attempts=3, output=[None] * 3)


def test_a_list_is_one_answer_for_each_call() -> None:
    """In order, whatever each is; the last counts for all that follow."""
    answers = [TransientError("busy"), {"n": 1}, After(10, {"n": 2}), lambda n: {"n": n * 100}]

    simulation = simulate(several(6), executors={"*": answers})

    assert simulation.step("each").output == [None, {"n": 1}, {"n": 2}, {"n": 300}, {"n": 400}, {"n": 500}]


def test_what_a_fake_gives_is_a_copy() -> None:
    """Whoever changes an output, or what a fake was given, changes nothing that others see."""
    output = {"list": [1]}

    def spoil(n: dict[str, list[int]]) -> dict[str, list[int]]:
        n["list"].append(9)
        return n

    workflow = Workflow("copies")
    first = workflow.step("first", "acme.give")
    workflow.step("second", "acme.spoil", n=first.output)
    simulation = simulate(workflow, executors={"acme.give": output, "acme.spoil": spoil})

    assert output == {"list": [1]}
    assert simulation.step("first").output == {"list": [1]}
    assert simulation.calls[1].inputs == {"n": {"list": [1]}}
    assert simulation.step("second").output == {"list": [1, 9]}


def test_an_exact_name_goes_before_all_patterns() -> None:
    """Then the first pattern that matches."""
    workflow = Workflow("names")
    for name in ("acme.a", "acme.b", "other.c"):
        workflow.step(name.replace(".", "_"), name)

    simulation = simulate(workflow, executors={"*.b": 1, "acme.*": 2, "*": 3, "acme.a": 4})

    assert {path: step.output for path, step in simulation.result.steps.items()} == {"acme_a": 4, "acme_b": 1, "other_c": 3}


def test_an_executor_without_a_fake_is_refused() -> None:
    """No test calls a service by mistake; the error says both ways out."""
    with pytest.raises(WorkflowInvalidError) as failure:
        simulate(one("http.request", url="https://example.org"), executors={"acme.*": 1})

    assert "the simulation has no fake of the executor 'http.request'" in str(failure.value)
    assert "executors={'http.request': ...}" in str(failure.value)
    assert "installed=['http.request']" in str(failure.value)


# -- what is installed


class Keyed(Executor):
    """A family of the tests."""

    family = "keyed"

    def validate_output(self, output: object) -> list[str]:
        return [] if isinstance(output, dict) and "key" in output else ["needs a key"]


@executor("site.real", effects="none", isolation="process")
class Real(Keyed):
    async def execute(self, ctx: Context, /, n: int) -> dict[str, int]:
        return {"key": n}


@attrs.frozen
class Point:
    x: int
    y: int = 0


@executor("site.point", effects="none")
async def point(at: Point) -> int:
    return at.x


SITE = [Real, point]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if these executors came from a distribution."""
    discover = Registry.discover.__func__  # type: ignore[attr-defined]  # a classmethod

    def with_site(cls: type[Registry], config: object = None) -> Registry:
        registry: Registry = discover(cls, config)
        for one_ in SITE:
            registry._give("treadle.executors", "site.real" if one_ is Real else "site.point", one_)
        return registry

    monkeypatch.setattr(Registry, "discover", classmethod(with_site))


@pytest.mark.usefixtures("installed")
def test_a_fake_of_what_is_installed_is_held_to_its_contract() -> None:
    """To its family, its declared type, and its inputs, which are checked before the run as always; never to its process."""
    good = simulate(one("site.real", n=1), executors={"site.*": {"key": 5}})
    bad = simulate(one("site.real", n=1), executors={"site.*": {"other": 5}})
    wrong = simulate(one("site.real", n=1), executors={"site.*": {"key": "five"}})

    good.assert_completed()
    bad.assert_failed("one", error="needs a key")
    wrong.assert_failed("one", error="$.key: expected int")
    with pytest.raises(WorkflowInvalidError, match="expected int"):
        simulate(one("site.real", n="1"), executors={"site.*": {"key": 5}})


@pytest.mark.usefixtures("installed")
def test_a_fake_function_is_given_what_the_real_one_would_be() -> None:
    """Inputs in their declared types; the record of calls has them as plain data."""
    simulation = simulate(one("site.point", at={"x": 3}), executors={"site.point": lambda at: at.x + at.y})

    simulation.assert_completed().assert_step("one", output=3)
    assert simulation.calls[0].inputs == {"at": {"x": 3}}


@pytest.mark.usefixtures("installed")
def test_what_is_installed_may_be_called_for_real() -> None:
    """Where the test says so; in virtual time all the same."""
    simulation = simulate(one("site.point", at={"x": 3}), installed=["site.*"])

    simulation.assert_step("one", "completed", output=3)
    assert simulation.calls == ()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("isolation", ["process", {"memory": "64 MiB"}])
def test_a_fake_runs_where_the_simulation_does(isolation: object) -> None:
    """Whatever the step says of a process of its own."""
    simulate(one("site.real", n=1, isolation=isolation), executors={"*": {"key": os.getpid()}}).assert_completed()


def test_every_structure_is_simulated(tmp_path: Path) -> None:
    """Groups, fallbacks, choices, subflows and compensations meet fakes wherever an executor is used."""
    (tmp_path / "sub.yaml").write_text(
        "name: sub\ninputs: {where: {}}\noutputs: {at: '${{ steps.s.output }}'}\n"
        "steps: {s: {uses: acme.s, with: {where: '${{ inputs.where }}'}}}\n"
    )
    file = tmp_path / "all.yaml"
    file.write_text("""
name: all
steps:
  group:
    parallel:
      steps:
        x: {uses: acme.x, isolation: process}
        y: {uses: acme.y, fallback: {uses: acme.z, isolation: process}}
  pick: {needs: group, choose: {yes: {when: "steps.group.output.y == 2", uses: acme.yes}, no: {else: true, uses: acme.no}}}
  post: {needs: pick, foreach: [a, b], workflow: ./sub.yaml, with: {where: "${{ item }}"}}
  paid: {needs: post, uses: acme.pay, compensate: {uses: acme.refund}}
  last: {needs: paid, uses: acme.last}
""")
    fakes = {
        "acme.y": PermanentError("y"),
        "acme.z": 2,
        "acme.s": lambda where: where,
        "acme.last": PermanentError("no"),
        "*": 1,
    }

    simulation = simulate(file, executors=fakes)

    simulation.assert_failed("last").assert_step("post", output=[{"at": "a"}, {"at": "b"}]).assert_step("pick/no", "skipped")
    assert [call.executor.removeprefix("acme.") for call in simulation.calls] == [
        *("x", "y", "z", "yes", "s", "s", "pay", "last", "refund")
    ]
    assert simulation.duration_s < 0.01


def test_a_fake_opens_no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the real executor needs is not needed, though the step may name it."""
    discover = Registry.discover.__func__  # type: ignore[attr-defined]  # a classmethod

    class Database: ...

    async def ask(database: Database, /, n: int) -> int:
        return n

    ask.__annotations__ = {"database": Database, "n": int, "return": int}

    def with_site(cls: type[Registry], config: object = None) -> Registry:
        registry: Registry = discover(cls, config)
        registry._give("treadle.executors", "site.ask", ask)
        return registry

    monkeypatch.setattr(Registry, "discover", classmethod(with_site))

    simulate(one("site.ask", n=1, clients={"database": "billing"}), executors={"site.ask": 7}).assert_step("one", output=7)


# -- faults, seeds, signals, secrets


def test_faults_are_transient_and_come_by_the_seed(backend: str) -> None:
    """About as many attempts as asked for fail; retries heal them."""
    workflow = several(300, retry={"max_attempts": 5, "base": "1s"}, max_parallel=50)

    first, second, other = (
        simulate(workflow, executors={"*": 1}, faults={"acme.*": 0.2, "other.*": 1.0}, seed=seed, backend=backend)
        for seed in (1, 1, 2)
    )

    first.assert_completed()
    failed = first.step("each").attempts - 300
    assert 50 <= failed <= 100
    assert sorted(first.log) == sorted(second.log)
    assert sorted(first.log) != sorted(other.log)


def test_a_fault_says_that_it_is_one() -> None:
    """In words and by its type."""
    simulate(one(), executors={"*": 1}, faults={"*": 1.0}).assert_failed("one", error=SimulatedFault.__name__)


def test_the_seed_draws_the_jitter_of_waits() -> None:
    """So that waits are the same in each run of a test."""
    workflow = one(retry={"max_attempts": 3, "base": "1m", "jitter": 0.5})
    waits = [simulate(workflow, executors={"*": TransientError("x")}, seed=seed).waits("one") for seed in (1, 1, 2)]

    assert waits[0] == waits[1] != waits[2]
    assert all(60 <= first <= 90 and 120 <= second <= 180 for first, second in waits)


def test_signals_are_sent_when_they_are_due(backend: str) -> None:
    """At the start, or later."""
    workflow = Workflow("signals")
    workflow.wait("go", signal="go")
    workflow.wait("stop", signal="stop")

    simulation = simulate(workflow, signals={"go": {"n": 1}, "stop": After(90, "now")}, backend=backend)

    simulation.assert_completed().assert_step("go", output={"n": 1}).assert_step("stop", output="now")
    assert simulation.duration_s == pytest.approx(90)


def test_several_signals_of_a_name_are_sent_in_order(backend: str) -> None:
    """Each counted from the one before; a payload that is a list is written in a list."""
    workflow = Workflow("signals")
    needs: list[str] = []
    for name in ("first", "second", "third", "fourth"):
        workflow.wait(name, signal="go", needs=needs)
        needs = [name]
    workflow.wait("listed", signal="listed")
    signals = {"go": [1, After(90, After(10, 2)), 3, After(50, 4)], "listed": [[1, 2]]}

    simulation = simulate(workflow, signals=signals, backend=backend)

    steps = simulation.assert_completed().assert_step("listed", output=[1, 2]).result.steps
    ended = [(step.output, round(step.ended_at - simulation.result.started_at)) for step in steps.values()]
    assert sorted(ended, key=str) == [(1, 0), (2, 100), (3, 100), (4, 150), ([1, 2], 0)]


def test_signals_are_held_to_what_steps_wait_for() -> None:
    """As those of a real run are: by name, and by the step's schema, each of a list."""
    workflow = Workflow("signals")
    workflow.wait("ok", signal="ok", schema="approval")

    with pytest.raises(PayloadInvalidError, match=r"the signal 'ok' does not fit: \$\.approved: is required"):
        simulate(workflow, signals={"ok": [{"approved": True}, After(5, {})]})
    with pytest.raises(SignalNotDeclaredError, match=r"the signal 'okay'\.\nIt waits for: ok\."):
        simulate(workflow, signals={"okay": {"approved": True}})


def test_a_signal_that_nobody_sends_ends_the_simulation(backend: str) -> None:
    """Once all else is done: the error says which steps wait for which signals, and what to write."""
    workflow = Workflow("signals")
    work = workflow.step("work", "acme.read")
    each = workflow.parallel("each", foreach=["eu", "us"], as_="region", needs=work)
    each.wait("ok", signal="ok-${{ region }}", schema="approval")
    workflow.wait("go", signal="go")
    clock = VirtualClock(start=0.0)

    with pytest.raises(SignalMissingError) as failure:
        simulate(
            workflow,
            executors={"*": After(3600, 1)},
            signals={"ok-eu": After(60, {"approved": True})},
            clock=clock,
            backend=backend,
        )

    assert failure.value.awaited == {"go": "go", "each[1]/ok": "ok-us"}
    assert failure.value.problem == (
        f"Run {failure.value.run_id} would wait for ever: step 'go' waits for the signal 'go'; "
        "step 'each[1]/ok' waits for the signal 'ok-us', which nobody sends."
    )
    assert failure.value.remedy == "Send it: signals={'go': PAYLOAD, 'ok-us': PAYLOAD}; or give the wait a 'timeout'."
    assert clock.now() == pytest.approx(3600, abs=1)


def test_secrets_have_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no value on this machine has one during the simulation; what has keeps it."""
    monkeypatch.setenv("MINE", "my own")
    monkeypatch.delenv("THEIRS", raising=False)
    workflow = Workflow("secrets", secrets=("MINE", "THEIRS"))
    workflow.step("one", "acme.read", a="${{ secrets.MINE }}", b="${{ secrets.THEIRS }}")

    simulation = simulate(workflow, executors={"*": lambda a, b: [len(a), len(b)]})

    simulation.assert_step("one", output=[6, len("simulated secret THEIRS")])
    assert "THEIRS" not in os.environ
    assert simulation.calls[0].inputs == {"a": "***", "b": "***"}


def test_the_machines_configuration_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither policies that it names nor a store; what no policy serves is left out."""
    (tmp_path / "treadle.toml").write_text('[plugins]\npolicies = ["no-such"]\n[store]\nuse = "no-such"\n')
    monkeypatch.chdir(tmp_path)

    simulate(one(cache={"ttl": "1h"}, rate_limit={"limit": 1, "per": "day"}), executors={"*": 1}).assert_completed()


def test_a_file_is_simulated_by_its_path(tmp_path: Path) -> None:
    """As a text or a path; what is wrong with its inputs is told as always."""
    file = tmp_path / "w.yaml"
    file.write_text("name: w\ninputs: {n: {type: integer}}\nsteps: {one: {uses: acme.read, with: {n: '${{ inputs.n }}'}}}\n")

    for given in (file, str(file)):
        simulate(given, {"n": 3}, executors={"*": lambda n: n}).assert_step("one", output=3)
    with pytest.raises(InputsInvalidError):
        simulate(file, executors={"*": 1})


def test_a_clock_may_be_shared() -> None:
    """Times of calls and of the log count from the start of each simulation."""
    clock = VirtualClock()
    workflow = one()

    first, second = (simulate(workflow, executors={"*": After(60, 1)}, clock=clock) for _ in range(2))

    assert second.result.started_at == first.result.ended_at
    assert first.log == second.log
    assert second.calls[0].at == 0


# -- assertions


def failed() -> Simulation:
    workflow = Workflow("fails", on_error="continue")
    workflow.step("first", "acme.give", n=1)
    workflow.step("second", "acme.fail", needs="first")
    workflow.step("third", "acme.give", needs="second", n=2)
    return simulate(workflow, executors={"acme.give": {"ok": True}, "acme.fail": After(5, PermanentError("no luck"))})


def test_what_holds_can_be_strung_together() -> None:
    """Each assertion answers the simulation."""
    simulation = failed()

    assert (
        simulation.assert_failed()
        .assert_failed("second")
        .assert_failed("second", error="PermanentError")
        .assert_step("first", "completed", attempts=1, output={"ok": True})
        .assert_step("third", "upstream_failed", attempts=0, output=None)
        .assert_called("acme.give")
        .assert_called("acme.*", times=2)
        .assert_called("acme.give", times=1, n=1)
        .assert_called("acme.give", times=0, n=2)
        .assert_order("first", "second")
        is simulation
    )


BROKEN: dict[str, tuple[Callable[[Simulation], object], str]] = {
    "completed": (
        lambda it: it.assert_completed(),
        "the run ended partial_failure, step 'second' failed: PermanentError: no luck",
    ),
    "culprit": (lambda it: it.assert_failed("first"), "it failed by 'second', not 'first'"),
    "error": (lambda it: it.assert_failed(error="luck of"), "'PermanentError: no luck', which does not say 'luck of'"),
    "status": (
        lambda it: it.assert_step("second", "completed"),
        r"step 'second' ended failed, not completed (PermanentError: no luck)",
    ),
    "attempts": (lambda it: it.assert_step("first", attempts=2), "step 'first' made 1 attempts, not 2"),
    "output": (lambda it: it.assert_step("first", output=1), "step 'first' gave {'ok': True}, not 1"),
    "reason": (
        lambda it: it.assert_step("third", "completed"),
        "step 'third' ended upstream_failed, not completed ('second' did not complete)",
    ),
    "called": (lambda it: it.assert_called("mail.*"), "mail.*() was called 0 times, not once; it was called with: never"),
    "inputs": (
        lambda it: it.assert_called("acme.give", n=5),
        "acme.give(n=5) was called 0 times, not once; it was called with: {'n': 1}",
    ),
    "times": (lambda it: it.assert_called("acme.give", times=3), "acme.give() was called 1 times, not 3"),
    "order": (lambda it: it.assert_order("second", "first"), "step 'first' began 5 s before 'second' had ended"),
    "never": (lambda it: it.assert_order("first", "third"), "step 'third' never began"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_does_not_hold_says_what_was(broken: str) -> None:
    """So that the message alone tells what to look at."""
    check, said = BROKEN[broken]

    with pytest.raises(AssertionError) as failure:
        check(failed())

    assert said in str(failure.value)


def test_a_run_that_did_not_fail_is_no_failure() -> None:
    """And a step that there is not is named, with those that there are."""
    simulation = simulate(one(), executors={"*": 1})

    with pytest.raises(AssertionError, match="the run ended completed, it did not fail"):
        simulation.assert_failed()
    with pytest.raises(LookupError, match="no step 'two' ended; there are: one"):
        simulation.step("two")
    assert simulation.recorder.span("RUN one").status == "unset"


# -- contexts


def test_a_fake_context_remembers() -> None:
    """What an executor that is called as a plain function did with it."""

    async def work(ctx: Context, /, n: int) -> int:
        ctx.progress(1, 2, "half")
        ctx.heartbeat()
        with ctx.span("ask", attributes={"a": 1}) as span:
            span["b"] = 2
        await ctx.save("one", {"n": n})
        ctx.save_soon("two")
        await ctx.own_process(42)
        return n + ctx.attempt + ctx.fencing_token

    ctx = FakeContext(attempt=2, index=7, inputs={"n": 1})

    assert anyio.run(lambda: work(ctx, n=1)) == 4
    assert (ctx.progressed, ctx.heartbeats, ctx.processes) == ([(1, 2, "half")], 1, [42])
    assert ctx.spans == [{"name": "ask", "kind": "client", "a": 1, "b": 2}]
    assert ctx.saved == [("one", {"n": 1}), ("two", None)]
    assert (ctx.run_id, ctx.step, ctx.index, ctx.call.item) == ("run-1", "step", 7, "step[7]")
    assert ctx.log.logger.name == "treadle.step.test"
    assert ctx.checkpoint is None


def test_a_fake_of_a_sync_context_is_not_awaited() -> None:
    """For ``def`` executors."""

    def work(ctx: SyncContext, /) -> str:
        ctx.save("one", [1])
        ctx.own_process(42)
        return ctx.idempotency_key

    ctx = FakeSyncContext(run_id="r", path="p")

    assert work(ctx).startswith("trd1-")
    assert (ctx.saved, ctx.processes) == ([("one", [1])], [42])
