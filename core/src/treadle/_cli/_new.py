"""``treadle plugins new``: a complete distribution with one executor, whose tests pass at once."""

from __future__ import annotations

import builtins
import keyword
import re
import shlex
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

import attrs
import click

from treadle._cli._loading import discover
from treadle._cli._output import clean, say, write
from treadle._doctor import bounds
from treadle._plugins import Claim, Registry
from treadle._version import __version__

_PART = r"[a-z](?:[a-z0-9_-]*[a-z0-9])?"
_NAME = re.compile(rf"{_PART}(?:\.{_PART})*")
_FAMILIES = "treadle.families"
_SAMPLE = {"text": "Hello World", "words": 2}
"""What the executor of the templates gives."""

FILES = {
    "pyproject.toml": "pyproject.toml.jinja",
    "README.md": "README.md.jinja",
    "CHANGELOG.md": "CHANGELOG.md.jinja",
    ".gitignore": "gitignore.jinja",
    ".github/workflows/ci.yml": "ci.yml.jinja",
    "src/{module}/__init__.py": "module.py.jinja",
    "src/{module}/py.typed": "",
    "tests/test_contract.py": "test_contract.py.jinja",
}
"""File of the distribution -> its template; an empty file has none."""


@attrs.frozen(kw_only=True)
class Draft:
    """What a new distribution is to be called and to hold; its attributes are the names that the templates know.

    Attributes:
        executor: What workflows write after ``uses``.
        distribution: What people install.
        module: What Python imports.
        symbol: The function or class that the entry point leads to.
        title: The executor's name in the form of a class's.
        is_class: Whether it is a class.
        client: Name of its client; empty when it has none.
        family: Its family; empty for ``general``.
        family_class: The family's class, when something derives from it.
        family_module: Where the class of an installed family is imported from.
        family_requirement: The distribution of an installed family, with floor and cap.
        family_is_new: Whether the family is written too.
    """

    executor: str
    distribution: str
    module: str
    symbol: str
    title: str
    is_class: bool = False
    client: str = ""
    family: str = ""
    family_class: str = ""
    family_module: str = ""
    family_requirement: str = ""
    family_is_new: bool = False
    bounds: str = attrs.field(factory=lambda: bounds(__version__))

    @property
    def output_class(self) -> str:
        """What it returns."""
        return f"{self.title}Output"

    @property
    def client_class(self) -> str:
        """The client's settings."""
        return f"{_title(self.client)}Client" if self.client else ""

    @property
    def session_class(self) -> str:
        """What the client opens."""
        return f"{_title(self.client)}Session" if self.client else ""

    @property
    def imports(self) -> list[str]:
        """The module's imports, in the order of the style guides."""
        standard: dict[str, set[str]] = {"dataclasses": {"dataclass"}}
        ours = {"PermanentError", "executor"}
        if self.client:
            standard |= {"collections.abc": {"AsyncIterator"}, "contextlib": {"asynccontextmanager"}}
            ours |= {"Context", "Secret", "client"}
        if (self.is_class and not self.family_module) or self.family_is_new:
            standard.setdefault("collections.abc", set()).add("Iterable")
            ours |= {"Issue"}
        if self.family_is_new:
            standard["typing"] = {"ClassVar"}
        if self.family_is_new or (self.is_class and not self.family):
            ours |= {"Executor"}
        foreign = {"treadle": ours} | ({self.family_module: {self.family_class}} if self.family_module else {})
        return [*_import_lines(standard), "", *_import_lines(foreign)]


