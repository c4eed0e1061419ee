"""The pages on configuration and on broken plugins say what is so."""

from __future__ import annotations

import re
from pathlib import Path

from treadle._config import TABLES, load_config

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "configuration.md").read_text("utf-8")


def test_the_example_of_the_reference_page_is_a_valid_configuration(tmp_path: Path) -> None:
    """It loads as it stands, and shows every table that there is."""
    [example] = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "treadle.toml").write_text(example)

    config = load_config(tmp_path, {})

    assert config.plugins.policies == ("limits",)
    assert config.clients["billing"]["use"] == "postgres"
    assert [table for table in TABLES if not getattr(config, table)] == []


def test_the_table_of_the_reference_page_is_whole() -> None:
    """Every table of the configuration has its row, and there is no row for another."""
    rows = re.findall(r"^\| `\[(\w+)", PAGE, re.MULTILINE)

    assert sorted(rows) == sorted(TABLES)


def test_the_variables_of_the_reference_page_set_what_it_says(tmp_path: Path) -> None:
    """Each row of the table of variables, taken as a shell would."""
    rows = re.findall(r"^\| `(TREADLE_\w+)=('?)(.*?)\2` \|", PAGE, re.MULTILINE)
    config = load_config(tmp_path, {name: value for name, _, value in rows})

    assert config.clients == {"http": {"timeout_s": 3, "token": {"env": "OTHER_TOKEN"}}}
    assert config.plugins.block == ("treadle-foo",)
    assert config.store == {"use": "sqlite"}
    assert len(rows) == 4


def test_the_words_of_the_doctor_are_those_of_the_tests() -> None:
    """What the how-to guide quotes is what the doctor says: its fixed words stand in the source."""
    page = (DOCS / "how-to" / "find-out-what-is-wrong-with-a-plugin.md").read_text("utf-8")
    source = "".join(
        file.read_text("utf-8") for file in (DOCS.parent / "core" / "src" / "treadle").rglob("*.py") if file.name[0] == "_"
    )
    words = [
        "ends the process with SystemExit",
        "ended the process with exit code",
        "was ended by signal",
        "took longer than",
        "choose one in treadle.toml: ",
        "its entry point points into",
        "unknown hook",
        "which is not given (it gives",
        "is not an entry point",
        "[plugins] block names its distribution",
        "not used, [plugins] prefer chooses another distribution",
        "unknown setting",
        "no installed plugin provides",
    ]

    assert [each for each in words if each not in page or each not in source] == []
