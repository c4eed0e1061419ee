"""The contract of each mutant, as its author would have written it; none is collected by itself."""

from __future__ import annotations

from treadle.testing import ExecutorContract, FakeClient

from mutants import (
    backends,
    bad_input,
    cancellation,
    clients,
    deadline,
    doc,
    effects,
    entry_point,
    imports,
    json,
    name,
    output,
    schema,
    secrets,
    spans,
    types,
)

TEXT = {"text": "A brave Title"}


class Name(ExecutorContract):
    executor = name.slug
    example = TEXT


class Doc(ExecutorContract):
    executor = doc.slug
    example = TEXT


class Types(ExecutorContract):
    executor = types.slug
    example = TEXT


class Schema(ExecutorContract):
    executor = schema.slug
    example = {"title": TEXT}


class EntryPoint(ExecutorContract):
    executor = entry_point.slug
    example = TEXT


class Imports(ExecutorContract):
    executor = imports.slug
    example = TEXT


class Backends(ExecutorContract):
    executor = backends.slug
    example = TEXT


class Json(ExecutorContract):
    executor = json.words
    example = TEXT


class Output(ExecutorContract):
    executor = output.slug
    example = TEXT


class BadInput(ExecutorContract):
    executor = bad_input.post
    example = TEXT
    bad_example = {"text": " "}

    def effects_seen(self) -> object:
        return bad_input.POSTED


class Cancellation(ExecutorContract):
    executor = cancellation.slug
    example = TEXT
    grace_s = 0.2


class Deadline(ExecutorContract):
    executor = deadline.slug
    example = TEXT
    grace_s = 0.2


class Clients(ExecutorContract):
    executor = clients.post
    example = TEXT
    clients = {"board": FakeClient({"post": 1})}


class Effects(ExecutorContract):
    executor = effects.post
    example = TEXT

    def effects_seen(self) -> object:
        return effects.POSTED


class Spans(ExecutorContract):
    executor = spans.slug
    example = TEXT


class Secrets(ExecutorContract):
    executor = secrets.slug
    example = TEXT


MUTANTS: dict[str, type[ExecutorContract]] = {
    "name": Name,
    "doc": Doc,
    "types": Types,
    "schema": Schema,
    "entry_point": EntryPoint,
    "imports": Imports,
    "backends": Backends,
    "json": Json,
    "output": Output,
    "bad_input": BadInput,
    "cancellation": Cancellation,
    "deadline": Deadline,
    "clients": Clients,
    "effects": Effects,
    "spans": Spans,
    "secrets": Secrets,
}
"""Rule -> the contract of the executor that breaks it."""
