"""The page about the command is what the command says of itself."""

from __future__ import annotations

from pathlib import Path

import cli_page

FILE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_page_is_what_the_commands_say() -> None:
    """Every command, option and default stands in docs/reference/cli.md; ``nox -s docs -- --write`` writes it anew."""
    assert FILE.read_text("utf-8") == cli_page.page()


def test_every_json_output_has_its_schema() -> None:
    """A command with --json is in the table of schemas, and its schema is there."""
    page = cli_page.page()

    assert page.count("`--json`: [") == page.count("  --json ") == len(cli_page.SCHEMAS)
    for name in (*cli_page.SCHEMAS.values(), "error"):
        assert (FILE.parent / "json" / f"{name}.schema.json").is_file()
