"""Expressions and the values that hold them: parsed when the workflow is planned, evaluated over plain data.

``parse_expression`` takes a bare expression, ``compile_value`` a tree whose texts hold ``${{ }}``. What an expression may say
is in ``_grammar``, what it can do in ``_operations``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import attrs

from treadle._expressions._operations import Evaluate, Names, Problem, chain, concatenate, text_of
from treadle._models import Json, SecretReference
from treadle.errors import ExpressionError

MAX_SOURCE = 8192
"""Characters of one expression."""

MASK = "***"
"""What stands in a rendered value where the runner puts a secret."""


@attrs.frozen
class Reference:
    """What an expression looks up, as far as it is known before a run: ``steps.page.output.total``.

    Attributes:
        root: The name it starts from, like ``steps``.
        path: Keys and indexes after it, up to the first that must be computed.
    """

    root: str
    path: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        """As it is written."""
        return self.root + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path)


@attrs.frozen
class Expression:
    """A parsed expression.

    Attributes:
        source: As it was written, without ``${{ }}``.
        references: Its static look-ups, in order, without doubles.
    """

    source: str
    references: tuple[Reference, ...]
    _evaluate: Evaluate = attrs.field(repr=False, eq=False)

    def evaluate(self, names: Mapping[str, object]) -> Json:
        """The value over ``names``; a look-up gives the very object that it finds.

        Raises:
            ExpressionError: It has no answer for these values.
        """
        try:
            return self._evaluate(names)
        except Problem as problem:
            raise ExpressionError(self.source, problem.problem, problem.remedy, problem.offset or 0) from None
        except (RecursionError, OverflowError, MemoryError) as error:
            raise ExpressionError(self.source, f"too large to evaluate ({type(error).__name__})") from error


def parse_expression(source: str) -> Expression:
    """Parse a bare expression.

    Raises:
        ExpressionError: It is no expression, uses what expressions do not have, or looks up a secret.
    """
    expression = _parse(source)
    if any(reference.root == "secrets" for reference in expression.references):
        raise ExpressionError(
            source, "secrets cannot be used here", "a secret stands alone in a ${{ secrets.NAME }} within 'with'"
        )
    return expression


KEYWORDS = frozenset(("true", "false", "none", "null", "True", "False", "None", "not", "and", "or", "if", "else", "in", "is"))
"""Words with a meaning of their own in expressions."""

_LOOK_UP = re.compile(r"\s*([A-Za-z_]\w*)((?:\.[A-Za-z_]\w*)*)\s*", re.ASCII)


@lru_cache(maxsize=16_384)  # the loader parses first, the plan again: a large file should not pay twice
def _parse(source: str) -> Expression:
    if len(source) > MAX_SOURCE:
        raise ExpressionError(source, f"longer than {MAX_SOURCE:,} characters", "compute parts of it in a step of their own")
    plain = _LOOK_UP.fullmatch(source)
    # Most expressions are a plain look-up: they need no parser, nor Jinja's import.
    if plain is not None and plain[1] not in KEYWORDS and plain[2].count(".") <= 50:
        root, path = plain[1], tuple(plain[2].split(".")[1:])
        return Expression(source, (Reference(root, path),), chain(root, path))
    if not source.strip():
        raise ExpressionError(source, "it is empty", "write a look-up, like inputs.name")

    from treadle._expressions._grammar import compile_source  # brings Jinja, which start-up should not pay for

    try:
        compiled = compile_source(source)
    except Problem as problem:
        raise ExpressionError(source, problem.problem, problem.remedy, problem.offset) from None
    return Expression(source, tuple(Reference(root, path) for root, path in compiled.references), compiled.evaluate)


# -- texts with ${{ }} -------------------------------------------------------------------------------------------------

_INSIDE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^'"{}]+|[{}]|.""", re.DOTALL)
_DOLLAR = re.compile(r"(\$?)\$\{\{")
_BRACES = re.compile(r"(\$?)\$\{\{|\{\{")

Part = tuple[Literal["text", "expression"], str]


