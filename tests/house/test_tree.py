"""The text of the tree: pages, links, requirements, and what no file may say."""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def tree(*suffixes: str) -> list[Path]:
    """Files that are or will be committed, of these suffixes or all."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    return [file for file in files if file.is_file() and (not suffixes or file.suffix in suffixes)]


PAGES = tree(".md")
PROJECTS = sorted([ROOT / "pyproject.toml", *ROOT.glob("core/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")])


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as readers of Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_of_a_page_resolves(page: Path) -> None:
    """A link leads to a file of the tree, and to a heading that is there."""
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert not broken


def test_every_page_is_reached_from_the_index() -> None:
    """Nobody has to guess that a page exists: following links from docs/index.md finds it, or the folder that holds it."""
    seen, waiting = set[Path](), [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.exists():
            continue
        seen.add(page)
        if page.suffix == ".md":
            links = LINK.findall(FENCE.sub("", page.read_text("utf-8")))
            waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links if not re.match(r"[a-z]+:|#", link)]
    unreached = [page for page in PAGES if "docs" in page.parts and page not in seen and page.parent not in seen]

    assert not unreached


def test_no_file_names_a_package_registry_or_a_place_on_one_machine() -> None:
    """The project speaks of itself alone, so that it reads and installs the same anywhere."""
    # Put together from pieces, so that this file may be read too.
    hosts = "|".join(["py" + "pi", "python" + "hosted", "npm" + "js", "deb" + "ian"])
    folders = "|".join(["wo" + "rk", "ro" + "ot", "fa" + "rm"])
    forbidden = re.compile(rf"://[a-z.-]*(?:{hosts})|(?:^|[^\w.-])/(?:{folders})/", re.MULTILINE)
    found = [
        f"{file.relative_to(ROOT)}: {match.group(0).strip()}"
        for file in tree()
        for match in forbidden.finditer(file.read_text("utf-8", errors="replace"))
    ]

    assert not found


def test_no_lock_file_is_committed() -> None:
    """A lock names the registry it was made from; versions are held by floors and caps instead."""
    assert not [file for file in tree() if file.name in {"uv.lock", "poetry.lock", "requirements.lock"}]


@pytest.mark.parametrize("project", PROJECTS, ids=[str(project.relative_to(ROOT)) for project in PROJECTS])
def test_members_name_a_floor_and_a_cap_for_each_other(project: Path) -> None:
    """A plugin says from which core on it works and up to which, as a third party's would."""
    table = tomllib.loads(project.read_text("utf-8"))["project"]
    required = [*table.get("dependencies", ()), *chain.from_iterable(table.get("optional-dependencies", {}).values())]
    ours = [requirement for requirement in required if requirement.startswith("treadle")]

    assert all(re.fullmatch(r"treadle[\w\[\],-]*>=[\d.]+,<[\d.]+", requirement) for requirement in ours)
    assert bool(ours) == (project.parent.parent == ROOT / "plugins" or project.parent == ROOT / "core")


def commands(page: Path) -> list[str]:
    """The shell commands of a page, one per line of its ``sh`` blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_checks_call_exactly_the_commands_of_the_readme() -> None:
    """What a newcomer is told to type is what every change must pass."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    told = commands(ROOT / "README.md")

    assert len(told) == 2
    assert all(f"bash -c '{command}'" in script for command in told)


def test_readme_opens_with_what_treadle_is_for() -> None:
    """Two to four sentences, then an example, then the two commands."""
    text = (ROOT / "README.md").read_text("utf-8")
    opening = text.partition("```")[0].removeprefix("# treadle").strip()

    assert 2 <= len(re.findall(r"[.](?:\s|$)", opening)) <= 4
    assert text.index("```yaml") < text.index("```sh")


def test_members_are_in_the_workspace_by_name() -> None:
    """Each plugin of the tree is used from the tree by the others."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    members = {tomllib.loads(file.read_text("utf-8"))["project"]["name"] for file in PROJECTS} - {"treadle-workspace"}

    assert set(table["tool"]["uv"]["sources"]) == members


def test_every_member_is_licensed_and_says_what_it_is() -> None:
    """A wheel tells its licence and its purpose."""
    tables = [tomllib.loads(file.read_text("utf-8"))["project"] for file in PROJECTS]
    wheels = [table for table in tables if table["name"] != "treadle-workspace"]

    assert {table["license"] for table in wheels} == {"Apache-2.0"}
    assert all(len(table["description"]) > 20 for table in wheels)
