"""What policies are told of a run, what they may hide, and that hooks are called as pluggy calls them."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import cast

import anyio
import attrs
import pluggy
import pytest
from treadle import Context, PermanentError, RetryAfter, Secret, TransientError, Workflow, client, executor
from treadle._clock import SteadySeconds
from treadle._error_info import MAX_INPUT_TEXT
from treadle._hook_calls import first_answer
from treadle._plugins import Registry
from treadle._redaction import Redaction
from treadle._results import RunResult
from treadle.errors import BindError, PolicyFailedError, TreadleError
from treadle.hookspecs import PROJECT, hookimpl
from treadle.ports import Call, ErrorInfo, Issue, Outcome, RunSurroundings, SpanRecord, Work, dump_line
from treadle.testing import Recorder, VirtualClock, virtual_run

WORD = "the-hidden-word"


@executor("acme.say", effects="none")
async def say(ctx: Context, /, text: str, how: str = "") -> str:
    ctx.progress(1, 2, f"saying {text}")
    with ctx.span(f"saying {text}", attributes={"said": text, "times": 1}):
        pass
    if how == "fail":
        raise TransientError(f"cannot say {text}", f"do not say {text}")
    return text


def saying(text: str = WORD, how: str = "", **options: object) -> Workflow:
    workflow = Workflow("saying")
    workflow.step("one", "acme.say", text=text, how=how, **{"retry": {"max_attempts": 2, "base": "1s", "jitter": 0}, **options})  # type: ignore[arg-type]
    return workflow


class Hider:
    """Hides a word."""

    def __init__(self, word: str = WORD, by: str = "[hidden]", *, covers_outputs: bool = False, breaks: bool = False) -> None:
        self.word, self.by, self.covers_outputs, self.breaks = word, by, covers_outputs, breaks

    def text(self, text: str) -> str:
        if self.breaks:
            raise RuntimeError("broken")
        return text.replace(self.word, self.by)

    def value(self, value: object, field: str = "") -> object:
        if isinstance(value, str):
            return self.text(value)
        return {key: self.value(item, key) for key, item in value.items()} if isinstance(value, dict) else value

    @hookimpl
    def make_redactor(self) -> Hider:
        return self


class Listener:
    """Notes what it is told."""

    def __init__(self, fails_in: str = "") -> None:
        self.told: list[str] = []
        self.runs: list[RunSurroundings] = []
        self.fails_in = fails_in

    def note(self, what: str, run: RunSurroundings) -> None:
        self.told.append(what)
        self.runs.append(run)
        if what == self.fails_in:
            raise ValueError("not today")

    @hookimpl
    def open_run(self, run: RunSurroundings) -> None:
        self.note("open_run", run)

    @hookimpl
    def close_run(self, run: RunSurroundings) -> None:
        self.note("close_run", run)

    @hookimpl
    def record_event(self) -> None:
        self.told.append("record")


def run(workflow: Workflow, *policies: object, **options: object) -> RunResult:
    return virtual_run(workflow, registry=Registry.of(say, policies=policies), **options)  # type: ignore[arg-type]


# -- what they are told


def test_a_policy_is_told_of_each_run_that_opens_and_closes() -> None:
    """Once before anything is recorded, once after everything was; with the run's id, workflow and time."""
    listener, clock = Listener(), VirtualClock(start=1000.0)

    result = run(saying(), listener, clock=clock)

    assert listener.told == ["open_run", *["record"] * (len(listener.told) - 2), "close_run"]
    assert listener.runs[0] is listener.runs[1]
    assert (listener.runs[0].run_id, listener.runs[0].workflow, listener.runs[0].stint) == (result.run_id, "saying", 1)
    assert listener.runs[0].clock is clock


def test_a_policy_that_cannot_open_stops_the_run() -> None:
    """Nothing is performed or recorded; the error names the policy, and the others are told that it is over."""
    first, second, recorder = Listener(), Listener(fails_in="open_run"), Recorder()

    with pytest.raises(PolicyFailedError) as failure:
        run(saying(), first, second, sinks=[recorder])

    assert "Listener failed in 'open_run': ValueError: not today" in failure.value.problem
    assert "[plugins] policies" in failure.value.remedy
    assert recorder.records == []
    assert first.told[-1] == second.told[-1] == "close_run"


