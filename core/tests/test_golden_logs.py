"""Golden logs: the records of runs that were, kept as JSON lines, which every later version must replay unchanged.

Beside each log stands the workflow that made it. Replaying needs nothing but the log: the workflow is in RunCreated.

A new case: write ``golden/NAME.yaml``, then ``TREADLE_WRITE_GOLDEN=NAME pytest core/tests/test_golden_logs.py``, and read the
log before you commit it. ``TREADLE_WRITE_GOLDEN=all`` writes every log anew. Do that only for rules that no release has: a log
that a release wrote must replay as it is, so give new rules a new ``RULES_VERSION`` and add a case beside the old one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio
import attrs
import pytest
from crashing import CrashingStore
from treadle import Context, PermanentError, Registry, SyncContext, TransientError, aresume, arun, executor, hookimpl
from treadle._app import RunHandle
from treadle._codec import dump_entry, load_line
from treadle._conductor import Conductor
from treadle._config import Config
from treadle._loader import load_workflow
from treadle._models import DECISIONS, Entry, Evaluated, Finish, RunCreated, RunEnded, StepResult, StintOpened
from treadle._plan import Plan, compile_plan
from treadle._results import RunResult, summarise
from treadle._workflow import Workflow
from treadle.errors import AnswerNeededError, CallPutOffError, ReplayMismatchError, StoreUnavailableError
from treadle.ports import Cached, Call, Outcome, RunQuery, Work
from treadle.testing import VirtualClock, virtual_run
from treadle.testing._virtual_time import START

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
WRITE = os.environ.get("TREADLE_WRITE_GOLDEN", "")
WORDED_ANEW = ("BudgetExceededError",)
SECRET = "s3cret-in-no-record"


@executor("echo")
async def echo(value: object) -> object:
    """Give back what is given."""
    return value


@executor("nap")
async def nap(seconds: float) -> float:
    """Sleep."""
    await anyio.sleep(seconds)
    return seconds


@executor("pair")
async def pair(seconds: float, number: int) -> list[float]:
    """Sleep, then give back both."""
    await anyio.sleep(seconds)
    return [number, seconds]


@executor("flaky")
async def flaky(
    ctx: SyncContext, /, succeeds_at: int, permanent: bool = False, retry_after: float | None = None, seconds: float = 1.0
) -> int:
    """Fail until an attempt, then succeed."""
    await anyio.sleep(seconds)
    if permanent and ctx.attempt < succeeds_at:
        raise PermanentError("it will never work")
    if ctx.attempt < succeeds_at:
        raise TransientError(f"attempt {ctx.attempt} failed", retry_after_s=retry_after)
    return ctx.attempt


@executor("buy")
async def buy(ctx: Context, /, cost: int, tokens: int = 0, fails: int = 0, seconds: float = 0.0) -> int:
    """Use something up, take some time, and fail until an attempt."""
    ctx.spend(cost=cost, tokens=tokens, requests=1)
    await anyio.sleep(seconds)
    if ctx.attempt <= fails:
        raise TransientError(f"attempt {ctx.attempt} failed")
    return cost


@executor("later")
async def later(ctx: Context, /, times: int, after: float, fails: int = 0) -> int:
    """Be put off some times, then fail until an attempt."""
    if ctx.attempt <= times:
        raise CallPutOffError("not yet", retry_after_s=after, reason="it is not its turn")
    if ctx.attempt <= fails:
        raise TransientError(f"attempt {ctx.attempt} failed")
    return ctx.attempt


@executor("measure")
async def measure(text: str, plain: str) -> int:
    """Count letters of a text that must not be shown."""
    return len(text) + len(plain)


@executor("leak")
async def leak(text: str) -> None:
    """Put a secret into an error."""
    raise PermanentError(f"cannot log in with {text}")


def stopper(handles: Sequence[RunHandle]) -> object:
    @executor("stop")
    async def stop(after: float, reason: str, force: bool = False) -> None:
        """Cancel the run that it is part of, and wait to be told."""
        await anyio.sleep(after)
        handles[0].cancel(reason, force=force)
        await anyio.sleep_forever()

    return stop


def sender(handles: list[RunHandle]) -> object:
    @executor("send")
    async def send(name: str, payload: object, signal_id: str, after: float = 0.0) -> None:
        """Send a signal to the run."""
        due = None if not after else START + after
        handles[0].signal(name, payload, signal_id=signal_id, due=due)

    return send


class Remembering:
    """A policy: answers calls that ask for it with what the first call of their key gave."""

    serves = ("cache",)

    def __init__(self) -> None:
        self.outputs: dict[object, object] = {}

    @hookimpl(wrapper=True)
    def execute(self, call: Call) -> Generator[None, Work, Work]:
        work = yield
        key = call.cache.key if call.cache else None
        return work if key not in self.outputs else partial(self.answer, key)

    async def answer(self, key: object) -> Cached:
        return Cached(self.outputs[key])

    @hookimpl
    def end_attempt(self, call: Call, outcome: Outcome) -> None:
        if call.cache and outcome.status == "completed":
            self.outputs[call.cache.key] = outcome.output


class StillClock(VirtualClock):
    """No time passes while a thread is asked, neither real nor virtual."""

    def _hold(self, more: int) -> None:
        self._holders += more
        self._source.autojump_threshold = float("inf") if self._holders else 0.0


def crash_and_resume(name: str, backend: str) -> RunResult:
    """Run until the process crashes, and resume, until the run ends."""
    store, clock = CrashingStore(), StillClock()

    @executor("crash")
    async def crash(after: float) -> None:
        """Bring the process down."""
        await anyio.sleep(after)
        store.is_crashed = True

    registry = Registry.of(echo, nap, buy, crash, config=Config(run={"lease": 0.05, "beat": 0.02}))
    main = partial(arun, load_workflow(GOLDEN / f"{name}.yaml"))
    while True:
        try:
            return clock.run(partial(main, registry=registry, store=store, clock=clock), backend=backend)
        except AnswerNeededError:
            main = partial(main, answers={"pay": "rerun"})
        except StoreUnavailableError:
            store.is_crashed = False
            time.sleep(0.06)  # the lease of the dead
            (row,) = anyio.run(store.runs, RunQuery()).runs
            main = partial(aresume, row.run_id)


def read_log(name: str) -> list[Entry]:
    return [load_line(line) for line in (GOLDEN / f"{name}.jsonl").read_text("utf-8").splitlines()]


def run_again(name: str, backend: str) -> RunResult:
    handles: list[RunHandle] = []
    executors = [echo, nap, pair, flaky, later, buy, measure, leak, stopper(handles), sender(handles)]
    if name in ("crash", "spending"):
        return crash_and_resume(name, backend)
    inputs = {"n": 35} if name == "outputs" else {}
    registry = Registry.of(*executors, policies=[Remembering()] if name == "cached" else [])
    return virtual_run(
        load_workflow(GOLDEN / f"{name}.yaml"), inputs, registry=registry, backend=backend, on_start=handles.append
    )


def normalised(name: str, entries: Sequence[Entry]) -> str:
    """A log as lines, without what differs from run to run and from machine to machine."""
    lines: list[str] = []
    for entry in entries:
        if isinstance(entry, RunCreated):
            ids = sha256(name.encode()).hexdigest()
            entry = attrs.evolve(entry, run_id=f"golden-{name}", trace_id=ids[:32], root_span_id=ids[32:48])
        elif isinstance(entry, StintOpened):
            entry = attrs.evolve(entry, owner="golden", versions={})
        data = dump_entry(entry)
        drop_what_errors_carry(data)
        lines.append(json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    return "\n".join(lines) + "\n"


def drop_what_errors_carry(data: object) -> None:
    """The stack differs from machine to machine; the inputs are in no log that was written before they were kept."""
    if isinstance(data, dict):
        data.pop("traceback", None)
        if "message" in data:
            data.pop("inputs", None)
        for value in data.values():
            drop_what_errors_carry(value)


def comparable(text: str) -> list[object]:
    """The entries of a log, without the words of errors that are told better today than when it was written."""
    entries: list[object] = [json.loads(line) for line in text.splitlines()]
    drop_words(entries)
    return entries


def drop_words(data: object) -> None:
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        drop_words(value)
    if isinstance(data, dict) and data.get("type") in WORDED_ANEW:
        del data["message"]
        data.pop("remedy", None)


def plan_of(entries: Sequence[Entry]) -> Plan:
    created = entries[0]
    assert isinstance(created, RunCreated)
    return compile_plan(Workflow.from_dict(created.workflow))


def turns_of(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The log cut before each fact that came from outside; an Evaluated belongs to the turn that asked for it."""
    turns: list[list[Entry]] = []
    for entry in entries:
        if isinstance(entry, (*DECISIONS, Evaluated)):
            turns[-1].append(entry)
        else:
            turns.append([entry])
    return turns


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDEN_TOKEN", SECRET)
    monkeypatch.delenv("TRACEPARENT", raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_log_replays_unchanged(name: str) -> None:
    """Through a conductor built from the log's own workflow: same decisions, same end."""
    entries = read_log(name)
    conductor = Conductor(plan_of(entries))

    conductor.replay(entries)

    ended = entries[-1]
    assert isinstance(ended, RunEnded)
    assert conductor.status is ended.status
    assert conductor.outstanding() == (Finish(ended.status),)
    result = summarise(entries)
    assert result.status is ended.status
    assert {path: conductor.output(path) for path in result.steps} == {p: step.output for p, step in result.steps.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_run_today_writes_the_same_log(name: str) -> None:
    """Only ids, owner and tracebacks differ from run to run."""
    written = normalised(name, run_again(name, "asyncio").entries)

    if WRITE in (name, "all"):
        (GOLDEN / f"{name}.jsonl").write_text(written, "utf-8")
    assert comparable(written) == comparable((GOLDEN / f"{name}.jsonl").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_trio_gives_the_same_result(name: str) -> None:
    """Trio lets what is due together run in any order, so the log may differ; what became of each step does not."""
    kept, today = summarise(read_log(name)), run_again(name, "trio")

    assert (today.status, today.outputs, today.reason, today.duration_s) == (
        kept.status,
        kept.outputs,
        kept.reason,
        kept.duration_s,
    )
    assert sorted(map(essence, today.steps.values())) == sorted(map(essence, kept.steps.values()))


@pytest.mark.parametrize("name", NAMES)
def test_every_prefix_of_a_log_replays_and_goes_on_alike(name: str) -> None:
    """Resuming is starting with a longer list: after each turn the rest of the facts leads to the rest of the log."""
    entries = read_log(name)
    plan = plan_of(entries)
    turns = turns_of(entries)
    steady = Conductor(plan)
    for number, turn in enumerate(turns):
        assert steady.apply(turn[0]).records == tuple(turn)
        resumed = Conductor(plan)
        resumed.replay([entry for earlier in turns[: number + 1] for entry in earlier])
        assert json.dumps(resumed.dump()) == json.dumps(steady.dump())
        assert timeless(resumed) == timeless(steady)
        for later in turns[number + 1 :]:
            assert resumed.apply(later[0]).records == tuple(later)


@pytest.mark.parametrize("name", NAMES)
def test_a_dumped_conductor_loads_and_goes_on_alike(name: str) -> None:
    """From after each turn, through JSON text, to the end of the log."""
    entries = read_log(name)
    plan = plan_of(entries)
    turns = turns_of(entries)
    steady = Conductor(plan)
    for number, turn in enumerate(turns):
        steady.apply(turn[0])
        text = json.dumps(steady.dump())
        loaded = Conductor.load(plan, json.loads(text))
        assert json.dumps(loaded.dump()) == text
        assert timeless(loaded) == timeless(steady)
        for later in turns[number + 1 :]:
            assert loaded.apply(later[0]).records == tuple(later)
        assert json.dumps(steady.dump()) == text, "a loaded conductor shares nothing with the one that was dumped"


def essence(step: StepResult) -> tuple[str, str, str, int, float, str]:
    return step.path, step.status.value, repr(step.output), step.attempts, step.duration_s, step.reason


def timeless(conductor: Conductor) -> list[str]:
    return [repr(command) for command in conductor.outstanding()]


def test_a_log_that_does_not_fit_its_facts_is_refused() -> None:
    """The message shows what was recorded and what is decided now."""
    entries = read_log("chain")
    place = next(index for index, entry in enumerate(entries) if entry.kind == "StepEnded")
    entries[place] = attrs.evolve(entries[place], reason="something else")  # type: ignore[type-var]  # attrs' own type

    with pytest.raises(ReplayMismatchError, match=r"Replay of run golden-chain differs(.|\n)*something else"):
        Conductor(plan_of(entries)).replay(entries)


@pytest.mark.parametrize("cut", [1, 2])
def test_a_log_that_ends_within_a_turn_is_refused(cut: int) -> None:
    """Turns are appended whole, so this log was damaged."""
    entries = read_log("when")

    with pytest.raises(ReplayMismatchError, match="nothing"):
        Conductor(plan_of(entries)).replay(entries[:-cut])


def test_no_record_holds_a_secret() -> None:
    """Neither inputs nor the error of an executor that says it aloud."""
    assert SECRET not in (GOLDEN / "secrets.jsonl").read_text("utf-8")


def test_every_case_is_kept() -> None:
    """About a dozen kinds of run; none of them is removed."""
    kept = {path.stem for path in GOLDEN.glob("*.jsonl")}
    assert kept == set(NAMES)
    assert len(kept) >= 16


def test_the_cases_hold_every_kind_of_record() -> None:
    """Each fact and decision that a local run writes is in some log."""
    kinds = {entry.kind for name in NAMES for entry in read_log(name)}
    expected: set[str] = {kind.kind for kind in DECISIONS}  # type: ignore[attr-defined]  # each has a kind
    assert kinds == expected | {
        "RunCreated",
        "StintOpened",
        "Evaluated",
        "AttemptEnded",
        "TimerFired",
        "SignalReceived",
        "SlotTaken",
        "CancelRequested",
        "InterruptAnswered",
        "UsageNoted",
    }
