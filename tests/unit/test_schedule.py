"""Recurring tasks: intervals, cron in zones with clock changes, missed times, ends; against other computations."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskcenter.schedule import ScheduleError, first_due, next_due, validate

NEW_YORK = "America/New_York"
MINUTE = 60_000
HOUR = 60 * MINUTE


def ms(year: int, month: int, day: int, hour: int = 0, minute: int = 0, *, zone: str = "UTC") -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def walk(schedule: dict[str, Any], start: int, until: int) -> list[int]:
    """Every due time from `start` on, each run ending at once."""
    kept = validate(schedule)
    times: list[int] = []
    due_at = anchor = first_due(kept, start)
    while due_at is not None and due_at < until:
        times.append(due_at)
        assert anchor is not None
        due_at = next_due(kept, anchor, due_at, due_at, len(times))
    return times


# --- a whole year against the calendar --------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", [NEW_YORK, "Asia/Shanghai"])
def test_a_year_of_office_mornings(zone: str) -> None:
    days = (datetime(2027, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(365))
    expected = [ms(day.year, day.month, day.day, 9, 30, zone=zone) for day in days if day.isoweekday() <= 5]
    start, until = ms(2027, 1, 1, zone=zone), ms(2028, 1, 1, zone=zone)
    assert walk({"cron": "30 9 * * 1-5", "timezone": zone}, start, until) == expected
    assert len(expected) == 261


@pytest.mark.parametrize("zone", [NEW_YORK, "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca"])
@pytest.mark.parametrize(("hour", "minute"), [(0, 0), (1, 30), (2, 0), (2, 15), (2, 30), (3, 0), (23, 59)])
def test_every_wall_day_has_one_run(zone: str, hour: int, minute: int) -> None:
    """Once a day, whatever the clocks do: at the wall time, or at the end of the gap that swallows it."""
    start, until = ms(2027, 1, 1, zone=zone), ms(2028, 1, 1, zone=zone)
    times = walk({"cron": f"{minute} {hour} * * *", "timezone": zone}, start, until)
    walls = [datetime.fromtimestamp(at / 1000, ZoneInfo(zone)) for at in times]
    assert [wall.date() for wall in walls] == [date(2027, 1, 1) + timedelta(days=n) for n in range(365)]
    odd = [wall for wall in walls if (wall.hour, wall.minute) != (hour, minute)]
    for wall in odd:  # a gap: one second earlier the wall clock showed a time before the asked one
        before = (wall.astimezone(UTC) - timedelta(seconds=1)).astimezone(ZoneInfo(zone))
        assert (before.hour, before.minute) < (hour, minute) < (wall.hour, wall.minute)
    assert not any(wall.fold for wall in walls)


# --- clock changes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("30 2 * * *", [(3, 0)]),  # 02:30 does not exist on 2027-03-14
        ("15,45 2 * * *", [(3, 0)]),  # both fall into the gap: one instant, one run
        ("0 2,3 * * *", [(3, 0)]),
        ("30 2,3 * * *", [(3, 0), (3, 30)]),
        ("*/20 1-3 * * *", [(1, 0), (1, 20), (1, 40), (3, 0), (3, 20), (3, 40)]),
        ("30 * * * *", [(0, 30), (1, 30), *((hour, 30) for hour in range(3, 24))]),  # a rhythm has no 02:30 to make up
    ],
)
def test_spring_forward(cron: str, expected: list[tuple[int, int]]) -> None:
    times = walk({"cron": cron, "timezone": NEW_YORK}, ms(2027, 3, 14, zone=NEW_YORK), ms(2027, 3, 15, zone=NEW_YORK))
    walls = [datetime.fromtimestamp(at / 1000, ZoneInfo(NEW_YORK)) for at in times]
    assert [(wall.hour, wall.minute) for wall in walls] == expected


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("30 1 * * *", [(1, 30, 0)]),  # 01:30 comes twice on 2027-11-07
        ("*/30 1 * * *", [(1, 0, 0), (1, 30, 0)]),
        ("30 1,2 * * *", [(1, 30, 0), (2, 30, 0)]),
        ("30 * * * *", [(0, 30, 0), (1, 30, 0), (1, 30, 1), *((hour, 30, 0) for hour in range(2, 24))]),
    ],
)
def test_fall_back(cron: str, expected: list[tuple[int, int, int]]) -> None:
    times = walk({"cron": cron, "timezone": NEW_YORK}, ms(2027, 11, 7, zone=NEW_YORK), ms(2027, 11, 8, zone=NEW_YORK))
    walls = [datetime.fromtimestamp(at / 1000, ZoneInfo(NEW_YORK)) for at in times]
    assert [(wall.hour, wall.minute, wall.fold) for wall in walls] == expected


def test_a_run_that_ends_within_the_second_pass_of_the_fold() -> None:
    """Between 01:00 EST and 02:00 EST wall times lag behind; what has been run already must not come again."""
    kept = validate({"cron": "45 1 * * *", "timezone": NEW_YORK})
    first = ms(2027, 11, 7, 1, 45, zone=NEW_YORK)
    second_pass = first + 25 * MINUTE  # 01:10 on the clock again, and 01:45 still to come on it
    tomorrow = ms(2027, 11, 8, 1, 45, zone=NEW_YORK)
    assert first_due(kept, second_pass) == tomorrow
    assert next_due(kept, first, second_pass, second_pass, 1) == tomorrow  # after a run at another time


def test_a_day_that_a_zone_left_out() -> None:
    """Samoa had no 2011-12-30: the run of that day is at the first instant after it."""
    times = walk(
        {"cron": "0 12 * * *", "timezone": "Pacific/Apia"},
        ms(2011, 12, 29, zone="Pacific/Apia"),
        ms(2012, 1, 1, zone="Pacific/Apia"),
    )
    midnight = ms(2011, 12, 31, zone="Pacific/Apia")
    assert times == [ms(2011, 12, 29, 12, zone="Pacific/Apia"), midnight, midnight + 12 * HOUR]


@given(
    zone=st.sampled_from([NEW_YORK, "Europe/London", "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo", "UTC"]),
    minute=st.sampled_from(["0", "30", "*/15", "7,53", "*"]),
    hour=st.sampled_from(["0", "1", "2", "3", "*", "*/3", "1-3"]),
    start=st.integers(ms(2020, 1, 1), ms(2037, 1, 1)),
)
@example(zone=NEW_YORK, minute="*/15", hour="1", start=ms(2027, 11, 7, 5, 59))
def test_times_ascend_and_match(zone: str, minute: str, hour: str, start: int) -> None:
    kept = validate({"cron": f"{minute} {hour} * * *", "timezone": zone})
    due_at = first_due(kept, start)
    assert due_at is not None
    assert due_at >= start
    times = [due_at]
    for done in range(1, 8):
        following = next_due(kept, times[0], times[-1], times[-1], done)
        assert following is not None
        times.append(following)
    assert all(one < other for one, other in pairwise(times))
    assert all(at % MINUTE == 0 for at in times)


# --- intervals --------------------------------------------------------------------------------------------------------


def test_intervals_count_from_the_anchor() -> None:
    kept = validate({"every": 300})
    anchor = 1_000_000_123
    assert first_due(kept, anchor) == anchor
    assert next_due(kept, anchor, anchor, anchor + 40, 1) == anchor + 300_000
    assert next_due(kept, anchor, anchor + 300_000, anchor + 599_999, 2) == anchor + 600_000
    assert next_due(kept, anchor, anchor + 1, anchor + 1, 2) == anchor + 300_000  # after a run at another time


@given(
    every=st.integers(1, 100_000), anchor=st.integers(0, 2**40), runs=st.integers(0, 10**6), late=st.integers(0, 10**7)
)
def test_interval_times_stay_on_the_grid(every: int, anchor: int, runs: int, late: int) -> None:
    scheduled = anchor + runs * every * 1000
    once = next_due(validate({"every": every}), anchor, scheduled, scheduled + late, 1)
    skip = next_due(validate({"every": every, "misfire": "skip"}), anchor, scheduled, scheduled + late, 1)
    assert once is not None
    assert skip is not None
    assert (once - anchor) % (every * 1000) == 0 == (skip - anchor) % (every * 1000)
    assert skip >= max(scheduled + late, scheduled + 1)
    assert skip - every * 1000 < max(scheduled + late, scheduled + 1)
    assert once == skip if once >= scheduled + late else skip - once == every * 1000


# --- missed times -----------------------------------------------------------------------------------------------------


def test_missed_times_are_made_up_for_by_one_run_at_the_last_of_them() -> None:
    kept = validate({"cron": "0 * * * *"})
    nine = ms(2027, 5, 3, 9)
    back = ms(2027, 5, 3, 14, 20)
    assert next_due(kept, nine, nine, back, 1) == ms(2027, 5, 3, 14)
    assert next_due(kept, nine, ms(2027, 5, 3, 14), back, 2) == ms(2027, 5, 3, 15)


def test_missed_times_are_passed_over() -> None:
    kept = validate({"cron": "0 * * * *", "misfire": "skip"})
    nine = ms(2027, 5, 3, 9)
    assert next_due(kept, nine, nine, ms(2027, 5, 3, 14, 20), 1) == ms(2027, 5, 3, 15)
    assert next_due(kept, nine, nine, ms(2027, 5, 3, 14), 1) == ms(2027, 5, 3, 14)  # due now is not missed


@pytest.mark.parametrize("down", [timedelta(hours=1), timedelta(days=3), timedelta(days=400)])
@pytest.mark.parametrize("cron", ["* * * * *", "*/7 3 * * *", "0 9 1 * *", "0 0 29 2 *"])
def test_the_last_missed_time_is_found_however_long_ago(cron: str, down: timedelta) -> None:
    kept = validate({"cron": cron, "timezone": NEW_YORK})
    first = first_due(kept, ms(2024, 2, 20))
    assert first is not None
    now = first + int(down.total_seconds() * 1000) + 1
    found = next_due(kept, first, first, now, 1)
    assert found is not None
    following = next_due(kept, first, found, found, 2)
    assert following is not None
    assert found > first
    assert (found <= now < following) or next_due(kept, first, first, first, 1) == found > now


# --- ends -------------------------------------------------------------------------------------------------------------


def test_ends() -> None:
    nine = ms(2027, 5, 3, 9)
    counted = validate({"cron": "0 * * * *", "max_runs": 2})
    assert next_due(counted, nine, nine, nine, 1) == nine + HOUR
    assert next_due(counted, nine, nine + HOUR, nine + HOUR, 2) is None
    dated = validate({"cron": "0 * * * *", "end_at": "2027-05-03T10:00:00Z"})
    assert next_due(dated, nine, nine, nine, 1) == nine + HOUR  # a run at the very end is one
    assert next_due(dated, nine, nine + HOUR, nine + HOUR, 2) is None
    assert first_due(dated, nine + HOUR + 1) is None
    assert first_due(validate({"every": 5, "end_at": "2027-05-03T10:00:00Z"}), nine + 2 * HOUR) is None


def test_a_missed_run_before_the_end_is_made_up_for_after_it() -> None:
    nine = ms(2027, 5, 3, 9)
    kept = validate({"cron": "0 * * * *", "end_at": "2027-05-03T11:30:00Z"})
    assert next_due(kept, nine, nine, nine + 5 * HOUR, 1) == nine + 2 * HOUR
    assert next_due(kept, nine, nine + 2 * HOUR, nine + 5 * HOUR, 2) is None
    skip = validate({"cron": "0 * * * *", "end_at": "2027-05-03T11:30:00Z", "misfire": "skip"})
    assert next_due(skip, nine, nine, nine + 5 * HOUR, 1) is None


# --- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        ({}, ""),
        ({"cron": "* * * * *", "every": 5}, ""),
        ({"cron": "* * * *"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": "60 * * * *"}, "cron"),
        ({"cron": "0 0 31 2 *"}, "cron"),
        ({"cron": "0 0 31 4,6,9,11 *"}, "cron"),
        ({"cron": "1" * 200}, "cron"),
        ({"cron": ["*"]}, "cron"),
        ({"cron": "٠ * * * *"}, "cron"),
        ({"cron": "* * * * *", "timezone": "Mars/Olympus"}, "timezone"),
        ({"cron": "* * * * *", "timezone": "../../etc/passwd"}, "timezone"),
        ({"cron": "* * * * *", "timezone": {}}, "timezone"),
        ({"every": 0.5}, "every"),
        ({"every": True}, "every"),
        ({"every": "5 minutes"}, "every"),
        ({"every": 10**9}, "every"),
        ({"every": 60, "timezone": "UTC"}, "timezone"),
        ({"every": 60, "end_at": "2027-01-01"}, "end_at"),
        ({"every": 60, "end_at": 5}, "end_at"),
        ({"every": 60, "max_runs": 0}, "max_runs"),
        ({"every": 60, "max_runs": True}, "max_runs"),
        ({"every": 60, "misfire": "never"}, "misfire"),
        ({"every": 60, "misfire": []}, "misfire"),
        ({"every": 60, "jitter": 5}, "jitter"),
    ],
)
def test_refused(schedule: dict[str, Any], field: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        validate(schedule)
    assert caught.value.field == field


def test_kept_form() -> None:
    assert validate({"every": "5m", "end_at": "2027-01-01T08:00:00+08:00", "misfire": None}) == {
        "every": 300,
        "end_at": "2027-01-01T00:00:00.000Z",
        "misfire": "once",
    }
    kept = validate({"cron": " 0   9 * * MON-FRI ", "timezone": "Asia/Shanghai", "max_runs": 3, "misfire": "skip"})
    assert kept == {"cron": "0 9 * * MON-FRI", "timezone": "Asia/Shanghai", "max_runs": 3, "misfire": "skip"}
    assert validate(kept) == kept


@given(
    st.dictionaries(
        st.sampled_from(["cron", "timezone", "every", "end_at", "max_runs", "misfire", "x"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
    )
)
def test_nothing_but_a_schedule_error_comes_out(schedule: dict[str, Any]) -> None:
    try:
        kept = validate(schedule)
    except ScheduleError:
        return
    assert validate(kept) == kept


_FIELD = st.lists(st.sampled_from("0123456789*/-,L#WMONSUN"), max_size=6).map("".join)


@given(st.tuples(_FIELD, _FIELD, _FIELD, _FIELD, _FIELD).map(" ".join))
def test_any_cron_is_refused_or_has_a_next_time(cron: str) -> None:
    try:
        kept = validate({"cron": cron, "timezone": NEW_YORK})
    except ScheduleError:
        return
    due_at = first_due(kept, ms(2027, 1, 1))
    assert due_at is not None
    assert due_at >= ms(2027, 1, 1)