def split_text(text: str, *, braces: bool = False) -> list[Part]:
    """A text in parts: what stays as it is, and the sources of its expressions.

    Args:
        text: Any text; ``${{ }}`` holds an expression, ``$${{`` is a literal ``${{``.
        braces: Whether ``{{ }}`` holds one too.

    Raises:
        ExpressionError: A ``${{`` is never closed.
    """
    opening = _BRACES if braces else _DOLLAR
    parts: list[Part] = []
    literal, position = "", 0
    while (found := opening.search(text, position)) is not None:
        literal += text[position : found.start()]
        position = found.end()
        if found[1]:
            literal += "${{"
            continue
        end = _end_of(text, position, found)
        if literal:
            parts.append(("text", literal))
        parts.append(("expression", text[position:end]))
        literal, position = "", end + 2
    literal += text[position:]
    return [*parts, ("text", literal)] if literal or not parts else parts


def _end_of(text: str, start: int, opened: re.Match[str]) -> int:
    """Where the ``}}`` of an expression is; quotes and nested braces are respected."""
    depth, position = 0, start
    while position < len(text) and position - start <= MAX_SOURCE:
        if not depth and text.startswith("}}", position):
            return position
        token = _INSIDE.match(text, position, start + MAX_SOURCE + 2)
        if token is None or token[0] in ("'", '"'):  # a quote that is never closed hides the end
            break
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
        position = token.end()
    sign = opened[0]
    if position - start > MAX_SOURCE:
        raise ExpressionError(text[start:], f"'{sign}' is not closed within {MAX_SOURCE:,} characters", "close it with }}")
    raise ExpressionError(text[start:], f"'{sign}' at character {opened.start() + 1} is never closed", "close it with }}")


@attrs.frozen
class _Text:
    """One text of a value, taken apart.

    Attributes:
        parts: Literals, expressions and the names of secrets, in order.
        references: Of all its expressions; without the secrets.
        secret_names: The secrets it takes.
    """

    parts: tuple[str | Expression | _Secret, ...]
    references: tuple[Reference, ...]
    secret_names: frozenset[str]


@attrs.frozen
class _Secret:
    name: str


def _compile_text(text: str, *, braces: bool) -> _Text:
    parts: list[str | Expression | _Secret] = []
    for kind, content in split_text(text, braces=braces):
        parts.append(content if kind == "text" else _expression_or_secret(content))
    expressions = [part for part in parts if isinstance(part, Expression)]
    references = tuple(dict.fromkeys(reference for part in expressions for reference in part.references))
    return _Text(tuple(parts), references, frozenset(part.name for part in parts if isinstance(part, _Secret)))


def _expression_or_secret(source: str) -> Expression | _Secret:
    expression = _parse(source)
    roots = {reference.root for reference in expression.references}
    if "secrets" not in roots:
        return expression
    plain = _LOOK_UP.fullmatch(source)
    if plain is None or plain[2].count(".") != 1:
        raise ExpressionError(
            source, "a secret cannot be looked into or calculated with", "write it alone, as ${{ secrets.NAME }}"
        )
    return _Secret(plain[2][1:])


def check_text(text: str, *, braces: bool = False) -> frozenset[str]:
    """The secrets that a text takes.

    Raises:
        ExpressionError: One of its expressions cannot be parsed.
    """
    if "{{" not in text:
        return frozenset()
    return _compile_text(text, braces=braces).secret_names


# -- values ------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Value:
    """A tree of plain data whose texts may hold expressions.

    Attributes:
        references: What all its expressions look up, without doubles.
        is_constant: It holds no expression and no secret.
        secret_names: The secrets it takes.
    """

    references: tuple[Reference, ...]
    is_constant: bool
    secret_names: frozenset[str]
    _render: Evaluate = attrs.field(repr=False, eq=False)
    _secret_texts: tuple[tuple[tuple[str | int, ...], _Text], ...] = attrs.field(repr=False, eq=False)

    def render(self, names: Mapping[str, object]) -> Json:
        """The tree with its expressions evaluated; its own containers are new, looked-up values are not copied.

        Raises:
            ExpressionError: An expression has no answer for these values.
        """
        return self._render(names)

    def secret_references(self, names: Mapping[str, object]) -> tuple[SecretReference, ...]:
        """Where secrets belong in what ``render`` answers for the same names."""
        return tuple(SecretReference(path, _secret_parts(text, names)) for path, text in self._secret_texts)