def draft(name: str, *, is_class: bool = False, with_client: bool = False) -> Draft:
    """Names for everything, from one: ``acme`` or ``acme.slug``.

    Raises:
        click.UsageError: It cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise click.UsageError(
            f"{name!r} cannot be the name of a plugin. Use small letters, digits, '-' and '_', beginning with a letter, "
            "like 'acme' or 'acme.slug'."
        )
    first, _, rest = name.partition(".")
    if first == "treadle" or first.startswith(("treadle-", "treadle_")):
        bare = re.sub(r"^treadle[-_]?", "", name).lstrip(".") or "acme"
        raise click.UsageError(f"The distribution is called 'treadle-...' anyway; leave that out of the name: {bare}")
    executor = name if rest else f"{first}.tidy"
    last, client = executor.rpartition(".")[2], _identifier(first) if with_client else ""
    title = _title(last)
    taken = {f"{title}Output", f"{_title(first)}Client", f"{_title(first)}Session", *_KNOWN}
    return Draft(
        executor=executor,
        distribution=f"treadle-{first.replace('_', '-')}",
        module=f"treadle_{first.replace('-', '_')}",
        symbol=_free(title if is_class else _identifier(last), taken),
        title=title,
        is_class=is_class,
        client=_free(client, {*_KNOWN, "text", "self", "ctx"}) if client else "",
    )


_KNOWN = {*dir(builtins), *keyword.kwlist, "client", "dataclass", "executor", "asynccontextmanager"} | {
    *("AsyncIterator", "ClassVar", "Context", "Executor", "ExecutorContract", "FakeClient", "Issue", "Iterable"),
    *("PermanentError", "Secret", "asyncio"),
}
"""Names that mean something else in the files of the templates."""


def _free(name: str, taken: Iterable[str]) -> str:
    return f"{name}_" if name in taken else name


def _identifier(part: str) -> str:
    return part.replace("-", "_")


def _title(part: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-_]+", part))


def _import_lines(names: Mapping[str, set[str]]) -> list[str]:
    return [f"from {module} import {', '.join(sorted(names[module], key=_import_order))}" for module in sorted(names)]


def _import_order(name: str) -> tuple[bool, str]:
    return name[0].islower(), name


# -- families ----------------------------------------------------------------------------------------------------------


def in_family(drafted: Draft, family: str, registry: Registry) -> Draft:
    """The same in a family: one that is installed, or a new one that is written too.

    Raises:
        click.UsageError: The family cannot be one, or nothing can be derived from it.
    """
    if family == "general":
        return drafted
    if not _NAME.fullmatch(family):
        raise click.UsageError(f"{family!r} cannot be the name of a family. Use small letters, digits, '-', '_' and dots.")
    claim = registry.claim(_FAMILIES, family)
    if claim is None:
        name = _free(f"{_title(family.replace('.', '-'))}Executor", {drafted.symbol, drafted.output_class, *_KNOWN})
        return attrs.evolve(drafted, family=family, family_class=name, family_is_new=True)
    found = attrs.evolve(drafted, family=family, family_requirement=_requirement(claim))
    if not drafted.is_class:
        return found
    if "." in claim.attribute or not claim.attribute:
        raise click.UsageError(f"The family {family!r} is {claim.value}, which cannot be imported by name. Leave out --class.")
    return attrs.evolve(found, family_class=claim.attribute, family_module=claim.module)


def _requirement(claim: Claim) -> str:
    if claim.metadata is None:
        raise click.UsageError(
            f"The family {claim.name!r} is only in the folder of your configuration, so nobody could install a plugin that "
            "needs it. Choose another name to write it anew."
        )
    return f"{claim.distribution}{bounds(claim.version)}"


def demands(family: str, registry: Registry) -> list[str]:
    """What an installed family has to say against what the executor of the templates gives."""
    found = registry.family(family)
    if found is None:
        return []
    try:
        issues = found().validate_output(dict(_SAMPLE))
        return [issues] if isinstance(issues, str) else [str(issue) for issue in issues or ()]
    except Exception as error:  # foreign code
        return [f"its validate_output raises {type(error).__name__}: {error}"]


# -- files -------------------------------------------------------------------------------------------------------------


def render(drafted: Draft) -> dict[str, str]:
    """Every file of the distribution with its text."""
    import jinja2  # not needed to start a command

    environment = jinja2.Environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    names = {name: getattr(drafted, name) for name in _names(drafted)}
    folder = resources.files("treadle._cli") / "templates"
    return {
        file.format(module=drafted.module): environment.from_string((folder / template).read_text("utf-8")).render(names)
        if template
        else ""
        for file, template in FILES.items()
    }


def _names(drafted: Draft) -> list[str]:
    return [name for name in dir(type(drafted)) if not name.startswith("_")]


def lay(files: Mapping[str, str], folder: Path) -> None:
    """Write the files into a folder that is made for them.

    Raises:
        click.UsageError: There is something already.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        raise click.UsageError(f"{folder} exists already. Choose another name, or another place with --dir.") from None
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")


# -- the command -------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("name")
@click.option("--class", "is_class", is_flag=True, help="Write the executor as a class, not as a function.")
@click.option("--client", "with_client", is_flag=True, help="With a client: a connection that is opened once.")
@click.option("--family", default="", metavar="F", help="In this family; a new one when no installed plugin has it.")
@click.option("--dir", "parent", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Where to put it.")
def new(name: str, is_class: bool, with_client: bool, family: str, parent: Path) -> None:
    """Write a new plugin NAME, like `acme` or `acme.slug`: a distribution that can be tested and published at once.

    The folder treadle-acme gets an executor with its types, its contract test, README, changelog and a workflow that
    tests and publishes it.
    """
    _, registry = discover()
    drafted = draft(name, is_class=is_class, with_client=with_client)
    if family:
        drafted = in_family(drafted, family, registry)
    folder = parent / drafted.distribution
    files = render(drafted)
    lay(files, folder)
    write("\n".join([f"Wrote {folder}:", *(f"  {file}" for file in files)]))
    for note in _notes(drafted, registry):
        say(clean(note))
    write(f"\nNext:\n  cd {shlex.quote(str(folder))}\n  python -m pip install --group dev --editable .\n  pytest")
    write(f"  treadle plugins info {drafted.executor}")


def _notes(drafted: Draft, registry: Registry) -> Iterable[str]:
    """What its author should know before its first test."""
    claim = registry.claim("treadle.executors", drafted.executor)
    if claim is not None:
        yield f"Note: {claim.distribution} provides {drafted.executor} already; whoever installs both has to choose one."
    if drafted.family and not drafted.family_is_new:
        for demand in demands(drafted.family, registry):
            yield f"Note: the family {drafted.family!r} asks for more than the example gives: {demand}"
