"""Times and durations as text: what is read, what is refused, and that nothing is ever read as earlier than written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcenter.times import format_duration, format_time, parse_duration, parse_time, spell_duration


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2027-01-31T09:30:00Z", 1_801_387_800_000),
        ("2027-01-31T17:30:00+08:00", 1_801_387_800_000),
        ("2027-01-31t09:30:00z", 1_801_387_800_000),
        ("2027-01-31 09:30:00.5Z", 1_801_387_800_500),
        ("2027-01-31T09:30:00.123456Z", 1_801_387_800_124),  # up, so that nothing starts early
        ("2027-01-31T09:30:00.000000001Z", 1_801_387_800_001),
        ("2027-01-31T09:29:60Z", 1_801_387_800_000),  # a leap second is the next minute's first
        ("2038-01-19T03:14:08Z", 2**31 * 1000),
    ],
)
def test_times(text: str, at: int) -> None:
    assert parse_time(text) == at


@pytest.mark.parametrize(
    "text",
    [
        "", "2027-01-31", "2027-01-31T09:30:00", "2027-01-31T09:30Z", "2027-02-30T00:00:00Z", "2027-01-31T24:00:00Z",
        "2027-01-31T09:30:61Z", "2027-01-31T09:30:00+25:00", "1969-12-31T23:59:59Z", "0000-01-01T00:00:00Z",
        "20270131T093000Z", "2027-W04-7T09:30:00Z", "2027-01-31T09:30:00.Z", "2027-01-31T09:30:00Z\n",
        "٢٠٢٧-01-31T09:30:00Z", "9999-12-31T23:59:59.9999Z", "1801387800", "2027-01-31T09:30:00 Z",
    ],
)  # fmt: skip
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match=r"e\.g\. 2027-01-31T09:30:00Z"):
        parse_time(text)


@given(st.integers(0, 253_402_300_799_999), st.integers(-23 * 60, 23 * 60))
def test_what_is_written_is_read_again(at: int, offset_min: int) -> None:
    assert parse_time(format_time(at)) == at
    there = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)).replace(tzinfo=UTC)
    if 1970 < there.year < 9999:
        written = there.astimezone(timezone(timedelta(minutes=offset_min))).isoformat(timespec="milliseconds")
        assert parse_time(written) == at


@pytest.mark.parametrize(
    ("value", "duration_ms"),
    [(0, 0), (90, 90_000), (0.1, 100), (1.0015, 1002), ("90s", 90_000), ("5m", 300_000), ("2h", 7_200_000),
     ("1d", 86_400_000), ("1.5h", 5_400_000)],
)  # fmt: skip
def test_durations(value: float | str, duration_ms: int) -> None:
    assert parse_duration(value) == duration_ms


@pytest.mark.parametrize(
    "value", ["", "90", "5 m", "5M", "-5s", "1h30m", "٥s", "1e3s", float("nan"), float("inf"), 10**300, "5s\n"]
)
def test_no_durations(value: float | str) -> None:
    with pytest.raises(ValueError, match="second"):
        parse_duration(value)


def test_durations_are_shown_in_seconds() -> None:
    assert [format_duration(value) for value in (0, 1000, 1500, 100)] == [0, 1, 1.5, 0.1]
    assert type(format_duration(3000)) is int


def test_durations_in_words() -> None:
    assert [spell_duration(value) for value in (250, 42_000, 60_000, 200_000, 7_500_000, 273_600_000)] == [
        "250 ms", "42 s", "1 min", "3 min 20 s", "2 h 5 min", "3 d 4 h",
    ]  # fmt: skip
