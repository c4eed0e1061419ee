"""From the source of an expression to a function over plain data: Jinja's parser, an allow-list of nodes, our own evaluation.

Nothing here runs Jinja's compiler, filters or runtime. Each node becomes a closure once; evaluating is calling closures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import attrs
from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.lexer import Lexer, Token, TokenStream
from jinja2.parser import Parser

from treadle._expressions import _operations as operations
from treadle._expressions._operations import Evaluate, Missing, Names, Problem
from treadle._models import Json

MAX_NESTING = 50
MAX_OPERATORS = 100

Path = tuple[str | int, ...]


@attrs.frozen
class Compiled:
    """A compiled expression.

    Attributes:
        evaluate: Answers its value; raises Problem.
        references: Each static look-up as ``(root, path)``, in order, without doubles.
        is_look_up: It is one static look-up and nothing else.
    """

    evaluate: Evaluate
    references: tuple[tuple[str, Path], ...]
    is_look_up: bool


def compile_source(source: str) -> Compiled:
    """Compile an expression.

    Raises:
        Problem: It is no expression, or uses something that expressions do not have; with its offset.
    """
    try:
        tree = _parse(source)
        compiler = _Compiler()
        evaluate = compiler.compile(tree, 0)
    except RecursionError:
        raise _too_deep(None) from None
    return Compiled(evaluate, tuple(compiler.references), _static(tree) is not None)


def _too_deep(offset: int | None) -> Problem:
    return Problem(f"nested deeper than {MAX_NESTING} levels", "compute parts of it in a step of their own", offset)


# -- parsing -----------------------------------------------------------------------------------------------------------


class _OffsetLexer(Lexer):
    """Jinja's lexer, with the offset of each token where Jinja keeps its line: expressions are short, offsets say more."""

    def tokeniter(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> Iterator[tuple[int, str, str]]:
        offset = depth = 0
        try:
            for _, kind, text in super().tokeniter(source, name, filename, state):
                depth += (text in "([{") - (text in ")]}") if kind == "operator" else 0
                if depth > MAX_NESTING:
                    raise _too_deep(offset)
                yield offset, kind, text
                offset += len(text)
        except TemplateSyntaxError as error:
            raise Problem(_sentence(error), offset=offset) from None


class _OffsetEnvironment(Environment):
    """Jinja asks its environment for the tokens, and nothing public lets another lexer in; the tests hold this seam."""

    def __init__(self) -> None:
        super().__init__()
        self._offset_lexer = _OffsetLexer(self)

    def _tokenize(self, source: str, name: str | None, filename: str | None = None, state: str | None = None) -> TokenStream:
        lexer = self._offset_lexer
        return TokenStream(_with_end(lexer.wrap(lexer.tokeniter(source, name, filename, state)), source), name, filename)


def _with_end(tokens: Iterator[Token], source: str) -> Iterator[Token]:
    for token in tokens:
        if token.type in ("variable_end", "data"):
            raise Problem("text follows after the expression has ended", offset=token.lineno)
        yield token


_ENVIRONMENT = _OffsetEnvironment()


def _parse(source: str) -> nodes.Expr:
    try:
        parser = Parser(_ENVIRONMENT, source, state="variable")
        tree = parser.parse_expression()
        if not parser.stream.eos:
            token = parser.stream.current
            raise Problem(f"{str(token.value)[:40]!r} is not expected here", offset=token.lineno)
    except TemplateSyntaxError as error:
        raise Problem(_sentence(error), offset=min(error.lineno, len(source))) from None
    except (ValueError, UnicodeError, OverflowError) as error:  # a literal of thousands of digits, a broken escape
        raise Problem(f"a literal that cannot be read: {error}") from None
    return tree


def _sentence(error: TemplateSyntaxError) -> str:
    message = (error.message or "it cannot be parsed").rstrip(".")
    message = re.sub(r"unexpected '?end of (print statement|template)'?", "it ends too early", message)
    return re.sub(r"got '?end of (print statement|template)'?", "but it ends", message)


# -- compiling ---------------------------------------------------------------------------------------------------------


def _static(node: nodes.Node) -> tuple[str, Path] | None:
    """Root and path of a look-up whose keys are all literals."""
    path: list[str | int] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        key = _literal_key(node)
        if key is None:
            return None
        path.append(key)
        node = node.node
    return (node.name, tuple(reversed(path))) if isinstance(node, nodes.Name) and node.name != "null" else None


def _literal_key(node: nodes.Getattr | nodes.Getitem) -> str | int | None:
    if isinstance(node, nodes.Getattr):
        return node.attr
    argument = node.arg.node if isinstance(node.arg, nodes.Neg) else node.arg
    if not isinstance(argument, nodes.Const) or isinstance(argument.value, bool):
        return None
    key = argument.value
    if isinstance(node.arg, nodes.Neg):
        return -key if isinstance(key, int) else None
    return key if isinstance(key, str | int) else None


def _label(node: nodes.Node) -> str:
    found = _static(node)
    return operations.spell(*found) if found else "the value"


class _Compiler:
    """Turns one tree into closures and collects its references."""

    def __init__(self) -> None:
        self.references: dict[tuple[str, Path], None] = {}
        self._operators = 0

    def compile(self, node: nodes.Node, depth: int) -> Evaluate:
        """The closure of a node.

        Args:
            node: A node of Jinja's tree.
            depth: How deep it lies.
        """
        if depth > MAX_NESTING:
            raise _too_deep(node.lineno)
        compile_node = _NODES.get(type(node))
        if compile_node is None:
            problem, remedy = _REFUSED.get(type(node), (f"{type(node).__name__} is not part of expressions", ""))
            raise Problem(problem, remedy, node.lineno)
        return compile_node(self, node, depth + 1)

    def _all(self, children: list[nodes.Expr], depth: int) -> list[Evaluate]:
        return [self.compile(child, depth) for child in children]

    def _count(self, node: nodes.Node) -> None:
        self._operators += 1
        if self._operators > MAX_OPERATORS:
            raise Problem(f"more than {MAX_OPERATORS} operators", "compute parts of it in a step of their own", node.lineno)

    # look-ups and literals

    def look_up(self, node: nodes.Name | nodes.Getattr | nodes.Getitem, depth: int) -> Evaluate:
        """A name, or an item of something."""
        if isinstance(node, nodes.Name) and node.name == "null":
            return lambda names: None
        static = _static(node)
        if static is not None:
            if len(static[1]) > MAX_NESTING:
                raise _too_deep(node.lineno)
            self.references[static] = None
            return _located(operations.chain(*static), node.lineno)
        assert not isinstance(node, nodes.Name)  # a name alone is always static
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return self._slice(node, node.arg, depth)
        subject, label = self.compile(node.node, depth), _label(node.node)
        key: Evaluate = _constant(node.attr) if isinstance(node, nodes.Getattr) else self.compile(node.arg, depth)

        def evaluate(names: Names) -> Json:
            return operations.checked(operations.look_up(subject(names), key(names), label))

        return _located(evaluate, node.lineno)

    def _slice(self, node: nodes.Getitem, part: nodes.Slice, depth: int) -> Evaluate:
        if part.step is not None:
            raise Problem("a slice has no step", "write [start:stop]", node.lineno)
        subject, label = self.compile(node.node, depth), _label(node.node)
        start, stop = (_constant(None) if end is None else self.compile(end, depth) for end in (part.start, part.stop))
        return _located(lambda names: operations.slice_of(subject(names), start(names), stop(names), label), node.lineno)

    def constant(self, node: nodes.Const, depth: int) -> Evaluate:
        """A literal text, number, boolean or null."""
        value = node.value
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Problem("a text literal with half a character (a lone surrogate)", offset=node.lineno) from None
        elif operations.is_number(value):
            _at(node.lineno, operations.bounded_number, value)
        return _constant(value)

    def sequence(self, node: nodes.List | nodes.Tuple, depth: int) -> Evaluate:
        """A list literal; a tuple is one too."""
        items = self._all(node.items, depth)
        return lambda names: [item(names) for item in items]

    def mapping(self, node: nodes.Dict, depth: int) -> Evaluate:
        """A mapping literal."""
        pairs = [(self.compile(pair.key, depth), self.compile(pair.value, depth)) for pair in node.items]

        def evaluate(names: Names) -> Json:
            result = {}
            for key, value in pairs:
                name = key(names)
                if not isinstance(name, str):
                    raise Problem(f"the key of a mapping is a text, not {operations.kind_of(name)}")
                result[name] = value(names)
            return result

        return _located(evaluate, node.lineno)

    # operators

    def compare(self, node: nodes.Compare, depth: int) -> Evaluate:
        """``a < b``, also chained."""
        first = self.compile(node.expr, depth)
        rest = [(operations.COMPARISONS[operand.op], self.compile(operand.expr, depth)) for operand in node.ops]

        def evaluate(names: Names) -> Json:
            left = first(names)
            for holds, operand in rest:
                right = operand(names)
                if not holds(left, right):
                    return False
                left = right
            return True

        return _located(evaluate, node.lineno)

    def both(self, node: nodes.And, depth: int) -> Evaluate:
        """``a and b``: the first false-like value, else the last."""
        left, right = self.compile(node.left, depth), self.compile(node.right, depth)
        return lambda names: left(names) and right(names)

    def either(self, node: nodes.Or, depth: int) -> Evaluate:
        """``a or b``: the first true-like value, else the last."""
        left, right = self.compile(node.left, depth), self.compile(node.right, depth)
        return lambda names: left(names) or right(names)

    def negation(self, node: nodes.Not, depth: int) -> Evaluate:
        """``not a``."""
        operand = self.compile(node.node, depth)
        return lambda names: not operand(names)

    def arithmetic(self, node: nodes.BinExpr, depth: int) -> Evaluate:
        """``+ - * / // %``."""
        self._count(node)
        _refuse_dashed_id(node)
        left, right = self.compile(node.left, depth), self.compile(node.right, depth)
        operate = operations.ARITHMETIC[type(node).__name__]
        return _located(lambda names: operate(left(names), right(names)), node.lineno)

    def sign(self, node: nodes.UnaryExpr, depth: int) -> Evaluate:
        """``-a`` and ``+a``."""
        operand = self.compile(node.node, depth)
        operate = operations.negate if isinstance(node, nodes.Neg) else operations.positive
        return _located(lambda names: operate(operand(names)), node.lineno)

    def concatenation(self, node: nodes.Concat, depth: int) -> Evaluate:
        """``a ~ b``: one text."""
        self._count(node)
        parts = self._all(node.nodes, depth)
        return _located(lambda names: operations.concatenate(part(names) for part in parts), node.lineno)

    def choice(self, node: nodes.CondExpr, depth: int) -> Evaluate:
        """``a if b else c``; without ``else`` it is null."""
        test, then = self.compile(node.test, depth), self.compile(node.expr1, depth)
        otherwise = _constant(None) if node.expr2 is None else self.compile(node.expr2, depth)
        return lambda names: then(names) if test(names) else otherwise(names)

    # filters and tests

    def filter(self, node: nodes.Filter, depth: int) -> Evaluate:
        """``a | name(...)``."""
        self._count(node)
        assert node.node is not None  # only a filter block has none, and blocks are not expressions
        subject = self.compile(node.node, depth)
        call = self._operation("filter", node, depth)
        if node.name == "default":
            return _located(lambda names: call(_or_null(subject, names), names), node.lineno)
        return _located(lambda names: call(subject(names), names), node.lineno)

    def test(self, node: nodes.Test, depth: int) -> Evaluate:
        """``a is name``."""
        subject = self.compile(node.node, depth)
        if node.name in ("defined", "undefined"):
            self._operation("test", node, depth)
            wanted = node.name == "defined"
            return lambda names: _is_defined(subject, names) is wanted
        call = self._operation("test", node, depth)
        return _located(lambda names: call(subject(names), names), node.lineno)

    def _operation(self, what: str, node: nodes.Filter | nodes.Test, depth: int) -> Callable[[Json, Names], Json]:
        """What applies a filter or test to a value; its name and arguments are checked here, once."""
        operation = _at(node.lineno, operations.operation, what, node.name)
        if node.dyn_args is not None or node.dyn_kwargs is not None:
            raise Problem("* and ** have no place in an expression", offset=node.lineno)
        positional = self._all(node.args, depth)
        named: dict[str, Evaluate] = {str(pair.key): self.compile(pair.value, depth) for pair in node.kwargs}
        try:
            operation.signature.bind(None, *positional, **named)
        except TypeError as error:
            raise Problem(f"{what} {node.name!r}: {error}", offset=node.lineno) from None
        self._check_inner_name(node)
        function = operation.function
        if not positional and not named:
            return lambda value, names: function(value)

        def call(value: Json, names: Names) -> Json:
            arguments = [argument(names) for argument in positional]
            return function(value, *arguments, **{key: argument(names) for key, argument in named.items()})

        return call

    def _check_inner_name(self, node: nodes.Filter | nodes.Test) -> None:
        """Refuse ``map('uper')`` now rather than when it runs."""
        what, index = _INNER_NAMES.get(node.name, ("", 0))
        if what and len(node.args) > index:
            name = node.args[index]
            if not isinstance(name, nodes.Const):
                raise Problem(f"the name of the {what} for {node.name!r} must be a literal", offset=node.lineno)
            _at(node.lineno, operations.inner_operation, what, name.value)


_INNER_NAMES = {
    "map": ("filter", 0),
    "select": ("test", 0),
    "reject": ("test", 0),
    "selectattr": ("test", 1),
    "rejectattr": ("test", 1),
}
"""Filters that apply a filter or test to each item: which of the two, and in which argument its name stands."""


def _constant(value: Json) -> Evaluate:
    return lambda names: value


def _located(evaluate: Evaluate, offset: int) -> Evaluate:
    """The same, and a problem of its own says where."""

    def located(names: Names) -> Json:
        try:
            return evaluate(names)
        except Problem as problem:
            if problem.offset is None:
                problem.offset = offset
            raise

    return located


def _at(offset: int, function: Callable[..., object], *arguments: object) -> operations.Operation:
    try:
        return function(*arguments)  # type: ignore[return-value] # only the call for an Operation uses the answer
    except Problem as problem:
        problem.offset = offset
        raise


def _or_null(subject: Evaluate, names: Names) -> Json:
    try:
        return subject(names)
    except Missing:
        return None


def _is_defined(subject: Evaluate, names: Names) -> bool:
    try:
        subject(names)
    except Missing:
        return False
    return True


def _refuse_dashed_id(node: nodes.BinExpr) -> None:
    """``steps.my-step.output`` reads as a subtraction; a step minus something never has an answer, so say what was meant."""
    left = _static(node.left)
    if isinstance(node, nodes.Sub) and left is not None and left[0] == "steps" and len(left[1]) == 1:
        right = _static(node.right)
        if right is not None:
            meant = f"{left[1][0]}-{right[0]}"
            raise Problem("a name with '-' reads as a subtraction", f"write steps['{meant}']", node.lineno)


_NODES: dict[type[nodes.Node], Callable[..., Evaluate]] = {
    nodes.Name: _Compiler.look_up,
    nodes.Getattr: _Compiler.look_up,
    nodes.Getitem: _Compiler.look_up,
    nodes.Const: _Compiler.constant,
    nodes.List: _Compiler.sequence,
    nodes.Tuple: _Compiler.sequence,
    nodes.Dict: _Compiler.mapping,
    nodes.Compare: _Compiler.compare,
    nodes.And: _Compiler.both,
    nodes.Or: _Compiler.either,
    nodes.Not: _Compiler.negation,
    nodes.Add: _Compiler.arithmetic,
    nodes.Sub: _Compiler.arithmetic,
    nodes.Mul: _Compiler.arithmetic,
    nodes.Div: _Compiler.arithmetic,
    nodes.FloorDiv: _Compiler.arithmetic,
    nodes.Mod: _Compiler.arithmetic,
    nodes.Neg: _Compiler.sign,
    nodes.Pos: _Compiler.sign,
    nodes.Concat: _Compiler.concatenation,
    nodes.CondExpr: _Compiler.choice,
    nodes.Filter: _Compiler.filter,
    nodes.Test: _Compiler.test,
}
"""The allow-list: a node that is not here is refused."""

_REFUSED: dict[type[nodes.Node], tuple[str, str]] = {
    nodes.Call: ("expressions have no calls", "use a filter, like steps.a.output | length"),
    nodes.Pow: ("'**' is not part of expressions", "multiply, or compute it in a step of its own"),
    nodes.Slice: ("a slice stands only behind a value", "write value[start:stop]"),
}
