"""One test for each hook: what it is for, in the fewest lines. Each fails when core stops calling its hook."""

from __future__ import annotations

from collections.abc import Generator, Iterable

from treadle import Context, Issue, Registry, RetryAfter, Workflow, executor, hookimpl, run
from treadle.ports import Call, Record, RetryScheduled, SpanRecord, Work

GREETING = Workflow("greeting")
GREETING.output("text", GREETING.step("greet", "demo.greet", name="Ada").output)


@executor("demo.greet")
async def greet(name: str) -> str:
    """Say hello."""
    return f"hello {name}"


def test_execute_builds_the_work_and_a_policy_may_wrap_it() -> None:
    """A wrapper receives the executor's work, not started, and answers other work: here one that shouts."""

    class Shout:
        @hookimpl(wrapper=True)
        def execute(self, call: Call, ctx: Context) -> Generator[None, Work | None, Work | None]:
            work = yield
            assert work is not None

            async def shouting() -> object:
                return str(await work()).upper()

            return shouting

    result = run(GREETING, registry=Registry.of(greet, policies=[Shout()]))

    assert result.outputs == {"text": "HELLO ADA"}


def test_execute_is_answered_by_the_first_who_has_an_opinion() -> None:
    """A policy may answer instead of the executor, like a cache; None leaves the call to the next."""
    asked = []

    class Cache:
        @hookimpl
        def execute(self, call: Call, ctx: Context) -> Work | None:
            asked.append(ctx.step)
            return self.remembered if call.inputs == {"name": "Ada"} else None

        async def remembered(self) -> object:
            return "hello again"

    twice = Workflow("twice")
    twice.step("known", "demo.greet", name="Ada")
    twice.step("new", "demo.greet", name="Grace")
    result = run(twice, registry=Registry.of(greet, policies=[Cache()]))

    assert result.steps["known"].output == "hello again"
    assert result.steps["new"].output == "hello Grace"
    assert sorted(asked) == ["known", "new"]


def test_validate_output_adds_up_what_everybody_says() -> None:
    """What a policy finds wrong fails the step, each issue with its path; nobody can overrule another."""

    class Polite:
        @hookimpl
        def validate_output(self, call: Call, output: object) -> Iterable[Issue]:
            return [] if str(output).endswith("please") else [Issue("does not say please", "$")]

    class Short:
        @hookimpl
        def validate_output(self, call: Call, output: object) -> Iterable[Issue]:
            return [Issue("is too long", "$")] if len(str(output)) > 5 else []

    result = run(GREETING, registry=Registry.of(greet, policies=[Polite(), Short()]))

    assert result.status == "failed"
    error = result.steps["greet"].error
    assert error is not None
    assert sorted(str(issue) for issue in error.issues) == ["$: does not say please", "$: is too long"]


def test_retry_policy_proposes_to_try_again() -> None:
    """An error that nobody knows is not retried; a policy that knows it makes the second attempt happen."""

    class FlickerError(Exception):
        """Goes away by itself."""

    class KnowsFlicker:
        @hookimpl
        def retry_policy(self, call: Call, error: Exception) -> RetryAfter | None:
            return RetryAfter(0.0, "flickers") if isinstance(error, FlickerError) else None

    @executor("demo.greet")
    async def flickering(ctx: Context, /, name: str) -> str:
        """Work at the second attempt."""
        if ctx.attempt == 1:
            raise FlickerError("not now")
        return f"hello {name}"

    without = run(GREETING, registry=Registry.of(flickering))
    with_policy = run(GREETING, registry=Registry.of(flickering, policies=[KnowsFlicker()]))

    assert (without.status, without.steps["greet"].attempts) == ("failed", 1)
    assert (with_policy.status, with_policy.steps["greet"].attempts) == ("completed", 2)
    reasons = [record.entry.reason for record in with_policy.records if isinstance(record.entry, RetryScheduled)]
    assert len(reasons) == 1
    assert "flickers" in reasons[0]


def test_emit_span_receives_every_finished_span() -> None:
    """With no tracing set up: the attempt within its step within the run, all of one trace (S0-04)."""
    spans: list[SpanRecord] = []

    class Sink:
        @hookimpl
        def emit_span(self, span: SpanRecord) -> None:
            spans.append(span)

    result = run(GREETING, registry=Registry.of(greet, policies=[Sink()]))

    attempt, step, whole = spans
    assert (attempt.parent_id, step.parent_id, whole.parent_id) == (step.span_id, whole.span_id, "")
    assert {span.trace_id for span in spans} == {result.trace_id}
    assert all(span.started_at <= span.ended_at for span in spans)


def test_record_event_receives_the_whole_log_in_order() -> None:
    """Facts and decisions, from the first to the last, each with its place in the log, and the same as the result holds."""
    records: list[Record] = []

    class Audit:
        @hookimpl
        def record_event(self, record: Record) -> None:
            records.append(record)

    result = run(GREETING, registry=Registry.of(greet, policies=[Audit()]))

    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    assert [record.kind for record in records] == [
        *("RunCreated", "StintOpened", "AttemptStarted"),
        *("AttemptEnded", "StepEnded", "Evaluated", "RunEnded"),
    ]
    assert list(result.records) == records
