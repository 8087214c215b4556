"""Why a task that is due does not start."""

from __future__ import annotations

from dataclasses import dataclass

from taskcenter.actors.breaker import Breaker, BreakerState


@dataclass(frozen=True, slots=True)
class Hold:
    """What a task waits for. Waiting uses no attempt."""

    reason: str  # time, and the keys of `outcome.WAITED_FOR`
    until: int | None  # ms, when known
    detail: str


def breaker_hold(host: str, breaker: Breaker) -> Hold:
    """A breaker that does not admit, in words."""
    says = {
        BreakerState.OPEN: f"is open: {breaker.cause}",
        BreakerState.HALF_OPEN: "waits for its probe",
        BreakerState.CLOSED: "ramps up after a recovery",
    }
    return Hold("breaker", breaker.next_probe_at, f"the breaker of {host} {says[breaker.state]}")
