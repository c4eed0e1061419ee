"""What stores write in the same way: large values, entries, rows, pages."""

from __future__ import annotations

import os

import attrs
import pytest
from treadle.errors import StoreUnavailableError
from treadle.ports import (
    PACK_OVER,
    RUN_TABLE,
    SPAN_TABLE,
    STEP_TABLE,
    TIMER_TABLE,
    AttemptEnded,
    Commit,
    Outcome,
    RunPage,
    RunQuery,
    RunRow,
    RunStatus,
    SpanRow,
    StepRow,
    StepStatus,
    TimerRow,
    pack,
    pack_entries,
    unpack,
    unpack_entry,
)

AT = 1_767_225_600.0


@pytest.mark.parametrize(("size", "encoding"), [(PACK_OVER - 1, 0), (PACK_OVER, 0), (PACK_OVER + 1, 1)])
def test_long_values_are_compressed(size: int, encoding: int) -> None:
    """Over 10 KB, not at 10 KB (S1-19)."""
    packed = pack("x" * size, "it")

    assert PACK_OVER == 10 * 1024
    assert (packed.encoding, packed.size) == (encoding, size)
    assert unpack(packed.encoding, packed.body) == "x" * size


def test_a_value_is_long_by_what_is_left_of_it() -> None:
    """Over 100 KB after compression, not before: what compresses well stays in its row."""
    assert not pack("x" * 5_000_000, "it").is_long
    assert not pack(os.urandom(80_000).hex(), "it").is_long
    assert pack(os.urandom(110 * 1024).hex(), "it").is_long


def test_what_is_too_large_is_named_to_the_key() -> None:
    """The error says which step's result it is, how large, and which key of it takes the room (S3-82)."""
    output = {"pages": [{"text": "short"}, {"text": os.urandom(20_000).hex(), "title": "t"}], "total": 2}
    entry = AttemptEnded(AT, "fetch", 3, 1, Outcome("completed", output))

    with pytest.raises(StoreUnavailableError) as caught:
        pack_entries(Commit("r1", 1, 7, [entry]), most=10_000)

    assert "AttemptEnded" in caught.value.problem or "attempt" in caught.value.problem
    assert "step 'fetch'" in caught.value.problem
    assert "10,000 is the limit" in caught.value.problem
    assert "outcome.output.pages[1].text" in caught.value.problem
    assert "file or an object store" in caught.value.remedy


def test_entries_come_back_as_they_were() -> None:
    """Also what UTF-8 has no bytes for, and what is compressed."""
    for text in ("", "grüße\x00\u2028", "half \ud800 a pair", "x" * 50_000):
        entry = AttemptEnded(AT, "finally/last", None, 1, Outcome("completed", {"text": text}))
        (row,) = pack_entries(Commit("r1", 1, 7, [entry]))

        assert (row.seq, row.at, row.phase, row.path) == (7, AT, "finally", "finally/last")
        assert unpack_entry("r1", 7, row.packed.encoding, row.packed.body) == entry


def test_an_entry_that_cannot_be_read_is_named() -> None:
    """A damaged entry, or one of a later version, is an error that says which."""
    for encoding, body in ((0, b"{"), (0, b'{"kind": "future"}'), (1, b"no gzip"), (0, b"\xff")):
        with pytest.raises(StoreUnavailableError, match="Entry 9 of run r1 cannot be read"):
            unpack_entry("r1", 9, encoding, body)


def test_rows_come_back_as_they_were() -> None:
    """Every row of the port is the same after it was written into columns, as many as have names."""
    run = RunRow("r", "w", "hash", RunStatus.FAILED, "python", "t", AT, AT + 1, 2, "k", "/w", "why", "a", "E", "m", "h:1", AT)
    step = StepRow("r", "each", 3, "main", "demo", StepStatus.FAILED, 2, 1, "h:1", "key", AT, AT, AT, 5, 6, "E", "m", "why")
    timer = TimerRow("r", "t", "a", None, "custom", AT, "fired", AT, AT, {"x": [1]})
    span = SpanRow("s", "t", "p", "demo", "each[3]", "r", 1, 1, AT, AT + 2, "failed", ("a",), ("wrong",), "E")

    assert RUN_TABLE.row([*RUN_TABLE.values(run), "h:1@boot/1/x", AT]) == run
    assert STEP_TABLE.row(STEP_TABLE.values(step)) == step
    assert TIMER_TABLE.row(TIMER_TABLE.values(timer)) == timer
    assert SPAN_TABLE.row(SPAN_TABLE.values(span)) == span
    assert SPAN_TABLE.values(span)[SPAN_TABLE.columns.index("duration_ms")] == 2000
    for table, row in ((RUN_TABLE, run), (STEP_TABLE, step), (TIMER_TABLE, timer), (SPAN_TABLE, span)):
        assert len(table.columns) == len(table.values(row))  # type: ignore[attr-defined]  # each of its own class
        assert set(table.key) <= set(table.columns)


def test_a_page_leads_to_the_next() -> None:
    """The cursor is the place of the last run that was shown, to the last bit of its time; none after the last page."""
    runs = [RunRow(f"r{n}", "w", "", RunStatus.PENDING, "", "", AT + n / 3) for n in (3, 2, 1)]

    page = RunPage.of(runs, 2)

    assert page.runs == tuple(runs[:2])
    assert RunQuery(cursor=page.cursor).filters() == {"cursor": (AT + 2 / 3, "r2")}
    assert RunPage.of(runs, 3).cursor == ""
    assert RunPage.of([], 3) == RunPage(())
    with pytest.raises(ValueError, match="no cursor"):
        RunQuery(cursor="nonsense").filters()


def test_filters_are_those_that_were_asked_for() -> None:
    """In one order, whichever there are."""
    assert RunQuery().filters() == {}
    query = RunQuery((RunStatus.FAILED,), "w", 1.0, 2.0, "r", "k")
    assert query.filters() == {
        "statuses": ("failed",),
        "workflow": ("w",),
        "since": (1.0,),
        "until": (2.0,),
        "prefix": ("r", "r\U0010ffff"),
        "key": ("k",),
    }


def test_an_execution_says_what_ran_and_how_it_went() -> None:
    """The fields of an execution, from its start (``running``, no end) to its end, come back as they were written (S0-30)."""
    begun = SpanRow("s" * 16, "t" * 32, "p" * 16, "http.request", "each[3]", "run-1", 1, 1, AT)
    ended = attrs.evolve(
        begun,
        ended_at=AT + 1.5,
        status="failed",
        output_keys=("a", "b"),
        validation_issues=("$.a is missing",),
        error="it broke",
    )

    assert {field.name for field in attrs.fields(SpanRow)} >= {
        *("executor_type", "task_id", "workflow_execution_id", "started_at", "ended_at", "status"),
        *("output_keys", "validation_issues", "error"),
    }
    assert (begun.status, begun.ended_at, begun.duration_ms) == ("running", None, None)
    assert ended.duration_ms == 1500
    for row in (begun, ended):
        assert SPAN_TABLE.row(SPAN_TABLE.values(row)) == row
