"""Durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from treadle._durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("5m", 300.0),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
        ("1h30m", 5_400.0),
        ("1h 30m", 5_400.0),
        ("250ms", 0.25),
        ("1.5h", 5_400.0),
        (" 7 ", 7.0),
        ("0.1", 0.1),
        ("PT5M", 300.0),
        ("P1DT2H", 93_600.0),
        ("P1W", 604_800.0),
        ("PT0.5S", 0.5),
        ("0s", 0.0),
        (5, 5.0),
        (0.25, 0.25),
    ],
)
def test_reads_short_forms_iso_8601_and_bare_seconds(text: str | int | float, seconds: float) -> None:
    """Every spelling that the file's table names gives its seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "P", "PT", "5 parsecs", "-5s", "1m1m", "P1Y", "P1M", "٣s", "1e5", "s", "5ss", "9" * 200, "1d" * 90],
)
def test_refuses_what_is_no_duration_and_says_how_to_write_one(text: str) -> None:
    """A month has no fixed length, a unit stands once, digits are ASCII; the remedy shows a spelling."""
    with pytest.raises(ValueError, match="write it like '90s'"):
        parse_duration(text)


@pytest.mark.parametrize("number", [-1, float("nan"), float("inf"), 10**400, True, "200000d"])
def test_refuses_numbers_out_of_range(number: float | str) -> None:
    """Negative, endless, and over a hundred years are refused, without spelling out a number of 400 digits."""
    with pytest.raises(ValueError, match=r"duration|between 0 and 100 years") as caught:
        parse_duration(number)

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.00025, "0.25ms"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (59.9996, "1m"),
        (90, "1m30s"),
        (3_600, "1h"),
        (3_600.05, "1h50ms"),
        (93_600, "1d2h"),
    ],
)
def test_writes_the_short_form(seconds: float, text: str) -> None:
    """People read ``1m30s`` rather than ``90.0``."""
    assert format_duration(seconds) == text


@given(st.integers(0, 100 * 365 * 86_400_000))
def test_what_it_writes_reads_back(milliseconds: int) -> None:
    """To the millisecond, writing and reading are each other's inverse."""
    seconds = milliseconds / 1000

    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=0.0005)
