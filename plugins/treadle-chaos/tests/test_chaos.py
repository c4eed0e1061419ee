"""What the policy ``chaos`` promises: the same faults for the same seed, in whole runs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import treadle
from treadle import Registry, RunResult, Workflow, executor
from treadle.errors import ConfigInvalidError
from treadle.ports import AttemptEnded, Call, dump_line, fault_point
from treadle.testing import Recorder, simulate, virtual_run
from treadle_chaos import CRASH_CODE, Chaos, Fault

RETRY = {"max_attempts": 4, "base": "1s", "jitter": 0}
done: list[int] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    done.clear()


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@executor("acme.double", effects="none")
async def double(i: int) -> int:
    done.append(i)
    return 2 * i


def doubles(count: int, **options: object) -> Workflow:
    workflow = Workflow("doubles", max_parallel=10, on_error="continue")
    workflow.step("each", "acme.double", foreach=list(range(count)), i="${{ item }}", **{"retry": RETRY, **options})  # type: ignore[arg-type]
    return workflow


def run(workflow: Workflow, chaos: Chaos, *sinks: object, backend: str = "asyncio") -> RunResult:
    registry = Registry.of(double, policies=[chaos])
    return virtual_run(workflow, registry=registry, backend=backend, sinks=sinks)


def log(workflow: Workflow, chaos: Chaos, *, backend: str = "asyncio") -> list[str]:
    """The run's log, line by line, without the names that every run and process has for itself."""
    recorder = Recorder()
    result = run(workflow, chaos, recorder, backend=backend)
    own = (result.run_id, result.trace_id, getattr(recorder.records[0].entry, "root_span_id", ""))
    lines = []
    for record in recorder.records:
        entry = record.entry
        if isinstance(entry, AttemptEnded) and entry.outcome.error:
            outcome = attrs.evolve(entry.outcome, error=attrs.evolve(entry.outcome.error, traceback=""))
            entry = attrs.evolve(entry, outcome=outcome)
        text = dump_line(entry)
        for name in own:
            text = text.replace(name, "-") if name else text
        lines.append(text)
    return lines


STORM = [
    Fault("error", probability=0.2),
    Fault("delay", probability=0.3, delay_s=7.5),
    Fault("invalid", probability=0.05),
    Fault("error", when="after", retryable=False, probability=0.02),
]


def test_the_same_seed_gives_the_same_log(backend: str) -> None:
    """Two runs with one seed leave the same records, entry by entry and second by second; another seed leaves others."""
    first, second = (log(doubles(60), Chaos(7, STORM), backend=backend) for _ in range(2))
    other = log(doubles(60), Chaos(8, STORM), backend=backend)
    if backend == "trio":  # it shuffles tasks that are ready at one and the same moment
        first, second, other = sorted(first), sorted(second), sorted(other)

    assert len(first) > 100
    assert first == second
    assert first != other


def test_the_same_seed_gives_the_same_log_byte_for_byte() -> None:
    """Jitter of the waits and all, when the simulation draws it by a seed too."""
    retry = {"max_attempts": 4, "base": "2s"}
    first, second, other = (
        simulate(doubles(60, retry=retry), executors={"acme.*": lambda i: 2 * i}, policies=[Chaos(seed, STORM)], seed=1).log
        for seed in (7, 7, 8)
    )

    assert "\n".join(first).encode() == "\n".join(second).encode()
    assert first != other


def test_decisions_do_not_depend_on_the_loop_or_on_what_runs_beside() -> None:
    """An attempt meets the same faults whatever the run, the event loop, the order and the company it is made in."""
    chaos = Chaos(1, STORM)
    call = Call("run-1", "w", "step", "acme.double", {}, index=3, attempt=2)
    elsewhere = attrs.evolve(call, run_id="run-2", workflow="v", trace_id="a" * 32, stint=4, queued_at=9.0)

    assert [chaos.decides(n, call) for n in range(4)] == [chaos.decides(n, elsewhere) for n in range(4)]


