"""What the policy ``breaker`` promises, in whole runs whose time is virtual."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import treadle
from treadle import PermanentError, Registry, RunHandle, RunResult, Workflow, executor, hookimpl
from treadle.errors import ConfigInvalidError
from treadle.ports import Call, Outcome, Work
from treadle.testing import VirtualClock, virtual_run
from treadle_breaker import Breaker

NO_RETRY = {"max_attempts": 1}


class Service:
    """Answers each call as its script says: True works, an exception is raised, seconds are slept; then it works."""

    def __init__(self) -> None:
        self.script: list[object] = []
        self.calls: list[tuple[float, str]] = []
        self.running = self.most_running = 0

    async def call(self, host: str) -> str:
        self.calls.append((anyio.current_time(), host))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self.answer(self.script.pop(0) if self.script else True)
        finally:
            self.running -= 1

    async def answer(self, told: object) -> str:
        if isinstance(told, float):
            await anyio.sleep(told)
        elif isinstance(told, Exception):
            raise told
        return "ok"


service = Service()


@pytest.fixture(autouse=True)
def _new_service() -> None:
    service.__init__()  # type: ignore[misc] # the executors below hold it by its name


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@executor("acme.ask", effects="none")
async def ask(host: str = "") -> str:
    return await service.call(host)


@executor("acme.other", effects="none")
async def other(host: str = "") -> str:
    return await service.call("other " + host)


@executor("acme.sleep", effects="none")
async def sleep(seconds: float) -> None:
    await anyio.sleep(seconds)


class StatusError(Exception):
    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        super().__init__(f"status {status_code}")


def down() -> Exception:
    return ConnectionError("refused")


Step = tuple[str, dict[str, object]]


def in_turn(*steps: Step, retry: object = NO_RETRY, timeout: float | None = None) -> Workflow:
    """A workflow that makes these calls one after the other, whatever becomes of each."""
    workflow = Workflow("calls", max_parallel=1, on_error="continue")
    for number, (uses, inputs) in enumerate(steps):
        limit = {"timeout": timeout} if timeout and uses != "acme.sleep" else {}
        workflow.step(f"s{number}", uses, retry=retry, with_=inputs, **limit)  # type: ignore[arg-type]
    return workflow


def asks(count: int) -> list[Step]:
    return [("acme.ask", {})] * count


def run(workflow: Workflow, *policies: object, **options: object) -> RunResult:
    registry = Registry.of(ask, other, sleep, policies=policies)
    return virtual_run(workflow, registry=registry, **options)  # type: ignore[arg-type]


def errors(result: RunResult) -> list[str]:
    return [step.error.type if step.error else "" for step in result.steps.values()]


@pytest.mark.parametrize(("failures", "reaches"), [(4, True), (5, False)])
def test_it_opens_after_five_failures_in_a_row(failures: int, reaches: bool, backend: str) -> None:
    """Four failures in a row leave it closed; with the fifth it opens, and the next call is not made (S1-62)."""
    service.script = [down() for _ in range(failures)]

    result = run(in_turn(*asks(failures + 1)), Breaker(), backend=backend)

    assert errors(result)[:failures] == ["ConnectionError"] * failures
    assert errors(result)[failures] == ("" if reaches else "BreakerOpenError")
    assert len(service.calls) == failures + reaches


def test_a_success_starts_the_count_again() -> None:
    """Nine failures with one success among them never make five in a row (S1-62)."""
    service.script = [*[down() for _ in range(4)], True, *[down() for _ in range(4)], True, down()]

    run(in_turn(*asks(12)), Breaker())

    assert len(service.calls) == 12


def opened(*policies: Breaker, backend: str = "asyncio") -> Callable[[Workflow], RunResult]:
    """Runs workflows with policies whose circuit five failures have opened."""
    registry, clock = Registry.of(ask, other, sleep, policies=policies), VirtualClock()
    service.script[:0] = [down() for _ in range(5)]
    virtual_run(in_turn(*asks(5)), registry=registry, backend=backend, clock=clock)
    service.calls.clear()
    return partial(virtual_run, registry=registry, backend=backend, clock=clock)


def storm(seconds: float, **options: object) -> Workflow:
    """After so many seconds, 300 calls at once."""
    workflow = Workflow("storm", max_parallel=300, on_error="continue")
    workflow.step("pause", "acme.sleep", seconds=seconds)
    workflow.step("storm", "acme.ask", needs="pause", foreach=list(range(300)), **{"retry": NO_RETRY, **options})  # type: ignore[arg-type]
    return workflow


@pytest.mark.parametrize("round_", range(3))
def test_exactly_one_probe_is_let_in(backend: str, round_: int) -> None:
    """Of 300 calls that come at once just after ``reset_s`` (30 s), one is made; the others are refused until it has worked."""
    service.script = [5.0]
    again = opened(Breaker(), backend=backend)

    result = again(storm(30.5))
    after = again(in_turn(*asks(3)))

    assert result.steps["storm"].status == "failed"
    assert len(service.calls) == 1 + 3
    assert errors(after) == ["", "", ""]


class Gate:
    """A policy that lets calls go on when all of them are there, whatever thread each is in."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.refused: list[Outcome] = []

    @hookimpl
    def end_attempt(self, outcome: Outcome) -> None:
        """Note what was refused."""
        if outcome.error is not None and outcome.error.type == "BreakerOpenError":
            self.refused.append(outcome)

    @hookimpl(wrapper=True)
    def execute(self, call: Call) -> Generator[None, Work, Work]:
        """Wait outside of the breaker, which is named first."""
        work = yield
        return partial(self.wait, work) if call.executor == "acme.count" else work

    async def wait(self, work: Work) -> object:
        await anyio.to_thread.run_sync(self.barrier.wait, 300, limiter=anyio.CapacityLimiter(1000))
        return await work()


