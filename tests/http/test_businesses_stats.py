"""What a business's statistics say, from the store and from the engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from tests.http.business_kit import START_MS, Instance, instance
from tests.store.store_kit import claim, create, execution, move, new_task, outcome
from trio.testing import MockClock

from taskcenter.actors.breaker import BreakerSettings, BreakerState
from taskcenter.service.engine_port import BusinessView, HostBreaker
from taskcenter.service.stats import infer_breakers
from taskcenter.store.engine_records import SendPoint
from taskcenter.store.records import ExecutionStatus
from taskcenter.task import FinishReason, Status, shard_of

VIEW = BusinessView(
    in_flight=3, ready=5, mailbox_depth=1, restarts=2, degraded=True, closed_since=None, rate_limit_used=12,
    unwell=(
        HostBreaker("a.test", "open", START_MS, START_MS + 30_000, "5 failures in a row, last: timeout"),
        HostBreaker("b.test", "half_open", START_MS, None, "probing"),
    ),
)  # fmt: skip
ENDS = {
    ExecutionStatus.SUCCESS: (Status.SUCCEEDED, None),
    ExecutionStatus.TIMEOUT: (Status.FAILED, FinishReason.RETRIES_EXHAUSTED),
    ExecutionStatus.STOP: (Status.STOPPED, FinishReason.RECEIVER_STOPPED),
}


async def attempt(here: Instance, status: ExecutionStatus, ms_ago: int = 1000, duration_ms: float = 10.0) -> None:
    """A task of `orders` whose one attempt ended so."""
    business = await here.services.access.cache.by_code("orders")
    assert business is not None
    now = here.clock.now_ms()
    born = new_task(at=now, business_id=business.id, business_code="orders", shard=shard_of("orders"))
    (task,) = await create(here.store, born)
    await own_the_shard(here)
    claimed = await claim(here.store, task, now=now)
    done = execution(claimed, status, started_at=now - ms_ago, duration_ms=duration_ms, response_status=None)
    to, reason = ENDS[status]
    await here.store.engine.record(
        [replace(outcome(claimed, move(claimed, to, finish_reason=reason)), execution=done)], now
    )


async def own_the_shard(here: Instance) -> None:
    await here.store.leases.register("one", address=None, host_identity="one", ttl_ms=60_000)
    await here.store.leases.acquire("one", [shard_of("orders")])


async def stats(here: Instance) -> Any:
    await trio.sleep(40)  # past any reuse of the last answer
    return (await here.call("GET", "/businesses/orders/stats")).json


async def test_tasks_callbacks_and_hours_are_counted(autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        for number in range(9):
            await attempt(here, ExecutionStatus.SUCCESS, ms_ago=1000, duration_ms=10.0 * (number + 1))
        await attempt(here, ExecutionStatus.TIMEOUT, ms_ago=3_600_001, duration_ms=500.0)
        await attempt(here, ExecutionStatus.STOP, ms_ago=25 * 3_600_000)
        seen = await stats(here)
        assert seen["tasks"] == {"pending": 0, "running": 0, "retrying": 0, "succeeded": 9, "failed": 1, "stopped": 1,
                                 "cancelled": 0}  # fmt: skip
        assert seen["success_rate"] == 0.9
        assert seen["callbacks"]["count"] == seen["callbacks"]["measured"] == 10
        assert seen["callbacks"]["duration_ms"] == {"p50": 50.0, "p95": 500.0, "p99": 500.0}
        assert seen["callbacks"]["lateness_ms"] == {"p50": 3.25, "p95": 3.25, "p99": 3.25}
        assert len(seen["hours"]) == 24 and seen["hours"][-1]["hour"] == "2027-01-15T08:00:00.000Z"
        assert sum(hour["count"] for hour in seen["hours"]) == 10
        assert sum(hour["failed"] for hour in seen["hours"]) == 1
        assert [hour["by_status"] for hour in seen["hours"][-3:]] == [{"timeout": 1}, {"success": 9}, {}]
        assert [hour["success"] for hour in seen["hours"][-3:]] == [0, 9, 0]


async def test_active_and_pending_tasks_are_counted(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        for number in range(3):
            task = {"business_id": f"a{number}", "callback_url": "https://example.com/", "delay": 3600}
            assert (await here.call("POST", "/tasks", key, task)).status == 201
        seen = await stats(here)
        assert (seen["active"], seen["pending"], seen["in_flight"], seen["success_rate"]) == (3, 3, 0, None)


async def test_the_owner_says_what_its_engine_sees(autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        business = await here.services.access.cache.by_code("orders")
        assert business is not None
        here.engine.views[business.id] = VIEW
        seen = await stats(here)
        assert seen["in_flight"] == 3 and seen["rate_limit"] == {"limit": 1000, "used_last_minute": 12}
        worst = {
            "host": "a.test", "state": "open", "since": "2027-01-15T08:00:00.000Z",
            "next_probe_at": "2027-01-15T08:00:30.000Z", "cause": "5 failures in a row, last: timeout",
        }  # fmt: skip
        other = {"host": "b.test", "state": "half_open", "since": "2027-01-15T08:00:00.000Z", "next_probe_at": None,
                 "cause": "probing"}  # fmt: skip
        assert seen["breaker"] == {**worst, "source": "owner", "hosts": [worst, other]}
        assert seen["actor"] == {"running": True, "waiting": 6, "restarts": 2, "degraded": True}


async def test_another_instance_infers_it_from_the_history(autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        for number in range(5):
            await attempt(here, ExecutionStatus.TIMEOUT, ms_ago=10_000 - number * 1000)
        seen = await stats(here)
        assert seen["breaker"]["state"] == "open" and seen["breaker"]["source"] == "history"
        assert seen["breaker"]["since"] == "2027-01-15T07:59:54.000Z"
        assert seen["rate_limit"]["used_last_minute"] == 5


async def test_asking_often_asks_the_store_once(autojump_clock: MockClock) -> None:
    async with instance() as here:
        await here.register()
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append((await here.call("GET", "/businesses/orders/stats")).content)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
        assert len(set(answers)) == 1 and len(answers) == 20


def sends(*statuses: ExecutionStatus, host: str = "a", step_ms: int = 1000) -> list[SendPoint]:
    return [
        SendPoint(START_MS + number * step_ms, status, host, 200 if status is ExecutionStatus.SUCCESS else None)
        for number, status in enumerate(statuses)
    ]


BAD, GOOD = ExecutionStatus.CONNECTION_ERROR, ExecutionStatus.SUCCESS


@pytest.mark.parametrize(
    ("history", "state"),
    [
        ([], None),
        (sends(GOOD, GOOD), BreakerState.CLOSED),
        (sends(BAD, BAD, BAD, BAD), BreakerState.CLOSED),
        (sends(*[BAD] * 5), BreakerState.OPEN),
        (sends(*[BAD] * 4, GOOD, BAD), BreakerState.CLOSED),
        ([*sends(*([BAD] * 5)), SendPoint(START_MS + 60000, GOOD, "a", 200)], BreakerState.CLOSED),
        ([*sends(*([BAD] * 5)), SendPoint(START_MS + 60000, BAD, "a", None)], BreakerState.OPEN),
        (sends(*[BAD] * 5, host="a") + sends(*[GOOD] * 9, host="b"), BreakerState.OPEN),
        (sends(*[ExecutionStatus.HTTP_ERROR] * 5), BreakerState.CLOSED),  # 4xx: the receiver is well
    ],
    ids=range(9),
)
def test_the_breaker_is_inferred(history: list[SendPoint], state: BreakerState | None) -> None:
    breaker = infer_breakers(BreakerSettings(), history).worst
    assert (None if breaker is None else breaker.state) == state


def test_a_breaker_that_is_off_never_opens() -> None:
    breaker = infer_breakers(BreakerSettings(enabled=False), sends(*[BAD] * 50)).worst
    assert breaker is not None and breaker.state is BreakerState.CLOSED
