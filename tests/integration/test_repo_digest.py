"""The example docs/examples/repo-digest: its tools on odd repositories, and the whole of it by the command line."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "repo-digest"
LOG = ["log", "-z", "-M", "--numstat", "--no-merges", "--format=%x01%aN%x1f%at"]


def load(name: str) -> ModuleType:
    """A tool's module; the folder is a package, as the plugin makes it one."""
    package = ModuleType("repo_digest_tools")
    package.__path__ = [str(EXAMPLE / "tools")]
    sys.modules.setdefault("repo_digest_tools", package)
    return importlib.import_module(f"repo_digest_tools.{name}")


history = load("history").history
authors = load("authors").authors
churn = load("churn").churn
hot_files = load("hot_files").hot_files
ownership = load("ownership").ownership
report = load("report").report


class Repository:
    """A git repository to make, with commits on days of January 2024."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, **variables: str) -> str:
        """Run git with nothing of the user's configuration; returns what it wrote."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_EMAIL": "somebody@example.org",
            "GIT_COMMITTER_NAME": "Committer",
            "GIT_COMMITTER_EMAIL": "somebody@example.org",
        }
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment | variables, check=True, capture_output=True)
        return done.stdout.decode("utf-8", "backslashreplace")

    def commit(self, author: str, *, day: int = 1, **files: str | bytes) -> None:
        """Write files (``__`` stands for a slash, ``_dot_`` for a dot) and commit everything."""
        for name, content in files.items():
            self.write(name.replace("__", "/").replace("_dot_", "."), content)
        self.git("add", "--all")
        date = f"2024-01-{day:02d}T12:00:00+0000"
        variables = {"GIT_AUTHOR_NAME": author, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        self.git("commit", "--quiet", "--allow-empty", "--message=change", **variables)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    def history(self) -> dict[str, list[dict[str, object]]]:
        """What the tool reads of the log."""
        read: dict[str, list[dict[str, object]]] = history(self.git(*LOG))
        return read

    def hot(self, top: int = 10) -> dict[str, list[object]]:
        """The most changed files, as the tool sees them."""
        tree = self.git("ls-tree", "-r", "-z", "--full-tree", "HEAD")
        found: dict[str, list[object]] = hot_files(self.history()["changes"], tree, top)
        return found


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty repository."""
    return Repository(tmp_path / "repository")


def test_history_sums_what_each_commit_did(repository: Repository) -> None:
    """One entry per commit, newest first, with its lines and its day in UTC."""
    repository.commit("Ada", day=1, a="one\ntwo\n")
    repository.commit("Grace", day=2, a="one\n", b="new\n")

    assert repository.history()["commits"] == [
        {"author": "Grace", "day": "2024-01-02", "added": 1, "deleted": 1},
        {"author": "Ada", "day": "2024-01-01", "added": 2, "deleted": 0},
    ]


def test_history_of_nothing_is_empty() -> None:
    """A period without commits has no entries."""
    assert history("") == {"commits": [], "changes": []}


def test_a_commit_without_files_counts(repository: Repository) -> None:
    """An empty commit is a commit of zero lines."""
    repository.commit("Ada")
    repository.commit("Ada", day=2)

    assert [commit["added"] for commit in repository.history()["commits"]] == [0, 0]
    assert repository.hot() == {"files": [], "text": []}


def test_changes_before_a_rename_belong_to_the_present_name(repository: Repository) -> None:
    """Also over two renames, one of them into another folder."""
    repository.commit("Ada", day=1, old="".join(f"line {n}\n" for n in range(20)))
    repository.git("mv", "old", "middle")
    repository.commit("Ada", day=2)
    (repository.folder / "deep").mkdir()
    repository.git("mv", "middle", "deep/new => name")
    repository.commit("Ada", day=3)

    assert [change["path"] for change in repository.history()["changes"]] == ["deep/new => name"] * 3
    assert repository.hot()["text"] == ["deep/new => name"]


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "ünï/cödé ☃",
        'qu"ote',
        "tab\there",
        "new\nline",
        "back\\slash",
        "{a => b}",
        "-dash",
        "\x01odd\x1f",
        "pi|pe`s`",
    ],
)
def test_any_file_name_is_read_as_it_is(repository: Repository, name: str) -> None:
    """No character of a name is taken for something else, and the report stays a table."""
    repository.write(name, "text\n")
    repository.commit("Ada")
    hot = repository.hot()

    assert hot["text"] == [name]
    assert repository.git("blame", "--porcelain", "HEAD", "--", name)
    text = report("/x", authors(repository.history()["commits"]), churn(repository.history()["commits"]), hot["files"], [])
    assert len([line for line in text.splitlines() if "not traced" in line]) == 1


def test_binary_and_deleted_files(repository: Repository) -> None:
    """A binary file is hot but its lines are not traced; a deleted file is not hot, though its changes counted."""
    repository.commit("Ada", image=b"\x00\x01\x02", gone="text\n")
    repository.commit("Ada", day=2, image=b"\x00\x03")
    (repository.folder / "gone").unlink()
    repository.commit("Ada", day=3)

    assert repository.hot() == {
        "files": [{"path": "image", "commits": 2, "authors": 1, "added": 0, "deleted": 0}],
        "text": [],
    }
    assert repository.history()["commits"][0]["deleted"] == 1


def test_a_submodule_is_not_a_file(repository: Repository, tmp_path: Path) -> None:
    """What git cannot trace the lines of is left out."""
    other = Repository(tmp_path / "other")
    other.commit("Ada", a="text\n")
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other.folder), "sub")
    repository.commit("Ada")

    assert [file["path"] for file in repository.hot()["files"]] == [".gitmodules"]  # type: ignore[index]  # plain data


def test_hot_files_are_ranked_and_limited(repository: Repository) -> None:
    """Most commits first, then most lines, then by name; not more than asked for."""
    repository.commit("Ada", day=1, a="1\n", b="1\n2\n", c="1\n")
    repository.commit("Grace", day=2, c="2\n")
    ranked = repository.hot()["text"]

    assert ranked == ["c", "b", "a"]
    assert repository.hot(top=1)["files"] == [{"path": "c", "commits": 2, "authors": 2, "added": 2, "deleted": 1}]
    assert repository.hot(top=0) == {"files": [], "text": []}


def test_authors_are_summed_by_name() -> None:
    """Most commits first; equal ones by name; first and last day whatever the order of commits."""
    commits = [
        {"author": "Grace", "day": "2024-02-01", "added": 1, "deleted": 0},
        {"author": "Ada", "day": "2024-01-05", "added": 5, "deleted": 2},
        {"author": "Grace", "day": "2024-03-01", "added": 1, "deleted": 1},
    ]

    assert authors(commits) == [
        {"author": "Grace", "commits": 2, "added": 2, "deleted": 1, "first": "2024-02-01", "last": "2024-03-01"},
        {"author": "Ada", "commits": 1, "added": 5, "deleted": 2, "first": "2024-01-05", "last": "2024-01-05"},
    ]


def test_churn_is_summed_by_month() -> None:
    """Oldest month first."""
    commits = [{"author": "A", "day": day, "added": 1, "deleted": 2} for day in ("2024-02-29", "2023-12-31", "2024-02-01")]

    assert churn(commits) == [
        {"month": "2023-12", "commits": 1, "added": 1, "deleted": 2},
        {"month": "2024-02", "commits": 2, "added": 2, "deleted": 4},
    ]


def test_ownership_counts_the_lines_that_are_there_now(repository: Repository) -> None:
    """Each line belongs to who touched it last, also lines that look like git's own."""
    repository.commit("Ada", day=1, a="author Nobody\n\tindented\nthird\n")
    repository.commit("Grace", day=2, a="author Nobody\n\tindented\nchanged\n")
    blame = repository.git("blame", "--porcelain", "-w", "HEAD", "--", "a")

    assert ownership(["a", "lost"], [{"stdout": blame}, None]) == [
        {"path": "a", "lines": 3, "shares": [{"author": "Ada", "lines": 2}, {"author": "Grace", "lines": 1}]}
    ]


def test_an_empty_file_has_no_owner() -> None:
    """Nothing is divided by zero lines."""
    owned = ownership(["empty"], [{"stdout": ""}])
    hot = [{"path": "empty", "commits": 1, "authors": 1, "added": 0, "deleted": 0}]
    person = {"author": "Ada", "commits": 1, "added": 0, "deleted": 0, "first": "2024-01-01", "last": "2024-01-01"}
    month = {"month": "2024-01", "commits": 1, "added": 0, "deleted": 0}

    assert "| `empty` | 1 | 1 | 0 | 0 | no lines |" in report("/x/name", [person], [month], hot, owned)


def test_report_says_when_there_is_nothing_to_say() -> None:
    """A period without commits is no error."""
    assert report("/x/na_me\n", [], [], [], []) == "# Digest of na\\_me\n\nNo commits in this period.\n"


def test_names_cannot_break_the_report() -> None:
    """A person's name is text, whatever Markdown it holds."""
    person = {"author": "A | *b*\n# c", "commits": 1, "added": 0, "deleted": 0, "first": "2024-01-01", "last": "2024-01-01"}
    month = {"month": "2024-01", "commits": 1, "added": 0, "deleted": 0}
    text = report("/x", [person], [month], [], [])

    assert "| A \\| \\*b\\* \\# c | 1 |" in text
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# Digest of x"]


Digest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def digest(tmp_path: Path) -> Digest:
    """Run the example, copied away from the checkout, on a repository, by the command line."""
    example = shutil.copytree(EXAMPLE, tmp_path / "example")

    def run(repo: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(Path(sys.executable).with_name("treadle")),
            "run",
            "workflow.yaml",
            "--json",
            "-i",
            f"repo={repo}",
            *options,
        ]
        return subprocess.run(command, cwd=example, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_the_whole_digest_of_a_repository(digest: Digest, repository: Repository) -> None:
    """A workflow file runs from the log to the report, and its output says where that is (S3-10, S3-78)."""
    repository.commit("Zoë", day=1, src__main_dot_py="one\ntwo\n", image=b"\x00")
    repository.commit("Ada", day=2, src__main_dot_py="one\n2\n")

    done = digest(repository.folder, "-i", "top=1")

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "completed"
    text = Path(result["outputs"]["report"]).read_text("utf-8")
    assert text.startswith("# Digest of repository\n\n2 commits by 2 people, 2024-01-01 to 2024-01-02.\n")
    assert "| `src/main.py` | 2 | 2 | 3 | 1 | Ada 50%, Zoë 50% |" in text
    assert "image" not in text


def test_a_repository_with_one_commit_in_a_folder_with_spaces(digest: Digest, tmp_path: Path) -> None:
    """The smallest history is enough, also seen from a folder within."""
    repository = Repository(tmp_path / "a repository é")
    repository.commit("Ada", inner__a="text\n")

    done = digest(repository.folder / "inner")

    assert done.returncode == 0, done.stderr
    text = Path(json.loads(done.stdout)["outputs"]["report"]).read_text("utf-8")
    assert "1 commit by 1 person" in text
    assert "| `inner/a` | 1 | 1 | 1 | 0 | Ada 100% |" in text


def test_a_period_without_commits(digest: Digest, repository: Repository) -> None:
    """The report is written and says so."""
    repository.commit("Ada", a="text\n")

    done = digest(repository.folder, "-i", "since=2024-06-01")

    assert done.returncode == 0, done.stderr
    assert "No commits in this period." in Path(json.loads(done.stdout)["outputs"]["report"]).read_text("utf-8")


@pytest.mark.parametrize(("make", "said"), [(True, "does not have any commits yet"), (False, "not a git repository")])
def test_what_cannot_be_digested_says_why(digest: Digest, tmp_path: Path, make: bool, said: str) -> None:
    """An empty repository, or a folder that is none, fails with git's own words."""
    folder = tmp_path / "nothing"
    if make:
        Repository(folder)
    else:
        folder.mkdir()

    done = digest(folder)

    assert done.returncode == 1
    errors = [step["error"]["message"] for step in json.loads(done.stdout)["steps"].values() if step.get("error")]
    assert any(said in message for message in errors)
