"""Records as JSON and back: what logs, stores and other processes hold."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from treadle._codec import compact_json, dump_entry, dump_line, dump_record, load_call, load_entry, load_line, load_outcome
from treadle._models import (
    DECISIONS,
    FACTS,
    AttemptEnded,
    AttemptStarted,
    Call,
    CancelRequested,
    CompensationEnded,
    Entry,
    ErrorInfo,
    Evaluated,
    FallbackChosen,
    GiveUp,
    GroupStarted,
    InterruptAnswered,
    InterruptAsked,
    Issue,
    ItemEnded,
    MapStarted,
    Outcome,
    RetryAfter,
    RetryPolicy,
    RetryRequested,
    RetryScheduled,
    RunCreated,
    RunEnded,
    RunStatus,
    RunStopping,
    SecretReference,
    SignalReceived,
    SlotTaken,
    SpanNote,
    SpanRecord,
    StepEnded,
    StepStatus,
    StepUsage,
    StintOpened,
    TimerFired,
    UsageNoted,
    WaitEnded,
    WaitStarted,
)

text = st.text(max_size=12)
number = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 10**6)
index = st.none() | count
leaves = st.none() | st.booleans() | st.integers() | number | text
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(text, values, max_size=3)
issues = st.lists(st.builds(Issue, text, text), max_size=2).map(tuple)
errors = st.none() | st.builds(ErrorInfo, text, text, text, issues, text, st.none() | st.booleans(), inputs=values)
proposals = st.none() | st.builds(RetryAfter, st.none() | number, text) | st.builds(GiveUp, text)
events = st.lists(st.tuples(text, number, mappings), max_size=2).map(tuple)
links = st.lists(st.tuples(text, text, mappings), max_size=2).map(tuple)
kinds = st.sampled_from(["internal", "server", "client", "producer", "consumer"])
states = st.sampled_from(["unset", "error"])
spans = st.builds(SpanRecord, text, kinds, text, text, text, number, number, states, text, mappings, events, links, count)
outcome_states = st.sampled_from(["completed", "failed", "timed_out", "cancelled"])
some_spans = st.lists(spans, max_size=2).map(tuple)
outcomes = st.builds(Outcome, outcome_states, values, errors, proposals, number, number, st.booleans(), some_spans)
words = st.lists(text, max_size=2).map(tuple)
delays = st.none() | st.lists(number, max_size=3).map(tuple)
policies = st.builds(RetryPolicy, count, number, number, number, number, delays, words, words, st.booleans(), st.booleans())
paths = st.lists(text | count, max_size=3).map(tuple)
parts = st.lists(st.tuples(st.sampled_from(["text", "secret"]), text), max_size=2).map(tuple)
secrets = st.lists(st.builds(SecretReference, paths, parts), max_size=2).map(tuple)
texts = st.dictionaries(text, text, max_size=2)
calls = st.builds(
    Call,
    run_id=text,
    workflow=text,
    path=text,
    executor=text,
    inputs=mappings,
    index=index,
    attempt=count,
    variant=text,
    generation=count,
    stint=count,
    timeout_s=st.none() | number,
    retry=policies,
    clients=texts,
    secrets=secrets,
    trace_id=text,
    root_span_id=text,
    trace_flags=count,
    queued_at=number,
)
places = st.lists(st.tuples(text, index), max_size=2).map(tuple)
run_states, step_states = st.sampled_from(RunStatus), st.sampled_from(StepStatus)
whats = st.sampled_from(["when", "foreach", "choose", "inputs", "outputs", "wait", "slot"])
created = st.builds(RunCreated, number, text, mappings, text, mappings, text, text, text, count, count, st.none() | count, text)
BY_KIND: dict[type, st.SearchStrategy[Entry]] = {
    RunCreated: created,
    StintOpened: st.builds(StintOpened, number, count, text, text, texts, st.booleans(), places, count),
    InterruptAnswered: st.builds(InterruptAnswered, number, text, index, st.sampled_from(["rerun", "fail"])),
    InterruptAsked: st.builds(InterruptAsked, number, text, index, count),
    Evaluated: st.builds(Evaluated, number, text, whats, values, index, errors),
    AttemptEnded: st.builds(AttemptEnded, number, text, index, count, outcomes, text, count),
    TimerFired: st.builds(TimerFired, number, text),
    RetryRequested: st.builds(RetryRequested, number, count, text, text),
    SlotTaken: st.builds(SlotTaken, number, text, index),
    UsageNoted: st.builds(UsageNoted, number, text, index, count, st.builds(StepUsage, count, count, count), text),
    SignalReceived: st.builds(SignalReceived, number, text, values, text, count, st.none() | number),
    CancelRequested: st.builds(CancelRequested, number, text, st.booleans()),
    AttemptStarted: st.builds(AttemptStarted, number, text, index, count, text, count),
    MapStarted: st.builds(MapStarted, number, text, count),
    WaitStarted: st.builds(WaitStarted, number, text, text, st.none() | number),
    WaitEnded: st.builds(WaitEnded, number, text, st.sampled_from(["elapsed", "signal", "timeout"]), values, text),
    RetryScheduled: st.builds(RetryScheduled, number, text, index, count, count, number, text, text),
    ItemEnded: st.builds(ItemEnded, number, text, count, step_states, count, text, errors),
    StepEnded: st.builds(StepEnded, number, text, step_states, count, text, errors, text, count),
    RunStopping: st.builds(RunStopping, number, text, text, text),
    GroupStarted: st.builds(
        GroupStarted, number, text, st.sampled_from(["parallel", "choose", "workflow"]), index, st.none() | number
    ),
    FallbackChosen: st.builds(FallbackChosen, number, text, index, text, count, text, errors),
    CompensationEnded: st.builds(CompensationEnded, number, text, index, step_states, count, text, errors),
    RunEnded: st.builds(RunEnded, number, run_states, text, text, errors, mappings),
}


def test_every_kind_of_record_is_tried() -> None:
    """A new kind needs its line above."""
    assert set(BY_KIND) == {*FACTS, *DECISIONS}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kind", list(BY_KIND), ids=lambda kind: kind.__name__)
def test_a_record_reads_back_as_it_was(kind: type, data: st.DataObject) -> None:
    """Through one line of JSON text."""
    entry = data.draw(BY_KIND[kind])

    line = dump_line(entry)

    assert "\n" not in line
    assert load_line(line) == entry
    assert type(load_line(line)) is kind


@settings(max_examples=100, deadline=None)
@given(call=calls, outcome=outcomes)
def test_a_call_and_an_outcome_read_back_as_they_were(call: Call, outcome: Outcome) -> None:
    """They cross process borders as JSON."""
    assert load_call(json.loads(json.dumps(dump_record(call)))) == call
    assert load_outcome(json.loads(json.dumps(dump_record(outcome)))) == outcome


def test_fields_with_their_default_are_left_out() -> None:
    """So a field that is added later does not change old lines."""
    assert dump_entry(StepEnded(1.0, "a", StepStatus.COMPLETED)) == {
        "kind": "StepEnded",
        "at": 1.0,
        "path": "a",
        "status": "completed",
    }
    assert dump_entry(AttemptEnded(1.0, "a", None, 1, Outcome("completed", output=3))) == {
        "kind": "AttemptEnded",
        "at": 1.0,
        "path": "a",
        "index": None,
        "attempt": 1,
        "outcome": {"status": "completed", "output": 3},
    }


def test_a_field_that_a_newer_version_added_is_ignored() -> None:
    """An older version reads what it knows."""
    assert load_entry({"kind": "TimerFired", "at": 1.0, "timer_id": "t", "colour": "red"}) == TimerFired(1.0, "t")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"kind":"StepPainted","at":1.0}',
            "unknown kind of record: 'StepPainted'; it may have been written by a newer version",
        ),
        ('{"at":1.0}', "unknown kind of record: ''"),
        ("[]", "a record is an object with a 'kind', not list"),
        ('{"kind":"TimerFired","at":1.0}', "not a TimerFired: required field missing @ \\$.timer_id"),
        ('{"kind":"StepEnded","at":"soon","path":"a","status":"done"}', "not a StepEnded: .*@ \\$.at.*@ \\$.status"),
        ("{", "Expecting property name"),
    ],
)
def test_what_is_no_record_is_a_clear_error(line: str, message: str) -> None:
    """With every fault and its place."""
    with pytest.raises(ValueError, match=message):
        load_line(line)


def test_a_value_that_is_no_json_is_not_written() -> None:
    """NaN would make a line that other readers refuse."""
    with pytest.raises(ValueError, match="Out of range float"):
        dump_line(SignalReceived(1.0, "s", float("nan")))


def test_a_note_of_a_span_comes_back_and_its_absence_is_left_out() -> None:
    """What an executor told of its span is a part of the outcome; logs of runs without one are as they always were."""
    note = SpanNote({"order.id": 7}, (("packed", 5.0, {"boxes": 2}),))
    with_note = AttemptEnded(1.0, "a", None, 1, Outcome("completed", note=note))

    assert load_line(dump_line(with_note)) == with_note
    assert "note" not in dump_line(AttemptEnded(1.0, "a", None, 1, Outcome("completed")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(data=JSON, ensure_ascii=st.booleans())
def test_json_is_what_the_standard_library_writes(data: object, ensure_ascii: bool) -> None:
    """To the letter, with neither a space nor a number that JSON does not know."""
    told = json.dumps(data, ensure_ascii=ensure_ascii, separators=(",", ":"), allow_nan=False)

    assert compact_json(ensure_ascii=ensure_ascii)(data) == told
    with pytest.raises(ValueError, match="not JSON compliant"):
        compact_json(ensure_ascii=ensure_ascii)([data, float("nan")])


def test_json_is_the_same_where_the_library_has_no_c_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python than CPython writes the same, by the library's own way."""
    monkeypatch.setattr("json.encoder.c_make_encoder", None)

    assert compact_json(ensure_ascii=False)({"ä": [1.5, None]}) == '{"ä":[1.5,null]}'