def compile_value(value: Json, *, braces: bool = False) -> Value:
    """Compile a tree of plain data.

    Args:
        value: Plain JSON data; texts may hold ``${{ }}``, keys may not.
        braces: Whether ``{{ }}`` holds an expression too.

    Raises:
        ExpressionError: The first expression that cannot be parsed.
    """
    compiler = _ValueCompiler(braces=braces)
    render = compiler.compile(value, ())
    secrets = frozenset(name for _, text in compiler.secret_texts for name in text.secret_names)
    constant = not compiler.has_expressions and not secrets
    return Value(tuple(compiler.references), constant, secrets, render, tuple(compiler.secret_texts))


def _secret_parts(text: _Text, names: Names) -> tuple[tuple[str, str], ...]:
    parts: list[tuple[str, str]] = []
    for part in text.parts:
        if isinstance(part, _Secret):
            parts.append(("secret", part.name))
            continue
        literal = part if isinstance(part, str) else text_of(part.evaluate(names))
        if parts and parts[-1][0] == "text":
            literal = parts.pop()[1] + literal
        parts.append(("text", literal))
    return tuple(parts)


class _Fixed:
    """A renderer whose answer never changes and needs no copy."""

    def __init__(self, value: Json) -> None:
        self.value = value

    def __call__(self, names: Names) -> Json:
        return self.value


class _ValueCompiler:
    def __init__(self, *, braces: bool) -> None:
        self._braces = braces
        self.references: dict[Reference, None] = {}
        self.secret_texts: list[tuple[tuple[str | int, ...], _Text]] = []
        self.has_expressions = False

    def compile(self, value: Json, path: tuple[str | int, ...]) -> Evaluate:
        if isinstance(value, str):
            return self._text(value, path) if "{{" in value else _Fixed(value)
        if isinstance(value, Mapping):
            return _mapping_renderer({key: self.compile(item, (*path, key)) for key, item in value.items()})
        if isinstance(value, list | tuple):
            return _list_renderer([self.compile(item, (*path, index)) for index, item in enumerate(value)])
        return _Fixed(value)

    def _text(self, text: str, path: tuple[str | int, ...]) -> Evaluate:
        compiled = _compile_text(text, braces=self._braces)
        if compiled.secret_names:
            self.secret_texts.append((path, compiled))
        parts = compiled.parts
        self.references.update(dict.fromkeys(compiled.references))
        if all(isinstance(part, str) for part in parts):
            return _Fixed("".join(part for part in parts if isinstance(part, str)))
        self.has_expressions = True
        if len(parts) == 1:
            return _renderer_of(parts[0])
        renderers = [_renderer_of(part) for part in parts]
        return _joined(renderers, text)


def _renderer_of(part: str | Expression | _Secret) -> Evaluate:
    if isinstance(part, Expression):
        return part.evaluate
    return _Fixed(part if isinstance(part, str) else MASK)


def _joined(renderers: list[Evaluate], text: str) -> Evaluate:
    def render(names: Names) -> Json:
        try:
            return concatenate(part(names) for part in renderers)
        except Problem as problem:
            raise ExpressionError(text, problem.problem, problem.remedy) from None

    return render


def _mapping_renderer(renderers: dict[str, Evaluate]) -> Evaluate:
    # What never changes is copied in one go; only the rest is asked for, in its place.
    fixed = {key: renderer.value if isinstance(renderer, _Fixed) else None for key, renderer in renderers.items()}
    moving = tuple((key, renderer) for key, renderer in renderers.items() if not isinstance(renderer, _Fixed))
    if not moving:
        return lambda names: fixed.copy()

    def render(names: Names) -> Json:
        result = fixed.copy()
        for key, renderer in moving:
            result[key] = renderer(names)
        return result

    return render


def _list_renderer(renderers: list[Evaluate]) -> Evaluate:
    fixed = [renderer.value if isinstance(renderer, _Fixed) else None for renderer in renderers]
    moving = tuple((index, renderer) for index, renderer in enumerate(renderers) if not isinstance(renderer, _Fixed))
    if not moving:
        return lambda names: fixed.copy()

    def render(names: Names) -> Json:
        result = fixed.copy()
        for index, renderer in moving:
            result[index] = renderer(names)
        return result

    return render