def test_a_policy_that_cannot_close_stops_nobody() -> None:
    """The run has its result, and the others are still told."""
    first, second = Listener(fails_in="close_run"), Listener()

    result = run(saying(), first, second)

    assert result.status == "completed"
    assert second.told[-1] == "close_run"


@client("mail")
@attrs.define
class Mail:
    password: Secret
    spare: Secret | None = None

    def open(self) -> object:
        raise NotImplementedError


@pytest.mark.parametrize("is_set", [True, False])
def test_the_values_of_all_secrets_are_given(is_set: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the workflow takes, wherever they come from, and those of settings; one without a value is left out."""

    @executor("acme.send")
    async def send(mail: Mail, /, token: str) -> None:
        """Needs both."""

    monkeypatch.setenv("ELSEWHERE", "t0ken")
    monkeypatch.setenv("MAIL_PASSWORD", "pa55")
    if not is_set:
        monkeypatch.delenv("MAIL_PASSWORD")
    listener = Listener()
    seen: list[object] = []
    listener.note = lambda what, run: seen.append(dict(run.secrets()))  # type: ignore[method-assign]  # only this is asked
    from treadle._config import Config

    config = Config(secrets={"TOKEN": {"env": "ELSEWHERE"}}, clients={"mail": {"password": {"env": "MAIL_PASSWORD"}}})
    workflow = Workflow("sends", secrets=("TOKEN",), on_error="continue")
    workflow.step("one", "acme.send", token="${{ secrets.TOKEN }}")

    virtual_run(workflow, registry=Registry.of(send, clients=[Mail], policies=[listener], config=config))

    of_settings = {"[clients.mail] password": "pa55"} if is_set else {}
    assert seen[0] == {"TOKEN": "t0ken", **of_settings}


def test_seconds_only_go_forward() -> None:
    """From one run to the next, although each has a clock of its own that begins where it likes."""
    early, late = VirtualClock(start=9_000_000_000.0), VirtualClock(start=5.0)

    async def measure(clock: VirtualClock) -> tuple[float, float]:
        seconds = SteadySeconds(clock)
        before = seconds()
        await anyio.sleep(60)
        return before, seconds()

    first = early.run(lambda: measure(early))
    second = late.run(lambda: measure(late))

    assert first[1] - first[0] == pytest.approx(60)
    assert second[1] - second[0] == pytest.approx(60)
    assert second[0] >= first[1]


# -- what they may hide


def kept(result: RunResult, recorder: Recorder) -> str:
    lines = [dump_line(record.entry) for record in recorder.records if record.kind != "RunCreated"]
    return "\n".join([*lines, *map(repr, recorder.spans), *map(repr, recorder.progressed), repr(result.steps)])


def test_what_leaves_a_run_is_cleaned() -> None:
    """Errors, retries' reasons, client spans and progress; the steps' own inputs and the error's type stay."""
    recorder = Recorder()

    result = run(saying(how="fail"), Hider(), sinks=[recorder])

    assert WORD not in kept(result, recorder)
    error = result.steps["one"].error
    assert error is not None
    assert (error.type, error.message, error.remedy) == ("TransientError", "cannot say [hidden]", "do not say [hidden]")
    assert recorder.span("saying [hidden]").attributes == {"said": "[hidden]", "times": 1}
    assert recorder.progressed[0] == ("one", 1, 2, "saying [hidden]")


def test_without_a_redactor_nothing_is_cleaned() -> None:
    """The test above tests something."""
    recorder = Recorder()

    result = run(saying(how="fail"), sinks=[recorder])

    assert WORD in kept(result, recorder)


@pytest.mark.parametrize(("covers", "given"), [(False, WORD), (True, "[hidden]")])
def test_outputs_are_cleaned_when_a_redactor_says_so(covers: bool, given: str) -> None:
    """Those of steps, and those of the run although an expression took them from somewhere else."""
    workflow = saying()
    workflow.input("word", default=WORD)
    workflow.output("step", "${{ steps.one.output }}")
    workflow.output("input", "${{ inputs.word }}")

    result = run(workflow, Hider(covers_outputs=covers))

    assert result.steps["one"].output == given
    assert result.outputs == {"step": given, "input": given}


def test_errors_of_expressions_are_cleaned() -> None:
    """What quotes a value that it cannot work with does not give it away; the log replays as it was recorded."""
    workflow = saying(text="a")
    workflow.input("word", default=WORD)
    workflow.step("two", "acme.say", when="inputs.word < 3", text="b", needs="one")
    recorder = Recorder()

    result = run(workflow, Hider(), sinks=[recorder])

    error = result.steps["two"].error
    assert error is not None
    assert error.type == "ExpressionError"
    assert WORD not in kept(result, recorder)


def test_why_a_run_was_cancelled_is_cleaned() -> None:
    """Whoever cancels says why in their own words."""

    @executor("acme.stop")
    async def stop() -> None:
        handles[0].cancel(f"because of {WORD}")
        await anyio.sleep(10)

    handles: list[object] = []
    workflow = Workflow("stopped")
    workflow.step("one", "acme.stop")

    result = virtual_run(workflow, registry=Registry.of(stop, policies=[Hider()]), on_start=handles.append)

    assert (result.status, result.reason) == ("cancelled", "because of [hidden]")


def test_redactors_are_applied_in_the_order_of_the_configuration() -> None:
    """Each is given what the one before it left."""
    result = run(saying(how="fail"), Hider(), Hider("[hidden]", "(gone)"))

    error = result.steps["one"].error
    assert error is not None
    assert error.message == "cannot say (gone)"


def test_a_redactor_that_breaks_hides_everything(caplog: pytest.LogCaptureFixture) -> None:
    """What could not be looked through does not get out; that is logged once."""
    recorder = Recorder()

    result = run(saying(how="fail"), Hider(breaks=True), sinks=[recorder])

    error = result.steps["one"].error
    assert error is not None
    assert (error.message, error.remedy) == ("***", "***")
    assert WORD not in kept(result, recorder)
    assert len([record for record in caplog.records if "make_redactor" in record.getMessage()]) == 1


def test_a_secret_is_found_though_the_text_is_cut() -> None:
    """Long messages are cut after they were cleaned, so half a secret does not stay at the end."""
    result = run(saying(text="x" * 4070 + WORD, how="fail"), Hider())

    error = result.steps["one"].error
    assert error is not None
    assert WORD[:5] not in error.message + error.traceback


def test_a_secret_is_found_though_an_input_is_cut() -> None:
    """What an error record quotes of the inputs is cut after it was cleaned, too."""
    result = run(saying(text="x" * (MAX_INPUT_TEXT - 25) + WORD, how="fail"), Hider())

    error = result.steps["one"].error
    assert error is not None
    assert "xxx" in json.dumps(error.inputs)
    assert WORD[:5] not in json.dumps(error.inputs)


def test_an_outcome_without_texts_is_left_alone() -> None:
    """A step that worked costs nothing; every text of one that did not is looked at."""
    redaction = Redaction([("hider", Hider())], lambda *_: None)
    worked = Outcome("completed", WORD)
    span = SpanRecord(WORD, "client", "", "", "", 0, 0, "error", WORD, {"a": WORD}, ((WORD, 0.0, {"b": WORD}),))
    failed = Outcome(
        "failed",
        None,
        ErrorInfo("E", WORD, WORD, (Issue(WORD, WORD),), WORD, True, {"c": WORD}, 5, {"d": WORD}),
        RetryAfter(1, WORD),
        spans=(span,),
    )

    cleaned = redaction.outcome(failed)

    assert redaction.outcome(worked) is worked
    assert WORD not in repr(cleaned) + repr(cleaned.error.partial_results if cleaned.error else "")
    assert (cleaned.status, cleaned.retry) == ("failed", RetryAfter(1, "[hidden]"))
    assert cleaned.error is not None
    assert WORD not in json.dumps(attrs.asdict(cleaned.error))
    assert (cleaned.error.type, cleaned.error.retryable, cleaned.error.items_processed) == ("E", True, 5)
    assert cleaned.error.inputs == {"d": "[hidden]"}


# -- hooks are called as pluggy calls them

spec = pluggy.HookspecMarker(PROJECT)


class Specs:
    @spec(firstresult=True)
    def ask(self, who: str, what: int) -> object:
        """Ask."""


def plugin(function: Callable[..., object], **options: object) -> object:
    holder = type("Plugin", (), {})()
    holder.ask = pluggy.HookimplMarker(PROJECT)(function, **options) if options else pluggy.HookimplMarker(PROJECT)(function)
    return holder


def wraps(name: str, log: list[str], **options: object) -> object:
    def ask(what: int) -> Generator[None, object, object]:
        log.append(f"{name} in")
        try:
            answer = yield
        except ValueError as error:
            log.append(f"{name} caught {error}")
            if name == "saves":
                return "saved"
            raise TypeError(f"{error} from {name}") from error
        log.append(f"{name} out {answer}")
        return f"{name}({answer})"

    return plugin(ask, wrapper=True, **options)


def raises(who: str) -> object:
    raise ValueError(f"no {who}")


ARRANGEMENTS: dict[str, Callable[[list[str]], list[object]]] = {
    "one": lambda log: [plugin(lambda who, what: (who, what))],
    "the last that answers": lambda log: [plugin(lambda: "never"), plugin(lambda what: what), plugin(lambda who: None)],
    "nobody": lambda log: [plugin(lambda: None)],
    "first and last": lambda log: [plugin(lambda: "first", tryfirst=True), plugin(lambda: "second")],
    "a wrapper": lambda log: [plugin(lambda what: what), wraps("w", log)],
    "wrappers in order": lambda log: [
        plugin(lambda what, who: (what, who)),
        wraps("a", log),
        wraps("b", log, tryfirst=True),
        wraps("c", log, trylast=True),
    ],
    "an error passes through": lambda log: [plugin(raises), wraps("a", log), wraps("b", log)],
    "a wrapper saves": lambda log: [plugin(raises), wraps("saves", log), wraps("b", log)],
    "an old wrapper": lambda log: [plugin(lambda what: what), plugin(old_wrapper, hookwrapper=True), wraps("a", log)],
}


def old_wrapper(who: str) -> Generator[None, pluggy.Result[object], None]:
    outcome = yield
    outcome.force_result(f"old {who} {outcome.get_result()}")


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_hooks_are_called_as_pluggy_calls_them(arrangement: str) -> None:
    """Whatever order, wrapper or error: the answer, the error and who was called when are those of pluggy."""
    seen = []
    for is_ours in (False, True):
        log: list[str] = []
        manager = pluggy.PluginManager(PROJECT)
        manager.add_hookspecs(Specs)
        for one in ARRANGEMENTS[arrangement](log):
            manager.register(one)
        hook = cast("pluggy.HookCaller", manager.hook.ask)
        try:
            answer: object = (
                first_answer(hook.get_hookimpls(), ("who", "what"), hook)("me", 7) if is_ours else hook(who="me", what=7)
            )
        except Exception as error:
            answer = repr(error)
        seen.append((answer, log))

    assert seen[0] == seen[1]


@pytest.mark.parametrize("yields", [0, 2])
def test_a_wrapper_must_yield_once(yields: int) -> None:
    """One that does not, or does so again, is named."""

    def ask() -> Generator[None, object, None]:
        for _ in range(yields):
            yield

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specs)
    for one in (plugin(lambda: 1), plugin(ask, wrapper=True)):
        manager.register(one)

    with pytest.raises(RuntimeError, match=r"ask did not yield|ask yielded twice"):
        first_answer(manager.hook.ask.get_hookimpls(), ("who", "what"), manager.hook.ask)("me", 7)


