"""Probes, metrics, and the operator's totals."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from tests.http.api_kit import Api, serve
from trio.testing import MockClock

from taskcenter.task import Status

BOTH = pytest.mark.parametrize("prefix", ["", "/"], ids=["api", "root"])


@BOTH
async def test_well(api: Api, prefix: str) -> None:
    expected = {"status": "ok", "checks": {"store": "ok", "engine": "ok"}}
    for path in ("/health", "/health/ready"):
        answer = await api.call("GET", prefix + path, by=None)
        assert (answer.status, answer.json) == (200, expected)
    assert (await api.call("GET", f"{prefix}/health/live", by=None)).json == {"status": "ok", "checks": {}}


@BOTH
@pytest.mark.parametrize(
    ("engine", "status", "code"),
    [
        ({"engine": "ok", "wheel": "degraded: late"}, "degraded", 200),
        ({"engine": "unavailable: loading", "wheel": "degraded: late"}, "unavailable", 503),
        ({"engine": "who knows"}, "degraded", 200),
    ],
)
async def test_unwell(api: Api, prefix: str, engine: dict[str, str], status: str, code: int) -> None:
    api.engine.checks = engine
    for path in ("/health", "/health/ready"):
        answer = await api.call("GET", prefix + path, by=None)
        assert (answer.status, answer.json["status"]) == (code, status)
        assert answer.json["checks"] == {"store": "ok", **engine}
    assert (await api.call("GET", f"{prefix}/health/live", by=None)).status == 200


async def test_draining(api: Api) -> None:
    api.services.health.drain()
    answer = await api.call("GET", "/health/ready", by=None)
    assert (answer.status, answer.json["checks"]["serving"]) == (503, "unavailable: draining")
    assert (await api.call("GET", "/health/live", by=None)).status == 200


async def test_without_the_store(api: Api) -> None:
    await api.store.aclose()
    answer = await api.call("GET", "/health/ready", by=None)
    assert (answer.status, answer.json["status"]) == (503, "unavailable")
    assert answer.json["checks"]["store"] == "unavailable: not reached"


async def test_a_store_that_hangs_is_asked_once_a_second(
    api: Api, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    asked = 0

    async def hang() -> None:
        nonlocal asked
        asked += 1
        await trio.sleep_forever()

    monkeypatch.setattr(api.store.maintenance, "ping", hang)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(api.call, "GET", "/health/ready")
    assert asked == 1
    assert trio.current_time() - began == pytest.approx(1, abs=0.1)
    answer = await api.call("GET", "/health/ready")
    assert answer.json["checks"]["store"] == "unavailable: no answer in time"


@BOTH
async def test_metrics(api: Api, prefix: str) -> None:
    await api.create()
    answer = await api.call("GET", f"{prefix}/metrics", by=None)
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert 'taskcenter_tasks_created_total{business="orders"} 1.0' in answer.content.decode()
    openmetrics = await api.call(
        "GET", f"{prefix}/metrics", by=None, headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.content.endswith(b"# EOF\n")


async def test_metrics_for_the_admin_only(tmp_path: Path) -> None:
    async with serve(f"sqlite:///{tmp_path / 'tasks.db'}", in_loop=True, metrics_require_admin=True) as api:
        assert (await api.call("GET", "//metrics", by=None)).status == 401
        assert (await api.call("GET", "//metrics", by="orders")).status == 403
        assert (await api.call("GET", "//metrics", by="admin")).status == 200


async def test_stats(stored_api: Api) -> None:
    task = await stored_api.create()
    await stored_api.attempt(task["id"], status=Status.SUCCEEDED)
    await stored_api.create("b", delay=60)
    stats = (await stored_api.call("GET", "/stats", by="admin")).json
    assert {status: count for status, count in stats["tasks"].items() if count} == {"pending": 1, "succeeded": 1}
    (instance,) = stats["instances"]
    assert (instance["id"], instance["alive"], instance["shards"]) == ("owner", True, 256)
    assert (stats["unowned_shards"], stats["answered_by"]) == (0, "engine-of-the-test")
    assert stats["engine"] == {"wheel_timers": 0}
    assert (await stored_api.call("GET", "/stats")).code == "forbidden"


async def test_a_service_that_sheds_creates_says_so_and_answers_reads(api: Api, autojump_clock: MockClock) -> None:
    task = await api.create()
    api.engine.overload = "the event loop is 400 ms late"
    refused = await api.call("POST", "/tasks", {"business_id": "b", "callback_url": "https://example.com/"})
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (503, "overloaded", "1")
    assert (
        await api.call(
            "POST", "/tasks/batch", {"tasks": [{"business_id": "b", "callback_url": "https://example.com/"}]}
        )
    ).status == 503
    assert (await api.call("GET", f"/tasks/{task['id']}")).status == 200
    health = await api.call("GET", "/health", by=None)
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert health.json["checks"]["load"] == "degraded: creates are shed: the event loop is 400 ms late"
    api.engine.overload = None
    assert (await api.call("GET", "/health", by=None)).json["status"] == "ok"
