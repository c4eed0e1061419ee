"""Every name that treadle's telemetry uses, with its meaning; ``docs/reference/telemetry.md`` is written from it.

Names are the semantic conventions' wherever they have one (``cicd.*``, ``error.type``, ``exception.*``); the rest starts
with ``treadle.``. A convention that is renamed is renamed here, once.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

from treadle._models import OutcomeStatus, RunStatus, SpanKind, StepStatus
from treadle._paths import plan_path

SCOPE: Final = "treadle"
"""Name of the instrumentation scope of every span and metric."""

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The semantic conventions that the names below follow."""


# -- attributes ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Attribute:
    """One attribute of spans, events, links or metrics.

    Attributes:
        name: What backends show.
        on: Where it stands, in words.
        type: ``string``, ``int`` or ``double``.
        meaning: One sentence.
    """

    name: str
    on: str
    type: str
    meaning: str


ACTION: Final = "cicd.pipeline.action.name"
PIPELINE: Final = "cicd.pipeline.name"
RUN_ID: Final = "cicd.pipeline.run.id"
RUN_STATE: Final = "cicd.pipeline.run.state"
RUN_RESULT: Final = "cicd.pipeline.result"
TASK: Final = "cicd.pipeline.task.name"
TASK_RUN_ID: Final = "cicd.pipeline.task.run.id"
TASK_RESULT: Final = "cicd.pipeline.task.run.result"
WORKER: Final = "cicd.worker.id"
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
RUN_STATUS: Final = "treadle.run.status"
RUN_STINTS: Final = "treadle.run.stints"
RUN_TRIGGER: Final = "treadle.run.trigger"
STEP_STATUS: Final = "treadle.step.status"
STEP_ATTEMPTS: Final = "treadle.step.attempts"
STEP_CULPRIT: Final = "treadle.step.culprit"
STEP_COUNT: Final = "treadle.step.count"
STEP_INDEX: Final = "treadle.step.index"
EXECUTOR: Final = "treadle.executor"
ATTEMPT_CACHED: Final = "treadle.attempt.cached"
ATTEMPT_NUMBER: Final = "treadle.attempt.number"
ATTEMPT_QUEUED_S: Final = "treadle.attempt.queued_s"
ATTEMPT_VARIANT: Final = "treadle.attempt.variant"
RETRY_DELAY_S: Final = "treadle.retry.delay_s"
RETRY_REASON: Final = "treadle.retry.reason"
LINK_KIND: Final = "treadle.link.kind"
ITEMS_PROCESSED: Final = "treadle.items_processed"
COST: Final = "treadle.cost.microcents"
TOKENS: Final = "treadle.tokens"
REQUESTS: Final = "treadle.requests"
REFUSED: Final = "treadle.budget.refused"

ATTRIBUTES: Final = (
    Attribute(ACTION, "run", "string", "Always `RUN`."),
    Attribute(PIPELINE, "run, step; all metrics", "string", "Name of the workflow."),
    Attribute(RUN_ID, "run, step, attempt", "string", "The run's id."),
    Attribute(RUN_RESULT, "run; run metrics", "string", "`success`, `failure`, `error`, `timeout` or `cancellation`."),
    Attribute(RUN_STATE, "run metrics", "string", "Always `executing`."),
    Attribute(TASK, "step, attempt; step metrics", "string", "The step's path, never with an item's index."),
    Attribute(TASK_RUN_ID, "step", "string", "`{run id}/{step}`: the step of this run."),
    Attribute(
        TASK_RESULT,
        "step, attempt; step metrics",
        "string",
        "`success`, `failure` (of the executor), `error` (of the system), `timeout`, `cancellation` or `skip`.",
    ),
    Attribute(WORKER, "attempt", "string", "`host:pid` of the process that performed it."),
    Attribute(ERROR_TYPE, "whatever has status error; metrics", "string", "Class of the error, or `timeout`."),
    Attribute(EXCEPTION_TYPE, "event `exception`", "string", "Class of the error."),
    Attribute(EXCEPTION_MESSAGE, "event `exception`", "string", "Its message."),
    Attribute(EXCEPTION_STACKTRACE, "event `exception`", "string", "Its stack, when user code raised."),
    Attribute(RUN_STATUS, "run", "string", "treadle's own word: `completed`, `partial_failure`, ..."),
    Attribute(RUN_STINTS, "run", "int", "How many processes drove the run."),
    Attribute(RUN_TRIGGER, "run", "string", "What started it: `cli`, `python`, ..."),
    Attribute(STEP_STATUS, "step", "string", "treadle's own word: `completed`, `cached`, `upstream_failed`, ..."),
    Attribute(STEP_ATTEMPTS, "step", "int", "How many attempts were made, of all items for a `foreach`."),
    Attribute(STEP_CULPRIT, "step", "string", "For `upstream_failed`: the step whose failure it was."),
    Attribute(STEP_COUNT, "step", "int", "For a `foreach`: the number of items."),
    Attribute(STEP_INDEX, "attempt", "int", "Item of a `foreach`, from 0."),
    Attribute(EXECUTOR, "step; step metrics", "string", "Name of the executor."),
    Attribute(ATTEMPT_CACHED, "attempt", "boolean", "True when a policy answered with an earlier call's output; else absent."),
    Attribute(ATTEMPT_NUMBER, "attempt; event `retry.scheduled`", "int", "From 1."),
    Attribute(ATTEMPT_QUEUED_S, "attempt", "double", "Seconds from the call's release to its start."),
    Attribute(ATTEMPT_VARIANT, "attempt", "string", "Which executor: `fallback 1`, ...; left out for the primary."),
    Attribute(ITEMS_PROCESSED, "event `partial_completion`", "int", "How many items the partial results are."),
    Attribute(RETRY_DELAY_S, "event `retry.scheduled`", "double", "Seconds until the next attempt may start."),
    Attribute(RETRY_REASON, "event `retry.scheduled`", "string", "Why trying again may help."),
    Attribute(COST, "run, step, attempt", "int", "What it has cost, in 1e-8 USD; left out for nothing, as the next two are."),
    Attribute(TOKENS, "run, step, attempt", "int", "Tokens of language models that it used, in and out."),
    Attribute(REQUESTS, "run, step, attempt", "int", "Paid or limited requests that it made."),
    Attribute(
        REFUSED, "attempt", "string", "`cost`, `tokens`, `requests`, `wall_time` or `price`: of what its budget held no more."
    ),
    Attribute(LINK_KIND, "link", "string", "`retry_of`: from an attempt to the one before it."),
)

