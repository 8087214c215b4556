"""How fast a backlog is let go: in due order, at a measured pace, and never all at once. Pure; `now` is passed in.

Theory. After an outage, a pause or a breaker's recovery many tasks are overdue together. The rate limit would let a
whole minute's worth of them start in one moment, on a receiver that has just come back. So what became overdue while
it was held is let go evenly, at `pace` times the rate limit. At 10, the default, a minute's worth takes 6 s: that is no
stampede, and still recovered within seconds. At 1 it takes the minute, which is what the limit allows in the long run.
What is on time is never paced.

A *scope* is what was held: one destination host, or the whole business. It is marked when it is held, and unmarked when
the first of its tasks to be looked at, the one due earliest, is no longer late. The pace is kept by the generic cell
rate algorithm (ITU-T I.371): one number, the time at which the next start is due, with a tolerance of `BURST_MS`, for
the actor's loop does not wake for each start.
"""

from __future__ import annotations

from typing import Final

from taskcenter.task import TaskRef

LATE_MS: Final = 1_000  # less overdue is on time
BURST_MS: Final = 100  # in any W ms at most 1 + (W + BURST_MS) / interval start
MOST_SCOPES: Final = 1_024
WHOLE: Final = ""  # the business itself, as a scope; hosts have names


class Backlog:
    """Owner: the business's admission."""

    def __init__(self, per_minute: int, pace: float) -> None:
        """`pace`: times the rate limit; 0: no pace. A new owner cannot tell what was before it: all is marked."""
        self._pace = pace
        self._scopes = {WHOLE}
        self._next_ms = 0.0  # when a perfectly even next start would be
        self.reconfigure(per_minute)

    def reconfigure(self, per_minute: int) -> None:
        """A new rate limit."""
        self.per_second = per_minute * self._pace / 60
        self._interval_ms = 1000 / self.per_second if self._pace else 0.0

    def held(self, scope: str) -> None:
        """Tasks of the scope wait for something that is out."""
        if len(self._scopes) >= MOST_SCOPES:
            self._scopes = {WHOLE}
        self._scopes.add(scope)

    def scope_of(self, ref: TaskRef, now_ms: int) -> str | None:
        """The scope as part of whose backlog `ref` starts; None: it is on time, or was not held by an outage."""
        if now_ms - ref.due_at > LATE_MS:
            return next((scope for scope in (WHOLE, ref.host) if scope in self._scopes), None)
        self._scopes -= {WHOLE, ref.host}
        return None

    def available_at(self, at_ms: int) -> int:
        """The earliest time, `at_ms` or later, at which the backlog's next may start."""
        return max(at_ms, -int(-(self._next_ms - BURST_MS) // 1)) if self._pace else at_ms

    def take(self, at_ms: int) -> None:
        """One of the backlog starts at `at_ms`, which `available_at` allowed."""
        self._next_ms = max(self._next_ms, at_ms) + self._interval_ms

    def __repr__(self) -> str:
        return f"<Backlog {self.per_second:g}/s of {sorted(self._scopes)}>"