def test_errors_of_treadle_are_told_as_well() -> None:
    """A policy may refuse a run in words of its own; they stand in the error."""

    class Refuses:
        @hookimpl
        def make_redactor(self) -> None:
            raise TreadleError("There is no key.", "Make one.")

    with pytest.raises(PolicyFailedError, match=r"There is no key\."):
        run(saying(), Refuses())


# -- wrap_work -----------------------------------------------------------------------------------------------------------


def around(name: str, log: list[str], *, is_function: bool, **options: bool) -> object:
    """A policy that notes when its work begins, by a plain function or as a wrapper of ``execute``."""

    def noting(work: Work) -> Work:
        async def noted() -> object:
            log.append(name)
            return await work()

        return noted

    if is_function:

        class Plain:
            @hookimpl(**options)
            def wrap_work(self, work: Work) -> Work:
                return noting(work)

        return Plain()

    class Wraps:
        @hookimpl(wrapper=True, **options)
        def execute(self) -> Generator[None, Work, Work]:
            return noting((yield))

    return Wraps()


@pytest.mark.parametrize("functions", ["", "a", "bd", "ace", "abcdef"])
def test_plain_functions_and_wrappers_stand_in_one_order(functions: str) -> None:
    """However a policy puts something around the work: the last is outermost, unless ``tryfirst`` or ``trylast`` says else."""
    log: list[str] = []
    options: dict[str, dict[str, bool]] = {"b": {"tryfirst": True}, "c": {"trylast": True}, "e": {"trylast": True}}
    policies = [around(name, log, is_function=name in functions, **options.get(name, {})) for name in "abcdef"]

    run(saying("hi"), *policies)

    assert log == ["b", "f", "d", "a", "c", "e"]


