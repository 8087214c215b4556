"""Why a task that is due does not start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hold:
    """What a task waits for. Waiting uses no attempt."""

    reason: str  # paused | rate_limit | breaker | flow | concurrency | capacity | store | time
    until: int | None  # ms, when known
    detail: str
