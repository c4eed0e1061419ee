"""``treadle plugins new``: names, variants, refusals; that the result works is shown where it can be installed."""

from __future__ import annotations

import ast
import itertools
import subprocess
import tomllib
from pathlib import Path
from typing import Protocol

import click
import pytest
import yaml
from treadle import Registry
from treadle._cli import _new

FILES = [
    ".github/workflows/ci.yml",
    ".gitignore",
    "CHANGELOG.md",
    "README.md",
    "pyproject.toml",
    "src/treadle_acme/__init__.py",
    "src/treadle_acme/py.typed",
    "tests/test_contract.py",
]

FAMILY = '''
from treadle import Executor, Issue


class Sourced(Executor):
    """What it gives says where it comes from."""

    family = "sourced"

    def validate_output(self, output):
        return [] if "sources" in output else [Issue("is missing", "$.sources")]


class Outer:
    class Inner(Executor):
        family = "inner"

        def validate_output(self, output):
            return "never satisfied"


class Strict(Executor):
    family = "strict"

    def validate_output(self, output):
        raise KeyError("sources")
'''
METADATA = "Metadata-Version: 2.1\nName: acme-families\nVersion: 2.3.1\nRequires-Dist: treadle>=0.1,<1\n"
ENTRY_POINTS = """\
[treadle.families]
sourced = acme_families:Sourced
inner = acme_families:Outer.Inner
strict = acme_families:Strict
[treadle.executors]
acme.slug = acme_families:slug
"""


class Treadle(Protocol):
    """The fixture: the command in a folder."""

    folder: Path

    def __call__(self, *words: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]: ...

    def write(self, name: str, text: str) -> str: ...


