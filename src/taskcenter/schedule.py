"""When a recurring task is due: cron expressions in a time zone, and plain intervals. Pure: `now` is a parameter.

A schedule is the JSON object of CONTRACT.md §3, kept as it is written here (`validate` checks and completes it):

    {"cron": "30 9 * * 1-5", "timezone": "Asia/Shanghai", "misfire": "once"}
    {"every": 300, "end_at": "2027-01-31T09:30:00.000Z", "max_runs": 10, "misfire": "skip"}

**Intervals** count from the anchor, the first due time: run n is due at anchor + n × every, however long runs take.

**Cron** has the five fields of Debian's cron (with names, ranges, steps, lists, `L` and `#`), read in the zone's wall
time. Where the hour field is not `*` the expression names wall times, and each of them happens once: one that a change
of the clocks leaves out happens at the first instant after the gap (02:30 becomes 03:00), one that comes twice happens
the first time. Where the hour field is `*` the expression is a rhythm and follows elapsed time: `30 * * * *` runs every
hour of the longer night and has no hole in the shorter one.

**Missed times.** `next_due` is asked when a run has ended. The times since the one that was run, up to now, were
missed: the process was down, or the run took longer than the interval. `misfire: once` makes up for all of them with
one run, due at the last of them; `misfire: skip` passes over them. Either way a run never overlaps the next.

**Ends.** No run is due after `end_at`, and there are at most `max_runs` runs.

Sources: crontab(5) of Debian; PEP 495 for folds and gaps; the IANA time zone database through `zoneinfo`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from taskcenter.times import (
    DAY_MS,
    MAX_TIME_MS,
    SECOND_MS,
    TIME_EXAMPLE,
    format_duration,
    format_time,
    parse_duration,
    parse_time,
)

JsonObject = Mapping[str, Any]

MIN_EVERY_MS: Final = SECOND_MS
MAX_EVERY_MS: Final = 366 * DAY_MS
MAX_RUNS: Final = 1_000_000_000
MAX_CRON_CHARS: Final = 128
MISFIRES: Final = ("once", "skip")
FIELDS: Final = ("cron", "timezone", "every", "end_at", "max_runs", "misfire")
CRON_EXAMPLE: Final = "30 9 * * 1-5"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)


class ScheduleError(ValueError):
    """The caller's: `field` of the schedule ("" for the whole) is wrong; the message says the fault and an example."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def validate(schedule: JsonObject) -> dict[str, Any]:
    """The schedule checked and completed with its defaults, as it is kept. Raises `ScheduleError`."""
    for name in schedule:
        if name not in FIELDS:
            raise ScheduleError(name, f"is not a field of a schedule; it has {', '.join(FIELDS)}")
    given = {name: value for name, value in schedule.items() if value is not None}
    if ("cron" in given) == ("every" in given):
        raise ScheduleError("", f'must have either cron or every, e.g. {{"cron": "{CRON_EXAMPLE}"}}')
    kept = _validated_cron(given) if "cron" in given else _validated_every(given)
    if "end_at" in given:
        kept["end_at"] = format_time(_read("end_at", parse_time, given["end_at"], str, f"a time, e.g. {TIME_EXAMPLE}"))
    if "max_runs" in given:
        runs = given["max_runs"]
        if type(runs) is not int or not 1 <= runs <= MAX_RUNS:
            raise ScheduleError("max_runs", f"must be a whole number from 1 to {MAX_RUNS}, e.g. 10")
        kept["max_runs"] = runs
    kept["misfire"] = given.get("misfire", "once")
    if kept["misfire"] not in MISFIRES:
        raise ScheduleError("misfire", 'must be "once" (one run for all that were missed) or "skip", e.g. "once"')
    return kept


def first_due(schedule: JsonObject, now_ms: int) -> int | None:
    """The first time at or after `now_ms`; for an interval that is `now_ms` itself. None: it ends before.

    `schedule` is as `validate` returned it; so it is below.
    """
    due_at = now_ms if "every" in schedule else _next(schedule, now_ms, now_ms - 1)
    return None if due_at is None or due_at > _end(schedule) else due_at


def next_due(schedule: JsonObject, anchor_at: int, scheduled_at: int, now_ms: int, runs_done: int) -> int | None:
    """When the run after the one due at `scheduled_at` is due. None: there is none, the schedule has ended.

    `anchor_at`: the first due time. `runs_done`: runs that have ended, the last one included. A returned time before
    `now_ms` is a missed one that is made up for. Times in ms since 1970.
    """
    if runs_done >= schedule.get("max_runs", MAX_RUNS + 1):
        return None
    end_at = _end(schedule)
    due_at = _next(schedule, anchor_at, scheduled_at)
    if due_at is not None and due_at < now_ms:
        if schedule.get("misfire") == "skip":
            due_at = _next(schedule, anchor_at, now_ms - 1)
        else:
            due_at = _last(schedule, anchor_at, due_at, min(now_ms, end_at))
    return None if due_at is None or due_at > end_at else due_at


# --- one step, whatever the kind --------------------------------------------------------------------------------------