def test_probability_is_how_often() -> None:
    """Of many attempts about that part is struck; 0 never, 1 always."""
    chaos = Chaos(3, [Fault("error", probability=p) for p in (0.0, 0.25, 1.0)])
    calls = [Call("r", "w", "s", "e", {}, index=n) for n in range(4000)]

    struck = [sum(chaos.decides(number, call) for call in calls) for number in range(3)]

    assert struck[0] == 0
    assert 900 < struck[1] < 1100
    assert struck[2] == 4000


def test_retries_heal_faults_that_are_temporary(backend: str) -> None:
    """Under 10 % of temporary errors all items complete, since each attempt is drawn for itself."""
    result = run(doubles(200), Chaos(6, [Fault("error", probability=0.1)]), backend=backend)

    assert result.status == "completed"
    assert result.steps["each"].output == [2 * i for i in range(200)]
    assert result.steps["each"].attempts > 210


def test_a_fault_strikes_only_where_it_is_named() -> None:
    """By executor, by step, and only in the first attempts when ``attempts`` says so."""
    chaos = Chaos(1, [Fault("error", step="b*", executor="acme.*", attempts=2)])
    workflow = Workflow("named")
    for name in ("a", "b", "c"):
        workflow.step(name, "acme.double", i=1, retry=RETRY)

    result = run(workflow, chaos)

    assert {path: step.attempts for path, step in result.steps.items()} == {"a": 1, "b": 3, "c": 1}


def test_a_permanent_error_is_not_retried() -> None:
    """``retryable = false`` is for faults that trying again does not help."""
    result = run(doubles(1), Chaos(1, [Fault("error", retryable=False, message="no luck")]))

    assert result.steps["each"].attempts == 1
    assert done == []
    assert result.steps["each"].error is not None
    assert result.steps["each"].error.type == "ChaosPermanentError"
    assert result.steps["each"].error.message == "no luck (each[0], attempt 1)"


def test_an_error_after_the_work_has_taken_effect() -> None:
    """``when = "after"``: the work was done, nobody heard of it, and the retry does it again."""
    result = run(doubles(1), Chaos(1, [Fault("error", when="after", attempts=1)]))

    assert result.status == "completed"
    assert done == [0, 0]


def test_a_delay_takes_its_time(backend: str) -> None:
    """Before the work, on the run's own clock."""
    result = run(doubles(1), Chaos(1, [Fault("delay", delay_s=3600)]), backend=backend)

    assert result.duration_s == pytest.approx(3600, abs=0.1)


def test_an_invalid_output_breaks_every_contract() -> None:
    """What is put in the place of an output is no JSON, so it is refused and never recorded."""
    result = run(doubles(1), Chaos(1, [Fault("invalid")]))

    assert result.steps["each"].error is not None
    assert result.steps["each"].error.type == "OutputInvalidError"
    assert done == [0]


SITE = """
from pathlib import Path
from treadle import executor

@executor("site.note")
async def note(i: int) -> int:
    with Path("notes.txt").open("a") as notes:
        notes.write(f"{i}\\n")
    return i
"""

SETTINGS = """
[plugins]
policies = ["chaos"]
folder = "executors"
[policies.chaos]
seed = 1
[[policies.chaos.faults]]
"""

CRASHING = """
import treadle
workflow = treadle.Workflow("w")
workflow.step("one", "site.note", i=1)
workflow.step("two", "site.note", needs="one", i=2)
print(treadle.run(workflow).status)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an executor, which is the working directory."""
    (tmp_path / "executors").mkdir()
    (tmp_path / "executors" / "site.py").write_text(SITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("when", "noted"), [("before", "1\n"), ("after", "1\n2\n")])
def test_a_crash_ends_the_process(site: Path, when: str, noted: str) -> None:
    """At once, at the named step, before or after its work; configured by the file alone."""
    (site / "treadle.toml").write_text(f'{SETTINGS}kind = "crash"\nstep = "two"\nwhen = "{when}"\n')

    ended = subprocess.run([sys.executable, "-c", CRASHING], capture_output=True, text=True, timeout=300)

    assert ended.returncode == CRASH_CODE, ended.stderr
    assert ended.stdout == ""
    assert (site / "notes.txt").read_text() == noted


