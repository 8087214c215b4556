"""Flow limits: the window against brute force, and whole engines over a store in virtual time."""

from __future__ import annotations

import random
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.actors.test_limiter import most_in_any_window
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    SHARD,
    audit_entry,
    business,
    credential,
    new_task,
    opened_store,
    signing_secret,
)

from taskcenter.actors.egress.exchange import Answered, CallbackRequest, Exchange
from taskcenter.actors.flows import GRAINS, Flow, Flows, FlowWindow
from taskcenter.clock import Clock
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.queueing import StandingQueue
from taskcenter.runtime.engine import Engine, EngineParts
from taskcenter.store.migrate import up
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import FlowLimit, Status, TaskRef
from taskcenter.tracing import AttemptTracer

SECOND = 1000


@given(
    limit=st.integers(1, 200),
    period_ms=st.sampled_from([1000, 7000, 60_000]),
    plan=st.lists(st.tuples(st.integers(0, 700), st.integers(1, 60)), min_size=1, max_size=40),
)
def test_no_period_sees_more_than_the_rate_and_memory_is_bounded(
    limit: int, period_ms: int, plan: list[tuple[int, int]]
) -> None:
    window, now, starts = FlowWindow(limit, period_ms), 0, []
    for pause_ms, wanted in plan:
        now += pause_ms
        for _ in range(wanted):
            if window.available_at(now) == now:
                window.take(now)
                starts.append(now)
        assert len(window) <= GRAINS + 2
    assert most_in_any_window(starts, period_ms) <= limit
    at = window.available_at(now)
    assert window.available_at(at) == at, "what it names is enough"
    assert at <= now + period_ms * (1 + 1 / 20 + 2 / GRAINS) + 1, "and not much more"


def test_the_whole_rate_passes_at_once_and_a_start_that_did_not_happen_is_given_back() -> None:
    window = FlowWindow(2, 1000)
    window.take(0)
    entry = window.take(0)
    assert window.available_at(0) == 1050
    window.give_back(entry)
    assert window.available_at(0) == 0


def test_the_newest_tasks_limit_holds() -> None:
    flow = Flow(FlowLimit(1, 1000, None), "02")
    flow.start(0)
    assert flow.hold(0, 0, 50) is not None
    flow.adopt(FlowLimit(5, 1000, None), "01")
    assert flow.hold(0, 0, 50) is not None, "an older task's limit"
    flow.adopt(FlowLimit(5, 1000, None), "03")
    assert flow.hold(0, 0, 50) is None
    flow.adopt(FlowLimit(None, 60_000, 1), "04")
    hold = flow.hold(0, 0, 50)
    assert hold is not None and "of at most 1" in hold.detail


def test_flows_are_bounded_and_those_in_use_stay() -> None:
    flows = Flows(lambda key: key == "waiting", 0, most=10)
    limit = FlowLimit(1, 1000, 1)
    for key in ("waiting", "flying", *(str(number) for number in range(500))):
        flow = flows.of(TaskRef(key, 7, 3, 0, 1, flow_key=key, flow_limit=limit), 5_000)
        assert flow is not None
        if key == "flying":
            flow.start(0)
    assert len(flows) <= 10
    assert flows.get("waiting") and flows.get("flying")
    assert flows.of(TaskRef("a", 7, 3, 0, 1, flow_key="no limit"), 5_000) is None


@dataclass
class Sends:
    """A receiver that answers after a while, and what it saw."""

    takes_s: float = 0.1
    starts: dict[str, list[float]] = field(default_factory=dict)  # by path
    now: dict[str, int] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)

    async def authorize(self, request: CallbackRequest, deadline_s: float) -> CallbackRequest:
        await trio.lowlevel.checkpoint()
        return request

    def update(self, business: object) -> None:
        """Its limits are the actor's concern."""

    async def exchange(self, request: CallbackRequest, deadline_s: float) -> Exchange:
        path = request.target.request_target
        self.starts.setdefault(path, []).append(trio.current_time())
        self.now[path] = self.now.get(path, 0) + 1
        self.most[path] = max(self.most.get(path, 0), self.now[path])
        await trio.sleep(self.takes_s)
        self.now[path] -= 1
        return Answered(200, (), b"", 0, reused=False)

    def close_idle(self) -> int:
        return 0

    async def aclose(self) -> None:
        return


