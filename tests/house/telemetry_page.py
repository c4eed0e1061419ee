"""Makes ``docs/reference/telemetry.md`` from the one table of names that the code uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from treadle import _telemetry as names

HEAD = f"""\
# Telemetry

What treadle tells OpenTelemetry, and what its log lines hold. Names are those of the semantic conventions
({names.SCHEMA_URL.rpartition("/")[2]}) wherever they have one, all others begin with `treadle.`; the scope is `{names.SCOPE}`.
Inputs and outputs of steps are never on spans, in metrics, or in treadle's own log lines. How to send it somewhere:
[send traces to a backend](../how-to/send-traces-to-a-backend.md).
"""

SPANS = """
Spans are a projection of the run's records: they are the same whether or not the run is sampled and whether or not
anything is exported. The trace id, the run's span id and the sampling decision are recorded when the run is created;
the ids of steps and attempts follow from them ([why](../adr/0003-span-ids-from-the-record.md)). With a provider of the
OpenTelemetry SDK, an attempt's span is current while its executor runs, so spans of instrumented libraries stand under
it.

Spans leave by one road. Those of runs that the command (or `treadle.Outbox`) exports from a durable store leave from its logs,
at least once, and the SDK only lends their ids to what is traced inside; all others are ordinary spans of the process's
provider ([which is which](../how-to/send-traces-to-a-backend.md#when-the-backend-is-away)).

A span that an SDK receives and the record of it carry the same ids, names, attributes, status, events and links. Spans
of other libraries are not in the records: a client call made inside one stands directly under its attempt there.
"""

RULES = """
- A span is an error (status `ERROR`, with `error.type` and a short description) or its status is unset; `OK` is never set.
- An attempt that failed is an error, also when it is tried again; its step is one only when it fails in the end.
- What was cancelled or skipped is no error: the result says so.
- An attempt whose process went away is ended by the next process that takes the run over, with `error.type` `interrupted`.
- A step that never had an attempt (skipped, `upstream_failed`) has a span of no length.
"""

SAMPLING = """
The provider's sampler is asked once, when the run is created, with the run's name, kind, parent and attributes; its
answer holds for every span of the run and travels in `traceparent`. An unsampled run exports nothing. The parent of a
run is the span around its caller, else the attempt that it is started from, else the `TRACEPARENT` of the process (with
`TRACESTATE`). Without a provider the parent's decision is handed on, and a run without a parent counts as sampled, so
that what it calls may join its trace.
"""

METRICS = f"""
Counted by the process that drives the run, when it has a meter provider. Every histogram has the bounds
{", ".join(f"{bound:g}" for bound in names.BUCKETS_S)} seconds.
"""

LOGS = """
`treadle.CorrelationFilter` adds the ids to every record of a handler, and `treadle.JsonLogFormatter` writes one JSON
object per line. Every line has all of these fields, in this order; fields of `extra=` follow under their own names, and
`stack` when a record asks for it. treadle installs no handler: whoever owns the process does.
"""

OPERATIONS = """
Among a run's sinks, `treadle.OperationLog` writes every fact and decision of the run to the logger `treadle.run`, with
its kind in the field `operation`: attempts and timers at `DEBUG`, retries and stops at `WARNING`, failures at `ERROR`,
the rest at `INFO`.
"""


def page() -> str:
    """The whole page."""
    parts = (
        HEAD,
        "\n## Spans\n",
        SPANS,
        "\n",
        table(
            ("span", "name", "kind", "parent", "from - to"),
            (
                (span.what, f"`{span.name}`" if "{" in span.name else span.name, span.kind, span.parent, span.times)
                for span in names.SPANS
            ),
        ),
        "\n### Status\n",
        RULES,
        "\n### Results\n\n",
        results(),
        "\n### Events\n\n",
        table(("event", "on", "meaning"), ((f"`{name}`", on, meaning) for name, on, meaning in names.EVENTS)),
        "\n### Sampling and parents\n",
        SAMPLING,
        "\n## Attributes\n\n",
        table(
            ("attribute", "on", "type", "meaning"),
            ((f"`{item.name}`", item.on, item.type, item.meaning) for item in names.ATTRIBUTES),
        ),
        "\n## Metrics\n",
        METRICS,
        "\n",
        table(
            ("metric", "instrument", "unit", "attributes", "meaning"),
            (
                (f"`{item.name}`", item.instrument, item.unit, " ".join(f"`{name}`" for name in item.attributes), item.meaning)
                for item in names.METRICS
            ),
        ),
        "\n## Log lines\n",
        LOGS,
        "\n",
        table(("field", "type", "meaning"), ((f"`{item.name}`", item.type, item.meaning) for item in names.LOG_FIELDS)),
        OPERATIONS,
    )
    return "".join(parts)


def results() -> str:
    """What each final state is called in the conventions' words."""
    rows = [
        (what, f"`{getattr(state, 'value', state)}`", f"`{result}`", status)
        for what, table_ in (
            ("run", names.RUN_RESULTS),
            ("step", names.STEP_RESULTS),
            ("attempt", names.ATTEMPT_RESULTS),
        )
        for state, (result, status) in table_.items()
    ]
    return table(("of", "treadle's status", "result", "span status"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return (
        "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
        .replace("| --- ", "|---")
        .replace("|--- |", "|---|")
        .replace("--- |\n", "---|\n")
    )
