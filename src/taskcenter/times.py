"""Times and durations as the API writes them. Pure: text to whole milliseconds and back.

A time is RFC 3339 with an offset; what is finer than a ms is rounded *up*, so that nothing starts before the time that
was asked for. A duration is a number of seconds, or a number with one of the units s, m, h, d.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

SECOND_MS: Final = 1000
DAY_MS: Final = 86_400_000
MAX_TIME_MS: Final = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
TIME_EXAMPLE: Final = "2027-01-31T09:30:00Z"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_RFC3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(s|m|h|d)")
_UNIT_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


_NO_SUCH_TIME: Final = f"names a day, an hour or an offset that does not exist, e.g. {TIME_EXAMPLE}"


@lru_cache(maxsize=4096)  # the minutes of a batch are few
def _minute_ms(minute: str, offset: str) -> int:
    """ms since 1970 of `2027-01-31T09:30`. Raises ValueError and OverflowError when there is no such minute."""
    zone = "+00:00" if offset in "Zz" else offset
    return (datetime.fromisoformat(f"{minute}:00{zone}") - _EPOCH) // _MS


def parse_time(text: str) -> int:
    """ms since 1970 UTC. Raises ValueError, whose message says the fault and a good example."""
    parts = _RFC3339.fullmatch(text)
    if parts is None:
        raise ValueError(f"must be an RFC 3339 time with an offset, e.g. {TIME_EXAMPLE}")
    minute, second, fraction, offset = parts.groups()
    leap = second == "60"  # RFC 3339 §5.7: allowed; it is the first instant of the next minute
    try:
        whole_ms = _minute_ms(minute, offset)
    except (ValueError, OverflowError):
        raise ValueError(_NO_SUCH_TIME) from None
    if second > "60":
        raise ValueError(_NO_SUCH_TIME)
    at = whole_ms + int(second) * SECOND_MS
    if fraction is not None and not leap:
        at += -(-int(fraction.ljust(9, "0")) // 1_000_000)
    if not 0 <= at <= MAX_TIME_MS:
        raise ValueError(f"must lie between 1970 and 9999, e.g. {TIME_EXAMPLE}")
    return at


@lru_cache(maxsize=4096)  # the times of a page or a batch are few
def format_time(at: int) -> str:
    """`2027-01-31T09:30:00.000Z`."""
    return f"{(_EPOCH + timedelta(milliseconds=at)).isoformat(timespec='milliseconds')[:-6]}Z"


@lru_cache(maxsize=1024, typed=True)
def parse_duration(value: float | str) -> int:
    """Whole ms, rounded to the nearest. Raises ValueError, whose message says the fault and good examples."""
    if isinstance(value, str):
        parts = _DURATION.fullmatch(value)
        if parts is None:
            raise ValueError('must be a number of seconds or a text like "90s", "5m", "2h" or "1d"')
        return round(float(parts[1]) * _UNIT_MS[parts[2]])
    if not -1e12 < value < 1e12:
        raise ValueError("is not a number of seconds that anyone could wait for, e.g. 90")
    return round(value * SECOND_MS)


def format_duration(duration_ms: int) -> int | float:
    """Seconds; an int when they are whole."""
    whole, rest = divmod(duration_ms, SECOND_MS)
    return duration_ms / SECOND_MS if rest else whole


def spell_duration(duration_ms: float) -> str:
    """For sentences: `250 ms`, `42 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if duration_ms < SECOND_MS:
        return f"{round(duration_ms)} ms"
    seconds = round(duration_ms / SECOND_MS)
    for name, size, smaller, small in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // small
            return f"{seconds // size} {name} {rest} {smaller}" if rest else f"{seconds // size} {name}"
    return f"{seconds} s"
