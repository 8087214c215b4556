"""What a business's statistics are answered as."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field

from taskcenter.store.records import BusinessStatus
from taskcenter.task import Status

_AT: Final = "2027-01-31T09:30:00.000Z"
_LATENCY: Final = {"p50": 41.7, "p95": 180.2, "p99": 420.0}


class CallbacksView(BaseModel):
    """The callbacks of the 24 hours below."""

    count: int = Field(description="Attempts sent.", examples=[4711])
    measured: int = Field(description="How many, the newest, the percentiles are of.", examples=[4711])
    duration_ms: dict[str, float | None] = Field(
        description="p50, p95, p99 of the time to the end of the answer.", examples=[_LATENCY]
    )
    lateness_ms: dict[str, float | None] = Field(
        description="p50, p95, p99 of start minus due.", examples=[{"p50": 3.2, "p95": 9.8, "p99": 21.0}]
    )


class HostBreakerView(BaseModel):
    """The breaker of one destination host."""

    host: str = Field(description="Where the callbacks go.", examples=["api.example.com"])
    state: str = Field(description="open or half_open.", examples=["open"])
    since: str | None = Field(description="When it came into this state.", examples=[_AT])
    next_probe_at: str | None = Field(description="When a callback is tried again.", examples=[_AT])
    cause: str | None = Field(description="Why.", examples=["5 failures in a row, last: timeout"])


class BreakerStateView(BaseModel):
    """The business's own state: that of its worst host."""

    host: str | None = Field(description="Whose state this is; null while all are closed.", examples=[None])
    state: str = Field(description="closed, open or half_open.", examples=["closed"])
    since: str | None = Field(description="When it came into this state.", examples=[_AT])
    next_probe_at: str | None = Field(description="When a callback is tried again.", examples=[_AT])
    cause: str | None = Field(description="Why.", examples=["5 failures in a row, last: timeout"])
    source: str = Field(description="owner: its own word; history: inferred by another instance.", examples=["owner"])
    hosts: list[HostBreakerView] = Field(
        description="Every host whose breaker is not closed, the worst first; at most 100.", examples=[[]]
    )


class BusinessActorView(BaseModel):
    """What runs the business's callbacks, on the instance that answered."""

    running: bool = Field(
        description="Whether it runs here; false: nothing is due, or it is another's.", examples=[True]
    )
    waiting: int = Field(description="Due tasks it holds back.", examples=[0])
    restarts: int = Field(description="How often it was restarted after a fault of ours.", examples=[0])
    degraded: bool = Field(description="It failed too often and is tried again once a minute.", examples=[False])


class RateView(BaseModel):
    """The use of the rate limit."""

    limit: int = Field(description="Callbacks that may start in any 60 seconds.", examples=[1000])
    used_last_minute: int = Field(description="Callbacks that did.", examples=[12])


class HourView(BaseModel):
    """One hour."""

    hour: str = Field(description="Its begin.", examples=["2027-01-31T09:00:00.000Z"])
    count: int = Field(description="Attempts sent in it.", examples=[120])
    success: int = Field(description="Those that succeeded.", examples=[118])
    failed: int = Field(description="Those that failed.", examples=[2])
    by_status: dict[str, int] = Field(
        description="By how they ended, as in an execution's `status`.", examples=[{"success": 118, "timeout": 2}]
    )


class BusinessStatsView(BaseModel):
    """How a business is doing."""

    business_code: str = Field(description="The business.", examples=["orders"])
    status: BusinessStatus = Field(description="active, paused or disabled.", examples=["active"])
    at: str = Field(description="When these figures were read.", examples=[_AT])
    tasks: dict[Status, int] = Field(
        description="By status; the ended ones since the business was registered.", examples=[{"succeeded": 4711}]
    )
    success_rate: float | None = Field(
        description="succeeded / (succeeded + failed); null while there is neither.", examples=[0.9987]
    )
    active: int = Field(description="Tasks that have not ended.", examples=[130])
    pending: int = Field(description="Those of them that wait for their time or the next attempt.", examples=[120])
    in_flight: int = Field(description="Callbacks on their way.", examples=[10])
    callbacks: CallbacksView = Field(description="Of the hours below.", examples=[])
    breaker: BreakerStateView = Field(description="Whether callbacks pause.", examples=[])
    actor: BusinessActorView = Field(description="How it is run.", examples=[])
    rate_limit: RateView = Field(description="How much of it is used.", examples=[])
    hours: list[HourView] = Field(description="The last 24, oldest first; the present one is the last.", examples=[[]])
