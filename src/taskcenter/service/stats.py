"""The statistics of one business: what its tasks became, how its callbacks went, what holds them back now.

Counts come from the store and are the same on every instance. What lives in the engine (breaker, callbacks on their
way) is known to the owner of the business's shard; any other instance infers it from the recent history and says so
(`source`). An answer is used again for a while that grows with what it cost, so nobody can load the store by asking.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from taskcenter.actors.breaker import BreakerSettings, BreakerState
from taskcenter.actors.breakers import Breakers
from taskcenter.clock import Clock
from taskcenter.service.businesses import Businesses
from taskcenter.service.engine_port import BusinessView, Engine, HostBreaker, host_breaker
from taskcenter.service.principal import Principal, Scope
from taskcenter.store.engine_records import SendPoint
from taskcenter.store.interface import EngineStore, StatsStore, TaskStore
from taskcenter.store.records import Business, ExecutionStatus
from taskcenter.store.summaries import ExecutionSummary, Percentiles
from taskcenter.task import ACTIVE, WAITING, Status
from taskcenter.times import format_time

HOUR_MS: Final = 3_600_000
HOURS: Final = 24
REUSE_LEAST_S: Final = 0.2
REUSE_FACTOR: Final = 20  # an answer that took 50 ms is used again for a second
REUSE_MOST_S: Final = 30.0
MOST_KEPT: Final = 1_000
BREAKER_LOOK_BACK_MS: Final = 900_000
BREAKER_SENDS: Final = 500
MOST_HOSTS: Final = 100  # unwell hosts shown

FAILED: Final = frozenset({
    ExecutionStatus.RETRY, ExecutionStatus.TIMEOUT, ExecutionStatus.CONNECTION_ERROR, ExecutionStatus.HTTP_ERROR,
    ExecutionStatus.BLOCKED, ExecutionStatus.INVALID_RESPONSE,
})  # fmt: skip
UNREACHED: Final = frozenset({ExecutionStatus.TIMEOUT, ExecutionStatus.CONNECTION_ERROR})


@dataclass(frozen=True, slots=True)
class StatsTools:
    """What the statistics are made of."""

    businesses: Businesses
    tasks: TaskStore
    summaries: StatsStore
    history: EngineStore
    engine: Engine
    clock: Clock


class BusinessStats:
    """`GET /businesses/{code}/stats`."""

    def __init__(self, tools: StatsTools) -> None:
        self._t = tools
        self._kept: OrderedDict[int, tuple[float, dict[str, Any]]] = OrderedDict()  # id → good until (s), answer
        self._busy = trio.CapacityLimiter(2)

    async def read(self, principal: Principal, code: str) -> dict[str, Any]:
        """JSON-ready. Raises `NotFound`, `Forbidden`."""
        business = await self._t.businesses.find(principal, code, Scope.BUSINESS_READ)
        if (kept := self._fresh(business.id)) is not None:
            return kept
        async with self._busy:
            if (kept := self._fresh(business.id)) is not None:
                return kept
            began = trio.current_time()
            answer = await self._read(business)
            took = trio.current_time() - began
        good_for = min(max(took * REUSE_FACTOR, REUSE_LEAST_S), REUSE_MOST_S)
        self._kept[business.id] = (trio.current_time() + good_for, answer)
        self._kept.move_to_end(business.id)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return answer

    def _fresh(self, business_id: int) -> dict[str, Any] | None:
        kept = self._kept.get(business_id)
        return kept[1] if kept is not None and trio.current_time() < kept[0] else None

    async def _read(self, business: Business) -> dict[str, Any]:
        now = self._t.clock.now_ms()
        since = now - now % HOUR_MS - (HOURS - 1) * HOUR_MS
        tasks = await self._t.tasks.status_counts(business.id)
        summary = await self._t.summaries.execution_summary(business.id, since, now)
        view = self._t.engine.business_view(business.id)
        running = tasks[Status.RUNNING]
        used = summary.last_minute + running if view is None else view.rate_limit_used
        return {
            "business_code": business.code,
            "status": business.status.value,
            "at": format_time(now),
            "tasks": {status.value: tasks[status] for status in Status},
            "success_rate": _rate(tasks),
            "active": sum(tasks[status] for status in ACTIVE),
            "pending": sum(tasks[status] for status in WAITING),
            "in_flight": running if view is None else view.in_flight,
            "callbacks": {
                "count": sum(hour.count for hour in summary.hours),
                "measured": summary.measured,
                "duration_ms": _percentiles(summary.duration_ms),
                "lateness_ms": _percentiles(summary.lateness_ms),
            },
            "breaker": await self._breaker(business, view, now),
            "actor": {
                "running": view is not None,
                "waiting": 0 if view is None else view.ready + view.mailbox_depth,
                "restarts": 0 if view is None else view.restarts,
                "degraded": view is not None and view.degraded,
            },
            "rate_limit": {"limit": business.rate_limit, "used_last_minute": min(used, business.rate_limit)},
            "hours": _hours(summary, since),
        }

    async def _breaker(self, business: Business, view: BusinessView | None, now: int) -> dict[str, Any]:
        if view is not None:
            return breaker_fields(view.unwell, view.closed_since, "owner")
        sends = await self._t.history.recent_sends(business.id, now - BREAKER_LOOK_BACK_MS, BREAKER_SENDS)
        breakers = infer_breakers(BreakerSettings.of(business.breaker), sends)
        return breaker_fields([host_breaker(*one) for one in breakers.unwell], breakers.closed_since, "history")


def infer_breakers(settings: BreakerSettings, sends: list[SendPoint]) -> Breakers:
    """As they would be, had they seen this history."""
    breakers = Breakers(settings, lambda: 0.0)
    breakers.replay(sends)
    return breakers


def breaker_fields(unwell: Sequence[HostBreaker], closed_since: int | None, source: str) -> dict[str, Any]:
    """The business's own state is that of its worst host."""
    worst = unwell[0] if unwell else HostBreaker("", BreakerState.CLOSED.value, closed_since, None, None)
    return {
        **_host_fields(worst),
        "host": worst.host or None,
        "source": source,
        "hosts": [_host_fields(one) for one in unwell[:MOST_HOSTS]],
    }


