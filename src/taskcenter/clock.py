"""The engine's one clock: UTC milliseconds that follow trio's clock, and are led gently to what other clocks say.

`now_ms` is `trio.current_time()` plus an offset, taken from the wall clock at the start. From then on it is compared,
once a second, with the machine's wall clock, and with the database server's wherever that is another machine's
(`hear_store`). Within five seconds a difference is drift, and followed: at most 1 % of the time that went by, so engine
time never runs backwards and never jumps over a task's due time.

More than that, and somebody has set a clock. One clock alone is not believed, whichever it is: a callback is neither
early nor late because of it, and `fault` tells of it. When both say the same, our own has stood still (a machine that
was suspended): it jumps forward at once, or is led back. The time a machine was asleep, where the kernel tells it, is
added without asking anybody. Only at the start, where our own clock knows nothing yet, the server's decides over the
machine's: all instances share it (RELIABILITY.md, row 26).

Under `trio.testing.MockClock` everything here is virtual; tests give `anchor_ms`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

STEP_MS: Final = 5_000.0
SLEW: Final = 0.01
CONFIRMATIONS: Final = 3  # observations in a row before our own clock is held for wrong
READINGS: Final = 5  # of the machine's clock, for one that can be believed
READING_S: Final = 1.0  # a reading of the server's that took longer says too little
FRESH_S: Final = 15.0  # and one that is older

MACHINE_SET: Final = "this machine's clock has been set, and is not followed"
STORE_SET: Final = "the database server's clock has been set, and is not followed"
ALL_APART: Final = "this machine's clock and the database server's have been set apart, and neither is followed"
AHEAD: Final = "this process's clock is ahead of all others, and is led back; a restart is quicker"


@dataclass(frozen=True, slots=True)
class ClockStatistics:
    error_ms: float  # the machine's clock minus engine time, at the last observation
    store_error_ms: float | None  # the database server's; None: not heard of lately, or the same machine's
    suspect: int  # observations in a row by which our own clock is wrong


def believed(machine_ms: float, store_ms: float | None) -> tuple[float, str | None]:
    """By how much engine time is wrong, and whose fault it is if it is somebody else's. Pure.

    Given are the differences of the other clocks, in ms.
    """
    if abs(machine_ms) <= STEP_MS:
        return machine_ms, STORE_SET if store_ms is not None and abs(store_ms) > STEP_MS else None
    if store_ms is None:
        return 0.0, MACHINE_SET
    if abs(store_ms) <= STEP_MS:
        return store_ms, MACHINE_SET
    if abs(machine_ms - store_ms) > STEP_MS:
        return 0.0, ALL_APART
    return machine_ms, AHEAD if machine_ms < 0 else None


def wall_reading() -> tuple[float, float]:
    """The machine's clock, in ms since 1970, and when it was read by trio's clock, at the latest.

    A process that is not let run between its looks at two clocks takes the pause for a difference, and would call early
    or late by it; so the closest pair of a few is taken.
    """
    best = (math.inf, 0.0, 0.0)
    for _ in range(READINGS):
        before = trio.current_time()
        wall_ms = time.time() * 1000.0
        after = trio.current_time()
        best = min(best, (after - before, after, wall_ms))
    return best[1], best[2]


def suspended_s() -> float:
    """How long this machine has been suspended since its start: time that trio's clock leaves out."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Clock:
    """UTC for the engine. Made inside `trio.run`; one per process."""

    def __init__(self, anchor_ms: float | None = None, suspended: Callable[[], float] = suspended_s) -> None:
        """`anchor_ms`: what UTC is now, in ms since 1970; the wall clock's word if None."""
        began, began_ms = wall_reading() if anchor_ms is None else (trio.current_time(), anchor_ms)
        self._offset_ms = began_ms - began * 1000.0
        self._follows_wall = anchor_ms is None
        self._suspended = suspended
        self._suspended_s = suspended()
        self._observed_at = began
        self._error_ms = 0.0
        self._store: tuple[float, float] | None = None  # (when, its offset in ms)
        self._suspect = 0
        self.fault: str | None = None  # which clock was set; None: all agree

    def now_ms(self) -> int:
        """UTC in whole ms, rounded down: what is compared with `due_at`."""
        return int(trio.current_time() * 1000.0 + self._offset_ms)

    def now_ms_exact(self) -> float:
        """UTC in ms with the fraction, for measuring lateness and durations."""
        return trio.current_time() * 1000.0 + self._offset_ms

    def deadline_for(self, at_ms: float) -> float:
        """The `trio.current_time()` at which UTC is `at_ms`."""
        return (at_ms - self._offset_ms) / 1000.0

    async def sleep_until(self, at_ms: int) -> None:
        """Return when `now_ms() >= at_ms`, never before."""
        while (now := self.now_ms_exact()) < at_ms:  # noqa: ASYNC110  # time is what is waited for; a slew moves it
            await trio.sleep((at_ms - now) / 1000.0)

    def begin_with(self, store_ms: float) -> None:
        """The database server has just told its time; where this machine's is another, that of all instances counts.
        Only before anything runs by this clock.
        """
        if abs(store_ms - self.now_ms_exact()) > STEP_MS:
            self._offset_ms = store_ms - trio.current_time() * 1000.0

    def hear_store(self, store_ms: float, asked_at: float) -> None:
        """The database server, asked at `asked_at` by trio's clock, has just told its time."""
        now = trio.current_time()
        if now - asked_at > READING_S:
            return
        self._store = (now, store_ms - now * 1000.0)

    def observe(self, machine_ms: float, read_at: float | None = None) -> bool:
        """Compare with the machine's clock, read at `read_at` by trio's or now, and with the server's. Whether engine
        time has jumped, so that who sleeps until some UTC must look again.
        """
        now = trio.current_time()
        limit_ms = (now - self._observed_at) * 1000.0 * SLEW
        self._observed_at = now
        slept_ms = self._wake_up()
        self._error_ms = machine_ms - (now if read_at is None else read_at) * 1000.0 - self._offset_ms
        error_ms, self.fault = believed(self._error_ms, self._store_error_ms())
        self._suspect = self._suspect + 1 if abs(error_ms) > STEP_MS else 0
        if 0 < self._suspect < CONFIRMATIONS:
            return slept_ms > 0
        if error_ms > STEP_MS:
            self._offset_ms += error_ms
            self._suspect = 0
            return True
        self._offset_ms += max(-limit_ms, min(limit_ms, error_ms))
        return slept_ms > 0

    def observe_wall(self) -> bool:
        """`observe` with the wall clock; does nothing when the clock was anchored by hand (virtual time)."""
        if not self._follows_wall:
            return False
        read_at, wall_ms = wall_reading()
        return self.observe(wall_ms, read_at)

    def statistics(self) -> ClockStatistics:
        return ClockStatistics(self._error_ms, self._store_error_ms(), self._suspect)

    def _wake_up(self) -> float:
        """Add the time for which the machine was suspended, in ms; less than a tenth of a second is the reading's."""
        before, self._suspended_s = self._suspended_s, self._suspended()
        slept_ms = (self._suspended_s - before) * 1000.0
        if slept_ms < 100.0:
            return 0.0
        self._offset_ms += slept_ms
        return slept_ms

    def _store_error_ms(self) -> float | None:
        if self._store is None or trio.current_time() - self._store[0] > FRESH_S:
            return None
        return self._store[1] - self._offset_ms

    def __repr__(self) -> str:
        return f"<Clock {self.now_ms()} ms, error {self._error_ms:.1f} ms>"
