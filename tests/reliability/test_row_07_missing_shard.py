"""Row 7: a shard whose row is gone on a real server: nothing is sent for it, somebody is told, the others go on."""

from __future__ import annotations

import zlib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from tests.flow.kit import Service, business, metric, several
from tests.reliability.conftest import Figure
from tests.servers import PrivateServer

pytestmark = pytest.mark.real_time
CODE = "lost"
SHARD = zlib.crc32(CODE.encode()) % 256
QUIET_S = 12.0


async def alerted(services: list[Service]) -> int:
    """How many of the instances have raised the alert."""
    return sum([await metric(each, "alerts_total", rule="missing_shard_row") > 0 for each in services])


@pytest.mark.parametrize("kind", ["mariadb", "mysql"])
async def test_nothing_is_sent_for_a_shard_without_a_row(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path, figure: Figure
) -> None:
    server: PrivateServer = request.getfixturevalue(f"{kind}_server")
    url = server.create_database()
    shards = f"{urlsplit(url).path.removeprefix('/')}.shards"
    async with several(url, tmp_path, 2) as (services, receiver):
        async with business(services[0], CODE) as lost, business(services[0], "found") as found:
            body = {"callback_url": receiver.url, "delay": 1}
            waiting = await lost.ok("POST", "/tasks", {"business_id": "before", **body})
            server.execute(f"DELETE FROM {shards} WHERE shard = %s", (SHARD,))
            began = trio.current_time()
            with trio.fail_after(10):
                while await alerted(services) < len(services):
                    await trio.sleep(0.1)
            figure("alert of both instances", trio.current_time() - began, "s after")
            after = await lost.ok("POST", "/tasks", {"business_id": "after", **body})
            other = await found.ok("POST", "/tasks", {"business_id": "other", **body})
            await found.until_status(other["id"], "succeeded")
            await trio.sleep(QUIET_S)
            sent = [call for call in receiver.calls if call.headers["x-taskcenter-task-id"] != other["id"]]
            figure("callbacks of the shard", len(sent))
            assert sent == []
            assert [call.headers["x-taskcenter-task-id"] for call in receiver.calls] == [other["id"]]
            # mended by hand, at a term that nobody has had
            server.execute(f"INSERT INTO {shards} (shard, term) VALUES (%s, 1000)", (SHARD,))
            for task in (waiting, after):
                assert (await lost.until_status(task["id"], "succeeded", timeout_s=70))["status"] == "succeeded"
