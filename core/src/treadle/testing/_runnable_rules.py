"""The rules that run an executor, each call through the real runner."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import cast
from urllib.parse import quote, quote_plus

import attrs

from treadle import _telemetry as names
from treadle._bind import BoundExecutor
from treadle._codec import dump_entry
from treadle._models import AttemptEnded, Json, RetryAfter, SpanRecord
from treadle._secrets import Secret
from treadle.errors import OutputInvalidError
from treadle.testing._subject import UNKNOWN, Subject
from treadle.testing._trial import STEP, Attempt, Watched, can_stall, literal, usual, watch

_MOST_PLANTED = 12
"""Texts of an example that are tried as secrets, at most."""

_MARKER = "-m4rker"
"""What is put behind a text to find out where the text goes."""

_SHORT_S = 0.05
"""Deadline of a call whose service does not answer."""


def backend_problems(subject: Subject, backend: str) -> Iterator[str]:
    """Every example completes."""
    yield from _unfinished("The example", usual(subject, backend))
    for example in subject.examples[1:]:
        yield from _unfinished(f"The example {dict(example)!r}", watch(subject, backend, Attempt(literal(example))))


def _unfinished(what: str, watched: Watched) -> Iterator[str]:
    if not watched.completed and watched.error_type != OutputInvalidError.__name__:
        yield f"{what} does not complete: {watched.failure}"


def json_problems(subject: Subject, backend: str) -> Iterator[str]:
    """What it returns is plain JSON, or an instance of the declared type."""
    for output in usual(subject, backend).outputs:
        try:
            subject.bound.plain_output(output)
        except OutputInvalidError as error:
            yield f"It returns what is no JSON: {'; '.join(map(str, error.issues))}."


def output_problems(subject: Subject, backend: str) -> Iterator[str]:
    """What it returns satisfies the declared type, the family's contract, and what the test expects."""
    watched = usual(subject, backend)
    error = watched.result.error if watched.result else None
    if watched.error_type == OutputInvalidError.__name__ and error is not None and _are_json(subject.bound, watched.outputs):
        yield f"Its output breaks its contract: {'; '.join(map(str, error.issues)) or error.message}."
    if watched.completed and watched.result is not None and subject.expected is not UNKNOWN:
        output = watched.result.steps[STEP].output
        if output != subject.expected:
            yield f"The example gives {output!r}, not {subject.expected!r} as expected."


def _are_json(bound: BoundExecutor, outputs: list[object]) -> bool:
    try:
        for output in outputs:
            bound.plain_output(output)
    except OutputInvalidError:
        return False
    return True


# -- bad input ---------------------------------------------------------------------------------------------------------

_WRONG: tuple[Json, ...] = ({"not": "fitting"}, ["not fitting"], "not fitting", 0.5, True, None)


def bad_input_problems(subject: Subject, backend: str) -> Iterator[str]:
    """A value of a wrong type never reaches its code, and the author's bad example has no effect and is not tried again."""
    for name, wrong in _wrong_values(subject.bound):
        attempt = Attempt({**literal(subject.examples[0]), name: "${{ inputs.wrong }}"}, {"wrong": wrong})
        watched = watch(subject, backend, attempt)
        if watched.entered or watched.completed:
            yield f"The input {name!r} = {wrong!r} is not of its type, but the work was started with it."
    if subject.bad_example is not None:
        yield from _bad_example_problems(subject, watch(subject, backend, Attempt(literal(subject.bad_example))))


def _wrong_values(bound: BoundExecutor) -> Iterator[tuple[str, Json]]:
    """For the first input that has a type: a value that is not of it."""
    for each in bound.inputs:
        for wrong in _WRONG:
            if any(fault.path.startswith(each.name) for fault in bound.input_faults({each.name: wrong})):
                yield each.name, wrong
                return