@pytest.fixture
def installed(treadle: Treadle) -> dict[str, str]:
    """A variable that makes a distribution with families importable."""
    site = treadle.folder / "site"
    (site / "acme_families-2.3.1.dist-info").mkdir(parents=True)
    (site / "acme_families.py").write_text(FAMILY, "utf-8")
    (site / "acme_families-2.3.1.dist-info" / "METADATA").write_text(METADATA, "utf-8")
    (site / "acme_families-2.3.1.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS, "utf-8")
    return {"PYTHONPATH": str(site)}


# -- what is written ---------------------------------------------------------------------------------------------------


def test_a_whole_distribution_is_written_and_told(treadle: Treadle) -> None:
    """Every file is listed, and the commands that come next; nothing is on stderr."""
    done = treadle("plugins", "new", "acme.slug")

    folder = treadle.folder / "treadle-acme"
    written = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert (done.returncode, done.stderr) == (0, "")
    assert written == FILES
    assert sorted(line.strip() for line in done.stdout.splitlines()[1:9]) == FILES
    assert done.stdout.splitlines()[9:] == [
        "",
        "Next:",
        "  cd treadle-acme",
        "  python -m pip install --group dev --editable .",
        "  pytest",
        "  treadle plugins info acme.slug",
    ]


def test_the_project_names_itself_its_bounds_and_its_entry_points(treadle: Treadle) -> None:
    """A floor and a cap on treadle, the executor and the client by their names, a type marker."""
    treadle("plugins", "new", "my-corp.to-slug", "--client", "--dir", "some/where")

    folder = treadle.folder / "some" / "where" / "treadle-my-corp"
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert (project["name"], project["dependencies"]) == ("treadle-my-corp", ["treadle>=0.1,<1"])
    assert project["entry-points"] == {
        "treadle.executors": {"my-corp.to-slug": "treadle_my_corp:to_slug"},
        "treadle.clients": {"my_corp": "treadle_my_corp:MyCorpClient"},
    }
    assert (folder / "src" / "treadle_my_corp" / "py.typed").read_text("utf-8") == ""


def test_the_workflow_tests_and_publishes_without_a_password(treadle: Treadle) -> None:
    """Trusted publishing: only the job that publishes may ask for an identity, only for tags, and no index is named."""
    treadle("plugins", "new", "acme.slug")

    text = (treadle.folder / "treadle-acme" / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert jobs["test"]["permissions"] == {"contents": "read"}
    assert jobs["publish"]["permissions"] == {"contents": "read", "id-token": "write"}
    assert (jobs["publish"]["needs"], jobs["publish"]["if"]) == ("test", "startsWith(github.ref, 'refs/tags/v')")
    assert "uv run pytest" in commands["test"]
    assert commands["publish"][-1] == "uv publish --trusted-publishing always"
    assert "secrets." not in text
    assert "://" not in text


VARIANTS = list(itertools.product([False, True], [False, True], ["", "report"]))


@pytest.mark.parametrize(("is_class", "with_client", "family"), VARIANTS)
def test_every_variant_is_python_that_its_entry_points_lead_into(is_class: bool, with_client: bool, family: str) -> None:
    """Function or class, with a client or without, in a new family or in none: what is named is there, nothing is left open."""
    drafted = _new.draft("acme.slug", is_class=is_class, with_client=with_client)
    drafted = _new.in_family(drafted, family, Registry.of()) if family else drafted
    files = _new.render(drafted)

    names: dict[str, object] = {}
    exec(compile(files["src/treadle_acme/__init__.py"], "acme", "exec"), names)
    points = tomllib.loads(files["pyproject.toml"])["project"]["entry-points"]
    ast.parse(files["tests/test_contract.py"])
    assert {value.partition(":")[2] for group in points.values() for value in group.values()} <= names.keys()
    assert isinstance(names[drafted.symbol], type) is is_class
    assert set(points) == {
        "treadle.executors",
        *(["treadle.clients"] if with_client else []),
        *(["treadle.families"] if family else []),
    }
    assert not [text for text in files.values() if "<%" in text or ("<<" in text)]
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in files.values() if text)


# -- names -------------------------------------------------------------------------------------------------------------

NAMES = [
    ("acme", "acme.tidy", "treadle-acme", "treadle_acme", "tidy"),
    ("acme.slug", "acme.slug", "treadle-acme", "treadle_acme", "slug"),
    ("my_corp.text.to-slug", "my_corp.text.to-slug", "treadle-my-corp", "treadle_my_corp", "to_slug"),
    ("acme.import", "acme.import", "treadle-acme", "treadle_acme", "import_"),
    ("acme.executor", "acme.executor", "treadle-acme", "treadle_acme", "executor_"),
    ("acme.len", "acme.len", "treadle-acme", "treadle_acme", "len_"),
    ("a1.b2", "a1.b2", "treadle-a1", "treadle_a1", "b2"),
]


@pytest.mark.parametrize(("name", "executor", "distribution", "module", "symbol"), NAMES)
def test_everything_is_named_from_one_name(name: str, executor: str, distribution: str, module: str, symbol: str) -> None:
    """What Python would misunderstand gets an underscore; workflows write the name as it was given."""
    drafted = _new.draft(name)

    assert (drafted.executor, drafted.distribution, drafted.module, drafted.symbol) == (executor, distribution, module, symbol)
    assert symbol.isidentifier()
    assert module.isidentifier()


@pytest.mark.parametrize(
    "name", ["acme.acme", "acme.acme-client", "acme.acme-session", "text.text", "client.executor", "class.class"]
)
@pytest.mark.parametrize("is_class", [False, True])
def test_names_that_meet_are_kept_apart(name: str, is_class: bool) -> None:
    """Executor, client and family may all be called the same: each still has a name of its own in the module."""
    drafted = _new.in_family(_new.draft(name, is_class=is_class, with_client=True), name.partition(".")[0], Registry.of())

    tree = ast.parse(_new.render(drafted)[f"src/{drafted.module}/__init__.py"])
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert len(set(defined + imported)) == len(defined + imported)
    assert len(defined) == 5


@pytest.mark.parametrize(
    "name", ["", "Acme", "1acme", "acme.", ".slug", "acme..slug", "acme slug", "../acme", "acme-", "äcme", "a/b", "acme.slug\n"]
)
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    """With what may stand in a name."""
    with pytest.raises(click.UsageError, match="cannot be the name of a plugin"):
        _new.draft(name)


@pytest.mark.parametrize(
    ("name", "better"),
    [("treadle-acme", "acme"), ("treadle_acme.slug", "acme.slug"), ("treadle.slug", "slug"), ("treadle", "acme")],
)
def test_the_name_of_the_distribution_is_not_asked_for(name: str, better: str) -> None:
    """Whoever types it is told what to type."""
    with pytest.raises(click.UsageError, match=rf"leave that out of the name: {better}$"):
        _new.draft(name)


# -- refusals and notes ------------------------------------------------------------------------------------------------


def test_what_is_there_already_is_left_alone(treadle: Treadle) -> None:
    """A folder, even an empty one, or a file of that name: exit code 2, and nothing is written."""
    (treadle.folder / "treadle-acme").mkdir()
    (treadle.folder / "treadle-beta").write_text("mine", "utf-8")

    for name in ("acme", "beta"):
        done = treadle("plugins", "new", name)
        assert done.returncode == 2
        assert f"treadle-{name} exists already. Choose another name, or another place with --dir." in done.stderr
    assert list((treadle.folder / "treadle-acme").iterdir()) == []
    assert (treadle.folder / "treadle-beta").read_text("utf-8") == "mine"


def test_a_bad_name_is_wrong_usage(treadle: Treadle) -> None:
    """Exit code 2, before anything is written."""
    done = treadle("plugins", "new", "../acme")

    assert done.returncode == 2
    assert "cannot be the name of a plugin" in done.stderr
    assert sorted(file.name for file in treadle.folder.iterdir()) == ["executors", "treadle.toml"]


def test_an_executor_that_somebody_provides_already_is_noted(treadle: Treadle, installed: dict[str, str]) -> None:
    """It is written all the same: its author may be about to replace the other."""
    done = treadle("plugins", "new", "acme.slug", **installed)

    assert done.returncode == 0
    assert done.stderr == ("Note: acme-families provides acme.slug already; whoever installs both has to choose one.\n")


def test_an_installed_family_is_derived_from_and_its_demands_are_told(treadle: Treadle, installed: dict[str, str]) -> None:
    """What the example of the templates lacks to satisfy it is said before the first test fails on it."""
    done = treadle("plugins", "new", "beta.note", "--class", "--family", "sourced", **installed)

    code = (treadle.folder / "treadle-beta" / "src" / "treadle_beta" / "__init__.py").read_text("utf-8")
    project = tomllib.loads((treadle.folder / "treadle-beta" / "pyproject.toml").read_text("utf-8"))["project"]
    assert done.returncode == 0, done.stderr
    assert "from acme_families import Sourced\nfrom treadle import PermanentError, executor\n" in code
    assert "class Note(Sourced):" in code
    assert project["dependencies"] == ["treadle>=0.1,<1", "acme-families>=2.3,<3"]
    assert done.stderr == ("Note: the family 'sourced' asks for more than the example gives: $.sources: is missing\n")


def test_a_function_names_its_installed_family(treadle: Treadle, installed: dict[str, str]) -> None:
    """Nothing is imported for it; demands in any form are told."""
    inner = treadle("plugins", "new", "beta.note", "--family", "inner", **installed)
    strict = treadle("plugins", "new", "gamma.note", "--family", "strict", **installed)

    code = (treadle.folder / "treadle-beta" / "src" / "treadle_beta" / "__init__.py").read_text("utf-8")
    assert '@executor("beta.note", family="inner", effects="none")' in code
    assert "acme_families" not in code
    assert inner.stderr.endswith("asks for more than the example gives: never satisfied\n")
    assert strict.stderr.endswith("its validate_output raises KeyError: 'sources'\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--family", "Not One"), "cannot be the name of a family"),
        (("--class", "--family", "inner"), "acme_families:Outer.Inner, which cannot be imported by name"),
    ],
)
def test_a_family_that_cannot_be_used_is_refused(
    treadle: Treadle, installed: dict[str, str], words: tuple[str, ...], why: str
) -> None:
    """Exit code 2, and nothing is written."""
    done = treadle("plugins", "new", "beta.note", *words, **installed)

    assert done.returncode == 2
    assert why in done.stderr
    assert not (treadle.folder / "treadle-beta").exists()


def test_general_is_the_family_that_everything_has(treadle: Treadle) -> None:
    """Naming it changes nothing."""
    assert treadle("plugins", "new", "acme", "--family", "general").returncode == 0
    assert treadle("plugins", "new", "acme", "--dir", "other").returncode == 0

    module = Path("treadle-acme", "src", "treadle_acme", "__init__.py")
    assert (treadle.folder / module).read_text("utf-8") == (treadle.folder / "other" / module).read_text("utf-8")
