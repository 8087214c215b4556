"""Row 17: ten businesses with thousands due in one second, an owner killed amid it: no sliding minute over the limit.

The limit is 1,000 a minute, so 2,000 of each take over a minute, and the minute's turn is passed once.
`TASKCENTER_ROW_17_EACH=10000` is the full size, and takes some ten minutes.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from bench.kit import Nginx, nginx
from tests.flow.kit import ADMIN_TOKEN, Api, Service, metric
from tests.reliability.conftest import Figure
from tests.reliability.creating import create_all
from tests.reliability.recorder import now_ms
from tests.servers import PrivateServer

from taskcenter.store.revision import connect_server
from taskcenter.store.url import MysqlUrl, parse_database_url

pytestmark = pytest.mark.real_time
BUSINESSES = 10
EACH = int(os.environ.get("TASKCENTER_ROW_17_EACH", "2000"))
LIMIT = 1000
MINUTE_MS = 60_000
AHEAD_S = 25 + EACH * BUSINESSES / 600  # time to create them in


def most_in_a_minute(at: list[float]) -> int:
    """The most of them in any sliding minute."""
    at, first, most = sorted(at), 0, 0
    for last, moment in enumerate(at):
        while moment - at[first] >= MINUTE_MS:
            first += 1
        most = max(most, last - first + 1)
    return most


def starts(url: str) -> dict[int, list[float]]:
    """By business, when each attempt started, by the history; those whose owner died before its answer included."""
    parsed = parse_database_url(url)
    assert isinstance(parsed, MysqlUrl)
    found: dict[int, list[float]] = defaultdict(list)
    with closing(connect_server(parsed)) as server, server.cursor() as cursor:
        cursor.execute("SELECT business_id, execution_time FROM task_executions")
        for business, at in cursor.fetchall():
            found[business].append(float(at))
    return found


async def stampede(service: Service, receiver: Nginx) -> None:
    """`EACH` tasks of each business, all due within one second from now."""
    admin, apis = Api(service, ADMIN_TOKEN), []
    for number in range(BUSINESSES):
        body = {
            "business_code": f"b{number}",
            "business_name": "b",
            "rate_limit": LIMIT,
            "max_active_tasks": EACH + 1,
            "max_concurrent_tasks": 100,
        }
        apis.append(Api(service, (await admin.ok("POST", "/businesses", body))["api_key"]))
    due = now_ms() / 1000 + AHEAD_S
    for number, api in enumerate(apis):
        items = [
            {
                "business_id": f"t{n}",
                "callback_url": f"{receiver.url}b{number}",
                "execute_at": datetime.fromtimestamp(due + n / EACH, UTC).isoformat(timespec="milliseconds"),
            }
            for n in range(EACH)
        ]
        await create_all(api, items)
        await api.aclose()
    await admin.aclose()
    assert now_ms() / 1000 < due - 1, "the creates took too long"
    await trio.sleep(due - now_ms() / 1000)


async def arrived(receiver: Nginx, count: int, within_s: float) -> Counter[str]:
    """How often each task was called, once so many were."""
    with trio.fail_after(within_s):
        while len(calls := Counter(call.task_id for call in receiver.calls())) < count:
            await trio.sleep(0.25)
    return calls


async def test_no_sliding_minute_is_over_the_limit(
    database_server: PrivateServer, tmp_path: Path, figure: Figure
) -> None:
    url = database_server.create_database()
    services = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        services.append(Service(url, tmp_path / name))
    try:
        async with nginx() as receiver:
            for service in services:
                await service.start()
            await stampede(services[0], receiver)
            await arrived(receiver, BUSINESSES * LIMIT // 3, 60)
            assert await metric(services[1], "shards_owned") > 0
            services[1].kill()
            killed_at = now_ms()
            calls = await arrived(receiver, EACH * BUSINESSES, 120 + 75 * EACH / LIMIT)
            took_s = (now_ms() - killed_at) / 1000
            by_path = defaultdict(list)
            for call in receiver.calls():
                by_path[call.path].append(call.arrived_at)
                assert call.arrived_at >= call.due_at
            assert await services[0].terminate() == 0, services[0].tail()
    finally:
        for service in services:
            if service.running:
                service.kill()
    at_receiver = max(most_in_a_minute(at) for at in by_path.values())
    started = starts(url)
    by_history = max(most_in_a_minute(at) for at in started.values())
    figure("tasks, repeated after the kill", f"{len(calls):,}, {sum(count > 1 for count in calls.values())}")
    figure("most starts in a sliding minute, by the history", by_history)
    figure("most arrivals in a sliding minute, at the receiver", at_receiver)
    figure("from the kill to the last call", took_s, "s")
    assert len(started) == BUSINESSES
    assert by_history <= LIMIT
    assert at_receiver <= LIMIT