def _bad_example_problems(subject: Subject, watched: Watched) -> Iterator[str]:
    shown = f"The bad example {dict(subject.bad_example or {})!r}"
    if watched.completed:
        yield f"{shown} is accepted."
    asked = [name for name, counted in watched.clients.items() if counted.was_asked]
    if len(watched.states) > 1 and watched.states[0] != watched.states[-1]:
        yield f"{shown} has an effect before it is refused."
    if asked:
        yield f"{shown} is refused only after the client {asked[0]!r} was asked."
    for entry in watched.recorder.entries("AttemptEnded"):
        if isinstance(entry, AttemptEnded) and isinstance(entry.outcome.retry, RetryAfter):
            yield f"{shown} is refused with {watched.error_type}, which would be tried again."


# -- ends --------------------------------------------------------------------------------------------------------------


def cancellation_problems(subject: Subject, backend: str) -> Iterator[str]:
    """Neither its end nor a cancellation at any moment leaves a task, thread, process, descriptor or file."""
    ended = usual(subject, backend)
    yield from _left("When it has completed", ended)
    yield from (f"When it has completed it leaves the temporary file {file}." for file in _temporary(ended))
    moments = [0.0] if ended.took_s < 0.002 else [0.0, 0.3 * ended.took_s, 0.7 * ended.took_s]
    attempts = [Attempt(literal(subject.examples[0]), cancel_after_s=moment) for moment in moments]
    if can_stall(subject):
        attempts.append(Attempt(literal(subject.examples[0]), cancel_after_s=_SHORT_S, is_stalled=True))
    for attempt in attempts:
        watched = watch(subject, backend, attempt)
        problems = [*_left("When it is cancelled", watched)]
        problems += [f"When it is cancelled it leaves the file {file}." for file in sorted(watched.files - ended.files)]
        if problems:
            yield from problems
            return


def _left(when: str, watched: Watched) -> Iterator[str]:
    for what in (*watched.tasks, *watched.left.all):
        yield f"{when} it leaves a {what}."


def _temporary(watched: Watched) -> list[str]:
    return sorted(file for file in watched.files if file.startswith("tmp/"))


def deadline_problems(subject: Subject, backend: str) -> Iterator[str]:
    """It is over soon after its deadline, with its thread."""
    ordinary = max(0.5 * usual(subject, backend).took_s, 0.001)
    attempt = Attempt(literal(subject.examples[0]), timeout_s=ordinary)
    if can_stall(subject):
        attempt = attrs.evolve(attempt, timeout_s=_SHORT_S, is_stalled=True)
    watched = watch(subject, backend, attempt)
    late_s = watched.took_s - cast("float", attempt.timeout_s)
    if late_s > subject.grace_s:
        yield f"With a deadline of {attempt.timeout_s:.3g} s it still runs {late_s:.2g} s later."
    for thread in watched.left.threads:
        yield f"Its {thread} still runs {subject.grace_s:g} s after the deadline."


# -- clients and effects -----------------------------------------------------------------------------------------------


def client_problems(subject: Subject, backend: str) -> Iterator[str]:
    """Two calls of one run share each client, which is opened once, closed once, and not by the executor."""
    needs = [need.name for need in subject.bound.needs]
    if not needs or not usual(subject, backend).completed:
        return
    watched = watch(subject, backend, Attempt(literal(subject.examples[0]), items=2))
    for name in needs:
        counted = watched.clients[name]
        if (counted.opens, counted.closes) != (1, 1):
            yield f"The client {name!r} was opened {counted.opens} times and closed {counted.closes} times in one run."
        for how in counted.closed_by:
            yield f"It calls {how}() of the client {name!r}, which other steps share."
    if not watched.completed:
        yield f"The second call of a run does not complete: {watched.failure}"


def effect_problems(subject: Subject, backend: str) -> Iterator[str]:
    """Declared ``none``: nothing can be seen to change. Declared ``idempotent``: a second attempt changes nothing more."""
    if subject.bound.effects == "none":
        states = usual(subject, backend).states
        if states and states[0] != states[-1]:
            yield "It declares effects='none', but running it changes something."
    elif subject.bound.effects == "idempotent":
        watched = watch(subject, backend, Attempt(literal(subject.examples[0]), is_repeated=True))
        if len(watched.states) > 2 and watched.states[1] != watched.states[2]:
            yield "It declares effects='idempotent', but a second attempt with the same key has another effect."


