"""``treadle spans``: what the store keeps of spans that were not delivered, and how to send it."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import attrs
import click

from treadle._cli._failures import FAILED
from treadle._cli._kept import find_run, kept_runs, moment
from treadle._cli._loading import json_option
from treadle._cli._output import count, say, table, write, write_json
from treadle._cli._tracing_setup import make_outbox, set_up_tracing, shut_down, undelivered
from treadle._durations import parse_duration
from treadle._outbox import SpanReport, spans_waiting
from treadle._owner import is_gone, shown
from treadle._plugins import Registry
from treadle.errors import ConfigError
from treadle.ports import SpanExport, Store, TracingProvider


@click.group(short_help="Send spans that were not delivered yet, or say which there are.")
def spans() -> None:
    """Send spans of kept runs that were not delivered to the backend yet, or say which there are.

    A durable store keeps them until the backend has taken them: runs and resumes send what is left, and so does
    treadle spans export.
    """


@spans.command(short_help="Send spans that were not delivered yet.")
@click.option("--run", "run", default="", metavar="RUN", help="Only of this run: an id, the beginning of one, or 'last'.")
@click.option("--again", is_flag=True, help="Also what was refused; with --run also what was delivered.")
@click.option("--timeout", default="60s", show_default=True, metavar="DURATION", help="How long to try.")
@json_option
@click.pass_context
def export(ctx: click.Context, /, *, run: str, again: bool, timeout: str, as_json: bool) -> None:
    """Send the spans of kept runs that were not delivered yet to the backend that the OTEL_... variables name.

    Only runs that were started or resumed while a backend was named wait for it; name another one with --run. Sending a span
    twice is harmless: backends tell it by its id.

    Exit codes: 0 everything was delivered, 1 something was not; it is kept.
    """
    try:
        timeout_s = parse_duration(timeout)
    except ValueError as error:
        raise click.UsageError(f"--timeout: {error}") from error
    with kept_runs() as (store, registry):
        provider = _provider(registry)
        assert provider.sender is not None, "_provider sees to it"
        outbox = make_outbox(provider, store, registry)
        assert outbox is not None, "the store is durable"
        try:
            only = anyio.run(_open, store, run, again)
            report = outbox.drain(timeout_s, only=only)
        finally:
            shut_down(provider)
        _tell(report, provider.sender.endpoint, as_json=as_json)
    ctx.exit(0 if report.is_done else FAILED)


def _provider(registry: Registry) -> TracingProvider:
    provider = set_up_tracing(registry, is_strict=True)
    if provider is None:
        raise ConfigError("No backend is named.", "Set OTEL_EXPORTER_OTLP_ENDPOINT, as for treadle run.")
    if provider.sender is None:
        shut_down(provider)
        raise ConfigError(
            "Spans that are kept can only be sent by OTLP alone.",
            "Unset OTEL_TRACES_EXPORTER, or set it to otlp; credential providers are not used for them.",
        )
    return provider


async def _open(store: Store, run: str, again: bool) -> str:
    """Note what is to be sent; answers the id of the only run, empty for all."""
    if not run:
        for export in await store.span_exports("refused") if again else ():
            await store.open_spans(export.run_id, min(letter.first for letter in export.letters) - 1)
        return ""
    row = await find_run(store, run)
    export = await store.open_spans(row.run_id, 0 if again else None)
    if export.owner and not is_gone(export.owner):
        raise ConfigError(f"Run {row.run_id} is driven by {shown(export.owner)}.", "That process sends its spans; wait for it.")
    if export.seq >= export.count:
        how = f"{export.sent} delivered, {export.refused} refused"
        say(f"Run {row.run_id}: {how}. To send all again: treadle spans export --run {row.run_id} --again")
    return row.run_id


def _tell(report: SpanReport, endpoint: str, *, as_json: bool) -> None:
    if as_json:
        write_json({"endpoint": endpoint, **attrs.asdict(report)})
        return
    if report.sent or report.is_done:
        write(f"{count(report.sent, 'span')} delivered to {endpoint}." if report.sent else "Nothing waits to be sent.")
    if line := undelivered(report, endpoint):
        say(f"{line}.")


@spans.command(short_help="Say which spans were not delivered.")
@json_option
def status(*, as_json: bool) -> None:
    """Say which spans of kept runs were not delivered yet, and which were refused for good, with the reason.

    Those that wait are sent by the next run, or by treadle spans export; those that were refused by treadle spans export
    --again, once the cause is mended.
    """
    with kept_runs() as (store, _):
        found = anyio.run(_exports, store)
    if as_json:
        write_json({"runs": [export_object(export, waiting) for export, waiting in found]})
        return
    if not found:
        write("All spans were delivered.")
        return
    rows = [
        (export.run_id, str(waiting), str(export.refused), str(export.sent), moment(export.changed_at), _why(export))
        for export, waiting in found
    ]
    write(table(("RUN", "WAITING", "REFUSED", "SENT", "LATEST", "WHY"), rows))


def _why(export: SpanExport) -> str:
    reasons = dict.fromkeys([export.reason, *(letter.reason for letter in export.letters)])
    return "; ".join(filter(None, reasons)) or "-"


async def _exports(store: Store) -> Sequence[tuple[SpanExport, int]]:
    """Everything that was not delivered, each run with how many of its spans wait."""
    exports = {export.run_id: export for export in (*await store.span_exports(), *await store.span_exports("refused"))}
    found = []
    for run_id, export in sorted(exports.items()):
        is_waiting = export.is_open and export.seq < export.count
        entries = [record.entry for record in await store.read(run_id)] if is_waiting else []
        waiting = spans_waiting(export.seq, entries)
        if waiting or export.letters:
            found.append((export, waiting))
    return found


def export_object(export: SpanExport, waiting: int) -> dict[str, object]:
    """What is known of a run's export, for programs."""
    return {
        "run_id": export.run_id,
        "waiting": waiting,
        "refused": export.refused,
        "sent": export.sent,
        "reason": export.reason,
        "changed_at": export.changed_at,
        "owner": shown(export.owner),
        "letters": [attrs.asdict(letter) for letter in export.letters],
    }
