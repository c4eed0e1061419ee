"""Contracts: a Python type as a strict check of JSON data, as a reader of its instances, and as a JSON Schema.

Each kind of type is one node that answers all three, so that they cannot disagree. Nothing is coerced: neither ``"3"`` nor
``True`` is an int; only an int is taken where a float is declared.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import attrs

from treadle._contracts._compiler import Compiler, is_hashable, type_text, unresolvable
from treadle._contracts._docstrings import described_names, summary
from treadle._contracts._nodes import (
    NO_DEFAULT,
    AnyNode,
    Definitions,
    JsonSchema,
    Node,
    described,
    object_of,
    suggestion,
)
from treadle._json import MAX_BYTES, NotJsonError, Place, Shape, path_text, plain
from treadle._models import Issue, Json
from treadle.errors import TreadleError

__all__ = [
    "NO_DEFAULT",
    "Contract",
    "ContractError",
    "JsonSchema",
    "Member",
    "contract_for",
    "described_names",
    "object_schema",
    "suggestion",
    "summary",
    "type_text",
    "unresolvable",
]


class ContractError(TreadleError, ValueError):
    """A value that does not satisfy a declared type; ``issues`` says everywhere it does not."""

    def __init__(self, type_name: str, issues: Iterable[Issue]) -> None:
        self.type_name, self.issues = type_name, list(issues)
        listed = "".join(f"\n  {issue}" for issue in self.issues)
        super().__init__(f"The value is not a valid {type_name}:{listed}", "Correct the value, or the declared type.")


class Contract:
    """What a declared type asks of JSON data. Made by ``contract_for``; has no state of its own, so one serves all calls.

    Attributes:
        type_: The declared type.
        name: The type for people, like ``list[Point]``.
        is_any: Any JSON satisfies it.
        has_sets: A set is somewhere in it: fine for inputs, never for outputs.
    """

    __slots__ = ("_node", "_shape", "has_sets", "is_any", "name", "type_")

    def __init__(self, type_: object) -> None:
        compiler = Compiler()
        self._node: Node = compiler.node(type_, {})
        self._shape: Shape | None = None if self._node.is_plain else self._node
        self.type_, self.name, self.has_sets = type_, type_text(type_), compiler.has_sets
        self.is_any = isinstance(self._node, AnyNode)

    def structure(self, value: Json) -> object:
        """The Python value that JSON ``value`` stands for; shares no container with it.

        Raises:
            ContractError: With all issues.
        """
        issues: list[Issue] = []
        result = self.structure_at(value, None, issues)
        if issues:
            raise ContractError(self.name, issues)
        return result

    def structure_at(self, value: Json, place: Place | None, issues: list[Issue]) -> object:
        """The same at a place within a larger value; what is wrong is added to ``issues``."""
        try:
            return self._node.structure(value, place, issues)
        except RecursionError:
            issues.append(Issue("nested too deeply", path_text(place)))
            return None

    def issues(self, value: Json) -> list[Issue]:
        """Everything about JSON ``value`` that does not satisfy the type."""
        found: list[Issue] = []
        try:  # as structure_at, of which every output would feel the call
            self._node.structure(value, None, found)
        except RecursionError:
            found.append(Issue("nested too deeply", path_text(None)))
        return found

    def to_plain(self, obj: object, *, max_bytes: int = MAX_BYTES) -> Json:
        """``obj`` as plain JSON, instances of the declared types read as such; whether it satisfies the type is not asked.

        Raises:
            NotJsonError: For what is not JSON.
        """
        return plain(obj, max_bytes=max_bytes, shape=self._shape)

    def unstructure(self, obj: object) -> Json:
        """``obj`` as plain JSON that satisfies the type.

        Raises:
            ContractError: It is not JSON, or does not satisfy the type, whoever made it.
        """
        try:
            value = self.to_plain(obj)
        except NotJsonError as error:
            raise ContractError(self.name, error.issues) from error
        if issues := self.issues(value):
            raise ContractError(self.name, issues)
        return value

    def schema(self) -> JsonSchema:
        """JSON Schema 2020-12 of the type; classes stand in ``$defs``."""
        definitions = Definitions()
        return definitions.finish(self.schema_within(definitions))

    def schema_within(self, definitions: Definitions) -> JsonSchema:
        """Its part of a larger schema."""
        return self._node.schema(definitions)


@attrs.frozen
class Member:
    """One named value of an object, for ``object_schema``."""

    name: str
    contract: Contract
    required: bool = True
    default: object = NO_DEFAULT
    description: str = ""


def contract_for(type_: object) -> Contract:
    """The contract of a type: builtins, collections, enums, unions, attrs and data classes, TypedDicts, pydantic models.

    Raises:
        BindError: The type has no JSON form, or a name in it cannot be resolved.
    """
    if not is_hashable(type_):
        return Contract(type_)
    # Equal types may differ in what counts here: ``int | str`` equals ``str | int``.
    return _cached_contract(type_, repr(type_))


@functools.lru_cache(maxsize=2048)
def _cached_contract(type_: object, text: str) -> Contract:
    return Contract(type_)


def object_schema(members: Iterable[Member], *, others: Contract | None = None, description: str = "") -> JsonSchema:
    """JSON Schema 2020-12 of an object with these members; ``others`` is what any further member must satisfy."""
    definitions = Definitions()
    properties: dict[str, JsonSchema] = {}
    required: list[str] = []
    for member in members:
        schema = member.contract.schema_within(definitions)
        properties[member.name] = described(schema, member.description, member.default)
        if member.required:
            required.append(member.name)
    rest = None if others is None else others.schema_within(definitions)
    return definitions.finish(described(object_of(properties, required, rest), description))