def effect_gap(subject: Subject, backend: str) -> str:
    """Why ``idempotent`` cannot be judged: nothing can be seen of its effect."""
    if subject.bound.effects != "idempotent" or subject.effects_seen is not None:
        return ""
    states = usual(subject, backend).states
    if len(states) > 1 and states[0] == states[-1]:
        return "It declares effects='idempotent', but its effect cannot be seen: define effects_seen()."
    return ""


# -- what others see ---------------------------------------------------------------------------------------------------

_PEERS = ("server.address", "peer.service", "network.peer.address", "messaging.destination.name")
_SYSTEMS = (".system", ".system.name", ".provider.name")
_MANDATORY = {
    names.ATTEMPT_NUMBER: {names.RUN_ID, names.TASK, names.TASK_RESULT},
    names.STEP_STATUS: {names.RUN_ID, names.TASK, names.TASK_RESULT, names.EXECUTOR},
    names.RUN_STATUS: {names.RUN_ID, names.PIPELINE, names.RUN_RESULT},
}
"""What tells a span of treadle's own from others -> what it must have besides."""


def span_problems(subject: Subject, backend: str) -> Iterator[str]:
    """The attempt's span names the executor; spans of its own are few by name and say which service they call."""
    watched = usual(subject, backend)
    for what, mandatory in _MANDATORY.items() if watched.entered else ():
        spans = [span for span in watched.recorder.spans if what in span.attributes]
        missing = sorted({key for span in spans for key in mandatory - span.attributes.keys()})
        if not spans or missing:
            yield f"The span with {what} is not there, or has no {', '.join(missing) or 'attributes'}."
    own = _own_spans(watched)
    for span in own:
        yield from _peer_problems(span)
    if own:
        yield from dict.fromkeys(_span_name_problems(subject, backend))


def _own_spans(watched: Watched) -> list[SpanRecord]:
    """The spans that the executor made."""
    return [span for span in watched.recorder.spans if not _MANDATORY.keys() & span.attributes.keys()]


def _span_name_problems(subject: Subject, backend: str) -> Iterator[str]:
    example = literal(subject.examples[0])
    for path in _text_paths(example):
        inputs = cast("dict[str, Json]", _planted(example, path, _MARKER))
        for span in _own_spans(watch(subject, backend, Attempt(inputs))):
            if _MARKER in span.name:
                yield f"Its span {span.name!r} has the input {_spelled(path)} in its name, so that every call has another one."


def _peer_problems(span: SpanRecord) -> Iterator[str]:
    says_whom = any(key in _PEERS or key.endswith(_SYSTEMS) for key in span.attributes)
    if span.kind in ("client", "producer") and not says_whom:
        yield f"Its span {span.name!r} does not say which service it calls ('server.address', or a '*.system.name')."


def _text_paths(example: Mapping[str, Json]) -> list[tuple[str | int, ...]]:
    """Where the example has texts; the first few."""
    return list(_texts(example, ()))[:_MOST_PLANTED]


def secret_problems(subject: Subject, backend: str) -> Iterator[str]:
    """No secret, given as an input or held by a client, gets into a span, log line, record, print or repr, however encoded."""
    found: dict[str, None] = {}
    for path in _text_paths(subject.examples[0]):
        canary = _canary(len(found))
        inputs = _planted(literal(subject.examples[0]), path, "${{ secrets.CANARY }}")
        watched = watch(subject, backend, Attempt(cast("dict[str, Json]", inputs), secrets={"CANARY": canary}))
        # Its own output may hold what it was given; what a step does with a secret is for the workflow to decide.
        for place, form in _leaks(watched, canary, with_outputs=False):
            found[f"A secret in the input {_spelled(path)} shows {form} in {place}."] = None
    yield from found
    yield from _client_leaks(subject, backend)