def test_a_crash_lets_the_next_process_go_on() -> None:
    """A crash that always strikes does so in the first process that drives the run, unless ``stints`` says more."""
    call = Call("r", "w", "s", "e", {})
    chaos = Chaos(1, [Fault("crash"), Fault("crash", stints=2), Fault("crash", stints=0)])

    struck = [[chaos.decides(number, attrs.evolve(call, stint=stint)) for stint in (1, 2, 3)] for number in range(3)]

    assert struck == [[True, False, False], [True, True, False], [True, True, True]]


def test_points_are_struck_by_the_seed() -> None:
    """Whether a passing strikes depends on the seed, the point and which passing it is; steps are let alone."""
    often = Fault("crash", point="commit*", probability=0.3)
    chaos, same, other = Chaos(1, [often]), Chaos(1, [often]), Chaos(2, [often])

    struck = [[one.strikes(0, "committed", passing) for passing in range(1, 200)] for one in (chaos, same, other)]

    assert struck[0] == struck[1] != struck[2]
    assert 30 < sum(struck[0]) < 90
    assert not chaos.strikes(0, "in_transaction", 1)
    assert not chaos.decides(0, Call("r", "w", "s", "e", {}))


def test_points_are_minded_only_while_a_run_is_open() -> None:
    """And only in the processes that the fault is for."""
    chaos = Chaos(1, [Fault("crash", point="never"), Fault("error", step="never")])

    run(doubles(1), chaos)

    assert chaos._watches == {}
    fault_point("never")  # would end this process


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('kind = "earthquake"', "kind"),
        ('kind = "error"\nprobability = 1.5', "probability"),
        ('kind = "error"\nchance = 1', "chance"),
        ('kind = "error"\npoint = "committed"', "a fault at a point is a crash, not 'error'"),
    ],
)
def test_faults_that_cannot_be_are_refused(site: Path, lines: str, said: str) -> None:
    """Before anything starts, with the name of the setting."""
    (site / "treadle.toml").write_text(SETTINGS + lines)
    workflow = Workflow("w")
    workflow.step("one", "site.note", i=1)

    with pytest.raises(ConfigInvalidError, match=said):
        treadle.run(workflow)


def test_it_costs_nothing_when_it_is_not_named(site: Path) -> None:
    """Installed but not named, it is not even imported."""
    (site / "treadle.toml").write_text('[plugins]\nfolder = "executors"\n')
    code = "import sys\n" + CRASHING + 'print("treadle_chaos" in sys.modules)'

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)

    assert ended.stdout == "completed\nFalse\n", ended.stderr


def test_the_decisions_are_written_down() -> None:
    """They are the same in every version: a draw is a hash of the seed, the fault and which attempt of what it is."""
    chances = (0.0, 1e-12, 0.1, 0.5, 0.999, 1.0)
    faults = [*(Fault("error", probability=chance) for chance in chances), Fault("crash", probability=0.4, stints=0)]
    chaos = Chaos(7, faults)

    for number in range(200):
        call = Call(
            "r",
            "w",
            f"s'{number}\"\u00e9",
            "e",
            {},
            index=number if number % 3 else None,
            attempt=1 + number % 4,
            variant="fallback 1" if number % 5 == 0 else "primary",
            generation=int(number % 7 == 0),
            stint=1 + number % 2,
        )
        for place, fault in enumerate(faults):
            where: tuple[object, ...] = (7, place, call.path, call.index, call.variant, call.generation, call.attempt)
            where = (*where, call.stint) if fault.kind == "crash" else where
            drawn = int.from_bytes(hashlib.blake2b(repr(where).encode(), digest_size=8).digest()) / 2**64
            assert chaos.decides(place, call) == (drawn < fault.probability)
