"""Whether a queue stands, by how long its items waited: CoDel (Nichols and Jacobson, 2012; RFC 8289). Pure.

A queue that empties now and then is a good one, however long it was for a moment: it takes up a burst. One in which
even the shortest wait of a whole interval exceeded the target is standing: it costs each item that wait and gains
nothing. CoDel for packets then drops at a growing rate, for it cannot talk to the senders. We can: while the queue
stands, whoever would wait longer than the target is refused at the door, at once, with a time to come back. So the wait
hovers about the target, the server does nothing but useful work, and the first wait below the target ends it.
"""

from __future__ import annotations

import math
from typing import Final

INTERVAL_MS: Final = 500  # a burst shorter than this is taken up
SOON: Final = 16  # intervals for which it is remembered that the queue stood (RFC 8289 §5.4)
QUICKER: Final = 10


class StandingQueue:
    """One queue's measure. Owner: whoever takes items out of it; others ask."""

    def __init__(self, target_ms: float, interval_ms: float = INTERVAL_MS) -> None:
        self.target_ms = target_ms
        self.wait_ms = 0.0  # of the item taken out last
        self.seen_at = 0.0  # when that was, ms
        self._interval_ms = interval_ms
        self._above_since: float | None = None  # every wait since then exceeded the target
        self._stood_at = -math.inf  # when it stood last

    def waited(self, wait_ms: float, now_ms: float) -> None:
        """An item was taken out after `wait_ms`: of several that are taken together, the one that waited longest."""
        self.wait_ms, self.seen_at = wait_ms, now_ms
        if wait_ms <= self.target_ms:
            self._above_since = None
        elif self._above_since is None:
            self._above_since = now_ms
        if self.stands(now_ms):
            self._stood_at = now_ms

    def stands(self, now_ms: float) -> bool:
        """Whether every wait of the last interval exceeded the target; soon after it stood a part of one is enough."""
        if self._above_since is None:
            return False
        soon = now_ms - self._stood_at < SOON * self._interval_ms
        return now_ms - self._above_since >= (self._interval_ms / QUICKER if soon else self._interval_ms)

    def refuses(self, oldest_ms: float, now_ms: float) -> bool:
        """Whether one more is refused. `oldest_ms`: how long the first in the queue has waited by now."""
        if oldest_ms > 2 * self._interval_ms:
            return True  # nothing is taken out at all
        return oldest_ms > self.target_ms and self.stands(now_ms)

    def __repr__(self) -> str:
        return f"<StandingQueue {self.wait_ms:.0f} of {self.target_ms:g} ms>"