# -- spans ---------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Span:
    """One kind of span that treadle makes.

    Attributes:
        what: ``run``, ``step``, ``attempt`` or ``client call``.
        name: Its name, with what varies in braces.
        kind: OpenTelemetry's span kind, in words.
        parent: What stands above it.
        times: When it starts and ends.
    """

    what: str
    name: str
    kind: str
    parent: str
    times: str


SPANS: Final = (
    Span(
        "run",
        "RUN {workflow}",
        "server; internal for a run started from Python inside another span",
        "the caller's span, or none",
        "RunCreated to RunEnded",
    ),
    Span("step", "{step}", "internal", "run", "the first attempt's release (or, without one, the decision) to StepEnded"),
    Span("attempt", "attempt {step}", "internal", "step", "the executor's entry to its exit"),
    Span("client call", "as the executor says", "client unless the executor says otherwise", "attempt", "the `with` block"),
)

EXCEPTION_EVENT: Final = "exception"
RETRY_EVENT: Final = "retry.scheduled"
PARTIAL_EVENT: Final = "partial_completion"

EVENTS: Final = (
    (EXCEPTION_EVENT, "attempt", "Why the attempt failed or timed out; only there, so that an error is recorded once."),
    (RETRY_EVENT, "step", "An attempt failed and another will be made."),
    (PARTIAL_EVENT, "attempt", "The error of a failed attempt carries `partial_results`."),
)

MAX_EVENTS: Final = 128
"""Most events of one span; OpenTelemetry's own limit."""


def run_span_name(workflow: str) -> str:
    """Name of a run's span."""
    return f"RUN {workflow}"


def step_span_name(path: str) -> str:
    """Name of a step's span: without the items of what is around it, so that there are not more of them than steps."""
    return plan_path(path)


def attempt_span_name(path: str) -> str:
    """Name of an attempt's span."""
    return f"attempt {plan_path(path)}"


def run_span_kind(parent_span_id: str, trigger: str) -> SpanKind:
    """A run serves its starter, except inside a span of the same process, where it is one more piece of work."""
    return "internal" if parent_span_id and trigger == "python" else "server"


# -- results and status --------------------------------------------------------------------------------------------------

SpanStatus = Literal["unset", "error"]

RUN_RESULTS: Final[dict[RunStatus, tuple[str, SpanStatus]]] = {
    RunStatus.COMPLETED: ("success", "unset"),
    RunStatus.PARTIAL_FAILURE: ("failure", "error"),
    RunStatus.FAILED: ("failure", "error"),
    RunStatus.TIMED_OUT: ("timeout", "error"),
    RunStatus.CANCELLED: ("cancellation", "unset"),
}
"""Final state of a run -> ``cicd.pipeline.result`` and the span's status."""