def _client_leaks(subject: Subject, backend: str) -> Iterator[str]:
    canary = _canary(-1)
    clients = {name: _holding(client, Secret(canary)) for name, client in subject.clients.items()}
    if not any(client is not subject.clients[name] for name, client in clients.items()):
        return
    watched = watch(subject, backend, Attempt(literal(subject.examples[0]), clients=clients))
    for place, form in dict.fromkeys(_leaks(watched, canary, with_outputs=True)):
        yield f"A secret of its client shows {form} in {place}."


def _canary(number: int) -> str:
    # A plus sign, so that what is quoted for a URL differs from what is not.
    return f"c4nary{number:+d}+Qz7xKp9w"


def _holding(client: object, secret: Secret) -> object:
    """A client of the same settings whose secrets are all this one; the client itself when it has none, or refuses."""
    kind = type(client)
    if isinstance(client, type) or not attrs.has(kind):
        return client
    try:
        fields = attrs.fields(attrs.resolve_types(kind))
        held = {field.alias: secret for field in fields if field.init and field.type in (Secret, Secret | None)}
        return attrs.evolve(client, **held) if held else client  # type: ignore[misc]  # attrs.has said so
    except Exception:  # the client's own code: what it refuses is not the executor's doing
        return client


def _texts(value: Json, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The path of every text in a value."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, (*path, number))


def _planted(value: Json, path: tuple[str | int, ...], more: str) -> Json:
    """A copy of ``value`` with ``more`` behind the text at ``path``."""
    if not path:
        return f"{value}{more}"
    if isinstance(value, Mapping):
        return {key: _planted(item, path[1:], more) if key == path[0] else item for key, item in value.items()}
    assert isinstance(value, list), "a path leads through objects and lists"
    return [_planted(item, path[1:], more) if number == path[0] else item for number, item in enumerate(value)]


def _spelled(path: tuple[str | int, ...]) -> str:
    return repr("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix("."))


def _leaks(watched: Watched, canary: str, *, with_outputs: bool) -> Iterator[tuple[str, str]]:
    """Where the canary is, and in which form."""
    for place, text in _places(watched, with_outputs=with_outputs):
        for form, spelled in _forms(canary):
            if spelled in text:
                yield place, form
                break


def _forms(canary: str) -> list[tuple[str, str]]:
    """The canary in each form that it could be seen in."""
    raw = canary.encode()
    forms = [("plainly", canary), ("in lower case", canary.lower()), ("in capitals", canary.upper())]
    forms += [("quoted for a URL", quote(canary, safe="")), ("quoted for a URL", quote_plus(canary)), ("in hex", raw.hex())]
    for shift in range(3):  # it may stand anywhere in what is encoded: three ways to fall into groups of three bytes
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # What the neighbours have a part in is cut off at both ends.
            forms.append(("in base64", encode(b"\0" * shift + raw).decode()[4 if shift else 0 :][: 4 * ((len(raw) - 3) // 3)]))
    return forms


def _places(watched: Watched, *, with_outputs: bool) -> Iterator[tuple[str, str]]:
    """All that somebody else gets to see, as texts."""
    for record in watched.recorder.records:
        entry = record.entry
        if isinstance(entry, AttemptEnded) and not with_outputs:
            entry = attrs.evolve(entry, outcome=attrs.evolve(entry.outcome, output=None))
        yield f"the record {record.kind}", f"{json.dumps(dump_entry(entry), ensure_ascii=False, default=repr)} {entry!r}"
    for span in watched.recorder.spans:
        yield f"the span {span.name!r}", repr(span)
    for line in watched.logged:
        yield f"the log of {line.partition(':')[0]}", line
    for _, _, _, message in watched.recorder.progressed:
        yield "its progress", message
    yield "what it prints", watched.printed
    yield "the repr of the call", " ".join(watched.contexts)
    yield "the repr of the result", repr(watched.result)
    for name, counted in watched.clients.items():
        yield f"the repr of the client {name!r}", f"{counted.client!r} {counted.given!r}"
