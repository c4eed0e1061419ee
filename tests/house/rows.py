"""Print each requirement with the tests that carry it; exit 1 when one has none, or a docstring names an unknown one."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
ID = re.compile(r"\bS\d-\d+\b")
Function = ast.FunctionDef | ast.AsyncFunctionDef
RANGE = re.compile(r"\bS\d-\d+\s*\.\.")


@attrs.frozen
class Carrier:
    """A test whose docstring names requirements.

    Attributes:
        test: ``file::name``, as pytest spells it.
        docstring: Its promise.
        source: The test's text, docstring left out.
    """

    test: str
    docstring: str
    source: str

    @property
    def ids(self) -> frozenset[str]:
        """The requirements that it names."""
        return frozenset(ID.findall(self.docstring))


@attrs.frozen
class Row:
    """One requirement: what must hold, and pieces of source that a carrying test must contain."""

    id: str
    value: str
    literals: tuple[str, ...] = ()


def read_rows() -> list[Row]:
    """The requirements of this project, in the order of their file."""
    table = tomllib.loads(Path(__file__).with_name("rows.toml").read_text("utf-8"))
    return [Row(id_, row["value"], tuple(row.get("literals", ()))) for id_, row in table.items()]


def collected_files() -> list[Path]:
    """Every file that pytest collects from."""
    folders = [ROOT / "core" / "tests", *ROOT.glob("plugins/*/tests"), *ROOT.glob("contrib/*/tests"), ROOT / "tests"]
    return sorted(file for folder in folders for file in folder.rglob("test_*.py"))


def all_tests() -> list[Carrier]:
    """Every test of the project."""
    return [test for file in collected_files() for test in carriers(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))]


def carriers(name: str, text: str) -> Iterator[Carrier]:
    """Every test of a file's text, also inside classes."""
    lines = text.splitlines()
    for owner, node in _tests(ast.parse(text, name)):
        docstring = ast.get_docstring(node) or ""
        parts: list[ast.expr | ast.stmt] = [*node.decorator_list, *(node.body[1:] if docstring else node.body)]
        source = "\n".join(line for part in parts for line in lines[part.lineno - 1 : part.end_lineno])
        yield Carrier("::".join([name, *owner, node.name]), docstring, source)


def _tests(
    tree: ast.AST, owner: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function) and node.name.startswith("test_"):
            yield owner, node
        elif isinstance(node, ast.ClassDef):
            yield from _tests(node, (*owner, node.name))


def faults(rows: Iterable[Row], tests: Iterable[Carrier]) -> list[str]:
    """What is wrong between the list and the tests, one sentence each."""
    rows, tests = list(rows), list(tests)
    known = {row.id for row in rows}
    found = [f"{test.test}: a range of requirements; write each ID out" for test in tests if RANGE.search(test.docstring)]
    found += [f"{test.test}: unknown requirement {id_}" for test in tests for id_ in sorted(test.ids - known)]
    for row in rows:
        carrying = [test for test in tests if row.id in test.ids]
        if not carrying:
            found.append(f"{row.id}: no test carries it ({row.value})")
            continue
        missing = [literal for literal in row.literals if not any(literal in test.source for test in carrying)]
        found += [f"{row.id}: no test that carries it contains {literal!r}" for literal in missing]
    return found


def main() -> int:
    """Print the table, then what is wrong."""
    tests, rows = all_tests(), read_rows()
    for row in rows:
        print(f"{row.id}  {row.value}")
        for test in tests:
            if row.id in test.ids:
                print(f"    {test.test}")
    wrong = faults(rows, tests)
    print(f"\n{len(rows)} requirements, {len(tests)} tests, {len(wrong)} faults")
    for fault in wrong:
        print(fault, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
