"""The objects that the Python builder hands out: they stand for values of a later run and are written as ``${{ }}``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from treadle._models import Json


class Expression:
    """A value of a later run: ``step.output.stdout``, ``inputs.sites``.

    Attributes and items look further into it, comparisons and ``& | ~`` make conditions, ``str()`` and f-strings give the
    text ``${{ ... }}``. A key that starts with ``_`` or is no name is taken with ``[...]``.
    """

    __slots__ = ("_is_look_up", "_source")
    __hash__ = None  # type: ignore[assignment] # == makes an expression, so there is no equality to hash by
    __iter__ = None  # without it, Python would iterate by asking for [0], [1] ... for ever
    __contains__ = None

    def __init__(self, source: str, *, is_look_up: bool = True) -> None:
        self._source, self._is_look_up = source, is_look_up

    def __getattr__(self, name: str) -> Expression:
        if name.startswith("_"):
            raise AttributeError(name)
        return Expression(f"{self._operand()}.{name}")

    def __getitem__(self, key: str | int | Expression) -> Expression:
        if isinstance(key, str) and key.isascii() and key.isidentifier():
            return Expression(f"{self._operand()}.{key}")
        return Expression(f"{self._operand()}[{source_of(key)}]")

    def __str__(self) -> str:
        return f"${{{{ {self._source} }}}}"

    def __format__(self, spec: str) -> str:
        if spec:
            raise ValueError(f"{self} has no value yet, so it cannot be formatted with {spec!r}")
        return str(self)

    def __repr__(self) -> str:
        return f"<expression {self._source}>"

    def __bool__(self) -> bool:
        raise TypeError(f"{self} has no value yet. Use & | ~ for a condition, and 'when=' instead of 'if'.")

    def _operand(self) -> str:
        return self._source if self._is_look_up else f"({self._source})"

    def _with(self, sign: str, other: object) -> Expression:
        right = other._operand() if isinstance(other, Expression) else source_of(other)
        return Expression(f"{self._operand()} {sign} {right}", is_look_up=False)

    def __eq__(self, other: object) -> Expression:  # type: ignore[override] # it makes a condition, as in SQLAlchemy
        return self._with("==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override] # it makes a condition, as in SQLAlchemy
        return self._with("!=", other)

    def __lt__(self, other: object) -> Expression:
        return self._with("<", other)

    def __le__(self, other: object) -> Expression:
        return self._with("<=", other)

    def __gt__(self, other: object) -> Expression:
        return self._with(">", other)

    def __ge__(self, other: object) -> Expression:
        return self._with(">=", other)

    def __and__(self, other: object) -> Expression:
        return self._with("and", other)

    def __or__(self, other: object) -> Expression:
        return self._with("or", other)

    def __invert__(self) -> Expression:
        return Expression(f"not {self._operand()}", is_look_up=False)


class StepHandle:
    """A step that was declared: put it into ``needs``, or its ``output`` and ``status`` into other steps' inputs."""

    __slots__ = ("_look_up", "id")

    def __init__(self, step_id: str) -> None:
        self.id = step_id
        self._look_up = Expression("steps")[step_id]

    @property
    def output(self) -> Expression:
        """What its executor answered; null when it was skipped, a list for a ``foreach``."""
        return self._look_up.output

    @property
    def status(self) -> Expression:
        """Its final state, like ``completed`` or ``skipped``."""
        return self._look_up.status

    @property
    def error(self) -> Expression:
        """The last attempt's error, or null."""
        return self._look_up.error

    @property
    def errors(self) -> Expression:
        """The errors of a ``foreach``, one for each item."""
        return self._look_up.errors

    @property
    def attempts(self) -> Expression:
        """How many were made."""
        return self._look_up.attempts

    def __repr__(self) -> str:
        return f"<step {self.id}>"


def source_of(value: object) -> str:
    """A value as it is written within an expression."""
    if isinstance(value, Expression):
        return value._source
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{value!r} cannot stand in an expression: {error}") from None


def written(value: object) -> Json:
    """A value of the builder as the file has it: expressions become texts, tuples lists."""
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, StepHandle):
        raise TypeError(f"{value!r} is a step, not a value. Use its .output, or its .status.")
    if isinstance(value, Mapping):
        return {key: written(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [written(item) for item in value]
    return value