def _host_fields(breaker: HostBreaker) -> dict[str, Any]:
    return {
        "host": breaker.host,
        "state": breaker.state,
        "since": None if breaker.since is None else format_time(breaker.since),
        "next_probe_at": None if breaker.next_probe_at is None else format_time(breaker.next_probe_at),
        "cause": breaker.cause,
    }


def _rate(tasks: dict[Status, int]) -> float | None:
    """Of the tasks that came to an end of their own, the share that succeeded; one that was stopped is neither."""
    decided = tasks[Status.SUCCEEDED] + tasks[Status.FAILED]
    return round(tasks[Status.SUCCEEDED] / decided, 6) if decided else None


def _percentiles(values: Percentiles) -> dict[str, float | None]:
    return {
        name: None if value is None else round(value, 3)
        for name, value in (("p50", values.p50), ("p95", values.p95), ("p99", values.p99))
    }


def _hours(summary: ExecutionSummary, since: int) -> list[dict[str, Any]]:
    """24 of them, the oldest first, the present one last."""
    counts: list[dict[str, int]] = [{} for _ in range(HOURS)]
    for hour in summary.hours:
        index = (hour.hour_at - since) // HOUR_MS
        if index < HOURS:  # sent by an instance whose clock is ahead, across the full hour
            counts[index][hour.status.value] = hour.count
    return [
        {
            "hour": format_time(since + index * HOUR_MS),
            "count": sum(by_status.values()),
            "success": by_status.get(ExecutionStatus.SUCCESS.value, 0),
            "failed": sum(by_status.get(status.value, 0) for status in FAILED),
            "by_status": by_status,
        }
        for index, by_status in enumerate(counts)
    ]