def _next(schedule: JsonObject, anchor_at: int, after: int) -> int | None:
    """The first time strictly after `after`."""
    if "every" in schedule:
        every_ms = parse_duration(schedule["every"])
        return max(anchor_at, anchor_at + ((after - anchor_at) // every_ms + 1) * every_ms)
    return next(_cron_times(schedule["cron"], schedule["timezone"], after), None)


def _last(schedule: JsonObject, anchor_at: int, first: int, until: int) -> int:
    """The last time up to `until`, where `first` is one of them (or lies after it, and is then returned)."""
    if "every" in schedule:
        every_ms = parse_duration(schedule["every"])
        return max(first, anchor_at + (until - anchor_at) // every_ms * every_ms)
    back = 60 * SECOND_MS
    while until - back > first:  # ever wider windows before `until`, so that few times are walked through
        last = _last_of(_cron_times(schedule["cron"], schedule["timezone"], until - back), until)
        if last is not None:
            return last
        back *= 2
    return max(first, _last_of(_cron_times(schedule["cron"], schedule["timezone"], first), until) or first)


def _last_of(times: Iterator[int], until: int) -> int | None:
    last = None
    for at in times:
        if at > until:
            break
        last = at
    return last


def _end(schedule: JsonObject) -> int:
    return parse_time(schedule["end_at"]) if "end_at" in schedule else MAX_TIME_MS


# --- cron -------------------------------------------------------------------------------------------------------------


def _cron_times(cron: str, timezone: str, after: int) -> Iterator[int]:
    """All times strictly after `after`, ascending."""
    zone = _zone(timezone)
    start = (_EPOCH + timedelta(seconds=after // SECOND_MS)).astimezone(zone)
    rhythm = cron.split()[1] == "*"
    last = after
    try:
        for wall in CronSim(cron, start if rhythm else start.replace(tzinfo=None)):
            at = (wall - _EPOCH if rhythm else _instant(wall, zone) - _EPOCH) // _SECOND * SECOND_MS
            if at > last:  # wall times of one gap share an instant; after a fold the wall clock lags behind
                last = at
                yield at
    except OverflowError:  # the year 10000
        return


def _instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant of a wall time: the first of two, or the first after the gap that swallows it."""
    before, after = wall.replace(tzinfo=zone, fold=0), wall.replace(tzinfo=zone, fold=1)
    shift_before, shift_after = before.utcoffset(), after.utcoffset()
    assert shift_before is not None  # a ZoneInfo always has an offset
    assert shift_after is not None
    if shift_before >= shift_after:  # an ordinary time, or a fold: fold=0 is the first
        return before.astimezone(UTC)
    low, high = after.astimezone(UTC), before.astimezone(UTC)  # a gap: the change lies in (low, high]
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        if middle.astimezone(zone).utcoffset() == shift_before:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones()) - {"Factory", "localtime", "posixrules"}


# --- validation -------------------------------------------------------------------------------------------------------


def _validated_cron(given: JsonObject) -> dict[str, Any]:
    cron, timezone = given["cron"], given.get("timezone", "UTC")
    if not isinstance(cron, str) or len(cron) > MAX_CRON_CHARS:
        raise ScheduleError("cron", f'must be a text of at most {MAX_CRON_CHARS} characters, e.g. "{CRON_EXAMPLE}"')
    cron = " ".join(cron.split())
    if len(cron.split()) != 5 or not cron.isascii():
        raise ScheduleError(
            "cron", f'must have the five fields minute, hour, day of month, month, day of week, e.g. "{CRON_EXAMPLE}"'
        )
    if not isinstance(timezone, str) or timezone not in _zone_names():
        raise ScheduleError("timezone", 'must be a name of the IANA time zone database, e.g. "Asia/Shanghai"')
    _check_cron(cron)
    return {"cron": cron, "timezone": timezone}


@lru_cache(maxsize=1024)
def _check_cron(cron: str) -> None:
    start = datetime(2000, 1, 1, tzinfo=UTC)
    try:
        found = next(iter(CronSim(cron, start)), None)
    except CronSimError as error:
        raise ScheduleError("cron", f'is wrong ({str(error).lower()}), e.g. "{CRON_EXAMPLE}"') from None
    if found is None:
        raise ScheduleError("cron", f'names a day that never comes, e.g. "{CRON_EXAMPLE}"')


def _validated_every(given: JsonObject) -> dict[str, Any]:
    if "timezone" in given:
        raise ScheduleError("timezone", 'belongs to cron; an interval has none, e.g. {"every": 300}')
    every_ms = _read("every", parse_duration, given["every"], (int, float, str), 'a duration, e.g. 300 or "5m"')
    if not MIN_EVERY_MS <= every_ms <= MAX_EVERY_MS:
        raise ScheduleError("every", 'must be from 1 s to 366 days, e.g. 300 or "5m"')
    return {"every": format_duration(every_ms)}


def _read(field: str, parse: Callable[[Any], int], value: Any, kinds: type | tuple[type, ...], what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ScheduleError(field, f"must be {what}")
    try:
        return parse(value)
    except ValueError as error:
        raise ScheduleError(field, str(error)) from None
