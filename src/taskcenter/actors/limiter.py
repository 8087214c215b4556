"""The rate limit: no sliding minute ever sees more than `limit` starts. Pure; `now` is passed in.

A token bucket of 1,000 a minute lets 2,000 through around the turn of a minute. So this keeps the log itself: the start
times of the last window, at most `limit` of them. A start is allowed when the `limit`-th last one has left the window;
until then the moment at which it will is known exactly, and the actor sleeps until that moment and uses no attempt. A
burst up to the limit passes at once. The window is a little over a minute (`GUARD_MS`), because the receiver counts
arrivals and not departures. After a change of owner the log is rebuilt from the store's history (`rebuild`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

WINDOW_MS: Final = 60_000
GUARD_MS: Final = 250  # what the network may take out of the distance between two starts


class SlidingWindowLimiter:
    """Starts in any `window_ms`: at most `limit`. Memory: 8 bytes and a reference a start within the window."""

    def __init__(self, limit: int, window_ms: int = WINDOW_MS, guard_ms: int = GUARD_MS) -> None:
        self.limit = limit
        self._span_ms = window_ms + guard_ms
        self._starts: deque[int] = deque()

    def available_at(self, at_ms: int) -> int:
        """The earliest time, `at_ms` or later, at which one more start is allowed."""
        if len(self._starts) < self.limit:
            return at_ms
        return max(at_ms, self._starts[-self.limit] + self._span_ms)

    def expected_at(self, ahead: int, at_ms: int) -> int:
        """When a start would be allowed that lets `ahead` others go first, all as early as they may."""
        log = deque(self._starts, maxlen=self.limit)
        for _ in range(ahead + 1):
            if len(log) == self.limit:
                at_ms = max(at_ms, log[0] + self._span_ms)
            log.append(at_ms)
        return at_ms

    def take(self, at_ms: int) -> int:
        """Note a start at `at_ms`, which `available_at` allowed. Returns the entry for `give_back`."""
        if self._starts and at_ms < self._starts[-1]:
            at_ms = self._starts[-1]  # the log stays sorted; a later entry only makes it stricter
        self._forget(at_ms)
        self._starts.append(at_ms)
        return at_ms

    def give_back(self, entry: int) -> None:
        """The start did not happen (the claim was lost). One that has left the window meanwhile is forgotten anyway."""
        for index in range(len(self._starts) - 1, -1, -1):  # from the end: what is given back is young
            if self._starts[index] <= entry:
                if self._starts[index] == entry:
                    del self._starts[index]
                return

    def restate(self, entry: int, at_ms: int) -> None:
        """The start noted as `entry` happened at `at_ms`, later than planned (a slow claim)."""
        self.give_back(entry)
        self.take(at_ms)

    def used(self, now_ms: int) -> int:
        """Starts within the window that ends now."""
        self._forget(now_ms)
        return len(self._starts)

    def rebuild(self, starts: Iterable[int]) -> None:
        """Replace the log by what the history says."""
        self._starts = deque(sorted(starts))

    def _forget(self, now_ms: int) -> None:
        horizon = now_ms - self._span_ms
        while self._starts and self._starts[0] <= horizon:
            self._starts.popleft()

    def __repr__(self) -> str:
        return f"<SlidingWindowLimiter {len(self._starts)}/{self.limit}>"
