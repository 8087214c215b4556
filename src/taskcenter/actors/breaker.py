"""The circuit breaker of one destination host of one business. Pure; `now` and chance are passed in.

Closed: everything passes; `failure_threshold` failures in a row, or a failure rate over the window with a minimum of
calls, open it. Open: nothing passes until `next_probe_at`; the open time doubles with every failed probe, with
jitter, up to `max_open_s`, so a host that is well again is found within one probe interval. Half-open: at most
`half_open_probes` calls on their way; one failure opens again, that many successes close. Just closed it ramps up:
twice as many calls at once after every success, so that a backlog does not knock the receiver over again.

What counts as failure (time-outs, connection faults, 5xx) is decided by the caller. A call that was admitted before
the state last changed (an older `Ticket.epoch`) no longer moves the machine: one slow time-out from before must not
re-open what probes have just closed. Waiting behind a breaker uses no attempt (DESIGN.md §3.3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class BreakerState(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


JITTER: Final = 0.1
RAMP_DONE: Final = 64  # calls at once after which a ramp is over
GRAINS: Final = 60  # groups that the window of the failure rate is counted in


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """CONTRACT.md §3, `breaker`. Times in s."""

    enabled: bool = True
    failure_threshold: int = 5
    failure_rate: float | None = None
    window_seconds: float = 60
    min_calls: int = 10
    open_seconds: float = 30
    max_open_seconds: float = 300
    half_open_probes: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> BreakerSettings:
        """From the business's JSON; unknown members are left out."""
        return cls(**{name: values[name] for name in cls.__slots__ if name in values})


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call that was let through."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Transition:
    to: BreakerState
    at: int  # ms
    cause: str
    next_probe_at: int | None = None  # ms
    again: bool = False  # opened once more after a probe failed


class CallWindow:
    """Calls and failures of the last `window_s`, in at most `GRAINS` groups: the same memory whatever the traffic."""

    def __init__(self, window_s: float) -> None:
        self.count = self.failed = 0
        self._grain_ms = max(1, int(window_s * 1000 / GRAINS))
        self._groups: deque[list[int]] = deque()  # [grain, calls, failures], oldest first

    def add(self, now_ms: int, *, failed: bool) -> None:
        grain = now_ms // self._grain_ms
        if not self._groups or self._groups[-1][0] < grain:
            self._groups.append([grain, 0, 0])
        self._groups[-1][1] += 1
        self._groups[-1][2] += failed
        self.count += 1
        self.failed += failed
        while self._groups[0][0] <= grain - GRAINS:
            _, calls, failures = self._groups.popleft()
            self.count -= calls
            self.failed -= failures

    def __len__(self) -> int:
        return len(self._groups)


class Breaker:
    """One machine. Owner: the business actor; nobody else touches it."""

    def __init__(
        self,
        settings: BreakerSettings,
        chance: Callable[[], float],
        on_transition: Callable[[Transition], None] = lambda _: None,
    ) -> None:
        """`chance`: uniform in [0, 1), for the jitter."""
        self.settings = settings
        self.state = BreakerState.CLOSED
        self.since: int | None = None  # ms of the last transition
        self.cause: str | None = None
        self.next_probe_at: int | None = None
        self._chance = chance
        self._on_transition = on_transition
        self._epoch = 0
        self._in_flight = 0  # calls of the present epoch
        self._consecutive = 0
        self._calls = CallWindow(settings.window_seconds)
        self._opened_in_a_row = 0
        self._probes_passed = 0
        self._ramp: int | None = None  # calls at once while ramping up

    def admits(self, now_ms: int) -> bool:
        """Whether a call may start now. Moves open → half-open when the probe is due."""
        if not self.settings.enabled:
            return True
        if self.state is BreakerState.OPEN and self.next_probe_at is not None and now_ms >= self.next_probe_at:
            self._move(BreakerState.HALF_OPEN, now_ms, "probing")
        if self.state is BreakerState.OPEN:
            return False
        if self.state is BreakerState.HALF_OPEN:
            return self._in_flight < self.settings.half_open_probes
        return self._ramp is None or self._in_flight < self._ramp

    def start(self) -> Ticket:
        """Note a call that `admits` allowed."""
        self._in_flight += 1
        return Ticket(self._epoch)

    def cancel(self, ticket: Ticket) -> None:
        """The call did not happen, or its end says nothing about the receiver's health."""
        if ticket.epoch == self._epoch:
            self._in_flight -= 1

    def succeed(self, ticket: Ticket, now_ms: int) -> None:
        if ticket.epoch != self._epoch:
            return
        self._in_flight -= 1
        self._consecutive = 0
        if self.state is BreakerState.HALF_OPEN:
            self._probes_passed += 1
            if self._probes_passed >= self.settings.half_open_probes:
                self._opened_in_a_row = 0
                self._move(BreakerState.CLOSED, now_ms, "probe succeeded")
                self._ramp = 2 * self.settings.half_open_probes
            return
        self._note(now_ms, failed=False)
        if self._ramp is not None:
            self._ramp = None if self._ramp >= RAMP_DONE else self._ramp * 2

    def fail(self, ticket: Ticket, now_ms: int, cause: str) -> None:
        if ticket.epoch != self._epoch:
            return
        self._in_flight -= 1
        if not self.settings.enabled:
            return
        if self.state is BreakerState.HALF_OPEN or self._ramp is not None:
            self._open(now_ms, f"probe failed: {cause}")
            return
        self._consecutive += 1
        self._note(now_ms, failed=True)
        if self._consecutive >= self.settings.failure_threshold:
            self._open(now_ms, f"{_failures(self._consecutive)} in a row, last: {cause}")
        elif self._rate_exceeded():
            self._open(now_ms, f"failure rate over {self.settings.failure_rate:g}, last: {cause}")

    def reconfigure(self, settings: BreakerSettings) -> None:
        """New settings are in force at once; a machine that is open keeps its next probe unless it is switched off."""
        if settings.window_seconds != self.settings.window_seconds:
            self._calls = CallWindow(settings.window_seconds)
        self.settings = settings

    def _note(self, now_ms: int, *, failed: bool) -> None:
        if self.settings.failure_rate is not None:
            self._calls.add(now_ms, failed=failed)

    def _rate_exceeded(self) -> bool:
        rate = self.settings.failure_rate
        return (
            rate is not None
            and self._calls.count >= self.settings.min_calls
            and self._calls.failed >= rate * self._calls.count
        )

    def _open(self, now_ms: int, cause: str) -> None:
        open_s = min(self.settings.open_seconds * 2 ** min(self._opened_in_a_row, 20), self.settings.max_open_seconds)
        self._opened_in_a_row += 1
        self._move(BreakerState.OPEN, now_ms, cause, now_ms + int(open_s * 1000 * (1 - JITTER * self._chance())))

    def _move(self, to: BreakerState, now_ms: int, cause: str, next_probe_at: int | None = None) -> None:
        self.state, self.since, self.cause = to, now_ms, cause
        self.next_probe_at = next_probe_at
        self._epoch += 1
        self._in_flight = 0
        self._consecutive = 0
        self._probes_passed = 0
        self._ramp = None
        self._calls = CallWindow(self.settings.window_seconds)
        self._on_transition(Transition(to, now_ms, cause, next_probe_at, again=self._opened_in_a_row > 1))

    def __repr__(self) -> str:
        return f"<Breaker {self.state} in_flight={self._in_flight} next_probe_at={self.next_probe_at}>"


def _failures(count: int) -> str:
    return "1 failure" if count == 1 else f"{count} failures"
