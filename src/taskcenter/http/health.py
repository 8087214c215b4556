"""For probes, monitoring and the operator: `/health…`, `/metrics`, `/stats`. At the root and below the API's prefix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, Field
from quart import Blueprint, Response, request

from taskcenter.http.openapi import Reply, describe
from taskcenter.http.requests import json_response, principal
from taskcenter.service.health import Health, HealthService
from taskcenter.service.system_stats import SystemStats

TAG: Final = "Health"


class HealthView(BaseModel):
    """Whether the service is well."""

    status: str = Field(description="ok, degraded or unavailable: the worst of the checks.", examples=["ok"])
    checks: dict[str, str] = Field(
        description="Each `ok`, `degraded: why` or `unavailable: why`.", examples=[{"store": "ok", "engine": "ok"}]
    )


class InstanceView(BaseModel):
    """A process of the service."""

    id: str = Field(description="Its id.", examples=["01JA8Z3N4V7Q2M6K9T5R1X8C0B"])
    started_at: str = Field(description="When it started.", examples=["2027-01-31T09:30:00.000Z"])
    alive: bool = Field(description="Whether its lease runs.", examples=[True])
    shards: int = Field(description="How many of the 256 shards it runs.", examples=[128])


class SystemStatsView(BaseModel):
    """The system's totals."""

    tasks: dict[str, int] = Field(description="Tasks by status.", examples=[{"pending": 120, "succeeded": 4711}])
    instances: list[InstanceView] = Field(description="The processes known.", examples=[[]])
    unowned_shards: int = Field(description="Shards that nobody runs at the moment.", examples=[0])
    answered_by: str = Field(description="The instance that answered.", examples=["01JA8Z3N4V7Q2M6K9T5R1X8C0B"])
    engine: dict[str, Any] = Field(
        description="That instance's engine: wheel, actors, committers, transport.", examples=[{"wheel_timers": 120}]
    )


_HEALTH: Final = Reply("Well enough to serve.", HealthView)
_UNWELL: Final = Reply("Not able to serve; the checks say why.", HealthView)


Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]  # by `Accept`: the metrics, and their content type


def own_exposition(registry: CollectorRegistry) -> Exposition:
    """Of this process alone."""

    async def expose(accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    return expose


def health_blueprint(health: HealthService, exposition: Exposition, *, metrics_for_all: bool) -> Blueprint:
    """Mounted twice: at the root and below the API's prefix."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/health")
    @describe("Is the service well?", tag=TAG, public=True, replies={200: _HEALTH, 503: _UNWELL})
    async def overall() -> Response:
        return _answer(await health.check())

    @blueprint.get("/health/live")
    @describe("Is the process alive?", tag=TAG, public=True, replies={200: _HEALTH})
    async def live() -> Response:
        return _answer(Health("ok", {}))

    @blueprint.get("/health/ready")
    @describe(
        "May traffic be sent here?",
        tag=TAG,
        description="503 while loading, while draining, or without the store. Of several processes the one that "
        "answers speaks for itself: `degraded` while another is being restarted.",
        public=True,
        replies={200: _HEALTH, 503: _UNWELL},
    )
    async def ready() -> Response:
        return _answer(await health.check())

    @blueprint.get("/metrics")
    @describe(
        "Metrics",
        tag=TAG,
        description="Prometheus text, or OpenMetrics if `Accept` asks for it. Of all processes of `serve "
        "--processes N`, whichever answers; 503 if it did not hear of the others in time.",
        public=metrics_for_all,
        admin=not metrics_for_all,
        replies={
            200: Reply(
                "All metrics of this service on this machine.",
                media_type="text/plain",
                other_media_type="application/openmetrics-text",
            )
        },
    )
    async def metrics() -> Response:
        if not metrics_for_all:
            principal().require_admin()
        text, content_type = await exposition(request.headers.get("Accept", ""))
        return Response(text, content_type=content_type)

    return blueprint


def stats_blueprint(stats: SystemStats) -> Blueprint:
    """The operator's view, below the API's prefix."""
    blueprint = Blueprint("stats", __name__)

    @blueprint.get("/stats")
    @describe(
        "The system's totals",
        tag=TAG,
        description="Tasks by status, instances, shards, and the answering instance's engine.",
        admin=True,
        replies={200: Reply("The totals.", SystemStatsView)},
    )
    async def system() -> Response:
        return json_response(await stats.read(principal()))

    return blueprint


def _answer(health: Health) -> Response:
    status = 503 if health.status == "unavailable" else 200
    return json_response({"status": health.status, "checks": health.checks}, status)