def test_exactly_one_probe_is_let_in_of_ten_runs_in_ten_threads() -> None:
    """300 calls of ten event loops come to the half open circuit at one moment: one is let in, 299 are refused."""
    breaker, gate = Breaker(reset_s=0.2), Gate(300)
    asked: list[int] = []

    @executor("acme.count", effects="none")
    async def count() -> None:
        asked.append(1)
        if len(asked) <= 5:
            raise ConnectionError("refused")
        with anyio.fail_after(300):  # the probe does not end before all others have come
            while len(gate.refused) < 299:  # noqa: ASYNC110 - other threads fill it
                await anyio.sleep(0.01)

    opening = Workflow("opening", max_parallel=1)
    opening.step("each", "acme.count", foreach=list(range(5)), retry=NO_RETRY, on_error="continue")
    treadle.run(opening, registry=Registry.of(count, policies=[breaker]))
    registry = Registry.of(count, sleep, policies=[breaker, gate])
    crowd = Workflow("crowd", max_parallel=30)
    # Within the run: between runs the breaker's time may stand still, where tests before this one have skipped some.
    crowd.step("pause", "acme.sleep", seconds=0.3)
    crowd.step("each", "acme.count", needs="pause", foreach=list(range(30)), retry=NO_RETRY, on_error="continue")
    results: list[RunResult] = []
    threads = [threading.Thread(target=lambda: results.append(treadle.run(crowd, registry=registry))) for _ in range(10)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(asked) == 5 + 1
    assert len(gate.refused) == 299
    assert sum(result.steps["each"].attempts for result in results) == 300


def test_it_stays_open_until_reset_s_is_over() -> None:
    """A second before, nothing is let in, and the error says how long it still takes."""
    again = opened(Breaker(reset_s=60))

    result = again(in_turn(("acme.sleep", {"seconds": 59}), *asks(1)))

    error = result.steps["s1"].error
    assert error is not None
    assert error.message == (
        "Step 's1' was not called: acme.ask is left alone, it failed too often in a row (at last: ConnectionError)."
    )
    assert error.remedy == "See what is wrong with it. The next call may try it in 1 s."
    assert service.calls == []


def test_a_probe_that_fails_opens_it_again() -> None:
    """One failure is enough then, and the wait begins anew."""
    service.script = [down()]
    again = opened(Breaker())

    result = again(in_turn(("acme.sleep", {"seconds": 30}), *asks(2), ("acme.sleep", {"seconds": 29}), *asks(1)))

    assert errors(result) == ["", "ConnectionError", "BreakerOpenError", "", "BreakerOpenError"]


def test_the_retry_comes_when_the_probe_may(backend: str) -> None:
    """What is refused is temporary and says when to come again; the step's own retry then succeeds."""
    again = opened(Breaker(), backend=backend)

    result = again(in_turn(*asks(1), retry={"max_attempts": 2, "base": "1s"}))

    assert result.status == "completed"
    assert result.duration_s == pytest.approx(30, abs=0.1)
    assert len(service.calls) == 1


@pytest.mark.parametrize(
    "error",
    [PermanentError("no such thing"), StatusError(404), StatusError(401)],
    ids=["permanent", "not found", "not allowed"],
)
def test_a_fault_of_the_request_is_none_of_the_service(error: Exception) -> None:
    """What a service refuses for good, or a client does before it asks, opens nothing (S1-60)."""
    service.script = [error] * 8

    run(in_turn(*asks(8)), Breaker())

    assert len(service.calls) == 8


@pytest.mark.parametrize("status_code", [500, 503, 429, 408])
def test_a_service_that_is_in_trouble_counts(status_code: int) -> None:
    """Statuses that mean trouble or overload count as failures."""
    service.script = [StatusError(status_code)] * 8

    run(in_turn(*asks(8)), Breaker())

    assert len(service.calls) == 5


def test_invalid_inputs_do_not_count() -> None:
    """Calls that never reach the service because their inputs do not fit leave the circuit as it is."""
    workflow = Workflow("inputs", max_parallel=1, on_error="continue")
    workflow.step("hosts", "acme.hosts")
    workflow.step("bad", "acme.ask", needs="hosts", foreach="${{ steps.hosts.output }}", host="${{ item }}", retry=NO_RETRY)
    workflow.step("good", "acme.ask", host="${{ inputs.host }}")
    workflow.input("host", type="string", default="x")

    @executor("acme.hosts")
    async def hosts() -> list[object]:
        return [1, 2, 3, 4, 5, 6]

    result = virtual_run(workflow, registry=Registry.of(ask, hosts, policies=[Breaker()]))

    assert result.steps["bad"].status == "failed"
    assert result.steps["good"].status == "completed"


def test_a_service_that_does_not_answer_in_time_counts(backend: str) -> None:
    """Attempts that end at their timeout are failures of the service."""
    service.script = [60.0] * 8

    result = run(in_turn(*asks(8), timeout=10), Breaker(), backend=backend)

    assert errors(result) == ["StepTimeoutError"] * 5 + ["BreakerOpenError"] * 3


def test_a_cancelled_call_says_nothing(backend: str) -> None:
    """A cancelled run neither opens a circuit nor leaves a probe behind that nobody ends."""
    service.script = [60.0]
    handles: list[RunHandle] = []

    @executor("acme.cancel")
    async def cancel() -> None:
        await anyio.sleep(5)
        handles[0].cancel("enough")

    breaker, clock = Breaker(), VirtualClock()
    registry = Registry.of(ask, sleep, cancel, policies=[breaker])
    service.script[:0] = [down() for _ in range(5)]
    virtual_run(in_turn(*asks(5)), registry=registry, backend=backend, clock=clock)
    workflow = Workflow("probe")
    workflow.step("pause", "acme.sleep", seconds=30)
    workflow.step("ask", "acme.ask", needs="pause")
    workflow.step("cancel", "acme.cancel", needs="pause")

    cancelled = virtual_run(workflow, registry=registry, backend=backend, clock=clock, on_start=handles.append)
    after = virtual_run(in_turn(*asks(2)), registry=registry, backend=backend, clock=clock)

    assert cancelled.status == "cancelled"
    assert errors(after) == ["", ""]


def test_each_executor_has_a_circuit_of_its_own() -> None:
    """One that is open does not keep calls from another; only executors that are named are watched."""
    again = opened(Breaker())

    result = again(in_turn(*asks(1), ("acme.other", {})))

    assert errors(result) == ["BreakerOpenError", ""]

    service.script = [down() for _ in range(8)]
    assert errors(run(in_turn(*asks(8)), Breaker(executors=["else.*"]))) == ["ConnectionError"] * 8


def test_a_key_tells_services_apart() -> None:
    """With a key, each host has a circuit; paths and passwords of a URL make no difference."""
    breaker = Breaker(keys={"acme.*": "host"}, failures=2)
    urls = ["https://me:pw@a.example/1", "https://a.example/2", "https://a.example/3", "https://b.example/"]
    service.script = [down(), down()]

    result = run(in_turn(*[("acme.ask", {"host": url}) for url in urls]), breaker)

    assert errors(result) == ["ConnectionError", "ConnectionError", "BreakerOpenError", ""]
    assert result.steps["s2"].error is not None
    assert "acme.ask of a.example is left alone" in result.steps["s2"].error.message


def test_errors_can_be_ignored_by_name() -> None:
    """Types that are named, and those derived from them, say nothing about the service."""
    service.script = [down() for _ in range(8)]

    run(in_turn(*asks(8)), Breaker(ignore=["OSError"]))

    assert len(service.calls) == 8


def test_a_retry_storm_is_kept_from_the_service() -> None:
    """A service that fails every call gets five of them, and one per ``reset_s``, however many runs try again."""
    service.script = [down() for _ in range(10_000)]

    run(storm(0, retry={"max_attempts": 5, "base": "1s"}, max_parallel=1), Breaker())

    first = service.calls[0][0]
    last = service.calls[-1][0]
    assert len(service.calls) <= 5 + (last - first) / 30 + 1


def test_it_says_when_it_opens_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    """Once each."""
    with caplog.at_level(logging.INFO, "treadle.policies.breaker"):
        opened(Breaker())(storm(31))

    assert [record.getMessage() for record in caplog.records if record.name == "treadle.policies.breaker"] == [
        "acme.ask failed too often in a row and is left alone for a while",
        "acme.ask works again",
    ]


SITE = """
from treadle import executor

@executor("site.call")
async def call() -> None:
    raise ConnectionError("down")
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an executor, which is the working directory."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "site.py").write_text(SITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_switched_on_by_configuration(site: Path) -> None:
    """``[plugins] policies`` names it, ``[policies.breaker]`` sets it up; on the real clock too."""
    (site / "treadle.toml").write_text(
        '[plugins]\npolicies = ["breaker"]\nfolder = "executors"\n[policies.breaker]\nfailures = 2\nreset_s = 600\n'
    )

    result = treadle.run(in_turn(*[("site.call", {})] * 3))

    assert errors(result) == ["ConnectionError", "ConnectionError", "BreakerOpenError"]


@pytest.mark.parametrize(("line", "said"), [("failures = 0", "failures"), ("reset_s = -1", "reset_s")])
def test_settings_that_cannot_be_are_refused(site: Path, line: str, said: str) -> None:
    """Before anything starts, with the name of the setting."""
    (site / "treadle.toml").write_text(f'[plugins]\npolicies = ["breaker"]\nfolder = "executors"\n[policies.breaker]\n{line}\n')

    with pytest.raises(ConfigInvalidError, match=said):
        treadle.run(in_turn(("site.call", {})))


def test_it_costs_nothing_when_it_is_not_named(site: Path) -> None:
    """Installed but not named, it is not even imported."""
    (site / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    code = """
import sys, treadle
workflow = treadle.Workflow("w")
workflow.step("one", "site.call")
assert treadle.run(workflow).status == "failed"
print([name for name in sys.modules if name.split(".")[0] in ("interlock", "treadle_breaker")])
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)

    assert done.stdout == "[]\n", done.stderr