@dataclass
class World:
    engine: Engine
    store: SqlStore
    sends: Sends
    serial: Any = field(default_factory=lambda: count(1))

    async def add(self, number: int, path: str, **fields: Any) -> list[str]:
        """So many tasks due now, each to a path of the same host unless told otherwise."""
        at = {"callback_url": f"http://r.example{path}", "callback_host": "r.example"} | fields
        tasks = [new_task(at=NOW + next(self.serial), **at) for _ in range(number)]
        await self.store.tasks.create(tasks, {BUSINESS: 100_000}, [None] * number, NOW)
        for task in tasks:
            made = await self.store.tasks.get(BUSINESS, task.id)
            assert made is not None and made.ref is not None
            self.engine.offer(made.ref)
        return [task.id for task in tasks]


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    url = f"sqlite:///{tmp_path / 'flows.db'}"
    up(url)
    rng, sends, clock = random.Random(3), Sends(), Clock(NOW)
    async with opened_store(url, in_loop=True, durable=False) as store:
        secret = "whsec_" + b64encode(secrets.token_bytes(32)).decode()
        await store.businesses.create(
            business(rate_limit=100_000, max_concurrent_tasks=1000),
            credential(), signing_secret(secret=secret), audit_entry("business.create"),
        )  # fmt: skip
        engine = Engine(
            EngineParts(
                store=store, clock=clock, rng=rng, ids=IdSource(rng), metrics=Metrics(), tracer=AttemptTracer(rng),
                load_business=store.businesses.get_by_id, new_client=lambda _: sends, alert=lambda rule, text: None,
                identity="", link=None, lease_ttl_s=10, max_in_flight=1000, store_waits=StandingQueue(100),
                backlog_pace=1.0, business_memory=64 << 20,
            )
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield World(engine, store, sends)
            nursery.cancel_scope.cancel()


async def test_a_flow_keeps_its_rate_and_holds_up_nobody_else(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as w:
        limit = {"rate": 5, "period": 10}
        ids = await w.add(20, "/slow", flow_key="k", flow_limit=limit)
        await w.add(20, "/other", flow_key="other", flow_limit={"rate": 100, "period": 1})
        await w.add(20, "/free")
        await trio.sleep(1)
        assert {path: len(starts) for path, starts in w.sends.starts.items()} == {"/slow": 5, "/other": 20, "/free": 20}
        view = await w.engine.wait_view(SHARD, BUSINESS, ids[-1])
        assert view is not None
        assert (view.reason, view.expected_start_at is not None) == ("flow", True)
        assert "5 of 5" in view.detail and "10 s" in view.detail
        await trio.sleep(40)
        starts = w.sends.starts["/slow"]
        assert len(starts) == 20
        assert most_in_any_window([int(at * SECOND) for at in starts], 10 * SECOND) == 5
        assert starts[-1] - starts[0] < 32, "and it uses its rate"
        last = await w.store.tasks.get(BUSINESS, ids[-1])
        assert last is not None and last.status is Status.SUCCEEDED
        assert (last.current_retry, last.sends) == (0, 1), "waiting used no attempt"
        [execution] = await w.store.tasks.executions(BUSINESS, ids[-1], None, 5)
        assert execution.wait_reason == "flow"


async def test_a_flow_keeps_its_parallelism_over_all_hosts_and_loses_nobody(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as w:
        limit = {"parallelism": 2}
        for host in "abc":
            await w.add(10, "/k", flow_key="k", flow_limit=limit, callback_host=host)
        await trio.sleep(0.05)
        assert w.sends.most["/k"] == 2
        await trio.sleep(5)
        assert (len(w.sends.starts["/k"]), w.sends.most["/k"]) == (30, 2)


async def test_those_behind_a_task_that_was_cancelled_or_expired_while_it_waited_are_not_stuck(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(tmp_path) as w:
        limit = {"rate": 1, "period": 5}
        first, second, third = await w.add(3, "/k", flow_key="k", flow_limit=limit)
        [expiring] = await w.add(1, "/k", flow_key="k", flow_limit=limit, deadline_at=NOW + 2000)
        [last] = await w.add(1, "/k", flow_key="k", flow_limit=limit)
        await trio.sleep(1)
        await w.store.tasks.cancel(BUSINESS, second, NOW + 1000, audit_entry("task.cancel"))
        w.engine.withdraw(second, BUSINESS)
        await trio.sleep(18)
        ends = [await w.store.tasks.get(BUSINESS, name) for name in (first, third, last, expiring)]
        assert [task.status.value for task in ends if task] == ["succeeded"] * 3 + ["failed"]
        assert len(w.sends.starts["/k"]) == 3


async def test_a_newer_tasks_wider_limit_lets_all_go(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with world(tmp_path) as w:
        await w.add(10, "/k", flow_key="k", flow_limit={"rate": 1, "period": 86_400})
        await trio.sleep(1)
        assert len(w.sends.starts["/k"]) == 1
        await w.add(1, "/k", flow_key="k", flow_limit={"rate": 100, "period": 86_400})
        await trio.sleep(1)
        assert len(w.sends.starts["/k"]) == 11