STEP_RESULTS: Final[dict[StepStatus, tuple[str, SpanStatus]]] = {
    StepStatus.COMPLETED: ("success", "unset"),
    StepStatus.PARTIAL_FAILURE: ("failure", "error"),
    StepStatus.CACHED: ("success", "unset"),
    StepStatus.SKIPPED: ("skip", "unset"),
    StepStatus.UPSTREAM_FAILED: ("skip", "unset"),
    StepStatus.CANCELLED: ("cancellation", "unset"),
    StepStatus.FAILED: ("failure", "error"),
    StepStatus.TIMED_OUT: ("timeout", "error"),
    StepStatus.INTERRUPTED: ("error", "error"),
    StepStatus.POISONED: ("error", "error"),
}
"""Final state of a step -> ``cicd.pipeline.task.run.result`` and the span's status."""

ATTEMPT_RESULTS: Final[dict[OutcomeStatus, tuple[str, SpanStatus]]] = {
    "completed": ("success", "unset"),
    "failed": ("failure", "error"),
    "timed_out": ("timeout", "error"),
    "cancelled": ("cancellation", "unset"),
}
"""How an attempt ended -> ``cicd.pipeline.task.run.result`` and the span's status."""

INTERRUPTED: Final = "interrupted"
"""``error.type`` of an attempt whose process went away."""


# -- metrics -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Metric:
    """One metric.

    Attributes:
        name: What backends show.
        instrument: ``histogram``, ``counter`` or ``up-down counter``.
        unit: ``s``, or what is counted, like ``{run}``.
        attributes: What it is told apart by; never an id.
        meaning: One sentence.
    """

    name: str
    instrument: str
    unit: str
    attributes: tuple[str, ...]
    meaning: str


RUN_DURATION: Final = Metric(
    "cicd.pipeline.run.duration",
    "histogram",
    "s",
    (PIPELINE, RUN_STATE, RUN_RESULT, ERROR_TYPE),
    "How long runs take, from RunCreated to RunEnded.",
)
RUN_ACTIVE: Final = Metric(
    "cicd.pipeline.run.active", "up-down counter", "{run}", (PIPELINE, RUN_STATE), "Runs that this process drives now."
)
STEP_DURATION: Final = Metric(
    "treadle.step.duration",
    "histogram",
    "s",
    (PIPELINE, TASK, EXECUTOR, TASK_RESULT, ERROR_TYPE),
    "How long steps take, retries and waits between them included; steps without an attempt are not counted.",
)
QUEUE_WAIT: Final = Metric(
    "treadle.queue.wait",
    "histogram",
    "s",
    (PIPELINE, TASK, EXECUTOR),
    "How long calls wait between their release and their start.",
)
OUTPUT_ISSUES: Final = Metric(
    "treadle.output.issues",
    "counter",
    "{issue}",
    (PIPELINE, TASK, EXECUTOR),
    "Broken clauses of contracts that outputs had, of every attempt.",
)
USED_COST: Final = Metric(
    "treadle.usage.cost", "counter", "{microcent}", (PIPELINE, TASK, EXECUTOR), "Money that attempts have spent, in 1e-8 USD."
)
USED_TOKENS: Final = Metric(
    "treadle.usage.tokens", "counter", "{token}", (PIPELINE, TASK, EXECUTOR), "Tokens that attempts have used."
)
USED_REQUESTS: Final = Metric(
    "treadle.usage.requests", "counter", "{request}", (PIPELINE, TASK, EXECUTOR), "Paid or limited requests of attempts."
)
METRICS: Final = (
    RUN_DURATION,
    RUN_ACTIVE,
    STEP_DURATION,
    QUEUE_WAIT,
    OUTPUT_ISSUES,
    USED_COST,
    USED_TOKENS,
    USED_REQUESTS,
)

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""Bounds of every histogram, in seconds: the conventions' list, carried on to two hours."""

# -- log records ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class LogField:
    """One key of a JSON log line.

    Attributes:
        name: The key.
        type: JSON type, ``null`` where it may be.
        meaning: One sentence.
    """

    name: str
    type: str
    meaning: str


LOG_FIELDS: Final = (
    LogField("time", "string", "When, ISO 8601 in UTC with microseconds: `2026-11-21T09:30:00.123456Z`."),
    LogField("level", "string", "`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`."),
    LogField("logger", "string", "Name of the logger."),
    LogField("message", "string", "The message, its arguments filled in."),
    LogField("trace_id", "string or null", "The run's trace: 32 hex digits; null outside of a call or run."),
    LogField("span_id", "string or null", "The attempt's span: 16 hex digits."),
    LogField("run_id", "string or null", "The run."),
    LogField("workflow", "string or null", "Name of the workflow."),
    LogField("step", "string or null", "The step's path."),
    LogField("index", "integer or null", "Item of a `foreach`, from 0."),
    LogField("attempt", "integer or null", "From 1."),
    LogField("exception", "object or null", "`type`, `message` and `stacktrace` of a logged exception."),
)
CORRELATION: Final = ("trace_id", "span_id", "run_id", "workflow", "step", "index", "attempt")
"""The fields that tell which call a log record belongs to."""