def test_what_wraps_no_work_leaves_it_as_it_is() -> None:
    """None stands for no opinion; an error is that of the attempt; it is not asked where there is no work."""

    class Silent:
        asked = 0

        @hookimpl
        def wrap_work(self, call: Call, work: Work) -> Work | None:
            self.asked += 1
            if call.inputs["text"] == "no":
                raise PermanentError("Nobody says that.", "Say something else.")
            return None

    class Removes:
        @hookimpl(wrapper=True)
        def execute(self) -> Generator[None, Work, None]:
            yield

    silent = Silent()

    said = run(saying("yes"), silent)
    refused = run(saying("no"), silent)
    nothing = run(saying("yes"), Removes(), silent)

    assert said.steps["one"].output == "yes"
    assert refused.steps["one"].error is not None
    assert refused.steps["one"].error.type == "PermanentError"
    assert nothing.steps["one"].error is not None
    assert nothing.steps["one"].error.type == "BindError"
    assert silent.asked == 2


@pytest.mark.parametrize("kind", ["wrapper", "hookwrapper"])
def test_what_wraps_work_cannot_be_wrapped(kind: str) -> None:
    """It is a function that is given the answer already; a wrapper of it is refused with what to do instead."""

    class Wrong:
        @hookimpl(**{kind: True})  # type: ignore[call-overload]  # one of its options
        def wrap_work(self) -> Generator[None]:
            yield

    with pytest.raises(BindError, match=r"wraps 'wrap_work', which cannot be wrapped"):
        run(saying(), Wrong())


def test_policies_of_one_class_are_each_asked_for_themselves() -> None:
    """In which order pluggy calls their hooks is known after the first run; whose they are is not mixed up."""

    class Counts:
        def __init__(self) -> None:
            self.calls: list[str] = []

        @hookimpl
        def execute(self, call: Call) -> None:
            self.calls.append(call.executor)

        @hookimpl
        def end_attempt(self, outcome: Outcome) -> None:
            self.calls.append(outcome.status)

    policies = [Counts() for _ in range(3)]

    for one in policies:
        run(saying("hi"), one)
    run(saying("hi"), *policies)

    assert [one.calls for one in policies] == [["acme.say", "completed"] * 2] * 3
