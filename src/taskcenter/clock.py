"""The engine's one clock: UTC milliseconds that follow trio's clock, and are led gently to the wall clock.

`now_ms` is `trio.current_time()` plus an offset. The offset is taken from the wall clock once, at the start. From then
on `observe` compares with a reference (the wall clock, or the store's) and slews: at most 1 % of the time that went
by, so engine time never runs backwards and never jumps over a task's due time. A reference that is suddenly more than
five seconds off is a step, not a drift: it is disbelieved until it has said the same three times in a row, then
followed, still by slewing. So a wall clock set an hour back neither fires early nor stalls (RELIABILITY.md, row 26).

Under `trio.testing.MockClock` everything here is virtual; tests give `anchor_ms`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import trio

STEP_MS: Final = 5_000.0
SLEW: Final = 0.01
CONFIRMATIONS: Final = 3


@dataclass(frozen=True, slots=True)
class ClockStatistics:
    error_ms: float  # reference minus engine time, at the last observation
    suspect: int  # observations in a row that looked like a step


class Clock:
    """UTC for the engine. Made inside `trio.run`; one per process."""

    def __init__(self, anchor_ms: float | None = None) -> None:
        """`anchor_ms`: what UTC is now, in ms since 1970; the wall clock's word if None."""
        began = trio.current_time()
        self._offset_ms = (time.time() * 1000.0 if anchor_ms is None else anchor_ms) - began * 1000.0
        self._follows_wall = anchor_ms is None
        self._observed_at = began
        self._error_ms = 0.0
        self._suspect = 0

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

    def observe(self, reference_ms: float) -> None:
        """Take note of a reference's UTC and slew towards it."""
        elapsed_ms = (trio.current_time() - self._observed_at) * 1000.0
        self._observed_at = trio.current_time()
        self._error_ms = reference_ms - self.now_ms_exact()
        if abs(self._error_ms) > STEP_MS:
            self._suspect += 1
            if self._suspect < CONFIRMATIONS:
                return
        else:
            self._suspect = 0
        limit = elapsed_ms * SLEW
        self._offset_ms += max(-limit, min(limit, self._error_ms))

    def observe_wall(self) -> None:
        """Compare with the wall clock; does nothing when the clock was anchored by hand (virtual time)."""
        if self._follows_wall:
            self.observe(time.time() * 1000.0)

    def statistics(self) -> ClockStatistics:
        return ClockStatistics(self._error_ms, self._suspect)

    def __repr__(self) -> str:
        return f"<Clock {self.now_ms()} ms, error {self._error_ms:.1f} ms>"
