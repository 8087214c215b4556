"""What the store says of a business's attempts in sum. Times are ms since 1970 UTC."""

from __future__ import annotations

from dataclasses import dataclass

from taskcenter.store.records import ExecutionStatus


@dataclass(frozen=True, slots=True)
class HourCount:
    hour_at: int  # the hour's begin
    status: ExecutionStatus
    count: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Nearest rank, in ms; None when nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class ExecutionSummary:
    hours: list[HourCount]  # oldest first; hours without attempts are left out
    last_minute: int  # attempts begun within it
    measured: int  # attempts the percentiles are of, the newest
    duration_ms: Percentiles
    lateness_ms: Percentiles
