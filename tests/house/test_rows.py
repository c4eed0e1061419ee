"""The list of requirements, and the tool that holds the tests against it."""

from __future__ import annotations

import rows

TEXT = '''
class TestWaits:
    async def test_doubles(self):
        """The wait doubles (S1-46, S1-47)."""
        assert wait(3) == 4

def helper():
    """Not a test, so S1-46 here counts for nothing."""
'''
LISTED = [rows.Row("S1-46", "base 1 s"), rows.Row("S1-47", "1 s, 2 s, 4 s", ("== 4",))]


def test_a_test_carries_the_ids_of_its_docstring() -> None:
    """Tests are found inside classes too; functions that are not tests carry nothing."""
    (found,) = rows.carriers("test_waits.py", TEXT)

    assert found.test == "test_waits.py::TestWaits::test_doubles"
    assert found.ids == {"S1-46", "S1-47"}


def test_nothing_is_wrong_when_every_row_has_its_test() -> None:
    """Each ID is carried, and each figure stands in the test."""
    assert rows.faults(LISTED, rows.carriers("test_waits.py", TEXT)) == []


def test_a_row_without_a_test_is_a_fault() -> None:
    """Renaming or deleting the only test of a requirement is noticed."""
    lonely = rows.Row("S9-01", "does what nobody tests")

    assert rows.faults([*LISTED, lonely], rows.carriers("test_waits.py", TEXT)) == [
        "S9-01: no test carries it (does what nobody tests)"
    ]


def test_the_figure_must_stand_in_the_test_not_in_its_docstring() -> None:
    """An ID without the value is not enough."""
    told = TEXT.replace("== 4", "> 0").replace("doubles (", "doubles, == 4 (")

    assert rows.faults(LISTED, rows.carriers("test_waits.py", told)) == ["S1-47: no test that carries it contains '== 4'"]


def test_an_unknown_id_and_a_range_are_faults() -> None:
    """A slip in an ID is found, and each is written out so that it can be searched for."""
    told = TEXT.replace("S1-46, S1-47", "S1-46..48, S1-47, S8-99")

    assert rows.faults(LISTED, rows.carriers("test_waits.py", told)) == [
        "test_waits.py::TestWaits::test_doubles: a range of requirements; write each ID out",
        "test_waits.py::TestWaits::test_doubles: unknown requirement S8-99",
    ]


def test_the_projects_list_is_whole() -> None:
    """Every requirement of this work says what must hold; none is named twice or without a value."""
    listed = rows.read_rows()

    assert len(listed) >= 46
    assert all(row.value and rows.ID.fullmatch(row.id) for row in listed)
